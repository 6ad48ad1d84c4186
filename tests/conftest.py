"""Small videos that the tests make themselves."""

import os
import pickle
import tempfile
from fractions import Fraction
from pathlib import Path

from paddlevid import runtime

runtime.configure()
_cache = tempfile.TemporaryDirectory(prefix="paddlevid_cache_")  # until the tests end
os.environ["XDG_CACHE_HOME"] = _cache.name

import av  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import yaml  # noqa: E402


def frames_of(num_frames: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Frames whose grey level tells their number, with a coloured square: (T, H, W, 3) RGB."""
    rng = np.random.default_rng(seed)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    frames[:] = (20 + np.arange(num_frames) * (180 / max(num_frames - 1, 1)))[:, None, None, None]
    frames[:, 8:24, 8:32] = rng.integers(0, 256, 3)
    return frames


def write_video(path: Path, frames: np.ndarray, codec: str = "MJPG", fps: float = 25) -> Path:
    """Write RGB frames (T, H, W, 3) as a video with OpenCV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (frames.shape[2], frames.shape[1])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """An .avi of 20 frames of 64x48."""
    return write_video(tmp_path / "clip.avi", frames_of(20))


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of 8, 4 and 4 embedded clips of the classes dark and light, and classes.txt."""
    folder = tmp_path_factory.mktemp("data")
    splits = {"train": 4, "val": 2, "test": 2}
    number = 0
    for split, clips in splits.items():
        lines = []
        for label, level in enumerate((40, 200)):
            for _ in range(clips):
                number += 1
                frames = np.full((6, 32, 40, 3), level + number, np.uint8)
                encoded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
                path = folder / f"clip {number}.pkl"
                path.write_bytes(pickle.dumps((path.stem, label, encoded)))
                lines.append(f"{path.name}\n")
        (folder / f"{split}.list").write_text("".join(lines))
    (folder / "classes.txt").write_text("dark\nlight\n")
    return folder


@pytest.fixture
def small_config(small_data: Path, tmp_path: Path) -> Path:
    """A config that trains a tiny TSN on `small_data` in a second or two."""
    reader = {"batch_size": 4, "short_size": 32, "target_size": 32}
    config = {
        "MODEL": {
            "name": "tsn_r18",
            "num_classes": 2,
            "seg_num": 2,
            "arguments": {"width": 8, "dropout": 0.1},
        },
        "TRAIN": {**reader, "filelist": str(small_data / "train.list"), "epoch": 2},
        "VALID": {**reader, "filelist": str(small_data / "val.list")},
        "TEST": {**reader, "filelist": str(small_data / "test.list")},
        "INFER": {**reader, "filelist": str(small_data / "test.list")},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def write_sounding_video(
    path: Path,
    codecs: tuple[str, str] = ("libx264", "aac"),
    num_frames: int = 25,
    size: tuple[int, int] = (48, 64),
    times: list[int] | None = None,
    b_frames: int = 2,
    **options: str,
) -> Path:
    """Write a video of 25 frames a second, or shown at these milliseconds, with a tone of 440 Hz.

    An empty name in place of the second codec: without sound. A red square runs to the right. The
    options are FFmpeg's, of the container.
    """
    rate = 44100
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codecs[0], rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.max_b_frames = b_frames
        if times:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream(codecs[1], rate=rate, layout="mono") if codecs[1] else None
        for i in range(num_frames):
            image = np.full((*size, 3), 60, np.uint8)
            image[8:24, 8 + i % 32 : 24 + i % 32] = (220, 30, 30)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            seconds = np.arange(num_frames * rate // 25) / rate
            wave = (np.sin(2 * np.pi * 440 * seconds) * 8000).astype(np.int16)
            for start in range(0, len(wave), 1024):
                part = wave[None, start : start + 1024]
                frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path

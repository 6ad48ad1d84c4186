"""Small videos that the tests make themselves."""

from pathlib import Path

from paddlevid import runtime

runtime.configure()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402


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

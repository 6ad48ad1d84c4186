"""What reading clips costs: video files beside other readers, .pkl files, and a loader's waits."""

import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from paddlevid.data.dataset import HMDB51Dataset, Item, Sample, VideoDataset
from paddlevid.data.decode import Frames, Indices, limit_threads
from paddlevid.data.loader import Loader
from paddlevid.data.sample import SegmentSampler
from paddlevid.data.transform import CenterCrop, Compose, Normalize, ResizeShortSide
from paddlevid.data.video import iterate_frames, to_image

MEAN, STD = 0.45, 0.225


def compare_readers(videos: Sequence[Path], frames: int, size: int, steps: int) -> dict[str, float]:
    """Seconds for a clip (3, T, H, W) of a video, read here and by others, and ours as shares.

    A clip is so many frames, spread evenly, their short side 8/7 of `size`, a square of `size` of
    them normalised. The readers take turns, in this process; medians of `steps` turns after a
    first one, then means over the videos. Beside ours:

    decode_resize: PyAV decodes up to the last frame and converts the wanted ones, with the threads
        that ours uses; OpenCV resizes them. Nothing else.
    pyav: PyAV decodes and converts all frames; the wanted ones are resized and normalised.
    decord: the wanted ones are resized and normalised; only where decord is installed.
    """
    dataset = _dataset(videos, frames, size)
    resize = dataset.transform.steps[0]
    readers: dict[str, Callable[[int], object]] = {
        "ours": lambda i: _views(dataset.fetch(i)),
        "decode_resize": lambda i: resize(_decode_wanted(videos[i], indices[i])),
        "pyav": lambda i: _prepare(_decode_all(videos[i], frames), size),
    }
    if find_spec("decord"):
        import decord

        readers["decord"] = lambda i: _prepare(_decord(decord, videos[i], frames), size)
    indices = [SegmentSampler(frames)(_count(video), None) for video in videos]
    times: dict[str, list[list[float]]] = {name: [[] for _ in videos] for name in readers}
    for _ in range(steps + 1):
        for i in range(len(videos)):
            for name, read in readers.items():
                started = time.perf_counter()
                read(i)
                times[name][i].append(time.perf_counter() - started)
    seconds = {
        name: statistics.mean(statistics.median(turns[1:]) for turns in of_videos)
        for name, of_videos in times.items()
    }
    ours = seconds.pop("ours")
    found = {"seconds_per_clip": ours}
    found |= {f"{name}_seconds_per_clip": value for name, value in seconds.items()}
    return found | {f"of_{name}": ours / value for name, value in seconds.items()}


def pickle_rate(frames: int, size: int, steps: int = 50) -> float:
    """Clips a second from .pkl files with 100 embedded JPEGs of 340x256 each, on one core.

    The made-up pictures have the bytes of filmed ones in quality 95, about 28 kB each. Clips as
    those of `compare_readers`, with a short side of 256.
    """
    before = cv2.getNumThreads()
    limit_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = [_write_pickle(Path(folder, f"{i}.pkl"), seed=i) for i in range(4)]
            dataset = _dataset(paths, frames, size, kind=HMDB51Dataset, short_side=256)
            times = []
            for step in range(steps + 1):
                started = time.perf_counter()
                _views(dataset.fetch(step % len(paths)))
                times.append(time.perf_counter() - started)
    finally:
        limit_threads(0)
        cv2.setNumThreads(before)
    return 1 / statistics.median(times[1:])


def loader_wait(
    videos: Sequence[Path],
    clips: int,
    frames: int,
    size: int,
    *,
    workers: int,
    step_seconds: float,
    steps: int = 20,
) -> float:
    """The share of its time that a step waits for its batch of (clips, 3, frames, size, size).

    A step multiplies matrices for `step_seconds`. The first batch, which the workers' start holds
    up, does not count.
    """
    needed = clips * (steps + 1)
    dataset = _dataset([videos[i % len(videos)] for i in range(needed)], frames, size)
    matrix = np.ones((512, 512), np.float32)
    waited = 0.0
    with Loader(dataset, clips, num_workers=workers) as loader:
        batches = loader.batches()
        next(batches)
        started = asked = time.perf_counter()
        for _ in batches:
            ends = time.perf_counter() + step_seconds
            waited += time.perf_counter() - asked
            while time.perf_counter() < ends:
                matrix @ matrix
            asked = time.perf_counter()
        return waited / (time.perf_counter() - started)


def _dataset(
    paths: Sequence[Path],
    frames: int,
    size: int,
    kind: type[VideoDataset] = VideoDataset,
    short_side: int = 0,
) -> VideoDataset:
    normalize = Normalize((MEAN,) * 3, (STD,) * 3)
    resize = ResizeShortSide(short_side or round(size * 8 / 7))
    transform = Compose([resize], normalize, CenterCrop(size))
    label = 0 if kind is VideoDataset else None  # of a .pkl it is inside
    return kind([Sample(path, label) for path in paths], SegmentSampler(frames), transform)


def _views(item: Item) -> NDArray[np.float32]:
    if item.views is None:
        raise ValueError(item.problem)
    return item.views


def _count(video: Path) -> int:
    return sum(1 for _ in iterate_frames(video))


def _decode_wanted(video: Path, indices: Indices) -> Frames:
    images, wanted, converter = {}, set(indices.tolist()), VideoReformatter()
    for number, frame in enumerate(iterate_frames(video)):
        if number in wanted:
            images[number] = to_image(frame, converter=converter)
        if number == indices[-1]:
            break
    return np.stack([images[i] for i in indices.tolist()])


def _decode_all(video: Path, frames: int) -> Frames:
    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "AUTO"
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([images[i] for i in SegmentSampler(frames)(len(images), None)])


def _decord(decord: object, video: Path, frames: int) -> Frames:
    reader = decord.VideoReader(str(video))
    return reader.get_batch(SegmentSampler(frames)(len(reader), None)).asnumpy()


def _prepare(clip: Frames, size: int) -> NDArray[np.float32]:
    """As the transforms of others do it: (T, H, W, 3) -> (3, T, size, size)"""
    _, height, width, _ = clip.shape
    scale = round(size * 8 / 7) / min(height, width)
    new = round(width * scale), round(height * scale)
    clip = np.stack([cv2.resize(frame, new) for frame in clip])
    top, left = (clip.shape[1] - size) // 2, (clip.shape[2] - size) // 2
    pixels = clip[:, top : top + size, left : left + size].astype(np.float32)
    pixels = (pixels / 255 - MEAN) / STD
    return np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))


def _write_pickle(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    picture = cv2.resize(rng.integers(0, 256, (24, 80, 3), np.uint8), (680, 256))
    picture = np.clip(picture + rng.normal(0, 2.2, picture.shape), 0, 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    frames = [
        cv2.imencode(".jpg", picture[:, 3 * t : 3 * t + 340], quality)[1].tobytes()
        for t in range(100)
    ]
    path.write_bytes(pickle.dumps((path.stem, 0, frames)))
    return path

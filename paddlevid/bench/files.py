"""What reading and writing files costs: clips for a network, frames for training."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import joblib
import numpy as np

from paddlevid.data.dataset import Sample, VideoDataset
from paddlevid.data.decode import is_video, limit_threads
from paddlevid.data.frames import write_frames
from paddlevid.data.loader import Loader
from paddlevid.data.sample import SegmentSampler
from paddlevid.data.transform import CenterCrop, Compose, Normalize, ResizeShortSide


def find_videos(args: argparse.Namespace, folder: Path) -> list[Path]:
    """The user's videos, or made-up ones with moving noise, in the folder."""
    if args.videos:
        videos = sorted(path for path in args.videos.rglob("*") if is_video(path))
        if not videos:
            raise ValueError(f"--videos {args.videos}: no videos in this folder")
        return videos
    rng = np.random.default_rng(0)
    size = (args.size * 4 // 3, args.size)
    num_frames = max(args.frames, 60)
    videos = []
    for number in range(args.clips):
        videos.append(folder / f"{number}.avi")
        writer = cv2.VideoWriter(str(videos[-1]), cv2.VideoWriter.fourcc(*"XVID"), 25, size)
        picture = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (2 * size[0], size[1]))
        for t in range(num_frames):
            writer.write(np.roll(picture, 3 * t, axis=1)[:, : size[0]].copy())
        writer.release()
    return videos


def make_loader(args: argparse.Namespace, videos: list[Path]) -> Loader:
    """Batches of --clips clips, one more than --steps of them."""
    samples = [Sample(videos[i % len(videos)], 0) for i in range(args.clips * (args.steps + 1))]
    normalize = Normalize((0.45,) * 3, (0.225,) * 3)
    transform = Compose([ResizeShortSide(args.size)], normalize, CenterCrop(args.size))
    dataset = VideoDataset(samples, SegmentSampler(args.frames), transform)
    return Loader(dataset, args.clips, num_workers=args.workers)


def bench_read(args: argparse.Namespace) -> dict[str, float]:
    """Clips from videos, beside other readers, and from .pkl files; in one process."""
    from paddlevid.bench import reading

    with tempfile.TemporaryDirectory() as folder:
        videos = find_videos(args, Path(folder))
        found = reading.compare_readers(videos, args.frames, args.size, args.steps)
    return found | {"pickled_clips_per_second": reading.pickle_rate(args.frames, args.size)}


def bench_prepare(args: argparse.Namespace) -> dict[str, float]:
    """Frames a second of avi2jpg's work, and of the book's loop in turn with it."""
    ours, book = [], []
    with tempfile.TemporaryDirectory() as folder:
        videos = find_videos(args, Path(folder))
        workers = max(args.workers, 1)
        parallel = joblib.Parallel(workers)
        parallel(joblib.delayed(limit_threads)(1) for _ in range(workers))  # start them
        for step in range(args.steps):
            target = Path(folder, f"ours{step}")
            started = time.perf_counter()
            frames = parallel(
                joblib.delayed(_extract)(video.absolute(), target) for video in videos
            )
            ours.append(sum(frames) / (time.perf_counter() - started))
            target = Path(folder, f"book{step}")
            started = time.perf_counter()
            written = sum(_extract_as_the_book(video, target / video.name) for video in videos)
            book.append(written / (time.perf_counter() - started))
    ours_fps, book_fps = statistics.median(ours), statistics.median(book)
    return {
        "frames_per_second": ours_fps,
        "book_frames_per_second": book_fps,
        "speedup": ours_fps / book_fps,
    }


def _extract(video: Path, target: Path) -> int:
    limit_threads(1)
    return write_frames(video, target / video.name)


def _extract_as_the_book(video: Path, folder: Path) -> int:
    """One process, every frame through cv2.imwrite with quality 95."""
    folder.mkdir(parents=True)
    capture, number = cv2.VideoCapture(str(video)), 0
    while True:
        success, frame = capture.read()
        if not success:
            break
        number += 1
        cv2.imwrite(str(folder / f"{number}.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, 95])
    capture.release()
    return number

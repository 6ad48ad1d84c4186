"""Measure the step, the prediction, the reading or the preparation: -> one JSON line."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import joblib
import numpy as np

from paddlevid import runtime
from paddlevid.data.dataset import Sample, VideoDataset
from paddlevid.data.decode import limit_threads
from paddlevid.data.frames import write_frames
from paddlevid.data.loader import Batch, Loader
from paddlevid.data.sample import SegmentSampler
from paddlevid.data.transform import CenterCrop, Compose, Normalize, ResizeShortSide
from paddlevid.flags import Parser, at_least, dictionary


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m paddlevid.bench",
        description="train: a training step; infer: a batch through the network; stream: a frame "
        "of each of --clips videos; extract: features of frames through a trunk; read: clips from "
        "video files through the loader; prepare: frames from videos to JPEG files, beside the "
        "book's loop. Random weights and made-up videos: only the time counts.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    positive = at_least(1)
    parser.add_argument("what", choices=list(BENCHES))
    parser.add_argument(
        "--model", default="tsn_r50", help="train, infer: of create_model; extract: a trunk"
    )
    parser.add_argument(
        "--arguments", type=dictionary, default={}, metavar="JSON",
        help='train, infer: more arguments of create_model, e.g. {"width": 16}',
    )  # fmt: skip
    parser.add_argument(
        "--clips",
        type=positive,
        default=4,
        help="clips in a batch; extract: frames in a batch; prepare: videos",
    )
    parser.add_argument(
        "--frames", type=positive, default=3, help="T of a clip; prepare: of a video"
    )
    parser.add_argument(
        "--size", type=positive, default=112, help="pixels; read, prepare: of the video"
    )
    parser.add_argument(
        "--steps", type=positive, default=10, help="measurements, after a first one"
    )
    parser.add_argument(
        "--workers", type=at_least(0), default=1, help="read, prepare: processes; read: 0 = none"
    )
    parser.add_argument(
        "--videos", type=Path,
        help="read, prepare: a folder of real videos to use; extract: of videos whose frames it "
        "reads, all of them, once",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="train, infer, stream, extract: cpu or gpu")
    parser.add_argument(
        "--torch", action="store_true",
        help="train, infer, extract: PyTorch eager instead, with a network that is written in it",
    )  # fmt: skip
    parser.add_argument(
        "--program", action="store_true", help="infer: through paddle.inference, on a CPU"
    )
    parser.add_argument(
        "--paddle-defaults", action="store_true",
        help="train, infer: leave out paddlevid's process settings",
    )  # fmt: skip
    parser.add_argument(
        "--compare", nargs="?", const="paddle-defaults", choices=("paddle-defaults", "torch"),
        help="train, infer, extract: run in turn with Paddle's process settings, or with PyTorch",
    )  # fmt: skip
    return parser.parse_args(argv)


def median_seconds(action: Callable[[], None], steps: int) -> float:
    """The median time of an action, called once before."""
    action()
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def bench_train(args: argparse.Namespace) -> dict[str, float]:
    """A training step, as train.py makes it."""
    batch = _batch(args, with_future=True)
    if args.torch:
        from paddlevid.bench import torch_networks

        network = torch_networks.create(args.model, 10, args.arguments)
        step = torch_networks.train_step(network, batch.clips, batch.labels)
        return _rates(median_seconds(step, args.steps), "step", args.clips)
    import paddle

    from paddlevid.models import create_model
    from paddlevid.optim import create_optimizer, group_parameters
    from paddlevid.tasks import Classification, FramePrediction
    from paddlevid.trainer import train_step

    model = create_model(args.model, num_classes=10, **args.arguments)
    model.train()
    optimizer = create_optimizer("momentum", group_parameters(model, weight_decay=1e-4))
    optimizer.set_lr(0.001)
    scaler = paddle.amp.GradScaler(enable=False)
    task = Classification(paddle.nn.CrossEntropyLoss())
    if args.model == "convlstm":
        task = FramePrediction(paddle.nn.MSELoss(), args.frames)
    seconds = median_seconds(
        lambda: train_step(model, task, optimizer, scaler, [batch]), args.steps
    )
    return _rates(seconds, "step", args.clips)


def _rates(seconds: float, what: str, clips: int) -> dict[str, float]:
    return {f"seconds_per_{what}": seconds, "clips_per_second": clips / seconds}


def bench_infer(args: argparse.Namespace) -> dict[str, float]:
    """A batch through the network in evaluation mode."""
    batch = _batch(args)
    if args.torch:
        from paddlevid.bench import torch_networks

        network = torch_networks.create(args.model, 10, args.arguments)
        run = torch_networks.infer(network, batch.clips)
        return _rates(median_seconds(run, args.steps), "batch", args.clips)
    import paddle

    from paddlevid.metrics import score_views
    from paddlevid.models import create_model
    from paddlevid.program import Program

    model = create_model(args.model, num_classes=10, **args.arguments)
    model.eval()

    if args.program:
        program = Program(model, [[None, *batch.clips.shape[1:]]])
        run = median_seconds(lambda: program(batch.clips), args.steps)
        return _rates(run, "batch", args.clips)

    def infer() -> None:
        with paddle.no_grad():
            score_views(model, batch).numpy()

    return _rates(median_seconds(infer, args.steps), "batch", args.clips)


def bench_stream(args: argparse.Namespace) -> dict[str, float]:
    """The next frame of each of some videos, as infer.py --stream takes them."""
    from paddlevid.models import MoViNetStream, create_model
    from paddlevid.stream import StateStream, Stepper, WindowStream, push_all

    model = create_model(args.model, num_classes=10, **args.arguments)
    transform = Compose([], Normalize((0.45,) * 3, (0.225,) * 3))
    if isinstance(model, MoViNetStream):
        stepper = Stepper(model, args.device)
        streams = [StateStream(stepper, transform) for _ in range(args.clips)]
    else:
        streams = [WindowStream(model, args.frames, transform) for _ in range(args.clips)]
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (args.clips, args.size, args.size, 3), np.uint8)
    for _ in range(args.frames):  # until there are windows
        push_all(streams, frames)
    seconds = median_seconds(lambda: push_all(streams, frames), args.steps)
    return {"seconds_per_frame": seconds, "frames_per_second": args.clips / seconds}


def bench_extract(args: argparse.Namespace) -> dict[str, float]:
    """Frames a second through a trunk: a batch of them, or with --videos from files to .npy."""
    from paddlevid.convert.names import IMAGENET

    images = np.random.default_rng(0).integers(
        0, 256, (args.clips, args.size, args.size, 3), np.uint8
    )
    if args.torch:
        from paddlevid.bench import torch_networks

        run = torch_networks.extractor(args.model, *IMAGENET)
        return _frame_rate(median_seconds(lambda: run(images), args.steps), args.clips)
    from paddlevid.data.sample import FrameSampler
    from paddlevid.features import Clip, Extractor, Trunk, extract
    from paddlevid.layers.trunks import create_trunk

    size = (args.size, args.size)
    trunk = Trunk(args.model, create_trunk(args.model), "", size, *IMAGENET)
    extractor = Extractor(trunk, device=args.device)
    if not args.videos:
        return _frame_rate(median_seconds(lambda: extractor(images), args.steps), args.clips)
    extractor(images)
    with tempfile.TemporaryDirectory() as folder:
        videos = _videos(args, Path(folder))
        clips = [Clip(Sample(path), Path(folder, f"{n}.npy")) for n, path in enumerate(videos)]
        started = time.perf_counter()
        done = extract(clips, extractor, FrameSampler("every", 1), batch_size=args.clips)
        problems = [problem for _, problem in done if problem]
        if problems:
            raise ValueError("; ".join(problems))
        seconds = time.perf_counter() - started
        return _frame_rate(seconds, sum(len(np.load(clip.target)) for clip in clips))


def _frame_rate(seconds: float, frames: int) -> dict[str, float]:
    return {"num_frames": frames, "frames_per_second": frames / seconds}


def _batch(args: argparse.Namespace, with_future: bool = False) -> Batch:
    """Noise, as the network takes it; with as many frames more as a frame prediction is of."""
    rng = np.random.default_rng(0)
    shape = (args.clips, 3, args.frames, args.size, args.size)
    if args.model == "cnn_lstm":
        shape = (args.clips, args.frames, args.arguments.get("features", 2048))
    if args.model == "convlstm":
        shape = (args.clips, 1, args.frames * (1 + with_future), args.size, args.size)
    return Batch(
        clips=rng.standard_normal(shape, dtype=np.float32),
        labels=rng.integers(0, 10, args.clips),
        indices=np.arange(args.clips),
    )


def bench_read(args: argparse.Namespace) -> dict[str, float]:
    """Batches of sampled, resized, normalised clips from video files."""
    with tempfile.TemporaryDirectory() as folder:
        videos = _videos(args, Path(folder))
        samples = [Sample(videos[i % len(videos)], 0) for i in range(args.clips * args.steps)]
        normalize = Normalize((0.45,) * 3, (0.225,) * 3)
        transform = Compose([ResizeShortSide(args.size)], normalize, CenterCrop(args.size))
        dataset = VideoDataset(samples, SegmentSampler(args.frames), transform)
        with Loader(dataset, args.clips, num_workers=args.workers) as loader:
            next(iter(loader.batches()))  # the workers' start does not count
            times, started = [], time.perf_counter()
            for _ in loader.batches():
                times.append(time.perf_counter() - started)
                started = time.perf_counter()
    return {
        "seconds_per_batch": statistics.median(times),
        "clips_per_second": len(samples) / sum(times),
    }


def bench_prepare(args: argparse.Namespace) -> dict[str, float]:
    """Frames a second of avi2jpg's work, and of the book's loop in turn with it."""
    ours, book = [], []
    with tempfile.TemporaryDirectory() as folder:
        videos = _videos(args, Path(folder))
        workers = max(args.workers, 1)
        parallel = joblib.Parallel(workers)
        parallel(joblib.delayed(limit_threads)(1) for _ in range(workers))  # start them
        for step in range(args.steps):
            target = Path(folder, f"ours{step}")
            started = time.perf_counter()
            frames = parallel(joblib.delayed(_extract)(video, target) for video in videos)
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


def _videos(args: argparse.Namespace, folder: Path) -> list[Path]:
    """The user's videos, or made-up ones with moving noise."""
    if args.videos:
        from paddlevid.data.decode import is_video

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


BENCHES: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "train": bench_train,
    "infer": bench_infer,
    "stream": bench_stream,
    "extract": bench_extract,
    "read": bench_read,
    "prepare": bench_prepare,
}


def compare(argv: list[str], other: str) -> dict[str, object]:
    """The same measurement in processes of paddlevid and of another way, in turn."""
    at = argv.index("--compare")
    argv = argv[:at] + argv[at + 1 + (argv[at + 1 : at + 2] == [other]) :]
    command = [sys.executable, "-m", "paddlevid.bench", *argv]
    results: dict[str, list[dict]] = {"paddlevid": [], other: []}
    ours = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "FLAGS_use_stride_kernel")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    for _ in range(3):
        for name, flags in (("paddlevid", []), (other, [f"--{other}"])):
            run = subprocess.run([*command, *flags], env=env, stdout=subprocess.PIPE, check=True)
            results[name].append(json.loads(run.stdout.decode().splitlines()[-1]))
    rate = next(name for name in results[other][0] if name.endswith("_per_second"))
    best = {name: max(runs, key=lambda run: run[rate]) for name, runs in results.items()}
    return {
        **best["paddlevid"],
        other.replace("-", "_"): best[other],
        "speedup": best["paddlevid"][rate] / best[other][rate],
    }


def machine(framework: str) -> dict[str, object]:
    """What the numbers depend on."""
    module = sys.modules[framework]
    return {
        "processor": runtime.processor() or platform.processor(),
        "cores": runtime.usable_cores(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "mkl": os.environ.get("MKL_DEBUG_CPU_TYPE"),
        "device": "cpu" if framework == "torch" else module.device.get_device(),
        "python": platform.python_version(),
        framework: module.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "peak_memory_mb": runtime.peak_memory_mb(),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure; -> exit code."""
    args = parse_args(argv)
    try:
        if args.compare:
            words = sys.argv[1:] if argv is None else argv
            print(json.dumps(compare(words, args.compare)))
            return 0
        if not (args.paddle_defaults or args.torch):
            runtime.configure()
        if not args.torch:
            import paddle

            paddle.set_device(args.device)
        figures = BENCHES[args.what](args)
    except (ValueError, TypeError, OSError, ImportError, subprocess.CalledProcessError) as error:
        print(f"paddlevid.bench: {error}", file=sys.stderr)
        return 1
    framework = "torch" if args.torch else "paddle"
    figures = {name: round(value, 6) for name, value in figures.items()}
    flags = {name: getattr(args, name) for name in ("clips", "frames", "size", "steps", "workers")}
    network = {"model": args.model, "arguments": args.arguments}
    what = {
        "bench": args.what,
        **(network if args.what in ("train", "infer", "stream", "extract") else {}),
    }
    print(json.dumps({**what, **flags, **figures, **machine(framework)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

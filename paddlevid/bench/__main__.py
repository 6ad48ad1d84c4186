"""Measure steps, predictions, streams, reading or preparation: -> one JSON line, or tables."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from paddlevid import runtime
from paddlevid.bench import compare, files, networks, soak
from paddlevid.flags import Parser, at_least, dictionary

BENCHES: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "train": networks.bench_train,
    "infer": networks.bench_infer,
    "stream": networks.bench_stream,
    "features": networks.bench_features,
    "read": files.bench_read,
    "loader": networks.bench_loader,
    "prepare": files.bench_prepare,
    "soak": soak.bench_soak,
}
WITH_NETWORK = ("train", "infer", "stream", "features", "loader")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m paddlevid.bench",
        description="train: a training step; infer: a batch through the network; stream: a frame "
        "of each of --clips videos; features: frames through a trunk; read: clips from video and "
        ".pkl files, beside other readers; loader: training that is fed from video files; prepare: "
        "frames from videos to JPEG files, beside the book's loop; soak: the memory of training, "
        "evaluation and streaming over many steps of small networks; compare: the first four, for "
        "the networks of docs/performance.md, beside PyTorch, as a table. Random weights and "
        "made-up videos: only the time counts, or the memory.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    positive = at_least(1)
    parser.add_argument("what", choices=[*BENCHES, "compare"])
    parser.add_argument(
        "--model", default=None,
        help="of create_model (tsn_r50); features: a trunk (resnet50); compare: one row (all)",
    )  # fmt: skip
    parser.add_argument(
        "--arguments", type=dictionary, default={}, metavar="JSON",
        help='more arguments of create_model, e.g. {"width": 16}',
    )  # fmt: skip
    parser.add_argument(
        "--clips",
        type=positive,
        default=4,
        help="clips in a batch; features: frames in a batch; read, prepare: videos",
    )
    parser.add_argument(
        "--frames", type=positive, default=3, help="T of a clip; prepare: of a video"
    )
    parser.add_argument(
        "--size", type=positive, default=112, help="pixels; prepare: of the made-up videos"
    )
    parser.add_argument(
        "--steps", type=positive, default=None,
        help="measurements, after a first one (10); soak: steps (2000)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=at_least(0), default=1,
        help="loader, prepare, soak: processes; loader, soak: 0 = none",
    )  # fmt: skip
    parser.add_argument(
        "--videos", type=Path,
        help="read, loader, prepare: a folder of real videos to use; features: of videos whose "
        "frames it reads, all of them, once",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="of networks: cpu or gpu")
    parser.add_argument(
        "--engine", choices=("auto", "eager", "program"), default="auto",
        help="infer, stream, features, soak: as of infer.py",
    )  # fmt: skip
    parser.add_argument(
        "--work", action="store_true",
        help="train, infer: count multiply-adds too, beside what a matrix product reaches",
    )  # fmt: skip
    parser.add_argument(
        "--torch", action="store_true",
        help="train, infer, features: PyTorch eager instead, with a network written in it",
    )  # fmt: skip
    parser.add_argument(
        "--paddle-defaults", action="store_true",
        help="train, infer: leave out paddlevid's process settings",
    )  # fmt: skip
    parser.add_argument(
        "--compare", nargs="?", const="paddle-defaults", choices=("paddle-defaults", "torch"),
        help="train, infer, features: in turn with Paddle's process settings, or with PyTorch",
    )  # fmt: skip
    parser.add_argument(
        "--of", choices=soak.SOAKS, help="soak: of this alone (all, each in a process of its own)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="soak: draw the curves, as .png")
    args = parser.parse_args(argv)
    args.steps = args.steps or (2000 if args.what == "soak" else 10)
    if args.what == "soak" and (args.model or args.arguments):
        parser.error("soak has its own small networks: leave out --model and --arguments")
    return args


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


def run(args: argparse.Namespace, words: list[str]) -> None:
    """Measure, and print what was found."""
    if args.what == "compare":
        for line in compare.tables([args.model] if args.model else [], args.steps):
            print(line, flush=True)
        return
    if args.compare:
        words = [word for word in words if not word.startswith("--compare=")]
        if "--compare" in words:
            at = words.index("--compare")
            words = words[:at] + words[at + 1 + (words[at + 1 : at + 2] == [args.compare]) :]
        print(json.dumps(compare.compare(words, args.compare)))
        return
    if args.what != "soak":
        args.model = args.model or ("resnet50" if args.what == "features" else "tsn_r50")
    if not (args.paddle_defaults or args.torch):
        runtime.configure()
        if args.what in ("train", "loader") or args.of == "train":  # as train.py
            runtime.keep_freed_memory()
    if not args.torch:
        import paddle

        paddle.set_device(args.device)
    figures = BENCHES[args.what](args)
    figures = {k: round(v, 6) if isinstance(v, float) else v for k, v in figures.items()}
    flags = {name: getattr(args, name) for name in ("clips", "frames", "size", "steps", "workers")}
    network = {"model": args.model, "arguments": args.arguments}
    what = {"bench": args.what, **(network if args.what in WITH_NETWORK else {})}
    framework = "torch" if args.torch else "paddle"
    print(json.dumps({**what, **flags, **figures, **machine(framework)}))


def main(argv: list[str] | None = None) -> int:
    """Measure; -> exit code."""
    args = parse_args(argv)
    try:
        run(args, sys.argv[1:] if argv is None else argv)
    except (ValueError, TypeError, OSError, ImportError, subprocess.CalledProcessError) as error:
        print(f"paddlevid.bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("paddlevid.bench: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

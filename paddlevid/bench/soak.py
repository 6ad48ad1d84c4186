"""Long runs: memory of training, evaluation and streaming over thousands of steps -> its growth."""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paddlevid import plots
from paddlevid.bench import compare
from paddlevid.bench.files import find_videos, make_loader
from paddlevid.data.loader import Batch, Loader
from paddlevid.data.transform import CenterCrop, Compose, Normalize, ResizeShortSide
from paddlevid.memory import held_memory

NUM_POINTS = 40  # of a curve
WARM_UP = 0.25  # share of the steps that the slope leaves out
STEPS_PER_EPOCH = 100
NUM_CLASSES = 10
MOVINET = {"stem": 8, "stages": "8: 24@15 / 16: 40@33 56@53", "head": 48, "dense": 32}


class Meter:
    """Notes the memory at the start and NUM_POINTS times in so many steps."""

    def __init__(self, steps: int) -> None:
        self.points: list[tuple[int, float, float]] = []  # step, MB here, MB in other processes
        self._every = max(steps // NUM_POINTS, 1)
        self.step = 0
        self._note()

    def count(self) -> None:
        """A step was made."""
        self.step += 1
        if self.step % self._every == 0:
            self._note()

    def figures(self) -> dict[str, object]:
        """The curve, and the growth in MB in 1,000 steps, by least squares behind the warm-up."""
        points = np.array(self.points)
        late = points[points[:, 0] >= WARM_UP * self.step]
        growth = np.polyfit(late[:, 0] / 1000, late[:, 1:], 1)[0] if len(late) > 1 else (0.0, 0.0)
        return {
            "steps_made": self.step,
            "start_mb": self.points[0][1],
            "end_mb": self.points[-1][1],
            "mb_per_1000_steps": round(float(growth[0]), 3),
            "workers_mb_per_1000_steps": round(float(growth[1]), 3),
            "points": self.points,
        }

    def _note(self) -> None:
        here, others = held_memory()
        self.points.append((self.step, round(here / 1e6, 2), round(others / 1e6, 2)))


class _Counted:
    """A loader whose batches are counted."""

    def __init__(self, loader: Loader, meter: Meter) -> None:
        self._loader, self._meter = loader, meter

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def batches(self, *words: int) -> Iterator[Batch]:
        for batch in self._loader.batches(*words):
            try:
                yield batch
            finally:  # the step is made, also when no other batch is asked for
                self._meter.count()


def bench_soak(args: argparse.Namespace) -> dict[str, object]:
    """The growth of each run, or of the one that --of names; --plot draws the curves."""
    if args.of:
        found = {args.of: SOAKS[args.of](args).figures()}
    else:
        names = ("clips", "frames", "size", "steps", "workers", "device", "engine")
        flags = [f"--{name}={getattr(args, name)}" for name in names]
        if args.videos:
            flags.append(f"--videos={args.videos}")
        found = {name: compare.measure(["soak", "--of", name, *flags])[name] for name in SOAKS}
    if args.plot:
        curves = {name: figures["points"] for name, figures in found.items()}
        plots.save(plots.memory_figure(curves), args.plot)
    return found


def _soak_training(args: argparse.Namespace) -> Meter:
    """Everything that train.py does, with an epoch's end each STEPS_PER_EPOCH steps."""
    import paddle

    from paddlevid.models import create_model
    from paddlevid.optim import Schedule, create_optimizer, group_parameters
    from paddlevid.tasks import Classification
    from paddlevid.trainer import Settings, fit

    model = create_model("tsn_r18", num_classes=NUM_CLASSES, width=8)
    optimizer = create_optimizer("momentum", group_parameters(model, weight_decay=1e-4))
    epochs = -(-args.steps // STEPS_PER_EPOCH)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        videos = find_videos(args, Path(folder))
        with (
            make_loader(_with_steps(args, args.steps // epochs), videos) as loader,
            make_loader(_with_steps(args, 5), videos) as valid_loader,
        ):
            meter = Meter(args.steps)
            fit(
                model,
                Classification(paddle.nn.CrossEntropyLoss(), [str(k) for k in range(NUM_CLASSES)]),
                optimizer,
                Schedule(rate=0.001, epochs=epochs),
                _Counted(loader, meter),
                valid_loader,
                Settings(Path(folder), epochs),
            )
    return meter


def _soak_evaluation(args: argparse.Namespace) -> Meter:
    """As `infer.py --split` evaluates."""
    import paddle

    from paddlevid.models import create_model
    from paddlevid.predictor import Predictor
    from paddlevid.tasks import Classification
    from paddlevid.trainer import evaluate

    predictor = Predictor(create_model("tsn_r18", num_classes=NUM_CLASSES, width=8), args.engine)
    task = Classification(paddle.nn.CrossEntropyLoss(), [str(k) for k in range(NUM_CLASSES)])
    with tempfile.TemporaryDirectory() as folder:
        videos = find_videos(args, Path(folder))
        with make_loader(_with_steps(args, args.steps), videos) as loader:
            meter = Meter(args.steps)
            evaluate(predictor, _Counted(loader, meter), task)
    return meter


def _soak_stream(args: argparse.Namespace) -> Meter:
    """As `infer.py --stream` reads a video and looks at each frame."""
    from paddlevid.data.live import LiveSource
    from paddlevid.models import create_model
    from paddlevid.predictor import Predictor
    from paddlevid.stream import StateStream, Stepper, push_all

    model = create_model("movinet_a0_stream", num_classes=NUM_CLASSES, **MOVINET)
    normalize = Normalize((0.45,) * 3, (0.225,) * 3)
    transform = Compose([ResizeShortSide(args.size)], normalize, CenterCrop(args.size))
    stream = StateStream(Stepper(Predictor(model, args.engine)), transform)
    with tempfile.TemporaryDirectory() as folder:
        long = argparse.Namespace(**vars(args) | {"clips": 1, "frames": args.steps})
        video = find_videos(long, Path(folder))[0]
        meter = Meter(args.steps)
        with LiveSource(str(video)) as source:
            while not source.ended and meter.step < args.steps:
                if moment := source.take(wait=0.05):
                    push_all([stream], [moment[2]])
                    meter.count()
    if source.problem:
        raise ValueError(f"{video}: {source.problem}")
    return meter


def _with_steps(args: argparse.Namespace, steps: int) -> argparse.Namespace:
    """The same, for a loader of so many batches."""
    return argparse.Namespace(**vars(args) | {"steps": steps - 1})


SOAKS = {"train": _soak_training, "evaluate": _soak_evaluation, "stream": _soak_stream}

"""What the networks cost: a training step, a batch, a frame of a stream, features of frames."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from paddlevid.bench.files import find_videos, make_loader
from paddlevid.data.dataset import Sample
from paddlevid.data.loader import Batch
from paddlevid.data.transform import Compose, Normalize

NUM_CLASSES = 10


def median_seconds(action: Callable[[], object], steps: int) -> float:
    """The median time of an action, called once before."""
    action()
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def matrix_rate() -> float:
    """Multiply-adds a second of a product of two 2048 x 2048 matrices, in 1e9, by Paddle."""
    import paddle

    a, b = (paddle.randn([2048, 2048]) for _ in range(2))
    return 2048**3 / median_seconds(lambda: paddle.matmul(a, b).numpy(), 5) / 1e9


def make_trainer(args: argparse.Namespace) -> tuple[object, Callable[[Batch], object]]:
    """A network, and a function that makes a training step with a batch as train.py makes it."""
    import paddle

    from paddlevid.models import create_model
    from paddlevid.optim import create_optimizer, group_parameters
    from paddlevid.predictor import speed_up_frozen_part
    from paddlevid.tasks import Classification, FramePrediction
    from paddlevid.trainer import train_step

    model = create_model(args.model, num_classes=NUM_CLASSES, **args.arguments)
    model.train()
    speed_up_frozen_part(model)
    optimizer = create_optimizer("momentum", group_parameters(model, weight_decay=1e-4))
    optimizer.set_lr(0.001)
    scaler = paddle.amp.GradScaler(enable=False)
    task = Classification(paddle.nn.CrossEntropyLoss())
    if args.model == "convlstm":
        task = FramePrediction(paddle.nn.MSELoss(), args.frames)
    return model, lambda batch: train_step(model, task, optimizer, scaler, [batch])


def bench_train(args: argparse.Namespace) -> dict[str, float]:
    """A training step."""
    batch = _batch(args, with_future=True)
    if args.torch:
        from paddlevid.bench import torch_networks

        network = torch_networks.create(args.model, NUM_CLASSES, args.arguments)
        step = torch_networks.train_step(network, batch.clips, batch.labels)
        return _rates(median_seconds(step, args.steps), "step", args.clips)
    model, step = make_trainer(args)
    seconds = median_seconds(lambda: step(batch), args.steps)
    # A step computes three times what a prediction does: it, and two gradients.
    return _rates(seconds, "step", args.clips) | _work(args, model, batch, 3 / seconds)


def bench_infer(args: argparse.Namespace) -> dict[str, float]:
    """A batch, as infer.py predicts it."""
    batch = _batch(args)
    if args.torch:
        from paddlevid.bench import torch_networks

        network = torch_networks.create(args.model, NUM_CLASSES, args.arguments)
        run = torch_networks.infer(network, batch.clips)
        return _rates(median_seconds(run, args.steps), "batch", args.clips)
    from paddlevid.models import create_model
    from paddlevid.predictor import Predictor

    model = create_model(args.model, num_classes=NUM_CLASSES, **args.arguments)
    predictor = Predictor(model, args.engine)
    seconds = median_seconds(lambda: predictor(batch.clips), args.steps)
    return _rates(seconds, "batch", args.clips) | _work(args, model, batch, 1 / seconds)


def _rates(seconds: float, what: str, clips: int) -> dict[str, float]:
    return {f"seconds_per_{what}": seconds, "clips_per_second": clips / seconds}


def _work(
    args: argparse.Namespace, model: object, batch: Batch, per_second: float
) -> dict[str, float]:
    """With --work: multiply-adds a second, in 1e9, and their share of what the machine can do."""
    if not args.work:
        return {}
    from paddlevid.catalogue import count_multiply_adds

    shape = [*batch.clips.shape]
    if args.model == "convlstm":
        shape[2] = args.frames
    rate = count_multiply_adds(model, shape) * per_second / 1e9
    return {"rate": rate, "matrix_share": rate / matrix_rate()}


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
        labels=rng.integers(0, NUM_CLASSES, args.clips),
        indices=np.arange(args.clips),
    )


def bench_stream(args: argparse.Namespace) -> dict[str, float]:
    """The next frame of each of some videos, as infer.py --stream takes them."""
    from paddlevid.models import MoViNetStream, create_model
    from paddlevid.predictor import Predictor
    from paddlevid.stream import StateStream, Stepper, WindowStream, push_all

    model = create_model(args.model, num_classes=NUM_CLASSES, **args.arguments)
    transform = Compose([], Normalize((0.45,) * 3, (0.225,) * 3))
    predictor = Predictor(model, args.engine)
    if isinstance(model, MoViNetStream):
        stepper = Stepper(predictor)
        streams = [StateStream(stepper, transform) for _ in range(args.clips)]
    else:
        streams = [WindowStream(predictor, args.frames, transform) for _ in range(args.clips)]
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (args.clips, args.size, args.size, 3), np.uint8)
    for _ in range(args.frames):  # until there are windows
        push_all(streams, frames)
    seconds = median_seconds(lambda: push_all(streams, frames), args.steps)
    return {"seconds_per_frame": seconds, "frames_per_second": args.clips / seconds}


def bench_loader(args: argparse.Namespace) -> dict[str, float]:
    """Training fed by the loader: what of its time a step waits for its clips."""
    _, step = make_trainer(args)
    with (
        tempfile.TemporaryDirectory() as folder,
        make_loader(args, find_videos(args, Path(folder))) as loader,
    ):
        batches = loader.batches()
        step(next(batches))  # the workers' start does not count
        waited, started = 0.0, time.perf_counter()
        for _ in range(args.steps):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            step(batch)
        seconds = time.perf_counter() - started
    return {"seconds_per_step": seconds / args.steps, "wait_share": waited / seconds}


def bench_features(args: argparse.Namespace) -> dict[str, float]:
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
    extractor = Extractor(trunk, device=args.device, engine=args.engine)
    if not args.videos:
        return _frame_rate(median_seconds(lambda: extractor(images), args.steps), args.clips)
    extractor(images)
    with tempfile.TemporaryDirectory() as folder:
        videos = find_videos(args, Path(folder))
        clips = [Clip(Sample(path), Path(folder, f"{n}.npy")) for n, path in enumerate(videos)]
        started = time.perf_counter()
        done = extract(clips, extractor, FrameSampler("every", 1), batch_size=args.clips)
        problems = [problem for _, problem in done if problem]
        if problems:
            raise ValueError("; ".join(problems))
        seconds = time.perf_counter() - started
        return _frame_rate(seconds, sum(len(np.load(clip.target)) for clip in clips))


def _frame_rate(seconds: float, frames: int) -> dict[str, float]:
    return {
        "num_frames": frames, "seconds_per_batch": seconds, "frames_per_second": frames / seconds,
    }  # fmt: skip

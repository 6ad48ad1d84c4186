"""Training: a config -> findings on a batch that is read, and on steps that are made with it."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import paddle

from paddlevid import build, runtime
from paddlevid.checkpoint import optimizer_state
from paddlevid.config import Config
from paddlevid.data.loader import BadSamplesError, Batch, Loader
from paddlevid.doctor.finding import Finding, ok, warning, wrong
from paddlevid.memory import free_memory, held_memory, in_words
from paddlevid.predictor import speed_up_frozen_part
from paddlevid.trainer import train_step

NUM_STEPS = 3  # that are measured,
NUM_FIRST = 2  # behind these, which are slow themselves, and for which all was read ahead
MOST_SECONDS = 60  # after which no other step is made
MOST_WAITING = 0.3  # share of the time
LITTLE_MEMORY = 1_000_000_000  # bytes


def check_training(config: Config, free_disk: int) -> Iterator[Finding]:
    """Whether a batch can be read and trained with, and how long a step waits for its clips.

    The weights are random: none are downloaded or kept. `free_disk`: bytes, on that of the run.
    """
    try:
        yield ok(build.choose_device(config))
        classes = build.read_classes(config)
        with build.build_train_loader(config, classes) as loader:
            yield from _check_steps(config, classes, loader, free_disk)
    except Exception as error:  # whatever a library raises is what is to be found
        name = type(error).__name__
        yield wrong(f"training does not work: {name}: {error}", _advice(error, config))


def _advice(error: Exception, config: Config) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if "out of memory" in text or "memoryerror" in text or "resourceexhausted" in text:
        return (
            f"lower TRAIN.batch_size = {config.train.batch_size} and raise TRAIN.accumulate by the "
            "same factor, or make the frames smaller (TRAIN.target_size)"
        )
    if isinstance(error, BadSamplesError):
        return "data_tools/check_videos.py LIST names all bad files and writes a list without them"
    if isinstance(error, FloatingPointError):
        return "look for clips with odd values, and at MODEL.image_mean and image_std"
    return "change the config or the list, as the message says"


def _check_steps(
    config: Config, classes: Sequence[str], loader: Loader, free_disk: int
) -> Iterator[Finding]:
    batches = _endless(loader)
    started = time.perf_counter()
    batch = next(batches)
    shape = " x ".join(map(str, batch.clips.shape))
    seconds = time.perf_counter() - started
    yield ok(f"the first batch, {shape}, was read in {seconds:.1f} s")
    model, _ = build.build_model(config, fresh=True)
    model.train()
    for layer in build.freeze_trunk(config, model):
        layer.eval()
    speed_up_frozen_part(model)
    task = build.build_task(config, classes, loader.dataset)
    optimizer = build.build_optimizer(config, model)
    optimizer.set_lr(build.build_schedule(config)(0.0))
    scaler = paddle.amp.GradScaler(enable=config.train.amp)
    rng = np.random.default_rng(0)

    def step(batch: Batch) -> float:
        limits = config.train.clip_norm, config.train.clip_value
        return train_step(model, task, optimizer, scaler, [batch], *limits, rng).loss

    began = time.perf_counter()
    loss = step(batch)
    seconds = time.perf_counter() - began
    yield ok(f"the first step took {seconds:.2f} s; the loss is {loss:.4g}")
    if loader.bad:
        yield warning(
            f"{len(loader.bad)} clips could not be read, first {next(iter(loader.bad.values()))}",
            "data_tools/check_videos.py LIST names all bad files and writes a list without them",
        )
    yield _check_memory(config)
    yield _check_room(config, model, optimizer, free_disk)
    times = [(0.0, seconds)]  # waited, computed
    for _ in range(NUM_FIRST - 1 + NUM_STEPS):
        if time.perf_counter() - started > MOST_SECONDS:
            break
        asked = time.perf_counter()
        batch = next(batches)
        began = time.perf_counter()
        step(batch)
        times.append((began - asked, time.perf_counter() - began))
    waited, computed = np.mean(times[NUM_FIRST:] or times[-1:], axis=0).tolist()
    yield judge_waiting(waited, computed, config.train.num_reader_threads, runtime.usable_cores())


def _endless(loader: Loader) -> Iterator[Batch]:
    """The batches of epoch after epoch; ValueError when there is none in one."""
    for epoch in itertools.count():
        batch = None
        for batch in loader.batches(epoch):
            yield batch
        if batch is None:
            reasons = "".join(f"\n  {reason}" for reason in list(loader.bad.values())[:3])
            raise BadSamplesError(f"none of the training clips can be read:{reasons}")


def judge_waiting(waited: float, computed: float, workers: int, cores: int) -> Finding:
    """What the seconds say that a step waited for its batch, and computed with it.

    Args:
        workers: TRAIN.num_reader_threads.
        cores: that can be used.
    """
    share = waited / (waited + computed)
    text = (
        f"a step computes for {computed:.2f} s and waits {waited:.2f} s ({share:.0%}) for its "
        f"clips, with TRAIN.num_reader_threads = {workers}"
    )
    if workers > cores:
        return warning(
            f"{text}, but {cores} cores", f"lower TRAIN.num_reader_threads to {cores} or less"
        )
    if share <= MOST_WAITING:
        return ok(text)
    reading = workers * (waited + computed) if workers else waited  # of one process, for a batch
    needed = max(math.ceil(reading / computed), workers + 1)
    advice = []
    if workers < cores:
        advice.append(f"set TRAIN.num_reader_threads = {min(needed, cores)}")
    if needed > cores:
        advice.append(
            "make reading cheaper: extract small frames once (data_tools/avi2jpg.py --short-side, "
            "jpg2pkl.py --embed)"
        )
    return warning(text, "; ".join(advice))


def _check_memory(config: Config) -> Finding:
    here, in_workers = held_memory()
    free, _ = free_memory()
    text = f"memory: {in_words(here)} here, {in_words(in_workers)} in loading processes"
    if paddle.device.get_device() != "cpu":
        text += f", {in_words(paddle.device.cuda.max_memory_allocated())} of the GPU at most"
    text += f"; {in_words(free)} are free"
    if free < LITTLE_MEMORY:
        lower = f"lower TRAIN.batch_size = {config.train.batch_size} or num_reader_threads"
        return warning(text, f"{lower}, before the system ends the run")
    return ok(text)


def _check_room(
    config: Config, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, free: int
) -> Finding:
    """Whether the disk has room for the checkpoints and weights that a run keeps."""
    weights = sum(tensor.numpy().nbytes for tensor in model.state_dict().values())
    checkpoint = weights + _size_of(optimizer_state(optimizer, model))
    kept = config.train.keep_checkpoints + 1  # one more, while it is written
    needed = kept * checkpoint + 3 * weights
    text = f"disk: a checkpoint takes {in_words(checkpoint)}, the run {in_words(needed)}"
    if needed > free:
        return wrong(
            f"{text}, but {in_words(free)} are free",
            "make room, choose another --save_dir, or lower TRAIN.keep_checkpoints",
        )
    return ok(text)


def _size_of(state: object) -> int:
    """Bytes of all arrays in a dictionary of dictionaries."""
    if isinstance(state, dict):
        return sum(map(_size_of, state.values()))
    return np.asarray(state).nbytes if hasattr(state, "shape") else 0

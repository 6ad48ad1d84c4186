"""Training: loaders, a network and an optimiser -> weights, checkpoints and figures in a folder."""

import contextlib
import functools
import math
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from paddlevid import distributed
from paddlevid.checkpoint import (
    load_checkpoint,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
)
from paddlevid.dashboard import Dashboard
from paddlevid.data.loader import Batch, Loader
from paddlevid.optim import Schedule, WeightAverage, clip_gradients
from paddlevid.predictor import Predictor, read_ahead, speed_up_frozen_part
from paddlevid.runtime import is_launched
from paddlevid.tasks import Result, Task
from paddlevid.weights import describe, load_weights, write_weights

# Of an evaluation: thousands of small arrays that lie between the clips of the batches would keep
# the memory of these in pieces.
MOST_PARTS = 64


class Interrupted(Exception):
    """Training was stopped by a signal, after its state was saved; args: the checkpoint."""


@dataclass
class StepResult:
    """What a step saw before it changed the weights."""

    loss: float = 0.0  # mean over the clips; of a part, its share of it
    sums: dict[str, float] = field(default_factory=dict)  # over the clips, see `Task.count`
    num_clips: int = 0

    @classmethod
    def total(cls, parts: Sequence["StepResult"]) -> "StepResult":
        """The whole, of which each part has seen some clips."""
        sums: Counter[str] = Counter()
        for part in parts:
            sums.update(part.sums)
        return cls(
            sum(part.loss for part in parts), dict(sums), sum(part.num_clips for part in parts)
        )


def train_step(
    model: nn.Layer,
    task: Task,
    optimizer: paddle.optimizer.Optimizer,
    scaler: paddle.amp.GradScaler,
    batches: Sequence[Batch],
    clip_norm: float = 0.0,
    clip_value: float = 0.0,
    rng: np.random.Generator | None = None,
    step: int = 0,
    watch: Callable[[], None] = lambda: None,
    in_step: bool = False,
) -> StepResult:
    """One step on several batches, of all ranks, whose gradients add up to those of a large one.

    `in_step`: the network's layers wait for those of the other ranks, so that batches which not
    every rank has are left out.

    `rng` and `step`, the number of steps before, are for the task. `watch` is called when the
    gradients are there and the weights have not changed.

    Raises FloatingPointError, before the weights change, when the loss is not finite.
    """
    if in_step:
        batches = batches[: min(distributed.gather(len(batches)))]
    num_clips = sum(len(batch.labels) for batch in batches)
    all_clips = sum(distributed.gather(num_clips))
    result = StepResult(num_clips=num_clips)
    if not all_clips:  # none of them could be read
        return result
    for batch in batches:
        with paddle.amp.auto_cast(enable=scaler.is_enable()):
            loss, outputs = task.compute_loss(model, batch, rng, step)
            loss = loss * (len(batch.labels) / all_clips)
        scaler.scale(loss).backward()
        result.loss += loss.item()  # waits for the device
        for name, number in task.count(outputs, batch).items():
            result.sums[name] = result.sums.get(name, 0) + number
    result = StepResult.total(distributed.gather(result))
    if not np.isfinite(result.loss):
        optimizer.clear_grad()
        raise FloatingPointError(f"the loss became {result.loss}")
    distributed.add_gradients(model.parameters())
    scaler.unscale_(optimizer)
    watch()
    clip_gradients(model.parameters(), clip_norm, clip_value)
    scaler.step(optimizer)
    scaler.update()
    optimizer.clear_grad()
    return result


def evaluate(
    predictor: Predictor,
    loader: Loader,
    task: Task,
    *,
    title: str = "evaluating",
    stop: Callable[[], None] = lambda: None,
) -> Result:
    """What a task says of a network and all clips of a loader; of all ranks, together.

    Raises ValueError when none of them could be read. `stop` is called after each batch and may
    raise to leave early.
    """
    parts = []
    batches = read_ahead(loader.batches())
    for batch in tqdm(batches, title, len(loader), leave=False, disable=None):
        parts.append(task.score(predictor, batch))
        if len(parts) == MOST_PARTS:
            parts = [task.join(parts)]
        stop()
    parts = distributed.gather_all(parts)
    if not parts:
        raise ValueError("none of the clips could be read")
    return task.conclude(parts, sum(distributed.gather(len(loader.bad))))


@dataclass
class Progress:
    """Where a run is; written to and read from its checkpoints."""

    epoch: int = 0
    batch: int = 0  # batches done of this epoch
    ranks: int = 1  # processes that share a batch
    step: int = 0  # optimiser steps done of the run
    best: tuple[float, float] = (-math.inf, -math.inf)  # `Result.quality` on the validation list
    best_epoch: int = 0  # counted from 1; 0: none yet
    waited: float = 0.0  # seconds for data in this epoch
    sums: dict[str, float] = field(default_factory=dict)  # of this epoch


@dataclass(frozen=True)
class Settings:
    """What `fit` needs to know beside the things it works with."""

    folder: Path  # of the run
    epochs: int
    accumulate: int = 1
    clip_norm: float = 0.0
    clip_value: float = 0.0
    ema: float = 0.0  # decay of the average of the weights that is evaluated and kept; 0 = off
    frozen: Sequence[nn.Layer] = ()  # layers that stay in evaluation mode
    amp: bool = False
    sync_bn: bool = False  # batch norms wait for those of other processes
    early_stop: int = 0  # epochs without a better validation result; 0 = never
    keep_checkpoints: int = 2
    checkpoint_minutes: float = 30.0  # from one within an epoch to the next; 0: at its end only
    picture_every: int = 0  # steps; 0 = none, see `Task.draw_step`
    histogram_every: int = 0  # steps; 0 = none, of weights and gradients
    draw_network: bool = False
    seed: int = 0
    classes: Sequence[str] = ()  # kept with the weights
    config: dict = field(default_factory=dict)  # kept in checkpoints
    recipe: dict = field(default_factory=dict)  # what VisualDL compares runs by
    training_list: str = ""  # of which clips; a resumed run must have the same


def fit(
    model: nn.Layer,
    task: Task,
    optimizer: paddle.optimizer.Optimizer,
    schedule: Schedule,
    train_loader: Loader,
    valid_loader: Loader | None,
    settings: Settings,
    resume: bool = False,
) -> Progress:
    """Train to the end of the last epoch, evaluating after each; -> where it ended.

    Of several processes (see `distributed`) each takes its share of every step; all hold the same
    weights, and rank 0 writes the files.

    Writes best.pdparams and best.safetensors (the best on the validation list, see
    `Result.quality`; without one, the last), checkpoints/, metrics.csv, vdl/ and bad_samples.txt
    into the run's folder. `resume` goes on from the newest checkpoint there, with the same draws as
    an unbroken run.

    Raises FloatingPointError naming the step when the loss is not finite; Interrupted, after
    saving, on SIGINT or SIGTERM.
    """
    scaler = paddle.amp.GradScaler(enable=settings.amp)
    progress = Progress()
    average = WeightAverage(model, settings.ema) if settings.ema else None
    if resume:
        state, problems = load_checkpoint(settings.folder / "checkpoints")
        for problem in problems:
            print(f"skipped a checkpoint: {problem}")
        if state["training_list"] != settings.training_list:
            raise ValueError(
                f"--resume: the training list had {state['training_list']} and now has "
                f"{settings.training_list}: use the same list, or start anew"
            )
        if average:  # of the weights that are in the network when it is made
            load_weights(model, state["average"], settings.folder)
            average = WeightAverage(model, settings.ema)
        load_weights(model, state["model"], settings.folder)
        load_optimizer_state(optimizer, model, state["optimizer"])
        if settings.amp:
            scaler.load_state_dict(state["scaler"])
        try:
            progress = Progress(**state["progress"])
        except TypeError as error:
            raise ValueError(
                f"--resume: the checkpoint is of another version of paddlevid ({error}): start anew"
            ) from error
        print(f"resuming in epoch {progress.epoch + 1}, after step {progress.step}")
        again = _share_among(progress, distributed.num_ranks(), train_loader.batch_size)
        if again:
            print(f"by another number of processes: up to {again} clips come once more this epoch")
    progress.ranks = distributed.num_ranks()
    distributed.share(model.state_dict().values())
    speed_up_frozen_part(model)
    is_first = distributed.rank() == 0

    saved = time.monotonic()

    def save() -> Path:
        """Together; -> the file, which rank 0 has written."""
        nonlocal saved
        saved = time.monotonic()
        share_statistics(model, average)
        folder = settings.folder / "checkpoints"
        if not is_first:
            return folder
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer_state(optimizer, model),
            "scaler": scaler.state_dict(),
            "average": average.weights if average else {},
            "progress": asdict(progress),
            "config": settings.config,
            "training_list": settings.training_list,
        }
        return save_checkpoint(folder, progress.step, state, settings.keep_checkpoints)

    steps_per_epoch = -(-len(train_loader) // settings.accumulate)
    dashboard = Dashboard(
        settings.folder if is_first else None, task.figures, progress.step, progress.batch > 0
    )
    bar = tqdm(
        total=steps_per_epoch * settings.epochs, initial=progress.step, unit="step",
        disable=not is_first, **_bar(),
    )  # fmt: skip
    if not resume:
        save()  # of what a run that breaks off in its first epoch starts from
    with contextlib.ExitStack() as at_end, _StopRequest() as stop, bar:
        at_end.callback(dashboard.close)
        loaders = [loader for loader in (train_loader, valid_loader) if loader]
        at_end.callback(lambda: _write_bad_samples(settings.folder, _reasons(loaders)))
        if not progress.step:
            metrics = [*task.figures[:2], f"best_{task.figures[1]}"]
            dashboard.log_settings(settings.recipe, metrics)
        if valid_loader and is_first:
            task.watch(valid_loader)
        while progress.epoch < settings.epochs:
            if 0 < settings.early_stop <= progress.epoch - progress.best_epoch:
                tqdm.write(
                    f"no better validation result for {settings.early_stop} epochs: stopping"
                )
                break
            model.train()
            for layer in settings.frozen:
                layer.eval()
            bar.set_description(f"epoch {progress.epoch + 1}/{settings.epochs}", refresh=False)
            batches = train_loader.batches(progress.epoch, progress.batch)
            numbers = range(progress.batch, len(train_loader), settings.accumulate)
            groups = _groups(batches, numbers, len(train_loader))
            for end, group in _timed(groups, progress):
                if group and not progress.step:
                    for name, picture in task.draw_batch(group[0]).items():
                        dashboard.log_image(0, "train", name, picture)
                    if settings.draw_network and is_first:
                        _draw_network(dashboard, model, group[0])
                rate = schedule(progress.epoch + progress.batch / len(train_loader))
                optimizer.set_lr(rate)
                seed = np.random.SeedSequence([settings.seed, progress.step, distributed.rank()])
                paddle.seed(int(seed.generate_state(1)[0]))  # dropout; the same after a resume
                every = settings.histogram_every
                watch = lambda: None  # noqa: E731
                if every and is_first and (progress.step + 1) % every == 0:
                    watch = functools.partial(_log_arrays, dashboard, model, progress.step + 1)
                started = time.perf_counter()
                try:
                    result = train_step(
                        model, task, optimizer, scaler, group,
                        settings.clip_norm, settings.clip_value,
                        np.random.default_rng(seed), progress.step, watch, settings.sync_bn,
                    )  # fmt: skip
                except FloatingPointError as error:
                    raise FloatingPointError(
                        f"{error} in step {progress.step + 1} (epoch {progress.epoch + 1}): lower "
                        "TRAIN.learning_rate, set TRAIN.clip_norm or TRAIN.warmup_epochs, or look "
                        "for clips with odd values"
                    ) from None
                progress.batch = end
                if not result.num_clips:
                    continue
                progress.step += 1
                if average:
                    average.update(progress.step)
                _count(progress, result, time.perf_counter() - started)
                dashboard.log(
                    progress.step,
                    progress.epoch + 1,
                    "train",
                    loss=result.loss,
                    **{name: number / result.num_clips for name, number in result.sums.items()},
                    learning_rate=rate,
                )
                every = settings.picture_every
                if every and progress.step % every == 0 and group and is_first:
                    folder = settings.folder / "pictures"
                    for name, picture in task.draw_step(
                        model, group[0], folder, progress.step
                    ).items():
                        dashboard.log_image(progress.step, "train", name, picture)
                bar.update()
                bar.set_postfix(_figures(progress), refresh=False)
                minutes = (time.monotonic() - saved) / 60
                due = 0 < settings.checkpoint_minutes < minutes
                wishes = distributed.gather((stop.requested, due))
                if any(wants_stop for wants_stop, _ in wishes):
                    raise Interrupted(save())
                if wishes[0][1]:
                    save()
            if not progress.sums:
                raise ValueError("none of the training clips could be read")
            share_statistics(model, average)
            try:
                with average.in_place() if average else contextlib.nullcontext():
                    _end_epoch(model, task, valid_loader, settings, progress, dashboard, stop)
            except _Stopped:
                raise Interrupted(save()) from None
            train_loader.check_bad(distributed.gather_all(list(train_loader.bad.values())))
            _write_bad_samples(settings.folder, distributed.gather_all(_reasons(loaders)))
            progress.epoch += 1
            progress.batch, progress.waited, progress.sums = 0, 0.0, {}
            save()
    return progress


def _share_among(progress: Progress, ranks: int, batch_size: int) -> int:
    """Count this epoch's batches as of so many processes: -> how many clips come once more.

    A process has batch_size clips of a batch, so the batches of fewer processes are more.
    """
    batch, rest = divmod(progress.batch * progress.ranks, ranks)
    progress.batch, progress.ranks = batch, ranks
    return rest * batch_size


def _end_epoch(
    model: nn.Layer,
    task: Task,
    valid_loader: Loader | None,
    settings: Settings,
    progress: Progress,
    dashboard: Dashboard,
    stop: "_StopRequest",
) -> None:
    """Evaluate, log, and keep the weights if they are the best so far."""
    epoch = progress.epoch + 1
    figures = _figures(progress)
    shown = " ".join(f"{name} {figures[name]}" for name in task.figures[:2])
    line = f"epoch {epoch:3d}  train {shown}"
    best = valid_loader is None
    if valid_loader is not None:
        evaluation = evaluate(
            Predictor(model, "eager"), valid_loader, task, title="validating", stop=stop.check
        )
        if not np.isfinite(evaluation.loss):
            raise FloatingPointError(
                f"the validation loss became {evaluation.loss} after epoch {epoch}: lower "
                "TRAIN.learning_rate, or set TRAIN.clip_norm or TRAIN.warmup_epochs"
            )
        line += f" | val {evaluation.in_words()}"
        dashboard.log(progress.step, epoch, "val", **evaluation.figures)
        for name, curve in task.pr_curves(evaluation).items():
            dashboard.log_pr_curve(progress.step, name, curve)
        best = evaluation.quality > tuple(progress.best)
        if best:
            progress.best = evaluation.quality
            name = task.figures[1]
            dashboard.log_best(progress.step, name, evaluation.figures[name])
            for name, picture in task.draw_result(evaluation).items():
                dashboard.log_image(progress.step, "val", name, picture)
    if best:
        progress.best_epoch = epoch
        line += " *"
    if best and distributed.rank() == 0:
        write_weights(settings.folder / "best.pdparams", model)
        metadata = describe(settings.config, settings.classes)
        write_weights(settings.folder / "best.safetensors", model, metadata)
    line += f" | {figures['clips/s']} clips/s, waited {figures['wait']} for data"
    tqdm.write(line)
    speed = progress.sums["clips"] / max(progress.sums["seconds"] + progress.waited, 1e-9)
    share = progress.waited / max(progress.sums["seconds"] + progress.waited, 1e-9)
    dashboard.log(progress.step, epoch, "train", clips_per_second=speed, data_wait=share)
    if share > 0.3 and epoch == 1:
        tqdm.write("  more than 30 % of the time goes into waiting: raise TRAIN.num_reader_threads")


def _log_arrays(dashboard: Dashboard, model: nn.Layer, step: int) -> None:
    """Histograms of the weights that are trained, and of their gradients."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            dashboard.log_histogram(step, f"weights/{name}", parameter.numpy())
            dashboard.log_histogram(step, f"gradients/{name}", parameter.grad.numpy())


def _draw_network(dashboard: Dashboard, model: nn.Layer, batch: Batch) -> None:
    """Whatever Paddle cannot export is no reason not to train it."""
    try:
        dashboard.log_network(model, batch.clips.shape[1:])
    except Exception as error:  # whatever Paddle throws at a network
        told = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        reason = re.sub(r" *\(at /paddle/.*", "", told[0].strip())
        tqdm.write(f"TRAIN.draw_network: Paddle cannot draw this network ({reason}); training it")


def share_statistics(model: nn.Layer, average: WeightAverage | None) -> None:
    """Set what the ranks gathered each of its own clips to that of rank 0; together."""
    distributed.share_statistics(model)
    if average:
        distributed.share(average.weights.values())


def _groups(batches: Iterator[Batch], starts: range, end: int) -> Iterator[tuple[int, list[Batch]]]:
    """Batches whose numbers are between two starts, and the number behind them.

    A batch of which no clip could be read is missing.
    """
    held = None  # a batch of a later group
    for start in starts:
        group: list[Batch] = []
        stop = min(start + starts.step, end)
        while not group or group[-1].number < stop - 1:
            held = next(batches, None) if held is None else held
            if held is None or held.number >= stop:
                break
            group.append(held)
            held = None
        yield stop, group


def _timed(
    groups: Iterator[tuple[int, list[Batch]]], progress: Progress
) -> Iterator[tuple[int, list[Batch]]]:
    """The same groups; adds the seconds that each took to come to progress.waited."""
    while True:
        started = time.perf_counter()
        group = next(groups, None)
        progress.waited += time.perf_counter() - started
        if group is None:
            return
        yield group


def _count(progress: Progress, result: StepResult, seconds: float) -> None:
    figures = {
        "loss": result.loss * result.num_clips,
        **result.sums,
        "clips": result.num_clips,
        "seconds": seconds,
    }
    for name, value in figures.items():
        progress.sums[name] = progress.sums.get(name, 0) + value


def _figures(progress: Progress) -> dict[str, str]:
    """The epoch so far, for the eye."""
    sums = progress.sums
    seconds = sums["seconds"] + progress.waited
    means = {name: sums[name] / sums["clips"] for name in sums if name not in ("clips", "seconds")}
    return {
        **{name: f"{mean:.4f}" for name, mean in means.items()},
        "clips/s": f"{sums['clips'] / seconds:.1f}",
        "wait": f"{progress.waited / seconds:.0%}",
    }


def _reasons(loaders: Sequence[Loader]) -> list[str]:
    """Why clips could not be read."""
    return [reason for loader in loaders for reason in loader.bad.values()]


def _write_bad_samples(folder: Path, reasons: Sequence[str]) -> None:
    """bad_samples.txt: what could not be read, and why."""
    if distributed.rank() != 0:
        return
    file = folder / "bad_samples.txt"
    known = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    new = [reason for reason in dict.fromkeys(reasons) if reason not in known]
    for reason in new:
        tqdm.write(f"  left out: {reason}")
    if new or not file.exists():
        file.write_text("".join(f"{reason}\n" for reason in known + new), encoding="utf-8")


def _bar() -> dict[str, object]:
    """tqdm's settings: on a screen lively, in a log file a line now and then."""
    lively = sys.stderr.isatty()
    return {"mininterval": 0.5 if lively else 60, "dynamic_ncols": lively}


class _Stopped(Exception):
    """Raised by _StopRequest.check."""


class _StopRequest:
    """While it is active, SIGINT and SIGTERM ask the loop to end after the step in progress.

    A second signal acts as usual; not so SIGTERM below Paddle's launcher, which sends it three
    times within a second and ends by force what is there after 30 seconds.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "_StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def check(self) -> None:
        # Several processes would leave an evaluation at different clips: they stop after it.
        if self.requested and not is_launched():
            raise _Stopped

    def _handle(self, *_: object) -> None:
        self.requested = True
        self._restore()
        if is_launched():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tqdm.write("stopping after this step; once more to stop at once", file=sys.stderr)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

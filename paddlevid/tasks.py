"""Tasks: what a batch asks of a network, what counts as good, and what there is to see of it.

`trainer.fit` and `trainer.evaluate` run any of them.
"""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor, nn

from paddlevid import plots
from paddlevid.data.encode import write_mp4
from paddlevid.data.loader import Batch, Loader
from paddlevid.data.mix import Mix
from paddlevid.frame_metrics import (
    BASELINES,
    FrameEvaluation,
    FrameSums,
    compare_frames,
    repeat_last,
)
from paddlevid.layers.recurrent import seen_frames
from paddlevid.metrics import Evaluation, PRCurve, num_hits, score_views
from paddlevid.predictor import Predictor, softmax

Pictures = dict[str, NDArray[np.uint8]]  # by name, RGB (H, W, 3)
MOST_WATCHED = 8  # validation clips whose strips are drawn with what is said of them


class Result(Protocol):
    """What an evaluation found."""

    loss: float

    @property
    def figures(self) -> dict[str, float]:
        """For the dashboard; the first is the loss."""
        ...

    @property
    def quality(self) -> tuple[float, float]:
        """The higher, the better; the second number decides between equals."""
        ...

    def in_words(self) -> str:
        """A line for the user."""
        ...


class Task(Protocol):
    """What `trainer.fit` needs to know of a task."""

    figures: Sequence[str]  # names of those that evaluations and, the first ones, steps have
    measure: str  # in words, what `Result.quality` compares first

    def compute_loss(
        self, model: nn.Layer, batch: Batch, rng: np.random.Generator | None, step: int
    ) -> tuple[Tensor, Tensor]:
        """The mean over the clips, and what the network said; `step` counts those before."""
        ...

    def count(self, outputs: Tensor, batch: Batch) -> dict[str, float]:
        """Sums over the clips of a training batch, by the figure they are for."""
        ...

    def score(self, predictor: Predictor, batch: Batch) -> object:
        """What `conclude` needs of a batch."""
        ...

    def join(self, parts: Sequence) -> object:
        """What `score` said of several batches, as if it were of one."""
        ...

    def conclude(self, parts: Sequence, num_bad: int) -> Result:
        """The evaluation of all batches; `num_bad` clips could not be read."""
        ...

    def draw_batch(self, batch: Batch) -> Pictures:
        """Of the first batch of a run."""
        ...

    def draw_step(self, model: nn.Layer, batch: Batch, folder: Path, step: int) -> Pictures:
        """Of a training batch, now and then; also written to the folder."""
        ...

    def watch(self, loader: Loader) -> None:
        """Remember some clips of the validation list, for `draw_result`."""
        ...

    def draw_result(self, result: Result) -> Pictures:
        """Of the best evaluation so far."""
        ...

    def pr_curves(self, result: Result) -> dict[str, PRCurve]:
        """Of an evaluation, by name."""
        ...


class Classification:
    """Clips and their labels.

    Args:
        loss_fn: logits (N, K) or (N, T, K), labels (N,) -> a scalar.
        classes: names of the labels.
        mix: of two clips.
        frame_labels: every frame of a clip has its label: for a network with `frame_logits`.
        image_mean, image_std: of the clips.
    """

    figures = ("loss", "top1", "top5")
    measure = "top-1"

    def __init__(
        self,
        loss_fn: Callable,
        classes: Sequence[str] = (),
        *,
        mix: Mix = Mix(),  # noqa: B008  it is frozen
        frame_labels: bool = False,
        image_mean: Sequence[float] = (0.0, 0.0, 0.0),
        image_std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        self.loss_fn, self.classes = loss_fn, classes
        self.mix, self.frame_labels = mix, frame_labels
        self.image_mean, self.image_std = image_mean, image_std
        self._watched: dict[int, NDArray[np.uint8]] = {}  # strips, by index in the list

    def compute_loss(
        self, model: nn.Layer, batch: Batch, rng: np.random.Generator | None = None, step: int = 0
    ) -> tuple[Tensor, Tensor]:
        """As a Task; of frames the loss is over all, the logits are those of the last."""
        mixed = self.mix(batch.clips, batch.labels, rng)
        labels, partners = paddle.to_tensor(mixed.labels), paddle.to_tensor(mixed.partners)
        clips, mask = paddle.to_tensor(mixed.clips), ()
        if self.frame_labels:
            logits, mask = model.frame_logits(clips), (seen_frames(clips),)
        else:
            logits = model(clips)
        loss = self.loss_fn(logits, labels, *mask)
        if mixed.share < 1:
            other = self.loss_fn(logits, partners, *mask)
            loss = mixed.share * loss + (1 - mixed.share) * other
        return loss, logits[:, -1] if self.frame_labels else logits

    def count(self, outputs: Tensor, batch: Batch) -> dict[str, float]:
        """Hits of a clip's own label."""
        scores = outputs.detach().astype("float32").numpy()
        return {f"top{k}": num_hits(scores, batch.labels, k) for k in (1, 5)}

    def score(self, predictor: Predictor, batch: Batch) -> tuple[NDArray, NDArray, NDArray]:
        """Logits, labels and indices."""
        return score_views(predictor, batch), batch.labels, batch.indices

    def join(self, parts: Sequence[tuple]) -> tuple[NDArray, NDArray, NDArray]:
        """Logits, labels and indices, one behind the other."""
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def conclude(self, parts: Sequence[tuple], num_bad: int) -> Evaluation:
        """All logits, and their loss."""
        logits, labels, indices = self.join(parts)
        loss = self.loss_fn(paddle.to_tensor(logits), paddle.to_tensor(labels)).item()
        return Evaluation(logits, labels, indices, loss, num_bad)

    def draw_batch(self, batch: Batch) -> Pictures:
        """Eight of its clips, but not of features."""
        if batch.clips.ndim != 5:
            return {}
        return {"input": plots.frame_grid(batch.clips[:8], self.image_mean, self.image_std)}

    def draw_step(self, model: nn.Layer, batch: Batch, folder: Path, step: int) -> Pictures:
        """Nothing."""
        return {}

    def watch(self, loader: Loader) -> None:
        """Clips from all over the list, as film strips; not of features."""
        indices = np.linspace(0, len(loader.dataset) - 1, MOST_WATCHED).round().astype(int)
        for item in loader.some(np.unique(indices).tolist()):
            if item.views.ndim == 5:
                strip, _ = plots.film_strip(
                    item.views[0], self.image_mean, self.image_std, most=8, height=96
                )
                self._watched[item.index] = strip

    def draw_result(self, result: Evaluation) -> Pictures:
        """The confusion matrix, and the clips that are watched with what is said of them."""
        picture = plots.to_array(plots.confusion_figure(result.confusion, self.classes))
        gc.collect()  # of figures, which are full of cycles, dozens would stay
        pictures = {"confusion": picture}
        for number, (index, strip) in enumerate(sorted(self._watched.items()), start=1):
            for row in np.flatnonzero(result.indices == index):  # none where it could not be read
                scores, label = softmax(result.logits[row]), self.classes[result.labels[row]]
                best = int(scores.argmax())
                text = f"{label}: predicted {self.classes[best]}, {scores[best]:.2f}"
                colour = "green" if best == result.labels[row] else "firebrick"
                pictures[f"clips/{number}"] = plots.with_caption(strip, text, colour)
        return pictures

    def pr_curves(self, result: Evaluation) -> dict[str, PRCurve]:
        """See `Evaluation.pr_curves`."""
        return result.pr_curves(self.classes)


class FramePrediction:
    """Frames of which the first T are the past, and the others are to be predicted.

    Args:
        loss_fn: predicted and true frames -> a scalar.
        num_past: T.
        scheduled_sampling: steps over which the decoder sees true frames in training less and
            less often, for a network with feedback = "frame"; 0: never.
        with_baselines: evaluations compare with what is simple to beat, too.
    """

    figures = ("loss", "mse", "mae", "psnr", "ssim")
    measure = "MSE a pixel"

    def __init__(
        self,
        loss_fn: Callable,
        num_past: int,
        *,
        scheduled_sampling: int = 0,
        with_baselines: bool = False,
    ) -> None:
        self.loss_fn, self.num_past, self.with_baselines = loss_fn, num_past, with_baselines
        self.scheduled_sampling = scheduled_sampling

    def split(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The past (N, C, T, H, W) and the future (N, C, n, H, W) of a batch.

        Raises ValueError for clips without a future.
        """
        if batch.clips.shape[2] <= self.num_past:
            raise ValueError(
                f"clips of {batch.clips.shape[2]} frames have no future behind {self.num_past}"
            )
        return batch.clips[:, :, : self.num_past], batch.clips[:, :, self.num_past :]

    def compute_loss(
        self, model: nn.Layer, batch: Batch, rng: np.random.Generator | None = None, step: int = 0
    ) -> tuple[Tensor, Tensor]:
        """As a Task."""
        past, future = (paddle.to_tensor(part) for part in self.split(batch))
        seen = {}
        if step < self.scheduled_sampling and rng is not None:
            share = 1 - step / self.scheduled_sampling
            keep = rng.random((future.shape[0], future.shape[2] - 1)) < share
            seen = {"truth": future, "keep": keep}
        frames = model(past, future.shape[2], **seen)
        return self.loss_fn(frames, future), frames

    def count(self, outputs: Tensor, batch: Batch) -> dict[str, float]:
        """The squared error a pixel, times the clips."""
        frames = outputs.detach().astype("float32").numpy()
        error = frames - batch.clips[:, :, self.num_past :]
        return {"mse": float(np.square(error).mean()) * len(batch.labels)}

    def score(self, predictor: Predictor, batch: Batch) -> tuple[float, dict[str, FrameSums]]:
        """The loss times the clips, and the figures of the network and the baselines."""
        past, truth = self.split(batch)
        num_future = truth.shape[2]
        [frames] = predictor(past, num_future=num_future)
        loss = self.loss_fn(paddle.to_tensor(frames), paddle.to_tensor(truth)).item()
        predicted = {"network": frames}
        if self.with_baselines:
            predicted |= {
                name: predict(past, num_future)
                for name, predict in BASELINES.items()
                if past.shape[2] > 1 or predict is repeat_last
            }
        sums = {name: compare_frames(frames, truth) for name, frames in predicted.items()}
        return loss * len(batch.labels), sums

    def join(self, parts: Sequence[tuple]) -> tuple[float, dict[str, FrameSums]]:
        """Sums over the clips of all."""
        totals = {name: FrameSums.total([sums[name] for _, sums in parts]) for name in parts[0][1]}
        return sum(loss for loss, _ in parts), totals

    def conclude(self, parts: Sequence[tuple], num_bad: int) -> FrameEvaluation:
        """The means over all clips."""
        loss, totals = self.join(parts)
        network = totals.pop("network")
        return FrameEvaluation(network, loss / network.num_clips, num_bad, totals)

    def draw_batch(self, batch: Batch) -> Pictures:
        """Eight of its clips."""
        return {"input": plots.frame_grid(batch.clips[:8], (0.0,), (1.0,))}

    def draw_step(self, model: nn.Layer, batch: Batch, folder: Path, step: int) -> Pictures:
        """Past, truth and prediction of its first clip: a strip, and a film with the prediction."""
        mode = model.training
        [clips] = self._clips(Predictor(model, "eager"), batch, 1)
        if mode:
            model.train()
        folder.mkdir(parents=True, exist_ok=True)
        strip = plots.prediction_strip(*clips)
        plots.save_image(strip, folder / f"step{step:06}.png")
        write_mp4(folder / f"step{step:06}.mp4", plots.prediction_film(*clips))
        return {"prediction": strip}

    def draw_strips(self, predictor: Predictor, batch: Batch, number: int = 4) -> NDArray[np.uint8]:
        """Past, truth and prediction of its first clips, one below the other: RGB (H, W, 3)"""
        clips = self._clips(predictor, batch, number)
        return np.concatenate([plots.prediction_strip(*parts) for parts in clips])

    def _clips(
        self, predictor: Predictor, batch: Batch, number: int
    ) -> list[tuple[NDArray[np.float32], ...]]:
        past, future = (part[:number] for part in self.split(batch))
        [frames] = predictor(past, num_future=future.shape[2])
        return list(zip(past, future, frames, strict=True))

    def watch(self, loader: Loader) -> None:
        """Nothing: `draw_step` has pictures of training clips."""

    def pr_curves(self, result: FrameEvaluation) -> dict[str, PRCurve]:
        """None."""
        return {}

    def draw_result(self, result: FrameEvaluation) -> Pictures:
        """The figures for each step into the future."""
        picture = plots.to_array(plots.steps_figure({"network": result.sums.per_step()}))
        gc.collect()  # as of any figure
        return {"steps": picture}

"""Metrics: logits and labels -> accuracies, confusion matrix, per-class table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddlevid.data.loader import Batch

MOST_CURVES = 10  # classes with a precision-recall curve each


def score_views(
    run: Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]], batch: Batch
) -> NDArray[np.float32]:
    """The logits of a batch, averaged over the views of each clip: -> (N, K).

    One view of each clip goes to `run`, such as a Predictor, at a time.
    """
    views = [run(batch.clips[view :: batch.num_views])[0] for view in range(batch.num_views)]
    return np.mean(views, axis=0)


def num_hits(logits: NDArray, labels: NDArray, k: int) -> int:
    """How many labels are among their clip's k highest logits (all, where K < k).

    Of equal logits the first is the highest, as argmax sees it: a network that says the same of
    all classes is not right. Nor is one that says nan.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)  # (N, 1)
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(axis=1)
    return int(((rank < k) & ~np.isnan(logits).any(axis=1)).sum())


@dataclass(frozen=True)
class PRCurve:
    """Precision and recall at thresholds 1/n, 2/n, ... 1, and the counts they are made of."""

    precision: NDArray[np.float64]  # (n,), 1 where nothing is above the threshold
    recall: NDArray[np.float64]
    tp: NDArray[np.int64]  # true positives, and so on
    fp: NDArray[np.int64]
    tn: NDArray[np.int64]
    fn: NDArray[np.int64]

    @classmethod
    def of(cls, scores: NDArray, is_positive: NDArray[np.bool_], steps: int = 100) -> "PRCurve":
        """Of probabilities and of what is true, both (N,); without a positive the recall is 0."""
        thresholds = np.arange(1, steps + 1) / steps
        positives, negatives = np.sort(scores[is_positive]), np.sort(scores[~is_positive])
        tn, fn = np.searchsorted(negatives, thresholds), np.searchsorted(positives, thresholds)
        tp, fp = len(positives) - fn, len(negatives) - tn
        precision = np.where(tp + fp, tp / np.maximum(tp + fp, 1), 1.0)
        return cls(precision, tp / max(len(positives), 1), tp, fp, tn, fn)

    @classmethod
    def mean(cls, curves: Sequence["PRCurve"]) -> "PRCurve":
        """Mean precision and recall at each threshold, and the sums of the counts."""
        parts = {name: [getattr(curve, name) for curve in curves] for name in cls.__annotations__}
        means = {name: np.mean(parts.pop(name), axis=0) for name in ("precision", "recall")}
        return cls(**means, **{name: np.sum(counts, axis=0) for name, counts in parts.items()})


@dataclass(frozen=True)
class Evaluation:
    """What a network said of a list of clips."""

    logits: NDArray[np.float32]  # (N, K)
    labels: NDArray[np.int64]  # (N,)
    indices: NDArray[np.int64]  # (N,), in the list
    loss: float
    num_bad: int = 0  # clips that could not be read, in no figure below

    def top_k(self, k: int) -> float:
        """Share of clips whose label is among the k highest."""
        return num_hits(self.logits, self.labels, k) / len(self.labels)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(K, K) counts: a row for each label, a column for each prediction."""
        from sklearn.metrics import confusion_matrix  # here: it takes 65 MB, and predictions none

        predictions = self.logits.argmax(axis=1)
        classes = np.arange(self.logits.shape[1])
        return confusion_matrix(self.labels, predictions, labels=classes)

    @property
    def class_accuracies(self) -> NDArray[np.float64]:
        """(K,) share of each class's clips that are right; nan where it has none."""
        confusion = self.confusion
        counts = confusion.sum(axis=1)
        return np.where(counts > 0, np.diag(confusion) / np.maximum(counts, 1), np.nan)

    @property
    def figures(self) -> dict[str, float]:
        """For the dashboard."""
        return {"loss": self.loss, "top1": self.top_k(1), "top5": self.top_k(5)}

    @property
    def quality(self) -> tuple[float, float]:
        """The higher, the better: top-1, and of equals the lower loss."""
        return self.top_k(1), -self.loss

    def in_words(self) -> str:
        """For a line of the log."""
        line = f"loss {self.loss:.4f} top-1 {self.top_k(1):.4f} top-5 {self.top_k(5):.4f}"
        line += f" of {len(self.labels)} clips"
        return line + (f" ({self.num_bad} left out)" if self.num_bad else "")

    def pr_curves(self, classes: Sequence[str]) -> dict[str, PRCurve]:
        """The mean over the classes (macro) and all answers as one (micro); of few, each class."""
        scores = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        is_label = self.labels[:, None] == np.arange(scores.shape[1])  # (N, K)
        of_class = [PRCurve.of(*columns) for columns in zip(scores.T, is_label.T, strict=True)]
        of_all = PRCurve.of(scores.ravel(), is_label.ravel())
        curves = {"all/macro": PRCurve.mean(of_class), "all/micro": of_all}
        if len(classes) <= MOST_CURVES:
            curves |= {f"class/{name}": c for name, c in zip(classes, of_class, strict=True)}
        return curves

    def summary(self) -> dict[str, float | int]:
        """The figures of metrics.json."""
        return {
            "top1": self.top_k(1),
            "top5": self.top_k(5),
            "mean_class_accuracy": float(np.nanmean(self.class_accuracies)),
            "loss": self.loss,
            "num_clips": len(self.labels),
            "num_bad": self.num_bad,
        }

    def class_table(self, classes: Sequence[str]) -> list[dict[str, object]]:
        """A row for each class: its clips, accuracy, and what it is most often taken for."""
        rows, accuracies = [], self.class_accuracies
        for label, (name, counts) in enumerate(zip(classes, self.confusion, strict=True)):
            others = np.where(np.arange(len(counts)) == label, 0, counts)
            rows.append(
                {
                    "class": name,
                    "clips": int(counts.sum()),
                    "accuracy": round(float(accuracies[label]), 4),
                    "taken_for": classes[int(others.argmax())] if others.any() else "",
                }
            )
        return rows

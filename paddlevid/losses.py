"""Losses: logits (N, K) or (N, T, K) and labels (N,), or two clips of frames -> a number."""

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


class CrossEntropy(nn.Layer):
    """Mean over the clips of the cross-entropy times the weight of the clip's class.

    Unlike nn.CrossEntropyLoss, which divides by the sum of the weights: thus batches that are
    accumulated add up to one large batch.

    Args:
        weights: of the classes, (K,); None: all count alike.
        label_smoothing: share of the label that is spread over all classes.
    """

    def __init__(
        self, weights: Sequence[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.weights = None if weights is None else paddle.to_tensor(weights, "float32")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor, seen: Tensor | None = None) -> Tensor:
        """(N, K), (N,) -> a scalar

        With logits of each frame (N, T, K), every frame has the clip's label, and a clip counts as
        the mean of its frames; `seen` (N, T) is False for those that only pad it.
        """
        targets = labels
        if logits.ndim == 3:
            targets = labels.unsqueeze(1).expand(logits.shape[:2])
        losses = F.cross_entropy(
            logits, targets, reduction="none", label_smoothing=self.label_smoothing
        ).reshape(logits.shape[:-1])
        if seen is not None:
            share = seen.astype(losses.dtype)
            losses = (losses * share).sum(axis=1) / share.sum(axis=1).clip(min=1)
        if self.weights is not None:
            losses = losses * self.weights.gather(labels)
        return losses.mean()


class FrameError(nn.Layer):
    """Mean over all pixels of predicted frames: "mse", "l1", or "l1_mse", their sum."""

    def __init__(self, kind: str = "mse") -> None:
        super().__init__()
        if kind not in ("mse", "l1", "l1_mse"):
            raise ValueError(f"unknown loss {kind!r}; there are 'mse', 'l1' and 'l1_mse'")
        self.kind = kind

    def forward(self, frames: Tensor, truth: Tensor) -> Tensor:
        """Two tensors of one shape -> a scalar"""
        error = frames - truth
        parts = []
        if "mse" in self.kind:
            parts.append((error * error).mean())
        if "l1" in self.kind:
            parts.append(error.abs().mean())
        return sum(parts)

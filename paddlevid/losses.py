"""Losses: logits (N, K) and labels (N,) -> a number."""

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


class WeightedCrossEntropy(nn.Layer):
    """Mean over the clips of the cross-entropy times the weight of the clip's class.

    Unlike nn.CrossEntropyLoss, which divides by the sum of the weights: thus batches that are
    accumulated add up to one large batch.

    Args:
        weights: of the classes, (K,).
        label_smoothing: share of the label that is spread over all classes.
    """

    def __init__(self, weights: Sequence[float], label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.weights = paddle.to_tensor(weights, "float32")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, K), (N,) -> a scalar"""
        losses = F.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.label_smoothing
        )
        return (losses.reshape([-1]) * self.weights.gather(labels)).mean()

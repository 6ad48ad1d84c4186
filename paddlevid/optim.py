"""Optimisation: learning rate as a function of progress, optimisers, clipping of gradients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import paddle
from paddle import nn


@dataclass(frozen=True)
class Schedule:
    """The learning rate at a point of the training, in epochs from its start.

    Args:
        policy: "constant", "multistep" (times `decay` at each of `milestones`), or "cosine"
            (to 0 at the end; Loshchilov and Hutter 2017, without restarts).
        per_step: the rate changes at every step; otherwise at the start of each epoch.
        warmup: epochs in which it rises linearly from a tenth, step by step.
    """

    rate: float
    epochs: int
    policy: str = "constant"
    milestones: Sequence[int] = ()
    decay: float = 0.1
    per_step: bool = False
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.policy not in ("constant", "multistep", "cosine"):
            raise ValueError(
                f"unknown policy {self.policy!r}; there are 'constant', 'multistep' and 'cosine'"
            )

    def __call__(self, position: float) -> float:
        """The rate after `position` epochs, a whole number plus the share done of the next."""
        if position < self.warmup:
            return self.rate * (0.1 + 0.9 * position / self.warmup)
        point = position if self.per_step else math.floor(position)
        if self.policy == "multistep":
            return self.rate * self.decay ** sum(point >= epoch for epoch in self.milestones)
        if self.policy == "cosine":
            share = max(point - self.warmup, 0) / max(self.epochs - self.warmup, 1e-9)
            return self.rate * 0.5 * (1 + math.cos(math.pi * min(share, 1)))
        return self.rate


def create_optimizer(
    name: str,
    parameters: Sequence[paddle.Tensor],
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> paddle.optimizer.Optimizer:
    """Momentum SGD with L2 decay, or AdamW with decoupled decay; the rate is set at each step."""
    if name == "adamw":
        return paddle.optimizer.AdamW(
            learning_rate=0.0, parameters=parameters, beta1=momentum, weight_decay=weight_decay
        )
    if name != "momentum":
        raise ValueError(f"unknown optimiser {name!r}; there are 'momentum' and 'adamw'")
    return paddle.optimizer.Momentum(
        learning_rate=0.0,
        momentum=momentum,
        use_nesterov=nesterov,
        weight_decay=paddle.regularizer.L2Decay(weight_decay) if weight_decay else None,
        parameters=parameters,
    )


def clip_gradients(parameters: Sequence[paddle.Tensor], norm: float, value: float) -> None:
    """Limit the global norm of all gradients, then the size of each value; 0 = no limit."""
    if norm:
        nn.utils.clip_grad_norm_(parameters, norm)
    if value:
        nn.utils.clip_grad_value_([p for p in parameters if p.grad is not None], value)

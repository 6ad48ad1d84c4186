"""Optimisation: learning rates, parameter groups, optimisers, clipping, averages of weights."""

import contextlib
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import paddle
from paddle import nn


@dataclass(frozen=True)
class Schedule:
    """The learning rate at a point of the training, in epochs from its start.

    Args:
        policy: "constant", "multistep" (times `decay` at each of `milestones`), "cosine"
            (to 0 at the end; Loshchilov and Hutter 2017, without restarts), or "one_cycle" (Smith
            and Topin 2018, arXiv:1708.07120: in cosines from 1/25 up over three tenths of the
            epochs, then down to 1/250,000, as in PyTorch).
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
        known = ("constant", "multistep", "cosine", "one_cycle")
        if self.policy not in known:
            raise ValueError(
                f"unknown policy {self.policy!r}; there are {', '.join(map(repr, known))}"
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
            return self.rate * _cosine(1, 0, share)
        if self.policy == "one_cycle":
            share = min(point / self.epochs, 1)
            if share < 0.3:
                return self.rate * _cosine(1 / 25, 1, share / 0.3)
            return self.rate * _cosine(1, 1 / 250_000, (share - 0.3) / 0.7)
        return self.rate


def _cosine(start: float, end: float, share: float) -> float:
    """From start to end along half a wave."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(share, 1)))


def group_parameters(
    model: nn.Layer,
    *,
    weight_decay: float = 0.0,
    no_decay: Collection[str] = (),
    bias_lr: float = 1.0,
    trunk_lr: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict]:
    """The trained parameters in groups of one learning rate and decay, as Paddle's optimisers take.

    Args:
        no_decay: kinds of parameters without weight decay: "bias", "norm" (its scale and offset),
            "embedding" (class token, positions, times).
        bias_lr: times the rate, for biases of convolutions and linear layers.
        trunk_lr: times the rate, for all but `model.classifier`.
        layer_decay: a factor for each block between a parameter and the classifier (Clark et al.
            2020, ELECTRA); the network must have `blocks`.

    Raises ValueError for layer_decay with a network that has no `blocks`.
    """
    depth = len(getattr(model, "blocks", ()))
    if layer_decay != 1 and not depth:
        raise ValueError(
            f"layer_decay = {layer_decay} needs a transformer, which has blocks; a "
            f"{type(model).__name__} has none: leave it at 1"
        )
    groups: dict[tuple[float, float], list[paddle.Tensor]] = {}
    classifier = getattr(model, "classifier", None)
    for prefix, layer in model.named_sublayers(include_self=True):
        for name, parameter in layer.named_parameters(include_sublayers=False):
            if parameter.stop_gradient:
                continue
            kind = _kind_of(layer, name)
            rate = bias_lr if kind == "bias" else 1.0
            if prefix != classifier and not prefix.startswith(f"{classifier}."):
                rate *= trunk_lr
                block = re.match(r"blocks\.(\d+)", prefix)
                below = depth - 1 - int(block[1]) if block else depth if prefix != "norm" else -1
                rate *= layer_decay ** (below + 1)
            decay = 0.0 if kind in no_decay else weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "learning_rate": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def _kind_of(layer: nn.Layer, name: str) -> str:
    """ "norm", "bias", "weight" or "embedding"."""
    if isinstance(layer, (nn.LayerNorm, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)):
        return "norm"
    if name.startswith("weight"):  # also weight_ih
        return "weight"
    return "bias" if name.startswith("bias") else "embedding"


def create_optimizer(
    name: str,
    groups: Sequence[dict],
    *,
    momentum: float = 0.9,
    beta2: float = 0.999,
    nesterov: bool = False,
    epsilon: float = 1e-7,
) -> paddle.optimizer.Optimizer:
    """Momentum SGD or RMSprop with L2 decay, AdamW with decoupled; the rate is set at each step.

    Args:
        groups: of `group_parameters`.
    """
    if name == "adamw":
        return paddle.optimizer.AdamW(
            learning_rate=0.0, parameters=list(groups), beta1=momentum, beta2=beta2
        )
    if name == "rmsprop":  # Keras' rho, and unless told otherwise its epsilon
        return paddle.optimizer.RMSProp(
            learning_rate=0.0, rho=0.9, epsilon=epsilon, momentum=momentum, parameters=list(groups)
        )
    if name != "momentum":
        raise ValueError(f"unknown optimiser {name!r}; there are 'momentum', 'adamw' and 'rmsprop'")
    return paddle.optimizer.Momentum(
        learning_rate=0.0, momentum=momentum, use_nesterov=nesterov, parameters=list(groups)
    )


class WeightAverage:
    """Exponential moving average of all weights of a network, batch-norm statistics too.

    The first steps count less: the decay is at most (1 + step) / (10 + step), as in TensorFlow.
    """

    def __init__(self, model: nn.Layer, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.weights = {name: tensor.clone() for name, tensor in self._current().items()}

    def _current(self) -> dict[str, paddle.Tensor]:
        return {name: tensor.detach() for name, tensor in self.model.state_dict().items()}

    def update(self, step: int) -> None:
        """Take the weights after step number `step`, counted from 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self._current().items():
            self.weights[name] = paddle.lerp(self.weights[name], tensor, share)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While it is active, the network has the average as its weights."""
        own = {name: tensor.clone() for name, tensor in self._current().items()}
        self.model.set_state_dict(self.weights)
        try:
            yield
        finally:
            self.model.set_state_dict(own)


def clip_gradients(parameters: Sequence[paddle.Tensor], norm: float, value: float) -> None:
    """Limit the global norm of all gradients, then the size of each value; 0 = no limit."""
    if norm:
        nn.utils.clip_grad_norm_(parameters, norm)
    if value:
        nn.utils.clip_grad_value_([p for p in parameters if p.grad is not None], value)

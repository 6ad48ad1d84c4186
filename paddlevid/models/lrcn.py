"""LRCN (Donahue et al. 2015, arXiv:1411.4389): a CNN for each frame and a recurrent network, end
to end.

As WuLC's network in Keras on VGG16, whose fully connected layer has no activation. Differs from it:
the GRU's reset gate comes behind the product, and its gates are sigmoids.
"""

import itertools
from collections.abc import Callable

import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import Tensor, nn

from paddlevid.layers.recurrent import RecurrentStack, average_over_frames, seen_frames
from paddlevid.layers.time import fold_time, unfold_time
from paddlevid.layers.trunks import (
    average_to_grid,
    blocks_of,
    create_resnet,
    create_trunk,
    num_features,
    published_weights,
    start_kaiming_normal,
)


class LRCN(nn.Layer):
    """Frames -> VGG16 or ResNet -> linear -> dropout -> recurrent layers -> linear.

    A frame whose numbers are all 0 is passed over by the recurrent layers: clips of unlike length
    are padded with such frames.

    Args:
        num_classes: K.
        depth: of the ResNet; 0: VGG16.
        width: channels of the ResNet's first stage; fewer than 64 only for depth 18 and 34.
        trained_blocks: how many of the trunk's five blocks are trained, from the top; the others
            stay as they are, their batch norms too. 1 as published.
        grid: the trunk's maps are averaged to grid x grid; 7 leaves VGG16's as they are.
        reduced: numbers of a frame behind the linear layer.
        relu: with an activation behind it, as in the paper's own network.
        cell: "gru", "lstm" or "rnn".
        hidden: numbers of its state.
        num_layers, bidirectional: of the recurrent layers.
        dropout: behind the linear layer, and of the recurrent layers' input.
        recurrent_dropout: of their state.
        bias_init: of their gates; 1 as published.
        average: average what it says after each frame, as in the paper, instead of what it says
            after the last.
        k1, k2: truncated back-propagation: every k1 steps the gradient goes k2 steps back; 0: all.
    """

    classifier = "fc"

    def __init__(
        self,
        num_classes: int,
        depth: int,
        *,
        width: int = 64,
        trained_blocks: int = 1,
        grid: int = 7,
        reduced: int = 2048,
        relu: bool = False,
        cell: str = "gru",
        hidden: int = 1024,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.5,
        recurrent_dropout: float = 0.5,
        bias_init: float = 1.0,
        average: bool = False,
        k1: int = 0,
        k2: int = 0,
    ) -> None:
        super().__init__()
        if not (0 <= trained_blocks <= 5 and grid >= 1 and reduced >= 1):
            raise ValueError(
                f"trained_blocks = {trained_blocks} needs a number from 0 to 5, grid = {grid} and "
                f"reduced = {reduced} at least 1"
            )
        if not depth and width != 64:
            raise ValueError(f"width = {width}: VGG16 has only one, 64; take lrcn_r18 or lrcn_r34")
        self.trunk = create_resnet(depth, width) if depth else create_trunk("vgg16")
        self.depth, self.grid, self.relu, self.average = depth, grid, relu, average
        self.reduce = nn.Linear(num_features(self.trunk) * grid**2, reduced)
        self.dropout = nn.Dropout(dropout)
        self.recurrent = RecurrentStack(
            reduced, hidden, cell, num_layers, bidirectional, (k1, k2), dropout=dropout,
            recurrent_dropout=recurrent_dropout, bias_init=bias_init, input_init="orthogonal",
        )  # fmt: skip
        self.fc = nn.Linear(self.recurrent.c_out, num_classes)
        if depth:
            start_kaiming_normal(self.trunk)
        for layer in (self.reduce, self.fc):
            nn.initializer.XavierUniform()(layer.weight)
            nn.initializer.Constant(0.0)(layer.bias)
        self._num_frozen = 5 - trained_blocks
        # Says in training what `frozen_part` says, in a faster way, where there is one.
        self.run_frozen: Callable[[Tensor], Tensor] | None = None
        for parameter in self.frozen_part().parameters():
            parameter.stop_gradient = True

    def forward(self, clip: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, K) logits, for any T, and H and W of 32 pixels at least"""
        states, last = self._states(clip)
        if self.average:
            return average_over_frames(self.fc(states), seen_frames(clip))
        return self.fc(last)

    def frame_logits(self, clip: Tensor) -> Tensor:
        """What it would say of the clip up to each frame: (N, 3, T, H, W) -> (N, T, K)"""
        states, _ = self._states(clip)
        return self.fc(states)

    def _states(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        maps = self._maps(fold_time(clip))
        steps = self.reduce(average_to_grid(maps, self.grid).flatten(1))
        steps = unfold_time(self.dropout(F.relu(steps) if self.relu else steps), clip.shape[2])
        return self.recurrent(steps, seen_frames(clip))

    def _maps(self, frames: Tensor) -> Tensor:
        if not (self.training and self.run_frozen):
            return self.trunk(frames)
        trained = itertools.chain(*blocks_of(self.trunk)[self._num_frozen :])
        return nn.Sequential(*trained)(self.run_frozen(frames))

    def frozen_part(self) -> nn.Layer:
        """The blocks of the trunk that are not trained: frames (N, 3, H, W) -> maps."""
        return nn.Sequential(*itertools.chain(*blocks_of(self.trunk)[: self._num_frozen]))

    @property
    def imagenet_weights(self) -> tuple[str, str]:
        """Address and MD5 sum of the weights that Paddle publishes for the trunk."""
        return published_weights(f"resnet{self.depth}" if self.depth else "vgg16")

    def adapt(self, weights: dict[str, NDArray]) -> dict[str, tuple[NDArray, str, str]]:
        """What an image network's weights lack: all behind the trunk, which stays as it is."""
        if any(name.startswith(("reduce.", "recurrent.")) for name in weights):
            return {}
        return {
            name: (tensor.numpy(), "initialised", "the file is of an image network")
            for name, tensor in self.state_dict().items()
            if name.startswith(("reduce.", "recurrent."))
        }

    def train(self) -> None:
        """Training mode; the batch norms of frozen blocks stay in evaluation mode."""
        super().train()
        self.frozen_part().eval()


def lrcn_vgg16(num_classes: int, **arguments: object) -> LRCN:
    """LRCN on VGG16."""
    return LRCN(num_classes, 0, **arguments)


def lrcn_r18(num_classes: int, **arguments: object) -> LRCN:
    """LRCN on ResNet-18."""
    return LRCN(num_classes, 18, **arguments)


def lrcn_r34(num_classes: int, **arguments: object) -> LRCN:
    """LRCN on ResNet-34."""
    return LRCN(num_classes, 34, **arguments)


def lrcn_r50(num_classes: int, **arguments: object) -> LRCN:
    """LRCN on ResNet-50."""
    return LRCN(num_classes, 50, **arguments)

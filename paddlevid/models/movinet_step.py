"""A single frame through a MoViNetStream, in two dimensions: what a CPU takes for live video.

Equal to `MoViNetStream.step` on a chunk of one frame, with the same state. Batch norms are folded
into the convolutions, and a convolution over time sees the frames as rows.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import Tensor, nn

from paddlevid.models.movinet import Block, ConvNorm, MoViNetStream, State


class FrameStep(nn.Layer):
    """A frame and a state -> logits and the state behind it.

    Args:
        network: its weights are copied; with conv_type = "2plus1d".
        names: of the state's tensors, in the order of the lists.
    """

    def __init__(self, network: MoViNetStream, names: list[str]) -> None:
        super().__init__()
        if network.conv_type != "2plus1d":
            raise ValueError("FrameStep needs a network with conv_type = '2plus1d'")
        self.names = names
        self.stem = FrameConv(network.stem)
        blocks = [block for stage in network.stages for block in stage]
        self.blocks = nn.LayerList([FrameBlock(block) for block in blocks])
        self.head = FrameConv(network.head)
        self.fc = network.fc
        self.eval()

    def forward(self, arrays: list[Tensor]) -> list[Tensor]:
        """[frames (N, 3, 1, H, W), state ...] -> [logits (N, K), state ...]"""
        state = {name: arrays[i + 1] for i, name in enumerate(self.names)}
        number = state["count"].reshape([-1, 1])  # of this frame, from 0
        count = number + paddle.ones([1, 1])
        state["count"] = count.reshape([-1, 1, 1, 1, 1])
        maps = self.stem(arrays[0].squeeze(2))
        for block in self.blocks:
            maps = block(maps, state, number, count)
        means, _ = _mean(self.head(maps), state, "head", count)
        return [self.fc(means), *(state[name] for name in self.names)]


class FrameConv(nn.Layer):
    """A ConvNorm for one frame, (N, C, H, W) -> (N, C', h, w); over time: (N, C, a, H·W)"""

    def __init__(self, layer: ConvNorm, factor: float = 1.0) -> None:
        super().__init__()
        norm, weight = layer.norm, layer.conv.weight
        c_out, c_in, time, height, width = weight.shape
        scale = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
        groups = 1 if layer.groups == 1 else c_out
        self.conv = nn.Conv2D(
            c_in * groups, c_out, (time, 1) if time > 1 else (height, width),
            stride=1 if time > 1 else layer.stride[1], padding=0 if time > 1 else "SAME",
            groups=groups,
        )  # fmt: skip
        folded = weight * (scale * factor).reshape([-1, 1, 1, 1, 1])
        self.conv.weight.set_value(folded.reshape(self.conv.weight.shape))
        self.conv.bias.set_value((norm.bias - norm._mean * scale) * factor)
        self.active = bool(layer.activation)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        maps = self.conv(x)
        return F.hardswish(maps) if self.active else maps


class FrameBlock(nn.Layer):
    """A Block for one frame."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.expand = FrameConv(block.expand)
        self.space = FrameConv(block.depthwise[0])
        self.time = FrameConv(block.depthwise[1]) if len(block.depthwise) > 1 else None
        self.buffer = block.depthwise[-1].buffer
        self.name, self.slope = block.se.name, block.se.gate.slope
        self.reduce, self.enlarge = _linear(block.se.reduce), _linear(block.se.expand)
        self.scale = None
        if block.se.scale is not None:
            self.scale = block.se.scale.item()
            half = self.reduce.weight.shape[0] // 2
            rates = np.tile(10000.0 ** (-np.arange(half) / half), 2)
            phases = np.repeat([0, np.pi / 2], half)
            # Of a sine and a cosine of one tensor Paddle 3.3.1's inference makes a wrong cosine.
            self.rates, self.phases = (self._constant(array) for array in (rates, phases))
        self.project = FrameConv(block.project, block.alpha.item())
        self.stride = block.stride
        self.skip = FrameConv(block.skip) if block.skip else None

    def _constant(self, array: NDArray) -> Tensor:
        value = nn.initializer.Assign(array[None].astype(np.float32))
        return self.create_parameter([1, len(array)], default_initializer=value)

    def forward(self, x: Tensor, state: State, number: Tensor, count: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', h, w)"""
        maps = self.space(self.expand(x))
        _, c, h, w = maps.shape
        if self.time is not None:
            past = state[self.buffer]
            frames = paddle.concat([past, maps.unsqueeze(2)], axis=2)
            state[self.buffer] = frames[:, :, 1:]
            maps = self.time(frames.reshape([0, c, -1, h * w])).reshape([0, c, h, w])
        means, frame = _mean(maps, state, self.name, count)
        vectors = paddle.concat([means, frame], axis=1)
        if self.scale:
            waves = paddle.sin(number * self.rates + self.phases)
            vectors = vectors + self.scale * waves
        weights = self.enlarge(F.hardswish(self.reduce(vectors)))
        weights = F.hardsigmoid(weights, slope=self.slope).reshape([0, c, 1, 1])
        added = self.project(maps * weights)
        if self.stride > 1:
            x = F.avg_pool2d(x, 3, self.stride, "SAME")
        return added + (self.skip(x) if self.skip is not None else x)


def _mean(maps: Tensor, state: State, name: str, count: Tensor) -> tuple[Tensor, Tensor]:
    """The means of all frames so far and of this one, both (N, C); the state's sum is replaced."""
    c = maps.shape[1]
    frame = F.adaptive_avg_pool2d(maps, 1).reshape([0, c])
    total = state[f"{name}_sum"].reshape([0, c]) + frame
    state[f"{name}_sum"] = total.reshape([0, c, 1, 1, 1])
    return total / count, frame


def _linear(layer: nn.Conv3D) -> nn.Linear:
    weight = layer.weight
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight.set_value(weight.reshape(weight.shape[:2]).t())
    linear.bias.set_value(layer.bias)
    return linear

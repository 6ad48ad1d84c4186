"""A single frame through a MoViNetStream, in two dimensions: what a CPU takes for live video.

Equal to `MoViNetStream.step` on a chunk of one frame, with the same state. Batch norms are folded
into the convolutions, and a convolution over time sees the frames one below the other, as one tall
map whose rows it takes an image's height apart.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import Tensor, nn

from paddlevid.models.movinet import Block, ConvNorm, MoViNetStream


class FrameStep(nn.Layer):
    """A frame and a state -> logits and what is to be kept.

    Args:
        network: its weights are copied; with conv_type = "2plus1d".
        shapes: of the state's tensors, see `MoViNetStream.state_shapes`; the lists are in their
            order, without the count.
    """

    def __init__(self, network: MoViNetStream, shapes: dict[str, list[int]]) -> None:
        super().__init__()
        if network.conv_type != "2plus1d":
            raise ValueError("FrameStep needs a network with conv_type = '2plus1d'")
        self.names = [name for name in shapes if name != "count"]
        self.stem = FrameConv(network.stem)
        blocks = [block for stage in network.stages for block in stage]
        self.blocks = nn.LayerList([FrameBlock(block, shapes) for block in blocks])
        self.positions = self.blocks[0].scale is not None
        self.head = FrameConv(network.head)
        self.fc = network.fc
        self.eval()

    def forward(self, arrays: list[Tensor]) -> list[Tensor]:
        """One frame of each video.

        [frames (N, 3, H, W), one over their number from 1 (N, 1, 1, 1), with positions their number
        from 0 (N, 1, 1, 1), kept frames (N, C, a * H, W) and sums (N, C, 1, 1)] -> [logits (N, K),
        frames to keep (N, C, H, W) and sums]
        """
        first = 2 + self.positions
        rate, number = arrays[1], arrays[first - 1]
        state = {name: arrays[first + i] for i, name in enumerate(self.names)}
        maps = self.stem(arrays[0])
        for block in self.blocks:
            maps = block(maps, state, rate, number)
        total = F.adaptive_avg_pool2d(self.head(maps), 1) + state["head_sum"]
        state["head_sum"] = total
        logits = self.fc((total * rate).squeeze([2, 3]))
        return [logits, *(state[name] for name in self.names)]


class FrameConv(nn.Layer):
    """A ConvNorm for one frame, (N, C, H, W) -> (N, C', h, w); over time: (N, C, a * H, W)

    Args:
        factor: the result is multiplied by it.
        height: of a frame, for a layer over time.
    """

    def __init__(self, layer: ConvNorm, factor: float = 1.0, height: int = 0) -> None:
        super().__init__()
        weight, bias = layer.folded()
        c_out, c_in, time, *space = weight.shape
        groups = 1 if layer.groups == 1 else c_out
        self.conv = nn.Conv2D(
            c_in * groups, c_out, (time, 1) if height else space, groups=groups,
            stride=1 if height else layer.stride[1], padding=0 if height else "SAME",
            dilation=(height, 1) if height else 1,
        )  # fmt: skip
        self.conv.weight.set_value((weight * factor).reshape(self.conv.weight.shape))
        self.conv.bias.set_value(bias * factor)
        self.active = bool(layer.activation)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        maps = self.conv(x)
        return F.hardswish(maps) if self.active else maps


class FrameBlock(nn.Layer):
    """A Block for one frame."""

    def __init__(self, block: Block, shapes: dict[str, list[int]]) -> None:
        super().__init__()
        self.expand = FrameConv(block.expand)
        self.space = FrameConv(block.depthwise[0])
        self.buffer, self.time = block.depthwise[-1].buffer, None
        if self.buffer:
            self.time = FrameConv(block.depthwise[1], height=shapes[self.buffer][3])
        self.name, self.slope = block.se.name, block.se.gate.slope
        self.reduce, self.enlarge = _flat(block.se.reduce), _flat(block.se.expand)
        self.scale = None
        if block.se.scale is not None:
            self.scale = block.se.scale.item()
            half = self.reduce.weight.shape[1] // 2
            rates = np.tile(10000.0 ** (-np.arange(half) / half), 2)
            phases = np.repeat([0, np.pi / 2], half)
            # Of a sine and a cosine of one tensor Paddle 3.3.1's inference makes a wrong cosine.
            self.rates, self.phases = (self._constant(array) for array in (rates, phases))
        self.project = FrameConv(block.project, block.alpha.item())
        self.stride = block.stride
        self.skip = FrameConv(block.skip) if block.skip else None

    def _constant(self, array: NDArray) -> Tensor:
        value = nn.initializer.Assign(array.reshape(1, -1, 1, 1).astype(np.float32))
        return self.create_parameter([1, len(array), 1, 1], default_initializer=value)

    def forward(self, x: Tensor, state: dict[str, Tensor], rate: Tensor, number: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', h, w); what is to be kept replaces the block's state."""
        maps = self.space(self.expand(x))
        if self.time is not None:
            frames = paddle.concat([state[self.buffer], maps], axis=2)
            state[self.buffer] = maps
            maps = self.time(frames)
        frame = F.adaptive_avg_pool2d(maps, 1)
        total = state[f"{self.name}_sum"] + frame
        state[f"{self.name}_sum"] = total
        vectors = paddle.concat([total * rate, frame], axis=1)
        if self.scale is not None:
            vectors = vectors + self.scale * paddle.sin(number * self.rates + self.phases)
        weights = self.enlarge(F.hardswish(self.reduce(vectors)))
        added = self.project(maps * F.hardsigmoid(weights, slope=self.slope))
        if self.stride > 1:
            x = F.avg_pool2d(x, 3, self.stride, "SAME")
        return added + (self.skip(x) if self.skip is not None else x)


def _flat(layer: nn.Conv3D) -> nn.Conv2D:
    c_out, c_in = layer.weight.shape[:2]
    flat = nn.Conv2D(c_in, c_out, 1)
    flat.weight.set_value(layer.weight.reshape([c_out, c_in, 1, 1]))
    flat.bias.set_value(layer.bias)
    return flat

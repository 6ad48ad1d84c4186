"""MoViNet (Kondratyuk et al. 2021, arXiv:2103.11511): mobile 3-D networks, found by search.

`MoViNet` reads whole clips. `MoViNetStream` is causal: it also reads a video in chunks of any
length, with a state of constant size between them.

Padding is TensorFlow's, as in the authors' code. Differs from the search space: the networks that
were found, A0 to A5, are here, and tables in their notation.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import Tensor, nn

State = dict[str, Tensor]


@dataclass(frozen=True)
class Table:
    """The sizes of a network."""

    stem: int  # channels
    stages: str  # with a / between two, see `read_stages`
    head: int  # channels
    frames: int  # of the published input
    pixels: int  # of its sides
    positions: bool = False  # stream: squeeze-and-excitation knows the number of the frame


# Tables 1 and 11 to 15 of the paper
TABLES = {
    "a0": Table(
        8,
        "8: 24@15 / 32: 80@33x3 / 56: 184@53 112@33 184@33 / 56: 184@53 184@33x3 / "
        "104: 384@53 280@15x2 344@15",
        480,
        50,
        172,
    ),
    "a1": Table(
        16,
        "16: 40@15 40@33 / 40: 96@33 120@33 96@33x2 / 64: 216@53 128@33 216@33 168@33 216@33 / "
        "64: 216@53 216@33x2 128@33 128@15 216@33 / 136: 456@53 360@15x3 456@15 456@33 544@13",
        600,
        50,
        172,
    ),
    "a2": Table(
        16,
        "16: 40@15 40@33 64@33 / 40: 96@33 120@33 96@33x2 120@33 / "
        "72: 240@53 160@33 240@33 192@33 240@33 / 72: 240@53 240@33x3 144@15 240@33 / "
        "144: 480@53 384@15x2 480@15x2 480@33 576@13",
        640,
        50,
        224,
    ),
    "a3": Table(
        16,
        "16: 40@15 40@33 64@33 40@33 / 48: 112@33 144@33 112@33 112@15 144@33x2 / "
        "80: 240@53 152@33 240@33 192@33 240@33 / 88: 264@53 264@33x3 160@15 264@33x3 / "
        "168: 560@53 448@15x2 560@15x2 560@33 448@15x2 560@33 672@13",
        744,
        120,
        256,
        True,
    ),
    "a4": Table(
        24,
        "24: 64@15 64@33 96@33 64@33 96@33 64@33 / 56: 168@33x2 136@33x2 168@33x3 136@15 136@33 / "
        "96: 320@53 160@33 320@33 192@33 320@33 160@33 320@33 256@33 320@33 / "
        "96: 320@53 320@33x3 192@15 320@33x2 192@33 320@33x2 / "
        "192: 640@53 512@15x2 640@15x2 640@33 512@15x2 640@15 768@15 640@15 640@33 768@33",
        856,
        80,
        290,
        True,
    ),
    "a5": Table(
        24,
        "24: 64@15x2 96@33 64@33 96@33 64@33 / 64: 192@53 152@33x3 192@33x3 152@33x2 192@33x2 / "
        "112: 376@53 224@33 376@33x2 296@33 376@33 224@33 376@33x2 296@33 376@33x3 / "
        "120: 376@53 376@33x3 224@15 376@33x2 224@33 376@33x3 / "
        "224: 744@53 744@33 600@15x2 744@15x2 744@33 896@15 600@15x2 896@15 744@15 744@33 896@15 "
        "600@15x2 744@15 744@33",
        992,
        120,
        320,
        True,
    ),
}
_STRIDES = (2, 2, 2, 1, 2)  # over space, of the first layer of each stage


def read_stages(text: str) -> list[tuple[int, list[tuple[int, int, int]]]]:
    """Channels, and (expanded channels, kernel of time, of space) of the layers, for each stage.

    "32: 80@33x3 112@53 / ..." is a stage of 32 channels: three layers expanded to 80 with a kernel
    of 3x3x3, and one expanded to 112 with 5x3x3, 5 of them over time.
    """
    stages = []
    for stage in text.split("/"):
        match = re.fullmatch(r" *(\d+): *((?:\d+@[135]{2}(?:x\d+)? *)+)", stage)
        if not match:
            raise ValueError(f"stage {stage.strip()!r}: needs a form such as '32: 80@33x3 112@53'")
        layers = []
        for expanded, time, space, count in re.findall(r"(\d+)@(\d)(\d)(?:x(\d+))?", match[2]):
            layers += [(int(expanded), int(time), int(space))] * int(count or 1)
        stages.append((int(match[1]), layers))
    return stages


def make_divisible(number: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is no more than a tenth below `number`."""
    rounded = max(divisor, int(number + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * number else rounded


class ConvNorm(nn.Layer):
    """A convolution without bias, batch norm and an activation.

    Args:
        kernel, stride: of time, height and width; padded as TensorFlow's SAME.
        activation: "swish", "hard_swish" or "" for none.
        momentum: of the batch norm's statistics.
        groups: c_in for a depthwise one.
        buffer: causal: over this frame and those before, which are kept in the state under this
            name; "": over those behind it too.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
        activation: str = "",
        momentum: float = 0.99,
        groups: int = 1,
        buffer: str = "",
    ) -> None:
        super().__init__()
        self.buffer = buffer if kernel[0] > 1 else ""
        self.conv = nn.Conv3D(
            c_in, c_out, kernel, stride, 0 if self.buffer else "SAME", groups=groups,
            bias_attr=False, weight_attr=nn.initializer.KaimingNormal(),
        )  # fmt: skip
        self.norm = nn.BatchNorm3D(c_out, momentum=momentum, epsilon=1e-3)
        self.activation = activation
        self.kernel, self.stride, self.groups = kernel, stride, groups

    def forward(self, x: Tensor, state: State) -> Tensor:
        """(N, C, T, H, W) -> (N, C', T, h, w); a causal one replaces its frames in the state."""
        if self.buffer:
            x = paddle.concat([state[self.buffer], x], axis=2)
            state[self.buffer] = x[:, :, 1 - self.kernel[0] :]
            sides = [_same(x.shape[axis], self.kernel[axis - 2], self.stride[axis - 2])
                     for axis in (3, 4)]  # fmt: skip
            maps = F.conv3d(  # which pads itself: of F.pad paddle2onnx makes random numbers
                x, self.conv.weight, self.conv.bias, self.stride, [0, 0, *sides[0], *sides[1]],
                groups=self.groups,
            )  # fmt: skip
        else:
            maps = self.conv(x)
        return activate(self.norm(maps), self.activation, self.training)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution that does what this and the batch norm do, outside
        training."""
        norm = self.norm
        scale = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
        return self.conv.weight * scale.reshape([-1, 1, 1, 1, 1]), norm.bias - norm._mean * scale

    def fold(self) -> None:
        """Become that convolution."""
        weight, bias = self.folded()
        self.conv.weight.set_value(weight)
        self.conv.bias = self.create_parameter(bias.shape, is_bias=True)
        self.conv.bias.set_value(bias)
        self.norm = nn.Identity()


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding on both sides: what is odd comes behind."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def activate(x: Tensor, activation: str, training: bool = True) -> Tensor:
    """ "swish", "hard_swish" or "" for none."""
    if activation == "swish":  # two names: one has the faster gradient, oneDNN knows the other
        return F.silu(x) if training else F.swish(x)
    return F.hardswish(x) if activation else x


def mean_from(axis: int, x: Tensor) -> Tensor:
    """The mean over this axis and those behind it; as one, for several take Paddle much longer."""
    return x.flatten(axis).mean(axis=axis)


class SqueezeExcite(nn.Layer):
    """Channels weighed by what all frames have in them (Hu et al. 2018)."""

    def __init__(self, channels: int, hidden: int, gate: "Gate") -> None:
        super().__init__()
        self.gate = gate
        self.reduce = _linear(channels, hidden)
        self.expand = _linear(hidden, channels)

    def forward(self, x: Tensor, state: State) -> Tensor:
        """(N, C, T, H, W) -> the same shape"""
        vectors = mean_from(2, x).reshape([0, 0, 1, 1, 1])
        weights = self.expand(activate(self.reduce(vectors), self.gate.activation))
        return x * self.gate(weights)


class CausalSqueezeExcite(nn.Layer):
    """Channels weighed by what this frame has in them, and the mean of it and those before.

    Args:
        positions: add the number of the frame, in sines and cosines, times a learned number.
        name: of its sums in the state.
    """

    def __init__(
        self, channels: int, hidden: int, gate: "Gate", positions: bool, name: str
    ) -> None:
        super().__init__()
        self.gate, self.name = gate, name
        self.reduce = _linear(2 * channels, hidden)
        self.expand = _linear(hidden, channels)
        self.scale = None
        if positions:
            self.scale = self.create_parameter(
                [1], default_initializer=nn.initializer.Constant(0.0)
            )

    def forward(self, x: Tensor, state: State) -> Tensor:
        """(N, C, T, H, W) -> the same shape"""
        frames = mean_from(3, x).reshape([0, 0, 0, 1, 1])
        means, counts = running_mean(frames, state, self.name)
        vectors = paddle.concat([means, frames], axis=1)
        if self.scale is not None:
            vectors = vectors + self.scale * position_encoding(counts - 1, vectors.shape[1])
        weights = self.expand(activate(self.reduce(vectors), self.gate.activation))
        return x * self.gate(weights)


@dataclass(frozen=True)
class Gate:
    """The end of a squeeze-and-excitation, and the activation in its middle.

    Args:
        slope: of a hard sigmoid around 0; 0: the sigmoid itself.
    """

    activation: str
    slope: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Any shape -> numbers from 0 to 1"""
        return F.hardsigmoid(x, slope=self.slope) if self.slope else F.sigmoid(x)


def _linear(c_in: int, c_out: int) -> nn.Conv3D:
    return nn.Conv3D(
        c_in, c_out, 1, weight_attr=nn.initializer.KaimingNormal(),
        bias_attr=nn.initializer.Constant(0.0),
    )  # fmt: skip


def running_mean(frames: Tensor, state: State, name: str) -> tuple[Tensor, Tensor]:
    """The mean of each frame and all before: -> (N, C, T, 1, 1), and how many (N, 1, T, 1, 1)

    `frames` is (N, C, T, 1, 1). The state keeps their sum as `name`_sum; its `count` is
    that of the frames before.
    """
    t = frames.shape[2]
    sums = frames.cumsum(axis=2) if t > 1 else frames
    counts = paddle.arange(1, t + 1, dtype=frames.dtype).reshape([1, 1, t, 1, 1])
    sums, counts = sums + state[f"{name}_sum"], counts + state["count"]
    state[f"{name}_sum"] = sums[:, :, -1:]
    return sums / counts, counts


def position_encoding(numbers: Tensor, channels: int) -> Tensor:
    """Numbers of frames, from 0: (N, 1, T, 1, 1) -> sines, then cosines, (N, C, T, 1, 1)"""
    rates = [10000 ** (-2 * i / channels) for i in range(channels // 2)]
    angles = numbers * paddle.to_tensor(rates, "float32").reshape([1, -1, 1, 1, 1])
    return paddle.concat([paddle.sin(angles), paddle.cos(angles)], axis=1)


class Block(nn.Layer):
    """A bottleneck (section 3.1): expansion, depthwise, squeeze-and-excitation, projection.

    What it adds to its input is multiplied by `alpha` (Bachlechner et al. 2020, ReZero).

    Args:
        kernel: of time and space.
        stride: over space.
        drop_path: probability in training of adding nothing, drawn for each clip.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        expanded: int,
        kernel: tuple[int, int],
        stride: int,
        drop_path: float,
        kind: "Kind",
        name: str,
    ) -> None:
        super().__init__()
        time, space = kernel
        more = {"activation": kind.gate.activation, "momentum": kind.momentum}
        self.drop_path = drop_path
        self.expand = ConvNorm(c_in, expanded, **more)
        depthwise = {**more, "groups": expanded}
        buffer = f"{name}_frames" if kind.causal else ""
        if kind.conv_type == "3d":
            kernels = [((time, space, space), stride)]
        else:
            kernels = [((1, space, space), stride), *([((time, 1, 1), 1)] if time > 1 else [])]
        self.depthwise = nn.LayerList(
            ConvNorm(expanded, expanded, sizes, (1, step, step), buffer=buffer, **depthwise)
            for sizes, step in kernels
        )
        if kind.causal:
            hidden = make_divisible(0.5 * expanded)
            self.se = CausalSqueezeExcite(expanded, hidden, kind.gate, kind.positions, name)
        else:
            self.se = SqueezeExcite(expanded, make_divisible(0.25 * expanded), kind.gate)
        self.project = ConvNorm(expanded, c_out, momentum=kind.momentum)
        self.alpha = self.create_parameter(
            [1], default_initializer=nn.initializer.Constant(kind.alpha)
        )
        self.stride = stride
        self.skip = None
        if stride > 1 or c_in != c_out:
            self.skip = ConvNorm(c_in, c_out, momentum=kind.momentum)

    def forward(self, x: Tensor, state: State) -> Tensor:
        """(N, C, T, H, W) -> (N, C', T, h, w)"""
        residual = self.expand(x, state)
        for layer in self.depthwise:
            residual = layer(residual, state)
        residual = self.project(self.se(residual, state), state) * self.alpha
        if self.training and self.drop_path:
            residual = F.dropout(residual, self.drop_path, axis=0)
        if self.stride > 1:
            x = F.avg_pool3d(x, (1, 3, 3), (1, self.stride, self.stride), "SAME")
        return residual + (self.skip(x, state) if self.skip else x)


@dataclass(frozen=True)
class Kind:
    """What all blocks of a network have in common."""

    causal: bool
    conv_type: str
    gate: Gate
    positions: bool
    alpha: float
    momentum: float


class Classifier(nn.Linear):
    """Linear to `dense` numbers, swish, dropout, and linear to K."""

    def __init__(self, c_in: int, dense: int, dropout: float, num_classes: int) -> None:
        super().__init__(
            dense, num_classes, weight_attr=nn.initializer.Normal(0.0, 0.01),
            bias_attr=nn.initializer.Constant(0.0),
        )  # fmt: skip
        self.dense = nn.Linear(
            c_in, dense, weight_attr=nn.initializer.KaimingNormal(),
            bias_attr=nn.initializer.Constant(0.0),
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(..., C) -> (..., K)"""
        features = self.dropout(F.silu(self.dense(features)))
        return F.linear(features, self.weight, self.bias)


class MoViNet(nn.Layer):
    """MoViNet for whole clips.

    Args:
        num_classes: K.
        size: "a0" to "a5".
        stem, stages, head: other channels and layers than those of the size, see `TABLES`; the
            first layer of a stage halves the maps, but for the fourth stage.
        dense: numbers of the classifier's inner layer.
        dropout: in the classifier.
        drop_path: of the last block; it grows linearly from near 0 in the first.
        conv_type: "3d", or "2plus1d": depthwise convolutions over space, then over time.
        alpha: from which the factors of what the blocks add start.
        momentum: of the batch norms' statistics. The published 0.99 and alpha 0 are for long runs;
            in hundreds of steps 0.9 and 1 learn.
    """

    classifier = "fc"

    def __init__(
        self,
        num_classes: int,
        size: str,
        *,
        stem: int = 0,
        stages: str = "",
        head: int = 0,
        dense: int = 2048,
        dropout: float = 0.2,
        drop_path: float = 0.2,
        conv_type: str = "3d",
        alpha: float = 0.0,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        self.table = table = TABLES[size]
        stem, head = stem or table.stem, head or table.head
        parsed = read_stages(stages or table.stages)
        if conv_type not in ("3d", "2plus1d"):
            raise ValueError(f"unknown conv_type {conv_type!r}; there are '3d' and '2plus1d'")
        if min(stem, head, dense) < 1 or len(parsed) > len(_STRIDES):
            raise ValueError(
                f"stem = {stem}, head = {head} and dense = {dense} need at least 1, and stages, of "
                f"which there are {len(parsed)}, at most {len(_STRIDES)}"
            )
        if not all(0 <= number < 1 for number in (drop_path, dropout, momentum)):
            raise ValueError(
                f"drop_path = {drop_path}, dropout = {dropout} and momentum = {momentum} need a "
                "number from 0 to below 1"
            )
        causal, gate = self._causality()
        self.conv_type = conv_type
        kind = Kind(causal, conv_type, gate, causal and table.positions, alpha, momentum)
        depth = sum(len(layers) for _, layers in parsed)
        more = {"activation": gate.activation, "momentum": momentum}
        self.stem = ConvNorm(3, stem, (1, 3, 3), (1, 2, 2), **more)
        self.stages = nn.LayerList()
        c_in, number = stem, 0
        for (c_out, layers), stride in zip(parsed, _STRIDES, strict=False):
            stage = nn.LayerList()
            for i, (expanded, *kernel) in enumerate(layers):
                number += 1
                name = f"stage{len(self.stages)}_block{i}"
                rate = drop_path * number / depth
                step = 1 if i else stride
                stage.append(Block(c_in, c_out, expanded, kernel, step, rate, kind, name))
                c_in = c_out
            self.stages.append(stage)
        self.head = ConvNorm(c_in, head, **more)
        self.fc = Classifier(head, dense, dropout, num_classes)

    def _causality(self) -> tuple[bool, Gate]:
        return False, Gate("swish")

    def forward(self, clip: Tensor) -> Tensor:
        """(N, 3, T, H, W), or their `features`, -> (N, K) logits, for any T, H and W"""
        return self.fc(self.features(clip))

    def features(self, clip: Tensor) -> Tensor:
        """What the classifier gets: (N, 3, T, H, W) -> (N, C); such numbers stay as they are."""
        return clip if clip.ndim == 2 else mean_from(2, self._maps(clip, {}))

    def rename(self, name: str) -> str:
        """A name with the number of a layer, `layer.N.`, from the stem to the head -> ours."""
        stages = enumerate(self.stages)
        blocks = [f"stages.{i}.{j}." for i, stage in stages for j in range(len(stage))]
        prefixes = dict(enumerate(["stem.", *blocks, "head."]))
        return re.sub(r"^layer\.(\d+)\.", lambda m: prefixes.get(int(m[1]), m[0]), name)

    def adapt(self, weights: dict[str, NDArray]) -> dict[str, tuple[NDArray, str, str]]:
        """Kernels and vectors of other projects that lack axes of length 1, or have more."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        return {
            name: (array.reshape(shapes[name]), "reshaped", "")
            for name, array in weights.items()
            if array.shape != shapes[name] and array.size == np.prod(shapes[name])
        }

    def _maps(self, clip: Tensor, state: State) -> Tensor:
        """(N, 3, T, H, W) -> (N, C, T, h, w)"""
        maps = self.stem(clip, state)
        for stage in self.stages:
            for block in stage:
                maps = block(maps, state)
        return self.head(maps, state)


class MoViNetStream(MoViNet):
    """MoViNet whose frames know nothing of later ones (section 3.2): clips, or chunk by chunk.

    Args:
        num_classes, size, more: of `MoViNet`.
        slope: of the hard sigmoids around 0: 1 / 6 as in the authors' code, or 0.2 as Keras' own.
        conv_type: "2plus1d" or "3d".
    """

    def __init__(
        self,
        num_classes: int,
        size: str,
        *,
        slope: float = 1 / 6,
        conv_type: str = "2plus1d",
        **more: object,
    ) -> None:
        if not 0 < slope <= 1:
            raise ValueError(f"slope = {slope} needs a number above 0 and at most 1")
        self._slope = slope
        super().__init__(num_classes, size, conv_type=conv_type, **more)

    def _causality(self) -> tuple[bool, Gate]:
        return True, Gate("hard_swish", self._slope)

    def forward(self, clip: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, K) logits, for any T, H and W"""
        return self.fc(self.features(clip))

    def features(self, clip: Tensor) -> Tensor:
        """As of a MoViNet."""
        if clip.ndim == 2:
            return clip
        return self._running_means(clip, self._state_of(clip))[:, :, -1].squeeze([2, 3])

    def frame_logits(self, clip: Tensor) -> Tensor:
        """What it would say of the clip up to each frame: (N, 3, T, H, W) -> (N, T, K)"""
        means = self._running_means(clip, self._state_of(clip))
        return self.fc(means.squeeze([3, 4]).transpose([0, 2, 1]))

    def step(self, chunk: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next frames of N videos: (N, 3, T, H, W) -> logits (N, K), and the state after them.

        The logits are of the videos up to the last frame, the same for any lengths of the chunks.

        Args:
            chunk: T frames, at least 1.
            state: after the step before; None at the start of the videos. It is not changed. The
                first axis of its tensors is that of the videos: states of several streams may be
                joined there, and taken apart.

        Raises ValueError in training mode, in which the batch norms would look at the chunk; for a
        chunk of another shape; and for a state of another network, batch or size of frames.
        """
        if self.training:
            raise ValueError("step needs evaluation mode: call eval() first")
        if chunk.ndim != 5 or chunk.shape[1] != 3 or chunk.shape[2] < 1:
            raise ValueError(f"step needs a chunk (N, 3, T, H, W), got {tuple(chunk.shape)}")
        wanted = self.state_shapes(chunk.shape[0], *chunk.shape[3:])
        if state is None:
            state = self._state_of(chunk)
        got = {name: list(tensor.shape) for name, tensor in state.items()}
        if got.keys() != wanted.keys():
            raise ValueError("the state is of another network: needs that of a step of this one")
        for name, shape in wanted.items():
            if got[name] != shape:
                raise ValueError(
                    f"the state's {name} has the shape {tuple(got[name])}, a chunk of "
                    f"{tuple(chunk.shape)} needs {tuple(shape)}: it is of another number of "
                    "videos, size of frames or network"
                )
        return self.advance(chunk, state)

    def advance(self, chunk: Tensor, state: State) -> tuple[Tensor, State]:
        """`step` without its checks, for export; all of the state is needed."""
        state = dict(state)
        means = self._running_means(chunk, state)
        return self.fc(means[:, :, -1].squeeze([2, 3])), state

    def state_shapes(self, num_videos: int, height: int, width: int) -> dict[str, list[int]]:
        """The shapes of the state's tensors for N videos of frames of so many pixels.

        At the start of a video all of them are 0.
        """
        shapes = {}
        h, w = -(-height // 2), -(-width // 2)
        for block in (block for stage in self.stages for block in stage):
            for layer in block.depthwise:
                channels = layer.conv.weight.shape[0]
                if layer.buffer:
                    shapes[layer.buffer] = [num_videos, channels, layer.kernel[0] - 1, h, w]
                h, w = (-(-size // layer.stride[1]) for size in (h, w))
            shapes[f"{block.se.name}_sum"] = [num_videos, channels, 1, 1, 1]
        shapes["head_sum"] = [num_videos, self.head.conv.weight.shape[0], 1, 1, 1]
        shapes["count"] = [num_videos, 1, 1, 1, 1]
        return shapes

    def _state_of(self, clip: Tensor) -> State:
        shapes = self.state_shapes(clip.shape[0], *clip.shape[3:])
        return {name: paddle.zeros(shape, clip.dtype) for name, shape in shapes.items()}

    def _running_means(self, clip: Tensor, state: State) -> Tensor:
        """The mean of the head's maps up to each frame: (N, C, T, 1, 1)"""
        maps = mean_from(3, self._maps(clip, state))
        means, counts = running_mean(maps.reshape([0, 0, 0, 1, 1]), state, "head")
        state["count"] = counts[:, :, -1:]
        return means


def movinet_a0(num_classes: int, **arguments: object) -> MoViNet:
    """MoViNet-A0."""
    return MoViNet(num_classes, "a0", **arguments)


def movinet_a0_stream(num_classes: int, **arguments: object) -> MoViNetStream:
    """MoViNet-A0, causal."""
    return MoViNetStream(num_classes, "a0", **arguments)


def movinet_a1(num_classes: int, **arguments: object) -> MoViNet:
    """MoViNet-A1."""
    return MoViNet(num_classes, "a1", **arguments)


def movinet_a1_stream(num_classes: int, **arguments: object) -> MoViNetStream:
    """MoViNet-A1, causal."""
    return MoViNetStream(num_classes, "a1", **arguments)


def movinet_a2(num_classes: int, **arguments: object) -> MoViNet:
    """MoViNet-A2."""
    return MoViNet(num_classes, "a2", **arguments)


def movinet_a2_stream(num_classes: int, **arguments: object) -> MoViNetStream:
    """MoViNet-A2, causal."""
    return MoViNetStream(num_classes, "a2", **arguments)


def movinet_a3(num_classes: int, **arguments: object) -> MoViNet:
    """MoViNet-A3."""
    return MoViNet(num_classes, "a3", **arguments)


def movinet_a3_stream(num_classes: int, **arguments: object) -> MoViNetStream:
    """MoViNet-A3, causal."""
    return MoViNetStream(num_classes, "a3", **arguments)


def movinet_a4(num_classes: int, **arguments: object) -> MoViNet:
    """MoViNet-A4."""
    return MoViNet(num_classes, "a4", **arguments)


def movinet_a4_stream(num_classes: int, **arguments: object) -> MoViNetStream:
    """MoViNet-A4, causal."""
    return MoViNetStream(num_classes, "a4", **arguments)


def movinet_a5(num_classes: int, **arguments: object) -> MoViNet:
    """MoViNet-A5."""
    return MoViNet(num_classes, "a5", **arguments)


def movinet_a5_stream(num_classes: int, **arguments: object) -> MoViNetStream:
    """MoViNet-A5, causal."""
    return MoViNetStream(num_classes, "a5", **arguments)

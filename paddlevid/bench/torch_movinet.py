"""MoViNet in PyTorch, under the names of the PyTorch port: (N, 3, T, H, W) -> (N, K) logits."""

import re
from collections.abc import Callable

import torch
from torch import nn


class Conv(nn.Module):
    """A convolution with TensorFlow's padding, batch norm and an activation.

    2-D ones run on each frame, or, (a, 1), over time.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        groups: int = 1,
        act: Callable | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.act, self.causal = kernel, stride, act, causal
        self.flat = len(kernel) == 2
        self.over_time = self.flat and kernel[0] > kernel[1]
        conv = (nn.Conv2d if self.flat else nn.Conv3d)(
            c_in, c_out, kernel, stride, groups=groups, bias=False
        )
        norm = (nn.BatchNorm2d if self.flat else nn.BatchNorm3d)(c_out, eps=1e-3, momentum=0.01)
        self.conv_1 = nn.ModuleDict({"conv2d" if self.flat else "conv3d": conv, "norm": norm})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, C', T, h, w)"""
        n, c, t, h, w = x.shape
        if self.over_time:
            x = x.reshape(n, c, t, h * w)
        elif self.flat:
            x = x.transpose(1, 2).reshape(n * t, c, h, w)
        pads = []
        for size, kernel, stride in zip(x.shape[2:], self.kernel, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads = [total // 2, total - total // 2, *pads]
        if self.causal and (self.over_time or not self.flat):
            pads[-2:] = [sum(pads[-2:]), 0]
        for layer in (lambda x: nn.functional.pad(x, pads), *self.conv_1.values()):
            x = layer(x)
        x = self.act(x) if self.act else x
        if self.over_time:
            return x.reshape(n, -1, t, h, w)
        return x.reshape(n, t, *x.shape[1:]).transpose(1, 2) if self.flat else x


class SqueezeExcite(nn.Module):
    """Of whole clips, or of frames and the means of those before."""

    def __init__(self, channels: int, hidden: int, stream: bool, act: Callable, gate: Callable):
        super().__init__()
        self.stream, self.act, self.gate = stream, act, gate
        conv, kind, ones = (nn.Conv2d, "conv2d", 1) if stream else (nn.Conv3d, "conv3d", 1)
        self.fc1 = nn.ModuleDict({"conv_1": nn.ModuleDict({
            kind: conv(channels * (1 + stream), hidden, ones)})})  # fmt: skip
        self.fc2 = nn.ModuleDict({"conv_1": nn.ModuleDict({kind: conv(hidden, channels, ones)})})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> the same shape"""
        first, second = (next(iter(fc["conv_1"].values())) for fc in (self.fc1, self.fc2))
        if not self.stream:
            return x * self.gate(second(self.act(first(x.mean((2, 3, 4), keepdim=True)))))
        frames = x.mean((3, 4))  # (N, C, T)
        counts = torch.arange(1, frames.shape[2] + 1, device=x.device)
        vectors = torch.cat([frames.cumsum(2) / counts, frames], 1).unsqueeze(3)
        return x * self.gate(second(self.act(first(vectors)))).unsqueeze(4)


class Bottleneck(nn.Module):
    """A block; `alpha` multiplies what it adds."""

    def __init__(
        self, c_in: int, c_out: int, size: tuple[int, int, int], stride: int, stream: bool,
        act: Callable, gate: Callable, conv_type: str,
    ) -> None:  # fmt: skip
        super().__init__()
        expanded, a, b = size
        self.stride = stride
        one, step = ((1, 1), (1, 1)) if conv_type == "2plus1d" else ((1, 1, 1), (1, 1, 1))
        self.expand = Conv(c_in, expanded, one, step, act=act)
        if conv_type == "2plus1d":
            deep = Conv(expanded, expanded, (b, b), (stride, stride), expanded, act)
            if a > 1:
                second = Conv(expanded, expanded, (a, 1), (1, 1), expanded, act, stream)
                deep = _Both(deep, second)
        else:
            deep = Conv(expanded, expanded, (a, b, b), (1, stride, stride), expanded, act, stream)
        self.deep = deep
        hidden = int((0.5 if stream else 0.25) * expanded + 4) // 8 * 8
        self.se = SqueezeExcite(expanded, max(8, hidden), stream, act, gate)
        self.project = Conv(expanded, c_out, one, step)
        self.alpha = nn.Parameter(torch.tensor(0.0))
        self.res = None
        if stride > 1 or c_in != c_out:
            pool = [_Pool()] if stride > 1 else []
            self.res = nn.Sequential(*pool, Conv(c_in, c_out, one, step))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, C', T, h, w)"""
        added = self.project(self.se(self.deep(self.expand(x)))) * self.alpha
        return added + (self.res(x) if self.res else x)


class _Both(nn.Module):
    """A convolution over space, then one over time, under the names of one."""

    def __init__(self, first: Conv, second: Conv) -> None:
        super().__init__()
        self.parts = [first, second]
        self.conv_1, self.conv_2 = first.conv_1, second.conv_1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts[1](self.parts[0](x))


class _Pool(nn.Module):
    """The mean of 3x3 pixels, of every other one, without those that are padding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, t, h, w = x.shape
        pads = []
        for size in (h, w):
            total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)
            pads = [total // 2, total - total // 2, *pads]
        ones = nn.functional.pad(torch.ones_like(x[:1, :1, 0]), pads)
        x = nn.functional.pad(x.reshape(n, c * t, h, w), pads)
        x = nn.functional.avg_pool2d(x, 3, 2) / nn.functional.avg_pool2d(ones, 3, 2)
        return x.reshape(n, c, t, *x.shape[2:])


class MoViNet(nn.Module):
    """MoViNet-A0, or with another table; `stream`: the causal network."""

    STAGES = (
        "8: 24@15 / 32: 80@33x3 / 56: 184@53 112@33 184@33 / 56: 184@53 184@33x3 / "
        "104: 384@53 280@15x2 344@15"
    )

    def __init__(
        self, num_classes: int, stream: bool = False, stem: int = 8, stages: str = STAGES,
        head: int = 480, dense: int = 2048, conv_type: str = "", slope: float = 1 / 6,
    ) -> None:  # fmt: skip
        super().__init__()
        conv_type = conv_type or ("2plus1d" if stream else "3d")
        act = nn.functional.hardswish if stream else nn.functional.silu
        gate = (lambda x: (slope * x + 0.5).clamp(0, 1)) if stream else torch.sigmoid
        flat = conv_type == "2plus1d"
        one, step = ((1, 1), (1, 1)) if flat else ((1, 1, 1), (1, 1, 1))
        kernel, stride = ((3, 3), (2, 2)) if flat else ((1, 3, 3), (1, 2, 2))
        self.conv1 = Conv(3, stem, kernel, stride, act=act)
        blocks, c_in = {}, stem
        for i, stage in enumerate(stages.split("/")):
            c_out, sizes = stage.split(":")
            layers = []
            for expanded, a, b, count in re.findall(r"(\d+)@(\d)(\d)(?:x(\d+))?", sizes):
                layers += [(int(expanded), int(a), int(b))] * int(count or 1)
            for j, size in enumerate(layers):
                stride = 1 if j or i == 3 else 2
                blocks[f"b{i}_l{j}"] = Bottleneck(
                    c_in, int(c_out), size, stride, stream, act, gate, conv_type
                )
                c_in = int(c_out)
        self.blocks = nn.ModuleDict(blocks)
        self.conv7 = Conv(c_in, head, one, step, act=act)

        def linear(c_in: int, c_out: int) -> nn.Module:
            conv = (nn.Conv2d if flat else nn.Conv3d)(c_in, c_out, 1)
            return nn.ModuleDict({"conv_1": nn.ModuleDict({"conv2d" if flat else "conv3d": conv})})

        self.classifier = nn.ModuleDict({"0": linear(head, dense), "3": linear(dense, num_classes)})

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """(N, 3, T, H, W) -> (N, K)"""
        maps = self.conv1(clip)
        for block in self.blocks.values():
            maps = block(maps)
        x = self.conv7(maps).mean((2, 3, 4))
        for layer, act in zip(self.classifier.values(), (nn.functional.silu, None), strict=True):
            conv = next(iter(layer["conv_1"].values()))
            x = nn.functional.linear(x, conv.weight.flatten(1), conv.bias)
            x = act(x) if act else x
        return x

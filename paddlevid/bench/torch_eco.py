"""ECO in PyTorch, written as its users write it: (N, 3, T, H, W) -> (N, K) logits."""

import torch
import torch.nn.functional as F
from torch import nn

# Of the blocks of BN-Inception: channels of the 1x1 convolution; of the single branch's reduction
# and 3x3; of the double branch's reduction and both its 3x3; the pooling and its projection.
SIZES = {
    "3a": (64, (64, 64), (64, 96), ("avg", 32)),
    "3b": (64, (64, 96), (64, 96), ("avg", 64)),
    "4a": (224, (64, 96), (96, 128), ("avg", 128)),
    "4b": (192, (96, 128), (96, 128), ("avg", 128)),
    "4c": (160, (128, 160), (128, 160), ("avg", 128)),
    "4d": (96, (128, 192), (160, 192), ("avg", 128)),
    "5a": (352, (192, 320), (160, 224), ("avg", 128)),
    "5b": (352, (192, 320), (192, 224), ("max", 128)),
}


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H', W')"""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(
        self,
        c_in: int,
        one: int,
        single: tuple[int, int],
        double: tuple[int, int],
        pool: tuple[str, int],
    ) -> None:
        super().__init__()
        self.conv_1x1 = ConvNorm(c_in, one, 1)
        self.single_branch = nn.Sequential(ConvNorm(c_in, single[0], 1), ConvNorm(*single, 3))
        self.double_branch = nn.Sequential(
            ConvNorm(c_in, double[0], 1), ConvNorm(*double, 3), ConvNorm(double[1], double[1], 3)
        )
        kind = nn.AvgPool2d if pool[0] == "avg" else nn.MaxPool2d
        self.pool = kind(3, stride=1, padding=1)
        self.pool_proj = ConvNorm(c_in, pool[1], 1)
        self.c_out = one + single[1] + double[1] + pool[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H, W)"""
        pooled = self.pool_proj(self.pool(x))
        return torch.cat(
            [self.conv_1x1(x), self.single_branch(x), self.double_branch(x), pooled], 1
        )


class Reduction(nn.Module):
    """Two branches and the pooled maps side by side, half as large."""

    def __init__(self, c_in: int, single: tuple[int, int], double: tuple[int, int]) -> None:
        super().__init__()
        self.single_branch = nn.Sequential(
            ConvNorm(c_in, single[0], 1), ConvNorm(*single, 3, stride=2)
        )
        self.double_branch = nn.Sequential(ConvNorm(c_in, double[0], 1), ConvNorm(*double, 3))
        self.double_end = ConvNorm(double[1], double[1], 3, stride=2)
        self.c_out = single[1] + double[1] + c_in

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, C, H, W) -> (N, C', H/2, W/2), and the double branch while it is large"""
        double = self.double_branch(x)
        return torch.cat([self.single_branch(x), self.double_end(double), halve(x)], 1), double


def halve(x: torch.Tensor) -> torch.Tensor:
    """Maxima of 3x3, from the first pixel on: (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2))"""
    h, w = x.shape[2:]
    if h % 2 or w % 2:
        x = F.pad(x, (0, w % 2, 0, h % 2), mode="replicate")
    return F.max_pool2d(x, 3, stride=2, ceil_mode=True)


class Residual(nn.Module):
    """A pre-activation block of 3D-ResNet, which takes and gives its sum raw and activated."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(c_in, c_out, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm3d(c_out)
        self.conv2 = nn.Conv3d(c_out, c_out, 3, padding=1)
        self.down = nn.Conv3d(c_in, c_out, 3, stride, padding=1) if stride > 1 else None
        self.bn = nn.BatchNorm3d(c_out)

    def forward(self, raw: torch.Tensor, active: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two of (N, C, T, H, W) -> two of (N, C', T', H', W')"""
        residual = self.conv2(F.relu(self.bn1(self.conv1(active)), inplace=True))
        raw = residual + (self.down(active) if self.down else raw)
        return raw, F.relu(self.bn(raw), inplace=True)


class ResNet3D(nn.Module):
    """conv3_x to conv5_x of 3D-ResNet-18."""

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.res3a = nn.Conv3d(c_in, 2 * width, 3, padding=1)
        self.res3a_bn = nn.BatchNorm3d(2 * width)
        self.res3b = Residual(2 * width, 2 * width)
        self.res4a = Residual(2 * width, 4 * width, stride=2)
        self.res4b = Residual(4 * width, 4 * width)
        self.res5a = Residual(4 * width, 8 * width, stride=2)
        self.res5b = Residual(8 * width, 8 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 96, T, H, W) -> (N, 512)"""
        raw = self.res3a(x)
        active = F.relu(self.res3a_bn(raw), inplace=True)
        for block in (self.res3b, self.res4a, self.res4b, self.res5a, self.res5b):
            raw, active = block(raw, active)
        return active.mean((2, 3, 4))


class ECO(nn.Module):
    """BN-Inception for each frame up to its block 3c and 3D-ResNet-18 over all; `full`: both."""

    def __init__(
        self,
        full: bool,
        num_classes: int,
        width: int = 64,
        dropout_2d: float = 0.6,
        dropout_3d: float = 0.5,
    ) -> None:
        super().__init__()
        self.full = full

        def n(channels: int) -> int:
            return channels * width // 64

        def inception(block: str, c_in: int) -> Inception:
            one, single, double, (pool, projected) = SIZES[block]
            sizes = tuple(map(n, single)), tuple(map(n, double))
            return Inception(c_in, n(one), *sizes, (pool, n(projected)))

        self.conv1 = ConvNorm(3, width, 7, stride=2)
        self.conv2_reduce = ConvNorm(width, width, 1)
        self.conv2 = ConvNorm(width, n(192), 3)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception_3a = inception("3a", n(192))
        self.inception_3b = inception("3b", self.inception_3a.c_out)
        c = self.inception_3b.c_out
        if full:
            self.inception_3c = Reduction(c, (n(128), n(160)), (n(64), n(96)))
            self.inception_4a = inception("4a", self.inception_3c.c_out)
            self.inception_4b = inception("4b", self.inception_4a.c_out)
            self.inception_4c = inception("4c", self.inception_4b.c_out)
            self.inception_4d = inception("4d", self.inception_4c.c_out)
            self.inception_4e = Reduction(
                self.inception_4d.c_out, (n(128), n(192)), (n(192), n(256))
            )
            self.inception_5a = inception("5a", self.inception_4e.c_out)
            self.inception_5b = inception("5b", self.inception_5a.c_out)
            self.dropout_2d = nn.Dropout(dropout_2d)
        else:
            self.double_3c = nn.Sequential(ConvNorm(c, n(64), 1), ConvNorm(n(64), n(96), 3))
        self.resnet = ResNet3D(n(96), width)
        self.dropout_3d = nn.Dropout(dropout_3d)
        self.fc = nn.Linear(8 * width + (self.inception_5b.c_out if full else 0), num_classes)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """(N, 3, T, H, W) -> (N, K)"""
        n, _, t, _, _ = clip.shape
        maps = self.pool(self.conv1(clip.transpose(1, 2).flatten(0, 1)))  # (N·T, 64, H/4, W/4)
        maps = self.pool(self.conv2(self.conv2_reduce(maps)))
        maps = self.inception_3b(self.inception_3a(maps))
        if not self.full:
            return self.fc(self._over_time(self.double_3c(maps), n, t))
        maps, double = self.inception_3c(maps)
        maps = self.inception_4b(self.inception_4a(maps))
        maps, _ = self.inception_4e(self.inception_4d(self.inception_4c(maps)))
        vectors = self.inception_5b(self.inception_5a(maps)).mean((2, 3))  # (N·T, 1024)
        vectors = self.dropout_2d(vectors).unflatten(0, (n, t)).mean(1)
        return self.fc(torch.cat([vectors, self._over_time(double, n, t)], 1))

    def _over_time(self, maps: torch.Tensor, n: int, t: int) -> torch.Tensor:
        clip = maps.unflatten(0, (n, t)).transpose(1, 2)  # (N, 96, T, H/8, W/8)
        return self.dropout_3d(self.resnet(clip))

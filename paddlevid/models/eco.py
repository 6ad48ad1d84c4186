"""ECO (Zolfaghari et al. 2018, arXiv:1804.09066): 2-D features of sparse frames, then a 3-D net.

Layer by layer as in the authors' published networks (BN-Inception with biases, 3D-ResNet-18 with
pre-activation). Differs from them: RGB in place of BGR frames, and maps with an odd number of rows
or columns, whose halves by convolution and by pooling Caffe cannot join, are halved to the larger
number.
"""

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddlevid.layers.time import fold_time, unfold_time


def normalize_sums(conv: nn.Conv2D | nn.Conv3D, norm: nn.Layer, maps: Tensor) -> Tensor:
    """norm(conv(maps)).

    In training the batch norm takes the bias out again, so the running mean alone sees it: adding
    it to the maps, and summing its gradient, which is 0, are a sixth of a step on a CPU.
    """
    plain = not (norm.training and paddle.in_dynamic_mode())
    if plain or isinstance(norm, nn.SyncBatchNorm):
        return norm(conv(maps))
    convolve = F.conv2d if maps.ndim == 4 else F.conv3d
    sums = convolve(maps, conv.weight, None, conv._stride, conv._updated_padding)
    mean = norm._mean - conv.bias.detach()
    out = F.batch_norm(
        sums, mean, norm._variance, norm.weight, norm.bias + 0 * conv.bias, training=True,
        momentum=norm._momentum, epsilon=norm._epsilon,
    )  # fmt: skip
    norm._mean.set_value(mean + conv.bias.detach())
    return out


class ConvBN(nn.Layer):
    """Convolution with bias, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2D(c_in, c_out, kernel, stride, padding=kernel // 2)
        self.bn = nn.BatchNorm2D(c_out)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')"""
        return F.relu(normalize_sums(self.conv, self.bn, maps))


def double_3x3(c_in: int, reduced: int, c_out: int) -> nn.Sequential:
    """The double branch of a block up to its first 3x3 convolution."""
    return nn.Sequential(ConvBN(c_in, reduced, 1), ConvBN(reduced, c_out, 3))


class Inception(nn.Layer):
    """A block of BN-Inception (Ioffe and Szegedy 2015): four branches side by side.

    Args:
        one: channels of the 1x1 convolution.
        single: of the reduction before one 3x3 convolution, and of that.
        double: of the reduction before two 3x3 convolutions, and of both.
        pool: "avg" or "max", and the channels that the pooled maps are projected to.
    """

    def __init__(
        self,
        c_in: int,
        one: int,
        single: tuple[int, int],
        double: tuple[int, int],
        pool: tuple[str, int],
    ) -> None:
        super().__init__()
        self.conv_1x1 = ConvBN(c_in, one, 1)
        self.single_branch = nn.Sequential(ConvBN(c_in, single[0], 1), ConvBN(*single, 3))
        self.double_branch = nn.Sequential(
            *double_3x3(c_in, *double), ConvBN(double[1], double[1], 3)
        )
        self.pool = pool[0]
        self.pool_proj = ConvBN(c_in, pool[1], 1)
        self.c_out = one + single[1] + double[1] + pool[1]

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)"""
        if self.pool == "avg":  # Caffe counts the padding: it divides by 9 at the edges too
            pooled = F.avg_pool2d(maps, 3, stride=1, padding=1, exclusive=False)
        else:
            pooled = F.max_pool2d(maps, 3, stride=1, padding=1)
        branches = [self.conv_1x1(maps), self.single_branch(maps), self.double_branch(maps)]
        return paddle.concat([*branches, self.pool_proj(pooled)], axis=1)


class Reduction(nn.Layer):
    """A block of BN-Inception that halves the maps and passes them on beside two branches.

    Args:
        single: channels of the reduction before one 3x3 convolution, and of that.
        c_double: of the double branch, which begins outside, in `double_3x3`.
    """

    def __init__(self, c_in: int, single: tuple[int, int], c_double: int) -> None:
        super().__init__()
        self.single_branch = nn.Sequential(ConvBN(c_in, single[0], 1), ConvBN(*single, 3, stride=2))
        self.double_end = ConvBN(c_double, c_double, 3, stride=2)
        self.c_out = single[1] + c_double + c_in

    def forward(self, maps: Tensor, double: Tensor) -> Tensor:
        """(N, C, H, W) and the double branch so far -> (N, C', ceil(H/2), ceil(W/2))"""
        branches = [self.single_branch(maps), self.double_end(double), halve(maps)]
        return paddle.concat(branches, axis=1)


def halve(maps: Tensor) -> Tensor:
    """Maxima of 3x3 windows at every second pixel: (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2))

    The first window begins at the first pixel; the last ones reach over the edge, as in Caffe.
    """
    return F.max_pool2d(F.pad(maps, [0, 2, 0, 2], mode="replicate"), 3, stride=2)


class PreActivation(nn.Layer):
    """A residual block that hands on its sum as it is, and activated (He et al. 2016).

    With stride 2 the shortcut is a 3x3x3 convolution, of the activated input.
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv_1 = nn.Conv3D(c_in, c_out, 3, stride, padding=1)
        self.bn_1 = nn.BatchNorm3D(c_out)
        self.conv_2 = nn.Conv3D(c_out, c_out, 3, padding=1)
        self.down = nn.Conv3D(c_in, c_out, 3, stride, padding=1) if stride > 1 else None
        self.bn = nn.BatchNorm3D(c_out)

    def forward(self, raw: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """The input as it is and activated, both (N, C, T, H, W) -> the output in the same way"""
        residual = self.conv_2(F.relu(normalize_sums(self.conv_1, self.bn_1, active)))
        raw = residual + (raw if self.down is None else self.down(active))
        return raw, F.relu(self.bn(raw))


class Tail(nn.Layer):
    """The paper's 3D net: conv3_x to conv5_x of 3D-ResNet-18."""

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.res3a = nn.Conv3D(c_in, 2 * width, 3, padding=1)
        self.res3a_bn = nn.BatchNorm3D(2 * width)
        self.res3b = PreActivation(2 * width, 2 * width)
        self.res4a = PreActivation(2 * width, 4 * width, stride=2)
        self.res4b = PreActivation(4 * width, 4 * width)
        self.res5a = PreActivation(4 * width, 8 * width, stride=2)
        self.res5b = PreActivation(8 * width, 8 * width)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, 96, T, H, W) -> (N, 512)"""
        raw = self.res3a(maps)
        active = F.relu(self.res3a_bn(raw))
        for block in (self.res3b, self.res4a, self.res4b, self.res5a, self.res5b):
            raw, active = block(raw, active)
        return active.flatten(2).mean(axis=2)  # over one axis: over several it takes Paddle longer


class Appearance(nn.Layer):
    """The paper's 2D-S, BN-Inception from its block 3c on: one vector for each frame."""

    def __init__(self, c_3b: int, c_tap: int, width: int) -> None:
        super().__init__()

        def inception(c_in, one, single, double, pool) -> Inception:
            pool = (pool[0], n(pool[1]))
            return Inception(c_in, n(one), tuple(map(n, single)), tuple(map(n, double)), pool)

        def n(channels: int) -> int:
            return channels * width // 64

        self.inception_3c = Reduction(c_3b, (n(128), n(160)), c_tap)
        c = self.inception_3c.c_out
        self.inception_4a = inception(c, 224, (64, 96), (96, 128), ("avg", 128))
        c = self.inception_4a.c_out
        self.inception_4b = inception(c, 192, (96, 128), (96, 128), ("avg", 128))
        c = self.inception_4b.c_out
        self.inception_4c = inception(c, 160, (128, 160), (128, 160), ("avg", 128))
        c = self.inception_4c.c_out
        self.inception_4d = inception(c, 96, (128, 192), (160, 192), ("avg", 128))
        c = self.inception_4d.c_out
        self.double_4e = double_3x3(c, n(192), n(256))
        self.inception_4e = Reduction(c, (n(128), n(192)), n(256))
        c = self.inception_4e.c_out
        self.inception_5a = inception(c, 352, (192, 320), (160, 224), ("avg", 128))
        c = self.inception_5a.c_out
        self.inception_5b = inception(c, 352, (192, 320), (192, 224), ("max", 128))
        self.c_out = self.inception_5b.c_out

    def forward(self, maps: Tensor, tap: Tensor) -> Tensor:
        """(N, 320, H, W) of block 3b and (N, 96, H, W) -> (N, 1024)"""
        maps = self.inception_3c(maps, tap)
        for block in (self.inception_4a, self.inception_4b, self.inception_4c, self.inception_4d):
            maps = block(maps)
        maps = self.inception_4e(maps, self.double_4e(maps))
        return self.inception_5b(self.inception_5a(maps)).flatten(2).mean(axis=2)


class ECO(nn.Layer):
    """BN-Inception to its block 3c for each frame, 3D-ResNet-18 over all of them, linear.

    ECO Full also averages BN-Inception's own features over the frames.

    Args:
        num_classes: K.
        full: with the 2D-S branch.
        width: channels of the first convolution, 64 as published, a multiple of 2; all others are
            in proportion.
        dropout_2d: of each frame's 2D-S features (Full).
        dropout_3d: of the 3-D features; for Lite 0.6, for Full 0.5 as published for UCF101 and
            HMDB51 (0.3 to 0.5 on larger data sets).
    """

    classifier = "fc"

    def __init__(
        self,
        num_classes: int,
        full: bool,
        *,
        width: int = 64,
        dropout_2d: float = 0.6,
        dropout_3d: float = 0.5,
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width = {width} needs an even number of channels")
        if not (0 <= dropout_2d < 1 and 0 <= dropout_3d < 1):
            raise ValueError(
                f"dropout_2d = {dropout_2d} and dropout_3d = {dropout_3d} need numbers from 0 to "
                "below 1"
            )
        half = width // 2
        self.conv1 = ConvBN(3, width, 7, stride=2)
        self.conv2_reduce = ConvBN(width, width, 1)
        self.conv2 = ConvBN(width, 3 * width, 3)
        self.inception_3a = Inception(
            3 * width, width, (width, width), (width, 3 * half), ("avg", half)
        )
        self.inception_3b = Inception(
            self.inception_3a.c_out, width, (width, 3 * half), (width, 3 * half), ("avg", width)
        )
        self.double_3c = double_3x3(self.inception_3b.c_out, width, 3 * half)
        self.tail = Tail(3 * half, width)
        self.dropout_3d = nn.Dropout(dropout_3d)
        self.appearance = self.dropout_2d = None
        num_features = 8 * width
        if full:
            self.appearance = Appearance(self.inception_3b.c_out, 3 * half, width)
            self.dropout_2d = nn.Dropout(dropout_2d)
            num_features += self.appearance.c_out
        self.fc = nn.Linear(num_features, num_classes)
        for layer in self.sublayers():
            if isinstance(layer, (nn.Conv2D, nn.Conv3D, nn.Linear)):
                nn.initializer.XavierUniform()(layer.weight)
                nn.initializer.Constant(0.0)(layer.bias)

    def forward(self, clip: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, K) logits, for any T, and H and W of 16 pixels at least"""
        t = clip.shape[2]
        maps, vectors = self.frame_features(fold_time(clip))
        vectors = None if vectors is None else unfold_time(vectors, t)
        return self.fuse(unfold_time(maps, t), vectors)

    def frame_features(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the 2-D part makes of each frame, before dropout.

        (N, 3, H, W) -> maps for the 3-D part (N, 96, H/8, W/8), and (N, 1024) or None in Lite.
        """
        maps = F.max_pool2d(self.conv1(frames), 3, stride=2, ceil_mode=True)
        maps = self.conv2(self.conv2_reduce(maps))
        maps = F.max_pool2d(maps, 3, stride=2, ceil_mode=True)
        maps = self.inception_3b(self.inception_3a(maps))
        tap = self.double_3c(maps)
        return tap, self.appearance(maps, tap) if self.appearance else None

    def fuse(self, maps: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Features of frames in order -> logits: (N, T, 96, h, w), (N, T, 1024) -> (N, K)"""
        features = self.dropout_3d(self.tail(maps.transpose([0, 2, 1, 3, 4])))
        if vectors is not None:
            appearance = self.dropout_2d(vectors).mean(axis=1)
            features = paddle.concat([appearance, features], axis=1)  # (N, 1536)
        return self.fc(features)


def eco_full(num_classes: int, **arguments: object) -> ECO:
    """ECO Full: the 3-D network and the 2-D features."""
    return ECO(num_classes, True, **arguments)


def eco_lite(num_classes: int, **arguments: object) -> ECO:
    """ECO Lite: the 3-D network alone."""
    if "dropout_2d" in arguments:
        raise ValueError("eco_lite has no 2D-S branch, so no dropout_2d: set dropout_3d")
    return ECO(num_classes, False, **{"dropout_3d": 0.6, **arguments})

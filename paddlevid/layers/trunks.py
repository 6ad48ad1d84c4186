"""Image networks without their classifiers: frames (N, 3, H, W) -> features (N, D, h, w)."""

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.vision.models import InceptionV3, inceptionv3, resnet, vgg, vgg16
from paddle.vision.models.resnet import BasicBlock, BottleneckBlock, ResNet

TRUNKS = (
    "vgg16", "inception_v3", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
)  # fmt: skip
_NARROW = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # blocks of the stages


class NarrowResNet(ResNet):
    """ResNet-18 or -34 that starts with `width` channels instead of 64."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__(BasicBlock, depth, num_classes=0, with_pool=False)
        self.inplanes = width
        self.conv1 = nn.Conv2D(3, width, kernel_size=7, stride=2, padding=3, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(width)
        for stage, blocks in enumerate(_NARROW[depth]):
            layer = self._make_layer(
                BasicBlock, width * 2**stage, blocks, stride=1 if stage == 0 else 2
            )
            setattr(self, f"layer{stage + 1}", layer)


class InceptionV3Trunk(InceptionV3):
    """InceptionV3 (Szegedy et al. 2015): Paddle's, but with the published epsilon of 0.001."""

    def __init__(self) -> None:
        super().__init__(num_classes=0, with_pool=False)
        self.set_epsilon(1e-3)

    def set_epsilon(self, epsilon: float) -> None:
        """Of all batch norms: 0.001 of torchvision's and Keras' weights, 0.00001 of Paddle's."""
        for layer in self.sublayers():
            if isinstance(layer, nn.BatchNorm2D):
                layer._epsilon = epsilon


def create_resnet(depth: int, width: int = 64) -> ResNet:
    """ResNet (He et al. 2015; stride on the 3x3 convolution): -> (N, 8 * width or 2048, h, w)

    Another width than 64 needs depth 18 or 34.
    """
    if width < 1 or (width != 64 and depth not in _NARROW):
        raise ValueError(f"width = {width} needs depth 18 or 34, not {depth}")
    block = BasicBlock if depth in _NARROW else BottleneckBlock
    if width != 64:
        return NarrowResNet(depth, width)
    return ResNet(block, depth, num_classes=0, with_pool=False)


def start_kaiming_normal(trunk: nn.Layer) -> None:
    """Draw the weights of all convolutions anew (He et al. 2015, arXiv:1502.01852)."""
    for layer in trunk.sublayers():
        if isinstance(layer, nn.Conv2D):
            nn.initializer.KaimingNormal()(layer.weight)


def create_trunk(name: str) -> nn.Layer:
    """A trunk with fresh weights; `name` is one of TRUNKS."""
    if name not in TRUNKS:
        raise ValueError(f"unknown trunk {name!r}; there are {', '.join(TRUNKS)}")
    if name.startswith("resnet"):
        return create_resnet(int(name.removeprefix("resnet")))
    return InceptionV3Trunk() if name == "inception_v3" else vgg16(num_classes=0, with_pool=False)


def published_weights(name: str) -> tuple[str, str]:
    """Address and MD5 sum of the ImageNet weights that Paddle publishes for a trunk."""
    tables = (inceptionv3.model_urls, resnet.model_urls, vgg.model_urls)
    return next(table[name] for table in tables if name in table)


def num_features(trunk: nn.Layer) -> int:
    """D of its maps."""
    if isinstance(trunk, InceptionV3Trunk):
        return 2048  # of several convolutions side by side
    if isinstance(trunk, ResNet):
        trunk = trunk.layer4[-1]
    last = [layer for layer in trunk.sublayers() if isinstance(layer, nn.Conv2D)][-1]
    return last.weight.shape[0]


def smallest_side(trunk: nn.Layer) -> int:
    """Pixels of the height and the width below which no map is left; Paddle itself says nothing."""
    if isinstance(trunk, InceptionV3Trunk):
        return 75
    return 1 if isinstance(trunk, ResNet) else 32


def blocks_of(trunk: nn.Layer) -> list[list[nn.Layer]]:
    """The layers of a VGG or ResNet in its five parts, from the frames up: each halves the maps."""
    if isinstance(trunk, ResNet):
        first = [trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool]
        return [first, *([getattr(trunk, f"layer{stage}")] for stage in (1, 2, 3, 4))]
    blocks: list[list[nn.Layer]] = [[]]
    for layer in trunk.features:
        blocks[-1].append(layer)
        if isinstance(layer, nn.MaxPool2D):
            blocks.append([])
    return blocks[:-1]


def average_to_grid(maps: Tensor, grid: int) -> Tensor:
    """Adaptive average pooling: (N, C, H, W) -> (N, C, grid, grid)

    Where the grid does not divide H and W, in slices: ONNX has no such pooling.
    """
    height, width = maps.shape[2:]
    if height == width == grid:
        return maps
    if height % grid == 0 and width % grid == 0:
        return F.adaptive_avg_pool2d(maps, grid)
    for axis, size in ((2, height), (3, width)):
        cells = [(i * size // grid, -(-(i + 1) * size // grid)) for i in range(grid)]
        parts = [paddle.slice(maps, [axis], [start], [end]) for start, end in cells]
        maps = paddle.concat([part.mean(axis, keepdim=True) for part in parts], axis)
    return maps

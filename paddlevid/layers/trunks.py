"""Image networks without their classifiers: frames -> features."""

from paddle import Tensor, nn
from paddle.vision.models import InceptionV3, vgg16

TRUNKS = ("vgg16", "inception_v3")


class InceptionV3Trunk(InceptionV3):
    """InceptionV3 (Szegedy et al. 2015) up to its average pool: (N, 3, H, W) -> (N, 2048)

    Paddle's own network, but with the batch norms' published epsilon of 0.001.
    """

    def __init__(self) -> None:
        super().__init__(num_classes=0)
        for layer in self.sublayers():
            if isinstance(layer, nn.BatchNorm2D):
                layer._epsilon = 1e-3

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 2048), for H and W of 75 pixels at least"""
        return super().forward(frames).flatten(1)


def create_trunk(name: str) -> nn.Layer:
    """A trunk with fresh weights.

    Args:
        name: "vgg16", (N, 3, H, W) -> (N, 512, H/32, W/32), or "inception_v3", -> (N, 2048).
    """
    if name not in TRUNKS:
        raise ValueError(f"unknown trunk {name!r}; there are {', '.join(TRUNKS)}")
    if name == "vgg16":
        return vgg16(num_classes=0, with_pool=False)
    return InceptionV3Trunk()

"""TSN (Wang et al. 2016, arXiv:1608.00859): average what a 2-D network says of S sparse frames.

Differs from the paper: ResNet (stride on the 3x3 convolution) in place of BN-Inception, features
averaged before the classifier (the same as averaging scores, as the classifier is linear),
dropout 0.4, partial batch norm only on request. A network is one stream, of RGB or of stacked flow
fields; paddlevid.fusion joins what several say.
"""

import numpy as np
from numpy.typing import NDArray
from paddle import Tensor, nn

from paddlevid.layers.time import fold_time, unfold_time
from paddlevid.layers.trunks import (
    create_resnet,
    num_features,
    published_weights,
    start_kaiming_normal,
)


class TSN(nn.Layer):
    """Frames -> ResNet -> average over space and time -> dropout -> linear.

    Args:
        depth: of the ResNet: 18, 34, 50, 101 or 152.
        num_classes: K.
        dropout: before the classifier.
        in_channels: C; 3 for RGB, 10 for five flow fields (x and y).
        width: channels of the first stage, 64 as published; fewer only for depth 18 and 34.
        partial_bn: train with the batch norms frozen, all but the first (section 3.3).
    """

    classifier = "fc"

    def __init__(
        self,
        depth: int,
        num_classes: int,
        *,
        dropout: float = 0.4,
        in_channels: int = 3,
        width: int = 64,
        partial_bn: bool = False,
    ) -> None:
        super().__init__()
        if not (width >= 1 and in_channels >= 1 and 0 <= dropout < 1):
            raise ValueError(
                f"width = {width} and in_channels = {in_channels} need at least 1, dropout = "
                f"{dropout} a number from 0 to below 1"
            )
        self.trunk = create_resnet(depth, width)
        if in_channels != 3:
            self.trunk.conv1 = nn.Conv2D(
                in_channels, width, kernel_size=7, stride=2, padding=3, bias_attr=False
            )
        self.depth = depth
        self.partial_bn = partial_bn
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(num_features(self.trunk), num_classes)
        start_kaiming_normal(self.trunk)
        nn.initializer.Normal(0.0, 0.01)(self.fc.weight)
        nn.initializer.Constant(0.0)(self.fc.bias)
        if partial_bn:
            for norm in self._frozen_norms():
                norm.weight.stop_gradient = norm.bias.stop_gradient = True

    def forward(self, clip: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, K) logits, for any T, H and W"""
        maps = self.trunk(fold_time(clip))  # (N·T, D, h, w)
        features = unfold_time(maps.mean(axis=[2, 3]), clip.shape[2]).mean(axis=1)  # (N, D)
        return self.fc(self.dropout(features))

    def adapt(self, weights: dict[str, NDArray]) -> dict[str, tuple[NDArray, str, str]]:
        """What has to change in weights of a network for other channels, such as RGB for flow.

        The kernels of the first convolution are averaged over their channels and repeated
        (section 3.2, cross-modality pre-training). -> the array by its name, with what was done and
        why; nothing where the channels are the same.
        """
        name = "trunk.conv1.weight"
        found, wanted = weights.get(name), self.trunk.conv1.weight.shape[1]
        if found is None or found.ndim != 4 or found.shape[1] == wanted:
            return {}
        mean = found.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        why = f"averaged over {found.shape[1]} channels, repeated for {wanted}"
        return {name: (np.repeat(mean, wanted, axis=1), "averaged", why)}

    def train(self) -> None:
        """Training mode; with partial_bn the frozen batch norms stay in evaluation mode."""
        super().train()
        if self.partial_bn:
            for norm in self._frozen_norms():
                norm.eval()

    def _frozen_norms(self) -> list[nn.Layer]:
        norms = (nn.BatchNorm2D, nn.SyncBatchNorm)
        return [layer for layer in self.sublayers() if isinstance(layer, norms)][1:]

    @property
    def imagenet_weights(self) -> tuple[str, str]:
        """Address and MD5 sum of the weights that Paddle publishes for the trunk."""
        return published_weights(f"resnet{self.depth}")


def tsn_r18(num_classes: int, **arguments: object) -> TSN:
    """TSN on ResNet-18."""
    return TSN(18, num_classes, **arguments)


def tsn_r34(num_classes: int, **arguments: object) -> TSN:
    """TSN on ResNet-34."""
    return TSN(34, num_classes, **arguments)


def tsn_r50(num_classes: int, **arguments: object) -> TSN:
    """TSN on ResNet-50, the book's."""
    return TSN(50, num_classes, **arguments)


def tsn_r101(num_classes: int, **arguments: object) -> TSN:
    """TSN on ResNet-101."""
    return TSN(101, num_classes, **arguments)


def tsn_r152(num_classes: int, **arguments: object) -> TSN:
    """TSN on ResNet-152."""
    return TSN(152, num_classes, **arguments)

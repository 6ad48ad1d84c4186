"""Image networks without classifiers: their published numbers."""

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.layers.trunks import TRUNKS, create_trunk


def num_trainable(model: nn.Layer) -> int:
    return sum(p.size for p in model.parameters() if not p.stop_gradient)


def without_values(name: str) -> nn.Layer:
    with paddle.LazyGuard():
        return create_trunk(name)


def test_vgg16_has_the_published_number_of_parameters():
    assert num_trainable(without_values("vgg16")) == 14_714_688


def test_inception_v3_has_the_published_number_of_parameters():
    # Keras' has no scale in its batch norms: 21,768,352 of these.
    model = without_values("inception_v3")
    norms = [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    scales = sum(norm.weight.size for norm in norms)
    assert num_trainable(model) - scales == 21_768_352
    assert {norm._epsilon for norm in norms} == {1e-3}
    assert len(norms) == 94


@pytest.mark.parametrize(
    ("name", "size", "expected"), [("vgg16", 64, [2, 512, 2, 2]), ("inception_v3", 75, [2, 2048])]
)
def test_frames_become_features(name, size, expected):
    model = create_trunk(name)
    model.eval()
    frames = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    features = model(paddle.to_tensor(frames))
    assert list(features.shape) == expected
    assert np.isfinite(features.numpy()).all()


def test_an_unknown_trunk_is_refused():
    with pytest.raises(ValueError, match="unknown trunk 'vgg19'; there are vgg16, inception_v3"):
        create_trunk("vgg19")
    assert TRUNKS == ("vgg16", "inception_v3")

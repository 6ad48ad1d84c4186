"""Image networks without classifiers: their published numbers."""

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.layers.trunks import (
    TRUNKS,
    blocks_of,
    create_resnet,
    create_trunk,
    num_features,
    published_weights,
)


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
    ("name", "size", "expected"),
    [("vgg16", 64, [2, 512, 2, 2]), ("inception_v3", 75, [2, 2048, 1, 1])],
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
    assert len(TRUNKS) == 7


@pytest.mark.parametrize("name", TRUNKS)
def test_the_number_of_features_is_that_of_the_maps(name):
    expected = {"vgg16": 512, "resnet18": 512, "resnet34": 512}.get(name, 2048)
    assert num_features(without_values(name)) == expected


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50"])
def test_five_blocks_hold_all_layers_of_a_trunk(name):
    trunk = without_values(name)
    blocks = blocks_of(trunk)
    assert len(blocks) == 5
    held = [p.name for block in blocks for layer in block for p in layer.parameters()]
    assert sorted(held) == sorted(p.name for p in trunk.parameters())


def test_the_last_block_of_vgg16_has_the_published_number_of_parameters():
    block = blocks_of(without_values("vgg16"))[4]
    assert sum(p.size for layer in block for p in layer.parameters()) == 7_079_424


def test_a_narrow_resnet_has_fewer_features():
    assert num_features(create_resnet(18, width=8)) == 64
    with pytest.raises(ValueError, match="width = 8 needs depth 18 or 34, not 50"):
        create_resnet(50, width=8)


def test_published_weights_are_those_of_the_trunk():
    for name in TRUNKS:
        address, md5 = published_weights(name)
        assert address.endswith(f"/{name}.pdparams")
        assert len(md5) == 32

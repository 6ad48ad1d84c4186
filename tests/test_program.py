"""Programs say what the network says, and leave it as it was."""

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.models import create_model
from paddlevid.models.movinet import ConvNorm
from paddlevid.program import Program

SMALL = {"stem": 8, "stages": "8: 24@15 / 16: 40@33 56@53", "head": 48, "dense": 32}


def with_statistics(network: nn.Layer) -> nn.Layer:
    """Batch norms as after training, for all of them to show."""
    paddle.seed(1)
    for layer in network.sublayers():
        if isinstance(layer, nn.BatchNorm3D):
            for tensor, start in ((layer._mean, 0.0), (layer._variance, 0.5), (layer.bias, 0.0)):
                tensor.set_value(start + paddle.rand(tensor.shape))
    return network


@pytest.mark.parametrize("conv_type", ["3d", "2plus1d"])
def test_a_program_equals_its_network(conv_type):
    arguments = {**SMALL, "conv_type": conv_type, "alpha": 1.0}
    network = with_statistics(create_model("movinet_a0", num_classes=7, **arguments))
    clips = np.random.default_rng(0).random((3, 3, 4, 20, 24), np.float32)
    network.eval()
    with paddle.no_grad():
        expected = network(paddle.to_tensor(clips)).numpy()
    [got] = Program(network, [[None, 3, 4, 20, 24]])(clips)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    [one] = Program(network, [[None, 3, 4, 20, 24]])(clips[:1])
    np.testing.assert_allclose(one, expected[:1], rtol=1e-4, atol=1e-5)


def test_the_network_stays_as_it_was():
    network = with_statistics(create_model("movinet_a0", num_classes=7, **SMALL))
    network.train()
    before = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    Program(network, [[None, 3, 2, 16, 16]])
    assert network.training
    after = network.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


def test_a_folded_layer_equals_the_layer():
    layer = with_statistics(nn.Sequential(ConvNorm(3, 5, (3, 3, 3), activation="swish")))[0]
    layer.eval()
    x = paddle.randn([2, 3, 4, 6, 6])
    expected = layer(x, {}).numpy()
    layer.fold()
    assert not [name for name in layer.state_dict() if name.startswith("norm")]
    np.testing.assert_allclose(layer(x, {}).numpy(), expected, rtol=1e-5, atol=1e-6)

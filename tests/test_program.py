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


TRANSFORMER = {
    "num_frames": 4, "image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 2,
    "drop_path": 0.1,
}  # fmt: skip
LRCN = {"width": 8, "reduced": 12, "hidden": 8, "grid": 1}
CNN_LSTM = {"features": 6, "hidden": 8, "dense": 8}
BOTH = {"bidirectional": True, "num_layers": 2, "average": True}


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("timesformer_base", {**TRANSFORMER, "attention": "divided"}, (3, 4, 32, 32)),
        ("timesformer_base", {**TRANSFORMER, "attention": "joint"}, (3, 4, 32, 32)),
        ("timesformer_base", {**TRANSFORMER, "attention": "space"}, (3, 4, 32, 32)),
        ("timesformer_base", TRANSFORMER, (3, 6, 40, 24)),  # its embeddings are resized
        ("lrcn_r18", {**LRCN, "cell": "gru"}, (3, 4, 32, 32)),
        ("lrcn_r18", {**LRCN, "cell": "lstm", **BOTH}, (3, 4, 32, 32)),
        ("cnn_lstm", {**CNN_LSTM, "cell": "lstm"}, (5, 6)),
        ("cnn_lstm", {**CNN_LSTM, "cell": "gru", "k1": 2, "k2": 3}, (5, 6)),
        ("cnn_lstm", {**CNN_LSTM, "cell": "rnn", **BOTH}, (5, 6)),
    ],
)
def test_transformers_and_recurrent_networks_become_programs(name, arguments, shape):
    network = create_model(name, num_classes=7, **arguments)
    paddle.seed(1)
    for parameter in network.parameters():  # some start at 0
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    clips = np.random.default_rng(0).random((3, *shape), np.float32)
    if name == "cnn_lstm":
        clips[1, 3:] = 0  # steps that are passed over
    elif name == "lrcn_r18":
        clips[1, :, 2:] = 0
    network.eval()
    with paddle.no_grad():
        expected = network(paddle.to_tensor(clips)).numpy()
    program = Program(network, [[None, *shape]])
    np.testing.assert_allclose(program(clips)[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(program(clips[:1])[0], expected[:1], rtol=1e-4, atol=1e-5)


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

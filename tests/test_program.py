"""Programs say what the network says, leave it as it was, and are kept."""

import os
import subprocess
import sys
import time

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.models import create_model
from paddlevid.models.movinet import ConvNorm
from paddlevid.predictor import Predictor
from paddlevid.program import Program, cache_folder, make_program, open_program, save_program

SMALL = {"stem": 8, "stages": "8: 24@15 / 16: 40@33 56@53", "head": 48, "dense": 32}


def with_statistics(network: nn.Layer) -> nn.Layer:
    """Batch norms as after training, for all of them to show."""
    paddle.seed(1)
    for layer in network.sublayers():
        if isinstance(layer, nn.BatchNorm3D):
            for tensor, start in ((layer._mean, 0.0), (layer._variance, 0.5), (layer.bias, 0.0)):
                tensor.set_value(start + paddle.rand(tensor.shape))
    return network


class Listed(nn.Layer):
    """A layer that takes its inputs as a list, as programs do."""

    def __init__(self, network: nn.Layer) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: list) -> paddle.Tensor:
        return self.network(*inputs)


@pytest.mark.parametrize("conv_type", ["3d", "2plus1d"])
def test_a_program_equals_its_network(conv_type):
    arguments = {**SMALL, "conv_type": conv_type, "alpha": 1.0}
    network = with_statistics(create_model("movinet_a0", num_classes=7, **arguments))
    clips = np.random.default_rng(0).random((3, 3, 4, 20, 24), np.float32)
    network.eval()
    with paddle.no_grad():
        expected = network(paddle.to_tensor(clips)).numpy()
    program = Predictor(network, "program")
    np.testing.assert_allclose(program(clips)[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(program(clips[:1])[0], expected[:1], rtol=1e-4, atol=1e-5)


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
    program = Predictor(network, "program")
    np.testing.assert_allclose(program(clips)[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(program(clips[:1])[0], expected[:1], rtol=1e-4, atol=1e-5)


def test_the_network_stays_as_it_was():
    network = with_statistics(create_model("movinet_a0", num_classes=7, **SMALL))
    network.train()
    before = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    open_program(Listed(network), [[None, 3, 2, 16, 16]])
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


# --- the cache ------------------------------------------------------------------------------------

PAIRS = [[None, 4]]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "paddlevid" / "programs"


def linear(seed: int = 0) -> nn.Layer:
    paddle.seed(seed)
    return Listed(nn.Linear(4, 3))


def say(program: Program) -> np.ndarray:
    return program(np.arange(8, dtype=np.float32).reshape(2, 4))[0]


def test_a_program_is_made_once(cache, monkeypatch):
    assert cache_folder() == cache
    first = say(open_program(linear(), PAIRS, "linear"))
    monkeypatch.setattr("paddlevid.program.save_program", None)  # it cannot be made again
    np.testing.assert_array_equal(say(open_program(linear(), PAIRS, "linear")), first)
    assert len(list(cache.iterdir())) == 1


def test_another_identity_shape_or_version_of_the_code_is_another_program(cache, monkeypatch):
    made = []
    monkeypatch.setattr(
        "paddlevid.program.save_program",
        lambda network, shapes, folder: made.append(0) or save_program(network, shapes, folder),
    )
    one, other = (say(open_program(linear(seed), PAIRS, f"linear {seed}")) for seed in (0, 1))
    assert np.abs(one - other).max() > 0.1
    open_program(linear(), [[None, 5, 4]], "linear 0")
    monkeypatch.setattr("paddlevid.program._code_digest", lambda: "of tomorrow")
    open_program(linear(), PAIRS, "linear 0")
    assert len(made) == 4


def test_without_an_identity_nothing_is_kept(cache):
    say(open_program(linear(), PAIRS))
    assert not cache.exists()


def test_a_program_that_does_not_pass_its_check_is_not_kept(cache):
    def refuse(program: Program) -> None:
        raise ValueError("no")

    for identity in ("linear", ""):
        with pytest.raises(ValueError, match="no"):
            make_program(linear(), PAIRS, identity, refuse)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flip", "lose", "list"])
def test_a_damaged_program_is_made_anew(cache, damage):
    expected = say(open_program(linear(), PAIRS, "linear"))
    [kept] = cache.iterdir()
    weights = kept / "program.pdiparams"
    content = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(content[:-8])
    elif damage == "flip":
        weights.write_bytes(content[:-3] + bytes([content[-3] ^ 64]) + content[-2:])
    elif damage == "lose":
        weights.unlink()
    else:
        (kept / "sums.json").write_text("[")
    np.testing.assert_array_equal(say(open_program(linear(), PAIRS, "linear")), expected)
    assert weights.read_bytes() == content
    assert [path.name for path in cache.iterdir()] == [kept.name]


def test_a_cache_that_cannot_be_written_is_done_without(cache):
    cache.parent.write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="programs are not kept"):
        program = open_program(linear(), PAIRS, "linear")
    assert say(program).shape == (2, 3)


def test_the_programs_that_were_not_used_for_long_make_room(cache, monkeypatch):
    monkeypatch.setattr("paddlevid.program.CACHE_BYTES", 1)
    for number, age in enumerate((50, 90, 20)):
        open_program(linear(number), PAIRS, f"linear {number}")
        [newest] = [path for path in cache.iterdir() if path.stat().st_mtime > 1e9]
        os.utime(newest, (1000 - age, 1000 - age))
    assert len(list(cache.iterdir())) == 1


def test_what_a_killed_process_had_half_made_is_removed_an_hour_later(cache):
    cache.mkdir(parents=True)
    for name, age in ((".old", 4000), (".new", 60)):
        (cache / name).mkdir()
        (cache / name / "model.pdiparams").touch()
        os.utime(cache / name, (time.time() - age,) * 2)
    open_program(linear(), PAIRS, "linear")
    assert sorted(path.name for path in cache.iterdir() if path.name[0] == ".") == [".new"]


def test_paddles_remarks_do_not_go_to_stdout(tmp_path):
    code = """
from paddlevid import runtime
runtime.configure()
import numpy as np
from paddlevid.models import create_model
from paddlevid.predictor import Predictor
model = create_model("movinet_a0", num_classes=2, stem=8, stages="8: 24@15", head=8, dense=8)
Predictor(model, "program")(np.zeros((1, 3, 2, 16, 16), np.float32))
print("all")
"""
    out = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    assert out == b"all\n"

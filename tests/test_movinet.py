"""MoViNet: the published sizes, the authors' own numbers, causality, and what a state is."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.convert.conversion import convert
from paddlevid.models import create_model
from paddlevid.models.movinet import TABLES, make_divisible, read_stages
from paddlevid.tensorflow import _as_torch
from paddlevid.weights import WeightsFile, load_weights

DATA = Path(__file__).parent / "data"
SMALL = {"stem": 8, "stages": "8: 24@15 / 16: 40@53 40@33 / 24: 48@33", "head": 32, "dense": 40}
SIZES = sorted(TABLES)


def small(name: str = "movinet_a0_stream", num_classes: int = 3, **arguments: object) -> nn.Layer:
    """With residuals that count, in evaluation mode."""
    paddle.seed(0)
    model = create_model(name, num_classes=num_classes, **{**SMALL, "alpha": 0.7, **arguments})
    rng = np.random.default_rng(0)
    for key, tensor in model.state_dict().items():
        if key.endswith(("_mean", "norm.bias", "scale")):
            tensor.set_value(rng.normal(0, 0.3, tensor.shape).astype(np.float32))
    model.eval()
    return model


def clips(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(1).uniform(0, 1, shape).astype(np.float32))


def num_trainable(layer: nn.Layer) -> int:
    return sum(parameter.size for parameter in layer.parameters() if not parameter.stop_gradient)


# --- sizes ----------------------------------------------------------------------------------------

BASE = {
    "a0": (3_111_799, 2_089_348, 1_902_889),
    "a1": (4_690_296, 3_667_845, 3_481_386),
    "a2": (5_249_562, 4_227_111, 4_040_652),
    "a3": (7_397_545, 6_375_094, 6_188_635),
    "a4": (11_349_463, 10_327_012, 10_140_553),
    "a5": (18_650_523, 17_628_072, 17_441_613),
}
STREAM = {"a0": 3_748_031, "a1": 6_447_352, "a2": 7_326_962}
# With positions: a number more in each layer
STREAM |= {"a3": 10_986_585 + 33, "a4": 18_136_135 + 47, "a5": 31_495_875 + 59}


@pytest.mark.parametrize("size", SIZES)
def test_the_numbers_of_parameters_are_the_published_ones(size):
    with paddle.LazyGuard():
        names = f"movinet_{size}", f"movinet_{size}_stream"
        model, stream = (create_model(name, num_classes=600) for name in names)
    assert num_trainable(model) == BASE[size][0]
    per_class = 2048 + 1
    assert [BASE[size][0] - per_class * (600 - k) for k in (101, 10)] == list(BASE[size][1:])
    assert num_trainable(stream) == STREAM[size]


def test_a_causal_network_of_whole_kernels_has_the_published_number_too():
    model = create_model("movinet_a0_stream", num_classes=600, conv_type="3d")
    assert num_trainable(model) == 3_783_983


def test_what_transfer_learning_trains_has_the_published_size():
    model = create_model("movinet_a0", num_classes=10)
    assert num_trainable(model.fc) == 985_088 + 20_490


@pytest.mark.parametrize(
    ("size", "pixels", "buffers", "floats"),
    [("a0", 172, 11, 670_944), ("a1", 172, 17, 1_214_416), ("a2", 224, 19, 2_700_096),
     ("a3", 256, 23, 4_558_848), ("a4", 290, 35, 12_334_016), ("a5", 320, 43, 18_748_800)],
)  # fmt: skip
def test_the_buffers_of_a_stream_have_the_published_sizes(size, pixels, buffers, floats):
    model = create_model(f"movinet_{size}_stream", num_classes=2)
    shapes = model.state_shapes(1, pixels, pixels)
    frames = [shape for name, shape in shapes.items() if name.endswith("_frames")]
    assert (len(frames), sum(np.prod(shape) for shape in frames)) == (buffers, floats)


def test_buffers_of_whole_kernels_are_larger():
    model = create_model("movinet_a0_stream", num_classes=2, conv_type="3d")
    shapes = model.state_shapes(1, 172, 172)
    frames = [np.prod(shape) for name, shape in shapes.items() if name.endswith("_frames")]
    assert sum(frames) == 1_287_072


@pytest.mark.parametrize(
    ("expanded", "base", "stream"),
    [(24, 8, 16), (80, 24, 40), (112, 32, 56), (184, 48, 96), (280, 72, 144), (344, 88, 176),
     (384, 96, 192)],
)  # fmt: skip
def test_squeeze_and_excitation_has_the_published_widths(expanded, base, stream):
    assert make_divisible(0.25 * expanded) == base
    assert make_divisible(0.5 * expanded) == stream


def test_a_table_is_read_as_it_is_written():
    assert read_stages("8: 24@15 / 32: 80@33x2 112@53") == [
        (8, [(24, 1, 5)]),
        (32, [(80, 3, 3), (80, 3, 3), (112, 5, 3)]),
    ]


# --- the authors' code ----------------------------------------------------------------------------


def published(kind: str, num_classes: int = 3) -> tuple[nn.Layer, dict[str, np.ndarray]]:
    """A network with the weights of a file of make_movinet.py, and what the file holds beside."""
    path = DATA / f"movinet_{kind}.npz"
    content = dict(np.load(path))
    arrays = {
        name: _as_torch(name, array.astype(np.float32))
        for name, array in content.items()
        if not name.startswith("__")
    }
    size = {"base": "a0", "stream": "a0_stream", "positions": "a3_stream"}[kind]
    model = create_model(f"movinet_{size}", num_classes=num_classes, **SMALL)
    weights = convert(model, WeightsFile(path, arrays, "torch"), whole=num_classes == 3).weights
    load_weights(model, weights, path)
    model.eval()
    beside = {name[2:]: array for name, array in content.items() if name.startswith("__")}
    beside["clip"] = beside["clip"].astype(np.float32).transpose(0, 4, 1, 2, 3)
    return model, beside


@pytest.mark.parametrize("kind", ["base", "stream", "positions"])
def test_a_clip_has_the_logits_of_the_authors_code(kind):
    model, theirs = published(kind)
    logits = model(paddle.to_tensor(theirs["clip"])).numpy()
    np.testing.assert_allclose(logits, theirs["whole"], atol=2e-5)
    assert np.abs(theirs["whole"][0] - theirs["whole"][1]).max() > 1e-3


@pytest.mark.parametrize("kind", ["stream", "positions"])
def test_chunks_have_the_logits_of_the_authors_code(kind):
    model, theirs = published(kind)
    clip = paddle.to_tensor(theirs["clip"])
    first, state = model.step(clip[:, :, :2])
    second, _ = model.step(clip[:, :, 2:], state)
    np.testing.assert_allclose(first.numpy(), theirs["first"], atol=2e-5)
    np.testing.assert_allclose(second.numpy(), theirs["whole"], atol=2e-5)


def test_another_number_of_classes_makes_both_layers_of_the_classifier_new():
    torch_order = published("base", num_classes=7)[0]
    with_theirs = published("base")[0]
    ours, theirs = torch_order.state_dict(), with_theirs.state_dict()
    same = {name for name in ours if ours[name].shape == theirs[name].shape
            and np.array_equal(ours[name].numpy(), theirs[name].numpy())}  # fmt: skip
    assert {name for name in ours if name not in same} >= {"fc.weight", "fc.dense.weight"}
    assert all(name in same for name in ours if not name.startswith("fc."))


# --- identities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["movinet_a0", "movinet_a0_stream"])
def test_as_published_the_residuals_do_not_count_at_the_start(name):
    model, clip = small(name, alpha=0.0), clips(1, 3, 4, 32, 40)
    before = model(clip).numpy()
    for key, parameter in model.named_parameters():
        if any(part in key for part in (".expand.", ".depthwise.", ".se.", ".project.")):
            parameter.set_value(parameter + 1)
    np.testing.assert_array_equal(model(clip).numpy(), before)


STREAMS = [{}, {"conv_type": "3d"}, {"slope": 0.2}]


@pytest.mark.parametrize("arguments", STREAMS)
@pytest.mark.parametrize("name", ["movinet_a0_stream", "movinet_a3_stream"])
@pytest.mark.parametrize("lengths", [[1] * 9, [2, 1, 6], [9], [4, 5]])
def test_any_chunks_give_the_logits_of_the_whole_clip(name, arguments, lengths):
    model, clip = small(name, **arguments), clips(2, 3, 9, 37, 50)
    whole, curve = model(clip).numpy(), model.frame_logits(clip).numpy()
    np.testing.assert_allclose(curve[:, -1], whole, atol=1e-5)
    state, start = None, 0
    for length in lengths:
        logits, state = model.step(clip[:, :, start : start + length], state)
        start += length
        np.testing.assert_allclose(logits.numpy(), curve[:, start - 1], atol=1e-4)
    assert np.abs(curve[:, 0] - whole).max() > 1e-3


def test_a_frame_knows_nothing_of_later_ones_unless_the_network_is_for_whole_clips():
    clip = clips(1, 3, 8, 32, 32)
    changed = clip.clone()
    changed[:, :, 5] = 0.0
    stream = small()
    first, second = (stream.frame_logits(c).numpy() for c in (clip, changed))
    np.testing.assert_array_equal(first[:, :5], second[:, :5])
    assert np.abs(first[:, 5:] - second[:, 5:]).max() > 1e-4
    base = small("movinet_a0")
    first, second = (base._maps(c, {}).numpy() for c in (clip, changed))
    assert np.abs(first[:, :, :5] - second[:, :, :5]).max() > 1e-4


def test_streams_of_unlike_age_run_in_one_batch_and_do_not_mix():
    model, clip = small("movinet_a3_stream"), clips(2, 3, 7, 32, 48)
    older, younger = clip[:1], clip[1:]
    _, state = model.step(older[:, :, :4])
    _, other = model.step(younger[:, :, :1])
    joined = {name: paddle.concat([state[name], other[name]]) for name in state}
    frames = paddle.concat([older[:, :, 4:6], younger[:, :, 1:3]])
    logits, joined = model.step(frames, joined)
    np.testing.assert_allclose(logits[0].numpy(), model(older[:, :, :6])[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(logits[1].numpy(), model(younger[:, :, :3])[0].numpy(), atol=1e-5)
    alone = {name: tensor[1:] for name, tensor in joined.items()}
    logits, _ = model.step(younger[:, :, 3:], alone)
    np.testing.assert_allclose(logits.numpy(), model(younger).numpy(), atol=1e-5)


def test_a_state_is_not_changed_by_the_step_that_takes_it():
    model, clip = small(), clips(1, 3, 3, 32, 32)
    _, state = model.step(clip[:, :, :1])
    before = {name: tensor.numpy().copy() for name, tensor in state.items()}
    first = model.step(clip[:, :, 1:], state)[0].numpy()
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])
    np.testing.assert_array_equal(model.step(clip[:, :, 1:], state)[0].numpy(), first)


def test_a_state_of_zeros_is_the_start():
    model, clip = small("movinet_a3_stream"), clips(2, 3, 3, 33, 32)
    zeros = {name: paddle.zeros(shape) for name, shape in model.state_shapes(2, 33, 32).items()}
    np.testing.assert_array_equal(model.step(clip, zeros)[0].numpy(), model.step(clip)[0].numpy())


@pytest.mark.parametrize("name", ["movinet_a0", "movinet_a3_stream"])
@pytest.mark.parametrize("conv_type", ["3d", "2plus1d"])
def test_every_parameter_gets_a_gradient(name, conv_type):
    model = small(name, conv_type=conv_type, drop_path=0.0)
    model.train()
    nn.CrossEntropyLoss()(model(clips(4, 3, 5, 32, 32)), paddle.to_tensor([0, 1, 2, 0])).backward()
    trained = [(name, p) for name, p in model.named_parameters() if not p.stop_gradient]
    assert [name for name, p in trained if p.grad is None] == []


def test_dropping_paths_leaves_clips_their_shortcuts():
    model, clip = small("movinet_a0", drop_path=0.9), clips(1, 3, 2, 32, 32)
    block = model.stages[-1][-1]
    assert block.drop_path == pytest.approx(0.9)
    assert model.stages[0][0].drop_path == pytest.approx(0.9 / 4)
    block.train()
    for layer in block.sublayers():
        layer.eval()
    maps = clips(64, 16, 2, 8, 8)
    paddle.seed(0)
    got = block(maps, {}).numpy()
    block.eval()
    shortcut = (got - (block.skip(nn.functional.avg_pool3d(
        maps, (1, 3, 3), (1, block.stride, block.stride), "SAME") if block.stride > 1 else maps, {})
    ).numpy()).reshape(64, -1)  # fmt: skip
    dropped = (np.abs(shortcut).max(axis=1) < 1e-5).mean()
    assert 0.8 < dropped < 1.0
    assert np.isfinite(model(clip).numpy()).all()


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 3, 32, 32), r"needs a chunk \(N, 3, T, H, W\), got \(1, 2, 3, 32, 32\)"),
        ((1, 3, 32, 32), "needs a chunk"),
        ((1, 3, 0, 32, 32), "needs a chunk"),
        ((2, 3, 1, 32, 32), "number of videos"),
        ((1, 3, 1, 32, 64), "size of frames"),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused(shape, message):
    model = small()
    _, state = model.step(clips(1, 3, 2, 32, 32))
    with pytest.raises(ValueError, match=message):
        model.step(paddle.zeros(shape), state)


def test_a_state_of_another_network_is_refused():
    _, state = small(stages="8: 24@15 / 16: 40@53").step(clips(1, 3, 2, 32, 32))
    with pytest.raises(ValueError, match="the state is of another network"):
        small().step(clips(1, 3, 1, 32, 32), state)
    _, state = small(stages=SMALL["stages"].replace("40@53", "48@53")).step(clips(1, 3, 2, 32, 32))
    with pytest.raises(ValueError, match="stage1_block0_frames has the shape"):
        small().step(clips(1, 3, 1, 32, 32), state)


def test_a_step_in_training_mode_is_refused():
    model = small()
    model.train()
    with pytest.raises(ValueError, match=r"needs evaluation mode: call eval\(\) first"):
        model.step(clips(1, 3, 1, 32, 32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conv_type": "2d"}, "unknown conv_type '2d'"),
        ({"stages": "8: 24@1"}, "stage '8: 24@1': needs a form such as"),
        ({"stages": "/".join(["8: 24@15"] * 6)}, "of which there are 6, at most 5"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"slope": 0.0}, "slope = 0.0 needs a number above 0"),
        ({"dense": -1}, "dense = -1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_the_base_network_knows_no_slope():
    with pytest.raises(ValueError, match="movinet_a0 has no argument 'slope'"):
        create_model("movinet_a0", num_classes=2, slope=0.2)

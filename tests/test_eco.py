"""ECO against its published numbers, Caffe's pooling, and a re-statement in NumPy."""

import copy
import math
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.convert.conversion import convert
from paddlevid.models import create_model
from paddlevid.models.eco import Inception, halve, normalize_sums
from paddlevid.weights import WeightsFile, load_weights

# Table 2.1 of the specification: channels in; of the 1x1 convolution; of the single branch's
# reduction and 3x3; of the double branch's reduction and two 3x3; the pooling and its projection.
BLOCKS = {
    "3a": (192, 64, (64, 64), (64, 96, 96), ("avg", 32)),
    "3b": (256, 64, (64, 96), (64, 96, 96), ("avg", 64)),
    "3c": (320, None, (128, 160), (64, 96, 96), ("max", None)),
    "4a": (576, 224, (64, 96), (96, 128, 128), ("avg", 128)),
    "4b": (576, 192, (96, 128), (96, 128, 128), ("avg", 128)),
    "4c": (576, 160, (128, 160), (128, 160, 160), ("avg", 128)),
    "4d": (608, 96, (128, 192), (160, 192, 192), ("avg", 128)),
    "4e": (608, None, (128, 192), (192, 256, 256), ("max", None)),
    "5a": (1056, 352, (192, 320), (160, 224, 224), ("avg", 128)),
    "5b": (1024, 352, (192, 320), (192, 224, 224), ("max", 128)),
}
STEM = {"conv1_7x7_s2": (3, 64, 7), "conv2_3x3_reduce": (64, 64, 1), "conv2_3x3": (64, 192, 3)}
TAIL = {
    "res3a_2n": (96, 128),
    "res3b_1": (128, 128),
    "res3b_2": (128, 128),
    "res4a_1": (128, 256),
    "res4a_2": (256, 256),
    "res4a_down": (128, 256),
    "res4b_1": (256, 256),
    "res4b_2": (256, 256),
    "res5a_1": (256, 512),
    "res5a_2": (512, 512),
    "res5a_down": (256, 512),
    "res5b_1": (512, 512),
    "res5b_2": (512, 512),
}
# The batch norms of the 3-D part, and which of our layers they are.
TAIL_NORMS = {
    "res3a_bn": (128, "res3a_bn"),
    "res3b_1_bn": (128, "res3b.bn_1"),
    "res3b_bn": (128, "res3b.bn"),
    "res4a_1_bn": (256, "res4a.bn_1"),
    "res4a_bn": (256, "res4a.bn"),
    "res4b_1_bn": (256, "res4b.bn_1"),
    "res4b_bn": (256, "res4b.bn"),
    "res5a_1_bn": (512, "res5a.bn_1"),
    "res5a_bn": (512, "res5a.bn"),
    "res5b_1_bn": (512, "res5b.bn_1"),
    "res5b_bn": (512, "res5b.bn"),
}


def caffe_shapes(full: bool) -> dict[str, list[int]]:
    """The convolutions under the names of the authors' Caffe files: -> shapes of their weights."""
    shapes = {name: [out, c, k, k] for name, (c, out, k) in STEM.items()}
    for block, (c, one, single, double, (_, projection)) in BLOCKS.items():
        place = f"inception_{block}_"
        convolutions = {
            "1x1": (c, one, 1),
            "3x3_reduce": (c, single[0], 1),
            "3x3": (*single, 3),
            "double_3x3_reduce": (c, double[0], 1),
            "double_3x3_1": (*double[:2], 3),
            "double_3x3_2": (*double[1:], 3),
            "pool_proj": (c, projection, 1),
        }
        shapes |= {place + n: [out, c, k, k] for n, (c, out, k) in convolutions.items() if out}
        if block == "3c" and not full:  # Lite ends at the tap
            for name in ("3x3_reduce", "3x3", "double_3x3_2"):
                del shapes[place + name]
            break
    return shapes | {name: [out, c, 3, 3, 3] for name, (c, out) in TAIL.items()}


def our_place(caffe_name: str) -> str:
    """inception_4a_double_3x3_2 -> appearance.inception_4a.double_branch.2"""
    if caffe_name in STEM:
        return {"conv1_7x7_s2": "conv1", "conv2_3x3_reduce": "conv2_reduce"}.get(
            caffe_name, "conv2"
        )
    _, block, layer = caffe_name.split("_", 2)
    place = f"inception_{block}"
    ours = {
        "1x1": "conv_1x1",
        "3x3_reduce": "single_branch.0",
        "3x3": "single_branch.1",
        "double_3x3_reduce": "double_branch.0",
        "double_3x3_1": "double_branch.1",
        "double_3x3_2": "double_branch.2",
        "pool_proj": "pool_proj",
    }[layer]
    if block in ("3c", "4e"):
        begins = {"double_branch.0": f"double_{block}.0", "double_branch.1": f"double_{block}.1"}
        if ours in begins:
            return begins[ours] if block == "3c" else f"appearance.{begins[ours]}"
        ours = ours.replace("double_branch.2", "double_end")
    return f"{place}.{ours}" if block in ("3a", "3b") else f"appearance.{place}.{ours}"


def our_convolution(caffe_name: str) -> str:
    if caffe_name == "res3a_2n":
        return "tail.res3a"
    if caffe_name.startswith("res"):
        block, number = caffe_name.split("_")
        return f"tail.{block}.{number if number == 'down' else f'conv_{number}'}"
    return f"{our_place(caffe_name)}.conv"


def clips(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def enliven(model: nn.Layer) -> None:
    """Weights and batch norms in which differences of the input do not die out layer by layer."""
    rng = np.random.default_rng(0)
    for layer in model.sublayers():
        if isinstance(layer, (nn.Conv2D, nn.Conv3D)):
            shape = layer.weight.shape
            deviation = math.sqrt(2 / np.prod(shape[1:]))
            layer.weight.set_value(rng.normal(0, deviation, shape).astype(np.float32))
        elif isinstance(layer, (nn.BatchNorm2D, nn.BatchNorm3D)):
            shape = layer.weight.shape
            for tensor, low, high in (
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.5, 0.5),
                (layer._mean, -0.5, 0.5),
                (layer._variance, 0.5, 1.5),
            ):
                tensor.set_value(rng.uniform(low, high, shape).astype(np.float32))


def small(name: str = "eco_full", num_classes: int = 3, **arguments: object) -> nn.Layer:
    """A narrow network in evaluation mode, in which every layer does something."""
    paddle.seed(0)
    model = create_model(name, num_classes=num_classes, **{"width": 8, **arguments})
    enliven(model)
    model.eval()
    return model


def num_trainable(layers: list[nn.Layer]) -> int:
    parameters = [p for layer in layers for p in layer.parameters(include_sublayers=False)]
    return sum(p.size for p in parameters if not p.stop_gradient)


def without_values(name: str, num_classes: int) -> nn.Layer:
    with paddle.LazyGuard():  # shapes, but no memory and no time
        return create_model(name, num_classes=num_classes)


def outputs(model: nn.Layer, names: list[str], clip: paddle.Tensor) -> dict[str, np.ndarray]:
    """What some of its layers give, by name; '<name' is a layer's first input."""
    seen, hooks = {}, []
    layers = dict(model.named_sublayers())
    for name in names:
        if name.startswith("<"):

            def see_input(_, inputs, name=name):
                seen[name] = inputs[0].numpy()

            hooks.append(layers[name[1:]].register_forward_pre_hook(see_input))
        else:

            def see_output(_, inputs, output, name=name):
                seen[name] = (output[-1] if isinstance(output, tuple) else output).numpy()

            hooks.append(layers[name].register_forward_post_hook(see_output))
    with paddle.no_grad():
        seen["logits"] = model(clip).numpy()
    for hook in hooks:
        hook.remove()
    return seen


# --- numbers of the published networks ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [
        ("eco_full", 400, 47_502_128),
        ("eco_full", 101, 47_042_565),
        ("eco_full", 51, 46_965_715),
        ("eco_full", 174, 47_154_766),
        ("eco_full", 600, 47_809_528),
        ("eco_lite", 400, 37_503_856),
        ("eco_lite", 101, 37_350_469),
        ("eco_lite", 51, 37_324_819),
        ("eco_lite", 174, 37_387_918),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, num_classes, expected):
    assert num_trainable(without_values(name, num_classes).sublayers()) == expected


@pytest.mark.parametrize(
    ("name", "in_2d", "in_norms", "in_fc"),
    [("eco_full", 10_250_208, 26_944, 614_800), ("eco_lite", 678_560, 9_920, 205_200)],
)
def test_each_kind_of_layer_has_its_share_of_the_parameters(name, in_2d, in_norms, in_fc):
    layers = without_values(name, 400).sublayers()
    shares = {
        kind: num_trainable([layer for layer in layers if isinstance(layer, kind)])
        for kind in ((nn.Conv2D,), (nn.Conv3D,), (nn.BatchNorm2D, nn.BatchNorm3D), (nn.Linear,))
    }
    assert list(shares.values()) == [in_2d, 36_610_176, in_norms, in_fc]


@pytest.mark.parametrize(("name", "in_2d"), [("eco_full", 69), ("eco_lite", 19)])
def test_the_convolutions_are_those_of_the_table(name, in_2d):
    model = without_values(name, 5)
    expected = {our_convolution(n): shape for n, shape in caffe_shapes(name == "eco_full").items()}
    convolutions = {
        place: list(layer.weight.shape)
        for place, layer in model.named_sublayers()
        if isinstance(layer, (nn.Conv2D, nn.Conv3D))
    }
    assert len(convolutions) == in_2d + 13
    assert convolutions == expected


@pytest.mark.parametrize("name", ["eco_full", "eco_lite"])
def test_every_convolution_has_a_bias(name):
    layers = without_values(name, 5).sublayers()
    convolutions = [layer for layer in layers if isinstance(layer, (nn.Conv2D, nn.Conv3D))]
    assert [layer.bias.shape[0] for layer in convolutions] == [
        layer.weight.shape[0] for layer in convolutions
    ]


@pytest.fixture(scope="module")
def published() -> nn.Layer:
    paddle.seed(1)
    model = create_model("eco_full", num_classes=400)
    model.eval()
    return model


@pytest.fixture(scope="module")
def published_shapes(published) -> dict[str, list[int]]:
    """Shapes in ECO Full at its published size: 16 frames of 224x224."""
    names = [
        "conv1", "<conv2_reduce", "conv2", "<inception_3a", "inception_3a", "inception_3b",
        "double_3c.1", "appearance.inception_3c", "appearance.inception_4a",
        "appearance.inception_4b", "appearance.inception_4c", "appearance.inception_4d",
        "appearance.inception_4e", "appearance.inception_5a", "appearance.inception_5b",
        "appearance", "<tail", "tail.res3b", "tail.res4b", "tail.res5b", "tail", "<fc",
    ]  # fmt: skip
    seen = outputs(published, names, clips(1, 3, 16, 224, 224))
    return {name: list(value.shape) for name, value in seen.items()}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("conv1", (16, 64, 112, 112)),
        ("<conv2_reduce", (16, 64, 56, 56)),
        ("conv2", (16, 192, 56, 56)),
        ("<inception_3a", (16, 192, 28, 28)),
        ("inception_3a", (16, 256, 28, 28)),
        ("inception_3b", (16, 320, 28, 28)),
        ("double_3c.1", (16, 96, 28, 28)),
        ("appearance.inception_3c", (16, 576, 14, 14)),
        ("appearance.inception_4a", (16, 576, 14, 14)),
        ("appearance.inception_4b", (16, 576, 14, 14)),
        ("appearance.inception_4c", (16, 608, 14, 14)),
        ("appearance.inception_4d", (16, 608, 14, 14)),
        ("appearance.inception_4e", (16, 1056, 7, 7)),
        ("appearance.inception_5a", (16, 1024, 7, 7)),
        ("appearance.inception_5b", (16, 1024, 7, 7)),
        ("appearance", (16, 1024)),
        ("<tail", (1, 96, 16, 28, 28)),
        ("tail.res3b", (1, 128, 16, 28, 28)),
        ("tail.res4b", (1, 256, 8, 14, 14)),
        ("tail.res5b", (1, 512, 4, 7, 7)),
        ("tail", (1, 512)),
        ("<fc", (1, 1536)),
        ("logits", (1, 400)),
    ],
)
def test_sixteen_frames_of_224_have_the_published_shapes(published_shapes, place, expected):
    assert tuple(published_shapes[place]) == expected


# --- initialisation -------------------------------------------------------------------------------


def test_convolutions_and_classifier_start_xavier_uniform(published):
    layers = [
        layer
        for layer in published.sublayers()
        if isinstance(layer, (nn.Conv2D, nn.Conv3D, nn.Linear))
    ]
    assert len(layers) == 69 + 13 + 1
    for layer in layers:
        values = layer.weight.numpy()
        fans = values.size / values.shape[0] + values.size / values.shape[1]
        limit = math.sqrt(6 / fans)
        assert np.abs(values).max() <= limit * (1 + 1e-6)
        error = 5 * math.sqrt(0.2 / values.size)  # five standard errors of a uniform's deviation
        assert values.std() == pytest.approx(limit / math.sqrt(3), rel=error)
        assert (layer.bias.numpy() == 0).all()


def test_batch_norms_start_as_the_identity(published):
    norms = [
        layer
        for layer in published.sublayers()
        if isinstance(layer, (nn.BatchNorm2D, nn.BatchNorm3D))
    ]
    assert len(norms) == 69 + 11
    for norm in norms:
        assert (norm.weight.numpy() == 1).all()
        assert (norm.bias.numpy() == 0).all()
        assert (norm._momentum, norm._epsilon) == (0.9, 1e-5)


# --- pooling as in Caffe --------------------------------------------------------------------------


def caffe_max_pool(maps: np.ndarray, num: tuple[int, int]) -> np.ndarray:
    """Windows of 3x3 at every second pixel, cut off at the edge: (N, C, H, W) -> (N, C, *num)"""
    pooled = np.empty((*maps.shape[:2], *num), maps.dtype)
    for i in range(num[0]):
        for j in range(num[1]):
            window = maps[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            pooled[:, :, i, j] = window.max(axis=(2, 3))
    return pooled


def caffe_size(size: int) -> int:
    return math.ceil((size - 3) / 2) + 1


@pytest.mark.parametrize(("height", "width"), [(32, 48), (38, 30), (50, 97)])
def test_both_pools_of_the_stem_are_caffes(height, width):
    seen = outputs(
        small("eco_lite"),
        ["conv1", "<conv2_reduce", "conv2", "<inception_3a"],
        clips(1, 3, 2, height, width),
    )
    for before, after in (("conv1", "<conv2_reduce"), ("conv2", "<inception_3a")):
        num = tuple(caffe_size(size) for size in seen[before].shape[2:])
        np.testing.assert_array_equal(seen[after], caffe_max_pool(seen[before], num))


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (8, 14)])
def test_even_maps_are_halved_as_in_caffe(size):
    maps = clips(2, 3, *size)
    num = (caffe_size(size[0]), caffe_size(size[1]))
    assert num == (size[0] // 2, size[1] // 2)
    np.testing.assert_array_equal(halve(maps).numpy(), caffe_max_pool(maps.numpy(), num))


def test_the_first_window_begins_at_the_first_pixel():
    ramp = paddle.arange(64, dtype="float32").reshape([1, 1, 8, 8])
    assert halve(ramp)[0, 0, 0, 0].item() == 18  # 9 with padding


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (5, 7), (1, 4), (9, 2)])
def test_odd_maps_are_halved_to_the_larger_number(size):
    maps = clips(2, 3, *size)
    num = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    np.testing.assert_array_equal(halve(maps).numpy(), caffe_max_pool(maps.numpy(), num))


def pooled_by(kind: str, maps: paddle.Tensor) -> np.ndarray:
    """What an Inception block projects after its pooling."""
    block = Inception(maps.shape[1], 1, (1, 1), (1, 1), (kind, 1))
    seen = []
    block.pool_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    block(maps)
    return seen[0]


def test_average_pools_count_the_padding():
    expected = np.full((4, 5), 1.0)
    expected[[0, -1], :] = expected[:, [0, -1]] = 6 / 9
    expected[np.ix_([0, -1], [0, -1])] = 4 / 9
    got = pooled_by("avg", paddle.ones([1, 1, 4, 5]))[0, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got[0, 0] == pytest.approx(0.444, abs=5e-4)


def test_the_last_block_pools_maxima_that_no_padding_wins():
    maps = clips(1, 2, 4, 5) - 10  # all below the padding's zero
    wide = np.pad(maps.numpy(), [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    expected = np.max(
        [wide[:, :, i : i + 4, j : j + 5] for i in range(3) for j in range(3)], axis=0
    )
    np.testing.assert_array_equal(pooled_by("max", maps), expected)


def test_only_block_5b_pools_maxima_with_a_projection():
    kinds = {
        place.rpartition("_")[2]: layer.pool
        for place, layer in small().named_sublayers()
        if isinstance(layer, Inception)
    }
    expected = {b: kind for b, (*_, (kind, projection)) in BLOCKS.items() if projection}
    assert kinds == expected


# --- frames and clips -----------------------------------------------------------------------------


def test_frames_are_permuted_into_volumes_and_not_reshaped():
    model = small("eco_lite")
    n, t, c = 2, 3, 12
    clip, frame, channel = np.ogrid[:n, :t, :c]
    codes = (100 * clip + 10000 * frame + channel).astype(np.float32)
    maps = np.broadcast_to(codes[..., None, None], (n, t, c, 4, 4))
    seen = []
    model.tail.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    model.fuse(paddle.to_tensor(maps), None)
    for i in range(n):
        for j in range(t):
            for k in range(c):
                assert (seen[0][i, k, j] == 100 * i + 10000 * j + k).all()


def test_the_volume_holds_the_clips_own_frames_in_their_order():
    model = small("eco_lite")
    clip = clips(2, 3, 3, 32, 32)
    volumes = outputs(model, ["<tail"], clip)["<tail"]
    for n in range(2):
        for t in range(3):
            alone, _ = model.frame_features(clip[n : n + 1, :, t])
            np.testing.assert_allclose(volumes[n, :, t], alone[0].numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["eco_full", "eco_lite"])
def test_a_clips_output_depends_on_no_other_clip_and_no_earlier_call(name):
    model = small(name)
    batch, other = clips(3, 3, 4, 32, 32), clips(2, 3, 4, 32, 32, seed=1)
    together = model(batch).numpy()
    model(other)
    np.testing.assert_array_equal(model(batch).numpy(), together)
    for i in range(3):
        alone = model(batch[i : i + 1]).numpy()
        np.testing.assert_allclose(alone[0], together[i], rtol=0, atol=1e-5)
    np.testing.assert_allclose(model(batch[[2, 0]]).numpy(), together[[2, 0]], rtol=0, atol=1e-5)


def only(model: nn.Layer, branch: str) -> nn.Layer:
    """Classify by the 2D-S features alone (the first 128 of a width of 8) or by the others."""
    weight = model.fc.weight.numpy()
    assert weight.shape[0] == 128 + 64
    weight[128:] *= branch == "3D"
    weight[:128] *= branch == "2D-S"
    model.fc.weight.set_value(weight)
    return model


def test_the_3d_branch_reacts_to_the_order_of_frames():
    model = only(small(), "3D")
    clip = clips(1, 3, 4, 32, 32)
    change = np.abs((model(clip) - model(clip[:, :, [3, 1, 2, 0]])).numpy()).max()
    assert change > 0.05


def test_the_2d_branch_does_not_react_to_the_order_of_frames():
    model = only(small(), "2D-S")
    clip = clips(1, 3, 4, 32, 32)
    logits = model(clip).numpy()
    np.testing.assert_allclose(model(clip[:, :, [3, 1, 2, 0]]).numpy(), logits, rtol=0, atol=1e-5)
    assert np.abs(model(clip[:, :, :2]).numpy() - logits).max() > 0.05


def test_lite_has_no_2d_branch():
    maps, vectors = small("eco_lite").frame_features(clips(2, 3, 32, 32))
    assert list(maps.shape) == [2, 12, 4, 4]
    assert vectors is None
    assert list(small().frame_features(clips(2, 3, 32, 32))[1].shape) == [2, 128]


@pytest.mark.parametrize("num_frames", [1, 3, 5, 8])
def test_the_3d_net_halves_any_number_of_frames_twice(num_frames):
    seen = outputs(
        small(), ["tail.res3b", "tail.res4b", "tail.res5b"], clips(1, 3, num_frames, 32, 32)
    )
    assert [seen[f"tail.res{i}b"].shape[2] for i in (3, 4, 5)] == [
        num_frames,
        math.ceil(num_frames / 2),
        math.ceil(num_frames / 4),
    ]
    assert np.isfinite(seen["logits"]).all()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 40), (112, 65), (56, 73)])
def test_frames_of_any_size_are_halved_to_the_larger_number(height, width):
    stages = ["double_3c.1", "appearance.inception_3c", "appearance.inception_4e"]
    seen = outputs(small(num_classes=4), [*stages, "tail.res5b"], clips(1, 3, 2, height, width))
    expected = []
    for size in (height, width):
        tap = caffe_size(caffe_size((size + 1) // 2))
        expected.append([tap, (tap + 1) // 2, (tap + 3) // 4])
    for place, size in zip(stages, zip(*expected, strict=True), strict=True):
        assert seen[place].shape[2:] == size
    assert seen["tail.res5b"].shape[3:] == seen["appearance.inception_4e"].shape[2:]
    assert seen["logits"].shape == (1, 4)
    assert np.isfinite(seen["logits"]).all()


# --- dropout and arguments ------------------------------------------------------------------------


def test_dropouts_are_those_for_ucf101():
    full, lite = without_values("eco_full", 3), without_values("eco_lite", 3)
    assert (full.dropout_2d.p, full.dropout_3d.p) == (0.6, 0.5)
    assert (lite.dropout_2d, lite.dropout_3d.p) == (None, 0.6)
    full = create_model("eco_full", num_classes=3, width=2, dropout_2d=0.1, dropout_3d=0.2)
    assert (full.dropout_2d.p, full.dropout_3d.p) == (0.1, 0.2)
    assert create_model("eco_lite", num_classes=3, width=2, dropout_3d=0.3).dropout_3d.p == 0.3


def passed_on(model: nn.Layer, vectors: paddle.Tensor) -> np.ndarray:
    """The features that reach the classifier of a network that drops out."""
    seen = []
    model.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    model.dropout_2d.train()
    model.dropout_3d.train()
    model.fuse(clips(*vectors.shape[:2], 12, 4, 4), vectors)
    return seen[0]


def test_2d_features_drop_out_frame_by_frame_before_they_are_averaged():
    kept = passed_on(small(dropout_2d=0.5, dropout_3d=0.0), paddle.ones([8, 4, 128]))[:, :128]
    # Of four frames' ones, none to all stay, doubled; after averaging it would be none or all.
    shares = [np.isclose(kept, 2 * k / 4).mean() for k in range(5)]
    np.testing.assert_allclose(shares, np.array([1, 4, 6, 4, 1]) / 16, atol=0.1)
    assert sum(shares) == pytest.approx(1)


def test_3d_features_drop_out_once_for_a_clip():
    model = small(dropout_2d=0.0, dropout_3d=0.5)
    vectors = paddle.ones([8, 4, 128])
    features = passed_on(model, vectors)
    np.testing.assert_array_equal(features[:, :128], 1)
    whole = model.tail(clips(8, 4, 12, 4, 4).transpose([0, 2, 1, 3, 4])).numpy()
    dropped, kept = features[:, 128:] == 0, np.isclose(features[:, 128:], 2 * whole, rtol=1e-4)
    assert (dropped | kept).all()
    assert 0.35 < dropped[whole > 0].mean() < 0.65


def test_dropout_acts_only_in_training():
    model = small()
    clip = clips(1, 3, 2, 32, 32)
    np.testing.assert_array_equal(model(clip).numpy(), model(clip).numpy())
    model.dropout_2d.train()
    assert (model(clip).numpy() != model(clip).numpy()).any()


@pytest.mark.parametrize("width", [2, 6, 32])
def test_the_width_scales_all_channels(width):
    with paddle.LazyGuard():
        model = create_model("eco_full", num_classes=5, width=width)
    layers = dict(model.named_sublayers())
    for name, (c_out, c_in, *kernel) in caffe_shapes(full=True).items():
        c_in = c_in if name == "conv1_7x7_s2" else c_in * width // 64
        expected = [c_out * width // 64, c_in, *kernel]
        assert list(layers[our_convolution(name)].weight.shape) == expected, name
    assert list(model.fc.weight.shape) == [1536 * width // 64, 5]


@pytest.mark.parametrize("width", [0, 7, -2])
def test_an_odd_width_is_refused(width):
    with pytest.raises(ValueError, match=f"width = {width} needs an even number of channels"):
        create_model("eco_lite", num_classes=3, width=width)


@pytest.mark.parametrize("arguments", [{"dropout_2d": 1.0}, {"dropout_3d": -0.1}])
def test_dropouts_that_make_no_sense_are_refused(arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f"{name} = {value}.* need numbers from 0 to below 1"):
        create_model("eco_full", num_classes=3, width=2, **arguments)


def test_eco_lite_has_no_dropout_of_a_branch_it_lacks():
    with pytest.raises(ValueError, match="eco_lite has no 2D-S branch, so no dropout_2d: set drop"):
        create_model("eco_lite", num_classes=3, dropout_2d=0.5)


# --- the same in NumPy ----------------------------------------------------------------------------


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """(C, ...) and (C', C, k, ...) -> (C', ...), padded with zeros, over two axes or three"""
    axes = list(range(1, x.ndim))
    k = weight.shape[-1]
    padded = np.pad(x, [(0, 0)] + [(k // 2, k // 2)] * len(axes))
    windows = np.lib.stride_tricks.sliding_window_view(padded, [k] * len(axes), axes)
    windows = windows[(slice(None), *[slice(None, None, stride)] * len(axes))]
    kernel_axes = list(range(x.ndim, windows.ndim))
    sums = np.tensordot(weight, windows, ([1, *range(2, weight.ndim)], [0, *kernel_axes]))
    return sums + bias.reshape(-1, *[1] * len(axes))


def windows_3x3(x: np.ndarray, before: float) -> np.ndarray:
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1)], constant_values=before)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))


def halved(x: np.ndarray) -> np.ndarray:
    size = tuple(caffe_size(n) for n in x.shape[1:])
    return caffe_max_pool(x[None], size)[0]


def reference_logits(weights: dict[str, np.ndarray], clip: np.ndarray, full: bool) -> np.ndarray:
    """ECO from tables 2.1 to 2.4 of the specification, under the authors' names, slowly.

    One clip (3, T, H, W), blue first -> (K,)
    """

    def conv(x, name, stride=1):
        return convolve(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride)

    def activate(x, norm):
        parts = ("running_mean", "running_var", "weight", "bias")
        shape = (-1, *[1] * (x.ndim - 1))
        mean, variance, slope, shift = (weights[f"{norm}.{p}"].reshape(shape) for p in parts)
        return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * slope + shift, 0)

    def layer(x, name, stride=1):
        return activate(conv(x, name, stride), f"{name}_bn")

    def double(x, place, stride=1):
        x = layer(layer(x, f"{place}double_3x3_reduce"), f"{place}double_3x3_1")
        return layer(x, f"{place}double_3x3_2", stride)

    def inception(x, block):
        place = f"inception_{block}_"
        single = layer(layer(x, f"{place}3x3_reduce"), f"{place}3x3")
        if BLOCKS[block][4][0] == "avg":  # the padding counts
            pooled = windows_3x3(x, 0.0).mean(axis=(3, 4))
        else:
            pooled = windows_3x3(x, -np.inf).max(axis=(3, 4))
        pooled = layer(pooled, f"{place}pool_proj")
        return np.concatenate([layer(x, f"{place}1x1"), single, double(x, place), pooled])

    def reduction(x, block):
        place = f"inception_{block}_"
        single = layer(layer(x, f"{place}3x3_reduce"), f"{place}3x3", stride=2)
        return np.concatenate([single, double(x, place, stride=2), halved(x)])

    taps, vectors = [], []
    for t in range(clip.shape[1]):
        x = halved(layer(clip[:, t], "conv1_7x7_s2", stride=2))
        x = halved(layer(layer(x, "conv2_3x3_reduce"), "conv2_3x3"))
        x = inception(inception(x, "3a"), "3b")
        tap = layer(x, "inception_3c_double_3x3_reduce")
        taps.append(layer(tap, "inception_3c_double_3x3_1"))
        if full:
            x = reduction(x, "3c")
            for block in ("4a", "4b", "4c", "4d"):
                x = inception(x, block)
            x = inception(inception(reduction(x, "4e"), "5a"), "5b")
            vectors.append(x.mean(axis=(1, 2)))

    raw = conv(np.stack(taps, axis=1), "res3a_2")
    active = activate(raw, "res3a_bn")
    for block in ("res3b", "res4a", "res4b", "res5a", "res5b"):
        halves = block in ("res4a", "res5a")
        x = layer(active, f"{block}_1", stride=2 if halves else 1)
        shortcut = conv(active, f"{block}_down", stride=2) if halves else raw
        raw = conv(x, f"{block}_2") + shortcut
        active = activate(raw, f"{block}_bn")
    features = active.mean(axis=(1, 2, 3))
    if full:
        features = np.concatenate([np.mean(vectors, axis=0), features])
    return weights["new_fc.weight"] @ features + weights["new_fc.bias"]


def random_weights(full: bool) -> dict[str, np.ndarray]:
    """The authors' names; convolutions that keep the size of what passes, norms that matter."""
    rng = np.random.default_rng(0)
    weights, norms = {}, {name: channels for name, (channels, _) in TAIL_NORMS.items()}
    for caffe_name, shape in caffe_shapes(full).items():
        name = "res3a_2" if caffe_name == "res3a_2n" else caffe_name
        weights[f"{name}.weight"] = rng.normal(size=shape) * math.sqrt(2 / np.prod(shape[1:]))
        weights[f"{name}.bias"] = rng.normal(size=shape[0]) * 0.2
        if not name.startswith("res"):
            norms[f"{name}_bn"] = shape[0]
    for name, channels in norms.items():
        for part, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5),
                          ("running_var", 0.5)):  # fmt: skip
            weights[f"{name}.{part}"] = rng.uniform(low, low + 1, channels)
    num_features = 1536 if full else 512
    weights["new_fc.weight"] = rng.normal(size=(7, num_features)) / math.sqrt(num_features)
    weights["new_fc.bias"] = rng.normal(size=7)
    return weights


@pytest.mark.parametrize("name", ["eco_full", "eco_lite"])
def test_it_equals_its_tables_with_the_authors_weights(name, tmp_path):
    full = name == "eco_full"
    weights = random_weights(full)
    clip = np.random.default_rng(1).normal(size=(3, 4, 32, 64))  # blue, green, red
    expected = reference_logits(weights, clip, full)
    file = as_published(weights, tmp_path / "eco.pth.tar")
    model = create_model(name, num_classes=7)
    load_weights(model, convert(model, file, whole=True).weights, file.path)
    model.eval()
    got = model(paddle.to_tensor(clip[None, ::-1].astype(np.float32)))
    assert expected.std() > 0.1
    error = np.abs(got.numpy()[0] - expected).max()
    assert error < 1e-4 * np.abs(expected).max()

    # The gradient of the first layer, along one direction, against a difference
    direction = np.random.default_rng(2).normal(size=(64, 3, 7, 7))
    ends = []
    for step in (1e-7, -1e-7):
        moved = weights["conv1_7x7_s2.weight"] + step * direction
        logits = reference_logits({**weights, "conv1_7x7_s2.weight": moved}, clip, full)
        ends.append(logits[0] - logits[1])
    (got[0, 0] - got[0, 1]).backward()
    slope = np.sum(model.conv1.conv.weight.grad.numpy()[:, ::-1] * direction)
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-7, rel=1e-3)


def as_published(weights: dict[str, np.ndarray], path: Path) -> WeightsFile:
    """What is read of a checkpoint of the authors' port to PyTorch."""
    arrays = {}
    for name, array in weights.items():
        prefix = "module." if name.startswith("new_fc") else "module.base_model."
        arrays[prefix + name] = array.astype(np.float32)
        if name.endswith("running_var"):
            counter = prefix + name.replace("running_var", "num_batches_tracked")
            arrays[counter] = np.array(0)
    return WeightsFile(path, arrays, "torch")


def test_only_the_2d_s_branch_is_left_out_of_full_weights_for_lite(tmp_path):
    file = as_published(random_weights(full=True), tmp_path / "full.pth.tar")
    conversion = convert(create_model("eco_lite", num_classes=7), file)
    left = {r.source for r in conversion.rows if r.fate == "left out"}
    full, lite = random_weights(full=True), random_weights(full=False)
    missing = {f"module.base_model.{name}" for name in set(full) - set(lite)}
    assert {name for name in left if "num_batches" not in name} - missing == {
        "module.new_fc.weight",  # of 1536 features
        "module.new_fc.bias",
    }
    assert missing < left


@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_a_bias_before_a_batch_norm_is_seen_by_the_running_mean_alone(kind):
    """Against the two layers as they are: outputs, gradients, statistics, in both modes."""
    paddle.seed(0)
    convolution = {"2D": nn.Conv2D, "3D": nn.Conv3D}[kind](3, 5, 3, 2, padding=1)
    normalization = {"2D": nn.BatchNorm2D, "3D": nn.BatchNorm3D}[kind](5)
    convolution.bias.set_value(3 * paddle.randn([5]))
    conv, norm = copy.deepcopy(convolution), copy.deepcopy(normalization)
    shape = [2, 3, 4, 9, 9][: 4 if kind == "2D" else 5]
    for _ in range(3):
        maps = paddle.randn(shape)
        expected, got = normalization(convolution(maps)), normalize_sums(conv, norm, maps)
        np.testing.assert_allclose(got.numpy(), expected.numpy(), atol=1e-5)
        weights = paddle.randn(got.shape)
        (expected * weights).sum().backward()
        (got * weights).sum().backward()
    for ours, plain in ((conv, convolution), (norm, normalization)):
        for parameter, other in zip(ours.parameters(), plain.parameters(), strict=True):
            np.testing.assert_allclose(parameter.numpy(), other.numpy(), atol=1e-5)
            if not other.stop_gradient:
                np.testing.assert_allclose(
                    parameter.grad.numpy(), other.grad.numpy(), rtol=1e-4, atol=1e-4
                )
    for layer in (norm, normalization):
        layer.eval()
    maps = paddle.randn(shape)
    np.testing.assert_allclose(
        normalize_sums(conv, norm, maps).numpy(), normalization(convolution(maps)).numpy(),
        atol=1e-5,
    )  # fmt: skip

"""TimeSformer against its published numbers, a plain ViT, and Hugging Face's implementation."""

import math
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import nn
from scipy.special import erf

from paddlevid.models import create_model, timesformer
from paddlevid.models.timesformer import Attention, Block, TimeSformer, attend

ATTENTIONS = ["divided", "joint", "space"]
SMALL = {
    "image_size": 16, "patch_size": 8, "num_frames": 4, "dim": 12, "depth": 3, "num_heads": 3,
    "init_std": 0.3,
}  # fmt: skip


def clips(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def small(num_classes: int = 5, **arguments: object) -> TimeSformer:
    """A small network in evaluation mode, with fresh weights."""
    paddle.seed(0)
    model = create_model("timesformer_base", num_classes=num_classes, **{**SMALL, **arguments})
    model.eval()
    return model


def randomize(model: nn.Layer, seed: int = 0) -> nn.Layer:
    """Give every parameter, zero at first or not, a part in the result."""
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        values = rng.normal(0, 0.3, parameter.shape) + (1 if "norm" in name else 0)
        parameter.set_value(values.astype(np.float32))
    return model


def without_values(name: str, num_classes: int, **arguments: object) -> TimeSformer:
    with paddle.LazyGuard():  # shapes, but no memory and no time
        return create_model(name, num_classes=num_classes, **arguments)


def close(got: paddle.Tensor, expected: paddle.Tensor | np.ndarray, error: float = 1e-5) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(
        got.numpy(), expected, rtol=0, atol=error * max(1, np.abs(expected).max())
    )


def change(first: paddle.Tensor, second: paddle.Tensor) -> float:
    return (first - second).abs().max().item()


# --- numbers of the published networks ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "attention", "num_classes", "expected"),
    [
        ("timesformer_base", "divided", 400, 121_566_352),
        ("timesformer_base", "divided", 101, 121_336_421),
        ("timesformer_hr", "divided", 400, 122_024_080),
        ("timesformer_hr", "divided", 101, 121_794_149),
        ("timesformer_large", "divided", 400, 121_633_936),
        ("timesformer_large", "divided", 101, 121_404_005),
        ("timesformer_base", "joint", 400, 86_112_400),
        ("timesformer_base", "joint", 101, 85_882_469),
        ("timesformer_base", "space", 400, 86_106_256),
        ("timesformer_base", "space", 101, 85_876_325),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, attention, num_classes, expected):
    model = without_values(name, num_classes, attention=attention)
    assert sum(p.size for p in model.parameters() if not p.stop_gradient) == expected


@pytest.mark.parametrize(
    ("name", "positions", "times"),
    [
        ("timesformer_base", 1 + 14 * 14, 8),
        ("timesformer_hr", 1 + 28 * 28, 16),
        ("timesformer_large", 1 + 14 * 14, 96),
    ],
)
def test_the_variants_differ_in_their_embeddings_alone(name, positions, times):
    shapes = {n: list(p.shape) for n, p in without_values(name, 7).named_parameters()}
    assert shapes.pop("pos_embed") == [1, positions, 768]
    assert shapes.pop("time_embed") == [1, times, 768]
    base = {n: list(p.shape) for n, p in without_values("timesformer_base", 7).named_parameters()}
    assert shapes == {n: s for n, s in base.items() if n not in ("pos_embed", "time_embed")}
    assert shapes["blocks.11.temporal_attn.qkv.weight"] == [768, 3 * 768]
    assert shapes["blocks.11.mlp.fc1.weight"] == [768, 3072]
    assert shapes["patch_embed.proj.weight"] == [768, 3, 16, 16]


def test_the_keys_are_the_authors():
    place = [f"{n}.{part}" for n in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1",
             "mlp.fc2", "temporal_norm1", "temporal_attn.qkv", "temporal_attn.proj",
             "temporal_fc") for part in ("weight", "bias")]  # fmt: skip
    expected = {f"blocks.{i}.{name}" for i in range(12) for name in place}
    expected |= {"cls_token", "pos_embed", "time_embed"}
    expected |= {f"{n}.{part}" for n in ("patch_embed.proj", "norm", "head")
                 for part in ("weight", "bias")}  # fmt: skip
    assert set(without_values("timesformer_base", 7).state_dict()) == expected
    joint = {name for name in expected if ".temporal_" not in name}
    assert set(without_values("timesformer_base", 7, attention="joint").state_dict()) == joint
    space = without_values("timesformer_base", 7, attention="space")
    assert set(space.state_dict()) == joint - {"time_embed"}


def test_layer_norms_add_a_millionth():
    norms = [
        layer
        for layer in without_values("timesformer_base", 7).sublayers()
        if isinstance(layer, nn.LayerNorm)
    ]
    assert len(norms) == 12 * 3 + 1
    assert {norm._epsilon for norm in norms} == {1e-6}


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        ("divided", [[1, 1569, 6]]),
        ("joint", [[1, 1569, 6]]),
        ("space", [[8, 197, 6]]),
    ],
)
def test_eight_frames_of_224_make_so_many_tokens(attention, expected):
    model = create_model(
        "timesformer_base", num_classes=3, attention=attention, dim=6, depth=1, num_heads=1
    )
    model.eval()
    shapes = []
    model.blocks[0].register_forward_pre_hook(
        lambda _, inputs: shapes.append(list(inputs[0].shape))
    )
    with paddle.no_grad():
        assert list(model(clips(1, 3, 8, 224, 224)).shape) == [1, 3]
    assert shapes == expected


# --- tokens ---------------------------------------------------------------------------------------


def first_tokens(model: TimeSformer, clip: paddle.Tensor) -> np.ndarray:
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    model(clip)
    return seen[0]


def patch_numbers(model: TimeSformer, frame: np.ndarray) -> np.ndarray:
    """Patches of a frame (3, H, W), row by row, through the patch embedding: -> (n, D)"""
    size = model.patch_size
    weight = model.patch_embed.proj.weight.numpy().reshape(12, -1)
    bias = model.patch_embed.proj.bias.numpy()
    rows, columns = frame.shape[1] // size, frame.shape[2] // size
    return np.array(
        [
            weight @ frame[:, i * size : (i + 1) * size, j * size : (j + 1) * size].ravel() + bias
            for i in range(rows)
            for j in range(columns)
        ]
    )


@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_tokens_are_the_class_and_then_patches_with_time_fastest(attention):
    model = randomize(small(attention=attention))
    clip = clips(2, 3, 4, 16, 16)
    tokens = first_tokens(model, clip)
    positions, times = model.pos_embed.numpy()[0], model.time_embed.numpy()[0]
    assert tokens.shape == (2, 1 + 4 * 4, 12)
    for n in range(2):
        np.testing.assert_allclose(
            tokens[n, 0], model.cls_token.numpy()[0, 0] + positions[0], rtol=0, atol=1e-5
        )
        for t in range(4):
            patches = patch_numbers(model, clip[n, :, t].numpy())
            for p in range(4):
                expected = patches[p] + positions[1 + p] + times[t]
                np.testing.assert_allclose(tokens[n, 1 + 4 * p + t], expected, rtol=0, atol=1e-4)


def test_spaces_tokens_are_those_of_each_frame_without_a_time():
    model = randomize(small(attention="space"))
    clip = clips(2, 3, 3, 16, 16)
    tokens = first_tokens(model, clip)
    positions = model.pos_embed.numpy()[0]
    assert tokens.shape == (2 * 3, 1 + 4, 12)
    for n in range(2):
        for t in range(3):
            expected = np.concatenate(
                [model.cls_token.numpy()[0], patch_numbers(model, clip[n, :, t].numpy())]
            )
            np.testing.assert_allclose(tokens[3 * n + t], expected + positions, rtol=0, atol=1e-4)


# --- identities -----------------------------------------------------------------------------------


def vit_feature(
    weights: dict[str, np.ndarray], frame: np.ndarray, num_heads: int = 3
) -> np.ndarray:
    """A plain vision transformer in NumPy: frame (3, H, W) -> the class token's feature (D,)"""

    def linear(x, name):
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    kernel = weights["patch_embed.proj.weight"]
    size = kernel.shape[2]
    patches = [
        np.einsum("dchw,chw->d", kernel, frame[:, i : i + size, j : j + size])
        for i in range(0, frame.shape[1], size)
        for j in range(0, frame.shape[2], size)
    ]
    x = np.array(patches) + weights["patch_embed.proj.bias"]
    x = np.concatenate([weights["cls_token"][0], x]) + weights["pos_embed"][0]
    for i in range(len({name.split(".")[1] for name in weights if name.startswith("blocks.")})):
        q, k, v = np.split(linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv"), 3, axis=1)
        heads = []
        for q_h, k_h, v_h in zip(*(np.split(m, num_heads, axis=1) for m in (q, k, v)), strict=True):
            powers = np.exp(q_h @ k_h.T / math.sqrt(q_h.shape[1]))
            heads.append(powers / powers.sum(axis=1, keepdims=True) @ v_h)
        x = x + linear(np.concatenate(heads, axis=1), f"blocks.{i}.attn.proj")
        hidden = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        hidden = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
        x = x + linear(hidden, f"blocks.{i}.mlp.fc2")
    return norm(x, "norm")[0]


def expected_feature(model: TimeSformer, frame: paddle.Tensor) -> np.ndarray:
    weights = {n: t.numpy().astype(np.float64) for n, t in model.state_dict().items()}
    return vit_feature(weights, frame.numpy().astype(np.float64))


def test_a_fresh_network_sees_equal_frames_as_a_plain_vit_sees_one():
    model = small(attention="divided")
    frame = clips(1, 3, 1, 16, 16)
    got = model.features(paddle.concat([frame] * 4, axis=2))
    close(got[0], expected_feature(model, frame[0, :, 0]))


@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_a_fresh_network_sees_a_single_frame_as_a_plain_vit(attention):
    model = small(attention=attention)
    frame = clips(2, 3, 1, 16, 16)
    for i in range(2):
        close(model.features(frame)[i], expected_feature(model, frame[i, :, 0]))


def test_joint_attention_over_one_frame_is_a_vit_with_its_time_added():
    model = randomize(small(attention="joint", num_frames=1))
    frame = clips(1, 3, 1, 16, 16)
    weights = {n: t.numpy().astype(np.float64) for n, t in model.state_dict().items()}
    weights["pos_embed"][:, 1:] += weights["time_embed"]
    expected = vit_feature(weights, frame[0, :, 0].numpy().astype(np.float64))
    close(model.features(frame)[0], expected)


def test_space_is_the_norm_of_the_frames_mean_class_token():
    model = randomize(small(attention="space"))
    clip = clips(1, 3, 3, 16, 16)
    alone = []
    for t in range(3):
        tokens = []
        hook = model.norm.register_forward_pre_hook(lambda _, x, t=tokens: t.append(x[0].numpy()))
        close(model.features(clip[:, :, t : t + 1])[0], expected_feature(model, clip[0, :, t]))
        hook.remove()
        alone.append(tokens[0])
    close(model.features(clip), model.norm(paddle.to_tensor(np.mean(alone, axis=0))).numpy())


ORDER = [2, 0, 3, 1]


def test_space_does_not_see_the_order_of_frames():
    model = randomize(small(attention="space"))
    clip = clips(2, 3, 4, 16, 16)
    close(model(clip[:, :, ORDER]), model(clip).numpy())
    assert change(model(clip), model(clip[:, :, :2])) > 1e-2


def test_a_fresh_network_does_not_see_the_order_of_frames():
    model = small(attention="divided")
    clip = clips(2, 3, 4, 16, 16)
    close(model.features(clip[:, :, ORDER]), model.features(clip).numpy())
    assert change(model(clip), model(clip[:, :, :2])) > 1e-2


@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_without_time_embeddings_no_attention_sees_the_order(attention):
    model = randomize(small(attention=attention))
    model.time_embed.set_value(np.zeros(model.time_embed.shape, np.float32))
    clip = clips(2, 3, 4, 16, 16)
    close(model(clip[:, :, ORDER]), model(clip).numpy(), error=1e-4)


@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_time_embeddings_show_the_order_of_frames(attention):
    model = randomize(small(attention=attention))
    clip = clips(2, 3, 4, 16, 16)
    assert change(model(clip), model(clip[:, :, ORDER])) > 1e-2


def test_temporal_attention_passes_only_through_temporal_fc():
    model = randomize(small(attention="divided"))
    clip = clips(1, 3, 4, 16, 16)
    before = model(clip)
    rng = np.random.default_rng(1)
    temporal = [t for name, t in model.state_dict().items() if ".temporal_attn" in name]
    assert len(temporal) == 3 * 4
    for tensor in temporal:
        tensor.set_value(rng.normal(size=tensor.shape).astype(np.float32))
    assert change(model(clip), before) > 1e-2
    for block in model.blocks:
        block.temporal_fc.weight.set_value(np.zeros(block.temporal_fc.weight.shape, np.float32))
    closed = model(clip)
    for tensor in temporal:
        tensor.set_value(-tensor.numpy())
    close(model(clip), closed.numpy())


def test_temporal_attention_mixes_the_frames_of_one_place_alone():
    block = randomize(Block(12, 3, 2.0, 0.0, divided=True))
    block.eval()
    for layer in (block.attn.proj, block.mlp.fc2):  # leave the step over time alone
        layer.weight.set_value(np.zeros(layer.weight.shape, np.float32))
        layer.bias.set_value(np.zeros(layer.bias.shape, np.float32))
    tokens = clips(1, 1 + 4 * 3, 12)
    changed = tokens.numpy().copy()
    changed[0, 1 + 2 * 3 + 1] += np.arange(12)  # patch 2 of frame 1
    with paddle.no_grad():
        moved = np.abs((block(paddle.to_tensor(changed), 3) - block(tokens, 3)).numpy()[0]).max(1)
    assert np.flatnonzero(moved > 1e-6).tolist() == [1 + 2 * 3 + t for t in range(3)]
    np.testing.assert_array_equal(block(tokens, 3).numpy()[0, 0], tokens.numpy()[0, 0])


def test_spatial_attention_shows_a_patch_to_its_frame_and_the_class_token():
    block = randomize(Block(12, 3, 2.0, 0.0, divided=True))
    block.eval()
    for layer in (block.temporal_fc, block.mlp.fc2):
        layer.weight.set_value(np.zeros(layer.weight.shape, np.float32))
    tokens = clips(1, 1 + 4 * 3, 12)
    changed = tokens.numpy().copy()
    changed[0, 1 + 2 * 3 + 1] += np.arange(12)  # patch 2 of frame 1
    with paddle.no_grad():
        moved = np.abs((block(paddle.to_tensor(changed), 3) - block(tokens, 3)).numpy()[0]).max(1)
    assert np.flatnonzero(moved > 1e-6).tolist() == [0] + [1 + 3 * p + 1 for p in range(4)]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_clips_output_depends_on_no_other_clip(attention):
    model = randomize(small(attention=attention))
    batch = clips(3, 3, 4, 16, 16)
    together = model(batch)
    for i in range(3):
        close(model(batch[i : i + 1])[0], together[i].numpy())


# --- attention ------------------------------------------------------------------------------------


def plain_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """One clip and one head at a time: three of (N, L, heads, d) -> the same"""
    result = np.empty(v.shape)
    for n in range(q.shape[0]):
        for head in range(q.shape[2]):
            powers = np.exp(q[n, :, head] @ k[n, :, head].T / math.sqrt(q.shape[3]))
            result[n, :, head] = powers / powers.sum(axis=1, keepdims=True) @ v[n, :, head]
    return result


def test_attention_is_the_softmax_of_scaled_products():
    q, k, v = (clips(2, 7, 3, 4, seed=seed) for seed in range(3))
    close(attend(q, k, v), plain_attention(q.numpy(), k.numpy(), v.numpy()))


class OnGPU:
    """A tensor that says it is of half precision and on a GPU."""

    dtype = paddle.float16
    place = SimpleNamespace(is_gpu_place=lambda: True)

    def __init__(self, tensor: paddle.Tensor) -> None:
        self.tensor = tensor


def test_flash_attention_gets_the_layout_that_it_needs(monkeypatch):
    q, k, v = (clips(2, 7, 3, 4, seed=seed) for seed in range(3))
    real, shapes = timesformer.F.scaled_dot_product_attention, []

    def unpacked(*parts):
        shapes.extend(list(part.tensor.shape) for part in parts)
        return real(*(part.tensor for part in parts))  # on the CPU, (N, L, heads, d)

    monkeypatch.setattr(timesformer.F, "scaled_dot_product_attention", unpacked)
    got = attend(OnGPU(q), OnGPU(k), OnGPU(v))
    assert shapes == [[2, 7, 3, 4]] * 3
    close(got, plain_attention(q.numpy(), k.numpy(), v.numpy()))


def test_single_precision_and_the_cpu_do_without_flash_attention(monkeypatch):
    def refuse(*_):
        raise AssertionError("flash attention knows half precision on a GPU only")

    monkeypatch.setattr(timesformer.F, "scaled_dot_product_attention", refuse)
    tensor = clips(1, 3, 2, 4)
    assert list(attend(tensor, tensor, tensor).shape) == [1, 3, 2, 4]
    single, on_cpu = OnGPU(tensor), OnGPU(tensor)
    single.dtype = paddle.float32
    on_cpu.place = SimpleNamespace(is_gpu_place=lambda: False)
    for other in (single, on_cpu):
        with pytest.raises(AttributeError, match="transpose"):  # stand-ins know no arithmetic
            attend(other, other, other)


def test_queries_keys_and_values_follow_each_other_with_the_heads_inside():
    layer = randomize(Attention(6, 2))
    tokens = clips(2, 5, 6)
    q, k, v = np.split(layer.qkv(tokens).numpy(), 3, axis=2)
    heads = [m.reshape(2, 5, 2, 3) for m in (q, k, v)]
    mixed = plain_attention(*heads).reshape(2, 5, 6)
    close(layer(tokens), mixed @ layer.proj.weight.numpy() + layer.proj.bias.numpy())


# --- stochastic depth -----------------------------------------------------------------------------


def test_drop_path_grows_linearly_to_a_tenth():
    rates = [block.drop_path for block in without_values("timesformer_base", 3).blocks]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])
    assert rates[0] == 0
    assert [block.drop_path for block in small(depth=1, drop_path=0.3).blocks] == [0]


def test_drop_path_draws_once_for_each_entry_of_the_first_axis():
    block = Block(12, 3, 2.0, 0.25, divided=False)
    paddle.seed(0)
    dropped = block._drop(paddle.ones([2000, 3, 5])).numpy()
    assert (dropped == dropped[:, :1, :1]).all()
    first = dropped[:, 0, 0]
    assert np.isclose(first[first != 0], 1 / 0.75).all()
    assert (first == 0).mean() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 2000))
    block.eval()
    ones = paddle.ones([4, 3, 5])
    np.testing.assert_array_equal(block._drop(ones).numpy(), ones.numpy())


@pytest.mark.parametrize(
    ("divided", "expected"),
    [(True, [[2 * 4, 3, 12], [2 * 3, 1 + 4, 12], [2, 13, 12]]), (False, [[2, 13, 12]] * 2)],
)
def test_what_is_dropped_is_a_place_a_frame_or_a_clip(monkeypatch, divided, expected):
    shapes = []
    monkeypatch.setattr(Block, "_drop", lambda _, x: shapes.append(list(x.shape)) or x)
    Block(12, 3, 2.0, 0.1, divided)(clips(2, 13, 12), 3)
    assert shapes == expected


def test_dropping_all_leaves_the_bias_of_temporal_fc(monkeypatch):
    block = randomize(Block(12, 3, 2.0, 0.1, divided=True))
    monkeypatch.setattr(Block, "_drop", lambda _, x: x * 0)
    tokens = clips(2, 13, 12)
    expected = tokens.numpy().copy()
    expected[:, 1:] += block.temporal_fc.bias.numpy()
    close(block(tokens, 3), expected)


def test_drop_path_acts_only_in_training():
    model = randomize(small(drop_path=0.5))
    clip = clips(4, 3, 2, 16, 16)
    np.testing.assert_array_equal(model(clip).numpy(), model(clip).numpy())
    model.train()
    assert change(model(clip), model(clip)) > 1e-2
    still = randomize(small(drop_path=0.0))
    still.train()
    np.testing.assert_array_equal(still(clip).numpy(), still(clip).numpy())


# --- initialisation -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh() -> TimeSformer:
    """Two blocks of the published size."""
    paddle.seed(3)
    return create_model("timesformer_base", num_classes=400, depth=2)


def normal(values: np.ndarray, std: float) -> bool:
    """Whether the mean and the deviation are those, within five standard errors."""
    error = 5 / math.sqrt(values.size)
    return abs(values.mean()) < error * std and abs(values.std() / std - 1) < error


def test_linear_layers_start_with_a_deviation_of_two_hundredths(fresh):
    layers = {name: layer for name, layer in fresh.named_sublayers() if type(layer) is nn.Linear}
    assert len(layers) == 2 * 7 + 1
    for name, layer in layers.items():
        assert (layer.bias.numpy() == 0).all()
        if name.endswith("temporal_fc"):
            assert (layer.weight.numpy() == 0).all(), name
        else:
            assert normal(layer.weight.numpy(), 0.02), (name, layer.weight.numpy().std())


def test_embeddings_start_with_a_deviation_of_two_hundredths_and_time_at_zero(fresh):
    assert normal(fresh.cls_token.numpy(), 0.02), fresh.cls_token.numpy().std()
    assert normal(fresh.pos_embed.numpy(), 0.02), fresh.pos_embed.numpy().std()
    assert (fresh.time_embed.numpy() == 0).all()


def test_temporal_fc_starts_at_zero_in_every_block():
    model = small(depth=12)
    assert len(model.blocks) == 12
    for block in model.blocks:
        assert (block.temporal_fc.weight.numpy() == 0).all()
        assert (block.temporal_fc.bias.numpy() == 0).all()
        assert (block.temporal_attn.qkv.weight.numpy() != 0).any()


def test_norms_start_as_the_identity_and_the_patches_without_a_bias(fresh):
    norms = [layer for layer in fresh.sublayers() if isinstance(layer, nn.LayerNorm)]
    assert len(norms) == 2 * 3 + 1
    for norm in norms:
        assert (norm.weight.numpy() == 1).all()
        assert (norm.bias.numpy() == 0).all()
    assert (fresh.patch_embed.proj.bias.numpy() == 0).all()
    assert fresh.patch_embed.proj.weight.numpy().std() > 0.005


def test_init_std_is_that_of_the_linear_layers_alone():
    model = small(dim=96, init_std=0.1, image_size=64)
    for block in model.blocks:
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.temporal_attn.qkv):
            assert normal(layer.weight.numpy(), 0.1), layer.weight.numpy().std()
        assert (block.temporal_fc.weight.numpy() == 0).all()
    assert normal(model.pos_embed.numpy(), 0.02), model.pos_embed.numpy().std()


def test_sincos_starts_the_embeddings_from_sines_and_cosines():
    dim, side, num_frames = 12, 3, 5
    model = small(dim=dim, image_size=8 * side, num_frames=num_frames, sincos=True)

    def waves(place: int, places: int, length: int) -> list[float]:
        """Wavelengths from 2 pi in equal ratios towards 2 pi times the number of places."""
        angles = [place / places ** (i / (length // 2)) for i in range(length // 2)]
        return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]

    for t in range(num_frames):
        expected = waves(t, num_frames, dim)
        assert model.time_embed.numpy()[0, t] == pytest.approx(expected, abs=1e-6)
    for row in range(side):
        for column in range(side):
            expected = waves(row, side, dim // 2) + waves(column, side, dim // 2)
            got = model.pos_embed.numpy()[0, 1 + side * row + column]
            assert got == pytest.approx(expected, abs=1e-6)
    assert 0 < np.abs(model.pos_embed.numpy()[0, 0]).max() < 0.1  # the class token's own place
    assert not model.pos_embed.stop_gradient  # still learned
    assert not model.time_embed.stop_gradient
    assert not hasattr(small(attention="space", sincos=True), "time_embed")


def test_the_seed_decides_the_fresh_weights():
    first, second = small().state_dict(), small().state_dict()
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor.numpy(), second[name].numpy())
    third = create_model("timesformer_base", num_classes=5, **SMALL)  # no seed set again
    assert (third.head.weight.numpy() != first["head.weight"].numpy()).all()


# --- other sizes ----------------------------------------------------------------------------------


def with_embeddings(model: TimeSformer, **arguments: object) -> TimeSformer:
    """A network of another size with the same weights, apart from embeddings of another shape."""
    other = small(**arguments)
    for name, tensor in other.state_dict().items():
        value = model.state_dict()[name]
        if list(value.shape) == list(tensor.shape):
            tensor.set_value(value.numpy())
    return other


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(("before", "after"), [(2, 4), (2, 3), (3, 2), (4, 2), (3, 5)])
def test_positions_are_resized_to_the_nearest_in_two_dimensions(attention, before, after):
    model = randomize(small(image_size=8 * before, attention=attention))
    expected = with_embeddings(model, image_size=8 * after, attention=attention)
    places = [i * before // after for i in range(after)]
    positions = model.pos_embed.numpy()
    square = positions[:, 1:].reshape(before, before, 12)[np.ix_(places, places)]
    expected.pos_embed.set_value(
        np.concatenate([positions[:, :1], square.reshape(1, after**2, 12)], axis=1)
    )
    clip = clips(1, 3, 4, 8 * after, 8 * after)
    close(model(clip), expected(clip).numpy())


def test_frames_that_are_not_square_get_rows_for_rows_and_columns_for_columns():
    model = randomize(small(image_size=16))
    tokens = first_tokens(model, clips(1, 3, 4, 32, 16) * 0)  # 4 rows, 2 columns
    positions = model.pos_embed.numpy()[0]
    expected = positions[[1, 2, 1, 2, 3, 4, 3, 4]] + model.patch_embed.proj.bias.numpy()
    got = tokens[0, 1:].reshape(8, 4, 12) - model.time_embed.numpy()
    for t in range(4):
        np.testing.assert_allclose(got[:, t], expected, rtol=0, atol=1e-5)
    expected_cls = positions[0] + model.cls_token.numpy()[0, 0]
    np.testing.assert_allclose(tokens[0, 0], expected_cls, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attention", ["divided", "joint"])
@pytest.mark.parametrize(
    ("before", "after", "places"),
    [
        (8, 16, np.arange(8).repeat(2)),
        (8, 96, np.arange(8).repeat(12)),
        (8, 4, [0, 2, 4, 6]),
        (4, 6, [0, 0, 1, 2, 2, 3]),
        (3, 1, [0]),
    ],
)
def test_times_are_resized_to_the_nearest(attention, before, after, places):
    model = randomize(small(num_frames=before, attention=attention, depth=1, image_size=8))
    arguments = {"attention": attention, "depth": 1, "image_size": 8}
    expected = with_embeddings(model, num_frames=after, **arguments)
    expected.time_embed.set_value(model.time_embed.numpy()[:, places])
    clip = clips(1, 3, after, 8, 8)
    close(model(clip), expected(clip).numpy())


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_resized_embeddings_are_still_learned(attention):
    model = randomize(small(attention=attention))
    model(clips(1, 3, 6, 24, 32)).square().sum().backward()
    assert (model.pos_embed.grad.abs().sum(axis=-1) > 0).all()
    if attention != "space":
        assert (model.time_embed.grad.abs().sum(axis=-1) > 0).all()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("shape", [(1, 3, 1, 8, 8), (2, 3, 3, 16, 40), (1, 3, 7, 24, 8)])
def test_any_number_of_frames_of_any_size_gives_logits(attention, shape):
    logits = small(attention=attention)(clips(*shape))
    assert list(logits.shape) == [shape[0], 5]
    assert np.isfinite(logits.numpy()).all()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_what_is_left_of_a_patch_at_the_edges_is_not_seen(attention):
    model = randomize(small(attention=attention))
    clip = clips(1, 3, 2, 21, 30)
    close(model(clip), model(clip[:, :, :, :16, :24]).numpy())


# --- weights for other frames ---------------------------------------------------------------------


def arrays(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def test_weights_of_this_size_are_left_as_they_are():
    assert small().adapt(arrays(randomize(small()))) == {}


def test_weights_for_other_frames_have_their_embeddings_resized_and_nothing_else():
    weights = arrays(randomize(small()))
    before = {name: array.copy() for name, array in weights.items()}
    model = small(image_size=40, num_frames=8)
    adapted = model.adapt(weights)
    assert list(adapted) == ["pos_embed", "time_embed"]
    for name, (array, fate, why) in adapted.items():
        assert list(array.shape) == list(model.state_dict()[name].shape), name
        assert fate == "resized"
        assert why.startswith("the file is for ")
    for name in weights:
        np.testing.assert_array_equal(weights[name], before[name])  # not changed in place
    np.testing.assert_array_equal(adapted["time_embed"][0], weights["time_embed"].repeat(2, axis=1))
    np.testing.assert_array_equal(adapted["pos_embed"][0][:, 0], weights["pos_embed"][:, 0])


def resized_positions(model: TimeSformer, positions: np.ndarray) -> np.ndarray:
    return model.adapt({"pos_embed": positions})["pos_embed"][0]


def test_positions_of_weights_are_resized_bicubically_in_two_dimensions():
    positions = np.random.default_rng(0).normal(size=(1, 1 + 4 * 4, 12)).astype(np.float32)
    square = positions[0, 1:].reshape(4, 4, 12)
    for side in (2, 3, 7, 8):
        expected = np.stack([plain_bicubic(square[:, :, d], side) for d in range(12)], axis=2)
        resized = resized_positions(small(image_size=8 * side), positions)
        got = resized[0, 1:].reshape(side, side, 12)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def plain_bicubic(square: np.ndarray, side: int) -> np.ndarray:
    """Cubic convolution (Keys 1981) with a = -0.75, between the centres of pixels."""

    def weight(x: float, a: float = -0.75) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    old = len(square)
    matrix = np.zeros((side, old))
    for i in range(side):
        place = (i + 0.5) * old / side - 0.5
        for k in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            matrix[i, min(max(k, 0), old - 1)] += weight(place - k)
    return matrix @ square @ matrix.T


def test_positions_that_rise_along_the_rows_still_do_when_resized():
    rows = np.arange(4.0).repeat(4)[None, :, None].repeat(12, axis=2)
    positions = np.concatenate([np.full((1, 1, 12), 9.0), rows], axis=1)
    square = resized_positions(small(image_size=64), positions)[0, 1:].reshape(8, 8, 12)
    assert (np.diff(square, axis=0) > 0).all()
    np.testing.assert_allclose(np.diff(square, axis=1), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("pos_embed", (1, 1 + 4 * 4, 8)),  # another width
        ("pos_embed", (1, 1 + 10, 12)),  # no square
        ("pos_embed", (17, 12)),
        ("time_embed", (1, 8, 16)),
    ],
)
def test_what_is_no_embedding_of_this_width_is_left_for_the_loader_to_refuse(name, shape):
    assert name not in small().adapt({name: np.zeros(shape, np.float32)})


def test_space_leaves_a_time_embedding_alone():
    weights = {"time_embed": np.zeros((1, 8, 12), np.float32)}
    assert small(attention="space").adapt(weights) == {}


# --- weights of an image network ------------------------------------------------------------------


def image_arrays() -> dict[str, np.ndarray]:
    weights = arrays(randomize(small()))
    return {name: a for name, a in weights.items() if "temporal" not in name and name[0] != "t"}


def test_attention_over_time_starts_as_a_copy_of_that_over_space():
    weights, model = image_arrays(), small()
    adapted = model.adapt(weights)
    assert set(adapted) | set(weights) == set(model.state_dict())
    assert not set(adapted) & set(weights)
    for name, (array, fate, _) in adapted.items():
        if name == "time_embed" or ".temporal_fc." in name:
            assert fate == "initialised"
            assert list(array.shape) == list(model.state_dict()[name].shape)
            assert not array.any()
        else:
            assert fate == "copied"
            source = name.replace("temporal_attn", "attn").replace("temporal_norm1", "norm1")
            np.testing.assert_array_equal(array, weights[source])


def test_joint_attention_lacks_the_time_alone_and_space_lacks_nothing():
    assert list(small(attention="joint").adapt(image_arrays())) == ["time_embed"]
    assert small(attention="space").adapt(image_arrays()) == {}


@pytest.mark.parametrize("lost", ["time_embed", "blocks.0.temporal_fc.weight"])
def test_a_video_network_that_lacks_a_part_is_not_taken_for_an_image_network(lost):
    weights = arrays(randomize(small()))
    del weights[lost]
    assert small().adapt(weights) == {}


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "time"}, "unknown attention 'time'; there are 'divided', 'joint' and 'sp"),
        ({"dim": 13}, "dim = 13 must be a multiple of num_heads = 3"),
        ({"dim": 0}, "dim = 0 must be a multiple"),
        ({"num_heads": 0}, "num_heads = 0"),
        ({"num_frames": 0}, "num_frames = 0, patch_size = 8 and depth = 3 at least 1"),
        ({"patch_size": 0}, "patch_size = 0 and depth = 3 at least 1"),
        ({"depth": 0}, "depth = 0 at least 1"),
        ({"image_size": 20}, "image_size = 20 must be a multiple of patch_size = 8"),
        ({"image_size": 0}, "image_size = 0 must be a multiple of patch_size = 8"),
        ({"sincos": True, "dim": 18}, "sincos needs a dim that is a multiple of 4, not 18"),
        ({"drop_path": 1.0}, "drop_path = 1.0 must be from 0 to below 1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio = 0.0 and init_std = 0.3 above 0"),
        ({"init_std": 0.0}, "init_std = 0.0 above 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


@pytest.mark.parametrize(("height", "width"), [(7, 16), (16, 7)])
def test_frames_smaller_than_a_patch_are_refused(height, width):
    message = f"frames of {width}x{height} are smaller than a patch of 8"
    with pytest.raises(ValueError, match=message):
        small()(clips(1, 3, 2, height, width))


def test_the_mlp_is_as_wide_as_asked():
    shape = small(mlp_ratio=2.5).blocks[0].mlp.fc1.weight.shape
    assert list(shape) == [12, 30]

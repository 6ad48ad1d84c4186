"""Explanations against other ways to the same numbers, and against what is known of the clips."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from scipy.special import softmax

from paddlevid import explain as module
from paddlevid.explain import explain, grad_cam, overlay, roll_out, spread, strip
from paddlevid.models import create_model


def network(name, **arguments):
    """A small network with batch norms that have seen something."""
    paddle.seed(3)
    model = create_model(name, **{"num_classes": 3, **arguments})
    model.eval()
    return model


def clip_of(t, side, seed=0, channels=3):
    return np.random.default_rng(seed).normal(0, 1, (channels, t, side, side)).astype(np.float32)


def outputs(layer, model, clip):
    """What a layer gives for a clip."""
    kept = []
    hook = layer.register_forward_post_hook(lambda *words: kept.append(words[2]))
    with paddle.no_grad():
        model(paddle.to_tensor(clip[None]))
    hook.remove()
    return kept[0]


TINY_MOVINET = {"stem": 4, "stages": "4: 8@33x2 / 8: 8@33", "head": 6, "dense": 8, "alpha": 1.0}


# --- Grad-CAM -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 10])
def test_of_a_tsn_it_is_the_class_activation_map(channels):
    model, clip = network("tsn_r18", width=4, in_channels=channels), clip_of(3, 128, 0, channels)
    maps = outputs(model.trunk, model, clip).numpy()  # (T, D, 4, 4)
    for label in range(3):
        cam = np.einsum("d,tdhw->thw", model.fc.weight.numpy()[:, label], maps)
        np.testing.assert_allclose(
            grad_cam(model, clip, label), spread(cam, clip), atol=1e-5 * np.abs(cam).max()
        )
    # so its mean is the logit but for the bias
    logits = model(paddle.to_tensor(clip[None])).numpy()[0] - model.fc.bias.numpy()
    assert cam.mean() == pytest.approx(logits[2], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "side", "layer", "arguments"),
    [
        ("eco_lite", 128, "tail.res5b", {"width": 2}),  # maps of the clip
        ("eco_lite", 48, "inception_3b", {"width": 2}),  # maps of frames
        ("lrcn_r18", 64, "trunk.layer3",
         {"width": 2, "grid": 1, "reduced": 6, "hidden": 4}),
        ("movinet_a0_stream", 32, "head", TINY_MOVINET),
        ("movinet_a0", 16, "stages.0.1", TINY_MOVINET),
    ],
)  # fmt: skip
def test_the_weights_are_what_the_logit_gains_when_a_channel_grows(name, side, layer, arguments):
    model, step = network(name, **arguments).to(dtype="float64"), 1e-5
    clip = clip_of(3, side).astype(np.float64)
    layer = dict(model.named_sublayers())[layer]
    found = outputs(layer, model, clip)
    found = found[-1] if isinstance(found, tuple) else found
    maps = found.numpy()
    frames = len(maps) if maps.ndim == 4 else 1
    weights = np.zeros((frames, maps.shape[1]))
    shift = paddle.zeros([frames, maps.shape[1]] + [1] * (maps.ndim - 2), "float64")

    def shifted(_, __, output):
        *first, last = output if isinstance(output, tuple) else (output,)
        return (*first, last + shift) if first else last + shift

    hook = layer.register_forward_post_hook(shifted)
    for place in np.ndindex(weights.shape):
        ends = []
        for sign in (1, -1):
            values = np.zeros(shift.shape)
            values[place] = sign * step
            shift.set_value(values)
            with paddle.no_grad():
                ends.append(model(paddle.to_tensor(clip[None])).numpy()[0, 1])
        weights[place] = (ends[0] - ends[1]) / (2 * step)
    hook.remove()
    if maps.ndim == 4:
        cam = np.einsum("td,tdhw->thw", weights * frames, maps)
    else:
        cam = np.einsum("d,dthw->thw", weights[0], maps[0])
    expected = spread(cam, clip)
    error = np.abs(grad_cam(model, clip, 1) - expected).max()
    assert error < 1e-3 * np.abs(expected).max() > 0


def test_eco_full_adds_the_evidence_of_both_its_networks():
    model, clip = network("eco_full", width=2), clip_of(4, 128)
    space_time = outputs(model.tail.res5b, model, clip)[1].numpy()[0]
    appearance = outputs(model.appearance.inception_5b, model, clip).numpy()
    weights = model.fc.weight.numpy()[:, 2]
    ends = np.split(weights, [appearance.shape[1]])
    expected = spread(np.einsum("d,tdhw->thw", ends[0], appearance), clip)
    expected += spread(np.einsum("d,dthw->thw", ends[1], space_time), clip)
    np.testing.assert_allclose(
        grad_cam(model, clip, 2), expected, atol=1e-4 * np.abs(expected).max()
    )


def test_frozen_layers_do_not_hide_anything():
    arguments = {"width": 4, "grid": 1, "reduced": 6, "hidden": 4}
    clip = clip_of(2, 64)
    heats = []
    for trained_blocks in (0, 5):
        model = network("lrcn_r18", trained_blocks=trained_blocks, **arguments)
        heats.append(grad_cam(model, clip, 0))
    np.testing.assert_allclose(heats[0], heats[1], rtol=1e-5)
    assert np.abs(heats[0]).max() > 0


def test_a_network_is_as_it_was_afterwards():
    model, clip = network("tsn_r18", width=4), clip_of(2, 64)
    before = model(paddle.to_tensor(clip[None])).numpy()
    explain(model, clip, 0)
    np.testing.assert_array_equal(model(paddle.to_tensor(clip[None])).numpy(), before)
    assert all(p.grad is None for p in model.parameters())
    hooks = [layer._forward_post_hooks for layer in model.sublayers()]
    assert not any(hooks)


def test_a_planted_patch_is_found():
    paddle.seed(0)
    rng = np.random.default_rng(0)
    model = create_model("tsn_r18", num_classes=2, width=8, dropout=0.0)
    optimizer = paddle.optimizer.Adam(2e-3, parameters=model.parameters())
    corners = [(4, 4), (4, 44), (44, 4), (44, 44)]

    def clips(count, corner=None):
        """Noise; of class 1 with a bright square of 16 pixels in a corner, in the last frame."""
        labels = rng.integers(0, 2, count) if corner is None else np.ones(count, np.int64)
        noise = rng.normal(0, 0.3, (count, 3, 2, 64, 64)).astype(np.float32)
        for clip, label in zip(noise, labels, strict=True):
            top, left = corner or corners[rng.integers(4)]
            clip[:, 1, top : top + 16, left : left + 16] += 2.0 * label
        return noise, labels

    for _ in range(25):
        noise, labels = clips(8)
        loss = F.cross_entropy(model(paddle.to_tensor(noise)), paddle.to_tensor(labels))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    model.eval()
    for top, left in corners:
        noise, _ = clips(1, (top, left))
        heat = explain(model, noise[0], 1).heat
        assert heat.shape == (2, 64, 64) and heat.min() >= 0 and heat.max() == 1
        frame, row, column = np.unravel_index(heat.argmax(), heat.shape)
        # a place of the maps is 16 pixels wide, as the square is
        assert frame == 1 and abs(row - top - 8) <= 16 and abs(column - left - 8) <= 16


def test_a_class_that_nothing_speaks_for_is_said():
    model, clip = network("tsn_r18", width=4), clip_of(2, 128)
    weight = model.fc.weight.numpy()
    weight[:, 0] = -1  # maps are not below 0
    model.fc.weight.set_value(weight)
    found = explain(model, clip, 0)
    assert found.heat.max() == 0
    assert found.method == "Grad-CAM: nothing in these frames speaks for it"


@pytest.mark.parametrize(("name", "side"), [("cnn_lstm", 0), ("convlstm", 0)])
def test_networks_without_such_maps_are_refused(name, side):
    model = create_model(name, num_classes=2) if name == "cnn_lstm" else create_model(name)
    with pytest.raises(ValueError, match="cannot be explained: Grad-CAM is for tsn"):
        explain(model, clip_of(2, 32), 0)


# --- attention rollout ----------------------------------------------------------------------------


def timesformer(attention):
    return network(
        "timesformer_base", attention=attention, num_frames=3, image_size=16, patch_size=8, dim=8,
        depth=3, num_heads=2, init_std=0.5,
    )  # fmt: skip


def shares_of(layer, tokens):
    """An attention restated in NumPy: tokens (L, D) -> the mean of its heads (L, L)"""
    q, k, _ = np.split(tokens @ layer.qkv.weight.numpy() + layer.qkv.bias.numpy(), 3, axis=1)
    heads = zip(np.split(q, 2, axis=1), np.split(k, 2, axis=1), strict=True)
    return np.mean([softmax(a @ b.T / 2, axis=1) for a, b in heads], axis=0)  # sqrt(d) = 2


def inputs_of(model, clip):
    """What each attention of a network gets, in the order they are run: (N, L, D) each"""
    kept = []
    layers = [layer for layer in model.sublayers() if type(layer).__name__ == "Attention"]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, x: kept.append((layer, x[0].numpy())))
        for layer in layers
    ]
    with paddle.no_grad():
        model(paddle.to_tensor(clip[None]))
    for hook in hooks:
        hook.remove()
    return kept


def mixed(shares):
    """Half of it, and half of each token as it was."""
    return (shares + np.eye(len(shares))) / 2


@pytest.mark.parametrize("attention", ["joint", "space", "divided"])
def test_rollout_is_the_product_of_all_shares(attention):
    model, clip, t, p = timesformer(attention), clip_of(3, 16), 3, 4
    inputs = inputs_of(model, clip)
    if attention == "joint":
        rolled = np.eye(1 + p * t)
        for layer, [tokens] in inputs:
            rolled = mixed(shares_of(layer, tokens)) @ rolled
        expected = rolled[0, 1:].reshape(p, t).T
    elif attention == "space":
        expected = np.zeros((t, p))
        for frame in range(t):
            rolled = np.eye(1 + p)
            for layer, tokens in inputs:
                rolled = mixed(shares_of(layer, tokens[frame])) @ rolled
            expected[frame] = rolled[0, 1:] / t
    else:
        rolled, at = np.eye(1 + p * t), lambda frame, patch: 1 + frame * p + patch
        for layer, tokens in inputs:
            step = np.zeros_like(rolled)
            if len(tokens) == p:  # over time
                step[0, 0] = 1
                for patch in range(p):
                    places = [at(frame, patch) for frame in range(t)]
                    step[np.ix_(places, places)] = shares_of(layer, tokens[patch])
            else:
                for frame in range(t):
                    places = [0, *(at(frame, patch) for patch in range(p))]
                    shares = shares_of(layer, tokens[frame])
                    shares[0] /= t  # of the copies of the class token the mean is taken
                    step[np.ix_(places, places)] += shares
            rolled = mixed(step) @ rolled
        expected = rolled[0, 1:].reshape(t, p)
        assert expected.sum() + rolled[0, 0] == pytest.approx(1)
    found = roll_out(model, clip)
    np.testing.assert_allclose(found, expected.reshape(t, 2, 2), rtol=1e-4, atol=1e-6)
    assert np.ptp(found) > 1e-3


def test_a_map_of_rollout_lies_on_the_patches_of_any_frame():
    model, clip = timesformer("divided"), clip_of(5, 19)  # 2 x 2 patches, and 3 pixels more
    found = explain(model, clip, 0)
    assert found.method == "attention rollout, of no single class"
    assert found.heat.shape == (5, 19, 19)
    assert (found.heat.min(), found.heat.max()) == (0, 1)
    np.testing.assert_array_equal(found.heat[:, 16:], found.heat[:, 15:16].repeat(3, axis=1))


# --- pictures -------------------------------------------------------------------------------------


def test_coarse_maps_are_stretched_over_the_clip():
    clip = clip_of(8, 32)
    coarse = np.zeros((2, 4, 4), np.float32)
    coarse[1, 3, 0] = 1
    fine = spread(coarse, clip)
    assert fine.shape == (8, 32, 32)
    assert np.unravel_index(fine.argmax(), fine.shape)[0] >= 6
    assert fine[7, 31, 0] == fine.max() == 1 and fine[0].max() == 0
    assert spread(np.full((2, 4, 4), 3, np.float32), clip) == pytest.approx(3)
    assert fine.mean() == pytest.approx(coarse.mean(), rel=0.2)


def test_heat_is_drawn_where_it_is_and_nowhere_else():
    frames = np.full((2, 56, 60, 3), 100, np.uint8)
    heat = np.zeros((2, 56, 60), np.float32)
    heat[1, :28, :30] = 1
    drawn = overlay(frames, heat)
    assert drawn.shape == (2, 112, 120, 3)
    assert (drawn[0] == 100).all() and (drawn[1, 60:] == 100).all()
    red, green, blue = drawn[1, 20, 20].astype(int)
    assert red > 100 > green and red > blue + 50  # the hot end of the colours


@pytest.mark.parametrize(("t", "rows", "columns"), [(3, 1, 3), (8, 1, 8), (20, 3, 8)])
def test_a_strip_has_eight_frames_in_a_row_and_a_title(t, rows, columns):
    frames, heat = np.full((t, 112, 120, 3), 100, np.uint8), np.zeros((t, 112, 120), np.float32)
    image = strip(frames, heat, "short")
    assert image.shape[1] == columns * 122
    assert image.shape[0] == rows * (2 * 112 + 6) + strip(frames[:1], heat[:1], "x").shape[0] - 230
    assert image[:20].min() < 100  # letters
    assert strip(frames[:1], heat[:1], "a title that is longer than one frame").shape[1] > 200


def test_every_network_is_said_to_be_explained_or_not():
    import inspect

    from paddlevid.models import MODELS

    kinds = {inspect.signature(make).return_annotation for make in MODELS.values()}
    told = {*module._MAPS, module.TimeSformer}
    left = {kind.__name__ for kind in kinds if not issubclass(kind, tuple(told))}
    assert left == {"CNNLSTM", "ConvLSTM"}

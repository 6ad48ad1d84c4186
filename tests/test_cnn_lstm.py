"""cnn_lstm: the published numbers, what padding does not change, Keras' weights."""

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.convert.conversion import convert
from paddlevid.models import create_model
from paddlevid.weights import WeightsFile, load_weights


def small(num_classes: int = 5, **arguments: object) -> nn.Layer:
    paddle.seed(0)
    sizes = {"features": 6, "hidden": 4, "dense": 8}
    return create_model("cnn_lstm", num_classes=num_classes, **{**sizes, **arguments})


def features(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def logits(model: nn.Layer, array: np.ndarray) -> np.ndarray:
    model.eval()
    with paddle.no_grad():
        return model(paddle.to_tensor(array)).numpy()


def num_trainable(layer: nn.Layer) -> int:
    return sum(p.size for p in layer.parameters() if not p.stop_gradient)


def test_the_number_of_parameters_is_the_published_one():
    model = create_model("cnn_lstm", num_classes=101)
    assert num_trainable(model.recurrent) == 5_244_928
    assert num_trainable(model.dense) == 524_288 // 4 + 256 == 131_328
    assert num_trainable(model) == 5_402_213


def test_a_clip_that_is_padded_says_what_it_says_without_padding():
    model, clip = small(), features(2, 7, 6)
    padded = np.zeros((2, 12, 6), np.float32)
    padded[:, :7] = clip
    np.testing.assert_allclose(logits(model, padded), logits(model, clip), atol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_zero_frames_anywhere_change_nothing(bidirectional):
    model, clip = small(bidirectional=bidirectional), features(2, 4, 6)
    spread = np.zeros((2, 9, 6), np.float32)
    spread[:, [1, 2, 5, 8]] = clip
    np.testing.assert_allclose(logits(model, spread), logits(model, clip), atol=1e-6)


def test_a_single_zero_is_no_missing_frame():
    model, clip = small(), features(1, 3, 6)
    clip[:, 1, :5] = 0
    assert np.abs(logits(model, clip) - logits(model, clip[:, [0, 2]])).max() > 1e-5


def test_the_order_of_frames_matters():
    model, clip = small(), features(1, 5, 6)
    assert np.abs(logits(model, clip) - logits(model, clip[:, ::-1].copy())).max() > 1e-4


def test_a_clip_does_not_depend_on_its_batch():
    model, clips = small(), features(4, 5, 6)
    together = logits(model, clips)
    for n in range(4):
        np.testing.assert_allclose(logits(model, clips[n : n + 1])[0], together[n], atol=1e-6)


def test_the_last_of_the_frames_logits_are_the_clips():
    model, clip = small(), features(2, 5, 6)
    model.eval()
    curve = model.frame_logits(paddle.to_tensor(clip)).numpy()
    assert curve.shape == (2, 5, 5)
    np.testing.assert_allclose(curve[:, -1], logits(model, clip), atol=1e-6)
    np.testing.assert_allclose(curve[:, 2], logits(model, clip[:, :3]), atol=1e-6)


def test_asked_to_it_averages_the_probabilities_of_the_frames_seen():
    model, clip = small(average=True), features(2, 7, 6)
    clip[1, 5:] = 0
    model.eval()
    curve = np.exp(model.frame_logits(paddle.to_tensor(clip)).numpy().astype(np.float64))
    curve /= curve.sum(axis=2, keepdims=True)
    expected = np.log([curve[0].mean(axis=0), curve[1, :5].mean(axis=0)])
    np.testing.assert_allclose(logits(model, clip), expected, atol=1e-5)
    np.testing.assert_allclose(logits(model, clip[1:, :5]), expected[1:], atol=1e-5)


def test_a_clip_without_a_frame_has_finite_logits():
    for average in (False, True):
        assert np.isfinite(logits(small(average=average), np.zeros((1, 3, 6), np.float32))).all()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("more", [{}, {"num_layers": 2, "bidirectional": True}, {"k1": 2, "k2": 3}])
def test_every_parameter_gets_a_gradient(cell, more):
    model = small(cell=cell, **more)
    model.train()
    clip = paddle.to_tensor(features(3, 6, 6))
    nn.CrossEntropyLoss()(model(clip), paddle.to_tensor([0, 1, 2])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_it_learns_the_order_of_two_frames():
    model = small(num_classes=2, dropout=0.0, recurrent_dropout=0.0, dense_dropout=0.0)
    optimizer = paddle.optimizer.Adam(0.02, parameters=model.parameters())
    first, second = features(2, 6)
    clips = paddle.to_tensor(np.stack([[first, second], [second, first]]))
    for _ in range(60):
        loss = nn.CrossEntropyLoss()(model(clips), paddle.to_tensor([0, 1]))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    assert loss.item() < 0.05


def test_dropouts_are_the_published_ones():
    model = create_model("cnn_lstm", num_classes=2)
    layer = model.recurrent.layers[0]
    assert (layer.dropout, layer.recurrent_dropout, model.dropout.p) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dense": 0}, "dense = 0 needs at least 1"),
        ({"dense_dropout": 1.0}, "dense_dropout = 1.0 a number"),
        ({"features": 0}, "0 numbers of a step"),
        ({"cell": "x"}, "cell = 'x': needs one of lstm, gru, rnn"),
        ({"k1": 3, "k2": 1}, "k1 = 3, k2 = 1: needs 1 <= k1 <= k2"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


# --- Keras ----------------------------------------------------------------------------------------


def keras_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {
        "lstm/lstm_cell/kernel": (6, 16), "lstm/lstm_cell/recurrent_kernel": (4, 16),
        "lstm/lstm_cell/bias": (16,), "dense/kernel": (4, 8), "dense/bias": (8,),
        "dense_1/kernel": (8, 5), "dense_1/bias": (5,),
    }  # fmt: skip
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def keras_logits(weights: dict[str, np.ndarray], clip: np.ndarray) -> np.ndarray:
    """Keras' LSTM (gates i, f, c, o in columns), Dense with ReLU, Dense: (T, D) -> (K,)"""
    kernel, recurrent, bias = (weights[f"lstm/lstm_cell/{name}"] for name in
                               ("kernel", "recurrent_kernel", "bias"))  # fmt: skip
    h = c = np.zeros(4)
    for row in clip:
        if not row.any():
            continue  # Masking
        i, f, candidate, o = np.split(row @ kernel + h @ recurrent + bias, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(candidate)
        h = o * np.tanh(c)
    dense = np.maximum(h @ weights["dense/kernel"] + weights["dense/bias"], 0)
    return dense @ weights["dense_1/kernel"] + weights["dense_1/bias"]


@pytest.mark.parametrize("style", ["{}", "{}:0", "model_weights/{}"])
def test_the_weights_of_keras_give_its_logits(style, tmp_path):
    weights = keras_weights()
    file = WeightsFile(tmp_path / "a.npz", {style.format(n): w for n, w in weights.items()}, "")
    model = small()
    conversion = convert(model, file, whole=True)
    load_weights(model, conversion.weights, file.path)
    clip = features(2, 5, 6)
    clip[1, 2] = 0
    expected = [keras_logits(weights, row) for row in clip]
    np.testing.assert_allclose(logits(model, clip), expected, atol=1e-5)
    assert conversion.project.name == "Keras"

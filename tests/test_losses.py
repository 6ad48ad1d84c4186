"""The weighted cross-entropy against NumPy and scikit-learn; errors of frames by hand."""

import numpy as np
import paddle
import pytest
from paddle import nn
from sklearn.metrics import log_loss

from paddlevid.losses import CrossEntropy, FrameError

WEIGHTS = (0.5, 2.0, 1.0, 0.0)
LABELS = np.array([0, 1, 1, 2, 0, 3, 2])


def logits_of(num_clips: int = len(LABELS)) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (num_clips, len(WEIGHTS))).astype(np.float32)


def by_hand(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    """The mean over the clips, not over the sum of their weights."""
    logits = logits.astype(np.float64)
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = np.eye(len(WEIGHTS))[labels] * (1 - smoothing) + smoothing / len(WEIGHTS)
    return (-(target * log).sum(axis=1) * np.array(WEIGHTS)[labels]).mean()


def loss_of(logits: np.ndarray, labels: np.ndarray, weights=WEIGHTS, smoothing=0.0) -> float:
    loss = CrossEntropy(weights, smoothing)
    return loss(paddle.to_tensor(logits), paddle.to_tensor(labels)).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("num_clips", [1, 7])
def test_a_clip_counts_with_the_weight_of_its_own_class(smoothing, num_clips):
    logits, labels = logits_of()[:num_clips], LABELS[:num_clips]
    expected = by_hand(logits, labels, smoothing)
    assert loss_of(logits, labels, smoothing=smoothing) == pytest.approx(expected, rel=1e-5)


def test_without_smoothing_it_is_the_weighted_log_loss_of_scikit_learn():
    logits, weights = logits_of(), np.array(WEIGHTS)[LABELS]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # scikit-learn divides by the sum of the weights
    expected = log_loss(LABELS, probabilities, sample_weight=weights) * weights.sum() / len(LABELS)
    assert loss_of(logits, LABELS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equal_weights_give_the_plain_cross_entropy(smoothing):
    plain = nn.CrossEntropyLoss(label_smoothing=smoothing)
    expected = plain(paddle.to_tensor(logits_of()), paddle.to_tensor(LABELS)).item()
    got = loss_of(logits_of(), LABELS, [1.0] * 4, smoothing)
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sizes", [(3, 4), (1, 5, 1)])
def test_small_batches_add_up_to_the_large_one(sizes):
    loss, cuts = CrossEntropy(WEIGHTS, 0.1), np.cumsum((0, *sizes))
    sums, gradients = [], []
    for spans in (zip(cuts[:-1], cuts[1:], strict=True), [(0, len(LABELS))]):
        logits, total = paddle.to_tensor(logits_of(), stop_gradient=False), 0.0
        for a, b in spans:
            part = loss(logits[a:b], paddle.to_tensor(LABELS[a:b])) * ((b - a) / len(LABELS))
            part.backward()
            total += part.item()
        sums.append(total)
        gradients.append(logits.grad.numpy())
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_a_class_of_weight_zero_leaves_no_gradient():
    logits = paddle.to_tensor(logits_of(), stop_gradient=False)
    CrossEntropy(WEIGHTS)(logits, paddle.to_tensor(LABELS)).backward()
    touched = np.abs(logits.grad.numpy()).max(axis=1) > 1e-4
    assert touched.tolist() == (LABELS != 3).tolist()


def test_the_weights_of_the_classes_are_not_trained():
    assert CrossEntropy(WEIGHTS).parameters() == []


def test_frames_have_their_clips_label_and_a_clip_counts_as_the_mean_of_those_seen():
    logits = np.random.default_rng(1).normal(0, 2, (3, 4, len(WEIGHTS))).astype(np.float32)
    seen, labels = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]], bool), np.array([0, 1, 2])
    expected = np.mean(
        [
            by_hand(logits[n][seen[n]], np.full(seen[n].sum(), labels[n]), 0.1)
            for n in range(len(labels))
        ]
    )
    loss = CrossEntropy(WEIGHTS, 0.1)
    got = loss(paddle.to_tensor(logits), paddle.to_tensor(labels), paddle.to_tensor(seen))
    assert got.item() == pytest.approx(expected, rel=1e-5)


# One pixel of two frames is wrong by -0.5, one of the other clip by 1; 8 pixels in all.
TRUTH = np.zeros((2, 1, 2, 1, 2), np.float32)
FRAMES = np.array([[-0.5, 0, 0, 0], [0, 0, 0, 1]], np.float32).reshape(TRUTH.shape)


@pytest.mark.parametrize(
    ("kind", "loss", "slopes"),  # slopes: of the two wrong pixels
    [
        ("mse", 1.25 / 8, [-1 / 8, 2 / 8]),
        ("l1", 1.5 / 8, [-1 / 8, 1 / 8]),
        ("l1_mse", 2.75 / 8, [-2 / 8, 3 / 8]),
    ],
)
def test_the_error_of_frames_is_the_mean_over_all_pixels(kind, loss, slopes):
    frames = paddle.to_tensor(FRAMES, stop_gradient=False)
    got = FrameError(kind)(frames, paddle.to_tensor(TRUTH))
    assert got.shape == [] and got.item() == pytest.approx(loss)
    got.backward()
    np.testing.assert_allclose(frames.grad.numpy()[FRAMES != 0], slopes, rtol=1e-6)
    np.testing.assert_array_equal(frames.grad.numpy()[FRAMES == 0], 0)


def test_the_error_of_frames_is_the_squared_one_unless_another_is_asked_for():
    assert FrameError()(paddle.to_tensor(FRAMES), paddle.to_tensor(TRUTH)).item() == 1.25 / 8

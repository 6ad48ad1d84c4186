"""Accuracies and tables, by hand."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from paddlevid.data.loader import Batch
from paddlevid.metrics import Evaluation, PRCurve, num_hits, score_views

LOGITS = np.array(
    [
        [0.1, 0.9, 0.0, 0.2],  # ranks of the classes: 2 0 3 1
        [0.7, 0.1, 0.3, 0.2],  # 0 3 1 2
        [0.0, 0.1, 0.2, 0.3],  # 3 2 1 0
        [0.9, 0.1, 0.2, 0.8],  # 0 3 2 1
        [0.1, 0.5, 0.3, 0.2],  # 3 0 1 2
    ],
    np.float32,
)
LABELS = np.array([1, 2, 0, 3, 1])  # their ranks: 0 1 3 1 0; class 2 once, 0 once


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation(LOGITS, LABELS, np.arange(5), loss=1.25, num_bad=2)


@pytest.mark.parametrize(("k", "hits"), [(1, 2), (2, 4), (3, 4), (4, 5), (5, 5), (99, 5)])
def test_hits_are_labels_among_the_k_highest(k, hits):
    assert num_hits(LOGITS, LABELS, k) == hits


def test_of_equal_logits_the_first_is_the_highest():
    # A network that says the same of all classes is right as often as always saying class 0.
    logits, labels = np.zeros((4, 4), np.float32), np.arange(4)
    assert [num_hits(logits, labels, k) for k in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert num_hits(logits, labels, 1) == (logits.argmax(axis=1) == labels).sum()
    logits = np.array([[1.0, 2.0, 2.0]])
    assert [num_hits(logits, np.array([label]), 1) for label in range(3)] == [0, 1, 0]


def test_a_network_that_says_nan_is_never_right():
    logits = np.array([[np.nan] * 3, [np.nan, 5, 1], [0, 5, np.nan], [0, 5, 1]])
    assert num_hits(logits, np.array([0, 1, 1, 1]), 1) == 1
    assert num_hits(logits, np.array([0, 1, 1, 1]), 5) == 1


def test_top_1_agrees_with_the_confusion_matrix():
    rng = np.random.default_rng(0)
    logits, labels = rng.integers(0, 3, (200, 6)).astype(np.float32), rng.integers(0, 6, 200)
    evaluation = Evaluation(logits, labels, np.arange(200), loss=0.0)
    assert evaluation.top_k(1) == np.trace(evaluation.confusion) / 200


def test_the_confusion_matrix_has_a_row_for_each_label(evaluation):
    expected = [[0, 0, 0, 1], [0, 2, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    np.testing.assert_array_equal(evaluation.confusion, expected)


def test_the_mean_over_classes_leaves_out_classes_without_clips():
    labels = np.array([1, 1, 3, 3, 1])  # classes 0 and 2 have no clips
    evaluation = Evaluation(LOGITS, labels, np.arange(5), loss=0.0)
    np.testing.assert_array_equal(evaluation.class_accuracies, [np.nan, 2 / 3, np.nan, 0.5])
    assert evaluation.summary()["mean_class_accuracy"] == pytest.approx((2 / 3 + 0.5) / 2)


def test_the_summary_says_over_how_many_clips(evaluation):
    assert evaluation.summary() == {
        "top1": 0.4,
        "top5": 1.0,
        "mean_class_accuracy": 0.25,
        "loss": 1.25,
        "num_clips": 5,
        "num_bad": 2,
    }


def test_the_dashboard_gets_the_loss_and_the_shares(evaluation):
    assert evaluation.figures == {"loss": 1.25, "top1": 0.4, "top5": 1.0}


def test_a_better_top_1_is_better_and_of_equals_the_lower_loss():
    def quality(clips, loss):
        return Evaluation(LOGITS[clips], LABELS[clips], np.array(clips), loss).quality

    # clips 0 and 4 are right
    assert quality([0, 4], 9.0) > quality([0, 1], 0.1)
    assert quality([0, 1], 1.0) > quality([4, 2], 2.0)
    assert quality([0, 1], 1.0) == quality([4, 2], 1.0) == (0.5, -1.0)


@pytest.mark.parametrize(("num_bad", "end"), [(0, ""), (2, " (2 left out)")])
def test_a_line_for_the_user_says_of_how_many_clips(num_bad, end):
    evaluation = Evaluation(LOGITS, LABELS, np.arange(5), loss=1.25, num_bad=num_bad)
    line = f"loss 1.2500 top-1 0.4000 top-5 1.0000 of 5 clips{end}"
    assert evaluation.in_words() == line


def test_the_class_table_names_the_most_frequent_mistake():
    logits = np.eye(4)[[1, 2, 2, 0, 1, 3]]
    labels = np.array([0, 0, 0, 0, 1, 3])
    table = Evaluation(logits, labels, np.arange(6), 0.0).class_table(["a", "b", "c", "d"])
    assert [row["class"] for row in table] == ["a", "b", "c", "d"]
    assert [row["clips"] for row in table] == [4, 1, 0, 1]
    assert [row["taken_for"] for row in table] == ["c", "", "", ""]
    np.testing.assert_array_equal([row["accuracy"] for row in table], [0.25, 1.0, np.nan, 1.0])


def test_the_class_table_needs_a_name_for_each_class(evaluation):
    with pytest.raises(ValueError, match="shorter"):
        evaluation.class_table(["a", "b", "c", "d", "e"])


@pytest.mark.parametrize("num_views", [1, 3])
def test_the_views_of_a_clip_are_averaged_and_not_those_of_its_neighbour(num_views):
    rng = np.random.default_rng(0)
    clips = rng.random((2 * num_views, 3, 1, 1, 1), np.float32)  # the views one after the other
    batch = Batch(clips, np.array([0, 1]), np.array([0, 1]), num_views)
    sizes = []

    def run(clip: np.ndarray) -> list[np.ndarray]:
        sizes.append(clip.shape[0])
        return [clip.reshape(-1, 3) ** 2]

    expected = (clips.reshape(2, num_views, 3) ** 2).mean(axis=1)
    np.testing.assert_allclose(score_views(run, batch), expected, rtol=1e-6)
    assert sizes == [2] * num_views  # one view of each clip at a time


def test_precision_and_recall_are_those_of_scikit_learn_at_each_threshold():
    rng = np.random.default_rng(0)
    scores, is_positive = rng.random(50), rng.random(50) < 0.3
    curve = PRCurve.of(scores, is_positive, steps=20)
    for at, threshold in enumerate(np.arange(1, 21) / 20):
        predicted = scores >= threshold
        (tn, fp), (fn, tp) = confusion_matrix(is_positive, predicted, labels=[False, True])
        assert (curve.tp[at], curve.fp[at], curve.tn[at], curve.fn[at]) == (tp, fp, tn, fn)
        precision = precision_score(is_positive, predicted, zero_division=1.0)
        assert curve.precision[at] == pytest.approx(precision)
        assert curve.recall[at] == pytest.approx(recall_score(is_positive, predicted))


def test_without_positives_the_recall_is_zero_and_nothing_is_divided_by_zero():
    curve = PRCurve.of(np.float32([0.2, 0.7]), np.bool_([0, 0]), steps=2)
    assert (curve.recall.tolist(), curve.precision.tolist()) == ([0, 0], [0, 1])


def test_few_classes_have_a_curve_each_and_many_the_means(evaluation):
    curves = evaluation.pr_curves(["a", "b", "c", "d"])
    assert list(curves) == ["all/macro", "all/micro", "class/a", "class/b", "class/c", "class/d"]
    of_class = [curves[f"class/{name}"] for name in "abcd"]
    recall = np.mean([curve.recall for curve in of_class], axis=0)
    np.testing.assert_allclose(curves["all/macro"].recall, recall)
    assert curves["all/micro"].tp.tolist() == sum(curve.tp for curve in of_class).tolist()
    many = Evaluation(np.eye(12, dtype=np.float32), np.arange(12), np.arange(12), 0.0)
    assert list(many.pr_curves([str(k) for k in range(12)])) == ["all/macro", "all/micro"]

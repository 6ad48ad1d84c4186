import csv
import dataclasses
import gc
import json
import os
import signal
import threading

import numpy as np
import paddle
import pytest
from matplotlib.figure import Figure
from paddle import nn
from visualdl import LogReader

from paddlevid.checkpoint import load_checkpoint
from paddlevid.data.dataset import Item
from paddlevid.data.loader import BadSamplesError, Batch, Loader
from paddlevid.data.mix import Mix
from paddlevid.losses import CrossEntropy
from paddlevid.metrics import Evaluation
from paddlevid.optim import Schedule, WeightAverage, create_optimizer, group_parameters
from paddlevid.predictor import Predictor
from paddlevid.tasks import Classification
from paddlevid.trainer import (
    Interrupted,
    Progress,
    Settings,
    _share_among,
    evaluate,
    fit,
    train_step,
)
from paddlevid.weights import WeightsError, read_weights

CLASSES = ["a", "b", "c"]
NUM_CLASSES = len(CLASSES)


class Clips:
    """Clips whose brightness tells the class; those in `broken` cannot be read."""

    def __init__(self, num_clips, broken=()):
        self.num_clips, self.broken = num_clips, broken

    def __len__(self):
        return self.num_clips

    def fetch(self, index, epoch=0):
        if index in self.broken:
            return Item(index, problem=f"clip {index}: broken")
        rng = np.random.default_rng([index, epoch])
        label = index % NUM_CLASSES
        clip = rng.normal(label, 0.1, (1, 3, 2, 4, 4)).astype(np.float32)
        return Item(index, clip, label)


class Tiny(nn.Layer):
    """A network with dropout, so that the random draws count."""

    classifier = "out"

    def __init__(self, dropout=0.5):
        super().__init__()
        self.hidden = nn.Linear(96, 16)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(16, NUM_CLASSES)

    def forward(self, clip):
        return self.out(self.dropout(nn.functional.relu(self.hidden(clip.flatten(1)))))


class Normed(Tiny):
    """The same behind a batch norm, whose statistics are weights but no parameters."""

    def __init__(self, dropout=0.5):
        super().__init__(dropout)
        self.norm = nn.BatchNorm3D(3)

    def forward(self, clip):
        return super().forward(self.norm(clip))


def classification(loss_fn=None, **changes):
    return Classification(loss_fn or nn.CrossEntropyLoss(), CLASSES, **changes)


def parts(rate=0.05, dropout=0.5, epochs=3, optimizer="momentum", network=Tiny, mix=None, **groups):
    paddle.seed(1)
    model = network(dropout)
    schedule = Schedule(rate, epochs, policy="cosine", per_step=True)
    made = create_optimizer(optimizer, group_parameters(model, **groups))
    return model, classification(mix=mix or Mix()), made, schedule


def settings(folder, **changes):
    folder.mkdir(exist_ok=True)
    return Settings(folder, **{"epochs": 3, "classes": CLASSES, **changes})


def train_loader(num_clips=22, **changes):
    return Loader(Clips(num_clips, **changes), 4, shuffle=True, seed=5, max_bad_samples=0.5)


def weights_of(model):
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def no_amp():
    return paddle.amp.GradScaler(enable=False)


def batch_of(indices):
    items = [Clips(100).fetch(index) for index in indices]
    clips = np.concatenate([item.views for item in items])
    return Batch(clips, np.array([item.label for item in items]), np.array(indices))


@pytest.mark.parametrize("sizes", [(4, 4, 4), (5, 3, 1), (9, 1)])
def test_accumulated_gradients_equal_those_of_the_large_batch(sizes):
    indices = list(range(sum(sizes)))
    cuts = np.cumsum((0, *sizes))
    small = [batch_of(indices[a:b]) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    trained = []
    for batches in (small, [batch_of(indices)]):
        model, task, optimizer, _ = parts(dropout=0.0)
        optimizer.set_lr(0.1)
        for _ in range(3):
            result = train_step(model, task, optimizer, no_amp(), batches)
        trained.append((weights_of(model), result.loss))
    for name, value in trained[0][0].items():
        np.testing.assert_allclose(value, trained[1][0][name], rtol=1e-5, atol=1e-6)
    assert trained[0][1] == pytest.approx(trained[1][1], rel=1e-5)


def test_the_tail_of_an_epoch_that_does_not_fill_a_group_is_trained_too(tmp_path):
    model, task, optimizer, schedule = parts(epochs=1)
    progress = fit(
        model, task, optimizer, schedule, train_loader(22), None,
        settings(tmp_path, epochs=1, accumulate=4),
    )  # fmt: skip
    assert progress.step == 2  # six batches: four and two


def test_gradient_clipping_limits_the_step():
    changes = []
    for clip_norm, clip_value in ((0.0, 0.0), (1e-3, 0.0), (0.0, 1e-4)):
        model, task, optimizer, _ = parts(dropout=0.0)
        before = weights_of(model)
        optimizer.set_lr(1.0)
        batches = [batch_of(range(6))]
        train_step(model, task, optimizer, no_amp(), batches, clip_norm, clip_value)
        after = weights_of(model)
        changes.append(np.concatenate([(after[n] - before[n]).ravel() for n in before]))
    assert np.linalg.norm(changes[0]) > 1e-2
    assert np.linalg.norm(changes[1]) == pytest.approx(1e-3, rel=1e-2)
    assert np.abs(changes[2]).max() == pytest.approx(1e-4, rel=1e-2)


def test_training_learns_and_keeps_the_best_and_the_last(tmp_path):
    model, task, optimizer, schedule = parts(0.01, 0.0, epochs=6, optimizer="adamw")
    valid = Loader(Clips(9), 4)
    progress = fit(
        model, task, optimizer, schedule, train_loader(90), valid, settings(tmp_path, epochs=6)
    )
    assert progress.best[0] == 1.0
    assert (tmp_path / "best.pdparams").exists()
    checkpoints = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert checkpoints == ["step_00000115.ckpt", "step_00000138.ckpt"]
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    val = [row for row in rows if row["split"] == "val"]
    assert [int(row["epoch"]) for row in val] == [1, 2, 3, 4, 5, 6]
    assert max(float(row["top1"]) for row in val) == 1.0
    rates = [float(row["learning_rate"]) for row in rows if row["learning_rate"]]
    assert rates[0] == pytest.approx(0.01) and rates[-1] < 0.001


def test_best_weights_are_those_of_the_best_epoch_not_the_last(tmp_path, monkeypatch):
    model, task, optimizer, schedule = parts()
    scores = iter([(0.5, 1.0), (0.9, 3.0), (0.9, 2.0), (0.7, 0.1)])
    kept = []

    def fake_evaluate(*_, **__):
        kept.append(weights_of(model))
        evaluation = evaluate(Predictor(model, "eager"), Loader(Clips(9), 4), task)
        score, loss = next(scores)
        monkeypatch.setattr(type(evaluation), "top_k", lambda self, k: score)
        return dataclasses.replace(evaluation, loss=loss)

    monkeypatch.setattr("paddlevid.trainer.evaluate", fake_evaluate)
    progress = fit(
        model,
        task,
        optimizer,
        schedule,
        train_loader(),
        Loader(Clips(9), 4),
        settings(tmp_path, epochs=4),
    )
    assert progress.best == (0.9, -2.0)  # the lower loss of the two at 0.9
    assert progress.best_epoch == 3
    assert_same(kept[2], read_weights(tmp_path / "best.pdparams").arrays)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("stop_after", [3, 6, 13])
def test_an_interrupted_run_ends_with_the_weights_of_an_unbroken_one(
    tmp_path, stop_after, optimizer
):
    unbroken = parts(optimizer=optimizer)
    fit(*unbroken, train_loader(), Loader(Clips(9), 4), settings(tmp_path / "one"))

    broken = parts(optimizer=optimizer)
    loader = _SignalAfter(stop_after)
    with pytest.raises(Interrupted, match=f"step_{stop_after:08d}.ckpt"):
        fit(*broken, loader, Loader(Clips(9), 4), settings(tmp_path / "two"))
    again = parts(optimizer=optimizer)
    again[0].hidden.weight.set_value(np.zeros([96, 16], np.float32))  # must come from the file
    progress = fit(
        *again, train_loader(), Loader(Clips(9), 4), settings(tmp_path / "two"), resume=True
    )
    assert progress.step == 18
    assert_same(weights_of(unbroken[0]), weights_of(again[0]))
    files = [(tmp_path / name / "metrics.csv").read_text() for name in ("one", "two")]
    figures = [
        [row for row in csv.DictReader(text.splitlines()) if not row["clips_per_second"]]
        for text in files
    ]
    assert figures[0] == figures[1]


class _SignalAfter:
    """The training loader; it sends SIGINT while batch number `count` of the run is in work."""

    def __init__(self, count):
        self.loader, self.left = train_loader(), count

    def __len__(self):
        return len(self.loader)

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def batches(self, epoch=0, first=0):
        for batch in self.loader.batches(epoch, first):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


def test_a_signal_during_validation_saves_and_resumes_with_the_validation(tmp_path, monkeypatch):
    class Signalling(Loader):
        def batches(self, epoch=0, first=0):
            os.kill(os.getpid(), signal.SIGTERM)
            yield from super().batches(epoch, first)

    with pytest.raises(Interrupted):
        fit(*parts(), train_loader(), Signalling(Clips(9), 4), settings(tmp_path))
    state, _ = load_checkpoint(tmp_path / "checkpoints")
    assert (state["progress"]["epoch"], state["progress"]["step"]) == (0, 6)
    progress = fit(
        *parts(), train_loader(), Loader(Clips(9), 4), settings(tmp_path, epochs=1), resume=True
    )
    assert (progress.epoch, progress.step, progress.best_epoch) == (1, 6, 1)


def test_the_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    fit(*parts(), train_loader(), None, settings(tmp_path, epochs=1))
    assert signal.getsignal(signal.SIGINT) is before


def test_training_works_in_another_thread(tmp_path):
    ended = []
    thread = threading.Thread(
        target=lambda: ended.append(
            fit(*parts(), train_loader(), None, settings(tmp_path, epochs=1)).epoch
        )
    )
    thread.start()
    thread.join(60)
    assert ended == [1]


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path):
    model, task, optimizer, schedule = parts()
    model.out.bias.set_value(np.full(NUM_CLASSES, np.nan, np.float32))
    before = weights_of(model)
    loader = train_loader(8)
    with pytest.raises(FloatingPointError, match=r"loss became nan in step 1 \(epoch 1\): lower"):
        fit(model, task, optimizer, schedule, loader, None, settings(tmp_path))
    assert_same(before, weights_of(model))


def test_a_validation_loss_that_is_not_finite_stops_and_keeps_no_weights(tmp_path):
    model, task, optimizer, schedule = parts()
    loss_fn = task.loss_fn

    def nan_for_nine(logits, labels):  # the validation clips come all at once
        return loss_fn(logits, labels) * (float("nan") if len(labels) == 9 else 1.0)

    with pytest.raises(
        FloatingPointError, match="the validation loss became nan after epoch 1: lo"
    ):
        fit(
            model, classification(nan_for_nine), optimizer, schedule, train_loader(),
            Loader(Clips(9), 4), settings(tmp_path),
        )  # fmt: skip
    assert not (tmp_path / "best.pdparams").exists()


def test_early_stopping_ends_after_epochs_without_gain(tmp_path):
    model, task, optimizer, _ = parts()
    still = Schedule(0.0, 50)  # nothing is learned
    progress = fit(
        model, task, optimizer, still, train_loader(), Loader(Clips(9), 4),
        settings(tmp_path, epochs=50, early_stop=3),
    )  # fmt: skip
    assert (progress.best_epoch, progress.epoch) == (1, 4)


def test_without_validation_the_last_weights_are_kept_as_best(tmp_path):
    model, task, optimizer, schedule = parts()
    fit(model, task, optimizer, schedule, train_loader(), None, settings(tmp_path))
    assert_same(weights_of(model), read_weights(tmp_path / "best.pdparams").arrays)


def test_bad_clips_are_left_out_named_once_and_listed(tmp_path, capsys):
    loader = train_loader(22, broken=(3, 7))
    valid = Loader(Clips(9, broken=(1,)), 4, max_bad_samples=0.5)
    fit(*parts(), loader, valid, settings(tmp_path))
    lines = (tmp_path / "bad_samples.txt").read_text().splitlines()
    assert sorted(lines) == ["clip 1: broken", "clip 3: broken", "clip 7: broken"]
    out = capsys.readouterr().out
    assert out.count("left out: clip 3: broken") == 1
    assert "of 8 clips (1 left out)" in out


def test_too_many_bad_clips_stop_the_run(tmp_path):
    loader = Loader(Clips(20, broken=range(5)), 4, max_bad_samples=0.1)
    with pytest.raises(BadSamplesError, match="3 of 20 clips cannot be read"):
        fit(*parts(), loader, None, settings(tmp_path))


def test_an_evaluation_without_any_readable_clip_is_an_error():
    model, task, *_ = parts()
    loader = Loader(Clips(3, broken=range(3)), 2, max_bad_samples=1.0)
    with pytest.raises(ValueError, match="none of the clips could be read"):
        evaluate(Predictor(model, "eager"), loader, task)


def test_an_evaluation_holds_few_parts_and_says_the_same(monkeypatch):
    task, predictor, held = classification(), Predictor(Tiny(), "eager"), []
    whole = evaluate(predictor, Loader(Clips(23), 2), task)
    conclude = task.conclude
    monkeypatch.setattr(task, "conclude", lambda parts, n: held.append(parts) or conclude(parts, n))
    monkeypatch.setattr("paddlevid.trainer.MOST_PARTS", 4)
    parted = evaluate(predictor, Loader(Clips(23), 2), task)
    assert len(held[0]) < 4
    np.testing.assert_array_equal(parted.logits, whole.logits)
    np.testing.assert_array_equal(parted.indices, np.arange(23))
    assert parted.loss == whole.loss


def test_a_picture_of_an_evaluation_leaves_no_figure_behind():
    names = [str(k) for k in range(3)]
    task = Classification(paddle.nn.CrossEntropyLoss(), names)
    result = Evaluation(np.eye(3, dtype=np.float32), np.arange(3), np.arange(3), 0.5, 0)
    gc.collect()
    gc.disable()
    try:
        assert task.draw_result(result)["confusion"].shape[2] == 3
        assert not any(isinstance(thing, Figure) for thing in gc.get_objects())
    finally:
        gc.enable()


def test_an_evaluation_weights_a_small_last_batch_by_its_clips():
    model, task, *_ = parts()
    predictor = Predictor(model, "eager")
    results = [evaluate(predictor, Loader(Clips(7), size), task) for size in (1, 4, 7)]
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-5)
    assert results[1].loss == pytest.approx(results[2].loss, rel=1e-5)
    assert results[0].top_k(1) == results[2].top_k(1)


def test_a_damaged_newest_checkpoint_is_skipped_with_a_word(tmp_path, capsys):
    fit(*parts(), train_loader(), None, settings(tmp_path, epochs=2))
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    progress = fit(*parts(), train_loader(), None, settings(tmp_path), resume=True)
    assert progress.step == 18
    assert f"skipped a checkpoint: {newest}" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not paddle.is_compiled_with_cuda(), reason="this Paddle is built for CPU")
def test_mixed_precision_trains_on_a_gpu(tmp_path):
    paddle.set_device("gpu")
    progress = fit(
        *parts(epochs=6), train_loader(), Loader(Clips(9), 4),
        settings(tmp_path, epochs=6, amp=True),
    )  # fmt: skip
    assert progress.best[0] > 0.6


def test_no_readable_training_clip_is_an_error_even_where_all_may_be_bad(tmp_path):
    loader = Loader(Clips(6, broken=range(6)), 4, max_bad_samples=1.0)
    with pytest.raises(ValueError, match="none of the training clips could be read"):
        fit(*parts(), loader, None, settings(tmp_path))
    assert len((tmp_path / "bad_samples.txt").read_text().splitlines()) == 6


def test_a_resume_after_early_stopping_stops_again_at_once(tmp_path):
    still = Schedule(0.0, 50)
    ended = []
    for resume in (False, True):
        model, task, optimizer, _ = parts()
        progress = fit(
            model, task, optimizer, still, train_loader(), Loader(Clips(9), 4),
            settings(tmp_path, epochs=50, early_stop=3), resume=resume,
        )  # fmt: skip
        ended.append(progress.epoch)
    assert ended == [4, 4]


# --- mixing ---------------------------------------------------------------------------------------


def loss_by_hand(logits, labels):
    """Mean cross-entropy."""
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("mix", [Mix(mixup=0.8), Mix(cutmix=1.0)])
def test_the_loss_of_mixed_clips_is_that_of_both_labels_in_their_shares(mix):
    model, task, optimizer, _ = parts(dropout=0.0, mix=mix)
    batch = batch_of(range(6))
    mixed = mix(batch.clips, batch.labels, np.random.default_rng(4))
    assert 0.05 < mixed.share < 0.95 and (mixed.partners != mixed.labels).any()
    logits = model(paddle.to_tensor(mixed.clips)).numpy().astype(np.float64)
    own, partner = (loss_by_hand(logits, labels) for labels in (mixed.labels, mixed.partners))
    hits = int((logits.argmax(axis=1) == batch.labels).sum())
    result = train_step(model, task, optimizer, no_amp(), [batch], rng=np.random.default_rng(4))
    expected = mixed.share * own + (1 - mixed.share) * partner
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert abs(result.loss - own) > 1e-3
    assert (result.sums, result.num_clips) == ({"top1": hits, "top5": 6}, 6)


def test_the_gradient_of_mixed_clips_is_that_of_both_labels_in_their_shares():
    batch, mix = batch_of(range(6)), Mix(mixup=0.8)
    mixed = mix(batch.clips, batch.labels, np.random.default_rng(4))
    model, task, optimizer, _ = parts(dropout=0.0, mix=mix)
    before = weights_of(model)
    gradients = []
    for labels in (mixed.labels, mixed.partners):
        task.loss_fn(model(paddle.to_tensor(mixed.clips)), paddle.to_tensor(labels)).backward()
        gradients.append(model.out.weight.grad.numpy().copy())
        optimizer.clear_grad()
    optimizer.set_lr(0.5)
    train_step(model, task, optimizer, no_amp(), [batch], rng=np.random.default_rng(4))
    gradient = mixed.share * gradients[0] + (1 - mixed.share) * gradients[1]
    np.testing.assert_allclose(
        weights_of(model)["out.weight"], before["out.weight"] - 0.5 * gradient, rtol=1e-4, atol=1e-6
    )


def test_each_of_several_batches_is_mixed_by_draws_of_its_own():
    seen = []

    class Watching(Tiny):
        def forward(self, clip):
            seen.append(clip.numpy())
            return super().forward(clip)

    batch, mix = batch_of(range(4)), Mix(mixup=0.8)
    model, task, optimizer, _ = parts(network=Watching, mix=mix)
    train_step(model, task, optimizer, no_amp(), [batch, batch], rng=np.random.default_rng(4))
    rng = np.random.default_rng(4)
    expected = [mix(batch.clips, batch.labels, rng).clips for _ in range(2)]
    np.testing.assert_array_equal(seen, expected)
    assert (seen[0] != seen[1]).any()


class Counting(nn.Layer):
    """A running sum over the frames of (N, T, 3), through a linear layer."""

    classifier = "fc"

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def frame_logits(self, clips):
        return self.fc(clips.cumsum(axis=1))


def test_with_frame_labels_every_frame_that_is_seen_has_its_clips_label():
    paddle.seed(0)
    model = Counting()
    rng = np.random.default_rng(0)
    clips, labels = rng.normal(size=(4, 5, 3)).astype(np.float32), np.array([0, 1, 2, 1])
    clips[2, 3:] = 0
    logits = model.frame_logits(paddle.to_tensor(clips)).numpy().astype(np.float64)
    lengths = [5, 5, 3, 5]
    own = [loss_by_hand(logits[n, :t], [labels[n]] * t) for n, t in enumerate(lengths)]
    optimizer = create_optimizer("momentum", group_parameters(model))
    batch = Batch(clips, labels, np.arange(4))
    task = classification(CrossEntropy(), frame_labels=True)
    result = train_step(model, task, optimizer, no_amp(), [batch])
    assert result.loss == pytest.approx(np.mean(own), rel=1e-5)
    assert result.sums["top1"] == (logits[:, -1].argmax(axis=1) == labels).sum()


def test_without_mixing_a_step_is_the_plain_one():
    ended = []
    for mix, arguments in (({}, {}), ({"mix": Mix()}, {"rng": np.random.default_rng(0)})):
        model, _, optimizer, _ = parts(dropout=0.0)
        task = classification(**mix)
        optimizer.set_lr(0.1)
        result = train_step(model, task, optimizer, no_amp(), [batch_of(range(6))], **arguments)
        ended.append((weights_of(model), result))
    model, task, optimizer, _ = parts(dropout=0.0)
    batch = batch_of(range(6))
    loss = task.loss_fn(model(paddle.to_tensor(batch.clips)), paddle.to_tensor(batch.labels))
    loss.backward()
    optimizer.set_lr(0.1)
    optimizer.step()
    for weights, result in ended:
        assert_same(weights, weights_of(model))
        assert result.loss == loss.item()


def test_a_run_mixes_its_training_clips_and_not_those_of_validation(tmp_path):
    seen = {True: [], False: []}

    class Watching(Tiny):
        def forward(self, clip):
            seen[self.training].extend(clip.numpy())
            return super().forward(clip)

    fit(
        *parts(network=Watching, epochs=1, mix=Mix(mixup=0.8)), train_loader(12),
        Loader(Clips(9), 4), settings(tmp_path, epochs=1),
    )  # fmt: skip
    whole = [
        clip for epoch in (0, 1) for i in range(12) for clip in Clips(12).fetch(i, epoch).views
    ]
    known = [clip.tobytes() for clip in whole]
    assert len(seen[True]) == 12 and len(seen[False]) == 9
    assert sum(clip.tobytes() in known for clip in seen[True]) < 6  # some are their own partner
    assert all(clip.tobytes() in known for clip in seen[False])


# --- the average of the weights -------------------------------------------------------------------


def test_the_average_is_what_is_evaluated_and_kept_and_training_goes_on_without_it(
    tmp_path, monkeypatch
):
    steps, evaluated = [], []
    update = WeightAverage.update

    def watch_update(self, step):
        steps.append(weights_of(self.model))
        update(self, step)

    def watch_evaluate(predictor, *rest, **named):
        evaluated.append(weights_of(predictor.network))
        return evaluate(predictor, *rest, **named)

    monkeypatch.setattr(WeightAverage, "update", watch_update)
    monkeypatch.setattr("paddlevid.trainer.evaluate", watch_evaluate)
    model, *rest = parts(network=Normed)
    first = weights_of(model)
    fit(
        model, *rest, train_loader(), Loader(Clips(9), 4),
        settings(tmp_path, ema=0.6, keep_checkpoints=3),
    )  # fmt: skip

    expected, by_step = first, []
    for number, weights in enumerate(steps, start=1):
        decay = min(0.6, (1 + number) / (10 + number))
        expected = {
            name: decay * value.astype(np.float64) + (1 - decay) * weights[name]
            for name, value in expected.items()
        }
        by_step.append(expected)
    assert len(steps) == 18
    for number, weights in zip((6, 12, 18), evaluated, strict=True):
        assert any((weights[name] != steps[number - 1][name]).any() for name in weights)
        for name, value in weights.items():
            np.testing.assert_allclose(value, by_step[number - 1][name], rtol=1e-5, atol=1e-6)
    kept = read_weights(tmp_path / "best.pdparams").arrays
    assert any(all((kept[n] == w).all() for n, w in weights.items()) for weights in evaluated)
    state, _ = load_checkpoint(tmp_path / "checkpoints")
    assert_same(steps[-1], state["model"])
    assert_same(evaluated[-1], state["average"])
    assert_same(steps[-1], weights_of(model))


def test_without_an_average_the_checkpoint_has_none(tmp_path):
    fit(*parts(), train_loader(), None, settings(tmp_path, epochs=1))
    assert load_checkpoint(tmp_path / "checkpoints")[0]["average"] == {}


def test_averaging_does_not_change_the_training(tmp_path):
    ended = []
    for name, ema in (("with", 0.9), ("without", 0.0)):
        model, *rest = parts(network=Normed)
        fit(model, *rest, train_loader(), Loader(Clips(9), 4), settings(tmp_path / name, ema=ema))
        ended.append(weights_of(model))
    assert_same(*ended)


EVERYTHING = {
    "optimizer": "adamw", "network": Normed, "weight_decay": 0.1, "no_decay": ("bias", "norm"),
    "bias_lr": 2.0, "trunk_lr": 0.5, "mix": Mix(mixup=0.4, cutmix=1.0),
}  # fmt: skip
AVERAGED = {"ema": 0.9, "accumulate": 2}


@pytest.mark.parametrize("stop_after", [3, 6, 14])  # batches; a step takes two of them
def test_an_interrupted_run_with_everything_on_ends_as_an_unbroken_one(tmp_path, stop_after):
    unbroken = parts(**EVERYTHING)
    fit(*unbroken, train_loader(), Loader(Clips(9), 4), settings(tmp_path / "one", **AVERAGED))

    broken = _SignalAfter(stop_after)
    with pytest.raises(Interrupted, match=f"step_{-(-stop_after // 2):08d}.ckpt"):
        fit(
            *parts(**EVERYTHING), broken, Loader(Clips(9), 4),
            settings(tmp_path / "two", **AVERAGED),
        )  # fmt: skip
    again = parts(**EVERYTHING)
    for tensor in again[0].state_dict().values():  # they must come from the file
        tensor.set_value(np.zeros(tensor.shape, np.float32))
    progress = fit(
        *again, train_loader(), Loader(Clips(9), 4), settings(tmp_path / "two", **AVERAGED),
        resume=True,
    )  # fmt: skip
    assert progress.step == 9
    states = [load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("one", "two")]
    for part in ("model", "average", "optimizer"):
        assert len(states[0][part]) >= 8
        assert_same(states[0][part], states[1][part])
    assert_same(weights_of(unbroken[0]), weights_of(again[0]))
    kept = [read_weights(tmp_path / name / "best.pdparams").arrays for name in ("one", "two")]
    assert_same(*kept)


def test_a_signal_while_the_average_is_validated_saves_the_own_weights_too(tmp_path):
    class Signalling(Loader):
        def batches(self, epoch=0, first=0):
            os.kill(os.getpid(), signal.SIGTERM)
            yield from super().batches(epoch, first)

    fit(
        *parts(), train_loader(), Loader(Clips(9), 4), settings(tmp_path / "one", epochs=1, ema=0.9)
    )
    with pytest.raises(Interrupted):
        fit(*parts(), train_loader(), Signalling(Clips(9), 4), settings(tmp_path / "two", ema=0.9))
    states = [load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("one", "two")]
    for part in ("model", "average"):
        assert_same(states[0][part], states[1][part])
    assert any((states[1]["model"][n] != v).any() for n, v in states[1]["average"].items())


def test_a_resume_with_an_average_that_does_not_fit_is_refused(tmp_path):
    fit(*parts(), train_loader(), None, settings(tmp_path, epochs=1))
    with pytest.raises(WeightsError, match="does not fit the network: 4 missing"):
        fit(*parts(), train_loader(), None, settings(tmp_path, ema=0.9), resume=True)


# --- frozen layers --------------------------------------------------------------------------------


def test_frozen_layers_stay_as_they_are_and_in_evaluation_mode(tmp_path):
    ended = []
    for frozen in (True, False):
        modes = []

        class Watching(Normed):
            def forward(self, clip, modes=modes):
                names = ("norm", "hidden", "dropout", "out")
                modes.append([self.training, *(getattr(self, n).training for n in names)])
                return super().forward(clip)

        paddle.seed(1)
        model = Watching()
        before = weights_of(model)
        layers = [model.norm, model.hidden] if frozen else []
        for layer in layers:
            for parameter in layer.parameters():
                parameter.stop_gradient = True
        optimizer = create_optimizer("momentum", group_parameters(model, weight_decay=0.1))
        fit(
            model, classification(), optimizer, Schedule(0.05, 2), train_loader(12),
            Loader(Clips(9), 4), settings(tmp_path / f"{frozen}", epochs=2, frozen=layers),
        )  # fmt: skip
        after = weights_of(model)
        ended.append({name for name in after if (after[name] != before[name]).any()})
        in_training = [True, not frozen, not frozen, True, True]
        validated = [[False] * 5] * 3
        assert modes == ([in_training] * 3 + validated) * 2  # of both epochs
    head = {"out.weight", "out.bias"}
    trunk = {"norm.weight", "norm.bias", "norm._mean", "norm._variance", "hidden.weight"}
    assert ended == [head, head | trunk | {"hidden.bias"}]


# --- what VisualDL shows --------------------------------------------------------------------------


def visualdl_tags(folder, split):
    return LogReader(file_path=str(folder / "vdl" / split / "vdlrecords.run.log")).get_tags()


def fit_once(folder, **changes):
    model, task, optimizer, schedule = parts(epochs=1)
    loaders = train_loader(8), Loader(Clips(9, broken={2}), 4, max_bad_samples=0.5)
    fit(model, task, optimizer, schedule, *loaders, settings(folder, epochs=1, **changes))


def test_weights_and_gradients_have_histograms_when_asked_for(tmp_path):
    fit_once(tmp_path / "without")
    assert "histogram" not in visualdl_tags(tmp_path / "without", "train")
    fit_once(tmp_path / "with", histogram_every=2)
    log = LogReader(file_path=str(tmp_path / "with" / "vdl" / "train" / "vdlrecords.run.log"))
    names = [name for name, _ in Tiny().named_parameters()]
    kinds = ("weights", "gradients")
    assert set(log.get_tags()["histogram"]) == {f"{k}/{n}" for k in kinds for n in names}
    (record,) = log.get_data("histogram", "gradients/out.weight")
    assert record.id == 2 and sum(record.histogram.hist) == 16 * NUM_CLASSES
    assert record.histogram.bin_edges[0] < 0 < record.histogram.bin_edges[-1]


def test_histograms_do_not_change_the_training(tmp_path):
    trained = []
    for every in (0, 1):
        fit_once(tmp_path / str(every), histogram_every=every)
        trained.append(read_weights(tmp_path / str(every) / "best.pdparams").arrays)
    assert_same(*trained)


def test_validation_clips_are_shown_with_what_is_said_of_them(tmp_path):
    fit_once(tmp_path)
    tags = visualdl_tags(tmp_path, "val")
    assert {"confusion", "clips/1", "clips/7"} == set(tags["image"]) - {
        f"clips/{number}" for number in range(2, 7)
    }  # 8 of 9 clips are watched, one of them is broken
    assert set(tags["pr_curve"]) == {"all/macro", "all/micro", "class/a", "class/b", "class/c"}
    assert "figures/best_top1" in tags["scalar"]


def test_the_recipe_of_a_run_is_compared_by_its_last_and_best_figures(tmp_path):
    fit_once(tmp_path, recipe={"TRAIN/learning_rate": 0.5})
    log = LogReader(file_path=str(tmp_path / "vdl" / "val" / "vdlrecords.run.log"))
    (record,) = log.get_data("hyper_parameters", "hparam")
    assert [info.name for info in record.hparam.hparamInfos] == ["TRAIN/learning_rate"]
    metrics = [info.name for info in record.hparam.metricInfos]
    assert metrics == ["figures/loss", "figures/top1", "figures/best_top1"]
    assert set(metrics) <= set(log.get_tags()["scalar"])


def test_a_network_is_drawn_and_one_that_cannot_be_is_trained_all_the_same(
    tmp_path, capsys, monkeypatch
):
    fit_once(tmp_path / "drawn", draw_network=True)
    file = tmp_path / "drawn" / "vdl" / "drawn" / "vdlgraph.run.log"  # VisualDL shows the folder
    kinds = {node["type"] for node in json.loads(file.read_text())["nodes"]}
    assert {"Linear", "Dropout"} <= kinds

    def refuse(*_, **options):
        raise ValueError("a line\nan operator is not known (at /paddle/utils.cc:2308)")

    monkeypatch.setattr("paddlevid.dashboard.translate_graph", refuse)
    fit_once(tmp_path / "refused", draw_network=True)
    assert (tmp_path / "refused" / "best.pdparams").exists()
    line = "draw_network: Paddle cannot draw this network (an operator is not known); training it"
    assert line in capsys.readouterr().out


# --- several processes, seen from one -------------------------------------------------------------


@pytest.mark.parametrize(("before", "after", "again"), [(1, 2, 0), (2, 1, 0), (1, 4, 3), (3, 2, 1)])
def test_a_run_that_is_resumed_by_more_or_fewer_processes_sees_the_rest_of_the_clips(
    before, after, again
):
    def seen(num_ranks, numbers):
        loaders = [
            Loader(Clips(40), 2, shuffle=True, seed=1, rank=rank, num_ranks=num_ranks)
            for rank in range(num_ranks)
        ]
        return [
            index
            for loader in loaders
            for batch in loader.batches(0)
            if batch.number in numbers
            for index in batch.indices.tolist()
        ]

    progress = Progress(batch=5 if before == 3 else 7 if after == 4 else 6, ranks=before)
    first = seen(before, range(progress.batch))
    assert _share_among(progress, after, 2) == 2 * again
    rest = seen(after, range(progress.batch, 100))
    assert progress.ranks == after
    assert set(first) | set(rest) == set(range(40))
    assert len(first) + len(rest) == 40 + 2 * again


def test_batches_that_others_lack_are_left_out_where_layers_wait(monkeypatch):
    model, task, optimizer, _ = parts(dropout=0.0)
    batches = [batch_of([0, 1, 2]), batch_of([3, 4])]
    gathered = []

    def gather(thing):
        gathered.append(thing)
        return [thing, 1] if len(gathered) == 1 else [thing]

    monkeypatch.setattr("paddlevid.distributed.gather", gather)
    result = train_step(model, task, optimizer, no_amp(), batches, in_step=True)
    assert gathered[:2] == [2, 3] and result.num_clips == 3
    gathered.clear()
    monkeypatch.setattr("paddlevid.distributed.gather", lambda thing: [thing])
    assert train_step(model, task, optimizer, no_amp(), batches).num_clips == 5

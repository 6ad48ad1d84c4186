"""Frame prediction: losses and figures restated, pictures read back, whole runs."""

import csv
import os
import re
import signal

import cv2
import numpy as np
import paddle
import pytest
from visualdl import LogReader

from paddlevid.checkpoint import load_checkpoint
from paddlevid.data.decode import count_frames, decode
from paddlevid.data.loader import Batch, Loader
from paddlevid.data.moving_mnist import MovingMNIST, sklearn_digits
from paddlevid.losses import FrameError
from paddlevid.models import create_model
from paddlevid.optim import Schedule, create_optimizer, group_parameters
from paddlevid.predictor import Predictor
from paddlevid.tasks import FramePrediction
from paddlevid.trainer import Interrupted, Settings, evaluate, fit, train_step
from paddlevid.weights import read_weights

NUM_PAST, NUM_FUTURE, SIDE = 3, 4, 16


def tiny(**changes):
    paddle.seed(1)
    return create_model("convlstm", hidden=4, num_layers=1, **changes)


def feeding_back():
    return tiny(feedback="frame", transfer_state=True)


def prediction(kind="mse", num_past=NUM_PAST, **changes):
    return FramePrediction(FrameError(kind), num_past, **changes)


def batch_of(clips):
    return Batch(clips, np.full(len(clips), -1), np.arange(len(clips)))


def random_clips(num_clips, num_frames=NUM_PAST + NUM_FUTURE):
    rng = np.random.default_rng(num_clips)
    return rng.random((num_clips, 1, num_frames, SIDE, SIDE), np.float32)


def predict(model, clips):
    with paddle.no_grad():
        return model(paddle.to_tensor(clips[:, :, :NUM_PAST]), NUM_FUTURE).numpy()


# --- the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "error_of"),
    [
        ("mse", lambda error: (error**2).mean()),
        ("l1", lambda error: abs(error).mean()),
        ("l1_mse", lambda error: (error**2).mean() + abs(error).mean()),
    ],
)
def test_the_loss_is_that_of_the_frames_behind_the_past(kind, error_of):
    model, clips = tiny(), random_clips(2)
    loss, outputs = prediction(kind).compute_loss(model, batch_of(clips), None, 0)
    frames = predict(model, clips)
    np.testing.assert_array_equal(outputs.numpy(), frames)
    error = frames.astype(np.float64) - clips[:, :, NUM_PAST:]
    assert loss.item() == pytest.approx(error_of(error), rel=1e-5)


def test_a_step_counts_the_squared_error_a_pixel_of_all_its_clips():
    model, sizes = tiny(), (3, 1)
    errors = [predict(model, random_clips(n)) - random_clips(n)[:, :, NUM_PAST:] for n in sizes]
    each = np.concatenate([(error**2).mean(axis=(1, 2, 3, 4)) for error in errors])
    optimizer = create_optimizer("adamw", group_parameters(model))
    result = train_step(
        model, prediction("l1"), optimizer, paddle.amp.GradScaler(enable=False),
        [batch_of(random_clips(n)) for n in sizes],
    )  # fmt: skip
    assert (result.sums, result.num_clips) == ({"mse": pytest.approx(each.sum(), rel=1e-5)}, 4)


def fed_with(model, clips, keep):
    """What a network with one cell draws when fed with true frames where `keep` (N, n - 1) says."""
    memory = model.encode(paddle.to_tensor(clips[:, :, :NUM_PAST]))
    x, [state], frames = paddle.to_tensor(clips[:, :, NUM_PAST - 1]), memory.cells, []
    for k in range(NUM_FUTURE):
        state = model.decoder[0](x, state)
        frames.append(paddle.nn.functional.sigmoid(model.head(state[0])))
        if k + 1 < NUM_FUTURE:
            chosen = [
                clips[n, :, NUM_PAST + k] if keep[n, k] else frames[-1][n].numpy()
                for n in range(len(clips))
            ]
            x = paddle.to_tensor(np.stack(chosen))
    return paddle.stack(frames, axis=2).numpy()


def test_at_the_first_step_of_scheduled_sampling_the_decoder_sees_true_frames_only():
    model, clips = feeding_back(), random_clips(2)
    task, rng = prediction(scheduled_sampling=10), np.random.default_rng(0)
    loss, frames = task.compute_loss(model, batch_of(clips), rng, 0)
    always = np.ones((2, NUM_FUTURE - 1), bool)
    expected = fed_with(model, clips, always)
    np.testing.assert_allclose(frames.numpy(), expected, rtol=1e-5, atol=1e-6)
    memory = model.encode(paddle.to_tensor(clips[:, :, :NUM_PAST]))
    truth = paddle.to_tensor(clips[:, :, NUM_PAST:])
    again = model.decode(memory, NUM_FUTURE, truth, always)
    np.testing.assert_array_equal(frames.numpy(), again.numpy())
    assert loss.item() == pytest.approx(((expected - clips[:, :, NUM_PAST:]) ** 2).mean(), rel=1e-5)
    assert np.abs(expected - predict(model, clips))[:, :, 1:].max() > 1e-4  # else it shows nothing


def test_amid_scheduled_sampling_each_frame_is_true_or_the_networks_own_as_drawn():
    model, clips = feeding_back(), random_clips(5)
    task = prediction(scheduled_sampling=10)
    _, frames = task.compute_loss(model, batch_of(clips), np.random.default_rng(0), 4)
    keep = np.random.default_rng(0).random((5, NUM_FUTURE - 1)) < 0.6
    assert 0 < keep.sum() < keep.size
    expected = fed_with(model, clips, keep)
    np.testing.assert_allclose(frames.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("scheduled_sampling", "step"), [(10, 10), (10, 11), (0, 0)])
def test_behind_scheduled_sampling_and_without_it_the_decoder_sees_no_true_frame(
    scheduled_sampling, step
):
    model, clips = feeding_back(), random_clips(2)
    task = prediction(scheduled_sampling=scheduled_sampling)
    _, frames = task.compute_loss(model, batch_of(clips), np.random.default_rng(0), step)
    never = np.zeros((2, NUM_FUTURE - 1), bool)
    expected = fed_with(model, clips, never)
    np.testing.assert_allclose(frames.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", [0, 1, 25, 50, 75, 99])
def test_the_share_of_true_frames_falls_linearly(step):
    kept = []

    def watching(past, num_future, *, truth, keep):
        kept.append((truth.numpy(), keep))
        return truth * 0.5

    clips = np.zeros((2000, 1, 5, 1, 1), np.float32)
    clips += np.arange(5, dtype=np.float32).reshape(1, 1, 5, 1, 1)
    task = prediction(scheduled_sampling=100)
    task.compute_loss(watching, batch_of(clips), np.random.default_rng(step), step)
    [(truth, keep)] = kept
    np.testing.assert_array_equal(truth, clips[:, :, 3:])
    assert keep.shape == (2000, 1)
    assert keep.mean() == pytest.approx(1 - step / 100, abs=0.04 if step else 0)


def test_scheduled_sampling_is_for_training_alone():
    model, batch = feeding_back(), batch_of(random_clips(2))
    losses = [
        prediction(scheduled_sampling=number).score(Predictor(model, "eager"), batch)[0]
        for number in (0, 1_000_000)
    ]
    assert losses[0] == losses[1]


# --- evaluation -----------------------------------------------------------------------------------


def concluded(model, clips, cuts=(), num_bad=0, **changes):
    task = prediction("l1_mse", **changes)
    with paddle.no_grad():
        parts = [
            task.score(Predictor(model, "eager"), batch_of(part)) for part in np.split(clips, cuts)
        ]
    return task.conclude(parts, num_bad)


@pytest.mark.parametrize("cuts", [(4,), (1,), (1, 3)])
def test_batches_of_unlike_size_have_the_figures_of_one_batch(cuts):
    model, clips = tiny(), random_clips(5)
    clips *= np.linspace(0.2, 1, 5, dtype=np.float32).reshape(-1, 1, 1, 1, 1)  # unlike clips
    whole, cut = (concluded(model, clips, c, num_bad=2, with_baselines=True) for c in ((), cuts))
    assert list(cut.figures) == ["loss", "mse", "mae", "psnr", "ssim"]
    assert cut.figures == pytest.approx(whole.figures, rel=1e-5)
    assert cut.quality == pytest.approx(whole.quality, rel=1e-5)
    assert cut.counts() == whole.counts() == {"num_clips": 5, "num_bad": 2}
    for ours, other in ((cut.sums, whole.sums), *zip_values(cut.baselines, whole.baselines)):
        for name, values in ours.per_step().items():
            assert values.shape == (NUM_FUTURE,)
            np.testing.assert_allclose(values, other.per_step()[name], rtol=1e-5)


def test_parts_that_were_joined_on_the_way_have_the_same_figures():
    model, clips = tiny(), random_clips(5)
    task = prediction("mse", with_baselines=True)
    with paddle.no_grad():
        parts = [
            task.score(Predictor(model, "eager"), batch_of(clips[i : i + 1])) for i in range(5)
        ]
    joined = task.conclude([task.join(parts[:3]), *parts[3:]], 0)
    assert joined.figures == task.conclude(parts, 0).figures  # bit for bit


def zip_values(one, other):
    assert one.keys() == other.keys() and len(one) == 2
    return [(one[name], other[name]) for name in one]


def test_the_figures_are_means_over_clips_and_steps():
    model, clips = tiny(), random_clips(3)
    error = predict(model, clips).astype(np.float64) - clips[:, :, NUM_PAST:]
    squares = (error**2).mean(axis=(1, 3, 4))  # (N, n)
    figures = concluded(model, clips, (1,)).figures
    assert figures["loss"] == pytest.approx((error**2).mean() + abs(error).mean(), rel=1e-5)
    assert figures["mse"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert figures["mae"] == pytest.approx(abs(error).mean(), rel=1e-5)
    assert figures["psnr"] == pytest.approx((-10 * np.log10(squares)).mean(), rel=1e-5)


def test_of_two_networks_the_one_with_the_lower_squared_error_is_better():
    model, clips = tiny(), random_clips(3)
    grey = np.full_like(clips, 0.5)
    near, far = concluded(model, grey), concluded(model, clips)
    assert near.figures["mse"] < far.figures["mse"]
    assert near.quality > far.quality


@pytest.mark.parametrize(
    ("num_past", "with_baselines", "names"),
    [
        (3, True, ["last frame", "linear motion"]),
        (2, True, ["last frame", "linear motion"]),
        (1, True, ["last frame"]),
        (3, False, []),
    ],
)
def test_the_baselines_are_those_that_the_past_suffices_for(num_past, with_baselines, names):
    clips = random_clips(2, num_past + 2)
    found = concluded(tiny(), clips, num_past=num_past, with_baselines=with_baselines)
    assert list(found.baselines) == names
    if names:
        error = clips[:, :, num_past - 1 : num_past].astype(np.float64) - clips[:, :, num_past:]
        expected = (error**2).sum(axis=(1, 3, 4)).mean(axis=0)
        mse = found.baselines["last frame"].per_step()["mse"]
        np.testing.assert_allclose(mse, expected, rtol=1e-6)


def test_linear_motion_beats_the_last_frame_where_something_glides():
    y, x = np.mgrid[:32, :32]
    frames = [np.exp(-((x - 8 - 2 * t) ** 2 + (y - 16) ** 2) / 30) for t in range(6)]
    clips = np.stack(frames).astype(np.float32)[None, None]
    found = concluded(tiny(), clips, with_baselines=True)
    errors = {name: sums.summary()["mse"] for name, sums in found.baselines.items()}
    assert errors["linear motion"] < 0.5 * errors["last frame"]


# --- pictures -------------------------------------------------------------------------------------


def assert_picture(picture, height, width):
    assert (picture.dtype, picture.shape) == (np.dtype(np.uint8), (height, width, 3))


FACTOR = 6  # times that 16 pixels fit into 100
STRIP = 2 * SIDE * FACTOR, (NUM_PAST + NUM_FUTURE) * SIDE * FACTOR


def test_a_step_is_drawn_as_a_strip_and_as_a_film(tmp_path):
    model, clips, folder = tiny(), random_clips(2), tmp_path / "not yet" / "pictures"
    pictures = prediction().draw_step(model, batch_of(clips), folder, 120)
    assert list(pictures) == ["prediction"]
    strip = pictures["prediction"]
    assert_picture(strip, *STRIP)
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["step000120.mp4", "step000120.png"]
    written = cv2.imread(str(folder / "step000120.png"))
    np.testing.assert_array_equal(written[..., ::-1], strip)
    path = folder / "step000120.mp4"
    assert count_frames(path) == NUM_PAST + NUM_FUTURE
    film = decode(path, np.arange(NUM_PAST + NUM_FUTURE))
    assert film.shape == (NUM_PAST + NUM_FUTURE, SIDE * FACTOR, 2 * SIDE * FACTOR, 3)
    for t, frame in enumerate(film):
        true, drawn = np.split(frame[::FACTOR, ::FACTOR].mean(axis=2), 2, axis=1)
        future = predict(model, clips)[0, 0, t - NUM_PAST] if t >= NUM_PAST else clips[0, 0, t]
        assert abs(true - 255 * clips[0, 0, t]).mean() < 12  # of a lossy film
        assert abs(drawn - 255 * future).mean() < 12


def test_a_strip_has_past_and_truth_above_the_prediction(tmp_path):
    model, clips = tiny(), random_clips(2)
    strip = prediction().draw_step(model, batch_of(clips), tmp_path, 1)["prediction"]
    above, below = np.split(strip[FACTOR // 2 :: FACTOR, FACTOR // 2 :: FACTOR], 2)
    expected = np.concatenate(list(clips[0, 0]), axis=1)
    np.testing.assert_allclose(above, np.dstack([255 * expected] * 3), atol=1.01)
    expected = np.concatenate(list(predict(model, clips)[0, 0]), axis=1)
    future = below[:, NUM_PAST * SIDE :]
    np.testing.assert_allclose(future, np.dstack([255 * expected] * 3), atol=1.01)
    assert len(np.unique(below[:, : NUM_PAST * SIDE])) == 1


@pytest.mark.parametrize(("asked", "drawn"), [(1, 1), (2, 2), (4, 3)])
def test_strips_of_several_clips_are_one_below_the_other(tmp_path, asked, drawn):
    model, clips, task = tiny(), random_clips(3), prediction()
    strips = task.draw_strips(Predictor(model, "eager"), batch_of(clips), asked)
    assert_picture(strips, drawn * STRIP[0], STRIP[1])
    for i, strip in enumerate(np.split(strips, drawn)):
        alone = task.draw_step(model, batch_of(clips[i : i + 1]), tmp_path, 1)["prediction"]
        np.testing.assert_allclose(strip.astype(int), alone, atol=1)  # sums of another order


@pytest.mark.parametrize(("num_clips", "rows"), [(2, 2), (8, 8), (11, 8)])
def test_of_a_batch_the_first_eight_clips_are_drawn(num_clips, rows):
    clips = random_clips(num_clips)
    pictures = prediction().draw_batch(batch_of(clips))
    assert list(pictures) == ["input"]
    assert_picture(pictures["input"], rows * SIDE, (NUM_PAST + NUM_FUTURE) * SIDE)
    expected = np.concatenate([np.concatenate(list(clip[0]), axis=1) for clip in clips[:rows]])
    np.testing.assert_allclose(pictures["input"], np.dstack([255 * expected] * 3), atol=1.01)


def test_a_result_is_drawn_as_curves_over_the_steps():
    pictures = [
        prediction().draw_result(concluded(tiny(), random_clips(number)))["steps"]
        for number in (2, 3)
    ]
    for picture in pictures:
        assert_picture(picture, *pictures[0].shape[:2])
        assert min(picture.shape[:2]) > 200
    assert (pictures[0] != pictures[1]).any()


# --- whole runs -----------------------------------------------------------------------------------


def digits(num_clips, train):
    return MovingMNIST(
        sklearn_digits(train), num_clips, NUM_PAST + 3, size=SIDE, digit_size=8, train=train
    )


class Interrupting(Loader):
    """Batches of training; SIGINT comes while batch number `count` of the run is in work."""

    def __init__(self, count=0):
        super().__init__(digits(24, train=True), 4, shuffle=True, seed=5)
        self.left = count

    def batches(self, epoch=0, first=0):
        for batch in super().batches(epoch, first):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


class Noting(FramePrediction):
    """Notes the steps that it is asked for."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.steps = []

    def compute_loss(self, model, batch, rng=None, step=0):
        self.steps.append(step)
        return super().compute_loss(model, batch, rng, step)


def run(folder, count=0, resume=False, epochs=3, scheduled_sampling=0, **changes):
    """A run: -> the network, the task and where it ended."""
    folder.mkdir(exist_ok=True)
    model = feeding_back() if scheduled_sampling else tiny(transfer_state=True)
    if resume:
        for tensor in model.state_dict().values():  # they must come from the file
            tensor.set_value(np.zeros(tensor.shape, np.float32))
    optimizer = create_optimizer("adamw", group_parameters(model))
    task = Noting(FrameError(), NUM_PAST, scheduled_sampling=scheduled_sampling)
    progress = fit(
        model, task, optimizer, Schedule(0.02, epochs), Interrupting(count),
        Loader(digits(6, train=False), 4), Settings(folder, epochs, **changes), resume,
    )  # fmt: skip
    return model, task, progress


def rows(folder):
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys() and first
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def test_a_run_learns_to_predict_and_leaves_figures_weights_and_pictures(tmp_path, capsys):
    model, task, progress = run(tmp_path, picture_every=7)
    assert task.steps == list(range(18)) and progress.step == 18

    table = rows(tmp_path)
    own = ["learning_rate", "clips_per_second", "data_wait"]
    names = ["loss", "mse", "mae", "psnr", "ssim"]
    assert list(table[0]) == ["step", "epoch", "split", *names, *own]
    train = [row for row in table if row["split"] == "train" and row["loss"]]
    assert [int(row["step"]) for row in train] == list(range(1, 19))
    for row in train:
        assert float(row["mse"]) == pytest.approx(float(row["loss"]), rel=1e-4) and not row["ssim"]
    val = [row for row in table if row["split"] == "val"]
    assert [int(row["step"]) for row in val] == [6, 12, 18]
    assert all(row[name] for row in val for name in names)

    held_out = Loader(digits(6, train=False), 4)
    untrained = Predictor(tiny(transfer_state=True), "eager")
    before, after = evaluate(untrained, held_out, task), progress.best
    assert -after[0] < 0.5 * before.figures["mse"] and -after[1] < 0.5 * before.loss
    errors = [float(row["mse"]) for row in val]
    assert progress.best_epoch == 1 + int(np.argmin(errors))
    assert -after[0] == pytest.approx(min(errors), rel=1e-5)
    model.set_state_dict(read_weights(tmp_path / "best.safetensors").arrays)
    assert evaluate(Predictor(model, "eager"), held_out, task).quality == pytest.approx(
        after, rel=1e-5
    )

    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == [
        f"step0000{step}.{kind}" for step in ("07", "14") for kind in ("mp4", "png")
    ]
    assert shown(tmp_path, "train") == {"input": [0], "prediction": [7, 14]}
    better = [
        6 * i + 6 for i, error in enumerate(errors) if error < min(errors[:i], default=np.inf)
    ]
    assert shown(tmp_path, "val") == {"steps": better}
    said = re.findall(r"val .* MSE ([0-9.]+) a frame .* of 6 clips", capsys.readouterr().out)
    np.testing.assert_allclose(np.float64(said), SIDE**2 * np.float64(errors), atol=0.006)


def shown(folder, split):
    """Steps of the pictures that VisualDL shows, by their name."""
    [log] = (folder / "vdl" / split).glob("vdlrecords*")
    reader = LogReader(file_path=str(log))
    tags = reader.get_tags()["image"]
    return {tag: [record.id for record in reader.get_data("image", tag)] for tag in tags}


def test_without_asking_a_run_draws_no_steps_and_drawing_changes_no_weights(tmp_path):
    plain, _, _ = run(tmp_path / "plain", epochs=1)
    drawn, _, _ = run(tmp_path / "drawn", epochs=1, picture_every=2)
    assert not (tmp_path / "plain" / "pictures").exists()
    assert len(list((tmp_path / "drawn" / "pictures").iterdir())) == 6
    assert_same(weights_of(plain), weights_of(drawn))


SAMPLED = {"scheduled_sampling": 14, "picture_every": 6}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, *run(folder, **SAMPLED)


@pytest.mark.parametrize(  # batches, six an epoch
    "stop_after", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (6, 13))]
)
def test_an_interrupted_run_ends_with_the_weights_of_an_unbroken_one(
    tmp_path, unbroken, stop_after
):
    folder, model, task, progress = unbroken
    with pytest.raises(Interrupted, match=f"step_{stop_after:08d}.ckpt"):
        run(tmp_path, stop_after, **SAMPLED)
    again, rest, resumed = run(tmp_path, resume=True, **SAMPLED)
    assert rest.steps == task.steps[stop_after:] == list(range(stop_after, 18))
    assert_same(weights_of(model), weights_of(again))
    assert (resumed.best, resumed.best_epoch) == (progress.best, progress.best_epoch)
    folders = folder, tmp_path
    states = [load_checkpoint(folder / "checkpoints")[0] for folder in folders]
    assert_same(states[0]["optimizer"], states[1]["optimizer"])
    kept = [read_weights(folder / "best.safetensors").arrays for folder in folders]
    assert_same(*kept)
    figures = [[row for row in rows(folder) if not row["clips_per_second"]] for folder in folders]
    assert figures[0] == figures[1] and len(figures[0]) == 21
    assert shown(folders[0], "train") == shown(folders[1], "train")

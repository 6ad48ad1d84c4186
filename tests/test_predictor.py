import threading
import time

import numpy as np
import paddle
import pytest
from paddle import nn
from test_models import TINY, disturb, tiny

from paddlevid import build
from paddlevid.config import load_config
from paddlevid.data.dataset import Sample
from paddlevid.models import create_model
from paddlevid.predictor import (
    MOST_PROGRAMS,
    Prediction,
    Predictor,
    find_clips,
    predict,
    read_ahead,
    speed_up_frozen_part,
)
from paddlevid.weights import WeightsError, load_weights


def names(inputs):
    samples, unusable = find_clips(inputs)
    return [sample.path.name for sample in samples], [result.problem for result in unusable]


def test_a_folder_stands_for_the_videos_below_it_whatever_lies_beside_them(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.avi", "deep/b.MP4", "deep/er/c.pkl", "thumb.jpg", "deep/.d.avi", "notes.txt"):
        (tmp_path / name).touch()
    assert names([tmp_path]) == (["a.avi", "b.MP4", "c.pkl"], [])


def test_a_folder_without_videos_stands_for_the_folders_of_frames_below_it(tmp_path):
    for name in ("walk/one", "walk/two", "run/three"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").touch()
    assert names([tmp_path]) == (["three", "one", "two"], [])
    assert names([tmp_path / "walk" / "one"]) == (["one"], [])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing", "missing: does not exist"),
        ("empty", "empty: no video, .pkl, .npy or image files in this folder"),
        ("clip.xyz", r"clip.xyz: is neither a video (.avi"),
    ],
)
def test_an_input_that_stands_for_nothing_says_so_beside_the_others(tmp_path, name, problem):
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip.xyz").write_bytes(b"\xff\x00\xfe")
    found, (said,) = names([tmp_path / "good.avi", tmp_path / name, tmp_path / "fine.pkl"])
    assert found == ["good.avi", "fine.pkl"]
    assert problem in said


def test_what_lies_in_hidden_folders_is_passed_over(tmp_path):
    for name in ("a.avi", ".Trash-1000/files/b.avi", "deep/.cache/c.avi"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    assert names([tmp_path / "in"]) == (["a.avi"], [])


def test_folders_of_frames_are_clips_whatever_they_are_called(tmp_path):
    for name in ("walk.avi", "walk.mp4", "sit", "run.pkl"):
        (tmp_path / "frames" / name).mkdir(parents=True)
        (tmp_path / "frames" / name / "00001.jpg").write_bytes(b"")
    found, said = names([tmp_path / "frames"])
    assert (sorted(found), said) == (["run.pkl", "sit", "walk.avi", "walk.mp4"], [])


def test_predictions_come_in_order_with_the_unreadable_ones_in_their_place(
    small_config, small_data
):
    config = load_config(small_config)
    model, _ = build.build_model(config)
    order = ["gone.avi", "clip 13.pkl", "lost.pkl", "missing.avi", "clip 16.pkl", "no.avi"]
    samples = [Sample(small_data / name) for name in order]
    with build.build_reader(config, config.infer, samples, labelled=False) as loader:
        results = list(predict(Predictor(model, "eager"), loader))
    assert [result.path.name for result in results] == order
    assert [bool(result.problem) for result in results] == [True, False, True, True, False, True]
    assert [results[1].label, results[4].label] == [0, 1]
    assert results[1].probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_the_most_probable_classes_come_first():
    prediction = Prediction(None, np.float32([0.1, 0.5, 0.2, 0.2]))
    assert prediction.top_k(3) == [1, 2, 3]


# --- engines --------------------------------------------------------------------------------------

MOST = [pytest.param(c, marks=[pytest.mark.slow] * (c == "eco full")) for c in TINY]
WRONG_IN_PADDLE_2 = ("eco lite", "eco full", "movinet, causal", "movinet, causal and whole kernels")


@pytest.mark.parametrize("case", MOST)
def test_both_engines_say_the_same_for_any_number_of_clips(case):
    paddle.seed(0)
    network = disturb(tiny(case, 4))
    clips = np.random.default_rng(0).random((3, 3, 5, 33, 32), np.float32)
    expected = Predictor(network, "eager")(clips)[0]
    program = Predictor(network, "program")
    if case in WRONG_IN_PADDLE_2 and paddle.__version__.startswith("2."):
        with pytest.raises(ValueError, match="for 1 clips it is off by .* use the engine 'eager'"):
            program(clips)
        return
    for number in (3, 1, 2):
        np.testing.assert_allclose(program(clips[:number])[0], expected[:number], atol=1e-4)


def test_arguments_and_other_methods_become_programs_of_their_own():
    network = create_model("lrcn_r18", num_classes=3, width=8, grid=1, reduced=8, hidden=8)
    clips = np.random.default_rng(0).random((2, 3, 4, 32, 32), np.float32)
    program, eager = Predictor(network, "program"), Predictor(network, "eager")
    for method in ("forward", "frame_logits"):
        [got], [right] = program(clips, method=method), eager(clips, method=method)
        np.testing.assert_allclose(got, right, atol=1e-5)
    network = create_model("convlstm", hidden=4)
    past = np.random.default_rng(0).random((2, 1, 3, 16, 16), np.float32)
    program, eager = Predictor(network, "program"), Predictor(network, "eager")
    for num_future in (2, 3):
        [got], [right] = (run(past, num_future=num_future) for run in (program, eager))
        assert got.shape == (2, 1, num_future, 16, 16)
        np.testing.assert_allclose(got, right, atol=1e-5)


def test_eco_in_two_parts_is_the_whole():
    paddle.seed(0)
    for name, count in (("eco_full", 2), ("eco_lite", 1)):
        network = create_model(name, num_classes=3, width=8)
        frames = np.random.default_rng(0).random((4, 3, 64, 64), np.float32)
        program = Predictor(network, "program")
        features = program(frames, method="frame_features")
        assert len(features) == count
        [got] = program(*(part[None] for part in features), method="fuse")
        [right] = Predictor(network, "eager")(frames.transpose(1, 0, 2, 3)[None])
        np.testing.assert_allclose(got, right, atol=1e-4)


class Twice(nn.Layer):
    """Twice its input; how often it was asked in Python."""

    asked = 0

    def __init__(self):
        super().__init__()
        self.two = self.create_parameter([1], default_initializer=nn.initializer.Constant(2.0))

    def forward(self, x):
        Twice.asked += 1
        return self.two * x


class Moody(Twice):
    """Says another thing in a program."""

    def forward(self, x):
        return self.two * x if paddle.in_dynamic_mode() else x - self.two


class Unwilling(nn.Layer):
    """Cannot be exported."""

    def forward(self, x):
        return paddle.to_tensor(np.sort(x.numpy()))


NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_auto_makes_programs_on_a_cpu_but_not_of_every_shape():
    predictor = Predictor(Twice(), "auto")
    for size in range(1, MOST_PROGRAMS + 3):
        np.testing.assert_allclose(predictor(np.ones((2, size), np.float32))[0], 2)
    Twice.asked = 0
    predictor(np.ones((5, 1), np.float32))
    assert Twice.asked == 0  # the program is there
    predictor(np.ones((5, MOST_PROGRAMS + 1), np.float32))
    assert Twice.asked == 1  # there are programs enough


@pytest.mark.parametrize("network", [Moody, Unwilling])
def test_a_network_that_is_no_good_as_a_program_is_predicted_eagerly(network):
    expected = 2 * NUMBERS if network is Moody else np.sort(NUMBERS)
    with pytest.warns(UserWarning, match=f"{network.__name__} does not work as a program, so it"):
        predictor = Predictor(network(), "auto", "of a test")
        np.testing.assert_allclose(predictor(NUMBERS)[0], expected)
    with pytest.raises(ValueError, match="does not work as a program: .*use the engine 'eager'"):
        Predictor(network(), "program", "of a test")(NUMBERS)  # the wrong one was not kept


def test_a_gpu_is_asked_for_programs_only_where_they_were_wanted(monkeypatch):
    options = []

    def fake_make(call, shapes, identity, check, **more):
        options.append(more)
        return lambda *arrays: [2 * array for array in arrays]

    monkeypatch.setattr("paddlevid.predictor.make_program", fake_make)
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:1")
    Predictor(Twice(), "auto")(NUMBERS)
    assert options == []
    Predictor(Twice(), "program")(NUMBERS)
    Predictor(Twice(), "auto", half=True)(NUMBERS)
    Predictor(Twice(), "program", tensorrt=True)(NUMBERS)
    assert [(o["device"], o["half"], o["tensorrt"]) for o in options] == [
        ("gpu:1", False, False), ("gpu:1", True, False), ("gpu:1", False, True),
    ]  # fmt: skip


@pytest.mark.parametrize("case", MOST)
def test_a_program_that_was_kept_needs_no_weights(case):
    if case in WRONG_IN_PADDLE_2 and paddle.__version__.startswith("2."):
        pytest.skip("it is no good as a program there")
    trained = disturb(tiny(case, 4))
    clips = np.random.default_rng(0).random((2, 3, 5, 33, 32), np.float32)
    [expected] = Predictor(trained, "eager")(clips)
    loaded = []
    for times in (1, 1):
        with paddle.LazyGuard():
            network = tiny(case, 4)

        def load(network=network):
            arrays = {name: tensor.numpy() for name, tensor in trained.state_dict().items()}
            load_weights(network, arrays, "a test")
            loaded.append(network)

        [got] = Predictor(network, "program", f"{case}, kept", load)(clips)
        np.testing.assert_allclose(got, expected, atol=1e-4)
        assert len(loaded) == times  # once, for the first of the two
    other = Predictor(network, "eager", "", load)
    np.testing.assert_allclose(other(clips)[0], expected, atol=1e-5)


def test_weights_that_do_not_fit_are_told_and_not_taken_for_a_bad_program():
    def load():
        raise WeightsError("best.pdparams: other weights")

    for engine in ("auto", "program", "eager"):
        with pytest.raises(WeightsError, match="other weights"):
            Predictor(Twice(), engine, load=load)(NUMBERS)


def test_a_network_around_another_has_its_engine_weights_and_an_identity_of_both():
    loaded = []
    inner = Predictor(Twice(), "eager", "inner", lambda: loaded.append(0))
    both = inner.of(nn.Sequential(inner.network, Twice()), "outer")
    for _ in range(2):
        np.testing.assert_allclose(both(NUMBERS)[0], 4 * NUMBERS)
    assert (both.engine, both.identity, loaded) == ("eager", "inner outer", [0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fast"}, "engine 'fast': needs one of auto, eager, program"),
        ({"half": True}, "half precision and TensorRT are for programs on a GPU: .* on cpu leave"),
        ({"engine": "program", "tensorrt": True}, "with the engine 'program' on cpu leave them"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(Twice(), **options)


# --- reading ahead --------------------------------------------------------------------------------


def test_a_frozen_part_becomes_a_program_that_says_the_same():
    model = create_model("lrcn_r18", num_classes=4, **TINY["lrcn, gru"][1] | {"trained_blocks": 2})
    disturb(model)
    model.train()
    speed_up_frozen_part(model)
    frames = paddle.randn([2, 3, 32, 32])
    with paddle.no_grad():
        expected = model.frozen_part()(frames).numpy()
    error = np.abs(model.run_frozen(frames).numpy() - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()
    assert model.run_frozen(frames).stop_gradient
    assert model.training


def test_where_all_is_trained_nothing_becomes_a_program():
    arguments = TINY["lrcn, gru"][1] | {"trained_blocks": 5}
    model = create_model("lrcn_r18", num_classes=4, **arguments)
    speed_up_frozen_part(model)
    assert model.run_frozen is None
    speed_up_frozen_part(nn.Linear(1, 1))  # has no such part


def test_the_next_one_is_read_meanwhile():
    begun = []

    def numbers():
        for number in range(4):
            begun.append(number)
            yield number

    for number in read_ahead(numbers()):
        for _ in range(100):
            if len(begun) > number + 1 or number == 3:
                break
            time.sleep(0.01)
        assert begun == list(range(min(number + 2, 4)))  # the next one, and no more
    assert number == 3


def test_what_reading_raises_comes_to_the_caller_and_no_thread_stays():
    def numbers():
        yield 1
        raise OSError("the drive is gone")

    before = threading.active_count()
    with pytest.raises(OSError, match="the drive is gone"):
        list(read_ahead(numbers()))
    for _ in read_ahead(iter([1, 2, 3])):
        break
    assert threading.active_count() == before

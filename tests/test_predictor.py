import numpy as np
import pytest

from paddlevid import build
from paddlevid.config import load_config
from paddlevid.data.dataset import Sample
from paddlevid.predictor import Prediction, find_clips, predict


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
        ("empty", "empty: no video, .pkl or image files in this folder"),
        ("clip.xyz", r"clip.xyz: is neither a video (.avi"),
    ],
)
def test_an_input_that_stands_for_nothing_says_so_beside_the_others(tmp_path, name, problem):
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip.xyz").write_bytes(b"\xff\x00\xfe")
    found, (said,) = names([tmp_path / "good.avi", tmp_path / name, tmp_path / "fine.pkl"])
    assert found == ["good.avi", "fine.pkl"]
    assert problem in said


def test_predictions_come_in_order_with_the_unreadable_ones_in_their_place(
    small_config, small_data
):
    config = load_config(small_config)
    model, _ = build.build_model(config)
    order = ["gone.avi", "clip 13.pkl", "lost.pkl", "missing.avi", "clip 16.pkl", "no.avi"]
    samples = [Sample(small_data / name) for name in order]
    with build.build_reader(config, config.infer, samples, labelled=False) as loader:
        results = list(predict(model, loader))
    assert [result.path.name for result in results] == order
    assert [bool(result.problem) for result in results] == [True, False, True, True, False, True]
    assert [results[1].label, results[4].label] == [0, 1]
    assert results[1].probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_the_most_probable_classes_come_first():
    prediction = Prediction(None, np.float32([0.1, 0.5, 0.2, 0.2]))
    assert prediction.top_k(3) == [1, 2, 3]

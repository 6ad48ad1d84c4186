"""Scenes: where a video cuts, and frames of each."""

import importlib.util

import numpy as np
import pytest
from conftest import write_video

from paddlevid.data.dataset import Sample, VideoDataset
from paddlevid.data.decode import DecodeError
from paddlevid.data.sample import FrameSampler, SegmentSampler
from paddlevid.data.scenes import check_scenedetect, find_cuts, with_scenes
from paddlevid.data.transform import Compose, Normalize

BRIGHT, DARK, PALE = (220, 20, 20), (10, 60, 10), (200, 210, 250)
CUTS = (20, 50)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """20 frames of red, 30 of dark green, 25 of pale blue, each with some noise."""
    rng = np.random.default_rng(0)
    colours = [BRIGHT] * 20 + [DARK] * 30 + [PALE] * 25
    frames = np.array(colours, np.float64)[:, None, None] + rng.normal(0, 4, (75, 64, 64, 3))
    path = tmp_path_factory.mktemp("scenes") / "film.avi"
    write_video(path, frames.clip(0, 255).astype(np.uint8))
    return path


def test_cuts_are_the_first_frames_of_new_scenes(film):
    assert find_cuts(film) == CUTS


def test_frames_are_spread_over_each_scene(film):
    sampler = with_scenes(FrameSampler("scenes", 3), film)
    assert sampler(75, None).tolist() == [0, 10, 19, 20, 34, 49, 50, 62, 74]
    assert str(sampler) == "scenes:3"  # the same for all videos


def test_a_data_set_reads_frames_of_each_scene(film):
    transform = Compose([], Normalize((0, 0, 0), (1, 1, 1)))
    views, _ = VideoDataset([Sample(film)], FrameSampler("scenes", 1), transform)[0]
    colours = views[0].mean(axis=(2, 3)).T * 255  # (T, 3)
    assert np.abs(colours - [BRIGHT, DARK, PALE]).max() < 30


def test_a_video_without_cuts_is_one_scene(tmp_path):
    write_video(tmp_path / "a.avi", np.full((30, 64, 64, 3), 90, np.uint8))
    assert find_cuts(tmp_path / "a.avi") == ()
    assert FrameSampler("scenes", 3)(30, None).tolist() == [0, 14, 29]


def test_cuts_behind_the_end_and_scenes_shorter_than_their_frames():
    assert FrameSampler("scenes", 2, cuts=(4, 5, 40))(8, None).tolist() == [0, 3, 4, 4, 5, 7]


def test_other_samplers_stay_as_they_are(film):
    for sampler in (SegmentSampler(3), FrameSampler("uniform", 3)):
        assert with_scenes(sampler, film) is sampler


def test_what_is_no_video_has_no_scenes(tmp_path):
    with pytest.raises(DecodeError, match="a.pkl: scenes are found in video files only"):
        find_cuts(tmp_path / "a.pkl")
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(DecodeError, match="a.mp4: cannot be decoded"):
        find_cuts(tmp_path / "a.mp4")
    with pytest.raises(DecodeError, match="b.mp4: does not exist"):
        find_cuts(tmp_path / "b.mp4")


def test_without_scenedetect_it_is_said_what_to_install(monkeypatch):
    check_scenedetect()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install scenedetect"):
        check_scenedetect()

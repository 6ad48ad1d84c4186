"""The bench of reading: all readers give the same clips, and figures come out."""

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import frames_of, write_video

from paddlevid.bench import reading
from paddlevid.data.decode import decode
from paddlevid.data.loader import Loader


@pytest.fixture
def videos(tmp_path):
    clip = frames_of(24, 48, 64)
    return [write_video(tmp_path / f"{i}.avi", clip[i:]) for i in range(2)]


class Decord:
    """Stands for decord's reader, which is not always installed."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 24 - int(self.path[-5])

    def get_batch(self, indices):
        return SimpleNamespace(asnumpy=lambda: decode(self.path, indices))


@pytest.mark.parametrize("with_decord", [False, True])
def test_readers_are_compared(videos, monkeypatch, with_decord):
    decord = SimpleNamespace(VideoReader=Decord)
    monkeypatch.setattr(reading, "find_spec", lambda name: decord if with_decord else None)
    monkeypatch.setitem(sys.modules, "decord", decord)
    found = reading.compare_readers(videos, frames=4, size=28, steps=2)
    others = ["decode_resize", "pyav", *["decord"] * with_decord]
    assert found.keys() == {
        "seconds_per_clip", *(f"{name}_seconds_per_clip" for name in others),
        *(f"of_{name}" for name in others),
    }  # fmt: skip
    for name in others:
        share = found["seconds_per_clip"] / found[f"{name}_seconds_per_clip"]
        assert 0 < found[f"of_{name}"] == pytest.approx(share)


def test_all_readers_give_the_same_clips(videos):
    ours = reading._dataset(videos, 4, 28).fetch(1).views[0]
    pyav = reading._prepare(reading._decode_all(videos[1], 4), 28)
    decord = reading._prepare(
        reading._decord(SimpleNamespace(VideoReader=Decord), videos[1], 4), 28
    )
    assert ours.shape == pyav.shape == (3, 4, 28, 28)
    np.testing.assert_allclose(ours, pyav, atol=1e-5)
    np.testing.assert_allclose(ours, decord, atol=1e-5)


def test_a_video_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "a.avi").write_text("no video")
    dataset = reading._dataset([tmp_path / "a.avi"], 4, 28)
    with pytest.raises(ValueError, match=r"a\.avi: cannot be decoded"):
        reading._views(dataset.fetch(0))


def test_pickled_clips_are_as_large_as_filmed_ones(tmp_path):
    _, _, frames = pickle.loads(reading._write_pickle(tmp_path / "a.pkl", seed=0).read_bytes())
    assert len(frames) == 100
    assert 25_000 < np.mean([len(frame) for frame in frames]) < 40_000
    assert decode(tmp_path / "a.pkl", [99]).shape == (1, 256, 340, 3)


def test_pickled_clips_are_timed():
    assert 0 < reading.pickle_rate(2, 32, steps=2) < 1e5


@pytest.mark.parametrize("workers", [0, 1])
def test_waits_are_a_share_of_the_time(videos, workers):
    share = reading.loader_wait(videos, 2, 3, 28, workers=workers, step_seconds=0.01, steps=3)
    assert 0 < share < 1


def test_a_step_that_is_slower_than_reading_hardly_waits(videos, monkeypatch):
    def batches(self):
        yield from range(4)  # at once

    monkeypatch.setattr(Loader, "batches", batches)
    assert reading.loader_wait(videos, 2, 3, 28, workers=0, step_seconds=0.01, steps=3) < 0.5

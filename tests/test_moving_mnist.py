"""Moving MNIST: digits fly straight, bounce, and are never cut; files are read or refused."""

import gzip
import itertools
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from paddlevid.data.dataset import ListError
from paddlevid.data.moving_mnist import (
    FixedSequences,
    MovingMNIST,
    find_idx,
    read_idx,
    sklearn_digits,
)

SIDES = {"standard": 28, "tutorial": 32}


def squares(*levels: int, side: int = 28) -> np.ndarray:
    """A "digit" for each level, all of whose pixels have it."""
    return np.stack([np.full((side, side), level, np.uint8) for level in levels])


def noise(count: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)


def frames_of(dataset: MovingMNIST, index: int = 0, epoch: int = 0) -> np.ndarray:
    """(T, H, W)"""
    return dataset.fetch(index, epoch).views[0, 0]


def places_of(frames: np.ndarray) -> np.ndarray:
    """Top and left of all that is not black: (T, 2)"""
    return np.array([[frame.any(axis=1).argmax(), frame.any(axis=0).argmax()] for frame in frames])


# --- the sequences --------------------------------------------------------------------------------


@pytest.mark.parametrize("motion", ["standard", "tutorial"])
def test_a_sequence_is_a_clip_of_one_channel_from_black_to_white(motion):
    dataset = MovingMNIST(squares(255), 7, 5, motion=motion, size=48)
    item = dataset.fetch(3)
    assert (item.index, item.label, item.problem) == (3, -1, "")
    assert (item.views.shape, item.views.dtype) == ((1, 1, 5, 48, 48), np.float32)
    assert set(np.unique(item.views)) == {0.0, 1.0}
    assert len(dataset) == len(dataset.samples) == 7


@pytest.mark.parametrize("motion", ["standard", "tutorial"])
def test_seed_epoch_and_index_say_which_sequence(motion):
    def make(seed: int, train: bool = True) -> MovingMNIST:
        return MovingMNIST(noise(), 10, 4, motion=motion, train=train, seed=seed)

    seen = set()
    for seed, epoch, index in itertools.product((0, 1, 2), (0, 1, 5), (0, 1, 9)):
        frames = frames_of(make(seed), index, epoch)
        np.testing.assert_array_equal(frames, frames_of(make(seed), index, epoch))
        seen.add(frames.tobytes())
    assert len(seen) == 27
    fixed = [frames_of(make(seed, False), i, 3).tobytes() for seed in (0, 1) for i in (0, 1, 9)]
    assert len(set(fixed)) == 6


def test_without_training_every_epoch_has_the_same_sequences():
    dataset = MovingMNIST(noise(), 10, 4)
    for epoch in (1, 7):
        np.testing.assert_array_equal(frames_of(dataset, 2, epoch), frames_of(dataset, 2, 0))


@pytest.mark.parametrize("motion", ["standard", "tutorial"])
@pytest.mark.parametrize("digit_size", [0, 1, 20, 64])
def test_a_digit_has_its_size_in_every_frame_and_is_never_cut(motion, digit_size):
    side = digit_size or SIDES[motion]
    dataset = MovingMNIST(noise() | 1, 10, 20, motion=motion, num_digits=1, digit_size=digit_size)
    for index in range(10):
        frames = frames_of(dataset, index)
        assert ((frames > 0).sum(axis=(1, 2)) == side * side).all()
        for frame, (top, left) in zip(frames, places_of(frames), strict=True):
            assert frame[top : top + side, left : left + side].all()


def test_a_digit_looks_the_same_in_every_frame_and_is_one_of_those_given():
    digits = np.random.default_rng(1).integers(1, 256, (3, 28, 28), dtype=np.uint8)
    seen = set()
    for index in range(30):
        frames = frames_of(MovingMNIST(digits, 30, 6, num_digits=1), index)
        views = [
            np.rint(255 * frame[top : top + 28, left : left + 28]).astype(np.uint8)
            for frame, (top, left) in zip(frames, places_of(frames), strict=True)
        ]
        assert all(np.array_equal(view, views[0]) for view in views)
        seen.add(next(i for i, digit in enumerate(digits) if np.array_equal(digit, views[0])))
    assert seen == {0, 1, 2}


def test_a_standard_digit_flies_a_tenth_of_the_room_a_frame_and_bounces():
    room, signs, bounces = 400, set(), set()
    dataset = MovingMNIST(squares(255, side=8), 40, 12, size=room + 8, num_digits=1, digit_size=8)
    for index in range(40):
        places = places_of(frames_of(dataset, index))
        steps = np.diff(places, axis=0)
        free = (places[1:] > 0) & (places[1:] < room)  # steps that no side cuts short
        speeds = []
        for axis in range(2):
            sizes = abs(steps[free[:, axis], axis])
            assert np.ptp(sizes) <= 1  # whole pixels
            speeds.append(sizes.mean())
            if sizes.min() < 2:
                continue  # too slow to see where it turns
            stays = ~free[:, axis]
            assert not (stays[2:] & stays[1:-1] & stays[:-2]).any()
            for t in np.flatnonzero(free[1:, axis]) + 1:
                way = np.sign(steps[t, axis])
                if places[t, axis] in (0, room):
                    assert way == (1 if places[t, axis] == 0 else -1)
                    bounces.add((axis, int(way)))
                else:
                    assert way == np.sign(steps[t - 1, axis])
        assert np.hypot(*speeds) == pytest.approx(0.1 * room, abs=1.5)
        signs.add(tuple(np.sign(steps[0]).tolist()))
    assert signs >= set(itertools.product((-1, 1), (-1, 1)))
    assert bounces == set(itertools.product((0, 1), (-1, 1)))


def walk(place: int, velocity: int, most: int, num_frames: int) -> list[int]:
    way = [place]
    while len(way) < num_frames:
        place += velocity
        if place < 0 or place > most:
            place, velocity = (0 if place < 0 else most), -velocity
        way.append(place)
    return way


def test_a_digit_of_the_tutorial_moves_whole_pixels_and_turns_back_at_the_sides():
    dataset = MovingMNIST(squares(255), 200, 20, motion="tutorial", num_digits=1)
    most = 64 - 32 - 1
    seen, bounces = set(), set()
    for index in range(200):
        for axis, way in enumerate(places_of(frames_of(dataset, index)).T.tolist()):
            fits = [v for v in range(-4, 5) if walk(way[0], v, most, 20) == way]
            assert len(fits) == 1
            seen.add((axis, fits[0]))
            bounces |= {(axis, place) for place in way[1:] if place in (0, most)}
    assert seen == set(itertools.product((0, 1), range(-4, 5)))
    assert bounces == {(0, 0), (0, most), (1, 0), (1, most)}


def test_where_standard_digits_overlap_the_brightest_pixel_counts():
    dataset = MovingMNIST(squares(100, 200), 40, 8)
    overlaps = 0
    for index in range(40):
        frames = frames_of(dataset, index)
        levels = np.rint(frames * 255).astype(int)
        assert set(np.unique(levels)) <= {0, 100, 200}
        if (levels == 200).any() and (levels == 100).any():  # one of each
            assert ((levels == 200).sum(axis=(1, 2)) == 28 * 28).all()  # the darker is below
            overlaps += ((levels == 100).sum(axis=(1, 2)) < 28 * 28).any()
    assert overlaps > 5


def test_where_digits_of_the_tutorial_overlap_their_sum_counts_up_to_white():
    overlaps = 0
    for index in range(20):
        dataset = MovingMNIST(squares(100, side=32), 20, 8, motion="tutorial")
        levels = np.rint(frames_of(dataset, index) * 255).astype(int)
        assert set(np.unique(levels)) <= {0, 100, 200}
        assert (levels.sum(axis=(1, 2)) == 2 * 100 * 32 * 32).all()  # nothing is lost
        overlaps += (levels == 200).any()
    assert overlaps > 5
    dataset = MovingMNIST(squares(100, side=32), 20, 8, motion="tutorial", num_digits=3)
    levels = np.rint(np.stack([frames_of(dataset, i) for i in range(20)]) * 255)
    assert set(np.unique(levels)) == {0, 100, 200, 255}


def test_two_digits_fly_on_their_own():
    dataset = MovingMNIST(squares(100), 20, 8, motion="tutorial", digit_size=4)
    apart = [frames_of(dataset, i) for i in range(20)]
    boxes = [[np.ptp(np.argwhere(frame), axis=0).tolist() for frame in frames] for frames in apart]
    assert sum(box[0] != box[-1] for box in boxes) > 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"motion": "slow"}, "unknown motion 'slow'; there are 'standard' and 'tutorial'"),
        ({"size": 27}, "digit_size = 28 and .* fit frames of size = 27"),
        ({"size": 31, "motion": "tutorial"}, "digit_size = 32 and .* fit frames of size = 31"),
        ({"digit_size": 65}, "digit_size = 65 and .* fit frames of size = 64"),
        ({"digit_size": -1}, "digit_size = -1 .* needs whole numbers from 1"),
        ({"num_digits": 0}, "num_digits = 0: needs whole numbers from 1"),
    ],
)
def test_what_does_not_fit_the_frame_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MovingMNIST(squares(255), 1, 1, **arguments)


def test_no_digits_are_refused_in_words():
    with pytest.raises(ValueError, match="digits"):
        MovingMNIST(np.zeros((0, 28, 28), np.uint8), 1, 1)


# --- the digits -----------------------------------------------------------------------------------


def test_the_digits_of_scikit_learn_are_all_there_each_on_one_side():
    train, held_out = sklearn_digits(True), sklearn_digits(False)
    assert train.dtype == held_out.dtype == np.uint8
    assert (train.shape, held_out.shape) == ((1437, 8, 8), (360, 8, 8))
    images = load_digits().images  # 0..16
    np.testing.assert_allclose(held_out, images[::5] * 15.9375, atol=1)
    np.testing.assert_allclose(train[:8], images[[1, 2, 3, 4, 6, 7, 8, 9]] * 15.9375, atol=1)
    assert train.max() == held_out.max() == 255
    seen = [image.tobytes() for image in np.concatenate([train, held_out])]
    assert sorted(seen) == sorted(np.uint8(image * 15.9375).tobytes() for image in images)
    assert not set(seen[:1437]) & set(seen[1437:])


def idx_of(images: np.ndarray, magic: int = 0x803) -> bytes:
    return struct.pack(">4I", magic, *images.shape) + images.tobytes()


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-images.idx3-ubyte.gz"])
def test_images_of_a_file_of_mnist_are_read(tmp_path, name):
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)
    content = idx_of(images)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    read = read_idx(tmp_path / name)
    np.testing.assert_array_equal(read, images)
    assert read.dtype == np.uint8


WHOLE = idx_of(np.ones((5, 3, 4), np.uint8))
REFUSED = {
    "empty": b"",
    "short": WHOLE[:10],
    "cut": WHOLE[:-1],
    "longer": WHOLE + b"\0",
    "labels": b"\0\0\x08\x01" + WHOLE[4:],
    "text": b"this is a text of some length",
    "plain.gz": WHOLE,
    "empty.gz": b"",
    "cut.gz": gzip.compress(WHOLE)[:-9],
    "cut_inside.gz": gzip.compress(WHOLE[:-1]),
    "broken.gz": gzip.compress(WHOLE)[:12] + b"\xff" * 20,
}


@pytest.mark.parametrize("name", [*REFUSED, "missing", "folder"])
def test_what_is_no_whole_file_of_mnists_images_is_refused_by_its_name(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name in REFUSED:
        path.write_bytes(REFUSED[name])
    with pytest.raises(ListError) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    if name == "missing":
        assert "No such file" in str(caught.value)


@pytest.mark.parametrize("dot", "-.")
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_file_of_a_split_is_found_in_both_spellings(tmp_path, dot, suffix):
    train, test = (tmp_path / f"{stem}-images{dot}idx3-ubyte{suffix}" for stem in ("train", "t10k"))
    train.touch()
    assert find_idx(tmp_path, True) == train
    with pytest.raises(ListError, match=f"has none of t10k-images{dot}idx3|t10k-images.idx3"):
        find_idx(tmp_path, False)
    test.touch()
    assert find_idx(tmp_path, False) == test


def test_a_folder_without_mnist_or_none_is_an_error_that_names_it(tmp_path):
    (tmp_path / "train-labels-idx1-ubyte").touch()
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ListError) as caught:
            find_idx(folder, True)
        assert f"{folder} has none of train-images-idx3-ubyte" in str(caught.value)


# --- the fixed test set ---------------------------------------------------------------------------


def write_sequences(path: Path, num_frames: int = 20, count: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (num_frames, count, 12, 16), dtype=np.uint8)
    np.save(path, frames)
    return frames


@pytest.mark.parametrize("num_frames", [1, 12, 20])
def test_a_fixed_sequence_is_that_of_the_file(tmp_path, num_frames):
    frames = write_sequences(tmp_path / "test.npy")
    dataset = FixedSequences(tmp_path / "test.npy", num_frames)
    assert len(dataset) == len(dataset.samples) == 6
    for index in (0, 5):
        views = dataset.fetch(index, epoch=3).views
        assert (views.shape, views.dtype) == ((1, 1, num_frames, 12, 16), np.float32)
        np.testing.assert_allclose(views[0, 0] * 255, frames[:num_frames, index], rtol=1e-6)


def test_workers_get_fixed_sequences_without_their_frames(tmp_path):
    frames = write_sequences(tmp_path / "test.npy", count=50)
    dataset = FixedSequences(tmp_path / "test.npy", 20)
    dataset.fetch(1)
    sent = pickle.dumps(dataset)
    assert len(sent) < frames.nbytes / 20
    np.testing.assert_array_equal(pickle.loads(sent).fetch(7).views, dataset.fetch(7).views)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("wrapped", [True, False])
def test_code_inside_a_npy_does_not_run(tmp_path, wrapped):
    path, folder = tmp_path / "test.npy", tmp_path / "made"
    if wrapped:
        np.save(path, np.array([Evil(folder)], object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Evil(folder)))
    np.load(path, allow_pickle=True)
    assert folder.exists()  # it is armed
    folder.rmdir()
    with pytest.raises(ListError, match="cannot read the sequences in .*test.npy"):
        FixedSequences(path, 1)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        (np.zeros((19, 3, 12, 12), np.uint8), r"uint8 \(19, 3, 12, 12\)"),
        (np.zeros((20, 3, 12, 12), np.float32), r"float32 \(20, 3, 12, 12\)"),
        (np.zeros((20, 12, 12), np.uint8), r"uint8 \(20, 12, 12\)"),
        (np.uint8(3), r"uint8 \(\)"),
    ],
)
def test_other_arrays_are_refused_with_what_is_needed(tmp_path, frames, found):
    np.save(tmp_path / "test.npy", frames)
    with pytest.raises(ListError, match=rf"test.npy: needs uint8 .* at least 20.*got {found}"):
        FixedSequences(tmp_path / "test.npy", 20)


def zipped(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, frames=np.zeros((20, 3, 12, 12), np.uint8))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        Path.mkdir,
        Path.touch,
        lambda path: path.write_bytes(b"garbage" * 100),
        lambda path: path.write_bytes(b"\x93NUMPY\x01\x00garbage"),
        lambda path: write_sequences(path) is not None and os.truncate(path, 5000),
        zipped,
        lambda path: path.write_bytes(b"PK\x03\x04garbage"),
    ],
    ids=["missing", "folder", "empty", "garbage", "header", "cut", "npz", "bad_zip"],
)
def test_what_is_no_npy_is_refused_by_its_name(tmp_path, make):
    make(tmp_path / "test.npy")
    with pytest.raises(ListError, match="test.npy"):
        FixedSequences(tmp_path / "test.npy", 20)

"""Sampling: tables of numbers, from the papers' code and by hand."""

import numpy as np
import pytest

from paddlevid.data.sample import (
    BookSampler,
    DenseSampler,
    SegmentSampler,
    book_indices,
    dense_indices,
    segment_indices,
)


def rngs(count: int = 200):
    return (np.random.default_rng(seed) for seed in range(count))


@pytest.mark.parametrize(
    ("num_frames", "num_segments", "seglen", "expected"),
    [
        (100, 3, 1, [16, 50, 83]),
        (100, 1, 1, [50]),
        (10, 5, 1, [1, 3, 5, 7, 9]),
        (7, 7, 1, [0, 1, 2, 3, 4, 5, 6]),
        (3, 8, 1, [0, 0, 0, 1, 1, 2, 2, 2]),
        (2, 4, 1, [0, 0, 1, 1]),
        (1, 3, 1, [0, 0, 0]),
        (12, 2, 3, [2, 3, 4, 8, 9, 10]),
        (30, 3, 4, [3, 4, 5, 6, 13, 14, 15, 16, 23, 24, 25, 26]),
        (6, 2, 3, [0, 1, 2, 3, 4, 5]),
        (5, 2, 3, [0, 1, 2, 2, 3, 4]),
        (1, 2, 3, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_evaluation_takes_the_middle_of_each_segment(num_frames, num_segments, seglen, expected):
    indices = segment_indices(num_frames, num_segments, seglen)
    assert indices.tolist() == expected
    assert indices.dtype == np.int64


def test_evaluation_is_paddlevideos_for_all_lengths():
    for num_segments in (1, 3, 7, 8, 25):
        for num_frames in range(num_segments + 1, 400):
            tick = num_frames / num_segments
            theirs = [int(tick / 2 + tick * i) for i in range(num_segments)]
            assert segment_indices(num_frames, num_segments).tolist() == theirs


@pytest.mark.parametrize(
    ("num_frames", "num_segments", "seglen", "expected"),
    [
        (100, 3, 1, [16, 49, 82]),
        (131, 7, 1, [8, 26, 44, 62, 80, 98, 116]),
        (9, 3, 2, [1, 2, 4, 5, 7, 8]),
        (8, 4, 2, [0, 1, 2, 3, 4, 5, 6, 7]),
        (6, 3, 3, [0, 1, 2, 2, 3, 4, 4, 5, 0]),
        (3, 5, 1, [0, 1, 2, 0, 1]),
        (1, 3, 1, [0, 0, 0]),
    ],
)
def test_the_books_evaluation_is_the_books(num_frames, num_segments, seglen, expected):
    indices = book_indices(num_frames, num_segments, seglen)
    assert indices.tolist() == expected
    assert indices.dtype == np.int64


@pytest.mark.parametrize("rule", [segment_indices, book_indices])
@pytest.mark.parametrize(("num_frames", "num_segments", "seglen"), [(100, 3, 1), (64, 8, 4)])
def test_training_draws_every_place_of_each_segment_and_none_outside(
    rule, num_frames, num_segments, seglen
):
    length = num_frames // num_segments
    starts = [set() for _ in range(num_segments)]
    for rng in rngs(400):
        windows = rule(num_frames, num_segments, seglen, rng).reshape(num_segments, seglen)
        assert (np.diff(windows, axis=1) == 1).all()
        for segment, window in enumerate(windows):
            starts[segment].add(int(window[0]) - segment * length)
    assert starts == [set(range(length - seglen + 1))] * num_segments


@pytest.mark.parametrize(
    ("num_frames", "num_segments", "expected"),
    [(3, 8, [0, 0, 1, 1, 2, 2, 2, 2]), (2, 4, [0, 0, 1, 1]), (1, 3, [0, 0, 0])],
)
def test_training_spreads_the_frames_of_a_short_video_evenly(num_frames, num_segments, expected):
    for rng in rngs(5):  # round(i * n / S), as mmaction2; 0.5 and 1.5 go to the even number
        assert segment_indices(num_frames, num_segments, 1, rng).tolist() == expected


def test_training_starts_a_short_video_again_under_the_books_rule():
    assert book_indices(3, 5, 1, np.random.default_rng(0)).tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("rule", [segment_indices, book_indices, dense_indices])
def test_all_frame_numbers_exist_for_all_lengths(rule):
    for num_frames in (1, 2, 3, 5, 7, 8, 9, 31, 64):
        for count, second in [(1, 1), (3, 1), (8, 2), (16, 4), (4, 9)]:
            for rng in [None, *rngs(20)]:
                indices = rule(num_frames, count, second, rng)
                assert 0 <= indices.min() <= indices.max() < num_frames
                assert len(indices) == (count if rule is dense_indices else count * second)


@pytest.mark.parametrize(
    ("num_frames", "clip_len", "interval", "phase", "expected"),
    [
        (100, 4, 1, 0.5, [48, 49, 50, 51]),
        (100, 4, 8, 0.5, [37, 45, 53, 61]),
        (100, 4, 8, 0.0, [0, 8, 16, 24]),
        (100, 4, 8, 1.0, [75, 83, 91, 99]),
        (10, 4, 3, 0.5, [0, 3, 6, 9]),
        (5, 4, 2, 0.5, [0, 2, 4, 4]),
        (1, 3, 2, 0.5, [0, 0, 0]),
    ],
)
def test_a_dense_window_lies_where_its_phase_says(num_frames, clip_len, interval, phase, expected):
    assert dense_indices(num_frames, clip_len, interval, phase=phase).tolist() == expected


def test_a_dense_window_starts_anywhere_in_training():
    starts = {int(dense_indices(12, 4, 2, rng)[0]) for rng in rngs()}
    assert starts == set(range(6))


def test_several_clips_of_a_video_spread_over_it():
    phases = [1 / 6, 3 / 6, 5 / 6]
    firsts = [segment_indices(100, 3, phase=phase)[0] for phase in phases]
    assert firsts == [5, 16, 27]
    for sampler in (SegmentSampler(3, 2), DenseSampler(8, 2)):
        clips = np.array([sampler(100, None, phase) for phase in phases])
        assert (np.diff(clips, axis=0) > 0).all()
    assert DenseSampler(8, 2)(100, None).tolist() == dense_indices(100, 8, 2).tolist()


def test_the_books_rule_has_no_second_clip():
    assert BookSampler(3)(100, None, 0.5).tolist() == [16, 49, 82]
    with pytest.raises(ValueError, match="the book's sampling has no second clip"):
        BookSampler(3)(100, None, 0.25)


def test_the_same_generator_gives_the_same_frames():
    for sampler in (SegmentSampler(5), BookSampler(5), DenseSampler(5, 3)):
        first, second, other = (sampler(90, np.random.default_rng(seed)) for seed in (4, 4, 5))
        assert first.tolist() == second.tolist() != other.tolist()

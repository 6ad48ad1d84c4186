"""Sampling: tables of numbers, from the papers' code and by hand."""

import numpy as np
import pytest

from paddlevid.data.sample import (
    BookSampler,
    DenseSampler,
    FrameSampler,
    LinspaceSampler,
    SegmentSampler,
    SequenceSampler,
    book_indices,
    dense_indices,
    linspace_indices,
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


ONE_WINDOW = (dense_indices, linspace_indices)


@pytest.mark.parametrize("rule", [segment_indices, book_indices, *ONE_WINDOW])
def test_all_frame_numbers_exist_for_all_lengths(rule):
    for num_frames in (1, 2, 3, 5, 7, 8, 9, 31, 64):
        for count, second in [(1, 1), (3, 1), (8, 2), (16, 4), (4, 9)]:
            for rng in [None, *rngs(20)]:
                indices = rule(num_frames, count, second, rng)
                assert 0 <= indices.min() <= indices.max() < num_frames
                assert len(indices) == (count if rule in ONE_WINDOW else count * second)


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


@pytest.mark.parametrize(
    ("num_frames", "fps", "clip_len", "interval", "phase", "expected"),
    [
        (300, 30, 8, 32, 0.0, [0, 36, 72, 109, 145, 182, 218, 255]),  # TimeSformer's tables
        (100, 25, 8, 32, 0.0, [0, 30, 60, 91, 99, 99, 99, 99]),
        (300, 0, 8, 32, 0.0, [0, 36, 72, 109, 145, 182, 218, 255]),
        (40, 30, 4, 5, 0.0, [0, 6, 12, 19]),
        (40, 30, 4, 5, 0.5, [10, 16, 22, 29]),
        (40, 30, 4, 5, 1.0, [20, 26, 32, 39]),
        (40, 60, 4, 5, 1.0, [0, 13, 26, 39]),
        (40, 15, 4, 5, 0.5, [15, 18, 21, 24]),
        (5, 30, 4, 5, 0.5, [0, 4, 4, 4]),
        (1, 30, 3, 2, 0.5, [0, 0, 0]),
        (9, 30, 1, 4, 0.5, [2]),
    ],
)
def test_a_window_of_a_fixed_duration_lies_where_its_phase_says(
    num_frames, fps, clip_len, interval, phase, expected
):
    indices = linspace_indices(num_frames, clip_len, interval, phase=phase, fps=fps)
    assert indices.tolist() == expected
    assert indices.dtype == np.int64
    assert LinspaceSampler(clip_len, interval)(num_frames, None, phase, fps).tolist() == expected


@pytest.mark.parametrize("target_fps", [15.0, 30.0, 50.0])
def test_a_video_whose_rate_is_not_known_is_taken_for_one_of_the_target_rate(target_fps):
    sampler = LinspaceSampler(8, 4, target_fps)
    assert sampler(200, None, 0.5).tolist() == sampler(200, None, 0.5, target_fps).tolist()
    other = sampler(200, None, 0.5, 1.5 * target_fps)
    assert other.tolist() != sampler(200, None, 0.5).tolist()


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 1.0])
def test_two_rates_of_one_motion_give_the_same_moments(phase):
    sampler = LinspaceSampler(8, 16)
    seconds = {
        fps: sampler(int(8 * fps), None, phase, fps) / fps for fps in (10.0, 24.0, 30.0, 60.0)
    }
    for fps, moments in seconds.items():
        # A window of T * interval frames ends a frame before its duration, and numbers are cut.
        assert np.abs(moments - seconds[60.0]).max() <= 2 / fps
    assert np.ptp(seconds[60.0]) > 4
    dense = [DenseSampler(8, 16)(int(8 * fps), None, phase) / fps for fps in (30.0, 60.0)]
    assert np.abs(np.diff(dense, axis=0)).max() > 0.5  # other sampling sees another speed


@pytest.mark.parametrize("phase", [0.0, 0.5, 0.63, 1.0])
@pytest.mark.parametrize("fps", [0.1, 1.0, 4.0, 29.97, 1000.0])
def test_a_window_never_runs_backwards_whatever_the_rate(fps, phase):
    for num_frames in (1, 7, 10, 500):
        indices = linspace_indices(num_frames, 8, 1, phase=phase, fps=fps)
        assert (np.diff(indices) >= 0).all()


def test_a_window_of_a_fixed_duration_starts_anywhere_in_the_room_there_is_in_training():
    windows = [linspace_indices(12, 4, 2, rng, fps=30) for rng in rngs()]  # 8 frames of 12
    assert {int(window[0]) for window in windows} == set(range(4))
    assert {int(window[-1]) for window in windows} == set(range(7, 11))
    for rng in rngs(5):  # without room there is one window
        assert linspace_indices(8, 4, 2, rng, fps=30).tolist() == [0, 2, 4, 7]
        assert linspace_indices(12, 4, 2, rng, fps=60).tolist() == [0, 5, 10, 11]


def test_training_does_not_look_at_the_phase():
    for sampler in (SegmentSampler(3), DenseSampler(4, 2), LinspaceSampler(4, 2)):
        first, second = (sampler(90, np.random.default_rng(1), phase) for phase in (0.1, 0.9))
        assert first.tolist() == second.tolist()


@pytest.mark.parametrize("sampler", [SegmentSampler(5), BookSampler(5), DenseSampler(5, 3)])
def test_other_samplers_take_the_rate_and_count_frames_all_the_same(sampler):
    for seed in (None, 3):
        first, second = (
            sampler(90, None if seed is None else np.random.default_rng(seed), 0.5, fps)
            for fps in (0.0, 60.0)
        )
        assert first.tolist() == second.tolist()


def test_several_clips_of_a_video_spread_over_it():
    phases = [1 / 6, 3 / 6, 5 / 6]
    firsts = [segment_indices(100, 3, phase=phase)[0] for phase in phases]
    assert firsts == [5, 16, 27]
    for sampler in (SegmentSampler(3, 2), DenseSampler(8, 2), LinspaceSampler(8, 2)):
        clips = np.array([sampler(100, None, phase) for phase in phases])
        assert (np.diff(clips, axis=0) > 0).all()
    assert DenseSampler(8, 2)(100, None).tolist() == dense_indices(100, 8, 2).tolist()


def test_the_books_rule_has_no_second_clip():
    assert BookSampler(3)(100, None, 0.5).tolist() == [16, 49, 82]
    with pytest.raises(ValueError, match="the book's sampling has no second clip"):
        BookSampler(3)(100, None, 0.25)


def test_the_same_generator_gives_the_same_frames():
    for sampler in (SegmentSampler(5), BookSampler(5), DenseSampler(5, 3), LinspaceSampler(5, 3)):
        first, second, other = (sampler(90, np.random.default_rng(seed)) for seed in (4, 4, 5))
        assert first.tolist() == second.tolist() != other.tolist()


# --- frames of the whole video --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "number", "num_frames", "expected"),
    [
        ("uniform", 4, 10, [0, 3, 6, 9]),
        ("uniform", 5, 3, [0, 0, 1, 2, 2]),
        ("uniform", 1, 9, [0]),
        # the tables of the specification, for ten frames
        ("end", 10, 10, list(range(10))),
        ("end", 10, 12, list(range(2, 12))),
        ("end", 10, 24, list(range(5, 24, 2))),
        ("end", 10, 25, list(range(6, 25, 2))),
        ("end", 10, 26, [0, 1, 4, 7, 10, 13, 16, 19, 22, 25]),
        ("end", 10, 34, list(range(6, 34, 3))),
        ("end", 10, 6, [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]),
        ("end", 10, 5, [4] * 10),
        ("chapter", 40, 186, list(range(0, 160, 4))),
        ("chapter", 40, 79, list(range(40))),
        ("chapter", 40, 7, list(range(7))),
        ("every", 3, 10, [0, 3, 6, 9]),
        ("every", 1, 3, [0, 1, 2]),
        ("every", 50, 3, [0]),
    ],
)
def test_frames_of_the_whole_video(kind, number, num_frames, expected):
    sampler = FrameSampler(kind, number)
    assert sampler(num_frames, None).tolist() == expected
    assert sampler(num_frames, np.random.default_rng(0)).tolist() == expected  # in training too


@pytest.mark.parametrize(
    ("fps", "wanted", "expected"),
    [
        (30.0, 10.0, [0, 3, 6, 9, 12]),
        (25.0, 10.0, [0, 2, 5, 7, 10, 12]),
        (5.0, 10.0, list(range(15))),
        (0.0, 10.0, list(range(15))),
    ],
)
def test_so_many_frames_a_second(fps, wanted, expected):
    assert FrameSampler("fps", wanted)(15, None, 0.5, fps).tolist() == expected


def test_a_video_has_no_second_clip_of_all_its_frames():
    with pytest.raises(ValueError, match="sampling = 'uniform' has no second clip"):
        FrameSampler("uniform", 4)(10, None, 0.25)


def test_it_is_written_as_its_flag():
    assert str(FrameSampler("uniform", 40)) == "uniform:40"
    assert str(FrameSampler("fps", 2.5)) == "fps:2.5"


@pytest.mark.parametrize(
    ("num_frames", "interval", "middle", "end"),
    [
        (4, 1, [0, 1, 2, 3], [0, 1, 2, 3]),
        (10, 1, [3, 4, 5, 6], [6, 7, 8, 9]),
        (10, 3, [0, 3, 6, 9], [0, 3, 6, 9]),
        (15, 3, [2, 5, 8, 11], [5, 8, 11, 14]),
    ],
)
def test_a_sequence_lies_in_the_middle_or_at_the_end(num_frames, interval, middle, end):
    assert SequenceSampler(4, interval)(num_frames, None).tolist() == middle
    assert SequenceSampler(4, interval, at_end=True)(num_frames, None).tolist() == end


@pytest.mark.parametrize(("num_frames", "interval"), [(4, 1), (9, 1), (10, 3), (17, 3)])
def test_a_sequence_in_training_starts_at_every_place_and_never_repeats_a_frame(
    num_frames, interval
):
    starts = set()
    for rng in rngs():
        indices = SequenceSampler(4, interval)(num_frames, rng)
        assert indices.dtype == np.int64
        assert np.diff(indices).tolist() == [interval] * 3
        assert indices[0] >= 0 and indices[-1] < num_frames
        starts.add(int(indices[0]))
    assert starts == set(range(num_frames - 3 * interval))


def test_a_sequence_at_the_end_is_there_in_training_too():
    for rng in rngs(10):
        assert SequenceSampler(4, 2, at_end=True)(20, rng).tolist() == [13, 15, 17, 19]


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_a_video_too_short_for_a_sequence_is_a_readable_error(at_end, rng):
    with pytest.raises(ValueError, match="it has 9 frames; 4 frames, every 3. one, need 10"):
        SequenceSampler(4, 3, at_end)(9, rng)

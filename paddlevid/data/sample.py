"""Frame sampling: how many frames a video has -> which of them to decode (0-based numbers).

A video with fewer frames than wanted repeats some. `rng` is a generator in training; without one
the choice is the same every time, as evaluation needs it. `phase` in [0, 1] then says where in
the span left open: 0.5 is the centre, and several clips of one video take several phases. `fps`
is the video's rate, 0 where it is not known.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def segment_indices(
    num_frames: int,
    num_segments: int,
    seglen: int = 1,
    rng: Generator | None = None,
    phase: float = 0.5,
) -> Indices:
    """TSN: `seglen` consecutive frames from each of S equal segments: -> (S * seglen,).

    In training a random place of each segment of floor(n / S) frames, otherwise the one at
    `phase` of n / S (Wang et al. 2016, section 3.1; centred as in tsn-pytorch's and
    PaddleVideo's evaluation).
    """
    segments = np.arange(num_segments)
    room = num_frames // num_segments - seglen  # how far a start can move in its segment
    if room < 0:  # too short: even starts, frames repeat
        starts = np.round(segments * num_frames / num_segments)
        if rng is None:
            starts = np.floor((segments + phase) * num_frames / num_segments - (seglen - 1) / 2)
    elif rng is None:
        span = num_frames / num_segments
        starts = np.floor(segments * span + (span - seglen + 1) * phase)
    else:
        starts = segments * (num_frames // num_segments) + rng.integers(
            0, room + 1, size=num_segments
        )
    return _windows(starts, seglen, 1, num_frames)


def book_indices(
    num_frames: int, num_segments: int, seglen: int = 1, rng: Generator | None = None
) -> Indices:
    """The book's rule (section 5.1, video_loader): -> (S * seglen,).

    As `segment_indices`, but all segments have floor(n / S) frames, evaluation takes the frame
    (that - 1) // 2 of each, a video with fewer frames than segments starts again at its
    first frame, and windows that reach past the end go on at the start.
    """
    length = num_frames // num_segments
    segments = np.arange(num_segments)
    if length < seglen:
        starts = segments * max(length, 1)
    elif rng is None:
        starts = segments * length + (length - 1) // 2
    else:
        starts = segments * length + rng.integers(0, length - seglen + 1, size=num_segments)
    return ((starts[:, None] + np.arange(seglen)).reshape(-1) % num_frames).astype(np.int64)


def dense_indices(
    num_frames: int,
    clip_len: int,
    interval: int = 1,
    rng: Generator | None = None,
    phase: float = 0.5,
) -> Indices:
    """One window of T frames, every `interval`-th: -> (T,).

    It starts at random in training, otherwise at `phase` of the room there is. Past the end the
    last frame repeats.
    """
    room = max(num_frames - ((clip_len - 1) * interval + 1), 0)
    start = int(room * phase) if rng is None else int(rng.integers(0, room + 1))
    return _windows(np.array([start]), clip_len, interval, num_frames)


def linspace_indices(
    num_frames: int,
    clip_len: int,
    interval: int = 1,
    rng: Generator | None = None,
    phase: float = 0.5,
    fps: float = 0.0,
    target_fps: float = 30.0,
) -> Indices:
    """T frames spread over the time that T * interval frames last at `target_fps`: -> (T,).

    Thus videos of different rates are seen at one speed (TimeSformer, SlowFast: linspace over the
    window, rounded down, held inside the video). The window starts at random in training,
    otherwise at `phase` of the room there is; an fps of 0, not known, is taken for `target_fps`.
    """
    window = max(clip_len * interval * (fps or target_fps) / target_fps, 1)
    room = max(num_frames - window, 0)
    start = room * (phase if rng is None else rng.random())
    places = np.linspace(start, start + window - 1, clip_len)
    return np.clip(places, 0, num_frames - 1).astype(np.int64)


def uniform_indices(num_frames: int, num_wanted: int) -> Indices:
    """Evenly from the first frame to the last: -> (T,)"""
    return np.round(np.linspace(0, num_frames - 1, num_wanted)).astype(np.int64)


def end_indices(num_frames: int, num_wanted: int) -> Indices:
    """Back from the last frame in steps of round(n / T), held at the first: -> (T,), in order

    WuLC's rule for clips that end in what they show; in some lengths it never sees the beginning.
    """
    step = round(num_frames / num_wanted)
    return np.maximum(num_frames - 1 - step * np.arange(num_wanted)[::-1], 0).astype(np.int64)


def chapter_indices(num_frames: int, num_wanted: int) -> Indices:
    """Every max(1, n // T)-th frame until there are T: -> at most (T,)

    The rule of Hands-On Computer Vision with TensorFlow 2, chapter 8; it may stop halfway.
    """
    return np.arange(0, num_frames, max(1, num_frames // num_wanted))[:num_wanted]


def scene_indices(num_frames: int, cuts: Sequence[int], num_wanted: int) -> Indices:
    """Evenly over each scene; `cuts` are the first frames of all but the first: -> (S * N,)"""
    bounds = [0, *(cut for cut in cuts if cut < num_frames), num_frames]
    scenes = itertools.pairwise(bounds)
    return np.concatenate([a + uniform_indices(b - a, num_wanted) for a, b in scenes])


def rate_indices(num_frames: int, fps: float, wanted_fps: float) -> Indices:
    """As many frames a second as wanted; all where the video has fewer or does not say: -> (T,)"""
    step = max(fps / wanted_fps, 1) if fps else 1
    return np.floor(np.arange(0, num_frames, step)).astype(np.int64)


def _windows(starts: NDArray, length: int, interval: int, num_frames: int) -> Indices:
    """Frames start, start + interval, ... of each window, held inside the video."""
    indices = starts[:, None] + interval * np.arange(length)  # (windows, length)
    return np.clip(indices, 0, num_frames - 1).astype(np.int64).reshape(-1)


@dataclass(frozen=True)
class SegmentSampler:
    """`segment_indices` for every clip of a data set; see there."""

    num_segments: int
    seglen: int = 1

    def __call__(
        self, num_frames: int, rng: Generator | None, phase: float = 0.5, fps: float = 0.0
    ) -> Indices:
        """-> (S * seglen,)"""
        return segment_indices(num_frames, self.num_segments, self.seglen, rng, phase)


@dataclass(frozen=True)
class BookSampler:
    """`book_indices` for every clip of a data set; it knows a single clip of a video only."""

    num_segments: int
    seglen: int = 1

    def __call__(
        self, num_frames: int, rng: Generator | None, phase: float = 0.5, fps: float = 0.0
    ) -> Indices:
        """-> (S * seglen,)"""
        if phase != 0.5:
            raise ValueError("the book's sampling has no second clip: use sampling = 'segments'")
        return book_indices(num_frames, self.num_segments, self.seglen, rng)


@dataclass(frozen=True)
class DenseSampler:
    """`dense_indices` for every clip of a data set; see there."""

    clip_len: int
    interval: int = 1

    def __call__(
        self, num_frames: int, rng: Generator | None, phase: float = 0.5, fps: float = 0.0
    ) -> Indices:
        """-> (T,)"""
        return dense_indices(num_frames, self.clip_len, self.interval, rng, phase)


@dataclass(frozen=True)
class SequenceSampler:
    """One window of T frames, every `interval`-th, without repeats; for frames to predict.

    Args:
        at_end: the last window of the video; else one at random in training, and the middle one
            otherwise.
    """

    clip_len: int
    interval: int = 1
    at_end: bool = False

    def __call__(
        self, num_frames: int, rng: Generator | None, phase: float = 0.5, fps: float = 0.0
    ) -> Indices:
        """-> (T,); raises ValueError for a video that is too short."""
        needed = (self.clip_len - 1) * self.interval + 1
        if num_frames < needed:
            raise ValueError(
                f"it has {num_frames} frames; {self.clip_len} frames, every {self.interval}. one, "
                f"need {needed}"
            )
        if self.at_end:
            rng, phase = None, 1.0
        return dense_indices(num_frames, self.clip_len, self.interval, rng, phase)


@dataclass(frozen=True)
class LinspaceSampler:
    """`linspace_indices` for every clip of a data set; see there."""

    clip_len: int
    interval: int = 1
    target_fps: float = 30.0

    def __call__(
        self, num_frames: int, rng: Generator | None, phase: float = 0.5, fps: float = 0.0
    ) -> Indices:
        """-> (T,)"""
        return linspace_indices(
            num_frames, self.clip_len, self.interval, rng, phase, fps, self.target_fps
        )


@dataclass(frozen=True)
class FrameSampler:
    """Frames of the whole video, the same every time; a clip may have as many as the video.

    Args:
        kind: "uniform", "end", "chapter": `number` frames by the functions of these names;
            "scenes": so many of each scene; "every": every `number`-th frame; "fps": `number`
            frames a second.
        cuts: "scenes": the first frame of each scene but the first; see paddlevid.data.scenes.
    """

    kind: str
    number: float
    cuts: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}:{self.number:g}"

    def __call__(
        self, num_frames: int, rng: Generator | None, phase: float = 0.5, fps: float = 0.0
    ) -> Indices:
        """-> (T,)"""
        if phase != 0.5:
            raise ValueError(f"sampling = {self.kind!r} has no second clip of a video")
        if self.kind == "fps":
            return rate_indices(num_frames, fps, self.number)
        if self.kind == "every":
            return np.arange(0, num_frames, int(self.number))
        if self.kind == "scenes":
            return scene_indices(num_frames, self.cuts, int(self.number))
        choose = {"uniform": uniform_indices, "end": end_indices, "chapter": chapter_indices}
        return choose[self.kind](num_frames, int(self.number))


FRAME_KINDS = ("uniform", "end", "chapter", "every", "fps", "scenes")

Sampler = (
    SegmentSampler | BookSampler | DenseSampler | LinspaceSampler | SequenceSampler | FrameSampler
)

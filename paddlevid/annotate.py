"""Annotated videos: frames, sound and what a network says of them -> an MP4 that shows it all."""

import contextlib
import math
import re
import signal
import sys
import urllib.parse
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import matplotlib
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from tqdm import tqdm

from paddlevid.data.decode import is_pickled, iterate_chosen
from paddlevid.data.encode import Mp4Writer
from paddlevid.data.limits import FRAMES, DecodeError
from paddlevid.data.live import Moment
from paddlevid.data.video import check_refusal, open_video, timed_frames, to_image, video_stream
from paddlevid.files import whole_file
from paddlevid.plots import draw_text, text_mask

CURVE_SECONDS = 10.0  # of the past in the running curve
FRAME_RATE = 25  # of clips that do not say it: folders of frames and .pkl
READABLE = 240  # pixels of the shorter side below which a video is enlarged
_TEN = 0.85 * np.array(matplotlib.colormaps["tab10"].colors) * 255  # darker, for white text
_COLOURS = np.concatenate([_TEN, 0.6 * _TEN])
_WHITE, _GREY = np.full(3, 255), np.full(3, 190)

Scores = NDArray[np.float32]  # probabilities (K,)


class Annotator:
    """Draws the most probable classes into frames, and their probabilities over the last seconds.

    Small frames are enlarged a whole number of times, so that the text on them can be read.

    Args:
        height, width: of the frames.
        classes: the names of all K.
        k: how many are shown.
        curve_seconds: of the past in a curve at the bottom; 0: none.
    """

    def __init__(
        self, height: int, width: int, classes: Sequence[str], k: int, curve_seconds: float = 0.0
    ) -> None:
        factor = math.ceil(READABLE / min(height, width))
        factor = max(min(factor, 1920 // max(height, width)), 1)
        self.height, self.width = factor * height, factor * width
        self._classes, self._seconds = classes, curve_seconds
        self._font = max(round(min(self.height, self.width) / 28), 12)
        self._margin, self._row = self._font // 2, round(1.55 * self._font)
        self._curve_height = round(0.24 * self.height) if curve_seconds else 0
        room = self.height - self._curve_height - 3 * self._margin
        self._k = min(k, len(classes), max(room // self._row, 1))
        self._past: deque[tuple[float, Scores]] = deque()
        self._colours: dict[int, int] = {}  # class -> which of _COLOURS it was last shown in

    def see(self, seconds: float, scores: Scores) -> None:
        """What is said from now on; where a line was opened again, its clock starts anew."""
        if self._past and seconds < self._past[-1][0]:
            self._past.clear()
        self._past.append((seconds, scores))
        while len(self._past) > 1 and self._past[1][0] < seconds - self._seconds:
            self._past.popleft()

    def draw(self, image: NDArray[np.uint8], seconds: float = 0.0) -> NDArray[np.uint8]:
        """A frame (H, W, 3) RGB, shown at this time -> with the classes: (height, width, 3)"""
        if image.shape[:2] == (self.height, self.width):
            image = image.copy()
        else:
            size = (self.width, self.height)
            image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        if not self._past:
            return image
        scores = self._past[-1][1]
        best = np.argsort(-scores, kind="stable")[: self._k].tolist()
        self._choose_colours(best)
        wide = max(round(0.42 * self.width), 15 * self._font)
        wide = min(wide, self.width - 2 * self._margin)
        for row, label in enumerate(best):
            self._draw_bar(image, self._margin + row * self._row, wide, label, scores[label])
        if self._seconds:
            self._draw_curve(image, seconds, best)
        return image

    def _choose_colours(self, labels: Sequence[int]) -> None:
        """Each class keeps its colour, unless one before it is shown in it."""
        taken: list[int] = []
        for label in labels:
            order = [self._colours.get(label, len(self._colours)) % len(_COLOURS)]
            order += [c for c in range(len(_COLOURS)) if c not in self._colours.values()]
            order += range(len(_COLOURS))
            self._colours[label] = next((c for c in order if c not in taken), order[0])
            taken.append(self._colours[label])

    def _draw_bar(
        self, image: NDArray[np.uint8], top: int, wide: int, label: int, share: float
    ) -> None:
        left, high = self._margin, self._row - max(self._font // 8, 1)
        under = image[top : top + high, left : left + wide]
        under[:] = under * 0.35
        bar = under[:, : max(round(float(share) * wide), 1)]
        bar[:] = bar * 0.2 + 0.8 * _COLOURS[self._colours[label]]
        percent = text_mask(f"{100 * share:.0f} %", self._font)
        room = wide - percent.shape[1] - 2 * self._margin
        name = text_mask(self._classes[label], self._font, max(room, 2))
        middle = top + (high - name.shape[0]) // 2
        if room > 2 * self._font:
            draw_text(image, name, left + self._margin // 2, middle, _WHITE)
        at = left + wide - percent.shape[1] - self._margin // 2
        draw_text(image, percent, at, middle, _WHITE)

    def _draw_curve(self, image: NDArray[np.uint8], now: float, labels: Sequence[int]) -> None:
        """The probabilities of these classes over the last seconds, now at the right edge."""
        left, high = self._margin, self._curve_height
        top, wide = self.height - high - self._margin, self.width - 2 * self._margin
        under = image[max(top, 0) : top + high, left : left + wide]
        under[:] = under * 0.35
        note = text_mask(f"last {self._seconds:g} s", max(round(0.8 * self._font), 10), wide)
        draw_text(image, note, left + self._margin // 2, top + 4, _GREY)
        thick = max(round(self._font / 8), 1)
        inner = high - 4 * thick  # lines at 0 and 1 are seen whole
        past = [*self._past, (max(now, self._past[-1][0]), self._past[-1][1])]
        x = np.array([(t - now) / self._seconds + 1 for t, _ in past]) * wide
        for y in (0.0, 0.5, 1.0):
            at = round((1 - y) * inner) + 2 * thick
            cv2.line(under, (0, at), (wide, at), (110, 110, 110), 1)
        for label in reversed(labels):  # the most probable one lies on top
            y = (1 - np.array([scores[label] for _, scores in past])) * inner + 2 * thick
            points = np.round(np.stack([x, y], axis=1) * 16).astype(np.int32)  # 1/16 pixels
            colour = np.minimum(_COLOURS[self._colours[label]] * 1.4, 255).tolist()
            cv2.polylines(under, [points], False, colour, thick, cv2.LINE_AA, shift=4)


@dataclass(frozen=True)
class Timing:
    """When the frames of a clip are shown, and how wide."""

    rate: Fraction = Fraction(FRAME_RATE)  # frames a second, on average
    unit: Fraction = Fraction(1, FRAME_RATE)  # of their times, in seconds
    start: float = 0.0  # seconds that its clock shows at the beginning
    pixel_aspect: Fraction = Fraction(1)
    num_frames: int = 0  # as its header says; 0: not said


@contextlib.contextmanager
def _decoding(clip: Path) -> Iterator[None]:
    """Have FFmpeg's errors say which clip."""
    try:
        yield
    except av.error.FFmpegError as error:
        check_refusal(error, clip)
        raise DecodeError(f"{clip}: cannot be decoded to its end ({error.strerror})") from error


LIVE = Timing(unit=Fraction(1, 90_000))  # of cameras and addresses


def timing_of(clip: Path) -> Timing:
    """What a video file says; FRAME_RATE of a folder of frames or a .pkl.

    Raises DecodeError where it has no frames.
    """
    if clip.is_dir() or is_pickled(clip):
        return Timing()
    with _decoding(clip), open_video(clip) as container:
        stream = video_stream(container, clip)
        first = next(container.decode(stream), None)
        if first is None:
            raise DecodeError(f"{clip}: has no frames that can be decoded")
        aspect = stream.sample_aspect_ratio or Fraction(1)
        return Timing(
            rate=stream.average_rate or Fraction(FRAME_RATE),
            unit=stream.time_base,
            start=max((container.start_time or 0) / av.time_base, 0.0),
            pixel_aspect=1 / aspect if round(first.rotation / 90) % 2 else aspect,
            num_frames=stream.frames,
        )


def moments_of(clip: Path, timing: Timing) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """All frames of a clip, one in memory at a time: the seconds its clock shows, (H, W, 3) RGB

    Raises DecodeError when it cannot be read to its end.
    """
    if clip.is_dir() or is_pickled(clip):
        images = iterate_chosen(clip, lambda num_frames, _: np.arange(num_frames))
        yield from ((number / FRAME_RATE, image) for number, image in enumerate(images))
        return
    converter = VideoReformatter()
    with _decoding(clip), open_video(clip) as container:
        frames = timed_frames(container, video_stream(container, clip))
        for number, (seconds, frame) in enumerate(frames, start=1):
            FRAMES.check(clip, "the video", number)
            yield seconds, to_image(frame, "rgb24", converter)


class AnnotatedVideo:
    """An MP4 of annotated frames, written whole or not at all.

    Ctrl-C ends that of a stream as if it were its end; it removes that of a clip.

    Args:
        target: the file.
        classes, k, curve_seconds: see Annotator.
        timing: of the frames.
        sound: the video file whose sound it gets.
        is_stream: nobody knows how long it will be.
    """

    def __init__(
        self,
        target: Path,
        classes: Sequence[str],
        k: int,
        timing: Timing,
        *,
        curve_seconds: float = 0.0,
        sound: Path | None = None,
        is_stream: bool = False,
    ) -> None:
        self.target, self.timing, self.num_frames, self.note = target, timing, 0, ""
        self._drawing, self._sound, self._is_stream = (classes, k, curve_seconds), sound, is_stream
        self._opened = contextlib.ExitStack()
        self._annotator: Annotator | None = None  # made for the first frame, as it has its size
        self._writer: Mp4Writer | None = None

    def __enter__(self) -> "AnnotatedVideo":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        stopped = self._is_stream and kind is KeyboardInterrupt
        if error and not stopped:
            self._opened.__exit__(kind, error, trace)
            return
        with self._opened:
            if self._writer:
                self.note = self._writer.finish(with_rest_of_sound=not stopped)

    def add(self, image: NDArray[np.uint8], seconds: float, scores: Scores | None = None) -> None:
        """A frame (H, W, 3) RGB, when it is shown, and what is said from then on, if that is new.

        A frame of another size than the first one's is resized to it.
        """
        if self._writer is None:
            self._open(*image.shape[:2], seconds)
        if scores is not None:
            self._annotator.see(seconds, scores)
        drawn = self._annotator.draw(image, seconds)
        self._writer.write(drawn, seconds - self.timing.start)
        self.num_frames += 1

    def _open(self, height: int, width: int, seconds: float) -> None:
        classes, k, curve_seconds = self._drawing
        if self.timing is LIVE:
            self.timing = Timing(LIVE.rate, LIVE.unit, start=seconds)
        self._annotator = annotator = Annotator(height, width, classes, k, curve_seconds)
        timing, partial = self.timing, self._opened.enter_context(whole_file(self.target))
        self._writer = self._opened.enter_context(
            Mp4Writer(
                partial, annotator.height, annotator.width, rate=timing.rate, unit=timing.unit,
                pixel_aspect=timing.pixel_aspect, sound=self._sound, sound_start=timing.start,
            )
        )  # fmt: skip


def annotate_clip(clip: Path, target: Path, classes: Sequence[str], scores: Scores, k: int) -> str:
    """Write all of a clip with what is said of it: -> what became of its sound, if not as it was.

    Raises DecodeError when the clip cannot be read to its end.
    """
    timing = timing_of(clip)
    sound = None if clip.is_dir() or is_pickled(clip) else clip
    with AnnotatedVideo(target, classes, k, timing, sound=sound) as video:
        moments = moments_of(clip, timing)
        for seconds, image in tqdm(
            moments, "drawing", timing.num_frames or None, unit=" frames", leave=False,
            disable=None, file=sys.stderr,
        ):  # fmt: skip
            video.add(image, seconds, None if video.num_frames else scores)
    return video.note


def name_of(address: str) -> str:
    """What a file of a stream may be called: without what an address keeps secret."""
    if address.isdecimal():
        return f"camera{address}"
    if "://" in address:
        parts = urllib.parse.urlsplit(address)
        address = f"{parts.hostname or ''}_{Path(parts.path).stem}"
        return re.sub(r"[^\w.-]+", "_", address).strip("_.")
    return Path(address).stem


class StreamVideos:
    """The annotated videos of files, cameras and addresses that run side by side.

    Ctrl-C and SIGTERM wait until `check` is called, which then raises KeyboardInterrupt, so that no
    video is left in the middle of a frame. A second one does not wait.

    Args:
        folder: for the videos, <number>_<name>.mp4.
        addresses: of the streams. The videos of files get their sound, others have none.
        names: of their videos.
        classes, k: see Annotator.
    """

    def __init__(
        self,
        folder: Path,
        addresses: Sequence[str],
        names: Sequence[str],
        classes: Sequence[str],
        k: int,
    ) -> None:
        self._asked, self._opened = False, contextlib.ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        self.videos = []
        for number, (address, name) in enumerate(zip(addresses, names, strict=True), start=1):
            timing, sound = LIVE, None
            if not (address.isdecimal() or "://" in address):
                with contextlib.suppress(DecodeError, OSError):  # who reads the frames says it
                    timing, sound = timing_of(Path(address)), Path(address)
            target = folder / f"{number:03d}_{name}.mp4"
            self.videos.append(
                AnnotatedVideo(
                    target, classes, k, timing, curve_seconds=CURVE_SECONDS, sound=sound,
                    is_stream=True,
                )
            )  # fmt: skip

    def __enter__(self) -> "StreamVideos":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._opened.callback(signal.signal, number, signal.signal(number, self._ask))
        for video in self.videos:
            self._opened.enter_context(video)
        return self

    def __exit__(self, *reason: object) -> None:
        self._opened.__exit__(*reason)

    def _ask(self, *_: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if the videos shall end."""
        if self._asked:
            raise KeyboardInterrupt

    def add(self, i: int, moment: Moment, scores: Scores | None) -> None:
        """The next frame of the i-th, and what is said from then on, if that is new."""
        _, seconds, image = moment
        self.videos[i].add(image, seconds, scores)

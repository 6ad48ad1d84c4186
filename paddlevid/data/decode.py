"""Decoding: a video file, a folder of frames or a pickled clip -> uint8 (T, H, W, 3) RGB frames."""

import itertools
import os
import pickle
import re
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from paddlevid.data.video import (
    DecodeError,
    FewerFrames,
    Frames,
    Indices,
    NewSize,
    VideoClip,
    gather,
    iterate_frames,
    limit_threads,
    open_video,
    to_image,
    video_stream,
)

__all__ = [
    "FRAME_SUFFIXES",
    "VIDEO_SUFFIXES",
    "DecodeError",
    "Frames",
    "Indices",
    "PickledClip",
    "VideoDecoder",
    "VideoReport",
    "count_frames",
    "decode",
    "frame_files",
    "inspect_video",
    "is_pickled",
    "is_video",
    "iterate_chosen",
    "limit_threads",
    "natural_key",
    "read_pickled_clip",
]

Choose = Callable[[int, float], Indices]  # (number of frames, frames a second) -> which of them

VIDEO_SUFFIXES = (
    ".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".3gp", ".ts",
    ".mts", ".m2ts", ".ogv", ".asf", ".vob",
)  # fmt: skip
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")


def is_video(path: Path) -> bool:
    """Whether the suffix, in any case, is one of a video container."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_pickled(path: Path) -> bool:
    """Whether the suffix, in any case, is that of a pickled clip."""
    return path.suffix.lower() == ".pkl"


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which clip_2.jpg comes before clip_10.jpg."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name)]


def frame_files(folder: Path) -> list[Path]:
    """The image files of a folder in natural order, however they are numbered."""
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in FRAME_SUFFIXES and not file.name.startswith(".")
    ]
    return sorted(files, key=lambda file: natural_key(file.name))


# --- pickled clips --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PickledClip:
    """The content of a .pkl: (clip name, label, frames), as jpg2pkl.py writes it."""

    name: str
    label: int
    frames: list[Path] | list[bytes]  # image files, or encoded images


class _NoGlobals(pickle.Unpickler):
    """Reads numbers, strings, bytes, lists and tuples; anything that could run code is refused."""

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it needs {module}.{name}, and a clip has no need of it")


def read_pickled_clip(path: Path) -> PickledClip:
    """Read a .pkl without executing anything in it.

    Frame files are looked up relative to the folder of the .pkl; those of the book's scripts,
    which are relative to the folder the scripts ran in, relative to the current folder.

    Raises DecodeError when it is not such a tuple, or holds no frame.
    """
    try:
        with open(path, "rb") as file:
            content = _NoGlobals(file, encoding="utf-8").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise DecodeError(
            f"{path}: not a pickled clip ({error or type(error).__name__}); "
            "data_tools/jpg2pkl.py writes them"
        ) from error
    match content:
        case (str(name), int(label), list(frames)) if not isinstance(label, bool):
            pass
        case _:
            raise DecodeError(
                f"{path}: holds a {type(content).__name__} that is not the tuple "
                "(clip name, label, list of frames); data_tools/jpg2pkl.py writes them"
            )
    if not frames:
        raise DecodeError(f"{path}: has no frames")
    if all(isinstance(frame, bytes) for frame in frames):
        return PickledClip(name, label, frames)
    if not all(isinstance(frame, str) for frame in frames):
        raise DecodeError(f"{path}: its frames are neither all file names nor all JPEG bytes")
    if os.path.exists(path.parent / frames[0]) or not os.path.exists(frames[0]):
        frames = [path.parent / frame for frame in frames]
    return PickledClip(name, label, [Path(frame) for frame in frames])


# --- images ---------------------------------------------------------------------------------------


def _decode_image(
    frame: Path | bytes, owner: Path, number: int, new_size: NewSize | None = None
) -> NDArray[np.uint8]:
    """One encoded image -> (H, W, 3) RGB; a cut off one is an error, not a grey rest.

    With `new_size`, to which the image will be resized, a JPEG may come in a part of its size.
    """
    name = frame if isinstance(frame, Path) else f"{owner}, frame {number}"
    try:
        encoded = frame.read_bytes() if isinstance(frame, Path) else frame
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise DecodeError(f"{owner}: cannot read its frame {frame} ({reason})") from error
    if encoded[:2] == b"\xff\xd8" and b"\xff\xd9" not in encoded[encoded.rfind(b"\xff\xda") :]:
        raise DecodeError(f"{name}: the JPEG is cut off")  # no end mark after the last scan
    try:
        flag = _reduction(encoded, new_size) if new_size else cv2.IMREAD_COLOR
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag)
    except cv2.error:  # no bytes at all, or more pixels than it allows
        image = None
    if image is None:
        raise DecodeError(f"{name}: is not an image that OpenCV reads")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


_REDUCTIONS = {
    8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2,
}  # fmt: skip


def _reduction(encoded: bytes, new_size: NewSize) -> int:
    """OpenCV's flag for the smallest size of a JPEG that is not below the new one."""
    size = _jpeg_size(encoded)
    if size is not None:
        height, width = new_size(*size)
        for part, flag in _REDUCTIONS.items():
            if size[0] // part >= height and size[1] // part >= width:
                return flag
    return cv2.IMREAD_COLOR


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """(height, width) in the header of a JPEG; None of another image, and of one with Exif data.

    Exif data may turn it. A header is a row of segments: a mark, a length, a content.
    """
    at = 2 if encoded[:2] == b"\xff\xd8" else len(encoded)
    while at + 9 <= len(encoded) and encoded[at] == 0xFF:
        mark, length = struct.unpack_from(">xBH", encoded, at)
        if mark == 0xE1:
            return None
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):  # the frame, in some coding
            return struct.unpack_from(">HH", encoded, at + 5)
        at += 2 + length
    return None


class _ImageClip:
    """Images in a folder or in a .pkl."""

    def __init__(self, path: Path, reduced_jpegs: bool = False) -> None:
        self._path = path
        self._reduced_jpegs = reduced_jpegs
        self._frames = read_pickled_clip(path).frames if is_pickled(path) else frame_files(path)

    def measure(self) -> tuple[int, float]:
        if not self._frames:
            raise DecodeError(f"{self._path}: has no frames")
        return len(self._frames), 0.0

    def decode(self, indices: Indices, new_size: NewSize | None = None) -> Frames:
        reduced_to = new_size if self._reduced_jpegs else None
        return gather(self.images(set(indices.tolist()), reduced_to), indices, new_size)

    def images(
        self, wanted: Collection[int], reduced_to: NewSize | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        if max(wanted) >= len(self._frames):
            raise FewerFrames(len(self._frames))
        sizes = set()
        for number in sorted(wanted):
            image = _decode_image(self._frames[number], self._path, number, reduced_to)
            sizes.add(image.shape[:2])
            if len(sizes) > 1:
                raise DecodeError(
                    f"{self._path}: its frames have different sizes (height, width): {sizes}"
                )
            yield number, image

    def close(self) -> None:
        pass


# --- the door -------------------------------------------------------------------------------------


def _open_clip(
    path: Path, backend: str | None = None, reduced_jpegs: bool = False
) -> VideoClip | _ImageClip:
    if path.is_dir() or is_pickled(path):
        return _ImageClip(path, reduced_jpegs)
    return VideoClip(path, backend)


def count_frames(path: Path | str, backend: str | None = None) -> int:
    """How many frames a clip (a video, a folder of frames or a .pkl) has, whatever its header says.

    Raises DecodeError when it has none or cannot be read.
    """
    path = _existing(path)
    with closing(_open_clip(path, backend)) as clip:
        return clip.measure()[0]


def decode(path: Path | str, indices: Indices, backend: str | None = None) -> Frames:
    """The frames of a clip with these 0-based numbers: -> (T, H, W, 3) uint8 RGB.

    Frame i is the i-th that the decoder yields. Only the wanted frames are converted, and decoding
    stops after the last of them. `backend` is "pyav" or "opencv"; by default PyAV, and OpenCV
    where PyAV fails.

    Raises DecodeError when the clip cannot be read or has fewer frames than asked for.
    """
    path, indices = _existing(path), _checked(indices)
    try:
        with closing(_open_clip(path, backend)) as clip:
            return clip.decode(indices)
    except FewerFrames as short:
        raise DecodeError(
            f"{path}: has {short.num_frames} frames, but frame number {indices.max()} was asked for"
        ) from None


@dataclass(frozen=True)
class VideoDecoder:
    """Reads those frames of a clip that are chosen when it is known how many there are.

    Of an .mp4 or .mkv in H.264 or HEVC no more is decoded than the chosen frames need: from the
    last point before each where decoding can start, and in H.264 without the frames on the way that
    no other one refers to. Which frame is the i-th follows there from the times at which the file
    shows them, unless the decoder contradicts. Of other videos all frames up to the last chosen one
    are decoded, and frame i is the i-th that the decoder yields.

    Args:
        backend: "pyav" or "opencv"; by default PyAV, and OpenCV where PyAV fails.
        reduced_jpegs: read JPEGs that will be made smaller in 1/2, 1/4 or 1/8 of their size, where
            that is not below the new size. Of 1080p made 256 pixels high that takes a fifth of the
            time; pixels differ by 1 level of 255 on average, at edges by far more, as means of many
            pixels are seen instead of single ones. Not for comparing with published accuracies.
    """

    backend: str | None = None
    reduced_jpegs: bool = False

    def __call__(self, path: Path | str, choose: Choose, new_size: NewSize | None = None) -> Frames:
        """The frames that `choose(num_frames, fps)` picks: -> (T, H, W, 3) uint8 RGB

        fps is 0.0 where the clip does not say: a folder of frames, a .pkl. Should the video end
        before a chosen frame, `choose` is asked again with the true number. Each frame is resized
        to `new_size(height, width)`, bilinear, before the next one is decoded.

        Raises DecodeError when the clip cannot be read.
        """
        path = _existing(path)
        with closing(_open_clip(path, self.backend, self.reduced_jpegs)) as clip:
            num_frames, fps = clip.measure()
            while True:
                try:
                    return clip.decode(_checked(choose(num_frames, fps)), new_size)
                except FewerFrames as short:
                    if not 0 < short.num_frames < num_frames:
                        raise DecodeError(f"{path}: has no frames that can be decoded") from None
                    num_frames = short.num_frames


def iterate_chosen(path: Path | str, choose: Choose) -> Iterator[NDArray[np.uint8]]:
    """The frames that `choose(num_frames, fps)` picks, one after the other: (H, W, 3) RGB

    As VideoDecoder, for any number of frames in rising order: one is in memory at a time.

    Raises DecodeError when the clip cannot be read, or ends before a frame that was chosen.
    """
    path = _existing(path)
    with closing(_open_clip(path)) as clip:
        indices = _checked(choose(*clip.measure())).tolist()
        try:
            for number, image in clip.images(set(indices)):
                yield from itertools.repeat(image, indices.count(number))
        except FewerFrames:
            raise DecodeError(
                f"{path}: cannot be decoded to frame {indices[-1]} (it ends)"
            ) from None


def _checked(indices: Indices) -> Indices:
    indices = np.asarray(indices, np.int64)
    if indices.ndim != 1 or len(indices) == 0 or indices.min() < 0:
        raise ValueError(f"frame numbers must be a list of whole numbers from 0, got {indices}")
    return indices


def _existing(path: Path | str) -> Path:
    path = Path(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DecodeError(f"{path}: does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise DecodeError(f"{path}: cannot be read ({reason})") from error
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise DecodeError(f"{path}: is empty")
    return path


# --- the whole of a video -------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoReport:
    """What decoding all of a video showed."""

    path: str
    frames: int = 0  # as decoded
    width: int = 0  # pixels, upright
    height: int = 0
    fps: float = 0.0  # average
    codec: str = ""
    problem: str = ""  # empty: the file is good
    note: str = ""  # odd, but of no harm


def inspect_video(path: Path) -> VideoReport:
    """Decode every frame of a video and report what it is and what is wrong with it."""
    found = {"path": str(path)}
    try:
        _existing(path)
        with open_video(path) as container:
            stream = video_stream(container, path)
            fps = round(float(stream.average_rate or 0), 3)
            found |= {"fps": fps, "codec": stream.codec_context.name}
            claimed = stream.frames
        frames = 0
        for frames, frame in enumerate(iterate_frames(path), start=1):
            if frames == 1:
                found["height"], found["width"] = to_image(frame).shape[:2]
        found["frames"] = frames
        with closing(VideoClip(path)) as clip:
            _, fps = clip.measure()  # finds a file that is cut off, which decoders pass over
        found["fps"] = round(fps, 3)
    except (DecodeError, av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return VideoReport(**found, problem=reason.removeprefix(f"{path}: "))
    if claimed and claimed != frames:
        found["note"] = f"the header says {claimed} frames"
    return VideoReport(**found)

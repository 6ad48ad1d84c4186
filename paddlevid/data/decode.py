"""Decoding: a video file, a folder of frames or a pickled clip -> uint8 (T, H, W, 3) RGB frames."""

import itertools
import os
import pickle
import re
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from paddlevid.data.limits import (
    FRAME_PIXELS,
    FRAMES,
    DecodeError,
    check_file,
    check_frame,
    file_size,
)
from paddlevid.data.video import (
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
from paddlevid.pickles import PlainUnpickler

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
    "decode_image",
    "flow_files",
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
    """The image files of a folder in natural order, however they are numbered.

    Those of optical flow, which published data sets have beside the frames, are left out.
    """
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in FRAME_SUFFIXES
        and not file.name.startswith((".", "flow_x_", "flow_y_"))
    ]
    return sorted(files, key=lambda file: natural_key(file.name))


def flow_files(folder: Path) -> list[tuple[Path, Path]]:
    """The image files of a folder's optical flow in natural order: the x and the y component.

    They are called flow_x_00001.jpg and flow_y_00001.jpg, or x_00001.jpg and y_00001.jpg, as
    mmaction2 and TSN's own tools write them. Raises DecodeError where one of a pair is missing.
    """
    parts: dict[str, dict[str, Path]] = {"x": {}, "y": {}}
    for file in folder.iterdir():
        found = re.fullmatch(r"(flow_)?([xy])_(\d+)(\.\w+)", file.name)
        if found and found[4].lower() in FRAME_SUFFIXES:
            parts[found[2]][f"{found[1] or ''}{found[3]}{found[4]}"] = file
    x, y = parts["x"], parts["y"]
    lonely = sorted(x.keys() ^ y.keys(), key=natural_key)
    if not (x and y):  # frames may be called x_1.jpg, ... as well
        lonely = [name for name in lonely if name.startswith("flow_")]
    if lonely:
        raise DecodeError(
            f"{folder}: {(x | y)[lonely[0]].name} has no partner: optical flow needs an "
            f"x and a y image of each number; it has {len(x)} and {len(y)}"
        )
    names = sorted(x.keys() & y.keys(), key=natural_key)
    return [(x[name], y[name]) for name in names]


# --- pickled clips --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PickledClip:
    """The content of a .pkl: (clip name, label, frames), as jpg2pkl.py writes it."""

    name: str
    label: int
    frames: list[Path] | list[bytes]  # image files, or encoded images


class _NoGlobals(PlainUnpickler):
    """Reads numbers, strings, bytes, lists and tuples; anything that could run code is refused."""

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it needs {module}.{name}, and a clip has no need of it")


def read_pickled_clip(path: Path) -> PickledClip:
    """Read a .pkl without executing anything in it.

    Frame files are looked up relative to the folder of the .pkl; those of the book's scripts,
    which are relative to the folder the scripts ran in, relative to the current folder.

    Raises DecodeError when it is not such a tuple, or holds no frame or too many.
    """
    try:
        check_file(path)
        with open(path, "rb") as file:
            content = _NoGlobals(file, encoding="utf-8").load()
    except DecodeError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise DecodeError(
            f"{path}: not a pickled clip ({error or type(error).__name__}); "
            "data_tools/jpg2pkl.py writes them"
        ) from error
    match content:
        case (str(name), int(label), list(frames)) if (
            not isinstance(label, bool) and abs(label) < 1 << 63
        ):
            pass
        case _:
            raise DecodeError(
                f"{path}: holds a {type(content).__name__} that is not the tuple "
                "(clip name, label, list of frames); data_tools/jpg2pkl.py writes them"
            )
    if not frames:
        raise DecodeError(f"{path}: has no frames")
    FRAMES.check(path, "the clip", len(frames))
    if all(isinstance(frame, bytes) for frame in frames):
        return PickledClip(name, label, frames)
    if not all(isinstance(frame, str) for frame in frames):
        raise DecodeError(f"{path}: its frames are neither all file names nor all JPEG bytes")
    if os.path.exists(path.parent / frames[0]) or not os.path.exists(frames[0]):
        frames = [path.parent / frame for frame in frames]
    return PickledClip(name, label, [Path(frame) for frame in frames])


# --- images ---------------------------------------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNKS = 100_000  # of a PNG; writers put 8 kB or more into each
_SEGMENTS = 10_000  # of a JPEG before its frame; real ones have tens
_SCANS = 16  # of a JPEG whose frames are as large as the limit; each goes over the whole frame


@dataclass(frozen=True)
class _Header:
    """What an image says of itself before its pixels come."""

    height: int
    width: int
    reducible: bool  # a JPEG that no Exif data turns


def decode_image(
    frame: Path | bytes, owner: Path, number: int, new_size: NewSize | None = None
) -> NDArray[np.uint8]:
    """One encoded image -> (H, W, 3) RGB; a cut off one is an error, not a grey rest.

    With `new_size`, to which the image will be resized, a JPEG may come in a part of its size.
    """
    name = f"{owner}, frame {number}"
    if isinstance(frame, Path):
        name = frame if frame.parent == owner else f"{owner}: {_shown(frame)}"
    encoded = read_image(frame, owner) if isinstance(frame, Path) else frame
    if encoded[:2] == b"\xff\xd8" and b"\xff\xd9" not in encoded[encoded.rfind(b"\xff\xda") :]:
        raise DecodeError(f"{name}: the JPEG is cut off")  # no end mark after the last scan
    if encoded[:8] == _PNG and not _is_whole_png(encoded):
        raise DecodeError(f"{name}: the PNG is cut off or damaged")
    header = _read_header(encoded)
    if header is None:
        raise DecodeError(f"{name}: is not an image that OpenCV reads here, a JPEG or PNG")
    check_frame(name, header.height, header.width)
    if encoded[:2] == b"\xff\xd8":
        scans = encoded.count(b"\xff\xda")
        if scans * header.height * header.width > _SCANS * FRAME_PIXELS.value:
            raise DecodeError(f"{name}: the JPEG has {scans} scans, which would take too long")
    try:
        flag = _reduction(header, new_size) if new_size else cv2.IMREAD_COLOR
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag)
    except cv2.error:  # whatever it finds wrong
        image = None
    if image is None:
        raise DecodeError(f"{name}: is not an image that OpenCV reads")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def read_image(file: Path, owner: Path) -> bytes:
    """The content of an image file; DecodeError, naming the owner too, where it cannot be read."""
    try:
        check_file(file)
        return file.read_bytes()
    except DecodeError as error:
        raise DecodeError(f"{owner}: cannot read its frame {error}") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise DecodeError(f"{owner}: cannot read its frame {_shown(file)} ({reason})") from error


def _shown(path: Path) -> str:
    """A path that a file names, for a message: no longer than paths are."""
    text = str(path)
    return text if len(text) <= 1000 else f"{text[:500]}...{text[-500:]}"


_REDUCTIONS = {
    8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2,
}  # fmt: skip


def _reduction(header: _Header, new_size: NewSize) -> int:
    """OpenCV's flag for the smallest size of a JPEG that is not below the new one."""
    if header.reducible:
        height, width = new_size(header.height, header.width)
        for part, flag in _REDUCTIONS.items():
            if header.height // part >= height and header.width // part >= width:
                return flag
    return cv2.IMREAD_COLOR


def _is_whole_png(encoded: bytes) -> bool:
    """Whether its chunks end with the last one; OpenCV makes room for whatever one claims."""
    at = len(_PNG)
    for _ in range(_CHUNKS):
        if at + 12 > len(encoded):  # a length, a name, a checksum
            return False
        if encoded[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(encoded[at : at + 4], "big")
    return False


def _read_header(encoded: bytes) -> _Header | None:
    """The header of a JPEG or PNG; None of anything else.

    A JPEG's is a row of segments: a mark, a length, a content. What does not belong there is passed
    over as the decoder does it, so that it cannot be made to see another size.
    """
    if encoded[:8] == _PNG and encoded[12:16] == b"IHDR" and len(encoded) >= 24:
        width, height = struct.unpack_from(">II", encoded, 16)
        return _Header(height, width, reducible=False)
    if encoded[:3] != b"\xff\xd8\xff":
        return None
    at, may_turn = 2, False  # Exif data may turn it
    for _ in range(_SEGMENTS):
        at = encoded.find(b"\xff", at)
        while 0 <= at < len(encoded) and encoded[at] == 0xFF:
            at += 1
        if not 0 < at <= len(encoded) - 8:
            return None
        mark = encoded[at]
        if mark in (0, 1) or 0xD0 <= mark <= 0xD7:  # alone, without a length
            at += 1
            continue
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):  # the frame, in some coding
            return _Header(*struct.unpack_from(">HH", encoded, at + 4), not may_turn)
        if mark in (0xD9, 0xDA):  # the end, or pixels
            return None
        may_turn |= mark == 0xE1
        at += 1 + max(int.from_bytes(encoded[at + 1 : at + 3], "big"), 2)
    return None


class _ImageClip:
    """Images in a folder or in a .pkl."""

    def __init__(self, path: Path, reduced_jpegs: bool = False) -> None:
        self._path = path
        self._reduced_jpegs = reduced_jpegs
        self._frames = read_pickled_clip(path).frames if is_pickled(path) else frame_files(path)

    def measure(self) -> tuple[int, float]:
        if not self._frames:
            flow = self._path.is_dir() and flow_files(self._path)
            hint = ", but optical flow, which MODEL.modality = 'flow' reads" if flow else ""
            raise DecodeError(f"{self._path}: has no frames{hint}")
        FRAMES.check(self._path, "the folder", len(self._frames))
        return len(self._frames), 0.0

    def decode(
        self, indices: Indices, new_size: NewSize | None = None, area: bool = False
    ) -> Frames:
        reduced_to = new_size if self._reduced_jpegs else None
        images = self.images(set(indices.tolist()), reduced_to)
        return gather(images, indices, new_size, self._path, area)

    def images(
        self, wanted: Collection[int], reduced_to: NewSize | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        if max(wanted) >= len(self._frames):
            raise FewerFrames(len(self._frames))
        sizes = set()
        for number in sorted(wanted):
            image = decode_image(self._frames[number], self._path, number, reduced_to)
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
        area: make frames smaller by averaging pixels, as avi2jpg.py does, instead of bilinear.
        reduced_jpegs: read JPEGs that will be made smaller in 1/2, 1/4 or 1/8 of their size, where
            that is not below the new size. Of 1080p made 256 pixels high that takes a fifth of the
            time; pixels differ by 1 level of 255 on average, at edges by far more, as means of many
            pixels are seen instead of single ones. Not for comparing with published accuracies.
    """

    backend: str | None = None
    reduced_jpegs: bool = False
    area: bool = False

    def __call__(self, path: Path | str, choose: Choose, new_size: NewSize | None = None) -> Frames:
        """The frames that `choose(num_frames, fps)` picks: -> (T, H, W, 3) uint8 RGB

        fps is 0.0 where the clip does not say: a folder of frames, a .pkl. Should the video end
        before a chosen frame, `choose` is asked again with the true number. Each frame is resized
        to `new_size(height, width)` before the next one is decoded, bilinear but for `area`.

        Raises DecodeError when the clip cannot be read.
        """
        path = _existing(path)
        with closing(_open_clip(path, self.backend, self.reduced_jpegs)) as clip:
            num_frames, fps = clip.measure()
            while True:
                try:
                    return clip.decode(_checked(choose(num_frames, fps)), new_size, self.area)
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
        is_empty = file_size(path) == 0 and not path.is_dir()
    except FileNotFoundError:
        raise DecodeError(f"{path}: does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise DecodeError(f"{_shown(path)}: cannot be read ({reason})") from error
    if is_empty:
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

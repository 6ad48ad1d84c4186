"""Decoding: a video file, a folder of frames or a pickled clip -> uint8 (T, H, W, 3) RGB frames."""

import os
import pickle
import re
import stat
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

Frames = NDArray[np.uint8]  # (T, H, W, 3) RGB
Indices = NDArray[np.int64]  # (T,) 0-based frame numbers, in any order, repeats allowed

VIDEO_SUFFIXES = (
    ".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".3gp", ".ts",
    ".mts", ".m2ts", ".ogv", ".asf", ".vob",
)  # fmt: skip
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")

_num_threads = 0  # of a video decoder; 0 = as many as it likes


def limit_threads(num_threads: int) -> None:
    """Let OpenCV and the video decoders of this process use so many threads.

    For processes that work side by side, such as the loader's: one thread each.
    """
    global _num_threads
    _num_threads = num_threads
    cv2.setNumThreads(num_threads)


class DecodeError(ValueError):
    """A clip cannot be read. The message names the file and the reason."""


class _FewerFrames(Exception):
    """A video ended before the wanted frame; holds how many frames it really has."""

    def __init__(self, num_frames: int) -> None:
        super().__init__(num_frames)
        self.num_frames = num_frames


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


def _decode_image(frame: Path | bytes, owner: Path, number: int) -> NDArray[np.uint8]:
    """One encoded image -> (H, W, 3) RGB; a cut off one is an error, not a grey rest."""
    name = frame if isinstance(frame, Path) else f"{owner}, frame {number}"
    try:
        encoded = frame.read_bytes() if isinstance(frame, Path) else frame
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise DecodeError(f"{owner}: cannot read its frame {frame} ({reason})") from error
    if encoded[:2] == b"\xff\xd8" and b"\xff\xd9" not in encoded[encoded.rfind(b"\xff\xda") :]:
        raise DecodeError(f"{name}: the JPEG is cut off")  # no end mark after the last scan
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # no bytes at all, or more pixels than it allows
        image = None
    if image is None:
        raise DecodeError(f"{name}: is not an image that OpenCV reads")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode_images(frames: list[Path] | list[bytes], owner: Path, indices: Indices) -> Frames:
    if len(indices) and not 0 <= indices.min() <= indices.max() < len(frames):
        raise _FewerFrames(len(frames))
    images = {i: _decode_image(frames[i], owner, i) for i in np.unique(indices).tolist()}
    sizes = {image.shape[:2] for image in images.values()}
    if len(sizes) > 1:
        raise DecodeError(f"{owner}: its frames have different sizes (height, width): {sizes}")
    return np.stack([images[i] for i in indices.tolist()])


# --- videos ---------------------------------------------------------------------------------------


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    if not container.streams.video:
        raise DecodeError(f"{path}: has no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = _num_threads
    return stream


def _open(path: Path) -> av.container.InputContainer:
    return av.open(os.path.abspath(path))  # FFmpeg takes the `a` of a relative `a:b.avi` for http


def _open_opencv(path: Path) -> cv2.VideoCapture:
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:  # OpenCV would raise, or, beside some other libraries, crash
        raise ValueError("it takes no name that is not UTF-8") from None
    capture = cv2.VideoCapture(name)
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # upright; some versions do not by default
    return capture


def iterate_frames(path: Path) -> Iterator[av.VideoFrame]:
    """All frames of a video, in the order shown, not converted yet (see `to_image`)."""
    with _open(path) as container:
        yield from container.decode(_video_stream(container, path))


# Older versions of PyAV have no such option, and always use one thread.
_ONE_THREAD = {"threads": 1} if "threads" in (VideoReformatter.reformat.__doc__ or "") else {}


def to_image(
    frame: av.VideoFrame, colours: str = "rgb24", converter: VideoReformatter | None = None
) -> NDArray[np.uint8]:
    """A decoded frame -> (H, W, 3) uint8, turned upright as its rotation metadata asks.

    One converter for all frames of a video saves 0.3 ms a frame, several times the conversion.
    """
    converter = converter or VideoReformatter()
    image = converter.reformat(frame, format=colours, **_ONE_THREAD).to_ndarray()
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def iterate_images(
    path: Path, backend: str = "pyav", wanted: Container[int] | None = None
) -> Iterator[tuple[float, NDArray[np.uint8] | None]]:
    """All frames of a video: (seconds from the start, (H, W, 3) BGR); lets errors through.

    Frames whose number is not `wanted` come as None: they are decoded, but not converted.
    """
    if backend == "pyav":
        converter = VideoReformatter()
        for number, frame in enumerate(iterate_frames(path)):
            take = wanted is None or number in wanted
            yield frame.time or 0.0, to_image(frame, "bgr24", converter) if take else None
        return
    capture, number = _open_opencv(path), 0
    try:
        while capture.grab():
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield seconds, capture.retrieve()[1] if wanted is None or number in wanted else None
            number += 1
    finally:
        capture.release()


def _decode_pyav(path: Path, indices: Indices) -> Frames:
    wanted, last = set(indices.tolist()), int(indices.max())
    images, number, converter = {}, -1, VideoReformatter()
    for number, frame in enumerate(iterate_frames(path)):
        if number in wanted:
            images[number] = to_image(frame, converter=converter)
        if number == last:
            return np.stack([images[i] for i in indices.tolist()])
    raise _FewerFrames(number + 1)


def _decode_opencv(path: Path, indices: Indices) -> Frames:
    wanted, last = set(indices.tolist()), int(indices.max())
    images, number = {}, 0
    capture = _open_opencv(path)
    try:
        while number <= last and capture.grab():
            if number in wanted:
                images[number] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
            number += 1
    finally:
        capture.release()
    if number == 0:
        raise ValueError(_NO_FRAME)
    if number <= last:
        raise _FewerFrames(number)
    return np.stack([images[i] for i in indices.tolist()])


def _measure_pyav(path: Path) -> tuple[int, float]:
    """Frames by counting packets, by decoding them where the header says another number; rate."""
    with _open(path) as container:
        stream = _video_stream(container, path)
        claimed, packets, times = stream.frames, 0, []
        for packet in container.demux():  # of all streams: the cut may lie in a packet of sound
            if packet.is_corrupt:
                raise DecodeError(f"{path}: the file is cut off after frame {packets}")
            if packet.stream_index == stream.index and packet.size > 0 and not packet.is_discard:
                packets += 1
                times.append(packet.pts)
        if "matroska" in container.format.name and path.stat().st_size < _matroska_end(path):
            raise DecodeError(f"{path}: the file is cut off after frame {packets}")
        fps = float(stream.average_rate or _rate_of(times, stream.time_base))
    if claimed in (0, packets):
        return packets, fps
    return sum(1 for _ in iterate_frames(path)), fps


def _rate_of(times: list[int | None], unit: Fraction) -> Fraction | int:
    """Average frames a second of frames shown at these times, in units of seconds; 0 = unknown.

    For files that do not say a rate, such as a browser's recordings, where FFmpeg guesses wildly.
    """
    known = [time for time in times if time is not None]
    span = max(known, default=0) - min(known, default=0)
    return (len(known) - 1) / (span * unit) if span else 0


def _matroska_end(path: Path) -> int:
    """The size that an .mkv or .webm says it has; 0 where it does not say.

    Its two outermost elements are a header and a segment, each with a 4-byte name and a size in
    1 to 8 bytes, the first bit set of which tells how many. FFmpeg takes a cut for the end.
    """
    with open(path, "rb") as file:
        start = file.read(256)
    end = 0
    for name in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):
        at = end + 4
        if start[end:at] != name or at >= len(start):
            return 0
        num_bytes = 9 - start[at].bit_length()
        unknown = (1 << 7 * num_bytes) - 1
        size = int.from_bytes(start[at : at + num_bytes], "big") & unknown
        if size == unknown:
            return 0
        end = at + num_bytes + size
    return end


def _measure_opencv(path: Path) -> tuple[int, float]:
    capture = _open_opencv(path)
    try:
        fps = capture.get(cv2.CAP_PROP_FPS)
        num_frames = sum(1 for _ in iter(capture.grab, False))
    finally:
        capture.release()
    if num_frames == 0:
        raise ValueError(_NO_FRAME)
    return num_frames, fps


_NO_FRAME = "no frame"  # all that OpenCV says of a file that it does not read

# name -> (frames and rate, decode); a later one has its chance when an earlier one fails
BACKENDS = {"pyav": (_measure_pyav, _decode_pyav), "opencv": (_measure_opencv, _decode_opencv)}


def _read_video(path: Path, step: int, *arguments: object, backend: str | None) -> object:
    """Call a backend's step (0 measure, 1 decode); when PyAV fails, OpenCV gets its chance."""
    reasons = []
    for name in [backend] if backend else list(BACKENDS):
        try:
            return BACKENDS[name][step](path, *arguments)
        except (DecodeError, _FewerFrames):
            raise
        except (av.error.FFmpegError, cv2.error, OSError, ValueError) as error:
            reasons.append(f"{name}: {getattr(error, 'strerror', None) or error}")
    raise DecodeError(f"{path}: cannot be decoded ({'; '.join(reasons)})")


# --- the door -------------------------------------------------------------------------------------


def count_frames(path: Path | str, backend: str | None = None) -> int:
    """How many frames a clip (a video, a folder of frames or a .pkl) has, whatever its header says.

    Raises DecodeError when it has none or cannot be read.
    """
    return _measure(_existing(path), backend)[0]


def _measure(path: Path, backend: str | None) -> tuple[int, float]:
    """Number of frames, at least 1, and frames a second; 0.0 where they are not known."""
    if is_pickled(path):
        return len(read_pickled_clip(path).frames), 0.0
    if path.is_dir():
        num_frames, fps = len(frame_files(path)), 0.0
    else:
        num_frames, fps = _read_video(path, 0, backend=backend)
    if num_frames == 0:
        raise DecodeError(f"{path}: has no frames")
    return num_frames, fps


def decode(path: Path | str, indices: Indices, backend: str | None = None) -> Frames:
    """The frames of a clip with these 0-based numbers: -> (T, H, W, 3) uint8 RGB.

    Frame i is the i-th that the decoder yields. Only the wanted frames are converted, and decoding
    stops after the last of them. `backend` is "pyav" or "opencv"; by default PyAV, and OpenCV
    where PyAV fails.

    Raises DecodeError when the clip cannot be read or has fewer frames than asked for.
    """
    path, indices = _existing(path), np.asarray(indices, np.int64)
    try:
        return _decode(path, indices, backend)
    except _FewerFrames as short:
        raise DecodeError(
            f"{path}: has {short.num_frames} frames, but frame number {indices.max()} was asked for"
        ) from None


@dataclass(frozen=True)
class VideoDecoder:
    """Reads those frames of a clip that are chosen when it is known how many there are.

    Args:
        backend: "pyav" or "opencv"; by default PyAV, and OpenCV where PyAV fails.
    """

    backend: str | None = None

    def __call__(self, path: Path | str, choose: Callable[[int, float], Indices]) -> Frames:
        """The frames that `choose(num_frames, fps)` picks: -> (T, H, W, 3) uint8 RGB

        fps is 0.0 where the clip does not say: a folder of frames, a .pkl. Should the video end
        before a chosen frame, `choose` is asked again with the true number.

        Raises DecodeError when the clip cannot be read.
        """
        path = _existing(path)
        num_frames, fps = _measure(path, self.backend)
        while True:
            try:
                return _decode(path, np.asarray(choose(num_frames, fps), np.int64), self.backend)
            except _FewerFrames as short:
                if not 0 < short.num_frames < num_frames:
                    raise DecodeError(f"{path}: has no frames that can be decoded") from None
                num_frames = short.num_frames


def iterate_chosen(
    path: Path | str, choose: Callable[[int, float], Indices]
) -> Iterator[NDArray[np.uint8]]:
    """The frames that `choose(num_frames, fps)` picks, one after the other: (H, W, 3) RGB

    As VideoDecoder, for any number of frames in rising order: one is in memory at a time.

    Raises DecodeError when the clip cannot be read, or ends before a frame that was chosen.
    """
    path = _existing(path)
    num_frames, fps = _measure(path, None)
    indices = np.asarray(choose(num_frames, fps), np.int64)
    if path.is_dir() or is_pickled(path):
        for index in indices:
            yield _decode(path, index[None], None)[0]
        return
    times = dict(zip(*np.unique(indices, return_counts=True), strict=True))
    number, reasons = -1, []
    for backend in BACKENDS:
        try:
            for number, (_, image) in enumerate(iterate_images(path, backend, times)):
                for _ in range(times.get(number, 0)):
                    yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                if number == indices[-1]:
                    return
        except (av.error.FFmpegError, cv2.error, OSError, ValueError) as error:
            reasons.append(f"{backend}: {getattr(error, 'strerror', None) or error}")
        if number >= 0:  # some frames are out: the other reader may count them in another way
            break
    raise DecodeError(
        f"{path}: cannot be decoded to frame {indices[-1]} ({'; '.join(reasons) or 'it ends'})"
    )


def _decode(path: Path, indices: Indices, backend: str | None) -> Frames:
    if indices.ndim != 1 or len(indices) == 0 or indices.min() < 0:
        raise ValueError(f"frame numbers must be a list of whole numbers from 0, got {indices}")
    if is_pickled(path):
        return _decode_images(read_pickled_clip(path).frames, path, indices)
    if path.is_dir():
        return _decode_images(frame_files(path), path, indices)
    return _read_video(path, 1, indices, backend=backend)


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
        with _open(path) as container:
            stream = _video_stream(container, path)
            fps = round(float(stream.average_rate or 0), 3)
            found |= {"fps": fps, "codec": stream.codec_context.name}
            claimed = stream.frames
        frames = 0
        for frames, frame in enumerate(iterate_frames(path), start=1):
            if frames == 1:
                found["height"], found["width"] = to_image(frame).shape[:2]
        found["frames"] = frames
        _, fps = _measure(path, None)  # finds a file that is cut off, which decoders pass over
        found["fps"] = round(fps, 3)
    except (DecodeError, av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return VideoReport(**found, problem=reason.removeprefix(f"{path}: "))
    if claimed and claimed != frames:
        found["note"] = f"the header says {claimed} frames"
    return VideoReport(**found)

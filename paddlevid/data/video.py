"""Video files: the numbers of frames -> the frames, read with PyAV, or OpenCV where that fails."""

import errno
import os
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from paddlevid.data.limits import CLIP_BYTES, FRAME_PIXELS, FRAMES, DecodeError, check_frame
from paddlevid.data.mp4 import check_index
from paddlevid.data.packets import PacketOrder, packet_order, start_test

Frames = NDArray[np.uint8]  # (T, H, W, 3) RGB
Indices = NDArray[np.int64]  # (T,) 0-based frame numbers, in any order, repeats allowed
NewSize = Callable[[int, int], tuple[int, int]]  # (height, width) of a frame -> those it shall have

_num_threads = 0  # of a video decoder; 0 = as many as pay
_KEPT_BYTES = 1 << 25  # of a file whose packets are not read a second time
_KEPT_PACKETS = 50_000
_SMALL = 640 * 480  # pixels of a frame below which handing over to threads costs more than it saves


def limit_threads(num_threads: int) -> None:
    """Let OpenCV and the video decoders of this process use so many threads.

    For processes that work side by side, such as the loader's: one thread each.
    """
    global _num_threads
    _num_threads = num_threads
    cv2.setNumThreads(num_threads)


class FewerFrames(Exception):
    """A video ended before the wanted frame; holds how many frames it really has."""

    def __init__(self, num_frames: int) -> None:
        super().__init__(num_frames)
        self.num_frames = num_frames


def gather(
    numbered: Iterable[tuple[int, NDArray[np.uint8]]],
    indices: Indices,
    new_size: NewSize | None = None,
    path: Path | str = "the clip",
    area: bool = False,
) -> Frames:
    """Frames that come with their numbers -> those of `indices`, in their new size: (T, H, W, C)

    Each is resized, bilinear, before the next one is taken; `area`: smaller by averaging pixels.
    Raises ValueError when they do not have one size, DecodeError, naming the path, when together
    they are above the limit.
    """
    frames = None
    for number, image in numbered:
        height, width = new_size(*image.shape[:2]) if new_size else image.shape[:2]
        if frames is None:
            what = f"a clip of {len(indices)} frames of {width}x{height}"
            CLIP_BYTES.check(path, what, len(indices) * height * width * image.shape[2])
            frames = np.empty((len(indices), height, width, image.shape[2]), np.uint8)
            shrinks = area and height < image.shape[0]
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        if frames.shape[1:3] != (height, width):
            raise ValueError(
                f"its frames have different sizes: {height}x{width} after {frames.shape[1:3]}"
            )
        first, *again = np.flatnonzero(indices == number)
        if image.shape[:2] == (height, width):
            frames[first] = image
        else:
            cv2.resize(image, (width, height), dst=frames[first], interpolation=method)
        frames[again] = frames[first]
    return frames


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The first stream of pictures, about to be decoded.

    Raises DecodeError where there is none, in no known codec, or of frames above the limit.
    """
    if not container.streams.video:
        raise DecodeError(f"{path}: has no video stream")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise DecodeError(f"{path}: its video stream is in no codec that FFmpeg knows")
    stream.thread_type = "AUTO"
    check_frame(path, context.height, context.width)
    context.options = pixel_limit()  # what is in the packets may be larger
    context.thread_count = _num_threads or int(context.width * context.height < _SMALL)
    return stream


# What a file may be, whatever its suffix. FFmpeg knows more by their content: playlists that make
# it open other files, and descriptions of streams that make it listen on the network.
_CONTAINERS = (
    "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,mpegvideo,asf,flv,ogg,h264,hevc,m4v,"
    "vc1,ivf,dv,gif,mjpeg,wav,mp3"
)
_PLAYLISTS = (b"#EXTM3U", b"ffconcat")
_OPENCV_LOG = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # before and from OpenCV 5
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}


def pixel_limit(factor: int = 1) -> dict[str, str]:
    """FFmpeg's option that refuses larger frames before they get their memory."""
    return {"max_pixels": str(FRAME_PIXELS.value * factor)}


def open_video(path: Path) -> av.container.InputContainer:
    """The file, opened with PyAV; DecodeError where it claims more than the limit."""
    check_index(path)
    options = _OPTIONS | pixel_limit(4)  # frames that are somewhat too large still tell their size
    # FFmpeg takes the `a` of a relative `a:b.avi` for http
    return av.open(os.path.abspath(path), options=options, metadata_errors="replace")


def _open_opencv(path: Path) -> cv2.VideoCapture:
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:  # OpenCV would raise, or, beside some other libraries, crash
        raise ValueError("it takes no name that is not UTF-8") from None
    _check_container(path)
    level = _OPENCV_LOG.getLogLevel()
    _OPENCV_LOG.setLogLevel(min(level, 2))  # no warnings: what fails is said by the caller
    try:
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)  # others take `%` for a row of images
    finally:
        _OPENCV_LOG.setLogLevel(level)
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # upright; some versions do not by default
    return capture


def _check_container(path: Path) -> None:
    """Raise ValueError or DecodeError for what PyAV does not open: OpenCV has no such options."""
    with open(path, "rb") as file:
        if file.read(8).startswith(_PLAYLISTS):
            raise ValueError("a playlist, no video")
    try:
        with open_video(path) as container:
            video_stream(container, path)
    except av.error.FFmpegError as error:
        raise ValueError(_NO_FRAME) from error


def iterate_frames(path: Path) -> Iterator[av.VideoFrame]:
    """All frames of a video, in the order shown, not converted yet (see `to_image`)."""
    with open_video(path) as container:
        frames = container.decode(video_stream(container, path))
        for number, frame in enumerate(frames, start=1):
            FRAMES.check(path, "the video", number)
            yield frame


def timed_frames(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[tuple[float, av.VideoFrame]]:
    """All frames that follow in a container, in the order shown, and the seconds when they are.

    An .avi says when packets are decoded, not when their frames are shown: what FFmpeg makes of it
    goes back and forth in videos with B-frames. There the i-th frame is shown when the i-th packet
    is decoded.
    """
    step = 1 / float(stream.average_rate or 25)
    is_avi, seconds = container.format.name == "avi", -step
    times: deque[float] = deque()  # of packets whose frames have not come yet
    for packet in container.demux(stream):
        if is_avi and packet.size and packet.dts is not None:
            times.append(float(packet.dts * packet.time_base))
        for frame in packet.decode():
            found = (times.popleft() if times else None) if is_avi else frame.time
            seconds = seconds + step if found is None else found
            yield seconds, frame


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
        with open_video(path) as container:
            timed = timed_frames(container, video_stream(container, path))
            for number, (seconds, frame) in enumerate(timed):
                FRAMES.check(path, "the video", number + 1)
                take = wanted is None or number in wanted
                yield seconds, to_image(frame, "bgr24", converter) if take else None
        return
    capture, number = _open_opencv(path), 0
    try:
        while capture.grab():
            FRAMES.check(path, "the video", number + 1)
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield seconds, capture.retrieve()[1] if wanted is None or number in wanted else None
            number += 1
    finally:
        capture.release()


class _Misplaced(Exception):
    """A frame comes where the times of the packets say that another one is."""


class _PyAVVideo:
    """A video file, read with PyAV."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container: av.container.InputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._kept: list[av.Packet] | None = None  # all of the video, if these are not many bytes
        self._order: PacketOrder | None = None  # None: not known, or not certain

    def measure(self) -> tuple[int, float]:
        """Frames by counting packets, by decoding them where the header says another number; rate.

        All packets are read here, so it is also known what stands in which.
        """
        path = self._path
        self._container = container = open_video(path)
        self._stream = stream = video_stream(container, path)
        claimed, times, starts, is_whole = stream.frames, [], [], True
        kept = [] if path.stat().st_size <= _KEPT_BYTES else None
        is_start = start_test(container, stream)
        most, num_packets = FRAMES.value, 0
        for packet in container.demux():  # of all streams: the cut may lie in a packet of sound
            if packet.is_corrupt:
                raise DecodeError(f"{path}: the file is cut off after frame {len(times)}")
            if packet.stream_index != stream.index:
                continue
            num_packets += 1
            if num_packets > most + 1:  # the last is empty
                FRAMES.check(path, "the video", num_packets)
            if kept is not None:
                kept.append(packet)
                if len(kept) > _KEPT_PACKETS:
                    kept = None
            if packet.is_discard:
                is_whole = False
            elif packet.size > 0:
                times.append(packet.pts)
                starts.append(is_start is not None and is_start(packet))
        if "matroska" in container.format.name and path.stat().st_size < _matroska_end(path):
            raise DecodeError(f"{path}: the file is cut off after frame {len(times)}")
        fps = float(stream.average_rate or _rate_of(times, stream.time_base))
        if claimed not in (0, len(times)):
            return sum(1 for _ in iterate_frames(path)), fps
        self._kept = kept
        if is_whole and is_start:
            self._order = packet_order(times, starts, bool(stream.codec_context.has_b_frames))
        return len(times), fps

    def images(self, wanted: Collection[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The wanted frames and their numbers; from the first one again if they were misplaced."""
        last, given, converter = max(wanted), -1, VideoReformatter()
        if self._order and last < len(self._order.frames):
            try:
                for given, frame in self._needed_frames(self._order, wanted):
                    yield given, to_image(frame, converter=converter)
                return
            except _Misplaced:
                given = -1
            except av.error.FFmpegError:
                pass
            self._order = None  # what the decoder yields is counted from here on
        number = -1
        for number, frame in enumerate(self._all_frames()):
            if number in wanted and number > given:
                yield number, to_image(frame, converter=converter)
            if number == last:
                return
        raise FewerFrames(number + 1)

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets():
            yield from packet.decode()

    def _needed_frames(
        self, order: PacketOrder, wanted: Collection[int]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """The wanted frames and their numbers, decoding no more than they need."""
        left, latest = set(wanted), -1
        for frame in self._decode_needed(order, wanted):
            number = order.numbers.get(frame.pts, -1)
            if number <= latest or frame.interlaced_frame:  # a packet may hold half of a frame
                raise _Misplaced
            latest = number
            if number in left:
                left.remove(number)
                yield number, frame
                if not left:
                    return
        raise _Misplaced

    def _decode_needed(
        self, order: PacketOrder, wanted: Collection[int]
    ) -> Iterator[av.VideoFrame]:
        needed, is_wanted = order.needed(wanted), np.isin(order.frames, list(wanted))
        packets = self._packets()
        context = self._stream.codec_context
        # Frames that no other one refers to are left out. HEVC's flag tells it of a layer only.
        passed = "NONREF" if context.name == "h264" else "DEFAULT"
        of_frames = (packet for packet in packets if packet.size > 0)
        for number, packet in zip(range(np.flatnonzero(needed)[-1] + 1), of_frames, strict=False):
            if needed[number]:
                context.skip_frame = "DEFAULT" if is_wanted[number] else passed
                yield from context.decode(packet)
        yield from context.decode(None)

    def _packets(self) -> Iterable[av.Packet]:
        """All packets of the video, for a decoder that has decoded nothing yet."""
        if self._kept:
            kept, self._kept = self._kept, None
            return kept
        self.close()
        self._container = open_video(self._path)
        self._stream = video_stream(self._container, self._path)
        return self._container.demux(self._stream)

    def close(self) -> None:
        if self._container is not None:
            self._container.close()


class _OpenCVVideo:
    """A video file, read with OpenCV."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def measure(self) -> tuple[int, float]:
        """Frames by decoding all, and the rate that the header says."""
        capture = _open_opencv(self._path)
        try:
            fps = capture.get(cv2.CAP_PROP_FPS)
            num_frames = 0
            while capture.grab():
                num_frames += 1
                FRAMES.check(self._path, "the video", num_frames)
        finally:
            capture.release()
        if num_frames == 0:
            raise ValueError(_NO_FRAME)
        return num_frames, fps

    def images(self, wanted: Collection[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        number, last = -1, max(wanted)
        for number, (_, image) in enumerate(iterate_images(self._path, "opencv", wanted)):
            if number in wanted:
                yield number, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            if number == last:
                return
        if number < 0:
            raise ValueError(_NO_FRAME)
        raise FewerFrames(number + 1)

    def close(self) -> None:
        pass


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


_NO_FRAME = "no frame"  # all that OpenCV says of a file that it does not read

# A later one has its chance when an earlier one fails.
BACKENDS = {"pyav": _PyAVVideo, "opencv": _OpenCVVideo}
_ERRORS = (av.error.FFmpegError, cv2.error, OSError, ValueError)


def _reason(name: str, error: Exception) -> str:
    return f"{name}: {getattr(error, 'strerror', None) or error}"


def check_refusal(error: Exception, path: Path) -> None:
    """Raise DecodeError where FFmpeg refused what its options forbid, which OpenCV would decode."""
    if isinstance(error, av.error.FFmpegError) and error.errno == errno.EINVAL:
        raise DecodeError(
            f"{path}: cannot be decoded (damaged, no container of videos, or a frame of more than "
            f"{FRAME_PIXELS.value:,} pixels: for a file that you trust, raise "
            f"{FRAME_PIXELS.variable})"
        ) from error


class VideoClip:
    """A video file, read by the first of the backends that does not fail.

    All methods raise DecodeError when all fail; `decode` and `images` raise FewerFrames.
    """

    def __init__(self, path: Path, backend: str | None = None) -> None:
        self._path = path
        names = [backend] if backend else list(BACKENDS)
        self._readers = {name: BACKENDS[name](path) for name in names}

    def measure(self) -> tuple[int, float]:
        """Number of frames, at least 1, and frames a second; 0.0 where they are not known."""
        num_frames, fps = self._try(lambda reader: reader.measure())
        if num_frames == 0:
            raise DecodeError(f"{self._path}: has no frames")
        return num_frames, fps

    def decode(
        self, indices: Indices, new_size: NewSize | None = None, area: bool = False
    ) -> Frames:
        """The frames with these numbers, resized one by one: -> (T, H, W, 3)"""
        wanted = set(indices.tolist())
        return self._try(
            lambda reader: gather(reader.images(wanted), indices, new_size, self._path, area)
        )

    def images(self, wanted: Collection[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The wanted frames and their numbers, one at a time, in rising order."""
        reasons, latest = [], -1
        for name, reader in self._readers.items():
            try:
                for number, image in reader.images(wanted):
                    if number <= latest:
                        raise ValueError("its frames are not in the order that it says")
                    latest = number
                    yield number, image
                return
            except _ERRORS as error:
                check_refusal(error, self._path)
                reasons.append(_reason(name, error))
                if latest >= 0:  # the other reader may count the frames in another way
                    break
        raise DecodeError(f"{self._path}: cannot be decoded ({'; '.join(reasons)})")

    def close(self) -> None:
        """Close the file."""
        for reader in self._readers.values():
            reader.close()

    def _try(self, read: Callable) -> object:
        reasons = []
        for name, reader in self._readers.items():
            try:
                return read(reader)
            except DecodeError:
                raise
            except FewerFrames as short:
                if not reasons:
                    raise
                reasons.append(f"{name}: it ends after {short.num_frames} frames")
            except _ERRORS as error:
                check_refusal(error, self._path)
                reasons.append(_reason(name, error))
        raise DecodeError(f"{self._path}: cannot be decoded ({'; '.join(reasons)})")

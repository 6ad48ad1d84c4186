"""Encoding: frames, one after the other, and the sound of another file -> a video file."""

import contextlib
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from paddlevid.data.decode import Frames, open_video

ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first that this PyAV has is taken
# Sound in these goes into an MP4 as it is and is played there; any other is encoded anew as AAC.
_KEPT_SOUND = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")
_AAC_RATES = (
    8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000,
)  # fmt: skip
_MPEG4_UNIT = Fraction(1, 60_000)  # of times; MPEG-4's may not be smaller than 1 / 65535


def choose_encoder() -> str:
    """The name of the encoder for H.264, or of the one in its place, which the log says."""
    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        if name != ENCODERS[0]:
            logging.getLogger(__name__).warning(
                "PyAV has no %s here, so videos are written with %s%s: PyAV's wheels from PyPI "
                "have it", ENCODERS[0], name, ", which browsers do not play" * (name == "mpeg4")
            )  # fmt: skip
        return name
    raise ValueError(f"PyAV has none of the encoders {', '.join(ENCODERS)}: install it from PyPI")


class Mp4Writer:
    """An MP4 that is written frame by frame; what was written before is not kept in memory.

    Args:
        path: the file, whatever its suffix.
        height, width: of the frames. Odd ones get one more pixel, a copy of the last.
        rate: frames a second, on average.
        unit: of the times, in seconds; they are rounded to it.
        pixel_aspect: the width of a pixel as shown, for its height.
        sound: a video file whose first audio stream is wanted too, from `sound_start` seconds on.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        *,
        rate: Fraction | int = 25,
        unit: Fraction | None = None,
        pixel_aspect: Fraction | int = 1,
        sound: Path | None = None,
        sound_start: float = 0.0,
    ) -> None:
        self._odd = [(0, height % 2), (0, width % 2), (0, 0)]
        encoder = choose_encoder()
        self._unit = unit or 1 / Fraction(rate)
        if encoder == "mpeg4":
            self._unit = max(self._unit, _MPEG4_UNIT)
        self._step = float(1 / Fraction(rate))  # seconds that the last frame is shown
        self._path = path
        self._container = av.open(str(path), "w", format="mp4")
        self._stream = stream = self._container.add_stream(encoder, rate=Fraction(rate))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._unit
        stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
        stream.options = {"crf": "18", "preset": "veryfast"} if encoder == "libx264" else {}
        if encoder != "libx264":
            stream.bit_rate = max(int(width * height * rate * 0.2), 200_000)
        self._shift, self._last = 0.0, -1  # seconds, units
        self._sound, self._note = None, ""
        if sound:
            self._sound, self._note = _open_sound(sound, sound_start, self._container)

    def __enter__(self) -> "Mp4Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Have FFmpeg's errors say which file."""
        try:
            yield
        except av.error.FFmpegError as error:
            reason = f"cannot be written ({error.strerror})"
            raise OSError(error.errno, reason, str(self._path)) from error

    def write(self, image: NDArray[np.uint8], seconds: float) -> None:
        """Add a frame, (H, W, 3) RGB, that is shown from `seconds` on.

        Times must rise. One that does not is taken for the next moment; after a leap back of more
        than a second, as of a line that was opened again, all later times are shifted.
        """
        last = self._last * float(self._unit)
        if seconds + self._shift < last - 1:
            self._shift = last + self._step - seconds
        shown = max(round((seconds + self._shift) / float(self._unit)), self._last + 1)
        self._last = shown
        frame = av.VideoFrame.from_ndarray(np.pad(image, self._odd, "edge"), "rgb24")
        frame.pts, frame.time_base = shown, self._unit
        with self._writing():
            if self._sound:
                self._sound.copy_until(seconds)
            self._mux(self._stream.encode(frame))

    def finish(self, with_rest_of_sound: bool = True) -> str:
        """Write what is still held: -> what became of the sound, where it is not as it was."""
        end = self._last * float(self._unit) - self._shift + self._step
        with self._writing():
            self._mux(self._stream.encode())
            if self._sound:
                self._sound.copy_until(float("inf") if with_rest_of_sound else end)
                self._note = self._sound.finish()
            self._container.close()
        return self._note

    def close(self) -> None:
        """Close the files."""
        if self._sound:
            self._sound.close()
        with self._writing():
            self._container.close()

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            packet.duration = packet.duration or round(self._step / float(self._unit)) or 1
            self._container.mux(packet)


def _open_sound(
    path: Path, start: float, output: av.container.OutputContainer
) -> tuple["_Sound | None", str]:
    """The first audio stream of a file, and why there is none where it has one."""
    container = open_video(path)
    streams = container.streams.audio
    if streams and streams[0].codec_context and streams[0].codec_context.sample_rate:
        return _Sound(container, start, output), ""
    container.close()
    return None, "its sound is in no codec that FFmpeg knows, so it is left out" * bool(streams)


class _Sound:
    """The first audio stream of a file on its way into another one, a packet at a time."""

    def __init__(
        self,
        container: av.container.InputContainer,
        start: float,
        output: av.container.OutputContainer,
    ) -> None:
        self.note = ""
        self._container, self._start, self._output = container, start, output
        self._stream = stream = container.streams.audio[0]
        self._is_kept = stream.codec_context.codec.canonical_name in _KEPT_SOUND
        self._packets = self._read()
        self._next = next(self._packets, None)
        self._last = None  # time of decoding of the packet before, in units of the stream
        if self._is_kept:
            self._target = output.add_stream_from_template(stream)
            return
        rate = stream.codec_context.sample_rate
        rate = min((r for r in _AAC_RATES if r >= rate), default=_AAC_RATES[-1])
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        self._target = output.add_stream("aac", rate=rate, layout=layout)

    def copy_until(self, seconds: float) -> None:
        """Pass on what is heard up to then."""
        while self._next is not None and self._time(self._next) - self._start <= seconds:
            packet, self._next = self._next, next(self._packets, None)
            if self._is_kept:
                self._keep(packet)
            else:
                self._encode(packet)

    def finish(self) -> str:
        """Write what is still held: -> what is wrong with the sound."""
        if not self._is_kept:
            for frame in self._decode(None):
                self._output.mux(self._target.encode(frame))
            self._output.mux(self._target.encode())
        return self.note

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _read(self) -> Iterator[av.Packet]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.size and packet.dts is not None:
                    yield packet
        except av.error.FFmpegError as error:
            self.note = f"its sound breaks off: {error.strerror}"

    def _time(self, packet: av.Packet) -> float:
        return float(packet.dts * packet.time_base)

    def _shift(self, packet: av.Packet) -> int:
        return round(self._start / packet.time_base)

    def _keep(self, packet: av.Packet) -> None:
        shift = self._shift(packet)
        packet.dts -= shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        if self._last is not None and packet.dts <= self._last:  # an MP4 takes rising times only
            packet.pts = packet.dts = self._last + 1
        self._last = packet.dts
        packet.stream = self._target
        self._output.mux(packet)

    def _encode(self, packet: av.Packet) -> None:
        for frame in self._decode(packet):
            if frame.pts is not None:
                frame.pts -= round(self._start / frame.time_base)
            self._output.mux(self._target.encode(frame))

    def _decode(self, packet: av.Packet | None) -> list[av.AudioFrame]:
        try:
            return self._stream.codec_context.decode(packet)
        except av.error.FFmpegError as error:  # of a damaged packet; the next one may be whole
            self.note = f"its sound is damaged: {error.strerror}"
            return []


def write_mp4(path: Path, frames: Frames, rate: int = 10) -> None:
    """Write RGB frames, uint8 (T, H, W, 3), as H.264, which browsers play too.

    Ten a second, slow enough to be looked at. Sides of an odd number of pixels get one more, a
    copy of the last.
    """
    _, height, width, _ = frames.shape
    with Mp4Writer(path, height, width, rate=rate) as writer:
        for number, frame in enumerate(frames):
            writer.write(frame, number / rate)
        writer.finish()

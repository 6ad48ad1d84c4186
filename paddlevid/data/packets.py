"""Packets: which of a video's frames are wanted -> which of its packets have to be decoded.

Nothing is decoded to tell this: a container such as .mp4 or .mkv stores when each frame is shown,
and a packet shows in its first bytes whether decoding can start with it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

# Containers that store the time of each frame. Of others, such as .avi, FFmpeg guesses it.
_WITH_TIMES = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}


@dataclass(frozen=True)
class PacketOrder:
    """The n packets of a video, each of which holds one frame."""

    numbers: dict[int, int]  # time of a frame -> its number: 0-based, in the order shown
    frames: NDArray[np.int64]  # (n,), the number of each packet's frame
    starts: NDArray[np.bool_]  # (n,), whether what follows needs no packet before this one

    def needed(self, wanted: Collection[int]) -> NDArray[np.bool_]:
        """Which packets the wanted frames need: -> (n,)

        For each the packets from the last start on that is not shown after it.
        """
        needed = np.zeros(len(self.frames), bool)
        starts = np.flatnonzero(self.starts)
        for packet in np.flatnonzero(np.isin(self.frames, list(wanted))):
            before = starts[starts <= packet]
            start = before[self.frames[before] <= self.frames[packet]][-1]
            needed[start : packet + 1] = True
        return needed


def packet_order(
    times: Sequence[int | None], starts: Sequence[bool], reorders: bool
) -> PacketOrder | None:
    """The order of packets in which frames with these times lie; None where it is not certain.

    Args:
        times: of the packets' frames, in a unit of their own.
        starts: of the packets, see `start_test`.
        reorders: whether the decoder shows frames in another order than that of the packets.
    """
    if not times or None in times or len(set(times)) < len(times):
        return None
    order = np.argsort(times)
    if not starts[0] or order[0] != 0:  # a decoder drops frames before the first start
        return None
    is_in_order = bool((np.diff(order) == 1).all())
    if reorders and is_in_order:  # then these are not the times at which frames are shown
        return None
    frames = np.empty(len(times), np.int64)
    frames[order] = np.arange(len(times))
    numbers = dict(zip(times, frames.tolist(), strict=True))
    return PacketOrder(numbers, frames, np.array(starts, bool))


def start_test(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Callable[[av.Packet], bool] | None:
    """What tells whether decoding can start with a packet; None: nothing does, with certainty.

    That a container calls a packet a key frame is not enough: with an open group of pictures, or
    with refresh column by column, frames after it need others before it. H.264 and HEVC mark
    those that nothing looks past ("IDR").
    """
    extradata = stream.codec_context.extradata or b""
    if container.format.name not in _WITH_TIMES or len(extradata) < 23 or extradata[0] != 1:
        return None  # extradata: the form in which packets are units with their length in front
    if stream.codec_context.name == "h264":
        length_bytes, kind, slices, idr = (extradata[4] & 3) + 1, _h264_kind, range(1, 6), {5}
    elif stream.codec_context.name == "hevc":
        length_bytes, kind, slices, idr = (extradata[21] & 3) + 1, _hevc_kind, range(32), {19, 20}
    else:
        return None

    def is_start(packet: av.Packet) -> bool:
        if not packet.is_keyframe:
            return False
        content, at = memoryview(packet), 0
        while at + length_bytes < len(content):
            unit = kind(content[at + length_bytes])
            if unit in slices:
                return unit in idr
            at += length_bytes + int.from_bytes(content[at : at + length_bytes], "big")
        return False

    return is_start


def _h264_kind(header: int) -> int:
    return header & 31


def _hevc_kind(header: int) -> int:
    return header >> 1 & 63

"""MP4 and MOV: how many frames and pieces of sound the tables of a file claim, before it is opened.

FFmpeg makes an index of all of them, a few bytes of a header being enough for gigabytes of it.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from paddlevid.data.limits import CLIP_BYTES, FRAMES, DecodeError

_ENTRIES = 8  # of the index for each frame of the limit, as sound has entries too
_SOUNDS = 1024  # samples of sound without compression that FFmpeg takes as one
_INSIDE = {b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"traf", b"mvex"}


def check_index(path: Path) -> None:
    """Raise DecodeError where the index of an .mp4 or .mov would be far above the limit of frames.

    Says nothing of other files; OSError where it cannot be read.
    """
    entries = 0
    with open(path, "rb") as file:
        for name, size in _top_boxes(file):
            if name in (b"moov", b"moof"):
                CLIP_BYTES.check(path, "its header", size)
                entries += _claimed(memoryview(file.read(size)))
    if entries > _ENTRIES * FRAMES.value:
        raise DecodeError(
            f"{path}: its header claims {entries:,} frames and sounds, more than {_ENTRIES} for "
            f"each of {FRAMES.value:,} frames: for a file that you trust, raise {FRAMES.variable}"
        )


def _top_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The names of the outermost boxes and the sizes of their contents, where the file stands."""
    end = file.seek(0, 2)
    at = 0
    while at + 8 <= end:
        file.seek(at)
        size, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            size, head = int.from_bytes(file.read(8), "big"), 16
        elif size == 0:  # to the end
            size = end - at
        if size < head:
            return
        yield name, min(size, end - at) - head
        at += size


def _boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The boxes of a content, and those inside of them that hold more."""
    at = 0
    while at + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        head = 8
        if size == 1 and at + 16 <= len(content):
            size, head = int.from_bytes(content[at + 8 : at + 16], "big"), 16
        elif size == 0:
            size = len(content) - at
        if size < head:
            return
        inside = content[at + head : at + size]
        yield name, inside
        if name in _INSIDE - {b"trak"}:
            yield from _boxes(inside)
        at += size


def _claimed(content: memoryview) -> int:
    """Entries of the index for what is in a `moov` or a `moof`."""
    entries = 0
    for box, inside in _boxes(content):
        if box == b"trak":
            entries += _of_track(inside)
        elif box == b"trun":  # a run of frames of a fragment
            entries += _number(inside, 4)
    return entries


def _of_track(content: memoryview) -> int:
    tables: dict[bytes, list[memoryview]] = {}
    for name, inside in _boxes(content):
        tables.setdefault(name, []).append(inside)
    samples = max((_number(t, 8) for k in (b"stsz", b"stz2") for t in tables.get(k, [])), default=0)
    is_sound = any(table[8:12] == b"soun" for table in tables.get(b"hdlr", []))
    lasts_one = all(_number(t, 4) == 1 == _number(t, 12) for t in tables.get(b"stts", []))
    if is_sound and lasts_one:
        chunks = max(
            (_number(t, 4) for k in (b"stco", b"co64") for t in tables.get(k, [])), default=0
        )
        per_chunk = max((_most_per_chunk(table) for table in tables.get(b"stsc", [])), default=0)
        samples = chunks * (per_chunk // _SOUNDS + 1)
    edits = max((_number(table, 4) for table in tables.get(b"elst", [])), default=1)
    return samples * max(edits, 1)  # each edit may show all of it again


def _most_per_chunk(table: memoryview) -> int:
    entries = table[8 : 8 + (len(table) - 8) // 12 * 12] if len(table) > 8 else b""
    return max((samples for _, samples, _ in struct.iter_unpack(">3I", entries)), default=0)


def _number(table: memoryview, at: int) -> int:
    return int.from_bytes(table[at : at + 4], "big")

"""Limits: how large a clip may be, so that no file fills the memory or holds up a run."""

import os
from dataclasses import dataclass
from pathlib import Path

from paddlevid.files import check_no_pipe


class DecodeError(ValueError):
    """A clip cannot be read. The message names the file and the reason."""


@dataclass(frozen=True)
class Limit:
    """A number that an environment variable changes, for this process and those it starts."""

    variable: str
    default: int
    unit: str

    @property
    def value(self) -> int:
        """ValueError where the variable is no whole number above 0."""
        text = os.environ.get(self.variable) or str(self.default)
        if not text.isdecimal() or int(text) == 0:
            raise ValueError(f"{self.variable} = {text!r}: needs a whole number above 0")
        return int(text)

    def check(self, owner: Path | str, what: str, found: int) -> None:
        """Raise DecodeError, naming the owner, where `what` has more than the limit."""
        if found > self.value:
            raise DecodeError(
                f"{owner}: {what} has {found:,} {self.unit}, more than the limit of "
                f"{self.value:,}: for a file that you trust, raise {self.variable}"
            )


FRAME_PIXELS = Limit("PADDLEVID_MAX_FRAME_PIXELS", 1 << 25, "pixels")  # 8K has 7680 x 4320
FRAMES = Limit("PADDLEVID_MAX_FRAMES", 500_000, "frames")  # of a file or folder; 4.6 h at 30 a s
CLIP_BYTES = Limit("PADDLEVID_MAX_CLIP_BYTES", 1 << 29, "bytes")  # of frames that are held at once


def check_frame(owner: Path | str, height: int, width: int) -> None:
    """Raise DecodeError where a frame of this size has too many pixels."""
    FRAME_PIXELS.check(owner, f"a frame of {width}x{height}", height * width)


def file_size(path: Path) -> int:
    """Bytes of a file or folder; ValueError for a pipe or a device, which is read without end."""
    check_no_pipe(path)
    return path.stat().st_size


def check_file(path: Path) -> None:
    """Raise DecodeError where a file that is read as a whole has too many bytes.

    OSError where there is none, ValueError for a pipe or a device.
    """
    CLIP_BYTES.check(path, "the file", file_size(path))

"""Frame extraction: a video -> a folder of numbered JPEG files, whole or not at all."""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from paddlevid.data.decode import DecodeError, count_frames
from paddlevid.data.limits import check_frame
from paddlevid.data.video import BACKENDS, check_refusal, iterate_images
from paddlevid.files import replace_folder

Images = Iterator[tuple[float, NDArray[np.uint8]]]  # seconds from the start, (H, W, 3) BGR


def write_frames(
    video: Path,
    folder: Path,
    *,
    quality: int = 95,
    short_side: int | None = None,
    fps: float | None = None,
) -> int:
    """Write all frames of a video as folder/00001.jpg, 00002.jpg, ...: -> how many.

    The folder appears when it is complete; what an interrupted call left is removed.

    Args:
        quality: of the JPEG files, 0 to 100.
        short_side: resize to so many pixels; the aspect ratio is kept.
        fps: keep at most so many frames a second.

    Raises DecodeError when the video cannot be read to its end; OSError when there is no room.
    """
    write = functools.partial(_write, video, quality, short_side or 0, fps)
    return write_images(video, folder, write)


def write_images(video: Path, folder: Path, write: Callable[[Images, Path], int]) -> int:
    """Have `write(frames, folder)` make images of a video's frames: -> how many it says.

    The folder appears when it is complete, in the place of an older one; what an interrupted call
    left is removed.
    """
    expected = count_frames(video)  # tells a file that is cut off, which decoders pass over
    partial = folder.with_name(f".{folder.name}.partial")
    before = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(before, ignore_errors=True)
    num_read, least, reasons = 0, 1, []

    def images(backend: str) -> Images:
        nonlocal num_read
        for num_read, image in enumerate(iterate_images(video, backend), start=1):  # noqa: B007
            yield image

    try:
        for backend in BACKENDS:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            num_read = 0
            try:
                number = write(images(backend), partial)
            except (av.error.FFmpegError, cv2.error) as error:
                check_refusal(error, video)
                reasons.append(f"{backend}: {getattr(error, 'strerror', None) or error}")
                least = max(expected, num_read + 1)  # no other one may end where this one failed
                continue
            if number and num_read >= least:
                replace_folder(partial, folder, before)
                return number
            reasons.append(f"{backend}: it ends after {num_read} of {expected} frames")
        raise DecodeError(f"{video}: cannot be decoded ({'; '.join(reasons)})")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def _write(
    video: Path, quality: int, short_side: int, fps: float | None, images: Images, folder: Path
) -> int:
    number, due = 0, 0.0  # `due`: seconds at which the next frame is wanted
    for seconds, image in images:
        if fps:
            if seconds < due - 1e-6:
                continue
            due = due + 1 / fps if due + 1 / fps > seconds else seconds + 1 / fps
        image = resize_short_side(image, short_side, video)
        number += 1
        (folder / f"{number:05d}.jpg").write_bytes(encode_jpeg(image, quality))
    return number


def short_side_size(short_side: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) of a frame whose short side becomes so long; 0: as it is."""
    scale = short_side / min(height, width) if short_side else 1
    return round(height * scale), round(width * scale)


def resize_short_side(image: NDArray[np.uint8], short_side: int, owner: Path) -> NDArray[np.uint8]:
    """(H, W, C) -> (H', W', C), smaller by averaging pixels, larger bilinear; 0: as it is.

    Raises DecodeError, naming the owner, where that is above the limit.
    """
    height, width = short_side_size(short_side, *image.shape[:2])
    if image.shape[:2] == (height, width):
        return image
    check_frame(owner, height, width)
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """(H, W, 3) BGR, or (H, W) grey -> the content of a .jpg."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

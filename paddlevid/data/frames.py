"""Frame extraction: a video -> a folder of numbered JPEG files, whole or not at all."""

import os
import shutil
from pathlib import Path

import av
import cv2

from paddlevid.data.decode import DecodeError, count_frames
from paddlevid.data.limits import check_frame
from paddlevid.data.video import BACKENDS, check_refusal, iterate_images


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
    count_frames(video)  # tells a file that is cut off, which decoders pass over
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        number, reasons = 0, []
        for backend in BACKENDS:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                number = _write(video, backend, partial, quality, short_side, fps)
            except (av.error.FFmpegError, cv2.error) as error:
                check_refusal(error, video)
                reasons.append(f"{backend}: {getattr(error, 'strerror', None) or error}")
            if number:
                os.replace(partial, folder)
                return number
        raise DecodeError(f"{video}: cannot be decoded ({'; '.join(reasons) or 'no frames'})")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    video: Path,
    backend: str,
    folder: Path,
    quality: int,
    short_side: int | None,
    fps: float | None,
) -> int:
    number, due = 0, 0.0  # `due`: seconds at which the next frame is wanted
    for seconds, image in iterate_images(video, backend):
        if fps:
            if seconds < due - 1e-6:
                continue
            due = due + 1 / fps if due + 1 / fps > seconds else seconds + 1 / fps
        if short_side:
            scale = short_side / min(image.shape[:2])
            size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
            check_frame(video, size[1], size[0])
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            image = cv2.resize(image, size, interpolation=method)
        number += 1
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        (folder / f"{number:05d}.jpg").write_bytes(encoded)
    return number

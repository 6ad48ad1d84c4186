"""Optical flow: consecutive frames -> uint8 fields (T, H, W, 2) of how far pixels move, x and y.

A component v, in pixels from a frame to the next, is held within -bound .. bound and becomes
round((v + bound) * 255 / (2 * bound)), as TSN's tools have it: with a bound of 20 a level is 0.157
pixels and no error above 0.079, 0 is level 128, and what moves further than the bound counts as
the bound.
"""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from paddlevid.data.decode import Choose, VideoDecoder, decode_image, flow_files
from paddlevid.data.frames import (
    Images,
    encode_jpeg,
    resize_short_side,
    short_side_size,
    write_images,
)
from paddlevid.data.limits import FRAMES, DecodeError
from paddlevid.data.video import Frames, NewSize, gather

METHODS = ("dis", "tvl1", "farneback")
_SINGLE = "has a single frame; optical flow is between two"
NOTE = "extract_flow.json"  # in the folder that extract_flow.py wrote to

Estimate = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]


def check_method(method: str) -> None:
    """Raise ValueError for a method that this OpenCV does not have."""
    if method not in METHODS:
        raise ValueError(f"optical flow {method!r}: needs one of {', '.join(METHODS)}")
    if method == "tvl1" and not hasattr(cv2, "optflow"):
        raise ValueError(
            "TV-L1 is in OpenCV's contrib modules, which are not installed: pip uninstall "
            "opencv-python-headless, then pip install opencv-contrib-python-headless; or take dis"
        )


def create_estimator(method: str) -> Estimate:
    """What computes the flow between two grey frames: (H, W), (H, W) -> (H, W, 2) pixels."""
    check_method(method)
    if method == "farneback":
        return lambda before, after: cv2.calcOpticalFlowFarneback(
            before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0
        )
    if method == "tvl1":
        estimator = cv2.optflow.DualTVL1OpticalFlow_create()
    else:
        # The faster presets do without the last refinement: errors of 0.14 pixels instead of 0.05.
        estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return lambda before, after: estimator.calc(before, after, None)


def quantise(flow: NDArray[np.float32], bound: float) -> NDArray[np.uint8]:
    """Pixels -> levels; see the head of this file."""
    return np.rint((np.clip(flow, -bound, bound) + bound) * (255 / (2 * bound))).astype(np.uint8)


def dequantise(levels: NDArray[np.uint8], bound: float) -> NDArray[np.float32]:
    """Levels -> pixels."""
    return levels * np.float32(2 * bound / 255) - np.float32(bound)


@dataclass(frozen=True)
class Flow:
    """How optical flow is computed.

    Args:
        method: one of METHODS.
        bound: largest component in pixels; see `quantise`.
        short_side: of the frames, which are resized before; 0: as they are.
    """

    method: str = "dis"
    bound: float = 20.0
    short_side: int = 256

    def between(self, path: Path, frames: Iterator[NDArray[np.uint8]]) -> Iterator[Frames]:
        """Grey frames (H, W) of `path` -> the fields between neighbours, each (H, W, 2) uint8.

        Raises DecodeError where they are of different sizes, too small, or a single one.
        """
        estimate = create_estimator(self.method)
        before, after = next(frames, None), None
        for after in frames:
            try:
                flow = estimate(before, after)
            except cv2.error as error:
                (h, w), (height, width) = before.shape, after.shape
                raise DecodeError(
                    f"{path}: no optical flow by {self.method} between frames of {w}x{h} and "
                    f"{width}x{height}: they need one size, and 16 pixels or more"
                ) from error
            yield quantise(flow, self.bound)
            before = after
        if before is not None and after is None:
            raise DecodeError(f"{path}: {_SINGLE}")


@dataclass(frozen=True)
class FlowDecoder:
    """Reads those fields of optical flow that are chosen when it is known how many there are.

    Of a folder of flow images they are read. Of a video, a folder of frames or a .pkl they are
    computed: field i lies between the frames i and i + 1, so that there is one less than frames.
    """

    flow: Flow = Flow()

    def __call__(self, path: Path | str, choose: Choose, new_size: NewSize | None = None) -> Frames:
        """As a VideoDecoder, for fields: -> (T, H, W, 2) uint8

        Raises DecodeError when the clip cannot be read, or is a single frame.
        """
        path = Path(path)
        if path.is_dir() and (files := flow_files(path)):
            FRAMES.check(path, "the folder", len(files))
            indices = np.asarray(choose(len(files), 0.0), np.int64)
            numbers = np.unique(indices).tolist()
            return gather(_read(path, files, numbers), indices, new_size, path)
        return self._compute(path, choose, new_size)

    def _compute(self, path: Path, choose: Choose, new_size: NewSize | None) -> Frames:
        chosen = np.empty(0, np.int64)  # fields, and the frames on both sides of them
        wanted = chosen

        def choose_frames(num_frames: int, fps: float) -> NDArray[np.int64]:
            nonlocal chosen, wanted
            if num_frames < 2:
                raise DecodeError(f"{path}: {_SINGLE}")
            chosen = np.asarray(choose(num_frames - 1, fps), np.int64)
            wanted = np.union1d(chosen, chosen + 1)
            return wanted

        resize = functools.partial(short_side_size, self.flow.short_side)
        frames = VideoDecoder(area=True)(path, choose_frames, resize)
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]

        def fields() -> Iterator[tuple[int, Frames]]:
            at = {number: place for place, number in enumerate(wanted.tolist())}
            for number in np.unique(chosen).tolist():
                place = at[number]
                [field] = self.flow.between(path, iter(grey[place : place + 2]))
                yield number, field

        return gather(fields(), chosen, new_size, path)


def _read(
    path: Path, files: list[tuple[Path, Path]], numbers: list[int]
) -> Iterator[tuple[int, Frames]]:
    for number in numbers:
        x, y = (decode_image(file, path, number)[..., 0] for file in files[number])
        if x.shape != y.shape:
            raise DecodeError(f"{path}: the x and the y image of number {number} differ in size")
        yield number, np.dstack([x, y])


def write_flow(video: Path, folder: Path, *, quality: int = 95, **flow: object) -> int:
    """Write a video's flow as folder/flow_x_00001.jpg, flow_y_00001.jpg, ...: -> how many fields.

    The folder appears when it is complete; what an interrupted call left is removed.

    Args:
        quality: of the JPEG files, 0 to 100.
        flow: arguments of Flow.

    Raises DecodeError when the video cannot be read to its end, or is a single frame.
    """
    computed = Flow(**flow)

    def write(images: Images, partial: Path) -> int:
        count = 0
        sized = (resize_short_side(image, computed.short_side, video) for _, image in images)
        grey = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in sized)
        for count, field in enumerate(computed.between(video, grey), start=1):
            for name, component in zip("xy", cv2.split(field), strict=True):
                file = partial / f"flow_{name}_{count:05d}.jpg"
                file.write_bytes(encode_jpeg(component, quality))
        return count

    return write_images(video, folder, write)


def read_note(clip: Path) -> Flow | None:
    """How the flow in a clip's folder was made, as extract_flow.py noted; None without a note.

    Raises ValueError where the note is damaged.
    """
    note = clip.parent.parent / NOTE
    if not note.is_file():
        return None
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        return Flow(**{key: type(value)(content[key]) for key, value in asdict(Flow()).items()})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{note} is damaged: extract the flow anew ({error})") from error

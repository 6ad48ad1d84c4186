"""Transforms: uint8 clips (T, H, W, C) -> the same; `Normalize`, the last, -> float32 (C, T, H, W).

C is 3, RGB, or 2 for fields of optical flow: the x and y components as levels around 127.5.

A transform is called with a clip and a generator, and draws once for all frames of the clip.
Resizing is bilinear with pixel centres at half-integers and no anti-aliasing (OpenCV's
INTER_LINEAR), as PyTorch's interpolate(align_corners=False) does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from paddlevid.data.decode import Frames

Transform = Callable[[Frames, Generator], Frames]
Crops = Callable[[Frames], list[Frames]]


def resize(clip: Frames, height: int, width: int) -> Frames:
    """(T, H, W, C) -> (T, height, width, C), bilinear."""
    if clip.shape[1:3] == (height, width):
        return clip
    resized = np.empty((len(clip), height, width, clip.shape[3]), clip.dtype)
    for frame, target in zip(clip, resized, strict=True):
        cv2.resize(frame, (width, height), dst=target)
    return resized


def crop(clip: Frames, top: int, left: int, height: int, width: int) -> Frames:
    """(T, H, W, C) -> (T, height, width, C)"""
    _, full_height, full_width, _ = clip.shape
    if height > full_height or width > full_width:
        raise ValueError(
            f"cannot crop {width}x{height} from frames of {full_width}x{full_height}: "
            "short_size must be at least target_size"
        )
    return clip[:, top : top + height, left : left + width]


@dataclass(frozen=True)
class ResizeShortSide:
    """Resize so that the short side has `size` pixels; the aspect ratio is kept."""

    size: int

    def __call__(self, clip: Frames, rng: Generator | None = None) -> Frames:
        """(T, H, W, C) -> (T, H', W', C)"""
        return resize(clip, *self.new_size(*clip.shape[1:3]))

    def new_size(self, height: int, width: int, rng: Generator | None = None) -> tuple[int, int]:
        """(height, width) that frames of this size get."""
        scale = self.size / min(height, width)
        return round(height * scale), round(width * scale)


@dataclass(frozen=True)
class JitterScale:
    """Resize so that the short side has a random number of pixels from `low` to `high`."""

    low: int
    high: int

    def __call__(self, clip: Frames, rng: Generator) -> Frames:
        """(T, H, W, C) -> (T, H', W', C)"""
        return resize(clip, *self.new_size(*clip.shape[1:3], rng))

    def new_size(self, height: int, width: int, rng: Generator) -> tuple[int, int]:
        """(height, width) that frames of this size get."""
        return ResizeShortSide(int(rng.integers(self.low, self.high + 1))).new_size(height, width)


@dataclass(frozen=True)
class Resize:
    """Resize to a fixed size in pixels; the aspect ratio is not kept (the book: 240 x 320)."""

    height: int
    width: int

    def __call__(self, clip: Frames, rng: Generator | None = None) -> Frames:
        """(T, H, W, C) -> (T, height, width, C)"""
        return resize(clip, self.height, self.width)

    def new_size(self, height: int, width: int, rng: Generator | None = None) -> tuple[int, int]:
        """(height, width) that frames of this size get."""
        return self.height, self.width


@dataclass(frozen=True)
class Letterbox:
    """Resize into a fixed size with the aspect ratio kept, between black bars.

    As TensorFlow's resize_with_pad, which the tutorial on MoViNet uses. The bars have the level
    `fill`: 0 is black.
    """

    height: int
    width: int
    fill: int = 0

    def __call__(self, clip: Frames, rng: Generator | None = None) -> Frames:
        """(T, H, W, C) -> (T, height, width, C)"""
        num_frames, height, width, channels = clip.shape
        ratio = max(height / self.height, width / self.width)
        inside = resize(clip, max(int(height / ratio), 1), max(int(width / ratio), 1))
        _, height, width, _ = inside.shape
        top, left = (self.height - height) // 2, (self.width - width) // 2
        box = np.full((num_frames, self.height, self.width, channels), self.fill, clip.dtype)
        box[:, top : top + height, left : left + width] = inside
        return box


@dataclass(frozen=True)
class MultiScaleCrop:
    """TSN's multi-scale crop (Wang et al. 2016, section 3.3), resized to size x size.

    Height and width of the crop are the short side times two of the scales that are at most
    `max_distortion` places apart in the list; it lies at one of 5 fixed positions (corners and
    centre), or one of 13 (also edge middles and quarter points).
    """

    size: int
    scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66)
    positions: int = 5
    max_distortion: int = 1

    def __call__(self, clip: Frames, rng: Generator) -> Frames:
        """(T, H, W, C) -> (T, size, size, C)"""
        _, height, width, _ = clip.shape
        sides = [int(min(height, width) * scale) for scale in self.scales]
        # A side that is nearly the wanted one is taken as it: no resize of a pixel or two.
        sides = [self.size if abs(side - self.size) < 3 else side for side in sides]
        sides = [min(side, height, width) for side in sides]
        pairs = [
            (crop_height, crop_width)
            for i, crop_height in enumerate(sides)
            for j, crop_width in enumerate(sides)
            if abs(i - j) <= self.max_distortion
        ]
        crop_height, crop_width = pairs[rng.integers(len(pairs))]
        places = crop_places(height - crop_height, width - crop_width, self.positions)
        top, left = places[rng.integers(len(places))]
        return resize(crop(clip, top, left, crop_height, crop_width), self.size, self.size)


def crop_places(spare_height: int, spare_width: int, positions: int) -> list[tuple[int, int]]:
    """(top, left) of the 5 or 13 fixed positions of a crop with so many pixels to spare."""
    y, x = spare_height // 4, spare_width // 4
    quarters = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    if positions == 13:
        quarters += [(2, 0), (2, 4), (0, 2), (4, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    return [(row * y, column * x) for row, column in quarters]


@dataclass(frozen=True)
class ResizedCrop:
    """A random part of the frame, resized to size x size (Szegedy et al. 2015, section 6).

    Of the ranges of its area, as a share of the frame's, and of its aspect (width to height), one
    is drawn evenly and one evenly in the logarithm. Where ten draws do not fit the frame, the
    largest part of a fitting aspect in the middle is taken.
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, clip: Frames, rng: Generator) -> Frames:
        """(T, H, W, C) -> (T, size, size, C)"""
        _, height, width, _ = clip.shape
        for _ in range(10):
            area = height * width * rng.uniform(*self.area)
            aspect = np.exp(rng.uniform(*np.log(self.aspect)))
            h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
            if 0 < h <= height and 0 < w <= width:
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                break
        else:
            aspect = np.clip(width / height, *self.aspect)
            h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
            top, left = (height - h) // 2, (width - w) // 2
        return resize(crop(clip, top, left, h, w), self.size, self.size)


@dataclass(frozen=True)
class RandomCrop:
    """A square of `size` pixels at a random place; the frame itself where it has that size."""

    size: int

    def __call__(self, clip: Frames, rng: Generator) -> Frames:
        """(T, H, W, C) -> (T, size, size, C)"""
        _, height, width, _ = clip.shape
        top = int(rng.integers(0, max(height - self.size, 0) + 1))
        left = int(rng.integers(0, max(width - self.size, 0) + 1))
        return crop(clip, top, left, self.size, self.size)


def mirror_flow(clip: Frames) -> Frames:
    """Fields of optical flow, mirrored left and right: what moved to the left moves to the right.

    The levels of x, channel 0, are inverted, so that a component of 0, level 128, becomes 127.
    """
    mirrored = clip[:, :, ::-1].copy()
    mirrored[..., 0] = 255 - mirrored[..., 0]
    return mirrored


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right with probability p; `of_flow`: fields of optical flow."""

    p: float = 0.5
    of_flow: bool = False

    def __call__(self, clip: Frames, rng: Generator) -> Frames:
        """(T, H, W, C) -> (T, H, W, C)"""
        if rng.random() >= self.p:
            return clip
        if self.of_flow:
            return mirror_flow(clip)
        mirrored = np.empty_like(clip, order="C")
        for frame, target in zip(clip, mirrored, strict=True):
            cv2.flip(frame, 1, dst=target)
        return mirrored


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and saturation by factors from 1 - strength to 1 + strength."""

    strength: float

    def __call__(self, clip: Frames, rng: Generator) -> Frames:
        """(T, H, W, C) -> (T, H, W, C)"""
        brightness, contrast, saturation = rng.uniform(1 - self.strength, 1 + self.strength, 3)
        luma = np.array([0.299, 0.587, 0.114])
        mean = brightness * np.mean([cv2.mean(frame)[:3] for frame in clip], axis=0) @ luma
        # grey + saturation * (pixel - grey), then mean + contrast * (that - mean), as one matrix
        saturate = saturation * np.eye(3) + (1 - saturation) * luma
        matrix = np.column_stack([contrast * brightness * saturate, [(1 - contrast) * mean] * 3])
        changed = np.empty_like(clip, order="C")
        for frame, target in zip(clip, changed, strict=True):
            cv2.transform(frame, matrix, dst=target)  # rounds, and holds 0 .. 255
        return changed


_LEVELS = np.arange(256, dtype=np.float32)  # all values that a pixel can have


def _look_up(clip: Frames, tables: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a table for each channel, (C, 256), says of the pixels: (T, H, W, C) -> (C, T, H, W)

    A tenth of the time of doing the arithmetic for each pixel and then moving the channels.
    """
    num_frames, height, width, channels = clip.shape
    found = np.empty((channels, num_frames, height, width), np.float32)
    for t, frame in enumerate(clip):
        for c, plane in enumerate(cv2.split(frame)):
            cv2.LUT(plane, tables[c], dst=found[c, t])
    return found


@dataclass(frozen=True)
class Normalize:
    """(value / 255 - mean) / std for each channel, and channels first."""

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, clip: Frames) -> NDArray[np.float32]:
        """uint8 (T, H, W, C) -> float32 (C, T, H, W)"""
        mean, std = np.float32(self.mean)[:, None], np.float32(self.std)[:, None]
        return _look_up(clip, _LEVELS * (1 / (255 * std)) - mean / std)


@dataclass(frozen=True)
class NormalizeFlow:
    """Normalize, and `seglen` consecutive fields as channels of one: x1 y1 x2 y2 ..."""

    mean: Sequence[float]
    std: Sequence[float]
    seglen: int

    def __call__(self, clip: Frames) -> NDArray[np.float32]:
        """uint8 (S * seglen, H, W, 2) -> float32 (2 * seglen, S, H, W)"""
        fields = Normalize(self.mean, self.std)(clip)  # (2, S * seglen, H, W)
        _, _, h, w = fields.shape
        fields = fields.reshape(2, -1, self.seglen, h, w).transpose(2, 0, 1, 3, 4)
        return fields.reshape(2 * self.seglen, -1, h, w)


@dataclass(frozen=True)
class ToUnit:
    """Frames from 0 to 1, channels first, for networks that predict frames.

    Args:
        grey: one channel instead of three.
    """

    grey: bool = False

    def __call__(self, clip: Frames) -> NDArray[np.float32]:
        """uint8 (T, H, W, 3) -> float32 (1 or 3, T, H, W)"""
        if self.grey:
            clip = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip])[..., None]
        return _look_up(clip, np.tile(_LEVELS / np.float32(255), (clip.shape[3], 1)))


# --- views: the crops of one clip that are scored one by one and averaged -------------------------


@dataclass(frozen=True)
class CenterCrop:
    """One view: the central square of `size` pixels."""

    size: int

    def __call__(self, clip: Frames) -> list[Frames]:
        """(T, H, W, C) -> 1 of (T, size, size, C)"""
        _, height, width, _ = clip.shape
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return [crop(clip, top, left, self.size, self.size)]


@dataclass(frozen=True)
class UniformCrop:
    """Three squares along the longer side: left, centre, right (or top, centre, bottom)."""

    size: int

    def __call__(self, clip: Frames) -> list[Frames]:
        """(T, H, W, C) -> 3 of (T, size, size, C)"""
        _, height, width, _ = clip.shape
        spare_y, spare_x = height - self.size, width - self.size
        if spare_x >= spare_y:
            places = [(spare_y // 2, left) for left in (0, spare_x // 2, spare_x)]
        else:
            places = [(top, spare_x // 2) for top in (0, spare_y // 2, spare_y)]
        return [crop(clip, top, left, self.size, self.size) for top, left in places]


@dataclass(frozen=True)
class TenCrops:
    """Four corners and the centre, each also mirrored; `of_flow`: fields of optical flow."""

    size: int
    of_flow: bool = False

    def __call__(self, clip: Frames) -> list[Frames]:
        """(T, H, W, C) -> 10 of (T, size, size, C)"""
        _, height, width, _ = clip.shape
        places = crop_places(height - self.size, width - self.size, positions=5)
        crops = [crop(clip, top, left, self.size, self.size) for top, left in places]
        mirror = mirror_flow if self.of_flow else lambda view: view[:, :, ::-1]
        return crops + [mirror(view) for view in crops]


@dataclass(frozen=True)
class Compose:
    """A decoded clip -> the views that the network scores.

    Args:
        steps: called one after the other with the clip and the generator.
        normalize: the last of all.
        crops: cuts several views from the clip; None: the clip itself is the only view.
    """

    steps: Sequence[Transform]
    normalize: Normalize | NormalizeFlow | ToUnit
    crops: Crops | None = None

    def __call__(self, clip: Frames, rng: Generator) -> NDArray[np.float32]:
        """uint8 (T, H, W, C) -> float32 (V, C, T, H, W)"""
        for step in self.steps:
            clip = step(clip, rng)
        views = self.crops(clip) if self.crops else [clip]
        if len(views) == 1:
            return self.normalize(views[0])[None]
        return np.stack([self.normalize(view) for view in views])

    def first_size(self, height: int, width: int, rng: Generator) -> tuple[int, int]:
        """(height, width) to which the first step resizes frames of this size.

        Frames that were resized so one by one, while they were decoded, give the same views from a
        generator in the same state: the step then finds them as they should be. Of a long or large
        video only small frames are ever in memory.
        """
        first = self.steps[0] if self.steps else None
        if isinstance(first, ResizeShortSide | JitterScale | Resize):
            return first.new_size(height, width, rng)
        return height, width

    def without(self, kind: type) -> "Compose":
        """The same, but for the steps of this kind."""
        return replace(self, steps=[step for step in self.steps if not isinstance(step, kind)])

"""Transforms: uint8 clips (T, H, W, C) -> the same; `Normalize`, the last, -> float32 (C, T, H, W).

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
    return np.stack([cv2.resize(frame, (width, height)) for frame in clip])


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
        _, height, width, _ = clip.shape
        scale = self.size / min(height, width)
        return resize(clip, round(height * scale), round(width * scale))


@dataclass(frozen=True)
class JitterScale:
    """Resize so that the short side has a random number of pixels from `low` to `high`."""

    low: int
    high: int

    def __call__(self, clip: Frames, rng: Generator) -> Frames:
        """(T, H, W, C) -> (T, H', W', C)"""
        return ResizeShortSide(int(rng.integers(self.low, self.high + 1)))(clip)


@dataclass(frozen=True)
class Resize:
    """Resize to a fixed size in pixels; the aspect ratio is not kept (the book: 240 x 320)."""

    height: int
    width: int

    def __call__(self, clip: Frames, rng: Generator | None = None) -> Frames:
        """(T, H, W, C) -> (T, height, width, C)"""
        return resize(clip, self.height, self.width)


@dataclass(frozen=True)
class Letterbox:
    """Resize into a fixed size with the aspect ratio kept, between black bars.

    As TensorFlow's resize_with_pad, which the tutorial on MoViNet uses.
    """

    height: int
    width: int

    def __call__(self, clip: Frames, rng: Generator | None = None) -> Frames:
        """(T, H, W, C) -> (T, height, width, C)"""
        num_frames, height, width, channels = clip.shape
        ratio = max(height / self.height, width / self.width)
        inside = resize(clip, max(int(height / ratio), 1), max(int(width / ratio), 1))
        _, height, width, _ = inside.shape
        top, left = (self.height - height) // 2, (self.width - width) // 2
        box = np.zeros((num_frames, self.height, self.width, channels), clip.dtype)
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


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right with probability p."""

    p: float = 0.5

    def __call__(self, clip: Frames, rng: Generator) -> Frames:
        """(T, H, W, C) -> (T, H, W, C)"""
        return clip[:, :, ::-1] if rng.random() < self.p else clip


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and saturation by factors from 1 - strength to 1 + strength."""

    strength: float

    def __call__(self, clip: Frames, rng: Generator) -> Frames:
        """(T, H, W, C) -> (T, H, W, C)"""
        brightness, contrast, saturation = rng.uniform(1 - self.strength, 1 + self.strength, 3)
        pixels = clip.astype(np.float32) * np.float32(brightness)
        grey = pixels @ np.float32([0.299, 0.587, 0.114])  # (T, H, W)
        grey = grey[..., None]
        pixels = (pixels - grey) * np.float32(saturation) + grey
        mean = grey.mean(dtype=np.float32)
        pixels = (pixels - mean) * np.float32(contrast) + mean
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Normalize:
    """(value / 255 - mean) / std for each channel, and channels first."""

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, clip: Frames) -> NDArray[np.float32]:
        """uint8 (T, H, W, C) -> float32 (C, T, H, W)"""
        mean, std = np.float32(self.mean), np.float32(self.std)
        scaled = clip * (1 / (255 * std)) - mean / std
        return np.ascontiguousarray(scaled.transpose(3, 0, 1, 2), dtype=np.float32)


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
        return np.ascontiguousarray(clip.transpose(3, 0, 1, 2), np.float32) / np.float32(255)


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
    """Four corners and the centre, each also mirrored."""

    size: int

    def __call__(self, clip: Frames) -> list[Frames]:
        """(T, H, W, C) -> 10 of (T, size, size, C)"""
        _, height, width, _ = clip.shape
        places = crop_places(height - self.size, width - self.size, positions=5)
        crops = [crop(clip, top, left, self.size, self.size) for top, left in places]
        return crops + [view[:, :, ::-1] for view in crops]


@dataclass(frozen=True)
class Compose:
    """A decoded clip -> the views that the network scores.

    Args:
        steps: called one after the other with the clip and the generator.
        normalize: the last of all.
        crops: cuts several views from the clip; None: the clip itself is the only view.
    """

    steps: Sequence[Transform]
    normalize: Normalize | ToUnit
    crops: Crops | None = None

    def __call__(self, clip: Frames, rng: Generator) -> NDArray[np.float32]:
        """uint8 (T, H, W, C) -> float32 (V, C, T, H, W)"""
        for step in self.steps:
            clip = step(clip, rng)
        views = self.crops(clip) if self.crops else [clip]
        return np.stack([self.normalize(view) for view in views])

    def without(self, kind: type) -> "Compose":
        """The same, but for the steps of this kind."""
        return replace(self, steps=[step for step in self.steps if not isinstance(step, kind)])

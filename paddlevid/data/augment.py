"""AutoAugment (Cubuk et al. 2019, arXiv:1805.09501): changes of form and colour, by search."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from paddlevid.data.decode import Frames

# Table 9 of the paper, ImageNet: an operation, its probability and its magnitude from 0 to 9; the
# two of a line are applied one after the other, and lines lie between the slashes.
IMAGENET_POLICY = """
    posterize 0.4 8, rotate 0.6 9 / solarize 0.6 5, auto_contrast 0.6 0 /
    equalize 0.8 0, equalize 0.6 0 / posterize 0.6 7, posterize 0.6 6 /
    equalize 0.4 0, solarize 0.2 4 / equalize 0.4 0, rotate 0.8 8 /
    solarize 0.6 3, equalize 0.6 0 / posterize 0.8 5, equalize 1.0 0 /
    rotate 0.2 3, solarize 0.6 8 / equalize 0.6 0, posterize 0.4 6 /
    rotate 0.8 8, color 0.4 0 / rotate 0.4 9, equalize 0.6 0 /
    equalize 0.0 0, equalize 0.8 0 / invert 0.6 0, equalize 1.0 0 /
    color 0.6 4, contrast 1.0 8 / rotate 0.8 8, color 1.0 2 /
    color 0.8 8, solarize 0.8 7 / sharpness 0.4 7, invert 0.6 0 /
    shear_x 0.6 5, equalize 1.0 0 / color 0.4 0, equalize 0.6 0 /
    equalize 0.4 0, solarize 0.2 4 / solarize 0.6 5, auto_contrast 0.6 0 /
    invert 0.6 0, equalize 1.0 0 / color 0.6 4, contrast 1.0 8 /
    equalize 0.8 0, equalize 0.6 0
"""


def read_policy(text: str) -> list[list[tuple[str, float, int]]]:
    """The lines of a policy, each a list of (operation, probability, magnitude)."""
    lines = [[step.split() for step in line.split(",")] for line in text.split("/")]
    return [[(name, float(p), int(magnitude)) for name, p, magnitude in line] for line in lines]


class AutoAugment:
    """One line of the policy, drawn at random, for all frames of a clip.

    Histograms are of all frames together, so that a clip does not flicker.
    """

    def __init__(self, policy: str = IMAGENET_POLICY) -> None:
        self.policy = read_policy(policy)

    def __repr__(self) -> str:
        return f"AutoAugment({len(self.policy)} lines)"

    def __call__(self, clip: Frames, rng: Generator) -> Frames:
        """(T, H, W, 3) -> (T, H, W, 3)"""
        for name, probability, magnitude in self.policy[rng.integers(len(self.policy))]:
            sign = 1 if rng.random() < 0.5 else -1
            if rng.random() < probability:
                clip = OPERATIONS[name](np.ascontiguousarray(clip), magnitude / 9, sign)
        return clip


# Operations: a clip, a strength from 0 to 1 and a sign, 1 or -1 -> the clip changed.


def rotate(clip: Frames, strength: float, sign: int) -> Frames:
    """By up to 30 degrees; what comes in at the corners is black."""
    _, height, width, _ = clip.shape
    centre = (width - 1) / 2, (height - 1) / 2
    return _move(clip, cv2.getRotationMatrix2D(centre, sign * strength * 30, 1))


def shear_x(clip: Frames, strength: float, sign: int) -> Frames:
    """Rows shifted by up to 0.3 of their distance from the top."""
    return _move(clip, np.float64([[1, sign * strength * 0.3, 0], [0, 1, 0]]))


def _move(clip: Frames, matrix: NDArray[np.float64]) -> Frames:
    _, height, width, _ = clip.shape
    flags = cv2.INTER_NEAREST
    return np.stack([cv2.warpAffine(frame, matrix, (width, height), flags=flags) for frame in clip])


def posterize(clip: Frames, strength: float, sign: int) -> Frames:
    """Fewer bits of each pixel: 8 to 4."""
    bits = 8 - round(strength * 4)
    return clip & np.uint8(256 - (1 << (8 - bits)))


def solarize(clip: Frames, strength: float, sign: int) -> Frames:
    """Pixels from a threshold on inverted: 255 down to 0."""
    return np.where(clip >= 255 * (1 - strength), 255 - clip, clip)


def invert(clip: Frames, strength: float, sign: int) -> Frames:
    """The negative."""
    return 255 - clip


def equalize(clip: Frames, strength: float, sign: int) -> Frames:
    """Each channel's grey levels spread until all are equally frequent."""
    return _by_channel(clip, cv2.equalizeHist)


def auto_contrast(clip: Frames, strength: float, sign: int) -> Frames:
    """Each channel stretched from 0 to 255."""

    def stretch(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        low, high = int(pixels.min()), int(pixels.max())
        if low == high:
            return pixels
        return ((pixels - np.float32(low)) * np.float32(255 / (high - low))).astype(np.uint8)

    return _by_channel(clip, stretch)


def _by_channel(clip: Frames, change: Callable) -> Frames:
    tall = clip.reshape(-1, *clip.shape[2:])
    return np.dstack([change(channel) for channel in cv2.split(tall)]).reshape(clip.shape)


def color(clip: Frames, strength: float, sign: int) -> Frames:
    """Saturation times 1 - 0.9 to 1 + 0.9."""
    return _blend(_grey(clip)[..., None], clip, 1 + sign * strength * 0.9)


def contrast(clip: Frames, strength: float, sign: int) -> Frames:
    """Distances from the mean grey times 1 - 0.9 to 1 + 0.9."""
    return _blend(np.rint(_grey(clip).mean()), clip, 1 + sign * strength * 0.9)


def sharpness(clip: Frames, strength: float, sign: int) -> Frames:
    """Distances from the smoothed frame times 1 - 0.9 to 1 + 0.9."""
    kernel = np.float32([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = clip.copy()
    for frame, target in zip(clip, smooth, strict=True):
        target[1:-1, 1:-1] = cv2.filter2D(frame, -1, kernel)[1:-1, 1:-1]
    return _blend(smooth, clip, 1 + sign * strength * 0.9)


def _grey(clip: Frames) -> NDArray[np.uint8]:
    tall = clip.reshape(-1, *clip.shape[2:])
    return cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY).reshape(clip.shape[:3])


def _blend(other: NDArray | float, clip: Frames, share: float) -> Frames:
    other = np.asarray(other, np.float32)
    return np.clip(other + np.float32(share) * (clip - other), 0, 255).astype(np.uint8)


OPERATIONS: dict[str, Callable[[Frames, float, int], Frames]] = {
    "rotate": rotate,
    "shear_x": shear_x,
    "posterize": posterize,
    "solarize": solarize,
    "invert": invert,
    "equalize": equalize,
    "auto_contrast": auto_contrast,
    "color": color,
    "contrast": contrast,
    "sharpness": sharpness,
}

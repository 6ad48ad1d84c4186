"""Mixing: two clips of a batch -> one, with a share of each label."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mixed:
    """A batch whose clips hold `share` of themselves and the rest of a partner."""

    clips: NDArray[np.float32]  # (N, C, T, H, W)
    labels: NDArray[np.int64]  # (N,)
    partners: NDArray[np.int64]  # (N,), the partners' labels
    share: float


def mixup(
    clips: NDArray[np.float32], labels: NDArray[np.int64], alpha: float, rng: Generator
) -> Mixed:
    """Weighted means of clips and of their partners (Zhang et al. 2018), one weight for a batch."""
    order, share = rng.permutation(len(clips)), float(rng.beta(alpha, alpha))
    mixed = np.float32(share) * clips + np.float32(1 - share) * clips[order]
    return Mixed(mixed, labels, labels[order], share)


def cutmix(
    clips: NDArray[np.float32], labels: NDArray[np.int64], alpha: float, rng: Generator
) -> Mixed:
    """A box of the partner pasted into all frames (Yun et al. 2019), one box for a batch."""
    order, share = rng.permutation(len(clips)), float(rng.beta(alpha, alpha))
    height, width = clips.shape[3:]
    half = np.sqrt(1 - share) / 2
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    top, bottom = (int(round(np.clip(y + d * half * height, 0, height))) for d in (-1, 1))
    left, right = (int(round(np.clip(x + d * half * width, 0, width))) for d in (-1, 1))
    mixed = clips.copy()
    mixed[..., top:bottom, left:right] = clips[order][..., top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return Mixed(mixed, labels, labels[order], share)


@dataclass(frozen=True)
class Mix:
    """Mixup and cutmix with these alphas, 0 = off; where both are on, either by chance."""

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(
        self, clips: NDArray[np.float32], labels: NDArray[np.int64], rng: Generator
    ) -> Mixed:
        """Clips (N, C, T, H, W) and labels (N,), mixed by the generator's draws."""
        kinds = [
            (mix, alpha) for mix, alpha in ((mixup, self.mixup), (cutmix, self.cutmix)) if alpha
        ]
        if not kinds:
            return Mixed(clips, labels, labels, 1.0)
        mix, alpha = kinds[rng.integers(len(kinds))]
        return mix(clips, labels, alpha, rng)

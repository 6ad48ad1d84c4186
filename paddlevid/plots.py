"""Pictures: counts and matrices -> matplotlib figures, PNG files and image arrays."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Class names may be Chinese: whichever of these fonts is installed comes after the usual one.
_CJK_FONTS = ("Noto Sans CJK SC", "WenQuanYi Micro Hei", "SimHei", "Microsoft YaHei", "PingFang SC")
_installed = {font.name for font in font_manager.fontManager.ttflist}
matplotlib.rcParams["font.family"] = ["DejaVu Sans", *(f for f in _CJK_FONTS if f in _installed)]


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """A confusion matrix (K, K) with its counts: rows are labels, columns predictions."""
    num_classes = len(classes)
    side = min(3 + 0.35 * num_classes, 24)  # inches
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, label="share of the class's clips", shrink=0.8)
    axes.set_xticks(range(num_classes), classes, rotation=90)
    axes.set_yticks(range(num_classes), classes)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if num_classes <= 30:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=8)
    return figure


def counts_figure(
    clips: dict[str, Sequence[int]], classes: Sequence[str], num_frames: Sequence[int]
) -> Figure:
    """Clips of each class, stacked by split ({split: counts}), and a histogram of frames a clip."""
    figure = Figure(figsize=(10, min(3 + 0.25 * len(classes), 30)), layout="constrained")
    bars, lengths = figure.subplots(1, 2, width_ratios=(2, 1))
    left = np.zeros(len(classes))
    for split, counts in clips.items():
        bars.barh(list(classes), counts, left=left, label=split)
        left += counts
    bars.invert_yaxis()
    bars.set_xlabel("clips")
    bars.legend()
    lengths.hist(num_frames, bins=30)
    lengths.set_xlabel("frames")
    lengths.set_ylabel("clips")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    figure.savefig(path, dpi=120)


def to_array(figure: Figure) -> NDArray[np.uint8]:
    """A figure -> (H, W, 3) RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def frame_grid(clips: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> NDArray:
    """Normalised clips (N, C, T, H, W) -> one RGB image, a row for each clip: (N H, T W, 3)."""
    n, c, t, h, w = clips.shape
    pixels = clips[:, :3].transpose(0, 3, 2, 4, 1).reshape(n * h, t * w, 3)
    return np.clip((pixels * np.float32(std) + np.float32(mean)) * 255, 0, 255).astype(np.uint8)

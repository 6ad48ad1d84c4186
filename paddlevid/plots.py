"""Pictures: counts and matrices -> matplotlib figures, PNG files and image arrays."""

import bisect
import contextlib
import functools
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import matplotlib
import matplotlib.image
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Class names may be Chinese: whichever of these fonts is installed comes after the usual one.
_CJK_FONTS = (
    "Noto Sans CJK JP",  # what matplotlib calls the file that holds all of Noto Sans CJK
    "Noto Sans CJK SC",
    "WenQuanYi Micro Hei",
    "SimHei",
    "Microsoft YaHei",
    "PingFang SC",
)
_LONGEST = 60  # letters of a class name beside a matrix
_installed = {font.name for font in font_manager.fontManager.ttflist}
matplotlib.rcParams["text.parse_math"] = False  # a $ in a class name is a $
matplotlib.rcParams["font.family"] = ["DejaVu Sans", *(f for f in _CJK_FONTS if f in _installed)]


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """A confusion matrix (K, K) with its counts: rows are labels, columns predictions."""
    num_classes = len(classes)
    counted = num_classes <= 30
    side = min(3 + (0.35 if counted else 0.2) * num_classes, 24)  # inches
    font = 10 if counted else 7 if side < 24 else 4
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..." for name in classes]
    for_names = 0.008 * font * max(max(map(len, names)) - 12, 0)  # inches
    figure = Figure(figsize=(side + 1.5 + for_names, side + for_names), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, label="share of the class's clips", fraction=0.04, pad=0.02, aspect=30)
    axes.set_xticks(range(num_classes), names, rotation=90, fontsize=font)
    axes.set_yticks(range(num_classes), names, fontsize=font)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if counted:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=8)
    return figure


def counts_figure(
    clips: dict[str, Sequence[int]], classes: Sequence[str], num_frames: Sequence[int]
) -> Figure:
    """Clips of each class, stacked by split ({split: counts}), and a histogram of frames a clip."""
    height = max(3.5, min(1.5 + 0.25 * len(classes), 30))  # inches
    figure = Figure(figsize=(10, height), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(2, 1), height_ratios=(3, max(height - 3, 0.01)))
    bars, lengths = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1])
    left = np.zeros(len(classes))
    for split, counts in clips.items():
        bars.barh(list(classes), counts, left=left, label=split)
        left += counts
    bars.invert_yaxis()
    bars.margins(y=0.01)
    bars.set_xlabel("clips")
    bars.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(clips), frameon=False)
    span = max(num_frames) + 1 - min(num_frames)
    width = -(-span // 30)  # whole frames a bar
    lengths.hist(num_frames, bins=np.arange(min(num_frames), max(num_frames) + 1 + width, width))
    lengths.set_xlabel("frames of a clip")
    lengths.set_ylabel("clips")
    return figure


def curve_figure(probabilities: NDArray[np.float32], classes: Sequence[str], k: int) -> Figure:
    """What is said of a clip up to each frame (T, K): a line for each of k classes."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    best = np.argsort(-probabilities.max(axis=0), kind="stable")[:k]
    for label in best:
        axes.plot(np.arange(1, len(probabilities) + 1), probabilities[:, label], marker=".",
                  label=classes[label])  # fmt: skip
    axes.set_xlabel("frame")
    axes.set_ylabel("probability")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def memory_figure(curves: dict[str, Sequence[tuple[int, float, float]]]) -> Figure:
    """Memory of runs: (step, MB in the process, MB in those it started), an axis for each run."""
    figure = Figure(figsize=(8, 1 + 2 * len(curves)), layout="constrained")
    for axes, (name, points) in zip(
        figure.subplots(len(curves), squeeze=False).flat, curves.items(), strict=True
    ):
        steps, here, others = zip(*points, strict=True)
        axes.plot(steps, here, marker=".", label="process")
        axes.plot(steps, others, marker=".", label="loading processes")
        axes.set_ylim(bottom=0)
        axes.set_title(name)
        axes.set_ylabel("MB")
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with _said_once_what_is_missing():
        figure.savefig(path, dpi=120)


def to_svg(figure: Figure) -> str:
    """A figure -> an <svg> for a page, in the page's colour and font."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "paddlevid"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    return svg.replace("<svg ", '<svg class="plot" ', 1)


def to_array(figure: Figure) -> NDArray[np.uint8]:
    """A figure -> (H, W, 3) RGB."""
    canvas = FigureCanvasAgg(figure)
    with _said_once_what_is_missing():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@contextlib.contextmanager
def _said_once_what_is_missing() -> Iterator[None]:
    """One line in the log for all characters that no font has; matplotlib warns of each anew."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if "Glyph" in str(warning.message) and "missing from" in str(warning.message):
            _say_that_a_font_is_missing()
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


@functools.cache
def _say_that_a_font_is_missing() -> None:
    logging.getLogger(__name__).warning(
        "class names have characters that no known font here has, so pictures show boxes in their "
        "place: install one of %s",
        ", ".join(_CJK_FONTS),
    )


@functools.lru_cache(maxsize=4096)
def text_mask(text: str, size: int, max_width: int = 1 << 14) -> NDArray[np.float32]:
    """A line of text -> how much of each pixel it covers, from 0 to 1: (about 1.4 size, w)

    In whichever fonts have its letters. One that would be wider than `max_width` ends in "...".
    """
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    figure = Figure(figsize=(1, 1), dpi=72)  # a point is a pixel
    canvas = FigureCanvasAgg(figure)
    line = figure.text(0, 0, text, fontsize=size, parse_math=False)

    def width_of(shown: str) -> int:
        line.set_text(shown)
        return math.ceil(line.get_window_extent(canvas.get_renderer()).width) + 1

    with _said_once_what_is_missing():
        wide = max(width_of(text), 2)
        if wide > max_width:  # the widest beginning that fits
            count = bisect.bisect_left(
                range(1, len(text)), max_width, key=lambda n: width_of(f"{text[:n]}...") + 1
            )
            wide = min(max(width_of(f"{text[:count]}..."), 2), max(max_width, 2))
    high = math.ceil(1.4 * size)
    figure.set_size_inches(wide / 72, high / 72)
    line.set_y(0.4 * size / high)
    return 1 - to_array(figure)[..., 0].astype(np.float32) / 255


def draw_text(
    image: NDArray[np.uint8], mask: NDArray[np.float32], left: int, top: int, colour: NDArray
) -> None:
    """Draw a text_mask into an RGB image; what lies beyond its edges is left out."""
    top, left = max(top, 0), max(left, 0)
    under = image[top : top + mask.shape[0], left : left + mask.shape[1]]
    cover = mask[: under.shape[0], : under.shape[1], None]
    under[:] = under + (np.float32(colour) - under) * cover


def frame_grid(clips: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> NDArray:
    """Normalised clips (N, C, T, H, W) -> one RGB image, a row for each clip: (N H, T W, 3).

    Of stacked flow fields the first is seen: x is red, y green, and what does not move grey.
    """
    n, c, t, h, w = clips.shape
    colours = clips[:, :3] if c >= 3 else clips[:, :1].repeat(3, axis=1)
    if len(mean) == 2:
        colours = np.concatenate([clips[:, :2], np.zeros_like(clips[:, :1])], axis=1)
        mean, std = (*mean, 0.5), (*std, 1.0)
    pixels = colours.transpose(0, 3, 2, 4, 1).reshape(n * h, t * w, 3)
    return np.clip((pixels * np.float32(std) + np.float32(mean)) * 255, 0, 255).astype(np.uint8)


def film_strip(
    clip: NDArray[np.float32], mean: Sequence[float], std: Sequence[float], most: int, height: int
) -> tuple[NDArray[np.uint8], int]:
    """Frames of a normalised clip (C, T, H, W), at most so many and high: -> RGB, how many."""
    num_frames = clip.shape[1]
    shown = np.unique(np.linspace(0, num_frames - 1, most).round().astype(int))
    frames = [
        shrink(frame_grid(clip[None, :, number : number + 1], mean, std), height)
        for number in shown
    ]
    gap = np.full((frames[0].shape[0], max(frames[0].shape[1] // 40, 1), 3), 255, np.uint8)
    joined = [part for frame in frames for part in (frame, gap)][:-1]
    return np.concatenate(joined, axis=1), len(shown)


def shrink(image: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """An image (H, W, 3) of no more than this height."""
    if image.shape[0] <= height:
        return image
    width = max(round(image.shape[1] * height / image.shape[0]), 1)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def with_caption(image: NDArray[np.uint8], text: str, colour: str) -> NDArray[np.uint8]:
    """An RGB image below a line of text; fast, where a figure takes a tenth of a second."""
    image = _enlarge(image, image.shape[0])
    font = ImageFont.truetype(_font_file(), 20)
    width = max(image.shape[1], round(font.getlength(text)) + 8)
    page = Image.new("RGB", (width, image.shape[0] + 30), "white")
    ImageDraw.Draw(page).text((4, 2), text, fill=colour, font=font)
    page.paste(Image.fromarray(image), (0, 30))
    return np.asarray(page)


@functools.cache
def _font_file() -> str:
    """Of a font that has Chinese and Latin characters, else of the usual one."""
    families = matplotlib.rcParams["font.family"]
    return font_manager.findfont(font_manager.FontProperties(family=families[1:2] or families))


def prediction_strip(
    past: NDArray[np.float32], truth: NDArray[np.float32] | None, predicted: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """The past and what follows in a row, and below it what was predicted: -> RGB (H', W', 3)

    Frames are (C, T, H, W), from 0 to 1; small ones are enlarged. None: the truth is not known.
    """
    blank = np.full_like(past, 0.1)
    rows = [[past, predicted if truth is None else truth]]
    if truth is not None:
        rows.append([blank, predicted])
    images = [frame_grid(np.concatenate(row, axis=1)[None], (0.0,), (1.0,)) for row in rows]
    _, num_past, height, width = past.shape
    image = _enlarge(np.concatenate(images), height)
    edge = num_past * width * image.shape[0] // (height * len(rows))
    image[:, edge - 1 : edge + 1] = (255, 200, 0)  # where the future begins
    return image


def prediction_film(
    past: NDArray[np.float32], truth: NDArray[np.float32] | None, predicted: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """The same as RGB frames (T + n, H', W', 3): the truth beside the prediction, where known."""
    sides = [np.concatenate([past, end], axis=1) for end in (truth, predicted) if end is not None]
    frames = [
        frame_grid(np.stack([side[:, t : t + 1] for side in sides]), (0.0,), (1.0,))
        for t in range(sides[0].shape[1])
    ]
    height = past.shape[2]
    halves = [np.split(frame, len(sides)) for frame in frames]
    return np.stack([_enlarge(np.concatenate(pair, axis=1), height) for pair in halves])


def _enlarge(image: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """Whole times as large, for frames of less than 100 pixels."""
    factor = max(100 // height, 1)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def save_image(image: NDArray[np.uint8], path: Path) -> None:
    """Write an RGB image (H, W, 3) as PNG."""
    matplotlib.image.imsave(path, image, format="png")


def steps_figure(figures: dict[str, dict[str, NDArray[np.float64]]]) -> Figure:
    """Errors and likeness of predicted frames for each step: a line for each predictor.

    `figures` holds "mse", "mae", "psnr" and "ssim", (n,) each, of every predictor.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    names = {"mse": "MSE a frame", "mae": "MAE a frame", "psnr": "PSNR, dB", "ssim": "SSIM"}
    for axes, (key, name) in zip(figure.subplots(2, 2).flat, names.items(), strict=True):
        for predictor, values in figures.items():
            steps = np.arange(1, len(values[key]) + 1)
            axes.plot(steps, values[key], marker=".", label=predictor)
        axes.set_ylabel(name)
        axes.set_xlabel("step into the future")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    return figure

"""Reports: what was run and what came of it, as plain values -> one HTML file, without a network.

A page holds all it needs: pictures are in it, its style and its script, too, and its own policy
(CSP) forbids it to load or run anything else. Names and paths are escaped by jinja2.
"""

import base64
import functools
import hashlib
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import paddle
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from paddlevid import __version__, plots, runtime
from paddlevid.data.loader import Loader
from paddlevid.files import sha256_of, write_whole
from paddlevid.frame_metrics import FrameEvaluation
from paddlevid.metrics import Evaluation
from paddlevid.predictor import softmax

MOST_MISTAKES = 24  # that are shown
MOST_PAIRS = 15  # of classes that are confused
MOST_STRIPS = 100  # of predictions; the rows of more have no pictures
STRIP_FRAMES, STRIP_HEIGHT = 8, 96  # of a film strip, at most; pixels
MOST_TITLES = 3000  # cells of a confusion matrix with a text each, for browsers without a script
LIBRARIES = ("numpy", "opencv-python-headless", "av")


@dataclass(frozen=True)
class Run:
    """What was run."""

    title: str
    command: str
    config: str  # all of it, as YAML
    networks: Sequence[tuple[str, int, Path]]  # name, number of parameters, weights
    device: str
    seconds: float  # of reading and predicting
    network_seconds: float  # of these, in the network
    problems: Sequence[str] = ()  # why clips were left out

    def facts(self) -> dict[str, str]:
        """What the results hang on, for the eye."""
        libraries = [f"{name} {metadata.version(name)}" for name in LIBRARIES if _is_there(name)]
        return {
            "command": self.command,
            "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
            "network": "; ".join(f"{name}, {n:,} parameters" for name, n, _ in self.networks),
            "weights": "; ".join(str(file) for *_, file in self.networks),
            "SHA-256": "; ".join(sha256_of(file) for *_, file in self.networks),
            "time": f"{self.seconds:.1f} s: {self.network_seconds:.1f} s in the network, "
            f"{self.seconds - self.network_seconds:.1f} s waiting for clips, and the rest",
            "machine": f"{runtime.processor() or platform.processor()}, {runtime.usable_cores()} "
            f"cores; computed on {_device_name(self.device)}",
            "versions": f"paddlevid {__version__}, paddle {paddle.__version__}, "
            f"Python {platform.python_version()}, {', '.join(libraries)}",
        }


def _is_there(library: str) -> bool:
    try:
        return bool(metadata.version(library))
    except metadata.PackageNotFoundError:  # OpenCV has several names
        return False


def _device_name(device: str) -> str:
    return device if device == "cpu" else f"{device}, {paddle.device.cuda.get_device_name(device)}"


@dataclass(frozen=True)
class Strip:
    """Some frames of a clip as a picture."""

    picture: str = ""  # a data URI; "": a clip of features has none
    frames: str = ""  # which ones


def film_strip(
    clip: NDArray[np.float32], mean: Sequence[float], std: Sequence[float], num_views: int = 1
) -> Strip:
    """Up to STRIP_FRAMES of a clip (C, T, H, W), evenly: as the network saw them, but for size."""
    image, shown = plots.film_strip(clip, mean, std, STRIP_FRAMES, STRIP_HEIGHT)
    num_frames = clip.shape[1]
    frames = f"{shown} of " * (shown < num_frames) + f"{num_frames} frames"
    views = f", the first of {num_views} views" * (num_views > 1)
    return Strip(data_uri(image), frames + views)


def data_uri(image: NDArray[np.uint8]) -> str:
    """An RGB image (H, W, 3) as a JPEG in a link."""
    _, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def film_strips(
    loader: Loader, indices: Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> dict[int, Strip]:
    """The strips of some clips of a loader, which are read once more, one after the other.

    Clips of features, and those that cannot be read this time, have none.
    """
    return {
        item.index: film_strip(item.views[0], mean, std, len(item.views))
        for item in loader.some(indices)
        if item.views.ndim == 5
    }


@dataclass(frozen=True)
class Card:
    """A clip of a report."""

    path: str
    label: str = ""  # the name of its class, where it is known
    best: Sequence[tuple[str, float]] = ()  # classes and probabilities, highest first
    strip: Strip = Strip()  # noqa: RUF009  it is frozen
    note: str = ""  # what else there is to say
    problem: str = ""  # why there is nothing but that


# --- an evaluation --------------------------------------------------------------------------------


def worst_clips(evaluation: Evaluation, number: int = MOST_MISTAKES) -> tuple[list[int], bool]:
    """The rows of an evaluation whose labels the network holds for least probable.

    These are mistakes, and the second value says so; where there are none, a dozen of the others.
    """
    probabilities = softmax(evaluation.logits)
    of_label = probabilities[np.arange(len(evaluation.labels)), evaluation.labels]
    order = np.argsort(of_label, kind="stable")
    mistakes = order[evaluation.logits[order].argmax(axis=1) != evaluation.labels[order]]
    return (mistakes[:number] if len(mistakes) else order[:12]).tolist(), len(mistakes) > 0


def confused_pairs(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, object]]:
    """The pairs of classes that are taken for each other most often."""
    counts = confusion.copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [
        {
            "label": classes[row], "prediction": classes[column], "clips": int(counts[row, column]),
            "share": counts[row, column] / confusion[row].sum(),
        }
        for row, column in pairs
        if counts[row, column]
    ]  # fmt: skip


def calibration(evaluation: Evaluation) -> tuple[list[dict[str, float]], float]:
    """Ten bins of confidence with clips and accuracy, and how far these are apart on average.

    The latter is the expected calibration error (Guo et al. 2017, arXiv:1706.04599).
    """
    confidence = softmax(evaluation.logits).max(axis=1)
    is_right = evaluation.logits.argmax(axis=1) == evaluation.labels
    number = np.minimum((confidence * 10).astype(int), 9)
    rows, error = [], 0.0
    for low in range(10):
        inside = number == low
        clips = int(inside.sum())
        accuracy, mean = (float(a[inside].mean()) if clips else 0.0 for a in (is_right, confidence))
        rows.append({"low": low / 10, "clips": clips, "accuracy": accuracy, "confidence": mean})
        error += abs(accuracy - mean) * clips / len(confidence)
    return rows, error


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix as a drawing: sizes in its own units, and the cells that are not empty."""

    confusion: NDArray[np.int64]
    classes: Sequence[str]

    @property
    def cell(self) -> int:
        """Of a side of a cell."""
        sizes = ((8, 44), (20, 30), (32, 22), (120, 13))
        return next((size for most, size in sizes if self.k <= most), 4)

    @property
    def k(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def margin(self) -> float:
        """For the names, where there is room for them."""
        longest = max(len(name) for name in self.classes)
        return 8 if self.k > 120 else 18 + 6.5 * min(longest, 24)

    @property
    def cells(self) -> list[tuple[int, int, int, float]]:
        """Row, column, count and share of the row."""
        rows, columns = np.nonzero(self.confusion)
        sums = self.confusion.sum(axis=1)
        return [
            (int(r), int(c), int(self.confusion[r, c]), float(self.confusion[r, c] / sums[r]))
            for r, c in zip(rows, columns, strict=True)
        ]


def write_evaluation(
    file: Path,
    run: Run,
    evaluation: Evaluation,
    classes: Sequence[str],
    cards: Sequence[Card],
    are_mistakes: bool,
) -> None:
    """The report of an evaluation; `cards`: see `worst_clips`."""
    bins, calibration_error = calibration(evaluation)
    _write(
        file,
        "evaluation.html",
        run,
        metrics=evaluation.summary(),
        table=sorted(
            evaluation.class_table(classes), key=lambda row: (not row["clips"], row["accuracy"])
        ),
        matrix=Matrix(evaluation.confusion, classes),
        pairs=confused_pairs(evaluation.confusion, classes),
        bins=bins,
        calibration_error=calibration_error,
        cards=cards,
        are_mistakes=are_mistakes,
        most_titles=MOST_TITLES,
    )


# --- predicted frames, and predictions ------------------------------------------------------------


def write_frames(
    file: Path, run: Run, evaluation: FrameEvaluation, strips: NDArray[np.uint8], num_past: int
) -> None:
    """The report of an evaluation of predicted frames; `strips`: of some clips, RGB (H, W, 3)."""
    predictors = {"network": evaluation.sums, **evaluation.baselines}
    per_step = {name: sums.per_step() for name, sums in predictors.items()}
    _write(
        file,
        "frames.html",
        run,
        metrics={name: sums.summary() for name, sums in predictors.items()},
        counts=evaluation.counts(),
        loss=evaluation.loss,
        per_step=per_step,
        plot=Markup(plots.to_svg(plots.steps_figure(per_step))),  # matplotlib has escaped its texts
        strips=data_uri(strips),
        num_past=num_past,
    )


def write_predictions(
    file: Path, run: Run, cards: Sequence[Card], num_inputs: int, elsewhere: str
) -> None:
    """The report of predictions, of which `cards` are the first ones; `elsewhere` are all."""
    _write(
        file,
        "predictions.html",
        run,
        cards=cards,
        num_inputs=num_inputs,
        elsewhere=elsewhere,
        classes=Counter(card.best[0][0] for card in cards if card.best).most_common(),
    )


# --- pages ----------------------------------------------------------------------------------------


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("paddlevid"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _write(file: Path, template: str, run: Run, **content: object) -> None:
    """Fill a template; what UTF-8 cannot hold, as in names from another encoding, is escaped."""
    templates = _templates()
    script, _, _ = templates.loader.get_source(templates, "report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = templates.get_template(template).render(
        run=run, facts=run.facts(), script=Markup(script), script_hash=digest, **content
    )
    write_whole(file, page.encode("utf-8", "backslashreplace").decode("utf-8"))

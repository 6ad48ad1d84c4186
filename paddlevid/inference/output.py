"""What is said of a clip -> words, a row of a file, and tables."""

import contextlib
import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from paddlevid.files import readable
from paddlevid.predictor import Prediction


def file_stem(path: Path) -> str:
    """The start of the names of files about a clip, short enough for any file system."""
    return readable(path.stem).encode()[:180].decode(errors="ignore")


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese letters, and their like, take two."""
    return len(text) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)


def name_of(label: int, classes: Sequence[str]) -> str:
    """A label's class name; a number where the label fits no class, nothing where it is unknown."""
    return classes[label] if 0 <= label < len(classes) else "" if label < 0 else str(label)


def in_words(result: Prediction, classes: Sequence[str], k: int) -> str:
    """A prediction for the eye: the path, and a line for each class."""
    lines = [
        readable(result.path)
        + (f"  (label: {name})" if (name := name_of(result.label, classes)) else "")
    ]
    lines += [f"    {result.probabilities[i]:.4f}  {classes[i]}" for i in result.top_k(k)]
    return "\n".join(lines)


def as_row(result: Prediction, classes: Sequence[str], k: int) -> dict:
    """A prediction for a file."""
    row: dict[str, object] = {
        "path": readable(result.path),
        "label": name_of(result.label, classes),
    }
    best = [] if result.problem else result.top_k(k)
    row["classes"] = [classes[i] for i in best]
    row["probabilities"] = [round(float(result.probabilities[i]), 6) for i in best]
    row["problem"] = readable(result.problem)
    return row


@contextlib.contextmanager
def open_output(file: Path, k: int) -> Iterator[Callable[[dict], None]]:
    """A function that appends a prediction to the file at once: JSON lines or, for .csv, CSV."""
    with open(file, "w", newline="", encoding="utf-8") as stream:
        if file.suffix.lower() != ".csv":
            yield lambda row: print(json.dumps(row, ensure_ascii=False), file=stream, flush=True)
            return
        pairs = [f"{kind}_{i + 1}" for i in range(k) for kind in ("class", "probability")]
        writer = csv.writer(stream)
        writer.writerow(["path", "label", *pairs, "problem"])

        def write(row: dict) -> None:
            best = list(chain(*zip(row["classes"], row["probabilities"], strict=True)))
            best += [""] * (2 * k - len(best))
            writer.writerow([row["path"], row["label"], *best, row["problem"]])
            stream.flush()

        yield write


def as_csv(rows: Sequence[Sequence[object]]) -> str:
    """CSV of rows, the header first."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()

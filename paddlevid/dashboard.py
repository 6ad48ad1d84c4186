"""Logging: scalars, pictures and settings of a run -> VisualDL and metrics.csv."""

import contextlib
import csv
import io
import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from visualdl import LogWriter
from visualdl.proto.record_pb2 import Record

from paddlevid.files import whole_file


class Dashboard:
    """Writes a run's figures to `folder`/vdl (train and val: one chart) and `folder`/metrics.csv.

    Args:
        figures: names of those that training and evaluation have.
        step: of the run that goes on, where figures after it are from work that was lost; 0: the
            run starts anew.
    """

    def __init__(self, folder: Path, figures: Sequence[str], step: int = 0) -> None:
        own = ("learning_rate", "clips_per_second", "data_wait")
        self._columns = ("step", "epoch", "split", *figures, *own)
        self._csv = folder / "metrics.csv"
        rows = []
        if step and self._csv.exists():
            with open(self._csv, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if None not in row.values()]
            rows = [row for row in rows if int(row["step"]) <= step]
        with (
            whole_file(self._csv) as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        self._writers = {
            split: _continue_log(folder / "vdl" / split, step) for split in ("train", "val")
        }

    def log(self, step: int, epoch: int, split: str, **scalars: float) -> None:
        """Log scalars of a split at a step."""
        for name, value in scalars.items():
            if math.isfinite(value):
                self._writers[split].add_scalar(name, value, step)
        row = {name: f"{value:.6g}" for name, value in scalars.items()}
        with open(self._csv, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(
                {"step": step, "epoch": epoch, "split": split, **row}
            )

    def log_image(self, step: int, split: str, name: str, image: NDArray[np.uint8]) -> None:
        """Log an RGB image (H, W, 3)."""
        self._writers[split].add_image(name, image, step)

    def log_settings(self, settings: dict[str, object], metrics: Sequence[str]) -> None:
        """Log a run's settings; VisualDL shows them beside these metrics, for comparing runs."""
        plain = {
            name: value if type(value) in (int, float, str) else str(value)
            for name, value in settings.items()
        }
        self._writers["val"].add_hparams(plain, list(metrics))

    def close(self) -> None:
        """Flush and close."""
        for writer in self._writers.values():
            writer.close()


def _continue_log(folder: Path, step: int) -> LogWriter:
    """A writer that goes on behind the records up to `step`.

    There is one file, as VisualDL shows only the newest of a folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vdlrecords.run.log"
    if step and path.exists():
        with whole_file(path) as partial:
            partial.write_bytes(_records_up_to(step, path.read_bytes()))
    else:
        path.unlink(missing_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it adds to the file
        return LogWriter(logdir=str(folder), file_name=path.name)


def _records_up_to(step: int, content: bytes) -> bytes:
    """The records of a file of VisualDL up to a step, less one that was cut off at the end."""
    kept, position = [], 0
    while position + 8 <= len(content):
        end = position + 8 + struct.unpack_from("<Q", content, position)[0]
        record = Record()
        try:
            record.ParseFromString(content[position + 8 : end])
        except DecodeError:
            break
        if end <= len(content) and all(value.id <= step for value in record.values):
            kept.append(content[position:end])
        position = end
    return b"".join(kept)

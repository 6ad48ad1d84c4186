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
        folder: of the run; None: nothing is written, as another process does it.
        figures: names of those that training and evaluation have.
        step: of the run that goes on, where figures after it are from work that was lost; 0: the
            run starts anew.
        within_epoch: what an epoch ended with at that step was lost, too.
    """

    def __init__(
        self,
        folder: Path | None,
        figures: Sequence[str],
        step: int = 0,
        within_epoch: bool = False,
    ) -> None:
        self._writers: dict[str, LogWriter] = {}
        if folder is None:
            return
        at_end = ("clips_per_second", "data_wait")
        self._columns = ("step", "epoch", "split", *figures, "learning_rate", *at_end)
        self._csv = folder / "metrics.csv"
        rows = []
        if step and self._csv.exists():
            with open(self._csv, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if None not in row.values()]
            ended = [row["split"] == "val" or any(row[k] for k in at_end) for row in rows]
            rows = [
                row
                for row, of_end in zip(rows, ended, strict=True)
                if int(row["step"]) <= step - (within_epoch and of_end)
            ]
        with (
            whole_file(self._csv) as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        self._writers = {
            split: _continue_log(folder / "vdl" / split, step, tags if within_epoch else ())
            for split, tags in (("train", at_end), ("val", ("",)))
        }

    def log(self, step: int, epoch: int, split: str, **scalars: float) -> None:
        """Log scalars of a split at a step."""
        if not self._writers:
            return
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
        if self._writers:
            self._writers[split].add_image(name, image, step)

    def log_settings(self, settings: dict[str, object], metrics: Sequence[str]) -> None:
        """Log a run's settings; VisualDL shows them beside these metrics, for comparing runs."""
        plain = {
            name: value if type(value) in (int, float, str) else str(value)
            for name, value in settings.items()
        }
        if self._writers:
            self._writers["val"].add_hparams(plain, list(metrics))

    def close(self) -> None:
        """Flush and close."""
        for writer in self._writers.values():
            writer.close()


def _continue_log(folder: Path, step: int, tags: Sequence[str]) -> LogWriter:
    """A writer that goes on behind the records up to `step`; with these tags, before it.

    There is one file, as VisualDL shows only the newest of a folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vdlrecords.run.log"
    if step and path.exists():
        with whole_file(path) as partial:
            partial.write_bytes(_records_up_to(step, tags, path.read_bytes()))
    else:
        path.unlink(missing_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it adds to the file
        return LogWriter(logdir=str(folder), file_name=path.name)


def _records_up_to(step: int, tags: Sequence[str], content: bytes) -> bytes:
    """The records of a file of VisualDL up to a step, less one that was cut off at the end.

    Those whose tag is one of `tags`, where "" stands for all, have to be before it.
    """
    kept, position = [], 0
    while position + 8 <= len(content):
        end = position + 8 + struct.unpack_from("<Q", content, position)[0]
        record = Record()
        try:
            record.ParseFromString(content[position + 8 : end])
        except DecodeError:
            break
        limits = [step - (value.tag in tags or "" in tags) for value in record.values]
        is_old = all(v.id <= limit for v, limit in zip(record.values, limits, strict=True))
        if end <= len(content) and is_old:
            kept.append(content[position:end])
        position = end
    return b"".join(kept)

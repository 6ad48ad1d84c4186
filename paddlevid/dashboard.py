"""Logging: scalars, pictures and settings of a run -> VisualDL and metrics.csv."""

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from visualdl import LogWriter
from visualdl.proto.record_pb2 import Record
from visualdl.reader.record_reader import RecordReader

COLUMNS = (
    "step", "epoch", "split", "loss", "top1", "top5", "learning_rate", "clips_per_second",
    "data_wait",
)  # fmt: skip


class Dashboard:
    """Writes a run's figures to `folder`/vdl (train and val: one chart) and `folder`/metrics.csv.

    Args:
        step: of the run that goes on, where figures after it are from work that was lost; 0: the
            run starts anew.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._csv = folder / "metrics.csv"
        rows = []
        if step and self._csv.exists():
            with open(self._csv, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if None not in row.values()]
            rows = [row for row in rows if int(row["step"]) <= step]
        partial = self._csv.with_suffix(".partial")
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, self._csv)
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
            csv.DictWriter(file, COLUMNS).writerow(
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
    """A writer whose file begins with the records up to `step` of the files before it.

    VisualDL shows only the newest file of a folder.
    """
    old_files = sorted(folder.glob("vdlrecords*"))
    kept = {}
    for file in old_files if step else ():
        for content in RecordReader(str(file)).get_all():
            record = Record()
            try:
                record.ParseFromString(content)
            except DecodeError:  # cut off when the run was killed
                break
            for value in record.values:
                if value.id <= step and value.WhichOneof("one_value") != "meta_data":
                    kept[value.tag, value.id] = record
    writer = LogWriter(logdir=str(folder))
    file_writer = writer._get_file_writer()
    for record in kept.values():
        file_writer.add_record(record)
    file_writer.flush()
    for file in old_files:
        if file.name != Path(writer.file_name).name:
            file.unlink()
    return writer

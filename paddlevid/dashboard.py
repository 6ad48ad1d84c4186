"""Logging: scalars, pictures and settings of a run -> VisualDL and metrics.csv."""

import contextlib
import copy
import csv
import io
import math
import struct
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from visualdl import LogWriter
from visualdl.component.base_component import pr_curve_raw
from visualdl.component.graph import translate_graph
from visualdl.proto.record_pb2 import Record

from paddlevid.files import whole_file, write_whole
from paddlevid.metrics import PRCurve

_OF_TRAINING = ("learning_rate", "clips_per_second", "data_wait")


def _tag(name: str) -> str:
    """Of a scalar: VisualDL makes a group of charts of the tags with the same word before the /."""
    return f"{'training' if name in _OF_TRAINING else 'figures'}/{name}"


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
        # VisualDL calls a graph after its folder alone, so it gets one with the run's name.
        self._graph = folder / "vdl" / folder.resolve().name / "vdlgraph.run.log"
        at_end = _OF_TRAINING[1:]
        self._columns = ("step", "epoch", "split", *figures, *_OF_TRAINING)
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
            for split, tags in (("train", [_tag(name) for name in at_end]), ("val", ("",)))
        }

    def log(self, step: int, epoch: int, split: str, **scalars: float) -> None:
        """Log scalars of a split at a step."""
        if not self._writers:
            return
        for name, value in scalars.items():
            if math.isfinite(value):
                self._writers[split].add_scalar(_tag(name), value, step)
        row = {name: f"{value:.6g}" for name, value in scalars.items()}
        with open(self._csv, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(
                {"step": step, "epoch": epoch, "split": split, **row}
            )

    def log_image(self, step: int, split: str, name: str, image: NDArray[np.uint8]) -> None:
        """Log an RGB image (H, W, 3)."""
        if self._writers:
            self._writers[split].add_image(name, image, step)

    def log_best(self, step: int, name: str, value: float) -> None:
        """Log the best figure of the validation so far, for VisualDL's comparison of runs."""
        if self._writers:
            self._writers["val"].add_scalar(_tag(f"best_{name}"), value, step)

    def log_pr_curve(self, step: int, name: str, curve: PRCurve) -> None:
        """Log precision and recall of the validation.

        LogWriter.add_pr_curve computes them itself, with a function that NumPy 1.24 removed.
        """
        if self._writers:
            counts = {key: getattr(curve, key).tolist() for key in PRCurve.__annotations__}
            tag, milliseconds = name.replace("%", "_"), round(time.time() * 1000)
            record = pr_curve_raw(tag, step=step, walltime=milliseconds, **counts)
            self._writers["val"]._get_file_writer().add_record(record)

    def log_network(self, network: "nn.Layer", shape: Sequence[int]) -> None:  # noqa: F821
        """Log the graph of a network for a clip of this shape; raises what Paddle raises."""
        if not self._writers:
            return
        import paddle  # here, as nothing else of it needs paddle

        # VisualDL reads the programs of Paddle 2. Paddle 3 writes them when asked to, but some of
        # its operators cannot be in them.
        is_old = paddle.__version__.startswith("2.")
        guard = contextlib.nullcontext() if is_old else paddle.pir_utils.OldIrGuard()
        spec = paddle.static.InputSpec([1, *shape], "float32")
        drawn = copy.deepcopy(network)  # which is changed on the way
        drawn.eval()
        with guard, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # they are about Paddle's own code
            graph = translate_graph(drawn, [spec], verbose=False)
        self._graph.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._graph, graph)

    def log_histogram(self, step: int, name: str, values: NDArray[np.float32]) -> None:
        """Log how the finite values of an array of the network are distributed."""
        values = values[np.isfinite(values)]
        if self._writers and values.size:
            self._writers["train"].add_histogram(name, values, step, buckets=30)

    def log_settings(self, settings: dict[str, object], metrics: Sequence[str]) -> None:
        """Log a run's settings; VisualDL shows them beside these metrics, for comparing runs."""
        plain = {
            name: value if type(value) in (int, float, str) else str(value)
            for name, value in settings.items()
        }
        if self._writers:
            self._writers["val"].add_hparams(plain, [_tag(name) for name in metrics])

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

    Those whose tag is one of `tags`, where "" stands for all, have to be before it. Scalars of runs
    from before there were groups get theirs.
    """
    kept, position = [], 0
    while position + 8 <= len(content):
        end = position + 8 + struct.unpack_from("<Q", content, position)[0]
        record = Record()
        try:
            record.ParseFromString(content[position + 8 : end])
        except DecodeError:
            break
        for value in record.values:
            if value.WhichOneof("one_value") == "value" and "/" not in value.tag:
                value.tag = _tag(value.tag)
            for metric in value.hparam.metricInfos if value.HasField("hparam") else ():
                metric.name = metric.name if "/" in metric.name else _tag(metric.name)
        limits = [step - (value.tag in tags or "" in tags) for value in record.values]
        is_old = all(v.id <= limit for v, limit in zip(record.values, limits, strict=True))
        if end <= len(content) and is_old:
            kept.append(struct.pack("<Q", record.ByteSize()) + record.SerializeToString())
        position = end
    return b"".join(kept)

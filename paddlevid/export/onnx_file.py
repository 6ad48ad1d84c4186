"""ONNX: a saved program -> a file for onnxruntime, in floats or in int8."""

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paddlevid import runtime
from paddlevid.data.loader import Batch
from paddlevid.export.parts import Arrays, Part, Run
from paddlevid.metrics import score_views
from paddlevid.predictor import softmax
from paddlevid.program import program_file

OPSET = 17
_CONVERT = """
import sys
import paddle2onnx
program, weights, target, opset = sys.argv[1:]
paddle2onnx.export(program, weights, target, opset_version=int(opset))
"""


def write_onnx(folder: Path, name: str, part: Part) -> Path:
    """The ONNX file of a program in a folder, with the names of its inputs and outputs.

    Raises ValueError where it cannot be expressed.
    """
    target = folder / f"{name}.onnx"
    files = [str(program_file(folder, name)), str(folder / f"{name}.pdiparams"), str(target)]
    # In a process of its own: paddle2onnx ends the whole process at an operator it does not know.
    command = [sys.executable, "-c", _CONVERT, *files, str(OPSET)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode or not target.exists():
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
        named = [line for line in lines if "[ERROR]" in line or "Error: " in line]
        reason = "; ".join(named[:2]) or f"it ended with {done.returncode}"
        raise ValueError(
            f"paddle2onnx cannot express this network in ONNX ({reason[:500]}): leave out --onnx"
        )
    _rename(target, part)
    return target


def _rename(file: Path, part: Part) -> None:
    """Our names for the outputs, and N for the length that is free."""
    import onnx

    model = onnx.load(file)
    graph = model.graph
    names = dict(zip((value.name for value in graph.output), part.outputs, strict=True))
    for node in graph.node:
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                values[i] = names.get(value, value)
    for value in graph.output:
        value.name = names[value.name]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.checker.check_model(model)
    onnx.save(model, file)


def open_onnx(file: Path, part: Part) -> Run:
    """What onnxruntime makes of a file, as a function: arrays -> arrays."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = runtime.usable_cores()
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # of its own kinds, which have no base of their own
        reason = " ".join(str(error).split())[:500]
        raise ValueError(
            f"onnxruntime refuses what paddle2onnx made of it ({reason}): leave out --onnx"
        ) from error

    def run(*arrays: NDArray[np.float32]) -> Arrays:
        fed = {name: np.ascontiguousarray(a) for name, a in zip(part.inputs, arrays, strict=True)}
        return session.run(part.outputs, fed)

    return run


@dataclass(frozen=True)
class Quantized:
    """What int8 costs and saves, on the clips that it was calibrated with."""

    clips: int
    agreement: float  # share of clips whose most probable class is the same
    largest_difference: float  # of a probability
    megabytes: tuple[float, float]  # float, int8
    milliseconds: tuple[float, float]  # a clip
    accuracy: tuple[float, float] | None = None  # where all labels are known

    def in_words(self) -> str:
        """For the user."""
        told = (
            f"int8 on the {self.clips} clips of its calibration: the same most probable class in "
            f"{self.agreement:.1%}, probabilities differ by {self.largest_difference:.3f} at most; "
            f"{self.megabytes[0]:.1f} -> {self.megabytes[1]:.1f} MB, {self.milliseconds[0]:.1f} -> "
            f"{self.milliseconds[1]:.1f} ms a clip"
        )
        if self.accuracy:
            told += f"; top-1 {self.accuracy[0]:.4f} -> {self.accuracy[1]:.4f}"
        return told


def write_int8(file: Path, part: Part, batches: Iterable[Batch]) -> Path:
    """The same network in int8, calibrated on clips: convolutions and matrix products.

    Weights for each channel, in 7 bits, as processors without VNNI add up two products in 16.
    Raises ValueError where there are no clips.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    [name] = part.inputs

    class Clips(CalibrationDataReader):
        """One view of a clip at a time."""

        def get_next(self) -> dict | None:
            clip = next(clips, None)
            return None if clip is None else {name: clip}

    clips = (clip[None] for batch in batches for clip in batch.clips)
    first = next(clips, None)
    if first is None:
        raise ValueError("--calibrate: none of the clips can be read; it needs some")
    clips = itertools.chain([first], clips)
    target = file.with_name(f"{file.stem}_int8.onnx")
    prepared = file.with_name(f".{file.name}")
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(target), Clips(), quant_format=QuantFormat.QDQ, per_channel=True,
        reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
    )  # fmt: skip
    prepared.unlink()
    return target


def compare(float_file: Path, int8_file: Path, part: Part, batches: Iterable[Batch]) -> Quantized:
    """Both files on the same clips."""
    runs = [open_onnx(file, part) for file in (float_file, int8_file)]
    scores: tuple[list, list] = ([], [])
    labels, times = [], ([], [])
    for batch in batches:
        labels.append(batch.labels)
        for number, run in enumerate(runs):
            started = time.perf_counter()
            scores[number].append(softmax(score_views(run, batch)))
            times[number].append((time.perf_counter() - started) / len(batch.labels))
    of_float, of_int8 = (np.concatenate(part) for part in scores)
    known = np.concatenate(labels)
    best = of_float.argmax(axis=1), of_int8.argmax(axis=1)
    accuracy = None
    if (known >= 0).all():
        accuracy = tuple(float((found == known).mean()) for found in best)
    return Quantized(
        len(known),
        float((best[0] == best[1]).mean()),
        float(np.abs(of_float - of_int8).max()),
        tuple(file.stat().st_size / 1e6 for file in (float_file, int8_file)),
        tuple(statistics.median(part) * 1000 for part in times),
        accuracy,
    )


def each_once(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, with one clip each."""
    for batch in batches:
        views = batch.num_views
        for i in range(len(batch.labels)):
            yield Batch(
                batch.clips[i * views : (i + 1) * views],
                batch.labels[i : i + 1],
                batch.indices[i : i + 1],
                views,
            )

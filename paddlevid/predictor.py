"""Prediction: networks by one of two engines; a loader of clips -> one result for every input."""

import functools
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import nn

from paddlevid.data.dataset import ListError, Sample, read_list
from paddlevid.data.decode import (
    VIDEO_SUFFIXES,
    DecodeError,
    flow_files,
    frame_files,
    is_pickled,
    is_video,
)
from paddlevid.data.loader import Batch, Loader
from paddlevid.layers.recurrent import seen_frames
from paddlevid.metrics import score_views
from paddlevid.program import Program, kept_program, make_program

ENGINES = ("auto", "eager", "program")
MOST_PROGRAMS = 4  # that "auto" makes of a network; inputs of more shapes are predicted eagerly

Thing = TypeVar("Thing")


class Predictor:
    """A network for predictions, by one of two engines: arrays in, arrays out.

    "eager" calls the network as it is. "program" exports it, for each shape of inputs but for any
    number of rows, and lets paddle.inference run it; the first answer of a new program is compared
    with the network's. "auto" takes programs on a CPU, where they are up to five times as fast
    (docs/performance.md), and the network elsewhere.

    Args:
        network: put into evaluation mode.
        engine: one of ENGINES.
        identity: what the network and its weights are, such as the hash of their file; programs are
            kept on disk under it, see `make_program`. "": they are not.
        load: sets the weights; called before they are first needed, which they are not for a
            program that was kept.
        half, tensorrt: for programs on a GPU, see `Program`.

    Raises ValueError for options that do not go together.
    """

    def __init__(
        self,
        network: nn.Layer,
        engine: str = "auto",
        identity: str = "",
        load: Callable[[], None] | None = None,
        *,
        half: bool = False,
        tensorrt: bool = False,
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine {engine!r}: needs one of {', '.join(ENGINES)}")
        self.device = str(paddle.device.get_device())
        if (half or tensorrt) and (self.device == "cpu" or engine == "eager"):
            raise ValueError(
                "half precision and TensorRT are for programs on a GPU: with the engine "
                f"{engine!r} on {self.device} leave them out"
            )
        network.eval()
        self.network, self.engine, self.identity, self._load = network, engine, identity, load
        self._is_auto = engine == "auto"
        wants_program = self.device == "cpu" or half or tensorrt
        self._in_programs = engine == "program" or self._is_auto and wants_program
        self._options = {"device": self.device, "half": half, "tensorrt": tensorrt}
        self._tolerance = 0.05 if half else 1e-3
        self._programs: dict[str, Program] = {}
        self.seconds = 0.0  # that calls have taken so far, with the making of programs

    def __call__(
        self, *arrays: NDArray[np.float32], method: str = "forward", **arguments: object
    ) -> list[NDArray[np.float32]]:
        """What a method of the network says: its outputs, but for those that are None.

        Args:
            arrays: each (N, ...) float32.
            arguments: more of the method, which are no arrays.
        """
        started = time.perf_counter()
        try:
            return self._run(Call(self.network, method, arguments), arrays)
        finally:
            self.seconds += time.perf_counter() - started

    def _run(self, call: "Call", arrays: Sequence[NDArray]) -> list[NDArray[np.float32]]:
        if self._in_programs:
            shapes = [[None, *array.shape[1:]] for array in arrays]
            key = json.dumps([call.method, call.arguments, shapes], sort_keys=True)
            if key not in self._programs and not self._is_full():
                self._make(call, arrays, shapes, key)
            if key in self._programs:
                return self._programs[key](*arrays)
        return self._run_eagerly(call, arrays)

    def _run_eagerly(self, call: "Call", arrays: Sequence[NDArray]) -> list[NDArray[np.float32]]:
        self.load_weights()
        with paddle.no_grad():
            outputs = call([paddle.to_tensor(array) for array in arrays])
            return [output.astype("float32").numpy() for output in outputs]

    def load_weights(self) -> None:
        """Have the weights set, if that is still to be done."""
        if self._load:
            self._load()
            self._load = None

    def of(self, network: nn.Layer, identity: str) -> "Predictor":
        """The same, for a network around this one; `identity`: of what is added."""
        both = f"{self.identity} {identity}"
        flags = {name: self._options[name] for name in ("half", "tensorrt")}
        return Predictor(network, self.engine, both, self.load_weights, **flags)

    def _is_full(self) -> bool:
        return self._is_auto and len(self._programs) >= MOST_PROGRAMS

    def _make(self, call: "Call", arrays: Sequence[NDArray], shapes: list[list], key: str) -> None:
        """Make the program; where that fails, "auto" says so and goes on without programs."""
        identity = f"{self.identity} {key}" if self.identity else ""
        kept = kept_program(shapes, identity, **self._options)
        if kept:
            self._programs[key] = kept
            return
        self.load_weights()
        check = functools.partial(self._check, call, arrays)
        try:
            self._programs[key] = make_program(call, shapes, identity, check, **self._options)
        except Exception as error:  # whatever Paddle throws at a network
            name, reason = type(self.network).__name__, str(error).strip().splitlines()[-1].strip()
            if not self._is_auto:
                raise ValueError(
                    f"{name} does not work as a program: {reason}; use the engine 'eager'"
                ) from error
            warnings.warn(
                f"{name} does not work as a program, so it is predicted eagerly: {reason}",
                stacklevel=3,
            )
            self._in_programs = False

    def _check(self, call: "Call", arrays: Sequence[NDArray], program: Program) -> None:
        """Raise ValueError where a program says another thing than the network."""
        one = [array[:1] for array in arrays]
        expected = self._run_eagerly(call, one)
        for some in (one, arrays):  # Paddle 2.6 has operators that are wrong for a single row
            for got, right in zip(program(*some), expected, strict=True):
                error = np.abs(got[:1] - right).max(initial=0)
                if not error <= self._tolerance * max(np.abs(right).max(initial=0), 1):
                    raise ValueError(f"for {len(some[0])} clips it is off by {error:.2g}")


def speed_up_frozen_part(model: nn.Layer) -> None:
    """On a CPU, let a program do what a network in training does with weights that stay."""
    if hasattr(model, "frozen_part") and paddle.device.get_device() == "cpu":
        frozen = model.frozen_part()
        if frozen.parameters():
            predictor = Predictor(frozen)
            model.run_frozen = lambda frames: paddle.to_tensor(predictor(frames.numpy())[0])


class Call(nn.Layer):
    """A method of a network with some fixed arguments, as a layer from a list to a list."""

    def __init__(self, network: nn.Layer, method: str, arguments: dict) -> None:
        super().__init__()
        self.network, self.method, self.arguments = network, method, arguments

    def forward(self, inputs: list[paddle.Tensor]) -> list[paddle.Tensor]:
        """What the method says, without what is None."""
        outputs = getattr(self.network, self.method)(*inputs, **self.arguments)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        return [output for output in outputs if output is not None]


def read_ahead(things: Iterator[Thing]) -> Iterator[Thing]:
    """The same things; a thread reads the next one while the caller works on one."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, things, None)
        while (thing := coming.result()) is not None:
            coming = thread.submit(next, things, None)
            yield thing


@dataclass(frozen=True)
class Prediction:
    """What the network says of an input, or why it says nothing."""

    path: Path
    probabilities: NDArray[np.float32] | None = None  # (K,)
    frame_probabilities: NDArray[np.float32] | None = None  # (T, K), of the clip up to each frame
    label: int = -1  # -1: not known
    clip: NDArray[np.float32] | None = None  # (C, T, H, W), as the network saw it
    problem: str = ""
    logits: NDArray[np.float32] | None = None  # (K,)

    def top_k(self, k: int) -> list[int]:
        """The k most probable classes, best first."""
        return np.argsort(-self.probabilities, kind="stable")[:k].tolist()


def predict(
    predictor: Predictor, loader: Loader, of_frames: bool = False, with_clips: bool = False
) -> Iterator[Prediction]:
    """The predictions for `loader.indices()`; unreadable clips say so.

    `of_frames`: also what the network says after each frame; for a network with `frame_logits`, and
    one view of a clip. `with_clips`: also what the network saw, of one view.
    """
    samples = loader.dataset.samples
    indices = loader.indices()
    for batch in read_ahead(loader.batches()):
        logits = score_views(predictor, batch)
        check_scores(predictor, logits)
        probabilities = softmax(logits)
        curves = _curves(predictor, batch) if of_frames else [None] * len(batch.labels)
        clips = batch.clips if with_clips else [None] * len(batch.labels)
        indexed = batch.indices.tolist()
        results = zip(indexed, logits, probabilities, curves, batch.labels, clips, strict=True)
        for index, scores, shares, curve, label, clip in results:
            for bad in iter(indices.__next__, index):
                yield Prediction(samples[bad].path, problem=loader.bad[bad])
            yield Prediction(samples[index].path, shares, curve, int(label), clip, logits=scores)
    for bad in indices:
        yield Prediction(samples[bad].path, problem=loader.bad[bad])


def check_scores(predictor: Predictor, scores: NDArray[np.float32]) -> None:
    """Raise ValueError where a network says nan, of which any class would be the highest."""
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{type(predictor.network).__name__} said nan: its weights may be damaged, or their "
            "training diverged; take other weights"
        )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities, over the last axis."""
    return F.softmax(paddle.to_tensor(logits)).numpy()


def _curves(predictor: Predictor, batch: Batch) -> list[NDArray[np.float32]]:
    """(T, K) for each clip, without the frames that pad it."""
    [logits] = predictor(batch.clips, method="frame_logits")
    seen = seen_frames(paddle.to_tensor(batch.clips)).numpy()
    return [curve[mask] for curve, mask in zip(softmax(logits), seen, strict=True)]


def find_clips(inputs: Sequence[Path]) -> tuple[list[Sample], list[Prediction]]:
    """The clips that the inputs stand for, and what is wrong with the other inputs.

    A video file, a .pkl or an .npy stands for itself, a folder for all clips below it, any other
    file is a list.
    """
    samples, unusable = [], []
    for path in inputs:
        try:
            samples += _find_clips(path)
        except ListError as error:
            unusable.append(Prediction(path, problem=str(error)))
    return samples, unusable


def _find_clips(path: Path) -> list[Sample]:
    if is_video(path) or is_pickled(path) or path.suffix == ".npy":
        return [Sample(path)]  # whether it can be read is seen later
    if path.is_dir():
        return _clips_below(path)
    if not path.exists():
        raise ListError(f"{path}: does not exist")
    try:
        return read_list(path)
    except ListError as error:
        raise ListError(
            f"{path}: is neither a video ({' '.join(VIDEO_SUFFIXES)}) nor a .pkl, a folder or a "
            f"list ({error})"
        ) from error


def _has_images(folder: Path) -> bool:
    """Whether there are frames or optical flow in it; half of the flow is found when it is read."""
    try:
        return bool(frame_files(folder) or flow_files(folder))
    except DecodeError:
        return True


def _clips_below(folder: Path) -> list[Sample]:
    """The videos and .pkl files below a folder; where there are none, .npy or folders of images."""
    found = ((path, path.relative_to(folder).parts) for path in folder.rglob("*"))
    paths = [path for path, parts in found if not any(part.startswith(".") for part in parts)]
    # avi2jpg.py names a folder of frames clip.avi where there is a clip.mp4 too.
    clips = [p for p in paths if (is_video(p) or is_pickled(p)) and not p.is_dir()]
    if not clips:
        clips = [path for path in paths if path.suffix == ".npy" and path.is_file()]
    if not clips:
        clips = [path for path in (folder, *paths) if path.is_dir() and _has_images(path)]
    if not clips:
        raise ListError(f"{folder}: no video, .pkl, .npy or image files in this folder")
    return [Sample(path) for path in sorted(clips)]

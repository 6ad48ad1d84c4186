"""Programs: a network as paddle.inference runs it, on a CPU several times as fast (oneDNN)."""

import contextlib
import copy
import ctypes
import functools
import hashlib
import itertools
import json
import os
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import nn

from paddlevid import runtime
from paddlevid.files import cache_folder, sha256_of

Shapes = Sequence[Sequence[int | None]]
TENSORRT_ROWS = 64
CACHE_BYTES = 2 << 30  # of more, the programs go that were not used for the longest time


class Program:
    """A saved network for predictions: arrays in, arrays out.

    Args:
        folder: of `save_program`, or `open_program`.
        device: "cpu", "gpu" or "gpu:1".
        half: compute in half precision, on a GPU.
        tensorrt: let TensorRT compute what it can, on a GPU, for up to TENSORRT_ROWS rows at once.
        name: of its files.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        half: bool = False,
        tensorrt: bool = False,
        name: str = "program",
    ) -> None:
        from paddle.inference import Config, PrecisionType, create_predictor

        config = Config(str(program_file(folder, name)), str(folder / f"{name}.pdiparams"))
        config.disable_glog_info()
        config.delete_pass("inplace_pass")  # in Paddle 3.3 it overwrites what is still to be read
        if device == "cpu":
            config.disable_gpu()
            config.enable_mkldnn()
            config.set_cpu_math_library_num_threads(runtime.usable_cores())
        else:
            precision = PrecisionType.Half if half else PrecisionType.Float32
            config.enable_use_gpu(256, int(device.partition(":")[2] or 0), precision)
            if tensorrt:
                config.enable_tensorrt_engine(1 << 30, TENSORRT_ROWS, 3, precision, False, False)
                shapes = json.loads((folder / "shapes.json").read_text())
                config.set_trt_dynamic_shape_info(
                    *({f"input_{i}": [rows, *shape[1:]] for i, shape in enumerate(shapes)}
                      for rows in (1, TENSORRT_ROWS, 1))
                )  # fmt: skip
        self._predictor = create_predictor(config)
        self._has_run = False
        names = self._predictor.get_input_names(), self._predictor.get_output_names()
        self._inputs = [self._predictor.get_input_handle(name) for name in names[0]]
        self._outputs = [self._predictor.get_output_handle(name) for name in names[1]]

    def __call__(self, *arrays: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The network's outputs, in its order."""
        for handle, array in zip(self._inputs, arrays, strict=True):
            handle.copy_from_cpu(np.ascontiguousarray(array, np.float32))
        with contextlib.nullcontext() if self._has_run else _quiet_stdout():
            self._predictor.run()
        self._has_run = True
        return [handle.copy_to_cpu() for handle in self._outputs]


def program_file(folder: Path, name: str = "program") -> Path:
    """The file of a saved network that says what is computed."""
    suffixes = (".json", ".pdmodel")  # Paddle 3, Paddle 2
    return next(file for s in suffixes if (file := folder / f"{name}{s}").exists())


def save_program(
    network: nn.Layer,
    shapes: Shapes,
    folder: Path,
    name: str = "program",
    inputs: Sequence[str] = (),
) -> None:
    """Save a network for `Program`.

    Args:
        network: takes its inputs as one list; it stays as it is. Layers with a method `fold` are
            replaced by what it makes of them: Paddle folds batch norms into 2-D convolutions only.
        shapes: of the inputs; None where a length may vary.
        name: of its files.
        inputs: names of the inputs; without them input_0, input_1, ...
    """
    if network.training or any(hasattr(layer, "fold") for layer in network.sublayers()):
        network = copy.deepcopy(network)
        network.eval()
        for layer in network.sublayers():
            if hasattr(layer, "fold"):
                layer.fold()
    names = inputs or [f"input_{i}" for i in range(len(shapes))]
    specs = [
        paddle.static.InputSpec(list(shape), "float32", input_name)
        for shape, input_name in zip(shapes, names, strict=True)
    ]
    with warnings.catch_warnings(), _quiet_stdout():
        warnings.simplefilter("ignore")  # they are about Paddle's own code
        paddle.jit.save(network, str(folder / name), input_spec=[specs])


def open_program(
    network: nn.Layer, shapes: Shapes, identity: str = "", **options: object
) -> Program:
    """A program for a network: the kept one, or one that is made now; see `make_program`."""
    return kept_program(shapes, identity, **options) or make_program(
        network, shapes, identity, **options
    )


def kept_program(shapes: Shapes, identity: str, **options: object) -> Program | None:
    """The program that `make_program` kept for these inputs and this identity, if it is whole."""
    kept = _place(shapes, identity)
    if not identity or not _is_whole(kept):
        return None
    with contextlib.suppress(OSError):  # it is another user's, or cannot be written
        os.utime(kept)
    return Program(kept, **options)


def make_program(
    network: nn.Layer,
    shapes: Shapes,
    identity: str = "",
    check: Callable[[Program], None] = lambda program: None,
    **options: object,
) -> Program:
    """Make a program for a network, and keep it.

    Args:
        network, shapes: see `save_program`.
        identity: what the network and its weights are; "": do not keep it.
        check: is called with the program; where it raises, it is not kept.
        options: of `Program`.

    They are kept in paddlevid/programs in $XDG_CACHE_HOME, or in ~/.cache. Where that cannot be
    written, a warning says so.
    """
    kept = _place(shapes, identity)
    try:
        if identity:
            kept.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".", dir=kept.parent if identity else None))
    except OSError as error:
        warnings.warn(f"programs are not kept: {error}", stacklevel=2)
        return make_program(network, shapes, "", check, **options)
    try:
        save_program(network, shapes, made)
        (made / "shapes.json").write_text(json.dumps([list(shape) for shape in shapes]))
        program = Program(made, **options)
        check(program)
        if identity:
            sums = {file.name: sha256_of(file) for file in made.iterdir()}
            (made / "sums.json").write_text(json.dumps(sums))
            if not _is_whole(kept):
                shutil.rmtree(kept, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process was first
                os.replace(made, kept)
            _tidy(kept.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return program


def _place(shapes: Shapes, identity: str) -> Path:
    """The folder of a program in the cache."""
    parts = [identity, [list(shape) for shape in shapes], paddle.__version__, _code_digest()]
    return cache_folder() / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _tidy(folder: Path) -> None:
    """Remove programs where they take too much room; the newest stays.

    So are those that a process which was killed had half made, an hour later.
    """
    with contextlib.suppress(OSError):  # another process may do the same
        for path in folder.glob(".*"):
            if time.time() - path.stat().st_mtime > 3600:
                shutil.rmtree(path, ignore_errors=True)
        newest_first = sorted(folder.glob("[!.]*"), key=lambda p: p.stat().st_mtime, reverse=True)
        sizes = [sum(file.stat().st_size for file in path.iterdir()) for path in newest_first]
        for path, total in list(zip(newest_first, itertools.accumulate(sizes), strict=True))[1:]:
            if total > CACHE_BYTES:
                shutil.rmtree(path, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Whether the files of a program are there, as this user wrote them."""
    try:
        if hasattr(os, "getuid") and not _is_own(folder):
            return False
        sums = json.loads((folder / "sums.json").read_text())
        return all(sha256_of(folder / name) == found for name, found in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _is_own(folder: Path) -> bool:
    """Whether no other user but root can have made it: a program may write files when it runs."""
    status = folder.lstat()
    is_closed = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return is_closed and status.st_uid in (os.getuid(), 0)


@functools.cache
def _code_digest() -> str:
    """Of all code that a program may come from: another version makes its own programs."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("**/*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Paddle's C++ prints remarks to stdout, where the predictions go; what fails, it raises."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        ctypes.CDLL("ucrtbase" if os.name == "nt" else None).fflush(None)  # C's own buffer
        os.dup2(kept, 1)
        os.close(kept)

"""Pickles of arrays and plain containers, read without executing anything in them.

Not even NumPy's own functions are called with what a file says: an array with made-up contents
could point anywhere. Stand-ins take their place, which check what they get.
"""

import math
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class WeightsError(ValueError):
    """Weights cannot be read or do not fit. The message names the file and the keys."""


_NUMBERS = {"b1", "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


class _Kind:
    """In place of numpy.dtype, of plain numbers alone."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in _NUMBERS:
            raise pickle.UnpicklingError(f"it has an array of {code!r}, not of numbers")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it has numbers in the order {state[1]!r}")
        self.order = state[1]

    def array(self, data: object, shape: object, is_fortran: object) -> NDArray:
        """The array of these bytes."""
        data = data.encode("latin1") if isinstance(data, str) else data  # as Python 2 wrote it
        if not isinstance(data, (bytes, bytearray)) or not all(
            type(n) is int and n >= 0 for n in shape
        ):
            raise pickle.UnpicklingError(f"it has an array of shape {shape!r} without numbers")
        dtype = np.dtype(self.order + self.code)
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError(f"{len(data)} bytes are no {dtype} of shape {shape}")
        order = "F" if is_fortran else "C"
        array = np.frombuffer(data, dtype).reshape(tuple(shape), order=order)
        return array.astype(dtype.newbyteorder("="))


class PickledArray:
    """In place of a numpy.ndarray, until all is read."""

    def __init__(self, *_: object) -> None:
        self._array: NDArray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, is_fortran, data = state
        if not isinstance(kind, _Kind):
            raise pickle.UnpicklingError("it has an array without a kind of numbers")
        self._array = kind.array(data, shape, is_fortran)

    def numpy(self) -> NDArray:
        """The array."""
        if self._array is None:
            raise pickle.UnpicklingError("it has an array without numbers")
        return self._array


def _from_buffer(data: object, kind: _Kind, shape: tuple, order: str) -> NDArray:
    return kind.array(bytes(data), shape, order == "F")


def _scalar(kind: _Kind, data: bytes) -> object:
    return kind.array(data, (), False)[()].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it wants to encode as {encoding!r}")
    return text.encode("latin1")


def _tuple(items: list | tuple = ()) -> tuple:
    if not isinstance(items, (list, tuple)):
        raise pickle.UnpicklingError("it has a tuple of no list")
    return tuple(items)


# What pickled arrays need, under the module names of NumPy 1, and what is taken for it.
_GLOBALS: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): "ndarray",  # an argument of the next but one
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): PickledArray,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
    ("builtins", "tuple"): _tuple,
    ("collections", "OrderedDict"): OrderedDict,
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads arrays, numbers, texts and containers; refuses any other global by name."""

    def find_class(self, module: str, name: str) -> object:
        """What stands for the global, if arrays need it."""
        key = (module.replace("numpy._core", "numpy.core"), name)
        if key not in _GLOBALS:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}, which is refused")
        return _GLOBALS[key]


def with_arrays(content: object) -> object:
    """The same containers with the arrays themselves."""
    done: dict[int, object] = {}

    def convert(thing: object) -> object:
        if isinstance(thing, PickledArray):
            return thing.numpy()
        if not isinstance(thing, (dict, list, tuple)):
            return thing
        if id(thing) not in done:
            done[id(thing)] = None  # what contains itself has nothing in that place
            if isinstance(thing, dict):
                done[id(thing)] = {key: convert(value) for key, value in thing.items()}
            else:
                converted = [convert(value) for value in thing]
                done[id(thing)] = converted if isinstance(thing, list) else tuple(converted)
        return done[id(thing)]

    return convert(content)


def read_pickle(path: Path | str) -> object:
    """The content of a pickle of arrays and plain containers; WeightsError for any other."""
    try:
        with open(path, "rb") as file:
            return with_arrays(ArrayUnpickler(file, encoding="latin1").load())
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror}") from error
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error) or type(error).__name__
        raise WeightsError(f"{path} is damaged or not a Paddle weights file: {reason}") from error

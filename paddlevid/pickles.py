"""Pickles of arrays and plain containers, read without executing anything in them.

Not even NumPy's own functions are called with what a file says: an array with made-up contents
could point anywhere. Stand-ins take their place, which check what they get.
"""

import math
import pickle
import reprlib
import struct
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray


class WeightsError(ValueError):
    """Weights cannot be read or do not fit. The message names the file and the keys."""


MAX_PARTS = 1_000_000  # of a pickle: numbers, texts, containers and references to them
_MAX_DIMENSIONS = 32
_OF_AN_ITEM = 64  # bytes that an item of a container counts for
_PLAIN_KEYS = (str, bytes, int, float, bool, type(None))


def room_for(path: Path) -> int:
    """Bytes that the arrays of a file may take: one that wants more is a trap for the memory."""
    return 4 * path.stat().st_size + (1 << 28)


def check_keys(keys: Iterable[object]) -> None:
    """UnpicklingError for a key other than a text or a number, whose hash could take for ever."""
    for key in keys:
        if type(key) not in _PLAIN_KEYS:
            raise pickle.UnpicklingError(f"it has a {type(key).__name__} for a key")
        if type(key) is int and not -(1 << 63) <= key < 1 << 64:
            raise pickle.UnpicklingError(f"it has a number of {key.bit_length()} bits for a key")


class PlainUnpickler(pickle._Unpickler):
    """Python's own unpickler, within limits.

    It is the one written in Python: that in C reserves gigabytes for ten bytes that name a large
    place in its memo. What nothing needs is refused: sets, keys that are not plain, and attributes
    of functions and classes.
    """

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.read, self.readinto, self.readline = file.read, file.readinto, file.readline

    def load(self) -> object:
        """The next object of the file; UnpicklingError, and others, for a damaged one."""
        self.metastack, self.stack, self.proto = [], [], 0
        self.append = self.stack.append
        read = self.read
        try:
            for _ in range(MAX_PARTS):
                code = read(1)
                if not code:
                    raise EOFError("it ends before its end")
                if code[0] not in _CODES:
                    raise pickle.UnpicklingError(f"it has {code!r}, which is no code that is read")
                _CODES[code[0]](self)
        except pickle._Stop as end:
            return end.value
        raise pickle.UnpicklingError(f"it has more than {MAX_PARTS:,} parts")

    def load_setitem(self) -> None:
        """A key and its value."""
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Keys and their values, all that came after the mark."""
        check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        """The same, for a new dictionary."""
        check_keys(self.stack[::2])
        super().load_dict()

    def load_bytearray8(self) -> None:
        """Bytes, as many as are there; Python's own makes room for as many as are claimed."""
        (size,) = struct.unpack("<Q", self.read(8))
        data = self.read(size)
        if len(data) != size:
            raise pickle.UnpicklingError(f"it claims {size:,} bytes where there are {len(data):,}")
        self.append(bytearray(data))

    def load_build(self) -> None:
        """The state of an object that takes one by itself."""
        built = self.stack[-2]
        if isinstance(built, OrderedDict):
            self.stack.pop()  # PyTorch's notes about versions
        elif hasattr(type(built), "__setstate__") and not isinstance(built, np.ndarray):
            super().load_build()
        else:
            raise pickle.UnpicklingError(f"it wants to change a {type(built).__name__}")


_CODES = pickle._Unpickler.dispatch | {
    pickle.SETITEM[0]: PlainUnpickler.load_setitem,
    pickle.SETITEMS[0]: PlainUnpickler.load_setitems,
    pickle.DICT[0]: PlainUnpickler.load_dict,
    pickle.BYTEARRAY8[0]: PlainUnpickler.load_bytearray8,
    pickle.BUILD[0]: lambda unpickler: unpickler.load_build(),
    pickle.REDUCE[0]: lambda unpickler: unpickler.load_reduce(),
    pickle.FRAME[0]: lambda unpickler: unpickler.read(8),  # a length: all is read from the file
}
for _code in (
    pickle.EMPTY_SET, pickle.FROZENSET, pickle.ADDITEMS, pickle.EXT1, pickle.EXT2, pickle.EXT4,
    pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
):  # fmt: skip
    del _CODES[_code[0]]


_NUMBERS = {"b1", "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


def is_shape(numbers: object) -> bool:
    """Whether they are whole numbers as an array has them: of its shape, its steps, its place."""
    return (
        isinstance(numbers, (tuple, list))
        and len(numbers) <= _MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)
    )


class _Kind:
    """In place of numpy.dtype, of plain numbers alone."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in _NUMBERS:
            raise pickle.UnpicklingError(f"it has an array of {reprlib.repr(code)}, not of numbers")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it has numbers in the order {reprlib.repr(state[1])}")
        self.order = state[1]

    def array(self, data: object, shape: object, is_fortran: object) -> NDArray:
        """The array of these bytes."""
        data = data.encode("latin1") if isinstance(data, str) else data  # as Python 2 wrote it
        if not isinstance(data, (bytes, bytearray)) or not is_shape(shape):
            shown = reprlib.repr(shape)
            raise pickle.UnpicklingError(f"it has an array of shape {shown} without numbers")
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
    if not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError(f"it has an array of a {type(data).__name__}, not of bytes")
    return kind.array(data, shape, order == "F")


def _scalar(kind: _Kind, data: bytes) -> object:
    return kind.array(data, (), False)[()].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it wants to encode as {reprlib.repr(encoding)}")
    return text.encode("latin1")


def to_tuple(items: list | tuple = ()) -> tuple:
    """Of a list or tuple alone: whatever else might go on for ever."""
    if not isinstance(items, (list, tuple)):
        raise pickle.UnpicklingError("it has a tuple of no list")
    return tuple(items)


def _ordered(pairs: list | tuple = ()) -> OrderedDict:
    check_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


# What pickled arrays need, under the module names of NumPy 1, and what is taken for it.
_GLOBALS: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): "ndarray",  # an argument of the next but one
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): PickledArray,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
    ("builtins", "tuple"): to_tuple,
    ("collections", "OrderedDict"): _ordered,
}


class ArrayUnpickler(PlainUnpickler):
    """Reads arrays, numbers, texts and containers; refuses any other global by name.

    Args:
        room: bytes that all arrays in it may take.
    """

    def __init__(self, file: BinaryIO, room: int = 1 << 28) -> None:
        super().__init__(file, encoding="latin1")
        self._room = room

    def load_build(self) -> None:
        """Of an array: its numbers."""
        super().load_build()
        if isinstance(self.stack[-1], PickledArray):
            self._take(self.stack[-1].numpy().nbytes)

    def load_reduce(self) -> None:
        """A call, which may make an array, a text or a container, over and over of the same."""
        super().load_reduce()
        made = self.stack[-1]
        if isinstance(made, np.ndarray):
            self._take(made.nbytes)
        elif isinstance(made, (bytes, str)):
            self._take(len(made))
        elif isinstance(made, (tuple, dict)):
            self._take(_OF_AN_ITEM * len(made))

    def _take(self, num_bytes: int) -> None:
        self._room -= num_bytes
        if self._room < 0:
            raise pickle.UnpicklingError("its arrays are far larger than the file")

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
            return with_arrays(ArrayUnpickler(file, room_for(Path(path))).load())
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror}") from error
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error) or type(error).__name__
        raise WeightsError(f"{path} is damaged or not a Paddle weights file: {reason}") from error

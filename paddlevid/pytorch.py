"""Files of torch.save, read without PyTorch and without executing anything in them.

All formats that torch.save ever wrote: a zip archive (PyTorch 1.6 and later), a sequence of pickles
with the numbers behind them (0.1.10 to 1.5), and a tar archive (before).
"""

import functools
import math
import pickle
import reprlib
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from paddlevid.pickles import ArrayUnpickler, check_keys, is_shape, room_for, to_tuple

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a sequence
_KINDS = {
    "Float": "f4",
    "Double": "f8",
    "Half": "f2",
    "BFloat16": "bfloat16",
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}


def bfloat16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers whose upper halves these are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _dtype(kind: str) -> np.dtype:
    """What numbers of a kind are stored as; NumPy knows no bfloat16."""
    return np.dtype("u2" if kind == "bfloat16" else kind)


def _size(kind: object, length: object) -> int:
    """Bytes of so many numbers; UnpicklingError where these are no kind and no length."""
    if kind not in _KINDS.values() or not is_shape([length]):
        shown = f"{reprlib.repr(length)} numbers of kind {reprlib.repr(kind)}"
        raise pickle.UnpicklingError(f"it has {shown}")
    return length * _dtype(kind).itemsize


@dataclass(frozen=True)
class Storage:
    """A run of numbers in a file."""

    kind: str  # of a number: one of _KINDS' values
    length: int
    read: Callable[[], bytes]
    big_endian: bool = False

    def __post_init__(self) -> None:
        _size(self.kind, self.length)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it wants to change a storage")

    def numbers(self) -> NDArray:
        """All of them: (length,), bfloat16 as float32."""
        dtype = _dtype(self.kind)
        stored = dtype.newbyteorder(">" if self.big_endian else "<")
        data = self.read()
        if len(data) != self.length * dtype.itemsize:
            raise ValueError(f"{len(data)} bytes of numbers, needs {self.length} {dtype}")
        numbers = np.frombuffer(data, stored).astype(dtype, copy=False)
        return bfloat16_to_float32(numbers) if self.kind == "bfloat16" else numbers


@dataclass(frozen=True)
class TorchTensor:
    """A view of a storage, whose numbers are read only when they are asked for."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers, not bytes

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it wants to change a tensor")

    def numpy(self) -> NDArray:
        """A contiguous array with memory of its own; bfloat16 as float32."""
        end = self.offset + 1
        end += sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.shape, *self.strides)) < 0:
            raise ValueError(f"a tensor of shape {self.shape} with strides {self.strides}")
        if 0 not in self.shape and end > self.storage.length:
            raise ValueError(f"a tensor that reaches to {end} in {self.storage.length} numbers")
        if math.prod(self.shape) > self.storage.length:
            raise ValueError(f"a tensor of shape {self.shape} in {self.storage.length} numbers")
        numbers = self.storage.numbers()
        steps = [stride * numbers.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, steps)
        return np.array(view, order="C")


def _rebuild(
    storage: Storage, offset: int, shape: tuple, strides: tuple, *_: object
) -> TorchTensor:
    numbers = (offset, *shape, *strides)
    if (
        not isinstance(storage, Storage)
        or not all(type(n) is int and abs(n) < 1 << 62 for n in numbers)
        or not len(shape) == len(strides) <= 32
    ):
        raise pickle.UnpicklingError("a tensor without numbers")
    return TorchTensor(storage, offset, tuple(shape), tuple(strides))


_TENSOR_GLOBALS = {
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch", "Size"): to_tuple,
}


class TorchUnpickler(ArrayUnpickler):
    """Reads tensors too, as TorchTensor; `find` tells what a persistent id stands for."""

    def __init__(self, file: BinaryIO, find: Callable[[object], object] | None = None) -> None:
        super().__init__(file)
        self._find = find

    def find_class(self, module: str, name: str) -> object:
        """The global, if tensors need it; for a type of tensor the kind of its numbers."""
        if (module, name) in _TENSOR_GLOBALS:
            return _TENSOR_GLOBALS[module, name]
        kind = _KINDS.get(name.removesuffix("Storage").removesuffix("Tensor"))
        if module in ("torch", "torch.cuda") and kind:
            return kind
        return super().find_class(module, name)

    def persistent_load(self, pid: object) -> object:
        """What is kept outside the pickle."""
        if self._find is None:
            raise pickle.UnpicklingError(f"it points outside itself, to {reprlib.repr(pid)}")
        return self._find(pid)


def is_pytorch(path: Path) -> bool:
    """Whether a file is one of torch.save."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    with open(path, "rb") as file:
        start = file.read(64)
    return _MAGIC.to_bytes(10, "little") in start or _is_tar(path)


def _is_tar(path: Path) -> bool:
    """Whether it is a tar archive that is not compressed, for which tarfile.is_tarfile looks too.

    Of a large file of another kind that takes minutes.
    """
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


def read_pytorch(path: Path) -> object:
    """What torch.save was given: plain containers, with a TorchTensor for each tensor.

    Raises pickle.UnpicklingError, naming it, for any global that tensors do not need, and
    whatever a damaged file makes pickle, zipfile, tarfile or struct raise.
    """
    if zipfile.is_zipfile(path):
        return _read_zip(path)
    return _read_tar(path) if _is_tar(path) else _read_sequence(path)


def _read_zip(path: Path) -> object:
    room = room_for(path)

    @functools.lru_cache(maxsize=1)  # neighbouring tensors may be views of one storage
    def member(name: str, size: int) -> bytes:
        nonlocal room
        room -= size
        if room < 0:
            raise ValueError("its tensors unpack to far more than the file")
        with zipfile.ZipFile(path) as archive:
            found = archive.getinfo(name).file_size
            if found != size:  # before it is unpacked
                raise ValueError(f"{found} bytes of numbers in {name}, needs {size}")
            return archive.read(name)

    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    folder = min((n for n in names if n.endswith("data.pkl")), key=len).removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise pickle.UnpicklingError("it is a program of torch.jit: save its state_dict() alone")
    big_endian = False  # older files do not say
    if f"{folder}byteorder" in names:
        with zipfile.ZipFile(path) as archive, archive.open(f"{folder}byteorder") as file:
            big_endian = file.read(8) == b"big"

    def find(pid: tuple) -> Storage:
        _, kind, key, _, length = pid
        check_keys([key])
        size = _size(kind, length)
        return Storage(kind, length, lambda: member(f"{folder}data/{key}", size), big_endian)

    with zipfile.ZipFile(path) as archive, archive.open(f"{folder}data.pkl") as file:
        return TorchUnpickler(file, find).load()


def _read_sequence(path: Path) -> object:
    """Magic number, version, system, the content, the keys of its storages, and these."""
    places: dict[str, int] = {}  # of the numbers of a storage
    kinds: dict[str, str] = {}

    def find(pid: tuple) -> Storage:
        _, kind, key, _, length, view = pid
        if view is not None:
            raise pickle.UnpicklingError("views of storages are not known")
        size = _size(kind, length)
        check_keys([key])
        kinds[key] = kind
        return Storage(kind, length, lambda: _part(path, places[key], size))

    with open(path, "rb") as file:
        for _ in range(3):
            ArrayUnpickler(file).load()
        content = TorchUnpickler(file, find).load()
        for key in ArrayUnpickler(file).load():
            check_keys([key])
            (length,) = struct.unpack("<q", file.read(8))
            places[key] = file.tell()
            file.seek(_size(kinds[key], length), 1)
    return content


def _read_tar(path: Path) -> object:
    """Its members: storages (a header, the numbers, ...), tensors (views of them), pickle."""
    found: dict[int, object] = {}  # by the addresses that they had when they were saved
    with tarfile.open(path, "r:") as archive:
        storages = archive.extractfile("storages")
        for _ in range(TorchUnpickler(storages).load()):
            key, _, kind = TorchUnpickler(storages).load()
            check_keys([key])
            (length,) = struct.unpack("<q", storages.read(8))
            data = storages.read(_size(kind, length))
            found[key] = Storage(kind, length, lambda data=data: data)
        if TorchUnpickler(storages).load():
            raise pickle.UnpicklingError("views of storages are not known")
        tensors = archive.extractfile("tensors")
        for _ in range(TorchUnpickler(tensors).load()):
            key, storage, _ = TorchUnpickler(tensors).load()
            check_keys([key, storage])
            ndim, _ = struct.unpack("<ii", tensors.read(8))
            numbers = struct.unpack(f"<{2 * ndim + 1}q", tensors.read(8 * (2 * ndim + 1)))
            shape, strides, offset = numbers[:ndim], numbers[ndim:-1], numbers[-1]
            found[key] = _rebuild(found[storage], offset, shape, strides)
        return TorchUnpickler(archive.extractfile("pickle"), lambda key: found[int(key)]).load()


def _part(path: Path, place: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(place)
        return file.read(size)

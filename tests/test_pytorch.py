"""Files of torch.save: the three formats, as PyTorch's sources describe them, made without it."""

import io
import pickle
import struct
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paddlevid import pytorch
from paddlevid.pytorch import TorchTensor, is_pytorch, read_pytorch
from paddlevid.weights import WeightsError, read_weights

TYPES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage", "uint16": "BFloat16Storage",
}  # fmt: skip


class Stored:
    """Numbers (n,) of a storage; tensors that share it refer to the same object."""

    def __init__(self, numbers: np.ndarray, kind: str = "", location: str = "cpu") -> None:
        self.numbers, self.location = np.ascontiguousarray(numbers), location
        self.kind = kind or TYPES[self.numbers.dtype.name]


class Tensor:
    """What torch.save would write for a tensor."""

    def __init__(self, stored: Stored, offset: int, shape: tuple, strides: tuple) -> None:
        self.parts = (stored, offset, shape, strides)


def tensor(array: np.ndarray, **more: str) -> Tensor:
    strides = tuple(step // array.itemsize for step in np.empty(array.shape, array.dtype).strides)
    return Tensor(Stored(array.ravel(), **more), 0, array.shape, strides)


class Parameter:
    def __init__(self, data: Tensor) -> None:
        self.data = data


@pytest.fixture
def torch_names(monkeypatch) -> Callable[[str, str], object]:
    """Names that pickle takes for those of PyTorch."""
    for module in ("torch", "torch._utils", "torch.cuda", "torch.nn.modules.linear"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))

    def name(module: str, function: str) -> object:
        made = type(function, (), {"__module__": module, "__qualname__": function})
        found = getattr(sys.modules[module], function, made)
        setattr(sys.modules[module], function, found)
        return found

    return name


def dump(content: object, name: Callable, persistent: Callable, protocol: int = 2) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: object) -> object:
            return persistent(thing)

        def reducer_override(self, thing: object) -> object:
            if isinstance(thing, Tensor):
                hooks = (False, OrderedDict())
                return name("torch._utils", "_rebuild_tensor_v2"), (*thing.parts, *hooks)
            if isinstance(thing, Parameter):
                rebuild = name("torch._utils", "_rebuild_parameter")
                return rebuild, (thing.data, True, OrderedDict())
            return NotImplemented

    file = io.BytesIO()
    Pickler(file, protocol).dump(content)
    return file.getvalue()


def kind_of(stored: Stored, name: Callable) -> object:
    return name("torch.cuda" if stored.location.startswith("cuda") else "torch", stored.kind)


def save_zip(path: Path, content: object, name: Callable, byteorder: str = "") -> Path:
    keys: dict[int, tuple[str, Stored]] = {}

    def persistent(thing: object) -> object:
        if not isinstance(thing, Stored):
            return None
        key, _ = keys.setdefault(id(thing), (str(len(keys)), thing))
        kind = kind_of(thing, name)
        return "storage", kind, key, thing.location, len(thing.numbers)

    pickled = dump(content, name, persistent)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        if byteorder:
            archive.writestr("archive/byteorder", byteorder)
        for key, stored in keys.values():
            numbers = stored.numbers
            if byteorder == "big":
                numbers = numbers.astype(numbers.dtype.newbyteorder(">"))
            archive.writestr(f"archive/data/{key}", numbers.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def save_sequence(path: Path, content: object, name: Callable) -> Path:
    keys: dict[int, tuple[str, Stored]] = {}

    def persistent(thing: object) -> object:
        if not isinstance(thing, Stored):
            return None
        key, _ = keys.setdefault(id(thing), (str(1000 + len(keys)), thing))
        kind = kind_of(thing, name)
        return "storage", kind, key, thing.location, len(thing.numbers), None

    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    heads = [0x1950A86A20F9469CFC6C, 1001, system]
    parts = [pickle.dumps(head, 2) for head in heads] + [dump(content, name, persistent)]
    parts.append(pickle.dumps(sorted(key for key, _ in keys.values()), 2))
    for _, stored in sorted(keys.values(), key=lambda entry: entry[0]):
        parts += [struct.pack("<q", len(stored.numbers)), stored.numbers.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def save_tar(path: Path, content: dict[str, Tensor], name: Callable) -> Path:
    """Storages, tensors and the pickle refer to each other by addresses."""
    storages = {id(t.parts[0]): t.parts[0] for t in content.values()}
    members = {"storages": [pickle.dumps(len(storages), 2)], "tensors": []}

    def named(thing: object) -> bytes:
        return dump(thing, name, lambda _: None)

    for key, stored in storages.items():
        members["storages"] += [named((key, "cpu", kind_of(stored, name)))]
        members["storages"] += [struct.pack("<q", len(stored.numbers)), stored.numbers.tobytes()]
    members["storages"].append(pickle.dumps([], 2))
    members["tensors"].append(pickle.dumps(len(content), 2))
    for thing in content.values():
        stored, offset, shape, strides = thing.parts
        kind = name("torch", stored.kind.replace("Storage", "Tensor"))
        numbers = (*shape, *strides, offset)
        members["tensors"].append(named((id(thing), id(stored), kind)))
        members["tensors"].append(struct.pack("<ii", len(shape), 0))
        members["tensors"].append(struct.pack(f"<{len(numbers)}q", *numbers))
    persistent = lambda thing: str(id(thing)) if isinstance(thing, Tensor) else None  # noqa: E731
    members["pickle"] = [dump(OrderedDict(content), name, persistent)]
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for member, parts in members.items():
            data = b"".join(parts)
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


SAVE = {"zip": save_zip, "sequence": save_sequence, "tar": save_tar}


def numbers(kind: str = "float32", size: int = 24) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=size) * 50).astype(kind)


@pytest.mark.parametrize("save", SAVE)
def test_tensors_come_back_the_same(tmp_path, torch_names, save):
    shapes = {"conv.weight": (4, 3, 2, 1), "bias": (5,), "one": (), "none": (0, 3)}
    arrays = {name: numbers(size=int(np.prod(s))).reshape(s) for name, s in shapes.items()}
    content = {name: tensor(array) for name, array in arrays.items()}
    path = SAVE[save](tmp_path / "a.pth", content, torch_names)
    assert is_pytorch(path)
    file = read_weights(path)
    assert file.order == "torch"
    assert list(file.arrays) == list(arrays)
    for name, array in arrays.items():
        assert file.arrays[name].dtype == np.float32
        np.testing.assert_array_equal(file.arrays[name], array)


@pytest.mark.parametrize("save", SAVE)
@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "uint16"])
def test_all_kinds_of_numbers_are_read(tmp_path, torch_names, save, kind):
    array = numbers(kind) if kind != "bool" else numbers() > 0
    path = SAVE[save](tmp_path / "a.pth", {"w": tensor(array)}, torch_names)
    got = read_weights(path).arrays["w"]
    assert got.dtype == kind
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("save", SAVE)
def test_bfloat16_becomes_float32(tmp_path, torch_names, save):
    values = np.array([1.0, -2.5, 0.0, 1e30, 3.140625], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    path = SAVE[save](tmp_path / "a.pth", {"w": tensor(bits)}, torch_names)
    got = read_weights(path).arrays["w"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, values, rtol=2**-7)
    np.testing.assert_array_equal(got.view(np.uint32) & 0xFFFF, 0)


@pytest.mark.parametrize("save", SAVE)
def test_tensors_that_share_a_storage_or_are_not_contiguous_are_read(tmp_path, torch_names, save):
    stored = Stored(numbers())
    content = {
        "whole": Tensor(stored, 0, (24,), (1,)),
        "part": Tensor(stored, 6, (2, 3), (3, 1)),
        "transposed": Tensor(stored, 0, (6, 4), (1, 6)),
        "expanded": Tensor(stored, 3, (5, 2), (0, 1)),
        "every third": Tensor(stored, 2, (8,), (3,)),
    }
    got = read_weights(SAVE[save](tmp_path / "a.pth", content, torch_names)).arrays
    whole = stored.numbers
    np.testing.assert_array_equal(got["whole"], whole)
    np.testing.assert_array_equal(got["part"], whole[6:12].reshape(2, 3))
    np.testing.assert_array_equal(got["transposed"], whole.reshape(4, 6).T)
    np.testing.assert_array_equal(got["expanded"], np.tile(whole[3:5], (5, 1)))
    np.testing.assert_array_equal(got["every third"], whole[2::3])
    for array in got.values():
        assert array.flags.c_contiguous
        assert array.flags.owndata  # so that none changes with another
    assert not np.shares_memory(got["whole"], got["part"])


@pytest.mark.parametrize("save", ["zip", "sequence"])
def test_parameters_of_a_gpu_inside_a_checkpoint_are_read(tmp_path, torch_names, save):
    weight = Parameter(tensor(numbers().reshape(4, 6), location="cuda:0"))
    moment = tensor(numbers("float64"))
    content = {
        "epoch": 12, "best": 0.75, "names": ["a", "b"], "shape": (3, 4), "flag": None,
        "state_dict": OrderedDict(w=weight), "optimizer": {"state": {0: {"exp_avg": moment}}},
    }  # fmt: skip
    file = read_weights(SAVE[save](tmp_path / "a.pth.tar", content, torch_names))
    np.testing.assert_array_equal(file.arrays["w"], numbers().reshape(4, 6))
    assert file.beside == ["epoch", "best", "names", "shape", "flag", "optimizer"]


def test_what_is_not_asked_for_is_not_read(tmp_path, torch_names, monkeypatch):
    content = {"state_dict": {"w": tensor(numbers())}, "optimizer": {"m": tensor(numbers("int8"))}}
    read = []
    monkeypatch.setattr(
        pytorch.Storage, "numbers",
        lambda self, old=pytorch.Storage.numbers: read.append(self.kind) or old(self),
    )  # fmt: skip
    read_weights(save_zip(tmp_path / "a.pth", content, torch_names))
    assert read == ["f4"]


def test_numbers_of_a_big_endian_machine_are_turned_round(tmp_path, torch_names):
    arrays = {"f": numbers(), "i": numbers("int64"), "b": numbers("int8")}
    content = {name: tensor(array) for name, array in arrays.items()}
    path = save_zip(tmp_path / "a.pth", content, torch_names, byteorder="big")
    for name, array in read_weights(path).arrays.items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype.isnative


# --- what is refused ------------------------------------------------------------------------------


class Runs:
    """Makes a folder when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", ["zip", "sequence"])
def test_code_in_a_file_is_refused_by_name_and_not_run(tmp_path, torch_names, save):
    content = {"state_dict": {"w": tensor(numbers())}, "args": Runs(tmp_path / "made")}
    path = SAVE[save](tmp_path / "a.pth", content, torch_names)
    with pytest.raises(WeightsError, match=r"a.pth is damaged .*it wants to run (posix|nt)\.mkdir"):
        read_weights(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "name",
    ["torch.nn.modules.linear Linear", "torch.storage _load_from_bytes", "torch load",
     "torch._utils _rebuild_qtensor", "torch.cuda synchronize", "argparse Namespace",
     "torch.serialization FloatStorage", "torch ComplexFloatStorage"],
)  # fmt: skip
def test_only_what_tensors_need_is_admitted(tmp_path, name):
    module, function = name.split()
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", f"c{module}\n{function}\n.".encode())
    with pytest.raises(WeightsError, match=f"it wants to run {module}.{function}, which is refus"):
        read_weights(path)


def test_a_program_of_torch_jit_is_refused_with_what_to_do(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/__torch__.py"):
            archive.writestr(name, b"")
    with pytest.raises(WeightsError, match=r"program of torch\.jit: save its state_dict\(\) alone"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("save", SAVE)
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (25,), (1,)), (20, (5,), (1,)), (0, (5, 6), (6, 1)), (0, (2,), (24,)),
     (-1, (2,), (1,)), (5, (2,), (-1,)), (0, (1000000000,), (0,)), (0, (-2,), (1,)),
     (2**62, (1,), (1,)), (0, (3, 4), (1,))],
)  # fmt: skip
def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(
    tmp_path, torch_names, save, offset, shape, strides
):
    if save == "tar" and len(shape) != len(strides):
        pytest.skip("this format cannot say so")
    content = {"w": Tensor(Stored(numbers()), offset, shape, strides)}
    path = SAVE[save](tmp_path / "a.pth", content, torch_names)
    with pytest.raises(WeightsError, match="a.pth is damaged or not a weights file: ."):
        read_weights(path)


@pytest.mark.parametrize("save", SAVE)
def test_a_file_that_is_cut_off_is_refused(tmp_path, torch_names, save):
    content = {"w": tensor(numbers(size=3000)), "v": tensor(numbers("int64", 2000))}
    path = SAVE[save](tmp_path / "a.pth", content, torch_names)
    whole = path.read_bytes()
    end = len(whole) if save != "tar" else whole.rindex(b"pickle") + 700  # a tar ends in zeros
    for length in (1, 5, 30, 300, end // 3, end // 2, end - 200):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="a.pth is damaged or not a"):
            read_weights(path)


def test_an_archive_without_its_end_says_what_to_do(tmp_path, torch_names):
    path = save_zip(tmp_path / "a.pth", {"w": tensor(numbers(size=3000))}, torch_names)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="the end of the archive is missing: copy or download"):
        read_weights(path)


def test_every_damaged_byte_is_noticed_or_harmless(tmp_path, torch_names):
    path = save_sequence(tmp_path / "a.pth", {"w": tensor(numbers())}, torch_names)
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for place in range(0, len(whole) - 24 * 4, 3):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except WeightsError as error:
            assert str(error).startswith(str(path))


@pytest.mark.parametrize("length", [np.int64(2**62 + 1), -1, 2.0, "24"])
def test_a_length_that_is_no_length_is_refused(tmp_path, torch_names, length):
    stored = Stored(numbers())
    content = {"w": Tensor(stored, 0, (2000,), (1,))}

    def persistent(thing: object) -> object:
        if isinstance(thing, Stored):
            return "storage", torch_names("torch", "FloatStorage"), "0", "cpu", length
        return None

    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", dump(content, torch_names, persistent))
        archive.writestr("a/data/0", stored.numbers.tobytes())
    with pytest.raises(WeightsError, match="a.pth is damaged or not a weights file: ."):
        read_weights(tmp_path / "a.pth")


def test_numbers_that_are_packed_are_not_unpacked_beyond_their_length(tmp_path, torch_names):
    path = save_zip(tmp_path / "a.pth", {"w": tensor(numbers())}, torch_names)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["archive/data/0"] = b"\0" * 10_000_000
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(WeightsError, match="10000000 bytes of numbers in .*, needs 96"):
        read_weights(path)


def test_a_storage_is_unpacked_once_for_its_tensors_and_not_without_end(
    tmp_path, torch_names, monkeypatch
):
    stored = Stored(numbers(size=1000))
    tensors = {f"w{n}": Tensor(stored, 0, (1000,), (1,)) for n in range(20)}
    path = save_zip(tmp_path / "a.pth", tensors, torch_names)
    monkeypatch.setattr("paddlevid.pytorch.room_for", lambda path: 4000)
    assert len(read_weights(path).arrays) == 20
    other = Stored(numbers(size=1000))
    path = save_zip(
        tmp_path / "a.pth", {**tensors, "x": Tensor(other, 0, (1000,), (1,))}, torch_names
    )
    with pytest.raises(WeightsError, match="its tensors unpack to far more than the file"):
        read_weights(path)


@pytest.mark.parametrize("kind", ["storage", "tensor"])
def test_what_was_checked_cannot_be_changed_afterwards(tmp_path, kind):
    text = lambda word: b"X" + struct.pack("<I", len(word)) + word  # noqa: E731
    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu")
    storage += b"K\x04tQ"  # four numbers, by a persistent id
    head = b"\x80\x02" + storage
    if kind == "tensor":
        head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage
        head += b"K\x00K\x04\x85K\x01\x85tR"
    tail = b"}" + text(b"length") + b"K\xffsb."  # BUILD with {"length": 255}
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", head + tail)
        archive.writestr("a/data/0", bytes(16))
    with pytest.raises(WeightsError, match=f"it wants to change a {kind}"):
        read_weights(tmp_path / "a.pth")


def test_other_files_are_not_taken_for_pytorchs(tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps({"w": np.ones(2)}))
    np.savez(tmp_path / "b.npz", w=np.ones(2))
    (tmp_path / "c").write_bytes(b"{}")
    assert not any(is_pytorch(tmp_path / name) for name in ("a", "b.npz", "c"))


def test_the_numbers_of_a_tensor_are_read_when_they_are_asked_for(tmp_path, torch_names):
    path = save_zip(tmp_path / "a.pth", [1, tensor(numbers())], torch_names)
    one, lazy = read_pytorch(path)
    assert one == 1
    assert isinstance(lazy, TorchTensor)
    assert lazy.shape == (24,)
    np.testing.assert_array_equal(lazy.numpy(), numbers())


# --- PyTorch itself -------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("new_format", [True, False])
def test_files_of_pytorch_itself_are_read(tmp_path, new_format):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=generator)
    tensors = {
        "plain": base, "transposed": base.T, "part": base[2:4, ::3],
        "expanded": base[:1].expand(5, 8), "half": base.half(), "bfloat16": base.bfloat16(),
        "double": base.double(), "long": base.long(), "bool": base > 0,
        "parameter": torch.nn.Parameter(base * 2),
        "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4),
    }  # fmt: skip
    path = tmp_path / "a.pth"
    content = {"state_dict": OrderedDict(tensors), "epoch": 3, "size": base.shape}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    file = read_weights(path)
    assert file.beside == ["epoch", "size"]
    for name, expected in tensors.items():
        expected = expected.detach()
        expected = expected.float() if expected.dtype == torch.bfloat16 else expected
        np.testing.assert_array_equal(file.arrays[name], expected.numpy(), err_msg=name)
        assert file.arrays[name].dtype == expected.numpy().dtype


@pytest.mark.parity
def test_pytorch_reads_the_tar_archives_that_these_tests_make(tmp_path):
    torch = pytest.importorskip("torch")
    stored = Stored(numbers())
    content = {"w": tensor(numbers(size=6).reshape(2, 3)), "t": Tensor(stored, 2, (4, 5), (1, 4))}
    path = save_tar(tmp_path / "a.pth", content, lambda _, name: getattr(torch, name))
    theirs = torch.load(path, weights_only=False)
    ours = read_weights(path).arrays
    assert set(theirs) == set(ours)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name].numpy())

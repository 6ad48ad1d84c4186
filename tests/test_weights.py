"""Weights files: what is read, what is refused, and that nothing in them is run."""

import collections
import json
import os
import pickle
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

import paddlevid
from paddlevid import weights as weights_module
from paddlevid.files import read_metadata
from paddlevid.pickles import WeightsError, read_pickle
from paddlevid.weights import describe, download, load_weights, read_weights, write_weights


class Net(nn.Layer):
    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1D(3)
        self.fc = nn.Linear(3, num_classes)


def arrays(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def random_arrays(model: nn.Layer, kind: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.random(tensor.shape).astype(kind) for name, tensor in arrays(model).items()}


def assert_same(got: dict, expected: dict) -> None:
    assert set(got) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.parametrize("name", ["a.pdparams", "a.safetensors"])
def test_weights_come_back_the_same(tmp_path, name):
    first, second = Net(), Net()
    load_weights(first, random_arrays(first), "made here")
    write_weights(tmp_path / name, first)
    file = read_weights(tmp_path / name)
    assert (file.path, file.order, list(file.beside)) == (tmp_path / name, "paddle", [])
    load_weights(second, file.arrays, name)
    assert_same(arrays(second), random_arrays(first))
    assert os.listdir(tmp_path) == [name]


def test_a_file_of_paddle_save_is_read_without_paddle(tmp_path, monkeypatch):
    model = Net()
    paddle.save(model.state_dict(), str(tmp_path / "a.pdparams"))
    expected = arrays(model)
    monkeypatch.setattr(paddle, "load", None)
    content = read_weights(tmp_path / "a.pdparams").arrays
    assert_same(content, expected)
    assert all(type(array) is np.ndarray for array in content.values())


def test_a_file_that_paddle_1_wrote_is_read(tmp_path):
    # A plain dict of arrays, with the note that maps names to names, in protocol 2.
    content = {"w": np.ones(2), "StructuredToParameterName@@": {"w": "linear_0.w_0"}}
    (tmp_path / "a").write_bytes(pickle.dumps(content, protocol=2))
    assert_same(read_weights(tmp_path / "a").arrays, {"w": np.ones(2)})


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_the_module_names_of_numpy_1_and_2_are_both_read(tmp_path, core):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = pickle.dumps({"w": array, "s": array[0, 1]}, protocol=2)
    for name in (b"numpy._core.", b"numpy.core."):
        content = content.replace(b"c" + name, b"c" + core.encode() + b".")
    (tmp_path / "a").write_bytes(content)
    assert f"c{core}.multiarray".encode() in content
    loaded = read_pickle(tmp_path / "a")
    np.testing.assert_array_equal(loaded["w"], array)
    assert loaded["s"] == 1


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int64", "bool"])
def test_all_pickles_of_arrays_are_read(tmp_path, kind, protocol):
    content = {"a": np.array([[0, 1, 2]]).astype(kind), "f": np.asfortranarray(np.ones((2, 3)))}
    (tmp_path / "a").write_bytes(pickle.dumps(collections.OrderedDict(content), protocol))
    got = read_pickle(tmp_path / "a")
    assert_same(got, content)
    assert got["a"].dtype == kind


class Runs:
    """Makes a folder when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_file_is_refused_by_name_and_not_run(tmp_path, protocol):
    (tmp_path / "a").write_bytes(pickle.dumps({"w": Runs(tmp_path / "made")}, protocol))
    with pytest.raises(WeightsError, match=r"a is damaged or .*it wants to run (posix|nt)\.mkdir"):
        read_weights(tmp_path / "a")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "os system", "numpy load", "numpy.core.multiarray fromfile",
     "numpy._core.multiarray.x scalar", "xnumpy._core.multiarray scalar", "paddle load"],
)  # fmt: skip
def test_only_what_arrays_need_is_admitted(tmp_path, name):
    module, function = name.split()
    (tmp_path / "a").write_bytes(f"c{module}\n{function}\n.".encode())
    with pytest.raises(WeightsError, match=f"it wants to run {module}.{function}, which is refus"):
        read_pickle(tmp_path / "a")


def test_a_dotted_name_does_not_lead_out_of_an_admitted_one(tmp_path):
    (tmp_path / "a").write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    with pytest.raises(WeightsError, match=r"it wants to run numpy.ndarray.tofile"):
        read_pickle(tmp_path / "a")


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    write_weights(tmp_path / "a", Net())
    whole = (tmp_path / "a").read_bytes()
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="a is damaged or not a (Paddle )?weights file: ."):
            read_weights(tmp_path / "a")


@pytest.mark.parametrize("content", [b"epoch 1: loss 0.5\n", b"PK\x03\x04 zip", b"\x00" * 100])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(WeightsError, match="a is damaged or not a (Paddle )?weights file"):
        read_weights(tmp_path / "a")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot read the weights .*no\.pdparams: No such file"):
        read_weights(tmp_path / "no.pdparams")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([np.ones(2)], "a: holds a list, not named arrays"),
        ({}, "a: there are no arrays in it$"),
        ({"epoch": 3}, "a: there are no arrays in it: epoch is a int"),
        ({"w": "text", "v": {}}, "a: there are no arrays in it: w is a str, v is a dict"),
        ({"w": np.array([None])}, "it has an array of 'O8', not of numbers"),
        ({"w": np.array(["text"])}, "it has an array of 'U4', not of numbers"),
        ({"model": {"state_dict": {}}}, "a: there are no arrays in it: model is a dict"),
    ],
)
def test_content_that_is_no_arrays_is_refused_by_key(tmp_path, content, message):
    (tmp_path / "a").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "a")


@pytest.mark.parametrize("key", ["state_dict", "model_state", "model", "net", "module"])
def test_arrays_are_found_inside_and_what_lies_beside_them_is_named(tmp_path, key):
    content = {"epoch": 3, key: {"w": np.ones(2)}, "optimizer": {"state": {}}}
    (tmp_path / "a").write_bytes(pickle.dumps(content))
    file = read_weights(tmp_path / "a")
    assert_same(file.arrays, {"w": np.ones(2)})
    assert file.beside == ["epoch", "optimizer"]


def test_arrays_are_found_two_levels_deep(tmp_path):
    content = {"model": {"state_dict": {"w": np.ones(2), "version": 2}, "best": 0.5}, "epoch": 1}
    (tmp_path / "a").write_bytes(pickle.dumps(content))
    file = read_weights(tmp_path / "a")
    assert_same(file.arrays, {"w": np.ones(2)})
    assert file.beside == ["epoch", "best", "version"]


def test_an_array_beside_the_weights_does_not_hide_them(tmp_path):
    content = {"state_dict": {"w": np.ones(2)}, "best_acc1": np.float32(76.0), "m": np.ones(3)}
    (tmp_path / "a").write_bytes(pickle.dumps(content))
    file = read_weights(tmp_path / "a")
    assert_same(file.arrays, {"w": np.ones(2)})
    assert file.beside == ["best_acc1", "m"]


class Calls:
    """Unpickles as a call of a function with these arguments."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "call",
    [
        Calls(np.ndarray, (1,), "O", b"A" * 8),
        Calls(np.dtype, "O"),
        Calls(np.dtype, [("a", "f4")]),
        Calls(np.ones(1).__reduce__()[0], np.ndarray, (10**12,), b"b"),
        Calls(tuple, Calls(np.ndarray, (1,), "O", b"A" * 8)),
    ],
    ids=["ndarray", "objects", "fields", "huge", "nested"],
)  # fmt: skip
def test_numpy_itself_is_not_called_with_what_a_file_says(tmp_path, call, protocol):
    (tmp_path / "a").write_bytes(pickle.dumps({"w": call}, protocol))
    with pytest.raises(WeightsError, match="a is damaged or not a"):
        read_weights(tmp_path / "a")


def test_containers_that_hold_themselves_or_each_other_often_are_read(tmp_path):
    knot: list = []
    knot.append(knot)
    bomb: object = np.ones(1)
    for _ in range(60):
        bomb = [bomb, bomb]
    (tmp_path / "a").write_bytes(pickle.dumps({"w": np.ones(2), "knot": knot, "bomb": bomb}))
    file = read_weights(tmp_path / "a")
    assert_same(file.arrays, {"w": np.ones(2)})
    assert file.beside == ["knot", "bomb"]


def test_a_network_may_have_a_part_that_is_called_model(tmp_path):
    content = {"model": np.ones(2), "net.weight": np.zeros(3)}
    (tmp_path / "a").write_bytes(pickle.dumps(content))
    assert_same(read_weights(tmp_path / "a").arrays, content)


def test_a_checkpoint_of_a_run_is_refused_with_what_to_take_instead(tmp_path):
    content = {"model": {"w": np.ones(2)}, "optimizer": {}, "progress": {}}
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"a\.ckpt is a checkpoint of a run: .*best\.pdparams"):
        read_weights(tmp_path / "a.ckpt")


# --- bfloat16 -------------------------------------------------------------------------------------


def test_paddles_bfloat16_becomes_float32(tmp_path):
    values = [1.0, -2.5, 3.140625, 0.0, 1e30]
    tensor = paddle.to_tensor(values).astype("bfloat16")
    paddle.save({"w": tensor}, str(tmp_path / "a.pdparams"))
    array = read_weights(tmp_path / "a.pdparams").arrays["w"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, tensor.astype("float32").numpy())
    np.testing.assert_allclose(array, values, rtol=2**-7)


# --- .safetensors ---------------------------------------------------------------------------------


def safetensors_file(path: Path, header: dict, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    ("kind", "data", "dtype"),
    [("F32", np.array([1, -2.5], "<f4"), "float32"), ("F16", np.array([1, -2.5], "<f2"), "float16"),
     ("F64", np.array([1, -2.5], "<f8"), "float64"),
     ("BF16", np.array([0x3F80, 0xC020], "<u2"), "float32")],
)  # fmt: skip
def test_safetensors_of_all_floats_are_read(tmp_path, kind, data, dtype):
    entry = {"dtype": kind, "shape": [2], "data_offsets": [0, data.nbytes]}
    file = read_weights(safetensors_file(tmp_path / "a", {"w": entry}, data.tobytes()))
    assert file.arrays["w"].dtype == dtype
    np.testing.assert_array_equal(file.arrays["w"], [1.0, -2.5])
    assert file.order == ""


@pytest.mark.parametrize(("format", "order"), [("pt", "torch"), ("pd", "paddle"), ("tf", "")])
def test_safetensors_say_whose_order_their_linear_weights_have(tmp_path, format, order):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = {"__metadata__": {"format": format}, "w": entry}
    assert read_weights(safetensors_file(tmp_path / "a", header, b"0000")).order == order


def test_other_kinds_of_numbers_are_refused_by_name(tmp_path):
    entry = {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}
    file = safetensors_file(tmp_path / "a", {"w": entry}, b"00")
    with pytest.raises(WeightsError, match="a: w is F8_E4M3, needs one of F64, F32"):
        read_weights(file)


def test_a_safetensors_that_is_cut_off_is_refused(tmp_path):
    write_weights(tmp_path / "a.safetensors", Net())
    whole = (tmp_path / "a.safetensors").read_bytes()
    for length in (1, 8, 9, 20, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="a is damaged or n"):
            read_weights(tmp_path / "a")


def test_a_safetensors_takes_config_and_classes_along(tmp_path):
    config = {"MODEL": {"name": "tsn_r18", "image_mean": [0.5, 0.5, 0.5]}, "INFER": {"crops": 3}}
    metadata = describe(config, ["走路", "run"])
    write_weights(tmp_path / "a.safetensors", Net(), metadata)
    texts = read_metadata(tmp_path / "a.safetensors")
    assert texts["paddlevid"] == paddlevid.__version__
    assert yaml.safe_load(texts["config"]) == config
    assert json.loads(texts["classes"]) == ["走路", "run"]
    assert read_weights(tmp_path / "a.safetensors").metadata == texts


# --- .npz -----------------------------------------------------------------------------------------


def test_npz_is_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", w=np.ones(2), **{"fc.bias": np.zeros(3)})
    file = read_weights(tmp_path / "a.npz")
    assert_same(file.arrays, {"w": np.ones(2), "fc.bias": np.zeros(3)})
    assert file.order == ""


def test_objects_in_an_npz_are_refused_and_not_made(tmp_path):
    objects = np.array([Runs(tmp_path / "made")], dtype=object)
    np.savez(tmp_path / "a.npz", w=objects)
    with pytest.raises(
        WeightsError, match=r"a\.npz is damaged or not a weights file: Object arrays"
    ):
        read_weights(tmp_path / "a.npz")
    assert not (tmp_path / "made").exists()


def test_an_npz_that_is_cut_off_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(2000))
    whole = (tmp_path / "a.npz").read_bytes()
    for length in (4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "b").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="b is damaged or not a"):
            read_weights(tmp_path / "b")


# --- into a network -------------------------------------------------------------------------------


def test_missing_unexpected_and_misshapen_arrays_are_named_and_nothing_is_set():
    model = Net()
    before = arrays(model)
    wrong = random_arrays(model)
    del wrong["norm.weight"], wrong["norm._mean"]
    wrong |= {"extra": np.ones(1), "fc.weight": np.ones((3, 5)), "fc.bias": np.ones(5)}
    with pytest.raises(WeightsError) as error:
        load_weights(model, wrong, "a.pdparams")
    text = str(error.value)
    assert text.startswith("a.pdparams does not fit the network: 2 missing (")
    assert "norm.weight" in text
    assert "1 unexpected (extra)" in text
    assert "2 of another shape (fc.weight is [3, 5], needs [3, 2], fc.bias is [5]" in text
    assert text.endswith("it was saved from another network")
    assert_same(arrays(model), before)
    model.classifier = "fc"
    with pytest.raises(WeightsError, match="another network or with another num_classes$"):
        load_weights(model, wrong, "a.pdparams")


def test_of_many_wrong_names_three_are_shown():
    content = {f"extra{i}": np.ones(1) for i in range(9)}
    with pytest.raises(WeightsError, match=r"9 unexpected \(extra0, extra1, extra2, \.\.\.\)"):
        load_weights(Net(), content, "a")


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_are_converted(kind):
    model = Net()
    load_weights(model, random_arrays(model, kind), "a")
    expected = {n: a.astype(np.float32) for n, a in random_arrays(model, kind).items()}
    assert_same(arrays(model), expected)
    assert model.fc.weight.dtype == paddle.float32


@pytest.mark.parametrize("kind", [np.uint16, np.int64, bool])
def test_integers_are_refused_instead_of_taken_for_weights(kind):
    model = Net()
    before = arrays(model)
    content = random_arrays(model) | {"fc.bias": np.ones(2, kind)}
    with pytest.raises(WeightsError, match=f"^a: fc.bias is {np.dtype(kind)}, needs float32, or "):
        load_weights(model, content, "a")
    assert_same(arrays(model), before)


@pytest.mark.parametrize("broken", ["save", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, broken):
    old = Net()
    write_weights(tmp_path / "a", old)

    def save_half(state: object, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    if broken == "save":
        monkeypatch.setattr(weights_module.paddle, "save", save_half)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_weights(tmp_path / "a", Net())
    assert os.listdir(tmp_path) == ["a"]
    assert_same(read_weights(tmp_path / "a").arrays, arrays(old))


def test_a_download_that_fails_says_what_to_do(monkeypatch):
    def fail(url: str, md5: str) -> str:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(paddle.utils.download, "get_weights_path_from_url", fail)
    with pytest.raises(
        ConnectionError, match=r"cannot download http://a \(RuntimeError\): .*--pre"
    ):
        download("http://a", "0" * 32)

"""Weights files: what is read, what is refused, and that nothing in them is run."""

import collections
import os
import pickle
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid import weights as weights_module
from paddlevid.weights import (
    WeightsError,
    download,
    load_weights,
    read_pickle,
    read_weights,
    write_weights,
)


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


def test_weights_come_back_the_same(tmp_path):
    first, second = Net(), Net()
    load_weights(first, random_arrays(first), "made here")
    write_weights(tmp_path / "a.pdparams", first)
    content = read_weights(tmp_path / "a.pdparams")
    assert load_weights(second, content, "a.pdparams") == []
    assert_same(arrays(second), random_arrays(first))
    assert os.listdir(tmp_path) == ["a.pdparams"]


def test_a_file_of_paddle_save_is_read_without_paddle(tmp_path, monkeypatch):
    model = Net()
    paddle.save(model.state_dict(), str(tmp_path / "a.pdparams"))
    expected = arrays(model)
    monkeypatch.setattr(paddle, "load", None)
    content = read_weights(tmp_path / "a.pdparams")
    assert_same(content, expected)
    assert all(type(array) is np.ndarray for array in content.values())


def test_a_file_that_paddle_1_wrote_is_read(tmp_path):
    # A plain dict of arrays, with the note that maps names to names, in protocol 2.
    content = {"w": np.ones(2), "StructuredToParameterName@@": {"w": "linear_0.w_0"}}
    (tmp_path / "a").write_bytes(pickle.dumps(content, protocol=2))
    assert_same(read_weights(tmp_path / "a"), {"w": np.ones(2)})


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
        with pytest.raises(WeightsError, match="a is damaged or not a Paddle weights file: ."):
            read_weights(tmp_path / "a")


@pytest.mark.parametrize("content", [b"epoch 1: loss 0.5\n", b"PK\x03\x04 zip", b"\x00" * 100])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(WeightsError, match="a is damaged or not a Paddle weights file"):
        read_weights(tmp_path / "a")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot read the weights .*no\.pdparams: No such file"):
        read_weights(tmp_path / "no.pdparams")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([np.ones(2)], "a: holds a list, not named arrays"),
        ({"epoch": 3}, "a: epoch is a int, not an array"),
        ({"model": {"w": np.ones(2)}}, "a: model is a dict, not an array"),
        ({"w": "text"}, "a: w is a str, not an array"),
        ({"w": np.array([None])}, "a: w is a ndarray, not an array"),
    ],
)
def test_content_that_is_no_arrays_is_refused_by_key(tmp_path, content, message):
    (tmp_path / "a").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "a")


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
    assert text.endswith("another num_classes")
    assert_same(arrays(model), before)


def test_of_many_wrong_names_three_are_shown():
    content = {f"extra{i}": np.ones(1) for i in range(9)}
    with pytest.raises(WeightsError, match=r"9 unexpected \(extra0, extra1, extra2, \.\.\.\)"):
        load_weights(Net(), content, "a")


def test_another_number_of_classes_leaves_a_new_head_as_it_is():
    model, content = Net(num_classes=5), random_arrays(Net(num_classes=2))
    head = arrays(model)["fc.weight"]
    assert sorted(load_weights(model, content, "a", new_head="fc")) == ["fc.bias", "fc.weight"]
    np.testing.assert_array_equal(arrays(model)["fc.weight"], head)
    np.testing.assert_array_equal(arrays(model)["norm.weight"], content["norm.weight"])


def test_a_head_that_fits_is_loaded_too():
    model = Net()
    assert load_weights(model, random_arrays(model), "a", new_head="fc") == []
    assert_same(arrays(model), random_arrays(model))


def test_only_the_head_may_have_another_shape():
    content = random_arrays(Net()) | {"norm.weight": np.ones(4)}
    with pytest.raises(WeightsError, match=r"1 of another shape \(norm.weight is \[4\], needs \[3"):
        load_weights(Net(), content, "a", new_head="fc")


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
    assert_same(read_weights(tmp_path / "a"), arrays(old))


def test_a_download_that_fails_says_what_to_do(monkeypatch):
    def fail(url: str, md5: str) -> str:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(paddle.utils.download, "get_weights_path_from_url", fail)
    with pytest.raises(
        ConnectionError, match=r"cannot download http://a \(RuntimeError\): .*--pre"
    ):
        download("http://a", "0" * 32)

"""Checkpoints: what comes back, which are kept, and what happens to damaged ones."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid import checkpoint
from paddlevid.checkpoint import (
    load_checkpoint,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
)
from paddlevid.optim import create_optimizer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back_as_arrays_and_plain_values(tmp_path):
    state = {
        "model": {"w": paddle.to_tensor([[1.5, 2.5]]), "n": np.arange(3)},
        "progress": {"step": 7, "best": np.float64(0.25), "good": np.bool_(True), "name": "é"},
        "list": [np.int64(1), (2.5, None), paddle.to_tensor([1, 2])],
    }
    path = save_checkpoint(tmp_path / "new" / "folder", 7, state, keep=2)
    assert path.name == "step_00000007.ckpt"
    loaded, problems = load_checkpoint(tmp_path / "new" / "folder")
    assert problems == []
    np.testing.assert_array_equal(loaded["model"]["w"], np.float32([[1.5, 2.5]]))
    assert loaded["model"]["w"].dtype == np.float32
    np.testing.assert_array_equal(loaded["model"]["n"], [0, 1, 2])
    assert loaded["progress"] == {"step": 7, "best": 0.25, "good": True, "name": "é"}
    assert [type(value) for value in loaded["progress"].values()] == [int, float, bool, str]
    assert loaded["list"][:2] == [1, (2.5, None)]
    assert type(loaded["list"][2]) is np.ndarray


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 9, 10, 11):
        save_checkpoint(tmp_path, step, {"step": step}, keep=2)
    assert names(tmp_path) == ["step_00000010.ckpt", "step_00000011.ckpt"]
    assert load_checkpoint(tmp_path)[0] == {"step": 11}


def test_the_same_step_may_be_saved_again(tmp_path):
    for value in (1, 2):
        save_checkpoint(tmp_path, 5, {"value": value}, keep=2)
    assert load_checkpoint(tmp_path)[0] == {"value": 2}
    assert names(tmp_path) == ["step_00000005.ckpt"]


def test_a_damaged_newest_one_falls_back_to_the_one_before_and_says_so(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step, "w": np.ones(100)}, keep=3)
    newest = tmp_path / "step_00000003.ckpt"
    newest.write_bytes(newest.read_bytes()[:200])
    (tmp_path / "step_00000002.ckpt").write_bytes(b"")
    state, problems = load_checkpoint(tmp_path)
    assert state["step"] == 1
    assert ["step_00000003.ckpt is damaged" in problems[0], "02.ckpt" in problems[1]] == [True] * 2


def test_going_on_behind_a_damaged_one_keeps_the_new_work(tmp_path):
    save_checkpoint(tmp_path, 10, {"step": 10}, keep=1)
    (tmp_path / "step_00000020.ckpt").write_bytes(b"damaged")
    (tmp_path / ".step_00000020.ckpt.partial").write_bytes(b"half of one")
    save_checkpoint(tmp_path, 15, {"step": 15}, keep=1)
    assert names(tmp_path) == ["step_00000015.ckpt"]
    assert load_checkpoint(tmp_path) == ({"step": 15}, [])


def test_without_any_there_is_nothing_to_resume_from(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="there is no checkpoint to resume from in .*none: start anew$"
    ):
        load_checkpoint(tmp_path / "none")
    (tmp_path / "step_00000001.ckpt").write_bytes(b"")
    message = r"no checkpoint to resume from in .*\n  .*step_00000001.ckpt is damaged"
    with pytest.raises(FileNotFoundError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("broken", ["dump", "replace"])
def test_a_failed_save_leaves_the_old_ones_and_no_half_one(tmp_path, monkeypatch, broken):
    save_checkpoint(tmp_path, 1, {"step": 1}, keep=1)

    def dump_half(state: object, file: object, protocol: int) -> None:
        file.write(pickle.dumps(state, protocol)[:10])
        raise OSError("no space left")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    if broken == "dump":
        monkeypatch.setattr(checkpoint.pickle, "dump", dump_half)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(tmp_path, 2, {"step": 2}, keep=1)
    assert names(tmp_path) == ["step_00000001.ckpt"]
    assert load_checkpoint(tmp_path)[0] == {"step": 1}


class Runs:
    """Makes a folder when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    content = pickle.dumps({"model": Runs(tmp_path / "made")})
    summed = content + hashlib.sha256(content).digest()
    (tmp_path / "step_00000001.ckpt").write_bytes(summed)
    with pytest.raises(FileNotFoundError, match=r"it wants to run (posix|nt)\.mkdir, which is ref"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "made").exists()


# --- the optimiser --------------------------------------------------------------------------------


def new_model() -> nn.Layer:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1D(5), nn.ReLU(), nn.Linear(5, 2))


def new_optimizer(name: str, model: nn.Layer) -> paddle.optimizer.Optimizer:
    parameters = [p for p in model.parameters() if not p.stop_gradient]
    group = {"params": parameters, "learning_rate": 1.0, "weight_decay": 0.01}
    return create_optimizer(name, [group], nesterov=True)


def train(model: nn.Layer, optimizer: paddle.optimizer.Optimizer, steps: range) -> None:
    model.train()
    for step in steps:
        rng = np.random.default_rng(step)
        optimizer.set_lr(0.1 / (1 + step))
        model(paddle.to_tensor(rng.random((8, 4), np.float32))).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(tmp_path, name):
    model = new_model()
    optimizer = new_optimizer(name, model)
    train(model, optimizer, range(3))
    state = {"model": model.state_dict(), "optimizer": optimizer_state(optimizer, model)}
    save_checkpoint(tmp_path, 3, state, keep=1)
    train(model, optimizer, range(3, 6))

    resumed = new_model()  # its parameters have other names in Paddle, as in another process
    assert not {p.name for p in resumed.parameters()} & {p.name for p in model.parameters()}
    optimizer = new_optimizer(name, resumed)
    state, _ = load_checkpoint(tmp_path)
    resumed.set_state_dict(state["model"])
    load_optimizer_state(optimizer, resumed, state["optimizer"])
    train(resumed, optimizer, range(3, 6))
    for (key, expected), got in zip(
        model.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        np.testing.assert_array_equal(got.numpy(), expected.numpy(), err_msg=key)


def test_without_its_state_the_optimiser_goes_on_otherwise():
    # The test above would not notice a state that has no effect.
    model = new_model()
    optimizer = new_optimizer("momentum", model)
    train(model, optimizer, range(3))
    resumed = new_model()
    resumed.set_state_dict(model.state_dict())
    train(model, optimizer, range(3, 6))
    train(resumed, new_optimizer("momentum", resumed), range(3, 6))
    assert (model[0].weight.numpy() != resumed[0].weight.numpy()).any()


def test_the_state_has_an_entry_for_each_trained_parameter():
    model = new_model()
    optimizer = new_optimizer("adamw", model)
    train(model, optimizer, range(1))
    trained = {n for n, p in model.named_parameters() if not p.stop_gradient}
    kinds = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
    assert set(optimizer_state(optimizer, model)) == {
        f"{name}|_{kind}_0" for name in trained for kind in kinds
    }


def test_a_name_that_begins_like_another_is_not_taken_for_it():
    class Pair(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            for name in ("near", "near_w"):
                attributes = paddle.ParamAttr(name=f"{self.full_name()}_{name}")
                setattr(self, name, self.create_parameter([2], attr=attributes))

    model = Pair()
    optimizer = create_optimizer("momentum", model.parameters())
    optimizer.set_lr(0.1)
    (model.near.sum() + 2 * model.near_w.sum()).backward()
    optimizer.step()
    state = optimizer_state(optimizer, model)
    assert set(state) == {"near|_velocity_0", "near_w|_velocity_0"}
    np.testing.assert_array_equal(state["near_w|_velocity_0"].numpy(), [2, 2])


def test_a_state_of_another_network_is_an_error():
    model = new_model()
    optimizer = new_optimizer("momentum", model)
    train(model, optimizer, range(1))
    with pytest.raises(ValueError, match="the optimiser's .*_velocity_0 belongs to no parameter"):
        optimizer_state(optimizer, new_model())


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_flipped_bit_is_seen(tmp_path, position):
    for step in (1, 2):
        path = save_checkpoint(tmp_path, step, {"step": step, "w": np.ones(100)}, keep=2)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    state, problems = load_checkpoint(tmp_path)
    assert state["step"] == 1
    assert problems == [f"{path} is damaged: its checksum does not fit"]


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from paddlevid.checkpoint import load_checkpoint, save_checkpoint
folder = Path(sys.argv[1])
save_checkpoint(folder, 1, {"step": 1}, keep=2)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    save_checkpoint(folder, 2, {"step": 2, "w": np.zeros(1 << 20)}, keep=2)
except OSError as error:
    print(error)
print(load_checkpoint(folder))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_file_that_cannot_grow_leaves_the_one_before(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.splitlines() == ["[Errno 27] File too large", "({'step': 1}, [])"]
    assert names(tmp_path) == ["step_00000001.ckpt"]

"""Checkpoints: the whole state of a run <-> one file, written whole or not at all.

A file is a pickle, and behind it the SHA-256 of all before.
"""

import hashlib
import pickle
from pathlib import Path
from typing import BinaryIO

import numpy as np
import paddle
from paddle import nn

from paddlevid.files import whole_file
from paddlevid.pickles import WeightsError, read_pickle

DIGEST_BYTES = hashlib.sha256().digest_size


def save_checkpoint(folder: Path, step: int, state: dict, keep: int) -> Path:
    """Write `state` (arrays, tensors, plain values) as the newest of `keep` checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.ckpt"
    with whole_file(path, durable=True) as partial, open(partial, "wb") as file:
        summed = _Summed(file)
        pickle.dump(_to_numpy(state), summed, protocol=4)
        file.write(summed.digest.digest())
    # Later ones are of work that was lost: they could not be read when the run was resumed.
    kept = [file for file in sorted(folder.glob("step_*.ckpt")) if file <= path][-keep:]
    for file in [*folder.glob("step_*.ckpt"), *folder.glob(".step_*.partial")]:
        if file not in kept:
            file.unlink()
    return path


class _Summed:
    """A file that is written, and the hash of what was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, part: bytes) -> int:
        self.digest.update(part)
        return self._file.write(part)


def _check_sum(path: Path) -> None:
    """Raise WeightsError where a file is not as it was written."""
    try:
        left = path.stat().st_size - DIGEST_BYTES
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while left > 0 and (part := file.read(min(left, 1 << 20))):
                digest.update(part)
                left -= len(part)
            if file.read() != digest.digest():
                raise WeightsError(f"{path} is damaged: its checksum does not fit")
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error


def load_checkpoint(folder: Path) -> tuple[dict, list[str]]:
    """The newest checkpoint that can be read: -> its state, and why newer ones could not.

    Raises FileNotFoundError when there is none.
    """
    problems = []
    for path in sorted(folder.glob("step_*.ckpt"), reverse=True):
        try:
            _check_sum(path)
            state = read_pickle(path)
            if not isinstance(state, dict):
                raise WeightsError(f"{path} is not a checkpoint of train.py")
            return state, problems
        except WeightsError as error:
            problems.append(str(error))
    raise FileNotFoundError(
        "\n  ".join([f"there is no checkpoint to resume from in {folder}: start anew", *problems])
    )


def optimizer_state(optimizer: paddle.optimizer.Optimizer, model: nn.Layer) -> dict:
    """The optimiser's state under the network's own names, which do not depend on the process."""
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    named = {}
    for key, value in optimizer.state_dict().items():
        own = max((name for name in names if key.startswith(f"{name}_")), key=len, default=None)
        if own is None:
            raise ValueError(f"the optimiser's {key} belongs to no parameter of the network")
        named[f"{names[own]}|{key.removeprefix(own)}"] = value
    return named


def load_optimizer_state(
    optimizer: paddle.optimizer.Optimizer, model: nn.Layer, named: dict
) -> None:
    """Undo `optimizer_state`."""
    parameters = dict(model.named_parameters())
    state = {}
    for key, value in named.items():
        name, _, suffix = key.partition("|")
        state[parameters[name].name + suffix] = paddle.to_tensor(value)
    optimizer.set_state_dict(state)


def _to_numpy(state: object) -> object:
    if isinstance(state, paddle.Tensor):
        return state.numpy()
    if isinstance(state, dict):
        return {key: _to_numpy(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_to_numpy(value) for value in state)
    return state.item() if isinstance(state, np.generic) else state

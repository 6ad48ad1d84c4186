"""Checkpoints: the whole state of a run <-> one file, written whole or not at all."""

import os
import pickle
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddlevid.pickles import WeightsError, read_pickle


def save_checkpoint(folder: Path, step: int, state: dict, keep: int) -> Path:
    """Write `state` (arrays, tensors, plain values) as the newest of `keep` checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.ckpt"
    partial = path.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            pickle.dump(_to_numpy(state), file, protocol=4)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    # Later ones are of work that was lost: they could not be read when the run was resumed.
    kept = [file for file in sorted(folder.glob("step_*.ckpt")) if file <= path][-keep:]
    for file in [*folder.glob("step_*.ckpt"), *folder.glob("step_*.partial")]:
        if file not in kept:
            file.unlink()
    return path


def load_checkpoint(folder: Path) -> tuple[dict, list[str]]:
    """The newest checkpoint that can be read: -> its state, and why newer ones could not.

    Raises FileNotFoundError when there is none.
    """
    problems = []
    for path in sorted(folder.glob("step_*.ckpt"), reverse=True):
        try:
            state = read_pickle(path)
            if not isinstance(state, dict):
                raise WeightsError(f"{path} is not a checkpoint of train.py")
            return state, problems
        except WeightsError as error:
            problems.append(str(error))
    raise FileNotFoundError(
        "\n  ".join([f"there is no checkpoint to resume from in {folder}", *problems])
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

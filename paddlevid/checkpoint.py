"""Checkpoints: the whole state of a run <-> one file, written whole or not at all."""

import os
import pickle
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddlevid.weights import WeightsError, read_pickle


def save_checkpoint(folder: Path, step: int, state: dict, keep: int) -> Path:
    """Write `state` (arrays, tensors, plain values) as the newest of `keep` checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.ckpt"
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        pickle.dump(_to_numpy(state), file, protocol=4)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    for old in sorted(folder.glob("step_*.ckpt"))[:-keep]:
        old.unlink()
    return path


def load_checkpoint(folder: Path) -> tuple[dict, list[str]]:
    """The newest checkpoint that can be read: -> its state, and why newer ones could not.

    Raises FileNotFoundError when there is none.
    """
    problems = []
    for path in sorted(folder.glob("step_*.ckpt"), reverse=True):
        try:
            return read_pickle(path), problems
        except WeightsError as error:
            problems.append(str(error))
    raise FileNotFoundError(f"no checkpoint to resume from in {folder}{''.join(problems)}")


def optimizer_state(optimizer: paddle.optimizer.Optimizer, model: nn.Layer) -> dict:
    """The optimiser's state under the network's own names, which do not depend on the process."""
    state = optimizer.state_dict()
    named = {}
    for name, parameter in model.named_parameters():
        for key in state:
            if key.startswith(f"{parameter.name}_"):
                named[f"{name}|{key.removeprefix(parameter.name)}"] = state[key]
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

"""Weights: files of named arrays, read without executing anything in them, into a network."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import nn

from paddlevid.files import whole_file

Weights = dict[str, NDArray]


class WeightsError(ValueError):
    """Weights cannot be read or do not fit. The message names the file and the keys."""


# What pickled arrays need, under the module names of NumPy 1 and 2.
_ARRAY_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
    ("builtins", "tuple"),
    ("collections", "OrderedDict"),
}


_NUMPY_CORE = "numpy._core" if int(np.__version__.split(".")[0]) >= 2 else "numpy.core"


class ArrayUnpickler(pickle.Unpickler):
    """Reads arrays, numbers, texts and containers; refuses any other global by name."""

    def find_class(self, module: str, name: str) -> object:
        """The global, if arrays need it."""
        old_name = module.replace("numpy._core", "numpy.core")
        if (old_name, name) not in _ARRAY_GLOBALS:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}, which is refused")
        return super().find_class(old_name.replace("numpy.core", _NUMPY_CORE), name)


def read_pickle(path: Path | str) -> object:
    """The content of a pickle of arrays and plain containers; WeightsError for any other."""
    try:
        with open(path, "rb") as file:
            return ArrayUnpickler(file, encoding="latin1").load()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror}") from error
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error) or type(error).__name__
        raise WeightsError(f"{path} is damaged or not a Paddle weights file: {reason}") from error


def read_weights(path: Path | str) -> Weights:
    """The arrays of a .pdparams, by name."""
    content = read_pickle(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not named arrays")
    if "optimizer" in content and "progress" in content:
        raise WeightsError(f"{path} is a checkpoint of a run: the weights are in best.pdparams")
    weights = {}
    for key, value in content.items():
        if key == "StructuredToParameterName@@":  # Paddle's note beside the arrays
            continue
        if isinstance(value, tuple) and len(value) == 2:  # (parameter name, array)
            value = value[1]
        if not isinstance(value, np.ndarray) or value.dtype == object:
            raise WeightsError(f"{path}: {key} is a {type(value).__name__}, not an array")
        weights[key] = value
    return weights


def write_weights(path: Path, model: nn.Layer) -> None:
    """Write a network's weights, whole or not at all."""
    with whole_file(path) as partial:
        paddle.save(model.state_dict(), str(partial))


def load_weights(
    model: nn.Layer, weights: Weights, source: Path | str, new_head: str = ""
) -> list[str]:
    """Set all weights of a network: -> the names that were left as they are.

    Args:
        source: named in messages.
        new_head: the name of the classifier; where it has another number of classes, it stays as
            it is. Empty: everything must fit.

    Raises WeightsError when names or shapes do not fit.
    """
    current = model.state_dict()
    wrong = {
        name: f"{name} is {list(weights[name].shape)}, needs {list(tensor.shape)}"
        for name, tensor in current.items()
        if name in weights and list(weights[name].shape) != list(tensor.shape)
    }
    left = [name for name in wrong if new_head and name.startswith(f"{new_head}.")]
    missing = [name for name in current if name not in weights]
    unexpected = [name for name in weights if name not in current]
    shapes = [message for name, message in wrong.items() if name not in left]
    # Paddle has no bfloat16 in NumPy: it writes its bits as uint16.
    kinds = [name for name in current if name in weights and weights[name].dtype.kind != "f"]
    if kinds:
        raise WeightsError(
            f"{source}: {kinds[0]} is {weights[kinds[0]].dtype}, needs float32, or float16 or "
            "float64 to convert: save the weights as float32"
        )
    if missing or unexpected or shapes:
        problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        found = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in problems.items()
            if names
        )
        raise WeightsError(
            f"{source} does not fit the network: {found}; it was saved from another network or "
            "with another num_classes"
        )
    model.set_state_dict(
        {
            name: tensor if name in left else weights[name].astype(np.float32)
            for name, tensor in current.items()
        }
    )
    return left


def download(url: str, md5: str) -> str:
    """Paddle's cached download: -> the file; ConnectionError, with what to do, where it fails."""
    try:
        return paddle.utils.download.get_weights_path_from_url(url, md5)
    except Exception as error:  # RuntimeError, or whatever its HTTP library raises
        raise ConnectionError(
            f"cannot download {url} ({type(error).__name__}): fetch it on a machine that can and "
            "give it as --pretrain FILE, or train without pretrained = 'imagenet'"
        ) from error

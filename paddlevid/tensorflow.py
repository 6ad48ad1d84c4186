"""TensorFlow's checkpoints and SavedModels: names and arrays, read with TensorFlow itself."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_ENDING = "/.ATTRIBUTES/VARIABLE_VALUE"


def is_tensorflow(path: Path) -> bool:
    """Whether it is the folder of a SavedModel, or a checkpoint, of which the .index is named."""
    return (path / "saved_model.pb").is_file() or path.suffix == ".index"


def read_tensorflow(path: Path) -> dict[str, NDArray]:
    """The arrays by their names, with axes as PyTorch has them.

    A checkpoint's names are the paths of its objects, a SavedModel's those of its variables.

    Raises ImportError where TensorFlow is not installed, and what it raises for damaged files.
    """
    try:
        import tensorflow  # an extra
    except ImportError as error:
        raise ImportError(
            f"{path} is TensorFlow's, which reads it: pip install tensorflow-cpu"
        ) from error
    if path.is_dir():
        variables = tensorflow.saved_model.load(str(path)).variables
        names = [variable.name for variable in variables]
        arrays = dict(zip(names, (variable.numpy() for variable in variables), strict=True))
        if len(arrays) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{path} has two variables {twice}: take its checkpoint")
    else:
        reader = tensorflow.train.load_checkpoint(str(path.with_suffix("")))
        names = [name for name in reader.get_variable_to_shape_map() if name.endswith(_ENDING)]
        arrays = {
            name.removesuffix(_ENDING).removeprefix("model/"): reader.get_tensor(name)
            for name in names
        }
    return {
        name: _as_torch(name, array)
        for name, array in arrays.items()
        if array.dtype.kind == "f" and ".OPTIMIZER_SLOT" not in name
    }


def _as_torch(name: str, array: NDArray) -> NDArray:
    """(..., in, out) and, depthwise, (h, w, channels, 1) -> (out, in, ...), (channels, 1, h, w)"""
    if "kernel" not in name:
        return array
    if "depthwise_kernel" in name:
        return array.transpose(2, 3, 0, 1)
    return np.moveaxis(array, (-1, -2), (0, 1))

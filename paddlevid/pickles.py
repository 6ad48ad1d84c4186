"""Pickles of arrays and plain containers, read without executing anything in them."""

import pickle
from pathlib import Path

import numpy as np


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

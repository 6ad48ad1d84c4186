"""Weights: files of named arrays, read without executing anything in them, into a network."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
import safetensors.numpy
import yaml
from numpy.typing import NDArray
from paddle import nn

from paddlevid import __version__
from paddlevid.files import read_metadata, whole_file
from paddlevid.pickles import PickledArray, WeightsError, read_pickle, room_for
from paddlevid.pytorch import TorchTensor, bfloat16_to_float32, is_pytorch, read_pytorch
from paddlevid.tensorflow import is_tensorflow, read_tensorflow

Weights = dict[str, NDArray]

# Where the arrays are in a file that holds more than them.
_INSIDE = (
    "state_dict", "model_state", "model_state_dict", "model", "network", "net", "module", "params",
)  # fmt: skip
_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds."""

    path: Path
    arrays: Weights
    # How the weights of linear layers lie: "torch" is (out, in), "paddle" is (in, out), "" unknown
    order: str
    beside: Sequence[str] = ()  # what else is in the file
    metadata: dict[str, str] = field(default_factory=dict)


def read_weights(path: Path | str) -> WeightsFile:
    """The arrays of a .pdparams, .safetensors, .npz, or of any file of torch.save.

    Where TensorFlow is installed, also of a SavedModel (its folder) and a checkpoint (its .index).
    What the file is, is seen from its content. bfloat16 becomes float32. Raises WeightsError for
    anything that is no such file, damaged, or would run code.
    """
    path = Path(path)
    try:
        if is_tensorflow(path):
            return WeightsFile(path, read_tensorflow(path), "torch")
        if not path.stat().st_size:
            raise WeightsError(f"{path} is damaged or not a weights file: it is empty")
        with open(path, "rb") as file:
            start = file.read(9)
        if start[:4] == b"PK\3\4" and not zipfile.is_zipfile(path):
            raise ValueError("the end of the archive is missing: copy or download it again")
        if start[8:] == b"{":
            return _read_safetensors(path)
        if zipfile.is_zipfile(path):
            _check_unpacked(path)
        if is_pytorch(path):
            content, order = read_pytorch(path), "torch"
        elif zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as archive:
                content, order = {name: archive[name] for name in archive.files}, ""
        else:
            content, order = read_pickle(path), "paddle"
        return _pick(path, content, order)
    except WeightsError:
        raise
    except ImportError as error:
        raise WeightsError(str(error)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise WeightsError(f"cannot read the weights {path}: {reason}") from error
    except Exception as error:  # a damaged file may raise anything, at any length
        reason = str(error)[:500] or type(error).__name__
        raise WeightsError(f"{path} is damaged or not a weights file: {reason}") from error


def _check_unpacked(path: Path) -> None:
    """ValueError for an archive that would fill the memory when it is unpacked."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > room_for(path):
        raise ValueError(f"it unpacks to {unpacked:,} bytes, far more than the file has")


def _read_safetensors(path: Path) -> WeightsFile:
    metadata = read_metadata(path)
    arrays = {}
    for name, tensor in safetensors.deserialize(path.read_bytes()):
        kind = tensor["dtype"]
        if kind not in _KINDS:
            raise WeightsError(f"{path}: {name} is {kind}, needs one of {', '.join(_KINDS)}")
        array = np.frombuffer(tensor["data"], _KINDS[kind]).reshape(tensor["shape"])
        arrays[name] = bfloat16_to_float32(array) if kind == "BF16" else array
    order = {"pt": "torch", "pd": "paddle"}.get(metadata.get("format", ""), "")
    return WeightsFile(path, arrays, order, metadata=metadata)


def _pick(path: Path, content: object, order: str) -> WeightsFile:
    """The arrays of nested containers, and the names of what lies beside them."""
    beside: list[str] = []
    for _ in range(3):  # of such containers in each other
        if not isinstance(content, Mapping):
            raise WeightsError(f"{path}: holds a {type(content).__name__}, not named arrays")
        if "optimizer" in content and "progress" in content:
            raise WeightsError(f"{path} is a checkpoint of a run: the weights are in best.pdparams")
        content = {str(key): content[key] for key in content}
        inside = [key for key in _INSIDE if isinstance(content.get(key), Mapping)]
        if not inside or not _has_arrays(content[inside[0]]):
            break
        beside += [key for key in content if key != inside[0]]
        content = content[inside[0]]
    arrays, room = {}, room_for(path)
    for key, value in content.items():
        if isinstance(value, tuple) and len(value) == 2:  # Paddle's (parameter name, array)
            value = value[1]
        if _is_array(value):
            arrays[key] = value if isinstance(value, np.ndarray) else value.numpy()
            room -= arrays[key].nbytes
            if room < 0:
                raise WeightsError(f"{path}: its arrays are far larger than the file")
        elif key != "StructuredToParameterName@@":  # Paddle's note beside the arrays
            beside.append(key)
    if not arrays:
        found = ", ".join(f"{key} is a {type(content[key]).__name__}" for key in list(content)[:5])
        raise WeightsError(f"{path}: there are no arrays in it{': ' if found else ''}{found}")
    if order == "paddle":  # its bfloat16 lies in arrays of integers
        for key, array in arrays.items():
            if array.dtype == np.uint16:
                arrays[key] = bfloat16_to_float32(array)
    return WeightsFile(path, arrays, order, beside)


def _is_array(value: object) -> bool:
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    return isinstance(value, (TorchTensor, PickledArray, np.ndarray))


def _has_arrays(content: Mapping) -> bool:
    """Whether there are arrays among the values, or in a container of arrays among them."""
    inside = (content.get(key) for key in _INSIDE)
    return any(_is_array(value) for value in content.values()) or any(
        isinstance(part, Mapping) and any(map(_is_array, part.values())) for part in inside
    )


def describe(config: Mapping[str, Mapping], classes: Sequence[str]) -> dict[str, str]:
    """What a .safetensors takes along, so that a prediction needs no other file.

    Args:
        config: sections as in config.yaml; MODEL, with its normalisation and sampling, and INFER.
        classes: names, in the order of the labels; none where they are not known.
    """
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return {"paddlevid": __version__, "config": text, "classes": json.dumps(list(classes))}


def write_weights(path: Path, model: nn.Layer, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network's weights, whole or not at all, as the file's suffix says.

    .safetensors takes texts along with them, .pdparams does not.
    """
    state = model.state_dict()
    with whole_file(path, durable=True) as partial:
        if path.suffix == ".safetensors":
            arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in state.items()}
            partial.write_bytes(
                safetensors.numpy.save(arrays, {"format": "pd", **(metadata or {})})
            )
        else:
            paddle.save(state, str(partial))


def check_fit(model: nn.Layer, weights: Weights, source: Path | str) -> None:
    """Raise WeightsError, naming `source`, when names or shapes do not fit the network."""
    current = model.state_dict()
    missing = [name for name in current if name not in weights]
    unexpected = [name for name in weights if name not in current]
    shapes = [
        f"{name} is {list(weights[name].shape)}, needs {list(tensor.shape)}"
        for name, tensor in current.items()
        if name in weights and list(weights[name].shape) != list(tensor.shape)
    ]
    if missing or unexpected or shapes:
        problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        found = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in problems.items()
            if names
        )
        other = " or with another num_classes" if hasattr(model, "classifier") else ""
        raise WeightsError(
            f"{source} does not fit the network: {found}; it was saved from another network{other}"
        )
    kinds = [name for name in current if weights[name].dtype.kind != "f"]
    if kinds:
        raise WeightsError(
            f"{source}: {kinds[0]} is {weights[kinds[0]].dtype}, needs float32, or another float "
            "to convert: save the weights as float32"
        )


def load_weights(model: nn.Layer, weights: Weights, source: Path | str) -> None:
    """Set all weights of a network; WeightsError, naming `source`, where they do not fit.

    Of a network made under paddle.LazyGuard they get their memory here.
    """
    check_fit(model, weights, source)
    for parameter in model.parameters():
        if not parameter._is_initialized():
            parameter.initialize()
    arrays = {name: array.astype(np.float32, copy=False) for name, array in weights.items()}
    model.set_state_dict(arrays)


def download(url: str, md5: str) -> str:
    """Paddle's cached download: -> the file; ConnectionError, with what to do, where it fails."""
    try:
        return paddle.utils.download.get_weights_path_from_url(url, md5)
    except Exception as error:  # RuntimeError, or whatever its HTTP library raises
        raise ConnectionError(
            f"cannot download {url} ({type(error).__name__}): fetch it on a machine that can and "
            "give it as --pretrain FILE, or train without pretrained = 'imagenet'"
        ) from error

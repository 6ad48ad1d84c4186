"""Weights of other projects -> a network of ours, by tables of names."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from paddle import nn

from paddlevid.convert.names import LEFT_OUT, OURS, PROJECTS, Project
from paddlevid.pickles import WeightsError
from paddlevid.weights import Weights, WeightsFile, check_fit


@dataclass
class Row:
    """What became of a tensor."""

    source: str  # its name in the file; empty where the file has none
    target: str  # its name in the network; empty where it is left out
    array: NDArray  # as it is in the network
    fate: str  # used, transposed, joined, resized, averaged, copied, initialised, left out
    why: str = ""


@dataclass(frozen=True)
class Conversion:
    """A network's weights, and what became of each tensor of the file and of the network."""

    project: Project
    weights: Weights
    rows: Sequence[Row]

    def summary(self) -> list[str]:
        """Lines for the user."""
        counts = Counter(row.fate for row in self.rows)
        numbers = ", ".join(f"{number} {fate}" for fate, number in counts.items())
        lines = [f"names of {self.project.name}; tensors: {numbers}"]
        reasons: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row.why:
                reasons.setdefault((row.fate, row.why), []).append(row.target or row.source)
        return lines + [f"{fate}: {_some(names)}: {why}" for (fate, why), names in reasons.items()]


def convert(model: nn.Layer, file: WeightsFile, *, whole: bool = False) -> Conversion:
    """Find a network's weights in a file of any project that names.py knows.

    The network is not changed. A classifier for another number of classes is left out and stays as
    it is in the network. The temporal parts of a TimeSformer, where the file is of an image
    network, start as published (arXiv:2102.05095, section 4). So does the first convolution of a
    TSN for flow, where the file is of one for RGB (arXiv:1608.00859, section 3.2).

    Args:
        whole: all of it must come from the file, as for prediction.

    Raises WeightsError when a tensor of the file is unknown, or one of the network is missing or
    has another shape.
    """
    current = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    project = _find_project(model, file)
    found, left_out = _rename(file, project, current, getattr(model, "rename", str))
    linear = {f"{n}.weight" for n, layer in model.named_sublayers() if isinstance(layer, nn.Linear)}
    linear &= set(found)
    if linear and _is_torch_order(file, found, current, linear):
        for name in linear:
            found[name].array = found[name].array.T
            found[name].fate = "transposed" if found[name].fate == "used" else found[name].fate
    first = next(iter(current))
    if project.bgr and first in found:
        found[first].array = found[first].array[:, ::-1]
        found[first].why = "its colours were blue, green, red"
    if hasattr(model, "adapt"):
        arrays = {name: row.array for name, row in found.items()}
        for name, (array, fate, why) in model.adapt(arrays).items():
            source = found[name].source if name in found else ""
            found[name] = Row(source, name, array, fate, why)
            if whole and fate in ("initialised", "averaged"):
                raise WeightsError(f"{file.path} lacks {name} of the network: {why}")
    classifier = getattr(model, "classifier", None)  # a trunk has none
    parts = [] if whole else [name for name in current if name.startswith(f"{classifier}.")]
    if any(n not in found or found[n].array.shape != current[n].shape for n in parts):
        bias, own = found.get(f"{classifier}.bias"), len(current[f"{classifier}.bias"])
        classes = len(bias.array) if bias else "no"
        why = f"the file has {classes} classes, the network {own}"
        if classes == own:
            why = "the file's classifier is for other features"
        for name in parts:
            row = found.get(name)
            left_out += [Row(row.source, "", row.array, "left out", why)] if row else []
            found[name] = Row("", name, current[name], "initialised", why)
    weights = {name: row.array for name, row in found.items()}
    check_fit(model, weights, file.path)
    weights = {name: np.ascontiguousarray(weights[name], np.float32) for name in current}
    return Conversion(project, weights, [found[name] for name in current] + left_out)


def count_classes(model: nn.Layer, file: WeightsFile) -> int:
    """K of the file's classifier, whatever the network's has; 0 where the file has none."""
    project = _find_project(model, file)
    bias = f"{model.classifier}.bias"
    return next((len(file.arrays[n]) for n in file.arrays if project.our_name(n) == bias), 0)


def _find_project(model: nn.Layer, file: WeightsFile) -> Project:
    """Whose names cover most of the network."""
    current = model.state_dict()

    def coverage(project: Project) -> int:
        names = (project.our_name(name) for name in file.arrays)
        ours = [getattr(model, "rename", str)(name).partition("#")[0] for name in names]
        return sum(name in current for name in ours)

    projects = PROJECTS.get(type(model).__name__, (OURS,))
    if file.order == "torch":
        projects = [project for project in projects if project is not OURS]
    if not projects:
        raise WeightsError(
            f"{file.path}: of other projects no names for a {type(model).__name__} are known; give "
            "weights of train.py, or add names to paddlevid/convert/names.py"
        )
    best = max(projects, key=coverage)
    if 2 * coverage(best) < len(current) - 2:
        raise WeightsError(
            f"{file.path} is not of this network: {coverage(best)} of its {len(current)} tensors "
            f"were found under any name that is known ({'; '.join(p.name for p in projects)}). It "
            f"has {_some(list(file.arrays))}; the network has {_some(list(current))}"
        )
    return best


def _rename(
    file: WeightsFile, project: Project, current: Weights, rename: Callable[[str], str]
) -> tuple[dict[str, Row], list[Row]]:
    """The file's tensors by our names, and those that the network does not have."""
    found: dict[str, Row] = {}
    left_out, unknown, parts = [], [], {}
    for source, array in file.arrays.items():
        name, _, part = rename(project.our_name(source)).partition("#")
        if name not in current:
            why = next((why for pattern, why in LEFT_OUT if re.search(pattern, name)), "")
            unknown += [] if why else [source]
            left_out.append(Row(source, "", array, "left out", why))
        elif part == "T":
            found[name] = Row(source, name, array.T, "transposed")
        elif part:
            parts.setdefault(name, {})[part] = source
        elif name in found:
            raise WeightsError(f"{file.path}: {found[name].source} and {source} are both {name}")
        else:
            found[name] = Row(source, name, array, "used")
    if unknown:
        raise WeightsError(
            f"{file.path} does not fit the network, which has no {_some(unknown)}. Is it of "
            "another size or kind, as the network's arguments say it?"
        )
    for name, sources in parts.items():
        needed = "xh" if set(sources) & set("xh") else "qkv"
        if set(sources) != set(needed):
            needs, has = " and ".join(needed), " and ".join(sources)
            raise WeightsError(f"{file.path}: {name} needs {needs}, has {has}")
        names = [sources[part] for part in needed]
        axis = 1 if needed == "xh" else 0  # of inputs, of outputs as in files of PyTorch
        array = np.concatenate([file.arrays[n] for n in names], axis)
        found[name] = Row(" + ".join(names), name, array, "joined")
    return found, left_out


def _is_torch_order(
    file: WeightsFile, found: dict[str, Row], current: Weights, linear: set[str]
) -> bool:
    """Whether the weights of linear layers lie as in PyTorch, (out, in).

    Where the file does not say whose it is, their shapes do.
    """
    if file.order:
        return file.order == "torch"
    # A classifier may have another number of classes: its features, the first here, must fit.
    shapes = [(found[name].array.shape, current[name].shape[0]) for name in linear]
    ours = all(shape[:1] == (features,) for shape, features in shapes)
    theirs = all(shape[-1:] == (features,) for shape, features in shapes)
    if ours and theirs:
        raise WeightsError(
            f"{file.path} does not say whether the weights of linear layers lie as in PyTorch or "
            "as in Paddle, and their shapes do not tell: save it as .pth or .pdparams"
        )
    return theirs


def _some(names: Sequence[str]) -> str:
    """The first names of many, and how many there are."""
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")

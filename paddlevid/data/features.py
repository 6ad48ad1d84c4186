"""Features of frames: an .npy (T, D) for each clip, and the manifest that says what they are."""

import json
import reprlib
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paddlevid.data.dataset import Item, ListError, Sample, VideoDataset
from paddlevid.data.limits import DecodeError, check_file
from paddlevid.files import read_text

MANIFEST = "features.json"


@dataclass(frozen=True)
class Manifest:
    """How features were made."""

    trunk: str  # "inception_v3", ..., or the name of a network whose trunk it is
    weights: str  # SHA-256 of the file of its weights
    sampling: str  # which frames: "uniform:40"
    size: tuple[int, ...]  # height and width of a frame, in pixels
    mean: tuple[float, ...]  # RGB, of values in 0 .. 1
    std: tuple[float, ...]
    grid: int  # maps are averaged to grid x grid
    features: int  # D
    dtype: str  # of the files

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}

    def differences(self, wanted: dict[str, object]) -> list[str]:
        """What is wanted and is otherwise, with both values."""
        mine = self.to_dict()
        return [
            f"{key} is {mine[key]!r}, the config wants {value!r}"
            for key, value in wanted.items()
            if not _equal(mine[key], value)
        ]


def _equal(first: object, second: object) -> bool:
    if isinstance(first, list) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and bool(np.allclose(first, second, rtol=0, atol=1e-6))
    return first == second


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of features; ListError where there is none."""
    path = folder / MANIFEST
    try:
        content = json.loads(read_text(path))
        kinds = typing.get_type_hints(Manifest)
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        for key in set(values) & set(kinds):
            if not _is_of(kinds[key], values[key]):
                raise ValueError(f"{key} = {reprlib.repr(content[key])}")
        return Manifest(**{key: value for key, value in values.items() if key in kinds})
    except FileNotFoundError as error:
        raise ListError(
            f"there is no {path}: the features of data_tools/extract_features.py have one"
        ) from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ListError(f"{path} is damaged: {error}") from error


def _is_of(kind: object, value: object) -> bool:
    """Whether a value is of the kind of a manifest's field; a whole number is a float, too."""
    if typing.get_origin(kind) is tuple:
        part = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(_is_of(part, entry) for entry in value)
    return type(value) in ((int, float) if kind is float else (kind,))


class FeatureDataset:
    """The features of a list's clips, as `VideoDataset` has the clips.

    Args:
        samples: of `read_list`; their paths are those of .npy files.
        features: D; a file with another number is a bad sample.
        num_classes: K; a label outside 0 .. K - 1 is an error. None: labels are not needed.
    """

    def __init__(
        self, samples: Sequence[Sample], features: int, num_classes: int | None = None
    ) -> None:
        self.samples = samples
        self.features = features
        for sample in self.samples:
            label = sample.label
            if num_classes is not None and (label is None or not 0 <= label < num_classes):
                raise ListError(
                    f"{sample.place}: needs `path label` with a label from 0 to {num_classes - 1} "
                    f"(MODEL.num_classes is {num_classes}), got {label}"
                )

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.samples)

    def label_of(self, sample: Sample) -> int | None:
        """The label; None: it is not known."""
        return sample.label

    def fetch(self, index: int, epoch: int = 0) -> Item:
        """The features of a clip (1, T, D) and its label, or why there are none."""
        sample = self.samples[index]
        try:
            array = read_features(sample.path, self.features)
        except DecodeError as error:
            return Item(index, problem=str(error))
        except Exception as error:  # whatever a damaged file makes NumPy raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return Item(index, problem=f"{sample.path}: {reason}")
        return Item(index, array[None], -1 if sample.label is None else sample.label)


@dataclass(frozen=True)
class CachedFeatures:
    """Features of a data set's clips in memory, by the numbers of the clips."""

    dataset: VideoDataset
    items: dict[int, Item]

    @property
    def samples(self) -> Sequence[Sample]:
        """Of the data set."""
        return self.dataset.samples

    def __len__(self) -> int:
        return len(self.dataset)

    def label_of(self, sample: Sample) -> int | None:
        """As of the data set."""
        return self.dataset.label_of(sample)

    def fetch(self, index: int, epoch: int = 0) -> Item:
        """The features of a clip (V, C) and its label, or why there are none."""
        return self.items[index]


def read_features(path: Path, features: int) -> NDArray[np.float32]:
    """(T, D) of an .npy; ValueError for anything else, or a file above the limit."""
    check_file(path)
    with open(path, "rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError("is no .npy")
        file.seek(0)
        array = np.load(file, allow_pickle=False)
    if array.ndim != 2 or array.dtype.kind != "f" or not len(array) or array.shape[1] != features:
        raise ValueError(f"needs floats of shape (T, {features}), has {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("has numbers that are not finite")
    return array.astype(np.float32)

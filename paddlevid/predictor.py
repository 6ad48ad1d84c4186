"""Prediction: a network and a loader of clips -> class scores, one result for every input."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import nn

from paddlevid.data.dataset import Sample, read_list
from paddlevid.data.decode import frame_files, is_video
from paddlevid.data.loader import Loader
from paddlevid.metrics import score_views


@dataclass(frozen=True)
class Prediction:
    """What the network says of an input, or why it says nothing."""

    path: Path
    probabilities: NDArray[np.float32] | None = None  # (K,)
    label: int = -1  # -1: not known
    problem: str = ""

    def top_k(self, k: int) -> list[int]:
        """The k most probable classes, best first."""
        return np.argsort(-self.probabilities, kind="stable")[:k].tolist()


def predict(model: nn.Layer, loader: Loader) -> Iterator[Prediction]:
    """The predictions for the clips of a loader, in its order; unreadable ones say so."""
    model.eval()
    samples = loader.dataset.samples
    position = 0
    with paddle.no_grad():
        for batch in loader.batches():
            probabilities = F.softmax(score_views(model, batch).astype("float32")).numpy()
            results = zip(batch.indices.tolist(), probabilities, batch.labels, strict=True)
            for index, scores, label in results:
                yield from _unreadable(loader, samples, position, index)
                yield Prediction(samples[index].path, scores, int(label))
                position = index + 1
        yield from _unreadable(loader, samples, position, len(samples))


def _unreadable(
    loader: Loader, samples: list[Sample], start: int, end: int
) -> Iterator[Prediction]:
    for index in range(start, end):
        yield Prediction(samples[index].path, problem=loader.bad[index])


def find_clips(inputs: list[Path]) -> list[Sample]:
    """The clips that the inputs stand for.

    A video file or a .pkl stands for itself, a folder with images for one clip, another folder
    for all videos and .pkl below it, any other file is a list.

    Raises ListError for a list that is none, ValueError for a folder without videos.
    """
    samples = []
    for path in inputs:
        if is_video(path) or path.suffix.lower() == ".pkl":
            samples.append(Sample(path))
        elif path.is_dir():
            samples += _clips_below(path)
        else:
            samples += read_list(path)
    return samples


def _clips_below(folder: Path) -> list[Sample]:
    if frame_files(folder):
        return [Sample(folder)]
    paths = sorted(
        path
        for path in folder.rglob("*")
        if (is_video(path) or path.suffix.lower() == ".pkl") and not path.name.startswith(".")
    )
    if not paths:
        raise ValueError(f"{folder}: no video, .pkl or image files in this folder")
    return [Sample(path) for path in paths]

"""Prediction: a network and a loader of clips -> class scores, one result for every input."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import nn

from paddlevid.data.dataset import ListError, Sample, read_list
from paddlevid.data.decode import VIDEO_SUFFIXES, frame_files, is_pickled, is_video
from paddlevid.data.loader import Batch, Loader
from paddlevid.layers.recurrent import seen_frames
from paddlevid.metrics import score_views


@dataclass(frozen=True)
class Prediction:
    """What the network says of an input, or why it says nothing."""

    path: Path
    probabilities: NDArray[np.float32] | None = None  # (K,)
    frame_probabilities: NDArray[np.float32] | None = None  # (T, K), of the clip up to each frame
    label: int = -1  # -1: not known
    problem: str = ""

    def top_k(self, k: int) -> list[int]:
        """The k most probable classes, best first."""
        return np.argsort(-self.probabilities, kind="stable")[:k].tolist()


def predict(model: nn.Layer, loader: Loader, of_frames: bool = False) -> Iterator[Prediction]:
    """The predictions for the clips of a loader, in its order; unreadable ones say so.

    `of_frames`: also what the network says after each frame; for a network with `frame_logits`, and
    one view of a clip.
    """
    model.eval()
    samples = loader.dataset.samples
    position = 0
    with paddle.no_grad():
        for batch in loader.batches():
            probabilities = F.softmax(score_views(model, batch).astype("float32")).numpy()
            curves = _curves(model, batch) if of_frames else [None] * len(batch.labels)
            results = zip(batch.indices.tolist(), probabilities, curves, batch.labels, strict=True)
            for index, scores, curve, label in results:
                yield from _unreadable(loader, samples, position, index)
                yield Prediction(samples[index].path, scores, curve, int(label))
                position = index + 1
        yield from _unreadable(loader, samples, position, len(samples))


def _curves(model: nn.Layer, batch: Batch) -> list[NDArray[np.float32]]:
    """(T, K) for each clip, without the frames that pad it."""
    clips = paddle.to_tensor(batch.clips)
    curves = F.softmax(model.frame_logits(clips).astype("float32")).numpy()
    seen = seen_frames(clips).numpy()
    return [curve[mask] for curve, mask in zip(curves, seen, strict=True)]


def _unreadable(
    loader: Loader, samples: list[Sample], start: int, end: int
) -> Iterator[Prediction]:
    for index in range(start, end):
        yield Prediction(samples[index].path, problem=loader.bad[index])


def find_clips(inputs: Sequence[Path]) -> tuple[list[Sample], list[Prediction]]:
    """The clips that the inputs stand for, and what is wrong with the other inputs.

    A video file, a .pkl or an .npy stands for itself, a folder for all clips below it, any other
    file is a list.
    """
    samples, unusable = [], []
    for path in inputs:
        try:
            samples += _find_clips(path)
        except ListError as error:
            unusable.append(Prediction(path, problem=str(error)))
    return samples, unusable


def _find_clips(path: Path) -> list[Sample]:
    if is_video(path) or is_pickled(path) or path.suffix == ".npy":
        return [Sample(path)]  # whether it can be read is seen later
    if path.is_dir():
        return _clips_below(path)
    if not path.exists():
        raise ListError(f"{path}: does not exist")
    try:
        return read_list(path)
    except ListError as error:
        raise ListError(
            f"{path}: is neither a video ({' '.join(VIDEO_SUFFIXES)}) nor a .pkl, a folder or a "
            f"list ({error})"
        ) from error


def _clips_below(folder: Path) -> list[Sample]:
    """The videos and .pkl files below a folder; where there are none, the folders of frames."""
    paths = [path for path in folder.rglob("*") if not path.name.startswith(".")]
    clips = [path for path in paths if is_video(path) or is_pickled(path)]
    if not clips:
        clips = [path for path in (folder, *paths) if path.is_dir() and frame_files(path)]
    if not clips:
        raise ListError(f"{folder}: no video, .pkl or image files in this folder")
    return [Sample(path) for path in sorted(clips)]

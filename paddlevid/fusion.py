"""Fusion: what several networks say of the same clips -> one prediction or evaluation of each.

Scores are averaged as logits, with weights, as TSN does it (Wang et al. 2016, section 4.2): the
scores before the softmax, 1 for frames and 1.5 for optical flow.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paddlevid.data.dataset import ListError, Sample
from paddlevid.data.decode import is_pickled, is_video
from paddlevid.metrics import Evaluation
from paddlevid.predictor import Prediction, softmax


def average_logits(
    logits: Sequence[NDArray[np.float32]], weights: Sequence[float]
) -> NDArray[np.float32]:
    """The weighted mean of what each network says: (N, K) or (K,) of each -> the same."""
    return np.average(logits, axis=0, weights=weights).astype(np.float32)


def match_clips(
    samples: Sequence[Sample],
    others: Sequence[Sample],
    names: tuple[str, str],
    *,
    more: bool = False,
) -> list[Sample]:
    """Those of `others` that have the names of `samples`, in their order.

    The name of a clip is that of its file without suffix, or of its folder (that of features is
    a.avi.npy); where a list has one twice, the name of the folder above belongs to it.

    Args:
        names: of the two lists, for messages.
        more: `others` may have more clips.

    Raises ListError where a clip is in one list alone, or has two labels.
    """
    depth = 1 if all(_are_unlike(part, 1) for part in (samples, others)) else 2
    for part, name in zip((samples, others), names, strict=True):
        if not _are_unlike(part, depth):
            [(twice, count)] = Counter(_key(s.path, depth) for s in part).most_common(1)
            raise ListError(f"{name} has the clip {twice} {count} times: it cannot be matched")
    by_name = {_key(sample.path, depth): sample for sample in others}
    wanted = {_key(sample.path, depth): sample for sample in samples}
    if not (wanted.keys() <= by_name.keys() if more else wanted.keys() == by_name.keys()):
        alone = {names[0]: wanted.keys() - by_name.keys(), names[1]: by_name.keys() - wanted.keys()}
        told = "; ".join(
            f"{len(clips)} in {name} alone, such as {min(clips)}"
            for name, clips in alone.items()
            if clips
        )
        raise ListError(
            f"the lists do not match: of {len(samples)} clips in {names[0]} and {len(others)} in "
            f"{names[1]}, {len(wanted.keys() & by_name.keys())} have the same name; {told}"
        )
    for key, sample in wanted.items():
        labels = sample.label, by_name[key].label
        if None not in labels and labels[0] != labels[1]:
            raise ListError(
                f"{key} has label {labels[0]} in {names[0]} and {labels[1]} in {names[1]}: use "
                "lists of the same classes"
            )
    return [by_name[key] for key in wanted]


def _key(path: Path, depth: int) -> str:
    name = path.name if path.is_dir() else path.stem
    if path.suffix == ".npy" and (is_video(Path(name)) or is_pickled(Path(name))):
        name = Path(name).stem
    return name if depth == 1 else f"{path.parent.name}/{name}"


def _are_unlike(samples: Sequence[Sample], depth: int) -> bool:
    return len({_key(sample.path, depth) for sample in samples}) == len(samples)


def fuse_evaluations(parts: Sequence[Evaluation], weights: Sequence[float]) -> Evaluation:
    """Of those clips that all networks could read; `indices` mean the same clips in all.

    The loss is the cross-entropy. Raises ValueError where no clip is left, or labels differ.
    """
    rows = [
        dict(zip(part.indices.tolist(), zip(part.logits, part.labels, strict=True), strict=True))
        for part in parts
    ]
    shared = sorted(set.intersection(*(set(part) for part in rows)))
    if not shared:
        raise ValueError("no clip could be read by all networks")
    total = max(len(part.indices) + part.num_bad for part in parts)
    labels = np.array([[part[index][1] for index in shared] for part in rows])
    if (labels != labels[0]).any():
        raise ListError("the lists give clips of one name unlike labels: use the same classes")
    logits = average_logits([np.stack([part[i][0] for i in shared]) for part in rows], weights)
    chances = np.take_along_axis(softmax(logits), labels[0][:, None], axis=1)
    loss = float(-np.log(np.maximum(chances, 1e-38)).mean())
    return Evaluation(logits, labels[0], np.array(shared), loss, total - len(shared))


def fuse_predictions(
    streams: Sequence[Iterator[Prediction]], weights: Sequence[float]
) -> Iterator[Prediction]:
    """One prediction for each clip, from iterators over the same clips.

    One that a network could not read says so.
    """
    for parts in zip(*streams, strict=True):
        problem = next((part for part in parts if part.problem), None)
        if problem:
            yield replace(parts[0], probabilities=None, logits=None, problem=problem.problem)
            continue
        logits = average_logits([part.logits for part in parts], weights)
        yield replace(parts[0], probabilities=softmax(logits), logits=logits)

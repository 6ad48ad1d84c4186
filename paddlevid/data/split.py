"""Splits: classes and source videos of clips -> training, validation or test part for each."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDES = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
UNUSED = -1


def source_video(clip_name: str, class_name: str) -> str:
    """What the clips cut from one source video have in common, and no other clips.

    UCF101 numbers its groups in each class anew; a film of HMDB51 may occur in several classes.
    Other names say nothing about their source, so such a clip is its own.
    """
    ucf101 = re.fullmatch(r"v_.+_(g\d+)_c\d+", clip_name, re.IGNORECASE)
    if ucf101:
        return f"{class_name}/{ucf101[1]}".lower()
    action = re.escape(class_name)
    hmdb51 = re.fullmatch(rf"(.+)_{action}_(.+_)?np\d+_.+", clip_name, re.IGNORECASE)
    return hmdb51[1].lower() if hmdb51 else f"{class_name}/{clip_name}"


def split_groups(
    labels: Sequence[int], groups: Sequence[str], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """The side of each clip, 0 .. S - 1: (N,) labels, (N,) groups, (S,) shares -> (N,)

    A group is on one side only, in all classes. Within that, each class comes near to the shares
    and has a clip on every side that has a share, if it has groups enough; otherwise side 0 comes
    first, then the last side. The order of the clips is of no influence.
    """
    wanted_shares = np.asarray(shares, np.float64) / sum(shares)
    fill_order = [side for side in (0, *range(len(shares) - 1, 0, -1)) if shares[side] > 0]
    members: dict[str, Counter[int]] = defaultdict(Counter)  # group -> its clips in each class
    for label, group in zip(labels, groups, strict=True):
        members[group][label] += 1
    sizes = Counter(labels)
    wanted = {label: wanted_shares * size for label, size in sizes.items()}  # (S,) clips to come
    empty = {label: fill_order.copy() for label in sizes}  # sides without a clip
    groups_left = Counter(label for counts in members.values() for label in counts)

    chosen = {}
    for group in _hard_ones_first(members, seed):
        counts = sorted(members[group].items())
        urgent = [  # sides that the last groups of a class have to fill
            set(empty[label][: groups_left[label]])
            for label, _ in counts
            if groups_left[label] <= len(empty[label])
        ]
        allowed = set.intersection(*urgent) or set.union(*urgent) if urgent else set(fill_order)
        # the side on which the group lowers the squared error of its classes' shares most
        gain = sum(count / sizes[label] ** 2 * wanted[label] for label, count in counts)  # (S,)
        side = max((side for side in fill_order if side in allowed), key=lambda side: gain[side])
        chosen[group] = side
        for label, count in counts:
            wanted[label][side] -= count
            groups_left[label] -= 1
            if side in empty[label]:
                empty[label].remove(side)
    return np.array([chosen[group] for group in groups], np.int64)


def _hard_ones_first(members: dict[str, Counter[int]], seed: int) -> list[str]:
    """Groups of several classes, then the others; large before small; alike ones in any order."""
    first_labels: dict[int, list[str]] = defaultdict(list)
    for group in sorted(members):
        first_labels[min(members[group])].append(group)
    places = {
        group: place
        for label, of_label in first_labels.items()
        for group, place in zip(
            of_label, np.random.default_rng([seed, label]).permutation(len(of_label)), strict=True
        )
    }

    def key(group: str) -> tuple[bool, int, int, int]:
        counts = members[group]
        return len(counts) == 1, -counts.total().bit_length(), min(counts), places[group]

    return sorted(members, key=key)


# --- official splits ------------------------------------------------------------------------------

# (class, clip name) in lower case -> (name to show, side)
Official = dict[tuple[str, str], tuple[str, int]]


def read_lines(file: Path) -> list[str]:
    """The lines of a text that are not blank; ValueError when it is missing or not a text."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"there is no {file}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_hmdb51(folder: Path, number: int, classes: Sequence[str]) -> Official:
    """The official split with this number, from <class>_test_split<number>.txt.

    Raises ValueError when one of the classes has no file, or a line is not `clip.avi 0|1|2`.
    """
    end = f"_test_split{number}.txt"
    files = {file.name.removesuffix(end): file for file in sorted(folder.glob(f"*{end}"))}
    known = {name.lower() for name in files}
    for name in classes:
        if name.lower() not in known:
            raise ValueError(f"there is no {folder / (name + end)}, the official file of {name!r}")
    official: Official = {}
    for class_name, file in files.items():
        for line in read_lines(file):
            match = re.fullmatch(r"(.+\S)\s+([012])", line)
            if not match:
                raise ValueError(f"{file}: needs lines `clip.avi 0|1|2`, got {line!r}")
            key = class_name.lower(), Path(match[1]).stem.lower()
            official[key] = f"{class_name}/{match[1]}", (UNUSED, TRAIN, TEST)[int(match[2])]
    return official


def read_ucf101_classes(folder: Path) -> list[str]:
    """The classes in the order of classInd.txt.

    Raises ValueError when it is missing, or does not number its classes from 1.
    """
    file = folder / "classInd.txt"
    lines = [line.split() for line in read_lines(file)]
    if [line[0] for line in lines if len(line) == 2] != [str(n + 1) for n in range(len(lines))]:
        raise ValueError(f"{file}: needs lines `1 ApplyEyeMakeup`, numbered from 1")
    return [name for _, name in lines]


def read_ucf101(folder: Path, number: int) -> Official:
    """The official split with this number, from classInd, trainlist0N and testlist0N.

    Raises ValueError when a file is missing, or has other lines than the published one.
    """
    known = {name.lower() for name in read_ucf101_classes(folder)}
    official: Official = {}
    for name, side in ((f"trainlist0{number}.txt", TRAIN), (f"testlist0{number}.txt", TEST)):
        for line in read_lines(folder / name):
            match = re.fullmatch(r"([^/]+)/(\S+)(\s+\d+)?", line)
            if not match:
                raise ValueError(f"{folder / name}: needs lines `Class/clip.avi`, got {line!r}")
            if match[1].lower() not in known:
                raise ValueError(f"{folder / name}: classInd.txt has no class {match[1]!r}")
            key = match[1].lower(), Path(match[2]).stem.lower()
            official[key] = f"{match[1]}/{match[2]}", side
    return official

"""Lists: a folder with a folder per class goes in; train, val and test lists come out."""

import argparse
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from paddlevid import plots
from paddlevid.data.decode import (
    DecodeError,
    count_frames,
    decode,
    is_pickled,
    is_video,
    limit_threads,
    natural_key,
    read_pickled_clip,
)
from paddlevid.data.split import (
    SIDES,
    TEST,
    TRAIN,
    UNUSED,
    VAL,
    read_hmdb51,
    read_lines,
    read_ucf101,
    read_ucf101_classes,
    source_video,
    split_groups,
)
from paddlevid.flags import Parser, at_least, describe

PUBLISHED = {  # clips for training and testing, of split 1, 2, 3
    "hmdb51": ((3570, 1530), (3570, 1530), (3570, 1530)),
    "ucf101": ((9537, 3783), (9586, 3734), (9624, 3696)),
}


class Clip(NamedTuple):
    """A clip that can be read."""

    path: Path
    label: int
    num_frames: int


def split_clips(clips: Sequence[Clip], shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """The side of each clip; those of one source video are on one side: -> (N,)"""
    groups = [source_video(_clip_name(clip.path), clip.path.parent.name) for clip in clips]
    return split_groups([clip.label for clip in clips], groups, shares, seed)


# --- the source folder ----------------------------------------------------------------------------


def find_clips(source: Path, target: Path) -> dict[str, list[Path]]:
    """The clips of each class folder of SOURCE, in natural order; TARGET may lie inside it.

    Raises ValueError when there are no clips, or clips of several kinds.
    """
    folders = [path for path in _visible(source) if path.is_dir() and path != target]
    if not folders:
        raise ValueError(f"{source} has no class folders: it needs <class>/<clip>")
    for path in (*folders, *(path for folder in folders for path in folder.iterdir())):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise ValueError(f"{str(path)!a}: its name is no UTF-8: rename it") from None
    clips = {folder.name: [path for path in _visible(folder) if _kind(path)] for folder in folders}
    examples = {_kind(path): path for paths in clips.values() for path in paths[::-1]}
    if len(examples) > 1:
        both = " and ".join(f"{kind} ({path})" for kind, path in list(examples.items())[:2])
        raise ValueError(f"{source} mixes {both}: keep one kind")
    empty = [name for name, paths in clips.items() if not paths]
    if len(empty) == len(clips):
        raise ValueError(f"the class folders of {source} have no clips: {_some(empty)}")
    if empty:
        print(f"warning: classes without a clip, which keep their labels: {_some(empty)}")
    return clips


def _visible(folder: Path) -> list[Path]:
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: (natural_key(path.name), path.name))


def _kind(path: Path) -> str:
    if path.is_dir():
        return "folders of frames"
    if is_pickled(path):
        return "pickled clips"
    return "videos" if is_video(path) else ""


def _clip_name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def class_names(source: Path, folders: dict[str, list[Path]]) -> list[str]:
    """The classes in the order of their labels: that of SOURCE/classes.txt, or the natural one.

    Raises ValueError when classes.txt lacks a folder or has a name twice.
    """
    file = source / "classes.txt"
    names = read_lines(file) if file.exists() else list(folders)
    for name, paths in folders.items():
        if paths and name not in names:
            raise ValueError(f"{file} lacks the class folder {name!r}: correct it, or delete it")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{file} has {twice[0]!r} twice: the line number is the label")
    return names


def inspect_clip(path: Path) -> tuple[int, int | None, str]:
    """Number of frames, label inside it (None: it has none), and why it cannot be read or ""."""
    limit_threads(1)  # the workers share the cores among themselves
    try:
        num_frames = count_frames(path)
        decode(path, np.zeros(1, np.int64))  # the frames of a .pkl may be gone
        is_pickle = is_pickled(path)
        return num_frames, read_pickled_clip(path).label if is_pickle else None, ""
    except (DecodeError, OSError) as error:
        return 0, None, str(error).removeprefix(f"{path}: ")


def read_clips(
    labels: dict[Path, int], classes: Sequence[str], workers: int
) -> tuple[list[Clip], dict[Path, str]]:
    """The clips that can be read, and why the others cannot.

    Raises ValueError when a .pkl holds another label than that of its class folder.
    """
    jobs = (joblib.delayed(inspect_clip)(path) for path in labels)
    found: Iterator = joblib.Parallel(min(workers, len(labels)), return_as="generator")(jobs)
    inspected = list(tqdm(found, total=len(labels), unit="clip"))
    clips, bad = [], {}
    for path, (num_frames, inside, problem) in zip(labels, inspected, strict=True):
        if problem:
            bad[path] = problem
        elif inside not in (None, labels[path]):
            raise ValueError(
                f"{path} holds label {inside}, but its class {classes[labels[path]]!r} is number "
                f"{labels[path]}: run jpg2pkl.py again, or copy its classes.txt into SOURCE"
            )
        else:
            clips.append(Clip(path, labels[path], num_frames))
    return clips, bad


# --- the lists ------------------------------------------------------------------------------------


def _some(names: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return path.as_posix()


def write_lists(
    target: Path, clips: Sequence[Clip], sides: NDArray[np.int64], classes: Sequence[str]
) -> None:
    """Write the lists, classes.txt and clips.png: all of them whole, or none."""
    with tempfile.TemporaryDirectory(dir=target, prefix=".") as folder:
        for number, name in enumerate(SIDES):
            lines = [
                _relative(clip.path, target) + ("" if is_pickled(clip.path) else f" {clip.label}")
                for clip, side in zip(clips, sides, strict=True)
                if side == number
            ]
            if lines:
                Path(folder, f"{name}.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
            else:
                (target / f"{name}.list").unlink(missing_ok=True)  # of an earlier run
                print(f"{name}.list is not written: no clips are for it")
        Path(folder, "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
        table = _count(clips, sides, len(classes))
        counts = {name: table[:, n].tolist() for n, name in enumerate(SIDES) if table[:, n].any()}
        figure = plots.counts_figure(counts, classes, [clip.num_frames for clip in clips])
        plots.save(figure, Path(folder, "clips.png"))
        for file in Path(folder).iterdir():
            os.replace(file, target / file.name)


def _count(clips: Sequence[Clip], sides: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Clips of each class on each side: -> (K, 3)"""
    table = np.zeros((num_classes, len(SIDES)), np.int64)
    np.add.at(table, ([clip.label for clip in clips], sides), 1)
    return table


def print_table(
    clips: Sequence[Clip], sides: NDArray[np.int64], classes: Sequence[str], due: Sequence[bool]
) -> None:
    """Print the clips of each class on each side, what is due but lacking, and frames per clip."""
    print("label   train     val    test     all   class")
    table = _count(clips, sides, len(classes))
    for label, (counts, name) in enumerate(zip(table.tolist(), classes, strict=True)):
        if sum(counts):
            print(f"{label:5}", *(f"{n:7}" for n in (*counts, sum(counts))), f"  {name}")
    total = table.sum(axis=0).tolist()
    print(" " * 5, *(f"{n:7}" for n in (*total, sum(total))), "  all classes")
    for side, name in enumerate(SIDES):
        lacking = [classes[k] for k in np.flatnonzero(table.any(axis=1) & (table[:, side] == 0))]
        if lacking and due[side]:
            print(f"{name}.list has no clips of {_some(lacking)}: too few clips or source videos")
    lengths = [clip.num_frames for clip in clips]
    print(f"frames per clip: {min(lengths)} to {max(lengths)}, median {np.median(lengths):g}")


def write_bad_samples(target: Path, bad: dict[Path, str]) -> None:
    """Write TARGET/bad_samples.txt and print its first lines; no file when none is bad."""
    file = target / "bad_samples.txt"
    file.unlink(missing_ok=True)
    if not bad:
        return
    lines = [f"{_relative(path, target)}\t{reason}" for path, reason in bad.items()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(bad)} clips cannot be read and are in no list (all of them in {file}):")
    for path, reason in list(bad.items())[:10]:
        print(f"  {path}: {reason}")


# --- the tool -------------------------------------------------------------------------------------

Split = tuple[float, float, float] | tuple[str, int]  # percentages, or an official split


def match_official(
    folders: dict[str, list[Path]], name: str, number: int, split_dir: Path
) -> tuple[dict[Path, int], bool]:
    """The official side of the clips that have one, and whether all official clips are there.

    Prints what is missing and what is left out. Raises ValueError when no clip has a side.
    """
    if name == "ucf101":
        official = read_ucf101(split_dir, number)
    else:
        official = read_hmdb51(split_dir, number, list(folders))
    keys = {
        path: (folder.lower(), _clip_name(path).lower())
        for folder, paths in folders.items()
        for path in paths
    }
    found = {path: official[key][1] for path, key in keys.items() if key in official}
    there = set(keys.values())
    missing = [
        shown for key, (shown, side) in official.items() if side != UNUSED and key not in there
    ]
    named = Counter(side for _, side in official.values())
    here = Counter(found.values())
    print(f"{name + ', split ' + str(number):20}   train    test")
    print("published            {:7} {:7}".format(*PUBLISHED[name][number - 1]))
    print(f"in the split's files {named[TRAIN]:7} {named[TEST]:7}")
    print(f"in SOURCE            {here[TRAIN]:7} {here[TEST]:7}")
    if missing:
        print(f"{len(missing)} official clips are not in SOURCE: {_some(missing, 3)}")
    if here[UNUSED]:
        print(f"{here[UNUSED]} clips left out: this split does not use them")
    if unnamed := [path.name for path in keys if path not in found]:
        print(f"{len(unnamed)} clips left out: no official file names {_some(unnamed, 3)}")
    sides = {path: side for path, side in found.items() if side != UNUSED}
    if not sides:
        raise ValueError(f"no clip of SOURCE is in {name}, split {number}")
    return sides, not missing


def make_lists(
    source: Path,
    target: Path,
    split: Split,
    split_dir: Path | None,
    val_share: float,
    seed: int,
    workers: int,
) -> bool:
    """Make the lists of TARGET: -> whether all clips are there and can be read.

    Raises ValueError when SOURCE or the official files are not as they should be, OSError when
    TARGET cannot be written.
    """
    source, target = source.resolve(), target.resolve()
    folders = find_clips(source, target)
    holds_pickles = any(is_pickled(path) for paths in folders.values() for path in paths)
    if split[0] == "ucf101" and not holds_pickles:
        classes = read_ucf101_classes(split_dir)
        numbers = {name.lower(): label for label, name in enumerate(classes)}
    else:
        classes = class_names(source, folders)
        numbers = {name: label for label, name in enumerate(classes)}
    official_sides, complete = None, True
    if isinstance(split[0], str):
        official_sides, complete = match_official(folders, *split, split_dir)
    labels = {
        path: numbers[name] if name in numbers else numbers[name.lower()]
        for name, paths in folders.items()
        for path in paths
        if official_sides is None or path in official_sides
    }
    target.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=target).close()  # a read-only folder is found before the reading
    clips, bad = read_clips(labels, classes, workers)
    write_bad_samples(target, bad)
    if not clips:
        raise ValueError(f"none of the {len(bad)} clips can be read, so no list is written")
    clips.sort(key=lambda clip: clip.label)
    if official_sides is None:
        sides, due = split_clips(clips, split, seed), [share > 0 for share in split]
    else:
        sides, due = np.array([official_sides[clip.path] for clip in clips]), [True] * len(SIDES)
        train = np.flatnonzero(sides == TRAIN)
        shares = (100 - val_share, val_share)  # sides 0 and 1 are TRAIN and VAL
        sides[train] = split_clips([clips[index] for index in train], shares, seed)
        due[VAL] = val_share > 0
    write_lists(target, clips, sides, classes)
    print_table(clips, sides, classes, due)
    print(f"{target}: {len(clips)} clips in the lists")
    return complete and not bad


def _split(text: str) -> Split:
    official = re.fullmatch(r"(hmdb51|ucf101):([123])", text)
    if official:
        return official[1], int(official[2])
    try:
        train, val, test = (float(share) for share in text.split(":"))
    except ValueError:
        train = val = test = math.nan
    if not (min(train, val, test) >= 0 and 0 < train + val + test < math.inf):
        raise argparse.ArgumentTypeError(
            f"needs three shares such as 80:10:10, or hmdb51:N or ucf101:N with N 1, 2 or 3; "
            f"not {text!r}"
        )
    return train, val, test


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share < 100:
        raise argparse.ArgumentTypeError(f"needs a percentage from 0 to below 100, not {text!r}")
    return share


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser(
        description="Write train.list, val.list, test.list, classes.txt and clips.png (clips of "
        "each class, frames of a clip) into TARGET. A list has the path of a .pkl a line, or "
        "`path label`; paths are relative to TARGET. Clips of one source video (UCF101's "
        "v_<class>_gNN_cNN, HMDB51's <source>_<class>_<attributes>) stay in one list.",
        epilog="Labels count the class folders in natural order, or as SOURCE/classes.txt or, for "
        "ucf101:N, classInd.txt orders them. Exit code 1: something is missing or cannot be read; "
        "the lists of the rest are written.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=Path,
        help="folder of class folders with .pkl clips, videos, or folders of frames",
    )
    parser.add_argument("target", metavar="TARGET", type=Path, help="folder for the lists")
    parser.add_argument(
        "--split",
        type=_split,
        default="80:10:10",
        metavar="SPLIT",
        help="shares of train, val and test; or an official split with its number 1, 2 or 3: "
        "hmdb51:N, ucf101:N",
    )
    parser.add_argument(
        "--split-dir",
        type=Path,
        default=argparse.SUPPRESS,
        help="folder of the official split's files: <class>_test_splitN.txt for HMDB51; "
        "classInd.txt, trainlist0N.txt and testlist0N.txt for UCF101",
    )
    parser.add_argument(
        "--val-share",
        type=_share,
        default=10.0,
        help="percentage of an official split's training clips that go to val.list; 0 = none do",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the split")
    parser.add_argument(
        "--workers", type=at_least(1), default=joblib.cpu_count(), help="processes to use"
    )
    args = parser.parse_args(argv)
    args.split_dir = getattr(args, "split_dir", None)
    is_official = isinstance(args.split[0], str)
    if not args.source.is_dir():
        parser.error(f"SOURCE {args.source} is not a folder")
    if is_official and args.split_dir is None:
        parser.error(f"--split {args.split[0]}:{args.split[1]} needs --split-dir")
    if not is_official and args.split_dir is not None:
        parser.error("--split-dir goes with --split hmdb51:N or ucf101:N")
    if is_official and not args.split_dir.is_dir():
        parser.error(f"--split-dir {args.split_dir} is not a folder")
    return args


def main(argv: list[str] | None = None) -> int:
    """Make the lists that the command line asks for: -> the exit code"""
    args = parse_args(argv)
    try:
        return 0 if make_lists(**vars(args)) else 1
    except BrokenProcessPool:
        reason = "a clip crashed its reader: data_tools/check_videos.py finds out which"
    except (OSError, ValueError) as error:
        reason = describe(error, args.target)
    except KeyboardInterrupt:
        print("data_list_gener.py: stopped; no list is written", file=sys.stderr)
        return 130
    print(f"data_list_gener.py: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

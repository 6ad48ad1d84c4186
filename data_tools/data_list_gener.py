"""Lists: a folder with a folder per class goes in; train, val and test lists come out."""

import argparse
import math
import re
import sys
from collections import Counter
from pathlib import Path

import joblib
import numpy as np

from paddlevid.data.decode import is_pickled
from paddlevid.data.split import TEST, TRAIN, UNUSED, read_hmdb51, read_ucf101, read_ucf101_classes
from paddlevid.flags import Parser, at_least, describe
from paddlevid.lists import (
    class_names,
    clip_name,
    find_clips,
    make_lists,
    read_clips,
    some,
    split_clips,
    write_lists,
)

PUBLISHED = {  # clips for training and testing, of split 1, 2, 3
    "hmdb51": ((3570, 1530), (3570, 1530), (3570, 1530)),
    "ucf101": ((9537, 3783), (9586, 3734), (9624, 3696)),
}


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
        path: (folder.lower(), clip_name(path).lower())
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
        print(f"{len(missing)} official clips are not in SOURCE: {some(missing, 3)}")
    if here[UNUSED]:
        print(f"{here[UNUSED]} clips left out: this split does not use them")
    if unnamed := [path.name for path in keys if path not in found]:
        print(f"{len(unnamed)} clips left out: no official file names {some(unnamed, 3)}")
    sides = {path: side for path, side in found.items() if side != UNUSED}
    if not sides:
        raise ValueError(f"no clip of SOURCE is in {name}, split {number}")
    return sides, not missing


def make_official_lists(
    source: Path,
    target: Path,
    split: tuple[str, int],
    split_dir: Path,
    val_share: float,
    seed: int,
    workers: int,
) -> bool:
    """Make the lists of TARGET: -> whether all official clips are there and all can be read.

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
    official, complete = match_official(folders, *split, split_dir)
    labels = {
        path: numbers[name] if name in numbers else numbers[name.lower()]
        for name, paths in folders.items()
        for path in paths
        if path in official
    }
    clips = read_clips(labels, classes, target, workers)
    sides = np.array([official[clip.path] for clip in clips])
    train = np.flatnonzero(sides == TRAIN)
    shares = (100 - val_share, val_share)  # sides 0 and 1 are TRAIN and VAL
    sides[train] = split_clips([clips[index] for index in train], shares, seed)
    write_lists(target, clips, sides, classes, due=(True, val_share > 0, True))
    return complete and len(clips) == len(labels)


# --- the tool -------------------------------------------------------------------------------------

Split = tuple[float, float, float] | tuple[str, int]  # percentages, or an official split


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
        if isinstance(args.split[0], str):
            all_there = make_official_lists(**vars(args))
        else:
            all_there = make_lists(args.source, args.target, args.split, args.seed, args.workers)
        return 0 if all_there else 1
    except (OSError, ValueError) as error:
        reason = describe(error, args.target)
    except KeyboardInterrupt:
        print("data_list_gener.py: stopped; no list is written", file=sys.stderr)
        return 130
    print(f"data_list_gener.py: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

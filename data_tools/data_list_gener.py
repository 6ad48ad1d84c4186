"""Lists: a folder with a folder per class goes in; train, val and test lists come out."""

import argparse
import math
import os
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple, NoReturn

import joblib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without an installation

from paddlevid import plots
from paddlevid.data.decode import (
    DecodeError,
    count_frames,
    decode,
    is_video,
    limit_threads,
    natural_key,
    read_pickled_clip,
)

SIDES = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
UNUSED = -1

PUBLISHED = {  # clips for training and testing, of split 1, 2, 3
    "hmdb51": ((3570, 1530), (3570, 1530), (3570, 1530)),
    "ucf101": ((9537, 3783), (9586, 3734), (9624, 3696)),
}


class Clip(NamedTuple):
    """A clip that can be read."""

    path: Path
    label: int
    num_frames: int


# --- splitting ------------------------------------------------------------------------------------


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


def _lines(file: Path) -> list[str]:
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
        for line in _lines(file):
            match = re.fullmatch(r"(.+\S)\s+([012])", line)
            if not match:
                raise ValueError(f"{file}: needs lines `clip.avi 0|1|2`, got {line!r}")
            key = class_name.lower(), Path(match[1]).stem.lower()
            official[key] = f"{class_name}/{match[1]}", (UNUSED, TRAIN, TEST)[int(match[2])]
    return official


def read_ucf101(folder: Path, number: int) -> tuple[list[str], Official]:
    """The class names and the split with this number: classInd, trainlist0N, testlist0N.

    Raises ValueError when a file is missing, or has other lines than the published one.
    """
    index = folder / "classInd.txt"
    lines = [line.split() for line in _lines(index)]
    if [line[0] for line in lines if len(line) == 2] != [str(n + 1) for n in range(len(lines))]:
        raise ValueError(f"{index}: needs lines `1 ApplyEyeMakeup`, numbered from 1")
    known = {name.lower() for _, name in lines}
    official: Official = {}
    for file, side in ((f"trainlist0{number}.txt", TRAIN), (f"testlist0{number}.txt", TEST)):
        for line in _lines(folder / file):
            match = re.fullmatch(r"([^/]+)/(\S+)(\s+\d+)?", line)
            if not match:
                raise ValueError(f"{folder / file}: needs lines `Class/clip.avi`, got {line!r}")
            if match[1].lower() not in known:
                raise ValueError(f"{folder / file}: {index.name} has no class {match[1]!r}")
            key = match[1].lower(), Path(match[2]).stem.lower()
            official[key] = f"{match[1]}/{match[2]}", side
    return [name for _, name in lines], official


# --- the source folder ----------------------------------------------------------------------------


def find_clips(source: Path, target: Path) -> dict[str, list[Path]]:
    """The clips of each class folder of SOURCE, in natural order; TARGET may lie inside it.

    Raises ValueError when there are no clips, or clips of several kinds.
    """
    folders = [path for path in _visible(source) if path.is_dir() and path != target]
    if not folders:
        raise ValueError(f"{source} has no class folders: it needs <class>/<clip>")
    clips = {folder.name: [path for path in _visible(folder) if _kind(path)] for folder in folders}
    examples = {_kind(path): path for paths in clips.values() for path in paths[::-1]}
    if len(examples) > 1:
        both = " and ".join(f"{kind} ({path})" for kind, path in list(examples.items())[:2])
        raise ValueError(f"{source} mixes {both}: keep one kind")
    empty = [name for name, paths in clips.items() if not paths]
    if len(empty) == len(clips):
        raise ValueError(f"the class folders of {source} have no clips: {_some(empty)}")
    if empty:
        print(f"warning: left out, as they have no clips: {_some(empty)}")
    return {name: paths for name, paths in clips.items() if paths}


def _visible(folder: Path) -> list[Path]:
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: (natural_key(path.name), path.name))


def _kind(path: Path) -> str:
    if path.is_dir():
        return "folders of frames"
    if path.suffix.lower() == ".pkl":
        return "pickled clips"
    return "videos" if is_video(path) else ""


def _clip_name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def class_names(source: Path, folders: Sequence[str]) -> list[str]:
    """The classes in the order of their labels: that of SOURCE/classes.txt, or the natural one.

    Raises ValueError when classes.txt lacks a folder or has a name twice.
    """
    file = source / "classes.txt"
    names = _lines(file) if file.exists() else list(folders)
    for name in folders:
        if name not in names:
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
        is_pickle = path.suffix.lower() == ".pkl"
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
    clips, bad = [], {}
    for path, (num_frames, inside, problem) in zip(
        labels, tqdm(found, total=len(labels), unit="clip"), strict=True
    ):
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
                _relative(clip.path, target)
                + ("" if clip.path.suffix.lower() == ".pkl" else f" {clip.label}")
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


def print_table(clips: Sequence[Clip], sides: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Print the clips of each class on each side, and how many frames they have."""
    print("label   train     val    test     all   class")
    table = _count(clips, sides, len(classes))
    for label, (counts, name) in enumerate(zip(table.tolist(), classes, strict=True)):
        if sum(counts):
            print(f"{label:5}", *(f"{n:7}" for n in (*counts, sum(counts))), f"  {name}")
    total = table.sum(axis=0).tolist()
    print(" " * 5, *(f"{n:7}" for n in (*total, sum(total))), "  all classes")
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
    folders: dict[str, list[Path]], official: Official, name: str, number: int
) -> tuple[dict[Path, int], bool]:
    """The official side of the clips that have one, and whether all official clips are there.

    Prints what is missing and what is left out.
    """
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
    for title, (train, test) in (
        ("published", PUBLISHED[name][number - 1]),
        ("in the split's files", (named[TRAIN], named[TEST])),
        ("found", (here[TRAIN], here[TEST])),
    ):
        print(f"{title:20} {train:7} {test:7}")
    if missing:
        print(f"{len(missing)} official clips are not in SOURCE: {_some(missing, 3)}")
    if here[UNUSED]:
        print(f"{here[UNUSED]} clips left out: this split does not use them")
    if unnamed := [path.name for path in keys if path not in found]:
        print(f"{len(unnamed)} clips left out: no official file names {_some(unnamed, 3)}")
    return {path: side for path, side in found.items() if side != UNUSED}, not missing


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
    classes = class_names(source, list(folders))
    label_of = {folder: classes.index(folder) for folder in folders}
    official_sides: dict[Path, int] = {}
    complete = True
    if isinstance(split[0], str):
        name, number = split
        if name == "ucf101":
            names, official = read_ucf101(split_dir, number)
            if next(iter(folders.values()))[0].suffix.lower() != ".pkl":
                classes = names
                numbers = {name.lower(): label for label, name in enumerate(names)}
                label_of = {folder: numbers.get(folder.lower(), -1) for folder in folders}
        else:
            official = read_hmdb51(split_dir, number, list(folders))
        official_sides, complete = match_official(folders, official, name, number)
        if not official_sides:
            raise ValueError(f"none of the clips of {source} is in {split[0]} split {split[1]}")
    labels = {
        path: label_of[folder]
        for folder, paths in folders.items()
        for path in paths
        if path in official_sides or not official_sides
    }

    target.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=target).close()  # a read-only folder is found before the reading
    clips, bad = read_clips(labels, classes, workers)
    write_bad_samples(target, bad)
    if not clips:
        raise ValueError(f"none of the {len(bad)} clips can be read, so no list is written")
    clips.sort(key=lambda clip: clip.label)
    clip_labels = np.array([clip.label for clip in clips])
    groups = np.array([source_video(_clip_name(c.path), c.path.parent.name) for c in clips])
    if official_sides:
        sides = np.array([official_sides[clip.path] for clip in clips])
        train = np.flatnonzero(sides == TRAIN)
        shares = (100 - val_share, val_share)
        sides[train] = split_groups(
            clip_labels[train].tolist(), groups[train].tolist(), shares, seed
        )
        expected = (TRAIN, TEST, *([VAL] if val_share else []))
    else:
        sides = split_groups(clip_labels.tolist(), groups.tolist(), split, seed)
        expected = [side for side in range(len(SIDES)) if split[side] > 0]

    write_lists(target, clips, sides, classes)
    print_table(clips, sides, classes)
    table = _count(clips, sides, len(classes))
    for side in expected:
        lacking = [classes[k] for k in np.flatnonzero(table.any(axis=1) & (table[:, side] == 0))]
        if lacking:
            print(f"no clips in {SIDES[side]}.list of {_some(lacking)}: too few source videos")
    print(f"{target}: {len(clips)} clips of {len(set(clip_labels.tolist()))} classes")
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


def _at_least(low: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"needs a whole number from {low} up, not {text!r}")
        return int(text)

    return whole_number


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line, without the usage."""
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    pinned = hasattr(os, "sched_getaffinity")  # Linux only
    cores = len(os.sched_getaffinity(0)) if pinned else os.cpu_count() or 1
    parser = _Parser(
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
    parser.add_argument("--seed", type=_at_least(0), default=0, help="seed of the split")
    parser.add_argument("--workers", type=_at_least(1), default=cores, help="processes to use")
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


def main() -> int:
    """Make the lists that the command line asks for: -> the exit code"""
    args = parse_args()
    try:
        return 0 if make_lists(**vars(args)) else 1
    except BrokenProcessPool:
        reason = "a clip crashed its reader: data_tools/check_videos.py finds out which"
    except (OSError, ValueError) as error:
        reason = str(error)
    except KeyboardInterrupt:
        print("data_list_gener.py: stopped; no list is written", file=sys.stderr)
        return 130
    print(f"data_list_gener.py: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Lists: a folder with a folder for each class -> train, val and test lists of its clips."""

import os
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
from paddlevid.data.dataset import inspect_clip, is_output
from paddlevid.data.decode import (
    FRAME_SUFFIXES,
    VIDEO_SUFFIXES,
    frame_files,
    is_pickled,
    is_video,
    natural_key,
)
from paddlevid.data.split import SIDES, read_lines, source_video, split_groups


class Clip(NamedTuple):
    """A clip that can be read."""

    path: Path
    label: int
    num_frames: int


def some(names: Sequence[str], limit: int = 10) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return path.as_posix()


# --- the source folder ----------------------------------------------------------------------------


def find_clips(source: Path, target: Path) -> dict[str, list[Path]]:
    """The clips of each class folder of SOURCE, in natural order; TARGET may be a folder in it.

    A folder in a class folder is one clip, a folder of frames: nothing is searched below it. What
    paddlevid wrote is neither: TARGET, runs, lists and reports, and folders with nothing else.

    Raises ValueError when there are no clips, or clips of several kinds.
    """
    found = [path for path in _visible(source) if path.is_dir()]
    folders = [path for path in found if not _is_written(path, target)]
    if not folders:
        raise ValueError(f"{source} has no class folders: it needs <class>/<clip>")
    if written := [path.name for path in found if path not in folders]:
        print(f"{len(written)} folders that paddlevid wrote are no classes: {some(written)}")
    for path in (*folders, *(path for folder in folders for path in folder.iterdir())):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise ValueError(f"{str(path)!a}: its name is no UTF-8: rename it") from None
        if len(path.name.splitlines()) > 1:
            raise ValueError(f"{str(path)!a}: its name has a line break: rename it")
    clips = {folder.name: _clips_in(folder, target) for folder in folders}
    others = [path.name for folder in folders for path in _visible(folder) if not _kind(path)]
    if others:
        print(f"{len(others)} files passed over, no clips by their suffix: {some(others, 3)}")
    examples = {_kind(path): path for paths in clips.values() for path in paths[::-1]}
    if len(examples) > 1:
        both = " and ".join(f"{kind} ({path})" for kind, path in list(examples.items())[:2])
        raise ValueError(f"{source} mixes {both}: keep one kind")
    empty = [name for name, paths in clips.items() if not paths]
    if len(empty) == len(clips):
        raise ValueError(f"the class folders of {source} have no clips: {some(empty)}")
    if empty:
        print(f"warning: classes without a clip, which keep their labels: {some(empty)}")
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


def _is_written(folder: Path, target: Path) -> bool:
    """Whether a folder is TARGET or another output, or holds one and no clips beside it."""
    if target == folder.resolve() or is_output(folder):
        return True
    if _clips_in(folder, target):
        return False
    holds_folders = any(path.is_dir() for path in _visible(folder))  # none of which is a clip
    return holds_folders or target.is_relative_to(folder.resolve())


def _holds_output(folder: Path, target: Path) -> bool:
    if target.is_relative_to(folder.resolve()):
        return True
    try:
        with os.scandir(folder) as entries:
            return any(entry.is_dir() and is_output(Path(entry.path)) for entry in entries)
    except OSError:  # that it cannot be read is said of it later
        return False


def _clips_in(folder: Path, target: Path) -> list[Path]:
    """The clips of a class folder; beside an output, only folders with images are clips."""
    clips = [path for path in _visible(folder) if _kind(path)]
    written = {
        path for path in clips if path.is_dir() and (is_output(path) or _holds_output(path, target))
    }
    if written:
        clips = [p for p in clips if p not in written and (not p.is_dir() or _has_images(p))]
    return clips


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in FRAME_SUFFIXES for path in folder.iterdir())


def clip_name(path: Path) -> str:
    """What a clip is called in the official splits: its name without the suffixes of files.

    avi2jpg.py calls a folder of frames as its video where there is another one of that name, and
    extract_features.py a file of features in any case.
    """
    name = path
    while name.suffix.lower() in (".pkl", ".npy", *VIDEO_SUFFIXES):
        name = name.with_suffix("")
    return name.name


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


# --- reading them ---------------------------------------------------------------------------------


def read_clips(
    labels: dict[Path, int], classes: Sequence[str], target: Path, workers: int
) -> list[Clip]:
    """The clips that can be read, by label; TARGET/bad_samples.txt says why the others cannot.

    Raises ValueError when none can be read, one crashes its reader, or a .pkl holds another label
    than that of its class folder.
    """
    target.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=target).close()  # a read-only folder is found before the reading
    # absolute paths: joblib's processes may have been started in another folder
    jobs = (joblib.delayed(inspect_clip)(path.absolute()) for path in labels)
    try:
        found: Iterator = joblib.Parallel(min(workers, len(labels)), return_as="generator")(jobs)
        inspected = list(tqdm(found, total=len(labels), unit="clip"))
    except BrokenProcessPool as error:
        raise ValueError(
            "a clip crashed its reader: data_tools/check_videos.py finds out which"
        ) from error
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
    _write_bad_samples(target, bad)
    if not clips:
        raise ValueError(f"none of the {len(bad)} clips can be read, so no list is written")
    return sorted(clips, key=lambda clip: clip.label)


def _write_bad_samples(target: Path, bad: dict[Path, str]) -> None:
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


# --- the lists ------------------------------------------------------------------------------------


def split_clips(clips: Sequence[Clip], shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """The side of each clip; those of one source video are on one side: -> (N,)"""
    groups = [source_video(clip_name(clip.path), clip.path.parent.name) for clip in clips]
    return split_groups([clip.label for clip in clips], groups, shares, seed)


def write_lists(
    target: Path,
    clips: Sequence[Clip],
    sides: NDArray[np.int64],
    classes: Sequence[str],
    due: Sequence[bool],
) -> None:
    """Write the lists, classes.txt and clips.png, all of them whole or none, and print a table.

    Args:
        target: an existing folder.
        clips: of `read_clips`.
        sides: (N,) the number in SIDES of each clip.
        classes: (K,) names, in the order of the labels.
        due: (3,) whether a class without a clip on that side is worth a line.
    """
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
    _print_table(clips, sides, classes, due)
    print(f"{target}: {len(clips)} clips in the lists")


def _count(clips: Sequence[Clip], sides: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Clips of each class on each side: -> (K, 3)"""
    table = np.zeros((num_classes, len(SIDES)), np.int64)
    np.add.at(table, ([clip.label for clip in clips], sides), 1)
    return table


def _print_table(
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
            print(f"{name}.list has no clips of {some(lacking)}: too few clips or source videos")
    lengths = [clip.num_frames for clip in clips]
    print(f"frames per clip: {min(lengths)} to {max(lengths)}, median {np.median(lengths):g}")


def _clips_below(folder: Path) -> Iterator[Path]:
    """Videos, .pkl clips and folders of frames anywhere in a folder, but for what is written."""
    for path in _visible(folder):
        if not path.is_dir():
            yield from [path] * bool(_kind(path))
        elif is_output(path):  # which may have pictures of its own
            continue
        elif frame_files(path):
            yield path
        else:
            yield from _clips_below(path)


def _as_one_class(source: Path) -> dict[str, list[Path]]:
    clips = list(_clips_below(source))
    kinds = {_kind(path): path for path in clips}
    if len(kinds) != 1:
        both = " and ".join(f"{kind} ({path})" for kind, path in list(kinds.items())[:2])
        raise ValueError(
            f"{source} mixes {both}: keep one kind"
            if kinds
            else f"{source} has no videos, .pkl clips or folders of frames in it"
        )
    return {"clip": clips}


def make_lists(
    source: Path,
    target: Path,
    shares: tuple[float, float, float],
    seed: int,
    workers: int,
    *,
    frames_needed: int = 0,
) -> bool:
    """Write the lists of the class folders of SOURCE into TARGET: -> whether all clips can be read.

    They are train.list, val.list and test.list, whose paths are relative to TARGET, classes.txt,
    clips.png and bad_samples.txt. A list or bad_samples.txt with nothing in it is not written; one
    of an earlier run is deleted. Labels count the class folders in natural order, or as
    SOURCE/classes.txt orders them. Clips of one source video are in one list.

    Args:
        source: a folder with a folder for each class; in it videos, .pkl clips or folders of
            frames, one kind in all of SOURCE.
        target: made if need be; may be a folder in SOURCE, and is no class then.
        shares: of train, val and test, in any unit; a class of few clips or source videos fills
            train first, then test, then val.
        seed: of the split; the same clips and seed give the same lists.
        workers: processes that read the clips; 1 = this one, which then stays with one thread for
            decoding.
        frames_needed: above 0: classes mean nothing, and the clips anywhere below SOURCE count as
            one; those with fewer frames are left out.

    Raises ValueError when SOURCE is not as it should be or none of its clips can be read, OSError
    when TARGET cannot be written.
    """
    source, target = source.resolve(), target.resolve()
    folders = _as_one_class(source) if frames_needed else find_clips(source, target)
    classes = list(folders) if frames_needed else class_names(source, folders)
    numbers = {name: label for label, name in enumerate(classes)}
    labels = {path: numbers[name] for name, paths in folders.items() for path in paths}
    clips = read_clips(labels, classes, target, workers)
    long_enough = [clip for clip in clips if clip.num_frames >= frames_needed]
    if num_short := len(clips) - len(long_enough):
        print(f"{num_short} clips of fewer than {frames_needed} frames are in no list")
    if not long_enough:
        raise ValueError(
            f"no clip of {source} has the {frames_needed} frames that past and future need: lower "
            "MODEL.seg_num, MODEL.num_future or MODEL.interval"
        )
    clips = long_enough
    sides = split_clips(clips, shares, seed)
    write_lists(target, clips, sides, classes, due=[share > 0 for share in shares])
    return len(clips) == len(labels)

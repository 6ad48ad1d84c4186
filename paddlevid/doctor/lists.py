"""Lists: the clips that a config names -> findings on files, labels, duplicates and sources."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paddlevid.config import Config
from paddlevid.data.dataset import ListError, Sample, check_format, read_list
from paddlevid.data.decode import DecodeError, is_pickled, read_pickled_clip
from paddlevid.data.split import source_video
from paddlevid.doctor.finding import Finding, ok, warning, wrong
from paddlevid.lists import clip_name

SECTIONS = ("train", "valid", "test", "infer")
MOST_LINES = 200_000  # of a list that are looked at; of a longer list, so many at random
MOST_FILES = 5000  # of a list that are looked for; of a longer list, so many at random
MOST_PICKLES = 200  # that are opened for their labels
_NONE = np.iinfo(np.int64).min
UNLIKE = 10  # times as many clips in the largest class as in the smallest, from which on it matters


@dataclass(frozen=True)
class _Benchmark:
    """A published set of clips, recognised by the names of its clips."""

    name: str
    pattern: re.Pattern
    num_classes: int
    num_clips: int
    num_split: int  # of these, in an official split


_BENCHMARKS = (
    _Benchmark("UCF101", re.compile(r"v_\w+_g\d+_c\d+"), 101, 13320, 13320),
    _Benchmark("HMDB51", re.compile(r".+_np\d+_\w+_\d+"), 51, 6766, 5100),
)


@dataclass(frozen=True)
class _List:
    """A list of the config, as far as it is needed in numbers: a list may have millions of lines.

    Of each line: hashes of the path, and of the source video (0 where the name tells none), the
    label (_NONE where it has none), and whether it is a .pkl, which has its label inside.
    """

    section: str
    file: str
    samples: Sequence[Sample]
    clips: NDArray[np.int64]  # (N,)
    sources: NDArray[np.int64]  # (N,)
    labels: NDArray[np.int64]  # (N,)
    pickled: NDArray[np.bool_]  # (N,)
    folders: Counter[str]  # lines in each folder
    benchmark: _Benchmark | None


def check_lists(config: Config) -> Iterator[Finding]:
    """The lists of a config, each by itself and beside the others."""
    if config.model.format == "moving_mnist":
        yield ok("the sequences of digits are made on the fly: there are no lists to check")
        return
    read: list[_List] = []
    for section in SECTIONS:
        file = getattr(config, section).filelist
        if not file:
            continue
        if twin := next((other for other in read if other.file == os.path.abspath(file)), None):
            yield from _same_list(section, twin.section)
            continue
        try:
            samples = read_list(file)
            length = f"{len(samples):,} clips"
            if len(samples) > MOST_LINES:
                chosen = some(np.arange(len(samples)), MOST_LINES)
                samples = [samples[i] for i in chosen.tolist()]
                length += f"; what follows is of {MOST_LINES:,} lines, taken at random"
            check_format(samples, config.model.format)
        except ListError as error:
            yield wrong(
                f"{section.upper()}.filelist: {error}",
                "data_tools/data_list_gener.py, and train.py --data FOLDER, make lists",
            )
            continue
        one = _in_numbers(section, file, samples)
        read.append(one)
        yield ok(f"{section.upper()}.filelist {file}: {length}")
        yield from _check_files(section, samples, config)
        yield from _check_duplicates(one)
        if config.model.task == "classify" and section != "infer":
            yield from _check_labels(one, config.model.num_classes, bool(config.train.balance))
    yield from _check_sides([one for one in read if one.section != "infer"])
    yield from _check_benchmark([one for one in read if one.section != "infer"], config)


def _same_list(section: str, other: str) -> Iterator[Finding]:
    if other == "train":
        yield wrong(
            f"{section.upper()}.filelist is that of TRAIN: what it says of new clips is nothing",
            "give it clips that are not trained on (data_tools/data_list_gener.py splits them)",
        )
    elif (other, section) == ("valid", "test"):
        yield warning(
            "TEST.filelist is that of VALID, by which the weights are chosen: it flatters them",
            "give TEST a list of its own",
        )
    else:
        yield ok(f"{section.upper()}.filelist: that of {other.upper()}")


def _source_of(path: Path, name: str) -> int:
    """A hash of what the clips of one source video have in common; 0 where the name tells none."""
    of_ucf101 = re.fullmatch(r"v_(.+)_g\d+_c\d+", name, re.IGNORECASE)
    class_name = of_ucf101[1] if of_ucf101 else path.parent.name
    source = source_video(name, class_name)
    return 0 if source == f"{class_name}/{name}" else hash(source)


def _in_numbers(section: str, file: str, samples: Sequence[Sample]) -> _List:
    clips, sources, labels = (np.zeros(len(samples), np.int64) for _ in range(3))
    pickled = np.zeros(len(samples), bool)
    found, folders = Counter(), Counter()
    for number, sample in enumerate(samples):
        name = clip_name(sample.path)
        clips[number] = hash(os.path.abspath(sample.path))
        labels[number] = _NONE if sample.label is None else sample.label
        pickled[number] = is_pickled(sample.path)
        folders[sample.path.parent.name] += 1
        for benchmark in _BENCHMARKS:
            if benchmark.pattern.fullmatch(name):
                found[benchmark.name] += 1
                sources[number] = _source_of(sample.path, name)
                break
    evident = (one for one in _BENCHMARKS if found[one.name] >= 0.9 * len(samples))
    return _List(
        section, os.path.abspath(file), samples, clips, sources, labels, pickled, folders,
        next(evident, None),
    )  # fmt: skip


def _check_files(section: str, samples: Sequence[Sample], config: Config) -> Iterator[Finding]:
    """Whether the files are there, all or a sample of them."""
    looked = [samples[i] for i in some(np.arange(len(samples)), MOST_FILES).tolist()]
    missing = [sample for sample in looked if not os.path.exists(sample.path)]
    at_random = " taken at random" if len(looked) < len(samples) else ""
    if not missing:
        yield ok(f"{section.upper()}: of {len(looked):,} files{at_random} none is missing")
        return
    share = len(missing) / len(looked)
    first = missing[0]
    text = (
        f"{section.upper()}: of {len(looked):,} files{at_random} {len(missing):,} are missing, "
        f"first {first.path} ({first.place})"
    )
    if share == 1:
        folder = Path(getattr(config, section).filelist).absolute().parent
        yield wrong(text, f"paths are relative to the list's folder, {folder}: move the list there")
    elif share > config.train.max_bad_samples:
        yield wrong(
            f"{text}, more than TRAIN.max_bad_samples = {config.train.max_bad_samples:g} allows",
            "data_tools/check_videos.py LIST writes a list without them",
        )
    else:
        yield warning(text, "data_tools/check_videos.py LIST writes a list without them")


def some(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """All of the numbers, or so many of them at random, the same in each call."""
    if len(numbers) <= most:
        return numbers
    return np.sort(np.random.default_rng(0).choice(numbers, most, replace=False))


def _check_duplicates(one: _List) -> Iterator[Finding]:
    """Whether a clip is in a list twice."""
    _, first, counts = np.unique(one.clips, return_index=True, return_counts=True)
    again = first[counts > 1]
    if len(again):
        sample = one.samples[int(again.min())]
        yield warning(
            f"{one.section.upper()}: {len(again):,} clips are in it more than once, first "
            f"{sample.path} ({sample.place})",
            "sort -u LIST, unless they are to count more than the others (see TRAIN.balance)",
        )


def _check_labels(one: _List, num_classes: int, is_balanced: bool) -> Iterator[Finding]:
    """Whether labels are from 0 to K - 1, and how many clips the classes have."""
    name, samples = one.section.upper(), one.samples
    has_label = one.labels != _NONE
    lacking = np.flatnonzero(~has_label & ~one.pickled)
    if len(lacking):
        first = samples[int(lacking[0])]
        yield wrong(
            f"{name}: {len(lacking):,} lines have no label, first {first.place}",
            "write `path label` on each line",
        )
    labels = one.labels.copy()
    for number in some(np.flatnonzero(~has_label & one.pickled), MOST_PICKLES).tolist():
        with contextlib.suppress(DecodeError):  # a bad clip: reading a batch tells of it
            labels[number] = read_pickled_clip(samples[number].path).label
    known = labels != _NONE
    outside = np.flatnonzero(known & ((labels < 0) | (labels >= num_classes)))
    if len(outside):
        first = samples[int(outside[0])]
        yield wrong(
            f"{name}: {len(outside):,} labels are outside 0 .. {num_classes - 1}, first "
            f"{labels[outside[0]]} ({first.place})",
            f"set MODEL.num_classes = {labels[known].max() + 1}, or count labels from 0",
        )
    if num_opened := np.count_nonzero(known & ~has_label):
        yield ok(f"{name}: labels are in the .pkl files; {num_opened:,} of these were opened")
        counts = one.folders
    else:
        inside = labels[(labels >= 0) & (labels < num_classes)]
        counts = dict(enumerate(np.bincount(inside, minlength=num_classes).tolist()))
    yield from _check_counts(one.section, counts, is_balanced)


def _check_counts(
    section: str, counts: Mapping[int | str, int], is_balanced: bool
) -> Iterator[Finding]:
    """Classes without clips, and of unlike size; `counts` by label, or by folder."""
    empty = [str(name) for name, count in counts.items() if not count]
    name = section.upper()
    if empty:
        more = ", ..." if len(empty) > 5 else ""
        yield warning(
            f"{name}: {len(empty)} of {len(counts)} classes have no clip: labels "
            f"{', '.join(empty[:5])}{more}",
            "add clips of them, or lower MODEL.num_classes"
            if section == "train"
            else "its figures say nothing of these classes: add clips of them",
        )
    present = [count for count in counts.values() if count]
    if not present:
        return
    yield ok(f"{name}: {len(present)} classes of {min(present):,} to {max(present):,} clips")
    if section == "train" and max(present) >= UNLIKE * min(present) and not is_balanced:
        yield warning(
            "TRAIN: the classes are of very unlike size, so rare ones are hardly learnt",
            "set TRAIN.balance = 'loss' or 'sampling'",
        )


def _check_sides(read: Sequence[_List]) -> Iterator[Finding]:
    """Whether clips, or clips of one source video, are on two sides of the split."""
    for number, one in enumerate(read):
        for other in read[:number]:
            sides = f"{other.section.upper()} and {one.section.upper()}"
            level = wrong if other.section == "train" else warning
            same = np.isin(one.clips, other.clips)
            if same.any():
                sample = one.samples[int(np.flatnonzero(same)[0])]
                yield level(
                    f"{sides} share {same.sum():,} clips, first {sample.path} ({sample.place})",
                    "leave them out of one of the two: what is trained on cannot be tested on",
                )
            kin = np.isin(one.sources, other.sources) & (one.sources != 0) & ~same
            if kin.any():
                sample = one.samples[int(np.flatnonzero(kin)[0])]
                yield level(
                    f"{sides}: {kin.sum():,} clips of {one.section.upper()} are cut from source "
                    f"videos that the other has clips of too, first {sample.path} ({sample.place})",
                    "split by source video, as data_tools/data_list_gener.py does; accuracies of "
                    "such a split are too high",
                )


def _check_benchmark(read: Sequence[_List], config: Config) -> Iterator[Finding]:
    """Whether lists that are evidently of UCF101 or HMDB51 hold as many clips as these have."""
    kinds = {one.benchmark for one in read}
    benchmark = kinds.pop() if len(kinds) == 1 else None
    if benchmark is None or config.model.num_classes != benchmark.num_classes:
        return
    num_clips = len(np.unique(np.concatenate([one.clips for one in read])))
    text = f"{benchmark.name}: {num_clips:,} clips in all lists"
    if num_clips == benchmark.num_clips:
        yield ok(f"{text}, as published")
    elif num_clips == benchmark.num_split:
        yield ok(f"{text}, as an official split of the {benchmark.num_clips:,} has")
    else:
        split = f" ({benchmark.num_split:,} in a split)"
        yield warning(
            f"{text}, but {benchmark.num_clips:,} are published"
            + split * (benchmark.num_split != benchmark.num_clips),
            "see bad_samples.txt beside the lists; unpack the archives anew where files are lost",
        )

"""Datasets: a list file -> clips ready for a network, one for an index, never an exception."""

import codecs
import copy
import functools
import io
import os
import re
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from paddlevid.data.decode import (
    VIDEO_SUFFIXES,
    DecodeError,
    VideoDecoder,
    count_frames,
    decode,
    flow_files,
    frame_files,
    is_pickled,
    is_video,
    limit_threads,
    read_pickled_clip,
)
from paddlevid.data.flow import FlowDecoder
from paddlevid.data.sample import Sampler
from paddlevid.data.scenes import with_scenes
from paddlevid.data.transform import Compose, RandomFlip
from paddlevid.files import check_no_pipe

# a run's, lists, and a report of check_videos.py
OUTPUTS = ("config.yaml", "train.list", "val.list", "test.list", "videos.csv")


class ListError(ValueError):
    """A list file cannot be used, or names labels that do not fit. The message says where."""


@dataclass(frozen=True)
class Sample:
    """A line of a list file."""

    path: Path
    label: int | None = None  # None: inside the .pkl, or not known
    place: str = ""  # "file, line n", for messages


@dataclass(frozen=True)
class Item:
    """What a dataset has for an index: a clip, or the reason why there is none."""

    index: int
    views: NDArray[np.float32] | None = None  # (V, C, T, H, W), or features (V, T, D)
    label: int = -1  # -1: not known
    problem: str = ""  # why there is no clip
    fatal: bool = False  # the problem is the list's or the config's, not the clip's


class SampleList(Sequence[Sample]):
    """The samples of a list file, which take 16 bytes each beside the file's own text.

    A sample is made when it is asked for, so that a list of millions of clips fits into each of
    several processes. `samples * 2` is the list twice, as of any sequence.
    """

    def __init__(self, list_file: Path, text: bytes) -> None:
        """`text` is the content of the file; ValueError where it is not in UTF-8."""
        self.list_file, self._text = list_file, text.removeprefix(codecs.BOM_UTF8)
        self._starts, self._numbers = array("q"), array("q")  # of lines that are not empty
        start = 0
        for number, line in enumerate(io.BytesIO(self._text), start=1):
            if line.decode().strip():
                self._starts.append(start)
                self._numbers.append(number)
            start += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start = self._starts[index]
        end = self._text.find(b"\n", start)
        line = self._text[start : len(self._text) if end < 0 else end]
        return _read_line(line.decode().strip(), self.list_file, self._numbers[index])

    def __mul__(self, times: int) -> "SampleList":
        repeated = copy.copy(self)
        repeated._starts, repeated._numbers = self._starts * times, self._numbers * times
        return repeated


def read_list(list_file: Path | str) -> SampleList:
    """The samples of a list file; paths are relative to its folder.

    A line is `path label`, or only the path of a .pkl or of a clip to predict. Names may contain
    spaces; a video's suffix may be left out. `path number_of_frames label`, the lines of TSN and
    mmaction2, is read too, and the number ignored.

    Raises ListError when there is no such file, it is not text, or it has no lines.
    """
    list_file = Path(list_file)
    try:
        check_no_pipe(list_file)
        samples = SampleList(list_file, list_file.read_bytes())
    except FileNotFoundError as error:
        raise ListError(f"there is no list file {list_file}") from error
    except (ValueError, OSError) as error:
        is_text = not isinstance(error, UnicodeDecodeError)
        reason = (getattr(error, "strerror", None) or error) if is_text else "it is not in UTF-8"
        raise ListError(
            f"{list_file} is not a list file, a text with a clip a line: {reason}"
        ) from error
    if not samples:
        raise ListError(f"the list file {list_file} is empty: it needs a clip a line")
    return samples


def _read_line(line: str, list_file: Path, number: int) -> Sample:
    place = f"{list_file}, line {number}"
    labelled = re.fullmatch(r"(.*\S)\s+(-?[0-9]{1,18})", line)
    name, label = (labelled[1], int(labelled[2])) if labelled else (line, None)
    path = list_file.parent / name
    if "\\" in name and not os.path.exists(path):  # a list that was written on Windows
        path = list_file.parent / name.replace("\\", "/")
    if path.suffix.lower() in (".pkl", ".npy", *VIDEO_SUFFIXES) or os.path.exists(path):
        return Sample(path, label, place)
    for suffix in VIDEO_SUFFIXES:
        if os.path.exists(f"{path}{suffix}"):
            return Sample(Path(f"{path}{suffix}"), label, place)
    counted = re.fullmatch(r"(.*\S)\s+[0-9]{1,9}", name)
    if counted and os.path.exists(list_file.parent / counted[1]):
        return Sample(list_file.parent / counted[1], label, place)
    if label is not None and os.path.exists(list_file.parent / line):
        return Sample(list_file.parent / line, None, place)  # the name itself ends in a number
    return Sample(path, label, place)


FORMATS = {
    "pkl": "pickled clips (.pkl)",
    "jpg": "folders of frames",
    "mp4": "video files",
    "video": "video files",
    "features": "features of frames (.npy)",
}


def list_format(samples: Sequence[Sample]) -> str:
    """What a list holds, as MODEL.format says it, by its first line that is there; else "video"."""
    return next((kind for sample in samples if (kind := _kind(sample))), "video")


def _kind(sample: Sample) -> str:
    if is_pickled(sample.path):
        return "pkl"
    if sample.path.suffix == ".npy":
        return "features"
    if os.path.isdir(sample.path):
        return "jpg"
    # a folder or a video without its suffix that is gone is a bad sample of any kind
    return "video" if is_video(sample.path) or os.path.exists(sample.path) else ""


def check_format(samples: Sequence[Sample], form: str) -> None:
    """Raise ListError when a line of the list is of another kind than MODEL.format says."""
    for sample in samples:
        kind = _kind(sample)
        if kind and FORMATS[kind] != FORMATS[form]:
            raise ListError(
                f"{sample.place}: {sample.path.name!r} is not one of the {FORMATS[form]} that "
                f"MODEL.format = {form!r} announces; set MODEL.format = {kind!r} or choose "
                "another list"
            )


def is_output(folder: Path) -> bool:
    """Whether paddlevid wrote a folder, which is no class then: a run, lists or a report on clips.

    A folder with videos or .pkl clips of its own is none, whatever texts are beside them.
    """
    if not any(os.path.exists(folder / name) for name in OUTPUTS):
        return False
    return not any(is_video(path) or is_pickled(path) for path in folder.iterdir())


def inspect_clip(path: Path) -> tuple[int, int | None, str]:
    """Number of frames, label inside it (None: it has none), and why it cannot be read or ""."""
    limit_threads(1)  # the workers share the cores among themselves
    try:
        if path.is_dir() and not frame_files(path) and (fields := flow_files(path)):
            FlowDecoder()(path, lambda num_fields, _: np.zeros(1, np.int64))
            return len(fields), None, ""
        num_frames = count_frames(path)
        decode(path, np.zeros(1, np.int64))  # the frames of a .pkl may be gone
        is_pickle = is_pickled(path)
        return num_frames, read_pickled_clip(path).label if is_pickle else None, ""
    except (DecodeError, OSError) as error:
        return 0, None, str(error).removeprefix(f"{path}: ")


class VideoDataset:
    """Clips of a list of `path label` lines, sampled, decoded and transformed.

    A path is that of a video file, of a folder of frames or of a pickled clip. The draws of a clip
    depend on (seed, epoch, index) only, so they are the same in any process and after a resume.

    Args:
        samples: of `read_list`.
        sampler: number of frames and their rate -> frame numbers.
        transform: decoded frames -> views.
        decoder: reads the frames of all clips of a video, in one call.
        num_classes: K; a label outside 0 .. K - 1 is an error. None: labels are not needed.
        train: random draws; otherwise the same frames every time.
        num_clips: how many clips of a video are scored and averaged, spread evenly.
        seed: of the run.
        no_flip: labels of classes whose mirror image is another class: `RandomFlip` is left out.

    Raises ListError when a label does not fit, or is missing.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        sampler: Sampler,
        transform: Compose,
        *,
        decoder: VideoDecoder | FlowDecoder = VideoDecoder(),  # noqa: B008  it is frozen
        num_classes: int | None = None,
        train: bool = False,
        num_clips: int = 1,
        seed: int = 0,
        no_flip: Collection[int] = (),
    ) -> None:
        self.samples = samples
        self.sampler = sampler
        self.transform = transform
        self.decoder = decoder
        self.num_classes = num_classes
        self.train = train
        self.num_clips = num_clips
        self.seed = seed
        self.no_flip = frozenset(no_flip)
        if num_classes is not None:
            for sample in samples:
                self._check_label(sample, sample.label)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], int]:
        """A clip's views (V, C, T, H, W) and its label.

        Raises DecodeError when the clip cannot be read.
        """
        return self._load(index, epoch=0)

    def fetch(self, index: int, epoch: int = 0) -> Item:
        """As indexing, with this epoch's draws; what goes wrong is said in the item."""
        try:
            views, label = self._load(index, epoch)
        except ListError as error:
            return Item(index, problem=str(error), fatal=True)
        except DecodeError as error:
            return Item(index, problem=str(error))
        except Exception as error:  # whatever a library throws at a strange file
            path = self.samples[index].path
            return Item(index, problem=f"{path}: {type(error).__name__}: {error}")
        return Item(index, views, label)

    def label_of(self, sample: Sample) -> int | None:
        """The label, checked; None: it is not known."""
        return sample.label

    def _load(self, index: int, epoch: int) -> tuple[NDArray[np.float32], int]:
        sample = self.samples[index]
        label = self.label_of(sample)
        transform = self.transform.without(RandomFlip) if label in self.no_flip else self.transform
        seed = [self.seed, epoch, index]
        sampler = with_scenes(self.sampler, sample.path)
        draws = functools.partial(np.random.default_rng, [*seed, 1])  # the same for every clip

        def choose(num_frames: int, fps: float) -> NDArray[np.int64]:
            clips = []
            for phase in (np.arange(self.num_clips) + 0.5) / self.num_clips:
                rng = np.random.default_rng([*seed, 0]) if self.train else None
                clips.append(sampler(num_frames, rng, phase, fps))
            return np.concatenate(clips)

        @functools.cache  # the frames of a video have one size
        def new_size(height: int, width: int) -> tuple[int, int]:
            return transform.first_size(height, width, draws())

        frames = self.decoder(sample.path, choose, new_size)
        views = [transform(clip, draws()) for clip in np.split(frames, self.num_clips)]
        label = -1 if label is None else label
        return views[0] if len(views) == 1 else np.concatenate(views), label

    def _check_label(self, sample: Sample, label: int | None) -> None:
        if self.num_classes is None:
            return
        if label is None:
            raise ListError(f"{sample.place}: needs `path label`, got {sample.path.name!r}")
        if not 0 <= label < self.num_classes:
            raise ListError(
                f"{sample.place}: label {label} is outside 0 .. {self.num_classes - 1}; "
                f"MODEL.num_classes is {self.num_classes}, the list needs at least {label + 1}"
                if label >= 0
                else f"{sample.place}: label {label} is negative; labels count from 0"
            )


class HMDB51Dataset(VideoDataset):
    """The same for the lists of the book, whose lines are paths of .pkl files: the label is inside.

    data_tools/data_list_gener.py writes such lists; lines with a label are understood as well.
    """

    def label_of(self, sample: Sample) -> int | None:
        """The label of the line, or the one inside the .pkl; None: it is not known.

        Raises DecodeError when the .pkl cannot be read, ListError when the label does not fit.
        """
        if not self._is_inside(sample, sample.label) or not os.path.exists(sample.path):
            return sample.label
        label = read_pickled_clip(sample.path).label
        self._check_label(sample, label)
        return label

    def _check_label(self, sample: Sample, label: int | None) -> None:
        if not self._is_inside(sample, label):
            super()._check_label(sample, label)

    @staticmethod
    def _is_inside(sample: Sample, label: int | None) -> bool:
        return label is None and is_pickled(sample.path)

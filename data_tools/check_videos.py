"""Checking: a list or a folder of clips goes in; a report on each and a clean list come out."""

import argparse
import csv
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import joblib
import numpy as np
from tqdm import tqdm

from paddlevid.cluster import ADDRESS_HELP, open_workers
from paddlevid.data.dataset import Item, ListError, Sample, is_output, read_list
from paddlevid.data.decode import (
    FRAME_SUFFIXES,
    DecodeError,
    VideoReport,
    count_frames,
    decode,
    flow_files,
    frame_files,
    inspect_video,
    is_pickled,
    is_video,
    natural_key,
)
from paddlevid.data.flow import FlowDecoder
from paddlevid.data.loader import Loader
from paddlevid.data.split import read_lines
from paddlevid.flags import Parser, at_least, describe

FRAMES_AT_ONCE = 64  # of a .pkl or a folder of frames, held in memory


def inspect_images(path: Path) -> VideoReport:
    """Decode every frame of a .pkl or of a folder of frames and report what is wrong with it.

    Of a folder of optical flow, and none of frames, the fields count as frames.
    """
    report = VideoReport(str(path), codec="images")
    try:
        if path.is_dir() and not frame_files(path) and flow_files(path):
            flow = FlowDecoder()(path, lambda num_fields, _: np.arange(num_fields))
            return replace(report, frames=len(flow), height=flow.shape[1], width=flow.shape[2])
        num_frames = count_frames(path)
        for start in range(0, num_frames, FRAMES_AT_ONCE):
            indices = np.arange(start, min(start + FRAMES_AT_ONCE, num_frames))
            height, width = decode(path, indices).shape[1:3]
            if start and (width, height) != (report.width, report.height):
                raise DecodeError(f"{path}: its frames have different sizes")
            report = replace(report, frames=int(indices[-1]) + 1, width=width, height=height)
    except (DecodeError, OSError) as error:
        return replace(report, problem=str(error).removeprefix(f"{path}: "))
    return report


@dataclass(frozen=True)
class Inspections:
    """A dataset for the loader, whose "views" of a clip are the report on it: (1,) objects."""

    samples: Sequence[Sample]

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.samples)

    def fetch(self, index: int, epoch: int = 0) -> Item:
        """The report on the clip with this index."""
        return Item(index, views=np.array([inspect(self.samples[index].path)], object))


def inspect(path: Path) -> VideoReport:
    """The report on a clip of any kind."""
    try:
        is_images = path.is_dir() or is_pickled(path)
        return inspect_images(path) if is_images else inspect_video(path)
    except Exception as error:  # whatever a library throws at a strange file
        return VideoReport(str(path), problem=f"{type(error).__name__}: {error}")


def inspect_on_cluster(samples: Sequence[Sample], address: str) -> list[VideoReport]:
    """A report on each sample, by the workers of a Dask cluster."""
    jobs = [joblib.delayed(inspect)(sample.path.absolute()) for sample in samples]
    with open_workers(-1, address) as parallel:
        results = tqdm(parallel(jobs), total=len(jobs), unit="clip")
        reports = {report.path: report for report in results}
    return [reports[str(sample.path.absolute())] for sample in samples]


def inspect_all(samples: Sequence[Sample], workers: int, timeout: float) -> list[VideoReport]:
    """A report on each sample; the loader's processes outlive a clip that crashes or hangs one."""
    loader = Loader(
        Inspections(samples), 1, num_workers=workers, max_bad_samples=1, timeout=timeout
    )
    reports: dict[int, VideoReport] = {}
    with loader, tqdm(total=len(samples), unit="clip") as progress:
        for batch in loader.batches():
            reports[int(batch.indices[0])] = batch.clips[0]
            progress.update(len(reports) + len(loader.bad) - progress.n)
        for index, reason in loader.bad.items():
            path = str(samples[index].path)
            reports[index] = VideoReport(path, problem=reason.removeprefix(f"{path}: "))
        progress.update(len(reports) - progress.n)
    return [reports[index] for index in range(len(samples))]


# --- what to check --------------------------------------------------------------------------------


def find_samples(folder: Path, output: Path) -> tuple[list[Sample], list[str]]:
    """All clips below a folder, and its classes when every clip is FOLDER/<class>/<clip>.

    OUTPUT, and what else paddlevid wrote in the folder, holds no clips. Links are followed, but for
    those to a folder above them. Labels count the lines of FOLDER/classes.txt, or the folders with
    clips in natural order: as data_list_gener.py does, which also counts empty folders. A .pkl has
    its label inside.
    """
    paths = []
    for place, folders, files in os.walk(folder, followlinks=True):
        passed = {output, *_with_folders_above(Path(place), folder)}
        wanted = (f for f in folders if not _is_passed_over(Path(place, f), passed))
        folders[:] = sorted(wanted, key=natural_key)
        names = sorted((f for f in files if not f.startswith(".")), key=natural_key)
        clips = [path for path in (Path(place, name) for name in names) if _is_clip_file(path)]
        paths += clips or ([Path(place)] if any(map(_is_image, names)) else [])
    if not all(len(path.relative_to(folder).parts) == 2 for path in paths):
        return [Sample(path) for path in paths], []
    found = {path.parent.name for path in paths}
    names = sorted(sorted(found), key=natural_key)
    note = folder / "classes.txt"
    if note.exists():
        names = read_lines(note)
        if not found <= set(names):
            raise ListError(f"{note} lacks the class folder {min(found - set(names))!r}")
    labels = [None if is_pickled(p) else names.index(p.parent.name) for p in paths]
    return [Sample(path, label) for path, label in zip(paths, labels, strict=True)], names


def _with_folders_above(place: Path, folder: Path) -> set[Path]:
    """The real paths of the folders from FOLDER down to a place: a link to one is a loop."""
    above = [path for path in (place, *place.parents) if path.is_relative_to(folder)]
    return {path.resolve() for path in above}


def _is_passed_over(folder: Path, passed: set[Path]) -> bool:
    return folder.name.startswith(".") or folder.resolve() in passed or is_output(folder)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in FRAME_SUFFIXES


def _is_clip_file(path: Path) -> bool:
    return is_video(path) or is_pickled(path)


# --- what is found --------------------------------------------------------------------------------


def write_csv(file: Path, reports: Sequence[VideoReport]) -> None:
    """Write a line for each report, with all its fields."""
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(VideoReport)])
        writer.writeheader()
        writer.writerows(asdict(report) for report in reports)


def clean_list(samples: Sequence[Sample], reports: Sequence[VideoReport], folder: Path) -> str:
    """The lines of a list file in this folder, without the bad samples."""
    good = [sample for sample, report in zip(samples, reports, strict=True) if not report.problem]
    labels = ["" if sample.label is None else f" {sample.label}" for sample in good]
    paths = [_relative(sample.path, folder) for sample in good]
    return "".join(f"{path}{label}\n" for path, label in zip(paths, labels, strict=True))


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return path.as_posix()


def print_summary(reports: Sequence[VideoReport]) -> None:
    """Print how many clips are good, what they are, and what is wrong with the others."""
    good = [report for report in reports if not report.problem]
    bad = [report for report in reports if report.problem]
    print(f"{len(good)} good, {len(bad)} bad, {len(reports)} clips in all")
    if good:
        frames = [report.frames for report in good]
        print(f"frames  {min(frames)} to {max(frames)}, median {np.median(frames):g}")
        for title, values in (
            ("size", [f"{report.width}x{report.height}" for report in good]),
            ("fps", [f"{report.fps:g}" for report in good if report.fps]),
            ("codec", [report.codec for report in good]),
            ("note", [report.note for report in good if report.note]),
        ):
            common = [f"{value} ({count})" for value, count in Counter(values).most_common(6)]
            more = len(set(values)) - len(common)
            if values:
                print(f"{title:7} {', '.join(common)}" + (f" and {more} others" if more else ""))
    for report in bad[:50]:
        print(f"bad: {report.path}: {report.problem}")
    if len(bad) > 50:
        print(f"and {len(bad) - 50} more, all of them in videos.csv")


def check(
    source: Path, output: Path | None, workers: int, timeout: float, cluster: str | None = None
) -> bool:
    """Check all clips of a list or a folder: -> whether all are good.

    Raises ListError when there is nothing to check, OSError when OUTPUT cannot be written,
    ValueError for a cluster that is not there.
    """
    source = source.resolve()
    output = (output or Path(f"{source.name}_check")).resolve()
    if source.is_dir():
        samples, classes = find_samples(source, output)
    else:
        samples, classes = read_list(source), []
        samples = [replace(sample, path=sample.path.resolve()) for sample in samples]
    if not samples:
        raise ListError(f"{source} holds no videos, .pkl clips or folders of frames")
    output.mkdir(parents=True, exist_ok=True)
    if cluster:
        reports = inspect_on_cluster(samples, cluster)
    else:
        reports = inspect_all(samples, workers, timeout)
    print_summary(reports)
    clean = clean_list(samples, reports, output)
    with tempfile.TemporaryDirectory(dir=output, prefix=".") as folder:  # all whole, or none
        write_csv(Path(folder, "videos.csv"), reports)
        if clean:
            Path(folder, "clean.list").write_text(clean, encoding="utf-8")
        else:
            (output / "clean.list").unlink(missing_ok=True)  # of an earlier run
        if classes:
            Path(folder, "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
        elif source.is_file() and source.with_name("classes.txt").exists():
            shutil.copyfile(source.with_name("classes.txt"), Path(folder, "classes.txt"))
        for file in Path(folder).iterdir():
            os.replace(file, output / file.name)
    print(f"{output}: videos.csv, {'clean.list' if clean else 'no clean.list: no clip is good'}")
    return not any(report.problem for report in reports)


# --- the tool -------------------------------------------------------------------------------------


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser(
        description="Decode every frame of every clip and say what is wrong. Writes videos.csv (a "
        "line for each clip) and clean.list (the good ones; with labels for a list that has them, "
        "and for a folder whose clips all are FOLDER/<class>/<clip>; classes.txt is beside it).",
        epilog="Exit code: 0 all clips are good, 1 some are bad, 2 there is nothing to check.",
    )
    parser.add_argument(
        "source",
        metavar="LIST_OR_FOLDER",
        type=Path,
        help="list file, or folder to search for videos, .pkl clips and folders of frames",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder to write to (default: <name>_check in the current folder)",
    )
    parser.add_argument(
        "--workers",
        type=at_least(1),
        default=joblib.cpu_count(),
        help="processes to use (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=at_least(1),
        default=600,
        metavar="SECONDS",
        help="a clip that takes longer is bad (default: %(default)s)",
    )
    parser.add_argument(
        "--cluster", metavar="HOST:PORT", help=f"{ADDRESS_HELP}; there --timeout does not hold"
    )
    args = parser.parse_args(argv)
    if not args.source.exists():
        parser.error(f"there is no list or folder {args.source}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Check what the command line names: -> the exit code"""
    args = parse_args(argv)
    try:
        return 0 if check(**vars(args)) else 1
    except ListError as error:
        print(f"check_videos.py: {error}", file=sys.stderr)
        return 2
    except UnicodeEncodeError as error:
        print(
            f"check_videos.py: {error.object!a}: a name that is no UTF-8: rename", file=sys.stderr
        )
        return 1
    except (ValueError, OSError) as error:
        print(f"check_videos.py: {describe(error, args.output or args.source)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("check_videos.py: stopped; nothing is written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

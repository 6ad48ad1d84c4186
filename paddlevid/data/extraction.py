"""Extraction: a folder of videos in class folders -> a folder of images for each, by many."""

import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import joblib
from tqdm import tqdm

from paddlevid.cluster import open_workers
from paddlevid.data.decode import VIDEO_SUFFIXES, DecodeError, is_video, limit_threads
from paddlevid.files import check_inside, check_source, is_newer, seen_from, write_whole
from paddlevid.flags import describe, is_disk_full

NOTES = ("avi2jpg.json", "extract_flow.json")  # in TARGET: which tool wrote it, and how
Write = Callable[..., int]  # (video, folder, **options) -> how many images there are


def find_videos(source: Path) -> dict[Path, Path]:
    """Videos in class folders, and the folder below TARGET for each: {video: class/clip}.

    Raises ValueError where there is none.
    """
    if not source.is_dir():
        raise ValueError(f"SOURCE {source}: there is no such folder")
    videos = sorted(
        path
        for path in source.glob("*/*")
        if is_video(path) and not path.name.startswith(".") and not path.is_dir()
    )
    if outside := [path.name for path in source.glob("*") if is_video(path) and path.is_file()]:
        print(f"{len(outside)} videos left out, as they are in no class folder: {outside[0]}, ...")
    if not videos:
        raise ValueError(
            f"no videos in {source}: it needs class folders with {' '.join(VIDEO_SUFFIXES)} "
            f"files, as in {source}/walk/clip1.avi"
        )
    stems = Counter(path.with_suffix("") for path in videos)
    return {
        path: Path(path.parent.name, path.stem if stems[path.with_suffix("")] == 1 else path.name)
        for path in videos
    }


def claim(source: Path, target: Path, note: Path, options: Mapping[str, object]) -> None:
    """Note SOURCE and the options in TARGET.

    Raises ValueError where TARGET is SOURCE, or holds images of other videos or options.
    """
    if target.resolve() == source.resolve():
        raise ValueError(f"TARGET {target} is SOURCE too: images belong in a folder of their own")
    if target.exists() and not target.is_dir():
        raise ValueError(f"TARGET {target} is a file: it needs a folder")
    if others := [name for name in NOTES if name != note.name and (target / name).exists()]:
        raise ValueError(f"{target} holds what {others[0]} tells of: choose another TARGET")
    if note.exists():
        try:
            found = dict(json.loads(note.read_text()))
            noted = found.pop("source", None)
        except (ValueError, TypeError):
            found, noted = "unknown options", None
        if found != options:
            raise ValueError(
                f"{target} holds frames extracted with {found}, not {options}: choose another "
                "TARGET or remove it"
            )
        check_source(note, noted, source)
    target.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps({**options, "source": seen_from(target, source)}) + "\n")


def extract(
    write: Write, video: Path, folder: Path, options: Mapping[str, object]
) -> tuple[int, str]:
    """One video: -> (images, what went wrong)."""
    limit_threads(1)  # the workers share the cores
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return write(video, folder, **options), ""
    except DecodeError as error:
        return 0, str(error)
    except OSError as error:
        if is_disk_full(error):
            raise  # the other videos would fail in the same way
        return 0, f"{video}: cannot write {folder}: {error.strerror or error}"
    except Exception as error:  # whatever a library throws at a strange file
        return 0, f"{video}: {type(error).__name__}: {error}"


def size_of(video: Path) -> int:
    """Bytes; 0 for a link to nowhere, which `extract` will report."""
    return video.stat().st_size if video.exists() else 0


def is_extracted(video: Path, folder: Path) -> bool:
    """Whether a clip's folder, which appears when all is there, has images no older than it."""
    image = next(folder.iterdir(), None) if folder.is_dir() else None
    return image is not None and not is_newer(video, image)


def extract_all(
    name: str,
    args: Namespace,
    options: Mapping[str, object],
    write: Write,
    unit: str = "frames",
) -> int:
    """Do the work of a tool: -> exit code, 1 when some videos failed.

    Args:
        name: of the tool.
        args: its command line, with source, target, workers and cluster.
        options: arguments of `write`, noted in TARGET.
        unit: what `write` counts.
    """
    try:
        videos = find_videos(args.source)
        claim(args.source, args.target, args.target / f"{name}.json", options)
    except (ValueError, OSError) as error:
        print(f"{name}.py: {describe(error, args.target)}", file=sys.stderr)
        return 1
    clips = {video: args.target / clip for video, clip in videos.items()}
    try:
        check_inside(args.target, {clip.parent for clip in clips.values()})
    except ValueError as error:
        print(f"{name}.py: {error}", file=sys.stderr)
        return 1
    waiting = {video: clip for video, clip in clips.items() if not is_extracted(video, clip)}
    largest_first = sorted(waiting, key=size_of, reverse=True)  # so all end together
    jobs = [  # absolute paths: joblib's processes may have been started in another folder
        joblib.delayed(extract)(write, video.absolute(), waiting[video].absolute(), options)
        for video in largest_first
    ]
    number, problems = 0, []
    try:
        with open_workers(args.workers, args.cluster) as parallel:
            results = parallel(jobs)
            for written, problem in tqdm(results, total=len(jobs), unit="video", disable=not jobs):
                number += written
                if problem:
                    problems.append(problem)
                    tqdm.write(problem, file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"{name}.py: {describe(error, args.target)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}.py: stopped; run it again to extract the rest", file=sys.stderr)
        return 130
    done = len(jobs) - len(problems)
    print(
        f"{args.target}: {done} videos extracted ({number} {unit}), "
        f"{len(videos) - len(jobs)} were there already, {len(problems)} failed"
    )
    return 1 if problems else 0

"""Extract frames: SOURCE/<class>/<clip>.avi -> TARGET/<class>/<clip>/00001.jpg ..."""

import argparse
import json
import math
import sys
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import joblib
from tqdm import tqdm

from paddlevid.cluster import ADDRESS_HELP, open_workers
from paddlevid.data.decode import VIDEO_SUFFIXES, DecodeError, is_video, limit_threads
from paddlevid.data.frames import write_frames
from paddlevid.files import write_whole
from paddlevid.flags import Parser, at_least, describe, is_disk_full


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        description="Extract the frames of videos in class folders: SOURCE/<class>/<clip>.avi "
        "(or " + " ".join(VIDEO_SUFFIXES[1:]) + ") becomes TARGET/<class>/<clip>/00001.jpg and "
        "so on. Clips that are finished are skipped, so it can be interrupted and run again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder of class folders")
    parser.add_argument("target", metavar="TARGET", type=Path, help="folder to write to")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEG files, 0 to 100")
    parser.add_argument("--short-side", type=at_least(1), metavar="N", help="resize to N pixels")
    parser.add_argument("--fps", type=float, metavar="N", help="keep at most N frames a second")
    parser.add_argument(
        "--workers", type=at_least(1), default=joblib.cpu_count(), help="processes to use"
    )
    parser.add_argument("--cluster", metavar="HOST:PORT", help=ADDRESS_HELP)
    args = parser.parse_args(argv)
    if not 0 <= args.quality <= 100:
        parser.error(f"--quality {args.quality}: needs 0 to 100")
    if args.fps is not None and not 0 < args.fps < math.inf:
        parser.error(f"--fps {args.fps:g}: needs a number above 0")
    return args


def find_videos(source: Path) -> dict[Path, Path]:
    """Videos in class folders, and the folder below TARGET for each: {video: class/clip}.

    Raises ValueError where there is none.
    """
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


def claim(target: Path, options: dict[str, object]) -> None:
    """Note the options in TARGET; refuse frames that were extracted with other ones."""
    if target.exists() and not target.is_dir():
        raise ValueError(f"TARGET {target} is a file: it needs a folder")
    note = target / "avi2jpg.json"
    if note.exists():
        try:
            found = json.loads(note.read_text())
        except ValueError:
            found = "unknown options"
        if found != options:
            raise ValueError(
                f"{target} holds frames extracted with {found}, not {options}: choose another "
                "TARGET or remove it"
            )
    target.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps(options) + "\n")


def extract(video: Path, folder: Path, options: dict[str, object]) -> tuple[int, str]:
    """One video: -> (frames, what went wrong)."""
    limit_threads(1)  # the workers share the cores
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return write_frames(video, folder, **options), ""
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


def is_extracted(folder: Path) -> bool:
    """Whether a clip's folder has frames; it appears when all are there."""
    return folder.is_dir() and any(folder.iterdir())


def main(argv: list[str] | None = None) -> int:
    """Extract; -> exit code, 1 when some videos failed."""
    args = parse_args(argv)
    options = {"quality": args.quality, "short_side": args.short_side, "fps": args.fps}
    try:
        videos = find_videos(args.source)
        claim(args.target, options)
    except (ValueError, OSError) as error:
        print(f"avi2jpg.py: {describe(error, args.target)}", file=sys.stderr)
        return 1
    clips = {video: args.target / clip for video, clip in videos.items()}
    waiting = {video: clip for video, clip in clips.items() if not is_extracted(clip)}
    largest_first = sorted(waiting, key=size_of, reverse=True)  # so all end together
    jobs = [  # absolute paths: joblib's processes may have been started in another folder
        joblib.delayed(extract)(video.absolute(), waiting[video].absolute(), options)
        for video in largest_first
    ]
    frames, problems = 0, []
    try:
        with open_workers(args.workers, args.cluster) as parallel:
            results = parallel(jobs)
            for written, problem in tqdm(results, total=len(jobs), unit="video", disable=not jobs):
                frames += written
                if problem:
                    problems.append(problem)
                    tqdm.write(problem, file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"avi2jpg.py: {describe(error, args.target)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("avi2jpg.py: stopped; run it again to extract the rest", file=sys.stderr)
        return 130
    except BrokenProcessPool:
        print(
            "avi2jpg.py: a process died, of a damaged video or for want of memory: "
            "data_tools/check_videos.py finds such videos; run it again to extract the rest",
            file=sys.stderr,
        )
        return 1
    done = len(jobs) - len(problems)
    print(
        f"{args.target}: {done} videos extracted ({frames} frames), "
        f"{len(videos) - len(jobs)} were there already, {len(problems)} failed"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

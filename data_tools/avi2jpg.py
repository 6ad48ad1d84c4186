"""Extract frames: SOURCE/<class>/<clip>.avi -> TARGET/<class>/<clip>/00001.jpg ..."""

import argparse
import math
import sys
from pathlib import Path

import joblib

from paddlevid.cluster import ADDRESS_HELP
from paddlevid.data.decode import VIDEO_SUFFIXES
from paddlevid.data.extraction import extract_all
from paddlevid.data.frames import write_frames
from paddlevid.flags import Parser, at_least


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        description="Extract the frames of videos in class folders: SOURCE/<class>/<clip>.avi "
        "(or " + " ".join(VIDEO_SUFFIXES[1:]) + ") becomes TARGET/<class>/<clip>/00001.jpg and "
        "so on. Clips that are finished are skipped unless the video is newer, so it can be "
        "interrupted and run again.",
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


def main(argv: list[str] | None = None) -> int:
    """Extract; -> exit code, 1 when some videos failed."""
    args = parse_args(argv)
    options = {"quality": args.quality, "short_side": args.short_side, "fps": args.fps}
    return extract_all("avi2jpg", args, options, write_frames)


if __name__ == "__main__":
    sys.exit(main())

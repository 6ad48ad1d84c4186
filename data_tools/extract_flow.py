"""Extract optical flow: VIDEOS/<class>/<clip>.avi -> FLOW/<class>/<clip>/flow_x_00001.jpg ..."""

import argparse
import math
import sys
from pathlib import Path

import joblib

from paddlevid.cluster import ADDRESS_HELP
from paddlevid.data.decode import VIDEO_SUFFIXES
from paddlevid.data.extraction import extract_all
from paddlevid.data.flow import METHODS, check_method, write_flow
from paddlevid.flags import Parser, at_least


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        description="Compute how far pixels move from each frame to the next, for the flow stream "
        "of TSN: SOURCE/<class>/<clip>.avi (or " + " ".join(VIDEO_SUFFIXES[1:]) + ") becomes "
        "TARGET/<class>/<clip>/flow_x_00001.jpg and flow_y_00001.jpg and so on, grey images as "
        "published data sets have them, one pair less than frames. A component of v pixels is the "
        "level round((v + bound) * 255 / (2 * bound)). Clips that are finished are skipped "
        "unless the video is newer, so it can be interrupted and run again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder of class folders")
    parser.add_argument("target", metavar="TARGET", type=Path, help="folder to write to")
    parser.add_argument(
        "--method", choices=METHODS, default="dis",
        help="dis: dense inverse search, fast; tvl1: that of the papers, some 70 times as slow, "
        "with opencv-contrib-python-headless alone",
    )  # fmt: skip
    parser.add_argument(
        "--bound", type=float, default=20.0, metavar="PIXELS",
        help="the largest component; what moves further counts as this",
    )  # fmt: skip
    parser.add_argument(
        "--short-side", type=at_least(0), default=256, metavar="N",
        help="resize the frames to N pixels before, small ones too; 0: as they are, which is "
        "faster for videos smaller than that",
    )  # fmt: skip
    parser.add_argument("--quality", type=int, default=95, help="of the JPEG files, 0 to 100")
    parser.add_argument(
        "--workers", type=at_least(1), default=joblib.cpu_count(), help="processes to use"
    )
    parser.add_argument("--cluster", metavar="HOST:PORT", help=ADDRESS_HELP)
    args = parser.parse_args(argv)
    if not 0 <= args.quality <= 100:
        parser.error(f"--quality {args.quality}: needs 0 to 100")
    if not 0 < args.bound < math.inf:
        parser.error(f"--bound {args.bound:g}: needs pixels, above 0")
    try:
        check_method(args.method)
    except ValueError as error:
        parser.error(f"--method {args.method}: {error}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Extract; -> exit code, 1 when some videos failed."""
    args = parse_args(argv)
    options = {
        "method": args.method, "bound": args.bound, "short_side": args.short_side,
        "quality": args.quality,
    }  # fmt: skip
    return extract_all("extract_flow", args, options, write_flow, "fields of flow")


if __name__ == "__main__":
    sys.exit(main())

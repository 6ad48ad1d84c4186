"""Predict videos, or evaluate a list: python infer.py --weights F VIDEO..."""

import argparse
import math
import shlex
import sys
from pathlib import Path

from paddlevid import runtime
from paddlevid.config import ConfigError, load_config
from paddlevid.files import check_writable
from paddlevid.flags import Parser, add_config, add_engine, at_least, config_of, describe


def share(text: str) -> float:
    """The type of --smooth."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"needs a number from 0 to below 1, not {text!r}")
    return value


def numbers(text: str) -> list[float]:
    """The type of --fuse-weights."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [-1.0]
    if not all(0 < value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"needs numbers above 0 such as 1,1.5, not {text!r}")
    return values


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        description="Predict the classes of videos, or evaluate the network on a list.",
        epilog="Without INPUT and --split, the list that INFER.filelist names is predicted.",
    )
    add_config(parser)
    parser.add_argument(
        "--weights", required=True, type=Path,
        help=".safetensors or .pdparams of train.py, or any file that paddlevid.convert reads",
    )  # fmt: skip
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="*",
        help="video files, .pkl clips, folders of them, folders of frames, or lists",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=("train", "valid", "test"),
        help="evaluate this list of the config; writes metrics.json, per_class.csv, "
        "confusion_matrix.csv and .png, and report.html beside the weights",
    )  # fmt: skip
    parser.add_argument(
        "--top-k", type=at_least(1), default=5, metavar="K", help="classes shown (5)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=".jsonl or .csv for the predictions"
    )
    parser.add_argument(
        "--report", nargs="?", const="", metavar="FILE.html",
        help="a page with film strips of the inputs and what was said of them (default: "
        "predictions.html beside the weights); with --split, where its page goes",
    )  # fmt: skip
    parser.add_argument(
        "--num-clips",
        type=at_least(1),
        metavar="N",
        help="average N clips of a video, as num_clips=N",
    )
    parser.add_argument(
        "--crops", type=int, choices=(1, 3, 10), help="crops of a clip to average, as crops=N"
    )
    parser.add_argument(
        "--segments", type=at_least(1), metavar="N",
        help="segments of a video, as seg_num=N; TSN is published with --segments 25 --crops 10",
    )  # fmt: skip
    parser.add_argument(
        "--fuse", type=Path, metavar="FILE", action="append", default=[],
        help="weights of another network for the same classes, such as the flow stream of TSN: "
        "average the scores before the softmax; may be repeated. Its config is the one that it "
        "carries or that is beside it; -o holds for all networks, but for filelist",
    )  # fmt: skip
    parser.add_argument(
        "--fuse-weights", type=numbers, metavar="A,B",
        help="of --weights and each --fuse in the average (1 for frames, 1.5 for optical flow)",
    )  # fmt: skip
    parser.add_argument(
        "--fuse-list", type=Path, metavar="PATH", action="append", default=[],
        help="what a --fuse reads, as its --split or instead of INPUT: a list, or a folder of "
        "extracted flow; one for each, matched by the names of the clips",
    )  # fmt: skip
    parser.add_argument(
        "--trunk", metavar="NAME|FILE",
        help="with a network for features and videos: the trunk, as in extract_features.py "
        "(default: MODEL.trunk)",
    )  # fmt: skip
    parser.add_argument(
        "--curve", type=Path, metavar="DIR",
        help="write a picture for each input: the probabilities up to each frame; for networks "
        "that read frame by frame (cnn_lstm, lrcn)",
    )  # fmt: skip
    parser.add_argument(
        "--save-video", type=Path, metavar="DIR",
        help="write each input as DIR/NNN_name.mp4 with the most probable classes drawn in, and "
        "its sound; with --stream also their smoothed probabilities over the last 10 s",
    )  # fmt: skip
    parser.add_argument(
        "--explain", type=Path, metavar="DIR",
        help="write what a class was seen in as DIR/NNN_name_heat.png: Grad-CAM (tsn, eco, "
        "movinet, lrcn) or attention rollout (timesformer); with --save-video also as .mp4",
    )  # fmt: skip
    parser.add_argument(
        "--explain-class", metavar="NAME", help="--explain: of this class (the most probable one)"
    )
    parser.add_argument(
        "--stream", action="store_true",
        help="INPUT are videos of any length, cameras (0, 1, ...) or addresses (rtsp://, http://): "
        "predict all the while, a line of JSON for each --every frames; several run side by side",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=at_least(1), metavar="N", help="--stream: frames from line to line (8)"
    )
    parser.add_argument(
        "--stride", type=at_least(1), metavar="N",
        help="--stream: look at every N-th frame (MODEL.interval)",
    )  # fmt: skip
    parser.add_argument(
        "--smooth", type=share, metavar="S",
        help="--stream: share of the scores before in the smoothed ones, from 0 to below 1 (0.8)",
    )  # fmt: skip
    parser.add_argument(
        "--memory", type=at_least(1), metavar="N",
        help="--stream, movinet_*_stream: let frames count the less the older they are, with the "
        "weight of N in all (all frames so far count alike: for cameras set it)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=at_least(1), metavar="N",
        help="convlstm: frames to predict behind the last one of a video (MODEL.num_future)",
    )  # fmt: skip
    parser.add_argument(
        "--save_dir", type=Path, metavar="DIR",
        help="convlstm: for the predicted frames (default: predictions/ beside the weights) or the "
        "figures of --split (default: beside the weights)",
    )  # fmt: skip
    add_engine(parser)
    args = parser.parse_args(argv)
    args.command = "infer.py " + shlex.join(sys.argv[1:] if argv is None else argv)
    if args.report and not args.report.lower().endswith((".html", ".htm")):
        if Path(args.report).is_dir():
            name = args.report
            print(f"--report: {name} does not end in .html, so it is INPUT", file=sys.stderr)
        args.inputs.insert(0, args.report)  # the INPUT behind a --report without FILE
        args.report = ""
    if args.stream:
        others = ("split", "curve", "trunk", "explain", "fuse")
        if not args.inputs or args.report is not None or any(getattr(args, o) for o in others):
            parser.error(
                "--stream needs INPUT, and neither --split, --curve, --trunk, --explain, --fuse "
                "nor --report"
            )
        if args.output and args.output.suffix.lower() != ".jsonl":
            parser.error(f"--output {args.output}: --stream needs a name that ends in .jsonl")
        args.every = args.every or 8
        args.smooth = 0.8 if args.smooth is None else args.smooth
    else:
        args.inputs = [Path(name) for name in args.inputs]
        if {args.every, args.stride, args.smooth, args.memory} != {None}:
            parser.error("--every, --stride, --smooth and --memory are for --stream")
    if args.steps:
        args.overrides.append(f"MODEL.num_future={args.steps}")
    if args.split and args.inputs:
        parser.error("give either INPUT or --split")
    if args.fuse and (args.curve or args.explain):
        parser.error("--curve and --explain are of one network: leave --fuse out")
    if args.fuse_weights and len(args.fuse_weights) != 1 + len(args.fuse):
        parser.error(
            f"--fuse-weights has {len(args.fuse_weights)} numbers: --weights and --fuse name "
            f"{1 + len(args.fuse)} networks"
        )
    if args.fuse_list and len(args.fuse_list) != len(args.fuse):
        parser.error(
            f"--fuse-list is given {len(args.fuse_list)} times: it needs one for each of the "
            f"{len(args.fuse)} --fuse"
        )
    if args.split and args.curve:
        parser.error("--curve is for predictions, not for --split")
    if args.split and (args.save_video or args.explain):
        parser.error("--save-video and --explain are for predictions, not for --split")
    if args.explain_class is not None and not args.explain:
        parser.error("--explain-class is for --explain")
    for flag, folder in (("--save-video", args.save_video), ("--explain", args.explain)):
        if folder and folder.exists() and not folder.is_dir():
            parser.error(f"{flag} {folder} is a file: it needs a folder")
    if args.split and args.output:
        parser.error("--output is for predictions; --split writes its files beside the weights")
    if args.output and args.output.suffix.lower() not in (".jsonl", ".csv"):
        parser.error(f"--output {args.output}: needs a name that ends in .jsonl or .csv")
    if args.split and args.report == "":
        args.report = None  # an evaluation writes report.html in any case
    if args.report is not None:
        folder = args.save_dir or args.weights.parent
        args.report = Path(args.report or folder / "predictions.html")
        if args.report.parent != args.save_dir and not args.report.parent.is_dir():
            parser.error(f"--report {args.report}: there is no folder {args.report.parent}")
    if args.output and not args.output.parent.is_dir():
        parser.error(f"--output {args.output}: there is no folder {args.output.parent}")
    args.config = args.config or config_of(parser, args.weights)
    remedy = "put the one it was trained with there, or name its .safetensors"
    args.fuse_configs = [config_of(parser, file, remedy) for file in args.fuse]
    section = "TEST" if args.split == "train" else (args.split or "infer").upper()
    for key, value in (
        ("num_clips", args.num_clips), ("crops", args.crops), ("seg_num", args.segments),
    ):  # fmt: skip
        if value is not None:
            args.overrides.append(f"{section}.{key}={value}")
    return args


def infer(args: argparse.Namespace) -> int:
    """Evaluate or predict: -> exit code, 1 when an input could not be read."""
    config = load_config(args.config, args.overrides)
    shared = [text for text in args.overrides if ".filelist=" not in text.replace(" ", "")]
    fused = [load_config(file, shared) for file in args.fuse_configs]
    if args.report and args.report.parent != args.save_dir:
        check_writable(args.report.parent)
    if args.split and not args.save_dir:
        check_writable(args.weights.parent)
    runtime.configure()
    # Paddle is imported here, so that --help and a wrong config answer at once.
    from paddlevid import build, distributed
    from paddlevid.inference.networks import open_networks

    distributed.join()
    print(build.choose_device(config, args.device), file=sys.stderr)
    classes = build.read_classes(config, args.weights)
    networks = open_networks(args, config, fused, classes)
    if config.model.task == "predict":
        from paddlevid.inference.frames import predict_frames

        return predict_frames(args, networks[0])
    if args.trunk and (args.split or all(n.config.model.format != "features" for n in networks)):
        raise ConfigError("--trunk is for INPUT and networks of features: cnn_lstm")
    if args.steps or args.save_dir:
        raise ConfigError("--steps and --save_dir are for networks that predict frames: convlstm")
    if args.split:
        from paddlevid.inference.evaluate import evaluate, evaluate_fused

        if fused:
            return evaluate_fused(args, networks, classes)
        return evaluate(args, networks[0], classes)
    if args.stream:
        from paddlevid.inference.streams import stream

        return stream(args, config, networks[0].predictor, classes)
    from paddlevid.inference.predict import predict_clips

    return predict_clips(args, networks, classes)


def main(argv: list[str] | None = None) -> int:
    """Infer; -> exit code."""
    args = parse_args(argv)
    try:
        return infer(args)
    except (ValueError, OSError) as error:
        folder = args.save_video or args.explain or args.output or args.weights.parent
        print(f"infer.py: {describe(error, folder)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("infer.py: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

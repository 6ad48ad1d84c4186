"""Predict videos, or evaluate a list: python infer.py --weights F VIDEO..."""

import argparse
import contextlib
import csv
import functools
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from paddlevid import runtime
from paddlevid.config import Config, ConfigError, ReaderConfig, load_config
from paddlevid.files import write_whole
from paddlevid.flags import Parser, at_least, describe


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
    parser.add_argument(
        "--config", type=Path,
        help="as in training (default: what a .safetensors carries, or config.yaml beside)",
    )  # fmt: skip
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
        help="evaluate this list of the config; writes metrics.json, per_class.csv and "
        "confusion_matrix.csv and .png beside the weights",
    )  # fmt: skip
    parser.add_argument(
        "--top-k", type=at_least(1), default=5, metavar="K", help="classes shown (5)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=".jsonl or .csv for the predictions"
    )
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
        "-o", dest="overrides", metavar="SECTION.key=value", action="append", default=[],
        help="set one value of the config; may be repeated",
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
    parser.add_argument("--device", metavar="cpu|gpu|gpu:0", help="where to compute")
    parser.add_argument(
        "--engine", choices=("auto", "eager", "program"), default="auto",
        help="program: export the network and let paddle.inference run it, with the same scores; "
        "auto (default): so on a CPU",
    )  # fmt: skip
    parser.add_argument("--half", action="store_true", help="a program on a GPU: half precision")
    parser.add_argument(
        "--tensorrt", action="store_true", help="a program on a GPU: with TensorRT where it can"
    )
    args = parser.parse_args(argv)
    if args.stream:
        if not args.inputs or args.split or args.curve or args.trunk or args.fuse:
            parser.error("--stream needs INPUT, and neither --split, --curve, --trunk nor --fuse")
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
    if args.fuse and args.curve:
        parser.error("--curve is of one network: leave --fuse out")
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
    if args.split and args.output:
        parser.error("--output is for predictions; --split writes its files beside the weights")
    if args.output and args.output.suffix.lower() not in (".jsonl", ".csv"):
        parser.error(f"--output {args.output}: needs a name that ends in .jsonl or .csv")
    if args.output and not args.output.parent.is_dir():
        parser.error(f"--output {args.output}: there is no folder {args.output.parent}")
    if not args.config:
        args.config = config_beside(args.weights)
        if not args.config.exists() and args.config != args.weights:
            parser.error(f"there is no {args.config} beside the weights: give --config FILE")
    section = "TEST" if args.split == "train" else (args.split or "infer").upper()
    for key, value in (
        ("num_clips", args.num_clips), ("crops", args.crops), ("seg_num", args.segments),
    ):  # fmt: skip
        if value is not None:
            args.overrides.append(f"{section}.{key}={value}")
    return args


def config_beside(weights: Path) -> Path:
    """The file with the config of weights: a .safetensors carries its own."""
    return weights if weights.suffix == ".safetensors" else weights.parent / "config.yaml"


@dataclass(frozen=True)
class Network:
    """One of several networks whose scores are averaged."""

    weights: Path
    config: Config
    predictor: "Predictor"  # noqa: F821
    share: float  # in the average
    clips: Path | None = None  # a list or folder instead of its config's list, or of INPUT


def infer(args: argparse.Namespace) -> int:
    """Evaluate or predict: -> exit code, 1 when an input could not be read."""
    config = load_config(args.config, args.overrides)
    shared = [text for text in args.overrides if ".filelist=" not in text.replace(" ", "")]
    fused = [load_config(config_beside(file), shared) for file in args.fuse]
    runtime.configure()
    # Paddle is imported here, so that --help and a wrong config answer at once.
    import paddle

    from paddlevid import build, distributed
    from paddlevid.predictor import Predictor

    def open_network(config: Config, weights: Path) -> Predictor:
        with paddle.LazyGuard():  # a program that was kept needs no weights
            model, _ = build.build_model(config, fresh=True)
        return Predictor(
            model,
            args.engine,
            build.identify(config, weights),
            functools.partial(build.load_all_weights, model, weights),
            half=args.half,
            tensorrt=args.tensorrt,
        )

    distributed.join()
    print(build.choose_device(config, args.device), file=sys.stderr)
    classes = build.read_classes(config, args.weights)
    predictor = open_network(config, args.weights)
    networks = [Network(args.weights, config, predictor, 1.0)]
    if fused:
        check_fusion(args, [config, *fused], classes)
        networks += [
            Network(file, own, open_network(own, file), 1.0, clips)
            for file, own, clips in zip(
                args.fuse, fused, args.fuse_list or [None] * len(fused), strict=True
            )
        ]
        shares = args.fuse_weights or [1.5 if n.config.model.is_flow else 1.0 for n in networks]
        networks = [replace(n, share=s) for n, s in zip(networks, shares, strict=True)]
        told = ", ".join(f"{network.share:g} x {network.weights}" for network in networks)
        print(f"scores before the softmax, averaged: {told}", file=sys.stderr)
    if config.model.task == "predict":
        return predict_frames(args, config, predictor)
    if args.steps or args.save_dir:
        raise ConfigError("--steps and --save_dir are for networks that predict frames: convlstm")
    if args.split and fused:
        return evaluate_fused(args, networks, classes)
    if args.split:
        return evaluate(args, config, predictor, classes)
    if args.stream:
        return stream(args, config, predictor, classes)
    return predict(args, networks, classes)


def check_fusion(args: argparse.Namespace, configs: list[Config], classes: list[str]) -> None:
    """Raise ConfigError where the networks do not say the same classes."""
    from paddlevid import build

    if runtime.is_launched():
        raise ConfigError("--fuse runs in one process: start it without paddle's launcher")
    for file, config in zip([args.weights, *args.fuse], configs, strict=True):
        if config.model.task == "predict":
            raise ConfigError(f"--fuse is for classifiers; {file} predicts frames")
        own = build.read_classes(config, file)
        if own != classes:
            a, b = next(
                ((a, b) for a, b in zip(classes, own, strict=False) if a != b), ("none", "none")
            )
            raise ConfigError(
                f"--fuse: {file} has {len(own)} classes, {args.weights} {len(classes)}; the first "
                f"that differs is {b!r} there, {a!r} here: fuse networks of one data set"
            )


def evaluate_fused(args: argparse.Namespace, networks: list[Network], classes: list[str]) -> int:
    """Score a list with several networks, and write the figures of their average."""
    from paddlevid import build, trainer
    from paddlevid.fusion import fuse_evaluations, match_clips

    parts, bad, first, first_list = [], [], None, ""
    for network in networks:
        config = network.config
        if network.clips:
            samples, name = read_clips(network.clips), str(network.clips)
        else:
            samples = build.read_split(config, args.split)
            name = getattr(config, args.split).filelist
        if first is None:
            first, first_list = samples, name
        elif samples is not first:
            samples = match_clips(first, samples, (first_list, name))
            samples = [
                replace(sample, label=one.label) if sample.label is None else sample
                for sample, one in zip(samples, first, strict=True)
            ]
        reader = config.test if args.split == "train" else getattr(config, args.split)
        with build.build_reader(config, reader, samples) as loader:
            task = build.build_task(config, classes)
            parts.append(trainer.evaluate(network.predictor, loader, task))
            bad += list(loader.bad.values())
    shares = [network.share for network in networks]
    evaluation = fuse_evaluations(parts, shares)
    streams = [
        {"weights": str(network.weights), "modality": network.config.model.modality,
         "share": network.share, **part.summary()}
        for network, part in zip(networks, parts, strict=True)
    ]  # fmt: skip
    summary = {**evaluation.summary(), "networks": streams}
    ending = "_fused" if args.split == "test" else f"_{args.split}_fused"
    write_figures(args.weights.parent, ending, evaluation, summary, classes)
    for network, part in zip(networks, parts, strict=True):
        print(f"{network.weights} ({network.config.model.modality}): {part.in_words()}")
    return say_figures(args.weights.parent, f"{args.split}, fused", ending, summary, bad)


def read_clips(path: Path) -> list:
    """The clips of a list or folder; ConfigError where it has none."""
    from paddlevid.predictor import find_clips

    samples, unusable = find_clips([path])
    if unusable:
        raise ConfigError(f"--fuse-list {unusable[0].problem}")
    return samples


def evaluate(
    args: argparse.Namespace,
    config: Config,
    predictor: "Predictor",  # noqa: F821
    classes: list[str],
) -> int:
    """Score a list and write the figures beside the weights."""
    from paddlevid import build, distributed, trainer

    with build.build_test_loader(config, args.split) as loader:
        evaluation = trainer.evaluate(predictor, loader, build.build_task(config, classes))
        bad = distributed.gather_all(list(loader.bad.values()))
    if distributed.rank() != 0:
        return 0
    summary, ending = evaluation.summary(), "" if args.split == "test" else f"_{args.split}"
    write_figures(args.weights.parent, ending, evaluation, summary, classes)
    return say_figures(args.weights.parent, args.split, ending, summary, bad)


def write_figures(
    folder: Path,
    ending: str,
    evaluation: "Evaluation",  # noqa: F821
    summary: dict,
    classes: list[str],
) -> None:
    """Write the figures into a folder, and print those of each class."""
    from paddlevid import plots

    table = evaluation.class_table(classes)
    write_whole(folder / f"metrics{ending}.json", json.dumps(summary, indent=2) + "\n")
    rows = [list(table[0]), *([str(value) for value in row.values()] for row in table)]
    write_whole(folder / f"per_class{ending}.csv", as_csv(rows))
    counts = evaluation.confusion.tolist()
    rows = [["label", *classes], *([name, *row] for name, row in zip(classes, counts, strict=True))]
    write_whole(folder / f"confusion_matrix{ending}.csv", as_csv(rows))
    figure = plots.confusion_figure(evaluation.confusion, classes)
    plots.save(figure, folder / f"confusion_matrix{ending}.png")

    width = max(len(name) for name in ["class", *classes])
    print(f"{'class':{width}}  clips  accuracy  most often taken for")
    for row in table:
        print(
            f"{row['class']:{width}}  {row['clips']:5}  {row['accuracy']:8.4f}  {row['taken_for']}"
        )


def say_figures(folder: Path, what: str, ending: str, summary: dict, bad: list[str]) -> int:
    """Print the figures, and where they are: -> exit code, 1 when clips were left out."""
    print(
        f"{what}: top-1 {summary['top1']:.4f}  top-5 {summary['top5']:.4f}  mean class "
        f"accuracy {summary['mean_class_accuracy']:.4f}  over {summary['num_clips']} clips, "
        f"{summary['num_bad']} left out"
    )
    for reason in bad:
        print(f"left out: {reason}", file=sys.stderr)
    names = ("metrics", ".json"), ("per_class", ".csv"), ("confusion_matrix", ".csv and .png")
    print(f"written to {folder}: " + ", ".join(name + ending + suffix for name, suffix in names))
    return 1 if bad else 0


def predict(args: argparse.Namespace, networks: list[Network], classes: list[str]) -> int:
    """Print, and write if asked, the most probable classes of each input."""
    from paddlevid import build, distributed
    from paddlevid.fusion import fuse_predictions, match_clips
    from paddlevid.predictor import Prediction, find_clips, predict

    config = networks[0].config
    reader: ReaderConfig = config.infer
    if not args.inputs and not reader.filelist:
        raise ConfigError("nothing to predict: give INPUT, or set INFER.filelist")
    samples, unusable = find_clips(args.inputs or [Path(reader.filelist)])
    lists = [samples]
    for network in networks[1:]:
        clips = network.clips and read_clips(network.clips)
        names = "INPUT", str(network.clips)
        lists.append(match_clips(samples, clips, names, more=True) if clips else samples)
    predictors = [
        add_trunk(args, n.config, n.predictor, clips)
        for n, clips in zip(networks, lists, strict=True)
    ]
    if config.model.format != "features" and any(s.path.suffix == ".npy" for s in samples):
        raise ConfigError(f"{config.model.create_name} takes videos, not .npy features")
    if args.curve and (reader.crops > 1 or reader.num_clips > 1):
        raise ConfigError("--curve is of one view of a clip: set crops and num_clips to 1")
    if args.curve and not hasattr(predictors[0].network, "frame_logits"):
        raise ConfigError(f"--curve: {config.model.create_name} does not read frame by frame")
    k = min(args.top_k, len(classes))
    num_bad = num_good = 0
    with contextlib.ExitStack() as opened:
        loaders = [
            opened.enter_context(build.build_reader(n.config, n.config.infer, clips, False))
            for n, clips in zip(networks, lists, strict=True)
        ]
        loader = loaders[0]
        streams = [
            predict(predictor, own, args.curve is not None)
            for predictor, own in zip(predictors, loaders, strict=True)
        ]
        predicted: Iterable[Prediction] = streams[0]
        if len(streams) > 1:
            predicted = fuse_predictions(streams, [network.share for network in networks])
        if runtime.is_launched():
            own = tqdm(predicted, "predicting", leave=False, disable=None)
            found = distributed.gather_all(list(zip(loader.indices(), own, strict=True)))
            predicted = [result for _, result in sorted(found, key=lambda pair: pair[0])]
            if distributed.rank() != 0:
                return 0
        write = opened.enter_context(open_output(args.output, k)) if args.output else None
        results = chain(unusable, predicted)
        for result in tqdm(
            results, "predicting", len(samples) + len(unusable), leave=False, disable=None
        ):
            if result.problem:
                num_bad += 1
                tqdm.write(f"cannot be read: {readable(result.problem)}", file=sys.stderr)
            else:
                num_good += 1
                tqdm.write(in_words(result, classes, k))
                if args.curve:
                    draw_curve(result, classes, k, args.curve, num_good)
            if write:
                write(as_row(result, classes, k))
    if args.output:
        print(f"{num_good + num_bad} predictions in {args.output}", file=sys.stderr)
    if num_bad:
        print(f"{num_bad} of {num_good + num_bad} inputs could not be read", file=sys.stderr)
    return 1 if num_bad else 0


def predict_frames(
    args: argparse.Namespace,
    config: Config,
    predictor: "Predictor",  # noqa: F821
) -> int:
    """The frames behind the end of videos, or the errors on a list: -> exit code."""
    for flag in ("stream", "curve", "trunk", "output", "num_clips", "crops"):
        if getattr(args, flag):
            name = flag.replace("_", "-")
            raise ConfigError(f"--{name} is for classifiers; {config.model.name} predicts frames")
    if not args.inputs and not args.split:
        raise ConfigError("nothing to predict from: give INPUT, or --split to evaluate a list")
    folder = args.save_dir or args.weights.parent / ("" if args.split else "predictions")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--save_dir {folder} is a file: it needs a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if args.split:
        return evaluate_frames(args, config, predictor, folder)
    from paddlevid import build, distributed, plots
    from paddlevid.data.encode import write_mp4
    from paddlevid.predictor import find_clips

    samples, unusable = find_clips(args.inputs)
    problems = [prediction.problem for prediction in unusable]
    steps = config.model.num_future
    with build.build_past_loader(config, samples) as loader:
        for batch in tqdm(loader.batches(), "predicting", len(loader), leave=False, disable=None):
            index, past = int(batch.indices[0]), batch.clips
            frames = predictor(past, num_future=steps)[0][0]
            path = samples[index].path
            stem = folder / f"{index + 1:03d}_{readable(path.stem)}"
            np.save(f"{stem}.npy", frames.transpose(1, 2, 3, 0))
            plots.save_image(plots.prediction_strip(past[0], None, frames), Path(f"{stem}.png"))
            write_mp4(Path(f"{stem}.mp4"), plots.prediction_film(past[0], None, frames))
            tqdm.write(f"{readable(path)}: {steps} frames in {readable(stem)}.npy, .png and .mp4")
        problems += distributed.gather_all(list(loader.bad.values()))
    if distributed.rank() != 0:
        return 0
    for problem in problems:
        print(f"cannot be read: {readable(problem)}", file=sys.stderr)
    if problems:
        print(f"{len(problems)} of {len(samples) + len(unusable)} inputs could not be read",
              file=sys.stderr)  # fmt: skip
    return 1 if problems else 0


def evaluate_frames(
    args: argparse.Namespace,
    config: Config,
    predictor: "Predictor",  # noqa: F821
    folder: Path,
) -> int:
    """Errors of a list's predicted frames, for each step and beside what is simple to beat."""
    from paddlevid import build, distributed, plots, trainer

    task = build.build_task(config, [])
    task.with_baselines = True
    with build.build_test_loader(config, args.split) as loader:
        evaluation = trainer.evaluate(predictor, loader, task)
        bad = distributed.gather_all(list(loader.bad.values()))
        if distributed.rank() != 0:
            return 0
        first = next(loader.batches())
    ending = "" if args.split == "test" else f"_{args.split}"
    predictors = {"network": evaluation.sums, **evaluation.baselines}
    summaries = {name: sums.summary() for name, sums in predictors.items()}
    summary = {**summaries.pop("network"), "baselines": summaries, **evaluation.counts()}
    write_whole(folder / f"metrics{ending}.json", json.dumps(summary, indent=2) + "\n")
    table = {name: sums.per_step() for name, sums in predictors.items()}
    measures = list(table["network"])
    rows = [
        [name, step + 1, *(f"{steps[measure][step]:.6g}" for measure in measures)]
        for name, steps in table.items()
        for step in range(len(steps["mse"]))
    ]
    write_whole(folder / f"per_step{ending}.csv", as_csv([["predictor", "step", *measures], *rows]))
    plots.save(plots.steps_figure(table), folder / f"per_step{ending}.png")
    strips = task.draw_strips(predictor, first)
    plots.save_image(strips, folder / f"predictions{ending}.png")

    print(f"{'':14}  MSE a frame  MSE a pixel  MAE a frame  PSNR, dB    SSIM")
    for name, sums in predictors.items():
        means = sums.summary()
        print(
            f"{name:14}  {means['mse']:11.2f}  {means['mse_per_pixel']:11.5f}  {means['mae']:11.2f}"
            f"  {means['psnr']:8.2f}  {means['ssim']:6.4f}"
        )
    print(
        f"{args.split}: {evaluation.in_words()}; "
        f"{len(table['network']['mse'])} steps from {config.model.seg_num} frames"
    )
    for reason in bad:
        print(f"left out: {reason}", file=sys.stderr)
    print(f"written to {folder}: metrics{ending}.json, per_step{ending}.csv and .png, "
          f"predictions{ending}.png")  # fmt: skip
    return 1 if bad else 0


def stream(
    args: argparse.Namespace,
    config: Config,
    predictor: "Predictor",  # noqa: F821
    classes: list[str],
) -> int:
    """Predict videos, cameras or addresses while they run: -> exit code, 1 when one broke off."""
    from paddlevid import build
    from paddlevid.data.live import LiveSource
    from paddlevid.models import MoViNetStream

    if runtime.is_launched():
        raise ConfigError("--stream runs in one process: start it without paddle's launcher")
    reader: ReaderConfig = config.infer
    if reader.crops > 1 or reader.num_clips > 1:
        raise ConfigError("--stream looks at one view: set crops and num_clips to 1")
    if args.memory and not isinstance(predictor.network, MoViNetStream):
        raise ConfigError(f"--memory is for a movinet_*_stream, not {config.model.create_name}")
    if config.model.format == "features":
        raise ConfigError(f"--stream: {config.model.create_name} reads features, not frames")
    for address in args.inputs:
        if not (address.isdecimal() or "://" in address or Path(address).is_file()):
            raise ConfigError(f"--stream {address}: there is no such file, and it is no address")
    streams = build.build_streams(config, predictor, len(args.inputs), args.every, args.memory or 0)
    k = min(args.top_k, len(classes))
    stride = args.stride or config.model.interval
    with contextlib.ExitStack() as opened:
        sources = [opened.enter_context(LiveSource(a, stride=stride)) for a in args.inputs]
        for source in sources:
            opened.callback(source.stop)  # these come first
        output = sys.stdout
        if args.output:
            output = opened.enter_context(open(args.output, "w", encoding="utf-8"))
        for row in run_streams(streams, sources, args.every, args.smooth):
            best = np.argsort(-row["smoothed"], kind="stable")[:k]
            row["classes"] = [classes[i] for i in best]
            for name in ("probabilities", "smoothed"):
                row[name] = [round(float(row[name][i]), 4) for i in best]
            print(json.dumps(row, ensure_ascii=False), file=output, flush=True)
    for source in sources:
        told = f"{readable(source.address)}: {source.num_read} frames, {source.num_dropped} dropped"
        print(told + (f"; {source.problem}" if source.problem else ""), file=sys.stderr)
    return 1 if any(source.problem for source in sources) else 0


def run_streams(
    streams: Sequence["stream.Stream"],  # noqa: F821
    sources: Sequence["LiveSource"],  # noqa: F821
    every: int,
    smooth: float,
) -> Iterator[dict]:
    """What is said of the sources, until all have ended: a row for each `every` frames of each."""
    from paddlevid.stream import push_all

    counts, averages = [0] * len(sources), [None] * len(sources)
    newest: list = [None] * len(sources)  # number, seconds and scores of the last frame with scores
    unsaid = [False] * len(sources)

    def row(i: int) -> dict:
        unsaid[i] = False
        number, seconds, scores = newest[i]
        return {
            "input": readable(sources[i].address), "frame": number, "seconds": round(seconds, 3),
            "dropped": sources[i].num_dropped, "classes": [], "probabilities": scores,
            "smoothed": averages[i],
        }  # fmt: skip

    while not all(source.ended for source in sources):
        taken = [(i, m) for i, source in enumerate(sources) if (m := source.take()) is not None]
        if not taken:
            waiting = next((i for i, source in enumerate(sources) if not source.ended), None)
            moment = None if waiting is None else sources[waiting].take(wait=0.05)
            if moment is None:
                continue
            taken = [(waiting, moment)]
        found = push_all([streams[i] for i, _ in taken], [moment[2] for _, moment in taken])
        for (i, (number, seconds, _)), scores in zip(taken, found, strict=True):
            counts[i] += 1
            if scores is not None:
                newest[i], unsaid[i] = (number, seconds, scores), True
                old = scores if averages[i] is None else averages[i]
                averages[i] = smooth * old + (1 - smooth) * scores
            if counts[i] % every == 0 and unsaid[i]:
                yield row(i)
    for i, source in enumerate(sources):
        if unsaid[i]:  # the last frames of a source
            yield row(i)
        elif newest[i] is None and not source.problem:
            source.problem = f"only {counts[i]} frames were looked at, too few to say anything"


def add_trunk(
    args: argparse.Namespace,
    config: Config,
    predictor: "Predictor",  # noqa: F821
    samples: list,
) -> "Predictor":  # noqa: F821
    """With a trunk before it, a network for features that is to see videos; else as it is."""
    is_npy = [sample.path.suffix == ".npy" for sample in samples]
    if config.model.format != "features" or all(is_npy):
        return predictor
    if any(is_npy):
        raise ConfigError("give either videos or .npy features, not both")
    from paddlevid.features import WithTrunk, load_trunk
    from paddlevid.layers.trunks import TRUNKS

    name = args.trunk or config.model.trunk
    if name not in TRUNKS and not Path(name).is_file():
        raise ConfigError(
            f"the network reads features of {name or 'a trunk'}: give its file as --trunk FILE, or "
            f"one of {', '.join(TRUNKS)}"
        )
    known = config.model.trunk  # of TRUNKS, --trunk may be a file of its weights
    if args.trunk and known in TRUNKS and args.trunk not in TRUNKS:
        trunk = load_trunk(known, Path(args.trunk))
    else:
        trunk = load_trunk(name)
    if config.model.trunk_weights not in ("", trunk.weights):
        raise ConfigError(
            f"--trunk {name}: its weights are not those of the features that the network was "
            f"trained on, of {config.model.trunk} (SHA-256 {config.model.trunk_weights[:16]}...): "
            "give --trunk FILE"
        )
    network = WithTrunk(trunk.network, config.model.grid, predictor.network)
    return predictor.of(network, f"{trunk.name} {trunk.weights}")


def draw_curve(
    result: "predictor.Prediction",  # noqa: F821
    classes: Sequence[str],
    k: int,
    folder: Path,
    number: int,
) -> None:
    """Write what is said of a clip up to each frame as FOLDER/<number>_<name>.png."""
    from paddlevid import plots

    folder.mkdir(parents=True, exist_ok=True)
    figure = plots.curve_figure(result.frame_probabilities, classes, k)
    plots.save(figure, folder / f"{number:03d}_{readable(result.path.stem)}.png")


def readable(text: object) -> str:
    """A path or a message without what UTF-8 cannot hold, as in names from another encoding."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def name_of(label: int, classes: Sequence[str]) -> str:
    """A label's class name; a number where the label fits no class, nothing where it is unknown."""
    return classes[label] if 0 <= label < len(classes) else "" if label < 0 else str(label)


def in_words(result: "predictor.Prediction", classes: Sequence[str], k: int) -> str:  # noqa: F821
    """A prediction for the eye: the path, and a line for each class."""
    lines = [
        readable(result.path)
        + (f"  (label: {name})" if (name := name_of(result.label, classes)) else "")
    ]
    lines += [f"    {result.probabilities[i]:.4f}  {classes[i]}" for i in result.top_k(k)]
    return "\n".join(lines)


def as_row(result: "predictor.Prediction", classes: Sequence[str], k: int) -> dict:  # noqa: F821
    """A prediction for a file."""
    row: dict[str, object] = {
        "path": readable(result.path),
        "label": name_of(result.label, classes),
    }
    best = [] if result.problem else result.top_k(k)
    row["classes"] = [classes[i] for i in best]
    row["probabilities"] = [round(float(result.probabilities[i]), 6) for i in best]
    row["problem"] = readable(result.problem)
    return row


@contextlib.contextmanager
def open_output(file: Path, k: int) -> Iterator[Callable[[dict], None]]:
    """A function that appends a prediction to the file at once: JSON lines or, for .csv, CSV."""
    with open(file, "w", newline="", encoding="utf-8") as stream:
        if file.suffix.lower() != ".csv":
            yield lambda row: print(json.dumps(row, ensure_ascii=False), file=stream, flush=True)
            return
        pairs = [f"{kind}_{i + 1}" for i in range(k) for kind in ("class", "probability")]
        writer = csv.writer(stream)
        writer.writerow(["path", "label", *pairs, "problem"])

        def write(row: dict) -> None:
            best = list(chain(*zip(row["classes"], row["probabilities"], strict=True)))
            best += [""] * (2 * k - len(best))
            writer.writerow([row["path"], row["label"], *best, row["problem"]])
            stream.flush()

        yield write


def as_csv(rows: Sequence[Sequence[object]]) -> str:
    """CSV of rows, the header first."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def main(argv: list[str] | None = None) -> int:
    """Infer; -> exit code."""
    args = parse_args(argv)
    try:
        return infer(args)
    except (ValueError, OSError) as error:
        print(f"infer.py: {describe(error, args.output or args.weights.parent)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("infer.py: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""Convert weights of other projects: python -m paddlevid.convert MODEL SOURCE TARGET"""

import argparse
import json
import sys
from pathlib import Path

from paddlevid import runtime
from paddlevid.data.split import read_lines
from paddlevid.flags import Parser, at_least, dictionary, infer_command
from paddlevid.flags import describe as describe_error


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m paddlevid.convert",
        description="Convert weights of PyTorch, PaddleVideo and others to weights of paddlevid. "
        "What became of each tensor is printed. Nothing in SOURCE is executed.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="of create_model; or a trunk: vgg16, inception_v3, resnet18, ...",
    )
    parser.add_argument(
        "source", metavar="SOURCE", type=Path,
        help=".pth .pt .pyth (torch.save), .safetensors, .pdparams or .npz",
    )  # fmt: skip
    parser.add_argument(
        "target", metavar="TARGET", type=Path,
        help=".safetensors, which infer.py takes without a config, or .pdparams",
    )  # fmt: skip
    parser.add_argument(
        "--num-classes", type=at_least(1), metavar="K",
        help="another number than the file's: its classifier is left out (default: the file's)",
    )  # fmt: skip
    parser.add_argument(
        "--arguments", type=dictionary, default={}, metavar="JSON",
        help='more arguments of create_model, e.g. {"attention": "joint"}',
    )  # fmt: skip
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, a line each, for TARGET"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace TARGET")
    args = parser.parse_args(argv)
    if args.target.suffix not in (".safetensors", ".pdparams"):
        parser.error(f"TARGET {args.target}: needs a name that ends in .safetensors or .pdparams")
    if not args.target.parent.is_dir():
        parser.error(f"TARGET {args.target}: there is no folder {args.target.parent}")
    if args.target.exists() and not args.overwrite:
        parser.error(f"TARGET {args.target} exists: --overwrite replaces it")
    if args.target.resolve() == args.source.resolve():
        parser.error("SOURCE and TARGET are the same file")
    if args.classes and args.target.suffix == ".pdparams":
        parser.error("--classes: a .pdparams takes no names along: name TARGET .safetensors")
    return args


# How the clips of published networks are chosen and cut: [MODEL], [INFER], and what [TEST] adds.
_PUBLISHED = {
    "tsn": ({"seg_num": 8}, {"short_size": 256, "target_size": 224}, {"seg_num": 25, "crops": 10}),
    "eco": ({"seg_num": 16}, {"short_size": 256, "target_size": 224}, {}),
    "timesformer": ({"sampling": "linspace"}, {"crops": 3}, {}),
    "lrcn": (
        {"sampling": "uniform", "seg_num": 10, "fixed_size": [224, 224]},
        {"target_size": 224},
        {},
    ),
    "movinet": ({"sampling": "dense"}, {}, {}),
    "cnn": (
        {"format": "features", "trunk": "inception_v3", "sampling": "uniform", "seg_num": 40,
         "fixed_size": [299, 299]},
        {},
        {},
    ),
}  # fmt: skip
_INTERVALS = {"timesformer_base": 32, "timesformer_hr": 16, "timesformer_large": 4}


def published_config(name: str, arguments: dict, model: "nn.Layer", project: "Project") -> dict:  # noqa: F821
    """A config for predictions with a converted network."""
    if name == "convlstm":
        return _config_of_frames(arguments, model)
    of_model, reader, test = _PUBLISHED[name.partition("_")[0]]
    if name in _INTERVALS:
        side = model.grid * model.patch_size
        seg_num = model.num_frames
        of_model = {**of_model, "seg_num": seg_num, "interval": _INTERVALS[name]}
        reader = {**reader, "short_size": side, "target_size": side}
    if name.startswith("movinet"):
        table = model.table
        of_model = {**of_model, "seg_num": table.frames, "interval": 5 if table.frames == 50 else 2}
        side = {"short_size": round(table.pixels * 192 / 172), "target_size": table.pixels}
        reader = {**reader, **side}
    num_classes = getattr(model, model.classifier).bias.shape[0]
    mean, std = project.normalization or ((0.0,) * 3, (1.0,) * 3)
    channels = arguments.get("in_channels", 3)
    if channels != 3:  # stacked optical flow, as mmaction2 normalises it
        arguments = {key: value for key, value in arguments.items() if key != "in_channels"}
        of_model = {**of_model, "modality": "flow", "seglen": channels // 2}
        mean = std = (128 / 255,) * 2
    return {
        "MODEL": {
            "name": name, "arguments": arguments, "num_classes": num_classes, "format": "video",
            **of_model, "image_mean": list(mean), "image_std": list(std),
        },
        "TEST": {**reader, **test},
        "INFER": reader,
    }  # fmt: skip


def _config_of_frames(arguments: dict, model: "nn.Layer") -> dict:  # noqa: F821
    """Of a network for frames: 10 of 64 x 64 in, as published."""
    own = {key: value for key, value in arguments.items() if key not in ("channels", "num_future")}
    return {
        "MODEL": {
            "name": "convlstm", "task": "predict", "arguments": own, "format": "video",
            "seg_num": 10, "num_future": model.num_future, "grey": model.channels == 1,
            "fixed_size": [64, 64],
        },
    }  # fmt: skip


def convert_file(args: argparse.Namespace) -> None:
    """Read, convert, tell what became of each tensor, write."""
    runtime.configure()
    # Paddle is imported here, so that --help answers at once.
    from paddlevid.convert.conversion import convert, count_classes
    from paddlevid.convert.names import OURS
    from paddlevid.layers.trunks import TRUNKS, create_trunk
    from paddlevid.models import create_model
    from paddlevid.weights import describe, load_weights, read_weights, write_weights

    classes = read_lines(args.classes) if args.classes else []
    file = read_weights(args.source)
    if args.model in TRUNKS:
        model = create_trunk(args.model)
    else:
        model = create_model(args.model, num_classes=args.num_classes or 1, **args.arguments)
    if args.classes and not hasattr(model, "classifier"):
        raise ValueError(f"--classes {args.classes}: {args.model} has no classes: leave it out")
    if hasattr(model, "classifier"):
        num_classes = args.num_classes or count_classes(model, file)
        if not num_classes:
            raise ValueError(f"{args.source} has no classifier: needs --num-classes K")
        if args.classes and len(classes) != num_classes:
            raise ValueError(f"{args.classes} names {len(classes)} classes, not {num_classes}")
        if not args.num_classes:
            model = create_model(args.model, num_classes=num_classes, **args.arguments)
    conversion = convert(model, file)
    print_table(conversion.rows)
    if file.beside:
        print(f"beside the weights, and left there: {', '.join(file.beside)}")
    for line in conversion.summary():
        print(line)
    load_weights(model, conversion.weights, args.source)
    metadata = {}
    if conversion.project is OURS:
        metadata = carried(args, file, conversion.weights)
        if classes:
            metadata["classes"] = json.dumps(classes)
    elif args.model not in TRUNKS:
        config = published_config(args.model, args.arguments, model, conversion.project)
        metadata = describe(config, classes)
    write_weights(args.target, model, metadata)
    print(f"written: {args.target}")
    if args.target.suffix == ".safetensors" and args.model not in TRUNKS:
        predict = f"{infer_command()} --weights {args.target}"
        if "config" in metadata:
            print(f"predict: {predict} VIDEO")
        else:
            print(f"it carries no config, so infer.py needs one: {predict} --config FILE VIDEO")


def carried(
    args: argparse.Namespace,
    file: "WeightsFile",  # noqa: F821
    weights: "Weights",  # noqa: F821
) -> dict[str, str]:
    """Config and classes of a file of ours: those that it carries, or that lie beside it.

    Raises ConfigError or ListError where those beside it are damaged.
    """
    from paddlevid.build import build_model, read_classes
    from paddlevid.config import load_config
    from paddlevid.weights import WeightsError, check_fit, describe

    kept = () if args.num_classes else ("config", "classes")
    metadata = {key: file.metadata[key] for key in kept if key in file.metadata}
    beside = args.source.parent / "config.yaml"
    if args.target.suffix == ".pdparams" or "config" in metadata or not beside.exists():
        return metadata
    config = load_config(beside)
    try:
        name, known = config.model.create_name, config.model.arguments
        if name != args.model or any(known.get(k, v) != v for k, v in args.arguments.items()):
            raise WeightsError(f"it is of {name} with {known}")
        check_fit(build_model(config, fresh=True)[0], weights, args.source)
    except WeightsError as error:
        print(f"left aside: {beside}: {error}")
        return metadata
    print(f"config and classes: of {beside.parent}")
    return describe(config.to_dict(), [] if args.classes else read_classes(config, args.source))


def print_table(rows: "Sequence[Row]") -> None:  # noqa: F821
    """A line for each tensor."""
    width = max(len(row.target) for row in rows)
    print(f"{'in the network':{width}}  {'':11}  {'shape':16}  in the file")
    for row in rows:
        shape = "x".join(map(str, row.array.shape))
        print(f"{row.target or '-':{width}}  {row.fate:11}  {shape:16}  {row.source or '-'}")


def main(argv: list[str] | None = None) -> int:
    """Convert; -> exit code."""
    args = parse_args(argv)
    try:
        convert_file(args)
    except (ValueError, OSError) as error:
        print(f"paddlevid.convert: {describe_error(error, args.target.parent)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("paddlevid.convert: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

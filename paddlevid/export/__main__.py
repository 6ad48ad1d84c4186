"""Export a network: python -m paddlevid.export --weights F --out DIR"""

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from paddlevid import __version__, runtime
from paddlevid.config import Config, ConfigError, load_config
from paddlevid.export.description import describe_input, example, num_frames
from paddlevid.files import whole_folder
from paddlevid.flags import Parser, add_config, at_least, config_of, describe

TOLERANCE = 1e-4  # of the largest number that the network says
METADATA = "metadata.json"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m paddlevid.export",
        description="Export a network to a folder that needs no paddlevid: a program for "
        "paddle.inference that takes any number of clips, metadata.json and example.py. What the "
        "program says is compared with the network first; where it differs, nothing is written.",
    )
    parser.add_argument("--weights", required=True, type=Path, metavar="F", help="as of infer.py")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the new folder")
    add_config(parser)
    parser.add_argument(
        "--video", nargs="+", type=Path, default=[], metavar="FILE",
        help="compare on these clips too (.npy features where the network takes them)",
    )  # fmt: skip
    parser.add_argument(
        "--stream", action="store_true",
        help="export the step for live video instead: movinet_*_stream, eco_*",
    )  # fmt: skip
    parser.add_argument(
        "--trunk", metavar="NAME|FILE",
        help="cnn_lstm: export it together with this trunk, for videos (default: for features)",
    )  # fmt: skip
    parser.add_argument(
        "--frames", type=at_least(1), metavar="N",
        help="with MODEL.sampling every, fps or scenes: the most frames of a clip",
    )  # fmt: skip
    parser.add_argument(
        "--onnx", action="store_true", help="also as .onnx, compared likewise in onnxruntime"
    )
    parser.add_argument(
        "--int8", action="store_true", help="also as .onnx in int8, and what that costs and saves"
    )
    parser.add_argument(
        "--calibrate", type=Path, metavar="FOLDER|LIST", help="--int8: clips that show the ranges"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an export in DIR")
    args = parser.parse_args(argv)
    if args.int8 != (args.calibrate is not None):
        parser.error("--int8 and --calibrate FOLDER|LIST go together")
    if args.int8 and args.stream:
        parser.error("--int8 is for whole clips: leave out --stream")
    if args.int8 and not args.calibrate.exists():
        parser.error(f"--calibrate {args.calibrate} does not exist: it needs a folder or a list")
    args.onnx |= args.int8
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out {args.out} is a file: it needs a folder")
    if args.out.is_dir() and any(args.out.iterdir()):
        if not args.overwrite:
            parser.error(f"--out {args.out} is not empty: --overwrite replaces an export in it")
        if not (args.out / METADATA).is_file():
            parser.error(
                f"--out {args.out} holds no export (there is no {METADATA}), so it is not replaced:"
                " name another folder"
            )
    args.config = args.config or config_of(parser, args.weights)
    return args


def export(args: argparse.Namespace) -> None:
    """Load, export, compare, write."""
    config = load_config(args.config, args.overrides)
    frames = num_frames(config, args.frames)
    if args.onnx:
        check_onnx()
    runtime.configure()
    # Paddle is imported here, so that --help and a wrong config answer at once.
    import paddle

    from paddlevid import build, features

    if args.onnx and paddle.__version__.startswith("2."):
        raise ConfigError(f"--onnx: paddle2onnx needs Paddle 3, this is {paddle.__version__}")
    paddle.set_device("cpu")
    identity = build.identify(config, args.weights)
    classes = build.read_classes(config, args.weights)
    with paddle.LazyGuard():
        model, _ = build.build_model(config, fresh=True)
    build.load_all_weights(model, args.weights)
    model.eval()
    trunk = None
    if args.trunk:
        trunk = trunk_before(args.trunk, config)
        model = features.WithTrunk(trunk.network, config.model.grid, model)
        model.eval()
    plan = make_plan(args, config, model, frames)
    if args.int8 and plan.kind == "frames":
        raise ConfigError("--int8 compares classes; a network that predicts frames has none")
    clips = [random_clips(plan, number) for number in (1, 3)]
    num_random = len(clips)
    clips += real_clips(config, args.video, plan)

    with whole_folder(args.out) as folder:
        programs, runs = write_programs(plan, folder)
        check = {
            "random_clips": [len(batch) for batch in clips[:num_random]],
            "videos": [path.name for path in args.video],
            "tolerance": TOLERANCE,
            "paddle.inference": compare(plan, runs, clips, "the program"),
        }
        described = describe_input(config, plan.kind, frames)
        if trunk:
            described["trunk"] = {"name": trunk.name, "sha256": trunk.weights}
        metadata = {
            "network": config.model.create_name,
            "arguments": config.model.arguments,
            "kind": plan.kind,
            "classes": classes,
            **described,
            "programs": programs,
            "weights": {"file": args.weights.name, "sha256": identity.split()[0]},
            "versions": {"paddlevid": __version__, "paddlepaddle": paddle.__version__},
            "check": check,
        }
        if args.onnx:
            metadata |= add_onnx(args, config, plan, folder, clips, metadata)
        if text := example(described, plan.kind):
            (folder / "example.py").write_text(text, encoding="utf-8")
        else:
            metadata["example"] = (
                "none: the frames of MODEL.sampling = 'scenes' are found by PySceneDetect, see "
                "paddlevid/data/scenes.py"
            )
        content = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
        (folder / METADATA).write_text(content, encoding="utf-8")
    names = ", ".join(sorted(file.name for file in args.out.iterdir()))
    print(f"written to {args.out}: {names}")
    off = check["paddle.inference"]
    print(f"the program equals the network within {off:.1e} of its largest output")


def check_onnx() -> None:
    """Raise ConfigError where a package for --onnx is missing."""
    names = ("paddle2onnx", "onnx", "onnxruntime")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--onnx needs {' and '.join(missing)}: pip install 'paddlevid[onnx]', or pip install "
            f"{' '.join(missing)}"
        )


def trunk_before(name: str, config: Config) -> "Trunk":  # noqa: F821
    """The trunk that is exported together with a network for features."""
    from paddlevid.features import trunk_of

    if config.model.format != "features":
        raise ConfigError(
            f"--trunk: {config.model.create_name} reads frames itself; it is for networks of "
            "features"
        )
    return trunk_of(config.model, name)


def make_plan(args: argparse.Namespace, config: Config, model: "nn.Layer", frames: int) -> "Plan":  # noqa: F821
    """What is exported of the network, as the flags say it."""
    from paddlevid import build
    from paddlevid.export.parts import plan_memory, plan_state, plan_whole
    from paddlevid.models import ECO, MoViNetStream

    name, reader = config.model.create_name, config.infer
    if args.stream and not isinstance(model, ECO | MoViNetStream):
        raise ConfigError(
            f"--stream: {name} has no step for single frames; movinet_*_stream and eco_* do. "
            "Export it without --stream and give it the newest frames"
        )
    if args.stream and (reader.crops > 1 or reader.num_clips > 1):
        raise ConfigError("--stream looks at one view: -o INFER.crops=1 -o INFER.num_clips=1")
    if config.model.format == "features" and not args.trunk:
        return plan_whole(model, "features", (frames, build.num_features(config)))
    is_past = config.model.task == "predict"
    transform = (
        build.build_frames_transform(config, reader)
        if is_past
        else build.build_test_transform(config, reader)
    )
    is_flow, length = config.model.is_flow, config.model.seglen
    seen = (length, 480, 640, 2) if is_flow else (1, 480, 640, 3)
    view = transform(np.zeros(seen, np.uint8), np.random.default_rng(0))
    clip = (view.shape[1], frames // length if is_flow else frames, *view.shape[3:])
    if args.stream:
        return (plan_memory if isinstance(model, ECO) else plan_state)(model, clip)
    return plan_whole(model, "frames" if is_past else "flow" if is_flow else "clip", clip)


def write_programs(plan: "Plan", folder: Path) -> tuple[dict[str, dict], dict[str, "Run"]]:  # noqa: F821
    """What the metadata says of the programs, and the programs."""
    from paddlevid.program import Program, program_file, save_program

    told, runs = {}, {}
    for name, part in plan.parts.items():
        save_program(part.layer, list(part.inputs.values()), folder, name, list(part.inputs))
        runs[name] = Program(folder, name=name)
        inputs = [
            {"name": key, "shape": [-1, *shape[1:]], "layout": layout(key, shape)}
            for key, shape in part.inputs.items()
        ]
        files = [program_file(folder, name).name, f"{name}.pdiparams"]
        told[name] = {"files": files, "inputs": inputs, "outputs": part.outputs}
    for rest in folder.glob("*.info"):  # of Paddle 2, for training
        rest.unlink()
    return told, runs


def random_clips(plan: "Plan", number: int) -> NDArray[np.float32]:  # noqa: F821
    """So many clips that resemble nothing; the last frame of the second one is padding."""
    rng = np.random.default_rng(number)
    shape = list(plan.clip)
    if plan.kind == "state":
        shape[1] = min(shape[1], 6)  # frames: each is a step
    clips = rng.standard_normal((number, *shape), np.float32)
    if plan.kind == "frames":
        return rng.random((number, *shape), np.float32)
    if plan.kind in ("clip", "features") and number > 1:
        time = 1 if plan.kind == "features" else 2
        np.moveaxis(clips, time, 1)[1, -1] = 0
    return clips


def real_clips(config: Config, paths: list[Path], plan: "Plan") -> list[NDArray[np.float32]]:  # noqa: F821
    """What the network gets of these files, a batch each; ConfigError where one cannot be read."""
    batches = read(config, paths, "--video") if paths else ()
    return [fit(batch, plan).clips for batch in batches]


def read(config: Config, paths: list[Path], flag: str, bad: list[str] | None = None) -> Iterator:
    """The clips that the paths stand for, in batches.

    `bad`: gets what is wrong with clips that cannot be read; without it that is a ConfigError.
    """
    from paddlevid import build
    from paddlevid.predictor import find_clips

    samples, unusable = find_clips(paths)
    problems = [prediction.problem for prediction in unusable]
    is_past = config.model.task == "predict"
    with (
        build.build_past_loader(config, samples)
        if is_past
        else build.build_reader(config, config.infer, samples, labelled=False)
    ) as loader:
        yield from loader.batches()
        problems += loader.bad.values()
    if problems and bad is None:
        raise ConfigError(f"{flag}: {problems[0]}")
    if bad is not None:
        bad[:] = problems


def fit(batch: "Batch", plan: "Plan") -> "Batch":  # noqa: F821
    """The batch with clips of the length that the program takes: padded, as they are shorter."""
    time = 1 if plan.kind == "features" else 2
    missing = plan.clip[time - 1] - batch.clips.shape[time]
    if missing < 0:
        raise ConfigError(
            f"a clip has {batch.clips.shape[time]} frames, the program takes {plan.clip[time - 1]}:"
            " give more as --frames N"
        )
    widths = [(0, missing if axis == time else 0) for axis in range(batch.clips.ndim)]
    return dataclasses.replace(batch, clips=np.pad(batch.clips, widths))


def compare(plan: "Plan", runs: dict, clips: list[NDArray[np.float32]], what: str) -> float:  # noqa: F821
    """How far it is off on all clips; ValueError where that is too far."""
    off = max(plan.difference(runs, batch) for batch in clips)
    if not off <= TOLERANCE:
        raise ValueError(
            f"{what} says another thing than the network: off by {off:.2g} of its largest output, "
            f"needs {TOLERANCE:g}. Nothing was written; please report it with the network's config"
        )
    return off


def add_onnx(
    args: argparse.Namespace,
    config: Config,
    plan: "Plan",  # noqa: F821
    folder: Path,
    clips: list[NDArray[np.float32]],
    metadata: dict,
) -> dict:
    """Write the ONNX files, and what the metadata says of them."""
    from importlib.metadata import version

    from paddlevid.export import onnx_file

    written = {name: onnx_file.write_onnx(folder, name, p) for name, p in plan.parts.items()}
    runs = {name: onnx_file.open_onnx(written[name], p) for name, p in plan.parts.items()}
    off = compare(plan, runs, clips, "onnxruntime")
    metadata["check"]["onnxruntime"] = off
    for package in ("paddle2onnx", "onnx", "onnxruntime"):
        metadata["versions"][package] = version(package)
    print(f"onnxruntime equals the network within {off:.1e} of its largest output")
    told = {"onnx": {"files": [file.name for file in written.values()], "opset": onnx_file.OPSET}}
    if not args.int8:
        return told
    [(name, part)] = plan.parts.items()
    bad: list[str] = []

    def batches(what: str) -> Iterator:
        read_ones = read(config, [args.calibrate], "--calibrate", bad)
        found = onnx_file.each_once(fit(batch, plan) for batch in read_ones)
        return tqdm(found, what, unit=" clips", leave=False, disable=None)

    int8 = onnx_file.write_int8(written[name], part, batches("calibrating"))
    for problem in bad:
        print(f"left out: {problem}", file=sys.stderr)
    quantized = onnx_file.compare(written[name], int8, part, batches("comparing"))
    print(quantized.in_words())
    measured = dataclasses.asdict(quantized) | {"processor": runtime.processor()}
    return told | {"int8": {"file": int8.name, "route": "onnxruntime, QDQ, static", **measured}}


def layout(name: str, shape: list[int | None]) -> str:
    """What the axes of an input are."""
    known = {"features": "N T D", "maps": "N T C H W", "vectors": "N T D", "frames": "N C H W"}
    return known.get(name, "N C T H W"[: 2 * len(shape) - 1])


def main(argv: list[str] | None = None) -> int:
    """Export; -> exit code."""
    args = parse_args(argv)
    try:
        export(args)
    except (ValueError, OSError) as error:
        print(f"paddlevid.export: {describe(error, args.out.parent)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("paddlevid.export: stopped; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

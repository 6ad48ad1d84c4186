"""Features: lists of clips go in; an .npy of features a clip, lists and a manifest come out."""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import joblib
from tqdm import tqdm

from paddlevid import runtime
from paddlevid.cluster import ADDRESS_HELP, open_workers
from paddlevid.data.dataset import ListError, Sample, read_list
from paddlevid.data.decode import is_pickled, read_pickled_clip
from paddlevid.data.features import MANIFEST, Manifest, read_manifest
from paddlevid.data.sample import FRAME_KINDS, FrameSampler
from paddlevid.data.scenes import check_scenedetect
from paddlevid.files import check_inside, check_source, is_newer, read_text, seen_from, write_whole
from paddlevid.flags import Parser, at_least, describe

CLIPS_OF_A_JOB = 64  # on a cluster; each loads the trunk anew


def frame_sampler(text: str) -> FrameSampler:
    """The type of --frames."""
    kind, _, number = text.partition(":")
    try:
        wanted = float(number)
    except ValueError:
        wanted = 0.0
    whole = kind != "fps"
    if kind not in FRAME_KINDS or wanted <= 0 or (whole and wanted != int(wanted)):
        kinds = ", ".join(f"{kind}:N" for kind in FRAME_KINDS)
        raise argparse.ArgumentTypeError(f"needs one of {kinds}, not {text!r}")
    return FrameSampler(kind, wanted)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        description="Compute features of frames with a CNN that is not trained along, an .npy of "
        "(T, D) for each clip of the lists. TARGET gets the lists anew, with .npy paths, "
        "classes.txt and features.json, which says how the features were made. Clips that are "
        "there already are kept, unless their video is newer, so an interrupted run can be started "
        "again."
    )
    parser.add_argument(
        "source", metavar="LIST", type=Path,
        help="a list of `path label` lines, or a folder with train.list, val.list, test.list",
    )  # fmt: skip
    parser.add_argument("target", metavar="TARGET", type=Path, help="a folder, made if need be")
    parser.add_argument(
        "--model", default="inception_v3", metavar="NAME|FILE",
        help="inception_v3 (default), vgg16, resnet18 to resnet152 with the ImageNet weights that "
        "Paddle publishes, or a .safetensors of train.py, whose trunk it takes",
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=Path, metavar="FILE",
        help="for a named model: these instead of Paddle's, any file that paddlevid.convert reads",
    )  # fmt: skip
    parser.add_argument(
        "--frames", type=frame_sampler, default=FrameSampler("uniform", 40), metavar="KIND:N",
        help="uniform:40 (default): evenly, the first and the last included; chapter:40: the "
        "book's rule; end:N: back from the end; every:N-th; fps:N a second; scenes:N of each scene",
    )  # fmt: skip
    parser.add_argument(
        "--grid", type=at_least(1), default=1, metavar="G",
        help="average the maps to G x G instead of one place: G * G times the numbers (1)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=at_least(32), nargs=2, metavar=("H", "W"), help="pixels (the model's own)"
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--batch-size", type=at_least(1), default=16, metavar="N", help="frames")
    parser.add_argument("--device", default="cpu", metavar="cpu|gpu", help="where to compute (cpu)")
    parser.add_argument(
        "--engine", choices=("auto", "eager", "program"), default="auto",
        help="program: through paddle.inference; auto (default): so on a CPU",
    )  # fmt: skip
    parser.add_argument("--cluster", metavar="HOST:PORT", help=ADDRESS_HELP)
    return parser.parse_args(argv)


def find_lists(source: Path) -> list[Path]:
    """The lists that are meant; ListError where there is none."""
    if not source.is_dir():
        return [source]
    lists = [source / f"{side}.list" for side in ("train", "val", "test")]
    found = [path for path in lists if path.exists()]
    if not found:
        raise ListError(f"{source}: there is no train.list, val.list or test.list in this folder")
    return found


def npy_of(sample: Sample, list_file: Path) -> str:
    """Where a clip's features go, relative to TARGET."""
    path, root = os.path.abspath(sample.path), os.path.abspath(list_file.parent)
    inside = os.path.relpath(path, root) if path.startswith(root + os.sep) else path.lstrip(os.sep)
    return f"{Path(inside).as_posix()}.npy"


def run(args: argparse.Namespace) -> int:
    """Extract; -> exit code, 1 when a clip could not be read."""
    if args.frames.kind == "scenes":
        check_scenedetect()
    lists = {path: read_list(path) for path in find_lists(args.source)}
    if any(path.parent.resolve() == args.target.resolve() for path in lists):
        raise ValueError(
            f"TARGET {args.target} holds LIST, which would be overwritten: choose another"
        )
    runtime.configure()
    # Paddle is imported here, so that --help and a wrong list answer at once.
    from paddlevid import distributed
    from paddlevid.features import Clip

    distributed.join()

    extractor = make_extractor(args)
    trunk = extractor.trunk
    manifest = Manifest(
        trunk.name, trunk.weights, str(args.frames), trunk.size, tuple(trunk.mean),
        tuple(trunk.std), args.grid, extractor.num_features, args.dtype,
    )  # fmt: skip
    distributed.on_first(lambda: claim(next(iter(lists)).parent, args.target, manifest))
    clips: dict[str, Clip] = {}
    for list_file, samples in lists.items():
        for sample in samples:
            name = npy_of(sample, list_file)
            clips.setdefault(name, Clip(sample, args.target / name))
    check_inside(args.target, {clip.target.parent for clip in clips.values()})
    missing = [
        clip
        for clip in clips.values()
        if not clip.target.exists() or is_newer(clip.sample.path, clip.target)
    ]
    missing = distributed.gather(missing)[0]  # before anyone writes
    total, missing = len(missing), missing[distributed.rank() :: distributed.num_ranks()]
    bad = []
    with contextlib.ExitStack() as opened:
        if args.cluster:
            parallel = opened.enter_context(open_workers(-1, args.cluster))
            problems = itertools.chain.from_iterable(parallel(cluster_jobs(missing, args)))
        else:
            problems = problems_of(missing, extractor, args)
        for problem in tqdm(problems, total=len(missing), unit="clip", disable=None):
            if problem:
                bad.append(problem)
                tqdm.write(f"left out: {problem}", file=sys.stderr)
    bad = distributed.gather_all(bad)
    if distributed.rank() != 0:
        return 0
    for list_file, samples in lists.items():
        lines = []
        for sample in samples:
            name = npy_of(sample, list_file)
            if not (args.target / name).exists():
                continue
            label = sample.label
            if label is None and is_pickled(sample.path) and sample.path.exists():
                label = read_pickled_clip(sample.path).label
            lines.append(f"{name}\n" if label is None else f"{name} {label}\n")
        write_whole(args.target / list_file.name, "".join(lines))
    classes = next(iter(lists)).parent / "classes.txt"
    if classes.exists():
        shutil.copyfile(classes, args.target / "classes.txt")
    print(
        f"{args.target}: features (T, {manifest.features}) of {len(clips) - len(bad)} clips, "
        f"{total - len(bad)} of them new, {len(bad)} left out"
    )
    return 1 if bad else 0


def make_extractor(args: argparse.Namespace) -> "Extractor":  # noqa: F821
    """The trunk, as the command line says; `runtime.configure` comes before."""
    from paddlevid.features import Extractor, load_trunk

    trunk = load_trunk(args.model, args.weights)
    if args.size:
        trunk = replace(trunk, size=tuple(args.size))
    return Extractor(trunk, args.grid, args.device, args.engine)


def cluster_jobs(clips: Sequence["Clip"], args: argparse.Namespace) -> list:  # noqa: F821
    """Jobs for joblib, of a few clips each: absolute paths, as they run in other folders."""
    args = argparse.Namespace(**vars(args))
    args.weights = args.weights and args.weights.absolute()
    if Path(args.model).exists():
        args.model = str(Path(args.model).absolute())
    pairs = [
        (replace(clip.sample, path=clip.sample.path.absolute()), clip.target.absolute())
        for clip in clips
    ]
    starts = range(0, len(pairs), CLIPS_OF_A_JOB)
    return [joblib.delayed(extract_part)(pairs[i : i + CLIPS_OF_A_JOB], args) for i in starts]


def extract_part(pairs: Sequence[tuple[Sample, Path]], args: argparse.Namespace) -> list[str]:
    """Extract clips in a process of a cluster, which may not have paddle yet: -> what is wrong."""
    runtime.configure()
    from paddlevid.features import Clip

    return list(problems_of([Clip(*pair) for pair in pairs], make_extractor(args), args))


def problems_of(
    clips: Sequence["Clip"],  # noqa: F821
    extractor: "Extractor",  # noqa: F821
    args: argparse.Namespace,
) -> Iterator[str]:
    """Extract clips: what is wrong with each, or ""."""
    from paddlevid.features import extract

    options = {"batch_size": args.batch_size, "dtype": args.dtype}
    return (problem for _, problem in extract(clips, extractor, args.frames, **options))


def claim(source: Path, target: Path, manifest: Manifest) -> None:
    """Write the manifest and the folder of the lists.

    Raises ValueError where TARGET holds features of other lists, or made otherwise.
    """
    if (target / MANIFEST).exists():
        found = read_manifest(target)
        unlike = [
            f"{key} {value!r}, not {wanted!r}"
            for (key, value), wanted in zip(
                found.to_dict().items(), manifest.to_dict().values(), strict=True
            )
            if value != wanted
        ]
        if unlike:
            raise ValueError(f"{target} holds other features: {'; '.join(unlike)}: choose another")
        check_source(
            target / MANIFEST, json.loads(read_text(target / MANIFEST)).get("source"), source
        )
    target.mkdir(parents=True, exist_ok=True)
    content = {**manifest.to_dict(), "source": seen_from(target, source)}
    write_whole(target / MANIFEST, json.dumps(content, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Extract; -> exit code."""
    args = parse_args(argv)
    try:
        return run(args)
    except (ValueError, OSError) as error:
        print(f"extract_features.py: {describe(error, args.target)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("extract_features.py: stopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

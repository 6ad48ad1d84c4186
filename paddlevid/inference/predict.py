"""Videos and other clips -> the most probable classes of each, in words, files and pictures."""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from paddlevid import build, distributed, plots, report, runtime
from paddlevid.annotate import annotate_clip
from paddlevid.config import Config, ConfigError, ReaderConfig
from paddlevid.data.limits import DecodeError
from paddlevid.data.loader import Loader
from paddlevid.explain import Explainer
from paddlevid.flags import is_disk_full
from paddlevid.fusion import fuse_predictions, match_clips
from paddlevid.inference.evaluate import describe_run
from paddlevid.inference.networks import Network, add_trunk, read_clips
from paddlevid.inference.output import as_row, file_stem, in_words, open_output, readable
from paddlevid.predictor import Prediction, find_clips, predict

MOST_ROWS = 2000  # of predictions in a page


def predict_clips(args: argparse.Namespace, networks: list[Network], classes: list[str]) -> int:
    """Print, and write if asked, the most probable classes of each input: -> exit code."""
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
    predictor = predictors[0]
    if config.model.format != "features" and any(s.path.suffix == ".npy" for s in samples):
        raise ConfigError(f"{config.model.create_name} takes videos, not .npy features")
    if args.curve and (reader.crops > 1 or reader.num_clips > 1):
        raise ConfigError("--curve is of one view of a clip: set crops and num_clips to 1")
    if args.curve and not hasattr(predictor.network, "frame_logits"):
        raise ConfigError(f"--curve: {config.model.create_name} does not read frame by frame")
    explainer = None
    if args.explain:
        if runtime.is_launched():
            raise ConfigError("--explain runs in one process: start it without paddle's launcher")
        explainer = Explainer(
            config, predictor, classes, args.explain_class, with_films=args.save_video is not None
        )
        print("--explain runs the network eagerly, whatever --engine says", file=sys.stderr)
    if args.save_video and any(sample.path.suffix == ".npy" for sample in samples):
        raise ConfigError("--save-video: .npy features have no pictures; give the videos")
    for folder in filter(None, (args.save_video, args.explain)):
        folder.mkdir(parents=True, exist_ok=True)
    k = min(args.top_k, len(classes))
    num_bad = num_good = num_undrawn = 0
    rows: list[dict] = []  # of the report
    problems: list[str] = []
    started = time.perf_counter()
    with contextlib.ExitStack() as opened:
        loaders = [
            opened.enter_context(build.build_reader(n.config, n.config.infer, clips, False))
            for n, clips in zip(networks, lists, strict=True)
        ]
        loader = loaders[0]
        predictions = [
            predict(predictor, own, args.curve is not None, explainer is not None)
            for predictor, own in zip(predictors, loaders, strict=True)
        ]
        predicted: Iterable[Prediction] = predictions[0]
        if len(networks) > 1:
            predicted = fuse_predictions(predictions, [network.share for network in networks])
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
                if explainer:
                    name = f"{num_good:03d}_{file_stem(result.path)}_heat"
                    explainer.save(result, args.explain / name)
                if args.save_video and not save_video(
                    args.save_video, result, classes, k, num_good
                ):
                    num_undrawn += 1
            row = as_row(result, classes, k)
            if write:
                write(row)
            if args.report and len(rows) < MOST_ROWS:
                rows.append(row)
            if args.report and result.problem:
                problems.append(result.problem)
        if args.report:
            seconds = time.perf_counter() - started
            cards = prediction_cards(config, loader, rows, len(unusable))
    if args.report:
        run = describe_run(args, networks, seconds, problems)
        elsewhere = "--output has them all"
        report.write_predictions(args.report, run, cards, num_good + num_bad, elsewhere)
        print(f"report: {readable(args.report)}", file=sys.stderr)
    if args.output:
        print(f"{num_good + num_bad} predictions in {args.output}", file=sys.stderr)
    for folder, what in ((args.save_video, "videos"), (args.explain, "explanations")):
        if folder:
            print(f"{what}: {readable(folder)}", file=sys.stderr)
    if num_bad:
        print(f"{num_bad} of {num_good + num_bad} inputs could not be read", file=sys.stderr)
    if num_undrawn:
        print(f"{num_undrawn} of {num_good} videos could not be written", file=sys.stderr)
    return 1 if num_bad or num_undrawn else 0


def prediction_cards(
    config: Config,
    loader: Loader,
    rows: Sequence[dict],
    num_unusable: int,
) -> list[report.Card]:
    """What a page shows of predictions; before those of the loader come inputs of no use."""
    shown = [i for i, row in enumerate(rows[num_unusable:]) if not row["problem"]]
    strips = report.film_strips(
        loader, shown[: report.MOST_STRIPS], config.model.image_mean, config.model.image_std
    )
    return [
        report.Card(
            row["path"],
            row["label"],
            list(zip(row["classes"], row["probabilities"], strict=True)),
            strips.get(number - num_unusable, report.Strip()),
            problem=row["problem"],
        )
        for number, row in enumerate(rows)
    ]


def draw_curve(
    result: Prediction,
    classes: Sequence[str],
    k: int,
    folder: Path,
    number: int,
) -> None:
    """Write what is said of a clip up to each frame as FOLDER/<number>_<name>.png."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = plots.curve_figure(result.frame_probabilities, classes, k)
    plots.save(figure, folder / f"{number:03d}_{file_stem(result.path)}.png")


def save_video(
    folder: Path,
    result: Prediction,
    classes: Sequence[str],
    k: int,
    number: int,
) -> bool:
    """Write an input with what is said of it as FOLDER/<number>_<name>.mp4: -> whether it is."""
    target = folder / f"{number:03d}_{file_stem(result.path)}.mp4"
    try:
        note = annotate_clip(result.path, target, classes, result.probabilities, k)
    except (DecodeError, OSError) as error:  # of the clip, or of the encoder, such as for its size
        if is_disk_full(error):
            raise
        tqdm.write(f"no video is written: {readable(error)}", file=sys.stderr)
        return False
    if note:
        tqdm.write(f"{readable(result.path)}: {note}", file=sys.stderr)
    return True

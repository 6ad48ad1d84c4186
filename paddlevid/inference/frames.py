"""Videos -> the frames behind their end; a list -> the errors of such frames."""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from paddlevid import build, distributed, plots, report, trainer
from paddlevid.config import ConfigError
from paddlevid.data.encode import write_mp4
from paddlevid.files import write_whole
from paddlevid.inference.evaluate import describe_run
from paddlevid.inference.networks import Network
from paddlevid.inference.output import as_csv, file_stem, readable
from paddlevid.predictor import find_clips


def predict_frames(
    args: argparse.Namespace,
    network: Network,
) -> int:
    """The frames behind the end of videos, or the errors on a list: -> exit code."""
    config, predictor = network.config, network.predictor
    others = ("save_video", "explain", "num_clips", "crops", "segments")
    for flag in ("stream", "curve", "trunk", "output", *others):
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
        return evaluate_frames(args, network, folder)
    samples, unusable = find_clips(args.inputs)
    problems = [prediction.problem for prediction in unusable]
    cards: list[tuple[int, report.Card]] = []  # with the number of the sample
    started = time.perf_counter()
    steps = config.model.num_future
    with build.build_past_loader(config, samples) as loader:
        for batch in tqdm(loader.batches(), "predicting", len(loader), leave=False, disable=None):
            index, past = int(batch.indices[0]), batch.clips
            frames = predictor(past, num_future=steps)[0][0]
            path = samples[index].path
            stem = folder / f"{index + 1:03d}_{file_stem(path)}"
            np.save(f"{stem}.npy", frames.transpose(1, 2, 3, 0))
            image = plots.prediction_strip(past[0], None, frames)
            plots.save_image(image, Path(f"{stem}.png"))
            if args.report and index < report.MOST_STRIPS:
                strip = report.Strip(
                    report.data_uri(plots.shrink(image, report.STRIP_HEIGHT)),
                    f"{past.shape[2]} frames of the past and {steps} predicted ones",
                )
                note = f"written to {stem}.npy, .png and .mp4"
                cards.append((index, report.Card(str(path), strip=strip, note=note)))
            write_mp4(Path(f"{stem}.mp4"), plots.prediction_film(past[0], None, frames))
            tqdm.write(f"{readable(path)}: {steps} frames in {readable(stem)}.npy, .png and .mp4")
        bad = loader.bad.items()
        cards += [(i, report.Card(str(samples[i].path), problem=reason)) for i, reason in bad]
        problems += distributed.gather_all(list(loader.bad.values()))
    cards = distributed.gather_all(cards)
    if distributed.rank() != 0:
        return 0
    if args.report:
        run = describe_run(args, [network], time.perf_counter() - started, problems)
        shown = [report.Card(str(one.path), problem=one.problem) for one in unusable]
        shown += [card for _, card in sorted(cards, key=lambda pair: pair[0])]
        num_inputs, elsewhere = len(samples) + len(unusable), f"{folder} has the frames of all"
        shown = shown[: report.MOST_STRIPS]
        report.write_predictions(args.report, run, shown, num_inputs, elsewhere)
        print(f"report: {readable(args.report)}", file=sys.stderr)
    for problem in problems:
        print(f"cannot be read: {readable(problem)}", file=sys.stderr)
    if problems:
        print(f"{len(problems)} of {len(samples) + len(unusable)} inputs could not be read",
              file=sys.stderr)  # fmt: skip
    return 1 if problems else 0


def evaluate_frames(
    args: argparse.Namespace,
    network: Network,
    folder: Path,
) -> int:
    """Errors of a list's predicted frames, for each step and beside what is simple to beat."""
    config, predictor = network.config, network.predictor
    task = build.build_task(config, [])
    task.with_baselines = True
    with build.build_test_loader(config, args.split) as loader:
        started = time.perf_counter()
        evaluation = trainer.evaluate(predictor, loader, task)
        seconds = time.perf_counter() - started
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
    page = args.report or folder / f"report{ending}.html"
    run = describe_run(args, [network], seconds, bad)
    report.write_frames(page, run, evaluation, strips, config.model.seg_num)

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
    print(f"report: {readable(page)}")
    return 1 if bad else 0

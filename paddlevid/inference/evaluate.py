"""A list and one network, or several -> figures, tables and a report beside the weights."""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from paddlevid import build, distributed, plots, report, trainer
from paddlevid.config import Config
from paddlevid.data.dataset import Sample
from paddlevid.data.decode import is_pickled
from paddlevid.data.loader import Loader
from paddlevid.files import write_whole
from paddlevid.fusion import fuse_evaluations, match_clips
from paddlevid.inference.networks import Network, read_clips
from paddlevid.inference.output import as_csv, columns, readable
from paddlevid.metrics import Evaluation
from paddlevid.predictor import check_scores, softmax


def evaluate(args: argparse.Namespace, network: Network, classes: list[str]) -> int:
    """Score a list and write the figures beside the weights: -> exit code."""
    config, predictor = network.config, network.predictor
    with build.build_test_loader(config, args.split) as loader:
        started = time.perf_counter()
        evaluation = trainer.evaluate(predictor, loader, build.build_task(config, classes))
        check_scores(predictor, evaluation.logits)
        seconds = time.perf_counter() - started
        bad = distributed.gather_all(list(loader.bad.values()))
        if distributed.rank() != 0:
            return 0
        tell(args, [network], evaluation, evaluation.summary(), loader, classes, seconds, bad)
    return 1 if bad else 0


def evaluate_fused(args: argparse.Namespace, networks: list[Network], classes: list[str]) -> int:
    """Score a list with several networks, and write the figures of their average: -> exit code."""
    parts, bad, samples_of_first = [], [], None
    with contextlib.ExitStack() as opened:
        started = time.perf_counter()
        for network in networks:
            config = network.config
            if network.clips:
                samples, name = read_clips(network.clips), str(network.clips)
            else:
                samples = build.read_split(config, args.split)
                name = getattr(config, args.split).filelist
            if samples_of_first is None:
                samples_of_first, name_of_first = samples, name
            else:
                samples = match_clips(samples_of_first, samples, (name_of_first, name))
                places, samples = with_labels(samples, samples_of_first, parts[0])
            reader = config.test if args.split == "train" else getattr(config, args.split)
            loader = opened.enter_context(build.build_reader(config, reader, samples))
            task = build.build_task(config, classes)
            part = trainer.evaluate(network.predictor, loader, task)
            check_scores(network.predictor, part.logits)
            parts.append(replace(part, indices=places[part.indices]) if parts else part)
            bad += list(loader.bad.values())
            if network is networks[0]:
                loader_of_first = loader
            else:
                loader.close()
        evaluation = fuse_evaluations(parts, [network.share for network in networks])
        seconds = time.perf_counter() - started
        streams = [
            {"weights": str(network.weights), "modality": network.config.model.modality,
             "share": network.share, **part.summary()}
            for network, part in zip(networks, parts, strict=True)
        ]  # fmt: skip
        summary = {**evaluation.summary(), "networks": streams}
        tell(args, networks, evaluation, summary, loader_of_first, classes, seconds, bad)
    for network, part in zip(networks, parts, strict=True):
        print(f"{network.weights} ({network.config.model.modality}): {part.in_words()}")
    return 1 if bad else 0


def with_labels(
    samples: Sequence[Sample], samples_of_first: Sequence[Sample], first: Evaluation
) -> tuple[NDArray[np.int64], list[Sample]]:
    """Clips of a further list with the labels of the first one, and their places in it.

    Its own labels may be inside .pkl files; clips of which these could not be read are left out.
    """
    read = dict(zip(first.indices.tolist(), first.labels.tolist(), strict=True))
    labelled = []
    for place, (sample, one) in enumerate(zip(samples, samples_of_first, strict=True)):
        labels = (sample.label, one.label, read.get(place))
        label = next((label for label in labels if label is not None), None)
        if label is not None or is_pickled(sample.path):
            labelled.append((place, replace(sample, label=label)))
    return np.array([place for place, _ in labelled], np.int64), [s for _, s in labelled]


def tell(
    args: argparse.Namespace,
    networks: Sequence[Network],
    evaluation: Evaluation,
    summary: dict,
    loader: Loader,
    classes: list[str],
    seconds: float,
    bad: Sequence[str],
) -> None:
    """Write the figures and the page of an evaluation, and print where they are."""
    is_fused = len(networks) > 1
    folder, what = args.weights.parent, f"{args.split}, fused" if is_fused else args.split
    ending = ("" if args.split == "test" else f"_{args.split}") + "_fused" * is_fused
    write_figures(folder, ending, evaluation, summary, classes)
    cards, are_mistakes = worst_cards(args, networks[0].config, evaluation, loader, classes)
    page = args.report or folder / f"report{ending}.html"
    run = describe_run(args, networks, seconds, bad)
    report.write_evaluation(page, run, evaluation, classes, cards, are_mistakes)
    say_figures(folder, what, ending, summary, bad)
    print(f"report: {readable(page)}")


def write_figures(
    folder: Path,
    ending: str,
    evaluation: Evaluation,
    summary: dict,
    classes: list[str],
) -> None:
    """Write the figures into a folder, and print those of each class."""
    table = evaluation.class_table(classes)
    write_whole(folder / f"metrics{ending}.json", json.dumps(summary, indent=2) + "\n")
    rows = [list(table[0]), *([str(value) for value in row.values()] for row in table)]
    write_whole(folder / f"per_class{ending}.csv", as_csv(rows))
    counts = evaluation.confusion.tolist()
    rows = [["label", *classes], *([name, *row] for name, row in zip(classes, counts, strict=True))]
    write_whole(folder / f"confusion_matrix{ending}.csv", as_csv(rows))
    figure = plots.confusion_figure(evaluation.confusion, classes)
    plots.save(figure, folder / f"confusion_matrix{ending}.png")

    width = max(columns(name) for name in ["class", *classes])
    print(f"{'class':{width}}  clips  accuracy  most often taken for")
    for row in table:
        name = row["class"] + " " * (width - columns(row["class"]))
        print(f"{name}  {row['clips']:5}  {row['accuracy']:8.4f}  {row['taken_for']}")


def say_figures(folder: Path, what: str, ending: str, summary: dict, bad: Sequence[str]) -> None:
    """Print the figures, and where they are."""
    print(
        f"{what}: top-1 {summary['top1']:.4f}  top-5 {summary['top5']:.4f}  mean class "
        f"accuracy {summary['mean_class_accuracy']:.4f}  over {summary['num_clips']} clips, "
        f"{summary['num_bad']} left out"
    )
    for reason in bad:
        print(f"left out: {reason}", file=sys.stderr)
    names = ("metrics", ".json"), ("per_class", ".csv"), ("confusion_matrix", ".csv and .png")
    print(f"written to {folder}: " + ", ".join(name + ending + suffix for name, suffix in names))


def describe_run(
    args: argparse.Namespace,
    networks: Sequence[Network],
    seconds: float,
    problems: Sequence[str],
) -> report.Run:
    """What a report says of it; the config is that of the first network."""
    config, *others = [network.config for network in networks]
    name = config.model.create_name
    if args.split:
        reader = config.test if args.split == "train" else getattr(config, args.split)
        title = f"{name} on the {args.split} list"
        if reader.filelist:
            title += f" {os.path.normpath(reader.filelist)}"
    else:
        title = f"{name}: predictions"
    if others:
        title += ", fused with " + ", ".join(str(network.weights) for network in networks[1:])
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    return report.Run(
        title=title,
        command=args.command,
        config=text,
        networks=[(n.config.model.create_name, n.num_parameters, n.weights) for n in networks],
        device=networks[0].predictor.device,
        seconds=seconds,
        network_seconds=min(sum(network.predictor.seconds for network in networks), seconds),
        problems=problems,
    )


def worst_cards(
    args: argparse.Namespace,
    config: Config,
    evaluation: Evaluation,
    loader: Loader,
    classes: Sequence[str],
) -> tuple[list[report.Card], bool]:
    """The clips that an evaluation's report shows, and whether they are mistakes."""
    rows, are_mistakes = report.worst_clips(evaluation)
    indices = evaluation.indices[rows].tolist()
    model = config.model
    strips = report.film_strips(loader, indices, model.image_mean, model.image_std)
    probabilities = softmax(evaluation.logits[rows])
    cards = []
    for index, scores, label in zip(indices, probabilities, evaluation.labels[rows], strict=True):
        best = np.argsort(-scores, kind="stable")[: args.top_k]
        cards.append(
            report.Card(
                os.path.normpath(loader.dataset.samples[index].path),
                classes[label],
                [(classes[i], float(scores[i])) for i in best],
                strips.get(index, report.Strip()),
                f", given {scores[label]:.4f}",
            )
        )
    return cards, are_mistakes

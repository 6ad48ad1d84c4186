"""Predict videos, or evaluate a list: python infer.py --config F --weights F VIDEO..."""

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from paddlevid import runtime
from paddlevid.config import Config, ConfigError, ReaderConfig, load_config
from paddlevid.flags import Parser, at_least, describe


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        description="Predict the classes of videos, or evaluate the network on a list.",
        epilog="Without INPUT and --split, the list that INFER.filelist names is predicted.",
    )
    parser.add_argument("--config", required=True, type=Path, help="as in training")
    parser.add_argument("--weights", required=True, type=Path, help=".pdparams of train.py")
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="*", type=Path,
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
        "-o", dest="overrides", metavar="SECTION.key=value", action="append", default=[],
        help="set one value of the config; may be repeated",
    )  # fmt: skip
    parser.add_argument("--device", metavar="cpu|gpu|gpu:0", help="where to compute")
    args = parser.parse_args(argv)
    if args.split and args.inputs:
        parser.error("give either INPUT or --split")
    if args.split and args.output:
        parser.error("--output is for predictions; --split writes its files beside the weights")
    if args.output and args.output.suffix.lower() not in (".jsonl", ".json", ".csv"):
        parser.error(f"--output {args.output}: needs a name that ends in .jsonl or .csv")
    section = "TEST" if args.split == "train" else (args.split or "infer").upper()
    for key, value in (("num_clips", args.num_clips), ("crops", args.crops)):
        if value is not None:
            args.overrides.append(f"{section}.{key}={value}")
    return args


def infer(args: argparse.Namespace) -> int:
    """Evaluate or predict: -> exit code, 1 when an input could not be read."""
    config = load_config(args.config, args.overrides)
    runtime.configure()
    # Paddle is imported here, so that --help and a wrong config answer at once.
    from paddlevid import build

    print(build.choose_device(config, args.device), file=sys.stderr)
    classes = build.read_classes(config, args.weights)
    model, _ = build.build_model(
        dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=""))
    )
    build.load_all_weights(model, args.weights)
    if args.split:
        return evaluate(args, config, model, classes)
    return predict(args, config, model, classes)


def evaluate(args: argparse.Namespace, config: Config, model: object, classes: list[str]) -> int:
    """Score a list and write the figures beside the weights."""
    from paddlevid import build, plots, trainer

    with build.build_test_loader(config, args.split) as loader:
        evaluation = trainer.evaluate(model, loader, build.build_loss(config))
        bad = list(loader.bad.values())
    summary, table = evaluation.summary(), evaluation.class_table(classes)
    folder, ending = args.weights.parent, "" if args.split == "test" else f"_{args.split}"
    (folder / f"metrics{ending}.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_rows(folder / f"per_class{ending}.csv", table)
    matrix = [
        {"label": name, **dict(zip(classes, counts.tolist(), strict=True))}
        for name, counts in zip(classes, evaluation.confusion, strict=True)
    ]
    write_rows(folder / f"confusion_matrix{ending}.csv", matrix)
    figure = plots.confusion_figure(evaluation.confusion, classes)
    plots.save(figure, folder / f"confusion_matrix{ending}.png")

    width = max(len(name) for name in ["class", *classes])
    print(f"{'class':{width}}  clips  accuracy  most often taken for")
    for row in table:
        print(
            f"{row['class']:{width}}  {row['clips']:5}  {row['accuracy']:8.4f}  {row['taken_for']}"
        )
    print(
        f"{args.split}: top-1 {summary['top1']:.4f}  top-5 {summary['top5']:.4f}  mean class "
        f"accuracy {summary['mean_class_accuracy']:.4f}  over {summary['num_clips']} clips, "
        f"{summary['num_bad']} left out"
    )
    for reason in bad:
        print(f"left out: {reason}", file=sys.stderr)
    names = ("metrics", ".json"), ("per_class", ".csv"), ("confusion_matrix", ".csv and .png")
    print(f"written to {folder}: " + ", ".join(name + ending + suffix for name, suffix in names))
    return 1 if bad else 0


def predict(args: argparse.Namespace, config: Config, model: object, classes: list[str]) -> int:
    """Print, and write if asked, the most probable classes of each input."""
    from paddlevid import build, predictor

    reader: ReaderConfig = config.infer
    if args.inputs:
        samples = predictor.find_clips(args.inputs)
    elif reader.filelist:
        samples = predictor.find_clips([Path(reader.filelist)])
    else:
        raise ConfigError("nothing to predict: give INPUT, or set INFER.filelist")
    rows, num_bad = [], 0
    with build.build_reader(config, reader, samples, labelled=False) as loader:
        results: Iterator[predictor.Prediction] = predictor.predict(model, loader)
        for result in tqdm(results, "predicting", len(samples), leave=False, disable=None):
            if result.problem:
                num_bad += 1
                tqdm.write(f"cannot be read: {result.problem}")
            else:
                tqdm.write(in_words(result, classes, args.top_k))
            rows.append(as_row(result, classes, args.top_k))
    if args.output:
        write_predictions(args.output, rows)
        print(f"{len(rows)} predictions in {args.output}", file=sys.stderr)
    if num_bad:
        print(f"{num_bad} of {len(rows)} inputs could not be read", file=sys.stderr)
    return 1 if num_bad else 0


def name_of(label: int, classes: Sequence[str]) -> str:
    """A label's class name; a number where the label fits no class, nothing where it is unknown."""
    return classes[label] if 0 <= label < len(classes) else "" if label < 0 else str(label)


def in_words(result: "predictor.Prediction", classes: Sequence[str], k: int) -> str:  # noqa: F821
    """A prediction for the eye: the path, and a line for each class."""
    lines = [
        str(result.path)
        + (f"  (label: {name})" if (name := name_of(result.label, classes)) else "")
    ]
    lines += [f"    {result.probabilities[i]:.4f}  {classes[i]}" for i in result.top_k(k)]
    return "\n".join(lines)


def as_row(result: "predictor.Prediction", classes: Sequence[str], k: int) -> dict:  # noqa: F821
    """A prediction for a file."""
    row: dict[str, object] = {"path": str(result.path), "label": name_of(result.label, classes)}
    best = [] if result.problem else result.top_k(k)
    row["classes"] = [classes[i] for i in best]
    row["probabilities"] = [round(float(result.probabilities[i]), 6) for i in best]
    row["problem"] = result.problem
    return row


def write_predictions(file: Path, rows: Sequence[dict]) -> None:
    """JSON lines, or CSV with a pair of columns for each of the k classes."""
    if file.suffix.lower() != ".csv":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.write_text(text, encoding="utf-8")
        return
    k = max((len(row["classes"]) for row in rows), default=0)
    flat = []
    for row in rows:
        columns = {"path": row["path"], "label": row["label"]}
        for i in range(k):
            known = i < len(row["classes"])
            columns[f"class_{i + 1}"] = row["classes"][i] if known else ""
            columns[f"probability_{i + 1}"] = row["probabilities"][i] if known else ""
        flat.append({**columns, "problem": row["problem"]})
    write_rows(file, flat)


def write_rows(file: Path, rows: Sequence[dict]) -> None:
    """CSV with a header."""
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else ["path"])
        writer.writeheader()
        writer.writerows(rows)


def main(argv: list[str] | None = None) -> int:
    """Infer; -> exit code."""
    args = parse_args(argv)
    try:
        return infer(args)
    except (ValueError, OSError) as error:
        print(f"infer.py: {describe(error, args.output or args.weights.parent)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

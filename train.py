"""Train a network: python train.py --config configs/tsn.txt"""

import argparse
import sys
from pathlib import Path

import yaml

from paddlevid import runtime
from paddlevid.config import Config, ConfigError, load_config
from paddlevid.flags import Parser, at_least, describe


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Train a video network.")
    parser.add_argument("--config", required=True, type=Path, help=".txt or .yaml, see configs/")
    parser.add_argument(
        "-o", dest="overrides", metavar="SECTION.key=value", action="append", default=[],
        help="set one value of the config, e.g. -o TRAIN.batch_size=4; may be repeated",
    )  # fmt: skip
    parser.add_argument("--epoch", type=at_least(1), metavar="N", help="as -o TRAIN.epoch=N")
    parser.add_argument(
        "--save_dir", type=Path, metavar="DIR", help="the run's folder (default: output/CONFIG)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="read DIR/train.list, val.list and test.list instead of the lists of the config",
    )  # fmt: skip
    parser.add_argument("--pretrain", type=Path, metavar="FILE", help="weights to start from")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    start.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    parser.add_argument("--device", metavar="cpu|gpu|gpu:0", help="where to compute")
    parser.add_argument(
        "--use_gpu",
        choices=("true", "false"),
        help="as -o TRAIN.use_gpu=...: a GPU if there is one",
    )
    parser.add_argument("--seed", type=at_least(0), metavar="N", help="as -o TRAIN.seed=N")
    parser.add_argument(
        "--amp",
        action="store_true",
        help="automatic mixed precision, on a GPU; as -o TRAIN.amp=True",
    )
    args = parser.parse_args(argv)
    for key, value in (("epoch", args.epoch), ("use_gpu", args.use_gpu), ("seed", args.seed)):
        if value is not None:
            args.overrides.append(f"TRAIN.{key}={value}")
    if args.data:
        lists = {"TRAIN": "train", "VALID": "val", "TEST": "test", "INFER": "test"}
        for section, name in lists.items():
            args.overrides.append(f"{section}.filelist={(args.data / name).as_posix()}.list")
    if args.amp:
        args.overrides.append("TRAIN.amp=True")
    args.save_dir = args.save_dir or Path("output") / args.config.stem
    return args


def claim_folder(folder: Path, config: Config, resume: bool, overwrite: bool) -> None:
    """Make the run's folder and write config.yaml; a run that is there is not touched unasked.

    Raises ConfigError where it holds a run, or, for a resume, one with another config.
    """
    saved = folder / "config.yaml"
    if resume:
        if not saved.exists():
            raise ConfigError(f"--resume: there is no run in {folder}")
        changed = changed_keys(yaml.safe_load(saved.read_text(encoding="utf-8")), config.to_dict())
        if changed:
            raise ConfigError(
                f"--resume: the run in {folder} was started with another config: "
                f"{'; '.join(changed)}. Use the same one, or start anew with --save_dir or "
                "--overwrite"
            )
    elif saved.exists() and not overwrite:
        raise ConfigError(
            f"{folder} holds a run already: --resume goes on with it, --save_dir DIR starts "
            "another beside it, --overwrite replaces it"
        )
    elif saved.exists():
        for file in [*folder.glob("checkpoints/*.ckpt"), *folder.glob("vdl/*/*.log")]:
            file.unlink()
        for name in ("best.pdparams", "bad_samples.txt", "metrics.csv"):
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    saved.write_text(text, encoding="utf-8")


# What may change on a resume: how long and where it runs, not what it computes.
_MAY_CHANGE = {
    "TRAIN.epoch", "TRAIN.num_reader_threads", "TRAIN.use_gpu", "TRAIN.early_stop",
    "TRAIN.keep_checkpoints", "TRAIN.max_bad_samples", "VALID.num_reader_threads",
}  # fmt: skip


def changed_keys(old: dict[str, dict], new: dict[str, dict]) -> list[str]:
    """The keys of MODEL, TRAIN and VALID that differ, with both values."""
    return [
        f"{name}.{key} was {old.get(name, {}).get(key)!r}, is {value!r}"
        for name in ("MODEL", "TRAIN", "VALID")
        for key, value in new[name].items()
        if old.get(name, {}).get(key) != value and f"{name}.{key}" not in _MAY_CHANGE
    ]


def train(args: argparse.Namespace) -> int:
    """Build what the config says and fit it: -> exit code."""
    config = load_config(args.config, args.overrides)
    runtime.configure()
    # Paddle is imported here, so that --help and a wrong config answer at once.
    from paddlevid import build, trainer

    print(build.choose_device(config, args.device))
    for note in config.notes:
        print(note)
    with build.build_train_loader(config) as train_loader:
        valid_loader = build.build_test_loader(config, "valid") if config.valid.filelist else None
        classes = build.read_classes(config)
        model, notes = build.build_model(config, args.pretrain)
        claim_folder(args.save_dir, config, args.resume, args.overwrite)
        classes_text = "".join(f"{name}\n" for name in classes)
        (args.save_dir / "classes.txt").write_text(classes_text, encoding="utf-8")
        for note in notes:
            print(note)
        num_trained = sum(p.size for p in model.parameters() if not p.stop_gradient)
        print(
            f"{config.model.create_name}: {num_trained:,} trained parameters, "
            f"{len(classes)} classes, {len(train_loader.dataset)} training clips, "
            f"{len(valid_loader.dataset) if valid_loader else 'no'} validation clips"
        )
        settings = trainer.Settings(
            folder=args.save_dir,
            epochs=config.train.epoch,
            accumulate=config.train.accumulate,
            clip_norm=config.train.clip_norm,
            clip_value=config.train.clip_value,
            amp=config.train.amp,
            early_stop=config.train.early_stop,
            keep_checkpoints=config.train.keep_checkpoints,
            seed=config.train.seed,
            classes=classes,
            image_mean=config.model.image_mean,
            image_std=config.model.image_std,
            config=config.to_dict(),
        )
        try:
            progress = trainer.fit(
                model,
                build.build_loss(config),
                build.build_optimizer(config, model),
                build.build_schedule(config),
                train_loader,
                valid_loader,
                settings,
                resume=args.resume,
            )
        except trainer.Interrupted as saved:
            print(f"saved {saved}; go on with the same command and --resume", file=sys.stderr)
            return 130
        if valid_loader:
            valid_loader.close()
    best = args.save_dir / "best.pdparams"
    if valid_loader:
        print(f"best validation top-1 {progress.best:.4f} in epoch {progress.best_epoch}: {best}")
    else:
        print(f"no validation list, so these are the last epoch's weights: {best}")
    saved = args.save_dir / "config.yaml"
    print(f"predict:    python infer.py --config {saved} --weights {best} VIDEO")
    print(f"dashboards: visualdl --logdir {args.save_dir.parent}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Train; -> exit code."""
    args = parse_args(argv)
    try:
        return train(args)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"train.py: {describe(error, args.save_dir)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

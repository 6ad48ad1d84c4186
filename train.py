"""Train a network: python train.py --config configs/tsn.txt"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from paddlevid import runtime
from paddlevid.config import Config, ConfigError, load_config
from paddlevid.data.dataset import list_format, read_list
from paddlevid.data.split import read_lines
from paddlevid.files import locked, write_whole
from paddlevid.flags import Parser, at_least, describe, infer_command


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
        help="a folder with a folder of videos for each class (to predict frames: of any videos), "
        "or one with train.list, val.list and test.list; sets the lists, the number of classes and "
        "the format of the config",
    )  # fmt: skip
    parser.add_argument(
        "--pretrain", type=Path, metavar="FILE",
        help="weights to start from: of train.py, or any file that paddlevid.convert reads",
    )  # fmt: skip
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
    if args.amp:
        args.overrides.append("TRAIN.amp=True")
    if args.resume and args.pretrain:
        parser.error("--pretrain is where a run starts: it does not go with --resume")
    args.save_dir = args.save_dir or Path("output") / args.config.stem
    return args


def data_overrides(source: Path, save_dir: Path, resume: bool, frames_needed: int = 0) -> list[str]:
    """What --data sets in the config; makes lists of class folders in SAVE_DIR/lists.

    A resumed run keeps the lists it has. `frames_needed`: of a clip, where frames are predicted and
    any folder of videos will do. Raises ValueError for a folder that is of no use.
    """
    folder = source
    has_clips = source.is_dir() and (
        frames_needed
        or any(path.is_dir() for path in source.iterdir() if not path.name.startswith("."))
    )
    if has_clips and not (source / "train.list").exists():
        folder = save_dir / "lists"
        if not (resume and (folder / "train.list").exists()):
            from paddlevid import lists  # here, as it draws: with matplotlib --help takes a second

            print(f"making lists of {source} in {folder}")
            workers = runtime.usable_cores()
            lists.make_lists(source, folder, (80, 10, 10), 0, workers, frames_needed=frames_needed)
    sides = {"TRAIN": "train", "VALID": "val", "TEST": "test", "INFER": "test"}
    if (folder / "train.list").exists():
        # data_list_gener.py leaves a list out where there are too few clips for it
        sides = {s: name for s, name in sides.items() if (folder / f"{name}.list").exists()}
        sides = {"VALID": "", "TEST": "", "INFER": ""} | sides
    overrides = [
        f"{section}.filelist=" + (f"{(folder / name).as_posix()}.list" if name else "")
        for section, name in sides.items()
    ]
    if (folder / "train.list").exists():
        overrides.append(f"MODEL.format={list_format(read_list(folder / 'train.list'))}")
    if not frames_needed and (folder / "classes.txt").exists():
        num_classes = len(read_lines(folder / "classes.txt"))
        if num_classes < 2:
            raise ConfigError(f"--data {source}: needs two classes or more, got {num_classes}")
        overrides.append(f"MODEL.num_classes={num_classes}")
    return overrides


def check_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    """Raise ConfigError where the run's folder is no folder, or holds, or lacks, a run."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--save_dir {folder} is a file: it needs a folder")
    if resume and not (folder / "config.yaml").exists():
        raise ConfigError(f"--resume: there is no run in {folder}")
    if kept_files(folder) and not (resume or overwrite):
        raise ConfigError(
            f"{folder} holds a run already: --resume goes on with it, --save_dir DIR starts "
            "another beside it, --overwrite replaces it"
        )
    if folder.is_dir():
        with lock_run(folder):
            pass


def kept_files(folder: Path) -> list[Path]:
    """The weights and checkpoints of the run in a folder, less that of before its first step."""
    trained = folder.glob("checkpoints/*.ckpt")
    return [*folder.glob("best.*"), *(file for file in trained if file.stem != "step_00000000")]


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is there or made; ConfigError where another train.py holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(folder / ".lock"))
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder}: another train.py is at work there: wait for its end, or name another "
                "folder as --save_dir DIR"
            ) from error
        yield


def claim_folder(folder: Path, config: Config, resume: bool) -> None:
    """Write config.yaml to the run's folder; what an earlier run left there is removed.

    Raises ConfigError, for a resume, where the run has another config.
    """
    saved = folder / "config.yaml"
    if resume:
        changed = changed_keys(load_config(saved).to_dict(), config.to_dict())
        if changed:
            raise ConfigError(
                f"--resume: the run in {folder} was started with another config: "
                f"{'; '.join(changed)}. Use the same one, or start anew with --save_dir or "
                "--overwrite"
            )
    else:
        ours = (
            "bad_samples.txt", "metrics*", "per_class*.csv", "confusion_matrix*", "report*.html",
            "vdl/*/*.log",
        )  # fmt: skip
        old = [file for pattern in ours for file in folder.glob(pattern)]
        for file in {*kept_files(folder), *folder.glob("checkpoints/*.ckpt"), *old}:
            file.unlink()
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    write_whole(saved, text)


# What may change on a resume: how long and where it runs, not what it computes.
_MAY_CHANGE = {
    "TRAIN.epoch", "TRAIN.num_reader_threads", "TRAIN.use_gpu", "TRAIN.early_stop",
    "TRAIN.keep_checkpoints", "TRAIN.checkpoint_minutes", "TRAIN.max_bad_samples",
    "TRAIN.read_timeout",
    "VALID.num_reader_threads",
}  # fmt: skip


def changed_keys(old: dict[str, dict], new: dict[str, dict]) -> list[str]:
    """The keys of MODEL, TRAIN and VALID that differ, with both values."""
    return [
        f"{name}.{key} was {old.get(name, {}).get(key)!r}, is {value!r}"
        for name in ("MODEL", "TRAIN", "VALID")
        for key, value in new[name].items()
        if old.get(name, {}).get(key) != value and f"{name}.{key}" not in _MAY_CHANGE
    ]


def read_config(args: argparse.Namespace) -> Config:
    """The config, with what the command line sets; --data's lists are made, if they need to be."""
    check_folder(args.save_dir, args.resume, args.overwrite)
    overrides = []
    if args.data:
        # What is wrong with the config is said before all videos are read; --data sets num_classes.
        config = load_config(args.config, ["MODEL.num_classes=2", *args.overrides])
        model, needed = config.model, 0
        if model.task == "predict":
            needed = (model.seg_num + model.num_future - 1) * model.interval + 1
        overrides = data_overrides(args.data, args.save_dir, args.resume, needed)
    return load_config(args.config, overrides + args.overrides)  # an explicit -o wins


def train(args: argparse.Namespace) -> int:
    """Build what the config says and fit it: -> exit code."""
    if not runtime.is_launched():
        config = read_config(args)
    runtime.configure()
    runtime.keep_freed_memory()
    # Paddle is imported here, so that --help and a wrong config answer at once.
    from paddlevid import build, distributed, trainer
    from paddlevid.checkpoint import load_checkpoint
    from paddlevid.weights import load_weights

    if runtime.is_launched():
        distributed.join()
        config = distributed.on_first(lambda: read_config(args))
    print(build.choose_device(config, args.device))
    for note in config.notes:
        print(note)
    with contextlib.ExitStack() as opened:
        classes = build.read_classes(config)
        train_loader = opened.enter_context(build.build_train_loader(config, classes))
        config = build.note_flow(build.note_features(config))
        valid_loader = None
        if build.has_clips(config, "valid"):
            valid_loader = opened.enter_context(build.build_test_loader(config, "valid"))
        model, notes = build.build_model(config, args.pretrain, fresh=args.resume)
        if distributed.rank() == 0:
            opened.enter_context(lock_run(args.save_dir))
            claim_folder(args.save_dir, config, args.resume)
            if classes:
                names = "".join(f"{name}\n" for name in classes)
                write_whole(args.save_dir / "classes.txt", names)
        for note in notes:
            print(note)
        model = build.sync_batch_norms(config, model)
        frozen = build.freeze_trunk(config, model)
        if config.train.cache_features:
            if args.resume:  # the trunk must be that of the run
                state, _ = load_checkpoint(args.save_dir / "checkpoints")
                load_weights(model, state["model"], args.save_dir)
            train_loader = build.cache_features(config, model, train_loader)
            if valid_loader:
                valid_loader = build.cache_features(config, model, valid_loader)
        if runtime.is_launched():
            print(build.describe_steps(config))
        num_trained = sum(p.size for p in model.parameters() if not p.stop_gradient)
        named = f"{len(classes)} classes, " if classes else ""
        print(
            f"{config.model.create_name}: {num_trained:,} trained parameters, "
            f"{named}{len(train_loader.dataset)} training clips, "
            f"{len(valid_loader.dataset) if valid_loader else 'no'} validation clips"
        )
        settings = trainer.Settings(
            folder=args.save_dir,
            epochs=config.train.epoch,
            accumulate=config.train.accumulate,
            clip_norm=config.train.clip_norm,
            clip_value=config.train.clip_value,
            ema=config.train.ema,
            frozen=frozen,
            amp=config.train.amp,
            sync_bn=config.train.sync_bn,
            early_stop=config.train.early_stop,
            keep_checkpoints=config.train.keep_checkpoints,
            checkpoint_minutes=config.train.checkpoint_minutes,
            picture_every=config.train.picture_every,
            histogram_every=config.train.histogram_every,
            draw_network=config.train.draw_network,
            seed=config.train.seed,
            classes=classes,
            config=config.to_dict(),
            recipe=config.recipe(),
            training_list=build.describe_list(train_loader),
        )
        task = build.build_task(config, classes, train_loader.dataset)
        try:
            progress = trainer.fit(
                model,
                task,
                build.build_optimizer(config, model),
                build.build_schedule(config),
                train_loader,
                valid_loader,
                settings,
                resume=args.resume,
            )
        except trainer.Interrupted as saved:
            started = [f"--{name}" for name in ("overwrite", "pretrain") if getattr(args, name)]
            how = f"in place of {' and '.join(started)}" if started else "added"
            print(f"saved {saved}; go on: the same command, --resume {how}", file=sys.stderr)
            return 130
    best = args.save_dir / "best.pdparams"
    if valid_loader:
        best_one = f"{abs(progress.best[0]):.5g}"
        print(f"best validation {task.measure} {best_one} in epoch {progress.best_epoch}: {best}")
    else:
        print(f"no validation list, so these are the last epoch's weights: {best}")
    if build.has_clips(config, "test"):
        print(f"evaluate:   {infer_command()} --weights {best} --split test")
    print(f"predict:    {infer_command()} --weights {best} VIDEO")
    print(f"dashboards: visualdl --logdir {args.save_dir.parent}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Train; -> exit code."""
    args = parse_args(argv)
    try:
        return train(args)
    except (ValueError, OSError, FloatingPointError) as error:
        print(
            f"train.py: {describe(error, args.save_dir, 'run it with --resume')}", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print("train.py: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

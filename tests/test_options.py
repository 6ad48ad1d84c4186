"""Every key of a config and every flag of train.py and infer.py changes something."""

import dataclasses
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import yaml
from conftest import write_video
from visualdl import LogReader

import infer
import train
from paddlevid import build
from paddlevid.checkpoint import load_checkpoint
from paddlevid.config import SECTIONS, ConfigError, load_config
from paddlevid.data.features import Manifest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

TRANSFORMER = "timesformer_base", {"dim": 32, "depth": 2, "num_heads": 2, "image_size": 32}

FEATURES = [
    "MODEL.name=cnn_lstm", "MODEL.format=features", "MODEL.sampling=uniform",
    "MODEL.arguments={'features': 4, 'hidden': 4, 'dense': 4}", "TRAIN.filelist=FEATURES",
    "VALID.filelist=",
]  # fmt: skip

PREDICT = [
    "MODEL.name=convlstm", "MODEL.task=predict", "MODEL.format=moving_mnist", "MODEL.seg_num=2",
    "MODEL.num_future=2", "MODEL.arguments={'hidden': 4, 'num_layers': 1}",
    "MODEL.moving_mnist={'size': 16, 'digit_size': 8}", "TRAIN.filelist=", "VALID.filelist=",
    "TEST.filelist=", "TRAIN.num_sequences=6", "VALID.num_sequences=2", "TEST.num_sequences=2",
    "TRAIN.optimizer=adamw",
]  # fmt: skip
PREDICT_VIDEOS = [
    *PREDICT, "MODEL.format=video", "MODEL.fixed_size=[16,16]", "TRAIN.filelist=VIDEOS",
]  # fmt: skip
FED_BACK = {"hidden": 4, "num_layers": 1, "feedback": "frame", "transfer_state": True}

FLOW = [
    "MODEL.modality=flow", "MODEL.seglen=2", "MODEL.image_mean=[0.5,0.5]", "VALID.filelist=",
    "MODEL.image_std=[0.226,0.226]", "MODEL.flow_short_side=32", "MODEL.flow_bound=20",
    "MODEL.flow_method=dis", "TRAIN.epoch=1",
]  # fmt: skip

# What makes each key visible: other overrides, set both times, and then another value of the key.
# A third entry names what is looked at, where it is not what training or prediction computes.
KEYS: dict[str, tuple] = {
    "MODEL.name": ([], "tsn_r34"),
    "MODEL.num_classes": ([], 4),
    "MODEL.task": ([], "predict", "refused"),
    "MODEL.num_future": (PREDICT, 3),
    "MODEL.grey": (PREDICT_VIDEOS, True),
    "MODEL.moving_mnist": (PREDICT, {"size": 16, "digit_size": 9}),
    "MODEL.format": ([], "mp4", "error"),
    "MODEL.num_layers": (["MODEL.name=TSN", "MODEL.num_layers=18"], 34),
    "MODEL.modality": ([], "flow", "refused"),
    "MODEL.flow_method": (FLOW, "farneback"),
    "MODEL.flow_bound": (FLOW, 5.0),
    "MODEL.flow_short_side": (FLOW, 40),
    "MODEL.arguments": ([], {"width": 8, "dropout": 0.9}),
    "MODEL.pretrained": ([], "imagenet", "download"),
    "MODEL.trunk": (FEATURES, "vgg16", "error"),
    "MODEL.trunk_weights": (FEATURES, "ab", "error"),
    "MODEL.grid": (FEATURES, 2, "error"),
    "MODEL.seg_num": ([], 3),
    "MODEL.seglen": ([], 2),
    "MODEL.sampling": (["MODEL.seg_num=5"], "book", "figures"),
    "MODEL.interval": (["MODEL.sampling=dense"], 2),
    "MODEL.target_fps": (
        [
            "MODEL.sampling=linspace",
            "MODEL.interval=2",
            "MODEL.format=video",
            "TRAIN.filelist=VIDEOS",
            "VALID.filelist=",
        ],
        10.0,
    ),
    "MODEL.fixed_size": ([], [33, 50]),
    "MODEL.letterbox": (["MODEL.fixed_size=[40,40]"], True),
    "MODEL.image_mean": ([], [0.4, 0.4, 0.4]),
    "MODEL.image_std": ([], [0.4, 0.4, 0.4]),
    "TRAIN.filelist": ([], "LIST"),
    "TRAIN.epoch": ([], 1),
    "TRAIN.batch_size": ([], 2),
    "TRAIN.accumulate": ([], 2),
    "TRAIN.seg_num": ([], 4),
    "TRAIN.num_reader_threads": ([], 1, "workers"),
    "TRAIN.max_bad_samples": (["TRAIN.filelist=BROKEN"], 1.0, "error"),
    "TRAIN.read_timeout": ([], 60.0, "timeout"),
    "TRAIN.balance": ([], "sampling"),
    "TRAIN.num_sequences": (PREDICT, 5),
    "TRAIN.clips_per_video": (PREDICT_VIDEOS, 2),
    "TRAIN.loss": (PREDICT, "l1"),
    "TRAIN.scheduled_sampling": ([*PREDICT, f"MODEL.arguments={FED_BACK}"], 10),
    "TRAIN.picture_every": (PREDICT, 1, "pictures"),
    "TRAIN.histogram_every": ([], 1, "dashboard"),
    "TRAIN.draw_network": ([], True, "dashboard"),
    "TRAIN.beta2": (["TRAIN.optimizer=adamw"], 0.5),
    "TRAIN.short_size": (["TRAIN.crop=random"], 40),
    "TRAIN.jitter_scale": ([], [32, 48]),
    "TRAIN.target_size": ([], 28),
    "TRAIN.crop": ([], "random"),
    "TRAIN.crop_scales": ([], [0.5]),
    "TRAIN.crop_positions": ([], 13),
    "TRAIN.crop_area": (["TRAIN.crop=resized"], [0.2, 0.3]),
    "TRAIN.crop_aspect": (["TRAIN.crop=resized"], [1.5, 1.6]),
    "TRAIN.auto_augment": ([], True),
    "TRAIN.flip": ([], 1.0),
    "TRAIN.no_flip_classes": (["TRAIN.flip=1.0"], ["1"]),
    "TRAIN.color_jitter": ([], 0.4),
    "TRAIN.mixup": ([], 0.5),
    "TRAIN.cutmix": ([], 1.0),
    "TRAIN.optimizer": ([], "adamw"),
    "TRAIN.learning_rate": ([], 0.03),
    "TRAIN.lr_policy": ([], "cosine"),
    "TRAIN.lr_steps": ([], [1]),
    "TRAIN.learning_rate_decay": (["TRAIN.lr_steps=[1]"], 0.5),
    "TRAIN.lr_per": (["TRAIN.lr_policy=cosine"], "step"),
    "TRAIN.warmup_epochs": ([], 1),
    "TRAIN.momentum": ([], 0.5),
    "TRAIN.nesterov": ([], True),
    "TRAIN.augment": ([], False),
    "TRAIN.cache_features": ([], True, "error"),
    "TRAIN.epsilon": (["TRAIN.optimizer=rmsprop"], 1.0),
    "TRAIN.l2_weight_decay": ([], 0.1),
    "TRAIN.no_decay": (["TRAIN.l2_weight_decay=0.1"], ["norm"]),
    "TRAIN.bias_lr": ([], 2.0),
    "TRAIN.trunk_lr": ([], 0.1),
    "TRAIN.freeze_trunk": ([], True),
    "TRAIN.layer_decay": (
        [f"MODEL.name={TRANSFORMER[0]}", f"MODEL.arguments={TRANSFORMER[1]}"],
        0.5,
    ),
    "TRAIN.ema": ([], 0.9, "figures"),
    "TRAIN.clip_norm": ([], 0.01),
    "TRAIN.clip_value": ([], 0.001),
    "TRAIN.label_smoothing": ([], 0.2),
    "TRAIN.frame_labels": ([], True, "error"),
    "TRAIN.amp": ([], True, "error"),
    "TRAIN.use_gpu": ([], False, "device"),
    "TRAIN.seed": ([], 7),
    "TRAIN.early_stop": (["TRAIN.learning_rate=1.0", "TRAIN.epoch=8"], 1, "steps"),
    "TRAIN.keep_checkpoints": ([], 1, "files"),
    "TRAIN.checkpoint_minutes": ([], 1e-9, "files"),
    "TRAIN.sync_bn": ([], True, "error"),
    "VALID.filelist": ([], "LIST", "figures"),
    "VALID.batch_size": ([], 1, "batches"),
    "VALID.short_size": ([], 40, "figures"),
    "VALID.target_size": ([], 24, "figures"),
    "VALID.seg_num": ([], 5, "figures"),
    "VALID.num_clips": ([], 2, "figures"),
    "VALID.crops": (["VALID.short_size=40"], 3, "figures"),
    "VALID.num_reader_threads": ([], 1, "workers"),
    "VALID.num_sequences": (PREDICT, 3, "figures"),
    "TEST.num_sequences": (PREDICT, 3, "scores"),
    "INFER.num_sequences": ([], 5, "notes"),
}
for _section in ("TEST", "INFER"):
    for _key in ("filelist", "batch_size", "short_size", "target_size", "seg_num", "num_clips",
                 "crops", "num_reader_threads"):  # fmt: skip
        _others, _value, *_what = KEYS[f"VALID.{_key}"]
        _what = ["scores"] if _what == ["figures"] else _what
        KEYS[f"{_section}.{_key}"] = (
            [text.replace("VALID", _section) for text in _others], _value, *_what,
        )  # fmt: skip


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Lists of 6 and 4 clips of noise in three classes, one with a broken clip, and a config."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for number in range(10):
        frames = rng.integers(0, 256, (12, 36, 48, 3)).astype(np.uint8)
        encoded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
        (folder / f"{number}.pkl").write_bytes(pickle.dumps((str(number), number % 3, encoded)))
    names = [f"{number}.pkl" for number in range(10)]
    lists = {"train": names[:6], "test": names[6:], "other": names[3:9]}
    lists["broken"] = [*names[:6], "missing.pkl"]
    for number in range(3):
        write_video(folder / f"{number}.avi", rng.integers(0, 256, (12, 36, 48, 3), np.uint8))
        np.save(folder / f"{number}.npy", rng.random((2, 4), np.float32))
    lists["features"] = [f"{number}.npy {number}" for number in range(3)]
    manifest = Manifest(
        "inception_v3", "0" * 64, "uniform:2", (9, 9), (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225), 1, 4, "float32",
    )  # fmt: skip
    (folder / "features.json").write_text(json.dumps(manifest.to_dict()))
    lists["videos"] = [f"{number}.avi {number}" for number in range(3)]
    for name, lines in lists.items():
        (folder / f"{name}.list").write_text("\n".join(lines))
    reader = {"batch_size": 4, "short_size": 32, "target_size": 32}
    sections = {
        "MODEL": {"name": "tsn_r18", "num_classes": 3, "seg_num": 2,
                  "arguments": {"width": 8, "dropout": 0.1}},
        "TRAIN": {**reader, "batch_size": 3, "epoch": 2, "filelist": f"{folder}/train.list"},
        **{name: {**reader, "filelist": f"{folder}/test.list"}
           for name in ("VALID", "TEST", "INFER")},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(sections))
    return folder


def set_key(noise, key, value):
    lists = {"LIST": "other.list", "BROKEN": "broken.list", "VIDEOS": "videos.list",
             "FEATURES": "features.list"}  # fmt: skip
    if isinstance(value, str) and value in lists:
        value = f"{noise}/{lists[value]}"
    return f"{key}={value if isinstance(value, str) else repr(value)}"


def run_train(noise, folder, overrides, *flags):
    words = [word for override in overrides for word in ("-o", override)]
    config = noise / "config.yaml"
    return train.main(["--config", str(config), "--save_dir", str(folder), *words, *flags])


def look(what, noise, folder, overrides, capsys, monkeypatch):
    """What a run with these overrides shows of itself."""
    if what == "refused":
        try:
            return load_config(noise / "config.yaml", overrides).model.task
        except ConfigError as error:
            return str(error)
    config = load_config(noise / "config.yaml", overrides)
    section = overrides[-1].partition(".")[0].lower() if overrides else "train"
    if what in ("workers", "batches", "timeout"):
        if section == "train":
            loader = build.build_train_loader(config, build.read_classes(config))
        else:
            loader = build.build_test_loader(config, section)
        found = {"workers": loader.num_workers, "batches": len(loader), "timeout": loader.timeout}
        return found[what]
    if what == "notes":
        return config.notes
    if what == "device":
        return build.choose_device(config)
    if what == "download":
        failing = mock.Mock(side_effect=OSError("asked"))
        monkeypatch.setattr(build.network, "download", failing)
    code = run_train(noise, folder, overrides)
    output = capsys.readouterr()
    if what in ("error", "download"):
        return code, output.err if "train.py: " in output.err else ""
    assert code == 0, output.err
    if what == "pictures":
        return sorted(path.name for path in folder.glob("pictures/*"))
    if what == "dashboard":
        log = folder / "vdl" / "train" / "vdlrecords.run.log"
        graphs = list(folder.glob("vdl/*/vdlgraph*"))
        return sorted(LogReader(file_path=str(log)).get_tags()), len(graphs)
    if what == "files":
        return sorted(path.name for path in (folder / "checkpoints").iterdir())
    state, _ = load_checkpoint(folder / "checkpoints")
    if what == "steps":
        return state["progress"]["step"]
    if what == "figures":
        rows = (folder / "metrics.csv").read_text().splitlines()
        return [row for row in rows if ",val," in row]
    return {name: array.tobytes() for name, array in state["model"].items()}


def scores(noise, weights, overrides, section):
    """What infer.py computes of the section's list."""
    words = [word for override in overrides for word in ("-o", override)]
    start = ["--config", str(noise / "config.yaml"), "--weights", str(weights), *words]
    if section == "test":
        infer.main([*start, "--split", "test"])
        return (weights.parent / "metrics.json").read_text()
    output = weights.parent / "predictions.jsonl"
    infer.main([*start, "--output", str(output)])
    return output.read_text()


def test_the_table_names_every_key():
    fields = {
        f"{name.upper()}.{field.name}"
        for name, kind in SECTIONS.items()
        for field in dataclasses.fields(kind)
    }
    assert set(KEYS) == fields


@pytest.mark.parametrize("key", KEYS)
def test_every_key_changes_something(key, noise, tmp_path, capsys, monkeypatch):
    others, value, *what = KEYS[key]
    what = what[0] if what else "weights"
    others = [set_key(noise, *other.split("=", 1)) for other in others]
    changed = [*others, set_key(noise, key, value)]
    if what == "scores":
        run_train(noise, tmp_path / "run", others if others == PREDICT else [])
        weights = tmp_path / "run" / "best.pdparams"
        section = key.partition(".")[0].lower()
        first = scores(noise, weights, others, section)
        assert first != scores(noise, weights, changed, section)
        return
    unchanged = others or [f"{key.partition('.')[0]}.batch_size=3"] * (what in ("batches",))
    first = look(what, noise, tmp_path / "one", unchanged, capsys, monkeypatch)
    assert first != look(what, noise, tmp_path / "two", changed, capsys, monkeypatch)


@pytest.mark.parametrize(
    ("what", "others"),
    [
        ("weights", []),
        ("weights", KEYS["TRAIN.layer_decay"][0]),
        ("weights", [*KEYS["MODEL.target_fps"][0], "TRAIN.flip=0.5"]),
        ("figures", ["TRAIN.mixup=0.5", "TRAIN.cutmix=1.0", "TRAIN.ema=0.9"]),
    ],
)
def test_without_a_change_all_of_that_stays_the_same(
    what, others, noise, tmp_path, capsys, monkeypatch
):
    others = [set_key(noise, *other.split("=", 1)) for other in others]
    first, second = (
        look(what, noise, tmp_path / name, others, capsys, monkeypatch) for name in ("one", "two")
    )
    assert first == second


def flags_of(script):
    text = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "1000"},
    ).stdout  # fmt: skip
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z_-]*", text)) - {"--help", "-h"}


TRAIN_FLAGS = {
    "--epoch": ["--epoch", "1"],
    "--seed": ["--seed", "4"],
    "-o": ["-o", "TRAIN.learning_rate=0.5"],
    "--pretrain": ["--pretrain", "WEIGHTS"],
    "--resume": ["--resume"],
    "--overwrite": ["--overwrite", "--seed", "5"],
    "--device": ["--device", "gpu:99"],
    "--amp": ["--amp", "--device", "cpu"],
    "--use_gpu": ["--use_gpu", "false"],
    "--data": ["--data", "NOWHERE"],
    "--config": [],
    "--save_dir": [],
}


def test_every_flag_of_train_changes_something(noise, tmp_path, capsys):
    assert set(TRAIN_FLAGS) == flags_of("train.py") - {"-o-"}
    assert run_train(noise, tmp_path / "run", []) == 0
    plain, _ = load_checkpoint(tmp_path / "run" / "checkpoints")
    capsys.readouterr()
    for flag in ("--epoch", "--seed", "-o", "--pretrain"):
        words = [w.replace("WEIGHTS", f"{tmp_path}/run/best.pdparams") for w in TRAIN_FLAGS[flag]]
        folder = tmp_path / flag.strip("-")
        assert run_train(noise, folder, [], *words) == 0
        other, _ = load_checkpoint(folder / "checkpoints")
        assert (other["model"]["fc.weight"] != plain["model"]["fc.weight"]).any(), flag
    capsys.readouterr()
    assert run_train(noise, tmp_path / "run", []) == 1
    assert run_train(noise, tmp_path / "run", [], "--resume", "--epoch", "3") == 0
    assert "resuming in epoch 3" in capsys.readouterr().out
    assert run_train(noise, tmp_path / "run", [], *TRAIN_FLAGS["--overwrite"]) == 0
    assert run_train(noise, tmp_path / "x", [], *TRAIN_FLAGS["--device"]) == 1
    assert run_train(noise, tmp_path / "x", [], *TRAIN_FLAGS["--data"]) == 1
    assert "there is no NOWHERE/train.list" in capsys.readouterr().err
    assert run_train(noise, tmp_path / "x", [], *TRAIN_FLAGS["--amp"]) == 1
    assert "mixed precision" in capsys.readouterr().err
    assert run_train(noise, tmp_path / "gpu", [], *TRAIN_FLAGS["--use_gpu"]) == 0
    assert capsys.readouterr().out.startswith("computing on cpu")


def test_every_flag_of_infer_changes_something(noise, tmp_path, capsys):
    run_train(noise, tmp_path / "run", ["INFER.short_size=40"])
    start = ["--config", str(noise / "config.yaml"), "-o", "INFER.short_size=40"]
    start += ["--weights", f"{tmp_path}/run/best.pdparams"]
    capsys.readouterr()

    def shown(*words):
        code = infer.main([*start, *words])
        output = capsys.readouterr()
        return code, output.out, output.err

    plain = shown()
    assert plain[0] == 0
    changes = {
        "--top-k": ["--top-k", "1"],
        "--num-clips": ["--num-clips", "2"],
        "--crops": ["--crops", "3"],
        "--segments": ["--segments", "5"],
        "-o": ["-o", "INFER.seg_num=5"],
        "--split": ["--split", "valid"],
        "--device": ["--device", "gpu:99"],
        "--output": ["--output", f"{tmp_path}/p.jsonl"],
        "--report": ["--report", f"{tmp_path}/page.html"],
        "--weights": ["--weights", "nowhere.pdparams"],
        "--config": ["--config", "nowhere.yaml"],
        "--curve": ["--curve", f"{tmp_path}/curves"],
        "--save-video": ["--save-video", f"{tmp_path}/videos"],
        "--explain": ["--explain", f"{tmp_path}/why"],
        "--explain-class": ["--explain", f"{tmp_path}/why", "--explain-class", "nobody"],
        "--engine": [],  # the scores are the same: tests/test_predictor.py
        "--half": ["--half"],
        "--tensorrt": ["--tensorrt"],
        "--trunk": ["--trunk", "resnet50"],
        # tests/test_infer.py
        **dict.fromkeys(("--stream", "--every", "--stride", "--smooth", "--memory"), []),
        **dict.fromkeys(("--steps", "--save_dir"), []),  # tests/test_predict_frames.py
        **dict.fromkeys(("--fuse", "--fuse-weights", "--fuse-list"), []),  # tests/test_fusion.py
    }
    assert set(changes) == flags_of("infer.py")
    for flag, words in changes.items():
        assert not words or shown(*words) != plain, flag
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    other = yaml.safe_load((noise / "config.yaml").read_text())
    other["INFER"] |= {"short_size": 40, "num_clips": 3}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    assert shown("--config", str(tmp_path / "other.yaml")) != plain
    start = start[4:]  # without --config the one beside the weights counts
    assert shown() == plain
    assert shown(f"{noise}/3.pkl") != plain

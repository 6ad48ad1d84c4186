"""From videos to predictions through the command line, as the README says it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import frames_of, write_video

import infer
import train
from data_tools import avi2jpg, data_list_gener, jpg2pkl, make_demo
from paddlevid.checkpoint import load_checkpoint
from paddlevid.config import load_config
from paddlevid.weights import read_weights

ROOT = Path(__file__).parents[1]


def call(folder, script, *words):
    """Run a script of the project in another folder: -> what it prints."""
    done = subprocess.run(
        [sys.executable, ROOT / script, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_data_can_be_prepared_from_one_folder_after_another(tmp_path, monkeypatch):
    """As in a notebook: the processes that joblib keeps were started in the first of them."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert make_demo.main(["videos", "--clips", "2", "--workers", "2"]) == 0
        assert avi2jpg.main(["videos", "jpg", "--workers", "2"]) == 0
        assert jpg2pkl.main(["jpg", "pkl", "--workers", "2"]) == 0
        assert data_list_gener.main(["pkl", ".", "--workers", "2"]) == 0
        assert len((tmp_path / name / "train.list").read_text().splitlines()) == 20


def test_videos_in_classifier_and_predictions_out(tmp_path):
    rng = np.random.default_rng(0)
    for name, level in (("dark side", 50), ("亮", 200)):
        for number in range(10):
            noise = rng.integers(-20, 20, (8, 40, 60, 3)) + level
            write_video(tmp_path / "videos" / name / f"clip {number}.avi", noise.astype(np.uint8))
    call(tmp_path, "data_tools/avi2jpg.py", "videos", "frames")
    call(tmp_path, "data_tools/jpg2pkl.py", "frames", "pkl")
    out = call(tmp_path, "data_tools/data_list_gener.py", "pkl", "data")
    assert "16       2       2      20" in out
    call(tmp_path, "data_tools/check_videos.py", "data/train.list")

    reader = {"batch_size": 4, "short_size": 36, "target_size": 32}
    config = {
        "MODEL": {"name": "tsn_r18", "num_classes": 2, "arguments": {"width": 8}},
        "TRAIN": {**reader, "filelist": "data/train.list", "epoch": 3, "optimizer": "adamw",
                  "learning_rate": 3e-3, "num_reader_threads": 1},
        "VALID": {**reader, "filelist": "data/val.list"},
        "TEST": {**reader, "filelist": "data/test.list"},
    }  # fmt: skip
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    out = call(tmp_path, "train.py", "--config", "my.yaml")
    weights = "output/my/best.pdparams"
    assert f"infer.py --weights {weights} --split test" in out
    call(tmp_path, "infer.py", "--weights", weights, "--split", "test")
    metrics = json.loads((tmp_path / "output" / "my" / "metrics.json").read_text())
    assert metrics["num_clips"] == 2
    out = call(tmp_path, "infer.py", "--weights", weights, "videos/亮")
    assert out.count("clip") == 10 and "dark side" in out


# One config for each network, with what is usual for it; the commands are the same.
NETWORKS = {
    "tsn": {
        "MODEL": {"name": "tsn_r18", "seg_num": 2, "arguments": {"width": 8}},
        "TRAIN": {"learning_rate": 0.01},
    },
    "eco": {
        "MODEL": {"name": "eco_lite", "seg_num": 4, "arguments": {"width": 8}},
        "TRAIN": {
            "learning_rate": 0.01, "nesterov": True, "l2_weight_decay": 5e-4, "bias_lr": 2.0,
            "no_decay": ["bias"], "jitter_scale": [32, 40], "balance": "sampling", "accumulate": 2,
            "clip_norm": 1.0,
        },
    },
    "timesformer": {
        "MODEL": {
            "name": "timesformer_base", "seg_num": 4, "sampling": "linspace", "interval": 2,
            "image_mean": [0.45] * 3, "image_std": [0.225] * 3,
            "arguments": {
                "dim": 16, "depth": 2, "num_heads": 2, "num_frames": 4, "image_size": 32,
                "init_std": 0.2, "sincos": True,
            },
        },
        "TRAIN": {
            "optimizer": "adamw", "learning_rate": 1e-3, "l2_weight_decay": 0.05,
            "no_decay": ["bias", "norm", "embedding"], "layer_decay": 0.75, "ema": 0.5,
            "mixup": 0.4, "cutmix": 1.0, "balance": "loss", "no_flip_classes": ["light"],
        },
    },
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def network(request, tmp_path):
    """The config file of a tiny network, without lists."""
    reader = {"batch_size": 4, "short_size": 36, "target_size": 32}
    config = {name: reader for name in ("TRAIN", "VALID", "TEST", "INFER")}
    own = NETWORKS[request.param]
    config = config | {"MODEL": {"num_classes": 2, **own["MODEL"]}}
    config["TRAIN"] = {**reader, **own["TRAIN"]}
    path = tmp_path / f"{request.param}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def learn_resume_and_predict(config, data, clip, tmp_path, capsys):
    """Train an epoch, go on with a second, evaluate, predict a clip: -> the run's folder."""
    run, straight = tmp_path / "run", tmp_path / "straight"
    words = ["--config", config, "--data", data]
    for more in ([run, "--epoch", 1], [run, "--epoch", 2, "--resume"], [straight, "--epoch", 2]):
        assert train.main([str(word) for word in (*words, "--save_dir", *more)]) == 0
    assert "resuming in epoch 2" in capsys.readouterr().out
    broken, unbroken = (load_checkpoint(folder / "checkpoints")[0] for folder in (run, straight))
    assert broken["progress"]["epoch"] == unbroken["progress"]["epoch"] == 2
    for part in ("model", "optimizer", "average"):
        assert broken[part].keys() == unbroken[part].keys()
        for name, value in broken[part].items():
            np.testing.assert_array_equal(value, unbroken[part][name], err_msg=name)
            assert np.isfinite(value).all(), name
    weights = str(run / "best.pdparams")
    assert infer.main(["--weights", weights, "--split", "test"]) == 0
    output = tmp_path / "predictions.jsonl"
    assert infer.main(["--weights", weights, str(clip), "--output", str(output)]) == 0
    (row,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert (Path(row["path"]), sorted(row["classes"])) == (clip, ["dark", "light"])
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
    return run


def test_each_network_learns_from_pickled_clips(network, small_data, tmp_path, capsys):
    clip = small_data / "clip 1.pkl"
    run = learn_resume_and_predict(network, small_data, clip, tmp_path, capsys)
    assert load_config(run / "config.yaml").model.format == "pkl"
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["num_clips"], metrics["num_bad"]) == (4, 0)


def test_each_network_learns_from_a_folder_of_videos(network, tmp_path, capsys):
    for name, level in (("dark", 0), ("light", 90)):
        for number in range(5):
            frames = frames_of(8, 36, 48, number) // 2 + level
            write_video(
                tmp_path / "videos" / name / f"{name} {number}.avi", frames.astype(np.uint8)
            )
    clip = tmp_path / "videos" / "dark" / "dark 0.avi"
    run = learn_resume_and_predict(network, tmp_path / "videos", clip, tmp_path, capsys)
    assert load_config(run / "config.yaml").model.format == "video"
    lists = {path.stem: path.read_text().splitlines() for path in (run / "lists").glob("*.list")}
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["num_clips"], metrics["num_bad"]) == (len(lists["test"]), 0)
    assert sum(map(len, lists.values())) == 10


def test_of_each_network_a_frozen_trunk_keeps_the_weights_it_started_from(
    network, small_data, tmp_path, capsys
):
    words = ["--config", network, "--data", small_data, "--epoch", 1, "-o", "TRAIN.layer_decay=1.0"]
    first = [*words, "--save_dir", tmp_path / "first"]
    assert train.main([str(word) for word in first]) == 0
    start = tmp_path / "first" / "best.pdparams"
    frozen = [*words, "--save_dir", tmp_path / "frozen", "--pretrain", start, "--seed", 1]
    assert train.main([str(w) for w in [*frozen, "-o", "TRAIN.freeze_trunk=True"]]) == 0
    assert f"starts from {start}" in capsys.readouterr().out
    before, after = (
        read_weights(tmp_path / f / "best.pdparams").arrays for f in ("first", "frozen")
    )
    moved = {name for name in before if (before[name] != after[name]).any()}
    head = "head" if "timesformer" in network.stem else "fc"
    assert moved == {f"{head}.weight", f"{head}.bias"}

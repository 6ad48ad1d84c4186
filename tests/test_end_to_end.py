"""From videos to predictions through the command line, as the README says it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from conftest import write_video

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
    assert f"infer.py --config output/my/config.yaml --weights {weights}" in out
    call(tmp_path, "infer.py", "--config", "my.yaml", "--weights", weights, "--split", "test")
    metrics = json.loads((tmp_path / "output" / "my" / "metrics.json").read_text())
    assert metrics["num_clips"] == 2
    out = call(tmp_path, "infer.py", "--config", "my.yaml", "--weights", weights, "videos/亮")
    assert out.count("clip") == 10 and "dark side" in out

"""Every command of the README runs: as it stands, but on little data and for one epoch."""

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib import import_module
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import write_video

from paddlevid import build, features
from paddlevid.layers.trunks import create_trunk

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


COMMANDS = [line for block in blocks(README, "sh") for line in block.splitlines() if line]

SMALL = ["-o", "TRAIN.batch_size=2"]
for _section in ("TRAIN", "VALID", "TEST", "INFER"):
    SMALL += ["-o", f"{_section}.target_size=32", "-o", f"{_section}.short_size=36"]
# What is added to the commands of a script so that they take a moment.
LIGHT = {
    "data_tools/make_demo.py": ["--clips", "12"],
    "train.py": ["--epoch", "1", "--overwrite", *SMALL],
    "infer.py": SMALL[2:],
    "data_tools/extract_features.py": ["--frames", "uniform:2", "--size", "75", "75"],
    "paddlevid": [],
    "paddlevid.convert": ["--overwrite"],
    "paddlevid.export": [],
    "paddlevid.doctor": [],
    "paddlevid.bench": ["--steps", "1", "--size", "32", "--clips", "2"],
}
# What is added to the training of a published network.
SLIM = {
    "configs/cnn_lstm.yaml": ["-o", "MODEL.seg_num=2", "-o", "MODEL.fixed_size=[75,75]"],
    "configs/lrcn.yaml": [
        "-o", "MODEL.name=lrcn_r18",
        "-o", 'MODEL.arguments={"width": 8, "grid": 1, "reduced": 8, "hidden": 8}',
    ],
    "configs/demo/convlstm.yaml": [
        "-o", "TRAIN.num_sequences=8", "-o", "VALID.num_sequences=4", "-o", "TEST.num_sequences=4",
    ],
    "configs/convlstm.yaml": [
        "-o", "MODEL.seg_num=3", "-o", "MODEL.num_future=2", "-o", 'MODEL.arguments={"hidden": 4}',
    ],
    "configs/eco.txt": ["-o", 'MODEL.arguments={"width": 8}', "-o", "MODEL.seg_num=4"],
    "configs/timesformer.yaml": [
        "-o", 'MODEL.arguments={"dim": 32, "depth": 2, "num_heads": 2}',
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    """A folder with the configs, some videos of three classes, and a tiny HMDB51."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "configs", folder / "configs")
    rng = np.random.default_rng(0)
    for name in ("跑", "jump high", "sit"):
        for number in range(10):
            frames = rng.integers(0, 256, (6, 36, 48, 3)).astype(np.uint8)
            write_video(folder / "my_videos" / name / f"{number}.avi", frames)
    for label in range(51):
        lines = []
        for number, side in enumerate((1, 1, 2)):
            name = f"Film_{number}_action{label}_f_cm_np1_fr_goo_{number}.avi"
            frames = rng.integers(0, 256, (4, 36, 48, 3)).astype(np.uint8)
            write_video(folder / "hmdb51" / f"action{label}" / name, frames)
            lines.append(f"{name} {side}\n")
        split = folder / "testTrainMulti_7030_splits" / f"action{label}_test_split1.txt"
        split.parent.mkdir(exist_ok=True)
        split.write_text("".join(lines))
    return folder


@pytest.mark.slow
def test_every_command_runs(sandbox, monkeypatch, capsys):
    monkeypatch.chdir(sandbox)
    resnet18 = paddle.vision.models.resnet18()
    paddle.save(resnet18.state_dict(), "resnet18.pdparams")
    monkeypatch.setattr(build.network, "download", lambda url, md5: "resnet18.pdparams")
    shutil.copy(
        "resnet18.pdparams", "resnet18-f37072fd.pth"
    )  # what it is, is seen from its content
    paddle.save(create_trunk("inception_v3").state_dict(), "inception_v3.pdparams")
    monkeypatch.setattr(features, "download", lambda url, md5: "inception_v3.pdparams")
    ran = 0
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "visualdl":
            assert_dashboards_open(words)
        elif words[1] == "-m" or not (ROOT / words[1]).exists():  # or a script that is made here
            added = LIGHT[words[2]] if words[1] == "-m" else []
            done = subprocess.run([sys.executable, *words[1:], *added])
            assert done.returncode == 0, command
        else:
            module = import_module(words[1].removesuffix(".py").replace("/", "."))
            added = LIGHT.get(words[1], []) if "--resume" not in words else []
            added = added or (["--epoch", "2", *SMALL] if "--resume" in words else [])
            added = added + next((SLIM[word] for word in words if word in SLIM), [])
            assert module.main([*words[2:], *added]) == 0, (command, capsys.readouterr().err)
        ran += 1
    assert ran == len(COMMANDS) > 15


def assert_dashboards_open(words):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(sys.executable).with_name(words[0])
    server = subprocess.Popen(
        [script, *words[1:], "--port", str(port), "--host", "127.0.0.1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}/app/api/scalar/tags"
        page = ""
        for _ in range(300):
            with contextlib.suppress(OSError):
                page = urllib.request.urlopen(url, timeout=5).read().decode()
                break
            time.sleep(0.1)
        assert "loss" in page and "learning_rate" in page
    finally:
        os.killpg(server.pid, 9)
        server.wait()


@pytest.mark.slow
def test_the_python_example_runs():
    (example,) = blocks(README, "python")
    out = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=True
    ).stdout
    assert "tsn_r50" in out


def test_the_chinese_readme_has_the_same_commands():
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    for language in ("sh", "python"):
        assert blocks(chinese, language) == blocks(README, language)
    indented = [re.findall(r"^    (.+)$", text, re.MULTILINE) for text in (README, chinese)]
    commands = [
        [line for line in lines if line.startswith(("make", "pip", "python"))] for lines in indented
    ]
    assert commands[0] == commands[1]


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / name).exists(), name

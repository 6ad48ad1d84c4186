"""Two processes of paddle.distributed.launch on a CPU, against one that does their work."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
import safetensors.numpy
from test_options import TRANSFORMER

from paddlevid import distributed
from paddlevid.layers.trunks import create_trunk
from paddlevid.weights import write_weights

ROOT = Path(__file__).parents[1]
NETWORK = [
    "-o", f"MODEL.name={TRANSFORMER[0]}",
    "-o", f"MODEL.arguments={TRANSFORMER[1] | {'drop_path': 0.0}}",
]  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="of the launcher on Linux"),
]


def launch(folder: Path, script: str, *words: object, alone: bool = False, start: bool = False):
    """Run a script in two processes, or in one; what rank 0 says goes to the launcher's stdout."""
    command = [sys.executable, str(ROOT / script), *map(str, words)]
    if not alone:
        launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
        command[1:1] = [*launcher, "--log_dir", str(folder / "log")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")}
    settings = {
        "cwd": folder, "env": {**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
    }  # fmt: skip
    if start:
        return subprocess.Popen(command, **settings, start_new_session=True)
    return subprocess.run(command, **settings, timeout=300)


def lines(folder: Path) -> str:
    """What all ranks said."""
    return "\n".join(path.read_text() for path in sorted((folder / "log").glob("workerlog.*")))


def figures(run: Path, split: str) -> list[list[float]]:
    with open(run / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split and row["loss"]]
    return [[float(row[name]) for name in ("step", "loss", "top1")] for row in rows]


@pytest.fixture
def seven(small_data: Path) -> Path:
    """A list of seven clips, for steps of four: the last one is ragged."""
    clips = (small_data / "train.list").read_text().splitlines()
    path = small_data / "seven.list"
    path.write_text("".join(f"{line}\n" for line in (clips * 2)[:7]))
    return path


def train_words(config: Path, run: Path, clips: Path, batch_size: int, *more: str) -> list[str]:
    overrides = [
        f"TRAIN.filelist={clips}", f"TRAIN.batch_size={batch_size}", f"VALID.filelist={clips}",
        "VALID.batch_size=2", "TRAIN.mixup=0", "TRAIN.learning_rate=0.01",
    ]  # fmt: skip
    words = [word for override in overrides for word in ("-o", override)]
    return ["--config", str(config), "--save_dir", str(run), *NETWORK, *words, *more]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_as_one_with_twice_the_batch(small_config, seven, tmp_path, accumulate):
    """Also where the last step has one clip for one rank, and none or one for the other."""
    one, two = tmp_path / "one", tmp_path / "two"
    more = ["-o", f"TRAIN.accumulate={accumulate}"]
    alone = launch(
        tmp_path, "train.py", *train_words(small_config, one, seven, 4, *more), alone=True
    )
    assert alone.returncode == 0, alone.stderr
    both = launch(tmp_path, "train.py", *train_words(small_config, two, seven, 2, *more))
    assert both.returncode == 0, lines(tmp_path)
    assert f"a step is of {4 * accumulate} clips" in lines(tmp_path)
    for split in ("train", "val"):
        expected = figures(one, split)
        assert len(expected) == (2 if split == "val" else 4 // accumulate)
        np.testing.assert_allclose(figures(two, split), expected, rtol=1e-4)
    expected = safetensors.numpy.load_file(one / "best.safetensors")
    for name, array in safetensors.numpy.load_file(two / "best.safetensors").items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-5)


def test_a_killed_rank_ends_the_job_which_can_be_resumed(small_config, seven, tmp_path):
    run = tmp_path / "run"
    words = train_words(small_config, run, seven, 2, "--epoch", "200")
    job = launch(tmp_path, "train.py", *words, start=True)
    try:
        deadline = time.monotonic() + 120
        while not list(run.glob("checkpoints/*.ckpt")):
            assert time.monotonic() < deadline and job.poll() is None, lines(tmp_path)
            time.sleep(0.1)
        victim = rank_of(job.pid, "1")
        os.kill(victim, signal.SIGKILL)
        said = "".join(job.communicate(timeout=120))
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode != 0
    assert "failed" in said.lower()
    done = int(sorted(run.glob("checkpoints/*.ckpt"))[-1].stem.removeprefix("step_"))
    epochs = done // 2 + 2
    words = train_words(small_config, run, seven, 2, "--epoch", str(epochs), "--resume")
    again = launch(tmp_path, "train.py", *words)
    assert again.returncode == 0, lines(tmp_path)
    assert f"resuming in epoch {done // 2 + 1}" in lines(tmp_path)
    assert [row[0] for row in figures(run, "train")] == list(range(1, 2 * epochs + 1))


def test_a_job_that_is_asked_to_end_saves_the_step_it_is_in(small_config, seven, tmp_path):
    """As by a queueing system: SIGTERM for the launcher, which passes it on three times."""
    run, many = tmp_path / "run", seven.with_name("many.list")
    many.write_text(seven.read_text() * 300)
    words = train_words(small_config, run, many, 2)
    job = launch(tmp_path, "train.py", *words, start=True)
    try:
        deadline = time.monotonic() + 120
        while not (run / "metrics.csv").exists() or len(figures(run, "train")) < 3:
            assert time.monotonic() < deadline and job.poll() is None, lines(tmp_path)
            time.sleep(0.1)
        os.kill(job.pid, signal.SIGTERM)
        job.communicate(timeout=60)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    newest = sorted(run.glob("checkpoints/*.ckpt"))[-1].stem
    steps = int(newest.removeprefix("step_"))
    assert 3 <= steps < 525, lines(tmp_path)
    assert f"saved {run}/checkpoints/{newest}.ckpt; go on: " in lines(tmp_path)
    # One process, which has two steps for one of theirs, sees the other clips and no more.
    done = launch(tmp_path, "train.py", *words, "--resume", "--epoch", "1", alone=True)
    assert done.returncode == 0, done.stderr
    assert int(figures(run, "train")[-1][0]) == steps + 1050 - 2 * steps


def rank_of(launcher: int, rank: str) -> int:
    """The process of a rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher and f"PADDLE_TRAINER_ID={rank}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"rank {rank} is not there")


def test_evaluation_and_prediction_count_each_clip_once_and_in_order(
    small_config, small_data, seven, tmp_path
):
    one, two = tmp_path / "one", tmp_path / "two"
    trained = launch(
        tmp_path, "train.py",
        *train_words(small_config, one, seven, 4, "-o", f"TEST.filelist={seven}"), alone=True,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    two.mkdir()
    for name in ("best.safetensors", "classes.txt"):
        if (one / name).exists():
            (two / name).write_bytes((one / name).read_bytes())
    broken = small_data / "broken.list"
    broken.write_text(seven.read_text().replace("\n", "\nmissing.pkl 0\n", 1))
    for run, alone in ((one, True), (two, False)):
        weights = run / "best.safetensors"
        done = launch(tmp_path, "infer.py", "--weights", weights, "--split", "test", alone=alone)
        assert done.returncode == 0, done.stderr + lines(tmp_path)
        done = launch(
            tmp_path, "infer.py", "--weights", weights, "--output", run / "found.jsonl", broken,
            "--report", run / "page.html", alone=alone,
        )  # fmt: skip
        assert done.returncode != 0
        for page in ("report.html", "page.html"):  # rank 0 alone has written them
            assert (run / page).read_text(encoding="utf-8").count("data:image/jpeg") == 7
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (two, one))
    assert ours["num_clips"] == 7
    assert ours == pytest.approx(theirs, rel=1e-5)
    found, expected = (
        [json.loads(line) for line in (run / "found.jsonl").read_text().splitlines()]
        for run in (two, one)
    )
    assert [row["path"] for row in found] == [row["path"] for row in expected]
    assert [bool(row["problem"]) for row in found] == [False, True] + 6 * [False]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["classes"] == theirs["classes"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-5)


def test_features_are_extracted_once_by_one_of_the_processes(small_data, seven, tmp_path):
    weights = tmp_path / "trunk.safetensors"
    write_weights(weights, create_trunk("resnet18"))
    words = ["--model", "resnet18", "--size", "32", "32", "--frames", "uniform:3"]
    for name, alone in (("one", True), ("two", False)):
        done = launch(
            tmp_path, "data_tools/extract_features.py", seven, tmp_path / name, *words,
            "--weights", weights, alone=alone,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + lines(tmp_path)
    one, two = (
        sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*.*"))
        for name in ("one", "two")
    )
    assert one == two
    for name in one:
        if name.suffix == ".npy":
            found, expected = np.load(tmp_path / "two" / name), np.load(tmp_path / "one" / name)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert "of 7 clips, 7 of them new, 0 left out" in lines(tmp_path)


def test_alone_there_is_one_rank_and_nothing_to_wait_for():
    assert (distributed.rank(), distributed.num_ranks()) == (0, 1)
    assert distributed.gather("x") == ["x"]
    assert distributed.on_first(lambda: 3) == 3
    distributed.join()
    layer = paddle.nn.Linear(2, 2)
    layer(paddle.ones([1, 2])).sum().backward()
    before = layer.weight.grad.numpy()
    distributed.add_gradients(layer.parameters())
    distributed.share_statistics(layer)
    np.testing.assert_array_equal(layer.weight.grad.numpy(), before)


def test_gradients_travel_in_buckets_of_one_type_and_limited_size(monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 40)
    tensors = [paddle.zeros([n], dtype) for n, dtype in
               ((5, "float32"), (5, "float32"), (1, "float32"), (100, "float32"),
                (1, "float64"), (1, "float32"))]  # fmt: skip
    assert [[t.size for t in bucket] for bucket in distributed._buckets(tensors)] == [
        [5, 5], [1], [100], [1], [1],
    ]  # fmt: skip

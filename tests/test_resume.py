"""Runs that are killed (SIGKILL) at chosen moments, and go on as if nothing had happened."""

import csv
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

ROOT = Path(__file__).parents[1]
OVERRIDES = [
    "TRAIN.epoch=3", "TRAIN.batch_size=3", "TRAIN.accumulate=2", "TRAIN.ema=0.9",
    "TRAIN.mixup=0.3", "TRAIN.warmup_epochs=1",
]  # fmt: skip

# A training that ends in the middle of a call: the `count`-th of a function.
KILLED = """
import os, pickle, signal, sys
from paddlevid import runtime
runtime.configure()
import train
from paddlevid import checkpoint, trainer
owner, name, count, moment, *words = sys.argv[1:]
owner = {"trainer": trainer, "os": os, "pickle": checkpoint.pickle}[owner]
calls, function = 0, getattr(owner, name)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def killed(*args, **arguments):
    global calls
    calls += 1
    if calls < int(count):
        return function(*args, **arguments)
    if moment == "half":
        args[1].write(pickle.dumps(args[0])[:1000])
        args[1]._file.flush()
    if moment == "after":
        function(*args, **arguments)
    die()

setattr(owner, name, killed)
train.main(words)
"""


def words(config: Path, run: Path, *more: str) -> list[str]:
    overrides = [word for override in OVERRIDES for word in ("-o", override)]
    return ["--config", str(config), "--save_dir", str(run), *overrides, *more]


def run_python(*command: object, **settings: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True,
        timeout=300, **settings,
    )  # fmt: skip


def train(*arguments: str, **settings: object) -> subprocess.CompletedProcess:
    return run_python("train.py", *arguments, **settings)


def rows(run: Path) -> list[dict[str, str]]:
    """All figures but those of time."""
    with open(run / "metrics.csv") as file:
        table = list(csv.DictReader(file))
    kept = [{k: v for k, v in row.items() if k not in ("clips_per_second", "data_wait")}
            for row in table]  # fmt: skip
    return [row for row in kept if row["loss"]]


@pytest.fixture(scope="module")
def unbroken(small_data, tmp_path_factory) -> Path:
    """A run to its end."""
    folder = tmp_path_factory.mktemp("unbroken")
    done = train(*words(config_in(folder, small_data), folder / "run"))
    assert done.returncode == 0, done.stderr
    return folder / "run"


def config_in(folder: Path, data: Path) -> Path:
    path = folder / "run.yaml"
    reader = "{batch_size: 4, short_size: 32, target_size: 32, filelist: %s}"
    path.write_text(
        "MODEL: {name: tsn_r18, num_classes: 2, seg_num: 2, arguments: {width: 8, dropout: 0.3}}\n"
        + "".join(
            f"{section}: {reader % (data / f'{name}.list')}\n"
            for section, name in (("TRAIN", "train"), ("VALID", "val"))
        )
    )
    return path


MOMENTS = {
    "in the first step": ("trainer", "train_step", 1, "before"),
    "in a step": ("trainer", "train_step", 4, "after"),
    "in an evaluation": ("trainer", "evaluate", 2, "before"),
    "between the two files of the best weights": ("trainer", "write_weights", 2, "before"),
    "in the middle of a checkpoint": ("pickle", "dump", 3, "half"),
    "before a checkpoint is in its place": ("os", "replace", 8, "before"),
}
OTHER_MOMENTS = (
    "in the first step", "in a step", "in an evaluation", "before a checkpoint is in its place",
)  # fmt: skip


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills as POSIX does")
@pytest.mark.parametrize(
    ("moment", "minutes"),
    [
        ("in a step", 1e-9),
        ("in the middle of a checkpoint", 0),
        ("between the two files of the best weights", 0),
        *(pytest.param(moment, 0, marks=pytest.mark.slow) for moment in OTHER_MOMENTS),
        pytest.param("between the two files of the best weights", 1e-9, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    moment, minutes, small_data, unbroken, tmp_path
):
    given = words(
        config_in(tmp_path, small_data), tmp_path / "run", "-o",
        f"TRAIN.checkpoint_minutes={minutes}",
    )  # fmt: skip
    done = run_python("-c", KILLED, *MOMENTS[moment], *given)
    assert done.returncode == -signal.SIGKILL, done.stderr
    done = train(*given, "--resume")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "run") == rows(unbroken)
    found, expected = (
        safetensors.numpy.load_file(run / "best.safetensors")
        for run in (tmp_path / "run", unbroken)
    )
    for key, array in expected.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-5, atol=1e-7)
    left = [path.name for path in (tmp_path / "run").rglob("*") if "partial" in path.name]
    assert left == []


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_before(small_data, unbroken, tmp_path):
    given = words(config_in(tmp_path, small_data), tmp_path / "run")
    assert train(*given, "--epoch", "1").returncode == 0
    kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
    limit = kept[-1].stat().st_size // 2

    def fill_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = train(*given, "--resume", preexec_fn=fill_disk)
    assert done.returncode == 1
    assert "train.py: " in done.stderr and "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert kept[-1] in (tmp_path / "run" / "checkpoints").iterdir()
    done = train(*given, "--resume")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "run") == rows(unbroken)

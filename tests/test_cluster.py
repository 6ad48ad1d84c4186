"""Preparing data on a Dask cluster: a scheduler and two workers on this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import frames_of, write_video

from paddlevid import runtime
from paddlevid.cluster import open_workers

distributed = pytest.importorskip("distributed")
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[str]:
    """Its address."""
    address = f"127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("cluster")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    dask = [sys.executable, "-m", "distributed.cli"]
    port = address.rpartition(":")[2]
    scheduler = ["dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    worker = ["dask_worker", address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
    with open(folder / "log", "w") as log:
        settings = {"cwd": folder, "env": environment, "stdout": log, "stderr": log}
        started = [
            subprocess.Popen([*dask[:-1], f"distributed.cli.{words[0]}", *words[1:]], **settings)
            for words in (scheduler, worker)
        ]
        try:
            wait_for_workers(address, 2, folder / "log")
            yield address
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(20)


def wait_for_workers(address: str, number: int, log: Path) -> None:
    for _ in range(120):
        try:
            with distributed.Client(address, timeout=1) as client:
                if len(client.scheduler_info()["workers"]) == number:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Six videos of two classes, and one that is none."""
    for name in ("run/a", "run/b", "run/c", "walk/a", "walk/b", "walk/c"):
        write_video(tmp_path / "videos" / f"{name}.avi", frames_of(5))
    (tmp_path / "videos" / "run" / "broken.avi").write_bytes(b"no video")
    return tmp_path / "videos"


def run(folder: Path, script: str, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "data_tools" / script), *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_frames_and_pickles_are_made_as_without_it(cluster, videos, tmp_path):
    for name, more in (("here", ()), ("there", ("--cluster", cluster))):
        done = run(tmp_path, "avi2jpg.py", "videos", f"{name}_jpg", *more)
        assert done.returncode == 1
        assert "6 videos extracted (30 frames), 0 were there already, 1 failed" in done.stdout
        assert "broken.avi" in done.stderr
        done = run(tmp_path, "jpg2pkl.py", f"{name}_jpg", f"{name}_pkl", "--embed", *more)
        assert done.returncode == 0, done.stderr
        assert "6 clips of 2 classes packed" in done.stdout
    assert files_in(tmp_path / "here_jpg") == files_in(tmp_path / "there_jpg")
    here, there = (files_in(tmp_path / f"{name}_pkl") for name in ("here", "there"))
    del here["jpg2pkl.json"], there["jpg2pkl.json"]  # they name the source
    assert here == there
    assert len([name for name in here if name.endswith(".pkl")]) == 6


def test_videos_are_checked_as_without_it(cluster, videos, tmp_path):
    for name, more in (("here", ()), ("there", ("--cluster", cluster))):
        done = run(tmp_path, "check_videos.py", "videos", "--output", name, *more)
        assert done.returncode == 1, done.stderr
        assert "6 good, 1 bad, 7 clips in all" in done.stdout
    assert files_in(tmp_path / "here") == files_in(tmp_path / "there")


def test_features_are_extracted_as_without_it(cluster, videos, tmp_path):
    runtime.configure()
    from paddlevid.layers.trunks import create_trunk
    from paddlevid.weights import write_weights

    write_weights(tmp_path / "trunk.safetensors", create_trunk("resnet18"))
    lines = [f"videos/{name}.avi 0\n" for name in ("run/a", "run/broken", "walk/a", "walk/b")]
    (tmp_path / "train.list").write_text("".join(lines))
    for name, more in (("here", ()), ("there", ("--cluster", cluster))):
        done = run(
            tmp_path, "extract_features.py", "train.list", name, "--model", "resnet18", "--weights",
            "trunk.safetensors", "--size", 32, 32, "--frames", "uniform:3", *more,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert "of 3 clips, 3 of them new, 1 left out" in done.stdout
    here, there = (sorted((tmp_path / name).rglob("*.npy")) for name in ("here", "there"))
    assert len(here) == len(there) == 3
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(np.load(one), np.load(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("script", ["avi2jpg.py", "check_videos.py"])
def test_a_cluster_that_is_not_there_is_said_to_be_missing(script, videos, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    target = ("out",) if script == "avi2jpg.py" else ()
    done = run(tmp_path, script, "videos", *target, "--cluster", address)
    assert done.returncode == 1
    assert f"{script}: --cluster {address}: no Dask scheduler answers there" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_cluster_jobs_run_in_processes_of_this_machine():
    with open_workers(1) as parallel:
        assert parallel.n_jobs == 1

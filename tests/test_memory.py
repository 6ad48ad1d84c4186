"""Memory: what is free, also in a container, and what processes hold."""

import mmap
import subprocess
import sys

import psutil
import pytest

from paddlevid import memory


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Writes the files of a container's memory: limit, use and what of it are cached files."""
    files = tuple(tmp_path / name for name in ("max", "current", "stat"))
    monkeypatch.setattr(memory, "CONTAINER_FILES", ((tmp_path / "none",) * 3, files))

    def write(limit: str, used: int, cached: int) -> None:
        for file, text in zip(
            files, (limit, f"{used}\n", f"anon 1\ninactive_file {cached}\nx 2\n"), strict=True
        ):
            file.write_text(text)

    return write


def test_without_a_container_it_is_what_the_system_has(container):
    for limit in ("max\n", f"{1 << 62}\n"):
        container(limit, 5, 0)
        free, total = memory.free_memory()
        assert total == psutil.virtual_memory().total
        assert 0 < free <= total


def test_in_a_container_its_limit_counts_and_cached_files_are_free(container):
    container("1000000\n", 700_000, 0)
    assert memory.free_memory() == (300_000, 1_000_000)
    container("1000000\n", 700_000, 500_000)
    assert memory.free_memory() == (800_000, 1_000_000)
    container("1000000\n", 1_100_000, 0)
    assert memory.free_memory() == (0, 1_000_000)


def test_the_shared_memory_is_that_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "SHARED", tmp_path)
    free, total = memory.free_shared_memory()
    assert 0 < free <= total
    monkeypatch.setattr(memory, "SHARED", tmp_path / "none")
    assert memory.free_shared_memory() is None


def test_memory_that_is_taken_is_seen_here_and_in_processes():
    before, _ = memory.held_memory()
    with mmap.mmap(-1, 50_000_000) as taken:  # an array may get memory that is held already
        taken.write(b"1" * len(taken))
        assert memory.held_memory()[0] - before > 0.9 * len(taken)
    code = "taken = bytearray(b'1') * 80_000_000; print('taken', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as child:
        child.stdout.readline()
        assert memory.held_memory()[1] > 80_000_000
        child.communicate(b"\n")


@pytest.mark.parametrize(
    ("size", "words"), [(12_345_000_000, "12.3 GB"), (64_000_000, "64 MB"), (0, "0 MB")]
)
def test_sizes_in_words(size, words):
    assert memory.in_words(size) == words

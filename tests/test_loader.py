"""Loading: every clip once and in order, whatever happens to the processes that read them."""

import contextlib
import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddlevid.data.dataset import Item, ListError, VideoDataset, read_list
from paddlevid.data.loader import BadSamplesError, Loader
from paddlevid.data.shared_memory import Slot


class Clips:
    """Clips that hold their own index and epoch, and what a test does to some of them."""

    def __init__(self, count: int, log: Path | None = None, **happens: object):
        self.count = count
        self.log = log
        self.happens = {int(key[1:]): what for key, what in happens.items()}

    def __len__(self) -> int:
        return self.count

    def fetch(self, index: int, epoch: int = 0) -> Item:
        assert 0 <= index < self.count
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{index} {os.getpid()}\n")
        what = self.happens.get(index)
        if callable(what):
            return what(index)
        if what is not None:
            return Item(index, problem=f"clip {index} {what}", fatal=what == "fatal")
        return Item(index, np.full((1, 1, 1, 2, 2), index + 100 * epoch, np.float32), index % 7)


def hang(index):
    time.sleep(1000)


def leave(index):
    os._exit(3)


def killed(index):
    os.kill(os.getpid(), signal.SIGKILL)


def bus_error(index):
    os.kill(os.getpid(), signal.SIGBUS)


def crashed(index):
    os.kill(os.getpid(), signal.SIGSEGV)


def aborted(index):
    os.kill(os.getpid(), signal.SIGABRT)


class Stalled:
    """Opens a pipe that nobody writes to: as a file on a network drive that does not answer."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, index: int) -> Item:
        return Item(index, problem=self.path.read_text())


def raising(index):
    raise KeyError("a defect made for this test")


def unpicklable(index):
    return Item(index, problem=lambda: 0)


def killed_while_it_sends(index):
    """As by the kernel that is out of memory: half of the clip is in the pipe."""

    def half(self, content, write=None):
        os.write(self.fileno(), bytes(content[: len(content) // 2]))
        if len(content) > 1000:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(self.fileno(), bytes(content[len(content) // 2 :]))

    Connection._send = half
    return Item(index, np.zeros((1, 3, 8, 24, 24), np.float32), 0)  # not large: in the message


def killed_while_it_writes(index):
    """The same with half of the clip in the shared memory."""

    def write(self, buffers, sizes):
        os.posix_fallocate(self.handle, 0, sum(sizes))
        self._map(sum(sizes))
        self._memory[: sizes[0] // 2] = buffers[0].raw()[: sizes[0] // 2]
        os.kill(os.getpid(), signal.SIGKILL)

    Slot._write = write
    return Item(index, np.zeros((1, 3, 8, 99, 99), np.float32), 0)


def release(fifo: Path) -> None:
    """Let the threads end that wait for the pipe."""
    os.close(os.open(fifo, os.O_RDWR))  # waits for nobody, even where there are none


class Growing(Clips):
    """Clips of 4 bytes, 120 kB, 4 bytes, 480 kB, ...: some in messages, some in shared memory."""

    def fetch(self, index: int, epoch: int = 0) -> Item:
        side = 1 if index % 2 == 0 else 100 * (index + 1) // 2
        return Item(index, np.full((1, 3, 1, side, side), index + 100 * epoch, np.float32), index)


class Once:
    """Does something to the first process that fetches the clip only."""

    def __init__(self, mark: Path, what):
        self.mark = mark
        self.what = what

    def __call__(self, index: int) -> Item:
        if not self.mark.exists():
            self.mark.touch()
            self.what(index)
        return Item(index, np.full((1, 1, 1, 2, 2), index, np.float32), index % 7)


def opencv_threads(index):
    modules = [name for name in ("paddle", "torch") if name in sys.modules]
    views = np.full((1, 1), cv2.getNumThreads(), np.float32)
    return Item(index, problem=f"imports {modules}") if modules else Item(index, views, 0)


@pytest.fixture(autouse=True)
def nothing_is_left():
    """After each test: no processes and no threads more than before."""
    before = threading.active_count(), len(multiprocessing.active_children())
    yield
    gc.collect()
    wait_for(lambda: threading.active_count() <= before[0])
    wait_for(lambda: len(multiprocessing.active_children()) <= before[1])


def wait_for(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def read_all(loader: Loader, **options) -> list[int]:
    return [index for batch in loader.batches(**options) for index in batch.indices.tolist()]


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


# --- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_clip_comes_once_in_order_with_a_ragged_last_batch(num_workers, tmp_path):
    log = tmp_path / "log"
    with Loader(Clips(10, log), 4, num_workers=num_workers) as loader:
        batches = list(loader.batches(epoch=2))
        assert len(loader) == len(batches) == 3
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [batch.number for batch in batches] == [0, 1, 2]
    for batch in batches:
        assert batch.clips.shape == (len(batch.indices), 1, 1, 2, 2)
        assert batch.clips.dtype == np.float32 and batch.labels.dtype == np.int64
        assert (batch.clips[:, 0, 0, 0, 0] == batch.indices + 200).all()
        assert (batch.labels == batch.indices % 7).all()
        assert batch.num_views == 1
    read = [line.split() for line in log.read_text().splitlines()]
    assert sorted(int(index) for index, _ in read) == list(range(10))  # and none beyond the epoch
    assert (str(os.getpid()) in {pid for _, pid in read}) == (num_workers == 0)


def test_workers_and_the_main_process_read_the_same():
    def everything(num_workers):
        loader = Loader(Clips(13), 3, shuffle=True, seed=4, num_workers=num_workers)
        with loader:
            return [
                (batch.number, batch.indices.tolist(), batch.labels.tolist(), batch.clips.tobytes())
                for epoch in range(2)
                for batch in loader.batches(epoch)
            ]

    assert everything(0) == everything(1) == everything(2)


def test_the_order_depends_on_seed_and_epoch():
    def order(seed, epoch):
        return read_all(Loader(Clips(30), 4, shuffle=True, seed=seed), epoch=epoch)

    assert order(1, 0) == order(1, 0)
    assert sorted(order(1, 0)) == list(range(30))
    assert len({tuple(order(*pair)) for pair in [(1, 0), (1, 1), (2, 0), (2, 1)]}) == 4


# --- clips with weights ---------------------------------------------------------------------------


def test_clips_are_drawn_in_proportion_to_their_weights_and_again():
    loader = Loader(Clips(5), 4, shuffle=True, weights=[1, 2, 0, 3, 4], seed=2)
    drawn = [read_all(loader, epoch=epoch) for epoch in range(800)]
    assert {len(epoch) for epoch in drawn} == {5}  # as many as there are
    assert any(len(set(epoch)) < 4 for epoch in drawn)  # with replacement
    shares = np.bincount(np.concatenate(drawn), minlength=5) / 4000
    assert shares[2] == 0  # a weight of 0 is never drawn
    np.testing.assert_allclose(shares, [0.1, 0.2, 0, 0.3, 0.4], atol=0.03)


def test_the_unit_of_the_weights_does_not_matter():
    weights = np.array([1.0, 5.0, 2.0, 7.0])
    first, second = (
        read_all(Loader(Clips(4), 2, shuffle=True, weights=w)) for w in (weights, 1024 * weights)
    )
    assert first == second


def test_what_is_drawn_by_weight_depends_on_seed_and_epoch():
    weights = np.arange(1, 31)

    def drawn(seed, epoch, **options):
        loader = Loader(Clips(30), 4, shuffle=True, weights=weights, seed=seed)
        return read_all(loader, epoch=epoch, **options)

    assert drawn(1, 0) == drawn(1, 0)
    assert len({tuple(drawn(*pair)) for pair in [(1, 0), (1, 1), (2, 0), (2, 1)]}) == 4
    assert drawn(1, 3, first=2) == drawn(1, 3)[8:]  # as after a resume


def test_a_clip_that_comes_again_in_an_epoch_is_drawn_anew():
    class Pairs(Clips):
        def fetch(self, index, epoch=0):
            return Item(index, np.full((1, 1, 1, 1, 2), [index, epoch], np.float64), 0)

    def pairs(epoch, first=0, **ranks):
        loader = Loader(Pairs(9), 4, shuffle=True, weights=[8] + [1] * 8, seed=1, **ranks)
        found = np.concatenate([batch.clips for batch in loader.batches(epoch, first)])
        return [tuple(pair) for pair in found[:, 0, 0, 0].astype(int).tolist()]

    seen = [pair for epoch in range(20) for pair in pairs(epoch)]
    assert len(set(seen)) == len(seen) == 180
    assert len({index for index, _ in pairs(3)}) < 9
    assert {(index, 3) for index, _ in pairs(3)} <= set(pairs(3))  # the first time as ever
    assert pairs(3, first=1) == pairs(3)[4:]  # as after a resume
    shared = [pair for rank in (0, 1) for pair in pairs(3, rank=rank, num_ranks=2)]
    assert sorted(shared) == sorted(pairs(3))


def test_weights_without_shuffling_change_nothing():
    assert read_all(Loader(Clips(4), 2, weights=[0, 0, 1, 0])) == [0, 1, 2, 3]


def test_a_bad_clip_that_is_drawn_often_counts_once():
    clips = Clips(10, _3="is bad")
    weights = [1] * 3 + [100] + [1] * 6
    loader = Loader(clips, 2, shuffle=True, weights=weights, max_bad_samples=0.1)
    assert len(read_all(loader)) < 5  # it is most of what is drawn
    assert loader.bad == {3: "clip 3 is bad"}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_some_clips_are_read_once_more_without_counting_bad_ones(num_workers):
    clips = Clips(9, c3="is broken")
    with Loader(
        clips, 2, num_workers=num_workers, max_bad_samples=0, num_ranks=2, rank=1
    ) as loader:
        items = list(loader.some([7, 3, 0]))
        assert [(item.index, item.views[0, 0, 0, 0, 0]) for item in items] == [(7, 7), (0, 0)]
        assert loader.bad == {}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_epoch_can_start_at_a_later_batch(num_workers):
    loader = Loader(Clips(10), 4, shuffle=True, num_workers=num_workers)
    with loader:
        whole = list(loader.batches(1))
        for first in range(4):
            rest = list(loader.batches(1, first=first))
            assert [batch.number for batch in rest] == [0, 1, 2][first:]
            for batch, expected in zip(rest, whole[first:], strict=True):
                assert batch.indices.tolist() == expected.indices.tolist()


def test_the_views_of_a_clip_follow_each_other():
    class Views(Clips):
        def fetch(self, index, epoch=0):
            views = np.array([10 * index, 10 * index + 1, 10 * index + 2], np.float32)
            return Item(index, views.reshape(3, 1, 1, 1, 1), index)

    batch = next(Loader(Views(4), 2).batches(first=1))
    assert batch.clips.reshape(-1).tolist() == [20, 21, 22, 30, 31, 32]
    assert (batch.num_views, batch.labels.tolist()) == (3, [2, 3])


@pytest.mark.parametrize("memory", ["shared", "none"])
def test_clips_of_any_size_are_what_they_were_and_their_own(monkeypatch, memory):
    if memory == "none":
        monkeypatch.delattr(os, "memfd_create")
    with Loader(Growing(9), 1, num_workers=2) as loader:
        clips = [batch.clips for epoch in range(2) for batch in loader.batches(epoch)]
        if memory == "shared":
            assert any(worker.slot._memory for worker in loader._pool._workers)
    for number, clip in enumerate(clips):  # all of them, after the last was read
        index, epoch = number % 9, number // 9
        side = 1 if index % 2 == 0 else 100 * (index + 1) // 2
        assert clip.shape == (1, 3, 1, side, side)
        assert (clip == index + 100 * epoch).all()
        clip += 1  # it can be written to


def shared_memories() -> int:
    """How many this process has open or mapped."""
    files = [os.path.realpath(file) for file in Path("/proc/self/fd").glob("*")]
    return str(files).count("paddlevid-clip") + Path("/proc/self/maps").read_text().count(
        "paddlevid-clip"
    )


@needs_proc
def test_nothing_of_the_shared_memory_is_left():
    clips = Growing(12, _3=killed)
    with Loader(clips, 2, num_workers=2, max_bad_samples=1) as loader:
        for _ in loader.batches():
            break
        read_all(loader)
        assert shared_memories() or not hasattr(os, "memfd_create")
    assert shared_memories() == 0
    loader = Loader(clips, 2, num_workers=2, max_bad_samples=1)
    next(loader.batches())
    del loader
    gc.collect()
    wait_for(lambda: shared_memories() == 0)


# --- bad clips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_clips_are_left_out_and_named_once(num_workers):
    clips = Clips(9, _2="is cut off", _3="is empty", _4="is gone", _5="is text")
    with Loader(clips, 2, num_workers=num_workers, max_bad_samples=0.5) as loader:
        for epoch in range(2):
            batches = list(loader.batches(epoch))
            assert [batch.indices.tolist() for batch in batches] == [[0, 1], [6, 7], [8]]
            assert [batch.number for batch in batches] == [0, 3, 4]
            assert loader.bad == {
                2: "clip 2 is cut off", 3: "clip 3 is empty", 4: "clip 4 is gone",
                5: "clip 5 is text",
            }  # fmt: skip


def test_a_clip_that_is_read_after_all_is_no_longer_bad():
    clips = Clips(4, _2="is away")
    loader = Loader(clips, 4, max_bad_samples=1)
    assert read_all(loader) == [0, 1, 3] and list(loader.bad) == [2]
    clips.happens.clear()
    assert read_all(loader, epoch=1) == [0, 1, 2, 3] and loader.bad == {}


def test_a_rank_may_have_all_the_bad_clips_that_are_allowed():
    clips = Clips(20, _0="is bad", _2="is bad")  # both are of the first of two ranks
    loaders = [Loader(clips, 2, max_bad_samples=0.1, num_ranks=2, rank=rank) for rank in (0, 1)]
    assert sum(len(read_all(loader)) for loader in loaders) == 18
    bad = [reason for loader in loaders for reason in loader.bad.values()]
    loaders[1].check_bad(bad)
    with pytest.raises(BadSamplesError, match="3 of 20 clips cannot be read"):
        loaders[1].check_bad([*bad, "another"])


@pytest.mark.parametrize(
    ("count", "num_bad", "share", "stops"),
    [
        (10, 1, 0, True),
        (10, 0, 0, False),
        (10, 3, 0.3, False),
        (10, 4, 0.3, True),
        (100, 29, 0.29, False),  # 0.29 * 100 is 28.999... in floating point
        (100, 30, 0.29, True),
        (7, 7, 1, False),
    ],
)
def test_loading_stops_past_the_share_of_bad_clips(count, num_bad, share, stops):
    clips = Clips(count, **{f"_{index}": "is bad" for index in range(num_bad)})
    loader = Loader(clips, 4, max_bad_samples=share)
    if stops:
        message = (
            rf"(?s)of {count} clips cannot be read, more than the share max_bad_samples = {share}"
        )
        with pytest.raises(BadSamplesError, match=message + r".*clip 0 is bad.*check_videos\.py"):
            read_all(loader)
    else:
        assert read_all(loader) == list(range(num_bad, count))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_fatal_problem_stops_at_once(num_workers):
    clips = Clips(8, _3="fatal")
    with (
        Loader(clips, 2, num_workers=num_workers, max_bad_samples=1) as loader,
        pytest.raises(ListError, match="clip 3 fatal"),
    ):
        read_all(loader)


# --- processes that fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (leave, "its loading process ended with exit code 3$"),
        (
            killed,
            r"was killed \(SIGKILL\), .* out of memory \(\d.* are free now\): lower num_reader",
        ),
        (killed_while_it_sends, r"was killed \(SIGKILL\)"),
        (killed_while_it_writes, r"was killed \(SIGKILL\)"),
        (bus_error, r"bus error \(SIGBUS\), probably as /dev/shm is full \(\d.*--shm-size"),
        (crashed, r"decoder crashed \(SIGSEGV\): leave the file out; data_tools/check_videos.py"),
        (aborted, "was ended by SIGABRT$"),
    ],
)
def test_a_clip_that_kills_its_process_is_bad_and_all_others_are_read(what, reason):
    with Loader(Clips(9, _3=what), 3, num_workers=2, max_bad_samples=0.5) as loader:
        assert read_all(loader) == [0, 1, 2, 4, 5, 6, 7, 8]
        assert list(loader.bad) == [3]
        assert loader.bad[3].startswith("3: its ") and re.search(reason, loader.bad[3])


def test_a_clip_that_hangs_is_bad_and_all_others_are_read():
    with Loader(Clips(6, _1=hang), 2, num_workers=2, max_bad_samples=0.5, timeout=0.5) as loader:
        start = time.monotonic()
        assert read_all(loader) == [0, 2, 3, 4, 5]
        assert time.monotonic() - start < 8
        assert loader.bad[1].startswith("1: was not read within 0.5 s: is it on a network drive")


@pytest.mark.parametrize("what", [killed, hang])
def test_a_process_that_died_by_chance_costs_no_clip(tmp_path, what):
    clips = Clips(8, _2=Once(tmp_path / "mark", what))
    with Loader(clips, 2, num_workers=2, max_bad_samples=0, timeout=1) as loader:
        assert read_all(loader) == list(range(8))
        assert loader.bad == {}


def test_a_bad_clip_is_named_by_its_path(tmp_path):
    clips = Clips(2, _0=killed)
    clips.samples = [Path("walk/a.avi"), Path("walk/b.avi")]
    with Loader(clips, 1, num_workers=1, max_bad_samples=1) as loader:
        assert read_all(loader) == [1]
        assert loader.bad[0].startswith("walk/a.avi: its loading process was killed")


def test_a_worker_that_is_killed_from_outside_is_not_waited_for(tmp_path):
    """As by the system's out-of-memory killer: the clip itself does nothing."""
    log = tmp_path / "log"

    def kill_next(expected: int) -> None:
        for number in range(expected):  # the second is the clip's second try
            wait_for(lambda number=number: len(tried()) > number)
            os.kill(tried()[number], signal.SIGKILL)

    def tried() -> list[int]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith("1 ")]

    killer = threading.Thread(target=kill_next, args=(2,))
    killer.start()
    clips = Clips(4, log, _1=hang)
    with Loader(clips, 1, num_workers=1, max_bad_samples=0.5, timeout=100) as loader:
        start = time.monotonic()
        assert read_all(loader) == [0, 2, 3]
        assert time.monotonic() - start < 30
        assert "killed (SIGKILL)" in loader.bad[1]
    killer.join()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_blocks_is_given_up_and_named(tmp_path, num_workers):
    fifo = tmp_path / "stalled.avi"
    os.mkfifo(fifo)
    clips = Clips(4, _1=Stalled(fifo))
    clips.samples = [tmp_path / "0.avi", fifo, tmp_path / "2.avi", tmp_path / "3.avi"]
    with Loader(clips, 2, num_workers=num_workers, max_bad_samples=0.5, timeout=0.5) as loader:
        assert read_all(loader) == [0, 2, 3]
        problem = f"{fifo}: was not read within 0.5 s: is it on a network drive that has stalled?"
        assert loader.bad[1].startswith(problem) and "TRAIN.read_timeout" in loader.bad[1]
    release(fifo)


# --- when every clip is lost ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "reason", "share"), [(killed, "SIGKILL", 0.99), (crashed, "SIGSEGV", 1.0)]
)
def test_when_every_clip_kills_its_process_loading_stops_soon(tmp_path, what, reason, share):
    log = tmp_path / "log"
    clips = Clips(1000, log, **{f"_{index}": what for index in range(1000)})
    with (
        Loader(clips, 4, num_workers=2, max_bad_samples=share) as loader,
        pytest.raises(
            BadSamplesError, match=rf"(?s)5 clips in a row were lost in one way.*{reason}"
        ),
    ):
        read_all(loader)
    assert len(log.read_text().splitlines()) < 30


@pytest.mark.parametrize("num_workers", [0, 2])
def test_when_every_clip_hangs_loading_stops_soon(tmp_path, num_workers):
    fifo = tmp_path / "stalled"
    os.mkfifo(fifo)
    clips = Clips(1000, **{f"_{index}": Stalled(fifo) for index in range(3, 1000)})
    start = time.monotonic()
    with (
        Loader(clips, 4, num_workers=num_workers, max_bad_samples=1, timeout=0.5) as loader,
        pytest.raises(BadSamplesError, match="(?s)5 clips in a row were lost.*within 0.5 s"),
    ):
        assert read_all(loader) == []
    assert time.monotonic() - start < 100  # all of them would take 250 s
    release(fifo)


def test_who_allows_any_number_of_bad_clips_gets_those_behind_a_row_of_them(monkeypatch):
    monkeypatch.setattr("paddlevid.data.faults.MOST_LOST", 2)
    clips = Clips(6, _1=crashed, _2=crashed, _3=crashed)
    with Loader(clips, 2, num_workers=1, max_bad_samples=1) as loader:
        assert read_all(loader) == [0, 4, 5]
        assert sorted(loader.bad) == [1, 2, 3]
    with (
        Loader(clips, 2, num_workers=1, max_bad_samples=0.9) as loader,
        pytest.raises(BadSamplesError, match="2 clips in a row"),
    ):
        read_all(loader)


def test_idle_workers_that_are_killed_are_replaced():
    with Loader(Clips(6), 2, num_workers=2, max_bad_samples=0) as loader:
        assert read_all(loader) == list(range(6))
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        assert read_all(loader) == list(range(6))


@pytest.mark.parametrize("what", [raising, unpicklable])
def test_what_a_dataset_raises_against_the_rules_is_shown(what):
    with (
        Loader(Clips(3, _1=what), 1, num_workers=1) as loader,
        pytest.raises(RuntimeError, match=r"(?s)fetch must not raise, .*(KeyError|pickle)"),
    ):
        read_all(loader)


class Unreadable(Clips):
    """A dataset that workers cannot unpickle."""

    def __reduce__(self):
        return raising, (0,)


def test_workers_that_cannot_start_are_an_error_not_a_bad_clip(capfd):
    with (
        Loader(Unreadable(5), 2, num_workers=2, max_bad_samples=1) as loader,
        pytest.raises(RuntimeError, match=r"ended at its start \(exit code 1.*__main__"),
    ):
        read_all(loader)
    assert "a defect made for this test" in capfd.readouterr().err


def threads_of_libraries(index):
    threads = np.full((1, 1), int(os.environ["OMP_NUM_THREADS"]), np.float32)
    return Item(index, threads, 0)


def test_the_libraries_of_workers_use_one_thread_and_those_here_what_they_did(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with Loader(Clips(1, _0=threads_of_libraries), 1, num_workers=1) as loader:
        assert next(loader.batches()).clips.tolist() == [[1]]
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_workers_use_one_thread_of_opencv_and_import_no_paddle():
    with Loader(Clips(2, _0=opencv_threads, _1=opencv_threads), 2, num_workers=1) as loader:
        batch = next(loader.batches())
    assert batch.clips.tolist() == [[1], [1]]


# --- leaving --------------------------------------------------------------------------------------


def test_leaving_early_seven_times_adds_no_processes_or_threads():
    with Loader(Clips(200), 4, num_workers=2) as loader:
        counts = []
        for epoch in range(7):
            for _ in loader.batches(epoch):
                break
            counts.append((threading.active_count(), len(multiprocessing.active_children())))
        assert max(counts) == counts[0]
        assert counts[0][1] <= 2
    assert multiprocessing.active_children() == []


def test_closing_does_not_wait_for_a_clip_that_hangs():
    loader = Loader(Clips(20, _1=hang, _2=hang), 1, num_workers=2, timeout=1000)
    batches = loader.batches()
    assert next(batches).indices.tolist() == [0]
    batches.close()
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 3
    loader.close()  # twice does no harm


def test_a_loader_that_is_forgotten_ends_its_workers():
    loader = Loader(Clips(5), 1, num_workers=2)
    assert read_all(loader) == list(range(5))
    assert multiprocessing.active_children()
    del loader  # the fixture waits for its processes and threads to end


def test_a_closed_loader_starts_anew():
    loader = Loader(Clips(6), 2, num_workers=1)
    for _ in range(2):
        assert read_all(loader) == list(range(6))
        loader.close()
        assert multiprocessing.active_children() == []


def test_closing_in_the_middle_of_an_epoch_loses_no_clip():
    loader = Loader(Clips(12), 2, num_workers=2)
    batches = loader.batches()
    indices = next(batches).indices.tolist()
    loader.close()
    indices += [index for batch in batches for index in batch.indices.tolist()]
    assert indices == list(range(12))
    loader.close()


def test_two_iterations_of_one_loader_do_not_disturb_each_other():
    clips = Clips(10, _4=killed)
    with Loader(clips, 2, num_workers=2, max_bad_samples=0.2) as loader:
        pairs = zip(loader.batches(0), loader.batches(1), strict=True)
        indices = [(a.indices.tolist(), b.indices.tolist()) for a, b in pairs]
    expected = [[0, 1], [2, 3], [5], [6, 7], [8, 9]]
    assert indices == [(batch, batch) for batch in expected]


def test_reading_does_not_run_far_ahead(tmp_path):
    log = tmp_path / "log"
    with Loader(Clips(100, log), 4, num_workers=2) as loader:
        batches = loader.batches()
        next(batches)
        time.sleep(0.3)
        assert len(log.read_text().splitlines()) <= 4 + 4 + 2 * 2
        batches.close()


# --- signals --------------------------------------------------------------------------------------

SCRIPT = """
    import multiprocessing, signal, sys, time
    from pathlib import Path
    from test_loader import Clips, hang
    from paddlevid.data.loader import Loader

    if __name__ == "__main__":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it
        loader = Loader(Clips(1000, Path(sys.argv[1]), _6=hang), 2, num_workers=2, timeout=1000)
        try:
            with loader:
                print("ready", flush=True)
                for _ in loader.batches():
                    print("batch", flush=True)
        except KeyboardInterrupt:
            print("stopped", flush=True)
"""


@contextlib.contextmanager
def start_script(tmp_path: Path) -> Iterator[subprocess.Popen]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    with subprocess.Popen(
        [sys.executable, script, tmp_path / "log"], env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@needs_proc
def test_a_main_process_that_is_killed_leaves_no_workers(tmp_path):
    with start_script(tmp_path) as process:
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines == ["ready\n", "batch\n", "batch\n", "batch\n"]  # the next hangs
        log = (tmp_path / "log").read_text().splitlines()
        workers = {int(line.split()[1]) for line in log}
        assert workers and all(alive(pid) for pid in workers)
        process.kill()
        wait_for(lambda: not any(alive(pid) for pid in workers))
        process.communicate(timeout=10)


@needs_proc
@pytest.mark.parametrize("moment", [1, 4])  # before a worker has started, and while one hangs
def test_ctrl_c_stops_at_once_and_no_worker_says_a_word(tmp_path, moment):
    with start_script(tmp_path) as process:
        for _ in range(moment):
            process.stdout.readline()
        if moment == 1:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        printed, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert printed.splitlines()[-1] == "stopped"
    if moment > 1:
        log = (tmp_path / "log").read_text().splitlines()
        assert not any(alive(int(line.split()[1])) for line in log)


def test_a_script_without_a_main_guard_gets_a_readable_error(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from test_loader import Clips\nfrom paddlevid.data.loader import Loader\n"
        "with Loader(Clips(4), 2, num_workers=1, max_bad_samples=1) as loader:\n"
        "    print(len(list(loader.batches())))\n"
    )
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: a loading process ended at its start")
    assert "if __name__ == '__main__':" in last


@pytest.mark.parametrize("num_clips", [1, 7, 8, 9, 12])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_ranks_share_the_batches_of_one_process(num_clips, shuffle):
    """Each clip is read once, in the step that it belongs to; the last one is shared evenly."""
    alone = Loader(Clips(num_clips), 4, shuffle=shuffle, seed=3)
    ranks = [
        Loader(Clips(num_clips), 2, shuffle=shuffle, seed=3, rank=rank, num_ranks=2)
        for rank in (0, 1)
    ]
    expected = {batch.number: batch.indices for batch in alone.batches(epoch=1)}
    found = [{b.number: b.indices for b in loader.batches(epoch=1)} for loader in ranks]
    assert {len(loader) for loader in ranks} == {len(alone)} == {len(expected)}
    for number, indices in expected.items():
        shares = [batches.get(number, np.zeros(0, np.int64)) for batches in found]
        assert sorted(np.concatenate(shares)) == sorted(indices)
        assert 0 <= len(shares[0]) - len(shares[1]) <= 1
    for loader, batches in zip(ranks, found, strict=True):
        assert list(loader.indices(1)) == list(np.concatenate([*batches.values(), []]))


def test_workers_get_the_lines_of_a_list_one_by_one(tmp_path):
    """A list of millions would be held by each of them otherwise."""
    names = [f"{number}.avi" for number in range(5)]
    (tmp_path / "a.list").write_text("".join(f"{name} 0\n" for name in names))
    data = VideoDataset(read_list(tmp_path / "a.list"), None, None)
    with Loader(data, 2, num_workers=2, max_bad_samples=1) as loader:
        assert list(loader.batches()) == []
        assert [Path(loader.bad[i].partition(":")[0]).name for i in range(5)] == names
        pickled = loader._pool._pickled_dataset
    assert b".avi" not in pickled
    assert len(data.samples) == 5

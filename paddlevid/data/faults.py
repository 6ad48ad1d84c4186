"""Faults of loading: clips that are lost with their process, or for time -> the likely cause."""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from paddlevid.data.dataset import Item
from paddlevid.memory import free_memory, free_shared_memory, in_words

MOST_LOST = 5  # clips in a row, in one way, after which it is not the clips' fault
LATE = "late"  # the way in which a clip is lost that takes too long; the others are exit codes
_ACCESS_VIOLATION = 0xC0000005  # what Windows has in place of SIGSEGV


class BadSamplesError(ValueError):
    """More clips are unreadable than the run allows, or all are. The message names some of them."""


class Losses:
    """Clips that were lost one after the other, with none that was read in between.

    Args:
        max_bad_samples: the share of unreadable clips that the run allows. One that allows all goes
            on when some clips crash their readers, but neither when all do so from the start, nor
            when it would wait for each.
        timeout: seconds that a clip may take.
    """

    def __init__(self, max_bad_samples: float, timeout: float) -> None:
        self._allows_all = max_bad_samples >= 1
        self._timeout = timeout
        self._lock = threading.Lock()
        self._any_read = False
        self._problems: list[str] = []
        self.way: int | str | None = None  # in which these were lost; None: there are none

    def clear(self) -> None:
        """A clip was read."""
        with self._lock:
            self._any_read, self.way = True, None
            self._problems.clear()

    def add(self, index: int, name: str, way: int | str) -> Item:
        """Count a clip that was lost: -> the item that says why.

        Raises BadSamplesError for the MOST_LOST-th in one way.
        """
        reason = explain_delay(self._timeout) if way == LATE else explain_end(way)
        with self._lock:
            if way != self.way:
                self._problems.clear()
            self.way = way
            self._problems.append(f"{name}: {reason}")
            goes_on = self._allows_all and self._any_read and way != LATE
            if len(self._problems) < MOST_LOST or goes_on:
                return Item(index, problem=self._problems[-1])
            lines = "".join(f"\n  {problem}" for problem in self._problems[:MOST_LOST])
        raise BadSamplesError(
            f"{MOST_LOST} clips in a row were lost in one way, so the others are not tried:{lines}"
        )


def fetch_in_time(
    fetch: Callable[[int, int], Item], index: int, epoch: int, timeout: float
) -> Item | None:
    """What `fetch` gives; None when it takes longer, and then its thread is left behind."""
    answer: Future[Item] = Future()

    def run() -> None:
        try:
            answer.set_result(fetch(index, epoch))
        except BaseException as error:  # it is the caller's, as without a thread
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    wait([answer], timeout)
    return answer.result() if answer.done() else None


def explain_end(exit_code: int) -> str:
    """Why a loading process ended, most likely, and what to do; `exit_code` as of Process."""
    name = _signal_name(exit_code)
    if name == "SIGKILL":
        free, total = map(in_words, free_memory())
        return (
            "its loading process was killed (SIGKILL), probably by the system, which ran out of "
            f"memory ({free} of {total} are free now): lower num_reader_threads, or make the "
            "frames smaller (data_tools/avi2jpg.py --short-side)"
        )
    if name == "SIGBUS":
        shared = free_shared_memory()
        room = " of ".join(map(in_words, shared)) + " are free now" if shared else "there is none"
        return (
            f"its loading process had a bus error (SIGBUS), probably as /dev/shm is full ({room}): "
            "make it larger (docker run --shm-size=8g), or look for errors of the disk"
        )
    if name == "SIGSEGV" or exit_code == _ACCESS_VIOLATION:
        return (
            "its decoder crashed (SIGSEGV): leave the file out; data_tools/check_videos.py finds "
            "all such files"
        )
    if name:
        return f"its loading process was ended by {name}"
    return f"its loading process ended with exit code {exit_code}"


def explain_delay(timeout: float) -> str:
    """Why a clip was not read in so many seconds, most likely, and what to do."""
    return (
        f"was not read within {timeout:g} s: is it on a network drive that has stalled? See if its "
        "folder can be listed; TRAIN.read_timeout (check_videos.py: --timeout) sets the limit"
    )


def _signal_name(exit_code: int) -> str:
    """Of the signal that ended a process; empty where none did."""
    if exit_code >= 0:
        return ""
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"

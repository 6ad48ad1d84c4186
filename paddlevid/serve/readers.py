"""Reading: a video file -> a clip for the network, by processes that may crash or hang."""

import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from paddlevid.data.dataset import Item, Sample, VideoDataset
from paddlevid.data.faults import LATE
from paddlevid.data.loader import Worker
from paddlevid.serve.refusal import Refusal


class Readers:
    """Processes that read a video each; a file that crashes or blocks one costs no other request.

    Args:
        dataset: samples, decodes and transforms; its own list is not used.
        number: of processes. They start when they are first needed.
        observe: is told how many seconds each video took.
    """

    def __init__(
        self, dataset: VideoDataset, number: int, observe: Callable[[float], None]
    ) -> None:
        self.number = number
        self._pickled_dataset = pickle.dumps(dataset)
        self._observe = observe
        self._threads = ThreadPoolExecutor(number, "reader")  # each waits for one process
        self._lock = threading.Lock()  # of the four below
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._is_closed = False
        self.num_waiting = 0

    def read(self, path: Path, deadline: float) -> Future[Item]:
        """The clip, or why there is none; Refusal past the deadline, in time.monotonic()."""
        with self._lock:
            self.num_waiting += 1
        future = self._threads.submit(self._read, path, deadline)
        future.add_done_callback(self._forget_cancelled)
        return future

    def close(self) -> None:
        """End the processes, whatever they are reading."""
        with self._lock:
            self._is_closed = True
            for worker in self._workers:
                worker.process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.end()

    def _forget_cancelled(self, future: Future[Item]) -> None:
        if future.cancelled():  # while it waited
            with self._lock:
                self.num_waiting -= 1

    def _read(self, path: Path, deadline: float) -> Item:
        with self._lock:
            self.num_waiting -= 1
        for is_second_try in (False, True):  # an idle process may have died before
            worker = self._take(new=is_second_try)
            start = time.monotonic()
            if start >= deadline:
                self._give_back(worker)
                raise Refusal(503, "busy", "too many videos wait to be read: try again later")
            answer = worker.ask(0, 0, Sample(path), deadline - start)
            if answer is not None:
                self._observe(time.monotonic() - start)
                self._give_back(worker)
                if isinstance(answer, str):
                    raise RuntimeError(f"a dataset's fetch must not raise, but it did:\n{answer}")
                return answer
            way = worker.way_lost()
            self._drop(worker)
            if way == LATE:
                raise Refusal(408, "late", f"{path}: was not read in time, so it was given up")
        if not worker.is_ready:
            raise RuntimeError(
                f"a process that reads ended at its start (exit code {way}; it may have said why)"
            )
        raise Refusal(400, "broken", f"{path}: crashes its decoder (exit code {way})")

    def _take(self, new: bool) -> Worker:
        with self._lock:
            if self._is_closed:
                raise Refusal(503, "busy", "the service is being stopped")
            if self._idle and not new:
                return self._idle.pop()
            worker = Worker(self._pickled_dataset)
            self._workers.add(worker)
            return worker

    def _give_back(self, worker: Worker) -> None:
        with self._lock:
            self._idle.append(worker)

    def _drop(self, worker: Worker) -> None:
        with self._lock:
            if self._is_closed:
                raise Refusal(503, "busy", "the service is being stopped")
            self._workers.discard(worker)
        worker.end()

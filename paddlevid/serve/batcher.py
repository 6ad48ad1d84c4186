"""Batching: clips of several requests -> their probabilities, by one thread with the network."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from paddlevid.data.dataset import Item
from paddlevid.data.loader import Batch, collate

Run = Callable[[Batch], NDArray[np.float32]]  # -> (N, K) probabilities
Probabilities = NDArray[np.float32]  # (K,)


class Batcher:
    """The only thread that runs the network; clips that come at about one time share a batch.

    Args:
        load: gives what runs the network. It is called in the thread, once.
        batch_size: clips of a batch, at most.
        wait: seconds that the first clip of a batch waits for others.
        observe: is told the clips and the seconds of each batch.
    """

    def __init__(
        self, load: Callable[[], Run], batch_size: int, wait: float,
        observe: Callable[[int, float], None],
    ) -> None:  # fmt: skip
        self._load, self._batch_size, self._wait, self._observe = load, batch_size, wait, observe
        self._queue: queue.SimpleQueue[tuple[Item, Future[Probabilities]] | None]
        self._queue = queue.SimpleQueue()  # None: the end
        self.loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="network")

    def start(self) -> None:
        """Load the network; `loaded` is done afterwards, or holds what went wrong."""
        self._thread.start()

    def predict(self, item: Item) -> Future[Probabilities]:
        """The probabilities of a clip, some time soon."""
        future: Future[Probabilities] = Future()
        self._queue.put((item, future))
        return future

    def close(self) -> None:
        """End the thread, when it has predicted what it was given."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            self._run = self._load()
        except BaseException as error:  # it is the caller's
            self.loaded.set_exception(error)
            return
        self.loaded.set_result(None)
        is_over = False
        while not is_over:
            entries = [self._queue.get()]
            until = time.monotonic() + self._wait
            while entries[-1] is not None and len(entries) < self._batch_size:
                try:
                    entries.append(self._queue.get(timeout=max(until - time.monotonic(), 0)))
                except queue.Empty:
                    break
            is_over = entries[-1] is None
            wanted = [
                (item, future)
                for item, future in filter(None, entries)
                if future.set_running_or_notify_cancel()
            ]
            if wanted:
                self._predict(wanted)

    def _predict(self, entries: list[tuple[Item, Future[Probabilities]]]) -> None:
        start = time.monotonic()
        try:
            found = self._run(collate([item for item, _ in entries]))
        except Exception as error:  # whatever Paddle throws
            if len(entries) == 1:
                entries[0][1].set_exception(error)
            else:
                for entry in entries:  # that one fails is no reason for the others to fail
                    self._predict([entry])
            return
        self._observe(len(entries), time.monotonic() - start)
        for (_, future), probabilities in zip(entries, found, strict=True):
            future.set_result(probabilities)

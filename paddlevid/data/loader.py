"""Loading: a dataset -> batches, read ahead by other processes that can fail without harm."""

import faulthandler
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from paddlevid.data.dataset import Item, ListError
from paddlevid.data.decode import limit_threads


class BadSamplesError(ValueError):
    """More clips are unreadable than the run allows. The message names some of them."""


class Dataset(Protocol):
    """What a loader needs of a dataset: it can be pickled, and `fetch` does not raise."""

    def __len__(self) -> int: ...

    def fetch(self, index: int, epoch: int) -> Item:
        """The clip with this index, or the reason why there is none."""
        ...


@dataclass(frozen=True)
class Batch:
    """Clips that were read; those that could not be are left out."""

    clips: NDArray[np.float32]  # (N * V, C, T, H, W), the views of a clip one after the other
    labels: NDArray[np.int64]  # (N,), -1 where it is not known
    indices: NDArray[np.int64]  # (N,), in the dataset
    num_views: int = 1  # V
    number: int = 0  # of the batch in its epoch


class Loader:
    """Batches of a dataset.

    With workers, clips are read by processes of their own that do not import paddle and use one
    thread each. A process that dies or takes longer than `timeout` for a clip does not stop the
    loading: its clip is tried once more alone and counts as bad if it fails again. Leaving the
    iteration early leaves nothing behind.

    Args:
        num_workers: loading processes; 0 = read in this one, when a batch is asked for.
        shuffle: another order in each epoch, by (seed, epoch).
        max_bad_samples: the share of unreadable clips above which loading stops.
        timeout: seconds that a worker may take for one clip.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        max_bad_samples: float = 0.01,
        timeout: float = 120,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.num_workers = num_workers
        self.max_bad_samples = max_bad_samples
        self.timeout = timeout
        self.bad: dict[int, str] = {}  # index -> why the clip could not be read
        self._pool: ProcessPoolExecutor | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from batch number `first` on.

        Raises BadSamplesError past `max_bad_samples`, ListError for a label that does not fit.
        """
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        items = self._items(order[first * self.batch_size :].tolist(), epoch)
        try:
            for number in range(first, len(self)):
                size = min(self.batch_size, len(order) - number * self.batch_size)
                good = [item for item in (next(items) for _ in range(size)) if self._check(item)]
                if good:
                    yield _collate(good, number)
        finally:
            items.close()

    def close(self) -> None:
        """End the worker processes; iterating again starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, item: Item) -> bool:
        """Whether the item has a clip; counts and limits those that have none."""
        if item.fatal:
            raise ListError(item.problem)
        if item.views is not None:
            return True
        self.bad[item.index] = item.problem
        if len(self.bad) > self.max_bad_samples * len(self.dataset):
            reasons = "".join(f"\n  {reason}" for reason in list(self.bad.values())[:5])
            raise BadSamplesError(
                f"{len(self.bad)} of {len(self.dataset)} clips cannot be read, more than the share "
                f"max_bad_samples = {self.max_bad_samples:g} allows:{reasons}\n"
                "data_tools/check_videos.py finds all bad files and writes a clean list"
            )
        return False

    def _items(self, indices: Sequence[int], epoch: int) -> Iterator[Item]:
        """The items of these indices, in order."""
        if self.num_workers == 0:
            yield from (self.dataset.fetch(index, epoch) for index in indices)
            return
        ahead = self.batch_size + 2 * self.num_workers
        waiting: deque[tuple[int, Future]] = deque()
        position = 0
        try:
            while waiting or position < len(indices):
                try:
                    while position < len(indices) and len(waiting) < ahead:
                        index = indices[position]
                        waiting.append((index, self._submit(index, epoch)))
                        position += 1
                    item = waiting[0][1].result()
                except BrokenProcessPool:
                    self.close()
                    lost = [index for index, _ in waiting]
                    waiting.clear()
                    yield from self._items_alone(lost, epoch)
                else:
                    waiting.popleft()
                    yield item
        finally:
            for _, future in waiting:
                future.cancel()

    def _submit(self, index: int, epoch: int) -> Future:
        if self._pool is None:
            self._pool = self._start(self.num_workers)
        return self._pool.submit(_fetch, index, epoch, self.timeout)

    def _items_alone(self, indices: Sequence[int], epoch: int) -> Iterator[Item]:
        """Read clips one at a time, so that the one which kills its process is found."""
        pool = self._start(1)
        for index in indices:
            try:
                yield pool.submit(_fetch, index, epoch, self.timeout).result()
            except BrokenProcessPool:
                pool.shutdown()
                pool = self._start(1)
                path = getattr(self.dataset, "samples", {index: index})[index]
                path = getattr(path, "path", path)
                reason = f"its reader crashed, or took longer than {self.timeout:g} s"
                yield Item(index, problem=f"{path}: {reason}")
        pool.shutdown()

    def _start(self, num_workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            num_workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(pickle.dumps(self.dataset),),
        )


def _collate(items: Sequence[Item], number: int) -> Batch:
    return Batch(
        clips=np.concatenate([item.views for item in items]),
        labels=np.array([item.label for item in items], np.int64),
        indices=np.array([item.index for item in items], np.int64),
        num_views=len(items[0].views),
        number=number,
    )


# --- in a worker process --------------------------------------------------------------------------

_dataset: Dataset


def _start_worker(pickled_dataset: bytes) -> None:
    global _dataset
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(1)
    _dataset = pickle.loads(pickled_dataset)


def _end_with_parent() -> None:
    """A main process that was killed leaves no workers behind."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _fetch(index: int, epoch: int, timeout: float) -> Item:
    """Read a clip; past the time limit this process ends, even inside a decoder that hangs."""
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(timeout, exit=True, file=nowhere)
        try:
            return _dataset.fetch(index, epoch)
        finally:
            faulthandler.cancel_dump_traceback_later()

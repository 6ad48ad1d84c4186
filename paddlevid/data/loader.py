"""Loading: a dataset -> batches, read ahead by other processes that can fail without harm."""

import contextlib
import copy
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import reduction, resource_tracker
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from paddlevid.data.dataset import Item, ListError, Sample, SampleList
from paddlevid.data.decode import limit_threads
from paddlevid.data.faults import LATE, BadSamplesError, Losses, fetch_in_time
from paddlevid.data.shared_memory import Slot
from paddlevid.files import readable

_AGAIN = 1 << 20  # epochs on: a clip's draws where an epoch has it again
START_LIMIT = 300  # seconds that a process may take to start; it imports NumPy, PyAV and OpenCV


class Dataset(Protocol):
    """What a loader needs of a dataset: it can be pickled, and `fetch` does not raise."""

    def __len__(self) -> int: ...

    def fetch(self, index: int, epoch: int) -> Item:
        """The clip with this index, or the reason why there is none."""
        ...


@dataclass(frozen=True)
class Batch:
    """Clips that were read; those that could not be are left out."""

    # (N * V, C, T, H, W), the views of a clip one after the other; or features (N * V, T, D)
    clips: NDArray[np.float32]
    labels: NDArray[np.int64]  # (N,), -1 where it is not known
    indices: NDArray[np.int64]  # (N,), in the dataset
    num_views: int = 1  # V
    number: int = 0  # of the batch in its epoch


class Loader:
    """Batches of a dataset.

    With workers, clips are read by processes of their own that do not import paddle and use one
    thread each; on Linux they hand their clips over in shared memory, elsewhere through pipes. A
    process that dies or takes longer than `timeout` for a clip does not stop the loading: its clip
    is tried once more by a new process and counts as bad if it fails again. Only when MOST_LOST
    clips in a row are lost like that, and in one way, loading stops: it is not the clips then.
    Leaving the iteration early leaves nothing behind but idle workers, which `close` ends.

    Args:
        num_workers: loading processes; 0 = read in this one, in a thread, when a batch is asked
            for.
        shuffle: another order in each epoch, by (seed, epoch).
        weights: for each clip; with shuffle, an epoch draws as many clips as there are, with
            replacement and in proportion to them. A clip that comes again is augmented anew.
        max_bad_samples: the share of unreadable clips above which loading stops.
        timeout: seconds that a clip may take.
        rank, num_ranks: of several processes that share the clips of each epoch; the batches of all
            of them are together one of batch_size * num_ranks clips, so that the order does not
            depend on their number. The last one is shared out evenly.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        weights: Sequence[float] | None = None,
        seed: int = 0,
        num_workers: int = 0,
        max_bad_samples: float = 0.01,
        timeout: float = 120,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.weights = None if weights is None else np.asarray(weights, np.float64)
        self.seed = seed
        self.num_workers = num_workers
        self.max_bad_samples = max_bad_samples
        self.timeout = timeout
        self.rank, self.num_ranks = rank, num_ranks
        self.bad: dict[int, str] = {}  # index -> why the clip could not be read
        self._pool: _Pool | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.dataset) // (self.batch_size * self.num_ranks))

    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from batch number `first` on.

        Raises BadSamplesError past `max_bad_samples`, ListError for a label that does not fit.
        """
        order, numbers = self._order(epoch), range(first, len(self))
        again = 0 if self.weights is None else _AGAIN * _times_before(order)
        epochs = np.broadcast_to(epoch + again, order.shape)
        groups = (zip(self._group(order, n), self._group(epochs, n), strict=True) for n in numbers)
        items = self._items(itertools.chain.from_iterable(groups))
        try:
            for number in numbers:
                size = len(self._group(order, number))
                good = [item for item in itertools.islice(items, size) if self._check(item)]
                if good:
                    yield collate(good, number)
        finally:
            items.close()

    def indices(self, epoch: int = 0) -> Iterator[int]:
        """The clips that this rank's batches of an epoch are made of, in their order."""
        order = self._order(epoch)
        return (i for number in range(len(self)) for i in self._group(order, number))

    def some(self, indices: Sequence[int]) -> Iterator[Item]:
        """These clips once more, of any rank; those that cannot be read are left out uncounted."""
        wanted = ((index, 0) for index in indices)
        return (item for item in self._items(wanted) if item.views is not None)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        order = np.arange(len(self.dataset))
        rng = np.random.default_rng([self.seed, epoch])
        if self.shuffle and self.weights is not None:
            return rng.choice(order, size=len(order), p=self.weights / self.weights.sum())
        return rng.permutation(order) if self.shuffle else order

    def _group(self, order: NDArray[np.int64], number: int) -> list[int]:
        """This rank's clips of a batch, or what is said of them, out of those of an epoch."""
        size = self.batch_size * self.num_ranks
        return order[number * size : (number + 1) * size][self.rank :: self.num_ranks].tolist()

    def close(self) -> None:
        """End the worker processes; iterating again starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, item: Item) -> bool:
        """Whether the item has a clip; counts and limits those that have none."""
        if item.fatal:
            raise ListError(readable(item.problem))
        if item.views is not None:
            self.bad.pop(item.index, None)  # it was bad in an earlier epoch only
            return True
        self.bad.setdefault(item.index, readable(item.problem))
        self.check_bad(list(self.bad.values()))
        return False

    def check_bad(self, bad: Sequence[str]) -> None:
        """Raise BadSamplesError where these are too many: of a rank alone, or of all ranks."""
        if len(bad) > self.max_bad_samples * len(self.dataset) + 1e-6:
            reasons = "".join(f"\n  {reason}" for reason in bad[:5])
            raise BadSamplesError(
                f"{len(bad)} of {len(self.dataset)} clips cannot be read, more than the share "
                f"max_bad_samples = {self.max_bad_samples:g} allows:{reasons}\n"
                "data_tools/check_videos.py finds all bad files and writes a clean list; "
                "-o TRAIN.max_bad_samples=SHARE allows more"
            )

    def _items(self, clips: Iterable[tuple[int, int]]) -> Iterator[Item]:
        """The items of these indices, each with the draws of an epoch, in order."""
        if self.num_workers == 0:
            losses = Losses(self.max_bad_samples, self.timeout)
            for index, epoch in clips:
                item = fetch_in_time(self.dataset.fetch, index, epoch, self.timeout)
                if item is None:
                    item = losses.add(index, _name(self.dataset, index), LATE)
                else:
                    losses.clear()
                yield item
            return
        ahead = self.batch_size + 2 * self.num_workers
        coming = iter(clips)
        waiting: deque[tuple[int, int, Future[Item]]] = deque()
        try:
            while True:
                for index, epoch in itertools.islice(coming, ahead - len(waiting)):
                    waiting.append((index, epoch, self._submit(index, epoch)))
                if not waiting:
                    return
                index, epoch, future = waiting[0]
                try:
                    item = future.result()
                except CancelledError:  # the loader was closed meanwhile: it starts again
                    waiting[0] = (index, epoch, self._submit(index, epoch))
                else:
                    waiting.popleft()
                    yield item
        finally:
            for *_, future in waiting:
                future.cancel()

    def _submit(self, index: int, epoch: int) -> Future[Item]:
        if self._pool is None:
            losses = Losses(self.max_bad_samples, self.timeout)
            self._pool = _Pool(self.dataset, self.num_workers, self.timeout, losses)
        return self._pool.submit(index, epoch)


def _times_before(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each entry stands in front of itself: [5, 7, 5, 5] -> [0, 0, 1, 2]"""
    places = np.argsort(order, kind="stable")
    found = order[places]
    times = np.empty_like(order)
    times[places] = np.arange(len(order)) - np.searchsorted(found, found)
    return times


def _name(dataset: Dataset, index: int) -> str:
    """Of a clip, for messages: its path, where the dataset has paths."""
    sample = getattr(dataset, "samples", {index: index})[index]
    return str(getattr(sample, "path", sample))


def collate(items: Sequence[Item], number: int = 0) -> Batch:
    """A batch of items that have clips."""
    return Batch(
        clips=_stack([item.views for item in items]),
        labels=np.array([item.label for item in items], np.int64),
        indices=np.array([item.index for item in items], np.int64),
        num_views=len(items[0].views),
        number=number,
    )


def _stack(views: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(V, ...) of each clip -> (N * V, ...); clips that are shorter than others end in zeros."""
    if len(views) == 1:
        return views[0]
    shape = np.max([array.shape for array in views], axis=0)
    if all(array.shape == tuple(shape) for array in views):
        return np.concatenate(views)
    padded = np.zeros((len(views), *shape), views[0].dtype)
    for target, array in zip(padded, views, strict=True):
        target[tuple(map(slice, array.shape))] = array
    return padded.reshape(-1, *shape[1:])


# --- the worker processes, from outside -----------------------------------------------------------


class Worker:
    """A process that reads one clip at a time, with the only pipe to it and memory for the clip.

    Nothing is shared with a third process, so it can be killed at any moment, even while it
    sends a clip: the pipe then ends.
    """

    def __init__(self, pickled_dataset: bytes) -> None:
        if hasattr(signal, "pthread_sigmask"):
            # Ctrl-C is for the main process. Children inherit the mask of the thread that starts
            # them; the tracker has to run before, because its start unblocks SIGINT.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self.slot = Slot.create()
        self.process = context.Process(
            target=_work, args=(far_end, pickled_dataset, self.slot.handle is not None), daemon=True
        )
        with _environment(**_worker_environment()):
            self.process.start()
        far_end.close()
        if self.slot.handle is not None:
            with contextlib.suppress(OSError):  # it has ended already: `ask` will say so
                reduction.send_handle(self.pipe, self.slot.handle, self.process.pid)
        self.is_ready = self.is_late = False

    def ask(
        self, index: int, epoch: int, sample: Sample | None, timeout: float
    ) -> Item | str | None:
        """The clip; the text of what `fetch` raised; None when the process died or was too slow."""
        try:
            if not self.is_ready:
                self.is_ready = self.pipe.poll(START_LIMIT) and self.pipe.recv()
            self.pipe.send((index, epoch, sample))
            if self.pipe.poll(timeout):
                return self.slot.get(self.pipe.recv_bytes())
            self.is_late = True
        except (EOFError, OSError):
            pass  # it died
        return None

    def way_lost(self) -> int | str:
        """LATE, or the exit code, where `ask` had no answer."""
        if not self.is_late:
            self.process.join(timeout=5)  # its pipe ends a moment before it does
        return LATE if self.process.exitcode is None else self.process.exitcode

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join(timeout=5)  # without limit a process in a dead file system would hold us
        self.pipe.close()
        self.slot.close()


def _worker_environment() -> dict[str, str]:
    """What is read when a worker starts and imports its libraries.

    One thread; and memory that was freed is kept for the next clip, unless the user says otherwise:
    asking the system for it again, page by page, costs a third of the time of a small clip.
    """
    keep = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 28)}
    return {"OMP_NUM_THREADS": "1"} | {k: v for k, v in keep.items() if k not in os.environ}


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Pool:
    """Workers, and as many threads of this process, each of which waits for a worker."""

    def __init__(self, dataset: Dataset, num_workers: int, timeout: float, losses: Losses) -> None:
        self._dataset = dataset
        self._samples: SampleList | None = None
        if isinstance(getattr(dataset, "samples", None), SampleList):
            # Each of the processes would hold the whole list: the samples go to them one by one.
            self._samples, dataset = dataset.samples, copy.copy(dataset)
            dataset.samples = {}
        self._pickled_dataset = pickle.dumps(dataset)
        self._timeout = timeout
        self._losses = losses
        self._threads = ThreadPoolExecutor(num_workers, "loader")
        self._lock = threading.Lock()  # of the three below
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._closed = False

    def submit(self, index: int, epoch: int) -> Future[Item]:
        """Read a clip some time soon."""
        return self._threads.submit(self._read, index, epoch)

    def close(self) -> None:
        """End all workers at once, whatever they do; clips that were asked for are cancelled."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.end()

    def _read(self, index: int, epoch: int) -> Item:
        for is_second_try in (False, True):
            worker = self._take(new=is_second_try)
            sample = self._samples[index] if self._samples else None
            answer = worker.ask(index, epoch, sample, self._timeout)
            if answer is not None:
                with self._lock:
                    self._idle.append(worker)
                self._losses.clear()
                break
            way = worker.way_lost()
            self._drop(worker)
            if way == LATE == self._losses.way:  # as clips just before: do not wait twice
                break
        if isinstance(answer, str):
            raise RuntimeError(f"a dataset's fetch must not raise, but this one did:\n{answer}")
        if answer is not None:
            return answer
        if not worker.is_ready and way != LATE and way >= 0:
            raise RuntimeError(
                f"a loading process ended at its start (exit code {way}; it may have said why "
                "above); a script that loads needs its code under `if __name__ == '__main__':`, "
                "and without workers it runs in one process"
            )
        return self._losses.add(index, _name(self._dataset, index), way)

    def _take(self, new: bool) -> Worker:
        with self._lock:
            if self._closed:
                raise CancelledError
            if self._idle and not new:  # an idle one may have died meanwhile
                return self._idle.pop()
            worker = Worker(self._pickled_dataset)
            self._workers.add(worker)
            return worker

    def _drop(self, worker: Worker) -> None:
        with self._lock:
            if self._closed:
                raise CancelledError
            self._workers.discard(worker)
        worker.end()


# --- in a worker process --------------------------------------------------------------------------


def _work(pipe: Connection, pickled_dataset: bytes, has_memory: bool) -> None:
    """Answer each (index, epoch, sample) with its clip, until the other end closes.

    A sample that is None is in the dataset.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(1)
    dataset = pickle.loads(pickled_dataset)
    try:
        slot = Slot(reduction.recv_handle(pipe) if has_memory else None)
        pipe.send(True)
        while True:
            index, epoch, sample = pipe.recv()
            if sample is not None:
                dataset.samples = {index: sample}
            try:
                answer = slot.put(dataset.fetch(index, epoch))
            except Exception:  # also of a clip that cannot be pickled
                answer = slot.put(traceback.format_exc())
            pipe.send_bytes(answer)
    except (EOFError, OSError):
        return


def _end_with_parent() -> None:
    """A main process that was killed leaves no workers behind, even one in a decoder that hangs."""
    multiprocessing.parent_process().join()
    os._exit(1)

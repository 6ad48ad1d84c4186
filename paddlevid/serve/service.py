"""The service without HTTP: a video file -> class probabilities."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from paddlevid.data.dataset import VideoDataset
from paddlevid.data.encode import write_mp4
from paddlevid.data.loader import collate
from paddlevid.serve.batcher import Batcher, Run
from paddlevid.serve.metrics import Metrics
from paddlevid.serve.readers import Readers
from paddlevid.serve.refusal import Refusal

_GRACE = 10  # seconds past the deadline for a process that hangs to be ended
_START_LIMIT = 300  # seconds for the first video, while processes start

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Answer:
    """What the network says of a video."""

    probabilities: NDArray[np.float32]  # (K,)
    num_frames: int  # that the network looked at


class Service:
    """A network with processes that read for it.

    Args:
        name: of the network.
        classes: names of the K classes.
        dataset: samples, decodes and transforms, as of `build_reader`.
        load: gives what runs the network; called once, in the thread that then runs it.
        batch_size, wait: see Batcher.
        workers: processes that read.
        timeout: seconds for reading and predicting a video.
        most: requests at a time; others are refused.
    """

    def __init__(
        self, name: str, classes: Sequence[str], dataset: VideoDataset, load: Callable[[], Run], *,
        batch_size: int = 8, wait: float = 0.02, workers: int = 1, timeout: float = 60,
        most: int = 64,
    ) -> None:  # fmt: skip
        self.name, self.classes, self.timeout = name, classes, timeout
        self._load, self._most, self._num_clips = load, most, dataset.num_clips
        self.num_under_way = 0
        self.metrics = Metrics(lambda: self.num_under_way, lambda: self._readers.num_waiting)
        self._readers = Readers(dataset, workers, self._note_read)
        self._batcher = Batcher(self._load_and_try, batch_size, wait, self._note_batch)

    @property
    def loaded(self) -> Future[None]:
        """Done when the first video has been predicted, or with what went wrong."""
        return self._batcher.loaded

    @property
    def is_ready(self) -> bool:
        """Whether videos are taken."""
        return self.loaded.done() and not self.loaded.exception()

    def start(self) -> None:
        """Load the network, in its thread."""
        self._batcher.start()

    def close(self) -> None:
        """Predict what is under way, then end the processes and the thread."""
        if not self.loaded.done():
            self._readers.close()  # which ends the test
        self._batcher.close()
        self._readers.close()

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """One request, from its first byte to its answer. Refusal where there are too many."""
        if not self.is_ready:
            raise Refusal(503, "busy", "the network is being loaded: try again in a moment")
        if self.num_under_way >= self._most:
            raise Refusal(503, "busy", f"{self._most} requests are under way: try again later")
        self.num_under_way += 1
        try:
            yield
        finally:
            self.num_under_way -= 1

    async def answer(self, path: Path) -> Answer:
        """What the network says of a video; Refusal where it cannot be read, or not in time."""
        deadline = time.monotonic() + self.timeout
        item = await self._wait(self._readers.read(path, deadline), deadline + _GRACE)
        if item.views is None:
            raise Refusal(400, "broken", item.problem)
        probabilities = await self._wait(self._batcher.predict(item), deadline)
        if not np.isfinite(probabilities).all():
            raise RuntimeError(f"{self.name} said nan: its weights may be damaged")
        return Answer(probabilities, self._num_clips * item.views.shape[2])

    async def _wait(self, future: "Future[Thing]", deadline: float) -> Thing:
        """What comes of it. The future is cancelled past the deadline."""
        left = max(deadline - time.monotonic(), 0)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), left)
        except asyncio.TimeoutError as error:
            reason = f"no answer within {self.timeout:g} s: try again when there are fewer requests"
            raise Refusal(503, "busy", reason) from error

    def _load_and_try(self) -> Run:
        """The network after a video has gone all the way, so that the first request is not slow."""
        run = self._load()
        with tempfile.TemporaryDirectory(prefix="paddlevid_serve_") as folder:
            path = Path(folder, "noise.mp4")
            shape = (32, 64, 64, 3)
            write_mp4(path, np.random.default_rng(0).integers(0, 256, shape, np.uint8))
            deadline = time.monotonic() + _START_LIMIT
            futures = [self._readers.read(path, deadline) for _ in range(self._readers.number)]
            try:
                items = [future.result() for future in futures]
                problem = next((item.problem for item in items if item.views is None), None)
            except Refusal as refusal:
                problem = refusal.reason
        if problem is not None:
            raise ValueError(f"a video that was made as a test cannot be read: {problem}")
        run(collate(items))
        return run

    def _note_read(self, seconds: float) -> None:
        if self.is_ready:  # not of the test
            self.metrics.reading.observe(seconds)

    def _note_batch(self, size: int, seconds: float) -> None:
        self.metrics.batch_size.observe(size)
        self.metrics.network.observe(seconds)

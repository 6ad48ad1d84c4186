"""Live sources: files, cameras and addresses -> frames one after the other, as they come."""

import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from tqdm import tqdm

from paddlevid.data.limits import check_frame
from paddlevid.data.video import open_video, pixel_limit, timed_frames, to_image
from paddlevid.files import readable

Moment = tuple[int, float, NDArray[np.uint8]]  # number of the frame, seconds, (H, W, 3) RGB


class LiveSource:
    """Frames of a video file, a camera ("0") or an address ("rtsp://...", "http://...").

    A thread reads ahead. Of a camera or a line the oldest frames that wait are dropped when they
    are not taken in time, and counted; a file waits, also one on a server. An address that fails
    or stalls is opened again.

    Args:
        address: what to read.
        stride: every so many-th frame.
        ahead: frames that wait at most.
        timeout: seconds without data after which an address has stalled.
        attempts: how often a failed address is opened again, unless it worked for longer than
            `timeout` in between.
        pause: seconds before the first of these, twice as many before each other.
    """

    def __init__(
        self,
        address: str,
        *,
        stride: int = 1,
        ahead: int = 16,
        timeout: float = 10.0,
        attempts: int = 3,
        pause: float = 1.0,
    ) -> None:
        self.address = address
        self.is_live = address.isdecimal() or "://" in address
        self.stride, self.timeout, self.attempts, self.pause = stride, timeout, attempts, pause
        self.num_read = self.num_dropped = 0
        self.problem = ""  # why it ended, unless with its last frame
        self.ended = False  # and all frames were taken
        self._drops = self._is_line = False
        self._lasted = 0.0  # seconds from a connection's first frame to its newest
        self._queue: queue.Queue[Moment | None] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "LiveSource":
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ask the thread to end; of several sources all may be asked before one is waited for."""
        self._stop.set()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(self.timeout)

    def take(self, wait: float = 0.0) -> Moment | None:
        """The next frame; None where there is none within `wait` seconds, or any more (`ended`)."""
        if self.ended:
            return None
        try:
            moment = self._queue.get(timeout=wait) if wait else self._queue.get_nowait()
        except queue.Empty:
            return None
        self.ended = moment is None
        return moment

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            self._lasted, self.problem = 0.0, ""
            try:
                is_over = self._read()
            except Exception as error:  # whatever the libraries raise at a strange stream
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                if isinstance(error, av.error.ExitError):
                    reason = f"no data for {self.timeout:g} s"
                self.problem, is_over = reason, not self._is_line
            if self._lasted > self.timeout:  # it had worked for a while
                failures = 0
            if is_over or failures == self.attempts:
                break
            told = f"{self.address}: {self.problem}; it is opened again"
            tqdm.write(readable(told), file=sys.stderr)
            self._stop.wait(self.pause * 2**failures)
            failures += 1
        while not self._stop.is_set():
            try:
                return self._queue.put(None, timeout=0.1)
            except queue.Full:
                continue

    def _read(self) -> bool:
        """Read until the source ends: -> whether it has come to its end, and is no broken line."""
        self._drops = self.address.isdecimal()
        self._is_line = "://" in self.address
        if self._drops:
            frames = _of_camera(int(self.address))
        elif self.is_live:
            options = {"rtsp_transport": "tcp"} if self.address.startswith("rtsp") else {}
            options |= pixel_limit()
            container = av.open(self.address, options=options, timeout=self.timeout)
            self._drops = self._is_line = not _has_end(container)  # else a file on a server
            frames = _of_container(container)
        else:
            frames = _of_container(open_video(Path(self.address)))
        first = None
        try:
            for seconds, convert in frames:
                if self._stop.is_set():
                    return True
                first = first or time.monotonic()
                self._lasted = time.monotonic() - first
                if self.num_read % self.stride == 0:
                    self._put((self.num_read, seconds, convert()))
                self.num_read += 1
        finally:
            frames.close()
        if self._is_line:
            self.problem = "the other side closed the stream"
        return not self._is_line

    def _put(self, moment: Moment) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(moment, timeout=0.0 if self._drops else 0.1)
            except queue.Full:
                if self._drops:
                    try:
                        self._queue.get_nowait()
                        self.num_dropped += 1
                    except queue.Empty:
                        continue


def _has_end(container: av.container.InputContainer) -> bool:
    """Whether what an address gives is a file: it, or its server, says how long it is.

    The length of a playlist is not that of what it lists.
    """
    is_list = container.format.name in ("hls", "dash")
    return bool(container.duration) or (container.size > 0 and not is_list)


def _of_container(container: av.container.InputContainer) -> Iterator[tuple]:
    """The seconds of each frame, and a function that makes it RGB."""
    with container:
        if not container.streams.video:
            raise ValueError("there is no video in it")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise ValueError("its video is in no codec that FFmpeg knows")
        stream.thread_type = "AUTO"
        check_frame(container.name, context.height, context.width)
        context.options = pixel_limit()
        converter = VideoReformatter()
        for seconds, frame in timed_frames(container, stream):
            yield seconds, lambda frame=frame: to_image(frame, "rgb24", converter)


def _of_camera(index: int) -> Iterator[tuple]:
    """The same of a camera; the seconds are those since it was opened."""
    camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            raise ValueError(f"there is no camera {index}, or another program has it")
        started = time.monotonic()
        while True:
            success, image = camera.read()
            if not success:
                raise ValueError("the camera gives no more frames")
            seconds = time.monotonic() - started
            yield seconds, lambda image=image: cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        camera.release()

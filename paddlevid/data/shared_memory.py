"""Shared memory: an object with large arrays, from a process to another without a pipe's copies."""

import mmap
import os
import pickle

import numpy as np

LARGE = 1 << 16  # bytes from which on an array goes through the memory
_ALIGNMENT = 64  # bytes


class Slot:
    """Memory for one object at a time, which two processes map.

    It has no name: the system frees it with the last process that has it open, however that ends,
    and /dev/shm, its size and its rights do not matter. Where the system has no such memory (all
    but Linux), or has none left, objects stay in the messages, which then are as large as they.

    Args:
        handle: of the memory, owned by the slot from here on; None: there is none.
    """

    def __init__(self, handle: int | None) -> None:
        self.handle = handle
        self._memory: mmap.mmap | None = None

    @classmethod
    def create(cls) -> "Slot":
        """New memory, if the system can."""
        if not hasattr(os, "memfd_create"):
            return cls(None)
        try:
            return cls(os.memfd_create("paddlevid-clip"))
        except OSError:
            return cls(None)

    def put(self, content: object) -> bytes:
        """Write an object: -> the message with which `get` of the other process reads it."""
        buffers: list[pickle.PickleBuffer] = []
        if self.handle is not None:
            message = pickle.dumps(content, 5, buffer_callback=lambda b: _keep(b, buffers))
            sizes = [buffer.raw().nbytes for buffer in buffers]
            if self._write(buffers, sizes):
                return pickle.dumps((message, sizes))
        return pickle.dumps((pickle.dumps(content, 5), []))

    def get(self, message: bytes) -> object:
        """Read the object of a message: its arrays are copies, and the slot is free again."""
        message, sizes = pickle.loads(message)
        places = _places(sizes)
        if sizes:
            self._map(places[-1])
        buffers = [
            np.frombuffer(self._memory, np.uint8, size, place).copy()
            for size, place in zip(sizes, places, strict=False)
        ]
        return pickle.loads(message, buffers=buffers)

    def close(self) -> None:
        """Leave the memory; a second call does nothing."""
        if self._memory is not None:
            self._memory.close()
        if self.handle is not None:
            os.close(self.handle)
        self._memory = self.handle = None

    __del__ = close

    def _write(self, buffers: list[pickle.PickleBuffer], sizes: list[int]) -> bool:
        """Whether there was memory for the buffers."""
        places = _places(sizes)
        try:
            if os.fstat(self.handle).st_size < places[-1]:
                os.posix_fallocate(self.handle, 0, places[-1])  # an error now, no SIGBUS later
            self._map(places[-1])
        except OSError:
            return False
        for buffer, size, place in zip(buffers, sizes, places, strict=False):
            self._memory[place : place + size] = buffer.raw()
        return True

    def _map(self, size: int) -> None:
        """Have at least `size` bytes of the memory in this process."""
        if size and (self._memory is None or len(self._memory) < size):
            if self._memory is not None:
                self._memory.close()
            self._memory = mmap.mmap(self.handle, os.fstat(self.handle).st_size)


def _keep(buffer: pickle.PickleBuffer, buffers: list[pickle.PickleBuffer]) -> bool:
    """Whether pickle shall keep a buffer in the message; else it is added to the list."""
    if buffer.raw().nbytes < LARGE:
        return True
    buffers.append(buffer)
    return False


def _places(sizes: list[int]) -> list[int]:
    """Where each of some buffers begins, and where the next one would."""
    steps = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    return [0, *np.cumsum(steps, dtype=int).tolist()]

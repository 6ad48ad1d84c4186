"""Shared memory: what is put is what is got, and nothing is left of it."""

import errno
import mmap
import os
import pickle

import numpy as np
import pytest

from paddlevid.data.shared_memory import LARGE, Slot

needs_memory = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="not on this system")


@pytest.fixture
def ends():
    """The two ends of a memory, as two processes have them."""
    one = Slot.create()
    other = Slot(None if one.handle is None else os.dup(one.handle))
    yield one, other
    one.close(), other.close()


CONTENTS = [
    "text",
    None,
    ("a", np.arange(5)),
    {"large": np.arange(LARGE), "small": np.arange(3), "other": np.ones((LARGE, 3), np.uint8)},
    [np.zeros(LARGE, np.uint8), np.ones(LARGE + 1, np.uint8), np.full(LARGE - 1, 2, np.uint8)],
    np.asfortranarray(np.arange(2 * LARGE).reshape(2, -1)),
    np.arange(4 * LARGE)[::2],
    np.zeros((0, 3), np.float32),
]


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: type(content).__name__)
def test_what_is_put_is_what_is_got(ends, content):
    mine, other = ends
    for _ in range(2):
        got = other.get(mine.put(content))
        np.testing.assert_equal(got, content)
        assert type(got) is type(content)


@needs_memory
def test_large_arrays_are_not_in_the_message_and_small_ones_are(ends):
    mine, _ = ends
    assert len(mine.put(np.zeros(10 * LARGE, np.uint8))) < 1000
    assert len(mine.put(np.zeros(LARGE - 1, np.uint8))) > LARGE - 1


def test_what_was_got_stays_when_the_next_is_put(ends):
    mine, other = ends
    got = [other.get(mine.put(np.full(size, size))) for size in (LARGE, 3 * LARGE, 9, 2 * LARGE)]
    for array, size in zip(got, (LARGE, 3 * LARGE, 9, 2 * LARGE), strict=True):
        assert array.shape == (size,) and (array == size).all()
        array += 1  # its own memory


@needs_memory
@pytest.mark.parametrize("name", ["posix_fallocate", "mmap"])
def test_without_memory_the_message_has_all(ends, monkeypatch, name):
    def full(*_):
        raise OSError(errno.ENOSPC, "no memory, for this test")

    mine, other = ends
    monkeypatch.setattr(*((os, name) if name == "posix_fallocate" else (mmap, name)), full)
    message = mine.put(np.arange(LARGE))
    assert len(message) > LARGE
    np.testing.assert_array_equal(other.get(message), np.arange(LARGE))


@pytest.mark.parametrize("reason", ["not on this system", "not allowed"])
def test_where_there_is_no_such_memory_the_message_has_all(monkeypatch, reason):
    def refuse(_):
        raise PermissionError(reason)

    monkeypatch.delattr(os, "memfd_create", raising=False)
    if reason == "not allowed":
        monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    slot = Slot.create()
    assert slot.handle is None
    np.testing.assert_array_equal(Slot(None).get(slot.put(np.arange(LARGE))), np.arange(LARGE))


def test_what_cannot_be_pickled_is_an_error(ends):
    with pytest.raises((pickle.PicklingError, AttributeError)):
        ends[0].put(lambda: 0)


@needs_memory
def test_a_slot_that_is_closed_or_forgotten_closes_its_file():
    one, other = Slot.create(), Slot.create()
    handles = one.handle, other.handle
    one.put(np.arange(LARGE)), other.put(np.arange(LARGE))
    one.close(), one.close()
    del other
    for handle in handles:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)

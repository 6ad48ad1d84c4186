"""Faults of loading: the likely cause is named, and what to do."""

import signal

import pytest

from paddlevid.data import faults
from paddlevid.data.faults import LATE, MOST_LOST, BadSamplesError, Losses, explain_end


def test_a_process_that_was_killed_is_told_how_much_memory_is_free(monkeypatch):
    monkeypatch.setattr(faults, "free_memory", lambda: (123_000_000, 2_500_000_000))
    text = explain_end(-signal.SIGKILL)
    assert "ran out of memory (123 MB of 2.5 GB are free now): lower num_reader_threads" in text


@pytest.mark.parametrize(
    ("shared", "room"),
    [((1_000_000, 64_000_000), "1 MB of 64 MB are free now"), (None, "there is none")],
)
def test_a_bus_error_is_told_the_size_of_the_shared_memory(shared, room, monkeypatch):
    monkeypatch.setattr(faults, "free_shared_memory", lambda: shared)
    assert f"/dev/shm is full ({room}): make it larger (docker run" in explain_end(-signal.SIGBUS)


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [
        (-signal.SIGSEGV, "its decoder crashed (SIGSEGV)"),
        (0xC0000005, "its decoder crashed (SIGSEGV)"),
        (-signal.SIGILL, "its loading process was ended by SIGILL"),
        (-63, "its loading process was ended by signal 63"),
        (0, "its loading process ended with exit code 0"),
        (7, "its loading process ended with exit code 7"),
    ],
)
def test_other_ends_are_named(exit_code, text):
    assert explain_end(exit_code).startswith(text)


def lose(losses, ways):
    return [losses.add(index, f"{index}.avi", way) for index, way in enumerate(ways)]


def test_a_row_of_lost_clips_stops_the_loading_and_names_them():
    losses = Losses(0.5, 120)
    items = lose(losses, [-9] * (MOST_LOST - 1))
    assert [item.index for item in items] == list(range(MOST_LOST - 1))
    assert items[0].problem.startswith("0.avi: its loading process was killed")
    with pytest.raises(BadSamplesError, match=r"(?s)5 clips in a row .*0\.avi.*8\.avi: its load"):
        losses.add(8, "8.avi", -9)


def test_a_clip_that_is_read_or_lost_in_another_way_ends_the_row():
    losses = Losses(0.5, 120)
    for _ in range(3):
        lose(losses, [-9] * (MOST_LOST - 1))
        assert losses.way == -9
        losses.clear()
        assert losses.way is None
    lose(losses, [-9] * (MOST_LOST - 1) + [-11] * (MOST_LOST - 1) + [LATE] * (MOST_LOST - 1))


def test_only_who_allows_all_clips_to_be_bad_goes_on_and_never_when_it_would_wait():
    losses = Losses(1.0, 2.5)
    losses.clear()
    lose(losses, [-11] * 50)
    with pytest.raises(BadSamplesError, match=r"was not read within 2\.5 s"):
        lose(losses, [LATE] * MOST_LOST)
    with pytest.raises(BadSamplesError, match="5 clips in a row"):
        lose(Losses(1.0, 120), [-11] * MOST_LOST)  # none was read before

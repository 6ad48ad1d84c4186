"""Packets: frame k is frame k, however few packets are decoded for it."""

import itertools
import struct
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest
from test_decode import CLIPS, REAL, encode, needs_clips

from paddlevid.data import video as videos
from paddlevid.data.packets import packet_order
from paddlevid.data.video import DecodeError, VideoClip, iterate_frames, to_image

# --- which packets are needed ---------------------------------------------------------------------

# Two groups of I P B B; decoding can start with each.
TIMES = [0, 30, 10, 20, 40, 70, 50, 60]
STARTS = [True, False, False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("wanted", "packets"),
    [
        ({0}, [0]),
        ({3}, [0, 1]),
        ({1}, [0, 1, 2]),
        ({4}, [4]),
        ({7}, [4, 5]),
        ({5}, [4, 5, 6]),
        ({0, 4}, [0, 4]),
        ({1, 6}, [0, 1, 2, 4, 5, 6, 7]),
        (range(8), list(range(8))),
    ],
)
def test_a_frame_needs_the_packets_from_the_last_start_on(wanted, packets):
    order = packet_order(TIMES, STARTS, reorders=True)
    assert order.frames.tolist() == [0, 3, 1, 2, 4, 7, 5, 6]
    assert order.numbers == {time: i for i, time in enumerate(sorted(TIMES))}
    assert np.flatnonzero(order.needed(wanted)).tolist() == packets


def test_a_frame_that_is_shown_before_the_last_start_needs_the_one_before():
    # Packet 3 starts anew, but 4 and 5 are shown before it and refer to what came before.
    order = packet_order([0, 20, 10, 50, 30, 40], [1, 0, 0, 1, 0, 0], reorders=True)
    assert np.flatnonzero(order.needed({3})).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(order.needed({5})).tolist() == [3]


@pytest.mark.parametrize(
    ("times", "starts", "reorders"),
    [
        ([], [], False),
        ([0, None, 20], [1, 0, 0], False),  # not all have a time
        ([0, 10, 10], [1, 0, 0], False),  # two have one
        ([0, 10, 20], [0, 0, 1], False),  # what a decoder makes of the first two is its affair
        ([10, 0, 20], [1, 0, 0], True),  # shown before the first start
        ([0, 10, 20], [1, 0, 0], True),  # times of decoding, not of showing
    ],
)
def test_an_order_that_is_not_certain_is_none(times, starts, reorders):
    assert packet_order(times, [bool(start) for start in starts], reorders) is None


# --- videos ---------------------------------------------------------------------------------------

X264 = {
    "as it comes": "",
    "pyramid of B-frames": "bframes=5:b-adapt=0:b-pyramid=normal:keyint=16",
    "many references": "bframes=3:ref=6:weightp=2:keyint=250",
    "strict pyramid": "bframes=2:b-pyramid=strict:keyint=12:min-keyint=12",
    "no B-frames": "bframes=0:keyint=9",
    "every frame a start": "keyint=1",
    "open groups": "bframes=3:open-gop=1:keyint=8:min-keyint=8:b-adapt=0",
    "column by column": "intra-refresh=1:bframes=0:keyint=10",
    "direct modes": "bframes=3:direct=temporal:b-adapt=0:keyint=20",
    "scenes": "bframes=3:scenecut=100:keyint=30:min-keyint=1",
    "several slices": "bframes=3:slices=4:keyint=15",
}
MADE = {
    **{f"{name} in {end}": ("libx264", {"x264-params": options}, end)
       for name, options in X264.items() for end in ("mp4", "mkv")},
    "HEVC": (
        "libx265", {"x265-params": "bframes=4:keyint=12:open-gop=0:log-level=none"}, "mp4",
    ),
    "HEVC with open groups": (
        "libx265", {"x265-params": "bframes=4:keyint=12:open-gop=1:log-level=none"}, "mkv",
    ),
    "HEVC in layers": (
        "libx265", {"x265-params": "bframes=7:temporal-layers=3:keyint=24:log-level=none"}, "mp4",
    ),
    "mpeg4": ("mpeg4", {"bf": "2", "g": "12"}, "mp4"),
    "vp9": ("libvpx-vp9", {"cpu-used": "8", "lag-in-frames": "10", "g": "9"}, "webm"),
    "AVI": ("libx264", {"bf": "2"}, "avi"),
}  # fmt: skip
CERTAIN = [name for name in MADE if name not in ("mpeg4", "vp9", "AVI")]


def moving(num_frames: int) -> np.ndarray:
    """Noise that moves under a ramp that changes: every frame differs from every other."""
    noise = np.random.default_rng(0).integers(0, 60, (64, 96 + 3 * num_frames, 3), np.uint8)
    frames = [noise[:, 3 * i : 3 * i + 96] + np.uint8(3 * i) for i in range(num_frames)]
    frames[num_frames // 2 :] = [255 - frame for frame in frames[num_frames // 2 :]]  # a cut
    return np.stack(frames)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    folder, frames = tmp_path_factory.mktemp("made"), moving(40)
    return {
        name: encode(folder / f"{number}.{end}", frames, codec, options)
        for number, (name, (codec, options, end)) in enumerate(MADE.items())
    }


def all_frames(path: Path) -> np.ndarray:
    """What the decoder yields, one frame after the other."""
    return np.stack([to_image(frame) for frame in iterate_frames(path)])


def frames_are_right(path: Path, rng: np.random.Generator, draws: int) -> bool:
    """Compare frames that are asked for with all frames; -> whether the order was certain."""
    expected = all_frames(path)
    with closing(VideoClip(path)) as clip:
        num_frames, _ = clip.measure()
        assert num_frames == len(expected)
        for size in (1, 1, 1, 2, 3, 8, *[4] * draws):
            indices = rng.integers(0, num_frames, size)
            np.testing.assert_array_equal(clip.decode(indices), expected[indices])
        wanted = sorted(set(indices.tolist()))
        for number, image in clip.images(wanted):
            assert number == wanted.pop(0)
            np.testing.assert_array_equal(image, expected[number])
        assert wanted == []
        return clip._readers["pyav"]._order is not None


@pytest.mark.parametrize(("num_threads", "kept_bytes"), [(1, 1 << 20), (3, 0)])
@pytest.mark.parametrize("name", MADE)
def test_frame_k_is_the_kth_that_the_decoder_yields(
    made, monkeypatch, name, num_threads, kept_bytes
):
    monkeypatch.setattr(videos, "_num_threads", num_threads)
    monkeypatch.setattr(videos, "_KEPT_BYTES", kept_bytes)
    is_certain = frames_are_right(made[name], np.random.default_rng(0), draws=6)
    assert is_certain == (name in CERTAIN)


@needs_clips
@pytest.mark.parametrize("name", [name for name in REAL if "1080p" not in name])
def test_frame_k_of_a_real_video_is_the_kth_that_the_decoder_yields(name):
    is_certain = frames_are_right(CLIPS / name, np.random.default_rng(0), draws=1)
    assert is_certain == name.endswith(".mp4")


def decoded(monkeypatch) -> list[int]:
    """A list to which the times of frames that a planned decoding yields are added."""
    times, decode_needed = [], videos._PyAVVideo._decode_needed

    def noting(self, *arguments):
        for frame in decode_needed(self, *arguments):
            times.append(frame.pts)
            yield frame

    monkeypatch.setattr(videos._PyAVVideo, "_decode_needed", noting)
    return times


def decode_measured(path: Path, indices: list[int]) -> np.ndarray:
    with closing(VideoClip(path)) as clip:
        clip.measure()
        return clip.decode(np.array(indices))


@pytest.mark.parametrize(
    ("name", "indices", "most"),
    [
        ("every frame a start in mp4", [39, 3, 3], 2),
        ("no B-frames in mkv", [17, 38], 10),
        ("HEVC", [39, 1], 16),
        ("pyramid of B-frames in mp4", [39], 4),
        ("as it comes in mp4", [39], 30),  # one start, but frames that no other refers to
    ],
)
def test_no_more_is_decoded_than_the_wanted_frames_need(made, monkeypatch, name, indices, most):
    path, times = made[name], decoded(monkeypatch)
    np.testing.assert_array_equal(decode_measured(path, indices), all_frames(path)[indices])
    assert len(set(indices)) <= len(times) <= most


def test_half_frames_are_counted_as_the_decoder_yields_them(tmp_path, monkeypatch):
    options = {"x264-params": "interlaced=1:bframes=3:keyint=8"}
    path, times = encode(tmp_path / "a.mp4", moving(40), "libx264", options), decoded(monkeypatch)
    np.testing.assert_array_equal(decode_measured(path, [30, 7]), all_frames(path)[[30, 7]])
    assert len(times) == 1  # the first one told it


def test_times_of_decoding_are_not_taken_for_those_of_showing(made, tmp_path):
    source, path = made["pyramid of B-frames in mp4"], tmp_path / "lying.mp4"
    content = source.read_bytes().replace(b"edts", b"free")
    path.write_bytes(content.replace(b"ctts", b"free"))  # how much later each frame is shown
    for indices in ([5, 20], [39, 0, 11, 12, 13]):
        np.testing.assert_array_equal(decode_measured(path, indices), all_frames(source)[indices])


def test_frames_are_counted_where_they_come_in_another_order_than_their_times(made, tmp_path):
    source, path = made["pyramid of B-frames in mp4"], tmp_path / "lying.mp4"
    content = bytearray(source.read_bytes())
    at = content.index(b"ctts") + 8
    (num_runs,) = struct.unpack_from(">I", content, at)
    for run in range(4, num_runs, 5):
        place = at + 4 + 8 * run
        count, delay = struct.unpack_from(">2I", content, place)
        struct.pack_into(">2I", content, place, count, delay + 2047)
    path.write_bytes(content)
    expected = all_frames(source)
    np.testing.assert_array_equal(decode_measured(path, list(range(40))), expected)


def break_planned(monkeypatch, error: Exception, after: int) -> None:
    needed_frames = videos._PyAVVideo._needed_frames

    def breaking(self, *arguments):
        yield from itertools.islice(needed_frames(self, *arguments), after)
        raise error

    monkeypatch.setattr(videos._PyAVVideo, "_needed_frames", breaking)


DEFECT = av.error.InvalidDataError(1094995529, "a defect made for this test")


@pytest.mark.parametrize("error", [DEFECT, videos._Misplaced()])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_what_goes_wrong_on_the_way_is_decoded_frame_by_frame(made, monkeypatch, error, after):
    path = made["as it comes in mp4"]
    expected = all_frames(path)[[30, 7, 20]]
    break_planned(monkeypatch, error, after)
    np.testing.assert_array_equal(decode_measured(path, [30, 7, 20]), expected)
    with closing(VideoClip(path)) as clip:
        clip.measure()
        images = clip.images([7, 20, 30])
        if after and error is not DEFECT:  # frames that are out may have had wrong numbers
            with pytest.raises(DecodeError, match="its frames are not in the order that it says"):
                list(images)
        else:
            assert [number for number, _ in images] == [7, 20, 30]

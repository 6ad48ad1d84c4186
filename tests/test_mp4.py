"""The index of an .mp4 or .mov: what its tables claim, told before FFmpeg makes it."""

import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import frames_of, write_video
from test_decode import encode

from paddlevid.data.decode import DecodeError, count_frames
from paddlevid.data.limits import CLIP_BYTES, FRAMES
from paddlevid.data.mp4 import check_index

FRAGMENTS = "frag_keyframe+empty_moov"


def patch(path: Path, mark: bytes, offset: int, *numbers: int) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(f">{len(numbers)}I", content, content.index(mark) + offset, *numbers)
    path.write_bytes(content)


@pytest.fixture(autouse=True)
def lowered(monkeypatch):
    """A limit that small files can reach."""
    monkeypatch.setenv(FRAMES.variable, "1000")


def claim(path: Path, samples: int) -> None:
    patch(path, b"stsz", 8, 1, samples)


def test_a_table_that_claims_too_much_is_refused(tmp_path):
    path = encode(tmp_path / "a.mp4", frames_of(4), "mpeg4")
    check_index(path)
    claim(path, 8000)
    check_index(path)
    claim(path, 8001)
    message = r"a\.mp4: its header claims 8,001 frames and sounds, more than 8 for each of 1,000"
    for backend in ("pyav", "opencv"):
        with pytest.raises(DecodeError, match=message):
            count_frames(path, backend)


def test_a_run_of_a_fragment_is_counted(tmp_path):
    path = encode(tmp_path / "a.mp4", frames_of(4), "mpeg4", movflags=FRAGMENTS)
    check_index(path)
    patch(path, b"trun", 4, 1, 9000)
    with pytest.raises(DecodeError, match="claims 9,00"):
        check_index(path)


def test_each_edit_counts_all_again(tmp_path):
    path = encode(tmp_path / "a.mp4", frames_of(4), "mpeg4", {"bf": "2"})
    claim(path, 1000)
    check_index(path)
    patch(path, b"elst", 8, 9)
    with pytest.raises(DecodeError, match="claims 9,000 frames"):
        check_index(path)


def with_sound(path: Path, codec: str) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000)
        for number in range(100):
            samples = np.zeros((1, 1024), np.float32 if codec == "aac" else np.int16)
            form = "fltp" if codec == "aac" else "s16"
            frame = av.AudioFrame.from_ndarray(samples, form, "mono")
            frame.sample_rate, frame.pts = 48000, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_sound_without_compression_is_not_counted_by_its_samples(tmp_path):
    path = with_sound(tmp_path / "a.mov", "pcm_s16le")
    assert int.from_bytes(path.read_bytes().partition(b"stsz")[2][8:12], "big") == 102_400
    check_index(path)
    patch(path, b"stsc", 16, 0xFFFFFFF0)
    with pytest.raises(DecodeError, match="claims "):
        check_index(path)


def test_compressed_sound_is_counted_by_its_packets(tmp_path):
    path = with_sound(tmp_path / "a.mp4", "aac")
    check_index(path)
    claim(path, 9000)
    with pytest.raises(DecodeError, match="claims 9,000"):
        check_index(path)


def test_a_large_header_is_not_read(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", frames_of(4), "mpeg4")
    monkeypatch.setenv(CLIP_BYTES.variable, "100")
    with pytest.raises(DecodeError, match=r"a\.mp4: its header has \d+ bytes, more than the limit"):
        check_index(path)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"x", bytes(100), b"\0\0\0\1moov", b"\0\0\0\1moov" + b"\xff" * 8, b"\0\0\0\0moov",
        b"\0\0\0\x20moov\0\0\0\x18trak\0\0\0\x10stsz", b"\0\0\0\x10moov\0\0\0\0trak",
        b"\0\0\0\x18moov\0\0\0\x10trak\0\0\0\7stsz", b"\xff" * 64, b"\0\0\0\x08free" * 1000,
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_passed_over(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    check_index(tmp_path / "a.mp4")
    check_index(write_video(tmp_path / "a.avi", frames_of(3)))

"""Limits on clips: what is above them is refused by name, with what to raise, before it is read."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from conftest import frames_of, write_video
from test_decode import encode

from paddlevid.data import video as videos
from paddlevid.data.dataset import inspect_clip
from paddlevid.data.decode import DecodeError, VideoDecoder, count_frames, decode, inspect_video
from paddlevid.data.frames import write_frames
from paddlevid.data.limits import CLIP_BYTES, FRAME_PIXELS, FRAMES, Limit, check_file


@pytest.fixture
def lowered(monkeypatch):
    """A function that sets a limit."""
    return lambda limit, value: monkeypatch.setenv(limit.variable, str(value))


def test_the_variable_sets_the_limit_and_the_message_names_both(monkeypatch):
    limit = Limit("PADDLEVID_MAX_SHEEP", 1000, "sheep")
    limit.check("a.avi", "the flock", 1000)
    message = (
        "a.avi: the flock has 1,001 sheep, more than the limit of 1,000: for a file that you "
        "trust, raise PADDLEVID_MAX_SHEEP"
    )
    with pytest.raises(DecodeError, match=message):
        limit.check("a.avi", "the flock", 1001)
    monkeypatch.setenv("PADDLEVID_MAX_SHEEP", "2000")
    limit.check("a.avi", "the flock", 1001)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e6"])
def test_a_limit_that_is_no_number_is_told(monkeypatch, text):
    monkeypatch.setenv(FRAMES.variable, text)
    with pytest.raises(ValueError, match=f"PADDLEVID_MAX_FRAMES = '{text}': needs a whole number"):
        assert FRAMES.value


def test_8k_is_within_the_limit():
    assert FRAME_PIXELS.value >= 7680 * 4320


@pytest.mark.parametrize("backend", ["pyav", "opencv"])
def test_a_video_of_large_frames_is_refused(video, lowered, backend):
    assert decode(video, [0], backend).shape == (1, 48, 64, 3)
    lowered(FRAME_PIXELS, 48 * 64 - 1)
    message = r"clip\.avi: a frame of 64x48 has 3,072 pixels, more than the limit of 3,071"
    for read in (count_frames, lambda path, backend: decode(path, [0], backend)):
        with pytest.raises(DecodeError, match=message):
            read(video, backend)
    assert "more than the limit" in inspect_video(video).problem
    assert "more than the limit" in inspect_clip(video)[2]


def test_frames_that_are_larger_than_the_header_says_are_not_decoded(tmp_path, lowered):
    path = encode(tmp_path / "a.avi", frames_of(4, 192, 256), "mpeg4")
    content = bytearray(path.read_bytes())
    struct.pack_into("<II", content, content.index(b"strf") + 12, 64, 48)
    path.write_bytes(content)
    message = r"a\.avi: cannot be decoded .damaged, .* or a frame of more than 3,072 pixels: fo"
    assert decode(path, [0], "pyav").shape == (1, 192, 256, 3)
    lowered(FRAME_PIXELS, 64 * 48)
    with pytest.raises(DecodeError, match=message):
        decode(path, [0])  # and OpenCV is not asked, which would decode it
    with pytest.raises(DecodeError, match=message):
        write_frames(path, tmp_path / "frames")


@pytest.mark.parametrize("backend", ["pyav", "opencv"])
def test_a_video_of_too_many_frames_is_refused(video, lowered, backend):
    lowered(FRAMES, 20)
    assert count_frames(video, backend) == 20
    lowered(FRAMES, 19)
    with pytest.raises(DecodeError, match=r"clip\.avi: the video has \d+ frames, more than the"):
        count_frames(video, backend)
    with pytest.raises(DecodeError, match="PADDLEVID_MAX_FRAMES"):
        list(videos.iterate_frames(video))
    with pytest.raises(DecodeError, match="PADDLEVID_MAX_FRAMES"):
        list(videos.iterate_images(video, backend))


def test_a_folder_of_too_many_frames_is_refused(tmp_path, lowered):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), np.zeros((8, 8, 3), np.uint8))
    lowered(FRAMES, 2)
    with pytest.raises(DecodeError, match="the folder has 3 frames, more than the limit of 2"):
        count_frames(tmp_path)


def test_a_clip_that_would_take_too_much_memory_is_refused(video, lowered):
    lowered(CLIP_BYTES, 3 * 64 * 48 * 3)
    assert len(decode(video, [0, 1, 2])) == 3
    message = r"clip\.avi: a clip of 4 frames of 64x48 has 36,864 bytes, more than the limit of 27"
    with pytest.raises(DecodeError, match=message):
        decode(video, [0, 1, 2, 3])
    small = VideoDecoder()(video, lambda n, fps: np.arange(n), lambda h, w: (12, 16))
    assert small.shape == (20, 12, 16, 3)


def test_a_narrow_frame_is_not_made_a_huge_one(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((1, 4000, 3), np.uint8))
    with pytest.raises(DecodeError, match="a clip of 1 frames of 1024000x256 has 786,432,000 byt"):
        VideoDecoder()(tmp_path, lambda n, fps: [0], lambda h, w: (256 * h, 256 * w))


def test_frames_are_not_written_larger_than_the_limit(tmp_path, lowered):
    video = write_video(tmp_path / "a.avi", frames_of(3, 48, 64))
    lowered(FRAME_PIXELS, 96 * 128)
    assert write_frames(video, tmp_path / "twice", short_side=96) == 3
    with pytest.raises(DecodeError, match=r"a\.avi: a frame of 129x97 has"):
        write_frames(video, tmp_path / "more", short_side=97)
    assert not (tmp_path / "more").exists()


# --- images ---------------------------------------------------------------------------------------


def jpeg(height: int, width: int, progressive: bool = False) -> bytes:
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8), flags)[1].tobytes()


def png(height: int, width: int) -> bytes:
    return cv2.imencode(".png", np.full((height, width, 3), 90, np.uint8))[1].tobytes()


@pytest.mark.parametrize("encode_image", [jpeg, png])
def test_an_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch, lowered, encode_image):
    (tmp_path / "1.jpg").write_bytes(encode_image(20, 30))
    assert decode(tmp_path, [0]).shape == (1, 20, 30, 3)
    lowered(FRAME_PIXELS, 599)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(DecodeError, match=r"1\.jpg: a frame of 30x20 has 600 pixels, more than"):
        decode(tmp_path, [0])


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"\xff\xfe\0\x0b\xff\xc0\0\x09\x08\0\x01\0\x01",  # a comment that looks like a frame
        b"\xff\xff\xff",  # filling
        b"\xff\x01\xff\xd0",  # marks without a length
        b"no segment",
        b"\xff\0 no mark",
        b"\xff\xe1\0\x04ab",  # Exif data
    ],
)
def test_the_size_is_that_which_the_decoder_sees(tmp_path, lowered, before):
    content = jpeg(20, 30)
    at = 4 + int.from_bytes(content[4:6], "big")  # after the first segment
    (tmp_path / "1.jpg").write_bytes(content[:at] + before + content[at:])
    assert decode(tmp_path, [0]).shape == (1, 20, 30, 3)
    lowered(FRAME_PIXELS, 599)
    with pytest.raises(DecodeError, match="a frame of 30x20 has 600 pixels"):
        decode(tmp_path, [0])


def test_an_image_of_another_kind_is_refused(tmp_path):
    for suffix in (".bmp", ".tiff", ".webp"):
        content = cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes()
        (tmp_path / "1.jpg").write_bytes(content)
        with pytest.raises(DecodeError, match=r"1\.jpg: is not an image that OpenCV reads here, a"):
            decode(tmp_path, [0])


def test_a_jpeg_of_many_scans_is_refused(tmp_path):
    content = jpeg(2000, 2000, progressive=True)
    at = content.rindex(b"\xff\xda")
    (tmp_path / "1.jpg").write_bytes(content[:at] + content[at:-2] * 200 + b"\xff\xd9")
    with pytest.raises(DecodeError, match=r"1\.jpg: the JPEG has 2\d\d scans, which would take"):
        decode(tmp_path, [0])
    (tmp_path / "1.jpg").write_bytes(content)
    assert decode(tmp_path, [0]).shape == (1, 2000, 2000, 3)


def test_a_png_is_not_taken_for_a_jpeg_of_many_scans(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    content = cv2.imencode(".png", noise, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
    note = b"teXt" + b"\xff\xda" * 2000
    chunk = struct.pack(">I", len(note) - 4) + note + struct.pack(">I", zlib.crc32(note))
    (tmp_path / "1.png").write_bytes(content[:33] + chunk + content[33:])
    np.testing.assert_array_equal(decode(tmp_path, [0])[0], noise[:, :, ::-1])


# --- files ----------------------------------------------------------------------------------------


def test_a_file_that_is_read_as_a_whole_has_a_limit(tmp_path, lowered):
    (tmp_path / "a.npy").write_bytes(bytes(100))
    lowered(CLIP_BYTES, 99)
    with pytest.raises(DecodeError, match=r"a\.npy: the file has 100 bytes, more than the limit"):
        check_file(tmp_path / "a.npy")


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
@pytest.mark.parametrize("name", ["a.avi", "a.pkl"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DecodeError, match=f"{name}: cannot be read .it is a pipe or a device"):
        count_frames(tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_a_pipe_among_the_frames_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.jpg")
    with pytest.raises(DecodeError, match=r"cannot read its frame .*1\.jpg .it is a pipe or a dev"):
        decode(tmp_path, [0])

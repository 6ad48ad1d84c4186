"""Decoding: what is read is what is there, and what cannot be read says why."""

import itertools
import os
import pickle
import re
import struct
import sys
import wave
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import frames_of, write_video

from paddlevid.data import decode as module
from paddlevid.data import video as videos
from paddlevid.data.decode import DecodeError, VideoDecoder, count_frames, decode

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
B_FRAMES = {"bf": "2", "g": "12"}


def encode(path: Path, frames: np.ndarray, codec: str, options=None, movflags="", sound=False):
    """Write RGB frames with PyAV, which has more codecs than OpenCV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.bit_rate = 2_000_000
        if codec == "mpeg4":
            stream.codec_context.max_b_frames = int((options or {}).get("bf", 0))
        voice = container.add_stream("aac", rate=16000) if sound else None
        for number, frame in enumerate(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            if voice:
                noise = np.random.default_rng(number).normal(0, 0.3, (1, 640)).astype(np.float32)
                samples = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
                samples.sample_rate, samples.pts = 16000, number * 640
                container.mux(voice.encode(samples))
        for one in (stream, voice) if voice else (stream,):
            container.mux(one.encode())
    return path


def numbers(frames: np.ndarray, num_frames: int) -> list[int]:
    """Which frames of `frames_of` these are, told by their grey level."""
    grey = frames[:, 30:44, 36:].mean(axis=(1, 2, 3))
    return np.rint((grey - 20) / (180 / (num_frames - 1))).astype(int).tolist()


FORMATS = {
    "MJPG in .avi": lambda path, frames: write_video(path / "a.avi", frames, "MJPG"),
    "Xvid in .avi": lambda path, frames: write_video(path / "a.avi", frames, "XVID"),
    "mp4v in .mp4": lambda path, frames: write_video(path / "a.mp4", frames, "mp4v"),
    "mpeg4 with B-frames": lambda path, frames: encode(path / "a.avi", frames, "mpeg4", B_FRAMES),
    "h264 with B-frames": lambda path, frames: encode(path / "a.mp4", frames, "libx264", B_FRAMES),
    "h264 in .mkv": lambda path, frames: encode(path / "a.mkv", frames, "libx264", B_FRAMES),
    "vp8 with alt-ref": lambda path, frames: encode(
        path / "a.webm", frames, "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "10"}
    ),
    "vp9": lambda path, frames: encode(
        path / "a.webm", frames, "libvpx-vp9", {"cpu-used": "8", "lag-in-frames": "10"}
    ),
    "with sound": lambda path, frames: encode(path / "a.mp4", frames, "libx264", sound=True),
}


@pytest.mark.parametrize("form", FORMATS)
def test_frames_come_in_the_order_asked_for_and_as_often(tmp_path, form):
    path = FORMATS[form](tmp_path, frames_of(20))
    wanted = [19, 0, 7, 7, 8, 3]
    for backend in ("pyav", "opencv"):
        assert count_frames(path, backend) == 20
        clip = decode(path, wanted, backend)
        assert clip.dtype == np.uint8 and clip.shape == (6, 48, 64, 3)
        assert numbers(clip, 20) == wanted
    assert np.abs(decode(path, wanted, "pyav").astype(int) - clip).max() <= 3


@pytest.mark.parametrize(("height", "width"), [(47, 63), (45, 50), (33, 97)])
def test_odd_sizes_are_kept(tmp_path, height, width):
    path = encode(tmp_path / "odd.avi", frames_of(3, height, width), "mpeg4")
    clip = decode(path, [0, 2])
    assert clip.shape == (2, height, width, 3)
    assert numbers(clip, 3) == [0, 2]
    assert np.abs(clip.astype(int) - decode(path, [0, 2], "opencv")).mean() < 2


def test_colours_are_rgb(tmp_path):
    red = np.zeros((2, 48, 64, 3), np.uint8)
    red[..., 0] = 255
    path = write_video(tmp_path / "red.avi", red)
    for backend in ("pyav", "opencv"):
        assert np.abs(decode(path, [1], backend)[0, 20, 20].astype(int) - [255, 0, 0]).max() < 12


@pytest.mark.parametrize(
    "name", ["a b.avi", "挥手 1.avi", "50%02d.avi", "wave:1.avi", "x.AVI", "#.avi"]
)
def test_any_file_name_is_read(tmp_path, monkeypatch, name):
    write_video(tmp_path / "plain.avi", frames_of(5)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)  # a relative `wave:1.avi` looks like an address
    for path in (name, tmp_path / name):
        for backend in ("pyav", "opencv"):
            assert count_frames(path, backend) == 5
            assert numbers(decode(path, [4], backend), 5) == [4]


# --- headers that lie, files that end early -------------------------------------------------------


def claim_frames(path: Path, num_frames: int) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"avih") + 8 + 16, num_frames)
    struct.pack_into("<I", content, content.index(b"strh") + 8 + 32, num_frames)
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == num_frames


@pytest.mark.parametrize("claimed", [5, 19, 21, 3000])
def test_a_header_with_a_wrong_number_of_frames_does_no_harm(video, claimed):
    claim_frames(video, claimed)
    assert count_frames(video) == 20
    assert numbers(VideoDecoder()(video, lambda n, fps: np.array([0, n - 1])), 20) == [0, 19]


def test_sampling_is_asked_again_when_a_video_has_fewer_frames_than_counted(video, monkeypatch):
    monkeypatch.setattr(videos.VideoClip, "measure", lambda clip: (33, 25.0))
    asked = []

    def choose(num_frames, fps):
        asked.append((num_frames, fps))
        return [num_frames - 1]

    assert numbers(VideoDecoder()(video, choose), 20) == [19]
    assert asked == [(33, 25.0), (20, 25.0)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_broken_file_whose_name_is_not_utf8_is_an_error_like_any_other(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.avi")
    path.write_bytes(b"not a video")
    with pytest.raises(DecodeError, match="opencv: it takes no name that is not UTF-8"):
        count_frames(path)


def test_a_video_that_yields_nothing_after_all_is_an_error(video, monkeypatch):
    monkeypatch.setattr(videos._PyAVVideo, "_all_frames", lambda reader: iter(()))
    with pytest.raises(DecodeError, match=r"clip\.avi: has no frames that can be decoded"):
        VideoDecoder()(video, lambda n, fps: [n - 1])


CUT = {
    "MJPG in .avi": ("a.avi", lambda path, frames: write_video(path, frames)),
    "Xvid in .avi": ("a.avi", lambda path, frames: write_video(path, frames, "XVID")),
    "moov at the end": ("a.mp4", lambda path, frames: encode(path, frames, "libx264")),
    "moov at the start": (
        "a.mp4", lambda path, frames: encode(path, frames, "libx264", movflags="+faststart"),
    ),
    "h264 in .mkv": ("a.mkv", lambda path, frames: encode(path, frames, "libx264")),
    "vp9": ("a.webm", lambda path, frames: encode(path, frames, "libvpx-vp9", {"cpu-used": "8"})),
}  # fmt: skip


@pytest.mark.parametrize("share", [0.05, 0.6, 0.9])
@pytest.mark.parametrize("form", CUT)
def test_a_file_that_is_cut_off_is_an_error(tmp_path, form, share):
    name, write = CUT[form]
    path = write(tmp_path / name, frames_of(20))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(
        DecodeError, match=rf"{name}: (the file is cut off|cannot be decoded|has no)"
    ):
        VideoDecoder()(path, lambda n, fps: np.arange(n))
    assert module.inspect_video(path).problem


def test_a_cut_in_a_packet_of_sound_is_found_as_well(tmp_path):
    path = encode(tmp_path / "a.mp4", frames_of(20), "libx264", movflags="+faststart", sound=True)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux() if packet.stream.type == "audio"]
        packet = packets[len(packets) // 2]
        end = packet.pos + packet.size // 2
    assert count_frames(path) == 20
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(DecodeError, match="the file is cut off after frame"):
        count_frames(path)


def test_a_matroska_file_of_unknown_size_has_the_frames_it_has(tmp_path):
    path = encode(tmp_path / "a.mkv", frames_of(20), "libx264")
    content = path.read_bytes()
    at = content.index(b"\x18S\x80g") + 4
    assert content[at] == 1  # a size of 8 bytes
    assert int.from_bytes(content[at + 1 : at + 8], "big") + at + 8 == len(content)
    content = content[:at] + b"\x01" + b"\xff" * 7 + content[at + 8 :]
    path.write_bytes(content[: int(len(content) * 0.7)])
    assert 0 < count_frames(path) < 20


def test_what_is_not_a_video_is_an_error_with_the_reasons_of_both_backends(tmp_path):
    text = tmp_path / "text.avi"
    text.write_text("not a video\n" * 50)
    both = r"text\.avi: cannot be decoded \(pyav: Invalid data.*; opencv: no frame\)"
    sampled = partial(VideoDecoder(), choose=lambda n, fps: np.arange(n))
    for read in (count_frames, lambda p: decode(p, [0]), sampled):
        with pytest.raises(DecodeError, match=both):
            read(text)
    with pytest.raises(DecodeError, match=r"text\.avi: cannot be decoded \(opencv: no frame\)"):
        decode(text, [0], "opencv")


def test_a_file_that_is_missing_or_empty_is_an_error(tmp_path):
    with pytest.raises(DecodeError, match=r"none\.avi: does not exist"):
        count_frames(tmp_path / "none.avi")
    (tmp_path / "empty.avi").touch()
    with pytest.raises(DecodeError, match=r"empty\.avi: is empty"):
        decode(tmp_path / "empty.avi", [0])
    with pytest.raises(DecodeError, match="cannot be read .File name too long"):
        decode(tmp_path / ("x" * 300), [0])
    with pytest.raises(DecodeError, match="cannot be read .embedded null byte"):
        decode("\0.avi", [0])


def test_sound_without_pictures_is_an_error(tmp_path):
    with wave.open(str(tmp_path / "sound.avi"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))
    with pytest.raises(DecodeError, match=r"sound\.avi: has no video stream"):
        count_frames(tmp_path / "sound.avi")


def test_a_video_in_an_unknown_codec_is_an_error(tmp_path):
    path = encode(tmp_path / "a.webm", frames_of(3), "libvpx")
    path.write_bytes(path.read_bytes().replace(b"V_VP8", b"V_XXX"))
    with pytest.raises(DecodeError, match=r"a\.webm: its video stream is in no codec that FFmpeg"):
        count_frames(path)
    assert "in no codec" in module.inspect_video(path).problem


def test_notes_in_a_video_that_are_no_utf8_do_no_harm(tmp_path):
    path = encode(tmp_path / "a.webm", frames_of(3), "libvpx")
    content = path.read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"L\xe4vf").replace(b"Lavc", b"L\xe4vc"))
    assert count_frames(path, "pyav") == 3
    assert module.inspect_video(path).problem == ""


def test_a_frame_past_the_end_is_an_error(video):
    message = r"clip\.avi: has 20 frames, but frame number 20 was asked for"
    for backend in ("pyav", "opencv"):
        with pytest.raises(DecodeError, match=message):
            decode(video, [3, 20], backend)


@pytest.mark.parametrize("indices", [[], [-1], [[1]]])
def test_frame_numbers_that_make_no_sense_are_an_error(video, indices):
    with pytest.raises(ValueError, match="frame numbers must be a list of whole numbers from 0"):
        decode(video, indices)


# --- backends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_video_that_says_it_lies_on_its_side_is_turned_upright(tmp_path, degrees):
    frames = frames_of(4)
    frames[:, :10, :10] = 255  # so that all four corners differ
    path = encode(tmp_path / "turned.mp4", frames, "libx264")
    content = bytearray(path.read_bytes())
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, *matrix)
    upright = decode(path, [0, 3])
    path.write_bytes(content)
    turned = decode(path, [0, 3], "pyav")
    np.testing.assert_array_equal(turned, np.rot90(upright, -degrees // 90, axes=(1, 2)))
    oracle = decode(path, [0, 3], "opencv")  # OpenCV turns by itself
    assert turned.shape == oracle.shape
    assert np.abs(turned.astype(int) - oracle).max() <= 3


def count_work(monkeypatch) -> tuple[list[int], list[int]]:
    """Two lists, one longer for each frame that is decoded and for each that is converted."""
    seen, converted, convert = [], [], videos.to_image

    def counting(iterate):
        def iterating(of):
            for frame in iterate(of):
                seen.append(1)
                yield frame

        return iterating

    def converting(frame, *args, **kwargs):
        converted.append(1)
        return convert(frame, *args, **kwargs)

    all_frames = videos._PyAVVideo._all_frames
    monkeypatch.setattr(videos._PyAVVideo, "_all_frames", counting(all_frames))
    monkeypatch.setattr(videos, "iterate_frames", counting(videos.iterate_frames))
    monkeypatch.setattr(videos, "to_image", converting)
    return seen, converted


def test_only_wanted_frames_are_converted_and_reading_stops_after_the_last(video, monkeypatch):
    seen, converted = count_work(monkeypatch)
    decode(video, [9, 2, 2, 5])
    assert (len(seen), len(converted)) == (10, 3)


def test_a_frame_converts_alone_as_with_a_shared_converter(video):
    frame = next(videos.iterate_frames(video))
    np.testing.assert_array_equal(videos.to_image(frame), decode(video, [0])[0])
    bgr = next(videos.iterate_images(video))[1]
    np.testing.assert_array_equal(bgr[..., ::-1], decode(video, [0])[0])


@pytest.mark.parametrize("backend", ["pyav", "opencv"])
def test_all_frames_come_with_their_seconds(video, backend):
    seconds, images = zip(*videos.iterate_images(video, backend), strict=True)
    np.testing.assert_allclose(seconds, np.arange(20) / 25, atol=1e-3)
    assert numbers(np.stack(images), 20) == list(range(20))


def fail(*_):
    raise av.error.InvalidDataError(1094995529, "a defect made for this test")


def break_pyav(monkeypatch) -> None:
    for step in ("measure", "images"):
        monkeypatch.setattr(videos._PyAVVideo, step, fail)


def test_opencv_reads_what_pyav_cannot(video, monkeypatch):
    expected = decode(video, [0, 9], "opencv")
    break_pyav(monkeypatch)
    assert count_frames(video) == 20
    np.testing.assert_array_equal(decode(video, [0, 9]), expected)
    with pytest.raises(
        DecodeError, match=r"cannot be decoded \(pyav: a defect made for this test\)"
    ):
        count_frames(video, "pyav")


def test_when_both_backends_fail_the_message_has_both_reasons(video, monkeypatch):
    def fail_too(*_):
        raise cv2.error("another defect")

    break_pyav(monkeypatch)
    monkeypatch.setattr(videos, "_open_opencv", fail_too)
    both = r"clip\.avi: .*pyav: a defect made for this test; opencv: another defect"
    with pytest.raises(DecodeError, match=both):
        decode(video, [0])


# --- the decoder of a data set --------------------------------------------------------------------


def asked_of(decoder: VideoDecoder, path: Path) -> tuple[int, float]:
    """The number of frames and the rate that a decoder passes on."""
    asked = []

    def choose(num_frames, fps):
        asked.append((num_frames, fps))
        return np.array([0])

    decoder(path, choose)
    assert len(asked) == 1 and isinstance(asked[0][0], int) and isinstance(asked[0][1], float)
    return asked[0]


@pytest.mark.parametrize("backend", ["pyav", "opencv"])
@pytest.mark.parametrize("kind", ["video", "folder"])
def test_frames_are_resized_one_by_one_as_they_would_be_afterwards(tmp_path, video, backend, kind):
    path = (
        video if kind == "video" else write_images(tmp_path / "f", [f"{i}.jpg" for i in range(20)])
    )
    asked = []

    def new_size(height, width):
        asked.append((height, width))
        return 31, 17

    whole = VideoDecoder(backend)(path, lambda n, fps: [9, 2, 9])
    clip = VideoDecoder(backend)(path, lambda n, fps: [9, 2, 9], new_size)
    np.testing.assert_array_equal(clip, [cv2.resize(frame, (17, 31)) for frame in whole])
    assert asked == [(48, 64)] * 2
    same = VideoDecoder(backend)(
        path, lambda n, fps: [9, 2, 9], lambda height, width: (height, width)
    )
    np.testing.assert_array_equal(same, whole)


def test_frames_that_change_their_size_are_an_error():
    numbered = [(0, np.zeros((4, 6, 3), np.uint8)), (1, np.zeros((1, 1, 3), np.uint8))]
    with pytest.raises(ValueError, match=r"its frames have different sizes: 1x1 after \(4, 6\)"):
        videos.gather(numbered, np.array([0, 1]))


@pytest.mark.parametrize("backend", [None, "pyav", "opencv"])
def test_a_decoder_reads_what_is_chosen(video, backend):
    clip = VideoDecoder(backend)(video, lambda n, fps: [n - 1, 0, 0, n // 2])
    assert clip.shape == (4, 48, 64, 3) and clip.dtype == np.uint8
    assert numbers(clip, 20) == [19, 0, 0, 10]


@pytest.mark.parametrize(
    ("backend", "used"), [("pyav", "pyav"), ("opencv", "opencv"), (None, "pyav")]
)
def test_a_decoder_measures_and_decodes_with_its_backend(video, monkeypatch, backend, used):
    called = []

    def noting(name, step):
        def note(*arguments):
            called.append(name)
            return step(*arguments)

        return note

    for name, reader in videos.BACKENDS.items():
        for step in ("measure", "images"):
            monkeypatch.setattr(reader, step, noting(f"{name} {step}", getattr(reader, step)))
    VideoDecoder(backend)(video, lambda n, fps: [0])
    assert called == [f"{used} measure", f"{used} images"]


def test_a_decoder_without_a_backend_falls_back_to_opencv_and_others_do_not(video, monkeypatch):
    expected = decode(video, [3], "opencv")
    break_pyav(monkeypatch)
    np.testing.assert_array_equal(VideoDecoder()(video, lambda n, fps: [3]), expected)
    with pytest.raises(DecodeError, match=r"cannot be decoded \(pyav: a defect made for this"):
        VideoDecoder("pyav")(video, lambda n, fps: [3])


RATES = {
    "MJPG in .avi": lambda path, fps: write_video(path / "a.avi", frames_of(8), "MJPG", fps),
    "mp4v in .mp4": lambda path, fps: write_video(path / "a.mp4", frames_of(8), "mp4v", fps),
    "MJPG in .mkv": lambda path, fps: write_video(path / "a.mkv", frames_of(8), "MJPG", fps),
}


@pytest.mark.parametrize("fps", [12.5, 25, 30000 / 1001, 60])
@pytest.mark.parametrize("form", RATES)
def test_a_decoder_passes_on_the_rate_of_a_video(tmp_path, form, fps):
    path = RATES[form](tmp_path, fps)
    for backend in ("pyav", "opencv"):
        num_frames, passed = asked_of(VideoDecoder(backend), path)
        assert num_frames == 8
        assert passed == pytest.approx(fps, rel=1e-3)


def test_folders_and_pickles_have_no_rate(tmp_path):
    folder = write_images(tmp_path / "clip", [f"{i}.jpg" for i in range(5)])
    clip = pickled(tmp_path / "p.pkl", "clip", 0, [f"clip/{i}.jpg" for i in range(4)])
    assert asked_of(VideoDecoder(), folder) == (5, 0.0)
    assert asked_of(VideoDecoder(), clip) == (4, 0.0)


def encode_at(path: Path, seconds: list[float]) -> Path:
    """An .mp4 or .mkv whose frames are shown at these seconds, in thousandths."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for image, second in zip(frames_of(len(seconds)), seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(second * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def forget_rate(path: Path) -> Path:
    """Blank the frame duration in the header of an .mkv, as a browser's recordings have none."""
    content = bytearray(path.read_bytes())
    at = content.index(b"\x23\xe3\x83\x84")  # DefaultDuration, and that it has 4 bytes
    content[at : at + 8] = b"\xec\x86" + bytes(6)  # Void, of 6 bytes
    path.write_bytes(content)
    return path


UNEVEN = [0, 0.04, 0.08, 0.5, 0.54, 1.0, 1.5, 1.52, 1.8, 2.0]


def test_the_rate_of_a_video_of_variable_rate_is_its_average(tmp_path):
    num_frames, fps = asked_of(VideoDecoder(), encode_at(tmp_path / "a.mp4", UNEVEN))
    assert num_frames == 10
    assert fps == pytest.approx(9 / 2, rel=0.15)  # how long the last frame lasts is a guess


@pytest.mark.parametrize(
    ("seconds", "fps"),
    [(UNEVEN, 9 / 2), ([i / 20 for i in range(30)], 20), ([0, 0.1], 10), ([0], 0)],
)
def test_a_rate_that_a_file_does_not_say_is_told_from_the_times_of_its_frames(
    tmp_path, seconds, fps
):
    path = forget_rate(encode_at(tmp_path / "a.mkv", seconds))
    num_frames, passed = asked_of(VideoDecoder(), path)
    assert num_frames == len(seconds)
    assert passed == pytest.approx(fps, rel=1e-2)
    assert module.inspect_video(path).fps == pytest.approx(fps, rel=1e-2)


def test_only_chosen_frames_are_converted_by_a_decoder(video, monkeypatch):
    seen, converted = count_work(monkeypatch)
    VideoDecoder()(video, lambda n, fps: [n - 9, 3, 3])
    assert (len(seen), len(converted)) == (12, 2)  # measuring decodes nothing
    seen.clear(), converted.clear()
    claim_frames(video, 33)  # now measuring decodes all frames, and still converts none
    VideoDecoder()(video, lambda n, fps: [n - 9, 3, 3])
    assert (len(seen), len(converted)) == (20 + 12, 2)


def test_only_chosen_frames_of_a_folder_or_a_pickle_are_read(tmp_path):
    folder = write_images(tmp_path / "clip", [f"{i}.jpg" for i in range(5)])
    clip = pickled(tmp_path / "p.pkl", "clip", 0, [f"clip/{i}.jpg" for i in range(5)])
    for i in (0, 2, 4):
        (folder / f"{i}.jpg").write_bytes(b"no image")
    for path in (folder, clip):
        assert numbers(VideoDecoder()(path, lambda n, fps: [3, 1]), 5) == [3, 1]


def test_a_process_can_be_held_to_one_thread(video):
    before = cv2.getNumThreads()
    try:
        module.limit_threads(1)
        assert cv2.getNumThreads() == 1
        with av.open(str(video)) as container:
            assert videos.video_stream(container, video).codec_context.thread_count == 1
    finally:
        module.limit_threads(0)
        cv2.setNumThreads(before)


# --- folders of frames ----------------------------------------------------------------------------


def write_images(folder: Path, names: list[str], num_frames: int | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(names, frames_of(num_frames or len(names)), strict=True):
        encoded = cv2.imencode(Path(name).suffix, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1]
        (folder / name).write_bytes(encoded)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        [f"{i}.jpg" for i in range(12)],
        [f"{i:05d}.jpg" for i in range(1, 13)],
        [f"img_{i}.PNG" for i in range(95, 107)],
        [f"v 挥手_2_{i}.jpeg" for i in range(1, 13)],
    ],
)
def test_frames_of_a_folder_are_in_the_order_of_their_numbers(tmp_path, names):
    folder = write_images(tmp_path / "clip", names)
    (folder / "notes.txt").write_text("not a frame")
    assert count_frames(folder) == 12
    assert numbers(decode(folder, [11, 0, 9, 9, 1]), 12) == [11, 0, 9, 9, 1]


def test_a_folder_without_frames_is_an_error(tmp_path):
    with pytest.raises(DecodeError, match="has no frames"):
        count_frames(tmp_path)
    with pytest.raises(DecodeError, match="has 0 frames, but frame number 2"):
        decode(tmp_path, [2])


@pytest.mark.parametrize("size", [0.1, 0.5, 0.99])
def test_a_jpeg_that_is_cut_off_is_an_error(tmp_path, size):
    folder = write_images(tmp_path / "clip", ["1.jpg", "2.jpg"])
    content = (folder / "2.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(content[: int(len(content) * size)])
    assert decode(folder, [0]).shape == (1, 48, 64, 3)
    with pytest.raises(DecodeError, match=r"2\.jpg: the JPEG is cut off"):
        decode(folder, [0, 1])


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path):
    folder = write_images(tmp_path / "clip", ["1.jpg"])
    whole = decode(folder, [0])
    with open(folder / "1.jpg", "ab") as file:
        file.write(bytes(500))
    np.testing.assert_array_equal(decode(folder, [0]), whole)


def test_an_end_mark_in_a_thumbnail_does_not_hide_a_cut(tmp_path):
    folder = write_images(tmp_path / "clip", ["1.jpg"])
    content = (folder / "1.jpg").read_bytes()
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content
    (folder / "1.jpg").write_bytes(content[:2] + thumbnail + content[2:])
    assert decode(folder, [0]).shape == (1, 48, 64, 3)
    (folder / "1.jpg").write_bytes(content[:2] + thumbnail + content[2:-40])
    with pytest.raises(DecodeError, match="the JPEG is cut off"):
        decode(folder, [0])


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG"])
def test_an_image_that_is_none_is_an_error(tmp_path, content):
    (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(DecodeError, match=r"1\.png: is not an image that OpenCV reads"):
        decode(tmp_path, [0])


@pytest.mark.parametrize("length", [33, 60, 300, -1])
def test_a_png_that_is_cut_off_is_an_error(tmp_path, length):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    content = cv2.imencode(".png", noise)[1].tobytes()
    (tmp_path / "1.png").write_bytes(content[:length])
    with pytest.raises(DecodeError, match=r"1\.png: the PNG is cut off or damaged"):
        decode(tmp_path, [0])


def test_a_png_whose_chunk_claims_a_gigabyte_is_not_given_it(tmp_path, monkeypatch):
    content = bytearray(cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes())
    struct.pack_into(">I", content, content.index(b"IDAT") - 4, 1 << 30)
    (tmp_path / "1.png").write_bytes(content)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(DecodeError, match=r"1\.png: the PNG is cut off or damaged"):
        decode(tmp_path, [0])


def test_frames_of_different_sizes_are_an_error(tmp_path):
    write_images(tmp_path, ["1.jpg"])
    cv2.imwrite(str(tmp_path / "2.jpg"), np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(DecodeError, match=r"its frames have different sizes .*\(10, 20\)"):
        decode(tmp_path, [0, 1])


def photographs(folder: Path, height: int, width: int, suffix: str = ".jpg") -> Path:
    """Two smooth images with a little noise."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(2):
        image = cv2.resize(rng.integers(40, 200, (6, 9, 3), np.uint8), (width, height))
        image = image + rng.integers(0, 9, image.shape, np.uint8)
        cv2.imwrite(str(folder / f"{number}{suffix}"), image)
    return folder


def both_readings(path: Path, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    options = {"choose": lambda n, fps: [0, 1, 0], "new_size": lambda h, w: (height, width)}
    reduced = VideoDecoder(reduced_jpegs=True)(path, **options)
    return reduced, VideoDecoder()(path, **options)


@pytest.mark.parametrize(("height", "width"), [(200, 301), (201, 300), (400, 600), (96, 64)])
@pytest.mark.parametrize("part", [2, 4, 8])
def test_jpegs_can_be_read_in_a_part_of_their_size(tmp_path, monkeypatch, height, width, part):
    folder, flags, imdecode = photographs(tmp_path / "a", height, width), [], cv2.imdecode

    def noting(encoded, flag):
        flags.append(flag)
        return imdecode(encoded, flag)

    monkeypatch.setattr(cv2, "imdecode", noting)
    reduced, whole = both_readings(folder, height // part, width // part)
    assert reduced.shape == whole.shape == (3, height // part, width // part, 3)
    assert flags == [getattr(cv2, f"IMREAD_REDUCED_COLOR_{part}")] * 2 + [cv2.IMREAD_COLOR] * 2
    size = (width // part, height // part)
    means = cv2.resize(decode(folder, [0])[0], size, interpolation=cv2.INTER_AREA)
    assert np.abs(reduced[0].astype(int) - means).mean() < 6


@pytest.mark.parametrize("height", [101, 200, 300])
def test_jpegs_are_not_read_smaller_than_they_will_be(tmp_path, height):
    reduced, whole = both_readings(photographs(tmp_path / "a", 200, 301), height, 150)
    np.testing.assert_array_equal(reduced, whole)


def test_images_that_are_no_jpegs_are_read_whole(tmp_path):
    reduced, whole = both_readings(photographs(tmp_path / "a", 200, 300, ".png"), 25, 37)
    np.testing.assert_array_equal(reduced, whole)


def test_a_jpeg_that_may_be_turned_is_read_whole(tmp_path):
    folder = photographs(tmp_path / "a", 200, 300)
    for file in folder.iterdir():
        content = file.read_bytes()
        turned = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
        segment = b"\xff\xe1" + struct.pack(">H", 2 + len(turned)) + turned
        file.write_bytes(content[:2] + segment + content[2:])
    assert decode(folder, [0]).shape == (1, 300, 200, 3)
    reduced, whole = both_readings(folder, 50, 30)
    np.testing.assert_array_equal(reduced, whole)


@pytest.mark.parametrize("size", [2, 3, 20, 100])
def test_a_header_that_ends_early_says_no_size(tmp_path, size):
    content = next(photographs(tmp_path / "a", 20, 30).iterdir()).read_bytes()
    assert module._read_header(content) == module._Header(20, 30, reducible=True)
    assert module._read_header(content[:size]) is None


# --- pickled clips --------------------------------------------------------------------------------


def pickled(path: Path, *content) -> Path:
    path.write_bytes(pickle.dumps(content[0] if len(content) == 1 else content))
    return path


def test_a_pickle_of_paths_or_of_bytes_is_the_folder_it_was_made_of(tmp_path):
    names = [f"{i}.jpg" for i in range(5)]
    folder = write_images(tmp_path / "frames 1", names)
    paths = pickled(tmp_path / "p.pkl", "clip", 3, [f"frames 1/{name}" for name in names])
    embedded = pickled(tmp_path / "b.pkl", "clip", 3, [(folder / n).read_bytes() for n in names])
    for clip in (paths, embedded):
        assert count_frames(clip) == 5
        assert module.read_pickled_clip(clip).label == 3
        np.testing.assert_array_equal(decode(clip, [4, 0]), decode(folder, [4, 0]))


def test_paths_of_the_books_scripts_count_from_the_current_folder(tmp_path, monkeypatch):
    write_images(tmp_path / "jpg", ["1.jpg"])
    (tmp_path / "pkl").mkdir()
    clip = pickled(tmp_path / "pkl" / "a.pkl", "a", 0, ["jpg/1.jpg"])
    monkeypatch.chdir(tmp_path)
    assert decode(clip, [0]).shape == (1, 48, 64, 3)


def test_a_clip_pickled_by_python_2_is_read(tmp_path):
    write_images(tmp_path, ["1.jpg"])
    (tmp_path / "a.pkl").write_bytes(b"(S'a'\nI4\n(lS'1.jpg'\natp0\n.")
    assert module.read_pickled_clip(tmp_path / "a.pkl").name == "a"
    assert count_frames(tmp_path / "a.pkl") == 1


class Evil:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_pickle_that_wants_to_run_something_is_refused_by_name(tmp_path):
    trace = tmp_path / "executed"
    for content in (Evil(trace), ("a", 1, [Evil(trace)]), {"a": Evil(trace)}):
        evil = pickled(tmp_path / "evil.pkl", content)
        with pytest.raises(
            DecodeError, match=r"evil\.pkl: not a pickled clip .it needs \w+\.mkdir"
        ):
            decode(evil, [0])
    assert not trace.exists()
    pickle.loads(evil.read_bytes())
    assert trace.exists()  # the test's pickle would have done it


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"name": 1}, "holds a dict that is not the tuple"),
        (("a", 1), "holds a tuple that is not the tuple"),
        (("a", True, [b"x"]), "holds a tuple that is not the tuple"),
        (("a", "1", [b"x"]), "holds a tuple that is not the tuple"),
        (("a", 1, []), "has no frames"),
        (("a", 1, [b"x", "y"]), "neither all file names nor all JPEG bytes"),
        (("a", 1, [7]), "neither all file names nor all JPEG bytes"),
    ],
)
def test_a_pickle_of_anything_else_is_an_error(tmp_path, content, reason):
    with pytest.raises(DecodeError, match=rf"a\.pkl: .*{reason}"):
        count_frames(pickled(tmp_path / "a.pkl", content))


def test_a_pickle_that_is_cut_off_is_an_error(tmp_path):
    whole = pickle.dumps(("a", 1, [b"x" * 100]))
    for size in (1, 20, len(whole) - 1):
        (tmp_path / "a.pkl").write_bytes(whole[:size])
        with pytest.raises(DecodeError, match=r"not a pickled clip .+jpg2pkl\.py writes them"):
            count_frames(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("gone.jpg", "No such file"),
        ("\0", "null byte"),
        ("x" * 300, "name too long"),
        (".", "Is a"),
    ],
)
def test_a_frame_file_that_cannot_be_read_is_an_error_with_the_name_of_the_pickle(
    tmp_path, frame, reason
):
    clip = pickled(tmp_path / "a.pkl", "a", 1, [frame])
    with pytest.raises(DecodeError, match=rf"(?s)a\.pkl: cannot read its frame .*{reason}"):
        decode(clip, [0])


def test_an_embedded_image_that_is_none_is_named_by_its_number(tmp_path):
    clip = pickled(tmp_path / "a.pkl", "a", 1, [b"\xff\xd8\xff", b""])
    with pytest.raises(DecodeError, match=r"a\.pkl, frame 0: the JPEG is cut off"):
        decode(clip, [0])
    with pytest.raises(DecodeError, match=r"a\.pkl, frame 1: is not an image"):
        decode(clip, [1])


# --- the whole of a video -------------------------------------------------------------------------


def test_a_report_on_a_good_video_says_what_it_is(video):
    report = module.inspect_video(video)
    assert (report.frames, report.width, report.height, report.fps) == (20, 64, 48, 25)
    assert (report.codec, report.problem, report.note) == ("mjpeg", "", "")
    claim_frames(video, 90)
    assert module.inspect_video(video).note == "the header says 90 frames"
    assert module.inspect_video(video.with_name("gone.avi")).problem == "does not exist"


# --- real videos ----------------------------------------------------------------------------------

REAL = sorted(path.name for path in CLIPS.glob("*f*.*") if module.is_video(path))
needs_clips = pytest.mark.skipif(not REAL, reason=f"the real clips are not at {CLIPS}")


@needs_clips
@pytest.mark.parametrize("name", REAL)
def test_real_clips_have_the_frames_they_are_known_for(name):
    num_frames = int(re.search(r"_(\d+)f", name)[1])
    assert count_frames(CLIPS / name) == num_frames
    wanted = [num_frames // 3, 0, num_frames // 5]
    ours, theirs = (decode(CLIPS / name, wanted, backend) for backend in ("pyav", "opencv"))
    assert np.abs(ours.astype(int) - theirs).max() <= 3


@needs_clips
def test_a_real_pickle_of_another_project_is_refused():
    with pytest.raises(DecodeError, match=r"it needs \w+\.\w+, and a clip has no need of it"):
        count_frames(CLIPS / "foreign_globals.pkl")


def test_pickled_bytes_that_would_fill_the_memory_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".")
    with pytest.raises(DecodeError, match="not a pickled clip"):
        count_frames(tmp_path / "a.pkl")


# --- frames one after the other -------------------------------------------------------------------


@pytest.mark.parametrize("indices", [[0], [19], [0, 3, 3, 7, 19], list(range(20))])
def test_chosen_frames_come_one_by_one_as_decode_gives_them(video, indices):
    seen = []

    def choose(num_frames: int, fps: float) -> np.ndarray:
        seen.append((num_frames, fps))
        return np.array(indices)

    frames = list(module.iterate_chosen(video, choose))
    np.testing.assert_array_equal(np.stack(frames), decode(video, np.array(indices)))
    assert seen == [(20, 25.0)]


def test_chosen_frames_of_a_folder_come_one_by_one(tmp_path):
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((4, 6, 3), number, np.uint8))
    frames = list(module.iterate_chosen(tmp_path, lambda n, fps: np.arange(n)[::2]))
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 2]


def test_frames_that_are_not_chosen_are_not_converted(video, monkeypatch):
    converted = []
    to_image = videos.to_image

    def converting(frame, **options):
        converted.append(1)
        return to_image(frame, **options)

    monkeypatch.setattr(videos, "to_image", converting)
    assert len(list(module.iterate_chosen(video, lambda n, fps: np.array([2, 5])))) == 2
    assert len(converted) == 2


def test_a_clip_that_ends_before_a_chosen_frame_is_told(video):
    with pytest.raises(DecodeError, match="clip.avi: cannot be decoded to frame 20"):
        list(module.iterate_chosen(video, lambda n, fps: np.array([3, n])))


@pytest.mark.parametrize("content", [b"", b"no video"])
def test_what_is_no_video_gives_no_frames(tmp_path, content):
    (tmp_path / "a.avi").write_bytes(content)
    with pytest.raises(DecodeError, match="a.avi"):
        list(module.iterate_chosen(tmp_path / "a.avi", lambda n, fps: np.arange(n)))


@pytest.mark.parametrize("good", [0, 3])
def test_the_other_reader_has_its_chance_before_a_frame_is_out(video, monkeypatch, good):
    all_frames = videos._PyAVVideo._all_frames

    def broken(reader):
        yield from itertools.islice(all_frames(reader), good)
        raise ValueError("no")

    monkeypatch.setattr(videos._PyAVVideo, "_all_frames", broken)
    frames = module.iterate_chosen(video, lambda n, fps: np.arange(n))
    if good == 0:
        assert len(list(frames)) == 20
        return
    assert len(list(itertools.islice(frames, good))) == good
    with pytest.raises(DecodeError, match=r"clip\.avi: cannot be decoded \(pyav: no\)"):
        next(frames)

"""Encoding: what was written is read back with PyAV."""

from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import write_sounding_video

from paddlevid.data import encode
from paddlevid.data.encode import Mp4Writer, write_mp4

COLOURS = [(220, 30, 40), (30, 200, 60), (20, 40, 210), (128, 128, 128)]


def blocks(num_frames: int, height: int, width: int) -> np.ndarray:
    """Frames of four coloured quarters that get brighter: (T, H, W, 3)."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    for i, colour in enumerate(COLOURS):
        rows = slice(None, height // 2) if i < 2 else slice(height // 2, None)
        columns = slice(None, width // 2) if i % 2 == 0 else slice(width // 2, None)
        frames[:, rows, columns] = colour
    return frames + (np.arange(num_frames, dtype=np.uint8) * 5)[:, None, None, None]


def read(path):
    """The frames (T, H, W, 3), their times in seconds, and the stream's rate and codec."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
        return frames, [frame.time for frame in decoded], stream.average_rate, stream.codec.name


def test_all_frames_come_back_ten_a_second(tmp_path):
    write_mp4(tmp_path / "clip.mp4", blocks(6, 32, 48))
    frames, times, rate, codec = read(tmp_path / "clip.mp4")
    assert frames.shape == (6, 32, 48, 3)
    assert codec == "h264"
    assert float(rate) == 10
    np.testing.assert_allclose(np.diff(times), 0.1, rtol=1e-2)


def test_colours_come_back_within_some_grey_levels(tmp_path):
    frames = blocks(6, 64, 96)
    write_mp4(tmp_path / "clip.mp4", frames)
    difference = abs(read(tmp_path / "clip.mp4")[0].astype(int) - frames)
    for rows in (slice(6, 26), slice(38, 58)):  # away from the edges, where colours mix
        for columns in (slice(6, 42), slice(54, 90)):
            assert difference[:, rows, columns].max() <= 8
            assert difference[:, rows, columns].mean() <= 3


@pytest.mark.parametrize(("height", "width"), [(33, 47), (32, 47), (33, 48), (1, 1)])
def test_odd_sides_get_a_copy_of_their_last_pixels(tmp_path, height, width):
    written = blocks(1, height, width)
    write_mp4(tmp_path / "clip.mp4", written)
    frames = read(tmp_path / "clip.mp4")[0].astype(int)
    assert frames.shape == (1, height + height % 2, width + width % 2, 3)
    assert abs(frames[0, -1, -1] - written[0, -1, -1]).max() <= 8
    assert abs(frames[0, -1] - frames[0, height - 1]).mean() <= 3
    assert abs(frames[0, :, -1] - frames[0, :, width - 1]).mean() <= 3


def test_a_mirrored_view_is_written_as_it_looks(tmp_path):
    frames = blocks(2, 32, 32)
    for name, clip in {"view": frames[:, :, ::-1], "copy": frames[:, :, ::-1].copy()}.items():
        write_mp4(tmp_path / f"{name}.mp4", clip)
    view, copy = (read(tmp_path / f"{name}.mp4")[0] for name in ("view", "copy"))
    np.testing.assert_array_equal(view, copy)


# --- frame by frame, with sound -------------------------------------------------------------------


def packets_of_sound(path):
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return []
        return [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]


def copy_with_sound(source, target, num_frames=25):
    """The first frames of 40x60 pixels in grey, with the sound of another file: -> the note"""
    with Mp4Writer(target, 40, 60, rate=25, sound=source) as writer:
        for number in range(num_frames):
            writer.write(np.full((40, 60, 3), 90, np.uint8), number / 25)
        return writer.finish()


@pytest.mark.parametrize(
    ("name", "codecs"),
    [("a.mp4", ("libx264", "aac")), ("a.avi", ("mpeg4", "libmp3lame")),
     ("a.mkv", ("libx264", "flac"))],
)  # fmt: skip
def test_sound_that_an_mp4_can_hold_stays_as_it_is(tmp_path, name, codecs):
    source = write_sounding_video(tmp_path / name, codecs)
    assert copy_with_sound(source, tmp_path / "out.mp4") == ""
    sound = packets_of_sound(tmp_path / "out.mp4")
    assert sound == packets_of_sound(source) and len(sound) > 5


@pytest.mark.parametrize("name", ["a.avi", "a.ts"])
def test_the_tone_is_the_same_where_the_sound_is_encoded_anew(tmp_path, name):
    codecs = {"a.avi": ("mpeg4", "pcm_s16le"), "a.ts": ("mpeg2video", "mp2")}[name]
    source = write_sounding_video(tmp_path / name, codecs)
    assert copy_with_sound(source, tmp_path / "out.mp4") == ""
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.codec.canonical_name == "aac"
        wave = np.concatenate([f.to_ndarray()[0] for f in container.decode(stream)])
        rate = stream.rate
    assert len(wave) / rate == pytest.approx(1, abs=0.1)
    loudest = np.abs(np.fft.rfft(wave)).argmax() * rate / len(wave)
    assert loudest == pytest.approx(440, abs=3)


@pytest.mark.parametrize("codec", ["aac", "mp2"])
def test_sound_that_starts_late_in_its_file_starts_with_the_video(tmp_path, codec):
    codecs = ("mpeg2video", codec)
    source = write_sounding_video(tmp_path / "a.ts", codecs, output_ts_offset="3")
    with av.open(str(source)) as container:
        start = container.start_time / av.time_base
    assert start > 2.9
    with Mp4Writer(tmp_path / "out.mp4", 40, 60, sound=source, sound_start=start) as writer:
        for number in range(25):
            writer.write(np.zeros((40, 60, 3), np.uint8), number / 25)
        writer.finish()
    with av.open(str(tmp_path / "out.mp4")) as container:
        first = next(container.demux(container.streams.audio[0]))
        assert float(first.pts * first.time_base) == pytest.approx(0, abs=0.04)


def test_a_video_without_sound_has_none(tmp_path):
    source = write_sounding_video(tmp_path / "a.mp4", ("libx264", ""))
    assert copy_with_sound(source, tmp_path / "out.mp4") == ""
    assert packets_of_sound(tmp_path / "out.mp4") == []


def test_sound_in_no_known_codec_is_left_out_and_said(tmp_path):
    source = write_sounding_video(tmp_path / "a.avi", ("mpeg4", "pcm_s16le"))
    content = bytearray(source.read_bytes())
    at = content.find(b"auds")
    at = content.find(b"strf", at) + 8
    content[at : at + 2] = b"\x77\x77"
    source.write_bytes(content)
    assert "in no codec that FFmpeg knows" in copy_with_sound(source, tmp_path / "out.mp4")
    assert packets_of_sound(tmp_path / "out.mp4") == []
    assert len(read(tmp_path / "out.mp4")[0]) == 25


def test_damaged_sound_is_said_and_the_video_whole(tmp_path):
    source = write_sounding_video(tmp_path / "a.avi", ("mpeg4", "adpcm_ima_wav"))
    content = bytearray(source.read_bytes())
    at = content.find(b"01wb", len(content) // 2)
    content[at + 10] = 255  # a step that there is not
    source.write_bytes(content)
    assert "its sound is damaged" in copy_with_sound(source, tmp_path / "out.mp4")
    assert len(read(tmp_path / "out.mp4")[0]) == 25


def test_without_its_rest_the_sound_ends_with_the_frames(tmp_path):
    source = write_sounding_video(tmp_path / "a.mp4", num_frames=100)
    with Mp4Writer(tmp_path / "out.mp4", 40, 60, sound=source) as writer:
        for number in range(10):
            writer.write(np.zeros((40, 60, 3), np.uint8), number / 25)
        writer.finish(with_rest_of_sound=False)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.duration / av.time_base == pytest.approx(0.4, abs=0.05)


def test_frames_are_shown_when_they_are_said_to_be(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(10, 90, 20)) / 1000
    with Mp4Writer(tmp_path / "a.mp4", 32, 32, rate=20, unit=Fraction(1, 1000)) as writer:
        for seconds in times:
            writer.write(np.zeros((32, 32, 3), np.uint8), seconds)
        writer.finish()
    np.testing.assert_allclose(read(tmp_path / "a.mp4")[1], times, atol=1e-6)


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ([0, 0.1, 0.1, 0.3], [0, 0.1, 0.101, 0.3]),
        ([0, 0.1, 0.05, 0.2], [0, 0.1, 0.101, 0.2]),
        ([5, 5.1, 0, 0.1], [5, 5.1, 5.2, 5.3]),  # a line that was opened again
    ],
)
def test_times_that_go_back_are_put_right(tmp_path, times, shown):
    with Mp4Writer(tmp_path / "a.mp4", 32, 32, rate=10, unit=Fraction(1, 1000)) as writer:
        for seconds in times:
            writer.write(np.zeros((32, 32, 3), np.uint8), seconds)
        writer.finish()
    np.testing.assert_allclose(read(tmp_path / "a.mp4")[1], shown, atol=1e-6)


def test_another_encoder_takes_the_place_of_one_that_is_not_there(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(encode, "ENCODERS", ("nothing264", "mpeg4"))
    with Mp4Writer(tmp_path / "a.mp4", 32, 48, rate=25, unit=Fraction(1, 90_000)) as writer:
        for number in range(5):
            writer.write(np.full((32, 48, 3), 200, np.uint8), number / 25)
        writer.finish()
    frames, times, _, codec = read(tmp_path / "a.mp4")
    assert codec == "mpeg4" and abs(frames.astype(int) - 200).max() < 12
    np.testing.assert_allclose(times, np.arange(5) / 25, atol=1e-4)
    assert "PyAV has no nothing264 here, so videos are written with mpeg4" in caplog.text
    monkeypatch.setattr(encode, "ENCODERS", ("nothing264",))
    with pytest.raises(ValueError, match="none of the encoders nothing264"):
        Mp4Writer(tmp_path / "b.mp4", 32, 48)


def test_frames_that_no_encoder_takes_are_an_error_with_the_file(tmp_path):
    with pytest.raises(OSError, match="cannot be written .*a.mp4"):  # noqa: SIM117
        with Mp4Writer(tmp_path / "a.mp4", 2, 20_000) as writer:
            writer.write(np.zeros((2, 20_000, 3), np.uint8), 0)

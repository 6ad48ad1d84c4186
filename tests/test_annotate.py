"""Annotated videos: what is drawn where, and that all of the input comes back."""

import os
import signal
import tracemalloc
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from conftest import frames_of, write_sounding_video, write_video

from paddlevid import annotate
from paddlevid.annotate import (
    LIVE,
    AnnotatedVideo,
    Annotator,
    StreamVideos,
    Timing,
    annotate_clip,
    name_of,
    timing_of,
)
from paddlevid.data.limits import DecodeError

NAMES = ["跑 run", "jump", "Ползание", "a name that is far too long for the place that it has here"]
SCORES = np.float32([0.6, 0.25, 0.1, 0.05])


def read(path):
    """The frames (T, H, W, 3), and their times in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return np.stack([f.to_ndarray(format="rgb24") for f in frames]), [f.time for f in frames]


def annotated(height, width, scores=SCORES, k=4, **more):
    """A white frame, and the same with the classes."""
    annotator = Annotator(height, width, NAMES, k, **more)
    annotator.see(0.0, np.float32(scores))
    return annotator, annotator.draw(np.full((height, width, 3), 255, np.uint8))


def bar_lengths(annotator, image):
    """Pixels of each bar: the coloured ones of a row of pixels below the letters."""
    lengths = []
    for row in range(annotator._k):
        y = annotator._margin + row * annotator._row + 1
        coloured = image[y].astype(int).max(axis=1) - image[y].astype(int).min(axis=1) > 30
        lengths.append(int(coloured.sum()))
    return lengths


@pytest.mark.parametrize(("height", "width"), [(240, 320), (1080, 1920), (1280, 720)])
def test_bars_are_as_long_as_their_classes_are_probable(height, width):
    annotator, image = annotated(height, width)
    assert image.shape == (height, width, 3)
    lengths = bar_lengths(annotator, image)
    np.testing.assert_allclose(np.array(lengths) / lengths[0], SCORES / SCORES[0], atol=0.05)
    assert image[height // 2 :].min() == 255  # the rest stays as it is


def test_the_most_probable_class_is_first_and_keeps_its_colour():
    annotator, image = annotated(240, 320)
    first = image[annotator._margin + 1, annotator._margin + 2].astype(int)
    annotator.see(1.0, SCORES[[1, 0, 2, 3]])
    image = annotator.draw(np.full((240, 320, 3), 255, np.uint8), 1.0)
    second = image[annotator._margin + annotator._row + 1, annotator._margin + 2].astype(int)
    np.testing.assert_allclose(first, second, atol=1)
    lengths = bar_lengths(annotator, image)
    assert lengths[0] > 2 * lengths[1] > 0


def test_classes_that_are_shown_together_have_colours_of_their_own():
    scores = np.eye(60, dtype=np.float32)
    annotator = Annotator(720, 960, [f"class {i}" for i in range(60)], 12)
    frame = np.full((720, 960, 3), 255, np.uint8)
    for first in [*range(0, 48, 5), 3, 7, 0]:  # more classes than colours come and go
        annotator.see(0.0, scores[first : first + 12].sum(axis=0))
        image = annotator.draw(frame).astype(int)
        rows = [annotator._margin + i * annotator._row + 1 for i in range(12)]
        colours = [tuple(image[row, annotator._margin + 2]) for row in rows]
        assert len(set(colours)) == 12


def test_names_are_drawn_in_letters_of_any_alphabet(monkeypatch):
    drawn = []
    render = annotate.text_mask
    monkeypatch.setattr(annotate, "text_mask", lambda *a: drawn.append(a[0]) or render(*a))
    annotated(240, 320)
    assert set(NAMES) < set(drawn) and {"60 %", "25 %", "10 %", "5 %"} < set(drawn)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((120, 160), (240, 320)),
        ((48, 64), (240, 320)),
        ((1, 1), (240, 240)),
        ((64, 480), (256, 1920)),
        ((2, 3000), (2, 3000)),
        ((239, 321), (478, 642)),
    ],
)
def test_small_videos_are_enlarged_so_that_the_text_can_be_read(size, shown):
    annotator, image = annotated(*size, curve_seconds=5)
    assert image.shape == (*shown, 3) == (annotator.height, annotator.width, 3)


def test_no_more_classes_are_shown_than_there_is_room_for():
    names = [str(i) for i in range(50)]
    annotator = Annotator(240, 320, names, 50, curve_seconds=10)
    annotator.see(0.0, np.full(50, 0.02, np.float32))
    annotator.draw(np.zeros((240, 320, 3), np.uint8))
    assert 5 <= annotator._k <= 10


def test_the_curve_is_as_high_as_the_class_was_probable_at_each_time():
    annotator = Annotator(480, 640, ["a", "b"], 1, curve_seconds=10)
    for second in range(11):
        annotator.see(float(second), np.float32([second / 10, 0.0]))
    image = annotator.draw(np.full((480, 640, 3), 40, np.uint8), 10.0).astype(int)
    top = 480 - annotator._curve_height - annotator._margin
    part = image[top:]
    heights = []
    for x in (100, 200, 300, 400, 500, 600):  # blue is the first colour
        (rows,) = np.nonzero(part[:, x, 2] - part[:, x, 0] > 60)
        heights.append(rows.mean())
    assert np.std(np.diff(heights)) < 1.5 and np.mean(np.diff(heights)) < -10


def test_the_curve_forgets_what_is_longer_ago():
    annotator = Annotator(240, 320, ["a", "b"], 1, curve_seconds=10)
    for second in range(1000):
        annotator.see(float(second), np.float32([0.5, 0.5]))
    assert len(annotator._past) == 12


def test_before_anything_is_said_the_frame_is_shown_as_it_is():
    image = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    np.testing.assert_array_equal(Annotator(240, 320, NAMES, 3, 10).draw(image), image)


# --- clips ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("a.mp4", ("libx264", "aac")),
        ("a.avi", ("mpeg4", "pcm_s16le")),
        ("a.ts", ("libx264", "aac")),
    ],
)
def test_all_frames_come_back_at_their_times_and_with_the_sound(tmp_path, name, codecs):
    clip = write_sounding_video(tmp_path / name, codecs, num_frames=40, size=(240, 320))
    target = tmp_path / "out.mp4"
    assert annotate_clip(clip, target, NAMES, SCORES, 3) == ""
    before, times = read(clip)
    after, shown = read(target)
    assert after.shape == before.shape
    assert np.abs(after[:, 120:].astype(int) - before[:, 120:]).mean() < 4  # below the bars
    assert np.abs(after[:, :30].astype(int) - before[:, :30]).mean() > 20
    if name != "a.avi":  # which does not say when its frames are shown
        np.testing.assert_allclose(np.diff(shown), np.diff(times), atol=1e-3)
    with av.open(str(target)) as container:
        assert container.duration / av.time_base == pytest.approx(1.6, abs=0.06)
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(1.6, abs=0.06)
        assert float(sound.start_time * sound.time_base) == pytest.approx(0, abs=0.06)


def test_a_variable_frame_rate_stays_variable(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(10, 90, 30)).tolist()
    clip = write_sounding_video(tmp_path / "a.mp4", num_frames=30, times=times)
    annotate_clip(clip, tmp_path / "out.mp4", NAMES, SCORES, 3)
    np.testing.assert_allclose(read(tmp_path / "out.mp4")[1], read(clip)[1], atol=1e-3)


def test_a_video_that_is_to_be_turned_is_turned(tmp_path):
    clip = write_sounding_video(tmp_path / "a.mp4", ("libx264", ""), size=(240, 320))
    content = bytearray(clip.read_bytes())
    matrix = content.find(b"tkhd") + 4 + 40
    for number, value in enumerate((0, 1 << 16, 0, -(1 << 16), 0, 0)):
        at = matrix + 4 * number
        content[at : at + 4] = value.to_bytes(4, "big", signed=True)
    clip.write_bytes(content)
    annotate_clip(clip, tmp_path / "out.mp4", NAMES, SCORES, 3)
    frames, _ = read(tmp_path / "out.mp4")
    assert frames.shape == (25, 320, 240, 3)
    upright = np.rot90(read(clip)[0][5], 3)
    assert np.abs(frames[5, 140:].astype(int) - upright[140:]).mean() < 4


def test_pixels_that_are_wider_than_high_stay_so(tmp_path):
    clip = tmp_path / "a.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for image in frames_of(5, 240, 320):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    assert timing_of(clip).pixel_aspect == Fraction(4, 3)
    annotate_clip(clip, tmp_path / "out.mp4", NAMES, SCORES, 3)
    assert timing_of(tmp_path / "out.mp4").pixel_aspect == Fraction(4, 3)


def test_a_folder_of_frames_becomes_a_silent_video_of_25_frames_a_second(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(frames_of(10, 241, 321), start=1):
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    annotate_clip(folder, tmp_path / "out.mp4", NAMES, SCORES, 3)
    frames, times = read(tmp_path / "out.mp4")
    assert frames.shape == (10, 242, 322, 3)  # even sizes
    np.testing.assert_allclose(times, np.arange(10) / 25, atol=1e-6)


def test_a_clip_that_breaks_off_leaves_nothing(tmp_path):
    clip = write_sounding_video(tmp_path / "a.ts", ("mpeg2video", ""), num_frames=60)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "a.mp4"
    target.write_text("from before")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    with pytest.raises(DecodeError, match="broken.mp4: cannot be decoded"):
        annotate_clip(tmp_path / "broken.mp4", target, NAMES, SCORES, 3)
    with pytest.raises(KeyboardInterrupt), AnnotatedVideo(target, NAMES, 3, Timing()) as video:
        video.add(np.zeros((32, 32, 3), np.uint8), 0.0, SCORES)
        raise KeyboardInterrupt
    with pytest.raises(DecodeError, match="no frames"):
        write_video(tmp_path / "none.avi", np.zeros((0, 32, 32, 3), np.uint8))
        annotate_clip(tmp_path / "none.avi", target, NAMES, SCORES, 3)
    assert clip.exists() and target.read_text() == "from before"
    assert [path.name for path in target.parent.iterdir()] == ["a.mp4"]


def test_a_longer_video_takes_no_more_memory(tmp_path):
    peaks = []
    for num_frames in (40, 300):
        clip = write_sounding_video(tmp_path / f"{num_frames}.mp4", num_frames=num_frames)
        tracemalloc.start()
        annotate_clip(clip, tmp_path / "out.mp4", NAMES, SCORES, 3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    frame = 240 * 320 * 3
    assert peaks[0] < 20 * frame and peaks[1] < peaks[0] + 2 * frame


# --- streams --------------------------------------------------------------------------------------


def test_a_stream_that_is_stopped_leaves_a_whole_video(tmp_path):
    frames = frames_of(12, 240, 320)
    before = signal.getsignal(signal.SIGINT)
    videos = StreamVideos(tmp_path, ["0"], ["camera0"], NAMES, 3)
    with pytest.raises(KeyboardInterrupt), videos:
        for number, frame in enumerate(frames):
            if number == 9:
                os.kill(os.getpid(), signal.SIGINT)
            videos.add(0, (number, 7.0 + number / 30, frame), SCORES if number == 3 else None)
            videos.check()
    shown, times = read(tmp_path / "001_camera0.mp4")
    assert len(shown) == 10
    np.testing.assert_allclose(times, np.arange(10) / 30, atol=1e-4)
    difference = np.abs(shown.astype(int) - frames[:10]).mean(axis=(1, 2, 3))
    assert difference[:3].max() < 5 < difference[3:].min()  # from when on something was said
    assert [path.name for path in tmp_path.iterdir()] == ["001_camera0.mp4"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    with pytest.raises(KeyboardInterrupt), StreamVideos(tmp_path, ["0"], ["a"], NAMES, 3):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it waited")


def test_a_stream_of_a_file_has_its_sound_up_to_where_it_was_stopped(tmp_path):
    clip = write_sounding_video(tmp_path / "a.mp4", num_frames=100)
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with StreamVideos(tmp_path / "out", [str(clip)], ["a"], NAMES, 3) as videos:
            for number in range(25):
                videos.add(0, (number, number / 25, np.zeros((48, 64, 3), np.uint8)), None)
            raise KeyboardInterrupt
    with av.open(str(tmp_path / "out" / "001_a.mp4")) as container:
        for stream in (*container.streams.video, *container.streams.audio):
            assert float(stream.duration * stream.time_base) == pytest.approx(1, abs=0.05)


def test_an_error_leaves_no_video_of_a_stream_and_one_without_frames_none_either(tmp_path):
    with pytest.raises(ValueError, match="some reason"):  # noqa: SIM117
        with AnnotatedVideo(tmp_path / "a.mp4", NAMES, 3, LIVE, is_stream=True) as video:
            video.add(np.zeros((48, 64, 3), np.uint8), 0.0)
            raise ValueError("some reason")
    with StreamVideos(tmp_path, ["0", str(tmp_path / "gone.mp4")], ["a", "b"], NAMES, 3):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_camera_that_changes_its_size_goes_on_in_the_first_one(tmp_path):
    with AnnotatedVideo(tmp_path / "a.mp4", NAMES, 3, LIVE, is_stream=True) as video:
        for number, size in enumerate([(240, 320), (480, 640), (120, 160)]):
            video.add(np.full((*size, 3), 99, np.uint8), number / 25)
    frames, _ = read(tmp_path / "a.mp4")
    assert frames.shape == (3, 240, 320, 3) and np.abs(frames.astype(int) - 99).max() < 4


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("0", "camera0"),
        ("videos/a b.mp4", "a b"),
        ("rtsp://user:secret@10.0.0.7:554/live/door?key=secret", "10.0.0.7_door"),
        ("http://host.org/a/../b.ts", "host.org_b"),
    ],
)
def test_a_video_is_named_after_its_source_but_for_secrets(address, name):
    assert name_of(address) == name


def test_a_stream_of_a_file_that_is_none_has_no_sound_and_no_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with StreamVideos(tmp_path / "out", [str(tmp_path / "a.mp4")], ["a"], NAMES, 3) as videos:
        assert videos.videos[0].timing is LIVE
    assert list((tmp_path / "out").iterdir()) == []


def test_a_clock_that_starts_anew_starts_the_curve_anew():
    """As of a line that was opened again."""
    image, pictures = np.zeros((480, 640, 3), np.uint8), []
    for before in (0, 5):
        annotator = Annotator(480, 640, ["a", "b"], 1, curve_seconds=10)
        for second in range(before):
            annotator.see(3600.0 + second, np.float32([0.9, 0.1]))
        for second in range(20):
            annotator.see(float(second), np.float32([0.2, 0.8]))
        pictures.append(annotator.draw(image, 20.0))
    np.testing.assert_array_equal(*pictures)

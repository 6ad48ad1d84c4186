"""Frame extraction: a folder that is whole or not there."""

import itertools
import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import frames_of, write_sounding_video, write_video

from paddlevid.data import frames
from paddlevid.data import video as videos
from paddlevid.data.decode import DecodeError, VideoDecoder
from paddlevid.data.flow import FlowDecoder
from paddlevid.data.frames import write_frames
from paddlevid.data.video import to_image


def images(folder: Path) -> list[np.ndarray]:
    return [cv2.imread(str(file))[..., ::-1] for file in sorted(folder.iterdir())]


def times(monkeypatch, *seconds: float) -> None:
    """Let videos have frames at these times, and tell which are kept by their grey level."""

    def iterate(video, backend):
        for number, second in enumerate(seconds):
            yield second, np.full((16, 16, 3), 10 * number, np.uint8)

    monkeypatch.setattr(frames, "iterate_images", iterate)


def kept(folder: Path) -> list[int]:
    return [round(float(image.mean()) / 10) for image in images(folder)]


def test_every_frame_becomes_a_numbered_jpeg(video, tmp_path):
    assert write_frames(video, tmp_path / "out" / "clip") == 20
    names = sorted(file.name for file in (tmp_path / "out" / "clip").iterdir())
    assert names == [f"{number:05d}.jpg" for number in range(1, 21)]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip"]
    for image, frame in zip(images(tmp_path / "out" / "clip"), frames_of(20), strict=True):
        assert np.abs(image[30:, 40:].astype(int) - frame[30:, 40:]).max() <= 3


def test_a_lower_quality_makes_smaller_files(video, tmp_path):
    sizes = []
    for quality in (20, 95):
        write_frames(video, tmp_path / str(quality), quality=quality)
        sizes.append((tmp_path / str(quality) / "00001.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [
        (48, 64, 24, (24, 32)),
        (64, 48, 24, (32, 24)),
        (48, 64, 96, (96, 128)),
        (48, 64, 48, (48, 64)),
    ],
)
def test_the_short_side_gets_its_size(tmp_path, height, width, side, expected):
    video = write_video(tmp_path / "a.avi", frames_of(2, height, width))
    write_frames(video, tmp_path / "a", short_side=side)
    assert [image.shape[:2] for image in images(tmp_path / "a")] == [expected] * 2


def test_enlarging_is_smooth(tmp_path):
    step = np.zeros((2, 16, 16, 3), np.uint8)
    step[:, :, 8:] = 200
    video = write_video(tmp_path / "a.avi", step)
    write_frames(video, tmp_path / "a", short_side=128)
    row = images(tmp_path / "a")[0][64, :, 0].astype(int)
    assert np.abs(np.diff(row)).max() < 60  # nearest pixels would jump by 200


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (25, list(range(20))),
        (30, list(range(20))),
        (12.5, list(range(0, 20, 2))),
        (5, [0, 5, 10, 15]),
    ],
)
def test_frames_a_second_are_at_most_so_many(video, tmp_path, fps, expected):
    assert write_frames(video, tmp_path / "a", fps=fps) == len(expected)
    grey = [(image[30:, 40:].mean() - 20) / (180 / 19) for image in images(tmp_path / "a")]
    assert np.rint(grey).astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([0.0, 0.3, 0.6, 1.0, 1.4, 2.0], [0, 3, 5]),
        ([7.0, 7.4, 7.9, 8.0, 8.4], [0, 3]),  # a recording need not start at 0
        ([0.0, 0.5, 9.2, 9.6, 10.0, 10.2], [0, 2, 5]),  # nor go on without a gap
        ([0.0, 1.0 - 1e-9, 2.0 - 1e-9], [0, 1, 2]),  # nor have exact times
    ],
)
def test_one_frame_a_second_is_one_frame_a_second(video, tmp_path, monkeypatch, seconds, expected):
    times(monkeypatch, *seconds)
    assert write_frames(video, tmp_path / "a", fps=1) == len(expected)
    assert kept(tmp_path / "a") == expected


def test_what_an_interrupted_call_left_is_replaced(video, tmp_path):
    partial = tmp_path / ".clip.partial"
    partial.mkdir()
    (partial / "00099.jpg").touch()
    assert write_frames(video, tmp_path / "clip") == 20
    assert not partial.exists()
    assert len(list((tmp_path / "clip").iterdir())) == 20


def test_a_full_disk_leaves_nothing_behind(video, tmp_path, monkeypatch):
    written = []

    def write_bytes(path, content):
        if len(written) == 7:
            raise OSError(28, "No space left on device")
        written.append(path)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OSError, match="No space left on device"):
        write_frames(video, tmp_path / "out" / "clip")
    assert written and list((tmp_path / "out").iterdir()) == []


def test_a_bad_video_leaves_nothing_behind(video, tmp_path):
    video.write_bytes(video.read_bytes()[:-3000])
    with pytest.raises(DecodeError, match=r"clip\.avi: the file is cut off after frame"):
        write_frames(video, tmp_path / "out" / "clip")
    assert not (tmp_path / "out").exists()


def test_opencv_starts_anew_where_pyav_fails_in_the_middle(video, tmp_path, monkeypatch):
    iterate = videos.timed_frames

    def broken(container, stream):
        yield from itertools.islice(iterate(container, stream), 3)
        raise av.error.InvalidDataError(1094995529, "a defect made for this test")

    monkeypatch.setattr(videos, "timed_frames", broken)
    assert write_frames(video, tmp_path / "clip") == 20
    monkeypatch.setattr(videos, "_open_opencv", lambda path: cv2.VideoCapture())
    with pytest.raises(DecodeError, match=r"cannot be decoded \(pyav: a defect made for this test"):
        write_frames(video, tmp_path / "again")
    assert os.listdir(tmp_path / "clip") and not (tmp_path / "again").exists()


def test_a_video_that_is_damaged_in_the_middle_is_not_taken_for_a_short_one(tmp_path):
    """OpenCV ends without a word where PyAV says what is wrong."""
    path = tmp_path / "clip.mp4"
    write_sounding_video(path, ("libx264", ""), num_frames=50)
    content = bytearray(path.read_bytes())
    at = content.index(b"mdat") + len(content[content.index(b"mdat") :]) // 3
    content[at : at + 60] = b"\xff" * 60
    path.write_bytes(content)
    problem = r"clip.mp4: cannot be decoded \(pyav: .*; opencv: it ends after"
    with pytest.raises(DecodeError, match=problem):
        write_frames(path, tmp_path / "frames")
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
    for decode in (VideoDecoder(), FlowDecoder()):
        with pytest.raises(DecodeError, match=problem):
            decode(path, lambda num_frames, _: np.linspace(0, num_frames - 1, 8).astype(int))


@pytest.mark.parametrize("form", ["avi", "h264"])
def test_frames_are_thinned_out_evenly_whatever_the_times_of_the_file(form, tmp_path):
    """Those of an .avi with B-frames go back and forth, a bare stream has none."""
    path = tmp_path / f"clip.{form}"
    write_sounding_video(path, ("libx264", ""), num_frames=50)
    if form == "h264":
        path = path.rename(tmp_path / "clip.ts")
    assert write_frames(path, tmp_path / "frames", quality=100, fps=5) == 10
    every = np.stack([to_image(frame) for frame in videos.iterate_frames(path)]).astype(int)
    nearest = [np.abs(every - i).mean(axis=(1, 2, 3)).argmin() for i in images(tmp_path / "frames")]
    assert [number % 32 for number in nearest] == [5 * i % 32 for i in range(10)]  # it moves in 32

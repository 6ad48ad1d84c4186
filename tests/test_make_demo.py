"""The demo videos: seeded, whole, and in `direction` told apart by the order of frames alone."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_tools import make_demo

TOOL = Path(make_demo.__file__)


def run(*flags):
    command = [sys.executable, str(TOOL), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def fill(target, preset="actions", clips=1, seed=0, codec="MJPG"):
    return make_demo.make_demo(target, preset, clips, seed, 1, codec)


def read(path):
    video, frames = cv2.VideoCapture(str(path)), []
    while (answer := video.read())[0]:
        frames.append(answer[1])
    return np.array(frames)


def videos(target):
    return {path.relative_to(target): path.read_bytes() for path in target.rglob("*.avi")}


@pytest.mark.parametrize(("twin", "name"), make_demo.TWINS.items())
def test_a_twin_is_the_other_class_played_backwards(twin, name):
    scene = make_demo.new_scene(np.random.default_rng(3))
    forwards = make_demo.render_direction(name, scene, np.random.default_rng(5))
    backwards = make_demo.render_direction(twin, scene, np.random.default_rng(5))
    np.testing.assert_array_equal(backwards[::-1], forwards)
    assert not np.array_equal(backwards, forwards)


def test_twins_of_a_data_set_are_different_draws():
    names = make_demo.CLASSES["direction"]
    left, right = (make_demo.render("direction", names.index(n), 0, 0) for n in ("Left", "Right"))
    assert left.shape != right.shape or not np.array_equal(left[::-1], right)


def test_the_codec_of_direction_leaves_no_trace_of_order(tmp_path):
    frames = make_demo.render("direction", 0, 0, 0)
    make_demo.write_video(tmp_path / "forwards.avi", frames, "MJPG")
    make_demo.write_video(tmp_path / "backwards.avi", frames[::-1], "MJPG")
    forwards, backwards = read(tmp_path / "forwards.avi"), read(tmp_path / "backwards.avi")
    np.testing.assert_array_equal(backwards[::-1], forwards)


@pytest.mark.parametrize("name", ["Right", "Down"])
def test_a_move_goes_where_its_name_says(name):
    scene = make_demo.Scene(np.zeros((120, 160, 3), np.uint8), (255,) * 3, (255,) * 3, grain=0)
    frames = make_demo.render_direction(name, scene, np.random.default_rng(0))
    first, last = (np.argwhere(frame[..., 0] > 128).mean(axis=0) for frame in frames[[0, -1]])
    down, right = last - first
    assert (right > 30 > abs(down)) if name == "Right" else (down > 20 > abs(right))


def test_clockwise_turns_the_mark_clockwise_and_grow_grows():
    scene = make_demo.Scene(np.zeros((120, 160, 3), np.uint8), (90,) * 3, (255,) * 3, grain=0)
    frames = make_demo.render_direction("Clockwise", scene, np.random.default_rng(0))
    marks = [np.argwhere(frame[..., 0] > 200).mean(axis=0) for frame in frames]
    (y0, x0), (y1, x1) = np.diff([marks[0], marks[len(marks) // 2], marks[-1]], axis=0)
    assert x0 * y1 - y0 * x1 > 30  # positive is clockwise, for y points down
    frames = make_demo.render_direction("Grow", scene, np.random.default_rng(0))
    areas = (frames[..., 0] > 45).sum(axis=(1, 2))
    assert areas[-1] > 2 * areas[0]


@pytest.mark.parametrize("preset", make_demo.CLASSES)
def test_clips_are_seeded_and_differ_in_length_and_look(preset):
    clips = [make_demo.render(preset, 1, clip, 0) for clip in range(8)]
    low, high = {"actions": (24, 48), "direction": (16, 32)}[preset]
    lengths = [len(clip) for clip in clips]
    assert len(set(lengths)) > 3 and low <= min(lengths) and max(lengths) <= high
    assert all(clip.shape[1:] == (120, 160, 3) and clip.dtype == np.uint8 for clip in clips)
    np.testing.assert_array_equal(clips[5], make_demo.render(preset, 1, 5, 0))
    assert not np.array_equal(clips[5][0], make_demo.render(preset, 1, 5, 1)[0])
    medians = [np.median(clip, axis=0) for clip in clips]  # mostly background
    same = np.median(abs(medians[0] - medians[1]))  # clips of one group
    other = np.median(abs(medians[0] - medians[4]))  # clips of two groups
    assert same <= 3 < other


def test_two_workers_write_the_files_that_one_writes(tmp_path):
    for workers in (1, 2):
        done = run(tmp_path / str(workers), "--clips", 2, "--workers", workers, "--seed", 7)
        assert done.returncode == 0, done.stderr
    one, two = videos(tmp_path / "1"), videos(tmp_path / "2")
    assert len(one) == 20 and one == two


def test_files_have_the_frames_that_were_rendered(tmp_path):
    fill(tmp_path / "demo", clips=5)
    for label, name in enumerate(make_demo.CLASSES["actions"]):
        frames = make_demo.render("actions", label, 4, 0)
        video = read(tmp_path / "demo" / name / f"v_{name}_g02_c01.avi")[..., ::-1]
        assert video.shape == frames.shape
        assert abs(video.astype(int) - frames).mean() < 12


def test_a_second_run_adds_only_what_is_missing(tmp_path):
    assert fill(tmp_path) == 10
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.avi")}
    assert fill(tmp_path) == 0
    assert fill(tmp_path, clips=2) == 10
    assert fill(tmp_path) == 0
    assert json.loads((tmp_path / "demo.json").read_text())["clips"] == 2
    assert before.items() <= {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.avi")}.items()


def test_a_half_written_clip_is_written_again(tmp_path):
    fill(tmp_path)
    clip = tmp_path / "Walk" / "v_Walk_g01_c01.avi"
    whole = clip.read_bytes()
    clip.unlink()
    partial = clip.with_name(f".{clip.stem}.partial.avi")
    partial.write_bytes(whole[:1000])
    assert fill(tmp_path) == 1
    assert clip.read_bytes() == whole and not partial.exists()


def test_a_folder_with_something_else_is_refused(tmp_path):
    fill(tmp_path / "demo")
    same = {"preset": "actions", "seed": 0, "codec": "MJPG"}
    for key, value in {"preset": "direction", "seed": 1, "codec": "XVID"}.items():
        with pytest.raises(ValueError, match=f"holds clips of {key} .*, not {value}: choose"):
            make_demo.claim(tmp_path / "demo", **(same | {key: value}), clips=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and has no demo.json"):
        fill(tmp_path / "mine")
    (tmp_path / "demo" / "demo.json").write_text("{")
    with pytest.raises(ValueError, match="cannot read .*demo.json"):
        fill(tmp_path / "demo")


def test_a_missing_encoder_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="no ZZZZ encoder"):
        fill(tmp_path / "demo", codec="ZZZZ")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--preset", "direction", "--codec", "XVID"], 2, "needs --codec MJPG"),
        (["--clips", "0"], 2, "a whole number from 1 up, not '0'"),
        (["--preset", "action"], 2, "invalid choice"),
        ([], 1, "is not empty and has no demo.json"),
    ],
)
def test_an_error_is_one_line(tmp_path, capsys, monkeypatch, flags, code, message):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["make_demo.py", str(tmp_path), *flags])
    with pytest.raises(SystemExit) as stop:
        sys.exit(make_demo.main())
    error = capsys.readouterr().err
    assert stop.value.code == code
    assert message in error and error.count("\n") == 1

"""The check: every defect is found and named, and the clean list holds the rest."""

import csv
import os
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data_tools import check_videos as tool
from paddlevid.data.dataset import read_list


def write_video(path, num_frames=6, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, codec, 25, size)
    rng = np.random.default_rng(0)
    for _ in range(num_frames):
        writer.write(rng.integers(0, 255, (size[1], size[0], 3), np.uint8))
    writer.release()


def picture(height=16, width=24):
    return cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8))[1].tobytes()


def write_pickle(path, frames, label=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps((path.stem, label, frames)))


@pytest.fixture(autouse=True)
def current_folder(tmp_path, monkeypatch):
    """The tool writes to the current folder when it is not told another one."""
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return tool.main([*map(str, arguments), "--workers", "1"])


def rows(output):
    with open(output / "videos.csv", newline="", encoding="utf-8") as file:
        return {os.path.basename(row["path"]): row for row in csv.DictReader(file)}


def test_a_folder_of_good_clips(tmp_path, capsys):
    source = tmp_path / "videos"
    write_video(source / "c10" / "a.avi")
    write_video(source / "c2" / "b b.AVI", num_frames=3)
    write_video(source / "c2" / ".half.avi")
    write_pickle(source / "c2" / "d.pkl", [picture()] * 70)
    frames = source / "c10" / "e" / "00001.jpg"
    frames.parent.mkdir()
    frames.write_bytes(picture())
    assert run(source) == 0
    output = tmp_path / "videos_check"
    clean = (output / "clean.list").read_text().splitlines()
    assert sorted(clean) == [
        "../videos/c10/a.avi 1",
        "../videos/c10/e 1",
        "../videos/c2/b b.AVI 0",
        "../videos/c2/d.pkl",
    ]
    assert (output / "classes.txt").read_text() == "c2\nc10\n"
    found = rows(output)
    assert list(found["a.avi"]) == [
        "path", "frames", "width", "height", "fps", "codec", "problem", "note"
    ]  # fmt: skip
    assert [found["a.avi"][k] for k in ("frames", "width", "height", "fps", "codec")] == [
        "6", "64", "48", "25.0", "mjpeg"
    ]  # fmt: skip
    assert [found["d.pkl"][k] for k in ("frames", "width", "height")] == ["70", "24", "16"]
    printed = capsys.readouterr().out
    assert "4 good, 0 bad, 4 clips in all" in printed
    assert "frames  1 to 70, median 4.5" in printed
    assert "size    64x48 (2), 24x16 (2)" in printed


def test_bad_clips_are_named_and_not_in_the_clean_list(tmp_path, capsys):
    source = tmp_path / "videos"
    write_video(source / "good.avi")
    write_video(source / "cut.avi", num_frames=30)
    content = (source / "cut.avi").read_bytes()
    (source / "cut.avi").write_bytes(content[: len(content) // 2])
    (source / "text.mp4").write_text("not a video")
    (source / "empty.mkv").write_bytes(b"")
    write_pickle(source / "sizes.pkl", [picture()] * 64 + [picture(height=32)])
    write_pickle(source / "gone.pkl", ["gone/1.jpg"])
    write_pickle(source / "late.pkl", [picture()] * 70 + [b"no image"])
    assert run(source, "--output", tmp_path / "out") == 1
    assert (tmp_path / "out" / "clean.list").read_text() == "../videos/good.avi\n"
    assert not (tmp_path / "out" / "classes.txt").exists()
    problems = {name: row["problem"] for name, row in rows(tmp_path / "out").items()}
    assert problems.pop("good.avi") == ""
    assert problems["empty.mkv"] == "is empty"
    assert problems["sizes.pkl"] == "its frames have different sizes"
    assert "cannot read its frame" in problems["gone.pkl"]
    assert "frame 70: is not an image" in problems["late.pkl"]
    assert len(problems) == 6 and all(problems.values())
    printed = capsys.readouterr().out
    assert "1 good, 6 bad, 7 clips in all" in printed
    assert f"bad: {source / 'empty.mkv'}: is empty" in printed


def test_a_list_keeps_its_labels_and_classes(tmp_path):
    write_video(tmp_path / "videos" / "a b.avi")
    write_pickle(tmp_path / "videos" / "p.pkl", [picture()], label=3)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classes.txt").write_text("x\ny\n")
    lines = "../videos/a b 1\n\n../videos/gone.avi 0\n../videos/p.pkl\n../videos/a b.avi\n"
    (lists / "train.list").write_text(lines)
    assert run(lists / "train.list") == 1
    output = tmp_path / "train.list_check"
    clean = (output / "clean.list").read_text()
    assert clean == "../videos/a b.avi 1\n../videos/p.pkl\n../videos/a b.avi\n"
    assert (output / "classes.txt").read_text() == "x\ny\n"
    assert all(sample.path.exists() for sample in read_list(output / "clean.list"))
    assert rows(output)["gone.avi"]["problem"] == "does not exist"


def test_labels_follow_the_classes_file_of_a_folder(tmp_path, capsys):
    write_video(tmp_path / "videos" / "walk" / "a.avi")
    (tmp_path / "videos" / "classes.txt").write_text("walk\nabsent\n")
    assert run(tmp_path / "videos") == 0
    assert (tmp_path / "videos_check" / "clean.list").read_text() == "../videos/walk/a.avi 0\n"
    (tmp_path / "videos" / "classes.txt").write_text("absent\n")
    assert run(tmp_path / "videos") == 2
    assert "classes.txt lacks the class folder 'walk'" in capsys.readouterr().err


@pytest.mark.parametrize("output", [(), ("--output", "a/report")])
def test_the_output_in_the_folder_is_no_class(tmp_path, monkeypatch, output):
    write_video(tmp_path / "moves" / "walk" / "a.avi")
    write_video(tmp_path / "moves" / "run" / "b.avi")
    monkeypatch.chdir(tmp_path / "moves")
    written = tmp_path / "moves" / (output[-1] if output else "moves_check")
    for _ in range(2):
        assert run(".", *output) == 0
        assert (written / "classes.txt").read_text() == "run\nwalk\n"
        assert [sample.label for sample in read_list(written / "clean.list")] == [0, 1]
    assert run(".", "--output", tmp_path / "other") == 0
    assert (tmp_path / "other" / "classes.txt").read_text() == "run\nwalk\n"


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path):
    write_video(tmp_path / "disk" / "walk" / "a.avi")
    write_video(tmp_path / "videos" / "run" / "b.avi")
    for name in ("walk", "stroll"):  # two names of one folder are two classes, as in train.py
        (tmp_path / "videos" / name).symlink_to(tmp_path / "disk" / "walk")
    (tmp_path / "videos" / "run" / "up").symlink_to(tmp_path / "videos")
    (tmp_path / "disk" / "walk" / "itself").symlink_to(tmp_path / "disk" / "walk")
    (tmp_path / "videos" / "nowhere").symlink_to(tmp_path / "gone")
    assert run(tmp_path / "videos") == 0
    lines = (tmp_path / "videos_check" / "clean.list").read_text().splitlines()
    assert lines == [
        "../videos/run/b.avi 0", "../videos/stroll/a.avi 1", "../videos/walk/a.avi 2"
    ]  # fmt: skip


def test_clips_at_other_depths_have_no_labels(tmp_path):
    write_video(tmp_path / "videos" / "train" / "walk" / "a.avi")
    assert run(tmp_path / "videos") == 0
    clean = (tmp_path / "videos_check" / "clean.list").read_text()
    assert clean == "../videos/train/walk/a.avi\n"


def test_where_nothing_is_good_there_is_no_clean_list(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    for number in range(52):
        (tmp_path / "videos" / f"{number}.avi").write_bytes(b"")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "clean.list").write_text("of an earlier run\n")
    assert run(tmp_path / "videos", "--output", tmp_path / "out") == 1
    assert not (tmp_path / "out" / "clean.list").exists()
    printed = capsys.readouterr().out
    assert "no clean.list: no clip is good" in printed
    assert "and 2 more, all of them in videos.csv" in printed


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe as a file that never ends")
def test_a_pipe_is_bad_and_the_others_are_read(tmp_path):
    write_video(tmp_path / "videos" / "a.avi")
    os.mkfifo(tmp_path / "videos" / "b.avi")
    write_video(tmp_path / "videos" / "c.avi")
    flags = [str(tmp_path / "videos"), "--workers", "2", "--timeout", "1"]
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, tool.__file__, *flags],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "2 good, 1 bad, 3 clips in all" in done.stdout
    assert "b.avi: cannot be read (it is a pipe or a device, not a file)" in done.stdout


def test_a_strange_exception_is_a_problem_of_its_clip(monkeypatch):
    def fail(path):
        raise RuntimeError("odd")

    monkeypatch.setattr(tool, "inspect_video", fail)
    item = tool.Inspections([tool.Sample(tool.Path("a.avi"))]).fetch(0)
    assert item.views[0].problem == "RuntimeError: odd"


def test_nothing_to_check_is_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "gone")
    assert stop.value.code == 2
    assert f"there is no list or folder {tmp_path / 'gone'}" in capsys.readouterr().err
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert error.endswith("holds no videos, .pkl clips or folders of frames\n")
    assert error.count("\n") == 1
    (tmp_path / "empty.list").write_text("")
    assert run(tmp_path / "empty.list") == 2
    assert "is empty" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--workers", "--timeout"])
def test_bad_numbers_are_code_2(tmp_path, capsys, flag):
    with pytest.raises(SystemExit) as stop:
        tool.main([str(tmp_path), flag, "0"])
    assert stop.value.code == 2
    assert f"{flag}: needs a whole number from 1 up, not '0'" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_code_1(tmp_path, capsys):
    write_video(tmp_path / "videos" / "a.avi")
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "videos", "--output", tmp_path / "file") == 1
    assert "check_videos.py: " in capsys.readouterr().err


def test_an_interrupt_is_said(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "inspect_all", interrupt)
    write_video(tmp_path / "videos" / "a.avi")
    assert run(tmp_path / "videos") == 130
    assert "stopped; nothing is written" in capsys.readouterr().err


def test_folders_of_optical_flow_are_checked_too(tmp_path, capsys):
    for clip in ("a/1", "a/2", "b/3"):
        (tmp_path / clip).mkdir(parents=True)
        for name in ("flow_x_00001.jpg", "flow_y_00001.jpg"):
            cv2.imwrite(str(tmp_path / clip / name), np.full((16, 20), 128, np.uint8))
    (tmp_path / "b/3/flow_y_00001.jpg").write_bytes(b"")
    (tmp_path / "a/2/flow_x_00001.jpg").unlink()
    assert tool.inspect(tmp_path / "a/1").frames == 1
    samples, classes = tool.find_samples(tmp_path, tmp_path / "out")
    assert ([sample.label for sample in samples], classes) == ([0, 0, 1], ["a", "b"])
    problems = [tool.inspect(sample.path).problem for sample in samples]
    assert problems[0] == ""
    assert "flow_y_00001.jpg has no partner" in problems[1]
    assert "flow_y_00001.jpg" in problems[2]

"""The command avi2jpg: a folder of videos becomes a folder of frames, in one run or in several."""

import json
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import pytest
from conftest import frames_of, write_video

from data_tools import avi2jpg


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("walk/a.avi", "walk/b.avi", "run/c.avi"):
        write_video(tmp_path / "videos" / name, frames_of(4))
    return tmp_path / "videos"


def run(source: Path, target: Path, *flags: object) -> int:
    return avi2jpg.main([str(source), str(target), "--workers", "1", *map(str, flags)])


def tree(target: Path) -> dict[str, int]:
    """{class/clip: number of frames}"""
    clips = {path.parent for path in target.rglob("*.jpg")}
    return {str(clip.relative_to(target)): len(list(clip.iterdir())) for clip in clips}


def test_every_clip_becomes_a_folder_of_its_frames(source, tmp_path, capsys):
    (source / "walk" / ".hidden.avi").touch()
    (source / "walk" / "notes.txt").touch()
    assert run(source, tmp_path / "jpg") == 0
    assert tree(tmp_path / "jpg") == {"walk/a": 4, "walk/b": 4, "run/c": 4}
    assert (tmp_path / "jpg" / "run" / "c" / "00001.jpg").is_file()
    expected = "3 videos extracted (12 frames), 0 were there already, 0 failed"
    assert expected in capsys.readouterr().out


def test_two_workers_do_the_same(source, tmp_path):
    assert avi2jpg.main([str(source), str(tmp_path / "jpg"), "--workers", "2"]) == 0
    assert tree(tmp_path / "jpg") == {"walk/a": 4, "walk/b": 4, "run/c": 4}


def test_options_reach_the_frames(source, tmp_path):
    assert run(source, tmp_path / "jpg", "--short-side", 24, "--fps", 12.5) == 0
    assert set(tree(tmp_path / "jpg").values()) == {2}
    assert cv2.imread(str(tmp_path / "jpg" / "walk" / "a" / "00002.jpg")).shape == (24, 32, 3)
    for quality in (10, 90):
        assert run(source, tmp_path / str(quality), "--quality", quality) == 0
    small, large = (tmp_path / q / "walk" / "a" / "00001.jpg" for q in ("10", "90"))
    assert small.stat().st_size < large.stat().st_size


def test_finished_clips_are_skipped_and_half_written_ones_redone(source, tmp_path, capsys):
    target = tmp_path / "jpg"
    assert run(source, target) == 0
    before = (target / "walk" / "a" / "00001.jpg").stat().st_mtime_ns
    (target / "walk" / "b").rename(target / "walk" / ".b.partial")  # as a killed run leaves it
    (target / "walk" / ".b.partial" / "00003.jpg").unlink()
    for frame in (target / "run" / "c").iterdir():
        frame.unlink()
    capsys.readouterr()
    assert run(source, target) == 0
    assert tree(target) == {"walk/a": 4, "walk/b": 4, "run/c": 4}
    assert (target / "walk" / "a" / "00001.jpg").stat().st_mtime_ns == before
    assert "2 videos extracted (8 frames), 1 were there already" in capsys.readouterr().out
    assert run(source, target) == 0
    assert "0 videos extracted (0 frames), 3 were there already" in capsys.readouterr().out


def test_frames_of_other_options_are_not_mixed(source, tmp_path, capsys):
    target = tmp_path / "jpg"
    assert run(source, target, "--quality", 90) == 0
    before = tree(target)
    assert run(source, target, "--quality", 80) == 1
    error = capsys.readouterr().err
    assert "holds frames extracted with {'quality': 90" in error
    assert "not {'quality': 80" in error and "choose another TARGET or remove it" in error
    assert tree(target) == before
    assert run(source, target, "--quality", 90) == 0


def test_frames_of_options_that_are_not_known_are_not_mixed(source, tmp_path, capsys):
    (tmp_path / "jpg").mkdir()
    (tmp_path / "jpg" / "avi2jpg.json").write_text("")
    assert run(source, tmp_path / "jpg") == 1
    assert "holds frames extracted with unknown options" in capsys.readouterr().err


def test_the_options_are_noted_beside_the_frames(source, tmp_path):
    assert run(source, tmp_path / "jpg") == 0
    note = json.loads((tmp_path / "jpg" / "avi2jpg.json").read_text())
    assert note == {"quality": 95, "short_side": None, "fps": None, "source": "../videos"}
    assert not list((tmp_path / "jpg").glob("*.partial"))


def test_frames_of_other_videos_do_not_count_as_done(source, tmp_path, capsys):
    target, other = tmp_path / "jpg", tmp_path / "others"
    for name in ("walk/a.avi", "walk/b.avi", "run/c.avi"):
        write_video(other / name, frames_of(6))
    assert run(source, target) == 0
    assert run(other, target) == 1
    error = capsys.readouterr().err
    assert f"{target} holds what was made of {source}, not of {other}" in error
    assert "choose another TARGET" in error
    assert set(tree(target).values()) == {4}


def test_frames_go_on_where_both_were_moved_or_the_note_tells_of_no_videos(source, tmp_path):
    assert run(source, tmp_path / "jpg") == 0
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("videos", "jpg"):
        (tmp_path / name).rename(moved / name)
    assert run(moved / "videos", moved / "jpg") == 0
    note = moved / "jpg" / "avi2jpg.json"
    note.write_text('{"quality": 95, "short_side": null, "fps": null}')  # of an earlier version
    (moved / "videos").rename(tmp_path / "videos")
    assert run(tmp_path / "videos", moved / "jpg") == 0
    assert json.loads(note.read_text())["source"] == "../../videos"


def test_a_video_that_was_replaced_is_extracted_anew(source, tmp_path, capsys):
    target, video = tmp_path / "jpg", source / "walk" / "a.avi"
    assert run(source, target) == 0
    later = (target / "walk" / "a" / "00001.jpg").stat().st_mtime + 5
    video.write_bytes(b"")
    os.utime(video, (later, later))
    assert run(source, target) == 1
    assert tree(target)["walk/a"] == 4  # until there are new ones
    write_video(video, frames_of(2))
    os.utime(video, (later, later))
    capsys.readouterr()
    assert run(source, target) == 0
    assert "1 videos extracted (2 frames), 2 were there already" in capsys.readouterr().out
    assert tree(target) == {"walk/a": 2, "walk/b": 4, "run/c": 4}
    assert sorted(path.name for path in (target / "walk").iterdir()) == ["a", "b"]


def test_a_video_that_fails_is_named_and_the_others_are_done(source, tmp_path, capsys):
    (source / "walk" / "a.avi").write_bytes(b"")
    (source / "run" / "d.avi").write_text("text" * 99)
    assert run(source, tmp_path / "jpg") == 1
    assert tree(tmp_path / "jpg") == {"walk/b": 4, "run/c": 4}
    printed, error = capsys.readouterr()
    assert "2 videos extracted (8 frames), 0 were there already, 2 failed" in printed
    assert "a.avi: is empty" in error and "d.avi: cannot be decoded" in error
    write_video(source / "walk" / "a.avi", frames_of(4))
    (source / "run" / "d.avi").unlink()
    assert run(source, tmp_path / "jpg") == 0


def test_a_full_disk_is_said_so_and_leaves_nothing_half_written(
    source, tmp_path, capsys, monkeypatch
):
    def write_bytes(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert run(source, tmp_path / "jpg") == 1
    error = capsys.readouterr().err
    assert f"avi2jpg.py: no space left on the disk of {tmp_path}/jpg: make room" in error
    assert not list((tmp_path / "jpg").glob("*/*"))


def test_a_strange_exception_fails_its_video_only(source, tmp_path, capsys, monkeypatch):
    write_frames = avi2jpg.write_frames

    def strange(video, folder, **options):
        if video.stem == "a":
            raise MemoryError("much too large")
        return write_frames(video, folder, **options)

    monkeypatch.setattr(avi2jpg, "write_frames", strange)
    assert run(source, tmp_path / "jpg") == 1
    assert "a.avi: MemoryError: much too large" in capsys.readouterr().err
    assert tree(tmp_path / "jpg") == {"walk/b": 4, "run/c": 4}


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped; run it again to extract the rest"),
        (BrokenProcessPool(), 1, "a process died"),
    ],
)
def test_a_run_that_is_stopped_says_how_to_go_on(
    source, tmp_path, capsys, monkeypatch, error, code, message
):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(avi2jpg.joblib, "Parallel", stop)
    assert run(source, tmp_path / "jpg") == code
    assert message in capsys.readouterr().err


def test_names_may_be_any_and_suffixes_in_capitals(tmp_path):
    source = tmp_path / "my videos"
    write_video(tmp_path / "a.avi", frames_of(2))
    for name in ("挥手/片段 1.AVI", "brush hair/a.b.avi", "brush hair/#x:1 (2).avi"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((tmp_path / "a.avi").read_bytes())
    assert run(source, tmp_path / "jpg 1") == 0
    expected = {"挥手/片段 1", "brush hair/a.b", "brush hair/#x:1 (2)"}
    assert tree(tmp_path / "jpg 1") == dict.fromkeys(expected, 2)


def test_two_videos_of_one_name_keep_their_suffixes(source, tmp_path):
    write_video(source / "walk" / "a.mp4", frames_of(3), "mp4v")
    assert run(source, tmp_path / "jpg") == 0
    assert tree(tmp_path / "jpg") == {"walk/a.avi": 4, "walk/a.mp4": 3, "walk/b": 4, "run/c": 4}


@pytest.mark.parametrize("exists", [True, False])
def test_a_source_without_videos_is_a_readable_error(tmp_path, capsys, exists):
    if exists:
        (tmp_path / "videos" / "walk").mkdir(parents=True)
        (tmp_path / "videos" / "a.avi").touch()  # in no class folder
    assert run(tmp_path / "videos", tmp_path / "jpg") == 1
    error = capsys.readouterr().err
    where = tmp_path / "videos"
    no_videos = f"no videos in {where}: it needs class folders"
    message = no_videos if exists else f"SOURCE {where}: there is no such folder"
    assert f"avi2jpg.py: {message}" in error
    assert not (tmp_path / "jpg").exists()


def test_a_target_that_cannot_be_made_is_a_readable_error(source, tmp_path, capsys):
    (tmp_path / "jpg").touch()
    assert run(source, tmp_path / "jpg") == 1
    assert capsys.readouterr().err.startswith("avi2jpg.py: ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quality", "101"], "--quality 101: needs 0 to 100"),
        (["--quality", "-1"], "--quality -1: needs 0 to 100"),
        (["--short-side", "0"], "--short-side"),
        (["--fps", "-2"], "--fps -2: needs a number above 0"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        avi2jpg.main([str(tmp_path), str(tmp_path / "jpg"), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_it_runs_as_a_script_and_explains_itself(tmp_path):
    command = [sys.executable, avi2jpg.__file__, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert "--short-side" in text and "Clips that are finished are" in text

"""The command extract_flow: a folder of videos becomes a folder of flow images."""

import json

import cv2
import numpy as np
import pytest
from conftest import frames_of, write_video

from data_tools import avi2jpg, extract_flow
from paddlevid.data.flow import Flow, read_note


@pytest.fixture
def source(tmp_path):
    for name in ("walk/a.avi", "run/b.avi"):
        write_video(tmp_path / "videos" / name, frames_of(4))
    return tmp_path / "videos"


def run(source, target, *flags):
    return extract_flow.main([str(source), str(target), "--workers", "1", *map(str, flags)])


def test_every_clip_becomes_a_folder_with_a_pair_of_images_less_than_frames(
    source, tmp_path, capsys
):
    target = tmp_path / "flow"
    assert run(source, target, "--short-side", 32, "--bound", 10, "--method", "farneback") == 0
    for clip in ("walk/a", "run/b"):
        names = sorted(path.name for path in (target / clip).iterdir())
        assert names == [f"flow_{c}_0000{i}.jpg" for c in "xy" for i in (1, 2, 3)]
    image = cv2.imread(str(target / "walk/a/flow_x_00001.jpg"), cv2.IMREAD_UNCHANGED)
    assert image.shape == (32, 43) and image.dtype == np.uint8  # grey
    assert json.loads((target / "extract_flow.json").read_text()) == {
        "method": "farneback", "bound": 10.0, "short_side": 32, "quality": 95,
        "source": "../videos",
    }  # fmt: skip
    assert read_note(target / "walk/a") == Flow("farneback", 10.0, 32)
    assert "2 videos extracted (6 fields of flow), 0 were there" in capsys.readouterr().out
    assert run(source, target, "--bound", 5) == 1
    assert "holds frames extracted with {'method': 'farneback'" in capsys.readouterr().err


def test_a_broken_video_is_named_and_what_is_done_is_not_done_again(source, tmp_path, capsys):
    (source / "walk" / "c.avi").write_bytes((source / "walk" / "a.avi").read_bytes()[:3000])
    write_video(source / "walk" / "d.avi", frames_of(1))
    assert run(source, tmp_path / "flow") == 1
    printed = capsys.readouterr()
    assert "2 videos extracted (6 fields of flow), 0 were there already, 2 failed" in printed.out
    assert "c.avi: " in printed.err and "d.avi: has a single frame" in printed.err
    assert sorted(path.name for path in (tmp_path / "flow" / "walk").iterdir()) == ["a"]
    for name in ("c", "d"):
        (source / "walk" / f"{name}.avi").unlink()
    before = (tmp_path / "flow/walk/a").stat().st_mtime_ns
    (tmp_path / "flow/run/b").rename(tmp_path / "flow/run/.b.partial")  # as a killed run leaves it
    assert run(source, tmp_path / "flow") == 0
    assert "1 videos extracted (3 fields of flow), 1 were there" in capsys.readouterr().out
    assert (tmp_path / "flow/walk/a").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quality", "101"], "--quality 101: needs 0 to 100"),
        (["--bound", "0"], "--bound 0: needs pixels, above 0"),
        (["--bound", "inf"], "--bound inf: needs pixels, above 0"),
        (["--short-side", "-1"], "--short-side"),
        (["--method", "flownet"], "invalid choice: 'flownet'"),
        (["--method", "tvl1"], "pip install opencv-contrib-python-headless; or take dis"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.delattr(cv2, "optflow", raising=False)
    with pytest.raises(SystemExit) as stop:
        extract_flow.main([str(tmp_path), str(tmp_path / "flow"), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_images_never_go_among_the_videos_nor_among_those_of_another_tool(source, tmp_path, capsys):
    assert run(source, source / ".") == 1
    assert "is SOURCE too: images belong in a folder of their own" in capsys.readouterr().err
    assert not (source / "extract_flow.json").exists()
    assert run(source, tmp_path / "flow") == 0
    assert avi2jpg.main([str(source), str(tmp_path / "flow")]) == 1
    assert "holds what extract_flow.json tells of: choose another" in capsys.readouterr().err


def test_a_source_without_videos_is_a_readable_error(tmp_path, capsys):
    assert run(tmp_path / "nowhere", tmp_path / "flow") == 1
    assert "nowhere: there is no such folder" in capsys.readouterr().err

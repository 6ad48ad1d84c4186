"""The tool: its command line, its exit codes, and the official splits."""

import os
import pickle
import subprocess
import sys

import pytest
from test_lists import BROKEN, PICTURE, fill, fill_pickles, hmdb, listed, make, ucf

from data_tools import data_list_gener as tool
from paddlevid import lists
from paddlevid.data.split import SIDES


@pytest.fixture
def video(video):
    """The content of an .avi of 20 frames."""
    return video.read_bytes()


def run(*arguments):
    return tool.main([*map(str, arguments), "--workers", "1"])


# --- shares ---------------------------------------------------------------------------------------


def test_the_tool_runs_as_a_script_with_workers(tmp_path, video):
    source = fill(tmp_path / "videos", {"walk": ucf("walk", 3), "run": ucf("run", 3)}, video)
    flags = [source, tmp_path / "lists", "--split", "1:1:1", "--workers", "2"]
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, tool.__file__, *map(str, flags)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [len(listed(tmp_path / "lists", side)) for side in SIDES] == [4, 4, 4]


def test_shares_and_seed_are_those_of_the_flags(tmp_path, video):
    source = fill(tmp_path / "videos", {"walk": [f"{n}.avi" for n in range(20)]}, video)
    assert run(source, tmp_path / "a", "--split", "60:20:20", "--seed", "3") == 0
    assert make(source, tmp_path / "b", shares=(60, 20, 20), seed=3)
    assert make(source, tmp_path / "c", shares=(60, 20, 20), seed=4)
    a, b, c = ([listed(tmp_path / folder, side) for side in SIDES] for folder in "abc")
    assert a == b != c


def test_a_clip_that_cannot_be_read_is_code_1(tmp_path, video, capsys):
    source = fill(tmp_path / "videos", {"walk": ["a.avi", "b.avi"]}, video)
    (source / "walk" / "b.avi").write_bytes(BROKEN)
    assert run(source, tmp_path / "lists") == 1
    assert listed(tmp_path / "lists", "train") == {"a.avi": 0}
    assert "1 clips cannot be read and are in no list" in capsys.readouterr().out


# --- official splits ------------------------------------------------------------------------------


@pytest.fixture
def ucf101(tmp_path, video):
    """Two classes of UCF101 with its quirk: folder Handstand.., files HandStand.."""
    archery, pushups = ucf("Archery", 6), ucf("HandStandPushups", 6)
    fill(tmp_path / "videos", {"Archery": archery, "HandstandPushups": pushups}, video)
    fill(tmp_path / "videos", {"Archery": ["own.avi"], "Sleep": ["a.avi"]}, video)
    names = [f"Archery/{n}" for n in archery] + [f"HandstandPushups/{n}" for n in pushups]
    split_dir = tmp_path / "split"
    split_dir.mkdir()
    (split_dir / "classInd.txt").write_text("1 HandstandPushups\r\n2 Archery\r\n")
    test = [n for n in names if "_g01_" in n]
    train = [f"{n} {1 + n.startswith('A')}" for n in names if n not in test]
    (split_dir / "trainlist01.txt").write_text("\r\n".join(train) + "\r\n")
    (split_dir / "testlist01.txt").write_text("\r\n".join(test) + "\r\n")
    return tmp_path


def test_ucf101_is_split_as_published(ucf101, capsys):
    flags = ["--split", "ucf101:1", "--split-dir", ucf101 / "split"]
    target = ucf101 / "lists"
    assert run(ucf101 / "videos", target, *flags) == 0
    assert (target / "classes.txt").read_text() == "HandstandPushups\nArchery\n"
    assert listed(target, "test") == {
        f"v_{name}_g01_c0{c}.avi": label
        for label, name in enumerate(("HandStandPushups", "Archery"))
        for c in (1, 2)
    }
    train, val = listed(target, "train"), listed(target, "val")
    assert len(train) == 16 and len(val) == 4
    groups = [{name.rpartition("_")[0] for name in names} for names in (train, val)]
    assert not groups[0] & groups[1]
    printed = capsys.readouterr().out
    assert "published               9537    3783" in printed
    assert "in SOURCE                 20       4" in printed
    assert "2 clips left out: no official file names own.avi, a.avi" in printed


def test_without_a_share_there_is_no_validation_list(ucf101, capsys):
    flags = ["--split", "ucf101:1", "--split-dir", ucf101 / "split", "--val-share", "0"]
    assert run(ucf101 / "videos", ucf101 / "lists", *flags) == 0
    assert len(listed(ucf101 / "lists", "train")) == 20
    printed = capsys.readouterr().out
    assert "val.list is not written" in printed and "has no clips" not in printed


def test_official_clips_that_are_missing_are_counted_and_named(ucf101, capsys):
    for group in ("g01", "g02"):
        (ucf101 / "videos" / "Archery" / f"v_Archery_{group}_c01.avi").unlink()
    flags = ["--split", "ucf101:1", "--split-dir", ucf101 / "split"]
    assert run(ucf101 / "videos", ucf101 / "lists", *flags) == 1
    printed = capsys.readouterr().out
    assert "2 official clips are not in SOURCE: Archery/v_Archery_g02_c01.avi, Arch" in printed
    assert len(listed(ucf101 / "lists", "test")) == 3


def test_labels_of_pickles_rule_over_class_ind(ucf101):
    source = ucf101 / "pkl"
    for label, (folder, name) in enumerate(
        [("Archery", "Archery"), ("HandstandPushups", "HandStandPushups")]
    ):
        names = [name.replace(".avi", ".pkl") for name in ucf(name, 6)]
        fill(source, {folder: names}, pickle.dumps(("clip", label, [PICTURE])))
    flags = ["--split", "ucf101:1", "--split-dir", ucf101 / "split"]
    assert run(source, ucf101 / "lists", *flags) == 0
    assert (ucf101 / "lists" / "classes.txt").read_text() == "Archery\nHandstandPushups\n"


def test_hmdb51_is_split_as_published(tmp_path, video, capsys):
    names = hmdb([f"film{n}" for n in range(8)], "brush_hair")
    source = fill(tmp_path / "videos", {"brush_hair": names}, video)
    uses = [2] * 4 + [0] * 2 + [1] * 10
    lines = [f"{name} {use} \n" for name, use in zip(names, uses, strict=True)]
    split_dir = fill(tmp_path, {"split": ["brush_hair_test_split3.txt"]}, b"") / "split"
    (split_dir / "brush_hair_test_split3.txt").write_text("".join(lines))
    assert run(source, tmp_path / "l", "--split", "hmdb51:3", "--split-dir", split_dir) == 0
    assert sorted(listed(tmp_path / "l", "test")) == names[:4]
    train, val = listed(tmp_path / "l", "train"), listed(tmp_path / "l", "val")
    assert len(val) == 2 and sorted([*train, *val]) == names[6:]
    assert len({name.partition("_")[0] for name in val}) == 1
    printed = capsys.readouterr().out
    assert "2 clips left out: this split does not use them" in printed
    assert "published               3570    1530" in printed


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split", "80:20"], "needs three shares such as 80:10:10"),
        (["--split", "80:-10:30"], "needs three shares"),
        (["--split", "0:0:0"], "needs three shares"),
        (["--split", "nan:1:1"], "needs three shares"),
        (["--split", "inf:1:1"], "needs three shares"),
        (["--split", "ucf101:4"], "needs three shares"),
        (["--split", "ucf101:1"], "--split ucf101:1 needs --split-dir"),
        (["--split-dir", "."], "--split-dir goes with --split hmdb51:N or ucf101:N"),
        (["--split", "hmdb51:1", "--split-dir", "gone"], "--split-dir gone is not a folder"),
        (["--val-share", "100"], "needs a percentage from 0 to below 100, not '100'"),
        (["--val-share", "x"], "needs a percentage from 0 to below 100, not 'x'"),
        (["--seed", "-1"], "needs a whole number from 0 up, not '-1'"),
        (["--workers", "0"], "needs a whole number from 1 up, not '0'"),
    ],
)
def test_bad_arguments_are_one_line_and_code_2(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        tool.main([str(tmp_path), str(tmp_path / "lists"), *flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "lists").exists()


def test_a_source_that_does_not_exist_is_a_bad_argument(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "gone", tmp_path / "lists")
    assert stop.value.code == 2
    assert f"SOURCE {tmp_path / 'gone'} is not a folder" in capsys.readouterr().err


def fails(capsys, *arguments):
    assert run(*arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("data_list_gener.py: ")
    return last


def test_a_label_that_is_not_its_class_folders_is_an_error(tmp_path, capsys):
    source = fill_pickles(tmp_path / "pkl", {"run": 0, "walk": 5}, num_clips=50)
    assert tool.main([str(source), str(tmp_path / "lists"), "--workers", "2"]) == 1
    error = capsys.readouterr().err
    assert "Exception" not in error
    assert "c0.pkl holds label 5, but its class 'walk' is number 1: run jpg2pkl.py again" in error
    assert not list((tmp_path / "lists").iterdir())


def test_a_target_that_cannot_be_written_is_an_error(tmp_path, video, capsys):
    source = fill(tmp_path / "videos", {"walk": ["a.avi"]}, video)
    (tmp_path / "file").write_text("")
    assert "file" in fails(capsys, source, tmp_path / "file")


def test_an_interrupt_is_said(tmp_path, video, capsys, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(lists, "inspect_clip", interrupt)
    source = fill(tmp_path / "videos", {"walk": ["a.avi"]}, video)
    assert run(source, tmp_path / "lists") == 130
    assert "stopped; no list is written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("classInd.txt", None, "there is no {}"),
        ("classInd.txt", "0 Archery\n", "needs lines `1 ApplyEyeMakeup`, numbered from 1"),
        ("classInd.txt", "Archery\n", "needs lines `1 ApplyEyeMakeup`, numbered from 1"),
        ("trainlist01.txt", None, "there is no {}"),
        ("testlist01.txt", "a.avi\n", "{}: needs lines `Class/clip.avi`, got 'a.avi'"),
        ("testlist01.txt", "Nap/a.avi\n", "{}: classInd.txt has no class 'Nap'"),
    ],
)
def test_official_files_of_ucf101_are_checked(ucf101, capsys, file, content, message):
    path = ucf101 / "split" / file
    path.unlink() if content is None else path.write_text(content)
    flags = ["--split", "ucf101:1", "--split-dir", path.parent]
    error = fails(capsys, ucf101 / "videos", ucf101 / "lists", *flags)
    assert message.format(path) in error


def test_official_files_of_hmdb51_are_checked(tmp_path, video, capsys):
    source = fill(tmp_path / "videos", {"walk": hmdb(["a"], "walk")}, video)
    path = tmp_path / "split" / "walk_test_split1.txt"
    path.parent.mkdir()
    flags = [source, tmp_path / "lists", "--split", "hmdb51:1", "--split-dir", path.parent]
    assert f"there is no {path}, the official file of 'walk'" in fails(capsys, *flags)
    path.write_text("a.avi 3\n")
    assert f"{path}: needs lines `clip.avi 0|1|2`, got 'a.avi 3'" in fails(capsys, *flags)
    path.write_text("other.avi 1\n")
    assert "no clip of SOURCE is in hmdb51, split 1" in fails(capsys, *flags)

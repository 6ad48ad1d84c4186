"""The lists: labels, official and seeded splits, and what is said when something is amiss."""

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_tools import data_list_gener as tool
from paddlevid.data.dataset import read_list

PICTURE = cv2.imencode(".jpg", np.full((16, 16, 3), 90, np.uint8))[1].tobytes()
BROKEN = b"not a video"


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, codec, 25, (32, 32))
    for level in range(5):
        writer.write(np.full((32, 32, 3), 40 * level, np.uint8))
    writer.release()
    return path.read_bytes()


def fill(source, clips, content):
    """Write a file for each clip: {class: file names}."""
    for class_name, names in clips.items():
        for name in names:
            path = source / class_name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return source


def fill_pickles(source, labels, num_clips=4):
    for class_name, label in labels.items():
        for clip in range(num_clips):
            name = f"c{clip}"
            fill(source, {class_name: [f"{name}.pkl"]}, pickle.dumps((name, label, [PICTURE] * 3)))
    return source


def ucf(class_name, groups, clips=2):
    pairs = [(g, c) for g in range(1, groups + 1) for c in range(1, clips + 1)]
    return [f"v_{class_name}_g{g:02d}_c{c:02d}.avi" for g, c in pairs]


def hmdb(films, action, clips=2):
    return [f"{film}_{action}_u_nm_np1_ba_goo_{n}.avi" for film in films for n in range(clips)]


def run(*arguments):
    return tool.main([*map(str, arguments), "--workers", "1"])


def listed(target, side):
    """{clip name: label} of a list."""
    file = target / f"{side}.list"
    return {s.path.name: s.label for s in read_list(file)} if file.exists() else {}


# --- splitting ------------------------------------------------------------------------------------


def sizes(labels, sides, num_sides=3):
    table = np.zeros((max(labels) + 1, num_sides), int)
    np.add.at(table, (labels, sides), 1)
    return table.tolist()


def test_clips_of_a_group_are_on_one_side_and_shares_come_near():
    rng = np.random.default_rng(0)
    labels, groups = [], []
    for label in range(20):
        for group in range(25):
            num_clips = int(rng.integers(4, 8))
            labels += [label] * num_clips
            groups += [f"{label}/{group}"] * num_clips
    sides = tool.split_groups(labels, groups, (80, 10, 10), 0)
    assert len(set(zip(groups, sides.tolist(), strict=True))) == len(set(groups))
    shares = np.array(sizes(labels, sides))
    shares = shares / shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, np.tile([0.8, 0.1, 0.1], (20, 1)), atol=0.05)


def test_clips_without_a_group_are_split_exactly():
    labels = [0] * 100 + [1] * 10
    sides = tool.split_groups(labels, [str(n) for n in range(110)], (80, 10, 10), 0)
    assert sizes(labels, sides) == [[80, 10, 10], [8, 1, 1]]


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    clips = [(n % 3, f"{n % 3}/{n // 6}") for n in range(120)]
    first = tool.split_groups(*zip(*clips, strict=True), (80, 10, 10), 0)
    mixed = list(range(120))
    random.Random(1).shuffle(mixed)
    again = tool.split_groups(*zip(*(clips[n] for n in mixed), strict=True), (80, 10, 10), 0)
    np.testing.assert_array_equal(again, first[mixed])
    other = tool.split_groups(*zip(*clips, strict=True), (80, 10, 10), 1)
    assert not np.array_equal(other, first)


@pytest.mark.parametrize("clips_of_first", [1, 50])
def test_three_groups_are_enough_for_three_sides(clips_of_first):
    groups = ["a"] * clips_of_first + ["b", "c"]
    for seed in range(10):
        sides = tool.split_groups([0] * len(groups), groups, (98, 1, 1), seed)
        assert set(sides.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("groups", "expected"), [("a", {0}), ("ab", {0, 2}), ("abc", {0, 1, 2})])
def test_too_few_groups_fill_train_then_test_then_val(groups, expected):
    for shares in ((80, 10, 10), (10, 80, 10)):
        assert set(tool.split_groups([0] * len(groups), groups, shares, 0).tolist()) == expected


def test_a_group_of_several_classes_is_on_one_side_in_all_of_them():
    labels = [0, 1, 0, 0, 0, 1, 1, 1] * 3
    groups = ["both", "both", "a", "b", "c", "d", "e", "f"] * 3
    for seed in range(10):
        sides = tool.split_groups(labels, groups, (60, 20, 20), seed)
        assert len(set(sides[np.array(groups) == "both"].tolist())) == 1
        assert np.array(sizes(labels, sides)).min() >= 1


def test_a_side_without_a_share_gets_nothing():
    sides = tool.split_groups([0] * 9, list("abcdefghi"), (2, 0, 1), 0)
    assert sizes([0] * 9, sides) == [[6, 0, 3]]


@pytest.mark.parametrize(
    ("clip", "class_name", "group"),
    [
        ("v_Archery_g08_c01", "Archery", "archery/g08"),
        ("v_HandStandPushups_G01_c02", "HandstandPushups", "handstandpushups/g01"),
        ("April_09_brush_hair_u_nm_np1_ba_goo_0", "brush_hair", "april_09"),
        ("Fast_run_away_run_f_cm_np2_le_med_3", "run", "fast_run_away"),
        ("my_walk_01", "walk", "walk/my_walk_01"),
    ],
)
def test_names_tell_the_source_video(clip, class_name, group):
    assert tool.source_video(clip, class_name) == group


# --- lists ----------------------------------------------------------------------------------------


def test_videos_get_labels_in_natural_order_and_relative_paths(tmp_path, video, capsys):
    clips = {f"class{n}": ucf(f"class{n}", 4) for n in (10, 2, 1)}
    clips["class1"].append("ODD.MP4")
    source = fill(tmp_path / "videos", clips, video)
    (source / "class1" / ".half.avi").write_bytes(video)
    assert run(source, tmp_path / "lists") == 0
    target = tmp_path / "lists"
    assert (target / "classes.txt").read_text() == "class1\nclass2\nclass10\n"
    labels = listed(target, "train") | listed(target, "val") | listed(target, "test")
    assert len(labels) == 25 and labels["v_class10_g01_c01.avi"] == 2
    lines = (target / "val.list").read_text().splitlines()
    assert all(line.startswith("../videos/") for line in lines)
    assert (target / "clips.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in target.iterdir()} == {
        "train.list", "val.list", "test.list", "classes.txt", "clips.png"
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "    2       4       2       2       8   class10\n" in printed
    assert "frames per clip: 5 to 5, median 5" in printed
    os.rename(tmp_path / "videos", tmp_path / "moved")
    (tmp_path / "x").mkdir()
    os.rename(tmp_path / "moved", tmp_path / "x" / "videos")
    os.rename(target, tmp_path / "x" / "lists")
    assert all(s.path.exists() for s in read_list(tmp_path / "x" / "lists" / "train.list"))


def test_pickles_have_their_labels_inside(tmp_path):
    source = fill_pickles(tmp_path / "pkl", {"walk": 0, "run": 1})
    (source / "classes.txt").write_text("walk\nrun\n")
    target = source / "lists"  # inside SOURCE, and still no class
    for _ in range(2):
        assert run(source, target) == 0
        assert (target / "classes.txt").read_text() == "walk\nrun\n"
        lines = (target / "train.list").read_text().splitlines()
        assert len(lines) == 4 and all(line.endswith(".pkl") for line in lines)


def test_folders_of_frames_are_clips(tmp_path):
    clips = {"walk": [f"c {n}/0000{f}.jpg" for n in range(3) for f in range(2)]}
    source = fill(tmp_path / "frames", clips, PICTURE)
    assert run(source, tmp_path / "lists") == 0
    samples = [s for side in tool.SIDES for s in read_list(tmp_path / "lists" / f"{side}.list")]
    assert sorted(s.path.name for s in samples) == ["c 0", "c 1", "c 2"]
    assert all(s.path.is_dir() and s.label == 0 for s in samples)


def test_lists_work_through_a_symbolic_link(tmp_path, video):
    source = fill(tmp_path / "videos", {"walk": ["a.avi"]}, video)
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    assert run(source, tmp_path / "link") == 0
    assert read_list(tmp_path / "link" / "train.list")[0].path.exists()


def test_bad_clips_are_named_and_left_out(tmp_path, video, capsys):
    source = fill(tmp_path / "videos", {"walk": ["a.avi", "b.avi", "c.avi", "d.avi"]}, video)
    (source / "walk" / "b.avi").write_bytes(BROKEN)
    (source / "walk" / "c.avi").write_bytes(b"")
    target = tmp_path / "lists"
    target.mkdir()
    (target / "val.list").write_text("of an earlier run\n")
    assert run(source, target) == 1
    lines = (target / "bad_samples.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [f"../videos/walk/{n}.avi" for n in "bc"]
    assert lines[1].endswith("\tis empty")
    assert sorted([*listed(target, "train"), *listed(target, "test")]) == ["a.avi", "d.avi"]
    assert not (target / "val.list").exists()
    printed = capsys.readouterr().out
    assert "2 clips cannot be read" in printed and "c.avi: is empty" in printed
    assert "val.list is not written" in printed
    assert "val.list has no clips of walk: too few clips or source videos" in printed


def test_a_pickle_whose_frames_are_gone_is_bad(tmp_path):
    source = fill_pickles(tmp_path / "pkl", {"walk": 0})
    (source / "walk" / "c0.pkl").write_bytes(pickle.dumps(("c0", 0, ["gone/1.jpg"])))
    assert run(source, tmp_path / "lists") == 1
    assert "cannot read its frame" in (tmp_path / "lists" / "bad_samples.txt").read_text()


def test_a_class_without_clips_is_warned_of_and_keeps_its_label(tmp_path, video, capsys):
    source = fill(tmp_path / "videos", {"walk": ["a.avi"]}, video)
    (source / "empty").mkdir()
    assert run(source, tmp_path / "lists") == 0
    assert "warning: classes without a clip, which keep their labels: empty" in (
        capsys.readouterr().out
    )
    assert listed(tmp_path / "lists", "train") == {"a.avi": 1}


def test_the_tool_runs_as_a_script_with_workers(tmp_path, video):
    source = fill(tmp_path / "videos", {"walk": ucf("walk", 3), "run": ucf("run", 3)}, video)
    flags = [source, tmp_path / "lists", "--split", "1:1:1", "--workers", "2"]
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, tool.__file__, *map(str, flags)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [len(listed(tmp_path / "lists", side)) for side in tool.SIDES] == [4, 4, 4]


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


def test_a_source_without_classes_or_clips_is_an_error(tmp_path, capsys):
    source = tmp_path / "videos"
    source.mkdir()
    assert "has no class folders" in fails(capsys, source, tmp_path / "lists")
    (source / "walk").mkdir()
    (source / "run").mkdir()
    error = fails(capsys, source, tmp_path / "lists")
    assert error.endswith("have no clips: run, walk")
    assert not (tmp_path / "lists").exists()


def test_several_kinds_of_clips_are_an_error(tmp_path, video, capsys):
    source = fill(tmp_path / "videos", {"walk": ["a.avi", "b.pkl"]}, video)
    error = fails(capsys, source, tmp_path / "lists")
    assert "mixes" in error and "a.avi" in error and "b.pkl" in error


def test_a_label_that_is_not_its_class_folders_is_an_error(tmp_path, capsys):
    source = fill_pickles(tmp_path / "pkl", {"run": 0, "walk": 5}, num_clips=50)
    assert tool.main([str(source), str(tmp_path / "lists"), "--workers", "2"]) == 1
    error = capsys.readouterr().err
    assert "Exception" not in error
    assert "c0.pkl holds label 5, but its class 'walk' is number 1: run jpg2pkl.py again" in error
    assert not list((tmp_path / "lists").iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"run\n", "classes.txt lacks the class folder 'walk'"),
        (b"walk\nwalk\n", "classes.txt has 'walk' twice"),
        (b"\xff\xfe\xfa", "classes.txt is not UTF-8 text"),
    ],
)
def test_a_classes_file_that_does_not_fit_is_an_error(tmp_path, video, capsys, content, message):
    source = fill(tmp_path / "videos", {"walk": ["a.avi"]}, video)
    (source / "classes.txt").write_bytes(content)
    assert message in fails(capsys, source, tmp_path / "lists")


def test_a_target_that_cannot_be_written_is_an_error(tmp_path, video, capsys):
    source = fill(tmp_path / "videos", {"walk": ["a.avi"]}, video)
    (tmp_path / "file").write_text("")
    assert "file" in fails(capsys, source, tmp_path / "file")


def test_no_readable_clip_is_an_error(tmp_path, capsys):
    source = fill(tmp_path / "videos", {"walk": ["a.avi"]}, BROKEN)
    assert "none of the 1 clips can be read" in fails(capsys, source, tmp_path / "lists")
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["bad_samples.txt"]


def test_a_clip_that_kills_its_reader_is_an_error(tmp_path, video, capsys, monkeypatch):
    def crash(path):
        os._exit(1)

    monkeypatch.setattr(tool, "inspect_clip", crash)
    source = fill(tmp_path / "videos", {"walk": ["a.avi", "b.avi"]}, video)
    assert tool.main([str(source), str(tmp_path / "lists"), "--workers", "2"]) == 1
    assert "a clip crashed its reader" in capsys.readouterr().err


def test_an_interrupt_is_said(tmp_path, video, capsys, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "inspect_clip", interrupt)
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


def test_the_paths_of_another_drive_stay_absolute(monkeypatch):
    def relpath(*_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    assert tool._relative(Path("/videos/a.avi"), Path("/lists")) == "/videos/a.avi"

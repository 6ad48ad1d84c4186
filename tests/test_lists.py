"""Splits and lists of a tree of class folders, and what is said when something is amiss."""

import os
import pickle
import random
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import frames_of, write_video

from paddlevid import lists
from paddlevid.data.dataset import read_list
from paddlevid.data.decode import count_frames
from paddlevid.data.split import SIDES, source_video, split_groups

PICTURE = cv2.imencode(".jpg", np.full((16, 16, 3), 90, np.uint8))[1].tobytes()
BROKEN = b"not a video"


@pytest.fixture
def video(video):
    """The content of an .avi of 20 frames."""
    return video.read_bytes()


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


def make(source, target, shares=(80, 10, 10), seed=0, workers=1):
    return lists.make_lists(source, target, shares, seed, workers)


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
    sides = split_groups(labels, groups, (80, 10, 10), 0)
    assert len(set(zip(groups, sides.tolist(), strict=True))) == len(set(groups))
    shares = np.array(sizes(labels, sides))
    shares = shares / shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, np.tile([0.8, 0.1, 0.1], (20, 1)), atol=0.05)


def test_clips_without_a_group_are_split_exactly():
    labels = [0] * 100 + [1] * 10
    sides = split_groups(labels, [str(n) for n in range(110)], (80, 10, 10), 0)
    assert sizes(labels, sides) == [[80, 10, 10], [8, 1, 1]]


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    clips = [(n % 3, f"{n % 3}/{n // 6}") for n in range(120)]
    first = split_groups(*zip(*clips, strict=True), (80, 10, 10), 0)
    mixed = list(range(120))
    random.Random(1).shuffle(mixed)
    again = split_groups(*zip(*(clips[n] for n in mixed), strict=True), (80, 10, 10), 0)
    np.testing.assert_array_equal(again, first[mixed])
    other = split_groups(*zip(*clips, strict=True), (80, 10, 10), 1)
    assert not np.array_equal(other, first)


@pytest.mark.parametrize("clips_of_first", [1, 50])
def test_three_groups_are_enough_for_three_sides(clips_of_first):
    groups = ["a"] * clips_of_first + ["b", "c"]
    for seed in range(10):
        sides = split_groups([0] * len(groups), groups, (98, 1, 1), seed)
        assert set(sides.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("groups", "expected"), [("a", {0}), ("ab", {0, 2}), ("abc", {0, 1, 2})])
def test_too_few_groups_fill_train_then_test_then_val(groups, expected):
    for shares in ((80, 10, 10), (10, 80, 10)):
        assert set(split_groups([0] * len(groups), groups, shares, 0).tolist()) == expected


def test_a_group_of_several_classes_is_on_one_side_in_all_of_them():
    labels = [0, 1, 0, 0, 0, 1, 1, 1] * 3
    groups = ["both", "both", "a", "b", "c", "d", "e", "f"] * 3
    for seed in range(10):
        sides = split_groups(labels, groups, (60, 20, 20), seed)
        assert len(set(sides[np.array(groups) == "both"].tolist())) == 1
        assert np.array(sizes(labels, sides)).min() >= 1


def test_a_side_without_a_share_gets_nothing():
    sides = split_groups([0] * 9, list("abcdefghi"), (2, 0, 1), 0)
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
    assert source_video(clip, class_name) == group


# --- lists ----------------------------------------------------------------------------------------


def test_videos_get_labels_in_natural_order_and_relative_paths(tmp_path, video, capsys):
    clips = {f"class{n}": ucf(f"class{n}", 4) for n in (10, 2, 1)}
    clips["class1"].append("ODD.MP4")
    source = fill(tmp_path / "videos", clips, video)
    (source / "class1" / ".half.avi").write_bytes(video)
    assert make(source, tmp_path / "lists")
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
    assert "frames per clip: 20 to 20, median 20" in printed
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
        assert make(source, target)
        assert (target / "classes.txt").read_text() == "walk\nrun\n"
        lines = (target / "train.list").read_text().splitlines()
        assert len(lines) == 4 and all(line.endswith(".pkl") for line in lines)


def test_folders_of_frames_are_clips(tmp_path):
    clips = {"walk": [f"c {n}/0000{f}.jpg" for n in range(3) for f in range(2)]}
    source = fill(tmp_path / "frames", clips, PICTURE)
    assert make(source, tmp_path / "lists")
    samples = [s for side in SIDES for s in read_list(tmp_path / "lists" / f"{side}.list")]
    assert sorted(s.path.name for s in samples) == ["c 0", "c 1", "c 2"]
    assert all(s.path.is_dir() and s.label == 0 for s in samples)


def test_lists_work_through_a_symbolic_link(tmp_path, video):
    source = fill(tmp_path / "videos", {"walk": ["a.avi"]}, video)
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    assert make(source, tmp_path / "link")
    assert read_list(tmp_path / "link" / "train.list")[0].path.exists()


def test_bad_clips_are_named_and_left_out(tmp_path, video, capsys):
    source = fill(tmp_path / "videos", {"walk": ["a.avi", "b.avi", "c.avi", "d.avi"]}, video)
    (source / "walk" / "b.avi").write_bytes(BROKEN)
    (source / "walk" / "c.avi").write_bytes(b"")
    target = tmp_path / "lists"
    target.mkdir()
    (target / "val.list").write_text("of an earlier run\n")
    assert not make(source, target)
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
    assert not make(source, tmp_path / "lists")
    assert "cannot read its frame" in (tmp_path / "lists" / "bad_samples.txt").read_text()


def test_a_class_without_clips_is_warned_of_and_keeps_its_label(tmp_path, video, capsys):
    source = fill(tmp_path / "videos", {"walk": ["a.avi"]}, video)
    (source / "empty").mkdir()
    assert make(source, tmp_path / "lists")
    assert "warning: classes without a clip, which keep their labels: empty" in (
        capsys.readouterr().out
    )
    assert listed(tmp_path / "lists", "train") == {"a.avi": 1}


@pytest.mark.parametrize("place", ["lists", "my videos/lists", "my videos/.lists", "a/b c/lists"])
def test_the_paths_are_relative_to_target_wherever_it_is(tmp_path, video, place):
    source = fill(tmp_path / "my videos", {"walk": ["a b.avi", "c.avi"], "run": ["d.avi"]}, video)
    target = tmp_path / place
    for _ in range(2):  # TARGET in SOURCE is no class in the second run either
        assert make(source, target)
        assert (target / "classes.txt").read_text() == "run\nwalk\n"
    lines = [n for s in SIDES if (target / f"{s}.list").exists()
             for n in (target / f"{s}.list").read_text().splitlines()]  # fmt: skip
    up = os.path.relpath(source, target).replace("\\", "/")
    assert sorted(lines) == [f"{up}/{n}" for n in ("run/d.avi 0", "walk/a b.avi 1", "walk/c.avi 1")]


@pytest.mark.parametrize("place", ["lists", "output/lists", "output/tsn/lists"])
def test_an_output_in_the_source_is_no_class_in_the_next_run(tmp_path, place):
    clips = {f"{name}/{n}": ["00001.jpg"] for name in ("walk", "run") for n in range(3)}
    source = fill(tmp_path / "frames", clips, PICTURE)
    for target in (source / place, source / place, source / "out2" / "lists"):
        assert make(source, target)
        assert (target / "classes.txt").read_text() == "run\nwalk\n"
        found = [
            sample.path.parent.name for s in SIDES for sample in read_list(target / f"{s}.list")
        ]
        assert sorted(found) == ["run"] * 3 + ["walk"] * 3


@pytest.mark.parametrize("names", [["config.yaml"], ["val.list"], ["videos.csv"]])
def test_what_was_written_elsewhere_in_the_source_is_no_class(tmp_path, capsys, names):
    source = fill(tmp_path / "frames", {"walk/a": ["00001.jpg"], "old/vdl": ["1.png"]}, PICTURE)
    fill(source, {"old": names, "walk/report": names}, b"")
    assert make(source, tmp_path / "lists")
    assert (tmp_path / "lists" / "classes.txt").read_text() == "walk\n"
    assert listed(tmp_path / "lists", "train") == {"a": 0}
    assert "1 folders that paddlevid wrote are no classes: old" in capsys.readouterr().out


def test_a_class_keeps_its_clips_beside_other_texts_and_lists(tmp_path, video):
    source = fill(tmp_path / "videos", {"walk": ["a.avi"], "run": ["b.avi"]}, video)
    (source / "walk" / "videos.csv").touch()
    for _ in range(2):
        assert make(source, source / "run" / "lists")
        assert (source / "run" / "lists" / "classes.txt").read_text() == "run\nwalk\n"


def test_lists_in_the_source_are_no_clips_where_classes_mean_nothing(tmp_path):
    source = fill(tmp_path / "frames", {"a": ["1.jpg", "2.jpg"], "b": ["1.jpg", "2.jpg"]}, PICTURE)
    for _ in range(2):
        assert lists.make_lists(source, source / "lists", (80, 10, 10), 0, 1, frames_needed=1)
        found = [*listed(source / "lists", "train"), *listed(source / "lists", "test")]
        assert sorted(found) == ["a", "b"]


def test_a_source_given_relative_to_the_current_folder_is_found(tmp_path, video, monkeypatch):
    fill(tmp_path / "videos", {"walk": ["a.avi"]}, video)
    monkeypatch.chdir(tmp_path)
    assert make(Path("videos"), Path("lists"))
    assert read_list(Path("lists/train.list"))[0].path.exists()


def test_files_that_are_no_clips_are_counted_and_passed_over(tmp_path, video, capsys):
    fill(tmp_path / "videos", {"walk": ["1.avi", "2.avi"], "run": ["3.avi"]}, video)
    fill(tmp_path / "videos", {"walk": ["notes.doc", "zip.7z"], "run": [".hidden"]}, b"text")
    assert make(tmp_path / "videos", tmp_path / "lists", (1, 0, 0))
    said = capsys.readouterr().out
    assert "2 files passed over, no clips by their suffix: notes.doc, zip.7z\n" in said
    assert listed(tmp_path / "lists", "train") == {"3.avi": 0, "1.avi": 1, "2.avi": 1}


def test_containers_may_be_mixed_and_names_in_any_language(tmp_path):
    codecs = {"跑步 一.mp4": "mp4v", "бег 2.mkv": "MJPG", "été ½.MOV": "mp4v", "जल 3.avi": "MJPG"}
    for name, codec in codecs.items():
        write_video(tmp_path / "我的 视频" / "跑 步" / name, frames_of(4), codec)
    assert make(tmp_path / "我的 视频", tmp_path / "список 1")
    assert (tmp_path / "список 1" / "classes.txt").read_text(encoding="utf-8") == "跑 步\n"
    samples = [s for side in SIDES for s in read_list(tmp_path / "список 1" / f"{side}.list")]
    assert {s.path.name: s.label for s in samples} == dict.fromkeys(codecs, 0)
    assert all(count_frames(s.path) == 4 for s in samples)


@pytest.mark.parametrize(
    ("num_clips", "sides"), [(1, ["train"]), (2, ["train", "test"]), (3, ["train", "val", "test"])]
)
def test_few_clips_fill_train_then_test_then_val(tmp_path, video, num_clips, sides):
    clips = {name: [f"{name} {n}.avi" for n in range(20)] for name in ("few", "many")}
    source = fill(tmp_path / "videos", clips | {"few": clips["few"][:num_clips]}, video)
    assert make(source, tmp_path / "lists")
    found = {side: list(listed(tmp_path / "lists", side).values()).count(0) for side in SIDES}
    assert found == {side: int(side in sides) for side in SIDES}


def test_a_source_video_is_in_one_list(tmp_path, video):
    clips = {"Archery": ucf("Archery", 9, 3), "brush_hair": hmdb("abcdefgh", "brush_hair", 3)}
    source = fill(tmp_path / "videos", clips, video)
    for seed in range(3):
        assert make(source, tmp_path / "lists", shares=(60, 20, 20), seed=seed)
        origins = [
            {re.split("_c0|_brush_hair_", name)[0] for name in listed(tmp_path / "lists", side)}
            for side in SIDES
        ]
        assert all(origins) and sum(map(len, origins)) == len(set.union(*origins)) == 17


def test_the_same_seed_makes_the_same_lists(tmp_path, video):
    clips = {name: [f"{name} {n}.avi" for n in range(20)] for name in ("walk", "run")}
    source = fill(tmp_path / "videos", clips, video)

    def lists_of(seed, workers=1):
        assert make(source, tmp_path / "lists", seed=seed, workers=workers)
        return [(tmp_path / "lists" / f"{side}.list").read_text() for side in SIDES]

    first = lists_of(seed=0)
    assert lists_of(seed=1) != first
    assert lists_of(seed=0, workers=2) == first


def test_a_folder_in_a_class_folder_is_a_clip_and_never_searched(tmp_path, video):
    source = fill(tmp_path / "videos", {"walk/day 1": ["a.avi"], "run/day 1": ["b.avi"]}, video)
    with pytest.raises(ValueError, match="none of the 2 clips can be read"):
        make(source, tmp_path / "lists")
    lines = (tmp_path / "lists" / "bad_samples.txt").read_text().splitlines()
    assert lines == [f"../videos/{name}/day 1\thas no frames" for name in ("run", "walk")]
    fill(source, {"walk": ["c.avi"]}, video)
    with pytest.raises(ValueError, match=r"mixes .*folders of frames \(.*day 1\).*: keep one kind"):
        make(source, tmp_path / "lists")


# --- errors ---------------------------------------------------------------------------------------


def test_a_source_without_classes_or_clips_is_an_error(tmp_path):
    source = tmp_path / "videos"
    source.mkdir()
    with pytest.raises(ValueError, match="has no class folders: it needs <class>/<clip>"):
        make(source, tmp_path / "lists")
    (source / "walk").mkdir()
    (source / "run").mkdir()
    with pytest.raises(ValueError, match="the class folders of .* have no clips: run, walk$"):
        make(source, tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


def test_several_kinds_of_clips_are_an_error(tmp_path, video):
    source = fill(tmp_path / "videos", {"walk": ["a.avi", "b.pkl"]}, video)
    with pytest.raises(ValueError, match=r"mixes .*(a\.avi.*b\.pkl|b\.pkl.*a\.avi)"):
        make(source, tmp_path / "lists")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"run\n", "classes.txt lacks the class folder 'walk'"),
        (b"walk\nwalk\n", "classes.txt has 'walk' twice"),
        (b"\xff\xfe\xfa", "classes.txt is not UTF-8 text"),
    ],
)
def test_a_classes_file_that_does_not_fit_is_an_error(tmp_path, video, content, message):
    source = fill(tmp_path / "videos", {"walk": ["a.avi"]}, video)
    (source / "classes.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        make(source, tmp_path / "lists")


def test_no_readable_clip_is_an_error(tmp_path):
    source = fill(tmp_path / "videos", {"walk": ["a.avi"]}, BROKEN)
    with pytest.raises(ValueError, match="none of the 1 clips can be read, so no list is written"):
        make(source, tmp_path / "lists")
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["bad_samples.txt"]


def test_a_clip_that_kills_its_reader_is_an_error(tmp_path, video, monkeypatch):
    def crash(path):
        os._exit(1)

    monkeypatch.setattr(lists, "inspect_clip", crash)
    source = fill(tmp_path / "videos", {"walk": ["a.avi", "b.avi"]}, video)
    with pytest.raises(ValueError, match="a clip crashed its reader: data_tools/check_videos.py"):
        make(source, tmp_path / "lists", workers=2)


def test_the_paths_of_another_drive_stay_absolute(monkeypatch):
    def relpath(*_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    assert lists._relative(Path("/videos/a.avi"), Path("/lists")) == "/videos/a.avi"


@pytest.mark.parametrize(
    "name", ["v_Run_g01_c02", "v_Run_g01_c02.avi", "v_Run_g01_c02.avi.pkl", "v_Run_g01_c02.mp4.npy"]
)
@pytest.mark.parametrize("is_folder", [False, True])
def test_a_clip_is_called_as_its_video_in_whatever_form_it_is(name, is_folder, tmp_path):
    (tmp_path / name).mkdir() if is_folder else (tmp_path / name).touch()
    assert lists.clip_name(tmp_path / name) == "v_Run_g01_c02"

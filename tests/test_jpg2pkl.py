"""The command jpg2pkl: a folder of frames becomes a folder of pickled clips."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_tools import jpg2pkl
from paddlevid.data.decode import decode, read_pickled_clip


def write_clip(folder: Path, names: list[str]) -> Path:
    """A folder of frames whose grey level tells their place in the list."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((16, 24, 3), 10 * number, np.uint8))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for clip in ("walk/a", "walk/b", "run/c"):
        write_clip(tmp_path / "jpg" / clip, [f"{i:05d}.jpg" for i in range(1, 4)])
    return tmp_path / "jpg"


def run(source: Path, target: Path, *flags: object) -> int:
    return jpg2pkl.main([str(source), str(target), "--workers", "1", *map(str, flags)])


def content(file: Path) -> tuple:
    return pickle.loads(file.read_bytes())


def order(file: Path) -> list[int]:
    """The places that the frames of a clip had when it was written."""
    clip = read_pickled_clip(file)
    frames = decode(file, np.arange(len(clip.frames)))
    return np.rint(frames.mean(axis=(1, 2, 3)) / 10).astype(int).tolist()


@pytest.mark.parametrize("flags", [[], ["--embed"]])
def test_a_clip_becomes_name_label_and_frames(source, tmp_path, flags, capsys):
    target = tmp_path / "deep" / "pkl"
    assert run(source, target, *flags) == 0
    assert (target / "classes.txt").read_text() == "run\nwalk\n"
    name, label, frames = content(target / "walk" / "b.pkl")
    assert (name, label) == ("b", 1)
    files = sorted((source / "walk" / "b").iterdir())
    if flags:
        assert frames == [file.read_bytes() for file in files]
    else:
        assert frames == [f"../../../jpg/walk/b/{file.name}" for file in files]
    assert order(target / "run" / "c.pkl") == [0, 1, 2]
    assert "3 clips of 2 classes packed, 0 were there already, 0 failed" in capsys.readouterr().out


def test_clips_and_frames_can_move_together(source, tmp_path, monkeypatch):
    assert run(source, tmp_path / "pkl") == 0
    (tmp_path / "moved").mkdir()
    shutil.move(source, tmp_path / "moved" / "jpg")
    shutil.move(tmp_path / "pkl", tmp_path / "moved" / "pkl")
    monkeypatch.chdir("/")
    assert order(tmp_path / "moved" / "pkl" / "run" / "c.pkl") == [0, 1, 2]


def test_frames_are_found_where_clips_lie_behind_a_link(source, tmp_path):
    (tmp_path / "large/disk/pkl").mkdir(parents=True)
    (tmp_path / "pkl").symlink_to(tmp_path / "large/disk/pkl")
    assert run(source, tmp_path / "pkl") == 0
    assert order(tmp_path / "pkl/walk/b.pkl") == [0, 1, 2]


def test_embedded_clips_need_no_frames(source, tmp_path):
    assert run(source, tmp_path / "pkl", "--embed") == 0
    shutil.rmtree(source)
    assert order(tmp_path / "pkl" / "walk" / "a.pkl") == [0, 1, 2]


def test_frames_and_classes_are_in_natural_order(tmp_path, capsys):
    for number in (1, 2, 10):
        names = [f"v_{i}.jpg" for i in range(1, 13)]
        write_clip(tmp_path / "jpg" / f"class{number}" / "clip", names)
    assert run(tmp_path / "jpg", tmp_path / "pkl") == 0
    assert (tmp_path / "pkl" / "classes.txt").read_text() == "class1\nclass2\nclass10\n"
    assert order(tmp_path / "pkl" / "class10" / "clip.pkl") == list(range(12))
    assert content(tmp_path / "pkl" / "class10" / "clip.pkl")[1] == 2


def test_names_may_be_any(tmp_path):
    write_clip(tmp_path / "my jpg" / "挥手" / "片段 1", ["图 1.jpg", "图 2.jpg"])
    assert run(tmp_path / "my jpg", tmp_path / "pkl") == 0
    assert (tmp_path / "pkl" / "classes.txt").read_text(encoding="utf-8") == "挥手\n"
    assert order(tmp_path / "pkl" / "挥手" / "片段 1.pkl") == [0, 1]


# --- the book's folders and its label_dir.npy -----------------------------------------------------


@pytest.fixture
def book(tmp_path: Path) -> Path:
    for name in ("brush_hair", "cartwheel", "catch"):
        frames = [f"clip_{i}.jpg" for i in range(1, 12)]
        write_clip(tmp_path / "book" / f"{name}_jpg" / "clip", frames)
    return tmp_path / "book"


LABELS = {"catch": 0, "brush_hair": 1, "cartwheel": 2}


def labels_of(tmp_path: Path, labels: object = LABELS) -> Path:
    np.save(tmp_path / "label_dir.npy", labels, allow_pickle=True)
    return tmp_path / "label_dir.npy"


def test_the_books_folders_are_read(book, tmp_path):
    assert run(book, tmp_path / "pkl") == 0
    assert (tmp_path / "pkl" / "classes.txt").read_text() == "brush_hair\ncartwheel\ncatch\n"
    assert order(tmp_path / "pkl" / "catch" / "clip.pkl") == list(range(11))


@pytest.mark.parametrize("suffix", ["_jpg", ""])
def test_labels_may_come_from_the_books_file(book, tmp_path, suffix):
    if not suffix:
        for folder in list(book.iterdir()):
            folder.rename(book / folder.name.removesuffix("_jpg"))
    assert run(book, tmp_path / "pkl", "--label-dir", labels_of(tmp_path)) == 0
    assert (tmp_path / "pkl" / "classes.txt").read_text() == "catch\nbrush_hair\ncartwheel\n"
    for name, label in LABELS.items():
        assert content(tmp_path / "pkl" / name / "clip.pkl")[1] == label


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_the_books_file_is_read_whatever_numpy_wrote_it(tmp_path, package):
    raw = labels_of(tmp_path).read_bytes()
    array = pickle.dumps(np.array(LABELS, object), protocol=3)
    array, changes = re.subn(rb"cnumpy\._?core\.", b"c" + package + b".", array)
    assert changes == 1
    (tmp_path / "labels.npy").write_bytes(raw[: raw.index(b"\n") + 1] + array)
    assert jpg2pkl.read_label_dir(tmp_path / "labels.npy") == LABELS


class Evil:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_label_file_that_wants_to_run_something_is_refused_by_name(book, tmp_path, capsys):
    trace = tmp_path / "executed"
    for labels in (Evil(trace), {"catch": Evil(trace)}):
        array = np.empty((), object)
        array[()] = labels
        file = labels_of(tmp_path, array)
        assert run(book, tmp_path / "pkl", "--label-dir", file) == 1
        assert "it wants to run posix.mkdir, which is refused" in capsys.readouterr().err
        assert not trace.exists()
    np.load(file, allow_pickle=True)
    assert trace.exists()  # the test's file would have done it
    assert not (tmp_path / "pkl").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"catch": 0, "brush_hair": 1}, "knows no class 'cartwheel'; it has catch, brush_hair"),
        (LABELS | {"wave": 3}, "has a class 'wave', which has no folder in"),
        (LABELS | {"catch": 7}, "its labels are not 0 to 2: {'catch': 7"),
        (["a", "b"], "not the book's label_dir.npy, a dictionary of classes and labels"),
        (np.arange(3), "not the book's label_dir.npy, a dictionary of classes and labels"),
    ],
)
def test_a_label_file_that_does_not_fit_is_an_error(book, tmp_path, capsys, labels, message):
    assert run(book, tmp_path / "pkl", "--label-dir", labels_of(tmp_path, labels)) == 1
    error = capsys.readouterr().err
    assert error.startswith("jpg2pkl.py: ") and message in error


def test_a_label_file_that_is_none_is_an_error(book, tmp_path, capsys):
    (tmp_path / "text.npy").write_text("text")
    assert run(book, tmp_path / "pkl", "--label-dir", tmp_path / "text.npy") == 1
    assert "text.npy: not the book's label_dir.npy" in capsys.readouterr().err
    assert run(book, tmp_path / "pkl", "--label-dir", tmp_path / "gone.npy") == 1
    assert "No such file" in capsys.readouterr().err


# --- running it again -----------------------------------------------------------------------------


def test_finished_clips_are_skipped_and_changed_ones_packed_again(source, tmp_path, capsys):
    target = tmp_path / "pkl"
    assert run(source, target) == 0
    before = (target / "walk" / "a.pkl").stat().st_mtime_ns
    write_clip(source / "walk" / "b", ["00009.jpg"])
    later = (target / "walk" / "b.pkl").stat().st_mtime + 10
    os.utime(source / "walk" / "b", (later, later))
    (target / "run" / "c.pkl").rename(target / "run" / ".c.pkl.partial")
    capsys.readouterr()
    assert run(source, target) == 0
    assert "2 clips of 2 classes packed, 1 were there already" in capsys.readouterr().out
    assert (target / "walk" / "a.pkl").stat().st_mtime_ns == before
    assert len(read_pickled_clip(target / "walk" / "b.pkl").frames) == 4
    assert (target / "run" / "c.pkl").exists()


def test_a_new_class_gives_all_clips_their_new_labels(source, tmp_path, capsys):
    target = tmp_path / "pkl"
    assert run(source, target) == 0
    write_clip(source / "jump" / "d", ["1.jpg"])
    assert run(source, target) == 0
    assert (target / "classes.txt").read_text() == "jump\nrun\nwalk\n"
    assert content(target / "walk" / "a.pkl")[1] == 2
    assert content(target / "run" / "c.pkl")[1] == 1


def test_clips_of_another_kind_are_packed_again(source, tmp_path):
    target = tmp_path / "pkl"
    for flags, kind in [([], str), (["--embed"], bytes), ([], str)]:
        assert run(source, target, *flags) == 0
        assert {type(frame) for frame in content(target / "walk" / "a.pkl")[2]} == {kind}


def test_a_note_that_cannot_be_read_counts_as_another(source, tmp_path):
    target = tmp_path / "pkl"
    assert run(source, target) == 0
    (target / "jpg2pkl.json").write_text("")
    assert run(source, target) == 0
    assert order(target / "walk" / "a.pkl") == [0, 1, 2]


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_clip_that_fails_is_named_and_the_others_are_packed(source, tmp_path, capsys):
    (source / "walk" / "empty").mkdir()
    assert run(source, tmp_path / "pkl") == 1
    printed, error = capsys.readouterr()
    assert "3 clips of 2 classes packed, 0 were there already, 1 failed" in printed
    assert f"{source / 'walk' / 'empty'}: has no images" in error


def test_a_full_disk_leaves_no_half_written_clip(source, tmp_path, capsys, monkeypatch):
    def dump(content, stream, protocol):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jpg2pkl.pickle, "dump", dump)
    assert run(source, tmp_path / "pkl") == 1
    error = capsys.readouterr().err
    assert f"jpg2pkl.py: no space left on the disk of {tmp_path}/pkl: make room" in error
    assert not list((tmp_path / "pkl").glob("*/*"))


def test_a_process_that_dies_is_one_line(source, tmp_path, capsys, monkeypatch):
    def die(*_):
        os._exit(1)

    monkeypatch.setattr(jpg2pkl, "pack", die)
    assert jpg2pkl.main([str(source), str(tmp_path / "pkl"), "--workers", "2"]) == 1
    error = capsys.readouterr().err
    assert "jpg2pkl.py: a process died, of a damaged clip or for want of memory" in error


def test_an_interrupted_run_says_how_to_go_on(source, tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(jpg2pkl.joblib, "Parallel", stop)
    assert run(source, tmp_path / "pkl") == 130
    assert "stopped; run it again to pack the rest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is not a folder: it needs one of class folders"),
        (lambda path: path.mkdir(), "no class folders in"),
        (lambda path: (path / "walk").mkdir(parents=True), "no clips in the class folders of"),
    ],
)
def test_a_source_without_clips_is_a_readable_error(tmp_path, capsys, make, message):
    make(tmp_path / "jpg")
    assert run(tmp_path / "jpg", tmp_path / "pkl") == 1
    error = capsys.readouterr().err
    assert error.startswith("jpg2pkl.py: ") and message in error


def test_no_workers_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        jpg2pkl.main([str(tmp_path), str(tmp_path), "--workers", "0"])
    assert "--workers" in capsys.readouterr().err


def test_it_runs_as_a_script_and_explains_itself(tmp_path):
    command = [sys.executable, jpg2pkl.__file__, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--label-dir" in done.stdout and "--embed" in done.stdout


def test_a_wrong_source_leaves_the_packed_clips_alone(source, tmp_path, capsys):
    assert run(source, tmp_path / "pkl") == 0
    before = sorted((tmp_path / "pkl").rglob("*"))
    assert run(source / "walk", tmp_path / "pkl") == 1
    assert "no clips in the class folders" in capsys.readouterr().err
    assert sorted((tmp_path / "pkl").rglob("*")) == before

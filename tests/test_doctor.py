"""The doctor: each check finds the fault that it is for, and says what to do."""

import os
import pickle
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from paddlevid import memory, runtime
from paddlevid.config import load_config
from paddlevid.data import encode, video
from paddlevid.data.dataset import VideoDataset
from paddlevid.doctor import __main__ as doctor
from paddlevid.doctor import lists, machine, training


def found(findings, level):
    """The texts of one level; each but the good ones says what to do."""
    findings = list(findings)
    assert all(bool(finding.advice) == (finding.level != "ok") for finding in findings)
    return [f"{finding.text} -> {finding.advice}" for finding in findings if finding.level == level]


def only(findings, level):
    """The text of the only finding that is not good."""
    findings = list(findings)
    (bad,) = [finding for finding in findings if finding.level != "ok"]
    assert bad.level == level and bad.advice, bad
    return f"{bad.text} -> {bad.advice}"


# --- libraries ------------------------------------------------------------------------------------


def test_the_versions_of_all_libraries_are_named():
    text = "\n".join(found(machine.check_libraries(), "ok"))
    assert f"numpy {np.__version__}" in text and "opencv-python" in text and "av " in text
    assert found(machine.check_libraries(), "wrong") == []


def test_a_library_that_cannot_be_imported_is_named(monkeypatch):
    def broken(name):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(machine, "import_module", broken)
    text = only(machine.check_libraries(), "wrong")
    assert text.startswith("cv2 cannot be imported: ImportError: libGL.so.1")
    assert text.endswith("-> pip install --force-reinstall opencv-python-headless")


def test_another_python_is_a_warning(monkeypatch):
    monkeypatch.setattr(machine, "sys", SimpleNamespace(version_info=(3, 14, 0)))
    assert "is tried with Python 3.10 to 3.12" in only(machine.check_libraries(), "warning")


def test_several_versions_of_opencv_are_a_warning(monkeypatch):
    versions = {"opencv-python": "4.8.0", "opencv-python-headless": "5.0.0"}
    monkeypatch.setattr(machine, "_version", lambda name: versions.get(name, "1"))
    versions["opencv-contrib-python"] = ""
    text = only(machine.check_libraries(), "warning")
    assert "opencv-python-headless, opencv-python -> pip uninstall -y opencv-python-head" in text


# --- paddle ---------------------------------------------------------------------------------------


@pytest.fixture
def fake_paddle(tmp_path, monkeypatch):
    """Has other processes find a paddle whose code is given here."""
    package = tmp_path / "fake" / "paddle"
    package.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return lambda code: (package / "__init__.py").write_text(code)


@pytest.mark.parametrize(
    ("code", "text", "advice"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'paddle'\")",
            "is not installed for",
            "-r req",
        ),
        (
            "raise ImportError('libcudart.so.12: no such file')",
            "ImportError: libcudart",
            "reinstall",
        ),
        (
            "raise ImportError('numpy.core.multiarray failed')",
            "numpy.core",
            "pip install 'numpy<2'",
        ),
        ("raise ImportError(\"No module named 'joblib'\")", "'joblib'", "a library is missing"),
        ("import os; os.kill(os.getpid(), 4)", "lacks an instruction", "it needs AVX"),
        ("import os; os.kill(os.getpid(), 9)", "it ended with exit code -9", "pip install"),
        ("raise SystemExit(0)", "it ended with exit code 0", "pip install"),
    ],
)
def test_a_paddle_that_cannot_be_imported_is_explained(fake_paddle, code, text, advice):
    fake_paddle(code)
    said = only(machine.check_paddle(), "wrong")
    assert text in said and advice in said.partition("->")[2]


GPU_BUILD = """
from types import SimpleNamespace
__version__ = "9.8"
print("some remark")
version = SimpleNamespace(cuda=lambda: {cuda!r}, cudnn=lambda: "8.6")
device = SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: {num_gpus}))
is_compiled_with_cuda = lambda: {cuda!r} != "False"
set_flags = lambda flags: None
"""


@pytest.mark.parametrize(
    ("cuda", "num_gpus", "driver", "level", "text"),
    [
        ("11.8", 2, True, "ok", "2 GPUs, driver 535.104.05"),
        ("11.8", 0, True, "warning", "this Paddle is for a GPU, but finds none"),
        ("False", 0, True, "warning", "has a GPU, but this Paddle is for CPU"),
        ("False", 0, False, "ok", "Paddle 9.8, for CPU"),
    ],
)
def test_gpus_and_builds_that_do_not_fit(
    fake_paddle, tmp_path, monkeypatch, cuda, num_gpus, driver, level, text
):
    fake_paddle(GPU_BUILD.format(cuda=cuda, num_gpus=num_gpus))
    monkeypatch.setattr(machine, "_DRIVER", tmp_path / "version")
    if driver:
        (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX Kernel Module  535.104.05  x")
    said = found(machine.check_paddle(), level)
    assert text in said[-1]
    assert len(found(machine.check_paddle(), "warning")) == (level == "warning")


# --- threads, memory, disks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"OMP_NUM_THREADS": "9999"}, "the threads wait for each other -> unset OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "many"}, "OMP_NUM_THREADS=many"),
        ({"OMP_NUM_THREADS": "3"}, "the others stay idle"),
        ({"MKL_DEBUG_CPU_TYPE": "4"}, "MKL takes slow kernels on an AMD processor -> unset MKL_"),
    ],
)
def test_settings_that_slow_it_down_are_warnings(monkeypatch, environment, text):
    ours = {"OMP_NUM_THREADS": "8", "MKL_DEBUG_CPU_TYPE": "5"}
    monkeypatch.setattr(runtime, "usable_cores", lambda: 8)
    monkeypatch.setattr(runtime, "settings", lambda: ours)
    assert text in only(machine.check_threads(environment), "warning")
    said = found(machine.check_threads(environment | {"MALLOC_ARENA_MAX": "1", "X": "y"}), "ok")
    assert said[1].startswith("set by you: MALLOC_ARENA_MAX=1, ") and "X=y" not in said[1]
    assert found(machine.check_threads(ours), "warning") == []
    assert "OMP_NUM_THREADS=8, MKL_DEBUG_CPU_TYPE=5" in found(machine.check_threads({}), "ok")[2]


def test_an_intel_processor_may_have_any_kernels(monkeypatch):
    monkeypatch.setattr(runtime, "settings", lambda: {})
    assert found(machine.check_threads({"MKL_DEBUG_CPU_TYPE": "4"}), "warning") == []


@pytest.mark.parametrize(
    ("free", "shared", "text"),
    [
        ((2 << 30, 8 << 30), (2 << 30, 4 << 30), None),
        ((2 << 30, 8 << 30), None, None),
        ((1 << 29, 8 << 30), None, "memory: 537 MB of 8.6 GB are free -> end other programs"),
        ((2 << 30, 8 << 30), (60 << 20, 64 << 20), "/dev/shm: 63 MB of 67 MB are free"),
    ],
)
def test_little_memory_is_a_warning(monkeypatch, free, shared, text):
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    monkeypatch.setattr(memory, "free_shared_memory", lambda: shared)
    if text is None:
        assert found(machine.check_memory(), "warning") == []
    else:
        assert text in only(machine.check_memory(), "warning")


def test_disks_are_tried_and_their_room_is_told(tmp_path, monkeypatch):
    (good,) = found(machine.check_disk("the run's folder", tmp_path / "a" / "b"), "ok")
    assert good.startswith(f"the run's folder {tmp_path}/a/b: ")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    text = only(machine.check_disk("the cache", tmp_path / "file" / "x"), "wrong")
    assert f"{tmp_path}/file is a file" in text
    monkeypatch.setattr(machine, "free_disk", lambda folder: 5_000_000)
    assert "5 MB are free -> make room" in only(machine.check_disk("", tmp_path), "warning")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder like /proc")
def test_a_folder_that_cannot_be_written_to_is_wrong():
    text = only(machine.check_disk("the cache", Path("/proc/paddlevid")), "wrong")
    assert "nothing can be written to /proc (" in text


# --- decoders -------------------------------------------------------------------------------------


class Broken:
    def __init__(self, path):
        pass

    def images(self, wanted):
        raise OSError("no decoder for it")

    def close(self):
        pass


class Shifted(Broken):
    def images(self, wanted):
        return ((number, np.full((48, 64, 3), 30 + 5 * number, np.uint8)) for number in wanted)


def test_all_decoders_work_here():
    assert found(machine.check_decoders(), "ok")[0].startswith("pyav reads H.264")
    assert len(found(machine.check_decoders(), "ok")) == len(video.BACKENDS) + 1


@pytest.mark.parametrize(
    ("backend", "reader", "level", "text"),
    [
        ("pyav", Broken, "wrong", "PyAV does not read H.264: cannot be decoded (pyav: no decoder"),
        ("pyav", Shifted, "wrong", "its frames differ from those written by"),
        ("opencv", Broken, "warning", "nothing stands in for PyAV: cannot be decoded (opencv: no"),
    ],
)
def test_a_decoder_that_fails_is_named(monkeypatch, backend, reader, level, text):
    monkeypatch.setitem(video.BACKENDS, backend, reader)
    assert text in only(machine.check_decoders(), level)


def test_a_build_of_ffmpeg_that_cannot_write_is_wrong(monkeypatch):
    def fail(path, frames):
        raise ValueError("no codec libx264")

    monkeypatch.setattr(encode, "write_mp4", fail)
    assert "videos were not tried: no codec libx264" in only(machine.check_decoders(), "wrong")


def test_an_opencv_that_does_not_read_jpegs_is_wrong(monkeypatch):
    monkeypatch.setattr("cv2.imdecode", lambda *words: None)
    assert "OpenCV does not read JPEGs" in only(machine.check_decoders(), "wrong")


# --- lists ----------------------------------------------------------------------------------------


@pytest.fixture
def config_of(tmp_path):
    """Writes lists, {section: lines}, and makes their files; -> the config that names them."""

    def write(lines, files=True, **model):
        sections = {"MODEL": {"name": "tsn_r18", "num_classes": 2, "format": "video", **model}}
        for section, names in lines.items():
            file = tmp_path / f"{section}.list"
            if isinstance(names, list):
                file.write_text("".join(f"{name}\n" for name in names))
                for name in names if files else []:
                    path = tmp_path / name.rpartition(" ")[0]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
            else:
                file = tmp_path / f"{names}.list"
            sections[section] = {"filelist": str(file)}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
        return load_config(tmp_path / "config.yaml")

    return write


TRAIN = ["a/0.avi 0", "a/1.avi 0", "b/0.avi 1", "b/1.avi 1"]
TEST = ["a/2.avi 0", "b/2.avi 1"]


def test_good_lists_are_good(config_of):
    config = config_of({"TRAIN": TRAIN, "VALID": TEST, "INFER": "VALID"})
    text = "\n".join(found(lists.check_lists(config), "ok"))
    assert "TRAIN: of 4 files none is missing" in text
    assert "VALID: 2 classes of 1 to 1 clips" in text
    assert "INFER.filelist: that of VALID" in text
    assert len(text.splitlines()) == len(list(lists.check_lists(config)))


def test_missing_files_are_counted_and_the_first_is_named(config_of, tmp_path):
    config = config_of({"TRAIN": TRAIN})
    (tmp_path / "b/0.avi").unlink()
    text = only(lists.check_lists(config), "wrong")
    assert (
        f"of 4 files 1 are missing, first {tmp_path}/b/0.avi ({tmp_path}/TRAIN.list, line 3)"
        in text
    )
    assert "more than TRAIN.max_bad_samples = 0.01 allows -> data_tools/check_videos.py" in text
    many = config_of({"TRAIN": [f"a/{n}.avi {n % 2}" for n in range(200)]})
    (tmp_path / "a/7.avi").unlink()
    assert "of 200 files 1 are missing" in only(lists.check_lists(many), "warning")


def test_when_all_files_are_missing_the_folder_is_named(config_of, tmp_path):
    config = config_of({"TRAIN": TRAIN}, files=False)
    text = only(lists.check_lists(config), "wrong")
    assert f"paths are relative to the list's folder, {tmp_path}" in text


def test_of_a_long_list_files_are_looked_for_at_random(config_of, tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "MOST_FILES", 50)
    config = config_of({"TRAIN": [f"a/{n}.avi {n % 2}" for n in range(500)]})
    text = "\n".join(found(lists.check_lists(config), "ok"))
    assert "TRAIN: of 50 files taken at random none is missing" in text
    for number in range(0, 500, 5):
        (tmp_path / f"a/{number}.avi").unlink()
    assert "of 50 files taken at random" in only(lists.check_lists(config), "wrong")


def test_a_list_of_a_million_lines_takes_seconds(config_of, monkeypatch):
    monkeypatch.setattr(lists, "MOST_LINES", 20_000)
    names = [f"{n % 400}/v_a_g{n % 25:02}_c{n:07}.avi {n % 400}" for n in range(1_000_000)]
    config = config_of({"TRAIN": names, "TEST": names[:10_000]}, files=False, num_classes=400)
    started = time.monotonic()
    findings = list(lists.check_lists(config))
    assert time.monotonic() - started < 60  # all lines would take more
    assert "1,000,000 clips; what follows is of 20,000 lines, taken at random" in "\n".join(
        found(findings, "ok")
    )
    assert any("TRAIN and TEST share " in text for text in found(findings, "wrong"))


def test_a_clip_that_is_in_a_list_twice_is_a_warning(config_of):
    config = config_of({"TRAIN": [*TRAIN, "b/../a/1.avi 0"]})
    text = only(lists.check_lists(config), "warning")
    assert "1 clips are in it more than once, first" in text and "line 2" in text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "b/9.avi 2",
            "1 labels are outside 0 .. 1, first 2 ({}, line 5) -> set MODEL.num_classes = 3",
        ),
        ("b/9.avi -1", "1 labels are outside 0 .. 1, first -1 ({}, line 5)"),
        ("b/9.avi ", "1 lines have no label, first {}, line 5 -> write `path label`"),
    ],
)
def test_labels_that_do_not_fit_are_wrong(config_of, tmp_path, line, text):
    config = config_of({"TRAIN": [*TRAIN, line]})
    assert text.format(tmp_path / "TRAIN.list") in only(lists.check_lists(config), "wrong")


def test_labels_inside_of_pickles_are_looked_at(config_of, tmp_path):
    config = config_of({"TRAIN": ["a/0.pkl ", "b/0.pkl "]}, format="pkl")
    for label, name in enumerate("ab"):
        (tmp_path / name / "0.pkl").write_bytes(pickle.dumps(("0", label, [b"x"])))
    said = found(lists.check_lists(config), "ok")
    assert "TRAIN: labels are in the .pkl files; 2 of these were opened" in "\n".join(said)
    assert "TRAIN: 2 classes of 1 to 1 clips" in said[-1]
    (tmp_path / "b" / "0.pkl").write_bytes(pickle.dumps(("0", 7, [b"x"])))
    assert "first 7 (" in only(lists.check_lists(config), "wrong")


def test_classes_without_clips_and_of_unlike_size_are_warnings(config_of):
    config = config_of({"TRAIN": TRAIN, "VALID": TEST[:1]}, num_classes=2)
    text = only(lists.check_lists(config), "warning")
    assert "VALID: 1 of 2 classes have no clip: labels 1 -> its figures say nothing" in text
    config = config_of({"TRAIN": TRAIN}, num_classes=3)
    assert "labels 2 -> add clips of them, or lower" in only(lists.check_lists(config), "warning")
    config = config_of({"TRAIN": [*TRAIN, *(f"a/{n}.avi 0" for n in range(2, 30))]})
    assert "set TRAIN.balance" in only(lists.check_lists(config), "warning")


def test_a_list_that_cannot_be_used_is_wrong(config_of, tmp_path):
    config = config_of({"TRAIN": TRAIN, "VALID": TEST})
    (tmp_path / "VALID.list").unlink()
    assert "VALID.filelist: there is no list file" in only(lists.check_lists(config), "wrong")
    config = config_of({"TRAIN": TRAIN}, format="pkl")
    assert "set MODEL.format = 'video'" in only(lists.check_lists(config), "wrong")


def test_one_list_for_two_sides(config_of):
    config = config_of({"TRAIN": TRAIN, "VALID": "TRAIN"})
    assert "VALID.filelist is that of TRAIN" in only(lists.check_lists(config), "wrong")
    config = config_of({"TRAIN": TRAIN, "VALID": TEST, "TEST": "VALID"})
    assert "TEST.filelist is that of VALID" in only(lists.check_lists(config), "warning")


def test_clips_on_two_sides_are_wrong(config_of):
    config = config_of({"TRAIN": TRAIN, "VALID": [*TEST, "b/1.avi 1"]})
    text = only(lists.check_lists(config), "wrong")
    assert "TRAIN and VALID share 1 clips, first" in text and "VALID.list, line 3" in text
    config = config_of({"TRAIN": TRAIN, "VALID": TEST, "TEST": ["b/3.avi 1", *TEST]})
    assert "VALID and TEST share 2 clips" in only(lists.check_lists(config), "warning")


@pytest.mark.parametrize(
    ("train", "test", "is_kin"),
    [
        ("Bowling/v_Bowling_g01_c01.avi", "Bowling/v_Bowling_g01_c02.avi", True),
        ("Bowling/v_Bowling_g01_c01.avi", "Bowling/v_Bowling_g02_c01.avi", False),
        ("all/v_Bowling_g01_c01.avi", "all/v_Archery_g01_c01.avi", False),
        ("all/v_Bowling_g01_c01.avi", "all/v_Bowling_g01_c02.avi", True),
        ("run/Film_run_f_cm_np1_fr_goo_1.avi", "run/Film_run_f_cm_np1_fr_goo_2.avi", True),
        ("run/Film_run_f_cm_np1_fr_goo_1.avi", "sit/Film_sit_f_cm_np1_fr_goo_2.avi", True),
        ("run/Film_run_f_cm_np1_fr_goo_1.avi", "run/Show_run_f_cm_np1_fr_goo_2.avi", False),
        ("train/run/1.avi", "test/run/1.avi", False),
    ],
)
def test_clips_of_one_source_on_two_sides_are_wrong(config_of, train, test, is_kin):
    config = config_of({"TRAIN": [f"{train} 0", "x.avi 1"], "TEST": [f"{test} 0", "y.avi 1"]})
    if is_kin:
        text = only(lists.check_lists(config), "wrong")
        assert "1 clips of TEST are cut from source videos that the other has" in text
    else:
        assert found(lists.check_lists(config), "wrong") == []


UCF101 = [f"{k}/v_{k}_g{n // 6 + 1:02}_c{n % 6:02}.avi {k}" for k in range(101) for n in range(132)]
HMDB51 = [f"k{k}/Film{n}_k{k}_f_cm_np1_fr_goo_0.avi {k}" for k in range(51) for n in range(100)]


@pytest.mark.parametrize(
    ("train", "test", "num_classes", "level", "text"),
    [
        (UCF101[:9000], UCF101[9000:13320], 101, "ok", "UCF101: 13,320 clips in all lists, as pub"),
        (
            UCF101[:9000],
            UCF101[9000:13000],
            101,
            "warning",
            "13,000 clips in all lists, but 13,320",
        ),
        (HMDB51[:3570], HMDB51[3570:], 51, "ok", "HMDB51: 5,100 clips in all lists, as an off"),
        (
            HMDB51[:3570],
            HMDB51[3570:-1],
            51,
            "warning",
            "but 6,766 are published (5,100 in a split)",
        ),
        (HMDB51[:3570], HMDB51[3570:-1], 52, "ok", None),
        (TRAIN, TEST, 101, "ok", None),
    ],
)
def test_the_totals_of_known_sets_are_compared(
    config_of, monkeypatch, train, test, num_classes, level, text
):
    monkeypatch.setattr(lists, "MOST_FILES", 1)
    config = config_of({"TRAIN": train, "TEST": test}, files=False, num_classes=num_classes)
    said = found(lists.check_lists(config), level)
    if text is None:
        assert not any("in all lists" in line for line in said)
    else:
        assert text in said[-1]


def test_made_up_digits_have_no_lists(tmp_path):
    text = "MODEL: {name: convlstm, task: predict, format: moving_mnist}"
    (tmp_path / "config.yaml").write_text(text)
    (finding,) = lists.check_lists(load_config(tmp_path / "config.yaml"))
    assert finding.level == "ok"


# --- training -------------------------------------------------------------------------------------

ROOM = 10**12


def examine_training(small_config, *overrides, room=ROOM):
    return list(training.check_training(load_config(small_config, overrides), room))


def test_a_batch_is_read_and_steps_are_made(small_config):
    findings = examine_training(small_config)
    said = "\n".join(found(findings, "ok"))
    assert "the first batch, 4 x 3 x 2 x 32 x 32, was read in" in said
    assert "the first step took" in said and "the loss is 0." in said
    assert "disk: a checkpoint takes" in said
    assert found(findings, "wrong") == []


def test_clips_that_cannot_be_read_stop_it(small_config, tmp_path):
    (tmp_path / "gone.list").write_text("x.pkl 0\ny.pkl 1\n")
    text = only(examine_training(small_config, f"TRAIN.filelist={tmp_path}/gone.list"), "wrong")
    assert (
        "BadSamplesError: 1 of 2 clips cannot be read" in text and "-> data_tools/check_v" in text
    )
    overrides = f"TRAIN.filelist={tmp_path}/gone.list", "TRAIN.max_bad_samples=1"
    text = only(examine_training(small_config, *overrides), "wrong")
    assert "none of the training clips can be read" in text and "x.pkl: does not exist" in text


def test_some_clips_that_cannot_be_read_are_a_warning(small_config, small_data, tmp_path):
    names = [small_data / line for line in (small_data / "train.list").read_text().split("\n")[:-1]]
    (tmp_path / "some.list").write_text("".join(f"{name}\n" for name in [*names, "gone.pkl"]))
    overrides = f"TRAIN.filelist={tmp_path}/some.list", "TRAIN.max_bad_samples=0.5"
    findings = examine_training(small_config, *overrides, "TRAIN.batch_size=9")
    assert "1 clips could not be read, first" in found(findings, "warning")[0]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError("no room"), "MemoryError: no room -> lower TRAIN.batch_size = 4"),
        (RuntimeError("ResourceExhaustedError: Out of memory error on GPU 0"), "raise TRAIN.accum"),
        (FloatingPointError("the loss became nan"), "the loss became nan -> look for clips"),
        (ValueError("(InvalidArgument) shapes"), "ValueError: (InvalidArgument) shapes -> change"),
    ],
)
def test_a_step_that_fails_is_explained(small_config, monkeypatch, error, text):
    def fail(*words):
        raise error

    monkeypatch.setattr(training, "train_step", fail)
    assert text in only(examine_training(small_config), "wrong")


def test_a_config_that_does_not_fit_its_classes_is_wrong(small_config):
    text = only(examine_training(small_config, "MODEL.num_classes=3"), "wrong")
    assert "names 2 classes, but MODEL.num_classes is 3" in text
    text = only(examine_training(small_config, "MODEL.arguments.depth=3"), "wrong")
    assert "depth" in text


def test_a_disk_without_room_for_the_checkpoints_is_wrong(small_config):
    (text,) = found(examine_training(small_config, room=1000), "wrong")
    assert "but 0 MB are free -> make room" in text


def test_little_memory_beside_training_is_a_warning(small_config, monkeypatch):
    monkeypatch.setattr(training, "free_memory", lambda: (5_000_000, 1 << 34))
    assert "5 MB are free -> lower TRAIN.batch_size" in found(
        examine_training(small_config), "warning"
    )[0]  # fmt: skip


def test_slow_reading_is_seen_and_more_workers_are_advised(small_config, monkeypatch):
    fetch = VideoDataset.fetch

    def slow(self, index, epoch=0):
        time.sleep(0.1)
        return fetch(self, index, epoch)

    monkeypatch.setattr(VideoDataset, "fetch", slow)
    monkeypatch.setattr(runtime, "usable_cores", lambda: 8)
    (text,) = found(examine_training(small_config), "warning")
    assert "with TRAIN.num_reader_threads = 0 -> set TRAIN.num_reader_threads = " in text


@pytest.mark.parametrize(
    ("waited", "computed", "workers", "cores", "level", "advice"),
    [
        (0.1, 0.9, 0, 4, "ok", ""),
        (0.3, 0.7, 0, 4, "ok", ""),
        (0.5, 0.5, 0, 4, "warning", "set TRAIN.num_reader_threads = 1"),
        (1.5, 0.5, 0, 4, "warning", "set TRAIN.num_reader_threads = 3"),
        (0.5, 0.5, 1, 4, "warning", "set TRAIN.num_reader_threads = 2"),
        (0.5, 0.5, 2, 8, "warning", "set TRAIN.num_reader_threads = 4"),
        (9.0, 1.0, 1, 4, "warning", "set TRAIN.num_reader_threads = 4; make reading cheaper"),
        (9.0, 1.0, 4, 4, "warning", "make reading cheaper"),
        (0.0, 1.0, 9, 4, "warning", "lower TRAIN.num_reader_threads to 4 or less"),
    ],
)
def test_the_advice_on_workers_follows_the_times(waited, computed, workers, cores, level, advice):
    finding = training.judge_waiting(waited, computed, workers, cores)
    assert finding.level == level
    assert finding.advice.startswith(advice) and bool(finding.advice) == bool(advice)
    assert f"waits {waited:.2f} s ({waited / (waited + computed):.0%})" in finding.text


# --- the page -------------------------------------------------------------------------------------


def test_a_good_config_gets_a_page_and_exit_code_0(small_config, tmp_path, capsys):
    words = ["--config", str(small_config), "--save_dir", str(tmp_path / "run")]
    code = doctor.main([*words, "-o", f"TEST.filelist={tmp_path / 'none'}", "-o", "TEST.filelist="])
    page = capsys.readouterr().out
    assert code == 0, page
    titles = [line for line in page.splitlines() if not line.startswith((" ", "?", "!"))]
    assert titles[:-1] == ["Libraries", "Paddle", "Threads", "Memory", "Disks", "Decoders",
                           "Config", "Lists", "Training"]  # fmt: skip
    assert titles[-1].startswith("Result: nothing is wrong, ")
    assert not (tmp_path / "run").exists()


def test_what_is_wrong_is_counted_and_gives_exit_code_1(small_config, capsys):
    code = doctor.main(["--config", str(small_config), "-o", "TRAIN.epochs=3"])
    page = capsys.readouterr().out
    assert code == 1
    assert "! wrong: -o TRAIN.epochs=3: [TRAIN] epochs = 3: unknown key; did you mean epoch" in page
    assert "    -> correct the config" in page
    assert page.splitlines()[-1].startswith("Result: 1 thing is wrong, ")
    assert "Lists" not in page


def test_without_paddle_all_else_is_examined(fake_paddle, small_config, capsys):
    fake_paddle("raise ModuleNotFoundError(\"No module named 'paddle'\")")
    assert doctor.main(["--config", str(small_config)]) == 1
    page = capsys.readouterr().out
    assert "! wrong: Paddle is not installed for" in page
    assert "TRAIN: of 8 files none is missing" in page
    assert "Training\n  not tried, as Paddle cannot be imported\nResult: 1 thing is wrong" in page


def test_a_check_that_breaks_off_is_a_finding_and_the_others_go_on(monkeypatch, capsys):
    def broken():
        raise ImportError("libfoo.so: no such file")

    monkeypatch.setattr(machine, "check_decoders", broken)
    monkeypatch.setattr(machine, "check_paddle", lambda: iter(()))
    assert doctor.main([]) == 1
    page = capsys.readouterr().out
    assert (
        "! wrong: this check broke off: ImportError: libfoo.so: no such file\n    -> mend" in page
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: there is no such file"),
        (["-o", "TRAIN.epoch=1"], "-o goes with --config"),
        (["--what"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        doctor.main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_page_names_the_settings_of_before_the_libraries(monkeypatch, capsys):
    monkeypatch.setattr(machine, "check_paddle", lambda: iter(()))
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    monkeypatch.setattr(
        machine, "check_libraries", lambda: os.environ.pop("MALLOC_ARENA_MAX") and iter(())
    )
    doctor.main([])
    assert "MALLOC_ARENA_MAX=3" in capsys.readouterr().out

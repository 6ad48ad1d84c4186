import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from conftest import write_video

import infer
import train
from paddlevid.config import load_config
from paddlevid.weights import read_weights

ROOT = Path(__file__).parents[1]


def run(*words):
    """train.main with these words: -> exit code"""
    return train.main([str(word) for word in words])


@pytest.fixture
def save_dir(tmp_path):
    return tmp_path / "run"


def test_a_run_leaves_weights_config_classes_figures_and_dashboards(small_config, save_dir, capsys):
    assert run("--config", small_config, "--save_dir", save_dir) == 0
    names = {path.name for path in save_dir.iterdir()}
    assert names == {
        "best.pdparams", "best.safetensors", "bad_samples.txt", "checkpoints", "classes.txt",
        "config.yaml", "metrics.csv", "vdl", ".lock",
    }  # fmt: skip
    assert (save_dir / "classes.txt").read_text() == "dark\nlight\n"
    out = capsys.readouterr().out
    assert "2 classes, 8 training clips, 4 validation clips" in out
    assert f"infer.py --weights {save_dir}/best.pdparams --split test\n" in out
    assert f"infer.py --weights {save_dir}/best.pdparams VIDEO\n" in out


def test_the_saved_config_is_the_whole_experiment(small_config, save_dir):
    run("--config", small_config, "--save_dir", save_dir, "-o", "TRAIN.momentum=0.8")
    again = load_config(save_dir / "config.yaml")
    wanted = load_config(small_config, ["TRAIN.momentum=0.8"])
    assert dataclasses.replace(again, notes=()) == dataclasses.replace(wanted, notes=())


def test_a_run_is_not_overwritten_unasked(small_config, save_dir, capsys):
    run("--config", small_config, "--save_dir", save_dir)
    before = (save_dir / "best.pdparams").read_bytes()
    assert run("--config", small_config, "--save_dir", save_dir, "--seed", "9") == 1
    assert "holds a run already: --resume goes on with it" in capsys.readouterr().err
    assert (save_dir / "best.pdparams").read_bytes() == before
    assert run("--config", small_config, "--save_dir", save_dir, "--seed", "9", "--overwrite") == 0
    assert (save_dir / "best.pdparams").read_bytes() != before


def test_a_resumed_run_goes_on_and_ends_like_a_straight_one(small_config, tmp_path):
    run("--config", small_config, "--save_dir", tmp_path / "straight", "--epoch", "3")
    run("--config", small_config, "--save_dir", tmp_path / "two", "--epoch", "2")
    assert (
        run("--config", small_config, "--save_dir", tmp_path / "two", "--epoch", 3, "--resume") == 0
    )
    straight, resumed = (
        sorted((tmp_path / name / "checkpoints").iterdir())[-1].name for name in ("straight", "two")
    )
    assert straight == resumed
    rows = [(tmp_path / name / "metrics.csv").read_text().split() for name in ("straight", "two")]
    figures = [[row for row in text if ",train," in row and row.count(",,") == 1] for text in rows]
    assert len(figures[0]) == 6 and figures[0] == figures[1]


def test_a_new_run_keeps_no_checkpoint_of_the_one_before(small_config, tmp_path):
    file = tmp_path / "run/checkpoints/step_00000000.ckpt"  # killed before its first step ended
    file.parent.mkdir(parents=True)
    file.touch()
    train.check_folder(tmp_path / "run", resume=False, overwrite=False)
    train.claim_folder(tmp_path / "run", load_config(small_config), resume=False)
    assert not file.exists()


HOLD = """
import pathlib, sys, time, train
with train.lock_run(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_in_which_a_run_is_at_work_is_left_alone(small_config, save_dir, capsys):
    file = save_dir / "checkpoints/step_00000000.ckpt"  # in its first epoch
    file.parent.mkdir(parents=True)
    file.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, save_dir], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        for more in ([], ["--overwrite"]):
            assert run("--config", small_config, "--save_dir", save_dir, *more) == 1
            assert "another train.py is at work there" in capsys.readouterr().err
        assert file.exists() and not (save_dir / "config.yaml").exists()
    finally:
        process.kill()
        process.communicate()
    assert run("--config", small_config, "--save_dir", save_dir) == 0
    assert not file.exists()


def test_a_resume_with_another_config_names_the_keys(small_config, save_dir, capsys):
    run("--config", small_config, "--save_dir", save_dir)
    again = ("--config", small_config, "--save_dir", save_dir, "--resume")
    assert run(*again, "-o", "TRAIN.momentum=0.5") == 1
    assert "TRAIN.momentum was 0.9, is 0.5" in capsys.readouterr().err


def test_a_resume_without_a_run_is_an_error(small_config, save_dir, capsys):
    assert run("--config", small_config, "--save_dir", save_dir, "--resume") == 1
    assert f"there is no run in {save_dir}" in capsys.readouterr().err


def test_pretrained_weights_are_the_start(small_config, tmp_path, capsys):
    run("--config", small_config, "--save_dir", tmp_path / "first")
    best = tmp_path / "first" / "best.pdparams"
    words = ("--config", small_config, "--pretrain", best, "-o", "TRAIN.learning_rate=0.0")
    assert run(*words, "--save_dir", tmp_path / "second") == 0
    first, second = (
        read_weights(tmp_path / n / "best.pdparams").arrays for n in ("first", "second")
    )
    assert (first["fc.weight"] == second["fc.weight"]).all()
    assert f"starts from {best}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "TRAIN.batch_sise=4"], "unknown key; did you mean batch_size?"),
        (["-o", "MODEL.num_classes=1"], "names 2 classes, but MODEL.num_classes is 1"),
        (["-o", "MODEL.name=tsn_r19"], "unknown model 'tsn_r19'; did you mean tsn_r18"),
        (["-o", "MODEL.arguments.drpout=0.5"], "tsn_r18 has no argument 'drpout'"),
        (["-o", "TRAIN.filelist=nowhere.list"], "there is no nowhere.list, which TRAIN.filelist"),
        (["-o", "MODEL.format=mp4"], "is not one of the video files that MODEL.format"),
        (["--device", "gpu:7"], "there is no such GPU"),
        (["--device", "tpu"], "needs cpu, gpu or gpu:NUMBER"),
        (["--amp", "--device", "cpu"], "needs a GPU"),
        (["--pretrain", "nowhere.pdparams"], "cannot read the weights nowhere.pdparams"),
    ],
)
def test_wrong_input_gets_one_readable_line(small_config, save_dir, capsys, words, message):
    assert run("--config", small_config, "--save_dir", save_dir, *words) == 1
    error = capsys.readouterr().err
    assert error.startswith("train.py: ") and message in error
    assert "Traceback" not in error
    assert not save_dir.exists()


@pytest.mark.parametrize("script", ["train", "infer"])
def test_help_waits_for_no_library_that_it_does_not_need(script):
    code = (
        f"import sys, {script}; print(*({{'paddle', 'matplotlib', 'sklearn'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_without_data_the_error_says_how_to_make_some(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--config", ROOT / "configs" / "tsn.txt") == 1
    error = capsys.readouterr().err
    assert "there is no ./data/hmdb_data_demo/train.list" in error
    assert "make demo" in error and "README.md" in error


def test_use_gpu_without_a_gpu_is_said_in_one_line(small_config, save_dir, capsys):
    run("--config", small_config, "--save_dir", save_dir, "--use_gpu", "true")
    assert "computing on" in capsys.readouterr().out.splitlines()[0]


def test_help_answers_without_paddle():
    code = (
        "import sys, train\ntry: train.main(['--help'])\n"
        "except SystemExit: print('paddle' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--config" in out and out.splitlines()[-1] == "False"


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_saves_and_says_how_to_go_on(small_config, save_dir):
    command = [sys.executable, ROOT / "train.py", "--config", small_config, "--save_dir", save_dir]
    process = subprocess.Popen(
        [*command, "--epoch", "10000", "-o", "TRAIN.num_reader_threads=1"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    metrics = save_dir / "metrics.csv"
    for _ in range(600):
        if metrics.exists() and len(metrics.read_text().splitlines()) > 5:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "go on: the same command, --resume added" in error
    assert "Traceback" not in error
    assert list((save_dir / "checkpoints").glob("*.ckpt"))
    config = yaml.safe_load((save_dir / "config.yaml").read_text())
    assert config["TRAIN"]["epoch"] == 10000


def test_a_full_disk_is_said_with_the_folder(small_config, save_dir, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("paddlevid.trainer.save_checkpoint", full)
    assert run("--config", small_config, "--save_dir", save_dir) == 1
    assert f"no space left on the disk of {save_dir}: make room" in capsys.readouterr().err


def test_data_names_a_folder_of_lists_and_an_explicit_list_comes_after_it(
    small_config, small_data, save_dir, tmp_path
):
    words = ("--config", small_config, "--data", small_data, "--save_dir", save_dir)
    other = small_data / "test.list"
    assert run(*words, "-o", f"VALID.filelist={other}", "-o", "TRAIN.filelist=") == 1
    assert run(*words, "-o", f"VALID.filelist={other}") == 0
    config = load_config(save_dir / "config.yaml")
    assert config.train.filelist == f"{small_data}/train.list"
    assert config.valid.filelist == str(other)
    assert config.infer.filelist == f"{small_data}/test.list"


def test_data_without_a_validation_list_trains_without_validation(
    small_config, small_data, save_dir, tmp_path, capsys
):
    folder = tmp_path / "lists"
    folder.mkdir()
    lines = [f"{small_data}/{line}" for line in (small_data / "train.list").read_text().split("\n")]
    (folder / "train.list").write_text("\n".join(lines[:-1]))
    assert run("--config", small_config, "--data", folder, "--save_dir", save_dir) == 0
    out = capsys.readouterr().out
    assert "no validation clips" in out and "no validation list, so these are the last" in out
    config = load_config(save_dir / "config.yaml")  # the config's own lists are of other data
    assert (config.valid.filelist, config.test.filelist, config.infer.filelist) == ("", "", "")
    assert "--split test" not in out


def test_data_with_lists_and_classes_sets_the_number_of_classes_and_the_format(
    small_config, small_data, save_dir
):
    words = ("--config", small_config, "--save_dir", save_dir)
    words += ("-o", "TRAIN.epoch=1")
    content = yaml.safe_load(small_config.read_text())
    content["MODEL"] |= {"num_classes": 7, "format": "mp4"}
    small_config.write_text(yaml.safe_dump(content))
    assert run(*words) == 1
    assert run(*words, "--data", small_data) == 0
    config = load_config(save_dir / "config.yaml")
    assert (config.model.num_classes, config.model.format) == (2, "pkl")


# --- a folder with a folder of videos for each class ----------------------------------------------

CLASSES = ("dark", "grey", "light 10")


@pytest.fixture
def class_folders(tmp_path, monkeypatch):
    """Class folders of ten short videos each; they are read in this process, which is faster."""
    monkeypatch.setattr("paddlevid.runtime.usable_cores", lambda: 1)
    for label, name in enumerate(CLASSES):
        for number in range(10):
            frames = np.full((4, 32, 40, 3), 40 + 80 * label + 2 * number, np.uint8)
            write_video(tmp_path / "videos" / name / f"clip {number}.avi", frames)
    return tmp_path / "videos"


def contents(folder):
    """What is in a folder, with its content."""
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_data_may_be_a_folder_of_class_folders_of_which_lists_are_made(
    small_config, class_folders, save_dir, capsys
):
    words = ("--config", small_config, "--data", class_folders, "--save_dir", save_dir)
    before = contents(class_folders)
    assert run(*words, "--epoch", 3) == 0
    out = capsys.readouterr().out
    assert f"making lists of {class_folders} in {save_dir}/lists" in out
    assert "3 classes, 24 training clips, 3 validation clips" in out
    config = load_config(save_dir / "config.yaml")
    assert (config.model.num_classes, config.model.format) == (3, "video")
    filelists = [getattr(config, name).filelist for name in ("train", "valid", "test", "infer")]
    names = ("train", "val", "test", "test")
    assert filelists == [f"{save_dir}/lists/{name}.list" for name in names]
    assert (save_dir / "lists" / "classes.txt").read_text().splitlines() == list(CLASSES)
    assert (save_dir / "classes.txt").read_text().splitlines() == list(CLASSES)
    assert contents(class_folders) == before  # nothing is written there

    # A resumed run keeps its lists, whatever has become of the folder.
    kept = contents(save_dir / "lists")
    write_video(class_folders / "grey" / "one more.avi", np.full((4, 32, 40, 3), 99, np.uint8))
    assert run(*words, "--epoch", 4, "--resume") == 0
    out = capsys.readouterr().out
    assert "resuming in epoch 4" in out and "making lists" not in out
    assert contents(save_dir / "lists") == kept

    # The weights and a video are all that a prediction needs, and --split all of an evaluation.
    weights = save_dir / "best.pdparams"
    assert infer.main(["--weights", str(weights), str(class_folders / "dark/clip 0.avi")]) == 0
    predicted = capsys.readouterr().out.splitlines()
    assert predicted[0] == str(class_folders / "dark/clip 0.avi")
    assert {line.split(maxsplit=1)[1] for line in predicted[1:]} == set(CLASSES)
    assert infer.main(["--weights", str(weights), "--split", "test"]) == 0
    assert "over 3 clips" in capsys.readouterr().out

    # A new run makes new ones.
    assert run(*words, "--epoch", 1, "--overwrite") == 0
    assert "3 classes, 25 training clips" in capsys.readouterr().out
    assert contents(save_dir / "lists") != kept


def test_data_of_an_existing_run_is_refused_before_anything_is_written(
    small_config, class_folders, save_dir, capsys
):
    save_dir.mkdir()
    (save_dir / "best.pdparams").write_bytes(b"precious")
    words = ("--config", small_config, "--data", class_folders, "--save_dir", save_dir)
    assert run(*words) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert [path.name for path in save_dir.iterdir()] == ["best.pdparams"]
    assert run(*words[:-1], save_dir.with_name("other"), "--resume") == 1
    assert "there is no run in" in capsys.readouterr().err
    assert not save_dir.with_name("other").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "TRAIN.batch_sise=4"], "unknown key; did you mean batch_size?"),
        (["-o", "TRAIN.ema=2"], "needs a number from 0 to below 1"),
        (["--config", "nowhere.txt"], "cannot read the config nowhere.txt"),
    ],
)
def test_a_wrong_config_is_said_before_the_class_folders_are_read(
    small_config, class_folders, save_dir, capsys, words, message
):
    start = ("--config", small_config, "--data", class_folders, "--save_dir", save_dir)
    assert run(*start, *words) == 1
    assert message in capsys.readouterr().err
    assert not save_dir.exists()


def test_a_config_without_a_number_of_classes_has_that_of_the_data(
    small_config, class_folders, save_dir
):
    content = yaml.safe_load(small_config.read_text())
    del content["MODEL"]["num_classes"]
    small_config.write_text(yaml.safe_dump(content))
    words = ("--config", small_config, "--save_dir", save_dir, "--epoch", 1)
    assert run(*words) == 1
    assert run(*words, "--data", class_folders) == 0
    assert load_config(save_dir / "config.yaml").model.num_classes == 3


def test_an_explicit_override_comes_after_what_class_folders_set(
    small_config, class_folders, save_dir, capsys
):
    words = ("--config", small_config, "--data", class_folders, "--save_dir", save_dir)
    assert run(*words, "-o", "MODEL.num_classes=5") == 1
    assert "names 3 classes, but MODEL.num_classes is 5" in capsys.readouterr().err
    assert run(*words, "-o", "MODEL.format=jpg") == 1
    assert "is not one of the folders of frames that MODEL.format" in capsys.readouterr().err
    assert run(*words, "-o", "VALID.filelist=", "-o", "TRAIN.epoch=1") == 0
    assert "3 classes, 24 training clips, no validation clips" in capsys.readouterr().out


def test_a_single_class_folder_is_an_error_that_names_it(
    small_config, class_folders, save_dir, capsys
):
    for name in CLASSES[1:]:
        for file in (class_folders / name).iterdir():
            file.unlink()
        (class_folders / name).rmdir()
    words = ("--config", small_config, "--data", class_folders, "--save_dir", save_dir)
    assert run(*words) == 1
    assert f"--data {class_folders}: needs two classes or more, got 1" in capsys.readouterr().err
    assert not (save_dir / "config.yaml").exists()


def test_class_folders_without_clips_are_an_error(small_config, save_dir, tmp_path, capsys):
    (tmp_path / "videos" / "walk").mkdir(parents=True)
    words = ("--config", small_config, "--data", tmp_path / "videos", "--save_dir", save_dir)
    assert run(*words) == 1
    assert f"the class folders of {tmp_path}/videos have no clips" in capsys.readouterr().err
    assert not save_dir.exists()


def test_a_folder_of_nothing_is_an_error_that_names_its_list(
    small_config, save_dir, tmp_path, capsys
):
    (tmp_path / "empty").mkdir()
    words = ("--config", small_config, "--data", tmp_path / "empty", "--save_dir", save_dir)
    assert run(*words) == 1
    assert f"there is no {tmp_path}/empty/train.list" in capsys.readouterr().err
    assert not save_dir.exists()


def test_videos_of_class_folders_that_cannot_be_read_are_left_out_and_named(
    small_config, class_folders, save_dir, capsys
):
    (class_folders / "grey" / "broken.avi").write_bytes(b"no video")
    words = ("--config", small_config, "--data", class_folders, "--save_dir", save_dir)
    assert run(*words, "--epoch", 1) == 0
    out = capsys.readouterr().out
    assert "1 clips cannot be read and are in no list" in out and "24 training clips" in out
    assert "grey/broken.avi\t" in (save_dir / "lists" / "bad_samples.txt").read_text()
    assert (save_dir / "bad_samples.txt").read_text() == ""  # of those in the lists


def test_weights_in_a_folder_without_a_config_are_not_overwritten(small_config, save_dir, capsys):
    save_dir.mkdir()
    (save_dir / "best.pdparams").write_bytes(b"precious")
    assert run("--config", small_config, "--save_dir", save_dir) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert (save_dir / "best.pdparams").read_bytes() == b"precious"


def test_a_run_that_failed_before_it_kept_anything_can_be_started_again(
    small_config, save_dir, tmp_path, capsys
):
    (tmp_path / "bad.list").write_text("gone.pkl\nlost.pkl\n")
    words = ("--config", small_config, "--save_dir", save_dir)
    assert run(*words, "-o", f"TRAIN.filelist={tmp_path}/bad.list") == 1
    assert "clips cannot be read" in capsys.readouterr().err
    assert len((save_dir / "bad_samples.txt").read_text().splitlines()) == 1
    assert run(*words) == 0


def test_overwriting_removes_the_evaluation_of_the_old_weights(small_config, save_dir):
    words = ("--config", small_config, "--save_dir", save_dir)
    run(*words)
    for name in ("metrics.json", "per_class.csv", "confusion_matrix.png", "mine.txt"):
        (save_dir / name).touch()
    assert run(*words, "--overwrite") == 0
    names = {path.name for path in save_dir.iterdir()}
    assert "mine.txt" in names
    assert not names & {"metrics.json", "per_class.csv", "confusion_matrix.png"}


def test_a_resume_with_other_clips_is_refused(small_config, small_data, save_dir, tmp_path, capsys):
    listed = tmp_path / "my.list"
    lines = (small_data / "train.list").read_text().splitlines()
    listed.write_text("".join(f"{small_data}/{line}\n" for line in lines))
    words = ("--config", small_config, "--save_dir", save_dir, "-o", f"TRAIN.filelist={listed}")
    assert run(*words) == 0
    listed.write_text("".join(f"{small_data}/{line}\n" for line in lines[:5]))
    assert run(*words, "--resume", "--epoch", 3) == 1
    error = capsys.readouterr().err
    assert "the training list had 8 clips" in error and "now has 5 clips" in error


def test_a_resume_with_a_damaged_config_is_one_line(small_config, save_dir, capsys):
    words = ("--config", small_config, "--save_dir", save_dir)
    run(*words)
    for text in ("", "MODEL: ["):
        (save_dir / "config.yaml").write_text(text)
        assert run(*words, "--resume") == 1
        assert f"train.py: {save_dir}/config.yaml: " in capsys.readouterr().err


def test_a_folder_that_is_a_file_is_refused(small_config, save_dir, capsys):
    save_dir.touch()
    assert run("--config", small_config, "--save_dir", save_dir) == 1
    assert "is a file: it needs a folder" in capsys.readouterr().err


def test_weights_to_start_from_do_not_go_with_a_resume(small_config, capsys):
    with pytest.raises(SystemExit):
        run("--config", small_config, "--resume", "--pretrain", "x.pdparams")
    assert "it does not go with --resume" in capsys.readouterr().err


# --- a trunk that is not trained ------------------------------------------------------------------

FROZEN = [
    "MODEL.name=movinet_a0",
    'MODEL.arguments={"stem": 8, "stages": "8: 24@15 / 16: 40@33", "head": 16, "dense": 12, '
    '"alpha": 0.5}',
    "TRAIN.freeze_trunk=True", "TRAIN.augment=False", "TRAIN.optimizer=adamw",
    "TRAIN.learning_rate=0.01", "TRAIN.balance=loss",
]  # fmt: skip


def run_frozen(small_config, folder, *more: str) -> int:
    words = [word for override in [*FROZEN, *more] for word in ("-o", override)]
    return train.main(["--config", str(small_config), "--save_dir", str(folder), *words])


@pytest.mark.parametrize(
    "name", [pytest.param("movinet_a0", marks=pytest.mark.slow), "movinet_a0_stream"]
)
def test_a_frozen_trunk_that_runs_once_gives_the_same_weights(small_config, tmp_path, name):
    reads = []
    for cached in (False, True):
        more = [f"MODEL.name={name}", f"TRAIN.cache_features={cached}", "TRAIN.epoch=4"]
        assert run_frozen(small_config, tmp_path / f"{cached}", *more) == 0
        reads.append(read_weights(tmp_path / f"{cached}" / "best.safetensors").arrays)
    for key, array in reads[0].items():
        np.testing.assert_allclose(array, reads[1][key], atol=1e-4, err_msg=key)
    start = read_weights(tmp_path / "True" / "best.safetensors").arrays
    assert run_frozen(small_config, tmp_path / "x", f"MODEL.name={name}", "TRAIN.epoch=1") == 0
    later = read_weights(tmp_path / "x" / "best.safetensors").arrays
    moved = {key for key in start if np.abs(start[key] - later[key]).max() > 1e-6}
    assert moved == {"fc.weight", "fc.bias", "fc.dense.weight", "fc.dense.bias"}


def test_a_resumed_run_keeps_the_features_of_its_own_trunk(small_config, tmp_path):
    start = ["TRAIN.seed=5", "TRAIN.epoch=1", "TRAIN.freeze_trunk=False"]
    assert run_frozen(small_config, tmp_path / "start", *start) == 0
    words = ["--config", str(small_config)]
    pretrain = ["--pretrain", str(tmp_path / "start/best.safetensors")]
    for override in [*FROZEN, "TRAIN.cache_features=True"]:
        words += ["-o", override]
    for folder, epochs in (("whole", [4]), ("halves", [2, 4])):
        for number, epoch in enumerate(epochs):
            more = ["--save_dir", str(tmp_path / folder), "--epoch", str(epoch)]
            assert train.main([*words, *more, *(["--resume"] if number else pretrain)]) == 0
    ours, theirs = (
        paddle.load(str(tmp_path / folder / "best.pdparams")) for folder in ("whole", "halves")
    )
    for name in ours:
        np.testing.assert_allclose(ours[name].numpy(), theirs[name].numpy(), atol=1e-4)
    first, last = (
        (tmp_path / folder / "metrics.csv").read_text().splitlines()[-2:]
        for folder in ("whole", "halves")
    )
    assert [line.split(",")[3][:6] for line in first] == [line.split(",")[3][:6] for line in last]


def test_a_frozen_trunk_sees_each_clip_once(small_config, tmp_path, monkeypatch):
    from paddlevid.models.movinet import MoViNet

    seen, features = [], MoViNet.features
    monkeypatch.setattr(
        MoViNet,
        "features",
        lambda self, clip: seen.append((clip.ndim, len(clip))) or features(self, clip),
    )
    assert run_frozen(small_config, tmp_path / "run", "TRAIN.cache_features=True") == 0
    data = load_config(small_config)
    lists = [Path(section.filelist).read_text() for section in (data.train, data.valid)]
    num_clips = sum(len(text.split("\n")) - 1 for text in lists)
    assert sum(length for ndim, length in seen if ndim == 5) == num_clips
    assert sum(length for ndim, length in seen if ndim == 2) == 2 * num_clips  # two epochs


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("TRAIN.freeze_trunk=False", "not movinet_a0 with freeze_trunk = False"),
        ("TRAIN.augment=True", "needs clips that stay the same"),
        ("TRAIN.mixup=0.5", "needs clips that stay the same"),
    ],
)
def test_features_that_cannot_be_kept_are_refused(
    small_config, tmp_path, override, message, capsys
):
    assert run_frozen(small_config, tmp_path / "x", "TRAIN.cache_features=True", override) == 1
    assert message in capsys.readouterr().err


def test_without_augmentation_the_clips_are_those_of_evaluation(small_config):
    from paddlevid import build

    overrides = ["TRAIN.augment=False", "TEST.batch_size=1000", "TRAIN.batch_size=1000"]
    config = load_config(small_config, overrides)
    with (
        build.build_train_loader(config, ["dark", "light"]) as training,
        build.build_test_loader(config, "train") as testing,
    ):
        first, second = next(training.batches(3)), next(testing.batches())
    order = np.argsort(first.indices)
    np.testing.assert_array_equal(first.clips[order], second.clips)

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

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
        "best.pdparams", "bad_samples.txt", "checkpoints", "classes.txt", "config.yaml",
        "metrics.csv", "vdl",
    }  # fmt: skip
    assert (save_dir / "classes.txt").read_text() == "dark\nlight\n"
    out = capsys.readouterr().out
    assert "2 classes, 8 training clips, 4 validation clips" in out
    assert f"infer.py --config {save_dir}/config.yaml --weights {save_dir}/best.pdparams" in out


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
    first, second = (read_weights(tmp_path / n / "best.pdparams") for n in ("first", "second"))
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
    assert "go on with the same command and --resume" in error
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

"""train.py and infer.py with a network that predicts frames, on digits and on the user's videos."""

import csv
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from conftest import write_video
from safetensors import safe_open

import infer
import train
from paddlevid import build
from paddlevid.config import load_config
from paddlevid.data.dataset import ListError

DIGITS = {
    "MODEL": {
        "name": "convlstm", "task": "predict", "format": "moving_mnist", "seg_num": 4,
        "num_future": 3, "moving_mnist": {"size": 24, "digit_size": 10},
        "arguments": {"hidden": 4, "num_layers": 1, "transfer_state": True, "head_bias": -2.0},
    },
    "TRAIN": {
        "num_sequences": 32, "epoch": 2, "batch_size": 8, "optimizer": "adamw",
        "learning_rate": 0.02, "picture_every": 4,
    },
    "VALID": {"num_sequences": 8, "batch_size": 8},
    "TEST": {"num_sequences": 10, "batch_size": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "digits.yaml"
    path.write_text(yaml.safe_dump(DIGITS))
    return path


@pytest.fixture(scope="module")
def run(config) -> Path:
    """The folder of a run on digits."""
    folder = config.parent / "run"
    assert train.main(["--config", str(config), "--save_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def videos(tmp_path) -> Path:
    """Four videos of a bar that moves, and one too short, in a folder without classes."""
    for number in range(5):
        frames = np.zeros((3 if number == 4 else 16, 36, 48, 3), np.uint8)
        for t, frame in enumerate(frames):
            frame[:, 2 * t + number : 2 * t + number + 6] = (200, 100, 50)
        write_video(tmp_path / "videos" / f"bar {number}.avi", frames)
    return tmp_path / "videos"


def num_parameters(run: Path) -> int:
    with safe_open(run / "best.safetensors", "numpy") as file:
        return sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118


def test_a_run_keeps_weights_figures_and_pictures_and_no_classes(run):
    names = {path.name for path in run.iterdir()}
    assert {"best.safetensors", "best.pdparams", "metrics.csv", "config.yaml"} <= names
    assert "classes.txt" not in names
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert pictures == {f"step{n:06}.{kind}" for n in (4, 8) for kind in ("png", "mp4")}
    with open(run / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val" and row["ssim"]]
    assert len(rows) == 2
    assert float(rows[1]["mse"]) < float(rows[0]["mse"]) < 0.2


def test_an_evaluation_compares_with_simple_predictors_step_by_step(run, capsys):
    assert infer.main(["--weights", str(run / "best.safetensors"), "--split", "test"]) == 0
    output = capsys.readouterr().out
    assert "last frame" in output
    assert "3 steps from 4 frames" in output
    figures = json.loads((run / "metrics.json").read_text())
    assert (figures["num_clips"], figures["num_bad"]) == (10, 0)
    assert set(figures["baselines"]) == {"last frame", "linear motion"}
    assert figures["mse"] == pytest.approx(figures["mse_per_pixel"] * 24 * 24)
    with open(run / "per_step.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["predictor"], row["step"]) for row in rows[:4]] == [
        ("network", "1"), ("network", "2"), ("network", "3"), ("last frame", "1"),
    ]  # fmt: skip
    mean = np.mean([float(row["ssim"]) for row in rows if row["predictor"] == "network"])
    assert mean == pytest.approx(figures["ssim"], abs=1e-5)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f'<b id="mse"><data value="{figures["mse"]}">' in page
    assert f"convlstm, {num_parameters(run):,} parameters" in page
    for name in ("per_step.png", "predictions.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")


def test_the_files_that_papers_test_on_are_read(run, tmp_path, capsys):
    sequences = np.random.default_rng(0).integers(0, 256, (9, 6, 24, 24)).astype(np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", sequences)
    words = ["--weights", str(run / "best.pdparams"), "--split", "test"]
    assert infer.main([*words, "-o", f"TEST.filelist={tmp_path}/mnist_test_seq.npy"]) == 0
    assert json.loads((run / "metrics.json").read_text())["num_clips"] == 6
    np.save(tmp_path / "short.npy", sequences[:5])
    assert infer.main([*words, "-o", f"TEST.filelist={tmp_path}/short.npy"]) == 1
    assert "short.npy: needs uint8 (T, N, H, W) with T at least 7" in capsys.readouterr().err


def test_frames_behind_the_end_of_videos_are_predicted(run, videos, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--weights", str(run / "best.safetensors"), "--save_dir", str(out), "--steps", "9"]
    page = tmp_path / "page.html"
    assert infer.main([*words, str(videos), "--report", str(page)]) == 1  # one is too short
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg") == 4 and "4 frames of the past and 9 predicted" in text
    assert text.count("<article") == 5 and "of 5; " not in text
    assert text.index("bar 3.avi</h3>") < text.index("bar 4.avi</h3>")  # the broken one
    error = capsys.readouterr().err
    assert "bar 4.avi: ValueError: it has 3 frames; 4 frames, every 1. one, need 4" in error
    assert "1 of 5 inputs could not be read" in error
    assert infer.main([*words, str(videos / "bar 0.avi"), "--report"]) == 0
    (out / "predictions.html").unlink()
    frames = np.load(out / "001_bar 0.npy")
    assert (frames.shape, frames.dtype) == ((9, 24, 24, 1), np.float32)
    assert 0 <= frames.min() < frames.max() <= 1
    assert len(list(out.iterdir())) == 12
    with av.open(str(out / "001_bar 0.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 4 + 9


def test_any_folder_of_videos_can_be_learned(config, videos, tmp_path, capsys):
    folder = tmp_path / "mine"
    words = ["--config", str(config), "--data", str(videos), "--save_dir", str(folder)]
    words += ["-o", "MODEL.fixed_size=[20,28]", "-o", "TRAIN.clips_per_video=4"]
    assert train.main(words) == 0
    assert "1 clips of fewer than 7 frames are in no list" in capsys.readouterr().out
    settings = load_config(folder / "config.yaml")
    assert (settings.model.format, settings.model.num_classes) == ("video", 0)
    with build.build_train_loader(settings, []) as loader:
        batch = next(loader.batches())
    assert batch.clips.shape[1:] == (3, 7, 20, 28)
    out = tmp_path / "out"
    video = videos / "bar 1.avi"
    predict = ["--weights", str(folder / "best.safetensors"), "--save_dir", str(out), str(video)]
    assert infer.main(predict) == 0
    assert np.load(out / "001_bar 1.npy").shape == (3, 20, 28, 3)


def test_pictures_of_runs_and_hidden_folders_are_not_learned(config, videos, tmp_path, capsys):
    for place in (".trash", "run/pictures"):
        (videos / place).mkdir(parents=True)
        for name in ("bar 0.avi", "bar 1.avi"):
            (videos / place / name).write_bytes((videos / name).read_bytes())
    (videos / "run/config.yaml").touch()
    (videos / "more").mkdir()
    (videos / "bar 3.avi").rename(videos / "more/bar 3.avi")
    folder = tmp_path / "mine"
    words = ["--config", str(config), "--data", str(videos), "--save_dir", str(folder)]
    assert train.main([*words, "-o", "MODEL.fixed_size=[20,28]", "--epoch", "1"]) == 0
    lines = [line for file in folder.glob("lists/*.list") for line in file.read_text().splitlines()]
    assert sorted(Path(line.rpartition(" ")[0]).name for line in lines) == [
        f"bar {i}.avi" for i in range(4)
    ]
    assert not [line for line in lines if "trash" in line or "run" in Path(line).parts]


def test_clips_that_are_all_too_short_are_refused_with_what_to_do(config, videos, tmp_path, capsys):
    words = ["--config", str(config), "--data", str(videos), "--save_dir", str(tmp_path / "mine")]
    assert train.main([*words, "-o", "MODEL.seg_num=40"]) == 1
    assert "has the 43 frames that past and future need: lower MODEL.seg_num" in (
        capsys.readouterr().err
    )


def test_the_training_list_is_evaluated_without_random_draws(config, videos, tmp_path):
    folder = tmp_path / "mine"
    words = ["--config", str(config), "--data", str(videos), "--save_dir", str(folder)]
    words += ["-o", "MODEL.fixed_size=[20,28]", "-o", "TRAIN.clips_per_video=4", "--epoch", "1"]
    assert train.main(words) == 0
    settings = load_config(folder / "config.yaml")
    loaders = [build.build_test_loader(settings, "train") for _ in range(2)]
    number = len((folder / "lists/train.list").read_text().splitlines())
    assert len(loaders[0].dataset) == number
    first, second = (np.concatenate([b.clips for b in loader.batches()]) for loader in loaders)
    np.testing.assert_array_equal(first, second)
    train_loader = build.build_train_loader(settings, [])
    assert len(train_loader.dataset) == 4 * number


def test_a_download_that_fails_says_what_else_there_is(config, tmp_path, monkeypatch, capsys):
    def fail(**_):
        raise RuntimeError("cannot reach it")

    monkeypatch.setattr(build.clips.paddle.vision.datasets, "MNIST", fail)
    words = ["--config", str(config), "--save_dir", str(tmp_path / "run")]
    words += ["-o", "MODEL.moving_mnist.digits=download"]
    assert train.main(words) == 1
    assert "MNIST cannot be downloaded (cannot reach it): name a folder" in capsys.readouterr().err


def test_steps_and_folder_count_for_evaluations_too(run, tmp_path):
    words = ["--weights", str(run / "best.pdparams"), "--split", "valid", "--steps", "5"]
    assert infer.main([*words, "--save_dir", str(tmp_path / "out")]) == 0
    rows = (tmp_path / "out/per_step_valid.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 5


def test_sections_have_sequences_of_their_own(config):
    settings = load_config(config)

    def first(split: str, *overrides: str) -> np.ndarray:
        loader = build.build_test_loader(load_config(config, overrides), split)
        return next(loader.batches()).clips[0]

    assert (first("valid") != first("test")).any()
    np.testing.assert_array_equal(first("valid"), first("valid", "TRAIN.seed=5"))
    train_loader = build.build_train_loader(settings, [])
    epochs = [next(train_loader.batches(epoch)).clips for epoch in (0, 1)]
    assert (epochs[0] != epochs[1]).any()


def test_digits_come_from_a_folder_with_mnists_files(config, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    for name in ("train-images-idx3-ubyte", "t10k-images.idx3-ubyte"):
        header = b"".join(n.to_bytes(4, "big") for n in (0x803, 5, 28, 28))
        (tmp_path / name).write_bytes(header + images.tobytes())
    digits = f"MODEL.moving_mnist={{'size': 32, 'digit_size': 28, 'digits': {str(tmp_path)!r}}}"
    loader = build.build_train_loader(load_config(config, [digits]), [])
    brightest = next(loader.batches()).clips.max()
    assert brightest == pytest.approx(images.max() / 255)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"x")
    with pytest.raises(ListError, match="train-images-idx3-ubyte"):
        build.build_train_loader(load_config(config, [digits]), [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stream", "0"], "--stream is for classifiers; convlstm predicts frames"),
        (["--crops", "3", "a.avi"], "--crops is for classifiers"),
        ([], "nothing to predict from: give INPUT, or --split"),
        (["nowhere.avi"], "nowhere.avi"),
    ],
)
def test_what_does_not_go_with_it_is_refused(run, words, message, capsys):
    assert infer.main(["--weights", str(run / "best.safetensors"), *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("MODEL.moving_mnist={'speed': 3}", "has no 'speed'; there are digits, motion, size"),
        (
            "MODEL.moving_mnist={'size': 12}",
            "digit_size = 28 and num_digits = 2: needs whole numbers",
        ),
        ("MODEL.moving_mnist={'digits': 'nowhere'}", "nowhere has none of train-images-idx3"),
        ("MODEL.moving_mnist={'size': 10, 'digit_size': 4}", "10x10 pixels: SSIM needs 11"),
        ("MODEL.arguments.patch_size=5", "frames of 24x24 pixels cannot be cut into patches"),
        (
            "MODEL.arguments={'peephole_height': 24, 'peephole_width': 20}",
            "peepholes are for 20x24",
        ),
        ("TRAIN.freeze_trunk=True", "TRAIN.freeze_trunk: convlstm has no classifier"),
    ],
)
def test_impossible_settings_are_named(config, tmp_path, override, message, capsys):
    words = ["--config", str(config), "--save_dir", str(tmp_path / "run"), "-o", override]
    assert train.main(words) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error

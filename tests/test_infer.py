import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from conftest import write_small_config, write_sounding_video, write_video
from safetensors.numpy import save_file

import infer
import train
from paddlevid.data.decode import DecodeError, count_frames, decode
from paddlevid.inference import predict as inference
from paddlevid.inference.evaluate import write_figures
from paddlevid.inference.output import columns
from paddlevid.metrics import Evaluation
from paddlevid.weights import read_weights

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trained(small_data, tmp_path_factory):
    """The folder of a short run on dark and light clips."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_small_config(folder / "small.yaml", small_data)
    words = ["--config", config, "--save_dir", folder / "run", "--epoch", "8", "--seed", "3"]
    assert train.main([str(word) for word in words]) == 0
    return folder / "run"


@pytest.fixture
def weights(trained, tmp_path):
    """The weights of that run, in a copy of its folder."""
    return shutil.copytree(trained, tmp_path / "run") / "best.pdparams"


@pytest.fixture
def run(small_config, weights):
    """infer.main with the config, the weights and these words: -> exit code"""
    return lambda *words: infer.main(
        ["--config", str(small_config), "--weights", str(weights), *map(str, words)]
    )


@pytest.fixture
def videos(tmp_path):
    """A folder with a dark and a light video, names with a space and Chinese characters."""
    for name, level in (("暗 clip.avi", 45), ("light clip.AVI", 205)):
        write_video(tmp_path / "videos" / name, np.full((9, 32, 40, 3), level, np.uint8))
    return tmp_path / "videos"


def rows_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_folder_of_videos_is_predicted_with_class_names(run, videos, tmp_path, capsys):
    output = tmp_path / "predictions.jsonl"
    assert run(videos, "--top-k", 1, "--output", output) == 0
    rows = rows_of(output)
    assert {Path(row["path"]).name: row["classes"] for row in rows} == {
        "暗 clip.avi": ["dark"],
        "light clip.AVI": ["light"],
    }
    assert all(0.5 < row["probabilities"][0] <= 1 for row in rows)
    assert "dark" in capsys.readouterr().out


def test_video_frames_and_pickles_of_a_clip_get_the_same_answer(run, small_data, tmp_path):
    from paddlevid.data.decode import read_pickled_clip

    clip = small_data / "clip 13.pkl"
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(read_pickled_clip(clip).frames, start=1):
        (folder / f"{number}.jpg").write_bytes(frame)
    listed = tmp_path / "some.txt"
    listed.write_text(f"{clip}\n")
    output = tmp_path / "p.jsonl"
    assert run(clip, folder, listed, "--output", output) == 0
    probabilities = [row["probabilities"] for row in rows_of(output)]
    assert len(probabilities) == 3
    assert probabilities[0] == probabilities[1] == probabilities[2]


def test_without_input_the_infer_list_is_predicted_beside_its_labels(run, tmp_path):
    output = tmp_path / "p.csv"
    assert run("--output", output) == 0
    with open(output, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["dark", "dark", "light", "light"]
    assert [row["class_1"] for row in rows] == ["dark", "dark", "light", "light"]
    assert float(rows[0]["probability_1"]) + float(rows[0]["probability_2"]) == pytest.approx(1)


def test_the_weights_and_a_video_are_all_it_needs(run, weights, videos, tmp_path, capsys):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert run(videos, "--output", one) == 0
    assert infer.main(["--weights", str(weights), str(videos), "--output", str(two)]) == 0
    assert rows_of(one) == rows_of(two)
    assert {row["classes"][0] for row in rows_of(two)} == {"dark", "light"}
    (video,) = videos.glob("light*")
    capsys.readouterr()
    assert infer.main(["--weights", str(weights), str(video)]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("  light")


def test_without_a_config_the_one_beside_the_weights_counts_and_overrides_apply(
    weights, videos, tmp_path
):
    def probabilities(*words):
        output = tmp_path / "p.jsonl"
        words = ("--weights", weights, *words, videos, "--output", output)
        assert infer.main([str(word) for word in words]) == 0
        return [row["probabilities"] for row in rows_of(output)]

    plain = probabilities()
    shifted = probabilities("-o", "MODEL.image_mean=[0.2, 0.2, 0.2]")
    assert shifted != plain
    saved = weights.parent / "config.yaml"
    config = yaml.safe_load(saved.read_text())
    config["MODEL"]["image_mean"] = [0.2, 0.2, 0.2]
    saved.write_text(yaml.safe_dump(config))
    assert probabilities() == shifted


def test_a_safetensors_alone_predicts_as_the_run_did(run, weights, videos, tmp_path, capsys):
    assert run(videos, "--output", tmp_path / "run.jsonl") == 0
    alone = tmp_path / "elsewhere" / "named anew.safetensors"
    alone.parent.mkdir()
    shutil.move(weights.parent / "best.safetensors", alone)
    shutil.rmtree(weights.parent)
    output = tmp_path / "alone.jsonl"
    assert infer.main(["--weights", str(alone), str(videos), "--output", str(output)]) == 0
    assert rows_of(output) == rows_of(tmp_path / "run.jsonl")
    assert {row["classes"][0] for row in rows_of(output)} == {"dark", "light"}
    assert [path.name for path in alone.parent.iterdir()] == [alone.name]


def test_a_safetensors_of_others_needs_a_config(weights, videos, tmp_path, capsys):
    foreign = tmp_path / "foreign.safetensors"
    save_file(read_weights(weights).arrays, foreign)
    assert infer.main(["--weights", str(foreign), str(videos)]) == 1
    assert "foreign.safetensors carries no config: give --config FILE" in capsys.readouterr().err
    config = str(weights.parent / "config.yaml")
    assert infer.main(["--config", config, "--weights", str(foreign), str(videos)]) == 0


def test_weights_of_pytorch_are_taken_with_a_config(weights, videos, tmp_path, capsys):
    arrays = {}
    for name, array in read_weights(weights).arrays.items():
        name = name.removeprefix("trunk.").replace("._mean", ".running_mean")
        name = name.replace("._variance", ".running_var")
        arrays[f"module.{name}"] = array.T if name == "fc.weight" else array
    np.savez(tmp_path / "theirs.npz", **arrays)
    config, output = str(weights.parent / "config.yaml"), tmp_path / "p.jsonl"
    words = ["--config", config, str(videos), "--output", str(output), "--weights"]
    assert infer.main([*words, str(weights)]) == 0
    expected = rows_of(output)
    assert infer.main([*words, str(tmp_path / "theirs.npz")]) == 0
    assert rows_of(output) == expected


def test_weights_without_a_config_beside_them_need_one(weights, small_config, tmp_path, capsys):
    alone = tmp_path / "alone" / "best.pdparams"
    alone.parent.mkdir()
    shutil.copy(weights, alone)
    with pytest.raises(SystemExit):
        infer.main(["--weights", str(alone), "a.avi"])
    message = f"there is no {alone.parent}/config.yaml beside the weights: give --config FILE"
    assert message in capsys.readouterr().err
    assert infer.main(["--weights", str(alone), "--config", str(small_config)]) == 0
    for wrong, message in ((alone.parent, "is a folder: name"), (alone / "x", "is no such file")):
        with pytest.raises(SystemExit):
            infer.main(["--weights", str(wrong), "a.avi"])
        assert message in capsys.readouterr().err


def test_a_broken_input_is_reported_beside_the_others(run, videos, tmp_path, capsys):
    (videos / "broken.mp4").write_bytes(b"not a video at all")
    output = tmp_path / "p.jsonl"
    assert run(videos, videos / "missing.avi", "--output", output) == 1
    rows = {Path(row["path"]).name: row for row in rows_of(output)}
    assert len(rows) == 4
    assert "cannot be decoded" in rows["broken.mp4"]["problem"]
    assert "does not exist" in rows["missing.avi"]["problem"]
    assert rows["light clip.AVI"]["classes"][0] == "light"
    assert "2 of 4 inputs could not be read" in capsys.readouterr().err


def test_all_inputs_broken_is_reported_too(run, tmp_path, capsys):
    assert run(tmp_path / "a.avi", tmp_path / "b.avi") == 1
    assert "2 of 2 inputs could not be read" in capsys.readouterr().err


def test_an_evaluation_writes_its_figures_beside_the_weights(run, weights, capsys):
    assert run("--split", "test") == 0
    metrics = json.loads((weights.parent / "metrics.json").read_text())
    assert metrics.keys() >= {"top1", "top5", "mean_class_accuracy", "num_clips", "num_bad"}
    assert (metrics["top1"], metrics["num_clips"], metrics["num_bad"]) == (1.0, 4, 0)
    with open(weights.parent / "confusion_matrix.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["label", "dark", "light"],
            ["dark", "2", "0"],
            ["light", "0", "2"],
        ]
    with open(weights.parent / "per_class.csv", newline="") as file:
        assert [row["clips"] for row in csv.DictReader(file)] == ["2", "2"]
    assert (weights.parent / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    page = (weights.parent / "report.html").read_text(encoding="utf-8")
    assert f'<b id="loss"><data value="{metrics["loss"]}">' in page
    assert page.count("data:image/jpeg") == 4 and "No mistakes; the least certain clips" in page
    assert "infer.py --config" in page and hashlib.sha256(weights.read_bytes()).hexdigest() in page
    assert "test: top-1 1.0000" in capsys.readouterr().out


def test_the_table_of_classes_is_in_line_in_any_alphabet(tmp_path, capsys):
    classes = ["走路", "walk", "右へ行く"]
    found = Evaluation(np.eye(3, dtype=np.float32), np.arange(3), np.arange(3), 0.5, 0)
    write_figures(tmp_path, "", found, found.summary(), classes)
    lines = capsys.readouterr().out.splitlines()
    assert {columns(line[: line.index("1.0000")]) for line in lines[1:]} == {8 + 2 + 5 + 2 + 2}
    assert columns(lines[0][: lines[0].index("accuracy")]) == 8 + 2 + 5 + 2


def test_the_other_splits_have_files_of_their_own(run, weights):
    assert run("--split", "train") == 0
    assert json.loads((weights.parent / "metrics_train.json").read_text())["num_clips"] == 8
    assert not (weights.parent / "metrics.json").exists()
    assert run("--split", "valid") == 0
    assert json.loads((weights.parent / "metrics_valid.json").read_text())["num_clips"] == 4
    assert (weights.parent / "report_train.html").exists()
    assert (weights.parent / "report_valid.html").exists()


def test_a_page_of_predictions_shows_each_input(run, weights, videos, tmp_path, capsys):
    assert run("--report", videos, tmp_path / "missing.avi") == 1  # an INPUT may be behind it
    page = (weights.parent / "predictions.html").read_text(encoding="utf-8")
    assert [name in page for name in ("暗 clip.avi", "light clip.AVI", "missing.avi")] == [True] * 3
    assert page.count("data:image/jpeg") == 2 and page.count("does not exist") == 2
    assert '<b id="num_inputs"><data value="3">' in page
    assert f"report: {weights.parent}/predictions.html" in capsys.readouterr().err
    own = tmp_path / "own.html"
    assert run("--split", "test", "--report", own) == 0
    assert own.exists() and not (weights.parent / "report.html").exists()


def test_bad_clips_of_a_list_are_counted_and_limited(run, weights, small_data, tmp_path, capsys):
    for name in ("clip 13.pkl", "clip 15.pkl"):
        shutil.copy(small_data / name, tmp_path)
    (tmp_path / "clip 14.pkl").write_bytes(b"junk")
    listed = tmp_path / "test.list"
    listed.write_text("clip 13.pkl\nclip 14.pkl\nclip 15.pkl\n")
    words = ("--split", "test", "-o", f"TEST.filelist={listed}")
    assert run(*words) == 1
    assert (
        "1 of 3 clips cannot be read, more than the share max_bad_samples"
        in capsys.readouterr().err
    )
    assert run(*words, "-o", "TRAIN.max_bad_samples=0.5") == 1
    metrics = json.loads((weights.parent / "metrics.json").read_text())
    assert (metrics["num_clips"], metrics["num_bad"]) == (2, 1)
    assert "left out: " in capsys.readouterr().err


def test_several_clips_and_crops_are_averaged(run, videos, tmp_path):
    rng = np.random.default_rng(0)
    noisy = write_video(
        videos / "noisy.avi", rng.integers(0, 256, (30, 40, 64, 3)).astype(np.uint8)
    )
    results = []
    for words in ((), ("--crops", 3), ("--crops", 10), ("--num-clips", 3)):
        output = tmp_path / "p.jsonl"
        assert run(noisy, *words, "--output", output) == 0
        results.append(tuple(rows_of(output)[0]["probabilities"]))
    assert len(set(results)) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["EMPTY"], "no video, .pkl, .npy or image files in this folder"),
        (["nowhere.list"], "nowhere.list: does not exist"),
        (["-o", "INFER.filelist=gone.list"], "gone.list: does not exist"),
        (["--weights", "nowhere.pdparams"], "cannot read the weights nowhere.pdparams"),
        (["-o", "MODEL.name=tsn_r34"], "missing"),
        (["-o", "INFER.filelist="], "nothing to predict"),
        (["--device", "gpu:9"], "there is no such GPU"),
        (["--report", "/proc/page.html", "a.avi"], "no file can be written there"),
        (["--trunk", "resnet50", "a.avi"], "--trunk is for INPUT and networks of features"),
    ],
)
def test_wrong_input_gets_one_readable_line(run, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    words = [str(tmp_path / "empty") if word == "EMPTY" else word for word in words]
    assert run(*words) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.avi", "--split", "test"], "give either INPUT or --split"),
        (["--output", "p.xml"], "needs a name that ends in .jsonl or .csv"),
        (["--output", "no/such/p.csv"], "there is no folder no/such"),
        (["--report", "no/such/p.html"], "--report no/such/p.html: there is no folder no/such"),
        (["--stream", "0", "--report"], "--trunk, --explain, --fuse nor --report"),
        (["--split", "test", "--output", "p.csv"], "--output is for predictions"),
        (["--explain-class", ""], "--explain-class is for --explain"),
        (["--fuse", "LICENSE", "a"], "beside the weights: put the one it was trained with"),
        (["--top-k", "0"], "needs a whole number from 1 up"),
        (["--num-clips", "0"], "needs a whole number from 1 up"),
    ],
)
def test_wrong_flags_are_refused(run, capsys, words, message):
    try:
        code = run(*words)
    except SystemExit as ended:
        code = ended.code
    assert code in (1, 2)
    assert message in capsys.readouterr().err


def test_help_answers_without_paddle():
    code = (
        "import sys, infer\ntry: infer.main(['--help'])\n"
        "except SystemExit: print('paddle' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--weights" in out and out.splitlines()[-1] == "False"


def test_inputs_that_are_nothing_do_not_stop_the_others(run, videos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", videos, tmp_path / "nothing") == 1
    output = capsys.readouterr()
    assert output.out.count("light") >= 2
    assert "no video, .pkl, .npy or image files" in output.err
    assert "nothing: does not exist" in output.err
    assert "2 of 4 inputs could not be read" in output.err


def test_weights_of_nan_say_nothing(run, videos, weights, capsys):
    state = {name: array.copy() for name, array in read_weights(weights).arrays.items()}
    next(array for name, array in state.items() if name.startswith("fc."))[...] = np.nan
    save_file(state, weights.with_name("nan.safetensors"))
    for words in ((videos,), ("--split", "test")):
        named = ("--weights", weights.with_name("nan.safetensors"), "--engine", "eager")
        assert run(*words, *named) == 1
        assert "TSN said nan: its weights may be damaged" in capsys.readouterr().err


def test_a_name_that_is_as_long_as_can_be_is_cut_in_names_of_files(run, videos, tmp_path):
    long = videos / f"{'暗' * 83}.avi"
    shutil.copy(next(videos.glob("light*")), long)
    out = tmp_path / "drawn"
    assert run(long, "--save-video", out, "--explain", out) == 0
    names = sorted(path.name for path in out.glob("001_*"))
    assert [name.rpartition("暗")[2] for name in names] == [".mp4", "_heat.mp4", "_heat.png"]


def test_predictions_are_in_the_file_as_soon_as_they_are_made(run, videos, tmp_path, monkeypatch):
    output = tmp_path / "p.jsonl"
    lines = []
    words = inference.in_words

    def look(*arguments):
        lines.append(len(output.read_text().splitlines()))
        return words(*arguments)

    monkeypatch.setattr(inference, "in_words", look)
    assert run(videos, "--output", output) == 0
    assert lines == [0, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_are_predicted_too(run, videos, tmp_path):
    source = os.fsencode(next(videos.glob("light*")))
    shutil.copy(source, os.fsencode(tmp_path / "x") + "跑.avi".encode("gbk"))
    (name,) = tmp_path.glob("x*.avi")
    output = tmp_path / "p.jsonl"
    assert run(name, "--output", output) == 0
    assert rows_of(output)[0]["classes"][0] == "light"


def test_videos_are_written_with_what_is_said_and_broken_ones_named(
    run, videos, small_data, tmp_path, capsys
):
    (videos / "broken.mp4").write_bytes(b"not a video at all")
    out = tmp_path / "drawn"
    assert run(videos, small_data / "clip 13.pkl", "--save-video", out, "--top-k", 1) == 1
    names = ["001_light clip.mp4", "002_暗 clip.mp4", "003_clip 13.mp4"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [count_frames(out / name) for name in names] == [9, 9, 6]
    first = decode(out / names[0], np.arange(1))[0].astype(int)
    assert first.shape == (256, 320, 3)  # 32x40, enlarged
    assert abs(first[150:] - 205).mean() < 6 and first[8, 8].max() < 190
    assert "1 of 4 inputs could not be read" in capsys.readouterr().err


def test_explanations_are_written_for_the_class_that_is_asked_for(
    run, videos, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "why"
    assert run(videos, "--explain", out) == 0
    assert "runs the network eagerly, whatever --engine says" in capsys.readouterr().err
    names = ["001_light clip_heat.png", "002_暗 clip_heat.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    likely = [(out / name).read_bytes() for name in names]
    words = ("--explain", out, "--explain-class", "dark", "--save-video", tmp_path / "drawn")
    assert run(videos, *words) == 0
    light, dark = ((out / name).read_bytes() for name in names)
    assert light != likely[0] and dark == likely[1]
    assert count_frames(out / "001_light clip_heat.mp4") == 2

    for more, message in (
        (("--explain-class", "drak"), "there is no class 'drak'; did you mean dark?"),
        (("--crops", 3), "--explain is of one view of a clip: set crops and num_clips to 1"),
    ):
        assert run(videos, "--explain", out, *more) == 1
        assert message in capsys.readouterr().err

    def fail(clip, *_):
        raise DecodeError(f"{clip}: cannot be decoded to its end (damaged)")

    monkeypatch.setattr(inference, "annotate_clip", fail)  # behind the frames that were seen
    assert run(videos, "--save-video", tmp_path / "drawn") == 1
    error = capsys.readouterr().err
    assert "no video is written: " in error and "to its end (damaged)" in error
    assert "2 of 2 videos could not be written" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "test", "--save-video", "x"], "--save-video and --explain are for"),
        (["--split", "test", "--explain", "x"], "--save-video and --explain are for predictions"),
        (["a.avi", "--save-video", __file__], "test_infer.py is a file: it needs a folder"),
        (["a.avi", "--explain", __file__], "test_infer.py is a file: it needs a folder"),
        (["a.avi", "--explain-class", "dark"], "--explain-class is for --explain"),
        (["--stream", "0", "--explain", "x"], "--trunk, --explain, --fuse nor --report"),
    ],
)
def test_wrong_flags_for_pictures_are_refused_before_anything_is_read(words, message, capsys):
    with pytest.raises(SystemExit):
        infer.parse_args(["--weights", "nowhere.safetensors", *words])
    assert message in capsys.readouterr().err


# --- streams --------------------------------------------------------------------------------------


def test_streams_of_several_videos_are_predicted_side_by_side(run, videos, tmp_path, capsys):
    output = tmp_path / "lines.jsonl"
    names = sorted(str(path) for path in videos.iterdir())
    words = ["--stream", *names, "--every", 2, "--top-k", 1, "--output", output]
    assert run(*words) == 0
    rows = rows_of(output)
    assert {row["input"] for row in rows} == set(names)
    for row in rows:
        assert row["classes"] == ["dark" if "暗" in row["input"] else "light"]
        assert row["seconds"] == pytest.approx(row["frame"] / 25, abs=0.01)
        assert 0.5 < row["smoothed"][0] <= 1 and row["dropped"] == 0
    frames = [row["frame"] for row in rows if "暗" in row["input"]]
    assert frames == sorted(frames) and len(frames) >= 2
    assert capsys.readouterr().err.count("9 frames, 0 dropped") == 2


def test_a_stream_that_breaks_off_is_an_exit_code(run, tmp_path, capsys):
    (tmp_path / "broken.avi").write_bytes(b"nothing")
    assert run("--stream", tmp_path / "broken.avi") == 1
    assert "broken.avi: 0 frames, 0 dropped; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stream"], "--stream needs INPUT"),
        (["--stream", "0", "--memory", "9"], "--memory is for a movinet_*_stream, not tsn_r18"),
        (["--stream", "nix.mp4"], "--stream nix.mp4: there is no such file"),
        (["--stream", "0", "--split", "test"], "--stream needs INPUT, and neither --split"),
        (["x.avi", "--every", "2"], "--smooth and --memory are for --stream"),
        (["--stream", "0", "--output", "x.csv"], "--stream needs a name that ends in .jsonl"),
        (["--stream", "0", "--smooth", "1"], "needs a number from 0 to below 1, not '1'"),
    ],
)
def test_wrong_words_for_a_stream_get_one_line(run, words, message, capsys):
    try:
        assert run(*words) == 1
    except SystemExit as ended:
        assert ended.code == 2
    assert message in capsys.readouterr().err


def test_the_flags_of_a_stream_change_what_is_said(run, videos, tmp_path):
    def lines(*words: object) -> list[dict]:
        output = tmp_path / "lines.jsonl"
        assert run("--stream", videos / "暗 clip.avi", "--output", output, *words) == 0
        return rows_of(output)

    plain = lines("--every", 3)
    assert [row["frame"] for row in plain] == [2, 5, 8]
    assert [row["frame"] for row in lines("--every", 2)] == [1, 3, 5, 7]
    assert [row["frame"] for row in lines("--every", 1, "--stride", 3)] == [3, 6]
    assert all(row["smoothed"] == row["probabilities"] for row in lines("--smooth", 0))


def test_streams_are_written_as_videos_with_all_their_frames(run, videos, tmp_path, capsys):
    sounding = write_sounding_video(tmp_path / "tone.mp4", num_frames=20, size=(240, 320))
    (tmp_path / "broken.avi").write_bytes(b"nothing")
    names = [*sorted(map(str, videos.iterdir())), str(sounding), str(tmp_path / "broken.avi")]
    words = ["--every", 2, "--stride", 2, "--save-video", tmp_path / "drawn"]
    assert run("--stream", *names, *words, "--output", tmp_path / "with.jsonl") == 1
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in drawn] == ["001_light clip.mp4", "002_暗 clip.mp4",
                                             "003_tone.mp4"]  # fmt: skip
    assert [count_frames(path) for path in drawn] == [9, 9, 20]
    with av.open(str(drawn[2])) as container:
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(0.8, abs=0.05)
    shown, plain = decode(drawn[2], np.arange(20)), decode(sounding, np.arange(20))
    difference = np.abs(shown.astype(int) - plain).mean(axis=(1, 2, 3))
    # Of two segments, frames 0 and 2, and every second look is a row: from frame 2 on
    assert difference[:2].max() < 3 < difference[2:].min()
    error = capsys.readouterr().err
    assert f"20 frames in {drawn[2]}" in error and "broken.avi: 0 frames" in error
    assert run("--stream", *names, *words[:4], "--output", tmp_path / "without.jsonl") == 1

    def said(file):
        return sorted(map(str, rows_of(tmp_path / file)))

    assert said("with.jsonl") == said("without.jsonl")

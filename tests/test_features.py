"""Features: the files, their manifest, and the extraction from videos."""

import csv
import json
import os
import pickle
import re
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
import yaml
from conftest import frames_of, write_video

import infer
import train
from data_tools import extract_features
from paddlevid import build, features
from paddlevid.config import ConfigError, load_config
from paddlevid.data.dataset import ListError, Sample
from paddlevid.data.decode import decode
from paddlevid.data.features import FeatureDataset, Manifest, read_features, read_manifest
from paddlevid.data.loader import Loader
from paddlevid.data.sample import FrameSampler
from paddlevid.features import Clip, Extractor, Trunk, extract, load_trunk
from paddlevid.layers.trunks import create_resnet, create_trunk
from paddlevid.models import create_model
from paddlevid.weights import WeightsError, describe, write_weights

MANIFEST = Manifest(
    "tsn_r18", "ab" * 32, "uniform:3", (36, 48), (0.5,) * 3, (0.25,) * 3, 2, 256, "float32"
)


# --- files and manifest ---------------------------------------------------------------------------


def test_a_manifest_comes_back_the_same(tmp_path):
    (tmp_path / "features.json").write_text(json.dumps(MANIFEST.to_dict() | {"later": 1}))
    assert read_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"trunk": "a"}', "3"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "features.json").write_text(text)
    with pytest.raises(ListError, match="features.json is damaged: "):
        read_manifest(tmp_path)


def test_a_missing_manifest_says_who_writes_one(tmp_path):
    with pytest.raises(ListError, match=r"there is no .*features.json: .*extract_features\.py"):
        read_manifest(tmp_path)


def test_differences_name_the_field_and_both_values():
    assert MANIFEST.differences({"grid": 2, "mean": (0.5, 0.5, 0.5), "size": [36, 48]}) == []
    assert MANIFEST.differences({"grid": 1, "std": (0.25, 0.25, 0.3)}) == [
        "grid is 2, the config wants 1",
        "std is [0.25, 0.25, 0.25], the config wants (0.25, 0.25, 0.3)",
    ]


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((3, 5), np.float32), "needs floats of shape (T, 4), has float32 (3, 5)"),
        (np.zeros(4, np.float32), "has float32 (4,)"),
        (np.zeros((0, 4), np.float32), "has float32 (0, 4)"),
        (np.zeros((3, 4), np.int64), "has int64 (3, 4)"),
        (np.full((3, 4), np.nan, np.float32), "has numbers that are not finite"),
        (np.array([{}]), "Object arrays cannot be loaded"),
    ],
)
def test_what_is_no_features_is_a_bad_sample(tmp_path, array, problem):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    item = FeatureDataset([Sample(tmp_path / "a.npy", 0)], 4).fetch(0)
    assert item.views is None
    assert item.problem.startswith(f"{tmp_path / 'a.npy'}: ")
    assert problem in item.problem


def test_missing_and_cut_off_files_are_bad_samples(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((50, 4), np.float32))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-10])
    samples = [Sample(tmp_path / "a.npy", 0), Sample(tmp_path / "no.npy", 0)]
    items = [FeatureDataset(samples, 4).fetch(i) for i in (0, 1)]
    assert [item.views for item in items] == [None, None]
    assert "No such file" in items[1].problem


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_clips_of_unlike_length_are_padded_with_zeros(tmp_path, dtype):
    arrays = [np.random.default_rng(n).normal(size=(n, 4)).astype(dtype) for n in (3, 5, 1)]
    samples = []
    for number, array in enumerate(arrays):
        np.save(tmp_path / f"{number}.npy", array)
        samples.append(Sample(tmp_path / f"{number}.npy", number))
    with Loader(FeatureDataset(samples, 4, 3), 3) as loader:
        (batch,) = loader.batches()
    assert batch.clips.shape == (3, 5, 4)
    assert batch.clips.dtype == np.float32
    for got, array in zip(batch.clips, arrays, strict=True):
        np.testing.assert_array_equal(got[: len(array)], array.astype(np.float32))
        assert (got[len(array) :] == 0).all()
    assert batch.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("label", [None, 3, -1])
def test_a_label_that_does_not_fit_is_the_lists_fault(label):
    sample = Sample(Path("a.npy"), label, "x.list, line 2")
    with pytest.raises(ListError, match="x.list, line 2: needs `path label` with a label from 0 t"):
        FeatureDataset([sample], 4, 3)


# --- extraction -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    paddle.seed(0)
    network = create_resnet(18, width=8)
    network.eval()
    return Extractor(Trunk("resnet", network, "0" * 64, (36, 48), (0.4,) * 3, (0.2,) * 3), grid=2)


def eager(extractor: Extractor, frames: np.ndarray) -> np.ndarray:
    images = np.stack([cv2.resize(frame, (48, 36)) for frame in frames]).astype(np.float32)
    pictures = ((images / 255 - 0.4) / 0.2).transpose(0, 3, 1, 2)
    with paddle.no_grad():
        maps = extractor.trunk.network(paddle.to_tensor(pictures.astype(np.float32)))
        return paddle.nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1).numpy()


def videos(folder: Path, lengths: list[int]) -> list[Clip]:
    clips = []
    for number, length in enumerate(lengths):
        path = folder / f"{number}.avi"
        write_video(path, frames_of(length, seed=number))
        clips.append(Clip(Sample(path, 0), folder / "out" / f"{number}.npy"))
    return clips


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_features_are_those_of_the_network_whatever_the_batch(tmp_path, extractor, batch_size):
    clips = videos(tmp_path, [5, 1, 9, 12, 3])
    sampler = FrameSampler("every", 2)
    done = list(extract(clips, extractor, sampler, batch_size=batch_size))
    assert done == [(clip, "") for clip in clips]
    for clip, length in zip(clips, [5, 1, 9, 12, 3], strict=True):
        got = read_features(clip.target, extractor.num_features)
        expected = eager(extractor, decode(clip.sample.path, np.arange(0, length, 2)))
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_frames_that_are_chosen_twice_come_twice(tmp_path, extractor):
    (clip,) = videos(tmp_path, [3])
    list(extract([clip], extractor, FrameSampler("uniform", 5)))
    got = read_features(clip.target, extractor.num_features)
    np.testing.assert_allclose(got[0], got[1], atol=1e-4 * np.abs(got).max())
    assert len(got) == 5


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_a_broken_clip_is_told_beside_the_others(tmp_path, extractor, batch_size):
    clips = videos(tmp_path, [4, 6, 5])
    clips[1].sample.path.write_bytes(b"not a video")
    clips.append(Clip(Sample(tmp_path / "no.avi", 0), tmp_path / "out" / "no.npy"))
    sampler = FrameSampler("every", 1)
    done = {c.target.name: p for c, p in extract(clips, extractor, sampler, batch_size=batch_size)}
    assert [name for name, problem in done.items() if not problem] == ["0.npy", "2.npy"]
    assert "cannot be decoded" in done["1.npy"]
    assert "does not exist" in done["no.npy"]
    assert sorted(os.listdir(tmp_path / "out")) == ["0.npy", "2.npy"]
    expected = eager(extractor, decode(clips[2].sample.path, np.arange(5)))
    got = read_features(clips[2].target, extractor.num_features)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_leaving_early_leaves_no_thread_and_no_half_file(tmp_path, extractor):
    before = threading.active_count()
    clips = videos(tmp_path, [90, 90, 90])
    for _ in extract(clips, extractor, FrameSampler("every", 1), batch_size=8):
        break
    assert threading.active_count() == before
    assert os.listdir(tmp_path / "out") == ["0.npy"]


def test_half_precision_is_half_as_large(tmp_path, extractor):
    (clip,) = videos(tmp_path, [4])
    list(extract([clip], extractor, FrameSampler("every", 1), dtype="float16"))
    assert np.load(clip.target).dtype == np.float16
    assert read_features(clip.target, extractor.num_features).dtype == np.float32


@pytest.mark.parametrize(("dtype", "value"), [("float32", np.nan), ("float16", 1e6)])
def test_features_that_are_not_finite_make_a_bad_clip(
    tmp_path, extractor, monkeypatch, dtype, value
):
    clips = videos(tmp_path, [4, 3])
    predictor = extractor._predictor

    def broken(frames):
        rows = predictor(frames)[0]
        rows[:4, 0] = value
        return [rows]

    monkeypatch.setattr(extractor, "_predictor", broken)
    (_, problem), (_, none) = extract(clips, extractor, FrameSampler("every", 1), dtype=dtype)
    assert f"0.avi: its features have numbers that are not finite in {dtype}" in problem
    assert none == ""
    assert os.listdir(tmp_path / "out") == ["1.npy"]


@pytest.mark.parametrize(
    ("name", "size", "smallest"),
    [("inception_v3", (32, 32), 75), ("inception_v3", (299, 74), 75), ("vgg16", (31, 224), 32)],
)
def test_frames_that_leave_a_trunk_no_map_are_refused(name, size, smallest):
    trunk = Trunk(name, create_trunk(name), "", size, (0.5,) * 3, (0.5,) * 3)
    height, width = size
    needed = f"frames of {height} x {width} .* {name}: give --size H W of {smallest} x {smallest}"
    with pytest.raises(ValueError, match=needed):
        Extractor(trunk)
    smaller = replace(trunk, size=(smallest, smallest))
    frames = np.zeros((1, smallest, smallest, 3), np.uint8)
    assert np.isfinite(Extractor(smaller, engine="eager")(frames)).all()


# --- trunks ---------------------------------------------------------------------------------------


def test_a_published_trunk_is_downloaded_or_read(tmp_path, monkeypatch):
    network = create_trunk("resnet18")
    paddle.save(network.state_dict(), str(tmp_path / "resnet18.pdparams"))
    monkeypatch.setattr(features, "download", lambda url, md5: str(tmp_path / "resnet18.pdparams"))
    downloaded = load_trunk("resnet18")
    given = load_trunk("resnet18", tmp_path / "resnet18.pdparams")
    assert (downloaded.size, downloaded.mean) == ((224, 224), (0.485, 0.456, 0.406))
    assert downloaded.weights == given.weights
    assert re.fullmatch("[0-9a-f]{64}", given.weights)
    for name, tensor in given.network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), network.state_dict()[name].numpy())


def test_a_network_without_a_trunk_is_refused(tmp_path):
    model = create_model("eco_lite", num_classes=2, width=8)
    config = {"MODEL": {"name": "eco_lite", "num_classes": 2, "arguments": {"width": 8}}}
    write_weights(tmp_path / "eco.safetensors", model, describe(config, []))
    with pytest.raises(WeightsError, match="is of eco_lite, which has no trunk for frames"):
        load_trunk(str(tmp_path / "eco.safetensors"))
    with pytest.raises(WeightsError, match="vgg19 is no trunk: needs one of vgg16, inception_v3"):
        load_trunk("vgg19")


# --- the tool, training on what it writes, and prediction -----------------------------------------


@pytest.fixture(scope="module")
def tsn(tmp_path_factory) -> Path:
    """Weights of a narrow TSN for frames of 36x36."""
    paddle.seed(1)
    model = create_model("tsn_r18", num_classes=2, width=8)
    config = {"MODEL": {"name": "tsn_r18", "num_classes": 2, "arguments": {"width": 8},
                        "fixed_size": [36, 36]},
              "INFER": {"short_size": 36, "target_size": 36}}  # fmt: skip
    path = tmp_path_factory.mktemp("tsn") / "best.safetensors"
    write_weights(path, model, describe(config, []))
    return path


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    """Lists of videos that get darker or lighter."""
    folder = tmp_path_factory.mktemp("lists")
    for side, clips in (("train", 6), ("val", 2), ("test", 2)):
        lines = []
        for label in (0, 1):
            for number in range(clips):
                frames = frames_of(9 + number, seed=number + 10 * label)
                path = f"clips of {label}/{side} {number}.avi"
                write_video(folder / path, frames if label else frames[::-1])
                lines.append(f"{path} {label}\n")
        (folder / f"{side}.list").write_text("".join(lines))
    (folder / "classes.txt").write_text("变暗\nlighter\n")
    return folder


FRAMES = ("--frames", "uniform:4", "--grid", 2)


def run_tool(*words: object) -> int:
    return extract_features.main([str(word) for word in words])


@pytest.fixture(scope="module")
def extracted(listed, tsn, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("features") / "new"
    assert run_tool(listed, target, "--model", tsn, *FRAMES) == 0
    return target


CONFIG = {
    "MODEL": {
        "name": "cnn_lstm", "num_classes": 2, "format": "features", "sampling": "uniform",
        "seg_num": 4, "grid": 2,
        "arguments": {"features": 256, "hidden": 8, "dense": 8, "dropout": 0.0,
                      "recurrent_dropout": 0.0, "dense_dropout": 0.0},
    },
    "TRAIN": {"epoch": 12, "batch_size": 4, "optimizer": "rmsprop", "learning_rate": 0.01,
              "momentum": 0.0, "lr_policy": "constant"},
}  # fmt: skip


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "cnn_lstm.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def test_the_tool_writes_files_lists_classes_and_a_manifest(extracted, listed):
    names = (listed / "test.list").read_text().splitlines()
    expected = [f"{line.rsplit(' ', 1)[0]}.npy {line.rsplit(' ', 1)[1]}" for line in names]
    assert (extracted / "test.list").read_text().splitlines() == expected
    assert (extracted / "classes.txt").read_text() == "变暗\nlighter\n"
    manifest = read_manifest(extracted)
    assert (manifest.trunk, manifest.sampling) == ("tsn_r18", "uniform:4")
    assert (manifest.size, manifest.grid, manifest.features) == ((36, 36), 2, 256)
    assert read_features(extracted / expected[0].rsplit(" ", 1)[0], 256).shape == (4, 256)


def test_a_second_run_adds_what_is_missing_and_another_setting_is_refused(
    extracted, listed, tsn, tmp_path, capsys
):
    lost = next(extracted.rglob("train 3.avi.npy"))
    before, content = lost.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    assert run_tool(listed, extracted, "--model", tsn, *FRAMES) == 0
    assert "of 20 clips, 1 of them new, 0 left out" in capsys.readouterr().out
    assert lost.read_bytes() == content
    assert lost.stat().st_mtime_ns != before
    assert run_tool(listed, extracted, "--model", tsn, "--frames", "uniform:5") == 1
    err = capsys.readouterr().err
    assert "holds other features: sampling 'uniform:4', not 'uniform:5'; grid 2, not 1" in err


def test_labels_that_are_inside_the_clips_are_in_the_new_lists(tsn, tmp_path):
    for number, name in enumerate(("walk/a", "run/b")):
        (tmp_path / "pkl" / name).parent.mkdir(parents=True)
        frames = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames_of(3, 48, 64)]
        (tmp_path / f"pkl/{name}.pkl").write_bytes(pickle.dumps((name[-1], number, frames)))
    (tmp_path / "pkl/train.list").write_text("walk/a.pkl\nrun/b.pkl\n")
    target = tmp_path / "features"
    assert run_tool(tmp_path / "pkl/train.list", target, "--model", tsn, *FRAMES) == 0
    assert (target / "train.list").read_text() == "walk/a.pkl.npy 0\nrun/b.pkl.npy 1\n"
    (tmp_path / "pkl/walk/a.pkl").unlink()  # its features are there
    assert run_tool(tmp_path / "pkl/train.list", target, "--model", tsn, *FRAMES) == 0
    assert (target / "train.list").read_text() == "walk/a.pkl.npy\nrun/b.pkl.npy 1\n"


def test_features_of_a_clip_that_was_replaced_are_computed_anew(tsn, tmp_path, capsys):
    clips, target = tmp_path / "clips", tmp_path / "new"
    for name in ("a.avi", "b.avi"):
        write_video(clips / name, frames_of(5))
    (clips / "train.list").write_text("a.avi 0\nb.avi 1\n")
    words = (clips, target, "--model", tsn, *FRAMES)
    assert run_tool(*words) == 0
    before = (target / "a.avi.npy").read_bytes()
    later = (target / "a.avi.npy").stat().st_mtime + 5
    write_video(clips / "a.avi", frames_of(5)[::-1])
    os.utime(clips / "a.avi", (later, later))
    assert run_tool(*words) == 0
    assert "of 2 clips, 1 of them new, 0 left out" in capsys.readouterr().out
    assert (target / "a.avi.npy").read_bytes() != before
    (clips / "a.avi").write_bytes(b"")
    os.utime(clips / "a.avi", (later, later))
    assert run_tool(*words) == 1
    assert (target / "train.list").read_text() == "b.avi.npy 1\n"


def test_features_of_other_lists_are_refused(tsn, tmp_path, capsys):
    for name in ("clips", "others"):
        write_video(tmp_path / name / "a.avi", frames_of(5))
        (tmp_path / name / "train.list").write_text("a.avi 0\n")
    words = (tmp_path / "new", "--model", tsn, *FRAMES)
    assert run_tool(tmp_path / "clips", *words) == 0
    assert run_tool(tmp_path / "clips" / "train.list", *words) == 0
    assert run_tool(tmp_path / "others", *words) == 1
    error = capsys.readouterr().err
    assert f"holds what was made of {tmp_path}/clips, not of {tmp_path}/others: choose a" in error
    note = tmp_path / "new" / "features.json"
    content = json.loads(note.read_text())
    assert content.pop("source") == "../clips"
    note.write_text(json.dumps(content))  # of an earlier version
    assert run_tool(tmp_path / "others", *words) == 0


def test_bad_clips_are_left_out_of_the_lists(listed, tsn, tmp_path, capsys):
    some = listed / "some.list"
    some.write_text("clips of 0/test 0.avi 0\nclips of 0/gone.avi 0\nclips of 1/test 1 1\n")
    assert run_tool(some, tmp_path / "new", "--model", tsn, *FRAMES) == 1
    out = capsys.readouterr()
    assert "gone.avi: does not exist" in out.err
    assert "features (T, 256) of 2 clips, 2 of them new, 1 left out" in out.out
    assert (tmp_path / "new" / "some.list").read_text() == (
        "clips of 0/test 0.avi.npy 0\nclips of 1/test 1.avi.npy 1\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["a", "b", "--frames", "uniform"],
            "needs one of uniform:N, end:N, chapter:N, every:N",
        ),
        (["a", "b", "--frames", "all:3"], "not 'all:3'"),
        (["a", "b", "--frames", "every:1.5"], "not 'every:1.5'"),
        (["a", "b", "--frames", "fps:0"], "not 'fps:0'"),
        (["a", "b", "--grid", "0"], "needs a whole number from 1 up"),
    ],
)
def test_wrong_flags_are_refused(capsys, words, message):
    with pytest.raises(SystemExit):
        run_tool(*words)
    assert message in capsys.readouterr().err


def test_wrong_lists_are_one_line(tmp_path, capsys):
    assert run_tool(tmp_path / "no.list", tmp_path / "new") == 1
    assert "extract_features.py: there is no list file" in capsys.readouterr().err
    assert run_tool(tmp_path, tmp_path / "new") == 1
    assert "there is no train.list, val.list or test.list" in capsys.readouterr().err


def test_a_network_learns_from_features_and_predicts_videos_with_its_trunk(
    extracted, listed, tsn, config, tmp_path, capsys
):
    folder = tmp_path / "run"
    words = ["--config", config, "--data", extracted, "--save_dir", folder]
    assert train.main([str(word) for word in words]) == 0
    assert (
        load_config(folder / "config.yaml").model.trunk_weights == read_manifest(extracted).weights
    )
    weights = folder / "best.safetensors"
    assert infer.main(["--weights", str(weights), "--split", "test"]) == 0
    clip = "clips of 1/test 0.avi"
    output = tmp_path / "p.jsonl"
    words = ["--weights", weights, extracted / f"{clip}.npy", "--output", output]
    assert infer.main([str(word) for word in words]) == 0
    from_features = json.loads(output.read_text())
    words = ["--weights", weights, listed / clip, "--output", output, "--trunk", tsn,
             "--curve", tmp_path / "curves"]  # fmt: skip
    assert infer.main([str(word) for word in words]) == 0
    from_video = json.loads(output.read_text())
    assert from_video["classes"] == from_features["classes"]
    np.testing.assert_allclose(
        from_video["probabilities"], from_features["probabilities"], atol=1e-3
    )
    assert cv2.imread(str(tmp_path / "curves" / "001_test 0.png")).shape[1] > 500


def test_training_gives_every_frame_its_clips_label_when_asked(extracted, config, tmp_path):
    losses = {}
    for frames in (True, False):
        folder = tmp_path / f"{frames}"
        words = ["--config", config, "--data", extracted, "--save_dir", folder, "--epoch", 1,
                 "-o", f"TRAIN.frame_labels={frames}"]  # fmt: skip
        assert train.main([str(word) for word in words]) == 0
        rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
        losses[frames] = [row["loss"] for row in rows if row["split"] == "train"]
    assert losses[True] != losses[False]


def test_a_video_needs_the_trunk_of_the_features(extracted, listed, config, tmp_path, capsys, tsn):
    folder = tmp_path / "run"
    words = ["--config", config, "--data", extracted, "--save_dir", folder, "--epoch", 1]
    assert train.main([str(word) for word in words]) == 0
    video = str(listed / "clips of 1/test 0.avi")
    weights = ["--weights", str(folder / "best.safetensors"), video]
    assert infer.main(weights) == 1
    assert "reads features of tsn_r18: give its file as --trunk FILE" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    config_of = {"MODEL": {"name": "tsn_r18", "num_classes": 2, "arguments": {"width": 8}}}
    write_weights(other, create_model("tsn_r18", num_classes=2, width=8), describe(config_of, []))
    assert infer.main([*weights, "--trunk", str(other)]) == 1
    assert "its weights are not those of the features" in capsys.readouterr().err
    npy = str(next(extracted.rglob("test 0.avi.npy")))
    assert infer.main([*weights, npy, "--trunk", str(tsn)]) == 1
    assert "give either videos or .npy features, not both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seg_num": 5}, "sampling is 'uniform:4', the config wants 'uniform:5'"),
        ({"grid": 1}, "grid is 2, the config wants 1"),
        ({"trunk": "vgg16"}, "trunk is 'tsn_r18', the config wants 'vgg16'"),
        ({"trunk_weights": "ab"}, "the config wants 'ab'"),
        ({"fixed_size": (36, 37)}, r"size is \[36, 36\], the config wants"),
        ({"image_mean": (0.5,) * 3}, r"mean is \[0.485, "),
        ({"arguments": {"features": 512}}, "features is 256, the config wants 512"),
    ],
)
def test_features_that_were_made_otherwise_are_refused_by_the_field(
    extracted, config, changes, message
):
    built = load_config(config, [f"TRAIN.filelist={extracted / 'train.list'}"])
    built = replace(built, model=replace(built.model, **changes))
    with pytest.raises(ConfigError, match=message):
        build.build_train_loader(built, ["a", "b"])


def test_a_curve_needs_a_network_that_reads_frame_by_frame(tsn, video, tmp_path, capsys):
    assert infer.main(["--weights", str(tsn), str(video), "--curve", str(tmp_path)]) == 1
    assert "--curve: tsn_r18 does not read frame by frame" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        infer.main(["--weights", str(tsn), "--split", "test", "--curve", str(tmp_path)])
    assert "--curve is for predictions" in capsys.readouterr().err


def test_lists_are_not_replaced_by_those_of_their_features(listed, tsn, capsys):
    before = (listed / "train.list").read_text()
    assert run_tool(listed, listed, "--model", tsn, *FRAMES) == 1
    assert "holds LIST, which would be overwritten" in capsys.readouterr().err
    assert (listed / "train.list").read_text() == before


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x93NUMPY\x01\x00v\x00{"])
def test_any_damaged_file_is_a_bad_sample(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    item = FeatureDataset([Sample(tmp_path / "a.npy", 0)], 4).fetch(0)
    assert item.views is None
    assert item.problem.startswith(f"{tmp_path / 'a.npy'}: ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.format=video"], "'video': cnn_lstm takes features"),
        (["MODEL.name=tsn_r18", "MODEL.arguments={}"], "tsn_r18 takes clips, not features"),
        (["TRAIN.cutmix=1.0"], "TRAIN.cutmix cuts frames"),
    ],
)
def test_features_and_clips_are_not_confused(
    extracted, config, tmp_path, capsys, overrides, message
):
    words = [word for override in overrides for word in ("-o", override)]
    words = ["--config", config, "--data", extracted, "--save_dir", tmp_path / "run", *words]
    assert train.main([str(word) for word in words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_inception_has_the_epsilon_and_the_pictures_of_its_weights(tmp_path, monkeypatch):
    paddle.save(create_trunk("inception_v3").state_dict(), str(tmp_path / "paddle.pdparams"))
    trunk = load_trunk("inception_v3", tmp_path / "paddle.pdparams")
    norms = [x for x in trunk.network.sublayers() if isinstance(x, paddle.nn.BatchNorm2D)]
    assert {norm._epsilon for norm in norms} == {1e-5}
    assert (trunk.size, trunk.mean) == ((299, 299), (0.485, 0.456, 0.406))


@pytest.mark.parametrize("sampling", ["every", "fps", "chapter", "scenes"])
def test_clips_of_unlike_length_are_for_recurrent_networks(sampling, config):
    overrides = ["MODEL.name=tsn_r18", "MODEL.arguments={}", f"MODEL.sampling={sampling}"]
    built = load_config(config, overrides)
    with pytest.raises(ConfigError, match="gives clips of unlike length, for lrcn and cnn_lstm al"):
        build.build_sampler(built, built.train)

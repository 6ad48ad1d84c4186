"""What is exported says what the network says, with and without paddlevid."""

import json
import re
import runpy
import subprocess
import sys
import wave
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from conftest import frames_of, write_video
from test_models import MOBILE, RECURRENT, TOKENS

import infer
from paddlevid import build
from paddlevid.config import load_config
from paddlevid.data.decode import decode
from paddlevid.data.sample import (
    FRAME_KINDS,
    BookSampler,
    DenseSampler,
    FrameSampler,
    LinspaceSampler,
    SegmentSampler,
)
from paddlevid.data.transform import (
    CenterCrop,
    Letterbox,
    Resize,
    ResizeShortSide,
    TenCrops,
    UniformCrop,
)
from paddlevid.export import __main__ as export
from paddlevid.export import pieces
from paddlevid.export.parts import Plan
from paddlevid.models import create_model
from paddlevid.predictor import Predictor
from paddlevid.program import Program
from paddlevid.stream import push_all
from paddlevid.weights import describe, write_weights

SMALL = {"short_size": 40, "target_size": 32}
MODELS = {
    "tsn": {"name": "tsn_r18", "seg_num": 3, "arguments": {"width": 8}},
    "eco": {"name": "eco_full", "seg_num": 4, "interval": 2, "arguments": {"width": 8}},
    "timesformer": {
        "name": "timesformer_base", "seg_num": 2, "interval": 4, "sampling": "linspace",
        "arguments": TOKENS,
    },
    "lrcn": {
        "name": "lrcn_r18", "seg_num": 3, "sampling": "chapter", "fixed_size": [48, 40],
        "letterbox": True, "arguments": {**RECURRENT, "cell": "lstm", "average": True},
    },
    "cnn_lstm": {
        "name": "cnn_lstm", "seg_num": 4, "sampling": "uniform", "format": "features",
        "arguments": {"features": 6, "hidden": 8, "dense": 8},
    },
    "movinet": {"name": "movinet_a0", "seg_num": 3, "sampling": "dense", "arguments": MOBILE},
    "stream": {
        "name": "movinet_a0_stream", "seg_num": 3, "sampling": "dense", "interval": 2,
        "arguments": MOBILE,
    },
    "positions": {
        "name": "movinet_a3_stream", "seg_num": 3, "sampling": "dense",
        "arguments": {**MOBILE, "conv_type": "3d"},
    },
    "convlstm": {
        "name": "convlstm", "task": "predict", "seg_num": 3, "num_future": 2, "interval": 2,
        "grey": True, "arguments": {"hidden": 4, "patch_size": 2},
    },
    "flow": {
        "name": "tsn_r18", "modality": "flow", "seg_num": 3, "seglen": 2,
        "image_mean": [0.5, 0.5], "image_std": [0.226, 0.226],
        "flow_short_side": 44, "arguments": {"width": 8, "in_channels": 4},
    },
}  # fmt: skip
CLASSES = ["wave <&>", "挥手", "sit", "run", "jump", "kick"]


@pytest.fixture
def saved(tmp_path):
    """A function: name of MODELS -> the file of such a network, whose scores tell clips apart."""

    def save(name: str, **more: object) -> Path:
        model = {"format": "video", **MODELS[name], **more}
        shape = {"num_classes": len(CLASSES)}
        if model.get("task") == "predict":
            shape = {"channels": 1, "num_future": model["num_future"]}
        else:
            model |= shape
        network = create_model(model["name"], **shape, **model["arguments"])
        paddle.seed(1)
        for parameter in network.parameters():
            parameter.set_value(parameter + 0.03 * paddle.randn(parameter.shape))
        path = tmp_path / f"{name}.safetensors"
        write_weights(path, network, describe({"MODEL": model, "INFER": SMALL}, CLASSES))
        return path

    return save


def run(*words: object) -> int:
    return export.main([str(word) for word in words])


def network_of(weights: Path):
    config = load_config(weights)
    model, _ = build.build_model(config, fresh=True)
    build.load_all_weights(model, weights)
    model.eval()
    return config, model


def metadata_of(folder: Path) -> dict:
    return json.loads((folder / "metadata.json").read_text(encoding="utf-8"))


def example_says(folder: Path, capfd, *words: object) -> list[str]:
    """The lines of the example, but for the remarks of Paddle's C++."""
    before, sys.argv = sys.argv, ["example.py", *map(str, words)]
    try:
        capfd.readouterr()
        runpy.run_path(str(folder / "example.py"), run_name="__main__")
    finally:
        sys.argv = before
    out = capfd.readouterr().out.splitlines()
    return [line for line in out if re.match(r"[{\d]", line)]


def scores_in(lines: list[str]) -> dict[str, float]:
    """Class -> score, of lines `score  class`."""
    return {line.split("  ", 1)[1]: float(line.split("  ", 1)[0]) for line in lines}


def assert_infer_says(lines: list[str], weights: Path, video: Path, *words: object) -> None:
    """The scores in the lines of an example are those of infer.py."""
    output = video.with_suffix(".jsonl")
    words = ("--weights", weights, *words, video, "--output", output)
    assert infer.main([str(word) for word in words]) == 0
    row = json.loads(output.read_text(encoding="utf-8"))
    found = scores_in(lines)
    assert list(found) == row["classes"]
    np.testing.assert_allclose(list(found.values()), row["probabilities"], atol=1e-5)


# --- the pieces of the examples -------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 2, 5, 7, 16, 23, 59, 60, 100, 301])
@pytest.mark.parametrize(("seg_num", "seglen"), [(1, 1), (3, 1), (7, 2), (8, 5)])
def test_the_examples_choose_the_frames_that_the_samplers_choose(num_frames, seg_num, seglen):
    count = seg_num * seglen
    numbers = {"every": 3, "fps": 12.5}
    samplers = {
        "segments": SegmentSampler(seg_num, seglen),
        "book": BookSampler(seg_num, seglen),
        "dense": DenseSampler(count, 3),
        "linspace": LinspaceSampler(count, 3, 12.5),
        **{kind: FrameSampler(kind, numbers.get(kind, seg_num)) for kind in FRAME_KINDS[:-1]},
    }
    assert samplers.keys() == pieces.SAMPLINGS.keys()  # all but "scenes"
    for kind, sampler in samplers.items():
        frames = seg_num if kind in pieces.FRAMES_OF_ALL else count
        s = {"frames": frames, "seg_num": seg_num, "seglen": seglen, "interval": 3,
             "target_fps": 12.5}  # fmt: skip
        only_one = kind in ("book", *FRAME_KINDS)
        for phase in (0.5,) if only_one else (1 / 6, 0.5, 0.75):
            for fps in (0.0, 10.0, 29.97):
                found = pieces.SAMPLINGS[kind](num_frames, fps, s, phase)
                assert found.tolist() == sampler(num_frames, None, phase, fps).tolist(), kind


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (37, 81)])
def test_the_examples_resize_and_crop_as_the_transforms_do(size):
    clip = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    s = {"short_size": 33, "height": 20, "width": 44, "size": 21, "fill": 0}
    transforms = {
        "short_side": ResizeShortSide(33), "fixed": Resize(20, 44), "letterbox": Letterbox(20, 44)
    }  # fmt: skip
    for kind, transform in transforms.items():
        found = np.stack([pieces.RESIZES[kind](frame, s) for frame in clip])
        np.testing.assert_array_equal(found, transform(clip, None))
    crops = {"centre": CenterCrop(21), "three": UniformCrop(21), "ten": TenCrops(21)}
    for kind, crop in crops.items():
        np.testing.assert_array_equal(np.stack(pieces.VIEWS[kind](clip, s)), np.stack(crop(clip)))


# --- programs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [pytest.param("eco", marks=pytest.mark.slow), "timesformer", "lrcn", "movinet", "positions"],
)
def test_an_exported_network_says_what_the_network_says(name, saved, tmp_path, capsys):
    weights = saved(name)
    if name == "positions" and paddle.__version__.startswith("2."):
        # Paddle 2.6's program of a causal MoViNet is wrong, and so it is not written.
        assert run("--weights", weights, "--out", tmp_path / "out") == 1
        assert "the program says another thing than the network" in capsys.readouterr().err
        return
    assert run("--weights", weights, "--out", tmp_path / "out") == 0
    metadata = metadata_of(tmp_path / "out")
    [(input_of, output)] = [(p["inputs"][0], p["outputs"]) for p in metadata["programs"].values()]
    assert (metadata["classes"], output, input_of["shape"][0]) == (CLASSES, ["logits"], -1)
    assert metadata["check"]["paddle.inference"] <= 1e-4
    assert "the program equals the network" in capsys.readouterr().out
    clips = np.random.default_rng(5).standard_normal((2, *input_of["shape"][1:]), np.float32)
    [found] = Program(tmp_path / "out", name="model")(clips)
    [expected] = Predictor(network_of(weights)[1], "eager")(clips)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # it can tell them apart


def test_the_example_of_a_classifier_equals_infer_without_paddlevid(saved, tmp_path):
    weights = saved("tsn", sampling="segments", seglen=2)
    video = write_video(tmp_path / "clip.avi", frames_of(31))
    options = ["-o", "INFER.crops=3", "-o", "INFER.num_clips=2"]
    assert run("--weights", weights, "--out", tmp_path / "out", *options, "--video", video) == 0
    assert metadata_of(tmp_path / "out")["check"]["videos"] == ["clip.avi"]
    code = f"""
import runpy, sys
sys.argv = ["example.py", {str(video)!r}]
runpy.run_path({str(tmp_path / "out" / "example.py")!r}, run_name="__main__")
assert not [name for name in sys.modules if name.startswith("paddlevid.")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    lines = [line for line in done.stdout.decode().splitlines() if re.match(r"\d", line)]
    assert_infer_says(lines, weights, video, *options)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dis", ["INFER.num_clips=2"]),
        ("dis", ["INFER.crops=10", "MODEL.flow_short_side=0"]),
        ("farneback", ["MODEL.fixed_size=[36, 48]", "MODEL.letterbox=True"]),
    ],
)
def test_the_example_of_a_network_for_flow_computes_it(method, options, saved, tmp_path, capfd):
    weights = saved("flow", flow_method=method)
    texture = cv2.blur(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8), (5, 5))
    frames = np.stack([np.roll(texture, i * i // 4, axis=1)[:, :64] for i in range(12)])
    video = write_video(tmp_path / "clip.avi", frames)
    options = [word for option in options for word in ("-o", option)]
    assert run("--weights", weights, "--out", tmp_path / "out", *options, "--video", video) == 0
    metadata = metadata_of(tmp_path / "out")
    assert (metadata["kind"], metadata["flow"]["method"]) == ("flow", method)
    assert metadata["programs"]["model"]["inputs"][0]["shape"][:3] == [-1, 4, 3]
    said = example_says(tmp_path / "out", capfd, video)
    assert_infer_says(said, weights, video, *options)
    still = write_video(tmp_path / "still.avi", np.repeat(frames[:1], 12, axis=0))
    assert scores_in(example_says(tmp_path / "out", capfd, still)) != scores_in(said)


def test_the_example_of_a_network_for_flow_says_what_has_none(saved, tmp_path):
    assert run("--weights", saved("flow", flow_short_side=0), "--out", tmp_path / "out") == 0
    for frames, message in (
        (frames_of(1), "has a single frame; optical flow is between two"),
        (frames_of(3, 8, 8), "no optical flow between frames of 8x8, which need 16 pixels or more"),
    ):
        video = write_video(tmp_path / "clip.avi", frames)
        words = [sys.executable, tmp_path / "out" / "example.py", video]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 1 and f"{video}" in done.stderr and message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name",
    ["tsn", *(pytest.param(n, marks=pytest.mark.slow) for n in ("cnn_lstm", "stream", "eco"))],
)
def test_the_examples_say_what_is_wrong_in_a_line(name, saved, tmp_path):
    stream = ["--stream"] if name in ("stream", "eco") else []
    assert run("--weights", saved(name), "--out", tmp_path / "out", *stream) == 0
    (tmp_path / "text.avi").write_text("no video")
    np.save(tmp_path / "flat.npy", np.zeros(9, np.float32))
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    cases = [([], "usage: python example.py"), (["gone.avi"], "gone.avi cannot be read as")]
    cases += [(["text.avi"], "text.avi cannot be read as")]
    cases += [(["flat.npy"], "has the shape (9,), the program takes (T, 6)")] * (name == "cnn_lstm")
    cases += [(["sound.wav"], "sound.wav cannot be read as")] * (name != "cnn_lstm")
    for words, message in cases:
        words = [sys.executable, tmp_path / "out" / "example.py", *words]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 1 and message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "num_frames"), [("lrcn", 2), ("movinet", 20)])
def test_other_samplings_have_examples_too(name, num_frames, saved, tmp_path, capfd):
    weights = saved(name)  # lrcn: fewer frames than the program takes
    video = write_video(tmp_path / "clip.avi", frames_of(num_frames))
    assert run("--weights", weights, "--out", tmp_path / "out", "--video", video) == 0
    assert_infer_says(example_says(tmp_path / "out", capfd, video), weights, video)


def test_a_network_for_features_takes_a_row_for_each_frame(saved, tmp_path, capfd):
    weights = saved("cnn_lstm")
    rows = np.random.default_rng(0).random((3, 6), np.float32)
    np.save(tmp_path / "rows.npy", rows)  # one fewer than the program takes
    words = ["--weights", weights, "--out", tmp_path / "out", "--video", tmp_path / "rows.npy"]
    assert run(*words) == 0
    found = scores_in(example_says(tmp_path / "out", capfd, tmp_path / "rows.npy"))
    [logits] = Predictor(network_of(weights)[1], "eager")(rows[None])
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
    for label, score in found.items():
        assert score == pytest.approx(expected[CLASSES.index(label)], abs=1e-5)


def test_with_its_trunk_a_network_for_features_takes_videos(saved, tmp_path, capfd):
    trunk = saved("tsn")
    arguments = {"features": 64, "hidden": 8, "dense": 8}
    weights = saved("cnn_lstm", fixed_size=[32, 40], arguments=arguments)
    video = write_video(tmp_path / "clip.avi", frames_of(9))
    words = ["--weights", weights, "--trunk", trunk]
    assert run(*words, "--out", tmp_path / "out", "--video", video) == 0
    assert metadata_of(tmp_path / "out")["trunk"]["name"] == "tsn_r18"
    said = example_says(tmp_path / "out", capfd, video)
    assert_infer_says(said, weights, video, "--trunk", trunk)


def test_the_frames_to_come_are_those_of_infer(saved, tmp_path, monkeypatch, capfd):
    weights = saved("convlstm")
    video = write_video(tmp_path / "clip.avi", frames_of(20))
    assert run("--weights", weights, "--out", tmp_path / "out", "--video", video) == 0
    monkeypatch.chdir(tmp_path)
    example_says(tmp_path / "out", capfd, video)
    words = ["--weights", weights, video, "--save_dir", tmp_path / "predicted"]
    assert infer.main([str(word) for word in words]) == 0
    [expected] = (tmp_path / "predicted").glob("*.npy")
    found = np.load(tmp_path / "predicted.npy")
    assert found.shape == (2, 32, 32, 1)
    np.testing.assert_allclose(found, np.load(expected), atol=1e-5)
    assert (tmp_path / "predicted.png").stat().st_size > 0


@pytest.mark.parametrize(
    "name", ["stream", "positions", pytest.param("eco", marks=pytest.mark.slow)]
)
def test_the_examples_of_live_video_equal_the_streams(name, saved, tmp_path, capfd):
    weights = saved(name)
    frames = frames_of(33)
    video = write_video(tmp_path / "clip.avi", frames)
    assert run("--weights", weights, "--out", tmp_path / "out", "--stream", "--video", video) == 0
    every = [] if name == "eco" else ["4"]  # eco says something with as many frames as it takes
    found = [json.loads(line) for line in example_says(tmp_path / "out", capfd, video, *every)]
    config, model = network_of(weights)
    images = decode(video, np.arange(33))[:: config.model.interval]
    [stream] = build.build_streams(config, Predictor(model, "eager"), 1, 1)
    scores = [push_all([stream], [image])[0] for image in images]
    numbers = [row["frame"] // config.model.interval for row in found]
    assert numbers == list(range(3, len(images), 4))
    for number, row in zip(numbers, found, strict=True):
        for label, score in row["scores"].items():
            assert score == pytest.approx(scores[number][CLASSES.index(label)], abs=1e-4)


# --- ONNX -----------------------------------------------------------------------------------------

needs_onnx = pytest.mark.skipif(
    paddle.__version__.startswith("2."), reason="paddle2onnx needs Paddle 3"
)


def require_onnx():
    for name in ("onnx", "onnxruntime", "paddle2onnx"):
        pytest.importorskip(name)


@needs_onnx
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        pytest.param("positions", [], marks=pytest.mark.slow),
        pytest.param("lrcn", [], marks=pytest.mark.slow),
        ("stream", ["--stream"]),
        ("convlstm", []),
    ],
)
def test_onnxruntime_says_what_the_network_says(name, flags, saved, tmp_path):
    require_onnx()
    import onnxruntime

    more = {}
    if name == "lrcn":  # maps of 1 x 1, which a grid does not divide
        more = {"arguments": MODELS["lrcn"]["arguments"] | {"grid": 2}}
    weights, out = saved(name, **more), tmp_path / "out"
    assert run("--weights", weights, "--out", out, "--onnx", *flags) == 0
    metadata = metadata_of(out)
    assert metadata["check"]["onnxruntime"] <= 1e-4
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    wanted = metadata["programs"]["model"]
    assert [value.name for value in session.get_outputs()] == wanted["outputs"]
    shapes = {value.name: value.shape for value in session.get_inputs()}
    assert shapes == {item["name"]: ["N", *item["shape"][1:]] for item in wanted["inputs"]}
    fed = {name: np.full([2, *s[1:]], 0.5, np.float32) for name, s in shapes.items()}
    found = session.run(None, fed)[0]
    ordered = [fed[item["name"]] for item in wanted["inputs"]]
    expected = Program(out, name="model")(*ordered)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@needs_onnx
def test_int8_says_what_it_costs_and_saves(saved, tmp_path, capsys):
    require_onnx()
    for seed in range(3):
        write_video(tmp_path / "videos" / f"{seed}.avi", frames_of(9, seed=seed))
    (tmp_path / "videos" / "broken.avi").write_bytes(b"no video")
    weights, out = saved("tsn"), tmp_path / "out"
    flags = ["--int8", "--calibrate", tmp_path / "videos"]
    assert run("--weights", weights, "--out", out, *flags) == 0
    shown = capsys.readouterr()
    assert "left out: " in shown.err and "broken.avi" in shown.err
    assert "int8 on the 3 clips of its calibration" in shown.out
    int8 = metadata_of(out)["int8"]
    assert int8["clips"] == 3
    assert 0 < int8["largest_difference"] < 0.2
    assert int8["megabytes"][1] < int8["megabytes"][0] / 2
    assert (out / int8["file"]).stat().st_size == int8["megabytes"][1] * 1e6
    assert not list(out.glob(".*"))


@needs_onnx
def test_without_a_clip_to_calibrate_with_there_is_no_int8(saved, tmp_path):
    require_onnx()
    from paddlevid.export.onnx_file import write_int8
    from paddlevid.export.parts import plan_whole

    part = plan_whole(network_of(saved("tsn"))[1], "clip", (3, 2, 32, 32)).parts["model"]
    with pytest.raises(ValueError, match="--calibrate: none of the clips can be read"):
        write_int8(tmp_path / "model.onnx", part, iter(()))
    assert not list(tmp_path.glob("*.onnx"))


@needs_onnx
def test_a_network_that_onnx_does_not_know_is_named(saved, tmp_path, capsys, monkeypatch):
    require_onnx()
    code = "import os\nprint('[ERROR] no such operator', flush=True)\nos.abort()"
    monkeypatch.setattr("paddlevid.export.onnx_file._CONVERT", code)
    assert run("--weights", saved("tsn"), "--out", tmp_path / "out", "--onnx") == 1
    assert "cannot express this network in ONNX ([ERROR] no such operator)" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_what_onnx_needs_is_said_before_the_work(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("--weights", saved("tsn"), "--out", tmp_path / "out", "--onnx") == 1
    assert "--onnx needs paddle2onnx and onnx and onnxruntime: pip install" in (
        capsys.readouterr().err
    )


# --- refusals -------------------------------------------------------------------------------------


def test_a_program_that_says_another_thing_is_not_written(saved, tmp_path, capsys, monkeypatch):
    weights = saved("tsn")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(Plan, "difference", lambda self, runs, clips: float("nan"))
    assert run("--weights", weights, "--out", tmp_path / "out") == 1
    assert "the program says another thing than the network: off by nan" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_another_number_or_shape_is_a_difference(saved):
    from paddlevid.export.parts import plan_whole

    plan = plan_whole(network_of(saved("tsn"))[1], "clip", (3, 2, 32, 32))
    clips = np.random.default_rng(0).standard_normal((2, 3, 2, 32, 32), np.float32)
    [right] = plan.expected(clips)
    assert plan.difference({"model": lambda clips: [right]}, clips) == 0
    wrong = right + 0.01 * np.abs(right).max()
    assert plan.difference({"model": lambda clips: [wrong]}, clips) == pytest.approx(0.01, rel=0.01)
    for useless in (right[:1], right * np.nan):
        assert plan.difference({"model": lambda c, said=useless: [said]}, clips) == float("inf")


def test_only_an_export_is_replaced(saved, tmp_path, capsys):
    weights, out = saved("tsn"), tmp_path / "out"
    assert run("--weights", weights, "--out", out) == 0
    (out / "old").write_text("of the export before")
    for flags, told in (([], "is not empty: --overwrite"), (["--overwrite"], "")):
        if told:
            with pytest.raises(SystemExit):
                run("--weights", weights, "--out", out, *flags)
            assert told in capsys.readouterr().err
        else:
            assert run("--weights", weights, "--out", out, *flags) == 0
    assert not (out / "old").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(SystemExit):
        run("--weights", weights, "--out", tmp_path / "mine", "--overwrite")
    assert "holds no export" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("name", "flags", "told"),
    [
        ("tsn", ["--int8"], "--int8 and --calibrate FOLDER|LIST go together"),
        ("tsn", ["--int8", "--calibrate", "nowhere"], "--calibrate nowhere does not exist"),
        ("tsn", ["--int8", "--calibrate", ".", "--stream"], "--int8 is for whole clips"),
        ("tsn", ["--out", __file__], "is a file: it needs a folder"),
        ("tsn", ["--stream"], "tsn_r18 has no step for single frames"),
        ("tsn", ["--trunk", "resnet18"], "--trunk: tsn_r18 reads frames itself"),
        ("tsn", ["--frames", "4"], "--frames 4: the config says how many frames a clip has, 3"),
        ("tsn", ["--video", "gone.avi"], "--video: "),
        ("eco", ["--stream", "-o", "INFER.crops=3"], "--stream looks at one view"),
        ("lrcn", ["-o", "MODEL.sampling=every"], "gives clips of any length, a program takes one"),
        ("cnn_lstm", ["--trunk", "nothing"], "the network reads features of nothing"),
    ],
)
def test_what_does_not_go_together_is_said(name, flags, told, saved, tmp_path, capsys):
    weights = saved(name)
    try:
        assert run("--weights", weights, "--out", tmp_path / "out", *flags) == 1
    except SystemExit as stop:
        assert stop.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs_onnx
def test_int8_of_frames_to_come_is_refused(saved, tmp_path, capsys):
    require_onnx()
    flags = ["--int8", "--calibrate", tmp_path]
    assert run("--weights", saved("convlstm"), "--out", tmp_path / "out", *flags) == 1
    assert "a network that predicts frames has none" in capsys.readouterr().err


def test_clips_of_any_length_are_padded_and_longer_ones_refused(saved, tmp_path, capfd):
    weights = saved("lrcn", sampling="every", interval=4)
    video = write_video(tmp_path / "clip.avi", frames_of(11))  # 3 frames
    words = ["--weights", weights, "--video", video]
    assert run(*words, "--out", tmp_path / "out", "--frames", 4) == 0
    found = scores_in(example_says(tmp_path / "out", capfd, video))
    output = tmp_path / "p.jsonl"
    assert infer.main(["--weights", str(weights), str(video), "--output", str(output)]) == 0
    row = json.loads(output.read_text(encoding="utf-8"))
    np.testing.assert_allclose(list(found.values()), row["probabilities"], atol=1e-5)
    assert run(*words, "--out", tmp_path / "short", "--frames", 2) == 1
    assert "a clip has 3 frames, the program takes 2" in capfd.readouterr().err


def test_without_a_config_it_says_which_one_it_needs(tmp_path, capsys):
    (tmp_path / "best.pdparams").touch()
    with pytest.raises(SystemExit):
        run("--weights", tmp_path / "best.pdparams", "--out", tmp_path / "out")
    assert "config.yaml beside the weights: give --config FILE" in capsys.readouterr().err

"""Fusion: averages by hand, clips matched by name, and infer.py with several networks."""

import json
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
import yaml
from conftest import write_video

import infer
import train
from paddlevid.build import build_model, build_test_loader
from paddlevid.config import load_config
from paddlevid.data.dataset import ListError, Sample
from paddlevid.data.flow import write_flow
from paddlevid.features import load_trunk
from paddlevid.files import sha256_of
from paddlevid.fusion import fuse_evaluations, fuse_predictions, match_clips
from paddlevid.metrics import Evaluation
from paddlevid.predictor import Prediction
from paddlevid.tasks import Classification
from paddlevid.weights import WeightsError, describe, write_weights

A, B = np.float32([[2, 0, 1], [0, 3, 0]]), np.float32([[0, 4, 0], [0, 0, 1]])


def evaluation(logits, labels, indices, num_bad=0):
    return Evaluation(np.float32(logits), np.array(labels), np.array(indices), 1.0, num_bad)


def test_scores_before_the_softmax_are_averaged_with_weights():
    fused = fuse_evaluations([evaluation(A, [0, 1], [0, 1]), evaluation(B, [0, 1], [0, 1])], [1, 3])
    np.testing.assert_allclose(fused.logits, (A + 3 * B) / 4)
    exp = np.exp(fused.logits.astype(np.float64))
    chances = exp / exp.sum(axis=1, keepdims=True)
    assert fused.loss == pytest.approx(-np.log([chances[0, 0], chances[1, 1]]).mean(), rel=1e-5)
    assert fused.top_k(1) == 0.5 and fused.num_bad == 0


def test_only_clips_that_all_networks_could_read_count_in_any_order():
    one, other = evaluation(A, [1, 2], [7, 3], 1), evaluation(B[::-1], [2, 0], [3, 9], 1)
    fused = fuse_evaluations([one, other], [1, 1])
    assert (fused.indices.tolist(), fused.labels.tolist(), fused.num_bad) == ([3], [2], 2)
    np.testing.assert_allclose(fused.logits, [(A[1] + B[1]) / 2])
    with pytest.raises(ValueError, match="no clip could be read by all networks"):
        fuse_evaluations([one, evaluation(B, [0, 0], [1, 2])], [1, 1])
    with pytest.raises(ListError, match="clips of one name unlike labels"):
        fuse_evaluations([one, evaluation(B, [1, 0], [7, 3])], [1, 1])


def test_predictions_are_fused_clip_by_clip_and_problems_stay():
    good = [Prediction(Path("a.avi"), label=2, logits=part[0]) for part in (A, B)]
    bad = [Prediction(Path("b.avi"), logits=A[1]), Prediction(Path("flow/b"), problem="cut off")]
    streams = [iter(pair) for pair in zip(good, bad, strict=True)]
    first, second = fuse_predictions(streams, [1, 1.5])
    logits = (A[0] + 1.5 * B[0]) / 2.5
    np.testing.assert_allclose(first.probabilities, np.exp(logits) / np.exp(logits).sum(), 1e-5)
    assert (first.path.name, first.label) == ("a.avi", 2)
    assert (second.path.name, second.problem) == ("b.avi", "cut off")
    assert second.probabilities is None


# --- matching -------------------------------------------------------------------------------------


def samples(*names, labels=None):
    labels = labels or [0] * len(names)
    return [Sample(Path(name), label) for name, label in zip(names, labels, strict=True)]


def test_clips_are_matched_by_name_and_by_class_where_it_takes_that():
    found = match_clips(samples("v/x/b.avi", "v/y/a.avi"), samples("f/a.pkl", "f/b.pkl"), ("", ""))
    assert [sample.path.name for sample in found] == ["b.pkl", "a.pkl"]
    more = samples("f/a.pkl", "f/b.pkl", "f/c.pkl")
    assert match_clips(samples("v/b.avi"), more, ("", ""), more=True) == [more[1]]
    features = samples("f/x/a.avi.npy", "f/x/b.pkl.npy", "f/x/c.2.npy")
    clips = samples("v/c.2.avi", "v/b.avi", "v/a.avi")
    assert match_clips(clips, features, ("", "")) == features[::-1]
    twins = samples("v/y/1.avi", "v/x/1.avi"), samples("f/x/1.pkl", "f/y/1.pkl")
    found = match_clips(*twins, ("", ""))
    assert [sample.path.parent.name for sample in found] == ["y", "x"]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (samples("f/x/a.pkl", "f/x/c.pkl", "f/x/d.pkl"),
         "of 2 clips in rgb and 3 in flow, 1 have the same name; 1 in rgb alone, such as b; "
         "2 in flow alone, such as c"),
        (samples("f/x/a.pkl"), "1 in rgb alone, such as b"),
        (samples("f/x/a.pkl", "g/x/a.avi", "f/x/b.pkl"), "flow has the clip x/a 2 times"),
        (samples("f/x/a.pkl", "f/x/b.pkl", labels=[0, 1]), "b has label 0 in rgb and 1 in flow"),
    ],
)  # fmt: skip
def test_lists_that_do_not_match_say_how_many_clips_do(others, message):
    with pytest.raises(ListError, match=message):
        match_clips(samples("v/x/a.avi", "v/x/b.avi"), others, ("rgb", "flow"))


# --- infer.py -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """Four videos, their flow, lists of both, and random networks of both streams."""
    folder = tmp_path_factory.mktemp("streams")
    rng, lines = np.random.default_rng(0), []
    for number in range(4):
        name = f"{'ab'[number % 2]}/clip{number}"
        frames = rng.integers(0, 256, (12, 6, 8, 3), np.uint8)
        frames = np.stack([cv2.resize(f, (80, 60), interpolation=cv2.INTER_CUBIC) for f in frames])
        video = write_video(folder / f"videos/{name}.avi", frames, "FFV1")
        (folder / f"flow/{name}").parent.mkdir(parents=True, exist_ok=True)
        write_flow(video, folder / f"flow/{name}", quality=100, short_side=48)
        lines.append(f"{name} {number % 2}\n")
    for kind in ("videos", "flow"):
        (folder / f"{kind}/test.list").write_text("".join(lines[:: 1 if kind == "flow" else -1]))
    for kind in ("videos", "flow"):
        reader = {"batch_size": 3, "short_size": 40, "target_size": 32}
        sections = {
            "MODEL": {"name": "tsn_r18", "num_classes": 2, "seg_num": 2, "format": "video",
                      "arguments": {"width": 8}},
            "TEST": {**reader, "filelist": f"{folder}/{kind}/test.list"},
            "INFER": reader,
        }  # fmt: skip
        if kind == "flow":
            sections["MODEL"] |= {
                "modality": "flow", "seglen": 5, "format": "jpg", "flow_short_side": 48,
                "image_mean": [0.5, 0.5], "image_std": [0.226, 0.226],
            }  # fmt: skip
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(sections))
        model, _ = build_model(load_config(folder / f"{kind}.yaml", []))
        model.eval()
        metadata = describe(sections, ["first", "second"])
        write_weights(folder / f"{kind}.safetensors", model, metadata)
    return folder


def run(folder, *words):
    start = ["--weights", str(folder / "videos.safetensors"), "--engine", "eager"]
    return infer.main([*start, *map(str, words)])


def single(folder, kind, *words):
    """Logits of a network alone, from its predictions of all videos: by name."""
    output = folder / "single.jsonl"
    weights = folder / f"{kind}.safetensors"
    words = ["--weights", weights, "--engine", "eager", "--output", output, *words]
    assert infer.main(list(map(str, words))) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    chances = [dict(zip(row["classes"], row["probabilities"], strict=True)) for row in rows]
    logs = [np.log([chance["first"], chance["second"]]) for chance in chances]
    return {Path(row["path"]).stem: log for row, log in zip(rows, logs, strict=True)}


def test_a_fused_prediction_is_the_average_of_both_and_flow_is_computed(streams, capsys):
    rgb, flow = (single(streams, kind, streams / "videos") for kind in ("videos", "flow"))
    output = streams / "fused.jsonl"
    second = ["--fuse", streams / "flow.safetensors", "--output", output]
    assert run(streams, streams / "videos", *second, "--fuse-weights", "1,3") == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        logits = (rgb[Path(row["path"]).stem] + 3 * flow[Path(row["path"]).stem]) / 4
        best = np.exp(logits) / np.exp(logits).sum()
        assert max(row["probabilities"]) == pytest.approx(best.max(), abs=1e-4)
    assert "1 x " in capsys.readouterr().err
    page = streams / "fused.html"
    assert run(streams, streams / "videos", *second, "--report", page) == 0
    text = page.read_text(encoding="utf-8")
    assert "predictions, fused with " in text and sha256_of(streams / "flow.safetensors") in text
    capsys.readouterr()
    # extracted flow in place of what is computed: but for the JPEG the same
    assert run(streams, streams / "videos", *second, "--fuse-list", streams / "flow") == 0
    text = capsys.readouterr()
    assert "1.5 x " in text.err
    read = [json.loads(line) for line in output.read_text().splitlines()]
    assert run(streams, streams / "videos", *second) == 0
    computed = [json.loads(line) for line in output.read_text().splitlines()]
    for a, b in zip(read, computed, strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=0.01)


def test_evaluation_matches_the_lists_and_writes_each_network_and_both(streams, capsys):
    second = ["--fuse", streams / "flow.safetensors"]
    second += ["--fuse-list", streams / "flow"]  # a folder: the labels are those of the videos
    assert run(streams, "--split", "test", *second) == 0
    summary = json.loads((streams / "metrics_fused.json").read_text())
    assert [n["modality"] for n in summary["networks"]] == ["rgb", "flow"]
    assert [n["share"] for n in summary["networks"]] == [1.0, 1.5]
    assert summary["num_clips"] == 4 and all(n["num_clips"] == 4 for n in summary["networks"])
    assert (streams / "confusion_matrix_fused.png").exists()
    page = (streams / "report_fused.html").read_text(encoding="utf-8")
    assert "fused with" in page and f"{summary['top1']:.4f}" in page
    assert all(sha256_of(streams / f"{kind}.safetensors") in page for kind in ("videos", "flow"))
    assert "test, fused: top-1" in capsys.readouterr().out
    assert not (streams / "metrics.json").exists()


def test_labels_that_are_inside_the_clips_of_one_list_are_those_of_the_others(
    streams, tmp_path, capsys
):
    for number in range(4):
        frames = [cv2.imencode(".jpg", np.full((60, 80, 3), 60 * number, np.uint8))[1].tobytes()]
        clip = (f"clip{number}", number % 2, frames)
        (tmp_path / f"clip{number}.pkl").write_bytes(pickle.dumps(clip))
    (tmp_path / "clip2.pkl").write_bytes(b"broken")
    (tmp_path / "test.list").write_text("".join(f"clip{number}.pkl\n" for number in range(4)))
    values = [
        f"TEST.filelist={tmp_path}/test.list",
        "MODEL.format=pkl",
        "TRAIN.max_bad_samples=1.0",
    ]
    words = [word for value in values for word in ("-o", value)]
    second = ["--fuse", streams / "flow.safetensors", "--fuse-list", streams / "flow"]
    assert run(streams, "--split", "test", *words, *second) == 1
    printed = capsys.readouterr()
    assert "over 3 clips, 1 left out" in printed.out and "clip2.pkl: " in printed.err
    summary = json.loads((streams / "metrics_fused.json").read_text())
    assert [n["num_clips"] for n in summary["networks"]] == [3, 3]


def test_a_clip_that_one_network_cannot_read_is_left_out_of_all(streams, tmp_path, capsys):
    lines = [f"{streams}/flow/{'ab'[n % 2]}/clip{n} {n % 2}\n" for n in range(3)]
    (tmp_path / "b/clip3").mkdir(parents=True)
    (tmp_path / "test.list").write_text("".join(lines) + "b/clip3 1\n")
    second = ["--fuse", streams / "flow.safetensors", "--fuse-list", tmp_path / "test.list"]
    assert run(streams, "--split", "test", *second, "-o", "TRAIN.max_bad_samples=1.0") == 1
    printed = capsys.readouterr()
    assert "over 3 clips, 1 left out" in printed.out and "clip3: has no frames" in printed.err
    assert run(streams, streams / "videos", *second) == 1
    assert "clip3: has no frames" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fuse-weights", "1,2", "--split", "test"], "--fuse-weights has 2 numbers: --weights"),
        (["--fuse", "f", "--fuse-weights", "1,x", "a"], "needs numbers above 0 such as 1,1.5"),
        (["--fuse", "f", "--fuse-list", "a", "--fuse-list", "b"], "it needs one for each of the 1"),
        (["--fuse", "f", "--curve", "c", "a"], "--curve and --explain are of one network"),
        (["--fuse", "f", "--stream", "0"], "--trunk, --explain, --fuse nor --report"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(streams, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        run(streams, *words)
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_networks_of_other_classes_and_lists_of_other_clips_are_errors(streams, tmp_path, capsys):
    config = yaml.safe_load((streams / "flow.yaml").read_text())
    model, _ = build_model(load_config(streams / "flow.yaml", []))
    write_weights(tmp_path / "other.safetensors", model, describe(config, ["first", "third"]))
    assert run(streams, "--split", "test", "--fuse", tmp_path / "other.safetensors") == 1
    assert "the first that differs is 'third' there, 'second' here" in capsys.readouterr().err
    second = ["--split", "test", "--fuse", streams / "flow.safetensors", "--fuse-list"]
    assert run(streams, *second, streams / "flow/a") == 1
    assert "of 4 clips in" in capsys.readouterr().err
    assert run(streams, *second, tmp_path / "nowhere") == 1
    assert "--fuse-list" in capsys.readouterr().err
    missing = tmp_path / "missing.safetensors"
    assert run(streams, "--split", "test", "--fuse", missing) == 1
    assert "missing.safetensors" in capsys.readouterr().err


def test_streams_of_frames_refuse_a_flow_network(streams, capsys):
    words = ["--weights", streams / "flow.safetensors", "--stream", streams / "videos/a/clip0.avi"]
    assert infer.main([*map(str, words), "--engine", "eager"]) == 1
    assert "--stream gives frames, but MODEL.modality is 'flow'" in capsys.readouterr().err
    with pytest.raises(WeightsError, match="is of a network for optical flow, not for frames"):
        load_trunk(str(streams / "flow.safetensors"))


def test_flow_that_was_extracted_in_another_way_is_refused(streams, tmp_path, capsys):
    shutil.copytree(streams / "flow", tmp_path / "flow")
    note = {"method": "dis", "bound": 20.0, "short_side": 48, "quality": 95}
    words = ["--weights", str(streams / "flow.safetensors"), "--engine", "eager"]
    words += [str(tmp_path / "flow")]
    (tmp_path / "flow/extract_flow.json").write_text(json.dumps(note))
    assert infer.main(words) == 0
    (tmp_path / "flow/extract_flow.json").write_text(json.dumps(note | {"bound": 8.0}))
    assert infer.main(words) == 1
    assert "its flow was extracted with Flow(method='dis', bound=8.0" in capsys.readouterr().err
    (tmp_path / "flow/extract_flow.json").write_text("[]")
    assert infer.main(words) == 1
    assert "extract_flow.json is damaged" in capsys.readouterr().err


def test_training_on_extracted_flow_notes_how_it_was_made(streams, tmp_path, capsys):
    shutil.copytree(streams / "flow", tmp_path / "flow")
    note = {"method": "farneback", "bound": 8.0, "short_side": 48, "quality": 95}
    (tmp_path / "flow/extract_flow.json").write_text(json.dumps(note))
    words = ["--config", streams / "flow.yaml", "--save_dir", tmp_path / "run", "--epoch", 1]
    words += ["--pretrain", streams / "videos.safetensors", "-o", "TRAIN.target_size=32"]
    words += ["-o", "TRAIN.short_size=40", "-o", "MODEL.num_classes=2"]
    lists = f"{tmp_path}/flow/test.list"
    words += ["-o", f"TRAIN.filelist={lists}", "-o", f"VALID.filelist={lists}"]
    words += ["-o", "VALID.short_size=40", "-o", "VALID.target_size=32"]
    assert train.main(list(map(str, words))) == 0
    assert "averaged over 3 channels, repeated for 10" in capsys.readouterr().out
    model = load_config(tmp_path / "run/best.safetensors", []).model
    assert (model.flow_method, model.flow_bound, model.flow_short_side) == ("farneback", 8.0, 48)


def test_a_flow_network_refuses_weights_for_frames(streams, capsys):
    words = ["--config", streams / "flow.yaml", "--split", "test", "--engine", "eager"]
    code = infer.main([*map(str, words), "--weights", str(streams / "videos.safetensors")])
    assert code == 1
    assert "averaged over 3 channels, repeated for 10" in capsys.readouterr().err


def test_25_segments_and_10_crops_are_the_average_by_hand(streams, monkeypatch):
    """The published protocol of TSN, against frames that are read and cut here."""
    seen = []
    conclude = Classification.conclude

    def keep(self, parts, num_bad):
        seen.append(conclude(self, parts, num_bad))
        return seen[-1]

    monkeypatch.setattr(Classification, "conclude", keep)
    assert run(streams, "--split", "test", "--segments", 25, "--crops", 10) == 0
    config = load_config(streams / "videos.yaml", [])
    model, _ = build_model(config)
    model.eval()
    capture = cv2.VideoCapture(str(streams / "videos/b/clip3.avi"))  # the first of the list
    frames = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(12)]
    picked = [frames[int(12 * (s + 0.5) / 25)] for s in range(25)]
    clip = np.stack([cv2.resize(frame, (53, 40)) for frame in picked])
    mean, std = np.float32(config.model.image_mean), np.float32(config.model.image_std)
    logits = []
    for top, left in ((0, 0), (0, 20), (8, 0), (8, 20), (4, 10)):
        cut = (clip[:, top : top + 32, left : left + 32] / np.float32(255) - mean) / std
        for view in (cut, cut[:, :, ::-1]):
            batch = paddle.to_tensor(np.ascontiguousarray(view.transpose(3, 0, 1, 2)[None]))
            logits.append(model(batch).numpy()[0])
    np.testing.assert_allclose(seen[-1].logits[0], np.mean(logits, axis=0), rtol=1e-3, atol=1e-4)


def test_many_views_are_read_few_clips_at_a_time(streams):
    for overrides, size in ((["TEST.seg_num=2"], 3), (["TEST.seg_num=25", "TEST.crops=10"], 3)):
        config = load_config(streams / "videos.yaml", overrides)
        with build_test_loader(config, "test") as loader:
            assert loader.batch_size == size
    large = ["TEST.seg_num=25", "TEST.crops=10", "TEST.short_size=256", "TEST.target_size=224"]
    with build_test_loader(load_config(streams / "videos.yaml", large), "test") as loader:
        assert loader.batch_size == 1


def test_a_flow_stream_is_explained_on_what_it_sees(streams, tmp_path):
    words = ["--weights", streams / "flow.safetensors", streams / "videos/a/clip0.avi"]
    words += ["--explain", tmp_path / "why", "--save-video", tmp_path / "drawn"]
    assert infer.main([*map(str, words)]) == 0
    assert {path.suffix for path in (tmp_path / "why").iterdir()} == {".png", ".mp4"}
    (picture,) = (tmp_path / "why").glob("*.png")
    above = cv2.imread(str(picture))[-250:-140, :240].astype(int)  # two fields, their heat below
    assert np.ptp(above[..., 2] - above[..., 1]) > 20  # x is red, y green

import json
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

from paddlevid import models
from paddlevid.bench import __main__ as bench
from paddlevid.bench import compare, soak

MACHINE = {"processor", "cores", "threads", "paddle", "python", "numpy", "peak_memory_mb"}


@pytest.mark.parametrize(
    ("words", "figures"),
    [
        (["train", "--model", "tsn_r18"], {"seconds_per_step", "clips_per_second"}),
        (["infer", "--model", "tsn_r18"], {"seconds_per_batch", "clips_per_second"}),
        (["infer", "--model", "tsn_r18", "--engine", "eager"], {"clips_per_second"}),
        (["train", "--model", "tsn_r18", "--work"], {"rate", "matrix_share"}),
        (["infer", "--model", "tsn_r18", "--work"], {"rate", "matrix_share"}),
        (["stream", "--model", "tsn_r18"], {"seconds_per_frame"}),
        (["stream", "--model", "movinet_a0_stream"], {"seconds_per_frame"}),
        (["features", "--model", "resnet18"], {"frames_per_second"}),
        (["loader", "--model", "tsn_r18", "--workers", "0"], {"seconds_per_step", "wait_share"}),
        (["prepare"], {"frames_per_second", "book_frames_per_second", "speedup"}),
    ],
)
def test_each_bench_prints_one_json_line(words, figures, capsys):
    small = ["--clips", "2", "--frames", "2", "--size", "32", "--steps", "2"]
    assert bench.main([*words, *small]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert result.keys() >= figures | MACHINE
    assert all(result[name] > 0 for name in figures)
    assert (result["bench"], result["clips"], result["steps"]) == (words[0], 2, 2)


@pytest.mark.parametrize(
    ("of", "workers"),
    [
        ("train", "0"),
        ("stream", "0"),
        *(pytest.param(of, "1", marks=pytest.mark.slow) for of in ("train", "evaluate", "stream")),
    ],
)
def test_each_soak_makes_its_steps_and_prints_the_curve(of, workers, monkeypatch, capsys):
    monkeypatch.setattr(soak, "STEPS_PER_EPOCH", 3)
    small = ["--clips", "2", "--frames", "2", "--size", "32", "--steps", "6"]
    assert bench.main(["soak", "--of", of, *small, "--workers", workers]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["bench"], result["steps"], result[of]["steps_made"]) == ("soak", 6, 6)
    steps, here, others = zip(*result[of]["points"], strict=True)
    assert steps == (0, 1, 2, 3, 4, 5, 6)
    assert here[0] == result[of]["start_mb"] > 50
    if of != "stream":
        # other tests may have left processes, such as multiprocessing's tracker
        assert (max(others) - others[0] > 10) == (workers == "1")


def test_all_soaks_run_in_processes_of_their_own_and_are_drawn(monkeypatch, tmp_path, capsys):
    ran = []

    def answer(words):
        ran.append(words)
        return {words[2]: {"points": [[0, 100.0, 50.0], [9, 110.0, 50.0]]}}

    monkeypatch.setattr("paddlevid.bench.compare.measure", answer)
    words = ["soak", "--clips", "3", "--workers", "2", "--plot", str(tmp_path / "soak.png")]
    assert bench.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert [words[:3] for words in ran] == [
        ["soak", "--of", "train"], ["soak", "--of", "evaluate"], ["soak", "--of", "stream"]
    ]  # fmt: skip
    assert {"--clips=3", "--workers=2", "--steps=2000"} <= set(ran[0])
    assert result["stream"]["points"][1] == [9, 110.0, 50.0]
    assert (tmp_path / "soak.png").stat().st_size > 1000


def test_a_leak_is_seen_in_the_growth():
    leak = []
    meter = soak.Meter(400)
    for step in range(400):
        size = 50_000_000 if step == 20 else 500_000  # a warm-up, which does not count
        leak.append(mmap.mmap(-1, size))
        leak[-1].write(bytes(size))
        meter.count()
    growth = meter.figures()["mb_per_1000_steps"]
    assert growth == pytest.approx(500, rel=0.1)
    assert len(meter.points) == soak.NUM_POINTS + 1


def test_what_stays_the_same_does_not_grow():
    meter = soak.Meter(400)
    for _ in range(400):
        np.ones(500_000, np.uint8)
        meter.count()
    assert abs(meter.figures()["mb_per_1000_steps"]) < 5


SMALL = {
    "eco_lite": {"width": 8},
    "eco_full": {"width": 8},
    "timesformer_base": {"dim": 16, "depth": 2, "num_heads": 2, "image_size": 32},
}


@pytest.mark.parametrize("what", ["train", "infer"])
@pytest.mark.parametrize("model", SMALL)
def test_each_network_can_be_measured_and_made_small(what, model, capsys):
    words = [what, "--model", model, "--arguments", json.dumps(SMALL[model])]
    assert (
        bench.main([*words, "--clips", "2", "--frames", "2", "--size", "32", "--steps", "1"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["clips_per_second"] > 0
    assert (result["bench"], result["model"], result["arguments"]) == (what, model, SMALL[model])


def test_the_arguments_reach_the_network(monkeypatch, capsys):
    made = []
    create_model = models.create_model

    def watching(*words, **named):
        made.append(create_model(*words, **named))
        return made[-1]

    monkeypatch.setattr(models, "create_model", watching)
    words = ["--model", "eco_lite", "--arguments", '{"width": 6}']
    for what in ("train", "infer"):
        assert bench.main([what, *words, "--clips", "1", "--size", "16", "--steps", "1"]) == 0
    assert [model.fc.weight.shape[0] for model in made] == [8 * 6] * 2


@pytest.mark.parametrize("words", [["--compare=torch"], ["--compare", "torch"]])
def test_what_is_compared_with_may_stand_behind_an_equals_sign(words, monkeypatch, capsys):
    monkeypatch.setattr(compare, "compare", lambda *given: given)
    assert bench.main(["train", *words, "--steps", "3"]) == 0
    assert json.loads(capsys.readouterr().out) == [["train", "--steps", "3"], "torch"]


@pytest.mark.slow
def test_paddles_own_settings_can_be_measured():
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")
    }
    words = ["infer", "--model", "tsn_r18", "--clips", "1", "--size", "32", "--steps", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "paddlevid.bench", *words, "--paddle-defaults"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["threads"], result["mkl"]) == ("1", None)


def test_a_folder_of_real_videos_can_be_used(video, capsys):
    words = ["loader", "--model", "tsn_r18", "--steps", "1", "--size", "32", "--videos"]
    assert bench.main([*words, str(video.parent)]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["wait_share"] < 1


def test_the_extraction_from_real_videos_can_be_measured(video, capsys):
    words = ["features", "--model", "resnet18", "--size", "32", "--videos", str(video.parent)]
    assert bench.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["frames_per_second"] > 0 and result["num_frames"] == 20


@pytest.mark.parametrize("flag", ["--compare", "--compare paddle-defaults"])
def test_another_way_is_measured_in_turn(flag, monkeypatch, capsys):
    ran = []

    def answer(command, **_):
        ran.append(command[3:])
        seconds = len(ran) if "--paddle-defaults" in command else len(ran) / 10
        line = json.dumps({"seconds_per_step": seconds})
        return subprocess.CompletedProcess(command, 0, stdout=line.encode())

    monkeypatch.setattr(subprocess, "run", answer)
    words = ["train", *flag.split(), "--clips", "2"]
    assert bench.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    ours, other = ["train", "--clips", "2"], ["train", "--clips", "2", "--paddle-defaults"]
    assert ran == [ours, other] * 3
    assert (result["seconds_per_step"], result["paddle_defaults"]["seconds_per_step"]) == (0.3, 4)
    assert result["speedup"] == 4 / 0.3


@pytest.mark.parametrize("with_torch", [True, False])
def test_the_tables_hold_what_was_measured(with_torch, monkeypatch, capsys):
    ran = []

    def answer(command, **_):
        ran.append(command[3:])
        seconds = 0.5 if "--torch" in command else 0.4
        found = {"seconds_per_step": seconds, "peak_memory_mb": 300.0, "matrix_share": 0.25}
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(found).encode())

    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setattr("paddlevid.bench.compare.find_spec", lambda _: with_torch or None)
    assert bench.main(["compare", "--model", "tsn_r50", "--steps", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| tsn_r50")]
    theirs = "0.500 s | **0.80** | 300 MB | 300 MB" if with_torch else " |  | 300 MB | "
    assert rows == [f"| tsn_r50 | clips 4 frames 3 size 112 | 0.400 s | {theirs} | 25% |"] * 2
    ours = [
        "--model",
        "tsn_r50",
        *["--clips", "4", "--frames", "3", "--size", "112", "--steps", "2", "--work"],
    ]
    assert ran[0] == ["train", *ours]
    assert len(ran) == (12 if with_torch else 6)
    assert ("PyTorch is not installed" in lines[0]) != with_torch


def test_an_unknown_row_is_refused(capsys):
    assert bench.main(["compare", "--model", "tsn_r19"]) == 1
    assert "--model tsn_r19: compare has cnn_lstm, convlstm, eco_full" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["features", "--model", "tsn_r50"], "unknown trunk 'tsn_r50'"),
        (["infer", "--model", "tsn_r19"], "unknown model 'tsn_r19'"),
        (["train", "--arguments", '{"depth": 3}'], "tsn_r50 has no argument 'depth'"),
        (["train", "--arguments", "width=8"], "argument --arguments: needs a dictionary as JSON"),
        (["train", "--arguments", "[8]"], "argument --arguments: needs a dictionary as JSON"),
        (["infer", "--steps", "0"], "needs a whole number from 1 up"),
        (["soak", "--model", "tsn_r50"], "soak has its own small networks"),
        (["loader", "--videos", "EMPTY"], "no videos in this folder"),
    ],
)
def test_wrong_input_gets_one_readable_line(words, message, tmp_path, capsys):
    words = [str(tmp_path) if word == "EMPTY" else word for word in words]
    try:
        assert bench.main(words) == 1
    except SystemExit as ended:
        assert ended.code == 2
    assert message in capsys.readouterr().err

"""Measurements in processes of paddlevid and of another way, in turn, and a table of them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from tqdm import tqdm

ROUNDS = 3
# What `compare` measures, in its default sizes: the words of a call.
ROWS = {
    "tsn_r50": "--clips 4 --frames 3 --size 112",
    "eco_full": "--clips 1 --frames 16 --size 224",
    "timesformer_base": "--clips 1 --frames 8 --size 224",
    "movinet_a0": "--clips 1 --frames 50 --size 172",
    "lrcn_vgg16": "--clips 2 --frames 8 --size 224",
    "convlstm": "--clips 4 --frames 10 --size 64",
    "cnn_lstm": "--clips 16 --frames 40",
}
FEATURES = {"resnet50": "--clips 16 --size 224", "inception_v3": "--clips 16 --size 299"}
STREAMS = {"movinet_a0_stream": "--clips 1 --size 172", "movinet_a2_stream": "--clips 1 --size 224"}


def measure(words: Sequence[str]) -> dict[str, object]:
    """What `python -m paddlevid.bench` says in a process of its own, with no settings of ours."""
    ours = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "FLAGS_use_stride_kernel")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-m", "paddlevid.bench", *words]
    run = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout.decode().splitlines()[-1])


def compare(words: Sequence[str], other: str) -> dict[str, object]:
    """The same measurement with paddlevid and with --`other`, in turn: the medians."""
    results: dict[str, list[dict]] = {"paddlevid": [], other: []}
    for _ in range(ROUNDS):
        for name, flags in (("paddlevid", []), (other, [f"--{other}"])):
            results[name].append(measure([*words, *flags]))
    ours, theirs = (_middle(runs) for runs in results.values())
    speedup = _seconds(theirs) / _seconds(ours)
    return {**ours, other.replace("-", "_"): theirs, "speedup": speedup}


def tables(models: Sequence[str], steps: int) -> Iterator[str]:
    """Lines of Markdown: each network, trunk and stream, beside PyTorch where it is installed.

    Args:
        models: names of rows; none: all.
    """
    with_torch = find_spec("torch") is not None
    if not with_torch:
        yield "PyTorch is not installed: its columns are empty.\n"
    tasks = [
        ("train", "training step", ROWS), ("infer", "prediction", ROWS),
        ("features", "features", FEATURES), ("stream", "a frame of a stream", STREAMS),
    ]  # fmt: skip
    known = {name for _, _, rows in tasks for name in rows}
    if unknown := sorted(set(models) - known):
        raise ValueError(f"--model {unknown[0]}: compare has {', '.join(sorted(known))}")
    for what, title, rows in tasks:
        chosen = {name: words for name, words in rows.items() if not models or name in models}
        if not chosen:
            continue
        yield f"| {title} | input | paddlevid | PyTorch | ratio | memory | of PyTorch | of matmul |"
        yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
        for name, words in tqdm(chosen.items(), title, leave=False, disable=None):
            call = [what, "--model", name, *words.split(), "--steps", str(steps)]
            if what in ("train", "infer"):
                call.append("--work")
            if with_torch and what != "stream":
                found = compare(call, "torch")
            else:
                found = _middle([measure(call) for _ in range(ROUNDS)])
            yield _row(name, words, found)
        yield ""


def _middle(runs: Sequence[dict]) -> dict:
    return sorted(runs, key=_seconds)[len(runs) // 2]


def _seconds(run: dict) -> float:
    return next(value for name, value in run.items() if name.startswith("seconds_per_"))


def _row(name: str, words: str, found: dict) -> str:
    size = words.replace("--", "")
    theirs, share = found.get("torch"), found.get("matrix_share")
    cells = [name, size, f"{_seconds(found):.3f} s", "", "", f"{found['peak_memory_mb']:.0f} MB"]
    cells += ["", "" if share is None else f"{share:.0%}"]
    if theirs:
        ratio = _seconds(found) / _seconds(theirs)
        cells[3:5] = [f"{_seconds(theirs):.3f} s", f"**{ratio:.2f}**"]
        cells[6] = f"{theirs['peak_memory_mb']:.0f} MB"
    return f"| {' | '.join(cells)} |"

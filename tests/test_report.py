"""Reports, read back as pages: their numbers, pictures and what they must not hold."""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from paddlevid import plots, report
from paddlevid.data.dataset import Item
from paddlevid.data.loader import Loader
from paddlevid.frame_metrics import FrameEvaluation, compare_frames
from paddlevid.metrics import Evaluation

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
EVIL = "<script>alert('x')</script>&\"'"


@pytest.fixture
def run(tmp_path) -> report.Run:
    weights = tmp_path / "best.pdparams"
    weights.write_bytes(b"weights")
    return report.Run(
        f"tsn on {EVIL}", f"infer.py {EVIL}", f"MODEL: {EVIL}", [("tsn_r18", 1234, weights)],
        "cpu", 3.0, 1.25, [f"{EVIL}: broken"],
    )  # fmt: skip


def weights_of(run: report.Run) -> Path:
    return run.networks[0][2]


def evaluation_of(num_classes: int, num_clips: int, seed: int = 0) -> Evaluation:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (num_clips, num_classes)).astype(np.float32)
    labels = rng.integers(0, num_classes, num_clips)
    logits[np.arange(num_clips), labels] += 2
    return Evaluation(logits, labels, np.arange(num_clips), 0.625, 1)


def page_of(run, evaluation, classes, cards=(), are_mistakes=True) -> str:
    file = weights_of(run).parent / "report.html"
    report.write_evaluation(file, run, evaluation, classes, cards, are_mistakes)
    return file.read_text(encoding="utf-8")


def values(page: str) -> dict[str, float]:
    """The figures of a page, by their ids."""
    found = re.findall(r'<b id="(\w+)"><data value="([^"]*)">', page)
    return {name: float(value) for name, value in found}


def test_the_figures_of_a_page_are_those_of_the_evaluation(run):
    evaluation = evaluation_of(4, 40)
    page = page_of(run, evaluation, ["a", "b", "c", "d"])
    assert values(page) == evaluation.summary()
    data = re.search(r'id="confusion">(.*?)</script>', page)[1]
    expected = confusion_matrix(evaluation.labels, evaluation.logits.argmax(axis=1))
    cells = {(row, column): count for row, column, count, _ in json.loads(data)["cells"]}
    assert cells == {place: count for place, count in np.ndenumerate(expected) if count}
    drawn = re.findall(r"<title>(\w) taken for (\w): (\d+) clips, ([\d.]+) %</title>", page)
    assert len(drawn) == len(cells)
    for label, prediction, count, share in drawn:
        row, column = "abcd".index(label), "abcd".index(prediction)
        assert int(count) == expected[row, column]
        assert float(share) == pytest.approx(100 * int(count) / expected[row].sum(), abs=0.051)


def test_a_page_says_what_was_run(run):
    page = html.unescape(page_of(run, evaluation_of(2, 8), ["a", "b"]))
    digest = hashlib.sha256(b"weights").hexdigest()
    for text in (digest, "tsn_r18, 1,234 parameters", "3.0 s: 1.2 s in the network, 1.8 s waiting",
                 run.command, run.config, "paddle ", "computed on cpu"):  # fmt: skip
        assert text in page
    assert '<data id="num_problems" value="1">' in page


def test_names_cannot_bring_anything_into_a_page(run):
    card = report.Card(EVIL, EVIL, [(EVIL, 0.5)], note=EVIL)
    bad = report.Card(EVIL, problem=EVIL)
    page = page_of(run, evaluation_of(2, 8), [EVIL, "</svg>"], [card, bad])
    assert "alert('x')" not in page
    assert "</svg>" not in page.replace("</svg>\n</div>", "", 1)
    file = weights_of(run).with_name("predictions.html")
    report.write_predictions(file, run, [card, bad], 2, EVIL)
    assert "alert('x')" not in file.read_text(encoding="utf-8")


def test_a_page_loads_nothing_and_runs_one_script(run):
    page = page_of(run, evaluation_of(2, 8), ["a", "b"])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'; img-src data:" in policy and "http" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1 and f"script-src 'sha256-{digest}'" in policy
    links = re.findall(r'(?:src|href|action)\s*=\s*"([^"]*)"', page)
    assert all(link.startswith("data:image/jpeg;base64,") for link in links)
    assert re.findall(r"https?://[^\s\"<]*", page) == ["http://www.w3.org/2000/svg"]


@pytest.mark.parametrize(("num_classes", "clips", "most"), [(51, 1530, 0.8), (400, 8000, 2.0)])
def test_pages_of_many_classes_stay_small(run, num_classes, clips, most):
    names = [f"a class with a name {label}" for label in range(num_classes)]
    page = page_of(run, evaluation_of(num_classes, clips), names)
    assert len(page) < most * 1e6
    cells = len(re.findall('<rect class="(?:hit|miss)"', page))
    assert cells > num_classes
    assert page.count("<title>") == 1 + (num_classes == 51) * cells


def test_the_worst_clips_are_the_mistakes_that_are_furthest_off():
    logits = np.float32([[0, 5], [4, 0], [9, 0], [2, 0], [0, 1]])
    evaluation = Evaluation(logits, np.array([0, 0, 1, 1, 1]), np.arange(5), 0.0)
    assert report.worst_clips(evaluation) == ([2, 0, 3], True)
    assert report.worst_clips(evaluation, number=2) == ([2, 0], True)
    right = Evaluation(logits, logits.argmax(axis=1), np.arange(5), 0.0)
    assert report.worst_clips(right) == ([4, 3, 1, 0, 2], False)


def test_the_hardest_classes_come_first_and_those_without_clips_last(run):
    logits = np.eye(5, dtype=np.float32)[[0, 2, 4, 4, 4]]
    evaluation = Evaluation(logits, np.array([0, 2, 2, 4, 4]), np.arange(5), 0.0)
    page = page_of(run, evaluation, ["all", "none", "half", "no clip", "whole"])
    table = page[page.index('id="classes"') :]
    rows = re.findall(r"<tr>\s*<td>([^<]+)<", table[: table.index("</table>")])
    assert rows == ["half", "all", "whole", "none", "no clip"]


def test_pairs_are_in_the_order_of_their_clips():
    confusion = np.array([[5, 1, 0], [3, 2, 0], [0, 1, 9]])
    assert report.confused_pairs(confusion, "abc") == [
        {"label": "b", "prediction": "a", "clips": 3, "share": 0.6},
        {"label": "a", "prediction": "b", "clips": 1, "share": pytest.approx(1 / 6)},
        {"label": "c", "prediction": "b", "clips": 1, "share": 0.1},
    ]


def test_calibration_compares_probability_and_accuracy():
    # Two classes: probabilities 0.8 (right, wrong) and 0.95 (right).
    logits = np.log(np.float32([[0.8, 0.2], [0.8, 0.2], [0.05, 0.95]]))
    rows, error = report.calibration(Evaluation(logits, np.array([0, 1, 1]), np.arange(3), 0.0))
    assert [(row["low"], row["clips"], row["accuracy"]) for row in rows if row["clips"]] == [
        (0.8, 2, 0.5), (0.9, 1, 1.0),
    ]  # fmt: skip
    assert error == pytest.approx((2 * 0.3 + 0.05) / 3, abs=1e-6)


def test_a_strip_shows_what_the_network_saw():
    clip = np.zeros((3, 16, 40, 60), np.float32)
    clip[0] = (np.arange(16) / 15)[:, None, None] * 4 - 2  # red, rising
    strip = report.film_strip(clip, MEAN, STD)
    assert strip.frames == "8 of 16 frames"
    content = base64.b64decode(strip.picture.removeprefix("data:image/jpeg;base64,"))
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (40, 8 * 61 - 1, 3)
    reds = image[20, 30::61, 2].astype(int)
    assert abs(reds - np.linspace(0, 15, 8).round() * 17).max() < 6
    large = report.film_strip(np.zeros((3, 2, 300, 400), np.float32), MEAN, STD, num_views=3)
    assert large.frames == "2 frames, the first of 3 views"


class Clips:
    """Grey clips whose level is their index; clip 2 can be read only once."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 5

    def fetch(self, index, epoch=0):
        self.read.append(index)
        if index == 2 and self.read.count(2) > 1:
            return Item(index, problem="gone")
        return Item(index, np.full((1, 3, 2, 8, 8), index / 5, np.float32), 0)


def test_strips_are_of_the_clips_that_were_asked_for_and_nothing_else_is_read():
    dataset = Clips()
    with Loader(dataset, 2) as loader:
        assert len(list(loader.batches())) == 3
        strips = report.film_strips(loader, [4, 2], (0.0,), (1.0,))
        assert dataset.read[5:] == [4, 2] and not loader.bad
    assert list(strips) == [4]


def test_a_report_of_frames_has_every_step(run):
    rng = np.random.default_rng(0)
    truth, wrong = rng.random((2, 3, 1, 4, 16, 16), dtype=np.float32)
    sums = compare_frames(wrong, truth)
    evaluation = FrameEvaluation(sums, 0.5, 0, {"last frame": sums})
    file = weights_of(run).parent / "frames.html"
    report.write_frames(file, run, evaluation, np.zeros((20, 30, 3), np.uint8), 3)
    page = file.read_text(encoding="utf-8")
    means = sums.summary()
    assert values(page) == {
        **{name: means[name] for name in ("mse", "mae", "psnr", "ssim")},
        "loss": 0.5, "num_clips": 3, "num_bad": 0,
    }  # fmt: skip
    steps = page[page.index('id="steps"') :]
    assert steps.count("<tr><td>network</td>") == steps.count("<tr><td>last frame</td>") == 4
    assert f"{sums.per_step()['ssim'][2]:.4f}" in steps
    assert 'class="plot"' in page and "<?xml" not in page


def test_a_figure_in_a_page_has_the_colour_of_the_page_and_escaped_names():
    svg = plots.to_svg(plots.curve_figure(np.eye(2, dtype=np.float32), [EVIL, "b"], 2))
    assert svg.startswith('<svg class="plot"') and svg.rstrip().endswith("</svg>")
    assert "currentColor" in svg and "#000000" not in svg and "<script" not in svg


def test_only_the_first_predictions_are_in_a_page_and_all_are_counted(run):
    cards = [report.Card(f"{i}.avi", best=[("ab"[i % 2], 0.5)]) for i in range(3)]
    file = weights_of(run).parent / "predictions.html"
    report.write_predictions(file, run, cards, 7, "--output has them all")
    page = file.read_text(encoding="utf-8")
    assert values(page) == {"num_inputs": 7, "num_bad": 1}
    assert "The first 3 of 7; --output has them all." in page
    assert re.search(r"<td>a</td><td class=\"num\">2</td>", page)


def test_names_that_are_not_utf8_are_written_too(run):
    name = Path(b"x\xc5\xdc.avi".decode("utf-8", "surrogateescape"))
    file = weights_of(run).parent / "predictions.html"
    report.write_predictions(file, run, [report.Card(str(name), best=[("a", 1.0)])], 1, "")
    assert r"x\udcc5\udcdc.avi" in file.read_text(encoding="utf-8")

"""Reports and dashboards as a browser shows them: Debian's chromium, led by playwright."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import write_small_config

import infer
import train

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if not CHROMIUM:
        pytest.skip("there is no chromium: apt install chromium, or set CHROMIUM to a program")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(small_data, tmp_path_factory) -> Path:
    """A folder with two short runs on dark and light clips, "one" and "two"."""
    folder = tmp_path_factory.mktemp("runs")
    config = write_small_config(folder / "small.yaml", small_data)
    train_tiny(config, folder / "one")
    train_tiny(config, folder / "two", "learning_rate=0.001")
    return folder


def train_tiny(config: Path, folder: Path, *words: str) -> None:
    overrides = [w for word in ("histogram_every=1", "draw_network=True", *words)
                 for w in ("-o", f"TRAIN.{word}")]  # fmt: skip
    words = ["--config", str(config), "--save_dir", str(folder), "--epoch", "2", *overrides]
    assert train.main(words) == 0


@pytest.fixture
def run(runs):
    return runs / "one"


# --- report.html ----------------------------------------------------------------------------------


def test_a_report_shows_the_figures_of_the_evaluation_and_asks_for_nothing(chromium, run):
    assert infer.main(["--weights", str(run / "best.pdparams"), "--split", "test"]) == 0
    page = chromium.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((run / "report.html").as_uri())

    metrics = json.loads((run / "metrics.json").read_text())
    for name, value in metrics.items():
        shown = page.locator(f"#{name} data")
        assert float(shown.get_attribute("value")) == value
        assert shown.inner_text() == (f"{value:.4f}" if isinstance(value, float) else str(value))
    assert page.locator("#fact-weights").inner_text() == str(run / "best.pdparams")

    counts = list(csv.reader((run / "confusion_matrix.csv").read_text().splitlines()))
    matrix = page.locator("#matrix")
    matrix.scroll_into_view_if_needed()
    box = matrix.bounding_box()
    cell, margin = (float(matrix.get_attribute(f"data-{name}")) for name in ("cell", "margin"))
    for row, (label, *numbers) in enumerate(counts[1:]):
        for column, number in enumerate(numbers):
            x, y = (margin + (place + 0.5) * cell for place in (column, row))
            page.mouse.move(box["x"] + x, box["y"] + y)
            expected = f"label {label}, predicted {counts[0][column + 1]}: {number} clip"
            assert page.locator("#said").inner_text().startswith(expected)
    page.mouse.move(0, 0)
    assert page.locator("#said").is_hidden()

    names = page.locator("#classes tbody tr td:first-child")
    page.locator("#classes th button", has_text="class").first.click()
    assert names.all_inner_texts() == ["dark", "light"]
    page.locator("#classes th button", has_text="class").first.click()
    assert names.all_inner_texts() == ["light", "dark"]

    strips = page.locator("#worst img")
    assert strips.count() > 0
    widths = strips.evaluate_all("images => images.map(image => image.naturalWidth)")
    assert all(width == 32 + 1 + 32 for width in widths)  # two frames, decoded, and a line
    assert (said, asked[1:]) == ([], [link for link in asked[1:] if link.startswith("data:")])
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_fits_a_phone_and_follows_its_colours(chromium, run, small_data, scheme):
    page_file, broken = run / "page.html", run / "broken.mp4"
    broken.write_bytes(b"no video")
    clips = [str(small_data / "clip 13.pkl"), str(broken)]
    words = ["--weights", str(run / "best.pdparams"), *clips, "--report", str(page_file)]
    assert infer.main(words) == 1
    page = chromium.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(","))) / 3
    assert (brightness > 128) == (scheme == "light")
    assert page.locator("#inputs .card").count() == 2
    assert "broken.mp4" in page.locator("#inputs .bad").inner_text()
    assert page.locator("#inputs img").evaluate("image => image.naturalWidth") > 0
    page.close()


def test_a_report_is_readable_without_its_script(chromium, run):
    assert infer.main(["--weights", str(run / "best.pdparams"), "--split", "valid"]) == 0
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((run / "report_valid.html").as_uri())
    metrics = json.loads((run / "metrics_valid.json").read_text())
    assert page.locator("#top1").inner_text() == f"{metrics['top1']:.4f}"
    titles = page.locator("#matrix title").all_text_contents()
    assert sum(int(title.split(": ")[1].split()[0]) for title in titles) == metrics["num_clips"]
    context.close()


# --- VisualDL -------------------------------------------------------------------------------------


@pytest.fixture
def server(runs):
    """VisualDL on the two runs: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(sys.executable).with_name("visualdl")
    words = ["--logdir", runs, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [script, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}/app"
    try:
        wait_for(lambda: fetch(address, "scalar/tags"))
        yield address
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def fetch(address: str, query: str) -> object:
    """What its API says."""
    try:
        with urllib.request.urlopen(f"{address}/api/{query}", timeout=10) as answer:
            return json.load(answer)["data"]
    except (urllib.error.URLError, OSError):
        return None


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)
    return found


def open_page(chromium, address, name, *texts):
    """Open a page and wait until it shows these texts; -> it, and what it asked of the API."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000}, locale="en-US")
    asked = []
    page.on("request", lambda request: asked.append(urllib.request.unquote(request.url)))
    page.goto(f"{address}/{name}")
    for text in texts:
        shown = page.get_by_text(text, exact=True).locator("visible=true")
        shown.first.wait_for(timeout=120_000)
    return page, asked


def test_two_runs_lie_side_by_side_in_visualdl(chromium, server, runs):
    page, asked = open_page(chromium, server, "scalar", "figures", "training")
    page.locator("canvas").first.wait_for(timeout=60_000)
    for run in ("one", "two"):
        for split in ("train", "val"):
            place = f"{runs}/{run}/vdl/{split}"
            wait_for(lambda place=place: any(f"run={place}" in url and "tag=figures/loss" in url
                                             for url in asked))  # fmt: skip
            with open(runs / run / "metrics.csv", newline="") as file:
                table = [r for r in csv.DictReader(file) if r["split"] == split and r["loss"]]
            drawn = fetch(server, f"scalar/list?run={place}&tag=figures/loss")
            assert [point[1] for point in drawn] == [int(row["step"]) for row in table]
            losses = [float(row["loss"]) for row in table]
            assert [point[2] for point in drawn] == pytest.approx(losses, rel=1e-4)
    page.close()

    page, _ = open_page(chromium, server, "sample/image", "clips/1", "confusion", "input")
    page.locator("img[src^='blob:']").first.wait_for(timeout=60_000)
    page.close()

    names = "TRAIN/learning_rate", "figures/best_top1"
    page, _ = open_page(chromium, server, "hyper-parameter", *names)
    page.close()
    rows = fetch(server, "hparams/list")
    assert len(rows) == 2
    for row in rows:
        with open(Path(row["name"]).parents[1] / "metrics.csv", newline="") as file:
            scores = [float(r["top1"]) for r in csv.DictReader(file) if r["split"] == "val"]
        metrics = row["metrics"]
        assert metrics["figures/top1"] == pytest.approx(scores[-1], rel=1e-4)
        assert metrics["figures/best_top1"] == pytest.approx(max(scores), rel=1e-4)

    page, _ = open_page(chromium, server, "pr-curve", "all", "class")
    page.locator("canvas").first.wait_for(timeout=60_000)
    page.close()
    page, _ = open_page(chromium, server, "histogram", "gradients", "weights")
    page.close()
    page, _ = open_page(chromium, server, "graph/dynamic_graph", "Choose a model")
    page.frame_locator("iframe").get_by_text("TSN", exact=True).first.wait_for(timeout=60_000)
    page.close()

"""The pages of docs/: what they name exists, their commands parse, their examples run."""

import ast
import csv
import dataclasses
import functools
import json
import re
import shlex
import shutil
import sys
import types
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import write_video

import infer
import train
from paddlevid import __main__ as commands
from paddlevid import models
from paddlevid.config import SECTIONS, load_config
from paddlevid.data.loader import Loader

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "README.zh-CN.md"])
OWN = [ROOT / "docs" / f"{name}.md" for name in
       ("architecture", "book", "extending", "recipes", "troubleshooting")]  # fmt: skip
EXTENDING = ROOT / "docs" / "extending.md"
NOTEBOOK = ROOT / "docs" / "demo.ipynb"
of_all_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
of_own_pages = pytest.mark.parametrize("page", OWN, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def spans(page: Path) -> list[str]:
    """Code inside lines, without the fenced blocks."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


# --- names ----------------------------------------------------------------------------------------


def find(name: str) -> object:
    """What a dotted name stands for; AttributeError, ModuleNotFoundError or StopIteration."""
    module, *rest = name.split(".")
    thing = import_module(module)
    for part in rest:
        module = f"{module}.{part}"
        if isinstance(thing, types.ModuleType) and not hasattr(thing, part):
            thing = import_module(module)
        elif part in getattr(thing, "__dataclass_fields__", {}):
            thing = thing.__dataclass_fields__[part]
        else:
            thing = getattr(thing, part)
    return thing


@of_all_pages
def test_modules_and_functions_that_a_page_names_exist(page):
    for span in spans(page):
        if re.fullmatch(r"paddlevid(\.\w+)+", span):
            find(span)


@of_all_pages
def test_config_keys_that_a_page_names_exist(page):
    kinds = {name.upper(): kind for name, kind in SECTIONS.items()}
    for span in spans(page):
        for section, key in re.findall(r"\b(MODEL|TRAIN|VALID|TEST|INFER)\.(\w+)", span):
            assert key in kinds[section].__dataclass_fields__, f"{page.name}: {section}.{key}"


def made_by_commands(path: str) -> bool:
    """Whether a path is of what users have or make, and not of this repository."""
    places = ("data/", "output/", "my_videos", "checkpoints/", "vdl/", "pictures/", "~/", "/")
    return path.startswith(places)


@of_own_pages
def test_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    to_write = re.findall(r"(?:Save it as|a config,) `([^`]+)`", text)
    for span in spans(page):
        path, _, test = span.partition("::")
        if re.fullmatch(r"(\w[\w.-]*/)*\w[\w-]*\.(py|md|yaml|ipynb)|(\w+/)+", path):
            if made_by_commands(path) or path in to_write or "/" not in path:
                continue
            assert (ROOT / path).exists(), f"{page.name}: {path}"
            if test:
                tests = (ROOT / path).read_text(encoding="utf-8")
                assert re.search(rf"^def {test}\(", tests, re.M), f"{page.name}: {span}"


@of_all_pages
def test_links_and_pictures_of_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            known = [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings]
            assert anchor in known, f"{page.name}: {link}"


def test_a_name_that_does_not_exist_is_found():
    for name in ("paddlevid.nothing", "paddlevid.data.loader.Loader.none"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            find(name)
    assert find("paddlevid.data.dataset.Item.problem").name == "problem"


# --- commands -------------------------------------------------------------------------------------


def check_command(line: str) -> None:
    """Parse a command of ours with its script's parser, and its config keys with the config."""
    line = re.split(r" (?:\d?>|\|)", line)[0]  # what a shell does with its output
    words = shlex.split(line, comments=True)
    if words[:2] == ["paddlevid", "--help"]:
        return
    if words[0] == "paddlevid" or words[:3] == ["python", "-m", "paddlevid"]:
        words = words[1:] if words[0] == "paddlevid" else words[3:]
        name, words = commands.COMMANDS[words[0]][0], words[1:]
    elif words[1] == "-m":
        name, words = f"{words[2]}.__main__", words[3:]
    else:
        name, words = words[1].removesuffix(".py").replace("/", "."), words[2:]
    module = import_module(name)
    if not hasattr(module, "parse_args"):
        assert name in ("paddlevid.catalogue", "paddlevid.copy_configs"), name
        return
    args = module.parse_args(words)
    config = getattr(args, "config", None)
    if name in ("train", "paddlevid.doctor.__main__") and config:
        of_data = ["MODEL.num_classes=2", "TRAIN.filelist=x.list"]
        load_config(config, [*of_data, *args.overrides])


def commands_of(text: str) -> list[str]:
    text = text.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [
        line for line in lines if re.match(r"(python|paddlevid) ", line) and "launch" not in line
    ]


@pytest.fixture
def with_inputs(tmp_path, monkeypatch):
    """A folder in which all paths that the commands of the pages read are folders."""
    monkeypatch.chdir(tmp_path)
    for name in ("hmdb51/frames", "hmdb51/pkl", "ucf101/frames", "ucf101/pkl", "ucf101_videos",
                 "ucf101_features", "pkl"):  # fmt: skip
        (tmp_path / "data" / name).mkdir(parents=True)
    for name in (
        "hmdb51",
        "UCF-101",
        "testTrainMulti_7030_splits",
        "ucfTrainTestlist",
        "my_videos",
    ):
        (tmp_path / name).mkdir()
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    [motion] = blocks(EXTENDING, "yaml")
    (tmp_path / "configs" / "motion.yaml").write_text(motion)


@pytest.mark.parametrize("page", [*OWN, NOTEBOOK], ids=lambda page: page.name)
def test_commands_of_a_page_parse(page, with_inputs):
    if page.suffix == ".ipynb":
        text = "\n".join(code_cells())
    else:
        outside = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        text = "\n".join([*blocks(page, "sh"), *re.findall(r"^    (.+)$", outside, re.M)])
    found = commands_of(text)
    for line in found:
        check_command(line)
    assert len(found) >= {"recipes.md": 20, "demo.ipynb": 8}.get(page.name, 0)


@pytest.mark.parametrize(
    "line",
    [
        "python train.py --config configs/tsn.txt --epochs",
        "python train.py --config configs/tsn.txt -o TRAIN.epochs=3",
        "paddlevid trian",
        "python data_tools/avi2jpg.py videos",
    ],
)
def test_a_command_that_is_wrong_is_found(line, capsys):
    with pytest.raises((SystemExit, ValueError, KeyError)):
        check_command(line)


# --- examples of extending.md ---------------------------------------------------------------------


def example(start: str) -> str:
    """The code block of extending.md that contains a line."""
    [found] = [block for block in blocks(EXTENDING, "python") if start in block]
    return found


@pytest.fixture
def motion(monkeypatch):
    """The network of the page, as if it stood in its file and the table."""
    module = types.ModuleType("paddlevid.models.motion")
    exec(compile(example("class Motion"), "motion.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    exec(example('MODELS["motion"]'), {"MODELS": models.MODELS})
    return module


def test_the_network_has_about_thirty_lines():
    tree = ast.parse(example("class Motion"))
    texts = sum(len(ast.get_docstring(node, clean=False).splitlines()) for node in ast.walk(tree)
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
                and ast.get_docstring(node))  # fmt: skip
    lines = [line for line in example("class Motion").splitlines() if line.strip()]
    assert len(lines) - texts <= 30


def test_the_network_of_the_page_trains_from_its_config(motion, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        for number in range(10):
            frames = rng.integers(0, 256, (16, 64, 80, 3)).astype(np.uint8)
            write_video(tmp_path / "videos" / name / f"{number}.avi", frames)
    config = tmp_path / "motion.yaml"
    [text] = blocks(EXTENDING, "yaml")
    config.write_text(text)
    words = ["--config", config, "--data", tmp_path / "videos", "--save_dir", tmp_path / "run"]
    assert train.main([*map(str, words), "--epoch", "1"]) == 0
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert resolved["MODEL"]["name"] == "motion" and resolved["MODEL"]["num_classes"] == 2
    for weights in ("best.safetensors", "best.pdparams"):  # the network has no names elsewhere
        # eagerly, as Paddle makes programs of networks in files only
        words = ["--engine", "eager", "--weights", tmp_path / "run" / weights]
        assert infer.main([*map(str, words), "--split", "test"]) == 0
        assert infer.main([*map(str, [*words, tmp_path / "videos" / "left"])]) == 0


def test_the_network_of_the_page_sees_motion_alone(motion):
    import paddle

    paddle.seed(0)
    model = motion.motion(3, width=4)
    model.eval()
    clip = paddle.rand([2, 3, 4, 16, 16])
    assert model(clip).shape == [2, 3]
    brighter = model(clip + 0.25)  # the same change from frame to frame
    np.testing.assert_allclose(brighter.numpy(), model(clip).numpy(), atol=1e-5)
    backwards = model(clip.flip(axis=[2])).numpy()
    assert np.abs(backwards - model(clip).numpy()).max() > 1e-3


def test_the_lists_of_the_page_are_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = []
    for number in range(8):
        action = ("long jump", "dive")[number % 2]
        frames = np.full((4, 32, 40, 3), 30 * number, np.uint8)
        write_video(tmp_path / "sports" / "clips" / f"video {number}.mp4", frames)
        side = ("train", "train", "train", "train", "val", "val", "test", "test")[number]
        rows.append({"video": f"clips/video {number}.mp4", "action": action, "side": side})
    with open("sports/annotations.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    exec(example("annotations.csv"), {})
    assert Path("sports/classes.txt").read_text() == "dive\nlong jump\n"
    overrides = train.data_overrides(Path("sports"), Path("run"), resume=False)
    assert "MODEL.num_classes=2" in overrides and "MODEL.format=video" in overrides
    config = load_config(ROOT / "configs/demo/tsn.yaml", overrides)
    from paddlevid.build import build_test_loader

    with build_test_loader(
        dataclasses.replace(config, test=dataclasses.replace(config.test, num_reader_threads=0)),
        "test",
    ) as loader:
        [batch] = loader.batches()
    assert batch.labels.tolist() == [1, 0]


@pytest.fixture
def match(tmp_path, monkeypatch):
    """The folder with the video that the example reads: 30 frames in 1.2 s."""
    monkeypatch.chdir(tmp_path)
    frames = (
        np.zeros((30, 36, 48, 3), np.uint8) + np.arange(30, dtype=np.uint8)[:, None, None, None]
    )
    write_video(tmp_path / "match.mp4", frames * 8)
    return tmp_path


def test_the_data_set_of_the_page_reads_the_events(match):
    space = {"__name__": "events"}
    exec(example("class EventDataset"), space)
    spans = (("match.mp4", 0.0, 0.4, 0), ("match.mp4", 0.8, 1.2, 1), ("match.mp4", 5.0, 6.0, 1),
             ("gone.mp4", 0.0, 1.0, 0))  # fmt: skip
    events = [space["Event"](Path(name), *rest) for name, *rest in spans]
    dataset = space["EventDataset"](events, 3, 32)
    first, second, late, gone = (dataset.fetch(index) for index in range(4))
    assert first.views.shape == second.views.shape == (1, 3, 3, 32, 32)
    assert (first.label, second.label) == (0, 1)
    assert second.views.mean() > first.views.mean()  # the video grows brighter
    assert "ends before 5 s" in late.problem and "does not exist" in gone.problem
    with Loader(dataset, 4, max_bad_samples=1.0) as loader:
        [batch] = loader.batches()
    assert batch.indices.tolist() == [0, 1]


def test_the_data_set_of_the_page_trains(match):
    code = example("class EventDataset") + example("Settings(folder,")
    # runtime.configure() comes before the first import of paddle, and here it is too late
    exec(code.replace("    runtime.configure()\n", ""), {"__name__": "__main__"})
    assert (match / "run" / "best.pdparams").exists()


# --- the notebook ---------------------------------------------------------------------------------


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_cells_of_the_notebook_are_code():
    for cell in code_cells():
        if not cell.startswith("%%bash"):
            ast.parse(cell)


def test_the_notebook_is_small_and_was_run_without_errors():
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert NOTEBOOK.stat().st_size < 210_000
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs and all(output["output_type"] != "error" for output in outputs)
    text = "".join(json.dumps(output) for output in outputs)
    assert not re.search(r"/(home|root|work)/", text)


# --- troubleshooting ------------------------------------------------------------------------------

TROUBLES = ROOT / "docs" / "troubleshooting.md"


@functools.cache
def texts_of_sources() -> str:
    """All texts that the sources hold, one a line, with a bar for what is put into them."""

    def text_of(node: ast.AST) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(text_of(part) for part in node.values)
        return node.value if isinstance(node, ast.Constant) else "|"

    files = [*ROOT.glob("*.py"), *ROOT.glob("data_tools/*.py"), *ROOT.glob("paddlevid/**/*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))))
    return "\n".join(
        text_of(node)
        for node in nodes
        if isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    )


def messages() -> list[str]:
    """What the first columns of the tables quote."""
    rows = re.findall(r"^\| (.+?) \| ", TROUBLES.read_text(encoding="utf-8"), re.M)
    whole = [re.fullmatch(r"`(.+)`", row) for row in rows]
    quoted = [found[1] for found in whole if found and "`, `" not in found[1]]
    return quoted + [
        span for row in rows if "`, `" in row for span in re.findall(r"`([^`]+)`", row)
    ]


def test_the_messages_of_troubleshooting_are_those_of_the_sources():
    texts = texts_of_sources()
    for message in messages():
        for part in message.split("…"):
            assert part.strip(" .?") in texts, message
    assert len(messages()) > 40


def test_a_message_that_nobody_prints_is_found():
    assert "a message that nobody" not in texts_of_sources()

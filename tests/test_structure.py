"""Who may import whom (design.md, section 5), read from the import statements."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import modules of lower levels only. A new module has to be placed here.
LEVELS = {
    "paddlevid": 0.0,
    "paddlevid.runtime": 0.0,
    "paddlevid.files": 0.0,
    "paddlevid.memory": 0.0,
    "paddlevid.pickles": 0.0,
    "paddlevid.config.keys": 0.05,
    "paddlevid.config.texts": 0.06,
    "paddlevid.config.effects": 0.05,
    "paddlevid.config.load": 0.07,
    "paddlevid.config": 0.1,
    "paddlevid.data": 0.0,
    "paddlevid.data.packets": 0.0,
    "paddlevid.data.shared_memory": 0.0,
    "paddlevid.data.limits": 0.005,
    "paddlevid.data.mp4": 0.01,
    "paddlevid.data.video": 0.03,
    "paddlevid.data.decode": 0.06,
    "paddlevid.data.sample": 0.0,
    "paddlevid.data.live": 0.1,
    "paddlevid.data.scenes": 0.1,
    "paddlevid.data.split": 0.0,
    "paddlevid.flags": 0.1,
    "paddlevid.cluster": 0.1,
    "paddlevid.pytorch": 0.1,
    "paddlevid.tensorflow": 0.1,
    "paddlevid.layers": 0.9,
    "paddlevid.layers.recurrent": 0.9,
    "paddlevid.layers.time": 0.9,
    "paddlevid.layers.trunks": 0.9,
    "paddlevid.data.frames": 1.0,
    "paddlevid.data.flow": 1.05,
    "paddlevid.data.extraction": 0.2,
    "paddlevid.data.mix": 1.0,
    "paddlevid.data.augment": 1.0,
    "paddlevid.data.encode": 0.1,
    "paddlevid.data.moving_mnist": 1.2,
    "paddlevid.frame_metrics": 1.0,
    "paddlevid.tasks": 2.6,
    "paddlevid.data.transform": 1.0,
    "paddlevid.data.dataset": 1.1,
    "paddlevid.data.features": 1.15,
    "paddlevid.data.faults": 1.15,
    "paddlevid.data.loader": 1.2,
    "paddlevid.metrics": 1.3,
    "paddlevid.losses": 1.0,
    "paddlevid.optim": 1.0,
    "paddlevid.distributed": 1.0,
    "paddlevid.weights": 1.0,
    "paddlevid.checkpoint": 1.1,
    "paddlevid.dashboard": 1.4,
    "paddlevid.plots": 1.0,
    "paddlevid.annotate": 1.1,
    "paddlevid.lists": 1.2,
    "paddlevid.models.cnn_lstm": 2.0,
    "paddlevid.models.convlstm": 2.0,
    "paddlevid.models.eco": 2.0,
    "paddlevid.models.lrcn": 2.0,
    "paddlevid.models.movinet": 2.0,
    "paddlevid.models.movinet_step": 2.05,
    "paddlevid.models.timesformer": 2.0,
    "paddlevid.models.tsn": 2.0,
    "paddlevid.models": 2.1,
    "paddlevid.convert": 2.2,
    "paddlevid.convert.names": 2.2,
    "paddlevid.convert.conversion": 2.3,
    "paddlevid.build.clips": 2.7,
    "paddlevid.build.network": 2.8,
    "paddlevid.build.training": 2.8,
    "paddlevid.build": 3.0,
    "paddlevid.features": 3.0,
    "paddlevid.program": 2.5,
    "paddlevid.stream": 2.6,
    "paddlevid.export": 4.0,
    "paddlevid.export.pieces": 4.0,
    "paddlevid.export.description": 4.1,
    "paddlevid.export.parts": 4.1,
    "paddlevid.export.onnx_file": 4.2,
    "paddlevid.export.example_clip": 4.1,
    "paddlevid.export.example_features": 4.1,
    "paddlevid.export.example_flow": 4.1,
    "paddlevid.export.example_frames": 4.1,
    "paddlevid.export.example_memory": 4.1,
    "paddlevid.export.example_state": 4.1,
    "paddlevid.export.__main__": 4.3,
    "paddlevid.explain": 4.0,
    "paddlevid.report": 4.0,
    "paddlevid.inference": 4.0,
    "paddlevid.inference.output": 4.0,
    "paddlevid.inference.networks": 4.1,
    "paddlevid.inference.evaluate": 4.2,
    "paddlevid.inference.frames": 4.3,
    "paddlevid.inference.predict": 4.3,
    "paddlevid.inference.streams": 4.3,
    "paddlevid.trainer": 4.0,
    "paddlevid.predictor": 2.55,
    "paddlevid.fusion": 2.57,
    "paddlevid.convert.__main__": 4.0,
    "paddlevid.catalogue": 4.0,
    "paddlevid.copy_configs": 4.0,
    "paddlevid.__main__": 6.0,
    "paddlevid.doctor": 4.0,
    "paddlevid.doctor.finding": 4.0,
    "paddlevid.doctor.lists": 4.1,
    "paddlevid.doctor.machine": 4.1,
    "paddlevid.doctor.training": 4.1,
    "paddlevid.doctor.__main__": 4.2,
    "paddlevid.bench": 4.1,
    "paddlevid.bench.compare": 4.1,
    "paddlevid.bench.files": 4.15,
    "paddlevid.bench.networks": 4.16,
    "paddlevid.bench.reading": 4.1,
    "paddlevid.bench.soak": 4.16,
    "paddlevid.bench.torch_eco": 4.1,
    "paddlevid.bench.torch_movinet": 4.1,
    "paddlevid.bench.torch_networks": 4.15,
    "paddlevid.bench.__main__": 4.2,
    "paddlevid.serve": 4.0,
    "paddlevid.serve.refusal": 4.0,
    "paddlevid.serve.metrics": 4.01,
    "paddlevid.serve.readers": 4.01,
    "paddlevid.serve.batcher": 4.01,
    "paddlevid.serve.upload": 4.01,
    "paddlevid.serve.service": 4.02,
    "paddlevid.serve.app": 4.03,
    "paddlevid.serve.__main__": 4.04,
    "train": 5.0,
    "infer": 5.0,
    "data_tools": 5.0,
}
DATA_TOOLS_MAY_USE = (
    "paddlevid.data", "paddlevid.features", "paddlevid.lists", "paddlevid.plots",
    "paddlevid.config", "paddlevid.flags", "paddlevid.files", "paddlevid.runtime",
    "paddlevid.distributed", "paddlevid.cluster", "paddlevid.pickles",
)  # fmt: skip
WITHOUT_PADDLE = (
    "paddlevid.data", "paddlevid.lists", "paddlevid.plots", "paddlevid.annotate",
    "paddlevid.doctor.lists", "paddlevid.doctor.machine", "data_tools",
)  # fmt: skip
MODELS_MAY_USE = ("paddlevid.layers", "paddlevid.models")
OURS = ("paddlevid", "data_tools", "train", "infer")


def module_of(path: Path) -> str:
    """paddlevid/data/__init__.py -> paddlevid.data"""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_of(path): path.read_text(encoding="utf-8")
    for path in sorted(
        [*ROOT.glob("paddlevid/**/*.py"), *ROOT.glob("data_tools/*.py"), *ROOT.glob("*.py")]
    )
}


def imports(module: str, source: str, is_package: bool = False) -> Iterator[str]:
    """All names that a source imports, inside functions too, as full names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                parts = module.split(".")
                base = [*parts[: len(parts) - node.level + is_package], *base]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def owner(name: str) -> str:
    """The module of this project that an imported name is, or is in; else the name."""
    parts = name.split(".")
    names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    found = next((part for part in names if part in LEVELS or part in SOURCES), name)
    return name if found == "paddlevid" and name != "paddlevid.__version__" else found


def level(module: str) -> float | None:
    return LEVELS.get("data_tools" if module.startswith("data_tools") else module)


def problems(module: str, source: str, is_package: bool = False) -> list[str]:
    """What a module imports although it must not."""
    if level(module) is None:
        return [f"{module} has no level in tests/test_structure.py: place it there"]
    owners = sorted({owner(name) for name in imports(module, source, is_package)})
    reasons = {target: forbids(module, target) for target in owners if target != module}
    return [f"{module} must not import {name}: {why}" for name, why in reasons.items() if why]


def forbids(module: str, target: str) -> str:
    """Why a module must not import another; empty where it may."""
    package = target.split(".")[0]
    if package == "paddle":
        is_light = module.startswith(WITHOUT_PADDLE) or level(module) < level("paddlevid.layers")
        return "this part works without paddle" if is_light else ""
    if package not in OURS:
        return ""
    if package == "data_tools":
        return "nobody imports data_tools"
    if level(target) is None:
        return "it has no level in tests/test_structure.py"
    if level(target) >= level(module):
        return f"level {level(target)} is not below {level(module)}"
    prepares = module.startswith(("data_tools", "paddlevid.lists"))
    if prepares and not target.startswith(DATA_TOOLS_MAY_USE):
        return f"preparing data needs no more than {', '.join(DATA_TOOLS_MAY_USE)}"
    if module.startswith("paddlevid.models") and not target.startswith(MODELS_MAY_USE):
        return "models use layers only"
    return ""


def is_package(module: str) -> bool:
    return (ROOT / module.replace(".", "/")).is_dir()


def test_all_sources_are_found():
    assert {"paddlevid", "paddlevid.config", "paddlevid.data.loader", "paddlevid.models.tsn",
            "train", "infer", "data_tools.avi2jpg"} <= set(SOURCES)  # fmt: skip


def test_every_package_goes_into_the_wheel():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = set(ast.literal_eval(re.search(r"^packages = (\[.*?\])", text, re.S | re.M)[1]))
    assert {module for module in SOURCES if is_package(module)} <= named


@pytest.mark.parametrize("module", SOURCES)
def test_imports_go_down(module):
    assert problems(module, SOURCES[module], is_package(module)) == []


def test_every_level_has_a_module():
    assert set(LEVELS) - {"data_tools"} <= set(SOURCES)


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("paddlevid.optim", "from paddlevid.trainer import fit", "trainer: level 4.0 is not below"),
        ("paddlevid.optim", "from paddlevid import trainer", "trainer: level 4.0 is not below"),
        ("paddlevid.optim", "import paddlevid.trainer as t", "trainer: level 4.0 is not below 1.0"),
        ("paddlevid.optim", "def f():\n    from paddlevid.build import x", "build: level 3.0 is"),
        ("paddlevid.optim", "from . import build", "paddlevid.build: level 3.0 is not below"),
        ("paddlevid.optim", "from .data.loader import Loader", "data.loader: level 1.2 is not bel"),
        ("paddlevid.optim", "from paddlevid.weights import x", "level 1.0 is not below 1.0"),
        ("paddlevid.optim", "if True:\n  import train", "import train: level 5.0 is not below"),
        ("paddlevid.optim", "import paddlevid.newone.x", "paddlevid.newone.x: it has no level"),
        ("paddlevid.optim", "from paddlevid import create_model", "create_model: it has no level"),
        ("paddlevid.data.decode", "import paddle.nn", "paddle.nn: this part works without paddle"),
        ("paddlevid.data.loader", "from paddle import io", "io: this part works without paddle"),
        ("paddlevid.config", "def f():\n    import paddle", "this part works without paddle"),
        ("paddlevid.lists", "import paddle", "import paddle: this part works without paddle"),
        ("paddlevid.plots", "import paddle", "import paddle: this part works without paddle"),
        ("paddlevid.lists", "from paddlevid.optim import x", "preparing data needs no more"),
        ("paddlevid.data.transform", "from paddlevid.data.dataset import x", "level 1.1 is not be"),
        ("paddlevid.data.mix", "import paddle", "import paddle: this part works without paddle"),
        ("paddlevid.flags", "import paddle", "import paddle: this part works without paddle"),
        ("paddlevid.layers.time", "from paddlevid.optim import x", "level 1.0 is not below 0.9"),
        ("paddlevid.models.tsn", "from paddlevid.models.eco import x", "level 2.0 is not below 2"),
        ("paddlevid.losses", "from paddlevid.models.tsn import x", "level 2.0 is not below 1.0"),
        ("paddlevid.models.tsn", "from paddlevid.config import x", "models use layers only"),
        ("paddlevid.models", "from paddlevid.data.decode import x", "models use layers only"),
        ("data_tools.avi2jpg", "from paddlevid.trainer import fit", "preparing data needs no more"),
        ("data_tools.avi2jpg", "from data_tools.jpg2pkl import pack", "nobody imports data_tools"),
        ("train", "import data_tools.avi2jpg", "nobody imports data_tools"),
        ("paddlevid.new_module", "", "paddlevid.new_module has no level"),
    ],
)  # fmt: skip
def test_a_wrong_import_would_be_found(module, source, problem):
    (found,) = problems(module, source)
    assert problem in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("paddlevid.trainer", "import paddle\nfrom paddlevid import plots\nimport numpy as np"),
        ("paddlevid.checkpoint", "from paddlevid.pickles import read_pickle"),
        ("paddlevid.layers.time", "from paddle import Tensor"),
        ("paddlevid.models.eco", "from paddlevid.layers.time import fold_time"),
        ("paddlevid.stream", "from paddlevid.models.eco import ECO"),
        ("paddlevid.metrics", "from paddlevid.data.loader import Batch"),
        ("paddlevid.metrics", "from .data.loader import Batch"),
        ("train", "from paddlevid import runtime\nfrom paddlevid.config import Config"),
        ("data_tools.avi2jpg", "from paddlevid.data.frames import write_frames"),
        ("data_tools.data_list_gener", "from paddlevid.lists import make_lists"),
        ("paddlevid.lists", "from paddlevid import plots\nfrom paddlevid.data.split import SIDES"),
        ("paddlevid.config", "import paddlevideo_like_name"),
    ],
)
def test_a_right_import_is_allowed(module, source):
    assert problems(module, source) == []


def test_the_models_table_may_import_its_models():
    assert problems("paddlevid.models", "from paddlevid.models.tsn import TSN", True) == []
    assert problems("paddlevid.models", "from .tsn import TSN", True) == []

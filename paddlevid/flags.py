"""Command lines: what the scripts and tools share beside argparse."""

import argparse
import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def infer_command() -> str:
    """What to type for infer.py: as a sub-command where this one was called as one."""
    return "paddlevid infer" if sys.argv[0].startswith("paddlevid ") else "python infer.py"


def at_least(low: int) -> Callable[[str], int]:
    """The type of a flag that takes whole numbers from `low` up."""

    def whole_number(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"needs a whole number from {low} up, not {text!r}")
        return int(text)

    return whole_number


def add_config(parser: argparse.ArgumentParser) -> None:
    """The flags for a config, and values in it, of a network that is trained."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE",
        help="as in training (default: what a .safetensors carries, or config.yaml beside)",
    )  # fmt: skip
    parser.add_argument(
        "-o", dest="overrides", metavar="SECTION.key=value", action="append", default=[],
        help="set one value of the config; may be repeated. [INFER] says how videos are read",
    )  # fmt: skip


def add_engine(parser: argparse.ArgumentParser) -> None:
    """The flags that say where and by what a network is run, see `Predictor`."""
    parser.add_argument("--device", metavar="cpu|gpu|gpu:0", help="where to compute")
    parser.add_argument(
        "--engine", choices=("auto", "eager", "program"), default="auto",
        help="program: export the network and let paddle.inference run it, with the same scores; "
        "auto (default): so on a CPU",
    )  # fmt: skip
    parser.add_argument("--half", action="store_true", help="a program on a GPU: half precision")
    parser.add_argument(
        "--tensorrt", action="store_true", help="a program on a GPU: with TensorRT where it can"
    )


def config_of(parser: Parser, weights: Path, remedy: str = "give --config FILE") -> Path:
    """The config that belongs to weights: in a .safetensors itself, else config.yaml beside."""
    if weights.is_dir():
        parser.error(f"weights {weights} is a folder: name a file in it, as best.safetensors")
    if weights.suffix == ".safetensors":
        return weights
    config = weights.parent / "config.yaml"
    if not config.exists():
        if not weights.exists():
            parser.error(f"weights {weights}: there is no such file")
        parser.error(f"there is no {config} beside the weights: {remedy}")
    return config


def dictionary(text: str) -> dict:
    """The type of a flag that takes a dictionary as JSON."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"needs a dictionary as JSON, not {text!r}")
    return value


def is_disk_full(error: Exception) -> bool:
    """Whether an error says that there is no room on the disk."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def describe(error: Exception, folder: Path, then: str = "run it again") -> str:
    """An error in words; of a full disk where it is, as `folder` was written to, and what then."""
    if is_disk_full(error):
        return f"no space left on the disk of {folder}: make room, then {then}"
    return str(error)

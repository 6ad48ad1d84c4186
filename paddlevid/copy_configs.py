"""Configs: those that come with paddlevid -> a folder of one's own: paddlevid configs [TARGET]"""

import shutil
import sys
from pathlib import Path

from paddlevid.flags import Parser, describe

PACKAGE = Path(__file__).parent


def find_configs() -> Path:
    """Where the configs are: in the package (a wheel) or beside it (a checkout)."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def copy_configs(target: Path) -> list[Path]:
    """Copy all configs to a folder: -> the files.

    Raises FileExistsError, before anything is written, where one is there already.
    """
    source = find_configs()
    files = [file for file in sorted(source.rglob("*")) if file.suffix in (".txt", ".yaml")]
    copies = {file: target / file.relative_to(source) for file in files}
    if there := [copy for copy in copies.values() if copy.exists()]:
        raise FileExistsError(f"{there[0]} is there already: name another folder as TARGET")
    for file, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return list(copies.values())


def main(argv: list[str] | None = None) -> int:
    """Copy and say what was copied; -> exit code."""
    parser = Parser(
        prog="paddlevid configs",
        description="Copy the configs that come with paddlevid, to train with and to change.",
    )
    parser.add_argument(
        "target", metavar="TARGET", nargs="?", type=Path, default=Path("configs"),
        help="folder to copy to (default: configs)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    try:
        for file in copy_configs(args.target):
            print(file)
    except OSError as error:
        print(f"paddlevid configs: {describe(error, args.target)}", file=sys.stderr)
        return 1
    return 0

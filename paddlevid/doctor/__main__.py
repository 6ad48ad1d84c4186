"""A page on this machine, and on a config and its lists: python -m paddlevid.doctor [--config F]

What other libraries are needed for is imported by the checks: one of these may be missing.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from paddlevid.doctor import machine
from paddlevid.doctor.finding import Finding, ok, wrong
from paddlevid.flags import Parser

Check = Callable[[], Iterator[Finding]]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser(
        prog="python -m paddlevid.doctor",
        description="Look for what may be wrong, and say what to do: libraries, threads, memory, "
        "disks and decoders; with --config also the config, its lists, and a few training steps. "
        "The page is for bug reports: it names paths and settings of this machine.",
        epilog="Exit code: 0 nothing is wrong (there may be warnings), 1 something is, 2 wrong "
        "usage.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="as of train.py")
    parser.add_argument(
        "-o", dest="overrides", metavar="SECTION.key=value", action="append", default=[],
        help="set one value of the config; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--save_dir", type=Path, metavar="DIR", help="the run's folder (default: as of train.py)"
    )
    args = parser.parse_args(argv)
    if args.config and not args.config.exists():
        parser.error(f"--config {args.config}: there is no such file")
    if args.overrides and not args.config:
        parser.error("-o goes with --config")
    args.save_dir = args.save_dir or Path("output") / (args.config.stem if args.config else "")
    return args


class Page:
    """Prints findings as they come, and keeps them."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, title: str, check: Check) -> bool:
        """Print what a check finds under its title: -> whether nothing of it is wrong."""
        print(f"{title}", flush=True)
        found = []
        try:
            for finding in check():
                found.append(finding)
                print(finding.lines(), flush=True)
        except Exception as error:  # such as a library that is missing
            name = type(error).__name__
            found.append(wrong(f"this check broke off: {name}: {error}", _HELP))
            print(found[-1].lines(), flush=True)
        self.findings += found
        return all(finding.level != "wrong" for finding in found)

    def conclude(self) -> int:
        """Print how much is wrong: -> exit code."""
        num_wrong, num_warnings = (
            sum(finding.level == level for finding in self.findings)
            for level in ("wrong", "warning")
        )
        plural = "" if num_warnings == 1 else "s"
        things = {0: "nothing is", 1: "1 thing is"}.get(num_wrong, f"{num_wrong} things are")
        print(f"Result: {things} wrong, {num_warnings or 'no'} warning{plural}")
        return 1 if num_wrong else 0


_HELP = "mend what is wrong above it, if anything is; else report it with this page"


def examine(args: argparse.Namespace) -> int:
    """Print the page: -> exit code."""
    page, environment = Page(), dict(os.environ)
    page.add("Libraries", machine.check_libraries)
    has_paddle = page.add("Paddle", machine.check_paddle)
    page.add("Threads", lambda: machine.check_threads(environment))
    page.add("Memory", machine.check_memory)
    page.add("Disks", lambda: _check_disks(args))
    page.add("Decoders", machine.check_decoders)
    if args.config:
        _examine_config(page, args, has_paddle)
    return page.conclude()


def _check_disks(args: argparse.Namespace) -> Iterator[Finding]:
    from paddlevid.files import cache_folder

    yield from machine.check_disk("the run's folder", args.save_dir)
    yield from machine.check_disk("the cache", cache_folder())


def _examine_config(page: Page, args: argparse.Namespace, has_paddle: bool) -> None:
    configs = []

    def check_config() -> Iterator[Finding]:
        from paddlevid.config import ConfigError, load_config

        try:
            configs.append(load_config(args.config, args.overrides))
        except ConfigError as error:
            yield wrong(str(error), "correct the config; paddlevid/config/keys.py lists all keys")
            return
        yield ok(f"{args.config}: {configs[0].model.create_name}, {configs[0].model.format}")
        for note in configs[0].notes:
            yield ok(f"note: {note}")

    def check_lists() -> Iterator[Finding]:
        from paddlevid.doctor import lists

        yield from lists.check_lists(configs[0])

    def check_training() -> Iterator[Finding]:
        from paddlevid import runtime

        runtime.configure()
        runtime.keep_freed_memory()  # as train.py
        from paddlevid.doctor import training

        yield from training.check_training(configs[0], machine.free_disk(args.save_dir))

    if not page.add("Config", check_config):
        return
    page.add("Lists", check_lists)
    if has_paddle:
        page.add("Training", check_training)
    else:
        print("Training\n  not tried, as Paddle cannot be imported")


def main(argv: list[str] | None = None) -> int:
    """Examine; -> exit code."""
    args = parse_args(argv)
    try:
        return examine(args)
    except KeyboardInterrupt:
        print("paddlevid.doctor: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""All commands: paddlevid COMMAND ..., or python -m paddlevid COMMAND ..."""

import difflib
import importlib.util
import os
import sys
from importlib import import_module
from pathlib import Path

# Command: the module with its main, and what it does. A new command is a line here.
COMMANDS = {
    "demo": ("data_tools.make_demo", "render demo videos that a laptop can learn"),
    "avi2jpg": ("data_tools.avi2jpg", "extract the frames of videos in class folders"),
    "jpg2pkl": ("data_tools.jpg2pkl", "pack extracted frames, a .pkl for each clip"),
    "lists": ("data_tools.data_list_gener", "write train, val and test lists"),
    "check": ("data_tools.check_videos", "find broken videos, write a clean list"),
    "features": ("data_tools.extract_features", "compute features of frames with a fixed trunk"),
    "flow": ("data_tools.extract_flow", "compute the optical flow of videos"),
    "train": ("train", "train a network"),
    "infer": ("infer", "predict videos and streams, or evaluate a list"),
    "configs": ("paddlevid.copy_configs", "copy the configs to a folder of your own"),
    "models": ("paddlevid.catalogue", "list the networks, their cost and published accuracy"),
    "export": ("paddlevid.export.__main__", "make a folder that predicts without paddlevid"),
    "serve": ("paddlevid.serve.__main__", "answer over HTTP what videos show"),
    "convert": ("paddlevid.convert.__main__", "convert weights of other projects"),
    "doctor": ("paddlevid.doctor.__main__", "look at machine, config and lists; say what is wrong"),
    "bench": ("paddlevid.bench.__main__", "measure networks, reading and memory"),
}


def find_module(name: str) -> str:
    """The name under which a module of COMMANDS is imported.

    A wheel holds the scripts inside the package; in a checkout they lie beside it, and the folder
    is put on the path.
    """
    if name.startswith("paddlevid."):
        return name
    inside = f"paddlevid.{name}" if "." in name else f"paddlevid.commands.{name}"
    if importlib.util.find_spec(inside.rpartition(".")[0]):
        return inside
    checkout = str(Path(__file__).parents[1])
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    return name


def describe_commands() -> str:
    """The help."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        ["usage: paddlevid COMMAND ...", "", *lines, "", "paddlevid COMMAND --help says more"]
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command: -> its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(describe_commands())
        return 0
    command, *rest = argv
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=3) or list(COMMANDS)
        print(
            f"paddlevid: there is no command {command!r}; did you mean {', '.join(near)}?",
            file=sys.stderr,
        )
        return 2
    sys.argv[0] = f"paddlevid {command}"  # argparse shows it
    return import_module(find_module(COMMANDS[command][0])).main(rest)


def run() -> int:
    """The entry point: main, which ends without a word when nobody reads on, as in `| head`."""
    try:
        code = main()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        return 141  # as a shell says of a process that SIGPIPE ended


if __name__ == "__main__":
    sys.exit(run())

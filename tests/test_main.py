"""The command paddlevid: every tool by one name, in a checkout and in a wheel."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from paddlevid import __main__ as main
from paddlevid.flags import infer_command

ROOT = Path(__file__).parents[1]


def test_the_help_has_a_line_for_each_command(capsys):
    assert main.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, what) in main.COMMANDS.items():
        assert any(re.fullmatch(rf" +{name} +{re.escape(what)}", line) for line in lines)


def test_without_a_command_it_helps(capsys):
    assert main.main([]) == 0
    assert "paddlevid COMMAND --help says more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "offered"), [("trian", "train?"), ("modls", "models"), ("x", "demo, avi2jpg")]
)
def test_an_unknown_command_offers_the_near_ones(command, offered, capsys):
    assert main.main([command]) == 2
    error = capsys.readouterr().err
    assert f"paddlevid: there is no command {command!r}; did you mean" in error
    assert offered in error


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_command_has_a_main_and_explains_itself(command, capsys):
    name = main.find_module(main.COMMANDS[command][0])
    with pytest.raises(SystemExit) as end:
        import_module(name).main(["--help"])
    assert end.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_every_script_and_every_runnable_package_is_a_command():
    scripts = [*ROOT.glob("data_tools/*.py"), *ROOT.glob("*.py")]
    packages = ROOT.glob("paddlevid/*/__main__.py")
    found = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in [*scripts, *packages]}
    assert found <= {module for module, _ in main.COMMANDS.values()}


def test_flags_and_exit_codes_go_through_from_any_folder(tmp_path):
    words = [sys.executable, "-m", "paddlevid", "demo", "videos", "--clips", "0"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("paddlevid demo: argument --clips: needs a whole number from 1")


def test_the_next_command_is_named_as_this_one_was_called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert infer_command() == "python infer.py"
    monkeypatch.setattr(import_module("train"), "main", lambda _: infer_command())
    assert main.main(["train"]) == "paddlevid infer"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
def test_a_reader_that_leaves_is_no_error():
    command = f"'{sys.executable}' -u -m paddlevid models | head -n 1"
    words = ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert "Error" not in result.stderr and "Traceback" not in result.stderr
    assert result.stdout.count("\n") == 1 and result.returncode in (0, 141)


def test_scripts_are_found_inside_a_wheel(tmp_path, monkeypatch):
    for place in ("commands", "data_tools"):
        (tmp_path / place).mkdir()
    monkeypatch.setattr("paddlevid.__path__", [str(tmp_path)])
    assert main.find_module("train") == "paddlevid.commands.train"
    assert main.find_module("data_tools.avi2jpg") == "paddlevid.data_tools.avi2jpg"
    assert main.find_module("paddlevid.catalogue") == "paddlevid.catalogue"

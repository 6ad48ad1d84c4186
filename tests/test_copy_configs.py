"""The configs that come along are copied, whole, and never over others."""

from pathlib import Path

from paddlevid import copy_configs
from paddlevid.config import load_config

ROOT = Path(__file__).parents[1]


def test_all_configs_are_copied_and_can_be_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert copy_configs.main([]) == 0
    copied = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")}
    theirs = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.*")}
    assert copied == theirs
    assert load_config("configs/demo/tsn.yaml").model.create_name == "tsn_r18"
    assert capsys.readouterr().out.split() == [str(path) for path in sorted(copied)]


def test_a_config_that_is_there_is_not_replaced(tmp_path, capsys):
    own = tmp_path / "tsn.txt"
    own.write_text("mine")
    assert copy_configs.main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error == f"paddlevid configs: {own} is there already: name another folder as TARGET\n"
    assert own.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [own]


def test_a_wheel_has_them_inside(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(copy_configs, "PACKAGE", tmp_path)
    assert copy_configs.find_configs() == tmp_path / "configs"

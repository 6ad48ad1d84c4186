"""Figures of a run, read back from metrics.csv and from VisualDL's files."""

import csv
from pathlib import Path

import numpy as np
import pytest
from visualdl import LogReader, LogWriter

from paddlevid.dashboard import Dashboard
from paddlevid.metrics import PRCurve

FIGURES = ("loss", "top1", "top5")
COLUMNS = (
    "step", "epoch", "split", *FIGURES, "learning_rate", "clips_per_second", "data_wait"
)  # fmt: skip


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def reader(folder: Path, split: str) -> LogReader:
    """What VisualDL shows of a split: the newest file of the folder."""
    newest = max((folder / "vdl" / split).glob("vdlrecords*"))
    return LogReader(file_path=str(newest))


def curve(folder: Path, split: str, tag: str) -> list[tuple[int, float]]:
    records = reader(folder, split).get_data("scalar", tag if "/" in tag else f"figures/{tag}")
    return [(record.id, pytest.approx(record.value, rel=1e-6)) for record in records]


def test_scalars_are_written_to_the_table(tmp_path):
    dashboard = Dashboard(tmp_path, FIGURES)
    dashboard.log(1, 1, "train", loss=2.5, top1=0.125, learning_rate=1e-5)
    dashboard.log(1, 1, "val", loss=1 / 3)
    dashboard.close()
    first, second = rows(tmp_path)
    assert tuple(first) == COLUMNS
    assert {name: value for name, value in first.items() if value} == {
        "step": "1", "epoch": "1", "split": "train", "loss": "2.5", "top1": "0.125",
        "learning_rate": "1e-05",
    }  # fmt: skip
    assert (second["split"], second["loss"], second["top1"]) == ("val", "0.333333", "")


def test_a_row_is_on_disk_at_once(tmp_path):
    dashboard = Dashboard(tmp_path, FIGURES)
    dashboard.log(1, 1, "train", loss=2.5)
    assert len(rows(tmp_path)) == 1
    dashboard.close()


def test_train_and_val_have_the_same_tags_so_that_they_share_a_chart(tmp_path):
    dashboard = Dashboard(tmp_path, FIGURES)
    for step in (1, 2):
        dashboard.log(step, 1, "train", loss=3.0 / step, top1=0.5)
    dashboard.log(2, 1, "val", loss=2.0, top1=0.25)
    dashboard.close()
    for split in ("train", "val"):
        tags = reader(tmp_path, split).get_tags()["scalar"]
        assert sorted(tags) == ["figures/loss", "figures/top1"]
    assert curve(tmp_path, "train", "loss") == [(1, 3.0), (2, 1.5)]
    assert curve(tmp_path, "val", "top1") == [(2, 0.25)]


def test_a_figure_that_is_not_finite_is_only_in_the_table(tmp_path):
    dashboard = Dashboard(tmp_path, FIGURES)
    dashboard.log(1, 1, "val", loss=float("nan"), top1=0.5)
    dashboard.close()
    assert rows(tmp_path)[0]["loss"] == "nan"
    assert reader(tmp_path, "val").get_tags()["scalar"] == ["figures/top1"]


def test_an_unknown_figure_is_an_error(tmp_path):
    dashboard = Dashboard(tmp_path, FIGURES)
    with pytest.raises(ValueError, match="lss"):
        dashboard.log(1, 1, "train", lss=1.0)
    dashboard.close()


def test_pictures_come_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    dashboard = Dashboard(tmp_path, FIGURES)
    dashboard.log_image(3, "val", "confusion", image)
    dashboard.close()
    (record,) = reader(tmp_path, "val").get_data("image", "confusion")
    import cv2

    encoded = np.frombuffer(record.image.encoded_image_string, np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1], image)
    assert record.id == 3


def test_settings_of_any_kind_are_logged(tmp_path):
    settings = {"a": 1, "b": 0.5, "c": "x", "d": True, "e": [1, 2], "f": None, "g": {"h": 1}}
    dashboard = Dashboard(tmp_path, FIGURES)
    dashboard.log_settings(settings, ["loss", "top1"])
    dashboard.close()
    (record,) = reader(tmp_path, "val").get_data("hyper_parameters", "hparam")
    got = {}
    for info in record.hparam.hparamInfos:
        got[info.name] = getattr(info, info.WhichOneof("type"))
    assert got == {
        "a": 1, "b": 0.5, "c": "x", "d": "True", "e": "[1, 2]", "f": "None", "g": "{'h': 1}",
    }  # fmt: skip
    assert [info.name for info in record.hparam.metricInfos] == [
        "figures/loss", "figures/top1",
    ]  # fmt: skip


def first_part(folder: Path) -> None:
    dashboard = Dashboard(folder, FIGURES)
    dashboard.log_settings({"a": 1}, ["loss"])
    dashboard.log_image(0, "train", "input", np.zeros((4, 4, 3), np.uint8))
    for step in (1, 2, 3, 4):
        dashboard.log(step, 1, "train", loss=float(step))
    dashboard.log(2, 1, "val", loss=20.0)
    dashboard.log(4, 2, "val", loss=40.0)
    dashboard.close()


def test_a_resumed_run_drops_the_rows_of_lost_work(tmp_path):
    first_part(tmp_path)
    dashboard = Dashboard(tmp_path, FIGURES, step=3)
    dashboard.log(4, 1, "train", loss=4.5)
    dashboard.close()
    got = [(row["step"], row["split"], row["loss"]) for row in rows(tmp_path)]
    assert got == [
        ("1", "train", "1"), ("2", "train", "2"), ("3", "train", "3"), ("2", "val", "20"),
        ("4", "train", "4.5"),
    ]  # fmt: skip


@pytest.mark.parametrize("resumes", [1, 2])
def test_a_resumed_run_is_one_curve_in_visualdl(tmp_path, resumes):
    # VisualDL shows only the newest file of a folder: what came before has to be in it.
    first_part(tmp_path)
    for _ in range(resumes):
        dashboard = Dashboard(tmp_path, FIGURES, step=3)
        dashboard.log(4, 1, "train", loss=4.5)
        dashboard.close()
    assert curve(tmp_path, "train", "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.5)]
    assert curve(tmp_path, "val", "loss") == [(2, 20.0)]
    assert len(reader(tmp_path, "train").get_data("image", "input")) == 1
    assert len(reader(tmp_path, "val").get_data("hyper_parameters", "hparam")) == 1
    assert len(list((tmp_path / "vdl" / "train").iterdir())) == 1


def test_a_log_and_a_table_that_were_cut_off_are_continued(tmp_path):
    first_part(tmp_path)
    (log,) = (tmp_path / "vdl" / "train").iterdir()
    log.write_bytes(log.read_bytes()[:-3])  # in the record of step 4
    table = (tmp_path / "metrics.csv").read_text()
    (tmp_path / "metrics.csv").write_text(table + "3,1,tr")
    Dashboard(tmp_path, FIGURES, step=4).close()
    assert curve(tmp_path, "train", "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert len(rows(tmp_path)) == 6


def test_a_run_that_starts_anew_forgets_the_old_figures(tmp_path):
    first_part(tmp_path)
    dashboard = Dashboard(tmp_path, FIGURES)
    dashboard.log(1, 1, "train", loss=7.0)
    dashboard.close()
    assert [row["loss"] for row in rows(tmp_path)] == ["7"]
    assert curve(tmp_path, "train", "loss") == [(1, 7.0)]
    assert len(list((tmp_path / "vdl" / "train").iterdir())) == 1


def test_resuming_without_a_table_starts_one(tmp_path):
    Dashboard(tmp_path, FIGURES, step=3).close()
    assert rows(tmp_path) == []


def test_a_run_resumed_before_the_end_of_an_epoch_drops_what_it_had_ended_with(tmp_path):
    first_part(tmp_path)
    dashboard = Dashboard(tmp_path, FIGURES, step=4, within_epoch=True)
    dashboard.log(4, 2, "train", clips_per_second=1.5)
    dashboard.close()
    dashboard = Dashboard(tmp_path, FIGURES, step=4, within_epoch=True)
    dashboard.log(4, 2, "train", clips_per_second=2.5)
    dashboard.log(4, 2, "val", loss=41.0)
    dashboard.close()
    assert curve(tmp_path, "train", "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert curve(tmp_path, "train", "training/clips_per_second") == [(4, 2.5)]
    assert curve(tmp_path, "val", "loss") == [(2, 20.0), (4, 41.0)]
    got = [(row["step"], row["split"], row["clips_per_second"]) for row in rows(tmp_path)[4:]]
    assert got == [("2", "val", ""), ("4", "train", "2.5"), ("4", "val", "")]


def test_a_run_from_before_there_were_groups_goes_on_in_the_same_curves(tmp_path):
    with LogWriter(str(tmp_path / "vdl" / "train"), file_name="vdlrecords.run.log") as old:
        old.add_hparams({"a": 1}, ["loss"])
        for step in (1, 2):
            old.add_scalar("loss", float(step), step)
            old.add_scalar("learning_rate", 0.5, step)
        old.add_image("input", np.zeros((4, 4, 3), np.uint8), 0)
    dashboard = Dashboard(tmp_path, FIGURES, step=2)
    dashboard.log(3, 1, "train", loss=3.0, learning_rate=0.25)
    dashboard.close()
    assert curve(tmp_path, "train", "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    rates = curve(tmp_path, "train", "training/learning_rate")
    assert rates == [(1, 0.5), (2, 0.5), (3, 0.25)]
    log = reader(tmp_path, "train")
    assert (log.get_tags()["image"], len(log.get_tags()["scalar"])) == (["input"], 2)
    (record,) = log.get_data("hyper_parameters", "hparam")
    assert [info.name for info in record.hparam.metricInfos] == ["figures/loss"]


def test_curves_histograms_and_the_best_figure_come_back_after_a_resume(tmp_path):
    scores, is_positive = np.float32([0.95, 0.85, 0.35, 0.15]), np.bool_([1, 0, 1, 0])
    curves = PRCurve.of(scores, is_positive, steps=10)
    dashboard = Dashboard(tmp_path, FIGURES)
    for step in (1, 2):
        dashboard.log_pr_curve(step, "class/100 %", curves)
        dashboard.log_histogram(step, "weights/fc", np.float32([1, 2, 2, np.nan, np.inf]))
        dashboard.log_best(step, "top1", step / 4)
    dashboard.log_histogram(2, "weights/lost", np.float32([np.nan]))
    dashboard.close()
    Dashboard(tmp_path, FIGURES, step=1).close()
    (record,) = reader(tmp_path, "val").get_data("pr_curve", "class/100 _")
    assert list(record.pr_curve.recall) == curves.recall.tolist()
    assert list(record.pr_curve.TP) == [2, 2, 2, 1, 1, 1, 1, 1, 1, 0]
    (record,) = reader(tmp_path, "train").get_data("histogram", "weights/fc")
    assert sum(record.histogram.hist) == 3
    assert reader(tmp_path, "train").get_tags()["histogram"] == ["weights/fc"]
    assert curve(tmp_path, "val", "best_top1") == [(1, 0.25)]

"""Pictures, looked at through their pixels and their parts; no display is needed."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddlevid import plots

CHINESE = ["走路", "跑步"]


def matrix(num_classes: int) -> np.ndarray:
    return np.eye(num_classes, dtype=np.int64) * 9 + 1


def test_the_counts_of_a_small_matrix_are_written_into_it():
    figure = plots.confusion_figure(np.array([[5, 0], [2, 7]]), ["walk", "run"])
    axes = figure.axes[0]
    assert {(text.get_text(), text.get_position()) for text in axes.texts} == {
        ("5", (0, 0)),
        ("2", (0, 1)),  # x is the prediction, y the label
        ("7", (1, 1)),
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["walk", "run"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["walk", "run"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "label")


def test_the_colours_are_shares_of_a_rows_clips():
    figure = plots.confusion_figure(np.array([[3, 1], [0, 0]]), ["a", "b"])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), [[0.75, 0.25], [0, 0]])


def test_a_large_matrix_has_no_numbers_and_a_limited_size():
    figure = plots.confusion_figure(matrix(51), [f"class {i}" for i in range(51)])
    assert len(figure.axes[0].texts) == 0
    assert len(figure.axes[0].get_xticklabels()) == 51
    sizes = [plots.confusion_figure(matrix(k), [""] * k).get_size_inches() for k in (2, 101, 400)]
    assert max(max(size) for size in sizes) <= 26


@pytest.mark.parametrize("num_classes", [2, 10, 51])
def test_all_names_fit_into_the_picture(num_classes):
    figure = plots.confusion_figure(matrix(num_classes), ["swing_baseball_bat"] * num_classes)
    image = plots.to_array(figure)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    border = np.concatenate([image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(),
                             image[:, -2:].ravel()])  # fmt: skip
    assert (border == 255).all()  # nothing is cut off
    assert (image < 128).any()


def test_a_saved_figure_is_a_png(tmp_path):
    plots.save(plots.confusion_figure(matrix(3), ["a", "b", "c"]), tmp_path / "a.png")
    image = cv2.imread(str(tmp_path / "a.png"))
    assert image is not None
    assert image.std() > 10


def test_chinese_names_give_at_most_one_line_in_the_log(tmp_path, caplog):
    plots._say_that_a_font_is_missing.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            figure = plots.confusion_figure(matrix(2), CHINESE)
            plots.to_array(figure)
            plots.save(figure, tmp_path / "a.png")
    about = [record for record in caplog.records if record.name == "paddlevid.plots"]
    has_font = any(font in plots._installed for font in plots._CJK_FONTS)
    assert len(about) == (0 if has_font else 1)
    assert has_font or "class names have characters that no known font" in about[0].getMessage()


def test_other_warnings_are_not_swallowed():
    with pytest.warns(UserWarning, match="odd"), plots._said_once_what_is_missing():
        warnings.warn("odd", UserWarning, stacklevel=1)


def test_the_counts_of_the_splits_are_stacked():
    splits = {"train": [3, 4], "val": [1, 2]}
    figure = plots.counts_figure(splits, ["a", "b"], [10, 20, 20])
    bars, lengths = figure.axes
    places = [(bar.get_x(), bar.get_width()) for bar in bars.patches]
    assert places == [(0, 3), (0, 4), (3, 1), (4, 2)]
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["train", "val"]
    assert sum(patch.get_height() for patch in lengths.patches) == 3
    assert plots.to_array(figure).std() > 10


def test_a_grid_has_a_row_for_each_clip_and_a_column_for_each_frame():
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)
    pixels = np.random.default_rng(0).integers(1, 255, (2, 3, 4, 5, 6))  # N T H W C
    pixels = pixels[..., :3]
    normalised = ((pixels / 255 - mean) / std).astype(np.float32).transpose(0, 4, 1, 2, 3)
    grid = plots.frame_grid(normalised, mean, std)
    assert grid.shape == (2 * 4, 3 * 5, 3)
    for n in range(2):
        for t in range(3):
            part = grid[n * 4 : (n + 1) * 4, t * 5 : (t + 1) * 5].astype(int)
            assert np.abs(part - pixels[n, t]).max() <= 1


def test_a_grid_cuts_off_what_no_screen_shows():
    clips = np.array([-9.0, 9.0], np.float32).reshape(1, 1, 1, 1, 2).repeat(3, axis=1)
    grid = plots.frame_grid(clips, (0.5,) * 3, (0.5,) * 3)
    np.testing.assert_array_equal(grid, [[[0] * 3, [255] * 3]])


def test_a_grid_of_flow_shows_its_first_three_channels():
    clips = np.zeros((1, 10, 2, 4, 4), np.float32)
    assert plots.frame_grid(clips, (0.5,) * 3, (0.5,) * 3).shape == (4, 8, 3)


def test_no_display_is_needed():
    code = (
        "import numpy as np; from paddlevid import plots; import sys\n"
        "print(plots.to_array(plots.confusion_figure(np.eye(2), ['a', 'b'])).shape[2])\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env=environment
    )
    assert done.stdout == "3\nFalse\n", done.stderr


# --- predicted frames -----------------------------------------------------------------------------

NUM_PAST, NUM_FUTURE = 3, 2


def parts_of(channels: int, height: int, width: int) -> list[np.ndarray]:
    """The past, the truth and what was predicted, uint8 (C, T, H, W) without black."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(50, 256, (channels, num_frames, height, width), dtype=np.uint8)
        for num_frames in (NUM_PAST, NUM_FUTURE, NUM_FUTURE)
    ]


def unit(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255


def shown(pixels: np.ndarray, factor: int) -> np.ndarray:
    """A row of the frames (C, T, H, W) in RGB, enlarged: (H', W', 3)."""
    row = np.concatenate([frame.transpose(1, 2, 0) for frame in pixels.transpose(1, 0, 2, 3)], 1)
    row = row.repeat(3, axis=2) if row.shape[2] == 1 else row
    return np.kron(row, np.ones((factor, factor, 1), int))


def assert_near(image: np.ndarray, expected: np.ndarray) -> None:
    assert image.dtype == np.uint8 and image.shape == expected.shape
    assert abs(image.astype(int) - expected).max() <= 1  # rounding


SIZES = [(40, 32, 2), (10, 20, 10), (64, 48, 1), (120, 20, 1)]  # height, width, times as large


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "factor"), SIZES)
def test_a_strip_shows_the_truth_above_the_prediction(channels, height, width, factor):
    parts = parts_of(channels, height, width)
    image = plots.prediction_strip(*(unit(part) for part in parts))
    height, width = height * factor, width * factor
    assert image.shape == (2 * height, (NUM_PAST + NUM_FUTURE) * width, 3)
    past, truth, predicted = (shown(part, factor) for part in parts)
    edge = NUM_PAST * width
    assert (image[:, edge - 1 : edge + 1] == (255, 200, 0)).all()
    assert_near(image[:height, : edge - 1], past[:, :-1])
    assert_near(image[:height, edge + 1 :], truth[:, 1:])
    assert_near(image[height:, edge + 1 :], predicted[:, 1:])
    below_the_past = image[height:, : edge - 1]
    assert np.ptp(below_the_past) == 0 and below_the_past.max() < 40


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "factor"), SIZES)
def test_a_strip_without_the_truth_is_one_row(channels, height, width, factor):
    past, _, predicted = parts_of(channels, height, width)
    image = plots.prediction_strip(unit(past), None, unit(predicted))
    edge = NUM_PAST * width * factor
    assert_near(image[:, : edge - 1], shown(past, factor)[:, :-1])
    assert_near(image[:, edge + 1 :], shown(predicted, factor)[:, 1:])
    assert (image[:, edge - 1 : edge + 1] == (255, 200, 0)).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "factor"), SIZES)
def test_a_film_shows_the_truth_beside_the_prediction(channels, height, width, factor):
    past, truth, predicted = parts_of(channels, height, width)
    film = plots.prediction_film(unit(past), unit(truth), unit(predicted))
    alone = plots.prediction_film(unit(past), None, unit(predicted))
    assert len(film) == len(alone) == NUM_PAST + NUM_FUTURE
    for t in range(NUM_PAST + NUM_FUTURE):
        now = slice(t, t + 1) if t < NUM_PAST else slice(t - NUM_PAST, t - NUM_PAST + 1)
        left, right = (past, past) if t < NUM_PAST else (truth, predicted)
        left, right = shown(left[:, now], factor), shown(right[:, now], factor)
        assert_near(film[t], np.concatenate([left, right], axis=1))
        assert_near(alone[t], right)


def test_one_channel_is_shown_in_grey_by_its_own_mean():
    values = np.array([[0.0, 1.0, -0.5]], np.float32).reshape(1, 1, 1, 1, 3)
    grid = plots.frame_grid(values, (0.5,), (0.25,))
    np.testing.assert_array_equal(grid, [[[127] * 3, [191] * 3, [95] * 3]])


def test_a_saved_image_has_the_pixels_it_was_given(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    plots.save_image(image, tmp_path / "a.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], image)


def test_each_run_has_its_memory_over_the_steps():
    curves = {
        "train": [(0, 100.0, 50.0), (50, 120.0, 60.0)],
        "stream": [(0, 90.0, 0.0), (10, 91.0, 0.0)],
    }
    figure = plots.memory_figure(curves)
    assert [axes.get_title() for axes in figure.axes] == ["train", "stream"]
    here, others = figure.axes[0].lines
    assert (list(here.get_xdata()), list(here.get_ydata())) == ([0, 50], [100, 120])
    assert list(others.get_ydata()) == [50, 60]


def test_each_predictor_has_a_line_over_the_steps_in_each_measure():
    rng = np.random.default_rng(0)
    figures = {
        name: {
            measure: rng.random(4) for measure in ("ssim", "psnr", "mae", "mse", "mse_per_pixel")
        }
        for name in ("network", "last frame")
    }
    figure = plots.steps_figure(figures)
    measures = {"MSE a frame": "mse", "MAE a frame": "mae", "PSNR, dB": "psnr", "SSIM": "ssim"}
    assert [axes.get_ylabel() for axes in figure.axes] == list(measures)
    for axes in figure.axes:
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines) == ["network", "last frame"]
        for name, line in lines.items():
            assert line.get_xdata().tolist() == [1, 2, 3, 4]
            expected = figures[name][measures[axes.get_ylabel()]]
            np.testing.assert_array_equal(line.get_ydata(), expected)
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["network", "last frame"]
    assert plots.to_array(figure).std() > 10


def test_a_line_of_text_is_as_wide_as_its_letters_and_never_wider_than_allowed():
    short, long = plots.text_mask("run", 20), plots.text_mask("run and run and run", 20)
    assert short.shape[0] == long.shape[0] == 28
    assert 20 < short.shape[1] < long.shape[1] / 3
    assert short.max() > 0.9 and short.min() == 0
    cut = plots.text_mask("run and run and run", 20, 100)
    assert 70 < cut.shape[1] <= 100
    np.testing.assert_array_equal(cut[:, : short.shape[1] - 2], long[:, : short.shape[1] - 2])
    assert plots.text_mask("run and run", 20, 3).shape[1] <= 3
    assert plots.text_mask("", 20).max() == 0
    assert plots.text_mask("a\nb", 20).shape[0] == 28


@pytest.mark.parametrize("text", ["Ползание", "ΔΩ", "café", "cost $5 and $6$"])
def test_letters_of_other_alphabets_and_dollars_are_drawn(text, caplog):
    mask = plots.text_mask(text, 24)
    box = plots.text_mask("\ue000" * len(text), 24)  # a letter that no font has
    assert mask.shape != box.shape or (mask != box).any()
    assert mask.shape[1] > 8 * len(text)


def test_a_text_beyond_the_edge_of_an_image_is_cut_off():
    image = np.zeros((10, 30, 3), np.uint8)
    mask = np.ones((8, 20), np.float32)
    plots.draw_text(image, mask, 20, 6, np.array([10, 20, 30]))
    assert (image[6:, 20:] == (10, 20, 30)).all()
    assert image[:6].max() == image[:, :20].max() == 0


def test_a_film_strip_shows_frames_evenly_and_no_higher_than_asked():
    clip = np.zeros((3, 20, 50, 40), np.float32) + np.arange(20)[:, None, None] / 20
    strip, shown = plots.film_strip(clip, (0.0,), (1.0,), most=3, height=25)
    assert (strip.shape, shown) == ((25, 62, 3), 3)  # a line between two frames
    assert strip[10, 10::21, 0].tolist() == [0, 127, 242]  # frames 0, 10 and 19 of 20
    assert strip[:, 20::21].min() == 255
    assert plots.film_strip(clip[:, :2], (0.0,), (1.0,), most=3, height=99)[1] == 2


def test_a_dollar_in_a_class_name_is_no_formula():
    counts = np.eye(2, dtype=np.int64)
    drawn = [
        plots.to_array(plots.confusion_figure(counts, ["$\\bad{$ x", name]))
        for name in ("$x_1$", "x_1")
    ]
    assert drawn[0].shape != drawn[1].shape or (drawn[0] != drawn[1]).any()


@pytest.mark.filterwarnings("error")
def test_a_caption_stands_above_its_image_and_has_room():
    image = np.full((30, 60, 3), 7, np.uint8)  # which is enlarged
    page = plots.with_caption(image, "a long text: 跑", "green")
    assert page.shape[0] == 30 + 90 and page.shape[1] >= 180
    assert (page[30:, :180] == 7).all() and (page[30:, 180:] == 255).all()
    assert (page[:30].min(axis=(0, 1)) < 200).any()

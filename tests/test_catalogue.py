"""The table of networks: multiply-adds against the specification and against counting by hand."""

import re
import subprocess
import sys

import pytest

from paddlevid import catalogue as table
from paddlevid.models import MODELS, create_model


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tsn_r50", 4.0880e9),
        ("tsn_r101", 7.8002e9),
        ("eco_lite", 46.49e9),
        pytest.param("eco_full", 64.41e9, marks=pytest.mark.slow),
        ("movinet_a0", 2.631e9 - 200 * 2048),  # published with 600 classes
        ("movinet_a0_stream", 2.426e9 - 200 * 2048),
        ("cnn_lstm", 209_715_200 + 131_072 + 256 * 400),
        pytest.param("lrcn_vgg16", 10 * 15.398e9 + 94.4e6, marks=pytest.mark.slow),
    ],
)
def test_the_multiply_adds_of_convolutional_networks_are_the_published_ones(name, expected):
    model = create_model(name, num_classes=400)
    counted = table.count_multiply_adds(model, table.input_shape(name, model))
    assert counted == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(
    ("name", "attention", "expected"),
    [
        ("timesformer_base", "divided", 195.83e9),
        ("timesformer_base", "joint", 179.56e9),
        ("timesformer_base", "space", 140.50e9),
        ("timesformer_hr", "divided", 1702.7e9),
        ("timesformer_large", "divided", 2379.9e9),
    ],
)
def test_the_multiply_adds_of_timesformers_are_the_published_ones(name, attention, expected):
    # All blocks cost the same: two networks of one and two blocks, in a narrow width, tell what
    # twelve of the full width cost. What is counted is linear or quadratic in the width.
    counts = {}
    for depth in (1, 2):
        for dim in (12, 24, 36):
            arguments = {"depth": depth, "dim": dim, "num_heads": 1, "attention": attention}
            model = create_model(name, num_classes=400, **arguments)
            shape = table.input_shape(name, model)
            counts[depth, dim] = table.count_multiply_adds(model, shape)
    first, second = (
        (counts[2, d] - counts[1, d] for d in (12, 24, 36)),
        (2 * counts[1, d] - counts[2, d] for d in (12, 24, 36)),
    )
    total = 12 * at_full_width(*first) + at_full_width(*second)
    assert total == pytest.approx(expected, rel=2e-4)


def at_full_width(at_12: int, at_24: int, at_36: int) -> float:
    """A quadratic a d^2 + b d through 0, checked at a third place, at d = 768"""
    a = (at_24 - 2 * at_12) / (24**2 - 2 * 12**2)
    b = (at_12 - a * 12**2) / 12
    assert at_36 == pytest.approx(a * 36**2 + b * 36, rel=1e-9)
    return a * 768**2 + b * 768


def test_inputs_are_the_published_ones():
    shapes = {"tsn_r50": [1, 3, 1, 224, 224], "eco_full": [1, 3, 16, 224, 224]}
    for name, shape in shapes.items():
        assert table.input_shape(name, None) == shape
    model = create_model("timesformer_hr", num_classes=2, dim=12, num_heads=1, depth=1)
    assert table.input_shape("timesformer_hr", model) == [1, 3, 16, 448, 448]


def test_published_accuracies_are_of_networks_that_exist():
    assert set(table.PUBLISHED) <= set(MODELS)
    assert all(re.search(r"\d\d\.\d %", accuracy) for accuracy, _ in table.PUBLISHED.values())


def test_the_table_has_a_line_for_each_network():
    words = [sys.executable, "-m", "paddlevid", "models", "tsn_r18", "tsn_r50"]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"tsn_r18 +11,381,712 +1\.8\d\d G  3x1x224x224 +-", lines[1])
    assert re.match(r"tsn_r50 +24,327,632 +4\.088 G  3x1x224x224 +Kinetics-400 74\.1 %", lines[2])
    assert lines[3] == "With 400 classes; of TSN, a single frame."


def test_an_unknown_network_is_one_line():
    words = [sys.executable, "-m", "paddlevid", "models", "tsm_r50"]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == 1
    assert "paddlevid models: unknown model 'tsm_r50'; did you mean tsn_r50" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_answers_without_paddle():
    words = [sys.executable, "-X", "importtime", "-m", "paddlevid", "models", "--help"]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "MODEL" in result.stdout
    assert not re.search(r"\| +paddle$", result.stderr, re.M)

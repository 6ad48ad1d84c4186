"""AutoAugment: each operation, what is drawn, and clips of any shape."""

import numpy as np
import pytest

from paddlevid.data.augment import IMAGENET_POLICY, OPERATIONS, AutoAugment, read_policy


@pytest.fixture
def clip() -> np.ndarray:
    """Three frames of smooth colours and noise."""
    rng = np.random.default_rng(0)
    ramps = np.indices((3, 40, 50)).sum(axis=0)[..., None] * np.array([1, 2, 1]) + 20
    return np.uint8(ramps + rng.integers(0, 20, (3, 40, 50, 3)))


def test_the_policy_is_the_papers():
    policy = read_policy(IMAGENET_POLICY)
    assert len(policy) == 25
    assert all(len(line) == 2 for line in policy)
    steps = [step for line in policy for step in line]
    assert {name for name, _, _ in steps} == set(OPERATIONS)
    assert all(0 <= p <= 1 and 0 <= magnitude <= 9 for _, p, magnitude in steps)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_changes_all_frames_alike(clip, name):
    still = np.repeat(clip[:1], 3, axis=0)
    for sign in (-1, 1):
        changed = OPERATIONS[name](still, 1.0, sign)
        assert changed.shape == still.shape
        assert changed.dtype == np.uint8
        assert (changed != still).any()
        np.testing.assert_array_equal(changed[0], changed[2])


@pytest.mark.parametrize("name", ["rotate", "shear_x", "color", "contrast", "sharpness"])
def test_a_strength_of_0_changes_nothing(clip, name):
    difference = OPERATIONS[name](clip, 0.0, 1).astype(int) - clip
    assert abs(difference).max() <= 1


def test_what_the_operations_do(clip):
    np.testing.assert_array_equal(OPERATIONS["invert"](clip, 0, 1), 255 - clip)
    assert len(np.unique(OPERATIONS["posterize"](clip, 1.0, 1))) <= 16
    assert OPERATIONS["solarize"](clip, 0.9, 1).max() <= max(25, 255 - 26)
    stretched = OPERATIONS["auto_contrast"](clip, 0, 1)
    assert stretched.min() == 0
    assert stretched.max(axis=(0, 1, 2)).tolist() == [255, 255, 255]
    grey = OPERATIONS["color"](clip, 1.0, -1).astype(int)
    assert np.ptp(grey, axis=-1).mean() < np.ptp(clip.astype(int), axis=-1).mean() / 5
    assert OPERATIONS["contrast"](clip, 1.0, -1).std() < clip.std() / 5
    # All frames share a histogram: a dark frame stays darker than a bright one.
    dark = np.stack([clip[0] // 4, clip[0]])
    means = OPERATIONS["equalize"](dark, 0, 1).mean(axis=(1, 2, 3))
    assert means[0] < means[1] / 2


def test_draws_depend_on_the_generator_alone(clip):
    augment = AutoAugment()
    results = [augment(clip, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4, 5)]
    np.testing.assert_array_equal(results[0], results[1])
    assert any((result != results[0]).any() for result in results[2:])


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 1, 7, 3), (2, 5, 2, 3)])
def test_any_shape_goes_through(shape):
    clip = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    flipped = clip[:, :, ::-1]  # a view with negative strides, as RandomFlip gives
    for seed in range(60):
        changed = AutoAugment()(flipped, np.random.default_rng(seed))
        assert changed.shape == shape
        assert changed.dtype == np.uint8

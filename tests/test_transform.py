"""Transforms: identities, and plain implementations of the same."""

import numpy as np
import pytest

from paddlevid.data import transform as module
from paddlevid.data.augment import AutoAugment
from paddlevid.data.transform import (
    CenterCrop,
    ColorJitter,
    Compose,
    JitterScale,
    Letterbox,
    MultiScaleCrop,
    Normalize,
    RandomCrop,
    RandomFlip,
    Resize,
    ResizedCrop,
    ResizeShortSide,
    TenCrops,
    ToUnit,
    UniformCrop,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def clip_of(height: int, width: int, num_frames: int = 3, seed: int = 0) -> np.ndarray:
    shape = (num_frames, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    """A clip whose first channel is the row and whose second is the column."""
    clip = np.zeros((2, height, width, 3), np.uint8)
    clip[..., 0] = np.arange(height)[:, None]
    clip[..., 1] = np.arange(width)
    return clip


def place(view: np.ndarray) -> tuple[int, int]:
    return int(view[0, 0, 0, 0]), int(view[0, 0, 0, 1])


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, C) -> (height, width, C) with pixel centres at half-integers, in plain NumPy."""

    def weights(old: int, new: int) -> np.ndarray:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.minimum(at.astype(int), max(old - 2, 0))
        matrix = np.zeros((new, old))
        matrix[np.arange(new), low] += 1 - (at - low)
        matrix[np.arange(new), np.minimum(low + 1, old - 1)] += at - low
        return matrix

    rows, columns = weights(image.shape[0], height), weights(image.shape[1], width)
    return np.einsum("yh,hwc,xw->yxc", rows, image.astype(float), columns)


@pytest.mark.parametrize("size", [(40, 60), (13, 17), (24, 64), (48, 31)])
def test_resizing_is_bilinear_with_half_pixel_centres(size):
    clip = clip_of(24, 31)
    resized = Resize(*size)(clip)
    assert resized.shape == (3, *size, 3) and resized.dtype == np.uint8
    for frame, image in zip(clip, resized, strict=True):
        assert np.abs(bilinear(frame, *size) - image).max() <= 1.01  # rounding


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(240, 320, (256, 341)), (320, 240, (341, 256)), (256, 256, (256, 256)), (33, 97, (256, 752))],
)
def test_the_short_side_gets_its_size_and_the_other_follows(height, width, expected):
    assert ResizeShortSide(256)(clip_of(height, width, 1)).shape[1:3] == expected


def test_resizing_to_the_same_size_changes_nothing():
    clip = clip_of(20, 30)
    np.testing.assert_array_equal(Resize(20, 30)(clip), clip)
    np.testing.assert_array_equal(ResizeShortSide(20)(clip), clip)


@pytest.mark.parametrize(("height", "width"), [(10, 20), (20, 10)])
def test_a_jittered_short_side_has_every_size_of_its_range_and_no_other(height, width):
    sides = set()
    for seed in range(80):
        clip = JitterScale(12, 16)(clip_of(height, width, 1), np.random.default_rng(seed))
        sides.add(clip.shape[1:3])
    assert sides == {(n * height // 10, n * width // 10) for n in range(12, 17)}


def test_a_jitter_of_one_size_is_a_resize_to_it():
    clip = clip_of(31, 47)
    jittered = JitterScale(40, 40)(clip, np.random.default_rng(0))
    np.testing.assert_array_equal(jittered, ResizeShortSide(40)(clip))


def test_a_mirrored_clip_can_be_resized():
    clip = clip_of(20, 30)
    mirrored = Resize(10, 15)(RandomFlip(1.0)(clip, np.random.default_rng(0)))
    assert np.abs(mirrored[:, :, ::-1].astype(int) - Resize(10, 15)(clip)).max() <= 1


# --- crops ----------------------------------------------------------------------------------------


def tsn_offsets(more: bool, width: int, height: int, crop_width: int, crop_height: int):
    """(left, top) as in TSN's code, GroupMultiScaleCrop.fill_fix_offset."""
    w, h = (width - crop_width) // 4, (height - crop_height) // 4
    offsets = [(0, 0), (4 * w, 0), (0, 4 * h), (4 * w, 4 * h), (2 * w, 2 * h)]
    if more:
        offsets += [(0, 2 * h), (4 * w, 2 * h), (2 * w, 4 * h), (2 * w, 0)]
        offsets += [(1 * w, 1 * h), (3 * w, 1 * h), (1 * w, 3 * h), (3 * w, 3 * h)]
    return offsets


@pytest.mark.parametrize("positions", [5, 13])
def test_the_fixed_places_of_a_crop_are_tsns(positions):
    ours = module.crop_places(256 - 192, 340 - 224, positions)
    theirs = tsn_offsets(positions == 13, 340, 256, 224, 192)
    assert sorted((left, top) for top, left in ours) == sorted(theirs)
    assert len(set(ours)) == positions


@pytest.mark.parametrize("positions", [5, 13])
def test_multi_scale_crops_are_those_of_tsn(positions, monkeypatch):
    taken = set()

    def crop(clip, top, left, height, width):
        taken.add((height, width, top, left))
        return clip[:, top : top + height, left : left + width]

    monkeypatch.setattr(module, "crop", crop)
    cropping = MultiScaleCrop(48, positions=positions)
    for seed in range(1500):
        assert cropping(clip_of(64, 85, 1), np.random.default_rng(seed)).shape == (1, 48, 48, 3)
    sides = [64, 56, 48, 42]
    pairs = {(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1}
    assert taken == {
        (height, width, top, left)
        for height, width in pairs
        for left, top in tsn_offsets(positions == 13, 85, 64, width, height)
    }


def test_a_multi_scale_crop_of_nearly_the_wanted_side_takes_the_wanted_side():
    clip = clip_of(50, 50, 1)
    # 50 x 0.92 = 46 is within 2 of 48, so that the crop is not resized.
    view = MultiScaleCrop(48, scales=(0.92,))(clip, np.random.default_rng(0))
    corners = [(0, 0), (0, 2), (2, 0), (2, 2)]
    assert any(np.array_equal(view, clip[:, y : y + 48, x : x + 48]) for y, x in [(0, 0), *corners])


@pytest.mark.parametrize(("height", "width"), [(31, 97), (97, 31), (2, 50), (223, 224), (17, 17)])
def test_a_multi_scale_crop_has_its_size_whatever_the_frame(height, width):
    for seed in range(30):
        view = MultiScaleCrop(24, positions=13)(
            clip_of(height, width, 2), np.random.default_rng(seed)
        )
        assert view.shape == (2, 24, 24, 3)


def test_a_resized_crop_has_the_areas_and_aspects_asked_for():
    height, width = 60, 100
    frame = np.dstack([*np.indices((height, width)), np.zeros((height, width))]).astype(np.uint8)
    step = ResizedCrop(50, (0.1, 0.4), (0.5, 2.0))
    areas, aspects = [], []
    for seed in range(300):
        clip = step(frame[None], np.random.default_rng(seed))
        assert clip.shape == (1, 50, 50, 3)
        rows, columns = clip[0, ..., 0].astype(int), clip[0, ..., 1].astype(int)
        h, w = np.ptp(rows) + 1, np.ptp(columns) + 1  # of the pixels that were seen
        areas.append(h * w / (height * width))
        aspects.append(w / h)
    assert 0.07 < min(areas) < 0.13
    assert 0.35 < max(areas) < 0.44
    assert 0.43 < min(aspects) < 0.6
    assert 1.7 < max(aspects) < 2.3
    assert 0.4 < np.mean(np.array(aspects) < 1) < 0.6  # even in the logarithm


@pytest.mark.parametrize(("height", "width"), [(10, 200), (200, 10), (1, 1)])
def test_a_resized_crop_fits_frames_of_an_odd_aspect(height, width):
    clip = np.zeros((2, height, width, 3), np.uint8)
    step = ResizedCrop(16, (0.9, 1.0))
    assert step(clip, np.random.default_rng(0)).shape == (2, 16, 16, 3)


def test_a_random_crop_lies_anywhere_inside():
    places = {place(RandomCrop(6)(ramp(8, 9), np.random.default_rng(s))) for s in range(300)}
    assert places == {(y, x) for y in range(3) for x in range(4)}
    whole = ramp(8, 8)
    np.testing.assert_array_equal(RandomCrop(8)(whole, np.random.default_rng(0)), whole)


@pytest.mark.parametrize(
    ("crops", "height", "width", "expected"),
    [
        (CenterCrop(6), 10, 21, [(2, 7)]),
        (UniformCrop(10), 10, 21, [(0, 0), (0, 5), (0, 11)]),
        (UniformCrop(10), 21, 10, [(0, 0), (5, 0), (11, 0)]),
        (UniformCrop(8), 10, 21, [(1, 0), (1, 6), (1, 13)]),
        (UniformCrop(10), 10, 10, [(0, 0)] * 3),
        (UniformCrop(8), 10, 10, [(1, 0), (1, 1), (1, 2)]),
        (UniformCrop(8), 21, 10, [(0, 1), (6, 1), (13, 1)]),
        (TenCrops(8), 16, 24, [(0, 0), (0, 16), (8, 0), (8, 16), (4, 8)]),
        (TenCrops(8), 11, 14, [(0, 0), (0, 4), (0, 0), (0, 4), (0, 2)]),
    ],
)
def test_views_lie_where_they_should(crops, height, width, expected):
    clip = ramp(height, width)
    views = crops(clip)
    assert [place(view) for view in views[: len(expected)]] == expected
    assert {view.shape for view in views} == {(2, crops.size, crops.size, 3)}
    if isinstance(crops, TenCrops):
        assert len(views) == 10
        for view, mirrored in zip(views[:5], views[5:], strict=True):
            np.testing.assert_array_equal(mirrored, view[:, :, ::-1])
    else:
        assert len(views) == len(expected)


@pytest.mark.parametrize(
    "step",
    [RandomCrop(12), lambda clip, _: CenterCrop(12)(clip), lambda clip, _: UniformCrop(12)(clip),
     lambda clip, _: TenCrops(12)(clip)],
)  # fmt: skip
@pytest.mark.parametrize(("height", "width"), [(11, 20), (20, 11), (4, 4)])
def test_a_frame_smaller_than_its_crop_is_a_readable_error(step, height, width):
    message = rf"cannot crop 12x12 from frames of {width}x{height}: short_size must be at least"
    with pytest.raises(ValueError, match=message):
        step(clip_of(height, width), np.random.default_rng(0))


# --- one draw for all frames ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        MultiScaleCrop(16),
        RandomCrop(16),
        ResizedCrop(16),
        RandomFlip(),
        ColorJitter(0.4),
        JitterScale(16, 40),
        AutoAugment(),
    ],  # fmt: skip
    ids=repr,
)
def test_all_frames_of_a_clip_get_the_same_draw(step):
    clip = np.repeat(clip_of(24, 32, 1), 4, axis=0)
    results = []
    for seed in range(8):
        out = step(clip, np.random.default_rng(seed))
        again = step(clip, np.random.default_rng(seed))
        np.testing.assert_array_equal(out, again)
        assert (out == out[:1]).all()
        results.append(out.tobytes())
    assert len(set(results)) > 1


def test_a_flip_mirrors_left_and_right_as_often_as_asked():
    clip = clip_of(4, 5)
    np.testing.assert_array_equal(RandomFlip(0)(clip, np.random.default_rng(0)), clip)
    np.testing.assert_array_equal(RandomFlip(1)(clip, np.random.default_rng(0)), clip[:, :, ::-1])
    rng = np.random.default_rng(0)
    flipped = sum(not np.array_equal(RandomFlip(0.3)(clip, rng), clip) for _ in range(1000))
    assert 250 < flipped < 350


def test_a_transform_leaves_the_clip_it_gets_alone():
    clip = clip_of(30, 40)
    before = clip.copy()
    for step in (
        MultiScaleCrop(20), RandomCrop(20), ResizedCrop(20), AutoAugment(), RandomFlip(1),
        ColorJitter(0.5), Resize(9, 9), JitterScale(9, 50),
    ):  # fmt: skip
        step(clip, np.random.default_rng(0))
    np.testing.assert_array_equal(clip, before)


# --- colours --------------------------------------------------------------------------------------


def test_no_jitter_changes_nothing():
    every_grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    for clip in (clip_of(64, 64), every_grey):
        np.testing.assert_array_equal(ColorJitter(0)(clip, np.random.default_rng(0)), clip)


class Fixed:
    """A generator that draws what it is told."""

    def __init__(self, *draws: float):
        self.draws = draws

    def uniform(self, low, high, size):
        assert (low, high, size) == (0.5, 1.5, 3)
        return np.array(self.draws)


def test_jitter_changes_brightness_contrast_and_saturation():
    clip = clip_of(16, 16) // 2 + 30
    as_floats = clip.astype(float)
    brighter = ColorJitter(0.5)(clip, Fixed(1.3, 1, 1))
    np.testing.assert_allclose(brighter, as_floats * 1.3, atol=0.8)
    grey = ColorJitter(0.5)(clip, Fixed(1, 1, 0))
    luma = as_floats @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(grey, luma[..., None].repeat(3, -1), atol=0.8)
    flat = ColorJitter(0.5)(clip, Fixed(1, 0, 1))
    np.testing.assert_allclose(flat, luma.mean(), atol=0.8)
    assert ColorJitter(0.5)(clip_of(8, 8) // 2 + 128, Fixed(1.5, 1, 1)).max() == 255


def test_all_of_jitter_at_once_is_brightness_then_saturation_then_contrast():
    clip = clip_of(16, 16)
    pixels = clip.astype(float) * 0.8
    grey = pixels @ [0.299, 0.587, 0.114]
    pixels = grey[..., None] + 1.4 * (pixels - grey[..., None])
    pixels = grey.mean() + 0.6 * (pixels - grey.mean())
    jittered = ColorJitter(0.5)(clip, Fixed(0.8, 0.6, 1.4))
    # OpenCV counts in 1/1024: half a grey level by rounding, and a little more.
    np.testing.assert_allclose(jittered, np.clip(pixels, 0, 255), atol=0.8)


@pytest.mark.parametrize(
    "step", [ResizeShortSide(17), JitterScale(9, 40), Resize(15, 31), Letterbox(9, 9), RandomFlip()]
)
@pytest.mark.parametrize(("height", "width"), [(24, 31), (97, 33), (7, 8)])
def test_frames_that_come_in_the_first_steps_size_give_the_same_views(step, height, width):
    transform = Compose([step, RandomFlip(0.5), ColorJitter(0.4)], Normalize(MEAN, STD))
    clip = clip_of(height, width)
    for seed in range(20):
        size = transform.first_size(height, width, np.random.default_rng(seed))
        views = transform(module.resize(clip, *size), np.random.default_rng(seed))
        np.testing.assert_array_equal(views, transform(clip, np.random.default_rng(seed)))


def test_without_a_step_that_resizes_frames_keep_their_size():
    for steps in ([], [RandomFlip()], [RandomCrop(4), Resize(2, 2)]):
        transform = Compose(steps, Normalize(MEAN, STD))
        assert transform.first_size(20, 30, np.random.default_rng(0)) == (20, 30)


def test_normalizing_is_the_formula_with_channels_first():
    clip = clip_of(5, 7)
    out = Normalize(MEAN, STD)(clip)
    assert out.dtype == np.float32 and out.shape == (3, 3, 5, 7) and out.flags.c_contiguous
    expected = ((clip / 255 - np.array(MEAN)) / np.array(STD)).transpose(3, 0, 1, 2)
    np.testing.assert_allclose(out, expected, atol=2e-6)


# --- all together ---------------------------------------------------------------------------------


def test_steps_run_in_their_order_and_crops_become_views():
    clip = clip_of(20, 30)
    normalize = Normalize(MEAN, STD)
    plain = Compose([Resize(16, 24), RandomFlip(1)], normalize)(clip, np.random.default_rng(0))
    assert plain.shape == (1, 3, 3, 16, 24)
    np.testing.assert_array_equal(plain[0], normalize(Resize(16, 24)(clip)[:, :, ::-1]))
    views = Compose([], normalize, TenCrops(16))(clip, np.random.default_rng(0))
    assert views.shape == (10, 3, 3, 16, 16)
    for view, crop in zip(views, TenCrops(16)(clip), strict=True):
        np.testing.assert_array_equal(view, normalize(crop))


def test_the_steps_of_a_kind_can_be_left_out_and_the_rest_stays():
    normalize, crops = Normalize(MEAN, STD), TenCrops(16)
    whole = Compose([RandomFlip(1), Resize(16, 24), RandomFlip(0)], normalize, crops)
    without = whole.without(RandomFlip)
    assert list(without.steps) == [Resize(16, 24)]
    assert (without.normalize, without.crops) == (normalize, crops)
    assert len(whole.steps) == 3  # the whole one is not changed
    assert list(whole.without(ColorJitter).steps) == list(whole.steps)
    clip = clip_of(20, 30)
    expected = Compose([Resize(16, 24)], normalize, crops)(clip, np.random.default_rng(0))
    np.testing.assert_array_equal(without(clip, np.random.default_rng(0)), expected)
    assert not np.array_equal(whole(clip, np.random.default_rng(0)), expected)


@pytest.mark.parametrize(
    ("height", "width", "bars"),  # bars: above and left
    [(30, 40, (3, 0)), (40, 30, (0, 3)), (24, 24, (0, 0)), (12, 12, (0, 0)), (31, 47, (4, 0))],
)
def test_a_letterbox_keeps_the_aspect_ratio_between_black_bars(height, width, bars):
    clip = clip_of(height, width) // 2 + 100  # no black in it
    box = Letterbox(24, 24)(clip)
    assert (box.shape, box.dtype) == ((3, 24, 24, 3), np.uint8)
    ratio = max(height, width) / 24
    inside = Resize(int(height / ratio), int(width / ratio))(clip)
    top, left = bars
    _, rows, columns, _ = inside.shape
    np.testing.assert_array_equal(box[:, top : top + rows, left : left + columns], inside)
    assert (box == 0).all(axis=(0, 3)).sum() == 24 * 24 - rows * columns


# --- frames to predict ----------------------------------------------------------------------------


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_to_predict_go_from_0_to_1_in_colour_or_in_grey(grey, mirrored):
    clip = clip_of(5, 7)
    clip[0, 0, 0], clip[0, 0, 1] = 0, 255
    if mirrored:
        clip = RandomFlip(1.0)(clip, np.random.default_rng(0))
    out = ToUnit(grey)(clip)
    assert (out.shape, out.dtype) == ((1 if grey else 3, 3, 5, 7), np.float32)
    assert out.flags.c_contiguous
    assert (out.min(), out.max()) == (0, 1)
    if grey:
        expected = (clip @ np.array([0.299, 0.587, 0.114]))[None] / 255
        np.testing.assert_allclose(out, expected, atol=1 / 255)
    else:
        np.testing.assert_allclose(out, clip.transpose(3, 0, 1, 2) / 255, atol=1e-6)

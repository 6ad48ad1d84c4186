"""Errors of predicted frames against scikit-image, OpenCV and by hand; simple predictors."""

import cv2
import numpy as np
import pytest
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from paddlevid.frame_metrics import FrameEvaluation, FrameSums, compare_frames, go_on, repeat_last


def pair(channels: int, num_clips: int = 3, steps: int = 4, size=(17, 23)) -> list[np.ndarray]:
    """Smooth frames and noisy ones like them, both (N, C, n, H, W)."""
    rng = np.random.default_rng(channels)
    noise = rng.random((num_clips, channels, steps, *size))
    truth = np.stack([cv2.GaussianBlur(plane, (0, 0), 2) for plane in noise.reshape(-1, *size)])
    truth = ((truth - truth.min()) / np.ptp(truth)).reshape(noise.shape)
    strength = np.geomspace(0.005, 0.3, steps)[:, None, None]  # each step is worse
    frames = np.clip(truth + strength * rng.normal(size=truth.shape), 0, 1)
    return [frames.astype(np.float32), truth.astype(np.float32)]


def ssim_by_hand(one: np.ndarray, other: np.ndarray) -> float:
    """Wang et al. 2004 of two planes (H, W), where the window of 11 pixels fits."""
    one, other = one.astype(np.float64), other.astype(np.float64)

    def blur(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (11, 11), 1.5)[5:-5, 5:-5]

    a, b = blur(one), blur(other)
    variances = blur(one * one) - a * a + blur(other * other) - b * b
    covariance = blur(one * other) - a * b
    c1, c2 = 0.01**2, 0.03**2
    map_ = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variances + c2))
    return map_.mean()


def each(frames: np.ndarray, truth: np.ndarray, measure) -> np.ndarray:
    """Of every frame as (H, W, C), summed over the clips: (n,)"""
    values = [
        [
            measure(frames[n, :, t].transpose(1, 2, 0), truth[n, :, t].transpose(1, 2, 0))
            for t in range(truth.shape[2])
        ]
        for n in range(len(truth))
    ]
    return np.sum(values, axis=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_figures_of_each_step_are_those_of_scikit_image(channels):
    frames, truth = pair(channels)
    sums = compare_frames(frames, truth)
    pixels = channels * 17 * 23
    expected = {
        "mse": each(frames, truth, mean_squared_error) * pixels,
        "mae": each(frames, truth, lambda a, b: abs(a - b).mean(dtype=np.float64)) * pixels,
        "psnr": each(frames, truth, lambda a, b: peak_signal_noise_ratio(b, a, data_range=1)),
        "ssim": each(
            frames,
            truth,
            lambda a, b: structural_similarity(
                a.astype(np.float64), b.astype(np.float64), channel_axis=-1, data_range=1,
                gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            ),
        ),
    }  # fmt: skip
    assert sums.steps.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(sums.steps[name], values, rtol=1e-5, err_msg=name)
    assert (sums.num_clips, sums.pixels) == (3, pixels)


@pytest.mark.parametrize(("channels", "size"), [(1, (17, 23)), (3, (17, 23)), (1, (11, 11))])
def test_ssim_is_that_of_the_paper(channels, size):
    frames, truth = pair(channels, size=size)
    expected = [
        [
            np.mean([ssim_by_hand(frames[n, c, t], truth[n, c, t]) for c in range(channels)])
            for t in range(4)
        ]
        for n in range(3)
    ]
    got = compare_frames(frames, truth).per_step()["ssim"]
    np.testing.assert_allclose(got, np.mean(expected, axis=0), atol=1e-5)
    assert 0 < got.min() < 0.6 and got.max() > 0.7  # of all qualities


def test_small_batches_add_up_to_the_large_one():
    frames, truth = pair(1, num_clips=5)
    whole = compare_frames(frames, truth)
    parts = [compare_frames(frames[a:b], truth[a:b]) for a, b in [(0, 1), (1, 4), (4, 5)]]
    total = FrameSums.total(parts)
    assert (total.num_clips, total.pixels) == (whole.num_clips, whole.pixels) == (5, 17 * 23)
    for name, values in whole.per_step().items():
        np.testing.assert_allclose(total.per_step()[name], values, rtol=1e-6, err_msg=name)


def test_errors_are_summed_over_a_frame_and_also_told_a_pixel():
    truth = np.full((2, 3, 2, 12, 16), 0.5, np.float32)
    frames = truth.copy()
    frames[:, :, 1] += np.float32(0.1)  # the first step is right
    frames[1, :, 1] += np.float32(0.2)  # the second clip is worse
    means = compare_frames(frames, truth).per_step()
    pixels = 3 * 12 * 16
    assert means["mse"] == pytest.approx([0, pixels * (0.01 + 0.09) / 2], rel=1e-5)
    assert means["mae"] == pytest.approx([0, pixels * 0.2], rel=1e-5)
    assert means["mse_per_pixel"] == pytest.approx([0, 0.05], rel=1e-5)
    assert means["mae_per_pixel"] == pytest.approx([0, 0.2], rel=1e-5)
    # PSNR is the mean of the frames' own, not that of the mean error.
    assert means["psnr"] == pytest.approx([100, (20 - 10 * np.log10(0.09)) / 2], rel=1e-5)
    summary = compare_frames(frames, truth).summary()
    assert summary["mse_per_pixel"] == pytest.approx(0.025, rel=1e-5)
    assert summary["mae"] == pytest.approx(pixels * 0.1, rel=1e-5)


def test_identical_frames_have_no_error_and_a_limited_psnr():
    _, truth = pair(3)
    summary = compare_frames(truth.copy(), truth).summary()
    assert (summary["mse"], summary["mae"], summary["psnr"]) == (0, 0, 100)
    assert summary["ssim"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("size", [(10, 20), (20, 10)])
def test_frames_too_small_for_ssim_are_a_readable_error(size):
    frames = np.zeros((1, 1, 2, *size), np.float32)
    message = f"frames of {size[1]}x{size[0]} pixels are too small for SSIM: needs 11 a side"
    with pytest.raises(ValueError, match=message):
        compare_frames(frames, frames)


# --- the evaluation -------------------------------------------------------------------------------


def evaluation(error: float, loss: float, num_bad: int = 0) -> FrameEvaluation:
    truth = np.full((4, 1, 3, 12, 16), 0.5, np.float32)
    return FrameEvaluation(compare_frames(truth + np.float32(error), truth), loss, num_bad)


def test_the_figures_of_an_evaluation_are_a_pixel():
    figures = evaluation(0.1, 0.3).figures
    assert list(figures) == ["loss", "mse", "mae", "psnr", "ssim"]
    assert figures["loss"] == 0.3
    assert figures["mse"] == pytest.approx(0.01, rel=1e-5)
    assert figures["mae"] == pytest.approx(0.1, rel=1e-5)
    assert figures["psnr"] == pytest.approx(20, rel=1e-5)
    # Flat frames: SSIM is what it says of the means.
    expected = (2 * 0.5 * 0.6 + 1e-4) / (0.5**2 + 0.6**2 + 1e-4)
    assert figures["ssim"] == pytest.approx(expected, rel=1e-4)


def test_the_better_evaluation_has_the_lower_squared_error_and_then_the_lower_loss():
    best, worse, worst = evaluation(0.1, 0.4), evaluation(0.1, 0.5), evaluation(0.2, 0.1)
    assert best.quality > worse.quality > worst.quality


def test_an_evaluation_tells_in_words_what_was_left_out():
    assert evaluation(0.1, 0.3).in_words().startswith(
        "loss 0.30000 MSE 1.92 a frame (0.01000 a pixel) SSIM 0.98"
    )  # fmt: skip
    assert evaluation(0.1, 0.3).in_words().endswith(" of 4 clips")
    assert evaluation(0.1, 0.3, 2).in_words().endswith(" of 4 clips (2 left out)")
    assert evaluation(0.1, 0.3, 2).counts() == {"num_clips": 4, "num_bad": 2}


# --- simple predictors ----------------------------------------------------------------------------


def blob(num_frames: int, velocity: tuple[int, int], channels: int = 1) -> np.ndarray:
    """A smooth blob that moves by (y, x) pixels a frame: (1, C, T, 64, 64)."""
    y, x = np.mgrid[:64, :64]
    frames = np.stack(
        [
            np.exp(-((y - 30 - t * velocity[0]) ** 2 + (x - 26 - t * velocity[1]) ** 2) / 80)
            for t in range(num_frames)
        ]
    )
    levels = np.linspace(1, 0.5, channels)[:, None, None, None]
    return (levels * frames)[None].astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("velocity", [(0, 2), (2, 0), (-2, 2)])
def test_a_blob_that_moves_is_followed_by_linear_motion(velocity, channels):
    clip = blob(7, velocity, channels)
    past, future = clip[:, :, :4], clip[:, :, 4:]
    errors = [
        compare_frames(predict(past, 3), future).per_step()["mse"]
        for predict in (go_on, repeat_last)
    ]
    assert (errors[0] < 0.2 * errors[1]).all()


def test_a_blob_that_rests_stays_where_it_is():
    clip = blob(6, (0, 0))
    np.testing.assert_allclose(go_on(clip[:, :, :3], 3), clip[:, :, 3:], atol=0.01)


def test_every_clip_and_every_channel_goes_its_own_way():
    one, other = blob(4, (0, 2), 3), blob(4, (2, 0), 3)
    both = go_on(np.concatenate([one, other]), 5)
    assert (both.shape, both.dtype) == ((2, 3, 5, 64, 64), np.float32)
    np.testing.assert_array_equal(both[:1], go_on(one, 5))
    np.testing.assert_array_equal(both[1:], go_on(other, 5))
    np.testing.assert_allclose(both[:, 2], 0.5 * both[:, 0], atol=1e-3)  # as bright as in the past


def test_the_last_frame_is_repeated():
    past = np.random.default_rng(0).random((2, 3, 4, 5, 6)).astype(np.float32)
    frames = repeat_last(past, 7)
    assert (frames.shape, frames.dtype) == ((2, 3, 7, 5, 6), np.float32)
    for t in range(7):
        np.testing.assert_array_equal(frames[:, :, t], past[:, :, 3])

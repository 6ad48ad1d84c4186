"""Time folded into the batch and unfolded again."""

import numpy as np
import paddle
import pytest

from paddlevid.layers.time import fold_time, unfold_time


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(("n", "t"), [(1, 1), (1, 4), (3, 1), (2, 5)])
def test_folded_frames_stand_clip_by_clip_in_their_order(n, t):
    clip = numbered(n, 3, t, 4, 5)
    frames = fold_time(paddle.to_tensor(clip)).numpy()
    assert frames.shape == (n * t, 3, 4, 5)
    for i in range(n):
        for j in range(t):
            np.testing.assert_array_equal(frames[i * t + j], clip[i, :, j])


@pytest.mark.parametrize("features", [(), (7,), (3, 4, 5)])
def test_unfolding_gives_each_clip_its_own_frames(features):
    frames = numbered(6, *features)
    unfolded = unfold_time(paddle.to_tensor(frames), 3).numpy()
    assert unfolded.shape == (2, 3, *features)
    for i in range(2):
        for j in range(3):
            np.testing.assert_array_equal(unfolded[i, j], frames[3 * i + j])


def test_unfolding_undoes_folding():
    clip = numbered(2, 3, 5, 4, 6)
    unfolded = unfold_time(fold_time(paddle.to_tensor(clip)), 5)
    np.testing.assert_array_equal(unfolded.numpy(), clip.transpose(0, 2, 1, 3, 4))


def test_a_gradient_comes_back_to_the_frame_it_is_of():
    clip = paddle.to_tensor(numbered(2, 3, 4, 1, 1), stop_gradient=False)
    unfold_time(fold_time(clip), 4)[1, 2].sum().backward()
    expected = np.zeros((2, 3, 4, 1, 1))
    expected[1, :, 2] = 1
    np.testing.assert_array_equal(clip.grad.numpy(), expected)

"""Time folded into the batch, for the parts of a network that look at one frame at a time."""

from paddle import Tensor


def fold_time(clip: Tensor) -> Tensor:
    """(N, C, T, H, W) -> (N·T, C, H, W), the frames of a clip one after the other."""
    n, c, t, h, w = clip.shape
    return clip.transpose([0, 2, 1, 3, 4]).reshape([n * t, c, h, w])


def unfold_time(frames: Tensor, num_frames: int) -> Tensor:
    """(N·T, ...) -> (N, T, ...)"""
    return frames.reshape([frames.shape[0] // num_frames, num_frames, *frames.shape[1:]])

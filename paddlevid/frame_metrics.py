"""Frame prediction: predicted and true frames -> errors for each step, and what is simple to beat.

The field sums squared and absolute errors over the pixels of a frame; both are here, also a pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]  # (N, C, T, H, W), from 0 to 1
MEASURES = ("mse", "mae", "psnr", "ssim")
SMALLEST = 11  # pixels of a side that SSIM's window needs


@dataclass(frozen=True)
class FrameSums:
    """Figures of each step into the future, summed over the clips."""

    steps: Mapping[str, NDArray[np.float64]]  # of MEASURES: (n,); errors are sums over a frame
    num_clips: int
    pixels: int  # of a frame, times its channels

    @classmethod
    def total(cls, parts: Sequence["FrameSums"]) -> "FrameSums":
        """Of several batches."""
        steps = {name: sum(part.steps[name] for part in parts) for name in MEASURES}
        return cls(steps, sum(part.num_clips for part in parts), parts[0].pixels)

    def per_step(self) -> dict[str, NDArray[np.float64]]:
        """Means over the clips, (n,) each: "mse" and "mae" of a frame, the same "_per_pixel"..."""
        means = {name: sums / self.num_clips for name, sums in self.steps.items()}
        return means | {f"{name}_per_pixel": means[name] / self.pixels for name in ("mse", "mae")}

    def summary(self) -> dict[str, float]:
        """Means over clips and steps."""
        return {name: float(values.mean()) for name, values in self.per_step().items()}


def compare_frames(frames: Frames, truth: Frames) -> FrameSums:
    """Predicted and true frames, both (N, C, n, H, W) -> their figures.

    PSNR is of a frame, at most 100 dB. SSIM is that of Wang et al. 2004, with a Gaussian window of
    11 pixels.

    Raises ValueError for frames of less than 11 pixels a side.
    """
    if min(truth.shape[3:]) < SMALLEST:
        raise ValueError(
            f"frames of {truth.shape[4]}x{truth.shape[3]} pixels are too small for SSIM: needs "
            f"{SMALLEST} a side"
        )
    from skimage.metrics import structural_similarity  # here: it takes 40 MB, and training none

    error = frames.astype(np.float64) - truth
    squares = (error**2).sum(axis=(1, 3, 4))  # (N, n)
    pixels = truth[0, :, 0].size
    pairs = zip(
        frames.transpose(0, 2, 1, 3, 4).reshape(-1, *truth[0, :, 0].shape),
        truth.transpose(0, 2, 1, 3, 4).reshape(-1, *truth[0, :, 0].shape),
        strict=True,
    )
    ssim = [
        structural_similarity(
            one, other, data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
        for one, other in pairs
    ]  # fmt: skip
    steps = {
        "mse": squares,
        "mae": abs(error).sum(axis=(1, 3, 4)),
        "psnr": -10 * np.log10(np.maximum(squares / pixels, 1e-10)),
        "ssim": np.reshape(np.float64(ssim), squares.shape),
    }
    sums = {name: values.sum(axis=0) for name, values in steps.items()}
    return FrameSums(sums, len(truth), pixels)


@dataclass(frozen=True)
class FrameEvaluation:
    """What a network predicted of a list of clips."""

    sums: FrameSums
    loss: float
    num_bad: int = 0  # clips that could not be read, in no figure
    baselines: Mapping[str, FrameSums] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Of the clips."""
        return {"num_clips": self.sums.num_clips, "num_bad": self.num_bad}

    @property
    def figures(self) -> dict[str, float]:
        """Means over clips and steps; errors are a pixel."""
        means = self.sums.summary()
        return {
            "loss": self.loss, "mse": means["mse_per_pixel"], "mae": means["mae_per_pixel"],
            "psnr": means["psnr"], "ssim": means["ssim"],
        }  # fmt: skip

    @property
    def quality(self) -> tuple[float, float]:
        """The squared error, and the loss."""
        return -self.figures["mse"], -self.loss

    def in_words(self) -> str:
        """For a line of the log."""
        means = self.sums.summary()
        line = (
            f"loss {self.loss:.5f} MSE {means['mse']:.2f} a frame ({means['mse_per_pixel']:.5f} a "
            f"pixel) SSIM {means['ssim']:.4f} of {self.sums.num_clips} clips"
        )
        return line + (f" ({self.num_bad} left out)" if self.num_bad else "")


def repeat_last(past: Frames, num_future: int) -> Frames:
    """The last frame, over and over: (N, C, T, H, W) -> (N, C, n, H, W)"""
    return np.repeat(past[:, :, -1:], num_future, axis=2)


def go_on(past: Frames, num_future: int) -> Frames:
    """Linear motion: each place of the last frame goes on as the optical flow says it came.

    (N, C, T, H, W), T at least 2 -> (N, C, n, H, W). The flow is Farnebäck's (2003), from the last
    frame to the one before.
    """
    n, c, _, h, w = past.shape
    grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).astype(np.float32)
    result = np.empty((n, c, num_future, h, w), np.float32)
    for clip, target in zip(past, result, strict=True):
        before, last = (np.uint8(255 * clip[:, t].mean(axis=0)) for t in (-2, -1))
        flow = cv2.calcOpticalFlowFarneback(last, before, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        for k in range(num_future):
            places = grid + (k + 1) * flow
            for channel in range(c):
                target[channel, k] = cv2.remap(clip[channel, -1], places, None, cv2.INTER_LINEAR)
    return result


BASELINES = {"last frame": repeat_last, "linear motion": go_on}

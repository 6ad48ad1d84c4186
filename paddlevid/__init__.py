"""paddlevid: video networks in PaddlePaddle, from video files to predictions.

One layout for the whole package. A clip is uint8 (T, H, W, C) RGB from the decoder to the last
geometric transform, float32 (C, T, H, W) after it, and (N, C, T, H, W) in a batch and in every
model. N clips, C channels, T frames, H W pixels, K classes.

Importing paddlevid changes no process setting and does not import paddle: the names below are
looked up when they are first used, so that the data part works in processes without paddle.
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["create_model", "list_models"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("paddlevid.models"), name)
    raise AttributeError(f"module 'paddlevid' has no attribute {name!r}")

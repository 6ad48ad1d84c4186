"""Description: a config -> what users of an exported program have to know, and their example."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

from paddlevid.config import Config, ConfigError
from paddlevid.export import pieces

_CROPS = {1: "centre", 3: "three", 10: "ten"}
_ANY_LENGTH = ("every", "fps", "scenes")  # samplings of as many frames as the video has


def num_frames(config: Config, wanted: int | None) -> int:
    """T that the program takes.

    `wanted`: for samplings that give clips of any length. ConfigError where it is missing, or of no
    use.
    """
    model = config.model
    if model.task == "predict":
        length = model.seg_num
    elif model.sampling in _ANY_LENGTH:
        if wanted is None:
            raise ConfigError(
                f"MODEL.sampling = {model.sampling!r} gives clips of any length, a program takes "
                "one: give the largest as --frames N; shorter clips are padded"
            )
        return wanted
    else:
        seglen = 1 if model.sampling in pieces.FRAMES_OF_ALL else model.seglen
        length = (config.infer.seg_num or model.seg_num) * seglen
    if wanted is not None:
        raise ConfigError(
            f"--frames {wanted}: the config says how many frames a clip has, {length}; --frames is "
            f"for MODEL.sampling = {', '.join(map(repr, _ANY_LENGTH))}"
        )
    return length


def describe_input(config: Config, kind: str, frames: int) -> dict:
    """How a video becomes the input of the programs, as plain values."""
    model, reader = config.model, config.infer
    sampling = {
        "kind": "end of the video" if kind == "frames" else model.sampling,
        "frames": frames,
        "seg_num": reader.seg_num or model.seg_num,
        "seglen": model.seglen,
        "interval": model.interval,
        "target_fps": model.target_fps,
        "num_clips": reader.num_clips,
    }
    if kind in ("state", "memory"):
        sampling = {"kind": "every interval-th frame", "interval": model.interval, "frames": frames}
        if kind == "memory":
            sampling["blocks"] = 5
    if kind == "features":
        trunk = {"name": model.trunk, "sha256": model.trunk_weights, "grid": model.grid}
        return {"sampling": sampling, "trunk": trunk}
    fixed, size = model.fixed_size, reader.target_size
    resize = {"kind": "short_side", "short_size": reader.short_size}
    crop = {"kind": _CROPS[1 if kind == "frames" else reader.crops], "size": size}
    if kind == "frames" and model.format == "moving_mnist":
        fixed = (model.moving_mnist.get("size", 64),) * 2
    if model.format == "features":  # with its trunk before it
        fixed = fixed or (size, size)
    if fixed:
        is_boxed = model.letterbox and model.format not in ("features", "moving_mnist")
        resize = {"kind": "letterbox" if is_boxed else "fixed"}
        resize |= {"height": fixed[0], "width": fixed[1]}
        resize |= {"fill": 128 if model.is_flow else 0} if is_boxed else {}
        if kind == "frames" or model.format == "features":
            crop = {"kind": "whole"}
    described = {
        "sampling": sampling, "resize": resize, "crop": crop, "colours": "RGB",
        "interpolation": "bilinear (OpenCV's INTER_LINEAR)",
    }  # fmt: skip
    if kind == "flow":
        del described["colours"]
        crop["kind"] += ", of flow" if reader.crops == 10 else ""
        described["flow"] = {
            "method": model.flow_method,
            "bound": model.flow_bound,
            "short_side": model.flow_short_side,
            "channels": "x1 y1 x2 y2 ..., levels round((pixels + bound) * 255 / (2 * bound))",
        }
    if kind == "frames":
        return described | {"grey": model.grey or model.format == "moving_mnist", "range": [0, 1]}
    return described | {
        "mean": list(model.image_mean),
        "std": list(model.image_std),
        "normalise": "(pixel / 255 - mean) / std",
        "scores": "softmax of the logits' mean over the views and clips of a video",
    }


def example(described: dict, kind: str) -> str:
    """The text of a script that uses the programs; "" where there is none."""
    roles: dict[str, Callable] = {}
    if kind in ("clip", "flow"):
        if described["sampling"]["kind"] not in pieces.SAMPLINGS:
            return ""
        roles["choose"] = pieces.SAMPLINGS[described["sampling"]["kind"]]
    if kind != "features":
        roles["decoded"] = pieces.decoded
        roles["resize"] = pieces.RESIZES[described["resize"]["kind"]]
        roles["views"] = pieces.VIEWS[described["crop"]["kind"]]
    if kind == "flow":
        roles["estimate"] = pieces.FLOWS[described["flow"]["method"]]
        roles["shrunk"] = pieces.shrunk
    text = (Path(__file__).parent / f"example_{kind}.py").read_text(encoding="utf-8")
    text = re.sub(r"from paddlevid\.export\.pieces import .*\n", "", text)
    sources = [
        inspect.getsource(function).replace(f"def {function.__name__}(", f"def {role}(", 1)
        for role, function in roles.items()
    ]
    pieces_of = "".join(f"\n\n{source}" for source in sources)
    before, mark, rest = text.partition("\n\nif len(sys.argv)")
    return before + pieces_of + mark + rest

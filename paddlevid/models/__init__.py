"""The networks: a name and plain arguments -> a paddle Layer, (N, C, T, H, W) -> (N, K) logits."""

import difflib
import inspect
from collections.abc import Callable

from paddle import nn

from paddlevid.models.cnn_lstm import CNNLSTM, cnn_lstm
from paddlevid.models.convlstm import ConvLSTM, convlstm
from paddlevid.models.eco import ECO, eco_full, eco_lite
from paddlevid.models.lrcn import LRCN, lrcn_r18, lrcn_r34, lrcn_r50, lrcn_vgg16
from paddlevid.models.movinet import (
    MoViNet,
    MoViNetStream,
    movinet_a0,
    movinet_a0_stream,
    movinet_a1,
    movinet_a1_stream,
    movinet_a2,
    movinet_a2_stream,
    movinet_a3,
    movinet_a3_stream,
    movinet_a4,
    movinet_a4_stream,
    movinet_a5,
    movinet_a5_stream,
)
from paddlevid.models.timesformer import (
    TimeSformer,
    timesformer_base,
    timesformer_hr,
    timesformer_large,
)
from paddlevid.models.tsn import TSN, tsn_r18, tsn_r34, tsn_r50, tsn_r101, tsn_r152

__all__ = [
    "CNNLSTM", "ConvLSTM", "ECO", "LRCN", "MODELS", "MoViNet", "MoViNetStream", "TSN",
    "TimeSformer", "create_model", "list_models",
]  # fmt: skip

MODELS: dict[str, Callable[..., nn.Layer]] = {
    "tsn_r18": tsn_r18,
    "tsn_r34": tsn_r34,
    "tsn_r50": tsn_r50,
    "tsn_r101": tsn_r101,
    "tsn_r152": tsn_r152,
    "eco_lite": eco_lite,
    "eco_full": eco_full,
    "timesformer_base": timesformer_base,
    "timesformer_hr": timesformer_hr,
    "timesformer_large": timesformer_large,
    "cnn_lstm": cnn_lstm,
    "lrcn_vgg16": lrcn_vgg16,
    "lrcn_r18": lrcn_r18,
    "lrcn_r34": lrcn_r34,
    "lrcn_r50": lrcn_r50,
    "movinet_a0": movinet_a0,
    "movinet_a0_stream": movinet_a0_stream,
    "movinet_a1": movinet_a1,
    "movinet_a1_stream": movinet_a1_stream,
    "movinet_a2": movinet_a2,
    "movinet_a2_stream": movinet_a2_stream,
    "movinet_a3": movinet_a3,
    "movinet_a3_stream": movinet_a3_stream,
    "movinet_a4": movinet_a4,
    "movinet_a4_stream": movinet_a4_stream,
    "movinet_a5": movinet_a5,
    "movinet_a5_stream": movinet_a5_stream,
    "convlstm": convlstm,
}


def list_models() -> list[str]:
    """All names that create_model knows."""
    return list(MODELS)


def create_model(name: str, *, num_classes: int = 0, **arguments: object) -> nn.Layer:
    """A network with fresh weights.

    Args:
        num_classes: K; of convlstm, which predicts frames, none.
        arguments: of the network, plain numbers and texts; see its class.

    Raises ValueError for an unknown name or argument, naming the nearest ones, and for an argument
    of a wrong type.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3) or sorted(MODELS)
        raise ValueError(f"unknown model {name!r}; did you mean {', '.join(near)}?")
    network = inspect.signature(MODELS[name]).return_annotation
    known = {
        parameter.name: type(parameter.default)
        for base in reversed(network.__mro__[: network.__mro__.index(nn.Layer)])
        for parameter in inspect.signature(base).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    for argument, value in arguments.items():
        if argument not in known:
            near = difflib.get_close_matches(argument, known, n=1) or known
            raise ValueError(
                f"{name} has no argument {argument!r}; did you mean {', '.join(near)}?"
            )
        kind = known[argument]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{name}: {argument} = {value!r}: needs {kind.__name__}")
    if "num_classes" not in inspect.signature(network).parameters:
        return MODELS[name](**arguments)
    if num_classes < 1:
        raise ValueError(f"{name}: num_classes = {num_classes}: needs at least 1")
    return MODELS[name](num_classes, **arguments)

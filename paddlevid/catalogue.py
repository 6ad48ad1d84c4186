"""The networks and what they cost: paddlevid models [MODEL ...]"""

import argparse
import sys

from tqdm import tqdm

from paddlevid import runtime
from paddlevid.flags import Parser

# Accuracies that were published for these networks, RGB alone, and who says so.
PUBLISHED = {
    "tsn_r50": ("Kinetics-400 74.1 %, 8 segments", "mmaction2"),
    "tsn_r101": ("Kinetics-400 75.9 %, 8 segments", "mmaction2"),
    "eco_lite": ("UCF101 91.6 %", "the paper, as its authors quote it"),
    "eco_full": ("UCF101 92.8 %", "the paper, as its authors quote it"),
    "timesformer_base": ("Kinetics-400 77.9 %", "its authors' repository"),
    "timesformer_hr": ("Kinetics-400 79.6 %", "its authors' repository"),
    "timesformer_large": ("Kinetics-400 80.6 %", "its authors' repository"),
    "movinet_a0": ("Kinetics-600 72.3 %", "its authors' repository"),
    "movinet_a1": ("Kinetics-600 76.7 %", "its authors' repository"),
    "movinet_a2": ("Kinetics-600 78.6 %", "its authors' repository"),
    "movinet_a3": ("Kinetics-600 81.8 %", "its authors' repository"),
    "movinet_a4": ("Kinetics-600 83.5 %", "its authors' repository"),
    "movinet_a5": ("Kinetics-600 84.3 %", "its authors' repository"),
    "movinet_a0_stream": ("Kinetics-600 72.1 %", "its authors' repository"),
    "movinet_a1_stream": ("Kinetics-600 76.5 %", "its authors' repository"),
    "movinet_a2_stream": ("Kinetics-600 78.4 %", "its authors' repository"),
    "movinet_a3_stream": ("Kinetics-600 80.1 %", "its authors' repository"),
    "movinet_a4_stream": ("Kinetics-600 81.5 %", "its authors' repository"),
    "movinet_a5_stream": ("Kinetics-600 82.4 %", "its authors' repository"),
}
FRAMES = {"tsn": 1, "eco": 16, "lrcn": 10}  # of the input that the multiply-adds are counted for


def input_shape(name: str, model: "nn.Layer") -> list[int]:  # noqa: F821
    """(1, C, T, H, W), the published input; of TSN a single frame, of cnn_lstm (1, T, D)."""
    if name == "convlstm":
        return [1, model.channels, 10, 64, 64]
    if name == "cnn_lstm":
        return [1, 40, 2048]
    if name.startswith("movinet"):
        return [1, 3, model.table.frames, model.table.pixels, model.table.pixels]
    if name.startswith("timesformer"):
        side = model.grid * model.patch_size
        return [1, 3, model.num_frames, side, side]
    return [1, 3, FRAMES[name.partition("_")[0]], 224, 224]


def count_multiply_adds(model: "nn.Layer", shape: list[int]) -> int:  # noqa: F821
    """Multiply-adds of all matrix products and convolutions, seen while the network runs."""
    import numpy as np
    import paddle
    from paddle import nn

    from paddlevid.layers.recurrent import Recurrent
    from paddlevid.models.convlstm import ConvLSTMCell
    from paddlevid.models.movinet import ConvNorm
    from paddlevid.models.timesformer import Attention

    total = 0

    def count(layer: nn.Layer, inputs: tuple, output: paddle.Tensor) -> None:
        nonlocal total
        if isinstance(layer, Attention):  # q k^T, and the weights times v
            n, length, dim = inputs[0].shape
            total += 2 * n * length * length * dim
        elif isinstance(layer, Recurrent):
            n, length, _ = inputs[0].shape
            total += n * length * (layer.weight_ih.size + layer.weight_hh.size)
        elif isinstance(layer, ConvLSTMCell):
            total += output[0][:, 0].size * layer.conv.weight.size
        else:  # each number of the output is a sum over the rest of the weights
            weight = layer.conv.weight if isinstance(layer, ConvNorm) else layer.weight
            out_features = weight.shape[1 if isinstance(layer, nn.Linear) else 0]
            total += output.size * int(np.prod(weight.shape)) // out_features

    counted = (nn.Conv2D, nn.Conv3D, nn.Linear, Attention, Recurrent, ConvLSTMCell, ConvNorm)
    # A causal ConvNorm computes with its convolution's weights, not by calling the convolution.
    inside = {id(layer.conv) for layer in model.sublayers() if isinstance(layer, ConvNorm)}
    layers = [
        layer
        for layer in model.sublayers()
        if isinstance(layer, counted) and id(layer) not in inside
    ]
    hooks = [layer.register_forward_post_hook(count) for layer in layers]
    model.eval()
    with paddle.no_grad():
        model(paddle.zeros(shape))
    for hook in hooks:
        hook.remove()
    return total


def print_table(names: list[str]) -> None:
    """A line for each network, or for all."""
    runtime.configure()
    # Paddle is imported here, so that --help answers at once.
    from paddlevid.models import create_model, list_models

    print(f"{'network':18} {'parameters':>12}  {'multiply-adds':>13}  input            published")
    for name in tqdm(names or list_models(), "counting", leave=False, disable=None):
        model = create_model(name, num_classes=400)
        shape = input_shape(name, model)
        published = ", ".join(PUBLISHED.get(name, ("-",)))
        parameters = sum(p.size for p in model.parameters() if not p.stop_gradient)
        multiply_adds = count_multiply_adds(model, shape)
        size = "x".join(map(str, shape[1:]))
        cost = f"{parameters:12,}  {multiply_adds / 1e9:11.3f} G"
        tqdm.write(f"{name:18} {cost}  {size:15}  {published}")
    print("With 400 classes; of TSN, a single frame.")


def main(argv: list[str] | None = None) -> int:
    """Print the table; -> exit code."""
    parser = Parser(
        prog="paddlevid models",
        description="The networks: parameters, multiply-adds at the published input (counted while "
        "they run: minutes for the largest), published accuracy and its source.",
    )
    parser.add_argument("names", metavar="MODEL", nargs="*", help="of create_model (default: all)")
    args: argparse.Namespace = parser.parse_args(argv)
    try:
        print_table(args.names)
    except ValueError as error:
        print(f"paddlevid models: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("paddlevid models: stopped", file=sys.stderr)
        return 130
    return 0

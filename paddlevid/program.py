"""Programs: a network as paddle.inference runs it, on a CPU several times as fast (oneDNN)."""

import copy
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import nn

from paddlevid import runtime


class Program:
    """A network for predictions on a CPU: arrays in, arrays out.

    Args:
        network: its weights are copied. Layers with a method `fold` are replaced by what it makes
            of them: Paddle folds batch norms into 2-D convolutions only.
        shapes: of the inputs; None where a length may vary.
        as_list: the network takes its inputs as one list.
    """

    def __init__(
        self, network: nn.Layer, shapes: Sequence[Sequence[int | None]], as_list: bool = False
    ) -> None:
        from paddle.inference import Config, create_predictor

        network = copy.deepcopy(network)
        network.eval()
        for layer in network.sublayers():
            if hasattr(layer, "fold"):
                layer.fold()
        with tempfile.TemporaryDirectory() as folder:
            prefix = Path(folder, "program")
            specs = [
                paddle.static.InputSpec(shape, "float32", f"input_{i}")
                for i, shape in enumerate(shapes)
            ]
            with warnings.catch_warnings():  # of Paddle's own ones_like
                warnings.filterwarnings("ignore", "Tensor do not have 'place' interface")
                paddle.jit.save(network, str(prefix), input_spec=[specs] if as_list else specs)
            suffixes = (".json", ".pdmodel")  # Paddle 3, Paddle 2
            program = next(file for s in suffixes if (file := prefix.with_suffix(s)).exists())
            config = Config(str(program), str(prefix.with_suffix(".pdiparams")))
            config.disable_gpu()
            config.enable_mkldnn()
            config.set_cpu_math_library_num_threads(runtime.usable_cores())
            config.disable_glog_info()
            self._predictor = create_predictor(config)
        names = self._predictor.get_input_names(), self._predictor.get_output_names()
        self._inputs = [self._predictor.get_input_handle(name) for name in names[0]]
        self._outputs = [self._predictor.get_output_handle(name) for name in names[1]]

    def __call__(self, *arrays: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The network's outputs, in its order."""
        for handle, array in zip(self._inputs, arrays, strict=True):
            handle.copy_from_cpu(np.ascontiguousarray(array, np.float32))
        self._predictor.run()
        return [handle.copy_to_cpu() for handle in self._outputs]

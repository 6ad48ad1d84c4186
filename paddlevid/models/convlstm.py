"""ConvLSTM encoder-decoder (Shi et al. 2015, arXiv:1506.04214): past frames -> future frames."""

from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import Tensor, nn

CellState = tuple[Tensor, Tensor] | None  # H and C, both (N, F, h, w); None at the start


class Memory(NamedTuple):
    """What an encoder keeps of the frames that it has seen."""

    cells: list[CellState]
    last: Tensor | None = None  # (N, C, h, w), with feedback = "frame": the decoder's first input


class ConvLSTMCell(nn.Layer):
    """An LSTM whose products are convolutions over maps (section 3.1).

    One convolution of the input and H gives the gates in the order i, f, o, g.

    Args:
        c_in: channels of the input.
        hidden: F, channels of H and C.
        kernel_size: odd; maps keep their size.
        peephole: (h, w) of the maps, where the gates also see C through weights for each place
            (i and f the C before, o the one behind); (0, 0): they do not.
    """

    def __init__(
        self, c_in: int, hidden: int, kernel_size: int, peephole: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__()
        self.c_in, self.padding = c_in, kernel_size // 2
        self.conv = _conv(c_in + hidden, 4 * hidden, kernel_size)
        self.peephole = None
        if any(peephole):
            self.peephole = self.create_parameter(
                [3, hidden, *peephole], default_initializer=nn.initializer.Constant(0.0)
            )

    def forward(self, x: Tensor, state: CellState) -> CellState:
        """(N, C, h, w) and a state -> the state behind it."""
        weight, bias = self.conv.weight, self.conv.bias
        if state is None:
            weight = weight[:, : self.c_in]
        else:
            x = paddle.concat([x, state[0]], axis=1)
        if paddle.in_dynamic_mode() and paddle.device.get_device() == "cpu":
            # The bias as weights of a channel of ones: a CPU takes a third of the convolution's
            # time to add it, and to sum its gradient over all places.
            x = paddle.concat([x, paddle.ones_like(x[:, :1])], axis=1)
            ones = F.pad(bias.reshape([-1, 1, 1, 1]), [self.padding] * 4)
            weight, bias = paddle.concat([weight, ones], axis=1), None
        return self._advance(F.conv2d(x, weight, bias, padding=self.padding), state)

    def _advance(self, gates: Tensor, state: CellState) -> CellState:
        i, f, o, g = gates.chunk(4, axis=1)
        if self.peephole is not None and state is not None:
            i, f = i + self.peephole[0] * state[1], f + self.peephole[1] * state[1]
        c = F.sigmoid(i) * paddle.tanh(g)
        if state is not None:
            c = c + F.sigmoid(f) * state[1]
        if self.peephole is not None:
            o = o + self.peephole[2] * c
        return F.sigmoid(o) * paddle.tanh(c), c


def _conv(c_in: int, c_out: int, kernel_size: int) -> nn.Conv2D:
    bound = (c_in * kernel_size**2) ** -0.5  # PyTorch's start, as in the reference
    init = nn.initializer.Uniform(-bound, bound)
    return nn.Conv2D(
        c_in, c_out, kernel_size, padding=kernel_size // 2, weight_attr=init, bias_attr=init
    )


class ConvLSTM(nn.Layer):
    """Cells that read the past frames, and as many that draw the future ones.

    Args:
        channels: C of a frame, 1 or 3.
        num_layers: cells of the encoder, and of the decoder.
        hidden: F, channels of a cell.
        kernel_size: of the cells.
        head_kernel: of the convolution that makes a frame of the last cell's H.
        head_bias: where its bias starts; below 0 for dark frames, which sequences of digits are.
        output: "sigmoid", for frames from 0 to 1, or "none".
        feedback: "hidden": the decoder's input is the last cell's H of the step before, at the
            start the encoder's (the reference); "frame": the frame before, at the start the last
            one of the past.
        transfer_state: the decoder's cells start from the encoder's states, not from 0.
        peephole_height, peephole_width: of the frames, where the gates are to see C; 0: they do
            not.
        patch_size: squares of so many pixels a side are taken as the channels of one place.
        num_future: frames to predict, unless told otherwise.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        num_layers: int = 2,
        hidden: int = 64,
        kernel_size: int = 3,
        head_kernel: int = 3,
        head_bias: float = 0.0,
        output: str = "sigmoid",
        feedback: str = "hidden",
        transfer_state: bool = False,
        peephole_height: int = 0,
        peephole_width: int = 0,
        patch_size: int = 1,
        num_future: int = 10,
    ) -> None:
        super().__init__()
        if min(channels, num_layers, hidden, patch_size, num_future) < 1:
            raise ValueError(
                f"channels = {channels}, num_layers = {num_layers}, hidden = {hidden}, patch_size "
                f"= {patch_size} and num_future = {num_future} need at least 1"
            )
        if bool(peephole_height) != bool(peephole_width):
            raise ValueError(
                f"peephole_height = {peephole_height} and peephole_width = {peephole_width}: needs "
                "both, those of the frames, or neither"
            )
        if kernel_size % 2 == 0 or head_kernel % 2 == 0:
            raise ValueError(
                f"kernel_size = {kernel_size} and head_kernel = {head_kernel} need odd numbers"
            )
        for key, value, known in (
            ("output", output, ("sigmoid", "none")),
            ("feedback", feedback, ("hidden", "frame")),
        ):
            if value not in known:
                raise ValueError(
                    f"unknown {key} {value!r}; there are {known[0]!r} and {known[1]!r}"
                )
        if feedback == "frame" and not transfer_state:
            raise ValueError(
                "feedback = 'frame' needs transfer_state = True: nothing else tells the decoder of "
                "the past"
            )
        self.channels, self.patch_size, self.num_future = channels, patch_size, num_future
        self.frame_size = (peephole_height, peephole_width)  # (0, 0): any
        self.output, self.feedback, self.transfer_state = output, feedback, transfer_state
        places = (peephole_height // patch_size, peephole_width // patch_size)
        c_in = channels * patch_size**2
        first = hidden if feedback == "hidden" else c_in
        self.encoder, self.decoder = (
            nn.LayerList(
                ConvLSTMCell(hidden if i else start, hidden, kernel_size, places)
                for i in range(num_layers)
            )
            for start in (c_in, first)
        )
        self.head = _conv(hidden, c_in, head_kernel)
        if head_bias:
            nn.initializer.Constant(head_bias)(self.head.bias)

    def forward(
        self,
        past: Tensor,
        num_future: int = 0,
        *,
        truth: Tensor | None = None,
        keep: NDArray[np.bool_] | None = None,
    ) -> Tensor:
        """Past frames (N, C, T, H, W) -> the next ones, (N, C, n, H, W)

        Any T, H and W. A frame does not depend on how many come after it.

        Args:
            num_future: n; 0: that of the network.
            truth: the true ones, for training with feedback = "frame" (scheduled sampling, Bengio
                et al. 2015).
            keep: (N, n - 1), True where the decoder is to see the true frame, not its own.
        """
        return self.decode(self.encode(past), num_future or self.num_future, truth, keep)

    def encode(self, past: Tensor, memory: Memory | None = None) -> Memory:
        """(N, C, T, H, W), and what was kept of the frames before -> what is to be kept.

        A sequence may be read in parts of any length.
        """
        if past.ndim != 5 or past.shape[1] != self.channels or past.shape[2] < 1:
            raise ValueError(
                f"needs frames (N, {self.channels}, T, H, W), T at least 1, got {tuple(past.shape)}"
            )
        if past.shape[3] % self.patch_size or past.shape[4] % self.patch_size:
            raise ValueError(
                f"frames of {past.shape[4]}x{past.shape[3]} pixels cannot be cut into patches of "
                f"{self.patch_size}: needs multiples of it"
            )
        if any(self.frame_size) and tuple(past.shape[3:]) != self.frame_size:
            raise ValueError(
                f"the peepholes are for frames of {self.frame_size[1]}x{self.frame_size[0]} pixels,"
                f" these have {past.shape[4]}x{past.shape[3]}"
            )
        frames = [self._to_patches(frame) for frame in past.unbind(2)]
        memory = memory or Memory([None] * len(self.encoder))
        last = None
        if self.feedback == "frame":
            *frames, last = frames if memory.last is None else [memory.last, *frames]
        cells = []
        for i, cell in enumerate(self.encoder):  # a zip cannot be exported
            state, hidden = memory.cells[i], []
            for frame in frames:
                state = cell(frame, state)
                hidden.append(state[0])
            cells.append(state)
            frames = hidden
        return Memory(cells, last)

    def decode(
        self,
        memory: Memory,
        num_future: int,
        truth: Tensor | None = None,
        keep: NDArray[np.bool_] | None = None,
    ) -> Tensor:
        """What was kept of the past -> the next frames (N, C, n, H, W)"""
        by_hidden = self.feedback == "hidden"
        x = memory.cells[-1][0] if by_hidden else memory.last
        states = list(memory.cells) if self.transfer_state else [None] * len(self.decoder)
        results = []
        for k in range(num_future):
            for i, cell in enumerate(self.decoder):
                states[i] = cell(x, states[i])
                x = states[i][0]
            results.append(x if by_hidden else self._draw(x))
            if not by_hidden:
                x = results[-1]
                if keep is not None and k + 1 < num_future:
                    is_true = paddle.to_tensor(keep[:, k]).reshape([-1, 1, 1, 1])
                    x = paddle.where(is_true, self._to_patches(truth[:, :, k]).astype(x.dtype), x)
        together = paddle.stack(results, axis=1)  # (N, n, channels, h, w)
        together = together.flatten(0, 1)
        if by_hidden:
            together = self._draw(together)
        frames = F.pixel_shuffle(together, self.patch_size) if self.patch_size > 1 else together
        return frames.reshape([-1, num_future, *frames.shape[1:]]).transpose([0, 2, 1, 3, 4])

    def adapt(self, weights: dict[str, NDArray]) -> dict[str, tuple[NDArray, str, str]]:
        """What has to change in weights of other projects.

        A head in three dimensions loses one. OpenSTL's cells read and draw, have no biases but 1
        for the forget gates, and their gates are i, f, g, o. Of cells alone the rest starts anew.
        """
        adapted, current = {}, {name: t.numpy() for name, t in self.state_dict().items()}
        head = weights.get("head.weight")
        if head is not None and head.ndim == 5 and head.shape[2] == 1:
            adapted["head.weight"] = head[:, :, 0], "reshaped", ""
        cells = range(len(self.encoder))
        if any(name.startswith("decoder.") for name in weights):
            return adapted
        for i in cells:
            name = f"encoder.{i}.conv.weight"
            if name not in weights:
                return adapted
        if "encoder.0.conv.bias" in weights:
            why = "the file has cells of an encoder alone"
            fresh = [name for name in current if not name.startswith("encoder.")]
            return adapted | {name: (current[name], "initialised", why) for name in fresh}
        if self.feedback != "frame" or self.output != "none":
            raise ValueError(
                "OpenSTL's networks feed frames back and have no sigmoid: needs the arguments "
                "feedback = 'frame', transfer_state = True and output = 'none'"
            )
        for i in cells:
            kernel = weights[f"encoder.{i}.conv.weight"]
            if i == 0:
                kernel = self._by_channels(kernel, 1)
            gate_i, gate_f, gate_g, gate_o = np.split(kernel, 4)
            kernel = np.concatenate([gate_i, gate_f, gate_o, gate_g])
            bias = np.repeat(np.float32([0, 1, 0, 0]), len(kernel) // 4)
            for side in ("encoder", "decoder"):
                fate = "reordered" if side == "encoder" else "copied"
                adapted[f"{side}.{i}.conv.weight"] = kernel, fate, "its cells read and draw"
                adapted[f"{side}.{i}.conv.bias"] = bias, "set", "its forget gates add 1"
        if head is not None:
            adapted["head.weight"] = self._by_channels(head, 0), "reordered", ""
            adapted["head.bias"] = np.zeros(len(head), np.float32), "set", "it has none"
        return adapted

    def _by_channels(self, kernel: NDArray, axis: int) -> NDArray:
        """Inputs or outputs (p, p, C) of OpenSTL's patches as ours, (C, p, p)."""
        p, c = self.patch_size, self.channels
        order = np.arange(p * p * c).reshape(p, p, c).transpose(2, 0, 1).reshape(-1)
        rest = np.arange(p * p * c, kernel.shape[axis])
        return np.take(kernel, [*order, *rest], axis)

    def _to_patches(self, frame: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C * p * p, h, w); F.pixel_unshuffle, which ONNX does not have"""
        p = self.patch_size
        if p == 1:
            return frame
        places = [frame[:, :, i::p, j::p] for i in range(p) for j in range(p)]
        return paddle.stack(places, axis=2).flatten(1, 2)

    def _draw(self, maps: Tensor) -> Tensor:
        frames = self.head(maps)
        return F.sigmoid(frames) if self.output == "sigmoid" else frames


def convlstm(**arguments: object) -> ConvLSTM:
    """ConvLSTM encoder-decoder; the defaults are those of the book's."""
    return ConvLSTM(**arguments)

"""Recurrent layers over padded sequences: LSTM, GRU and the plain RNN.

Not paddle.nn.LSTM, which has no recurrent dropout, passes over no steps in the middle, and keeps
each of its weights under two names.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
State = tuple[Tensor, ...]  # h, and of an LSTM c, both (N, H)


class Recurrent(nn.Layer):
    """A recurrent layer in one direction.

    The rows of the weights are, for each cell: "lstm" i, f, g, o (Hochreiter and Schmidhuber 1997,
    with forget gates), "gru" r, z, n with the reset gate behind the product (as in PyTorch; Cho et
    al. 2014 have it before), "rnn" a tanh.

    Args:
        c_in: D, numbers of a step.
        hidden: H, numbers of the state.
        dropout: of the input in training, one draw for all steps of a sequence (Gal and Ghahramani
            2016).
        recurrent_dropout: likewise, of the state where the gates read it.
        bias_init: of all gates; the forget gate of an LSTM starts at 1.
        input_init: "glorot" or "orthogonal", of the weights of the input; those of the state start
            orthogonal.
        backward: from the last step to the first.
    """

    def __init__(
        self,
        c_in: int,
        hidden: int,
        cell: str,
        *,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        bias_init: float = 0.0,
        input_init: str = "glorot",
        backward: bool = False,
    ) -> None:
        super().__init__()
        self.hidden, self.cell, self.backward = hidden, cell, backward
        self.dropout, self.recurrent_dropout = dropout, recurrent_dropout
        rows = GATES[cell] * hidden
        self.weight_ih = self.create_parameter([rows, c_in])
        self.weight_hh = self.create_parameter([rows, hidden])
        self.bias = self.create_parameter([rows])
        if cell == "gru":  # the reset gate multiplies what this one is part of
            self.bias_hh = self.create_parameter([rows])
            nn.initializer.Constant(0.0)(self.bias_hh)
        if input_init == "orthogonal":
            nn.initializer.Orthogonal()(self.weight_ih)
        else:
            nn.initializer.XavierUniform()(self.weight_ih)
        nn.initializer.Orthogonal()(self.weight_hh)
        bias = np.full(rows, bias_init, np.float32)
        if cell == "lstm":
            bias[hidden : 2 * hidden] = 1.0
        nn.initializer.Assign(bias)(self.bias)

    def forward(
        self, steps: Tensor, mask: Tensor | None = None, truncate: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(N, T, D) -> the state after each step (N, T, H), and after the last (N, H)

        Args:
            mask: (N, T), False where a step is passed over: the state stays as it is.
            truncate: (k1, k2): every k1 steps the gradient goes k2 steps back (truncated
                back-propagation through time, Williams and Peng 1990); None: all the way. The
                outputs are the same.
        """
        n, num_steps, _ = steps.shape
        steps = steps * _keep(self, self.dropout, [n, 1, steps.shape[2]], steps)
        inputs = paddle.matmul(steps, self.weight_ih, transpose_y=True)
        if self.cell == "gru":
            inputs = inputs + self.bias
        inputs = list(inputs.transpose([1, 0, 2]).unbind(0))  # T of (N, rows)
        masks = [None] * num_steps if mask is None else list(mask.unsqueeze(2).unbind(1))
        if self.backward:
            inputs.reverse()
            masks.reverse()
        keep = _keep(self, self.recurrent_dropout, [n, self.hidden], steps)
        zero = paddle.zeros([n, self.hidden], steps.dtype)
        states, outputs = [(zero, zero) if self.cell == "lstm" else (zero,)], []
        k1, k2 = truncate or (num_steps, num_steps)
        for start in range(0, num_steps, k1):
            end = min(start + k1, num_steps)
            first = max(end - k2, 0)
            state = tuple(part.detach() for part in states[first])
            tape = []
            for t in range(first, end):
                new = self._step(inputs[t], state, keep, tape, t == first)
                if masks[t] is not None:  # a zip cannot be exported
                    new = tuple(paddle.where(masks[t], new[i], state[i]) for i in range(len(new)))
                state = new
                if t >= start:
                    outputs.append(state[0])
                    states.append(state)
        last = outputs[-1]
        if self.backward:
            outputs.reverse()
        return paddle.stack(outputs, axis=1), last

    def _step(
        self, x: Tensor, state: State, keep: Tensor | float, tape: "Tape", first: bool
    ) -> State:
        h = state[0]
        bias = self.bias_hh if self.cell == "gru" else self.bias
        if self.training:
            product = _StateProduct.apply(h * keep, self.weight_hh, bias, tape, first)
        else:
            product = paddle.matmul(h, self.weight_hh, transpose_y=True) + bias
        if self.cell == "rnn":
            return (paddle.tanh(x + product),)
        if self.cell == "lstm":
            i, f, g, o = (x + product).chunk(4, axis=1)
            c = F.sigmoid(f) * state[1] + F.sigmoid(i) * paddle.tanh(g)
            return F.sigmoid(o) * paddle.tanh(c), c
        x_r, x_z, x_n = x.chunk(3, axis=1)
        h_r, h_z, h_n = product.chunk(3, axis=1)
        z = F.sigmoid(x_z + h_z)
        return ((1 - z) * paddle.tanh(x_n + F.sigmoid(x_r + h_r) * h_n) + z * h,)


Tape = list[tuple[Tensor, Tensor]]  # of each step the gradient of its product, and the state


class _StateProduct(PyLayer):
    """A state times the weights of the gates, and their bias: N states of H -> (N, rows)

    Their gradients are made in one go for all steps, which is faster than to add them up.
    """

    @staticmethod
    def forward(
        ctx: object, h: Tensor, weight: Tensor, bias: Tensor, tape: Tape, first: bool
    ) -> Tensor:
        """(N, H), (rows, H), (rows,) -> (N, rows)"""
        ctx.save_for_backward(h, weight)
        ctx.tape, ctx.first = tape, first
        return paddle.matmul(h, weight, transpose_y=True) + bias

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The first step comes last: it has the weights' and the bias', and none of the state."""
        h, weight = ctx.saved_tensor()
        grad = grad.astype(weight.dtype)
        ctx.tape.append((grad, h.astype(weight.dtype)))
        if not ctx.first:
            return paddle.matmul(grad, weight).astype(h.dtype), None, None
        grads, states = (paddle.concat(parts) for parts in zip(*ctx.tape, strict=True))
        ctx.tape.clear()
        return None, paddle.matmul(grads, states, transpose_x=True), grads.sum(axis=0)


def seen_frames(clips: Tensor) -> Tensor:
    """(N, T, D) or (N, C, T, H, W) -> (N, T), False where all numbers of a frame are 0"""
    return (clips != 0).any(axis=[1, 3, 4] if clips.ndim == 5 else [2])


def average_over_frames(logits: Tensor, seen: Tensor) -> Tensor:
    """The mean probabilities of the frames seen, as logits: (N, T, K), (N, T) -> (N, K)

    What the frames of a clip say together, in Donahue et al. 2015 (section 4).
    """
    share = seen.astype("float32")
    unseen = (1 - share).unsqueeze(2) * -1e9
    logs = F.log_softmax(logits.astype("float32")) + unseen
    return paddle.logsumexp(logs, axis=1) - paddle.log(share.sum(axis=1, keepdim=True).clip(min=1))


def _keep(layer: nn.Layer, dropout: float, shape: list[int], like: Tensor) -> Tensor | float:
    """What to multiply with for a dropout: 0 or 1 / (1 - dropout), one draw for all steps."""
    if not (layer.training and dropout):
        return 1.0
    return F.dropout(paddle.ones(shape, like.dtype), dropout)


class RecurrentStack(nn.Layer):
    """Layers one on the other, in one direction or in both.

    Args:
        c_in, hidden, cell: as of `Recurrent`.
        num_layers: each reads the states of the one below.
        bidirectional: each layer twice, forwards and backwards, side by side.
        truncate: (k1, k2) in training, see `Recurrent`; (0, 0): not.
        more: of `Recurrent`; the input's dropout is that of every layer.
    """

    def __init__(
        self,
        c_in: int,
        hidden: int,
        cell: str,
        num_layers: int,
        bidirectional: bool,
        truncate: tuple[int, int],
        **more: object,
    ) -> None:
        super().__init__()
        if cell not in GATES:
            raise ValueError(f"cell = {cell!r}: needs one of {', '.join(GATES)}")
        if min(c_in, hidden, num_layers) < 1:
            raise ValueError(
                f"{c_in} numbers of a step, hidden = {hidden} and num_layers = {num_layers} need "
                "at least 1"
            )
        k1, k2 = truncate
        if truncate != (0, 0) and not 1 <= k1 <= k2:
            raise ValueError(f"truncation to k1 = {k1}, k2 = {k2}: needs 1 <= k1 <= k2, or 0 and 0")
        for name in ("dropout", "recurrent_dropout"):
            if not 0 <= more.get(name, 0) < 1:
                raise ValueError(f"{name} = {more[name]}: needs a number from 0 to below 1")
        self.truncate = truncate if k1 else None
        self.c_out = hidden * (1 + bidirectional)
        sizes = [c_in] + [self.c_out] * (num_layers - 1)
        self.layers = nn.LayerList([Recurrent(size, hidden, cell, **more) for size in sizes])
        self.backward_layers = None
        if bidirectional:
            self.backward_layers = nn.LayerList(
                [Recurrent(size, hidden, cell, backward=True, **more) for size in sizes]
            )

    def forward(self, steps: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, T, D) -> the top's states (N, T, H'), and at the ends (N, H'); mask: (N, T)"""
        truncate = self.truncate if self.training else None
        if self.training and mask is not None and mask.all():
            mask = None  # one look saves a choice at every step
        for number, layer in enumerate(self.layers):
            outputs, last = layer(steps, mask, truncate)
            if self.backward_layers:
                back, first = self.backward_layers[number](steps, mask, truncate)
                outputs = paddle.concat([outputs, back], axis=2)
                last = paddle.concat([last, first], axis=1)
            steps = outputs
        return outputs, last

"""Recurrent layers: the equations, masks, dropout, truncation; in make parity against PyTorch."""

import numpy as np
import paddle
import pytest

from paddlevid.layers.recurrent import GATES, Recurrent, RecurrentStack

CELLS = list(GATES)


def steps(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def layer(cell: str, c_in: int = 3, hidden: int = 4, **more: object) -> Recurrent:
    """With random biases, in evaluation mode."""
    paddle.seed(0)
    made = Recurrent(c_in, hidden, cell, **more)
    rng = np.random.default_rng(1)
    for name, tensor in made.named_parameters():
        if "bias" in name:
            tensor.set_value(rng.normal(size=tensor.shape).astype(np.float32))
    made.eval()
    return made


def stack(cell: str = "lstm", num_layers: int = 1, bidirectional: bool = False, k=(0, 0), **more):
    paddle.seed(0)
    return RecurrentStack(3, 4, cell, num_layers, bidirectional, k, **more)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def by_the_equations(made: Recurrent, x: np.ndarray) -> np.ndarray:
    """One sequence (T, D) -> (T, H), as the equations are printed."""
    w, u, b = (t.numpy() for t in (made.weight_ih, made.weight_hh, made.bias))
    h, c, out = np.zeros(made.hidden), np.zeros(made.hidden), []
    for row in x:
        parts = np.split(w @ row + b, GATES[made.cell])
        if made.cell == "gru":
            reads = np.split(u @ h + made.bias_hh.numpy(), 3)
            r, z = sigmoid(parts[0] + reads[0]), sigmoid(parts[1] + reads[1])
            h = (1 - z) * np.tanh(parts[2] + r * reads[2]) + z * h
        else:
            parts = [p + q for p, q in zip(parts, np.split(u @ h, len(parts)), strict=True)]
            if made.cell == "rnn":
                h = np.tanh(parts[0])
            else:
                i, f, g, o = parts
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


@pytest.mark.parametrize("cell", CELLS)
def test_the_states_are_those_of_the_equations(cell):
    made, x = layer(cell), steps(2, 5, 3)
    outputs, last = made(x)
    for n in range(2):
        expected = by_the_equations(made, x[n].numpy())
        np.testing.assert_allclose(outputs[n].numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(last[n].numpy(), expected[-1], atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_backwards_is_the_sequence_turned_round(cell):
    made, back = layer(cell), layer(cell, backward=True)
    x = steps(2, 5, 3)
    outputs, last = back(x)
    expected, end = made(x.flip(1))
    np.testing.assert_allclose(outputs.numpy(), expected.flip(1).numpy(), atol=1e-6)
    np.testing.assert_allclose(last.numpy(), end.numpy(), atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("backward", [False, True])
def test_masked_steps_are_passed_over_wherever_they_are(cell, backward):
    made, x = layer(cell, backward=backward), steps(1, 4, 3)
    _, expected = made(x)
    places = [1, 2, 4, 7]
    padded = np.full((1, 9, 3), 5.0, np.float32)
    padded[:, places] = x.numpy()
    mask = np.zeros((1, 9), bool)
    mask[:, places] = True
    outputs, last = made(paddle.to_tensor(padded), paddle.to_tensor(mask))
    np.testing.assert_allclose(last.numpy(), expected.numpy(), atol=1e-6)
    inside = outputs.numpy()[0]
    if not backward:
        np.testing.assert_array_equal(inside[0], 0)
        np.testing.assert_array_equal(inside[3], inside[2])
        np.testing.assert_array_equal(inside[8], inside[7])


def test_a_sequence_that_is_all_masked_gives_zeros():
    _, last = layer("lstm")(steps(2, 3, 3), paddle.to_tensor([[False] * 3, [True] * 3]))
    assert (last[0].numpy() == 0).all()
    assert (last[1].numpy() != 0).all()


@pytest.mark.parametrize("cell", CELLS)
def test_masked_steps_get_no_gradient(cell):
    made, x = layer(cell), steps(1, 4, 3)
    x.stop_gradient = False
    mask = paddle.to_tensor([[True, False, True, False]])
    made(x, mask)[1].sum().backward()
    size = np.abs(x.grad.numpy()).sum(axis=2)[0]
    assert (size[[1, 3]] == 0).all()
    assert (size[[0, 2]] > 0).all()


# --- initialisation -------------------------------------------------------------------------------


def test_the_forget_gate_starts_at_one_and_the_other_gates_where_asked():
    made = Recurrent(3, 4, "lstm")
    np.testing.assert_array_equal(made.bias.numpy(), [0] * 4 + [1] * 4 + [0] * 8)
    np.testing.assert_array_equal(Recurrent(3, 4, "gru", bias_init=1.0).bias.numpy(), [1] * 12)
    assert (Recurrent(3, 4, "gru", bias_init=1.0).bias_hh.numpy() == 0).all()


def test_weights_of_the_state_start_orthogonal_and_those_of_the_input_as_asked():
    made = Recurrent(64, 32, "lstm", input_init="orthogonal")
    for weight in (made.weight_hh.numpy(), made.weight_ih.numpy()):
        np.testing.assert_allclose(weight.T @ weight, np.eye(weight.shape[1]), atol=1e-5)
    limit = np.sqrt(6 / (64 + 128))
    weight = Recurrent(64, 32, "lstm").weight_ih.numpy()
    assert 0.95 * limit < np.abs(weight).max() <= limit
    assert weight.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_of_the_input_is_one_draw_for_all_steps_of_a_sequence():
    made = layer("rnn", c_in=200, dropout=0.5)
    made.train()
    made.weight_hh.set_value(np.zeros((4, 4), np.float32))
    x = paddle.ones([3, 1, 200]).expand([3, 6, 200])
    outputs = made(x)[0].numpy()
    assert (outputs == outputs[:, :1]).all()
    assert (outputs[0] != outputs[1]).any()
    made.eval()
    assert (made(x)[0].numpy() == made(x)[0].numpy()).all()


def test_what_is_kept_is_scaled_so_that_its_mean_stays():
    made = layer("rnn", c_in=5000, hidden=1, dropout=0.4)
    made.train()
    made.weight_ih.set_value(np.full((1, 5000), 1e-4, np.float32))
    made.bias.set_value(np.zeros(1, np.float32))
    means = [np.arctanh(made(paddle.ones([1, 1, 5000]))[1].item()) for _ in range(20)]
    assert np.mean(means) == pytest.approx(0.5, rel=0.02)


def test_recurrent_dropout_is_one_draw_for_all_steps_of_a_sequence():
    made = layer("rnn", hidden=100, recurrent_dropout=0.5)
    made.train()
    made.weight_ih.set_value(np.zeros((100, 3), np.float32))
    made.bias.set_value(np.full(100, 0.5, np.float32))
    made.weight_hh.set_value(np.eye(100, dtype=np.float32))
    outputs = made(steps(2, 4, 3))[0].numpy()  # each number feeds itself, or nothing
    dropped = outputs[:, 1] == outputs[:, 0]
    for t in (2, 3):
        np.testing.assert_array_equal(outputs[:, t] == outputs[:, 0], dropped)
    assert 0.35 < dropped.mean() < 0.65
    assert (dropped[0] != dropped[1]).any()


# --- truncated back-propagation -------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("truncate", [(1, 1), (2, 2), (3, 5), (7, 7), (2, 100)])
def test_truncation_changes_no_output(cell, truncate):
    made, x = layer(cell), steps(2, 7, 3)
    mask = paddle.to_tensor([[True] * 7, [True] * 4 + [False] * 3])
    for got, expected in zip(made(x, mask, truncate), made(x, mask), strict=True):
        np.testing.assert_allclose(got.numpy(), expected.numpy(), atol=1e-6)


def reach(truncate: tuple[int, int], output: int) -> list[int]:
    """The steps of which an output's gradient knows."""
    made, x = layer("lstm"), steps(1, 8, 3)
    x.stop_gradient = False
    made(x, None, truncate)[0][:, output].sum().backward()
    return np.flatnonzero(np.abs(x.grad.numpy()).sum(axis=(0, 2))).tolist()


@pytest.mark.parametrize(
    ("truncate", "output", "expected"),
    [
        ((8, 8), 7, list(range(8))),
        ((2, 2), 7, [6, 7]),
        ((2, 4), 7, [4, 5, 6, 7]),
        ((2, 4), 6, [4, 5, 6]),
        ((2, 4), 1, [0, 1]),
        ((3, 3), 4, [3, 4]),
        ((1, 1), 5, [5]),
    ],
)
def test_the_gradient_goes_k2_steps_back_from_the_end_of_its_k1(truncate, output, expected):
    assert reach(truncate, output) == expected


def test_truncation_is_for_training_alone():
    made = stack(k=(1, 1))
    x = steps(1, 5, 3)
    for training, expected in ((True, [4]), (False, [0, 1, 2, 3, 4])):
        made.train() if training else made.eval()
        x.stop_gradient, x = False, x
        made(x)[1].sum().backward()
        assert np.flatnonzero(np.abs(x.grad.numpy()).sum(axis=(0, 2))).tolist() == expected
        x.clear_grad()


# --- stacks ---------------------------------------------------------------------------------------


def test_layers_read_the_states_below_them_in_both_directions():
    made = stack("gru", num_layers=2, bidirectional=True)
    made.eval()
    x = steps(2, 5, 3)
    below = paddle.concat([made.layers[0](x)[0], made.backward_layers[0](x)[0]], axis=2)
    expected = [made.layers[1](below), made.backward_layers[1](below)]
    outputs, last = made(x)
    for number, k in ((0, 0), (1, 1)):
        got = (outputs, last)[number].numpy()
        both = np.concatenate([part[k].numpy() for part in expected], axis=-1)
        np.testing.assert_allclose(got, both, atol=1e-6)
    assert made.c_out == 8
    assert list(outputs.shape) == [2, 5, 8]


def test_each_weight_has_one_name():
    names = [name for name, _ in stack("lstm", num_layers=2).named_parameters()]
    assert len(names) == 6
    assert set(stack("lstm", num_layers=2).state_dict()) == set(names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell": "elman"}, "cell = 'elman': needs one of lstm, gru, rnn"),
        ({"num_layers": 0}, "num_layers = 0 need at least 1"),
        ({"k": (3, 2)}, "k1 = 3, k2 = 2: needs 1 <= k1 <= k2"),
        ({"k": (0, 2)}, "k1 = 0, k2 = 2: needs 1 <= k1 <= k2"),
        ({"dropout": 1.0}, "dropout = 1.0: needs a number from 0 to below 1"),
        ({"recurrent_dropout": -0.1}, "recurrent_dropout = -0.1: needs a number"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        stack(**arguments)


# --- PyTorch --------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_it_equals_pytorchs_with_the_same_weights(cell, num_layers, bidirectional):
    torch = pytest.importorskip("torch")
    module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell]
    torch.manual_seed(0)
    theirs = module(
        3, 4, num_layers=num_layers, bidirectional=bidirectional, batch_first=True
    ).double()
    paddle.set_default_dtype("float64")
    try:
        ours = stack(cell, num_layers, bidirectional)
    finally:
        paddle.set_default_dtype("float32")
    weights = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    for suffix, layers in (("", ours.layers), ("_reverse", ours.backward_layers or [])):
        for number, made in enumerate(layers):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            w, u, b, b2 = (weights[f"{name}_l{number}{suffix}"] for name in names)
            made.weight_ih.set_value(w)
            made.weight_hh.set_value(u)
            made.bias.set_value(b if cell == "gru" else b + b2)
            if cell == "gru":
                made.bias_hh.set_value(b2)
    ours.eval()
    x = np.random.default_rng(0).normal(size=(3, 6, 3))
    lengths = [6, 2, 4]
    mask = np.arange(6) < np.array(lengths)[:, None]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(x), lengths, batch_first=True, enforce_sorted=False
    )
    expected, state = theirs(packed)
    expected = torch.nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)[0]
    outputs, last = ours(paddle.to_tensor(x), paddle.to_tensor(mask))
    got = outputs.numpy() * mask[:, :, None]
    np.testing.assert_allclose(got, expected.detach().numpy(), rtol=0, atol=1e-12)
    end = state[0] if cell == "lstm" else state  # (layers x directions, N, H)
    end = torch.cat(list(end[-2:] if bidirectional else end[-1:]), dim=1)
    np.testing.assert_allclose(last.numpy(), end.detach().numpy(), rtol=0, atol=1e-12)
    (expected * torch.from_numpy(x[:, :, :1])).sum().backward()
    (outputs * paddle.to_tensor(x[:, :, :1] * mask[:, :, None])).sum().backward()
    np.testing.assert_allclose(
        ours.layers[0].weight_ih.grad.numpy(), theirs.weight_ih_l0.grad.numpy(), rtol=0, atol=1e-12
    )

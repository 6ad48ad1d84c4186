"""Learning rates as tables of numbers; optimisers, clipping and averages against NumPy."""

import re

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.models import create_model
from paddlevid.optim import (
    Schedule,
    WeightAverage,
    clip_gradients,
    create_optimizer,
    group_parameters,
)


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        (Schedule(0.1, 4), {0: 0.1, 1.5: 0.1, 3.99: 0.1}),
        (
            Schedule(0.1, 10, "multistep", (4, 8), 0.1),
            {0: 0.1, 3.99: 0.1, 4: 0.01, 7.99: 0.01, 8: 0.001, 9.99: 0.001},
        ),
        (Schedule(0.1, 10, "multistep", (4, 8), 0.5), {3: 0.1, 4: 0.05, 9: 0.025}),
        (Schedule(0.1, 10, "multistep", ()), {0: 0.1, 9: 0.1}),
        (
            Schedule(0.1, 10, "multistep", (4,), per_step=True),
            {3.99: 0.1, 4: 0.01},
        ),
        (
            Schedule(1.0, 4, "cosine"),
            {0: 1.0, 0.99: 1.0, 1: 0.8535534, 1.99: 0.8535534, 2: 0.5, 3: 0.1464466},
        ),
        (
            Schedule(1.0, 4, "cosine", per_step=True),
            {0: 1.0, 0.5: 0.9619398, 1: 0.8535534, 2: 0.5, 3.5: 0.0380602, 4: 0.0},
        ),
        (
            Schedule(1.0, 10, "constant", warmup=2),
            {0: 0.1, 0.5: 0.325, 1: 0.55, 1.5: 0.775, 1.999999: 0.99999955, 2: 1.0, 5: 1.0},
        ),
        (
            Schedule(1.0, 3, "cosine", per_step=True, warmup=1),
            {0: 0.1, 0.5: 0.55, 1: 1.0, 2: 0.5, 3: 0.0},
        ),
        (Schedule(1.0, 3, "cosine", warmup=0.5), {0.25: 0.55, 0.5: 1.0, 0.9: 1.0, 1: 0.9045085}),
        (Schedule(1.0, 4, "multistep", (3,), warmup=1), {0: 0.1, 2: 1.0, 3: 0.1}),
    ],
)  # fmt: skip
def test_the_rate_is_that_of_the_table(schedule, table):
    for position, rate in table.items():
        assert schedule(position) == pytest.approx(rate, rel=1e-6, abs=1e-12), position


def test_unknown_names_are_refused():
    with pytest.raises(
        ValueError, match="unknown policy 'step'; there are 'constant', 'multistep'"
    ):
        Schedule(0.1, 3, "step")
    with pytest.raises(
        ValueError, match="unknown optimiser 'sgd'; there are 'momentum', 'adamw' and"
    ):
        create_optimizer("sgd", [{"params": nn.Linear(1, 1).parameters()}])


START = np.array([0.5, -1.0, 2.0], np.float32)
GRADIENTS = np.array([[0.1, 0.2, -0.3], [0.4, -0.5, 0.6], [-0.7, 0.8, 0.9]], np.float32)
RATES = (0.1, 0.05, 0.2)
# Learning rate and weight decay of each group, as group_parameters gives them.
ONE_GROUP = [(1.0, 0.1)]
SEVERAL_GROUPS = [(1.0, 0.0), (1.0, 0.1), (0.5, 0.3), (2.0, 0.0), (2.0, 0.1), (0.0, 0.1)]


def steps(name: str, groups: list[tuple[float, float]], **arguments: object) -> list[np.ndarray]:
    """START in each group after three steps with GRADIENTS and RATES."""
    start = paddle.nn.initializer.Assign(START)
    parameters = [
        paddle.create_parameter([3], "float32", default_initializer=start) for _ in groups
    ]
    optimizer = create_optimizer(
        name,
        [
            {"params": [parameter], "learning_rate": rate, "weight_decay": decay}
            for parameter, (rate, decay) in zip(parameters, groups, strict=True)
        ],
        **arguments,
    )
    for gradient, rate in zip(GRADIENTS, RATES, strict=True):
        optimizer.set_lr(rate)
        sum((parameter * paddle.to_tensor(gradient)).sum() for parameter in parameters).backward()
        optimizer.step()
        optimizer.clear_grad()
    return [parameter.numpy() for parameter in parameters]


def momentum_by_hand(times: float, decay: float, nesterov: bool) -> np.ndarray:
    weight, velocity = START.astype(np.float64), np.zeros(3)
    for gradient, rate in zip(GRADIENTS.astype(np.float64), RATES, strict=True):
        gradient = gradient + decay * weight
        velocity = 0.8 * velocity + gradient
        weight = weight - rate * times * (gradient + 0.8 * velocity if nesterov else velocity)
    return weight


def adamw_by_hand(times: float, decay: float) -> np.ndarray:
    weight, mean, square = START.astype(np.float64), np.zeros(3), np.zeros(3)
    for step, (gradient, rate) in enumerate(
        zip(GRADIENTS.astype(np.float64), RATES, strict=True), start=1
    ):
        weight = weight * (1 - rate * times * decay)  # decoupled: not part of the gradient
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        size = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        weight = weight - rate * times * (mean / (1 - 0.8**step)) / size
    return weight


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("groups", [ONE_GROUP, [(1.0, 0.0)], SEVERAL_GROUPS])
def test_momentum_steps_are_those_by_hand_with_each_groups_rate_and_decay(nesterov, groups):
    got = steps("momentum", groups, momentum=0.8, nesterov=nesterov)
    expected = [momentum_by_hand(*group, nesterov) for group in groups]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("groups", [ONE_GROUP, [(1.0, 0.0)], SEVERAL_GROUPS])
def test_adamw_steps_are_those_by_hand_with_each_groups_rate_and_decay(groups):
    got = steps("adamw", groups, momentum=0.8)
    expected = [adamw_by_hand(*group) for group in groups]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


# --- groups of parameters -------------------------------------------------------------------------


TINY = {
    "tsn_r18": {"width": 8},
    "eco_lite": {"width": 8},
    "eco_full": {"width": 8},
    "timesformer_base": {
        "dim": 8, "depth": 2, "num_heads": 2, "num_frames": 2, "image_size": 32,
    },
}  # fmt: skip
# What the weights and biases of norms are called, and the embeddings.
NORMS = {
    "tsn_r18": r"bn\d|downsample\.1",
    "eco_lite": r"bn",
    "eco_full": r"bn",
    "timesformer_base": r"norm",
}
EMBEDDINGS = ("cls_token", "pos_embed", "time_embed")


def tiny(name: str, **arguments: object) -> nn.Layer:
    return create_model(name, num_classes=3, **TINY[name], **arguments)


def table_of(model: nn.Layer, **arguments: object) -> dict[str, tuple[float, float]]:
    """The rate and the decay of each parameter that is in a group; none may be in two."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    table = {}
    for group in group_parameters(model, **arguments):
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name not in table, name
            table[name] = (group["learning_rate"], group["weight_decay"])
    return table


def names_of(model: nn.Layer, frozen: bool) -> set[str]:
    """The parameters that are frozen, the statistics of batch norms among them, or the others."""
    named = model.named_parameters()
    return {name for name, parameter in named if parameter.stop_gradient == frozen}


def kind_by_name(model_name: str, name: str) -> str:
    if name in EMBEDDINGS:
        return "embedding"
    if re.search(NORMS[model_name], name):
        return "norm"
    return name.rpartition(".")[2]


@pytest.mark.parametrize("name", TINY)
def test_each_trained_parameter_is_in_exactly_one_group(name):
    model = tiny(name)
    everything = {
        "weight_decay": 0.1, "no_decay": ("bias", "norm", "embedding"), "bias_lr": 2.0,
        "trunk_lr": 0.5,
    }  # fmt: skip
    for arguments in ({}, everything):
        assert table_of(model, **arguments).keys() == names_of(model, frozen=False)


def test_plain_settings_make_one_group():
    (group,) = group_parameters(tiny("tsn_r18"), weight_decay=0.1)
    assert (group["learning_rate"], group["weight_decay"]) == (1.0, 0.1)


def test_frozen_parameters_are_in_no_group():
    model = tiny("tsn_r18", partial_bn=True)
    frozen = names_of(model, frozen=True)
    assert len(frozen) == 2 * 20 + 2 * 19  # statistics; weights and biases of all but one norm
    assert table_of(model).keys() == names_of(tiny("tsn_r18"), frozen=False) - frozen


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    "kinds", [(), ("bias",), ("norm",), ("embedding",), ("bias", "norm", "embedding")]
)
def test_kinds_without_decay_have_none_and_all_others_have_it(name, kinds):
    table = table_of(tiny(name), weight_decay=0.1, no_decay=kinds)
    for parameter, (rate, decay) in table.items():
        assert decay == (0.0 if kind_by_name(name, parameter) in kinds else 0.1), parameter
        assert rate == 1.0


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # 20 batch norms; 20 convolutions and the classifier; only the classifier has a bias
        ("tsn_r18", {"norm": 40, "weight": 21, "bias": 1}),
        # 19 convolutions with 2-D and 13 with 3-D maps, all with biases; the 3-D part has 11 norms
        ("eco_lite", {"norm": 2 * (19 + 11), "weight": 33, "bias": 33}),
        # of each block 3 layer norms and 7 linear layers; the last norm; patches and classifier
        ("timesformer_base", {"norm": 2 * 7, "weight": 16, "bias": 16, "embedding": 3}),
    ],
)
def test_the_networks_have_as_many_parameters_of_each_kind_as_their_papers(name, counts):
    kinds = [kind_by_name(name, parameter) for parameter in table_of(tiny(name))]
    assert {kind: kinds.count(kind) for kind in sorted(set(kinds))} == counts


@pytest.mark.parametrize("name", TINY)
def test_the_rate_of_biases_is_not_that_of_norms(name):
    table = table_of(tiny(name), bias_lr=2.0)
    for parameter, (rate, _) in table.items():
        assert rate == (2.0 if kind_by_name(name, parameter) == "bias" else 1.0), parameter


@pytest.mark.parametrize(
    "name",
    [
        "tsn_r18", "eco_lite", "eco_full", "timesformer_base", "cnn_lstm", "lrcn_r18", "movinet_a0",
        "movinet_a0_stream",
    ],
)  # fmt: skip
def test_the_rate_of_the_trunk_is_that_of_all_but_the_classifier(name):
    with paddle.LazyGuard():
        model = create_model(name, num_classes=3)
    table = table_of(model, trunk_lr=0.25)
    heads = {parameter for parameter, (rate, _) in table.items() if rate == 1.0}
    assert heads == {name for name in table if name.startswith(f"{model.classifier}.")}
    assert heads and {rate for rate, _ in table.values()} == {0.25, 1.0}


@pytest.mark.parametrize("depth", [1, 3])
def test_the_rate_falls_with_each_block_below_the_classifier(depth):
    sizes = {"dim": 8, "num_heads": 2, "num_frames": 2, "image_size": 32}
    model = create_model("timesformer_base", num_classes=3, depth=depth, **sizes)
    exponents = {"head": 0, "norm": 0, "patch_embed": depth + 1}
    exponents |= dict.fromkeys(EMBEDDINGS, depth + 1)
    exponents |= {f"blocks.{i}": depth - i for i in range(depth)}  # the last block: 1
    table = table_of(model, layer_decay=0.5)
    assert len(table) == len(list(model.parameters()))
    for parameter, (rate, _) in table.items():
        part = re.match(r"blocks\.\d+|\w+", parameter)[0]
        assert rate == 0.5 ** exponents[part], parameter


def test_factors_of_the_rate_multiply():
    table = table_of(tiny("timesformer_base"), bias_lr=2.0, trunk_lr=0.1, layer_decay=0.5)
    expected = {
        "head.weight": 1, "head.bias": 2, "norm.bias": 0.1, "blocks.1.mlp.fc1.weight": 0.05,
        "blocks.1.mlp.fc1.bias": 0.1, "blocks.0.norm1.bias": 0.025, "cls_token": 0.0125,
        "patch_embed.proj.bias": 0.025,
    }  # fmt: skip
    assert {name: table[name][0] for name in expected} == pytest.approx(expected)


def test_a_decay_of_layers_needs_blocks():
    with pytest.raises(
        ValueError, match="layer_decay = 0.75 needs a transformer, which has blocks; a TSN has none"
    ):
        group_parameters(tiny("tsn_r18"), layer_decay=0.75)


# --- clipping -------------------------------------------------------------------------------------


def parameters_with(*gradients: list[float] | None) -> list[paddle.Tensor]:
    parameters = []
    for gradient in gradients:
        parameter = paddle.create_parameter([2], "float32")
        if gradient is not None:
            (parameter * paddle.to_tensor(gradient)).sum().backward()
        parameters.append(parameter)
    return parameters


@pytest.mark.parametrize(
    ("norm", "value", "expected"),
    [
        (0, 0, [[3.0, 0.0], [0.0, -4.0]]),
        (10, 0, [[3.0, 0.0], [0.0, -4.0]]),
        (2.5, 0, [[1.5, 0.0], [0.0, -2.0]]),
        (0, 3.5, [[3.0, 0.0], [0.0, -3.5]]),
        (2.5, 1.75, [[1.5, 0.0], [0.0, -1.75]]),  # the norm first
        (2.5, 3, [[1.5, 0.0], [0.0, -2.0]]),
    ],
)
def test_gradients_are_limited_by_norm_and_then_by_value(norm, value, expected):
    parameters = parameters_with([3.0, 0.0], None, [0.0, -4.0])
    clip_gradients(parameters, norm, value)
    assert parameters[1].grad is None
    got = [parameters[i].grad.numpy() for i in (0, 2)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_without_gradients_there_is_nothing_to_limit():
    parameters = parameters_with(None, None)
    clip_gradients(parameters, 1.0, 1.0)
    assert [parameter.grad for parameter in parameters] == [None, None]


# --- averages of weights --------------------------------------------------------------------------


class Normed(nn.Layer):
    """A network with parameters and with statistics that are no parameters."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1D(3)


def set_weights(model: nn.Layer, seed: int) -> dict[str, np.ndarray]:
    """Put random weights into a network: -> a copy of them."""
    rng = np.random.default_rng(seed)
    for tensor in model.state_dict().values():
        tensor.set_value(rng.normal(size=tensor.shape).astype(np.float32))
    return weights_of(model)


def weights_of(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(second[name]), err_msg=name)


def test_the_average_of_the_weights_is_that_by_hand_with_a_warm_up():
    model = Normed()
    expected = set_weights(model, 0)
    assert {"norm._mean", "norm._variance", "norm.weight"} < expected.keys()
    average = WeightAverage(model, decay=0.3)
    assert_same(expected, average.weights)
    decays = (2 / 11, 3 / 12, 0.3, 0.3)  # the third would be 4 / 13 = 0.308
    for step, decay in enumerate(decays, start=1):
        new = set_weights(model, step)
        average.update(step)
        expected = {name: decay * expected[name] + (1 - decay) * new[name] for name in expected}
        for name, value in expected.items():
            np.testing.assert_allclose(
                average.weights[name].numpy(), value, rtol=1e-5, atol=1e-6, err_msg=name
            )


def average_and_weights() -> tuple[Normed, WeightAverage, dict, dict]:
    """A network, its average, its own weights and a copy of the average, which differ."""
    model = Normed()
    set_weights(model, 0)
    average = WeightAverage(model, decay=0.5)
    own = set_weights(model, 1)
    average.update(1)
    averaged = {name: tensor.numpy().copy() for name, tensor in average.weights.items()}
    assert all((own[name] != averaged[name]).all() for name in own)
    return model, average, own, averaged


def test_the_average_is_in_the_network_for_a_while_and_the_own_weights_come_back():
    model, average, own, averaged = average_and_weights()
    with average.in_place():
        assert_same(weights_of(model), averaged)
    assert_same(weights_of(model), own)


def test_the_own_weights_come_back_after_an_exception():
    model, average, own, averaged = average_and_weights()
    with pytest.raises(KeyError, match="stop"), average.in_place():
        assert_same(weights_of(model), averaged)
        raise KeyError("stop")
    assert_same(weights_of(model), own)


def test_what_happens_to_the_network_does_not_reach_the_average():
    model, average, _, averaged = average_and_weights()
    with average.in_place():
        set_weights(model, 2)
    assert_same(average.weights, averaged)
    set_weights(model, 3)
    assert_same(average.weights, averaged)


@pytest.mark.parametrize(("rate", "epochs"), [(1.0, 10), (0.002, 7), (0.1, 1)])
def test_one_cycle_rises_over_three_tenths_of_the_epochs_and_falls_to_almost_nothing(rate, epochs):
    schedule = Schedule(rate, epochs, "one_cycle", per_step=True)
    low, end = rate / 25, rate / 250_000
    for share in np.linspace(0, 1, 41):
        if share <= 0.3:  # a cosine, said with a sine
            expected = low + (rate - low) * np.sin(np.pi / 2 * share / 0.3) ** 2
        else:
            expected = rate + (end - rate) * np.sin(np.pi / 2 * (share - 0.3) / 0.7) ** 2
        assert schedule(share * epochs) == pytest.approx(expected, rel=1e-6), share
    assert schedule(epochs + 0.5) == pytest.approx(end)  # it does not rise again


def test_one_cycle_without_steps_keeps_its_rate_for_an_epoch():
    schedule = Schedule(1.0, 10, "one_cycle")
    rates = [schedule(position) for position in (0, 0.99, 1, 1.99, 3, 3.99)]
    assert rates == pytest.approx([0.04, 0.04, 0.28, 0.28, 1, 1])

"""Learning rates as tables of numbers; optimisers and clipping against NumPy."""

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.optim import Schedule, clip_gradients, create_optimizer


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
        ValueError, match="unknown optimiser 'sgd'; there are 'momentum' and 'adamw"
    ):
        create_optimizer("sgd", nn.Linear(1, 1).parameters())


START = np.array([0.5, -1.0, 2.0], np.float32)
GRADIENTS = np.array([[0.1, 0.2, -0.3], [0.4, -0.5, 0.6], [-0.7, 0.8, 0.9]], np.float32)
RATES = (0.1, 0.05, 0.2)


def steps(name: str, **arguments: object) -> np.ndarray:
    """START after three steps with GRADIENTS and RATES."""
    start = paddle.nn.initializer.Assign(START)
    parameter = paddle.create_parameter([3], "float32", default_initializer=start)
    optimizer = create_optimizer(name, [parameter], **arguments)
    for gradient, rate in zip(GRADIENTS, RATES, strict=True):
        optimizer.set_lr(rate)
        (parameter * paddle.to_tensor(gradient)).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    return parameter.numpy()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_momentum_steps_are_those_by_hand(nesterov, decay):
    weight, velocity = START.astype(np.float64), np.zeros(3)
    for gradient, rate in zip(GRADIENTS.astype(np.float64), RATES, strict=True):
        gradient = gradient + decay * weight
        velocity = 0.8 * velocity + gradient
        weight = weight - rate * (gradient + 0.8 * velocity if nesterov else velocity)
    got = steps("momentum", momentum=0.8, nesterov=nesterov, weight_decay=decay)
    np.testing.assert_allclose(got, weight, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_steps_are_those_by_hand(decay):
    weight, mean, square = START.astype(np.float64), np.zeros(3), np.zeros(3)
    for step, (gradient, rate) in enumerate(
        zip(GRADIENTS.astype(np.float64), RATES, strict=True), start=1
    ):
        weight = weight * (1 - rate * decay)  # decoupled: not part of the gradient
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        size = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        weight = weight - rate * (mean / (1 - 0.8**step)) / size
    got = steps("adamw", momentum=0.8, weight_decay=decay)
    np.testing.assert_allclose(got, weight, rtol=1e-5)


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

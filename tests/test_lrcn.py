"""LRCN: the published numbers, which blocks are trained, padding, starts from image networks."""

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.convert.conversion import convert
from paddlevid.layers.trunks import average_to_grid, create_trunk
from paddlevid.models import create_model
from paddlevid.weights import WeightsError, WeightsFile, load_weights

STATISTICS = ("_mean", "_variance")
TINY = {"width": 8, "grid": 2, "reduced": 10, "hidden": 6, "trained_blocks": 5}


def small(**arguments: object) -> nn.Layer:
    paddle.seed(0)
    return create_model("lrcn_r18", num_classes=4, **{**TINY, **arguments})


def clips(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def without_values(name: str, num_classes: int, **arguments: object) -> nn.Layer:
    with paddle.LazyGuard():
        return create_model(name, num_classes=num_classes, **arguments)


def sizes(model: nn.Layer) -> tuple[int, int]:
    parameters = model.parameters()
    return sum(p.size for p in parameters), sum(p.size for p in parameters if not p.stop_gradient)


@pytest.mark.parametrize(
    ("num_classes", "expected"),
    [(7, (75_547_463, 67_912_199)), (101, (75_643_813, 68_008_549))],
)
def test_the_numbers_of_parameters_are_the_published_ones(num_classes, expected):
    assert sizes(without_values("lrcn_vgg16", num_classes)) == expected


def test_an_lstm_has_one_bias():
    lstm = without_values("lrcn_vgg16", 7, cell="lstm")
    assert sum(p.size for p in lstm.recurrent.parameters()) == 4 * (1024 * (2048 + 1024) + 1024)


@pytest.mark.parametrize("trained", range(6))
def test_the_lower_blocks_are_not_trained_and_their_norms_stay(trained):
    model = small(trained_blocks=trained)
    stages = [[model.trunk.conv1, model.trunk.bn1], *([getattr(model.trunk, f"layer{i}")]
              for i in (1, 2, 3, 4))]  # fmt: skip
    model.train()
    for number, stage in enumerate(stages):
        is_trained = number >= 5 - trained
        for layer in stage:
            weights = [p for n, p in layer.named_parameters() if not n.endswith(STATISTICS)]
            assert all(p.stop_gradient != is_trained for p in weights)
            assert layer.training == is_trained
    assert model.recurrent.training
    model.eval()
    assert not any(layer.training for layer in model.sublayers())


def test_a_frame_of_zeros_is_passed_over():
    model = small()
    model.eval()
    clip = clips(2, 3, 4, 32, 32)
    padded = paddle.concat([clip, paddle.zeros([2, 3, 3, 32, 32])], axis=2)
    np.testing.assert_allclose(model(padded).numpy(), model(clip).numpy(), atol=1e-6)


def test_the_order_of_frames_matters():
    model = small()
    model.eval()
    clip = clips(1, 3, 5, 32, 32)
    assert np.abs((model(clip) - model(clip.flip(2))).numpy()).max() > 1e-5


def test_the_last_of_the_frames_logits_are_the_clips():
    model = small()
    model.eval()
    clip = clips(2, 3, 4, 32, 48)
    curve = model.frame_logits(clip).numpy()
    assert curve.shape == (2, 4, 4)
    np.testing.assert_allclose(curve[:, -1], model(clip).numpy(), atol=1e-6)
    np.testing.assert_allclose(curve[:, 1], model(clip[:, :, :2]).numpy(), atol=1e-6)


def test_asked_to_it_averages_the_probabilities_of_its_frames():
    model = small(average=True)
    model.eval()
    clip = clips(2, 3, 4, 32, 32)
    expected = paddle.nn.functional.softmax(model.frame_logits(clip)).mean(axis=1).log()
    np.testing.assert_allclose(model(clip).numpy(), expected.numpy(), atol=1e-5)


def test_there_is_no_activation_behind_the_linear_layer_unless_asked():
    for relu in (False, True):
        model = small(relu=relu)
        model.eval()
        seen = []
        model.recurrent.register_forward_pre_hook(lambda _, inputs, s=seen: s.append(inputs[0]))
        model(clips(2, 3, 3, 32, 32))
        assert (seen[0].numpy() < 0).any() != relu


def test_initialisation_is_the_published_one():
    model = create_model("lrcn_r18", num_classes=4, **{**TINY, "hidden": 12})
    layer = model.recurrent.layers[0]
    assert (layer.bias.numpy() == 1).all()
    weight = layer.weight_ih.numpy()  # (36, 10): its columns are orthogonal
    np.testing.assert_allclose(weight.T @ weight, np.eye(10), atol=1e-5)


@pytest.mark.parametrize("name", ["lrcn_vgg16", "lrcn_r18"])
def test_it_starts_from_an_image_networks_weights(name, tmp_path):
    trunk = create_trunk({"lrcn_vgg16": "vgg16", "lrcn_r18": "resnet18"}[name])
    rng = np.random.default_rng(0)
    arrays = {
        key: rng.random(tensor.shape, dtype=np.float32)
        for key, tensor in trunk.state_dict().items()
    }
    classifier = "classifier.6" if name == "lrcn_vgg16" else "fc"
    arrays |= {f"{classifier}.weight": np.ones((1000, 8)), f"{classifier}.bias": np.ones(1000)}
    model = create_model(name, num_classes=4, reduced=8, hidden=6, grid=1)
    conversion = convert(model, WeightsFile(tmp_path / "a.pth", arrays, "torch"))
    for key in trunk.state_dict():
        np.testing.assert_array_equal(conversion.weights[f"trunk.{key}"], arrays[key])
    fates = {row.target: row.fate for row in conversion.rows if row.target}
    behind = {key: fate for key, fate in fates.items() if not key.startswith("trunk.")}
    assert set(behind.values()) == {"initialised"}
    with pytest.raises(WeightsError, match="lacks .* the file is of an image network"):
        convert(model, WeightsFile(tmp_path / "a.pth", arrays, "torch"), whole=True)


def test_its_own_weights_come_back(tmp_path):
    model, other = small(), small(hidden=6)
    arrays = {name: tensor.numpy() + 1 for name, tensor in model.state_dict().items()}
    file = WeightsFile(tmp_path / "a.pdparams", arrays, "paddle")
    load_weights(other, convert(other, file, whole=True).weights, file.path)
    for name, tensor in other.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])


def test_the_published_image_weights_are_the_trunks():
    assert small().imagenet_weights[0].endswith("/resnet18.pdparams")
    assert without_values("lrcn_vgg16", 3).imagenet_weights[0].endswith("/vgg16.pdparams")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("lrcn_r18", {"trained_blocks": 6}, "trained_blocks = 6 needs a number from 0 to 5"),
        ("lrcn_r18", {"grid": 0}, "grid = 0 and"),
        ("lrcn_vgg16", {"width": 8}, "width = 8: VGG16 has only one"),
        ("lrcn_r50", {"width": 8}, "width = 8 needs depth 18 or 34, not 50"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, num_classes=3, **arguments)


@pytest.mark.parametrize("name", ["lrcn_r18", "lrcn_vgg16"])
def test_what_is_not_trained_may_be_computed_in_another_way(name):
    """In training only; the same loss and the same gradients."""
    arguments = {"width": 64} if name == "lrcn_vgg16" else {}
    small_one = {**TINY, **arguments, "trained_blocks": 2, "dropout": 0, "recurrent_dropout": 0}
    paddle.seed(0)
    model = create_model(name, num_classes=4, **small_one)
    clip, calls = clips(1, 3, 2, 32, 32), []

    def step() -> tuple[float, list[np.ndarray]]:
        loss = model(clip).square().sum()
        loss.backward()
        gradients = [p.grad.numpy() for p in model.parameters() if p.grad is not None]
        model.clear_gradients()
        return loss.item(), gradients

    model.train()
    expected = step()
    frozen = model.frozen_part()
    model.run_frozen = lambda frames: calls.append(frames.shape) or frozen(frames)
    loss, gradients = step()
    assert calls == [[2, 3, 32, 32]]
    assert loss == pytest.approx(expected[0], rel=1e-5)
    for got, right in zip(gradients, expected[1], strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-6 * np.abs(right).max())
    model.eval()
    model(clip)
    assert len(calls) == 1


def test_frozen_batch_norms_stay_so_when_they_become_those_of_all_processes():
    model = create_model("lrcn_r18", num_classes=2, width=8, grid=1, reduced=4, hidden=4)
    model = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.train()
    norms = {n: c for n, c in model.named_sublayers() if isinstance(c, paddle.nn.SyncBatchNorm)}
    assert len(norms) == 20
    for name, norm in norms.items():
        assert norm.training == name.startswith("trunk.layer4."), name


@pytest.mark.parametrize(
    ("size", "grid"),
    [((4, 4), 7), ((5, 9), 3), ((7, 7), 7), ((1, 1), 2), ((14, 7), 7), ((3, 8), 1)],
)
def test_any_maps_are_averaged_to_the_grid_as_adaptive_pooling_does(size, grid):
    maps = paddle.to_tensor(np.random.default_rng(0).random((2, 3, *size), np.float32))
    expected = paddle.nn.functional.adaptive_avg_pool2d(maps, grid)
    found = average_to_grid(maps, grid)
    assert found.shape == [2, 3, grid, grid]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)

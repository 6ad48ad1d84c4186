"""TSN against its numbers (parameters, initialisation) and against a plain re-statement."""

import math
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddlevid.convert.conversion import convert
from paddlevid.models import create_model
from paddlevid.weights import WeightsError, WeightsFile


def clips(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def small(num_classes: int = 3, seed: int = 0, **arguments: object) -> nn.Layer:
    paddle.seed(seed)
    return create_model("tsn_r18", num_classes=num_classes, **{"width": 8, **arguments})


def num_trainable(model: nn.Layer) -> int:
    return sum(p.size for p in model.parameters() if not p.stop_gradient)


def perturb_norms(model: nn.Layer) -> None:
    """Give all batch norms statistics and scales that are not those of a fresh network."""
    rng = np.random.default_rng(0)
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            shape = layer.weight.shape
            for tensor, low, high in (
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.5, 0.5),
                (layer._mean, -0.5, 0.5),
                (layer._variance, 0.5, 1.5),
            ):
                tensor.set_value(rng.uniform(low, high, shape).astype(np.float32))


# --- numbers of the paper's network ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [
        ("tsn_r50", 10, 23_528_522),
        ("tsn_r101", 400, 43_319_760),
        ("tsn_r152", 400, 58_963_408),
        ("tsn_r18", 1000, 11_689_512),
        ("tsn_r34", 1000, 21_797_672),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, num_classes, expected):
    with paddle.LazyGuard():
        model = create_model(name, num_classes=num_classes)
    assert num_trainable(model) == expected


@pytest.fixture(scope="module")
def resnet50() -> nn.Layer:
    paddle.seed(1)
    return create_model("tsn_r50", num_classes=51)


def test_the_classifier_adds_2049_parameters_a_class(resnet50):
    assert num_trainable(resnet50) == 23_612_531
    for num_classes, expected in ((101, 23_714_981), (400, 24_327_632)):
        resnet50.fc = nn.Linear(2048, num_classes)
        assert num_trainable(resnet50) == expected


def test_the_keys_are_torchvisions_below_trunk(resnet50):
    keys = set(resnet50.state_dict())
    norm = ("weight", "bias", "_mean", "_variance")
    expected = {"fc.weight", "fc.bias", "trunk.conv1.weight"}
    expected |= {f"trunk.bn1.{name}" for name in norm}
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            place = f"trunk.layer{stage}.{block}"
            for number in (1, 2, 3):
                expected.add(f"{place}.conv{number}.weight")
                expected |= {f"{place}.bn{number}.{name}" for name in norm}
            if block == 0:
                expected.add(f"{place}.downsample.0.weight")
                expected |= {f"{place}.downsample.1.{name}" for name in norm}
    assert keys == expected


def test_the_imagenet_weights_are_those_of_the_trunks_depth(resnet50):
    address, md5 = resnet50.imagenet_weights
    assert address.endswith("/resnet50.pdparams")
    assert len(md5) == 32
    assert small().imagenet_weights[0].endswith("/resnet18.pdparams")


def plain_resnet50(weights: dict[str, paddle.Tensor], frames: paddle.Tensor) -> paddle.Tensor:
    """ResNet-50 as a table says it, with functions only: (N, 3, H, W) -> (N, 2048, h, w)"""

    def conv_norm(x, conv, norm, stride, padding):
        x = F.conv2d(x, weights[f"{conv}.weight"], stride=stride, padding=padding)
        mean, variance, scale, shift = (
            weights[f"{norm}.{name}"].reshape([1, -1, 1, 1])
            for name in ("_mean", "_variance", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    x = F.relu(conv_norm(frames, "conv1", "bn1", stride=2, padding=3))
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            place = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.relu(conv_norm(x, f"{place}.conv1", f"{place}.bn1", 1, 0))
            y = F.relu(conv_norm(y, f"{place}.conv2", f"{place}.bn2", stride, 1))
            y = conv_norm(y, f"{place}.conv3", f"{place}.bn3", 1, 0)
            if block == 0:
                down = f"{place}.downsample"
                x = conv_norm(x, f"{down}.0", f"{down}.1", stride, 0)
            x = F.relu(x + y)
    return x


def test_resnet50_equals_its_table_with_the_same_weights():
    paddle.seed(2)
    model = create_model("tsn_r50", num_classes=5)
    perturb_norms(model)
    model.eval()
    clip = clips(1, 3, 2, 64, 64)
    weights = model.state_dict()
    trunk = {name.removeprefix("trunk."): weights[name] for name in weights}
    with paddle.no_grad():
        maps = plain_resnet50(trunk, clip[0].transpose([1, 0, 2, 3]))
        assert list(maps.shape) == [2, 2048, 2, 2]
        features = maps.mean(axis=[2, 3]).mean(axis=0, keepdim=True)
        expected = (features @ weights["fc.weight"] + weights["fc.bias"]).numpy()
        got = model(clip).numpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# --- initialisation -------------------------------------------------------------------------------


def test_convolutions_start_kaiming_normal_by_fan_in(resnet50):
    # sqrt(2 / fan_in), as PaddleVideo's TSN: KaimingNormal() of paddle.nn.initializer.
    for name, weight in resnet50.trunk.named_parameters():
        if "conv" in name or "downsample.0" in name:
            values = weight.numpy()
            expected = math.sqrt(2 / np.prod(values.shape[1:]))
            error = 5 / math.sqrt(2 * values.size)  # five standard errors of the deviation
            assert values.std() == pytest.approx(expected, rel=error), name
            assert abs(values.mean()) < 5 * expected / math.sqrt(values.size), name


def test_batch_norms_start_as_the_identity(resnet50):
    norms = [layer for layer in resnet50.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    assert len(norms) == 53
    for norm in norms:
        assert (norm.weight.numpy() == 1).all()
        assert (norm.bias.numpy() == 0).all()
        assert (norm._momentum, norm._epsilon) == (0.9, 1e-5)


def test_the_classifier_starts_small():
    fc = create_model("tsn_r18", num_classes=400).fc
    weight = fc.weight.numpy()
    assert weight.std() == pytest.approx(0.01, rel=0.01)
    assert abs(weight.mean()) < 1e-4
    assert (fc.bias.numpy() == 0).all()


def test_the_seed_decides_the_fresh_weights():
    first, second = small(), small()
    for name, tensor in first.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), second.state_dict()[name].numpy())
    third = create_model("tsn_r18", num_classes=3, width=8)  # no seed set again
    assert (third.fc.weight.numpy() != first.fc.weight.numpy()).all()


# --- behaviour ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 1, 32, 32), (2, 3, 5, 97, 65), (1, 3, 3, 33, 112)])
def test_any_number_of_frames_of_any_size_gives_logits(shape):
    model = small(num_classes=4)
    model.eval()
    logits = model(clips(*shape))
    assert list(logits.shape) == [shape[0], 4]
    assert np.isfinite(logits.numpy()).all()


def test_the_order_of_frames_does_not_matter():
    model = small()
    perturb_norms(model)
    model.eval()
    clip = clips(2, 3, 4, 32, 32)
    np.testing.assert_allclose(
        model(clip).numpy(), model(clip[:, :, [2, 0, 3, 1]]).numpy(), rtol=0, atol=1e-6
    )
    assert np.abs((model(clip) - model(clip[:, :, :2])).numpy()).max() > 1e-5


def test_equal_frames_say_what_one_of_them_says():
    model = small()
    model.eval()
    frame = clips(2, 3, 1, 32, 32)
    repeated = paddle.concat([frame] * 3, axis=2)
    np.testing.assert_allclose(model(repeated).numpy(), model(frame).numpy(), rtol=0, atol=1e-6)


def test_a_clips_logits_are_the_mean_of_its_frames():
    model = small()
    model.eval()
    clip = clips(2, 3, 3, 32, 32)
    alone = np.mean([model(clip[:, :, i : i + 1]).numpy() for i in range(3)], axis=0)
    np.testing.assert_allclose(model(clip).numpy(), alone, rtol=0, atol=1e-6)


def test_the_output_is_not_squeezed_by_a_softmax():
    # With a softmax inside, the loss over 10 classes cannot go below 1.46.
    model = small(num_classes=10)
    model.eval()
    model.fc.weight.set_value(np.zeros(model.fc.weight.shape, np.float32))
    model.fc.bias.set_value(np.array([20.0] + [0.0] * 9, np.float32))
    logits = model(clips(1, 3, 2, 32, 32))
    np.testing.assert_allclose(logits.numpy(), [[20.0] + [0.0] * 9], atol=1e-5)
    assert nn.CrossEntropyLoss()(logits, paddle.to_tensor([0])).item() < 0.01


def test_dropout_is_four_tenths_and_acts_only_in_training():
    model = small()
    assert model.dropout.p == 0.4
    model.trunk.eval()  # leaves dropout as the only random part
    clip = clips(1, 3, 1, 32, 32)
    assert (model(clip).numpy() != model(clip).numpy()).any()
    model.eval()
    np.testing.assert_array_equal(model(clip).numpy(), model(clip).numpy())
    still = small(dropout=0.0)
    still.trunk.eval()
    np.testing.assert_array_equal(still(clip).numpy(), still(clip).numpy())


def test_ten_channels_of_flow_fit_with_in_channels():
    model = small(in_channels=10)
    model.eval()
    assert list(model(clips(1, 10, 2, 32, 32)).shape) == [1, 3]
    full = create_model("tsn_r18", num_classes=1000, in_channels=10)
    assert num_trainable(full) == 11_689_512 + 7 * 64 * 7 * 7


def test_kernels_of_rgb_are_averaged_and_repeated_for_flow():
    rgb, flow = small(seed=1), small(in_channels=10)
    file = WeightsFile(
        Path("rgb.pdparams"), {n: p.numpy() for n, p in rgb.state_dict().items()}, "paddle"
    )
    conversion = convert(flow, file)
    mean = file.arrays["trunk.conv1.weight"].astype(np.float64).mean(axis=1)
    kernels = conversion.weights["trunk.conv1.weight"]
    assert kernels.shape == (8, 10, 7, 7)
    for channel in range(10):
        np.testing.assert_allclose(kernels[:, channel], mean, rtol=1e-6, atol=1e-9)
    others = [name for name in file.arrays if name != "trunk.conv1.weight"]
    assert all((conversion.weights[name] == file.arrays[name]).all() for name in others)
    expected = "averaged: trunk.conv1.weight: averaged over 3 channels, repeated for 10"
    assert expected in conversion.summary()
    assert (
        convert(flow, WeightsFile(Path("f"), conversion.weights, "paddle")).rows[0].fate == "used"
    )
    with pytest.raises(
        WeightsError, match="lacks trunk.conv1.weight of the network: averaged over"
    ):
        convert(flow, file, whole=True)


def test_the_width_scales_all_stages():
    model = small(width=4)
    assert [list(getattr(model.trunk, f"layer{i}")[0].conv1.weight.shape[:1]) for i in
            (1, 2, 3, 4)] == [[4], [8], [16], [32]]  # fmt: skip
    assert set(model.state_dict()) == set(create_model("tsn_r18", num_classes=3).state_dict())


def test_a_narrow_resnet50_is_refused():
    with pytest.raises(ValueError, match="width = 32 needs depth 18 or 34, not 50"):
        create_model("tsn_r50", num_classes=3, width=32)


def test_every_parameter_gets_a_gradient():
    model = small()
    nn.CrossEntropyLoss()(model(clips(2, 3, 2, 32, 32)), paddle.to_tensor([0, 1])).backward()
    trainable = {n: p for n, p in model.named_parameters() if not p.stop_gradient}
    assert len(trainable) == 20 * 3 + 2  # 20 convolutions with batch norm, the classifier
    assert [n for n, p in trainable.items() if p.grad is None] == []
    assert [n for n, p in trainable.items() if not np.abs(p.grad.numpy()).max() > 0] == []


def test_it_learns_two_clips_by_heart():
    model = small(num_classes=2, dropout=0.0)
    optimizer = paddle.optimizer.Momentum(0.05, 0.9, model.parameters())
    clip, labels = clips(2, 3, 2, 32, 32), paddle.to_tensor([0, 1])
    losses = []
    for _ in range(12):
        loss = nn.CrossEntropyLoss()(model(clip), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.item())
    assert losses[0] > 0.3
    assert losses[-1] < 0.05


def train_a_step(model: nn.Layer) -> dict[str, np.ndarray]:
    """How much each tensor changed, at most."""
    model.train()
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    trained = [p for p in model.parameters() if not p.stop_gradient]
    optimizer = paddle.optimizer.Momentum(0.1, 0.9, trained, weight_decay=0.1)
    model(clips(2, 3, 2, 32, 32)).square().sum().backward()
    optimizer.step()
    return {n: np.abs(t.numpy() - before[n]).max() for n, t in model.state_dict().items()}


def test_partial_batch_norm_freezes_all_but_the_first():
    model = small(partial_bn=True)
    perturb_norms(model)
    changes = train_a_step(model)
    norms = {n: c for n, c in changes.items() if ".bn" in n or "downsample.1" in n}
    assert len(norms) == 20 * 4
    for name, change in norms.items():
        assert (change > 0) == name.startswith("trunk.bn1."), name
    assert all(change > 0 for name, change in changes.items() if name not in norms)


def test_without_partial_batch_norm_all_are_trained():
    model = small()
    perturb_norms(model)
    assert all(change > 0 for change in train_a_step(model).values())


def test_partial_batch_norm_follows_training_and_evaluation_mode():
    model = small(partial_bn=True, width=64)
    norms = [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    model.train()
    assert [norm.training for norm in norms] == [True] + [False] * 19
    assert model.dropout.training
    assert norms[0] is model.trunk.bn1
    model.eval()
    assert not any(layer.training for layer in model.sublayers())


@pytest.mark.parametrize("arguments", [{"width": 0}, {"dropout": 1.0}, {"in_channels": 0}])
def test_arguments_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match="{} = {}".format(*next(iter(arguments.items())))):
        create_model("tsn_r18", num_classes=3, **arguments)

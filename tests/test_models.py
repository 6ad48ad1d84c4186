"""The table of networks: names, arguments, and what holds for the networks of every family."""

import numpy as np
import paddle
import pytest
from paddle import nn

import paddlevid
from paddlevid.convert.conversion import convert
from paddlevid.models import (
    CNNLSTM,
    ECO,
    LRCN,
    MODELS,
    TSN,
    ConvLSTM,
    MoViNet,
    MoViNetStream,
    TimeSformer,
    create_model,
    list_models,
)
from paddlevid.weights import WeightsError, load_weights, read_weights, write_weights

TOKENS = {
    "image_size": 32, "patch_size": 16, "num_frames": 2, "dim": 12, "depth": 2, "num_heads": 3,
    "init_std": 0.3,
}  # fmt: skip
RECURRENT = {
    "width": 8, "trained_blocks": 5, "grid": 1, "reduced": 16, "hidden": 24, "dropout": 0.1,
    "recurrent_dropout": 0.1,
}  # fmt: skip
MOBILE = {
    "stem": 8, "stages": "8: 24@15 / 16: 40@33x2", "head": 24, "dense": 32, "alpha": 0.5,
    "momentum": 0.9, "drop_path": 0.1,
}  # fmt: skip
# Every structure that there is, as small as it gets.
TINY = {
    "tsn": ("tsn_r18", {"width": 8}),
    "tsn, partial batch norm": ("tsn_r18", {"width": 8, "partial_bn": True}),
    "eco lite": ("eco_lite", {"width": 8}),
    "eco full": ("eco_full", {"width": 8}),
    "timesformer, divided": ("timesformer_base", TOKENS),
    "timesformer, joint": ("timesformer_large", {**TOKENS, "attention": "joint"}),
    "timesformer, space": ("timesformer_hr", {**TOKENS, "attention": "space"}),
    "lrcn, gru": ("lrcn_r18", RECURRENT),
    "lrcn, lstm": ("lrcn_r18", {**RECURRENT, "cell": "lstm", "bidirectional": True}),
    "movinet": ("movinet_a0", MOBILE),
    "movinet, causal": ("movinet_a0_stream", MOBILE),
    "movinet, causal and whole kernels": ("movinet_a3_stream", {**MOBILE, "conv_type": "3d"}),
    "timesformer, sincos": ("timesformer_base", {**TOKENS, "sincos": True}),
}
CLASSES = {
    "tsn": TSN, "eco": ECO, "timesformer": TimeSformer, "cnn": CNNLSTM, "lrcn": LRCN,
    "movinet": MoViNet,
}  # fmt: skip


def test_the_five_depths_of_tsn_are_listed():
    assert [name for name in list_models() if name.startswith("tsn_")] == [
        "tsn_r18", "tsn_r34", "tsn_r50", "tsn_r101", "tsn_r152",
    ]  # fmt: skip
    assert list_models() == list(MODELS)


def test_the_other_families_are_listed():
    assert [name for name in list_models() if not name.startswith("tsn_")] == [
        "eco_lite", "eco_full", "timesformer_base", "timesformer_hr", "timesformer_large",
        "cnn_lstm", "lrcn_vgg16", "lrcn_r18", "lrcn_r34", "lrcn_r50",
        *(f"movinet_a{i}{kind}" for i in range(6) for kind in ("", "_stream")), "convlstm",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in list_models() if name != "convlstm"])
def test_every_name_makes_a_network_of_its_family(name):
    with paddle.LazyGuard():  # shapes, but no memory and no time
        model = create_model(name, num_classes=13)
    expected = MoViNetStream if name.endswith("_stream") else CLASSES[name.partition("_")[0]]
    assert type(model) is expected
    assert getattr(model, model.classifier).weight.shape[1] == 13


def test_convlstm_has_no_classes():
    assert type(create_model("convlstm", hidden=4)) is ConvLSTM


def test_changing_the_list_does_not_change_the_table():
    list_models().clear()
    assert "tsn_r50" in list_models()


def test_a_network_is_made_with_its_arguments():
    model = create_model("tsn_r34", num_classes=7, width=8, dropout=0.25)
    assert isinstance(model, TSN)
    assert (model.depth, model.dropout.p, list(model.fc.weight.shape)) == (34, 0.25, [64, 7])


def test_the_package_offers_the_same_functions():
    assert paddlevid.create_model is create_model
    assert paddlevid.list_models is list_models
    with pytest.raises(AttributeError, match="module 'paddlevid' has no attribute 'create'"):
        _ = paddlevid.create


def test_an_unknown_name_offers_the_near_ones():
    with pytest.raises(ValueError, match=r"unknown model 'tsn_r5'; did you mean tsn_r50.*\?"):
        create_model("tsn_r5", num_classes=2)
    with pytest.raises(ValueError, match="unknown model 'zzz'; did you mean .*tsn_r101.*tsn_r50"):
        create_model("zzz", num_classes=2)


def test_an_unknown_argument_offers_the_near_one():
    message = r"tsn_r18 has no argument 'drop_out'; did you mean dropout\?"
    with pytest.raises(ValueError, match=message):
        create_model("tsn_r18", num_classes=2, drop_out=0.1)
    with pytest.raises(ValueError, match="no argument 'zz'; did you mean dropout, in_channels, wi"):
        create_model("tsn_r18", num_classes=2, zz=0.1)
    with pytest.raises(ValueError, match="tsn_r18 has no argument 'depth'"):
        create_model("tsn_r18", num_classes=2, depth=50)
    with pytest.raises(ValueError, match=r"'dropout'; did you mean dropout_[23]d\?"):
        create_model("eco_lite", num_classes=2, dropout=0.1)
    with pytest.raises(ValueError, match="eco_lite has no argument 'full'"):
        create_model("eco_lite", num_classes=2, full=True)
    with pytest.raises(
        ValueError, match=r"timesformer_hr .* 'patchsize'; did you mean patch_size\?"
    ):
        create_model("timesformer_hr", num_classes=2, patchsize=8)
    with pytest.raises(ValueError, match="timesformer_base has no argument 'width'"):
        create_model("timesformer_base", num_classes=2, width=8)


def test_the_number_of_classes_must_be_said():
    for name in ("tsn_r18", "eco_lite", "timesformer_base"):
        with pytest.raises(ValueError, match=f"{name}: num_classes = 0: needs at least 1"):
            create_model(name)


def test_arguments_are_given_by_name():
    with pytest.raises(TypeError):
        create_model("tsn_r18", 2)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("tsn_r18", {"width": 8.5}, r"tsn_r18: width = 8\.5: needs int"),
        ("tsn_r18", {"width": True}, "tsn_r18: width = True: needs int"),
        ("tsn_r18", {"dropout": "half"}, "tsn_r18: dropout = 'half': needs float"),
        ("tsn_r18", {"partial_bn": 1}, "tsn_r18: partial_bn = 1: needs bool"),
        ("eco_full", {"width": "8"}, "eco_full: width = '8': needs int"),
        ("eco_lite", {"dropout_3d": None}, "eco_lite: dropout_3d = None: needs float"),
        ("timesformer_base", {"attention": 1}, "timesformer_base: attention = 1: needs str"),
        ("timesformer_base", {"depth": 2.0}, r"timesformer_base: depth = 2\.0: needs int"),
        ("timesformer_base", {"sincos": 1}, "timesformer_base: sincos = 1: needs bool"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, num_classes=2, **arguments)


def test_a_whole_number_is_taken_for_a_float():
    assert create_model("tsn_r18", num_classes=2, width=8, dropout=0).dropout.p == 0
    model = create_model("timesformer_base", num_classes=2, **{**TOKENS, "mlp_ratio": 2})
    assert list(model.blocks[0].mlp.fc1.weight.shape) == [12, 24]


# --- what holds for all ---------------------------------------------------------------------------


def clips(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def tiny(case: str, num_classes: int = 3, seed: int = 0, **arguments: object) -> nn.Layer:
    paddle.seed(seed)
    name, own = TINY[case]
    return create_model(name, num_classes=num_classes, **{**own, **arguments})


def without_dropout(case: str) -> dict[str, float]:
    name = TINY[case][0]
    names = {
        "tsn": ["dropout"],
        "eco": ["dropout_3d"] if name == "eco_lite" else ["dropout_2d", "dropout_3d"],
        "timesformer": ["drop_path"],
        "lrcn": ["dropout", "recurrent_dropout"],
        "movinet": ["dropout", "drop_path"],
    }[name.partition("_")[0]]
    return dict.fromkeys(names, 0.0)


def disturb(model: nn.Layer) -> nn.Layer:
    """Move every tensor a little, so that none is at a start that hides it (zeros, ones)."""
    rng = np.random.default_rng(0)
    for name, tensor in model.state_dict().items():
        noise = rng.normal(0, 0.1, tensor.shape)
        noise = np.abs(noise) if name.endswith("_variance") else noise
        tensor.set_value(tensor.numpy() + noise.astype(np.float32))
    return model


def test_every_family_is_in_the_battery():
    families = {name.partition("_")[0] for name in list_models()}
    # cnn_lstm takes features, convlstm gives frames: tests/test_cnn_lstm.py, test_convlstm.py
    tested = {name.partition("_")[0] for name, _ in TINY.values()}
    assert tested | {"cnn"} == set(CLASSES) == families - {"convlstm"}


@pytest.mark.parametrize("case", TINY)
@pytest.mark.parametrize("shape", [(1, 3, 1, 32, 32), (2, 3, 2, 32, 48), (3, 3, 5, 33, 32)])
def test_a_batch_of_clips_gives_logits(case, shape):
    model = tiny(case, num_classes=4)
    model.eval()
    logits = model(clips(*shape))
    assert list(logits.shape) == [shape[0], 4]
    assert logits.dtype == paddle.float32
    assert np.isfinite(logits.numpy()).all()


@pytest.mark.parametrize("case", TINY)
def test_every_parameter_gets_a_gradient_in_training(case):
    model = tiny(case, **without_dropout(case))
    nn.CrossEntropyLoss()(model(clips(2, 3, 4, 32, 32)), paddle.to_tensor([0, 1])).backward()
    trained = [(n, p) for n, p in model.named_parameters() if not p.stop_gradient]
    assert trained
    assert [name for name, p in trained if p.grad is None] == []


@pytest.mark.parametrize("case", TINY)
def test_every_parameter_has_a_part_in_the_logits(case):
    # In evaluation mode: in training, batch norms take away what the biases before them add.
    model = disturb(tiny(case))
    model.eval()
    statistics = ("_mean", "_variance")
    parameters = {n: p for n, p in model.named_parameters() if not n.endswith(statistics)}
    for parameter in parameters.values():
        parameter.stop_gradient = False  # with partial batch norm too
    (model(clips(2, 3, 4, 32, 32)) * clips(2, 3)).sum().backward()
    assert [n for n, p in parameters.items() if not np.abs(p.grad.numpy()).max() > 0] == []


@pytest.mark.parametrize("case", TINY)
def test_it_learns_two_clips_by_heart(case):
    model = tiny(case, num_classes=2, **without_dropout(case))
    optimizer = paddle.optimizer.Adam(0.005, parameters=model.parameters())
    clip, labels = clips(2, 3, 2, 32, 32), paddle.to_tensor([0, 1])
    losses = []
    for _ in range(20):
        loss = nn.CrossEntropyLoss()(model(clip), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.item())
    assert losses[0] > 0.2
    assert losses[-1] < 0.05


@pytest.mark.parametrize("case", TINY)
def test_written_weights_make_another_network_equal(case, tmp_path):
    model, other = disturb(tiny(case)), tiny(case, seed=1)
    path = tmp_path / "weights.pdparams"
    write_weights(path, model)
    load_weights(other, read_weights(path).arrays, path)
    model.eval()
    other.eval()
    clip = clips(2, 3, 2, 32, 32)
    np.testing.assert_array_equal(other(clip).numpy(), model(clip).numpy())


@pytest.mark.parametrize("case", TINY)
def test_a_new_classifier_is_all_that_another_number_of_classes_needs(case, tmp_path):
    model, other = tiny(case), tiny(case, num_classes=5, seed=1)
    path = tmp_path / "weights.pdparams"
    write_weights(path, model)
    file, head = read_weights(path), model.classifier
    with pytest.raises(WeightsError, match=rf"2 of another shape \({head}\.weight is"):
        load_weights(other, file.arrays, path)
    rows = convert(other, file).rows
    fresh = {row.target for row in rows if row.fate == "initialised"}
    assert fresh == {n for n in other.state_dict() if n.startswith(f"{head}.")}
    assert len(fresh) == (4 if "movinet" in case else 2)
    assert {row.source for row in rows if row.fate == "left out"} == fresh


@pytest.mark.parametrize("case", TINY)
def test_a_clips_logits_do_not_depend_on_its_batch(case):
    model = disturb(tiny(case))
    model.eval()
    batch = clips(3, 3, 2, 32, 32)
    together = model(batch).numpy()
    for i in range(3):
        alone = model(batch[i : i + 1]).numpy()[0]
        error = 1e-5 * np.abs(together).max()
        np.testing.assert_allclose(alone, together[i], rtol=0, atol=error)
    assert np.abs(together[0] - together[1]).max() > 1e-3 * np.abs(together).max()


@pytest.mark.parametrize("case", TINY)
def test_evaluation_changes_nothing_and_repeats_itself(case):
    model = disturb(tiny(case))
    model.eval()
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    clip = clips(2, 3, 3, 32, 32)
    first = model(clip).numpy()
    model(clips(1, 3, 2, 32, 32, seed=1))
    np.testing.assert_array_equal(model(clip).numpy(), first)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


@pytest.mark.parametrize("case", TINY)
def test_what_comes_out_are_logits_of_the_classifier(case):
    # With a softmax inside, the loss over 10 classes cannot go below 1.46.
    model = tiny(case, num_classes=10)
    model.eval()
    classifier = getattr(model, model.classifier)
    classifier.weight.set_value(np.zeros(classifier.weight.shape, np.float32))
    classifier.bias.set_value(np.array([20.0] + [0.0] * 9, np.float32))
    logits = model(clips(1, 3, 2, 32, 32))
    np.testing.assert_allclose(logits.numpy(), [[20.0] + [0.0] * 9], atol=1e-5)
    assert nn.CrossEntropyLoss()(logits, paddle.to_tensor([0])).item() < 0.01


@pytest.mark.parametrize("case", TINY)
def test_the_seed_decides_the_fresh_weights(case):
    models = [tiny(case), tiny(case), tiny(case, seed=1)]
    first, second, third = (model.state_dict() for model in models)
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor.numpy(), second[name].numpy())
    head = f"{models[0].classifier}.weight"
    assert (first[head].numpy() != third[head].numpy()).any()

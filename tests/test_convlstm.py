"""ConvLSTM: its numbers, the cell by its formula, parts of sequences, and what it is fed."""

import json
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddlevid.catalogue import count_multiply_adds
from paddlevid.config import load_config
from paddlevid.convert.__main__ import main as convert_main
from paddlevid.convert.conversion import convert
from paddlevid.files import read_metadata
from paddlevid.models import ConvLSTM, create_model
from paddlevid.models.convlstm import ConvLSTMCell
from paddlevid.predictor import Predictor
from paddlevid.weights import WeightsFile, load_weights, read_weights, write_weights

SMALL = {"hidden": 6, "num_future": 4}
KINDS = {
    "reference": {},
    "states handed over": {"transfer_state": True},
    "frames fed back": {"transfer_state": True, "feedback": "frame"},
    "peepholes": {"peephole_height": 12, "peephole_width": 8},
    "patches": {"patch_size": 2, "transfer_state": True, "feedback": "frame", "output": "none"},
    "colours, three cells": {"channels": 3, "num_layers": 3, "kernel_size": 5, "head_kernel": 1},
}


def frames(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).random(shape, np.float32))


def make(kind: str = "reference", seed: int = 0, **arguments: object) -> ConvLSTM:
    paddle.seed(seed)
    model = create_model("convlstm", **{**SMALL, **KINDS[kind], **arguments})
    for (
        name,
        parameter,
    ) in model.named_parameters():  # larger: little steps would hide what is wrong
        start = paddle.randn(parameter.shape) if name.endswith("peephole") else parameter
        parameter.set_value(3 * start)
    return model


def past_of(kind: str, n: int = 2, t: int = 5) -> paddle.Tensor:
    return frames(n, KINDS[kind].get("channels", 1), t, 12, 8)


def test_parameters_and_multiply_adds_are_those_of_the_reference():
    model = create_model("convlstm")
    sizes = [sum(p.size for p in cell.parameters()) for cell in [*model.encoder, *model.decoder]]
    assert sizes == [150_016, 295_168, 295_168, 295_168]
    assert sum(p.size for p in model.parameters()) == 1_036_097
    peepholes = create_model("convlstm", peephole_height=64, peephole_width=64)
    assert sum(p.size for p in peepholes.parameters()) == 4_181_825


def test_multiply_adds_of_small_frames_follow_the_formula():
    model = make(hidden=6)
    got = count_multiply_adds(model, [1, 1, 5, 12, 8])
    cells = 24 * 9 * 96 * (5 * 7 + 5 * 12 + 2 * 4 * 12)
    assert got == cells + 4 * 96 * 6 * 9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [1, 3])
def test_the_future_has_the_form_of_the_past(kind, t):
    future = make(kind)(past_of(kind, t=t), 7)
    assert list(future.shape) == [2, KINDS[kind].get("channels", 1), 7, 12, 8]
    assert future.dtype == paddle.float32
    assert list(make(kind)(past_of(kind)).shape)[2] == 4  # num_future


def test_frames_may_have_any_size():
    for shape in ((3, 1, 2, 1, 1), (1, 1, 3, 7, 13), (1, 1, 1, 64, 48)):
        assert list(make()(frames(*shape), 2).shape) == [shape[0], 1, 2, *shape[3:]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_does_not_depend_on_how_many_come_after_it(kind):
    model = make(kind)
    longest = model(past_of(kind), 20).numpy()
    for n in (1, 2, 7):
        np.testing.assert_allclose(model(past_of(kind), n).numpy(), longest[:, :, :n], atol=1e-6)
    assert np.abs(longest[:, :, 1] - longest[:, :, 0]).max() > 1e-4


def test_zero_weights_predict_grey():
    model = make()
    for parameter in model.parameters():
        parameter.set_value(paddle.zeros(parameter.shape))
    np.testing.assert_array_equal(model(past_of("reference")).numpy(), 0.5)


def test_pixels_lie_between_0_and_1():
    model = make()
    for parameter in model.parameters():
        parameter.set_value(5 * parameter)
    future = model(past_of("reference")).numpy()
    assert 0 < future.min() < future.max() < 1


@pytest.mark.parametrize("peephole", [False, True])
def test_a_cell_is_its_formula(peephole):
    cell = ConvLSTMCell(2, 3, 3, (5, 4) if peephole else (0, 0))
    if peephole:
        cell.peephole.set_value(paddle.randn(cell.peephole.shape))
    x, h, c = frames(2, 2, 5, 4), frames(2, 3, 5, 4, seed=1), frames(2, 3, 5, 4, seed=2)
    joined = F.conv2d(paddle.concat([x, h], 1), cell.conv.weight, cell.conv.bias, padding=1).numpy()
    weights = cell.peephole.numpy() if peephole else np.zeros((3, 3, 5, 4))

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    i, f, o, g = np.split(joined, 4, axis=1)
    behind = sigmoid(f + weights[1] * c.numpy()) * c.numpy()
    behind = behind + sigmoid(i + weights[0] * c.numpy()) * np.tanh(g)
    out = sigmoid(o + weights[2] * behind) * np.tanh(behind)
    got = cell(x, (h, c))
    np.testing.assert_allclose(got[0].numpy(), out, atol=1e-6)
    np.testing.assert_allclose(got[1].numpy(), behind, atol=1e-6)
    zero = paddle.zeros([2, 3, 5, 4])
    for ours, wanted in zip(cell(x, None), cell(x, (zero, zero)), strict=True):
        np.testing.assert_allclose(ours.numpy(), wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_for_gpus_equals_that_for_cpus(kind, monkeypatch):
    results = []
    for device in ("cpu", "gpu:0"):
        monkeypatch.setattr(paddle.device, "get_device", lambda device=device: device)
        model = make(kind)
        future = model(past_of(kind), 3)
        (future * frames(*future.shape, seed=3)).sum().backward()
        results.append([future.numpy(), *(p.grad.numpy() for p in model.parameters())])
    for ours, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5 * max(np.abs(wanted).max(), 1e-3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_may_be_read_in_parts(kind):
    model, past = make(kind), past_of(kind, t=6)
    whole = model(past, 3).numpy()
    memory = None
    for start, end in ((0, 1), (1, 2), (2, 5), (5, 6)):
        memory = model.encode(past[:, :, start:end], memory)
    np.testing.assert_allclose(model.decode(memory, 3).numpy(), whole, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_past_matters_and_other_clips_do_not(kind):
    model, past = make(kind), past_of(kind, n=3)
    future = model(past).numpy()
    assert np.abs(model(past.flip(2)).numpy() - future).max() > 1e-5
    np.testing.assert_allclose(model(past[1:2]).numpy(), future[1:2], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind):
    model, past = make(kind), past_of(kind)
    future = model(past, 3)
    (future * frames(*future.shape, seed=3)).sum().backward()
    still = [n for n, p in model.named_parameters() if not np.abs(p.grad.numpy()).max() > 0]
    assert still == []


def test_it_learns_a_sequence_by_heart():
    model = make("states handed over")
    optimizer = paddle.optimizer.Adam(0.02, parameters=model.parameters())
    diagonals = [np.roll(np.eye(8, dtype=np.float32), t, axis=1) for t in range(8)]
    sequence = paddle.to_tensor(np.stack(diagonals)[None, None])
    losses = []
    for _ in range(60):
        loss = ((model(sequence[:, :, :4]) - sequence[:, :, 4:]) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_with_frames_fed_back_the_decoder_sees_the_frame_before():
    model, past = make("frames fed back"), past_of("reference")
    truth = frames(2, 1, 4, 12, 8, seed=5)
    none, every = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    own = model(past, 4)
    np.testing.assert_array_equal(model(past, 4, truth=truth, keep=none).numpy(), own.numpy())
    forced = model(past, 4, truth=truth, keep=every).numpy()
    np.testing.assert_allclose(forced[:, :, 0], own.numpy()[:, :, 0])
    # Seeing true frames is reading them: the next frame is that of a longer past.
    longer = paddle.concat([past, truth[:, :, :3]], axis=2)
    states = model.encode(past)
    x, cells = past[:, :, -1], list(states.cells)
    for k in range(4):
        for i, cell in enumerate(model.decoder):
            cells[i] = cell(x, cells[i])
            x = cells[i][0]
        np.testing.assert_allclose(F.sigmoid(model.head(x)).numpy(), forced[:, :, k], atol=1e-6)
        x = longer[:, :, past.shape[2] + k] if k < 3 else None
    mixed = every.copy()
    mixed[1] = False
    got = model(past, 4, truth=truth, keep=mixed).numpy()
    np.testing.assert_array_equal(got[0], forced[0])
    np.testing.assert_allclose(got[1], own.numpy()[1], atol=1e-6)


def test_a_program_of_it_predicts_the_same():
    model, past = make("states handed over"), past_of("reference", n=3)
    model.eval()
    [got] = Predictor(model, "program")(past.numpy())
    np.testing.assert_allclose(got, model(past).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": 0}, "hidden = 0, patch_size = 1 and num_future = 10 need at least 1"),
        ({"kernel_size": 4}, "kernel_size = 4 and head_kernel = 3 need odd numbers"),
        ({"feedback": "pixels"}, "unknown feedback 'pixels'; there are 'hidden' and 'frame'"),
        ({"output": "relu"}, "unknown output 'relu'; there are 'sigmoid' and 'none'"),
        ({"feedback": "frame"}, "feedback = 'frame' needs transfer_state = True"),
        ({"peephole_height": 64}, "peephole_height = 64 and peephole_width = 0: needs both"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model("convlstm", **arguments)


def test_frames_of_a_wrong_form_are_refused():
    with pytest.raises(
        ValueError, match=r"needs frames \(N, 1, T, H, W\), T at least 1, got \(2, 3"
    ):
        make()(frames(2, 3, 4, 8, 8))
    with pytest.raises(ValueError, match="frames of 9x8 pixels cannot be cut into patches of 2"):
        make("patches")(frames(1, 1, 2, 8, 9))
    with pytest.raises(ValueError, match="for frames of 8x12 pixels, these have 9x12"):
        make("peepholes")(frames(1, 1, 2, 12, 9))


# --- weights of others ----------------------------------------------------------------------------


def file_of(arrays: dict[str, np.ndarray]) -> WeightsFile:
    return WeightsFile(Path("a.pth"), arrays, "torch")


def arrays_of(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def as_the_book(model: ConvLSTM) -> dict[str, np.ndarray]:
    theirs = {}
    for name, array in arrays_of(model).items():
        side, number, *rest = name.split(".")
        if side == "head":
            theirs[f"decoder_CNN.{number}"] = array[:, :, None] if array.ndim == 4 else array
        else:
            theirs[f"{side}_{int(number) + 1}_convlstm.{'.'.join(rest)}"] = array
    return theirs


def test_names_of_the_books_code_are_known():
    model = make(seed=1)
    conversion = convert(make(), file_of(as_the_book(model)), whole=True)
    assert conversion.project.name == "Video-Prediction-using-PyTorch"
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(conversion.weights[name], array)


def test_cells_alone_become_the_encoder():
    model, other = make(seed=1), make()
    theirs = {
        f"cell_list.{name[8:]}": array
        for name, array in arrays_of(model).items()
        if name.startswith("encoder.")
    }
    conversion = convert(other, file_of(theirs))
    for name, array in arrays_of(model).items():
        source = array if name.startswith("encoder.") else arrays_of(other)[name]
        np.testing.assert_array_equal(conversion.weights[name], source)
    fresh = {row.target for row in conversion.rows if row.fate == "initialised"}
    assert fresh == {name for name in arrays_of(model) if not name.startswith("encoder.")}


def test_written_weights_carry_a_config_for_predictions(tmp_path):
    model, path = make(seed=1), tmp_path / "a.npz"
    np.savez(path, **as_the_book(model))
    target = tmp_path / "b.safetensors"
    arguments = json.dumps({"hidden": 6})
    assert convert_main(["convlstm", str(path), str(target), "--arguments", arguments]) == 0
    config = load_config(target)
    assert (config.model.task, config.model.grey, config.model.seg_num) == ("predict", True, 10)
    assert read_metadata(target)["classes"] == "[]"
    other = make()
    load_weights(other, read_weights(target).arrays, target)
    past = past_of("reference")
    np.testing.assert_array_equal(other(past).numpy(), model(past).numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_written_weights_make_another_network_equal(kind, tmp_path):
    model, other, path = make(kind), make(kind, seed=1), tmp_path / "a.pdparams"
    write_weights(path, model)
    load_weights(other, read_weights(path).arrays, path)
    np.testing.assert_array_equal(other(past_of(kind)).numpy(), model(past_of(kind)).numpy())


def test_weights_of_openstl_need_the_arguments_of_its_network():
    theirs = {"conv_last.weight": np.zeros((1, 6, 1, 1), np.float32)}
    for i, c_in in enumerate((1, 6)):
        theirs[f"cell_list.{i}.conv_x.0.weight"] = np.zeros((24, c_in, 3, 3), np.float32)
        theirs[f"cell_list.{i}.conv_h.0.weight"] = np.zeros((24, 6, 3, 3), np.float32)
    model = make("frames fed back", head_kernel=1)
    with pytest.raises(ValueError, match="needs the arguments feedback = 'frame', transfer_state"):
        convert(model, file_of(theirs))
    model = make("frames fed back", head_kernel=1, output="none")
    assert convert(model, file_of(theirs)).project.name == "OpenSTL"

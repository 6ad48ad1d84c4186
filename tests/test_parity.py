"""Our networks against other implementations with the same weights, through files and converters.

`make parity` runs these; `make test` has no PyTorch and leaves them out.
"""

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.convert.conversion import convert
from paddlevid.data.augment import IMAGENET_POLICY, OPERATIONS, read_policy
from paddlevid.layers.trunks import create_trunk
from paddlevid.models import create_model
from paddlevid.weights import Weights, read_weights

torch = pytest.importorskip("torch", reason="make parity installs it")
from paddlevid.bench import torch_networks  # noqa: E402  needs torch

pytestmark = pytest.mark.parity

torchvision = torch_networks.import_torchvision()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
    transformers.TimesformerForVideoClassification  # noqa: B018  its imports warn
    transformers.ViTForImageClassification  # noqa: B018


def randomize(model: torch.nn.Module, spread: float = 1.0) -> torch.nn.Module:
    """Weights that keep the size of what passes, and batch norms that matter; evaluation mode."""
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            shape = tuple(tensor.shape)
            if name.endswith(("running_var", "norm.weight")) or (
                name.endswith("weight") and len(shape) == 1
            ):
                values = rng.uniform(0.5, 1.5, shape)
            elif len(shape) < 2 or name.endswith("bias"):
                values = rng.uniform(-0.5, 0.5, shape)
            else:
                values = rng.normal(0, spread / np.sqrt(np.prod(shape[1:])), shape)
            tensor.copy_(torch.from_numpy(np.asarray(values)))
    return model.eval()


# What the tensors of torch_networks are called in the files that are published.
Rules = tuple[tuple[str, str], ...]
TORCHVISION: Rules = ((r"^trunk\.", ""),)
HUGGING_FACE: Rules = ((r"^model\.", ""),)
ECO_PYTORCH: Rules = (
    (r"^conv1\.", "conv1_7x7_s2."),
    (r"^conv2_reduce\.", "conv2_3x3_reduce."),
    (r"^conv2\.", "conv2_3x3."),
    (r"^double_3c\.", "inception_3c.double_branch."),
    (r"\.single_branch\.0\.", "_3x3_reduce."),
    (r"\.single_branch\.1\.", "_3x3."),
    (r"\.double_branch\.0\.", "_double_3x3_reduce."),
    (r"\.double_branch\.([12])\.", r"_double_3x3_\1."),
    (r"\.double_end\.", "_double_3x3_2."),
    (r"\.conv_1x1\.", "_1x1."),
    (r"\.pool_proj\.", "_pool_proj."),
    (r"^resnet\.res3a\.", "res3a_2."),
    (r"^resnet\.(res\w+)\.conv(\d)\.", r"\1_\2."),
    (r"^resnet\.(res\w+)\.bn1\.", r"\1_1.bn."),
    (r"^resnet\.(res\w+)\.down\.", r"\1_down."),
    (r"^resnet\.", ""),
    (r"\.bn\.", "_bn."),
    (r"\.conv\.", "."),
    (r"^fc\.", "fc_final."),
)
# There is no such file of an LRCN: these are ours.
GRU: Rules = (
    (r"^recurrent\.(\w+)_l(\d)_reverse$", r"recurrent.backward_layers.\2.\1"),
    (r"^recurrent\.(\w+)_l(\d)$", r"recurrent.layers.\2.\1"),
    (r"\.bias_ih$", ".bias"),
)
LSTM: Rules = (*GRU, (r"\.bias_hh$", ".bias"))


def converted(
    tensors: dict[str, torch.Tensor], ours: nn.Layer, folder: Path, rules: Rules = ()
) -> Weights:
    """Their tensors under our names, by way of a file; those that the rules give one name added."""
    named: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        named[name] = tensor + named.get(name, 0)
    path = folder / "theirs.pth"
    torch.save({"state_dict": named, "epoch": 1}, path)
    return convert(ours, read_weights(path)).weights


def through_a_file(
    theirs: torch.nn.Module, ours: nn.Layer, folder: Path, rules: Rules = ()
) -> None:
    """Give our network their weights."""
    weights = converted(theirs.state_dict(), ours, folder, rules)
    for name, tensor in ours.state_dict().items():
        tensor.set_value(weights[name].astype(str(tensor.numpy().dtype)))
    ours.eval()


def in_precision(dtype: str, create: Callable[[], nn.Layer]) -> nn.Layer:
    paddle.set_default_dtype(dtype)
    try:
        return create()
    finally:
        paddle.set_default_dtype("float32")


def compare(
    theirs: Callable[[torch.Tensor], torch.Tensor],
    ours: Callable[[paddle.Tensor], paddle.Tensor],
    first: tuple[torch.nn.Parameter, paddle.Tensor],
    inputs: np.ndarray,
    error: float = 1e-4,
    relus: bool = False,
) -> None:
    """The largest difference of outputs, and of the gradients of the first layer.

    In single precision one of many `relus` may see its input on the other side of 0, and which
    one depends on the machine: their gradients are compared closely in double precision only.
    """
    expected = theirs(torch.from_numpy(inputs))
    got = ours(paddle.to_tensor(inputs))
    scale = expected.abs().max().item()
    assert expected.std().item() > 0.05 * scale
    difference = np.abs(got.numpy() - expected.detach().numpy()).max() / scale
    weighting = np.random.default_rng(1).normal(size=expected.shape).astype(inputs.dtype)
    (expected * torch.from_numpy(weighting)).sum().backward()
    (got * paddle.to_tensor(weighting)).sum().backward()
    our_slope = first[1].grad.numpy()
    their_slope = first[0].grad.numpy().reshape(our_slope.shape)
    slope = np.abs(our_slope - their_slope).max() / np.abs(their_slope).max()
    print(f"output {difference:.1e}, gradient of the first layer {slope:.1e}")
    assert difference < error
    assert slope < (0.05 if relus and inputs.dtype == np.float32 else 10 * error)


def clips(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("depth", "dtype"),
    [(18, "float32"), (50, "float32")] + [(depth, "float64") for depth in (18, 50, 101, 152)],
)
def test_tsn_equals_one_on_torchvisions_resnet(depth, dtype, tmp_path):
    name = f"tsn_r{depth}"
    theirs = randomize(torch_networks.create(name, 51, {}))
    ours = in_precision(dtype, lambda: create_model(name, num_classes=51))
    through_a_file(theirs, ours, tmp_path, TORCHVISION)
    theirs = theirs.double() if dtype == "float64" else theirs
    first = (theirs.trunk.conv1.weight, ours.trunk.conv1.weight)
    error = 1e-4 if dtype == "float32" else 1e-10
    compare(theirs, ours, first, clips(2, 3, 3, 96, 64).astype(dtype), error, relus=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["eco_full", "eco_lite"])
@pytest.mark.parametrize("size", [(64, 64), (75, 90)])
def test_eco_equals_one_that_is_written_in_pytorch(name, size, dtype, tmp_path):
    theirs = randomize(torch_networks.create(name, 51, {"width": 16}))
    ours = in_precision(dtype, lambda: create_model(name, num_classes=51, width=16))
    through_a_file(theirs, ours, tmp_path, ECO_PYTORCH)
    theirs = theirs.double() if dtype == "float64" else theirs
    early = (theirs.conv2_reduce.conv.weight, ours.conv2_reduce.conv.weight)
    clip = clips(2, 3, 4, *size).astype(dtype)
    error = 1e-4 if dtype == "float32" else 1e-8  # Paddle divides by 9 in single precision
    # It takes BGR.
    compare(lambda clip: theirs(clip.flip(1)), ours, early, clip, error, relus=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("lrcn_vgg16", {"grid": 1, "relu": True}),
        ("lrcn_r18", {"width": 16, "grid": 2}),
        ("lrcn_r18", {"width": 8, "cell": "lstm", "num_layers": 2, "bidirectional": True}),
        ("lrcn_r34", {"width": 8, "cell": "rnn", "average": True}),
    ],
)
def test_lrcn_equals_one_that_is_written_in_pytorch(name, arguments, dtype, tmp_path):
    arguments = {"reduced": 24, "hidden": 16, "trained_blocks": 5, **arguments}
    theirs = randomize(torch_networks.create(name, 51, arguments))
    ours = in_precision(dtype, lambda: create_model(name, num_classes=51, **arguments))
    through_a_file(theirs, ours, tmp_path, LSTM if "cell" in arguments else GRU)
    theirs = theirs.double() if dtype == "float64" else theirs
    is_vgg = name == "lrcn_vgg16"
    firsts = (net.trunk.features[0] if is_vgg else net.trunk.conv1 for net in (theirs, ours))
    first = tuple(layer.weight for layer in firsts)
    error = 1e-4 if dtype == "float32" else 1e-6  # sums of biases and averages are single
    compare(theirs, ours, first, clips(2, 3, 4, 64, 72).astype(dtype), error, relus=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_vgg16_equals_torchvisions(dtype, tmp_path):
    theirs = randomize(torchvision.models.vgg16(), spread=np.sqrt(2))
    ours = in_precision(dtype, lambda: create_trunk("vgg16"))
    through_a_file(theirs, ours, tmp_path)
    theirs = theirs.double() if dtype == "float64" else theirs
    first = (theirs.features[0].weight, ours.features[0].weight)
    error = 1e-4 if dtype == "float32" else 1e-10
    compare(theirs.features, ours, first, clips(2, 3, 64, 96).astype(dtype), error, relus=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inception_v3_equals_torchvisions(dtype, tmp_path):
    theirs = randomize(torchvision.models.inception_v3(init_weights=False))
    ours = in_precision(dtype, lambda: create_trunk("inception_v3"))
    through_a_file(theirs, ours, tmp_path)
    theirs.fc = torch.nn.Identity()
    theirs = theirs.double() if dtype == "float64" else theirs

    def features(frames: paddle.Tensor) -> paddle.Tensor:
        return ours(frames).mean(axis=[2, 3])

    first = (theirs.Conv2d_1a_3x3.conv.weight, ours.inception_stem.conv_1a_3x3[0].weight)
    error = 1e-4 if dtype == "float32" else 1e-8  # Paddle averages in single precision
    compare(theirs, features, first, clips(2, 3, 107, 139).astype(dtype), error, relus=True)


SMALL = {
    "image_size": 32, "patch_size": 8, "num_frames": 4, "dim": 24, "depth": 3, "num_heads": 4,
    "mlp_ratio": 2.5,
}  # fmt: skip


ATTENTIONS = torch_networks.TimeSformer.ATTENTIONS


def first_layers(theirs: torch.nn.Module, ours: nn.Layer) -> tuple:
    embedding = theirs.model.timesformer.embeddings.patch_embeddings
    return embedding.projection.weight, ours.patch_embed.proj.weight


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    "shape",
    [(2, 3, 4, 32, 32), (2, 3, 8, 64, 32), (1, 3, 6, 16, 24)],
    ids=["own size", "twice as much", "odd size"],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_timesformer_equals_hugging_faces(attention, shape, dtype, tmp_path):
    arguments = {"attention": attention, **SMALL}
    theirs = randomize(torch_networks.create("timesformer_base", 51, arguments), spread=2.0)
    ours = in_precision(
        dtype, lambda: create_model("timesformer_base", num_classes=51, **arguments)
    )
    through_a_file(theirs, ours, tmp_path, HUGGING_FACE)
    theirs = theirs.double() if dtype == "float64" else theirs
    error = 1e-4 if dtype == "float32" else 1e-10
    compare(theirs, ours, first_layers(theirs, ours), clips(*shape).astype(dtype), error)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_timesformer_of_full_size_equals_hugging_faces(attention, tmp_path):
    arguments = {"attention": attention}
    theirs = randomize(torch_networks.create("timesformer_base", 51, arguments), spread=2.0)
    ours = create_model("timesformer_base", num_classes=51, **arguments)
    through_a_file(theirs, ours, tmp_path, HUGGING_FACE)
    compare(theirs, ours, first_layers(theirs, ours), clips(1, 3, 8, 224, 224))


VIT = {
    "image_size": 32, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 4, "intermediate_size": 60,
}  # fmt: skip


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_timesformer_that_starts_from_an_image_network_sees_a_still_as_that_does(
    attention, tmp_path
):
    config = transformers.ViTConfig(**VIT, num_labels=51, layer_norm_eps=1e-6)
    theirs = randomize(transformers.ViTForImageClassification(config), spread=2.0)
    ours = create_model("timesformer_base", num_classes=51, attention=attention, **SMALL)
    through_a_file(theirs, ours, tmp_path)
    # In joint attention several equal frames would count more than the class token.
    still = np.repeat(clips(2, 3, 1, 32, 32), 1 if attention == "joint" else 4, axis=2)
    projection = theirs.vit.embeddings.patch_embeddings.projection
    compare(
        lambda clip: theirs(clip[:, :, 0]).logits, ours,
        (projection.weight, ours.patch_embed.proj.weight), still,
    )  # fmt: skip


@pytest.mark.parametrize("style", ["saved", "in memory"])
def test_transformers_own_files_of_a_vit_are_read(style, tmp_path):
    config = transformers.ViTConfig(**VIT, num_labels=51)
    theirs = randomize(transformers.ViTForImageClassification(config))
    if style == "saved":  # under the names that they have had since 2020
        theirs.save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors"
    else:
        path = tmp_path / "theirs.pt"
        torch.save(theirs.state_dict(), path)
    ours = create_model("timesformer_base", num_classes=51, **SMALL)
    weights = convert(ours, read_weights(path)).weights
    attention = theirs.vit.layers[1].attention
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)
    expected = torch.cat([layer.weight for layer in layers])
    got = weights["blocks.1.attn.qkv.weight"]
    np.testing.assert_array_equal(got, expected.detach().numpy().T)
    np.testing.assert_array_equal(got, weights["blocks.1.temporal_attn.qkv.weight"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("conv_type", ["3d", "2plus1d"])
def test_movinet_equals_one_that_is_written_in_pytorch(stream, conv_type, tmp_path):
    name = "movinet_a0_stream" if stream else "movinet_a0"
    theirs = randomize(torch_networks.create(name, 7, {"conv_type": conv_type}))
    if (stream, conv_type) in ((False, "3d"), (True, "2plus1d")):
        assert len(theirs.state_dict()) == (451 if stream else 385)  # as the port's files
    ours = create_model(name, num_classes=7, conv_type=conv_type)
    through_a_file(theirs, ours, tmp_path)
    first = (next(theirs.conv1.parameters()), ours.stem.conv.weight)
    compare(theirs, ours, first, clips(2, 3, 6, 51, 64))


RECURRENT = {"reduced": 10, "hidden": 6}


@pytest.mark.parametrize(
    ("name", "arguments", "rules"),
    [
        ("tsn_r18", {"width": 8, "dropout": 0.0}, TORCHVISION),
        ("tsn_r18", {"width": 8, "dropout": 0.0, "partial_bn": True}, TORCHVISION),
        ("eco_full", {"width": 8, "dropout_2d": 0.0, "dropout_3d": 0.0}, ECO_PYTORCH),
        ("eco_lite", {"width": 8, "dropout_3d": 0.0}, ECO_PYTORCH),
        ("lrcn_vgg16", {"grid": 2, "dropout": 0.0, **RECURRENT}, GRU),
        ("lrcn_r50", {"grid": 1, "trained_blocks": 2, "dropout": 0.0, **RECURRENT}, GRU),
        ("timesformer_base", {**SMALL, "drop_path": 0.0}, HUGGING_FACE),
    ],
)
def test_a_training_step_has_pytorchs_loss_and_gradients(name, arguments, rules, tmp_path):
    theirs = randomize(torch_networks.create(name, 5, arguments))
    if name.startswith("lrcn"):
        arguments = {**arguments, "recurrent_dropout": 0.0}
    ours = in_precision("float64", lambda: create_model(name, num_classes=5, **arguments))
    through_a_file(theirs, ours, tmp_path, rules)
    theirs.double().train()
    ours.train()
    clip, labels = clips(3, 3, 4, 64, 64).astype("float64"), np.array([4, 0, 2])
    their_clip = torch.from_numpy(clip[:, ::-1].copy() if rules is ECO_PYTORCH else clip)
    their_loss = torch.nn.functional.cross_entropy(theirs(their_clip), torch.from_numpy(labels))
    loss = nn.functional.cross_entropy(ours(paddle.to_tensor(clip)), paddle.to_tensor(labels))
    assert float(loss) == pytest.approx(their_loss.item(), rel=1e-9)
    their_loss.backward()
    loss.backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    expected = converted({**theirs.state_dict(), **gradients}, ours, tmp_path, rules)
    trained = {n: p for n, p in ours.named_parameters() if not p.stop_gradient}
    assert sum(p.size for p in trained.values()) == sum(g.numel() for g in gradients.values())
    largest = max(abs(expected[n]).max() for n in trained)
    for n, parameter in trained.items():
        error = 1e-6 * abs(expected[n]).max() + 1e-9 * largest  # of some the gradient is 0
        np.testing.assert_allclose(parameter.grad.numpy(), expected[n], rtol=0, atol=error)


BENCHED = [
    ["infer", "--model", "movinet_a0", "--frames", "3", "--size", "32"],
    ["train", "--model", "movinet_a0_stream", "--frames", "3", "--size", "32"],
    ["train", "--model", "cnn_lstm", "--frames", "3"],
    ["infer", "--model", "cnn_lstm", "--frames", "3"],
    ["features", "--model", "resnet18", "--size", "32"],
    ["train", "--model", "tsn_r18", "--size", "32", "--arguments", '{"width": 8}'],
    ["infer", "--model", "eco_full", "--size", "32", "--arguments", '{"width": 8}'],
    ["train", "--model", "eco_lite", "--size", "32", "--arguments", '{"width": 8}'],
    ["train", "--model", "timesformer_base", "--size", "32", "--arguments", json.dumps(SMALL)],
    ["train", "--model", "lrcn_r18", "--size", "32", "--arguments", '{"width": 8, "grid": 1}'],
    ["infer", "--model", "convlstm", "--frames", "2", "--size", "16"],
]


@pytest.mark.parametrize("words", BENCHED)
def test_the_bench_measures_theirs_too(words):
    words = [*words, "--clips", "2", "--steps", "1", "--torch"]
    done = subprocess.run(
        [sys.executable, "-m", "paddlevid.bench", *words], stdout=subprocess.PIPE, check=True
    )
    result = json.loads(done.stdout)
    assert result["torch"] == torch.__version__ and "paddle" not in result


def test_what_pytorch_has_not_is_said(monkeypatch):
    with pytest.raises(ValueError, match="no tsn_r19 to compare with in PyTorch: there are tsn_r1"):
        torch_networks.create("tsn_r19", 5, {})
    with pytest.raises(TypeError, match="unexpected keyword argument 'k1'"):
        torch_networks.create("lrcn_r18", 5, {"k1": 2})
    with pytest.raises(TypeError, match="multiple values for argument 'depth'"):
        torch_networks.create("tsn_r18", 5, {"depth": 34})
    with pytest.raises(ValueError, match="cell = 'lru': needs one of gru, lstm, rnn"):
        torch_networks.create("lrcn_r18", 5, {"cell": "lru"})
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="that of the package transformers: import of"):
        torch_networks.create("timesformer_base", 5, {})


def test_auto_augment_is_torchvisions():
    """The policy, and each operation on an image but for rounding and the edges of a turn."""
    from torchvision.transforms import autoaugment, functional

    theirs = autoaugment.AutoAugment()
    names = {name: re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
             for line in theirs.policies for name, _, _ in line}  # fmt: skip
    expected = [[(names[n], p, m or 0) for n, p, m in line] for line in theirs.policies]
    assert read_policy(IMAGENET_POLICY) == expected
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (90, 70))
    image = functional.to_pil_image(smooth)
    meta = theirs._augmentation_space(10, (70, 90))
    for name, ours in names.items():
        magnitudes, signed = meta[name]
        for magnitude in (0, 4, 9):
            for sign in (1, -1) if signed else (1,):
                value = float(magnitudes[magnitude]) * sign if magnitudes.ndim else 0.0
                wanted = np.asarray(
                    autoaugment._apply_op(
                        image, name, value, functional.InterpolationMode.NEAREST, None
                    )
                ).astype(int)
                if name in ("Rotate", "ShearX"):  # their signs turn the other way for a shear
                    both = [OPERATIONS[ours](smooth[None], magnitude / 9, s)[0] for s in (1, -1)]
                    far = min((abs(got - wanted).max(axis=-1) > 12).mean() for got in both)
                    assert far < 0.06, name
                    continue
                got = OPERATIONS[ours](smooth[None], magnitude / 9, sign)[0]
                # Pillow's equalize takes whole numbers of pixels as steps.
                assert abs(got - wanted).max() <= (10 if name == "Equalize" else 2), name


def test_convlstm_equals_the_books_in_pytorch(tmp_path):
    theirs = randomize(torch_networks.create("convlstm", 0, {}), spread=4.0)
    ours = create_model("convlstm")
    through_a_file(theirs, ours, tmp_path)
    first = (theirs.encoder_1_convlstm.conv.weight, ours.encoder[0].conv.weight)
    past = np.random.default_rng(0).random((2, 1, 4, 20, 28), np.float32)
    compare(lambda x: theirs(x, 3), lambda x: ours(x, 3), first, past)


class OpenSTLCell(torch.nn.Module):
    """A cell of OpenSTL's ConvLSTM, with the convolutions that it has and does not use."""

    def __init__(self, c_in: int, hidden: int, kernel: int) -> None:
        super().__init__()
        more = {"padding": kernel // 2, "bias": False}
        self.conv_x = torch.nn.Sequential(torch.nn.Conv2d(c_in, 4 * hidden, kernel, **more))
        self.conv_h = torch.nn.Sequential(torch.nn.Conv2d(hidden, 4 * hidden, kernel, **more))
        self.conv_o = torch.nn.Sequential(torch.nn.Conv2d(2 * hidden, hidden, kernel, **more))
        self.conv_last = torch.nn.Conv2d(2 * hidden, hidden, 1, bias=False)

    def forward(self, x, h, c):
        parts = zip(self.conv_x(x).chunk(4, 1), self.conv_h(h).chunk(4, 1), strict=True)
        i, f, g, o = (a + b for a, b in parts)
        c = torch.sigmoid(f + 1.0) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class OpenSTLConvLSTM(torch.nn.Module):
    """OpenSTL's network: the same cells read the past and draw the future, a patch a place."""

    def __init__(self, channels: int, patch: int, hidden: int, depth: int, kernel: int) -> None:
        super().__init__()
        self.patch, self.hidden = patch, hidden
        c = channels * patch**2
        self.cell_list = torch.nn.ModuleList(
            OpenSTLCell(hidden if i else c, hidden, kernel) for i in range(depth)
        )
        self.conv_last = torch.nn.Conv2d(hidden, c, 1, bias=False)

    def forward(self, past, num_future):
        n, c, t, h, w = past.shape
        p = self.patch
        frames = past.permute(0, 2, 3, 4, 1).reshape(n, t, h // p, p, w // p, p, c)
        frames = frames.permute(0, 1, 3, 5, 6, 2, 4).reshape(n, t, p * p * c, h // p, w // p)
        states = [frames.new_zeros(2, n, self.hidden, h // p, w // p) for _ in self.cell_list]
        drawn = []
        for k in range(t + num_future - 1):
            x = frames[:, k] if k < t else drawn[-1]
            for i, cell in enumerate(self.cell_list):
                states[i] = cell(x, *states[i])
                x = states[i][0]
            drawn.append(self.conv_last(x))
        future = torch.stack(drawn[t - 1 :], 1).reshape(n, num_future, p, p, c, h // p, w // p)
        return future.permute(0, 4, 1, 5, 2, 6, 3).reshape(n, c, num_future, h, w)


@pytest.mark.parametrize("channels", [1, 3])
def test_convlstm_takes_the_weights_of_openstl(channels, tmp_path):
    theirs = OpenSTLConvLSTM(channels, patch=2, hidden=8, depth=3, kernel=5)
    randomize(theirs, spread=2.0)
    ours = create_model(
        "convlstm", channels=channels, patch_size=2, hidden=8, num_layers=3, kernel_size=5,
        head_kernel=1, output="none", feedback="frame", transfer_state=True,
    )  # fmt: skip
    through_a_file(theirs, ours, tmp_path)
    past = np.random.default_rng(0).random((2, channels, 4, 12, 16), np.float32)
    expected = theirs(torch.from_numpy(past), 5).detach().numpy()
    got = ours(paddle.to_tensor(past), 5).numpy()
    assert expected.std() > 0.05
    print(f"output {abs(got - expected).max() / abs(expected).max():.1e}")
    np.testing.assert_allclose(got, expected, atol=1e-5 * abs(expected).max())

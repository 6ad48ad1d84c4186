"""Names of other projects' tensors -> ours, what becomes of each, and the command line."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.config import load_config
from paddlevid.convert import __main__ as command
from paddlevid.convert.conversion import Conversion, convert, count_classes
from paddlevid.convert.names import PROJECTS
from paddlevid.files import read_metadata
from paddlevid.layers.trunks import create_trunk
from paddlevid.models import create_model
from paddlevid.weights import (
    Weights,
    WeightsError,
    WeightsFile,
    describe,
    load_weights,
    read_weights,
    write_weights,
)

SMALL = {
    "image_size": 32, "patch_size": 8, "num_frames": 4, "dim": 24, "depth": 2, "num_heads": 4,
}  # fmt: skip
TINY = {
    "tsn": ("tsn_r18", {"width": 8}),
    "tsn, bottlenecks": ("tsn_r50", {}),
    "tsn, more of them": ("tsn_r101", {}),
    "divided": ("timesformer_base", SMALL),
    "joint": ("timesformer_base", {**SMALL, "attention": "joint"}),
    "space": ("timesformer_base", {**SMALL, "attention": "space"}),
}


SMALLEST = (
    "tsn_r18", "eco_lite", "timesformer_base", "cnn_lstm", "lrcn_r18", "movinet_a0",
    "movinet_a0_stream",
)  # fmt: skip


def tiny(case: str, num_classes: int = 7) -> nn.Layer:
    name, arguments = TINY[case]
    return create_model(name, num_classes=num_classes, **arguments)


def random_arrays(model: nn.Layer, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        name: rng.random(tensor.shape, dtype=np.float32)
        for name, tensor in model.state_dict().items()
    }


def linear_weights(model: nn.Layer) -> set[str]:
    layers = model.named_sublayers()
    return {f"{name}.weight" for name, layer in layers if isinstance(layer, nn.Linear)}


def file_of(arrays: Weights, order: str = "torch") -> WeightsFile:
    return WeightsFile(Path("a.pth"), arrays, order)


def theirs(model: nn.Layer, name: Callable[[str], str], order: str = "torch") -> WeightsFile:
    """Our random arrays as another project would have written them."""
    linear = linear_weights(model) if order == "torch" else set()
    arrays = random_arrays(model)
    return file_of({name(n): a.T if n in linear else a for n, a in arrays.items()}, order)


def assert_same(conversion: Conversion, expected: Weights) -> None:
    assert list(conversion.weights) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(conversion.weights[name], array, err_msg=name)
        assert conversion.weights[name].flags.c_contiguous


# --- how others call our tensors: written from their side, not from our tables -------------------


def torchvision(name: str) -> str:
    name = name.removeprefix("trunk.")
    return name.replace("._mean", ".running_mean").replace("._variance", ".running_var")


def mmaction2_tsn(name: str) -> str:
    name = torchvision(name)
    if name.startswith("fc."):
        return f"cls_head.fc_cls.{name[3:]}"
    *place, layer, part = name.split(".")
    if place[-1:] == ["downsample"]:  # layer1.0.downsample.0.weight
        layer = ("conv", "bn")[int(layer)]
    elif layer.startswith("conv"):
        layer = f"{layer}.conv"
    else:  # bn2: of the module that holds conv2 too
        layer = f"conv{layer[2:]}.bn"
    return ".".join(["backbone", *place, layer, part])


def paddlevideo_tsn(name: str) -> str:
    if name.startswith("fc."):
        return f"head.{name}"
    words = name.removeprefix("trunk.").split(".")
    if len(words) == 2:  # conv1.weight, bn1._mean
        return f"backbone.conv.{'_conv' if words[0] == 'conv1' else '_batch_norm'}.{words[1]}"
    stage, block, *rest, part = words
    letter = chr(ord("a") + int(block))
    if DEEP and stage == "layer3" and int(block) > 0:
        letter = f"b{block}"
    place = f"backbone.res{int(stage[5:]) + 1}{letter}"
    if rest[0] == "downsample":
        return f"{place}.short.{('_conv', '_batch_norm')[int(rest[1])]}.{part}"
    number = int(rest[0][-1]) - 1
    return f"{place}.conv{number}.{'_conv' if rest[0][0] == 'c' else '_batch_norm'}.{part}"


DEEP = False  # ResNet-101 and -152 number the blocks of their third stage


def hugging_face(name: str) -> str:
    first = {"cls_token": "cls_token", "pos_embed": "position_embeddings",
             "time_embed": "time_embeddings"}  # fmt: skip
    if name in first:
        return f"timesformer.embeddings.{first[name]}"
    if name.startswith("head."):
        return name.replace("head", "classifier")
    if name.startswith("norm."):
        return name.replace("norm", "timesformer.layernorm")
    if name.startswith("patch_embed"):
        return f"timesformer.embeddings.patch_embeddings.projection.{name.split('.')[-1]}"
    _, number, *layer, part = name.split(".")
    layers = {
        "norm1": "layernorm_before", "norm2": "layernorm_after",
        "temporal_norm1": "temporal_layernorm", "temporal_fc": "temporal_dense",
        "attn.qkv": "attention.attention.qkv", "attn.proj": "attention.output.dense",
        "temporal_attn.qkv": "temporal_attention.attention.qkv",
        "temporal_attn.proj": "temporal_attention.output.dense",
        "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    return f"timesformer.encoder.layer.{number}.{layers['.'.join(layer)]}.{part}"


def mmaction2_timesformer(name: str) -> str:
    if name.startswith("head."):
        return name.replace("head", "cls_head.fc_cls")
    if name.startswith("patch_embed"):
        return name.replace("patch_embed.proj", "backbone.patch_embed.projection")
    if not name.startswith("blocks."):
        return f"backbone.{name}"
    _, number, *layer, part = name.split(".")
    place, layer = f"backbone.transformer_layers.layers.{number}.", ".".join(layer)
    space = 1 if DIVIDED else 0
    layers = {
        "temporal_norm1": "attentions.0.norm", "temporal_fc": "attentions.0.temporal_fc",
        "temporal_attn.proj": "attentions.0.attn.out_proj",
        "norm1": "attentions.1.norm" if DIVIDED else "norms.0",
        "attn.proj": f"attentions.{space}.attn.out_proj",
        "norm2": "ffns.0.norm" if DIVIDED else "norms.1",
        "mlp.fc1": "ffns.0.layers.0.0", "mlp.fc2": "ffns.0.layers.1",
    }  # fmt: skip
    if layer.endswith("qkv"):
        return f"{place}attentions.{0 if 'temporal' in layer else space}.attn.in_proj_{part}"
    return f"{place}{layers[layer]}.{part}"


DIVIDED = True
RESNETS = ["tsn", "tsn, bottlenecks", pytest.param("tsn, more of them", marks=pytest.mark.slow)]


@pytest.mark.parametrize("case", RESNETS)
@pytest.mark.parametrize("name", [torchvision, mmaction2_tsn])
def test_resnets_of_pytorch_fit(case, name):
    model = tiny(case)
    conversion = convert(model, theirs(model, name), whole=True)
    assert_same(conversion, random_arrays(model))
    assert [row.target for row in conversion.rows if row.fate == "transposed"] == ["fc.weight"]
    assert conversion.project.normalization[0] == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("case", RESNETS)
def test_resnets_of_paddlevideo_fit(case, monkeypatch):
    monkeypatch.setitem(globals(), "DEEP", case == "tsn, more of them")
    model = tiny(case)
    conversion = convert(model, theirs(model, paddlevideo_tsn, "paddle"), whole=True)
    assert conversion.project.name == "PaddleVideo"
    assert_same(conversion, random_arrays(model))
    assert {row.fate for row in conversion.rows} == {"used"}


def test_paddles_own_resnets_fit():
    model = tiny("tsn")
    file = theirs(model, lambda name: name.removeprefix("trunk."), "paddle")
    assert_same(convert(model, file, whole=True), random_arrays(model))


ATTENTIONS = ["divided", "joint", "space"]


@pytest.mark.parametrize("case", ATTENTIONS)
@pytest.mark.parametrize("prefix", ["model.", "module.", "module.model.", ""])
def test_the_authors_timesformers_fit_whatever_wraps_them(case, prefix):
    model = tiny(case)
    conversion = convert(model, theirs(model, lambda name: prefix + name), whole=True)
    assert_same(conversion, random_arrays(model))
    assert conversion.project.normalization == ((0.45,) * 3, (0.225,) * 3)


@pytest.mark.parametrize("case", ATTENTIONS)
def test_hugging_faces_timesformers_fit(case):
    model = tiny(case)
    assert_same(convert(model, theirs(model, hugging_face), whole=True), random_arrays(model))


@pytest.mark.parametrize("case", ATTENTIONS)
def test_mmaction2s_timesformers_fit(case, monkeypatch):
    monkeypatch.setitem(globals(), "DIVIDED", case == "divided")
    model = tiny(case)
    conversion = convert(model, theirs(model, mmaction2_timesformer), whole=True)
    assert_same(conversion, random_arrays(model))
    assert conversion.project.normalization == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("case", ATTENTIONS)
def test_paddlevideos_timesformers_fit(case):
    def name(ours: str) -> str:
        return ours.replace("head.", "head.fc.") if ours[:5] == "head." else f"backbone.{ours}"

    model = tiny(case)
    conversion = convert(model, theirs(model, name, "paddle"), whole=True)
    assert_same(conversion, random_arrays(model))
    assert conversion.project.normalization[0] == (0.45,) * 3


@pytest.mark.parametrize("case", TINY)
def test_our_own_weights_fit_and_say_nothing_of_a_normalisation(case):
    model = tiny(case)
    conversion = convert(model, file_of(random_arrays(model), "paddle"), whole=True)
    assert_same(conversion, random_arrays(model))
    assert {row.fate for row in conversion.rows} == {"used"}
    assert conversion.project.normalization is None


# --- image networks -------------------------------------------------------------------------------


def image_vit(model: nn.Layer, style: str) -> WeightsFile:
    """An ImageNet ViT with 10 classes: our network without its temporal parts."""
    file = theirs(model, lambda name: name)
    arrays = {n: a for n, a in file.arrays.items() if "temporal" not in n and n != "time_embed"}
    arrays["head.weight"], arrays["head.bias"] = np.ones((10, 24), np.float32), np.ones(10)
    if style == "timm":
        return file_of(arrays)
    names = {n: hugging_face(n).replace("timesformer", "vit") for n in arrays}
    hugging = {names[n]: array for n, array in arrays.items() if ".attn.qkv." not in n}
    for n in arrays:
        if ".attn.qkv." in n:
            for which, part in zip(("query", "key", "value"), np.split(arrays[n], 3), strict=True):
                hugging[names[n].replace("qkv", which)] = part
    hugging["vit.pooler.dense.weight"] = np.ones((24, 24), np.float32)
    if style == "Hugging Face":
        return file_of(hugging)
    newer = {  # as transformers 5 calls them in memory
        "encoder.layer": "layers", "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj", "attention.output.dense": "attention.o_proj",
        "attention.attention.value": "attention.v_proj", "output.dense": "mlp.fc2",
        "intermediate.dense": "mlp.fc1",
    }  # fmt: skip
    renamed = {}
    for n, array in hugging.items():
        for old, new in newer.items():
            n = n.replace(old, new)
        renamed[n] = array
    return file_of(renamed)


@pytest.mark.parametrize("style", ["timm", "Hugging Face", "transformers 5"])
def test_a_timesformer_starts_from_an_image_network_as_published(style):
    model = tiny("divided")
    conversion = convert(model, image_vit(model, style))
    expected, fresh = random_arrays(model), model.state_dict()
    for name in expected:
        if name == "time_embed" or ".temporal_fc." in name:
            expected[name] = np.zeros_like(expected[name])
        elif "temporal" in name:
            source = name.replace("temporal_attn", "attn").replace("temporal_norm1", "norm1")
            expected[name] = expected[source]
        elif name.startswith("head."):
            expected[name] = fresh[name].numpy()
    assert_same(conversion, expected)
    fates = {row.target: row.fate for row in conversion.rows if row.target}
    assert fates["head.bias"] == fates["time_embed"] == "initialised"
    assert fates["blocks.1.temporal_attn.qkv.weight"] == "copied"
    assert fates["blocks.0.attn.qkv.weight"] == ("transposed" if style == "timm" else "joined")


@pytest.mark.parametrize("case", ["joint", "space"])
def test_the_other_attentions_start_from_an_image_network_too(case):
    model = tiny(case)
    conversion = convert(model, image_vit(model, "timm"))
    expected = random_arrays(model)
    for name in set(expected) - {"time_embed", "head.weight", "head.bias"}:
        np.testing.assert_array_equal(conversion.weights[name], expected[name])


def test_a_prediction_takes_no_image_network():
    model = tiny("divided", num_classes=10)
    with pytest.raises(WeightsError, match="a.pth lacks time_embed of the network: .*image"):
        convert(model, image_vit(model, "timm"), whole=True)


def test_parts_of_a_query_that_are_missing_are_named():
    model = tiny("divided")
    file = image_vit(model, "Hugging Face")
    del file.arrays["vit.encoder.layer.1.attention.attention.key.bias"]
    with pytest.raises(
        WeightsError, match=r"blocks\.1\.attn\.qkv\.bias needs q and k and v, has q"
    ):
        convert(model, file)


@pytest.mark.parametrize("name", ["vgg16", "inception_v3"])
def test_trunks_leave_image_classifiers_and_counters_behind(name):
    model = create_trunk(name)
    file = theirs(model, torchvision if name == "vgg16" else torchvision_inception)
    extra = {"fc.weight": np.ones((1000, 8)), "classifier.6.bias": np.ones(1000),
             "AuxLogits.fc.bias": np.ones(3), "a.bn.num_batches_tracked": np.array(7)}  # fmt: skip
    conversion = convert(model, file_of(file.arrays | extra))
    assert_same(conversion, random_arrays(model))
    assert {r.source for r in conversion.rows if r.fate == "left out"} == set(extra)
    assert all(row.why for row in conversion.rows if row.fate == "left out")


def torchvision_inception(name: str) -> str:
    name = torchvision(name)
    mixed = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
    name = re.sub(r"inception_block_list\.(\d+)", lambda m: f"Mixed_{mixed[int(m[1])]}", name)
    name = name.replace("inception_stem.conv", "Conv2d").replace("branch_pool_conv", "branch_pool")
    return re.sub(r"\.([01])\.", lambda m: (".conv.", ".bn.")[int(m[1])], name)


# --- what becomes of each tensor ------------------------------------------------------------------


def test_every_tensor_of_both_sides_has_a_row():
    model = tiny("divided", num_classes=3)
    other = tiny("divided", num_classes=7)
    file = theirs(other, hugging_face)
    rows = convert(model, file).rows
    assert [row.target for row in rows if row.target] == list(model.state_dict())
    assert sorted(row.source for row in rows if row.source) == sorted(file.arrays)


def test_a_classifier_for_other_classes_is_left_out_and_initialised():
    model = tiny("tsn", num_classes=3)
    conversion = convert(model, theirs(tiny("tsn"), torchvision))
    for name in ("fc.weight", "fc.bias"):
        np.testing.assert_array_equal(conversion.weights[name], model.state_dict()[name].numpy())
    why = "fc.weight, fc.bias: the file has 7 classes, the network 3"
    assert conversion.summary()[1:] == [f"initialised: {why}", f"left out: {why}"]
    with pytest.raises(WeightsError, match=r"2 of another shape \(fc.weight is \[64, 7\], needs"):
        convert(model, theirs(tiny("tsn"), torchvision), whole=True)


def test_a_file_without_a_classifier_leaves_the_networks():
    model = tiny("tsn")
    file = theirs(model, torchvision)
    del file.arrays["fc.weight"], file.arrays["fc.bias"]
    assert "initialised: fc.weight, fc.bias: the file has no classes, the network 7" in (
        convert(model, file).summary()
    )
    assert count_classes(model, file) == 0
    with pytest.raises(WeightsError, match=r"2 missing \(fc.weight, fc.bias\)"):
        convert(model, file, whole=True)


def test_the_classes_of_a_file_are_counted_whatever_the_network_has():
    for case, name in (("tsn", mmaction2_tsn), ("divided", hugging_face)):
        assert count_classes(tiny(case, num_classes=2), theirs(tiny(case), name)) == 7


def test_counters_of_batches_are_left_out_with_a_reason():
    model = tiny("tsn")
    file = theirs(model, mmaction2_tsn)
    file.arrays["backbone.conv1.bn.num_batches_tracked"] = np.array(12)
    (row,) = (r for r in convert(model, file, whole=True).rows if r.fate == "left out")
    assert row.source == "backbone.conv1.bn.num_batches_tracked"
    assert row.why == "a count of batches, which Paddle does not keep"


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_become_float32(kind):
    model = tiny("tsn")
    file = theirs(model, torchvision)
    conversion = convert(model, file_of({n: a.astype(kind) for n, a in file.arrays.items()}))
    assert all(array.dtype == np.float32 for array in conversion.weights.values())


def test_the_network_is_not_changed():
    model = tiny("tsn")
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    convert(model, theirs(model, torchvision))
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


# --- whose order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["torch", "paddle"])
def test_where_a_file_does_not_say_its_order_the_shapes_do(order):
    model = tiny("divided")
    arrays = theirs(model, hugging_face, order).arrays
    assert_same(convert(model, file_of(arrays, ""), whole=True), random_arrays(model))


def test_where_the_shapes_do_not_tell_either_it_is_refused():
    model = tiny("tsn", num_classes=64)  # of 64 features
    arrays = theirs(model, torchvision).arrays
    with pytest.raises(WeightsError, match="does not say whether .* shapes do not tell: save"):
        convert(model, file_of(arrays, ""))


# --- what does not fit ----------------------------------------------------------------------------


def test_a_checkpoint_of_another_network_is_refused_with_names_of_both():
    with pytest.raises(WeightsError) as error:
        convert(tiny("tsn"), theirs(tiny("divided"), hugging_face))
    text = str(error.value)
    assert text.startswith("a.pth is not of this network: 0 of its 102 tensors were found under")
    assert "mmaction2; PaddleVideo" in text
    assert "It has timesformer.embeddings.cls_token, " in text
    assert "the network has trunk.conv1.weight, " in text


def test_a_deeper_network_is_refused_by_the_names_that_are_too_many():
    with pytest.raises(WeightsError, match=r"does not fit the network, which has no layer3\.6"):
        convert(tiny("tsn, bottlenecks"), theirs(tiny("tsn, more of them"), torchvision))


def test_missing_tensors_are_named():
    model = tiny("tsn")
    file = theirs(model, mmaction2_tsn)
    del file.arrays["backbone.conv1.bn.running_var"]
    with pytest.raises(WeightsError, match=r"1 missing \(trunk.bn1._variance\)"):
        convert(model, file)


def test_wrong_shapes_stop_it():
    model = tiny("tsn")
    file = theirs(model, torchvision)
    file.arrays["conv1.weight"] = np.ones((8, 3, 5, 5), np.float32)
    with pytest.raises(WeightsError, match=r"conv1.weight is \[8, 3, 5, 5\], needs \[8, 3, 7, 7\]"):
        convert(model, file)


def test_two_tensors_for_one_are_refused():
    model = tiny("tsn")
    file = theirs(model, torchvision)
    file.arrays["module.conv1.weight"] = file.arrays["conv1.weight"]
    with pytest.raises(WeightsError, match="conv1.weight and module.conv1.weight are both trunk"):
        convert(model, file)


def test_weights_of_joint_attention_do_not_fit_divided_attention():
    with pytest.raises(WeightsError, match=r"\d+ missing \(blocks.0.temporal_norm1.weight"):
        convert(tiny("divided"), theirs(tiny("joint"), hugging_face))
    with pytest.raises(WeightsError, match="which has no timesformer.encoder.layer.0.temporal_"):
        convert(tiny("joint"), theirs(tiny("divided"), hugging_face))


def test_every_network_has_projects():
    with paddle.LazyGuard():
        networks = [create_model(name, num_classes=2) for name in SMALLEST]
        networks += [create_trunk(name) for name in ("vgg16", "inception_v3", "resnet18")]
    classes = {type(network).__name__ for network in networks}
    classes.add("ConvLSTM")  # which has no classes: tests/test_convlstm.py
    assert set(PROJECTS) == classes | {"NarrowResNet"}


# --- the command ----------------------------------------------------------------------------------


def save_npz(path: Path, file: WeightsFile) -> Path:
    np.savez(path, **file.arrays)
    return path


def run(*words: object) -> int:
    return command.main([str(word) for word in words])


@pytest.fixture
def source(tmp_path) -> Path:
    return save_npz(tmp_path / "theirs.npz", theirs(tiny("tsn"), mmaction2_tsn))


WIDTH = ("--arguments", '{"width": 8}')


def test_it_writes_weights_and_tells_what_became_of_each_tensor(source, tmp_path, capsys):
    target = tmp_path / "ours.pdparams"
    assert run("tsn_r18", source, target, *WIDTH) == 0
    expected = random_arrays(tiny("tsn"))
    written = read_weights(target).arrays
    assert list(written) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(written[name], expected[name])
    out = capsys.readouterr().out
    line = r"^trunk\.conv1\.weight +used +8x3x7x7 +backbone\.conv1\.conv\.weight$"
    assert re.search(line, out, re.M)
    assert re.search(r"^fc\.weight +transposed +64x7 +cls_head\.fc_cls\.weight$", out, re.M)
    assert "names of mmaction2; tensors: 101 used, 1 transposed" in out
    assert f"written: {target}" in out


def test_a_safetensors_predicts_without_a_config(source, tmp_path, capsys, video):
    import infer

    (tmp_path / "classes.txt").write_text("".join(f"class {i}\n" for i in range(7)))
    target = tmp_path / "ours.safetensors"
    names = ("--classes", tmp_path / "classes.txt")
    assert run("tsn_r18", source, target, *WIDTH, *names) == 0
    (tmp_path / "classes.txt").unlink()
    assert f"predict: python infer.py --weights {target} VIDEO" in capsys.readouterr().out
    config = load_config(target)
    assert config.model.num_classes == 7
    assert config.model.image_std == (0.229, 0.224, 0.225)
    assert (config.infer.short_size, config.test.crops) == (256, 10)
    assert infer.main(["--weights", str(target), str(video)]) == 0
    assert re.search(r"0\.\d{4}  class \d", capsys.readouterr().out)


def test_a_timesformers_config_has_its_frames_and_its_size(tmp_path):
    source = save_npz(tmp_path / "theirs.npz", theirs(tiny("divided"), hugging_face))
    target = tmp_path / "ours.safetensors"
    assert run("timesformer_hr", source, target, "--arguments", json.dumps(SMALL)) == 0
    config = load_config(target)
    assert (config.model.seg_num, config.model.interval, config.model.sampling) == (
        4,
        16,
        "linspace",
    )
    assert (config.infer.short_size, config.infer.target_size, config.infer.crops) == (32, 32, 3)
    assert config.model.image_mean == (0.45, 0.45, 0.45)
    assert config.model.arguments == SMALL


def test_another_number_of_classes_begins_a_new_classifier(source, tmp_path, capsys):
    assert run("tsn_r18", source, tmp_path / "a.pdparams", *WIDTH, "--num-classes", 3) == 0
    assert read_weights(tmp_path / "a.pdparams").arrays["fc.weight"].shape == (64, 3)
    assert "the file has 7 classes, the network 3" in capsys.readouterr().out


def test_what_lies_beside_the_weights_is_named(tmp_path, capsys):
    arrays = {name: array for name, array in random_arrays(tiny("tsn")).items()}
    paddle.save({"state_dict": arrays, "epoch": 3, "optimizer": {}}, str(tmp_path / "a.pdparams"))
    assert run("tsn_r18", tmp_path / "a.pdparams", tmp_path / "b.pdparams", *WIDTH) == 0
    assert "beside the weights, and left there: epoch, optimizer" in capsys.readouterr().out


def test_a_trunk_is_converted_without_a_config(tmp_path, capsys):
    model = create_trunk("vgg16")
    source = save_npz(tmp_path / "vgg.npz", theirs(model, torchvision))
    target = tmp_path / "vgg.safetensors"
    assert run("vgg16", source, target) == 0
    assert read_metadata(target) == {"format": "pd"}
    assert "predict" not in capsys.readouterr().out
    load_weights(model, read_weights(target).arrays, target)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("tsn_r18", "theirs.npz", "a.pth"),
            "a.pth: needs a name that ends in .safetensors",
        ),
        (("tsn_r18", "theirs.npz", "no/a.pdparams"), "there is no folder no"),
        (
            ("tsn_r18", "theirs.npz", "there.pdparams"),
            "there.pdparams exists: --overwrite",
        ),
        (("tsn_r18", "there.pdparams", "there.pdparams", "--overwrite"), "are the same file"),
        (("tsn_r18", "theirs.npz", "a.pdparams", "--num-classes", "0"), "a whole number from 1 up"),
        (
            ("tsn_r18", "theirs.npz", "a.pdparams", "--arguments", "{x}"),
            "needs a dictionary as JSON",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(source, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    Path("there.pdparams").write_bytes(b"precious")
    with pytest.raises(SystemExit) as exit_:
        run(*words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert Path("there.pdparams").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tsm_r18", "theirs.npz", "a.pdparams"), "unknown model 'tsm_r18'; did you mean tsn_r18"),
        (("tsn_r18", "no.npz", "a.pdparams"), "cannot read the weights no.npz: No such file"),
        (("tsn_r18", "theirs.npz", "a.pdparams"), "is [8, 3, 7, 7], needs [64, 3, 7, 7]"),
        (("tsn_r34", "theirs.npz", "a.pdparams", *WIDTH), "theirs.npz does not fit the network: "),
        (("eco_lite", "theirs.npz", "a.pdparams"), "theirs.npz is not of this network"),
        (("tsn_r18", "trunk.npz", "a.pdparams", *WIDTH), "no classifier: needs --num-classes K"),
        (("tsn_r18", "theirs.npz", "a.safetensors", *WIDTH, "--classes", "two.txt"),
         "two.txt names 2 classes, not 7"),
        (("tsn_r18", "theirs.npz", "a.safetensors", *WIDTH, "--classes", "no"), "there is no no"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_told_and_writes_nothing(
    source, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    Path("two.txt").write_text("a\nb\n")
    arrays = {n: a for n, a in theirs(tiny("tsn"), mmaction2_tsn).arrays.items() if "fc" not in n}
    np.savez("trunk.npz", **arrays)
    assert run(*words) == 1
    err = capsys.readouterr().err
    assert err.startswith("paddlevid.convert: ")
    assert message in err
    assert not list(Path().glob("a.*"))


def test_help_answers_without_paddle():
    words = [sys.executable, "-X", "importtime", "-m", "paddlevid.convert", "--help"]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "SOURCE" in result.stdout
    assert not re.search(r"\| +paddle$", result.stderr, re.M)


def test_a_network_that_was_written_here_is_read_back(tmp_path):
    model = tiny("divided")
    load_weights(model, random_arrays(model), "here")
    write_weights(tmp_path / "a.safetensors", model)
    file = read_weights(tmp_path / "a.safetensors")
    assert_same(convert(tiny("divided"), file, whole=True), random_arrays(model))


def test_our_own_file_keeps_the_config_that_it_carries(tmp_path, capsys):
    config = {"MODEL": {"name": "tsn_r18", "num_classes": 7, "arguments": {"width": 8},
                        "image_mean": [0.1, 0.2, 0.3]}}  # fmt: skip
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_weights(source, tiny("tsn"), describe(config, list("abcdefg")))
    assert run("tsn_r18", source, target, *WIDTH) == 0
    assert load_config(target).model.image_mean == (0.1, 0.2, 0.3)
    assert read_metadata(target)["classes"] == read_metadata(source)["classes"]
    assert "predict: " in capsys.readouterr().out
    write_weights(tmp_path / "c.pdparams", tiny("tsn"))
    assert run("tsn_r18", tmp_path / "c.pdparams", target, *WIDTH, "--overwrite") == 0
    assert read_metadata(target) == {"format": "pd"}  # nothing is known of its pictures
    assert "predict: " not in capsys.readouterr().out


def test_our_own_file_takes_the_config_and_the_classes_of_its_run(tmp_path, capsys, video):
    import infer

    config = {"MODEL": {"name": "tsn_r18", "num_classes": 7, "arguments": {"width": 8},
                        "seg_num": 2, "image_mean": [0.1, 0.2, 0.3]}}  # fmt: skip
    for name in ("run", "alone"):
        (tmp_path / name).mkdir()
        write_weights(tmp_path / name / "best.pdparams", tiny("tsn"))
    source, target = tmp_path / "run" / "best.pdparams", tmp_path / "alone" / "o.safetensors"
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(config))
    (tmp_path / "run" / "classes.txt").write_text("\n".join("abcdefg"))
    assert run("tsn_r18", source, target, *WIDTH) == 0
    assert load_config(target).model.image_mean == (0.1, 0.2, 0.3)
    assert json.loads(read_metadata(target)["classes"]) == list("abcdefg")
    assert infer.main(["--weights", str(target), str(video)]) == 0
    (tmp_path / "names.txt").write_text("\n".join("tuvwxyz"))
    named = (*WIDTH, "--classes", tmp_path / "names.txt", "--overwrite")
    again = tmp_path / "alone" / "again.safetensors"
    assert run("tsn_r18", target, again, *named) == 0
    assert run("tsn_r18", source, target, *named) == 0
    for file in (target, again):
        assert load_config(file).model.seg_num == 2
        assert json.loads(read_metadata(file)["classes"]) == list("tuvwxyz")
    capsys.readouterr()
    assert run("tsn_r18", tmp_path / "alone" / "best.pdparams", target, *named) == 0
    assert json.loads(read_metadata(target)["classes"]) == list("tuvwxyz")
    expected = f"no config, so infer.py needs one: python infer.py --weights {target} --config FILE"
    assert expected in capsys.readouterr().out
    words = ["--weights", target, "--config", tmp_path / "run" / "config.yaml", video]
    assert infer.main([str(word) for word in words]) == 0
    assert re.search(r"0\.\d{4}  [t-z]\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"name": "tsn_r34"}, ()), ({"num_classes": 5}, ()), ({}, ("--num-classes", 3)),
     ({"arguments": {"width": 9}}, ())],
)  # fmt: skip
def test_a_config_of_another_network_beside_our_own_file_is_left_aside(
    tmp_path, capsys, change, words
):
    model = {"name": "tsn_r18", "num_classes": 7, "arguments": {"width": 8}, **change}
    (tmp_path / "config.yaml").write_text(json.dumps({"MODEL": model}))
    write_weights(tmp_path / "a.pdparams", tiny("tsn"))
    target = tmp_path / "b.safetensors"
    assert run("tsn_r18", tmp_path / "a.pdparams", target, *WIDTH, *words) == 0
    assert read_metadata(target) == {"format": "pd"}
    out = capsys.readouterr().out
    assert f"left aside: {tmp_path / 'config.yaml'}: " in out
    assert "it carries no config, so infer.py needs one" in out


def test_classes_that_cannot_be_kept_are_refused(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("a\nb\n")
    source = save_npz(tmp_path / "vgg.npz", theirs(create_trunk("vgg16"), torchvision))
    names = ("--classes", tmp_path / "names.txt")
    assert run("vgg16", source, tmp_path / "vgg.safetensors", *names) == 1
    assert "names.txt: vgg16 has no classes: leave it out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("tsn_r18", source, tmp_path / "a.pdparams", *names)
    assert "a .pdparams takes no names along: name TARGET .safetens" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.pdparams"))


def test_keras_weights_of_the_chapter_are_converted_with_a_config(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"lstm/lstm_cell/kernel": (6, 16), "lstm/lstm_cell/recurrent_kernel": (4, 16),
              "lstm/lstm_cell/bias": (16,), "dense/kernel": (4, 8), "dense/bias": (8,),
              "dense_1/kernel": (8, 5), "dense_1/bias": (5,)}  # fmt: skip
    np.savez(tmp_path / "k.npz", **{n: rng.random(s, np.float32) for n, s in shapes.items()})
    target = tmp_path / "b.safetensors"
    arguments = json.dumps({"features": 6, "hidden": 4, "dense": 8})
    assert run("cnn_lstm", tmp_path / "k.npz", target, "--arguments", arguments) == 0
    model = load_config(target).model
    assert (model.num_classes, model.format, model.image_mean) == (5, "features", (0.5,) * 3)

"""What is built from a config, and what is said where it cannot be."""

import pickle
import threading
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import save_file
from sklearn.utils.class_weight import compute_class_weight

from paddlevid import build
from paddlevid.config import (
    Config,
    ConfigError,
    ModelConfig,
    ReaderConfig,
    TrainConfig,
    load_config,
)
from paddlevid.data.dataset import HMDB51Dataset, ListError, Sample, VideoDataset
from paddlevid.data.loader import BadSamplesError
from paddlevid.data.sample import BookSampler, DenseSampler, LinspaceSampler, SegmentSampler
from paddlevid.data.transform import (
    CenterCrop,
    ColorJitter,
    JitterScale,
    MultiScaleCrop,
    Normalize,
    RandomCrop,
    RandomFlip,
    Resize,
    ResizeShortSide,
    TenCrops,
    UniformCrop,
)
from paddlevid.losses import CrossEntropy
from paddlevid.optim import Schedule
from paddlevid.weights import WeightsError, write_weights


def config(train: dict | None = None, reader: dict | None = None, **model: object) -> Config:
    arguments = {"name": "tsn_r18", "num_classes": 2, "arguments": {"width": 8}, **model}
    readers = [ReaderConfig(**(reader or {})) for _ in range(3)]
    return Config(ModelConfig(**arguments), TrainConfig(**(train or {})), *readers)


TINY = {
    "tsn_r18": {"width": 8},
    "eco_lite": {"width": 8},
    "eco_full": {"width": 8},
    "timesformer_base": {"dim": 8, "depth": 2, "num_heads": 2, "num_frames": 2, "image_size": 32},
}


def tiny(name: str, train: dict | None = None, **model: object) -> Config:
    return config(train, name=name, **{"arguments": TINY[name], **model})


# --- sampling and transforms ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "reader", "expected"),
    [
        ({}, {}, SegmentSampler(3, 1)),
        ({"seg_num": 8, "seglen": 2}, {}, SegmentSampler(8, 2)),
        ({"seg_num": 3}, {"seg_num": 7}, SegmentSampler(7, 1)),
        ({"sampling": "book"}, {"seg_num": 7}, BookSampler(7, 1)),
        ({"sampling": "dense", "seg_num": 8, "interval": 4}, {}, DenseSampler(8, 4)),
        ({"sampling": "dense", "seg_num": 4, "seglen": 2}, {}, DenseSampler(8, 1)),
        ({"sampling": "linspace", "seg_num": 8}, {}, LinspaceSampler(8, 1, 30.0)),
        ({"sampling": "linspace", "seg_num": 4, "seglen": 2, "interval": 3, "target_fps": 25.0},
         {"seg_num": 5}, LinspaceSampler(10, 3, 25.0)),
    ],
)  # fmt: skip
def test_the_sampler_is_the_configs(model, reader, expected):
    built = config(reader=reader, **model)
    assert build.build_sampler(built, built.test) == expected


def test_the_training_list_has_its_own_number_of_segments():
    built = config(train={"seg_num": 5}, seg_num=3)
    assert build.build_sampler(built, built.train) == SegmentSampler(5, 1)
    assert build.build_sampler(built, built.test) == SegmentSampler(3, 1)


def test_training_draws_scales_and_flips():
    transform = build.build_train_transform(
        config({"short_size": 64, "target_size": 56, "crop_scales": (1.0, 0.5), "flip": 0.25})
    )
    assert list(transform.steps) == [
        ResizeShortSide(64), MultiScaleCrop(56, (1.0, 0.5), 5), RandomFlip(0.25),
    ]  # fmt: skip
    assert transform.normalize == Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert transform.crops is None


def test_augmentation_that_is_off_is_left_out_and_other_is_added():
    off = {"short_size": 64, "target_size": 56, "crop": "random", "flip": 0.0}
    steps = build.build_train_transform(config(off, fixed_size=(64, 80))).steps
    assert list(steps) == [Resize(64, 80), RandomCrop(56)]
    steps = build.build_train_transform(config({"color_jitter": 0.4})).steps
    assert list(steps)[-1] == ColorJitter(0.4)


def test_a_random_short_side_replaces_the_fixed_one_but_not_a_fixed_size():
    train = {"jitter_scale": (60, 80), "short_size": 64, "target_size": 56}
    assert build.build_train_transform(config(train)).steps[0] == JitterScale(60, 80)
    assert build.build_train_transform(config(train, fixed_size=(64, 80))).steps[0] == Resize(
        64, 80
    )
    reader = ReaderConfig(short_size=64, target_size=56)
    assert list(build.build_test_transform(config(train), reader).steps) == [ResizeShortSide(64)]


@pytest.mark.parametrize(
    ("crops", "expected"), [(1, CenterCrop(56)), (3, UniformCrop(56)), (10, TenCrops(56))]
)
def test_evaluation_crops_as_the_config_says(crops, expected):
    reader = ReaderConfig(short_size=64, target_size=56, crops=crops)
    transform = build.build_test_transform(config(image_mean=(0.5,) * 3), reader)
    assert list(transform.steps) == [ResizeShortSide(64)]
    assert transform.crops == expected
    assert transform.normalize.mean == (0.5,) * 3


# --- loaders --------------------------------------------------------------------------------------


NAMES = ["dark", "light"]


def test_the_training_loader_reads_the_list_in_a_drawn_order(small_config):
    built = load_config(small_config, ["TRAIN.seed=3", "TRAIN.max_bad_samples=0.5"])
    with build.build_train_loader(built, NAMES) as loader:
        first, second = loader.batches(0)
        orders = [
            [int(i) for batch in loader.batches(epoch) for i in batch.indices] for epoch in (0, 1)
        ]
    assert first.clips.shape == second.clips.shape == (4, 3, 2, 32, 32)
    assert sorted(orders[0]) == list(range(8))
    assert orders[0] != orders[1]
    assert (loader.shuffle, loader.seed, loader.max_bad_samples) == (True, 3, 0.5)
    assert (loader.dataset.train, loader.dataset.seed) == (True, 3)


def test_a_test_loader_keeps_the_order_and_gives_all_views(small_config):
    overrides = ["TEST.num_clips=2", "TEST.crops=3", "TEST.batch_size=3"]
    built = load_config(small_config, overrides)
    with build.build_test_loader(built, "test") as loader:
        batches = list(loader.batches())
    assert [len(batch.labels) for batch in batches] == [3, 1]
    assert [batch.num_views for batch in batches] == [6, 6]
    assert batches[0].clips.shape == (18, 3, 2, 32, 32)
    assert np.concatenate([batch.labels for batch in batches]).tolist() == [0, 0, 1, 1]
    assert np.concatenate([batch.indices for batch in batches]).tolist() == [0, 1, 2, 3]


def test_the_training_list_can_be_evaluated_as_the_test_list_is(small_config):
    built = load_config(small_config, ["TEST.batch_size=5"])
    with build.build_test_loader(built, "train") as loader:
        assert len(loader.dataset) == 8
        assert (loader.batch_size, loader.shuffle, loader.dataset.train) == (5, False, False)


def test_samples_without_labels_are_read_for_prediction(small_config, small_data, video):
    built = load_config(small_config)
    samples = [Sample(video), Sample(small_data / "clip 1.pkl")]
    with build.build_reader(built, built.infer, samples, labelled=False) as loader:
        (batch,) = loader.batches()
    assert loader.max_bad_samples == 1.0
    assert batch.labels.tolist() == [-1, 0]


def test_a_list_that_is_not_there_says_how_to_make_one(small_config, tmp_path):
    built = load_config(small_config, [f"TRAIN.filelist={tmp_path / 'no.list'}"])
    with pytest.raises(ListError) as error:
        build.build_train_loader(built, NAMES)
    text = str(error.value)
    assert text.startswith(f"there is no {tmp_path / 'no.list'}, which TRAIN.filelist names.")
    for part in ("make demo", "--data FOLDER", "data_list_gener.py", "-o TRAIN.filelist=FILE"):
        assert part in text


def test_a_list_that_is_not_set_is_asked_for(small_config):
    built = load_config(small_config, ["VALID.filelist=''"])
    with pytest.raises(ConfigError, match="VALID.filelist is not set: it names the list of clips"):
        build.build_test_loader(built, "valid")


def test_a_label_outside_the_classes_is_refused(small_config, tmp_path, video):
    (tmp_path / "a.list").write_text("clip.avi 7\n")
    overrides = [f"TEST.filelist={tmp_path / 'a.list'}", "MODEL.format=video"]
    with pytest.raises(ListError, match=r"a.list, line 1: label 7 is outside 0 .. 1; MODEL.num_cl"):
        build.build_test_loader(load_config(small_config, overrides), "test")


def test_a_list_of_another_format_is_refused(small_config):
    built = load_config(small_config, ["MODEL.format=video"])
    with pytest.raises(ListError, match="'clip 1.pkl' is not one of the video files"):
        build.build_train_loader(built, NAMES)


@pytest.mark.parametrize(
    ("name", "form", "expected"),
    [("clip.avi", "video", VideoDataset), ("clip", "jpg", VideoDataset),
     ("clip.pkl", "pkl", HMDB51Dataset), ("clip.PKL", "pkl", HMDB51Dataset)],
)  # fmt: skip
def test_only_for_pickled_clips_labels_are_looked_for_inside(tmp_path, name, form, expected):
    (tmp_path / "a.list").write_text(f"{name} 1\n")
    files = {"filelist": str(tmp_path / "a.list")}
    built = config(files, files, format=form)
    for loader in (build.build_train_loader(built, NAMES), build.build_test_loader(built, "test")):
        assert type(loader.dataset) is expected
    samples = [Sample(tmp_path / "other.avi"), Sample(tmp_path / name)]
    mixed = build.build_reader(built, built.infer, samples, labelled=False)
    assert type(mixed.dataset) is expected


# --- classes that must not be mirrored ------------------------------------------------------------


def test_classes_that_must_not_be_mirrored_are_given_as_labels(small_config):
    built = load_config(small_config, ["TRAIN.no_flip_classes=['light']"])
    assert build.build_train_loader(built, ["dark", "light"]).dataset.no_flip == {1}
    assert build.build_train_loader(built, ["light", "dark"]).dataset.no_flip == {0}
    plain = build.build_train_loader(load_config(small_config), NAMES)
    assert plain.dataset.no_flip == frozenset()


@pytest.mark.parametrize(
    ("name", "classes", "near"),
    [
        ("ligth", ["dark", "light"], "light"),
        ("xyz", ["dark", "light"], "dark, light"),
        ("xyz", [f"class {i}" for i in range(20)], ", ".join(f"class {i}" for i in range(10))),
    ],
)
def test_an_unknown_class_is_refused_with_near_ones(small_config, name, classes, near):
    built = load_config(small_config, [f"TRAIN.no_flip_classes=['{name}']"])
    with pytest.raises(ConfigError) as error:
        build.build_train_loader(built, classes)
    expected = f"TRAIN.no_flip_classes names '{name}', which is no class; did you mean {near}?"
    assert str(error.value) == expected


def test_mirrored_views_are_refused_where_a_mirror_image_is_another_class(small_config):
    overrides = ["TRAIN.no_flip_classes=['light']", "TEST.crops=10"]
    with pytest.raises(
        ConfigError, match="crops = 10 scores mirrored clips too, but TRAIN.no_flip"
    ):
        build.build_test_loader(load_config(small_config, overrides), "test")
    build.build_test_loader(load_config(small_config, overrides[1:]), "test")
    build.build_test_loader(load_config(small_config, [overrides[0], "TEST.crops=3"]), "test")


# --- classes of unlike size -----------------------------------------------------------------------


UNLIKE = [2, 0, 0, 1, 0, 1]  # of four classes; the last has no clips


def listed(folder: Path, labels: list[int | None], balance: str, inside: bool, **train: object):
    """A config whose training list has clips of these labels; None: a .pkl that is no pickle.

    inside: the labels are in .pkl files; otherwise in the list, of videos that are not there.
    """
    lines = []
    for number, label in enumerate(labels):
        path = folder / f"clip{number}.pkl"
        if label is None:
            path.write_bytes(b"no pickle")
        elif inside:
            encoded = cv2.imencode(".jpg", np.full((32, 32, 3), 40 * label, np.uint8))[1].tobytes()
            path.write_bytes(pickle.dumps((path.stem, label, [encoded])))
        lines.append(f"{path.name}\n" if inside else f"clip{number}.avi {label}\n")
    (folder / "a.list").write_text("".join(lines))
    train = {"filelist": str(folder / "a.list"), "balance": balance, **train}
    return config(train, format="pkl" if inside else "video", num_classes=4)


@pytest.mark.parametrize("inside", [False, True])
def test_sampling_weighs_a_clip_by_one_over_the_clips_of_its_class(tmp_path, inside):
    loader = build.build_train_loader(listed(tmp_path, UNLIKE, "sampling", inside), "abcd")
    assert loader.shuffle
    np.testing.assert_allclose(loader.weights, [1, 1 / 3, 1 / 3, 1 / 2, 1 / 3, 1 / 2])


@pytest.mark.parametrize("balance", ["", "loss"])
def test_without_balanced_sampling_clips_have_no_weights(tmp_path, balance):
    loader = build.build_train_loader(listed(tmp_path, UNLIKE, balance, False), "abcd")
    assert loader.weights is None


def test_a_clip_that_cannot_be_read_counts_for_no_class(tmp_path):
    built = listed(tmp_path, [0, None, 0, 1], "sampling", True)
    loader = build.build_train_loader(built, "abcd")
    assert build.read_labels(loader.dataset).tolist() == [0, -1, 0, 1]
    np.testing.assert_allclose(loader.weights, [1 / 2, 1 / 4, 1 / 2, 1])
    loss = build.build_loss(listed(tmp_path, [0, None, 0, 1], "loss", True), loader.dataset)
    np.testing.assert_allclose(loss.weights.numpy()[:2], [3 / 4, 3 / 2])


def test_where_no_clip_can_be_read_the_reading_says_so_and_not_the_balancing(tmp_path):
    for balance in ("sampling", "loss"):
        built = listed(tmp_path, [None, None], balance, True)
        loader = build.build_train_loader(built, "abcd")
        build.build_loss(built, loader.dataset)
        with pytest.raises(BadSamplesError, match="of 2 clips cannot be read"):
            list(loader.batches())


def test_a_label_in_a_pickle_outside_the_classes_is_refused_when_labels_are_read(tmp_path):
    with pytest.raises(ListError, match=r"a.list, line 2: label 4 is outside 0 .. 3"):
        build.build_train_loader(listed(tmp_path, [0, 4], "sampling", True), "abcd")


def test_with_balanced_sampling_a_rare_class_is_drawn_as_often_as_a_common_one(tmp_path):
    built = listed(
        tmp_path, [1, 0, 0, 0, 0], "sampling", True, short_size=32, target_size=32, flip=0.0
    )
    loader = build.build_train_loader(built, "abcd")
    epochs = [[batch.labels for batch in loader.batches(epoch)] for epoch in range(40)]
    labels = np.concatenate([np.concatenate(batches) for batches in epochs])
    assert len(labels) == 200
    assert labels.mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("inside", [False, True])
def test_the_loss_weighs_rare_classes_up_and_a_clip_by_one_on_average(tmp_path, inside):
    built = listed(tmp_path, UNLIKE, "loss", inside, label_smoothing=0.1)
    dataset = build.build_train_loader(built, "abcd").dataset
    loss = build.build_loss(built, dataset)
    assert (type(loss), loss.label_smoothing) == (CrossEntropy, 0.1)
    weights = loss.weights.numpy()
    present = compute_class_weight("balanced", classes=np.arange(3), y=UNLIKE)
    np.testing.assert_allclose(weights[:3], present, rtol=1e-6)  # 6/9, 6/6, 6/3
    assert weights[UNLIKE].mean() == pytest.approx(1)
    assert np.isfinite(weights[3])


def test_the_loss_without_balancing_or_clips_is_the_plain_one(tmp_path):
    built = listed(tmp_path, UNLIKE, "loss", False)
    dataset = build.build_train_loader(built, "abcd").dataset
    assert build.build_loss(built).weights is None
    for balance in ("", "sampling"):
        built = listed(tmp_path, UNLIKE, balance, False)
        assert build.build_loss(built, dataset).weights is None


# --- the network ----------------------------------------------------------------------------------


def same(first: nn.Layer, second: nn.Layer, prefix: str = "") -> bool:
    other = second.state_dict()
    return all(
        (tensor.numpy() == other[name].numpy()).all()
        for name, tensor in first.state_dict().items()
        if name.startswith(prefix)
    )


def test_the_seed_of_the_config_decides_the_fresh_weights():
    first, notes = build.build_model(config({"seed": 1}))
    assert notes == []
    assert same(first, build.build_model(config({"seed": 1}))[0])
    assert not same(first, build.build_model(config({"seed": 2}))[0])


def test_the_books_name_and_depth_make_the_network():
    model, _ = build.build_model(config(name="TSN", num_layers=18, num_classes=5))
    assert (model.depth, list(model.fc.weight.shape)) == (18, [64, 5])


def test_a_wrong_name_or_argument_is_refused():
    with pytest.raises(ValueError, match="unknown model 'tsm_r18'; did you mean tsn_r18"):
        build.build_model(config(name="tsm_r18"))
    with pytest.raises(ValueError, match="tsn_r18 has no argument 'drop'"):
        build.build_model(config(arguments={"drop": 0.5}))


def test_pretraining_on_the_same_classes_sets_all_weights(tmp_path):
    source, _ = build.build_model(config({"seed": 5}))
    write_weights(tmp_path / "a.pdparams", source)
    model, notes = build.build_model(config(), tmp_path / "a.pdparams")
    assert same(model, source)
    (note,) = notes
    assert note == f"starts from {tmp_path / 'a.pdparams'}: names of paddlevid; tensors: 102 used"


def test_pretraining_on_other_classes_sets_all_but_the_classifier(tmp_path, recwarn):
    source, _ = build.build_model(config({"seed": 5}, num_classes=7))
    write_weights(tmp_path / "a.pdparams", source)
    model, notes = build.build_model(config(), tmp_path / "a.pdparams")
    fresh, _ = build.build_model(config())
    assert same(model, source, "trunk.")
    assert same(model, fresh, "fc.")
    why = "fc.weight, fc.bias: the file has 7 classes, the network 2"
    assert notes[1:] == [f"initialised: {why}", f"left out: {why}"]
    assert len(recwarn) == 0


def test_pretraining_on_another_network_is_refused(tmp_path):
    source, _ = build.build_model(config(arguments={"width": 4}))
    write_weights(tmp_path / "a.pdparams", source)
    with pytest.raises(WeightsError, match=r"a.pdparams does not fit the network: .*another shape"):
        build.build_model(config(), tmp_path / "a.pdparams")


@pytest.fixture
def imagenet(monkeypatch, tmp_path):
    """Published weights of a narrow ResNet-18, with their classifier, from no network at all."""
    source, _ = build.build_model(config({"seed": 9}))
    published = source.trunk.state_dict()
    published |= {"fc.weight": paddle.ones([64, 1000]), "fc.bias": paddle.zeros([1000])}
    paddle.save(published, str(tmp_path / "resnet18.pdparams"))
    calls = []

    def fake_download(url: str, md5: str) -> str:
        calls.append(url)
        return str(tmp_path / "resnet18.pdparams")

    monkeypatch.setattr(build.network, "download", fake_download)
    return source, calls


def test_imagenets_weights_are_those_of_the_trunk(imagenet):
    source, calls = imagenet
    model, notes = build.build_model(config(pretrained="imagenet"))
    fresh, _ = build.build_model(config())
    assert same(model, source, "trunk.")
    assert same(model, fresh, "fc.")
    assert calls[0].endswith("/resnet18.pdparams")
    assert "names of torchvision or paddle.vision" in notes[0]
    why = "fc.weight, fc.bias: the file has 1000 classes, the network 2"
    assert notes[1:] == [f"initialised: {why}", f"left out: {why}"]


def test_weights_that_are_given_come_before_imagenets(imagenet, tmp_path):
    own, _ = build.build_model(config({"seed": 4}))
    write_weights(tmp_path / "own.pdparams", own)
    model, _ = build.build_model(config(pretrained="imagenet"), tmp_path / "own.pdparams")
    assert same(model, own)
    assert imagenet[1] == []


def test_evaluation_needs_all_weights(tmp_path):
    source, _ = build.build_model(config({"seed": 5}))
    write_weights(tmp_path / "a.pdparams", source)
    model, _ = build.build_model(config())
    build.load_all_weights(model, tmp_path / "a.pdparams")
    assert same(model, source)
    other, _ = build.build_model(config(num_classes=7))
    with pytest.raises(WeightsError, match="2 of another shape .*another num_classes"):
        build.load_all_weights(other, tmp_path / "a.pdparams")


@pytest.mark.parametrize(
    ("name", "head"), [("eco_lite", "fc"), ("eco_full", "fc"), ("timesformer_base", "head")]
)
def test_pretraining_on_other_classes_leaves_the_classifier_of_each_network(tmp_path, name, head):
    source, _ = build.build_model(tiny(name, {"seed": 5}, num_classes=7))
    write_weights(tmp_path / "a.pdparams", source)
    model, notes = build.build_model(tiny(name), tmp_path / "a.pdparams")
    fresh, _ = build.build_model(tiny(name))
    assert same(model, fresh, f"{head}.")
    loaded, given = model.state_dict(), source.state_dict()
    trunk = [key for key in loaded if not key.startswith(f"{head}.")]
    assert len(trunk) == len(loaded) - 2
    assert all((loaded[key].numpy() == given[key].numpy()).all() for key in trunk)
    why = f"{head}.weight, {head}.bias: the file has 7 classes, the network 2"
    assert f"initialised: {why}" in notes


@pytest.mark.parametrize("name", ["eco_lite", "timesformer_base"])
def test_pretraining_on_the_same_classes_sets_all_weights_of_each_network(tmp_path, name):
    source, _ = build.build_model(tiny(name, {"seed": 5}))
    write_weights(tmp_path / "a.pdparams", source)
    model, notes = build.build_model(tiny(name), tmp_path / "a.pdparams")
    assert same(model, source)
    assert [note for note in notes if note.startswith(("initialised", "left out"))] == []


def test_embeddings_for_other_frames_are_resized_with_a_word(tmp_path):
    name = "timesformer_base"
    source, _ = build.build_model(tiny(name, {"seed": 5}))
    write_weights(tmp_path / "a.pdparams", source)
    arguments = {**TINY[name], "num_frames": 4, "image_size": 48}
    model, notes = build.build_model(tiny(name, arguments=arguments), tmp_path / "a.pdparams")
    assert "resized: pos_embed: the file is for 5, the network for 10 places" in notes
    assert "resized: time_embed: the file is for 2, the network for 4 frames" in notes
    assert same(model, source, "blocks.")
    old, new = source.time_embed.numpy()[0], model.time_embed.numpy()[0]
    np.testing.assert_array_equal(new, old[[0, 0, 1, 1]])
    np.testing.assert_array_equal(model.pos_embed.numpy()[0, 0], source.pos_embed.numpy()[0, 0])
    assert model.pos_embed.shape == [1, 1 + 3 * 3, 8]


@pytest.mark.parametrize("name", ["eco_lite", "eco_full", "timesformer_base"])
def test_networks_without_published_weights_say_so(name):
    message = f"MODEL.pretrained = 'imagenet': Paddle publishes no weights for {name}; give a file"
    with pytest.raises(ConfigError, match=message):
        build.build_model(tiny(name, pretrained="imagenet"))


def test_weights_that_are_given_do_for_networks_without_published_ones(tmp_path):
    source, _ = build.build_model(tiny("eco_lite", {"seed": 5}))
    write_weights(tmp_path / "a.pdparams", source)
    built = tiny("eco_lite", pretrained="imagenet")
    assert same(build.build_model(built, tmp_path / "a.pdparams")[0], source)


def test_an_image_networks_weights_do_not_fit_a_network_without_a_trunk(imagenet, tmp_path):
    with pytest.raises(WeightsError, match=r"resnet18.pdparams is not of this network: 3 of"):
        build.build_model(tiny("eco_lite"), tmp_path / "resnet18.pdparams")


# --- a trunk that is frozen -----------------------------------------------------------------------


def test_nothing_is_frozen_unasked():
    built = tiny("eco_lite")
    model, _ = build.build_model(built)
    before = [parameter.stop_gradient for parameter in model.parameters()]
    assert build.freeze_trunk(built, model) == []
    assert [parameter.stop_gradient for parameter in model.parameters()] == before


@pytest.mark.parametrize(
    ("name", "head"),
    [("tsn_r18", "fc"), ("eco_lite", "fc"), ("eco_full", "fc"), ("timesformer_base", "head")],
)
def test_of_a_frozen_trunk_nothing_moves(name, head):
    built = tiny(name, {"freeze_trunk": True, "l2_weight_decay": 0.1})
    model, _ = build.build_model(built)
    frozen = build.freeze_trunk(built, model)
    trained = {key for key, p in model.named_parameters() if not p.stop_gradient}
    assert trained == {f"{head}.weight", f"{head}.bias"}
    optimizer = build.build_optimizer(built, model)
    before = {key: tensor.numpy().copy() for key, tensor in model.state_dict().items()}
    model.train()
    for layer in frozen:
        layer.eval()
    optimizer.set_lr(0.1)
    clip = np.random.default_rng(0).normal(size=(2, 3, 2, 32, 32)).astype(np.float32)
    nn.CrossEntropyLoss()(model(paddle.to_tensor(clip)), paddle.to_tensor([0, 1])).backward()
    optimizer.step()
    after = model.state_dict()
    assert {key for key in before if (before[key] != after[key].numpy()).any()} == trained


# --- loss, schedule, optimiser --------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_of_logits(smoothing):
    logits = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
    labels = np.array([1, 0])
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    loss = build.build_loss(config({"label_smoothing": smoothing}))
    got = loss(paddle.to_tensor(logits, "float32"), paddle.to_tensor(labels)).item()
    assert got == pytest.approx(-(target * log).sum(axis=1).mean(), rel=1e-5)


def test_the_schedule_is_the_configs():
    train = {
        "epoch": 9, "learning_rate": 0.2, "lr_policy": "multistep", "lr_steps": (3, 6),
        "learning_rate_decay": 0.5, "lr_per": "step", "warmup_epochs": 1.5,
    }  # fmt: skip
    expected = Schedule(0.2, 9, "multistep", (3, 6), 0.5, per_step=True, warmup=1.5)
    assert build.build_schedule(config(train)) == expected
    assert not build.build_schedule(config()).per_step


def test_the_optimiser_is_the_configs():
    model, _ = build.build_model(config())
    momentum = build.build_optimizer(config({"momentum": 0.8, "l2_weight_decay": 0.01}), model)
    assert isinstance(momentum, paddle.optimizer.Momentum)
    assert momentum._momentum == 0.8
    adamw = build.build_optimizer(config({"optimizer": "adamw"}), model)
    assert isinstance(adamw, paddle.optimizer.AdamW)


def test_the_optimiser_moves_trunk_and_classifier_by_their_own_rates():
    train = {"l2_weight_decay": 0.1, "no_decay": ("norm",), "trunk_lr": 0.25, "bias_lr": 2.0}
    built = tiny("eco_lite", train)
    model, _ = build.build_model(built)
    optimizer = build.build_optimizer(built, model)
    optimizer.set_lr(0.5)
    clip = np.random.default_rng(0).normal(size=(2, 3, 2, 32, 32)).astype(np.float32)
    nn.CrossEntropyLoss()(model(paddle.to_tensor(clip)), paddle.to_tensor([0, 1])).backward()
    named = dict(model.named_parameters())
    factors = {  # of the rate, and the decay
        "fc.weight": (1, 0.1), "fc.bias": (2, 0.1), "conv1.conv.weight": (0.25, 0.1),
        "conv1.conv.bias": (0.5, 0.1), "tail.res3a_bn.weight": (0.25, 0),
        "tail.res3a_bn.bias": (0.25, 0), "conv1.bn.weight": (0.25, 0),
    }  # fmt: skip
    before = {key: named[key].numpy().copy() for key in factors}
    gradients = {key: named[key].grad.numpy().copy() for key in factors}
    optimizer.step()
    for key, (factor, decay) in factors.items():
        expected = before[key] - 0.5 * factor * (gradients[key] + decay * before[key])
        near = 1e-5 * np.abs(expected).max()  # large gradients may leave a small difference
        np.testing.assert_allclose(named[key].numpy(), expected, atol=near, err_msg=key)


def test_the_decay_over_layers_is_the_configs():
    built = tiny("timesformer_base", {"layer_decay": 0.5})
    model, _ = build.build_model(built)
    build.build_optimizer(built, model)
    rates = {
        key: parameter.optimize_attr["learning_rate"] for key, parameter in model.named_parameters()
    }
    some = (
        "head.weight",
        "norm.weight",
        "blocks.1.mlp.fc1.weight",
        "blocks.0.norm1.bias",
        "cls_token",
    )
    assert [rates[key] for key in some] == [1, 1, 0.5, 0.25, 0.125]
    built = tiny("tsn_r18", {"layer_decay": 0.5})
    with pytest.raises(ValueError, match="layer_decay = 0.5 needs a transformer"):
        build.build_optimizer(built, build.build_model(built)[0])


def test_frozen_parameters_are_not_given_to_the_optimiser():
    model, _ = build.build_model(config(arguments={"width": 8, "partial_bn": True}))
    optimizer = build.build_optimizer(config(), model)
    given = [p for group in optimizer._parameter_list for p in group["params"]]
    assert len(given) == 20 + 2 + 2  # convolutions, a batch norm, classifier


# --- classes --------------------------------------------------------------------------------------


def lists_in(folder: Path, classes: str | bytes | None, num_classes: int = 2) -> Config:
    folder.mkdir(exist_ok=True)
    if classes is not None:
        content = classes if isinstance(classes, bytes) else classes.encode()
        (folder / "classes.txt").write_bytes(content)
    return config({"filelist": str(folder / "train.list")}, num_classes=num_classes)


@pytest.mark.parametrize("text", ["walk\nrun\n", "walk\r\nrun", "\ufeffwalk\nrun\n", "walk \n run"])
def test_class_names_are_the_lines_beside_a_list(tmp_path, text):
    assert build.read_classes(lists_in(tmp_path, text)) == ["walk", "run"]


def test_class_names_may_have_spaces_and_any_letters(tmp_path):
    assert build.read_classes(lists_in(tmp_path, "brush hair\n走路\n")) == ["brush hair", "走路"]


def test_without_names_classes_are_numbered(tmp_path):
    assert build.read_classes(lists_in(tmp_path, None, 3)) == ["0", "1", "2"]


def test_the_names_beside_the_weights_come_first(tmp_path):
    built = lists_in(tmp_path / "lists", "walk\nrun\n")
    (tmp_path / "run").mkdir()
    weights = tmp_path / "run" / "best.pdparams"
    assert build.read_classes(built, weights) == ["walk", "run"]
    (tmp_path / "run" / "classes.txt").write_text("dive\nfall\n")
    assert build.read_classes(built, weights) == ["dive", "fall"]
    weights = weights.with_suffix(".safetensors")
    save_file({"w": np.ones(1)}, weights, {"classes": '["run", "走路"]'})
    assert build.read_classes(built, weights) == ["run", "走路"]
    save_file({"w": np.ones(1)}, weights)
    assert build.read_classes(built, weights) == ["dive", "fall"]


def test_another_number_of_names_than_classes_is_refused(tmp_path):
    message = r"classes.txt names 3 classes, but MODEL.num_classes is 2: set -o MODEL.num_classes=3"
    with pytest.raises(ListError, match=message):
        build.read_classes(lists_in(tmp_path, "a\nb\nc\n"))


def test_names_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(
        ListError, match="classes.txt is not a text in UTF-8: it needs a class name"
    ):
        build.read_classes(lists_in(tmp_path, b"\xff\xfea\x00"))


# --- the device -----------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are so many GPUs; what is selected is noted, not done."""
    selected = []

    def pretend(number: int | None) -> list[str]:
        monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: number is not None)
        monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: number)
        monkeypatch.setattr(paddle, "set_device", selected.append)
        return selected

    return pretend


@pytest.mark.parametrize(
    ("number", "use_gpu", "device", "selected", "line"),
    [
        (None, True, None, "cpu",
         "use_gpu = True, but this is Paddle for CPU: computing on the CPU"),
        (0, True, None, "cpu", "use_gpu = True, but no GPU was found: computing on the CPU"),
        (None, False, None, "cpu", "computing on cpu"),
        (2, True, None, "gpu", "computing on gpu"),
        (2, False, None, "cpu", "computing on cpu"),
        (2, True, "cpu", "cpu", "computing on cpu"),
        (2, False, "gpu", "gpu", "computing on gpu"),
        (2, True, "gpu:1", "gpu:1", "computing on gpu:1"),
        (None, True, "cpu", "cpu", "computing on cpu"),
    ],
)  # fmt: skip
def test_the_device_is_chosen_and_told(gpus, number, use_gpu, device, selected, line):
    calls = gpus(number)
    assert build.choose_device(config({"use_gpu": use_gpu}), device) == line
    assert calls == [selected]


@pytest.mark.parametrize(
    ("number", "device", "message"),
    [
        (None, "gpu", r"--device gpu: there is no such GPU \(0 found; this Paddle is built for "),
        (0, "gpu", r"--device gpu: there is no such GPU \(0 found\); use --device cpu"),
        (2, "gpu:2", r"--device gpu:2: there is no such GPU \(2 found\); use --device cpu"),
        *((2, name, "needs cpu, gpu or gpu:NUMBER") for name in
          ("cuda", "gpu:", "gpu:x", "gpu:-1", "cpu:", "cpu:0", "GPU", "", " cpu", "gpu:1:2")),
    ],
)  # fmt: skip
def test_a_device_that_is_not_there_is_refused(gpus, number, device, message):
    calls = gpus(number)
    with pytest.raises(ConfigError, match=message):
        build.choose_device(config(), device)
    assert calls == []


@pytest.mark.parametrize(
    ("number", "use_gpu", "device", "reason"),
    [
        (None, True, None, ", but this is Paddle for CPU"),
        (0, True, None, ", but no GPU was found"),
        (2, False, None, ""),
        (2, True, "cpu", ""),
    ],
)
def test_mixed_precision_without_a_gpu_is_refused(gpus, number, use_gpu, device, reason):
    calls = gpus(number)
    with pytest.raises(ConfigError) as error:
        build.choose_device(config({"amp": True, "use_gpu": use_gpu}), device)
    expected = f"automatic mixed precision (--amp, TRAIN.amp) needs a GPU{reason}"
    assert str(error.value) == expected
    assert calls == []


def test_mixed_precision_on_a_gpu_is_accepted(gpus):
    gpus(1)
    assert build.choose_device(config({"amp": True})) == "computing on gpu"


def test_the_cpu_is_really_selected():
    build.choose_device(config(), "cpu")
    assert paddle.get_device() == "cpu"


def test_imagenets_file_may_be_given_by_hand(imagenet, tmp_path):
    source, calls = imagenet
    model, _ = build.build_model(config(), tmp_path / "resnet18.pdparams")
    assert same(model, source, "trunk.")
    assert calls == []


def test_a_label_that_cannot_be_read_in_time_is_not_waited_for():
    class Stalled(list):
        samples = [Sample(Path("a.pkl"), 0), Sample(Path("b.avi"), 2)]

        def label_of(self, sample):
            if sample.path.suffix == ".pkl":  # on a drive that does not answer
                threading.Event().wait(100)
            return sample.label

    assert build.read_labels(Stalled([0, 0]), timeout=0.2).tolist() == [-1, 2]

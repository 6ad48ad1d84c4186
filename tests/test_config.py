"""Config files and overrides, and what is said about the wrong ones."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from paddlevid.config import Config, ConfigError, ModelConfig, ReaderConfig, load_config

BOOK = """
[MODEL]
name = "TSN"
format = "pkl"
num_classes = 10
seg_num = 3
seglen = 1
image_mean = [0.485, 0.456, 0.406]
image_std = [0.229, 0.224, 0.225]
num_layers = 50

[TRAIN]
epoch = 45
short_size = 240
target_size = 224
num_reader_threads = 1
buf_size = 1024
batch_size = 10
use_gpu = True
num_gpus = 1
filelist = "./data/hmdb_data_demo/train.list"
learning_rate = 0.01
learning_rate_decay = 0.1
l2_weight_decay = 1e-4
momentum = 0.9
total_videos = 80

[VALID]
short_size = 240
target_size = 224
num_reader_threads = 1
buf_size = 1024
batch_size = 2
filelist = "./data/hmdb_data_demo/val.list"

[TEST]
seg_num = 7
short_size = 240
target_size = 224
num_reader_threads = 1
buf_size = 1024
batch_size = 10
filelist = "./data/hmdb_data_demo/test.list"

[INFER]
short_size = 240
target_size = 224
num_reader_threads = 1
buf_size = 1024
batch_size = 1
filelist = "./data/hmdb_data_demo/test.list"
"""
MODEL = '[MODEL]\nname = "TSN"\nnum_classes = 3\n'


@pytest.fixture
def load(tmp_path):
    """Load a text as a config: .txt, or what `suffix` says."""

    def load_text(text: str | bytes, *overrides: str, suffix: str = ".txt") -> Config:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, overrides)

    return load_text


def check_book(config: Config) -> None:
    model, train = config.model, config.train
    assert (model.create_name, model.num_classes, model.format) == ("tsn_r50", 10, "pkl")
    assert (model.seg_num, model.seglen) == (3, 1)
    assert model.image_mean == (0.485, 0.456, 0.406)
    assert model.image_std == (0.229, 0.224, 0.225)
    assert (train.epoch, train.batch_size, train.num_reader_threads) == (45, 10, 1)
    assert (train.short_size, train.target_size, train.use_gpu) == (240, 224, True)
    assert train.filelist == "./data/hmdb_data_demo/train.list"
    assert (train.learning_rate, train.learning_rate_decay) == (0.01, 0.1)
    assert (train.l2_weight_decay, train.momentum) == (1e-4, 0.9)
    assert (config.valid.batch_size, config.test.batch_size, config.infer.batch_size) == (2, 10, 1)
    assert (config.valid.seg_num, config.test.seg_num, config.infer.seg_num) == (None, 7, None)
    assert config.valid.filelist == "./data/hmdb_data_demo/val.list"
    assert config.test.filelist == config.infer.filelist == "./data/hmdb_data_demo/test.list"


def test_the_books_config_is_read_as_it_stands(load):
    check_book(load(BOOK))


def test_the_books_own_file_is_read_as_it_stands():
    path = Path(__file__).parents[2] / "shared" / "config" / "tsn_book.txt"
    if not path.exists():
        pytest.skip("the book's file is not here")
    check_book(load_config(path))


def test_keys_without_meaning_are_reported_each(load):
    notes = "\n".join(load(BOOK).notes)
    for key in (
        "TRAIN.buf_size", "VALID.buf_size", "TEST.buf_size", "INFER.buf_size",
        "TRAIN.total_videos", "TRAIN.num_gpus",
    ):  # fmt: skip
        assert f"{key} is ignored: " in notes
    assert "TRAIN.learning_rate_decay has no effect without TRAIN.lr_steps" in notes
    assert len(load(BOOK).notes) == 7


def test_a_decay_with_its_epochs_is_not_reported(load):
    text = MODEL + "[TRAIN]\nlearning_rate_decay = 0.1\nlr_steps = [2, 3]\n"
    assert load(text).notes == ()
    assert load(text).train.lr_steps == (2, 3)


def test_settings_that_the_policy_does_not_use_are_reported(load):
    text = MODEL + '[TRAIN]\nlr_policy = "cosine"\nlr_steps = [2]\n'
    assert load(text).notes == ("TRAIN.lr_steps has no effect with TRAIN.lr_policy = 'cosine'",)


def test_num_layers_of_a_network_with_a_name_of_its_own_is_reported(load):
    config = load('[MODEL]\nname = "tsn_r18"\nnum_classes = 3\nnum_layers = 34\n')
    assert config.model.create_name == "tsn_r18"
    assert "MODEL.num_layers has no effect" in config.notes[0]


def test_yaml_and_txt_give_the_same_config(load):
    as_yaml = """
MODEL: {name: TSN, num_classes: 10, seg_num: 3, fixed_size: [240, 320]}
TRAIN: {batch_size: 4, l2_weight_decay: 1e-4, use_gpu: false, lr_steps: [20, 40]}
TEST: {filelist: a/test.list, seg_num: 7}
INFER:
"""
    as_txt = """
[MODEL]
name = "TSN"
num_classes = 10
seg_num = 3
fixed_size = (240, 320)
[TRAIN]
batch_size = 4
l2_weight_decay = 1e-4
use_gpu = False
lr_steps = [20, 40]
[TEST]
filelist = "a/test.list"
seg_num = 7
[INFER]
"""
    assert load(as_yaml, suffix=".yaml") == load(as_txt)
    assert load(as_yaml, suffix=".YML") == load(as_txt)
    assert load(as_yaml, suffix=".yaml").train.l2_weight_decay == 1e-4


def test_a_resolved_config_is_read_back_the_same(load, tmp_path):
    config = load(
        BOOK,
        "MODEL.fixed_size=(240, 320)",
        "MODEL.arguments={'dropout': 0.5, 'sizes': (1, 2)}",
        "TRAIN.learning_rate=1e-5",
    )
    text = yaml.safe_dump(config.to_dict())
    assert yaml.safe_load(text) == config.to_dict()
    again = load(text, suffix=".yaml")
    assert again.model.arguments == {"dropout": 0.5, "sizes": [1, 2]}
    model = dataclasses.replace(again.model, arguments=config.model.arguments)
    assert dataclasses.replace(again, model=model) == config


def test_a_config_cannot_be_changed(load):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load(BOOK).train.epoch = 3


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("TRAIN.batch_size=4", "train", "batch_size", 4),
        ("train.batch_size = 4", "train", "batch_size", 4),
        ("TRAIN.batch_size=1e1", "train", "batch_size", 10),
        ("TRAIN.learning_rate=1e-3", "train", "learning_rate", 0.001),
        ("TRAIN.learning_rate=1", "train", "learning_rate", 1.0),
        ("TRAIN.use_gpu=false", "train", "use_gpu", False),
        ("TRAIN.use_gpu=True", "train", "use_gpu", True),
        ("TRAIN.lr_steps=10,20", "train", "lr_steps", (10, 20)),
        ("TRAIN.lr_steps=[]", "train", "lr_steps", ()),
        ("MODEL.sampling=linspace", "model", "sampling", "linspace"),
        ("MODEL.target_fps=25", "model", "target_fps", 25.0),
        ("TRAIN.balance=sampling", "train", "balance", "sampling"),
        ("TRAIN.jitter_scale=256,320", "train", "jitter_scale", (256, 320)),
        ("TRAIN.jitter_scale=[]", "train", "jitter_scale", ()),
        ("TRAIN.no_flip_classes=['turn left']", "train", "no_flip_classes", ("turn left",)),
        ("TRAIN.no_decay=['bias', 'norm']", "train", "no_decay", ("bias", "norm")),
        ("TRAIN.mixup=1", "train", "mixup", 1.0),
        ("TRAIN.cutmix=0.5", "train", "cutmix", 0.5),
        ("TRAIN.bias_lr=2", "train", "bias_lr", 2.0),
        ("TRAIN.trunk_lr=0", "train", "trunk_lr", 0.0),
        ("TRAIN.freeze_trunk=true", "train", "freeze_trunk", True),
        ("TRAIN.layer_decay=1", "train", "layer_decay", 1.0),
        ("TRAIN.ema=0.99", "train", "ema", 0.99),
        ("TRAIN.filelist=C:\\new = old.list", "train", "filelist", "C:\\new = old.list"),
        ("TRAIN.filelist='it''s.list'", "train", "filelist", "its.list"),
        ("TEST.seg_num=None", "test", "seg_num", None),
        ("MODEL.name=tsn_r18", "model", "name", "tsn_r18"),
        ("MODEL.arguments.dropout=0.5", "model", "arguments", {"dropout": 0.5}),
        ("MODEL.arguments={'width': 16}", "model", "arguments", {"width": 16}),
    ],
)
def test_an_override_has_the_type_of_what_it_sets(load, override, section, key, value):
    got = getattr(getattr(load(BOOK, override), section), key)
    assert got == value
    assert type(got) is type(value)


def test_an_override_of_an_argument_keeps_the_others(load):
    text = MODEL + 'arguments = {"width": 16, "dropout": 0.1}\n'
    config = load(text, "MODEL.arguments.dropout=0.5", "MODEL.arguments.partial_bn=True")
    assert config.model.arguments == {"width": 16, "dropout": 0.5, "partial_bn": True}


def test_the_last_override_of_a_key_counts(load):
    assert load(BOOK, "TRAIN.epoch=2", "TRAIN.epoch=3").train.epoch == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[MODEL]\nname = 'TSN'\n", r"a\.txt: \[MODEL\] num_classes = 0: needs at least 1$"),
        ("", r"a\.txt: \[MODEL\] lacks name$"),
        (MODEL + "[TRIAN]\n", r"a\.txt: unknown section TRIAN; did you mean TRAIN\?"),
        (MODEL + "[DEFAULT]\nepoch = 3\n", "unknown section DEFAULT; there are MODEL, TRAIN, VAL"),
        (MODEL + "[TRAIN]\nbatch_siz = 3\n",
         r"a\.txt: \[TRAIN\] batch_siz = 3: unknown key; did you mean batch_size"),
        (MODEL + "[TRAIN]\nxxx = 3\n", r"unknown key; there are filelist, epoch, batch_size"),
        (MODEL + "[TRAIN]\nepoch = 'x'\n",
         r"a\.txt: \[TRAIN\] epoch = 'x': needs a whole number$"),
        (MODEL + "[TRAIN]\nepoch = 2.5\n", r"epoch = 2.5: needs a whole number$"),
        (MODEL + "[TRAIN]\nepoch = True\n", r"epoch = True: needs a whole number$"),
        (MODEL + "[TRAIN]\nepoch = 1e999\n", r"epoch = inf: needs a whole number$"),
        (MODEL + "[TRAIN]\nlearning_rate = 1e999\n", r"learning_rate = inf: needs a number$"),
        (MODEL + "[TRAIN]\nlearning_rate = 'nan'\n", r"learning_rate = 'nan': needs a number$"),
        (MODEL + "[TRAIN]\nlearning_rate = [0.1]\n", r"learning_rate = \[0.1\]: needs a number$"),
        (MODEL + "[TRAIN]\nuse_gpu = 1\n", r"use_gpu = 1: needs True or False$"),
        (MODEL + "[TRAIN]\nfilelist = 3\n", r"filelist = 3: needs a text$"),
        (MODEL + "[TRAIN]\nlr_steps = 3\n", r"lr_steps = 3: needs a list of whole numbers$"),
        (MODEL + "[TRAIN]\nlr_steps = {3}\n", r"lr_steps = \{3\}: needs a list of whole numbers$"),
        (MODEL + "image_mean = '0.5'\n", r"image_mean = '0.5': needs a list of numbers$"),
        (MODEL + "target_fps = 'x'\n", r"target_fps = 'x': needs a number$"),
        (MODEL + "sampling = 3\n", r"sampling = 3: needs a text$"),
        (MODEL + "[TRAIN]\njitter_scale = 3\n", r"jitter_scale = 3: needs a list of whole num"),
        (MODEL + "[TRAIN]\nno_flip_classes = 'a'\n", r"no_flip_classes = 'a': needs a list of tex"),
        (MODEL + "[TRAIN]\nno_flip_classes = [1]\n", r"no_flip_classes = \[1\]: needs a list of t"),
        (MODEL + "[TRAIN]\nno_decay = 'bias'\n", r"no_decay = 'bias': needs a list of texts$"),
        (MODEL + "[TRAIN]\nfreeze_trunk = 1\n", r"freeze_trunk = 1: needs True or False$"),
        (MODEL + "[TRAIN]\nema = True\n", r"ema = True: needs a number$"),
        (MODEL + "[TRAIN]\nmixup = [0.2]\n", r"mixup = \[0.2\]: needs a number$"),
        (MODEL + "[TEST]\nseg_num = 'x'\n", r"seg_num = 'x': needs a whole number, or None$"),
        (MODEL + "arguments = 3\n", r'arguments = 3: needs a dictionary, such as {"dropout": 0.5}'),
        (MODEL + "arguments = {1: 2}\n", r"arguments = \{1: 2\}: needs a dictionary"),
        (MODEL + "seg_num = 3\nseg_num = 4\n",
         r"a\.txt, line 5: \[MODEL\] seg_num is set a second time"),
        (MODEL + "[TRAIN]\n[TRAIN]\n", r"a\.txt, line 5: \[TRAIN\] begins a second time"),
        (MODEL + "[train]\n[TRAIN]\n", r"a\.txt: \[TRAIN\] begins a second time"),
        ("epoch = 3\n", r"a\.txt, line 1: 'epoch = 3' needs a section above it, such as \[MODEL\]"),
        (MODEL + "seg_num 3\n", r"a\.txt, line 4: 'seg_num 3' needs the form key = value"),
        (MODEL + "seg_num =\n", r"\[MODEL\] seg_num = : needs a Python literal: a number, True, "),
        (MODEL + "format = pkl\n", r"\[MODEL\] format = pkl: needs a Python literal"),
        (MODEL + "format = __import__('os').getcwd()\n", r"getcwd\(\): needs a Python literal"),
        (MODEL + "arguments = {[]: 1}\n", r"arguments = {\[\]: 1}: needs a Python literal"),
        (b"\xff\xfe\x00M", r"cannot read the config .*a\.txt: not a text$"),
    ],
)  # fmt: skip
def test_a_wrong_text_is_refused_by_file_section_and_key(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {name: TSN, num_classes: 3, num_classes: 4}",
         r"a\.yaml: not YAML: line 1: num_classes is set a second time"),
        ("MODEL: {name: TSN, num_classes: 3}\nMODEL: {name: TSN}",
         r"a\.yaml: not YAML: line 2: MODEL is set a second time"),
        ("MODEL: {name: TSN, num_classes: 3}\nmodel: {name: TSN}",
         r"a\.yaml: \[model\] begins a second time"),
        ("MODEL: {name: TSN", r"a\.yaml: not YAML: while parsing a flow mapping"),
        ("- a\n- b", r"a\.yaml: needs the sections MODEL, TRAIN, VALID, TEST, INFER with keys"),
        ("", r"a\.yaml: needs the sections MODEL"),
        ("MODEL: 3", r"a\.yaml: needs the sections MODEL"),
        ("MODEL: {name: TSN, num_classes: 3, 1: 2}", r"\[MODEL\] 1 = 2: unknown key; there are"),
        ("MODEL: {name: TSN, num_classes: 3, on: 2}", r"\[MODEL\] True = 2: unknown key"),
        ("MODEL: {name: TSN, num_classes: .inf}", r"num_classes = inf: needs a whole number"),
        ("MODEL: {name: TSN, num_classes: many}", r"num_classes = 'many': needs a whole number"),
        ("MODEL: {name: 2020-01-01, num_classes: 3}", r"name = datetime.*: needs a text"),
    ],
)  # fmt: skip
def test_a_wrong_yaml_is_refused_by_file_section_and_key(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text, suffix=".yaml")


def test_yaml_runs_no_code(load, tmp_path):
    made = tmp_path / "made"
    text = f"MODEL: !!python/object/apply:os.mkdir ['{made}']"
    with pytest.raises(ConfigError, match=r"not YAML: could not determine a constructor.*os\.mk"):
        load(text, suffix=".yaml")
    assert not made.exists()


@pytest.mark.parametrize(
    ("section", "line", "needs"),
    [
        ("MODEL", "format = 'avi'", "one of 'pkl', 'jpg', 'mp4', 'video'"),
        ("MODEL", "sampling = 'x'", "one of 'segments', 'book', 'dense', 'linspace'"),
        ("MODEL", "target_fps = 0", "frames a second, above 0"),
        ("MODEL", "target_fps = -30", "frames a second, above 0"),
        ("MODEL", "pretrained = 'x'", "one of '', 'imagenet'"),
        ("MODEL", "num_layers = 77", "one of 18, 34, 50, 101, 152"),
        ("MODEL", "seg_num = 0", "at least 1"),
        ("MODEL", "seglen = 0", "at least 1"),
        ("MODEL", "interval = -1", "at least 1"),
        (
            "MODEL",
            "arguments = {'num_classes': 3}",
            "no name, num_classes, num_future and channels",
        ),
        ("MODEL", "fixed_size = [240]", "(height, width) in pixels, or nothing"),
        ("MODEL", "fixed_size = [0, 0]", "(height, width) in pixels, or nothing"),
        ("MODEL", "image_mean = [123.7, 116.3, 103.5]", "three numbers from 0 to 1, of R, G and B"),
        ("MODEL", "image_mean = [0.5]", "three numbers from 0 to 1, of R, G and B"),
        ("MODEL", "image_std = [0.2, 0, 0.2]", "three numbers above 0 and at most 1, of R, G and"),
        ("MODEL", "image_std = [58.4, 57.1, 57.4]", "three numbers above 0 and at most 1"),
        ("MODEL", "task = 'predict'", "'predict' with convlstm, 'classify' with all others"),
        ("MODEL", "format = 'moving_mnist'", "one of 'pkl', 'jpg', 'mp4', 'video', 'features'"),
        ("MODEL", "num_future = 0", "at least 1"),
        ("TRAIN", "loss = 'x'", "one of 'mse', 'l1', 'l1_mse'"),
        ("TRAIN", "num_sequences = 0", "at least 1"),
        ("TRAIN", "clips_per_video = 0", "at least 1"),
        ("TRAIN", "picture_every = -1", "at least 0"),
        ("TRAIN", "beta2 = 1.0", "a number from 0 to below 1"),
        ("TRAIN", "epoch = 0", "at least 1"),
        ("TRAIN", "batch_size = 0", "at least 1"),
        ("TRAIN", "accumulate = 0", "at least 1"),
        ("TRAIN", "learning_rate = -1", "at least 0"),
        ("TRAIN", "seed = 4294967296", "at most 4294967295"),
        ("TRAIN", "keep_checkpoints = 0", "at least 1"),
        ("TRAIN", "flip = 1.5", "a share from 0 to 1"),
        ("TRAIN", "max_bad_samples = -0.1", "a share from 0 to 1"),
        ("TRAIN", "momentum = 1", "a number from 0 to below 1"),
        ("TRAIN", "label_smoothing = 1", "a number from 0 to below 1"),
        ("TRAIN", "ema = 1", "a number from 0 to below 1"),
        ("TRAIN", "ema = -0.5", "a number from 0 to below 1"),
        ("TRAIN", "mixup = -0.1", "at least 0"),
        ("TRAIN", "cutmix = -1", "at least 0"),
        ("TRAIN", "bias_lr = -2", "at least 0"),
        ("TRAIN", "trunk_lr = -0.1", "at least 0"),
        ("TRAIN", "layer_decay = 0", "a factor above 0 and at most 1"),
        ("TRAIN", "layer_decay = 1.1", "a factor above 0 and at most 1"),
        ("TRAIN", "balance = 'x'", "one of '', 'loss', 'sampling'"),
        ("TRAIN", "no_decay = ['bias', 'norms']", "some of bias, norm, embedding"),
        ("TRAIN", "jitter_scale = [256]", "(low, high) in pixels of the short side, or nothing"),
        ("TRAIN", "jitter_scale = [320, 256]", "(low, high) in pixels of the short side, or noth"),
        ("TRAIN", "jitter_scale = [0, 256]", "(low, high) in pixels of the short side, or nothing"),
        ("TRAIN", "jitter_scale = [256, 300, 320]", "(low, high) in pixels of the short side"),
        ("TRAIN", "crop = 'x'", "one of 'multiscale', 'random', 'resized'"),
        ("TRAIN", "crop_area = (0.5, 1.5)", "(least, largest), above 0, at most 1"),
        ("TRAIN", "crop_aspect = (2, 1)", "(least, largest), above 0, at most 100"),
        ("TRAIN", "crop_positions = 4", "one of 5, 13"),
        ("TRAIN", "optimizer = 'adma'", "one of 'momentum', 'adamw'"),
        ("TRAIN", "lr_policy = 'x'", "one of 'multistep', 'constant', 'cosine'"),
        ("TRAIN", "lr_per = 'x'", "one of 'epoch', 'step'"),
        ("TRAIN", "crop_scales = []", "shares of the short side, above 0 and at most 1"),
        ("TRAIN", "crop_scales = [1, 1.2]", "shares of the short side, above 0 and at most 1"),
        ("TRAIN", "lr_steps = [4, 2]", "epochs above 0 in rising order"),
        ("TRAIN", "lr_steps = [0, 2]", "epochs above 0 in rising order"),
        ("VALID", "crops = 2", "one of 1, 3, 10"),
        ("VALID", "num_reader_threads = -1", "at least 0"),
        ("TEST", "seg_num = 0", "at least 1"),
        ("INFER", "num_clips = 0", "at least 1"),
    ],
)
def test_an_impossible_value_is_refused_with_what_is_needed(load, section, line, needs):
    model = MODEL if section == "MODEL" else f"{MODEL}[{section}]\n"
    key = line.split()[0]
    with pytest.raises(ConfigError) as error:
        load(f"{model}{line}\n")
    place, _, rest = str(error.value).partition(f": [{section}] {key} = ")
    assert place.endswith("a.txt")
    assert f": needs {needs}" in rest


def test_a_crop_larger_than_the_frames_is_refused(load):
    with pytest.raises(ConfigError, match=r"\[TEST\] target_size = 224: needs at most short_size"):
        load(MODEL + "[TEST]\nshort_size = 100\n")
    with pytest.raises(ConfigError, match=r"\[TRAIN\] target_size = 224: needs at most short_siz"):
        load(MODEL + "[TRAIN]\nshort_size = 100\ncrop = 'random'\n")
    assert load(MODEL + "[TRAIN]\nshort_size = 100\n").train.short_size == 100  # it scales crops


def test_a_crop_larger_than_the_lower_end_of_the_jitter_is_refused(load):
    jitter = MODEL + "[TRAIN]\njitter_scale = [100, 320]\n"
    message = r"\[TRAIN\] target_size = 224: needs at most the lower jitter_scale, 100$"
    with pytest.raises(ConfigError, match=message):
        load(jitter + "crop = 'random'\n")
    assert load(jitter).train.jitter_scale == (100, 320)  # a multiscale crop scales
    assert load(jitter + "crop = 'random'\ntarget_size = 100\n").train.target_size == 100
    small = MODEL + "[TRAIN]\nshort_size = 50\ncrop = 'random'\njitter_scale = [224, 300]\n"
    assert load(small).train.short_size == 50  # it has no effect


def test_a_section_that_is_not_there_fits_the_fixed_size_and_can_be_read_again(load):
    config = load(MODEL + "fixed_size = (36, 40)\n[TRAIN]\ntarget_size = 32\n")
    assert [getattr(config, name).target_size for name in ("valid", "test", "infer")] == [32] * 3
    assert load(yaml.safe_dump(config.to_dict()), suffix=".yaml") == config
    assert load(MODEL + "fixed_size = (36, 40)\n").test.target_size == 36


def test_a_crop_larger_than_the_fixed_size_is_refused(load):
    fixed = MODEL + "fixed_size = (240, 200)\n"
    message = r"\[TEST\] target_size = 224: needs at most MODEL.fixed_size = \(240, 200\)$"
    with pytest.raises(ConfigError, match=message):
        load(fixed + "[TEST]\nfilelist = 'a'\n")
    with pytest.raises(
        ConfigError, match=r"^-o TRAIN.target_size=201: \[TRAIN\] target_size = 201"
    ):
        load(fixed + "[TRAIN]\ncrop = 'random'\n", "TRAIN.target_size=201")
    assert load(fixed + "[TRAIN]\nepoch = 2\n").train.target_size == 224  # it scales crops
    assert load(fixed + "[TEST]\ntarget_size = 200\n").test.target_size == 200


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("TRAIN.batch_size", "^-o TRAIN.batch_size: needs SECTION.key=value, as in -o TRAIN.batch"),
        ("batch_size=4", "^-o batch_size=4: needs SECTION.key=value"),
        ("TRAIN.=4", "^-o TRAIN.=4: needs SECTION.key=value"),
        ("TRIAN.epoch=4", "unknown section TRIAN; did you mean TRAIN"),
        ("TRAIN.epochs=4", r"^-o TRAIN.epochs=4: \[TRAIN\] epochs = 4: unknown key; did you mean "),
        ("TRAIN.epoch=x", r"^-o TRAIN.epoch=x: \[TRAIN\] epoch = 'x': needs a whole number$"),
        ("TRAIN.epoch=", r"^-o TRAIN.epoch=: \[TRAIN\] epoch = '': needs a whole number$"),
        ("TRAIN.epoch={[]: 1}", r"epoch = '{\[\]: 1}': needs a whole number$"),
        ("TRAIN.epoch.x=1", r"^-o TRAIN.epoch.x=1: \[TRAIN\] epoch = {'x': 1}: needs a whole numb"),
        ("TRAIN.epoch=0", r"^-o TRAIN.epoch=0: \[TRAIN\] epoch = 0: needs at least 1$"),
    ],
)
def test_a_wrong_override_is_refused_by_itself(load, override, message):
    with pytest.raises(ConfigError, match=message):
        load(BOOK, override)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the config .*no\.txt: No such file"):
        load_config(tmp_path / "no.txt")
    with pytest.raises(ConfigError, match="cannot read the config .*: Is a directory"):
        load_config(tmp_path)


def test_a_long_value_is_cut_in_the_message(load):
    with pytest.raises(ConfigError) as error:
        load(MODEL + f"seg_num = {'(' * 5000}\n")
    assert len(str(error.value)) < 400
    with pytest.raises(ConfigError) as error:
        load(MODEL + f"seg_num = '{'x' * 5000}'\n")
    assert len(str(error.value)) < 400


def test_comments_byte_order_mark_and_line_ends_are_accepted(load):
    text = b'\xef\xbb\xbf# about\r\n[MODEL]\r\nname = "TSN"  # the book\'s\r\nnum_classes = 3\r\n'
    assert load(text).model == ModelConfig("TSN", 3)


def test_a_number_sign_inside_quotes_is_no_comment(load):
    assert load(MODEL + "[TEST]\nfilelist = 'a #1.list'  # one\n").test.filelist == "a #1.list"


def test_a_value_may_go_on_in_the_next_line(load):
    text = MODEL + "image_mean = [0.1,\n    0.2, 0.3]\n"
    assert load(text).model.image_mean == (0.1, 0.2, 0.3)


def test_a_percent_sign_is_not_replaced(load):
    assert load(MODEL + "[TEST]\nfilelist = '%(name)s.list'\n").test.filelist == "%(name)s.list"


def test_sections_that_are_left_out_have_defaults(load):
    assert load(MODEL).infer == ReaderConfig()
    assert load(MODEL).notes == ()


@pytest.mark.parametrize("module", ["paddlevid", "paddlevid.config"])
def test_importing_does_not_load_what_is_slow_or_change_the_environment(module):
    code = (
        "import os, sys; before = dict(os.environ)\n"
        f"import {module}\n"
        "assert dict(os.environ) == before\n"
        "print([name for name in ('paddle', 'cv2', 'av', 'sklearn', 'matplotlib', 'visualdl') "
        "if name in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout == "[]\n"


def test_a_backslash_of_a_windows_path_is_no_warning(load):
    assert (
        load(MODEL + '[TEST]\nfilelist = "clips\\demo.list"\n').test.filelist == "clips\\demo.list"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["TRAIN.nesterov=True", "TRAIN.optimizer=adamw"],
        ["MODEL.interval=5"],
        ["TRAIN.crop_positions=13", "TRAIN.crop=random"],
        ["TRAIN.crop_area=[0.5,1]", "TRAIN.crop=random"],
        ["TRAIN.crop_aspect=[0.5,1]"],
        ["TRAIN.auto_augment=True", "TRAIN.augment=False"],
        ["TRAIN.crop_scales=[0.5]", "TRAIN.crop=random"],
        ["VALID.short_size=300", "MODEL.fixed_size=[256,256]"],
        ["TRAIN.early_stop=3", "VALID.filelist="],
        ["TRAIN.lr_steps=[3]", "TRAIN.lr_policy=cosine"],
        ["TRAIN.learning_rate_decay=0.5"],
        ["MODEL.num_layers=18"],
        ["MODEL.interval=5", "MODEL.sampling=book"],
        ["MODEL.target_fps=25"],
        ["MODEL.target_fps=25", "MODEL.sampling=dense"],
        ["TRAIN.jitter_scale=[256,320]", "MODEL.fixed_size=[256,256]"],
        ["TRAIN.short_size=256", "TRAIN.jitter_scale=[256,320]"],
        ["TRAIN.no_flip_classes=['left']", "TRAIN.flip=0"],
        ["TRAIN.no_decay=['bias']"],
        ["TRAIN.trunk_lr=0.1", "TRAIN.freeze_trunk=True"],
        ["TRAIN.layer_decay=0.7", "TRAIN.freeze_trunk=True"],
    ],
)
def test_a_key_that_means_nothing_beside_another_is_said_to_have_no_effect(tmp_path, overrides):
    path = tmp_path / "plain.yaml"
    path.write_text("MODEL: {name: tsn_r18, num_classes: 3}\nVALID: {filelist: val.list}\n")
    assert load_config(path).notes == ()
    (note,) = load_config(path, overrides).notes
    assert note.startswith(f"{overrides[0].partition('=')[0]} has no effect ")


@pytest.mark.parametrize(
    "overrides",
    [
        ["MODEL.interval=5", "MODEL.sampling=linspace", "MODEL.target_fps=25"],
        ["TRAIN.jitter_scale=[256,320]"],
        ["TRAIN.no_flip_classes=['left']"],
        ["TRAIN.no_decay=['bias']", "TRAIN.l2_weight_decay=0.1"],
        ["TRAIN.trunk_lr=0.1", "TRAIN.layer_decay=0.7", "TRAIN.bias_lr=2"],
        ["TRAIN.bias_lr=2", "TRAIN.freeze_trunk=True"],
        ["TRAIN.mixup=0.2", "TRAIN.cutmix=1", "TRAIN.balance=loss", "TRAIN.ema=0.99"],
    ],
)
def test_a_key_that_has_an_effect_is_not_said_to_have_none(load, overrides):
    text = '[MODEL]\nname = "tsn_r18"\nnum_classes = 3\n'
    assert load(text, *overrides).notes == ()


FRAMES = "[MODEL]\nname = 'convlstm'\ntask = 'predict'\n"


def test_a_network_for_frames_needs_no_classes(load):
    config = load(FRAMES + "format = 'moving_mnist'\nmoving_mnist = {'size': 48}\n")
    assert (config.model.num_classes, config.model.num_future, config.notes) == (0, 10, ())
    with pytest.raises(ConfigError, match=r"task = 'classify': needs 'predict' with convlstm"):
        load("[MODEL]\nname = 'convlstm'\n")
    with pytest.raises(ConfigError, match=r"arguments = \{'channels': 3\}: needs no name"):
        load(FRAMES + "arguments = {'channels': 3}\n")


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("TRAIN.mixup=0.2", "with MODEL.task = 'predict'"),
        ("MODEL.num_classes=3", "with MODEL.task = 'predict'"),
        ("TEST.crops=3", "with MODEL.task = 'predict'"),
        ("TRAIN.flip=0.1", "with MODEL.format = 'moving_mnist'"),
        ("MODEL.grey=True", "with MODEL.format = 'moving_mnist'"),
        ("TRAIN.scheduled_sampling=9", "without MODEL.arguments.feedback = 'frame'"),
        ("INFER.num_sequences=3", "as infer.py predicts what it is given"),
    ],
)
def test_keys_that_mean_nothing_to_a_network_for_frames_are_reported(load, override, why):
    key = override.partition("=")[0]
    [note] = load(FRAMES + "format = 'moving_mnist'\n", override).notes
    assert note == f"{key} has no effect {why}"


@pytest.mark.parametrize(
    ("source", "override"), [("video", "MODEL.interval=2"), ("moving_mnist", "TRAIN.early_stop=3")]
)
def test_a_key_that_has_an_effect_on_frames_is_not_said_to_have_none(load, source, override):
    assert load(FRAMES + f"format = '{source}'\n", override).notes == ()


def test_keys_of_frames_mean_nothing_to_a_classifier(load):
    overrides = ["TRAIN.loss=l1", "MODEL.grey=True", "TRAIN.num_sequences=3"]
    notes = load("[MODEL]\nname = 'tsn_r18'\nnum_classes = 3\n", *overrides).notes
    assert notes == (
        "MODEL.grey has no effect without MODEL.task = 'predict'",
        "TRAIN.loss has no effect without MODEL.task = 'predict'",
        "TRAIN.num_sequences has no effect without MODEL.format = 'moving_mnist'",
    )


def test_with_a_fixed_size_a_crop_may_be_larger_than_the_short_size(tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text("MODEL: {name: tsn_r18, num_classes: 3, fixed_size: [300, 320]}\n")
    assert load_config(path, ["VALID.target_size=256"]).valid.target_size == 256
    with pytest.raises(ConfigError, match="needs at most MODEL.fixed_size"):
        load_config(path, ["VALID.target_size=301"])


# --- the config that weights carry ----------------------------------------------------------------


def test_a_safetensors_carries_a_config(tmp_path):
    text = "MODEL: {name: tsn_r18, num_classes: 3}\nINFER: {crops: 3}\n"
    save_file({"w": np.ones(1)}, tmp_path / "a.safetensors", {"config": text})
    config = load_config(tmp_path / "a.safetensors", ["INFER.target_size=96"])
    assert (config.model.name, config.model.num_classes) == ("tsn_r18", 3)
    assert (config.infer.crops, config.infer.target_size) == (3, 96)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "a.safetensors carries no config: give --config FILE, or convert it with"),
        ({"config": "MODEL: [1"}, "a.safetensors: not YAML"),
        ({"config": "MODEL: {crops: 3}"}, r"a.safetensors: \[MODEL\] crops = 3"),
    ],
)
def test_what_it_carries_is_checked(tmp_path, metadata, message):
    save_file({"w": np.ones(1)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "a.safetensors")


def test_a_safetensors_that_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the weights .*a.safetensors: No such file"):
        load_config(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"text")
    with pytest.raises(ConfigError, match=r"a.safetensors is damaged or no .safetensors"):
        load_config(tmp_path / "a.safetensors")


def test_a_recipe_has_what_is_always_compared_and_what_is_not_as_usual(load):
    recipe = load(BOOK, "TRAIN.cutmix=1.0", "TRAIN.histogram_every=9").recipe()
    assert list(recipe)[:3] == ["MODEL/name", "MODEL/seg_num", "TRAIN/epoch"]
    assert (recipe["TRAIN/seed"], recipe["TRAIN/cutmix"]) == (0, 1.0)  # the first is as usual
    assert recipe["MODEL/num_classes"] == 10
    assert not {"TRAIN/filelist", "TRAIN/histogram_every", "TRAIN/mixup"} & set(recipe)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["modality=optical"], "modality = 'optical': needs one of 'rgb', 'flow'"),
        (["modality=flow"], "needs two numbers from 0 to 1, of x and y .* as published .0.5, 0.5."),
        (["modality=flow", "image_mean=[0.5,0.5]"], "two numbers above 0 and at most 1, of x and"),
        (["modality=flow", "name=movinet_a0"], "needs 'rgb': only TSN takes 'flow'"),
        (["modality=flow", "sampling=dense"], "needs 'segments' with MODEL.modality = 'flow'"),
        (["flow_method=flownet"], "needs one of 'dis', 'tvl1', 'farneback'"),
        (["flow_bound=0"], "needs pixels, above 0"),
        (["flow_short_side=-1"], "needs at least 0"),
    ],
)
def test_optical_flow_that_cannot_be_is_refused(tmp_path, overrides, message):
    (tmp_path / "c.yaml").write_text("MODEL: {name: tsn_r18, num_classes: 2}")
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "c.yaml", [f"MODEL.{text}" for text in overrides])


def test_changes_of_colour_have_no_effect_on_flow(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "MODEL: {name: tsn_r18, num_classes: 2, modality: flow, image_mean: [0.5, 0.5],"
        " image_std: [0.226, 0.226]}\nTRAIN: {color_jitter: 0.4, auto_augment: true}"
    )
    notes = load_config(tmp_path / "c.yaml", []).notes
    assert [note.split()[0] for note in notes] == ["TRAIN.color_jitter", "TRAIN.auto_augment"]
    assert all("no effect with MODEL.modality = 'flow'" in note for note in notes)

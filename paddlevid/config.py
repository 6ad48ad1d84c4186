"""Configuration: a .txt (the book's form) or .yaml file and overrides -> frozen dataclasses."""

import ast
import configparser
import dataclasses
import difflib
import math
import types
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path

import yaml

from paddlevid.data.sample import FRAME_KINDS
from paddlevid.files import TEXT_LIMIT, read_metadata, read_text


class ConfigError(ValueError):
    """A config cannot be used. The message names file, section, key, what it got and needs."""


class _Impossible(ValueError):
    """A value that has the right type but makes no sense; args are the key and what is needed."""


def _check(config: object, key: str, fits: bool, needs: str) -> None:
    if not fits:
        raise _Impossible(key, needs)


def _check_at_least(config: object, minimum: float, *keys: str) -> None:
    for key in keys:
        value = getattr(config, key)
        _check(config, key, value is None or value >= minimum, f"at least {minimum}")


def _check_one_of(config: object, key: str, *choices: object) -> None:
    needs = "one of " + ", ".join(map(repr, choices))
    _check(config, key, getattr(config, key) in choices, needs)


@dataclass(frozen=True)
class ModelConfig:
    """[MODEL]: the network, and how a video becomes its input."""

    name: str  # of create_model; or the book's TSN with num_layers
    num_classes: int = 0  # K; none where frames are predicted
    task: str = "classify"  # or "predict": the frames that follow, with convlstm
    # what the lists hold: pkl, jpg (folders of frames), mp4 = video (files), features (.npy); or
    # moving_mnist: sequences of digits that are made on the fly
    format: str = "pkl"
    num_layers: int = 50  # of the ResNet, where name is TSN
    # "flow": optical flow instead of frames, for TSN: seglen fields from each segment, stacked as
    # channels x1 y1 x2 y2 ... Folders of flow images are read; of all else it is computed, with the
    # three keys below, which train.py takes from what extract_flow.py noted beside its images
    modality: str = "rgb"
    flow_method: str = "dis"  # or "tvl1" (with opencv-contrib-python-headless), "farneback"
    flow_bound: float = 20.0  # largest component in pixels, levels 0 and 255
    flow_short_side: int = 256  # pixels of the frames it is computed from; 0: as they are
    arguments: dict = field(default_factory=dict)  # more arguments of create_model
    pretrained: str = ""  # "imagenet": start from Paddle's published weights of the trunk
    trunk: str = ""  # features: of which network, as features.json says it; "": of any
    trunk_weights: str = ""  # features: SHA-256 of its weights; train.py notes it; "": any
    grid: int = 1  # features: of maps averaged to grid x grid
    seg_num: int = 3  # S, segments of a video (dense, linspace: frames of the clip, with seglen 1)
    seglen: int = 1  # consecutive frames from each segment
    # or "book" (its own rule), "dense" (a window of frames), "linspace" (one of a fixed duration);
    # of the whole video "uniform", "end", "chapter" (seg_num frames), "every", "fps" (any number),
    # "scenes" (seg_num of each scene)
    sampling: str = "segments"
    interval: int = 1  # dense, linspace, every: every interval-th frame
    target_fps: float = 30.0  # linspace: the rate for which interval is meant; fps: the rate itself
    fixed_size: tuple[int, ...] = ()  # (height, width) to resize to, instead of the short side
    letterbox: bool = False  # fixed_size: keep the aspect ratio, between black bars
    # RGB, of values in 0 .. 1; flow: of x and y, as published [0.5, 0.5] and [0.226, 0.226]
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    # predict: seg_num frames of the past, and this many to be predicted; frames go from 0 to 1
    num_future: int = 10
    grey: bool = False  # predict: frames of one channel
    # moving_mnist: motion, size, num_digits, digit_size of MovingMNIST; digits: "sklearn", which
    # brings some along, "download" (MNIST itself) or a folder with MNIST's files
    moving_mnist: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        predicts = self.name == "convlstm"
        fits = self.task == ("predict" if predicts else "classify")
        _check(self, "task", fits, "'predict' with convlstm, 'classify' with all others")
        formats = ("pkl", "jpg", "mp4", "video", "features")
        _check_one_of(self, "format", *formats, *(["moving_mnist"] if predicts else []))
        kinds = ("segments", "book", "dense", "linspace", *FRAME_KINDS)
        _check_one_of(self, "sampling", *kinds)
        _check_one_of(self, "pretrained", "", "imagenet")
        _check_one_of(self, "num_layers", 18, 34, 50, 101, 152)
        _check(self, "num_classes", predicts or self.num_classes >= 1, "at least 1")
        _check_at_least(self, 1, "seg_num", "seglen", "interval", "grid", "num_future")
        _check(self, "target_fps", self.target_fps > 0, "frames a second, above 0")
        _check(
            self,
            "arguments",
            not {"name", "num_classes"} & set(self.arguments)
            and not (predicts and {"channels", "num_future"} & set(self.arguments)),
            "no name, num_classes, num_future and channels: [MODEL] itself says them",
        )
        _check(
            self,
            "fixed_size",
            len(self.fixed_size) in (0, 2) and min(self.fixed_size, default=1) > 0,
            "(height, width) in pixels, or nothing",
        )
        self._check_modality()
        many, of = (2, "two numbers {}, of x and y") if self.is_flow else (3, "three numbers {}")
        of += (
            " (divide by 255; as published {})"
            if self.is_flow
            else ", of R, G and B (divide by 255)"
        )
        mean, std = self.image_mean, self.image_std
        _check(
            self,
            "image_mean",
            len(mean) == many and 0 <= min(mean) <= max(mean) <= 1,
            of.format("from 0 to 1", "[0.5, 0.5]"),
        )
        _check(
            self,
            "image_std",
            len(std) == many and 0 < min(std) <= max(std) <= 1,
            of.format("above 0 and at most 1", "[0.226, 0.226]"),
        )

    def _check_modality(self) -> None:
        _check_one_of(self, "modality", "rgb", "flow")
        is_tsn = self.create_name.startswith("tsn_")
        _check(self, "modality", is_tsn or not self.is_flow, "'rgb': only TSN takes 'flow'")
        fits = self.sampling == "segments" or not self.is_flow
        _check(self, "sampling", fits, "'segments' with MODEL.modality = 'flow'")
        _check_one_of(self, "flow_method", "dis", "tvl1", "farneback")
        _check(self, "flow_bound", self.flow_bound > 0, "pixels, above 0")
        _check_at_least(self, 0, "flow_short_side")

    @property
    def is_flow(self) -> bool:
        """Whether it takes optical flow."""
        return self.modality == "flow"

    @property
    def create_name(self) -> str:
        """The name in create_model."""
        return f"tsn_r{self.num_layers}" if self.name.upper() == "TSN" else self.name


@dataclass(frozen=True)
class ReaderConfig:
    """[VALID], [TEST], [INFER]: a list and how it is read."""

    filelist: str = ""  # its paths are relative to its own folder
    num_sequences: int = 1000  # moving_mnist: without a filelist, which may be mnist_test_seq.npy
    batch_size: int = 1  # videos
    short_size: int = 240  # pixels of the short side after resizing
    target_size: int = 224  # pixels of the square that is cut out
    seg_num: int | None = None  # instead of the model's
    num_clips: int = 1  # clips of a video that are scored and averaged
    crops: int = 1  # views of a clip: centre; 3 along the longer side; 10 = corners, centre, flips
    num_reader_threads: int = 0  # loading processes; 0 = in the main one

    def __post_init__(self) -> None:
        _check_at_least(self, 1, "batch_size", "short_size", "target_size", "num_clips", "seg_num")
        _check_at_least(self, 0, "num_reader_threads", "num_sequences")
        _check_one_of(self, "crops", 1, 3, 10)


@dataclass(frozen=True)
class TrainConfig:
    """[TRAIN]: the training list, augmentation, optimisation and what a run keeps."""

    filelist: str = ""
    epoch: int = 45
    batch_size: int = 10  # videos in a forward pass
    accumulate: int = 1  # batches whose gradients add up to one step
    seg_num: int | None = None  # instead of the model's
    num_reader_threads: int = 0  # loading processes; 0 = in the main one
    max_bad_samples: float = 0.01  # share of unreadable clips above which the run stops
    read_timeout: float = 120.0  # seconds that reading a clip may take; a network drive may stall
    balance: str = ""  # classes of unlike size: "loss" weighs the rare ones up, "sampling" repeats
    num_sequences: int = 10000  # moving_mnist: of an epoch
    clips_per_video: int = 1  # predict: clips of a video in an epoch, each from anywhere in it
    augment: bool = True  # False: the frames and the centre crop that evaluation takes
    cache_features: bool = False  # freeze_trunk: run the trunk once, and train on what it gives
    # augmentation, one draw for all frames of a clip
    short_size: int = 240  # pixels of the short side after resizing
    jitter_scale: tuple[int, ...] = ()  # (low, high): a random short side, instead of short_size
    target_size: int = 224  # pixels of the square that is cut out
    crop: str = "multiscale"  # or "random": no change of scale; "resized": of any area and aspect
    crop_scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)  # of the short side
    crop_positions: int = 5  # or 13
    crop_area: tuple[float, ...] = (0.08, 1.0)  # resized: (least, largest) share of the frame
    crop_aspect: tuple[float, ...] = (0.75, 1.3333)  # resized: (least, largest) width to height
    flip: float = 0.5  # probability of mirroring
    no_flip_classes: tuple[str, ...] = ()  # names of classes whose mirror image is another class
    auto_augment: bool = False  # AutoAugment's changes of form and colour, found for ImageNet
    color_jitter: float = 0.0  # brightness, contrast, saturation: 1 - this .. 1 + this
    mixup: float = 0.0  # alpha of mixing two clips (0.2 to 0.8 are usual); 0 = off
    cutmix: float = 0.0  # alpha of pasting a box of another clip (1.0 is usual); 0 = off
    # optimisation
    loss: str = "mse"  # predict: or "l1", "l1_mse" (their sum)
    scheduled_sampling: int = 0  # predict, feedback "frame": steps with true frames, ever fewer
    picture_every: int = (
        500  # predict: steps from one picture of a prediction to the next; 0 = none
    )
    histogram_every: int = 0  # steps from one histogram of all weights and gradients, for VisualDL,
    # to the next; 0 = none
    draw_network: bool = False  # for VisualDL's page of graphs; takes seconds at the start
    optimizer: str = "momentum"  # or "adamw", "rmsprop"
    learning_rate: float = 0.01
    lr_policy: str = "multistep"  # or "constant", "cosine" (to 0), "one_cycle" (up and down)
    lr_steps: tuple[int, ...] = ()  # multistep: the epochs at which the rate changes
    learning_rate_decay: float = 0.1  # multistep: times this
    lr_per: str = "epoch"  # or "step": when the rate is set anew
    warmup_epochs: float = 0.0  # linear, from a tenth of the rate, step by step
    momentum: float = 0.9
    beta2: float = 0.999  # adamw: decay of the mean square; momentum is that of the mean
    nesterov: bool = False
    epsilon: float = 1e-7  # rmsprop: beside the root of the mean square
    l2_weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()  # what it leaves out, of "bias", "norm" and "embedding"
    bias_lr: float = 1.0  # times the rate, for biases (Caffe's networks: 2)
    trunk_lr: float = 1.0  # times the rate, for all but the classifier
    freeze_trunk: bool = False  # train the classifier alone; batch norms stay as they are
    layer_decay: float = 1.0  # transformers: times the rate, for each block below the classifier
    ema: float = 0.0  # decay of an average of the weights, which is evaluated and kept; 0 = off
    clip_norm: float = 0.0  # largest global norm of the gradients; 0 = no limit
    clip_value: float = 0.0  # then the largest size of each; 0 = no limit
    label_smoothing: float = 0.0
    frame_labels: bool = False  # lrcn, cnn_lstm: the label is that of every frame, not of the last
    amp: bool = False  # automatic mixed precision, on a GPU
    # the run
    use_gpu: bool = True  # where there is one
    seed: int = 0
    early_stop: int = 0  # epochs without a better validation result after which to stop; 0 = never
    keep_checkpoints: int = 2
    checkpoint_minutes: float = 30.0  # from one within an epoch to the next; 0: at its end only
    sync_bn: bool = False  # several processes: batch norms over the clips of all, on GPUs

    def __post_init__(self) -> None:
        _check_at_least(self, 1, "epoch", "batch_size", "accumulate", "seg_num", "short_size")
        _check_at_least(self, 1, "target_size", "keep_checkpoints", "num_sequences")
        _check_at_least(self, 1, "clips_per_video")
        _check_at_least(self, 0, "scheduled_sampling", "picture_every", "histogram_every")
        _check_at_least(
            self, 0, "num_reader_threads", "color_jitter", "learning_rate", "warmup_epochs",
            "l2_weight_decay", "clip_norm", "clip_value", "seed", "early_stop", "mixup", "cutmix",
            "bias_lr", "trunk_lr", "checkpoint_minutes",
        )  # fmt: skip
        _check(self, "seed", self.seed < 2**32, f"at most {2**32 - 1}")
        _check(self, "epsilon", self.epsilon > 0, "a number above 0")
        _check(self, "read_timeout", self.read_timeout > 0, "seconds, above 0")
        for key in ("flip", "max_bad_samples"):
            _check(self, key, 0 <= getattr(self, key) <= 1, "a share from 0 to 1")
        for key in ("momentum", "beta2", "label_smoothing", "ema"):
            _check(self, key, 0 <= getattr(self, key) < 1, "a number from 0 to below 1")
        _check_one_of(self, "crop", "multiscale", "random", "resized")
        for key, most in (("crop_area", 1), ("crop_aspect", 100)):
            low, high = getattr(self, key) if len(getattr(self, key)) == 2 else (0, 0)
            _check(self, key, 0 < low <= high <= most, f"(least, largest), above 0, at most {most}")
        _check_one_of(self, "crop_positions", 5, 13)
        _check_one_of(self, "optimizer", "momentum", "adamw", "rmsprop")
        _check_one_of(self, "lr_policy", "multistep", "constant", "cosine", "one_cycle")
        _check_one_of(self, "loss", "mse", "l1", "l1_mse")
        _check_one_of(self, "lr_per", "epoch", "step")
        _check_one_of(self, "balance", "", "loss", "sampling")
        _check(self, "layer_decay", 0 < self.layer_decay <= 1, "a factor above 0 and at most 1")
        kinds = ("bias", "norm", "embedding")
        _check(self, "no_decay", set(self.no_decay) <= set(kinds), f"some of {', '.join(kinds)}")
        low, high = self.jitter_scale if len(self.jitter_scale) == 2 else (0, 0)
        _check(
            self,
            "jitter_scale",
            not self.jitter_scale or 1 <= low <= high,
            "(low, high) in pixels of the short side, or nothing",
        )
        _check(
            self,
            "crop_scales",
            len(self.crop_scales) > 0 and 0 < min(self.crop_scales) <= max(self.crop_scales) <= 1,
            "shares of the short side, above 0 and at most 1",
        )
        _check(
            self,
            "lr_steps",
            list(self.lr_steps) == sorted(set(self.lr_steps)) and min(self.lr_steps, default=1) > 0,
            "epochs above 0 in rising order",
        )


@dataclass(frozen=True)
class Config:
    """A complete experiment. `notes` are lines for the user, about keys without effect."""

    model: ModelConfig
    train: TrainConfig
    valid: ReaderConfig
    test: ReaderConfig
    infer: ReaderConfig
    notes: tuple[str, ...] = field(default=(), compare=False)

    def to_dict(self) -> dict[str, dict]:
        """Sections of plain values, as they are written to a run's config.yaml."""
        return {name.upper(): _plain(dataclasses.asdict(getattr(self, name))) for name in SECTIONS}

    def recipe(self) -> dict[str, object]:
        """What runs are compared by: some keys always, and all others that are not as usual.

        A dot in a name would leave VisualDL's table empty.
        """
        found = {}
        for name in ("model", "train"):
            section = getattr(self, name)
            for key in dataclasses.fields(section):
                value, full = getattr(section, key.name), f"{name.upper()}/{key.name}"
                usual = key.default if key.default_factory is MISSING else key.default_factory()
                if full in _COMPARED or (value != usual and key.name not in _ELSEWHERE):
                    found[full] = _plain(value)
        return {key: found[key] for key in _COMPARED} | found


_COMPARED = (
    "MODEL/name", "MODEL/seg_num", "TRAIN/epoch", "TRAIN/batch_size", "TRAIN/optimizer",
    "TRAIN/learning_rate", "TRAIN/l2_weight_decay", "TRAIN/seed",
)  # fmt: skip
# What says where a run is and how it is watched, not what it learns.
_ELSEWHERE = (
    "filelist", "num_reader_threads", "read_timeout", "use_gpu", "keep_checkpoints",
    "checkpoint_minutes", "picture_every", "histogram_every", "draw_network",
)  # fmt: skip
SECTIONS = {
    "model": ModelConfig,
    "train": TrainConfig,
    "valid": ReaderConfig,
    "test": ReaderConfig,
    "infer": ReaderConfig,
}

# Keys of the book's configs that have no meaning here, and why.
IGNORED = {
    "buf_size": "loading processes read ahead by themselves",
    "total_videos": "the list file says how many there are",
    "num_gpus": "it uses one device",
    "enable_ce": "set TRAIN.seed",
}


def _plain(value: object) -> object:
    """The value with lists for its tuples, which YAML does not have."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a config file, and set `SECTION.key=value` overrides.

    A .safetensors of train.py or paddlevid.convert is read too: it carries its config.

    Raises ConfigError for a file that cannot be read, an unknown section or key, or a value of a
    wrong type or size.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    what = "weights" if suffix == ".safetensors" else "config"
    try:
        text = _text_of_weights(path) if suffix == ".safetensors" else read_text(path, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the {what} {path}: not a text") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the {what} {path}: {reason}") from error
    is_yaml = suffix in (".yaml", ".yml", ".safetensors")
    sections = _parse_yaml(text, path) if is_yaml else _parse_book(text, path)
    places = {(name, key): str(path) for name, section in sections.items() for key in section}
    for override in overrides:
        name, key, value = _parse_override(override)
        target = sections.setdefault(name, {})
        head, _, tail = key.partition(".")
        if tail:  # MODEL.arguments.dropout=0.5
            whole = target.get(head, {})
            target[head] = {**(whole if isinstance(whole, dict) else {}), tail: value}
        else:
            target[head] = value
        places[name, head] = f"-o {override}"
    return _build(sections, places, path)


def _text_of_weights(path: Path) -> str:
    try:
        text = read_metadata(path).get("config")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if text is None:
        raise ConfigError(
            f"{path} carries no config: give --config FILE, or convert it with "
            "python -m paddlevid.convert"
        )
    if len(text) > TEXT_LIMIT:
        raise ConfigError(f"{path}: its config has more than {TEXT_LIMIT:,} characters")
    return text


def _parse_book(text: str, path: Path) -> dict[str, dict[str, object]]:
    # A comment behind a value is left to literal_eval, which knows a # inside quotes.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    parser.optionxform = str
    try:
        parser.read_string(text, source=str(path))
    except configparser.DuplicateOptionError as error:
        where = f"{path}, line {error.lineno}: [{error.section}] {error.option}"
        raise ConfigError(f"{where} is set a second time") from error
    except configparser.DuplicateSectionError as error:
        where = f"{path}, line {error.lineno}: [{error.section}]"
        raise ConfigError(f"{where} begins a second time") from error
    except configparser.MissingSectionHeaderError as error:
        where = f"{path}, line {error.lineno}: {_show(error.line.strip())}"
        raise ConfigError(f"{where} needs a section above it, such as [MODEL]") from error
    except configparser.ParsingError as error:
        number = error.errors[0][0]
        line = text.split("\n")[number - 1]
        where = f"{path}, line {number}: {_show(line.strip())}"
        raise ConfigError(f"{where} needs the form key = value") from error
    sections: dict[str, dict[str, object]] = {}
    for name in parser.sections():
        _check_new(name, sections, path)
        section = sections[name.lower()] = {}
        for key, text_value in parser[name].items():
            try:
                section[key] = _literal(text_value)
            except ValueError as error:
                raise ConfigError(
                    f"{path}: [{name}] {key} = {_shorten(text_value)}: needs a Python literal: a "
                    'number, True, False, "text" or [a, list]'
                ) from error
    return sections


def _literal(text: str) -> object:
    """A Python literal; ValueError where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes in Windows paths
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"{_show(text)} is not a Python literal") from error


def _parse_yaml(text: str, path: Path) -> dict[str, dict[str, object]]:
    try:
        loader = _UniqueKeysLoader(text)  # a SafeLoader
        node = loader.get_single_node()
        if node is not None:
            _count_nodes(node, {})
        content = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(
        isinstance(section, dict | None) for section in content.values()
    ):
        raise ConfigError(f"{path}: needs the sections {', '.join(SECTIONS).upper()} with keys")
    sections: dict[str, dict[str, object]] = {}
    for name, section in content.items():
        _check_new(str(name), sections, path)
        sections[str(name).lower()] = {str(key): value for key, value in (section or {}).items()}
    return sections


_LONGEST_NUMBER = 40  # characters
_MAX_NODES = 100_000  # of a YAML text, with aliases counted as what they stand for


def _count_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Keys and values below and with a node; YAMLError where aliases make too many of them."""
    if id(node) not in known:
        known[id(node)] = _MAX_NODES  # until it is counted: it may contain itself
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in inside for part in pair]
        known[id(node)] = 1 + sum(_count_nodes(part, known) for part in inside)
        if known[id(node)] > _MAX_NODES:
            raise yaml.YAMLError(f"it has more than {_MAX_NODES:,} keys and values by its aliases")
    return known[id(node)]


class _UniqueKeysLoader(yaml.SafeLoader):
    """Refuses a key that is set twice, where YAML's own loader takes the last."""

    def construct_number(self, node: yaml.ScalarNode) -> object:
        """A number, or the text where YAML takes 1:30 for one to the base 60, or it is huge."""
        text = self.construct_scalar(node)
        if ":" in text or len(text) > _LONGEST_NUMBER:
            return text
        is_float = node.tag.endswith("float")
        return self.construct_yaml_float(node) if is_float else self.construct_yaml_int(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen = set()
        for key in keys:
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: {key.value} is set a second time")
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


for _tag in ("int", "float"):
    _UniqueKeysLoader.add_constructor(
        f"tag:yaml.org,2002:{_tag}", _UniqueKeysLoader.construct_number
    )


def _check_new(name: str, sections: Mapping[str, object], path: Path) -> None:
    if name.lower() in sections:
        raise ConfigError(f"{path}: [{name}] begins a second time")


def _parse_override(override: str) -> tuple[str, str, object]:
    target, equals, text = override.partition("=")
    name, dot, key = target.strip().partition(".")
    if not (equals and dot and key):
        raise ConfigError(f"-o {override}: needs SECTION.key=value, as in -o TRAIN.batch_size=4")
    try:
        value = _literal(text.strip())
    except ValueError:
        value = text.strip()
    return name.lower(), key, value


def _build(sections: Mapping[str, Mapping[str, object]], places: Mapping, path: Path) -> Config:
    for name in sections:
        if name not in SECTIONS:
            known = [section.upper() for section in SECTIONS]
            raise ConfigError(f"{path}: unknown section {name.upper()}{_near(name.upper(), known)}")
    built, notes = {}, []
    for name, kind in SECTIONS.items():
        values = {}
        for key, value in sections.get(name, {}).items():
            where = f"{places[name, key]}: [{name.upper()}] {key} = {_show(value)}"
            if key in IGNORED:
                notes.append(f"{name.upper()}.{key} is ignored: {IGNORED[key]}")
            else:
                values[key] = _typed(kind, key, value, where)
        try:
            built[name] = kind(**values)
        except _Impossible as error:
            key, needs = error.args
            where = places.get((name, key), str(path))
            got = values.get(key, _default(kind, key))
            raise ConfigError(
                f"{where}: [{name.upper()}] {key} = {_show(got)}: needs {needs}"
            ) from None
        except TypeError as error:
            missing = [f.name for f in dataclasses.fields(kind) if _is_required(f, values)]
            raise ConfigError(f"{path}: [{name.upper()}] lacks {' and '.join(missing)}") from error
    for name in SECTIONS.keys() - {"model"}:
        if name in sections:
            _check_crop(built, name, places.get((name, "target_size"), str(path)))
        else:  # its usual size may be too large for frames of MODEL.fixed_size
            room = _room(built, name)[0]
            if built[name].target_size > room:
                size = min(room, built["train"].target_size)
                built[name] = dataclasses.replace(built[name], target_size=size)
    notes += [
        f"{name.upper()}.{key} has no effect {why}"
        for name, key, why in _without_effect(built)
        if getattr(built[name], key) != _default(SECTIONS[name], key)
        or (key == "learning_rate_decay" and key in sections.get(name, {}))
    ]
    return Config(**built, notes=tuple(notes))


def _room(built: Mapping, name: str) -> tuple[float, str]:
    """How large the square of a section may be, and what says so."""
    section, model = built[name], built["model"]
    fixed_size = model.fixed_size
    if model.format in ("features", "moving_mnist") or (model.task == "predict" and fixed_size):
        return math.inf, ""  # whole frames
    if getattr(section, "crop", "") in ("multiscale", "resized"):
        return math.inf, ""
    jitter_scale = getattr(section, "jitter_scale", ())
    room, limit = section.short_size, f"short_size = {section.short_size}"
    if jitter_scale:
        room, limit = jitter_scale[0], f"the lower jitter_scale, {jitter_scale[0]}"
    if fixed_size:
        room, limit = min(fixed_size), f"MODEL.fixed_size = {fixed_size}"
    return room, limit


def _check_crop(built: Mapping, name: str, where: str) -> None:
    """ConfigError where the square of a section does not fit into its resized frames."""
    section, (room, limit) = built[name], _room(built, name)
    if section.target_size > room:
        raise ConfigError(
            f"{where}: [{name.upper()}] target_size = {section.target_size}: needs at most {limit}"
        )


def _without_effect(built: Mapping) -> Iterator[tuple[str, str, str]]:
    """Keys that mean nothing beside others, as (section, key, why)."""
    model, train = built["model"], built["train"]
    if model.name.upper() != "TSN":
        yield "model", "num_layers", "as MODEL.name says which network it is"
    for key in ("flow_method", "flow_bound", "flow_short_side"):
        if not model.is_flow:
            yield "model", key, "without MODEL.modality = 'flow'"
    if model.is_flow:
        for key in ("color_jitter", "auto_augment"):
            yield "train", key, "with MODEL.modality = 'flow'"
    if model.format != "features":
        for key in ("trunk", "trunk_weights", "grid"):
            yield "model", key, "without MODEL.format = 'features'"
    if model.sampling not in ("dense", "linspace", "every"):
        yield "model", "interval", "without MODEL.sampling = 'dense', 'linspace' or 'every'"
    if model.sampling not in ("linspace", "fps"):
        yield "model", "target_fps", "without MODEL.sampling = 'linspace' or 'fps'"
    if not model.fixed_size:
        yield "model", "letterbox", "without MODEL.fixed_size"
    if model.fixed_size:
        for name in ("train", "valid", "test", "infer"):
            yield name, "short_size", "with MODEL.fixed_size"
        yield "train", "jitter_scale", "with MODEL.fixed_size"
    elif train.jitter_scale:
        yield "train", "short_size", "with TRAIN.jitter_scale"
    if not train.augment:
        for key in ("crop", "flip", "color_jitter", "jitter_scale", "auto_augment"):
            yield "train", key, "with TRAIN.augment = False"
    if not train.flip:
        yield "train", "no_flip_classes", "with TRAIN.flip = 0"
    if not train.l2_weight_decay:
        yield "train", "no_decay", "without TRAIN.l2_weight_decay"
    if train.freeze_trunk:
        for key in ("trunk_lr", "layer_decay"):
            yield "train", key, "with TRAIN.freeze_trunk"
    if train.crop != "multiscale":
        yield "train", "crop_scales", f"with TRAIN.crop = {train.crop!r}"
        yield "train", "crop_positions", f"with TRAIN.crop = {train.crop!r}"
    if train.crop != "resized":
        yield "train", "crop_area", f"with TRAIN.crop = {train.crop!r}"
        yield "train", "crop_aspect", f"with TRAIN.crop = {train.crop!r}"
    yield from _without_effect_of_task(built)
    if train.optimizer != "adamw":
        yield "train", "beta2", f"with TRAIN.optimizer = {train.optimizer!r}"
    if train.optimizer != "momentum":
        yield "train", "nesterov", f"with TRAIN.optimizer = {train.optimizer!r}"
    if train.optimizer != "rmsprop":
        yield "train", "epsilon", f"with TRAIN.optimizer = {train.optimizer!r}"
    if train.lr_policy != "multistep":
        yield "train", "lr_steps", f"with TRAIN.lr_policy = {train.lr_policy!r}"
    elif not train.lr_steps:
        why = "without TRAIN.lr_steps, the epochs at which the rate decays: it stays as it is"
        yield "train", "learning_rate_decay", why
    if not built["valid"].filelist:
        yield "train", "early_stop", "without VALID.filelist"


def _typed(kind: type, key: str, value: object, where: str) -> object:
    """The value as the field's type; ConfigError where it is not one."""
    hints = typing.get_type_hints(kind)
    if key not in hints:
        raise ConfigError(f"{where}: unknown key{_near(key, [*hints, *IGNORED])}")
    try:
        return _convert(hints[key], value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{where}: needs {_describe(hints[key])}") from None


def _convert(hint: object, value: object) -> object:
    if isinstance(hint, types.UnionType):  # int | None
        return None if value is None else _convert(typing.get_args(hint)[0], value)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError(value)
        return tuple(_convert(typing.get_args(hint)[0], entry) for entry in value)
    if hint is bool:
        if str(value).lower() not in ("true", "false"):
            raise TypeError(value)
        return str(value).lower() == "true"
    if hint is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise TypeError(value)
        return dict(value)
    if isinstance(value, bool) or (hint is str and not isinstance(value, str)):
        raise TypeError(value)
    if hint is int and not isinstance(value, int):
        number = float(value)  # 1e3, and YAML's '1e3'
        if number != int(number):
            raise ValueError(value)
        return int(number)
    if hint is float and not math.isfinite(float(value)):
        raise ValueError(value)
    return hint(value)


def _describe(hint: object) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
    if isinstance(hint, types.UnionType):
        return _describe(typing.get_args(hint)[0]) + ", or None"
    if typing.get_origin(hint) is tuple:
        kind = {int: "whole numbers", float: "numbers", str: "texts"}[typing.get_args(hint)[0]]
        return f"a list of {kind}"
    return names.get(hint, 'a dictionary, such as {"dropout": 0.5}')


def _show(value: object) -> str:
    return _shorten(repr(value))


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(known)}"


def _default(kind: type, key: str) -> object:
    entry = next(entry for entry in dataclasses.fields(kind) if entry.name == key)
    has_value = entry.default_factory is dataclasses.MISSING
    return entry.default if has_value else entry.default_factory()


def _is_required(entry: dataclasses.Field, values: Mapping[str, object]) -> bool:
    has_default = (
        entry.default is not dataclasses.MISSING or entry.default_factory is not dataclasses.MISSING
    )
    return not has_default and entry.name not in values


def _without_effect_of_task(built: Mapping) -> Iterator[tuple[str, str, str]]:
    """Keys for another task, or another source of clips."""
    model, train, readers = built["model"], built["train"], ("valid", "test", "infer")
    yield "infer", "num_sequences", "as infer.py predicts what it is given"
    predicts = model.task == "predict"
    for section, keys in {
        "model": ("num_future", "grey"),
        "train": ("loss", "scheduled_sampling", "picture_every", "clips_per_video"),
    }.items():
        if not predicts:
            yield from ((section, key, "without MODEL.task = 'predict'") for key in keys)
    if model.format != "moving_mnist":
        why = "without MODEL.format = 'moving_mnist'"
        yield "model", "moving_mnist", why
        yield from ((name, "num_sequences", why) for name in ("train", "valid", "test"))
    else:
        why = "with MODEL.format = 'moving_mnist'"
        for key in ("short_size", "target_size", "flip", "augment", "clips_per_video"):
            yield "train", key, why
        yield from (("model", key, why) for key in ("fixed_size", "interval", "grey"))
        yield from (
            (name, "num_sequences", f"with {name.upper()}.filelist")
            for name in ("train", "valid", "test")
            if built[name].filelist
        )
    if predicts:
        if model.arguments.get("feedback") != "frame":
            why = "without MODEL.arguments.feedback = 'frame'"
            yield "train", "scheduled_sampling", why
        if model.fixed_size:
            for name in ("train", *readers):
                yield name, "target_size", "with MODEL.fixed_size and MODEL.task = 'predict'"
        why = "with MODEL.task = 'predict'"
        for key in (
            "mixup", "cutmix", "label_smoothing", "balance", "frame_labels", "auto_augment",
            "color_jitter", "crop", "jitter_scale", "seg_num",
        ):  # fmt: skip
            yield "train", key, why
        for key in ("num_classes", "image_mean", "image_std", "sampling", "seglen"):
            yield "model", key, why
        for name in readers:
            yield from ((name, key, why) for key in ("num_clips", "crops", "seg_num"))
        if not train.augment:
            yield "train", "clips_per_video", "with TRAIN.augment = False"

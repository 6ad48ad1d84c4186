"""Keys: all that a config may say, its usual values and what is possible."""

import dataclasses
from dataclasses import dataclass, field

from paddlevid.data.sample import FRAME_KINDS


class Impossible(ValueError):
    """A value that has the right type but makes no sense; args are the key and what is needed."""


def _check(config: object, key: str, fits: bool, needs: str) -> None:
    if not fits:
        raise Impossible(key, needs)


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


def default(kind: type, key: str) -> object:
    """The usual value of a key of a section; MISSING for one that must be given."""
    entry = next(entry for entry in dataclasses.fields(kind) if entry.name == key)
    has_value = entry.default_factory is dataclasses.MISSING
    return entry.default if has_value else entry.default_factory()

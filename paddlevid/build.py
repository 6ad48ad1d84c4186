"""Building: a config -> loaders, network, loss, optimiser; nothing below it reads the config."""

import difflib
import functools
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import nn
from tqdm import tqdm

from paddlevid import distributed
from paddlevid.config import Config, ConfigError, ReaderConfig, TrainConfig
from paddlevid.convert.conversion import convert
from paddlevid.data.augment import AutoAugment
from paddlevid.data.dataset import (
    HMDB51Dataset,
    Item,
    ListError,
    Sample,
    VideoDataset,
    check_format,
    read_list,
)
from paddlevid.data.decode import DecodeError, VideoDecoder, is_pickled
from paddlevid.data.features import CachedFeatures, FeatureDataset, Manifest, read_manifest
from paddlevid.data.flow import Flow, FlowDecoder, check_method, read_note
from paddlevid.data.loader import Dataset, Loader
from paddlevid.data.mix import Mix
from paddlevid.data.moving_mnist import (
    FixedSequences,
    MovingMNIST,
    find_idx,
    read_idx,
    sklearn_digits,
)
from paddlevid.data.sample import (
    FRAME_KINDS,
    BookSampler,
    DenseSampler,
    FrameSampler,
    LinspaceSampler,
    Sampler,
    SegmentSampler,
    SequenceSampler,
)
from paddlevid.data.scenes import check_scenedetect
from paddlevid.data.transform import (
    CenterCrop,
    ColorJitter,
    Compose,
    JitterScale,
    Letterbox,
    MultiScaleCrop,
    Normalize,
    NormalizeFlow,
    RandomCrop,
    RandomFlip,
    Resize,
    ResizedCrop,
    ResizeShortSide,
    TenCrops,
    ToUnit,
    UniformCrop,
)
from paddlevid.files import read_metadata, sha256_of
from paddlevid.frame_metrics import SMALLEST
from paddlevid.losses import CrossEntropy, FrameError
from paddlevid.models import ECO, MoViNet, MoViNetStream, create_model
from paddlevid.optim import Schedule, create_optimizer, group_parameters
from paddlevid.predictor import Predictor
from paddlevid.stream import ECOStream, StateStream, Stepper, Stream, WindowStream
from paddlevid.tasks import Classification, FramePrediction, Task
from paddlevid.weights import WeightsError, download, load_weights, read_weights

_BATCH_VALUES = 1 << 24  # pixels of all views of a batch; more fill the memory
_CROPS = {1: CenterCrop, 3: UniformCrop, 10: TenCrops}


def build_sampler(config: Config, section: TrainConfig | ReaderConfig) -> Sampler:
    """How frames are chosen from a video."""
    model = config.model
    seg_num = section.seg_num or model.seg_num
    if model.sampling == "dense":
        return DenseSampler(seg_num * model.seglen, model.interval)
    if model.sampling == "linspace":
        return LinspaceSampler(seg_num * model.seglen, model.interval, model.target_fps)
    recurrent = model.name.startswith(("lrcn", "cnn_lstm"))
    if model.sampling in ("chapter", "every", "fps", "scenes") and not recurrent:
        raise ConfigError(
            f"MODEL.sampling = {model.sampling!r} gives clips of unlike length, for lrcn and "
            "cnn_lstm alone: take 'uniform'"
        )
    if model.sampling == "scenes":
        check_scenedetect()
    if model.sampling in FRAME_KINDS:
        numbers = {"every": model.interval, "fps": model.target_fps}
        return FrameSampler(model.sampling, numbers.get(model.sampling, seg_num))
    return (BookSampler if model.sampling == "book" else SegmentSampler)(seg_num, model.seglen)


def _resize(config: Config, short_size: int) -> Resize | Letterbox | ResizeShortSide:
    if config.model.fixed_size:
        if not config.model.letterbox:
            return Resize(*config.model.fixed_size)
        return Letterbox(*config.model.fixed_size, fill=128 if config.model.is_flow else 0)
    return ResizeShortSide(short_size)


def _normalize(config: Config) -> Normalize | NormalizeFlow:
    model = config.model
    if model.is_flow:
        return NormalizeFlow(model.image_mean, model.image_std, model.seglen)
    return Normalize(model.image_mean, model.image_std)


def _decoder(config: Config) -> VideoDecoder | FlowDecoder:
    """What reads clips: their frames, or optical flow."""
    model = config.model
    if not model.is_flow:
        return VideoDecoder()
    try:
        check_method(model.flow_method)
    except ValueError as error:
        raise ConfigError(f"MODEL.flow_method = {model.flow_method!r}: {error}") from error
    return FlowDecoder(_flow(config))


def _flow(config: Config) -> Flow:
    model = config.model
    return Flow(model.flow_method, model.flow_bound, model.flow_short_side)


def build_train_transform(config: Config) -> Compose:
    """Random crop, flip and colours."""
    train = config.train
    if not train.augment:
        return Compose(
            [_resize(config, train.short_size)],
            _normalize(config),
            crops=CenterCrop(train.target_size),
        )
    if train.crop == "multiscale":
        crop = MultiScaleCrop(train.target_size, train.crop_scales, train.crop_positions)
    elif train.crop == "resized":
        crop = ResizedCrop(train.target_size, train.crop_area, train.crop_aspect)
    else:
        crop = RandomCrop(train.target_size)
    resize = _resize(config, train.short_size)
    if train.jitter_scale and not config.model.fixed_size:
        resize = JitterScale(*train.jitter_scale)
    steps = [resize, crop]
    if train.flip:
        steps.append(RandomFlip(train.flip, config.model.is_flow))
    if train.auto_augment and not config.model.is_flow:
        steps.append(AutoAugment())
    if train.color_jitter and not config.model.is_flow:
        steps.append(ColorJitter(train.color_jitter))
    return Compose(steps, _normalize(config))


def build_test_transform(config: Config, reader: ReaderConfig) -> Compose:
    """Fixed crops; the whole frame for a trunk, as features are of whole frames."""
    if config.model.format == "features":
        size = config.model.fixed_size or (reader.target_size,) * 2
        return Compose([Resize(*size)], Normalize(config.model.image_mean, config.model.image_std))
    crops = _CROPS[reader.crops](reader.target_size)
    if reader.crops == 10:
        crops = replace(crops, of_flow=config.model.is_flow)
    return Compose([_resize(config, reader.short_size)], _normalize(config), crops=crops)


def read_split(config: Config, name: str) -> Sequence[Sample]:
    """The samples of a section's list; where there is none, how to make one."""
    list_file = getattr(config, name).filelist
    if not list_file:
        raise ConfigError(f"{name.upper()}.filelist is not set: it names the list of clips to read")
    if not Path(list_file).exists():
        raise ListError(
            f"there is no {list_file}, which {name.upper()}.filelist names.\n"
            "  the demo's data:    make demo, make demo-order\n"
            "  your own videos:    --data FOLDER, with a folder of videos for each class\n"
            "  HMDB51, UCF101:     data_tools/data_list_gener.py, see README.md\n"
            f"  other lists:        -o {name.upper()}.filelist=FILE"
        )
    samples = read_list(list_file)
    check_format(samples, config.model.format)
    return samples


def _dataset_class(samples: Sequence[Sample]) -> type[VideoDataset]:
    """Only an HMDB51Dataset looks for labels inside .pkl files."""
    return HMDB51Dataset if any(is_pickled(sample.path) for sample in samples) else VideoDataset


def num_features(config: Config) -> int:
    """D that the network takes."""
    return config.model.arguments.get("features", 2048)


def check_inputs(config: Config) -> None:
    """Raise ConfigError where the network takes features and the lists hold clips, or otherwise."""
    model = config.model
    if (model.name == "cnn_lstm") != (model.format == "features"):
        what = "takes features" if model.name == "cnn_lstm" else "takes clips, not features"
        raise ConfigError(
            f"MODEL.format = {model.format!r}: {model.create_name} {what}; "
            "data_tools/extract_features.py makes features of videos"
        )
    if model.format == "features" and config.train.cutmix:
        raise ConfigError("TRAIN.cutmix cuts frames: with features set it to 0")


def note_features(config: Config) -> Config:
    """The config with the trunk and size of the training list's features, for later predictions.

    Without MODEL.format = "features" the config as it is. `build_train_loader` has checked them.
    """
    if config.model.format != "features":
        return config
    manifest = read_manifest(Path(config.train.filelist).parent)
    model = replace(
        config.model,
        trunk=manifest.trunk,
        trunk_weights=manifest.weights,
        fixed_size=manifest.size,
    )
    return replace(config, model=model)


def note_flow(config: Config) -> Config:
    """The config with how the training list's flow was extracted, for later predictions of videos.

    As it is without MODEL.modality = "flow", or without a note of extract_flow.py.
    """
    if not (config.model.is_flow and config.train.filelist):
        return config
    noted = _noted_flow(read_split(config, "train"))
    if noted is None:
        return config
    method, bound, short_side = noted.method, noted.bound, noted.short_side
    model = replace(config.model, flow_method=method, flow_bound=bound, flow_short_side=short_side)
    return replace(config, model=model)


def _noted_flow(samples: Sequence[Sample]) -> Flow | None:
    """What extract_flow.py noted beside the first clip that is there."""
    first = next((sample.path for sample in samples if sample.path.is_dir()), None)
    try:
        return first and read_note(first)
    except ValueError as error:
        raise ListError(str(error)) from error


def check_flow(config: Config, samples: Sequence[Sample]) -> None:
    """ConfigError where a list's flow was extracted in another way than that of the training."""
    noted = _noted_flow(samples) if config.model.is_flow else None
    if noted not in (None, _flow(config)):
        raise ConfigError(
            f"{samples[0].place or samples[0].path}: its flow was extracted with {noted}, but the "
            f"network saw {_flow(config)}: extract it anew (data_tools/extract_flow.py)"
        )


def check_features(config: Config, folder: Path) -> Manifest:
    """The manifest of a folder of features; ConfigError where it is not what the config wants."""
    model, manifest = config.model, read_manifest(folder)
    wanted = {
        "sampling": str(build_sampler(config, config.train)),
        "grid": model.grid,
        "mean": model.image_mean,
        "std": model.image_std,
        "features": num_features(config),
    }
    given = {"trunk": model.trunk, "weights": model.trunk_weights, "size": model.fixed_size}
    wanted |= {key: value for key, value in given.items() if value}
    if unlike := manifest.differences(wanted):
        raise ConfigError(
            f"the features in {folder} do not match the config: {'; '.join(unlike)}. Extract them "
            "anew into another folder (data_tools/extract_features.py), or change the config: "
            "MODEL.trunk, trunk_weights, fixed_size, image_mean, image_std, sampling, grid, "
            "arguments.features"
        )
    return manifest


def has_clips(config: Config, name: str) -> bool:
    """Whether a section names a list, or its clips are made."""
    section = getattr(config, name)
    made = config.model.format == "moving_mnist" and section.num_sequences > 0
    return bool(section.filelist) or made


def _frames_dataset(config: Config, name: str, reader: ReaderConfig | None = None) -> Dataset:
    """Clips of the past and the future, for a network that predicts frames.

    `name`: whose they are; `reader`: how evaluation reads them, None in training.
    """
    model, filelist = config.model, getattr(config, name).filelist
    section = reader or config.train
    _check_frame_size(config, section)
    if not has_clips(config, name):
        what = "filelist or num_sequences" if model.format == "moving_mnist" else "filelist"
        raise ConfigError(f"[{name.upper()}] has no clips: set its {what}")
    num_frames = model.seg_num + model.num_future
    if model.format == "moving_mnist":
        if filelist:
            return FixedSequences(Path(filelist), num_frames)
        arguments = dict(model.moving_mnist)
        known = ("digits", "motion", "size", "num_digits", "digit_size")
        if unknown := [key for key in arguments if key not in known]:
            raise ConfigError(
                f"MODEL.moving_mnist has no {unknown[0]!r}; there are {', '.join(known)}"
            )
        digits = _read_digits(str(arguments.pop("digits", "sklearn")), name == "train")
        # Other sequences in each section, and for all runs the same to be judged by.
        seed = config.train.seed if name == "train" else {"valid": 1, "test": 2}[name]
        try:
            return MovingMNIST(
                digits, section.num_sequences, num_frames, train=reader is None, seed=seed,
                **arguments,
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(f"MODEL.moving_mnist = {model.moving_mnist}: {error}") from error
    samples = read_split(config, name)
    is_random = reader is None and config.train.augment
    return VideoDataset(
        samples * (config.train.clips_per_video if is_random else 1),
        SequenceSampler(num_frames, model.interval),
        build_frames_transform(config, section, is_random),
        train=is_random,
        seed=config.train.seed,
    )


def _check_frame_size(config: Config, section: TrainConfig | ReaderConfig) -> None:
    """ConfigError for frames that the network or its evaluation cannot take."""
    model = config.model
    height, width = model.fixed_size or (section.target_size,) * 2
    if model.format == "moving_mnist":
        height = width = _digits_frame(config)
    frames = f"frames of {width}x{height} pixels"
    if min(height, width) < SMALLEST:
        raise ConfigError(f"{frames}: SSIM needs {SMALLEST} a side")
    patch = model.arguments.get("patch_size", 1)
    if height % patch or width % patch:
        raise ConfigError(f"{frames} cannot be cut into patches of patch_size = {patch}")
    peephole = [model.arguments.get(f"peephole_{side}", 0) for side in ("height", "width")]
    if any(peephole) and peephole != [height, width]:
        raise ConfigError(f"{frames}, but the peepholes are for {peephole[1]}x{peephole[0]}")


def _digits_frame(config: Config) -> int:
    """Pixels of a side of MovingMNIST's frames."""
    return config.model.moving_mnist.get("size", 64)


def _read_digits(source: str, is_train: bool) -> NDArray[np.uint8]:
    if source == "sklearn":
        return sklearn_digits(is_train)
    if source == "download":
        mode = "train" if is_train else "test"
        try:
            mnist = paddle.vision.datasets.MNIST(mode=mode, download=True)
        except (RuntimeError, OSError) as error:
            raise ListError(
                f"MNIST cannot be downloaded ({error}): name a folder with its files in "
                "MODEL.moving_mnist.digits, or take 'sklearn'"
            ) from error
        return read_idx(Path(mnist.image_path))
    return read_idx(find_idx(Path(source), is_train))


def build_frames_transform(
    config: Config, section: TrainConfig | ReaderConfig, augment: bool = False
) -> Compose:
    """Frames of MODEL.fixed_size, or a square of target_size: at random where `augment`."""
    model = config.model
    if model.format == "moving_mnist":  # a network of digits that is to see videos
        size = _digits_frame(config)
        return Compose([Resize(size, size)], ToUnit(grey=True))
    steps, crops = [_resize(config, section.short_size)], None
    if not model.fixed_size and augment:
        steps.append(RandomCrop(section.target_size))
    elif not model.fixed_size:
        crops = CenterCrop(section.target_size)
    if augment and config.train.flip:
        steps.append(RandomFlip(config.train.flip))
    return Compose(steps, ToUnit(model.grey), crops)


def _loader(dataset: Dataset, batch_size: int, **options: object) -> Loader:
    """A loader of this rank's clips."""
    rank, num_ranks = distributed.rank(), distributed.num_ranks()
    return Loader(dataset, batch_size, rank=rank, num_ranks=num_ranks, **options)


def build_past_loader(config: Config, samples: Sequence[Sample]) -> Loader:
    """The last frames of videos, as many as the network reads."""
    model = config.model
    dataset = VideoDataset(
        samples,
        SequenceSampler(model.seg_num, model.interval, at_end=True),
        build_frames_transform(config, config.infer),
    )
    return _loader(
        dataset,
        1,
        num_workers=config.infer.num_reader_threads,
        max_bad_samples=1.0,
        timeout=config.train.read_timeout,
    )


def build_train_loader(config: Config, classes: Sequence[str]) -> Loader:
    """The training clips, shuffled and augmented; `classes` are the names of the labels."""
    train, predicts = config.train, config.model.task == "predict"
    dataset = _frames_dataset(config, "train") if predicts else _labelled_dataset(config, classes)
    weights = None
    if train.balance == "sampling" and not predicts:
        labels = read_labels(dataset)
        counts = np.bincount(labels[labels >= 0], minlength=config.model.num_classes)
        # A clip without a label is drawn now and then, to be counted, but not as often as a class.
        weights = np.where(labels < 0, 1 / len(labels), 1 / np.maximum(counts, 1)[labels])
    return _loader(
        dataset,
        train.batch_size,
        shuffle=True,
        weights=weights,
        seed=train.seed,
        num_workers=train.num_reader_threads,
        max_bad_samples=train.max_bad_samples,
        timeout=train.read_timeout,
    )


def _labelled_dataset(config: Config, classes: Sequence[str]) -> VideoDataset | FeatureDataset:
    """The training clips, or features of them, with the labels of classes."""
    train = config.train
    check_inputs(config)
    samples = read_split(config, "train")
    if config.model.format == "features":
        check_features(config, Path(train.filelist).parent)
        return FeatureDataset(samples, num_features(config), config.model.num_classes)
    return _dataset_class(samples)(
        samples,
        build_sampler(config, train),
        build_train_transform(config),
        decoder=_decoder(config),
        num_classes=config.model.num_classes,
        train=train.augment,
        seed=train.seed,
        no_flip=_no_flip_labels(config, classes),
    )


def _no_flip_labels(config: Config, classes: Sequence[str]) -> list[int]:
    names = config.train.no_flip_classes
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=3) or list(classes)[:10]
            raise ConfigError(
                f"TRAIN.no_flip_classes names {name!r}, which is no class; did you mean "
                f"{', '.join(near)}?"
            )
    return [classes.index(name) for name in names]


def read_labels(dataset: VideoDataset | FeatureDataset) -> NDArray[np.int64]:
    """The label of each clip of a data set: (N,), -1 where its .pkl cannot be read."""

    def labels() -> Iterator[int]:
        for sample in tqdm(dataset.samples, "reading labels", leave=False, disable=None):
            try:
                label = dataset.label_of(sample)
            except DecodeError:
                label = None
            yield -1 if label is None else label

    return np.fromiter(labels(), np.int64, len(dataset))


def describe_list(loader: Loader) -> str:
    """The number of a loader's clips, and a sum that changes with their names, labels or order."""
    samples, total = loader.dataset.samples, 0
    for sample in samples:
        line = f"{sample.path.name} {sample.label}\n"
        total = zlib.crc32(line.encode("utf-8", "replace"), total)
    return f"{len(samples)} clips ({total:08x})"


def build_test_loader(config: Config, split: str) -> Loader:
    """The clips of the valid, test or infer list, or of the training list, as evaluation sees them.

    The training list is read as [TEST] says.
    """
    reader = config.test if split == "train" else getattr(config, split)
    if config.model.task == "predict":
        return _loader(
            _frames_dataset(config, split, reader),
            reader.batch_size,
            num_workers=reader.num_reader_threads,
            max_bad_samples=config.train.max_bad_samples,
            timeout=config.train.read_timeout,
        )
    samples = read_split(config, split)
    if config.model.format == "features":
        check_features(config, Path(getattr(config, split).filelist).parent)
    return build_reader(config, reader, samples)


def build_reader(
    config: Config, reader: ReaderConfig, samples: Sequence[Sample], labelled: bool = True
) -> Loader:
    """A loader of these samples, in their order and without random draws."""
    if config.model.sampling in ("book", *FRAME_KINDS) and reader.num_clips > 1:
        raise ConfigError(
            f"num_clips = {reader.num_clips}: MODEL.sampling = {config.model.sampling!r} knows a "
            "single clip of a video; set MODEL.sampling = 'segments'"
        )
    if config.train.no_flip_classes and reader.crops == 10:
        raise ConfigError(
            "crops = 10 scores mirrored clips too, but TRAIN.no_flip_classes says that a mirror "
            "image can be another class: set crops to 1 or 3"
        )
    check_flow(config, samples)
    num_classes = config.model.num_classes if labelled else None
    # Many views of a clip, as TSN's 10 crops of 25 segments, are 150 MB, of flow 500.
    frames = (reader.seg_num or config.model.seg_num) * config.model.seglen
    views = reader.crops * reader.num_clips * frames * reader.target_size**2
    batch_size = min(reader.batch_size, max(_BATCH_VALUES // views, 1))
    if samples and all(sample.path.suffix == ".npy" for sample in samples):
        dataset = FeatureDataset(samples, num_features(config), num_classes)
    else:
        dataset = _dataset_class(samples)(
            samples,
            build_sampler(config, reader),
            build_test_transform(config, reader),
            decoder=_decoder(config),
            num_classes=num_classes,
            num_clips=reader.num_clips,
        )
    return _loader(
        dataset,
        batch_size,
        num_workers=reader.num_reader_threads,
        max_bad_samples=config.train.max_bad_samples if labelled else 1.0,
        timeout=config.train.read_timeout,
    )


def build_streams(
    config: Config, predictor: Predictor, number: int, hop: int, memory: int = 0
) -> list[Stream]:
    """So many streams for a network, as its kind has them.

    The scores come every `hop` frames; `memory` is for a MoViNetStream, see StateStream.
    """
    if config.model.is_flow:
        raise ConfigError("--stream gives frames, but MODEL.modality is 'flow'")
    transform = build_test_transform(config, config.infer)
    num_frames = (config.infer.seg_num or config.model.seg_num) * config.model.seglen
    if isinstance(predictor.network, MoViNetStream):
        stepper = Stepper(predictor)
        return [StateStream(stepper, transform, memory) for _ in range(number)]
    if isinstance(predictor.network, ECO):
        return [ECOStream(predictor, num_frames, transform) for _ in range(number)]
    return [WindowStream(predictor, num_frames, transform, hop) for _ in range(number)]


def build_model(
    config: Config, pretrain: Path | None = None, *, fresh: bool = False
) -> tuple[nn.Layer, list[str]]:
    """The network, and lines for the user about the weights it starts from.

    Fresh weights depend on TRAIN.seed. `pretrain` is a file of weights: of this network, whose
    classifier is left out where it has another number of classes, or of its ImageNet trunk.
    `fresh`: load nothing, as all weights are set afterwards.
    """
    paddle.seed(config.train.seed)
    model_config = config.model
    shape: dict = {"num_classes": model_config.num_classes}
    if model_config.task == "predict":
        grey = model_config.grey or model_config.format == "moving_mnist"
        shape = {"channels": 1 if grey else 3, "num_future": model_config.num_future}
    channels = 2 * model_config.seglen if model_config.is_flow else 3
    if model_config.is_flow:
        shape["in_channels"] = channels
    arguments = dict(model_config.arguments)
    if arguments.pop("in_channels", channels) != channels:
        what = "fields of flow" if model_config.is_flow else "RGB frames"
        raise ConfigError(
            f"MODEL.arguments in_channels: the reader gives {what}, so it needs {channels}"
        )
    model = create_model(model_config.create_name, **shape, **arguments)
    if config.train.frame_labels and not hasattr(model, "frame_logits"):
        raise ConfigError(
            f"TRAIN.frame_labels: {model_config.create_name} says nothing of single frames; lrcn "
            "and cnn_lstm do"
        )
    if fresh:
        return model, []
    if model_config.pretrained and not pretrain:
        if not hasattr(model, "imagenet_weights"):
            raise ConfigError(
                f"MODEL.pretrained = {model_config.pretrained!r}: Paddle publishes no weights for "
                f"{model_config.create_name}; give a file of weights as --pretrain FILE"
            )
        pretrain = Path(download(*model.imagenet_weights))
    if not pretrain:
        return model, []
    conversion = convert(model, read_weights(pretrain))
    load_weights(model, conversion.weights, pretrain)
    notes = [f"starts from {pretrain}: {line}" for line in conversion.summary()[:1]]
    notes += conversion.summary()[1:]
    theirs = conversion.project.normalization
    ours = (model_config.image_mean, model_config.image_std)
    is_flow = model_config.is_flow  # other means than those of the weights are as it should be
    if theirs and not is_flow and not np.allclose(theirs, ours, rtol=0, atol=1e-3):
        (mean, std), (our_mean, our_std) = np.round(theirs, 4).tolist(), np.round(ours, 4).tolist()
        notes.append(
            f"warning: these weights are published for image_mean = {mean} and image_std = {std}; "
            f"the config has {our_mean} and {our_std}"
        )
    return model, notes


def sync_batch_norms(config: Config, model: nn.Layer) -> nn.Layer:
    """The network with batch norms over the clips of all processes, where TRAIN.sync_bn says so.

    Raises ConfigError on a CPU, for which Paddle has none.
    """
    if not config.train.sync_bn:
        return model
    if paddle.device.get_device() == "cpu":
        raise ConfigError("TRAIN.sync_bn needs GPUs: Paddle has no such batch norm for a CPU")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def describe_steps(config: Config) -> str:
    """How many clips a step of several processes is of, for the user."""
    train, num_ranks = config.train, distributed.num_ranks()
    clips = train.batch_size * train.accumulate * num_ranks
    return (
        f"{num_ranks} processes: a step is of {clips} clips, batch_size {train.batch_size} x "
        f"accumulate {train.accumulate} x {num_ranks}; learning_rate = {train.learning_rate:g} is "
        "taken as it is (the usual rule: in proportion to the clips of a step)"
    )


def load_all_weights(model: nn.Layer, file: Path) -> None:
    """Set a network's weights from a file of any project, all of them."""
    load_weights(model, convert(model, read_weights(file), whole=True).weights, file)


def identify(config: Config, file: Path) -> str:
    """What a network and its weights are, for a Predictor; WeightsError without the file."""
    try:
        digest = sha256_of(file)
    except OSError as error:
        raise WeightsError(f"cannot read the weights {file}: {error.strerror}") from error
    return f"{digest} {json.dumps(config.to_dict()['MODEL'], sort_keys=True)}"


def build_predictor(
    config: Config, file: Path, engine: str = "auto", *, half: bool = False, tensorrt: bool = False
) -> Predictor:
    """The network for predictions, with all weights from a file; see Predictor."""
    with paddle.LazyGuard():  # a program that was kept needs no weights
        model, _ = build_model(config, fresh=True)
    load = functools.partial(load_all_weights, model, file)
    identity = identify(config, file)
    return Predictor(model, engine, identity, load, half=half, tensorrt=tensorrt)


def build_loss(config: Config, dataset: VideoDataset | None = None) -> nn.Layer:
    """Cross-entropy of logits (N, K) and labels (N,).

    With the training clips and TRAIN.balance = "loss", a class counts the more the rarer it is; the
    mean weight of a clip is 1.
    """
    train = config.train
    if dataset is None or train.balance != "loss":
        return CrossEntropy(label_smoothing=train.label_smoothing)
    labels = read_labels(dataset)
    counts = np.bincount(labels[labels >= 0], minlength=config.model.num_classes)
    weights = counts.sum() / np.maximum(counts, 1) / max(np.count_nonzero(counts), 1)
    return CrossEntropy(weights.tolist(), train.label_smoothing)


def build_task(config: Config, classes: Sequence[str], dataset: VideoDataset | None = None) -> Task:
    """What the network is to learn; `dataset`: the training clips, as for `build_loss`."""
    train, model = config.train, config.model
    if model.task == "predict":
        return FramePrediction(
            FrameError(train.loss),
            model.seg_num,
            scheduled_sampling=train.scheduled_sampling,
        )
    return Classification(
        build_loss(config, dataset),
        classes,
        mix=Mix(train.mixup, train.cutmix),
        frame_labels=train.frame_labels,
        image_mean=model.image_mean,
        image_std=model.image_std,
    )


def freeze_trunk(config: Config, model: nn.Layer) -> list[nn.Layer]:
    """With TRAIN.freeze_trunk, stop training all but the classifier: -> what stays as it is.

    The trainer keeps these layers in evaluation mode, so that batch norms do not move either.
    """
    if not config.train.freeze_trunk:
        return []
    if not hasattr(model, "classifier"):
        raise ConfigError(f"TRAIN.freeze_trunk: {config.model.create_name} has no classifier")
    for name, parameter in model.named_parameters():
        if not name.startswith(f"{model.classifier}."):
            parameter.stop_gradient = True
    return [
        layer
        for name, layer in model.named_children()
        if name != model.classifier and layer.parameters()  # a dropout goes on
    ]


def cache_features(config: Config, model: nn.Layer, loader: Loader) -> Loader:
    """A loader of what a frozen trunk gives for the clips of a loader, which is computed here.

    Raises ConfigError where the trunk is trained along, the clips differ from epoch to epoch, or
    the network's classifier cannot be had alone.
    """
    train = config.train
    if not (isinstance(model, MoViNet) and train.freeze_trunk):
        raise ConfigError(
            "TRAIN.cache_features needs TRAIN.freeze_trunk = True and a movinet, not "
            f"{config.model.create_name} with freeze_trunk = {train.freeze_trunk}"
        )
    if train.augment or train.mixup or train.cutmix:
        raise ConfigError(
            "TRAIN.cache_features needs clips that stay the same: TRAIN.augment = False, and mixup "
            "and cutmix 0"
        )
    model.eval()
    items = {}
    with (
        Loader(
            loader.dataset,
            loader.batch_size,
            num_workers=loader.num_workers,
            max_bad_samples=loader.max_bad_samples,
            timeout=loader.timeout,
        ) as reading,
        paddle.no_grad(),
    ):
        for batch in tqdm(reading.batches(), "features", len(reading), leave=False, disable=None):
            features = model.features(paddle.to_tensor(batch.clips)).numpy()
            parts = np.split(features, len(batch.labels))
            for index, part, label in zip(batch.indices, parts, batch.labels, strict=True):
                items[int(index)] = Item(int(index), part, int(label))
        items |= {index: Item(index, problem=why) for index, why in reading.bad.items()}
    return _loader(
        CachedFeatures(loader.dataset, items),
        loader.batch_size,
        shuffle=loader.shuffle,
        weights=loader.weights,
        seed=loader.seed,
        max_bad_samples=loader.max_bad_samples,
    )


def build_schedule(config: Config) -> Schedule:
    """The learning rate over the run."""
    train = config.train
    return Schedule(
        rate=train.learning_rate,
        epochs=train.epoch,
        policy=train.lr_policy,
        milestones=train.lr_steps,
        decay=train.learning_rate_decay,
        per_step=train.lr_per == "step",
        warmup=train.warmup_epochs,
    )


def build_optimizer(config: Config, model: nn.Layer) -> paddle.optimizer.Optimizer:
    """The optimiser of the parameters that are trained."""
    train = config.train
    groups = group_parameters(
        model,
        weight_decay=train.l2_weight_decay,
        no_decay=train.no_decay,
        bias_lr=train.bias_lr,
        trunk_lr=train.trunk_lr,
        layer_decay=1.0 if train.freeze_trunk else train.layer_decay,
    )
    return create_optimizer(
        train.optimizer,
        groups,
        momentum=train.momentum,
        beta2=train.beta2,
        nesterov=train.nesterov,
        epsilon=train.epsilon,
    )


def read_classes(config: Config, weights: Path | None = None) -> list[str]:
    """The class names that the weights carry, or a classes.txt beside them or a list; else numbers.

    Raises ListError when the file has another number of lines than there are classes.
    """
    if config.model.task == "predict":
        return []
    if weights and weights.suffix == ".safetensors":
        try:
            classes = json.loads(read_metadata(weights).get("classes", "[]"))
        except (ValueError, RecursionError) as error:
            raise ListError(f"{weights}: its class names are damaged: {error}") from error
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ListError(f"{weights}: its class names are no list of texts")
        if len(classes) == config.model.num_classes:
            return classes
    lists = [getattr(config, name).filelist for name in ("train", "valid", "test", "infer")]
    folders = [Path(weights).parent] if weights else []
    folders += [Path(list_file).parent for list_file in lists if list_file]
    file = next((f / "classes.txt" for f in folders if (f / "classes.txt").exists()), None)
    if file is None:
        return [str(label) for label in range(config.model.num_classes)]
    try:
        classes = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ListError(f"{file} is not a text in UTF-8: it needs a class name a line") from error
    classes = [name.strip() for name in classes if name.strip()]
    if not classes:
        raise ListError(f"{file} is empty: it needs a class name a line")
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise ListError(f"{file} names the class {twice[0]!r} twice: the line number is the label")
    if len(classes) != config.model.num_classes:
        raise ListError(
            f"{file} names {len(classes)} classes, but MODEL.num_classes is "
            f"{config.model.num_classes}: set -o MODEL.num_classes={len(classes)}, or use the "
            "lists that belong together"
        )
    return classes


def choose_device(config: Config, device: str | None = None) -> str:
    """Select the device to compute on: -> a line for the user.

    Args:
        device: "cpu", "gpu" or "gpu:0"; None: a GPU where TRAIN.use_gpu is true and there is one.

    Raises ConfigError where a GPU is asked for and there is none.
    """
    if device is not None and not re.fullmatch(r"cpu|gpu(:\d+)?", device):
        raise ConfigError(f"--device {device}: needs cpu, gpu or gpu:NUMBER")
    num_gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    chosen = device or ("gpu" if config.train.use_gpu and num_gpus else "cpu")
    if chosen == "gpu" and distributed.num_ranks() > 1:
        chosen = f"gpu:{paddle.distributed.ParallelEnv().device_id}"
    number = int(chosen.partition(":")[2] or 0)
    if chosen != "cpu" and number >= num_gpus:
        raise ConfigError(
            f"--device {device}: there is no such GPU ({num_gpus} found"
            + ("" if paddle.is_compiled_with_cuda() else "; this Paddle is built for CPU, see "
               "requirements-gpu.txt")
            + "); use --device cpu"
        )  # fmt: skip
    why = "no GPU was found" if paddle.is_compiled_with_cuda() else "this is Paddle for CPU"
    if config.train.amp and chosen == "cpu":
        reason = "" if num_gpus else f", but {why}"
        raise ConfigError(f"automatic mixed precision (--amp, TRAIN.amp) needs a GPU{reason}")
    paddle.set_device(chosen)
    if device is None and config.train.use_gpu and not num_gpus:
        return f"use_gpu = True, but {why}: computing on the CPU"
    return f"computing on {chosen}"

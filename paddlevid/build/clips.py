"""Clips: a config -> samplers, transforms, data sets and loaders."""

import difflib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
from numpy.typing import NDArray
from tqdm import tqdm

from paddlevid import distributed
from paddlevid.config import Config, ConfigError, ReaderConfig, TrainConfig
from paddlevid.data.augment import AutoAugment
from paddlevid.data.dataset import (
    HMDB51Dataset,
    ListError,
    Sample,
    VideoDataset,
    check_format,
    read_list,
)
from paddlevid.data.decode import DecodeError, VideoDecoder, is_pickled
from paddlevid.data.faults import fetch_in_time
from paddlevid.data.features import FeatureDataset, Manifest, read_manifest
from paddlevid.data.flow import Flow, FlowDecoder, check_method, read_note
from paddlevid.data.loader import Dataset, Loader
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
from paddlevid.frame_metrics import SMALLEST

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


def create_loader(dataset: Dataset, batch_size: int, **options: object) -> Loader:
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
    return create_loader(
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
        labels = read_labels(dataset, train.read_timeout)
        counts = np.bincount(labels[labels >= 0], minlength=config.model.num_classes)
        # A clip without a label is drawn now and then, to be counted, but not as often as a class.
        weights = np.where(labels < 0, 1 / len(labels), 1 / np.maximum(counts, 1)[labels])
    return create_loader(
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


def read_labels(dataset: VideoDataset | FeatureDataset, timeout: float = 60.0) -> NDArray[np.int64]:
    """The label of each clip of a data set: (N,), -1 where its .pkl cannot be read in time."""

    def read(index: int, _: int) -> int | None:
        return dataset.label_of(dataset.samples[index])

    def labels() -> Iterator[int]:
        samples = tqdm(dataset.samples, "reading labels", leave=False, disable=None)
        for index, sample in enumerate(samples):
            try:
                if is_pickled(sample.path):  # the label may be in it
                    label = fetch_in_time(read, index, 0, timeout)
                else:
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
        return create_loader(
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
    return create_loader(
        dataset,
        batch_size,
        num_workers=reader.num_reader_threads,
        max_bad_samples=config.train.max_bad_samples if labelled else 1.0,
        timeout=config.train.read_timeout,
    )

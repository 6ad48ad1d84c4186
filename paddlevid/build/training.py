"""Training: a config -> loss, task, schedule and optimiser."""

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from paddlevid import distributed
from paddlevid.build.clips import create_loader, read_labels
from paddlevid.config import Config, ConfigError
from paddlevid.data.dataset import (
    Item,
    VideoDataset,
)
from paddlevid.data.features import CachedFeatures
from paddlevid.data.loader import Loader
from paddlevid.data.mix import Mix
from paddlevid.losses import CrossEntropy, FrameError
from paddlevid.models import MoViNet
from paddlevid.optim import Schedule, create_optimizer, group_parameters
from paddlevid.tasks import Classification, FramePrediction, Task


def describe_steps(config: Config) -> str:
    """How many clips a step of several processes is of, for the user."""
    train, num_ranks = config.train, distributed.num_ranks()
    clips = train.batch_size * train.accumulate * num_ranks
    return (
        f"{num_ranks} processes: a step is of {clips} clips, batch_size {train.batch_size} x "
        f"accumulate {train.accumulate} x {num_ranks}; learning_rate = {train.learning_rate:g} is "
        "taken as it is (the usual rule: in proportion to the clips of a step)"
    )


def build_loss(config: Config, dataset: VideoDataset | None = None) -> nn.Layer:
    """Cross-entropy of logits (N, K) and labels (N,).

    With the training clips and TRAIN.balance = "loss", a class counts the more the rarer it is; the
    mean weight of a clip is 1.
    """
    train = config.train
    if dataset is None or train.balance != "loss":
        return CrossEntropy(label_smoothing=train.label_smoothing)
    labels = read_labels(dataset, train.read_timeout)
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
    return create_loader(
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

"""Building: a config -> loaders, network, loss, optimiser; nothing below it reads the config."""

from paddlevid.build.clips import (
    build_frames_transform,
    build_past_loader,
    build_reader,
    build_sampler,
    build_test_loader,
    build_test_transform,
    build_train_loader,
    build_train_transform,
    check_flow,
    check_inputs,
    describe_list,
    has_clips,
    note_features,
    note_flow,
    num_features,
    read_labels,
    read_split,
)
from paddlevid.build.network import (
    build_model,
    build_predictor,
    build_streams,
    choose_device,
    freeze_trunk,
    identify,
    load_all_weights,
    read_classes,
    sync_batch_norms,
)
from paddlevid.build.training import (
    build_loss,
    build_optimizer,
    build_schedule,
    build_task,
    cache_features,
    describe_steps,
)

__all__ = [
    "build_frames_transform", "build_loss", "build_model", "build_optimizer", "build_past_loader",
    "build_predictor", "build_reader", "build_sampler", "build_schedule", "build_streams",
    "build_task", "build_test_loader", "build_test_transform", "build_train_loader",
    "build_train_transform", "cache_features", "check_flow", "check_inputs", "choose_device",
    "describe_list", "describe_steps", "freeze_trunk", "has_clips", "identify", "load_all_weights",
    "note_features", "note_flow", "num_features", "read_classes", "read_labels", "read_split",
    "sync_batch_norms",
]  # fmt: skip

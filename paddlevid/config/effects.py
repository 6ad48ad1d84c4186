"""Effects: keys that mean nothing beside others, so that a run can say so."""

from collections.abc import Iterator, Mapping


def keys_without_effect(built: Mapping) -> Iterator[tuple[str, str, str]]:
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
    if model.sampling not in ("dense", "linspace", "every") and model.task != "predict":
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
    yield from _of_task(built)
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
    makes_clips = model.format == "moving_mnist" and built["valid"].num_sequences
    if not (built["valid"].filelist or makes_clips):
        yield "train", "early_stop", "without VALID.filelist"


def _of_task(built: Mapping) -> Iterator[tuple[str, str, str]]:
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

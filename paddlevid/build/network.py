"""Networks: a config -> a network with its weights, class names and device; predictor, streams."""

import functools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddlevid import distributed
from paddlevid.build.clips import build_test_transform
from paddlevid.config import Config, ConfigError
from paddlevid.convert.conversion import convert
from paddlevid.data.dataset import (
    ListError,
)
from paddlevid.files import read_metadata, readable, sha256_of
from paddlevid.models import ECO, MoViNetStream, create_model
from paddlevid.predictor import Predictor
from paddlevid.stream import ECOStream, StateStream, Stepper, Stream, WindowStream
from paddlevid.weights import WeightsError, download, load_weights, read_weights


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
            return [readable(name) for name in classes]
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
    classes = [readable(name.strip()) for name in classes if name.strip()]
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

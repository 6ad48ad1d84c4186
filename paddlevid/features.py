"""Feature extraction: the clips of a list through a trunk that is not trained -> a file a clip."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor, nn

from paddlevid.config import ConfigError, ModelConfig, load_config
from paddlevid.convert.conversion import convert
from paddlevid.convert.names import IMAGENET, OURS
from paddlevid.data.dataset import Sample
from paddlevid.data.decode import DecodeError, iterate_chosen
from paddlevid.data.sample import FrameSampler
from paddlevid.data.scenes import with_scenes
from paddlevid.files import sha256_of, whole_file
from paddlevid.layers.recurrent import seen_frames
from paddlevid.layers.time import fold_time, unfold_time
from paddlevid.layers.trunks import (
    TRUNKS,
    InceptionV3Trunk,
    average_to_grid,
    create_trunk,
    num_features,
    published_weights,
    smallest_side,
)
from paddlevid.models import create_model
from paddlevid.predictor import Predictor
from paddlevid.weights import WeightsError, download, load_weights, read_weights

FRAMES_AHEAD = 64  # that are read while the trunk computes


@dataclass(frozen=True)
class Trunk:
    """A network for frames, and the pictures that it wants."""

    name: str
    network: nn.Layer  # (N, 3, H, W) -> (N, D, h, w)
    weights: str  # SHA-256 of their file
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_trunk(name: str, weights: Path | None = None) -> Trunk:
    """A trunk of TRUNKS, or that of a TSN which train.py trained.

    Args:
        name: one of TRUNKS, or the path of a .safetensors of train.py.
        weights: a file instead of the ImageNet weights that Paddle publishes.
    """
    if name not in TRUNKS:
        return _trained_trunk(Path(name))
    network = create_trunk(name)
    file = Path(weights or download(*published_weights(name)))
    conversion = convert(network, read_weights(file))
    load_weights(network, conversion.weights, file)
    mean, std = conversion.project.normalization or IMAGENET
    if isinstance(network, InceptionV3Trunk) and conversion.project is OURS:
        network.set_epsilon(1e-5)  # Paddle's own, trained with its usual epsilon and normalisation
    size = (299, 299) if name == "inception_v3" else (224, 224)
    return Trunk(name, network, sha256_of(file), size, mean, std)


def _trained_trunk(file: Path) -> Trunk:
    if file.suffix != ".safetensors":
        raise WeightsError(
            f"{file} is no trunk: needs one of {', '.join(TRUNKS)}, or a .safetensors of train.py"
        )
    config = load_config(file)
    model = config.model
    if model.is_flow:
        raise WeightsError(f"{file} is of a network for optical flow, not for frames")
    network = create_model(model.create_name, num_classes=model.num_classes, **model.arguments)
    if not hasattr(network, "trunk"):
        raise WeightsError(f"{file} is of {model.create_name}, which has no trunk for frames")
    load_weights(network, convert(network, read_weights(file), whole=True).weights, file)
    size = model.fixed_size or (config.infer.target_size,) * 2
    mean, std = model.image_mean, model.image_std
    return Trunk(model.create_name, network.trunk, sha256_of(file), tuple(size), mean, std)


def trunk_of(model: ModelConfig, name: str | None = None) -> Trunk:
    """The trunk whose features a network was trained on, to go before it.

    Args:
        name: one of TRUNKS, or a file: of train.py, or of the trunk's weights; None: MODEL.trunk.

    Raises ConfigError where there is none, or its weights are others.
    """
    chosen = name or model.trunk
    if chosen not in TRUNKS and not Path(chosen).is_file():
        raise ConfigError(
            f"the network reads features of {chosen or 'a trunk'}: give its file as --trunk FILE, "
            f"or one of {', '.join(TRUNKS)}"
        )
    if name and model.trunk in TRUNKS and name not in TRUNKS:
        trunk = load_trunk(model.trunk, Path(name))
    else:
        trunk = load_trunk(chosen)
    if model.trunk_weights not in ("", trunk.weights):
        raise ConfigError(
            f"--trunk {chosen}: its weights are not those of the features that the network was "
            f"trained on, of {model.trunk} (SHA-256 {model.trunk_weights[:16]}...): give "
            "--trunk FILE"
        )
    return trunk


class _Pooled(nn.Layer):
    """A trunk and the average over grid x grid parts of its maps: -> (N, D * grid * grid)"""

    def __init__(self, network: nn.Layer, grid: int) -> None:
        super().__init__()
        self.network, self.grid = network, grid

    def forward(self, frames: Tensor) -> Tensor:
        return average_to_grid(self.network(frames), self.grid).flatten(1)


class WithTrunk(nn.Layer):
    """A trunk and a network for its features, as one network for clips."""

    def __init__(self, trunk: nn.Layer, grid: int, head: nn.Layer) -> None:
        super().__init__()
        self.trunk, self.head = _Pooled(trunk, grid), head

    def forward(self, clip: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, K) logits; frames of zeros are passed over"""
        return self.head(self._features(clip))

    def frame_logits(self, clip: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, T, K)"""
        return self.head.frame_logits(self._features(clip))

    def _features(self, clip: Tensor) -> Tensor:
        features = unfold_time(self.trunk(fold_time(clip)), clip.shape[2])
        return features * seen_frames(clip).unsqueeze(2).astype(features.dtype)


def with_trunk(model: ModelConfig, predictor: Predictor, name: str | None = None) -> Predictor:
    """A network for features, with the trunk before it (see `trunk_of`): for clips."""
    trunk = trunk_of(model, name)
    network = WithTrunk(trunk.network, model.grid, predictor.network)
    return predictor.of(network, f"{trunk.name} {trunk.weights}")


class Extractor:
    """Frames of one size -> their features.

    Args:
        device: "cpu", "gpu" or "gpu:0".
        engine: see Predictor.

    Raises ValueError where the trunk's size leaves no map.
    """

    def __init__(
        self, trunk: Trunk, grid: int = 1, device: str = "cpu", engine: str = "auto"
    ) -> None:
        if min(trunk.size) < (smallest := smallest_side(trunk.network)):
            raise ValueError(
                f"frames of {trunk.size[0]} x {trunk.size[1]} pixels are too small for "
                f"{trunk.name}: give --size H W of {smallest} x {smallest} or more"
            )
        paddle.set_device(device)
        self.trunk, self.grid = trunk, grid
        self.num_features = num_features(trunk.network) * grid**2
        identity = f"{trunk.name} {trunk.weights} {grid}" if trunk.weights else ""
        self._predictor = Predictor(_Pooled(trunk.network, grid), engine, identity)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, 3) RGB of the trunk's size -> (N, D)"""
        mean, std = (np.array(part, np.float32) for part in (self.trunk.mean, self.trunk.std))
        frames = (images.astype(np.float32) / 255 - mean) / std
        frames = frames.transpose(0, 3, 1, 2)
        return self._predictor(frames)[0]


@dataclass
class Clip:
    """A clip whose features are wanted."""

    sample: Sample
    target: Path  # .npy


def extract(
    clips: Sequence[Clip],
    extractor: Extractor,
    sampler: FrameSampler,
    *,
    batch_size: int = 16,
    dtype: str = "float32",
) -> Iterator[tuple[Clip, str]]:
    """Write the features of each clip: -> the clips as they are done, and what is wrong or "".

    A batch has frames of several clips; no more than a few batches of frames are in memory,
    however long a clip is. A file is written whole or not at all; of a clip that cannot be read, or
    whose features are not finite, none stays, as it would be of an earlier video.
    """
    rows: list[NDArray] = []  # of the clip that is being read
    waiting: list[NDArray[np.uint8]] = []  # frames without features, of this clip and earlier ones
    ends: list[tuple[int, Clip, str]] = []  # (frames of it before the end, clip, problem)

    def flush() -> Iterator[tuple[Clip, str]]:
        nonlocal rows, ends
        features = list(extractor(np.stack(waiting))) if waiting else []
        waiting.clear()
        for count, clip, problem in ends:
            rows += features[:count]
            features = features[count:]
            problem = problem or _write(clip, np.stack(rows), dtype)
            if problem:
                clip.target.unlink(missing_ok=True)
            yield clip, problem
            rows = []
        rows += features
        ends = []

    counted = 0  # frames of this clip among those that wait
    with _Reader(clips, sampler, extractor.trunk.size) as reader:
        for clip, frame, problem in reader:
            if frame is None:
                ends.append((counted, clip, problem))
                counted = 0
            else:
                waiting.append(frame)
                counted += 1
            if len(waiting) == batch_size:
                yield from flush()
                counted = 0
        yield from flush()


def _write(clip: Clip, features: NDArray[np.float32], dtype: str) -> str:
    """Write the features of a clip, (T, D): -> what is wrong with them or ""."""
    with np.errstate(over="ignore"):
        features = features.astype(dtype)
    if not np.isfinite(features).all():
        return f"{clip.sample.path}: its features have numbers that are not finite in {dtype}"
    clip.target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(clip.target) as partial, open(partial, "wb") as file:
        np.save(file, features)
    return ""


class _Reader:
    """A thread that reads frames ahead: (clip, frame, ""), and (clip, None, problem) at its end."""

    def __init__(self, clips: Sequence[Clip], sampler: FrameSampler, size: tuple) -> None:
        self._clips, self._sampler, self._size = clips, sampler, size
        self._queue: queue.Queue = queue.Queue(FRAMES_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Iterator[tuple[Clip, NDArray[np.uint8] | None, str]]:
        self._thread.start()
        return iter(self._queue.get, None)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():  # it may wait for room
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _read(self) -> None:
        height, width = self._size
        for clip in self._clips:
            problem = ""
            try:
                sampler = with_scenes(self._sampler, clip.sample.path)
                for frame in iterate_chosen(
                    clip.sample.path, lambda n, fps, sampler=sampler: sampler(n, None, 0.5, fps)
                ):
                    self._put((clip, cv2.resize(frame, (width, height)), ""))
                    if self._stop.is_set():
                        return
            except DecodeError as error:
                problem = str(error)
            except Exception as error:  # whatever a library throws at a strange file
                problem = f"{clip.sample.path}: {type(error).__name__}: {error}"
            self._put((clip, None, problem))
        self._put(None)

    def _put(self, thing: object) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(thing, timeout=0.1)
                return
            except queue.Full:
                continue

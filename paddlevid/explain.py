"""Explanations: a network and a clip -> which parts of its frames the answer rests on.

Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) for networks that end in convolutional maps,
attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928) for TimeSformer.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor, nn
from skimage.transform import resize

from paddlevid.config import Config, ConfigError
from paddlevid.data.decode import Frames
from paddlevid.data.encode import write_mp4
from paddlevid.files import whole_file
from paddlevid.layers.trunks import blocks_of
from paddlevid.models import ECO, LRCN, TSN, MoViNet, TimeSformer
from paddlevid.models.timesformer import Attention
from paddlevid.plots import draw_text, frame_grid, save_image, text_mask
from paddlevid.predictor import Prediction, Predictor

Clip = NDArray[np.float32]  # (C, T, H, W), normalised
Heat = NDArray[np.float32]  # (T, H, W), from 0 to 1

_FINE = 4  # rows and columns of maps that say where something is
_COLUMNS = 8  # frames in a row of a strip
_READABLE = 112  # pixels of a frame's height in a strip, at least


@dataclass(frozen=True)
class Explanation:
    """Where in a clip the answer lies."""

    heat: Heat
    method: str  # and what should be known of it


def explain(network: nn.Layer, clip: Clip, label: int) -> Explanation:
    """What the network sees a class in.

    Raises ValueError for a network that neither method is for.
    """
    check_network(network)
    if isinstance(network, TimeSformer):
        heat = spread(roll_out(network, clip), clip, network.patch_size)
        heat -= heat.min()
        return Explanation(heat / max(heat.max(), 1e-12), "attention rollout, of no single class")
    heat = np.maximum(grad_cam(network, clip, label), 0)
    if heat.max() <= 0:
        return Explanation(heat, "Grad-CAM: nothing in these frames speaks for it")
    return Explanation(heat / heat.max(), "Grad-CAM")


def check_network(network: nn.Layer) -> None:
    """Raise ValueError for a network that cannot be explained."""
    if not isinstance(network, (TimeSformer, *_MAPS)):
        raise ValueError(
            f"{type(network).__name__} cannot be explained: Grad-CAM is for tsn, eco, movinet and "
            "lrcn, attention rollout for timesformer"
        )


# --- Grad-CAM -------------------------------------------------------------------------------------


def _maps_of_trunk(network: TSN | LRCN) -> list[list[nn.Layer]]:
    return [[block[-1]] for block in reversed(blocks_of(network.trunk))]


def _maps_of_eco(network: ECO) -> list[list[nn.Layer]]:
    last = [network.tail.res5b]
    if network.appearance:
        last.append(network.appearance.inception_5b)
    return [last, [network.inception_3b]]  # all that comes behind sees the frames through it alone


def _maps_of_movinet(network: MoViNet) -> list[list[nn.Layer]]:
    return [[network.head], *([stage[-1]] for stage in reversed(list(network.stages)))]


# The layers whose maps are looked at, the last ones first. Where several stand side by side, their
# evidence is added up.
_MAPS: dict[type[nn.Layer], Callable[..., list[list[nn.Layer]]]] = {
    TSN: _maps_of_trunk,
    LRCN: _maps_of_trunk,
    ECO: _maps_of_eco,
    MoViNet: _maps_of_movinet,
}


def grad_cam(network: nn.Layer, clip: Clip, label: int) -> NDArray[np.float32]:
    """The evidence for a class in each pixel of each frame, below 0 where it is against: (T, H, W)

    Channels of maps times what the class's logit gains by them. The maps are the network's last
    ones; where these have less than 4 rows or columns, as those of small frames, the last ones that
    have as many. The gain is summed over all places of a map: of each frame where the maps are of
    single frames, of the clip where they are of the clip; maps of fewer frames than the clip's are
    stretched in time as in space. For a network that ends with the mean of its maps and a linear
    layer this is the class activation map of Zhou et al. 2016 (arXiv:1512.04150).
    """
    groups = next(layers for kind, layers in _MAPS.items() if isinstance(network, kind))(network)
    kept: dict[int, Tensor] = {}  # by layer

    def keep(layer: nn.Layer, _: object, output: Tensor | tuple[Tensor, ...]) -> None:
        kept[id(layer)] = output[-1] if isinstance(output, tuple) else output

    hooks = [layer.register_forward_post_hook(keep) for group in groups for layer in group]
    try:
        frames = paddle.to_tensor(clip[None])
        frames.stop_gradient = False  # so that there is a gradient behind frozen layers too
        logit = network(frames)[0, label]
    finally:
        for hook in hooks:
            hook.remove()
    maps = _choose([[kept[id(layer)] for layer in group] for group in groups])
    evidence = np.zeros(clip.shape[1:], np.float32)
    for values, gains in zip(maps, paddle.grad(logit, maps), strict=True):
        evidence += spread(_weigh(values.numpy(), gains.numpy()), clip)
    return evidence


def _choose(groups: Sequence[list[Tensor]]) -> list[Tensor]:
    fine = (maps for maps in groups if min(min(m.shape[-2:]) for m in maps) >= _FINE)
    return next(fine, groups[-1])


def _weigh(values: NDArray[np.float32], gains: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps and their gradients, (T, D, h, w) or (1, D, T', h, w) -> evidence (T, h, w) or T'"""
    if values.ndim == 4:
        weights = gains.sum(axis=(2, 3)) * len(gains)  # (T, D)
        return np.einsum("td,tdhw->thw", weights, values)
    return np.einsum("d,dthw->thw", gains[0].sum(axis=(1, 2, 3)), values[0])


def spread(coarse: NDArray[np.float32], clip: Clip, patch_size: int = 0) -> NDArray[np.float32]:
    """A map of a part of the frames and pixels -> of all: (T', h, w) -> (T, H, W), linear between

    With `patch_size` each of its values is of a patch; pixels beyond the last whole one get the
    last one's.
    """
    _, t, h, w = clip.shape
    rows, columns = coarse.shape[1] * patch_size, coarse.shape[2] * patch_size
    size = (t, rows or h, columns or w)
    fine = resize(coarse.astype(np.float32), size, order=1, mode="edge", anti_aliasing=False)
    return np.pad(fine, [(0, 0), (0, h - size[1]), (0, w - size[2])], "edge")


# --- attention rollout ----------------------------------------------------------------------------


def roll_out(network: TimeSformer, clip: Clip) -> NDArray[np.float32]:
    """How much of each patch has come into the class token, through all blocks: (T, h, w)

    A block's attention, the mean over its heads, says what share of each token goes into which;
    half of a token stays what it was, because of the residual connection. The shares of the blocks
    are multiplied. With what is left of the class token itself they add up to 1; the MLPs are taken
    as mixing nothing. They are the same for every class.

    Joint attention is of all patches and the class token: one matrix A a block, (A + I) / 2.
    Attention over space is of each frame and its own class token, the mean of which is the answer:
    the frames' shares, each divided by T. Divided attention is two steps with a residual
    connection each, so a block is (S + I) / 2 times (R + I) / 2. R, over time, is of each place's
    patches in all frames, and leaves the class token as it is. S, over space, is of each frame and
    a copy of the class token, which afterwards is the mean of its copies: a patch of frame t takes
    from the class token and the patches of t, the class token from itself and the patches of all
    frames, what its copy in each frame takes there divided by T.
    """
    kept: list[Tensor] = []  # of each attention, as they are run: (N, L, L)

    def keep(layer: nn.Layer, inputs: tuple[Tensor]) -> None:
        kept.append(layer.weights(inputs[0]).mean(axis=1))

    attentions = [layer for layer in network.sublayers() if isinstance(layer, Attention)]
    hooks = [layer.register_forward_pre_hook(keep) for layer in attentions]
    try:
        with paddle.no_grad():
            network(paddle.to_tensor(clip[None]))
    finally:
        for hook in hooks:
            hook.remove()
    shares = [weights.numpy() for weights in kept]
    t, h, w = clip.shape[1], *(side // network.patch_size for side in clip.shape[2:])
    roll = {"divided": _roll_divided, "joint": _roll_joint, "space": _roll_space}
    patches = roll[network.attention](shares, t, h * w)  # (T, n)
    return patches.reshape(t, h, w)


def _roll_joint(blocks: Sequence[NDArray], t: int, p: int) -> NDArray[np.float32]:
    token = np.zeros(1 + p * t, np.float32)
    token[0] = 1
    for [weights] in reversed(blocks):
        token = (token @ weights + token) / 2
    return token[1:].reshape(p, t).T  # time is fastest


def _roll_space(blocks: Sequence[NDArray], t: int, p: int) -> NDArray[np.float32]:
    tokens = np.zeros((t, 1, 1 + p), np.float32)
    tokens[:, :, 0] = 1
    for weights in reversed(blocks):  # (T, 1 + n, 1 + n)
        tokens = (tokens @ weights + tokens) / 2
    return tokens[:, 0, 1:] / t


def _roll_divided(blocks: Sequence[NDArray], t: int, p: int) -> NDArray[np.float32]:
    cls, patches = np.float32(1), np.zeros((t, p), np.float32)
    for over_time, over_space in zip(blocks[-2::-2], blocks[::-2], strict=True):
        shares = np.concatenate([np.full((t, 1), cls / t), patches], axis=1)
        taken = np.einsum("tl,tlm->tm", shares, over_space)  # (T, 1 + n)
        cls = (cls + taken[:, 0].sum()) / 2
        patches = (patches + taken[:, 1:]) / 2
        patches = (patches + np.einsum("tp,pts->sp", patches, over_time)) / 2
    return patches


# --- pictures -------------------------------------------------------------------------------------


def overlay(frames: Frames, heat: Heat) -> Frames:
    """Frames with the heat in colours over them, the more of it the hotter: (T, H', W', 3)

    Small frames are enlarged a whole number of times.
    """
    return np.stack([_heated(frame, heat[t]) for t, frame in enumerate(_enlarge(frames))])


def _heated(frame: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    heat = cv2.resize(heat, frame.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    levels = np.round(np.clip(heat, 0, 1) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[..., ::-1]
    share = 0.75 * np.clip(heat, 0, 1)[..., None]
    return np.round(frame * (1 - share) + colours * share).astype(np.uint8)


def _enlarge(frames: Frames) -> Frames:
    factor = -(-_READABLE // frames.shape[1])
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def strip(frames: Frames, heat: Heat, title: str) -> NDArray[np.uint8]:
    """The frames, below them the same with their heat, and a title above: -> RGB (H', W', 3)"""
    pairs = np.concatenate([_enlarge(frames), overlay(frames, heat)], axis=1)
    pairs = np.pad(pairs, [(0, 0), (0, 6), (0, 2), (0, 0)], constant_values=255)
    t, h, w, _ = pairs.shape
    columns = min(t, _COLUMNS)
    rows = -(-t // columns)
    image = np.full((rows, columns, h, w, 3), 255, np.uint8)
    image.reshape(-1, h, w, 3)[:t] = pairs
    image = image.transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, 3)
    mask = text_mask(title, 16)
    head = np.full((mask.shape[0] + 8, max(image.shape[1], mask.shape[1] + 8), 3), 255, np.uint8)
    draw_text(head, mask, 4, 4, np.zeros(3))
    image = np.pad(image, [(0, 0), (0, head.shape[1] - image.shape[1]), (0, 0)],
                   constant_values=255)  # fmt: skip
    return np.concatenate([head, image])


class Explainer:
    """Writes where in the clips that were predicted a class is seen.

    Args:
        predictor: its network is run eagerly, whatever its engine.
        class_name: the class to look for; None: the most probable one of each clip.
        with_films: write a film beside each picture, which lasts 4 s or more.

    Raises ConfigError where that cannot be, ValueError where not for this network.
    """

    def __init__(
        self,
        config: Config,
        predictor: Predictor,
        classes: Sequence[str],
        class_name: str | None,
        with_films: bool = False,
    ) -> None:
        check_network(predictor.network)
        if config.infer.crops > 1 or config.infer.num_clips > 1:
            raise ConfigError("--explain is of one view of a clip: set crops and num_clips to 1")
        if class_name and isinstance(predictor.network, TimeSformer):
            raise ConfigError("--explain-class: attention rollout is the same for every class")
        if class_name and class_name not in classes:
            near = difflib.get_close_matches(class_name, classes, n=3) or classes[:3]
            raise ConfigError(
                f"--explain-class: there is no class {class_name!r}; did you mean "
                f"{', '.join(near)}?"
            )
        self._predictor, self._model, self._with_films = predictor, config.model, with_films
        self._classes, self._label = classes, classes.index(class_name) if class_name else None

    def save(self, result: Prediction, stem: Path) -> None:
        """Write <stem>.png, and <stem>.mp4 if there are to be films."""
        self._predictor.load_weights()
        label = result.top_k(1)[0] if self._label is None else self._label
        found = explain(self._predictor.network, result.clip, label)
        _, t, h, w = result.clip.shape
        row = frame_grid(result.clip[None], self._model.image_mean, self._model.image_std)
        frames = row.reshape(h, t, w, 3).transpose(1, 0, 2, 3)
        title = f"{self._classes[label]} {100 * result.probabilities[label]:.1f} %: {found.method}"
        with whole_file(stem.with_name(f"{stem.name}.png")) as partial:
            save_image(strip(frames, found.heat, title), partial)
        if self._with_films:
            with whole_file(stem.with_name(f"{stem.name}.mp4")) as partial:
                write_mp4(partial, overlay(frames, found.heat), rate=max(min(t // 4, 10), 1))

"""TimeSformer (Bertasius et al. 2021, arXiv:2102.05095): a vision transformer over space and time.

Differs from the paper: nothing in the networks; `dim`, `depth` and the other sizes can be smaller,
and a small network that starts from nothing can begin with wider weights (`init_std`) and with
sines for its embeddings (`sincos`).
"""

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import Tensor, nn

from paddlevid.layers.time import fold_time, unfold_time


class Attention(nn.Layer):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, D) -> the same"""
        n, length, dim = tokens.shape
        q, k, v = self._heads(tokens)
        return self.proj(attend(q, k, v).reshape([n, length, dim]))

    def weights(self, tokens: Tensor) -> Tensor:
        """How much each token takes from which: (N, L, D) -> (N, heads, L, L), rows add up to 1"""
        q, k, _ = (part.transpose([0, 2, 1, 3]) for part in self._heads(tokens))
        return weigh(q, k)

    def _heads(self, tokens: Tensor) -> list[Tensor]:
        """q, k and v, each (N, L, heads, d)"""
        n, length, dim = tokens.shape
        shape = [n, length, self.num_heads, dim // self.num_heads]
        return [part.reshape(shape) for part in self.qkv(tokens).chunk(3, axis=2)]


def weigh(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)): two of (N, heads, L, d) -> (N, heads, L, L)"""
    return F.softmax(paddle.matmul(q * q.shape[3] ** -0.5, k, transpose_y=True))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: three of (N, L, heads, d) -> the same

    In half precision on a GPU through Paddle's flash attention, which knows no other precision.
    """
    half = q.dtype in (paddle.float16, paddle.bfloat16)
    if half and paddle.in_dynamic_mode() and q.place.is_gpu_place():
        return F.scaled_dot_product_attention(q, k, v)
    q, k, v = (part.transpose([0, 2, 1, 3]) for part in (q, k, v))  # (N, heads, L, d)
    return paddle.matmul(weigh(q, k), v).transpose([0, 2, 1, 3])


class MLP(nn.Layer):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) -> the same"""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Layer):
    """A transformer block, pre-norm; with `divided`, attention over time and then over space."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float, divided: bool
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.divided = divided
        if divided:
            self.temporal_norm1 = nn.LayerNorm(dim, epsilon=1e-6)
            self.temporal_attn = Attention(dim, num_heads)
            self.temporal_fc = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim, epsilon=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, epsilon=1e-6)
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, tokens: Tensor, num_frames: int) -> Tensor:
        """(N, 1 + n·T, D) class token and patches, time fastest -> the same

        Without divided attention the number of frames does not matter.
        """
        if self.divided:
            tokens = self._attend_divided(tokens, num_frames)
        else:
            tokens = tokens + self._drop(self.attn(self.norm1(tokens)))
        return tokens + self._drop(self.mlp(self.norm2(tokens)))

    def _attend_divided(self, tokens: Tensor, t: int) -> Tensor:
        n, length, d = tokens.shape
        p = (length - 1) // t  # patches of a frame
        cls, patches = tokens.split([1, p * t], axis=1)

        patches = patches.reshape([n * p, t, d])
        moved = self._drop(self.temporal_attn(self.temporal_norm1(patches)))
        patches = patches + self.temporal_fc(moved)

        patches = patches.reshape([n, p, t, d])
        frames = patches.transpose([0, 2, 1, 3]).reshape([n * t, p, d])
        copies = cls.expand([n, t, d]).reshape([n * t, 1, d])  # the class token, for every frame
        seen = self._drop(self.attn(self.norm1(paddle.concat([copies, frames], axis=1))))
        seen_cls, seen = seen.split([1, p], axis=1)
        cls = cls + seen_cls.reshape([n, t, d]).mean(axis=1, keepdim=True)
        patches = patches + seen.reshape([n, t, p, d]).transpose([0, 2, 1, 3])
        return paddle.concat([cls, patches.reshape([n, p * t, d])], axis=1)

    def _drop(self, residual: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016): a draw for each entry of the first axis."""
        if not (self.training and self.drop_path):
            return residual
        return F.dropout(residual, self.drop_path, axis=0)


class PatchEmbed(nn.Layer):
    """The patches of a frame as tokens, row by row."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2D(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, n, D)"""
        return self.proj(frames).flatten(2).transpose([0, 2, 1])


class TimeSformer(nn.Layer):
    """Patches -> transformer blocks -> class token -> linear.

    Args:
        num_classes: K.
        num_frames: T of the time embedding; for other clips it is resized.
        image_size: pixels of the square that the position embedding is for; likewise.
        patch_size: pixels of a patch's side.
        dim: D.
        depth: blocks.
        mlp_ratio: hidden units of the MLP, for each of D.
        attention: "divided" (time, then space), "joint" (all tokens) or "space" (each frame on
            its own, averaged; blind to order), section 3.
        drop_path: of the last block; it grows linearly from 0 in the first.
        init_std: of the linear layers. The published 0.02 suits a dim of 768; a small network from
            scratch learns faster with about 1 / sqrt(dim).
        sincos: start the position and time embeddings from sines and cosines; they are still
            learned.
    """

    classifier = "head"

    def __init__(
        self,
        num_classes: int,
        *,
        num_frames: int = 8,
        image_size: int = 224,
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        attention: str = "divided",
        drop_path: float = 0.1,
        init_std: float = 0.02,
        sincos: bool = False,
    ) -> None:
        super().__init__()
        if attention not in ("divided", "joint", "space"):
            raise ValueError(
                f"unknown attention {attention!r}; there are 'divided', 'joint' and 'space'"
            )
        if min(num_frames, patch_size, depth, num_heads) < 1 or dim % num_heads or dim < 1:
            raise ValueError(
                f"dim = {dim} must be a multiple of num_heads = {num_heads}, and num_frames = "
                f"{num_frames}, patch_size = {patch_size} and depth = {depth} at least 1"
            )
        if image_size < patch_size or image_size % patch_size:
            raise ValueError(
                f"image_size = {image_size} must be a multiple of patch_size = {patch_size}"
            )
        if sincos and dim % 4:
            raise ValueError(f"sincos needs a dim that is a multiple of 4, not {dim}")
        if not (0 <= drop_path < 1 and mlp_ratio > 0 and init_std > 0):
            raise ValueError(
                f"drop_path = {drop_path} must be from 0 to below 1, mlp_ratio = {mlp_ratio} and "
                f"init_std = {init_std} above 0"
            )
        self.num_frames = num_frames
        self.patch_size = patch_size
        self.attention = attention
        self.grid = image_size // patch_size  # patches in a row of the position embedding
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.cls_token = self.create_parameter([1, 1, dim])
        self.pos_embed = self.create_parameter([1, 1 + self.grid**2, dim])
        if attention != "space":
            self.time_embed = self.create_parameter([1, num_frames, dim])
        self.blocks = nn.LayerList(
            [
                Block(dim, num_heads, mlp_ratio, float(rate), attention == "divided")
                for rate in np.linspace(0, drop_path, depth)
            ]
        )
        self.norm = nn.LayerNorm(dim, epsilon=1e-6)
        self.head = nn.Linear(dim, num_classes)
        self._initialize(init_std, sincos)

    def _initialize(self, std: float, sincos: bool) -> None:
        # Normal: the published cut at +-2 is 100 standard deviations away
        zero = nn.initializer.Constant(0.0)
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                nn.initializer.Normal(0.0, std)(layer.weight)
                zero(layer.bias)
        for block in self.blocks:
            if block.divided:
                zero(block.temporal_fc.weight)
        for embedding in (self.cls_token, self.pos_embed):
            nn.initializer.Normal(0.0, 0.02)(embedding)
        if self.attention != "space":
            zero(self.time_embed)
        if sincos and self.pos_embed._is_initialized():  # else it waits for weights of a file
            dim = self.pos_embed.shape[2]
            positions = self.pos_embed.numpy()
            positions[0, 1:] = sincos_2d(self.grid, dim)
            nn.initializer.Assign(positions)(self.pos_embed)
            if self.attention != "space":
                times = sincos_1d(self.time_embed.shape[1], dim)
                nn.initializer.Assign(times[None])(self.time_embed)

    def forward(self, clip: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, K) logits, for any T, and H and W of a patch at least"""
        return self.head(self.features(clip))

    def features(self, clip: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, D), the class token after the last norm"""
        n, _, t, h, w = clip.shape
        if min(h, w) < self.patch_size:
            raise ValueError(f"frames of {w}x{h} are smaller than a patch of {self.patch_size}")
        patches = self.patch_embed(fold_time(clip))  # (N·T, n, D)
        _, p, d = patches.shape
        positions = self._positions(h // self.patch_size, w // self.patch_size)
        cls, positions = positions.split([1, p], axis=1)
        cls, patches = self.cls_token + cls, patches + positions
        if self.attention == "space":
            tokens = paddle.concat([cls.expand([n * t, 1, d]), patches], axis=1)
        else:
            patches = unfold_time(patches, t).transpose([0, 2, 1, 3]) + self._times(t)
            tokens = paddle.concat([cls.expand([n, 1, d]), patches.reshape([n, p * t, d])], axis=1)
        for block in self.blocks:
            tokens = block(tokens, t)
        cls = tokens[:, 0]
        if self.attention == "space":
            cls = unfold_time(cls, t).mean(axis=1)
        return self.norm(cls)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The position embedding for a frame of so many patches: -> (1, 1 + n, D)"""
        if (rows, columns) == (self.grid, self.grid):
            return self.pos_embed
        cls, square = self.pos_embed.split([1, self.grid**2], axis=1)
        square = square.reshape([1, self.grid, self.grid, square.shape[2]])
        square = take_nearest(take_nearest(square, 1, rows), 2, columns)
        return paddle.concat([cls, square.flatten(1, 2)], axis=1)

    def _times(self, num_frames: int) -> Tensor:
        """The time embedding for so many frames: -> (1, T, D)"""
        if num_frames == self.time_embed.shape[1]:
            return self.time_embed
        return take_nearest(self.time_embed, 1, num_frames)

    def adapt(self, weights: dict[str, NDArray]) -> dict[str, tuple[NDArray, str, str]]:
        """What has to change in weights of such a network for other frames, or for images.

        Embeddings are resized, positions bicubic in two dimensions, times by the nearest. Where
        there is no time embedding, attention over time starts as a copy of that over space, behind
        a linear layer of zeros (section 4), and so does the time embedding.

        -> the arrays by name, with what was done ("resized", "copied") and why. What is no
        embedding of this width is left as it is.
        """
        adapted = {}
        current = self.state_dict()
        for name in ("pos_embed", "time_embed"):
            found, wanted = weights.get(name), current.get(name)
            if found is None or wanted is None or list(found.shape) == list(wanted.shape):
                continue
            if found.ndim != 3 or found.shape[1] < 2 or found.shape[2] != wanted.shape[2]:
                continue
            embedding = paddle.to_tensor(found.astype(np.float32))
            why = f"the file is for {found.shape[1]}, the network for {wanted.shape[1]}"
            if name == "time_embed":
                embedding = take_nearest(embedding, 1, wanted.shape[1])
                adapted[name] = (embedding.numpy(), "resized", f"{why} frames")
            elif math.isqrt(found.shape[1] - 1) ** 2 == found.shape[1] - 1:
                embedding = resize_positions(embedding, self.grid)
                adapted[name] = (embedding.numpy(), "resized", f"{why} places")
        if "time_embed" not in weights and not any("temporal" in name for name in weights):
            for name, tensor in current.items():
                over_space = name.replace(".temporal_attn.", ".attn.").replace("temporal_n", "n")
                if name == "time_embed" or ".temporal_fc." in name:
                    zeros = np.zeros(tensor.shape, np.float32)
                    adapted[name] = (zeros, "initialised", "0, as the file is of an image network")
                elif over_space != name and over_space in weights:
                    why = "from attention over space, as the file is of an image network"
                    adapted[name] = (weights[over_space], "copied", why)
        return adapted


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """The class token's and a square's, bicubic: (1, 1 + s * s, D) -> (1, 1 + side * side, D)"""
    _, length, d = positions.shape
    old = math.isqrt(length - 1)
    cls, square = positions.split([1, length - 1], axis=1)
    square = square.reshape([1, old, old, d]).transpose([0, 3, 1, 2])
    square = F.interpolate(square, [side, side], mode="bicubic")
    return paddle.concat([cls, square.flatten(2).transpose([0, 2, 1])], axis=1)


def take_nearest(x: Tensor, axis: int, length: int) -> Tensor:
    """So many entries of an axis, evenly spread, each the one at or before its place.

    As F.interpolate, which oneDNN rounds in another way (Paddle 2) or cannot run (Paddle 3).
    """
    ratio = np.float32(x.shape[axis] / length)
    places = (np.arange(length, dtype=np.float32) * ratio).astype(np.int64)
    return paddle.index_select(x, paddle.to_tensor(places), axis)


def sincos_1d(length: int, dim: int) -> NDArray[np.float32]:
    """Sines and cosines of 0 .. length - 1: -> (length, dim)

    As in Vaswani et al. 2017, but the wavelengths end at 2 pi times `length`, not times 10000: in a
    short sequence nearly all of the numbers would hardly change.
    """
    angles = np.arange(length)[:, None] / length ** (np.arange(dim // 2) / (dim // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def sincos_2d(side: int, dim: int) -> NDArray[np.float32]:
    """The row in one half of the numbers, the column in the other: -> (side * side, dim)"""
    rows, columns = np.divmod(np.arange(side**2), side)
    line = sincos_1d(side, dim // 2)
    return np.concatenate([line[rows], line[columns]], axis=1)


def timesformer_base(num_classes: int, **arguments: object) -> TimeSformer:
    """TimeSformer: 8 frames of 224x224."""
    return TimeSformer(num_classes, **arguments)


def timesformer_hr(num_classes: int, **arguments: object) -> TimeSformer:
    """TimeSformer-HR: 16 frames of 448x448."""
    return TimeSformer(num_classes, **{"num_frames": 16, "image_size": 448, **arguments})


def timesformer_large(num_classes: int, **arguments: object) -> TimeSformer:
    """TimeSformer-L: 96 frames of 224x224."""
    return TimeSformer(num_classes, **{"num_frames": 96, **arguments})

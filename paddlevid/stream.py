"""Streams: frames pushed one by one -> running class scores, with a bounded memory."""

from collections.abc import Callable, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray

from paddlevid.data.decode import Frames
from paddlevid.models.eco import ECO

Features = tuple[paddle.Tensor, paddle.Tensor | None]  # of one frame: (V, 96, h, w), (V, 1024)


class ECOStream:
    """ECO's online mode (Zolfaghari et al. 2018, section 3.3 and the authors' script).

    A queue collects the newest frames. When it holds N, the working memory is made anew: half of
    it from the queue, half from the old memory, so that what is old thins out; the network runs
    on the memory, and its scores are averaged with the running ones. Of each frame the features
    of the 2-D part are kept, not the pixels: it is computed once for each frame.

    Args:
        model: an ECO; it is put into evaluation mode.
        num_frames: N.
        transform: a frame as a clip of one, uint8 (1, H, W, 3) RGB -> float32 (V, 3, 1, h, w); the
            logits of the V views are averaged. See paddlevid.build.build_test_transform.
        max_blocks: blocks of frames in the memory, each the rest of one queue.
    """

    def __init__(
        self,
        model: ECO,
        num_frames: int,
        transform: Callable[[Frames, Generator], NDArray[np.float32]],
        max_blocks: int = 5,
    ) -> None:
        if not isinstance(model, ECO):
            raise ValueError(f"ECOStream needs an eco_lite or eco_full, not {type(model).__name__}")
        if num_frames < 1 or max_blocks < 1:
            raise ValueError(
                f"num_frames = {num_frames} and max_blocks = {max_blocks} need at least 1"
            )
        model.eval()
        self.model = model
        self.num_frames = num_frames
        self.transform = transform
        self.max_blocks = max_blocks
        self.reset()

    def reset(self) -> None:
        """Forget all frames and scores: a new video begins."""
        self._queue: list[Features] = []
        self._blocks: list[list[Features]] = []  # the oldest first
        self._scores: NDArray[np.float32] | None = None

    def push(self, frame: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Take the next frame, uint8 (H, W, 3) RGB: -> scores (K,) with every N-th, else None.

        The scores are probabilities: half of them the network's on the memory of now, half the
        scores before.

        Raises ValueError for anything else than such a frame.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(
                f"push needs a frame as uint8 (H, W, 3), got {frame.dtype} {frame.shape}"
            )
        views = self.transform(frame[None], np.random.default_rng(0))  # (V, 3, 1, h, w)
        with paddle.no_grad():
            self._queue.append(self.model.frame_features(paddle.to_tensor(views[:, :, 0])))
            if len(self._queue) < self.num_frames:
                return None
            self._blocks = thin_out([*self._blocks, self._queue], self.num_frames, self.max_blocks)
            self._queue = []
            scores = self._score([features for block in self._blocks for features in block])
        self._scores = scores if self._scores is None else (self._scores + scores) / 2
        return self._scores.copy()

    def _score(self, memory: Sequence[Features]) -> NDArray[np.float32]:
        maps = paddle.stack([maps for maps, _ in memory], axis=1)  # (V, N, 96, h, w)
        has_vectors = memory[0][1] is not None
        vectors = paddle.stack([vector for _, vector in memory], axis=1) if has_vectors else None
        logits = self.model.fuse(maps, vectors).mean(axis=0)
        return F.softmax(logits.astype("float32"), axis=-1).numpy()


def thin_out(blocks: Sequence[list], size: int, max_blocks: int) -> list[list]:
    """The memory's blocks, the oldest first, thinned out to `size` frames in all.

    The newest keeps half of them, the one before half of the rest, ...; the oldest keeps what is
    left. Of a block, evenly spread frames stay, the first and the last among them.
    """
    counts, rest = [], size
    while rest > 1 and len(counts) + 1 < min(len(blocks), max_blocks):
        counts.append((rest + 1) // 2)
        rest -= counts[-1]
    counts.append(rest)
    kept = zip(blocks[-len(counts) :], reversed(counts), strict=True)
    return [
        [block[i] for i in np.rint(np.linspace(0, len(block) - 1, count)).astype(int)]
        for block, count in kept
    ]

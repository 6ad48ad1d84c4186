"""Streams: frames as they come -> running class scores, with a memory of constant size.

All have `push(frames)`, for one frame or a few, and `reset()`; `push_all` is for several at once.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import paddle
from numpy.random import Generator
from numpy.typing import NDArray

from paddlevid.data.decode import Frames
from paddlevid.models.eco import ECO
from paddlevid.models.movinet import MoViNetStream
from paddlevid.models.movinet_step import FrameStep
from paddlevid.predictor import Predictor, softmax
from paddlevid.program import open_program

Arrays = dict[str, NDArray[np.float32]]  # the state of a MoViNetStream
FrameTransform = Callable[[Frames, Generator], NDArray[np.float32]]
Features = list[NDArray[np.float32]]  # of one frame: (V, 96, h, w), and (V, 1024) of an eco_full


def check_frames(frames: NDArray[np.uint8]) -> Frames:
    """A frame, uint8 (H, W, 3) RGB, or a few, (T, H, W, 3): -> (T, H, W, 3)

    Raises ValueError for anything else.
    """
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or frames.shape[-1] != 3:
        raise ValueError(
            "push needs a frame as uint8 (H, W, 3), or a few as (T, H, W, 3), got "
            f"{frames.dtype} {frames.shape}"
        )
    return frames[None] if frames.ndim == 3 else frames


class FrameProgram:
    """A frame and a state -> logits and the state behind it, through paddle.inference.

    Args:
        network: its weights are copied.
        height, width: of the frames.
        identity: see Predictor.
    """

    def __init__(self, network: MoViNetStream, height: int, width: int, identity: str = "") -> None:
        shapes = network.state_shapes(1, height, width)
        step = FrameStep(network, shapes)
        self._names, self._positions = step.names, step.positions
        numbers = [[1, 1, 1]] * (1 + self._positions)
        kept = [[c, t * h, w] for _, c, t, h, w in (shapes[name] for name in self._names)]
        inputs = [[None, *shape] for shape in ([3, height, width], *numbers, *kept)]
        self._program = open_program(step, inputs, identity and f"{identity} step")

    def __call__(
        self, frames: NDArray[np.float32], state: Arrays
    ) -> tuple[NDArray[np.float32], Arrays]:
        """(N, 3, 1, H, W) and a state as of `MoViNetStream.step` -> logits (N, K), and behind."""
        count = state["count"] + 1
        numbers = [1 / count[:, 0], count[:, 0] - 1][: 1 + self._positions]
        kept = [state[name].reshape(*state[name].shape[:2], -1, state[name].shape[4])
                for name in self._names]  # fmt: skip
        logits, *found = self._program(frames[:, :, 0], *numbers, *kept)
        behind = {"count": count}
        for name, array in zip(self._names, found, strict=True):
            new = array[:, :, None]  # a sum, or the maps of this frame
            summed = name.endswith("_sum")
            behind[name] = new if summed else np.concatenate([state[name][:, :, 1:], new], axis=2)
        return logits, behind


class Stepper:
    """Steps of a MoViNetStream for several videos at once, each at its own place.

    Args:
        predictor: of a MoViNetStream. Its engine "auto" takes a program on a CPU, for conv_type =
            "2plus1d".

    Raises ValueError for the engine "program" elsewhere.
    """

    def __init__(self, predictor: Predictor) -> None:
        predictor.load_weights()
        network, engine = predictor.network, predictor.engine
        self.network, self.identity = network, predictor.identity
        device, conv_type = paddle.device.get_device(), network.conv_type
        can_program = device == "cpu" and conv_type == "2plus1d"
        if engine == "program" and not can_program:
            raise ValueError(
                "a MoViNet steps as a program on a CPU only, and with conv_type '2plus1d', not on "
                f"{device} with {conv_type!r}: leave the engine to 'auto'"
            )
        self._in_frames = can_program and engine != "eager"
        self._program: FrameProgram | None = None  # made for the first frame, as it has its size
        self._shapes: dict[str, list[int]] = {}

    def __call__(
        self, frames: NDArray[np.float32], states: Sequence[Arrays | None]
    ) -> tuple[NDArray[np.float32], list[Arrays]]:
        """A frame of each video (N, 3, 1, H, W) and their states, None at the start of a video.

        -> logits (N, K), and the states behind the frames. All frames ever have one size.
        """
        if not self._shapes:
            self._shapes = self.network.state_shapes(1, *frames.shape[3:])
        states = [state or self._start() for state in states]
        joined = {name: np.concatenate([state[name] for state in states]) for name in self._shapes}
        logits, joined = self._run(frames, joined)
        behind = [
            {name: array[i : i + 1] for name, array in joined.items()} for i in range(len(states))
        ]
        return logits, behind

    def _run(
        self, frames: NDArray[np.float32], state: Arrays
    ) -> tuple[NDArray[np.float32], Arrays]:
        if self._in_frames:
            if self._program is None:
                self._program = FrameProgram(
                    self.network, *frames.shape[3:], identity=self.identity
                )
            return self._program(frames, state)
        with paddle.no_grad():
            tensors = {name: paddle.to_tensor(array) for name, array in state.items()}
            logits, tensors = self.network.step(paddle.to_tensor(frames), tensors)
        return logits.numpy(), {name: tensor.numpy() for name, tensor in tensors.items()}

    def _start(self) -> Arrays:
        return {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}


class StateStream:
    """A video through a MoViNetStream, frame by frame.

    Args:
        stepper: may be shared by the streams of several videos.
        transform: a frame as a clip of one, uint8 (1, H, W, 3) RGB -> float32 (1, 3, 1, h, w).
        memory: frames after which the network's means over all frames so far become running ones,
            in which a frame counts the less the older it is; 0: never, as published. Without it
            what is new no longer counts after hours.
    """

    def __init__(self, stepper: Stepper, transform: FrameTransform, memory: int = 0) -> None:
        self.stepper, self.transform, self.memory = stepper, transform, memory
        self.reset()

    def reset(self) -> None:
        """Forget all frames: a new video begins."""
        self.state: Arrays | None = None

    def push(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Take the next frame or frames, see `check_frames`: -> probabilities (K,)"""
        return push_all([self], [frames])[0]


class WindowStream:
    """A video through any network: its newest T frames, over and over.

    Args:
        predictor: of the network; may be shared by the streams of several videos.
        num_frames: T.
        transform: a frame as a clip of one, uint8 (1, H, W, 3) RGB -> float32 (V, 3, 1, h, w); the
            logits of the V views are averaged.
        hop: frames from one score to the next.
    """

    def __init__(
        self, predictor: Predictor, num_frames: int, transform: FrameTransform, hop: int = 1
    ) -> None:
        if num_frames < 1 or hop < 1:
            raise ValueError(f"num_frames = {num_frames} and hop = {hop} need at least 1")
        self.predictor, self.num_frames = predictor, num_frames
        self.transform, self.hop = transform, hop
        self.reset()

    def reset(self) -> None:
        """Forget all frames: a new video begins."""
        self._views: deque[NDArray[np.float32]] = deque(maxlen=self.num_frames)
        self._count = 0  # of frames

    def push(self, frames: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Take the next frame or frames, see `check_frames`: -> probabilities (K,), or None

        There are scores with every `hop`-th frame, once there are T.
        """
        return push_all([self], [frames])[0]

    def take(self, frame: Frames) -> NDArray[np.float32] | None:
        """Keep a frame (1, H, W, 3): -> the views to score (V, 3, T, h, w) when it is time to."""
        self._views.append(self.transform(frame, np.random.default_rng(0)))
        self._count += 1
        if self._count < self.num_frames or self._count % self.hop:
            return None
        return np.concatenate(self._views, axis=2)


class ECOStream:
    """ECO's online mode (Zolfaghari et al. 2018, section 3.3 and the authors' script).

    A queue collects the newest frames. When it holds N, the working memory is made anew: half of
    it from the queue, half from the old memory, so that what is old thins out; the network runs
    on the memory, and its scores are averaged with the running ones. Of each frame the features
    of the 2-D part are kept, not the pixels: it is computed once for each frame.

    Args:
        predictor: of an ECO.
        num_frames: N.
        transform: a frame as a clip of one, uint8 (1, H, W, 3) RGB -> float32 (V, 3, 1, h, w); the
            logits of the V views are averaged. See paddlevid.build.build_test_transform.
        max_blocks: blocks of frames in the memory, each the rest of one queue.
    """

    def __init__(
        self,
        predictor: Predictor,
        num_frames: int,
        transform: FrameTransform,
        max_blocks: int = 5,
    ) -> None:
        if not isinstance(predictor.network, ECO):
            name = type(predictor.network).__name__
            raise ValueError(f"ECOStream needs an eco_lite or eco_full, not {name}")
        if num_frames < 1 or max_blocks < 1:
            raise ValueError(
                f"num_frames = {num_frames} and max_blocks = {max_blocks} need at least 1"
            )
        self.predictor = predictor
        self.num_frames = num_frames
        self.transform = transform
        self.max_blocks = max_blocks
        self.reset()

    def reset(self) -> None:
        """Forget all frames and scores: a new video begins."""
        self._queue: list[Features] = []
        self._blocks: list[list[Features]] = []  # the oldest first
        self._scores: NDArray[np.float32] | None = None

    def push(self, frames: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Take the next frame or frames, see `check_frames`: -> scores (K,) or None

        There are scores with every N-th frame. They are probabilities: half of them the network's
        on the memory of now, half the scores before.
        """
        scores = [self._push(frame) for frame in check_frames(frames)]
        return next((found for found in reversed(scores) if found is not None), None)

    def _push(self, frame: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        views = self.transform(frame[None], np.random.default_rng(0))  # (V, 3, 1, h, w)
        self._queue.append(self.predictor(views[:, :, 0], method="frame_features"))
        if len(self._queue) < self.num_frames:
            return None
        self._blocks = thin_out([*self._blocks, self._queue], self.num_frames, self.max_blocks)
        self._queue = []
        memory = [features for block in self._blocks for features in block]
        parts = [np.stack(part, axis=1) for part in zip(*memory, strict=True)]  # (V, N, ...) each
        [logits] = self.predictor(*parts, method="fuse")
        scores = softmax(logits.mean(axis=0))
        self._scores = scores if self._scores is None else (self._scores + scores) / 2
        return self._scores.copy()


Stream = StateStream | WindowStream | ECOStream


def push_all(
    streams: Sequence[Stream], frames: Sequence[NDArray[np.uint8]]
) -> list[NDArray[np.float32] | None]:
    """The next frames of several videos, as many of each: -> their newest probabilities, or None

    Frames of streams with one stepper, or windows of one network, are computed as one batch.
    """
    scores: list[NDArray[np.float32] | None] = [None] * len(streams)
    clips = [check_frames(part) for part in frames]
    for t in range(max(len(clip) for clip in clips)):
        steps: dict[int, list[int]] = {}  # by stepper or network, the streams that need it
        views: dict[int, NDArray[np.float32]] = {}
        for i, (stream, clip) in enumerate(zip(streams, clips, strict=True)):
            if t >= len(clip):
                continue
            frame = clip[t : t + 1]
            if isinstance(stream, ECOStream):
                found = stream.push(frame)
                scores[i] = scores[i] if found is None else found
                continue
            if isinstance(stream, WindowStream):
                taken, key = stream.take(frame), id(stream.predictor)
            else:
                taken, key = stream.transform(frame, np.random.default_rng(0)), id(stream.stepper)
            if taken is not None:
                views[i] = taken
                steps.setdefault(key, []).append(i)
        for batch in steps.values():
            logits = _logits([streams[i] for i in batch], [views[i] for i in batch])
            for i, row in zip(batch, softmax(logits), strict=True):
                scores[i] = row
    return scores


def _forget(state: Arrays, memory: int) -> Arrays:
    """The state with sums as of `memory` frames, where they are of more."""
    factor = min(memory / state["count"].item(), 1.0)
    means = ("count", "_sum")
    return {
        name: array * np.float32(factor) if name.endswith(means) else array
        for name, array in state.items()
    }


def _logits(
    streams: Sequence[StateStream | WindowStream], views: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """(N, K) of streams with one stepper or one network."""
    together = np.concatenate(views)
    if isinstance(streams[0], StateStream):
        logits, states = streams[0].stepper(together, [stream.state for stream in streams])
        for stream, state in zip(streams, states, strict=True):
            stream.state = _forget(state, stream.memory) if stream.memory else state
        return logits
    [logits] = streams[0].predictor(together)
    return np.stack([part.mean(axis=0) for part in np.split(logits, len(streams))])


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

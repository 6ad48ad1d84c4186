"""Parts: a network -> the programs that it is exported as, and how a clip goes through them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor, nn

from paddlevid.models import ECO, MoViNetStream
from paddlevid.models.movinet_step import FrameStep
from paddlevid.predictor import Call

Arrays = list[NDArray[np.float32]]
Run = Callable[..., Arrays]  # arrays -> arrays, of a part


@dataclass(frozen=True)
class Part:
    """One program.

    Args:
        layer: takes its inputs as one list, and gives one.
        inputs: the shape of each by its name; None where any length will do.
        outputs: their names.
        network: what the program must say, computed by the network itself.
    """

    layer: nn.Layer
    inputs: dict[str, list[int | None]]
    outputs: list[str]
    network: Run


@dataclass(frozen=True)
class Plan:
    """All programs of a network.

    Args:
        kind: "clip", "flow", "features", "frames" (to come), "state" or "memory": what the example
            is for.
        parts: by the names of their files.
        drive: takes what runs each part and clips (N, ...): -> all that is said of them.
        clip: the shape of what `drive` takes, without N.
    """

    kind: str
    parts: dict[str, Part]
    drive: Callable[[dict[str, Run], NDArray[np.float32]], Arrays]
    clip: tuple[int, ...]

    def expected(self, clips: NDArray[np.float32]) -> Arrays:
        """What the network itself says."""
        return self.drive({name: part.network for name, part in self.parts.items()}, clips)

    def difference(self, runs: dict[str, Run], clips: NDArray[np.float32]) -> float:
        """How far it is off, as a share of the largest number of each output."""
        pairs = zip(self.drive(runs, clips), self.expected(clips), strict=True)
        return max(_difference(got, right) for got, right in pairs)


def _difference(got: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    if got.shape != right.shape:
        return float("inf")
    largest = max(float(np.abs(right).max(initial=0)), 1e-6)
    error = float(np.abs(got.astype(np.float64) - right).max(initial=0)) / largest
    return error if np.isfinite(error) else float("inf")


def plan_whole(network: nn.Layer, kind: str, clip: Sequence[int]) -> Plan:
    """A network that is called with a clip, of frames or of flow, features or past frames."""
    name = {"features": "features", "frames": "past"}.get(kind, "clips")
    output = "future" if kind == "frames" else "logits"
    part = Part(Call(network, "forward", {}), {name: [None, *clip]}, [output], _eager(network))
    return Plan(kind, {"model": part}, lambda runs, clips: runs["model"](clips), tuple(clip))


def plan_state(network: MoViNetStream, clip: Sequence[int]) -> Plan:
    """The step of a causal MoViNet: a frame and the state before -> logits and the state behind."""
    height, width = clip[2:]
    shapes = network.state_shapes(1, height, width)
    names = list(shapes)

    def say(frames: NDArray[np.float32], *state: NDArray[np.float32]) -> Arrays:
        with paddle.no_grad():
            tensors = {
                name: paddle.to_tensor(array) for name, array in zip(names, state, strict=True)
            }
            logits, behind = network.step(paddle.to_tensor(frames).unsqueeze(2), tensors)
        return [logits.numpy(), *(behind[name].numpy() for name in names)]

    def drive(runs: dict[str, Run], clips: NDArray[np.float32]) -> Arrays:
        state = [np.zeros([len(clips), *shape[1:]], np.float32) for shape in shapes.values()]
        said = []
        for t in range(clips.shape[2]):
            logits, *state = runs["model"](np.ascontiguousarray(clips[:, :, t]), *state)
            said.append(logits)
        return [*said, *state]

    inputs = {"frames": [None, 3, height, width]}
    inputs |= {name: [None, *shape[1:]] for name, shape in shapes.items()}
    outputs = ["logits", *(f"{name}_behind" for name in names)]
    part = Part(StateStep(network, height, width), inputs, outputs, say)
    return Plan("state", {"model": part}, drive, tuple(clip))


def plan_memory(network: ECO, clip: Sequence[int]) -> Plan:
    """ECO's two parts: frames -> what is kept of each; what is kept of N frames -> logits."""
    _, num_frames, height, width = clip
    one_frame = _eager(network, "frame_features")
    kept = one_frame(np.zeros([1, 3, height, width], np.float32))
    names = ["maps", "vectors"][: len(kept)]
    frame = Part(
        Call(network, "frame_features", {}), {"frames": [None, 3, height, width]}, names, one_frame
    )
    inputs = {
        name: [None, num_frames, *array.shape[1:]] for name, array in zip(names, kept, strict=True)
    }
    fuse = Part(Call(network, "fuse", {}), inputs, ["logits"], _eager(network, "fuse"))

    def drive(runs: dict[str, Run], clips: NDArray[np.float32]) -> Arrays:
        seen = [runs["frame"](np.ascontiguousarray(clips[:, :, t])) for t in range(num_frames)]
        memory = [np.stack(part, axis=1) for part in zip(*seen, strict=True)]
        return [*memory, *runs["fuse"](*memory)]

    return Plan("memory", {"frame": frame, "fuse": fuse}, drive, tuple(clip))


def _eager(network: nn.Layer, method: str = "forward") -> Run:
    call = Call(network, method, {})

    def run(*arrays: NDArray[np.float32]) -> Arrays:
        with paddle.no_grad():
            outputs = call([paddle.to_tensor(array) for array in arrays])
        return [output.numpy() for output in outputs]

    return run


class StateStep(nn.Layer):
    """`MoViNetStream.step` of one frame, as a list to a list: [frames (N, 3, H, W), state ...]

    The tensors of the state have the shapes and the order of `state_shapes`. With conv_type =
    "2plus1d" in two dimensions, which is faster.
    """

    def __init__(self, network: MoViNetStream, height: int, width: int) -> None:
        super().__init__()
        shapes = network.state_shapes(1, height, width)
        self.names = list(shapes)
        is_flat = network.conv_type == "2plus1d"
        self.network = None if is_flat else network
        self.step = FrameStep(network, shapes) if is_flat else None

    def forward(self, arrays: list[Tensor]) -> list[Tensor]:
        """-> [logits (N, K), state ...]"""
        state = {self.names[i]: arrays[1 + i] for i in range(len(self.names))}
        if self.step is None:
            logits, state = self.network.advance(arrays[0].unsqueeze(2), state)
            return [logits, *[state[name] for name in self.names]]
        number = state["count"].flatten(3) + 1  # (N, 1, 1, 1)
        numbers = [paddle.reciprocal(number), number - 1][: 1 + self.step.positions]
        kept = [state[name].flatten(2, 3) for name in self.step.names]
        found = self.step([arrays[0], *numbers, *kept])
        for i, name in enumerate(self.step.names):
            new = found[1 + i].unsqueeze(2)  # a sum, or the maps of this frame
            if not name.endswith("_sum"):
                new = paddle.concat([state[name][:, :, 1:], new], axis=2)
            state[name] = new
        state["count"] = number.unsqueeze(4)
        return [found[0], *[state[name] for name in self.names]]

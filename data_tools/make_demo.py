"""Demo videos: a seed goes in, TARGET/<class>/<clip>.avi comes out; a laptop can learn them.

`actions` has ten classes that a few still frames tell apart. In `direction` a class and its twin
(Left and Right, Grow and Shrink, ...) hold the same frames in opposite order, so a network that
is blind to order stays at chance between the two. No class of `actions` is the mirror image of
another one: whatever moves sideways or turns does so either way. In `direction` mirroring does
change the class.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import joblib
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from paddlevid.files import write_whole
from paddlevid.flags import Parser, at_least, describe

Frames = NDArray[np.uint8]  # (T, H, W, 3) RGB
Colour = tuple[int, int, int]  # RGB, 0 to 255

HEIGHT, WIDTH, FPS = 120, 160, 25
CLIPS_PER_GROUP = 4  # a group is one source video: its clips share background, palette and light
SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 of a pixel


@dataclass(frozen=True)
class Scene:
    """What the clips of one group have in common; nothing in it depends on the class."""

    background: NDArray[np.uint8]  # (H, W, 3)
    ink: Colour  # the figure
    mark: Colour  # the detail on the figure
    grain: float  # standard deviation of the sensor noise, in grey levels


def new_scene(rng: Generator) -> Scene:
    """A background, a palette and a light; figure, mark and background differ in brightness."""
    levels = rng.permutation([rng.uniform(20, 65), rng.uniform(105, 145), rng.uniform(190, 235)])
    tints = rng.uniform(-60, 60, (3, 3))
    colours = levels[:, None] + tints - tints @ [[0.299], [0.587], [0.114]]  # grey level unchanged
    gain, offset = rng.uniform(0.8, 1.1), rng.uniform(-15, 15)
    ink, mark, back = np.clip(gain * colours + offset, 0, 255)

    turn = rng.uniform(0, 2 * math.pi)
    x, y = np.linspace(-1, 1, WIDTH), np.linspace(-1, 1, HEIGHT)[:, None]
    shade = rng.uniform(0, 20) * (math.cos(turn) * x + math.sin(turn) * y)  # (H, W)
    blotches = rng.normal(0, rng.uniform(2, 8), (rng.integers(3, 16), rng.integers(4, 20), 3))
    texture = cv2.resize(blotches, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    background = np.clip(back + shade[..., None] + texture, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(2, 7)):  # clutter
        colour = _rgb(np.clip(back + rng.uniform(-25, 25, 3), 0, 255))
        sides, radius = rng.choice([3, 4, 5, 32]), rng.uniform(5, 24)
        centre = rng.uniform([0, 0], [WIDTH, HEIGHT])
        points = _ring(sides, rng.uniform(0, math.pi)) * radius * rng.uniform(0.4, 1, 2)
        _polygon(background, centre + points, colour)
    return Scene(background, _rgb(ink), _rgb(mark), rng.uniform(1, 5))


# Drawing. Points are (x, y) in pixels, y down; a frame is uint8 (H, W, 3) and is drawn into.


def _rgb(colour: NDArray[np.float64]) -> Colour:
    return tuple(int(value) for value in colour)


def _fixed(points: ArrayLike) -> NDArray[np.int32]:
    return np.rint(np.multiply(points, 1 << SUBPIXEL_BITS)).astype(np.int32)


def _ring(sides: int, turn: float = 0.0) -> NDArray[np.float64]:
    """Corners of a regular polygon around 0, the first at the angle `turn`: -> (sides, 2)"""
    angles = turn + np.arange(sides) * (2 * math.pi / sides)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _polygon(frame: Frames, points: ArrayLike, colour: Colour) -> None:
    cv2.fillPoly(frame, [_fixed(points)], colour, cv2.LINE_AA, SUBPIXEL_BITS)


def _disc(frame: Frames, centre: ArrayLike, radius: float, colour: Colour, width: int = -1) -> None:
    centre, radius = _fixed(centre).tolist(), int(_fixed(radius))
    cv2.circle(frame, centre, radius, colour, width, cv2.LINE_AA, SUBPIXEL_BITS)


def _path(frame: Frames, points: ArrayLike, colour: Colour, width: int) -> None:
    cv2.polylines(frame, [_fixed(points)], False, colour, width, cv2.LINE_AA, SUBPIXEL_BITS)


# Actions. Each draws its figure into frames (T, H, W, 3) that hold the background.


def _either_way(rng: Generator) -> int:
    return int(rng.choice([-1, 1]))


def _cycles(num_frames: int, rng: Generator, low: float, high: float) -> NDArray[np.float64]:
    """Phases in radians of a motion with low to high cycles a second, from a random start: (T,)"""
    start, rate = rng.uniform(0, 2 * math.pi), rng.uniform(low, high)
    return start + 2 * math.pi * rate * np.arange(num_frames) / FPS


def _travel(num_frames: int, rng: Generator, low: float, high: float) -> NDArray[np.float64]:
    """x in pixels of a figure that moves sideways low to high pixels a second, either way: (T,)"""
    seconds = (np.arange(num_frames) - num_frames / 2) / FPS
    return WIDTH * rng.uniform(0.35, 0.65) + _either_way(rng) * rng.uniform(low, high) * seconds


def _blink(frames: Frames, scene: Scene, rng: Generator) -> None:
    """An eye that closes and opens."""
    centre, half = rng.uniform([60, 45], [100, 75]), rng.uniform(42, 56)
    x = np.linspace(-1, 1, 17)
    lid, iris = 1 - x**2, half * rng.uniform(0.3, 0.36)
    for frame, phase in zip(frames, _cycles(len(frames), rng, 0.7, 1.6), strict=True):
        opening = half * (0.07 + 0.55 * abs(math.cos(phase / 2)) ** 0.7)
        upper = np.stack([half * x, -opening * lid], axis=1)
        lower = np.stack([half * x, opening * lid], axis=1)[::-1]
        eye = centre + np.concatenate([upper, lower])
        _polygon(frame, eye, scene.ink)
        pupil = np.clip(iris * _ring(24), [-half, -0.9 * opening], [half, 0.9 * opening])
        _polygon(frame, centre + pupil, scene.mark)


def _bounce(frames: Frames, scene: Scene, rng: Generator) -> None:
    """A ball that jumps on a floor."""
    floor, radius = rng.uniform(98, 114), rng.uniform(18, 25)
    height = rng.uniform(30, 50)
    phases = _cycles(len(frames), rng, 0.9, 1.7) / (2 * math.pi) % 1
    for frame, phase, x in zip(frames, phases, _travel(len(frames), rng, 0, 35), strict=True):
        centre = np.array([x, floor - radius - height * 4 * phase * (1 - phase)])
        _polygon(frame, [[0, floor], [WIDTH, floor], [WIDTH, HEIGHT], [0, HEIGHT]], scene.mark)
        _disc(frame, centre, radius, scene.ink)
        _disc(frame, centre - 0.35 * radius, 0.28 * radius, scene.mark)


def _flap(frames: Frames, scene: Scene, rng: Generator) -> None:
    """A bird that beats its wings."""
    y, span = rng.uniform(50, 72), rng.uniform(46, 58)
    xs, phases = _travel(len(frames), rng, 0, 40), _cycles(len(frames), rng, 1.2, 2.4)
    for frame, phase, x in zip(frames, phases, xs, strict=True):
        lift, body = 0.75 * math.sin(phase), np.array([x, y - 6 * math.sin(phase)])
        for side in (-1, 1):
            elbow = [side * 0.5 * span, -span * (0.5 * lift + 0.12)]
            tip = [side * span, -span * 0.9 * lift]
            wing = [[0, -0.16 * span], elbow, tip, [side * 0.45 * span, elbow[1] + 0.36 * span]]
            _polygon(frame, body + [*wing, [0, 0.2 * span]], scene.ink)
        _polygon(frame, body + _ring(24) * [0.13 * span, 0.34 * span], scene.mark)


def _orbit(frames: Frames, scene: Scene, rng: Generator) -> None:
    """Two moons around a planet."""
    centre, radius = rng.uniform([65, 52], [95, 68]), rng.uniform(14, 19)
    distance, moon = rng.uniform(36, 44), rng.uniform(8, 11)
    way, gap = _either_way(rng), rng.uniform(0.7 * math.pi, 1.3 * math.pi)
    for frame, phase in zip(frames, _cycles(len(frames), rng, 0.4, 0.9), strict=True):
        _disc(frame, centre, radius, scene.ink)
        for angle in (way * phase, way * phase + gap):
            at = centre + distance * np.array([math.cos(angle), math.sin(angle)])
            _disc(frame, at, moon, scene.mark)


def _rain(frames: Frames, scene: Scene, rng: Generator) -> None:
    """Drops that fall from a cloud."""
    num_drops, slant = rng.integers(22, 34), rng.uniform(-0.35, 0.35)
    start, speed = rng.uniform([-20, 0], [WIDTH + 20, HEIGHT], (num_drops, 2)), rng.uniform(60, 140)
    cloud = np.array([rng.uniform(55, 105), rng.uniform(10, 24)])
    for t, frame in enumerate(frames):
        for x, y in start:
            y = (y + speed * t / FPS) % HEIGHT
            x = x + slant * y
            _path(frame, [[x, y], [x + 11 * slant, y + 11]], scene.mark, 3)
        for dx, radius in ((-26, 15), (0, 22), (26, 16)):
            _disc(frame, cloud + [dx, 0], radius, scene.ink)


def _roll(frames: Frames, scene: Scene, rng: Generator) -> None:
    """A wheel with spokes that rolls along the ground."""
    ground, radius = rng.uniform(98, 114), rng.uniform(27, 36)
    for frame, x in zip(frames, _travel(len(frames), rng, 25, 75), strict=True):
        centre = np.array([x, ground - radius])
        _path(frame, [[0, ground + 2], [WIDTH, ground + 2]], scene.mark, 3)
        for corner in _ring(5, x / radius):
            _path(frame, [centre, centre + radius * corner], scene.mark, 4)
        _disc(frame, centre, radius - 3, scene.ink, 7)


def _spin(frames: Frames, scene: Scene, rng: Generator) -> None:
    """A star that turns in place."""
    centre, radius = rng.uniform([55, 48], [105, 72]), rng.uniform(36, 48)
    reach = np.where(np.arange(10) % 2, 0.42, 1.0)[:, None] * radius
    way = _either_way(rng)
    for frame, phase in zip(frames, _cycles(len(frames), rng, 0.3, 0.8), strict=True):
        _polygon(frame, centre + reach * _ring(10, way * phase), scene.ink)
        _disc(frame, centre, 0.2 * radius, scene.mark)


def _swing(frames: Frames, scene: Scene, rng: Generator) -> None:
    """A box on a rod that swings from the ceiling."""
    pivot, length = np.array([rng.uniform(60, 100), rng.uniform(0, 8)]), rng.uniform(64, 82)
    half, reach = rng.uniform(15, 21), rng.uniform(0.4, 0.75)
    for frame, phase in zip(frames, _cycles(len(frames), rng, 0.5, 1.0), strict=True):
        angle = reach * math.sin(phase)
        bob = pivot + length * np.array([math.sin(angle), math.cos(angle)])
        _path(frame, [pivot, bob], scene.mark, 4)
        _polygon(frame, bob + half * 1.41 * _ring(4, math.pi / 4 - angle), scene.ink)
        _disc(frame, pivot, 6, scene.mark)


def _walk(frames: Frames, scene: Scene, rng: Generator) -> None:
    """A person who walks."""
    feet, size = rng.uniform(104, 116), rng.uniform(82, 98)
    width, xs = round(0.075 * size), _travel(len(frames), rng, 15, 50)
    for frame, phase, x in zip(frames, _cycles(len(frames), rng, 0.8, 1.5), xs, strict=True):
        hip, neck = np.array([x, feet - 0.45 * size]), np.array([x, feet - 0.76 * size])
        for stride in (0.55 * math.sin(phase), -0.55 * math.sin(phase)):
            limb = np.array([math.sin(stride), math.cos(stride)])
            _path(frame, [hip, hip + 0.45 * size * limb], scene.ink, width)
            _path(frame, [neck, neck + 0.34 * size * limb * [1.3, 1]], scene.ink, width)
        _path(frame, [hip, neck], scene.ink, width + 3)
        _disc(frame, neck - [0, 0.12 * size], 0.12 * size, scene.mark)


def _wave(frames: Frames, scene: Scene, rng: Generator) -> None:
    """A rope along which a wave runs."""
    y, height, width = rng.uniform(50, 70), rng.uniform(16, 32), int(rng.integers(9, 15))
    x, length, way = np.linspace(-10, WIDTH + 10, 60), rng.uniform(60, 110), _either_way(rng)
    for frame, phase in zip(frames, _cycles(len(frames), rng, 0.6, 1.5), strict=True):
        rope = np.stack([x, y + height * np.sin(2 * math.pi * x / length + way * phase)], axis=1)
        _path(frame, rope, scene.mark, width + 4)
        _path(frame, rope, scene.ink, width)


ACTIONS: dict[str, Callable[[Frames, Scene, Generator], None]] = {
    "Blink": _blink,
    "Bounce": _bounce,
    "Flap": _flap,
    "Orbit": _orbit,
    "Rain": _rain,
    "Roll": _roll,
    "Spin": _spin,
    "Swing": _swing,
    "Walk": _walk,
    "Wave": _wave,
}

# Directions. A motion is a row: what changes (0: x, 1: y, 2: scale, 3: angle) and how much of it in
# a clip, from least to most, in pixels, in sizes, in radians. A twin draws from the same motion and
# plays it backwards, so the frames without their order cannot tell the two apart. A constant rate
# around the middle of the clip keeps it so for samplers that lean to one end of a clip. What turns
# is a hand around its tail that points more or less to the right: a small transformer learns the
# sense of a turn around the middle, from any angle, only after it knows the clips by heart.
MOTIONS: dict[str, tuple[int, float, float]] = {
    "Right": (0, 45, 90),
    "Down": (1, 35, 70),
    "Grow": (2, 0.6, 0.9),
    "Clockwise": (3, math.pi / 2, math.pi),
}
TWINS = {"Left": "Right", "Up": "Down", "Shrink": "Grow", "Counterclockwise": "Clockwise"}
DRAWING = 2  # changed when the same seed draws other clips
CLASSES = {"actions": sorted(ACTIONS), "direction": sorted([*MOTIONS, *TWINS])}


def render_action(name: str, scene: Scene, rng: Generator) -> Frames:
    """24 to 48 frames of an action: -> (T, H, W, 3) uint8 RGB"""
    frames = np.repeat(scene.background[None], rng.integers(24, 49), axis=0)
    ACTIONS[name](frames, scene, rng)
    _add_grain(frames, scene.grain, rng)
    return frames


def render_direction(name: str, scene: Scene, rng: Generator) -> Frames:
    """16 to 32 frames of a motion, backwards for a twin: -> (T, H, W, 3) uint8 RGB"""
    axis, low, high = MOTIONS[TWINS.get(name, name)]
    frames = np.repeat(scene.background[None], rng.integers(16, 33), axis=0)
    radius, outline = rng.uniform(19, 30), _ring(rng.choice([4, 5, 6, 32])) * [1.25, 0.8]
    third = math.pi / 3
    middle = rng.uniform([55, 45, 1, -third], [105, 75, 1, third])  # x, y, scale, angle
    track = np.repeat(middle[None], len(frames), axis=0)  # (T, 4)
    track[:, axis] += rng.uniform(low, high) * np.linspace(-0.5, 0.5, len(frames))
    if axis == 3:
        hand = [np.cos(track[:, 3]) - np.cos(middle[3]), np.sin(track[:, 3]) - np.sin(middle[3])]
        track[:, :2] += 0.8 * radius * np.transpose(hand)
    for frame, (x, y, scale, angle) in zip(frames, track, strict=True):
        cos, sin = math.cos(angle), math.sin(angle)
        turned = outline @ [[cos, sin], [-sin, cos]]
        _polygon(frame, [x, y] + radius * scale * turned, scene.ink)
        tip = [x + 0.75 * radius * scale * cos, y + 0.75 * radius * scale * sin]
        _disc(frame, tip, 0.3 * radius * scale, scene.mark)
    _add_grain(frames, scene.grain, rng)
    return frames[::-1] if name in TWINS else frames


def _add_grain(frames: Frames, grain: float, rng: Generator) -> None:
    """Sensor noise, in place: each frame takes its own window of one sheet (fast, no drift)."""
    sheet = rng.standard_normal((HEIGHT + 40, WIDTH + 40, 1), dtype=np.float32)
    sheet = np.rint(grain * sheet).astype(np.int16).repeat(3, axis=2)
    for frame, (y, x) in zip(frames, rng.integers(0, 41, (len(frames), 2)), strict=True):
        cv2.add(frame, sheet[y : y + HEIGHT, x : x + WIDTH], dst=frame, dtype=cv2.CV_8U)


def render(preset: str, label: int, clip: int, seed: int) -> Frames:
    """Clip number `clip` of the class CLASSES[preset][label]: -> (T, H, W, 3) uint8 RGB"""
    scene = new_scene(np.random.default_rng([seed, label, clip // CLIPS_PER_GROUP, 1]))
    draw = render_action if preset == "actions" else render_direction
    return draw(CLASSES[preset][label], scene, np.random.default_rng([seed, label, clip]))


def clip_path(target: Path, preset: str, label: int, clip: int) -> Path:
    """TARGET/<class>/v_<class>_g<group>_c<clip>.avi, counted from 1, as in UCF101."""
    name, group = CLASSES[preset][label], clip // CLIPS_PER_GROUP
    return target / name / f"v_{name}_g{group + 1:02d}_c{clip % CLIPS_PER_GROUP + 1:02d}.avi"


def write_video(path: Path, frames: Frames, codec: str) -> None:
    """Write frames (T, H, W, 3) RGB as an .avi, whole or not at all."""
    cv2.setNumThreads(1)  # the workers share the cores among themselves
    # OpenCV's own MJPG writer has a constant quality; FFmpeg's may change it as the clip goes on.
    backend = cv2.CAP_OPENCV_MJPEG if codec == "MJPG" else cv2.CAP_FFMPEG
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.avi")
    size = (frames.shape[2], frames.shape[1])
    try:
        writer = cv2.VideoWriter(str(partial), backend, cv2.VideoWriter.fourcc(*codec), FPS, size)
        if not writer.isOpened():
            raise RuntimeError(
                f"cannot write {path}: the folder is read-only, or this OpenCV has no {codec} "
                "encoder (--codec MJPG needs none)"
            )
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        num_written = cv2.VideoCapture(str(partial)).get(cv2.CAP_PROP_FRAME_COUNT)
        if num_written != len(frames):  # OpenCV does not report a full disk
            raise OSError(f"only a part of {path} was written: is the disk full?")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _make_clip(target: Path, preset: str, label: int, clip: int, seed: int, codec: str) -> None:
    path = clip_path(target, preset, label, clip)
    write_video(path, render(preset, label, clip, seed), codec)


def claim(target: Path, preset: str, seed: int, codec: str, clips: int) -> None:
    """Note in TARGET/demo.json what TARGET holds; refuse a folder that holds something else."""
    note, wanted = target / "demo.json", {"preset": preset, "seed": seed, "codec": codec}
    wanted["drawing"] = DRAWING
    if note.exists():
        try:
            found = {"drawing": 1, **json.loads(note.read_text(encoding="utf-8"))}
            clips = max(clips, found["clips"])
            unlike = [key for key in wanted if found[key] != wanted[key]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"cannot read {note} ({error!r}): choose another TARGET") from error
        if unlike:
            differences = "; ".join(f"{key} {found[key]}, not {wanted[key]}" for key in unlike)
            raise ValueError(f"{target} holds clips of {differences}: choose another TARGET")
    elif target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty and has no demo.json: choose another TARGET")
    target.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps(wanted | {"clips": clips}, indent=2) + "\n")


def make_demo(target: Path, preset: str, clips: int, seed: int, workers: int, codec: str) -> int:
    """Render the clips that TARGET lacks, `clips` per class: -> how many it rendered."""
    with tempfile.TemporaryDirectory() as folder:  # a missing encoder is found before the claim
        write_video(Path(folder, "one_frame.avi"), np.zeros((1, HEIGHT, WIDTH, 3), np.uint8), codec)
    claim(target, preset, seed, codec, clips)
    pairs = [(label, clip) for clip in range(clips) for label in range(len(CLASSES[preset]))]
    missing = [pair for pair in pairs if not clip_path(target, preset, *pair).exists()]
    # joblib keeps its processes, and they keep the working directory that they were started in.
    place = target.absolute()
    jobs = (joblib.delayed(_make_clip)(place, preset, *pair, seed, codec) for pair in missing)
    done: Iterator[None] = joblib.Parallel(workers, return_as="generator_unordered")(jobs)
    for _ in tqdm(done, total=len(missing), unit="clip", disable=not missing):
        pass
    return len(missing)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser(
        description="Render a demo data set: TARGET/<class>/v_<class>_g<group>_c<clip>.avi, "
        f"{WIDTH}x{HEIGHT}, {FPS} frames a second. The same seed gives the same videos. Clips "
        "that are there already are kept, so an interrupted run can be started again.",
        epilog=f"A group is one source video: its {CLIPS_PER_GROUP} clips share background, "
        "palette and light. Split training from test by group, not by clip.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", type=Path, help="folder for the class folders")
    parser.add_argument(
        "--preset",
        choices=list(CLASSES),
        default="actions",
        help="actions: 10 classes that still frames tell apart, 24 to 48 frames a clip; "
        "direction: 8 classes (left and right, ...) whose order of frames matters, 16 to 32 frames",
    )
    parser.add_argument("--clips", type=at_least(1), default=100, help="clips for each class")
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of all random draws")
    parser.add_argument(
        "--workers", type=at_least(1), default=joblib.cpu_count(), help="processes to use"
    )
    parser.add_argument("--codec", choices=["MJPG", "XVID"], default="MJPG", help="video codec")
    args = parser.parse_args(argv)
    # XVID predicts a frame from the ones before it, so its errors grow along a clip; that would
    # tell forwards from backwards. MJPG codes each frame on its own and leaves no such trace.
    if args.preset == "direction" and args.codec != "MJPG":
        parser.error(
            f"--preset direction needs --codec MJPG: {args.codec} codes a frame from the ones "
            "before it, and that trace would give the direction away"
        )
    return args


def main(argv: list[str] | None = None) -> int:
    """Render what the command line asks for: -> the exit code"""
    args = parse_args(argv)
    try:
        num_new = make_demo(**vars(args))
    except (OSError, RuntimeError, ValueError) as error:
        print(f"make_demo.py: {describe(error, args.target)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make_demo.py: stopped; run it again to render the rest", file=sys.stderr)
        return 130
    num_clips = args.clips * len(CLASSES[args.preset])
    print(f"{args.target}: {num_clips} clips of {args.preset}, {num_new} of them new")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Moving MNIST (Srivastava et al. 2015, arXiv:1502.04681): digits that fly about and bounce.

Sequences are made when they are asked for: (seed, epoch, index) says which.
"""

import gzip
import struct
import tokenize
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from paddlevid.data.dataset import Item, ListError, Sample
from paddlevid.data.limits import CLIP_BYTES, DecodeError, check_file

Digits = NDArray[np.uint8]  # (N, h, w), bright on black
MOTIONS = ("standard", "tutorial")


def sklearn_digits(train: bool) -> Digits:
    """The 1,797 handwritten digits that scikit-learn brings along, 8 x 8 pixels.

    Every fifth is not for training. (Alpaydin and Kaynak 1998, UCI.)
    """
    from sklearn.datasets import load_digits

    images = np.uint8(load_digits().images * (255 / 16))
    held_out = np.arange(len(images)) % 5 == 0
    return images[~held_out if train else held_out]


def read_idx(path: Path) -> Digits:
    """The images of a file of MNIST, train-images-idx3-ubyte or t10k-..., also .gz.

    Raises ListError for a file that is none.
    """
    try:
        check_file(path)
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(CLIP_BYTES.value + 1)
        CLIP_BYTES.check(path, "its content", len(content))
        magic, count, height, width = struct.unpack(">4I", content[:16])
    except DecodeError as error:
        raise ListError(str(error)) from error
    except (OSError, ValueError, EOFError, zlib.error, struct.error) as error:
        reason = getattr(error, "strerror", None) or "it is damaged or no file of MNIST"
        raise ListError(f"cannot read the digits in {path}: {reason}") from error
    if magic != 0x803 or len(content) != 16 + count * height * width or len(content) == 16:
        raise ListError(
            f"{path} is no whole file of MNIST's images (train-images-idx3-ubyte): it begins with "
            f"{magic:#x} and has {len(content)} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, height, width)


def find_idx(folder: Path, train: bool) -> Path:
    """The file of MNIST's images in a folder; ListError where it is not there."""
    stem = "train-images" if train else "t10k-images"
    names = [f"{stem}{dot}idx3-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise ListError(f"{folder} has none of {', '.join(names)}")


class MovingMNIST:
    """Sequences of digits.

    Motions: "standard" (as OpenSTL): digits of 28 x 28, a direction at random and 0.1 of the way
    from side to side a frame, brightest pixel where digits overlap. "tutorial" (the book's): digits
    of 32 x 32, whole pixels a frame from -4 to 4 along each axis, and sums where they overlap.

    Args:
        digits: the images to choose from.
        length: sequences of an epoch.
        num_frames: of a sequence.
        size: pixels of a frame's side.
        num_digits: in a sequence.
        digit_size: pixels; 0: those of the motion.
        train: another epoch has other sequences.

    Raises ValueError for digits that do not fit the frame.
    """

    def __init__(
        self,
        digits: Digits,
        length: int,
        num_frames: int,
        *,
        motion: str = "standard",
        size: int = 64,
        num_digits: int = 2,
        digit_size: int = 0,
        train: bool = False,
        seed: int = 0,
    ) -> None:
        if motion not in MOTIONS:
            raise ValueError(f"unknown motion {motion!r}; there are 'standard' and 'tutorial'")
        side = digit_size or (28 if motion == "standard" else 32)
        if not all(type(number) is int for number in (side, size, num_digits)) or not (
            1 <= side <= size and num_digits >= 1 and len(digits)
        ):
            raise ValueError(
                f"digit_size = {side} and num_digits = {num_digits}: needs whole numbers from 1, "
                f"and digits that fit frames of size = {size}; there are {len(digits)} digits"
            )
        self.digits, self.side = digits, side
        self.length, self.num_frames, self.motion, self.size = length, num_frames, motion, size
        self.num_digits, self.train, self.seed = num_digits, train, seed
        self.samples = [Sample(Path(f"sequence-{i}")) for i in range(length)]

    def __len__(self) -> int:
        return self.length

    def fetch(self, index: int, epoch: int = 0) -> Item:
        """A sequence (1, 1, T, H, W), from 0 to 1."""
        rng = np.random.default_rng([self.seed, epoch if self.train else 0, index, self.train])
        return Item(index, self.draw(rng)[None, None])

    def draw(self, rng: Generator) -> NDArray[np.float32]:
        """(T, H, W)"""
        side = self.side
        join = np.maximum if self.motion == "standard" else np.add
        frames = np.zeros((self.num_frames, self.size, self.size), np.float32)
        for _ in range(self.num_digits):
            digit = _scale(self.digits[rng.integers(len(self.digits))], side)
            for frame, (top, left) in zip(frames, self._places(rng), strict=True):
                part = frame[top : top + side, left : left + side]
                part[:] = join(part, digit)
        return np.minimum(frames, 1.0)

    def _places(self, rng: Generator) -> NDArray[np.int64]:
        """(T, 2), the digit's top and left."""
        room = self.size - self.side
        if self.motion == "standard":
            angle = rng.uniform(0, 2 * np.pi)
            velocity = 0.1 * np.array([np.sin(angle), np.cos(angle)])
            path = _bounce(rng.uniform(0, 1, 2), velocity, 1.0, self.num_frames)
            return (path * room).astype(np.int64)
        most = max(room - 1, 0)
        start, velocity = rng.integers(0, most + 1, 2), rng.integers(-4, 5, 2)
        return _bounce(start, velocity, most, self.num_frames).astype(np.int64)


def _scale(image: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    if image.shape != (side, side):
        image = cv2.resize(image, (side, side))
    return np.float32(image) / 255


def _bounce(place: NDArray, velocity: NDArray, most: float, num_frames: int) -> NDArray[np.float64]:
    """(T, 2): the places of something that turns back at 0 and at `most`."""
    place, velocity = place.astype(np.float64), velocity.astype(np.float64)
    path = []
    for _ in range(num_frames):
        path.append(place)
        place = place + velocity
        outside = (place < 0) | (place > most)
        velocity = np.where(outside, -velocity, velocity)
        place = np.clip(place, 0, most)
    return np.array(path)


class FixedSequences:
    """mnist_test_seq.npy: 10,000 sequences of 20 frames of 64 x 64, uint8 (20, 10000, 64, 64).

    Any .npy of that form is read, (T, N, H, W); from the disk, one sequence at a time.

    Raises ListError for another file, or one with fewer frames than needed.
    """

    def __init__(self, path: Path, num_frames: int) -> None:
        try:
            frames = np.lib.format.open_memmap(path, mode="r")  # unpickles nothing
        except (OSError, ValueError, EOFError, tokenize.TokenError) as error:
            reason = getattr(error, "strerror", None) or "it is damaged or no .npy of numbers"
            raise ListError(f"cannot read the sequences in {path}: {reason}") from error
        shape = frames.shape
        if frames.dtype != np.uint8 or len(shape) != 4 or shape[0] < num_frames or not frames.size:
            raise ListError(
                f"{path}: needs uint8 (T, N, H, W) with T at least {num_frames}, past and future "
                f"together; got {frames.dtype} {shape}"
            )
        self.path, self.num_frames = path, num_frames
        self.samples = [Sample(Path(f"{path}#{i}")) for i in range(shape[1])]

    def __len__(self) -> int:
        return len(self.samples)

    def fetch(self, index: int, epoch: int = 0) -> Item:
        """A sequence (1, 1, T, H, W), from 0 to 1."""
        # Not kept: workers would get all of it.
        frames = np.lib.format.open_memmap(self.path, mode="r")
        clip = np.float32(frames[: self.num_frames, index]) / 255
        return Item(index, clip[None, None])

"""Fuzz: a number -> a damaged file, and what paddlevid says of it. A watched process runs many.

`python tests/fuzz.py FOLDER FIRST LAST` runs these cases and prints a line before and after each.
"""

import contextlib
import hashlib
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
import types
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIPS = ROOT.parent / "shared" / "clips"
SECONDS = 10.0  # of computing that a case may take
WAIT = 60.0  # seconds on the clock after which it hangs: the machine may do other things, too
BYTES = 1 << 30  # of memory above what the process has before the first case
NO_CASE = "nothing"


# --- the files before they are damaged ------------------------------------------------------------


def make_bases(folder: Path) -> None:
    """Whole files: FOLDER/<kind>/<name>."""
    import cv2
    import numpy as np
    import paddle
    from conftest import frames_of, write_video
    from test_decode import UNEVEN, encode, encode_at
    from test_pytorch import save_sequence, save_tar, save_zip, tensor

    from paddlevid.checkpoint import save_checkpoint
    from paddlevid.data.encode import write_mp4
    from paddlevid.weights import write_weights

    frames, videos = frames_of(12), folder / "video"
    write_video(videos / "mjpeg.avi", frames)
    write_video(videos / "xvid.avi", frames, "XVID")
    write_mp4(videos / "h264.mp4", frames)
    write_mp4(videos / "one.mp4", frames[:1])
    encode(videos / "b_frames.mp4", frames, "libx264", {"bf": "2"})
    encode(videos / "h264.mkv", frames, "libx264", {"bf": "2"})
    encode(videos / "fragments.mp4", frames, "libx264", movflags="frag_keyframe+empty_moov")
    encode(videos / "vp9.webm", frames, "libvpx-vp9", {"cpu-used": "8"})
    encode(videos / "vp8.webm", frames, "libvpx")
    encode(videos / "mpeg2.mpg", frames, "mpeg2video")
    encode(videos / "h264.ts", frames, "libx264")
    encode(videos / "flv.flv", frames, "flv1")
    encode(videos / "wmv.wmv", frames, "wmv2")
    encode(videos / "mpeg4.3gp", frames, "mpeg4")
    encode(videos / "sound.mp4", frames, "libx264", sound=True)
    encode_at(videos / "uneven.mp4", UNEVEN)
    encode_at(videos / "uneven.mkv", UNEVEN)
    turned = bytearray((videos / "h264.mp4").read_bytes())
    matrix = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]
    struct.pack_into(">9i", turned, turned.index(b"tkhd") + 44, *matrix)
    (videos / "turned.mp4").write_bytes(turned)
    for clip in sorted(CLIPS.glob("*f*.*")) if CLIPS.is_dir() else []:
        if clip.suffix in (".avi", ".mp4") and "1080p" not in clip.name:  # seconds to decode
            shutil.copyfile(clip, videos / f"real_{clip.name}")

    images = folder / "image"
    images.mkdir()
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
    for name, flags in {
        "plain.jpg": [],
        "progressive.jpg": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        "restarts.jpg": [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
        "plain.png": [],
        "grey.png": [],
    }.items():
        cv2.imwrite(str(images / name), picture[:, :, 0] if "grey" in name else picture, flags)

    pickles = folder / "pickle"
    pickles.mkdir()
    embedded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames[:4]]
    for protocol in (0, 2, 4, 5):
        clip = ("clip", 1, embedded)
        (pickles / f"embedded{protocol}.pkl").write_bytes(pickle.dumps(clip, protocol))
        names = ["../image/plain.jpg", "../image/progressive.jpg"] * 3
        (pickles / f"names{protocol}.pkl").write_bytes(pickle.dumps(("clip", 0, names), protocol))

    lists = folder / "list"
    lists.mkdir()
    lines = [f"../video/{path.name} {n % 3}\n" for n, path in enumerate(sorted(videos.iterdir()))]
    (lists / "labels.list").write_text("".join(lines))
    (lists / "pickles.list").write_text("".join(f"../pickle/{p.name}\n" for p in pickles.iterdir()))
    (lists / "names.list").write_bytes("../video/走路 1.avi 3\r\nclip with spaces\n".encode())

    configs = folder / "config"
    configs.mkdir()
    for path in sorted(ROOT.glob("configs/**/*.*")):
        shutil.copyfile(path, configs / f"{path.parent.name}_{path.name}")

    features = folder / "features"
    features.mkdir()
    for kind in ("float16", "float32", "float64"):
        np.save(features / f"{kind}.npy", np.random.default_rng(0).random((7, 8)).astype(kind))
    manifest = {
        "trunk": "resnet18", "weights": "0" * 64, "sampling": "uniform:7", "size": [224, 224],
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "grid": 1, "features": 8,
        "dtype": "float32",
    }  # fmt: skip
    (folder / "manifest").mkdir()
    (folder / "manifest" / "features.json").write_text(json.dumps(manifest))

    weights = folder / "weights"
    weights.mkdir()
    network = small_network()
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    write_weights(weights / "a.pdparams", network)
    text = (ROOT / "configs" / "demo" / "tsn.yaml").read_text()
    write_weights(weights / "a.safetensors", network, {"config": text, "classes": '["a", "b"]'})
    np.savez(weights / "a.npz", **arrays)
    np.savez_compressed(weights / "packed.npz", **arrays)
    tensors = {name: tensor(array) for name, array in arrays.items()}
    with torch_names() as name:
        save_zip(weights / "zip.pth", tensors, name)
        save_sequence(weights / "sequence.pth", tensors, name)
        save_tar(weights / "tar.pth", tensors, name)

    optimizer = paddle.optimizer.Adam(parameters=network.parameters())
    network(paddle.ones([1, 3, 1, 32, 32])).sum().backward()
    optimizer.step()
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "progress": {}}
    save_checkpoint(folder / "checkpoint", 1, state, keep=1)


def small_network() -> object:
    from paddlevid.models import create_model

    return create_model("tsn_r18", num_classes=2, width=1)


@contextlib.contextmanager
def torch_names() -> Iterator[Callable[[str, str], object]]:
    """What makes names that pickle takes for those of PyTorch."""
    modules = ("torch", "torch._utils", "torch.cuda")
    added = {name: types.ModuleType(name) for name in modules if name not in sys.modules}
    sys.modules.update(added)

    def name(module: str, function: str) -> object:
        made = type(function, (), {"__module__": module, "__qualname__": function})
        found = getattr(sys.modules[module], function, made)
        setattr(sys.modules[module], function, found)
        return found

    try:
        yield name
    finally:
        for module in added:
            del sys.modules[module]


# --- damage ---------------------------------------------------------------------------------------

EXTREME = [
    struct.pack(form, value)
    for form in ("<I", ">I", "<Q", ">Q", "<H", ">H")
    for value in (0, 1, 0x7FFF, 0xFFFF, *((0x7FFFFFFF, 0xFFFFFFFF) if form[1] != "H" else ()))
]


def cut_off(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(rng.choice([len(content), min(200, len(content))]))]


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    reach = rng.choice([len(content), min(200, len(content))])
    for _ in range(rng.choice([1, 2, 8, 64, 1 + len(content) // 200])):
        changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def write_extremes(content: bytes, rng: random.Random) -> bytes:
    """Numbers that are as small or large as they can be, mostly where headers are."""
    changed = bytearray(content)
    ends = [(0, min(400, len(content))), (max(len(content) - 1500, 0), len(content))]
    for _ in range(rng.choice([1, 1, 4])):
        low, high = rng.choice([*ends, (0, len(content))])
        at, number = rng.randrange(low, high), rng.choice(EXTREME)
        changed[at : at + len(number)] = number[: len(content) - at]
    return bytes(changed)


def drop_part(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:first] + content[last:]


def repeat_part(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:last] + content[first:last] * rng.choice([1, 3]) + content[last:]


def fill_part(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content)) for _ in range(2))
    length = last - first
    filling = rng.choice([bytes(length), b"\xff" * length, rng.randbytes(length)])
    return content[:first] + filling + content[last:]


def encrypt(content: bytes, rng: random.Random) -> bytes:
    """All of it, or what follows the header."""
    kept = rng.choice([0, 0, 16, 64])
    return content[:kept] + rng.randbytes(max(len(content) - kept, 0))


def empty(content: bytes, rng: random.Random) -> bytes:
    return b""


def keep(content: bytes, rng: random.Random) -> bytes:
    return content


DAMAGES = [
    cut_off, cut_off, flip_bits, flip_bits, flip_bits, write_extremes, write_extremes, drop_part,
    repeat_part, fill_part, encrypt, empty, keep,
]  # fmt: skip
KINDS = [
    *["video"] * 10, *["image"] * 6, *["pickle"] * 5, *["list"] * 3, *["config"] * 3,
    *["features"] * 3, "manifest", *["weights"] * 5, *["checkpoint"] * 2,
]  # fmt: skip
SUFFIXES = {
    "video": [".avi", ".mp4", ".mkv", ".pkl", ".jpg"], "image": [".jpg", ".png"],
    "pickle": [".pkl", ".avi"], "list": [".list", ".avi"], "config": [".txt", ".yaml"],
    "features": [".npy", ".pkl"], "manifest": [".json"],
    "weights": [".pdparams", ".pth", ".npz", ".safetensors"], "checkpoint": [".ckpt"],
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A file to be read as one of a kind."""

    number: int
    kind: str
    path: Path
    what: str  # was done to which file


def make_case(number: int, bases: Path, folder: Path) -> Case:
    """The file of a case: first those that were thought out, then as many as are wanted."""
    if number < len(CRAFTED):
        kind, name, write = CRAFTED[number]
        path = folder / name
        write(path)
        return Case(number, kind, path, f"crafted {write.__name__}")
    rng = random.Random(number)
    kind = rng.choice(KINDS)
    base = rng.choice(sorted((bases / kind).iterdir()))
    content, others = base.read_bytes(), sorted(bases.glob("*/*"))
    damages = rng.choices(DAMAGES, k=rng.choice([1, 1, 1, 2, 3]))
    sum_bytes = 32 if kind == "checkpoint" and rng.random() < 0.7 else 0
    content = content[: len(content) - sum_bytes]
    for damage in damages:
        content = damage(content, rng) if content else content
    content += hashlib.sha256(content).digest() if sum_bytes else b""  # as who means harm does it
    is_other = rng.random() < 0.08  # a file of another kind under this name
    if is_other:
        base = rng.choice(others)
        content = base.read_bytes()
    suffix = base.suffix if rng.random() < 0.9 and not is_other else rng.choice(SUFFIXES[kind])
    path = folder / (base.name if kind == "manifest" and not is_other else f"case_{number}{suffix}")
    if kind in ("pickle", "list"):  # their paths are relative
        (folder / "in").mkdir()
        for part in ("video", "image", "pickle"):
            (folder / part).symlink_to(bases / part)
        path = folder / "in" / path.name
    path.write_bytes(content)
    done = "other file" if is_other else "+".join(damage.__name__ for damage in damages)
    return Case(number, kind, path, f"{done} {base.parent.name}/{base.name}")


# --- files that were thought out ------------------------------------------------------------------

CRAFTED: list[tuple[str, str, Callable[[Path], None]]] = []


def crafted(kind: str, name: str) -> Callable:
    """Add what writes a file of this kind and name."""

    def add(write: Callable[[Path], None]) -> Callable[[Path], None]:
        CRAFTED.append((kind, name, write))
        return write

    return add


def _jpeg(height: int, width: int, progressive: bool = False) -> bytes:
    import cv2
    import numpy as np

    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8), flags)[1].tobytes()


def _write_jpegs(path: Path, height: int, width: int, images: list[bytes]) -> None:
    """A video in Motion JPEG of these images, whatever their size is."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuvj420p"
        for number, image in enumerate(images):
            packet = av.Packet(image)
            packet.stream, packet.pts, packet.dts = stream, number, number
            container.mux(packet)


def _encode(path: Path, height: int, width: int, codec: str = "mjpeg", count: int = 2) -> None:
    """A grey video."""
    import av
    import numpy as np

    if codec == "mjpeg":
        return _write_jpegs(path, height, width, [_jpeg(height, width)] * count)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = height, width
        stream.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 90, np.uint8), "rgb24")
        for number in range(count):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _patch(path: Path, mark: bytes, offset: int, form: str, *numbers: int) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, content.index(mark) + offset, *numbers)
    path.write_bytes(content)


for _height, _width in ((1, 1), (1, 4000), (4000, 1), (3, 5), (17, 4000), (8000, 8000)):

    def _odd(path: Path, height: int = _height, width: int = _width) -> None:
        _encode(path, height, width, "mjpeg" if height * width > 10**7 else "png")

    _odd.__name__ = f"video_of_{_width}x{_height}"
    crafted("video", "odd.mov" if _height * _width < 10**7 else "odd.avi")(_odd)

    def _odd_images(path: Path, height: int = _height, width: int = _width) -> None:
        import cv2
        import numpy as np

        cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))

    _odd_images.__name__ = f"image_of_{_width}x{_height}"
    crafted("image", "odd.jpg")(_odd_images)
    crafted("image", "odd.png")(_odd_images)


for _size in (0xFFFF, 0x7FFFFFFF, 30000):

    def _avi_size(path: Path, size: int = _size) -> None:
        _encode(path, 48, 64)
        _patch(path, b"strf", 12, "<II", size, size)
        _patch(path, b"avih", 40, "<II", size, size)

    _avi_size.__name__ = f"avi_header_claims_{_size}"
    crafted("video", "claims.avi")(_avi_size)


@crafted("video", "claims.mp4")
def mp4_header_claims_a_size(path: Path) -> None:
    _encode(path, 48, 64, "mpeg4")
    _patch(path, b"mp4v", 28, ">HH", 65535, 65535)


@crafted("video", "claims.mp4")
def mp4_claims_four_billion_frames(path: Path) -> None:
    _encode(path, 48, 64, "mpeg4")
    _patch(path, b"stsz", 8, ">II", 1, 0xFFFFFFF0)
    _patch(path, b"stts", 12, ">I", 0xFFFFFFF0)
    _patch(path, b"stsc", 16, ">I", 0xFFFFFFF0)


@crafted("video", "claims.mp4")
def mp4_claims_eighty_million_frames(path: Path) -> None:
    _encode(path, 48, 64, "mpeg4")
    _patch(path, b"stsz", 8, ">II", 1, 80_000_000)
    _patch(path, b"stts", 12, ">I", 80_000_000)
    _patch(path, b"stsc", 16, ">I", 80_000_000)


@crafted("video", "claims.mp4")
def fragment_claims_eighty_million_frames(path: Path) -> None:
    import av
    import numpy as np

    options = {"movflags": "frag_keyframe+empty_moov"}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    _patch(path, b"trun", 4, ">II", 1, 80_000_000)  # nothing of each but its number


@crafted("video", "grows.avi")
def video_that_grows(path: Path) -> None:
    _write_jpegs(path, 48, 64, [_jpeg(48, 64)] * 2 + [_jpeg(6000, 6000)] * 2)


@crafted("video", "grows.mpg")
def elementary_stream_that_grows(path: Path) -> None:
    small, large = path.with_name("small.mpg"), path.with_name("large.mpg")
    _encode(small, 48, 64, "mpeg1video")
    _encode(large, 4000, 4000, "mpeg1video", 1)
    path.write_bytes(small.read_bytes() + large.read_bytes())


@crafted("video", "raw.avi")
def raw_video_of_little_content(path: Path) -> None:
    _encode(path, 48, 64)
    _patch(path, b"strf", 12, "<II", 30000, 30000)
    content = path.read_bytes().replace(b"MJPG", b"I420")
    path.write_bytes(content)


@crafted("video", "none.mp4")
def mp4_of_no_frames(path: Path) -> None:
    _encode(path, 48, 64, "mpeg4", 0)


@crafted("video", "none.avi")
def avi_of_no_frames(path: Path) -> None:
    _encode(path, 48, 64, "mpeg4", 0)


@crafted("video", "one.avi")
def avi_of_one_frame(path: Path) -> None:
    _encode(path, 48, 64, "mpeg4", 1)


@crafted("video", "many.avi")
def avi_of_millions_of_empty_chunks(path: Path) -> None:
    _avi_of_chunks(path, b"00dc\0\0\0\0")


@crafted("video", "many.avi")
def avi_of_millions_of_tiny_frames(path: Path) -> None:
    _avi_of_chunks(path, b"00dc\2\0\0\0\xff\xd8")


def _avi_of_chunks(path: Path, chunk: bytes) -> None:
    _encode(path, 48, 64)
    content = path.read_bytes()
    at = content.index(b"movi") + 4
    chunks = chunk * 3_000_000
    path.write_bytes(content[:at] + chunks + content[at:])
    _patch(path, b"movi", -4, "<I", len(chunks) + 4)


@crafted("video", "sound.mp4")
def sound_alone(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for number in range(20):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            samples.sample_rate, samples.pts = 16000, number * 1024
            container.mux(stream.encode(samples))
        container.mux(stream.encode())


for _text in (
    "ffconcat version 1.0\nfile other.mp4\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
):
    for _suffix in (".avi", ".mp4", ".ts"):

        def _playlist(path: Path, text: str = _text) -> None:
            _encode(path.with_name("other.mp4"), 48, 64, "mpeg4")
            path.write_text(text)

        _playlist.__name__ = f"playlist_{_text[:8].strip()}"
        crafted("video", f"playlist{_suffix}")(_playlist)


@crafted("video", "video.avi")
def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@crafted("video", "clip.pkl")
def device_as_pickle(path: Path) -> None:
    path.symlink_to("/dev/zero")


for _name in ("pipe.mp4", "pipe.pkl", "pipe.npy"):

    def pipe(path: Path) -> None:
        os.mkfifo(path)

    crafted("features" if _name.endswith("npy") else "video", _name)(pipe)


@crafted("image", "pipe.jpg")
def pipe_as_image(path: Path) -> None:
    os.mkfifo(path)


@crafted("image", "zero.jpg")
def device_as_image(path: Path) -> None:
    path.symlink_to("/dev/zero")


for _kind, _name in {
    "video": "large.avi", "image": "large.jpg", "pickle": "large.pkl", "features": "large.npy",
    "weights": "large.pdparams", "config": "large.yaml", "manifest": "features.json",
}.items():  # fmt: skip

    def sparse_file_of_five_gigabytes(path: Path) -> None:
        path.touch()
        os.truncate(path, 5 << 30)

    crafted(_kind, _name)(sparse_file_of_five_gigabytes)


@crafted("image", "claims.jpg")
def jpeg_header_claims_four_billion_pixels(path: Path) -> None:
    content = bytearray(_jpeg(48, 64))
    struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, 65500, 65500)
    path.write_bytes(content)


@crafted("image", "hides.jpg")
def jpeg_whose_first_frame_is_small(path: Path) -> None:
    """A small frame in a comment, and bytes between the segments that a decoder passes over."""
    content = bytearray(_jpeg(48, 64))
    at = content.index(b"\xff\xc0")
    struct.pack_into(">HH", content, at + 5, 65500, 65500)
    small = b"\xff\xc0\0\x11\x08\0\x10\0\x10"
    path.write_bytes(content[:at] + b"\xff\xfe\0\x20" + small.ljust(30) + b"x\0\xff" + content[at:])


@crafted("image", "scans.jpg")
def jpeg_of_thousands_of_scans(path: Path) -> None:
    content = _jpeg(5000, 5000, progressive=True)
    at = content.rindex(b"\xff\xda")
    path.write_bytes(content[:at] + content[at:-2] * 3000 + b"\xff\xd9")


@crafted("image", "segments.jpg")
def jpeg_of_millions_of_segments(path: Path) -> None:
    content = _jpeg(48, 64)
    path.write_bytes(content[:2] + b"\xff\xfe\0\2" * 5_000_000 + content[2:])


for _size in ((100_000, 100_000), (0x7FFFFFFF, 1), (5000, 5000)):

    def _png(path: Path, size: tuple = _size) -> None:
        header = b"IHDR" + struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
        data = b"IDAT" + zlib.compress(bytes(3000))
        chunks = [header, data, b"IEND"]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks)))

    _png.__name__ = f"png_header_claims_{_size[0]}x{_size[1]}"
    crafted("image", "claims.png")(_png)


def _chunk(content: bytes) -> bytes:
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


@crafted("image", "text.png")
def png_with_a_text_of_gigabytes(path: Path) -> None:
    packer = zlib.compressobj(9)
    text = b"zTXta\0\0" + packer.compress(bytes(1 << 27)) + packer.flush()
    header = b"IHDR" + struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(200))
    chunks = [header, text, text, data, b"IEND"]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks)))


for _suffix in (".bmp", ".tiff", ".webp", ".ppm"):

    def _other_image(path: Path, suffix: str = _suffix) -> None:
        import cv2
        import numpy as np

        path.write_bytes(cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes())

    _other_image.__name__ = f"another_kind_of_image_{_suffix[1:]}"
    crafted("image", "other.jpg")(_other_image)


# A tuple that holds one twice that holds one twice, and so on: its hash and its text take for ever.
NESTED = b")q\0" + b"".join(b"h%c\x86q%c" % (n, n + 1) for n in range(60))
# Pickles that want memory or time. They need no more than the machine of pickle.
BOMBS = {
    "place_in_memo": b"\x80\x02]r" + struct.pack("<I", 0x7FFFFFFF // 2) + b".",
    "bytes_claimed": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 36) + b".",
    "text_claimed": b"\x80\x04X" + struct.pack("<I", 0xFFFFFFFF) + b".",
    "frame_claimed": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "number_claimed": b"\x80\x04\x8b" + struct.pack("<I", 0x7FFFFFFF) + b".",
    "nested_key": b"\x80\x02}" + NESTED + b"Ns.",
    "nested": b"\x80\x02" + NESTED + b".",
    "nested_deeply": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "dictionaries": b"\x80\x02(" + b"}" * 20_000_000 + b"l.",
    "sets": b"\x80\x04(" + b"\x8f" * 4_000_000 + b"l.",
    "nothings": b"\x80\x02(" + b"N" * 60_000_000 + b"l.",
    "marks": b"\x80\x02" + b"(" * 20_000_000 + b".",
    "long_digits": b"I" + b"9" * 3_000_000 + b"\n.",
    "no_end": b"\x80\x02N",
    "nothing": b".",
}  # fmt: skip
for _bomb, _content in BOMBS.items():
    for _kind, _name in {
        "pickle": "bomb.pkl", "weights": "bomb.pdparams", "checkpoint": "step_00000001.ckpt",
    }.items():  # fmt: skip

        def _write_bomb(path: Path, content: bytes = _content) -> None:
            digest = hashlib.sha256(content).digest() if path.suffix == ".ckpt" else b""
            path.write_bytes(content + digest)

        _write_bomb.__name__ = f"bomb_{_bomb}"
        crafted(_kind, _name)(_write_bomb)


for _what, _clip in {
    "huge_label": ("a", 10**30, [b"x"]),
    "label_of_many_digits": ("a", 10**6000, [b"x"]),
    "negative_label": ("a", -5, [b"x"]),
    "million_frames": ("a", 1, ["x.jpg"] * 1_200_000),
    "device_for_a_frame": ("a", 1, ["/dev/zero"]),
    "other_file_for_a_frame": ("a", 1, ["../../../../../../etc/passwd"]),
    "null_for_a_frame": ("a", 1, ["\0.jpg"]),
    "folder_for_a_frame": ("a", 1, ["."]),
    "long_name": ("a" * 10_000_000, 1, ["x" * 10_000_000]),
}.items():

    def _write_clip(path: Path, clip: tuple = _clip) -> None:
        path.write_bytes(pickle.dumps(clip, 4))

    _write_clip.__name__ = _what
    crafted("pickle", "clip.pkl")(_write_clip)


for _what, _header in {
    "terabytes": "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 8), }",
    "overflow": "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 8), }",
    "gigabytes": "{'descr': '<f4', 'fortran_order': False, 'shape': (500000000, 8), }",
    "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 8), }",
    "wide_text": "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (8, 8), }",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (8, 8), }",
    "nothing_wide": "{'descr': '|V0', 'fortran_order': False, 'shape': (10000000000, 8), }",
    "calls": "__import__('os').mkdir('made')",
    "nested": "(" * 5000,
    "sum": "1" + "+1" * 4000,
}.items():

    def _write_npy(path: Path, header: str = _header) -> None:
        text = header.encode() + b"\n"
        path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(256))

    _write_npy.__name__ = f"npy_header_of_{_what}"
    crafted("features", "claims.npy")(_write_npy)


@crafted("features", "claims.npy")
def npy_header_of_four_gigabytes(path: Path) -> None:
    path.write_bytes(b"\x93NUMPY\2\0" + struct.pack("<I", 0xFFFFFFFF) + bytes(100))


for _what, _text in {
    "nested": "[" * 100_000,
    "list": "[1, 2]",
    "text_for_a_number": '{"features": "x"}',
    "large": json.dumps({"trunk": "x" * 10_000_000}),
    "digits": '{"features": ' + "9" * 200_000 + "}",
}.items():

    def _write_manifest(path: Path, text: str = _text) -> None:
        path.write_text(text)

    _write_manifest.__name__ = f"manifest_{_what}"
    crafted("manifest", "features.json")(_write_manifest)


LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30)
)
for _what, _suffix, _text in (
    ("laughs", ".yaml", LAUGHS),
    ("laughs_inside", ".yaml", "x:\n" + LAUGHS.replace("a", " a") + "MODEL: {arguments: *a29}\n"),
    ("laughing_keys", ".yaml", "".join(
        f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}], k{n}: 1}}\n" if n
        else "a0: &a0 {k: 1}\n" for n in range(30)
    )),
    ("knot", ".yaml", "MODEL: &a {name: tsn_r18, num_classes: 2, arguments: {x: *a}}\n"),
    ("nested", ".yaml", "[" * 50_000),
    ("nested_mappings", ".yaml", "{a: " * 20_000),
    ("many_keys", ".yaml", "".join(f"k{n}: 1\n" for n in range(25_000))),
    ("python", ".yaml", "MODEL: !!python/object/apply:os.mkdir [made]\n"),
    ("number", ".yaml", "MODEL: {name: tsn_r18, num_classes: " + "9" * 100_000 + "}\n"),
    ("date", ".yaml", "MODEL: {name: 2001-99-99}\n"),
    ("large", ".yaml", "# comment\n" * 1_000_000),
    ("large", ".txt", "# comment\n" * 1_000_000),
    ("nested", ".txt", "[MODEL]\nname = " + "(" * 100_000),
    ("sum", ".txt", "[MODEL]\nname = 1" + "+1" * 100_000),
    ("minus", ".txt", "[MODEL]\nname = " + "-" * 200_000 + "1"),
    ("not", ".txt", "[MODEL]\nname = " + "not " * 50_000 + "1"),
    ("calls", ".txt", "[MODEL]\nname = f" + "()" * 100_000),
    ("attributes", ".txt", "[MODEL]\nname = f" + ".f" * 100_000),
    ("digits", ".txt", "[MODEL]\nname = " + "9" * 200_000),
    ("power", ".txt", "[MODEL]\nname = 9**9**9**9"),
    ("code", ".txt", "[MODEL]\nname = __import__('os').mkdir('made')"),
    ("nulls", ".txt", "[MODEL]\nname = \0\0\0"),
):  # fmt: skip

    def _write_config(path: Path, text: str = _text) -> None:
        path.write_text(text)

    _write_config.__name__ = f"config_{_what}"
    crafted("config", f"config{_suffix}")(_write_config)


for _what, _content in {
    "long_label": b"a.avi " + b"9" * 6000 + b"\n",
    "long_line": b"x" * 30_000_000,
    "spaces": b"a" + b" " * 3_000_000 + b"b",
    "spaces_and_digits": b"a 1" * 1_000_000 + b"b",
    "nulls": bytes(100_000),
    "devices": b"/dev/zero 1\n/dev/stdin 0\n/proc/self/mem 2\n",
    "above": b"../../../../../../../etc/passwd 1\n",
    "surrogates": b"\xed\xa0\x80.avi 1\n",
    "carriage_returns": b"a.avi 1\rb.avi 2\r",
}.items():

    def _write_list(path: Path, content: bytes = _content) -> None:
        path.write_bytes(content)

    _write_list.__name__ = f"list_{_what}"
    crafted("list", "clips.list")(_write_list)


@crafted("weights", "bomb.npz")
def archive_that_unpacks_to_gigabytes(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (800000000,), }\n"
    npy = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    first = packer.compress(npy) + packer.flush(zlib.Z_FULL_FLUSH)
    million = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = first + million * 3052 + packer.flush()
    size = len(npy) + 3052 * (1 << 20)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(packed), size, 5, 0)
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(packed), size, 5, 0, 0, 0, 0, 0, 0
    )
    body = local + b"a.npy" + packed
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry) + 5, len(body), 0)
    path.write_bytes(body + entry + b"a.npy" + end)


@crafted("weights", "repeats.pth")
def tensors_that_share_their_numbers(path: Path) -> None:
    import numpy as np
    from test_pytorch import Stored, Tensor, save_zip

    stored = Stored(np.zeros(5_000_000, np.float32))
    tensors = {f"w{n}": Tensor(stored, 0, (5_000_000,), (1,)) for n in range(500)}
    with torch_names() as name:
        save_zip(path, tensors, name)


@crafted("weights", "repeats.pdparams")
def arrays_that_share_their_numbers(path: Path) -> None:
    import numpy as np

    call = np.ones(1).__reduce__()[0]
    data = bytes(20_000_000)

    class Repeated:
        def __reduce__(self) -> tuple:
            state = (1, (5_000_000,), np.dtype("f4"), False, data)
            return call, (np.ndarray, (0,), b"b"), state

    path.write_bytes(pickle.dumps({f"w{n}": Repeated() for n in range(500)}, 4))


for _what, _text in {
    "length": (struct.pack("<Q", 1 << 62), b"{}"),
    "tensor": (b"", b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,8]}}'),
    "nested": (b"", b'{"a":' + b"[" * 100_000),
    "laughs": (b"", json.dumps({"__metadata__": {"config": LAUGHS}}).encode()),
    "config": (b"", json.dumps({"__metadata__": {"config": "x" * 5_000_000}}).encode()),
}.items():

    def _write_safetensors(path: Path, text: tuple = _text) -> None:
        length, header = text
        path.write_bytes((length or struct.pack("<Q", len(header))) + header + bytes(64))

    _write_safetensors.__name__ = f"safetensors_{_what}"
    crafted("weights", "claims.safetensors")(_write_safetensors)


# --- what paddlevid says of a case ----------------------------------------------------------------


def read_case(case: Case) -> str:
    """What came of it, "result" or "problem"; an error for whatever else comes."""
    return READERS[case.kind](case.path, random.Random(case.number))


def _named(problem: str, path: Path) -> str:
    name = path.name[-300:]  # a longer one is shortened
    assert name in problem, f"the problem does not name {name}: {problem[:300]}"
    assert len(problem) < 10_000, f"{len(problem)} characters: a flood"
    return "problem"


def _read_video(path: Path, rng: random.Random) -> str:
    from paddlevid.data.dataset import inspect_clip
    from paddlevid.data.decode import DecodeError, inspect_video, is_pickled, iterate_chosen
    from paddlevid.data.frames import write_frames

    outcome = _read_clip(path, rng)
    is_images = path.is_dir() or is_pickled(path)
    other = rng.randrange(4)
    if other == 0:
        return _one_of(bool(inspect_clip(path)[2]))
    if other == 1 and not is_images:
        return _one_of(bool(inspect_video(path).problem))
    try:
        if other == 2:
            for _ in iterate_chosen(path, lambda n, fps: [0, n - 1]):
                pass
        if other == 3 and not is_images:
            write_frames(path, path.with_name("frames"), short_side=32)
    except DecodeError as error:
        return _named(str(error), path)
    return outcome


def _one_of(is_problem: bool) -> str:
    return "problem" if is_problem else "result"


def _read_clip(path: Path, rng: random.Random) -> str:
    from paddlevid.data.dataset import HMDB51Dataset, ListError, Sample, VideoDataset, inspect_clip
    from paddlevid.data.decode import VideoDecoder, is_pickled
    from paddlevid.data.sample import SegmentSampler
    from paddlevid.data.transform import CenterCrop, Compose, Normalize, ResizeShortSide

    kind = HMDB51Dataset if is_pickled(path) else VideoDataset
    short_side = rng.choice([32, 32, 240])
    normalize = Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    transform = Compose([ResizeShortSide(short_side)], normalize, CenterCrop(32))
    label = None if is_pickled(path) else 1
    decoder = VideoDecoder(reduced_jpegs=rng.random() < 0.3)
    try:
        dataset = kind(
            [Sample(path, label, "case.list, line 1")], SegmentSampler(3), transform,
            decoder=decoder, num_classes=rng.choice([None, 51]), train=rng.random() < 0.5,
        )  # fmt: skip
    except ListError as error:
        return _named(str(error), path)
    item = dataset.fetch(0)
    if rng.random() < 0.2:
        inspect_clip(path)
    if item.views is None:
        return _named(item.problem, Path("case.list")) if item.fatal else _named(item.problem, path)
    assert item.views.shape == (1, 3, 3, 32, 32), item.views.shape
    return "result"


def _read_image(path: Path, rng: random.Random) -> str:
    return _read_video(path.parent, rng)


def _read_list(path: Path, rng: random.Random) -> str:
    from paddlevid.data.dataset import ListError, check_format, list_format, read_list

    try:
        samples = read_list(path)
        check_format(samples, list_format(samples))
    except ListError as error:
        return _named(str(error), path)
    outcomes = {_read_clip(samples[n].path, rng) for n in range(min(len(samples), 2))}
    return min(outcomes)


def _read_config(path: Path, rng: random.Random) -> str:
    from paddlevid.config import ConfigError, load_config

    try:
        load_config(path)
    except ConfigError as error:
        return _named(str(error), path)
    return "result"


def _read_features(path: Path, rng: random.Random) -> str:
    from paddlevid.data.dataset import Sample
    from paddlevid.data.features import FeatureDataset

    item = FeatureDataset([Sample(path, 0)], 8, 2).fetch(0)
    return _named(item.problem, path) if item.views is None else "result"


def _read_manifest(path: Path, rng: random.Random) -> str:
    from paddlevid.data.dataset import ListError
    from paddlevid.data.features import read_manifest

    try:
        read_manifest(path.parent).differences({"features": 8, "mean": (0.5, 0.5, 0.5)})
    except ListError as error:
        return _named(str(error), Path("features.json"))
    return "result"


def _read_weights(path: Path, rng: random.Random) -> str:
    from paddlevid.config import ConfigError, load_config
    from paddlevid.convert.conversion import convert
    from paddlevid.weights import WeightsError, load_weights, read_weights

    outcome = "result"
    try:
        file = read_weights(path)
        network = small_network()
        load_weights(network, convert(network, file).weights, path)
    except WeightsError as error:
        outcome = _named(str(error), path)
    if path.suffix == ".safetensors":
        try:
            load_config(path)
        except ConfigError as error:
            return _named(str(error), path)
    return outcome


def _read_checkpoint(path: Path, rng: random.Random) -> str:
    from paddlevid.checkpoint import load_checkpoint

    name = "step_00000001.ckpt"
    if path.name != name:
        path = path.rename(path.with_name(name))
    try:
        state, problems = load_checkpoint(path.parent)
    except FileNotFoundError as error:
        return _named(str(error), path)
    assert isinstance(state, dict) and not problems
    return "result"


READERS: dict[str, Callable[[Path, random.Random], str]] = {
    "video": _read_video, "image": _read_image, "pickle": _read_video, "list": _read_list,
    "config": _read_config, "features": _read_features, "manifest": _read_manifest,
    "weights": _read_weights, "checkpoint": _read_checkpoint,
}  # fmt: skip


# --- the watched process --------------------------------------------------------------------------


def memory(field: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM the most since `forget_peak`."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) << 10


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def work(folder: Path, first: int, last: int) -> None:
    """Run these cases; print their numbers before and what came of each after."""
    import traceback

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import conftest  # noqa: F401  paddle, set up

    from paddlevid.data.decode import limit_threads

    limit_threads(1)
    before = 0
    for number in range(first, last):
        place = folder / f"case_{number}"
        place.mkdir()
        case = make_case(number, folder / "bases", place)
        forget_peak()
        before = before or memory("VmRSS")
        print(json.dumps({"begin": number, "what": case.what, "rss": before}), flush=True)
        started = time.process_time()
        try:
            outcome = read_case(case)
        except Exception:
            outcome = traceback.format_exc()
        seconds = time.process_time() - started
        grown = memory("VmHWM") - before
        end = {"end": number, "outcome": outcome, "seconds": seconds, "grown": grown}
        print(json.dumps(end), flush=True)
        shutil.rmtree(place)


@dataclass
class Result:
    """What came of a case."""

    number: int
    what: str
    outcome: str  # "result", "problem", or what went wrong
    seconds: float = 0.0
    grown: int = 0  # bytes of memory, at the most

    @property
    def is_good(self) -> bool:
        """Whether it is as it should be."""
        return (
            self.outcome in ("result", "problem")
            and self.seconds <= SECONDS
            and self.grown <= BYTES
        )

    def __str__(self) -> str:
        return (
            f"case {self.number} ({self.what}): {self.seconds:.1f} s, {self.grown >> 20} MB more, "
            f"{self.outcome}"
        )


def run_cases(folder: Path, first: int, last: int) -> Iterator[Result]:
    """Run these cases in processes, each of which is ended where a case hangs or fills memory."""
    while first < last:
        command = [sys.executable, str(Path(__file__)), str(folder), str(first), str(last)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            watch = _Watch(process)
            threading.Thread(target=watch.run, daemon=True).start()
            messages = _Drain(process.stderr)
            begun = None
            for line in process.stdout:
                if not line.startswith("{"):
                    continue  # what a library prints
                entry = json.loads(line)
                if "begin" in entry:
                    begun = entry
                    watch.begin(entry["rss"])
                else:
                    watch.end()
                    yield Result(
                        entry["end"], begun["what"], entry["outcome"], entry["seconds"],
                        entry["grown"],
                    )  # fmt: skip
                    first, begun = entry["end"] + 1, None
            process.wait()
        watch.over = True
        if first < last:
            why = watch.reason or f"the process ended with {process.returncode}"
            if begun is None:
                raise RuntimeError(f"before case {first}: {why}\n{messages.tail()}")
            yield Result(first, begun["what"], f"{why}\n{messages.tail()}", watch.seconds)
            shutil.rmtree(folder / f"case_{first}", ignore_errors=True)
            first += 1


class _Drain:
    """Keeps the end of what a process says on stderr."""

    def __init__(self, stream: Iterator[str]) -> None:
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._run, args=(stream,), daemon=True)
        self._thread.start()

    def _run(self, stream: Iterator[str]) -> None:
        with contextlib.suppress(ValueError):  # it was closed
            for line in stream:
                self._lines = [*self._lines[-30:], line]

    def tail(self) -> str:
        self._thread.join(1)
        return "".join(self._lines)[-3000:]


class _Watch:
    """Kills a process that takes too long for a case, or too much memory."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process
        self._started: float | None = None
        self._limit = 0
        self.reason, self.over, self.seconds = "", False, 0.0

    def begin(self, rss: int) -> None:
        self._limit, self._started = rss + BYTES + (1 << 27), time.perf_counter()

    def end(self) -> None:
        self._started = None

    def run(self) -> None:
        while not self.over and self._process.poll() is None:
            time.sleep(0.02)
            started = self._started
            if started is None:
                continue
            self.seconds = time.perf_counter() - started
            if self.seconds > WAIT:
                self._end(f"it hangs: {self.seconds:.0f} s")
            elif (found := self._rss()) > self._limit:
                self._end(f"it takes {found >> 20} MB")

    def _end(self, reason: str) -> None:
        self.reason, self.over = reason, True
        self._process.kill()

    def _rss(self) -> int:
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

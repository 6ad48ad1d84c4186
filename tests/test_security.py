"""Nobody let in: files run no code, fill no memory, and lead to no place outside the target."""

import codecs
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import frames_of, write_video
from fuzz import LAUGHS, NESTED
from paddle import nn
from test_decode import encode
from test_program import Listed

from data_tools import avi2jpg, extract_features, jpg2pkl
from paddlevid import build, pickles, program
from paddlevid.checkpoint import load_checkpoint
from paddlevid.config import ConfigError, load_config
from paddlevid.data.dataset import HMDB51Dataset, ListError, Sample, VideoDataset, read_list
from paddlevid.data.decode import DecodeError, count_frames, decode, read_pickled_clip
from paddlevid.data.faults import BadSamplesError
from paddlevid.data.features import FeatureDataset, read_manifest
from paddlevid.data.loader import Loader
from paddlevid.data.moving_mnist import FixedSequences
from paddlevid.data.sample import SegmentSampler
from paddlevid.data.transform import CenterCrop, Compose, Normalize
from paddlevid.models import create_model
from paddlevid.pickles import WeightsError, read_pickle
from paddlevid.weights import describe, read_weights, write_weights

ROOT = Path(__file__).parents[1]

# --- code in files --------------------------------------------------------------------------------

# Pickles that make the folder {made}, by each of the ways in which a pickle can call something.
CALLS = {
    "reduce": "cos\nmkdir\n(V{made}\ntR.",
    "inst": "(V{made}\nios\nmkdir\n.",
    "obj": "(cos\nsystem\nVmkdir {made}\no.",
    "eval": "cbuiltins\neval\n(V__import__('os').mkdir('{made}')\ntR.",
    "dotted": "\x80\x04\x8c\x02os\x8c\x0dpath.os.mkdir\x93(V{made}\ntR.",
    "getattr": "cbuiltins\ngetattr\n(cos\npath\nVos\ntRp0\n0cbuiltins\ngetattr\n(g0\nVmkdir\ntR"
    "(V{made}\ntR.",
    "in_a_key": "(cos\nmkdir\n(V{made}\ntRNd.",
    "numpy": "cnumpy\nfromfile\np0\n0cos\nmkdir\n(V{made}\ntR.",
}  # fmt: skip


def payload(call: str, made: Path) -> bytes:
    return CALLS[call].replace("{made}", str(made)).encode("latin1")


def npy_of_object(content: bytes) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content


def write_pth(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)


def write_npz(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", npy_of_object(content))


def write_tar(path: Path, content: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            (path.parent / name).write_bytes(content)
            archive.add(path.parent / name, name)


def write_sequence(path: Path, content: bytes) -> None:
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + content)


def fetch(path: Path) -> None:
    """Raise what a data set says of a clip."""
    normalize = Normalize((0.5,) * 3, (0.5,) * 3)
    dataset = HMDB51Dataset(
        [Sample(path, None, "a.list, line 1")], SegmentSampler(1),
        Compose([], normalize, CenterCrop(8)),
    )  # fmt: skip
    item = dataset.fetch(0)
    if item.problem:
        raise DecodeError(item.problem)


def fetch_features(path: Path) -> None:
    item = FeatureDataset([Sample(path, 0)], 8).fetch(0)
    if item.problem:
        raise DecodeError(item.problem)


# File, how it is written around a pickle, how it is read here, how a careless program reads it.
PICKLES: dict[str, tuple[Callable, Callable, str]] = {
    "clip.pkl": (Path.write_bytes, fetch, "pickle.load(open(path, 'rb'))"),
    "clip.npy": (
        lambda path, content: path.write_bytes(npy_of_object(content)),
        fetch_features,
        "numpy.load(path, allow_pickle=True)",
    ),
    "sequences.npy": (
        lambda path, content: path.write_bytes(npy_of_object(content)),
        lambda path: FixedSequences(path, 2),
        "numpy.load(path, allow_pickle=True)",
    ),
    "label_dir.npy": (
        lambda path, content: path.write_bytes(npy_of_object(content)),
        jpg2pkl.read_label_dir,
        "numpy.load(path, allow_pickle=True)",
    ),
    "w.npz": (write_npz, read_weights, "numpy.load(path, allow_pickle=True)['w']"),
    "w.pdparams": (Path.write_bytes, read_weights, "pickle.load(open(path, 'rb'))"),
    "w.pth": (
        write_pth,
        read_weights,
        "pickle.loads(zipfile.ZipFile(path).read('archive/data.pkl'))",
    ),
    "sequence.pth": (
        write_sequence,
        read_weights,
        "(lambda file: [pickle.load(file), pickle.load(file)])(open(path, 'rb'))",
    ),
    "tar.pth": (
        write_tar,
        read_weights,
        "pickle.load(tarfile.open(path).extractfile('pickle'))",
    ),
    "step_00000001.ckpt": (
        lambda path, content: path.write_bytes(content + hashlib.sha256(content).digest()),
        lambda path: load_checkpoint(path.parent),
        "pickle.load(open(path, 'rb'))",
    ),
}


def read_carelessly(reading: str, paths: list[Path]) -> None:
    """Read the files in another process, as a program does that trusts them."""
    code = (
        "import contextlib, numpy, pickle, sys, tarfile, yaml, zipfile\n"
        "for path in sys.argv[1:]:\n"
        "    with contextlib.suppress(Exception):\n"
        f"        {reading}\n"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True)


@pytest.mark.parametrize("name", PICKLES)
def test_code_in_a_pickle_is_refused_where_a_careless_reader_runs_it(tmp_path, name):
    write, read, careless = PICKLES[name]
    files = {}
    for call in CALLS:
        (tmp_path / call).mkdir()
        path = files[call] = tmp_path / call / name
        made = tmp_path / call / "made"
        write(path, payload(call, made))
        with pytest.raises((DecodeError, WeightsError, ValueError, FileNotFoundError)) as told:
            read(path)
        assert name in str(told.value)
        assert not made.exists()
    read_carelessly(careless, list(files.values()))
    assert {call for call in CALLS if (tmp_path / call / "made").exists()} == set(CALLS)


CONFIGS = {
    "apply.yaml": (
        "MODEL: !!python/object/apply:os.mkdir ['{made}']\n", "yaml.unsafe_load(open(path))",
    ),
    "new.yaml": (
        "MODEL: !!python/object/new:os.mkdir ['{made}']\n", "yaml.unsafe_load(open(path))",
    ),
    "key.yaml": (
        "? !!python/object/apply:os.mkdir ['{made}']\n: 1\n", "yaml.unsafe_load(open(path))",
    ),
    "code.txt": (
        "[MODEL]\nname = __import__('os').mkdir('{made}')\n",
        "eval(open(path).read().partition('=')[2].strip())",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_code_in_a_config_is_refused_where_a_careless_reader_runs_it(tmp_path, name):
    text, careless = CONFIGS[name]
    made = tmp_path / "made"
    (tmp_path / name).write_text(text.replace("{made}", str(made)))
    with pytest.raises(ConfigError, match=name):
        load_config(tmp_path / name)
    assert not made.exists()
    read_carelessly(careless, [tmp_path / name])
    assert made.exists()


def safetensors_with(config: str) -> bytes:
    header = json.dumps({"__metadata__": {"config": config}}).encode()
    return struct.pack("<Q", len(header)) + header


def test_code_in_the_config_of_weights_is_refused(tmp_path):
    text = f"MODEL: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n"
    (tmp_path / "w.safetensors").write_bytes(safetensors_with(text))
    with pytest.raises(ConfigError, match=r"w\.safetensors: not YAML: could not determine"):
        load_config(tmp_path / "w.safetensors")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("text", ["[1", "7", '{"a": 1}', "[1, 2]", "[" * 100_000])
def test_class_names_of_weights_that_are_none_are_told(small_config, tmp_path, text):
    header = json.dumps({"__metadata__": {"classes": text}}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ListError, match=r"w\.safetensors: its class names are "):
        build.read_classes(load_config(small_config), tmp_path / "w.safetensors")


def test_a_pickle_does_not_change_what_reads_it(tmp_path):
    """Attributes of the functions and classes that stand for NumPy's are set by no file."""
    before = pickles._Kind.array
    for target in ("numpy\ndtype", "_codecs\nencode", "numpy\nndarray", "collections\nOrderedDict"):
        state = b"(NV__doc__\nVchanged\nVarray\nVchanged\n"
        content = b"c" + target.encode() + b"\n(N" + state[2:].replace(b"V__doc__", b"(V__doc__")
        (tmp_path / "w").write_bytes(content + b"dtb.")
        with pytest.raises(WeightsError, match="it wants to change a "):
            read_pickle(tmp_path / "w")
    assert pickles._Kind.array is before


# --- files that would fill the memory or take for ever --------------------------------------------


def seconds_of(read: Callable, path: Path, error: type) -> float:
    started = time.perf_counter()
    with pytest.raises(error, match=path.name):
        read(path)
    return time.perf_counter() - started


@pytest.mark.parametrize("text", [LAUGHS, "x:\n  " + LAUGHS.replace("\n", "\n  ")])
def test_aliases_that_stand_for_billions_are_refused_at_once(tmp_path, text):
    assert yaml.safe_load(text)  # they do no harm until they are shown or walked through
    (tmp_path / "a.yaml").write_text(text)
    assert seconds_of(load_config, tmp_path / "a.yaml", ConfigError) < 5
    (tmp_path / "a.safetensors").write_bytes(safetensors_with(text))
    assert seconds_of(load_config, tmp_path / "a.safetensors", ConfigError) < 5


def test_a_few_aliases_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "TRAIN: &reader {filelist: a.list, batch_size: 2}\n"
        "VALID: *reader\nTEST: {<<: *reader, batch_size: 3}\n"
        "MODEL: {name: tsn_r18, num_classes: 2}\n"
    )
    config = load_config(tmp_path / "a.yaml")
    assert (config.valid.batch_size, config.test.batch_size) == (2, 3)
    assert config.test.filelist == "a.list"


@pytest.mark.parametrize("name", ["a.yaml", "a.txt"])
def test_a_config_of_megabytes_is_refused(tmp_path, name):
    (tmp_path / name).write_text("# nothing\n" * 100_000)
    with pytest.raises(ConfigError, match=f"cannot read the config .*{name}: it has more than 262"):
        load_config(tmp_path / name)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"features": "8"}', '{"size": [1, "2"]}', "[]"])
def test_a_manifest_of_another_form_is_named(tmp_path, text):
    (tmp_path / "features.json").write_text(text)
    with pytest.raises(ListError, match=r"features\.json is damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}" + NESTED + b"Ns.", "it has a tuple for a key"),
        (b"\x80\x02(" + NESTED + b"Nd.", "it has a tuple for a key"),
        (b"\x80\x02}(" + NESTED + b"Nu.", "it has a tuple for a key"),
        (b"\x80\x04\x8f.", "which is no code that is read"),
        (b"\x80\x02\x82\1.", "which is no code that is read"),
        (b"\x80\x02(" + b"}" * 1_000_001 + b"l.", "it has more than 1,000,000 parts"),
        (pickle.dumps({(1 << 61) - 1 << 4: 0}, 2), "it has a number of 65 bits for a key"),
        (b"\x80\x05\x96" + struct.pack("<Q", 6 << 30) + b".", "it claims 6,442,450,944 bytes"),
        (b"\x80\x05\x97.", "which is no code that is read"),
    ],
    ids=["item", "dictionary", "items", "set", "extension", "many", "hash", "claim", "buffer"],
)
def test_a_pickle_that_takes_for_ever_is_refused(tmp_path, content, message):
    for name, read, error in (
        ("w.pdparams", read_weights, WeightsError),
        ("clip.pkl", read_pickled_clip, DecodeError),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=f"{name}.*{message}"):
            read(tmp_path / name)


def test_a_large_place_in_the_memo_takes_no_memory(tmp_path):
    import resource

    (tmp_path / "w").write_bytes(b"\x80\x02]r" + struct.pack("<I", 300_000_000) + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_pickle(tmp_path / "w") == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_arrays_far_larger_than_their_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "room_for", lambda path: 10_000)
    data = np.zeros(2000, np.float32)
    (tmp_path / "w").write_bytes(pickle.dumps({"a": data}, 4))
    assert len(read_pickle(tmp_path / "w")["a"]) == 2000
    state = data.__reduce__()[2]
    again = b"".join(pickle.dumps(data, 4)[:-1] for _ in range(2))
    assert state[1] == (2000,)
    (tmp_path / "w").write_bytes(again + b"\x86.")
    with pytest.raises(WeightsError, match="its arrays are far larger than the file"):
        read_pickle(tmp_path / "w")


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable, *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def test_what_a_pickle_makes_over_and_over_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "room_for", lambda path: 10_000)
    text, items = "x" * 2000, list(range(40))
    for made in (Call(codecs.encode, text, "latin1"), Call(tuple, items)):
        (tmp_path / "w").write_bytes(pickle.dumps([made], 4))
        assert len(read_pickle(tmp_path / "w")) == 1
        again = [Call(*made.call[:1], *made.call[1]) for _ in range(6)]
        (tmp_path / "w").write_bytes(pickle.dumps(again, 4))
        with pytest.raises(WeightsError, match="its arrays are far larger than the file"):
            read_pickle(tmp_path / "w")


def test_an_array_of_a_number_of_bytes_is_refused(tmp_path):
    make = np.zeros(3).__reduce_ex__(5)[0]
    call = Call(make, 3 << 30, np.dtype("u1"), (3 << 30,), "C")
    (tmp_path / "w").write_bytes(pickle.dumps(call, 4))
    with pytest.raises(WeightsError, match="it has an array of a int, not of bytes"):
        read_pickle(tmp_path / "w")
    array = np.arange(6.0).reshape(2, 3)  # protocol 5 makes such calls, with the bytes
    (tmp_path / "w").write_bytes(pickle.dumps(array, 5))
    np.testing.assert_array_equal(read_pickle(tmp_path / "w"), array)


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "w.npz", w=np.zeros(10_000_000, np.float32))
    assert len(read_weights(tmp_path / "w.npz").arrays["w"]) == 10_000_000  # 40 MB are well
    size = (tmp_path / "w.npz").stat().st_size
    assert size < 100_000
    monkeypatch.setattr("paddlevid.weights.room_for", lambda path: 10_000_000)
    with pytest.raises(WeightsError, match="it unpacks to 40,000,128 bytes, far more than the fil"):
        read_weights(tmp_path / "w.npz")


@pytest.mark.parametrize("label", [10**30, 10**6000, -(10**30)], ids=["large", "huge", "low"])
def test_a_label_that_no_network_has_is_a_bad_sample(tmp_path, label):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(("a", label, [b"x"])))
    with pytest.raises(DecodeError, match=r"a\.pkl: holds a tuple that is not the tuple"):
        read_pickled_clip(tmp_path / "a.pkl")


def test_a_label_of_thousands_of_digits_is_a_part_of_the_name(tmp_path):
    (tmp_path / "a.list").write_text("a.avi " + "9" * 6000 + "\n")
    (sample,) = read_list(tmp_path / "a.list")
    assert sample.label is None


# --- files that lead elsewhere --------------------------------------------------------------------

PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile other.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".ts", ".mkv"])
@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("backend", [None, "opencv"])
def test_a_playlist_that_is_called_a_video_opens_nothing_else(tmp_path, kind, suffix, backend):
    other = encode(tmp_path / "other.mp4", frames_of(3), "mpeg4")
    text = PLAYLISTS[kind].format(other=other, port=5004)
    (tmp_path / f"evil{suffix}").write_text(text)
    with pytest.raises(DecodeError, match=f"evil{suffix}: cannot be decoded"):
        count_frames(tmp_path / f"evil{suffix}", backend)


def test_the_playlist_of_the_test_does_lead_elsewhere(tmp_path):
    import av

    encode(tmp_path / "other.mp4", frames_of(3), "mpeg4")
    (tmp_path / "evil.avi").write_text(PLAYLISTS["concat"])
    with av.open(str(tmp_path / "evil.avi")) as container:  # as FFmpeg opens it by itself
        assert len(list(container.decode(video=0))) == 3


def test_a_percent_sign_in_a_name_is_no_row_of_images(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"a{number}.avi.png"), np.zeros((8, 8, 3), np.uint8))
        (tmp_path / f"a{number}.avi.png").rename(tmp_path / f"a{number}.avi")
    (tmp_path / "a%d.avi").write_text("no video")
    with pytest.raises(DecodeError, match="cannot be decoded"):
        decode(tmp_path / "a%d.avi", [0])


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


LINES = [
    "../../x.mp4", "../../../../../../etc/x.mp4", "/etc/x.mp4", "a/../../../x.mp4", "//x.mp4",
    "./../x.mp4", "link/x.mp4", "link/../../x.mp4", "../lists_beside/x.mp4", "~/x.mp4",
    "features.json", "train.list", "..", "a/..", "-x.mp4", "$(touch x).mp4", "a\x00b.mp4",
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_no_line_of_a_list_leads_features_out_of_the_target(tmp_path, line):
    lists, target = tmp_path / "lists", tmp_path / "out" / "target"
    for folder in (lists, target, tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    (lists / "link").symlink_to(tmp_path / "elsewhere")
    name = extract_features.npy_of(Sample(lists / line), lists / "train.list")
    place = os.path.normpath(target / name)
    assert place.startswith(f"{target}{os.sep}")
    assert place.endswith(".npy")


def test_a_hostile_list_leads_an_extraction_nowhere_else(tmp_path, monkeypatch, capsys):
    model = create_model("tsn_r18", num_classes=2, width=8)
    config = {
        "MODEL": {"name": "tsn_r18", "num_classes": 2, "arguments": {"width": 8},
                  "fixed_size": [36, 36]},
        "INFER": {"short_size": 36, "target_size": 36},
    }  # fmt: skip
    write_weights(tmp_path / "w.safetensors", model, describe(config, []))
    lists, elsewhere = tmp_path / "a" / "lists", tmp_path / "elsewhere"
    lists.mkdir(parents=True)
    video = write_video(elsewhere / "x.mp4", frames_of(2), "mp4v")
    (lists / "link").symlink_to(elsewhere)
    lines = ["../../elsewhere/x.mp4", str(video), "link/x.mp4", "link/../../elsewhere/x.mp4"]
    (lists / "train.list").write_text("".join(f"{line} 0\n" for line in [*lines, "../gone.mp4"]))
    monkeypatch.chdir(tmp_path)
    before = everything_below(tmp_path)
    flags = ["--model", "w.safetensors", "--frames", "uniform:2", "--engine", "eager"]
    assert extract_features.main(["a/lists/train.list", "target", *flags]) == 1  # one is gone
    made = everything_below(tmp_path) - before
    assert made and all(path.split("/")[0] == "target" for path in made)
    assert sum(path.endswith("x.mp4.npy") for path in made) >= 2
    assert "gone.mp4" in capsys.readouterr().err


HOSTILE = [
    "...", "..a", "-rf", "$(touch made)", "`touch made`", "a;touch made", "a\nb", "%s%n", "~",
    "a" * 200, "走路", "a\\..\\b",
]  # fmt: skip


def test_hostile_names_lead_no_tool_out_of_its_target(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source"
    for name in HOSTILE:
        folder = source / name
        folder.mkdir(parents=True)
        video = write_video(tmp_path / "one.avi", frames_of(2, 16, 16))
        video.rename(folder / f"{name}.avi")
    (tmp_path / "elsewhere").mkdir()
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    before = everything_below(tmp_path)
    assert avi2jpg.main(["source", "frames", "--workers", "1"]) == 0
    assert jpg2pkl.main(["frames", "pkl", "--workers", "1"]) == 0
    made = everything_below(tmp_path) - before
    assert {path.split("/")[0] for path in made} == {"frames", "pkl"}
    assert any(path.endswith("走路.pkl") for path in made)


def test_links_in_a_target_lead_nowhere(tmp_path, capsys):
    source, target, victim = tmp_path / "source", tmp_path / "target", tmp_path / "victim"
    write_video(source / "walk/a.avi", frames_of(2, 16, 16))
    victim.mkdir()
    (victim / "precious").write_text("mine")
    target.mkdir()
    (target / "walk").symlink_to(victim)
    (target / ".avi2jpg.json.partial").symlink_to(victim / "precious")
    words = [str(source), str(target), "--workers", "1"]
    assert avi2jpg.main(words) == 1
    assert "walk is a link out of" in capsys.readouterr().err
    assert [file.name for file in victim.iterdir()] == ["precious"]
    assert (victim / "precious").read_text() == "mine"
    (target / "walk").unlink()
    assert avi2jpg.main(words) == 0
    (tmp_path / "pkl").mkdir()
    (tmp_path / "pkl/walk").symlink_to(victim)
    assert jpg2pkl.main([str(target), str(tmp_path / "pkl"), "--workers", "1"]) == 1
    assert "walk is a link out of" in capsys.readouterr().err
    assert [file.name for file in victim.iterdir()] == ["precious"]


TRANSFORM = Compose([CenterCrop(8)], Normalize((0.5,) * 3, (0.5,) * 3))
EVIL = "\x1b]0;owned\x07\x1b[2Ja\nepoch 1 forged\rb\ud800"


def test_names_inside_files_control_no_terminal_and_forge_no_line(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(("n", 0, [f"{EVIL}.jpg"] * 3), 4))
    dataset = VideoDataset([Sample(tmp_path / "a.pkl", 0)], SegmentSampler(1, 1), TRANSFORM)
    loader = Loader(dataset, 1, max_bad_samples=0.5)
    with pytest.raises(BadSamplesError) as stopped:
        list(loader.batches())
    [reason] = loader.bad.values()
    assert r"\x1b]0;owned\x07\x1b[2Ja\nepoch 1 forged\rb\ud800.jpg" in reason
    for text in (reason, str(stopped.value).replace("\n", "")):
        assert text.isprintable() and text.encode()


def test_class_names_control_no_terminal(small_config, tmp_path):
    config = load_config(small_config)
    model, _ = build.build_model(config, fresh=True)
    names = [EVIL.replace("\ud800", ""), *map(str, range(1, config.model.num_classes))]
    write_weights(tmp_path / "w.safetensors", model, describe(config.to_dict(), names))
    assert all(
        name.isprintable() for name in build.read_classes(config, tmp_path / "w.safetensors")
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize(
    ("name", "read"),
    [("a.yaml", load_config), ("a.safetensors", load_config), ("a.list", read_list),
    ],
)  # fmt: skip
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name, read):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}.* it is a pipe or a device, not a file"):
        read(tmp_path / name)


def test_numbers_to_the_base_60_are_texts(tmp_path):
    for text in ("1:" * 100_000 + "1", "9" * 5000, "1:30.5"):
        (tmp_path / "a.yaml").write_text(f"MODEL: {{name: tsn_r18, num_classes: {text}}}")
        begin = time.monotonic()
        with pytest.raises(ConfigError, match="num_classes = .*: needs a whole number"):
            load_config(tmp_path / "a.yaml")
        assert time.monotonic() - begin < 5


def test_old_clips_behind_a_link_are_not_removed(tmp_path):
    write_video(tmp_path / "source/walk/a.avi", frames_of(2, 16, 16))
    assert avi2jpg.main([f"{tmp_path}/source", f"{tmp_path}/frames", "--workers", "1"]) == 0
    for folder in ("victim", "pkl"):
        (tmp_path / folder).mkdir()
    (tmp_path / "victim/old.pkl").touch()
    (tmp_path / "pkl/walk").symlink_to(tmp_path / "victim")
    (tmp_path / "pkl/jpg2pkl.json").write_text("{}")  # of another source: its clips would go
    assert jpg2pkl.main([f"{tmp_path}/frames", f"{tmp_path}/pkl", "--workers", "1"]) == 1
    assert (tmp_path / "victim/old.pkl").exists()


def test_classes_of_a_label_file_lead_nowhere(tmp_path, capsys):
    (tmp_path / "frames" / "a").mkdir(parents=True)
    np.save(tmp_path / "labels.npy", {"../../made": 0}, allow_pickle=True)
    flags = ["--label-dir", str(tmp_path / "labels.npy")]
    assert jpg2pkl.main([str(tmp_path / "frames"), str(tmp_path / "pkl"), *flags]) == 1
    assert "--label-dir knows no class 'a'" in capsys.readouterr().err
    assert not (tmp_path / "pkl").exists()


def test_the_name_inside_a_pickle_is_no_place(tmp_path):
    jpeg = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pkl").write_bytes(pickle.dumps(("../../made", 0, [jpeg])))
    before = everything_below(tmp_path)
    fetch(tmp_path / "in" / "a.pkl")
    assert everything_below(tmp_path) == before


# --- kept programs --------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Callable:
    """Whether a program is kept under a name; the first call makes it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = Listed(nn.Linear(3, 2))
    network.eval()
    program.make_program(network, [[None, 3]], "a network")
    return lambda: program.kept_program([[None, 3]], "a network") is not None


def test_a_kept_program_that_cannot_be_touched_is_used_all_the_same(kept, monkeypatch):
    def refuse(path):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert kept()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users as POSIX has them")
def test_a_program_of_another_user_is_not_run(kept, monkeypatch):
    assert kept()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    owner = program.cache_folder().stat().st_uid
    assert kept() == (owner == 0)  # root could do as it likes anyway
    (folder,) = program.cache_folder().iterdir()
    lstat = Path.lstat

    def of_another(path: Path) -> object:
        found = list(lstat(path))
        found[4] = 54321
        return os.stat_result(found)

    monkeypatch.setattr(Path, "lstat", of_another)
    assert not kept()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users as POSIX has them")
def test_a_program_that_others_can_change_is_not_run(kept):
    (folder,) = program.cache_folder().iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert kept()
    folder.chmod(0o777)
    assert not kept()


# --- the network ----------------------------------------------------------------------------------

HOOK = """
import os, sys

def note(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        family = arguments[1] if event == "socket.__new__" else getattr(arguments[0], "family", 0)
        if family != 1:  # AF_UNIX: pipes between processes
            with open(os.environ["NOTE"], "a") as file:
                file.write(f"{event} {arguments}\\n")

sys.addaudithook(note)
"""


@pytest.mark.slow
def test_training_and_prediction_open_no_connection(small_config, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    note = tmp_path / "note"
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "NOTE": str(note), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]

    listen = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()"
    run("-c", listen)
    assert "socket.bind" in note.read_text()  # the hook sees what it is to see
    note.unlink()
    threads = ["-o", "TRAIN.num_reader_threads=1", "--epoch", "1"]
    run(str(ROOT / "train.py"), "--config", str(small_config), "--save_dir", "run", *threads)
    run(str(ROOT / "infer.py"), "--weights", "run/best.safetensors", "--split", "test")
    clips = sorted(map(str, Path(load_config(small_config).test.filelist).parent.glob("*.pkl")))
    run(str(ROOT / "infer.py"), "--weights", "run/best.safetensors", *clips[:2])
    assert not note.exists(), note.read_text()


def test_video_datasets_take_the_limits_from_the_environment(video, monkeypatch):
    monkeypatch.setenv("PADDLEVID_MAX_FRAMES", "3")
    compose = Compose([], Normalize((0.5,) * 3, (0.5,) * 3), CenterCrop(8))
    dataset = VideoDataset([Sample(video, 0)], SegmentSampler(1), compose)
    problem = dataset.fetch(0).problem
    assert problem.startswith(f"{video}: the video has ")
    assert problem.endswith("raise PADDLEVID_MAX_FRAMES")

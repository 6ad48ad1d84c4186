"""Datasets: lists as people write them, and one clip for an index, the same everywhere."""

import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import frames_of, write_video

from paddlevid.data import video as videos
from paddlevid.data.dataset import (
    HMDB51Dataset,
    ListError,
    Sample,
    VideoDataset,
    check_format,
    list_format,
    read_list,
)
from paddlevid.data.decode import DecodeError, VideoDecoder, decode
from paddlevid.data.frames import write_frames
from paddlevid.data.loader import Loader
from paddlevid.data.sample import DenseSampler, LinspaceSampler, SegmentSampler
from paddlevid.data.transform import (
    Compose,
    JitterScale,
    Normalize,
    RandomCrop,
    RandomFlip,
    Resize,
    ResizeShortSide,
    TenCrops,
    UniformCrop,
)

ROOT = Path(__file__).parents[1]
PLAIN = Compose([], Normalize((0, 0, 0), (1, 1, 1)))
RANDOM = Compose([RandomCrop(40), RandomFlip()], Normalize((0, 0, 0), (1, 1, 1)))


def lines(folder: Path, text: str | bytes) -> Path:
    """A list file of this content."""
    file = folder / "some.list"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def pkl(path: Path, label: int = 0, frames: list | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    path.write_bytes(pickle.dumps((path.stem, label, frames or [image] * 4)))
    return path


# --- list files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name", "label"),
    [
        ("walk/a.avi 3", "walk/a.avi", 3),
        ("walk/a.avi\t3", "walk/a.avi", 3),
        ("walk/a.avi   3  ", "walk/a.avi", 3),
        ("my walk/a b.avi 12", "my walk/a b.avi", 12),
        ("my walk/a b.avi\t12", "my walk/a b.avi", 12),
        ("挥手/片段 1.avi 0", "挥手/片段 1.avi", 0),
        ("a.pkl", "a.pkl", None),
        ("a b.pkl", "a b.pkl", None),
        ("a.pkl 4", "a.pkl", 4),
        ("a.avi -1", "a.avi", -1),
        ("a.avi", "a.avi", None),
        ("a.avi ²", "a.avi ²", None),
        ("a.avi 1.5", "a.avi 1.5", None),
        ("a --5", "a --5", None),
        ("7", "7", None),
        ("x" * 300 + " 1", "x" * 300, 1),
        ("next\x85line.avi 1", "next\x85line.avi", 1),
    ],
)
def test_a_line_is_a_path_and_perhaps_a_label(tmp_path, line, name, label):
    file = lines(tmp_path, f"{line}\n")
    assert list(read_list(file)) == [Sample(tmp_path / name, label, f"{file}, line 1")]


def test_byte_order_mark_windows_line_ends_and_empty_lines_do_no_harm(tmp_path):
    file = lines(tmp_path, b"\xef\xbb\xbfa.avi 1\r\n\r\n  \t\r\nb.avi 2")
    samples = read_list(str(file))
    assert [(s.path.name, s.label) for s in samples] == [("a.avi", 1), ("b.avi", 2)]
    assert samples[1].place == f"{file}, line 4"


def test_absolute_paths_stay_and_others_count_from_the_list(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    file = lines(tmp_path, "/data/a.avi 1\n../b.avi 2\n")
    assert [s.path for s in read_list(file)] == [Path("/data/a.avi"), tmp_path / "../b.avi"]


def test_a_suffix_may_be_left_out(tmp_path):
    for name in ("a.mp4", "b.c.avi", "d.avi"):
        (tmp_path / name).touch()
    (tmp_path / "d").mkdir()
    samples = read_list(lines(tmp_path, "a 1\nb.c 2\nd 3\ngone 4\n"))
    assert [s.path.name for s in samples] == ["a.mp4", "b.c.avi", "d", "gone"]


def test_a_folder_to_predict_may_have_a_number_at_its_end(tmp_path):
    (tmp_path / "walk 1").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run 2").mkdir()
    samples = read_list(lines(tmp_path, "walk 1\nwalk 1 5\nrun 2\n"))
    assert [(s.path.name, s.label) for s in samples] == [
        ("walk 1", None),
        ("walk 1", 5),
        ("run", 2),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: it needs a clip a line"),
        (b"\n  \r\n", "is empty: it needs a clip a line"),
        (
            "挥手.avi 1".encode("gbk"),
            "is not a list file, a text with a clip a line: it is not in UTF-8",
        ),
    ],
)
def test_a_list_that_is_none_is_an_error(tmp_path, content, message):
    with pytest.raises(ListError, match=rf"some\.list {message}"):
        read_list(lines(tmp_path, content))


def test_a_list_that_is_missing_or_a_folder_is_an_error(tmp_path):
    with pytest.raises(ListError, match=r"there is no list file .*gone\.list"):
        read_list(tmp_path / "gone.list")
    with pytest.raises(ListError, match="is not a list file, .*: Is a directory"):
        read_list(tmp_path)


def test_a_list_of_another_kind_than_announced_is_an_error_that_names_the_line(tmp_path):
    pkl(tmp_path / "a.pkl")
    (tmp_path / "frames").mkdir()
    (tmp_path / "odd.data").touch()
    for kind, good, bad in [
        ("pkl", "a.pkl", "frames"),
        ("jpg", "frames", "b.avi"),
        ("mp4", "b.avi", "a.pkl"),
        ("video", "b.mp4", "frames"),
        ("jpg", "frames", "odd.data"),
    ]:
        check_format(read_list(lines(tmp_path, f"{good} 0\n")), kind)
        samples = read_list(lines(tmp_path, f"{good} 0\n{bad} 0\n"))
        message = rf"some\.list, line 2: '{bad}' is not one of the .*MODEL\.format = '{kind}'"
        with pytest.raises(ListError, match=message):
            check_format(samples, kind)


@pytest.mark.parametrize("kind", ["jpg", "video"])
def test_a_clip_that_is_gone_is_of_no_wrong_kind(tmp_path, kind):
    check_format(read_list(lines(tmp_path, "gone 0\n")), kind)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.pkl\ngone.avi 0\n", "pkl"),
        ("gone.pkl\n", "pkl"),
        ("frames 0\nb.avi 1\n", "jpg"),
        ("b.avi 0\nframes 1\n", "video"),
        ("gone.mp4 0\n", "video"),
        ("odd.data 0\n", "video"),
        ("gone 0\nlost 1\nframes 2\n", "jpg"),  # what is not there may be of any kind
        ("gone 0\na.pkl 1\n", "pkl"),
        ("gone 0\nlost 1\n", "video"),
    ],
)
def test_the_format_of_a_list_is_told_by_its_first_clip_that_is_there(tmp_path, text, expected):
    pkl(tmp_path / "a.pkl")
    (tmp_path / "frames").mkdir()
    (tmp_path / "odd.data").touch()
    samples = read_list(lines(tmp_path, text))
    assert list_format(samples) == expected
    check_format(samples[:1], expected)


# --- labels ---------------------------------------------------------------------------------------


def dataset_of(samples, transform=PLAIN, sampler=None, **options) -> HMDB51Dataset:
    return HMDB51Dataset(samples, sampler or SegmentSampler(3), transform, **options)


def videos_of(samples, transform=PLAIN, sampler=None, **options) -> VideoDataset:
    return VideoDataset(samples, sampler or SegmentSampler(3), transform, **options)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.avi 5", "line 2: label 5 is outside 0 .. 4; MODEL.num_classes is 5, the list needs at "
         "least 6"),
        ("a.avi -1", "line 2: label -1 is negative; labels count from 0"),
        ("a.avi", r"line 2: needs `path label`, got 'a\.avi'"),
        ("frames", r"line 2: needs `path label`, got 'frames'"),
    ],
)  # fmt: skip
def test_a_label_that_does_not_fit_is_an_error_that_names_the_line(tmp_path, line, message):
    samples = read_list(lines(tmp_path, f"b.avi 4\n{line}\n"))
    for make in (dataset_of, videos_of):
        with pytest.raises(ListError, match=message):
            make(samples, num_classes=5)
        assert len(make(samples)) == 2


def test_a_list_of_videos_has_its_labels_in_its_lines_even_for_a_pickle(tmp_path):
    pkl(tmp_path / "a.pkl", 3)
    samples = read_list(lines(tmp_path, "a.pkl 1\na.pkl\n"))
    assert videos_of(samples[:1], num_classes=4).fetch(0).label == 1
    with pytest.raises(ListError, match=r"some\.list, line 2: needs `path label`, got 'a\.pkl'"):
        videos_of(samples, num_classes=4)
    assert videos_of(samples).fetch(1).label == -1  # the one inside is not looked at


def test_the_label_of_a_pickle_is_inside_unless_the_list_says_another(tmp_path):
    pkl(tmp_path / "a.pkl", 3)
    data = dataset_of(read_list(lines(tmp_path, "a.pkl\na.pkl 1\n")), num_classes=4)
    assert [data.fetch(i).label for i in range(2)] == [3, 1]


def test_a_label_in_a_pickle_that_does_not_fit_is_fatal_not_a_bad_clip(tmp_path):
    pkl(tmp_path / "a.pkl", 7)
    data = dataset_of(read_list(lines(tmp_path, "a.pkl\n")), num_classes=4)
    item = data.fetch(0)
    assert item.fatal and item.views is None
    assert "some.list, line 1: label 7 is outside 0 .. 3" in item.problem
    with pytest.raises(ListError, match="label 7 is outside"):
        data[0]


def test_a_clip_without_label_has_minus_one(video):
    assert dataset_of([Sample(video)]).fetch(0).label == -1


# --- bad clips ------------------------------------------------------------------------------------


def test_fetching_never_raises(tmp_path, video, monkeypatch):
    (tmp_path / "text.avi").write_text("text" * 99)
    (tmp_path / "empty.avi").touch()
    (tmp_path / "cut.avi").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    (tmp_path / "none.pkl").write_bytes(b"text")
    (tmp_path / "nothing").mkdir()
    names = ["gone.avi", "text.avi", "empty.avi", "cut.avi", "none.pkl", "gone.pkl", "nothing"]
    names += ["x" * 300, "null\0.avi"]
    data = dataset_of([Sample(tmp_path / name, 0) for name in names], num_classes=1)
    for index, name in enumerate(names):
        item = data.fetch(index, 3)
        assert (item.index, item.views, item.label, item.fatal) == (index, None, -1, False)
        assert name in item.problem
    with pytest.raises(DecodeError, match=r"gone\.avi: does not exist"):
        data[0]


def test_a_strange_exception_is_a_bad_clip_named_with_its_kind(video):
    def broken(clip, rng):
        raise MemoryError("much too large")

    data = dataset_of([Sample(video, 0)], Compose([broken], PLAIN.normalize))
    assert data.fetch(0).problem == f"{video}: MemoryError: much too large"


def test_a_frame_smaller_than_the_crop_is_a_bad_clip(video):
    data = dataset_of([Sample(video, 0)], Compose([RandomCrop(99)], PLAIN.normalize))
    assert "clip.avi: ValueError: cannot crop 99x99 from frames of 64x48" in data.fetch(0).problem


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [videos_of, dataset_of])
def test_a_line_with_and_one_without_a_suffix_name_the_same_video(tmp_path, video, make):
    data = make(read_list(lines(tmp_path, "clip.avi 2\nclip 1\n")), num_classes=3)
    views, label = data[0]
    assert views.shape == (1, 3, 3, 48, 64) and views.dtype == np.float32
    np.testing.assert_array_equal(views[0], PLAIN.normalize(decode(video, [3, 10, 16])))
    np.testing.assert_array_equal(data.fetch(1).views, views)
    assert (label, data.fetch(1).label) == (2, 1)


def test_the_frames_are_those_of_the_decoder_and_its_rate_goes_to_the_sampler(video):
    asked = []

    def decoder(path, choose, new_size):
        indices = choose(600, 60.0)
        asked.append((path, indices.tolist(), new_size(48, 64)))
        return np.full((len(indices), 8, 8, 3), 51, np.uint8)

    sampler = LinspaceSampler(4, 10)
    data = videos_of([Sample(video, 0)], PLAIN, sampler, decoder=decoder, num_clips=2)
    views, _ = data[0]
    assert views.shape == (2, 3, 4, 8, 8) and np.allclose(views, 0.2)
    clips = [sampler(600, None, phase, 60.0).tolist() for phase in (0.25, 0.75)]
    assert asked == [(video, [*clips[0], *clips[1]], (48, 64))]
    assert clips[0] != sampler(600, None, 0.25).tolist()


@pytest.mark.parametrize("first", [ResizeShortSide(20), JitterScale(16, 60), Resize(20, 31)])
def test_a_decoder_that_resizes_gives_the_same_views_as_one_that_does_not(video, first):
    def whole(path, choose, new_size):
        return VideoDecoder()(path, choose)

    transform = Compose([first, RandomCrop(16), RandomFlip()], PLAIN.normalize)
    for epoch in range(4):
        options = {"train": True, "num_clips": 2}
        ours = videos_of([Sample(video)], transform, **options).fetch(0, epoch)
        plain = videos_of([Sample(video)], transform, decoder=whole, **options).fetch(0, epoch)
        np.testing.assert_array_equal(ours.views, plain.views)


def test_the_rate_of_a_real_video_decides_which_frames_are_taken(tmp_path):
    frames = frames_of(40)
    slow, fast = (write_video(tmp_path / f"{fps}.avi", frames, fps=fps) for fps in (15, 60))
    data = videos_of([Sample(slow), Sample(fast)], PLAIN, LinspaceSampler(3, 5))
    for index, (path, wanted) in enumerate([(slow, [16, 19, 22]), (fast, [5, 19, 34])]):
        expected = PLAIN.normalize(decode(path, wanted))
        np.testing.assert_array_equal(data.fetch(index).views[0], expected)


def test_a_backend_can_be_chosen(video, monkeypatch):
    monkeypatch.setattr(videos, "BACKENDS", {"opencv": videos.BACKENDS["opencv"]})
    views = videos_of([Sample(video)], decoder=VideoDecoder("opencv")).fetch(0).views
    np.testing.assert_array_equal(views[0], PLAIN.normalize(decode(video, [3, 10, 16], "opencv")))


# --- classes that are not mirrored ----------------------------------------------------------------


@pytest.mark.parametrize("make", [videos_of, dataset_of])
@pytest.mark.parametrize("train", [True, False])
def test_clips_of_classes_that_are_not_mirrored_are_never_mirrored_and_others_are(
    tmp_path, video, make, train
):
    samples = [Sample(video, label) for label in range(4)] + [Sample(video)]
    flips = Compose([RandomFlip(1.0)], PLAIN.normalize)
    data = make(samples, flips, DenseSampler(20), train=train, no_flip=[1, 3])
    plain = PLAIN(decode(video, np.arange(20)), np.random.default_rng(0))
    for index, mirrored in enumerate([True, False, True, False, True]):
        views = data.fetch(index, 3).views
        np.testing.assert_array_equal(views, plain[..., ::-1] if mirrored else plain)


def test_a_class_that_is_not_mirrored_is_known_by_the_label_inside_its_pickle(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = 255
    encoded = cv2.imencode(".png", image)[1].tobytes()
    clips = [pkl(tmp_path / f"{label}.pkl", label, [encoded] * 4) for label in (0, 1)]
    flips = Compose([RandomFlip(1.0)], PLAIN.normalize)
    data = dataset_of([Sample(clip) for clip in clips], flips, num_classes=2, no_flip={1})
    left = [float(data.fetch(index).views[..., :32].mean()) for index in (0, 1)]
    assert left == [0.0, 1.0]


# --- draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [videos_of, dataset_of])
def test_the_loaders_processes_draw_what_this_one_draws(video, make):
    steps = [JitterScale(44, 60), RandomCrop(40), RandomFlip()]
    transform = Compose(steps, PLAIN.normalize)
    samples = [Sample(video, number % 2) for number in range(4)]
    data = make(
        samples, transform, LinspaceSampler(3, 2, 25.0), decoder=VideoDecoder("pyav"),
        num_classes=2, train=True, seed=9, no_flip=[1],
    )  # fmt: skip
    batches = []
    for num_workers in (0, 1):
        with Loader(data, 4, num_workers=num_workers) as loader:
            batches += loader.batches(epoch=2)
    here, there = batches
    assert here.clips.shape == (4, 3, 3, 40, 40)
    np.testing.assert_array_equal(here.clips, there.clips)
    assert here.labels.tolist() == there.labels.tolist() == [0, 1, 0, 1]
    assert len({clip.tobytes() for clip in here.clips}) == 4


def test_a_draw_depends_on_seed_epoch_and_index_only(video):
    samples = [Sample(video, 0)] * 3
    first, again, other = (dataset_of(samples, RANDOM, train=True, seed=seed) for seed in (1, 1, 2))
    again.fetch(2)
    again.fetch(0, 7)
    views = first.fetch(1, 5).views
    np.testing.assert_array_equal(again.fetch(1, 5).views, views)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).fetch(1, 5).views, views)
    for different in (first.fetch(2, 5), first.fetch(1, 4), other.fetch(1, 5)):
        assert different.views.shape == views.shape
        assert not np.array_equal(different.views, views)


def test_another_process_draws_the_same(video):
    script = (
        "import sys, zlib; from pathlib import Path\n"
        "from test_dataset import RANDOM, Sample, dataset_of\n"
        "data = dataset_of([Sample(Path(sys.argv[1]), 0)] * 3, RANDOM, train=True, seed=1)\n"
        "print(zlib.crc32(data.fetch(1, 5).views.tobytes()))"
    )
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    command = [sys.executable, "-c", script, str(video)]
    outside = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout
    data = dataset_of([Sample(video, 0)] * 3, RANDOM, train=True, seed=1)
    assert int(outside) == zlib.crc32(data.fetch(1, 5).views.tobytes())


def test_evaluation_is_the_same_whatever_the_epoch(video):
    data = dataset_of([Sample(video, 0)])
    np.testing.assert_array_equal(data.fetch(0, 0).views, data.fetch(0, 9).views)
    np.testing.assert_array_equal(data[0][0], data.fetch(0).views)


# --- one clip, four forms -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [videos_of, dataset_of])
def test_video_folder_and_both_kinds_of_pickle_are_the_same_clip(tmp_path, make):
    frames = frames_of(12)
    frames[:, 8:24, 8:32] = 40  # without colours a JPEG loses little
    video = write_video(tmp_path / "clip.avi", frames)
    folder = tmp_path / "clip"
    assert write_frames(video, folder, quality=100) == 12
    files = sorted(folder.iterdir())
    embedded = pkl(tmp_path / "embedded.pkl", frames=[file.read_bytes() for file in files])
    paths = pkl(tmp_path / "paths.pkl", frames=[f"clip/{file.name}" for file in files])
    data = make([Sample(path, 0) for path in (video, folder, paths, embedded)])
    from_video, *others = (data.fetch(index).views for index in range(4))
    assert from_video.shape == (1, 3, 3, 48, 64)
    for other in others:
        np.testing.assert_array_equal(other, others[0])
    assert np.abs(from_video - others[0]).max() * 255 <= 4
    assert np.abs(from_video - others[0]).mean() * 255 < 1


# --- views ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [videos_of, dataset_of])
def test_views_are_the_crops_of_the_first_clip_then_of_the_second(video, make):
    crops = Compose([Resize(40, 64)], PLAIN.normalize, UniformCrop(40))
    data = make([Sample(video, 0)], crops, DenseSampler(4, 2), num_clips=2)
    views = data.fetch(0).views
    assert views.shape == (6, 3, 4, 40, 40)
    frames = data.transform.steps[0]
    expected = [
        PLAIN.normalize(view)
        for start in (3, 9)  # a quarter and three quarters of the 13 frames that are to spare
        for view in UniformCrop(40)(frames(decode(video, start + 2 * np.arange(4))))
    ]
    np.testing.assert_array_equal(views, expected)
    ten = dataset_of([Sample(video, 0)], Compose([], PLAIN.normalize, TenCrops(40)), num_clips=3)
    assert ten.fetch(0).views.shape == (30, 3, 3, 40, 40)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n \n"])
def test_a_list_is_a_sequence_of_its_samples(tmp_path, end):
    file = lines(tmp_path, f"\ufeffa.avi 1\n\n  \nb.avi 2\r\nc.avi 3{end}")
    samples = read_list(file)
    assert [(s.path.name, s.label) for s in samples] == [("a.avi", 1), ("b.avi", 2), ("c.avi", 3)]
    assert [s.place for s in samples] == [f"{file}, line {n}" for n in (1, 4, 5)]
    assert samples[-1] == samples[2]
    assert samples[1:] == [samples[1], samples[2]]
    with pytest.raises(IndexError):
        samples[3]
    assert list(samples * 2) == [*samples, *samples]
    assert list(pickle.loads(pickle.dumps(samples))) == list(samples)


MEASURE_A_LIST = """
import sys, tracemalloc
from paddlevid.data.dataset import VideoDataset, read_list
from paddlevid.data.loader import Loader
from paddlevid.data.sample import SegmentSampler

tracemalloc.start()
data = VideoDataset(read_list(sys.argv[1]), SegmentSampler(3), None, num_classes=8)
next(Loader(data, 32, shuffle=True).indices())
print(tracemalloc.get_traced_memory()[1])
"""


def test_a_line_takes_less_than_200_bytes_of_memory(tmp_path):
    """With its text of 60, and the order of an epoch.

    In a process of its own: Path interns names, and the table of all such names of a process, which
    libraries have filled before, takes megabytes more when it has to grow just then.
    """
    count = 50_000
    text = "".join(
        f"train_256/playing_accordion/{i:011d}_000010_000020.mp4 7\n" for i in range(count)
    )
    file = lines(tmp_path, text)
    command = [sys.executable, "-c", MEASURE_A_LIST, file]
    measured = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(text) < int(measured.stdout) < 200 * count

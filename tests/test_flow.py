"""Optical flow: what it measures, how it is kept, and that reading it is computing it."""

import json

import cv2
import numpy as np
import pytest
from conftest import frames_of, write_video

from paddlevid.data.dataset import VideoDataset, inspect_clip, read_list
from paddlevid.data.decode import DecodeError, VideoDecoder, flow_files, frame_files
from paddlevid.data.flow import (
    METHODS,
    Flow,
    FlowDecoder,
    check_method,
    dequantise,
    quantise,
    read_note,
    write_flow,
)
from paddlevid.data.sample import SegmentSampler
from paddlevid.data.transform import (
    Compose,
    Letterbox,
    NormalizeFlow,
    RandomFlip,
    TenCrops,
    mirror_flow,
)

RNG = np.random.default_rng(0)
TEXTURE = cv2.GaussianBlur(RNG.uniform(0, 255, (240, 280)).astype(np.float32), (0, 0), 2)
TEXTURE = cv2.normalize(TEXTURE, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def moving(dx: float, dy: float, num_frames: int = 2, height: int = 128, width: int = 160):
    """Grey frames of a texture that moves dx, dy pixels a frame: (T, H, W)"""
    return np.stack(
        [
            cv2.warpAffine(
                TEXTURE, np.float64([[1, 0, t * dx - 60], [0, 1, t * dy - 60]]), (width, height)
            )
            for t in range(num_frames)
        ]
    )


def write_moving(path, dx, dy, num_frames=6, **size):
    """The same as a lossless video."""
    frames = moving(dx, dy, num_frames, **size)
    return write_video(path, np.repeat(frames[..., None], 3, axis=3), "FFV1")


def every(num_fields: int, fps: float = 0.0) -> np.ndarray:
    return np.arange(num_fields)


def fields_of(path, **flow) -> np.ndarray:
    return FlowDecoder(Flow(**flow))(path, every)


# --- the measure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in METHODS if m != "tvl1" or hasattr(cv2, "optflow")])
@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, -2), (-6.5, 4), (12, 0)])
def test_a_texture_that_moves_has_its_motion_as_flow(method, dx, dy):
    if method == "tvl1" and max(abs(dx), abs(dy)) > 4:
        pytest.skip("TV-L1 with OpenCV's values loses so fine a texture that moves so far")
    [field] = Flow(method).between("clip", iter(moving(dx, dy)))
    inside = dequantise(field, 20)[24:-24, 24:-24]
    assert np.abs(inside.mean(axis=(0, 1)) - (dx, dy)).max() < 0.2
    if method == "dis":
        assert np.percentile(np.abs(inside - (dx, dy)), 99) < 0.2


def test_levels_are_linear_and_off_by_half_a_level_at_most():
    pixels = np.linspace(-20, 20, 4001, dtype=np.float32)
    levels = quantise(pixels, 20)
    assert levels.dtype == np.uint8 and (levels[0], levels[2000], levels[-1]) == (0, 128, 255)
    assert np.abs(dequantise(levels, 20) - pixels).max() < 20 / 255 + 1e-5
    assert (quantise(np.float32([-99, -5, 5, 99]), 5) == [0, 0, 255, 255]).all()


def test_what_moves_further_than_the_bound_counts_as_the_bound():
    [field] = Flow(bound=4).between("clip", iter(moving(8, -8)))
    assert (field[40:-40, 40:-40] == [255, 0]).all()


def test_flow_of_the_mirrored_frames_is_the_mirrored_flow():
    frames = moving(5, -3, 3)
    fields, mirrored = (
        np.stack(list(Flow().between("clip", iter(part)))) for part in (frames, frames[:, :, ::-1])
    )
    ours = mirror_flow(fields)[:, 24:-24, 24:-24].astype(int)
    assert np.abs(ours - mirrored[:, 24:-24, 24:-24]).max() <= 2  # levels
    assert np.abs(ours[..., 0].mean() - (255 - 5 * 6.375 - 127.5)) < 1  # x turned around


def test_a_flip_of_training_and_the_last_five_crops_mirror_like_that():
    fields = RNG.integers(0, 256, (2, 6, 8, 2)).astype(np.uint8)
    flipped = RandomFlip(1.0, of_flow=True)(fields, RNG)
    assert (flipped[..., 0] == 255 - fields[:, :, ::-1, 0]).all()
    assert (flipped[..., 1] == fields[:, :, ::-1, 1]).all()
    views = TenCrops(4, of_flow=True)(fields)
    assert all((b == mirror_flow(a)).all() for a, b in zip(views[:5], views[5:], strict=True))


def test_bars_of_a_letterbox_do_not_move():
    box = Letterbox(8, 8, fill=128)(np.zeros((1, 4, 8, 2), np.uint8))
    assert (box[:, :2] == 128).all() and (box[:, 2:6] == 0).all()


def test_five_fields_become_ten_channels_x_and_y_in_turn():
    levels = np.arange(10 * 2, dtype=np.uint8).reshape(10, 1, 1, 2)
    clip = NormalizeFlow((0.5, 0.5), (0.226, 0.226), 5)(levels)
    assert clip.shape == (10, 2, 1, 1)
    expected = (np.arange(20).reshape(2, 10).T / 255 - 0.5) / 0.226  # channels, segments
    np.testing.assert_allclose(clip[:, :, 0, 0], expected, rtol=1e-5)


# --- files ----------------------------------------------------------------------------------------


def test_reading_what_was_written_is_computing_it(tmp_path):
    video = write_moving(tmp_path / "a.avi", 3, -2)
    assert write_flow(video, tmp_path / "a", quality=100, short_side=64) == 5
    assert sorted(file.name for file in (tmp_path / "a").iterdir())[::5] == [
        "flow_x_00001.jpg", "flow_y_00001.jpg",
    ]  # fmt: skip
    computed, read = fields_of(video, short_side=64), fields_of(tmp_path / "a")
    assert computed.shape == read.shape == (5, 64, 80, 2)
    assert np.abs(computed.astype(int) - read).max() <= 2  # of the JPEG
    assert (
        np.abs(dequantise(computed, 20)[:, 16:-16, 16:-16].mean((0, 1, 2)) - (1.5, -1)).max() < 0.1
    )


def test_fields_that_are_chosen_are_those_of_all(tmp_path):
    video = write_moving(tmp_path / "a.avi", 1, 1, 8)
    some = FlowDecoder()(video, lambda n, fps: np.array([5, 1, 1, 6]))
    assert (some == fields_of(video)[[5, 1, 1, 6]]).all()


def test_an_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    video = write_moving(tmp_path / "a.avi", 1, 1)
    monkeypatch.setattr("paddlevid.data.flow.quantise", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_flow(video, tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.avi"]


def write_published(folder, names=("flow_x", "flow_y"), num_fields=12, suffix="jpg"):
    """Fields whose levels tell their number, x from 0 and y from 100, as data sets have them."""
    folder.mkdir(parents=True)
    for number in range(num_fields):
        for name, level in zip(names, (number, 100 + number), strict=True):
            image = np.full((16, 20), level, np.uint8)
            cv2.imwrite(str(folder / f"{name}_{number + 1:05d}.{suffix}"), image)
    return folder


@pytest.mark.parametrize("names", [("flow_x", "flow_y"), ("x", "y")])
def test_published_folders_are_read_with_frames_beside_the_flow(tmp_path, names):
    folder = write_published(tmp_path / "v_1", names)
    for number in range(13):
        cv2.imwrite(str(folder / f"img_{number + 1:05d}.jpg"), np.full((16, 20, 3), 200, np.uint8))
    fields = fields_of(folder)
    assert (fields[..., 0] == np.arange(12)[:, None, None]).all()
    assert (fields[..., 1] == 100 + np.arange(12)[:, None, None]).all()
    if names[0] == "flow_x":
        assert len(frame_files(folder)) == 13
        assert (VideoDecoder()(folder, every) == 200).all()


def test_lines_of_published_lists_have_the_number_of_frames(tmp_path):
    write_published(tmp_path / "v 1")
    (tmp_path / "test.list").write_text("v 1 12 3\nv 1 4\n")
    samples = read_list(tmp_path / "test.list")
    assert [(sample.path.name, sample.label) for sample in samples] == [("v 1", 3), ("v 1", 4)]


def test_segments_of_five_fields_stay_inside_the_video(tmp_path):
    folder = write_published(tmp_path / "v_1")
    (tmp_path / "test.list").write_text("v_1 0\n")
    transform = Compose([], NormalizeFlow((0, 0), (1, 1), 5))
    dataset = VideoDataset(
        read_list(tmp_path / "test.list"), SegmentSampler(2, 5), transform, decoder=FlowDecoder()
    )
    views, label = dataset[0]
    assert views.shape == (1, 10, 2, 16, 20) and label == 0
    levels = np.round(views[0, :, :, 0, 0] * 255).astype(int)  # 12 fields: 6 for a segment
    assert levels[::2].T.tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 10, 11]]
    assert levels[1::2].T.tolist() == [[101, 102, 103, 104, 105], [107, 108, 109, 110, 111]]
    for number in range(4, 13):  # 3 fields are left: the last one is repeated
        for name in "xy":
            (folder / f"flow_{name}_{number:05d}.jpg").unlink()
    assert (np.round(dataset[0][0][0, ::2, :, 0, 0] * 255) <= 2).all()


def test_a_folder_of_flow_is_a_clip_for_lists_but_not_frames(tmp_path):
    folder = write_published(tmp_path / "v_1")
    assert inspect_clip(folder) == (12, None, "")
    (folder / "flow_x_00004.jpg").unlink()
    assert "flow_y_00004.jpg has no partner" in inspect_clip(folder)[2]
    (folder / "flow_y_00004.jpg").unlink()
    with pytest.raises(DecodeError, match="v_1: has no frames, but optical flow, which MODEL.moda"):
        VideoDecoder()(folder, every)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "flow_y_00003.jpg").unlink(),
         "v_1: flow_x_00003.jpg has no partner: .* it has 12 and 11"),
        (lambda folder: [file.unlink() for file in folder.glob("flow_x*")],
         "flow_y_00001.jpg has no partner: .* it has 0 and 12"),
        (lambda folder: (folder / "flow_y_00003.jpg").write_bytes(b"\xff\xd8\xff"),
         "flow_y_00003.jpg: the JPEG is cut off"),
        (lambda folder: cv2.imwrite(str(folder / "flow_y_00003.jpg"), np.zeros((9, 9), np.uint8)),
         "v_1: the x and the y image of number 2 differ in size"),
    ],
)  # fmt: skip
def test_flow_with_a_part_missing_is_a_readable_error(tmp_path, spoil, message):
    folder = write_published(tmp_path / "v_1")
    spoil(folder)
    with pytest.raises(DecodeError, match=message):
        fields_of(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: write_video(path, frames_of(1)), "a.avi: has a single frame; optical flow"),
        (lambda path: write_video(path, frames_of(3, 8, 8)), "no optical flow by dis between fram"),
        (lambda path: path.write_bytes(b""), "a.avi: is empty"),
        (lambda path: path.write_text("text" * 99), "a.avi: cannot be decoded"),
    ],
)
def test_a_video_without_flow_says_why(tmp_path, make, message):
    make(tmp_path / "a.avi")
    for read in (
        lambda: fields_of(tmp_path / "a.avi", short_side=0),
        lambda: write_flow(tmp_path / "a.avi", tmp_path / "a", short_side=0),
    ):
        with pytest.raises(DecodeError, match=message):
            read()
    assert not (tmp_path / "a").exists()


def test_methods_that_are_not_there_say_what_to_do(monkeypatch):
    monkeypatch.delattr(cv2, "optflow", raising=False)
    with pytest.raises(ValueError, match="pip install opencv-contrib-python-headless; or take dis"):
        check_method("tvl1")
    with pytest.raises(ValueError, match="'flownet': needs one of dis, tvl1, farneback"):
        check_method("flownet")


def test_a_note_says_how_the_flow_was_made(tmp_path):
    clip = tmp_path / "class" / "clip"
    assert read_note(clip) is None
    options = {"method": "farneback", "bound": 5, "short_side": 0, "quality": 90}
    (tmp_path / "extract_flow.json").write_text(json.dumps(options))
    assert read_note(clip) == Flow("farneback", 5.0, 0)
    (tmp_path / "extract_flow.json").write_text("{}")
    with pytest.raises(ValueError, match="extract_flow.json is damaged: extract the flow anew"):
        read_note(clip)


def test_files_that_are_no_flow_are_passed_over(tmp_path):
    folder = write_published(tmp_path / "v_1", num_fields=2)
    for name in ("flow_x_1.txt", "flow_z_00001.jpg", ".flow_x_00003.jpg", "flow_x_.jpg"):
        (folder / name).touch()
    assert len(flow_files(folder)) == 2

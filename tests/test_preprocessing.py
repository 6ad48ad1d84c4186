"""A video through our reader and through a plain pipeline: PyAV frames, OpenCV resize, NumPy."""

from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import frames_of, write_video
from numpy.typing import NDArray

from paddlevid import build
from paddlevid.config import Config, load_config
from paddlevid.data.dataset import Sample
from paddlevid.data.transform import resize

ROOT = Path(__file__).parents[1]
CONFIGS = ["tsn.txt", "eco.txt", "timesformer.yaml"]
CLIPS = sorted((ROOT.parent / "shared" / "clips").glob("*.[am][vp][i4]"))


def plain_tensor(config: Config, video: Path) -> NDArray[np.float64]:
    """The centre crop of a video's clip: (3, T, H, W)"""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    n, t, model = len(frames), config.model.seg_num, config.model
    if model.sampling == "linspace":  # a window of some seconds in the middle
        window = t * model.interval * fps / model.target_fps
        start = max(n - window, 0) / 2
        places = np.clip(np.linspace(start, start + window - 1, t), 0, n - 1)
    else:  # the middle of each of T equal parts
        places = (np.arange(t) + 0.5) * n / t
    size, short = config.infer.target_size, config.infer.short_size
    tensor = []
    for i in places.astype(int):
        height, width = frames[i].shape[:2]
        scale = short / min(height, width)
        sides = (round(width * scale), round(height * scale))
        frame = cv2.resize(frames[i], sides, interpolation=cv2.INTER_LINEAR)
        top, left = (frame.shape[0] - size) // 2, (frame.shape[1] - size) // 2
        frame = frame[top : top + size, left : left + size] / 255
        tensor.append((frame - np.array(model.image_mean)) / np.array(model.image_std))
    return np.stack(tensor).transpose(3, 0, 1, 2)


def assert_the_same(name: str, video: Path) -> None:
    config = load_config(ROOT / "configs" / name)
    reader = replace(config.infer, crops=1, num_reader_threads=0)
    with build.build_reader(config, reader, [Sample(video)], labelled=False) as loader:
        views, _ = loader.dataset[0]
    expected = plain_tensor(config, video)
    assert views.shape == (1, *expected.shape)
    levels = 255 * np.array(config.model.image_std).reshape(3, 1, 1, 1)
    difference = np.abs(views[0] - expected) * levels  # in grey levels
    # Two libraries may round a colour up or down when they leave YUV, and so may a resize.
    assert difference.max() < 2.5
    assert difference.mean() < 0.25
    assert np.ptp(expected * levels) > 60


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("codec", "suffix", "num_frames"),
    [("MJPG", ".avi", 40), ("XVID", ".avi", 300), ("mp4v", ".mp4", 7)],
)
def test_videos_that_are_made_here_give_the_same_tensor(name, codec, suffix, num_frames, tmp_path):
    frames = frames_of(num_frames, height=120, width=200)
    frames[:, 60:100, 100:180] = frames[:, ::-1][:, 60:100, 100:180] // 2  # not symmetric
    assert_the_same(name, write_video(tmp_path / f"a{suffix}", frames, codec))


@pytest.mark.skipif(not CLIPS, reason="there are no ../shared/clips")
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("video", CLIPS, ids=lambda path: path.name)
def test_real_videos_give_the_same_tensor(name, video):
    assert_the_same(name, video)


def test_resizing_has_pixel_centres_at_half_integers_and_no_anti_aliasing():
    row = np.random.default_rng(0).integers(0, 256, 320).astype(np.float64)
    frame = np.repeat(np.repeat(row[None, :, None], 240, axis=0), 3, axis=2).astype(np.uint8)
    places = (np.arange(128) + 0.5) * 320 / 128 - 0.5
    left = np.floor(places).astype(int)
    expected = row[left] + (places - left) * (row[left + 1] - row[left])
    got = resize(frame[None], 96, 128)[0]
    assert np.abs(got - expected[None, :, None]).max() <= 1  # eight bits

"""Encoding: what was written is read back with PyAV."""

import av
import numpy as np
import pytest

from paddlevid.data.encode import write_mp4

COLOURS = [(220, 30, 40), (30, 200, 60), (20, 40, 210), (128, 128, 128)]


def blocks(num_frames: int, height: int, width: int) -> np.ndarray:
    """Frames of four coloured quarters that get brighter: (T, H, W, 3)."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    for i, colour in enumerate(COLOURS):
        rows = slice(None, height // 2) if i < 2 else slice(height // 2, None)
        columns = slice(None, width // 2) if i % 2 == 0 else slice(width // 2, None)
        frames[:, rows, columns] = colour
    return frames + (np.arange(num_frames, dtype=np.uint8) * 5)[:, None, None, None]


def read(path):
    """The frames (T, H, W, 3), their times in seconds, and the stream's rate and codec."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
        return frames, [frame.time for frame in decoded], stream.average_rate, stream.codec.name


def test_all_frames_come_back_ten_a_second(tmp_path):
    write_mp4(tmp_path / "clip.mp4", blocks(6, 32, 48))
    frames, times, rate, codec = read(tmp_path / "clip.mp4")
    assert frames.shape == (6, 32, 48, 3)
    assert codec == "h264"
    assert float(rate) == 10
    np.testing.assert_allclose(np.diff(times), 0.1, rtol=1e-2)


def test_colours_come_back_within_some_grey_levels(tmp_path):
    frames = blocks(6, 64, 96)
    write_mp4(tmp_path / "clip.mp4", frames)
    difference = abs(read(tmp_path / "clip.mp4")[0].astype(int) - frames)
    for rows in (slice(6, 26), slice(38, 58)):  # away from the edges, where colours mix
        for columns in (slice(6, 42), slice(54, 90)):
            assert difference[:, rows, columns].max() <= 8
            assert difference[:, rows, columns].mean() <= 3


@pytest.mark.parametrize(("height", "width"), [(33, 47), (32, 47), (33, 48), (1, 1)])
def test_odd_sides_get_a_copy_of_their_last_pixels(tmp_path, height, width):
    written = blocks(1, height, width)
    write_mp4(tmp_path / "clip.mp4", written)
    frames = read(tmp_path / "clip.mp4")[0].astype(int)
    assert frames.shape == (1, height + height % 2, width + width % 2, 3)
    assert abs(frames[0, -1, -1] - written[0, -1, -1]).max() <= 8
    assert abs(frames[0, -1] - frames[0, height - 1]).mean() <= 3
    assert abs(frames[0, :, -1] - frames[0, :, width - 1]).mean() <= 3


def test_a_mirrored_view_is_written_as_it_looks(tmp_path):
    frames = blocks(2, 32, 32)
    for name, clip in {"view": frames[:, :, ::-1], "copy": frames[:, :, ::-1].copy()}.items():
        write_mp4(tmp_path / f"{name}.mp4", clip)
    view, copy = (read(tmp_path / f"{name}.mp4")[0] for name in ("view", "copy"))
    np.testing.assert_array_equal(view, copy)

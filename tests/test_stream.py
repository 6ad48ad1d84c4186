"""ECO's online mode against its schedule, with the frames kept and the whole network run."""

import os
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevid.data.transform import Compose, Normalize, Resize
from paddlevid.models import create_model
from paddlevid.models.eco import ECO
from paddlevid.predictor import Predictor
from paddlevid.stream import ECOStream, StateStream, Stepper, WindowStream, push_all, thin_out

# Frames kept of each queue, the oldest first, after 1, 2, ... queues of 16 (specification, 2.7).
SCHEDULE = [[16], [8, 8], [4, 4, 8], [2, 2, 4, 8], [1, 1, 2, 4, 8]]


def eco(name: str = "eco_full") -> ECO:
    """A narrow network whose scores tell frames and their order apart."""
    paddle.seed(0)
    model = create_model(name, num_classes=4, width=4)
    rng = np.random.default_rng(1)
    for layer in model.sublayers():
        if isinstance(layer, (nn.Conv2D, nn.Conv3D)):
            shape = layer.weight.shape
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
            layer.weight.set_value(values.astype(np.float32))
    weight = rng.normal(0, 100, model.fc.weight.shape)  # scores far from 1 / K
    model.fc.weight.set_value(weight.astype(np.float32))
    model.eval()
    return model


def eager(model: nn.Layer) -> Predictor:
    return Predictor(model, "eager")


def frames(num: int, seed: int = 0) -> np.ndarray:
    """Frames of one colour each on the left and another on the right: uint8 (T, 16, 16, 3)"""
    colours = np.random.default_rng(seed).integers(0, 256, (num, 1, 2, 3)).astype(np.uint8)
    return colours.repeat(16, axis=1).repeat(8, axis=2)


def one_view(clip, rng):
    """uint8 (1, H, W, 3) -> float32 (1, 3, 1, H, W)"""
    assert (clip.dtype, clip.shape[0], clip.shape[3]) == (np.uint8, 1, 3)
    return clip.transpose(3, 0, 1, 2)[None].astype(np.float32) / 128 - 1


def two_views(clip, rng):
    view = one_view(clip, rng)
    return np.concatenate([view, view[..., ::-1]])


def thinned(block: list, count: int) -> list:
    return [block[round(float(place))] for place in np.linspace(0, len(block) - 1, count)]


def kept_frames(num_queues: int) -> list[list[int]]:
    """The numbers of the frames in the memory after each queue of 16."""
    blocks, kept = [], []
    for number in range(num_queues):
        blocks.append(list(range(16 * number, 16 * number + 16)))
        blocks = blocks[-5:]
        counts = SCHEDULE[min(number, 4)]
        blocks = [thinned(block, count) for block, count in zip(blocks, counts, strict=True)]
        kept.append(sum(blocks, []))
    return kept


def scores_of(model: ECO, clip: np.ndarray, transform=one_view) -> np.ndarray:
    """Softmax of the whole network's logits for frames (T, H, W, 3), averaged over views."""
    views = np.concatenate([transform(frame[None], None) for frame in clip], axis=2)
    with paddle.no_grad():
        logits = model(paddle.to_tensor(views)).numpy().astype(np.float64).mean(axis=0)
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def pushed(stream: ECOStream, video: np.ndarray) -> list[np.ndarray]:
    """The scores that come when frames are pushed one by one."""
    return [scores for scores in map(stream.push, video) if scores is not None]


# --- the memory -----------------------------------------------------------------------------------


def test_sixteen_frames_are_shared_as_in_the_authors_script():
    blocks = []
    for number in range(8):
        queue = list(range(100 * number, 100 * number + 16))
        blocks = thin_out([*blocks, queue], 16, 5)
        assert [len(block) for block in blocks] == SCHEDULE[min(number, 4)]
        assert [block[0] // 100 for block in blocks] == list(range(max(0, number - 4), number + 1))


def test_the_frames_kept_are_those_of_the_schedule():
    blocks = []
    for number, expected in enumerate(kept_frames(9)):
        blocks = thin_out([*blocks, list(range(16 * number, 16 * number + 16))], 16, 5)
        assert sum(blocks, []) == expected
    assert expected[-8:] == [128, 130, 132, 134, 137, 139, 141, 143]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [[1], [1], [1]]),
        (2, [[2], [1, 1], [1, 1]]),
        (3, [[3], [1, 2], [1, 2]]),
        (4, [[4], [2, 2], [1, 1, 2], [1, 1, 2]]),
        (8, [[8], [4, 4], [2, 2, 4], [1, 1, 2, 4], [1, 1, 2, 4]]),
        (12, [[12], [6, 6], [3, 3, 6], [1, 2, 3, 6], [1, 2, 3, 6]]),
        (32, [[32], [16, 16], [8, 8, 16], [4, 4, 8, 16], [2, 2, 4, 8, 16], [2, 2, 4, 8, 16]]),
    ],
)
def test_other_numbers_of_frames_are_halved_likewise(size, expected):
    blocks = []
    for counts in expected:
        blocks = thin_out([*blocks, list(range(size))], size, 5)
        assert [len(block) for block in blocks] == counts


@pytest.mark.parametrize("max_blocks", [1, 2, 3, 5, 8])
def test_the_memory_is_always_full_in_order_and_half_new(max_blocks):
    for size in range(1, 41):
        blocks = []
        for number in range(10):
            queue = list(range(size * number, size * number + size))
            blocks = thin_out([*blocks, queue], size, max_blocks)
            kept = sum(blocks, [])
            assert len(kept) == size
            assert kept == sorted(set(kept))  # no frame twice
            assert 1 <= len(blocks) <= min(number + 1, max_blocks)
            assert all(blocks)
            new = sum(frame >= size * number for frame in kept)
            assert new == (size if len(blocks) == 1 else (size + 1) // 2)


def test_one_block_keeps_nothing_old():
    assert thin_out([[1, 2, 3, 4], [5, 6, 7, 8]], 4, 1) == [[5, 6, 7, 8]]


# --- the scores -----------------------------------------------------------------------------------


def test_scores_come_with_every_nth_frame():
    stream = ECOStream(eager(eco("eco_lite")), 3, one_view)
    came = [stream.push(frame) is not None for frame in frames(10)]
    assert came == [False, False, True] * 3 + [False]


@pytest.mark.parametrize(
    ("name", "transform"), [("eco_full", one_view), ("eco_lite", one_view), ("eco_full", two_views)]
)
def test_scores_are_the_running_mean_of_the_whole_network_on_the_memory(name, transform):
    model, video = eco(name), frames(16 * 7)
    got = pushed(ECOStream(eager(model), 16, transform), video)
    running, newest = None, []
    for kept in kept_frames(7):
        newest.append(scores_of(model, video[kept], transform))
        running = newest[-1] if running is None else (running + newest[-1]) / 2
        np.testing.assert_allclose(got[len(newest) - 1], running, rtol=0, atol=1e-5)
    assert np.abs(running - newest[-1]).max() > 0.005  # the mean differs from the last alone
    assert got[0].shape == (4,)
    assert np.sum(got, axis=1) == pytest.approx(1, abs=1e-5)


def test_views_change_the_scores():
    model, video = eco(), frames(8)
    one, two = (
        pushed(ECOStream(eager(model), 8, view), video)[0] for view in (one_view, two_views)
    )
    assert np.abs(one - two).max() > 0.005


def test_the_history_matters_for_the_scores():
    model = eco()
    video, other = frames(32), frames(16, seed=1)
    first = pushed(ECOStream(eager(model), 16, one_view), video)[-1]
    second = pushed(ECOStream(eager(model), 16, one_view), np.concatenate([other, video[16:]]))[-1]
    assert np.abs(first - second).max() > 0.005


def test_with_one_block_the_history_is_in_the_running_mean_only():
    model, video = eco(), frames(24)
    got = pushed(ECOStream(eager(model), 8, one_view, max_blocks=1), video)
    first, second, third = (scores_of(model, video[i : i + 8]) for i in (0, 8, 16))
    np.testing.assert_allclose(got[2], first / 4 + second / 4 + third / 2, rtol=0, atol=1e-5)


def test_the_2d_part_runs_once_a_frame_and_the_3d_part_once_a_queue():
    model = eco()
    frames_2d, volumes = [], []
    model.conv1.register_forward_pre_hook(lambda _, inputs: frames_2d.append(inputs[0].shape[0]))
    model.tail.register_forward_pre_hook(lambda _, inputs: volumes.append(list(inputs[0].shape)))
    pushed(ECOStream(eager(model), 4, one_view), frames(14))
    assert frames_2d == [1] * 14
    assert volumes == [[1, 6, 4, 2, 2]] * 3


def test_a_reset_stream_forgets_all():
    model = eco()
    stream = ECOStream(eager(model), 4, one_view)
    pushed(stream, frames(11))  # scores, a memory and a queue that is not full
    stream.reset()
    fresh = pushed(ECOStream(eager(model), 4, one_view), frames(9, seed=1))
    np.testing.assert_array_equal(pushed(stream, frames(9, seed=1)), fresh)


def test_scores_that_the_caller_changes_are_not_the_streams():
    video = frames(8)
    plain, changed = (ECOStream(eager(eco("eco_lite")), 4, one_view) for _ in range(2))
    expected = pushed(plain, video)
    for frame in video[:4]:
        scores = changed.push(frame)
    scores[:] = 0
    np.testing.assert_array_equal(pushed(changed, video[4:])[-1], expected[-1])


def test_streams_of_one_network_do_not_know_each_other():
    model = eco()
    videos = frames(8), frames(8, seed=1)
    streams = [ECOStream(eager(model), 4, one_view) for _ in videos]
    mixed = [[stream.push(f) for stream, f in zip(streams, pair, strict=True)]
             for pair in zip(*videos, strict=True)]  # fmt: skip
    for i, video in enumerate(videos):
        alone = pushed(ECOStream(eager(model), 4, one_view), video)
        np.testing.assert_array_equal([mixed[3][i], mixed[7][i]], alone)


def test_the_network_is_put_into_evaluation_mode_and_gets_no_gradients():
    model = eco()
    model.train()
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    stream = ECOStream(eager(model), 2, one_view)
    assert not any(layer.training for layer in model.sublayers())
    pushed(stream, frames(4))
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


def test_the_memory_does_not_grow():
    stream = ECOStream(eager(eco("eco_lite")), 4, one_view)
    for number, frame in enumerate(frames(40)):
        stream.push(frame)
        assert len(stream._queue) == (number + 1) % 4
        assert sum(map(len, stream._blocks)) == (4 if number >= 3 else 0)


# --- errors ---------------------------------------------------------------------------------------


def test_another_network_is_refused():
    model = create_model("tsn_r18", num_classes=2, width=8)
    with pytest.raises(ValueError, match="ECOStream needs an eco_lite or eco_full, not TSN"):
        ECOStream(eager(model), 4, one_view)


@pytest.mark.parametrize(
    ("num_frames", "max_blocks", "message"),
    [(0, 5, "num_frames = 0 and .* at least 1"), (4, 0, "max_blocks = 0 need at least 1")],
)
def test_numbers_below_one_are_refused(num_frames, max_blocks, message):
    with pytest.raises(ValueError, match=message):
        ECOStream(eager(eco("eco_lite")), num_frames, one_view, max_blocks)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((16, 16, 3), np.float32), r"got float32 \(16, 16, 3\)"),
        (np.zeros((16, 16), np.uint8), r"got uint8 \(16, 16\)"),
        (np.zeros((16, 16, 4), np.uint8), r"got uint8 \(16, 16, 4\)"),
        (np.zeros((1, 1, 16, 16, 3), np.uint8), r"or a few as \(T, H, W, 3\), got uint8 \(1, 1,"),
    ],
)
def test_anything_else_than_a_frame_is_refused(frame, message):
    stream = ECOStream(eager(eco("eco_lite")), 2, one_view)
    with pytest.raises(ValueError, match=message):
        stream.push(frame)
    assert stream.push(frames(1)[0]) is None  # the refused one does not count


# --- states and windows ---------------------------------------------------------------------------

SMALL = {"stem": 8, "stages": "8: 24@15 / 16: 40@53 40@33", "head": 24, "dense": 32, "alpha": 0.7}


def movinet(name: str = "movinet_a0_stream", **arguments: object) -> nn.Layer:
    paddle.seed(0)
    model = create_model(name, num_classes=4, **SMALL, **arguments)
    model.fc.weight.set_value(model.fc.weight * 30)  # scores far from 1 / K
    model.eval()
    return model


def probabilities(model: nn.Layer, clip: np.ndarray) -> np.ndarray:
    """Of a whole clip, uint8 (T, H, W, 3): (K,)"""
    views = np.concatenate([one_view(frame[None], None) for frame in clip], axis=2)
    with paddle.no_grad():
        return nn.functional.softmax(model(paddle.to_tensor(views))).numpy()[0]


@pytest.mark.parametrize("name", ["movinet_a0_stream", "movinet_a3_stream"])
@pytest.mark.parametrize("conv_type", ["2plus1d", "3d"])
def test_a_stream_of_states_says_what_the_network_says_of_the_video_so_far(name, conv_type):
    model, clip = movinet(name, conv_type=conv_type), frames(9)
    for key, parameter in model.named_parameters():
        if key.endswith("se.scale"):
            parameter.set_value(paddle.full([1], 0.3))
    stream = StateStream(Stepper(Predictor(model)), one_view)
    for t in range(4):
        np.testing.assert_allclose(
            stream.push(clip[t]), probabilities(model, clip[: t + 1]), atol=1e-5
        )
    np.testing.assert_allclose(stream.push(clip[4:]), probabilities(model, clip), atol=1e-5)
    stream.reset()
    np.testing.assert_allclose(stream.push(clip[2:]), probabilities(model, clip[2:]), atol=1e-5)
    assert np.abs(probabilities(model, clip) - probabilities(model, clip[2:])).max() > 1e-3


def test_with_a_memory_old_frames_count_less_and_less():
    model, old, new = movinet(), frames(1, 1).repeat(60, axis=0), frames(1, 2).repeat(30, axis=0)
    expected = probabilities(model, new)
    distances = []
    for memory in (0, 5):
        stream = StateStream(Stepper(Predictor(model)), one_view, memory)
        stream.push(old)
        distances.append(np.abs(stream.push(new) - expected).max())
        assert stream.state["count"].item() == (memory or 90)
    assert distances[0] > 10 * distances[1]
    short = StateStream(Stepper(Predictor(model)), one_view, 50)
    np.testing.assert_allclose(short.push(new), expected, atol=1e-5)  # as long as there are fewer


def test_frames_may_change_their_size_in_mid_stream():
    transform = Compose([Resize(16, 16)], Normalize((0, 0, 0), (1, 1, 1)))
    model, clip = movinet(), frames(6)
    larger = clip.repeat(2, axis=1).repeat(3, axis=2)  # of even colours: the same once resized
    for make in (
        lambda: StateStream(Stepper(Predictor(model)), transform),
        lambda: WindowStream(eager(model), 6, transform),
    ):
        plain, changing = make(), make()
        expected = plain.push(clip)
        changing.push(clip[:3])
        found = changing.push(larger[3:])
        np.testing.assert_allclose(found, expected, atol=0.02)


def test_streams_side_by_side_do_not_mix_and_are_one_batch(monkeypatch):
    model = movinet()
    stepper = Stepper(Predictor(model))
    videos = [frames(7, seed) for seed in range(3)]
    streams = [StateStream(stepper, one_view) for _ in videos]
    streams[1].push(videos[1][:2])  # it began earlier
    sizes, run = [], Stepper._run

    def watched(self, batch, arrays):
        sizes.append(len(batch))
        return run(self, batch, arrays)

    monkeypatch.setattr(Stepper, "_run", watched)
    push_all([streams[0], streams[1]], [videos[0][:3], videos[1][2:5]])
    push_all(streams, [videos[0][3], videos[1][5], videos[2][0]])
    found = push_all(streams, [videos[0][4:], videos[1][6:], videos[2][1:]])
    assert sizes == [2, 2, 2, 3, 3, 2, 2, 1, 1, 1]
    for scores, video in zip(found, videos, strict=True):
        np.testing.assert_allclose(scores, probabilities(model, video), atol=1e-5)


def test_a_window_has_the_newest_frames():
    model, clip = movinet("movinet_a0"), frames(12)
    stream = WindowStream(eager(model), 4, one_view, hop=3)
    found = [stream.push(frame) for frame in clip]
    assert [t for t, scores in enumerate(found) if scores is not None] == [5, 8, 11]
    for t in (5, 8, 11):
        expected = probabilities(model, clip[t - 3 : t + 1])
        np.testing.assert_allclose(found[t], expected, atol=1e-5)


def test_windows_of_several_videos_are_scored_together():
    model = movinet("movinet_a0")
    videos = [frames(4, seed) for seed in range(2)]
    predictor = eager(model)
    streams = [WindowStream(predictor, 4, two_views) for _ in videos]
    together = push_all(streams, videos)
    for scores, video in zip(together, videos, strict=True):
        alone = WindowStream(eager(model), 4, two_views).push(video)
        np.testing.assert_allclose(scores, alone, atol=1e-5)


def test_eco_takes_several_frames_at_once():
    clip = frames(9)
    one, several = (ECOStream(eager(eco("eco_lite")), 4, one_view) for _ in range(2))
    singly = [one.push(frame) for frame in clip]
    np.testing.assert_allclose(several.push(clip), singly[7], atol=1e-6)
    assert several.push(clip[:2]) is None


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0)])
def test_a_window_of_nothing_is_refused(sizes):
    with pytest.raises(ValueError, match="need at least 1"):
        WindowStream(eager(movinet()), sizes[0], one_view, sizes[1])


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_the_memory_of_a_stream_does_not_grow():
    stream, frame = StateStream(Stepper(Predictor(movinet())), one_view), frames(1)[0]
    for _ in range(300):
        stream.push(frame)
    before = resident_mb()
    for _ in range(600):
        stream.push(frame)
    assert resident_mb() - before < 5

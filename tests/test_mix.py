"""Mixing: what a clip holds of itself and of its partner is its share, and the labels say so."""

import numpy as np
import pytest

from paddlevid.data.mix import Mix, cutmix, mixup

LABELS = np.array([3, 8, 11, 20, 31], np.int64)


def batch(height: int = 12, width: int = 16) -> np.ndarray:
    """A clip for each label, all of whose values are the label: (N, C, T, H, W)."""
    clips = np.empty((len(LABELS), 3, 2, height, width), np.float32)
    clips[:] = LABELS[:, None, None, None, None]
    return clips


def rngs(count: int):
    return (np.random.default_rng(seed) for seed in range(count))


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_partners_are_clips_of_the_batch_each_used_once(mix):
    orders = set()
    for rng in rngs(20):
        mixed = mix(batch(), LABELS, 1.0, rng)
        assert mixed.labels.tolist() == LABELS.tolist()
        assert sorted(mixed.partners.tolist()) == LABELS.tolist()
        assert mixed.labels.dtype == mixed.partners.dtype == np.int64
        assert mixed.clips.dtype == np.float32 and mixed.clips.shape == batch().shape
        assert isinstance(mixed.share, float) and 0 <= mixed.share <= 1
        orders.add(tuple(mixed.partners.tolist()))
    assert len(orders) > 10


def test_mixup_is_the_weighted_mean_of_a_clip_and_its_partner():
    for rng in rngs(20):
        mixed = mixup(batch(), LABELS, 0.8, rng)
        values = mixed.share * LABELS + (1 - mixed.share) * mixed.partners
        expected = np.broadcast_to(values[:, None, None, None, None], mixed.clips.shape)
        np.testing.assert_allclose(mixed.clips, expected, rtol=1e-5)


def test_cutmix_pastes_one_box_of_the_partner_into_all_frames():
    boxes = set()
    for rng in rngs(40):
        mixed = cutmix(batch(), LABELS, 1.0, rng)
        different = mixed.partners != LABELS
        pasted = mixed.clips == mixed.partners[:, None, None, None, None]
        own = mixed.clips == LABELS[:, None, None, None, None]
        assert (pasted | own).all()
        box = pasted[different][0, 0, 0]  # (H, W)
        assert (pasted[different] == box).all()  # the same for all clips, channels and frames
        rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
        assert box.sum() == len(rows) * len(columns)
        assert all((np.diff(side) == 1).all() for side in (rows, columns))  # without a gap
        assert mixed.share == pytest.approx(1 - box.mean())  # what is left, not what was drawn
        boxes.add(box.tobytes())
    assert len(boxes) > 20


def test_the_box_of_cutmix_has_the_drawn_area_and_shape_unless_an_edge_cuts_it():
    class Drawn:
        """A generator that draws what it is told."""

        def __init__(self, share, y, x):
            self.share, self.place = share, [y, x]

        def permutation(self, count):
            return np.arange(count)[::-1]

        def beta(self, a, b):
            assert (a, b) == (0.7, 0.7)
            return self.share

        def uniform(self, low, high):
            return self.place.pop(0)

    def box(share, y, x):
        mixed = cutmix(batch(40, 80), LABELS, 0.7, Drawn(share, y, x))
        pasted = np.argwhere(mixed.clips[0, 0, 0] == LABELS[-1])
        corners = (*pasted.min(axis=0), *pasted.max(axis=0) + 1) if len(pasted) else ()
        return tuple(int(corner) for corner in corners), mixed.share

    assert box(0.75, 20, 40) == ((10, 20, 30, 60), 0.75)  # half of each side
    assert box(0.75, 0, 80) == ((0, 60, 10, 80), 0.9375)
    assert box(0.0, 20, 40) == ((0, 0, 40, 80), 0.0)
    assert box(1.0, 20, 40) == ((), 1.0)


def test_shares_are_drawn_from_the_beta_distribution():
    for alpha in (0.2, 1.0, 4.0):
        shares = [mixup(batch(1, 1), LABELS, alpha, rng).share for rng in rngs(2000)]
        assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
        assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.mark.parametrize("mix", [Mix(mixup=0.5), Mix(cutmix=0.5), Mix(0.5, 0.5)])
def test_a_batch_is_mixed_by_the_generator_alone_and_stays_as_it_was(mix):
    clips, labels = batch(), LABELS.copy()
    first, again, other = (mix(clips, labels, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(clips, batch())
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(first.clips, again.clips)
    assert first.partners.tolist() == again.partners.tolist() and first.share == again.share
    assert first.share != other.share


def test_without_mixing_a_batch_is_its_own_and_no_draw_is_made():
    rng = np.random.default_rng(0)
    clips = batch()
    for mixed in (Mix()(clips, LABELS, rng), Mix()(clips, LABELS, None)):
        assert mixed.clips is clips and mixed.share == 1
        assert mixed.labels.tolist() == mixed.partners.tolist() == LABELS.tolist()
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize(
    ("mix", "low", "high"),
    [(Mix(mixup=1.0), 0.0, 0.0), (Mix(cutmix=1.0), 1.0, 1.0), (Mix(1.0, 1.0), 0.4, 0.6)],
)
def test_where_both_are_on_a_batch_gets_either_by_chance(mix, low, high):
    mixes = [mix(batch(), LABELS, rng) for rng in rngs(400)]
    pasted = [
        np.isin(mixed.clips, LABELS).all()  # the mean of two labels is none of them
        for mixed in mixes
        if (mixed.partners != LABELS).any()
    ]
    assert len(pasted) > 380
    assert low <= np.mean(pasted) <= high


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_a_clip_alone_is_mixed_with_itself(mix):
    for rng in rngs(5):
        mixed = mix(batch()[:1], LABELS[:1], 0.5, rng)
        np.testing.assert_allclose(mixed.clips, batch()[:1], rtol=1e-6)
        assert mixed.partners.tolist() == [3]

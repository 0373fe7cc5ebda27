"""Plans as samples: the grid is kept, augmentations are what they say, randomness belongs to (seed, number)."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from trifold.floorplan.dataset import (
    Augmentation,
    FloorplanDataset,
    centred,
    collate,
    corner_key,
    count_corners,
    draw_corners,
    plan_spec,
    sample_from_plan,
)
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.procedural import generate_plan
from trifold.floorplan.rooms import RoomType

from .conftest import rectangle

# The 8 symmetries of the square: signed permutation matrices.
SQUARE = [
    np.array(m)
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1))
    for m in ([[signs[0], 0], [0, signs[1]]], [[0, signs[0]], [signs[1], 0]])
]
ONLY_SYMMETRIES = Augmentation(symmetries=True, shuffle_rooms=False, drop_sizes=0.0)


def moved(plan: Plan, dx: float, dy: float) -> Plan:
    return replace(plan, nodes=tuple(replace(n, polygon=n.polygon + np.array([dx, dy])) for n in plan.nodes))


def polygons(x0: np.ndarray, corners: tuple[int, ...]) -> list[np.ndarray]:
    return np.split(x0, np.cumsum(corners)[:-1])


def shoelace(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


# -------------------------------------------------------------------------------------------------------- centring


@pytest.mark.parametrize("seed", range(12))
def test_centring_keeps_integers_on_the_256_grid(seed):
    plan = generate_plan(seed)
    units = (centred(plan) + 1) * 128
    assert np.array_equal(units, units.round())
    low, high = units.min(axis=0), units.max(axis=0)
    assert (np.abs((low + high) / 2 - 128) <= 0.5).all()
    points = np.concatenate([n.polygon for n in plan.nodes])
    assert len(np.unique(units - points, axis=0)) == 1  # one shift for all


def test_centring_forgets_where_the_plan_was(small_plan):
    for dx, dy in ((0, 0), (17, -23), (-100.0, 3)):
        assert np.array_equal(centred(moved(small_plan, dx, dy)), centred(small_plan))
    off_grid = centred(moved(small_plan, 0.25, 0))  # a fraction of a unit is part of the plan
    assert np.abs(off_grid - centred(small_plan)).max() == 0.25 / 128


def test_frame_says_what_maps_to_one(small_plan):
    wide = replace(small_plan, frame=512.0)
    assert np.allclose(centred(wide), centred(small_plan) / 2, atol=1 / 512)
    with pytest.raises(ValueError, match=r"'small' is 180 units wide but its frame is 150"):
        centred(replace(small_plan, frame=150.0))
    full = Plan((Node(RoomType.LIVING, rectangle(0, 0, 256, 256)),), ())
    assert centred(full).min() == -1
    assert centred(full).max() == 1


def test_spec_by_hand(small_plan):
    spec = plan_spec(small_plan)
    assert spec.types == (1, 3, 4, 12, 12, 11)
    assert spec.corners == (6, 4, 4, 4, 4, 4)
    assert spec.indices == (1, 2, 3, 4, 5, 6)
    assert spec.links == {(0, 3), (1, 3), (0, 1), (1, 4), (2, 4), (1, 2), (0, 5)}
    square = 256.0**2
    assert spec.areas[:3] * square == pytest.approx([120 * 100 - 40 * 40, 56 * 50, 56 * 46])
    assert np.isnan(spec.areas[3:]).all()
    assert spec.sizes[:3] * 256 == pytest.approx(np.array([[120, 100], [56, 50], [56, 46]]))
    assert np.isnan(spec.sizes[3:]).all()


# ----------------------------------------------------------------------------------------------------- augmentation


def test_symmetries_are_exactly_those_of_the_square(small_plan):
    original, spec = centred(small_plan), plan_spec(small_plan)
    seen = set()
    for seed in range(80):
        sample = sample_from_plan(small_plan, ONLY_SYMMETRIES, np.random.default_rng(seed))
        fits = [i for i, m in enumerate(SQUARE) if np.array_equal(sample.x0, original @ m.T)]
        assert len(fits) == 1
        seen.add(fits[0])
        assert sample.spec.links == spec.links
        for before, after in zip(polygons(original, spec.corners), polygons(sample.x0, spec.corners), strict=True):
            assert shoelace(after) == pytest.approx(shoelace(before), rel=1e-12)
        told = ~np.isnan(sample.spec.areas)
        assert np.array_equal(sample.spec.areas[told], spec.areas[told])
        boxes = np.array([np.ptp(p, axis=0) / 2 for p in polygons(sample.x0, spec.corners)])
        told = ~np.isnan(sample.spec.sizes).any(axis=1)
        assert sample.spec.sizes[told] == pytest.approx(boxes[told])  # width and height change places with the plan
    assert seen == set(range(8))


def test_turned_plans_stay_on_the_grid():
    for seed in range(20):
        units = (sample_from_plan(generate_plan(seed), ONLY_SYMMETRIES, np.random.default_rng(seed)).x0 + 1) * 128
        assert np.array_equal(units, units.round())


def test_shuffling_renumbers_rooms_and_doors_apart(small_plan):
    augmentation = Augmentation(symmetries=False, shuffle_rooms=True, drop_sizes=1.0)
    plain = plan_spec(small_plan)
    orders = set()
    for seed in range(60):
        sample = sample_from_plan(small_plan, augmentation, np.random.default_rng(seed))
        assert sorted(sample.spec.indices[:3]) == [1, 2, 3]
        assert sorted(sample.spec.indices[3:]) == [4, 5, 6]
        assert (sample.spec.links, sample.spec.types) == (plain.links, plain.types)
        assert np.array_equal(sample.x0, centred(small_plan))
        orders.add(sample.spec.indices)
    assert len({order[:3] for order in orders}) == 6
    assert len({order[3:] for order in orders}) == 6


def test_sizes_are_hidden_as_often_as_it_says():
    plan = generate_plan(0)
    rooms = plan.num_rooms
    augmentation = Augmentation(symmetries=False, shuffle_rooms=False, drop_sizes=0.3)
    draws = [sample_from_plan(plan, augmentation, np.random.default_rng(seed)).spec for seed in range(600)]
    hidden = np.mean([np.isnan(s.areas).all() and np.isnan(s.sizes).all() for s in draws])
    assert hidden == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 600))
    told = np.mean([(~np.isnan(s.areas[:rooms])).mean() for s in draws])
    assert told == pytest.approx(0.35, abs=0.05)
    assert all(np.isnan(s.areas[rooms:]).all() for s in draws)  # doors have no size to tell


def test_no_augmentation_is_the_plan_itself(small_plan):
    sample = sample_from_plan(small_plan, None, np.random.default_rng(0))
    assert np.array_equal(sample.x0, centred(small_plan))
    assert sample.spec.indices == (1, 2, 3, 4, 5, 6)
    assert np.array_equal(sample.spec.areas, plan_spec(small_plan).areas, equal_nan=True)


# ---------------------------------------------------------------------------------------------------------- dataset


def same(one, two) -> bool:
    return (
        np.array_equal(one.x0, two.x0)
        and one.spec.indices == two.spec.indices
        and np.array_equal(one.spec.areas, two.spec.areas, equal_nan=True)
        and np.array_equal(one.spec.sizes, two.spec.sizes, equal_nan=True)
    )


def test_a_sample_is_a_function_of_seed_and_number(small_plan):
    source = [small_plan, generate_plan(1)]
    one, two = (FloorplanDataset(source, augmentation=Augmentation(), seed=3, repeat=True) for _ in range(2))
    forward = [one[i] for i in range(20)]
    backward = [two[i] for i in reversed(range(20))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    other = FloorplanDataset(source, augmentation=Augmentation(), seed=4, repeat=True)
    assert not all(same(forward[i], other[i]) for i in range(20))
    assert not all(same(forward[0], forward[i]) for i in range(0, 20, 2))  # repeats differ in their augmentation
    assert all(forward[i].spec.types == plan_spec(source[i % 2]).types for i in range(20))


def test_length_and_end(small_plan):
    finite = FloorplanDataset([small_plan] * 3)
    assert len(finite) == len(list(finite)) == 3  # type: ignore[call-overload]
    with pytest.raises(IndexError, match="sample 3 of 3"):
        finite[3]
    assert len(FloorplanDataset([small_plan] * 3, repeat=True)) == 2**31 - 1
    with pytest.raises(ValueError, match="holds no plans"):
        FloorplanDataset([])


def test_collate_packs_in_order(small_plan):
    samples = [sample_from_plan(p, None, np.random.default_rng(0)) for p in (small_plan, generate_plan(2))]
    batch = collate(samples, index_encoding="sincos", with_sizes=True)
    assert batch.x0.dtype == torch.float64
    assert np.array_equal(batch.x0[0].numpy(), np.concatenate([s.x0 for s in samples]))
    assert batch.cond.plan_lens == tuple(len(s.x0) for s in samples)
    assert batch.cond.specs == tuple(s.spec for s in samples)
    assert batch.cond.with_sizes
    moved_batch = batch.to("meta")
    assert {moved_batch.x0.device.type, moved_batch.cond.features.device.type} == {"meta"}


# ---------------------------------------------------------------------------------------------------- corner counts


def test_corner_counts_by_hand(small_plan):
    counts = count_corners([small_plan, small_plan])
    assert counts == {
        "1": [6, 6],  # the living room has an interior and a front door
        "1:2": [6, 6],
        "3": [4, 4],
        "3:2": [4, 4],
        "4": [4, 4],
        "4:1": [4, 4],
        "11": [4, 4],
        "11:0": [4, 4],
        "12": [4] * 4,
        "12:0": [4] * 4,
    }


def test_kept_counts_follow_the_distribution():
    def plan(corners: int) -> Plan:
        angles = np.arange(corners) * 2 * np.pi / corners
        return Plan((Node(RoomType.STUDY, 100 + 50 * np.stack([np.cos(angles), np.sin(angles)], 1)),), ())

    plans = [plan(4)] * 60 + [plan(6)] * 30 + [plan(8)] * 10
    kept = count_corners(plans, keep=11)["8"]
    assert len(kept) == 11
    assert kept == sorted(kept)
    shares = [Fraction(kept.count(n), 11) for n in (4, 6, 8)]
    assert [float(s) for s in shares] == pytest.approx([0.6, 0.3, 0.1], abs=0.1)


def test_corners_are_drawn_from_the_closest_list():
    counts = {"3:1": [5], "3": [7], "3:6": [9], "12": [4]}
    rng = np.random.default_rng(0)
    drawn = draw_corners([3, 3, 3, 3, 12, 2], [1, 2, 6, 40, 0, 1], counts, rng)
    assert drawn == [5, 7, 9, 9, 4, 4]  # 7: that door count was never seen; the last: nor was that type
    assert corner_key(3, 40) == "3:6"
    spread = draw_corners([3] * 400, [1] * 400, {"3:1": [4, 4, 4, 6]}, np.random.default_rng(1))
    assert np.mean(np.array(spread) == 6) == pytest.approx(0.25, abs=0.09)
    again = draw_corners([3] * 400, [1] * 400, {"3:1": [4, 4, 4, 6]}, np.random.default_rng(1))
    assert spread == again

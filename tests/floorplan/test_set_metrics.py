"""FID and KID against closed forms, features that ignore how a plan is turned, diversity and neighbours by hand."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.evaluation import evaluate_model
from trifold.floorplan.layouts import diversity, layout_distance, nearest_plans
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.procedural import HELD_OUT_START, generate_plan
from trifold.floorplan.rooms import RoomType
from trifold.floorplan.set_metrics import (
    FEATURES,
    LARGEST,
    feature_matrix,
    frechet_distance,
    inception_fid,
    kernel_distance,
    pictures,
    plan_features,
    set_distance,
)

from .conftest import rectangle
from .tiny import tiny_model


def _samples(mean: np.ndarray, cov: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[count, D] with exactly this mean and covariance (divisor count - 1)."""
    x = np.random.default_rng(seed).standard_normal((count, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T).reshape(len(mean), -1))).T
    return x @ np.linalg.cholesky(cov).T + mean


def _covariance(seed: int, size: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((size + 2, size))
    return x.T @ x / size + 0.01 * np.eye(size)


def _value(plan: Plan, name: str) -> float:
    """An unscaled feature."""
    centre, scale = FEATURES[name]
    return float(plan_features(plan)[list(FEATURES).index(name)]) * scale + centre


def _shaken(plan: Plan, size: float, seed: int = 0) -> Plan:
    rng = np.random.default_rng(seed)
    return replace(
        plan,
        nodes=tuple(replace(n, polygon=n.polygon + size * rng.standard_normal(n.polygon.shape)) for n in plan.nodes),
    )


def _changed(plan: Plan, matrix: np.ndarray, shift: float = 0.0, scale: float = 1.0) -> Plan:
    nodes = tuple(replace(n, polygon=scale * n.polygon @ matrix.T + shift) for n in plan.nodes)
    return replace(plan, nodes=nodes, metres_per_unit=plan.metres_per_unit / scale)


# -------------------------------------------------------------------------------------------------------- FID and KID


def test_fid_of_gaussians_on_a_line() -> None:
    a = _samples(np.array([1.0]), np.array([[4.0]]), 50, 0)
    b = _samples(np.array([-2.0]), np.array([[9.0]]), 80, 1)
    assert frechet_distance(a, b) == pytest.approx(3**2 + (3 - 2) ** 2)


@given(st.integers(0, 1000), st.integers(1, 6))
def test_fid_of_gaussians_whose_covariances_commute(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((size, size)))[0]
    s, t, shift = rng.uniform(0.1, 3, size), rng.uniform(0.1, 3, size), rng.standard_normal(size)
    a = _samples(np.zeros(size), turn @ np.diag(s**2) @ turn.T, size + 20, seed)
    b = _samples(shift, turn @ np.diag(t**2) @ turn.T, size + 30, seed + 1)
    assert frechet_distance(a, b) == pytest.approx(float((shift**2).sum() + ((s - t) ** 2).sum()))


@pytest.mark.parametrize("seed", range(5))
def test_fid_of_any_gaussians_by_the_matrix_root(seed: int) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    first, second = _covariance(seed, 7), _covariance(seed + 50, 7)
    a, b = _samples(np.zeros(7), first, 40, seed), _samples(np.ones(7), second, 60, seed + 1)
    expected = 7 + np.trace(first + second) - 2 * np.trace(linalg.sqrtm(first @ second)).real
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_fid_symmetries() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((30, 8)), rng.standard_normal((40, 8)) * 2 + 1
    turn = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a @ turn + 3, b @ turn + 3) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-12)
    # Fewer samples than features: the covariances are singular, and the distance is still exact.
    few = rng.standard_normal((5, 8))
    assert frechet_distance(few, few + 2) == pytest.approx(8 * 4)
    assert frechet_distance(few, few[::-1]) == pytest.approx(0, abs=1e-12)


def _naive_kid(a: np.ndarray, b: np.ndarray) -> float:
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    n, m = len(a), len(b)
    inner_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    inner_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return inner_a + inner_b - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def test_kid_and_its_error_by_their_definitions() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((9, 4)), rng.standard_normal((7, 4)) + 0.5
    found = kernel_distance(a, b)
    assert found.value == pytest.approx(_naive_kid(a, b))
    left_a = np.array([_naive_kid(np.delete(a, i, axis=0), b) for i in range(9)])
    left_b = np.array([_naive_kid(a, np.delete(b, j, axis=0)) for j in range(7)])
    variance = 8 / 9 * ((left_a - left_a.mean()) ** 2).sum() + 6 / 7 * ((left_b - left_b.mean()) ** 2).sum()
    assert found.error == pytest.approx(math.sqrt(variance))


def test_kid_is_that_of_torchmetrics() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    import torch

    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((30, 6)), rng.standard_normal((30, 6)) * 1.5 + 1
    theirs = kid.poly_mmd(torch.from_numpy(a), torch.from_numpy(b), degree=3, gamma=None, coef=1.0)
    assert kernel_distance(a, b).value == pytest.approx(float(theirs))


def test_kid_of_one_distribution_is_centred_at_nought() -> None:
    rng = np.random.default_rng(3)
    found = [kernel_distance(*rng.standard_normal((2, 40, 5))) for _ in range(400)]
    values, errors = np.array([f.value for f in found]), np.array([f.error for f in found])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(400)
    assert values.min() < 0 < values.max()
    # The estimate is degenerate here, and the jackknife about 1.4 times too careful.
    assert 1.0 < np.sqrt((errors**2).mean()) / values.std() < 1.8


def test_the_error_of_kid_is_its_spread() -> None:
    rng = np.random.default_rng(4)
    found = [kernel_distance(rng.standard_normal((60, 5)), rng.standard_normal((80, 5)) + 0.7) for _ in range(300)]
    values, errors = np.array([f.value for f in found]), np.array([f.error for f in found])
    assert np.sqrt((errors**2).mean()) / values.std() == pytest.approx(1.0, abs=0.2)
    # The expectation: means of (x.y / 5 + 1)^3 over independent normals, by many pairs.
    x, y = rng.standard_normal((2, 400_000, 5))
    means = [float((((p * q).sum(axis=1) / 5 + 1) ** 3).mean()) for p, q in ((x, y), (x + 0.7, y + 0.7), (x, y + 0.7))]
    assert values.mean() == pytest.approx(means[0] + means[1] - 2 * means[2], rel=0.05)


def test_sets_that_are_too_small_are_refused() -> None:
    with pytest.raises(FloorplanError, match="at least 2 plans in each set, found 1 and 4"):
        frechet_distance(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(FloorplanError, match="at least 3 plans in each set, found 4 and 2"):
        kernel_distance(np.zeros((4, 3)), np.zeros((2, 3)))
    with pytest.raises(FloorplanError, match=r"found \[4, 3\] and \[4, 2\]"):
        frechet_distance(np.zeros((4, 3)), np.zeros((4, 2)))


# ---------------------------------------------------------------------------------------------------------- features


def test_features_by_hand() -> None:
    # Two rooms of 4 m x 3 m, the second standing, with a wall of 0.2 m between and a door of 0.9 m in it.
    plan = Plan(
        (
            Node(RoomType.LIVING, rectangle(0, 0, 4, 3)),
            Node(RoomType.BEDROOM, rectangle(4.2, 0, 7.2, 4)),
            Node(RoomType.INTERIOR_DOOR, rectangle(4.05, 1, 4.15, 1.9)),
            Node(RoomType.FRONT_DOOR, rectangle(1, -0.15, 1.9, -0.05)),
        ),
        ((0, 1), (0, None)),
        metres_per_unit=1.0,
    )
    middle = np.array([(2 + 5.7) / 2, (1.5 + 2) / 2])
    expected = {
        "rooms": 2,
        "doors": 2,
        "floor_side": math.sqrt(24),
        "outline_aspect": 4 / 7.2,
        "outline_fill": (24 + 0.2 * 3) / (4 * 7.2),
        "log_area_mean": math.log(12),
        "log_area_spread": 0,
        "room_fill_mean": 1,
        "room_aspect_mean": 3 / 4,
        "corners_mean": 4,
        "neighbours_mean": 1,
        "door_width_mean": 0.9,
        "door_away": (0.05 * 3) / 3,
        "door_inside": 0,
        "door_radius": float(np.linalg.norm(middle - [4.1, 1.45])) / math.sqrt(24),
        "front_radius": float(np.linalg.norm(middle - [1.45, -0.1])) / math.sqrt(24),
        "area_living": 0.5,
        "area_bedroom": 0.5,
        "area_kitchen": 0,
        "moment_bedroom": 0.5 * float(np.linalg.norm(middle - [5.7, 2])) / math.sqrt(24),
        "overlap_share": 0,
        "axis_deviation": 0,
    }
    assert {name: _value(plan, name) for name in expected} == pytest.approx(expected, abs=1e-5)


@settings(max_examples=30)
@given(
    st.integers(0, 5000), st.floats(0, 4), st.floats(-180, 180), st.booleans(), st.floats(-300, 300), st.floats(0.2, 5)
)
def test_features_ignore_place_angle_mirror_units_and_order(
    seed: int, noise: float, degrees: float, mirror: bool, shift: float, scale: float
) -> None:
    plan = _shaken(generate_plan(seed % 40), noise, seed)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    moved = _changed(plan, np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirror else 1.0, 1.0]), shift, scale)
    order = np.random.default_rng(seed).permutation(plan.num_rooms)
    place = {int(old): new for new, old in enumerate(order)}
    doors = tuple((place[a], None if b is None else place[b]) for a, b in moved.doors)
    moved = replace(moved, nodes=(*(moved.nodes[i] for i in order), *moved.door_nodes), doors=doors)
    # The outline is exact only to dents of a hundredth of a wall's width.
    assert plan_features(moved) == pytest.approx(plan_features(plan), abs=2e-2)


def test_features_survive_any_polygons(small_plan: Plan) -> None:
    rng = np.random.default_rng(0)
    plans = [
        replace(
            small_plan, nodes=tuple(replace(n, polygon=rng.uniform(0, 256, n.polygon.shape)) for n in small_plan.nodes)
        )
        for _ in range(20)
    ]
    plans.append(replace(small_plan, nodes=tuple(replace(n, polygon=0 * n.polygon) for n in small_plan.nodes)))
    plans.append(Plan(small_plan.rooms, ()))
    found = feature_matrix(plans)
    assert found.shape == (22, len(FEATURES))
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= LARGEST
    assert feature_matrix([]).shape == (0, len(FEATURES))


def test_centres_and_scales_are_those_of_apartments() -> None:
    found = feature_matrix([generate_plan(seed) for seed in range(60)])
    assert np.abs(found.mean(axis=0)).max() < 1
    assert 0.2 < np.median(found.std(axis=0)) < 2
    assert found.std(axis=0).max() < 2


def test_ground_truth_against_ground_truth_and_against_worse() -> None:
    truth = [generate_plan(HELD_OUT_START + i) for i in range(60)]
    other = [generate_plan(i) for i in range(60)]
    same = set_distance(truth, other)
    assert (same.num_real, same.num_generated) == (60, 60)
    assert abs(same.kid.value) < 3 * same.kid.error
    noisy = [set_distance(truth, [_shaken(p, size, i) for i, p in enumerate(other)]) for size in (1.0, 3.0)]
    distances = [same.fid, *(d.fid for d in noisy)]
    assert distances == sorted(distances)
    assert noisy[0].kid.value > same.kid.value + 5 * noisy[0].kid.error


# ------------------------------------------------------------------------------------------- diversity and neighbours


def _one_room(kind: RoomType, x0: float, y0: float, x1: float, y1: float) -> Plan:
    return Plan((Node(kind, rectangle(x0, y0, x1, y1)),), (), metres_per_unit=1.0)


def test_layout_distance_by_hand() -> None:
    wide = _one_room(RoomType.BEDROOM, 0, 0, 4, 2)
    assert layout_distance(wide, _one_room(RoomType.BEDROOM, 10, 10, 12, 14)) == pytest.approx(0)  # stands instead
    assert layout_distance(wide, _one_room(RoomType.KITCHEN, 0, 0, 4, 2)) == pytest.approx(1)
    assert layout_distance(wide, _one_room(RoomType.BEDROOM, 0, 0, 2, 2)) == pytest.approx(1 / 2)
    assert layout_distance(wide, _one_room(RoomType.BEDROOM, 0, 0, 8, 4)) == pytest.approx(3 / 4)
    assert layout_distance(wide, _one_room(RoomType.BEDROOM, 1, 1, 1, 1)) == pytest.approx(1)


@given(st.integers(0, 200), st.integers(0, 3), st.booleans(), st.floats(-50, 50))
@example(97, 1, False, 1.7862775909833672)
def test_layout_distance_is_symmetric_and_ignores_the_square(seed: int, turns: int, mirror: bool, shift: float) -> None:
    first, second = generate_plan(seed), generate_plan(seed + 1)
    c, s = [(1, 0), (0, 1), (-1, 0), (0, -1)][turns]
    move = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    assert layout_distance(first, _changed(first, move, shift)) == pytest.approx(0, abs=1e-6)
    between = layout_distance(first, second)
    assert 0 < between < 1
    assert layout_distance(second, first) == pytest.approx(between, abs=1e-6)
    assert layout_distance(first, _changed(second, move, shift)) == pytest.approx(between, abs=1e-6)


def test_diversity_by_hand() -> None:
    wide, small = _one_room(RoomType.BEDROOM, 0, 0, 4, 2), _one_room(RoomType.BEDROOM, 0, 0, 2, 2)
    kitchen = _one_room(RoomType.KITCHEN, 0, 0, 4, 2)
    assert diversity([wide, wide, wide]) == pytest.approx(0)
    assert diversity([wide, small, kitchen]) == pytest.approx((0.5 + 1 + 1) / 3)
    with pytest.raises(FloorplanError, match="at least 2 plans, found 1"):
        diversity([wide])


def test_a_plan_learnt_by_heart_is_found() -> None:
    training = [generate_plan(seed) for seed in range(40)]
    copies = [_changed(training[17], np.array([[0.0, 1.0], [1.0, 0.0]]), 9.0), _shaken(training[30], 0.2)]
    found = nearest_plans([*copies, generate_plan(HELD_OUT_START)], training)
    assert [n.index for n in found[:2]] == [17, 30]
    assert found[0].distance == pytest.approx(0, abs=1e-9)
    assert 0 < found[1].distance < 0.1 < found[2].distance
    for few, every in zip(found, nearest_plans([*copies], training, candidates=None), strict=False):
        assert few == every
    fresh = generate_plan(HELD_OUT_START)
    every = nearest_plans([fresh], training, candidates=None)[0]
    assert every.distance == min(layout_distance(fresh, plan) for plan in training)
    with pytest.raises(FloorplanError, match="no training plans"):
        nearest_plans(copies, [])


# -------------------------------------------------------------------------------------------------------- Inception


def test_inception_fid_with_an_own_network() -> None:
    pytest.importorskip("torchmetrics")
    import torch
    from torch import nn

    class Colours(nn.Module):
        """Mean and spread of every colour channel."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = images.double().flatten(2) / 255
            return torch.cat([x.mean(dim=2), x.std(dim=2)], dim=1)

    real, drawn = [generate_plan(i) for i in range(8)], [generate_plan(100 + i) for i in range(6)]
    shown = pictures(real)
    assert shown.shape == (8, 3, 256, 256)
    assert shown.dtype == torch.uint8
    assert (shown[:, :, 0, 0] == 255).all()  # white ground
    features = [Colours()(pictures(plans)).numpy() for plans in (real, drawn)]
    found = inception_fid(real, drawn, features=Colours(), batch=3)
    assert found == pytest.approx(frechet_distance(*features), rel=1e-3, abs=1e-6)
    with pytest.raises(FloorplanError, match="at least 2 plans in each set, found 8 and 1"):
        inception_fid(real, drawn[:1], features=Colours())


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is not None, reason="torch-fidelity is there")
def test_inception_needs_an_extra(small_plan: Plan) -> None:
    with pytest.raises(ImportError, match=r"pip install 'trifold\[fid\]'"):
        inception_fid([small_plan] * 2, [small_plan] * 2)
    drawn: list[object] = []
    with pytest.raises(ImportError, match=r"pip install 'trifold\[fid\]'"):
        evaluate_model(tiny_model(), [small_plan] * 2, [("ddim", 1)], inception=True, progress=drawn.append)  # type: ignore[arg-type]
    assert not drawn

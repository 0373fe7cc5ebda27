"""How far layouts lie apart: a distance of two plans, diversity of plans for one diagram, the nearest training plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon

from .areas import node_shape, polygons_of
from .errors import FloorplanError
from .geometry_metrics import floor
from .plan import Plan
from .rooms import ROOM_TYPES
from .set_metrics import feature_matrix, plan_features

GRID = 1e-8  # metres: distances of plans that were moved agree to a millionth
_SYMMETRIES = [
    np.array([[x, 0], [0, y]]) @ swap for x in (1, -1) for y in (1, -1) for swap in (np.eye(2), np.eye(2)[::-1])
]


@dataclass(frozen=True)
class Neighbour:
    """The nearest plan of a set: its place there and its `layout_distance`."""

    index: int
    distance: float


def layout_distance(a: Plan, b: Plan) -> float:
    """1 - (floor of equal type in both) / (floor of equal type in either), both put with the middle of their floor at
    the origin, in metres, and the second in the best of the 8 positions of a square.

    0 for the same plan, also mirrored or turned; 1 if no room lies on one of its type. Rooms of a type are one area,
    so two bedrooms that trade places are no difference.
    """
    return _layout_distance(_type_areas(a), _type_areas(b))


def diversity(plans: Sequence[Plan]) -> float:
    """Mean `layout_distance` over all pairs of plans, which should be drawn for one diagram. Raises `FloorplanError`
    for fewer than 2."""
    if len(plans) < 2:
        raise FloorplanError(f"expected at least 2 plans, found {len(plans)}", source="diversity", field="plans")
    layouts = [_type_areas(plan) for plan in plans]
    pairs = [(a, b) for i, a in enumerate(layouts) for b in layouts[:i]]
    return float(np.mean([_layout_distance(a, b) for a, b in pairs]))


def nearest_plans(plans: Sequence[Plan], training: Sequence[Plan], *, candidates: int | None = 16) -> list[Neighbour]:
    """For each plan the nearest of the training plans by `layout_distance`; equally near ones: the first.

    candidates: only so many training plans, those with the nearest features, are compared; None compares all. A model
    that learnt plans by heart shows distances near 0 where held-out real plans' are not: measure those too. Raises
    `FloorplanError` without training plans.
    """
    if not training:
        raise FloorplanError("no training plans; expected at least one", source="nearest plans", field="training")
    count = len(training) if candidates is None else min(candidates, len(training))
    known, layouts, found = feature_matrix(training), {}, []
    for plan in plans:
        away = ((known - plan_features(plan)) ** 2).sum(axis=1)
        layout, options = _type_areas(plan), sorted(np.argsort(away, kind="stable")[:count].tolist())
        for i in options:
            if i not in layouts:
                layouts[i] = _type_areas(training[i])
        distances = [_layout_distance(layout, layouts[i]) for i in options]
        found.append(Neighbour(options[int(np.argmin(distances))], min(distances)))
    return found


def _type_areas(plan: Plan) -> np.ndarray:
    """Floor of every type of `ROOM_TYPES`, in metres, the middle of the whole floor at the origin: [T] of shapely."""
    ground = floor(plan)
    middle = np.zeros(2) if ground.is_empty else np.array([ground.centroid.x, ground.centroid.y])
    shapes = [
        polygons_of(shapely.union_all([node_shape(n) for n in plan.rooms if n.type == kind] or [Polygon()]))
        for kind in ROOM_TYPES
    ]
    moved = shapely.transform(np.array(shapes, dtype=object), lambda p: (p - middle) * plan.metres_per_unit)
    # Moving rounds, and can make a polygon touch itself; on a grid it is put right once for all intersections.
    return shapely.set_precision(moved, GRID)


def _layout_distance(a: np.ndarray, b: np.ndarray) -> float:
    total = float(shapely.area(a).sum() + shapely.area(b).sum())
    if total == 0:
        return 0.0
    both = max(
        float(shapely.area(shapely.intersection(a, shapely.transform(b, lambda p, m=move: p @ m))).sum())
        for move in _SYMMETRIES
    )
    return max(0.0, 1.0 - both / (total - both))

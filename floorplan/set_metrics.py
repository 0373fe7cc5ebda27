"""Distances between sets of plans: FID and KID on geometry features, FID on pictures.

The features need no download and no picture: `FEATURES` lists them, each with a fixed centre and scale, so that numbers
of different papers and data compare. They do not change when a plan is moved, turned by any angle or mirrored, or when
its rooms are put in another order. Compare plans of one convention (`geometry_metrics`): finish ground truth too before
finished plans are held against it. Always give the number of plans, and what ground truth scores against ground truth:
two disjoint sets of real plans have an FID above 0, the more so the fewer they are; KID has no such bias.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import shapely
from shapely.geometry import Point

from .areas import closed, filled, node_shape
from .errors import FloorplanError
from .geometry_metrics import (
    WALL_METRES,
    axis_deviation,
    corner_counts,
    floor,
    main_direction,
    misalignment,
)
from .metrics import door_boxes, overlap_share
from .plan import Plan
from .rooms import ROOM_TYPES, RoomType

if TYPE_CHECKING:
    from torch import Tensor, nn

# Scaled features end here: what is further off is simply wrong, and its cube must not drown all other plans in KID.
LARGEST = 10.0
TINY_ROOM = 0.1  # m2; the logarithm of an area begins here

# Centre and scale of a type's share of the area, then of its moment; those of rarer types last.
_SHARES = {RoomType.LIVING: (0.4, 0.1, 0.07, 0.03), RoomType.BEDROOM: (0.3, 0.1, 0.14, 0.05)}
_SHARES |= {RoomType.KITCHEN: (0.1, 0.05, 0.05, 0.02), RoomType.BATHROOM: (0.08, 0.05, 0.04, 0.02)}
_RARE = (0.02, 0.05, 0.01, 0.02)

# name: (centre, scale). About the mean and spread over apartments; for faults, the size of one that is plainly visible.
FEATURES: Final[dict[str, tuple[float, float]]] = {
    "rooms": (6.5, 2.0),  # number of rooms
    "doors": (6.5, 2.0),  # number of doors, front doors too
    "floor_side": (9.0, 1.5),  # m; square root of the floor's area
    "outline_fill": (0.9, 0.1),  # area of the outline / of its box along the plan's own axes
    "outline_aspect": (0.8, 0.1),  # shorter / longer side of that box
    "outline_compactness": (0.65, 0.1),  # 4 pi area / perimeter^2 of the outline
    "log_area_mean": (2.2, 0.3),  # log of the rooms' areas in m2
    "log_area_spread": (0.7, 0.2),
    "room_fill_mean": (0.95, 0.05),  # area of a room / of its box
    "room_fill_spread": (0.1, 0.05),
    "room_aspect_mean": (0.65, 0.1),  # shorter / longer side of a room's box
    "room_aspect_spread": (0.2, 0.05),
    "corners_mean": (4.8, 0.5),  # corners per room
    "corners_spread": (1.3, 0.6),
    "neighbours_mean": (3.2, 0.6),  # rooms within 0.5 m of a room
    "neighbours_spread": (1.2, 0.4),
    "door_width_mean": (0.85, 0.05),  # m; length of a door's narrowest box
    "door_width_spread": (0.05, 0.05),
    "front_radius": (0.55, 0.1),  # distance of the front door from the middle of the floor / floor_side; 0 without one
    "door_radius": (0.3, 0.05),  # the same, mean over the interior doors
    "door_away": (0.1, 0.05),  # m; mean distance of a door's outline to the rooms it should join
    "door_inside": (0.0, 0.1),  # share of the doors' area that lies inside rooms
    "overlap_share": (0.0, 0.02),  # see `metrics.overlap_share`
    "misalignment": (0.0, 0.02),  # m; see `geometry_metrics.misalignment`
    "axis_deviation": (0.0, 1.5),  # degrees, from the plan's own axes; see `geometry_metrics.axis_deviation`
    # Share of all rooms' area that is of the type.
    **{f"area_{kind.name.lower()}": _SHARES.get(kind, _RARE)[:2] for kind in ROOM_TYPES},
    # Sum of area x distance from the middle of the floor over the rooms of the type / (all area x floor_side).
    **{f"moment_{kind.name.lower()}": _SHARES.get(kind, _RARE)[2:] for kind in ROOM_TYPES},
}
_CENTRE, _SCALE = np.array(list(FEATURES.values())).T


def plan_features(plan: Plan) -> np.ndarray:
    """Geometry of a plan as float64 [len(FEATURES)]: (value - centre) / scale of each, limited to [-10, 10]."""
    values = _raw_features(plan)
    return np.clip((np.array([values[name] for name in FEATURES]) - _CENTRE) / _SCALE, -LARGEST, LARGEST)


def feature_matrix(plans: Sequence[Plan]) -> np.ndarray:
    """`plan_features` of every plan, float64 [N, len(FEATURES)]."""
    return np.stack([plan_features(plan) for plan in plans]) if plans else np.empty((0, len(FEATURES)))


def _raw_features(plan: Plan) -> dict[str, float]:
    unit = plan.metres_per_unit
    turn = math.radians(main_direction(plan))
    matrix = unit * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])  # p @ matrix
    rooms = shapely.transform(np.array([node_shape(node) for node in plan.rooms], dtype=object), lambda p: p @ matrix)
    ground = shapely.transform(floor(plan), lambda p: p @ matrix)
    outline = filled(closed(ground, WALL_METRES))
    side, middle = math.sqrt(ground.area), Point(0, 0) if ground.is_empty else ground.centroid
    areas, radii = shapely.area(rooms), np.nan_to_num(shapely.distance(shapely.centroid(rooms), middle))
    logs = np.log(np.maximum(areas, TINY_ROOM))
    fills, aspects = _boxes(rooms)
    (outline_fill,), (outline_aspect,) = _boxes(np.array([outline], dtype=object))
    near = (shapely.distance(rooms[:, None], rooms[None, :]) <= WALL_METRES).sum(axis=1) - 1
    values = {
        "rooms": plan.num_rooms,
        "doors": len(plan.doors),
        "floor_side": side,
        "outline_fill": outline_fill,
        "outline_aspect": outline_aspect,
        "outline_compactness": 4 * math.pi * outline.area / outline.length**2 if outline.length > 0 else 0.0,
        "log_area_mean": logs.mean(),
        "log_area_spread": logs.std(),
        "room_fill_mean": fills.mean(),
        "room_fill_spread": fills.std(),
        "room_aspect_mean": aspects.mean(),
        "room_aspect_spread": aspects.std(),
        "corners_mean": corner_counts(plan).mean(),
        "corners_spread": corner_counts(plan).std(),
        "neighbours_mean": near.mean(),
        "neighbours_spread": near.std(),
        "overlap_share": overlap_share(plan),
        "misalignment": misalignment(plan),
        "axis_deviation": axis_deviation(plan, own_axes=True),
    }
    values |= _door_features(plan, rooms, matrix, middle, side)
    for kind in ROOM_TYPES:
        own = np.array([node.type == kind for node in plan.rooms])
        total = max(float(areas.sum()), 1e-12)
        values[f"area_{kind.name.lower()}"] = areas[own].sum() / total
        values[f"moment_{kind.name.lower()}"] = (areas * radii)[own].sum() / (total * max(side, 1e-6))
    return {name: float(value) for name, value in values.items()}


def _door_features(plan: Plan, rooms: np.ndarray, matrix: np.ndarray, middle: Point, side: float) -> dict[str, float]:
    """The features of the doors; all at their centres for a plan without any."""
    if not plan.doors:
        names = ("door_width_mean", "door_width_spread", "door_radius", "door_away", "door_inside")
        return {name: FEATURES[name][0] for name in names} | {"front_radius": 0.0}
    shapes = shapely.transform(
        np.array([node_shape(node) for node in plan.door_nodes], dtype=object), lambda p: p @ matrix
    )
    boxes = [door_boxes(node) for node in plan.door_nodes]
    widths = np.array([box[0][2] if box else 0.0 for box in boxes]) * plan.metres_per_unit
    radii = shapely.distance(shapely.centroid(shapes), middle) / max(side, 1e-6)
    front = np.array([node.type == RoomType.FRONT_DOOR for node in plan.door_nodes])
    away = [shapely.distance(shapes[d], rooms[r]) for d, pair in enumerate(plan.doors) for r in pair if r is not None]
    ground, total = shapely.union_all(rooms), shapely.area(shapes).sum()
    return {
        "door_width_mean": widths.mean(),
        "door_width_spread": widths.std(),
        "front_radius": radii[front].mean() if front.any() else 0.0,
        "door_radius": radii[~front].mean() if (~front).any() else FEATURES["door_radius"][0],
        "door_away": float(np.mean(away)),
        "door_inside": shapely.area(shapely.intersection(shapes, ground)).sum() / total if total > 0 else 0.0,
    }


def _boxes(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(area / area of the box along the axes, shorter / longer side of the box) of each shape; 0 where it is flat."""
    x0, y0, x1, y1 = np.nan_to_num(shapely.bounds(shapes)).T
    short, long = np.minimum(x1 - x0, y1 - y0), np.maximum(x1 - x0, y1 - y0)
    return shapely.area(shapes) / np.maximum(short * long, 1e-12), short / np.maximum(long, 1e-12)


@dataclass(frozen=True)
class KernelDistance:
    """A kernel inception distance and the standard error of its estimate."""

    value: float
    error: float


@dataclass(frozen=True)
class SetDistance:
    """How far generated plans are from real ones as sets, and how many of each there were."""

    fid: float
    kid: KernelDistance
    num_real: int
    num_generated: int


def set_distance(real: Sequence[Plan], generated: Sequence[Plan]) -> SetDistance:
    """FID and KID of the geometry features of two sets of plans, at least 3 each. Raises `FloorplanError` for fewer."""
    first, second = feature_matrix(real), feature_matrix(generated)
    return SetDistance(frechet_distance(first, second), kernel_distance(first, second), len(real), len(generated))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance of the Gaussians fitted to a [N, D] and b [M, D] (Heusel et al. 2017, FID):
    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), covariances with divisor N - 1.

    With S = R^T R, R the triangle of the centred samples, tr (S_a S_b)^(1/2) is the sum of the singular values of
    R_a R_b^T: no matrix root of nearly singular covariances. Raises `FloorplanError` for fewer than 2 samples.
    """
    a, b = _samples(a, b, least=2)
    roots = [np.asarray(np.linalg.qr(x - x.mean(axis=0), mode="r")) / math.sqrt(len(x) - 1) for x in (a, b)]
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(float((root**2).sum()) for root in roots)
    return max(0.0, float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + spread - 2 * shared))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy of samples a [N, D] and b [M, D] with the kernel (x.y / D + 1)^3
    (Binkowski et al. 2018, KID), from all pairs at once.

    It can be negative: its expectation is 0 for equal distributions. `error` is the delete-one jackknife's standard
    error over both samples; for equal distributions, where the estimate is degenerate, it is about 1.4 times too
    large. Raises `FloorplanError` for fewer than 3 samples.
    """
    a, b = _samples(a, b, least=3)
    n, m, width = len(a), len(b), a.shape[1]
    aa, bb, ab = ((x @ y.T / width + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    rows_a, rows_b = aa.sum(axis=1) - np.diagonal(aa), bb.sum(axis=1) - np.diagonal(bb)
    cross_a, cross_b = ab.sum(axis=1), ab.sum(axis=0)
    inner_a, inner_b, cross = rows_a.sum(), rows_b.sum(), cross_a.sum()
    value = inner_a / (n * (n - 1)) + inner_b / (m * (m - 1)) - 2 * cross / (n * m)
    # The estimate without one sample is the same sums less its row, and less its column.
    less_a = (inner_a - 2 * rows_a) / ((n - 1) * (n - 2)) - 2 * (cross - cross_a) / ((n - 1) * m)
    less_b = (inner_b - 2 * rows_b) / ((m - 1) * (m - 2)) - 2 * (cross - cross_b) / ((m - 1) * n)
    variance = (n - 1) * less_a.var() + (m - 1) * less_b.var()
    return KernelDistance(float(value), math.sqrt(variance))


def _samples(a: np.ndarray, b: np.ndarray, *, least: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        found = f"{list(first.shape)} and {list(second.shape)}"
        raise FloorplanError(f"expected features [N, D] and [M, D], found {found}", source="set distance")
    _check_sizes(len(first), len(second), least)
    return first, second


def _check_sizes(first: int, second: int, least: int) -> None:
    if min(first, second) < least:
        found = f"{first} and {second}"
        raise FloorplanError(f"expected at least {least} plans in each set, found {found}", source="set distance")


def inception_fid(
    real: Sequence[Plan], generated: Sequence[Plan], *, features: int | nn.Module = 2048, batch: int = 64
) -> float:
    """FID of HouseDiffusion's pictures (`render.plan_to_original_svg`, 256 x 256), as the field's tables print it.

    features: 2048 for the usual layer of Inception-v3, whose weights torch-fidelity downloads at the first call; or a
    module from uint8 [B, 3, 256, 256] to [B, D] to try without. Raises ImportError without torchmetrics, or where
    Inception is asked for without torch-fidelity, and `FloorplanError` for fewer than 2 plans in a set.
    """
    check_inception(pretrained=isinstance(features, int))
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=features, input_img_size=(3, 256, 256))
    _check_sizes(len(real), len(generated), 2)
    for plans, is_real in ((real, True), (generated, False)):
        for start in range(0, len(plans), batch):
            metric.update(pictures(plans[start : start + batch]), real=is_real)
    return float(metric.compute())


def check_inception(*, pretrained: bool = True) -> None:
    """Raises ImportError where `inception_fid` would, with or without Inception's own weights."""
    needed = ("torchmetrics", "torch_fidelity") if pretrained else ("torchmetrics",)
    if any(importlib.util.find_spec(name) is None for name in needed):
        text = "Inception-FID needs torchmetrics and torch-fidelity: pip install 'trifold[fid]'"
        raise ImportError(f"{text}; `set_distance` needs neither")


def pictures(plans: Sequence[Plan]) -> Tensor:
    """HouseDiffusion's evaluation pictures, uint8 [N, 3, 256, 256]."""
    import torch
    from PIL import Image

    from .render import plan_to_original_svg, svg_to_png  # the rasteriser is a large import that only pictures need

    images = [Image.open(io.BytesIO(svg_to_png(plan_to_original_svg(plan), 256))).convert("RGB") for plan in plans]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()

"""Areas: nodes as valid shapely geometry, the part of a geometry that has area, gaps and holes filled. Plan units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from .plan import Node


def node_shape(node: Node) -> BaseGeometry:
    """The floor of a room, or a door, in plan units; a self-crossing polygon counts even-odd."""
    return shapely.make_valid(Polygon(node.polygon))


def polygons_of(shape: BaseGeometry) -> MultiPolygon:
    """The polygons of a geometry; what has no area is left out."""
    parts = shapely.get_parts(shapely.get_parts(shape))  # a collection may hold a multipolygon
    return MultiPolygon([part for part in parts if isinstance(part, Polygon) and part.area > 0])


def on_grid(operation: Callable[..., BaseGeometry], *shapes: Any, grid: float) -> BaseGeometry:
    """`operation(*shapes)`, one of shapely's overlays, with its result on a grid of that width.

    GEOS's snap rounding gives up on rare shapes ("Ring edge missing", "side location conflict"); a grid a little wider
    does then, and none at all if it must.
    """
    for factor in (1.0, 1.01, 1.1, 2.0):
        try:
            return operation(*shapes, grid_size=factor * grid)
        except shapely.errors.GEOSException:
            continue
    return operation(*shapes)


def closed(shape: BaseGeometry, width: float, *, grid: float = 1e-6) -> BaseGeometry:
    """`shape` with every gap and notch narrower than `width` filled (morphological closing), straight corners kept.

    Grown and shrunk by half the width with mitred corners, so that a polygon without narrow gaps stays what it is, to
    within `grid`. Dents of less than a hundredth of the width are filled or not as they come: GEOS leaves them out when
    it grows. All three are plan units.
    """
    if width <= 0:
        return shape
    # The shortest sides of what was grown would throw spikes when it shrinks. Two parallel sides meet at no mitre: GEOS
    # takes another way then, but leaves the flag of the failed division up.
    with np.errstate(invalid="ignore", divide="ignore"):
        grown = shapely.buffer(shapely.simplify(shape, 1e-6 * width), width / 2, join_style="mitre")
        # The spikes of sides that are left cut into the shape, but others with coarser rings or followed the other way.
        simple = [shapely.simplify(grown, share * width) for share in (1e-4, 1e-2)]
        both_ways = [*simple, *(shapely.reverse(one) for one in simple)]
        shrunk = [shapely.buffer(one, -width / 2, join_style="mitre") for one in both_ways]
    # Mitres of a scribble can cross one another.
    valid = [part if part.is_valid else polygons_of(shapely.make_valid(part)) for part in shrunk]
    # Where mitres of two parts met, shrinking can take more than growing gave. Without a grid the union of shapes that
    # are nearly the same can come out wrong.
    return polygons_of(on_grid(shapely.union_all, [shape, *valid], grid=grid))


def filled(shape: BaseGeometry) -> BaseGeometry:
    """`shape` without its holes."""
    return shapely.union_all([Polygon(part.exterior) for part in polygons_of(shape).geoms])

"""GeoJSON of a plan: rooms, walls and doors as features in metres.

RFC 7946 expects longitude and latitude; a floorplan has neither. The coordinates here are local: metres, x to the
right and y up on the drawing, the origin in the lower left corner of the plan's frame. The collection says so twice:
`"crs": null`, which the 2008 specification defines as "no coordinate reference system can be assumed" and later readers
ignore, and in words in the member `coordinate_frame`. Ring direction follows RFC 7946: outlines counterclockwise, holes
clockwise.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from .building import Building, drawn_building
from .files import write_whole
from .finished import FinishedPlan
from .plan import Plan

DIGITS = 9  # decimals of a metre; a finer grid than any rounding that follows


def geojson_document(plan: Plan | FinishedPlan) -> dict[str, Any]:
    """The FeatureCollection as plain data. Every feature's `id` is kind and index, `room-0`; its `kind` is one of:

    `room`: polygon to the wall centre lines (as drawn, for a plain `Plan`); `index`, `name`, `type`, `area_m2` of this
    polygon, `floor_area_m2` between the walls, `valid` (false for an outline that crosses itself; it is written as
    it is).
    `wall`: body with mitred ends, openings cut out (a multipolygon where one cuts it in two); `index`, `rooms` ([a, b],
    b null for outside), `thickness_m`, `length_m` of the centre line. A plain `Plan` has none.
    `door`: rectangle of the opening; `index`, `type`, `rooms` joined ([a, null] for a front door), `width_m`, `wall`
    (null for a door that no wall holds; its polygon is as drawn), `opens_into` (a room; null if it slides).
    """
    building = drawn_building(plan).in_metres()
    return {
        "type": "FeatureCollection",
        "name": building.name,
        "crs": None,
        "coordinate_frame": {
            "reference": "local",
            "unit": "metre",
            "axes": ["x to the right", "y up"],
            "origin": "lower left corner of the plan's frame",
            "frame_m": building.extent,
        },
        "features": [*_rooms(building), *_walls(building), *_doors(building)],
    }


def geojson_text(plan: Plan | FinishedPlan) -> str:
    """`geojson_document` as text, one feature a line."""
    document = geojson_document(plan)
    features = ",\n".join(json.dumps(feature, ensure_ascii=False) for feature in document.pop("features"))
    head = json.dumps(document, ensure_ascii=False)[:-1]
    return f'{head}, "features": [\n{features}\n]}}\n'


def save_geojson(plan: Plan | FinishedPlan, path: str | os.PathLike[str]) -> None:
    """Write `geojson_document`; the file appears whole or not at all. A plain `Plan` is written without walls.

    Raises `FloorplanError` when it cannot be written.
    """
    write_whole(path, geojson_text(plan))


def _rooms(building: Building) -> list[dict[str, Any]]:
    features = []
    for room in building.rooms:
        shape = Polygon(room.outline)
        properties = {
            "kind": "room",
            "index": room.index,
            "name": room.name,
            "type": room.type.name.lower(),
            "area_m2": room.area,
            "floor_area_m2": room.floor_area,
            "valid": bool(shape.is_valid),
        }
        features.append(_feature(shape, properties))
    return features


def _walls(building: Building) -> list[dict[str, Any]]:
    features = []
    for wall in building.walls:
        parts = wall.solid.geoms
        properties = {
            "kind": "wall",
            "index": wall.index,
            "rooms": list(wall.rooms),
            "thickness_m": wall.thickness,
            "length_m": wall.length,
        }
        features.append(_feature(parts[0] if len(parts) == 1 else wall.solid, properties))
    return features


def _doors(building: Building) -> list[dict[str, Any]]:
    return [
        _feature(
            Polygon(door.outline),
            {
                "kind": "door",
                "index": door.index,
                "type": door.type.name.lower(),
                "rooms": list(door.rooms),
                "width_m": door.width,
                "wall": door.wall,
                "opens_into": None if door.leaf is None else door.leaf.into,
            },
        )
        for door in building.doors
    ]


def _feature(shape: BaseGeometry, properties: dict[str, Any]) -> dict[str, Any]:
    rounded = {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in properties.items()}
    name = f"{properties['kind']}-{properties['index']}"
    return {"type": "Feature", "id": name, "geometry": _geometry(shape), "properties": rounded}


def _geometry(shape: BaseGeometry) -> dict[str, Any]:
    if isinstance(shape, MultiPolygon):
        return {"type": "MultiPolygon", "coordinates": [_rings(part) for part in shape.geoms]}
    return {"type": "Polygon", "coordinates": _rings(shape)}


def _rings(polygon: BaseGeometry) -> list[list[list[float]]]:
    """The rings of a polygon in RFC 7946's direction, the first corner again at the end."""
    turned = shapely.orient_polygons(polygon, exterior_cw=False)
    return [np.round(shapely.get_coordinates(ring), DIGITS).tolist() for ring in shapely.get_rings(turned)]

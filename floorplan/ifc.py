"""IFC4 models of plans: spaces, walls with openings, doors. Needs ifcopenshell (`pip install 'trifold[ifc]'`)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from shapely.geometry import Polygon

from .building import Building, DoorShape, RoomShape, WallShape, drawn_building, rooms_in_words
from .door_leaves import Leaf
from .errors import FloorplanError
from .files import write_whole
from .finished import FinishedPlan
from .ifc_file import IfcFile
from .plan import Plan
from .rooms import RoomType
from .symbols import fmt

# Openings reach this far (metres) beyond both faces of their wall, so that no reader leaves a film standing.
REACH = 0.02
LEAF_THICKNESS = 0.04  # metres
LABEL = 255  # IfcLabel holds no more characters


@dataclass(frozen=True)
class IfcHeights:
    """Heights in metres, which a plan does not know. Raises `FloorplanError` unless 0 < door < ceiling, finite."""

    ceiling: float = 2.6
    door: float = 2.1

    def __post_init__(self) -> None:
        if not 0 < self.door < self.ceiling < np.inf:
            found = f"door {self.door!r}, ceiling {self.ceiling!r}"
            raise FloorplanError(f"expected 0 < door < ceiling in metres, found {found}", field="heights")


@dataclass(frozen=True, eq=False)
class _Storey:
    entity: Any
    placement: Any
    spaces: list[Any]


def ifc_model(plan: Plan | FinishedPlan, heights: IfcHeights | None = None) -> Any:
    """The building as an `ifcopenshell.file`: IFC4, metres, y up, the origin in the frame's lower left corner.

    IfcProject / IfcSite / IfcBuilding / IfcBuildingStorey. Per room an IfcSpace (Name its number from 1, LongName its
    title, ObjectType its type; body: the floor between the walls up to the ceiling; Qto_SpaceBaseQuantities with
    GrossFloorArea to the wall centre lines and NetFloorArea between the walls). Per wall an IfcWall (axis, mitred
    body, Qto_WallBaseQuantities), with an IfcOpeningElement and an IfcDoor (leaf, swing side) for every opening.
    IfcRelSpaceBoundary says which rooms a wall or a door bounds. GlobalIds follow from the plan's content.
    A plain `Plan` has no walls: spaces are extruded from the room outlines as drawn, and doors are left out because
    nothing holds them; so are, with walls, doors without an opening.
    Raises `FloorplanError` for a room whose outline crosses itself, and `ImportError` without ifcopenshell.
    """
    heights = heights or IfcHeights()
    building = drawn_building(plan).in_metres()
    for room in building.rooms:
        if not (building.walls or Polygon(room.outline).is_valid):
            raise FloorplanError(
                "outline crosses or touches itself; IFC needs a finished plan", field=f"nodes[{room.index}]"
            )
    file = IfcFile(_fingerprint(building))
    storey = _spatial_structure(file, building, heights)
    walls = [_wall(file, storey, wall, heights) for wall in building.walls]
    doors = []
    for door in building.doors:
        if door.wall is not None:
            doors.append(_door(file, storey, building, door, building.walls[door.wall], walls[door.wall], heights))
    file.contain(storey.entity, [*walls, *doors])
    return file.model


def ifc_text(plan: Plan | FinishedPlan, heights: IfcHeights | None = None) -> str:
    """`ifc_model` as the text of a STEP file; letters outside ASCII are escaped as the format prescribes."""
    return ifc_model(plan, heights).to_string()


def save_ifc(plan: Plan | FinishedPlan, path: str | os.PathLike[str], heights: IfcHeights | None = None) -> None:
    """Write `ifc_model`; the file appears whole or not at all. A plain `Plan` is written as spaces alone.

    Raises `FloorplanError` for a room that crosses itself or a path that cannot be written, and `ImportError` without
    ifcopenshell.
    """
    try:
        text = ifc_text(plan, heights)
    except FloorplanError as error:
        raise error.within(str(path)) from None
    write_whole(path, text)


def _fingerprint(building: Building) -> str:
    """Text that tells this building from others: its name and all coordinates to a micrometre."""
    digest = hashlib.sha256(building.name.encode())
    for shape in (*building.rooms, *building.doors):
        digest.update(np.round(shape.outline, 6).tobytes() + str(int(shape.type)).encode())
    return digest.hexdigest()


def _label(text: str) -> str:
    return text if len(text) <= LABEL else text[: LABEL - 3] + "..."


def _spatial_structure(file: IfcFile, building: Building, heights: IfcHeights) -> _Storey:
    name = _label(building.name or "Floor plan")
    project = file.root("IfcProject", Name=name, RepresentationContexts=[file.context], UnitsInContext=file.units)
    site_place = file.local(None, (0.0, 0.0, 0.0))
    house_place = file.local(site_place, (0.0, 0.0, 0.0))
    storey_place = file.local(house_place, (0.0, 0.0, 0.0))
    part = {"CompositionType": "ELEMENT"}
    site = file.root("IfcSite", Name="Site", ObjectPlacement=site_place, **part)
    house = file.root("IfcBuilding", Name=name, ObjectPlacement=house_place, **part)
    storey = file.root("IfcBuildingStorey", Name="Ground floor", ObjectPlacement=storey_place, Elevation=0.0, **part)
    file.aggregate(project, [site])
    file.aggregate(site, [house])
    file.aggregate(house, [storey])
    spaces = [_space(file, storey_place, room, heights) for room in building.rooms]
    file.aggregate(storey, spaces)
    return _Storey(storey, storey_place, spaces)


def _space(file: IfcFile, parent: Any, room: RoomShape, heights: IfcHeights) -> Any:
    solids = [file.extrusion(part, heights.ceiling) for part in room.floor.geoms]
    outside = room.type == RoomType.BALCONY
    space = file.root(
        "IfcSpace",
        Name=str(room.index + 1),
        LongName=_label(room.title),
        ObjectType=room.type.name,
        ObjectPlacement=file.local(parent, (0.0, 0.0, 0.0)),
        # Walls can leave nothing of a narrow room; such a space has quantities and no body.
        Representation=file.product_shape(file.shape(file.body, "SweptSolid", solids)) if solids else None,
        CompositionType="ELEMENT",
        PredefinedType="EXTERNAL" if outside else "INTERNAL",
        ElevationWithFlooring=0.0,
    )
    quantities = {
        "Height": heights.ceiling,
        "NetPerimeter": room.floor.length,
        "GrossFloorArea": room.area,
        "NetFloorArea": room.floor_area,
        "NetVolume": room.floor_area * heights.ceiling,
    }
    file.quantities(space, "Qto_SpaceBaseQuantities", quantities)
    file.properties(space, "Pset_SpaceCommon", {"IsExternal": outside})
    return space


def _frame_of(wall: WallShape) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [2] along and to the left of a wall."""
    along = (wall.end - wall.start) / wall.length
    return along, np.array([-along[1], along[0]])


def _wall(file: IfcFile, storey: _Storey, wall: WallShape, heights: IfcHeights) -> Any:
    along, left = _frame_of(wall)

    def local(xy: np.ndarray) -> np.ndarray:
        return (xy - wall.start) @ np.stack([along, left], 1)

    body = file.extrusion(shapely.transform(wall.whole, local), heights.ceiling)
    axis = file.polyline(np.array([[0.0, 0.0], [wall.length, 0.0]]), closed=False)
    entity = file.root(
        "IfcWall",
        Name=f"Wall {wall.index + 1}",
        ObjectPlacement=file.local(storey.placement, (*wall.start, 0.0), along),
        Representation=file.product_shape(
            file.shape(file.axis, "Curve2D", [axis]), file.shape(file.body, "SweptSolid", [body])
        ),
        PredefinedType="SOLIDWALL",
    )
    quantities = {
        "Length": wall.length,
        "Width": wall.thickness,
        "Height": heights.ceiling,
        "GrossFootprintArea": wall.whole.area,
        "GrossVolume": wall.whole.area * heights.ceiling,
        "NetVolume": wall.whole.area * heights.ceiling - (wall.whole.area - wall.solid.area) * heights.door,
    }
    file.quantities(entity, "Qto_WallBaseQuantities", quantities)
    file.properties(entity, "Pset_WallCommon", {"IsExternal": wall.rooms[1] is None})
    _bound(file, storey, wall.rooms, entity)
    return entity


def _door(
    file: IfcFile,
    storey: _Storey,
    building: Building,
    door: DoorShape,
    wall: WallShape,
    host: Any,
    heights: IfcHeights,
) -> Any:
    """The opening in its wall and the door that fills it, whose local y axis points where it opens."""
    along, left = _frame_of(wall)
    offset = door.centre - wall.start
    opening_place = file.local(host.ObjectPlacement, (float(offset @ along), float(offset @ left), 0.0))
    size = (door.width, wall.thickness + 2 * REACH, heights.door)
    opening = file.root(
        "IfcOpeningElement",
        Name=f"Opening {door.index + 1}",
        ObjectPlacement=opening_place,
        Representation=file.product_shape(file.shape(file.body, "SweptSolid", [file.box((0.0, 0.0, 0.0), size)])),
        PredefinedType="OPENING",
    )
    file.root("IfcRelVoidsElement", RelatingBuildingElement=host, RelatedOpeningElement=opening)

    forward, operation = 1.0, "DOUBLE_DOOR_SLIDING"
    if door.leaf is not None:
        forward = 1.0 if (door.leaf.opened - door.leaf.hinge) @ left > 0 else -1.0
        # Left and right are where the hinge is as one looks through the door the way it opens; y is up here.
        operation = "SINGLE_SWING_LEFT" if door.leaf.turns_positive else "SINGLE_SWING_RIGHT"
    corner = (-forward * door.width / 2, forward * (wall.thickness / 2 - LEAF_THICKNESS), 0.0)
    panel = file.box((door.width / 2, LEAF_THICKNESS / 2, 0.0), (door.width, LEAF_THICKNESS, heights.door))
    shapes = [file.shape(file.body, "SweptSolid", [panel])]
    if door.leaf is not None:
        origin = door.centre + corner[0] * along + corner[1] * left
        sign = _swing(file, door.leaf, origin, forward * np.stack([along, left], 1))
        shapes.append(file.shape(file.footprint, "Curve2D", [sign]))
    entity = file.root(
        "IfcDoor",
        Name=f"Door {door.index + 1}",
        Description=f"{rooms_in_words(building, door.rooms)}, {fmt(door.width)} m",
        ObjectPlacement=file.local(opening_place, corner, (forward, 0.0)),
        Representation=file.product_shape(*shapes),
        OverallHeight=heights.door,
        OverallWidth=door.width,
        PredefinedType="DOOR",
        OperationType=operation,
    )
    file.root("IfcRelFillsElement", RelatingOpeningElement=opening, RelatedBuildingElement=entity)
    file.quantities(
        entity,
        "Qto_DoorBaseQuantities",
        {"Width": door.width, "Height": heights.door, "Area": door.width * heights.door},
    )
    file.properties(entity, "Pset_DoorCommon", {"IsExternal": door.rooms[1] is None})
    _bound(file, storey, door.rooms, entity)
    return entity


def _swing(file: IfcFile, leaf: Leaf, origin: np.ndarray, axes: np.ndarray) -> Any:
    """The leaf and its arc in the door's own coordinates; `axes` [2, 2] has a unit vector in each column."""
    radius = (leaf.closed + leaf.opened - 2 * leaf.hinge) / np.sqrt(2)
    points = [(xy - origin) @ axes for xy in (leaf.closed, leaf.hinge + radius, leaf.opened, leaf.hinge)]
    return file.swing(points[0], points[1], points[2], points[3])


def _bound(file: IfcFile, storey: _Storey, rooms: tuple[int, int | None], element: Any) -> None:
    """An element bounds the rooms on its sides."""
    for room in rooms:
        if room is not None:
            file.root(
                "IfcRelSpaceBoundary",
                RelatingSpace=storey.spaces[room],
                RelatedBuildingElement=element,
                PhysicalOrVirtualBoundary="PHYSICAL",
                InternalOrExternalBoundary="EXTERNAL" if rooms[1] is None else "INTERNAL",
            )

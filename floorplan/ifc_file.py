"""The plumbing of an IFC4 file: units, contexts, placements, swept bodies, relations, stable identities.

Needs ifcopenshell (`pip install 'trifold[ifc]'`). `ifc.py` says what a plan becomes; this module how IFC writes it.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from shapely.geometry import Polygon

SCHEMA = "IFC4"
PRECISION = 1e-6  # metres: points closer than this are the same to a reader
# Identities are derived from names in this namespace, so that the same plan is the same building in every export.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "trifold/floorplan/ifc")


class IfcFile:
    """An IFC4 file in metres under construction.

    `seed` tells buildings apart: two files with the same seed give the same things the same GlobalIds.
    Raises `ImportError` without ifcopenshell.
    """

    def __init__(self, seed: str) -> None:
        try:
            self.library = importlib.import_module("ifcopenshell")
        except ModuleNotFoundError as error:
            raise ImportError("IFC needs ifcopenshell: pip install 'trifold[ifc]'") from error
        self.model = self.library.file(schema=SCHEMA)
        self.model.header.file_name.originating_system = "Trifold"
        self.seed = seed
        self._roots = 0
        self.origin = self.placement3d((0.0, 0.0, 0.0), (1.0, 0.0))
        self.units = self._units()
        self.context = self.add("IfcGeometricRepresentationContext", None, "Model", 3, PRECISION, self.origin, None)
        self.body = self._subcontext("Body", "MODEL_VIEW")
        self.axis = self._subcontext("Axis", "GRAPH_VIEW")
        self.footprint = self._subcontext("FootPrint", "PLAN_VIEW")

    def add(self, kind: str, *values: Any, **named: Any) -> Any:
        """A new entity, its attributes in the schema's order or by name."""
        return self.model.create_entity(kind, *values, **named)

    def root(self, kind: str, **named: Any) -> Any:
        """A new entity with a GlobalId, which depends on the seed and on how many came before it."""
        key = uuid.uuid5(NAMESPACE, f"{self.seed}/{kind}/{self._roots}")
        self._roots += 1
        return self.add(kind, GlobalId=self.library.guid.compress(key.hex), **named)

    def point(self, xy: Sequence[float] | np.ndarray) -> Any:
        return self.add("IfcCartesianPoint", tuple(float(value) for value in xy))

    def direction(self, values: Sequence[float] | np.ndarray) -> Any:
        return self.add("IfcDirection", tuple(float(value) for value in values))

    def placement3d(self, at: Sequence[float], x_axis: Sequence[float] | np.ndarray) -> Any:
        """Axes at a point, x turned to `x_axis` [2] in the ground plane, z up."""
        return self.add(
            "IfcAxis2Placement3D",
            self.point(at),
            self.direction((0.0, 0.0, 1.0)),
            self.direction((float(x_axis[0]), float(x_axis[1]), 0.0)),
        )

    def local(self, parent: Any, at: Sequence[float], x_axis: Sequence[float] | np.ndarray = (1.0, 0.0)) -> Any:
        """A local placement in the coordinates of `parent` (a placement, or None for the world)."""
        return self.add("IfcLocalPlacement", parent, self.placement3d(at, x_axis))

    def polyline(self, points: np.ndarray, *, closed: bool) -> Any:
        corners = [self.point(point) for point in points]
        return self.add("IfcPolyline", [*corners, corners[0]] if closed else corners)

    def swing(self, closed: np.ndarray, middle: np.ndarray, opened: np.ndarray, hinge: np.ndarray) -> Any:
        """A door's sign: the arc through three points and the leaf from its end to the hinge, points [2]."""
        points = self.add("IfcCartesianPointList2D", [tuple(map(float, xy)) for xy in (closed, middle, opened, hinge)])
        arc, leaf = self.add("IfcArcIndex", (1, 2, 3)), self.add("IfcLineIndex", (3, 4))
        return self.add("IfcIndexedPolyCurve", points, [arc, leaf], False)

    def extrusion(self, shape: Polygon, height: float) -> Any:
        """A polygon swept upwards from z = 0."""
        turned = shapely.orient_polygons(shape, exterior_cw=False)
        rings = [shapely.get_coordinates(ring)[:-1] for ring in (turned.exterior, *turned.interiors)]
        curves = [self.polyline(ring, closed=True) for ring in rings]
        if len(curves) == 1:
            profile = self.add("IfcArbitraryClosedProfileDef", "AREA", None, curves[0])
        else:
            profile = self.add("IfcArbitraryProfileDefWithVoids", "AREA", None, curves[0], curves[1:])
        return self.add("IfcExtrudedAreaSolid", profile, self.origin, self.direction((0.0, 0.0, 1.0)), height)

    def box(self, centre: Sequence[float], size: Sequence[float]) -> Any:
        """A box [length, depth, height] over the rectangle around `centre` [x, y, z of its base]."""
        middle = self.add("IfcAxis2Placement2D", self.point((0.0, 0.0)), self.direction((1.0, 0.0)))
        profile = self.add("IfcRectangleProfileDef", "AREA", None, middle, float(size[0]), float(size[1]))
        place = self.placement3d(centre, (1.0, 0.0))
        return self.add("IfcExtrudedAreaSolid", profile, place, self.direction((0.0, 0.0, 1.0)), float(size[2]))

    def shape(self, context: Any, kind: str, items: Sequence[Any]) -> Any:
        """A representation of `items`, of the context's own name (`Body`, `Axis`, `FootPrint`)."""
        return self.add("IfcShapeRepresentation", context, context.ContextIdentifier, kind, list(items))

    def product_shape(self, *representations: Any) -> Any:
        return self.add("IfcProductDefinitionShape", None, None, list(representations))

    def aggregate(self, whole: Any, parts: Sequence[Any]) -> None:
        """`parts` make up `whole`; nothing where there are none, since IFC allows no empty relation."""
        if parts:
            self.root("IfcRelAggregates", RelatingObject=whole, RelatedObjects=list(parts))

    def contain(self, place: Any, things: Sequence[Any]) -> None:
        """`things` stand in a part of the building."""
        if things:
            self.root("IfcRelContainedInSpatialStructure", RelatedElements=list(things), RelatingStructure=place)

    def quantities(self, of: Any, name: str, values: dict[str, float]) -> None:
        """A quantity set; the unit follows from the last word of each name (Area, Volume, else a length)."""
        entries = []
        for key, value in values.items():
            kind = next((kind for kind in ("Area", "Volume") if key.endswith(kind)), "Length")
            entries.append(self.add(f"IfcQuantity{kind}", key, None, None, float(value)))
        self._define(of, self.root("IfcElementQuantity", Name=name, Quantities=entries))

    def properties(self, of: Any, name: str, values: dict[str, bool | str]) -> None:
        """A property set of truth values (IfcBoolean) and texts (IfcIdentifier)."""
        entries = []
        for key, value in values.items():
            kind = "IfcBoolean" if isinstance(value, bool) else "IfcIdentifier"
            entries.append(self.add("IfcPropertySingleValue", key, None, self.add(kind, value), None))
        self._define(of, self.root("IfcPropertySet", Name=name, HasProperties=entries))

    def _define(self, of: Any, definition: Any) -> None:
        self.root("IfcRelDefinesByProperties", RelatedObjects=[of], RelatingPropertyDefinition=definition)

    def _subcontext(self, name: str, view: str) -> Any:
        return self.add(
            "IfcGeometricRepresentationSubContext",
            ContextIdentifier=name,
            ContextType="Model",
            ParentContext=self.context,
            TargetView=view,
        )

    def _units(self) -> Any:
        names = [("LENGTHUNIT", "METRE"), ("AREAUNIT", "SQUARE_METRE"), ("VOLUMEUNIT", "CUBIC_METRE")]
        names.append(("PLANEANGLEUNIT", "RADIAN"))
        return self.add("IfcUnitAssignment", [self.add("IfcSIUnit", None, kind, None, unit) for kind, unit in names])

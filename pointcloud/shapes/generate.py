"""From a category and a seed to a shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import PointCloudError
from ..mesh import Mesh
from .airplane import build_airplane
from .car import build_car
from .chair import build_chair
from .draw import Draw, Parameter
from .lamp import build_lamp
from .mug import build_mug
from .parts import Part
from .solid import untouching
from .table import build_table

# Each builder returns a closed surface in metres that faces +z.
BUILDERS: dict[str, Callable[[Draw], Part]] = {
    "airplane": build_airplane,
    "car": build_car,
    "chair": build_chair,
    "lamp": build_lamp,
    "mug": build_mug,
    "table": build_table,
}
CATEGORIES = tuple(BUILDERS)


@dataclass(frozen=True, eq=False)
class Shape:
    """A generated object.

    mesh: closed surface, y up, front towards +z, its bounding box centred on the origin with a longest side of 1.
    parameters: every random decision by name, in metres, degrees, counts or words.
    metres: the length of one unit of the mesh, so that `mesh.vertices * metres` is the object's true size.
    """

    category: str
    mesh: Mesh
    parameters: dict[str, Parameter]
    metres: float


def make_shape(category: str, seed: int) -> Shape:
    """The shape of `seed` (0 or more) in one of `CATEGORIES`; the same seed always gives the same shape.

    Raises PointCloudError for an unknown category or a negative seed, ImportError without manifold3d.
    """
    if category not in BUILDERS:
        raise PointCloudError(f"category: expected one of {', '.join(CATEGORIES)}, found {category!r}")
    if seed < 0:
        raise PointCloudError(f"seed: expected 0 or more, found {seed}")
    draw = Draw([CATEGORIES.index(category), seed])
    part = BUILDERS[category](draw)
    low, high = part.vertices.min(axis=0), part.vertices.max(axis=0)
    metres = float((high - low).max())
    vertices = untouching((part.vertices - (low + high) / 2) / metres, part.faces)
    mesh = Mesh(vertices=vertices, faces=part.faces, name=f"{category}-{seed}")
    return Shape(category, mesh, draw.parameters, metres)

"""HouseDiffusion's way from polygons to corners, through a 64-pixel raster (Shabani et al. 2023, data preparation).

All corners end on a lattice: left and top sides at 4k, right and bottom sides at 4k + 3 of 256 pixels; neighbouring
rooms touch and doors overlap them. Each concave corner turns into two, joined by a one-pixel diagonal, so an L has 7
corners. Needed to compare with the original; `dataset.py` trains on the exact corners instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np
from PIL import Image, ImageDraw

from .errors import FloorplanError
from .plan import Plan
from .rooms import is_door

RASTER = 256
LATTICE = 64


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise ImportError("the 64-pixel lattice needs OpenCV: pip install opencv-python-headless") from error
    return cv2


def centred_polygons(plan: Plan) -> list[np.ndarray]:
    """Polygons [K, 2] float64 as shares of the frame, the bounding box of all nodes centred on (0.5, 0.5).

    Raises `FloorplanError` for a plan that is larger than its frame.
    """
    polygons = [node.polygon / plan.frame for node in plan.nodes]
    points = np.concatenate(polygons)
    low, high = points.min(axis=0), points.max(axis=0)
    if (high - low).max() > 1:
        raise FloorplanError(
            f"the plan is {(high - low).max() * plan.frame:g} units wide, its frame {plan.frame:g}",
            source=plan.name,
            field="frame",
        )
    shift = (low + high) / 2 - 0.5
    return [polygon - shift for polygon in polygons]


def lattice_masks(polygons: Sequence[np.ndarray], doors: Sequence[bool]) -> np.ndarray:
    """Masks [R, 64, 64] uint8 of polygons given as shares of the frame.

    Each is filled at 256 pixels and shrunk bicubically; every pixel that is not 0 then counts. Where rooms overlap
    the later one wins, as if painted in order; doors (flags [R]) neither take nor give.
    """
    masks = np.zeros((len(polygons), LATTICE, LATTICE), dtype=np.uint8)
    for mask, polygon in zip(masks, polygons, strict=True):
        picture = Image.new("L", (RASTER, RASTER))
        ImageDraw.Draw(picture).polygon([(x, y) for x, y in (polygon * RASTER).tolist()], fill=255)
        mask[:] = np.asarray(picture.resize((LATTICE, LATTICE), Image.Resampling.BICUBIC)) > 0
    painted = np.zeros((LATTICE, LATTICE), dtype=bool)
    for mask, door in zip(masks[::-1], reversed(doors), strict=True):
        if not door:
            mask[painted] = 0
            painted |= mask > 0
    return masks


def trace_mask(mask: np.ndarray) -> np.ndarray:
    """Corners [K, 2] float64 in pixels of 256 of the first outline OpenCV finds in a [64, 64] mask; [0, 2] if empty.

    They run from the top left down, along the bottom, and up (y down). Holes and further parts are lost.
    """
    cv2 = _opencv()
    large = cv2.resize(mask, (RASTER, RASTER), interpolation=cv2.INTER_AREA)
    outlines, _ = cv2.findContours(large, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray(outlines[0][:, 0], dtype=np.float64) if len(outlines) else np.zeros((0, 2))


def lattice_polygons(plan: Plan) -> list[np.ndarray]:
    """The plan's polygons as the original sees them: [K, 2] float64 in pixels 0..255 of the 256-pixel frame, centred.

    Raises `FloorplanError` naming the node if one has no lattice pixel left (a thin door, a room painted over),
    where the original fails too, and `ImportError` without OpenCV.
    """
    masks = lattice_masks(centred_polygons(plan), [is_door(node.type) for node in plan.nodes])
    polygons = [trace_mask(mask) for mask in masks]
    for i, (node, polygon) in enumerate(zip(plan.nodes, polygons, strict=True)):
        if len(polygon) < 3:
            raise FloorplanError(
                f"{node.type.name.lower()} {node.name!r} vanishes on the 64-pixel lattice",
                source=plan.name,
                field=f"nodes[{i}].polygon",
            )
    return polygons


def on_lattice(plan: Plan) -> Plan:
    """The plan with its polygons from `lattice_polygons`, in its own units (centred in its frame)."""
    scale = plan.frame / RASTER
    polygons = lattice_polygons(plan)
    return replace(
        plan,
        nodes=tuple(replace(node, polygon=p * scale) for node, p in zip(plan.nodes, polygons, strict=True)),
    )

"""Writing one plan, drawn or finished, in the format its suffix names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FloorplanError
from .files import encoded, write_whole

if TYPE_CHECKING:
    from .finished import FinishedPlan
    from .plan import Plan


def save_plan(plan: Plan | FinishedPlan, path: str | os.PathLike[str], *, width: int = 1024) -> None:
    """Write by suffix: `.json` (RPLAN schema), `.svg`, `.png` (`width` pixels wide), `.dxf`, `.geojson` or `.ifc`.

    Of a finished plan drawings have walls with their thickness, door leaves and floor areas, and DXF and IFC hold them
    as such; a plan as drawn has room and door outlines only. The file appears whole or not at all. Raises
    `FloorplanError` for another suffix or a path that cannot be written, ImportError for DXF and IFC without their
    extras.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        found = f"a {suffix} file" if suffix else "a file without suffix"
        raise FloorplanError(f"cannot write {found}; use {', '.join(PLAN_SUFFIXES)}", source=str(path))
    WRITERS[suffix](plan, path, width)


# The writers import what they need when they are called: rasteriser, DXF and IFC are large, and most users want one.


def _json(plan: Plan | FinishedPlan, path: str | os.PathLike[str], width: int) -> None:
    from .plan import Plan
    from .rplan import plan_to_rplan

    write_whole(path, json.dumps(plan_to_rplan(plan if isinstance(plan, Plan) else plan.plan)) + "\n")


def _svg(plan: Plan | FinishedPlan, path: str | os.PathLike[str], width: int) -> None:
    write_whole(path, encoded(_drawing(plan), str(path)))


def _png(plan: Plan | FinishedPlan, path: str | os.PathLike[str], width: int) -> None:
    from .render import svg_to_png

    svg = _drawing(plan)
    encoded(svg, str(path))  # refuses a name that is no text before the rasteriser trips over it
    write_whole(path, svg_to_png(svg, width))


def _drawing(plan: Plan | FinishedPlan) -> str:
    from .plan import Plan

    if isinstance(plan, Plan):
        from .render import plan_to_svg

        return plan_to_svg(plan)
    from .svg_drawing import svg_text

    return svg_text(plan)


def _dxf(plan: Plan | FinishedPlan, path: str | os.PathLike[str], width: int) -> None:
    from .dxf import save_dxf

    save_dxf(plan, path)


def _geojson(plan: Plan | FinishedPlan, path: str | os.PathLike[str], width: int) -> None:
    from .geojson import save_geojson

    save_geojson(plan, path)


def _ifc(plan: Plan | FinishedPlan, path: str | os.PathLike[str], width: int) -> None:
    from .ifc import save_ifc

    save_ifc(plan, path)


WRITERS: dict[str, Callable[[Plan | FinishedPlan, str | os.PathLike[str], int], None]] = {
    ".json": _json,
    ".svg": _svg,
    ".png": _png,
    ".dxf": _dxf,
    ".geojson": _geojson,
    ".ifc": _ifc,
}
PLAN_SUFFIXES = tuple(WRITERS)

"""One HTML page with clouds and meshes to turn by hand; it needs no network and no other file."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..common.weights import replaced_file
from .camera import Camera
from .errors import PointCloudError
from .mesh import Mesh
from .page_text import CONTROLS, SCRIPT, STYLE
from .render import RAMP, Item, Style, render
from .shading import corner_normals

STEPS = 32767  # of the signed 16-bit numbers that positions are rounded to


@dataclass(frozen=True, eq=False)
class Panel:
    """One thing on the page: `title` above its `note` (class, seed, settings) below the picture."""

    title: str
    item: Item
    note: str = ""


def save_page(
    path: str | os.PathLike[str],
    panels: Sequence[Panel],
    *,
    title: str = "Shapes",
    caption: str = "",
    up: Literal["y", "z"] = "y",
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write the page; it opens from the disk in any browser. The file appears whole or not at all.

    Dragging turns all shapes together or one alone, wheel and pinch zoom, arrow keys do too. Positions are rounded to a
    32,767th of a shape's half extent and embedded, about 8 bytes a point and 20 a triangle. Where WebGL 2 is missing,
    and on paper, each shape is a still picture. All texts are escaped.

    up: the data's vertical axis. facts: name -> value, a list below the shapes.
    Raises PointCloudError for no panels and a place that cannot be written.
    """
    path = Path(path)
    page = page_html(panels, title=title, caption=caption, up=up, facts=facts)
    try:
        with replaced_file(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise PointCloudError(f"{path}: cannot write ({error.strerror or error})") from error


def page_html(
    panels: Sequence[Panel],
    *,
    title: str = "Shapes",
    caption: str = "",
    up: Literal["y", "z"] = "y",
    facts: Mapping[str, str] | None = None,
) -> str:
    """The page as text; see `save_page`."""
    if not panels:
        raise PointCloudError("page: expected at least one cloud or mesh, found none")
    camera = Camera(up=up)
    figures = "\n".join(_figure(panel, camera, number) for number, panel in enumerate(panels))
    data = [packed(panel.item, up) for panel in panels]
    about = f'<p class="about">{html.escape(caption)}</p>' if caption else ""
    setting = {"ramp": RAMP, "azimuth": camera.azimuth, "elevation": camera.elevation, "fov": camera.field_of_view}
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>
<header><h1>{html.escape(title)}</h1>{about}</header>
{CONTROLS}
<div class="stage">
{figures}
</div>
{_facts(facts)}</main>
<script>const SETTING = {json.dumps(setting)};
const SHAPES = {json.dumps(data)};
{SCRIPT}</script></body></html>
"""


def packed(item: Item, up: Literal["y", "z"] = "y") -> dict[str, Any]:
    """What the page's viewer reads, in base64, little-endian, y up.

    cloud: {"points": int16 [N, 3]}. mesh: {"points": int16 [V, 3], "normals": int8 [V, 3], "faces": uint16 or uint32
    [F, 3], "wide": whether 32 bits}; vertices are split where the surface is sharp. Both with "radius", that of the
    ball around the box, and "height", half the box's height, in the units of "points" / 32767 with the box's centre at
    0.
    """
    if isinstance(item, Mesh):
        points, normals, faces = _split(item)
        low, high = item.bounds.astype(np.float64)
    else:
        points, normals, faces = item.points, None, None
        low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    half = max(float((high - low).max()) / 2, 1e-12)
    rounded = np.clip(np.rint((points.astype(np.float64) - (low + high) / 2) / half * STEPS), -STEPS, STEPS)
    sides = (high - low) / 2 / half
    result: dict[str, Any] = {
        "points": _base64(_upright(rounded, up), "<i2"),
        "radius": max(float(np.linalg.norm(sides)), 1e-6),
        "height": float(sides[1 if up == "y" else 2]),
    }
    if faces is not None and normals is not None:
        wide = len(points) > 65535
        result |= {
            "normals": _base64(_upright(np.rint(normals.astype(np.float64) * 127), up), "<i1"),
            "faces": _base64(faces, "<u4" if wide else "<u2"),
            "wide": wide,
        }
    return result


def _upright(vectors: np.ndarray, up: str) -> np.ndarray:
    return vectors if up == "y" else np.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], axis=1)


def _base64(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array.astype(kind)).tobytes()).decode()


def _split(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, unit normals and faces, each vertex as often as it has different normals."""
    normals = np.rint(corner_normals(mesh).reshape(-1, 3) * 127).astype(np.int64)
    corners = mesh.faces.ravel()
    code = ((normals + 128) * np.array([1 << 16, 1 << 8, 1])).sum(1)
    _, first, index = np.unique(corners * (1 << 24) + code, return_index=True, return_inverse=True)
    return mesh.vertices[corners[first]], normals[first] / 127, index.reshape(-1, 3)


def _figure(panel: Panel, camera: Camera, number: int) -> str:
    item, title = panel.item, html.escape(panel.title)
    note = f"<small>{html.escape(panel.note)}</small>" if panel.note else ""
    kind = f"{len(item.faces):,} triangles" if isinstance(item, Mesh) else f"{len(item.points):,} points"
    label = f'role="img" aria-label="{title}, {kind}; arrow keys turn it"'
    return (
        f'<figure><div class="view"><img alt="{title}, {kind}" src="{_still(item, camera)}">'
        f'<canvas data-shape="{number}" tabindex="0" {label} hidden></canvas></div>'
        f"<figcaption><span>{title}</span>{note}<em>{kind}</em></figcaption></figure>"
    )


def _still(item: Item, camera: Camera) -> str:
    picture = render(item, camera=camera, size=256, style=Style(background="#ffffff"))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _facts(facts: Mapping[str, str] | None) -> str:
    if not facts:
        return ""
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{items}</dl>\n"

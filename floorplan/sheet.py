"""Contact sheets: many plans on one page."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from .errors import FloorplanError
from .files import write_whole
from .plan import Plan
from .render import drawable, plan_to_svg, plan_view, svg_to_png
from .symbols import FONT, fmt, shortened


def contact_sheet(
    plans: Sequence[Plan],
    columns: int | None = None,
    titles: Sequence[str] | None = None,
    *,
    cell: int = 320,
    labels: bool = True,
    palette: str = "soft",
    same_scale: bool = False,
) -> str:
    """All plans in a grid as one SVG, row by row, each with its title (by default its name) underneath.

    columns: by default about as many as rows. cell: side of one picture in pixels. same_scale draws every plan at the
    scale of the largest, so that sizes compare; otherwise each fills its cell and has its own scale bar.
    """
    if not plans:
        raise FloorplanError("no plans; expected at least one", source="contact sheet", field="plans")
    if titles is not None and len(titles) != len(plans):
        raise FloorplanError(
            f"expected one title per plan, found {len(titles)} for {len(plans)}", source="contact sheet", field="titles"
        )
    if columns is not None and columns < 1:
        raise FloorplanError(f"expected at least 1, found {columns}", source="contact sheet", field="columns")
    columns = min(columns or math.ceil(math.sqrt(len(plans))), len(plans))
    captions = [drawable(title) for title in ([plan.name for plan in plans] if titles is None else titles)]
    gap, band = 0.05 * cell, 0.1 * cell if any(captions) else 0.0
    foot = 0.07 * cell  # plan_to_svg adds this strip for the scale bar
    step_x, step_y = cell + gap, cell + foot + band + gap
    rows = math.ceil(len(plans) / columns)
    width, height = columns * step_x + gap, rows * step_y + gap
    side = max(plan_view([plan])[2] for plan in plans)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{fmt(width)}" height="{fmt(height)}" '
        f'viewBox="0 0 {fmt(width)} {fmt(height)}" font-family="{FONT}">',
        f'<rect width="{fmt(width)}" height="{fmt(height)}" fill="#ffffff"/>',
    ]
    for i, (plan, caption) in enumerate(zip(plans, captions, strict=True)):
        x, y = gap + (i % columns) * step_x, gap + (i // columns) * step_y
        view = None
        if same_scale:
            own_x, own_y, own, _ = plan_view([plan])
            view = (own_x - (side - own) / 2, own_y - (side - own) / 2, side, 1.07 * side)
        picture = plan_to_svg(plan, size=cell, labels=labels, palette=palette, view=view, id_prefix=f"plan{i}-")
        out.append(picture.replace("<svg ", f'<svg x="{fmt(x)}" y="{fmt(y)}" ', 1).rstrip())
        if caption:
            line = escape(shortened(caption, 0.042 * cell, cell))
            out.append(
                f'<text x="{fmt(x + cell / 2)}" y="{fmt(y + cell + foot + 0.055 * cell)}" text-anchor="middle" '
                f'font-size="{fmt(0.042 * cell)}" fill="#26282d">{line}</text>'
            )
    return "\n".join([*out, "</svg>"]) + "\n"


def save_picture(svg: str, path: str | os.PathLike[str], *, width: int | None = None) -> None:
    """Write an SVG text by suffix: `.svg` as it is, `.png` rasterised (`width` pixels wide, its own size by default).

    The file appears whole or not at all. Raises `FloorplanError` for another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".svg", ".png"):
        raise FloorplanError(f"cannot write {suffix or 'a file without suffix'}; use .svg or .png", source=str(path))
    write_whole(path, svg if suffix == ".svg" else svg_to_png(svg, width))

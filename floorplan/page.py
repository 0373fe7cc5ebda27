"""One self-contained HTML page: bubble diagrams beside the plans made from them."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from xml.sax.saxutils import escape

import networkx as nx
import numpy as np

from .diagram import BubbleDiagram, RoomSpec
from .errors import FloorplanError
from .files import write_whole
from .plan import Plan
from .render import PALETTES, plan_to_svg, type_title
from .symbols import ACCENT, FONT, contrast_colour, fmt, square_metres, text_width

Section = tuple[str, str, Sequence[Plan], BubbleDiagram | None]

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f3ef; color: #26282d; font: 16px/1.5 'Helvetica Neue', Helvetica, Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; font-weight: 600; letter-spacing: -0.01em; margin: 0 0 28px; }
section { background: #fff; border: 1px solid #e5e1d9; border-radius: 14px; padding: 24px 26px; margin: 0 0 26px; }
h2 { font-size: 20px; font-weight: 600; margin: 0 0 4px; }
p.caption { margin: 0 0 18px; color: #5d6068; max-width: 78ch; white-space: pre-line; }
.row { display: grid; grid-template-columns: minmax(240px, 300px) 1fr; gap: 26px; align-items: start; }
.row.bare { grid-template-columns: 1fr; }
.plans { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 18px; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
.diagram { background: #faf8f4; border-radius: 12px; padding: 10px; }
figcaption { font-size: 13px; color: #5d6068; text-align: center; padding-top: 6px; }
@media (max-width: 760px) { .row { grid-template-columns: 1fr; } main { padding: 20px 12px; } }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


def diagram_layout(diagram: BubbleDiagram, radii: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Centres [R, 2] of the bubbles: a seeded spring layout, then pushed apart until no circles of `radii` [R] touch.

    radii are relative to a typical distance of 1 between joined rooms. A planar start keeps doors from crossing.
    """
    graph = nx.Graph()
    graph.add_nodes_from(range(len(diagram.rooms)))
    graph.add_edges_from(diagram.doors)
    is_planar, _ = nx.check_planarity(graph)
    start = nx.planar_layout(graph) if is_planar else nx.circular_layout(graph)
    placed = nx.spring_layout(graph, pos=start, seed=seed, iterations=200, k=1.2 / np.sqrt(len(graph)))
    centre = np.array([placed[i] for i in range(len(graph))])
    if diagram.doors:
        ends = np.array(diagram.doors)
        centre /= np.linalg.norm(centre[ends[:, 0]] - centre[ends[:, 1]], axis=1).mean() + 1e-9
    else:
        centre *= 2.0
    rng = np.random.default_rng(seed)
    for _ in range(300):
        offset = centre[:, None] - centre[None] + 1e-6 * rng.standard_normal((len(graph), len(graph), 2))
        distance = np.linalg.norm(offset, axis=-1) + np.eye(len(graph))
        lack = np.maximum(radii[:, None] + radii[None] + 0.24 - distance, 0) * (1 - np.eye(len(graph)))
        if not lack.any():
            break
        centre = centre + 0.5 * (lack[..., None] * offset / distance[..., None]).sum(1)
    return centre - (centre.min(0) + centre.max(0)) / 2


def diagram_to_svg(diagram: BubbleDiagram, *, size: int = 300, palette: str = "soft", seed: int = 0) -> str:
    """The bubble diagram as SVG: bubbles as large as the wanted areas, a line per door, an arrow at the entrance."""
    if palette not in PALETTES:
        raise FloorplanError(f"expected one of {sorted(PALETTES)}, found {palette!r}", field="palette")
    areas = np.array([room.area or 0.0 for room in diagram.rooms])
    typical = np.median(areas[areas > 0]) if (areas > 0).any() else 1.0
    radii = 0.36 * np.clip(np.sqrt(np.where(areas > 0, areas, typical) / typical), 0.75, 1.6)
    centre = diagram_layout(diagram, radii, seed=seed)
    reach = float((np.abs(centre) + radii[:, None]).max()) + 0.42
    scale = size / 2 / reach
    xy, radii = centre * scale + size / 2, radii * scale

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" viewBox="0 0 {size} {size}" '
        f'font-family="{FONT}" role="img">',
        f"<title>bubble diagram{': ' + escape(diagram.name) if diagram.name else ''}</title>",
    ]
    for a, b in diagram.doors:
        (x1, y1), (x2, y2) = xy[a], xy[b]
        out.append(
            f'<line x1="{fmt(x1)}" y1="{fmt(y1)}" x2="{fmt(x2)}" y2="{fmt(y2)}" stroke="#8b8d94" stroke-width="2.2"/>'
        )
    if diagram.front_door is not None:
        out.append(_entrance(xy, radii, diagram.front_door))
    for room, (x, y), radius in zip(diagram.rooms, xy, radii, strict=True):
        fill = PALETTES[palette][room.type]
        out.append(
            f'<circle cx="{fmt(x)}" cy="{fmt(y)}" r="{fmt(radius)}" fill="{fill}" stroke="#383b42" stroke-width="1.4"/>'
        )
        out.append(_bubble_text(room, float(x), float(y), float(radius), contrast_colour(fill)))
    return "\n".join([*out, "</svg>"]) + "\n"


def _entrance(xy: np.ndarray, radii: np.ndarray, room: int) -> str:
    """A small arrow into the entrance room, from the direction with most space."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles)], -1)
    tips = xy[room] + rays * (radii[room] + 3)
    tails = xy[room] + rays * (radii[room] + 20)
    others = np.delete(np.arange(len(xy)), room)
    space = np.full(len(rays), np.inf)
    if len(others):
        space = (np.linalg.norm(tails[:, None] - xy[others], axis=-1) - radii[others]).min(1)
    k = int(np.argmax(np.minimum(space, 40)))
    side = np.array([-rays[k, 1], rays[k, 0]])
    base = tips[k] + rays[k] * 9
    head = " ".join(f"{fmt(x)},{fmt(y)}" for x, y in (tips[k], base + 5 * side, base - 5 * side))
    (x1, y1), (x2, y2) = tails[k], base
    return (
        f'<line x1="{fmt(x1)}" y1="{fmt(y1)}" x2="{fmt(x2)}" y2="{fmt(y2)}" stroke="{ACCENT}" stroke-width="2.6"/>'
        f'<polygon points="{head}" fill="{ACCENT}"/>'
    )


def _bubble_text(room: RoomSpec, x: float, y: float, radius: float, colour: str) -> str:
    words = room.name.replace("_", " ").split() or [type_title(room.type)]
    lines = (
        [" ".join(words)]
        if len(words) < 2
        else [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])]
    )
    font = min(13.0, 1.75 * radius / max(text_width(line, 1.0) for line in lines))
    rows = [(escape(line), font, "1") for line in lines]
    if room.area is not None:
        rows.append((square_metres(room.area, 0.82 * font, digits=0), 0.82 * font, "0.7"))
    out = []
    for k, (line, height, opacity) in enumerate(rows):
        base = y + (k - (len(rows) - 1) / 2) * 1.18 * font + 0.34 * font
        out.append(
            f'<text x="{fmt(x)}" y="{fmt(base)}" text-anchor="middle" font-size="{fmt(height)}" fill="{colour}" '
            f'fill-opacity="{opacity}">{line}</text>'
        )
    return "".join(out)


def page_html(sections: Sequence[Section], *, title: str = "Floor plans", palette: str = "soft") -> str:
    """The page as text; see `save_page`."""
    out = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main><h1>{html.escape(title)}</h1>",
    ]
    for s, (heading, caption, plans, diagram) in enumerate(sections):
        out.append(f"<section><h2>{html.escape(heading)}</h2>")
        if caption:
            out.append(f'<p class="caption">{html.escape(caption)}</p>')
        out.append(f'<div class="row{"" if diagram else " bare"}">')
        if diagram is not None:
            drawn = diagram_to_svg(diagram, palette=palette, seed=s)
            out.append(f'<figure class="diagram">{drawn}<figcaption>asked for</figcaption></figure>')
        out.append('<div class="plans">')
        for i, plan in enumerate(plans):
            drawn = plan_to_svg(plan, size=320, palette=palette, id_prefix=f"s{s}p{i}-")
            name = f"<figcaption>{html.escape(plan.name)}</figcaption>" if plan.name else ""
            out.append(f"<figure>{drawn}{name}</figure>")
        out.append("</div></div></section>")
    return "\n".join([*out, "</main></body></html>"]) + "\n"


def save_page(
    path: str | os.PathLike[str],
    sections: Sequence[Section],
    *,
    title: str = "Floor plans",
    palette: str = "soft",
) -> None:
    """Write one HTML file with inline drawings: no scripts, no fonts, no network; it opens anywhere and prints.

    sections: (title, caption, plans, bubble diagram or None), shown in order with the diagram beside the plans. All
    texts are escaped. The file appears whole or not at all. Raises `FloorplanError` when it cannot be written.
    """
    write_whole(path, page_html(sections, title=title, palette=palette))

"""Pictures of clouds and meshes in numpy: no GPU, no display, the same everywhere."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..common.weights import replaced_file
from .camera import Camera, View, aim
from .cloud import PointCloud
from .errors import PointCloudError
from .mesh import Mesh
from .rasterise import fill_triangles, splat_discs
from .shading import corner_normals, ground_shadow, lit, occlusion

Colour = Literal["height", "normal", "plain"]
Item = PointCloud | Mesh

# From the ground up: deep water, sea, sand, clay. Even in lightness, so that shading reads as shape.
RAMP = ("#35566b", "#4f8a8b", "#a9b388", "#dcb176", "#c77b58")
PLAIN = {"cloud": "#5b8a97", "mesh": "#cdbfaa"}
PAPER = "#f5f3ef"
INK = "#5d6068"
MOST_PIXELS = 8192


@dataclass(frozen=True)
class Style:
    """How things are drawn.

    colour: "height" (by the vertical coordinate), "normal" (by direction; clouds without normals get estimated ones) or
    "plain". None takes height for clouds and plain for meshes. radius: of a point's ball in units of the cloud, None
    for one that just covers the surface. background: "#rrggbb". shadow: a soft one on the ground. supersample: pixels
    are averaged from its square.
    """

    colour: Colour | None = None
    radius: float | None = None
    background: str = PAPER
    shadow: bool = True
    supersample: int = 2

    def __post_init__(self) -> None:
        if self.colour not in (None, "height", "normal", "plain"):
            raise PointCloudError(f"style: colour: expected height, normal or plain, found {self.colour!r}")
        if self.radius is not None and not (math.isfinite(self.radius) and self.radius > 0):
            raise PointCloudError(f"style: radius: expected a positive number, found {self.radius}")
        if not 1 <= self.supersample <= 4:
            raise PointCloudError(f"style: supersample: expected 1 to 4, found {self.supersample}")
        _rgb(self.background)


def _rgb(colour: str) -> np.ndarray:
    try:
        if len(colour) != 7 or colour[0] != "#":
            raise ValueError(colour)
        return np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    except ValueError as error:
        raise PointCloudError(f"colour: expected '#rrggbb', found {colour!r}") from error


def _frame(points: np.ndarray, bounds: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if bounds is None:
        return points.min(0), points.max(0)
    bounds = np.asarray(bounds, dtype=np.float64)
    if bounds.shape != (2, 3) or not np.isfinite(bounds).all():
        raise PointCloudError(f"bounds: expected finite numbers [2, 3], found {list(bounds.shape)}")
    return bounds[0], bounds[1]


def _ramp(values: np.ndarray) -> np.ndarray:
    """Values 0 to 1, any shape, to sRGB colours [..., 3]."""
    stops = np.array([_rgb(colour) for colour in RAMP])
    place = np.clip(values, 0, 1) * (len(stops) - 1)
    return np.stack([np.interp(place, np.arange(len(stops)), stops[:, k]) for k in range(3)], axis=-1)


def _by_direction(normals: np.ndarray) -> np.ndarray:
    """A pastel colour for every unit direction, in the manner of normal maps but paler."""
    return 0.62 + normals @ np.array([[0.22, -0.10, -0.08], [0.02, 0.18, -0.10], [-0.10, 0.04, 0.22]])


def _pixels(size: int | tuple[int, int], supersample: int) -> tuple[int, int]:
    width, height = (size, size) if isinstance(size, int) else size
    if not (8 <= width <= MOST_PIXELS and 8 <= height <= MOST_PIXELS):
        raise PointCloudError(f"size: expected 8 to {MOST_PIXELS} pixels, found {width}x{height}")
    return width * supersample, height * supersample


def render_cloud(
    cloud: PointCloud,
    *,
    camera: Camera | None = None,
    size: int | tuple[int, int] = 384,
    style: Style | None = None,
    bounds: np.ndarray | None = None,
) -> np.ndarray:
    """A cloud as little lit balls, darkened where the surface turns away from open space: uint8 [H, W, 3].

    size: pixels, or (width, height). bounds: [2, 3] lowest and highest corner that shall fill the picture, the cloud's
    own by default; give the same to pictures that are to be compared. About 0.2 s at 2048 points and 384 pixels.
    Raises PointCloudError for settings out of range.
    """
    camera, style = camera or Camera(), style or Style()
    points = cloud.points.astype(np.float64)
    low, high = _frame(points, bounds)
    view = aim(camera, low, high, _pixels(size, style.supersample))
    radius = style.radius if style.radius is not None else _ball(points, view.radius)
    covered, depth, number, offset = splat_discs(view, points, radius)
    x, y = offset[covered].T
    normals = np.stack([x, y, np.sqrt(np.maximum(1 - x * x - y * y, 0))], axis=1) @ view.axes
    vertical = 1 if camera.up == "y" else 2
    if style.colour == "normal":
        base = _by_direction(_cloud_normals(cloud, view)[number[covered]])
    elif style.colour == "plain":
        base = np.broadcast_to(_rgb(PLAIN["cloud"]), normals.shape)
    else:
        heights = (points[:, vertical] - low[vertical]) / max(float(high[vertical] - low[vertical]), 1e-12)
        base = _ramp(heights)[number[covered]]
    # Balls are there to show where points are, not to be marbles: their own relief counts for a part only.
    normals = 0.55 * normals + 0.45 * view.axes[2]
    # Soft as it is, the shadow is worked out in the picture's own pixels.
    plain = aim(camera, low, high, _pixels(size, 1))
    shade = ground_shadow(plain, points, low, vertical, radius) if style.shadow else None
    return _compose(view, style, covered, depth, base, normals, shade, vertical)


def render_mesh(
    mesh: Mesh,
    *,
    camera: Camera | None = None,
    size: int | tuple[int, int] = 384,
    style: Style | None = None,
    bounds: np.ndarray | None = None,
) -> np.ndarray:
    """A mesh under a key light and a bright sky, smooth within 30 degrees and sharp beyond: uint8 [H, W, 3].

    Both sides of a face are drawn alike. Arguments and errors as in `render_cloud`.
    """
    camera, style = camera or Camera(), style or Style()
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    low, high = _frame(mesh.bounds, bounds)
    view = aim(camera, low, high, _pixels(size, style.supersample))
    covered, depth, number, weights = fill_triangles(view, corners)
    seen = number[covered]
    smooth = corner_normals(mesh, seen)
    normals = np.einsum("pk,pkc->pc", weights[covered], smooth)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    positions = np.einsum("pk,pkc->pc", weights[covered], corners[seen])
    towards = view.centre + view.distance * view.axes[2] - positions if view.is_perspective else view.axes[2]
    normals = normals * np.where((normals * towards).sum(1, keepdims=True) < 0, -1.0, 1.0)
    vertical = 1 if camera.up == "y" else 2
    if style.colour == "normal":
        base = _by_direction(normals)
    elif style.colour == "height":
        base = _ramp((positions[:, vertical] - low[vertical]) / max(float(high[vertical] - low[vertical]), 1e-12))
    else:
        base = np.broadcast_to(_rgb(PLAIN["mesh"]), normals.shape)
    plain = aim(camera, low, high, _pixels(size, 1))
    shade = ground_shadow(plain, _spread(mesh), low, vertical, 0.012 * view.radius) if style.shadow else None
    return _compose(view, style, covered, depth, base, normals, shade, vertical)


def render(
    item: Item,
    *,
    camera: Camera | None = None,
    size: int | tuple[int, int] = 384,
    style: Style | None = None,
    bounds: np.ndarray | None = None,
) -> np.ndarray:
    """`render_mesh` for a mesh, `render_cloud` for a cloud."""
    draw = render_mesh if isinstance(item, Mesh) else render_cloud
    return draw(item, camera=camera, size=size, style=style, bounds=bounds)  # type: ignore[arg-type]


def _ball(points: np.ndarray, radius: float) -> float:
    """Balls that together cover about 1.5 times the ball's outline, between 0.4 and 4 hundredths of its radius."""
    return float(np.clip(1.05 / math.sqrt(len(points)), 0.004, 0.04)) * radius


def _cloud_normals(cloud: PointCloud, view: View) -> np.ndarray:
    if cloud.normals is not None:
        return cloud.normals.astype(np.float64)
    from .orientation import plane_normals

    normals = plane_normals(cloud.points)
    # Without knowing the inside, normals look away from the middle.
    return normals * np.where(((cloud.points - view.centre) * normals).sum(1, keepdims=True) < 0, -1.0, 1.0)


def _spread(mesh: Mesh, count: int = 20000) -> np.ndarray:
    """Points all over a mesh for its shadow, at even steps of its area."""
    edges = np.cumsum(mesh.face_areas)
    step = np.arange(count) + 0.5
    face = np.minimum(np.searchsorted(edges, step * edges[-1] / count), len(edges) - 1)
    # A low-discrepancy sequence (Roberts' R2) in each face instead of random numbers.
    u, v = (step * 0.7548776662466927) % 1, (step * 0.5698402909980532) % 1
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = mesh.vertices[mesh.faces[face]].astype(np.float64).swapaxes(0, 1)
    return a + u[:, None] * (b - a) + v[:, None] * (c - a)


def _compose(
    view: View,
    style: Style,
    covered: np.ndarray,
    depth: np.ndarray,
    base: np.ndarray,
    normals: np.ndarray,
    shade: np.ndarray | None,
    vertical: int,
) -> np.ndarray:
    """Background, shadow and lit pixels, averaged down."""
    k = style.supersample
    height, width = (side // k for side in covered.shape)
    ground = np.empty((height, width, 3), dtype=np.float32)
    ground[:] = _rgb(style.background)
    if shade is not None:
        ground *= 1 - shade[..., None] * np.array([0.30, 0.285, 0.255], dtype=np.float32)
    picture = ground.repeat(k, axis=0).repeat(k, axis=1)
    far = view.linear_depth(depth)
    dark = occlusion(far, covered, style.supersample)
    light = lit(normals, view, vertical) * dark[covered][:, None]
    # What is farther is a little paler, as through air.
    air = np.clip(0.5 + 0.5 * far[covered], 0, 1)[:, None] * 0.14
    picture[covered] = (base * light) * (1 - air) + _rgb(style.background) * air
    # Slices add up several times faster than a mean over two short axes.
    small = sum(picture[row::k, column::k] for row in range(k) for column in range(k)) / np.float32(k * k)
    return np.clip(small * 255 + 0.5, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------------- sheets


def contact_sheet(
    items: Sequence[Item],
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    *,
    camera: Camera | None = None,
    size: int = 256,
    style: Style | None = None,
) -> Image.Image:
    """Clouds and meshes in rows, each filling its square of `size` pixels, with a label below.

    columns: a little more than the square root of the number by default, at most 8.
    Raises PointCloudError for no items, labels that do not match, columns below 1.
    """
    if not items:
        raise PointCloudError("contact sheet: no items; expected at least one")
    if labels is not None and len(labels) != len(items):
        raise PointCloudError(f"contact sheet: labels: expected {len(items)}, found {len(labels)}")
    if columns is not None and columns < 1:
        raise PointCloudError(f"contact sheet: columns: expected at least 1, found {columns}")
    pictures = [render(item, camera=camera, size=size, style=style) for item in items]
    return tile(pictures, labels, columns, background=(style or Style()).background)


def tile(
    pictures: Sequence[np.ndarray], labels: Sequence[str] | None, columns: int | None, *, background: str = PAPER
) -> Image.Image:
    """Pictures of one size, uint8 [H, W, 3], in rows with labels below."""
    height, width = pictures[0].shape[:2]
    columns = min(len(pictures), columns or min(8, math.ceil(math.sqrt(1.6 * len(pictures)))))
    rows = math.ceil(len(pictures) / columns)
    gap, line = max(4, width // 32), max(14, round(width / 13)) if labels else 0
    cell = (width + gap, height + line + gap)
    # Even sides, so that a sheet can be a frame of a movie.
    total = [n + n % 2 for n in (columns * cell[0] + gap, rows * cell[1] + gap)]
    sheet = Image.new("RGB", (total[0], total[1]), background)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(max(10, round(width / 19)))
    for index, picture in enumerate(pictures):
        x, y = gap + index % columns * cell[0], gap + index // columns * cell[1]
        sheet.paste(Image.fromarray(picture), (x, y))
        if labels:
            text = _fitting(labels[index], font, width)
            draw.text((x + width / 2, y + height + line / 2), text, fill=INK, font=font, anchor="mm")
    return sheet


def _fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def save_picture(path: str | os.PathLike[str], picture: np.ndarray | Image.Image) -> None:
    """Write a picture as .png or .jpg, whole or not at all. Raises PointCloudError for another suffix or place."""
    path = Path(path)
    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise PointCloudError(f"{path}: cannot write {path.suffix or 'a file without suffix'}; use .png or .jpg")
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    try:
        with replaced_file(path) as temporary:
            image.save(temporary, format=kind, quality=92)
    except OSError as error:
        raise PointCloudError(f"{path}: cannot write ({error.strerror or error})") from error

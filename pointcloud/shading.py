"""Light for rendered pictures: key light and sky, contact shadow on the ground, darkness in crevices."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

from .camera import View
from .mesh import Mesh

CREASE = math.cos(math.radians(30))


def lit(normals: np.ndarray, view: View, vertical: int) -> np.ndarray:
    """Brightness [P, 1] to [P, 3] of unit normals [P, 3]: a warm key light from the upper left of the eye, a bright sky
    above and a dim, warm ground below."""
    key = _unit(-0.55 * view.axes[0] + 0.75 * view.axes[1] + 0.75 * view.axes[2])
    up = np.eye(3)[vertical]
    # Wrapped Lambert: the terminator is soft, as for a large lamp.
    direct = np.clip((normals @ key + 0.25) / 1.25, 0, 1)[:, None]
    sky = (0.5 + 0.5 * normals @ up)[:, None]
    ambient = (1 - sky) * np.array([0.40, 0.375, 0.35]) + sky * np.array([0.52, 0.54, 0.57])
    half = _unit(key + view.axes[2])
    gloss = np.clip(normals @ half, 0, 1)[:, None] ** 24
    return ambient + 0.70 * direct * np.array([1.0, 0.985, 0.955]) + 0.07 * gloss


def occlusion(far: np.ndarray, covered: np.ndarray, supersample: int) -> np.ndarray:
    """Factor 0 to 1, [H, W], that darkens pixels whose surroundings are nearer to the eye (eye-dome lighting: Boucheny
    2009), at two distances.

    far: distance from the eye [H, W] in radii of the scene, where `covered`.
    """
    # Depths behind everything do not darken; the background is as far as can be.
    depth = np.where(covered, far, 4.0).astype(np.float32)
    total = np.zeros_like(depth)
    edge = 6 * supersample
    padded = np.pad(depth, edge, mode="edge")
    rows, columns = depth.shape
    for reach, weight in ((2 * supersample, 1.0), (6 * supersample, 0.7)):
        ring = [(reach, 0), (-reach, 0), (0, reach), (0, -reach)]
        diagonal = round(0.7071 * reach)
        ring += [(a * diagonal, b * diagonal) for a in (-1, 1) for b in (-1, 1)]
        for dy, dx in ring:
            nearer = depth - padded[edge + dy : edge + dy + rows, edge + dx : edge + dx + columns]
            # Capped: a chair in front of a far wall shall not draw a black line round itself.
            np.clip(nearer, 0, 0.12, out=nearer)
            nearer *= weight
            total += nearer
    return np.exp(-1.1 * total)


def ground_shadow(view: View, points: np.ndarray, low: np.ndarray, vertical: int, radius: float) -> np.ndarray:
    """Darkness 0 to 1, float32 [H, W], of the ground below `points` [N, 3] under an overcast sky with a lamp.

    The ground is the plane at the lowest corner. Points are dropped on it, slightly away from the lamp, and blurred,
    more the higher they are.
    """
    floor = float(low[vertical])
    flat = [k for k in range(3) if k != vertical]
    lamp = -0.55 * view.axes[0] + 0.9 * view.axes[1]
    lamp = lamp / max(abs(float(lamp[vertical])), 0.35)
    height = np.clip(points[:, vertical] - floor, 0, None)
    landed = points[:, flat] - 0.32 * height[:, None] * lamp[flat]
    cells, reach = 160, 2.6 * view.radius
    start = view.centre[flat] - reach
    shade = np.zeros((cells, cells), dtype=np.float32)
    # High points blur wide, low ones keep a crisp contact.
    for below, above, blur in ((0.0, 0.12, 1.0), (0.12, 0.5, 2.5), (0.5, 10.0, 5.0)):
        some = (height >= below * view.radius) & (height < above * view.radius)
        place = ((landed[some] - start) / (2 * reach) * cells).astype(np.int64)
        place = place[((place >= 0) & (place < cells)).all(1)]
        hit = np.bincount(place[:, 0] * cells + place[:, 1], minlength=cells * cells).reshape(cells, cells)
        # Points are worth the ground that their balls would hide.
        cover = np.clip(hit * max((radius * cells / (2 * reach)) ** 2 * math.pi * 1.4, 0.25), 0, 1)
        image = Image.fromarray((cover * 255).astype(np.uint8))
        shade = np.maximum(shade, np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float32) / 255)
    return _looked_up(view, shade, start, 2 * reach / cells, floor, vertical, flat)


def _looked_up(
    view: View, shade: np.ndarray, start: np.ndarray, cell: float, floor: float, vertical: int, flat: list[int]
) -> np.ndarray:
    """What each pixel's ray finds on the ground; nothing where it looks up or meets it behind the eye."""
    origins, directions = view.rays()
    falls = directions[..., vertical]
    # Grazing rays run out to the horizon; a ground seen from below hides nothing.
    travel = np.where(falls < -1e-3, (floor - origins[..., vertical]) / np.where(falls < -1e-3, falls, 1), -1)
    place = [(origins[..., k] + travel * directions[..., k] - start[i]) / cell - 0.5 for i, k in enumerate(flat)]
    cells = shade.shape[0]
    inside = (travel > 0) & (place[0] >= 0) & (place[0] < cells - 1) & (place[1] >= 0) & (place[1] < cells - 1)
    x, y = place[0][inside], place[1][inside]
    i, j = x.astype(np.int64), y.astype(np.int64)
    u, v = x - i, y - j
    near, far = (1 - v) * shade[i, j] + v * shade[i, j + 1], (1 - v) * shade[i + 1, j] + v * shade[i + 1, j + 1]
    result = np.zeros(inside.shape, dtype=np.float32)
    result[inside] = (1 - u) * near + u * far
    # It fades out before the picture ends, which would cut it off with a line.
    fade = [np.clip(np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5) / (0.09 * n), 0, 1) for n in result.shape]
    return result * (fade[0][:, None] * fade[1]).astype(np.float32)


def corner_normals(mesh: Mesh, faces: np.ndarray | None = None) -> np.ndarray:
    """Unit normals [P, 3, 3] at the corners of `faces` [P] (all faces by default).

    Each is the mean, by area, of the faces around the vertex that lie within 30 degrees of the corner's own face, so
    that round parts look round and edges stay sharp.
    """
    chosen, index = np.unique(faces, return_inverse=True) if faces is not None else (np.arange(len(mesh.faces)), None)
    unit = mesh.face_normals.astype(np.float64)
    order = np.argsort(mesh.faces.ravel(), kind="stable")
    around = order // 3  # faces, sorted by the vertex they touch
    count = np.bincount(mesh.faces.ravel(), minlength=len(mesh.vertices))
    first = np.cumsum(count) - count
    corners = mesh.faces[chosen].ravel()
    many = count[corners]
    owner = np.repeat(np.arange(len(corners)), many)
    other = around[np.repeat(first[corners], many) + np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many)]
    near = np.einsum("pc,pc->p", unit[np.repeat(chosen, 3)[owner]], unit[other]) >= CREASE
    owner, vectors = owner[near], mesh.face_vectors[other[near]]
    total = np.stack([np.bincount(owner, vectors[:, k], len(corners)) for k in range(3)], axis=1)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    total = np.where(length > 0, total / np.where(length > 0, length, 1), np.repeat(unit[chosen], 3, axis=0))
    total = total.reshape(-1, 3, 3)
    return total if index is None else total[index.reshape(-1)]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)

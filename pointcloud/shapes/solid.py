"""From overlapping parts to one surface without hidden faces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import PointCloudError
from .parts import Part

if TYPE_CHECKING:
    from manifold3d import Manifold

# How far, as a share of the way to its neighbours, a corner retreats from another at the same place.
RETREAT = 0.05
# Edges shorter than this share of the longest side are closed up, so that float32 keeps all vertices apart.
LEAST_EDGE = 2e-5


def _solid(part: Part) -> Manifold:
    import manifold3d

    solid = manifold3d.Manifold(manifold3d.Mesh64(part.vertices, part.faces.astype(np.uint64)))
    if solid.status() != manifold3d.Error.NoError:
        raise PointCloudError(f"part with {len(part.faces)} faces: expected a closed surface, found {solid.status()}")
    return solid


def joined(parts: Sequence[Part], holes: Sequence[Part] = (), late: Sequence[Part] = ()) -> Part:
    """(all `parts` together, without the `holes`) and then `late`: one closed surface, nothing inside it.

    Exact booleans by manifold3d. Raises ImportError when it is not installed, PointCloudError when a part is not
    closed or nothing is left.
    """
    try:
        import manifold3d
    except ImportError as error:
        raise ImportError("procedural shapes need manifold3d: pip install 'trifold[pointcloud]'") from error
    solid = manifold3d.Manifold.batch_boolean([_solid(part) for part in parts], manifold3d.OpType.Add)
    if holes:
        cut = [solid, *(_solid(part) for part in holes)]
        solid = manifold3d.Manifold.batch_boolean(cut, manifold3d.OpType.Subtract)
    if late:
        more = [solid, *(_solid(part) for part in late)]
        solid = manifold3d.Manifold.batch_boolean(more, manifold3d.OpType.Add)
    if solid.is_empty():
        raise PointCloudError(f"{len(parts)} parts and {len(holes)} holes: expected a solid, found nothing left")
    low_high = np.asarray(solid.bounding_box()).reshape(2, 3)
    mesh = solid.simplify(LEAST_EDGE * float(np.ptp(low_high, axis=0).max())).to_mesh64()
    return Part(np.array(mesh.vert_properties[:, :3]), np.asarray(mesh.tri_verts, dtype=np.int64))


def untouching(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Vertices [V, 3] as float32 with no two at one place.

    Where a closed surface meets itself in a corner, two vertices lie together, and programs that make them one find
    edges with four faces. Each retreats a little towards the middle of its own neighbours.
    """
    moved = vertices.astype(np.float32)
    for _ in range(8):
        _, index, counts = np.unique(moved, axis=0, return_inverse=True, return_counts=True)
        together = np.flatnonzero(counts[index.reshape(-1)] > 1)
        if not len(together):
            return moved
        for vertex in together:
            around = np.unique(faces[(faces == vertex).any(axis=1)])
            moved[vertex] += RETREAT * (moved[around].mean(axis=0) - moved[vertex])
    raise PointCloudError(
        f"{len(together)} vertices: expected a surface that does not touch itself, found them together"
    )

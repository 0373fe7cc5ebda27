"""The "compatibility" score as HouseDiffusion computes it, quirks included, to compare with published numbers.

It is the number of edges that differ between the wanted room graph and a graph estimated from the drawing (Shabani et
al. 2023, section 5; House-GAN++ has the same idea). Ground truth does not score 0: see `metrics.graph_errors` for a
measure that decides by geometry. It reads doors that overlap their rooms, as the original's raster makes them
(`lattice.on_lattice`); between exact walls doors touch nothing and every edge counts as missing. Kept because the
tables of the field are in this unit.
"""

from __future__ import annotations

import shapely
from shapely.geometry import Polygon

from .errors import FloorplanError
from .plan import Plan
from .rooms import RoomType, is_door

OUTSIDE = -1
GRAPH_ROWS = 200  # the original pads its list of triples to this length
MAX_NODES = 20  # which is the most whose node pairs fit
TOUCH_LIMIT = 0.2  # a room that covers more of a door than this is taken for a room drawn over the door

Edge = tuple[int, int]


def estimated_edges(plan: Plan) -> set[Edge]:
    """Edges the original reads off the polygons: (room, room) with the smaller index first, (-1, room) for outside.

    A door touches the rooms with 0 < IoU(door, room) < 0.2. An interior door joins the two with the greatest IoU (no
    edge if fewer than two touch), a front door joins the one with the greatest IoU to the outside.
    """
    shapes = [shapely.make_valid(Polygon(node.polygon)) for node in plan.nodes]
    edges: set[Edge] = set()
    for door in range(plan.num_rooms, len(plan.nodes)):
        touched = []
        for room in range(plan.num_rooms):
            shared = shapes[door].intersection(shapes[room]).area
            whole = shapes[door].union(shapes[room]).area
            if shared > 0 and shared / whole < TOUCH_LIMIT:
                touched.append((-shared / whole, room))
        best = [room for _, room in sorted(touched)]
        if plan.nodes[door].type == RoomType.FRONT_DOOR:
            edges.update((OUTSIDE, room) for room in best[:1])
        elif len(best) > 1:
            edges.add((min(best[:2]), max(best[:2])))
    return edges


def wanted_edges(plan: Plan, *, row_bug: bool = False) -> set[Edge]:
    """Edges of the plan's own graph, as `estimated_edges` writes them.

    row_bug: the original means to drop the zero rows of its padded list of n triples, but indexes with `1 - i` for
    each zero row i, which keeps rows 2 .. 201-n instead: the first two triples are always lost and, from 15 nodes on
    (n > 100), so is the end of the list. Raises `FloorplanError` for more than 20 nodes, which the original cannot
    hold.
    """
    triples = plan.graph()
    if row_bug:
        if len(plan.nodes) > MAX_NODES:
            raise FloorplanError(
                f"{len(plan.nodes)} nodes; the original's row selection exists for at most {MAX_NODES}", field="nodes"
            )
        kept = {(1 - zero_row) % GRAPH_ROWS for zero_row in range(len(triples), GRAPH_ROWS)}
        triples = [triple for row, triple in enumerate(triples) if row in kept]
    types = plan.node_types()
    edges: set[Edge] = set()
    for a, sign, b in triples:
        if sign == 1 and not is_door(types[a]):
            if not is_door(types[b]):
                edges.add((a, b))
            elif types[b] == RoomType.FRONT_DOOR:
                edges.add((OUTSIDE, a))
    return edges


def house_diffusion_compatibility(plan: Plan, *, row_bug: bool = True) -> int:
    """Missing plus extra edges between the plan's graph and the estimate from its polygons; lower is better.

    row_bug=True gives the published measure, False the same estimate against all wanted edges. The wanted graph is
    the plan's own `doors`, which a generated plan has from the diagram it was asked for.
    """
    return len(estimated_edges(plan) ^ wanted_edges(plan, row_bug=row_bug))

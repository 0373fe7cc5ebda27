"""Laying a programme out on a lattice of wall lines: rooms accrete around the living room, then pockets are filled.

Everything here is in whole cells. A layout is an integer label grid; walls run along the lattice lines between
different labels, so the walls of neighbours coincide by construction and rooms can never overlap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .procedural_programme import AREAS, UNITS_PER_METRE, RoomPlan, Stream, rectangle_cells
from .rooms import RoomType

CELL = 4  # units between wall lines, as in RPLAN after the original's 64-pixel raster
WALL = 2  # half the wall thickness: inner faces stand this far off their wall line
MIN_CELLS = 5  # 16 units between inner faces, 1.1 m
MIN_CONTACT = 5  # shared wall that a door needs: 16 units of facing wall
MAX_POCKET = 8  # gaps in the outline narrower than this many cells are filled or refused
MAX_NOTCH = 12  # cells that a wall may move out to stand flush with its neighbour
FREE = -1
NOISE = 3.0  # how far a placement may be from the best, in cells of shared wall
IMPOSSIBLE = -1e9

# Rooms that may become L-shaped when they fill a notch, and how readily.
BENT: dict[RoomType, float] = {RoomType.BEDROOM: 0.4, RoomType.KITCHEN: 0.4, RoomType.DINING: 0.3, RoomType.STUDY: 0.3}

Rect = tuple[int, int, int, int]  # x0, y0, x1, y1 in cells


class Wall(NamedTuple):
    """A straight run of wall: x = line (vertical) or y = line, from start to end, between two labels (FREE = outside).

    `before` lies on the side of smaller coordinates.
    """

    vertical: bool
    line: int
    start: int
    end: int
    before: int
    after: int


def rect_area(rect: Rect) -> float:
    """Net area in m2 of a rectangle of cells."""
    x0, y0, x1, y1 = rect
    return ((x1 - x0) * CELL - 2 * WALL) * ((y1 - y0) * CELL - 2 * WALL) / UNITS_PER_METRE**2


def lay_out(stream: Stream, rooms: list[RoomPlan], max_cells: int) -> np.ndarray | None:
    """Label grid int16 [H, W] with a free border of one cell, or None when this draw does not fit."""
    hub = _living_rects(stream, rooms[0], len(rooms))
    placed: list[list[Rect]] = [hub]
    for _index, room in enumerate(rooms[1:], start=1):
        assert room.parent is not None
        rect = _attach(stream, room, placed, placed[room.parent], max_cells)
        if rect is None:
            return None
        placed.append([rect])
    return _fill_pockets(stream, rooms, placed, max_cells)


def _living_rects(stream: Stream, living: RoomPlan, num_rooms: int) -> list[Rect]:
    """The living room's main rectangle, often with a corridor arm that gives later rooms a wall to open onto."""
    low, _high = AREAS[RoomType.LIVING]
    arms = 0 if num_rooms < 5 else int(stream.weighted([0, 1, 2], [0.2, 0.5, 0.3 if num_rooms > 6 else 0.1]))
    sizes = [(stream.integer(MIN_CELLS, 7), stream.integer(5, 12)) for _ in range(arms)]
    arm_area = sum(w * n for w, n in sizes) * CELL * CELL / UNITS_PER_METRE**2
    w, h = rectangle_cells(max(low, living.area - arm_area), living.ratio, CELL, WALL, 9)
    rects: list[Rect] = [(0, 0, h, w)]
    for width, length in sizes:
        end = stream.chance(0.5)
        if stream.chance(0.5):  # along the main rectangle's x axis
            y = stream.choice([0, w - width, stream.integer(0, w - width)])
            rect = (h, y, h + length, y + width) if end else (-length, y, 0, y + width)
        else:
            x = stream.choice([0, h - width, stream.integer(0, h - width)])
            rect = (x, w, x + width, w + length) if end else (x, -length, x + width, 0)
        if all(not overlap(rect, other) for other in rects):
            rects.append(rect)
    return rects


def overlap(a: Rect, b: Rect) -> bool:
    """Whether two boxes share area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _near(edges: list[int]) -> dict[int, int]:
    """Where a new wall snaps to: every line within 2 cells of an existing one, closest first."""
    snap: dict[int, int] = {}
    for step in (0, 1, -1, 2, -2):
        for edge in edges:
            snap.setdefault(edge + step, edge)
    return snap


def _intervals(edges: list[int], snap: dict[int, int], length: int) -> list[tuple[int, int]]:
    """Intervals of about `length` that start or end on an existing wall line; the other end snaps if it can."""
    found: dict[tuple[int, int], None] = {}
    for edge in edges:
        high, low = snap.get(edge + length, edge + length), snap.get(edge - length, edge - length)
        if high - edge >= MIN_CELLS:
            found[edge, high] = None
        if edge - low >= MIN_CELLS:
            found[low, edge] = None
    return list(found)


def _candidates(room: RoomPlan, rects: list[Rect], parents: list[Rect]) -> list[Rect]:
    """Rectangles of about the room's size with a side against a parent, flush with walls that already stand."""
    xs = sorted({x for r in rects for x in (r[0], r[2])})
    ys = sorted({y for r in rects for y in (r[1], r[3])})
    snap_x, snap_y = _near(xs), _near(ys)
    low, high = (share * UNITS_PER_METRE**2 for share in AREAS[room.type])
    short, long = rectangle_cells(room.area, room.ratio, CELL, WALL, MIN_CELLS)
    # A balcony lies along its parent; everything else may also stand end on.
    shapes = [(short, long)] if room.type == RoomType.BALCONY or short == long else [(short, long), (long, short)]
    boxes: list[Rect] = []
    for depth, length in shapes:
        spans_x, spans_y = _intervals(xs, snap_x, length), _intervals(ys, snap_y, length)
        for x0, y0, x1, y1 in parents:
            above, below = snap_y.get(y0 - depth, y0 - depth), snap_y.get(y1 + depth, y1 + depth)
            left, right = snap_x.get(x0 - depth, x0 - depth), snap_x.get(x1 + depth, x1 + depth)
            for a, b in spans_x:
                if min(b, x1) - max(a, x0) >= MIN_CONTACT:
                    boxes += [(a, above, b, y0), (a, y1, b, below)]
            for a, b in spans_y:
                if min(b, y1) - max(a, y0) >= MIN_CONTACT:
                    boxes += [(left, a, x0, b), (x1, a, right, b)]
    return [
        (x0, y0, x1, y1)
        for x0, y0, x1, y1 in boxes
        if x1 - x0 >= MIN_CELLS
        and y1 - y0 >= MIN_CELLS
        and low <= ((x1 - x0) * CELL - 2 * WALL) * ((y1 - y0) * CELL - 2 * WALL) <= high
    ]


def _attach(
    stream: Stream, room: RoomPlan, placed: list[list[Rect]], parents: list[Rect], max_cells: int
) -> Rect | None:
    """The best rectangle for `room` against a side of its parent, or None. Best: long contact, flush, compact."""
    rects = [r for group in placed for r in group]
    boxes = _candidates(room, rects, parents)
    if not boxes:
        return None
    scores = _scores(np.array(boxes), np.array(rects), room, max_cells)
    best = int((scores + NOISE * stream.uniforms(len(boxes))).argmax())
    return boxes[best] if scores[best] > IMPOSSIBLE else None


def _scores(boxes: np.ndarray, rects: np.ndarray, room: RoomPlan, max_cells: int) -> np.ndarray:
    """Desirability of candidate boxes [C, 4] next to placed rects [R, 4]; IMPOSSIBLE where they cannot stand."""
    lo = np.maximum(boxes[:, None, :2], rects[None, :, :2])
    hi = np.minimum(boxes[:, None, 2:], rects[None, :, 2:])
    span = hi - lo  # [C, R, 2]; negative = gap
    gx, gy = span[..., 0], span[..., 1]
    blocked = ((gx > 0) & (gy > 0)).any(1)
    corner = ((gx == 0) & (gy == 0)).any(1)
    contact = (np.where(gx == 0, np.maximum(gy, 0), 0) + np.where(gy == 0, np.maximum(gx, 0), 0)).sum(1)
    slit = (((gx < 0) & (gx > -MIN_CELLS) & (gy > 0)) | ((gy < 0) & (gy > -MIN_CELLS) & (gx > 0))).sum(1)
    low, high = rects[:, :2].min(0), rects[:, 2:].max(0)
    grown = np.maximum(high, boxes[:, 2:]) - np.minimum(low, boxes[:, :2])
    growth = (grown - (high - low)).sum(1)
    ratio = grown.max(1) / grown.min(1)
    flush = (boxes[:, :, None] == rects.T[None]).any(2).sum(1)
    weight = 0.5 if room.type == RoomType.BALCONY else 1.0
    score = (
        weight * contact - 1.0 * growth + 1.5 * flush - 5.0 * slit - 10.0 * np.maximum(ratio - 1.5, 0) - 2.0 * corner
    )
    return np.where(blocked | (grown.max(1) > max_cells), IMPOSSIBLE, score)


def _fill_pockets(stream: Stream, rooms: list[RoomPlan], placed: list[list[Rect]], max_cells: int) -> np.ndarray | None:
    """Draw the rectangles, then give narrow pockets between them to a room that stays a rectangle, or to the hub."""
    every = np.array([r for group in placed for r in group])
    x, y = (every[:, :2].min(0) - 1).tolist()
    width, height = (every[:, 2:].max(0) + 1 - (x, y)).tolist()
    grid = np.full((height, width), FREE, dtype=np.int16)
    for label, group in enumerate(placed):
        for x0, y0, x1, y1 in group:
            grid[y0 - y : y1 - y, x0 - x : x1 - x] = label
    _square_up(stream, rooms, grid)
    hollow = pockets(grid)
    if hollow.any():
        for label in stream.shuffled(list(range(1, len(rooms)))):
            _grow(grid, hollow, label, AREAS[rooms[label].type][1])
        hollow = pockets(grid)
        if hollow.any() and not _give_to_hub(grid, hollow):
            return None
    return grid


def pockets(grid: np.ndarray) -> np.ndarray:
    """bool [H, W]: free cells with walls less than MAX_POCKET cells apart on two opposite sides."""
    free = grid == FREE
    return free & (_narrow(free) | _narrow(free.T).T)


def _narrow(free: np.ndarray) -> np.ndarray:
    """Cells of horizontal free runs that end at rooms on both sides and are at most MAX_POCKET long."""
    width = free.shape[1]
    columns = np.arange(width)
    left = np.maximum.accumulate(np.where(free, -1, columns), axis=1)
    right = np.minimum.accumulate(np.where(free, 2 * width, columns)[:, ::-1], axis=1)[:, ::-1]
    return (left >= 0) & (right < width) & (right - left - 1 <= MAX_POCKET)


def _square_up(stream: Stream, rooms: list[RoomPlan], grid: np.ndarray) -> None:
    """Fill some notches of the outline from the room behind them: compact flats, L-shaped rooms.

    A notch is the ground in front of an outer wall beside a neighbour that stands further out; the wall moves out
    until it is flush with that neighbour.
    """
    areas = [(np.count_nonzero(grid == k) * CELL * CELL * 0.9) / UNITS_PER_METRE**2 for k in range(len(rooms))]
    for wall in stream.shuffled(find_walls(grid)):
        label = wall.before if wall.after == FREE else wall.after
        run = wall.end - wall.start
        if FREE not in (wall.before, wall.after) or run < MIN_CELLS or rooms[label].type == RoomType.BALCONY:
            continue
        cells = grid if wall.vertical else grid.T
        ahead = cells[:, wall.line :] if wall.after == FREE else cells[:, wall.line - 1 :: -1]
        depth = max(_step(ahead[wall.start - 1]), _step(ahead[wall.end]))
        gain = run * depth * CELL * CELL / UNITS_PER_METRE**2
        # A hub that reaches far round a small room ends in a blind passage.
        if label == 0 and depth > run + 2:
            continue
        if depth < 1 or areas[label] + gain > AREAS[rooms[label].type][1]:
            continue
        behind = cells[wall.start - 1 : wall.end + 1, wall.line - 1 if wall.after == FREE else wall.line]
        whole_side = behind[0] != label and behind[-1] != label
        keen = 0.9 if whole_side else 0.7 if label == 0 else BENT.get(rooms[label].type, 0.0)
        if (whole_side or depth > 1) and stream.chance(keen) and (ahead[wall.start : wall.end, :depth] == FREE).all():
            ahead[wall.start : wall.end, :depth] = label
            areas[label] += gain


def _step(ahead: np.ndarray) -> int:
    """How far occupied cells reach from the start of a line of cells; 0 if further than a notch is deep."""
    free = ahead == FREE
    depth = int(free.argmax())
    return depth if depth <= MAX_NOTCH else 0


def _grow(grid: np.ndarray, hollow: np.ndarray, label: int, most: float) -> None:
    """Push the sides of a rectangular room outwards while the whole strip in front of them is pocket."""
    rows, columns = np.nonzero(grid == label)
    x0, y0, x1, y1 = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    if len(rows) != (x1 - x0) * (y1 - y0):
        return
    moved = True
    while moved:
        moved = False
        for side in range(4):
            nx0, ny0, nx1, ny1 = x0 - (side == 0), y0 - (side == 1), x1 + (side == 2), y1 + (side == 3)
            strip = (hollow[y0:y1, nx0], hollow[ny0, x0:x1], hollow[y0:y1, x1], hollow[y1, x0:x1])[side]
            if strip.all() and rect_area((nx0, ny0, nx1, ny1)) <= most:
                x0, y0, x1, y1 = nx0, ny0, nx1, ny1
                hollow[y0:y1, x0:x1] = False
                moved = True
    grid[y0:y1, x0:x1] = label


def _give_to_hub(grid: np.ndarray, hollow: np.ndarray) -> bool:
    """Give every pocket left over to the living room (label 0); False if one does not touch it."""
    todo = hollow.copy()
    hub = grid == 0
    while True:
        reach = np.zeros_like(hub)
        reach[1:] |= hub[:-1]
        reach[:-1] |= hub[1:]
        reach[:, 1:] |= hub[:, :-1]
        reach[:, :-1] |= hub[:, 1:]
        new = reach & todo
        if not new.any():
            break
        grid[new] = 0
        todo &= ~new
        hub |= new
    return not todo.any()


def find_walls(grid: np.ndarray) -> list[Wall]:
    """All maximal straight runs of wall between two labels, in lattice units, vertical ones first."""
    walls: list[Wall] = []
    for vertical in (True, False):
        cells = grid if vertical else grid.T
        line, along = np.nonzero((cells[:, :-1] != cells[:, 1:]).T)
        before, after = cells[along, line], cells[along, line + 1]
        breaks = np.ones(len(line) + 1, dtype=bool)
        breaks[1:-1] = (np.diff(line) != 0) | (np.diff(along) != 1) | (np.diff(before) != 0) | (np.diff(after) != 0)
        first = np.nonzero(breaks)[0]
        for i, j in zip(first[:-1].tolist(), first[1:].tolist(), strict=True):
            walls.append(
                Wall(vertical, int(line[i]) + 1, int(along[i]), int(along[j - 1]) + 1, int(before[i]), int(after[i]))
            )
    return walls

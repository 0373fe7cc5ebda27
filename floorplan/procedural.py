"""Procedural apartments: an unlimited, deterministic training set in RPLAN's convention.

RPLAN may not be redistributed, so the weights shipped with this package learn from these plans: a living room as the
hub, rooms around it on a 4-unit wall lattice, 4-unit walls, doors as thin boxes inside the walls, a front door outside.

Split convention: seeds from `HELD_OUT_START` upwards are for evaluation and never drawn for training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .plan import Node, Plan
from .procedural_layout import CELL, FREE, MIN_CONTACT, WALL, Wall, find_walls, lay_out
from .procedural_oblique import Box, Oblique
from .procedural_polygon import Polygon, doubled_area, inset, normalised, trace, wide_everywhere
from .procedural_programme import AREAS, MAX_ROOMS, MIN_ROOMS, UNITS_PER_METRE, RoomPlan, Stream, draw_programme
from .rooms import RoomType

HELD_OUT_START = 1_000_000_000
MAX_TRIES = 1000

# Rooms that need an outer wall; rooms whose outer walls may bulge; doors beyond the tree, with their probability.
LIT = (RoomType.LIVING, RoomType.BEDROOM, RoomType.STUDY)
WINDOWED = (*LIT, RoomType.KITCHEN, RoomType.DINING)
EXTRA_DOORS: dict[frozenset[RoomType], float] = {
    frozenset((RoomType.DINING, RoomType.KITCHEN)): 0.6,
    frozenset((RoomType.DINING, RoomType.BALCONY)): 0.3,
    frozenset((RoomType.LIVING, RoomType.BALCONY)): 0.1,
    frozenset((RoomType.BEDROOM, RoomType.BATHROOM)): 0.05,
    frozenset((RoomType.BEDROOM, RoomType.BALCONY)): 0.1,
}


@dataclass(frozen=True)
class ProceduralConfig:
    """What to generate.

    num_rooms: inclusive range (low, high) of rooms without doors, between 3 and 10; drawn uniformly.
    exclude_num_rooms: counts left out of the range (leave-one-count-out training, as HouseDiffusion is evaluated).
    non_manhattan: probability that a plan has oblique walls.
    max_extra_doors: doors beyond the tree that joins all rooms.
    extent: least and greatest longer side of the plan, units (256 units = 18 m).
    max_aspect: longer over shorter side.
    max_corners: of one room.
    jitter: greatest shift of the plan's centre from the frame's centre, units.
    """

    num_rooms: tuple[int, int] = (4, 9)
    exclude_num_rooms: tuple[int, ...] = ()
    non_manhattan: float = 0.25
    max_extra_doors: int = 1
    extent: tuple[int, int] = (110, 235)
    max_aspect: float = 1.7
    max_corners: int = 16
    jitter: int = 6

    def __post_init__(self) -> None:
        low, high = self.num_rooms
        if not MIN_ROOMS <= low <= high <= MAX_ROOMS:
            raise ValueError(f"num_rooms: expected {MIN_ROOMS} <= low <= high <= {MAX_ROOMS}, found {self.num_rooms}")
        if not self.counts:
            raise ValueError(
                f"exclude_num_rooms: {self.exclude_num_rooms} leaves nothing of the range {self.num_rooms}"
            )
        if not 0 <= self.non_manhattan <= 1:
            raise ValueError(f"non_manhattan: expected a probability, found {self.non_manhattan}")
        if self.max_extra_doors < 0:
            raise ValueError(f"max_extra_doors: expected 0 or more, found {self.max_extra_doors}")
        if not (0 < self.extent[0] <= 130 and 200 <= self.extent[1] <= 240):
            raise ValueError(f"extent: expected low up to 130 and high from 200 to 240, found {self.extent}")
        if self.max_aspect < 1.4:
            raise ValueError(f"max_aspect: expected at least 1.4, found {self.max_aspect}")
        if self.max_corners < 12:
            raise ValueError(f"max_corners: expected at least 12, found {self.max_corners}")
        if not 0 <= self.jitter <= 8:
            raise ValueError(f"jitter: expected 0 to 8, found {self.jitter}")

    @property
    def counts(self) -> tuple[int, ...]:
        """Allowed room counts."""
        low, high = self.num_rooms
        return tuple(n for n in range(low, high + 1) if n not in self.exclude_num_rooms)


class ProceduralPlans:
    """`generate_plan` as a dataset without end, or up to the held-out seeds if it starts below them: item i is the
    plan of seed `start + i`."""

    def __init__(self, config: ProceduralConfig | None = None, start: int = 0) -> None:
        if start < 0:
            raise ValueError(f"start: expected 0 or more, found {start}")
        self.config, self.start = config or ProceduralConfig(), start

    def __len__(self) -> int:
        return HELD_OUT_START - self.start if self.start < HELD_OUT_START else 2**31 - 1

    def __getitem__(self, index: int) -> Plan:
        if not 0 <= index < len(self):
            raise IndexError(f"plan index {index} outside 0 to {len(self) - 1}")
        return generate_plan(self.start + index, self.config)


def generate_plan(seed: int, config: ProceduralConfig | None = None) -> Plan:
    """The plan of `seed` (0 or more): the same on every machine. Coordinates are whole units of a 256 frame."""
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, found {seed}")
    config = config or ProceduralConfig()
    stream = Stream(seed)
    # Decided once per seed, so that retries do not thin out what is harder to build.
    num_rooms = stream.choice(list(config.counts))
    oblique = stream.chance(config.non_manhattan)
    for _ in range(MAX_TRIES):
        plan = try_plan(stream, config, num_rooms, oblique, f"procedural-{seed}")
        if plan is not None:
            return plan
    raise RuntimeError(f"seed {seed}: no plan in {MAX_TRIES} tries; is {config} feasible?")


def try_plan(stream: Stream, config: ProceduralConfig, num_rooms: int, oblique: bool, name: str) -> Plan | None:
    """One attempt; None if a check fails."""
    rooms = draw_programme(stream, num_rooms)
    grid = lay_out(stream, rooms, (config.extent[1] + 2 * WALL) // CELL)
    if grid is None or trace(grid != FREE) is None:
        return None
    polygons: list[Polygon] = []
    for label, room in enumerate(rooms):
        loop = trace(grid == label)
        if loop is None or (len(loop) > 4 and not wide_everywhere(grid == label)):
            return None
        polygon = inset(loop)
        low, high = AREAS[room.type]
        if not low <= abs(doubled_area(polygon)) / 2 / UNITS_PER_METRE**2 <= high:
            return None
        polygons.append(polygon)
    walls = find_walls(grid)
    if not _well_lit(rooms, walls):
        return None
    joined = _join(stream, config, rooms, walls)
    front = _front_wall(stream, rooms, walls, grid)
    if joined is None or front is None:
        return None
    pairs = [pair for pair, _ in joined]
    boxes = [_door_box(stream, wall) for _, wall in joined] + [_door_box(stream, front)]
    if oblique:
        least = [0.9 * AREAS[room.type][0] * UNITS_PER_METRE**2 for room in rooms]
        windowed = [room.type in WINDOWED for room in rooms]
        maker = Oblique(stream, grid, walls, polygons, boxes, least, windowed)
        if not maker.any_of():
            return None
        if stream.chance(0.35):
            maker.any_of(tries=1)
    if max(map(len, polygons)) > config.max_corners:
        return None
    entered = front.before if front.after == FREE else front.after
    return _assemble(stream, config, rooms, polygons, pairs, boxes, entered, name)


def _well_lit(rooms: list[RoomPlan], walls: list[Wall]) -> bool:
    """Whether rooms to live in have a wall to the outside or to a balcony, and balconies one to the outside."""
    open_air = [0] * len(rooms)
    for wall in walls:
        for own, other in ((wall.before, wall.after), (wall.after, wall.before)):
            if own == FREE:
                continue
            if other == FREE or (rooms[other].type == RoomType.BALCONY and rooms[own].type != RoomType.BALCONY):
                open_air[own] = max(open_air[own], wall.end - wall.start)
    for room, length in zip(rooms, open_air, strict=True):
        need = 4 if room.type in LIT else 6 if room.type == RoomType.BALCONY else 0
        if length < need:
            return False
    return True


def _join(
    stream: Stream, config: ProceduralConfig, rooms: list[RoomPlan], walls: list[Wall]
) -> list[tuple[tuple[int, int], Wall]] | None:
    """A wall for the door of every room to its parent, and now and then one more door. None if a wall is too short."""
    shared: dict[tuple[int, int], list[Wall]] = {}
    for wall in walls:
        if FREE not in (wall.before, wall.after) and wall.end - wall.start >= MIN_CONTACT:
            shared.setdefault((min(wall.before, wall.after), max(wall.before, wall.after)), []).append(wall)
    doors: list[tuple[tuple[int, int], Wall]] = []
    tree = [(min(i, r.parent), max(i, r.parent)) for i, r in enumerate(rooms) if r.parent is not None]
    for pair in tree:
        options = shared.get(pair)
        if not options:
            return None
        doors.append((pair, stream.weighted(options, [float(w.end - w.start) for w in options])))
    extra = 0
    for pair in sorted(shared):
        chance = EXTRA_DOORS.get(frozenset((rooms[pair[0]].type, rooms[pair[1]].type)), 0.0)
        if pair not in tree and extra < config.max_extra_doors and stream.chance(chance):
            doors.append((pair, stream.choice(shared[pair])))
            extra += 1
    return doors


def _front_wall(stream: Stream, rooms: list[RoomPlan], walls: list[Wall], grid: np.ndarray) -> Wall | None:
    """An outer wall for the front door: of the entrance if there is one, else of the living room; short ones first."""
    entered = next((i for i, room in enumerate(rooms) if room.type == RoomType.ENTRANCE), 0)
    options: list[Wall] = []
    for wall in walls:
        if {wall.before, wall.after} != {entered, FREE} or wall.end - wall.start < MIN_CONTACT:
            continue
        cells = grid if wall.vertical else grid.T
        ahead = (
            cells[wall.start : wall.end, wall.line :]
            if wall.after == FREE
            else cells[wall.start : wall.end, : wall.line]
        )
        # Nobody enters from a court: the way out must be clear.
        if (ahead == FREE).all():
            options.append(wall)
    return stream.weighted(options, [1.0 / (w.end - w.start) for w in options]) if options else None


def _door_box(stream: Stream, wall: Wall) -> Box:
    """A door 10 to 14 units long and 2 thick in the middle of a wall, at least 2 units off the corners of its faces."""
    low, high = wall.start * CELL + WALL + 2, wall.end * CELL - WALL - 2
    length = min(stream.choice([10, 12, 12, 12, 14]), high - low)
    slack = high - low - length
    # Doors mostly stand near a corner, so that a room keeps its wall free for furniture.
    near = min(slack, stream.integer(0, 4))
    start = low + stream.choice([near, slack - near, stream.integer(0, slack)])
    line = wall.line * CELL
    return (line - 1, start, line + 1, start + length) if wall.vertical else (start, line - 1, start + length, line + 1)


def _assemble(
    stream: Stream,
    config: ProceduralConfig,
    rooms: list[RoomPlan],
    polygons: list[Polygon],
    pairs: list[tuple[int, int]],
    boxes: list[Box],
    entered: int,
    name: str,
) -> Plan | None:
    """Turn, mirror, centre and shuffle the plan; None if it is too small, too large or too long."""
    door_loops: list[Polygon] = [[(x0, y0), (x0, y1), (x1, y1), (x1, y0)] for x0, y0, x1, y1 in boxes]
    points = [p for polygon in [*polygons, *door_loops] for p in polygon]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    short, long = sorted((width, height))
    if not config.extent[0] <= long <= config.extent[1] or long > config.max_aspect * short:
        return None
    flip_x, flip_y, swap = stream.choice([-1, 1]), stream.choice([-1, 1]), stream.chance(0.5)
    mid_x, mid_y = flip_x * (max(xs) + min(xs)) // 2, flip_y * (max(ys) + min(ys)) // 2
    move_x, move_y = (128 + stream.integer(-config.jitter, config.jitter) for _ in range(2))

    def placed(polygon: Polygon) -> np.ndarray:
        moved = [(flip_x * x - mid_x, flip_y * y - mid_y) for x, y in polygon]
        turned = [(y + move_x, x + move_y) if swap else (x + move_x, y + move_y) for x, y in moved]
        return np.array(normalised(turned), dtype=np.float64)

    order = stream.shuffled(list(range(len(rooms))))
    new_index = {old: new for new, old in enumerate(order)}
    doors = [tuple(sorted((new_index[a], new_index[b]))) for a, b in pairs]
    ranks = sorted(range(len(doors)), key=lambda d: doors[d])
    nodes = [Node(rooms[old].type, placed(polygons[old])) for old in order]
    nodes += [Node(RoomType.INTERIOR_DOOR, placed(door_loops[d])) for d in ranks]
    nodes.append(Node(RoomType.FRONT_DOOR, placed(door_loops[-1])))
    links: list[tuple[int, int | None]] = [(doors[d][0], doors[d][1]) for d in ranks]
    links.append((new_index[entered], None))
    return Plan(tuple(nodes), tuple(links), name=name)

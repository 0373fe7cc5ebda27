"""Finished plans made by hand, so that drawings can be tested against numbers anyone can work out."""

from __future__ import annotations

import numpy as np
from trifold.floorplan.finished import FinishedPlan, FinishReport, Opening, Wall
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.rooms import RoomType

UNIT = 0.05  # metres; walls of 4 units are 20 cm thick


def _door(kind: RoomType, wall: Wall, centre: tuple[float, float], width: float) -> Node:
    along = np.subtract(wall.end, wall.start) / wall.length
    across = np.array([-along[1], along[0]])
    a, n = along * width / 2, across * wall.thickness / 2
    return Node(kind, np.array(centre) + np.array([-a - n, a - n, a + n, -a + n]))


def _finished(
    rooms: list[Node],
    walls: list[Wall],
    doors: list[tuple[int, tuple[float, float], float]],
    name: str,
) -> FinishedPlan:
    openings = [Opening(d, wall, at, width, walls[wall].rooms) for d, (wall, at, width) in enumerate(doors)]
    kinds = [RoomType.FRONT_DOOR if o.rooms[1] is None else RoomType.INTERIOR_DOOR for o in openings]
    nodes = [_door(kind, walls[o.wall], o.centre, o.width) for kind, o in zip(kinds, openings, strict=True)]
    plan = Plan((*rooms, *nodes), tuple(o.rooms for o in openings), metres_per_unit=UNIT, name=name)
    return FinishedPlan(plan, tuple(walls), tuple(openings), FinishReport((), ()))


def two_rooms(names: tuple[str, str] = ("parlour", "bed")) -> FinishedPlan:
    """A living room of 80 x 100 units on the left, a bedroom of 60 x 100 on the right; outer walls 6, the wall between
    them 4 units thick; a door of 18 units (0.9 m) between them and a front door of 20 (1 m) in the lower wall."""
    living = np.array([[40, 40], [40, 140], [120, 140], [120, 40]], dtype=np.float64)
    bed = np.array([[120, 40], [120, 140], [180, 140], [180, 40]], dtype=np.float64)
    walls = [
        Wall((40.0, 40.0), (40.0, 140.0), 6.0, (0, None)),
        Wall((40.0, 140.0), (120.0, 140.0), 6.0, (0, None)),
        Wall((120.0, 140.0), (120.0, 40.0), 4.0, (0, 1)),
        Wall((120.0, 40.0), (40.0, 40.0), 6.0, (0, None)),
        Wall((120.0, 140.0), (180.0, 140.0), 6.0, (1, None)),
        Wall((180.0, 140.0), (180.0, 40.0), 6.0, (1, None)),
        Wall((180.0, 40.0), (120.0, 40.0), 6.0, (1, None)),
    ]
    rooms = [Node(RoomType.LIVING, living, names[0]), Node(RoomType.BEDROOM, bed, names[1])]
    return _finished(rooms, walls, [(2, (120.0, 60.0), 18.0), (1, (70.0, 140.0), 20.0)], "two rooms")


def oblique() -> FinishedPlan:
    """Three rooms around a slanted wall: a kitchen in a slanted quarter, a living room, and a study behind a wall at
    45 degrees; every kind of joint (corner, T of unequal walls, obtuse and acute angles)."""
    a, b, c, d, e, f = (40.0, 40.0), (120.0, 40.0), (200.0, 60.0), (190.0, 150.0), (110.0, 170.0), (40.0, 150.0)
    g, h = (90.0, 100.0), (40.0, 100.0)
    rooms = [
        Node(RoomType.KITCHEN, np.array([a, h, g, b])),
        Node(RoomType.LIVING, np.array([h, f, e, g])),
        Node(RoomType.STUDY, np.array([b, g, e, d, c])),
    ]
    walls = [
        Wall(a, h, 5.0, (0, None)),
        Wall(h, g, 2.5, (0, 1)),
        Wall(g, b, 2.5, (0, 2)),
        Wall(b, a, 5.0, (0, None)),
        Wall(h, f, 5.0, (1, None)),
        Wall(f, e, 5.0, (1, None)),
        Wall(e, g, 2.5, (1, 2)),
        Wall(e, d, 5.0, (2, None)),
        Wall(d, c, 5.0, (2, None)),
        Wall(c, b, 5.0, (2, None)),
    ]
    doors = [(1, (65.0, 100.0), 16.0), (2, (105.0, 70.0), 16.0), (6, (100.0, 135.0), 40.0), (5, (75.0, 160.0), 18.0)]
    return _finished(rooms, walls, doors, "oblique")

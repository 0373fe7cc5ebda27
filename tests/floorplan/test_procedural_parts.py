"""The parts of the procedural generator on cases worked by hand: random stream, programmes, polygons of a grid."""

from __future__ import annotations

from collections import Counter

import numpy as np
from trifold.floorplan.procedural_layout import FREE, find_walls
from trifold.floorplan.procedural_polygon import inset, normalised, trace, wide_everywhere
from trifold.floorplan.procedural_programme import Stream, draw_programme
from trifold.floorplan.rooms import ROOM_TYPES, RoomType


def test_stream_is_pcg64_raw_words() -> None:
    words = np.random.PCG64(5).random_raw(256) >> np.uint64(11)
    stream = Stream(5)
    assert [stream.uniform() for _ in range(256)] == (words[::-1] * 2.0**-53).tolist()
    draws = [stream.integer(2, 5) for _ in range(400)]
    assert set(draws) == {2, 3, 4, 5}
    assert sorted(stream.shuffled(list(range(9)))) == list(range(9))
    assert stream.weighted(["never", "always"], [0.0, 1.0]) == "always"


def test_types_over_many_programmes() -> None:
    stream = Stream(3)
    seen: Counter[RoomType] = Counter()
    parents: Counter[tuple[RoomType, RoomType]] = Counter()
    for i in range(2000):
        rooms = draw_programme(stream, 4 + i % 6)
        seen.update(room.type for room in rooms)
        for index, room in enumerate(rooms[1:], start=1):
            assert room.parent is not None
            assert room.parent < index
            parents[room.type, rooms[room.parent].type] += 1
    assert set(seen) == set(ROOM_TYPES)
    assert seen[RoomType.BEDROOM] / 2000 > 1.8
    assert 0.003 < seen[RoomType.UNKNOWN] / 2000 < 0.05
    for pair in [
        (RoomType.BATHROOM, RoomType.BEDROOM),
        (RoomType.BALCONY, RoomType.BEDROOM),
        (RoomType.STORAGE, RoomType.KITCHEN),
        (RoomType.KITCHEN, RoomType.DINING),
    ]:
        assert parents[pair] > 20


def grid_of(*rows: str) -> np.ndarray:
    return np.array([[FREE if c == "." else int(c) for c in row] for row in rows], dtype=np.int16)


def test_trace_and_inset_of_an_l_by_hand() -> None:
    grid = grid_of("......", ".00...", ".00...", ".0000.", ".0000.", "......")
    loop = trace(grid == 0)
    assert loop == [(1, 1), (1, 5), (5, 5), (5, 3), (3, 3), (3, 1)]
    assert inset(loop) == [(6, 6), (6, 18), (18, 18), (18, 14), (10, 14), (10, 6)]


def test_trace_refuses_holes_parts_and_touching_corners() -> None:
    assert trace(grid_of(".....", ".000.", ".0.0.", ".000.", ".....") == 0) is None
    assert trace(grid_of(".....", ".0.0.", ".....") == 0) is None
    assert trace(grid_of("....", ".0..", "..0.", "....") == 0) is None


def test_normalised_drops_idle_points_and_fixes_order() -> None:
    assert normalised([(4, 0), (4, 4), (2, 4), (0, 4), (0, 0), (0, 0)]) == [(0, 0), (0, 4), (4, 4), (4, 0)]


def test_wide_everywhere_by_hand() -> None:
    assert wide_everywhere(grid_of("......", ".0000.", ".0000.", "......") == 0, 2)
    assert not wide_everywhere(grid_of("......", ".0000.", ".00...", "......") == 0, 3)
    assert not wide_everywhere(grid_of("......", ".0000.", "...00.", "......") == 0, 2)
    # Two squares that share half a side: a union of squares, but none can slide from one to the other.
    assert not wide_everywhere(grid_of("......", ".00...", ".00...", "..00..", "..00..", "......") == 0, 2)


def test_walls_by_hand() -> None:
    walls = find_walls(grid_of("....", ".01.", ".01.", "...."))
    shared = [w for w in walls if FREE not in (w.before, w.after)]
    assert [tuple(w) for w in shared] == [(True, 2, 1, 3, 0, 1)]
    assert sum(w.end - w.start for w in walls if FREE in (w.before, w.after)) == 8

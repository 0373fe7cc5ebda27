"""Bodies of walls and leaves of doors, against areas worked out by hand and against shapely's own offsets."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import LineString, Polygon, box
from trifold.floorplan.building import clean_text, drawn_building
from trifold.floorplan.door_leaves import choose_leaf
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.finished import Wall
from trifold.floorplan.finishing import finish
from trifold.floorplan.procedural import generate_plan
from trifold.floorplan.rooms import RoomType
from trifold.floorplan.wall_bodies import mitred_bodies, wall_mass

from .hand_made import UNIT, oblique, two_rooms


def _mesh(seed: int, rows: int, columns: int, shake: float) -> tuple[list[Polygon], list[tuple], Polygon]:
    """Convex-ish cells of a shaken grid: the cells, every edge once, and the whole."""
    rng = np.random.default_rng(seed)
    xy = np.stack(np.meshgrid(40.0 * np.arange(columns + 1), 40.0 * np.arange(rows + 1)), -1)
    xy = xy + shake * rng.uniform(-1, 1, xy.shape)
    points = [[tuple(map(float, p)) for p in row] for row in xy]
    cells = [
        Polygon([points[r][c], points[r + 1][c], points[r + 1][c + 1], points[r][c + 1]])
        for r in range(rows)
        for c in range(columns)
    ]
    edges = [(a, b) for row in points for a, b in pairwise(row)]
    edges += [(points[r][c], points[r + 1][c]) for r in range(rows) for c in range(columns + 1)]
    whole = shapely.union_all(cells)
    assert isinstance(whole, Polygon)
    return cells, edges, whole


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.0, 3.0, 9.0]))
def test_walls_are_what_shapely_offsets_leave(seed: int, rows: int, columns: int, shake: float) -> None:
    """Joined walls of one thickness: the whole grown by half of it, without every room shrunk by half of it."""
    cells, edges, whole = _mesh(seed, rows, columns, shake)
    walls = [Wall(a, b, 4.0, (0, None)) for a, b in edges]
    mass = wall_mass(walls)
    mitre = {"join_style": "mitre", "mitre_limit": 100.0}
    floors = shapely.union_all([cell.buffer(-2.0, **mitre) for cell in cells])
    expected = whole.buffer(2.0, **mitre).difference(floors)
    assert mass.is_valid
    assert mass.symmetric_difference(expected).area < 1e-4
    bodies = mitred_bodies(walls)
    assert all(body.is_valid for body in bodies)
    assert sum(body.area for body in bodies) == pytest.approx(mass.area, abs=1e-4)
    assert shapely.union_all(bodies).symmetric_difference(mass).area < 1e-4


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from([1.0, 2.0, 4.0, 7.0]), min_size=17, max_size=17))
def test_unequal_walls_join_without_overlap(seed: int, thickness: list[float]) -> None:
    """Any mix of thicknesses: bodies share no area, leave no hole, and every centre line lies inside."""
    _, edges, _ = _mesh(seed, 2, 3, 6.0)
    walls = [Wall(a, b, t, (0, None)) for (a, b), t in zip(edges, thickness, strict=True)]
    mass, bodies = wall_mass(walls), mitred_bodies(walls)
    assert mass.buffer(1e-6).covers(shapely.MultiLineString([LineString([w.start, w.end]) for w in walls]))
    assert sum(body.area for body in bodies) == pytest.approx(shapely.union_all(bodies).area, abs=1e-4)
    assert shapely.union_all(bodies).symmetric_difference(mass).area < 1e-4


def test_areas_of_two_rooms_by_hand() -> None:
    building = drawn_building(two_rooms())
    outer, left, right = box(37, 37, 183, 143), box(43, 43, 118, 137), box(122, 43, 177, 137)
    expected = outer - left - right - box(118, 51, 122, 69) - box(60, 137, 80, 143)
    assert building.mass.symmetric_difference(expected).area < 1e-6
    assert building.rooms[0].floor.equals(left)
    assert building.rooms[1].floor_area == pytest.approx(55 * 94 * UNIT**2)
    assert building.rooms[0].area == pytest.approx(80 * 100 * UNIT**2)
    solid = sum(wall.solid.area for wall in building.walls)
    assert solid == pytest.approx(building.mass.area, abs=1e-6)  # the bodies together are the mass
    corners = sum(len(ring.coords) - 1 for part in building.mass.geoms for ring in shapely.get_rings(part))
    assert corners == 4 + 4 + 4 + 2 * 4  # outer, inner, inner; two cuts of four corners: nothing needless


def test_metres_turn_the_plan_over_exactly() -> None:
    plan = oblique()
    units, metres = drawn_building(plan), drawn_building(plan).in_metres()
    frame = plan.plan.frame
    for a, b in zip(units.rooms, metres.rooms, strict=True):
        assert np.array_equal(b.outline, np.stack([a.outline[:, 0] * UNIT, (frame - a.outline[:, 1]) * UNIT], -1))
        assert b.floor.area == pytest.approx(b.floor_area)
    for a, b in zip(units.doors, metres.doors, strict=True):
        assert b.width == pytest.approx(a.width * UNIT)
        assert (a.leaf is None) == (b.leaf is None)
        if a.leaf is not None and b.leaf is not None:
            assert a.leaf.into == b.leaf.into
            assert a.leaf.turns_positive != b.leaf.turns_positive  # a mirror turns clockwise round
    assert metres.extent == frame * UNIT
    assert metres.mass.area == pytest.approx(units.mass.area * UNIT**2)


def test_a_spike_is_cut_off_square() -> None:
    """Two walls at 10 degrees: beyond the mitre limit the corner is bevelled, and no body reaches out in a needle."""
    far = (100 * np.cos(np.radians(10)), 100 * np.sin(np.radians(10)))
    walls = [Wall((0.0, 0.0), (100.0, 0.0), 4.0, (0, None)), Wall((0.0, 0.0), far, 4.0, (0, None))]
    mass = wall_mass(walls)
    assert mass.bounds[0] > -2.0
    assert shapely.union_all(mitred_bodies(walls)).symmetric_difference(mass).area < 1e-4


def test_a_wall_shorter_than_its_neighbours_are_thick() -> None:
    """A jog of 1 unit between walls of 6: one valid piece without holes, and bodies that at least cover it."""
    points = [(0.0, 0.0), (50.0, 0.0), (50.0, 1.0), (100.0, 1.0)]
    walls = [Wall(a, b, 6.0, (0, None)) for a, b in pairwise(points)]
    mass = wall_mass(walls)
    assert len(mass.geoms) == 1
    assert mass.is_valid
    assert not mass.geoms[0].interiors
    assert all(body.is_valid and body.area > 0 for body in mitred_bodies(walls))
    assert shapely.union_all(mitred_bodies(walls)).area > 0.99 * mass.area


def test_leaves_open_into_the_smaller_room_that_has_space() -> None:
    doors = drawn_building(two_rooms()).doors
    inner, front = doors[0].leaf, doors[1].leaf
    assert inner is not None
    assert front is not None
    assert (inner.into, front.into) == (1, 0)  # the bedroom is the smaller one; a front door opens inwards
    assert inner.hinge.tolist() == [122, 51]  # beside the nearer wall
    assert inner.opened.tolist() == [140, 51]
    opening = np.array([[10, -1], [20, -1], [20, 1], [10, 1]], dtype=float)
    narrow, wide = box(0, 1, 40, 8), box(0, -40, 40, -1)
    leaf = choose_leaf(opening, [0, 1], [shapely.MultiPolygon([narrow]), shapely.MultiPolygon([wide])])
    assert leaf is not None
    assert leaf.into == 1
    assert choose_leaf(opening, [0], [shapely.MultiPolygon([narrow])]) is None


def test_wide_doors_slide_and_doors_without_walls_have_no_leaf() -> None:
    plan = oblique()
    slides = drawn_building(plan).doors[2]
    assert slides.width * UNIT == pytest.approx(2.0)
    assert slides.leaf is None
    assert slides.wall == 6
    lost = drawn_building(replace(plan, openings=plan.openings[1:])).doors[0]
    assert (lost.wall, lost.leaf) == (None, None)
    assert lost.width == pytest.approx(16.0)


def test_a_plain_plan_has_no_walls() -> None:
    plan = generate_plan(3)
    building = drawn_building(plan)
    assert building.walls == ()
    assert building.mass.is_empty
    assert all(door.leaf is None for door in building.doors)
    assert [room.floor_area for room in building.rooms] == [room.area for room in building.rooms]


@pytest.mark.parametrize("broken", [{"end": (40.0, 40.0)}, {"thickness": 0.0}])
def test_a_wall_without_length_or_thickness_is_named(broken: dict) -> None:
    plan = two_rooms()
    walls = (replace(plan.walls[0], **broken), *plan.walls[1:])
    with pytest.raises(FloorplanError, match=r"walls\[0\]: expected a positive length and thickness"):
        drawn_building(replace(plan, walls=walls))


@given(st.text(st.characters(codec=None)))
def test_clean_names_can_be_written(text: str) -> None:
    clean = clean_text(text)
    assert clean == " ".join(clean.split())
    assert clean.encode().decode() == clean
    assert clean_text(clean) == clean
    assert all(c in text or c == " " for c in clean)


def test_names_keep_what_can_be_shown() -> None:
    assert clean_text(" Bad \t&\n WC\x00\x1b \ud800 <'\"> 漢字 ") == "Bad & WC <'\"> 漢字"
    assert drawn_building(two_rooms(("\x07", "x"))).rooms[0].title == "Living room"
    assert drawn_building(two_rooms()).rooms[0].type == RoomType.LIVING


@pytest.mark.parametrize("seed", range(6))
def test_finished_procedural_plans_are_drawn_without_a_gap(seed: int) -> None:
    """Walls, floors and openings of a finished plan fill its outer outline exactly once, and every door has a leaf."""
    finished = finish(generate_plan(seed))
    assert finished.report.problems == ()
    building = drawn_building(finished)
    bodies = [wall.solid for wall in building.walls]
    assert shapely.union_all(bodies).symmetric_difference(building.mass).area < 1e-4
    assert sum(body.area for body in bodies) == pytest.approx(building.mass.area, abs=1e-4)
    pieces = [building.mass, *(room.floor for room in building.rooms), *(Polygon(d.outline) for d in building.doors)]
    together = shapely.union_all([piece.buffer(1e-6, join_style="mitre") for piece in pieces])
    assert sum(piece.area for piece in pieces) == pytest.approx(together.area, abs=0.02)
    whole = shapely.union_all([Polygon(room.outline).buffer(1e-6, join_style="mitre") for room in building.rooms])
    assert together.buffer(1e-5).covers(whole)  # no floor is lost between rooms, walls and doors
    assert all(len(room.floor.geoms) == 1 for room in building.rooms)
    assert all(door.leaf is not None and door.wall is not None for door in building.doors)

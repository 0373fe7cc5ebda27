"""Measures of a plan, each on a case worked by hand, and what ground truth scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trifold.floorplan.diagram import BubbleDiagram, RoomSpec
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.geometry_metrics import door_in_own_wall
from trifold.floorplan.metrics import (
    GraphErrors,
    area_error,
    connected_from_entrance,
    door_connections,
    graph_errors,
    manhattan_share,
    overlap_share,
    validity,
)
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.procedural import ProceduralConfig, generate_plan
from trifold.floorplan.rooms import RoomType
from trifold.floorplan.rplan import read_rplan
from trifold.floorplan.scores import Score, evaluate_plans, summary_table

GOLDEN = Path(__file__).parents[1] / "golden" / "floorplan"


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]], dtype=np.float64)


def _with_polygon(plan: Plan, index: int, polygon: np.ndarray) -> Plan:
    nodes = list(plan.nodes)
    nodes[index] = replace(nodes[index], polygon=polygon)
    return replace(plan, nodes=tuple(nodes))


def _rooms(*polygons: np.ndarray) -> Plan:
    return Plan(tuple(Node(RoomType.BEDROOM, polygon) for polygon in polygons), (), metres_per_unit=1.0)


def test_validity_counts_simple_polygons_with_area() -> None:
    bow_tie = np.array([[0, 0], [10, 10], [10, 0], [0, 10]], dtype=np.float64)
    sliver = _rectangle(0, 0, 0.1, 0.1)
    assert validity(_rooms(_rectangle(0, 0, 9, 9), bow_tie, sliver, _rectangle(20, 0, 29, 9))) == 0.5
    assert validity(_rooms(sliver), min_area=0.001) == 1.0


def test_overlap_share_by_hand() -> None:
    # Two squares of 100 share 50: 200 drawn, 150 covered.
    assert overlap_share(_rooms(_rectangle(0, 0, 10, 10), _rectangle(5, 0, 15, 10))) == pytest.approx(0.25)
    assert overlap_share(_rooms(_rectangle(0, 0, 10, 10), _rectangle(10, 0, 20, 10))) == 0.0
    # The same square three times: two thirds of the drawn floor are drawn again.
    assert overlap_share(_rooms(*[_rectangle(0, 0, 10, 10)] * 3)) == pytest.approx(2 / 3)


def test_manhattan_share_by_hand() -> None:
    triangle = np.array([[0, 0], [0, 3], [4, 3]], dtype=np.float64)  # sides 3, 4 and the slanted 5
    assert manhattan_share(_rooms(triangle)) == pytest.approx(7 / 12)
    turned = _rectangle(0, 0, 10, 10) @ np.array([[1, math.tan(math.radians(3))], [-math.tan(math.radians(3)), 1]])
    assert manhattan_share(_rooms(turned)) == 0.0
    assert manhattan_share(_rooms(turned), degrees=4) == 1.0


def test_doors_join_what_lies_behind_their_faces(small_plan: Plan) -> None:
    assert door_connections(small_plan) == [(0, 1), (1, 2), (0, None)]
    assert graph_errors(small_plan) == GraphErrors(0, 0)
    assert door_in_own_wall(small_plan) == 1.0
    assert connected_from_entrance(small_plan) == 1.0


def test_a_moved_door_is_one_missing_and_one_extra_edge(small_plan: Plan) -> None:
    # The bedroom's door, at 50..64, moves down the wall to the bathroom, which begins at 94.
    moved = _with_polygon(small_plan, 3, _rectangle(96, 110, 100, 124))
    assert door_connections(moved)[0] == (0, 2)
    errors = graph_errors(moved, small_plan.diagram())
    assert errors == GraphErrors(missing=1, extra=1)
    assert errors.total == 2
    assert connected_from_entrance(moved) == 1.0  # entrance, living, bathroom, bedroom


def test_a_door_inside_a_room_joins_nothing(small_plan: Plan) -> None:
    lost = _with_polygon(small_plan, 3, _rectangle(66, 60, 70, 74))
    assert door_connections(lost)[0] is None
    assert graph_errors(lost) == GraphErrors(missing=1, extra=0)
    assert door_in_own_wall(lost) == pytest.approx(2 / 3)
    assert connected_from_entrance(lost) == pytest.approx(1 / 3)  # bedroom and bathroom are cut off


def test_a_front_door_between_two_rooms_is_no_entrance(small_plan: Plan) -> None:
    inside = _with_polygon(small_plan, 5, _rectangle(96, 70, 100, 84))
    assert door_connections(inside)[2] == (0, 1)
    assert graph_errors(inside) == GraphErrors(missing=1, extra=0)  # that edge is wanted anyway
    assert door_in_own_wall(inside) == pytest.approx(2 / 3)
    assert connected_from_entrance(inside) == 0.0


def test_a_door_needs_its_rooms_within_reach(small_plan: Plan) -> None:
    # The door's faces are 1 unit from both rooms here, 7 cm; with a reach of 5 cm it sees neither.
    thin = _with_polygon(small_plan, 3, _rectangle(97, 50, 99, 64))
    assert door_connections(thin)[0] == (0, 1)
    assert door_connections(thin, reach=0.05)[0] is None


def test_half_of_the_door_must_face_its_room(small_plan: Plan) -> None:
    # The bedroom ends at 90: 8 of the door's 14 units face it, then 6 of 14 (and 4 face the bathroom).
    assert door_connections(_with_polygon(small_plan, 3, _rectangle(96, 82, 100, 96)))[0] == (0, 1)
    assert door_connections(_with_polygon(small_plan, 3, _rectangle(96, 84, 100, 98)))[0] is None


def test_doors_of_any_shape_are_judged(small_plan: Plan) -> None:
    flat = _with_polygon(small_plan, 3, np.array([[98, 50], [98, 57], [98, 64]], dtype=np.float64))
    assert door_connections(flat)[0] == (0, 1)
    point = _with_polygon(small_plan, 3, np.full((3, 2), 98.0))
    assert door_connections(point)[0] is None
    square = _with_polygon(small_plan, 3, _rectangle(96, 50, 100.5, 54))  # wider than long: seen both ways
    assert door_connections(square)[0] == (0, 1)


def test_connections_do_not_depend_on_the_angle(small_plan: Plan) -> None:
    turn = np.array([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    turned = replace(small_plan, nodes=tuple(replace(n, polygon=n.polygon @ turn.T) for n in small_plan.nodes))
    assert door_connections(turned) == door_connections(small_plan)


def test_diagram_must_have_the_plan_s_rooms(small_plan: Plan) -> None:
    other = BubbleDiagram((RoomSpec(RoomType.LIVING),), (), 0)
    with pytest.raises(FloorplanError, match="the diagram has 1 rooms, the plan 3"):
        graph_errors(small_plan, other)


def test_area_error_by_hand() -> None:
    plan = _rooms(_rectangle(0, 0, 4, 5), _rectangle(10, 0, 13, 4), _rectangle(20, 0, 29, 9))  # 20, 12, 81 m2
    specs = [RoomSpec(RoomType.BEDROOM, area=area) for area in (16.0, 15.0, None)]
    assert area_error(plan, BubbleDiagram(tuple(specs), (), None)) == pytest.approx((4 / 16 + 3 / 15) / 2)
    assert math.isnan(area_error(plan, BubbleDiagram(tuple(RoomSpec(RoomType.BEDROOM) for _ in range(3)), (), None)))


@pytest.mark.parametrize("oblique", [0.0, 1.0])
def test_procedural_ground_truth_is_faultless(oblique: float) -> None:
    plans = [generate_plan(seed, ProceduralConfig(non_manhattan=oblique)) for seed in range(20)]
    scores = evaluate_plans(plans)
    assert scores["graph_errors"] == Score(0.0, 0.0, 20)
    for name, perfect in {
        "validity": 1,
        "overlap_share": 0,
        "door_in_own_wall": 1,
        "connected": 1,
        "area_error": 0,
    }.items():
        assert scores[name].mean == pytest.approx(perfect, abs=1e-9), name


def test_hand_made_ground_truth_is_faultless() -> None:
    for plan in read_rplan(GOLDEN / "plans_synthetic"):
        assert graph_errors(plan) == GraphErrors(0, 0), plan.name
        assert door_in_own_wall(plan) == 1.0, plan.name


def test_rplan_ground_truth_scores_nearly_nothing(floorplan_data: Callable[[str], Path]) -> None:
    pytest.importorskip("cv2", reason="the 64-pixel lattice needs opencv-python-headless")
    from trifold.floorplan.lattice import on_lattice

    with pytest.warns(match="room_type"):
        plans = read_rplan(floorplan_data("rplan_samples.json.gz"), strict=False)
    exact, raster = evaluate_plans(plans), evaluate_plans([on_lattice(plan) for plan in plans])
    assert exact["graph_errors"].mean == 0.0
    assert raster["graph_errors"].mean < 0.1
    # The original's own measure is far from 0 on the same polygons.
    assert raster["compatibility"].mean > 1.0


def test_evaluation_averages_over_plans(small_plan: Plan) -> None:
    lost = _with_polygon(small_plan, 3, _rectangle(66, 60, 70, 74))
    scores = evaluate_plans([small_plan, lost], [small_plan.diagram()] * 2)
    assert scores["graph_errors"] == Score(0.5, 0.5, 2)
    assert scores["missing"].mean == 0.5
    assert scores["extra"].mean == 0.0
    assert scores["connected"].mean == pytest.approx((1 + 1 / 3) / 2)
    with pytest.raises(FloorplanError, match="no plans"):
        evaluate_plans([])
    with pytest.raises(FloorplanError, match="1 diagrams for 2 plans"):
        evaluate_plans([small_plan, lost], [small_plan.diagram()])


def test_measures_that_do_not_exist_are_left_out(small_plan: Plan) -> None:
    bare = replace(small_plan.diagram(), rooms=tuple(RoomSpec(room.type) for room in small_plan.diagram().rooms))
    assert "area_error" not in evaluate_plans([small_plan], [bare])
    scores = evaluate_plans([small_plan, small_plan], [bare, small_plan.diagram()])
    assert scores["area_error"].count == 1


def test_evaluation_survives_any_polygons(small_plan: Plan) -> None:
    rng = np.random.default_rng(0)
    wild = [
        replace(
            small_plan, nodes=tuple(replace(n, polygon=rng.uniform(0, 256, n.polygon.shape)) for n in small_plan.nodes)
        )
        for _ in range(20)
    ]
    wild.append(replace(small_plan, nodes=tuple(replace(n, polygon=0 * n.polygon) for n in small_plan.nodes)))
    for name, score in evaluate_plans(wild, [small_plan.diagram()] * 21).items():
        assert score.count == 21, name
        assert math.isfinite(score.mean), name
    assert evaluate_plans(wild[-1:])["overlap_share"].mean == 1.0


def test_summary_table_has_a_row_per_entry() -> None:
    rows = {
        "ground truth": {"graph_errors": Score(0.0, 0.0, 8), "validity": Score(1.0, 0.0, 8)},
        "model": {"graph_errors": Score(1.25, 0.5, 8)},
    }
    lines = summary_table(rows).splitlines()
    assert lines[0] == "|  | plans | graph_errors ↓ | validity ↑ |"
    assert lines[2] == "| ground truth | 8 | 0.00 ± 0.00 | 1.000 ± 0.000 |"
    assert lines[3] == "| model | 8 | 1.25 ± 0.50 | - |"

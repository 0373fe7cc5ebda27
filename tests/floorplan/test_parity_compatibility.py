"""HouseDiffusion's compatibility score against counts recorded from the original."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trifold.floorplan.compatibility import estimated_edges, house_diffusion_compatibility, wanted_edges
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.rooms import RoomType
from trifold.floorplan.rplan import read_rplan

GOLDEN = Path(__file__).parents[1] / "golden" / "floorplan"


def _cases(folder: Path, records: str, plans: str) -> list[tuple[str, Plan, dict]]:
    cases = []
    for name, record in json.loads((folder / records).read_text()).items():
        plan = read_rplan(folder / plans / f"{name.split('/')[1]}.json")[0]
        assert [int(kind) for kind in plan.node_types()] == record["types"]
        nodes = tuple(replace(n, polygon=np.array(p)) for n, p in zip(plan.nodes, record["polys"], strict=True))
        cases.append((name, replace(plan, nodes=nodes), record))
    return cases


@pytest.fixture(scope="module", params=["synthetic", "rplan"])
def cases(request: pytest.FixtureRequest) -> list[tuple[str, Plan, dict]]:
    if request.param == "synthetic":
        return _cases(GOLDEN, "compatibility_synthetic.json", "plans_synthetic")
    folder = Path(os.environ.get("TRIFOLD_GOLDEN", ""))
    found = [path for path in (folder, folder / "floorplan") if (path / "plans_rplan_DO_NOT_COMMIT").is_dir()]
    if not found:
        pytest.skip("RPLAN may not be redistributed: TRIFOLD_GOLDEN names no folder with its recorded counts")
    return _cases(found[0], "compatibility_rplan_DO_NOT_COMMIT.json", "plans_rplan_DO_NOT_COMMIT")


def test_counts_are_the_original_s(cases: list[tuple[str, Plan, dict]]) -> None:
    assert len(cases) == 9
    for name, plan, record in cases:
        assert house_diffusion_compatibility(plan, row_bug=True) == record["mistakes_original"], name
        assert house_diffusion_compatibility(plan, row_bug=False) == record["mistakes_row_bug_fixed"], name
        assert wanted_edges(plan) == {tuple(edge) for edge in record["gt_edges_all_rows"]}, name


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]], dtype=np.float64)


def _two_rooms(door: np.ndarray) -> Plan:
    """Living room 0..100, bedroom 100..200, a door, and a front door that overlaps the living room's left side."""
    nodes = (
        Node(RoomType.LIVING, _rectangle(0, 0, 100, 100)),
        Node(RoomType.BEDROOM, _rectangle(100, 0, 200, 100)),
        Node(RoomType.INTERIOR_DOOR, door),
        Node(RoomType.FRONT_DOOR, _rectangle(-4, 40, 4, 60)),
    )
    return Plan(nodes, ((0, 1), (0, None)))


def test_estimate_by_hand() -> None:
    assert estimated_edges(_two_rooms(_rectangle(96, 10, 104, 30))) == {(0, 1), (-1, 0)}
    # A door the size of a room has IoU above 0.2 with it and is not counted as touching.
    assert estimated_edges(_two_rooms(_rectangle(50, 0, 150, 100))) == {(-1, 0)}
    # A door between walls touches nothing.
    assert estimated_edges(_two_rooms(_rectangle(220, 0, 230, 20))) == {(-1, 0)}


def test_row_bug_drops_the_first_two_rows() -> None:
    plan = _two_rooms(_rectangle(96, 10, 104, 30))
    assert [row[::2] for row in plan.graph()][:2] == [(0, 1), (0, 2)]
    assert wanted_edges(plan) == {(0, 1), (-1, 0)}
    assert wanted_edges(plan, row_bug=True) == {(-1, 0)}  # row 0, living - bedroom, is lost
    assert house_diffusion_compatibility(plan, row_bug=False) == 0
    assert house_diffusion_compatibility(plan, row_bug=True) == 1


def test_row_bug_drops_the_tail_of_long_lists_and_ends_at_twenty_nodes() -> None:
    def plan_of(count: int) -> Plan:
        rooms = [Node(RoomType.BEDROOM, _rectangle(10 * i, 0, 10 * i + 9, 9)) for i in range(count - 1)]
        door = Node(RoomType.FRONT_DOOR, _rectangle(10 * count, 0, 10 * count + 5, 5))
        return Plan((*rooms, door), ((count - 2, None),), frame=512)

    # 15 nodes have 105 triples; rows 2..96 are kept, and the front door's link is row 104.
    assert wanted_edges(plan_of(14), row_bug=True) == {(-1, 12)}
    assert wanted_edges(plan_of(15), row_bug=True) == set()
    assert wanted_edges(plan_of(15)) == {(-1, 13)}
    with pytest.raises(FloorplanError, match="21 nodes"):
        wanted_edges(plan_of(21), row_bug=True)

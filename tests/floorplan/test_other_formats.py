from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.other_formats import load_plans, read_cubigraph, read_procthor
from trifold.floorplan.plan import Plan
from trifold.floorplan.rplan import plan_to_rplan

HOUSE = {
    "seed": 7,
    "split": "val",
    "rooms": [
        {"type": "LivingRoom", "poly": [[6, 0], [0, 0], [0, 4], [6, 4]]},
        {"type": "Bedroom", "poly": [[0, 4], [0, 9], [6, 9], [6, 4]]},
    ],
    "doors": [{"rooms": [-1, 0], "seg": [[6, 1], [6, 2]]}, {"rooms": [1, 0], "seg": [[2, 4], [3, 4]]}],
}


def write(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(data))
    return path


def test_procthor_by_hand(tmp_path: Path):
    (plan,) = read_procthor(write(tmp_path, [HOUSE]))
    unit = 18 / 256
    assert plan.name == "procthor-7"
    assert plan.frame == 256
    assert plan.doors == ((0, 1), (0, None))
    assert plan.diagram().rooms[1].area == pytest.approx(30)
    assert plan.diagram().rooms[1].size == pytest.approx((6, 5))
    x0, y0, x1, y1 = plan.bounds
    # The front door's rectangle stands out by half its thickness on the right only.
    assert ((x0 + x1 - 1) / 2, (y0 + y1) / 2) == pytest.approx((128, 128))
    # Starts at the top left and goes down, whatever the file's start and direction.
    assert (plan.nodes[0].polygon - plan.nodes[0].polygon[0]).tolist() == pytest.approx(
        np.array([[0, 0], [0, 4], [6, 4], [6, 0]]) / unit
    )
    door, front = (np.ptp(n.polygon, axis=0) for n in plan.door_nodes)
    assert door == pytest.approx([1 / unit, 2])
    assert front == pytest.approx([2, 1 / unit])


def test_procthor_large_houses_get_a_larger_frame(tmp_path: Path):
    large = json.loads(json.dumps(HOUSE))
    for item in (*large["rooms"], *large["doors"]):
        key = "poly" if "poly" in item else "seg"
        item[key] = [[3 * x, 3 * z] for x, z in item[key]]
    (plan,) = read_procthor(write(tmp_path, large), split="val")
    assert plan.metres_per_unit == 18 / 256
    assert plan.frame == pytest.approx(27 * 256 / 18 * 1.05)
    assert plan.diagram().rooms[0].area == pytest.approx(24 * 9)
    assert min(plan.bounds) > 0
    assert max(plan.bounds) < plan.frame


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["rooms"][1].update(type="Attic"), r"rooms\[1\]\.type: unknown type 'Attic'; known: Bedroom"),
        (lambda h: h["rooms"][1].pop("poly"), r"rooms\[1\]\.poly: required, but missing"),
        (
            lambda h: h["rooms"][1].update(poly=[[0, float("nan")], [1, 1], [2, 2]]),
            r"rooms\[1\]\.poly: expected finite",
        ),
        (lambda h: h["doors"][0].update(rooms=[-1, -1]), r"doors\[0\]\.rooms: expected two rooms from 0 to 1"),
        (lambda h: h["doors"][0].update(rooms=[0, 2]), r"doors\[0\]\.rooms: expected two rooms"),
        (lambda h: h["doors"][0].update(seg=[[1, 1], [1, 1]]), r"doors\[0\]\.seg: expected two different points"),
        (lambda h: h.pop("doors"), "doors: required, but missing"),
        (
            lambda h: h["rooms"][0].update(poly=[["0", "0"], ["4", "0"], ["4", "4"]]),
            r"rooms\[0\]\.poly: expected finite",
        ),
    ],
)
def test_procthor_faults_are_named(tmp_path: Path, change, message: str):
    house = json.loads(json.dumps(HOUSE))
    change(house)
    with pytest.raises(FloorplanError, match=rf"data\.json\[0\]: ({message})"):
        read_procthor(write(tmp_path, [house]))


def test_procthor_split(tmp_path: Path):
    path = write(tmp_path, [HOUSE, {**HOUSE, "split": "train", "seed": 8}])
    assert [plan.name for plan in read_procthor(path)] == ["procthor-7", "procthor-8"]
    assert [plan.name for plan in read_procthor(path, split="train")] == ["procthor-8"]
    with pytest.raises(FloorplanError, match="no house of split 'test'"):
        read_procthor(path, split="test")


GRAPH = {"id": "12", "rooms": ["Other", "Entry", "LivingRoom", "Garage"], "edges": [[0, 2, 1], [2, 1, 2], [0, 3, 2]]}


def test_cubigraph_by_hand(tmp_path: Path):
    diagram, without = read_cubigraph(write(tmp_path, [GRAPH, {"rooms": ["Bath"], "edges": []}]))
    assert [room.type.name for room in diagram.rooms] == ["UNKNOWN", "ENTRANCE", "LIVING", "STORAGE"]
    assert diagram.doors == ((1, 2), (0, 3))
    assert (diagram.front_door, diagram.name) == (1, "cubigraph-12")
    assert without.front_door is None
    with pytest.raises(FloorplanError, match=r"data\.json\[0\]: edges\[0\]: expected \[room, room, 1 or 2\]"):
        read_cubigraph(write(tmp_path, [{**GRAPH, "edges": [[0, 1, 3]]}]))
    with pytest.raises(FloorplanError, match=r"data\.json: rooms\[0\]\.?.*: unknown type 'Sauna'"):
        read_cubigraph(write(tmp_path, {**GRAPH, "rooms": ["Sauna"]}))


def test_a_split_may_lie_in_one_file_of_a_folder(tmp_path: Path):
    for name, split in (("a", "train"), ("b", "val")):
        (tmp_path / f"{name}.json").write_text(json.dumps([{**HOUSE, "split": split, "seed": name}]))
    assert [plan.name for plan in load_plans(tmp_path, split="val")] == ["procthor-b"]
    assert len(load_plans(tmp_path)) == 2
    with pytest.raises(FloorplanError, match=f"{tmp_path.name}: no house of split 'test'"):
        load_plans(tmp_path, split="test")


def test_load_plans_tells_formats_apart(tmp_path: Path, small_plan: Plan):
    assert load_plans(write(tmp_path, plan_to_rplan(small_plan))) == [small_plan]
    assert load_plans(write(tmp_path, [HOUSE]))[0].name == "procthor-7"
    marked = write(tmp_path, [{**HOUSE, "split": "train"}, {**HOUSE, "seed": 8, "split": "val"}])
    assert [plan.name for plan in load_plans(marked, split="val")] == ["procthor-8"]
    with pytest.raises(FloorplanError, match="no house of split 'test'"):
        load_plans(marked, split="test")
    with pytest.raises(FloorplanError, match="RPLAN plans carry no split, so none is 'val'"):
        load_plans(write(tmp_path, plan_to_rplan(small_plan)), split="val")
    with pytest.raises(FloorplanError, match=r"data\.json: rooms: a diagram without geometry"):
        load_plans(write(tmp_path, [GRAPH]))
    for other in ({}, [], 3, [3]):
        with pytest.raises(FloorplanError, match=r"data\.json: expected RPLAN plans"):
            load_plans(write(tmp_path, other))


def test_real_procthor_plans(floorplan_data):
    validation = read_procthor(floorplan_data("procthor_plans.json.gz"), split="val")
    assert len(validation) == 585
    for plan in validation[::10]:
        assert len(plan.diagram().components()) == 1
        x0, y0, x1, y1 = plan.bounds
        assert min(x0, y0) > 0
        assert max(x1, y1) < plan.frame


def test_real_cubigraphs(floorplan_data):
    diagrams = read_cubigraph(floorplan_data("cubigraph5k.json.gz"))
    assert len(diagrams) == 3493
    assert sum(len(d.doors) for d in diagrams) == 24563

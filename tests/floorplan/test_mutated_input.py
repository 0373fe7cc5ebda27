"""Spoilt input of every kind ends in a clear error or in a result that all other parts can use."""

from __future__ import annotations

import contextlib
import json
import re
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trifold.cli.main import main
from trifold.floorplan.diagram import BubbleDiagram
from trifold.floorplan.dxf import save_dxf
from trifold.floorplan.errors import FloorplanError, shown
from trifold.floorplan.finishing import finish
from trifold.floorplan.geojson import save_geojson
from trifold.floorplan.geometry_metrics import geometry_measures
from trifold.floorplan.metrics import graph_errors, validity
from trifold.floorplan.other_formats import load_plans, read_cubigraph
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.rooms import RoomType
from trifold.floorplan.rplan import read_rplan
from trifold.floorplan.svg_drawing import save_svg

from .mutants import FAMILIES, FORMATS, mutants, valid
from .tiny import tiny_model

# Files of each format that are spoilt in each way.
COUNTS = {"bytes": 30, "structure": 45, "meaning": 30}
SECONDS = 5.0  # of processor time that reading one file and everything after may take
MESSAGE = 500  # characters of the longest message, beside the name of the file
PLAN_FORMATS = ("rplan", "own", "procthor")
# Faults of a file as a whole; all others name the field.
NO_FIELD = ("json", "UTF-8", "gzip", "whole number of more than", "an empty list", "no houses", "expected an object")

# What pytest would only list is an error here: a division by zero inside numpy is a fault of ours.
pytestmark = pytest.mark.filterwarnings("error", "ignore::trifold.floorplan.errors.FloorplanWarning")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(with_sizes=True, num_layers=1)


def read(kind: str, path: Path, number: int) -> list[Any]:
    """What a reader of the format makes of a file, taking turns between readers."""
    if kind == "diagram":
        return [BubbleDiagram.load(path)]
    if kind == "cubigraph":
        return read_cubigraph(path)
    strict = number % 3 > 0
    return load_plans(path, strict=strict) if kind == "procthor" or number % 2 else read_rplan(path, strict=strict)


def use(result: Any, folder: Path, model: Any, *, slow: bool) -> None:
    """All that can be done with what was read; slow: also what takes long."""
    if isinstance(result, Plan):
        use_plan(result, folder, slow=slow)
    else:
        use_diagram(result, folder, model)


def use_plan(plan: Plan, folder: Path, *, slow: bool) -> None:
    diagram = plan.diagram()
    graph_errors(plan, diagram)
    geometry_measures(plan, diagram)
    validity(plan)
    finished = finish(plan)
    plan.save(folder / "plan.svg")
    for drawing in (plan, finished.plan):
        drawing.save(folder / "plan.json")
        (again,) = read_rplan(folder / "plan.json")
        assert again == drawing
    save_svg(finished, folder / "plan.svg")
    save_geojson(finished, folder / "plan.geojson")
    graph_errors(finished.plan, diagram)
    if slow:
        geometry_measures(finished.plan, diagram, wall=0.0)
        save_dxf(finished, folder / "plan.dxf")
        plan.save(folder / "plan.png", width=64)


def use_diagram(diagram: BubbleDiagram, folder: Path, model: Any) -> None:
    diagram.save(folder / "diagram.json")
    assert BubbleDiagram.load(folder / "diagram.json") == diagram
    request = model.request(diagram, 0)
    if request.spec.num_tokens <= 1500:
        (plan,) = model.draw([request], steps=2)
        assert plan.diagram().doors == diagram.doors


def assert_clear(error: FloorplanError, path: Path) -> None:
    """One printable line that names the file, and the field where only a part of the file is at fault."""
    told = str(error)
    assert told.startswith(str(path)), told
    assert told.isprintable()
    assert len(told) - len(str(path)) <= MESSAGE
    assert error.field or any(words in told for words in NO_FIELD), told


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", FORMATS)
def test_an_error_or_a_result(tmp_path: Path, model: Any, kind: str, family: str) -> None:
    path, ended, faults = tmp_path / "in put.json", {"error": 0, "result": 0}, []
    for number, mutant in enumerate(mutants(kind, family, COUNTS[family])):
        path.write_bytes(mutant.data)
        begin = time.process_time()
        try:
            try:
                results = read(kind, path, number)
            except FloorplanError as error:
                ended["error"] += 1
                assert_clear(error, path)
                continue
            ended["result"] += 1
            with contextlib.suppress(FloorplanError):
                for result in results[:1]:  # a second plan is sound
                    use(result, tmp_path, model, slow=number % 12 == 0)
            assert time.process_time() - begin < SECONDS
        except Exception:  # whatever it is, the fault of this file must not hide those of the next ones
            faults.append(f"{mutant.name}\n{traceback.format_exc(limit=-3)}")
    assert not faults, "\n".join(faults)
    assert min(ended.values()) >= 1, ended


def test_there_are_enough() -> None:
    assert sum(COUNTS.values()) * len(FORMATS) >= 500


@pytest.mark.parametrize("kind", PLAN_FORMATS)
def test_in_a_folder_the_spoilt_file_is_named(tmp_path: Path, kind: str) -> None:
    spoilt = tmp_path / "b.json"
    for name in ("a.json", "c.json"):
        (tmp_path / name).write_text(json.dumps(valid(kind, 2)))
    sound = load_plans(tmp_path / "a.json")
    for mutant in mutants(kind, "structure", 20):
        spoilt.write_bytes(mutant.data)
        try:
            plans = load_plans(spoilt)
        except FloorplanError as error:
            with pytest.raises(FloorplanError, match=re.escape(str(error))):
                load_plans(tmp_path)
        else:
            assert load_plans(tmp_path) == sound + plans + sound, mutant.name


@pytest.mark.filterwarnings("default::DeprecationWarning:diffusers.*")
@pytest.mark.parametrize("kind", ["diagram", "rplan", "own", "procthor"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_command(tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str], kind: str, family: str) -> None:
    """Exit code 1, one line and no output, or exit code 0 and the whole output; all of it on a terminal's terms."""
    weights = model.save_pretrained(tmp_path / "model") if kind == "diagram" else None
    path, out = tmp_path / "in put.json", tmp_path / "new" / "plan.svg"
    for mutant in mutants(kind, family, 4):
        path.write_bytes(mutant.data)
        words = ["render", path, out]
        if kind == "diagram":
            words = ["generate", "--graph", path, "--out", out, "--model", weights, "--steps", 1]
        status = main(["floorplan", *map(str, words)])
        told = capsys.readouterr()
        lines = [line for line in told.err.splitlines() if not line.startswith("warning: ")]
        assert "Traceback" not in told.err, mutant.name
        if status == 0:
            assert (told.out, lines) == (f"{out}\n", []), mutant.name
            assert out.read_text().endswith("</svg>\n")
            out.unlink()
            out.parent.rmdir()  # holds nothing else
        else:
            assert (status, told.out, len(lines)) == (1, "", 1), (mutant.name, told)
            assert lines[0].startswith("trifold: "), mutant.name
            assert not out.parent.exists() or not any(out.parent.iterdir()), mutant.name
            if out.parent.exists():
                out.parent.rmdir()


# ------------------------------------------------------------------------------------- faults that mutants once found

SPIKE = [[10, 10], [10, 60], [60, 60], [60, 90], [60, 60], [60, 10]]
TWICE = [[10, 10], [10, 10], [10, 60], [10, 60], [60, 60], [60, 10]]


def with_first_room(outline: list[list[float]], name: str = "") -> Plan:
    """A room of this outline beside another, both of one name, with a door between them."""
    other, door = [[64, 10], [64, 60], [90, 60], [90, 10]], [[60, 20], [60, 32], [64, 32], [64, 20]]
    rooms = [Node(RoomType.LIVING, np.array(p), name) for p in (outline, other)]
    return Plan((*rooms, Node(RoomType.INTERIOR_DOOR, np.array(door))), ((0, 1),), name=name)


@pytest.mark.parametrize("name", ["", "a\0b", "a\ufffeb", "x" * 5000])
@pytest.mark.parametrize("outline", [SPIKE, TWICE])
def test_spikes_corners_drawn_twice_and_odd_names(tmp_path: Path, outline: list[list[float]], name: str) -> None:
    plan = with_first_room(outline, name)
    use_plan(plan, tmp_path, slow=True)
    assert [room.name for room in plan.diagram().rooms] == [name, ""]
    assert all(wall.length > 0 for wall in finish(plan).walls)
    assert len(finish(plan).plan.nodes[0].polygon) == 4


def test_rooms_of_a_room_graph_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    for odd in ([0], {}, "0", 2, -1, True, None):
        path.write_text(json.dumps({"rooms": ["Entry", "Bath"], "edges": [[0, 1, 2], [0, odd, 2]]}))
        with pytest.raises(FloorplanError, match=r"edges\[1\]: no room .*; rooms are numbered 0 to 1"):
            read_cubigraph(path)


def test_messages_quote_little_and_print_all() -> None:
    for odd in ("x" * 9999, [[[[[[[[[0]]]]]]]]], list(range(999)), 10**400, "\x1b[31m\n\ud800"):
        assert len(shown(odd)) < 100
    error = FloorplanError("a\nb\x1b[31m\ud800é", source="file")
    assert str(error) == "file: a\\nb\\x1b[31m\\ud800é"

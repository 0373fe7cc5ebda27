"""Finishing and choosing from the command line: what is written, and what is told of it."""

import json
import warnings
from pathlib import Path

import pytest
from trifold.cli.main import main
from trifold.floorplan import BubbleDiagram, FinishSettings, HouseDiffusion, best_of
from trifold.floorplan import finish as put_right
from trifold.floorplan.other_formats import load_plans
from trifold.floorplan.rplan import plan_to_rplan

from .conftest import plans_file


@pytest.fixture
def told(model, capsys):
    """Run `trifold floorplan VERB ...`; returns (lines printed, lines told on stderr)."""

    def run(verb: str, *words: object) -> tuple[list[str], list[str]]:
        flags = ["--model", str(model), "--steps", "2"] if verb == "generate" else []
        assert main(["floorplan", verb, *map(str, words), *flags]) == 0
        found = capsys.readouterr()
        return found.out.splitlines(), found.err.splitlines()

    return run


def test_generate_finishes_the_best_of_several(told, model, tmp_path):
    words = ["--graph", "two_bedrooms", "-n", 2, "--best-of", 3, "--finish"]
    printed, said = told("generate", *words, "-o", tmp_path / "p.json")
    diagram = BubbleDiagram.example("two_bedrooms")
    house = HouseDiffusion.from_pretrained(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = best_of(house, diagram, 2, 3, steps=2, finish=put_right)
    assert [json.loads(Path(p).read_text()) for p in printed] == [plan_to_rplan(one.plan) for one in best]
    assert any(line.startswith("2 plans, best of 3: 6 drawn, ") for line in said)
    for i, one in enumerate(best):
        assert one.finished is not None
        assert f"plan {i}: {one.finished.summary()}" in said
        assert one.problems[0] in one.finished.summary()  # a random model's plans cannot all be put right
    printed, _ = told("generate", *words, "-o", tmp_path / "all")
    assert b"data-outline-area" in Path(printed[0]).read_bytes()
    printed, said = told("generate", *words[:-1], "-o", tmp_path / "drawn.svg")  # not finished
    assert b"data-outline-area" not in Path(printed[0]).read_bytes()
    assert not any(line.startswith("plan 0") for line in said)


@pytest.mark.parametrize("flags", [["--finish"], ["--best-of", "2"]])
def test_an_animation_is_not_finished(model, tmp_path, capsys, flags):
    words = ["--graph", "two_bedrooms", "--out", str(tmp_path / "p.gif"), "--model", str(model), *flags]
    assert main(["floorplan", "generate", *words]) == 1
    assert "an animation shows one plan being drawn; it is neither finished nor chosen" in capsys.readouterr().err
    assert not (tmp_path / "p.gif").exists()


@pytest.mark.parametrize(
    ("suffix", "start"), [("dxf", b"  0\nSECTION"), ("geojson", b'{"type"'), ("ifc", b"ISO-10303-21;")]
)
def test_finish_writes_drawings_for_other_programs(told, tmp_path, suffix, start):
    pytest.importorskip({"dxf": "ezdxf", "ifc": "ifcopenshell"}.get(suffix, "json"))
    source = plans_file(tmp_path / "plans.json", 2)
    printed, said = told("finish", source, tmp_path / "new" / f"plan.{suffix}")
    assert printed == [str(tmp_path / "new" / f"plan-{i}.{suffix}") for i in range(2)]
    for i, path in enumerate(printed):
        assert Path(path).read_bytes().lstrip().startswith(start.lstrip())
        assert said[i].startswith(f"plan-{i}.{suffix}: ")
        assert "rooms and doors moved, by at most" in said[i]


def test_finish_takes_its_settings_from_flags(told, tmp_path):
    source = plans_file(tmp_path / "plans.json", 1)
    told("finish", source, tmp_path / "thick.json", "--interior-door", 1.2, "--inner-wall", 0.2)
    (plan,) = load_plans(tmp_path / "thick.json")
    (drawn,) = load_plans(source)
    expected = put_right(drawn, FinishSettings(interior_door=1.2, inner_wall=0.2)).plan
    assert plan_to_rplan(plan) == plan_to_rplan(expected)
    assert plan_to_rplan(plan) != plan_to_rplan(put_right(drawn).plan)

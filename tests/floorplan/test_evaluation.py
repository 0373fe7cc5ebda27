"""Measuring a model: ground truth beside it, the same diagrams for every run, numbers that can be repeated."""

import json

import numpy as np
import pytest
from trifold.floorplan.checking import best_of
from trifold.floorplan.errors import FloorplanWarning
from trifold.floorplan.evaluation import Report, asked_of, evaluate_model, held_out_plans, second_sample
from trifold.floorplan.finishing import finish
from trifold.floorplan.model import HouseDiffusion
from trifold.floorplan.procedural import HELD_OUT_START, generate_plan
from trifold.floorplan.rplan import plan_to_rplan
from trifold.floorplan.scores import evaluate_plans
from trifold.floorplan.set_metrics import set_distance

from .tiny import tiny_model


@pytest.fixture(scope="module")
def plans():
    return held_out_plans("procedural", 3)


@pytest.fixture(scope="module")
def report(plans) -> Report:
    return evaluate_model(tiny_model(), plans, [("ddim", 2), ("ddpm", 3)], seeds=(0, 1))


def test_held_out_plans_are_those_no_training_sees(plans):
    assert plans == [generate_plan(HELD_OUT_START + i) for i in range(3)]


def test_held_out_plans_of_a_file(tmp_path):
    path = tmp_path / "plans.json"
    path.write_text(json.dumps([plan_to_rplan(generate_plan(i)) for i in range(4)]))
    assert held_out_plans(str(path), 3) == [generate_plan(i) for i in range(3)]
    with pytest.raises(ValueError, match=r"plans\.json: holds 4 plans, fewer than num_plans=5"):
        held_out_plans(str(path), 5)
    with pytest.raises(ValueError, match="split: procedural plans carry none, found 'val'"):
        held_out_plans("procedural", 3, split="val")
    for data in ("procedural", str(path)):
        with pytest.raises(ValueError, match="num_plans: expected at least 1, found 0"):
            held_out_plans(data, 0)


def test_what_a_model_is_told(plans):
    plan = plans[0]
    bare, told = asked_of(plan, sizes=False), asked_of(plan, sizes=True)
    assert [r.type for r in bare.rooms] == [n.type for n in plan.rooms]
    assert all(r.area is None and r.size is None and r.corners is None for r in bare.rooms)
    assert (bare.doors, bare.front_door) == (told.doors, told.front_door)
    unit = plan.metres_per_unit
    assert [r.area for r in told.rooms] == pytest.approx([n.area * unit**2 for n in plan.rooms])
    assert all(r.corners is None for r in told.rooms)  # corner counts would give the shape away


def test_rows_counts_and_ground_truth(plans, report):
    assert list(report.scores) == ["ground truth", "ddim, 2 steps", "ddpm, 3 steps"]
    truth = report.scores["ground truth"]
    assert truth["graph_errors"].mean == 0
    assert truth["validity"].mean == truth["door_in_own_wall"].mean == truth["connected"].mean == 1
    assert truth["graph_errors"].count == 3
    assert report.scores["ddim, 2 steps"]["graph_errors"].count == 6  # pooled over two seeds
    assert report.scores["ddim, 2 steps"]["graph_errors"].mean > 1  # a random model
    assert set(report.seconds_per_plan) == set(list(report.scores)[1:])
    assert min(report.seconds_per_plan.values()) > 0
    assert report.about == {"plans": 3, "seeds": [0, 1], "sizes_told": False, "best_of": 1}


def test_scores_are_those_of_the_plans_drawn_with_the_stated_seeds(plans, report):
    wanted = [asked_of(plan, sizes=False) for plan in plans]
    model = tiny_model()
    drawn = [
        model.generate(wanted[i], steps=2, sampler="ddim", seed=seed * 3 + i)[0] for seed in (0, 1) for i in range(3)
    ]
    assert report.scores["ddim, 2 steps"] == evaluate_plans(drawn, wanted * 2)


def test_a_perfect_model_scores_as_ground_truth(plans):
    class Oracle(HouseDiffusion):
        def draw(self, requests, **_):
            return [plans[request.seed % len(plans)] for request in requests]

    report = evaluate_model(Oracle(tiny_model().config), plans, [("ddim", 20)], seeds=(0, 5))
    for name, truth in report.scores["ground truth"].items():
        score = report.scores["ddim, 20 steps"][name]
        assert (score.mean, score.count) == (pytest.approx(truth.mean), 2 * truth.count), name


def test_told_sizes_are_scored():
    plans = held_out_plans("procedural", 2)
    model = tiny_model(with_sizes=True)
    report = evaluate_model(model, plans, [("ddim", 2)], sizes=True)
    assert report.scores["ground truth"]["area_error"].mean == pytest.approx(0, abs=1e-9)
    assert report.scores["ddim, 2 steps"]["area_error"].mean > 0.05
    assert "area_error" not in evaluate_model(model, plans, [("ddim", 1)]).scores["ddim, 1 steps"]


def test_table_and_json(report):
    table = report.table().splitlines()
    assert table[0].startswith("|  | plans | graph_errors ↓")
    assert [line.split("|")[1].strip() for line in table[2:5]] == list(report.scores)
    assert len([line for line in table if line.endswith("s per plan")]) == 2
    saved = json.loads(json.dumps(report.to_dict()))
    assert saved["scores"]["ground truth"]["graph_errors"] == {"mean": 0.0, "std": 0.0, "count": 3}
    assert saved["plans"] == 3
    assert np.isfinite(list(saved["seconds_per_plan"].values())).all()


def test_best_of_several_and_finished_plans_have_rows_of_their_own(plans):
    others = second_sample("procedural", 3)
    assert others == [generate_plan(HELD_OUT_START + i) for i in range(3, 6)]
    training = [generate_plan(i) for i in range(3)]
    run = {"best_of": 2, "finished": True, "others": others, "training_plans": training}
    model = tiny_model()
    report = evaluate_model(model, plans, [("ddim", 2)], **run)
    rows = [
        "ddim, 2 steps",
        "ddim, 2 steps, best of 2",
        "ddim, 2 steps, finished",
        "ddim, 2 steps, best of 2, finished",
    ]
    assert list(report.scores) == ["ground truth", "ground truth, finished", *rows]
    # The same draws as the library's own calls.
    wanted = [asked_of(plan, sizes=False) for plan in plans]
    with pytest.warns(FloorplanWarning, match="right=False"):
        best = [
            best_of(model, d, num_tries=2, steps=2, sampler="ddim", seed=i, finish=finish)[0]
            for i, d in enumerate(wanted)
        ]
    assert report.scores[rows[3]] == evaluate_plans([b.plan for b in best], wanted, wall=0.0)
    first = [model.generate(d, steps=2, sampler="ddim", seed=i)[0] for i, d in enumerate(wanted)]
    assert report.scores[rows[2]] == evaluate_plans([finish(p).plan for p in first], wanted, wall=0.0)
    assert report.scores["ground truth, finished"]["overlap_share"].mean == pytest.approx(0, abs=1e-9)
    errors = [report.scores[row]["graph_errors"].mean for row in rows]
    assert errors[1] <= errors[0]
    assert errors[3] <= errors[2] < errors[0]
    # Sets: finished plans against finished ground truth, and ground truth's own scores beside.
    assert report.sets[rows[2]]["fid"] == pytest.approx(
        set_distance([finish(p).plan for p in plans], [finish(p).plan for p in first]).fid
    )
    assert report.sets["ground truth, second sample"]["fid"] == pytest.approx(set_distance(plans, others).fid)
    assert report.sets["ground truth, second sample"]["fid"] < report.sets[rows[0]]["fid"]
    assert set(report.sets[rows[0]]) == {"fid", "kid", "kid_error", "nearest", "diversity"}
    assert 0 < report.sets[rows[0]]["diversity"] < 1
    assert (
        evaluate_model(model, plans, [("ddim", 2)], training_plans=plans, others=plans).sets[
            "ground truth, second sample"
        ]["nearest"]
        == 0
    )
    # By number of rooms, the parts add up to the whole.
    for name, row in report.by_rooms.items():
        counts = [scores["graph_errors"].count for scores in row.values()]
        total = sum(scores["graph_errors"].mean * scores["graph_errors"].count for scores in row.values())
        assert sorted(row) == sorted({plan.num_rooms for plan in plans})
        assert total / sum(counts) == pytest.approx(report.scores[name]["graph_errors"].mean)
    assert "best of 2, finished" in report.table()
    assert json.loads(json.dumps(report.to_dict()))["sets"] == report.sets


@pytest.mark.parametrize(
    ("runs", "seeds", "message"),
    [
        ([], (0,), "runs: expected at least one"),
        ([("ddim", 2)], (), "seeds: expected at least one"),
        ([("ddim", 2), ("ddim", 2)], (0,), "one is there twice"),
        ([("ddim", 2)], (0, 1, 0), "seeds: scores are pooled over them, but one is there twice"),
        ([("ddim", 2), ("ddim", 0)], (0,), "steps: expected 1 to 1000, found 0"),
    ],
)
def test_runs_that_mean_nothing_stop_before_the_work(plans, runs, seeds, message):
    class Untouched(HouseDiffusion):
        def draw(self, requests, **_):
            raise AssertionError("drew plans for a run that cannot be")

    with pytest.raises(ValueError, match=message):
        evaluate_model(Untouched(tiny_model().config), plans, runs, seeds=seeds)


def test_the_report_is_told_after_every_run(plans):
    told = []
    report = evaluate_model(
        tiny_model(),
        plans[:1],
        [("ddim", 1), ("ddim", 2)],
        on_run=lambda found: told.append(json.dumps(found.to_dict())),
    )
    first, last = map(json.loads, told)
    assert list(first["scores"]) == list(first["by_rooms"]) == ["ground truth", "ddim, 1 steps"]
    assert first["seconds_per_plan"].keys() == {"ddim, 1 steps"}
    assert last == json.loads(json.dumps(report.to_dict()))
    assert last["scores"]["ddim, 1 steps"] == first["scores"]["ddim, 1 steps"]

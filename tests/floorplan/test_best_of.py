"""Best of N: right graphs first, then the stated score; the same every time; honest where nothing is right."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from trifold.floorplan.checking import SEED_STRIDE, Checked, best_of, check, cost, quality
from trifold.floorplan.diagram import BubbleDiagram, RoomSpec
from trifold.floorplan.errors import FloorplanError, FloorplanWarning
from trifold.floorplan.evaluation import asked_of
from trifold.floorplan.finished import FinishedPlan, FinishReport
from trifold.floorplan.metrics import GraphErrors
from trifold.floorplan.model import HouseDiffusion, PlanRequest
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.procedural import ProceduralConfig, generate_plan
from trifold.floorplan.rooms import RoomType

from .conftest import rectangle
from .tiny import tiny_model


def _shaken(plan: Plan, size: float, seed: int = 0) -> Plan:
    rng = np.random.default_rng(seed)
    nodes = tuple(replace(n, polygon=n.polygon + size * rng.standard_normal(n.polygon.shape)) for n in plan.nodes)
    return replace(plan, nodes=nodes)


def _with_lost_doors(plan: Plan, count: int) -> Plan:
    """The first `count` doors moved far out of the building."""
    nodes = list(plan.nodes)
    for d in range(count):
        node = nodes[plan.num_rooms + d]
        nodes[plan.num_rooms + d] = replace(node, polygon=node.polygon + 1000.0)
    return replace(plan, nodes=tuple(nodes))


class Painter(HouseDiffusion):
    """Draws, for seed `i + k * SEED_STRIDE`, `paintings[k]`."""

    paintings: Sequence[Plan] = ()

    def draw(self, requests: Sequence[PlanRequest], **_: object) -> list[Plan]:
        return [self.paintings[request.seed // SEED_STRIDE] for request in requests]


def _painter(*paintings: Plan) -> Painter:
    model = Painter(tiny_model(with_sizes=True).config)
    model.paintings = paintings
    return model


@pytest.fixture
def truth() -> Plan:
    return generate_plan(3, ProceduralConfig(non_manhattan=0.0))


# ----------------------------------------------------------------------------------------------------------- quality


def test_ground_truth_has_full_quality() -> None:
    for seed in range(10):
        plan = generate_plan(seed, ProceduralConfig(non_manhattan=0.0))
        assert quality(plan, plan.diagram()) == pytest.approx(1, abs=1e-5)
        oblique = generate_plan(seed, ProceduralConfig(non_manhattan=1.0))
        assert quality(oblique, oblique.diagram()) > 0.97  # slanted walls are no fault


def test_quality_by_hand() -> None:
    # Two rooms of 50 m2 share 4 m2, next to one that lies 1 m away and 12 cm lower.
    boxes = [rectangle(0, 0, 10, 5), rectangle(9.2, 0, 19.2, 5), rectangle(20.2, 0.12, 30.2, 5.12)]
    plan = Plan(tuple(Node(RoomType.BEDROOM, box) for box in boxes), (), metres_per_unit=1.0)
    bare = BubbleDiagram(tuple(RoomSpec(RoomType.BEDROOM) for _ in boxes), (), None)
    overlap = 1 / (1 + (4 / 150) / 0.02)
    aligned = 1 / (1 + (20 * 0.12 / 90) / 0.05)  # the third room's 20 m of long walls miss the others' lines
    terms = 3 * 1 + 3 * 1 + 1 / 2 + 2 * overlap + 2 * 1 + aligned
    assert quality(plan, bare) == pytest.approx(terms / 12)
    asked = replace(bare, rooms=(RoomSpec(RoomType.BEDROOM, area=40.0), *bare.rooms[1:]))
    assert quality(plan, asked) == pytest.approx((terms + 2 / (1 + 0.25 / 0.2)) / 14)


def test_quality_falls_with_noise(truth: Plan) -> None:
    diagram = truth.diagram()
    scores = [np.mean([quality(_shaken(truth, size, i), diagram) for i in range(5)]) for size in (0, 0.5, 1, 2, 4, 8)]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[-1] < 0.6 < 0.99 < scores[0] <= 1


def test_finished_plans_are_scored_without_walls_between() -> None:
    boxes = [rectangle(0, 0, 10, 5), rectangle(10.3, 0, 20, 5)]
    plan = Plan(tuple(Node(RoomType.BEDROOM, box) for box in boxes), (), metres_per_unit=1.0)
    assert quality(plan, plan.diagram()) == pytest.approx(1)
    # Without walls that is a slot of 1.5 m2 in an outline of 100, between two parts.
    assert quality(plan, plan.diagram(), wall=0.0) == pytest.approx((11 + 1 / 2 + 2 / (1 + 0.015 / 0.02)) / 14)


# ------------------------------------------------------------------------------------------------------------ choice


def test_a_right_graph_goes_before_a_good_drawing(truth: Plan) -> None:
    tidy_but_wrong, rough_but_right = _with_lost_doors(truth, 1), _shaken(truth, 0.7)
    diagram = asked_of(truth, sizes=False)
    (best,) = best_of(_painter(tidy_but_wrong, rough_but_right, tidy_but_wrong), diagram, num_tries=3)
    assert best.plan == rough_but_right
    assert best.right
    assert best.score < quality(tidy_but_wrong, diagram)
    assert (best.seed, best.tries, best.right_tries) == (SEED_STRIDE, 3, 1)
    assert best.plan is best.drawn
    assert best.finished is None
    assert best.problems == ()


def test_of_right_ones_the_best_drawn_and_of_equals_the_first(truth: Plan) -> None:
    diagram = asked_of(truth, sizes=False)
    rough = _shaken(truth, 0.7)
    (best,) = best_of(_painter(rough, truth, truth), diagram, num_tries=3, seed=5)
    assert (best.plan, best.seed) == (truth, 5 + SEED_STRIDE)
    assert best.right_tries == 3


def test_where_none_is_right_the_least_wrong_comes_and_says_so(truth: Plan) -> None:
    diagram = asked_of(truth, sizes=False)
    model = _painter(_with_lost_doors(truth, 3), _with_lost_doors(truth, 1), _with_lost_doors(truth, 2))
    with pytest.warns(FloorplanWarning, match=r"no try out of 3 has the asked graph for 2 of 2 plans.*right=False"):
        found = best_of(model, diagram, num_plans=2, num_tries=3)
    for i, best in enumerate(found):
        assert not best.right
        assert best.errors == GraphErrors(missing=1, extra=0)
        assert (best.seed, best.right_tries) == (i + SEED_STRIDE, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        best_of(_painter(truth), diagram, num_plans=2, num_tries=1)  # nothing to warn of


def test_finishing_is_judged_after_and_problems_count(truth: Plan) -> None:
    diagram = asked_of(truth, sizes=False)
    rough = _with_lost_doors(truth, 1)

    def finish(plan: Plan) -> FinishedPlan:
        problems = () if plan == rough else ("the front door found no wall",)
        return FinishedPlan(truth, (), (), FinishReport((), problems))

    (best,) = best_of(_painter(truth, rough), diagram, num_tries=2, finish=finish)
    assert best.drawn == rough  # both are right after finishing; this one has no problems
    assert best.plan == truth
    assert best.finished is not None
    assert best.drawn_errors == GraphErrors(1, 0)
    assert best.errors == GraphErrors(0, 0)
    assert best.right_tries == 2
    (other,) = best_of(_painter(truth), diagram, num_tries=1, finish=finish)
    assert other.problems == ("the front door found no wall",)


def test_a_plan_of_other_rooms_is_refused(truth: Plan) -> None:
    with pytest.raises(FloorplanError, match="the diagram has 1 rooms"):
        check(truth, BubbleDiagram((RoomSpec(RoomType.LIVING),), (), 0), 0)


# ------------------------------------------------------------------------------------------------------- whole thing


@pytest.fixture(scope="module")
def diagrams() -> list[BubbleDiagram]:
    return [asked_of(generate_plan(seed, ProceduralConfig(num_rooms=(4, 5))), sizes=False) for seed in range(3)]


@pytest.mark.filterwarnings("ignore::trifold.floorplan.errors.FloorplanWarning")
def test_tries_are_drawn_with_the_stated_seeds(diagrams: list[BubbleDiagram]) -> None:
    model = tiny_model()
    one = best_of(model, diagrams, num_plans=2, num_tries=1, steps=3, seed=7)
    assert [best.plan for best in one] == model.generate(diagrams, 2, steps=3, seed=7)
    assert [best.seed for best in one] == [7, 8] * 3
    many = best_of(model, diagrams, num_plans=2, num_tries=3, steps=3, seed=7)
    for i, best in enumerate(many):
        asked = diagrams[i // 2]
        tries = [
            check(model.generate(asked, steps=3, seed=s)[0], asked, s)
            for s in (7 + i % 2 + k * SEED_STRIDE for k in range(3))
        ]
        assert best == replace(min(tries, key=lambda t: t.rank), tries=3, right_tries=sum(t.right for t in tries))
        assert best.rank <= one[i].rank  # more tries never do worse


@pytest.mark.filterwarnings("ignore::trifold.floorplan.errors.FloorplanWarning")
def test_the_same_again_whatever_is_drawn_beside(diagrams: list[BubbleDiagram]) -> None:
    model = tiny_model()
    three = best_of(model, diagrams[0], num_plans=3, num_tries=2, steps=2)
    assert best_of(model, diagrams[0], num_plans=3, num_tries=2, steps=2) == three
    assert best_of(model, diagrams[0], num_plans=1, num_tries=2, steps=2) == three[:1]
    assert best_of(model, diagrams[0], num_plans=3, num_tries=2, steps=2, batch_tokens=1) == three


@pytest.mark.filterwarnings("ignore::trifold.floorplan.errors.FloorplanWarning")
def test_the_shipped_model_gets_better_with_tries(diagrams: list[BubbleDiagram]) -> None:
    model = HouseDiffusion.from_pretrained("procedural")
    errors = {}
    for tries in (1, 4):
        found = best_of(model, diagrams, num_tries=tries, steps=10)
        errors[tries] = [best.errors.total for best in found]
        assert all(best.seconds > 0 for best in found)
    assert all(four <= one for one, four in zip(errors[1], errors[4], strict=True))


def test_cost_says_what_it_took(truth: Plan) -> None:
    best = Checked(truth, truth, None, GraphErrors(0, 0), GraphErrors(0, 0), 1.0, 0, 4, 3, 1.5)
    wrong = replace(best, errors=GraphErrors(1, 0), right_tries=0, seconds=2.5)
    text = "2 plans, best of 4: 8 drawn, 3 of them right; 1 of 2 results right; 2.00 s per result"
    assert cost([best, wrong]) == text
    assert cost([]).startswith("0 plans, best of 0: 0 drawn")
    assert best == replace(best, seconds=9.0)  # time is no part of what a result is


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"num_plans": 0}, "num_plans: expected 1 to 1000003, found 0"),
        ({"num_plans": SEED_STRIDE + 1}, "num_plans: expected 1 to 1000003, found 1000004"),
        ({"num_tries": 0}, "num_tries: expected at least 1, found 0"),
        ({"steps": 0}, "steps: expected 1 to 1000, found 0"),
        ({"seed": -1}, "seed: expected 0 to 2^63 - 1, found -1"),
    ],
)
def test_wrong_counts_are_named(diagrams: list[BubbleDiagram], counts: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        best_of(tiny_model(), diagrams[0], **counts)

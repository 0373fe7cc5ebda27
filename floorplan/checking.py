"""Best of N with a checker: draw several plans, keep those whose room graph is right, take the best by a stated score.

    for best in best_of(model, diagram, num_plans=8, num_tries=4):
        print(best.right, best.score, best.plan)

Drawing costs `num_tries` times as much; `Checked.seconds` and `cost` say what it took.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .diagram import BubbleDiagram
from .errors import FloorplanWarning
from .geometry_metrics import WALL_METRES, door_in_own_wall, gap_share, misalignment, parts
from .metrics import GraphErrors, area_error, graph_errors, overlap_share, validity
from .plan import Plan

if TYPE_CHECKING:
    from .finished import FinishedPlan
    from .model import HouseDiffusion, PlanRequest, SamplerName

# Try k of plan i has the seed `seed + i + k * SEED_STRIDE`: a plan does not depend on how many are drawn beside it, and
# the first tries are what `generate` draws. Odd, since generators keep 32 bits of a seed and a power of two would soon
# come round to the same ones.
SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Checked:
    """A plan and what the checker found.

    `plan`: the finished plan where there was a finishing step, else as drawn. `drawn`: as drawn. `finished`: with its
    walls, openings and report; None without finishing. `errors`: of the graph of `plan`; `drawn_errors`: of `drawn`.
    `score`: `quality` of `plan`. `seed` draws it again. `tries`: plans drawn for it, of which `right_tries` have the
    asked graph. `seconds`: wall clock for all of them, drawing, finishing and checking; it is no part of equality.
    """

    plan: Plan
    drawn: Plan
    finished: FinishedPlan | None
    errors: GraphErrors
    drawn_errors: GraphErrors
    score: float
    seed: int
    tries: int = 1
    right_tries: int = 0
    seconds: float = field(default=0.0, compare=False)

    @property
    def right(self) -> bool:
        """Whether the doors join exactly the rooms that were asked for, and outside."""
        return self.errors.total == 0

    @property
    def problems(self) -> tuple[str, ...]:
        """What finishing could not put right; empty without finishing."""
        return self.finished.report.problems if self.finished is not None else ()

    @property
    def rank(self) -> tuple[int, int, float, int]:
        """Sorts from best to worst: fewest graph errors, fewest problems, highest score, smallest seed."""
        return self.errors.total, len(self.problems), -self.score, self.seed


def quality(plan: Plan, diagram: BubbleDiagram, *, wall: float = WALL_METRES) -> float:
    """How well a plan is drawn, 0 to 1: the weighted mean of

    - 3 x validity, 3 x doors in their own walls, 1 x 1 / parts of the building,
    - 2 x 1 / (1 + overlap_share / 0.02), 2 x 1 / (1 + gap_share / 0.02), 1 x 1 / (1 + misalignment / 0.05 m),
    - and, where areas were asked for, 2 x 1 / (1 + area_error / 0.2).

    A fault of the size after the stroke halves its term. All terms are those of `metrics` and `geometry_metrics`;
    `wall` is metres, 0 for finished plans. 1.0 is a plan without fault. Nothing in it favours right angles.
    """
    terms = [
        (3.0, validity(plan)),
        (3.0, door_in_own_wall(plan)),
        (1.0, 1 / max(parts(plan, wall=wall), 1)),
        (2.0, 1 / (1 + overlap_share(plan) / 0.02)),
        (2.0, 1 / (1 + gap_share(plan, wall=wall) / 0.02)),
        (1.0, 1 / (1 + misalignment(plan) / 0.05)),
    ]
    if any(room.area is not None for room in diagram.rooms):
        terms.append((2.0, 1 / (1 + area_error(plan, diagram) / 0.2)))
    return sum(weight * value for weight, value in terms) / sum(weight for weight, _ in terms)


def check(
    drawn: Plan, diagram: BubbleDiagram, seed: int, *, finish: Callable[[Plan], FinishedPlan] | None = None
) -> Checked:
    """Finish a plan, if there is a step for it, and judge the result. Raises `FloorplanError` if the numbers of rooms
    differ."""
    finished = finish(drawn) if finish is not None else None
    plan = finished.plan if finished is not None else drawn
    drawn_errors = graph_errors(drawn, diagram)
    errors = graph_errors(plan, diagram) if finished is not None else drawn_errors
    score = quality(plan, diagram, wall=WALL_METRES if finished is None else 0.0)
    return Checked(plan, drawn, finished, errors, drawn_errors, score, seed, right_tries=int(errors.total == 0))


def draw_tries(
    model: HouseDiffusion, requests: Sequence[PlanRequest], num_tries: int, **drawing: Any
) -> list[list[tuple[PlanRequest, Plan]]]:
    """Draw every request `num_tries` times; each request's tries with their plans, in the order of the requests.

    Try 0 is the request itself, try k has its seed and k x `SEED_STRIDE` more, and with it corner counts of its own.
    drawing: as for `HouseDiffusion.draw`. Raises ValueError for a number of tries that is not positive.
    """
    if num_tries < 1:
        raise ValueError(f"num_tries: expected at least 1, found {num_tries}")
    tries = [
        one if k == 0 else model.request(one.diagram, one.seed + k * SEED_STRIDE)
        for one in requests
        for k in range(num_tries)
    ]
    pairs = list(zip(tries, model.draw(tries, **drawing), strict=True))
    return [pairs[i : i + num_tries] for i in range(0, len(pairs), num_tries)]


def best_try(tries: Sequence[Checked]) -> Checked:
    """The first by rank, with the number of tries and of those that are right."""
    best = min(tries, key=lambda one: one.rank)
    return replace(best, tries=len(tries), right_tries=sum(one.right for one in tries))


def best_of(
    model: HouseDiffusion,
    diagram: BubbleDiagram | Sequence[BubbleDiagram],
    num_plans: int = 1,
    num_tries: int = 4,
    *,
    steps: int = 20,
    sampler: SamplerName = "sde-dpmsolver++",
    seed: int = 0,
    discrete: bool = True,
    finish: Callable[[Plan], FinishedPlan] | None = None,
    batch_tokens: int = 8192,
    progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
) -> list[Checked]:
    """Draw each plan `num_tries` times and give back the best try.

    Tries whose graph is right (`metrics.graph_errors`, after finishing) go before all others; among them those with
    fewer problems, then the higher `quality`. Where no try is right the best of the wrong ones comes back: its `right`
    is False, and a `FloorplanWarning` says for how many plans that was so.

    The same arguments give the same plans. Try 0 of plan i is plan i of `model.generate(diagram, seed=seed)`, and more
    tries only add to fewer: graph errors never grow with `num_tries`.

    Args:
        model: draws the plans.
        diagram: what to draw. For several, results come back diagram after diagram.
        num_plans: results per diagram.
        num_tries: plans drawn for each result.
        steps, sampler, discrete, batch_tokens, progress: as for `HouseDiffusion.generate`.
        seed: try k of plan i is drawn with `seed + i + k * SEED_STRIDE`.
        finish: finishing step that every try goes through, such as `finishing.finish`; None judges plans as drawn.

    Raises:
        ValueError: a count that is not positive, or more plans than `SEED_STRIDE`; else as `HouseDiffusion.generate`.
    """
    if not 1 <= num_plans <= SEED_STRIDE:
        raise ValueError(f"num_plans: expected 1 to {SEED_STRIDE}, found {num_plans}")
    diagrams = [diagram] if isinstance(diagram, BubbleDiagram) else list(diagram)
    requests = [model.request(asked, seed + i) for asked in diagrams for i in range(num_plans)]
    begin = time.perf_counter()
    tries = draw_tries(
        model,
        requests,
        num_tries,
        steps=steps,
        sampler=sampler,
        discrete=discrete,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    drawing = (time.perf_counter() - begin) / max(len(requests), 1)
    results: list[Checked] = []
    for row in tries:
        begin = time.perf_counter()
        best = best_try([check(plan, request.diagram, request.seed, finish=finish) for request, plan in row])
        results.append(replace(best, seconds=drawing + time.perf_counter() - begin))
    wrong = [result for result in results if not result.right]
    if wrong:
        text = f"no try out of {num_tries} has the asked graph for {len(wrong)} of {len(results)} plans"
        warnings.warn(f"{text}; the best of the wrong ones is given (right=False)", FloorplanWarning, stacklevel=2)
    return results


def cost(results: Sequence[Checked]) -> str:
    """One line on what results took and how many are right, e.g. "8 plans, best of 4: 32 drawn, 21 of them right; 8 of
    8 results right; 1.90 s per result"."""
    drawn, tried_right = sum(r.tries for r in results), sum(r.right_tries for r in results)
    seconds = sum(r.seconds for r in results) / max(len(results), 1)
    tries = "/".join(str(n) for n in sorted({r.tries for r in results})) or "0"
    return (
        f"{len(results)} plans, best of {tries}: {drawn} drawn, {tried_right} of them right; "
        f"{sum(r.right for r in results)} of {len(results)} results right; {seconds:.2f} s per result"
    )

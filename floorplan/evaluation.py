"""Measuring a model on diagrams it was not trained on, with ground truth's own score beside every number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .diagram import BubbleDiagram
from .metrics import Score, evaluate_plans, summary_table
from .model import HouseDiffusion, SamplerName
from .other_formats import load_plans
from .plan import Plan
from .procedural import HELD_OUT_START, ProceduralPlans


@dataclass(frozen=True)
class Report:
    """Scores by row (`ground truth`, then one per sampler), seconds per plan, and what was measured on what."""

    scores: dict[str, dict[str, Score]]
    seconds_per_plan: dict[str, float]
    about: dict[str, Any]

    def table(self) -> str:
        """A Markdown table, and how long a plan took."""
        times = "\n".join(f"{name}: {seconds:.3f} s per plan" for name, seconds in self.seconds_per_plan.items())
        return f"{summary_table(self.scores)}\n{times}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        scores = {row: {name: asdict(score) for name, score in scores.items()} for row, scores in self.scores.items()}
        return {**self.about, "seconds_per_plan": self.seconds_per_plan, "scores": scores}


def held_out_plans(data: str, num_plans: int) -> list[Plan]:
    """Plans to evaluate on: procedural ones from the held-out seeds, or the first of a file or folder."""
    if num_plans < 1:
        raise ValueError(f"num_plans: expected at least 1, found {num_plans}")
    if data == "procedural":
        source = ProceduralPlans(start=HELD_OUT_START)
        return [source[i] for i in range(num_plans)]
    plans = load_plans(data)
    if len(plans) < num_plans:
        raise ValueError(f"{data}: holds {len(plans)} plans, fewer than num_plans={num_plans}")
    return plans[:num_plans]


def asked_of(plan: Plan, *, sizes: bool) -> BubbleDiagram:
    """What a model is told of a plan: room types and doors, with `sizes` also areas and bounding boxes."""
    diagram = plan.diagram()
    if sizes:
        return diagram
    return replace(diagram, rooms=tuple(replace(room, area=None, size=None) for room in diagram.rooms))


def evaluate_model(
    model: HouseDiffusion,
    plans: Sequence[Plan],
    runs: Sequence[tuple[SamplerName, int]],
    *,
    seeds: Sequence[int] = (0,),
    sizes: bool = False,
    progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
) -> Report:
    """Draw one plan per diagram, run and seed, and score it against the diagram.

    Args:
        model: what is measured.
        plans: ground truth; the diagrams are theirs.
        runs: (sampler, steps) pairs, one row each.
        seeds: a plan's noise seed is `seed * len(plans) + its number`.
        sizes: tell areas and sizes too.
        progress: wraps the steps, as tqdm does.

    Raises:
        ValueError: no runs, no seeds, a run that is there twice, or a number of steps that the model does not have.
    """
    if not runs or not seeds:
        raise ValueError(f"{'seeds' if runs else 'runs'}: expected at least one, found none")
    if len(set(runs)) != len(runs):
        raise ValueError(f"runs: each gets a row of its own, but one is there twice: {list(runs)}")
    for _, steps in runs:
        model.check_steps(steps)
    wanted = [asked_of(plan, sizes=sizes) for plan in plans]
    scores = {"ground truth": evaluate_plans(plans, wanted)}
    seconds = {}
    for sampler, steps in runs:
        drawn: list[Plan] = []
        start = time.perf_counter()
        for seed in seeds:
            requests = [model.request(d, seed * len(plans) + i) for i, d in enumerate(wanted)]
            drawn += model.draw(requests, steps=steps, sampler=sampler, progress=progress)
        row = f"{sampler}, {steps} steps"
        seconds[row] = (time.perf_counter() - start) / len(drawn)
        scores[row] = evaluate_plans(drawn, wanted * len(seeds))
    about = {"plans": len(plans), "seeds": list(seeds), "sizes_told": sizes}
    return Report(scores, seconds, about)

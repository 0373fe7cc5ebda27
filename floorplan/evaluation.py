"""Measuring a model on diagrams it was not trained on, with ground truth's own score beside every number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from .checking import Checked, best_try, check, draw_tries
from .diagram import BubbleDiagram
from .finishing import finish
from .geometry_metrics import WALL_METRES
from .layouts import diversity, nearest_plans
from .model import HouseDiffusion, SamplerName
from .other_formats import load_plans
from .plan import Plan
from .procedural import HELD_OUT_START, ProceduralPlans
from .scores import Measures, Score, markdown, measure, summarised, summary_table
from .set_metrics import check_inception, inception_fid, set_distance

TRUTH = "ground truth"
SECOND = "ground truth, second sample"
DIVERSE = 40  # diagrams under which diversity is measured
NEAREST = 100  # plans for which the nearest training plan is sought
Pairs = Sequence[tuple[Plan, BubbleDiagram]]


@dataclass(frozen=True)
class Report:
    """What was measured on what; it grows with every run.

    scores: by row, `ground truth` and then those of every run: as drawn, best of several, finished, both.
    by_rooms: the same for the diagrams of each number of rooms.
    sets: by row, measures of whole sets: `fid` and `kid` on geometry features against ground truth (`kid_error` is its
    standard error), `inception_fid` if asked for, `diversity` of plans under one diagram, `nearest`: the mean
    `layout_distance` to the nearest training plan.
    seconds_per_plan: of drawing, by run, and of finishing.
    """

    scores: dict[str, dict[str, Score]]
    by_rooms: dict[str, dict[int, dict[str, Score]]]
    sets: dict[str, dict[str, float]]
    seconds_per_plan: dict[str, float]
    about: dict[str, Any] = field(default_factory=dict)

    def table(self) -> str:
        """Markdown: scores, graph errors by number of rooms, measures of sets; and how long a plan took."""
        parts = [summary_table(self.scores), "graph_errors by number of rooms:\n", self._rooms_table()]
        if self.sets:
            parts += ["whole sets against ground truth:\n", self._sets_table()]
        parts.append("\n".join(f"{name}: {seconds:.3f} s per plan" for name, seconds in self.seconds_per_plan.items()))
        return "\n".join(parts)

    def _rooms_table(self) -> str:
        counts = sorted({rooms for row in self.by_rooms.values() for rooms in row})
        lines = [["rooms (plans)", *(f"{n} ({self.by_rooms[TRUTH][n]['graph_errors'].count})" for n in counts)]]
        for name, row in self.by_rooms.items():
            lines.append([name, *(f"{row[n]['graph_errors'].mean:.2f}" if n in row else "-" for n in counts)])
        return markdown(lines)

    def _sets_table(self) -> str:
        names = list(dict.fromkeys(name for row in self.sets.values() for name in row))
        lines = [["", *names]]
        for label, row in self.sets.items():
            lines.append([label, *(f"{row[name]:.3f}" if name in row else "-" for name in names)])
        return markdown(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {row: {name: asdict(score) for name, score in scores.items()} for row, scores in self.scores.items()}
        rooms = {
            row: {n: {name: asdict(score) for name, score in scores.items()} for n, scores in counts.items()}
            for row, counts in self.by_rooms.items()
        }
        return {
            **self.about,
            "seconds_per_plan": self.seconds_per_plan,
            "scores": plain,
            "by_rooms": rooms,
            "sets": self.sets,
        }


def held_out_plans(data: str, num_plans: int, *, split: str | None = None) -> list[Plan]:
    """Plans to evaluate on: procedural ones from the held-out seeds, or the first of a file or folder (of a split)."""
    if num_plans < 1:
        raise ValueError(f"num_plans: expected at least 1, found {num_plans}")
    plans = _plans(data, num_plans, split)
    if len(plans) < num_plans:
        raise ValueError(f"{data}: holds {len(plans)} plans, fewer than num_plans={num_plans}")
    return plans


def second_sample(data: str, num_plans: int, *, split: str | None = None) -> list[Plan]:
    """As many plans after those of `held_out_plans`, or as many as there are: ground truth is measured against itself
    with them."""
    return _plans(data, 2 * num_plans, split)[num_plans:]


def _plans(data: str, most: int, split: str | None) -> list[Plan]:
    if data == "procedural":
        if split is not None:
            raise ValueError(f"split: procedural plans carry none, found {split!r}")
        source = ProceduralPlans(start=HELD_OUT_START)
        return [source[i] for i in range(most)]
    return load_plans(data, split=split)[:most]


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
    best_of: int = 1,
    finished: bool = False,
    others: Sequence[Plan] = (),
    training_plans: Sequence[Plan] = (),
    inception: bool = False,
    progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
    on_run: Callable[[Report], None] | None = None,
) -> Report:
    """Draw plans for every diagram, run and seed, and score them against the diagrams.

    Args:
        model: what is measured.
        plans: ground truth; the diagrams are theirs.
        runs: (sampler, steps) pairs; each gives rows of its own.
        seeds: a plan's noise seed is `seed * len(plans) + its number`.
        sizes: tell areas and sizes too.
        best_of: draw each plan so often, and add a row for the best by `checking.Checked.rank`.
        finished: add rows for finished plans, and one for finished ground truth. Measured without walls between rooms.
        others: other plans of the data (`second_sample`); they say what ground truth scores in the measures of sets.
        training_plans: plans the model learnt from, for the distance to the nearest.
        inception: also measure the FID of Inception features, see `set_metrics.inception_fid`.
        progress: wraps the steps, as tqdm does.
        on_run: called after every run with the report so far, to keep what is there.

    Raises:
        ValueError: no runs, no seeds, one that is there twice, or a number of steps that the model does not have.
        ImportError: `inception` without what it needs.
    """
    if not runs or not seeds:
        raise ValueError(f"{'seeds' if runs else 'runs'}: expected at least one, found none")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: scores are pooled over them, but one is there twice: {list(seeds)}")
    if len(set(runs)) != len(runs):
        raise ValueError(f"runs: each gets a row of its own, but one is there twice: {list(runs)}")
    for _, steps in runs:
        model.check_steps(steps)
    if inception:
        check_inception()
    wanted = [asked_of(plan, sizes=sizes) for plan in plans]
    rows = _Rows(plans, wanted, others, training_plans, finished=finished, inception=inception)
    seconds: dict[str, float] = {}
    about = {"plans": len(plans), "seeds": list(seeds), "sizes_told": sizes, "best_of": best_of}
    report = Report(rows.scores, rows.by_rooms, rows.sets, seconds, about)
    for sampler, steps in runs:
        name = f"{sampler}, {steps} steps"
        requests = [model.request(d, seed * len(plans) + i) for seed in seeds for i, d in enumerate(wanted)]
        start = time.perf_counter()
        tries = draw_tries(model, requests, best_of, steps=steps, sampler=sampler, progress=progress)
        seconds[name] = (time.perf_counter() - start) / (len(requests) * best_of)
        under_one = [[plan for _, plan in row] for row in tries[:DIVERSE]] if best_of > 1 else []
        rows.add(name, [(row[0][1], row[0][0].diagram) for row in tries], under_one=under_one)
        if best_of > 1:
            best = [best_try([check(plan, r.diagram, r.seed) for r, plan in row]) for row in tries]
            rows.add(f"{name}, best of {best_of}", _judged(best, tries))
        if finished:
            start = time.perf_counter()
            done = [[check(plan, r.diagram, r.seed, finish=finish) for r, plan in row] for row in tries]
            seconds["finishing and checking"] = (time.perf_counter() - start) / (len(requests) * best_of)
            rows.add(f"{name}, finished", _judged([row[0] for row in done], tries), wall=0.0)
            if best_of > 1:
                best = [best_try(row) for row in done]
                rows.add(f"{name}, best of {best_of}, finished", _judged(best, tries), wall=0.0)
        if on_run is not None:
            on_run(report)
    return report


def _judged(checked: Sequence[Checked], tries: Sequence[Sequence[tuple[Any, Plan]]]) -> Pairs:
    return [(one.plan, row[0][0].diagram) for one, row in zip(checked, tries, strict=True)]


class _Rows:
    """The rows of a report while they are gathered; ground truth's come first."""

    def __init__(
        self,
        plans: Sequence[Plan],
        wanted: Sequence[BubbleDiagram],
        others: Sequence[Plan],
        training_plans: Sequence[Plan],
        *,
        finished: bool,
        inception: bool,
    ) -> None:
        self.scores: dict[str, dict[str, Score]] = {}
        self.by_rooms: dict[str, dict[int, dict[str, Score]]] = {}
        self.sets: dict[str, dict[str, float]] = {}
        self.training_plans, self.inception = training_plans, inception
        # Sets are compared in one convention: finished plans with finished ground truth.
        self.real = {WALL_METRES: list(plans)}
        self.add(TRUTH, list(zip(plans, wanted, strict=True)), drawn=False)
        if finished:
            self.real[0.0] = [finish(plan).plan for plan in plans]
            self.add(f"{TRUTH}, finished", list(zip(self.real[0.0], wanted, strict=True)), wall=0.0, drawn=False)
        if others and (scores := self._set_scores(others, self.real[WALL_METRES])):
            self.sets[SECOND] = scores

    def add(
        self,
        name: str,
        pairs: Pairs,
        *,
        wall: float = WALL_METRES,
        under_one: Sequence[Sequence[Plan]] = (),
        drawn: bool = True,
    ) -> None:
        """Score a row of plans with their diagrams. under_one: for each of some diagrams, plans drawn for it.
        drawn: False for ground truth itself, which is not compared with itself."""
        measures = [measure(plan, diagram, wall=wall) for plan, diagram in pairs]
        self.scores[name] = summarised(measures)
        grouped: dict[int, list[Measures]] = {}
        for (_, diagram), one in zip(pairs, measures, strict=True):
            grouped.setdefault(diagram.num_rooms, []).append(one)
        self.by_rooms[name] = {rooms: summarised(grouped[rooms]) for rooms in sorted(grouped)}
        if drawn:
            scores = self._set_scores([plan for plan, _ in pairs], self.real[wall])
            if under_one:
                scores["diversity"] = float(np.mean([diversity(plans) for plans in under_one]))
            if scores:
                self.sets[name] = scores

    def _set_scores(self, plans: Sequence[Plan], real: Sequence[Plan]) -> dict[str, float]:
        scores: dict[str, float] = {}
        if min(len(plans), len(real)) >= 3:
            distance = set_distance(real, plans)
            scores |= {"fid": distance.fid, "kid": distance.kid.value, "kid_error": distance.kid.error}
        if self.inception:
            scores["inception_fid"] = inception_fid(real, plans)
        if self.training_plans:
            found = nearest_plans(plans[:NEAREST], self.training_plans)
            scores["nearest"] = float(np.mean([neighbour.distance for neighbour in found]))
        return scores

"""Scores of sets of plans: every measure of every plan, their means and spread, and the tables that are printed.

Report what ground truth scores beside every number: `summary_table` expects it as a row.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .compatibility import MAX_NODES, house_diffusion_compatibility
from .diagram import BubbleDiagram
from .errors import FloorplanError
from .geometry_metrics import WALL_METRES, geometry_measures
from .lattice import on_lattice
from .metrics import (
    area_error,
    connected_from_entrance,
    graph_errors,
    manhattan_share,
    overlap_share,
    validity,
)
from .plan import Plan

# name -> (better direction, digits in tables)
COLUMNS = {
    "graph_errors": ("↓", 2),
    "validity": ("↑", 3),
    "overlap_share": ("↓", 3),
    "gap_share": ("↓", 3),
    "door_in_own_wall": ("↑", 3),
    "connected": ("↑", 3),
    "room_count_match": ("↑", 3),
    "type_match": ("↑", 3),
    "area_error": ("↓", 3),
    "misalignment": ("↓", 3),
    "manhattan_share": ("", 3),
    "compatibility": ("↓", 2),
    "compatibility_paper": ("↓", 2),
    # Measured, and written to json, but in no table.
    "missing": ("↓", 2),
    "extra": ("↓", 2),
    "overlapping_pairs": ("↓", 2),
    "parts": ("↓", 2),
    "all_reachable": ("↑", 3),
    "total_area_error": ("↓", 3),
    "axis_deviation": ("", 2),
}
IN_TABLES = tuple(COLUMNS)[: tuple(COLUMNS).index("missing")]


@dataclass(frozen=True)
class Score:
    """Mean and standard deviation (over plans, divisor n) of a measure, and the number of plans it exists for."""

    mean: float
    std: float
    count: int


Measures = Mapping[str, float]


def measure(plan: Plan, diagram: BubbleDiagram, *, wall: float = WALL_METRES, lattice: bool = False) -> Measures:
    """Every measure of one plan that exists for it, by the names of `COLUMNS`.

    wall: metres between rooms that are taken for a wall, 0 for finished plans (`geometry_metrics`).
    compatibility (HouseDiffusion's estimate against all edges) and compatibility_paper (with its row bug) need doors
    that overlap their rooms: plans with exact walls must first go through the original's raster, which `lattice=True`
    does (needs OpenCV; a plan that loses a node there has no such measure).
    """
    errors = graph_errors(plan, diagram)
    measured = {
        "graph_errors": errors.total,
        "missing": errors.missing,
        "extra": errors.extra,
        "validity": validity(plan),
        "overlap_share": overlap_share(plan),
        "connected": connected_from_entrance(plan),
        "manhattan_share": manhattan_share(plan),
        "area_error": area_error(plan, diagram),
        **geometry_measures(plan, diagram, wall=wall),
    }
    drawn: Plan | None = plan
    if lattice:
        try:
            drawn = on_lattice(plan)
        except FloorplanError:
            drawn = None
    if drawn is not None:
        measured["compatibility"] = house_diffusion_compatibility(drawn, row_bug=False)
        if len(plan.nodes) <= MAX_NODES:
            measured["compatibility_paper"] = house_diffusion_compatibility(drawn, row_bug=True)
    return {name: float(value) for name, value in measured.items() if not math.isnan(value)}


def summarised(measures: Iterable[Measures]) -> dict[str, Score]:
    """Mean and spread of every measure over plans, in the order of `COLUMNS`; a plan without one does not count."""
    rows: defaultdict[str, list[float]] = defaultdict(list)
    for measured in measures:
        for name, value in measured.items():
            rows[name].append(value)
    return {
        name: Score(float(np.mean(rows[name])), float(np.std(rows[name])), len(rows[name]))
        for name in COLUMNS
        if name in rows
    }


def evaluate_plans(
    plans: Sequence[Plan],
    diagrams: Sequence[BubbleDiagram] | None = None,
    *,
    wall: float = WALL_METRES,
    lattice: bool = False,
) -> dict[str, Score]:
    """Every measure over a set of plans (see `measure`); diagrams are what was asked for (default: each plan's own).

    Raises `FloorplanError` if there are no plans, or not one diagram per plan.
    """
    if not plans:
        raise FloorplanError("no plans; expected at least one", source="evaluation", field="plans")
    if diagrams is not None and len(diagrams) != len(plans):
        found = f"{len(diagrams)} diagrams for {len(plans)} plans; expected one each"
        raise FloorplanError(found, source="evaluation", field="diagrams")
    asked = diagrams if diagrams is not None else [plan.diagram() for plan in plans]
    return summarised(measure(p, d, wall=wall, lattice=lattice) for p, d in zip(plans, asked, strict=True))


def summary_table(rows: Mapping[str, Mapping[str, Score]], columns: Sequence[str] = IN_TABLES) -> str:
    """A Markdown table with one line per entry of `rows` (name -> `evaluate_plans`), ground truth's among them.

    Cells are `mean ± std`; arrows say which direction is better; measures that no row has are left out.
    """
    names = [name for name in columns if any(name in scores for scores in rows.values())]
    lines = [["", "plans", *(f"{name} {COLUMNS[name][0]}".strip() for name in names)]]
    for label, scores in rows.items():
        cells = [label, str(max((score.count for score in scores.values()), default=0))]
        for name in names:
            digits, score = COLUMNS[name][1], scores.get(name)
            cells.append(f"{score.mean:.{digits}f} ± {score.std:.{digits}f}" if score else "-")
        lines.append(cells)
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of text cells; the first line is the head, the first column its labels."""
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "".join("| " + " | ".join(line) + " |\n" for line in (lines[0], rule, *lines[1:]))

"""Every metric of two sets of clouds at once, with its convention and its uncertainty beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..errors import PointCloudError
from .chamfer import chamfer_matrix
from .emd import Cost
from .generation import (
    SetDistances,
    coverage,
    minimum_matching_distance,
    nearest_neighbour_accuracy,
    sample_matching_distance,
)
from .inputs import Clouds, cloud_set
from .jsd import Grid, jensen_shannon_divergence
from .legacy_emd import legacy_emd_matrix
from .local import density_aware_matrix, f_score, normal_concordance
from .parallel import ProgressCallback, run_all
from .pruned import nearest_emd

Metric = Literal["cd", "emd", "emd_squared", "emd_pointflow", "emd_pvd", "dcd", "jsd", "normals", "f_score"]
DEFAULT_METRICS: tuple[Metric, ...] = ("cd", "emd", "jsd", "normals")

CONVENTIONS: dict[str, str] = {
    "cd": "Chamfer: mean squared nearest distance a to b plus b to a",
    "emd": "exact EMD: mean distance of the best matching",
    "emd_squared": "exact EMD: mean squared distance of the best matching",
    "emd_pointflow": "PointFlow's approximate EMD (mean distance, last level skipped)",
    "emd_pvd": "PVD's approximate EMD (mean squared distance)",
    "dcd": "density-aware Chamfer, alpha 1000, squared distances",
}


@dataclass(frozen=True)
class Score:
    """One number. better: "lower", "higher", or "near" the value `ideal`. low, high: confidence interval, if any."""

    value: float
    better: Literal["lower", "higher", "near"]
    convention: str
    low: float | None = None
    high: float | None = None
    ideal: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Scores by name of `num_generated` clouds against `num_reference`. solved_share: of pairs, by exact EMD's name."""

    scores: dict[str, Score]
    num_generated: int
    num_reference: int
    solved_share: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def evaluate_sets(
    generated: Clouds,
    reference: Clouds,
    *,
    metrics: Sequence[Metric] = DEFAULT_METRICS,
    emd_points: int | None = None,
    emd_state: Path | None = None,
    threshold: float | None = None,
    jsd_grid: Grid = "fit",
    confidence: float = 0.95,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """The chosen metrics of generated clouds against references, in one coordinate system and unit.

    Per pairwise distance ("cd", "emd", ...): `mmd_*`, `mmd_sample_*`, `cov_*` and `1nna_*` (with its interval), see
    `generation`. "jsd": `jsd`. "normals" and "f_score": mean over generated clouds against their nearest reference by
    Chamfer distance, which is always computed for them; the F-score's `threshold` is 1 % of the longest side of the
    references' common box by default.

    emd_points: exact EMD on that many points of each cloud, drawn without replacement (seed 0) where it has more. It
    costs about their number to the power 2.5, and the value rises as it falls: say so beside the number.
    emd_state: file in which an exact EMD search is kept (`nearest_emd`); the name of each is added to it.
    Raises `PointCloudError` for bad clouds and unknown names.
    """
    known = get_args(Metric)
    if not metrics or not set(metrics) <= set(known):
        raise PointCloudError(f"metrics: expected some of {', '.join(known)}; found {list(metrics)}")
    samples, refs = cloud_set(generated, "generated"), cloud_set(reference, "reference")
    scores: dict[str, Score] = {}
    solved: dict[str, float] = {}
    chamfers: SetDistances | None = None

    def between(measure: Callable[..., np.ndarray], **options: Any) -> SetDistances:
        # As they were given: tensors on a GPU are compared there where a measure can.
        pairs = ((reference, generated), (reference, None), (generated, None))
        return SetDistances(*(measure(*pair, workers=workers, progress=progress, **options) for pair in pairs))

    if any(name in metrics for name in ("cd", "normals", "f_score")):
        chamfers = between(chamfer_matrix)
        if "cd" in metrics:
            scores |= distance_scores(chamfers, "cd", CONVENTIONS["cd"], confidence)
    for name in ("emd", "emd_squared"):
        if name in metrics:
            cost: Cost = "distance" if name == "emd" else "squared"
            state = emd_state.with_name(f"{emd_state.stem}_{name}.npz") if emd_state is not None else None
            chosen = [_subsampled(clouds, emd_points) for clouds in (samples, refs)]
            found = nearest_emd(*chosen, cost=cost, workers=workers, state=state, progress=progress)
            note = f" ({emd_points} points)" if emd_points is not None else ""
            scores |= distance_scores(found.distances, name, CONVENTIONS[name] + note, confidence)
            solved[name] = found.share
    for name, kernel in (("emd_pointflow", "pointflow"), ("emd_pvd", "pvd")):
        if name in metrics:
            scores |= distance_scores(between(legacy_emd_matrix, kernel=kernel), name, CONVENTIONS[name], confidence)
    if "dcd" in metrics:
        scores |= distance_scores(between(density_aware_matrix), "dcd", CONVENTIONS["dcd"], confidence)
    if "jsd" in metrics:
        scores["jsd"] = Score(
            jensen_shannon_divergence(samples, refs, grid=jsd_grid), "lower", f"JSD in bits, 28^3 grid, {jsd_grid}"
        )
    if chamfers is not None:
        near = chamfers.ref_sample.argmin(0)
        pairs = [(sample, refs[r]) for sample, r in zip(samples, near, strict=True)]
        if "normals" in metrics:
            agree = run_all(lambda pair: normal_concordance(*pair), pairs, workers=workers)
            convention = "mean |cos| of estimated normals, against the nearest reference by Chamfer"
            scores["normal_concordance"] = Score(float(np.mean(agree)), "higher", convention)
        if "f_score" in metrics:
            limit = threshold if threshold is not None else 0.01 * float(np.ptp(np.concatenate(refs), axis=0).max())
            agree = run_all(lambda pair: f_score(*pair, limit).score, pairs, workers=workers)
            convention = f"F-score at {limit:.4g}, against the nearest reference by Chamfer"
            scores["f_score"] = Score(float(np.mean(agree)), "higher", convention)
    return Evaluation(scores, len(samples), len(refs), solved)


def distance_scores(distances: SetDistances, name: str, convention: str, confidence: float = 0.95) -> dict[str, Score]:
    """`mmd_`, `mmd_sample_`, `cov_` and `1nna_` of one pairwise distance."""
    nna = nearest_neighbour_accuracy(distances, confidence=confidence)
    return {
        f"mmd_{name}": Score(minimum_matching_distance(distances), "lower", convention),
        f"mmd_sample_{name}": Score(sample_matching_distance(distances), "lower", convention),
        f"cov_{name}": Score(coverage(distances), "higher", convention),
        f"1nna_{name}": Score(nna.accuracy, "near", convention, nna.low, nna.high, nna.chance),
    }


def _subsampled(clouds: list[np.ndarray], num_points: int | None) -> list[np.ndarray]:
    if num_points is None:
        return clouds
    if num_points < 1:
        raise PointCloudError(f"emd_points: expected at least 1, found {num_points}")
    generator = np.random.default_rng(0)
    return [
        cloud[generator.choice(len(cloud), num_points, replace=False)] if len(cloud) > num_points else cloud
        for cloud in clouds
    ]


def summary_table(rows: Mapping[str, Evaluation]) -> str:
    """A Markdown table, one line per entry of `rows`; put a second sample of the ground truth among them.

    Shares (COV, 1-NNA) are in percent, 1-NNA with its interval; arrows say which way is better. The conventions stand
    below.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row.scores))
    first = {name: next(row.scores[name] for row in rows.values() if name in row.scores) for name in names}
    arrows = {"lower": "↓", "higher": "↑", "near": "→"}

    def heading(name: str) -> str:
        score = first[name]
        ideal = f"{100 * score.ideal:.0f}" if score.ideal is not None else ""
        return f"{name} {arrows[score.better]}{ideal}"

    lines = [["", "clouds", *map(heading, names)], ["---", *["---:"] * (len(names) + 1)]]
    for label, row in rows.items():
        cells = [_cell(name, row.scores.get(name)) for name in names]
        lines.append([label, f"{row.num_generated} / {row.num_reference}", *cells])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    derived = ("cov_", "1nna_", "mmd_sample_")  # their convention is the one of MMD
    told = [
        f"- {name.removeprefix('mmd_')}: {first[name].convention}" for name in names if not name.startswith(derived)
    ]
    return f"{table}\n\n" + "\n".join(told) + "\n"


def _cell(name: str, score: Score | None) -> str:
    if score is None:
        return "-"
    if not name.startswith(("cov_", "1nna_")):
        return f"{score.value:.4g}"
    if score.low is None or score.high is None:
        return f"{100 * score.value:.1f} %"
    return f"{100 * score.value:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"

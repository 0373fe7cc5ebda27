"""Measuring a model on clouds it was not trained on, a second sample of ground truth beside every number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from .cloud import PointCloud
from .errors import PointCloudError
from .generator import Drawing, Generator, check_drawing, classes_of, draw
from .items import CloudSource, Split
from .metrics import Evaluation, evaluate_sets
from .metrics.parallel import ProgressCallback
from .metrics.report import DEFAULT_METRICS, Metric
from .metrics.search_state import cloud_digests
from .normalise import Normalisation, NormalisationMode
from .sources import PROCEDURAL, open_source

GROUND_TRUTH = "ground truth"
SHARES = ("cov_", "1nna_")
NEW_SETS = 1 << 20  # where the sets of new references begin, beyond those of second samples


@dataclass(frozen=True)
class Measuring:
    """What is compared, and how."""

    data: str = PROCEDURAL
    """Data set that references come from, as `open_source` knows them."""
    split: Split = "test"
    """Its split; the second sample of ground truth is other procedural shapes, of other data its train split."""
    up: Literal["y", "z"] = "y"
    """The axis of the data that points up; z is turned to y, as in training."""
    num_clouds: int = 100
    """Clouds of each class and side; all there are where a class has fewer. Of a folder of clouds the first so many."""
    new_references: bool = False
    """Each seed is compared with other references, so that the spread over seeds is theirs too; the procedural data
    has as many as are asked for, other data one test split."""
    num_points: int = 2048
    """Points of each; of the clouds of a folder so many are drawn."""
    normalisation: NormalisationMode = "none"
    """Both sides are normalised so before they are compared; Luo & Hu publish shape_bbox. global and global_unit take
    the mean and deviation of the references, for both sides."""
    metrics: tuple[Metric, ...] = DEFAULT_METRICS
    """See `metrics.evaluate_sets`."""
    emd_points: int | None = None
    """Exact EMD on so many points of each cloud; None: all."""
    workers: int | None = None
    """Threads; None: one per core."""


@dataclass
class Report:
    """Rows of evaluations, one for each seed: by class, then by what was measured. Written to a file as it grows."""

    measuring: Measuring
    rows: dict[str, dict[str, list[Evaluation]]] = field(default_factory=dict)
    seconds_per_cloud: dict[str, float] = field(default_factory=dict)

    def add(self, class_name: str, row: str, found: Evaluation) -> None:
        """One more seed of a row."""
        self.rows.setdefault(class_name, {}).setdefault(row, []).append(found)

    def time(self, row: str, seconds: float) -> None:
        """Take the seconds per cloud of a class whose seeds were added into the row's mean over classes."""
        classes = sum(row in of for of in self.rows.values())
        before = self.seconds_per_cloud.get(row, 0.0)
        self.seconds_per_cloud[row] = before + (seconds - before) / classes

    def mean(self, row: str, metric: str) -> float:
        """Mean over seeds and classes."""
        return fmean(e.scores[metric].value for of in self.rows.values() for e in of.get(row, []))

    def table(self) -> str:
        """Markdown: means over seeds (± their standard deviation), then the mean over classes. Shares in percent."""
        every = [e for of in self.rows.values() for found in of.values() for e in found]
        names = list(dict.fromkeys(name for e in every for name in e.scores))
        arrows = {"lower": "↓", "higher": "↑", "near": "→50"}
        heads = [f"{name} {arrows[next(e.scores[name] for e in every if name in e.scores).better]}" for name in names]
        lines = [["", "", "clouds", *heads], ["---", "---", *["---:"] * (len(names) + 1)]]
        for class_name, of in self.rows.items():
            for row, found in of.items():
                count = f"{found[0].num_generated} / {found[0].num_reference}"
                lines.append([class_name, row, count, *(_cell(name, found) for name in names)])
        if len(self.rows) > 1:
            for row in dict.fromkeys(row for of in self.rows.values() for row in of):
                found = [of[row] for of in self.rows.values() if row in of]
                means = [fmean(fmean(e.scores[name].value for e in seeds) for seeds in found) for name in names]
                cells = [_number(name, value) for name, value in zip(names, means, strict=True)]
                lines.append(["**mean**", row, "", *cells])
        times = [f"{row}: {seconds:.3f} s per cloud" for row, seconds in self.seconds_per_cloud.items()]
        return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", *times])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = {name: {row: [asdict(e) for e in found] for row, found in of.items()} for name, of in self.rows.items()}
        return {"measuring": asdict(self.measuring), "seconds_per_cloud": self.seconds_per_cloud, "rows": rows}


def _number(name: str, value: float) -> str:
    return f"{100 * value:.1f}" if name.startswith(SHARES) else f"{value:.4g}"


def _cell(name: str, found: Sequence[Evaluation]) -> str:
    values = [e.scores[name].value for e in found if name in e.scores]
    if not values:
        return "-"
    spread = f" ± {_number(name, stdev(values))}" if len(values) > 1 else ""
    return _number(name, fmean(values)) + spread


def evaluate_model(
    model: Generator | Sequence[PointCloud] | None,
    classes: Sequence[str],
    drawings: Sequence[Drawing],
    measuring: Measuring,
    *,
    seeds: Sequence[int] = (0,),
    name: str = "model",
    ground_truth: bool = True,
    progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
    on_pairs: ProgressCallback | None = None,
    emd_folder: Path | None = None,
    report: Report | None = None,
    on_class: Callable[[Report], None] | None = None,
) -> Report:
    """Draw as many clouds of each class as there are references and compare them, for each of the `seeds`.

    Args:
        model: what is measured: a generator, or clouds at hand, of which as many as there are references are taken,
            each with `num_points` of its points; None measures ground truth alone.
        classes: of the data; a model that knows no classes is asked for shapes of any.
        drawings: sampling settings, one row each.
        name: of the model in the table.
        ground_truth: also a row for a second sample of the data.
        emd_folder: where searches for exact EMD are kept, each by its clouds, so that the same call after an
            interruption goes on; None: nowhere.
        report: rows go into this one, to put several models into one table.
        on_class: called after every class, to keep what is there.
    Raises PointCloudError: as `check_evaluation`; a class the data does not know, or with fewer than two clouds; a
    second sample where the references are all there is.
    """
    check_evaluation(model, classes, drawings, measuring, seeds)
    titled = [(drawing.title(model), drawing) for drawing in drawings] if isinstance(model, Generator) else []
    report = report or Report(measuring)
    known = classes_of(model) if isinstance(model, Generator) else ()
    given = _resized(model, measuring.num_points) if isinstance(model, Sequence) else None
    for class_name in classes:
        sets = [NEW_SETS + seed for seed in seeds] if measuring.new_references else [0]
        references = [held_out(measuring, class_name, number) for number in sets]
        compared = [_Comparison(measuring, clouds, on_pairs, emd_folder) for clouds in references]
        count = len(compared[0].references)
        pairs = list(zip(seeds, compared if measuring.new_references else compared * len(seeds), strict=True))
        if ground_truth:
            for seed, compare in pairs:
                others = second_sample(measuring, class_name, compare.references, seed)
                report.add(class_name, GROUND_TRUTH, compare(others))
        if given is not None:
            for compare in compared:
                report.add(class_name, name, compare(given[:count]))
        for title, drawing in titled:
            assert isinstance(model, Generator)
            row = f"{name}: {title}"
            spent = 0.0
            for seed, compare in pairs:
                start = time.perf_counter()
                drawn = draw(
                    model,
                    count,
                    drawing,
                    class_name=class_name if known else None,
                    seed=seed * 1_000_000,
                    progress=progress,
                )
                spent += time.perf_counter() - start
                report.add(class_name, row, compare(drawn))
            report.time(row, spent / (len(seeds) * count))
        if on_class is not None:
            on_class(report)
    return report


def check_evaluation(
    model: Generator | Sequence[PointCloud] | None,
    classes: Sequence[str],
    drawings: Sequence[Drawing],
    measuring: Measuring,
    seeds: Sequence[int],
) -> None:
    """What `evaluate_model` refuses before it reads any data.

    Raises PointCloudError: no seeds; a seed, class or drawing that is there twice; new references of data that has
    none; a class or a setting of a drawing that the model does not know; a cloud with fewer than `num_points` points.
    """
    if not seeds:
        raise PointCloudError("seeds: expected at least one, found none")
    if measuring.new_references and measuring.data != PROCEDURAL:
        raise PointCloudError(f"new_references: {measuring.data} has one test split, only {PROCEDURAL} data has more")
    titles = [drawing.title(model) for drawing in drawings] if isinstance(model, Generator) else []
    for what, given in (("seeds", seeds), ("classes", classes), ("drawings", titles)):
        if twice := sorted({str(one) for one in given if list(given).count(one) > 1}):
            raise PointCloudError(f"{what}: {', '.join(twice)} is there twice")
    if isinstance(model, Generator):
        known = classes_of(model)
        unknown = sorted(set(classes) - set(known))
        if known and unknown:
            raise PointCloudError(f"classes: the model knows {', '.join(known)}; found {', '.join(unknown)}")
        for drawing in drawings:
            check_drawing(model, drawing)
    elif model is not None:
        _resized(model, measuring.num_points)


def check_data(measuring: Measuring, classes: Sequence[str]) -> None:
    """Raises PointCloudError for a class that the data does not know or has fewer than two clouds of in the split."""
    for class_name in classes:
        _check_count(measuring, class_name, len(_opened(measuring, measuring.split, class_name, seed=0)))


def _check_count(measuring: Measuring, class_name: str, found: int) -> None:
    if found < 2:
        raise PointCloudError(f"{measuring.data}: {class_name}: expected at least two clouds, found {found}")


def _resized(clouds: Sequence[PointCloud], num_points: int) -> list[PointCloud]:
    """`num_points` points of each cloud, by its place in the list."""
    return [cloud.subsampled(num_points, i) for i, cloud in enumerate(clouds)]


def row_names(models: Sequence[str]) -> list[str]:
    """The last part of each path or id, with as many parts before it as tell them apart. Raises PointCloudError for a
    model that is named twice."""
    parts = [Path(model).parts for model in models]
    for model, own in zip(models, parts, strict=True):
        if parts.count(own) > 1:
            raise PointCloudError(f"models: {model} is named twice")

    def short(own: tuple[str, ...]) -> str:
        for length in range(1, len(own)):
            if sum(other[-length:] == own[-length:] for other in parts) == 1:
                return Path(*own[-length:]).as_posix()
        return Path(*own).as_posix()

    return [short(own) for own in parts]


def held_out(measuring: Measuring, class_name: str, number: int = 0) -> list[PointCloud]:
    """The references of a class: the first of its split, of procedural data of set `number`. Raises PointCloudError for
    fewer than two."""
    source = _opened(measuring, measuring.split, class_name, seed=number)
    clouds = _first(source, measuring.num_clouds)
    _check_count(measuring, class_name, len(clouds))
    return clouds


def second_sample(
    measuring: Measuring, class_name: str, references: Sequence[PointCloud], seed: int
) -> list[PointCloud]:
    """Ground truth that is not the references, as many if there are: other shapes of the same generator, or of the
    train split. Raises PointCloudError where the references are all there is."""
    if measuring.data == PROCEDURAL:
        return _first(_opened(measuring, measuring.split, class_name, seed=1 + seed), len(references))
    source = _opened(measuring, "train", class_name, seed=0)
    taken = {cloud.name for cloud in references}  # the references may be of the train split themselves
    drawn = (_cloud(source, int(i)) for i in np.random.default_rng([71, seed]).permutation(len(source)))
    others = list(islice((cloud for cloud in drawn if cloud.name not in taken), len(references)))
    if not others:
        text = f"all {len(source)} clouds of the train split are references, none is left for a second sample"
        raise PointCloudError(f"{measuring.data}: {class_name}: {text}; lower num_clouds or take another split")
    return others


def _opened(measuring: Measuring, split: Split, class_name: str, seed: int) -> CloudSource:
    return open_source(
        measuring.data,
        split=split,
        classes=[class_name],
        num_points=measuring.num_points,
        seed=seed,
        up=measuring.up,
    )


def _first(source: CloudSource, count: int) -> list[PointCloud]:
    return [_cloud(source, i) for i in range(min(count, len(source)))]


def _cloud(source: CloudSource, index: int) -> PointCloud:
    item = source[index]
    return PointCloud(item.points, None, item.name)


class _Comparison:
    def __init__(
        self,
        measuring: Measuring,
        references: Sequence[PointCloud],
        on_pairs: ProgressCallback | None = None,
        emd_folder: Path | None = None,
    ) -> None:
        self.measuring, self.on_pairs, self.references = measuring, on_pairs, references
        self.emd_folder = emd_folder
        self.rule = Normalisation.fit(measuring.normalisation, references)
        self.normal_references = self._normal(references)

    def _normal(self, clouds: Sequence[PointCloud]) -> list[np.ndarray]:
        return [self.rule.apply(cloud.points)[0] for cloud in clouds]

    def __call__(self, clouds: Sequence[PointCloud]) -> Evaluation:
        normal = self._normal(clouds)
        state = None
        if self.emd_folder is not None:
            self.emd_folder.mkdir(parents=True, exist_ok=True)
            _, key = cloud_digests([*self.normal_references, *normal], f"{self.measuring.emd_points} points")
            state = self.emd_folder / key[:20]
        return evaluate_sets(
            normal,
            self.normal_references,
            metrics=self.measuring.metrics,
            emd_points=self.measuring.emd_points,
            workers=self.measuring.workers,
            progress=self.on_pairs,
            emd_state=state,
        )


def load_clouds(folder: Path, num_points: int) -> list[PointCloud]:
    """Every cloud of a folder in the order of their names. Meshes beside clouds are left out, for they are the same
    shapes where `generate --mesh` wrote the folder; of a folder of meshes alone, `num_points` points of each are drawn.
    Raises PointCloudError for none, and for a file that cannot be read."""
    from .cloud_files import READ, is_shape_file, read_geometry

    paths = sorted(path for path in folder.iterdir() if is_shape_file(path))
    if not paths:
        raise PointCloudError(f"{folder}: no clouds; expected files {', '.join(READ)}")
    found = [read_geometry(path) for path in paths]
    clouds = [shape for shape in found if isinstance(shape, PointCloud)]
    return clouds or [PointCloud.load(path, num_points=num_points, seed=i) for i, path in enumerate(paths)]

"""The report: every metric under its name, with conventions and intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.metrics import (
    SetDistances,
    chamfer_matrix,
    evaluate_sets,
    minimum_matching_distance,
    summary_table,
)


def spheres(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 80, 3))
    return points / np.linalg.norm(points, axis=2, keepdims=True) * rng.uniform(0.4, 1, size=(count, 1, 1))


EVERYTHING = ("cd", "emd", "emd_squared", "emd_pointflow", "emd_pvd", "dcd", "jsd", "normals", "f_score")


def test_every_metric_has_a_value_a_convention_and_plain_json(tmp_path: Path) -> None:
    generated, reference = spheres(4, 0), spheres(5, 1)
    result = evaluate_sets(generated, reference, metrics=EVERYTHING, emd_points=50, emd_state=tmp_path / "state.npz")
    distances = SetDistances(*(chamfer_matrix(*s) for s in ((reference, generated), (reference,), (generated,))))
    assert result.scores["mmd_cd"].value == minimum_matching_distance(distances)
    for name in ("cd", "emd", "emd_squared", "emd_pointflow", "emd_pvd", "dcd"):
        nna = result.scores[f"1nna_{name}"]
        assert nna.low is not None
        assert nna.high is not None
        assert nna.low <= nna.value <= nna.high
        assert nna.ideal == pytest.approx((5 * 4 + 4 * 3) / (9 * 8))
    assert all(np.isfinite(score.value) and score.convention for score in result.scores.values())
    assert "(50 points)" in result.scores["mmd_emd"].convention
    assert 0 < result.solved_share["emd"] <= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state_emd.npz", "state_emd_squared.npz"]
    assert json.loads(json.dumps(result.to_dict()))["scores"]["jsd"]["better"] == "lower"


def test_a_copy_of_the_references_is_ideal() -> None:
    reference = spheres(4, 0)
    scores = evaluate_sets(reference, reference, metrics=("cd", "jsd", "normals", "f_score")).scores
    assert scores["mmd_cd"].value == 0
    assert scores["cov_cd"].value == 1
    assert scores["1nna_cd"].value == 0.5
    assert scores["jsd"].value == 0
    assert scores["normal_concordance"].value == pytest.approx(1)
    assert scores["f_score"].value == 1


def test_table_has_a_line_a_model_and_the_conventions() -> None:
    reference = spheres(4, 0)
    rows = {
        "ours": evaluate_sets(spheres(4, 1), reference, metrics=("cd", "jsd")),
        "ground truth": evaluate_sets(spheres(4, 2), reference, metrics=("cd",)),
    }
    lines = summary_table(rows).splitlines()
    assert lines[0].startswith("|  | clouds | mmd_cd ↓ |")
    assert "1nna_cd →43" in lines[0]
    assert lines[2].startswith("| ours | 4 / 4 |")
    assert lines[3].endswith("| - |")
    assert "%" in lines[2]
    assert lines[-2].startswith("- cd: Chamfer")
    assert lines[-1].startswith("- jsd: ")


def test_bad_requests() -> None:
    with pytest.raises(PointCloudError, match="metrics: expected some of cd, emd"):
        evaluate_sets(spheres(2, 0), spheres(2, 1), metrics=("fid",))  # type: ignore[arg-type]
    with pytest.raises(PointCloudError, match="emd_points"):
        evaluate_sets(spheres(2, 0), spheres(2, 1), metrics=("emd",), emd_points=0)
    with pytest.raises(PointCloudError, match="generated: no clouds"):
        evaluate_sets([], spheres(2, 1))

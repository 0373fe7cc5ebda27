"""What is compared with what: sizes of both sides, their normalisation, the second sample; what is refused early."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from trifold.cli.main import main
from trifold.pointcloud import PointCloud, commands, evaluation
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.evaluation import (
    GROUND_TRUTH,
    Measuring,
    Report,
    evaluate_model,
    held_out,
    load_clouds,
    second_sample,
)
from trifold.pointcloud.generator import Drawing
from trifold.pointcloud.luo_hu import FlowVAE, FlowVAEConfig
from trifold.pointcloud.metrics import pruned
from trifold.pointcloud.shapes import make_shape

from .tiny_points import tiny_model

CD = {"metrics": ("cd",)}


def clouds(count: int, points: int, seed: int = 0, offset: float = 0.0) -> list[PointCloud]:
    drawn = np.random.default_rng(seed).normal(size=(count, points, 3)) + offset
    return [PointCloud(cloud.astype(np.float32), name=f"cloud-{i}") for i, cloud in enumerate(drawn)]


def data_file(path: Path, split: list[int], points: int = 24) -> str:
    stored = np.stack([cloud.points for cloud in clouds(len(split), points, seed=5)])
    np.savez(path, points=stored, split=np.array(split))
    return str(path)


# ------------------------------------------------------------------------------------------------ clouds at hand


def test_given_clouds_get_the_size_and_number_of_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clouds of other sizes give other distances."""
    seen = []
    monkeypatch.setattr(
        evaluation, "evaluate_sets", lambda generated, reference, **_: seen.append((generated, reference))
    )
    measuring = Measuring(num_clouds=3, num_points=16, **CD)
    given = clouds(7, 50)
    evaluate_model(given, ["mug"], [], measuring, ground_truth=False)
    ((generated, reference),) = seen
    assert [len(cloud) for cloud in generated] == [len(cloud) for cloud in reference] == [16, 16, 16]
    for drawn, cloud in zip(generated, given, strict=False):
        assert len(np.unique(drawn, axis=0)) == 16
        assert {tuple(row) for row in drawn} < {tuple(row) for row in cloud.points}
    evaluate_model(given, ["mug"], [], measuring, ground_truth=False)
    np.testing.assert_array_equal(seen[0][0], seen[1][0])


def test_a_given_cloud_with_too_few_points_is_named() -> None:
    given = [*clouds(2, 16), PointCloud(np.eye(3), name="small")]
    with pytest.raises(PointCloudError, match="small: num_points: expected 1 to 3, found 16"):
        evaluate_model(given, ["mug"], [], Measuring(num_clouds=2, num_points=16, **CD))


def test_meshes_beside_clouds_are_left_out_and_meshes_alone_are_sampled(tmp_path: Path) -> None:
    for i, cloud in enumerate(clouds(2, 30)):
        cloud.save(tmp_path / f"cloud-{i}.ply")
        make_shape("mug", i).mesh.save(tmp_path / f"mesh-{i}.glb")
    assert [cloud.name for cloud in load_clouds(tmp_path, 20)] == ["cloud-0", "cloud-1"]
    for i in range(2):
        (tmp_path / f"cloud-{i}.ply").unlink()
    sampled = load_clouds(tmp_path, 20)
    assert [(cloud.name, cloud.num_points) for cloud in sampled] == [("mesh-0", 20), ("mesh-1", 20)]


def test_a_packaged_name_is_no_folder_of_clouds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "procedural").mkdir()
    for i, cloud in enumerate(clouds(2, 16)):
        cloud.save(tmp_path / "procedural" / f"{i}.ply")
    monkeypatch.chdir(tmp_path)
    words = ["--num-clouds", "2", "--num-points", "16", "--classes", "mug", "--metrics", "cd", "--steps", "1"]
    assert main(["pointcloud", "evaluate", "procedural", *words]) == 0
    assert "| procedural: dpmsolver++, 1 steps |" in capsys.readouterr().out
    assert main(["pointcloud", "evaluate", "./procedural", *words]) == 0
    assert "| procedural | 2 / 2 |" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ normalisation


@pytest.mark.parametrize("mode", ["global", "global_unit"])
def test_global_normalisation_takes_the_statistics_of_the_references(mode: str) -> None:
    plain = Measuring(num_clouds=3, num_points=20, **CD)
    references = np.stack([cloud.points for cloud in held_out(plain, "mug")]).astype(np.float64)
    own = references - references.mean(axis=1, keepdims=True) if mode == "global_unit" else references
    given = [PointCloud(3 * cloud.astype(np.float32)) for cloud in own]
    found = {}
    for normalisation in ("none", mode):
        measuring = dataclasses.replace(plain, normalisation=normalisation)
        found[normalisation] = evaluate_model(given, ["mug"], [], measuring).rows["mug"]
    if mode == "global":  # one shift and scale for both sides: squared distances are in other units
        for row in (GROUND_TRUTH, "model"):
            before, after = (found[name][row][0].scores["mmd_cd"].value for name in ("none", mode))
            assert after == pytest.approx(before / references.var(), rel=1e-4)
    else:
        shifted = [PointCloud(cloud.points + np.float32(7)) for cloud in given]
        measuring = dataclasses.replace(plain, normalisation="global_unit")
        again = evaluate_model(shifted, ["mug"], [], measuring, ground_truth=False).rows["mug"]["model"][0]
        assert again.scores["mmd_cd"].value == pytest.approx(found[mode]["model"][0].scores["mmd_cd"].value, rel=1e-3)
        doubled = evaluation._Comparison(measuring, held_out(plain, "mug"), None)
        assert np.concatenate(doubled.normal_references).std() == pytest.approx(1, abs=0.1)


# ------------------------------------------------------------------------------------------------ second sample


def test_the_second_sample_has_none_of_the_references(tmp_path: Path) -> None:
    measuring = Measuring(data_file(tmp_path / "data.npz", [0] * 12), "train", num_clouds=4, num_points=24, **CD)
    references = held_out(measuring, "data")
    assert [cloud.name for cloud in references] == ["0", "1", "2", "3"]
    for seed in range(4):
        names = {cloud.name for cloud in second_sample(measuring, "data", references, seed)}
        assert len(names) == 4
        assert not names & {"0", "1", "2", "3"}
    assert evaluate_model(None, ["data"], [], measuring).mean(GROUND_TRUTH, "mmd_cd") > 0.1
    with pytest.raises(PointCloudError, match=r"all 12 clouds of the train split are references.*lower num_clouds"):
        evaluate_model(None, ["data"], [], dataclasses.replace(measuring, num_clouds=100))


# ---------------------------------------------------------------------------------------------- times and order


def test_seconds_per_cloud_are_a_mean_over_classes() -> None:
    report = Report(Measuring())
    for class_name, seconds in (("chair", 1.0), ("mug", 2.0), ("table", 6.0)):
        report.add(class_name, "model", None)  # type: ignore[arg-type]
        report.time("model", seconds)
    assert report.seconds_per_cloud == {"model": pytest.approx(3.0)}


def test_the_last_model_is_checked_before_the_first_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model().save_pretrained(tmp_path / "points")
    FlowVAE(FlowVAEConfig(latent_dim=8, num_steps=4, flow_depth=2, flow_hidden_dim=8)).save_pretrained(
        tmp_path / "luo-hu"
    )
    models = [str(tmp_path / "points"), str(tmp_path / "luo-hu")]
    words = ["--num-clouds", "2", "--num-points", "16", "--metrics", "cd", "--out", str(tmp_path / "scores.json")]
    stored = {"points": np.ones((4, 16, 3)), "split": np.ones(4, int), "label": [0, 0, 0, 1]}
    np.savez(tmp_path / "data.npz", classes=np.array(["mug", "chair"]), **stored)
    data = ["--data", str(tmp_path / "data.npz"), "--classes", "mug"]
    for more, message in (
        (["--samplers", "heun", "--steps", "2"], "a model of Luo & Hu has ddpm"),
        (["--steps", "5"], "steps: this model has 4, found 5"),
        (["--guidance-scale", "2"], "this model has no guidance"),
        ([*data, "table"], "no class 'table'; known: mug, chair"),
        ([*data, "chair"], "chair: expected at least two clouds, found 1"),
    ):
        assert main(["pointcloud", "evaluate", *models, *words, *more]) == 1
        assert message in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "scores.json").exists()


def test_the_rows_of_both_models_are_there(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        for i, cloud in enumerate(clouds(3, 40, seed)):
            cloud.save(tmp_path / name / f"{i}.npy")
    words = ["--num-clouds", "2", "--num-points", "16", "--metrics", "cd", "--classes", "mug"]
    models = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["pointcloud", "evaluate", *models, *words, "--out", str(tmp_path / "scores.json")]) == 0
    rows = json.loads((tmp_path / "scores.json").read_text())["rows"]["mug"]
    assert {row: (one["num_generated"], one["num_reference"]) for row, (one,) in rows.items()} == {
        GROUND_TRUTH: (2, 2),
        "a": (2, 2),
        "b": (2, 2),
    }


def test_a_killed_evaluation_goes_on_with_its_exact_emd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, states = tmp_path / "scores.json", tmp_path / "scores.emd"
    (tmp_path / "mine").mkdir()
    for i, cloud in enumerate(clouds(4, 24)):
        cloud.save(tmp_path / "mine" / f"{i}.npy")
    words = ["--num-clouds", "4", "--num-points", "24", "--metrics", "emd", "--classes", "mug", "--workers", "1"]
    solve, solved, most = pruned.solve, [0], [10**9]

    def counted(*args: object) -> float:
        if solved[0] == most[0]:
            raise KeyboardInterrupt
        solved[0] += 1
        return solve(*args)  # type: ignore[arg-type]

    def run(limit: int, *more: str) -> tuple[int, int]:
        solved[0], most[0] = 0, limit
        status = main(["pointcloud", "evaluate", str(tmp_path / "mine"), *words, *more, "--out", str(out)])
        return status, solved[0]

    monkeypatch.setattr(pruned, "solve", counted)
    status, all_pairs = run(10**9)
    assert (status, states.exists()) == (0, False)
    whole = json.loads(out.read_text())["rows"]
    assert run(all_pairs - 3) == (130, all_pairs - 3)
    assert len(list(states.glob("*_emd.npz"))) == 2
    assert run(2, "--emd-points", "12")[0] == 130  # other settings find other states
    status, rest = run(10**9)
    assert status == 0
    assert 0 < rest <= 3 + 4  # a thread may have been at work on some
    assert json.loads(out.read_text())["rows"] == whole
    assert not states.exists()


def test_a_bar_for_every_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[list[int]] = []

    class Bar:
        def __init__(self, *, total: int, **_: object) -> None:
            self.total, self.n = total, 0
            bars.append([])

        def update(self, count: int) -> None:
            self.n += count
            bars[-1].append(self.n)

        def close(self) -> None:
            bars[-1].append(-1)

    monkeypatch.setattr(commands, "tqdm", Bar)
    measuring = Measuring(num_clouds=3, num_points=16, metrics=("cd", "emd"), workers=1)
    comparing = commands._Comparing()
    evaluate_model(None, ["mug"], [], measuring, on_pairs=comparing)
    comparing.close()
    assert bars[:3] == [[1, 2, 3, 4, 5, 6, -1], [1, 2, 3, -1], [1, 2, 3, -1]]
    assert len(bars) > 3
    assert all(bar[-1] == -1 for bar in bars)


def test_a_drawing_the_model_does_not_have_is_told_before_the_data_is_read() -> None:
    measuring = Measuring("no such file", num_points=16, **CD)
    with pytest.raises(PointCloudError, match="steps: expected at least 1, found 0"):
        evaluate_model(tiny_model(), ["mug"], [Drawing(16, steps=0)], measuring)

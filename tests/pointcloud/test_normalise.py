"""Normalisation: the numbers of the original, and the way back to the data's units."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import pytest
import torch
from trifold.common.pretrained import config_from_dict
from trifold.pointcloud.cloud import PointCloud
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.normalise import Normalisation, NormalisationMode

from .golden import notes, scaled_error, tensors

SYNSETS = {"airplane": "02691156", "chair": "03001627"}
MODES: list[Any] = list(get_args(NormalisationMode))


def original_items() -> list[torch.Tensor]:
    """The training clouds [32, 3] in the order in which the original yields them."""
    order = notes()["dataset"]["order_of_train_items"]
    return [tensors()[f"dataset/raw/{SYNSETS[category]}/train"][row] for category, row in order]


def whole_data_set() -> torch.Tensor:
    splits = ("train", "val", "test")
    return torch.cat([tensors()[f"dataset/raw/{synset}/{split}"] for synset in SYNSETS.values() for split in splits])


@pytest.mark.parametrize("mode", ["None", "global_unit", "shape_unit", "shape_half", "shape_34", "shape_bbox"])
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_the_data_set_of_the_original(mode: str, library: str) -> None:
    rule = Normalisation.fit("none" if mode == "None" else mode, whole_data_set())  # type: ignore[arg-type]
    stored = torch.stack(original_items())
    batch = rule.apply(stored if library == "torch" else stored.numpy())  # type: ignore[arg-type]
    for found, field in zip(batch, ("pointcloud", "shift", "scale"), strict=True):
        recorded = tensors()[f"dataset/{mode}/{field}"]
        assert scaled_error(torch.as_tensor(found).reshape(recorded.shape), recorded) < 2e-6, field


def test_the_statistics_of_the_original() -> None:
    statistics = notes()["dataset"]["stats"]
    rule = Normalisation.fit("global_unit", whole_data_set())
    assert scaled_error(list(rule.shift), statistics["mean"]) < 1e-6
    assert rule.scale == pytest.approx(statistics["std"], rel=1e-6)


@pytest.mark.parametrize("mode", ["shape_unit", "shape_bbox"])
def test_the_normalisation_before_the_originals_metrics(mode: NormalisationMode) -> None:
    found, _, _ = Normalisation(mode).apply(tensors()["normalize/input"])
    assert scaled_error(found, tensors()[f"normalize/{mode}"]) < 2e-6


def test_each_mode_on_a_cloud_worked_by_hand() -> None:
    # Mean (1, 0, 0), box 2 x 0 x 0. All coordinates: 0 0 0 2 0 0, mean 1/3, squares 10/3, unbiased variance 2/3.
    cloud = np.array([[0, 0, 0], [2, 0, 0]], dtype=np.float32)
    deviation = (2 / 3) ** 0.5
    expected: dict[Any, float] = {"shape_unit": 1, "shape_half": 0.5, "shape_34": 0.75}
    for mode, part in expected.items():
        points, shift, scale = Normalisation(mode).apply(cloud)
        np.testing.assert_allclose(points, [[-part / deviation, 0, 0], [part / deviation, 0, 0]], rtol=1e-6)
        np.testing.assert_allclose(shift, [[1, 0, 0]])
        np.testing.assert_allclose(scale, [[deviation / part]], rtol=1e-6)
    np.testing.assert_array_equal(Normalisation("shape_bbox").apply(cloud)[0], [[-1, 0, 0], [1, 0, 0]])
    # PointFlow divides by the number of coordinates: variance 10/3 / 6 = 5/9, from the mean of the data set.
    rule = Normalisation.fit("global", [cloud])
    assert (rule.mode, rule.shift) == ("global", (1.0, 0.0, 0.0))
    assert rule.scale == pytest.approx((5 / 9) ** 0.5)


@pytest.mark.parametrize("mode", MODES)
def test_there_and_back(mode: NormalisationMode) -> None:
    clouds = torch.randn(4, 30, 3, generator=torch.Generator().manual_seed(0)) * 3 + torch.tensor([5.0, -1.0, 0.5])
    rule = Normalisation.fit(mode, clouds)
    normalised, shift, scale = rule.apply(clouds)
    assert shift.shape == (4, 1, 3)
    assert scale.shape == (4, 1, 1)
    torch.testing.assert_close(rule.restore(normalised, shift, scale), clouds, atol=1e-5, rtol=1e-5)
    for i, cloud in enumerate(clouds):  # a batch is its clouds
        torch.testing.assert_close(rule.apply(cloud)[0], normalised[i])
    restored = rule.restore(normalised)
    assert restored.dtype == torch.float32
    np.testing.assert_allclose(rule.restore(normalised.numpy()), restored.numpy(), rtol=1e-6, atol=1e-6)
    # Put back by the statistics alone, the clouds as a whole lie where the data lies and are as large.
    torch.testing.assert_close(restored.mean((0, 1)), clouds.mean((0, 1)), atol=0.35, rtol=0)
    assert float(restored.std()) == pytest.approx(float(clouds.std()), rel=0.15)


def test_statistics_are_those_of_numpy_whatever_the_sizes_of_the_clouds() -> None:
    rng = np.random.default_rng(0)
    clouds = [(100 + rng.standard_normal((n, 3))).astype(np.float32) for n in (1, 7, 300)]
    rule = Normalisation.fit("global", [PointCloud(clouds[0]), clouds[1], torch.from_numpy(clouds[2])])
    together = np.concatenate(clouds).astype(np.float64)
    np.testing.assert_allclose(rule.shift, together.mean(axis=0), rtol=1e-9)
    assert rule.scale == pytest.approx(together.std(), rel=1e-9)
    assert Normalisation.fit("global_unit", clouds).scale == pytest.approx(together.std(ddof=1), rel=1e-9)


def test_statistics_travel_in_a_models_config() -> None:
    rule = Normalisation.fit("shape_unit", whole_data_set())
    saved = asdict(rule)
    saved["shift"] = list(saved["shift"])  # as json gives it back
    assert config_from_dict(Normalisation, saved, "config.json") == rule


def test_what_has_no_scale_is_refused() -> None:
    same = np.ones((5, 3), dtype=np.float32)
    for mode in ("shape_unit", "shape_half", "shape_34", "shape_bbox"):
        with pytest.raises(PointCloudError, match="cloud 1: all points coincide"):
            Normalisation(mode).apply(np.stack([np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]], same]))  # type: ignore[arg-type]
    assert np.array_equal(Normalisation("global_unit").apply(same)[0], np.zeros((5, 3)))
    with pytest.raises(PointCloudError, match="all coordinates of the data set are equal"):
        Normalisation.fit("global", [same])
    with pytest.raises(PointCloudError, match="at least one cloud"):
        Normalisation.fit("global", [])
    with pytest.raises(PointCloudError, match=r"cloud 1 of the training set: .*all points coincide"):
        Normalisation.fit("shape_unit", [np.eye(3, dtype=np.float32), same])
    for bad in (np.nan, np.inf):
        with pytest.raises(PointCloudError, match="NaN or infinity"):
            Normalisation().apply(np.full((4, 3), bad, dtype=np.float32))
    for array in (np.zeros((4, 2), dtype=np.float32), np.zeros((0, 3), dtype=np.float32), np.zeros((4, 3), dtype=int)):
        with pytest.raises(PointCloudError, match=r"expected floats \[..., N, 3\]"):
            Normalisation().apply(array)


def test_settings_are_checked() -> None:
    for values, message in [
        ({"mode": "unit"}, "expected one of shape_unit.*found 'unit'"),
        ({"mode": "global", "scale": 0.0}, "positive"),
        ({"mode": "global", "scale": float("nan")}, "positive"),
        ({"mode": "global", "shift": (0.0, float("inf"), 0.0)}, "finite"),
        ({"mode": "none", "scale": 2.0}, "'none' has shift 0"),
    ]:
        with pytest.raises(PointCloudError, match=message):
            Normalisation(**values)  # type: ignore[arg-type]

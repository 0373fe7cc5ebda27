"""Prepared training clouds: normalised, shuffled, cached, and told where data does not fit."""

import numpy as np
import pytest
import torch
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.normalise import Normalisation
from trifold.pointcloud.training_data import TrainingClouds, prepare_clouds

from .tiny_points import Sheets


def test_clouds_are_normalised_shuffled_and_counted():
    clouds = prepare_clouds(Sheets(), "global")
    assert clouds.points.shape == (9, 24, 3)
    assert clouds.points.dtype == torch.float16
    assert clouds.normalisation == Normalisation.fit("global", Sheets())
    assert clouds.class_counts == (3, 3, 3)
    back = clouds.normalisation.restore(clouds.points[4].float()).numpy()
    original = Sheets()[4].points
    order = np.abs(back[:, None] - original).max(-1).argmin(0)
    assert sorted(order) == list(range(24))
    assert list(order) != list(range(24))
    np.testing.assert_allclose(back[order], original, atol=0.02)


def test_clouds_do_not_depend_on_the_processes_that_read_them():
    one, two = (prepare_clouds(Sheets(), "shape_unit", num_clouds=5, num_workers=n) for n in (0, 2))
    assert torch.equal(one.points, two.points)
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(prepare_clouds(Sheets(), "none", num_clouds=4, in_order=True).labels, torch.arange(4) % 3)


def test_a_cache_is_read_only_for_what_it_was_made_from(tmp_path):
    clouds = prepare_clouds(Sheets(), "global")
    clouds.save(tmp_path / "clouds.npz", {"data": "sheets"})
    loaded = TrainingClouds.load(tmp_path / "clouds.npz", "global", {"data": "sheets"})
    assert torch.equal(loaded.points, clouds.points)
    assert (loaded.classes, loaded.normalisation) == (clouds.classes, clouds.normalisation)
    with pytest.raises(PointCloudError, match=r"clouds\.npz: holds clouds made from .*sheets.*; delete the file"):
        TrainingClouds.load(tmp_path / "clouds.npz", "global", {"data": "chairs"})
    whole = (tmp_path / "clouds.npz").read_bytes()
    (tmp_path / "clouds.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PointCloudError, match=r"clouds\.npz: not a file of prepared clouds"):
        TrainingClouds.load(tmp_path / "clouds.npz", "global", {"data": "sheets"})


def test_data_that_cannot_be_prepared_is_told():
    with pytest.raises(PointCloudError, match="found 20 to 24 points"):
        prepare_clouds(Sheets(sizes=(24, 20)), "global")
    with pytest.raises(PointCloudError, match="no end"):
        prepare_clouds(Sheets(count=2**31), "global")
    assert len(prepare_clouds(Sheets(count=2**31), "none", num_clouds=3)) == 3

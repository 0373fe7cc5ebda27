"""The point transformer that ships: its size, and that its shapes are those of the class, on held-out shapes."""

import numpy as np
import pytest
from trifold.pointcloud import PointCloud, PointDiffusion
from trifold.pointcloud.metrics import chamfer_matrix
from trifold.pointcloud.sampling import sample_surface
from trifold.pointcloud.shapes import CATEGORIES, ProceduralClouds
from trifold.pointcloud.training import procedural_small

EACH = 4


@pytest.fixture(scope="module")
def model() -> PointDiffusion:
    return PointDiffusion.from_pretrained("procedural")


@pytest.fixture(scope="module")
def drawn(model) -> list[PointCloud]:
    names = [name for name in CATEGORIES for _ in range(EACH)]
    return model.generate(len(names), 512, class_name=names, steps=20)


def test_it_is_small_and_is_what_the_preset_trains(model):
    folder = PointDiffusion.packaged_folder("procedural")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8_000_000
    preset = procedural_small().model
    for part in ("net", "encoder", "prior", "latent_dim"):
        assert getattr(model.config, part) == getattr(preset, part)
    assert model.config.class_names == CATEGORIES


def test_a_shape_is_nearest_to_held_out_shapes_of_its_class(drawn):
    source = ProceduralClouds("test", 30 * len(CATEGORIES), num_points=512)
    items = [source[i] for i in range(len(source))]
    labels = np.array([item.label for item in items])
    nearest = chamfer_matrix([item.points for item in items], [cloud.points for cloud in drawn]).argmin(0)
    told = np.repeat(np.arange(len(CATEGORIES)), EACH)
    assert (labels[nearest] == told).mean() >= 0.8
    assert [cloud.name for cloud in drawn] == [CATEGORIES[i] for i in told]


def test_shapes_of_a_class_differ_and_a_seed_gives_one_shape(model, drawn):
    again = model.generate(2, 512, class_name=CATEGORIES[0], steps=20)
    np.testing.assert_allclose(again[1].points, drawn[1].points, atol=1e-4)
    chairs = [cloud.points for cloud in drawn if cloud.name == "chair"]
    assert chamfer_matrix(chairs, chairs)[np.triu_indices(EACH, 1)].min() > 1e-3


def test_any_number_of_points_and_a_closed_mesh(model):
    (table,) = model.generate(1, 1500, class_name="table", steps=10, seed=3)
    assert table.num_points == 1500
    mesh = table.to_mesh(resolution=48)
    assert mesh.is_watertight
    points = sample_surface(mesh, 2000, 0)[0]
    low, high = (np.quantile(table.points, q, axis=0) for q in (0.02, 0.98))
    assert (np.quantile(points, 0.98, axis=0) - np.quantile(points, 0.02, axis=0) > 0.7 * (high - low)).all()


def test_a_shape_goes_through_its_latent(model):
    source = ProceduralClouds("test", 12, num_points=1024)
    clouds = [PointCloud(source[i].points) for i in range(12)]
    again = model.reconstruct(clouds, 512)
    distances = chamfer_matrix([cloud.points for cloud in clouds], [cloud.points for cloud in again])
    assert (distances.argmin(0) == np.arange(12)).mean() >= 0.5  # by chance one in twelve

"""Procedural clouds as a data set: splits share nothing, items are decided by their index, in any process."""

import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.shapes import CATEGORIES, ProceduralClouds


def test_items_are_labelled_clouds_of_their_category() -> None:
    source = ProceduralClouds("val", num_shapes=7, classes=("mug", "table"), num_points=100)
    assert len(source) == 7
    assert source.classes == ("mug", "table")
    items = list(source)
    assert [item.label for item in items] == [0, 1, 0, 1, 0, 1, 0]
    assert [item.name.split("-")[0] for item in items] == ["mug", "table"] * 3 + ["mug"]
    for item in items:
        assert item.normals is not None
        assert item.points.shape == item.normals.shape == (100, 3)
        assert item.points.dtype == item.normals.dtype == np.float32
        assert np.abs(item.points).max() <= 0.5 + 1e-5


def test_splits_and_seeds_never_share_a_shape() -> None:
    longest = 1 << 24
    ends = []
    for split in ("train", "val", "test"):
        for seed in (0, 1, 2, (1 << 24) - 1):
            source = ProceduralClouds(split, num_shapes=longest, seed=seed)
            ends.append((source.shape_seed(0), source.shape_seed(longest - 1)))
    ends.sort()
    assert all(first[1] < second[0] for first, second in pairwise(ends))
    assert all(last - first == longest - 1 for first, last in ends)


def test_an_item_does_not_depend_on_order_process_or_length() -> None:
    source = ProceduralClouds("train", num_shapes=60, num_points=64)
    late = source[8]
    fresh = pickle.loads(pickle.dumps(ProceduralClouds("train", num_shapes=9, num_points=64)))[8]
    assert np.array_equal(late.points, fresh.points)
    program = (
        "import sys; from trifold.pointcloud.shapes import ProceduralClouds;"
        "item = ProceduralClouds('train', num_shapes=60, num_points=64)[8];"
        "sys.stdout.buffer.write(item.points.tobytes() + item.normals.tobytes())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    assert other == late.points.tobytes() + late.normals.tobytes()


def test_another_drawing_is_the_same_shape_and_another_seed_is_not() -> None:
    first = ProceduralClouds("test", num_shapes=6, num_points=64)
    drawn = ProceduralClouds("test", num_shapes=6, num_points=64, drawing=1)
    second = ProceduralClouds("test", num_shapes=6, num_points=64, seed=1)
    assert first.shape(4).parameters == drawn.shape(4).parameters
    assert not np.isclose(first[4].points, drawn[4].points).all(axis=1).any()
    assert first.shape(4).parameters != second.shape(4).parameters
    assert first.classes == CATEGORIES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "all"}, "split: expected one of train, val, test, found 'all'"),
        ({"num_shapes": 0}, "num_shapes: expected 1 to"),
        ({"classes": ("chair", "sofa")}, "classes: expected different ones of"),
        ({"classes": ("chair", "chair")}, "classes: expected different ones of"),
        ({"classes": ()}, "classes: expected different ones of"),
        ({"classes": "chair"}, "classes: expected different ones of"),
        ({"num_points": 0}, "num_points: expected 1 or more"),
        ({"seed": 1 << 24}, "seed: expected 0 to"),
        ({"drawing": -1}, "drawing: expected 0 or more"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(PointCloudError, match=message):
        ProceduralClouds(**settings)


def test_indices_outside_are_refused() -> None:
    source = ProceduralClouds(num_shapes=3)
    for index in (-1, 3):
        with pytest.raises(IndexError, match="outside 0 to 2"):
            source[index]

"""The original's data pipeline, bit for bit: reader, raster, contours, augmentation, conditions, bits, bays."""

from __future__ import annotations

import builtins
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.lattice import centred_polygons, lattice_masks, lattice_polygons, on_lattice
from trifold.floorplan.original_data import (
    analog_bits,
    corner_histogram,
    draw_corner_counts,
    non_manhattan_polygons,
    original_item,
    rotate_corners,
)
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.rooms import RoomType, is_door, to_rplan_code
from trifold.floorplan.rplan import read_rplan

pytest.importorskip("cv2", reason="the 64-pixel lattice needs opencv-python-headless")

GOLDEN = Path(__file__).parents[1] / "golden" / "floorplan"
CONDITION = (
    "room_types",
    "corner_indices",
    "room_indices",
    "src_key_padding_mask",
    "connections",
    "door_mask",
    "self_mask",
    "gen_mask",
    "graph",
)


@dataclass(frozen=True)
class Recorded:
    """Plans in the original's reading order, its tensors, and how its evaluation sets were drawn."""

    plans: dict[str, Plan]
    tensors: dict[str, np.ndarray]
    notes: dict

    def of(self, plan: str, key: str) -> np.ndarray:
        return self.tensors[f"{plan}/{key}"]


def _load(folder: Path, plans: str, tensors: str, notes: dict) -> Recorded:
    names = notes["train_order"]
    read = {name: read_rplan(folder / plans / f"{name}.json")[0] for name in names}
    return Recorded(read, load_file(folder / f"{tensors}.safetensors"), notes)


@pytest.fixture(scope="module", params=["synthetic", "rplan"])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    if request.param == "synthetic":
        notes = json.loads((GOLDEN / "dataset_notes.json").read_text())
        return _load(GOLDEN, "plans_synthetic", "dataset_synthetic", notes)
    folder = os.environ.get("TRIFOLD_GOLDEN")
    if not folder:
        pytest.skip("RPLAN may not be redistributed: TRIFOLD_GOLDEN names no folder with its recorded tensors")
    found = [
        path for path in (Path(folder), Path(folder) / "floorplan") if (path / "plans_rplan_DO_NOT_COMMIT").is_dir()
    ]
    if not found:
        pytest.skip(f"TRIFOLD_GOLDEN={folder} holds no recorded RPLAN tensors")
    notes = json.loads((found[0] / "manifest_notes_rplan_DO_NOT_COMMIT.json").read_text())["dataset_rplan"]
    notes["ds_seed"] = json.loads((GOLDEN / "dataset_notes.json").read_text())["ds_seed"]
    return _load(found[0], "plans_rplan_DO_NOT_COMMIT", "dataset_rplan_DO_NOT_COMMIT", notes)


def test_every_recorded_group_is_compared(recorded: Recorded) -> None:
    known = {"reader/fp_eds", "reader/rms_bbs", "raster/room_masks_64", "raster/nodes", "raster/triples"}
    known |= {f"train/arr_rot{r}" for r in range(4)} | {"train/arr_analog_bits", "eval/arr"}
    known |= {f"train/{name}" for name in CONDITION} | {f"eval/syn_{name}" for name in CONDITION}
    known |= {"nonmanhattan/houses", "nonmanhattan/changed"}
    assert {key.split("/", 1)[1] for key in recorded.tensors} == known


def test_reader_centres_polygons(recorded: Recorded) -> None:
    for name, plan in recorded.plans.items():
        polygons = centred_polygons(plan)
        edges = np.concatenate([np.hstack([p, np.roll(p, -1, axis=0)]) for p in polygons])
        boxes = np.array([[*p.min(axis=0), *p.max(axis=0)] for p in polygons])
        np.testing.assert_array_equal(edges, recorded.of(name, "reader/fp_eds"))
        np.testing.assert_array_equal(boxes, recorded.of(name, "reader/rms_bbs"))


def test_raster_and_graph(recorded: Recorded) -> None:
    for name, plan in recorded.plans.items():
        doors = [is_door(node.type) for node in plan.nodes]
        masks = lattice_masks(centred_polygons(plan), doors)
        np.testing.assert_array_equal(masks, recorded.of(name, "raster/room_masks_64"))
        codes = [to_rplan_code(kind) for kind in plan.node_types()]
        np.testing.assert_array_equal(codes, recorded.of(name, "raster/nodes"))
        np.testing.assert_array_equal(plan.graph(), recorded.of(name, "raster/triples"))


def test_training_samples(recorded: Recorded) -> None:
    for name, plan in recorded.plans.items():
        for rotation in range(4):
            item = original_item(plan, rotation=rotation)
            expected = recorded.of(name, f"train/arr_rot{rotation}")
            np.testing.assert_array_equal(item["arr"], expected)
            assert item["arr"].dtype == expected.dtype
        for key in CONDITION:
            expected = recorded.of(name, f"train/{key}")
            np.testing.assert_array_equal(item[key], expected, err_msg=key)
            assert item[key].dtype == expected.dtype, key
        bits = analog_bits(original_item(plan)["arr"])
        np.testing.assert_array_equal(bits, recorded.of(name, "train/arr_analog_bits"))


def test_evaluation_samples(recorded: Recorded) -> None:
    histogram = corner_histogram(recorded.plans.values())
    assert {str(kind): counts for kind, counts in histogram.items()} == recorded.notes["cnumber_dist"]
    for group in recorded.notes["eval"].values():
        rng = random.Random(group["python_random_seed"])
        for name in group["plans"]:
            plan = recorded.plans[name]
            np.testing.assert_array_equal(original_item(plan)["arr"], recorded.of(name, "eval/arr"))
            item = original_item(plan, corner_counts=draw_corner_counts(plan, histogram, rng))
            assert "arr" not in item
            for key in CONDITION:
                np.testing.assert_array_equal(item[key], recorded.of(name, f"eval/syn_{key}"), err_msg=key)


def test_non_manhattan_bays(recorded: Recorded) -> None:
    rng = np.random.RandomState(recorded.notes["ds_seed"])
    for name, plan in recorded.plans.items():
        straight = lattice_polygons(plan)
        bays = non_manhattan_polygons(straight, [is_door(node.type) for node in plan.nodes], rng)
        changed = any(len(a) != len(b) for a, b in zip(straight, bays, strict=True))
        assert changed == bool(recorded.of(name, "nonmanhattan/changed")[0])
        arr = original_item(plan, polygons=bays)["arr"]
        np.testing.assert_array_equal(arr.T, recorded.of(name, "nonmanhattan/houses"))


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]], dtype=np.float64)


def test_lattice_corners_lie_on_multiples_of_four(small_plan: Plan) -> None:
    polygons = lattice_polygons(small_plan)
    box = polygons[1]
    assert len(box) == 4
    np.testing.assert_array_equal(box[0] % 4, [0, 0])  # top left
    np.testing.assert_array_equal(box[2] % 4, [3, 3])  # bottom right
    assert len(polygons[0]) == 7  # an L: its concave corner is cut by a one-pixel diagonal
    steps = np.roll(polygons[0], -1, axis=0) - polygons[0]
    assert np.count_nonzero(np.abs(steps).min(axis=1)) == 1


def test_later_rooms_win_overlaps_and_doors_do_not() -> None:
    squares = [_rectangle(0.25, 0.25, 0.5, 0.5), _rectangle(0.375, 0.25, 0.625, 0.5), _rectangle(0.25, 0.25, 0.5, 0.5)]
    masks = lattice_masks(squares, [False, False, True])
    assert not (masks[0] & masks[1]).any()
    assert masks[1].sum() == lattice_masks(squares[1:2], [False])[0].sum()
    assert masks[2].sum() == lattice_masks(squares[2:], [True])[0].sum()
    assert masks[0].sum() < masks[2].sum()


def test_on_lattice_keeps_units_and_connections(small_plan: Plan) -> None:
    double = Plan(
        tuple(Node(n.type, 2 * n.polygon, n.name) for n in small_plan.nodes),
        small_plan.doors,
        frame=512,
        metres_per_unit=0.01,
    )
    once, twice = on_lattice(small_plan), on_lattice(double)
    assert twice.doors == small_plan.doors
    assert twice.frame == 512
    for a, b in zip(once.nodes, twice.nodes, strict=True):
        np.testing.assert_array_equal(2 * a.polygon, b.polygon)


def test_vanished_room_is_named() -> None:
    rooms = (
        Node(RoomType.STORAGE, _rectangle(0, 0, 40, 40), "hidden"),
        Node(RoomType.LIVING, _rectangle(0, 0, 99, 99)),
    )
    with pytest.raises(FloorplanError, match=r"nodes\[0\].polygon: storage 'hidden' vanishes"):
        lattice_polygons(Plan(rooms, ()))


def test_plan_larger_than_its_frame_is_refused() -> None:
    with pytest.raises(FloorplanError, match="300 units wide, its frame 256"):
        centred_polygons(Plan((Node(RoomType.LIVING, _rectangle(0, 0, 300, 40)),), ()))


def test_limits_of_the_original_are_named(small_plan: Plan) -> None:
    with pytest.raises(FloorplanError, match="102 corners; the original holds 100"):
        original_item(small_plan, corner_counts=[17] * 6)
    with pytest.raises(FloorplanError, match="a node of 40 corners; the original holds 32"):
        original_item(small_plan, corner_counts=[40, 4, 4, 4, 4, 4])
    with pytest.raises(FloorplanError, match="5 corner counts for 6 nodes"):
        original_item(small_plan, corner_counts=[4] * 5)


def test_isolated_room_reads_the_living_room_when_sampling_only() -> None:
    rooms = (Node(RoomType.BEDROOM, _rectangle(0, 0, 40, 40)), Node(RoomType.LIVING, _rectangle(50, 0, 99, 99)))
    plan = Plan(rooms, ())
    assert original_item(plan)["door_mask"].min() == 1
    allowed = original_item(plan, corner_counts=[4, 4])["door_mask"] == 0
    assert allowed[:4, 4:8].all()
    assert allowed.sum() == 16


def test_rotations_are_symmetries_of_the_square() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (2, 5))
    images = [rotate_corners(x, r) for r in range(4)]
    np.testing.assert_array_equal(rotate_corners(images[1], 3), x)  # quarter turns, one undoes the other
    np.testing.assert_array_equal(rotate_corners(images[2], 2), x)  # a reflection
    np.testing.assert_array_equal(rotate_corners(images[1], 1), -x)
    with pytest.raises(ValueError, match="rotation 4"):
        rotate_corners(x, 4)


def test_analog_bits_by_hand_and_range() -> None:
    bits = analog_bits(np.array([[-1.0, 0.0], [255 / 128 - 1, 5 / 128 - 1]]))
    assert bits[:, 0].tolist() == [-1] * 8 + [1] * 8
    assert bits[:, 1].tolist() == [1, *[-1] * 7, *[-1] * 5, 1, -1, 1]
    with pytest.raises(FloorplanError, match="8 bits hold -1 to just below 1"):
        analog_bits(np.array([[1.0], [0.0]]))


def test_missing_opencv_is_told(small_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_cv2(name: str, *args: object, **kwargs: object) -> object:
        if name == "cv2":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_cv2)
    with pytest.raises(ImportError, match="pip install opencv-python-headless"):
        lattice_polygons(small_plan)

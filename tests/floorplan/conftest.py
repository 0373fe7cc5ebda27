"""Shared fixtures: a small plan worked out by hand, and real data where a folder with it is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from trifold.floorplan.evaluation import held_out_plans
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.rooms import RoomType
from trifold.floorplan.rplan import plan_to_rplan

from .tiny import tiny_model

# A busy machine must not fail a test: time is not what these properties are about.
settings.register_profile("floorplan", deadline=None, max_examples=60)
settings.load_profile("floorplan")


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """[4,2] corners in RPLAN's order: top left, bottom left, bottom right, top right (y down)."""
    return np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]], dtype=np.float64)


@pytest.fixture
def small_plan() -> Plan:
    """Living room (L-shaped, six corners) with a bedroom and a bathroom on its left; the front door below it.

    Nodes: 0 living, 1 bedroom, 2 bathroom, 3 door living-bedroom, 4 door bedroom-bathroom, 5 front door to living.
    """
    living = np.array([[100, 40], [100, 140], [180, 140], [180, 100], [220, 100], [220, 40]], dtype=np.float64)
    return Plan(
        nodes=(
            Node(RoomType.LIVING, living, "living"),
            Node(RoomType.BEDROOM, rectangle(40, 40, 96, 90), "bed"),
            Node(RoomType.BATHROOM, rectangle(40, 94, 96, 140), "bath"),
            Node(RoomType.INTERIOR_DOOR, rectangle(96, 50, 100, 64)),
            Node(RoomType.INTERIOR_DOOR, rectangle(60, 90, 72, 94)),
            Node(RoomType.FRONT_DOOR, rectangle(120, 140, 134, 144)),
        ),
        doors=((0, 1), (1, 2), (0, None)),
        name="small",
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of a small model that hears sizes, for the commands; some modules have a model of their own."""
    return tiny_model(with_sizes=True).save_pretrained(tmp_path_factory.mktemp("model"))


@pytest.fixture
def floorplan_data() -> Callable[[str], Path]:
    """Path of a file of real plans, `$TRIFOLD_DATA/floorplan/<name>`; the test is skipped where there is none."""

    def find(name: str) -> Path:
        folder = os.environ.get("TRIFOLD_DATA")
        if not folder:
            pytest.skip("real data: TRIFOLD_DATA names no folder")
        path = Path(folder) / "floorplan" / name
        if not path.is_file():
            pytest.skip(f"real data: {path} is not there")
        return path

    return find


def plans_file(path: Path, count: int) -> Path:
    """A json file of so many held-out procedural plans."""
    plans = held_out_plans("procedural", count)
    path.write_text(json.dumps([plan_to_rplan(p) for p in plans] if count > 1 else plan_to_rplan(plans[0])))
    return path

"""Training runs of a few updates on six bent sheets, and how one is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from trifold.common.train import TrainState, loop
from trifold.pointcloud.diffusion import PointDiffusion
from trifold.pointcloud.training import PointCloudTraining

from .tiny_points import random_cloud, tiny_config


def sheet_run(folder: Path, **changes: Any) -> PointCloudTraining:
    """Two updates of the points, in `folder/run`, on sheets of two classes that are written beside it."""
    points = np.stack([random_cloud(24, i).points for i in range(6)])
    np.savez(folder / "sheets.npz", points=points, label=np.arange(6) % 2, classes=np.array(["flat", "bent"]))
    settings: dict[str, Any] = {
        "output_dir": folder / "run",
        "data": str(folder / "sheets.npz"),
        "train_batch_size": 4,
        "max_train_steps": 2,
        "learning_rate": 2e-3,
        "report_to": "none",
        "stored_points": 24,
        "num_points": 16,
        "num_clouds": None,
        "validation_split": None,
        "use_ema": True,
        "model": tiny_config(class_names=()),
    }
    return PointCloudTraining(**{**settings, **changes})


class Killed(Exception):
    """Ends a run in the middle."""


def killed_after(patch: pytest.MonkeyPatch, folder_name: str, step: int) -> None:
    """Runs are killed once they have written the checkpoint of `step` in a folder of that name."""
    save = loop.save_checkpoint

    def killed(folder: Path, state: TrainState, *rest: Any, **options: Any) -> Path:
        path = save(folder, state, *rest, **options)
        if (folder.name, state.step) == (folder_name, step):
            raise Killed
        return path

    patch.setattr(loop, "save_checkpoint", killed)


def weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a saved model."""
    return PointDiffusion.from_pretrained(folder).state_dict()

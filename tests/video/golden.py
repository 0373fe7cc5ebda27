"""The recorded numbers of the original Tune-A-Video (see tests/golden/video/README.md and its neighbour's)."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from trifold.common.diffusion import DiscretePath, discrete_path
from trifold.video.inflate import inflate
from trifold.video.unet import InflatedUNet

FOLDER = Path(__file__).parents[1] / "golden"
SETS = ("video", "video_sdlayout")
WEIGHTS = ("fresh", "perturbed")


@cache
def tensors(name: str, file: str) -> dict[str, Tensor]:
    return load_file(FOLDER / name / f"{file}.safetensors")


def inputs(name: str) -> dict[str, Tensor]:
    return tensors(name, "inputs")


def outputs(name: str) -> dict[str, Tensor]:
    return tensors(name, "outputs")


@cache
def notes(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name / "golden.json").read_text())


def folder(name: str) -> Path:
    return FOLDER / name


@cache
def image_unet(name: str) -> UNet2DConditionModel:
    """Shared by all tests: inflating it leaves it as it is, tuning too."""
    unet = UNet2DConditionModel.from_pretrained(FOLDER / name / "unet2d")
    assert isinstance(unet, UNet2DConditionModel)
    return unet.eval()


def temporal(name: str, weights: str) -> dict[str, Tensor]:
    return tensors(name, f"unet3d_{weights}_temporal")


def video_unet(name: str, weights: str) -> InflatedUNet:
    """The original's net: its image weights inflated, with its "fresh" or "perturbed" temporal weights."""
    return deepcopy(fixed_unet(name, weights))


@cache
def fixed_unet(name: str, weights: str) -> InflatedUNet:
    """The same net, shared by the tests that only run it."""
    unet = inflate(image_unet(name))
    loaded = unet.load_state_dict(temporal(name, weights), strict=False)
    assert not loaded.unexpected_keys
    assert len(loaded.missing_keys) + len(temporal(name, weights)) == len(unet.state_dict())
    return unet.eval()


def path() -> DiscretePath:
    """Stable Diffusion's "scaled_linear" betas."""
    return discrete_path(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)


def relative(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def worst(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).abs().max())

"""The recorded numbers of the original Luo & Hu code (see tests/golden/pointcloud/README.md)."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "golden" / "pointcloud"
GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)


@cache
def tensors() -> dict[str, Tensor]:
    """Every recorded tensor, name -> tensor."""
    return load_file(FOLDER / "vectors.safetensors")


@cache
def notes() -> dict:
    """Scalars, digests and settings."""
    return json.loads((FOLDER / "golden.json").read_text())


@cache
def state_dict() -> dict[str, Tensor]:
    """The small FlowVAE under the original's names, float32 (the file holds exact float16 values)."""
    stored = load_file(FOLDER / "flow_vae_small.state_dict.safetensors")
    return {name: t.float() if t.is_floating_point() else t for name, t in stored.items()}


def scaled_error(a: Tensor | float | list[float], b: Tensor | float | list[float]) -> float:
    """max |a - b| / max(1, max |b|), b being the record; inf where the shapes differ."""
    got, want = (torch.as_tensor(v).detach().double() for v in (a, b))
    if got.shape != want.shape:
        return float("inf")
    return float((got - want).abs().max() / want.abs().max().clamp(min=1))


def formula_uniform(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 in [-1, 1): splitmix64 of (seed, crc32 of the name, index), the same bits on every machine."""
    count = int(np.prod(shape, dtype=np.int64))
    base = np.uint64(((seed & 0xFFFFFFFF) << 32) | zlib.crc32(name.encode()))
    with np.errstate(over="ignore"):
        z = base + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN_RATIO
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (2.0 * ((z >> np.uint64(40)).astype(np.float64) / 2.0**24) - 1.0).astype(np.float32).reshape(shape)


def formula_noise(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """float32, mean 0, about unit variance: a scaled sum of four uniforms."""
    total = sum(formula_uniform(seed, f"{name}#{k}", shape).astype(np.float64) for k in range(4))
    return torch.from_numpy((np.asarray(total) * (np.sqrt(3.0) / 2.0)).astype(np.float32))


def formula_weights(seed: int, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Weights of the default-size cases: original name -> tensor, each a function of its name alone."""
    return {name: _formula_weight(seed, name, tuple(shape)) for name, shape in shapes.items()}


def _formula_weight(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    u = formula_uniform(seed, name, shape).astype(np.float64)
    module, leaf = name.split(".")[-2:]
    if leaf == "running_mean":
        value = 0.1 * u
    elif leaf == "running_var":
        value = 1.0 + 0.5 * u
    elif leaf == "weight" and (module.startswith("bn") or "_bn" in module):
        value = 1.0 + 0.2 * u
    elif len(shape) >= 2:
        gain = 0.5 if name.startswith("flow.") else 1.5  # a larger gain makes the inverse of 14 couplings explode
        value = u * (gain / np.sqrt(np.prod(shape[1:])))
    else:
        value = 0.05 * u
    return torch.from_numpy(value.astype(np.float32))

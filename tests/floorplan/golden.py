"""The recorded numbers of the original HouseDiffusion, as packed tensors (see tests/golden/floorplan/README.md)."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from trifold.floorplan.checkpoint import config_from_tensors, convert_state_dict
from trifold.floorplan.network import HouseNet
from trifold.floorplan.tokens import PlanCondition, PlanSpec, pack

FOLDER = Path(__file__).parents[1] / "golden" / "floorplan"


@cache
def tensors(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


@cache
def notes() -> dict:
    return json.loads((FOLDER / "notes.json").read_text())


def spec_of(plan: str, *, synthetic: bool) -> PlanSpec:
    """Rebuild a plan's spec from the original's padded tensors."""
    data = tensors("dataset_synthetic")
    prefix = f"{plan}/eval/syn_" if synthetic else f"{plan}/train/"
    n = int((data[prefix + "src_key_padding_mask"] == 0).sum())
    node = data[prefix + "room_indices"][:n].argmax(1).numpy() - 1
    types = data[prefix + "room_types"][:n].argmax(1).numpy()
    first = np.unique(node, return_index=True)[1]
    triples = data[f"{plan}/raster/triples"].tolist()
    return PlanSpec.build(types[first], np.bincount(node), [(k, m) for k, sign, m in triples if sign > 0])


def condition(plans: list[str], *, synthetic: bool) -> PlanCondition:
    return pack([spec_of(p, synthetic=synthetic) for p in plans])


def packed(x: Tensor, cond: PlanCondition) -> Tensor:
    """[P, C, 100] -> [1, M, C]."""
    return torch.cat([x[i, :, :n].T for i, n in enumerate(cond.plan_lens)])[None]


def small_net(name: str = "model_small_state_dict") -> HouseNet:
    return build(tensors(name))


def build(original: dict[str, Tensor]) -> HouseNet:
    net = HouseNet(config_from_tensors(original))
    net.load_state_dict(convert_state_dict(original), strict=True)
    return net.eval()


def original_shapes(name: str) -> dict[str, list[int]]:
    return {key: value["shape"] for key, value in notes()[name].items()}


def formula_weights(shapes: dict[str, list[int]], salt: int) -> dict[str, Tensor]:
    """Weights that are a function of their name: splitmix64 of a hash (tests/golden/floorplan/README.md)."""
    out = {}
    for key, shape in shapes.items():
        count = int(np.prod(shape))
        seed = int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:8], "little")
        with np.errstate(over="ignore"):
            z = np.uint64(seed) + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
        u = (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1
        scale = 1.7 / np.sqrt(shape[1]) if len(shape) == 2 else 0.05
        out[key] = torch.from_numpy((u * scale).astype(np.float32).reshape(shape))
    return out


def torch_default_weights(shapes: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    """torch's own initialisation of the original's linear layers, in the order in which it made them."""
    torch.manual_seed(seed)
    out: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        if key.endswith(".weight"):
            layer = torch.nn.Linear(shape[1], shape[0])
            out[key], out[key.removesuffix("weight") + "bias"] = layer.weight.detach(), layer.bias.detach()
    return out

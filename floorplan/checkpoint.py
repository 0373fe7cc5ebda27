"""The original HouseDiffusion's checkpoints: a rename table, and the shape of the network read off the tensors."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from ..common.weights import load_foreign_state_dict, load_module_tensors, renamed_keys
from .model import HouseDiffusion, HouseDiffusionConfig
from .network import HouseNetConfig

# (pattern of the original, ours); applied in order, the first that matches wins.
_RENAMES = (
    (r"time_embed\.0\.", r"time_in.linear_1."),
    (r"time_embed\.2\.", r"time_in.linear_2."),
    (r"input_emb\.", r"coordinate_in."),
    (r"condition_emb\.", r"condition_in."),
    (r"transformer_layers\.(\d+)\.", r"blocks.\1."),
    (r"output_linear1\.", r"head.0."),
    (r"output_linear2\.", r"head.1."),
    (r"output_linear3\.", r"head.2."),
    (r"output_linear_bin1\.", r"bits_in."),
    (r"output_linear_bin2\.", r"bit_blocks.0."),
    (r"output_linear_bin3\.", r"bit_blocks.1."),
    (r"output_linear_bin4\.", r"bits_out."),
)
_INSIDE_BLOCK = (
    (r"\.self_attn\.", ".attn_rooms."),
    (r"\.door_attn\.", ".attn_doors."),
    (r"\.gen_attn\.", ".attn_plan."),
    (r"\.q_linear\.", ".to_q."),
    (r"\.k_linear\.", ".to_k."),
    (r"\.v_linear\.", ".to_v."),
    (r"\.out\.", ".to_out.0."),
    (r"\.ff\.linear_1\.", ".ff.net.0.proj."),
    (r"\.ff\.linear_2\.", ".ff.net.2."),
)


def rename_key(key: str) -> str:
    """Our name of one tensor of the original. Raises KeyError for a name the original does not have."""
    for pattern, replacement in _RENAMES:
        renamed, hits = re.subn("^" + pattern, replacement, key)
        if hits:
            for inner, name in _INSIDE_BLOCK:
                renamed = re.sub(inner, name, renamed)
            return renamed
    raise KeyError(key)


def rename_keys(keys: Iterable[str], source: str = "checkpoint") -> dict[str, str]:
    """Original name -> our name for every key.

    Raises:
        WeightsError: a key is not HouseDiffusion's, or two keys would get one name.
    """
    example = "transformer_layers.0.self_attn.q_linear.weight"
    return renamed_keys(keys, rename_key, source=source, program="a HouseDiffusion checkpoint", example=example)


def config_from_tensors(tensors: Mapping[str, Tensor], source: str = "checkpoint") -> HouseNetConfig:
    """Network shape of an original checkpoint (tensors under the original's names).

    The number of heads cannot be read off the tensors; it is the published 4 (1 in the discrete branch).

    Raises:
        ValueError: a tensor that must be there is missing, or the shapes are not HouseDiffusion's.
    """
    for name in ("input_emb.weight", "condition_emb.weight", "output_linear3.weight"):
        if name not in tensors:
            raise ValueError(f"{source}: tensor {name} is missing")
        if tensors[name].ndim != 2:
            raise ValueError(f"{source}: {name} has shape {list(tensors[name].shape)}, expected two axes")
    width, token_channels = tensors["input_emb.weight"].shape
    layers = {int(hit[1]) for k in tensors if (hit := re.match(r"transformer_layers\.(\d+)\.", k))}
    channels = tensors["output_linear3.weight"].shape[0]
    bit_layers = sum(f"output_linear_bin{i}.self_attn.q_linear.weight" in tensors for i in (2, 3))
    analog = channels == 16
    config = HouseNetConfig(
        width=width,
        num_layers=len(layers),
        num_bit_layers=bit_layers,
        edge_points=8 if analog else token_channels // 2 - 1,
        analog_bits=analog,
        wrap_bits=True,
    )
    expected = config.condition_channels
    if tensors["condition_emb.weight"].shape[1] != expected or channels not in (2, 16):
        raise ValueError(
            f"{source}: condition_emb.weight reads {tensors['condition_emb.weight'].shape[1]} features and "
            f"output_linear3.weight gives {channels} channels; expected {expected} and 2 (or 16 for analog bits)"
        )
    return config


def convert_state_dict(tensors: Mapping[str, Tensor], source: str = "checkpoint") -> dict[str, Tensor]:
    """The original's tensors under our names, in float32."""
    return {ours: tensors[theirs].float() for theirs, ours in rename_keys(tensors, source).items()}


def load_original(path: str | Path) -> HouseDiffusion:
    """An original checkpoint as a model: `model*.pt` or `ema_*.pt`, or the same tensors as safetensors.

    Raises:
        FileNotFoundError, ValueError: no such file, not a state dict, another model's tensors or shapes.
    """
    with warnings.catch_warnings():
        # torch doubts pickles of newer protocols; it then either reads them or raises, which says enough.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        tensors = load_foreign_state_dict(path)
    converted = convert_state_dict(tensors, str(path))  # first: it tells another model's file by its names
    config = HouseDiffusionConfig(**dataclasses.asdict(config_from_tensors(tensors, str(path))))
    try:
        model = HouseDiffusion(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    load_module_tensors(model.net, converted, path)
    return model.eval()

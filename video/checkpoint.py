"""Reads the checkpoints that the original Tune-A-Video saves: a 3D UNet in diffusers' folder layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.weights import load_foreign_state_dict
from .errors import VideoError
from .inflate import adopt_tensors
from .json_object import read_object
from .unet import InflatedUNet
from .unet_config import GroupNormOver, InflatedConfig, check_unet2d

WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

# What the original calls the blocks of its inflated net, and what they were in the image model's config.
BLOCKS_2D = {
    "CrossAttnDownBlock3D": "CrossAttnDownBlock2D",
    "DownBlock3D": "DownBlock2D",
    "UNetMidBlock3DCrossAttn": "UNetMidBlock2DCrossAttn",
    "CrossAttnUpBlock3D": "CrossAttnUpBlock2D",
    "UpBlock3D": "UpBlock2D",
}


def read_inflated(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    group_norm: GroupNormOver = "clip",
) -> InflatedUNet:
    """An `InflatedUNet` in eval mode from what the original program saved.

    Args:
        folder: the folder of a `UNet3DConditionModel` (`config.json` and `diffusion_pytorch_model.safetensors` or
            `.bin`, which is read with `weights_only=True`), or that of a whole pipeline with such a folder `unet/`.
        dtype: None keeps the file's.
        group_norm: "clip" is what the weights were trained with.

    Raises:
        FileNotFoundError: if a file is not there.
        VideoError: for another kind of model, and for weights that do not fit the config.
        WeightsError: for a weight file that is damaged or no file of tensors.
    """
    folder = unet_folder(folder)
    path = folder / "config.json"
    config = InflatedConfig(config_2d(read_object(path), path), group_norm, "original")
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if weights is None:
        raise FileNotFoundError(f"{folder}: expected the weights {' or '.join(WEIGHT_FILES)}")
    tensors = load_foreign_state_dict(weights)
    _check_tensors(tensors, weights)
    with torch.device("meta"):
        unet = InflatedUNet(config)
    adopt_tensors(unet, tensors, weights)
    return unet.to(device=device, dtype=dtype).eval()


def is_inflated_folder(folder: str | Path) -> bool:
    """Whether the folder, or its `unet/`, holds a `UNet3DConditionModel` to give to `read_inflated`."""
    path = unet_folder(folder) / "config.json"
    return path.is_file() and read_object(path).get("_class_name") == "UNet3DConditionModel"


def unet_folder(folder: str | Path) -> Path:
    """The folder of the UNet itself: `folder`, or `folder/unet` of a pipeline."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    return folder / "unet" if (folder / "unet").is_dir() else folder


def config_2d(config: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """The config of the image UNet that a `UNet3DConditionModel` of Tune-A-Video was inflated from."""
    kind = config.get("_class_name")
    if kind != "UNet3DConditionModel":
        raise VideoError(f"{source}: _class_name is {kind!r}, expected 'UNet3DConditionModel' of Tune-A-Video")
    plain = dict(config)
    for name in ("down_block_types", "up_block_types"):
        if name in plain:
            plain[name] = [BLOCKS_2D.get(block, block) for block in plain[name]]
    if plain.get("mid_block_type") is not None:
        plain["mid_block_type"] = BLOCKS_2D.get(plain["mid_block_type"], plain["mid_block_type"])
    check_unet2d(plain, str(source))
    return plain


def _check_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """diffusers has a net of the same class name, whose temporal layers are others."""
    if any(".temp_convs." in name or ".temp_attentions." in name for name in tensors):
        raise VideoError(f"{path}: a text-to-video UNet with temporal convolutions (ModelScope), not Tune-A-Video's")
    if any("motion_modules" in name for name in tensors):
        raise VideoError(f"{path}: a UNet with motion modules (AnimateDiff), not Tune-A-Video's")
    if not any(".attn_temp." in name for name in tensors):
        raise VideoError(f"{path}: no temporal attention (*.attn_temp.*); an image model goes through inflate()")

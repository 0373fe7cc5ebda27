"""A whole tuned pipeline as a folder, in the layout of the original program and of diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast, get_args

from ..common.weights import module_tensors, replaced_folder, write_json, write_tensors
from .checkpoint import BLOCKS_2D
from .errors import VideoError
from .folder import part_config
from .text_to_image import LatentSpace
from .unet import InflatedUNet
from .unet_config import GroupNormOver

# Read by nobody else: names with an underscore are notes to the program that wrote them.
_GROUP_NORM = "_group_norm"


def write_pipeline(folder: Path, space: LatentSpace, unet: InflatedUNet) -> Path:
    """Write unet/, vae/, text_encoder/, tokenizer/, scheduler/ and model_index.json; whole or not at all.

    An existing folder is replaced if it is one of these, else refused with VideoError.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "model_index.json").is_file():
        raise VideoError(f"{folder}: is there already and holds something else; choose another name")
    with replaced_folder(folder) as temporary:
        write_tensors(temporary / "unet" / "diffusion_pytorch_model.safetensors", module_tensors(unet))
        write_json(temporary / "unet" / "config.json", config_3d(unet))
        space.vae.save_pretrained(temporary / "vae")
        space.text_encoder.save_pretrained(temporary / "text_encoder")
        space.tokenizer.save_pretrained(temporary / "tokenizer")
        write_json(temporary / "scheduler" / "scheduler_config.json", dict(space.schedule.config))
        write_json(temporary / "model_index.json", model_index(space))
    return folder


def config_3d(unet: InflatedUNet) -> dict[str, Any]:
    """The original's config.json of an inflated unet: its image unet's with the names of its own blocks."""
    names = {plain: inflated for inflated, plain in BLOCKS_2D.items()}
    config = json.loads(json.dumps(dict(unet.config.unet2d)))
    for field in ("down_block_types", "up_block_types"):
        config[field] = [names[block] for block in config[field]]
    if config.get("mid_block_type") is not None:
        config["mid_block_type"] = names[config["mid_block_type"]]
    return {"_class_name": "UNet3DConditionModel", _GROUP_NORM: unet.config.group_norm, **config}


def model_index(space: LatentSpace) -> dict[str, Any]:
    """What a pipeline folder says it is made of."""
    return {
        "_class_name": "TuneAVideoPipeline",
        "scheduler": ["diffusers", str(space.schedule.config.get("_class_name", "DDIMScheduler"))],
        "text_encoder": ["transformers", type(space.text_encoder).__name__],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["trifold", "UNet3DConditionModel"],
        "vae": ["diffusers", type(space.vae).__name__],
    }


def group_norm_of(folder: Path) -> GroupNormOver:
    """What a folder's GroupNorms take statistics over; "clip" where it was the original program that wrote it."""
    found = part_config(folder, "unet").get(_GROUP_NORM, "clip")
    if found not in get_args(GroupNormOver):
        raise VideoError(f"{folder / 'unet' / 'config.json'}: {_GROUP_NORM} is {found!r}")
    return cast(GroupNormOver, found)

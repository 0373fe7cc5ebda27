"""Names for what is not a Stable Diffusion 1.x / 2.x folder, so that an error can say what was found instead."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Beginnings of a pipeline's class name; the first that fits counts.
_PIPELINES = (
    ("StableDiffusionXL", "Stable Diffusion XL (two text encoders, other conditioning)"),
    ("StableDiffusion3", "Stable Diffusion 3 (a diffusion transformer)"),
    ("StableDiffusionUpscale", "a Stable Diffusion upscaler"),
    ("StableDiffusionLatentUpscale", "a Stable Diffusion latent upscaler"),
    ("StableDiffusionInpaint", "a Stable Diffusion inpainting model (9 input channels)"),
    ("StableDiffusionDepth2Img", "a Stable Diffusion depth-to-image model (5 input channels)"),
    ("StableDiffusionInstructPix2Pix", "an InstructPix2Pix model (8 input channels)"),
    ("StableUnCLIP", "a Stable unCLIP model (conditioned on image embeddings)"),
    ("StableVideoDiffusion", "Stable Video Diffusion (an image-to-video model)"),
    ("StableCascade", "Stable Cascade"),
    ("Flux", "FLUX (a diffusion transformer)"),
    ("PixArt", "PixArt (a diffusion transformer)"),
    ("DiT", "a DiT (a class-conditional diffusion transformer)"),
    ("Kandinsky", "Kandinsky"),
    ("IF", "DeepFloyd IF (a pixel-space cascade)"),
    ("LatentConsistencyModel", "a latent consistency model (its unet is told the guidance scale)"),
    ("TextToVideo", "a text-to-video model"),
    ("AnimateDiff", "AnimateDiff"),
    ("Wuerstchen", "Wuerstchen"),
    ("AltDiffusion", "AltDiffusion (a multilingual text encoder)"),
)
_OURS = ("StableDiffusion", "TuneAVideo", "SpatioTemporalStableDiffusion")
_SINGLE_FILE = (
    "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER) of diffusers makes a folder of it"
)
# What the config.json of one network alone calls its class.
_MODELS = (
    ("ControlNet", "a ControlNet, which steers a text-to-image model and is none itself"),
    ("T2IAdapter", "a T2I-Adapter, which steers a text-to-image model and is none itself"),
    ("MotionAdapter", "an AnimateDiff motion module"),
    ("AutoencoderKL", "a VAE alone"),
    ("UNet2DConditionModel", "the unet/ of a text-to-image folder alone"),
    ("UNet3DConditionModel", "the inflated unet/ of a Tune-A-Video folder alone"),
    ("CLIPTextModel", "the text_encoder/ of a text-to-image folder alone"),
)


def name_of_pipeline(class_name: str, index: Mapping[str, Any]) -> str | None:
    """What a model_index.json describes, or None where it is Stable Diffusion by its class and its parts."""
    for start, name in _PIPELINES:
        if class_name.startswith(start):
            return f"{name}: {class_name}"
    if "text_encoder_2" in index:
        return f"a pipeline with two text encoders ({class_name})"
    if "transformer" in index:
        return f"a diffusion transformer ({class_name})"
    if not class_name.startswith(_OURS):
        return f"a {class_name or 'pipeline without a class name'}"
    return None


def name_of_folder(folder: Path) -> str:
    """What a folder without a model_index.json is."""
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return "an empty folder"
    if "adapter_config.json" in names or "pytorch_lora_weights.safetensors" in names:
        return "a LoRA, which changes a text-to-image model and is none itself"
    if "tuning.json" in names:
        return "the folder of a tuning run"
    if "config.json" in names:
        try:
            config = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError):
            return "a folder whose config.json cannot be read, without a model_index.json"
        if not isinstance(config, dict):
            return "a folder whose config.json holds no object, without a model_index.json"
        found = str(config.get("_class_name") or config.get("class") or (config.get("architectures") or ["?"])[0])
        for start, name in _MODELS:
            if found.startswith(start):
                return name
        return f"a single model ({found}) without a model_index.json"
    for name in names:
        if name.endswith((".safetensors", ".ckpt")):
            return f"a folder with {name}, {name_of_file(folder / name)}"
    listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return f"a folder without a model_index.json (it holds {listed})"


def name_of_file(path: Path) -> str:
    """What a file is, by its suffix and, for safetensors, the names of its tensors."""
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        return f"a single checkpoint file; {_SINGLE_FILE}"
    if path.suffix != ".safetensors":
        return "a file, not a folder"
    names = _tensor_names(path)
    if names is None:
        return "a safetensors file that is cut short or damaged"
    if any("lora" in name for name in names):
        return "a LoRA, which changes a text-to-image model and is none itself"
    if any(name.startswith(("control_model.", "controlnet_", "input_hint_block.")) for name in names):
        return "a ControlNet, which steers a text-to-image model and is none itself"
    if any(name.startswith("conditioner.embedders.1.") for name in names):
        return "Stable Diffusion XL in a single file"
    if any("attn_temp" in name for name in names):
        return "the trained tensors of a tuned clip (a delta), which are loaded onto a base by TuneAVideo.load_delta"
    return f"a single checkpoint file; {_SINGLE_FILE}"


def _tensor_names(path: Path) -> list[str] | None:
    """Names in a safetensors header; no tensor is read."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                return None
            header = json.loads(file.read(length))
    except (OSError, ValueError, struct.error):
        return None
    return [name for name in header if name != "__metadata__"] if isinstance(header, dict) else None

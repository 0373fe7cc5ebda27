"""From an image UNet to a video UNet that starts as it. (Wu et al. 2023, section 3)"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from .errors import VideoError
from .trainable import QUERIES, matching_parameters, own_parameters
from .unet import InflatedUNet
from .unet_config import GroupNormOver, InflatedConfig, TemporalInit


def inflate(
    unet2d: nn.Module,
    *,
    temporal_init: TemporalInit = "zero",
    group_norm: GroupNormOver = "clip",
    generator: torch.Generator | None = None,
    share: bool = True,
) -> InflatedUNet:
    """The video UNet of an image UNet, in its dtype, on its device (the meta device too), in its mode.

    Args:
        unet2d: a diffusers `UNet2DConditionModel` of the Stable Diffusion 1.x or 2.x kind.
        temporal_init, group_norm: see `InflatedConfig`. With "zero" the temporal attention changes nothing at first;
            "original" is Tune-A-Video's, random output bias and all.
        generator: for the temporal attention's weights; None means one with seed 0, so that inflating twice gives
            the same net.
        share: use the image UNet's memory for all that tuning leaves alone, so that both together take little more
            than one. The queries have memory of their own, `select_trainable` copies what else it selects; anything
            else that writes to weights in place would write to both. False copies everything.

    Raises:
        VideoError: if the model is of another kind, which the message names.
    """
    if not isinstance(unet2d, UNet2DConditionModel):
        raise VideoError(f"cannot inflate {type(unet2d).__name__}: expected a diffusers UNet2DConditionModel")
    with torch.device("meta"):
        unet = InflatedUNet(InflatedConfig(dict(unet2d.config), group_norm, temporal_init))
    adopt_tensors(unet, unet2d.state_dict(), "UNet2DConditionModel", may_lack=temporal_names(unet))
    like = unet2d.conv_in.weight
    for _, module in unet.temporal_modules():
        module.to_empty(device=like.device).to(like.dtype)
    unet.reset_temporal(temporal_init, generator)
    unet.borrowed = set(dict(unet.named_parameters())) - temporal_names(unet)
    own_parameters(unet, unet.borrowed if not share else matching_parameters(unet, QUERIES))
    return unet.train(unet2d.training)


def temporal_names(unet: InflatedUNet) -> set[str]:
    """Names of the parameters that the image UNet does not have."""
    return {f"{name}.{leaf}" for name, module in unet.temporal_modules() for leaf, _ in module.named_parameters()}


def adopt_tensors(
    unet: InflatedUNet, tensors: Mapping[str, Tensor], source: str | Path, *, may_lack: set[str] | None = None
) -> None:
    """Make `tensors` themselves the parameters of `unet`, without copying them.

    Raises VideoError naming `source` and what is missing (other than `may_lack`), unexpected or of another shape.
    """
    expected = unet.state_dict()
    missing = sorted(set(expected) - set(tensors) - (may_lack or set()))
    unexpected = sorted(set(tensors) - set(expected))
    misshapen = [
        f"{name} {list(tensors[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        texts = [f"{len(names)} {what}: {', '.join(names[:5])}" for what, names in problems.items() if names]
        raise VideoError(f"{source}: its tensors do not fit its config: {'; '.join(texts)}")
    unet.load_state_dict(dict(tensors), strict=False, assign=True)

"""What an inflated UNet is made from: the image UNet's config plus how it is inflated, and which configs can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from .errors import VideoError

GroupNormOver = Literal["clip", "frame"]
TemporalInit = Literal["zero", "original"]

DOWN_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D")
MID_BLOCKS = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)
UP_BLOCKS = ("CrossAttnUpBlock2D", "UpBlock2D")

# Published models that share the class UNet2DConditionModel, by their number of input channels.
_WIDER_INPUTS = {
    5: "a depth-to-image model",
    7: "an upscaler",
    8: "an image-conditioned model such as InstructPix2Pix",
    9: "an inpainting model",
}


@dataclass(frozen=True)
class InflatedConfig:
    """The config of an `InflatedUNet`.

    unet2d: the arguments of diffusers' `UNet2DConditionModel`; what it leaves out takes diffusers' default.
    group_norm: what the GroupNorms of ResNet blocks and before the last convolution take their statistics over: "clip",
        all frames together, as Tune-A-Video does (Wu et al. 2023), or "frame", each frame by itself, as the image
        model does. The GroupNorm at the entry of a transformer is per frame in both.
    temporal_init: what the temporal branch adds before training: "zero" nothing; "original" a random constant per
        channel, because Tune-A-Video zeroes the weight of its output projection and not the bias.

    Raises:
        VideoError: if the image model is of a kind that cannot be inflated (the message names the kind), or a setting
            has none of the values above.
    """

    unet2d: Mapping[str, Any] = field(default_factory=dict)
    group_norm: GroupNormOver = "clip"
    temporal_init: TemporalInit = "zero"

    def __post_init__(self) -> None:
        # Names with an underscore say which program wrote the config and where to, not what the model is.
        plain = {str(name): value for name, value in self.unet2d.items() if not str(name).startswith("_")}
        object.__setattr__(self, "unet2d", plain)
        for name, kind in (("group_norm", GroupNormOver), ("temporal_init", TemporalInit)):
            if getattr(self, name) not in get_args(kind):
                raise VideoError(f"{name}: expected one of {get_args(kind)}, found {getattr(self, name)!r}")
        check_unet2d(plain)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; `InflatedConfig(**config.to_dict())` is equal to `config`."""
        return asdict(self)


def check_unet2d(config: Mapping[str, Any], source: str = "UNet2DConditionModel") -> None:
    """Raise VideoError unless this config of a `UNet2DConditionModel` is of Stable Diffusion's 1.x / 2.x kind.

    config: as in config.json, missing names at diffusers' defaults; source: what the message calls the model.
    """

    def refuse(name: str, kind: str) -> None:
        raise VideoError(
            f"{source}: {name} = {config.get(name)!r}, which is {kind}; "
            "only UNets of the Stable Diffusion 1.x and 2.x kind can be inflated"
        )

    embedding = config.get("addition_embed_type")
    if embedding == "text_time":
        refuse("addition_embed_type", "Stable Diffusion XL")
    if embedding is not None:
        refuse("addition_embed_type", "a model with an additional embedding (Kandinsky, DeepFloyd IF)")
    if config.get("encoder_hid_dim_type") is not None or config.get("encoder_hid_dim") is not None:
        refuse("encoder_hid_dim_type", "a model with projected conditions (Kandinsky, DeepFloyd IF, IP-Adapter)")
    if config.get("class_embed_type") is not None:
        refuse("class_embed_type", "a model conditioned on classes, images or noise levels (such as unCLIP)")
    if config.get("num_class_embeds") is not None:
        refuse("num_class_embeds", "a model with class labels (such as Stable Diffusion's upscaler)")
    if config.get("time_cond_proj_dim") is not None:
        refuse("time_cond_proj_dim", "a model told its guidance scale (such as a latent consistency model)")
    if config.get("dual_cross_attention"):
        refuse("dual_cross_attention", "Versatile Diffusion")
    if config.get("attention_type", "default") != "default":
        refuse("attention_type", "a model grounded on boxes (GLIGEN)")
    widths = config.get("cross_attention_dim", 1280)
    if not isinstance(widths, int) and len(set(widths)) != 1:
        refuse("cross_attention_dim", "a model whose blocks read texts of different widths")
    _check_channels(config, source)
    _check_blocks("down_block_types", config.get("down_block_types", ()), DOWN_BLOCKS, source)
    _check_blocks("mid_block_type", (config.get("mid_block_type", MID_BLOCKS[0]),), MID_BLOCKS, source)
    _check_blocks("up_block_types", config.get("up_block_types", ()), UP_BLOCKS, source)


def _check_channels(config: Mapping[str, Any], source: str) -> None:
    inputs, outputs = config.get("in_channels", 4), config.get("out_channels", 4)
    if inputs != outputs:
        kind = _WIDER_INPUTS.get(inputs, "a model with additional inputs or a learned variance")
        raise VideoError(
            f"{source}: in_channels = {inputs} and out_channels = {outputs}, which is {kind}; a text-to-image UNet, "
            "whose output has the channels of its input, was expected"
        )


def _check_blocks(name: str, found: Iterable[str | None], known: tuple[str | None, ...], source: str) -> None:
    foreign = sorted({str(kind) for kind in found if kind not in known})
    if foreign:
        expected = ", ".join(str(kind) for kind in known)
        raise VideoError(f"{source}: {name} holds {', '.join(foreign)}, which cannot be inflated; expected {expected}")

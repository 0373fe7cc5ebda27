"""`InflatedUNet`: Stable Diffusion's UNet over the frames of a clip. (Wu et al. 2023, "Tune-A-Video", section 3)

Shape letters: B clips, C latent channels, F frames, h w latent size, L text tokens, D text width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from ..common.attention import Attention
from .errors import VideoError
from .unet_blocks import ClipInputs, InflatedDownBlock, InflatedMidBlock, InflatedUpBlock, clip_layouts
from .unet_config import InflatedConfig, TemporalInit


class InflatedUNet(nn.Module):
    """The denoising net of a video: what an image UNet computes for every frame, with attention between frames.

    Convolutions act on each frame. Self-attention of frame i reads frames 0 and i - 1 instead of frame i; a temporal
    attention `attn_temp` at every position closes each transformer block. Parameters are named as in Tune-A-Video:
    diffusers' names of the image UNet, and `*.attn_temp.*` and `*.norm_temp.*`.

    Args:
        config: the image UNet's config and the options of the inflation.
        generator: for the temporal branches' random weights; None means one with seed 0. The other weights are
            random too: `inflate` makes a net with those of an image UNet, `read_inflated` one with trained weights.

    Attributes:
        gradient_checkpointing: see `enable_gradient_checkpointing`.
        borrowed: names of parameters whose memory is another module's, until `own_parameters` copies them.
    """

    def __init__(self, config: InflatedConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.borrowed: set[str] = set()
        image = UNet2DConditionModel.from_config(dict(config.unet2d))
        assert isinstance(image, UNet2DConditionModel)
        self.center_input = bool(image.config["center_input_sample"])
        width = image.config["cross_attention_dim"]
        self.text_dim: int = width if isinstance(width, int) else width[0]
        self.has_dropout = image.config["dropout"] > 0
        self.conv_in = image.conv_in
        self.time_proj, self.time_embedding = image.time_proj, image.time_embedding
        self.time_embed_act: nn.Module | None = image.time_embed_act
        self.down_blocks = nn.ModuleList([InflatedDownBlock(block) for block in image.down_blocks])
        self.mid_block = None if image.mid_block is None else InflatedMidBlock(image.mid_block)
        self.up_blocks = nn.ModuleList([InflatedUpBlock(block) for block in image.up_blocks])
        self.conv_norm_out: nn.Module | None = image.conv_norm_out
        self.conv_act: nn.Module | None = image.conv_act
        self.conv_out = image.conv_out
        self.reset_temporal(config.temporal_init, generator)

    def forward(self, x: Tensor, t: Tensor | float, text: Tensor) -> Tensor:
        """Noise, or velocity, that the image model would predict for each frame.

        Args:
            x: [B, C, F, h, w] latents; any F and any size.
            t: time steps as the image UNet counts them (0 to 999 for Stable Diffusion), a number or [B].
            text: [B, L, D] text states, one prompt for a clip.

        Returns:
            [B, C, F, h, w].

        Raises:
            VideoError: if shapes do not fit.
        """
        self._check(x, text)
        batch, num_frames = x.shape[0], x.shape[2]
        clip = ClipInputs(
            num_frames,
            self._time(t, x),
            text.to(x.dtype),
            self.config.group_norm,
            clip_layouts(num_frames, self._sizes(x)),
            self.gradient_checkpointing and torch.is_grad_enabled(),
            self.has_dropout and self.training,
        )
        h = x.transpose(1, 2).flatten(0, 1)
        h = self.conv_in(2 * h - 1 if self.center_input else h)

        skips = [h]
        for block in self.down_blocks:
            h, more = block(h, clip)
            skips.extend(more)
        if self.mid_block is not None:
            h = self.mid_block(h, clip)
        for block in self.up_blocks:
            assert isinstance(block, InflatedUpBlock)
            split = len(skips) - len(block.resnets)
            own, skips = skips[split:], skips[:split]
            # A size that does not halve evenly on the way down is not twice the smaller one on the way up.
            size = (skips[-1].shape[-2], skips[-1].shape[-1]) if skips else None
            h = block(h, own, size, clip)

        if self.conv_norm_out is not None and self.conv_act is not None:
            h = self.conv_act(clip.normed(self.conv_norm_out, h))
        return self.conv_out(h).unflatten(0, (batch, num_frames)).transpose(1, 2).contiguous()

    def _time(self, t: Tensor | float, x: Tensor) -> Tensor:
        """[B, T] embedding of the time steps."""
        steps = torch.as_tensor(t, device=x.device)
        if steps.ndim > 1 or (steps.ndim == 1 and len(steps) not in (1, x.shape[0])):
            raise VideoError(f"t: expected a number or [{x.shape[0]}], one for each clip, found {list(steps.shape)}")
        steps = steps.expand(x.shape[0])
        embedding = self.time_embedding(self.time_proj(steps).to(x.dtype))
        return embedding if self.time_embed_act is None else self.time_embed_act(embedding)

    def _sizes(self, x: Tensor) -> tuple[int, ...]:
        """Tokens of a frame at every depth of the net."""
        sizes = [(x.shape[-2], x.shape[-1])]
        for block in self.down_blocks:
            assert isinstance(block, InflatedDownBlock)
            sizes.append(block.halved(sizes[-1]))
        return tuple(height * width for height, width in dict.fromkeys(sizes))

    def _check(self, x: Tensor, text: Tensor) -> None:
        channels = self.conv_in.in_channels
        if x.ndim != 5 or x.shape[1] != channels or x.shape[2] == 0:
            raise VideoError(
                f"x: expected latents [B, {channels}, F, h, w] of at least one frame, found {list(x.shape)}"
            )
        if text.ndim != 3 or text.shape[0] != x.shape[0] or text.shape[-1] != self.text_dim:
            raise VideoError(f"text: expected [{x.shape[0]}, L, {self.text_dim}], found {list(text.shape)}")

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute every ResNet block and transformer in the backward pass: less memory, about a third more time.

        All layers get their gradients, the down blocks too. (Tune-A-Video's reentrant checkpoints gave those none:
        `select_trainable(unet, "published_checkpointing")` trains what then was left.)
        """
        self.gradient_checkpointing = enabled

    def temporal_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """(name, module) of everything that the image UNet does not have."""
        for name, module in self.named_modules():
            if name.rpartition(".")[2] in ("attn_temp", "norm_temp"):
                yield name, module

    @torch.no_grad()
    def reset_temporal(self, init: TemporalInit, generator: torch.Generator | None = None) -> None:
        """Draw the temporal branches anew: torch's initialisation of Linear and LayerNorm, the output zeroed.

        Tensors are drawn in float32 on the generator's device and in the order of the modules, so that they depend
        on the generator alone. On the meta device nothing is done.
        """
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        for _, module in self.temporal_modules():
            if next(module.parameters()).is_meta:
                continue
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
                continue
            assert isinstance(module, Attention)
            out = module.to_out[0]
            assert isinstance(out, nn.Linear)
            for layer in (module.to_q, module.to_k, module.to_v):
                _fill_uniform(layer.weight, layer.in_features, generator)
            out.weight.zero_()
            _fill_uniform(out.bias, out.in_features, generator)
            if init == "zero":
                out.bias.zero_()


def _fill_uniform(tensor: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """Uniform in +-1 / sqrt(fan_in), as `nn.Linear` starts its weight and bias."""
    bound = 1 / math.sqrt(fan_in)
    drawn = torch.empty(tensor.shape, device=generator.device).uniform_(-bound, bound, generator=generator)
    tensor.copy_(drawn)

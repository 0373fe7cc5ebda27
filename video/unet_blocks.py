"""The inflated UNet's blocks: diffusers' own layers on frames folded into the batch, transformers on the shared core.

Shape letters: B clips, F frames, C channels, h w size, S = h w tokens of a frame, L text tokens, D text width.
Every activation is [B * F, C, h, w], frames of a clip one after another; parameter names are diffusers'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..common.attention import Attention, SegmentLayout, attend
from ..common.attention.kernels import Backend
from ..common.nn.blocks import AttentionBranch, Block, FeedForwardBranch, inflated_block
from .unet_config import GroupNormOver

ATTENTIONS = ("attn1", "attn2", "attn_temp")

Layouts = Mapping[int, Mapping[str, SegmentLayout]]
_LAYOUTS: dict[tuple[int, tuple[int, ...]], Layouts] = {}


def clip_layouts(num_frames: int, sizes: tuple[int, ...]) -> Layouts:
    """Who reads whom among F frames, for each number of tokens per frame: {S: {name: layout}}.

    Built once per clip shape, since layouts keep index tables.
    """
    _make_layouts(num_frames, sizes)
    return _LAYOUTS[num_frames, sizes]


# torch.compile runs this while it traces, and then reads the table like any other it finds.
@torch.compiler.assume_constant_result
def _make_layouts(num_frames: int, sizes: tuple[int, ...]) -> bool:
    if (num_frames, sizes) not in _LAYOUTS:
        _LAYOUTS[num_frames, sizes] = {
            tokens: {
                "sparse_causal": SegmentLayout.sparse_causal(num_frames, tokens),
                "temporal": SegmentLayout.temporal(num_frames, tokens),
            }
            for tokens in sizes
        }
    return True


@dataclass(frozen=True)
class ClipInputs:
    """What every block of one forward pass is told beside its activation.

    num_frames: F; time: [B, T] time embedding, one for a clip; text: [B, L, D]; group_norm: see `InflatedConfig`;
    layouts: of every size on the way down, see `clip_layouts`; checkpointing: recompute layers in the backward pass;
    random: the layers draw random numbers (dropout).
    """

    num_frames: int
    time: Tensor
    text: Tensor
    group_norm: GroupNormOver
    layouts: Layouts
    checkpointing: bool = False
    random: bool = False

    def run(self, layer: nn.Module, *tensors: Tensor) -> Tensor:
        """`layer(*tensors, self)`, keeping only its inputs for the backward pass under checkpointing.

        Non-reentrant: the reentrant kind gives no gradient to a layer none of whose inputs needs one, and so left the
        down blocks of Tune-A-Video untrained.
        """
        if not self.checkpointing:
            return layer(*tensors, self)
        return checkpoint(layer, *tensors, self, use_reentrant=False, preserve_rng_state=self.random)

    def normed(self, norm: nn.Module, x: Tensor) -> Tensor:
        """A GroupNorm over x [B * F, C, h, w] with statistics per clip or per frame."""
        if self.group_norm == "frame" or self.num_frames == 1:
            return norm(x)
        clips = x.unflatten(0, (-1, self.num_frames)).transpose(1, 2)
        return norm(clips).transpose(1, 2).flatten(0, 1)

    def over_frames(self, per_clip: Tensor, x: Tensor) -> Tensor:
        """per_clip [B, C] as [B * F, C, 1, 1], in x's dtype."""
        return per_clip.to(x.dtype).repeat_interleave(self.num_frames, dim=0)[:, :, None, None]


class Float32Attention(Attention):
    """Attention with queries, keys and values in float32 or wider: the scores of Stable Diffusion 2.1 overflow half
    precision (`upcast_attention`)."""

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        layout: SegmentLayout | None = None,
        *,
        backend: Backend = "auto",
    ) -> Tensor:
        """As `Attention.forward`."""
        context = x if context is None else context
        pairs = ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        projected = [project(tokens).unflatten(-1, (self.heads, -1)) for project, tokens in pairs]
        q, k, v = (y.to(torch.promote_types(y.dtype, torch.float32)) for y in projected)
        with torch.autocast(x.device.type, enabled=False):
            out = attend(q, k, v, layout, backend=backend)
        return self.to_out[0](out.flatten(2).to(projected[0].dtype))


class InflatedResnet(nn.Module):
    """A ResNet block over the frames of a clip: convolutions per frame, GroupNorm per clip or frame, one time vector.

    Takes over the layers of a `ResnetBlock2D`.
    """

    def __init__(self, resnet: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1, self.conv1 = resnet.norm1, resnet.conv1
        self.time_emb_proj: nn.Module | None = resnet.time_emb_proj
        self.norm2, self.dropout, self.conv2 = resnet.norm2, resnet.dropout, resnet.conv2
        self.nonlinearity = resnet.nonlinearity
        self.conv_shortcut: nn.Module | None = resnet.conv_shortcut
        self.scale_shift = resnet.time_embedding_norm == "scale_shift"
        self.skip_time_act = resnet.skip_time_act
        self.output_scale_factor = resnet.output_scale_factor

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        """x [B * F, C, h, w], optionally a skip to append to its channels, ClipInputs -> [B * F, C', h, w]."""
        *skips, clip = rest
        assert isinstance(clip, ClipInputs)
        # Joined in here, so that checkpointing keeps the two parts, which others need too, and not the sum.
        x = torch.cat([x, *skips], dim=1) if skips else x
        h = self.conv1(self.nonlinearity(clip.normed(self.norm1, x)))
        if self.time_emb_proj is None:
            h = clip.normed(self.norm2, h)
        else:
            time = clip.time if self.skip_time_act else self.nonlinearity(clip.time)
            time = clip.over_frames(self.time_emb_proj(time), h)
            if self.scale_shift:
                scale, shift = time.chunk(2, dim=1)
                h = clip.normed(self.norm2, h) * (1 + scale) + shift
            else:
                h = clip.normed(self.norm2, h + time)
        h = self.conv2(self.dropout(self.nonlinearity(h)))
        x = x if self.conv_shortcut is None else self.conv_shortcut(x)
        x = x + h
        return x if self.output_scale_factor == 1 else x / self.output_scale_factor


class InflatedTransformer(nn.Module):
    """A transformer over all tokens of a clip: attn1 to frames 0 and i - 1, attn2 to the text, ff, attn_temp over time.

    Takes over norm, proj_in and proj_out of a `Transformer2DModel`, whose blocks become the core's.
    """

    def __init__(self, transformer: Transformer2DModel) -> None:
        super().__init__()
        self.norm = transformer.norm
        self.proj_in = transformer.proj_in
        self.transformer_blocks = nn.ModuleList(
            [_block_of(transformer.config) for _ in range(transformer.config["num_layers"])]
        )
        self.proj_out = transformer.proj_out
        self.linear = isinstance(transformer.proj_in, nn.Linear)

    def forward(self, x: Tensor, clip: ClipInputs) -> Tensor:
        """x [B * F, C, h, w] -> the same shape."""
        height, width = x.shape[-2:]
        h = self.norm(x)
        h = h if self.linear else self.proj_in(h)
        # [B, F * S, C]: a row is a clip, so the text's keys and values are made once for all of its frames.
        h = h.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (-1, clip.num_frames)).flatten(1, 2)
        h = self.proj_in(h) if self.linear else h
        layouts = clip.layouts[height * width]
        for block in self.transformer_blocks:
            h = block(h, contexts={"text": clip.text}, layouts=layouts)
        h = self.proj_out(h) if self.linear else h
        h = h.unflatten(1, (clip.num_frames, height, width)).flatten(0, 1).permute(0, 3, 1, 2)
        h = h if self.linear else self.proj_out(h)
        return x + h


def _block_of(config: Any) -> Block:
    """The core's block for one layer of a Transformer2DModel of that config."""
    heads, head_dim, text = config["num_attention_heads"], config["attention_head_dim"], config["cross_attention_dim"]
    dim = heads * head_dim
    if config["only_cross_attention"]:
        branches = (
            AttentionBranch("attn1", "norm1", context="text", context_dim=text),
            AttentionBranch("attn2", "norm2", context="text", context_dim=text),
            FeedForwardBranch("ff", "norm3"),
            AttentionBranch("attn_temp", "norm_temp", "temporal", init="zero"),
        )
        block = Block(dim, heads=heads, head_dim=head_dim, branches=branches)
    else:
        block = inflated_block(dim, heads=heads, head_dim=head_dim, context_dim=text)
    if config["upcast_attention"]:
        for name in ATTENTIONS:
            context_dim = getattr(block, name).to_k.in_features
            setattr(block, name, Float32Attention(dim, heads=heads, head_dim=head_dim, context_dim=context_dim))
    return block


class InflatedDownBlock(nn.Module):
    """ResNet blocks, a transformer after each where there are any, a strided convolution where the size halves."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.attentions, self.resnets = _inflated_layers(block)
        self.downsamplers = _samplers(block, "downsamplers", Downsample2D)

    def halved(self, size: tuple[int, int]) -> tuple[int, int]:
        """The height and width of the output for those of the input."""
        height, width = size
        for downsampler in self.downsamplers or ():
            assert isinstance(downsampler, Downsample2D)
            # diffusers pads right and bottom alone where the padding is 0.
            pad = 2 * downsampler.padding if downsampler.padding else 1
            height, width = ((length + pad - 3) // 2 + 1 for length in (height, width))
        return height, width

    def forward(self, x: Tensor, clip: ClipInputs) -> tuple[Tensor, list[Tensor]]:
        """x [B * F, C, h, w] -> (the output, every activation that the up path reads)."""
        skips: list[Tensor] = []
        for i, resnet in enumerate(self.resnets):
            x = clip.run(resnet, x)
            if self.attentions is not None:
                x = clip.run(self.attentions[i], x)
            skips.append(x)
        if self.downsamplers is not None:
            for downsampler in self.downsamplers:
                x = downsampler(x)
            skips.append(x)
        return x, skips


class InflatedMidBlock(nn.Module):
    """A ResNet block, then transformers each with a ResNet block behind it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.attentions, self.resnets = _inflated_layers(block)

    def forward(self, x: Tensor, clip: ClipInputs) -> Tensor:
        """x [B * F, C, h, w] -> the same shape."""
        x = clip.run(self.resnets[0], x)
        for i, resnet in enumerate(list(self.resnets)[1:]):
            if self.attentions is not None:
                x = clip.run(self.attentions[i], x)
            x = clip.run(resnet, x)
        return x


class InflatedUpBlock(nn.Module):
    """ResNet blocks that read the skips from last to first, transformers, nearest-neighbour upsampling."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.attentions, self.resnets = _inflated_layers(block)
        self.upsamplers = _samplers(block, "upsamplers", Upsample2D)

    def forward(self, x: Tensor, skips: Sequence[Tensor], size: tuple[int, int] | None, clip: ClipInputs) -> Tensor:
        """x [B * F, C, h, w] with one skip per ResNet block -> [B * F, C', *size]; size None: not resized."""
        for i, (resnet, skip) in enumerate(zip(self.resnets, reversed(skips), strict=True)):
            x = clip.run(resnet, x, skip)
            if self.attentions is not None:
                x = clip.run(self.attentions[i], x)
        if self.upsamplers is not None:
            for upsampler in self.upsamplers:
                x = upsampler(x, size)
        return x


def _inflated_layers(block: nn.Module) -> tuple[nn.ModuleList | None, nn.ModuleList]:
    resnets = nn.ModuleList([InflatedResnet(resnet) for resnet in _children(block, "resnets", ResnetBlock2D)])
    attentions = [InflatedTransformer(layer) for layer in _children(block, "attentions", Transformer2DModel)]
    return nn.ModuleList(attentions) if attentions else None, resnets


def _samplers(block: nn.Module, name: str, kind: type[nn.Module]) -> nn.ModuleList | None:
    found = _children(block, name, kind)
    return nn.ModuleList(found) if found else None


def _children(block: nn.Module, name: str, kind: type[Any]) -> list[Any]:
    layers = list(getattr(block, name, None) or ())
    for layer in layers:
        if not isinstance(layer, kind):
            raise TypeError(f"{type(block).__name__}.{name}: expected {kind.__name__}, found {type(layer).__name__}")
    return layers

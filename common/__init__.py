"""The shared denoiser core: attention, transformer, diffusion process, samplers, training loop."""

from .attention import Attention, SegmentLayout, attend, dense_mask
from .pretrained import PretrainedModel
from .transformer import TokenTransformer, TransformerConfig

__all__ = [
    "Attention",
    "PretrainedModel",
    "SegmentLayout",
    "TokenTransformer",
    "TransformerConfig",
    "attend",
    "dense_mask",
]

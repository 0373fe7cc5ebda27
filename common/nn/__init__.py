"""Parts of a denoiser: embeddings, coordinate features, feed-forward, modulation, and the block that joins them."""

from .blocks import (
    AttentionBranch,
    Block,
    Branch,
    FeedForwardBranch,
    SummedAttention,
    dit_block,
    house_diffusion_block,
    inflated_block,
    stable_diffusion_block,
)
from .coordinates import FourierFeatures, bits_to_coords, quantised_bits, sincos_features
from .embeddings import TimeEmbedding, timestep_embedding
from .feed_forward import Activation, FeedForward
from .modulation import AdaLNZero, modulate

__all__ = [
    "Activation",
    "AdaLNZero",
    "AttentionBranch",
    "Block",
    "Branch",
    "FeedForward",
    "FeedForwardBranch",
    "FourierFeatures",
    "SummedAttention",
    "TimeEmbedding",
    "bits_to_coords",
    "dit_block",
    "house_diffusion_block",
    "inflated_block",
    "modulate",
    "quantised_bits",
    "sincos_features",
    "stable_diffusion_block",
    "timestep_embedding",
]

"""Diffusion Probabilistic Models for 3D Point Cloud Generation (Luo & Hu 2021), number for number."""

from .autoencoder import AutoEncoder, AutoEncoderConfig
from .vae import FlowVAE, FlowVAEConfig, GaussianVAE, GaussianVAEConfig, VAELoss

__all__ = [
    "AutoEncoder",
    "AutoEncoderConfig",
    "FlowVAE",
    "FlowVAEConfig",
    "GaussianVAE",
    "GaussianVAEConfig",
    "VAELoss",
]

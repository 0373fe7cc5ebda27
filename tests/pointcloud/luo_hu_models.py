"""The models of the recorded numbers, made from the original's tensors through our own checkpoint reader."""

from __future__ import annotations

import argparse
from copy import deepcopy
from functools import cache

from torch import Tensor
from trifold.pointcloud.luo_hu.autoencoder import AutoEncoder
from trifold.pointcloud.luo_hu.checkpoint import Kind, model_from_original
from trifold.pointcloud.luo_hu.vae import FlowVAE, GaussianVAE

from . import golden

KINDS: dict[str, Kind] = {"AutoEncoder": "autoencoder", "GaussianVAE": "gaussian", "FlowVAE": "flow"}
CONFIG = golden.notes()["config"]


def arguments(**changes) -> argparse.Namespace:
    """What the original's script would have saved beside the small model."""
    settings = {
        "latent_dim": CONFIG["latent_dim"],
        "num_steps": CONFIG["num_steps"],
        "beta_1": CONFIG["beta_1"],
        "beta_T": CONFIG["beta_T"],
        "sched_mode": "linear",
        "residual": CONFIG["residual"],
        "latent_flow_depth": CONFIG["flow_depth"],
        "latent_flow_hidden_dim": CONFIG["flow_hidden"],
        "scale_mode": "shape_unit",
        "categories": ["airplane"],
        "max_iters": float("inf"),
    }
    return argparse.Namespace(**{**settings, **changes})


def original_tensors(kind: Kind) -> dict[str, Tensor]:
    """The small model's tensors under the original's names; the same nets serve all three models."""
    return {k: v for k, v in golden.state_dict().items() if kind == "flow" or not k.startswith("flow.")}


@cache
def _small(kind: Kind, residual: bool) -> AutoEncoder | GaussianVAE | FlowVAE:
    extra = {} if kind == "autoencoder" else {"model": kind}
    return model_from_original(original_tensors(kind), arguments(residual=residual, **extra))


def autoencoder(residual: bool = True) -> AutoEncoder:
    """A copy of its own, in eval mode."""
    model = deepcopy(_small("autoencoder", residual))
    assert isinstance(model, AutoEncoder)
    return model


def gaussian_vae() -> GaussianVAE:
    """A copy of its own, in eval mode."""
    model = deepcopy(_small("gaussian", True))
    assert isinstance(model, GaussianVAE)
    return model


def flow_vae() -> FlowVAE:
    """A copy of its own, in eval mode."""
    model = deepcopy(_small("flow", True))
    assert isinstance(model, FlowVAE)
    return model

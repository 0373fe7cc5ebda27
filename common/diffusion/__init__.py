"""The diffusion process: paths, parametrisations, denoisers, losses and time grids."""

from .denoiser import Denoiser, Prediction3
from .discrete import DiscretePath, cosine_path, discrete_path, linear_path, respace, space_timesteps
from .losses import DenoisingLoss, LossTerms
from .path import (
    AffinePath,
    EDMPath,
    RectifiedFlowPath,
    Time,
    VEPath,
    VPCosinePath,
    VPLinearPath,
    edm_path,
    expand,
    rectified_flow_path,
    ve_path,
    vp_cosine_path,
    vp_linear_path,
)
from .precondition import EDMPrecondition
from .prediction import Prediction, from_x0, target, to_eps, to_x0
from .times import karras_times, log_snr_times, uniform_times

__all__ = [
    "AffinePath",
    "Denoiser",
    "DenoisingLoss",
    "DiscretePath",
    "EDMPath",
    "EDMPrecondition",
    "LossTerms",
    "Prediction",
    "Prediction3",
    "RectifiedFlowPath",
    "Time",
    "VEPath",
    "VPCosinePath",
    "VPLinearPath",
    "cosine_path",
    "discrete_path",
    "edm_path",
    "expand",
    "from_x0",
    "karras_times",
    "linear_path",
    "log_snr_times",
    "rectified_flow_path",
    "respace",
    "space_timesteps",
    "target",
    "to_eps",
    "to_x0",
    "uniform_times",
    "ve_path",
    "vp_cosine_path",
    "vp_linear_path",
]

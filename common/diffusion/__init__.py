"""The diffusion process: paths, parametrisations, denoisers, losses, time grids and samplers."""

from .denoiser import Denoiser, Prediction3
from .diffusers_adapter import from_diffusers, scheduler_for
from .discrete import DiscretePath, cosine_path, discrete_path, linear_path, respace, space_timesteps
from .edm import edm_heun
from .gaussian import GaussianMixtureDenoiser
from .guidance import guided
from .implicit import ddim, ddim_invert
from .langevin import annealed_langevin, predictor_corrector
from .losses import DenoisingLoss, LossTerms
from .noise import NoiseSource, PerSampleNoise, ReplayNoise, as_noise, initial_noise
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
from .samplers import ancestral, ode
from .stable_target import stable_target
from .step import OnStep, Sampler, Step
from .times import karras_times, log_snr_times, shifted_time, uniform_times

__all__ = [
    "AffinePath",
    "Denoiser",
    "DenoisingLoss",
    "DiscretePath",
    "EDMPath",
    "EDMPrecondition",
    "GaussianMixtureDenoiser",
    "LossTerms",
    "NoiseSource",
    "OnStep",
    "PerSampleNoise",
    "Prediction",
    "Prediction3",
    "RectifiedFlowPath",
    "ReplayNoise",
    "Sampler",
    "Step",
    "Time",
    "VEPath",
    "VPCosinePath",
    "VPLinearPath",
    "ancestral",
    "annealed_langevin",
    "as_noise",
    "cosine_path",
    "ddim",
    "ddim_invert",
    "discrete_path",
    "edm_heun",
    "edm_path",
    "expand",
    "from_diffusers",
    "from_x0",
    "guided",
    "initial_noise",
    "karras_times",
    "linear_path",
    "log_snr_times",
    "ode",
    "predictor_corrector",
    "rectified_flow_path",
    "respace",
    "scheduler_for",
    "shifted_time",
    "space_timesteps",
    "stable_target",
    "target",
    "to_eps",
    "to_x0",
    "uniform_times",
    "ve_path",
    "vp_cosine_path",
    "vp_linear_path",
]

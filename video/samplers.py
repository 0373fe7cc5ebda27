"""The samplers a user can name, each on the schedule's own grid of times."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor

from ..common.diffusion import OnStep, Sampler, ancestral, ddim, edm_heun, from_diffusers, scheduler_for
from ..common.diffusion.noise import Randomness
from ..common.diffusion.step import DenoiserLike, Progress
from .errors import VideoError
from .schedule import Schedule

SamplerName = Literal["ddim", "ddpm", "heun", "euler", "dpmsolver++", "sde-dpmsolver++"]
_SOLVERS = ("euler", "dpmsolver++", "sde-dpmsolver++")  # diffusers'


def run_sampler(
    sampler: SamplerName | Sampler,
    schedule: Schedule,
    denoiser: DenoiserLike,
    x: Tensor,
    cond: Any,
    *,
    steps: int,
    strength: float = 1.0,
    eta: float = 0.0,
    generator: Randomness = None,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """From x [B, ...] at the grid's first time to clean latents, shape of x.

    ddim (`eta` 0 to 1), ddpm (ancestral) and heun (two calls a step; Karras et al. 2022) are the core's; euler,
    dpmsolver++ (2M) and sde-dpmsolver++ are diffusers'. Any function with the core's `Sampler` signature does as well;
    it gets the core's grid. Raises VideoError for an unknown name or an `eta` with another sampler.
    """
    if eta != 0 and sampler != "ddim":
        raise VideoError(f"eta: only ddim has it, found {eta} with {sampler!r}")
    grid = schedule.solver_times if sampler in _SOLVERS else schedule.times
    run = sampler_named(sampler, schedule, eta) if isinstance(sampler, str) else sampler
    return run(denoiser, x, grid(steps, strength), cond, generator=generator, on_step=on_step, progress=progress)


def sampler_named(name: str, schedule: Schedule, eta: float = 0.0) -> Sampler:
    """The sampler of that name for a schedule; VideoError for an unknown one."""
    core: dict[str, Sampler] = {"ddim": partial(ddim, eta=eta), "ddpm": ancestral, "heun": edm_heun}
    if name in core:
        return core[name]
    if name not in get_args(SamplerName):
        raise VideoError(f"sampler: expected one of {', '.join(get_args(SamplerName))}, found {name!r}")
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    # What the scheduler calls the net's output: v can be told where alpha = 0, eps cannot.
    kind = "v_prediction" if schedule.prediction == "v" else "epsilon"
    if name == "euler":
        return from_diffusers(scheduler_for(schedule.path, EulerDiscreteScheduler, prediction_type=kind))
    solver = scheduler_for(schedule.path, DPMSolverMultistepScheduler, algorithm_type=name, prediction_type=kind)
    return from_diffusers(solver)

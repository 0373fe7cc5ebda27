"""DDIM inversion and guided sampling against the original's recorded runs, on one grid of times."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from trifold.common.diffusion import Denoiser
from trifold.common.diffusion.guidance import guided
from trifold.common.diffusion.implicit import ddim, ddim_invert
from trifold.common.diffusion.step import OnStep, Step

from . import golden

both_sets = pytest.mark.parametrize("name", golden.SETS)
both_weights = pytest.mark.parametrize("weights", golden.WEIGHTS)

INVERSION, SAMPLING, ONE_STEP = 2e-5, 5e-4, 1e-5


def times(name: str) -> list[int]:
    """Down to time 0: the original's alpha_bar of "no time left" is that of time 0 (`set_alpha_to_one` False)."""
    return [*golden.notes(name)["ddim"]["sampling_timesteps"], 0]


def denoiser(name: str, weights: str) -> Denoiser:
    return Denoiser(golden.fixed_unet(name, weights), golden.path(), "eps")


def recording(states: list[Tensor]) -> OnStep:
    def keep(step: Step) -> Tensor:
        states.append(step.x_s)
        return step.x_s

    return keep


def from_recorded(states: Tensor, worst: list[float]) -> OnStep:
    """Compares each proposal with the recorded state, and goes on from the recorded one."""

    def compare(step: Step) -> Tensor:
        worst.append(golden.relative(step.x_s, states[step.index]))
        return states[step.index]

    return compare


@both_sets
def test_the_grid(name: str) -> None:
    notes = golden.notes(name)["ddim"]
    assert times(name)[-2::-1] == notes["inversion_timesteps_in_order_used"]
    path = golden.path()
    assert float(path.alpha(0)) ** 2 == pytest.approx(notes["final_alpha_cumprod"], rel=1e-6)
    found = (path.alpha(torch.tensor(notes["sampling_timesteps"])) ** 2).tolist()
    assert found == pytest.approx(notes["alphas_cumprod_at_sampling_timesteps"], rel=1e-5)


@both_sets
@both_weights
@pytest.mark.parametrize("text", ["uncond", "cond"])
def test_inversion(name: str, weights: str, text: str) -> None:
    data = golden.inputs(name)
    recorded = golden.outputs(name)[f"{weights}.ddim_inv_{text}"]
    states: list[Tensor] = []
    last = ddim_invert(
        denoiser(name, weights), data["clean_latents"], times(name), data[f"text_{text}"], on_step=recording(states)
    )
    assert len(states) == len(recorded) - 1
    for found, expected in zip(states, recorded[1:], strict=True):
        assert golden.relative(found, expected) < INVERSION
    assert torch.equal(last, states[-1])


@both_sets
@both_weights
def test_guided_sampling(name: str, weights: str) -> None:
    data, scale = golden.inputs(name), golden.notes(name)["ddim"]["guidance_scale"]
    start = golden.outputs(name)[f"{weights}.ddim_inv_uncond"][-1]
    recorded = golden.outputs(name)[f"{weights}.ddim_sample_cfg7.5"]
    steered = guided(denoiser(name, weights), scale, data["text_uncond"])
    worst: list[float] = []
    ddim(steered, start, times(name), data["text_cond"], on_step=from_recorded(recorded, worst))
    assert len(worst) == 10
    assert max(worst) < ONE_STEP
    assert golden.relative(ddim(steered, start, times(name), data["text_cond"]), recorded[-1]) < SAMPLING


@both_sets
@both_weights
@pytest.mark.parametrize("text", ["cond", "uncond"])
def test_sampling_without_guidance(name: str, weights: str, text: str) -> None:
    data = golden.inputs(name)
    start = golden.outputs(name)[f"{weights}.ddim_inv_uncond"][-1]
    found = ddim(denoiser(name, weights), start, times(name), data[f"text_{text}"])
    assert golden.relative(found, golden.outputs(name)[f"{weights}.ddim_sample_cfg1_{text}_final"]) < SAMPLING

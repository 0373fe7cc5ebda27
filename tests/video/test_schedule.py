"""The schedule of a folder: its levels and its grid of times are those of diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler
from trifold.video.errors import VideoError
from trifold.video.schedule import Schedule

from .tiny import SD_SCHEDULE


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero", [False, True])
def test_the_levels_are_those_of_diffusers(beta_schedule, zero):
    config = {**SD_SCHEDULE, "beta_schedule": beta_schedule, "rescale_betas_zero_snr": zero}
    config["prediction_type"] = "v_prediction"
    ours = Schedule.from_config(config, "here").path.alphas_cumprod
    theirs = DDIMScheduler(**config).alphas_cumprod.double()
    assert torch.allclose(ours, theirs, rtol=2e-4, atol=1e-6)  # their table is float32
    assert (float(ours[-1]) == 0) == zero


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", [1, 7, 20, 50, 333])
def test_the_grid_is_the_one_of_diffusers(spacing, offset, steps):
    scheduler = DDIMScheduler(**{**SD_SCHEDULE, "timestep_spacing": spacing, "steps_offset": offset})
    scheduler.set_timesteps(steps)
    schedule = Schedule.from_config(scheduler.config, "here")
    assert schedule.asked(steps) == scheduler.timesteps.tolist()


def test_where_the_grid_ends():
    stable = Schedule.from_config(SD_SCHEDULE, "here")
    assert stable.times(10) == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, 0]
    assert stable.times(10, 0.3) == [201, 101, 1, 0]
    assert stable.solver_times(10, 0.3) == [201, 101, 1, -1]
    clean = Schedule.from_config({**SD_SCHEDULE, "set_alpha_to_one": True}, "here")
    assert clean.times(4) == [751, 501, 251, 1, -1]
    at_zero = Schedule.from_config({**SD_SCHEDULE, "steps_offset": 0}, "here")
    assert at_zero.times(4) == [750, 500, 250, 0]  # the step from 0 to alphas_cumprod[0] would not move
    assert len(stable.times(50, 0.58)) == 30


def test_trained_betas_are_taken():
    betas = torch.linspace(0.01, 0.2, 30).tolist()
    schedule = Schedule.from_config({"trained_betas": betas}, "here")
    assert schedule.path.num_steps == 30
    assert torch.allclose(schedule.path.betas, torch.tensor(betas, dtype=torch.float64))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prediction_type": "flow"}, "here: prediction_type 'flow', expected one of epsilon"),
        ({"beta_schedule": "sigmoid"}, "here: beta_schedule 'sigmoid'"),
        ({"timestep_spacing": "even"}, "here: timestep_spacing 'even'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler is no schedule of betas"),
        ({"beta_end": "high"}, "here: could not convert"),
        ({"beta_end": 1.5}, "here: betas must be"),
        ({"steps_offset": -1}, "here: steps_offset -1"),
        ({"rescale_betas_zero_snr": True}, "needs prediction_type v_prediction"),
    ],
)
def test_a_schedule_that_cannot_be_used(fields, said):
    with pytest.raises(VideoError, match=said):
        Schedule.from_config({**SD_SCHEDULE, **fields}, "here")


@pytest.mark.parametrize("steps", [0, 1000, -3])
def test_steps_that_do_not_fit(steps):
    with pytest.raises(VideoError, match="steps: expected 1 to 999"):
        Schedule.from_config(SD_SCHEDULE, "here").times(steps)

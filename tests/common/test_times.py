"""Grids of sampling times and draws of training times."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler
from trifold.common.diffusion import (
    cosine_path,
    edm_path,
    linear_path,
    rectified_flow_path,
    space_timesteps,
    ve_path,
    vp_cosine_path,
    vp_linear_path,
)
from trifold.common.diffusion.times import karras_times, log_snr_times, uniform_times
from trifold.common.diffusion.training_times import ImportanceTimes, logit_normal, lognormal_sigma, uniform

PATHS = {
    "vp_linear": vp_linear_path(),
    "vp_cosine": vp_cosine_path(),
    "ve": ve_path(),
    "edm": edm_path(),
    "flow": rectified_flow_path(),
    "linear": linear_path(),
    "cosine": cosine_path(),
    "zero_snr": linear_path(rescale_zero_terminal_snr=True),
    "one_based": linear_path(100, one_based=True, label="beta"),
}

# -- grids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("n", [2, 7, 20, 27, 31, 48, 50, 1000])  # 27, 31 and 48 meet halves
def test_discrete_grids_agree_with_diffusers(spacing, n):
    theirs = DDPMScheduler(timestep_spacing=spacing)
    theirs.set_timesteps(n)
    assert uniform_times(linear_path(), n, spacing).tolist() == [*theirs.timesteps.tolist(), -1]


def test_uniform_grids():
    assert uniform_times(linear_path(), 1).tolist() == [999, -1]
    assert uniform_times(linear_path(), 20)[:-1].flip(0).tolist() == space_timesteps(1000, "20")
    assert uniform_times(linear_path(10, one_based=True), 10).tolist() == list(range(10, -1, -1))
    squares = uniform_times(linear_path(), 10, "quadratic")
    assert squares.tolist() == [*(int(v) for v in np.linspace(0, np.sqrt(800), 10)[::-1] ** 2), -1]
    assert uniform_times(rectified_flow_path(), 4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert uniform_times(ve_path(), 3).tolist() == [1, 0.5, 0, -math.inf]


def test_karras_grid_agrees_with_diffusers():
    theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_schedule="karras")
    theirs.set_timesteps(18)
    ours = karras_times(edm_path(), 18)
    torch.testing.assert_close(ours.float(), theirs.sigmas, rtol=1e-5, atol=0)
    assert ours.dtype == torch.float64
    assert ours[[0, -2, -1]].tolist() == [80, 0.002, 0]


@pytest.mark.parametrize("make", [karras_times, log_snr_times])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("n", [1, 2, 18, 90])
def test_grids_fall_from_noise_to_clean(make, path, n):
    pure = float(path.alpha(path.t_max)) == 0
    if pure:
        with pytest.raises(ValueError, match="give ratio_max"):
            make(path, n)
    times = make(path, n, ratio_max=80.0 if pure else None)
    assert len(times) == n + 1
    assert (times.diff() < 0).all()
    assert times[-1] == path.t_clean
    assert n == 1 or times[-2] == path.t_min
    if not pure:
        assert times[0] == path.t_max
    assert times.is_floating_point() != path.is_discrete


def test_grids_are_even_in_their_own_measure():
    path = vp_linear_path()
    steps = path.noise_to_signal(karras_times(path, 9)[:-1]) ** (1 / 7)
    torch.testing.assert_close(steps.diff(), steps.diff()[:1].expand(8), rtol=1e-8, atol=1e-10)
    steps = path.log_snr(log_snr_times(path, 9, ratio_min=0.1, ratio_max=10)[:-1])
    torch.testing.assert_close(steps, torch.linspace(-2 * math.log(10), 2 * math.log(10), 9, dtype=torch.float64))
    # Every step of a short chain, though the finest ratios crowd together.
    assert karras_times(linear_path(50), 50).tolist() == [*range(49, -1, -1), -1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform_times(linear_path(), 0), "must lie in 1"),
        (lambda: uniform_times(linear_path(10), 11), r"must lie in 1\.\.10"),
        (lambda: uniform_times(edm_path(), 4, "trailing"), "belongs to discrete paths"),
        (lambda: uniform_times(linear_path(), 4, "cubic"), "unknown spacing"),
        (lambda: uniform_times(linear_path(), 200, "quadratic"), "without repeating"),
        (lambda: karras_times(edm_path(), 4, ratio_min=90.0), "ratio_min < ratio_max"),
    ],
)
def test_grid_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- training times ----------------------------------------------------------------------------------------------------


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_uniform_covers_the_chain():
    t = uniform(linear_path(10), 20_000, generator=seeded())
    assert t.dtype == torch.long
    assert torch.bincount(t).min() > 1800
    one_based = uniform(linear_path(10, one_based=True), 1000, generator=seeded())
    assert (int(one_based.min()), int(one_based.max())) == (1, 10)
    smooth = uniform(ve_path(), 20_000, generator=seeded(), device=torch.device("cpu"))
    assert smooth.dtype == torch.float32
    assert float(smooth.mean()) == pytest.approx(0.5, abs=0.01)


def test_stratified_times_hit_every_stratum_once():
    t = uniform(linear_path(8), 8, generator=seeded(), stratified=True)
    assert sorted(t.tolist()) == list(range(8))


def test_logit_normal_is_what_it_says():
    path = rectified_flow_path(t_min=0.0)
    t = logit_normal(path, 50_000, generator=seeded(), mean=0.5, std=0.8).double()
    logits = torch.logit(t)
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(logits.std()) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("path", [edm_path(), vp_linear_path(), rectified_flow_path(), ve_path(0.002, 80)])
def test_lognormal_sigma_on_any_path(path):
    t = lognormal_sigma(path, 50_000, generator=seeded(), device=torch.device("cpu"))
    levels = path.noise_to_signal(t).log()
    assert float(levels.median()) == pytest.approx(-1.2, abs=0.03)
    assert float(levels.quantile(0.8413) - levels.median()) == pytest.approx(1.2, abs=0.04)
    assert float(t.min()) >= path.t_min


def test_lognormal_sigma_picks_the_nearest_step():
    t = lognormal_sigma(linear_path(), 5000, generator=seeded())
    assert t.dtype == torch.long
    assert float(linear_path().noise_to_signal(t).log().median()) == pytest.approx(-1.2, abs=0.1)


def test_importance_times_follow_the_second_moment():
    path = linear_path(4, one_based=True)
    times = ImportanceTimes(path, history=2, uniform_share=0.01)
    t, weights = times.draw(8, generator=seeded())
    assert torch.equal(weights, torch.ones(8))  # no history yet: uniform
    every = torch.tensor([1, 2, 3, 4])
    for losses in ([9.0, 9, 9, 9], [3.0, 0, 0, 1], [4.0, 0, 0, 1]):  # the first is forgotten
        times.update(every, torch.tensor(losses))
    root = torch.tensor([math.sqrt(12.5), 0, 0, 1], dtype=torch.float64)
    p = times.probabilities()
    torch.testing.assert_close(p, root / root.sum() * 0.99 + 0.0025)
    t, weights = times.draw(40_000, generator=seeded())
    torch.testing.assert_close(weights, (1 / (4 * p[t - 1])).float())
    # Unbiased: the weighted mean of any f over draws is its plain mean over t.
    assert float((weights * t).mean()) == pytest.approx(2.5, rel=0.15)

    restored = ImportanceTimes(path, history=2, uniform_share=0.01)
    restored.load_state_dict(times.state_dict())
    assert torch.equal(restored.probabilities(), p)
    with pytest.raises(ValueError, match=r"'losses' has shape \[4, 2\], expected \[4, 10\]"):
        ImportanceTimes(path).load_state_dict(times.state_dict())
    with pytest.raises(TypeError, match="found EDMPath"):
        ImportanceTimes(edm_path())

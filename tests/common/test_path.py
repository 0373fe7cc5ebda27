"""Paths, discrete tables, respacing, and agreement with recorded tables."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file
from trifold.common.diffusion import (
    DiscretePath,
    VPCosinePath,
    cosine_path,
    discrete_path,
    edm_path,
    expand,
    linear_path,
    rectified_flow_path,
    respace,
    space_timesteps,
    ve_path,
    vp_cosine_path,
    vp_linear_path,
)
from trifold.common.diffusion.likelihood import posterior_mean

GOLDEN = Path(__file__).parents[1] / "golden" / "floorplan"
CONTINUOUS = {
    "vp_linear": vp_linear_path(),
    "vp_cosine": vp_cosine_path(),
    "vp_circle": vp_cosine_path(0.0),
    "ve": ve_path(),
    "edm": edm_path(),
    "flow": rectified_flow_path(),
}
DISCRETE = {
    "linear": linear_path(),
    "cosine": cosine_path(),
    "zero_snr": linear_path(rescale_zero_terminal_snr=True),
    "one_based": linear_path(100, one_based=True, label="beta"),
}
PATHS = CONTINUOUS | DISCRETE


def inner_times(path, n=41):
    """Times strictly inside a path, away from the ends where alpha or sigma vanish."""
    if path.is_discrete:
        return torch.arange(path.t_min, path.t_max)
    return torch.linspace(path.t_min, path.t_max, n + 2, dtype=torch.float64)[1:-1]


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_expand_accepts_scalars_batches_and_packed_rows():
    x = torch.zeros(3, 5, 2)
    assert expand(0.5, x).shape == (1, 1, 1)
    assert expand(torch.tensor(7), x).shape == (1, 1, 1)
    assert expand(torch.arange(3), x).tolist() == [[[0.0]], [[1.0]], [[2.0]]]
    packed = torch.zeros(1, 5, 2)
    assert expand(torch.arange(5.0).view(1, 5, 1), packed).shape == (1, 5, 1)
    assert expand(torch.arange(4.0), torch.zeros(4)).shape == (4,)
    assert expand(0.1, x.half()).dtype == torch.float32
    assert expand(0.1, x.double()).dtype == torch.float64


@pytest.mark.parametrize("shape", [(5,), (3, 5), (3, 4, 1)])
def test_expand_refuses_what_does_not_fit(shape):
    with pytest.raises(ValueError, match=r"does not fit x of shape \[3, 5, 2\]"):
        expand(torch.zeros(shape), torch.zeros(3, 5, 2))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_packed_rows_get_each_token_its_own_time(path):
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 1, 7, 2, generator=generator)
    t = inner_times(path)[:7]
    packed = path.add_noise(x0, noise, t.view(1, 7, 1))
    one_by_one = torch.stack([path.add_noise(x0[0, i], noise[0, i], t[i]) for i in range(7)])
    torch.testing.assert_close(packed[0], one_by_one, rtol=0, atol=0)
    assert path.alpha(t.view(1, 7, 1)).shape == (1, 7, 1)
    assert path.alpha(t).dtype == path.sigma(t).dtype == path.c_noise(t).dtype == torch.float64


def test_add_noise_keeps_half_precision_but_computes_above_it():
    x0, noise = torch.full((1, 4), 0.3).bfloat16(), torch.ones(1, 4).bfloat16()
    path = linear_path()
    expected = (path.alpha(500) * x0.double() + path.sigma(500) * noise.double()).bfloat16()
    assert path.add_noise(x0, noise, 500).dtype == torch.bfloat16
    assert torch.equal(path.add_noise(x0, noise, 500), expected)


def test_tables_follow_the_device_of_t():
    path, t = linear_path(), torch.zeros(3, dtype=torch.long, device="meta")
    for value in (path.alpha(t), path.sigma(t), path.c_noise(t)):
        assert (value.device.type, value.shape, value.dtype) == ("meta", (3,), torch.float64)
    assert path.alpha(torch.tensor(0)).device.type == "cpu"


# -- the mathematics of every path -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONTINUOUS.values(), ids=CONTINUOUS)
def test_rates_are_the_derivatives(path):
    t = inner_times(path).requires_grad_()
    for value, rate in ((path.alpha(t), path.d_alpha(t)), (path.sigma(t), path.d_sigma(t))):
        grad = torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(t)
        torch.testing.assert_close(rate.detach(), grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", CONTINUOUS.values(), ids=CONTINUOUS)
def test_rates_agree_with_finite_differences(path):
    t, h = inner_times(path), 1e-6
    torch.testing.assert_close((path.alpha(t + h) - path.alpha(t - h)) / (2 * h), path.d_alpha(t), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((path.sigma(t + h) - path.sigma(t - h)) / (2 * h), path.d_sigma(t), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_log_snr_falls_and_inverts(path):
    t = inner_times(path)
    log_snr = path.log_snr(t)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(path.t_from_log_snr(log_snr), t, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path.t_from_noise_to_signal(path.noise_to_signal(t)), t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_clean_time_is_exactly_clean(path):
    assert float(path.alpha(path.t_clean)) == 1
    assert float(path.sigma(path.t_clean)) == 0
    assert float(path.log_snr(path.t_clean)) == math.inf
    x0 = torch.randn(2, 3)
    assert torch.equal(path.add_noise(x0, torch.randn(2, 3), path.t_clean), x0)
    assert path.t_clean < path.t_min < path.t_max or path.t_clean == path.t_min


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine", "vp_circle", "linear", "cosine", "zero_snr"])
def test_variance_preserving_paths_preserve_variance(name):
    path = PATHS[name]
    t = inner_times(path)
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones(len(t), dtype=torch.float64))


def test_closed_forms():
    assert float(vp_cosine_path(0.0).alpha(1 / 3)) == pytest.approx(math.cos(math.pi / 6), abs=1e-15)
    assert float(vp_cosine_path(0.0).sigma(1 / 3)) == pytest.approx(0.5, abs=1e-15)
    assert float(vp_cosine_path().alpha(1.0)) == 0
    assert float(vp_linear_path().alpha(1.0)) == pytest.approx(math.exp(-0.25 * 19.9 - 0.05), rel=1e-14)
    assert float(ve_path(0.01, 50).sigma(0.5)) == pytest.approx(math.sqrt(0.5), rel=1e-14)
    # EDM table 1: what each net is told.
    assert float(vp_linear_path().c_noise(0.5)) == 499.5
    assert float(vp_cosine_path().c_noise(1.0)) == 999
    assert float(ve_path(0.01, 50).c_noise(1.0)) == pytest.approx(math.log(25))
    assert float(edm_path().c_noise(80.0)) == pytest.approx(math.log(80) / 4)
    assert float(rectified_flow_path().c_noise(0.25)) == 250


def test_discrete_cosine_is_the_continuous_one_sampled():
    path, smooth = cosine_path(1000), VPCosinePath()
    u = (torch.arange(999).double() + 1) / 1000  # the last beta is capped
    torch.testing.assert_close(path.alpha(torch.arange(999)), smooth.alpha(u), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("make", [lambda: vp_linear_path(2, 1), lambda: ve_path(1, 1), lambda: edm_path(0, 1)])
def test_bad_ranges_are_refused(make):
    with pytest.raises(ValueError, match="expected 0 <"):
        make()


# -- agreement with diffusers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_snr", [False, True])
def test_add_noise_agrees_with_ddpm(zero_snr):
    theirs = DDPMScheduler(rescale_betas_zero_snr=zero_snr)
    path = linear_path(rescale_zero_terminal_snr=zero_snr)
    x0, noise = torch.randn(2, 5, 4, 3)
    t = torch.tensor([0, 1, 500, 998, 999])
    torch.testing.assert_close(path.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), rtol=1e-5, atol=1e-5)
    assert zero_snr == (float(path.alpha(999)) == 0)
    torch.testing.assert_close(path.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=2e-5, atol=1e-7)


def test_scale_noise_agrees_with_flow_match():
    theirs = FlowMatchEulerDiscreteScheduler()
    x0, noise = torch.randn(2, 4, 6, 3)
    t = theirs.timesteps[[0, 10, 500, 999]]
    path = rectified_flow_path()
    ours = path.add_noise(x0, noise, t / 1000)
    torch.testing.assert_close(ours, theirs.scale_noise(x0, t, noise))
    torch.testing.assert_close(path.c_noise(t / 1000).float(), t)


# -- tables ------------------------------------------------------------------------------------------------------------

TABLES = {
    "betas": "betas",
    "alphas_cumprod": "alphas_cumprod",
    "alphas_cumprod_prev": "alphas_cumprod_prev",
    "alphas_cumprod_next": "alphas_cumprod_next",
    "posterior_variance": "posterior_variance",
    "posterior_log_variance_clipped": "posterior_log_variance",
    "posterior_mean_coef1": "posterior_mean_coef1",
    "posterior_mean_coef2": "posterior_mean_coef2",
    "fixed_large_variance": "fixed_large_variance",
}


@pytest.mark.parametrize("spacing", ["full1000", "20", "60", "ddim20", "10_10_20"])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_tables_equal_the_recorded_ones(kind, spacing):
    recorded = load_file(GOLDEN / "schedules.safetensors")
    path = linear_path() if kind == "linear" else cosine_path(offset=0.0)
    if spacing != "full1000":
        path = respace(path, spacing.replace("_", ","))
    tables = {theirs: getattr(path, ours) for theirs, ours in TABLES.items()}
    t = torch.arange(path.num_steps)
    alpha, sigma = path.alpha(t), path.sigma(t)
    tables |= {"sqrt_alphas_cumprod": alpha, "sqrt_one_minus_alphas_cumprod": sigma}
    for name, table in tables.items():
        torch.testing.assert_close(table, recorded[f"{kind}/{spacing}/{name}"], rtol=1e-12, atol=0, msg=name)
    assert torch.equal(path.timestep_map, recorded[f"{kind}/{spacing}/timestep_map"])
    assert torch.equal(path.c_noise(t).long(), path.timestep_map)


def test_noised_plans_equal_the_recorded_ones():
    recorded = load_file(GOLDEN / "losses_small.safetensors")
    x_t = cosine_path(offset=0.0).add_noise(recorded["x_start"], recorded["noise"], recorded["t"])
    # The original rounds its coefficients to float32 before it uses them in float64.
    torch.testing.assert_close(x_t, recorded["x_t"], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("t", [0, 1, 10, 31, 32, 33, 500, 999])
def test_reverse_steps_equal_the_recorded_ones(t):
    recorded = load_file(GOLDEN / "p_mean_variance_small.safetensors")
    path = cosine_path(offset=0.0)
    mean = posterior_mean(path, recorded[f"t{t}/pred_xstart"], recorded[f"t{t}/x"], t)
    torch.testing.assert_close(mean, recorded[f"t{t}/mean"], rtol=1e-6, atol=1e-6)
    variance = path.gather(path.fixed_large_variance, t).float()
    torch.testing.assert_close(recorded[f"t{t}/variance"], variance.expand(3, 2, 100), rtol=1e-6, atol=0)


def test_one_based_counts_as_luo_and_hu():
    path = linear_path(100, 1e-4, 0.02, one_based=True, label="beta")
    assert (path.t_clean, path.t_min, path.t_max) == (0, 1, 100)
    t = torch.arange(1, 101)
    assert torch.equal(path.c_noise(t), path.betas)
    # alpha_bar_T = 0.364: their chain ends far from pure noise.
    assert float(path.alpha(100)) ** 2 == pytest.approx(0.364, abs=5e-4)
    torch.testing.assert_close(path.alpha(t) ** 2, (1 - path.betas).log().cumsum(0).exp(), rtol=1e-12, atol=0)
    half = respace(path, [100, 50, 50])
    assert half.timestep_map.tolist() == [50, 100]
    assert float(half.c_noise(1)) == float(path.betas[49])  # the net is told the beta it was trained on
    assert float(half.alpha(2)) == pytest.approx(float(path.alpha(100)), rel=1e-13)
    assert respace(path, "4").timestep_map.tolist() == [1, 34, 67, 100]


def test_respacing_keeps_marginals_and_composes():
    path = linear_path()
    once = respace(path, "100")
    twice = respace(once, "10")
    torch.testing.assert_close(twice.alpha(torch.arange(10)), path.alpha(twice.timestep_map), rtol=1e-13, atol=0)
    zero = respace(linear_path(rescale_zero_terminal_snr=True), "10")
    assert float(zero.alpha(9)) == 0
    assert float(zero.betas[-1]) == 1


def test_space_timesteps():
    assert space_timesteps(300, "10,15,20") == space_timesteps(300, [10, 15, 20])
    assert space_timesteps(10, [1]) == [0]
    assert space_timesteps(11, [2, 2]) == [0, 5, 6, 10]  # the first parts take what is left over
    assert space_timesteps(1000, "ddim50")[:3] == [0, 20, 40]
    with pytest.raises(ValueError, match="cannot keep 11"):
        space_timesteps(10, "11")
    with pytest.raises(ValueError, match="no whole stride keeps exactly 7"):
        space_timesteps(10, "ddim7")


def test_posterior_of_a_single_step():
    path = linear_path(1, 0.1, 0.1)
    assert path.posterior_log_variance.tolist() == [math.log(0.1)]
    assert path.fixed_large_variance.tolist() == [0.1]
    assert int(path.t_from_log_snr(3.0)) == 0


def test_nearest_step_of_a_log_snr():
    path = linear_path(rescale_zero_terminal_snr=True)
    values = path.log_snr(torch.tensor([10, 400]))
    assert path.t_from_log_snr(values + 1e-4).tolist() == [10, 400]
    assert path.t_from_log_snr(torch.tensor([100.0, -math.inf])).tolist() == [0, 999]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DiscretePath(torch.tensor([0.1, 1.2])), "betas must be a vector"),
        (lambda: DiscretePath(torch.tensor([[0.1]])), "betas must be a vector"),
        (lambda: DiscretePath(torch.tensor([1.0, 0.1])), "only the last beta"),
        (lambda: DiscretePath(torch.tensor([0.1]), first=2), "first must be 0 or 1"),
        (lambda: DiscretePath(torch.tensor([0.1]), labels=torch.zeros(2)), "labels has shape"),
        (lambda: linear_path().alpha(1000), r"must lie in -1\.\.999"),
        (lambda: linear_path().c_noise(-1), r"must lie in 0\.\.999"),
        (lambda: linear_path().sigma(0.5), "whole times"),
        (lambda: respace(linear_path(), []), "timesteps is empty"),
    ],
)
def test_discrete_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_discrete_path_has_no_rates():
    with pytest.raises(NotImplementedError, match="no time derivatives"):
        linear_path().d_sigma(3)
    assert discrete_path(torch.tensor([0.1, 0.2])).num_steps == 2

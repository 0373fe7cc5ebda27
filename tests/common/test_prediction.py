"""The table of parametrisations, EDM preconditioning and agreement with diffusers."""

import math

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler
from trifold.common.diffusion import (
    EDMPrecondition,
    edm_path,
    from_x0,
    linear_path,
    rectified_flow_path,
    target,
    to_eps,
    to_x0,
    ve_path,
    vp_cosine_path,
    vp_linear_path,
)

PATHS = {
    "ddpm": linear_path(),
    "vp_linear": vp_linear_path(),
    "vp_cosine": vp_cosine_path(),
    "ve": ve_path(),
    "edm": edm_path(),
    "flow": rectified_flow_path(),
}
PREDICTIONS = ["eps", "x0", "v", "velocity", "F"]
PRECONDITION = EDMPrecondition(0.7)


def draw(path, seed=0):
    """x0, eps and times of a float64 batch, strictly inside the path."""
    generator = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 6, 5, 3, generator=generator, dtype=torch.float64)
    u = torch.linspace(0.02, 0.98, 6, dtype=torch.float64)
    t = path.t_min + u * (path.t_max - path.t_min)
    return x0, eps, (t.long() if path.is_discrete else t)


def rates_of(path, t):
    return (-1.0, 1.0) if path.is_discrete else (path.d_alpha(t), path.d_sigma(t))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_round_trips(path, prediction):
    x0, eps, t = draw(path)
    a, s, rates = path.alpha(t), path.sigma(t), rates_of(path, t)
    x_t = path.add_noise(x0, eps, t)
    out = target(prediction, x0, eps, a, s, PRECONDITION, rates=rates)
    back = to_x0(prediction, out, x_t, a, s, PRECONDITION, rates=rates)
    torch.testing.assert_close(back, x0, rtol=1e-8, atol=1e-8)
    noise = to_eps(prediction, out, x_t, a, s, PRECONDITION, rates=rates)
    torch.testing.assert_close(noise, eps, rtol=1e-7, atol=1e-7)
    again = from_x0(prediction, x0, x_t, a, s, PRECONDITION, rates=rates)
    torch.testing.assert_close(again, out, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_any_output_explains_x_t(path, prediction):
    """Whatever a net says, its x0 and eps recompose x_t: no estimate is off the line they span."""
    x0, eps, t = draw(path)
    a, s, rates = path.alpha(t), path.sigma(t), rates_of(path, t)
    x_t = path.add_noise(x0, eps, t)
    out = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x0_hat = to_x0(prediction, out, x_t, a, s, PRECONDITION, rates=rates)
    eps_hat = to_eps(prediction, out, x_t, a, s, PRECONDITION, rates=rates)
    torch.testing.assert_close(path.add_noise(x0_hat, eps_hat, t), x_t, rtol=1e-8, atol=1e-8)


def test_packed_and_scalar_coefficients_agree_with_batched():
    path = vp_linear_path()
    x0, eps, t = draw(path)
    batched = target("v", x0, eps, path.alpha(t), path.sigma(t))
    for i in range(6):
        alone = target("v", x0[i : i + 1], eps[i : i + 1], float(path.alpha(t[i])), path.sigma(t[i]))
        torch.testing.assert_close(alone[0], batched[i], rtol=1e-14, atol=0)
    packed_t = t.repeat_interleave(5).view(1, 30, 1)
    rows = x0.reshape(1, 30, 3), eps.reshape(1, 30, 3)
    packed = target("v", *rows, path.alpha(packed_t), path.sigma(packed_t))
    assert torch.equal(packed.reshape(6, 5, 3), batched)


def test_v_agrees_with_get_velocity():
    path, theirs = linear_path(), DDPMScheduler()
    x0, eps = torch.randn(2, 4, 3, 8, 8)
    t = torch.tensor([0, 100, 700, 999])
    v = target("v", x0, eps, path.alpha(t), path.sigma(t))
    torch.testing.assert_close(v, theirs.get_velocity(x0, eps, t), rtol=1e-5, atol=1e-5)


def test_velocity_of_rectified_flow_is_noise_minus_data():
    x0, eps, t = draw(rectified_flow_path())
    assert torch.equal(target("velocity", x0, eps, 1 - t, t), eps - x0)


def test_velocity_is_the_time_derivative_of_the_path():
    path, h = vp_linear_path(), 1e-6
    x0, eps, t = draw(path)
    moved = (path.add_noise(x0, eps, t + h) - path.add_noise(x0, eps, t - h)) / (2 * h)
    u = target("velocity", x0, eps, path.alpha(t), path.sigma(t), rates=rates_of(path, t))
    torch.testing.assert_close(u, moved, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.002, 0.4, 7.0, 80.0])
def test_precondition_agrees_with_edm_scheduler(sigma):
    theirs = EDMEulerScheduler(sigma_data=0.5)
    ours = EDMPrecondition(0.5)
    x, out = torch.randn(2, 2, 5, 3)
    level = torch.tensor(sigma)
    torch.testing.assert_close(ours.c_in(level) * x, theirs.precondition_inputs(x, level))
    torch.testing.assert_close(ours.c_noise(level), theirs.precondition_noise(level))
    d = theirs.precondition_outputs(x, out, level)
    torch.testing.assert_close(to_x0("F", out, x, 1.0, sigma, ours), d)


def test_precondition_in_closed_form():
    p = EDMPrecondition(2.0)
    assert float(p.c_skip(1.0)) == pytest.approx(0.8)
    assert float(p.c_out(1.0)) == pytest.approx(2 / math.sqrt(5))
    assert float(p.c_in(1.0)) == pytest.approx(1 / math.sqrt(5))
    assert float(p.weight(1.0)) == pytest.approx(5 / 4)  # (1 + 4) / (1 * 2)^2
    # A path with alpha: the same denoiser on x / alpha at sigma / alpha.
    a, s = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)
    torch.testing.assert_close(p.c_skip(s, a), p.c_skip(s / a) / a)
    torch.testing.assert_close(p.c_out(s, a), p.c_out(s / a))
    torch.testing.assert_close(p.c_in(s, a), p.c_in(s / a) / a)
    torch.testing.assert_close(p.c_noise(s, a), (s / a).log() / 4)
    with pytest.raises(ValueError, match="sigma_data must be positive"):
        EDMPrecondition(0.0)


def test_edm_on_a_variance_preserving_path_is_minus_v():
    path = vp_cosine_path()
    x0, eps, t = draw(path)
    a, s = path.alpha(t), path.sigma(t)
    f = target("F", x0, eps, a, s, EDMPrecondition(1.0))
    torch.testing.assert_close(f, -target("v", x0, eps, a, s), rtol=1e-10, atol=1e-10)


def test_ends_of_the_chain_are_finite():
    x0, eps = torch.randn(2, 3, 4)
    # Pure noise: x_t says nothing, v says everything.
    assert torch.equal(to_x0("v", target("v", x0, eps, 0.0, 1.0), eps, 0.0, 1.0), x0)
    assert torch.equal(to_x0("velocity", eps - x0, eps, 0.0, 1.0), eps - (eps - x0))
    # Clean data: there is no noise, even where the net is wrong about x0.
    for prediction in ("x0", "F"):
        assert torch.equal(to_eps(prediction, x0 + 1, x0, 1.0, 0.0, EDMPrecondition()), torch.zeros_like(x0))
    assert torch.equal(to_eps("v", eps, x0, 1.0, 0.0), eps)


def test_names_are_checked():
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="unknown prediction 'noise', expected one of eps, x0, v, velocity, F"):
        to_x0("noise", x, x, 1.0, 1.0)
    with pytest.raises(ValueError, match="needs a preconditioning"):
        to_x0("F", x, x, 1.0, 1.0)

"""`Denoiser`: what the net is given, what comes out, learned variance and the ends of the chain."""

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn
from trifold.common.diffusion import (
    Denoiser,
    EDMPrecondition,
    cosine_path,
    edm_path,
    linear_path,
    rectified_flow_path,
    respace,
    target,
    ve_path,
    vp_cosine_path,
    vp_linear_path,
)


class Recorder(nn.Module):
    """A net that keeps what it was given and answers with a fixed tensor, or its input."""

    def __init__(self, out=None, dtype=torch.float32):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))
        self.out = out

    def forward(self, x, c_noise, cond):
        self.x, self.c_noise, self.cond = x, c_noise, cond
        return self.scale * (x if self.out is None else self.out)


def gaussian_oracle(path, prediction, precondition=None, variance=0.49):
    """The exact net for data N(0, variance): E[x0 | x_t] = alpha variance x / (alpha^2 variance + sigma^2)."""

    def x0_hat(x, t):
        a, s = path.alpha(t).view(-1, 1), path.sigma(t).view(-1, 1)
        return a * variance / (a**2 * variance + s**2) * x

    def net_at(t):
        def net(x, c_noise, cond):
            a, s = path.alpha(t).view(-1, 1), path.sigma(t).view(-1, 1)
            x_t = x if precondition is None else x / precondition.c_in(s, a)
            guess = x0_hat(x_t, t)
            rates = (path.d_alpha(t), path.d_sigma(t)) if prediction == "velocity" else (-1.0, 1.0)
            return target(prediction, guess, (x_t - a * guess) / s, a, s, precondition, rates=rates)

        return net

    return x0_hat, net_at


CASES = [
    (linear_path(), "eps", None),
    (linear_path(rescale_zero_terminal_snr=True), "v", None),
    (vp_linear_path(), "velocity", None),
    (vp_cosine_path(t_max=0.99), "x0", None),
    (ve_path(), "eps", None),
    (edm_path(), "F", EDMPrecondition(0.7)),
    (vp_linear_path(), "F", EDMPrecondition(0.7)),
    (rectified_flow_path(), "velocity", None),
    (rectified_flow_path(), "v", None),
]


@pytest.mark.parametrize(("path", "prediction", "precondition"), CASES)
def test_every_parametrisation_gives_the_conditional_mean(path, prediction, precondition):
    x0_hat, net_at = gaussian_oracle(path, prediction, precondition)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([path.t_min, (path.t_min + path.t_max) / 2, path.t_max], dtype=torch.float64)
    t = t.round().long() if path.is_discrete else t
    denoiser = Denoiser(net_at(t), path, prediction, precondition)
    torch.testing.assert_close(denoiser(x, t), x0_hat(x, t), rtol=1e-8, atol=1e-8)
    said = denoiser.predict(x, t)
    torch.testing.assert_close(path.add_noise(said.x0, said.eps, t), x, rtol=1e-8, atol=1e-8)
    assert said.variance is None


def test_what_the_net_is_given():
    net = Recorder()
    denoiser = Denoiser(net, linear_path())
    x = torch.randn(3, 5, 2, dtype=torch.float64)
    out = denoiser(x, 7, cond="plan")
    assert net.cond == "plan"
    assert net.c_noise.tolist() == [7, 7, 7]  # a scalar time reaches the net once per sample
    assert net.x.dtype == torch.float32  # the net's own precision
    assert out.dtype == torch.float64  # the process's
    denoiser(x, torch.tensor([1, 2, 3]))
    assert net.c_noise.tolist() == [1, 2, 3]
    denoiser(x[:1], torch.arange(5).view(1, 5, 1))
    assert net.c_noise.shape == (1, 5, 1)
    half = Denoiser(Recorder(dtype=torch.bfloat16), linear_path())
    assert half(x.bfloat16(), 7).dtype == torch.float32
    assert half.net.x.dtype == torch.bfloat16


def test_respaced_path_tells_the_original_time():
    net = Recorder()
    Denoiser(net, respace(cosine_path(), "20"))(torch.randn(2, 3), torch.tensor([0, 19]))
    assert net.c_noise.tolist() == [0, 999]


def test_precondition_scales_the_input():
    net, precondition = Recorder(), EDMPrecondition(0.5)
    x = torch.randn(2, 3)
    Denoiser(net, edm_path(), "F", precondition)(x, torch.tensor([0.5, 3.0]))
    torch.testing.assert_close(net.x, x * precondition.c_in(torch.tensor([[0.5], [3.0]])))
    torch.testing.assert_close(net.c_noise, torch.tensor([0.5, 3.0]).log() / 4)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_clip_bounds_x0_and_keeps_eps_consistent(prediction):
    path = linear_path()
    x = 3 * torch.randn(4, 6, 2)
    t = torch.tensor([0, 10, 500, 999])
    said = Denoiser(Recorder(torch.randn(4, 6, 2)), path, prediction, clip=1.0).predict(x, t)
    assert said.x0.abs().max() <= 1
    torch.testing.assert_close(path.add_noise(said.x0, said.eps, t), x, rtol=1e-5, atol=1e-5)
    free = Denoiser(Recorder(), path, prediction).predict(x, t)
    assert free.x0.abs().max() > 1


def test_pure_noise_and_clean_data_are_finite():
    x = torch.randn(2, 3)
    path = linear_path(rescale_zero_terminal_snr=True)
    out = torch.randn(2, 3)
    torch.testing.assert_close(Denoiser(Recorder(out), path, "v")(x, 999), -out)
    said = Denoiser(Recorder(out), rectified_flow_path(), "x0", clip=1.0).predict(x, 0.0)
    assert torch.equal(said.eps, torch.zeros_like(x))


# -- learned variance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 3, 8, 8), 1), ((4, 10, 3), -1), ((4, 10, 3), 2), ((4, 2, 3, 5, 5), 1)]
)
def test_learned_range_agrees_with_ddpm_scheduler(shape, axis):
    path = linear_path()
    doubled = list(shape)
    doubled[axis] *= 2
    out = torch.rand(doubled) * 2 - 1
    denoiser = Denoiser(Recorder(out), path, learned_variance="learned_range", channel_dim=axis)
    t = torch.tensor([1, 10, 500, 999])
    said = denoiser.predict(torch.randn(shape), t)
    raw, extra = out.chunk(2, dim=axis)
    assert torch.equal(said.raw, raw)
    assert said.variance.shape == torch.Size(shape)
    theirs = DDPMScheduler(variance_type="learned_range")
    for i, step in enumerate(t.tolist()):
        expected = theirs._get_variance(step, predicted_variance=extra[i])  # a log variance, despite the name
        torch.testing.assert_close(said.log_variance[i], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(said.variance[i], expected.exp(), rtol=1e-3, atol=0)


def test_learned_range_spans_posterior_to_beta():
    path = cosine_path(50)
    x, t = torch.zeros(2, 3), torch.tensor([0, 30])
    low = Denoiser(Recorder(torch.full((2, 6), -1.0)), path, learned_variance="learned_range").predict(x, t)
    high = Denoiser(Recorder(torch.full((2, 6), 1.0)), path, learned_variance="learned_range").predict(x, t)
    for said, table in ((low, path.posterior_log_variance.exp()), (high, path.betas)):
        torch.testing.assert_close(said.variance[:, 0].double(), table[t], rtol=1e-5, atol=0)
    plain = Denoiser(Recorder(torch.full((2, 6), -4.0)), path, learned_variance="learned").predict(x, t)
    assert torch.equal(plain.log_variance, torch.full((2, 3), -4.0))


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Denoiser(Recorder(), linear_path(), "noise"), ValueError, "unknown prediction"),
        (lambda: Denoiser(Recorder(), edm_path(), "F"), ValueError, "needs a preconditioning"),
        (lambda: Denoiser(Recorder(), edm_path(), "eps", EDMPrecondition()), ValueError, "makes the net predict 'F'"),
        (lambda: Denoiser(Recorder(), edm_path(), clip=0.0), ValueError, "clip must be positive"),
        (lambda: Denoiser(Recorder(), linear_path(), learned_variance="range"), ValueError, "learned_variance must be"),
        (lambda: Denoiser(Recorder(), edm_path(), learned_variance="learned"), TypeError, "found EDMPath"),
        (lambda: Denoiser(Recorder(), linear_path(), "velocity"), TypeError, "time derivatives"),
        (lambda: Denoiser(Recorder(), rectified_flow_path(), "eps"), ValueError, "alpha = 0"),
        (lambda: Denoiser(Recorder(), linear_path(rescale_zero_terminal_snr=True)), ValueError, "alpha = 0"),
    ],
)
def test_meaningless_combinations_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_net_of_the_wrong_shape_is_named():
    x = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"returned shape \[2, 5, 6\], expected x's shape \[2, 5, 3\]"):
        Denoiser(Recorder(torch.zeros(2, 5, 6)), linear_path())(x, 3)
    with pytest.raises(ValueError, match=r"expected \[2, 10, 3\].*axis 1"):
        Denoiser(Recorder(torch.zeros(2, 5, 6)), linear_path(), learned_variance="learned", channel_dim=1)(x, 3)


def test_it_is_a_module():
    net = nn.Linear(3, 3)
    denoiser = Denoiser(net, linear_path(), clip=1.0)
    assert [name for name, _ in denoiser.named_parameters()] == ["net.weight", "net.bias"]
    assert "prediction='eps', path=DiscretePath, clip=1.0" in repr(denoiser)

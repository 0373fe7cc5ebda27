"""The variational bound: Gaussian pieces, the bound of exact models, and the hybrid loss."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.distributions import Normal, kl_divergence
from trifold.common.diffusion import Denoiser, edm_path, linear_path
from trifold.common.diffusion.likelihood import (
    NATS_TO_BITS,
    binned_log_likelihood,
    bound_terms,
    normal_kl,
    posterior_mean,
    prior_kl,
    variational_bound,
)
from trifold.common.diffusion.losses import DenoisingLoss


class Constant(nn.Module):
    """A net that answers with its parameter."""

    def __init__(self, out):
        super().__init__()
        self.out = nn.Parameter(out)

    def forward(self, x, c_noise, cond):
        return self.out


def test_normal_kl_agrees_with_torch():
    m1, m2 = torch.randn(2, 50, dtype=torch.float64)
    v1, v2 = torch.randn(2, 50, dtype=torch.float64)
    expected = kl_divergence(Normal(m1, (v1 / 2).exp()), Normal(m2, (v2 / 2).exp()))
    torch.testing.assert_close(normal_kl(m1, v1, m2, v2), expected)


@pytest.mark.parametrize("cdf", ["erf", "tanh"])
def test_bins_share_out_the_whole_mass(cdf):
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    log_var = torch.tensor(math.log(0.05), dtype=torch.float64)
    mass = binned_log_likelihood(levels, torch.tensor(0.3, dtype=torch.float64), log_var, cdf=cdf).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    edges = (float(levels[100]) + np.array([-1, 1]) / 255 - 0.3) / math.sqrt(0.05)
    inside = float(np.diff(norm.cdf(edges))[0])
    assert float(mass[100]) == pytest.approx(inside, rel=1e-9 if cdf == "erf" else 1e-2)


class ExactReverse(nn.Module):
    """The exact reverse step of a chain on N(0, 1) data, whose every x_t is N(0, 1): p(x_{t-1} | x_t) has mean
    sqrt(1 - beta) x_t and variance beta. Then E[x0 | x_t] = alpha x_t, and the log variance is log beta."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, x, c_noise, cond):
        t = c_noise.long().view(-1, *(1,) * (x.ndim - 1))
        return torch.cat([self.path.alpha(t) * x, self.path.gather(self.path.betas.log(), t).expand_as(x)], dim=-1)


def test_bound_of_the_exact_gaussian_model_is_the_entropy():
    """-E[log p(x0)] of N(0, 1) is log(2 pi e)/2, and the bound of the exact reverse chain is tight. Every term is
    quadratic in (x0, eps), so three Gauss-Hermite nodes an axis give its expectation exactly."""
    path = linear_path(50, 1e-3, 0.2)
    denoiser = Denoiser(ExactReverse(path), path, "x0", learned_variance="learned")
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(3))
    weights = weights / weights.sum()
    x0, eps = (grid.reshape(1, 9, 1) for grid in torch.meshgrid(nodes, nodes, indexing="ij"))
    w = torch.outer(weights, weights).reshape(1, 9, 1)
    total = (w * prior_kl(path, x0)).sum()
    for step in range(path.num_steps):
        x_t = path.add_noise(x0, eps, step)
        said = denoiser.predict(x_t, step)
        terms = bound_terms(path, x0, x_t, step, said.x0, said.log_variance, decoder="density")
        total = total + (w * terms).sum()
    assert float(total) == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=1e-10)


def test_variational_bound_estimates_the_same():
    path = linear_path(50, 1e-3, 0.2)
    denoiser = Denoiser(ExactReverse(path), path, "x0", learned_variance="learned")
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(2000, 8, generator=generator, dtype=torch.float64)
    bound = variational_bound(denoiser, x0, generator=generator, decoder="density")
    assert bound.terms.shape == (50, 2000)
    torch.testing.assert_close(bound.total, bound.terms.sum(0) + bound.prior)
    assert float(bound.total.mean()) == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=0.02)
    half = variational_bound(denoiser, x0[:4], mask=torch.arange(8)[None] < 4, decoder="density", generator=generator)
    torch.testing.assert_close(half.prior, prior_kl(path, x0[:4])[:, :4].mean(1))


def test_fixed_variances_bound_from_above():
    path = linear_path(20, 1e-2, 0.3)
    oracle = Denoiser(lambda x, c, cond: path.alpha(c.long()).view(-1, 1) * x, path, "x0")
    exact = 0.5 * math.log(2 * math.pi * math.e)
    x0 = torch.randn(4000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    totals = {}
    for kind in ("small", "large"):
        generator = torch.Generator().manual_seed(2)
        bound = variational_bound(oracle, x0, generator=generator, fixed_variance=kind, decoder="density")
        totals[kind] = float(bound.total.mean())
    # beta is the true reverse variance of N(0, 1) data (but for the first step), the posterior's is too small.
    assert exact - 0.02 < totals["large"] < totals["small"]
    with pytest.raises(TypeError, match="found EDMPath"):
        variational_bound(Denoiser(Constant(x0), edm_path(), "x0"), x0)


def test_bound_terms_by_hand():
    path = linear_path(100)
    x0, eps, guess = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1
    t = torch.tensor([0, 1, 40, 99])
    x_t = path.add_noise(x0, eps, t)
    log_var = torch.full_like(x0, -3.0)
    terms = bound_terms(path, x0, x_t, t, guess, log_var)
    for i in (1, 2, 3):
        true = Normal(posterior_mean(path, x0, x_t, t)[i], path.posterior_variance[t[i]].sqrt())
        model = Normal(posterior_mean(path, guess, x_t, t)[i], math.exp(-1.5))
        torch.testing.assert_close(terms[i], kl_divergence(true, model))
    torch.testing.assert_close(terms[0], -binned_log_likelihood(x0[0], guess[0], log_var[0]))
    # At the first step the posterior mean is x0 itself.
    torch.testing.assert_close(posterior_mean(path, x0, x_t, t)[0], x0[0], rtol=1e-9, atol=1e-12)


def test_hybrid_loss_trains_the_variance_only():
    path = linear_path(100)
    x0, eps = torch.rand(2, 3, 5, 2, dtype=torch.float64) * 2 - 1
    t = torch.tensor([0, 30, 99])
    net = Constant(torch.randn(3, 5, 4, dtype=torch.float64) * 0.3)
    denoiser = Denoiser(net, path, learned_variance="learned_range")
    terms = DenoisingLoss(vlb_weight=0.001)(denoiser, x0, eps, t)
    x_t = path.add_noise(x0, eps, t)
    by_hand = bound_terms(path, x0, x_t, t, terms.prediction.x0, terms.prediction.log_variance).mean(dim=(1, 2))
    torch.testing.assert_close(terms.vlb, by_hand * 100 * NATS_TO_BITS)
    torch.testing.assert_close(terms.per_sample, terms.simple + 0.001 * terms.vlb)
    terms.total.backward()
    mean_grad = 2 * (net.out.detach()[..., :2] - eps) / (3 * 10)
    torch.testing.assert_close(net.out.grad[..., :2], mean_grad)  # the plain loss alone
    assert (net.out.grad[..., 2:] != 0).all()
    with pytest.raises(ValueError, match="needs a denoiser with learned_variance"):
        DenoisingLoss(vlb_weight=0.001)(Denoiser(Constant(x0), path), x0, eps, t)

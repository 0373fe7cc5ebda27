"""Classifier-free guidance by hand."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from trifold.common.diffusion import Denoiser, linear_path, vp_linear_path
from trifold.common.diffusion.gaussian import GaussianMixtureDenoiser
from trifold.common.diffusion.guidance import cat_conditions, guided
from trifold.common.diffusion.implicit import ddim
from trifold.common.diffusion.samplers import ancestral

PATH = linear_path()
calls: list[int] = []


def net(x, c_noise, cond):
    """eps that depends on the sample's own condition [B, 1]."""
    calls.append(len(x))
    return torch.tanh(x + cond) * (1 + c_noise[:, None] / 1000)


def setup(**kwargs):
    g = torch.Generator().manual_seed(0)
    x, cond, uncond = (torch.randn(3, n, generator=g) for n in (5, 1, 1))
    calls.clear()
    return Denoiser(net, PATH, **kwargs), x, cond, uncond


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("t", [400, torch.tensor(400), torch.tensor([400, 3, 999])])
def test_formula(batched, t):
    denoiser, x, cond, uncond = setup()
    eps_c, eps_u = denoiser.predict(x, t, cond).eps, denoiser.predict(x, t, uncond).eps
    calls.clear()
    found = guided(denoiser, 7.5, uncond, batched=batched).predict(x, t, cond)
    assert calls == ([6] if batched else [3, 3])
    eps = eps_u + 7.5 * (eps_c - eps_u)
    assert torch.allclose(found.eps, eps, rtol=1e-3, atol=1e-4)
    alpha, sigma = (torch.as_tensor(v).float().reshape(-1, 1) for v in (PATH.alpha(t), PATH.sigma(t)))
    assert torch.allclose(alpha * found.x0, x - sigma * eps, atol=1e-4)


def test_scales_one_and_zero():
    denoiser, x, cond, uncond = setup()
    assert torch.equal(guided(denoiser, 1.0, uncond)(x, 400, cond), denoiser(x, 400, cond))
    assert torch.allclose(guided(denoiser, 0.0, uncond)(x, 400, cond), denoiser(x, 400, uncond), atol=1e-6)


def test_clipping_comes_after_the_combination():
    denoiser, x, cond, uncond = setup()
    free = guided(denoiser, 3.0, uncond)(x, 600, cond)
    clipping = Denoiser(net, PATH, clip=0.8)
    assert torch.equal(guided(clipping, 3.0, uncond)(x, 600, cond), free.clamp(-0.8, 0.8))
    assert free.abs().max() > 0.8
    assert clipping.clip == 0.8


def test_rescale_keeps_the_conditional_spread():
    denoiser, x, cond, uncond = setup()
    positive = denoiser(x, 500, cond)
    full = guided(denoiser, 5.0, uncond, rescale=1.0)(x, 500, cond)
    none = guided(denoiser, 5.0, uncond)(x, 500, cond)
    half = guided(denoiser, 5.0, uncond, rescale=0.5)(x, 500, cond)
    assert torch.allclose(full.std(dim=1), positive.std(dim=1), rtol=1e-5)
    assert torch.allclose(half, (full + none) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 1), (3, 4)])
def test_rescale_leaves_constant_estimates(shape):
    cond, none = torch.ones(3, 1), torch.zeros(3, 1)
    told = Denoiser(lambda x, t, c: 0 * x + c, PATH, prediction="x0")
    assert torch.equal(guided(told, 2.0, none, rescale=0.7)(torch.randn(shape), 500, cond), torch.full(shape, 2.0))


def test_interval_is_low_open_high_closed():
    denoiser, x, cond, uncond = setup()
    limited, always = guided(denoiser, 4.0, uncond, interval=(200, 600)), guided(denoiser, 4.0, uncond)
    for t, active in ((100, False), (200, False), (201, True), (600, True), (601, False)):
        calls.clear()
        found = limited(x, t, cond)
        assert len(calls[0:1]) == 1
        assert calls == ([6] if active else [3])
        assert torch.allclose(found, (always if active else denoiser)(x, t, cond), atol=1e-6)
    mixed = limited(x, torch.tensor([100, 300, 700]), cond)
    assert torch.allclose(mixed[0], denoiser(x, 100, cond)[0], atol=1e-6)
    assert torch.allclose(mixed[1], always(x, 300, cond)[1], atol=1e-6)


def test_guided_gaussian_is_sharper_and_shifted():
    """Data N(1, 1) given the condition, N(0, 1) without: guidance w of the exact score moves the mean to w."""
    path = vp_linear_path()

    class Exact:
        def __init__(self):
            self.path = path

        def predict(self, x, t, cond=None):
            return GaussianMixtureDenoiser(path, [cond], [1.0]).predict(x, t)

        def __call__(self, x, t, cond=None):
            return self.predict(x, t, cond).x0

    x = torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = ddim(guided(Exact(), 3.0, 0.0, batched=False), x, 100, 1.0)
    assert float(y.mean()) == pytest.approx(3.0, abs=0.05)
    assert float(y.std()) == pytest.approx(1.0, abs=0.05)


def test_learned_variance_survives_and_is_the_conditional_one():
    denoiser = Denoiser(
        lambda x, c, cond: torch.cat([x * cond, x * 0 + cond / 4], -1), PATH, learned_variance="learned_range"
    )
    x, cond, uncond = torch.ones(2, 4), torch.full((2, 1), 0.5), torch.zeros(2, 1)
    for batched in (True, False):
        wrapped = guided(denoiser, 2.0, uncond, batched=batched)
        assert torch.allclose(wrapped.predict(x, 9, cond).variance, denoiser.predict(x, 9, cond).variance)
        assert ancestral(wrapped, x, 5, cond, variance="learned_range").shape == x.shape


def test_conditions_are_joined_member_by_member():
    @dataclass(frozen=True)
    class Cond:
        vector: torch.Tensor
        tokens: torch.Tensor | None
        heads: int = 4

    Pair = namedtuple("Pair", ["a", "b"])
    one, two = torch.zeros(2, 3), torch.ones(2, 3)
    both = torch.cat([one, two])
    joined = cat_conditions(Cond(one, None), Cond(two, None))
    assert torch.equal(joined.vector, both)
    assert joined.tokens is None
    assert joined.heads == 4
    assert torch.equal(cat_conditions({"x": (one, None)}, {"x": (two, None)})["x"][0], both)
    assert torch.equal(cat_conditions([one], [two])[0], both)
    assert torch.equal(cat_conditions(Pair(one, 1), Pair(two, 1)).a, both)


@pytest.mark.parametrize("other", [None, 3, {"y": 1}, {"x": 2}, (1, 2)])
def test_conditions_that_cannot_be_joined(other):
    with pytest.raises(ValueError, match=r"pass merge=\(cond, uncond\) -> cond, or batched=False"):
        cat_conditions({"x": 1}, other)


def test_a_merge_of_ones_own():
    denoiser, x, cond, uncond = setup()
    merged = guided(denoiser, 2.0, None, merge=lambda c, u: torch.cat([c, uncond]))(x, 50, cond)
    assert torch.equal(merged, guided(denoiser, 2.0, uncond)(x, 50, cond))


def test_bad_options_are_named():
    denoiser, _, _, uncond = setup()
    with pytest.raises(ValueError, match="rescale"):
        guided(denoiser, 2.0, uncond, rescale=1.5)
    with pytest.raises(ValueError, match="interval"):
        guided(denoiser, 2.0, uncond, interval=(3, 1))

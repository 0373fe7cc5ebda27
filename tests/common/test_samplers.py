"""Every sampler against denoisers known in closed form."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from trifold.common.diffusion import (
    Denoiser,
    cosine_path,
    edm_path,
    linear_path,
    rectified_flow_path,
    respace,
    ve_path,
    vp_cosine_path,
    vp_linear_path,
)
from trifold.common.diffusion.edm import edm_heun
from trifold.common.diffusion.gaussian import GaussianMixtureDenoiser, gaussian_ode
from trifold.common.diffusion.implicit import ddim, ddim_invert
from trifold.common.diffusion.langevin import annealed_langevin, predictor_corrector
from trifold.common.diffusion.noise import GeneratorNoise, ReplayNoise, as_noise, initial_noise
from trifold.common.diffusion.samplers import ancestral, ancestral_variances, ode, posterior, transition
from trifold.common.diffusion.step import level_at, levels_of
from trifold.common.diffusion.times import karras_times, log_snr_times, uniform_times

F64 = torch.float64
RF, VP, EDM, VE, DDPM = rectified_flow_path(), vp_linear_path(), edm_path(), ve_path(), linear_path()
LANGEVIN_PATH = ve_path(0.01, 1.5)
langevin = partial(annealed_langevin, steps_per_level=30)
ALL = {
    "ancestral": (ancestral, DDPM),
    "ddim": (ddim, DDPM),
    "ddim_eta": (partial(ddim, eta=1.0), VP),
    "edm_heun": (edm_heun, EDM),
    "edm_churn": (partial(edm_heun, S_churn=4.0, S_tmax=50.0), EDM),
    "ode_euler": (partial(ode, method="euler"), RF),
    "ode_heun": (ode, RF),
    "predictor_corrector": (predictor_corrector, VE),
    "annealed_langevin": (partial(annealed_langevin, steps_per_level=2), VE),
}
every_sampler = pytest.mark.parametrize(("sampler", "path"), ALL.values(), ids=ALL.keys())


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(path) -> GaussianMixtureDenoiser:
    return GaussianMixtureDenoiser(path, [0.6, -0.6], [0.15, 0.15])


def wasserstein(x: torch.Tensor, denoiser: GaussianMixtureDenoiser) -> float:
    """W1 between the values of x and as many exact draws (the two have a sampling floor of about 0.005)."""
    data = denoiser.sample((1, x.numel()), gen(99)).flatten().sort().values
    return float((x.flatten().double().sort().values - data).abs().mean())


def paired_noise(path, shape, **kwargs) -> torch.Tensor:
    """x_T whose second half is the first's mirror image, so that both modes get exactly half of the mass."""
    half = initial_noise(path, (shape[0] // 2, *shape[1:]), gen(0), **kwargs)
    return torch.cat([half, -half])


def slopes(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in pairwise(errors)]


# ---- order of convergence on the exact ODE of one Gaussian ----


@pytest.mark.parametrize(
    ("sampler", "path", "order"),
    [
        (ddim, RF, 1),
        (ddim, vp_cosine_path(t_max=0.98), 1),
        (partial(ode, method="euler"), RF, 1),
        (partial(ode, method="euler"), VP, 1),
        (ode, RF, 2),
        (ode, VP, 2),
        (ode, vp_cosine_path(t_max=0.98), 2),
        (edm_heun, VP, 2),
        (edm_heun, EDM, 2),
        (edm_heun, VE, 2),
    ],
)
def test_order_of_convergence(sampler, path, order):
    errors = []
    x = initial_noise(path, (4, 50), gen(0), dtype=F64)
    for n in (40, 80, 160):
        times = karras_times(path, n)[:-1] if path is EDM else torch.linspace(path.t_max, 0.05, n + 1, dtype=F64)
        y = sampler(GaussianMixtureDenoiser(path, [0.3], [0.5]), x, times)
        exact = gaussian_ode(path, x, float(times[0]), float(times[-1]), 0.3, 0.5)
        errors.append(float((y - exact).abs().max()))
    assert slopes(errors) == pytest.approx([order, order], abs=0.15)


# ---- distance to a two-mode distribution ----


@pytest.mark.parametrize(
    ("sampler", "path", "grid", "bounds"),
    [
        (ancestral, DDPM, None, (0.17, 0.07, 0.035)),
        (partial(ancestral, variance="fixed_large"), DDPM, None, (0.21, 0.1, 0.04)),
        (ddim, DDPM, None, (0.14, 0.05, 0.022)),
        (partial(ddim, eta=0.5), DDPM, None, (0.14, 0.05, 0.022)),
        (edm_heun, DDPM, karras_times, (0.15, 0.03, 0.012)),
        (edm_heun, EDM, karras_times, (0.12, 0.025, 0.01)),
        (partial(edm_heun, S_churn=10, S_tmin=0.05, S_tmax=50), EDM, karras_times, (0.22, 0.06, 0.015)),
        (partial(ode, method="euler"), RF, None, (0.06, 0.03, 0.012)),
        (ode, RF, None, (0.035, 0.015, 0.01)),
        (ode, vp_cosine_path(), None, (0.06, 0.025, 0.012)),
        (edm_heun, VE, None, (0.08, 0.02, 0.01)),
        (predictor_corrector, VE, None, (0.1, 0.04, 0.025)),
        (partial(predictor_corrector, snr=0.01), DDPM, None, (0.21, 0.1, 0.045)),
        (partial(predictor_corrector, snr=0.1), RF, None, (0.05, 0.025, 0.02)),
    ],
)
def test_reaches_the_mixture(sampler, path, grid, bounds):
    denoiser = mixture(path)
    x = paired_noise(path, (16, 256, 3))
    found = []
    for n in (10, 20, 50):
        times = n if grid is None else grid(path, n)
        found.append(wasserstein(sampler(denoiser, x, times, generator=gen(1)), denoiser))
    assert all(f < b for f, b in zip(found, bounds, strict=True)), found
    assert found[-1] < found[0]


def test_langevin_reaches_the_mixture():
    denoiser = mixture(LANGEVIN_PATH)
    x = paired_noise(LANGEVIN_PATH, (8, 256, 3))
    y = langevin(denoiser, x, log_snr_times(LANGEVIN_PATH, 10), generator=gen(1))
    assert wasserstein(y, denoiser) < 0.03
    noisy = langevin(denoiser, x, log_snr_times(LANGEVIN_PATH, 10), denoise=False, generator=gen(1))
    assert torch.allclose(denoiser(noisy, 0.0), y, atol=1e-6)
    assert not torch.equal(noisy, y)


def test_langevin_on_a_scaled_path_is_the_papers_walk_in_scaled_space():
    """VP states divided by alpha walk exactly like VE states at sigma / alpha."""
    times = [0.5, 0.2, 0.05, 0.0]
    x = torch.randn(4, 6, generator=gen(3), dtype=F64)
    y = langevin(mixture(VP), float(VP.alpha(0.5)) * x, times, generator=gen(1))
    edm_times = [float(VP.noise_to_signal(t)) for t in times]
    assert torch.allclose(y, langevin(mixture(EDM), x, edm_times, generator=gen(1)), atol=1e-12)
    seen = []
    langevin(mixture(VP), x, times, generator=gen(1), on_step=lambda s: seen.append(s.s) or s.x_s)
    assert seen == times[1:]


def test_langevin_is_algorithm_1():
    denoiser, times = mixture(VE), log_snr_times(VE, 4)
    x = y = torch.randn(2, 5, generator=gen(0), dtype=F64)
    sigmas = [float(VE.sigma(t)) for t in times]
    g = gen(5)
    for t, sigma in zip(times[:-1], sigmas[:-1], strict=True):
        a = 2e-5 * sigma**2 / sigmas[-2] ** 2
        for _ in range(30):
            score = (denoiser(y, t) - y) / sigma**2
            y = y + a / 2 * score + a**0.5 * torch.randn(y.shape, generator=g, dtype=F64)
    assert torch.allclose(langevin(denoiser, x, times, denoise=False, generator=gen(5)), y, atol=1e-12)


# ---- shapes, dtypes, seeds, hooks: the same for all ----


@every_sampler
def test_layout_does_not_matter(sampler, path):
    """[B,N,3], [B,C,F,H,W] and flat rows give the same numbers."""
    results = []
    for shape in [(2, 64, 3), (2, 3, 4, 4, 4), (2, 192)]:
        x = initial_noise(path, (2, 192), gen(0)).reshape(shape)
        y = sampler(mixture(path), x, 5, generator=gen(1))
        assert y.shape == shape
        assert y.dtype == torch.float32
        results.append(y.reshape(2, 192))
    assert torch.isfinite(results[0]).all()
    assert torch.allclose(results[0], results[1], atol=1e-6)
    assert torch.allclose(results[0], results[2], atol=1e-6)


@every_sampler
def test_a_sample_has_its_own_seed(sampler, path):
    denoiser = mixture(path)
    x = initial_noise(path, (4, 7, 3), [gen(i) for i in range(4)])
    batch = sampler(denoiser, x, 6, generator=[gen(10 + i) for i in range(4)])
    alone = sampler(denoiser, x[2:3], 6, generator=[gen(12)])
    assert torch.allclose(batch[2:3], alone, atol=1e-6)
    assert torch.equal(x[2:3], initial_noise(path, (1, 7, 3), gen(2)))


@every_sampler
def test_on_step_sees_each_step_and_replaces_the_state(sampler, path):
    x, seen = initial_noise(path, (2, 9), gen(0)), []
    times = uniform_times(path, 5)

    def replace(step):
        seen.append(step)
        return torch.full_like(step.x_s, 0.25) if step.index == 1 else step.x_s

    shown = []
    y = sampler(
        mixture(path), x, times, "c", generator=gen(1), on_step=replace, progress=lambda p: shown.append(p) or p
    )
    assert [s.index for s in seen] == list(range(5))
    assert [(s.t, s.s) for s in seen] == list(pairwise(times.tolist()))
    assert seen[0].x_t is x
    assert all(s.cond == "c" and s.x0_hat.shape == x.shape for s in seen)
    assert torch.equal(seen[2].x_t, torch.full_like(x, 0.25))
    assert torch.equal(seen[-1].x_s, y)
    assert len(shown[0]) == 5
    assert not y.requires_grad


@every_sampler
def test_a_hook_that_returns_nothing_is_an_error(sampler, path):
    x = initial_noise(path, (2, 9), gen(0))
    with pytest.raises(ValueError, match=r"on_step must return x_s of shape \(2, 9\), found NoneType"):
        sampler(mixture(path), x, 3, on_step=lambda step: None)
    with pytest.raises(ValueError, match=r"found \(2,\)"):
        sampler(mixture(path), x, 3, on_step=lambda step: step.x_s[:, 0])


def test_half_precision_states_stay_half():
    net = torch.nn.Linear(6, 6)
    denoiser = Denoiser(lambda x, c, cond: net(x), DDPM)
    assert ddim(denoiser, torch.randn(2, 6, dtype=torch.bfloat16), 4).dtype == torch.bfloat16


def test_gradients_only_where_asked_for():
    """The gradient a hook takes is d x0_hat / d x_t of the exact Gaussian, alpha std^2 / (alpha^2 std^2 + sigma^2)."""

    class Hook:
        needs_grad = True

        def __init__(self):
            self.found: list[tuple[float, float]] = []

        def __call__(self, step):
            (slope,) = torch.autograd.grad(step.x0_hat.sum(), step.x_t, retain_graph=True)
            self.found.append((step.t, float(slope[0, 0])))
            assert step.x_s.requires_grad
            return step.x_s

    class Linear:
        path = VP

        def __call__(self, x, t, cond=None):
            assert torch.is_grad_enabled() == wanted
            a, s = float(VP.alpha(t)), float(VP.sigma(t))
            return a * 0.25 / (a * a * 0.25 + s * s) * x

    wanted, hook = True, Hook()
    y = ddim(Linear(), initial_noise(VP, (2, 3), gen(0)), 4, on_step=hook)
    assert not y.requires_grad
    assert len(hook.found) == 4
    for t, slope in hook.found:
        a, s = float(VP.alpha(t)), float(VP.sigma(t))
        assert slope == pytest.approx(a * 0.25 / (a * a * 0.25 + s * s), rel=1e-5)
    wanted = False
    ddim(Linear(), initial_noise(VP, (2, 3), gen(0)), 4)


def test_packed_rows_with_a_noise_source_of_their_own():
    """Floorplans sample packed rows [1, M, 2] with one stream per plan; a plan's result does not see its neighbours."""

    class PerPlan:
        def __init__(self, lens, seeds):
            self.lens, self.generators = lens, [gen(s) for s in seeds]

        def randn_like(self, x):
            rows = [torch.randn(1, n, 2, generator=g) for n, g in zip(self.lens, self.generators, strict=True)]
            return torch.cat(rows, dim=1)

    both = ancestral(mixture(DDPM), torch.ones(1, 12, 2), 8, generator=PerPlan([5, 7], [1, 2]))
    alone = ancestral(mixture(DDPM), torch.ones(1, 7, 2), 8, generator=PerPlan([7], [2]))
    assert torch.allclose(both[:, 5:], alone, atol=1e-6)


# ---- ancestral sampling ----


@pytest.mark.parametrize(
    ("path", "t", "s"), [(DDPM, 500, 400), (DDPM, 1, 0), (RF, 1.0, 0.6), (VP, 0.7, 0.2), (EDM, 9.0, 2.0)]
)
def test_posterior_is_bayes_rule(path, t, s):
    """q(x_s | x_t, x0) by completing the square of q(x_s | x0) q(x_t | x_s)."""
    a, b = level_at(path, t), level_at(path, s)
    alpha_ts, variance_ts = transition(a, b)
    precision = 1 / b.sigma**2 + alpha_ts**2 / variance_ts
    c_x, c_0, variance = posterior(a, b)
    assert variance == pytest.approx(1 / precision, rel=1e-9)
    assert c_x == pytest.approx(alpha_ts / variance_ts / precision, rel=1e-9, abs=1e-15)
    assert c_0 == pytest.approx(b.alpha / b.sigma**2 / precision, rel=1e-9)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_one_ancestral_step_has_the_posteriors_mean_and_variance(variance):
    class Known:
        path = DDPM

        def __call__(self, x, t, cond=None):
            return torch.full_like(x, 0.4)

    stepped = []
    x = torch.full((1, 200_000), 1.3, dtype=F64)
    ancestral(
        Known(),
        x,
        [600, 300, -1],
        variance=variance,
        generator=gen(0),
        on_step=lambda s: stepped.append(s.x_s) or s.x_s,
    )
    abar, bbar = DDPM.alphas_cumprod[600].item(), DDPM.alphas_cumprod[300].item()
    beta = 1 - abar / bbar
    mean = (bbar**0.5 * beta * 0.4 + (1 - beta) ** 0.5 * (1 - bbar) * 1.3) / (1 - abar)
    var = beta if variance == "fixed_large" else beta * (1 - bbar) / (1 - abar)
    assert float(stepped[0].mean()) == pytest.approx(mean, abs=0.01)
    assert float(stepped[0].var()) == pytest.approx(var, rel=0.01)
    assert torch.equal(stepped[1], torch.full_like(x, 0.4))  # the last step is x0_hat, without noise


def test_variances_are_the_respaced_chains():
    times = [900, 500, 200, 10, 0, -1]
    chain = respace(DDPM, times[:-1])
    small, large = (ancestral_variances(DDPM, times, v) for v in ("fixed_small", "fixed_large"))
    assert torch.allclose(small, chain.posterior_variance.flip(0), rtol=1e-9)
    assert torch.allclose(large, chain.fixed_large_variance.flip(0), rtol=1e-9)
    by_hand = np.append(chain.posterior_variance[1].item(), chain.betas[1:].numpy())
    assert np.allclose(large.numpy()[::-1], by_hand, rtol=1e-9)
    assert torch.equal(ancestral_variances(DDPM, [999, -1], "fixed_small"), torch.zeros(1, dtype=F64))
    with pytest.raises(ValueError, match="fixed_small or fixed_large"):
        ancestral_variances(DDPM, 5, "learned")


def test_a_variance_rule_sees_each_steps_fixed_variances_and_decides():
    times, denoiser = [900, 500, 200, 10, 0, -1], mixture(DDPM)
    x = torch.randn(2, 500, dtype=F64, generator=gen(0))
    for name, kept in (("fixed_small", 0), ("fixed_large", 1)):
        seen = []
        rule = lambda *both: seen.append(both) or both[kept]  # noqa: B023, E731
        by_rule = ancestral(denoiser, x, times, variance=rule, generator=gen(1))
        assert torch.equal(by_rule, ancestral(denoiser, x, times, variance=name, generator=gen(1)))
        expected = ancestral_variances(DDPM, times, name)[:-1].tolist()  # the last step adds no noise
        assert [pair[kept] for pair in seen] == pytest.approx(expected)
    silent = ancestral(denoiser, x, times, variance=lambda small, large: 0.0, generator=gen(1))
    assert torch.equal(silent, ancestral(denoiser, x, times, variance=lambda small, large: 0.0, generator=gen(2)))


def test_a_subsequence_equals_the_respaced_path():
    """Original times under a subsequence give the same sample as a denoiser that lives on the respaced path."""
    times = [999, 700, 400, 31, 5, -1]
    chain = respace(DDPM, times[:-1])
    x = torch.randn(3, 4, generator=gen(0), dtype=F64)
    for sampler in (ancestral, partial(ancestral, variance="fixed_large"), ddim, partial(ddim, eta=0.7)):
        on_path = sampler(mixture(DDPM), x, times, generator=gen(1))
        on_chain = sampler(mixture(chain), x, [4, 3, 2, 1, 0, -1], generator=gen(1))
        assert torch.allclose(on_path, on_chain, atol=1e-10)


@pytest.mark.parametrize("steps", [6, 250])
def test_original_time_reaches_the_denoiser(steps):
    """A decision such as `t < 32` means the same for any number of steps."""
    asked = []

    class Spy(GaussianMixtureDenoiser):
        def __call__(self, x_t, t, cond=None):
            asked.append(t)
            return super().__call__(x_t, t, cond)

    ddim(Spy(DDPM, [0.0], [1.0]), torch.randn(1, 2), steps)
    assert [int(t) for t in asked] == uniform_times(DDPM, steps)[:-1].tolist()
    assert not asked[0].is_floating_point()


def learned(kind, path):
    """A net that says eps = 0 and puts a fixed 0.5 in the variance channels."""
    return Denoiser(lambda x, c, cond: torch.cat([x * 0, x * 0 + 0.5], -1), path, learned_variance=kind)


def test_learned_range_over_a_subsequence_equals_the_respaced_path():
    times = [999, 600, 300, 31, 0, -1]
    chain = respace(DDPM, times[:-1])
    x = torch.randn(2, 3, 4, generator=gen(0), dtype=F64)
    run = partial(ancestral, variance="learned_range")
    on_path = run(learned("learned_range", DDPM), x, times, generator=gen(1))
    on_chain = run(learned("learned_range", chain), x, [4, 3, 2, 1, 0, -1], generator=gen(1))
    assert torch.allclose(on_path, on_chain, rtol=1e-8)
    # (0.5 + 1) / 2 of the way from log small to log large
    steps = []
    run(
        learned("learned_range", DDPM),
        x * 0,
        [700, 300, -1],
        generator=ReplayNoise([x]),
        on_step=lambda s: steps.append(s) or s.x_s,
    )
    small = posterior(level_at(DDPM, 700), level_at(DDPM, 300))[2]
    large = transition(level_at(DDPM, 700), level_at(DDPM, 300))[1]
    assert torch.allclose(steps[0].x_s, small**0.125 * large**0.375 * x, rtol=1e-8)


def test_learned_variance_of_single_steps():
    x = torch.randn(2, 3, generator=gen(0), dtype=F64)
    short = linear_path(4)
    steps = []
    run = partial(ancestral, variance="learned", on_step=lambda s: steps.append(s) or s.x_s)
    run(learned("learned", short), x * 0, 4, generator=ReplayNoise([x, x, x]))
    assert torch.allclose(steps[0].x_s, math.exp(0.25) * x)  # log variance 0.5
    with pytest.raises(ValueError, match="one step of the path"):
        run(learned("learned", short), x, [3, 1, -1])
    with pytest.raises(ValueError, match="needs a denoiser with a learned variance"):
        run(mixture(short), x, 4)


# ---- DDIM ----


def test_ddim_with_eta_one_is_ancestral_sampling():
    x = torch.randn(2, 8, generator=gen(0), dtype=F64)
    for path in (DDPM, VP, RF):
        a = ddim(mixture(path), x, 12, eta=1.0, generator=gen(1))
        assert torch.allclose(a, ancestral(mixture(path), x, 12, generator=gen(1)), atol=1e-9)


def test_inversion_round_trip():
    denoiser = mixture(DDPM)
    x0 = denoiser.sample((2, 64, 3), gen(0))

    def error(n, refinements):
        x_T = ddim_invert(denoiser, x0, n, refinements=refinements)
        return float((ddim(denoiser, x_T, n) - x0).norm() / x0.norm())

    plain = [error(n, 0) for n in (50, 100, 200)]
    assert plain[0] == pytest.approx(0.05, abs=0.01)
    assert plain[2] == pytest.approx(0.012, abs=0.003)
    assert slopes(plain) == pytest.approx([1, 1], abs=0.15)
    refined = [plain[2], error(200, 1), error(200, 3)]
    assert refined[0] > 5 * refined[1] > 25 * refined[2]
    seen = []
    ddim_invert(denoiser, x0, 4, on_step=lambda s: seen.append((s.t, s.s)) or s.x_s)
    assert seen == [(-1, 0), (0, 333), (333, 666), (666, 999)]


# ---- EDM ----


@pytest.mark.parametrize("churn", [0.0, 20.0])
def test_edm_heun_is_algorithm_2(churn):
    denoiser = mixture(EDM)
    times = karras_times(EDM, 12)
    x = x_T = initial_noise(EDM, (3, 7), gen(0), dtype=F64)
    n, g = 12, gen(4)
    for t, s in pairwise(times.tolist()):
        gamma = min(churn / n, 2**0.5 - 1) if 0.05 <= t <= 50 else 0.0
        if gamma:
            t_hat = t + gamma * t
            x = x + (t_hat**2 - t**2) ** 0.5 * 1.003 * torch.randn(x.shape, generator=g, dtype=F64)
            t = t_hat
        d = (x - denoiser(x, t)) / t
        x_next = x + (s - t) * d
        if s != 0:
            x_next = x + (s - t) * (0.5 * d + 0.5 * (x_next - denoiser(x_next, s)) / s)
        x = x_next
    ours = edm_heun(denoiser, x_T, times, S_churn=churn, S_tmin=0.05, S_tmax=50, S_noise=1.003, generator=gen(4))
    assert torch.allclose(ours, x, atol=1e-12)


def test_edm_heun_on_a_scaled_path_is_algorithm_2_in_scaled_space():
    times = torch.linspace(1, 0, 9, dtype=F64)
    x = initial_noise(VP, (3, 7), gen(0), dtype=F64)
    on_vp = edm_heun(mixture(VP), x, times, S_churn=2.0, S_tmax=20, generator=gen(1))
    on_edm = edm_heun(
        mixture(EDM), x / VP.alpha(1.0), VP.noise_to_signal(times), S_churn=2.0, S_tmax=20, generator=gen(1)
    )
    assert torch.allclose(on_vp, on_edm, atol=1e-9)


def test_churn_on_a_discrete_path_visits_levels_of_the_table():
    asked = []

    class Spy(GaussianMixtureDenoiser):
        def __call__(self, x_t, t, cond=None):
            asked.append(float(t))
            return super().__call__(x_t, t, cond)

    times = uniform_times(DDPM, 5)
    edm_heun(Spy(DDPM, [0.0], [0.5]), torch.randn(2, 3), times, S_churn=2.0, generator=gen(0))
    first = asked[::2]  # the first of the two calls of a step
    assert first[0] == 999  # the table ends there
    assert all(hat > t for hat, t in zip(first[1:], times[1:-1].tolist(), strict=True))


def test_edm_heun_starts_from_pure_noise_by_an_euler_step():
    x = torch.randn(2, 3, generator=gen(0))
    calls = []
    y = edm_heun(mixture(RF), x, [1.0, 0.5, 0.0], on_step=lambda s: calls.append(s) or s.x_s)
    assert torch.allclose(calls[0].x_s, 0.5 * calls[0].x0_hat + 0.5 * x)
    assert torch.isfinite(y).all()


# ---- predictor-corrector ----


def test_predictor_is_reverse_diffusion_and_corrector_langevin():
    """VE: Song et al. 2021, Algorithms 2 and 4, with norms of each sample."""
    denoiser, times = mixture(VE), uniform_times(VE, 3)
    x = y = initial_noise(VE, (2, 5), gen(0), dtype=F64)
    g = gen(7)
    for i, (t, s) in enumerate(pairwise(times.tolist())):
        sigma, after = float(VE.sigma(t)), float(VE.sigma(s))
        score = (denoiser(y, t) - y) / sigma**2
        z = torch.randn(y.shape, generator=g, dtype=F64)
        e = 2 * (0.16 * z.norm(dim=1, keepdim=True) / score.norm(dim=1, keepdim=True)) ** 2
        y = y + e * score + (2 * e).sqrt() * z
        y = y + (sigma**2 - after**2) * (denoiser(y, t) - y) / sigma**2
        if i < 2:
            y = y + (sigma**2 - after**2) ** 0.5 * torch.randn(y.shape, generator=g, dtype=F64)
    assert torch.allclose(predictor_corrector(denoiser, x, times, generator=gen(7)), y, atol=1e-9)


def test_without_corrections_it_is_ancestral_sampling_with_the_large_variance():
    x = torch.randn(2, 5, generator=gen(0), dtype=F64)
    a = predictor_corrector(mixture(DDPM), x, 9, corrector_steps=0, generator=gen(1))
    assert torch.allclose(a, ancestral(mixture(DDPM), x, 9, variance="fixed_large", generator=gen(1)), atol=1e-12)


# ---- the exact denoiser itself ----


def test_mixture_denoiser_is_tweedies_formula():
    """x0_hat = (x + sigma^2 grad log p) / alpha, the score taken from `log_density` by autograd."""
    x = torch.randn(3, 4, generator=gen(0), dtype=F64, requires_grad=True)
    joint = GaussianMixtureDenoiser(VP, torch.randn(3, 4, generator=gen(1)), [0.2, 0.5, 0.0], [1.0, 2.0, 3.0])
    for denoiser in (mixture(VP), joint):
        t = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
        (score,) = torch.autograd.grad(denoiser.log_density(x, t).sum(), x)
        a, s = VP.alpha(t)[:, None], VP.sigma(t)[:, None]
        prediction = denoiser.predict(x, t)
        assert torch.allclose(prediction.x0, (x + s**2 * score) / a, atol=1e-9)
        assert torch.allclose(a * prediction.x0 + s * prediction.eps, x, atol=1e-12)
        assert prediction.variance is None


def test_mixture_samples_have_its_moments():
    joint = GaussianMixtureDenoiser(VP, torch.tensor([[1.0, -1.0], [0.0, 3.0]]), [0.1, 0.2], [1, 3])
    x = joint.sample((20_000, 2), gen(0))
    assert torch.allclose(x.mean(0), torch.tensor([0.25, 2.0], dtype=F64), atol=0.03)
    flat = GaussianMixtureDenoiser(VP, [1.0, 0.0], [0.1, 0.2], [1, 3]).sample((5, 8_000), gen(0))
    assert float(flat.mean()) == pytest.approx(0.25, abs=0.01)


def test_mixture_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"expected \[K\]"):
        GaussianMixtureDenoiser(VP, [0.0, 1.0], [0.1])
    with pytest.raises(ValueError, match=r"samples of shape \(3,\), means of \(2,\)"):
        GaussianMixtureDenoiser(VP, torch.zeros(1, 2), [0.1])(torch.zeros(4, 3), 0.5)


# ---- arguments ----


def test_initial_noise_has_the_paths_scale():
    assert float(initial_noise(EDM, (2000,), gen(0)).std()) == pytest.approx(80, rel=0.05)
    assert float(initial_noise(cosine_path(), (2000,), gen(0)).std()) == pytest.approx(1, rel=0.05)
    assert float(initial_noise(RF, (2000,), gen(0), t=0.5, dtype=F64).std()) == pytest.approx(0.5, rel=0.05)


def test_noise_sources():
    x = torch.zeros(2, 3)
    torch.manual_seed(0)
    drawn = as_noise(None).randn_like(x)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.randn(2, 3))
    source = GeneratorNoise(gen(0))
    assert as_noise(source) is source
    replay = ReplayNoise([drawn])
    assert torch.equal(replay.randn_like(x), drawn)
    with pytest.raises(ValueError, match="more noise than was recorded"):
        replay.randn_like(x)
    with pytest.raises(ValueError, match="recorded noise is"):
        ReplayNoise([drawn]).randn_like(torch.zeros(4))
    with pytest.raises(ValueError, match="found 1 generators for a batch of 2"):
        as_noise([gen(0)]).randn_like(x)
    with pytest.raises(TypeError, match=r"expected a torch\.Generator"):
        as_noise(3)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([5], "at least two"),
        ([5, 7, -1], "strictly descending"),
        ([5.5, -1], "whole numbers"),
        ([5, 5, -1], "descending"),
    ],
)
def test_bad_times_are_named(times, message):
    with pytest.raises(ValueError, match=message):
        levels_of(DDPM, times)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(ddim, eta=1.5), "eta"),
        (partial(ddim_invert, refinements=-1), "refinements"),
        (partial(ancestral, variance="large"), "variance"),
        (partial(annealed_langevin, steps_per_level=0), "steps_per_level"),
        (partial(predictor_corrector, snr=0), "snr"),
        (ode, "discrete"),
    ],
)
def test_bad_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(mixture(DDPM), torch.zeros(1, 2), 3)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ValueError, match="euler or heun"):
        ode(mixture(RF), torch.zeros(1, 2), 3, method="rk4")
    with pytest.raises(ValueError, match="carries no data"):
        annealed_langevin(mixture(RF), torch.zeros(1, 2), 3)
    a, b = level_at(RF, 0.5), level_at(RF, 0.4)
    with pytest.raises(ValueError, match="adds no noise"):
        transition(b, a)

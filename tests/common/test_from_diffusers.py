"""diffusers' schedulers through the adapter: same numbers as ours, right answers on exact denoisers, clear refusals."""

from itertools import pairwise

import diffusers
import pytest
import torch
from trifold.common.diffusion import (
    Denoiser,
    cosine_path,
    discrete_path,
    edm_path,
    linear_path,
    rectified_flow_path,
    vp_cosine_path,
    vp_linear_path,
)
from trifold.common.diffusion.diffusers_adapter import family_of, from_diffusers, scheduler_for
from trifold.common.diffusion.edm import edm_heun
from trifold.common.diffusion.gaussian import GaussianMixtureDenoiser
from trifold.common.diffusion.implicit import ddim
from trifold.common.diffusion.noise import initial_noise
from trifold.common.diffusion.samplers import ancestral, ode
from trifold.common.diffusion.times import uniform_times

# diffusers hands tensors to numpy functions
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
F64 = torch.float64
DDPM, COSINE, VP, EDM, RF = linear_path(), cosine_path(offset=0.0), vp_linear_path(), edm_path(), rectified_flow_path()


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(path) -> GaussianMixtureDenoiser:
    return GaussianMixtureDenoiser(path, [0.6, -0.6], [0.15, 0.15])


def build(path, name, **config):
    return scheduler_for(path, getattr(diffusers, name), **config)


def start(path, shape=(4, 9)):
    return initial_noise(path, shape, gen(0))


# ---- equal to ours ----


@pytest.mark.parametrize("path", [DDPM, COSINE])
@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_ddim_equals_ours(path, eta, prediction_type):
    scheduler = build(path, "DDIMScheduler", timestep_spacing="trailing", prediction_type=prediction_type)
    theirs = from_diffusers(scheduler, eta=eta)(mixture(path), start(path), 20, generator=gen(1))
    ours = ddim(mixture(path), start(path), uniform_times(path, 20, "trailing"), eta=eta, generator=gen(1))
    assert torch.allclose(theirs, ours, atol=2e-6)


@pytest.mark.parametrize("path", [DDPM, COSINE])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_equals_ancestral(path, variance):
    sampler = from_diffusers(build(path, "DDPMScheduler", variance_type=variance), num_steps=20)
    theirs = sampler(mixture(path), start(path), generator=gen(1))
    ours = ancestral(
        mixture(path), start(path), uniform_times(path, 20, "leading"), variance=variance, generator=gen(1)
    )
    assert torch.allclose(theirs, ours, atol=1e-5)


def test_sigma_space_schedulers_equal_ours():
    """Euler in scaled space is DDIM, EDM's Euler too; flow Euler and Heun are the ODE's."""
    times = uniform_times(DDPM, 10)
    euler = from_diffusers(build(DDPM, "EulerDiscreteScheduler"))(mixture(DDPM), start(DDPM), 10)
    assert torch.allclose(euler, ddim(mixture(DDPM), start(DDPM), times), atol=1e-4)
    ancestor = from_diffusers(build(DDPM, "EulerAncestralDiscreteScheduler"))
    theirs = ancestor(mixture(DDPM), start(DDPM), 10, generator=gen(3))
    assert torch.allclose(theirs, ancestral(mixture(DDPM), start(DDPM), times, generator=gen(3)), atol=1e-3)
    seen = []
    for name in ("EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"):
        path = EDM if name.startswith("EDM") else RF
        hook = lambda step: seen.append(step) or step.x_s  # noqa: E731
        theirs = from_diffusers(build(path, name))(mixture(path), start(path), 12, on_step=hook)
        grid = [step.t for step in seen[-12:]] + [0.0]
        assert torch.allclose(theirs, ddim(mixture(path), start(path), grid), atol=1e-4)
    grid = [step.t for step in seen[-12:]] + [0.0]
    heun = from_diffusers(build(RF, "FlowMatchHeunDiscreteScheduler"))(mixture(RF), start(RF), 12)
    assert torch.allclose(heun, ode(mixture(RF), start(RF), grid), atol=1e-4)
    karras = build(DDPM, "HeunDiscreteScheduler")
    assert torch.allclose(
        from_diffusers(karras)(mixture(DDPM), start(DDPM), 10), edm_heun(mixture(DDPM), start(DDPM), times), atol=1e-3
    )


# ---- right on the exact denoiser, for every class ----


@pytest.mark.parametrize(
    ("path", "name", "config", "bound"),
    [
        (DDPM, "PNDMScheduler", {"skip_prk_steps": True}, 0.02),
        (DDPM, "TCDScheduler", {}, 0.04),
        (DDPM, "LCMScheduler", {}, 0.06),
        (DDPM, "DPMSolverMultistepScheduler", {}, 0.025),
        (DDPM, "DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "prediction_type": "sample"}, 0.02),
        (DDPM, "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 0.04),
        (DDPM, "DPMSolverMultistepScheduler", {"solver_order": 3, "prediction_type": "v_prediction"}, 0.025),
        (
            DDPM,
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"},
            0.025,
        ),
        (DDPM, "DPMSolverSinglestepScheduler", {"lower_order_final": True}, 0.03),
        (DDPM, "DPMSolverSinglestepScheduler", {"lower_order_final": True, "solver_order": 3}, 0.03),
        (DDPM, "DEISMultistepScheduler", {"solver_order": 3}, 0.025),
        (DDPM, "UniPCMultistepScheduler", {}, 0.025),
        (DDPM, "UniPCMultistepScheduler", {"solver_order": 3, "use_karras_sigmas": True}, 0.02),
        (DDPM, "SASolverScheduler", {}, 0.03),
        (DDPM, "EulerDiscreteScheduler", {"use_karras_sigmas": True, "prediction_type": "v_prediction"}, 0.03),
        (DDPM, "EulerDiscreteScheduler", {"timestep_spacing": "leading"}, 0.04),
        (DDPM, "HeunDiscreteScheduler", {"use_karras_sigmas": True}, 0.02),
        (EDM, "EDMEulerScheduler", {"prediction_type": "v_prediction"}, 0.025),
        (EDM, "EDMDPMSolverMultistepScheduler", {}, 0.02),
        (RF, "FlowMatchEulerDiscreteScheduler", {"shift": 2.0}, 0.025),
        (RF, "FlowMatchHeunDiscreteScheduler", {}, 0.02),
        (RF, "DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, 0.02),
        # a scheduler of one family on a path of another
        (VP, "DPMSolverMultistepScheduler", {}, 0.025),
        (VP, "DDIMScheduler", {"timestep_spacing": "trailing"}, 0.03),
        (DDPM, "EDMDPMSolverMultistepScheduler", {}, 0.02),
        (RF, "EDMDPMSolverMultistepScheduler", {"sigma_max": 80.0}, 0.02),
    ],
)
def test_reaches_the_mixture(path, name, config, bound):
    denoiser = mixture(path)
    half = start(path, (8, 128, 3))
    sampler = from_diffusers(build(path, name, **config))
    x = sampler(denoiser, torch.cat([half, -half]), 50, generator=gen(1))
    data = denoiser.sample((1, x.numel()), gen(99)).flatten().sort().values
    assert float((x.flatten().double().sort().values - data).abs().mean()) < bound


@pytest.mark.parametrize(
    ("name", "path"),
    [("DDPMScheduler", DDPM), ("UniPCMultistepScheduler", DDPM), ("EDMEulerScheduler", EDM), ("TCDScheduler", DDPM)],
)
def test_layouts_seeds_and_repeated_runs(name, path):
    """No class cares about the layout; seeds are a sample's own; no state leaks from one run into the next."""
    sampler = from_diffusers(build(path, name), num_steps=6)
    seeds = [gen(5), gen(6)]
    first = sampler(mixture(path), start(path, (2, 192)), generator=[gen(5), gen(6)])
    for shape in [(2, 64, 3), (2, 3, 4, 4, 4)]:
        again = sampler(mixture(path), start(path, (2, 192)).reshape(shape), generator=[gen(5), gen(6)])
        assert torch.allclose(again.reshape(2, 192), first, atol=1e-5)
    alone = sampler(mixture(path), start(path, (2, 192))[1:], generator=seeds[1:])
    assert torch.allclose(alone, first[1:], atol=1e-5)


# ---- hooks and times ----


@pytest.mark.parametrize(("name", "path", "calls"), [("DDIMScheduler", DDPM, 5), ("HeunDiscreteScheduler", DDPM, 9)])
def test_on_step_sees_states_of_the_path(name, path, calls):
    seen = []

    def replace(step):
        seen.append(step)
        return torch.full_like(step.x_s, 0.25) if step.index == 1 else step.x_s

    x = start(path)
    sampler = from_diffusers(build(path, name))
    y = sampler(mixture(path), x, 5, "c", on_step=replace, progress=list)
    assert len(seen) == calls
    assert torch.equal(seen[0].x_t, x)
    assert torch.equal(seen[2].x_t, torch.full_like(x, 0.25))
    assert torch.equal(seen[-1].x_s, y)
    assert seen[-1].s == -1
    assert seen[0].cond == "c"
    assert all(a.s == b.t for a, b in pairwise(seen))
    assert all(step.t == round(step.t) for step in seen)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_times_of_ones_own(name):
    times, seen = [900, 500, 120, 7, -1], []
    sampler = from_diffusers(build(DDPM, name))
    sampler(mixture(DDPM), start(DDPM), times, generator=gen(0), on_step=lambda s: seen.append(s.t) or s.x_s)
    assert seen == times[:-1]


def test_one_based_paths_keep_their_own_time():
    path, seen = linear_path(100, one_based=True), []
    sampler = from_diffusers(build(path, "DDIMScheduler", timestep_spacing="trailing"))
    sampler(mixture(path), start(path), 5, on_step=lambda s: seen.append((s.t, s.s)) or s.x_s)
    assert seen == [(100, 80), (80, 60), (60, 40), (40, 20), (20, 0)]


def test_gradients_reach_the_estimate():
    class Hook:
        needs_grad = True

        def __call__(self, step):
            (slope,) = torch.autograd.grad(step.x0_hat.sum(), step.x_t)
            assert slope.abs().max() > 0
            return step.x_s - 0.1 * slope

    y = from_diffusers(build(DDPM, "DPMSolverMultistepScheduler"))(mixture(DDPM), start(DDPM), 4, on_step=Hook())
    assert not y.requires_grad


def test_zero_terminal_snr_starts_at_the_last_time():
    path, seen = linear_path(rescale_zero_terminal_snr=True), []
    options = {
        "trained_betas": linear_path().betas.tolist(),
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    sampler = from_diffusers(diffusers.DDIMScheduler(prediction_type="v_prediction", **options))
    y = sampler(mixture(path), start(path), 5, on_step=lambda s: seen.append(s.t) or s.x_s)
    assert seen[0] == 999
    assert torch.allclose(y, ddim(mixture(path), start(path), uniform_times(path, 5, "trailing")), atol=1e-5)
    # its stand-in for 0 is 2^-24, a little cleaner than the path's last but one level
    multistep = from_diffusers(diffusers.UniPCMultistepScheduler(prediction_type="v_prediction", **options))
    multistep(mixture(path), start(path), 6, on_step=lambda s: seen.append(s.t) or s.x_s)
    assert 990 < seen[5] < 999
    with pytest.raises(ValueError, match="'epsilon' cannot carry x0 where alpha = 0"):
        from_diffusers(diffusers.DDIMScheduler(**options))(mixture(path), start(path), 6)


@pytest.mark.parametrize(
    "name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler", "LCMScheduler"]
)
def test_zero_terminal_snr_has_a_stand_in_for_infinity(name):
    path, seen = linear_path(rescale_zero_terminal_snr=True), []
    sampler = from_diffusers(build(path, name, prediction_type="v_prediction", timestep_spacing="trailing"))
    y = sampler(mixture(path), start(path), 20, generator=gen(1), on_step=lambda s: seen.append(s.t) or s.x_s)
    assert seen[0] > 990
    assert y.isfinite().all()
    assert 0.35 < y.abs().mean() < 0.85


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "HeunDiscreteScheduler", "PNDMScheduler"])
def test_schedulers_that_cannot_start_without_signal_say_so(name):
    path = linear_path(rescale_zero_terminal_snr=True)
    sampler = from_diffusers(build(path, name, prediction_type="v_prediction", timestep_spacing="trailing"))
    with pytest.raises(ValueError, match=f"{name}: cannot start where alpha = 0"):
        sampler(mixture(path), start(path), 10)


def test_tcd_is_deterministic_unless_eta_says_otherwise():
    def run(seed, eta=0.0):
        return from_diffusers(build(DDPM, "TCDScheduler"), eta=eta)(mixture(DDPM), start(DDPM), 4, generator=seed)

    assert torch.equal(run(gen(1)), run(gen(2)))
    assert torch.equal(run(gen(1)), run(Stream(1)))  # it asks for no noise
    assert not torch.equal(run(gen(1), 0.3), run(gen(2), 0.3))


def test_final_level_that_is_not_clean():
    """`set_alpha_to_one=False` (Stable Diffusion's setting) ends at the first level of the table."""
    seen = []
    sampler = from_diffusers(build(DDPM, "DDIMScheduler", set_alpha_to_one=False))
    sampler(mixture(DDPM), start(DDPM), 5, on_step=lambda s: seen.append(s.s) or s.x_s)
    assert seen[-1] == 0


# ---- traps ----


def test_clipping_of_the_scheduler_is_off_and_the_original_untouched():
    """Data of standard deviation 3: with clip_sample's clamp to [-1, 1] nothing could be beyond it."""
    denoiser = GaussianMixtureDenoiser(DDPM, [0.0], [3.0])
    scheduler = diffusers.DDIMScheduler(trained_betas=DDPM.betas.tolist(), clip_sample=True)
    before = scheduler.timesteps.clone()
    y = from_diffusers(scheduler)(denoiser, start(DDPM, (2, 2000)), 50)
    assert float(y.std()) == pytest.approx(3.0, rel=0.1)
    assert scheduler.config.clip_sample
    assert torch.equal(scheduler.timesteps, before)


def test_learned_variance_passes_only_its_mean():
    """DPM-Solver would cut the output to 3 channels, and DDPM wants variances on axis 1."""
    denoiser = Denoiser(lambda x, c, cond: torch.cat([x, x], -1), DDPM, learned_variance="learned_range")
    plain = Denoiser(lambda x, c, cond: x, DDPM)
    learned = from_diffusers(build(DDPM, "DPMSolverMultistepScheduler", variance_type="learned_range"))
    usual = from_diffusers(build(DDPM, "DPMSolverMultistepScheduler"))
    x = start(DDPM, (2, 7, 5))
    assert torch.equal(learned(denoiser, x, 6), usual(plain, x, 6))
    with pytest.raises(ValueError, match="use ancestral"):
        from_diffusers(build(DDPM, "DDPMScheduler", variance_type="learned_range"))


def test_a_path_that_disagrees_is_refused():
    with pytest.raises(ValueError, match=r"disagree differ by up to .* scheduler_for"):
        from_diffusers(diffusers.DDIMScheduler())(mixture(COSINE), start(COSINE), 5)
    with pytest.raises(ValueError, match=r"\(1000 steps\) and the denoiser's path's \(50 steps\)"):
        from_diffusers(diffusers.DDIMScheduler())(mixture(linear_path(50)), start(DDPM), 5)
    with pytest.raises(ValueError, match=r"visits sigma/alpha = 80"):
        from_diffusers(diffusers.EDMEulerScheduler())(mixture(edm_path(0.002, 20.0)), start(EDM), 5)
    with pytest.raises(ValueError, match="visits sigma/alpha = inf"):
        from_diffusers(diffusers.FlowMatchEulerDiscreteScheduler())(mixture(VP), start(VP), 5)


class Stream:
    """A noise source that is no generator."""

    def __init__(self, seed):
        self.generator = gen(seed)

    def randn_like(self, x):
        return torch.randn(x.shape, generator=self.generator)


def test_noise_sources_of_ones_own():
    for name, eta, config in (
        ("DDIMScheduler", 0.5, {}),
        ("DPMSolverMultistepScheduler", 0.0, {"algorithm_type": "sde-dpmsolver++"}),
    ):
        sampler = from_diffusers(build(DDPM, name, **config), num_steps=5, eta=eta)
        custom = sampler(mixture(DDPM), start(DDPM), generator=Stream(1))
        assert torch.equal(custom, sampler(mixture(DDPM), start(DDPM), generator=gen(1)))
    for name in ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"):  # draw nothing
        sampler = from_diffusers(build(DDPM, name), num_steps=5)
        assert torch.equal(
            sampler(mixture(DDPM), start(DDPM), generator=Stream(1)), sampler(mixture(DDPM), start(DDPM))
        )
    with pytest.raises(TypeError, match="cannot use a custom NoiseSource"):
        from_diffusers(build(DDPM, "DDPMScheduler"))(mixture(DDPM), start(DDPM), 5, generator=Stream(1))


def test_dynamic_shift_gets_its_mu():
    scheduler = build(RF, "FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True)
    seen = []
    from_diffusers(scheduler, mu=1.0)(mixture(RF), start(RF), 4, on_step=lambda s: seen.append(s.t) or s.x_s)
    assert seen[1] > 0.75  # shifted towards noise


def test_refusals():
    with pytest.raises(TypeError, match="KDPM2DiscreteScheduler is not supported"):
        from_diffusers(diffusers.KDPM2DiscreteScheduler())
    with pytest.raises(ValueError, match="has no eta"):
        from_diffusers(diffusers.UniPCMultistepScheduler(), eta=0.5)
    with pytest.raises(ValueError, match="pass a number of steps"):
        from_diffusers(build(DDPM, "DDIMScheduler"))(mixture(DDPM), start(DDPM))
    with pytest.raises(ValueError, match="chooses its own"):
        from_diffusers(build(DDPM, "DDIMScheduler"))(mixture(DDPM), start(DDPM), [10, 5, -1])
    with pytest.raises(ValueError, match="no table of betas can hold"):
        build(vp_cosine_path(), "DDIMScheduler")
    with pytest.raises(ValueError, match="prediction_type 'score' is not known"):
        from_diffusers(build(DDPM, "DDIMScheduler", prediction_type="score"))(mixture(DDPM), start(DDPM), 5)


def test_subclasses_count_as_their_family():
    class Mine(diffusers.UniPCMultistepScheduler):
        pass

    assert family_of(Mine) == "vp"
    short = discrete_path(torch.linspace(0.01, 0.2, 40, dtype=F64))
    assert len(scheduler_for(short, Mine).alphas_cumprod) == 40

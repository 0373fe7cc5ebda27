"""Sampling with the models: seeds, samplers, numbers of points, units, folders, bad arguments."""

from dataclasses import replace

import pytest
import torch
from trifold.common.diffusion import ReplayNoise, edm_heun, uniform_times
from trifold.common.diffusion.samplers import ancestral, ancestral_variances, transition
from trifold.common.diffusion.step import levels_of
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.luo_hu import AutoEncoder, AutoEncoderConfig, FlowVAE, FlowVAEConfig, GaussianVAE
from trifold.pointcloud.luo_hu.process import flexible_variance, luo_hu_path, reverse_stds, sampler_named
from trifold.pointcloud.normalise import Normalisation

from . import golden
from .luo_hu_models import autoencoder, flow_vae, gaussian_vae

V = golden.tensors()
FULL = 20


# ------------------------------------------------------------------------------------------------- seeds and samplers


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++"])
def test_a_cloud_depends_on_its_own_seed_alone(sampler):
    model = flow_vae()
    steps = 4
    together = model.sample(5, 30, seed=7, sampler=sampler, steps=steps, batch_size=2)
    assert together.shape == (5, 30, 3)
    assert bool(together.isfinite().all())
    alone = model.sample(1, 30, seed=10, sampler=sampler, steps=steps)
    torch.testing.assert_close(together[3], alone[0], atol=1e-5, rtol=1e-5)
    assert float((together[0] - together[1]).abs().max()) > 0.1


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", edm_heun], ids=["ddim", "dpmsolver++", "edm_heun"])
def test_deterministic_samplers_of_the_core_converge_to_one_cloud(sampler):
    model, w = flow_vae(), V["inputs/w"]
    with torch.no_grad():
        z = model.from_prior(w)
    reference = model.decode(z, 64, seed=1, sampler="ddim")
    got = model.decode(z, 64, seed=1, sampler=sampler, steps=10)
    start = model.decode(z, 64, seed=2, sampler="ddim")
    near, far = (got - reference).square().mean().sqrt(), (start - reference).square().mean().sqrt()
    assert float(near) < 0.25 * float(far)


def test_all_steps_by_default_and_any_number_of_points():
    model = gaussian_vae()
    calls = []
    model.decode(V["inputs/w"], 3, on_step=lambda step: calls.append((step.t, step.s)) or step.x_s)
    assert calls == [(t, t - 1) for t in range(FULL, 0, -1)]
    assert model.decode(V["inputs/w"], 1000, steps=1).shape == (3, 1000, 3)


def test_reduced_precision_stays_near():
    model = flow_vae()
    exact, rough = (model.sample(2, 200, seed=3, precision=p) for p in ("float32", "bfloat16"))
    assert rough.dtype is torch.float32
    assert 0 < float((exact - rough).abs().max()) < 0.05


def test_samples_reach_the_data_units():
    model = flow_vae()
    model.config = replace(model.config, normalisation=Normalisation("shape_unit", (1.0, 2.0, 3.0), 0.5))
    clouds = model.generate(2, 16, seed=4, steps=2)
    points = model.sample(2, 16, seed=4, steps=2)
    for i, cloud in enumerate(clouds):
        assert cloud.name == f"cloud-{i}"
        wanted = points[i] * 0.5 + torch.tensor([1.0, 2.0, 3.0])
        torch.testing.assert_close(torch.from_numpy(cloud.points), wanted)


def test_reconstruction_returns_to_where_the_cloud_was():
    model = autoencoder()
    # one shift for all axes: the deviation of "shape_unit" is around the mean of all coordinates together
    shift, scale = 5.0, 2.0
    here = model.reconstruct(V["inputs/x"], seed=1)
    there = model.reconstruct(V["inputs/x"] * scale + shift, seed=1)
    torch.testing.assert_close(there, here * scale + shift, atol=1e-2, rtol=1e-2)
    assert model.reconstruct(V["inputs/x"], 50, steps=2, sampler="ddim").shape == (3, 50, 3)


def test_an_encoding_does_not_depend_on_the_order_of_points():
    model = autoencoder()
    with torch.no_grad():
        flipped = model.encode(V["inputs/x"].flip(1))
        torch.testing.assert_close(flipped, model.encode(V["inputs/x"]), atol=1e-5, rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- variances


def test_flexibility_blends_standard_deviations():
    path = luo_hu_path(10, 1e-4, 0.02)
    pairs = list(zip(path.posterior_variance.tolist(), path.betas.tolist(), strict=True))
    for share in (0.0, 0.3, 1.0):
        stds = torch.tensor([(1 - share) * small**0.5 + share * large**0.5 for small, large in pairs]).double()
        torch.testing.assert_close(reverse_stds(path, share), stds, atol=1e-7, rtol=1e-6)
    with pytest.raises(ValueError, match="flexibility"):
        flexible_variance(1.5)


def test_only_the_published_sampler_has_flexibility():
    with pytest.raises(ValueError, match="flexibility: belongs to sampler 'ddpm'"):
        sampler_named("ddim", gaussian_vae().path, 0.5)


def test_flexibility_over_few_steps_is_that_of_the_longer_steps():
    path = luo_hu_path(10, 1e-4, 0.02)
    times = uniform_times(path, 3)
    levels = levels_of(path, times)
    seen = []
    rule = lambda small, large: seen.append((small, large)) or flexible_variance(0.5)(small, large)  # noqa: E731
    model = GaussianVAE()
    model.path = path
    ancestral(model.denoiser(), torch.zeros(1, 2, 3), times, torch.zeros(1, 256), variance=rule)
    assert [s for s, _ in seen] == pytest.approx(ancestral_variances(path, times, "fixed_small")[:-1].tolist())
    assert [large for _, large in seen] == pytest.approx([transition(levels[i], levels[i + 1])[1] for i in range(2)])


# -------------------------------------------------------------------------------------------------------- truncation


@pytest.mark.parametrize("truncation", ["exact", "first_of_four"])
def test_truncated_latents_are_inside_and_reproducible(truncation):
    model = gaussian_vae()

    def draw():
        generators = [torch.Generator().manual_seed(i) for i in range(50)]
        return model.draw_prior(generators, truncate_std=2.0, truncation=truncation)

    drawn = draw()
    assert drawn.shape == (50, 32)
    assert float(drawn.abs().max()) < 2.0
    assert torch.equal(drawn, draw())
    wide = model.draw_prior([torch.Generator().manual_seed(i) for i in range(50)])
    assert float(wide.abs().max()) > 2.0


# ------------------------------------------------------------------------------------------------- folders and errors


@pytest.mark.parametrize("make", [autoencoder, gaussian_vae, flow_vae])
def test_saved_and_loaded_models_are_equal(tmp_path, make):
    model = make()
    model.config = replace(model.config, normalisation=Normalisation("shape_bbox", (0.5, 0.0, 1.0), 2.0))
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    assert again.config == model.config
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_published_sizes_are_the_defaults():
    model = AutoEncoder()
    assert sum(p.numel() for p in model.parameters()) == 1_575_320
    assert (model.path.num_steps, model.path.betas[-1].item()) == (200, 0.05)
    assert sum(p.numel() for p in FlowVAE().parameters()) == 3_879_832
    assert not any(p.requires_grad for p in model.encoder.log_variance_head.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.sample(0), "num_clouds"),
        (lambda m: m.sample(1, 0), "num_points"),
        (lambda m: m.sample(1, 8, seed=-1), "seed"),
        (lambda m: m.sample(1, 8, steps=21), "steps must lie in 1..20"),
        (lambda m: m.sample(1, 8, sampler="euler"), "expected one of ddpm, ddim"),
        (lambda m: m.sample(1, 8, precision="half"), "precision"),
        (lambda m: m.sample(1, 8, flexibility=-0.1), "flexibility"),
        (lambda m: m.sample(1, 8, truncate_std=0.0), "bound"),
        (lambda m: m.sample(1, 8, truncate_std=2.0, truncation="none"), "truncation"),
        (lambda m: m.encode(torch.zeros(2, 0, 3)), "N at least 1"),
        (lambda m: m.encode(torch.zeros(2, 5, 4)), r"\[B, N, 3\]"),
        (lambda m: m.decode(torch.zeros(2, 31), 8), r"\[B, 32\]"),
        (lambda m: m.decode(torch.zeros(2, 32), 8, generator=ReplayNoise([])), "more noise than was recorded"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(flow_vae())


@pytest.mark.parametrize(
    "change", [{"latent_dim": 0}, {"num_steps": 0}, {"beta_1": 0.0}, {"beta_T": 1.0}, {"beta_1": 0.5, "beta_T": 0.1}]
)
def test_bad_configs_are_named(change):
    with pytest.raises(ValueError, match="expected"):
        AutoEncoderConfig(**change)


def test_a_flow_needs_two_numbers():
    with pytest.raises(ValueError, match="latent_dim >= 2"):
        FlowVAE(FlowVAEConfig(latent_dim=1))


def test_a_cloud_error_is_a_value_error():
    with pytest.raises(PointCloudError):
        flow_vae().sample(1, 0)

"""PointDiffusion: seeds and units, guidance by its formula, every sampler on a density known in closed form."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trifold.common.diffusion import ddim, shifted_time
from trifold.pointcloud.cloud import PointCloud
from trifold.pointcloud.conditioning import NO_CLASS, PointCondition
from trifold.pointcloud.diffusion import PointDiffusion
from trifold.pointcloud.diffusion_config import PointDiffusionConfig
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.latent import kl_to_standard_normal, slerp
from trifold.pointcloud.normalise import Normalisation
from trifold.pointcloud.process import Sampling, noise_streams, point_path, sampling_times

from .tiny_points import CLASSES, random_cloud, small_net, tiny_config, tiny_model


def arrays(clouds):
    return np.stack([cloud.points for cloud in clouds])


def close(a, b, tolerance=1e-4):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------- generation


def test_a_seed_gives_the_same_clouds_in_any_batch():
    model, options = tiny_model(), {"steps": 3, "sampler": "ddpm", "guidance_scale": 1.5}
    whole = model.generate(4, 40, seed=7, **options)
    assert np.array_equal(arrays(whole), arrays(model.generate(4, 40, seed=7, **options)))
    close(arrays(whole), arrays(model.generate(4, 40, seed=7, batch_points=90, **options)))
    last = model.generate(1, 40, seed=10, **options)[0]
    close(whole[3].points, last.points)
    assert whole[3].name == last.name
    assert not np.allclose(whole[0].points, whole[1].points)


@pytest.mark.parametrize("points", [1, 33, 200])
def test_any_number_of_points(points):
    cloud = tiny_model().generate(1, points, steps=2, class_name="mug")[0]
    assert cloud.points.shape == (points, 3)
    assert cloud.name == "mug"


def test_clouds_come_back_in_the_units_of_the_data():
    """A new net that predicts x0 says 0, the middle of the normalised data."""
    model = PointDiffusion(tiny_config(prediction="x0"))
    close(model.generate(2, 5, steps=2)[1].points, np.tile([0.5, -1.0, 2.0], (5, 1)), 1e-6)


def test_sampling_leaves_the_model_as_it_was():
    model = tiny_model().train()
    model.generate(1, 8, steps=1)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"class_name": "sofa"}, PointCloudError, "no class 'sofa'; known: chair, mug, table"),
        ({"num_clouds": 2, "class_name": ["mug"]}, ValueError, "one for each of 2"),
        ({"num_points": 0}, ValueError, "num_points"),
        ({"num_clouds": 0}, ValueError, "num_clouds"),
        ({"steps": 0}, ValueError, "steps"),
        ({"sampler": "magic"}, ValueError, "sampler: expected one of ddpm"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_bad_requests_are_told(arguments, error, text):
    with pytest.raises(error, match=text):
        tiny_model().generate(**{"num_points": 4, "steps": 1, **arguments})


def test_a_model_without_classes_and_latent_has_nothing_to_guide_by():
    model = tiny_model(class_names=(), latent_dim=0)
    assert model.generate(1, 6, steps=1)[0].name == ""
    with pytest.raises(PointCloudError, match="neither a class nor a shape latent"):
        model.generate(1, 6, steps=1, guidance_scale=2.0)
    with pytest.raises(PointCloudError, match="knows no classes"):
        model.generate(1, 6, steps=1, class_name="mug")


def test_guidance_is_unconditional_plus_scale_times_difference():
    model = tiny_model()
    labels, shape = torch.tensor([1, 2]), torch.randn(2, 5)
    x = torch.randn(2, 9, 3)
    for scale in (0.0, 1.0, 2.5):
        options = Sampling(steps=1, sampler=ddim, guidance_scale=scale)
        with torch.no_grad():
            guided = model.points(labels, shape, noise_streams([0, 1]), 9, options, start=x)
            told = model.denoiser()(x, 1.0, PointCondition(labels, shape))
            free = model.denoiser()(x, 1.0)
        close(guided, free + scale * (told - free), 1e-5)


def test_guidance_of_the_prior_follows_the_same_formula():
    model = tiny_model()
    prior = model.prior
    assert prior is not None
    labels = torch.tensor([0, 2])
    with torch.no_grad():
        z = model.draw_latents(labels, noise_streams([3, 4]), guidance_scale=3.0, steps=1)
        start = noise_streams([3, 4]).randn_like(torch.empty(2, 5))
        told, free = (prior.denoiser()(start, 1.0, c) for c in (labels, torch.full((2,), NO_CLASS)))
    close(z, free + 3.0 * (told - free), 1e-5)


# ---------------------------------------------------------------------------------------------- the process itself


class Gaussian(nn.Module):
    """The exact v of data N(0, s^2): E[x0 | x] = alpha s^2 / (alpha^2 s^2 + sigma^2) x."""

    def __init__(self, s: float) -> None:
        super().__init__()
        self.s = s

    def forward(self, x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        angle = 0.5 * math.pi * t.double()[:, None, None] / 999
        alpha, sigma = angle.cos(), angle.sin()
        factor = alpha * sigma * (1 - self.s**2) / (alpha**2 * self.s**2 + sigma**2)
        return (factor * x).to(x.dtype)


@pytest.fixture
def gaussian():
    model = PointDiffusion(PointDiffusionConfig(net=small_net(), latent_dim=0))
    model.net = Gaussian(0.3)  # type: ignore[assignment]
    model.register_parameter("weight", nn.Parameter(torch.zeros(1)))
    return model


@pytest.mark.parametrize(
    ("sampler", "steps", "tolerance"),
    [("ddim", 500, 4e-3), ("heun", 60, 4e-3), ("ode", 60, 4e-3), ("dpmsolver++", 60, 1e-2)],
)
def test_samplers_solve_the_ode_of_a_gaussian_from_zero_snr(gaussian, sampler, steps, tolerance):
    """Its flow scales the noise: x_0 = s x_1."""
    noise = noise_streams([5]).randn_like(torch.empty(1, 300, 3))[0]
    cloud = gaussian.generate(1, 300, steps=steps, sampler=sampler, seed=5)[0]
    assert float((torch.from_numpy(cloud.points) - 0.3 * noise).abs().max()) < tolerance * 3


@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 300), ("sde-dpmsolver++", 100)])
def test_stochastic_samplers_reach_the_variance_of_the_data(gaussian, sampler, steps):
    """The posterior variance of ancestral sampling is too small by O(1 / steps)."""
    points = gaussian.generate(1, 6000, steps=steps, sampler=sampler)[0].points
    assert abs(points.std() / 0.3 - 1) < 0.03


@pytest.mark.parametrize("shift", [0.3, 1.0, 4.0])
def test_a_shift_multiplies_the_noise_to_signal_ratio(shift):
    path, t = point_path(), torch.linspace(0.01, 0.99, 7, dtype=torch.float64)
    torch.testing.assert_close(path.noise_to_signal(shifted_time(t, shift)), shift * path.noise_to_signal(t))
    times = sampling_times(10, shift)
    assert (times[0], times[-1], len(times)) == (1.0, 0.0, 11)
    assert all(s < t for t, s in pairwise(times))
    assert float(path.alpha(times[0])) == 0.0


def test_a_shifted_grid_reaches_the_same_solution(gaussian):
    clouds = []
    for shift in (0.5, 2.0):
        model = PointDiffusion(PointDiffusionConfig(net=small_net(), latent_dim=0, sampling_shift=shift))
        model.net = gaussian.net
        model.register_parameter("weight", nn.Parameter(torch.zeros(1)))
        clouds += [model.generate(1, 50, steps=60, sampler=name)[0].points for name in ("heun", "dpmsolver++")]
    for other in clouds[1:]:
        close(other, clouds[0], 0.03)


# -------------------------------------------------------------------------------------------------- shape latents


def test_kl_by_hand():
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.log(4.0)]])
    assert float(kl_to_standard_normal(mean, log_variance)) == pytest.approx(0.5 * (1 + 4 - math.log(4.0) - 1))
    assert float(kl_to_standard_normal(torch.zeros(1, 3), torch.zeros(1, 3))) == 0


def test_slerp_ends_where_it_should_and_keeps_the_length():
    a, b = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    close(slerp(a, b, 1 / 3), [2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6), 0.0], 1e-6)
    assert torch.equal(slerp(a, a, 0.5), a)
    assert torch.equal(slerp(torch.zeros(3), b, 0.5), b / 2)


def test_an_encoding_ignores_order_place_in_the_batch_and_where_the_cloud_stands_per_shape():
    model = tiny_model(normalisation=Normalisation("shape_bbox", (0.0, 1.0, 0.0), 2.0))
    clouds = [random_cloud(30), random_cloud(71, 1), random_cloud(12, 2)]
    latents = model.encode(clouds)
    assert latents.shape == (3, 5)
    assert float(latents.std(0).min()) > 1e-3
    turned = PointCloud(4 * clouds[1].points[::-1] + 7)
    close(model.encode([turned])[0], latents[1])
    close(model.encode(clouds, batch_points=40), latents)


@pytest.mark.parametrize("mode", ["global", "shape_bbox"])
def test_interpolation_begins_and_ends_with_the_reconstructions(mode):
    model = tiny_model(normalisation=Normalisation(mode, (0.5, -1.0, 2.0), 3.0))
    a, b = random_cloud(40, 0), random_cloud(25, 1)
    options = {"class_name": "mug", "seed": 4, "sampling": Sampling(steps=3)}
    way = model.interpolate(a, b, 3, num_points=20, **options)
    ends = model.reconstruct([a, b], 20, **options)
    close(arrays([way[0], way[2]]), arrays(ends))
    assert not np.allclose(way[1].points, way[0].points, atol=1e-3)
    assert way[1].name == "mug"
    if mode == "global":
        close(arrays(ends[:1]), arrays(model.decode(model.encode([a]), 20, **options)))


def test_without_a_latent_clouds_pass_through_their_noise(gaussian):
    a = random_cloud(40, 0)
    back = gaussian.reconstruct([a], 40, sampling=Sampling(steps=30))[0]
    close(back.points, a.points, 5e-3)
    middle = gaussian.interpolate(a, a, 3, num_points=40)[1]
    close(middle.points, gaussian.reconstruct([a], 40)[0].points)
    with pytest.raises(PointCloudError, match="1 to 40, found 50"):
        gaussian.reconstruct([a], 50)
    with pytest.raises(PointCloudError, match="no shape latent"):
        gaussian.encode([a])


def test_without_a_latent_too_interpolation_ends_with_the_reconstructions():
    model = tiny_model(std=0.03, latent_dim=0)
    a, b = random_cloud(40, 0), random_cloud(60, 1)
    options = {"seed": 4, "class_name": "mug", "sampling": Sampling(steps=4)}
    way = model.interpolate(a, b, 3, num_points=30, **options)
    ends = model.reconstruct([a, b], 30, **options)
    close(way[0].points, ends[0].points, 1e-3)
    close(np.sort(way[2].points, axis=0), np.sort(ends[1].points, axis=0), 1e-3)


def test_decode_refuses_latents_of_another_width():
    with pytest.raises(PointCloudError, match=r"expected \[B, 5\], found \[2, 4\]"):
        tiny_model().decode(torch.zeros(2, 4))


def test_latents_are_drawn_by_the_prior_from_zero_snr(monkeypatch):
    model, exact = tiny_model(), Gaussian(0.3)
    monkeypatch.setattr(model.prior, "forward", lambda z, t, labels: exact(z[:, None], t.expand(len(z)))[:, 0])
    z = model.draw_latents(torch.tensor([0, 1]), noise_streams([1, 2]))
    assert z is not None
    close(z, 0.3 * noise_streams([1, 2]).randn_like(torch.empty(2, 5)), 5e-3)


# ---------------------------------------------------------------------------------------------------------- on disk


def test_half_precision_folders_keep_the_model(tmp_path):
    model = tiny_model(class_counts=(5, 0, 2), net=small_net(reading="local"))
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", half=True)
    small, large = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "full"))
    assert small < 0.6 * large
    loaded = PointDiffusion.from_pretrained(tmp_path / "half")
    assert loaded.config == model.config
    assert loaded.config.class_names == CLASSES
    wanted, found = (m.generate(2, 30, steps=2, class_name="chair") for m in (model, loaded))
    close(arrays(found), arrays(wanted), 0.05)
    exact = PointDiffusion.from_pretrained(tmp_path / "full").generate(2, 30, steps=2, class_name="chair")
    assert np.array_equal(arrays(exact), arrays(wanted))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"latent_dim": -1}, "latent_dim"),
        ({"sampling_shift": 0.0}, "sampling_shift"),
        ({"class_names": ("a", "a")}, "class_names"),
        ({"class_names": ("a", "b"), "class_counts": (1,)}, "class_counts"),
    ],
)
def test_a_config_without_meaning_names_its_field(changes, field):
    with pytest.raises(ValueError, match=field):
        PointDiffusionConfig(**changes)

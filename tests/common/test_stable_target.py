"""The stable target field: the closed form, the same minimum as the drawn elements, less variance."""

import pytest
import torch
from trifold.common.diffusion import edm_path, stable_target, vp_cosine_path


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("path", [vp_cosine_path(0.0), edm_path()], ids=["vp", "edm"])
def test_it_is_the_softmax_over_the_references(path, channels):
    references, t = normal(3, 40, channels), torch.tensor([0.05, 0.3, 0.9])
    x0, noise = references[:, :7], normal(3, 7, channels, seed=1)
    clean, left = stable_target(path, x0, noise, t, references)
    alpha, sigma = (f(t.double()).view(3, 1, 1) for f in (path.alpha, path.sigma))
    x_t = alpha * x0.double() + sigma * noise.double()
    weights = (-(torch.cdist(x_t, alpha * references.double()) ** 2) / (2 * sigma**2)).softmax(-1)
    torch.testing.assert_close(clean.double(), weights @ references.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alpha * clean + sigma * left, x_t, rtol=1e-5, atol=1e-5)


def test_its_ends_are_the_element_itself_and_the_mean_of_all():
    path, references = vp_cosine_path(0.0), normal(2, 50, 3)
    x0, noise = references[:, :20], normal(2, 20, 3, seed=1)
    clean, left = stable_target(path, x0, noise, 1e-3, references)
    torch.testing.assert_close(clean, x0)
    torch.testing.assert_close(left, noise, rtol=1e-2, atol=1e-2)
    clean, left = stable_target(path, x0, noise, 1.0, references)
    torch.testing.assert_close(clean, references.mean(1, keepdim=True).expand_as(clean))
    torch.testing.assert_close(left, noise)


def test_a_gaussian_is_shrunk_towards_its_mean():
    path, t = vp_cosine_path(0.0), 0.6
    references = 0.5 * normal(1, 200_000, 1)
    x0, noise = references[:, :500], normal(1, 500, 1, seed=1)
    clean, _ = stable_target(path, x0, noise, t, references)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    gain = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
    assert (clean - gain * (alpha * x0 + sigma * noise)).abs().max() < 0.02


def test_it_asks_for_the_same_mean_with_less_variance():
    """Over many sets, the mean target of points noised to one place is that of the drawn points themselves."""
    path, t, sets, size = vp_cosine_path(0.0), 0.5, 4000, 32
    centre = normal(sets, 1, 2)
    references = centre + 0.5 * normal(sets, size, 2, seed=1)
    x0, noise = references[:, :1], normal(sets, 1, 2, seed=2)
    clean, _ = stable_target(path, x0, noise, t, references)
    x_t = path.add_noise(x0, noise, t).flatten(0, 1)
    told = torch.cat([x_t, centre.flatten(0, 1)], dim=1)  # what a net would know: the noisy point and its shape
    fits = [torch.linalg.lstsq(told, target.flatten(0, 1)) for target in (x0, clean)]
    assert (fits[0].solution - fits[1].solution).abs().max() < 0.03
    errors = [(told @ fit.solution - y.flatten(0, 1)).square().mean() for fit, y in zip(fits, (x0, clean), strict=True)]
    assert errors[1] < errors[0] / 4


def test_half_precision_autocast_changes_nothing():
    path, references = vp_cosine_path(0.0), normal(2, 64, 3)
    arguments = (path, references[:, :9], normal(2, 9, 3, seed=1), torch.tensor([0.02, 0.4]), references)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = stable_target(*arguments)
    for a, b in zip(found, stable_target(*arguments), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(2, 9, 2), (3, 9, 3), (9, 3)])
def test_references_that_do_not_fit_are_told(shape):
    x0 = normal(2, 4, 3)
    with pytest.raises(ValueError, match=r"expected x0 \[B, N, C\] and references \[B, R, C\], found \[2, 4, 3\]"):
        stable_target(vp_cosine_path(0.0), x0, x0, 0.5, normal(*shape))

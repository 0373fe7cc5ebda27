"""The encoder's fast training pass against its modules: values, gradients, running statistics."""

from copy import deepcopy

import pytest
import torch
from trifold.pointcloud.luo_hu.encoder import PointNetEncoder
from trifold.pointcloud.luo_hu.trunk import NormedLayer, pooled_features

from .luo_hu_models import autoencoder


def encoder(dtype=torch.float64) -> PointNetEncoder:
    torch.manual_seed(0)
    made = PointNetEncoder(8).to(dtype).train()
    with torch.no_grad():
        for norm in made.norms:
            norm.weight.normal_()  # of both signs: a negative one makes the maximum a minimum
            norm.bias.normal_()
    return made


def clouds(count: int, points: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(count, points, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def results(encoder: PointNetEncoder, points, fast: bool) -> dict[str, torch.Tensor]:
    """Value, gradients and buffers after one training pass."""
    encoder = deepcopy(encoder)
    pooled = encoder.pool(points) if fast else encoder.pool_by_modules(points)
    (pooled * torch.linspace(-1, 1, pooled.numel(), dtype=pooled.dtype).view_as(pooled)).sum().backward()
    trunk = [(n, p) for n, p in encoder.named_parameters() if "head" not in n]
    grads = {f"grad {name}": p.grad for name, p in trunk}
    return {"pooled": pooled.detach(), **grads, **dict(encoder.named_buffers())}


@pytest.mark.parametrize(("count", "points"), [(3, 40), (1, 7), (5, 1)])
def test_it_is_what_the_modules_compute(count, points):
    made, x = encoder(), clouds(count, points)
    fast, plain = (results(made, x, fast) for fast in (True, False))
    assert set(fast) == set(plain)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, atol=1e-8, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert fast["norms.0.num_batches_tracked"] == 1


def test_biases_have_a_gradient_of_exactly_zero():
    fast = results(encoder(), clouds(2, 20), fast=True)
    for i in range(4):
        assert torch.count_nonzero(fast[f"grad linears.{i}.bias"]) == 0


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_single_precision_is_as_good_as_the_modules(offset):
    """Against float64: the error of the fast pass is at most a few times that of the modules, far from 0 too."""
    made, x = autoencoder().encoder.train(), clouds(4, 300, torch.float32) + offset
    exact = results(made.double(), x.double(), fast=False)
    made = made.float()
    fast, plain = (results(made, x, fast) for fast in (True, False))
    for name in ("pooled", "grad linears.0.weight", "grad linears.3.weight", "grad norms.1.weight"):
        scale = float(exact[name].abs().max())
        errors = [float((r[name] - exact[name]).abs().max()) / scale for r in (fast, plain)]
        assert errors[0] < 5 * errors[1] + 2e-6, name


def test_bfloat16_loses_no_more_than_the_modules_do():
    made, x = encoder(torch.float32), clouds(4, 200, torch.float32)
    exact = results(made, x, fast=True)
    with torch.autocast("cpu", torch.bfloat16):
        fast, plain = (results(made, x, fast) for fast in (True, False))
    assert fast["pooled"].dtype is torch.float32
    for name in ("pooled", "grad linears.0.weight", "grad linears.3.weight", "norms.3.running_var"):
        errors = [float((r[name] - exact[name]).norm()) for r in (fast, plain)]
        assert 0 < errors[0] < 1.5 * errors[1], name


def test_clouds_that_need_a_gradient_get_one():
    made, x = encoder(), clouds(2, 9).requires_grad_()
    made.pool(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0


def test_means_include_the_bias():
    layers = [
        NormedLayer(torch.eye(3), torch.full((3,), 10.0), torch.ones(3), torch.zeros(3)),
        NormedLayer(torch.eye(3), torch.full((3,), 2.0), torch.ones(3), torch.zeros(3)),
    ]
    x = clouds(2, 50, torch.float32)
    _, ((mean, variance), _) = pooled_features(x, layers, 1e-5, torch.float32)
    torch.testing.assert_close(mean, x.flatten(0, 1).mean(0) + 10)
    torch.testing.assert_close(variance, x.flatten(0, 1).var(0, correction=0))

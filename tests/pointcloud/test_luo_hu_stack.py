"""The fast evaluation of the denoiser against its definition, layer by layer, and its gradient."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from trifold.pointcloud.luo_hu import stack
from trifold.pointcloud.luo_hu.denoiser import SLOPE, PointwiseNet
from trifold.pointcloud.luo_hu.stack import GatedLayer, run_batched, run_stack

WIDTHS = (3, 5, 6, 3)


def net(latent_dim: int = 6, residual: bool = True) -> PointwiseNet:
    torch.manual_seed(0)
    return PointwiseNet(latent_dim, residual)


def by_definition(net: PointwiseNet, x, beta, z) -> torch.Tensor:
    """ConcatSquash layers one after the other, each with its own full-size tensors."""
    context = torch.cat([torch.stack([beta, beta.sin(), beta.cos()], dim=1), z], dim=1)
    h = x
    for i, layer in enumerate(net.layers):
        h = layer(h, context)
        if i < len(net.layers) - 1:
            h = F.leaky_relu(h, SLOPE)
    return x + h if net.residual else h


def inputs(clouds: int, points: int, latent_dim: int = 6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return draw(clouds, points, 3), draw(clouds).abs() * 0.02, draw(clouds, latent_dim)


def layers(clouds: int, dtype=torch.float64) -> list[GatedLayer]:
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()  # noqa: E731
    return [GatedLayer(draw(o, i), draw(clouds, o), draw(clouds, o)) for i, o in pairwise(WIDTHS)]


@pytest.mark.parametrize("points", [1, 511, 512, 513, 1100])
@pytest.mark.parametrize("residual", [True, False])
def test_the_net_is_its_definition(points, residual):
    model, (x, beta, z) = net(residual=residual), inputs(2, points)
    with torch.no_grad():
        torch.testing.assert_close(model(x, beta, z), by_definition(model, x, beta, z), atol=2e-6, rtol=1e-5)


def test_gradients_of_the_net_are_those_of_its_definition():
    model, (x, beta, z) = net(), inputs(3, 530)
    weight = torch.linspace(-1, 1, x.numel()).view_as(x)
    found = []
    for function in (lambda *a: model(*a), lambda *a: by_definition(model, *a)):
        leaves = [x.clone().requires_grad_(), z.clone().requires_grad_()]
        model.zero_grad()
        (function(leaves[0], beta, leaves[1]) * weight).sum().backward()
        found.append([leaf.grad for leaf in leaves] + [p.grad.clone() for p in model.parameters()])
    assert all(float(g.abs().max()) > 0 for g in found[1])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-5 * float(plain.abs().max()), rtol=1e-4)


def test_gradients_are_derivatives(monkeypatch):
    monkeypatch.setattr(stack, "SLICE_BYTES", 8 * 2)  # slices of two points
    x = inputs(2, 5, dtype=torch.float64)[0].requires_grad_()
    flat = stack._flat(layers(2))

    def run(x, *flat):
        return run_stack(x, stack._layers(flat), 0.2, torch.float64)

    assert torch.autograd.gradcheck(run, (x, *flat))


def test_slices_and_batched_products_agree(monkeypatch):
    monkeypatch.setattr(stack, "SLICE_BYTES", 8 * 3)
    x, chain = inputs(2, 10, dtype=torch.float64)[0], layers(2)
    leaves = stack._flat(chain)
    results = []
    for run in (run_stack, run_batched):
        out = run(x, chain, 0.2, torch.float64)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_points_are_independent_given_the_latent():
    model, (x, beta, z) = net(), inputs(2, 600)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(x, beta, z)
        torch.testing.assert_close(model(x[:, order], beta, z), whole[:, order], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(model(x[:, :40], beta, z), whole[:, :40], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(model(x[1:], beta[1:], z[1:]), whole[1:], atol=1e-6, rtol=1e-5)


def test_autocast_runs_the_inner_products_in_bfloat16_and_gradients_stay_near():
    model, (x, beta, z) = net(), inputs(2, 700)
    found = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = model(x, beta, z)
        assert out.dtype is torch.float32
        out.square().mean().backward()
        found.append((out.detach(), [p.grad.clone() for p in model.parameters()]))
    (out, grads), (low, low_grads) = found
    assert 0 < float((low - out).abs().max()) < 5e-3
    for grad, other in zip(grads, low_grads, strict=True):
        assert other.dtype is torch.float32
        assert float((other - grad).norm()) < 0.03 * float(grad.norm())


def test_time_and_latent_matter():
    model, (x, beta, z) = net(), inputs(2, 5)
    with torch.no_grad():
        out = model(x, beta, z)
        assert float((model(x, beta + 0.5, z) - out).abs().max()) > 1e-3
        assert float((model(x, beta, z + 0.5) - out).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("x", "beta", "z", "message"),
    [
        ((2, 5, 2), (2,), (2, 6), "expected points"),
        ((2, 5, 3), (1,), (2, 6), "expected points"),
        ((2, 5, 3), (2,), (2, 7), r"latent: expected shape \[B, 6\]"),
        ((2, 5, 3), (2,), (3, 6), "2 clouds and 3 latents"),
    ],
)
def test_bad_shapes_are_named(x, beta, z, message):
    with pytest.raises(ValueError, match=message):
        net()(torch.zeros(x), torch.zeros(beta), torch.zeros(z))


def test_a_slope_that_hides_the_sign_is_refused():
    with pytest.raises(ValueError, match="slope"):
        run_stack(torch.zeros(1, 1, 3), layers(1), 0.0, torch.float64)

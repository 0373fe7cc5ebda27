"""The flow prior: a bijection for every size, its determinant, spectral norm; and the terms of the bound."""

import math

import pytest
import torch
from trifold.pointcloud.luo_hu import FlowVAE, FlowVAEConfig
from trifold.pointcloud.luo_hu.checkpoint import model_from_original
from trifold.pointcloud.luo_hu.flow import AffineCoupling, FlowPrior, SpectralLinear
from trifold.pointcloud.luo_hu.likelihood import first_within, standard_normal_log_prob, truncated

from . import golden
from .luo_hu_models import arguments, original_tensors

V = golden.tensors()


def flow(latent_dim: int, **options) -> FlowPrior:
    torch.manual_seed(latent_dim)
    made = FlowPrior(latent_dim, depth=4, hidden_dim=16, **options).double()
    for parameter in made.parameters():
        parameter.data.mul_(2)  # torch's initialisation is nearly the identity
    return made.eval()


def latents(count: int, latent_dim: int) -> torch.Tensor:
    return torch.randn(count, latent_dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- flow


@pytest.mark.parametrize("latent_dim", [2, 3, 4, 5, 8, 33])
def test_it_is_inverted_and_knows_its_determinant(latent_dim):
    prior, z = flow(latent_dim), latents(3, latent_dim)
    w, log_det = prior(z)
    back, log_det_back = prior.inverse(w)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(log_det_back, -log_det)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda row: prior(row[None])[0][0], z[i])
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian).logabsdet)
    assert float((w - z).detach().abs().max()) > 0.1


@pytest.mark.parametrize("latent_dim", [4, 5])
def test_the_published_inverse_inverts_even_sizes_only(latent_dim):
    prior, z = flow(latent_dim, original_odd_inverse=True), latents(3, latent_dim)
    error = float((prior.inverse(prior(z)[0])[0] - z).detach().abs().max())
    assert error < 1e-9 if latent_dim % 2 == 0 else error > 0.1


@pytest.mark.parametrize("swap", [False, True])
def test_a_coupling_of_an_odd_size_is_the_published_one(swap):
    """Worked by hand for L = 3: with swap, [a0, a1, b] becomes [b, a0 | a1], and a1 changes given (b, a0)."""
    coupling = AffineCoupling(3, 4, swap).double()
    x = latents(2, 3)
    fixed, changed = (x[:, [2, 0]], x[:, 1:2]) if swap else (x[:, :2], x[:, 2:])
    h = fixed
    for linear in coupling.linears[:-1]:
        h = linear(h).relu()
    s, t = coupling.linears[-1](h).unbind(1)
    new = changed * torch.sigmoid(s + 2)[:, None] + t[:, None]
    expected = torch.cat([new, fixed] if swap else [fixed, new], dim=1)
    torch.testing.assert_close(coupling(x)[0], expected)


def test_every_coordinate_is_changed_by_two_couplings():
    prior = flow(6)
    z = latents(1, 6)[0]
    jacobian = torch.autograd.functional.jacobian(lambda row: prior(row[None])[0][0], z)
    assert bool((jacobian != 0).all())


@pytest.mark.parametrize(("latent_dim", "depth"), [(1, 4), (4, 0)])
def test_sizes_that_have_no_flow_are_refused(latent_dim, depth):
    with pytest.raises(ValueError, match="latent_dim >= 2 and depth >= 1"):
        FlowPrior(latent_dim, depth)


# ---------------------------------------------------------------------------------------------------- spectral norm


def spectral_tensors() -> dict[str, torch.Tensor]:
    """The small FlowVAE as the original would save it with spectral norm."""
    tensors = original_tensors("flow")
    for name in [k for k in tensors if k.startswith("flow.") and k.endswith(".weight")]:
        tensors[f"{name}_orig"] = tensors[name]
        for leaf in "uv":
            tensors[f"{name}_{leaf}"] = V[f"spectral/before/{name}_{leaf}"]
        tensors[name] = torch.full_like(tensors[name], torch.nan)  # derived; must not be read
    return tensors


def test_spectral_norm_after_one_power_iteration():
    model = model_from_original(spectral_tensors(), arguments(model="flow", spectral_norm=True))
    assert isinstance(model, FlowVAE)
    model.flow.train()
    with torch.no_grad():
        w, log_det = model.flow(V["flow/z"])
    assert golden.scaled_error(w, V["spectral/w_after_one_iteration"]) <= 2e-5
    assert golden.scaled_error(-log_det[:, None], V["spectral/delta_logp_after_one_iteration"]) <= 2e-5
    for i, coupling in enumerate(model.flow.couplings):
        for j, linear in enumerate(coupling.linears):
            for leaf in "uv":
                want = V[f"spectral/after/flow.chain.{i}.net_s_t.{2 * j}.weight_{leaf}"]
                assert golden.scaled_error(getattr(linear, leaf), want) <= 2e-5


def test_spectral_norm_finds_the_largest_singular_value():
    torch.manual_seed(0)
    layer = SpectralLinear(7, 5)
    for _ in range(200):
        layer.power_iteration()
    with torch.no_grad():
        used = layer(torch.eye(7)) - layer.bias
    torch.testing.assert_close(torch.linalg.matrix_norm(used, 2), torch.tensor(1.0))


def test_only_training_iterates_and_gradients_survive_it():
    prior = FlowPrior(4, depth=2, hidden_dim=8, spectral_norm=True).eval()
    before = [b.clone() for b in prior.buffers()]
    z = latents(3, 4).float()
    prior(z)
    prior.inverse(z)
    assert all(torch.equal(a, b) for a, b in zip(before, prior.buffers(), strict=True))
    prior.train()
    first = prior(z)[0]
    prior(z)  # a second forward pass, as in gradient accumulation, changes u and v in place
    first.sum().backward()
    assert not any(torch.equal(a, b) for a, b in zip(before, prior.buffers(), strict=True))
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in prior.parameters())
    torch.testing.assert_close(prior.eval().inverse(prior(z)[0])[0], z)


# ------------------------------------------------------------------------------------------------ bound, truncation


def test_the_published_loss_is_sixty_too_high():
    w = torch.zeros(1, 256)
    gap = standard_normal_log_prob(w) - standard_normal_log_prob(w, "original")
    assert float(gap) * 1e-3 == pytest.approx(59.99, abs=0.005)
    assert float(standard_normal_log_prob(w)) == pytest.approx(-128 * math.log(2 * math.pi), rel=1e-6)


def test_truncation_is_the_truncated_normal():
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    drawn = truncated(noise, 1.0)
    assert float(drawn.abs().max()) <= 1.0
    # variance of N(0, 1) truncated to (-b, b): 1 - 2 b phi(b) / (2 Phi(b) - 1)
    phi = math.exp(-0.5) / math.sqrt(2 * math.pi)
    assert float(drawn.double().var()) == pytest.approx(1 - 2 * phi / math.erf(1 / math.sqrt(2)), abs=2e-3)
    assert float(drawn.double().mean()) == pytest.approx(0, abs=5e-3)
    torch.testing.assert_close(truncated(noise, 40.0), noise, atol=1e-5, rtol=1e-5)


def test_the_published_truncation_gives_up_after_four_draws():
    raw = torch.tensor([[3.0, -0.5, 0.2, 0.1], [5.0, 6.0, 7.0, 8.0], [-0.9, 0.0, 0.0, 0.0]])
    assert first_within(raw, 1.0).tolist() == pytest.approx([-0.5, 5.0, -0.9])


def test_config_reaches_the_flow():
    model = FlowVAE(FlowVAEConfig(latent_dim=5, flow_depth=3, flow_hidden_dim=7, spectral_norm=True))
    assert len(model.flow.couplings) == 3
    assert sum(isinstance(m, SpectralLinear) for m in model.modules()) == 9

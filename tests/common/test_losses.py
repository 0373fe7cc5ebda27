"""Loss weightings and reductions."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file
from torch import nn
from trifold.common.diffusion import (
    Denoiser,
    EDMPrecondition,
    edm_path,
    linear_path,
    rectified_flow_path,
    target,
    ve_path,
    vp_cosine_path,
    vp_linear_path,
)
from trifold.common.diffusion.losses import DenoisingLoss
from trifold.common.diffusion.reduction import house_diffusion_mean, mean_per_sample, packed_mean
from trifold.common.diffusion.training_times import per_token, uniform

GOLDEN = Path(__file__).parents[1] / "golden" / "floorplan" / "misc.safetensors"


class Constant(nn.Module):
    """A net that answers with its parameter."""

    def __init__(self, out):
        super().__init__()
        self.out = nn.Parameter(out)

    def forward(self, x, c_noise, cond):
        return self.out


# -- weightings --------------------------------------------------------------------------------------------------------


def x0_weight(weighting, snr, gamma=5.0, sigma_data=0.5):
    return {
        "min_snr": snr.clamp(max=gamma),
        "truncated_snr": snr.clamp(min=1),
        "snr_plus_one": snr + 1,
        "edm": (1 / snr + sigma_data**2) * snr / sigma_data**2,
    }[weighting]


PREDICTIONS = ["eps", "x0", "v", "velocity", "F"]
PATHS = {
    "vp": vp_linear_path(),
    "cosine": vp_cosine_path(),
    "edm": edm_path(),
    "ve": ve_path(),
    "flow": rectified_flow_path(),
}


@pytest.mark.parametrize("weighting", ["min_snr", "truncated_snr", "snr_plus_one", "edm"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_every_parametrisation_weighs_the_error_of_x0_alike(path, prediction, weighting):
    """weight * |out - target|^2 must equal w(SNR) |x0_hat - x0|^2, whatever the net predicts."""
    t = torch.linspace(path.t_min, path.t_max, 9, dtype=torch.float64)[1:-1]
    x0, eps, out = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    precondition = EDMPrecondition(0.5) if prediction == "F" else None
    denoiser = Denoiser(Constant(out), _short_of_noise(path), prediction, precondition)
    terms = DenoisingLoss(weighting, sigma_data=0.5)(denoiser, x0, eps, t)
    expected = x0_weight(weighting, path.log_snr(t).exp()) * ((terms.prediction.x0 - x0) ** 2).mean(dim=1)
    torch.testing.assert_close(terms.simple, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(terms.total, expected.mean(), rtol=1e-6, atol=1e-9)


def _short_of_noise(path):
    """The same coefficients, ending before alpha = 0, which eps prediction refuses."""
    return type(path)(t_max=path.t_max * (1 - 1e-9)) if float(path.alpha(path.t_max)) == 0 else path


def test_min_snr_in_closed_form():
    path = linear_path()
    t = torch.tensor([0, 200, 500, 999])
    a, s = path.alpha(t), path.sigma(t)
    snr = (a / s) ** 2
    assert snr.min() < 5 < snr.max()
    loss = DenoisingLoss("min_snr", gamma=5.0)
    clipped = snr.clamp(max=5)
    torch.testing.assert_close(loss.weight("x0", a, s), clipped)
    torch.testing.assert_close(loss.weight("eps", a, s), clipped / snr)
    torch.testing.assert_close(loss.weight("v", a, s), clipped / (snr + 1))


def test_min_snr_agrees_with_diffusers_snr():
    theirs, path = DDPMScheduler(), linear_path()
    t = torch.tensor([1, 100, 400, 999])
    snr = compute_snr(theirs, t)
    expected = torch.stack([snr, 5 * torch.ones_like(snr)], dim=1).min(dim=1)[0] / snr
    ours = DenoisingLoss("min_snr").weight("eps", path.alpha(t), path.sigma(t))
    torch.testing.assert_close(ours.float(), expected, rtol=1e-3, atol=0)


def test_weights_have_their_limits_at_the_ends():
    loss = DenoisingLoss("min_snr", gamma=5.0)
    assert float(loss.weight("eps", 0.0, 1.0)) == 1
    assert float(loss.weight("x0", 1.0, 0.0)) == 5
    assert float(loss.weight("v", 0.0, 1.0)) == pytest.approx(0)
    assert float(DenoisingLoss("snr_plus_one").weight("v", 0.0, 1.0)) == pytest.approx(1)


def test_edm_weighting_is_the_papers_lambda():
    sigma = torch.tensor([0.01, 0.5, 20.0], dtype=torch.float64)
    loss, p = DenoisingLoss("edm"), EDMPrecondition(0.25)
    lam = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(loss.weight("x0", 1.0, sigma), lam)
    torch.testing.assert_close(EDMPrecondition(0.5).weight(sigma), lam)
    # On F it is 1 with the preconditioning's own sigma_data, whatever the loss was given.
    torch.testing.assert_close(loss.weight("F", 1.0, sigma, p), torch.ones_like(sigma))


def test_uniform_flow_matching_is_the_plain_regression():
    path = rectified_flow_path()
    x0, eps, out = torch.randn(3, 4, 6, 2)
    t = uniform(path, 4, generator=torch.Generator().manual_seed(0))
    terms = DenoisingLoss()(Denoiser(Constant(out), path, "velocity"), x0, eps, t)
    torch.testing.assert_close(terms.per_sample, ((out - (eps - x0)) ** 2).mean(dim=(1, 2)))
    assert terms.vlb is None
    terms.total.backward()


def test_loss_is_at_least_float32_and_follows_the_data():
    path, out = linear_path(), torch.randn(2, 3)
    x0, eps = torch.randn(2, 2, 3)
    t = torch.tensor([3, 700])
    denoiser = Denoiser(Constant(out.bfloat16()), path)
    assert DenoisingLoss()(denoiser, x0.bfloat16(), eps.bfloat16(), t).total.dtype == torch.float32
    exact = DenoisingLoss()(denoiser, x0.double(), eps.double(), t)
    assert exact.total.dtype == torch.float64
    torch.testing.assert_close(exact.simple, ((out.bfloat16().double() - eps.double()) ** 2).mean(dim=1))


def test_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="unknown weighting 'snr'"):
        DenoisingLoss("snr")


def test_the_loss_vanishes_at_the_target():
    """And x0_hat is then x0: target and denoiser read one table."""
    path, precondition = edm_path(), EDMPrecondition(0.5)
    x0, eps = torch.randn(2, 3, 4, dtype=torch.float64)
    sigma = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    perfect = target("F", x0, eps, 1.0, sigma, precondition)
    terms = DenoisingLoss("edm")(Denoiser(Constant(perfect), path, "F", precondition), x0, eps, sigma)
    assert float(terms.total.detach()) == pytest.approx(0, abs=1e-20)
    torch.testing.assert_close(terms.prediction.x0, x0)


# -- reductions --------------------------------------------------------------------------------------------------------


def test_masked_mean_by_hand():
    values = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[2.0, 4.0], [100.0, math.nan]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    assert mean_per_sample(values, mask).tolist() == [4, 3]
    assert mean_per_sample(values, mask[..., None].bool()).tolist() == [4, 3]
    assert mean_per_sample(values[:1]).tolist() == [4]
    assert mean_per_sample(torch.ones(3)).tolist() == [1, 1, 1]
    assert mean_per_sample(values, torch.zeros(2, 2)).tolist() == [0, 0]
    # Channels first: the mask names the axis it covers.
    assert mean_per_sample(values, torch.tensor([[[1, 0]], [[1, 0]]])).tolist() == [3, 51]


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (2, 2, 2, 1)])
def test_masks_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="mask of shape"):
        mean_per_sample(torch.zeros(2, 2, 2), torch.ones(shape))


def test_padding_gets_no_gradient():
    values = torch.randn(2, 4, 3, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    mean_per_sample(values, mask).sum().backward()
    assert (values.grad[mask == 0] == 0).all()
    torch.testing.assert_close(values.grad[0, 0], torch.full((3,), 1 / 9))
    torch.testing.assert_close(values.grad[1, 0], torch.full((3,), 1 / 3))


def test_house_diffusion_mean_divides_twice():
    recorded = load_file(GOLDEN)
    ours = house_diffusion_mean(recorded["mean_flat_in"], recorded["mean_flat_mask"])
    torch.testing.assert_close(ours, recorded["mean_flat_out"].to(ours.dtype), rtol=1e-5, atol=0)
    values = torch.randn(3, 2, 100, dtype=torch.float64)
    mask = (torch.arange(100) < torch.tensor([[41], [52], [60]])).double()
    quirk = house_diffusion_mean(values, mask)
    by_hand = [values[i, :, :n].sum() / 200 / n for i, n in enumerate((41, 52, 60))]
    torch.testing.assert_close(quirk, torch.stack(by_hand))
    torch.testing.assert_close(quirk * 100, mean_per_sample(values, mask[:, None]))
    with pytest.raises(ValueError, match="expected values"):
        house_diffusion_mean(values, mask[:, :50])


def test_packed_loss_equals_the_padded_one():
    lens, path = [3, 1, 4], vp_cosine_path()
    generator = torch.Generator().manual_seed(2)
    x0, eps, out = torch.randn(3, 1, 8, 2, generator=generator)
    t = uniform(path, 3, generator=generator)
    packed = DenoisingLoss("min_snr")(Denoiser(Constant(out), path, "v"), x0, eps, per_token(t, lens), lens=lens)

    def pad(rows):
        return nn.utils.rnn.pad_sequence(rows[0].split(lens), batch_first=True, padding_value=9.0)

    mask = torch.arange(4) < torch.tensor(lens)[:, None]
    padded_denoiser = Denoiser(Constant(pad(out)), path, "v")
    padded = DenoisingLoss("min_snr")(padded_denoiser, pad(x0), pad(eps), t, mask=mask)
    torch.testing.assert_close(packed.per_sample, padded.per_sample)
    torch.testing.assert_close(packed.total, padded.per_sample.mean())
    packed.total.backward()
    with pytest.raises(ValueError, match="not both"):
        DenoisingLoss()(padded_denoiser, pad(x0), pad(eps), t, mask=mask, lens=lens)


def test_packed_mean_by_hand():
    values = torch.tensor([[1.0, 2.0, 3.0, 10.0]])
    assert packed_mean(values, [3, 1]).tolist() == [2, 10]
    assert packed_mean(values[..., None].expand(1, 4, 2), torch.tensor([1, 3])).tolist() == [1, 5]
    for bad in ([3, 2], [4, 0]):
        with pytest.raises(ValueError, match="add up to 4"):
            packed_mean(values, bad)
    with pytest.raises(ValueError, match="packed values"):
        packed_mean(values.expand(2, 4), [4])
    with pytest.raises(ValueError, match="one time per packed sample"):
        per_token(torch.zeros(3), [1, 2])

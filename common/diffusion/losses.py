"""The denoising loss: weighted squared error on what the net predicts, plus L_vlb for a learned variance.

A weighting is one function of the noise level, stated for the error of x0 and carried to any parametrisation by
`|d x0 / d out|^2`, read off the table in prediction.py:

| weighting | weight of |x0_hat - x0|^2 | source |
|---|---|---|
| `uniform` | whatever makes the weight on the net's own target 1 | Ho et al. 2020; flow matching with `velocity` |
| `min_snr` | min(SNR, gamma): min(SNR, gamma)/SNR on eps, /(SNR + 1) on v (VP) | Hang et al. 2023 |
| `truncated_snr` | max(SNR, 1) | Salimans & Ho 2022 |
| `snr_plus_one` | SNR + 1, i.e. 1 on v (VP) | Salimans & Ho 2022 |
| `edm` | (s^2 + sigma_data^2)/(s sigma_data)^2 with s = sigma/alpha, i.e. 1 on F | Karras et al. 2022 |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .denoiser import Denoiser, Prediction3
from .discrete import DiscretePath
from .likelihood import NATS_TO_BITS, Decoder, bound_terms
from .path import Time, as_time, expand
from .precondition import EDMPrecondition
from .prediction import LINEAR_RATES, Prediction, Rates, check_prediction, target, to_x0
from .reduction import mean_per_sample, packed_mean

Weighting = Literal["uniform", "min_snr", "truncated_snr", "snr_plus_one", "edm"]


@dataclass(frozen=True)
class LossTerms:
    """`total`: the scalar to minimise, the mean of `per_sample` `[B]`. `simple` and `vlb` `[B]` are its parts; vlb is
    T L_t in bits per element, None unless asked for. `error` `[B, ...]` is what `simple` is the mean of: the weighted
    squared error of every element. `prediction` is what the denoiser said."""

    total: Tensor
    per_sample: Tensor
    simple: Tensor
    vlb: Tensor | None
    error: Tensor
    prediction: Prediction3


@dataclass(frozen=True)
class DenoisingLoss:
    """`loss(denoiser, x0, noise, t, cond, mask=...) -> LossTerms`.

    Args:
        weighting: see the module's table.
        gamma: of `min_snr`.
        sigma_data: of `edm`, where the denoiser has no preconditioning (whose own value counts otherwise).
        vlb_weight: lambda of L_simple + lambda L_vlb, 0.001 in Nichol & Dhariwal 2021, eq. 16. L_vlb is in bits per
            element, estimated as T L_t; its gradient reaches the variance only.
        decoder: of L_vlb at the first step, see `likelihood.bound_terms`.
    """

    weighting: Weighting = "uniform"
    gamma: float = 5.0
    sigma_data: float = 0.5
    vlb_weight: float = 0.0
    decoder: Decoder = "bins"

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise ValueError(f"unknown weighting {self.weighting!r}, expected one of {', '.join(get_args(Weighting))}")

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        noise: Tensor,
        t: Time,
        cond: Any = None,
        *,
        mask: Tensor | None = None,
        lens: Sequence[int] | Tensor | None = None,
    ) -> LossTerms:
        """
        Args:
            x0, noise: `[B, ...]`, or packed rows `[1, M, C]`.
            t: scalar, `[B]`, or `[1, M, 1]` for packed rows (`training_times.per_token`).
            mask: valid elements, see `mean_per_sample`. Each sample counts once, however many elements it has.
            lens: `[P]`, the lengths of packed samples; "B" is then P. Not together with `mask`.
        """
        if mask is not None and lens is not None:
            raise ValueError("give mask (padded batches) or lens (packed rows), not both")
        said = denoiser.predict(denoiser.path.add_noise(x0, noise, t), t, cond)
        alpha, sigma = denoiser.path.alpha(t), denoiser.path.sigma(t)
        rates, precondition = denoiser.rates(t), denoiser.precondition
        wanted = target(denoiser.prediction, x0, noise, alpha, sigma, precondition, rates=rates).to(said.raw.dtype)
        weight = self.weight(denoiser.prediction, alpha, sigma, precondition, rates=rates)
        error = expand(weight, x0) * (said.raw - wanted) ** 2
        simple = _reduce(error, mask, lens)
        if not self.vlb_weight:
            return LossTerms(simple.mean(), simple, simple, None, error, said)
        vlb = _reduce(self._bound(denoiser, x0, noise, t, said), mask, lens)
        per_sample = simple + self.vlb_weight * vlb
        return LossTerms(per_sample.mean(), per_sample, simple, vlb, error, said)

    def weight(
        self,
        prediction: Prediction,
        alpha: Tensor | float,
        sigma: Tensor | float,
        precond: EDMPrecondition | None = None,
        *,
        rates: Rates = LINEAR_RATES,
    ) -> Tensor:
        """The factor of the squared error of the net's output: float64, shape of alpha."""
        check_prediction(prediction, precond)
        a, s = as_time(alpha), as_time(sigma)
        if self.weighting == "uniform":
            return torch.ones_like(a * s)
        # SNR = a2 / s2. The floors turn the 0/0 at either end of the chain into its limit.
        a2, s2 = (a**2).clamp(min=1e-30), (s**2).clamp(min=1e-30)
        sigma_data = self.sigma_data if precond is None else precond.sigma_data
        if self.weighting == "min_snr":
            x0_weight_s2 = torch.minimum(a2, self.gamma * s2)
        elif self.weighting == "truncated_snr":
            x0_weight_s2 = torch.maximum(a2, s2)
        elif self.weighting == "snr_plus_one":
            x0_weight_s2 = a2 + s2
        else:
            x0_weight_s2 = s2 / sigma_data**2 + a2
        if prediction == "x0":
            return x0_weight_s2 / s2
        if prediction == "eps":
            return x0_weight_s2 / a2
        if prediction == "v":
            return x0_weight_s2 / (a2 + s2) ** 2
        if prediction == "velocity":
            da, ds = (as_time(rate) for rate in rates)
            return x0_weight_s2 / (a * ds - s * da) ** 2
        return x0_weight_s2 * sigma_data**2 / (s2 + sigma_data**2 * a2)

    def _bound(self, denoiser: Denoiser, x0: Tensor, noise: Tensor, t: Time, said: Prediction3) -> Tensor:
        path = denoiser.path
        if said.log_variance is None or not isinstance(path, DiscretePath):
            raise ValueError("vlb_weight needs a denoiser with learned_variance, found one without")
        x_t = path.add_noise(x0, noise, t)
        alpha, sigma = path.alpha(t), path.sigma(t)
        x0_hat = to_x0(denoiser.prediction, said.raw.detach(), x_t, alpha, sigma, denoiser.precondition)
        terms = bound_terms(path, x0, x_t, t, x0_hat, said.log_variance, decoder=self.decoder)
        return terms * (path.num_steps * NATS_TO_BITS)


def _reduce(values: Tensor, mask: Tensor | None, lens: Sequence[int] | Tensor | None) -> Tensor:
    return mean_per_sample(values, mask) if lens is None else packed_mean(values, lens)

"""What a net may predict, and the one table that converts between the choices.

With `x_t = alpha x0 + sigma eps`:

| name | meaning | x0 | eps |
|---|---|---|---|
| `eps` (Ho et al. 2020) | the noise | (x - sigma eps) / alpha | eps |
| `x0` | the data | x0 | (x - alpha x0) / sigma |
| `v` (Salimans & Ho 2022) | alpha eps - sigma x0 | (alpha x - sigma v) / n | (alpha v + sigma x) / n |
| `velocity` (flow matching) | alpha' x0 + sigma' eps | (sigma' x - sigma u) / d | (alpha u - alpha' x) / d |
| `F` (Karras et al. 2022) | EDM's raw net | c_skip x + c_out F | from x0 |

n = alpha^2 + sigma^2 is 1 on variance-preserving paths; d = alpha sigma' - sigma alpha' is positive wherever the SNR
falls, and 1 for rectified flow, whose velocity is eps - x0. alpha, sigma and the rates are anything `expand` accepts.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from .path import expand
from .precondition import EDMPrecondition

Prediction = Literal["eps", "x0", "v", "velocity", "F"]
Rates = tuple[Tensor | float, Tensor | float]  # (d alpha / dt, d sigma / dt)
LINEAR_RATES: Rates = (-1.0, 1.0)  # rectified flow


def check_prediction(prediction: str, precond: EDMPrecondition | None) -> None:
    """Raises ValueError for an unknown name, or where `F` and a preconditioning do not come together."""
    if prediction not in get_args(Prediction):
        raise ValueError(f"unknown prediction {prediction!r}, expected one of {', '.join(get_args(Prediction))}")
    if prediction == "F" and precond is None:
        raise ValueError("prediction 'F' needs a preconditioning (EDMPrecondition), found none")


def _shape(x_t: Tensor, *coefficients: Tensor | float) -> list[Tensor]:
    return [expand(c, x_t) for c in coefficients]


def _noise_of(x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    # At sigma = 0 there is no noise to explain; any difference is the net's error and must not become infinite.
    clean = sigma == 0
    return torch.where(clean, 0.0, (x_t - alpha * x0) / torch.where(clean, 1.0, sigma))


def to_x0(
    prediction: Prediction,
    out: Tensor,
    x_t: Tensor,
    alpha: Tensor | float,
    sigma: Tensor | float,
    precond: EDMPrecondition | None = None,
    *,
    rates: Rates = LINEAR_RATES,
) -> Tensor:
    """The estimate of x0 in a net's output. `rates` matter to `velocity` only. `eps` is undefined at alpha = 0."""
    check_prediction(prediction, precond)
    a, s = _shape(x_t, alpha, sigma)
    if prediction == "x0":
        return out
    if prediction == "eps":
        return (x_t - s * out) / a
    if prediction == "v":
        return (a * x_t - s * out) / (a**2 + s**2)
    if prediction == "velocity":
        da, ds = _shape(x_t, *rates)
        return (ds * x_t - s * out) / (a * ds - s * da)
    assert precond is not None
    return precond.c_skip(s, a) * x_t + precond.c_out(s, a) * out


def to_eps(
    prediction: Prediction,
    out: Tensor,
    x_t: Tensor,
    alpha: Tensor | float,
    sigma: Tensor | float,
    precond: EDMPrecondition | None = None,
    *,
    rates: Rates = LINEAR_RATES,
) -> Tensor:
    """The estimate of eps in a net's output; for `x0` and `F` it is 0 where sigma = 0."""
    check_prediction(prediction, precond)
    a, s = _shape(x_t, alpha, sigma)
    if prediction == "eps":
        return out
    if prediction == "v":
        return (a * out + s * x_t) / (a**2 + s**2)
    if prediction == "velocity":
        da, ds = _shape(x_t, *rates)
        return (a * out - da * x_t) / (a * ds - s * da)
    return _noise_of(to_x0(prediction, out, x_t, a, s, precond), x_t, a, s)


def target(
    prediction: Prediction,
    x0: Tensor,
    eps: Tensor,
    alpha: Tensor | float,
    sigma: Tensor | float,
    precond: EDMPrecondition | None = None,
    *,
    rates: Rates = LINEAR_RATES,
) -> Tensor:
    """What the net should have said for clean data `x0` and noise `eps`. `F` is undefined at sigma = 0."""
    check_prediction(prediction, precond)
    a, s = _shape(x0, alpha, sigma)
    if prediction == "eps":
        return eps
    if prediction == "x0":
        return x0
    if prediction == "v":
        return a * eps - s * x0
    if prediction == "velocity":
        da, ds = _shape(x0, *rates)
        return da * x0 + ds * eps
    assert precond is not None
    return (x0 - precond.c_skip(s, a) * (a * x0 + s * eps)) / precond.c_out(s, a)


def from_x0(
    prediction: Prediction,
    x0: Tensor,
    x_t: Tensor,
    alpha: Tensor | float,
    sigma: Tensor | float,
    precond: EDMPrecondition | None = None,
    *,
    rates: Rates = LINEAR_RATES,
) -> Tensor:
    """The net's output that means `x0` at `x_t`: the inverse of `to_x0`. Sound for sigma > 0."""
    a, s = _shape(x_t, alpha, sigma)
    return target(prediction, x0, _noise_of(x0, x_t, a, s), a, s, precond, rates=rates)

"""`Denoiser`: a net, a path and a parametrisation, as the function E[x0 | x_t]."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .discrete import DiscretePath
from .path import AffinePath, Time, expand
from .precondition import EDMPrecondition
from .prediction import LINEAR_RATES, Prediction, Rates, check_prediction, to_eps, to_x0

LearnedVariance = Literal["learned", "learned_range"]
Net = nn.Module | Callable[[Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True)
class Prediction3:
    """What a denoiser says about x_t; shapes of x_t, float32 or float64, on one device.

    `x0` (after clipping), `eps` (consistent with it), `variance` of the reverse step t -> t - 1 where it is learned,
    `raw`: the net's own output in its parametrisation without the variance channels, for losses.
    `log_variance` is the log of `variance`.
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor | None
    raw: Tensor
    log_variance: Tensor | None = None


class Denoiser(nn.Module):
    """E[x0 | x_t] from a net called as `net(x, c_noise, cond)`.

    The net sees x in its own parameters' dtype (x's dtype if it has none), scaled by c_in under a preconditioning, and
    `c_noise`: `[B]` for a scalar or `[B]` time, else the shape of t (packed rows: `[1, M, 1]`). It comes from the
    preconditioning if there is one, else from the path. Everything outside the net is float32, or float64 if x is.

    Args:
        net: a module or function giving x's shape, or twice the channels where the variance is learned.
        prediction: what the net's output means; "F" exactly with a `precondition`.
        clip: clamp x0 to [-clip, clip]; eps is then derived from the clamped x0.
        learned_variance: "learned": the extra channels are log variances; "learned_range": (out + 1)/2 interpolates
            between log posterior variance and log beta (Nichol & Dhariwal 2021, eq. 15). Discrete paths only.
        channel_dim: the axis of the extra channels: -1 for `[B, N, 2C]`, 1 for `[B, 2C, F, H, W]`.
    Raises: ValueError for a combination that has no meaning, TypeError for one the path cannot serve.
    """

    def __init__(
        self,
        net: Net,
        path: AffinePath,
        prediction: Prediction = "eps",
        precondition: EDMPrecondition | None = None,
        clip: float | None = None,
        learned_variance: LearnedVariance | None = None,
        channel_dim: int = -1,
    ) -> None:
        super().__init__()
        check_prediction(prediction, precondition)
        if precondition is not None and prediction != "F":
            raise ValueError(f"a preconditioning makes the net predict 'F', found prediction={prediction!r}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive or None, found {clip}")
        if learned_variance not in (None, "learned", "learned_range"):
            raise ValueError(f"learned_variance must be None, 'learned' or 'learned_range', found {learned_variance!r}")
        if learned_variance is not None and not isinstance(path, DiscretePath):
            raise TypeError(f"a learned variance belongs to the steps of a DiscretePath, found {type(path).__name__}")
        if prediction == "velocity" and path.is_discrete:
            raise TypeError("prediction 'velocity' needs a path with time derivatives, found a DiscretePath")
        if prediction in ("eps", "F") and float(path.alpha(path.t_max)) == 0:
            raise ValueError(
                f"prediction {prediction!r} cannot tell x0 where alpha = 0, and this path has alpha({path.t_max}) = 0: "
                "use 'v', 'x0' or 'velocity', or a path that ends earlier"
            )
        self.net = net
        self.path = path
        self.prediction: Prediction = prediction
        self.precondition = precondition
        self.clip = clip
        self.learned_variance: LearnedVariance | None = learned_variance
        self.channel_dim = channel_dim

    def forward(self, x_t: Tensor, t: Time, cond: Any = None) -> Tensor:
        """x0_hat: shape of x_t, float32 (float64 if x_t is). t: scalar, `[B]` or x_t.ndim dims, in the path's time."""
        return self.predict(x_t, t, cond).x0

    def predict(self, x_t: Tensor, t: Time, cond: Any = None) -> Prediction3:
        """The same call with everything a sampler or a loss needs."""
        x = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        alpha, sigma = expand(self.path.alpha(t), x), expand(self.path.sigma(t), x)
        out = self._run_net(x, t, cond, alpha, sigma)
        raw, log_variance = self._split(out, x, t)
        rates = self.rates(t)
        x0 = to_x0(self.prediction, raw, x, alpha, sigma, self.precondition, rates=rates)
        if self.clip is None:
            eps = to_eps(self.prediction, raw, x, alpha, sigma, self.precondition, rates=rates)
        else:
            x0 = x0.clamp(-self.clip, self.clip)
            eps = to_eps("x0", x0, x, alpha, sigma)
        variance = None if log_variance is None else log_variance.exp()
        return Prediction3(x0, eps, variance, raw, log_variance)

    def rates(self, t: Time) -> Rates:
        """(d alpha/dt, d sigma/dt) where the prediction is a velocity; the others do not use them."""
        if self.prediction != "velocity":
            return LINEAR_RATES
        return self.path.d_alpha(t), self.path.d_sigma(t)

    def _run_net(self, x: Tensor, t: Time, cond: Any, alpha: Tensor, sigma: Tensor) -> Tensor:
        if self.precondition is None:
            c_noise, x_in = self.path.c_noise(t), x
        else:
            c_noise = self.precondition.c_noise(self.path.sigma(t), self.path.alpha(t))
            x_in = x * self.precondition.c_in(sigma, alpha)
        c_noise = c_noise.to(x)
        if c_noise.ndim == 0:
            c_noise = c_noise.expand(x.shape[0])
        return self.net(x_in.to(self._net_dtype(x)), c_noise, cond).to(x.dtype)

    def _net_dtype(self, x: Tensor) -> torch.dtype:
        if isinstance(self.net, nn.Module):
            for parameter in self.net.parameters():
                if parameter.is_floating_point():
                    return parameter.dtype
        return x.dtype

    def _split(self, out: Tensor, x: Tensor, t: Time) -> tuple[Tensor, Tensor | None]:
        expected = list(x.shape)
        if self.learned_variance is None:
            if list(out.shape) != expected:
                raise ValueError(f"the net returned shape {list(out.shape)}, expected x's shape {expected}")
            return out, None
        expected[self.channel_dim] *= 2
        if list(out.shape) != expected:
            raise ValueError(
                f"the net returned shape {list(out.shape)}, expected {expected}: x's shape with twice the "
                f"channels on axis {self.channel_dim} for the learned variance"
            )
        raw, extra = out.chunk(2, dim=self.channel_dim)
        if self.learned_variance == "learned":
            return raw, extra
        path = self.path
        assert isinstance(path, DiscretePath)
        low = expand(path.gather(path.posterior_log_variance, t), x)
        high = expand(path.gather(path.betas.log(), t), x)
        part = (extra + 1) / 2
        return raw, part * high + (1 - part) * low

    def extra_repr(self) -> str:
        return f"prediction={self.prediction!r}, path={type(self.path).__name__}, clip={self.clip}"

"""The affine noising process `x_t = alpha(t) x0 + sigma(t) eps`, in continuous time.

One family covers everything the package trains or loads:

| path | alpha(t) | sigma(t) | t | clean at |
|---|---|---|---|---|
| `VPLinearPath` (Song et al. 2021, eq. 33)  | exp(-t^2 (b1 - b0)/4 - t b0/2) | sqrt(1 - alpha^2) | [1e-3, 1] | 0 |
| `VPCosinePath` (Nichol & Dhariwal 2021)    | cos-shaped                     | sqrt(1 - alpha^2) | [1e-3, 1] | 0 |
| `VEPath` (Song et al. 2021, eq. 30)        | 1                              | s0 (s1/s0)^t      | [0, 1]    | -inf |
| `EDMPath` (Karras et al. 2022)             | 1                              | t                 | [s0, s1]  | 0 |
| `RectifiedFlowPath` (Liu et al. 2023)      | 1 - t                          | t                 | [1e-3, 1] | 0 |
| `DiscretePath` (Ho et al. 2020), discrete.py | table                        | table             | 0..T-1    | -1 |

Noise is at `t_max` and data at `t_clean`, for every path: rectified flow counts as diffusers does, not as its paper
(whose t = 1 is data). `t_min` is the last time a net is asked about; `t_clean` is where alpha = 1 and sigma = 0
exactly, the value that ends a grid of sampling times. Coefficients are float64 and have the shape of t.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Time = Tensor | float | int  # a scalar, [B], or already as many dims as x (packed rows: [1, M, 1])


def expand(t: Time, like: Tensor) -> Tensor:
    """Shapes a time or coefficient so that it broadcasts against `like`.

    Args:
        t: a scalar; `[B]`, one per sample, which gets trailing ones; or a tensor with `like.ndim` dims already
            (packed rows `[1, M, 2]` with a time per token use `[1, M, 1]`).
        like: `[B, ...]`.
    Returns: a tensor of `like.ndim` dims on `like.device`, in `like.dtype` but never below float32.
    Raises: ValueError where the shapes do not fit.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    value = t.to(like.device, dtype) if isinstance(t, Tensor) else torch.tensor(t, device=like.device, dtype=dtype)
    if value.ndim == 0:
        return value.reshape((1,) * like.ndim)
    if value.ndim == 1 and like.ndim > 1:
        value = value.reshape(-1, *(1,) * (like.ndim - 1))
    if value.ndim != like.ndim or any(n not in (1, m) for n, m in zip(value.shape, like.shape, strict=True)):
        raise ValueError(
            f"t of shape {list(torch.as_tensor(t).shape)} does not fit x of shape {list(like.shape)}: "
            f"expected a scalar, [{like.shape[0]}], or {like.ndim} dims such as [1, M, 1] for packed rows"
        )
    return value


def as_time(t: Time) -> Tensor:
    """t as a float64 tensor on its own device (Metal has no float64, so there on the CPU)."""
    if not isinstance(t, Tensor):
        return torch.tensor(t, dtype=torch.float64)
    return (t.cpu() if t.device.type == "mps" else t).to(torch.float64)


class AffinePath(ABC):
    """`x_t = alpha(t) x0 + sigma(t) eps`, see the module's table. Every method takes t of any shape."""

    is_discrete: ClassVar[bool] = False
    t_min: float
    t_max: float
    t_clean: float

    @abstractmethod
    def alpha(self, t: Time) -> Tensor:
        """Scale of the data, float64, shape of t."""

    @abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """Scale of the noise, float64, shape of t."""

    @abstractmethod
    def d_alpha(self, t: Time) -> Tensor:
        """d alpha / d t. Raises NotImplementedError on a discrete path."""

    @abstractmethod
    def d_sigma(self, t: Time) -> Tensor:
        """d sigma / d t. Raises NotImplementedError on a discrete path."""

    @abstractmethod
    def t_from_log_snr(self, log_snr: Time) -> Tensor:
        """Inverse of `log_snr`; the nearest step (long) on a discrete path."""

    @abstractmethod
    def c_noise(self, t: Time) -> Tensor:
        """What the net is told about the noise level, float64, shape of t."""

    def log_snr(self, t: Time) -> Tensor:
        """log(alpha^2 / sigma^2): falls with t; +inf at clean data, -inf at pure noise."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def noise_to_signal(self, t: Time) -> Tensor:
        """sigma / alpha: the noise level of x_t / alpha, i.e. EDM's sigma for any path. inf at pure noise."""
        return self.sigma(t) / self.alpha(t)

    def t_from_noise_to_signal(self, ratio: Time) -> Tensor:
        """Inverse of `noise_to_signal`."""
        return self.t_from_log_snr(-2 * as_time(ratio).log())

    def add_noise(self, x0: Tensor, noise: Tensor, t: Time) -> Tensor:
        """x_t for data `x0` and unit noise of the same shape; t as in `expand`. Keeps the dtype of x0."""
        x_t = expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * noise
        return x_t.to(x0.dtype)


@dataclass(frozen=True)
class VPLinearPath(AffinePath):
    """Variance preserving with beta(t) = beta_min + t (beta_max - beta_min) (Song et al. 2021, eqs. 32-33)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0
    t_clean: float = 0.0
    time_scale: float = 999.0  # EDM table 1: c_noise = (M - 1) t with M = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.beta_min < self.beta_max:
            raise ValueError(f"expected 0 <= beta_min < beta_max, found {self.beta_min} and {self.beta_max}")

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def alpha(self, t: Time) -> Tensor:
        return self._log_alpha(as_time(t)).exp()

    def sigma(self, t: Time) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(as_time(t)))).sqrt()

    def d_alpha(self, t: Time) -> Tensor:
        t = as_time(t)
        return -0.5 * self.alpha(t) * (self.beta_min + t * (self.beta_max - self.beta_min))

    def d_sigma(self, t: Time) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)

    def t_from_log_snr(self, log_snr: Time) -> Tensor:
        neg_log_alpha = 0.5 * torch.nn.functional.softplus(-as_time(log_snr))
        # The quadratic's root, written so that nothing cancels near t = 0.
        root = (0.25 * self.beta_min**2 + (self.beta_max - self.beta_min) * neg_log_alpha).sqrt()
        return 2 * neg_log_alpha / (0.5 * self.beta_min + root)

    def c_noise(self, t: Time) -> Tensor:
        return self.time_scale * as_time(t)


@dataclass(frozen=True)
class VPCosinePath(AffinePath):
    """Variance preserving, alpha(t) = cos(theta(t)) / cos(theta(0)), theta = pi/2 (t + offset)/(1 + offset).

    Nichol & Dhariwal 2021, eq. 17, in continuous time; offset 0 is alpha = cos(pi t/2), sigma = sin(pi t/2).
    alpha(1) = 0, so eps prediction needs a `t_max` below 1.
    """

    offset: float = 0.008
    t_min: float = 1e-3
    t_max: float = 1.0
    t_clean: float = 0.0
    time_scale: float = 999.0

    def _angle(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * (t + self.offset) / (1 + self.offset)

    @property
    def _angle0(self) -> float:
        return 0.5 * math.pi * self.offset / (1 + self.offset)

    def alpha(self, t: Time) -> Tensor:
        # sin of the complement is cos(theta), but exactly 0 at t = 1.
        return torch.sin(0.5 * math.pi * (1 - as_time(t)) / (1 + self.offset)) / math.cos(self._angle0)

    def sigma(self, t: Time) -> Tensor:
        # 1 - alpha^2 by cos^2 a - cos^2 b = sin(b - a) sin(b + a), exact at t = 0.
        angle = self._angle(as_time(t))
        below = 0.5 * math.pi * as_time(t) / (1 + self.offset)
        return (torch.sin(below) * torch.sin(angle + self._angle0)).clamp(min=0).sqrt() / math.cos(self._angle0)

    def d_alpha(self, t: Time) -> Tensor:
        rate = 0.5 * math.pi / (1 + self.offset)
        return -rate * torch.sin(self._angle(as_time(t))) / math.cos(self._angle0)

    def d_sigma(self, t: Time) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)

    def t_from_log_snr(self, log_snr: Time) -> Tensor:
        alpha = torch.sigmoid(as_time(log_snr)).sqrt()
        return 1 - torch.asin(alpha * math.cos(self._angle0)) * 2 * (1 + self.offset) / math.pi

    def c_noise(self, t: Time) -> Tensor:
        return self.time_scale * as_time(t)


@dataclass(frozen=True)
class VEPath(AffinePath):
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t (Song et al. 2021, eq. 30).

    sigma(0) is sigma_min, not 0: clean data lies at t = -inf, which the formulas accept.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 0.0
    t_max: float = 1.0
    t_clean: float = -math.inf

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, found {self.sigma_min} and {self.sigma_max}")

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_min * torch.exp(self._log_ratio * as_time(t))

    def d_alpha(self, t: Time) -> Tensor:
        return torch.zeros_like(as_time(t))

    def d_sigma(self, t: Time) -> Tensor:
        return self._log_ratio * self.sigma(t)

    def t_from_log_snr(self, log_snr: Time) -> Tensor:
        return (-0.5 * as_time(log_snr) - math.log(self.sigma_min)) / self._log_ratio

    def c_noise(self, t: Time) -> Tensor:
        return (0.5 * self.sigma(t)).log()  # EDM table 1, VE


@dataclass(frozen=True)
class EDMPath(AffinePath):
    """alpha = 1, sigma = t: time is the noise level itself (Karras et al. 2022). c_noise = ln(sigma) / 4."""

    t_min: float = 0.002
    t_max: float = 80.0
    t_clean: float = 0.0

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Time) -> Tensor:
        return as_time(t)

    def d_alpha(self, t: Time) -> Tensor:
        return torch.zeros_like(as_time(t))

    def d_sigma(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def t_from_log_snr(self, log_snr: Time) -> Tensor:
        return (-0.5 * as_time(log_snr)).exp()

    def c_noise(self, t: Time) -> Tensor:
        return 0.25 * as_time(t).log()


@dataclass(frozen=True)
class RectifiedFlowPath(AffinePath):
    """alpha = 1 - t, sigma = t, noise at t = 1; velocity = eps - x0 (as diffusers' FlowMatch).

    Liu et al. 2023 count the other way: their time is 1 - t and their velocity the negative of ours.
    c_noise = time_scale * t: 1000 as diffusers, 999 as Liu et al., 1 for plain t.
    """

    t_min: float = 1e-3
    t_max: float = 1.0
    t_clean: float = 0.0
    time_scale: float = 1000.0

    def alpha(self, t: Time) -> Tensor:
        return 1 - as_time(t)

    def sigma(self, t: Time) -> Tensor:
        return as_time(t)

    def d_alpha(self, t: Time) -> Tensor:
        return -torch.ones_like(as_time(t))

    def d_sigma(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def t_from_log_snr(self, log_snr: Time) -> Tensor:
        return torch.sigmoid(-0.5 * as_time(log_snr))

    def c_noise(self, t: Time) -> Tensor:
        return self.time_scale * as_time(t)


def vp_linear_path(beta_min: float = 0.1, beta_max: float = 20.0, *, t_min: float = 1e-3) -> VPLinearPath:
    """The VP SDE of Song et al. 2021."""
    return VPLinearPath(beta_min, beta_max, t_min=t_min)


def vp_cosine_path(offset: float = 0.008, *, t_min: float = 1e-3, t_max: float = 1.0) -> VPCosinePath:
    """The cosine schedule in continuous time; offset 0 is the plain quarter circle."""
    return VPCosinePath(offset, t_min=t_min, t_max=t_max)


def ve_path(sigma_min: float = 0.01, sigma_max: float = 50.0) -> VEPath:
    """The VE SDE of Song et al. 2021; sigmas in units of the data."""
    return VEPath(sigma_min, sigma_max)


def edm_path(sigma_min: float = 0.002, sigma_max: float = 80.0) -> EDMPath:
    """EDM (Karras et al. 2022); sigmas in units of the data."""
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"expected 0 < sigma_min < sigma_max, found {sigma_min} and {sigma_max}")
    return EDMPath(sigma_min, sigma_max)


def rectified_flow_path(*, t_min: float = 1e-3, time_scale: float = 1000.0) -> RectifiedFlowPath:
    """The straight path between data (t = 0) and noise (t = 1)."""
    return RectifiedFlowPath(t_min=t_min, time_scale=time_scale)

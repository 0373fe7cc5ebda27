"""EDM preconditioning: the net predicts F, the denoiser is `D(x) = c_skip x + c_out F(c_in x, c_noise)`."""

from dataclasses import dataclass

import torch
from torch import Tensor


def _as(value: Tensor | float, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=like.dtype, device=like.device)


def _pair(sigma: Tensor | float, alpha: Tensor | float) -> tuple[Tensor, Tensor]:
    # A number takes the other's dtype and device; two numbers become float64.
    like = sigma if isinstance(sigma, Tensor) else alpha if isinstance(alpha, Tensor) else None
    if like is None:
        like = torch.empty((), dtype=torch.float64)
    return _as(sigma, like), _as(alpha, like)


@dataclass(frozen=True)
class EDMPrecondition:
    """Karras et al. 2022, table 1 and eq. 8, extended to any affine path.

    A path with alpha != 1 is EDM at noise level sigma / alpha on x_t / alpha. The formulas below are EDM's with that
    substitution, multiplied out so that alpha = 0 is harmless. With sigma_data = 1 on a variance-preserving path
    c_skip = alpha and c_out = sigma: EDM's F is then -v (Salimans & Ho 2022).

    Args:
        sigma_data: standard deviation of the data, in its units.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, found {self.sigma_data}")

    def _variance(self, sigma: Tensor, alpha: Tensor) -> Tensor:
        return sigma**2 + (self.sigma_data * alpha) ** 2  # of x_t

    def c_skip(self, sigma: Tensor | float, alpha: Tensor | float = 1.0) -> Tensor:
        """sigma_data^2 / (sigma^2 + sigma_data^2) at alpha = 1."""
        sigma, alpha = _pair(sigma, alpha)
        return self.sigma_data**2 * alpha / self._variance(sigma, alpha)

    def c_out(self, sigma: Tensor | float, alpha: Tensor | float = 1.0) -> Tensor:
        """sigma sigma_data / sqrt(sigma^2 + sigma_data^2) at alpha = 1."""
        sigma, alpha = _pair(sigma, alpha)
        return sigma * self.sigma_data / self._variance(sigma, alpha).sqrt()

    def c_in(self, sigma: Tensor | float, alpha: Tensor | float = 1.0) -> Tensor:
        """1 / sqrt(sigma^2 + sigma_data^2) at alpha = 1: gives the net unit variance."""
        sigma, alpha = _pair(sigma, alpha)
        return 1 / self._variance(sigma, alpha).sqrt()

    def c_noise(self, sigma: Tensor | float, alpha: Tensor | float = 1.0) -> Tensor:
        """ln(sigma / alpha) / 4."""
        sigma, alpha = _pair(sigma, alpha)
        return (sigma / alpha).log() / 4

    def weight(self, sigma: Tensor | float, alpha: Tensor | float = 1.0) -> Tensor:
        """lambda = 1 / c_out^2, the weight of the squared error of x0 that makes the loss on F uniform."""
        return 1 / self.c_out(sigma, alpha) ** 2

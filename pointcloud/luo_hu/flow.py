"""The prior over shape latents: affine couplings z <-> w with w ~ N(0, I) (Dinh et al. 2017; Luo & Hu 2021).

Shape letters: B clouds, L latent, H hidden width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpectralLinear(nn.Linear):
    """A linear layer used as W / sigma(W), sigma being the estimate u W v of the largest singular value.

    `power_iteration` improves u and v [Miyato et al. 2018]; the gradient flows through sigma, with u and v constant.
    """

    u: Tensor
    v: Tensor

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(dim_in, dim_out)
        self.register_buffer("u", F.normalize(torch.randn(dim_out), dim=0, eps=1e-12))
        self.register_buffer("v", F.normalize(torch.randn(dim_in), dim=0, eps=1e-12))

    @torch.no_grad()
    def power_iteration(self) -> None:
        """One round: v towards W^T u, then u towards W v."""
        self.v.copy_(F.normalize(self.weight.t() @ self.u, dim=0, eps=1e-12))
        self.u.copy_(F.normalize(self.weight @ self.v, dim=0, eps=1e-12))

    def forward(self, input: Tensor) -> Tensor:
        """[B, I] -> [B, O]."""
        # Copies: a later power iteration must not change what the backward pass reads.
        sigma = self.u.clone() @ (self.weight @ self.v.clone())
        return F.linear(input, self.weight / sigma, self.bias)


class AffineCoupling(nn.Module):
    """One half of the latent scales and shifts the other: y = x * sigmoid(s + 2) + t, with (s, t) = MLP(other half).

    The half that conditions has ceil(L / 2) entries. Without `swap` it is the first, and stays in place. With `swap`
    the layer also rotates: of x = [a, b] with ceil(L / 2) entries in a, the rotated [b, a] is cut again, its first
    part conditions the second, and comes last in what is returned. For even L that only exchanges the roles.
    """

    def __init__(self, latent_dim: int, hidden_dim: int, swap: bool, spectral_norm: bool = False) -> None:
        super().__init__()
        self.latent_dim, self.swap = latent_dim, swap
        self.first = latent_dim - latent_dim // 2
        kind = SpectralLinear if spectral_norm else nn.Linear
        changed = latent_dim - self.first
        self.linears = nn.ModuleList(
            [kind(self.first, hidden_dim), kind(hidden_dim, hidden_dim), kind(hidden_dim, 2 * changed)]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L] -> (y [B, L], log|det dy/dx| [B])."""
        if self.swap:
            x = torch.cat([x[:, self.first :], x[:, : self.first]], dim=1)
        fixed, changed = x[:, : self.first], x[:, self.first :]
        scale, shift = self._scale_shift(fixed)
        return self._join(fixed, changed * scale + shift), scale.log().sum(dim=1)

    def inverse(self, y: Tensor, as_original: bool = False) -> tuple[Tensor, Tensor]:
        """[B, L] -> (x [B, L], log|det dx/dy| [B]).

        `as_original` cuts y where the published code does, which for odd L is not where `forward` put the halves.
        """
        if as_original and self.swap:
            y = torch.cat([y[:, self.first :], y[:, : self.first]], dim=1)
        if as_original or not self.swap:
            fixed, changed = y[:, : self.first], y[:, self.first :]
        else:
            rest = self.latent_dim - self.first
            fixed, changed = y[:, rest:], y[:, :rest]
        scale, shift = self._scale_shift(fixed)
        x = (changed - shift) / scale
        log_det = -scale.log().sum(dim=1)
        if as_original or not self.swap:
            return self._join(fixed, x), log_det
        rotated = torch.cat([fixed, x], dim=1)
        rest = self.latent_dim - self.first
        return torch.cat([rotated[:, rest:], rotated[:, :rest]], dim=1), log_det

    def _scale_shift(self, fixed: Tensor) -> tuple[Tensor, Tensor]:
        h = fixed
        for linear in self.linears[:-1]:
            h = linear(h).relu()
        scale, shift = self.linears[-1](h).chunk(2, dim=1)
        return torch.sigmoid(scale + 2.0), shift

    def _join(self, fixed: Tensor, changed: Tensor) -> Tensor:
        return torch.cat([changed, fixed] if self.swap else [fixed, changed], dim=1)


class FlowPrior(nn.Module):
    """`depth` couplings, the even ones with swap. In training mode with spectral norm, every `forward` is preceded by
    one power iteration of each weight.

    Args:
        latent_dim: L, at least 2.
        depth, hidden_dim: 14 and 256 as published.
        spectral_norm: divide the weights by their largest singular value.
        original_odd_inverse: for odd L, reproduce the published `reverse`, which does not invert the flow.
    """

    def __init__(
        self,
        latent_dim: int,
        depth: int = 14,
        hidden_dim: int = 256,
        *,
        spectral_norm: bool = False,
        original_odd_inverse: bool = False,
    ) -> None:
        super().__init__()
        if latent_dim < 2 or depth < 1:
            raise ValueError(f"a flow needs latent_dim >= 2 and depth >= 1, found {latent_dim} and {depth}")
        self.latent_dim = latent_dim
        self.original_odd_inverse = original_odd_inverse
        self.couplings = nn.ModuleList(
            AffineCoupling(latent_dim, hidden_dim, swap=i % 2 == 0, spectral_norm=spectral_norm) for i in range(depth)
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, L] -> (w [B, L], log|det dw/dz| [B])."""
        if self.training:
            self.power_iteration()
        log_det = z.new_zeros(z.shape[0])
        for coupling in self._chain():
            z, step = coupling(z)
            log_det = log_det + step
        return z, log_det

    def inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """w [B, L] -> (z [B, L], log|det dz/dw| [B])."""
        log_det = w.new_zeros(w.shape[0])
        for coupling in reversed(self._chain()):
            w, step = coupling.inverse(w, as_original=self.original_odd_inverse)
            log_det = log_det + step
        return w, log_det

    def power_iteration(self) -> None:
        """One power iteration of every weight with spectral norm; nothing where there is none."""
        for module in self.modules():
            if isinstance(module, SpectralLinear):
                module.power_iteration()

    def _chain(self) -> list[AffineCoupling]:
        return [coupling for coupling in self.couplings if isinstance(coupling, AffineCoupling)]

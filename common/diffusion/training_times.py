"""Which noise levels a net trains on: draws of t `[n]` in the path's own time.

Every draw lies in [t_min, t_max]: long on a discrete path, float32 elsewhere. Numbers come from `generator`, on its
device, and are then moved, so a seed gives the same times on every machine.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .path import AffinePath


class TimeSampler(Protocol):
    """What a training step needs: `sampler(path, n, generator=..., device=...) -> t [n]`."""

    def __call__(
        self, path: AffinePath, n: int, *, generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> Tensor: ...


def _on(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _at(path: AffinePath, unit: Tensor, device: torch.device | None) -> Tensor:
    """Maps [0, 1) to the path's times."""
    if path.is_discrete:
        steps = path.t_max - path.t_min + 1
        t = path.t_min + (unit * steps).floor().clamp(max=steps - 1).to(torch.long)
    else:
        t = (path.t_min + unit * (path.t_max - path.t_min)).to(torch.float32)
    return t if device is None else t.to(device)


def uniform(
    path: AffinePath,
    n: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
    stratified: bool = False,
) -> Tensor:
    """Uniform times. `stratified`: one draw shared by the batch, u + i/n mod 1, which lowers the variance of the loss
    and keeps each t uniform (Kingma et al. 2021, appendix I.1)."""
    u = torch.rand(1 if stratified else n, generator=generator, device=_on(generator), dtype=torch.float64)
    if stratified:
        u = (u + torch.arange(n, device=u.device) / n) % 1
    return _at(path, u, device)


def logit_normal(
    path: AffinePath,
    n: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
    mean: float = 0.0,
    std: float = 1.0,
) -> Tensor:
    """Times with logit ~ N(mean, std^2), densest in the middle of the path (Esser et al. 2024, section 3.1)."""
    z = torch.randn(n, generator=generator, device=_on(generator), dtype=torch.float64)
    return _at(path, torch.sigmoid(mean + std * z), device)


def lognormal_sigma(
    path: AffinePath,
    n: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
    p_mean: float = -1.2,
    p_std: float = 1.2,
) -> Tensor:
    """Times with ln(sigma / alpha) ~ N(p_mean, p_std^2) (Karras et al. 2022, table 1), clamped to the path's ends;
    on a discrete path the nearest step."""
    z = torch.randn(n, generator=generator, device=_on(generator), dtype=torch.float64)
    t = path.t_from_noise_to_signal((p_mean + p_std * z).exp()).clamp(path.t_min, path.t_max)
    t = t if path.is_discrete else t.to(torch.float32)
    return t if device is None else t.to(device)


def per_token(t: Tensor, lens: Sequence[int] | Tensor) -> Tensor:
    """`[P]` times of packed samples -> `[1, M, 1]`, one per token."""
    lengths = torch.as_tensor(lens).to(t.device)
    if t.shape != lengths.shape:
        raise ValueError(f"expected one time per packed sample, found t {list(t.shape)} and lens {list(lengths.shape)}")
    return t.repeat_interleave(lengths)[None, :, None]


class ImportanceTimes:
    """Importance sampling of discrete times by the loss's second moment (Nichol & Dhariwal 2021, eq. 18).

    p_t is proportional to sqrt(E[L_t^2]) over the last `history` losses of each t, mixed with a little uniform;
    until every t has a full history, times are uniform. Multiply each sample's loss by its weight: 1 / (T p_t).
    Over several processes, pass `update` what was gathered from all, so that they stay equal.

    Args:
        path: a discrete path.
        uniform_share: the share of uniform draws, > 0 so that no t starves.
    """

    def __init__(self, path: AffinePath, *, history: int = 10, uniform_share: float = 0.001) -> None:
        if not path.is_discrete:
            raise TypeError(f"ImportanceTimes needs a DiscretePath, found {type(path).__name__}")
        self._first = int(path.t_min)
        self._share = uniform_share
        steps = int(path.t_max) - self._first + 1
        self._losses = torch.zeros(steps, history, dtype=torch.float64)
        self._counts = torch.zeros(steps, dtype=torch.long)

    def probabilities(self) -> Tensor:
        """p_t, float64 `[T]`, sums to 1."""
        steps, history = self._losses.shape
        if int(self._counts.min()) < history:
            return torch.full((steps,), 1 / steps, dtype=torch.float64)
        root = (self._losses**2).mean(dim=1).sqrt()
        return root / root.sum() * (1 - self._share) + self._share / steps

    def draw(
        self, n: int, *, generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor]:
        """(t `[n]` long, weights `[n]` float32). `generator` lives on the CPU."""
        p = self.probabilities()
        index = torch.multinomial(p, n, replacement=True, generator=generator)
        weights = (1 / (len(p) * p[index])).to(torch.float32)
        return (index + self._first).to(device), weights.to(device)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Records per-sample losses `[n]` at times `[n]`; the oldest of a full history goes."""
        for index, loss in zip((t - self._first).tolist(), losses.detach().double().tolist(), strict=True):
            self._losses[index] = self._losses[index].roll(-1)
            self._losses[index, -1] = loss
            self._counts[index] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """For checkpoints."""
        return {"losses": self._losses.clone(), "counts": self._counts.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Raises: ValueError where the state belongs to another number of steps or history."""
        if state["losses"].shape != self._losses.shape:
            found, expected = list(state["losses"].shape), list(self._losses.shape)
            raise ValueError(f"state 'losses' has shape {found}, expected {expected}")
        self._losses.copy_(state["losses"])
        self._counts.copy_(state["counts"])

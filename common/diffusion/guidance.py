"""Classifier-free guidance (Ho & Salimans 2022) as a denoiser that wraps a denoiser."""

from collections.abc import Callable
from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .denoiser import Prediction3
from .path import AffinePath, Time, as_time, expand
from .step import DenoiserLike


def cat_conditions(cond: Any, uncond: Any) -> Any:
    """Joins two conditions along the batch: tensors are concatenated on dim 0, tuples, lists, dicts and dataclasses
    are joined member by member, None joins None. Anything else must be equal on both sides and is kept.

    Raises ValueError where the two differ in structure; then pass `merge=` of your own or `batched=False`.
    """
    if isinstance(cond, Tensor) and isinstance(uncond, Tensor):
        return torch.cat([cond, uncond])
    if type(cond) is type(uncond):
        if isinstance(cond, tuple | list) and len(cond) == len(uncond):
            members = [cat_conditions(c, u) for c, u in zip(cond, uncond, strict=True)]
            return type(cond)(*members) if hasattr(cond, "_fields") else type(cond)(members)  # named tuples
        if isinstance(cond, dict) and cond.keys() == uncond.keys():
            return {key: cat_conditions(cond[key], uncond[key]) for key in cond}
        if is_dataclass(cond) and not isinstance(cond, type):
            joined = {f.name: cat_conditions(getattr(cond, f.name), getattr(uncond, f.name)) for f in fields(cond)}
            return replace(cond, **joined)
        if cond == uncond:
            return cond
    raise ValueError(
        f"guidance cannot join cond ({type(cond).__name__}) with uncond ({type(uncond).__name__}): "
        "pass merge=(cond, uncond) -> cond, or batched=False"
    )


class GuidedDenoiser:
    """What `guided` returns: call it, or give it to any sampler, in the place of the denoiser it wraps."""

    def __init__(
        self,
        denoiser: DenoiserLike,
        scale: float,
        uncond: Any,
        rescale: float,
        interval: tuple[float, float] | None,
        merge: Callable[[Any, Any], Any] | None,
    ) -> None:
        self.denoiser = denoiser
        self.clip: float | None = getattr(denoiser, "clip", None)
        # The estimates are combined before they are clipped, as where guidance is applied to a net's raw output.
        self._unclipped = denoiser
        if self.clip is not None:
            self._unclipped = copy(denoiser)
            self._unclipped.clip = None  # pyright: ignore[reportAttributeAccessIssue]
        self.scale = scale
        self.uncond = uncond
        self.rescale = rescale
        self.interval = interval
        self.merge = merge

    @property
    def path(self) -> AffinePath:
        return self.denoiser.path

    def __call__(self, x_t: Tensor, t: Time, cond: Any = None) -> Tensor:
        """Guided x0_hat, shape of x_t [B, ...]."""
        return self.predict(x_t, t, cond).x0

    def predict(self, x_t: Tensor, t: Time, cond: Any = None) -> Prediction3:
        """Guided x0 and eps; a learned variance and `raw` are the conditional ones."""
        t = torch.as_tensor(t)
        active = self._active(t)
        if self.scale == 1 or not bool(active.any()):
            return self.denoiser.predict(x_t, t, cond)
        positive, negative = self._both(x_t, t, cond)
        # For one x_t, eps_u + w (eps_c - eps_u) and x0_u + w (x0_c - x0_u) are the same estimate.
        x0 = negative.x0 + self.scale * (positive.x0 - negative.x0)
        if self.rescale > 0:
            # Lin et al. 2023, eqs. 14-16, on x0
            wanted, found = _std(positive.x0), _std(x0)
            ratio = torch.where(found > 0, wanted / found, 1.0)  # a constant estimate stays
            x0 = x0 * (self.rescale * ratio + 1 - self.rescale)
        x0 = torch.where(expand(active.double(), x0) > 0, x0, positive.x0)
        if self.clip is not None:
            x0 = x0.clamp(-self.clip, self.clip)
        alpha, sigma = expand(self.path.alpha(t), x0), expand(self.path.sigma(t), x0)
        return replace(positive, x0=x0, eps=(x_t - alpha * x0) / sigma)

    def _both(self, x_t: Tensor, t: Tensor, cond: Any) -> tuple[Prediction3, Prediction3]:
        """(conditional, unconditional), both before any clipping."""
        if self.merge is None:
            return self._unclipped.predict(x_t, t, cond), self._unclipped.predict(x_t, t, self.uncond)
        t_both = torch.cat([t, t]) if t.ndim > 0 and t.shape[0] == x_t.shape[0] else t
        both = self._unclipped.predict(torch.cat([x_t, x_t]), t_both, self.merge(cond, self.uncond))
        halves = {f.name: getattr(both, f.name).chunk(2) for f in fields(both) if getattr(both, f.name) is not None}
        return (
            replace(both, **{name: half[0] for name, half in halves.items()}),
            replace(both, **{name: half[1] for name, half in halves.items()}),
        )

    def _active(self, t: Time) -> Tensor:
        """Where guidance acts, bool in the shape of t."""
        time = as_time(t)
        if self.interval is None:
            return torch.ones_like(time, dtype=torch.bool)
        return (time > self.interval[0]) & (time <= self.interval[1])


def guided(
    denoiser: DenoiserLike,
    scale: float,
    uncond: Any,
    *,
    rescale: float = 0.0,
    interval: tuple[float, float] | None = None,
    batched: bool = True,
    merge: Callable[[Any, Any], Any] = cat_conditions,
) -> GuidedDenoiser:
    """Classifier-free guidance: eps_u + scale (eps_c - eps_u), clipped again where the denoiser clips.

    Args:
        scale: 1 is the conditional model, 0 the unconditional one.
        uncond: the condition that means "no condition", for the batch that will be sampled.
        rescale: phi in [0, 1] of Lin et al. 2023, eqs. 14-16: pulls each sample's standard deviation of x0_hat back to
            the conditional one's.
        interval: (low, high) in the path's own time; guidance acts where low < t <= high and the conditional model
            runs alone elsewhere, in one call (Kynkäänniemi et al. 2024).
        batched: one network call on a doubled batch, joined by `merge(cond, uncond)`; else two calls, which is what
            packed rows need.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale: expected a number in [0, 1], found {rescale}")
    if interval is not None and not interval[0] < interval[1]:
        raise ValueError(f"interval: expected (low, high) with low < high, found {interval}")
    return GuidedDenoiser(denoiser, scale, uncond, rescale, interval, merge if batched else None)


def _std(x: Tensor) -> Tensor:
    """Standard deviation of each sample of x [B, ...], as [B, 1, ...]."""
    return x.flatten(1).std(dim=1, correction=0).reshape(-1, *[1] * (x.ndim - 1))

"""One sampler step as data, and the loop that every sampler shares.

A sampler is `sampler(denoiser, x_T, times, cond=None, *, generator=None, on_step=None, progress=None) -> x0`.
Conditioning without training (RePaint, ILVR, DPS) is a function from a `Step` to a new x_s, never a fork of a loop.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from .denoiser import Prediction3
from .noise import Randomness
from .path import AffinePath
from .times import uniform_times


@dataclass(frozen=True)
class Step:
    """One finished step from time t to time s, in the path's own time (original time on a discrete path).

    x_t [B, ...] is the state before, x0_hat its denoised estimate, x_s the state the sampler proposes at time s.
    `t` and `s` are floats; on a discrete path they are whole numbers. The last s is usually `path.t_clean`.
    """

    index: int
    t: float
    s: float
    x_t: Tensor
    x0_hat: Tensor
    x_s: Tensor
    cond: Any = None


class OnStep(Protocol):
    """Receives a `Step` and returns the x_s to go on with (`return step.x_s` changes nothing).

    Samplers run without gradients. An object with `needs_grad = True` gets a step whose x_t is a leaf that requires
    grad and whose x0_hat and x_s depend on it (DPS: the gradient of a residual of x0_hat with respect to x_t).
    """

    def __call__(self, step: Step, /) -> Tensor: ...


class DenoiserLike(Protocol):
    """What a sampler needs: E[x0 | x_t] as a call, and the path whose time t is. `predict` serves learned variances."""

    @property
    def path(self) -> AffinePath: ...

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any = None, /) -> Tensor: ...

    def predict(self, x_t: Tensor, t: Tensor, cond: Any = None, /) -> Prediction3: ...


class Sampler(Protocol):
    """The one signature of ours and of `from_diffusers`; use `functools.partial` to fix a sampler's own options."""

    def __call__(
        self,
        denoiser: DenoiserLike,
        x_T: Tensor,
        times: "Times",
        cond: Any = None,
        *,
        generator: Randomness = None,
        on_step: OnStep | None = None,
        progress: "Progress | None" = None,
    ) -> Tensor: ...


Times = int | Sequence[float] | Tensor
# Wraps the list of steps, as `tqdm` does.
Progress = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Level:
    """A time with its coefficients as Python floats (float64, on any device): x_t = alpha x0 + sigma eps."""

    t: float
    alpha: float
    sigma: float
    is_discrete: bool = False

    @property
    def ratio(self) -> float:
        """sigma / alpha, the noise level in EDM's scaled space; infinite where alpha = 0."""
        return self.sigma / self.alpha if self.alpha > 0 else float("inf")

    def time(self) -> Tensor:
        """t as a 0-d CPU tensor for the denoiser: int64 on a discrete path, else float64."""
        return torch.tensor(int(self.t)) if self.is_discrete else torch.tensor(self.t, dtype=torch.float64)


def level_at(path: AffinePath, t: float) -> Level:
    """The `Level` of time t on the path."""
    time = Level(float(t), 1.0, 0.0, path.is_discrete).time()
    return Level(float(t), float(path.alpha(time)), float(path.sigma(time)), path.is_discrete)


def levels_of(path: AffinePath, times: Times) -> list[Level]:
    """Levels of a sampler's `times`: n + 1 strictly descending times, the last usually clean.

    An int n means `uniform_times(path, n)`. Raises ValueError for fewer than two times, times that do not fall, or
    fractional times on a discrete path.
    """
    values = [float(t) for t in (uniform_times(path, times) if isinstance(times, int) else times)]
    if len(values) < 2:
        raise ValueError(f"times: expected at least two (a start and an end), found {len(values)}")
    for t, s in pairwise(values):
        if not s < t:
            raise ValueError(f"times: must be strictly descending, found {t} followed by {s}")
    if path.is_discrete and any(t != round(t) for t in values):
        raise ValueError(f"times: a discrete path takes whole numbers (original time, clean data at {path.t_clean})")
    return [level_at(path, t) for t in values]


StepFunction = Callable[[Level, Level, Tensor], tuple[Tensor, Tensor]]


def run_steps(
    step: StepFunction,
    levels: Sequence[Level],
    x: Tensor,
    cond: Any,
    on_step: OnStep | None,
    progress: Progress | None,
) -> Tensor:
    """Walks `step(t, s, x_t) -> (x0_hat, x_s)` over neighbouring levels, letting `on_step` replace each x_s."""
    with_grad = bool(getattr(on_step, "needs_grad", False))
    pairs = list(pairwise(levels))
    with torch.set_grad_enabled(with_grad):
        for index, (t, s) in enumerate(pairs if progress is None else progress(pairs)):
            x_t = x.detach().requires_grad_() if with_grad else x
            x0_hat, x = step(t, s, x_t)
            if on_step is not None:
                x = checked(on_step(Step(index, t.t, s.t, x_t, x0_hat, x, cond)), x)
            x = x.to(x_t.dtype)
    return x.detach()


def checked(new: Tensor, proposed: Tensor) -> Tensor:
    """What `on_step` returned; a forgotten `return` or a changed shape is an error here, not ten steps later."""
    if not isinstance(new, Tensor) or new.shape != proposed.shape:
        found = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
        raise ValueError(f"on_step must return x_s of shape {tuple(proposed.shape)}, found {found}")
    return new


def eps_of(x_t: Tensor, x0: Tensor, t: Level) -> Tensor:
    """eps such that x_t = alpha x0 + sigma eps, shape of x_t. Needs sigma > 0."""
    return (x_t - t.alpha * x0) / t.sigma

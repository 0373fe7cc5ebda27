"""Grids of sampling times.

A grid has n + 1 entries t_0 > t_1 > ... > t_n for n steps. The net is asked at t_0 .. t_{n-1}; the last entry is
`path.t_clean`, where alpha = 1 and sigma = 0: -1 on a DDPM path (0 where it counts from 1), 0 on VP, EDM and flow,
-inf on a VE path. Grids are long on a discrete path and float64 elsewhere, on the CPU.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .discrete import DiscretePath
from .path import AffinePath

Spacing = Literal["linspace", "leading", "trailing", "quadratic"]


def uniform_times(path: AffinePath, n: int, spacing: Spacing = "linspace") -> Tensor:
    """n steps evenly spaced in t.

    On a discrete path of T steps (all but the last as diffusers places them, to the rounding):
    - "linspace": from T - 1 to 0 inclusive; one step starts from T - 1.
    - "leading": multiples of T // n, so the first is below T - 1.
    - "trailing": from T - 1 in strides of T / n; right for few steps (Lin et al. 2023).
    - "quadratic": squares up to 0.8 T (Song et al. 2021, DDIM, appendix D.2).
    On a continuous path only "linspace": from t_max to t_clean (to t_min where t_clean is not finite).
    Raises: ValueError for n < 1, n > T, or squares too close to tell apart.
    """
    _check_count(path, n)
    if isinstance(path, DiscretePath):
        steps = _discrete_steps(path.num_steps, n, spacing)
        return _with_clean(path, steps + path.first)
    if spacing != "linspace":
        raise ValueError(f"spacing {spacing!r} belongs to discrete paths, a continuous one takes 'linspace'")
    if math.isfinite(path.t_clean):
        return torch.linspace(path.t_max, path.t_clean, n + 1, dtype=torch.float64)
    return _with_clean(path, torch.linspace(path.t_max, path.t_min, n, dtype=torch.float64))


def _discrete_steps(total: int, n: int, spacing: Spacing) -> Tensor:
    if spacing == "linspace":
        rising = torch.from_numpy(np.linspace(0, total - 1, n).round()) if n > 1 else torch.tensor([total - 1])
    elif spacing == "leading":
        rising = torch.arange(n) * (total // n)
    elif spacing == "trailing":
        rising = torch.from_numpy(np.arange(total, 0, -total / n)[:n].round()[::-1].copy()) - 1
    elif spacing == "quadratic":
        rising = (torch.linspace(0, math.sqrt(0.8 * total), n, dtype=torch.float64) ** 2).floor()
    else:
        raise ValueError(f"unknown spacing {spacing!r}, expected linspace, leading, trailing or quadratic")
    if bool((rising.diff() < 1).any()):
        raise ValueError(f"{n} steps of spacing {spacing!r} do not fit {total} levels without repeating one")
    return rising.to(torch.long).flip(0)


def karras_times(
    path: AffinePath, n: int, *, rho: float = 7.0, ratio_min: float | None = None, ratio_max: float | None = None
) -> Tensor:
    """n steps with (sigma/alpha)^(1/rho) evenly spaced (Karras et al. 2022, eq. 5), on any path.

    Args:
        ratio_min, ratio_max: range of sigma/alpha; default: the path's at t_min and t_max. A path that ends in pure
            noise (alpha = 0) has no finite ratio there and needs `ratio_max`, e.g. 80.
    Raises: ValueError for n < 1, n > T, or such a path without `ratio_max`.
    """
    _check_count(path, n)
    low, high = _range(path, ratio_min, ratio_max)
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    root = high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))
    return _from_ratios(path, root**rho, ratio_min, ratio_max)


def log_snr_times(
    path: AffinePath, n: int, *, ratio_min: float | None = None, ratio_max: float | None = None
) -> Tensor:
    """n steps evenly spaced in log SNR (Lu et al. 2022, DPM-Solver, section 3.4). Arguments as `karras_times`."""
    _check_count(path, n)
    low, high = _range(path, ratio_min, ratio_max)
    ratios = torch.linspace(math.log(high), math.log(low), n, dtype=torch.float64).exp()
    return _from_ratios(path, ratios, ratio_min, ratio_max)


def shifted_time(t: Tensor, shift: float) -> Tensor:
    """The time on a cosine path at which sigma / alpha is `shift` times that of t in [0, 1]; 0 and 1 stay. Float64.

    A shift above 1 moves effort to noise at which the whole is decided, one below 1 to fine detail: the more pixels,
    points or corners tell the same thing, the more noise hides it. (Hoogeboom et al. 2023, section 2.1, on images)
    """
    angle = 0.5 * math.pi * t.double()
    moved = torch.atan2(shift * angle.sin(), angle.cos()) * (2 / math.pi)
    return torch.where(t == 1, 1.0, moved)


def _check_count(path: AffinePath, n: int) -> None:
    limit = path.t_max - path.t_min + 1 if path.is_discrete else math.inf
    if not 1 <= n <= limit:
        raise ValueError(f"the number of steps must lie in 1..{limit}, found {n}")


def _range(path: AffinePath, ratio_min: float | None, ratio_max: float | None) -> tuple[float, float]:
    low = float(path.noise_to_signal(path.t_min)) if ratio_min is None else ratio_min
    high = float(path.noise_to_signal(path.t_max)) if ratio_max is None else ratio_max
    if not math.isfinite(high):
        raise ValueError("this path ends in pure noise (alpha = 0), where sigma/alpha is infinite: give ratio_max")
    if not 0 < low < high:
        raise ValueError(f"expected 0 < ratio_min < ratio_max, found {low} and {high}")
    return low, high


def _from_ratios(path: AffinePath, ratios: Tensor, ratio_min: float | None, ratio_max: float | None) -> Tensor:
    times = path.t_from_noise_to_signal(ratios)
    if isinstance(path, DiscretePath):
        times = _distinct(times, path)
    # The inverse rounds; a grid must begin and end where the path does.
    if ratio_min is None and len(times) > 1:
        times[-1] = path.t_min
    if ratio_max is None:
        times[0] = path.t_max
    return _with_clean(path, times)


def _distinct(times: Tensor, path: DiscretePath) -> Tensor:
    """Moves the nearest steps apart where two ratios fell on one: strictly falling, within the path."""
    steps = times.tolist()
    for i in range(1, len(steps)):
        steps[i] = min(steps[i], steps[i - 1] - 1)
    for room, i in enumerate(reversed(range(len(steps)))):
        steps[i] = max(steps[i], path.t_min + room)
    return torch.tensor(steps)


def _with_clean(path: AffinePath, times: Tensor) -> Tensor:
    return torch.cat([times, torch.tensor([path.t_clean], dtype=times.dtype)])

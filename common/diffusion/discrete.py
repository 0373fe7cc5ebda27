"""DDPM-type paths: T noise levels in float64 tables, gathered by integer time.

Time is 0..T-1 and -1 means clean data (alpha = 1, sigma = 0). Luo & Hu 2021 count 1..T with beta_0 = 0: `first=1`
gives exactly that, clean data then being t = 0.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .path import AffinePath, Time, as_time


@dataclass(frozen=True, eq=False)
class DiscretePath(AffinePath):
    """alpha_t = sqrt(alphas_cumprod), sigma_t = sqrt(1 - alphas_cumprod) (Ho et al. 2020).

    Every table is float64 `[T]` on the CPU; its entry i belongs to time `first + i`.

    Args:
        betas: `[T]` in (0, 1]; only the last may be 1 (zero terminal SNR).
        first: time of the first noisy step, 0 or 1.
        timestep_map: long `[T]`, each step's time in the path it was respaced from; default: its own time.
        labels: `[T]`, what the net is told at each step (`c_noise`); default: `timestep_map`.
    """

    is_discrete: ClassVar[bool] = True
    betas: Tensor
    first: int = 0
    timestep_map: Tensor = field(default=None)  # pyright: ignore[reportAssignmentType]  # filled below
    labels: Tensor = field(default=None)  # pyright: ignore[reportAssignmentType]
    t_min: int = field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]
    t_max: int = field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]
    t_clean: int = field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        betas = torch.as_tensor(self.betas, dtype=torch.float64, device="cpu")
        if betas.ndim != 1 or len(betas) == 0 or bool((betas <= 0).any()) or bool((betas > 1).any()):
            raise ValueError(f"betas must be a vector with values in (0, 1], found shape {list(betas.shape)}: {betas}")
        if bool((betas[:-1] == 1).any()):
            raise ValueError("only the last beta may be 1: what follows would be undefined")
        if self.first not in (0, 1):
            raise ValueError(f"first must be 0 or 1, found {self.first}")
        steps = torch.arange(self.first, self.first + len(betas))
        own = steps if self.timestep_map is None else torch.as_tensor(self.timestep_map, dtype=torch.long)
        labels = own if self.labels is None else torch.as_tensor(self.labels)
        for name, table in (("timestep_map", own), ("labels", labels)):
            if table.shape != betas.shape:
                raise ValueError(f"{name} has shape {list(table.shape)}, expected {list(betas.shape)} like betas")
        values = {"betas": betas, "timestep_map": own, "labels": labels.to(torch.float64)}
        values |= {"t_min": self.first, "t_max": self.first + len(betas) - 1, "t_clean": self.first - 1}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """alpha_bar_t, `[T]`."""
        return torch.cumprod(1 - self.betas, dim=0)

    @cached_property
    def alphas_cumprod_prev(self) -> Tensor:
        """alpha_bar_{t-1}, 1 at the first step."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])

    @cached_property
    def alphas_cumprod_next(self) -> Tensor:
        """alpha_bar_{t+1}, 0 at the last step."""
        return torch.cat([self.alphas_cumprod[1:], torch.zeros(1, dtype=torch.float64)])

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Variance of q(x_{t-1} | x_t, x0) (Ho et al. 2020, eq. 7), 0 at the first step: "fixed small"."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """log of `posterior_variance`, its -inf at the first step replaced by the second step's value (the first beta
        where T = 1), as in Nichol & Dhariwal 2021's code."""
        return torch.cat([self._second_variance, self.posterior_variance[1:]]).log()

    @cached_property
    def fixed_large_variance(self) -> Tensor:
        """beta_t, the first replaced by the second step's posterior variance: "fixed large" of the same code."""
        return torch.cat([self._second_variance, self.betas[1:]])

    @property
    def _second_variance(self) -> Tensor:
        return self.posterior_variance[1:2] if self.num_steps > 1 else self.betas

    @cached_property
    def posterior_mean_coef1(self) -> Tensor:
        """Factor of x0 in the mean of q(x_{t-1} | x_t, x0) (Ho et al. 2020, eq. 7)."""
        return self.betas * self.alphas_cumprod_prev.sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> Tensor:
        """Factor of x_t in the same mean."""
        return (1 - self.alphas_cumprod_prev) * (1 - self.betas).sqrt() / (1 - self.alphas_cumprod)

    def gather(self, table: Tensor, t: Time) -> Tensor:
        """`table[t - first]` of a `[T]` table, on t's device, shape of t. t must be a noisy step."""
        return table.to(_device(t))[self._index(t, lowest=self.t_min) - self.first]

    def alpha(self, t: Time) -> Tensor:
        return self._with_clean(t, 0)

    def sigma(self, t: Time) -> Tensor:
        return self._with_clean(t, 1)

    def d_alpha(self, t: Time) -> Tensor:
        raise NotImplementedError(
            "a discrete path has no time derivatives: use a continuous one such as vp_linear_path()"
        )

    def d_sigma(self, t: Time) -> Tensor:
        return self.d_alpha(t)

    def t_from_log_snr(self, log_snr: Time) -> Tensor:
        value = as_time(log_snr).cpu().contiguous()
        rising = self.log_snr(torch.arange(self.t_min, self.t_max + 1)).flip(0)
        # Zero terminal SNR: a finite stand-in keeps inf - inf out of the comparison.
        value, rising = value.clamp(-1e6, 1e6), rising.clamp(-1e6, 1e6)
        right = torch.searchsorted(rising, value).clamp(max=len(rising) - 1)
        left = (right - 1).clamp(min=0)
        steps = self.t_max - torch.where(value - rising[left] <= rising[right] - value, left, right)
        return steps.to(_device(log_snr))

    def c_noise(self, t: Time) -> Tensor:
        return self.gather(self.labels, t)

    @cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        # [2, 1 + T], clean data first; copies per device, so that a step on a GPU uploads nothing.
        bars = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod])
        return {torch.device("cpu"): torch.stack([bars.sqrt(), (1 - bars).sqrt()])}

    def _with_clean(self, t: Time, row: int) -> Tensor:
        device = _device(t)
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device][row][self._index(t, lowest=self.t_clean) - self.t_clean]

    def _index(self, t: Time, lowest: int) -> Tensor:
        value = torch.as_tensor(t).to(_device(t))
        steps = value.to(torch.long)
        # On a GPU the look would wait for the device at every call; an index out of range is caught by the gather.
        if value.device.type == "cpu" and value.numel():
            if bool((steps != value).any()):
                raise ValueError(f"a discrete path takes whole times, found {value}")
            if int(steps.min()) < lowest or int(steps.max()) > self.t_max:
                raise ValueError(
                    f"times must lie in {lowest}..{self.t_max}, found {int(steps.min())}..{int(steps.max())}"
                )
        return steps


def _device(t: Time) -> torch.device:
    device = torch.as_tensor(t).device
    return torch.device("cpu") if device.type == "mps" else device  # Metal has no float64


def discrete_path(
    betas: Tensor,
    *,
    one_based: bool = False,
    label: Literal["time", "beta"] = "time",
    rescale_zero_terminal_snr: bool = False,
) -> DiscretePath:
    """A path from its betas `[T]`.

    Args:
        one_based: times 1..T, clean at 0 (Luo & Hu 2021).
        label: what the net is told: the time, or beta_t itself (Luo & Hu 2021).
        rescale_zero_terminal_snr: shift and scale sqrt(alpha_bar) so that the last is 0 and the first stays
            (Lin et al. 2023, algorithm 1). Needs a net that predicts v or x0.
    """
    betas = torch.as_tensor(betas, dtype=torch.float64)
    if rescale_zero_terminal_snr:
        betas = _zero_terminal(betas)
    return DiscretePath(betas, first=int(one_based), labels=betas if label == "beta" else None)  # pyright: ignore


def _zero_terminal(betas: Tensor) -> Tensor:
    root = torch.cumprod(1 - betas, dim=0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    bars = root**2
    alphas = torch.cat([bars[:1], bars[1:] / bars[:-1]])
    return 1 - alphas


def linear_path(
    num_steps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    *,
    one_based: bool = False,
    label: Literal["time", "beta"] = "time",
    rescale_zero_terminal_snr: bool = False,
) -> DiscretePath:
    """Betas evenly spaced from `beta_start` to `beta_end` (Ho et al. 2020). Keywords as `discrete_path`."""
    betas = torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64)
    return discrete_path(betas, one_based=one_based, label=label, rescale_zero_terminal_snr=rescale_zero_terminal_snr)


def cosine_path(
    num_steps: int = 1000,
    offset: float = 0.008,
    max_beta: float = 0.999,
    *,
    rescale_zero_terminal_snr: bool = False,
) -> DiscretePath:
    """alpha_bar(u) = cos^2(pi/2 (u + offset)/(1 + offset)), beta = 1 - alpha_bar((i+1)/T)/alpha_bar(i/T), at most
    `max_beta` (Nichol & Dhariwal 2021, eq. 17). offset 0 is HouseDiffusion's cos^2(pi u / 2)."""
    bars = [math.cos((i / num_steps + offset) / (1 + offset) * math.pi / 2) ** 2 for i in range(num_steps + 1)]
    betas = [min(1 - after / before, max_beta) for before, after in pairwise(bars)]
    return discrete_path(torch.tensor(betas, dtype=torch.float64), rescale_zero_terminal_snr=rescale_zero_terminal_snr)


def space_timesteps(num_steps: int, sections: str | Iterable[int]) -> list[int]:
    """Which of `num_steps` steps to keep, ascending, in the notation of Nichol & Dhariwal 2021.

    Args:
        sections: "20" or "10,10,20" (or the numbers): the chain is cut into that many near-equal parts, and each
            keeps so many steps, evenly from its first to its last. "ddim20": every i-th step from 0, i whole.
    Raises: ValueError where a part has fewer steps than asked, or no whole stride gives the count.
    """
    if isinstance(sections, str) and sections.startswith("ddim"):
        wanted = int(sections.removeprefix("ddim"))
        for stride in range(1, num_steps + 1):
            if len(range(0, num_steps, stride)) == wanted:
                return list(range(0, num_steps, stride))
        raise ValueError(f"no whole stride keeps exactly {wanted} of {num_steps} steps ({sections!r})")
    counts = [int(part) for part in sections.split(",")] if isinstance(sections, str) else list(sections)
    size, longer = divmod(num_steps, len(counts))
    kept: list[int] = []
    start = 0
    for part, count in enumerate(counts):
        length = size + (part < longer)
        if not 1 <= count <= length:
            raise ValueError(f"part {part} of {sections!r} has {length} steps, cannot keep {count}")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):  # accumulated, not multiplied: rounding ties must fall as in the original
            kept.append(start + round(position))
            position += stride
        start += length
    return kept


def respace(path: DiscretePath, timesteps: str | Iterable[int]) -> DiscretePath:
    """The chain that visits only some of `path`'s steps, with betas 1 - alpha_bar_t / alpha_bar_previous
    (Nichol & Dhariwal 2021, eq. 19). Its times count anew from `path.first`; the net is still told the original's.

    Args:
        timesteps: a string for `space_timesteps`, or the times of `path` to keep (any order, duplicates merged).
    """
    if isinstance(timesteps, str):
        steps = [path.first + i for i in space_timesteps(path.num_steps, timesteps)]
    else:
        steps = sorted({int(t) for t in timesteps})
    if not steps:
        raise ValueError("timesteps is empty: a path needs at least one step")
    kept = torch.tensor(steps)
    bars = path.gather(path.alphas_cumprod, kept)
    before = torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    return DiscretePath(
        1 - bars / before,
        first=path.first,
        timestep_map=path.gather(path.timestep_map, kept),
        labels=path.gather(path.labels, kept),
    )

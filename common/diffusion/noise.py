"""Where a sampler's randomness comes from: one generator, one per sample, or any object with `randn_like`."""

from collections.abc import Iterable, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from .path import AffinePath


@runtime_checkable
class NoiseSource(Protocol):
    """Anything that draws standard normal noise shaped like a state, for instance one stream per packed plan."""

    def randn_like(self, x: Tensor) -> Tensor: ...


Randomness = torch.Generator | Sequence[torch.Generator] | NoiseSource | None


class GeneratorNoise:
    """Noise from one `torch.Generator` (None: torch's global one), drawn on the generator's device."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def randn_like(self, x: Tensor) -> Tensor:
        device = x.device if self.generator is None else self.generator.device
        return torch.randn(x.shape, generator=self.generator, device=device, dtype=x.dtype).to(x.device)


class PerSampleNoise:
    """Noise from one generator per sample, so that sample i is the same in a batch of any size.

    x is [B, ...] and there must be exactly B generators.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)

    def randn_like(self, x: Tensor) -> Tensor:
        if len(self.generators) != x.shape[0]:
            raise ValueError(f"generator: found {len(self.generators)} generators for a batch of {x.shape[0]} samples")
        return torch.cat(
            [GeneratorNoise(g).randn_like(row) for g, row in zip(self.generators, x.split(1), strict=True)]
        )


class ReplayNoise:
    """Replays recorded tensors in order, for comparison with another implementation's draws."""

    def __init__(self, recorded: Iterable[Tensor]) -> None:
        self._recorded = iter(recorded)

    def randn_like(self, x: Tensor) -> Tensor:
        noise = next(self._recorded, None)
        if noise is None:
            raise ValueError("ReplayNoise: the sampler asks for more noise than was recorded")
        if noise.shape != x.shape:
            raise ValueError(f"ReplayNoise: recorded noise is {tuple(noise.shape)}, the state is {tuple(x.shape)}")
        return noise.to(device=x.device, dtype=x.dtype)


def as_noise(generator: Randomness) -> NoiseSource:
    """The `NoiseSource` behind a sampler's `generator` argument.

    `None` is torch's global generator, a `torch.Generator` serves the whole batch, a sequence of generators gives
    every sample its own stream, and an object with `randn_like` is used as it is.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return GeneratorNoise(generator)
    if isinstance(generator, NoiseSource):
        return generator
    if isinstance(generator, Sequence) and all(isinstance(g, torch.Generator) for g in generator):
        return PerSampleNoise(cast(Sequence[torch.Generator], generator))
    raise TypeError(
        "generator: expected a torch.Generator, a sequence of them, an object with randn_like or None, "
        f"found {type(generator).__name__}"
    )


def initial_noise(
    path: AffinePath,
    shape: Sequence[int],
    generator: Randomness = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    t: float | None = None,
) -> Tensor:
    """x_T ~ sigma(t) * N(0, I): the state every sampler starts from.

    t defaults to the path's last time `t_max`. On a VP or rectified-flow path the result has about unit variance;
    on a VE or EDM path it is scaled by sigma_max.
    """
    sigma = float(path.sigma(path.t_max if t is None else t))
    return sigma * as_noise(generator).randn_like(torch.empty(tuple(shape), dtype=dtype, device=device))

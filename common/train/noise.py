"""Randomness that belongs to samples: a sample's noise depends on (seed, position) and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from .data_order import BATCH_NOISE, MODULE, SAMPLE_NOISE, mix


class SampleNoise:
    """Draws for one micro-batch of B samples; what a loss function gets instead of a generator.

    Each sample draws from a generator of its own, in the order of the calls. The draws are therefore the same for any
    batch size, number of processes, device, and after a resume. They are made on the CPU and moved to `device`
    (pinned, without waiting).

    Samples of different sizes: use `randn_packed`. Drawing a padded tensor would let the padding, and with it the
    neighbours in the batch, change a sample's noise.
    """

    def __init__(self, seed: int, positions: Sequence[int], device: torch.device | str = "cpu"):
        self.seed = seed
        self.positions = tuple(positions)
        self.device = torch.device(device)

    @cached_property
    def generators(self) -> tuple[torch.Generator, ...]:
        """One CPU generator per sample, in batch order."""
        return tuple(torch.Generator().manual_seed(mix(self.seed, SAMPLE_NOISE, p)) for p in self.positions)

    @cached_property
    def generator(self) -> torch.Generator:
        """A CPU generator for the batch as a whole: resumes exactly, but depends on how samples are batched."""
        return torch.Generator().manual_seed(mix(self.seed, BATCH_NOISE, self.positions[0]))

    def seed_modules(self) -> None:
        """Seed torch's global generators of the CPU and of `device`, which dropout draws from.

        Not `torch.manual_seed`: on a machine without a GPU it formats three stack traces a call, for errors to come.
        """
        seed = mix(self.seed, MODULE, self.positions[0])
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def __len__(self) -> int:
        return len(self.positions)

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal, [B, *shape]."""
        return self._draw(shape, dtype, lambda row, generator: row.normal_(generator=generator))

    def rand(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform on [0, 1), [B, *shape]; `rand()` gives one number per sample, [B]."""
        return self._draw(shape, dtype, lambda row, generator: row.uniform_(generator=generator))

    def randint(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers low <= n < high, [B, *shape] long; `randint(0, 1000)` gives one timestep per sample, [B]."""
        return self._draw(shape, torch.long, lambda row, generator: row.random_(low, high, generator=generator))

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal with the shape, dtype and device of x [B, ...]."""
        if x.shape[:1] != (len(self),):
            raise ValueError(f"randn_like: x has shape {list(x.shape)}, expected the first axis to be {len(self)}")
        wide = torch.float64 if x.dtype is torch.float64 else torch.float32
        return self.randn(*x.shape[1:], dtype=wide).to(device=x.device, dtype=x.dtype)

    def randn_packed(self, lengths: Sequence[int], *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal for packed rows: lengths[i] rows for sample i, [sum(lengths), *shape]."""
        if len(lengths) != len(self):
            raise ValueError(f"randn_packed: {len(lengths)} lengths for {len(self)} samples")
        packed = self._empty((sum(lengths), *shape), dtype)
        for rows, generator in zip(packed.split(list(lengths)), self.generators, strict=True):
            rows.normal_(generator=generator)
        return packed.to(self.device, non_blocking=True)

    def _draw(
        self, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[[Tensor, torch.Generator], Tensor]
    ) -> Tensor:
        batch = self._empty((len(self), *shape), dtype)
        for row, generator in zip(batch, self.generators, strict=True):
            fill(row, generator)
        return batch.to(self.device, non_blocking=True)

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

"""Which sample comes when: a pure function of (seed, position), so that a resumed run needs no replay.

A position counts samples from the start of training, over all epochs and processes. Micro-step k of process r out of
W, with batch b, takes positions (k W + r) b ... (k W + r + 1) b - 1: the samples of an update do not depend on how
they are divided among processes and micro-steps.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

_MASK = 2**64 - 1
_LARGEST_TABLE = 2**24  # a permutation of more samples is computed index by index: the table would take > 128 MB

SHUFFLE, SAMPLE_NOISE, BATCH_NOISE, MODULE, DATASET = range(5)  # independent streams of randomness


def mix(*words: int) -> int:
    """Hash integers to 63 well-mixed bits (the splitmix64 finaliser, Steele et al. 2014, chained)."""
    state = 0
    for word in words:
        state = (state ^ (word & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


class Sized(Protocol):
    """A map-style dataset: `len()` and `[index]`. Index-seeded endless ones give a large length such as 2**31."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class DataOrder:
    """`order[position] -> index`: every epoch is its own permutation of all `length` samples."""

    def __init__(self, length: int, seed: int):
        self.length = length
        self.seed = seed
        self._epoch = -1
        self._table = torch.empty(0, dtype=torch.long)

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, self.length)
        if self.length > _LARGEST_TABLE:
            return keyed_permutation(offset, self.length, mix(self.seed, SHUFFLE, epoch))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, SHUFFLE, epoch))
            self._table, self._epoch = torch.randperm(self.length, generator=generator), epoch
        return int(self._table[offset])


def keyed_permutation(index: int, length: int, key: int, rounds: int = 6) -> int:
    """Where a permutation of range(length), chosen by `key`, sends `index`; O(1) time and memory.

    A balanced Feistel network (Luby & Rackoff 1988) permutes the next power of four; values that fall outside the
    range are sent through again ("cycle walking", Black & Rogaway 2002): fewer than four passes on average.
    """
    half = ((length - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(rounds):
            left, right = right, left ^ mix(key, turn, right) & mask
        index = left << half | right
        if index < length:
            return index


class _Batches(Sampler[list[tuple[int, int]]]):
    """Batches of (position, dataset index) for one process."""

    def __init__(self, order: DataOrder, start: int, steps: int, batch_size: int, rank: int, world_size: int):
        self.order, self.start, self.steps = order, start, steps
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.steps):
            first = self.start + (step * self.world_size + self.rank) * self.batch_size
            yield [(position, self.order[position]) for position in range(first, first + self.batch_size)]


class _Positioned(Dataset):
    """Samples with their positions; torch's global CPU generator is seeded per sample while one is made."""

    def __init__(self, dataset: Sized, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, place: tuple[int, int]) -> tuple[int, Any]:
        position, index = place
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(mix(self.seed, DATASET, position))
        try:
            return position, self.dataset[index]
        finally:
            torch.set_rng_state(state)


class _Collate:
    """A class, not a closure: worker processes may have to pickle it."""

    def __init__(self, collate_fn: Callable[[list[Any]], Any] | None):
        self.collate_fn = collate_fn or default_collate

    def __call__(self, samples: Sequence[tuple[int, Any]]) -> tuple[list[int], Any]:
        return [position for position, _ in samples], self.collate_fn([sample for _, sample in samples])


def training_batches(
    dataset: Sized,
    *,
    seed: int,
    start: int,
    steps: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader:
    """A loader of `steps` micro-batches `(positions, batch)` from position `start` on.

    Epochs follow each other without a gap, so no sample is dropped and every batch is full. Random augmentation in
    the dataset is reproducible if it draws from torch's global generator (or is seeded by `torch.initial_seed()`).
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"{type(dataset).__name__}: training needs a dataset with __len__ and __getitem__; "
            "an endless one is seeded by its index and gives a large length such as 2**31"
        )
    if len(dataset) < 1:
        raise ValueError(f"{type(dataset).__name__}: the dataset is empty")
    return DataLoader(
        _Positioned(dataset, seed),
        batch_sampler=_Batches(DataOrder(len(dataset), seed), start, steps, batch_size, rank, world_size),
        num_workers=num_workers,
        collate_fn=_Collate(collate_fn),
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed),  # else the loader draws its base seed from the global one
        worker_init_fn=_WorkerSignals() if num_workers else None,
    )


class _WorkerSignals:
    """What a worker process does with signals: nothing while it is needed, and end on SIGTERM when it is not.

    Ctrl-C and a job scheduler's SIGTERM reach the whole process group: a worker that died of one would break the
    update that is being finished. At exit the parent terminates its workers and waits for them, by the same signal.
    """

    def __init__(self) -> None:
        self.released = torch.multiprocessing.Event()

    def __call__(self, _worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if self.released.is_set() else None)


@contextmanager
def released_after(loader: DataLoader) -> Iterator[Iterator[Any]]:
    """The batches of a `training_batches` loader; afterwards, whatever happened, its workers may be ended."""
    try:
        yield iter(loader)
    finally:
        if isinstance(loader.worker_init_fn, _WorkerSignals):
            loader.worker_init_fn.released.set()

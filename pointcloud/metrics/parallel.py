"""Work over all cores by threads, with progress.

Threads, not processes: KD-tree queries, network simplex, assignment and array arithmetic all release the interpreter's
lock, so threads use every core, share the clouds, and need no copy of the program.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from ..errors import PointCloudError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """How far a long computation is: `done` of `total` units of work after `seconds`."""

    done: int
    total: int
    seconds: float
    what: str = "pairs"

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.done / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        """At this rate; infinite before the first unit."""
        return (self.total - self.done) / self.rate if self.done else float("inf")

    def __str__(self) -> str:
        left = f", {self.seconds_left:.0f} s left" if self.done else ""
        return f"{self.done}/{self.total} {self.what}, {self.rate:.3g} a second{left}"


ProgressCallback = Callable[[Progress], None]


def worker_count(workers: int | None) -> int:
    """`workers`, or the number of cores this process may use. Raises `PointCloudError` below 1."""
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if workers < 1:
        raise PointCloudError(f"workers: expected at least 1, found {workers}")
    return workers


def run_all(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int | None = None,
    total: int | None = None,
    what: str = "pairs",
    progress: ProgressCallback | None = None,
) -> list[Result]:
    """`[function(item) for item in items]`, in order, on `workers` threads (default: all cores).

    `progress` is called in this thread, once an item. Only a few items a thread are queued at a time: an error in one,
    or in `progress`, surfaces at once and the rest is not run.
    """
    started = time.monotonic()
    threads = worker_count(workers)
    results: dict[int, Result] = {}
    numbered = enumerate(items)
    queued: dict[Future[Result], int] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            room = 4 * threads - len(queued)
            queued |= {pool.submit(function, item): i for i, item in islice(numbered, room)}
            if not queued:
                return [results[i] for i in range(len(results))]
            for future in wait(queued, return_when=FIRST_COMPLETED).done:
                results[queued.pop(future)] = future.result()
                if progress is not None:
                    progress(Progress(len(results), total or len(results), time.monotonic() - started, what))
    finally:
        pool.shutdown(cancel_futures=True)

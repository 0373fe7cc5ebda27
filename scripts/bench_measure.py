"""What the benchmarks measure with: calls in turns, peak memory of a fresh process, Markdown tables, the machine."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from trifold.common.precision import multiplies_bfloat16
from trifold.common.weights import write_json

Name = TypeVar("Name", bound=Hashable)
Make = Callable[[], Callable[[], Any]]
"""Builds everything that one call needs, and returns the call."""


@dataclass(frozen=True)
class Table:
    """Rows of named values; None is nothing to say."""

    name: str
    title: str
    rows: list[dict[str, Any]]

    def markdown(self) -> str:
        """The table under its title."""
        columns = list(self.rows[0])
        lines = [columns, ["---" if isinstance(v, str) else "---:" for v in self.rows[0].values()]]
        lines += [[_cell(row[column]) for column in columns] for row in self.rows]
        return "\n".join([f"\n### {self.title}\n", *("| " + " | ".join(line) + " |" for line in lines)])


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, and what the last call returned."""

    fastest: float
    median: float
    result: Any


def interleaved(
    runs: Mapping[Name, Callable[[], Any]], repeats: int, device: str, *, warm_up: bool = True
) -> dict[Name, Timing]:
    """Every run `repeats` times, in turns."""
    times: dict[Name, list[float]] = {name: [] for name in runs}
    results = {name: run() for name, run in runs.items()} if warm_up else {}
    for _ in range(repeats):
        for name, run in runs.items():
            _finish(device)
            start = time.perf_counter()
            results[name] = run()
            _finish(device)
            times[name].append(time.perf_counter() - start)
    return {name: Timing(min(own), statistics.median(own), results[name]) for name, own in times.items()}


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_rss() -> int:
    """The most memory this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would survive exec and so tell the parent's peak
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def forget_peak() -> None:
    """Give back what is free and let `peak_rss` start from what is held now, where the system can (Linux)."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def memory(make: Make, device: str, threads: int) -> dict[str, Any]:
    """Memory in GiB of a process after a first call, and the peak of two more; on CUDA, of its tensors.

    The first call brings what no call gives back: code and buffers of the libraries, an optimizer's state.
    """
    torch.set_num_threads(threads)
    run = make()
    run()
    forget_peak()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device == "cuda" else peak_rss()
    for _ in range(2):
        run()
    after = torch.cuda.max_memory_allocated() if device == "cuda" else peak_rss()
    return {"before GiB": before / 2**30, "peak GiB": after / 2**30, "growth GiB": (after - before) / 2**30}


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """What the function returns in a new interpreter, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def difference(ours: Tensor, plain: Tensor) -> float:
    """Largest absolute difference, relative to the largest entry where that is above 1."""
    return float((ours.double() - plain.double()).abs().max() / plain.double().abs().max().clamp(min=1))


def normal(*shape: int, seed: int, device: str) -> Tensor:
    """Standard normal numbers, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def autocast(dtype: str, device: str) -> torch.autocast:
    """bfloat16 products, or nothing for float32."""
    return torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")


def dtypes(device: str) -> tuple[str, ...]:
    """What is worth measuring there: bfloat16 only where there are units for it; its imitation says nothing of either
    version."""
    return ("float32", "bfloat16") if multiplies_bfloat16(device) else ("float32",)


def use_threads(threads: int) -> int:
    """Give torch so many CPU threads (0: its own choice); returns how many there are."""
    if threads:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def report(flags: Any, tables: Iterable[Table]) -> None:
    """Print the machine, and the tables as they come; write all of it where `flags.json` says so.

    flags: the benchmark's, a dataclass with `threads` and `json`.
    """
    facts, found = machine(flags.threads), []
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    for table in tables:
        print(table.markdown(), flush=True)
        found.append(dataclasses.asdict(table))
    if flags.json is not None:
        write_json(flags.json, {"machine": facts, "flags": dataclasses.asdict(flags), "tables": found})


def cpu_facts() -> dict[str, str]:
    """What the system says of its processor, by name; empty where it says nothing."""
    info = Path("/proc/cpuinfo")
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line) if info.is_file() else {}
    return {name.strip(): value.strip() for name, value in lines.items()}


def has_amx() -> bool:
    """Whether the processor has tiles for bfloat16 matrices."""
    return "amx_bf16" in cpu_facts().get("flags", "").split()


def machine(threads: int) -> dict[str, Any]:
    """Hardware and versions."""
    facts = cpu_facts()
    flags = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in facts.get("flags", "").split()]
    versions = {name: importlib.metadata.version(name) for name in ("trifold", "torch", "numpy", "scipy", "POT")}
    return {
        "cpu": f"{facts.get('model name', platform.processor())}, {os.cpu_count()} cores",
        "vectors": ", ".join([torch.backends.cpu.get_cpu_capability(), *flags]),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "threads": threads,
        "load at the start": os.getloadavg()[0],
        "versions": ", ".join(f"{n} {v}" for n, v in {"Python": platform.python_version(), **versions}.items()),
    }

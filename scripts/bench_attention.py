"""Time every attention backend that runs here, forward and backward, on the layouts the heads use.

    python scripts/bench_attention.py                       # CUDA when there is one, else smaller shapes on the CPU
    python scripts/bench_attention.py --device cpu --dtypes float32 --only plans

Each line says how often faster a backend is than "dense", the formula over the whole [M, N] mask, in the same run.
TFLOP/s counts only the scores a layout allows; GB/s counts q, k, v, the output and their gradients once each.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
import tyro
from bench_measure import dtypes
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from trifold.common.attention import SegmentLayout, attend, dense_mask

BACKENDS = ("xformers", "varlen", "sdpa", "flex", "dense")
FUSED = {
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
    "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa math": SDPBackend.MATH,
}


@dataclass(frozen=True)
class Bench:
    """Flags of the benchmark."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    dtypes: tuple[str, ...] = ()
    """By default float32, and bfloat16 where the device has units for it."""
    only: str = ""
    """Run only the cases whose name contains this."""
    seconds: float = 0.4
    """Time to spend on each measurement, after one warm-up call."""
    dense_limit_gb: float = 0.0
    """Skip "dense" where its scores would be larger than this; 0: 1 GB on the CPU, 16 GB on CUDA."""
    threads: int = 0
    """CPU threads; 0: torch's choice."""


@dataclass(frozen=True)
class Case:
    """q [batch, M, heads, dim] under ``layout``; ``parts`` are the samples of a pack, for the padded baseline."""

    name: str
    layout: SegmentLayout
    batch: int
    heads: int
    dim: int
    parts: tuple[SegmentLayout, ...] = field(default=())

    @property
    def pairs(self) -> int:
        """Query-key pairs that the layout allows, in the whole batch."""
        layout = self.layout
        reads = (q * sum(layout.k_lens[j] for j in set(e)) for q, e in zip(layout.q_lens, layout.edges, strict=True))
        return self.batch * sum(reads)


def floorplans(number: int, heads: int, dim: int) -> Iterator[Case]:
    """Packed plans of 6 to 12 rooms and doors with 4 to 12 corners each: the three layouts of HouseDiffusion."""
    rng, samples = random.Random(0), []
    for _ in range(number):
        lens = [rng.randint(4, 12) for _ in range(rng.randint(6, 12))]
        neighbours: list[set[int]] = [set() for _ in lens]
        for i in range(1, len(lens)):
            for j in {rng.randrange(i), rng.randrange(i)}:
                neighbours[i].add(j)
                neighbours[j].add(i)
        graph = SegmentLayout.graph(lens, [sorted(n) for n in neighbours])
        samples.append((SegmentLayout.diagonal(lens), graph, SegmentLayout.full(sum(lens))))
    for name, parts in zip(("rooms", "doors", "whole"), zip(*samples, strict=True), strict=True):
        yield Case(f"{number} plans, {name}", SegmentLayout.stack(parts), 1, heads, dim, parts)


def cases(cuda: bool) -> Iterator[Case]:
    """The shapes that matter, or small ones in their image for the CPU."""
    diagonal, causal, temporal = SegmentLayout.diagonal, SegmentLayout.sparse_causal, SegmentLayout.temporal
    if cuda:
        yield Case("SD 64x64 spatial, 16 frames", diagonal([4096] * 16), 1, 8, 40)
        yield Case("SD 64x64 sparse-causal, 16 frames", causal(16, 4096), 1, 8, 40)
        yield Case("SD 64x64 temporal, 24 frames", temporal(24, 4096), 2, 8, 40)
        yield Case("SD 64x64 text, 16 frames", SegmentLayout.cross([4096] * 16, [77]), 1, 8, 40)
        yield Case("DiT-XL 16x16, 32 images", SegmentLayout.full(256), 32, 16, 72)
        yield Case("clouds 2048, 32", SegmentLayout.full(2048), 32, 8, 64)
        yield Case("clouds 512..2048, 32 packed", diagonal([512 + 48 * i for i in range(32)]), 1, 8, 64)
        yield from floorplans(512, 4, 128)
        return
    yield Case("SD 16x16 spatial, 8 frames", diagonal([256] * 8), 1, 8, 40)
    yield Case("SD 16x16 sparse-causal, 8 frames", causal(8, 256), 1, 8, 40)
    yield Case("SD 16x16 temporal, 8 frames", temporal(8, 256), 1, 8, 40)
    yield Case("clouds 128..512, 4 packed", diagonal([128, 256, 384, 512]), 1, 4, 64)
    yield from floorplans(32, 4, 32)


def tensors(shape: tuple[int, ...], device: str, dtype: torch.dtype, number: int) -> list[Tensor]:
    """Normal random leaves."""
    return [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(number)]


def runs(case: Case, bench: Bench, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    """(name, forward and backward) of every way to compute the case."""
    layout, tail = case.layout, (case.heads, case.dim)
    (q,) = tensors((case.batch, layout.num_queries, *tail), bench.device, dtype, 1)
    k, v = tensors((case.batch, layout.num_keys, *tail), bench.device, dtype, 2)
    out_grad = torch.randn_like(q)

    def call(backend: str) -> Callable[[], object]:
        return lambda: torch.autograd.grad(attend(q, k, v, layout, backend=backend), (q, k, v), out_grad)  # type: ignore[arg-type]

    for name in BACKENDS:
        yield name, call(name)
    if bench.device == "cuda":
        for name, kernel in FUSED.items():

            def forced(kernel: SDPBackend = kernel) -> object:
                with sdpa_kernel(kernel):
                    return call("sdpa")()

            yield name, forced
    if case.parts:
        yield "padded sdpa", padded(case, bench, dtype)


def padded(case: Case, bench: Bench, dtype: torch.dtype) -> Callable[[], object]:
    """The usual formulation: every sample padded to the longest, one dense mask each."""
    longest = max(part.num_queries for part in case.parts)
    mask = torch.zeros(len(case.parts), 1, longest, longest, dtype=torch.bool, device=bench.device)
    for row, part in zip(mask, case.parts, strict=True):
        row[0, : part.num_queries, : part.num_keys] = dense_mask(part, bench.device)
    mask[..., 0] |= ~mask.any(-1)
    q, k, v = tensors((len(case.parts), case.heads, longest, case.dim), bench.device, dtype, 3)
    out_grad = torch.randn_like(q)
    return lambda: torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), (q, k, v), out_grad)


def milliseconds(run: Callable[[], object], bench: Bench) -> float:
    """Median time of one call."""
    synchronise = torch.cuda.synchronize if bench.device == "cuda" else lambda: None
    times: list[float] = []
    run()
    synchronise()
    end = time.perf_counter() + bench.seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        synchronise()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def main(bench: Bench) -> None:
    """Print one table per case and dtype."""
    if bench.threads:
        torch.set_num_threads(bench.threads)
    cuda = bench.device == "cuda"
    limit = bench.dense_limit_gb or (16.0 if cuda else 1.0)
    where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}; forward and backward, median")
    for case in cases(cuda):
        if bench.only not in case.name:
            continue
        shape = f"[{case.batch}, {case.layout.num_queries}, {case.heads}, {case.dim}]"
        for name in bench.dtypes or dtypes(bench.device):
            dtype: torch.dtype = getattr(torch, name)
            print(f"\n{case.name}  {shape} {name}\n  {'backend':16}{'ms':>10}{'TFLOP/s':>10}{'GB/s':>8}  vs dense")
            report(case, bench, dtype, limit)


def report(case: Case, bench: Bench, dtype: torch.dtype, limit: float) -> None:
    """Time the backends of one case and print their lines."""
    scores = case.batch * case.heads * case.layout.num_queries * case.layout.num_keys * 4 / 1e9
    # 2 products forward and 5 backward, 2 D operations per pair and head each.
    flop = 14 * case.pairs * case.heads * case.dim
    tokens = case.layout.num_queries + case.layout.num_keys
    moved = 4 * case.batch * tokens * case.heads * case.dim * dtype.itemsize
    found: dict[str, float] = {}
    for name, run in runs(case, bench, dtype):
        if name in ("dense", "flex") and scores > limit:
            print(f"  {name:16}{'-':>10}  its scores would take {scores:.1f} GB")
            continue
        try:
            found[name] = milliseconds(run, bench)
        except (RuntimeError, ValueError) as error:
            print(f"  {name:16}{'-':>10}  {str(error).splitlines()[0][:90]}")
    for name, ms in sorted(found.items(), key=lambda item: item[1]):
        ratio = f"{found['dense'] / ms:8.2f}x" if "dense" in found else "       -"
        print(f"  {name:16}{ms:10.3f}{flop / ms / 1e9:10.3f}{moved / ms / 1e6:8.1f} {ratio}")


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))

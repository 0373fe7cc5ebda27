"""Time the point cloud head: Luo & Hu's model against the same network written plainly, both models' samplers, how cost
grows with the number of points, the metrics, and peak memory.

    python scripts/bench_pointcloud.py --threads 1 --json bench.json       # every table, on the CPU and on CUDA
    python scripts/bench_pointcloud.py --only network memory --repeats 9   # some of them
    python scripts/bench_pointcloud.py --quick                             # sizes that say nothing, in seconds

Candidates of a table take turns (A B A B ...), so that a machine that slows down slows all of them. Ratios are of the
fastest times. A difference is max |ours - plain| / max(1, max |plain|), for gradients |ours - plain| / |plain| over all
of them; float32 has to stay within the tolerance, for bfloat16 the plain network's own loss stands beside ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from bench_measure import (
    Table,
    Timing,
    autocast,
    difference,
    dtypes,
    in_fresh_process,
    interleaved,
    memory,
    normal,
    report,
    use_threads,
)
from bench_point_metrics import chamfer_table, emd_tables
from plain_luo_hu import PlainFlowVAE
from torch import Tensor
from trifold.pointcloud import PointDiffusion
from trifold.pointcloud.conditioning import PointCondition
from trifold.pointcloud.luo_hu import FlowVAE, FlowVAEConfig
from trifold.pointcloud.shapes import CATEGORIES
from trifold.pointcloud.training import procedural_small
from trifold.pointcloud.transformer import PointTransformer, Reading

TableName = Literal["network", "chain", "growth", "chamfer", "emd", "memory"]
SINGLE, CHAIN, GRADIENT = 2e-5, 2e-3, 1e-3  # tolerances of one pass, of 100 steps, and of all gradients together
FIRST = ("plain", "float32")
TINY = FlowVAEConfig(latent_dim=16, num_steps=4, flow_depth=2, flow_hidden_dim=16)


@dataclass(frozen=True)
class Bench:
    """Flags of the benchmark."""

    only: tuple[TableName, ...] = ("network", "chain", "growth", "chamfer", "emd", "memory")
    """Which tables."""
    devices: tuple[str, ...] = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    """Where; exact EMD runs on the CPU alone."""
    threads: int = 0
    """CPU threads, of torch and of the metrics; 0: torch's choice."""
    batch: int = 32
    """Clouds of a batch, and of each side of the Chamfer matrix."""
    points: int = 2048
    """Points of a cloud."""
    repeats: int = 5
    """Turns of the short measurements, after a warm-up."""
    long_repeats: int = 2
    """Turns of those that take many seconds: chains, matrices, sets. They have no warm-up."""
    few_steps: int = 20
    """Steps of the short chain; the long one has the T of Luo & Hu."""
    growth_points: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 32768)
    """Cloud sizes of the growth table."""
    full_limit: int = 4096
    """Largest cloud whose points all read each other."""
    emd_clouds: int = 20
    """Clouds of each set of the 1-NNA."""
    emd_points: int = 512
    """Points of each of them."""
    json: Path | None = None
    """Also write everything here."""
    quick: bool = False
    """Tiny sizes and nets, for a test of this program."""

    def sized(self) -> Bench:
        """The flags with their tiny sizes where `quick` asks for them."""
        if not self.quick:
            return self
        small = {"batch": 4, "points": 24, "repeats": 1, "long_repeats": 1, "few_steps": 2, "emd_clouds": 3}
        return dataclasses.replace(self, **small, growth_points=(32, 64, 128), full_limit=64, emd_points=16)

    @property
    def model(self) -> FlowVAEConfig:
        """Sizes of Luo & Hu's model."""
        return TINY if self.quick else FlowVAEConfig()


# ------------------------------------------------------------------------------------- Luo & Hu against plain modules


def build(version: str, bench: Bench, device: str) -> FlowVAE | PlainFlowVAE:
    """The generator in one of two versions with the same weights."""
    torch.manual_seed(0)
    model = FlowVAE(bench.model).to(device)
    return model if version == "ours" else PlainFlowVAE.like(model)


class TrainingStep:
    """Forward, backward, clipping and AdamW on one batch."""

    def __init__(self, version: str, dtype: str, bench: Bench, device: str) -> None:
        self.model, self.dtype, self.device = build(version, bench, device).train(), dtype, device
        self.weights = [weight for _, weight in sorted(self.model.named_parameters())]
        self.optimizer = torch.optim.AdamW(self.weights, lr=2e-3)
        points, noise = (normal(bench.batch, bench.points, 3, seed=seed, device=device) for seed in (1, 2))
        t = torch.arange(bench.batch, device=device) % bench.model.num_steps + 1
        self.batch = points, t, noise, normal(bench.batch, bench.model.latent_dim, seed=3, device=device)

    def gradient(self) -> Tensor:
        """The gradient of all weights as one vector."""
        self._backward()
        return torch.cat([weight.grad.flatten() for weight in self.weights if weight.grad is not None])

    def __call__(self) -> None:
        """One step."""
        self._backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 10.0)
        self.optimizer.step()

    def _backward(self) -> None:
        self.optimizer.zero_grad()
        with autocast(self.dtype, self.device):
            loss = self.model(*self.batch)
        (loss if isinstance(loss, Tensor) else loss.total).backward()


def denoising_step(version: str, dtype: str, bench: Bench, device: str) -> Callable[[], Tensor]:
    """The predicted noise of one batch at one noise level, the latents being those of a whole chain."""
    model = build(version, bench, device).eval()
    x = normal(bench.batch, bench.points, 3, seed=1, device=device)
    z = normal(bench.batch, bench.model.latent_dim, seed=2, device=device)
    beta = torch.full((bench.batch,), 0.01, device=device)
    with torch.no_grad():
        told = model.net.embed(z) if isinstance(model, FlowVAE) else z

    @torch.no_grad()
    def step() -> Tensor:
        with autocast(dtype, device):
            return model.net(x, beta, told)

    return step


def candidates(device: str) -> list[tuple[str, str]]:
    """Both versions in every precision that is worth measuring there, `FIRST` first."""
    return [(version, dtype) for version in ("plain", "ours") for dtype in dtypes(device)]


def network_table(bench: Bench, device: str) -> Table:
    """Training step and denoising step, both versions in every precision."""
    rows = []
    steps = {c: TrainingStep(*c, bench, device) for c in candidates(device)}
    gradients = {c: step.gradient().double() for c, step in steps.items()}
    plain = gradients[FIRST]
    errors = {c: float((own - plain).norm() / plain.norm()) for c, own in gradients.items()}
    rows += _versions("training step", interleaved(steps, bench.repeats, device), errors, GRADIENT)
    del steps, gradients
    timings = interleaved({c: denoising_step(*c, bench, device) for c in candidates(device)}, bench.repeats, device)
    errors = {c: difference(own.result, timings[FIRST].result) for c, own in timings.items()}
    rows += _versions("denoising step", timings, errors, SINGLE)
    title = f"Luo & Hu's network, {bench.batch} clouds of {bench.points} points, {device}"
    return Table("network", title, rows)


def _versions(
    what: str, timings: Mapping[tuple[str, str], Timing], errors: Mapping[tuple[str, str], float], tolerance: float
) -> Iterator[dict[str, Any]]:
    """Rows of the candidates, the plain network in float32 first."""
    for candidate, timing in timings.items():
        checked = candidate == ("ours", "float32")
        yield {
            "what": what,
            "version": ", ".join(candidate),
            "fastest s": timing.fastest,
            "median s": timing.median,
            "times plain float32": timings[FIRST].fastest / timing.fastest,
            "difference": None if candidate == FIRST else errors[candidate],
            "tolerance": tolerance if checked else None,
            "within": errors[candidate] <= tolerance if checked else None,
        }


# ------------------------------------------------------------------------------------------------- whole chains, size


def chain_table(bench: Bench, device: str) -> Table:
    """Seconds per cloud, from the prior's noise to points."""
    long, few = bench.model.num_steps, bench.few_steps
    w = normal(bench.batch, bench.model.latent_dim, seed=4, device=device)
    plain, ours = build("plain", bench, device).eval(), build("ours", bench, device).eval()
    transformer = point_diffusion().to(device)
    assert isinstance(plain, PlainFlowVAE)
    assert isinstance(ours, FlowVAE)

    def faithful(steps: int, dtype: Any) -> Tensor:
        sampler = "ddpm" if steps == long else "ddim"
        generator = torch.Generator(device).manual_seed(5)
        with torch.no_grad():
            z = ours.from_prior(w)
        return ours.decode(z, bench.points, generator=generator, sampler=sampler, steps=steps, precision=dtype)

    def by_modules(dtype: str) -> Tensor:
        with autocast(dtype, device):
            return plain.sample(w, bench.points, torch.Generator(device).manual_seed(5))

    def transformed(steps: int, dtype: str) -> None:
        with autocast(dtype, device):
            transformer.generate(bench.batch, bench.points, steps=steps)

    runs: dict[tuple[str, int, str], Callable[[], Any]] = {}
    for dtype in dtypes(device):
        runs["plain", long, dtype] = partial(by_modules, dtype)
        runs["ours", long, dtype] = partial(faithful, long, dtype)
        runs["ours, ddim", few, dtype] = partial(faithful, few, dtype)
        runs["PointTransformer, ddim", few, dtype] = partial(transformed, few, dtype)
        runs["PointTransformer, ddim", long, dtype] = partial(transformed, long, dtype)
    timings = interleaved(runs, bench.long_repeats, device, warm_up=False)
    first = timings["plain", long, "float32"]
    rows = []
    for (version, steps, dtype), timing in timings.items():
        same = version in ("plain", "ours") and timing is not first
        error = difference(timing.result, first.result) if same else None
        checked = same and dtype == "float32"
        rows.append(
            {
                "version": version,
                "dtype": dtype,
                "steps": steps,
                "fastest s per cloud": timing.fastest / bench.batch,
                "median s per cloud": timing.median / bench.batch,
                "times plain float32": first.fastest / timing.fastest,
                "difference": error,
                "tolerance": CHAIN if checked else None,
                "within": error <= CHAIN if checked and error is not None else None,
            }
        )
    return Table("chain", f"Sampling {bench.batch} clouds of {bench.points} points, {device}", rows)


def point_diffusion() -> PointDiffusion:
    """The shipped model's shape with random weights."""
    torch.manual_seed(0)
    return PointDiffusion(dataclasses.replace(procedural_small().model, class_names=CATEGORIES))


def growing_step(reading: Reading, num_points: int, device: str) -> Callable[[], Tensor]:
    """One call of the point transformer on one cloud."""
    shape = procedural_small().model
    torch.manual_seed(0)
    config = dataclasses.replace(shape.net, reading=reading)
    net = PointTransformer(config, num_classes=len(CATEGORIES), latent_dim=shape.latent_dim).to(device).eval()
    x, t = normal(1, num_points, 3, seed=1, device=device), torch.full((1,), 0.5, device=device)
    labels = torch.zeros(1, dtype=torch.long, device=device)
    cond = PointCondition(labels, normal(1, shape.latent_dim, seed=2, device=device))

    @torch.no_grad()
    def step() -> Tensor:
        return net(x, t, cond)

    return step


def growth_table(bench: Bench, device: str) -> Table:
    """Seconds and memory of one denoising step of one cloud of many sizes; exponents between one size and the next."""
    rows, before = [], dict[str, tuple[int, float]]()
    readings: tuple[Reading, ...] = ("latents", "local", "full")
    for size in bench.growth_points:
        allowed = [reading for reading in readings if reading != "full" or size <= bench.full_limit]
        timings = interleaved({r: growing_step(r, size, device) for r in allowed}, bench.repeats, device)
        for reading, timing in timings.items():
            smaller, seconds = before.get(reading, (size, timing.fastest))
            steeper = math.log(timing.fastest / seconds) / math.log(size / smaller) if smaller != size else None
            before[reading] = size, timing.fastest
            held = in_fresh_process(memory, partial(growing_step, reading, size, device), device, bench.threads)
            row = {"reading": reading, "points": size, "fastest s": timing.fastest, "median s": timing.median}
            rows.append({**row, "exponent": steeper, **held})
    rows.sort(key=lambda row: readings.index(row["reading"]))
    return Table("growth", f"A denoising step of PointTransformer, one cloud, {device}", rows)


def memory_table(bench: Bench, device: str) -> Table:
    """Peak memory of the training step, each in a process of its own."""
    rows = []
    for candidate in candidates(device):
        held = in_fresh_process(memory, partial(TrainingStep, *candidate, bench, device), device, bench.threads)
        rows.append({"training step": ", ".join(candidate), **held})
    return Table("memory", f"Peak memory, {bench.batch} clouds of {bench.points} points, {device}", rows)


# ---------------------------------------------------------------------------------------------------------------- run


def tables(bench: Bench) -> Iterator[Table]:
    """What was asked for, each as soon as it is there."""
    ours = {"network": network_table, "chain": chain_table, "growth": growth_table, "memory": memory_table}
    for name in bench.only:
        if name == "emd":
            sets = bench.emd_clouds, bench.emd_points
            yield from emd_tables(bench.points, *sets, repeats=bench.long_repeats, workers=bench.threads)
            continue
        for device in bench.devices:
            if name == "chamfer":
                size = bench.batch, bench.points
                yield chamfer_table(*size, device, repeats=bench.long_repeats, workers=bench.threads)
            else:
                yield ours[name](bench, device)


def main(flags: Bench) -> None:
    """Print the tables as they come."""
    bench = dataclasses.replace(flags.sized(), threads=use_threads(flags.threads))
    torch.backends.cudnn.allow_tf32 = False  # convolutions would else round where matrix products do not
    report(bench, tables(bench))


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))

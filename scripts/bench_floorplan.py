"""Time the floorplan head: the packed network against the same network written plainly, whole plans at few steps and at
many, how cost grows with rooms and corners, and peak memory.

    python scripts/bench_floorplan.py --threads 1 --json bench.json     # every table, on the CPU and on CUDA
    python scripts/bench_floorplan.py --only network --rooms 9 10       # one of them, larger plans
    python scripts/bench_floorplan.py --quick                           # sizes that say nothing, in seconds

Candidates of a table take turns (A B A B ...), so that a machine that slows down slows all of them. Ratios are of the
fastest times. Each step of the network has a process of its own, as in use: training leaves memory behind that one
which only samples has to ask the system for. `plain` is `plain_house_diffusion.py`: rows padded to 100 slots, dense
masks, and, as in the published program, the discrete branch for every plan at every step; `plain, bits where used` runs
that branch only where the packed network does, and so shows what padding and masks alone cost. Everything that training
reads is drawn and packed beforehand, but each step gets a batch never seen before, as a training run does; the steps of
a sampling run share one condition.

A difference is max |packed - plain| / max(1, max |plain|) of corners, with decoded bits the share of coordinates that
decode differently, and for gradients |packed - plain| / |plain| over all of them, without dropout; float32 has to stay
within the tolerance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from bench_floorplan_plans import drawing_table, finishing_table, plans_table
from bench_measure import (
    Table,
    Timing,
    autocast,
    difference,
    dtypes,
    has_amx,
    in_fresh_process,
    interleaved,
    memory,
    normal,
    report,
    use_threads,
)
from plain_house_diffusion import SLOTS, PaddedPlans, PlainHouse, padded
from torch import Tensor, nn
from trifold.floorplan import HouseDiffusion
from trifold.floorplan.checkpoint import rename_key
from trifold.floorplan.dataset import PlanBatch, PlanSample, collate, sample_from_plan
from trifold.floorplan.evaluation import asked_of
from trifold.floorplan.model import HouseDiffusionConfig
from trifold.floorplan.plan import Plan
from trifold.floorplan.procedural import HELD_OUT_START, ProceduralConfig, ProceduralPlans

TableName = Literal["network", "memory", "plans", "drawing", "finishing"]
Version = Literal["plain", "plain, bits where used", "packed"]
Candidate = tuple[Version, str]
VERSIONS: tuple[Version, ...] = ("plain", "plain, bits where used", "packed")
FIRST: Candidate = ("plain", "float32")
SINGLE, GRADIENT, FLIPPED = 2e-5, 1e-3, 1e-3  # tolerances of corners, of all gradients together, of decoded corners
TRAINING, DENOISING, WITH_AMX, MEMORY = 2.5, 3.0, 6.0, 0.5  # wanted: times plain, times plain float32, share of it
BITS_BELOW = 10  # plans noised less than this train their bits, as published
CONTINUOUS, DECODED = 500, 10  # times of the denoising steps; below 32 bits are decoded
TINY = HouseDiffusionConfig(width=32, num_layers=1, dropout=0.0)


@dataclass(frozen=True)
class Bench:
    """Flags of the benchmark."""

    only: tuple[TableName, ...] = ("network", "memory", "plans", "drawing", "finishing")
    """Which tables."""
    devices: tuple[str, ...] = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    """Where; finishing runs on the CPU alone."""
    threads: int = 0
    """CPU threads; 0: torch's choice."""
    batch: int = 32
    """Plans of a batch."""
    rooms: tuple[int, int] = (4, 9)
    """Least and most rooms of the plans of a batch (3 to 10); those with more corners than slots are left out."""
    repeats: int = 5
    """Turns of every measurement but whole plans, after a warm-up."""
    few_steps: int = 20
    """Steps of the short chains."""
    many_steps: int = 1000
    """Steps of the long one."""
    run_steps: int = 1000
    """Of the long chain, run so many; if these are fewer, its time is scaled up and the table says so."""
    room_counts: tuple[int, ...] = (5, 10, 20, 40)
    """Sizes of the tables that show how cost grows."""
    corners: int = 300
    """Corners of the plan with few rooms and many corners."""
    json: Path | None = None
    """Also write everything here."""
    quick: bool = False
    """Tiny sizes and nets, for a test of this program."""

    def sized(self) -> Bench:
        """The flags with their tiny sizes where `quick` asks for them."""
        if not self.quick:
            return self
        small = {"batch": 3, "repeats": 1, "few_steps": 2, "run_steps": 4, "room_counts": (4, 8), "corners": 60}
        return dataclasses.replace(self, **small)

    @property
    def model(self) -> HouseDiffusionConfig:
        """Shape of the network."""
        return TINY if self.quick else HouseDiffusionConfig()

    def shipped(self, device: str) -> HouseDiffusion:
        """The model that draws whole plans."""
        if self.quick:
            return HouseDiffusion(dataclasses.replace(TINY, index_encoding="sincos")).to(device)
        return HouseDiffusion.from_pretrained("procedural").to(device)

    def plans(self, number: int, start: int = 0) -> list[Plan]:
        """Procedural plans that fit a padded row."""
        source = ProceduralPlans(ProceduralConfig(num_rooms=self.rooms), start)
        drawn = (source[i] for i in count())
        fitting = (plan for plan in drawn if sum(len(node.polygon) for node in plan.nodes) <= SLOTS)
        return [next(fitting) for _ in range(number)]

    @cached_property
    def samples(self) -> list[PlanSample]:
        """One batch of training samples."""
        rng = np.random.default_rng(0)
        return [sample_from_plan(plan, None, rng, self.model.frame_metres) for plan in self.plans(self.batch)]

    @property
    def padding(self) -> str:
        """How much of a padded batch is padding, in words."""
        corners = sum(len(sample.x0) for sample in self.samples) / self.batch
        return f"{self.batch} plans of {corners:.0f} corners ({1 - corners / SLOTS:.0%} padding in rows of {SLOTS})"


# ------------------------------------------------------------------------------------------------ packed against plain


def build(version: Version, bench: Bench, device: str) -> HouseDiffusion | PlainHouse:
    """The network in one of its versions, with the same weights."""
    torch.manual_seed(0)
    model = HouseDiffusion(bench.model).to(device)
    return model if version == "packed" else PlainHouse.like(model.net, lazy_bits=version != "plain")


class TrainingStep:
    """Forward, backward, clipping and AdamW, every time on a batch whose tables have yet to be made."""

    def __init__(self, version: Version, dtype: str, bench: Bench, device: str) -> None:
        self.model, self.dtype, self.device = build(version, bench, device).train(), dtype, device
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        # One for the gradient, one to warm up, one for each turn (memory: three calls).
        self.batches = [collate(bench.samples).to(device) for _ in range(max(bench.repeats + 2, 3))]
        lens = self.batches[0].cond.plan_lens
        self.t = torch.arange(bench.batch, device=device) * bench.model.num_train_steps // bench.batch
        self.noise = normal(1, sum(lens), 2, seed=1, device=device).double()
        if version != "packed":  # what a loader of padded plans would hand over
            self.x0, self.noise = padded(self.batches[0].x0, lens), padded(self.noise, lens)
            self.plans = PaddedPlans.of(self.batches[0].cond)
            self.batches = []

    def gradient(self) -> Tensor:
        """The gradient of all weights as one vector, in one order for all versions, without dropout."""
        self.model.eval()
        self._backward()
        self.model.train()
        packed = isinstance(self.model, HouseDiffusion)
        named = {
            (name.removeprefix("net.") if packed else rename_key(name)): weight.grad
            for name, weight in self.model.named_parameters()
        }
        return torch.cat([grad.flatten() for _, grad in sorted(named.items()) if grad is not None])

    def __call__(self) -> None:
        """One step."""
        self._backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def _backward(self) -> None:
        self.optimizer.zero_grad()
        with autocast(self.dtype, self.device):
            if isinstance(self.model, HouseDiffusion):
                loss = self.model(self.batches.pop(), self.t, self.noise, BITS_BELOW).total()
            else:
                loss = self.model.loss(self.x0, self.t, self.noise, self.plans, BITS_BELOW)
        loss.backward()


def denoising_step(version: Version, dtype: str, t: int, bench: Bench, device: str) -> Callable[[], Tensor]:
    """The estimate of the clean corners of one batch at one time, as a padded row."""
    model = build(version, bench, device).eval()
    batch: PlanBatch = collate(bench.samples).to(device)
    lens = batch.cond.plan_lens
    x = normal(1, sum(lens), 2, seed=1, device=device).double()
    if isinstance(model, PlainHouse):
        plans, rows = PaddedPlans.of(batch.cond), padded(x, lens)

        @torch.no_grad()
        def plain() -> Tensor:
            with autocast(dtype, device):
                return model.denoise(rows, t, plans)[plans.valid]

        return plain
    denoiser = model.denoiser()
    with torch.no_grad():
        cond = model.net.embed(batch.cond)

    @torch.no_grad()
    def step() -> Tensor:
        with autocast(dtype, device):
            return denoiser(x, t, cond)[0]

    return step


def candidates(device: str) -> tuple[Candidate, ...]:
    """Every version in every precision that is worth measuring there, `FIRST` first."""
    return tuple((version, dtype) for dtype in dtypes(device) for version in VERSIONS)


def network_table(bench: Bench, device: str) -> Table:
    """Training step and two denoising steps, every version in every precision."""
    rows = [row for t in (None, CONTINUOUS, DECODED) for row in in_fresh_process(network_rows, t, bench, device)]
    return Table("network", f"The network, {bench.padding}, {device}", rows)


def network_rows(t: int | None, bench: Bench, device: str) -> list[dict[str, Any]]:
    """Rows of the denoising step at time t, None: of the training step."""
    use_threads(bench.threads)
    if t is None:
        steps = {c: TrainingStep(*c, bench, device) for c in candidates(device)}
        gradients = {c: step.gradient().double() for c, step in steps.items()}
        plain = gradients[FIRST]
        errors = {c: float((own - plain).norm() / plain.norm()) for c, own in gradients.items()}
        timings = interleaved(steps, bench.repeats, device)
        return list(_versions("training step", timings, errors, GRADIENT, TRAINING))
    timings = interleaved({c: denoising_step(*c, t, bench, device) for c in candidates(device)}, bench.repeats, device)
    first = timings[FIRST].result
    if t == CONTINUOUS:
        errors = {c: difference(own.result, first) for c, own in timings.items()}
        return list(_versions("denoising step", timings, errors, SINGLE, DENOISING))
    errors = {c: float((own.result != first).double().mean()) for c, own in timings.items()}
    return list(_versions("denoising step, bits decoded", timings, errors, FLIPPED, None))


def _versions(
    what: str,
    timings: Mapping[Candidate, Timing],
    errors: Mapping[Candidate, float],
    tolerance: float,
    wanted: float | None,
) -> Iterator[dict[str, Any]]:
    """Rows of the candidates. What is wanted is a ratio to the plain network in the same precision; for bfloat16 it is
    one to plain float32, and only where the processor multiplies bfloat16 matrices (AMX) or on a GPU."""
    for (version, dtype), timing in timings.items():
        in_kind = timings["plain", dtype].fastest / timing.fastest
        ratio = timings[FIRST].fastest / timing.fastest
        checked, goal, reached = (version, dtype) == ("packed", "float32"), None, None
        if version == "packed" and wanted is not None:
            goal, reached = (wanted, in_kind) if dtype == "float32" else (WITH_AMX if has_amx() else None, ratio)
        yield {
            "what": what,
            "version": version,
            "dtype": dtype,
            "fastest s": timing.fastest,
            "median s": timing.median,
            "times plain": in_kind,
            "times plain float32": ratio,
            "wanted": goal,
            "reached": None if goal is None or reached is None else reached >= goal,
            "difference": None if (version, dtype) == FIRST else errors[version, dtype],
            "tolerance": tolerance if checked else None,
            "within": errors[version, dtype] <= tolerance if checked else None,
        }


def memory_table(bench: Bench, device: str) -> Table:
    """Peak memory of a training step and of a denoising step, each in a process of its own. Shares are of what the step
    adds to what both versions hold alike, libraries and weights: gradients, the optimizer's state, activations."""
    rows = []
    for what in ("training step", "denoising step"):
        plain: dict[str, float] = {}
        for version, dtype in candidates(device):
            step = TrainingStep if what == "training step" else partial(denoising_step, t=CONTINUOUS)
            make = partial(step, version, dtype, bench=bench, device=device)
            held = in_fresh_process(memory, make, device, bench.threads)
            first = plain.setdefault(dtype, held["growth GiB"])
            share = held["growth GiB"] / first if first > 0 else None
            wanted = MEMORY if version == "packed" else None
            reached = None if wanted is None or share is None else share <= wanted
            rows.append(
                {"what": what, "version": version, "dtype": dtype, **held}
                | {"of plain's": share, "wanted": wanted, "reached": reached}
            )
    return Table("memory", f"Peak memory, {bench.padding}, {device}", rows)


# ------------------------------------------------------------------------------------------------------- whole plans


def whole_plans(bench: Bench, device: str) -> Table:
    """`plans_table` of these flags, on diagrams no model was trained on."""
    wanted = [asked_of(plan, sizes=False) for plan in bench.plans(bench.batch, HELD_OUT_START)]
    steps = bench.few_steps, bench.many_steps
    return plans_table(bench.shipped(device), wanted, *steps, run_steps=bench.run_steps, device=device)


def large_drawings(bench: Bench, device: str) -> Table:
    """`drawing_table` of these flags; numbers of rooms beyond 31 need another code than the published one."""
    return drawing_table(
        bench.shipped(device),
        dataclasses.replace(bench.model, index_encoding="sincos"),
        bench.room_counts,
        bench.corners,
        steps=bench.few_steps,
        device=device,
        repeats=bench.repeats,
        threads=bench.threads,
    )


# ---------------------------------------------------------------------------------------------------------------- run


def tables(bench: Bench) -> Iterator[Table]:
    """What was asked for, each as soon as it is there."""
    ours = {"network": network_table, "memory": memory_table, "plans": whole_plans, "drawing": large_drawings}
    for name in bench.only:
        if name == "finishing":
            sizes = bench.room_counts, bench.corners
            yield finishing_table(bench.shipped("cpu"), *sizes, repeats=bench.repeats, threads=bench.threads)
            continue
        for device in bench.devices:
            yield ours[name](bench, device)


def main(flags: Bench) -> None:
    """Print the tables as they come."""
    bench = dataclasses.replace(flags.sized(), threads=use_threads(flags.threads))
    report(bench, tables(bench))


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))

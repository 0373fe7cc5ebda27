"""`HouseDiffusion`: bubble diagrams in, vector floorplans out."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor
from tyro.conf import Suppress

from ..common.diffusion import OnStep, Sampler, Step, ancestral, ddim, from_diffusers, scheduler_for
from ..common.nn import bits_to_coords, quantised_bits
from ..common.pretrained import PretrainedModel
from .dataset import PlanBatch, draw_corners
from .diagram import BubbleDiagram
from .errors import FloorplanError, FloorplanWarning
from .network import HouseNet, HouseNetConfig
from .plan import RPLAN_FRAME, Node, Plan
from .process import HouseDenoiser, HouseLoss, few_step_times, house_losses, house_path
from .tokens import PlanCondition, PlanSpec, pack

SamplerName = Literal["ddpm", "ddpm-large", "ddim", "dpmsolver++", "sde-dpmsolver++"]


@dataclass(frozen=True)
class HouseDiffusionConfig(HouseNetConfig):
    """The network and how it is sampled."""

    num_train_steps: int = 1000
    """Steps of the diffusion."""
    discrete_below: int = 32
    """Corners are decoded from bits where the original time is below this."""
    frame_metres: float = 18.0
    """Length that maps to [-1, 1]."""
    corner_counts: Suppress[dict[str, list[int]]] = field(default_factory=dict)
    """Corner counts seen in training, by type and number of doors; drawn from where a diagram names none. Training
    counts them in its data; its command has no flag for them."""


@dataclass(frozen=True)
class PlanRequest:
    """One plan to draw: its diagram, the spec the net is told, and the seed of its noise."""

    diagram: BubbleDiagram
    spec: PlanSpec
    seed: int


class PlanNoise:
    """Standard normal noise for packed plans, each from its own generator: a plan does not depend on its batch."""

    def __init__(self, seeds: Sequence[int], plan_lens: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.plan_lens = tuple(plan_lens)

    def randn_like(self, x: Tensor) -> Tensor:
        """[1, M, C] like x, drawn on the CPU."""
        parts = [
            torch.randn(1, n, x.shape[-1], generator=g, dtype=x.dtype)
            for n, g in zip(self.plan_lens, self.generators, strict=True)
        ]
        return torch.cat(parts, dim=1).to(x.device)


class HouseDiffusion(PretrainedModel):
    """A floorplan generator: `HouseDiffusion.from_pretrained("procedural").generate(diagram)`.

    `from_pretrained` takes a packaged name ("procedural"), a folder written by `save_pretrained`, or a hub id.
    """

    config_class: ClassVar[type] = HouseDiffusionConfig
    packaged: ClassVar[dict[str, str]] = {"procedural": "pretrained/procedural"}
    config: HouseDiffusionConfig

    def __init__(self, config: HouseDiffusionConfig | None = None) -> None:
        super().__init__()
        self.config = config or HouseDiffusionConfig()
        self.net = HouseNet(self.config)
        self.path = house_path(self.config.num_train_steps)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def enable_gradient_checkpointing(self) -> None:
        """Recompute every block's activations in the backward pass."""
        self.net.gradient_checkpointing = True

    def forward(self, batch: PlanBatch, t: Tensor, noise: Tensor, bits_below: int) -> HouseLoss:
        """Training losses of a batch, see `house_losses`."""
        return house_losses(self.net, self.path, batch, t, noise, bits_below=bits_below)

    def denoiser(self, *, discrete: bool = True) -> HouseDenoiser:
        """E[x0 | x_t], with decoded bits at low noise unless `discrete` is False."""
        return HouseDenoiser(self.net, self.path, discrete_below=self.config.discrete_below if discrete else 0)

    def request(self, diagram: BubbleDiagram, seed: int) -> PlanRequest:
        """Settle what the diagram leaves open: corner counts are drawn from those seen in training.

        Warns if the diagram asks for sizes and the model was not trained to hear them. Raises ValueError for a seed
        outside 0 .. 2^63 - 1, and FloorplanError for a room larger than the model's frame.
        """
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed: expected 0 to 2^63 - 1, found {seed}")
        if not self.config.with_sizes and any(room.area or room.size for room in diagram.rooms):
            text = "this model was trained without sizes; the diagram's areas and sizes are ignored"
            warnings.warn(text, FloorplanWarning, stacklevel=2)
        types = diagram.node_types()
        doors = diagram.door_rooms()
        degrees = Counter(room for pair in doors for room in pair if room is not None)
        drawn = draw_corners(
            types, [degrees[i] for i in range(len(types))], self.config.corner_counts, np.random.default_rng(seed)
        )
        side = self.config.frame_metres
        areas, sizes = np.full(len(types), np.nan), np.full((len(types), 2), np.nan)
        for i, room in enumerate(diagram.rooms):
            drawn[i] = room.corners or drawn[i]
            if room.area is not None:
                areas[i] = room.area / side**2
            if room.size is not None:
                sizes[i] = np.asarray(room.size) / side
            for name, share in (("area", areas[i]), ("size", sizes[i].max())):
                if self.config.with_sizes and share > 1:
                    text = f"larger than the {side:g} m x {side:g} m that this model draws"
                    raise FloorplanError(text, source=diagram.name or "diagram", field=f"rooms[{i}].{name}")
        return PlanRequest(diagram, PlanSpec.build(types, drawn, diagram.links(), areas=areas, sizes=sizes), seed)

    def pack(self, requests: Sequence[PlanRequest]) -> PlanCondition:
        """The condition of several requests, on the model's device, its projection computed once."""
        cond = pack(
            [r.spec for r in requests], index_encoding=self.config.index_encoding, with_sizes=self.config.with_sizes
        )
        return self.net.embed(cond.to(self.device))

    def unpack(self, x: Tensor, requests: Sequence[PlanRequest]) -> list[Plan]:
        """Packed corners [1, M, 2] in [-1, 1] -> one plan per request, in RPLAN's 256 units."""
        unit = self.config.frame_metres / RPLAN_FRAME
        points = (x[0].double().cpu().numpy() + 1) * (RPLAN_FRAME / 2)
        plans, start = [], 0
        for request in requests:
            nodes = []
            names = [room.name for room in request.diagram.rooms]
            for i, (kind, count) in enumerate(zip(request.diagram.node_types(), request.spec.corners, strict=True)):
                nodes.append(Node(kind, points[start : start + count], names[i] if i < len(names) else ""))
                start += count
            plan = Plan(tuple(nodes), request.diagram.door_rooms(), metres_per_unit=unit, name=request.diagram.name)
            plans.append(plan)
        return plans

    @torch.no_grad()
    def sample(
        self,
        requests: Sequence[PlanRequest],
        *,
        steps: int = 20,
        sampler: SamplerName | Sampler = "sde-dpmsolver++",
        discrete: bool = True,
        on_step: OnStep | None = None,
        progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
    ) -> list[Plan]:
        """Denoise several requests in one packed row. See `generate` for the arguments."""
        self.check_steps(steps)
        cond = self.pack(requests)
        noise = PlanNoise([r.seed for r in requests], cond.plan_lens)
        x = torch.empty(1, sum(cond.plan_lens), self.config.channels, device=self.device)
        run = sampler_named(sampler, self) if isinstance(sampler, str) else sampler
        denoiser = self.denoiser(discrete=discrete)
        times = few_step_times(self.path, steps, discrete_below=denoiser.discrete_below)
        was_training = self.training
        self.eval()
        try:
            x = run(
                denoiser,
                noise.randn_like(x),
                times,
                cond,
                generator=noise,
                on_step=on_step,
                progress=progress,
            )
        finally:
            self.train(was_training)
        x = self.corners(x)
        if times[-2] < denoiser.discrete_below:
            # Solvers that work in other variables give the decoded corners back with rounding errors.
            x = bits_to_coords(quantised_bits(x))
        return self.unpack(x, requests)

    def check_steps(self, steps: int) -> None:
        """Raise ValueError unless the model can be sampled in so many steps."""
        if not 1 <= steps <= self.config.num_train_steps:
            raise ValueError(f"steps: expected 1 to {self.config.num_train_steps}, found {steps}")

    def corners(self, x: Tensor) -> Tensor:
        """State of the diffusion -> corners [1, M, 2]: itself, or decoded analog bits."""
        return bits_to_coords(x) if self.config.analog_bits else x

    def generate(
        self,
        diagram: BubbleDiagram | Sequence[BubbleDiagram],
        num_plans: int = 1,
        *,
        steps: int = 20,
        sampler: SamplerName | Sampler = "sde-dpmsolver++",
        seed: int = 0,
        discrete: bool = True,
        batch_tokens: int = 8192,
        progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
    ) -> list[Plan]:
        """Draw plans for a bubble diagram, or for several.

        Args:
            diagram: what to draw. For several, plans come back diagram after diagram.
            num_plans: plans per diagram.
            steps: denoising steps, 1 to 1000.
            sampler: "sde-dpmsolver++" (2M; at 20 steps as good as a thousand of ddpm), "ddpm" (ancestral, posterior
                variance), "ddpm-large" (the published variance; give it 1000 steps), "ddim" or "dpmsolver++" (2M), both
                deterministic, or any sampler of the core.
            seed: plan i of a diagram uses seed + i, whatever the batch.
            discrete: decode corners from bits at low noise.
            batch_tokens: corners denoised at once; bounds the memory.
            progress: wraps the steps of all batches, as tqdm does.

        Raises:
            ValueError: a count that is not positive, an unknown sampler, a seed below 0, or a diagram with more rooms
                or corners than a `one_hot` model can number.
        """
        if num_plans < 1:
            raise ValueError(f"num_plans: expected at least 1, found {num_plans}")
        diagrams = [diagram] if isinstance(diagram, BubbleDiagram) else list(diagram)
        requests = [self.request(d, seed + i) for d in diagrams for i in range(num_plans)]
        return self.draw(
            requests, steps=steps, sampler=sampler, discrete=discrete, batch_tokens=batch_tokens, progress=progress
        )

    def draw(
        self,
        requests: Sequence[PlanRequest],
        *,
        steps: int = 20,
        sampler: SamplerName | Sampler = "sde-dpmsolver++",
        discrete: bool = True,
        batch_tokens: int = 8192,
        progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
    ) -> list[Plan]:
        """One plan per request, in batches; see `generate`."""
        parts = batches(requests, batch_tokens)
        done = iter(() if progress is None else progress(range(len(parts) * steps)))

        def counted(items: Sequence[Any]) -> Iterator[Any]:
            for item in items:
                yield item
                next(done, None)

        plans: list[Plan] = []
        for part in parts:
            plans += self.sample(part, steps=steps, sampler=sampler, discrete=discrete, progress=counted)
        return plans

    def frames(
        self,
        diagram: BubbleDiagram,
        *,
        steps: int = 50,
        sampler: SamplerName | Sampler = "sde-dpmsolver++",
        seed: int = 0,
        discrete: bool = True,
    ) -> list[Plan]:
        """The denoising of one plan as steps + 1 plans: first the noise, last what `generate` gives for this seed."""
        request = self.request(diagram, seed)
        states: list[Plan] = []

        def record(step: Step) -> Tensor:
            if not states:
                states.extend(self.unpack(self.corners(step.x_t), [request]))
            states.extend(self.unpack(self.corners(step.x_s), [request]))
            return step.x_s

        states[-1:] = self.sample([request], steps=steps, sampler=sampler, discrete=discrete, on_step=record)
        return states


def batches(requests: Sequence[PlanRequest], batch_tokens: int) -> list[list[PlanRequest]]:
    """Consecutive requests of at most `batch_tokens` corners together (a larger plan comes alone)."""
    out: list[list[PlanRequest]] = []
    room = 0
    for request in requests:
        if not out or request.spec.num_tokens > room:
            out.append([])
            room = batch_tokens
        out[-1].append(request)
        room -= request.spec.num_tokens
    return out


def sampler_named(name: str, model: HouseDiffusion) -> Sampler:
    """The samplers a user can name."""
    if name == "ddpm":
        return ancestral
    if name == "ddpm-large":
        return partial(ancestral, variance="fixed_large")
    if name == "ddim":
        return ddim
    if name in ("dpmsolver++", "sde-dpmsolver++"):
        return from_diffusers(scheduler_for(model.path, DPMSolverMultistepScheduler, algorithm_type=name))
    raise ValueError(f"sampler: expected one of {', '.join(get_args(SamplerName))}, found {name!r}")

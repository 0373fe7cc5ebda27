"""Training HouseDiffusion on procedural plans, on RPLAN files, or on any plans of your own."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..common.diffusion import shifted_time
from ..common.nn import quantised_bits
from ..common.train import SampleNoise, TrainConfig, TrainResult, train
from .dataset import Augmentation, FloorplanDataset, PlanBatch, PlanSource, collate, count_corners
from .evaluation import asked_of, held_out_plans
from .metrics import graph_errors
from .model import HouseDiffusion, HouseDiffusionConfig
from .other_formats import load_plans
from .plan import Plan
from .procedural import ProceduralConfig, ProceduralPlans
from .render import svg_to_png
from .sheet import contact_sheet

CORNER_SAMPLE = 4000  # plans whose corner counts the model remembers


@dataclass(frozen=True)
class FloorplanTraining(TrainConfig):
    """A training run of the floorplan head."""

    pretrained_model: str | None = None
    """Train this one on: a packaged name, a folder or a hub id. Its network stays, whatever `model` says. None: a new
    one."""
    data: str = "procedural"
    """`procedural`, or a json file or folder of plans (RPLAN / House-GAN++ schema, ProcTHOR)."""
    data_split: str | None = None
    """Train on the plans that carry this split only (ProcTHOR: train, val)."""
    num_rooms: tuple[int, int] = ProceduralConfig.num_rooms
    """Least and most rooms of procedural plans (3 to 10)."""
    exclude_rooms: tuple[int, ...] = ()
    """Room counts held out of training, as the paper does with the counts it is evaluated on."""
    bits_below: int = 32
    """Plans noised to an original time below this also train the discrete branch (the original: 10)."""
    low_noise_share: float = 0.15
    """Share of plans whose time is drawn below `bits_below` instead of uniformly (the original: 0)."""
    time_shift: float = 1.0
    """Noise levels of the others times this, see `shifted_time`; below 1 walls and doors are learnt more exactly."""
    discrete_weight: float = 0.1
    """Weight of the discrete branch's loss (the original: 1)."""
    model: HouseDiffusionConfig = field(default_factory=HouseDiffusionConfig)
    """Shape of the network."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """What may be changed in a plan without making it another plan."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, most in (
            ("bits_below", self.bits_below, self.model.num_train_steps),
            ("low_noise_share", self.low_noise_share, 1),
            ("augmentation.drop_sizes", self.augmentation.drop_sizes, 1),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name}: expected 0 to {most}, found {value}")
        if self.time_shift <= 0:
            raise ValueError(f"time_shift: must be positive, found {self.time_shift}")

    @property
    def bits_share(self) -> float:
        """Expected share of plans that train the discrete branch."""
        below = torch.tensor(self.bits_below / self.model.num_train_steps)
        return self.low_noise_share + (1 - self.low_noise_share) * float(shifted_time(below, 1 / self.time_shift))


def procedural_small() -> FloorplanTraining:
    """The shipped model: 3.8 M parameters, trained on procedural plans on one CPU core in bfloat16."""
    return FloorplanTraining(
        output_dir=Path("runs/floorplan-procedural"),
        train_batch_size=32,
        max_train_steps=17_500,
        learning_rate=4e-3,
        lr_scheduler="cosine",
        lr_end=2e-5,
        lr_warmup_steps=200,
        optimizer="muon",
        adam_beta2=0.99,
        mixed_precision="auto",
        use_ema=True,
        ema_decay=0.999,
        ema_power=3 / 4,
        dataloader_num_workers=1,
        exclude_rooms=(8,),
        time_shift=0.35,
        low_noise_share=0.05,
        # Bits are trained, so that `discrete_below` can be raised, but plans are better without: docs/benchmarks.md.
        model=HouseDiffusionConfig(
            width=192,
            dropout=0.0,
            index_encoding="sincos",
            with_sizes=True,
            prediction="v",
            fourier_bands=7,
            discrete_below=0,
        ),
    )


def published() -> FloorplanTraining:
    """The paper's settings: 26.5 M parameters, 250,000 steps of 512 plans, lr 1e-3 divided by 10 every 100,000."""
    return FloorplanTraining(
        output_dir=Path("runs/floorplan-published"),
        train_batch_size=512,
        max_train_steps=250_000,
        learning_rate=1e-3,
        lr_scheduler="multistep",
        lr_decay_steps=100_000,
        adam_weight_decay=0.05,
        use_ema=True,
        ema_power=None,
        bits_below=10,
        low_noise_share=0.0,
        discrete_weight=1.0,
        model=HouseDiffusionConfig(wrap_bits=True),
        augmentation=Augmentation(shuffle_rooms=False, drop_sizes=1.0),
    )


PRESETS = {"procedural-small": procedural_small, "published": published}


def training_plans(config: FloorplanTraining) -> PlanSource:
    """The plans a run trains on, without the held-out room counts."""
    if config.data == "procedural":
        return ProceduralPlans(ProceduralConfig(num_rooms=config.num_rooms, exclude_num_rooms=config.exclude_rooms))
    plans = [p for p in load_plans(config.data, split=config.data_split) if p.num_rooms not in config.exclude_rooms]
    if not plans:
        raise ValueError(f"{config.data}: no plans are left after excluding {config.exclude_rooms} rooms")
    _check_sizes(plans, config)
    return plans


def _check_sizes(plans: Sequence[Plan], config: FloorplanTraining) -> None:
    """Raise ValueError for plans larger than the net's frame, before hours are spent on the others."""
    frame = config.model.frame_metres
    sizes = [np.ptp(np.concatenate([n.polygon for n in p.nodes]), axis=0).max() * p.metres_per_unit for p in plans]
    wide = [i for i, size in enumerate(sizes) if size > frame * (1 + 1e-9)]
    if wide:
        largest = max(wide, key=lambda i: sizes[i])
        raise ValueError(
            f"{config.data}: {len(wide)} of {len(plans)} plans are larger than the {frame:g} m of "
            f"--model.frame-metres; the largest, {plans[largest].name!r}, has {sizes[largest]:.1f} m"
        )


def draw_times(noise: SampleNoise, num_steps: int, config: FloorplanTraining) -> Tensor:
    """[P] original times: uniform but for the shift, and for a share of the plans below `bits_below`."""
    shifted = (num_steps * shifted_time(noise.rand(), config.time_shift)).long()
    low = noise.randint(0, max(config.bits_below, 1))
    return torch.where(noise.rand() < config.low_noise_share, low, shifted)


def training_loss(
    model: nn.Module, batch: PlanBatch, noise: SampleNoise, *, config: FloorplanTraining
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch: denoising, plus the bits of the plans that are nearly clean."""
    t = draw_times(noise, config.model.num_train_steps, config)
    if config.model.analog_bits:
        batch = PlanBatch(quantised_bits(batch.x0, wrap=config.model.wrap_bits), batch.cond)
    eps = noise.randn_packed(batch.cond.plan_lens, batch.x0.shape[-1], dtype=torch.float64)[None]
    losses = model(batch, t, eps, config.bits_below)
    share = config.bits_share
    metrics = {"denoising": losses.continuous.mean().detach()}
    if share and config.model.has_bits:
        metrics["bits"] = losses.discrete.nansum().detach() / (share * len(t))
    return losses.total(config.discrete_weight, share or None).float(), metrics


def run_training(config: FloorplanTraining) -> TrainResult:
    """Train as configured; the final model is written to `output_dir/model`."""
    start = None if config.pretrained_model is None else HouseDiffusion.from_pretrained(config.pretrained_model)
    if start is not None:
        config = dataclasses.replace(config, model=start.config)
    elif config.model.corner_counts:
        raise ValueError("model.corner_counts: they are counted in the data, so none can be given")
    source = training_plans(config)
    sample = [source[i] for i in range(min(len(source), CORNER_SAMPLE))]
    shape = dataclasses.replace(config.model, corner_counts=count_corners(sample))
    torch.manual_seed(config.seed)
    model = HouseDiffusion(shape)
    if start is not None:
        model.load_state_dict(start.state_dict())
    repeat = config.data != "procedural"
    dataset = FloorplanDataset(
        source,
        augmentation=config.augmentation,
        seed=config.seed,
        repeat=repeat,
        frame_metres=config.model.frame_metres,
    )
    return train(
        config,
        model,
        partial(training_loss, config=config),
        dataset,
        collate_fn=partial(collate, index_encoding=shape.index_encoding, with_sizes=shape.with_sizes),
        validate=validate,
    )


def validate(model: nn.Module, step: int) -> dict[str, Any]:
    """Graph errors of 16 plans drawn for held-out diagrams in 20 steps, and a picture of them."""
    assert isinstance(model, HouseDiffusion)
    plans = held_out_plans("procedural", 16)
    wanted = [asked_of(plan, sizes=False) for plan in plans]
    drawn = model.generate(wanted, seed=step)
    errors = [graph_errors(d, w).total for d, w in zip(drawn, wanted, strict=True)]
    picture = Image.open(io.BytesIO(svg_to_png(contact_sheet(drawn, columns=4), 1000))).convert("RGB")
    return {"graph_errors": sum(errors) / len(errors), "plans": torch.from_numpy(np.array(picture))}

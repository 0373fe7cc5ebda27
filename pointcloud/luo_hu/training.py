"""Training the models of Luo & Hu 2021 with the shared loop.

Against the published scripts the data is shuffled, validation runs in eval mode, and a run resumes where it stopped.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...common.train import SampleNoise, TrainConfig, TrainResult, train
from ...common.train.data_order import Sized
from ..errors import PointCloudError
from ..items import CloudItem
from ..normalise import Normalisation, NormalisationMode
from ..sources import PROCEDURAL, open_source
from ..training_data import chosen_indices
from .autoencoder import AutoEncoder, AutoEncoderConfig
from .likelihood import LossConstant
from .vae import KL_WEIGHT, FlowVAE, FlowVAEConfig, GaussianVAE, GaussianVAEConfig

ModelConfig = AutoEncoderConfig | GaussianVAEConfig | FlowVAEConfig


class HasPoints(Protocol):
    """An item of a data set: `points` is an array [N, 3]."""

    @property
    def points(self) -> Any: ...


@dataclass(frozen=True)
class LuoHuTraining(TrainConfig):
    """A training run. The learning rate falls linearly from `learning_rate` at update `lr_decay_start` to `lr_end` at
    `lr_decay_end`, and stays there; `lr_scheduler` must be "constant"."""

    data: str = PROCEDURAL
    """`procedural`, or a file or folder that `open_source` knows. The published file is shapenet.hdf5."""
    up: Literal["y", "z"] = "y"
    """The axis of the data that points up; z is turned to y."""
    classes: tuple[str, ...] = ()
    """Classes to train on together; none: all. The published generators know one class each."""
    num_clouds: int | None = None
    """Clouds read before training, chosen by `seed` where the data has more; None for all of a data set that has an
    end."""
    num_points: int = 2048
    """Points of each."""
    lr_decay_start: int = 200_000
    """Last update with the full learning rate."""
    lr_decay_end: int = 400_000
    """First update with the final one."""
    kl_weight: float = KL_WEIGHT
    """Weight of entropy and prior against the reconstruction loss (generators only)."""
    loss_constant: LossConstant = "exact"
    """"original" reports the generators' loss with the published constant error."""
    scale_mode: NormalisationMode = "shape_unit"
    """How clouds are normalised; its statistics are taken from the data set and saved with the model."""
    model: ModelConfig = field(default_factory=FlowVAEConfig)
    """Which model, and its shape."""

    def __post_init__(self) -> None:
        if self.lr_warmup_steps:
            raise ValueError(f"lr_warmup_steps: the published schedule has no warm-up, found {self.lr_warmup_steps}")
        super().__post_init__()
        if self.lr_scheduler != "constant":
            raise ValueError(f"lr_scheduler: expected 'constant' (see lr_decay_start), found {self.lr_scheduler!r}")
        if not 0 <= self.lr_decay_start < self.lr_decay_end:
            raise ValueError(
                f"expected 0 <= lr_decay_start < lr_decay_end, found {self.lr_decay_start} and {self.lr_decay_end}"
            )

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of update number `step`, counted from 0."""
        share = (step - self.lr_decay_start) / (self.lr_decay_end - self.lr_decay_start)
        share = min(max(share, 0.0), 1.0)
        return (1 - share) * self.learning_rate + share * self.lr_end


def published_autoencoder() -> LuoHuTraining:
    """train_ae.py: Adam, batches of 128, 1e-3 falling to 1e-4 between updates 150,000 and 300,000.

    The published script never stops by itself; this ends where the learning rate does.
    """
    return dataclasses.replace(
        published_generator(),
        output_dir=Path("runs/luo-hu-autoencoder"),
        learning_rate=1e-3,
        lr_decay_start=150_000,
        lr_decay_end=300_000,
        max_train_steps=300_000,
        model=AutoEncoderConfig(),
    )


def published_generator() -> LuoHuTraining:
    """train_gen.py: Adam, batches of 128, 2e-3 falling to 1e-4 between updates 200,000 and 400,000."""
    return LuoHuTraining(
        output_dir=Path("runs/luo-hu-generator"),
        seed=2020,
        train_batch_size=128,
        max_train_steps=400_000,
        learning_rate=2e-3,
        lr_end=1e-4,
        adam_weight_decay=0.0,
        max_grad_norm=10.0,
        checkpointing_steps=1000,
    )


PRESETS = {"published-autoencoder": published_autoencoder, "published-generator": published_generator}


def build(config: ModelConfig) -> AutoEncoder | GaussianVAE | FlowVAE:
    """The model that belongs to a config, freshly initialised from torch's global generator."""
    if isinstance(config, AutoEncoderConfig):
        return AutoEncoder(config)
    return FlowVAE(config) if isinstance(config, FlowVAEConfig) else GaussianVAE(config)


def collate(items: Sequence[HasPoints], normalisation: Normalisation) -> Tensor:
    """Items with `points` [N, 3], all of one N, as normalised clouds [B, N, 3] float32."""
    sizes = sorted({len(item.points) for item in items})
    if len(sizes) > 1:
        raise PointCloudError(f"points: all clouds of a batch need the same number, found {sizes[0]} and {sizes[-1]}")
    points = torch.stack([torch.as_tensor(item.points, dtype=torch.float32) for item in items])
    return normalisation.apply(points)[0]


def training_loss(
    model: nn.Module, points: Tensor, noise: SampleNoise, *, config: LuoHuTraining
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of normalised clouds [B, N, 3], each at one uniform time in 1..T, and the terms the published code logs."""
    t = noise.randint(1, config.model.num_steps + 1)
    if isinstance(config.model, AutoEncoderConfig):
        return model(points, t, noise.randn_like(points)), {}
    latent_noise = noise.randn(config.model.latent_dim)
    loss = model(points, t, noise.randn_like(points), latent_noise, config.kl_weight, config.loss_constant)
    return loss.total, loss.logged()


def read_clouds(config: LuoHuTraining) -> list[CloudItem]:
    """The run's data, all in memory. Raises PointCloudError where it cannot be read or has no end."""
    source = open_source(
        config.data,
        split="train",
        classes=config.classes or None,
        num_points=config.num_points,
        seed=config.seed,
        up=config.up,
    )
    if config.num_clouds is None and config.data == PROCEDURAL:
        raise PointCloudError("num_clouds: procedural shapes have no end; say how many clouds to train on")
    in_order = config.data == PROCEDURAL
    indices = chosen_indices(len(source), config.num_clouds, in_order=in_order, seed=config.seed)
    return [source[i] for i in tqdm(indices, "reading clouds", file=sys.stderr, mininterval=1)]


def run_training(
    config: LuoHuTraining,
    dataset: Sized | None = None,
    *,
    validate: Callable[[nn.Module, int], dict[str, Any]] | None = None,
) -> TrainResult:
    """Train as configured on items with `points` [N, 3]; the final model is written to `output_dir/model`.

    dataset: instead of `config.data`. The statistics of `scale_mode` come from all of it and go into the model's
    config.
    """
    if config.model.normalisation != type(config.model)().normalisation:
        raise PointCloudError("model.normalisation: it comes from the data; its mode is --scale-mode")
    dataset = read_clouds(config) if dataset is None else dataset
    normalisation = Normalisation.fit(config.scale_mode, (dataset[i].points for i in range(len(dataset))))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, normalisation=normalisation))
    torch.manual_seed(config.seed)
    return train(
        config,
        build(config.model),
        partial(training_loss, config=config),
        dataset,
        collate_fn=partial(collate, normalisation=normalisation),
        validate=validate,
    )

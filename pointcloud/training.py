"""Training a point transformer on procedural shapes, or on any data set of clouds or meshes.

Shape letters: B clouds, P points kept of a cloud, N points trained on, K draws of the prior per cloud, Z shape latent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..common.diffusion.losses import Weighting
from ..common.train import SampleNoise, TrainConfig, TrainResult, process_state, train
from .cloud import PointCloud
from .diffusion import PointDiffusion
from .diffusion_config import PointDiffusionConfig
from .encoder_training import EncoderStage, train_encoder
from .errors import PointCloudError
from .latent import LatentPriorConfig, ShapeEncoderConfig
from .normalise import NormalisationMode
from .prior_training import PriorStage, train_prior
from .process import PointLosses
from .sources import PROCEDURAL, CloudSource, open_source
from .training_batch import draw_batch
from .training_data import TrainingClouds, prepare_clouds
from .transformer import PointTransformerConfig


@dataclass(frozen=True)
class PointCloudTraining(TrainConfig):
    """A training run of the point transformer."""

    pretrained_model: str | None = None
    """Train this one on: a packaged name, a folder or a hub id. Its nets, classes and normalisation stay, whatever
    `model` and `normalisation` say, and the data may have no other classes. None: new nets."""
    data: str = PROCEDURAL
    """`procedural`, or a file or folder that `open_source` knows: hdf5, npy, npz, meshes, clouds."""
    up: Literal["y", "z"] = "y"
    """The axis of the data that points up; z is turned to y."""
    classes: tuple[str, ...] = ()
    """Classes to train on; none: all of them."""
    num_clouds: int | None = 6000
    """Clouds prepared before training; None for all of a data set that has an end."""
    stored_points: int = 4096
    """Points kept of each."""
    num_points: int = 1024
    """Points of a training sample, another subset of those kept every time."""
    encoder_points: int = 1024
    """Points that the encoder sees of a training sample: others than those denoised, as far as enough are kept."""
    stable_target: bool = True
    """A point is asked for the mean of all points kept that it may have been, not for the one it was: the same minimum
    with a small share of the variance. Wants several times as many points kept as trained on."""
    normalisation: NormalisationMode = "global"
    """How clouds are normalised."""
    cache: Path | None = None
    """A file for the prepared clouds: written if it is missing, else read. None: they are prepared for every run."""
    preparation_workers: int = 0
    """Processes that prepare clouds; 0 uses the training process."""
    validation_split: Literal["val", "test"] | None = "val"
    """Where validation takes its clouds from; None: it only draws a picture."""
    validation_clouds: int = 24
    """Clouds drawn, and compared, at each validation."""

    rotation: float = 0.0
    """Each sample is turned about the vertical axis by up to this many degrees either way."""
    scale_jitter: float = 0.0
    """Each sample is scaled by a factor between 1 - this and 1 + this."""
    class_dropout: float = 0.1
    """Share of samples whose class is not told, for guidance."""
    latent_dropout: float = 0.1
    """Share of samples whose shape latent is not told, so that the same net works without one."""
    kl_weight: float = 1e-5
    """Factor of the latent's KL divergence (nats, summed) beside the mean squared error of a coordinate. Points tell
    each other their shape while they are denoised, so a large factor soon leaves the latent empty."""
    freeze_encoder: bool = False
    """Keep the encoder and the prior of `pretrained_model` and train the points alone, without `prior_stage`: latents
    mean what they meant, and an update is cheaper by a fifth."""
    encoder_stage: EncoderStage = field(default_factory=EncoderStage)
    """What the encoder is trained by itself beforehand."""
    prior_draws: int = 8
    """Noise levels that the prior is trained on for every latent, where points and encoder are trained together."""
    prior_stage: PriorStage = field(default_factory=PriorStage)
    """What the prior is trained by itself afterwards."""
    weighting: Weighting = "uniform"
    """Of the squared error of the net's output, see the core's losses."""
    time_shift: float = 1.0
    """Noise levels drawn in training times this, see `shifted_time`."""
    model: PointDiffusionConfig = field(default_factory=PointDiffusionConfig)
    """The nets; classes and normalisation are filled in from the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("class_dropout", "latent_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a share in [0, 1), found {getattr(self, name)}")
        for name, least in (("num_points", 1), ("encoder_points", 1), ("validation_clouds", 1), ("prior_draws", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least}, found {getattr(self, name)}")
        if self.stored_points < self.num_points:
            raise ValueError(f"stored_points: {self.stored_points} are fewer than num_points {self.num_points}")
        if not 0 <= self.scale_jitter < 1 or not 0 <= self.rotation <= 180:
            raise ValueError("expected scale_jitter in [0, 1) and rotation in [0, 180] degrees")
        if self.time_shift <= 0:
            raise ValueError(f"time_shift: must be positive, found {self.time_shift}")
        if self.freeze_encoder and self.pretrained_model is None:
            raise ValueError("freeze_encoder: only a pretrained_model has an encoder worth keeping")
        if (self.encoder_stage.steps or self.prior_stage.steps) and not self.model.latent_dim:
            raise ValueError("encoder_stage, prior_stage: a model without a shape latent (model.latent_dim 0) has none")
        if self.encoder_stage.steps and (self.freeze_encoder or not self.prior_stage.steps):
            raise ValueError("encoder_stage: goes with a prior_stage, for its latents are new, not with freeze_encoder")

    @property
    def encoder_stays(self) -> bool:
        """Whether the points are trained under an encoder that no longer changes."""
        return self.freeze_encoder or self.encoder_stage.steps > 0


def procedural_small() -> PointCloudTraining:
    """The shipped model: below 4 M parameters, trained on procedural shapes on a CPU. (Its own weights had 8,400
    updates towards the drawn points, with a larger `kl_weight`, 4,000 from 2e-3 on with these settings, and 25,000 of
    the prior.)"""
    return PointCloudTraining(
        output_dir=Path("runs/pointcloud-procedural"),
        train_batch_size=32,
        max_train_steps=8_400,
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
        validation_steps=500,
        num_clouds=12_000,
        num_points=512,
        latent_dropout=0.05,
        kl_weight=3e-7,
        prior_stage=PriorStage(steps=16_000, learning_rate=4e-3),
        time_shift=0.6,
        model=PointDiffusionConfig(
            net=PointTransformerConfig(num_stages=4, reader_depth=1, reader_heads=4, reader_mult=2.5, cond_width=80),
            latent_dim=48,
            sampling_shift=0.6,
            encoder=ShapeEncoderConfig(width=96, point_width=64, num_tokens=16),
            prior=LatentPriorConfig(width=128, depth=3),
        ),
    )


PRESETS = {"procedural-small": procedural_small}


# ------------------------------------------------------------------------------------------------------------- data


def open_split(config: PointCloudTraining, split: Literal["train", "val", "test"]) -> CloudSource:
    """One split of the run's data, every cloud with `stored_points` points."""
    return open_source(
        config.data,
        split=split,
        classes=config.classes or None,
        num_points=config.stored_points,
        seed=config.seed,
        up=config.up,
    )


def training_clouds(config: PointCloudTraining, start: PointDiffusion | None = None) -> TrainingClouds:
    """The clouds a run trains on, from `config.cache` where that file is there; normalised and labelled for `start`.

    Raises PointCloudError for a class that `start` does not know, and as `prepare_clouds` does.
    """
    given = None if start is None else start.config.normalisation
    facts: dict[str, Any] = {
        "data": config.data,
        "up": config.up,
        "classes": list(config.classes),
        "num_clouds": config.num_clouds,
        "stored_points": config.stored_points,
        "seed": config.seed,
    }
    if given is not None:
        facts["statistics"] = [*given.shift, given.scale]
    if config.cache is not None and config.cache.is_file():
        clouds = TrainingClouds.load(config.cache, config.normalisation if given is None else given.mode, facts)
    else:
        clouds = prepare_clouds(
            open_split(config, "train"),
            given or config.normalisation,
            num_clouds=config.num_clouds,
            in_order=config.data == PROCEDURAL,
            num_workers=config.preparation_workers,
            seed=config.seed,
        )
        if config.cache is not None:
            clouds.save(config.cache, facts)
    return clouds if start is None else clouds.labelled_as(start.config.class_names)


def held_out_clouds(config: PointCloudTraining) -> list[tuple[PointCloud, str]]:
    """(cloud of at most 2048 points in the data's units, its class) for validation, spread over the split. Raises
    PointCloudError where the data has no such split."""
    if config.validation_split is None:
        return []
    try:
        source = open_split(config, config.validation_split)
    except PointCloudError as error:
        hint = f"asked for by --validation-split {config.validation_split}; None goes without"
        raise PointCloudError(f"{error} ({hint})") from error
    count = min(config.validation_clouds, len(source))
    endless = config.data == PROCEDURAL
    items = [source[i if endless else i * len(source) // count] for i in range(count)]
    clouds = [PointCloud(item.points, name=item.name) for item in items]
    kept = [cloud.subsampled(min(2048, cloud.num_points), config.seed) for cloud in clouds]
    return [(cloud, source.classes[item.label]) for cloud, item in zip(kept, items, strict=True)]


# ------------------------------------------------------------------------------------------------------------- loss


def training_loss(
    model: nn.Module, batch: Sequence[Tensor], noise: SampleNoise, *, config: PointCloudTraining
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch (points [B, P, 3], labels [B]): denoising, the latent's KL, the prior."""
    losses: PointLosses = model(draw_batch(batch[0], batch[1], noise, config), config.weighting)
    metrics = {"denoising": losses.denoising.mean().detach()}
    if config.model.latent_dim and not config.encoder_stays:
        metrics |= {"kl": losses.kl.mean().detach(), "prior": losses.prior.mean().detach()}
    return losses.total(config.kl_weight).float(), metrics


# -------------------------------------------------------------------------------------------------------------- run


def run_training(config: PointCloudTraining) -> TrainResult:
    """Train as configured: the encoder by itself, the points, the prior; the model is written to `output_dir/model`.

    Raises PointCloudError where the data cannot be read or does not fit the settings, and as the core's `train`.
    """
    start = None if config.pretrained_model is None else PointDiffusion.from_pretrained(config.pretrained_model)
    if start is not None:
        config = dataclasses.replace(config, model=start.config)
    held_out = held_out_clouds(config)  # first: a split that is missing is not found out after all preparations
    with process_state().main_process_first():  # the others then find the cache
        clouds = training_clouds(config, start)
    if clouds.points.shape[1] < config.num_points:
        raise PointCloudError(f"num_points: {config.num_points}, but clouds have {clouds.points.shape[1]} points")
    shape = dataclasses.replace(
        config.model,
        class_names=clouds.classes,
        class_counts=clouds.class_counts,
        normalisation=clouds.normalisation,
    )
    torch.manual_seed(config.seed)
    model = PointDiffusion(shape)
    if start is not None:
        model.load_state_dict(start.state_dict())
    if config.encoder_stage.steps:
        first = train_encoder(config, clouds, model, keep=start is not None)
        if first.interrupted:
            return first
    if config.encoder_stays:
        model.requires_grad_(False).net.requires_grad_(True)
    validation = partial(validate, held_out=held_out, count=config.validation_clouds)
    more = config.prior_stage.steps > 0 and not config.freeze_encoder
    result = train(
        dataclasses.replace(config, push_to_hub=config.push_to_hub and not more),
        model,
        partial(training_loss, config=config),
        clouds,
        validate=validation,
    )
    return train_prior(config, clouds, validation) if more and not result.interrupted else result


def validate(model: nn.Module, step: int, *, held_out: Sequence[tuple[PointCloud, str]], count: int) -> dict[str, Any]:
    """A picture of `count` clouds drawn in 20 steps, and where there are held-out clouds MMD-CD to as many of theirs.

    The same seeds every time, so that pictures and numbers of two steps can be compared.
    """
    from .metrics import chamfer_matrix
    from .render import contact_sheet

    assert isinstance(model, PointDiffusion)
    drawn = model.generate(len(held_out) or count, class_name=[name for _, name in held_out] or None)
    found: dict[str, Any] = {"clouds": torch.from_numpy(np.array(contact_sheet(drawn)))}
    if held_out:
        rule = model.config.normalisation  # where each shape is normalised by itself, all have the mean place and size
        references = [rule.restore(rule.apply(cloud.points)[0]) for cloud, _ in held_out]
        found["mmd_cd"] = float(chamfer_matrix(references, [cloud.points for cloud in drawn]).min(1).mean())
    return found

"""The second stage of a training run: the prior by itself, on the latents of an encoder that no longer changes.

Beside the points the prior runs after an encoder that moves, and shares its learning rate and number of updates. By
itself an update costs a hundredth of one of the points', so that it can be trained until it has learnt the latents.

Shape letters: B clouds of a batch, S clouds, V views of each, Z shape latent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..common.diffusion import Denoiser, DenoisingLoss
from ..common.train import SampleNoise, TrainResult, process_state, train
from .conditioning import NO_CLASS
from .diffusion import PointDiffusion
from .latent import LATENT_SHIFT, ShapeEncoder
from .process import training_times
from .training_data import TrainingClouds

if TYPE_CHECKING:
    from .training import PointCloudTraining

ENCODED_AT_ONCE = 128


@dataclass(frozen=True)
class PriorStage:
    """How long the prior is trained by itself, once the points are learnt. All else is as in the first stage, but for
    AdamW under a learning rate that falls to zero along a cosine."""

    steps: int = 0
    """Updates; 0: the prior is left as the first stage made it."""
    batch_size: int = 512
    """Latents per process and update."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    warmup_steps: int = 100
    """Updates over which the learning rate rises from 0."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch_size", 1), ("learning_rate", 0), ("warmup_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"prior_stage.{name}: must be at least {least}, found {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class EncodedClouds:
    """A dataset of (means [V, Z], standard deviations [V, Z], label): the encoder's Gaussians of every training cloud,
    one for each of V disjoint views of its points, for other points of a shape give another latent."""

    mean: Tensor
    """Float32 [S, V, Z]."""
    std: Tensor
    """Float32 [S, V, Z]."""
    labels: Tensor
    """Long [S]."""

    @classmethod
    @torch.no_grad()
    def encode(cls, encoder: ShapeEncoder, clouds: TrainingClouds, num_points: int) -> EncodedClouds:
        """Views of `num_points` of each cloud as it is: augmentations are not for what is to be generated."""
        device = next(encoder.parameters()).device
        views = max(1, clouds.points.shape[1] // num_points)
        found = []
        for part in clouds.points.split(max(1, ENCODED_AT_ONCE // views)):
            seen = part[:, : views * num_points].unflatten(1, (views, -1)).flatten(0, 1)
            mean, log_variance = encoder(seen.to(device).float())
            found.append(torch.stack([mean, (0.5 * log_variance).exp()]).unflatten(1, (-1, views)).cpu())
        mean, std = torch.cat(found, dim=1)
        return cls(mean, std, clouds.labels)

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor, Tensor]:
        return self.mean[index], self.std[index], self.labels[index]


def prior_loss(
    net: nn.Module, batch: Sequence[Tensor], noise: SampleNoise, *, model: PointDiffusion, class_dropout: float
) -> Tensor:
    """Denoising loss of means and standard deviations [B, V, Z] and labels [B]; `net` is the prior of `model`."""
    assert model.prior is not None
    means, stds, labels = batch
    path = model.prior.path
    view = (noise.rand() * means.shape[1]).long()
    mean, std = (x[torch.arange(len(x), device=x.device), view] for x in (means, stds))
    latents = mean + std * noise.randn_like(mean)
    t = training_times(path, noise.rand(), LATENT_SHIFT)
    told = torch.where(noise.rand() < class_dropout, NO_CLASS, labels) if model.config.class_names else None
    return DenoisingLoss()(Denoiser(net, path, "v"), latents, noise.randn_like(latents), t, told).total.float()


def train_prior(
    config: PointCloudTraining, clouds: TrainingClouds, validate: Callable[[nn.Module, int], dict[str, Any]]
) -> TrainResult:
    """Train the prior of `output_dir/model` and put the model back; its checkpoints are in `output_dir/prior-N`, N the
    updates of the first stage. Resumes where the first stage was resumed. Raises as the core's `train`."""
    stage, folder = config.prior_stage, config.output_dir / "model"
    state = process_state()
    state.wait_for_everyone()  # the main process has written the model
    model = PointDiffusion.from_pretrained(folder).to(state.device).eval()
    assert model.encoder is not None
    assert model.prior is not None
    result = train(
        dataclasses.replace(
            config,
            output_dir=config.output_dir / f"prior-{config.max_train_steps}",
            max_train_steps=stage.steps,
            train_batch_size=stage.batch_size,
            gradient_accumulation_steps=1,
            learning_rate=stage.learning_rate,
            lr_scheduler="cosine",
            lr_warmup_steps=stage.warmup_steps,
            lr_end=0.0,
            optimizer="adamw",
            gradient_checkpointing=False,
            validation_steps=None,
            resume_from_checkpoint=config.resume_from_checkpoint and "latest",
            push_to_hub=False,
        ),
        model.prior,
        partial(prior_loss, model=model, class_dropout=config.class_dropout),
        EncodedClouds.encode(model.encoder, clouds, config.encoder_points),
        validate=lambda _, step: validate(model, step),
        run_dir=config.output_dir,
    )
    if state.is_main_process and not result.interrupted:
        if result.ema:
            result.ema.copy_to(model.prior)
        model.save_pretrained(folder, push_to_hub=config.push_to_hub, repo_id=config.hub_model_id)
    state.wait_for_everyone()
    return dataclasses.replace(result, model=model)

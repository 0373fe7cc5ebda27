"""`PointDiffusion`: class names or clouds in, point clouds out.

Shape letters: B clouds, N points, Z shape latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from ..common.diffusion import Denoiser, DenoisingLoss, PerSampleNoise, Sampler, ddim, ddim_invert, edm_heun, guided
from ..common.diffusion.losses import Weighting
from ..common.diffusion.step import Progress
from ..common.pretrained import PretrainedModel
from .cloud import PointCloud
from .conditioning import NO_CLASS, PointCondition, class_labels
from .diffusion_config import PointDiffusionConfig
from .errors import PointCloudError
from .latent import LATENT_SHIFT, LatentPrior, ShapeEncoder, kl_to_standard_normal, slerp
from .process import (
    DEFAULT_SAMPLER,
    DEFAULT_STEPS,
    PointLosses,
    SamplerName,
    Sampling,
    TrainingBatch,
    consecutive_seeds,
    noise_streams,
    point_path,
    sampler_named,
    sampling_times,
    times_for,
)
from .space_filling import curve_order, inverse_order
from .transformer import PointTransformer

PRIOR_STEPS = 32
INVERSION_REFINEMENTS = 2


class PointDiffusion(PretrainedModel):
    """A generator of point clouds: `PointDiffusion.from_pretrained("procedural").generate(4, class_name="chair")`.

    `from_pretrained` takes a packaged name ("procedural"), a folder written by `save_pretrained`, or a hub id.
    """

    config_class: ClassVar[type] = PointDiffusionConfig
    packaged: ClassVar[dict[str, str]] = {"procedural": "pretrained/procedural"}
    config: PointDiffusionConfig

    def __init__(self, config: PointDiffusionConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PointDiffusionConfig()
        classes = len(config.class_names)
        self.net = PointTransformer(config.net, num_classes=classes, latent_dim=config.latent_dim)
        self.encoder = ShapeEncoder(config.encoder, config.latent_dim) if config.latent_dim else None
        self.prior = LatentPrior(config.prior, config.latent_dim, classes) if config.latent_dim else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the point transformer's activations in the backward pass."""
        self.net.enable_gradient_checkpointing()

    def denoiser(self) -> Denoiser:
        """E[x0 | x_t] of normalised points; the condition is a `PointCondition`."""
        return Denoiser(self.net, point_path(), self.config.prediction)

    def forward(self, batch: TrainingBatch, weighting: Weighting = "uniform") -> PointLosses:
        """Training losses. The prior learns from the encoder's latents without reaching back into it."""
        shape, kl, prior = None, torch.zeros_like(batch.t), torch.zeros_like(batch.t)
        if self.encoder is not None and self.prior is not None:
            mean, log_variance = self.encoder(batch.seen)
            kl = kl_to_standard_normal(mean, log_variance)
            latents = mean[:, None] + (0.5 * log_variance).exp()[:, None] * batch.posterior_noise
            shape, draws = latents[:, 0], latents[:, 1:].detach()
            if draws.shape[1]:
                labels = batch.labels.repeat_interleave(draws.shape[1]) if self.config.class_names else None
                x0, noise, t = (part.flatten(0, 1) for part in (draws, batch.prior_noise, batch.prior_t))
                losses = DenoisingLoss()(self.prior.denoiser(), x0, noise, t, labels)
                prior = losses.per_sample.view(draws.shape[:2]).mean(1)
        labels = batch.labels if self.config.class_names else None
        cond = PointCondition(labels, shape, None if shape is None else batch.keep_shape)
        loss = DenoisingLoss(weighting)(self.denoiser(), *batch.asked(), batch.t, cond)
        return PointLosses(loss.per_sample.float(), kl, prior.float())

    # -- from class names ------------------------------------------------------------------------------------------

    def generate(
        self,
        num_clouds: int = 1,
        num_points: int = 2048,
        *,
        class_name: str | Sequence[str | None] | None = None,
        guidance_scale: float = 1.0,
        steps: int = DEFAULT_STEPS,
        sampler: SamplerName | Sampler = DEFAULT_SAMPLER,
        seed: int = 0,
        batch_points: int = 65_536,
        progress: Progress | None = None,
    ) -> list[PointCloud]:
        """Draw new clouds, in the units of the training data; each is named after its class.

        Args:
            num_points: of each cloud, any number.
            class_name: one of `config.class_names` for all, or one for each cloud; None draws it as often as it was
                seen in training.
            guidance_scale: classifier-free guidance against "nothing is known", of the shape latent and of the points;
                1 is none.
            steps: denoising steps.
            sampler: "dpmsolver++" (2M), "sde-dpmsolver++", "ddim", "ddpm", "heun", "ode", or any sampler of the core.
            seed: cloud i uses seed + i, whatever the batch.
            batch_points: points denoised at once; bounds the memory.
            progress: wraps the list of steps of each batch, as tqdm does.

        Raises:
            PointCloudError: an unknown class (the known are listed), or guidance where nothing guides.
            ValueError: a count that is not positive, an unknown sampler, a seed outside 0 .. 2^63 - 1.
        """
        for name, value in (("num_clouds", num_clouds), ("num_points", num_points), ("batch_points", batch_points)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, found {value}")
        seeds = consecutive_seeds(seed, num_clouds)
        labels = class_labels(class_name, seeds, self.config.class_names, self.config.class_counts)
        sampling = Sampling(steps, sampler, guidance_scale, batch_points, progress)
        clouds: list[PointCloud] = []
        for part in sampling.batches(num_clouds, num_points):
            noise = noise_streams(seeds[part])
            with self._sampling():
                shape = self.draw_latents(labels[part], noise, guidance_scale=guidance_scale)
                points = self.points(labels[part], shape, noise, num_points, sampling)
            clouds += self._clouds(self.config.normalisation.restore(points), labels[part])
        return clouds

    def draw_latents(
        self, labels: Tensor, noise: PerSampleNoise, *, guidance_scale: float = 1.0, steps: int = PRIOR_STEPS
    ) -> Tensor | None:
        """[B, Z] from the prior by the deterministic Heun sampler; None where the model has no latent."""
        if self.prior is None:
            return None
        cond = labels.to(self.device) if self.config.class_names else None
        start = noise.randn_like(torch.empty(len(labels), self.config.latent_dim, device=self.device))
        denoiser = self.prior.denoiser()
        if guidance_scale != 1 and cond is not None:
            denoiser = guided(denoiser, guidance_scale, torch.full_like(cond, NO_CLASS))
        return edm_heun(denoiser, start, sampling_times(steps, LATENT_SHIFT), cond)

    def points(
        self,
        labels: Tensor,
        shape: Tensor | None,
        noise: PerSampleNoise,
        num_points: int,
        sampling: Sampling,
        *,
        start: Tensor | None = None,
    ) -> Tensor:
        """Normalised points float32 [B, N, 3] on the CPU, denoised from `start` (by default drawn from `noise`).

        labels: long [B], NO_CLASS where no class is told; shape: [B, Z] or None, not told.
        """
        config = self.config
        run = sampling.sampler
        run = sampler_named(run, config.sampling_shift) if isinstance(run, str) else run
        x = torch.empty(len(labels), num_points, 3, device=self.device)
        x = noise.randn_like(x) if start is None else start.to(self.device)
        told = labels.to(self.device) if config.class_names else None
        cond = PointCondition(told, shape, None if shape is None else torch.ones_like(shape[:, 0], dtype=torch.bool))
        denoiser = self.denoiser()
        if sampling.guidance_scale != 1:
            if shape is None and bool((labels == NO_CLASS).all()):
                raise PointCloudError("guidance_scale: neither a class nor a shape latent is given to guide by")
            nothing = PointCondition(
                None if told is None else torch.full_like(told, NO_CLASS),
                shape,
                None if shape is None else torch.zeros_like(shape[:, 0], dtype=torch.bool),
            )
            denoiser = guided(denoiser, sampling.guidance_scale, nothing)
        times = times_for(run, sampling.steps, config.sampling_shift)
        return run(denoiser, x, times, cond, generator=noise, progress=sampling.progress).float().cpu()

    # -- from clouds -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, clouds: Sequence[PointCloud], *, batch_points: int = 65_536) -> Tensor:
        """The mean shape latent of each cloud, float32 [B, Z], on the CPU. Raises PointCloudError without a latent."""
        if self.encoder is None:
            raise PointCloudError("encode: this model has no shape latent (latent_dim is 0)")
        latents, waiting = [], list(clouds)
        while waiting:
            part = [waiting.pop(0)]
            while waiting and sum(c.num_points for c in part) + waiting[0].num_points <= batch_points:
                part.append(waiting.pop(0))
            row = torch.cat([self._normal(cloud)[0] for cloud in part])[None].to(self.device)
            with self._sampling():
                latents.append(self.encoder(row, [cloud.num_points for cloud in part])[0].cpu())
        return torch.cat(latents) if latents else torch.empty(0, self.config.latent_dim)

    def decode(
        self,
        latents: Tensor,
        num_points: int = 2048,
        *,
        class_name: str | None = None,
        seed: int | Sequence[int] = 0,
        sampling: Sampling | None = None,
    ) -> list[PointCloud]:
        """Clouds of shape latents [B, Z], in the units of the training data.

        class_name: told besides the latent, None: not told. seed: cloud i uses seed + i, or its own of a sequence.
        """
        if self.config.latent_dim == 0 or latents.ndim != 2 or latents.shape[1] != self.config.latent_dim:
            raise PointCloudError(f"latents: expected [B, {self.config.latent_dim}], found {list(latents.shape)}")
        sampling = sampling or Sampling()
        seeds = consecutive_seeds(seed, len(latents)) if isinstance(seed, int) else list(seed)
        points, labels = self._decoded(latents, seeds, num_points, class_name, sampling)
        return self._clouds(self.config.normalisation.restore(points), labels)

    def reconstruct(
        self,
        clouds: Sequence[PointCloud],
        num_points: int = 2048,
        *,
        class_name: str | None = None,
        seed: int = 0,
        sampling: Sampling | None = None,
    ) -> list[PointCloud]:
        """Each cloud through its shape latent and back, at its own place and size; all from the noise of one seed.

        Without a latent: through the noise that DDIM maps to it, from `num_points` of its points.
        """
        sampling = sampling or Sampling()
        if self.encoder is not None:
            latents = self.encode(clouds, batch_points=sampling.batch_points)
            points, labels = self._decoded(latents, [seed] * len(clouds), num_points, class_name, sampling)
        else:
            noise = self._inverted(clouds, num_points, class_name, seed, sampling)
            points, labels = self._from_noise(noise, class_name, sampling)
        shift, scale = (torch.stack([self._normal(cloud)[k] for cloud in clouds]) for k in (1, 2))
        return self._clouds(self.config.normalisation.restore(points, shift, scale), labels)

    def interpolate(
        self,
        cloud_a: PointCloud,
        cloud_b: PointCloud,
        num_clouds: int = 8,
        *,
        num_points: int = 2048,
        class_name: str | None = None,
        seed: int = 0,
        sampling: Sampling | None = None,
    ) -> list[PointCloud]:
        """`num_clouds` shapes from a to b: the first is a's reconstruction, the last b's.

        Shape latents are interpolated along a great circle and decoded from the same noise. Without a latent the noises
        that DDIM maps to the two are interpolated so, point by point along a space-filling curve; both clouds then
        need at least `num_points` points. Place and size go linearly from a's to b's.
        """
        if num_clouds < 1:
            raise ValueError(f"num_clouds: expected at least 1, found {num_clouds}")
        sampling = sampling or Sampling()
        fractions = [i / max(1, num_clouds - 1) for i in range(num_clouds)]
        if self.encoder is not None:
            a, b = self.encode([cloud_a, cloud_b], batch_points=sampling.batch_points)
            latents = torch.stack([slerp(a, b, f) for f in fractions])
            points, labels = self._decoded(latents, [seed] * num_clouds, num_points, class_name, sampling)
        else:
            a, b = self._inverted([cloud_a, cloud_b], num_points, class_name, seed, sampling)
            b = b[curve_order(b[None])][inverse_order(curve_order(a[None]))]
            start = torch.stack([slerp(a, b, f) for f in fractions])
            points, labels = self._from_noise(start, class_name, sampling)
        (_, shift_a, scale_a), (_, shift_b, scale_b) = self._normal(cloud_a), self._normal(cloud_b)
        shift = torch.stack([torch.lerp(shift_a, shift_b, f) for f in fractions])
        scale = torch.stack([torch.lerp(scale_a, scale_b, f) for f in fractions])
        return self._clouds(self.config.normalisation.restore(points, shift, scale), labels)

    def _decoded(
        self, latents: Tensor, seeds: Sequence[int], num_points: int, class_name: str | None, sampling: Sampling
    ) -> tuple[Tensor, Tensor]:
        """(normalised points [B, N, 3], labels [B]) of latents [B, Z]."""
        labels = self._told(class_name, len(latents))
        parts = []
        for part in sampling.batches(len(latents), num_points):
            with self._sampling():
                shape, noise = latents[part].to(self.device), noise_streams(seeds[part])
                parts.append(self.points(labels[part], shape, noise, num_points, sampling))
        return torch.cat(parts), labels

    def _inverted(
        self, clouds: Sequence[PointCloud], num_points: int, class_name: str | None, seed: int, sampling: Sampling
    ) -> Tensor:
        """[B, N, 3]: the noise that DDIM maps to `num_points` points of each cloud."""
        normal = [self._normal(cloud.subsampled(num_points, seed))[0] for cloud in clouds]
        times = sampling_times(sampling.steps, self.config.sampling_shift)
        labels, parts = self._told(class_name, len(clouds)).to(self.device), []
        for part in sampling.batches(len(clouds), num_points):
            x = torch.stack(normal[part]).to(self.device)
            cond = PointCondition(labels[part] if self.config.class_names else None)
            with self._sampling():
                found = ddim_invert(self.denoiser(), x, times, cond, refinements=INVERSION_REFINEMENTS)
            parts.append(found.float().cpu())
        return torch.cat(parts)

    def _from_noise(self, start: Tensor, class_name: str | None, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """(normalised points [B, N, 3], labels [B]) that DDIM makes of noise, on the way that `_inverted` went back."""
        labels = self._told(class_name, len(start))
        back = replace(sampling, sampler=ddim, guidance_scale=1.0)
        parts = []
        for part in back.batches(*start.shape[:2]):
            with self._sampling():
                unused = noise_streams([0] * len(start[part]))
                parts.append(self.points(labels[part], None, unused, start.shape[1], back, start=start[part]))
        return torch.cat(parts), labels

    # -- small things ----------------------------------------------------------------------------------------------

    def _told(self, class_name: str | None, clouds: int) -> Tensor:
        if class_name is None:
            return torch.full((clouds,), NO_CLASS)
        return class_labels(class_name, [0] * clouds, self.config.class_names)

    def _normal(self, cloud: PointCloud) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised points [N, 3], and the shift [1, 3] and scale [1, 1] that bring them back."""
        return self.config.normalisation.apply(torch.from_numpy(cloud.points))

    def _clouds(self, points: Tensor, labels: Tensor) -> list[PointCloud]:
        names = [self.config.class_names[i] if i != NO_CLASS else "" for i in labels.tolist()]
        return [PointCloud(p.numpy(), name=name) for p, name in zip(points, names, strict=True)]

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """Eval mode without gradients; afterwards as before."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(was_training)

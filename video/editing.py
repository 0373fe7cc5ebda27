"""Inversion and editing of latents: DDIM inversion, guided sampling from it or from noise, on one grid of times.

Shape letters: C latent channels, F frames, h w latent size, L text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..common.diffusion import OnStep, Sampler, ddim_invert, guided
from ..common.diffusion.noise import PerSampleNoise
from ..common.diffusion.step import Progress
from ..common.weights import read_tensors, replaced_file
from .errors import VideoError
from .samplers import SamplerName, run_sampler
from .text_to_image import LatentSpace, seeded

if TYPE_CHECKING:
    from .unet import InflatedUNet

Start = Literal["inversion", "noise"]


class BatchOptions(TypedDict, total=False):
    """How prompts become samples; `TuneAVideo.edit` says what each means."""

    negative_prompt: str
    guidance_scale: float
    seed: int
    sampler: SamplerName | Sampler
    eta: float
    batch_size: int
    on_step: OnStep | None


class SamplingOptions(BatchOptions, total=False):
    """Keywords of `TuneAVideo.generate`."""

    steps: int
    progress: Progress | None


class EditOptions(SamplingOptions, total=False):
    """Keywords of `TuneAVideo.edit`."""

    start: Start
    strength: float
    inversion: Inversion | None
    refinements: int


@dataclass(frozen=True, eq=False)
class Inversion:
    """The state [1, C, F, h, w] that deterministic sampling leads back to the clip, with how it was found.

    It serves any number of edits with the same `steps` and `strength`.
    """

    latents: Tensor
    steps: int
    strength: float = 1.0
    prompt: str = ""

    def check(self, clean: Tensor, steps: int, strength: float) -> None:
        """Raise VideoError unless it is one of latents shaped like `clean` on the grid of these steps and strength."""
        if self.latents.shape != clean.shape:
            raise VideoError(f"inversion: of latents {list(self.latents.shape)}, the clip has {list(clean.shape)}")
        if (self.steps, self.strength) != (steps, strength):
            raise VideoError(
                f"inversion: made with steps={self.steps}, strength={self.strength:g}; asked for steps={steps}, "
                f"strength={strength:g}, which is another grid"
            )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, atomically."""
        facts = {"steps": str(self.steps), "strength": repr(self.strength), "prompt": self.prompt}
        with replaced_file(Path(path)) as temporary:
            save_file({"latents": self.latents.detach().cpu().contiguous()}, temporary, metadata=facts)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Inversion:
        """Read what `save` wrote. Raises FileNotFoundError, or VideoError for another file."""
        tensors = read_tensors(Path(path))
        with safe_open(Path(path), framework="pt") as file:
            facts = file.metadata() or {}
        if set(tensors) != {"latents"} or not {"steps", "strength", "prompt"} <= set(facts):
            raise VideoError(f"{path}: not an inversion written by Inversion.save")
        return cls(tensors["latents"], int(facts["steps"]), float(facts["strength"]), facts["prompt"])


@torch.no_grad()
def invert_latents(
    space: LatentSpace,
    net: InflatedUNet,
    clean: Tensor,
    prompt: str = "",
    *,
    steps: int = 50,
    strength: float = 1.0,
    refinements: int = 0,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Inversion:
    """DDIM inversion of clean latents [1, C, F, h, w] along the grid that sampling takes back.

    It works on E[x0 | x_t], so that it is right for every prediction type. The conditional branch alone is followed,
    without guidance, which is what makes it invertible. Raises VideoError for a result that is not finite.
    """
    x = ddim_invert(
        space.denoiser(net),
        clean,
        space.schedule.times(steps, strength),
        space.encode_text([prompt]).expand(len(clean), -1, -1),
        refinements=refinements,
        on_step=on_step,
        progress=progress,
    )
    if not bool(x.isfinite().all()):
        raise VideoError(
            "the inversion gave values that are not finite: the tuned weights have diverged, or dtype is too small"
        )
    return Inversion(x, steps, strength, prompt)


@torch.no_grad()
def sample_latents(
    space: LatentSpace,
    net: InflatedUNet,
    prompts: Sequence[str],
    clean: Tensor,
    inversion: Inversion | None = None,
    *,
    negative_prompt: str = "",
    guidance_scale: float = 12.5,
    steps: int = 50,
    seed: int = 0,
    strength: float = 1.0,
    sampler: SamplerName | Sampler = "ddim",
    eta: float = 0.0,
    batch_size: int = 1,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """Clean latents [C, F, h, w] for each prompt, guided by eps_u + scale (eps_c - eps_u) (Ho & Salimans 2022).

    They start from the inversion; without one from unit noise at strength 1, and below it from `clean` [1, C, F, h, w]
    with noise of the level where the shortened grid begins (SDEdit, Meng et al. 2022). Prompt i draws from seed + i.

    Raises VideoError for latents that are not finite.
    """
    if batch_size < 1:
        raise VideoError(f"batch_size: expected at least 1, found {batch_size}")
    text, empty = space.encode_text(prompts), space.encode_text([negative_prompt])
    for first in range(0, len(prompts), batch_size):
        cond = text[first : first + batch_size]
        noise = PerSampleNoise([seeded(seed + first + i) for i in range(len(cond))])
        x = clean.expand(len(cond), *clean.shape[1:])
        if inversion is not None:
            x = inversion.latents.to(x).expand_as(x)
        elif strength < 1:
            x = space.path.add_noise(x, noise.randn_like(x), space.schedule.times(steps, strength)[0])
        else:
            x = noise.randn_like(x)
        out = run_sampler(
            sampler,
            space.schedule,
            guided(space.denoiser(net), guidance_scale, empty.expand_as(cond)),
            x,
            cond,
            steps=steps,
            strength=strength,
            eta=eta,
            generator=noise.generators,
            on_step=on_step,
            progress=progress,
        )
        if not bool(out.isfinite().all()):
            raise VideoError(
                "sampling gave values that are not finite: the tuned weights have diverged, or dtype is too small"
            )
        yield from out

"""`TextToImage`: a Stable Diffusion 1.x / 2.x folder, whole, as one object.

Shape letters: n prompts, L text tokens, D width, F frames, C latent channels, h w latent size, H W picture size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.diffusion import Denoiser, DiscretePath, OnStep, Sampler, guided
from ..common.diffusion.noise import PerSampleNoise, Randomness
from ..common.diffusion.step import Progress
from .clip import Clip
from .codec import FrameCodec
from .errors import VideoError
from .folder import check_kind, find_folder, load_text, load_unet, load_vae
from .json_object import read_object
from .prompts import PromptEncoder
from .samplers import SamplerName, run_sampler
from .schedule import Predicted, Schedule


@dataclass(eq=False, repr=False)
class LatentSpace:
    """All of Stable Diffusion but its unet: what a clip is tuned and edited in, and never changed itself.

    `dtype` is the precision of the unet's forward pass in sampling (autocast; its weights stay float32); the VAE and
    the text encoder work in float32.
    """

    vae: Any
    text_encoder: Any
    tokenizer: Any
    schedule: Schedule
    source: str = ""
    dtype: torch.dtype = torch.float32
    codec: FrameCodec = field(init=False)
    prompts: PromptEncoder = field(init=False)

    def __post_init__(self) -> None:
        if self.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise VideoError(f"dtype: expected float32, bfloat16 or float16, found {self.dtype}")
        self.codec = FrameCodec(self.vae)
        self.prompts = PromptEncoder(self.tokenizer, self.text_encoder)

    @property
    def path(self) -> DiscretePath:
        """The noise levels."""
        return self.schedule.path

    @property
    def prediction(self) -> Predicted:
        """What the unet's output means."""
        return self.schedule.prediction

    @property
    def steps_offset(self) -> int:
        """Added to the times of "leading" spacing."""
        return self.schedule.steps_offset

    @property
    def set_alpha_to_one(self) -> bool:
        """Whether sampling ends at clean data rather than at time 0."""
        return self.schedule.set_alpha_to_one

    @property
    def device(self) -> torch.device:
        """Where the VAE is; latents come from there."""
        return next(self.vae.parameters()).device

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text states [n, L, D], float32, each prompt encoded once. A prompt that is too long is warned about."""
        return self.prompts(prompts).to(self.device)

    def encode_frames(self, frames: Clip | Tensor, generator: Randomness = None) -> Tensor:
        """Scaled latents [F, C, h, w] of a clip, or of frames [F, 3, H, W] in [-1, 1]: the posterior's mean, or a
        sample where a generator is given. Each clip goes through the VAE once."""
        return self.codec.encode(frames.to_tensor() if isinstance(frames, Clip) else frames, generator)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Frames [F, 3, H, W] in [-1, 1] of scaled latents [F, C, h, w], a few at a time."""
        return self.codec.decode(latents)

    def latent_size(self, size: int | tuple[int, int] | None, unet_config: Mapping[str, Any]) -> tuple[int, int]:
        """(h, w) of pictures of `size` pixels (H = W, or (H, W)); None is what the unet was trained at."""
        if size is None:
            own = unet_config.get("sample_size") or 64
            return (own, own) if isinstance(own, int) else (int(own[0]), int(own[1]))
        return self.codec.latent_size(*((size, size) if isinstance(size, int) else size))

    def denoiser(self, net: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Denoiser:
        """E[x0 | x_t] of `net(x, t, text)`, run in `dtype`."""

        def run(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
            with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
                return net(x, t, text).to(x.dtype)

        return Denoiser(run, self.path, self.prediction)


@dataclass(eq=False, repr=False)
class TextToImage(LatentSpace):
    """Text to image with the folder's own 2D unet: `TextToImage.load("sprites").generate_images(["a red square"])`."""

    unet: Any = None

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        variant: str | None = None,
    ) -> TextToImage:
        """Load a packaged name ("sprites"), a folder in diffusers format, or a hub repository "owner/name".

        Args:
            dtype: precision of the unet's forward pass; weights are float32 whatever the files hold.
            device: where everything goes; None is the GPU where there is one, else the CPU.
            variant: "fp16" prefers files named *.fp16.*; None takes the plain files, or the only variant there is.

        Raises VideoError naming a folder of another kind, or the part that cannot be read; FileNotFoundError.
        """
        folder, device = find_folder(source, variant=variant), best_device(device)
        check_kind(folder)
        parts = load_parts(folder, device=device, variant=variant)
        unet = load_unet(folder, variant).to(device)
        return cls(**parts, source=str(source), dtype=dtype, unet=unet)

    @torch.no_grad()
    def generate_images(
        self,
        prompts: str | Sequence[str],
        *,
        steps: int = 20,
        guidance_scale: float = 7.5,
        negative_prompt: str = "",
        seed: int = 0,
        sampler: SamplerName | Sampler = "ddim",
        size: int | tuple[int, int] | None = None,
        batch_size: int = 8,
        on_step: OnStep | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """One picture per prompt, uint8 [n, H, W, 3].

        Args:
            prompts: one or several.
            steps: denoising steps.
            guidance_scale: classifier-free guidance; 1 uses the prompt alone.
            negative_prompt: what guidance leads away from.
            seed: picture i uses seed + i, whatever the batch.
            sampler: see `run_sampler`.
            size: H = W, or (H, W), in pixels; default: what the unet was trained at.
            batch_size: pictures denoised at once.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        height, width = self.latent_size(size, self.unet.config)
        text, empty = self.encode_text(prompts), self.encode_text([negative_prompt])
        pictures = []
        for first in range(0, len(prompts), batch_size):
            cond = text[first : first + batch_size]
            noise = PerSampleNoise([seeded(seed + first + i) for i in range(len(cond))])
            x = noise.randn_like(torch.empty(len(cond), self.codec.channels, height, width, device=self.device))
            denoiser = guided(self.denoiser(self._unet), guidance_scale, empty.expand_as(cond))
            x = run_sampler(
                sampler,
                self.schedule,
                denoiser,
                x,
                cond,
                steps=steps,
                generator=noise.generators,
                on_step=on_step,
                progress=progress,
            )
            pictures.append(self.decode_latents(x).cpu())
        return to_uint8(torch.cat(pictures))

    def _unet(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return self.unet(x, t, encoder_hidden_states=text, return_dict=False)[0]


def best_device(device: torch.device | str | None) -> torch.device:
    """The device asked for; of None the GPU, under `accelerate launch` this process's own, else the CPU."""
    if device is not None:
        return torch.device(device)
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def load_parts(folder: Path, *, device: torch.device | str, variant: str | None) -> dict[str, Any]:
    """The parts of a `LatentSpace` by name, of a folder that `check_kind` has passed."""
    config = folder / "scheduler" / "scheduler_config.json"
    schedule = Schedule.from_config(read_object(config), str(config))
    tokenizer, text_encoder = load_text(folder, variant)
    return {
        "schedule": schedule,
        "tokenizer": tokenizer,
        "text_encoder": text_encoder.to(device),
        "vae": load_vae(folder, variant).to(device),
    }


def seeded(seed: int) -> torch.Generator:
    """A CPU generator, so that a seed means the same noise on every device. VideoError for a seed below 0."""
    if not 0 <= seed < 2**63:
        raise VideoError(f"seed: expected 0 to 2^63 - 1, found {seed}")
    return torch.Generator().manual_seed(seed)


def to_uint8(frames: Tensor) -> Tensor:
    """uint8 [F, H, W, 3] of frames [F, 3, H, W] in [-1, 1]."""
    return ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

"""Frames to latents and back, a few frames at a time, each clip encoded once.

Shape letters: F frames, H W picture size, C latent channels, h w latent size.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from ..common.diffusion import as_noise
from ..common.diffusion.noise import Randomness
from .errors import VideoError

REMEMBERED = 4  # clips whose latents are kept; 24 frames of 512 x 512 take 3 MB


class FrameCodec:
    """A VAE with its scaling: pictures in [-1, 1] <-> latents of about unit variance (Rombach et al. 2022).

    `chunk` frames go through the VAE at once, which bounds the memory; frames do not see each other, so that the
    result does not depend on it. The VAE works in float32.
    """

    def __init__(self, vae: Any, *, chunk: int = 4) -> None:
        if chunk < 1:
            raise VideoError(f"chunk: expected at least 1 frame, found {chunk}")
        self.vae = vae
        self.chunk = chunk
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(vae.config.get("shift_factor") or 0.0)
        self._posteriors: OrderedDict[bytes, tuple[Tensor, Tensor]] = OrderedDict()

    @property
    def factor(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """C."""
        return int(self.vae.config.latent_channels)

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w). Raises VideoError unless both sides are multiples of `factor`."""
        if height % self.factor or width % self.factor or height < 1 or width < 1:
            raise VideoError(f"pictures of {width}x{height}: both sides must be multiples of {self.factor}")
        return height // self.factor, width // self.factor

    @torch.no_grad()
    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [F, C, h, w] of the latents of frames [F, 3, H, W] in [-1, 1], scaled.

        Remembered by content: the same clip costs nothing the second time.
        """
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise VideoError(f"frames: expected [F, 3, H, W], found {list(frames.shape)}")
        self.latent_size(*frames.shape[2:])
        frames = frames.detach().float().cpu().contiguous()
        key = str(list(frames.shape)).encode() + hashlib.blake2b(frames.numpy().tobytes()).digest()
        if key not in self._posteriors:
            found = [self.vae.encode(part.to(self.vae.device)).latent_dist for part in frames.split(self.chunk)]
            mean = (torch.cat([part.mean for part in found]) - self.shift) * self.scale
            self._posteriors[key] = mean, torch.cat([part.std for part in found]) * self.scale
        self._posteriors.move_to_end(key)
        while len(self._posteriors) > REMEMBERED:
            self._posteriors.popitem(last=False)
        return self._posteriors[key]

    def encode(self, frames: Tensor, generator: Randomness = None) -> Tensor:
        """Latents [F, C, h, w]: the posterior's mean, or a sample of it where a generator is given."""
        mean, std = self.posterior(frames)
        return mean if generator is None else mean + std * as_noise(generator).randn_like(mean)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Frames [F, 3, H, W], float32 in [-1, 1], of latents [F, C, h, w].

        Raises VideoError for latents that are not finite: the net has diverged, and the frames would be noise or black.
        """
        if latents.ndim != 4 or latents.shape[1] != self.channels:
            raise VideoError(f"latents: expected [F, {self.channels}, h, w], found {list(latents.shape)}")
        if not bool(latents.isfinite().all()):
            raise VideoError("the latents to decode are not finite: the network that made them has diverged")
        raw = latents.to(self.vae.device, torch.float32) / self.scale + self.shift
        return torch.cat([self.vae.decode(part).sample.clamp(-1, 1) for part in raw.split(self.chunk)])

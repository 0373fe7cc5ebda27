"""Single pictures of the sprites world with their captions: what a text-to-image model is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .render import SpriteClip, sprite_clip
from .words import VALUES, VISIBLE, Scene, caption, sample_scene

NUM_FRAMES = 8
HELD_OUT_START = 1_000_000_000  # scenes from here on are never trained on


@dataclass(frozen=True)
class SpritePictures:
    """Picture i of the world: a random frame of scene `start + i`. Made when asked for; `len` pictures in all.

    held_out: as in `sample_scene`. `pictures[i]` is {"pixels": uint8 [3, S, S], "mask": bool [1, S, S], true on the
    sprite, "labels": long [6], one class per visible attribute}.
    """

    length: int
    start: int = 0
    held_out: bool | None = False
    size: int = 64

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """The scene of picture `index`."""
        return sample_scene(self.start + index, held_out=self.held_out)

    def picture(self, index: int) -> np.ndarray:
        """uint8 [S, S, 3]."""
        return self._rendered(index).clip.frames[0]

    def caption(self, index: int, variant: int = 0) -> str:
        """What somebody might say of it; other variants say it otherwise."""
        return caption(self.scene(index), np.random.default_rng((self.start + index, 11, variant)))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        made = self._rendered(index)
        pixels = torch.from_numpy(made.clip.frames[0]).permute(2, 0, 1)
        labels = labels_of(made.scene)
        return {"pixels": pixels.contiguous(), "mask": torch.from_numpy(made.masks), "labels": labels}

    def _rendered(self, index: int) -> SpriteClip:
        frame = int(np.random.default_rng((self.start + index, 7)).integers(NUM_FRAMES))
        return sprite_clip(self.scene(index), NUM_FRAMES, self.size, frames=[frame])


def labels_of(scene: Scene) -> Tensor:
    """[6] long: the class of every visible attribute, in the order of `VISIBLE`."""
    return torch.tensor([VALUES[name].index(getattr(scene, name)) for name in VISIBLE])


def as_signal(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1

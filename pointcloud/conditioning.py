"""What points are denoised under: class, shape latent, and where clouds lie in a packed row.

Shape letters: B clouds, N points, M points of a packed row, Z shape latent, C condition width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..common.nn import TimeEmbedding
from .errors import PointCloudError

NO_CLASS = -1
CLASS_STREAM = 0xC1A55  # keeps the choice of a class apart from the noise of the same seed


@dataclass(frozen=True, eq=False)
class PointCondition:
    """The condition of B clouds; whatever is None is unknown for all of them."""

    labels: Tensor | None = None
    """Long [B], the class of each cloud, NO_CLASS where it is not told."""
    shape: Tensor | None = None
    """[B, Z], the latent of each cloud."""
    has_shape: Tensor | None = None
    """Bool [B], False where the latent is not told; None: it is told for all."""
    lens: tuple[int, ...] | None = None
    """Points of each cloud where clouds of different sizes are packed in one row [1, M, 3]; None: [B, N, 3]."""


class ConditionEmbedding(nn.Module):
    """Noise level + class + shape latent -> [B, C], one vector per cloud; each has a learned "not told"."""

    def __init__(self, width: int, *, num_classes: int, latent_dim: int, time_width: int = 128) -> None:
        super().__init__()
        self.width, self.num_classes, self.latent_dim = width, num_classes, latent_dim
        self.time_in = TimeEmbedding(time_width, width)
        self.class_in = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.latent_in = nn.Linear(latent_dim, width) if latent_dim else None
        self.no_latent = nn.Parameter(torch.zeros(width)) if latent_dim else None
        if self.class_in is not None:
            nn.init.normal_(self.class_in.weight, std=0.02)

    def forward(self, t: Tensor, cond: PointCondition) -> Tensor:
        """t [B], what the path says of the noise level -> [B, C].

        Raises PointCloudError for a class or a latent that the model was not built for.
        """
        c = self.time_in(t)
        if self.class_in is not None:
            c = c + self.class_in(self._class_rows(cond.labels, t))
        elif cond.labels is not None and bool((cond.labels != NO_CLASS).any()):
            raise PointCloudError("labels: this model knows no classes")
        if self.latent_in is not None and self.no_latent is not None:
            c = c + self._latent(cond, len(t))
        elif cond.shape is not None:
            raise PointCloudError("shape: this model has no shape latent (latent_dim is 0)")
        return c

    def _class_rows(self, labels: Tensor | None, t: Tensor) -> Tensor:
        if labels is None:
            return torch.full(t.shape, self.num_classes, device=t.device)
        if labels.shape != t.shape:
            raise PointCloudError(f"labels: expected one for each of {len(t)} clouds, found shape {list(labels.shape)}")
        if labels.device.type == "cpu" and bool(((labels < NO_CLASS) | (labels >= self.num_classes)).any()):
            found = f"{int(labels.min())} to {int(labels.max())}"
            raise PointCloudError(f"labels: expected {NO_CLASS} to {self.num_classes - 1}, found {found}")
        return torch.where(labels == NO_CLASS, self.num_classes, labels)

    def _latent(self, cond: PointCondition, clouds: int) -> Tensor:
        assert self.latent_in is not None
        assert self.no_latent is not None
        if cond.shape is None:
            return self.no_latent
        if cond.shape.shape != (clouds, self.latent_dim):
            expected, found = [clouds, self.latent_dim], list(cond.shape.shape)
            raise PointCloudError(f"shape: expected latents {expected}, found {found}")
        told = self.latent_in(cond.shape.to(self.latent_in.weight.dtype))
        if cond.has_shape is None:
            # Distributed training waits for a gradient of every parameter.
            return told + 0.0 * self.no_latent
        return torch.where(cond.has_shape[:, None], told, self.no_latent.to(told.dtype))


def class_labels(
    class_name: str | Sequence[str | None] | None,
    seeds: Sequence[int],
    known: Sequence[str],
    counts: Sequence[int] = (),
) -> Tensor:
    """Long [B]: the class of each of B clouds; NO_CLASS for all where none are known.

    class_name: one for all, or one for each; None draws one by the cloud's seed, as often as `counts` says (evenly
    where it is empty). Raises PointCloudError for an unknown class, ValueError for another number of names.
    """
    names = [class_name] * len(seeds) if class_name is None or isinstance(class_name, str) else list(class_name)
    if len(names) != len(seeds):
        raise ValueError(f"class_name: expected one name, or one for each of {len(seeds)} clouds, found {names}")
    for name in names:
        if name is not None and name not in known:
            expected = f"known: {', '.join(known)}" if known else "this model knows no classes"
            raise PointCloudError(f"class_name: no class {name!r}; {expected}")
    if not known:
        return torch.full((len(seeds),), NO_CLASS)
    shares = np.array(counts or [1] * len(known), dtype=np.float64)
    drawn = [np.random.default_rng([CLASS_STREAM, s]).choice(len(known), p=shares / shares.sum()) for s in seeds]
    return torch.tensor([int(d) if n is None else known.index(n) for n, d in zip(names, drawn, strict=True)])

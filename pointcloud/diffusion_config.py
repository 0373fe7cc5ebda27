"""What a `PointDiffusion` is made of, as it is saved beside its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tyro.conf import Suppress

from .latent import LatentPriorConfig, ShapeEncoderConfig
from .normalise import Normalisation
from .transformer import PointTransformerConfig


@dataclass(frozen=True)
class PointDiffusionConfig:
    """The nets, what they were trained on, and how they are sampled.

    What training takes from its data is no flag of its command: the fields marked `Suppress`.
    """

    net: PointTransformerConfig = field(default_factory=PointTransformerConfig)
    """The point transformer."""
    latent_dim: int = 32
    """Width of the shape latent; 0 leaves out encoder and prior."""
    encoder: ShapeEncoderConfig = field(default_factory=ShapeEncoderConfig)
    """The encoder of the shape latent."""
    prior: LatentPriorConfig = field(default_factory=LatentPriorConfig)
    """The prior over the shape latent."""
    prediction: Literal["v", "x0", "velocity"] = "v"
    """What the net predicts."""
    sampling_shift: float = 1.0
    """Noise levels of the sampling grid times this, see `shifted_time`."""
    class_names: Suppress[tuple[str, ...]] = ()
    """Classes the model knows; none: it is not conditioned on a class."""
    class_counts: Suppress[tuple[int, ...]] = ()
    """Training clouds of each class: how often a class is drawn where none is asked for; empty: evenly."""
    normalisation: Suppress[Normalisation] = field(default_factory=Normalisation)
    """Statistics of the training set; what is generated comes back in its units."""

    def __post_init__(self) -> None:
        if self.latent_dim < 0:
            raise ValueError(f"latent_dim: must be at least 0, found {self.latent_dim}")
        if self.sampling_shift <= 0:
            raise ValueError(f"sampling_shift: must be positive, found {self.sampling_shift}")
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"class_names: expected each name once, found {', '.join(self.class_names)}")
        if self.class_counts and len(self.class_counts) != len(self.class_names):
            raise ValueError(f"class_counts: found {len(self.class_counts)} for {len(self.class_names)} classes")

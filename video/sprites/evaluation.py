"""The held-out figures of the shipped base: reconstruction, and whether pictures are what their captions say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..samplers import SamplerName
from ..text_to_image import TextToImage
from .autoencoder import reconstruction_psnr
from .classifier import AttributeClassifier, classifier_accuracy, shares
from .pictures import HELD_OUT_START
from .words import VISIBLE, Scene, caption, sample_scene


@dataclass(frozen=True)
class BaseFigures:
    """All in shares of 1 but the PSNR in dB.

    text_to_image: share of held-out captions whose picture shows the attribute; `all`: all six at once.
    classifier: the same for rendered pictures of known attributes, which is the ceiling of the former.
    """

    psnr: float
    text_to_image: dict[str, float]
    classifier: dict[str, float]
    num_captions: int
    steps: int
    guidance_scale: float
    sampler: SamplerName

    def table(self) -> str:
        """Markdown."""
        names = [*VISIBLE, "all"]
        rows = [
            "| | " + " | ".join(names) + " |",
            "|---|" + "---:|" * len(names),
            "| rendered pictures (the classifier's own accuracy) | " + _cells(self.classifier, names),
            f"| text-to-image, {self.steps} steps of {self.sampler}, guidance {self.guidance_scale:g} | "
            + _cells(self.text_to_image, names),
        ]
        return f"autoencoder: {self.psnr:.2f} dB; {self.num_captions} held-out captions\n\n" + "\n".join(rows)


def _cells(shares: dict[str, float], names: Sequence[str]) -> str:
    return " | ".join(f"{shares[name]:.3f}" for name in names) + " |"


def held_out_scenes(count: int) -> list[Scene]:
    """Scenes with combinations of colour, shape and background that no training picture has."""
    return [sample_scene(HELD_OUT_START + i, held_out=True) for i in range(count)]


def visible_attributes(scene: Scene) -> dict[str, str]:
    """What one picture of the scene shows."""
    return {name: getattr(scene, name) for name in VISIBLE}


def text_to_image_accuracy(
    base: TextToImage,
    classifier: AttributeClassifier,
    scenes: Sequence[Scene],
    *,
    steps: int = 20,
    guidance_scale: float = 3.0,
    sampler: SamplerName = "ddim",
    seed: int = 0,
    batch_size: int = 32,
    progress: Callable[[Any], Any] = iter,
) -> tuple[dict[str, float], np.ndarray]:
    """({attribute: share right, "all": share with all right}, the pictures uint8 [n, 64, 64, 3])."""
    pictures = []
    for start in progress(range(0, len(scenes), batch_size)):
        prompts = [caption(scene) for scene in scenes[start : start + batch_size]]
        pictures.append(
            base.generate_images(
                prompts, steps=steps, guidance_scale=guidance_scale, sampler=sampler, seed=seed + start
            )
        )
    drawn = np.concatenate(pictures)
    return shares(classifier.read(drawn), [visible_attributes(scene) for scene in scenes]), drawn


def evaluate_base(
    base: TextToImage,
    classifier: AttributeClassifier,
    *,
    num_captions: int = 500,
    steps: int = 20,
    guidance_scale: float = 3.0,
    sampler: SamplerName = "ddim",
    progress: Callable[[Any], Any] = iter,
) -> tuple[BaseFigures, np.ndarray]:
    """The figures, and the pictures drawn for the first captions, uint8 [num_captions, 64, 64, 3]."""
    scores, drawn = text_to_image_accuracy(
        base,
        classifier,
        held_out_scenes(num_captions),
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        progress=progress,
    )
    figures = BaseFigures(
        psnr=reconstruction_psnr(base.vae),
        text_to_image=scores,
        classifier=classifier_accuracy(classifier),
        num_captions=num_captions,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
    )
    return figures, drawn

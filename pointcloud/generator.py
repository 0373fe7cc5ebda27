"""One way to open and ask every model that draws clouds: the point transformer, and the generators of Luo & Hu."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..common.pretrained import open_pretrained
from .cloud import PointCloud
from .diffusion import PointDiffusion
from .errors import PointCloudError
from .luo_hu import AutoEncoder, FlowVAE, GaussianVAE
from .luo_hu.model import lower_precision
from .luo_hu.process import SamplerName as LuoHuSamplerName
from .process import DEFAULT_SAMPLER, DEFAULT_STEPS, SamplerName

Generator = PointDiffusion | GaussianVAE
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Drawing:
    """How clouds are drawn. Fields that are None take what the model was made for."""

    num_points: int = 2048
    """Points of a cloud, any number."""
    steps: int | None = None
    """Denoising steps: 20 for a point transformer, all 100 of its chain for a model of Luo & Hu."""
    sampler: SamplerName | None = None
    """dpmsolver++ for a point transformer, ddpm for a model of Luo & Hu; heun and ode ask the net twice a step."""
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1 is none. A model of Luo & Hu has none."""
    precision: Precision = "float32"
    """Of the inner products of the nets."""

    def title(self, model: Generator) -> str:
        """What a table calls these settings."""
        ours = isinstance(model, PointDiffusion)
        steps = self.steps or (DEFAULT_STEPS if ours else model.config.num_steps)
        guidance = "" if self.guidance_scale == 1 else f", guidance {self.guidance_scale:g}"
        return f"{self.sampler or (DEFAULT_SAMPLER if ours else 'ddpm')}, {steps} steps{guidance}"


def open_generator(model: str | Path, device: torch.device | str | None = None) -> Generator:
    """A packaged name, a folder written by training or conversion, or a hub id.

    Raises FileNotFoundError, WeightsError; PointCloudError for an autoencoder, which draws nothing by itself.
    """
    found = open_pretrained(model, (PointDiffusion, FlowVAE, GaussianVAE, AutoEncoder), device=device)
    if isinstance(found, AutoEncoder):
        raise PointCloudError(f"{model}: an autoencoder has no prior to draw shapes from; expected a generator")
    assert isinstance(found, PointDiffusion | GaussianVAE)
    return found


def classes_of(model: Generator) -> tuple[str, ...]:
    """The classes a model can be asked for; none where it knows no classes."""
    return model.config.class_names if isinstance(model, PointDiffusion) else ()


def check_drawing(model: Generator, drawing: Drawing) -> None:
    """Raises PointCloudError for settings that `model` does not have, before anything is drawn."""
    if drawing.num_points < 1:
        raise PointCloudError(f"num_points: expected at least 1, found {drawing.num_points}")
    if drawing.steps is not None and drawing.steps < 1:
        raise PointCloudError(f"steps: expected at least 1, found {drawing.steps}")
    if isinstance(model, PointDiffusion):
        return
    if drawing.guidance_scale != 1:
        raise PointCloudError(f"guidance_scale: this model has no guidance, found {drawing.guidance_scale:g}")
    if drawing.steps is not None and drawing.steps > model.config.num_steps:
        raise PointCloudError(f"steps: this model has {model.config.num_steps}, found {drawing.steps}")
    if drawing.sampler is not None and drawing.sampler not in get_args(LuoHuSamplerName):
        expected = ", ".join(get_args(LuoHuSamplerName))
        raise PointCloudError(f"sampler: a model of Luo & Hu has {expected}; found {drawing.sampler!r}")


def draw(
    model: Generator,
    num_clouds: int,
    drawing: Drawing,
    *,
    class_name: str | Sequence[str | None] | None = None,
    seed: int = 0,
    progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
) -> list[PointCloud]:
    """Clouds in the units of the training data; cloud i uses seed + i.

    Raises PointCloudError and ValueError as `PointDiffusion.generate` and `GaussianVAE.generate`, and where a model of
    Luo & Hu is asked for a class or guidance, which it does not know.
    """
    check_drawing(model, drawing)
    if isinstance(model, PointDiffusion):
        with lower_precision(drawing.precision, model.device):
            return model.generate(
                num_clouds,
                drawing.num_points,
                class_name=class_name,
                guidance_scale=drawing.guidance_scale,
                steps=DEFAULT_STEPS if drawing.steps is None else drawing.steps,
                sampler=drawing.sampler or DEFAULT_SAMPLER,
                seed=seed,
                progress=progress,
            )
    if class_name is not None and not (isinstance(class_name, Sequence) and set(class_name) == {None}):
        raise PointCloudError(f"class_name: this model knows no classes, found {class_name!r}")
    return model.generate(
        num_clouds,
        drawing.num_points,
        seed=seed,
        sampler=drawing.sampler or "ddpm",  # pyright: ignore[reportArgumentType]  # checked above
        steps=drawing.steps,
        precision=drawing.precision,
        progress=progress,
    )

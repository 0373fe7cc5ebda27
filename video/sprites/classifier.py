"""Reads the attributes back from a picture: how well text-to-image and edits obey is measured with it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.pretrained import PretrainedModel
from ...common.train import SampleNoise, TrainConfig, TrainResult, train
from .pictures import HELD_OUT_START, SpritePictures, as_signal
from .words import VALUES, VISIBLE


@dataclass(frozen=True)
class ClassifierConfig:
    """channels: after each of the four halvings of the picture."""

    channels: tuple[int, ...] = (24, 48, 72, 96)


class AttributeClassifier(PretrainedModel):
    """A small convolutional net with one head per visible attribute.

    forward: pixels [B, 3, H, W] in [-1, 1], trained at 64 x 64 -> {attribute: logits [B, values]}.
    """

    config_class = ClassifierConfig
    packaged: ClassVar[Mapping[str, str]] = {"sprites": "../pretrained/sprites-classifier"}

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config = config
        widths = (3, *config.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
                nn.Conv2d(after, after, 3, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
            )
            for before, after in itertools.pairwise(widths)
        )
        # Mean for what fills the picture, maximum for what is small in it.
        self.heads = nn.ModuleDict({name: nn.Linear(2 * widths[-1], len(VALUES[name])) for name in VISIBLE})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        x = pixels
        for stage in self.stages:
            x = stage(x)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pictures: np.ndarray) -> list[dict[str, str]]:
        """The attributes of uint8 pictures [n, H, W, 3]: one {attribute: value} each."""
        device = next(self.parameters()).device
        pixels = as_signal(torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)).to(device)
        classes = {name: logits.argmax(1).tolist() for name, logits in self(pixels).items()}
        return [{name: VALUES[name][found[i]] for name, found in classes.items()} for i in range(len(pictures))]


@dataclass(frozen=True)
class ClassifierTraining(TrainConfig):
    """One training run of the classifier."""

    num_pictures: int = 400_000
    """Pictures in the training set, of all combinations."""


def classifier_training() -> ClassifierTraining:
    """The shipped classifier."""
    return ClassifierTraining(
        output_dir=Path("runs/sprites/classifier"),
        train_batch_size=64,
        max_train_steps=7_000,
        learning_rate=3e-3,
        lr_scheduler="cosine",
        lr_warmup_steps=200,
        mixed_precision="auto",
        use_ema=True,
        ema_decay=0.995,
        dataloader_num_workers=1,
    )


def classifier_loss(model: nn.Module, batch: dict[str, Tensor], noise: SampleNoise) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the cross-entropies. The pictures get a little blur and noise: generated ones are never as sharp and clean
    as rendered."""
    pixels = as_signal(batch["pixels"])
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pixels = pixels.lerp(blurred, 0.8 * noise.rand()[:, None, None, None])
    pixels = pixels + 0.1 * noise.rand()[:, None, None, None] * noise.randn_like(pixels)
    logits = model(pixels.to(memory_format=torch.channels_last))
    losses = [F.cross_entropy(logits[name].float(), batch["labels"][:, i]) for i, name in enumerate(VISIBLE)]
    return torch.stack(losses).sum(), {
        f"loss_{name}": loss.detach() for name, loss in zip(VISIBLE, losses, strict=True)
    }


@torch.no_grad()
def classifier_accuracy(classifier: AttributeClassifier, num_pictures: int = 1000) -> dict[str, float]:
    """Share of held-out pictures whose attribute is read rightly, for every attribute."""
    pictures = SpritePictures(num_pictures, start=HELD_OUT_START, held_out=None)
    rendered = np.stack([pictures.picture(i) for i in range(num_pictures)])
    said = [{name: getattr(pictures.scene(i), name) for name in VISIBLE} for i in range(num_pictures)]
    return shares(classifier.read(rendered), said)


def shares(found: Sequence[dict[str, str]], wanted: Sequence[dict[str, str]]) -> dict[str, float]:
    """Share of the pictures whose attribute is as wanted, for every attribute that some are wanted to have; "all":
    share of the pictures that have everything wanted of them."""
    rates = {}
    for name in VISIBLE:
        pairs = [(f[name], w[name]) for f, w in zip(found, wanted, strict=True) if name in w]
        if pairs:
            rates[name] = sum(f == w for f, w in pairs) / len(pairs)
    whole = [all(f[name] == value for name, value in w.items()) for f, w in zip(found, wanted, strict=True)]
    return {**rates, "all": sum(whole) / len(whole)}


def train_classifier(config: ClassifierTraining) -> tuple[AttributeClassifier, TrainResult]:
    """Train it; it comes back with averaged weights."""
    torch.manual_seed(config.seed)
    classifier = AttributeClassifier(ClassifierConfig()).to(memory_format=torch.channels_last)  # pyright: ignore
    data = SpritePictures(config.num_pictures, held_out=None)
    result = train(
        config,
        classifier,
        classifier_loss,
        data,
        validate=lambda model, step: classifier_accuracy(model),  # type: ignore[arg-type]
    )
    if result.ema is not None:
        result.ema.copy_to(classifier)
    return classifier.eval(), result

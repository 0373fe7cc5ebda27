"""Editing with what was tuned: a run is opened with its clip, inverted once, and its edits are written down."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.command_line import show_progress
from .clip import Clip
from .delta import BaseMark, Delta
from .editing import Inversion
from .errors import VideoError
from .metrics import Array
from .pipeline import TuneAVideo
from .read import read_clip
from .run_config import EditSettings, Precision, Reading
from .run_folder import RunFolder, clip_mark
from .trainable import trainable_names


@dataclass(frozen=True, eq=False)
class Opened:
    """A pipeline with the clip it is to edit and the clip's prompt ("" where it is not known).

    `folder`: the run it belongs to, None for another clip than the run's; `weights`: the file that was loaded.
    """

    pipe: TuneAVideo
    clip: Clip
    prompt: str
    folder: RunFolder | None
    weights: Path


def open_run(
    place: Path,
    *,
    clip: Path | None = None,
    model: str | None = None,
    reading: Reading | None = None,
    any_base: bool = False,
    dtype: Precision = "float32",
    device: torch.device | None = None,
) -> Opened:
    """The pipeline and clip of a run folder, of a delta file, or of a folder whose unet is inflated.

    Raises VideoError where no clip is known, FileNotFoundError where the tuning was not finished, and what loading and
    reading raise.
    """
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such run folder or delta")
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "device": device}
    if (place / "model_index.json").is_file():
        pipe, weights, prompt = TuneAVideo.from_pretrained(place, **options), place / "model_index.json", ""
        return Opened(pipe, read_for(pipe, reading or Reading(), _given(clip, place)), prompt, None, weights)
    if not place.is_dir():
        if place.suffix != ".safetensors":
            raise VideoError(f"{place}: expected a run folder, a delta.safetensors or a Tune-A-Video folder")
        path = _given(clip, place)
        pipe = TuneAVideo.from_delta(place, model, any_base=any_base, **options)
        return Opened(pipe, read_for(pipe, reading or Reading(), path), Delta.load(place).prompt, None, place)
    folder = RunFolder(place)
    config = folder.run_config()
    if not folder.delta.is_file():
        raise FileNotFoundError(f"{folder.delta}: no such file; finish the tuning by --resume-from-checkpoint latest")
    pipe = TuneAVideo.from_delta(folder.delta, model, any_base=any_base, **options)
    found = read_for(pipe, reading or config.reading, clip or config.clip)
    same = clip is None and reading is None
    return Opened(pipe, found, config.prompt if clip is None else "", folder if same else None, folder.delta)


def _given(clip: Path | None, place: Path) -> Path:
    if clip is None:
        raise VideoError(f"{place}: which video is to be edited? Only a run folder knows; name it by --clip")
    return clip


def read_for(pipe: TuneAVideo, reading: Reading, path: Path) -> Clip:
    """The clip at a size that the pipeline's VAE takes; by default that which its unet was trained at."""
    factor = pipe.space.codec.factor
    height, width = pipe.space.latent_size(None, pipe.unet.config.unet2d)
    return reading.read(path, default_size=(factor * height, factor * width), multiple=factor)


def inverted(opened: Opened, settings: EditSettings, folder: RunFolder | None) -> Inversion:
    """The inversion that edits with these settings start from; a run folder keeps it for the next time.

    Inverted without a prompt, as in the paper.
    """
    steps, strength = settings.steps, settings.strength
    if folder is None:
        return opened.pipe.invert(opened.clip, steps=steps, strength=strength, progress=show_progress)
    with opened.weights.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    told = f"{weights} {opened.pipe.space.source} {opened.pipe.space.dtype} {clip_mark(opened.clip)} {strength!r}"
    path = folder.inversions / f"{steps}-steps-{hashlib.sha256(told.encode()).hexdigest()[:12]}.safetensors"
    if path.is_file():
        return Inversion.load(path)
    inversion = opened.pipe.invert(opened.clip, steps=steps, strength=strength, progress=show_progress)
    inversion.save(path)
    return inversion


def make_edits(
    opened: Opened,
    prompts: Sequence[str],
    settings: EditSettings,
    folder: RunFolder | None,
    out: Path | None = None,
) -> list[Path]:
    """Edits of one clip from one inversion, each with the seed of `settings`; returns what was written.

    folder: gets samples and the pages that show them. out: a .mp4 or .gif, numbered if there are several prompts.
    """
    if folder is not None:
        folder.set_source(opened.clip, opened.prompt)
    inversion = inverted(opened, settings, folder) if prompts and settings.start == "inversion" else None
    options = dataclasses.asdict(settings)
    facts = {name: value for name, value in options.items() if name != "seed"}
    written = []
    for number, prompt in enumerate(prompts):
        made = opened.pipe.edit(opened.clip, prompt, **options, inversion=inversion, progress=show_progress)
        if folder is not None:
            written.append(folder.add_sample(made, prompt, settings.seed, facts).video)
        if out is not None:
            written.append(out if len(prompts) == 1 else out.with_name(f"{out.stem}-{number}{out.suffix}"))
            made.save(written[-1])
    if folder is not None:
        written += folder.save_gallery(facts={"model": opened.pipe.space.source})
    return written


def read_mask(path: Path, like: Clip) -> Array:
    """bool [F, H, W] from a folder of pictures, a video, or one picture for all frames: True where it is light.

    Raises VideoError for another number of frames or another size.
    """
    light = read_clip(path).frames.mean(-1) > 127
    if len(light) == 1:
        light = np.repeat(light, like.num_frames, axis=0)
    if light.shape != like.frames.shape[:3]:
        found = f"{len(light)} frames of {light.shape[2]}x{light.shape[1]}"
        raise VideoError(f"{path}: a mask of {found} for {like.num_frames} frames of {like.width}x{like.height}")
    return light


def delta_between(base: TuneAVideo, tuned: TuneAVideo, source: Path) -> Delta:
    """What a tuned pipeline has that its untuned base has not: the published selection, and any new tensor.

    `source` names the tuned one in errors. Raises VideoError where another tensor differs by more than half precision
    rounds: then `base` is not what it was tuned from, or all of it was tuned.
    """
    before, after = (dict(pipe.unet.named_parameters()) for pipe in (base, tuned))
    if {n: p.shape for n, p in before.items()} != {n: p.shape for n, p in after.items()}:
        raise VideoError(f"{source}: its unet has other tensors than that of {base.space.source}, its base by --base")
    chosen = set(trainable_names(tuned.unet, "queries_and_temporal")) | {n for n in after if ".norm_temp." in n}
    other = [n for n in after if n not in chosen and not torch.allclose(after[n], before[n], rtol=2**-8, atol=1e-6)]
    if other:
        raise VideoError(
            f"{source}: {len(other)} tensors that Tune-A-Video does not train differ from those of "
            f"{base.space.source} ({', '.join(other[:3])}); it was tuned from another base, or all of it was tuned: "
            "convert it without --base"
        )
    return Delta(
        tensors={name: after[name].detach() for name in after if name in chosen},
        base=base.space.source,
        mark=BaseMark.of(base.unet),
        selection="queries_and_temporal",
        temporal_init="original",
        group_norm=tuned.unet.config.group_norm,
    )

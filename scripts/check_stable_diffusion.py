"""Everything a user does with Stable Diffusion, at its exact shapes: load, tune, save, invert, edit, write an MP4.

    python scripts/check_stable_diffusion.py sd-1.4
    python scripts/check_stable_diffusion.py sd-2.1 --precision bfloat16 --files bin

The weights are random, written here in half precision by diffusers and transformers, so nothing is downloaded and the
pictures mean nothing: what is checked are the parameter counts, that every phase ends in finite numbers, and the
memory. Prints a table of seconds and peak memory; exit status 1 where something is not as expected.
"""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging
from trifold.common.weights import write_json
from trifold.video.errors import VideoError
from trifold.video.pipeline import TuneAVideo
from trifold.video.read import read_clip
from trifold.video.sprites.render import sprite_clip
from trifold.video.sprites.words import sample_scene
from trifold.video.trainable import trainable_names
from trifold.video.tuning import VideoTuning

Which = Literal["sd-1.4", "sd-2.1"]
VOCABULARY = 49408
# The checkpoints on the hub are from before diffusers renamed the layers of the VAE's attention.
OLD_VAE_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


@dataclass(frozen=True)
class Shape:
    """The published configs of one model, where they are not the libraries' defaults, and what inflating it gives.

    parameters: of the inflated unet; new: those the image unet does not have; trainable: by the paper's selection.
    """

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    parameters: int
    new: int = 49_599_040
    trainable: int = 74_354_880


UNET = {"sample_size": 64, "cross_attention_dim": 768}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SHAPES: Mapping[Which, Shape] = {
    "sd-1.4": Shape(UNET, VAE, TEXT, {"_class_name": "PNDMScheduler", **BETAS}, 909_120_004),
    "sd-2.1": Shape(
        {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        {**VAE, "sample_size": 768},
        {
            **TEXT,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "projection_dim": 512,
            "hidden_act": "gelu",
        },
        {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", **BETAS},
        915_509_764,
    ),
}


# ---------------------------------------------------------------------------------------------------- the folder


def write_folder(folder: Path, shape: Shape, *, old: bool = False) -> None:
    """A Stable Diffusion folder of random weights in half precision, one network in memory at a time.

    `old`: as the hub has had it for longest: .bin files under the tensor names of that time.
    """
    torch.manual_seed(0)
    with half_precision():
        AutoencoderKL(**shape.vae).save_pretrained(folder / "vae", safe_serialization=not old)
        CLIPTextModel(CLIPTextConfig(**shape.text)).save_pretrained(folder / "text_encoder")
        UNet2DConditionModel(**shape.unet).save_pretrained(folder / "unet", safe_serialization=not old)
    if old:
        rename_as_of_old(folder)
    write_tokenizer(folder / "tokenizer", int(shape.text["vocab_size"]))
    write_json(folder / "scheduler" / "scheduler_config.json", dict(shape.scheduler))
    parts = {
        "scheduler": ["diffusers", shape.scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", **parts})


@contextlib.contextmanager
def half_precision() -> Iterator[None]:
    """Networks are made in float16 from the start: the largest would take 3.4 GB in float32 before it is converted."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def rename_as_of_old(folder: Path) -> None:
    """The VAE's attention and the text model under their former names, the latter in a .bin file too."""
    path = folder / "vae" / "diffusion_pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    torch.save({old_vae_name(name): tensor for name, tensor in tensors.items()}, path)
    path = folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(path).items()}
    tokens = len(tensors["text_model.embeddings.position_embedding.weight"])
    torch.save(
        tensors | {"text_model.embeddings.position_ids": torch.arange(tokens)[None]},
        path.with_name("pytorch_model.bin"),
    )
    path.unlink()


def old_vae_name(name: str) -> str:
    for new, former in OLD_VAE_NAMES.items():
        if ".attentions." in name:
            name = name.replace(new, former)
    return name


def write_tokenizer(folder: Path, size: int = VOCABULARY) -> None:
    """CLIP's byte-level vocabulary with as many tokens; its merges are the first pairs of bytes there are."""
    letters = sorted(ByteLevel.alphabet())
    ends = [f"{letter}</w>" for letter in letters]
    pairs = [(first, second) for first in letters for second in (*letters, *ends)]
    merges = pairs[: size - len(letters) - len(ends) - 2]
    tokens = [*letters, *ends, *(first + second for first, second in merges), "<|startoftext|>", "<|endoftext|>"]
    if len(set(tokens)) != size:
        raise ValueError(f"a vocabulary of {size} tokens: found {len(set(tokens))}")
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})


# ------------------------------------------------------------------------------------------------------ the phases


@dataclass
class Report:
    """Seconds and memory of each phase, and what was not as expected."""

    phases: list[tuple[str, float, float]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        print(f"{name} ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        yield
        gc.collect()
        self.phases.append((name, time.perf_counter() - start, peak_gib()))

    def expect(self, what: str, found: object, expected: object) -> None:
        """Note it where the two differ."""
        if found != expected:
            self.problems.append(f"{what}: expected {expected}, found {found}")

    def table(self) -> str:
        """Markdown."""
        rows = ["| phase | seconds | peak memory so far (GiB) |", "|---|---:|---:|"]
        rows += [f"| {name} | {seconds:.1f} | {peak:.2f} |" for name, seconds, peak in self.phases]
        rows += ["", "| parameters | |", "|---|---:|", *(f"| {name} | {n:,} |" for name, n in self.counts.items())]
        return "\n".join(rows)


def peak_gib() -> float:
    """The most memory this process has held, in GiB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of 1024 bytes; macOS counts bytes
    return kilobytes / 2**30 if sys.platform == "darwin" else kilobytes / 2**20


@dataclass(frozen=True)
class Check:
    """What to check, and how."""

    which: Annotated[Which, tyro.conf.Positional]
    """Whose shapes."""
    size: int = 256
    """Sides of the clip in pixels."""
    num_frames: int = 8
    """Frames of the clip."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the unet's forward pass, in tuning and in sampling."""
    files: Literal["safetensors", "bin"] = "safetensors"
    """How the weights are stored; bin also takes the tensor names of the files on the hub."""
    keep: Path | None = None
    """A new folder for the model, the delta and the MP4; by default they are deleted."""
    limit_gib: float = 24.0
    """Memory that must be enough."""


def check(config: Check, folder: Path, shape: Shape) -> Report:
    """Run all phases in an empty folder."""
    report = Report()
    with report.phase("write the folder"):
        write_folder(folder / "model", shape, old=config.files == "bin")
    truth = sprite_clip(sample_scene(0), config.num_frames, config.size)
    with report.phase("load and inflate"):
        pipe = TuneAVideo.from_text_to_image(folder / "model", dtype=getattr(torch, config.precision))
    count_parameters(report, pipe, shape)
    with report.phase("tune, one step"):
        tuning = VideoTuning(
            output_dir=folder / "run",
            max_train_steps=1,
            mixed_precision="bf16" if config.precision == "bfloat16" else "no",
            report_to="none",
        )
        result = pipe.tune(truth.clip, truth.caption, tuning)
    report.expect("the loss is finite", bool(torch.isfinite(torch.tensor(result.metrics["loss"]))), True)
    with report.phase("save the delta, reset, load it"):
        before = sums(pipe.unet)
        size = pipe.save_delta(folder / "delta.safetensors").stat().st_size
        pipe.reset()
        report.expect("reset undoes the tuning", sums(pipe.unet) != before, True)
        pipe.load_delta(folder / "delta.safetensors")
        report.expect("the delta brings it back", sums(pipe.unet) == before, True)
    report.counts["bytes of the delta"] = size
    with report.phase("invert, one step"):
        inversion = pipe.invert(truth.clip, steps=1)
    report.expect("the inversion is finite", bool(inversion.latents.isfinite().all()), True)
    with report.phase("edit, one step"):
        edited = pipe.edit(truth.clip, "a panda is skiing", steps=1, inversion=inversion)
    with report.phase("write and read the MP4"):
        edited.save(folder / "edit.mp4")
        again = read_clip(folder / "edit.mp4")
    report.expect("frames of the MP4", again.frames.shape, (config.num_frames, config.size, config.size, 3))
    report.expect("its rate", again.fps, truth.clip.fps)
    peak = report.phases[-1][2]
    report.expect(f"within {config.limit_gib:g} GiB (peak {peak:.2f})", peak <= config.limit_gib, True)
    return report


def count_parameters(report: Report, pipe: TuneAVideo, shape: Shape) -> None:
    """Note the three numbers, and any that is not the published one's."""
    sizes = {name: p.numel() for name, p in pipe.unet.named_parameters()}
    found = {
        "inflated unet": sum(sizes.values()),
        "new": sum(n for name, n in sizes.items() if "_temp." in name),
        "trainable": sum(sizes[name] for name in trainable_names(pipe.unet)),
    }
    expected = (shape.parameters, shape.new, shape.trainable)
    for (name, count), wanted in zip(found.items(), expected, strict=True):
        report.expect(f"parameters, {name}", count, wanted)
    report.counts |= found


def sums(unet: nn.Module) -> list[float]:
    """What tells two tunings apart: the sums of all trainable tensors, exact to the bit."""
    chosen = dict(unet.named_parameters())
    return [float(chosen[name].detach().double().sum()) for name in trainable_names(unet)]


def main(config: Check) -> int:
    """Returns the exit status."""
    if config.keep is not None and config.keep.exists() and any(config.keep.iterdir()):
        raise VideoError(f"{config.keep}: is there already; name a new folder")
    logging.disable_progress_bar()  # of single tensors, gone in a blink
    with contextlib.ExitStack() as stack:
        folder = config.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trifold-")))
        report = check(config, folder, SHAPES[config.which])
    print(f"{config.which}, {config.num_frames} frames of {config.size} x {config.size}, {config.precision}\n")
    print(report.table())
    for problem in report.problems:
        print(f"not as expected: {problem}", file=sys.stderr)
    return 1 if report.problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Check, description=__doc__)))
    except VideoError as error:
        sys.exit(f"check_stable_diffusion: {error}")

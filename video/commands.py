"""`trifold video ...`: what the console command runs. tyro makes flags and help from the signatures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from ..common.command_line import Device, check_folder, check_output, run_commands, show_progress, torch_device
from ..common.train import process_state
from ..common.weights import write_json
from .container import import_av
from .errors import VideoError
from .evaluation import ClipScorer, Report, evaluate_edits, evaluate_reconstruction, round_trip, vae_round_trip
from .flow import FlowMethod
from .run_config import EditSettings, Precision, Reading, VideoRun
from .run_folder import RunFolder

Flat = tyro.conf.arg(name="")
SUFFIXES = (".mp4", ".gif", "")


def tune(config: Annotated[VideoRun, Flat]) -> None:
    """Tune a text-to-image model on one clip; the run folder keeps all that editing needs.

    Interrupted (Ctrl-C), it goes on with --resume-from-checkpoint latest and the same words.
    """
    from .pipeline import TuneAVideo
    from .run_edits import Opened, make_edits, read_for

    if not config.prompt.strip():
        raise VideoError("prompt: expected a text that says what the clip shows, found none")
    model = str(Path(config.model).resolve()) if Path(config.model).is_dir() else config.model
    config = dataclasses.replace(config, clip=config.clip.resolve(), model=model)
    check_folder(config.output_dir)
    import_av()
    pipe = TuneAVideo.from_text_to_image(
        config.model,
        temporal_init=config.temporal_init,
        group_norm=config.group_norm,
        seed=config.seed,
        dtype=getattr(torch, config.dtype),
    )
    clip = read_for(pipe, config.reading, config.clip)
    first = process_state().is_main_process
    if first:
        print(f"{config.clip.name}: {clip.note}", flush=True)
    result = pipe.tune(clip, config.prompt, config)
    if not first:
        return
    run = RunFolder(config.output_dir)
    if result.interrupted:
        print(f"stopped at step {result.step}; go on with --resume-from-checkpoint latest")
        return
    opened = Opened(pipe, clip, config.prompt, run, run.delta)
    for path in (run.delta, *make_edits(opened, config.edit_prompts, config.edit, run)):
        print(path)


def edit(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    *,
    prompt: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-p"])],
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    clip: Path | None = None,
    model: str | None = None,
    settings: Annotated[EditSettings, Flat] = EditSettings(),  # noqa: B008  # frozen
    read: Reading = Reading(),  # noqa: B008
    any_base: bool = False,
    dtype: Precision = "float32",
    device: Device = "auto",
) -> None:
    """Edit a clip by prompts with what was tuned on it.

    Args:
        run: folder written by tuning, a delta.safetensors, or a folder of a converted Tune-A-Video pipeline.
        prompt: what the edited clip shows; several give several edits.
        out: .mp4 or .gif (numbered if there are several prompts), or a folder; a run folder keeps its edits anyway.
        clip: video to edit; by default the one that was tuned on.
        model: text-to-image model that the delta belongs to; by default the one it was tuned on.
        settings: how the edit is sampled.
        read: which frames of the clip are taken; left alone, those that a run was tuned on.
        any_base: accept another base model of the same shape, such as a fine-tuned relative.
        dtype: precision of the denoiser.
        device: where to run; auto takes the GPU if there is one.
    """
    from .run_edits import make_edits, open_run

    if not prompt or not all(p.strip() for p in prompt):
        raise VideoError("prompt: expected a text, found none")
    if out is not None:
        check_output(out, SUFFIXES)
    if not run.exists():
        raise FileNotFoundError(f"{run}: no such run folder or delta")
    reading = None if read == Reading() else read
    if out is None and (clip is not None or reading is not None or not (run / "config.json").is_file()):
        raise VideoError("out: where to? Only edits of a run's own clip go to its folder; give --out")
    opened = open_run(
        run, clip=clip, model=model, reading=reading, any_base=any_base, dtype=dtype, device=torch_device(device)
    )
    file = out if out is not None and out.suffix else None
    folder = opened.folder if out is None or file else RunFolder(out)
    for path in make_edits(opened, prompt, settings, folder, file):
        print(path)


def invert(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_OR_CLIP")],
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("inverted"),
    *,
    prompt: str = "",
    model: str = "sprites",
    steps: int = 50,
    strength: float = 1.0,
    refinements: int = 0,
    read: Annotated[Reading, Flat] = Reading(),  # noqa: B008
    dtype: Precision = "float32",
    device: Device = "auto",
) -> None:
    """Invert a clip by DDIM and sample it back: how faithful the model can be to it.

    Args:
        source: folder written by tuning (its clip, model and tuned weights are taken), or a video file.
        out: folder for inversion.safetensors and reconstruction.mp4.
        prompt: text under which the clip is inverted and sampled again.
        model: for a video file: the untuned text-to-image model.
        steps: of the grid of times.
        strength: below 1 stops at the noise level where an edit of that strength starts.
        refinements: fixed-point iterations per step; each costs one more call of the denoiser.
        read: for a video file: which frames are taken.
        dtype: precision of the denoiser.
        device: where to run.
    """
    from .pipeline import TuneAVideo
    from .run_edits import open_run, read_for

    check_output(out, ("",))
    import_av()
    if source.is_dir() and (source / "config.json").is_file():
        opened = open_run(source, dtype=dtype, device=torch_device(device))
        pipe, clip = opened.pipe, opened.clip
    else:
        pipe = TuneAVideo.from_text_to_image(model, dtype=getattr(torch, dtype), device=torch_device(device))
        clip = read_for(pipe, read, source)
    inversion = pipe.invert(
        clip, prompt, steps=steps, strength=strength, refinements=refinements, progress=show_progress
    )
    inversion.save(out / "inversion.safetensors")
    again, scores = round_trip(pipe, clip, prompt, inversion, progress=show_progress)
    again.save(out / "reconstruction.mp4")
    report = Report({"VAE alone": vae_round_trip(pipe, clip), f"{steps} steps, guidance 1": scores})
    report.save(out / "scores.json")
    print(report.table())
    print(out / "inversion.safetensors", out / "reconstruction.mp4", sep="\n")


def evaluate(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    *,
    mask: Path | None = None,
    flow: FlowMethod = "tvl1",
    clip_model: Path | None = None,
    reconstruction: tuple[int, ...] = (),
    out: Path | None = None,
    device: Device = "auto",
) -> None:
    """Measure the edits of a run against its source, the source's own scores beside them.

    Args:
        run: folder with edits in it. The source and the edits are both read back from their .mp4 files.
        mask: where the edits may act: a folder of pictures or a video (white), or one picture for all frames.
        flow: optical flow, tvl1 or dis (OpenCV's).
        clip_model: folder of a CLIP model (transformers format) for its scores; nothing is downloaded.
        reconstruction: of a tuning run: also invert its clip and sample it again, with so many steps each.
        out: json file for the scores; by default scores.json in the run folder.
        device: where to run.
    """
    from .run_edits import open_run, read_mask

    folder = RunFolder(run)
    source, samples = folder.read_source(), folder.samples()
    if not samples and not reconstruction:
        raise VideoError(f"{run}: no edits to measure; make one by `trifold video edit {run} --prompt ...`")
    if out is not None:
        check_output(out, (".json",))
    target = torch_device(device)
    values: dict[str, Any] = {}
    scores = None
    if samples:
        clip = folder.read_video(folder.source)
        report = evaluate_edits(
            clip,
            {sample.video.stem: folder.read_video(sample.video) for sample in samples},
            prompts={sample.video.stem: sample.prompt for sample in samples},
            source_prompt=source.prompt,
            mask=None if mask is None else read_mask(mask, clip),
            method=flow,
            scorer=None if clip_model is None else ClipScorer(clip_model, device=target),
            device=target,
        )
        print(report.table())
        scores, values = report.titled(), report.to_dict()
    if reconstruction:
        config = folder.run_config()
        opened = open_run(run, dtype=config.dtype, device=target)
        report = evaluate_reconstruction(
            opened.pipe,
            opened.clip,
            config.prompt,
            steps=reconstruction,
            guidance_scale=config.edit.guidance_scale,
            progress=show_progress,
        )
        print(report.table())
        values["reconstruction"] = report.to_dict()
    written = out or folder.scores
    write_json(written, values)
    if scores:
        folder.save_gallery(scores=scores)
    print(written)


def convert(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    *,
    base: str | None = None,
) -> None:
    """Turn what the original Tune-A-Video saved into safetensors: a whole folder, or a delta on its base.

    Args:
        checkpoint: folder that the original program wrote (its unet is inflated; .bin files are read without code).
        out: a folder for the whole pipeline; with --base a delta.safetensors.
        base: the text-to-image model it was tuned from; only what differs from it is stored.
    """
    from .pipeline import TuneAVideo
    from .run_edits import delta_between

    check_output(out, ("",) if base is None else (".safetensors",))
    tuned = TuneAVideo.from_pretrained(checkpoint, device="cpu")
    if base is None:
        tuned.save_pretrained(out)
        count = sum(p.numel() for p in tuned.unet.parameters())
        print(f"{out}: {count:,} parameters")
        return
    untuned = TuneAVideo.from_text_to_image(base, temporal_init="original", device="cpu")
    delta = delta_between(untuned, tuned, checkpoint)
    delta.save(out)
    print(f"{out}: {len(delta.tensors)} tensors, {delta.num_bytes / 1e6:.1f} MB")


def info(
    clip: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CLIP")],
    *,
    read: Annotated[Reading, Flat] = Reading(num_frames=None),  # noqa: B008
) -> None:
    """Say what reading a clip would give: frames, rate, size, sound, and what is done to fit them.

    Args:
        clip: video file, animated GIF, or folder of pictures.
        read: which frames are taken.
    """
    found = read.read(clip)
    print(f"{clip}: {found.note}")


COMMANDS = {
    "tune": tune,
    "edit": edit,
    "invert": invert,
    "evaluate": evaluate,
    "convert": convert,
    "info": info,
}


# Flags that may be repeated.
SEVERAL = {"edit": ("--prompt/-p",), "tune": ("--edit-prompts",), "evaluate": ("--reconstruction",)}


def run(argv: Sequence[str]) -> None:
    """Entry of `trifold video`."""
    about = "Edit video by text: tune a text-to-image model on one clip, then edit the clip with prompts."
    run_commands("video", about, COMMANDS, argv, SEVERAL)

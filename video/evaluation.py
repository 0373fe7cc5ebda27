"""Measuring edits and reconstructions of a clip, with what the source itself scores beside every number."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..common.diffusion.step import Progress, Step
from ..common.weights import write_json
from . import metrics
from .clip import Clip
from .errors import VideoError
from .flow import FlowMethod, Motion, estimate_motion, known_motion
from .metrics import Array
from .page import shown

if TYPE_CHECKING:
    from .editing import Inversion
    from .pipeline import TuneAVideo

SOURCE_ROW = "source"

COLUMNS: Mapping[str, tuple[str, str]] = {
    "psnr": ("PSNR", "dB, to the source"),
    "ssim": ("SSIM", "to the source"),
    "latent_error": ("latent error", "relative L2 of the latents"),
    "warp_error": ("warp error", "mean square along the source's flow, values in [0, 1]; needs motion and consistency"),
    "flow_error": ("flow error", "px between the flow of the clip and that of the source"),
    "flow_correlation": ("flow correlation", "of the same two; 1 is the source's motion, 0 a still video"),
    "subject_flow_error": ("flow error in mask", "px, within the mask"),
    "subject_flow_correlation": ("flow correlation in mask", "within the mask"),
    "consecutive_psnr": ("next-frame PSNR", "dB; a still video has ∞"),
    "consecutive_ssim": ("next-frame SSIM", "a still video has 1"),
    "difference_ratio": ("motion energy", "of frame differences, over the source's"),
    "flicker_share": ("flicker", "share of the change of luma that is faster than a quarter cycle per frame"),
    "brightness_flicker": ("brightness flicker", "8-bit levels"),
    "background_psnr": ("background PSNR", "dB, outside the mask"),
    "background_ssim": ("background SSIM", "outside the mask"),
    "clip_consistency_all": ("CLIP frames, all pairs", "mean cosine"),
    "clip_consistency_next": ("CLIP frames, consecutive", "mean cosine"),
    "clip_text": ("CLIP text", "100 cosine with the prompt"),
    "clip_accuracy": ("CLIP accuracy", "share of frames nearer to the prompt than to the source's"),
}
"""Name of each score -> its title in a table and what it is."""

Scores = dict[str, float]


@dataclass(frozen=True)
class Report:
    """Scores by row (the source first), and what was measured on what."""

    rows: dict[str, Scores]
    about: dict[str, Any] = field(default_factory=dict)

    def table(self) -> str:
        """Markdown, one line per score and one column per row of the report, with a line below saying what each is."""
        names = [name for name in COLUMNS if any(name in scores for scores in self.rows.values())]
        cells = [["", *self.rows]]
        for name in names:
            cells.append([COLUMNS[name][0], *(shown(scores.get(name)) for scores in self.rows.values())])
        cells = [[text.replace("|", "\\|").replace("\n", " ") for text in line] for line in cells]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "| " + " | ".join([f"{first:<{widths[0]}}", *map(str.rjust, rest, widths[1:])]) + " |"
            for first, *rest in cells
        ]
        rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
        notes = "\n".join(f"- {COLUMNS[name][0]}: {COLUMNS[name][1]}" for name in names)
        return "\n".join([lines[0], rule, *lines[1:], "", notes])

    def titled(self) -> dict[str, Scores]:
        """Rows with the titles of the scores, for a page."""
        return {
            row: {COLUMNS[name][0]: scores[name] for name in COLUMNS if name in scores}
            for row, scores in self.rows.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no infinity: "inf" in its place, and null for nan."""
        rows = {row: {name: _json_number(value) for name, value in s.items()} for row, s in self.rows.items()}
        return {**self.about, "scores": rows}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` as a JSON file."""
        write_json(Path(path), self.to_dict())


def _json_number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


# ------------------------------------------------------------------------------------------------------- edits


def evaluate_edit(
    source: Clip,
    edited: Clip,
    *,
    mask: Array | None = None,
    flow: Array | Motion | None = None,
    method: FlowMethod = "tvl1",
    device: str | torch.device = "cpu",
) -> Scores:
    """Scores of an edit, by the names of `COLUMNS`. `evaluate_edit(source, source)` is what ground truth scores.

    Args:
        mask: bool [F, H, W], True where the edit may act; adds the scores of the background and of the subject.
        flow: the source's motion: exact flow [F - 1, H, W, 2] where it is known, or a `Motion`; None estimates it.
            Beside exact flow read the scores within the mask: in flat backgrounds estimated flow is undetermined.
        method: how flow is estimated. That of the edit always is.
        device: where flow is estimated.

    Raises VideoError: clips of different lengths or sizes, fewer than three frames, frames below 11 x 11 pixels.
    """
    a, b = source.frames, edited.frames
    if a.shape != b.shape:
        found = f"{edited.name or 'the edit'}: {_size(edited)}"
        raise VideoError(f"{found}, but the source has {_size(source)}; compare clips of one size")
    if isinstance(flow, Motion):
        motion = flow
    elif flow is not None:
        motion = known_motion(flow)
    else:
        motion = estimate_motion(a, method=method, device=device)
    moved = estimate_motion(b, method=method, device=device).flow
    scores = {
        "psnr": metrics.psnr(b, a),
        "ssim": metrics.ssim(b, a),
        "warp_error": metrics.warp_error(b, motion.flow, motion.visible),
        "flow_error": metrics.end_point_error(moved, motion.flow, where=motion.visible),
        "flow_correlation": metrics.flow_correlation(moved, motion.flow, where=motion.visible),
        **temporal_consistency(edited),
        "difference_ratio": metrics.difference_energy_ratio(b, a),
    }
    if mask is not None:
        scores["background_psnr"], scores["background_ssim"] = metrics.background_preservation(b, a, mask)
        subject = mask[:-1] & motion.visible
        if subject.any():
            scores["subject_flow_error"] = metrics.end_point_error(moved, motion.flow, where=subject)
            scores["subject_flow_correlation"] = metrics.flow_correlation(moved, motion.flow, where=subject)
    return scores


def temporal_consistency(clip: Clip) -> Scores:
    """Scores of one clip alone. A still video is perfect here: read them beside the motion's."""
    return {
        "consecutive_psnr": metrics.consecutive_psnr(clip.frames),
        "consecutive_ssim": metrics.consecutive_ssim(clip.frames),
        "flicker_share": metrics.flicker_share(clip.frames),
        "brightness_flicker": metrics.brightness_flicker(clip.frames),
    }


def evaluate_edits(
    source: Clip,
    edits: Mapping[str, Clip],
    *,
    prompts: Mapping[str, str] | None = None,
    source_prompt: str = "",
    mask: Array | None = None,
    flow: Array | None = None,
    method: FlowMethod = "tvl1",
    scorer: ClipScorer | None = None,
    device: str | torch.device = "cpu",
) -> Report:
    """One row per edit below the source's own; its flow is estimated once. `scorer` adds the scores of a CLIP model,
    of the edits for which `prompts` has one."""
    motion = known_motion(flow) if flow is not None else None
    motion = motion or estimate_motion(source.frames, method=method, device=device)
    rows: dict[str, Scores] = {}
    told = {SOURCE_ROW: source_prompt, **(prompts or {})}
    for row, clip in {SOURCE_ROW: source, **edits}.items():
        rows[row] = evaluate_edit(source, clip, mask=mask, flow=motion, method=method, device=device)
        if scorer is not None:
            rows[row] |= scorer.scores(clip, told.get(row, ""), source_prompt if row != SOURCE_ROW else "")
    about = {
        "frames": source.num_frames,
        "height": source.height,
        "width": source.width,
        "flow": "exact" if flow is not None else method,
    }
    return Report(rows, about)


def _size(clip: Clip) -> str:
    return f"{clip.num_frames} frames of {clip.width}x{clip.height}"


# ----------------------------------------------------------------------------------------------- reconstruction


def vae_round_trip(pipe: TuneAVideo, clip: Clip) -> Scores:
    """PSNR and SSIM of the clip after the VAE's encoder and decoder: no reconstruction can be better."""
    frames = pipe.space.decode_latents(pipe.latents(clip)[0].transpose(0, 1))
    again = Clip.from_tensor(frames, fps=clip.fps)
    return {"psnr": metrics.psnr(again.frames, clip.frames), "ssim": metrics.ssim(again.frames, clip.frames)}


def round_trip(
    pipe: TuneAVideo,
    clip: Clip,
    prompt: str,
    inversion: Inversion,
    *,
    guidance_scale: float = 1.0,
    progress: Progress | None = None,
) -> tuple[Clip, Scores]:
    """The clip sampled again (DDIM) from its inversion: the frames, their PSNR and SSIM to the clip, and the relative
    L2 error of the latents, in which the VAE has no part."""
    last: list[Tensor] = []

    def remember(step: Step) -> Tensor:
        last[:] = [step.x_s]
        return step.x_s

    again = pipe.edit(
        clip,
        prompt,
        guidance_scale=guidance_scale,
        steps=inversion.steps,
        strength=inversion.strength,
        inversion=inversion,
        on_step=remember,
        progress=progress,
    )
    scores = {
        "psnr": metrics.psnr(again.frames, clip.frames),
        "ssim": metrics.ssim(again.frames, clip.frames),
        "latent_error": metrics.latent_round_trip_error(pipe.latents(clip), last[0]),
    }
    return again, scores


def evaluate_reconstruction(
    pipe: TuneAVideo,
    clip: Clip,
    prompt: str = "",
    *,
    steps: Sequence[int] = (50,),
    guidance_scale: float = 12.5,
    refinements: int = 0,
    progress: Progress | None = None,
) -> Report:
    """What is lost where: the VAE alone; inversion under `prompt` and sampling under it at guidance 1, which would be
    exact with infinitely many steps; and, as an edit does it, inversion without a prompt and sampling under `prompt` at
    `guidance_scale`. Two rows per number of steps.

    Raises ValueError for no steps.
    """
    if not steps:
        raise ValueError("steps: expected at least one number, found none")
    rows = {"VAE alone": vae_round_trip(pipe, clip)}
    for count in steps:
        for guidance, told in ((1.0, prompt), (guidance_scale, "")):
            inversion = pipe.invert(clip, told, steps=count, refinements=refinements, progress=progress)
            _, rows[f"{count} steps, guidance {guidance:g}"] = round_trip(
                pipe, clip, prompt, inversion, guidance_scale=guidance, progress=progress
            )
    return Report(rows, {"prompt": prompt, "refinements": refinements, "frames": clip.num_frames})


# -------------------------------------------------------------------------------------------- a CLIP model's view


class ClipScorer:
    """Image and text embeddings of a CLIP model in a local folder (`transformers` format); nothing is downloaded.

    Published numbers are only comparable for the same model: LOVEU-TGVE 2023 uses ViT-L/14, FateZero ViT-B/32.
    """

    def __init__(self, folder: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> None:
        try:
            from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel
        except ImportError as error:
            raise ImportError("CLIP scores need transformers: pip install 'trifold[video]'") from error
        path = Path(folder)
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path}: no config.json; expected the folder of a CLIP model")
        try:
            self.model = CLIPModel.from_pretrained(path, local_files_only=True).to(device).eval()  # type: ignore[arg-type]
            self.images = CLIPImageProcessor.from_pretrained(path, local_files_only=True)
            self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise VideoError(f"{path}: not a complete CLIP folder ({error})") from error

    @torch.no_grad()
    def embed_frames(self, clip: Clip, *, batch: int = 16) -> Tensor:
        """[F, D], float32 on the CPU."""
        found = []
        for start in range(0, clip.num_frames, batch):
            pictures = list(clip.frames[start : start + batch])
            pixels = self.images(images=pictures, return_tensors="pt").pixel_values.to(self.model.device)
            found.append(self.model.visual_projection(self.model.vision_model(pixels).pooler_output).float().cpu())
        return torch.cat(found)

    @torch.no_grad()
    def embed_text(self, prompt: str) -> Tensor:
        """[D], float32 on the CPU."""
        tokens = self.tokenizer([prompt], truncation=True, return_tensors="pt").to(self.model.device)
        state = self.model.text_model(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        return self.model.text_projection(state)[0].float().cpu()

    def scores(self, clip: Clip, prompt: str = "", source_prompt: str = "") -> Scores:
        """Frame consistency; with a prompt its alignment; with the source's prompt too, frame accuracy."""
        frames = self.embed_frames(clip)
        scores = {
            "clip_consistency_all": metrics.frame_consistency(frames, pairs="all"),
            "clip_consistency_next": metrics.frame_consistency(frames, pairs="consecutive"),
        }
        if prompt:
            scores["clip_text"] = metrics.text_alignment(frames, self.embed_text(prompt))
        if prompt and source_prompt:
            texts = self.embed_text(prompt), self.embed_text(source_prompt)
            scores["clip_accuracy"] = metrics.frame_accuracy(frames, *texts)
        return scores

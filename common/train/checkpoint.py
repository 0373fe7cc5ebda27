"""Checkpoints: everything a run needs to go on bit for bit, in a folder that is complete or not there at all.

    checkpoint-1500/
        model.safetensors  ema.safetensors  optimizer.pt  state.json

There is no random state in it: noise, dropout and data order are functions of (seed, position).
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..weights import (
    WeightsError,
    load_module_tensors,
    module_tensors,
    read_tensors,
    remove_folder,
    replaced_folder,
    write_json,
    write_tensors,
)
from .ema import EMA

STATE_FILE = "state.json"


@dataclass(frozen=True)
class TrainState:
    """Where a run is. `position` counts the samples used, over all processes."""

    step: int
    position: int
    seed: int
    dataset_length: int
    world_size: int
    ema_updates: int | None = None


def checkpoint_step(folder: Path) -> int | None:
    """The step of a complete checkpoint folder, else None: all files that state.json lists, at their sizes."""
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    if match is None or not (folder / STATE_FILE).is_file():
        return None
    try:
        files: dict[str, int] = json.loads((folder / STATE_FILE).read_text())["files"]
        complete = all((folder / name).stat().st_size == size for name, size in files.items())
    except (ValueError, KeyError, OSError):
        return None
    return int(match[1]) if complete else None


def list_checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints by ascending step."""
    found = [(checkpoint_step(folder), folder) for folder in output_dir.glob("checkpoint-*")]
    return sorted((step, folder) for step, folder in found if step is not None)


def find_resume(output_dir: Path, resume: str | None) -> Path | None:
    """The checkpoint to start from: None for a fresh start.

    Raises FileNotFoundError for a path that is no complete checkpoint, and FileExistsError where going on would mix
    two runs: a fresh start beside old checkpoints, or a resume from before the newest one.
    """
    present = list_checkpoints(output_dir)
    newest = present[-1] if present else None
    if resume == "latest":
        return newest[1] if newest else None
    chosen = Path(resume) if resume else None
    step = checkpoint_step(chosen) if chosen else 0
    if step is None:
        raise FileNotFoundError(f"resume_from_checkpoint: {chosen} is not a complete checkpoint folder")
    if newest and newest[0] > step:
        raise FileExistsError(
            f"{output_dir} holds {newest[1].name}, which lies ahead of this start: resume with "
            "resume_from_checkpoint='latest', delete the later checkpoints, or choose another output_dir"
        )
    return chosen


def remove_debris(output_dir: Path) -> None:
    """Delete temporary folders that a killed run left behind."""
    for folder in output_dir.glob(".checkpoint-*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def save_checkpoint(
    output_dir: Path,
    state: TrainState,
    model: nn.Module,
    ema: EMA | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    total_limit: int | None,
    *,
    frozen: bool = True,
) -> Path:
    """Write `checkpoint-{step}` atomically, then delete the oldest ones beyond `total_limit`.

    `frozen` False leaves out the parameters that are not trained.
    """
    folder = output_dir / f"checkpoint-{state.step}"
    with replaced_folder(folder) as temporary:
        left_out = {} if frozen else _frozen(model)
        tensors = {name: tensor for name, tensor in module_tensors(model).items() if name not in left_out}
        write_tensors(temporary / "model.safetensors", tensors)
        if ema is not None:
            write_tensors(temporary / "ema.safetensors", ema.shadow)
        progress = {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict() if scaler else None}
        torch.save({**progress, "trainable": _trainable(model)}, temporary / "optimizer.pt")
        files = {entry.name: entry.stat().st_size for entry in sorted(temporary.iterdir())}
        write_json(temporary / STATE_FILE, {**dataclasses.asdict(state), "files": files})
    if total_limit is not None:
        for _, old in list_checkpoints(output_dir)[:-total_limit]:
            remove_folder(old)
    return folder


def read_state(folder: Path) -> TrainState:
    """Read state.json; WeightsError if a field is missing or unknown."""
    values: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
    values.pop("files", None)
    try:
        return TrainState(**values)
    except TypeError as error:
        raise WeightsError(f"{folder / STATE_FILE}: {error}") from error


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    ema: EMA | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    *,
    frozen: bool = True,
) -> TrainState:
    """Restore everything that `save_checkpoint` wrote, in place. With `frozen` False, frozen parameters that the
    checkpoint does not hold stay as they are: they must be those that the run started from.

    The optimizer's options (weight decay, betas, ...) are those it was built with, not those of the checkpoint.
    Raises WeightsError, naming file and entries, if the checkpoint belongs to another model or lacks the averages.
    """
    state = read_state(folder)
    kept = {} if frozen else _frozen(model)
    load_module_tensors(model, {**kept, **read_tensors(folder / "model.safetensors")}, folder / "model.safetensors")
    progress = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    if progress["trainable"] != _trainable(model):
        differing = sorted(set(progress["trainable"]) ^ set(_trainable(model)))
        raise WeightsError(f"{folder / 'optimizer.pt'}: other parameters were trained: {', '.join(differing[:8])}")
    options = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]
    try:
        optimizer.load_state_dict(progress["optimizer"])
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{folder / 'optimizer.pt'}: the state of another optimizer ({error})") from error
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)
    if scaler is not None and progress["scaler"]:
        scaler.load_state_dict(progress["scaler"])
    if ema is not None:
        if state.ema_updates is None:
            raise WeightsError(f"{folder}: the run had use_ema=False; there are no averages to resume")
        ema.load(read_tensors(folder / "ema.safetensors"), state.ema_updates, folder / "ema.safetensors")
    return state


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}


def _trainable(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]

"""What the commands of all heads share: refusing places that cannot be written, choosing a device, a progress bar."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

Device = Literal["auto", "cpu", "cuda"]
LOG_SECONDS = 30.0  # between two readings of a progress bar in a log


def torch_device(device: Device) -> torch.device:
    """The device of that name; auto is the GPU if there is one. Raises ValueError where cuda is asked for in vain."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: asked for cuda, but torch finds no CUDA GPU here; use cpu or auto")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def check_output(out: Path, suffixes: Sequence[str]) -> None:
    """Refuse (ValueError) a path that cannot be written before the work begins; nothing is made.

    suffixes: those that can be written, "" for a folder.
    """
    if out.suffix.lower() not in suffixes:
        expected = f"{', '.join(filter(None, suffixes))}{', or a folder' if '' in suffixes else ''}"
        found = f"unknown suffix {out.suffix!r}" if out.suffix else "no suffix"
        raise ValueError(f"{out}: {found}; expected {expected.removeprefix(', or ')}")
    if out.suffix and out.is_dir():
        raise ValueError(f"{out}: cannot write: it is a folder")
    check_folder(out if out.suffix == "" else out.parent, out)


def check_folder(folder: Path, out: Path | None = None) -> None:
    """Refuse (ValueError) a folder that can neither be written to nor made. `out` is what the message names."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"{out or folder}: cannot write: {existing} is a file, not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{out or folder}: cannot write: no permission to write in {existing}")


def make_folder(folder: Path) -> None:
    """Make the folder of an output, and those above it. Raises ValueError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: cannot make this folder: {error.strerror or error}") from error


def show_progress(steps: Sequence[Any]) -> Iterable[Any]:
    """A bar with rate and time left on a terminal; in a log it is written every half a minute, never for short work."""
    if sys.stderr.isatty():
        return tqdm(steps, desc="denoising", leave=False)
    return tqdm(steps, desc="denoising", leave=False, delay=LOG_SECONDS, mininterval=LOG_SECONDS)

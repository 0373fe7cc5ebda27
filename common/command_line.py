"""What the commands of all heads share: their words, places that cannot be written, a device, a progress bar."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import tyro
from tqdm import tqdm

C = TypeVar("C")
Device = Literal["auto", "cpu", "cuda"]
# What a suffix takes to be written, and the extra that has it.
NEEDS = {".mp4": ("av", "video"), ".dxf": ("ezdxf", "dxf"), ".ifc": ("ifcopenshell", "ifc")}
LOG_SECONDS = 30.0  # between two readings of a progress bar in a log


def torch_device(device: Device) -> torch.device:
    """The device of that name; auto is the GPU if there is one. Raises ValueError where cuda is asked for in vain."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: asked for cuda, but torch finds no CUDA GPU here; use cpu or auto")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def check_output(out: Path, suffixes: Sequence[str]) -> None:
    """Refuse a path that cannot be written before the work begins (ValueError), or whose format takes a library that is
    not installed (ImportError); nothing is made.

    suffixes: those that can be written, "" for a folder.
    """
    if out.suffix.lower() not in suffixes:
        expected = f"{', '.join(filter(None, suffixes))}{', or a folder' if '' in suffixes else ''}"
        found = f"unknown suffix {out.suffix!r}" if out.suffix else "no suffix"
        raise ValueError(f"{out}: {found}; expected {expected.removeprefix(', or ')}")
    if out.suffix and out.is_dir():
        raise ValueError(f"{out}: cannot write: it is a folder")
    check_folder(out if out.suffix == "" else out.parent, out)
    needed = NEEDS.get(out.suffix.lower())
    if needed and importlib.util.find_spec(needed[0]) is None:
        raise ImportError(f"{out}: {out.suffix} needs {needed[0]}: pip install 'trifold[{needed[1]}]'")


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


def run_commands(
    head: str,
    about: str,
    commands: Mapping[str, Callable[..., None]],
    argv: Sequence[str],
    several: Mapping[str, Sequence[str]],
) -> None:
    """Run the command of a head that `argv` names. about: a sentence for --help; several: by command, the flags that
    may be repeated. `train` takes the words that follow it: its presets have flags of their own."""
    args = gathered(argv, several.get(argv[0], ()) if argv else ())
    if args[:1] == ["train"] and "train" in commands:
        commands["train"](args[1:])
        return
    tyro.extras.subcommand_cli_from_dict(dict(commands), prog=f"trifold {head}", description=about, args=args)


def chosen_preset(head: str, presets: Mapping[str, Callable[[], C]], argv: Sequence[str]) -> C:
    """The training configuration that `argv` names, with its fields changed by flags."""
    choices = {name: (first_paragraph(preset.__doc__), preset()) for name, preset in presets.items()}
    return tyro.extras.overridable_config_cli(choices, prog=f"trifold {head} train", args=list(argv))


def first_paragraph(doc: str | None) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((doc or "").strip().partition("\n\n")[0].split())


def warn_of_others(folder: Path, name: str, written: Iterable[Path]) -> None:
    """A warning for files of a folder whose whole name matches the pattern `name` and that are not among `written`:
    what an earlier run left of its numbered files would pass for this run's."""
    kept = {path.name for path in written}
    others = [path.name for path in folder.iterdir() if re.fullmatch(name, path.name) and path.name not in kept]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        warnings.warn(f"{folder}: {', '.join(sorted(others)[:3])}{more}: there before, not of this run", stacklevel=2)


def check_sources(folder: Path, name: str, sources: Iterable[Path]) -> None:
    """Refuse (ValueError) to read, of the folder that is written to, files that may be replaced."""
    for path in sources:
        if re.fullmatch(name, path.name) and path.resolve().parent == folder.resolve():
            raise ValueError(f"{folder}: holds {path.name}, which is read and would be replaced; write elsewhere")


def gathered(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The words with what follows a repeated flag moved behind its first occurrence, or the last would silently win.
    flags: those that may be repeated; `--prompt/-p` has two names."""
    names = {name: flag.split("/")[0] for flag in flags for name in flag.split("/")}
    groups: list[list[str]] = [[]]
    first: dict[str, list[str]] = {}
    for word in _parted(argv, names):
        if word in first and word in names.values():
            groups.append(first[word])  # written once, below
        elif word.startswith("-"):
            groups.append([word])
            first.setdefault(word, groups[-1])
        else:
            groups[-1].append(word)
    once = {id(group): group for group in groups}
    return [word for group in once.values() for word in group]


def _parted(argv: Sequence[str], names: Mapping[str, str]) -> Iterator[str]:
    """The words, with these flags by their first name, and --flag=value of them as two words (not where the value would
    then pass for a flag)."""
    for word in argv:
        name, equals, value = word.partition("=")
        if equals and name in names and value[:1] != "-":
            yield from (names[name], value)
        else:
            yield names.get(word, word)


def show_progress(steps: Sequence[Any]) -> Iterable[Any]:
    """A bar with rate and time left on a terminal; in a log it is written every half a minute, never for short work."""
    if sys.stderr.isatty():
        return tqdm(steps, desc="denoising", leave=False)
    return tqdm(steps, desc="denoising", leave=False, delay=LOG_SECONDS, mininterval=LOG_SECONDS)

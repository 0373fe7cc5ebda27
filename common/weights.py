"""Weights on disk: atomic files, safetensors, strict loading with readable errors, foreign pickles."""

from __future__ import annotations

import argparse
import enum
import json
import os
import pickle
import shutil
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class WeightsError(ValueError):
    """A weight or config file does not hold what was expected. The message names the file and the entries."""


# ---------------------------------------------------------------------------------------------- atomic writes


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Write to the yielded temporary name; on success it is flushed and renamed to `path`, on failure removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Fill the yielded temporary folder; on success everything is flushed and the folder renamed to `path`.

    A folder already at `path` is removed in the instant before the rename: at no time does a half-written folder
    bear the final name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            fsync(entry)
        fsync(temporary)
        remove_folder(path)
        os.rename(temporary, path)
        fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Delete a folder (if it exists) so that a half-deleted one never bears its name."""
    if path.exists():
        doomed = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
        os.rename(path, doomed)
        shutil.rmtree(doomed)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, atomically. Enum members become their values, paths strings."""
    with replaced_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=_plain) + "\n")


def _plain(value: object) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot be written as JSON: {value!r} ({type(value).__name__})")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, atomically. Tensors are moved to the CPU."""
    with replaced_file(path) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Raises FileNotFoundError, or WeightsError when it is cut short or another format."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a complete safetensors file ({error})") from error


# ------------------------------------------------------------------------------------------- modules and names


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state dict, with a tied parameter stored once, under its first name. Values are views, not copies."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    for name, tensor in module.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        tensors[name] = tensor.detach()
    return tensors


def load_module_tensors(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy `tensors` into `module`, cast to the module's own dtypes. Nothing is touched unless everything fits.

    Raises WeightsError naming `source` and the missing, unexpected and misshapen entries.
    """
    expected = module.state_dict()
    problems = [
        *_listed("missing", sorted(set(module_tensors(module)) - set(tensors))),
        *_listed("unexpected", sorted(set(tensors) - set(expected))),
        *_listed(
            "wrong shape or kind",
            [
                f"{name} (file {_describe(tensors[name])}, {type(module).__name__} {_describe(tensor)})"
                for name, tensor in expected.items()
                if name in tensors and _kind(tensors[name]) != _kind(tensor)
            ],
        ),
    ]
    if problems:
        raise WeightsError(f"{source} does not fit {type(module).__name__}: " + "; ".join(problems))
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)


def _kind(tensor: Tensor) -> tuple[torch.Size, bool, bool]:
    return tensor.shape, tensor.is_floating_point(), tensor.is_complex()


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _listed(title: str, names: list[str], most: int = 8) -> list[str]:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return [f"{len(names)} {title}: {', '.join(names[:most])}{more}"] if names else []


# --------------------------------------------------------------------------------------------- foreign checkpoints

NESTINGS = ("state_dict", "model_state_dict", "model", "ema", "ema_state_dict", "module")
PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel / DDP and torch.compile


def renamed_keys(
    keys: Iterable[str], rename: Callable[[str], str], *, source: str, program: str, example: str
) -> dict[str, str]:
    """Another program's name -> ours for every key; `rename` raises KeyError for a key that is not that program's.

    Raises WeightsError, saying whose checkpoint was expected and what its names look like, where a key is foreign,
    there are none, or two keys would get one name.
    """
    table: dict[str, str] = {}
    foreign: list[str] = []
    for key in keys:
        try:
            table[key] = rename(key)
        except KeyError:
            foreign.append(key)
    if foreign or not table:
        found = ", ".join(foreign[:4]) or "no tensors"
        more = " ..." if len(foreign) > 4 else ""
        raise WeightsError(f"{source}: not {program}; found {found}{more}, expected names like {example}")
    if len(set(table.values())) != len(table):
        raise WeightsError(f"{source}: several tensors would be renamed alike")
    return table


def load_foreign_state_dict(path: str | Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Read a state dict that another codebase wrote: `.safetensors`, or a pickle through `weights_only=True`.

    A dict nested under one of `NESTINGS` is unwrapped; `key` picks one by name when several are there.
    `module.` and `_orig_mod.` prefixes that every name bears are removed. Returns CPU tensors in the file's dtypes.

    Raises FileNotFoundError, or WeightsError for a truncated file, a pickle that holds code or other objects,
    and a dict whose values are not tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    found: Any = read_tensors(path) if path.suffix == ".safetensors" else _unpickle(path)
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path}: expected a dict of tensors, found {type(found).__name__}")
    if key is not None:
        if not isinstance(found.get(key), Mapping):
            raise WeightsError(f"{path}: no state dict under {key!r}; entries: {_names(found)}")
        found = found[key]
    else:
        nested = [name for name in NESTINGS if isinstance(found.get(name), Mapping)]
        if len(nested) > 1:
            raise WeightsError(f"{path}: several state dicts ({', '.join(nested)}); choose one by key=")
        if nested:
            found = found[nested[0]]
    foreign = [f"{name} ({type(value).__name__})" for name, value in found.items() if not isinstance(value, Tensor)]
    if foreign or not found:
        what = f"entries that are no tensors: {', '.join(foreign[:8])}" if foreign else "an empty dict"
        raise WeightsError(f"{path}: expected a dict of tensors, found {what}")
    tensors = {str(name): value for name, value in found.items()}
    while shared := [prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in tensors)]:
        tensors = {name.removeprefix(shared[0]): value for name, value in tensors.items()}
    return tensors


def _unpickle(path: Path) -> object:
    try:
        # argparse.Namespace only holds attributes; many research checkpoints carry their flags in one.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # Advice to file an issue with PyTorch about a file that it did not write.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _unpickler_reason(str(error))
        if "GLOBAL" in reason:
            raise WeightsError(f"{path}: not a plain state dict; refused to unpickle it ({reason})") from error
        raise _unsafe(path, reason) from error
    except (RuntimeError, EOFError, OSError) as error:
        reason = (str(error).strip() or "ends too early").splitlines()[0]
        raise WeightsError(f"{path}: truncated or not a torch checkpoint ({reason})") from error
    except (LookupError, ValueError, TypeError, AttributeError, AssertionError, OverflowError, struct.error) as error:
        # The unpickler takes the bytes of any file for instructions, and trips over them in all these ways.
        raise _unsafe(path, f"{type(error).__name__}: {error}") from error


def _unpickler_reason(text: str) -> str:
    """The fault itself out of torch's message, without its advice to load the file with `weights_only=False`."""
    before, marker, after = text.partition("Check the documentation")[0].partition("WeightsUnpickler error:")
    lines = [line.strip() for line in (after if marker else before).splitlines() if line.strip()]
    reason = (lines[0] if marker else lines[-1]) if lines else "no reason given"
    return reason.partition(". Please use")[0].rstrip(".")


def _unsafe(path: Path, reason: str) -> WeightsError:
    """The error for a file that is no archive of tensors, with what its first bytes show; nothing is unpickled."""
    with path.open("rb") as file:
        head = file.read(256)
    if head.startswith(b"PK"):
        found = "a zip archive, cut short or damaged"
    elif head.startswith(b"\x80"):
        found = "a pickle of Python objects that torch.save did not write"
    else:
        text = head.decode("utf-8", errors="ignore")
        line = (text.strip().splitlines() or [""])[0]
        found = (
            f"text that begins {line[:40]!r}" if line.isprintable() and len(text) > 0.9 * len(head) else "other bytes"
        )
    return WeightsError(
        f"{path}: not a file of tensors that can be read safely (weights_only): found {found} ({reason})"
    )


def _names(mapping: Mapping[Any, Any], most: int = 12) -> str:
    names = [str(name) for name in mapping]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")

"""JSON files that hold one object: configs of models, records of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import VideoError


def read_object(path: Path, hint: str = "") -> dict[str, Any]:
    """The JSON object in a file. Raises FileNotFoundError (`hint` says who should have written it), or VideoError
    naming the file and the fault."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file{f'; {hint}' if hint else ''}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise VideoError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise VideoError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values

"""Reading and writing files: json with the place of a fault, outputs that appear whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

from .errors import FloorplanError


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a `.json` or gzipped (by content, whatever the suffix) json file.

    Raises `FloorplanError` naming the file, and for broken json the line and column.
    """
    source = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise FloorplanError(f"cannot read: {error.strerror or error}", source=source) from error
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (EOFError, OSError, zlib.error) as error:
        raise FloorplanError(f"broken gzip data: {error}", source=source) from error
    except UnicodeDecodeError as error:
        raise FloorplanError(f"not UTF-8 text (byte {error.start}); expected json", source=source) from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        ends_early = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        cut = "; the file seems to be cut off" if ends_early else ""
        raise FloorplanError(f"not valid json at {place}: {error.msg}{cut}", source=source) from error
    except ValueError as error:  # the one fault of valid json: Python refuses to read integers of thousands of digits
        limit = sys.get_int_max_str_digits()
        raise FloorplanError(f"holds a whole number of more than {limit} digits", source=source) from error
    except RecursionError as error:
        raise FloorplanError("json nested too deeply", source=source) from error


def encoded(text: str, source: str) -> bytes:
    """`text` as UTF-8. Raises `FloorplanError` naming `source` where it holds half of a surrogate pair, as json's
    escapes can smuggle into names."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 20) : error.end]
        raise FloorplanError(f"cannot write: no valid text at the end of {near!r}", source=source) from error


def write_whole(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write to a temporary name in the same folder, then rename: a reader never sees half a file.

    Raises `FloorplanError` naming the file and the system's reason, or text that UTF-8 cannot hold.
    """
    target = Path(path)
    payload = encoded(data, str(path)) if isinstance(data, str) else data
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
        # mkstemp makes private files; outputs get the permissions an ordinary open() would give.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise FloorplanError(f"cannot write: {error.strerror or error}", source=str(path)) from error

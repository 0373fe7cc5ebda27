"""Errors and warnings of the floorplan head: every message names the file (or the thing being read) and the field."""

from __future__ import annotations

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class FloorplanError(ValueError):
    """Input that cannot be used.

    `reason` says what was found and what was expected; `source` is the file (or a description of the object) and
    `field` the place inside it, e.g. `rooms[2].size`. The text is `source: field: reason`, without the parts not known
    and with what cannot be printed escaped, since names come from files.
    """

    def __init__(self, reason: str, *, source: str = "", field: str = "") -> None:
        self.reason, self.source, self.field = reason, source, field
        super().__init__(printable(": ".join(part for part in (source, field, reason) if part)))

    def within(self, source: str = "", field: str = "") -> FloorplanError:
        """The same error seen from outside: `field` goes before the field so far, `source` fills a missing one."""
        glue = "" if not field or not self.field or self.field.startswith("[") else "."
        return FloorplanError(self.reason, source=self.source or source, field=field + glue + self.field)


class FloorplanWarning(UserWarning):
    """Input that was used after a repair, or that is legal but probably not meant."""


class DisconnectedDiagramWarning(FloorplanWarning):
    """A bubble diagram with rooms that no chain of doors joins."""


def shown(value: object) -> str:
    """How messages quote what they found in a file: its repr, with the middle of what is long or deep left out."""
    return _SHORT.repr(value)


def printable(text: str) -> str:
    """`text` with line breaks, control characters and halves of surrogate pairs as escapes: `\\n`, `\\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

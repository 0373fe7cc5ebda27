"""Room and door types: the model's codes, RPLAN's codes, names and colours.

RPLAN / House-GAN++ json files number the front door 15, rooms of unknown use 16 and interior doors 17; HouseDiffusion
remaps them to 11, 13 and 12 so that the one-hot of width 25 stays short. Code 9 is not used by either.
"""

from __future__ import annotations

import difflib
from enum import IntEnum
from typing import Final

from .errors import FloorplanError, shown


class RoomType(IntEnum):
    """Type codes as the model sees them (position in the one-hot type vector)."""

    LIVING = 1
    KITCHEN = 2
    BEDROOM = 3
    BATHROOM = 4
    BALCONY = 5
    ENTRANCE = 6
    DINING = 7
    STUDY = 8
    STORAGE = 10
    FRONT_DOOR = 11
    INTERIOR_DOOR = 12
    UNKNOWN = 13


# The colours HouseDiffusion paints with; FID between the two systems only compares with these.
COLOURS: Final[dict[RoomType, str]] = {
    RoomType.LIVING: "#EE4D4D",
    RoomType.KITCHEN: "#C67C7B",
    RoomType.BEDROOM: "#FFD274",
    RoomType.BATHROOM: "#BEBEBE",
    RoomType.BALCONY: "#BFE3E8",
    RoomType.ENTRANCE: "#7BA779",
    RoomType.DINING: "#E87A90",
    RoomType.STUDY: "#FF8C69",
    RoomType.STORAGE: "#1F849B",
    RoomType.FRONT_DOOR: "#727171",
    RoomType.INTERIOR_DOOR: "#D3A2C7",
    RoomType.UNKNOWN: "#785A67",
}

DOOR_TYPES: Final = frozenset({RoomType.FRONT_DOOR, RoomType.INTERIOR_DOOR})
ROOM_TYPES: Final[tuple[RoomType, ...]] = tuple(t for t in RoomType if t not in DOOR_TYPES)

_RPLAN_CODES: Final[dict[int, RoomType]] = {
    **{int(t): t for t in RoomType if t < RoomType.FRONT_DOOR},
    15: RoomType.FRONT_DOOR,
    16: RoomType.UNKNOWN,
    17: RoomType.INTERIOR_DOOR,
}
_TO_RPLAN: Final[dict[RoomType, int]] = {t: code for code, t in _RPLAN_CODES.items()}

# Spellings people write for the same thing; keys are lower case with single underscores.
_ALIASES: Final[dict[str, RoomType]] = {
    "living_room": RoomType.LIVING,
    "livingroom": RoomType.LIVING,
    "bed": RoomType.BEDROOM,
    "master_room": RoomType.BEDROOM,
    "bath": RoomType.BATHROOM,
    "toilet": RoomType.BATHROOM,
    "wc": RoomType.BATHROOM,
    "hall": RoomType.ENTRANCE,
    "entry": RoomType.ENTRANCE,
    "dining_room": RoomType.DINING,
    "study_room": RoomType.STUDY,
    "office": RoomType.STUDY,
}


def is_door(room_type: int) -> bool:
    """Whether a model code is a door (interior or front)."""
    return room_type in DOOR_TYPES


def from_rplan_code(code: int) -> RoomType:
    """The model's type of an RPLAN json code (1..8, 10, 15 front door, 16 unknown, 17 interior door)."""
    if code not in _RPLAN_CODES:
        raise FloorplanError(f"unknown RPLAN room type {shown(code)}; known: {sorted(_RPLAN_CODES)}")
    return _RPLAN_CODES[int(code)]


def to_rplan_code(room_type: RoomType) -> int:
    """The RPLAN json code of a model type; inverse of `from_rplan_code`."""
    return _TO_RPLAN[room_type]


def parse_room_type(name_or_code: str | int) -> RoomType:
    """A type from its name ("bedroom", "Living room", common spellings such as "bath") or its model code.

    Raises `FloorplanError` with the known names, and the closest ones for a misspelt name.
    """
    if isinstance(name_or_code, int) and not isinstance(name_or_code, bool):
        codes = [int(t) for t in RoomType]
        if name_or_code not in codes:
            raise FloorplanError(f"unknown room type code {shown(name_or_code)}; known codes: {codes}")
        return RoomType(name_or_code)
    known = {t.name.lower(): t for t in RoomType}
    if isinstance(name_or_code, str):
        key = "_".join(name_or_code.replace("-", " ").replace("_", " ").lower().split())
        found = known.get(key) or _ALIASES.get(key)
        if found is not None:
            return found
        close = difflib.get_close_matches(key, [*known, *_ALIASES], n=2, cutoff=0.6)
        hint = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    else:
        hint = ""
    raise FloorplanError(f"unknown room type {shown(name_or_code)}{hint} (known types: {', '.join(known)})")

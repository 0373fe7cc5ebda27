"""PLY headers, and whether a file holds what its header promises: trimesh takes what lines of text there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from .errors import PointCloudError

CORNERS = ("vertex_indices", "vertex_index")


@dataclass(frozen=True)
class PlyElement:
    """One kind of rows: how many, and the names of their values, True for those that are lists."""

    name: str
    count: int
    properties: dict[str, bool]


@dataclass(frozen=True)
class PlyHeader:
    """What a file promises; `begin` is the byte where the rows begin, lines of text if `ascii`."""

    elements: tuple[PlyElement, ...]
    ascii: bool
    begin: int


def read_ply_header(path: Path) -> PlyHeader:
    """Raises PointCloudError for a file that is no PLY or whose header does not end."""
    with path.open("rb") as file:
        if file.readline(80).strip() != b"ply":
            raise PointCloudError(f"{path}: not a PLY file: expected 'ply' in the first line")
        return _header(file, path)


def _header(file: BinaryIO, path: Path) -> PlyHeader:
    elements: list[PlyElement] = []
    is_ascii = False
    for _ in range(1000):
        match [word.decode("utf-8", "replace") for word in file.readline(1000).split()]:
            case ["end_header"]:
                return PlyHeader(tuple(elements), is_ascii, file.tell())
            case ["format", name, *_]:
                is_ascii = name == "ascii"
            case ["element", name, count] if count.isdecimal():
                elements.append(PlyElement(name, int(count[:18]), {}))
            case ["property", *kind, name] if elements and kind:
                elements[-1].properties[name] = kind[0] == "list"
    raise PointCloudError(f"{path}: expected a PLY header that ends in 'end_header', found none")


def check_ply(path: Path) -> None:
    """Raises PointCloudError for a file whose lines of text are not as many, or not as long, as its header promises (of
    a binary file trimesh compares the size itself), and for faces without a list of corners."""
    header = read_ply_header(path)
    for element in header.elements:
        # trimesh takes a list by any name only where it is all that is stored of a binary face.
        told = element.properties if header.ascii or len(element.properties) > 1 else CORNERS
        if element.name == "face" and element.count and not set(told) & set(CORNERS):
            found = ", ".join(told) or "nothing"
            raise PointCloudError(f"{path}: element face: expected the list {' or '.join(CORNERS)}, found {found}")
    if header.ascii:
        with path.open("rb") as file:
            file.seek(header.begin)
            _check_lines([line for line in file.read().splitlines() if line.strip()], header.elements, path)


def _check_lines(lines: list[bytes], elements: Iterable[PlyElement], path: Path) -> None:
    rows = iter(lines)
    promised = sum(element.count for element in elements)
    if promised != len(lines):
        raise PointCloudError(f"{path}: the header promises {promised:,} lines, but {len(lines):,} follow")
    for element in elements:
        for number, line in enumerate(islice(rows, element.count)):
            values = line.split()
            if len(values) != _length(values, element):
                text = line.decode("utf-8", "replace")[:60]
                expected = ", ".join(element.properties)
                raise PointCloudError(f"{path}: {element.name} {number}: expected {expected}, found {text!r}")


def _length(values: list[bytes], element: PlyElement) -> int:
    """How many values a row must have, as its lists say themselves; -1 where one is cut off."""
    place = 0
    for is_list in element.properties.values():
        if is_list:
            if place >= len(values) or not values[place].isdigit():
                return -1
            place += int(values[place][:9])
        place += 1
    return place

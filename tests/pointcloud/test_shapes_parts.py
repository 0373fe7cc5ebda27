"""Parts of procedural shapes: closed, facing outward, of known volume; unions by inclusion and exclusion."""

import sys

import numpy as np
import pytest
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.shapes.curves import bezier, polygon, rounded_path, rounded_rectangle, spline, superellipse
from trifold.pointcloud.shapes.draw import Draw
from trifold.pointcloud.shapes.parts import (
    Part,
    apart,
    at_height,
    beam,
    box,
    ellipsoid,
    loft,
    pad,
    revolve,
    rod,
    sheet,
    slab,
    strut,
    tube,
)
from trifold.pointcloud.shapes.solid import joined

GRID = np.stack([*np.meshgrid(np.linspace(-1, 1, 5), np.linspace(0, 1, 4), indexing="ij"), np.zeros((5, 4))], axis=-1)


def polygon_area(sides: int, radius: float) -> float:
    return 0.5 * sides * radius**2 * np.sin(2 * np.pi / sides)


def frustum(first: float, last: float, height: float) -> float:
    """Volume between two similar level faces of the given areas."""
    return height / 3 * (first + last + np.sqrt(first * last))


KNOWN = {
    "box": (box((1, 2, 3), (5, 5, 5)), 6.0),
    "slab": (slab(polygon(2.0, 6), 1.0, 4.0), 3 * polygon_area(6, 2.0)),
    "cone": (revolve([(3, 0), (0, 2)], 12), frustum(polygon_area(12, 3), 0, 2)),
    "frustum": (revolve([(3, 0), (1, 2)], 12), frustum(polygon_area(12, 3), polygon_area(12, 1), 2)),
    "hollow": (revolve([(2, 0), (3, 0), (3, 1), (2, 1)], 16, closed=True), polygon_area(16, 3) - polygon_area(16, 2)),
    "rod": (rod((0, 0, 0), (1, 2, 2), 0.5, sides=8), 3 * polygon_area(8, 0.5)),
    "upright rod": (rod((1, 0, 1), (1, 2, 1), 0.5, 0.25, 8), frustum(polygon_area(8, 0.5), polygon_area(8, 0.25), 2)),
    "beam": (beam((0, 0, 0), (3, 0, 4), 0.2, 0.5), 0.5),
    # Cavalieri: level sections of 0.3 by 0.2 / cos(lean), over a height of 4.
    "strut": (strut((0, 0, 0), (3, 4, 0), 0.3, 0.2), 0.3 * 0.2 * 5 / 4 * 4),
    "sheet": (sheet(GRID, 0.1), 0.2),
    "torus": (tube(at_height(polygon(2, 64), 0), 0.5, 16, closed=True, up=(0, 1, 0)), None),
    "pair": (box((1, 1, 1), (2, 0, 0)).pair(), 2.0),
    "mirrored": (box((1, 2, 3), (5, 5, 5)).mirrored(), 6.0),
    "turned": (box((1, 2, 3), (5, 5, 5)).turned("x", 30).turned("y", 200).turned("z", -70), 6.0),
    "scaled": (box((1, 2, 3)).scaled(2, 3, 0.5), 18.0),
    "pad": (pad((0.5, 0.1, 0.4)), None),
    "ellipsoid": (ellipsoid((1, 2, 3), (0, 1, 0)), None),
    "downward loft": (loft([at_height(polygon(1, 5), y) for y in (1.0, 0.5, 0.0)]), polygon_area(5, 1)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_parts_are_closed_and_have_their_volume(name: str) -> None:
    part, volume = KNOWN[name]
    start, end = part.faces.ravel(), np.roll(part.faces, -1, axis=1).ravel()
    edges = set(zip(start.tolist(), end.tolist(), strict=True))
    assert len(edges) == len(start), "an edge is passed twice in one direction"
    assert {(b, a) for a, b in edges} == edges, "an edge has one face only"
    assert part.volume > 0
    if volume is not None:
        assert part.volume == pytest.approx(volume, rel=2e-4)


def test_round_parts_approach_the_true_volumes() -> None:
    fine = ellipsoid((1, 2, 3), sides=64, levels=65).volume
    assert fine == pytest.approx(4 / 3 * np.pi * 6, rel=5e-3)
    ring = tube(at_height(polygon(2, 128), 0), 0.5, 64, closed=True, up=(0, 1, 0)).volume
    assert ring == pytest.approx(2 * np.pi * 2 * np.pi * 0.25, rel=5e-3)  # Pappus


def test_unions_and_holes_by_inclusion_and_exclusion() -> None:
    first, second = box((2, 2, 2)), box((2, 2, 2), (1, 1, 1))
    assert joined([first, second]).volume == pytest.approx(8 + 8 - 1)
    assert joined([first], [second]).volume == pytest.approx(8 - 1)
    assert joined([first], [second], [box((1, 1, 1), (0.5, 0.5, 0.5))]).volume == pytest.approx(8)
    # What is wholly inside leaves no hidden faces behind.
    assert len(joined([first, box((1, 1, 1))]).faces) == 12
    far = apart([first, box((1, 1, 1), (9, 0, 0))])
    assert joined([far]).volume == pytest.approx(9)


def test_what_cannot_be_joined_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = box((1, 1, 1))
    with pytest.raises(PointCloudError, match="expected a closed surface"):
        joined([Part(whole.vertices, whole.faces[:-1])])
    with pytest.raises(PointCloudError, match="nothing left"):
        joined([whole], [box((2, 2, 2))])
    monkeypatch.setitem(sys.modules, "manifold3d", None)
    with pytest.raises(ImportError, match=r"pip install 'trifold\[pointcloud\]'"):
        joined([whole])


def test_curves_pass_where_they_should() -> None:
    ellipse = superellipse(3.0, 2.0, 2.0, 16)
    np.testing.assert_allclose((ellipse / [3, 2] * ellipse / [3, 2]).sum(axis=1), 1)
    curve = bezier([[0, 0], [1, 2], [2, 0]], 3)
    np.testing.assert_allclose(curve, [[0, 0], [1, 1], [2, 0]])
    knots = [[0, 0], [1, 3], [2, -1], [4, 0]]
    np.testing.assert_allclose(spline(knots, 5)[::5], knots)
    bent = rounded_path([[0, 0], [1, 0], [1, 1]], 0.2)
    np.testing.assert_allclose(bent[[0, 1, -2, -1]], [[0, 0], [0.8, 0], [1, 0.2], [1, 1]])
    corners = rounded_rectangle(2.0, 1.0, 0.5, 3)
    np.testing.assert_allclose(np.abs(corners).max(axis=0), [2, 1])
    assert len(corners) == 12


def test_draws_are_recorded_named_once_and_repeat() -> None:
    draw, again = Draw([1, 2]), Draw([1, 2])
    values = (draw.between("a", 2, 3), draw.whole("b", 1, 3), draw.chance("c", 0.5), draw.choice("d", {"x": 1, "y": 3}))
    assert values == (
        again.between("a", 2, 3),
        again.whole("b", 1, 3),
        again.chance("c", 0.5),
        again.choice("d", {"x": 1, "y": 3}),
    )
    assert draw.parameters == dict(zip("abcd", values, strict=True))
    with pytest.raises(KeyError, match="drawn twice"):
        draw.chance("a", 0.5)


def test_draws_have_the_stated_distribution() -> None:
    draws = [Draw([7, seed]) for seed in range(2000)]
    whole = np.array([draw.whole("n", 2, 4) for draw in draws])
    words = [draw.choice("w", {"rare": 1, "often": 3, "never": 0}) for draw in draws]
    np.testing.assert_allclose(np.bincount(whole, minlength=5) / 2000, [0, 0, 1 / 3, 1 / 3, 1 / 3], atol=0.04)
    assert words.count("rare") / 2000 == pytest.approx(0.25, abs=0.04)
    assert "never" not in words

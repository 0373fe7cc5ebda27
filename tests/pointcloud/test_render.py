"""Pictures: geometry of the camera by hand, the z-buffer against rays, and what a picture must show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from trifold.pointcloud.camera import Camera, aim
from trifold.pointcloud.cloud import PointCloud
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.mesh import Mesh
from trifold.pointcloud.rasterise import fill_triangles, splat_discs
from trifold.pointcloud.render import (
    PAPER,
    Style,
    contact_sheet,
    render,
    render_cloud,
    render_mesh,
    save_picture,
    tile,
)
from trifold.pointcloud.shading import corner_normals

FRONT = Camera(azimuth=0, elevation=0, field_of_view=0)
CUBE = Mesh.from_trimesh(trimesh.creation.box((2, 2, 2)))
LOW, HIGH = np.full(3, -1.0), np.full(3, 1.0)
BACKGROUND = np.array([int(PAPER[k : k + 2], 16) for k in (1, 3, 5)])
FLAT = Style(shadow=False, supersample=1)


def _drawn(picture: np.ndarray) -> np.ndarray:
    """Where something other than the background is."""
    return np.abs(picture.astype(int) - BACKGROUND).max(-1) > 6


# ------------------------------------------------------------------------------------------------------- camera


@pytest.mark.parametrize(
    ("azimuth", "elevation", "up", "right", "back"),
    [
        (0, 0, "y", (1, 0, 0), (0, 0, 1)),
        (90, 0, "y", (0, 0, -1), (1, 0, 0)),
        (0, 90, "y", (1, 0, 0), (0, 1, 0)),
        (0, 0, "z", (1, 0, 0), (0, -1, 0)),
        (90, 0, "z", (0, 1, 0), (1, 0, 0)),
        (0, 90, "z", (1, 0, 0), (0, 0, 1)),
    ],
)
def test_axes_of_the_camera(azimuth: float, elevation: float, up: str, right: tuple, back: tuple) -> None:
    view = aim(Camera(azimuth, elevation, up=up), LOW, HIGH, (64, 64))  # type: ignore[arg-type]
    np.testing.assert_allclose(view.axes[0], right, atol=1e-12)
    np.testing.assert_allclose(view.axes[2], back, atol=1e-12)
    np.testing.assert_allclose(view.axes[1], np.cross(back, right), atol=1e-12)


@pytest.mark.parametrize("field", [0.0, 30.0, 90.0])
@pytest.mark.parametrize("size", [(100, 100), (160, 90), (90, 160)])
def test_the_ball_fits(field: float, size: tuple[int, int]) -> None:
    view = aim(Camera(20, 30, field), LOW, HIGH, size)
    around = np.random.default_rng(0).standard_normal((4000, 3))
    around *= np.sqrt(3) / np.linalg.norm(around, axis=1, keepdims=True)
    pixels, _ = view.project(around)
    reach = np.abs(pixels - np.array(size) / 2).max(0)
    assert (reach <= np.array(size) / 2 + 1e-9).all()
    assert reach.max() > 0.9 * min(size) / 2
    np.testing.assert_allclose(view.project(np.zeros((1, 3)))[0], [np.array(size) / 2], atol=1e-9)


@pytest.mark.parametrize("field", [0.0, 40.0])
def test_rays_pass_what_is_projected(field: float) -> None:
    view = aim(Camera(25, 35, field), LOW, HIGH, (20, 16))
    origins, directions = view.rays()
    points = origins + 1.7 * directions * (1 if field == 0 else view.distance / 2)
    pixels, _ = view.project(points)
    columns, rows = np.meshgrid(np.arange(20) + 0.5, np.arange(16) + 0.5)
    np.testing.assert_allclose(pixels, np.stack([columns, rows], -1), atol=1e-6)


@pytest.mark.parametrize("field", [0.0, 40.0])
def test_depth_grows_away_and_comes_back(field: float) -> None:
    view = aim(Camera(0, 0, field), LOW, HIGH, (64, 64))
    line = np.array([[0, 0, z] for z in (1.0, 0.5, 0.0, -1.0)])
    depth = view.project(line)[1]
    assert (np.diff(depth) > 0).all()
    np.testing.assert_allclose(view.linear_depth(depth) * view.radius, [-1, -0.5, 0, 1], atol=1e-9)


@pytest.mark.parametrize(
    "bad",
    [
        {"elevation": 91},
        {"azimuth": float("nan")},
        {"field_of_view": -1},
        {"field_of_view": 170},
        {"zoom": 0},
        {"up": "x"},
    ],
)
def test_camera_refuses(bad: dict) -> None:
    with pytest.raises(PointCloudError, match="camera: "):
        Camera(**bad)


# ----------------------------------------------------------------------------------------------------- z-buffer


@pytest.mark.parametrize("field", [0.0, 50.0])
def test_triangles_agree_with_rays(field: float) -> None:
    """Every pixel's nearest triangle and its weights, against an intersection of each ray with every triangle."""
    rng = np.random.default_rng(3)
    corners = rng.uniform(-1, 1, (25, 3, 3))
    view = aim(Camera(30, 20, field), LOW, HIGH, (40, 32))
    covered, depth, number, weights = fill_triangles(view, corners)
    origins, directions = view.rays()
    nearest, best = np.full((32, 40), np.inf), np.full((32, 40), -1)
    for k, (a, b, c) in enumerate(corners):
        normal = np.cross(b - a, c - a)
        travel = ((a - origins) @ normal) / (directions @ normal)
        hit = origins + travel[..., None] * directions
        sides = [np.cross(q - p, hit - p) @ normal for p, q in ((a, b), (b, c), (c, a))]
        inside = np.all(np.stack(sides) > 0, axis=0) & (travel < nearest)
        nearest, best = np.where(inside, travel, nearest), np.where(inside, k, best)
    assert (covered == (best >= 0)).mean() > 0.995  # centres on an edge may fall either way
    both = covered & (best >= 0)
    assert (number[both] == best[both]).mean() > 0.995
    same = both & (number == best)
    hit = origins + nearest[..., None] * directions
    found = np.einsum("pk,pkc->pc", weights[same], corners[number[same]])
    np.testing.assert_allclose(found, hit[same], atol=1e-5)
    np.testing.assert_allclose(depth[same], view.project(hit[same])[1], atol=1e-6)


def test_balls_agree_with_spheres() -> None:
    """Orthographic balls that cross: the nearest sphere at every pixel, its depth and its normal."""
    points = np.array([[0, 0, 0], [0.3, 0.1, 0.15], [-0.5, -0.4, 0.6]])
    view = aim(FRONT, LOW, HIGH, (60, 60))
    covered, depth, number, offset = splat_discs(view, points, 0.4)
    origins, _ = view.rays()
    square = 0.4**2 - ((origins[..., None, :2] - points[:, :2]) ** 2).sum(-1)
    front = np.where(square >= 0, points[:, 2] + np.sqrt(np.maximum(square, 0)), -np.inf)
    np.testing.assert_array_equal(covered, np.isfinite(front.max(-1)))
    np.testing.assert_array_equal(number[covered], front.argmax(-1)[covered])
    np.testing.assert_allclose(depth[covered], -front.max(-1)[covered], atol=1e-6)
    hit = np.concatenate([origins[..., :2], front.max(-1)[..., None]], -1)[covered]
    np.testing.assert_allclose(offset[covered], ((hit - points[number[covered]]) / 0.4)[:, :2], atol=1e-6)


def test_what_is_outside_the_picture_is_cut() -> None:
    view = aim(Camera(0, 0, 40, zoom=30), LOW, HIGH, (32, 32))
    far = np.array([[50.0, 0, 0], [0, 0, 100.0], [0, 0, 0]])  # beside, behind the eye, in the middle
    covered, _, number, _ = splat_discs(view, far, 0.01)
    assert set(number[covered]) == {2}
    triangles = far[:, None] + np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    covered, _, number, _ = fill_triangles(view, triangles)
    assert set(number[covered]) == {2}


# ---------------------------------------------------------------------------------------------------- pictures


def test_cube_from_the_front_is_a_square() -> None:
    picture = render_mesh(CUBE, camera=FRONT, size=90, style=FLAT)
    assert picture.shape == (90, 90, 3)
    assert picture.dtype == np.uint8
    side = round(90 / np.sqrt(3))  # the ball around the cube fills the picture
    rows, columns = np.nonzero(_drawn(picture))
    assert abs(np.ptp(rows) + 1 - side) <= 1
    assert abs(np.ptp(columns) + 1 - side) <= 1
    assert _drawn(picture).sum() == pytest.approx(side**2, rel=0.05)


def test_light_comes_from_above() -> None:
    picture = render_mesh(CUBE, camera=Camera(30, 30), size=96, style=FLAT).astype(int)
    rows, columns = np.nonzero(_drawn(picture))
    top = picture[rows.min() + 12, columns[rows == rows.min()][0]].sum()
    assert top > picture[rows.max() - 12, columns[rows == rows.max()][0] + 5].sum()


def test_shadow_lies_on_the_ground_and_can_be_left_out() -> None:
    cloud = PointCloud(np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32))
    for item in (CUBE, cloud):
        with_shadow, without = render(item, size=96), render(item, size=96, style=Style(shadow=False))
        changed = np.abs(with_shadow.astype(int) - without).max(-1) > 3
        assert changed.sum() > 50
        assert (with_shadow[changed].astype(int) <= without[changed]).all()
        assert np.nonzero(changed)[0].mean() > 55  # in the lower half
        for edge in (with_shadow[0], with_shadow[-1], with_shadow[:, 0], with_shadow[:, -1]):
            assert np.abs(edge.astype(int) - BACKGROUND).max() <= 6  # it fades out before the border


def test_supersampling_smooths_edges() -> None:
    rough = render_mesh(CUBE, size=64, style=FLAT)
    smooth = render_mesh(CUBE, size=64, style=Style(shadow=False, supersample=3))
    assert len(np.unique(smooth.reshape(-1, 3), axis=0)) > len(np.unique(rough.reshape(-1, 3), axis=0))
    assert np.abs(rough.astype(int) - smooth).mean() < 6


def test_heights_have_colours_of_the_ramp() -> None:
    column = PointCloud(np.stack([np.zeros(200), np.linspace(-1, 1, 200), np.zeros(200)], 1))
    picture = render_cloud(column, camera=FRONT, size=128, style=Style(radius=0.05, shadow=False)).astype(int)
    assert picture[120, 64, 2] > picture[120, 64, 0] + 20  # water below
    assert picture[8, 64, 0] > picture[8, 64, 2] + 20  # clay above
    standing = PointCloud(column.points[:, [0, 2, 1]])
    upright = Camera(azimuth=0, elevation=0, field_of_view=0, up="z")
    again = render_cloud(standing, camera=upright, size=128, style=Style(radius=0.05, shadow=False))
    np.testing.assert_array_equal(picture, again)


@pytest.mark.parametrize("colour", ["normal", "plain", "height"])
def test_colours_for_clouds_and_meshes(colour: str) -> None:
    points = trimesh.creation.icosphere(subdivisions=2).vertices
    style = Style(colour=colour, shadow=False)  # type: ignore[arg-type]
    for item in (PointCloud(points), PointCloud(points, points), CUBE):
        picture = render(item, size=48, style=style)
        hues = np.ptp(picture[_drawn(picture)].astype(int) - picture[_drawn(picture)].mean(-1, keepdims=True), axis=0)
        assert (hues.max() > 40) == (colour != "plain")


def test_bounds_make_pictures_comparable() -> None:
    small = Mesh(CUBE.vertices / 2, CUBE.faces)
    both = np.stack([LOW, HIGH])
    style = Style(shadow=False)
    large = _drawn(render_mesh(CUBE, size=80, style=style, bounds=both)).sum()
    half = _drawn(render_mesh(small, size=80, style=style, bounds=both)).sum()
    assert half == pytest.approx(large / 4, rel=0.1)
    np.testing.assert_array_equal(render_mesh(small, size=80, style=style), render_mesh(CUBE, size=80, style=style))


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.ones((5, 3)), np.array([[0, 0, 0], [1, 0, 0]])])
def test_clouds_of_hardly_anything(points: np.ndarray) -> None:
    assert _drawn(render_cloud(PointCloud(points), size=64)).any()


def test_normals_are_smooth_on_balls_and_sharp_on_cubes() -> None:
    np.testing.assert_allclose(corner_normals(CUBE), np.repeat(CUBE.face_normals[:, None], 3, 1), atol=1e-6)
    ball = Mesh.from_trimesh(trimesh.creation.icosphere(subdivisions=3))
    np.testing.assert_allclose(corner_normals(ball), ball.vertices[ball.faces], atol=0.02)
    some = np.array([5, 3, 5])
    np.testing.assert_allclose(corner_normals(ball, some), corner_normals(ball)[some], atol=1e-6)


# ------------------------------------------------------------------------------------------------------- sheets


def test_contact_sheet_has_its_places() -> None:
    items = [CUBE, PointCloud(CUBE.vertices), CUBE]
    sheet = contact_sheet(items, ["a cube", "its corners", "again, " + "very long " * 20], columns=2, size=64)
    assert sheet.width % 2 == 0
    assert sheet.height % 2 == 0
    pixels = np.asarray(sheet)
    picture = render_mesh(CUBE, size=64)
    gap = 4
    np.testing.assert_array_equal(pixels[gap : gap + 64, gap : gap + 64], picture)
    labels = pixels[gap + 64 : gap + 64 + 14]
    assert _drawn(labels).any()
    assert not _drawn(pixels[-60:, 80:]).any()  # the fourth place is empty
    assert contact_sheet(items, size=64).width > sheet.width  # three in a row by default, no labels


def test_tile_takes_ready_pictures() -> None:
    sheet = tile([np.full((20, 32, 3), 7, np.uint8)] * 5, None, 5)
    assert (np.asarray(sheet) == 7).all(-1).sum() == 5 * 20 * 32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contact_sheet([]), "no items"),
        (lambda: contact_sheet([CUBE], ["a", "b"]), "labels: expected 1, found 2"),
        (lambda: contact_sheet([CUBE], columns=0), "columns: expected at least 1"),
        (lambda: render_mesh(CUBE, size=2), "size: expected 8 to 8192 pixels, found 2x2"),
        (lambda: render_mesh(CUBE, size=(64, 10**6)), "size: "),
        (lambda: render_mesh(CUBE, bounds=np.zeros(3)), r"bounds: expected finite numbers \[2, 3\]"),
        (lambda: Style(colour="red"), "colour: expected height, normal or plain"),  # type: ignore[arg-type]
        (lambda: Style(background="white"), "expected '#rrggbb', found 'white'"),
        (lambda: Style(background="#ggwwpp"), "expected '#rrggbb'"),
        (lambda: Style(radius=-1), "radius: expected a positive number"),
        (lambda: Style(supersample=9), "supersample: expected 1 to 4"),
    ],
)
def test_refuses(call: object, message: str) -> None:
    with pytest.raises(PointCloudError, match=message):
        call()  # type: ignore[operator]


def test_pictures_are_saved_whole(tmp_path: Path) -> None:
    picture = render_mesh(CUBE, size=32)
    save_picture(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    save_picture(tmp_path / "b.jpg", Image.fromarray(picture))
    with pytest.raises(PointCloudError, match=r"cannot write \.bmp; use \.png or \.jpg"):
        save_picture(tmp_path / "c.bmp", picture)
    with pytest.raises(PointCloudError, match="cannot write"):
        save_picture(tmp_path / "a.png" / "d.png", picture)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.jpg"]

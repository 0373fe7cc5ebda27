"""Writing clouds and meshes by the suffix of a path: one file, numbered files, a picture, a turn, a page, a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..common.command_line import make_folder, warn_of_others
from .cloud import PointCloud
from .cloud_files import WRITTEN as CLOUD_SUFFIXES
from .errors import PointCloudError
from .mesh import Mesh, import_trimesh
from .orientation import import_scipy
from .page import Panel, save_page
from .render import Item, contact_sheet, save_picture
from .surface import Method
from .surface_open3d import import_open3d
from .turntable import save_turntable

MESH_SUFFIXES = (".glb", ".obj", ".ply", ".stl")
PICTURE_SUFFIXES = (".png", ".html", ".mp4", ".gif")
NUMBERED = r"cloud-\d+\.ply|mesh-\d+\.glb"
SHAPE_SUFFIXES = (*CLOUD_SUFFIXES, *PICTURE_SUFFIXES, "")


def save_shapes(
    clouds: Sequence[PointCloud],
    out: Path,
    *,
    title: str,
    meshes: Sequence[Mesh] = (),
    labels: Sequence[str] | None = None,
    facts: Mapping[str, str] | None = None,
    columns: int | None = None,
) -> list[Path]:
    """Write clouds, and the mesh of each where there are `meshes`; returns what was written.

    out: a cloud file (numbered where there are several), .png contact sheet, .html page, .mp4 or .gif of the shapes
    turning, or a folder, which gets cloud-0.ply ..., mesh-0.glb ..., sheet.png and index.html, and a warning for
    other files of such names that it holds. Pictures show clouds and meshes in turns.
    labels: of the clouds, their names by default. facts: listed on the page.
    Raises PointCloudError for meshes where `out` is a cloud file, and where something cannot be written.
    """
    labels = list(labels or (cloud.name or f"cloud {i}" for i, cloud in enumerate(clouds)))
    if meshes:
        check_meshes(out)
    shown: list[Item] = []
    titles: list[str] = []
    for i, (cloud, label) in enumerate(zip(clouds, labels, strict=True)):
        shown.append(cloud)
        titles.append(label)
        if meshes:
            shown.append(meshes[i])
            titles.append(f"{label}, mesh")
    make_folder(out if out.suffix == "" else out.parent)
    suffix = out.suffix.lower()
    if suffix in CLOUD_SUFFIXES:
        paths = [out] if len(clouds) == 1 else [out.with_stem(f"{out.stem}-{i}") for i in range(len(clouds))]
        for cloud, path in zip(clouds, paths, strict=True):
            cloud.save(path)
        return paths
    if suffix in (".mp4", ".gif"):
        save_turntable(out, shown, labels=titles if len(shown) > 1 else None, columns=columns)
        return [out]
    if suffix == ".png":
        save_picture(out, contact_sheet(shown, titles, columns))
        return [out]
    panels = [Panel(name, item, note(item)) for name, item in zip(titles, shown, strict=True)]
    if suffix == ".html":
        save_page(out, panels, title=title, facts=facts)
        return [out]
    paths = [out / f"cloud-{i}.ply" for i in range(len(clouds))]
    for cloud, path in zip(clouds, paths, strict=True):
        cloud.save(path)
    for i, mesh in enumerate(meshes):
        paths.append(out / f"mesh-{i}.glb")
        mesh.save(paths[-1])
    warn_of_others(out, NUMBERED, paths)
    save_picture(out / "sheet.png", contact_sheet(shown, titles, columns))
    save_page(out / "index.html", panels, title=title, facts=facts)
    return [*paths, out / "sheet.png", out / "index.html"]


def check_meshes(out: Path) -> None:
    """Refuse (PointCloudError) a cloud file as the place of clouds with their meshes."""
    if out.suffix.lower() in CLOUD_SUFFIXES:
        raise PointCloudError(f"{out}: holds a cloud, no mesh; expected a folder or {', '.join(PICTURE_SUFFIXES)}")


def check_libraries(out: Path, method: Method = "auto") -> None:
    """Raise ImportError before the work begins where meshes by this method, or writing them to `out`, take a library
    that is not installed."""
    import_scipy()
    if method in ("poisson", "ball_pivoting"):
        import_open3d()
    if out.suffix.lower() in ("", ".glb", ".ply", ".stl"):
        import_trimesh()


def note(item: Item) -> str:
    """What a page says below a shape."""
    if isinstance(item, Mesh):
        closed = "watertight" if item.is_watertight else "open"
        return f"{len(item.vertices):,} vertices, {len(item.faces):,} faces, {closed}"
    return f"{item.num_points:,} points"

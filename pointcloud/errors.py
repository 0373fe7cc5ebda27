"""What goes wrong with clouds, meshes and their files."""

from __future__ import annotations


class PointCloudError(ValueError):
    """A cloud, mesh, file or setting that cannot be used; says which file and field, what was found and expected."""

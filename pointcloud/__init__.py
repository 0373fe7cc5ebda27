"""Point clouds: Luo & Hu's diffusion, a point transformer on the core, data, metrics, meshes and pictures."""

from .cloud import PointCloud
from .diffusion import PointDiffusion, PointDiffusionConfig
from .errors import PointCloudError
from .mesh import Mesh
from .normalise import Normalisation
from .process import Sampling
from .sources import open_source
from .surface import cloud_to_mesh

__all__ = [
    "Mesh",
    "Normalisation",
    "PointCloud",
    "PointCloudError",
    "PointDiffusion",
    "PointDiffusionConfig",
    "Sampling",
    "cloud_to_mesh",
    "open_source",
]

"""Bringing clouds to one place and size, by the formulas of Luo & Hu and PointFlow, and back to the data's units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from .cloud import PointCloud
from .errors import PointCloudError
from .items import CloudItem, CloudSource

NormalisationMode = Literal["shape_unit", "shape_half", "shape_34", "shape_bbox", "global_unit", "global", "none"]
PER_SHAPE: dict[str, float] = {"shape_unit": 1.0, "shape_half": 0.5, "shape_34": 0.75, "shape_bbox": 1.0}

Points = TypeVar("Points", np.ndarray, Tensor)
AnyCloud = PointCloud | CloudItem | np.ndarray | Tensor


@dataclass(frozen=True)
class Normalisation:
    """How clouds are normalised: a mode and the statistics of the training set, kept with a model.

    x' = (x - shift) / scale, with one shift [3] and one scale a cloud:

    mode         shift                      scale
    shape_unit   the cloud's mean           standard deviation of all its coordinates
    shape_half   the cloud's mean           the same / 0.5
    shape_34     the cloud's mean           the same / 0.75
    shape_bbox   middle of its box          half the longest side of its box, so that it fills [-1, 1]
    global_unit  the cloud's mean           standard deviation of all coordinates of the data set
    global       mean of the data set       the same (PointFlow, PVD, LION)
    none         0                          1

    The standard deviation is Luo & Hu's: over x, y and z together around their common mean, not around the shift
    (a cloud off the origin comes out with a deviation below 1), and unbiased; "global" divides by the number of
    coordinates, as PointFlow does.

    shift, scale: for "global" as above; "global_unit" keeps the mean of the data set and its scale; the modes "shape_*"
    the mean shift and scale of the training clouds, which say where and how large a generated cloud is put back.
    """

    mode: NormalisationMode = "none"
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in get_args(NormalisationMode):
            raise PointCloudError(
                f"mode: expected one of {', '.join(get_args(NormalisationMode))}, found {self.mode!r}"
            )
        if len(self.shift) != 3 or not np.isfinite(self.shift).all():
            raise PointCloudError(f"shift: expected three finite numbers, found {self.shift}")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise PointCloudError(f"scale: expected a positive number, found {self.scale}")
        if self.mode == "none" and (self.scale != 1 or any(self.shift)):
            raise PointCloudError(f"mode 'none' has shift 0 and scale 1, found {self.shift} and {self.scale}")

    def apply(self, points: Points) -> tuple[Points, Points, Points]:
        """Normalise clouds [..., N, 3], each by itself.

        Returns (points [..., N, 3], shift [..., 1, 3], scale [..., 1, 1]) of the kind, device and floating type of the
        input; `points * scale + shift` is the input again. Statistics are taken in float64.
        Raises PointCloudError for another shape, no points, values that are not finite and, in the modes "shape_*", a
        cloud whose points coincide.
        """
        if isinstance(points, Tensor):
            return self._apply(points)
        if not points.flags.writeable:
            points = points.copy()
        out, shift, scale = self._apply(torch.from_numpy(points))
        return out.numpy(), shift.numpy(), scale.numpy()

    def _apply(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not x.is_floating_point() or x.ndim < 2 or x.shape[-1] != 3 or x.shape[-2] < 1:
            raise PointCloudError(f"points: expected floats [..., N, 3] with N > 0, found {x.dtype} {list(x.shape)}")
        shift, scale = self._statistics(x.double())
        shift, scale = shift.to(x.dtype), scale.to(x.dtype)
        return (x - shift) / scale, shift, scale

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(shift [..., 1, 3], scale [..., 1, 1]), float64."""
        low, high = x.aminmax(dim=-2, keepdim=True)
        extent = (high - low).amax(dim=-1, keepdim=True)
        if not extent.isfinite().all():  # NaN and infinity both end up here
            raise PointCloudError("points: expected finite coordinates, found NaN or infinity")
        own_scale = torch.full_like(extent, self.scale)
        if self.mode in PER_SHAPE:
            if bool((extent == 0).any()):
                first = int((extent == 0).flatten().nonzero()[0])
                raise PointCloudError(f"cloud {first}: all points coincide, so {self.mode} has no scale for it")
            if self.mode == "shape_bbox":
                return (low + high) / 2, extent / 2
            deviation = x.flatten(-2).std(dim=-1)[..., None, None]  # x, y and z together, unbiased
            return x.mean(dim=-2, keepdim=True), deviation / PER_SHAPE[self.mode]
        if self.mode == "global_unit":
            return x.mean(dim=-2, keepdim=True), own_scale
        own_shift = torch.tensor(self.shift, dtype=x.dtype, device=x.device)
        return own_shift.expand(*x.shape[:-2], 1, 3), own_scale

    def restore(self, points: Points, shift: Points | None = None, scale: Points | None = None) -> Points:
        """Clouds [..., N, 3] in the data's units: `points * scale + shift`.

        By default with the statistics kept here, as for generated clouds; or with the shift [..., 1, 3] and scale
        [..., 1, 1] that `apply` returned for these very clouds.
        """
        if isinstance(points, Tensor):
            kept: Tensor = torch.tensor(self.shift, dtype=points.dtype, device=points.device)
            return points * (self.scale if scale is None else scale) + (kept if shift is None else shift)
        offset = np.asarray(self.shift, dtype=points.dtype) if shift is None else shift
        factor = np.asarray(self.scale, dtype=points.dtype) if scale is None else scale
        return points * factor + offset

    @classmethod
    def fit(cls, mode: NormalisationMode, clouds: CloudSource | Iterable[AnyCloud]) -> Normalisation:
        """The statistics of a training set, in one pass that holds one cloud at a time.

        Luo & Hu take "global_unit" over train, val and test together; PVD takes "global" over the train split, all
        15,000 points of each cloud.
        Raises PointCloudError for no clouds, and as `apply`.
        """
        if mode == "none":
            return cls()
        rule, sums = cls(mode), _Sums()
        for i, points in enumerate(_arrays(clouds)):
            try:
                _, shift, scale = rule.apply(points)
            except PointCloudError as error:
                raise PointCloudError(f"cloud {i} of the training set: {error}") from error
            sums.add(points, shift, scale)
        return sums.normalisation(mode)


class _Sums:
    """Running sums over clouds; moments are merged by Chan, Golub & LeVeque 1979, so that no accuracy is lost."""

    def __init__(self) -> None:
        self.clouds, self.points, self.coordinates = 0, 0, 0
        self.shift, self.scale, self.position = np.zeros(3), 0.0, np.zeros(3)
        self.mean, self.squares = 0.0, 0.0

    def add(self, points: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> None:
        self.clouds += 1
        self.shift += shift.astype(np.float64)[0]
        self.scale += float(scale[0, 0])
        self.points += len(points)
        self.position += points.sum(axis=0, dtype=np.float64)
        flat = points.astype(np.float64).ravel()
        mean, before = flat.mean(), self.coordinates
        self.coordinates += flat.size
        self.squares += ((flat - mean) ** 2).sum() + (mean - self.mean) ** 2 * before * flat.size / self.coordinates
        self.mean += (mean - self.mean) * flat.size / self.coordinates

    def normalisation(self, mode: NormalisationMode) -> Normalisation:
        if not self.clouds:
            raise PointCloudError(f"mode {mode!r} needs at least one cloud to take statistics of, found none")
        if mode in PER_SHAPE:
            shift, scale = self.shift / self.clouds, self.scale / self.clouds
        else:
            shift = self.position / self.points
            scale = (self.squares / (self.coordinates - (mode == "global_unit"))) ** 0.5
        if scale <= 0:
            raise PointCloudError(f"mode {mode!r}: all coordinates of the data set are equal, so there is no scale")
        x, y, z = (float(value) for value in shift)
        return Normalisation(mode, (x, y, z), float(scale))


def _arrays(clouds: CloudSource | Iterable[AnyCloud]) -> Iterator[np.ndarray]:
    found = clouds if isinstance(clouds, Iterable) else (clouds[i] for i in range(len(clouds)))
    for cloud in found:
        points = cloud.points if isinstance(cloud, PointCloud | CloudItem) else cloud
        points = points.detach().cpu().numpy() if isinstance(points, Tensor) else np.asarray(points)
        if points.ndim != 2:
            raise PointCloudError(f"clouds: expected arrays [N, 3], found {list(points.shape)}")
        yield points

"""How well a set of generated clouds covers and resembles a reference set, from matrices of pairwise distances.

Definitions: Achlioptas et al., Learning Representations and Generative Models for 3D Point Clouds, 2018 (MMD, COV);
Lopez-Paz and Oquab 2017, Yang et al. (PointFlow) 2019 (1-NNA). S generated clouds ("samples"), R references.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch

from ..errors import PointCloudError

Ties = Literal["half", "original"]

# Two distances closer than this, relatively, are a tie: exact solvers agree to about 1e-14.
TIE_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class SetDistances:
    """Distances between and within the two sets. Entries that cannot be anybody's nearest may be infinite.

    ref_sample: [R, S], entry r, s from reference r to sample s. ref_ref: [R, R]. sample_sample: [S, S].
    """

    ref_sample: np.ndarray
    ref_ref: np.ndarray
    sample_sample: np.ndarray

    def __post_init__(self) -> None:
        num_refs, num_samples = self.ref_sample.shape
        for name, side in (("ref_ref", num_refs), ("sample_sample", num_samples)):
            if getattr(self, name).shape != (side, side):
                raise PointCloudError(f"{name}: expected [{side}, {side}], found {list(getattr(self, name).shape)}")
        for name in ("ref_sample", "ref_ref", "sample_sample"):
            if np.isnan(getattr(self, name)).any():
                raise PointCloudError(f"{name}: holds NaN")
        if not np.isfinite(self.ref_sample).any(0).all() or not np.isfinite(self.ref_sample).any(1).all():
            raise PointCloudError("ref_sample: some cloud has no finite distance to the other set")

    def merged(self) -> np.ndarray:
        """float64 [R + S, R + S], references first; a cloud's own entry is infinite.

        As in the original, distances across the sets are `ref_sample` both ways (a choice only for distances that
        are not symmetric), and a cloud's neighbours are looked for down its column.
        """
        matrix = np.block([[self.ref_ref, self.ref_sample], [self.ref_sample.T, self.sample_sample]]).astype(float)
        np.fill_diagonal(matrix, np.inf)
        return matrix


def minimum_matching_distance(distances: SetDistances) -> float:
    """MMD: mean over references of the distance to the nearest sample. Smaller is better; blind to bad samples."""
    return float(distances.ref_sample.min(1).mean())


def sample_matching_distance(distances: SetDistances) -> float:
    """Mean over samples of the distance to the nearest reference (`lgan_mmd_smp` of the original)."""
    return float(distances.ref_sample.min(0).mean())


def coverage(distances: SetDistances) -> float:
    """COV in [0, 1]: share of references that are the nearest reference of some sample.

    Among tied references (`TIE_TOLERANCE`) a sample takes the first. A second sample of the reference distribution, as
    large as the references, scores well below 1: report it beside the model's.
    """
    near = distances.ref_sample <= distances.ref_sample.min(0) * (1 + TIE_TOLERANCE)
    return len(np.unique(near.argmax(0))) / len(distances.ref_sample)


@dataclass(frozen=True)
class NeighbourAccuracy:
    """Leave-one-out nearest-neighbour accuracy of telling references from samples. 0.5 is best for equal sets.

    Above `chance`: the sets differ. Below: samples lie closer to references than references to each other, as copies
    do. low, high: confidence interval. reference, sample: accuracy over either set alone (the original's acc_t, acc_f).
    effective_count: number of independent decisions that the interval rests on.
    """

    accuracy: float
    low: float
    high: float
    reference: float
    sample: float
    chance: float
    effective_count: float


def nearest_neighbour_accuracy(
    distances: SetDistances, *, k: int = 1, ties: Ties = "half", confidence: float = 0.95
) -> NeighbourAccuracy:
    """1-NNA (or k-NNA): share of clouds whose k nearest others are mostly of their own set.

    ties: "half": neighbours at the same distance (`TIE_TOLERANCE`) share the places left, an even vote counts one half,
    and a cloud that coincides with its nearest neighbours counts itself among them, since it cannot be told from them.
    Two identical sets so score 0.5, not 0. "original": the order of `torch.topk`, an even vote goes to the references;
    two identical sets of different clouds score 0, as in Luo & Hu.

    The interval is Wilson's score interval on an effective number of clouds, N / (1 + m), where m is the share of
    clouds that are the nearest neighbour of their own nearest neighbour. Under the hypothesis that labels are random,
    decisions of two clouds are independent unless the two are mutual nearest neighbours, when they are the same; the
    variance is then (1 + m) / 4N (Schilling, Multivariate two-sample tests based on nearest neighbors, 1986). The
    plain binomial interval is too narrow by a factor of about 1.25; resampling clouds puts copies at distance 0 and
    is wrong. For k > 1 neighbourhoods overlap more and the interval is only a guide.

    Raises `PointCloudError` for a k that leaves too few neighbours, or where unsolved (infinite) distances hide them.
    """
    matrix = distances.merged()
    num_refs, total = len(distances.ref_ref), len(matrix)
    if not 1 <= k < total or np.sort(matrix, axis=0)[k - 1].max() == np.inf:
        raise PointCloudError(f"k: {k} neighbours are not known for each of {total} clouds")
    is_ref = np.arange(total) < num_refs
    if ties == "original":
        says_ref = original_votes(matrix, is_ref, k) >= k / 2
        score = (says_ref == is_ref).astype(float)
    elif ties == "half":
        score = _shared_votes(matrix, is_ref, k)
    else:
        raise PointCloudError(f'ties: expected "half" or "original", found {ties!r}')
    nearest = matrix.argmin(0)
    mutual = float((nearest[nearest] == np.arange(total)).mean())
    effective = total / (1 + mutual)
    accuracy = float(score.mean())
    low, high = wilson_interval(accuracy, effective, confidence)
    sizes = np.array([num_refs, total - num_refs])
    chance = float((sizes * (sizes - 1)).sum() / (total * (total - 1)))
    return NeighbourAccuracy(
        accuracy, low, high, float(score[is_ref].mean()), float(score[~is_ref].mean()), chance, effective
    )


def _shared_votes(matrix: np.ndarray, is_ref: np.ndarray, k: int) -> np.ndarray:
    """For every column 1, 1/2 or 0: its own set's share of the k nearest is more, as much or less than half."""
    scale = matrix[np.isfinite(matrix)].max()
    score = np.empty(len(matrix))
    for j, column in enumerate(matrix.T):
        own = is_ref == is_ref[j]
        kth = np.sort(column)[k - 1]
        margin = kth * TIE_TOLERANCE + scale * 1e-14
        inside, tied = column < kth - margin, np.abs(column - kth) <= margin
        if kth <= scale * 1e-14:
            tied[j] = True
        votes = (own & inside).sum() + (k - inside.sum()) * (own & tied).sum() / tied.sum()
        score[j] = 0.5 if np.isclose(votes, k / 2, rtol=0, atol=1e-12) else float(votes > k / 2)
    return score


def original_votes(matrix: np.ndarray, is_ref: np.ndarray, k: int) -> np.ndarray:
    """Number of references among each column's k nearest, ties in the order of `torch.topk`, float32 as recorded."""
    nearest = torch.from_numpy(matrix).float().topk(k, dim=0, largest=False).indices.numpy()
    return is_ref[nearest].sum(0)


def wilson_interval(share: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share in [0, 1] seen in `count` independent trials."""
    if not 0 < confidence < 1:
        raise PointCloudError(f"confidence: expected between 0 and 1, found {confidence}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * float(np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)))
    return max(0.0, middle - half), min(1.0, middle + half)

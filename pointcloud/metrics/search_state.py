"""What a pruned search knows, on disk: so that hours of work survive an interruption."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...common.weights import replaced_file
from ..errors import PointCloudError

EXACT = 3  # level of a solved pair; 0 projections, 1 coarse duals, 2 smoothed duals
FORMAT = "1"


@dataclass(frozen=True, eq=False)
class SearchState:
    """For n clouds: lower bounds float64 [n, n] of the distance (of its root for squared costs), exact at level EXACT.

    Both arrays are symmetric and filled in place. key: digest of the clouds and the cost.
    """

    key: str
    lower: np.ndarray
    level: np.ndarray


def cloud_digests(clouds: Sequence[np.ndarray], cost: str) -> tuple[list[bytes], str]:
    """A digest of each cloud's points in order, and one of all of them and the cost."""
    digests = [hashlib.sha256(np.ascontiguousarray(cloud).tobytes()).digest() for cloud in clouds]
    return digests, hashlib.sha256(b"".join([FORMAT.encode(), cost.encode(), *digests])).hexdigest()


def save_state(path: Path, state: SearchState) -> None:
    """Written beside `path`, then renamed."""
    with replaced_file(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, key=np.array(state.key), lower=state.lower, level=state.level)


def load_state(path: Path, key: str, count: int) -> SearchState:
    """Raises `PointCloudError` naming the file if it is damaged, or of other clouds or another cost."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            state = SearchState(str(stored["key"]), stored["lower"], stored["level"])
    except Exception as error:  # numpy raises anything at all over damaged bytes
        raise PointCloudError(f"{path}: not a readable search state ({error}); delete it to begin again") from error
    if state.key != key:
        raise PointCloudError(f"{path}: belongs to other clouds or another cost; name another file, or delete it")
    if state.lower.shape != (count, count) or state.level.shape != (count, count):
        raise PointCloudError(f"{path}: expected arrays [{count}, {count}], found {list(state.lower.shape)}")
    return state

"""Who attends to whom, said once as data.

Shape letters: B batch, M query tokens, N key tokens, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class SegmentLayout:
    """Queries and keys are cut into runs; query run i reads the key runs ``edges[i]`` and nothing else.

    Runs stand one after another in the token order, except where an interleave says otherwise. What a layout
    means is :func:`dense_mask`; every kernel is tested against it. ``edges[i]`` is a set: a run that is named
    several times counts once, so all runs of one row must be named equally often (Tune-A-Video's frame 0 reads
    "frame 0 and frame 0"; a row such as ``(0, 0, 1)`` would weight the softmax and is refused). A row without
    edges reads nothing, and its output is zero.

    Index tables are kept on the instance, so reuse a layout where you can: an equal layout built anew is equal
    and hashes alike, but makes its own tables.

    Args:
        q_lens: tokens of each query run, >= 0; M is their sum.
        k_lens: tokens of each key run, >= 0; N is their sum.
        edges: one tuple of key-run indices per query run.
        q_interleave: sizes of consecutive groups of query runs, adding up to their number. The runs of a group
            have equal lengths and their tokens alternate: first the first token of each, then the second of each.
            ``()`` means groups of one, that is no interleaving.
        k_interleave: the same for key runs.

    Raises:
        ValueError: if the fields do not fit together; the message names the field and the run.
    """

    q_lens: tuple[int, ...]
    k_lens: tuple[int, ...]
    edges: tuple[tuple[int, ...], ...]
    q_interleave: tuple[int, ...] = ()
    k_interleave: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("q_lens", "k_lens", "q_interleave", "k_interleave"):
            object.__setattr__(self, name, _int_tuple(name, getattr(self, name)))
        object.__setattr__(self, "edges", tuple(e if type(e) is tuple else tuple(e) for e in self.edges))
        _check_edges(self)
        for side, lens in (("q", self.q_lens), ("k", self.k_lens)):
            _check_interleave(f"{side}_interleave", getattr(self, f"{side}_interleave"), lens)
            if set(getattr(self, f"{side}_interleave")) <= {1}:
                object.__setattr__(self, f"{side}_interleave", ())

    # -- constructors ------------------------------------------------------------------------------------------

    @classmethod
    def full(cls, m: int, n: int | None = None) -> SegmentLayout:
        """All ``m`` queries read all ``n`` keys (``n`` defaults to ``m``)."""
        return cls((m,), (m if n is None else n,), ((0,),))

    @classmethod
    def diagonal(cls, q_lens: Sequence[int], k_lens: Sequence[int] | None = None) -> SegmentLayout:
        """Query run i reads key run i: frame by frame, room by room, cloud by cloud."""
        k_lens = q_lens if k_lens is None else k_lens
        return cls(tuple(q_lens), tuple(k_lens), tuple((i,) for i in range(len(k_lens))))

    @classmethod
    def sparse_causal(cls, num_frames: int, tokens: int) -> SegmentLayout:
        """Frame i reads frame 0 and frame i - 1; frame 0 reads itself (Tune-A-Video, Wu et al. 2023, eq. 6).

        As in the paper frame i > 0 does not read itself. Tokens are frame-major, ``num_frames * tokens``.
        """
        lens = (tokens,) * num_frames
        return cls(lens, lens, tuple((0, max(i - 1, 0)) for i in range(num_frames)))

    @classmethod
    def temporal(cls, num_frames: int, tokens: int) -> SegmentLayout:
        """Each position reads itself in every frame. Tokens stay frame-major, ``num_frames * tokens``."""
        lens = (num_frames,) * tokens
        return cls(lens, lens, tuple((i,) for i in range(tokens)), (tokens,), (tokens,))

    @classmethod
    def graph(cls, lens: Sequence[int], neighbours: Sequence[Sequence[int]]) -> SegmentLayout:
        """Run i reads the runs ``neighbours[i]``, itself only if listed: a room reads the rooms behind its doors."""
        return cls(tuple(lens), tuple(lens), tuple(tuple(n) for n in neighbours))

    @classmethod
    def cross(
        cls,
        q_lens: Sequence[int],
        k_lens: Sequence[int],
        reads: Sequence[int | Sequence[int]] | None = None,
    ) -> SegmentLayout:
        """Query run i reads the key run (or runs) ``reads[i]``: frames read their prompt.

        Without ``reads`` the query runs are shared out evenly in order: B * F frames over B prompts give F
        frames to each, one prompt serves all.
        """
        if reads is None:
            if not k_lens or len(q_lens) % len(k_lens):
                raise ValueError(
                    f"cross: {len(q_lens)} query runs do not divide evenly over {len(k_lens)} key runs; pass reads"
                )
            share = len(q_lens) // len(k_lens)
            reads = [i // share for i in range(len(q_lens))]
        edges = tuple(tuple(r) if isinstance(r, Sequence) else (r,) for r in reads)
        return cls(tuple(q_lens), tuple(k_lens), edges)

    @classmethod
    def stack(cls, layouts: Sequence[SegmentLayout]) -> SegmentLayout:
        """Samples one behind the other in one packed row; none reads another."""
        offsets = accumulate((len(part.k_lens) for part in layouts), initial=0)
        edges = tuple(tuple(j + o for j in e) for part, o in zip(layouts, offsets, strict=False) for e in part.edges)
        interleaves = []
        for side in ("q", "k"):
            groups = [getattr(part, f"{side}_interleave") for part in layouts]
            lens = [getattr(part, f"{side}_lens") for part in layouts]
            filled = chain.from_iterable(g or (1,) * len(n) for g, n in zip(groups, lens, strict=True))
            interleaves.append(tuple(filled) if any(groups) else ())
        # The parts were checked when they were made; checking thousands of runs again would double the cost.
        stacked = object.__new__(cls)
        fields = {
            "q_lens": tuple(chain.from_iterable(part.q_lens for part in layouts)),
            "k_lens": tuple(chain.from_iterable(part.k_lens for part in layouts)),
            "edges": edges,
            "q_interleave": interleaves[0],
            "k_interleave": interleaves[1],
        }
        stacked.__dict__.update(fields)
        return stacked

    # -- what kernels ask --------------------------------------------------------------------------------------

    @property
    def num_queries(self) -> int:
        """M."""
        return sum(self.q_lens)

    @property
    def num_keys(self) -> int:
        """N."""
        return sum(self.k_lens)

    @cached_property
    def edge_arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(query run, key run) of every edge, in row order; repeated edges are kept."""
        counts = np.fromiter(map(len, self.edges), np.int64, len(self.edges))
        runs = np.array(list(chain.from_iterable(self.edges)))
        if runs.size and runs.dtype.kind not in "iu":
            raise ValueError(f"edges: expected integers, found {runs.dtype} values")
        return np.repeat(np.arange(len(self.edges)), counts), runs.astype(np.int64)

    @cached_property
    def q_order(self) -> NDArray[np.int64] | None:
        """[M] token at every place when the query runs are laid end to end; None: they already are."""
        return _order(self.q_lens, self.q_interleave)

    @cached_property
    def k_order(self) -> NDArray[np.int64] | None:
        """[N] the same for keys."""
        return _order(self.k_lens, self.k_interleave)

    @cached_property
    def _memo(self) -> dict[Hashable, Any]:
        return {}

    def memo(self, key: Hashable, build: Callable[[], T]) -> T:
        """``build()``, remembered on this instance: the tables die with the layout."""
        if key not in self._memo:
            # Tables made under inference_mode could never be saved for a later backward pass.
            with torch.inference_mode(False):
                self._memo[key] = build()
        return cast(T, self._memo[key])

    def repeat(self, batch: int) -> SegmentLayout:
        """``stack`` of ``batch`` copies of this layout, remembered."""
        return self if batch == 1 else self.memo(("repeat", batch), lambda: SegmentLayout.stack([self] * batch))

    @cached_property
    def _hash(self) -> int:
        return hash((self.q_lens, self.k_lens, self.edges, self.q_interleave, self.k_interleave))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickles and deep copies carry the five fields only, never tables that live on some device.
        return type(self), (self.q_lens, self.k_lens, self.edges, self.q_interleave, self.k_interleave)


def dense_mask(layout: SegmentLayout, device: torch.device | str | None = None) -> Tensor:
    """Boolean [M, N], True where a query may read a key: the definition every backend must match."""
    rows, runs = layout.edge_arrays
    adjacency = np.zeros((len(layout.q_lens), len(layout.k_lens)), dtype=np.bool_)
    adjacency[rows, runs] = True
    return torch.from_numpy(adjacency[token_runs(layout, "q")][:, token_runs(layout, "k")]).to(device)


def token_runs(layout: SegmentLayout, side: str) -> NDArray[np.int64]:
    """[M] or [N]: the run that every token belongs to; ``side`` is "q" or "k"."""
    lens, order = (layout.q_lens, layout.q_order) if side == "q" else (layout.k_lens, layout.k_order)
    packed = np.repeat(np.arange(len(lens)), np.asarray(lens, dtype=np.int64))
    if order is None:
        return packed
    runs = np.empty_like(packed)
    runs[order] = packed
    return runs


def _order(lens: tuple[int, ...], interleave: tuple[int, ...]) -> NDArray[np.int64] | None:
    if not interleave:
        return None
    parts, run, token = [], 0, 0
    for group in interleave:
        length = lens[run]
        parts.append(token + np.arange(group * length).reshape(length, group).T.ravel())
        run, token = run + group, token + group * length
    return np.concatenate(parts)


def _int_tuple(name: str, values: Sequence[int]) -> tuple[int, ...]:
    array = np.asarray(values if isinstance(values, tuple) else tuple(values))
    if array.size and (array.ndim != 1 or array.dtype.kind not in "iu"):
        raise ValueError(f"{name}: expected integers, found {values!r}")
    if array.size and array.min() < 0:
        raise ValueError(f"{name}[{int(array.argmin())}] is {int(array.min())}; a length cannot be negative")
    return tuple(array.tolist()) if array.size else ()


def _check_edges(layout: SegmentLayout) -> None:
    num_keys = len(layout.k_lens)
    if len(layout.edges) != len(layout.q_lens):
        raise ValueError(f"edges: expected one tuple per query run, found {len(layout.edges)} for {len(layout.q_lens)}")
    rows, runs = layout.edge_arrays
    outside = np.flatnonzero((runs < 0) | (runs >= num_keys))
    if outside.size:
        row, run = int(rows[outside[0]]), int(runs[outside[0]])
        raise ValueError(f"edges[{row}] names key run {run}, but there are {num_keys} key runs")
    pairs, counts = np.unique(rows * max(num_keys, 1) + runs, return_counts=True)
    if len(pairs) == len(runs):
        return
    pair_rows = pairs // num_keys
    first = np.searchsorted(pair_rows, pair_rows)
    uneven = np.flatnonzero(counts != counts[first])
    if uneven.size:
        row = int(pair_rows[uneven[0]])
        raise ValueError(
            f"edges[{row}] = {layout.edges[row]} repeats some key runs and not others; "
            "that would weight the softmax, which a mask cannot say"
        )


def _check_interleave(name: str, interleave: tuple[int, ...], lens: tuple[int, ...]) -> None:
    if not interleave:
        return
    if 0 in interleave or sum(interleave) != len(lens):
        raise ValueError(f"{name}: group sizes {interleave} must be positive and add up to {len(lens)} runs")
    run = 0
    for group in interleave:
        if len(set(lens[run : run + group])) != 1:
            raise ValueError(f"{name}: runs {run} to {run + group - 1} alternate, so their lengths must be equal")
        run += group

"""How a layout is best run: what folds into the batch or the heads, what stays ragged, and in which blocks.

Shape letters: B batch, M query tokens, N key tokens, H heads, D head dim. Everything here is index arithmetic in
numpy, done once per layout and kept on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .layout import SegmentLayout

Ints = NDArray[np.int64]

# Costs in units of one score (one query-key pair of one head), from timings of torch's CPU kernel forward and backward
# at D = 32 to 128: a block costs as much as 400 scores before it has any, and a gathered key as 16.
BLOCK_COST, KEY_COST = 400, 16


@dataclass(frozen=True, eq=False)
class Packing:
    """Query and key rows laid end to end in blocks; block b of the queries reads block b of the keys.

    Rows that read nothing are left out of the queries.

    Attributes:
        q_rows: token of each packed query row, None when it is row r itself (and no row is left out).
        k_rows: token of each packed key row, None when it is row r itself.
        q_lens, k_lens: rows per block, all positive. k_starts: first packed key row per block.
        edges: None when every block reads all its keys; else arrays (block, query run, key run) of the pairs that may
            be read, with runs counted from the first of the block.
        q_runs: with ``edges``, the query run of each packed query row, counted from the first of its block.
        k_runs: with ``edges``, the key run of each packed key row, counted from the first of the layout.
    """

    q_rows: Ints | None
    k_rows: Ints | None
    q_lens: Ints
    k_lens: Ints
    k_starts: Ints
    edges: tuple[Ints, Ints, Ints] | None = None
    q_runs: Ints | None = None
    k_runs: Ints | None = None

    @property
    def uniform(self) -> bool:
        """All blocks have one shape, so they can be a batch."""
        return len(set(self.q_lens.tolist())) == 1 and len(set(self.k_lens.tolist())) == 1

    def flat_k_rows(self, num_keys: int) -> Ints | None:
        """Token of each key row when the key blocks are laid end to end; None: they already are."""
        rows = _ranges(self.k_starts, self.k_lens)
        rows = rows if self.k_rows is None else self.k_rows[rows]
        return None if len(rows) == num_keys and np.array_equal(rows, np.arange(num_keys)) else rows

    def out_rows(self, num_queries: int) -> Ints | None:
        """[M] packed row of each query token; one past the last for a token that reads nothing; None: identity."""
        if self.q_rows is None:
            return None
        rows = np.full(num_queries, len(self.q_rows), dtype=np.int64)
        rows[self.q_rows] = np.arange(len(self.q_rows))
        return rows


@dataclass(frozen=True, eq=False)
class Plan:
    """What :func:`plan_of` found out about a layout.

    ``kind`` is "empty" (no query reads anything), "heads" (interleaved runs: positions become heads), "fold" (blocks
    become the batch) or "ragged". ``exact`` has unmasked blocks; ``masked``, when set, is the same attention as fewer,
    larger blocks with a mask inside. ``key_runs`` [blocks, runs per block] lets a fold pick whole key runs.
    """

    kind: str
    exact: Packing
    masked: Packing | None = None
    key_runs: Ints | None = None

    @property
    def num_blocks(self) -> int:
        return len(self.exact.q_lens)


def plan_of(layout: SegmentLayout) -> Plan:
    """The cheapest exact way to run ``layout``, remembered on it."""
    return layout.memo("plan", lambda: _plan(layout))


def _plan(layout: SegmentLayout) -> Plan:
    q_len, k_len = (np.asarray(lens, dtype=np.int64) for lens in (layout.q_lens, layout.k_lens))
    rows, runs = layout.edge_arrays
    reads = (k_len[runs] > 0) & (q_len[rows] > 0)
    rows, runs = rows[reads], runs[reads]
    alive = np.bincount(rows, minlength=len(q_len)) > 0
    if not alive.any():
        none = np.zeros(0, dtype=np.int64)
        return Plan("empty", Packing(none, none, none, none, none))
    rows = (np.cumsum(alive) - 1)[rows]
    q_start = np.cumsum(q_len) - q_len
    q_rows = None if q_len[~alive].sum() == 0 else _ranges(q_start[alive], q_len[alive])
    if layout.q_order is not None:
        q_rows = layout.q_order if q_rows is None else layout.q_order[q_rows]
    q_len = q_len[alive]

    spans = _Spans.find(rows, runs, k_len)
    if spans.complete:
        exact, masked = spans.packing(layout, q_rows, q_len, k_len), None
    else:
        exact = _gathered(layout, q_rows, q_len, k_len, rows, runs)
        masked = spans.packing(layout, q_rows, q_len, k_len, (rows, runs))
        masked = masked if _cost(masked) < _cost(exact) else None

    if _is_column(layout, rows, runs):
        return Plan("heads", exact)
    if exact.q_rows is None and exact.uniform:
        regular = layout.k_order is None and len(set(layout.k_lens)) == 1 and not spans.complete
        return Plan("fold", exact, key_runs=runs.reshape(len(q_len), -1) if regular else None)
    return Plan("ragged", exact, masked)


def _is_column(layout: SegmentLayout, rows: Ints, runs: Ints) -> bool:
    """Position s reads position s: both sides interleave all their runs and every run reads its twin."""
    number = len(layout.q_lens)
    twins = len(rows) == number and np.array_equal(rows, runs) and len(layout.k_lens) == number
    return twins and layout.q_interleave == (number,) and layout.k_interleave == (number,)


@dataclass(frozen=True, eq=False)
class _Spans:
    """The finest cut of the row into consecutive spans that no edge crosses; ``stack`` always cuts between samples."""

    of_row: Ints  # [query runs] span of each
    lo: Ints  # [spans] first key run read
    hi: Ints  # [spans] last key run read
    complete: bool  # every query run reads every non-empty key run from lo to hi of its span

    @classmethod
    def find(cls, rows: Ints, runs: Ints, k_len: Ints) -> _Spans:
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        lo, hi = np.minimum.reduceat(runs, first), np.maximum.reduceat(runs, first)
        # A cut lies before row i when everything above ends before everything from i on begins.
        cut = np.maximum.accumulate(hi)[:-1] < np.minimum.accumulate(lo[::-1])[::-1][1:]
        of_row = np.concatenate([[0], np.cumsum(cut)])
        first = np.flatnonzero(np.diff(of_row, prepend=-1))
        lo, hi = np.minimum.reduceat(lo, first), np.maximum.reduceat(hi, first)
        filled = np.concatenate([[0], np.cumsum(k_len > 0)])
        possible = np.bincount(of_row) @ (filled[hi + 1] - filled[lo])
        return cls(of_row, lo, hi, bool(len(np.unique(rows * len(k_len) + runs)) == possible))

    def packing(
        self,
        layout: SegmentLayout,
        q_rows: Ints | None,
        q_len: Ints,
        k_len: Ints,
        edges: tuple[Ints, Ints] | None = None,
    ) -> Packing:
        """One block per span, masked by ``edges`` when they are given."""
        offset = np.concatenate([[0], np.cumsum(k_len)])
        starts, lens = offset[self.lo], offset[self.hi + 1] - offset[self.lo]
        q_lens = np.bincount(self.of_row, weights=q_len).astype(np.int64)
        if edges is None:
            return Packing(q_rows, layout.k_order, q_lens, lens, starts)
        rows, runs = edges
        first = np.flatnonzero(np.diff(self.of_row, prepend=-1))
        span = self.of_row[rows]
        local = (span, rows - first[span], runs - self.lo[span])
        q_runs = np.repeat(np.arange(len(q_len)) - first[self.of_row], q_len)
        return Packing(
            q_rows, layout.k_order, q_lens, lens, starts, local, q_runs, np.repeat(np.arange(len(k_len)), k_len)
        )


def _gathered(layout: SegmentLayout, q_rows: Ints | None, q_len: Ints, k_len: Ints, rows: Ints, runs: Ints) -> Packing:
    """One block per query run, its keys gathered."""
    k_rows = _ranges((np.cumsum(k_len) - k_len)[runs], k_len[runs])
    if layout.k_order is not None:
        k_rows = layout.k_order[k_rows]
    lens = np.bincount(rows, weights=k_len[runs]).astype(np.int64)
    return Packing(q_rows, k_rows, q_len, lens, np.cumsum(lens) - lens)


def _cost(packing: Packing) -> int:
    return int((packing.q_lens * packing.k_lens + KEY_COST * packing.k_lens + BLOCK_COST).sum())


def _ranges(starts: Ints, lens: Ints) -> Ints:
    """concatenate(arange(s, s + n) for s, n in zip(starts, lens)), vectorised."""
    before = np.cumsum(lens) - lens
    return np.arange(int(lens.sum())) + np.repeat(starts - before, lens)


def gather(x: Tensor, rows: Tensor | None) -> Tensor:
    """Rows of x [1, N, ...] along dim 1; None keeps them all."""
    # Torch's CPU backward of index_select is several times faster along dim 0.
    return x if rows is None else x[0].index_select(0, rows)[None]


def table(layout: SegmentLayout, name: str, device: torch.device, values: Callable[[], Ints | None]) -> Tensor | None:
    """``values()`` as a tensor on ``device``, remembered on the layout."""

    def build() -> Tensor | None:
        array = values()
        return None if array is None else torch.from_numpy(array).to(device)

    return layout.memo((name, device), build)

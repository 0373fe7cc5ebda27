"""Ragged attention on any device, as a few padded batches, for where no varlen kernel runs.

Shape letters: B batch, M query tokens, N key tokens, H heads, D head dim; G blocks of one bucket, m and n their padded
query and key lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .layout import SegmentLayout
from .plan import KEY_COST, Ints, Packing, gather, plan_of

CALL_COST = 5000  # of one more bucket (its split, kernel call and backward), in the units of plan.py
MAX_SHAPES = 64  # the search for the best buckets is quadratic in this
PIECE = 2**18  # numbers of q or of k that are gathered at once without gradients: 1 MiB in float32, kept by the cache


@dataclass(frozen=True, eq=False)
class Bucket:
    """Blocks of like size, padded to one shape. ``mask`` is Bool [G, 1, 1 or m, n], True = may read, or None."""

    blocks: int
    m: int
    n: int
    mask: Tensor | None


@dataclass(frozen=True, eq=False)
class Buckets:
    """Index tables of all buckets of a layout on one device; None tables are identities."""

    q_rows: Tensor | None  # token of each padded query row, bucket after bucket
    k_rows: Tensor | None
    out_rows: Tensor | None  # padded row of each query token; one past the end: a row of zeros
    buckets: tuple[Bucket, ...]
    has_unread: bool

    def targets(self, num_queries: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """The inverse of ``out_rows``: the token of each padded query row, ``num_queries`` for padding; and the tokens
        that read nothing, None if there are none."""
        rows = sum(bucket.blocks * bucket.m for bucket in self.buckets)
        if self.out_rows is None:
            return torch.arange(rows, device=device), None
        target = torch.full((rows + 1,), num_queries, device=self.out_rows.device)
        target[self.out_rows] = torch.arange(num_queries, device=target.device)
        return target[:rows], (self.out_rows == rows).nonzero()[:, 0] if self.has_unread else None


def buckets(layout: SegmentLayout, device: torch.device) -> Buckets:
    """The padded batches that :func:`padded_attention` runs, remembered on the layout."""
    return layout.memo(("buckets", device), lambda: _build_buckets(layout, device))


def padded_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: SegmentLayout,
    run: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """Ragged attention with a kernel that only knows batches.

    Blocks of like size share one padded batch, so the work stays near that of the blocks themselves: no mask over the
    whole packed row is ever made.

    Args:
        q: [1, M, H, D]. k, v: [1, N, H, D].
        run: unmasked or masked attention, ``run(q [G,m,H,D], k [G,n,H,D], v, mask [G,1,1|m,n] | None) -> [G,m,H,D]``.

    Returns:
        [1, M, H, D]
    """
    tables = buckets(layout, q.device)
    if not torch.is_grad_enabled():
        return _bucket_by_bucket(q, k, v, layout, tables, run)
    k, v = gather(k, tables.k_rows)[0], gather(v, tables.k_rows)[0]
    q_parts = gather(q, tables.q_rows)[0].split([b.blocks * b.m for b in tables.buckets])
    k_parts, v_parts = (x.split([b.blocks * b.n for b in tables.buckets]) for x in (k, v))
    parts = []
    for bucket, *rows in zip(tables.buckets, q_parts, k_parts, v_parts, strict=True):
        q_block, k_block, v_block = (x.unflatten(0, (bucket.blocks, -1)) for x in rows)
        parts.append(run(q_block, k_block, v_block, bucket.mask).flatten(0, 1))
    if tables.has_unread:
        parts.append(q.new_zeros(1, *q.shape[2:], dtype=parts[0].dtype))
    return gather((parts[0] if len(parts) == 1 else torch.cat(parts))[None], tables.out_rows)


def _bucket_by_bucket(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: SegmentLayout,
    tables: Buckets,
    run: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """`padded_attention` without gradients: a few blocks' rows are gathered when their turn comes and the result goes
    where it belongs, so that little is ever held twice and it stays in the cache."""
    target, unread = layout.memo(("targets", q.device), lambda: tables.targets(layout.num_queries, q.device))
    out = q.new_empty(q.shape[1] + 1, *q.shape[2:])  # padding goes to the last row
    q_start = k_start = 0
    for bucket in tables.buckets:
        at_once = _blocks_at_once(bucket, q)
        for first in range(0, bucket.blocks, at_once):
            blocks = min(at_once, bucket.blocks - first)
            own = slice(q_start, q_start := q_start + blocks * bucket.m)
            keys = slice(k_start, k_start := k_start + blocks * bucket.n)
            q_block = _rows(q, tables.q_rows, own).unflatten(0, (blocks, -1))
            k_block, v_block = (_rows(x, tables.k_rows, keys).unflatten(0, (blocks, -1)) for x in (k, v))
            mask = None if bucket.mask is None else bucket.mask[first : first + blocks]
            out.index_copy_(0, target[own], run(q_block, k_block, v_block, mask).flatten(0, 1))
    if unread is not None:
        out.index_fill_(0, unread, 0.0)
    return out[None, :-1]


def _blocks_at_once(bucket: Bucket, q: Tensor) -> int:
    """As many as a CPU's cache holds; elsewhere all of them."""
    if q.device.type != "cpu":  # pragma: no cover - needs CUDA
        return bucket.blocks
    return max(1, PIECE // (max(bucket.m, bucket.n) * q.shape[2] * q.shape[3]))


def _rows(x: Tensor, rows: Tensor | None, part: slice) -> Tensor:
    """A part of the rows of x [1, N, ...], gathered by a table or as they stand."""
    return x[0, part] if rows is None else x[0].index_select(0, rows[part])


def _build_buckets(layout: SegmentLayout, device: torch.device) -> Buckets:
    found = plan_of(layout)
    pack = found.masked or found.exact
    q_starts = np.cumsum(pack.q_lens) - pack.q_lens
    q_rows, k_rows, made = [], [], []
    for blocks in group(pack.q_lens, pack.k_lens):
        q_len, k_len = pack.q_lens[blocks, None], pack.k_lens[blocks, None]
        m, n = int(q_len.max()), int(k_len.max())
        # Padding repeats a block's own last row: a NaN elsewhere in the pack can never reach it.
        q_at = q_starts[blocks, None] + np.minimum(np.arange(m), q_len - 1)
        k_at = pack.k_starts[blocks, None] + np.minimum(np.arange(n), k_len - 1)
        mask = (np.arange(n) < k_len)[:, None, :]
        if pack.edges is not None:
            mask = mask & _block_mask(pack, blocks, q_at, k_at)
        q_rows.append(q_at.ravel())
        k_rows.append(k_at.ravel())
        tensor = None if mask.all() else torch.from_numpy(mask[:, None]).to(device)
        made.append(Bucket(len(blocks), m, n, tensor))
    q_at, k_at = np.concatenate(q_rows), np.concatenate(k_rows)
    q_token = q_at if pack.q_rows is None else pack.q_rows[q_at]
    out_rows = np.full(layout.num_queries, len(q_at), dtype=np.int64)
    # Backwards, so that a token's own row wins over the padding that repeats it.
    out_rows[q_token[::-1]] = np.arange(len(q_at))[::-1]

    def to_device(rows: Ints, identity: int) -> Tensor | None:
        same = len(rows) == identity and np.array_equal(rows, np.arange(identity))
        return None if same else torch.from_numpy(rows).to(device)

    return Buckets(
        to_device(q_token, layout.num_queries),
        to_device(k_at if pack.k_rows is None else pack.k_rows[k_at], layout.num_keys),
        to_device(out_rows, len(q_at)),
        tuple(made),
        bool((out_rows == len(q_at)).any()),
    )


def _block_mask(pack: Packing, blocks: Ints, q_at: Ints, k_at: Ints) -> NDArray[np.bool_]:
    """[G, m, n] who reads whom inside each of ``blocks``."""
    assert pack.edges is not None
    assert pack.q_runs is not None
    assert pack.k_runs is not None
    block, q_run, k_run = pack.edges
    place = np.full(len(pack.q_lens), -1)
    place[blocks] = np.arange(len(blocks))
    here = place[block] >= 0
    block, q_run, k_run = place[block[here]], q_run[here], k_run[here]
    adjacency = np.zeros((len(blocks), int(q_run.max()) + 1, int(k_run.max()) + 1), dtype=np.bool_)
    adjacency[block, q_run, k_run] = True
    keys = pack.k_runs[k_at]
    each = np.arange(len(blocks))[:, None, None]
    return adjacency[each, pack.q_runs[q_at][:, :, None], (keys - keys[:, :1])[:, None, :]]


def group(q_lens: Ints, k_lens: Ints) -> list[Ints]:
    """Blocks per bucket: cut the blocks, in order of size, where padding costs more than one more kernel call."""
    step, shapes = 1, np.unique(np.stack([k_lens, q_lens]), axis=1)
    while shapes.shape[1] > MAX_SHAPES:  # the search below is quadratic: treat like sizes as one
        step *= 2
        k_lens, q_lens = -(-k_lens // step) * step, -(-q_lens // step) * step
        shapes = np.unique(np.stack([k_lens, q_lens]), axis=1)
    order = np.lexsort((q_lens, k_lens))
    shapes, first = np.unique(np.stack([k_lens[order], q_lens[order]]), axis=1, return_index=True)
    (n, m), counts = shapes, np.diff(first, append=len(order))
    total = np.concatenate([[0], np.cumsum(counts)])
    best, start = np.zeros(len(n) + 1), np.zeros(len(n), dtype=np.int64)
    for end in range(len(n)):  # best[j]: cheapest buckets for the first j shapes; n grows, m need not
        widest = np.maximum.accumulate(m[end::-1])[::-1]
        padded = (total[end + 1] - total[: end + 1]) * (widest * n[end] + KEY_COST * n[end])
        cost = best[: end + 1] + padded + CALL_COST
        start[end] = int(cost.argmin())
        best[end + 1] = cost[start[end]]
    groups, end = [], len(n)
    while end:
        begin = int(start[end - 1])
        groups.append(order[total[begin] : total[end]])
        end = begin
    return groups[::-1]

"""Plans as packed corner tokens: who is which room, who reads whom, and what is known of each corner.

Shape letters: P plans, R nodes (rooms and doors), M corners of all plans packed in one row, C condition features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..common.attention import SegmentLayout
from .first_block import FirstBlock
from .rooms import RoomType

NUM_TYPES = 25
INDEX_FEATURES = 32
SIZE_FEATURES = 5
IndexEncoding = Literal["one_hot", "sincos"]
PIECE_TOKENS = 1024  # of a row that a CPU works through at once: bounds its memory, and much of it stays in the cache


@dataclass(frozen=True)
class PlanSpec:
    """What a net is told of one plan: types, corner counts, links and, where known, sizes.

    Attributes:
        types: model code of every node (rooms, then interior doors, then front doors).
        corners: number of corners of every node, each at least 3.
        links: linked node pairs (room-door, and room-room through a door), in any order.
        indices: the number by which each node is told apart; starts at 1 as in HouseDiffusion.
        areas: share of the frame's area per node, NaN where unknown.
        sizes: [R, 2] width and height as shares of the frame's side, NaN where unknown.
    """

    types: tuple[int, ...]
    corners: tuple[int, ...]
    links: frozenset[tuple[int, int]]
    indices: tuple[int, ...]
    areas: np.ndarray
    sizes: np.ndarray

    @classmethod
    def build(
        cls,
        types: Sequence[int],
        corners: Sequence[int],
        links: Iterable[tuple[int, int]],
        *,
        indices: Sequence[int] | None = None,
        areas: Sequence[float] | np.ndarray | None = None,
        sizes: Sequence[Sequence[float]] | np.ndarray | None = None,
    ) -> PlanSpec:
        """Fill what is not given: indices 1..R, every size unknown.

        Raises:
            ValueError: naming the field; no nodes, not one entry per node, an unknown type, fewer than 3 corners, or a
                link that does not join two different nodes.
        """
        n = len(types)
        if n == 0:
            raise ValueError("types: a plan needs at least one node")
        for name, given in (("corners", corners), ("indices", indices), ("areas", areas), ("sizes", sizes)):
            if given is not None and len(given) != n:
                raise ValueError(f"{name}: expected one entry for each of the {n} nodes, found {len(given)}")
        if min(types) < 0 or max(types) >= NUM_TYPES:
            raise ValueError(f"types: expected codes from 0 to {NUM_TYPES - 1}, found {[int(t) for t in types]}")
        if min(corners) < 3:
            raise ValueError(f"corners: every node needs at least 3, found {[int(c) for c in corners]}")
        pairs = frozenset((int(min(a, b)), int(max(a, b))) for a, b in links)
        for a, b in pairs:
            if not 0 <= a < b < n:
                raise ValueError(f"links: ({a}, {b}) does not join two different nodes of 0 to {n - 1}")
        return cls(
            tuple(int(t) for t in types),
            tuple(int(c) for c in corners),
            pairs,
            tuple(indices) if indices is not None else tuple(range(1, n + 1)),
            np.full(n, np.nan) if areas is None else np.asarray(areas, dtype=np.float64),
            np.full((n, 2), np.nan) if sizes is None else np.asarray(sizes, dtype=np.float64),
        )

    @property
    def num_tokens(self) -> int:
        return sum(self.corners)

    def without_sizes(self) -> PlanSpec:
        """The same plan with every area and size unknown."""
        return replace(self, areas=np.full_like(self.areas, np.nan), sizes=np.full_like(self.sizes, np.nan))

    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """Nodes that each node reads through doors, ascending.

        A node without a link reads the living room, one way, if the plan has one; HouseDiffusion does so
        when it samples, while in training such a row averages all tokens, padding included.
        """
        reads: list[list[int]] = [[] for _ in self.types]
        for a, b in self.links:
            reads[a].append(b)
            reads[b].append(a)
        living = next((i for i, t in enumerate(self.types) if t == RoomType.LIVING), None)
        for i, row in enumerate(reads):
            if not row and living is not None and living != i:
                row.append(living)
        return tuple(tuple(sorted(row)) for row in reads)


@dataclass(frozen=True)
class PlanCondition:
    """All that is constant while plans are denoised; plans are packed in one row of M corners.

    Attributes:
        features: [M, C] float32; type one-hot 25 | corner index 32 | room index 32 | sizes 5 (optional).
        next_corner: [M] position in the row of the corner that follows in the same polygon.
        plan_index: [M] which plan a corner belongs to.
        node_index: [M] which node (counted over all plans) a corner belongs to.
        plan_lens, node_lens: corners per plan and per node.
        layouts: "rooms", "doors", "plan": the three attentions' reads.
        specs: the plans as they were packed, in order.
        embedded: [1, M, D], the net's projection of `features`, computed once per sampling run.
        first_block: the net's first block as it samples, composed once per sampling run.
    """

    features: Tensor
    next_corner: Tensor
    plan_index: Tensor
    node_index: Tensor
    plan_lens: tuple[int, ...]
    node_lens: tuple[int, ...]
    layouts: dict[str, SegmentLayout]
    specs: tuple[PlanSpec, ...]
    index_encoding: IndexEncoding
    with_sizes: bool
    embedded: Tensor | None = None
    first_block: FirstBlock | None = None

    @property
    def num_plans(self) -> int:
        return len(self.plan_lens)

    def to(self, device: torch.device | str) -> PlanCondition:
        """The same condition with its tensors on `device`."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("features", "next_corner", "plan_index", "node_index")
        }
        return replace(self, **moved)

    def subset(self, plans: Sequence[int]) -> tuple[Tensor, PlanCondition]:
        """Some of the plans, in the order of this row and each once, packed anew: where their corners are, and their
        condition."""
        keep = torch.zeros(self.num_plans, dtype=torch.bool)
        keep[list(plans)] = True
        tokens = keep.to(self.plan_index.device)[self.plan_index].nonzero()[:, 0]
        chosen = [spec for spec, kept in zip(self.specs, keep.tolist(), strict=True) if kept]
        part = pack(chosen, index_encoding=self.index_encoding, with_sizes=self.with_sizes).to(self.plan_index.device)
        embedded = None if self.embedded is None else self.embedded[:, tokens]
        return tokens, replace(part, embedded=embedded, first_block=self.first_block)

    @cached_property
    def pieces(self) -> tuple[tuple[slice, slice, PlanCondition], ...]:
        """The row cut into rows of consecutive plans, at most `PIECE_TOKENS` corners each (a larger plan comes alone):
        which plans, where their corners are, and their condition."""
        cuts, room = [0], PIECE_TOKENS
        for plan, length in enumerate(self.plan_lens):
            if length > room and plan > 0:
                cuts.append(plan)
                room = PIECE_TOKENS
            room -= length
        if len(cuts) == 1:
            return ((slice(0, self.num_plans), slice(0, sum(self.plan_lens)), self),)
        starts = [0, *accumulate(self.plan_lens)]
        return tuple(
            (slice(a, b), slice(starts[a], starts[b]), self.subset(range(a, b))[1])
            for a, b in pairwise([*cuts, self.num_plans])
        )

    def plan_mean(self, values: Tensor) -> Tensor:
        """Mean over each plan's corners and channels: [1, M, K] -> [P], in the dtype of `values`."""
        sums = values.new_zeros(self.num_plans).index_add(0, self.plan_index, values[0].sum(-1))
        counts = values.new_tensor([n * values.shape[-1] for n in self.plan_lens])
        return sums / counts


def index_features(index: np.ndarray, encoding: IndexEncoding) -> np.ndarray:
    """[M] integers -> [M, 32]: a one-hot (HouseDiffusion, at most 31) or sines and cosines (any number)."""
    if encoding == "one_hot":
        if index.max(initial=0) >= INDEX_FEATURES:
            raise ValueError(
                f"a room or corner has number {index.max()}, but a one_hot model counts to {INDEX_FEATURES - 1}; "
                "a model with index_encoding='sincos' takes any number of rooms and corners"
            )
        return np.eye(INDEX_FEATURES, dtype=np.float32)[index]
    frequencies = np.exp(-np.log(200.0) * np.arange(INDEX_FEATURES // 2) / (INDEX_FEATURES // 2)) * np.pi / 2
    angles = index[:, None] * frequencies
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def size_features(areas: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[R] shares of area and [R, 2] shares of side, NaN unknown -> [R, 5]: flag, 4 sqrt(area), flag, 4 w, 4 h."""
    out = np.zeros((len(areas), SIZE_FEATURES), dtype=np.float32)
    known = np.isfinite(areas)
    out[known, 0] = 1.0
    out[known, 1] = 4.0 * np.sqrt(areas[known])
    known = np.isfinite(sizes).all(axis=1)
    out[known, 2] = 1.0
    out[known, 3:] = 4.0 * sizes[known]
    return out


def pack(
    specs: Sequence[PlanSpec], *, index_encoding: IndexEncoding = "one_hot", with_sizes: bool = False
) -> PlanCondition:
    """Pack plans of any size into one row: no padding, no limit on rooms or corners (with `sincos` indices)."""
    if not specs:
        raise ValueError("nothing to pack: no plans were given")
    corners = np.concatenate([np.asarray(s.corners) for s in specs])
    types = np.concatenate([np.asarray(s.types) for s in specs])
    indices = np.concatenate([np.asarray(s.indices) for s in specs])
    node_index = np.repeat(np.arange(len(corners)), corners)
    starts = np.concatenate([[0], np.cumsum(corners)])[:-1]
    corner_index = np.arange(len(node_index)) - starts[node_index]
    parts = [
        np.eye(NUM_TYPES, dtype=np.float32)[types][node_index],
        index_features(corner_index, index_encoding),
        index_features(indices, index_encoding)[node_index],
    ]
    if with_sizes:
        areas = np.concatenate([s.areas for s in specs])
        parts.append(size_features(areas, np.concatenate([s.sizes for s in specs]))[node_index])
    is_last = corner_index == corners[node_index] - 1
    next_corner = np.where(is_last, starts[node_index], np.arange(len(node_index)) + 1)
    plan_lens = tuple(s.num_tokens for s in specs)
    node_lens = tuple(int(c) for c in corners)
    offsets = [0, *accumulate(len(s.types) for s in specs)]
    reads = tuple(
        tuple(j + offset for j in row) for s, offset in zip(specs, offsets, strict=False) for row in s.neighbours()
    )
    return PlanCondition(
        features=torch.from_numpy(np.concatenate(parts, axis=1)),
        next_corner=torch.from_numpy(next_corner),
        plan_index=torch.from_numpy(np.repeat(np.arange(len(specs)), plan_lens)),
        node_index=torch.from_numpy(node_index),
        plan_lens=plan_lens,
        node_lens=node_lens,
        layouts={
            "rooms": SegmentLayout.diagonal(node_lens),
            "doors": SegmentLayout.graph(node_lens, reads),
            "plan": SegmentLayout.diagonal(plan_lens),
        },
        specs=tuple(specs),
        index_encoding=index_encoding,
        with_sizes=with_sizes,
    )

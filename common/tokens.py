"""Sets of tokens: a grid of frames and positions, and ragged samples packed into one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType

import torch
from torch import Tensor

from .attention import SegmentLayout

# B batch, F frames, S positions per frame, D width, R samples packed in a row, M tokens of all of them


@dataclass(frozen=True)
class Grid:
    """F frames of S positions each; as tokens [B, F * S, D], frame after frame.

    A position is a patch of a video or an agent of a scene. `layouts` names who may read whom.
    """

    frames: int
    positions: int

    def __post_init__(self) -> None:
        if self.frames < 1 or self.positions < 1:
            raise ValueError(f"Grid: frames and positions must be at least 1, found {self}")

    @property
    def num_tokens(self) -> int:
        return self.frames * self.positions

    @property
    def layouts(self) -> Mapping[str, SegmentLayout]:
        """spatial: within a frame; temporal: one position through time; sparse_causal: frames 0 and i - 1.

        Equal grids share the same layouts, and with them the layouts' tables.
        """
        return _grid_layouts(self)

    def split(self, tokens: Tensor) -> Tensor:
        """[B, F * S, D] -> [B, F, S, D], a view."""
        if tokens.ndim != 3 or tokens.shape[1] != self.num_tokens:
            raise ValueError(f"{self}: expected tokens [B, {self.num_tokens}, D], found {list(tokens.shape)}")
        return tokens.unflatten(1, (self.frames, self.positions))

    def fold_frames(self, tokens: Tensor) -> Tensor:
        """[B, F * S, D] -> [B * F, S, D]: frames become samples."""
        return self.split(tokens).flatten(0, 1)

    def unfold_frames(self, rows: Tensor) -> Tensor:
        """[B * F, S, D] -> [B, F * S, D], the inverse of fold_frames."""
        return self._rows(rows, self.frames, self.positions).flatten(1, 2)

    def fold_positions(self, tokens: Tensor) -> Tensor:
        """[B, F * S, D] -> [B * S, F, D]: positions become samples, each a sequence in time."""
        return self.split(tokens).transpose(1, 2).flatten(0, 1)

    def unfold_positions(self, rows: Tensor) -> Tensor:
        """[B * S, F, D] -> [B, F * S, D], the inverse of fold_positions."""
        return self._rows(rows, self.positions, self.frames).transpose(1, 2).flatten(1, 2)

    def _rows(self, rows: Tensor, groups: int, length: int) -> Tensor:
        if rows.ndim != 3 or rows.shape[0] % groups or rows.shape[1] != length:
            raise ValueError(f"{self}: expected rows [B * {groups}, {length}, D], found {list(rows.shape)}")
        return rows.unflatten(0, (-1, groups))


@lru_cache(maxsize=64)
def _grid_layouts(grid: Grid) -> Mapping[str, SegmentLayout]:
    return MappingProxyType(
        {
            "spatial": SegmentLayout.diagonal((grid.positions,) * grid.frames),
            "temporal": SegmentLayout.temporal(grid.frames, grid.positions),
            "sparse_causal": SegmentLayout.sparse_causal(grid.frames, grid.positions),
        }
    )


@dataclass(frozen=True, eq=False)
class PackedSet:
    """R ragged samples in one row, without padding: tokens [1, M, D], M = sum(lens)."""

    tokens: Tensor
    lens: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.tokens.ndim < 2 or self.tokens.shape[:2] != (1, sum(self.lens)):
            raise ValueError(f"PackedSet: expected tokens [1, {sum(self.lens)}, ...], found {list(self.tokens.shape)}")

    @cached_property
    def sample_index(self) -> Tensor:
        """LongTensor [M], the sample a token belongs to: the cond_index of a packed row."""
        lens = torch.tensor(self.lens, device=self.tokens.device)
        return torch.repeat_interleave(
            torch.arange(len(self.lens), device=lens.device), lens, output_size=sum(self.lens)
        )

    @cached_property
    def layout(self) -> SegmentLayout:
        """Every token reads its own sample."""
        return SegmentLayout.diagonal(self.lens)

    def with_tokens(self, tokens: Tensor) -> PackedSet:
        """The same samples with other values, for instance a net's output. Layout and index are handed on."""
        other = PackedSet(tokens, self.lens)
        kept = {"layout": self.__dict__.get("layout")}
        if tokens.device == self.tokens.device:
            kept["sample_index"] = self.__dict__.get("sample_index")
        other.__dict__.update({name: value for name, value in kept.items() if value is not None})
        return other

    def spread(self, per_sample: Tensor) -> Tensor:
        """One value per sample to each of its tokens: [R, ...] -> [1, M, ...]."""
        return per_sample.index_select(0, self.sample_index)[None]

    def mean(self) -> Tensor:
        """The mean token of each sample: [R, ...]. A sample without tokens gives zeros."""
        total = self.tokens.new_zeros(len(self.lens), *self.tokens.shape[2:])
        total = total.index_add(0, self.sample_index, self.tokens[0])
        count = torch.tensor(self.lens, device=total.device).clamp(min=1).view(-1, *[1] * (total.ndim - 1))
        return total / count

    def unpack(self) -> list[Tensor]:
        """The samples, [n_i, D] each, as views."""
        return list(self.tokens[0].split(self.lens))

    def pad(self, length: int | None = None) -> tuple[Tensor, Tensor]:
        """-> tokens [R, length, D] with zeros after each sample, and Bool [R, length], True on real tokens."""
        length = max(self.lens, default=0) if length is None else length
        if length < max(self.lens, default=0):
            raise ValueError(f"PackedSet: cannot pad to {length}, the longest sample has {max(self.lens)}")
        lens = torch.tensor(self.lens, device=self.tokens.device)
        valid = torch.arange(length, device=lens.device) < lens[:, None]
        padded = self.tokens.new_zeros(len(self.lens), length, *self.tokens.shape[2:])
        padded[valid] = self.tokens[0]
        return padded, valid


def pack(rows: Sequence[Tensor]) -> PackedSet:
    """Samples [n_i, D] one after another in one row."""
    if not rows:
        raise ValueError("pack: expected at least one sample, found none")
    return PackedSet(torch.cat(list(rows))[None], tuple(len(row) for row in rows))


def pack_padded(padded: Tensor, valid: Tensor) -> PackedSet:
    """padded [R, N, D] and Bool valid [R, N] -> the valid tokens in one row, order kept."""
    if valid.dtype != torch.bool or padded.shape[:2] != valid.shape:
        raise ValueError(
            f"pack_padded: expected a boolean mask {list(padded.shape[:2])}, found {valid.dtype} {list(valid.shape)}"
        )
    return PackedSet(padded[valid][None], tuple(valid.sum(1).tolist()))

"""The shared transformer: tokens, condition and layouts in, tokens out.

What a token is, where it stands (positions) and what the condition means (time, class, shape) is the business of the
head that uses it; who reads whom is given with each call, as layouts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import SegmentLayout
from .nn import Activation, AdaLNZero, Block, Branch, modulate
from .nn.blocks import AttentionBranch, FeedForwardBranch

# B batch, M tokens, D width, C condition width, R runs of a packed row


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a TokenTransformer. The defaults are a DiT-like stack that reads each row whole."""

    dim: int = 256
    """Width of the tokens."""
    depth: int = 8
    """Number of blocks."""
    heads: int = 8
    """Attention heads."""
    head_dim: int | None = None
    """Width of a head; default dim / heads."""
    pattern: tuple[str | None, ...] = (None,)
    """Layout of the self-attention by depth, repeated: ("spatial", "temporal"). None reads the whole row."""
    modulation: Literal["adaln_zero"] | None = "adaln_zero"
    """How the condition enters: adaLN-zero, or not at all (the head adds it to the tokens)."""
    cond_dim: int | None = None
    """Width of the condition under adaln_zero; default dim."""
    context_dim: int | None = None
    """Width of contexts["context"]; given, every block has a cross-attention after its self-attention."""
    context_layout: str | None = None
    """Layout of that cross-attention; None reads the row's whole context."""
    out_dim: int | None = None
    """Width of the output; default dim."""
    mult: float = 4
    """Hidden width of the feed-forward over dim."""
    activation: Activation = "gelu_tanh"
    """Of the feed-forward."""
    qk_norm: bool = False
    """Normalise queries and keys per head."""
    norm_eps: float = 1e-6
    """Of every LayerNorm; affine only where there is no modulation."""
    dropout: float = 0.0
    """On what each branch adds, and inside the feed-forward."""
    attention_dropout: float = 0.0
    """On attention weights."""
    gradient_checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping its activations."""

    def __post_init__(self) -> None:
        if self.depth < 1 or not self.pattern:
            raise ValueError(f"TransformerConfig: depth and pattern must not be empty, found {self}")

    def branches(self, depth: int) -> tuple[Branch, ...]:
        """The residual branches of the block at this depth."""
        branches: list[Branch] = [AttentionBranch("attn1", "norm1", self.pattern[depth % len(self.pattern)])]
        if self.context_dim is not None:
            branches.append(AttentionBranch("attn2", "norm2", self.context_layout, "context", self.context_dim))
        branches.append(FeedForwardBranch("ff", "norm3", self.mult, self.activation, self.dropout))
        return tuple(branches)

    def block(self, depth: int) -> Block:
        return Block(
            self.dim,
            heads=self.heads,
            branches=self.branches(depth),
            head_dim=self.head_dim,
            modulation=self.modulation,
            cond_dim=self.cond_dim or self.dim,
            norm_affine=self.modulation is None,
            norm_eps=self.norm_eps,
            bias=True,
            qk_norm=self.qk_norm,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )


class BlockStack(nn.ModuleList):
    """Blocks one after another, all given the same condition, contexts and layouts (see Block.forward).

    gradient_checkpointing recomputes each block in the backward pass; it changes memory and time, not numbers.
    """

    def __init__(self, blocks: Iterable[Block], *, gradient_checkpointing: bool = False) -> None:
        super().__init__(blocks)
        self.gradient_checkpointing = gradient_checkpointing

    def forward(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        contexts: Mapping[str, Tensor] | None = None,
        layouts: Mapping[str, SegmentLayout] | None = None,
        *,
        cond_index: Tensor | None = None,
    ) -> Tensor:
        """x [B, M, D] -> [B, M, D]."""
        for block in self:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                # The reentrant kind drops the gradients of a block whose inputs need none: frozen stems, adapters.
                x = checkpoint(block, x, cond, contexts, layouts, cond_index=cond_index, use_reentrant=False)
            else:
                x = block(x, cond, contexts, layouts, cond_index=cond_index)
        return x


class TokenTransformer(nn.Module):
    """A stack of blocks, a last norm and a Linear that starts as zero: tokens [B, M, dim] -> [B, M, out_dim].

    Rows are a dense batch, or ragged samples packed in one row (B = 1) that layouts keep apart. Under adaln_zero a new
    model's blocks are the identity; a new model's output is zero in any case. (Peebles & Xie 2023)
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = BlockStack(
            (config.block(depth) for depth in range(config.depth)),
            gradient_checkpointing=config.gradient_checkpointing,
        )
        modulated = config.modulation is not None
        self.norm_out = nn.LayerNorm(config.dim, eps=config.norm_eps, elementwise_affine=not modulated)
        self.modulation_out = AdaLNZero(config.cond_dim or config.dim, config.dim, 2) if modulated else None
        self.proj_out = nn.Linear(config.dim, config.out_dim or config.dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(
        self,
        tokens: Tensor,
        cond: Tensor | None = None,
        layouts: Mapping[str, SegmentLayout] | None = None,
        *,
        context: Tensor | None = None,
        cond_index: Tensor | None = None,
    ) -> Tensor:
        """tokens [B, M, dim] -> [B, M, out_dim].

        cond: [B, C], per token [B, M, C], or one row per run with cond_index, a LongTensor [M]: [R, C] for a packed
        row, [B, R, C] for frames with their own noise levels. layouts: one for each name in config.pattern.
        context: [B, N, context_dim]. A missing or superfluous argument raises ValueError.
        """
        if (context is None) != (self.config.context_dim is None):
            found = "none" if context is None else list(context.shape)
            raise ValueError(f"TokenTransformer: context: context_dim is {self.config.context_dim}, found {found}")
        contexts = None if context is None else {"context": context}
        x = self.norm_out(self.blocks(tokens, cond, contexts, layouts, cond_index=cond_index))
        if self.modulation_out is not None and cond is not None:
            x = modulate(x, *self.modulation_out(cond, x, cond_index))
        return self.proj_out(x)

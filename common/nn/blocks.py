"""A transformer block as an ordered list of residual branches, `x + gate(c) * f(modulate(norm(x), c))`.

What differs between Stable Diffusion, DiT, the inflated video UNet and HouseDiffusion is the list. A branch says which
modules it uses by name; the modules are ordinary attributes of the block, so a checkpoint loads by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor, nn

from ..attention import Attention, SegmentLayout
from ..dropout import dropout as drop
from .feed_forward import Activation, FeedForward
from .modulation import AdaLNZero, modulate

# B batch, M tokens, D width, N context tokens, C condition width, R runs

Init = Literal["default", "zero", "zero_weight"]
T = TypeVar("T")


@dataclass(frozen=True)
class AttentionBranch:
    """One attention. Self-attention, or cross-attention to the context of that name.

    name, norm: attributes of the block; layout: key of the layout to read by, None = every token of the same row;
    context: key of the context, whose width is context_dim; init: "zero" makes the branch add nothing at first,
    "zero_weight" zeroes the output weight but leaves its bias random.
    """

    name: str
    norm: str
    layout: str | None = None
    context: str | None = None
    context_dim: int | None = None
    init: Init = "default"


@dataclass(frozen=True)
class SummedAttention:
    """Several self-attentions over the same normed tokens, each with its own weights and layout, added up."""

    names: tuple[str, ...]
    norm: str
    layouts: tuple[str, ...]


@dataclass(frozen=True)
class FeedForwardBranch:
    """The position-wise MLP. dropout is the one between its two layers."""

    name: str
    norm: str
    mult: float = 4
    activation: Activation = "geglu"
    dropout: float = 0.0


Branch = AttentionBranch | SummedAttention | FeedForwardBranch


class Block(nn.Module):
    """Residual branches in order: x [B, M, D] -> [B, M, D].

    heads, head_dim: of every attention (head_dim defaults to dim / heads);
    modulation: None, or "adaln_zero" with cond_dim the width of cond: shift, scale and gate of every branch;
    norm_affine, norm_eps: of every LayerNorm; bias: on q, k and v (the output projections always have one);
    dropout: on what each attention and feed-forward adds to the stream; attention_dropout: on attention weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        branches: Sequence[Branch],
        head_dim: int | None = None,
        modulation: Literal["adaln_zero"] | None = None,
        cond_dim: int | None = None,
        norm_affine: bool = True,
        norm_eps: float = 1e-5,
        bias: bool = False,
        qk_norm: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.branches = tuple(branches)
        self.dropout = dropout
        _check_branches(self.branches)

        def attention(context_dim: int | None = None, init: Init = "default") -> Attention:
            module = Attention(
                dim,
                heads=heads,
                head_dim=head_dim,
                context_dim=context_dim,
                bias=bias,
                dropout=attention_dropout,
                qk_norm=qk_norm,
            )
            _zero_output(module, init)
            return module

        for branch in self.branches:
            self.add_module(branch.norm, nn.LayerNorm(dim, eps=norm_eps, elementwise_affine=norm_affine))
            match branch:
                case AttentionBranch():
                    self.add_module(branch.name, attention(branch.context_dim, branch.init))
                case SummedAttention():
                    for name in branch.names:
                        self.add_module(name, attention())
                case FeedForwardBranch():
                    feed_forward = FeedForward(
                        dim, mult=branch.mult, activation=branch.activation, dropout=branch.dropout
                    )
                    self.add_module(branch.name, feed_forward)

        self.modulation: AdaLNZero | None = None
        if modulation == "adaln_zero":
            if cond_dim is None:
                raise ValueError('Block: modulation="adaln_zero" needs cond_dim, the width of cond')
            self.modulation = AdaLNZero(cond_dim, dim, 3 * len(self.branches))
        elif modulation is not None:
            raise ValueError(f'Block: modulation must be None or "adaln_zero", found {modulation!r}')

    def forward(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        contexts: Mapping[str, Tensor] | None = None,
        layouts: Mapping[str, SegmentLayout] | None = None,
        *,
        cond_index: Tensor | None = None,
    ) -> Tensor:
        """Run the branches.

        cond: [B, C] per sample, [B, M, C] per token, or one row per run with cond_index [M] (see AdaLNZero);
        contexts: name -> [B, N, context_dim]; layouts: name -> layout. Entries that no branch names are ignored, so
        one mapping can serve a stack of different blocks; an entry that is named and missing is an error.
        """
        if (cond is None) != (self.modulation is None):
            found, expected = ("none", "one") if cond is None else ("one", "none: this block has no modulation")
            raise ValueError(f"Block: cond: found {found}, expected {expected}")
        if self.modulation is None or cond is None:
            for branch in self.branches:
                x = x + self._added(branch, getattr(self, branch.norm)(x), contexts, layouts)
            return x
        chunks = self.modulation(cond, x, cond_index)
        for i, branch in enumerate(self.branches):
            shift, scale, gate = chunks[3 * i : 3 * i + 3]
            h = modulate(getattr(self, branch.norm)(x), shift, scale)
            x = x + gate * self._added(branch, h, contexts, layouts)
        return x

    def _added(
        self,
        branch: Branch,
        h: Tensor,
        contexts: Mapping[str, Tensor] | None,
        layouts: Mapping[str, SegmentLayout] | None,
    ) -> Tensor:
        match branch:
            case AttentionBranch():
                context = None if branch.context is None else _named("context", branch.context, contexts)
                layout = None if branch.layout is None else _named("layout", branch.layout, layouts)
                return self._drop(getattr(self, branch.name)(h, context, layout))
            case SummedAttention():
                # Each attention is dropped by itself, as HouseDiffusion does: the sum then keeps part of a feature.
                total: Tensor | None = None
                for name, layout in zip(branch.names, branch.layouts, strict=True):
                    added = self._drop(getattr(self, name)(h, layout=_named("layout", layout, layouts)))
                    total = added if total is None else total + added
                assert total is not None
                return total
            case FeedForwardBranch():
                return self._drop(getattr(self, branch.name)(h))

    def _drop(self, h: Tensor) -> Tensor:
        return drop(h, self.dropout) if self.dropout and self.training else h

    def extra_repr(self) -> str:
        return "\n".join(f"branch: {branch}" for branch in self.branches)


def _zero_output(attention: Attention, init: Init) -> None:
    if init == "default":
        return
    out = attention.to_out[0]
    assert isinstance(out, nn.Linear)
    nn.init.zeros_(out.weight)
    if init == "zero":
        nn.init.zeros_(out.bias)


def _named(kind: str, name: str, table: Mapping[str, T] | None) -> T:
    if table is None or name not in table:
        raise ValueError(f"Block: a branch needs the {kind} {name!r}, found {sorted(table or ())}")
    return table[name]


def _check_branches(branches: tuple[Branch, ...]) -> None:
    names: list[str] = []
    for branch in branches:
        names.append(branch.norm)
        if isinstance(branch, SummedAttention):
            if not branch.names or len(branch.names) != len(branch.layouts):
                raise ValueError(f"Block: summed attention needs one layout per name, found {branch}")
            names.extend(branch.names)
        else:
            names.append(branch.name)
        if isinstance(branch, AttentionBranch) and (branch.context is None) != (branch.context_dim is None):
            raise ValueError(f"Block: context and context_dim go together, found {branch}")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated or not names:
        raise ValueError(f"Block: module names must be distinct and at least one, repeated: {repeated}")


def stable_diffusion_block(
    dim: int,
    *,
    heads: int,
    head_dim: int | None = None,
    context_dim: int = 768,
    layout: str | None = None,
    context: str = "text",
    context_layout: str | None = None,
) -> Block:
    """attn1, attn2 to the text, ff: diffusers' BasicTransformerBlock of Stable Diffusion, loaded strictly by name.

    context_layout names the layout of attn2, needed where one row holds several samples or frames with own texts.
    (Rombach et al. 2022)
    """
    branches = _stable_diffusion_branches(context_dim, layout, context, context_layout)
    return Block(dim, heads=heads, head_dim=head_dim, branches=branches)


def inflated_block(
    dim: int,
    *,
    heads: int,
    head_dim: int | None = None,
    context_dim: int = 768,
    layout: str = "sparse_causal",
    temporal_layout: str = "temporal",
    context: str = "text",
    context_layout: str | None = None,
    zero_bias: bool = True,
) -> Block:
    """A Stable Diffusion block with temporal attention `attn_temp` after the feed-forward. (Wu et al. 2023)

    Tokens are the frames of a clip one after another. The temporal branch starts as zero, so a block with a per-frame
    layout equals the image model on every frame; zero_bias=False leaves the output bias random, as Tune-A-Video does.
    """
    temporal = AttentionBranch("attn_temp", "norm_temp", temporal_layout, init="zero" if zero_bias else "zero_weight")
    branches = (*_stable_diffusion_branches(context_dim, layout, context, context_layout), temporal)
    return Block(dim, heads=heads, head_dim=head_dim, branches=branches)


def _stable_diffusion_branches(
    context_dim: int, layout: str | None, context: str, context_layout: str | None
) -> tuple[Branch, ...]:
    return (
        AttentionBranch("attn1", "norm1", layout),
        AttentionBranch("attn2", "norm2", context_layout, context=context, context_dim=context_dim),
        FeedForwardBranch("ff", "norm3"),
    )


def dit_block(
    dim: int,
    *,
    heads: int,
    cond_dim: int,
    head_dim: int | None = None,
    layout: str | None = None,
    context: str | None = None,
    context_dim: int | None = None,
    context_layout: str | None = None,
    mult: float = 4,
    activation: Activation = "gelu_tanh",
    qk_norm: bool = False,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
) -> Block:
    """attn1, optionally attn2 to a context, ff, all under adaLN-zero: the identity at first. (Peebles & Xie 2023)"""
    branches: list[Branch] = [AttentionBranch("attn1", "norm1", layout)]
    if context is not None:
        branches.append(AttentionBranch("attn2", "norm2", context_layout, context=context, context_dim=context_dim))
    branches.append(FeedForwardBranch("ff", "norm3", mult, activation, dropout))
    return Block(
        dim,
        heads=heads,
        head_dim=head_dim,
        branches=branches,
        modulation="adaln_zero",
        cond_dim=cond_dim,
        norm_affine=False,
        norm_eps=1e-6,
        bias=True,
        qk_norm=qk_norm,
        dropout=dropout,
        attention_dropout=attention_dropout,
    )


def house_diffusion_block(
    dim: int,
    *,
    heads: int,
    head_dim: int | None = None,
    dropout: float = 0.1,
    reads: Sequence[str] = ("rooms", "doors", "plan"),
) -> Block:
    """Attention over rooms, doors and the whole plan, added up, then ff. (Shabani et al. 2023, section 3.2)

    Layouts "rooms", "doors" and "plan", read by attn_rooms, attn_doors and attn_plan; `reads` can leave some out.
    The norm is a LayerNorm without affine: what the original's InstanceNorm1d computes on [B, M, D]. dropout is on
    attention weights, inside ff, and on what each attention and ff adds to the stream.
    """
    branches = (
        SummedAttention(tuple(f"attn_{name}" for name in reads), "norm1", tuple(reads)),
        FeedForwardBranch("ff", "norm2", mult=2, activation="relu", dropout=dropout),
    )
    return Block(
        dim,
        heads=heads,
        head_dim=head_dim,
        branches=branches,
        norm_affine=False,
        bias=True,
        dropout=dropout,
        attention_dropout=dropout,
    )

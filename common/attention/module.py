"""The attention layer: projections with diffusers' names around :func:`attend`.

Shape letters: B batch, M query tokens, N key tokens, H heads, D head dim, C width.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..linear import Linear
from .kernels import Backend, attend
from .layout import SegmentLayout


class Attention(nn.Module):
    """Multi-head attention, softmax(q k^T / sqrt(D)) v, between the tokens that a layout joins.

    Parameters are named as in ``diffusers.models.attention_processor.Attention`` (``to_q``, ``to_k``, ``to_v``,
    ``to_out.0``, and ``norm_q``, ``norm_k`` for its ``qk_norm="rms_norm"``), so Stable Diffusion weights load by name.

    Args:
        query_dim: width C of the input and of the output.
        heads: H.
        head_dim: D; default ``query_dim // heads``.
        context_dim: width of the context; default ``query_dim``.
        bias: biases in ``to_q``, ``to_k``, ``to_v``. out_bias: bias in ``to_out.0``.
        dropout: probability of dropping an attention weight while training (Vaswani et al. 2017, as HouseDiffusion
            does). diffusers' argument of that name drops outputs instead; it holds no parameters and is 0 in
            Stable Diffusion.
        qk_norm: RMSNorm over each head's queries and keys (Henry et al. 2020; eps 1e-5 as in diffusers).

    Raises:
        ValueError: if ``query_dim`` does not split into ``heads`` and no ``head_dim`` is given.
    """

    def __init__(
        self,
        query_dim: int,
        *,
        heads: int,
        head_dim: int | None = None,
        context_dim: int | None = None,
        bias: bool = False,
        out_bias: bool = True,
        dropout: float = 0.0,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        if head_dim is None and query_dim % heads:
            raise ValueError(f"query_dim {query_dim} does not split into {heads} heads; pass head_dim")
        head_dim = query_dim // heads if head_dim is None else head_dim
        inner, context_dim = heads * head_dim, query_dim if context_dim is None else context_dim
        self.heads = heads
        self.dropout = dropout
        self.to_q = Linear(query_dim, inner, bias=bias)
        self.to_k = Linear(context_dim, inner, bias=bias)
        self.to_v = Linear(context_dim, inner, bias=bias)
        self.to_out = nn.ModuleList([Linear(inner, query_dim, bias=out_bias)])
        self.norm_q = nn.RMSNorm(head_dim, eps=1e-5) if qk_norm else None
        self.norm_k = nn.RMSNorm(head_dim, eps=1e-5) if qk_norm else None

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        layout: SegmentLayout | None = None,
        *,
        backend: Backend = "auto",
    ) -> Tensor:
        """x: [B, M, C]; context: [B, N, context_dim], default x; layout: who reads whom, default all -> [B, M, C].

        Raises as :func:`attend` does.
        """
        context = x if context is None else context
        return self.read(self.to_q(x), self.to_k(context), self.to_v(context), layout, backend=backend)

    def read(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout | None = None, *, backend: Backend = "auto"
    ) -> Tensor:
        """forward after `to_q`, `to_k` and `to_v`, for a caller that has a shorter way to what they give.

        q: [B, M, H D]; k, v: [B, N, H D]; layout as in forward -> [B, M, C].
        """
        q, k, v = (tokens.unflatten(-1, (self.heads, -1)) for tokens in (q, k, v))
        if self.norm_q is not None and self.norm_k is not None:
            # In the weights' dtype: float32 under autocast. The kernels want one dtype for all three.
            wide = self.norm_q.weight.dtype
            q, k = self.norm_q(q.to(wide)).to(v.dtype), self.norm_k(k.to(wide)).to(v.dtype)
        out = attend(q, k, v, layout, backend=backend, dropout=self.dropout if self.training else 0.0)
        return self.to_out[0](out.flatten(2))

    def extra_repr(self) -> str:
        """Heads and dropout, for ``print(module)``."""
        return f"heads={self.heads}, dropout={self.dropout}"

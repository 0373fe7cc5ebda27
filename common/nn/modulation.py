"""Adaptive layer norm: a condition sets the shift, scale and gate of every residual branch."""

from __future__ import annotations

from torch import Tensor, nn


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x (1 + scale) + shift`, so that zeros leave x as it is."""
    return x * (1 + scale) + shift


class AdaLNZero(nn.Module):
    """`linear(silu(cond))` cut into chunks of width dim, zero at the start of training. (Peebles & Xie 2023, 3.2)

    A block of n branches takes 3n chunks: shift, scale, gate of the first branch, then of the second, as in DiT.
    """

    def __init__(self, cond_dim: int, dim: int, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks
        self.act = nn.SiLU()
        self.linear = nn.Linear(cond_dim, chunks * dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, cond: Tensor, x: Tensor, cond_index: Tensor | None = None) -> tuple[Tensor, ...]:
        """The chunks, in the dtype of x [B, M, D] and broadcasting against it.

        cond is one vector per sample [B, C], per token [B, M, C], or per run with cond_index, a LongTensor [M] that
        says which run a token belongs to: [R, C] for one packed row (B = 1), [B, R, C] for a dense batch whose rows
        are cut alike. The Linear runs once per vector given; only its result is repeated.
        """
        _check_cond(cond, x, cond_index)
        # x's dtype is float32 under autocast: the gradient of a run's chunk sums over all its tokens.
        chunks = self.linear(self.act(cond)).to(x.dtype).chunk(self.chunks, dim=-1)
        if cond_index is not None:
            chunks = tuple(chunk.index_select(-2, cond_index) for chunk in chunks)
            return chunks if cond.ndim == 3 else tuple(chunk[None] for chunk in chunks)
        return chunks if cond.ndim == 3 else tuple(chunk[:, None] for chunk in chunks)


def _check_cond(cond: Tensor, x: Tensor, cond_index: Tensor | None) -> None:
    """Broadcasting would accept most mistakes here and return a tensor of another shape."""
    batch, tokens = x.shape[0], x.shape[1]
    if cond_index is None:
        expected = f"[{batch}, C] or [{batch}, {tokens}, C]"
        fits = cond.shape[:-1] in ((batch,), (batch, tokens))
    else:
        expected = f"[{batch}, R, C]" + (" or [R, C]" if batch == 1 else "")
        fits = cond_index.shape == (tokens,) and (
            (cond.ndim == 3 and cond.shape[0] == batch) or (cond.ndim == 2 and batch == 1)
        )
        expected += f" with cond_index [{tokens}]"
    if not fits:
        index = "" if cond_index is None else f" with cond_index {list(cond_index.shape)}"
        raise ValueError(f"cond: for tokens {list(x.shape)} expected {expected}, found {list(cond.shape)}{index}")

"""attend(): one call for every layout, run by whichever kernel works here.

Shape letters: B batch, M query tokens, N key tokens, H heads, D head dim.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dropout import dropout as drop
from .gpu import MAX_GRID, pad_heads, ragged, refusal, uniform
from .layout import SegmentLayout, dense_mask, token_runs
from .plan import plan_of, table
from .varlen import padded_attention

Backend = Literal["auto", "xformers", "sdpa", "varlen", "dense", "flex"]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: SegmentLayout | None = None,
    *,
    backend: Backend = "auto",
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Scaled dot-product attention, softmax(scale q k^T) v, over the pairs that ``layout`` allows.

    Uniform layouts fold into the batch (or, when runs interleave, into the heads) and need no mask; ragged ones are
    one block-diagonal call. A query that reads nothing gets zeros and passes back no gradient.

    Args:
        q: [B, M, H, D]. k, v: [B, N, H, D]. One dtype, one device. Under autocast they are cast as SDPA casts them.
        layout: who reads whom, the same in every batch element; None: everybody reads everybody.
        backend: "auto" picks xformers, then torch's ``varlen_attn`` (ragged, half precision, no dropout), then SDPA,
            the first that runs a tiny call with this device, dtype and head dim. A named one runs or raises:
            "xformers", "varlen", "sdpa", "flex" (FlexAttention with a block mask), or "dense", the reference:
            the formula over the whole [M, N] mask.
        dropout: probability of dropping an attention weight.
        scale: default D ** -0.5.

    Returns:
        [B, M, H, D], in the dtype the attention ran in.

    Raises:
        ValueError: if shapes, dtypes or the layout do not fit together.
        RuntimeError: if the named backend cannot run here, with its reasons.
    """
    q, k, v = _autocast(q, k, v)
    _check(q, k, v, layout, backend, dropout)
    call = _Call(backend, dropout, q.shape[-1] ** -0.5 if scale is None else scale)
    if 0 in (q.numel(), k.numel()):
        return _nothing(q, k, v)
    if backend == "dense":
        mask = None if layout is None else layout.memo(("mask", q.device), lambda: dense_mask(layout, q.device))
        return _formula(q, k, v, mask, dropout, call.scale)
    if backend == "flex":
        return _flex(q, k, v, layout, call)
    if layout is None:
        return _batched(q, k, v, call)
    return _structured(q, k, v, layout, call)


@dataclass(frozen=True)
class _Call:
    backend: Backend
    dropout: float
    scale: float

    def kernel(self, q: Tensor, *, ragged: bool) -> str:
        """The kernel to use for ``q``: "xformers", "varlen" or "sdpa"."""
        where = (q.device, q.dtype, q.shape[-1], self.dropout)
        if self.backend == "auto":
            if not q.is_cuda:
                return "sdpa"
            names = ("xformers", "varlen") if ragged else ("xformers",)  # pragma: no cover - needs CUDA
            return next((name for name in names if not refusal(name, *where)), "sdpa")  # pragma: no cover
        if self.backend != "sdpa":
            reason = refusal(self.backend, *where)
            if reason:
                raise RuntimeError(f"attention backend {self.backend!r} cannot run here: {reason}")
        return self.backend


# -- from layouts to batches ---------------------------------------------------------------------------------------


def _structured(q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, call: _Call) -> Tensor:
    batch, m, heads, dim = q.shape
    kind, blocks = _kind(layout)
    if kind == "empty":
        return _nothing(q, k, v)
    if kind == "ragged" or call.kernel(q, ragged=False) == "varlen":
        return _ragged(q, k, v, layout, call)
    if kind == "heads":  # token f * S + s: the positions are S * H heads over the frames, and nothing moves
        q, k, v = (x.reshape(batch, -1, blocks * heads, dim) for x in (q, k, v))
    else:
        whole_runs, index = _key_index(layout, q.device)
        if index is not None:
            pieces = len(layout.k_lens) if whole_runs else layout.num_keys
            k, v = (x.reshape(batch, pieces, -1, heads, dim).index_select(1, index) for x in (k, v))
        q, k, v = (x.reshape(batch * blocks, -1, heads, dim) for x in (q, k, v))
    return _batched(q, k, v, call).reshape(batch, m, heads, dim)


# torch.compile takes the answers of these two as constants of the layout it traces with, and leaves _ragged alone: its
# shapes and tables are new with every pack.


@torch.compiler.assume_constant_result
def _kind(layout: SegmentLayout) -> tuple[str, int]:
    found = plan_of(layout)
    return found.kind, found.num_blocks


@torch.compiler.assume_constant_result
def _key_index(layout: SegmentLayout, device: torch.device) -> tuple[bool, Tensor | None]:
    """(True, key runs to take) or (False, key tokens to take) for a fold; (False, None): the keys as they are."""
    found = plan_of(layout)
    if found.key_runs is not None:
        return True, table(layout, "key_runs", device, found.key_runs.ravel)
    return False, table(layout, "k_rows", device, lambda: found.exact.flat_k_rows(layout.num_keys))


@torch.compiler.disable()
def _ragged(q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, call: _Call) -> Tensor:
    shape = q.shape
    # A batch of ragged rows is one longer ragged row.
    q, k, v = (x.reshape(1, -1, *x.shape[2:]) for x in (q, k, v))
    layout = layout.repeat(shape[0])
    name = call.kernel(q, ragged=True)
    if name == "sdpa":
        out = padded_attention(q, k, v, layout, partial(_in_chunks, partial(_sdpa, call)))
    else:
        out = ragged(q, k, v, layout, name, call.dropout, call.scale)  # pragma: no cover - needs CUDA
    return out.reshape(shape)


def _batched(q: Tensor, k: Tensor, v: Tensor, call: _Call) -> Tensor:
    """Unmasked attention on [B, M, H, D] of any B and H."""
    name = call.kernel(q, ragged=False)

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if name == "sdpa":
            return _sdpa(call, q, k, v, mask)
        return uniform(q, k, v, name, call.dropout, call.scale)  # pragma: no cover - needs CUDA

    return _in_chunks(run, q, k, v)


def _in_chunks(
    run: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """``run`` over pieces of the batch, then of the heads, that a CUDA grid can hold. mask: [B, 1, 1|M, N]."""
    dim = 0 if q.shape[0] > MAX_GRID else 2
    if q.shape[dim] <= MAX_GRID:
        return run(q, k, v, mask)
    parts = [x.split(MAX_GRID, dim) for x in (q, k, v)]
    masks = [mask] * len(parts[0]) if mask is None or dim == 2 else mask.split(MAX_GRID)
    return torch.cat([_in_chunks(run, *part) for part in zip(*parts, masks, strict=True)], dim)


# -- kernels that run anywhere -------------------------------------------------------------------------------------


def _sdpa(call: _Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if _formula_is_faster(q, k, v, call.dropout):
        return _formula(q, k, v, mask, call.dropout, call.scale)
    dim = q.shape[-1]
    if q.is_cuda:  # pragma: no cover - needs CUDA: its fused kernels want D % 8 == 0, else a slow one is taken
        q, k, v = (pad_heads(x) for x in (q, k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=call.dropout, scale=call.scale)
    return out[..., :dim].transpose(1, 2)


def _formula_is_faster(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> bool:
    """True for the short rows where torch's fused CPU backward loses to plain matrix products, and with dropout, which
    that kernel does not have.

    Measured on one AVX-512 core, forward and backward: bfloat16 with 8 to 80 keys is 2 to 10 times faster as plain
    products, 64 keys read by 512 or 2048 queries 1.4 to 1.8 times, float32 with 8 keys up to twice; from a few hundred
    keys on, or forward only, the fused kernel wins.
    """
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    if not (q.requires_grad or k.requires_grad or v.requires_grad):
        return False
    if dropout:
        return True
    if q.dtype in (torch.bfloat16, torch.float16):
        return k.shape[1] <= 128 and q.shape[1] <= 2048  # the scores are kept in float32
    return q.dtype == torch.float32 and max(q.shape[1], k.shape[1]) <= 16 and q.shape[-1] <= 64


def _formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, scale: float) -> Tensor:
    """softmax(scale q k^T) v by matrix products; scores and softmax in float32 at least. mask: Bool [..., M, N]."""
    with torch.autocast(q.device.type, enabled=False):
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        scores = torch.matmul(q.to(wide) * scale, k.to(wide).transpose(-1, -2))
        if mask is not None:
            # Finite, so that a row without keys stays finite until it is set to zero below.
            scores = scores.masked_fill(~mask, torch.finfo(wide).min)
        weights = _softmax(scores)
        weights = drop(weights, dropout) if dropout else weights
        out = torch.matmul(weights.to(v.dtype), v)
        if mask is not None:
            out = out.masked_fill(~mask.any(-1, keepdim=True), 0.0)
        return out.transpose(1, 2)


def _softmax(scores: Tensor) -> Tensor:
    """softmax over the last axis. Torch's CPU kernel is 14 times slower per score on rows shorter than its vectors."""
    if scores.device.type != "cpu" or scores.shape[-1] >= 16:
        return scores.softmax(-1)
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def _nothing(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Zeros like q, joined to all three so that backward finds (zero) gradients."""
    return torch.zeros_like(q) + sum(x.flatten()[:0].sum() for x in (q, k, v))


def _flex(q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout | None, call: _Call) -> Tensor:
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

    if call.dropout:
        raise RuntimeError("attention backend 'flex' cannot run: FlexAttention has no dropout")

    def build() -> BlockMask:
        assert layout is not None
        q_run, k_run = (torch.from_numpy(token_runs(layout, side)).to(q.device) for side in ("q", "k"))
        adjacency = torch.zeros(len(layout.q_lens), len(layout.k_lens), dtype=torch.bool, device=q.device)
        rows, runs = (torch.from_numpy(x).to(q.device) for x in layout.edge_arrays)
        adjacency[rows, runs] = True

        def reads(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return adjacency[q_run[i], k_run[j]]

        return create_block_mask(reads, None, None, q.shape[1], k.shape[1], device=str(q.device))

    mask = None if layout is None else layout.memo(("flex", q.device), build)
    run = _compiled(flex_attention) if q.is_cuda else flex_attention
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return run(q, k, v, block_mask=mask, scale=call.scale).transpose(1, 2)


@lru_cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:  # pragma: no cover - needs CUDA
    return torch.compile(function, dynamic=False)


# -- checks --------------------------------------------------------------------------------------------------------


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)


def _check(q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout | None, backend: str, dropout: float) -> None:
    if backend not in get_args(Backend):
        raise ValueError(f"backend: expected one of {', '.join(get_args(Backend))}, found {backend!r}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout: expected a probability in [0, 1), found {dropout}")
    if q.ndim != 4 or k.shape != v.shape or k.ndim != 4 or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q, k, v: expected [B, M, H, D], [B, N, H, D], [B, N, H, D], found {shapes}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k, v: expected one dtype, found {q.dtype}, {k.dtype}, {v.dtype}")
    if layout is not None and (layout.num_queries, layout.num_keys) != (q.shape[1], k.shape[1]):
        raise ValueError(
            f"layout: it has {layout.num_queries} query and {layout.num_keys} key tokens, "
            f"the tensors have {q.shape[1]} and {k.shape[1]}"
        )


# -- what works here -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KernelStatus:
    """One line of :func:`kernel_report`."""

    backend: str
    device: str
    dtype: str
    works: bool
    reason: str  # why not, or a remark such as "forward only"; "" when there is nothing to say


def kernel_report() -> list[KernelStatus]:
    """Every backend on every kind of device here, found by running a small ragged layout forward and backward."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    names = [name for name in get_args(Backend) if name != "auto"]
    return [_try(name, device, dtype) for device in devices for name in names for dtype in dtypes]


def _try(backend: Backend, device: str, dtype: torch.dtype) -> KernelStatus:
    layout = SegmentLayout.graph([5, 3, 8], [(1,), (0, 2), (1,)])
    x = torch.ones(1, 16, 2, 32, device=device, dtype=dtype)
    works, reason = False, ""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flex_attention called without")
            attend(x, x, x, layout, backend=backend)
            works = True
            attend(x.requires_grad_(), x, x, layout, backend=backend).sum().backward()
    except (RuntimeError, ValueError) as error:
        reason = ("forward only: " if works else "") + str(error).strip()
    return KernelStatus(backend, device, str(dtype).removeprefix("torch."), works, reason)

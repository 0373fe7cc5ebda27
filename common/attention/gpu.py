"""Fused CUDA kernels for block-diagonal attention: xformers, and torch's varlen. The only file that imports xformers.

Shape letters: B batch, M query tokens, N key tokens, H heads, D head dim.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import SegmentLayout
from .plan import gather, plan_of, table

MAX_GRID = 65_535  # batch and heads are CUDA grid axes y and z in FlashAttention and CUTLASS; an axis holds no more
GPU_EXTRA = "pip install 'trifold[gpu]'"


def refusal(backend: str, device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> str | None:
    """Why "xformers" or "varlen" cannot run such tensors here; None: it can.

    The answer comes from running a tiny call forward and backward, once per device, dtype and padded head dim: only
    that covers a wheel built for another CUDA. No version is ever compared.
    """
    if device.type != "cuda":
        return f"it has kernels for CUDA only, and the tensors are on {device.type}"
    if backend == "varlen" and dropout:
        return "torch's varlen_attn has no dropout"
    # xformers has no deterministic backward for block-diagonal masks in half precision, so the flag is part of the key.
    strict = torch.are_deterministic_algorithms_enabled()
    return _probe(backend, device, dtype, head_dim + -head_dim % 8, strict)


@torch.compiler.assume_constant_result  # so that a traced call asks once, for real tensors
def _probe(backend: str, device: torch.device, dtype: torch.dtype, head_dim: int, strict: bool) -> str | None:
    return _probe_once(backend, device, dtype, head_dim, strict)  # pragma: no cover - needs CUDA


@lru_cache
def _probe_once(backend: str, device: torch.device, dtype: torch.dtype, head_dim: int, strict: bool) -> str | None:
    try:
        with torch.inference_mode(False), torch.enable_grad():
            q = torch.zeros(1, 24, 2, head_dim, device=device, dtype=dtype, requires_grad=True)
            layout = SegmentLayout.diagonal([5, 19])
            ragged(q, q, q, layout, backend, 0.0, 1.0).sum().backward()
            uniform(q, q, q, backend, 0.0, 1.0).sum().backward()
    except (ImportError, OSError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        advice = _cuda12_runtime() if backend == "xformers" else None
        return "; ".join(filter(None, [f"{type(error).__name__}: {str(error).strip()}", advice]))
    return None


# -- xformers ------------------------------------------------------------------------------------------------------


@lru_cache
def _cuda12_runtime() -> str | None:
    """Make libcudart.so.12 known to the process; returns advice when it cannot be found.

    The xformers 0.0.35 wheel is linked against CUDA 12's runtime. Beside a torch built for CUDA 13 it loads, finds its
    library missing, and refuses every call, although the kernels it would have called are torch's own. Both runtimes
    can be in one process: their sonames differ.
    """
    name = "libcudart.so.12"
    try:
        package = importlib.metadata.distribution("nvidia-cuda-runtime-cu12")
        ctypes.CDLL(str(package.locate_file(f"nvidia/cuda_runtime/lib/{name}")), mode=ctypes.RTLD_GLOBAL)
    except (importlib.metadata.PackageNotFoundError, OSError):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)  # on the loader's path, or loaded already by a CUDA 12 torch
        except OSError:
            return f"xformers needs {name}, which is not here: {GPU_EXTRA}"
    return None


@lru_cache
def _xformers() -> tuple[Callable[..., Tensor], Any]:
    """(memory_efficient_attention, BlockDiagonalMask). Imported late: on machines without CUDA the import warns."""
    _cuda12_runtime()
    try:
        from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]
        from xformers.ops.fmha import attn_bias  # pyright: ignore[reportMissingImports]  # pragma: no cover - needs it
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}: {GPU_EXTRA}") from error
    return memory_efficient_attention, attn_bias.BlockDiagonalMask  # pragma: no cover - xformers is for CUDA machines


# -- one call on [B, M, H, D], one on a packed row -----------------------------------------------------------------


def uniform(q: Tensor, k: Tensor, v: Tensor, backend: str, dropout: float, scale: float) -> Tensor:
    """Unmasked attention. q: [B, M, H, D]; k, v: [B, N, H, D] -> [B, M, H, D]; at most MAX_GRID batches and heads."""
    dim = q.shape[-1]
    if backend == "xformers":
        attention, _ = _xformers()
        q, k, v = (pad_heads(x) for x in (q, k, v))  # pragma: no cover - needs CUDA
        return attention(q, k, v, p=dropout, scale=scale)[..., :dim]  # pragma: no cover - needs CUDA
    (batch, m), n = q.shape[:2], k.shape[1]
    starts = torch.arange(batch + 1, device=q.device, dtype=torch.int32)
    block = _Blocks(batch * m, batch * n, (starts * m, starts * n, m, n))
    q, k, v = (x.flatten(0, 1)[None] for x in (q, k, v))
    return _varlen(q, k, v, block, scale)[0].unflatten(0, (batch, m))


def ragged(
    q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, backend: str, dropout: float, scale: float
) -> Tensor:
    """Block-diagonal attention over gathered keys. q: [1, M, H, D]; k, v: [1, N, H, D] -> [1, M, H, D]."""
    pack = plan_of(layout).exact
    q = gather(q, table(layout, "q_rows", q.device, lambda: pack.q_rows))
    k_rows = table(layout, "k_rows", q.device, lambda: pack.flat_k_rows(layout.num_keys))
    k, v = gather(k, k_rows), gather(v, k_rows)
    chunks = _chunks(layout, backend, q.device)
    q_parts = q.split([chunk.queries for chunk in chunks], 1)
    k_parts, v_parts = (x.split([chunk.keys for chunk in chunks], 1) for x in (k, v))
    run = _block_diagonal if backend == "xformers" else _varlen_without_dropout
    parts = [
        run(q, k, v, blocks, scale, dropout) for q, k, v, blocks in zip(q_parts, k_parts, v_parts, chunks, strict=True)
    ]
    if pack.q_rows is not None:  # a row of zeros for the tokens that read nothing
        parts.append(parts[0].new_zeros(1, 1, *q.shape[2:]))
    out_rows = table(layout, "out_rows", q.device, lambda: pack.out_rows(layout.num_queries))
    return gather(parts[0] if len(parts) == 1 else torch.cat(parts, 1), out_rows)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """A stretch of the packed row: its rows, and its blocks as the kernel wants them."""

    queries: int
    keys: int
    bias: Any  # BlockDiagonalMask, or (cu_seq_q, cu_seq_k, max_q, max_k)


def _chunks(layout: SegmentLayout, backend: str, device: torch.device) -> list[_Blocks]:
    """The blocks of a layout, MAX_GRID at most in a chunk, remembered on the layout."""

    def cumulated(lens: list[int]) -> Tensor:
        return torch.tensor([0, *accumulate(lens)], dtype=torch.int32, device=device)

    def build() -> list[_Blocks]:
        pack, chunks = plan_of(layout).exact, []
        for start in range(0, len(pack.q_lens), MAX_GRID):
            q_lens, k_lens = (lens[start : start + MAX_GRID].tolist() for lens in (pack.q_lens, pack.k_lens))
            if backend == "xformers":
                bias = _xformers()[1].from_seqlens(q_lens, k_lens, device=device)
            else:
                bias = (cumulated(q_lens), cumulated(k_lens), max(q_lens), max(k_lens))
            chunks.append(_Blocks(sum(q_lens), sum(k_lens), bias))
        return chunks

    return layout.memo(("chunks", backend, device), build)


def _block_diagonal(
    q: Tensor, k: Tensor, v: Tensor, blocks: _Blocks, scale: float, dropout: float
) -> Tensor:  # pragma: no cover - needs CUDA
    dim = q.shape[-1]
    q, k, v = (pad_heads(x) for x in (q, k, v))
    return _xformers()[0](q, k, v, attn_bias=blocks.bias, p=dropout, scale=scale)[..., :dim]


def _varlen_without_dropout(q: Tensor, k: Tensor, v: Tensor, blocks: _Blocks, scale: float, _dropout: float) -> Tensor:
    return _varlen(q, k, v, blocks, scale)


def _varlen(q: Tensor, k: Tensor, v: Tensor, blocks: _Blocks, scale: float) -> Tensor:
    """torch's varlen_attn; its seven positional arguments are all that did not change from torch 2.10 to 2.13."""
    from torch.nn.attention.varlen import varlen_attn

    dim = q.shape[-1]
    q, k, v = (pad_heads(x) for x in (q, k, v))
    # The kernel scales by its own D ** -0.5, of the padded D.
    factor = scale * q.shape[-1] ** 0.5
    q = q if abs(factor - 1.0) < 1e-9 else q * factor
    out = varlen_attn(q[0], k[0], v[0], *blocks.bias)
    assert isinstance(out, Tensor)
    return out[None, ..., :dim]


def pad_heads(x: Tensor) -> Tensor:
    """[..., D] with zeros up to a multiple of 8, which fused kernels ask for; zeros change neither scores nor sums."""
    return F.pad(x, (0, -x.shape[-1] % 8)) if x.shape[-1] % 8 else x

"""The packing around the kernels: buckets, and what surrounds xformers and varlen, with loops in their place."""

from __future__ import annotations

import ctypes
import importlib.metadata
import sys
import types
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from attention_cases import CASES, gradients, plans, qkv
from torch import Tensor
from trifold.common.attention import SegmentLayout, attend, dense_mask, gpu, kernels
from trifold.common.attention import plan as plan_module
from trifold.common.attention import varlen as varlen_module

NAMES = pytest.mark.parametrize("name", CASES)


# -- buckets -------------------------------------------------------------------------------------------------------


def test_no_mask_over_the_whole_row_is_made() -> None:
    """512 plans: the dense mask would have 400 million entries; the buckets hold a few per token."""
    layout = plans(512)
    tables = varlen_module.buckets(layout, torch.device("cpu"))
    entries = sum(b.mask.numel() for b in tables.buckets if b.mask is not None)
    scores = sum(b.blocks * b.m * b.n for b in tables.buckets)
    assert layout.num_queries * layout.num_keys > 300 * scores
    assert entries <= scores
    assert len(tables.buckets) < 30


def test_many_shapes_are_grouped_and_none_is_lost() -> None:
    generator = torch.Generator().manual_seed(0)
    q_lens, k_lens = (torch.randint(1, 200, (900,), generator=generator).numpy() for _ in range(2))
    groups = varlen_module.group(q_lens, k_lens)
    assert sorted(i for blocks in groups for i in blocks.tolist()) == list(range(900))
    padded = sum(len(b) * q_lens[b].max() * k_lens[b].max() for b in groups)
    assert padded < 0.5 * 900 * q_lens.max() * k_lens.max()


def test_equal_shapes_share_an_unmasked_bucket() -> None:
    layout = SegmentLayout.stack([SegmentLayout.diagonal([64] * 50), SegmentLayout.diagonal([200] * 50)])
    tables = varlen_module.buckets(layout, torch.device("cpu"))
    assert [(b.blocks, b.m, b.n, b.mask) for b in tables.buckets] == [(50, 64, 64, None), (50, 200, 200, None)]
    assert tables.q_rows is tables.k_rows is tables.out_rows is None


@NAMES
def test_a_bucket_taken_in_pieces_is_the_bucket_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = CASES[name][0]
    q, k, v = qkv(layout)
    with torch.no_grad():
        whole = attend(q, k, v, layout)
        monkeypatch.setattr(varlen_module, "PIECE", 1)  # one block at a time
        torch.testing.assert_close(attend(q, k, v, layout), whole, atol=2e-6, rtol=0)


# -- the CUDA packing code, with kernels in loops in place of the fused ones ---------------------------------------


def by_blocks(q: Tensor, k: Tensor, v: Tensor, q_starts: list[int], k_starts: list[int], scale: float) -> Tensor:
    """Block-diagonal attention on [rows, H, D] in a loop, as varlen kernels define it."""
    parts = []
    for (a, b), (c, d) in zip(pairwise(q_starts), pairwise(k_starts), strict=True):
        scores = torch.einsum("mhd,nhd->hmn", q[a:b], k[c:d]) * scale
        parts.append(torch.einsum("hmn,nhd->mhd", scores.softmax(-1), v[c:d]))
    return torch.cat(parts)


def loop_varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> Tensor:
    """torch's varlen_attn with its positional signature and its own checks."""
    assert q.shape[-1] % 8 == 0
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert max_q == cu_q.diff().max()
    assert max_k == cu_k.diff().max()
    assert (cu_q[-1], cu_k[-1]) == (len(q), len(k))
    return by_blocks(q, k, v, cu_q.tolist(), cu_k.tolist(), q.shape[-1] ** -0.5)


class LoopMask:
    """xformers' BlockDiagonalMask as far as it is used."""

    def __init__(self, q_starts: list[int], k_starts: list[int]) -> None:
        self.q_starts, self.k_starts = q_starts, k_starts

    @classmethod
    def from_seqlens(cls, q_lens: list[int], k_lens: list[int], *, device: torch.device) -> LoopMask:
        assert isinstance(device, torch.device)  # a string takes xformers' pinned-memory path
        assert min(*q_lens, *k_lens, 1) == 1
        return cls([0, *torch.tensor(q_lens).cumsum(0).tolist()], [0, *torch.tensor(k_lens).cumsum(0).tolist()])


def loop_xformers(
    q: Tensor, k: Tensor, v: Tensor, attn_bias: LoopMask | None = None, *, p: float, scale: float
) -> Tensor:
    assert p == 0.0
    assert q.shape[-1] % 8 == 0
    if attn_bias is None:
        batches = [by_blocks(*x, [0, len(x[0])], [0, len(x[1])], scale) for x in zip(q, k, v, strict=True)]
        return torch.stack(batches)
    assert len(q) == 1
    return by_blocks(q[0], k[0], v[0], attn_bias.q_starts, attn_bias.k_starts, scale)[None]


@pytest.fixture
def looped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put loops where CUDA kernels would be, so that all that surrounds them runs here."""
    import torch.nn.attention.varlen as torch_varlen

    monkeypatch.setattr(torch_varlen, "varlen_attn", loop_varlen)
    monkeypatch.setattr(gpu, "_xformers", lambda: (loop_xformers, LoopMask))
    monkeypatch.setattr(gpu, "refusal", lambda *_: None)
    monkeypatch.setattr(kernels, "refusal", lambda *_: None)


@NAMES
@pytest.mark.parametrize("backend", ["xformers", "varlen"])
@pytest.mark.parametrize(("dim", "grid"), [(8, 65_535), (3, 3)])
@pytest.mark.usefixtures("looped")
def test_cuda_packing(
    name: str, backend: kernels.Backend, dim: int, grid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "MAX_GRID", grid)
    monkeypatch.setattr(kernels, "MAX_GRID", grid)
    layout = pickle_copy(CASES[name][0])  # fresh tables: they depend on the limit
    inputs = qkv(layout, 2, dim)
    out = attend(*inputs, layout, backend=backend, scale=0.7)
    expected = attend(*inputs, layout, backend="dense", scale=0.7)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)
    for ours, reference in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-13)
    full = attend(*qkv(SegmentLayout.full(4, 5), 5, dim), backend=backend)
    torch.testing.assert_close(
        full, attend(*qkv(SegmentLayout.full(4, 5), 5, dim), backend="dense"), rtol=0, atol=1e-13
    )


def pickle_copy(layout: SegmentLayout) -> SegmentLayout:
    return SegmentLayout(layout.q_lens, layout.k_lens, layout.edges, layout.q_interleave, layout.k_interleave)


def test_refusal_is_the_answer_of_a_real_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe on this machine's CPU fails in the kernels themselves, and their words are the reason."""
    gpu._probe_once.cache_clear()
    cuda = torch.device("cuda")
    assert gpu.refusal("varlen", cuda, torch.float16, 32, 0.1) == "torch's varlen_attn has no dropout"
    reason = gpu._probe_once("varlen", torch.device("cpu"), torch.float16, 32, False)
    assert reason is not None
    assert "flash_attention" in reason
    seen: list[int] = []
    monkeypatch.setattr(gpu, "_probe", lambda _b, _d, _t, head_dim, _s: seen.append(head_dim))
    assert gpu.refusal("xformers", cuda, torch.float32, 3, 0.1) is None
    assert gpu.refusal("xformers", cuda, torch.float32, 40, 0.0) is None
    assert seen == [8, 40]  # padded head dims


@pytest.mark.usefixtures("looped")
def test_a_probe_that_runs_refuses_nothing() -> None:
    gpu._probe_once.cache_clear()
    for backend in ("xformers", "varlen"):
        assert gpu._probe_once(backend, torch.device("cpu"), torch.float32, 16, False) is None
    gpu._probe_once.cache_clear()


def test_missing_xformers_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    gpu._xformers.cache_clear()
    gpu._probe_once.cache_clear()
    reason = gpu._probe_once("xformers", torch.device("cpu"), torch.float32, 32, False)
    assert reason is not None
    assert "pip install 'trifold[gpu]'" in reason
    gpu._probe_once.cache_clear()


def test_cuda12_runtime_is_taken_from_its_package_else_from_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def load(path: str, mode: int) -> None:
        assert mode == ctypes.RTLD_GLOBAL
        opened.append(path)
        if "missing" in state:
            raise OSError(path)

    def distribution(name: str) -> types.SimpleNamespace:
        assert name == "nvidia-cuda-runtime-cu12"
        if "package" not in state:
            raise importlib.metadata.PackageNotFoundError(name)
        return types.SimpleNamespace(locate_file=lambda part: Path("/site") / part)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    runtime = gpu._cuda12_runtime.__wrapped__
    state = {"package"}
    assert runtime() is None
    assert opened == ["/site/nvidia/cuda_runtime/lib/libcudart.so.12"]
    state = set()
    assert runtime() is None
    assert opened[-1] == "libcudart.so.12"
    state = {"package", "missing"}
    assert runtime() == "xformers needs libcudart.so.12, which is not here: pip install 'trifold[gpu]'"


def test_xformers_mask_is_ours() -> None:
    bias = pytest.importorskip("xformers.ops.fmha.attn_bias", reason="xformers has no wheel for this platform")
    for layout, _ in CASES.values():
        pack = plan_module.plan_of(layout).exact
        if not len(pack.q_lens):
            continue
        q_lens, k_lens = pack.q_lens.tolist(), pack.k_lens.tolist()
        mask = bias.BlockDiagonalMask.from_seqlens(q_lens, k_lens, device=torch.device("cpu"))
        ours = dense_mask(SegmentLayout.diagonal(q_lens, k_lens))
        assert torch.equal(mask.materialize(tuple(ours.shape)) == 0, ours)

"""attend() on CUDA: every kernel that runs there against the formula in float64, forward and backward."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from trifold.common.attention import Attention, SegmentLayout, attend, dense_mask, kernel_report
from trifold.common.attention.gpu import MAX_GRID, refusal

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

HALF = (torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-3, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # float32: TF32 products in some kernels
BACKENDS = pytest.mark.parametrize("backend", ["auto", "xformers", "sdpa", "varlen"])
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)


def packed_doors(number: int) -> SegmentLayout:
    rng, parts = random.Random(0), []
    for _ in range(number):
        lens = [rng.randint(1, 12) for _ in range(8)]
        parts.append(SegmentLayout.graph(lens, [tuple(rng.sample(range(8), rng.randint(0, 4))) for _ in range(8)]))
    return SegmentLayout.stack(parts)


CASES = {
    "full": SegmentLayout.full(130, 77),
    "frames": SegmentLayout.diagonal([64] * 4),
    "sparse-causal": SegmentLayout.sparse_causal(5, 48),
    "temporal": SegmentLayout.temporal(8, 40),
    "rooms": SegmentLayout.diagonal([4, 6, 4, 8, 130]),
    "packed doors": packed_doors(16),
    "text": SegmentLayout.cross([64] * 4, [77, 77]),
    "ragged text": SegmentLayout.cross([30, 5, 61, 2], [77, 13]),
    "rooms without doors": SegmentLayout.graph([4, 6, 4, 8], [(), (0,), (), (0, 2)]),
    "temporal and graph": SegmentLayout.stack(
        [SegmentLayout.temporal(3, 4), SegmentLayout.graph([4, 6, 5], [(1,), (0, 2), ()])]
    ),
}


def qkv(layout: SegmentLayout, dtype: torch.dtype, batch: int = 2, heads: int = 2, dim: int = 32) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    lens = (layout.num_queries, layout.num_keys, layout.num_keys)
    return [
        torch.randn(batch, n, heads, dim, generator=generator, device="cuda", dtype=dtype).requires_grad_()
        for n in lens
    ]


def require(backend: str, dtype: torch.dtype, dim: int = 32, dropout: float = 0.0) -> None:
    """Skip where this machine cannot run the backend, with the backend's own reason."""
    if backend in ("xformers", "varlen"):
        reason = refusal(backend, torch.device("cuda"), dtype, dim, dropout)
        if reason:
            pytest.skip(f"{backend} refuses {dtype}, D = {dim}: {reason.splitlines()[0]}")


def assert_exact(layout: SegmentLayout, inputs: list[Tensor], out: Tensor) -> None:
    """Output and gradients equal those of the formula in float64."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = attend(*exact, layout, backend="dense")
    tolerance = TOLERANCE[out.dtype]
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=tolerance)
    weight = torch.randn(out.shape, generator=torch.Generator("cuda").manual_seed(1), device="cuda", dtype=out.dtype)
    ours = torch.autograd.grad(out, inputs, weight)
    for mine, true in zip(ours, torch.autograd.grad(expected, exact, weight.double()), strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=0, atol=8 * tolerance)


@BACKENDS
@DTYPES
@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward(backend: str, dtype: torch.dtype, name: str) -> None:
    require(backend, dtype)
    inputs = qkv(CASES[name], dtype)
    assert_exact(CASES[name], inputs, attend(*inputs, CASES[name], backend=backend))


@BACKENDS
@DTYPES
@pytest.mark.parametrize("dim", [3, 20, 40, 72, 160])
def test_head_dims(backend: str, dtype: torch.dtype, dim: int) -> None:
    require(backend, dtype, dim)
    for name in ("sparse-causal", "packed doors"):
        inputs = qkv(CASES[name], dtype, dim=dim)
        assert_exact(CASES[name], inputs, attend(*inputs, CASES[name], backend=backend))


@BACKENDS
def test_more_batches_than_a_grid_axis_holds(backend: str) -> None:
    require(backend, torch.float16)
    for layout in (SegmentLayout.diagonal([2] * (MAX_GRID + 5)), SegmentLayout.diagonal([1, 2] * (MAX_GRID // 2 + 3))):
        q, k, v = qkv(layout, torch.float16, batch=1, heads=1, dim=8)
        out = attend(q, k, v, layout, backend=backend)
        out.sum().backward()
        tail = SegmentLayout.diagonal(layout.q_lens[-6:])
        rows = slice(-tail.num_queries, None)
        expected = attend(q[:, rows].double(), k[:, rows].double(), v[:, rows].double(), tail, backend="dense")
        torch.testing.assert_close(out[:, rows].double(), expected, rtol=0, atol=TOLERANCE[torch.float16])
        assert all(x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("backend", ["auto", "sdpa", "xformers"])
def test_more_heads_than_a_grid_axis_holds(backend: str) -> None:
    require(backend, torch.float16)
    layout = SegmentLayout.temporal(2, MAX_GRID + 5)
    inputs = qkv(layout, torch.float16, batch=1, heads=1, dim=8)
    out = attend(*inputs, layout, backend=backend)
    columns = [x.unflatten(1, (2, -1)).transpose(1, 2)[0, -4:].double() for x in inputs]  # [4 positions, 2, 1, 8]
    expected = attend(*columns, backend="dense")
    got = out.unflatten(1, (2, -1)).transpose(1, 2)[0, -4:].double()
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE[torch.float16])


@BACKENDS
@DTYPES
def test_rows_that_read_nothing(backend: str, dtype: torch.dtype) -> None:
    require(backend, dtype)
    for layout in (CASES["rooms without doors"], SegmentLayout.graph([4, 3], [(), ()])):
        inputs = qkv(layout, dtype)
        out = attend(*inputs, layout, backend=backend)
        unread = ~dense_mask(layout, "cuda").any(1)
        assert (out[:, unread] == 0).all()
        by_q, by_k, by_v = torch.autograd.grad(out.sum(), inputs)
        assert (by_q[:, unread] == 0).all()
        assert all(g.isfinite().all() for g in (by_q, by_k, by_v))


@pytest.mark.parametrize("backend", ["auto", "sdpa", "xformers"])
@pytest.mark.parametrize("name", ["frames", "packed doors"])
def test_dropout_keeps_the_mean(backend: str, name: str) -> None:
    require(backend, torch.bfloat16, dropout=0.25)
    torch.manual_seed(0)
    layout = CASES[name]
    q, k, v = qkv(layout, torch.bfloat16, batch=1)
    kept = attend(q, k, torch.ones_like(v), layout)
    runs = [attend(q, k, torch.ones_like(v), layout, backend=backend, dropout=0.25).float() for _ in range(300)]
    mean = torch.stack(runs).mean(0)
    assert not torch.equal(runs[0], runs[1])
    torch.testing.assert_close(mean, kept.float(), rtol=0, atol=0.2)
    assert mean[kept != 0].mean().item() == pytest.approx(1.0, abs=0.01)
    with pytest.raises(RuntimeError, match="varlen_attn has no dropout"):
        attend(q, k, v, layout, backend="varlen", dropout=0.25)


def test_varlen_refuses_float32_with_the_kernels_reason() -> None:
    x = qkv(CASES["rooms"], torch.float32)
    with pytest.raises(RuntimeError, match="'varlen' cannot run here: "):
        attend(*x, CASES["rooms"], backend="varlen")


@pytest.mark.parametrize("name", ["frames", "packed doors"])
def test_deterministic_algorithms_still_run(name: str) -> None:
    """xformers has no deterministic backward for block-diagonal masks; auto must find another kernel."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        inputs = qkv(CASES[name], torch.bfloat16)
        assert_exact(CASES[name], inputs, attend(*inputs, CASES[name]))
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.mark.parametrize("name", ["sparse-causal", "packed doors"])
def test_flex(name: str) -> None:
    inputs = qkv(CASES[name], torch.float32)
    assert_exact(CASES[name], inputs, attend(*inputs, CASES[name], backend="flex"))


@pytest.mark.parametrize("name", ["frames", "temporal", "sparse-causal"])
def test_compiles_in_one_graph(name: str) -> None:
    torch._dynamo.reset()
    layout, layer = CASES[name], Attention(64, heads=2).cuda()
    x = torch.randn(2, layout.num_queries, 64, device="cuda")
    out = torch.compile(layer, fullgraph=True)(x, layout=layout, backend="sdpa")
    torch.testing.assert_close(out, layer(x, layout=layout, backend="sdpa"), rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["temporal", "packed doors"])
def test_autocast(name: str) -> None:
    layout, layer = CASES[name], Attention(64, heads=2, qk_norm=True).cuda()
    x = torch.randn(2, layout.num_queries, 64, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        out = layer(x, layout=layout)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert x.grad.isfinite().all()
    torch.testing.assert_close(out.float(), layer(x, layout=layout, backend="dense"), rtol=0, atol=3e-2)


def test_report_covers_cuda() -> None:
    report = {(s.backend, s.device, s.dtype): s for s in kernel_report()}
    for dtype in ("float32", "float16", "bfloat16"):
        assert report["sdpa", "cuda", dtype].works
        assert report["dense", "cuda", dtype].works
    assert all(status.works or status.reason for status in report.values())

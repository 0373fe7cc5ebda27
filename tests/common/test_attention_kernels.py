"""attend(): every backend that runs on a CPU against the dense mask, forward and backward; what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from attention_cases import CASES, ROOMS, gradients, literal, qkv
from torch import Tensor
from trifold.cli.doctor import doctor, kernel_lines
from trifold.common.attention import KernelStatus, SegmentLayout, attend, dense_mask, kernel_report, kernels
from trifold.common.attention import plan as plan_module

# Uncompiled FlexAttention is slow; here only its numbers matter.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")

NAMES = pytest.mark.parametrize("name", CASES)


@NAMES
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("backend", ["auto", "sdpa", "dense"])
def test_forward_and_backward_equal_the_definition(name: str, batch: int, backend: kernels.Backend) -> None:
    layout, _ = CASES[name]
    inputs = qkv(layout, batch)
    with torch.no_grad():
        expected = literal(*inputs, layout)
        inferred = attend(*inputs, layout, backend=backend)
    out = attend(*inputs, layout, backend=backend)
    torch.testing.assert_close(inferred, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)
    dense = attend(*inputs, layout, backend="dense")
    for ours, reference in zip(gradients(out, inputs), gradients(dense, inputs), strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-13)


def test_dense_gradient_is_that_of_the_loops() -> None:
    layout = SegmentLayout.graph(ROOMS, [(1,), (0, 2), (), (0, 1, 2, 3)])
    inputs = qkv(layout, 2)
    for ours, reference in zip(
        gradients(attend(*inputs, layout, backend="dense"), inputs),
        gradients(literal(*inputs, layout), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-13)


@NAMES
def test_layouts_are_run_the_cheap_way(name: str) -> None:
    layout, kind = CASES[name]
    assert plan_module.plan_of(layout).kind == kind


@NAMES
def test_flex_equals_the_definition(name: str) -> None:
    layout, _ = CASES[name]
    inputs = [x.detach().float() for x in qkv(layout, 2)]
    torch.testing.assert_close(attend(*inputs, layout, backend="flex"), literal(*inputs, layout), rtol=0, atol=1e-6)


def test_without_layout_everybody_reads_everybody() -> None:
    inputs = qkv(SegmentLayout.full(5, 7), 2)
    expected = literal(*inputs, SegmentLayout.full(5, 7), scale=0.3)
    for backend in ("auto", "dense"):
        torch.testing.assert_close(attend(*inputs, backend=backend, scale=0.3), expected, rtol=0, atol=1e-13)
    halves = [x.detach().float() for x in inputs]
    torch.testing.assert_close(attend(*halves, backend="flex", scale=0.3), expected.float(), rtol=0, atol=1e-6)


@NAMES
def test_nothing_leaks_between_runs(name: str) -> None:
    """The gradient of output i by key j is zero exactly where the mask forbids, whatever the batch."""
    layout, _ = CASES[name]
    mask = dense_mask(layout)
    q, k, v = qkv(layout, 2)
    out = attend(q, k, v, layout)
    for i in range(0, layout.num_queries, 5):
        by_q, by_k, by_v = torch.autograd.grad(out[1, i].sum(), (q, k, v), retain_graph=True)
        assert by_q[0].abs().sum() == by_k[0].abs().sum() == by_v[0].abs().sum() == 0
        assert torch.equal(by_v[1].abs().sum((1, 2)) > 0, mask[i])
        assert not (by_k[1].abs().sum((1, 2)) > 0)[~mask[i]].any()
        assert by_q[1, torch.arange(layout.num_queries) != i].abs().sum() == 0


def test_a_nan_stays_in_its_own_run() -> None:
    layout = SegmentLayout.diagonal([3, 5, 4, 12, 7])
    q, k, v = (x.detach() for x in qkv(layout))
    k[:, 3:8], v[:, 3:8] = float("nan"), float("nan")
    out = attend(q, k, v, layout)
    assert out[:, 3:8].isnan().all()
    assert out[:, :3].isfinite().all()
    assert out[:, 8:].isfinite().all()


def test_sparse_causal_is_the_papers_concatenation() -> None:
    """Tune-A-Video: keys and values of frame i are [frame 0, frame i - 1], concatenated along the tokens."""
    frames, tokens, batch = 5, 6, 2
    q, k, v = qkv(SegmentLayout.sparse_causal(frames, tokens), batch)
    previous = torch.arange(frames) - 1
    previous[0] = 0

    def concatenated(x: Tensor) -> Tensor:
        x = x.unflatten(1, (frames, tokens))
        return torch.cat([x[:, [0] * frames], x[:, previous]], dim=2).flatten(0, 1).transpose(1, 2)

    per_frame = q.unflatten(1, (frames, tokens)).flatten(0, 1).transpose(1, 2)
    expected = F.scaled_dot_product_attention(per_frame, concatenated(k), concatenated(v)).transpose(1, 2)
    out = attend(q, k, v, SegmentLayout.sparse_causal(frames, tokens))
    torch.testing.assert_close(out, expected.reshape(out.shape), rtol=0, atol=1e-14)


def test_temporal_is_the_papers_permutation() -> None:
    """Temporal attention: (b f) s c -> (b s) f c, attend, and back."""
    frames, tokens, batch = 4, 5, 3
    inputs = qkv(SegmentLayout.temporal(frames, tokens), batch)
    columns = [x.unflatten(1, (frames, tokens)).transpose(1, 2).flatten(0, 1).transpose(1, 2) for x in inputs]
    expected = F.scaled_dot_product_attention(*columns).transpose(1, 2)
    expected = expected.unflatten(0, (batch, tokens)).transpose(1, 2).flatten(1, 2)
    out = attend(*inputs, SegmentLayout.temporal(frames, tokens))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)


def test_temporal_and_frames_move_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gets views of the caller's memory."""
    seen: list[Tensor] = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F,
        "scaled_dot_product_attention",
        lambda q, k, v, **options: (seen.extend((q, k, v)), real(q, k, v, **options))[1],
    )
    for layout in (
        SegmentLayout.temporal(4, 5),
        SegmentLayout.diagonal([5] * 4),
        SegmentLayout.cross([5] * 4, [10, 10]),
    ):
        for batch in (1, 3):
            inputs = qkv(layout, batch)
            seen.clear()
            attend(*inputs, layout)
            assert [x.data_ptr() for x in seen] == [x.data_ptr() for x in inputs]


@pytest.mark.parametrize("backend", ["auto", "sdpa", "dense"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rows_that_read_nothing_are_zero_and_pass_no_gradient(backend: kernels.Backend, dtype: torch.dtype) -> None:
    layout = SegmentLayout.graph(ROOMS, [(), (0,), (), (0, 2)])
    empty = torch.tensor([True] * 4 + [False] * 6 + [True] * 4 + [False] * 8)
    inputs = qkv(layout, 2, dtype=dtype)
    out = attend(*inputs, layout, backend=backend)
    assert (out[:, empty] == 0).all()
    assert (out[:, ~empty] != 0).any()
    by_q, by_k, by_v = gradients(out, inputs)
    assert (by_q[:, empty] == 0).all()
    assert all(g.isfinite().all() for g in (by_q, by_k, by_v))
    for unread in (by_k[:, 4:10], by_v[:, 4:10], by_k[:, 14:], by_v[:, 14:]):
        assert (unread == 0).all()


@pytest.mark.parametrize("backend", ["auto", "dense", "flex"])
def test_empty_tensors_give_zeros(backend: kernels.Backend) -> None:
    for m, n, batch in ((3, 0, 2), (0, 3, 2), (3, 3, 0)):
        q, k = torch.randn(batch, m, 2, 8, requires_grad=True), torch.randn(batch, n, 2, 8, requires_grad=True)
        out = attend(q, k, k, SegmentLayout.full(m, n), backend=backend)
        assert out.shape == q.shape
        assert (out == 0).all()
        assert (torch.autograd.grad(out.sum(), k)[0] == 0).all()


def test_chunks_that_fit_a_cuda_grid_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches, heads and ragged blocks beyond the limit are cut; with a limit of 3 everything is."""
    layouts = [layout for layout, _ in CASES.values()]
    inputs = [qkv(layout, 2) for layout in layouts]
    whole = [attend(*x, layout) for x, layout in zip(inputs, layouts, strict=True)]
    calls: list[tuple[int, int]] = []
    real = kernels._sdpa

    def counted(call: kernels._Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        calls.append((q.shape[0], q.shape[2]))
        return real(call, q, k, v, mask)

    monkeypatch.setattr(kernels, "MAX_GRID", 3)
    monkeypatch.setattr(kernels, "_sdpa", counted)
    for x, layout, expected in zip(inputs, layouts, whole, strict=True):
        torch.testing.assert_close(attend(*x, layout), expected, rtol=0, atol=1e-14)
    assert max(batch for batch, _ in calls) == 3
    assert max(heads for _, heads in calls) == 3
    masked = torch.rand(7, 1, 4, 5, generator=torch.Generator().manual_seed(0)) > 0.3
    q, k, v = torch.randn(7, 4, 5, 8), torch.randn(7, 5, 5, 8), torch.randn(7, 5, 5, 8)
    call = kernels._Call("sdpa", 0.0, 0.5)
    cut = kernels._in_chunks(lambda *x: real(call, *x), q, k, v, masked)
    torch.testing.assert_close(cut, real(call, q, k, v, masked), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 3, 20])
@pytest.mark.parametrize("name", ["sparse-causal", "temporal", "packed doors"])
def test_odd_head_dims(name: str, dim: int) -> None:
    layout, _ = CASES[name]
    inputs = qkv(layout, 1, dim)
    torch.testing.assert_close(attend(*inputs, layout), literal(*inputs, layout), rtol=0, atol=1e-13)


@NAMES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_low_precision_stays_near_float64(name: str, dtype: torch.dtype, training: bool) -> None:
    layout, _ = CASES[name]
    inputs = [x.detach().requires_grad_(training) for x in qkv(layout, 1, 32, dtype)]
    with torch.set_grad_enabled(training):
        out = attend(*inputs, layout)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    reference = attend(*exact, layout, backend="dense")
    assert out.dtype == dtype
    tolerance = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    torch.testing.assert_close(out.double(), reference, rtol=0, atol=tolerance)
    if training:
        for ours, true in zip(gradients(out, inputs), gradients(reference, exact), strict=True):
            torch.testing.assert_close(ours.double(), true, rtol=0, atol=8 * tolerance)


@pytest.mark.parametrize("name", ["frames", "temporal", "packed doors"])
@pytest.mark.parametrize("backend", ["auto", "dense"])
def test_autocast_runs_in_its_dtype(name: str, backend: kernels.Backend) -> None:
    layout, _ = CASES[name]
    inputs = qkv(layout, 1, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(*inputs, layout, backend=backend)
        exact = attend(*(x.detach().double() for x in inputs), layout, backend=backend)
    assert out.dtype == torch.bfloat16
    assert exact.dtype == torch.float64  # as SDPA, autocast leaves float64 alone
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=2e-2)
    assert all(g.dtype == torch.float32 for g in gradients(out, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # float32: plain products, float64: SDPA
@pytest.mark.parametrize("name", ["frames", "temporal", "doors"])
def test_dropout_keeps_the_mean_and_drops_weights(name: str, dtype: torch.dtype) -> None:
    layout, _ = CASES[name]
    inputs = qkv(layout, dtype=dtype)
    q, k, v = (x.repeat(4000, 1, 1, 1) for x in inputs)
    torch.manual_seed(0)
    for backend in ("auto", "dense"):
        dropped = attend(q, k, v, layout, backend=backend, dropout=0.25)
        kept = attend(*inputs, layout)[0]
        assert not torch.allclose(dropped[0], dropped[1])
        torch.testing.assert_close(dropped.mean(0), kept, rtol=0, atol=0.1)
    # With constant values the output is the sum of the kept weights / (1 - p): its mean is 1, its variance
    # p / (1 - p) times the sum of squared weights.
    flat = attend(torch.zeros_like(q), k, torch.ones_like(v), layout, dropout=0.25)
    keys = dense_mask(layout).sum(1)
    variance = flat.var(0).mean((1, 2))
    assert flat.mean().item() == pytest.approx(1.0, abs=0.01)
    torch.testing.assert_close(variance, (0.25 / 0.75 / keys).to(dtype), rtol=0.15, atol=0)


def test_scale_is_used_everywhere() -> None:
    for name in ("sparse-causal", "temporal", "packed doors"):
        layout, _ = CASES[name]
        inputs = qkv(layout)
        torch.testing.assert_close(
            attend(*inputs, layout, scale=2.0), literal(*inputs, layout, 2.0), atol=1e-13, rtol=0
        )


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["xformers", "varlen"])
@pytest.mark.parametrize("layout", [None, SegmentLayout.full(4), SegmentLayout.diagonal([1, 3])])
def test_named_backend_that_cannot_run_says_why(backend: kernels.Backend, layout: SegmentLayout | None) -> None:
    x = torch.randn(1, 4, 2, 8)
    with pytest.raises(RuntimeError, match=f"'{backend}' cannot run here: it has kernels for CUDA only"):
        attend(x, x, x, layout, backend=backend)


def test_bad_arguments_are_named() -> None:
    x, y = torch.randn(2, 4, 2, 8), torch.randn(2, 5, 2, 8)
    with pytest.raises(ValueError, match="backend: expected one of auto, xformers"):
        attend(x, x, x, backend="flash")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"found \(2, 4, 2, 8\), \(2, 5, 2, 8\), \(2, 4, 2, 8\)"):
        attend(x, y, x)
    with pytest.raises(ValueError, match=r"expected one dtype, found torch\.float32, torch\.float64"):
        attend(x, y.double(), y.double())
    with pytest.raises(ValueError, match="it has 4 query and 4 key tokens, the tensors have 4 and 5"):
        attend(x, y, y, SegmentLayout.full(4))
    with pytest.raises(ValueError, match=r"dropout: expected a probability in \[0, 1\), found 1.5"):
        attend(x, x, x, dropout=1.5)
    with pytest.raises(RuntimeError, match="FlexAttention has no dropout"):
        attend(x, x, x, backend="flex", dropout=0.1)


def test_report_and_doctor_tell_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    report = {(s.backend, s.device, s.dtype): s for s in kernel_report()}
    assert report["sdpa", "cpu", "bfloat16"] == KernelStatus("sdpa", "cpu", "bfloat16", True, "")
    assert not report["xformers", "cpu", "float32"].works
    assert "CUDA only" in report["xformers", "cpu", "float32"].reason
    assert report["flex", "cpu", "float32"].works == report["flex", "cpu", "float32"].reason.startswith("forward only")
    doctor()
    printed = capsys.readouterr().out
    for expected in ("trifold", f"torch {torch.__version__}", "CPU", "GPU", "bfloat16", "xformers", "sdpa"):
        assert expected in printed
    lines = kernel_lines([KernelStatus("a", "cpu", "float32", True, ""), KernelStatus("a", "cpu", "half", False, "no")])
    assert lines == ["  cpu   a         float32 yes  half no ", "        half: no"]

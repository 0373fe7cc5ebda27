"""The attention layer: diffusers' weights and numbers, autocast, checkpointing, compilation."""

from __future__ import annotations

import pytest
import torch
from attention_cases import CASES
from diffusers.models.attention_processor import Attention as DiffusersAttention
from torch.utils.checkpoint import checkpoint
from trifold.common.attention import Attention, SegmentLayout, dense_mask


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("context_dim", [None, 12])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_loads_diffusers_weights_and_gives_its_numbers(context_dim: int | None, qk_norm: bool, bias: bool) -> None:
    torch.manual_seed(0)
    theirs = DiffusersAttention(
        24, context_dim, heads=3, dim_head=8, bias=bias, qk_norm="rms_norm" if qk_norm else None
    )
    ours = Attention(24, heads=3, context_dim=context_dim, bias=bias, qk_norm=qk_norm)
    if qk_norm:  # weights of one would hide a norm that is not applied per head
        torch.nn.init.normal_(theirs.norm_q.weight)
        torch.nn.init.normal_(theirs.norm_k.weight)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, context = tokens(2, 6, 24), None if context_dim is None else tokens(2, 5, context_dim, seed=1)
    torch.testing.assert_close(ours(x, context), theirs(x, context), rtol=0, atol=1e-6)


def test_layout_says_what_diffusers_says_with_a_mask() -> None:
    torch.manual_seed(0)
    theirs = DiffusersAttention(24, heads=3, dim_head=8)
    ours = Attention(24, heads=3)
    ours.load_state_dict(theirs.state_dict())
    layout = SegmentLayout.sparse_causal(3, 4)
    x = tokens(2, 12, 24)
    bias = torch.zeros(12, 12).masked_fill(~dense_mask(layout), float("-inf"))
    # diffusers takes an additive mask [batch * heads, queries, keys]
    expected = theirs(x, attention_mask=bias.expand(6, 12, 12))
    torch.testing.assert_close(ours(x, layout=layout), expected, rtol=0, atol=1e-6)


def test_sizes_and_refusals() -> None:
    layer = Attention(10, heads=3, head_dim=5, context_dim=7, out_bias=False)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "to_q.weight": (15, 10),
        "to_k.weight": (15, 7),
        "to_v.weight": (15, 7),
        "to_out.0.weight": (10, 15),
    }
    assert "heads=3" in repr(layer)
    with pytest.raises(ValueError, match="query_dim 10 does not split into 3 heads"):
        Attention(10, heads=3)
    with pytest.raises(ValueError, match="it has 4 query and 4 key tokens"):
        layer(tokens(1, 5, 10), tokens(1, 5, 7), SegmentLayout.full(4))
    with pytest.raises(RuntimeError, match="cannot run here"):
        layer(tokens(1, 4, 10), tokens(1, 4, 7), backend="xformers")


def test_a_row_without_keys_gives_the_output_bias() -> None:
    layer = Attention(8, heads=2)
    out = layer(tokens(1, 5, 8), layout=SegmentLayout.graph([2, 3], [(), (1,)]))
    torch.testing.assert_close(out[0, :2], layer.to_out[0].bias.expand(2, 8), rtol=0, atol=0)


def test_dropout_is_for_training_only() -> None:
    layer = Attention(16, heads=2, dropout=0.5)
    x, layout = tokens(1, 12, 16), SegmentLayout.diagonal([5, 7])
    assert not torch.equal(layer(x, layout=layout), layer(x, layout=layout))
    layer.eval()
    assert torch.equal(layer(x, layout=layout), layer(x, layout=layout))


@pytest.mark.parametrize("name", ["frames", "temporal", "packed doors"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_autocast_and_checkpoint(name: str, qk_norm: bool) -> None:
    layout = CASES[name][0]
    torch.manual_seed(0)
    layer = Attention(32, heads=4, qk_norm=qk_norm)
    x = tokens(2, layout.num_queries, 32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x, layout=layout)
        again = checkpoint(layer, x, None, layout, use_reentrant=False)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x, layout=layout), rtol=0, atol=2e-2)
    assert torch.equal(half, again)
    weights = [x, *layer.parameters()]
    for plain, recomputed in zip(
        torch.autograd.grad(half.float().square().sum(), weights),
        torch.autograd.grad(again.float().square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("name", [None, "frames", "temporal", "sparse-causal", "text per clip"])
def test_compiles_in_one_graph(name: str | None) -> None:
    """Uniform layouts are traced through, tables and all, and the same layout still serves eager calls after."""
    torch._dynamo.reset()
    layout = None if name is None else CASES[name][0]
    if layout is not None:  # fresh tables, so that they are made inside the trace
        layout = SegmentLayout(layout.q_lens, layout.k_lens, layout.edges, layout.q_interleave, layout.k_interleave)
    layer = Attention(32, heads=4, qk_norm=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    m, n = (12, 9) if layout is None else (layout.num_queries, layout.num_keys)
    x, context = tokens(2, m, 32), tokens(2, n, 32, seed=1)
    out = compiled(x, context, layout)
    torch.testing.assert_close(out, layer(x, context, layout), rtol=0, atol=1e-6)
    out.sum().backward()
    assert layer.to_q.weight.grad is not None


def test_ragged_layouts_break_the_graph_and_run() -> None:
    torch._dynamo.reset()
    layer, layout = Attention(32, heads=4), CASES["packed doors"][0]
    x = tokens(1, layout.num_queries, 32)
    out = torch.compile(layer, backend="aot_eager")(x, layout=layout)
    torch.testing.assert_close(out, layer(x, layout=layout), rtol=0, atol=1e-6)

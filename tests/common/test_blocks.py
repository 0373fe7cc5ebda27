"""Blocks against the systems they come from: Stable Diffusion, Tune-A-Video, DiT, HouseDiffusion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from trifold.common.attention import Attention, SegmentLayout, dense_mask
from trifold.common.nn import (
    AttentionBranch,
    Block,
    FeedForwardBranch,
    SummedAttention,
    dit_block,
    house_diffusion_block,
    inflated_block,
    stable_diffusion_block,
)

# A clip of 3 frames of 16 tokens, width 32, text of width 16
FRAMES, TOKENS, DIM, TEXT = 3, 16, 32, 16


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def video_layouts(first: str = "spatial") -> dict[str, SegmentLayout]:
    spatial = SegmentLayout.diagonal([TOKENS] * FRAMES)
    sparse = SegmentLayout.sparse_causal(FRAMES, TOKENS)
    reads = {"spatial": spatial, "sparse_causal": sparse}[first]
    return {"sparse_causal": reads, "temporal": SegmentLayout.temporal(FRAMES, TOKENS)}


@pytest.fixture(scope="module")
def reference() -> BasicTransformerBlock:
    torch.manual_seed(0)
    return BasicTransformerBlock(DIM, 4, DIM // 4, cross_attention_dim=TEXT).eval()


# --- Stable Diffusion and its inflation -----------------------------------------------------------------------------


def test_stable_diffusion_block_is_diffusers(reference: BasicTransformerBlock) -> None:
    block = stable_diffusion_block(DIM, heads=4, context_dim=TEXT).eval()
    block.load_state_dict(reference.state_dict(), strict=True)
    x, text = noise(2, TOKENS, DIM), noise(2, 7, TEXT, seed=1)
    with torch.no_grad():
        expected = reference(x, encoder_hidden_states=text)
        assert torch.equal(block(x, contexts={"text": text}), expected)


def test_every_block_of_a_unet_loads_with_only_temporal_keys_missing() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT,
        attention_head_dim=4,
        norm_num_groups=8,
        sample_size=4,
    ).eval()
    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    assert len(blocks) == 4  # one down, one mid, two up
    for theirs in blocks:
        width = theirs.norm1.normalized_shape[0]
        ours = inflated_block(width, heads=theirs.attn1.heads, context_dim=TEXT).eval()
        missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
        assert not unexpected
        assert sorted(missing) == sorted(
            ["norm_temp.weight", "norm_temp.bias"]
            + [f"attn_temp.to_{name}.weight" for name in "qkv"]
            + ["attn_temp.to_out.0.weight", "attn_temp.to_out.0.bias"]
        )
        x, text = noise(2, FRAMES * TOKENS, width), noise(2, 7, TEXT, seed=1)
        with torch.no_grad():
            frames = x.reshape(2 * FRAMES, TOKENS, width)
            expected = theirs(frames, encoder_hidden_states=text.repeat_interleave(FRAMES, 0)).view_as(x)
            assert (ours(x, contexts={"text": text}, layouts=video_layouts()) - expected).abs().max() == 0


def test_sparse_causal_attention_is_the_concatenation_of_the_paper(reference: BasicTransformerBlock) -> None:
    block = inflated_block(DIM, heads=4, context_dim=TEXT).eval()
    block.load_state_dict(reference.state_dict(), strict=False)
    x, text = noise(2, FRAMES * TOKENS, DIM), noise(2, 7, TEXT, seed=1)
    clip = x.unflatten(1, (FRAMES, TOKENS))
    normed = reference.norm1(clip)
    first_and_previous = torch.cat([normed[:, [0] * FRAMES], normed[:, [0, 0, 1]]], dim=2)
    with torch.no_grad():
        h = reference.attn1(normed.flatten(0, 1), encoder_hidden_states=first_and_previous.flatten(0, 1))
        y = clip.flatten(0, 1) + h
        y = y + reference.attn2(reference.norm2(y), encoder_hidden_states=text.repeat_interleave(FRAMES, 0))
        expected = (y + reference.ff(reference.norm3(y))).view_as(x)
        got = block(x, contexts={"text": text}, layouts=video_layouts("sparse_causal"))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_temporal_attention_comes_last_and_reads_one_position_through_time() -> None:
    torch.manual_seed(0)
    block = inflated_block(DIM, heads=4, context_dim=TEXT).eval()
    spatial = stable_diffusion_block(DIM, heads=4, context_dim=TEXT, layout="sparse_causal").eval()
    spatial.load_state_dict(block.state_dict(), strict=False)
    nn.init.normal_(block.attn_temp.to_out[0].weight)
    x, text = noise(2, FRAMES * TOKENS, DIM), noise(2, 7, TEXT, seed=1)
    with torch.no_grad():
        y = spatial(x, contexts={"text": text}, layouts=video_layouts())
        columns = y.unflatten(1, (FRAMES, TOKENS)).transpose(1, 2).flatten(0, 1)  # [B * S, F, D]
        columns = columns + block.attn_temp(block.norm_temp(columns))
        expected = columns.unflatten(0, (2, TOKENS)).transpose(1, 2).flatten(1, 2)
        got = block(x, contexts={"text": text}, layouts=video_layouts())
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_zero_bias_is_the_identity_and_the_original_is_not() -> None:
    torch.manual_seed(0)
    x = noise(1, FRAMES * TOKENS, DIM)
    for zero_bias in (True, False):
        block = inflated_block(DIM, heads=4, context_dim=TEXT, zero_bias=zero_bias)
        out = block.attn_temp.to_out[0]
        assert not out.weight.any()
        added = block.attn_temp(block.norm_temp(x), layout=video_layouts()["temporal"])
        assert torch.equal(added, out.bias.expand_as(added))
        assert bool(out.bias.any()) is not zero_bias


def test_cross_attention_by_layout_gives_each_frame_its_own_text(reference: BasicTransformerBlock) -> None:
    block = stable_diffusion_block(
        DIM, heads=4, context_dim=TEXT, layout="sparse_causal", context_layout="prompts"
    ).eval()
    block.load_state_dict(reference.state_dict())
    x, texts = noise(1, FRAMES * TOKENS, DIM), noise(FRAMES, 7, TEXT, seed=1)
    layouts = {**video_layouts(), "prompts": SegmentLayout.cross([TOKENS] * FRAMES, [7] * FRAMES)}
    with torch.no_grad():
        got = block(x, contexts={"text": texts.flatten(0, 1)[None]}, layouts=layouts)
        expected = reference(x.unflatten(1, (FRAMES, TOKENS))[0], encoder_hidden_states=texts)
    torch.testing.assert_close(got, expected.flatten(0, 1)[None], atol=1e-6, rtol=0)


# --- DiT ------------------------------------------------------------------------------------------------------------


def randomise(module: nn.Module, scale: float = 0.2) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=scale, generator=generator)
    return module


def test_dit_block_is_the_formula() -> None:
    block = randomise(dit_block(DIM, heads=4, cond_dim=8))
    x, c = noise(2, 10, DIM), noise(2, 8, seed=1)
    chunks = block.modulation.linear(F.silu(c)).chunk(6, dim=1)
    shift1, scale1, gate1, shift2, scale2, gate2 = (chunk[:, None] for chunk in chunks)

    def norm(y: Tensor) -> Tensor:
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    q, k, v = (getattr(block.attn1, f"to_{n}")(norm(x) * (1 + scale1) + shift1) for n in "qkv")
    heads = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in (q, k, v))
    q, k, v = heads
    h = ((q @ k.mT / (DIM // 4) ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
    y = x + gate1 * block.attn1.to_out[0](h)
    first, second = block.ff.net[0].proj, block.ff.net[2]
    hidden = F.gelu(first(norm(y) * (1 + scale2) + shift2), approximate="tanh")
    expected = y + gate2 * second(hidden)
    torch.testing.assert_close(block(x, c), expected, atol=1e-5, rtol=1e-5)


def test_dit_block_starts_as_the_identity() -> None:
    block = dit_block(DIM, heads=4, cond_dim=8, context="map", context_dim=TEXT)
    x = noise(2, 10, DIM)
    assert torch.equal(block(x, noise(2, 8), {"map": noise(2, 5, TEXT)}), x)


def test_per_run_condition_equals_separate_samples() -> None:
    block = randomise(dit_block(DIM, heads=4, cond_dim=8, layout="sets"))
    lens = [3, 7, 5]
    samples, cond = [noise(1, n, DIM, seed=n) for n in lens], noise(3, 8)
    index = torch.repeat_interleave(torch.arange(3), torch.tensor(lens))
    layouts = {"sets": SegmentLayout.diagonal(lens)}
    packed = block(torch.cat(samples, 1), cond, layouts=layouts, cond_index=index)
    alone = [
        block(sample, cond[i : i + 1], layouts={"sets": SegmentLayout.full(lens[i])})
        for i, sample in enumerate(samples)
    ]
    torch.testing.assert_close(packed, torch.cat(alone, 1), atol=1e-5, rtol=1e-5)


# --- HouseDiffusion -------------------------------------------------------------------------------------------------

PLANS = [([4, 6, 4, 8], [(1, 3), (0,), (3,), (0, 2)]), ([5, 4, 4], [(1, 2), (0,), (0,)])]  # room lengths, doors
PADDED = 40


def house_layouts() -> dict[str, SegmentLayout]:
    return {
        "rooms": SegmentLayout.stack([SegmentLayout.diagonal(lens) for lens, _ in PLANS]),
        "doors": SegmentLayout.stack([SegmentLayout.graph(lens, doors) for lens, doors in PLANS]),
        "plan": SegmentLayout.diagonal([sum(lens) for lens, _ in PLANS]),
    }


def blocked(kind: str) -> Tensor:
    """The original's masks [B, 1, PADDED, PADDED]: True where attention is forbidden, padding included."""
    mask = torch.ones(len(PLANS), 1, PADDED, PADDED, dtype=torch.bool)
    for i, (lens, doors) in enumerate(PLANS):
        n = sum(lens)
        layout = {
            "rooms": SegmentLayout.diagonal(lens),
            "doors": SegmentLayout.graph(lens, doors),
            "plan": SegmentLayout.full(n),
        }[kind]
        mask[i, 0, :n, :n] = ~dense_mask(layout)
    return mask


def literal_attention(module: Attention, x: Tensor, mask: Tensor, heads: int) -> Tensor:
    q, k, v = (getattr(module, f"to_{n}")(x).unflatten(-1, (heads, -1)).transpose(1, 2) for n in "qkv")
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(mask, -1e9).softmax(-1)
    return module.to_out[0]((scores @ v).transpose(1, 2).flatten(2))


def test_house_diffusion_block_is_the_padded_original() -> None:
    torch.manual_seed(0)
    block = house_diffusion_block(64, heads=4).eval()
    lens = [sum(rooms) for rooms, _ in PLANS]
    padded = torch.zeros(2, PADDED, 64)
    for i, n in enumerate(lens):
        padded[i, :n] = noise(n, 64, seed=i)
    packed = torch.cat([padded[i, :n] for i, n in enumerate(lens)])[None]
    with torch.no_grad():
        norm = nn.InstanceNorm1d(PADDED)  # normalises the last axis of [B, M, D]; the number is not used
        n1 = norm(padded)
        y = padded
        for kind in ("doors", "rooms", "plan"):
            y = y + literal_attention(getattr(block, f"attn_{kind}"), n1, blocked(kind), heads=4)
        first, second = block.ff.net[0].proj, block.ff.net[2]
        assert first.out_features == 128
        y = y + second(F.relu(first(norm(y))))
        expected = torch.cat([y[i, :n] for i, n in enumerate(lens)])[None]
        got = block(packed, layouts=house_layouts())
    assert (got - expected).abs().max() <= 1e-6
    assert sorted({key.split(".")[0] for key in block.state_dict()}) == ["attn_doors", "attn_plan", "attn_rooms", "ff"]


def test_house_block_reads_only_along_its_three_layouts() -> None:
    torch.manual_seed(0)
    block = house_diffusion_block(16, heads=2, dropout=0.0)
    names = ("rooms", "doors", "plan")
    layouts = house_layouts() | {"plan": house_layouts()["rooms"]}  # without whole-plan attention
    x = noise(1, sum(layouts["rooms"].q_lens), 16).requires_grad_()
    may_read = torch.stack([dense_mask(layouts[name]) for name in names]).any(0)
    for i in (0, 5, 21, 30):
        (gradient,) = torch.autograd.grad(block(x, layouts=layouts)[0, i].sum(), x)
        assert torch.equal(gradient[0].abs().sum(-1) > 0, may_read[i])


def test_house_block_without_doors_is_the_sum_of_the_others() -> None:
    torch.manual_seed(0)
    whole = house_diffusion_block(16, heads=2, dropout=0.0)
    block = house_diffusion_block(16, heads=2, dropout=0.0, reads=("rooms", "plan"))
    missing, unexpected = block.load_state_dict(whole.state_dict(), strict=False)
    assert not missing
    assert {key.split(".")[0] for key in unexpected} == {"attn_doors"}
    for parameter in whole.attn_doors.to_out.parameters():
        nn.init.zeros_(parameter)
    x, layouts = noise(1, 35, 16), house_layouts()
    expected = whole(x, layouts=layouts)
    layouts.pop("doors")
    torch.testing.assert_close(block(x, layouts=layouts), expected, atol=1e-6, rtol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    block, x = house_diffusion_block(16, heads=2, dropout=0.3), noise(1, 35, 16)
    assert not torch.equal(block(x, layouts=house_layouts()), block(x, layouts=house_layouts()))
    block.eval()
    assert torch.equal(block(x, layouts=house_layouts()), block(x, layouts=house_layouts()))


def test_residual_dropout_keeps_the_mean_of_what_a_branch_adds() -> None:
    torch.manual_seed(0)
    block = Block(8, heads=2, branches=[FeedForwardBranch("ff", "norm1")], dropout=0.5)
    x = noise(1, 2, 8).expand(4000, -1, -1)
    added = (block(x) - x).detach()
    block.eval()
    expected = (block(x) - x).detach()
    zero = (added == 0).float().mean().item()
    assert zero == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(added.mean(0), expected.mean(0), atol=0.02, rtol=0)


# --- any block ------------------------------------------------------------------------------------------------------


def test_branches_are_attributes_and_shown_by_repr() -> None:
    branches = (AttentionBranch("a", "n1"), FeedForwardBranch("f", "n2", activation="relu"))
    block = Block(8, heads=2, branches=branches)
    assert block.branches == branches
    assert isinstance(block.a, Attention)
    assert "FeedForwardBranch(name='f'" in repr(block)


def test_half_precision_is_finite_and_keeps_the_stream() -> None:
    block = randomise(dit_block(DIM, heads=4, cond_dim=8), 0.05)
    x, c = noise(2, 10, DIM), noise(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(x, c)
    assert out.dtype == torch.float32  # the residual stream stays as precise as what came in
    torch.testing.assert_close(out, block(x, c), atol=0.03, rtol=0.03)
    half = block.to(torch.bfloat16)(x.bfloat16(), c.bfloat16())
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ((), "at least one"),
        ((FeedForwardBranch("ff", "norm1"), FeedForwardBranch("ff", "norm2")), r"repeated: \['ff'\]"),
        ((FeedForwardBranch("ff", "n"), AttentionBranch("a", "n")), r"repeated: \['n'\]"),
        ((SummedAttention(("a", "b"), "n", ("rooms",)),), "one layout per name"),
        ((AttentionBranch("a", "n", context="text"),), "context and context_dim go together"),
        ((AttentionBranch("a", "n", context_dim=4),), "context and context_dim go together"),
    ],
)
def test_bad_branches_are_refused(branches: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Block(8, heads=2, branches=branches)


def test_bad_modulation_is_refused() -> None:
    branch = (FeedForwardBranch("ff", "norm1"),)
    with pytest.raises(ValueError, match="needs cond_dim"):
        Block(8, heads=2, branches=branch, modulation="adaln_zero")
    with pytest.raises(ValueError, match="found 'film'"):
        Block(8, heads=2, branches=branch, modulation="film", cond_dim=8)


def test_missing_inputs_are_named() -> None:
    x = noise(1, FRAMES * TOKENS, DIM)
    block = inflated_block(DIM, heads=4, context_dim=TEXT)
    text = noise(1, 7, TEXT)
    with pytest.raises(ValueError, match=r"needs the layout 'sparse_causal', found \['temporal'\]"):
        block(x, contexts={"text": text}, layouts={"temporal": video_layouts()["temporal"]})
    with pytest.raises(ValueError, match=r"needs the context 'text', found \[\]"):
        block(x, layouts=video_layouts())
    with pytest.raises(ValueError, match="found one, expected none"):
        block(x, noise(1, 8), {"text": text}, video_layouts())
    with pytest.raises(ValueError, match="found none, expected one"):
        dit_block(DIM, heads=4, cond_dim=8)(x)

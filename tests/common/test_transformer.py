"""Token sets and the shared transformer: who reads whom, packing, alternation, checkpointing, compilation."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from trifold.common.attention import SegmentLayout, dense_mask
from trifold.common.nn import Block, house_diffusion_block
from trifold.common.tokens import Grid, PackedSet, pack, pack_padded
from trifold.common.transformer import BlockStack, TokenTransformer, TransformerConfig

SMALL = TransformerConfig(dim=16, depth=2, heads=2, cond_dim=6, out_dim=5)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_transformer(config: TransformerConfig, scale: float = 0.15) -> TokenTransformer:
    """Weights as after training: nothing zero, every branch open."""
    model = TokenTransformer(config)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=scale, generator=generator)
    return model


# --- token sets -----------------------------------------------------------------------------------------------------


def test_grid_folds_by_hand() -> None:
    grid = Grid(frames=2, positions=3)
    tokens = torch.arange(6.0).view(1, 6, 1)
    assert grid.num_tokens == 6
    assert grid.fold_frames(tokens).squeeze(-1).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert grid.fold_positions(tokens).squeeze(-1).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_grid_unfold_inverts_fold() -> None:
    grid, tokens = Grid(3, 4), noise(2, 12, 5)
    assert torch.equal(grid.unfold_frames(grid.fold_frames(tokens)), tokens)
    assert torch.equal(grid.unfold_positions(grid.fold_positions(tokens)), tokens)
    assert grid.split(tokens).shape == (2, 3, 4, 5)


def test_grid_layouts_say_what_the_folds_do() -> None:
    grid = Grid(3, 4)
    frame, position = torch.arange(12) // 4, torch.arange(12) % 4
    assert torch.equal(dense_mask(grid.layouts["spatial"]), frame[:, None] == frame)
    assert torch.equal(dense_mask(grid.layouts["temporal"]), position[:, None] == position)
    previous = (frame[:, None] - 1).clamp(min=0)
    assert torch.equal(dense_mask(grid.layouts["sparse_causal"]), (frame == 0) | (frame == previous))


def test_grid_refuses_other_shapes() -> None:
    grid = Grid(3, 4)
    with pytest.raises(ValueError, match=r"expected tokens \[B, 12, D\], found \[2, 13, 5\]"):
        grid.fold_frames(noise(2, 13, 5))
    with pytest.raises(ValueError, match=r"expected rows \[B \* 3, 4, D\], found \[4, 4, 5\]"):
        grid.unfold_frames(noise(4, 4, 5))
    with pytest.raises(ValueError, match=r"expected rows \[B \* 4, 3, D\]"):
        grid.unfold_positions(noise(4, 4, 5))
    with pytest.raises(ValueError, match="at least 1"):
        Grid(0, 4)


def test_pack_and_unpack() -> None:
    rows = [noise(n, 3, seed=n) for n in (2, 5, 1)]
    packed = pack(rows)
    assert packed.lens == (2, 5, 1)
    assert packed.tokens.shape == (1, 8, 3)
    assert packed.sample_index.tolist() == [0, 0, 1, 1, 1, 1, 1, 2]
    assert packed.layout == SegmentLayout.diagonal([2, 5, 1])
    assert all(torch.equal(a, b) for a, b in zip(packed.unpack(), rows, strict=True))
    doubled = packed.with_tokens(2 * packed.tokens).unpack()
    assert torch.equal(doubled[1], 2 * rows[1])
    assert packed.with_tokens(packed.tokens).layout is packed.layout
    assert Grid(3, 4).layouts["temporal"] is Grid(3, 4).layouts["temporal"]


def test_packed_means_and_spread() -> None:
    packed = PackedSet(torch.tensor([[[1.0], [3.0], [8.0]]]), (2, 0, 1))
    assert packed.mean().tolist() == [[2.0], [0.0], [8.0]]
    assert packed.spread(torch.tensor([[1.0], [2.0], [3.0]])).tolist() == [[[1.0], [1.0], [3.0]]]


def test_padding_round_trip() -> None:
    rows = [noise(n, 3, seed=n) for n in (2, 5, 1)]
    padded, valid = pack(rows).pad(7)
    assert padded.shape == (3, 7, 3)
    assert valid.sum(1).tolist() == [2, 5, 1]
    assert not padded[~valid].any()
    assert torch.equal(padded[1, :5], rows[1])
    again = pack_padded(padded, valid)
    assert again.lens == (2, 5, 1)
    assert torch.equal(again.tokens, pack(rows).tokens)
    assert pack(rows).pad()[0].shape[1] == 5


def test_packed_sets_refuse_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"expected tokens \[1, 4, ...\], found \[1, 5, 2\]"):
        PackedSet(noise(1, 5, 2), (1, 3))
    with pytest.raises(ValueError, match="longest sample has 3"):
        PackedSet(noise(1, 4, 2), (1, 3)).pad(2)
    with pytest.raises(ValueError, match="found none"):
        pack([])
    with pytest.raises(ValueError, match=r"expected a boolean mask \[2, 4\]"):
        pack_padded(noise(2, 4, 3), torch.ones(2, 4))


# --- the transformer ------------------------------------------------------------------------------------------------


def test_a_new_model_is_the_identity_inside_and_zero_outside() -> None:
    model = TokenTransformer(SMALL)
    x, cond = noise(2, 7, 16), noise(2, 6)
    assert torch.equal(model.blocks(x, cond), x)
    assert torch.equal(model(x, cond), torch.zeros(2, 7, 5))
    # and it can leave that point: the output layer is the first to get a gradient
    model(x, cond).sub(1).square().mean().backward()
    assert model.proj_out.weight.grad is not None
    assert model.proj_out.weight.grad.abs().sum() > 0


def test_permuting_tokens_permutes_the_output() -> None:
    model, x, cond = random_transformer(SMALL), noise(2, 9, 16), noise(2, 6)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(x[:, order], cond), model(x, cond)[:, order], atol=1e-5, rtol=1e-5)


def test_packed_equals_padded_equals_alone() -> None:
    lens = (3, 8, 5)
    packed = pack([noise(n, 16, seed=n) for n in lens])
    cond = noise(3, 6)
    model = random_transformer(replace(SMALL, pattern=("samples",)))
    got = packed.with_tokens(model(packed.tokens, cond, {"samples": packed.layout}, cond_index=packed.sample_index))
    padded, valid = packed.pad()
    # In the padded batch a sample's tokens read its tokens, and padding reads padding: one row of real and fake runs.
    runs = [run for n in lens for run in (n, 8 - n)]
    as_row = model(
        padded.flatten(0, 1)[None],
        cond,
        {"samples": SegmentLayout.diagonal([n for n in runs if n])},
        cond_index=torch.arange(3).repeat_interleave(8),
    )
    torch.testing.assert_close(as_row.view(3, 8, -1)[valid], got.tokens[0], atol=1e-5, rtol=1e-5)
    alone_model = TokenTransformer(SMALL)
    alone_model.load_state_dict(model.state_dict())
    for i, (sample, out) in enumerate(zip(packed.unpack(), got.unpack(), strict=True)):
        torch.testing.assert_close(alone_model(sample[None], cond[i : i + 1])[0], out, atol=1e-5, rtol=1e-5)


def test_nothing_leaks_between_packed_samples() -> None:
    packed = pack([noise(n, 16, seed=n) for n in (3, 6, 4)])
    cond, x = noise(3, 6).requires_grad_(), packed.tokens.clone().requires_grad_()
    model = random_transformer(replace(SMALL, pattern=("samples",)))
    out = model(x, cond, {"samples": packed.layout}, cond_index=packed.sample_index)
    for sample in range(3):
        mine = packed.sample_index == sample
        by_token, by_cond = torch.autograd.grad(out[0, mine].square().sum(), (x, cond), retain_graph=True)
        assert torch.equal(by_token[0].abs().sum(-1) > 0, mine)
        assert torch.equal(by_cond.abs().sum(-1) > 0, torch.arange(3) == sample)


def test_alternation_equals_folding_by_hand() -> None:
    grid = Grid(frames=3, positions=4)
    config = replace(SMALL, depth=4, pattern=("spatial", "temporal"))
    model = random_transformer(config)
    x, cond = noise(2, 12, 16), noise(2, 6)
    plain = [replace(config, pattern=(None,)).block(depth) for depth in range(4)]
    y = x
    for depth, block in enumerate(plain):
        block.load_state_dict(model.blocks[depth].state_dict())
        if depth % 2 == 0:
            y = grid.unfold_frames(block(grid.fold_frames(y), cond.repeat_interleave(3, 0)))
        else:
            y = grid.unfold_positions(block(grid.fold_positions(y), cond.repeat_interleave(4, 0)))
    torch.testing.assert_close(model.blocks(x, cond, layouts=grid.layouts), y, atol=1e-5, rtol=1e-5)


def test_frames_can_have_their_own_noise_levels() -> None:
    grid = Grid(frames=3, positions=4)
    model = random_transformer(replace(SMALL, pattern=("spatial",)))
    x, cond = noise(2, 12, 16), noise(2, 3, 6)
    by_run = model(x, cond, grid.layouts, cond_index=torch.arange(3).repeat_interleave(4))
    by_token = model(x, cond.repeat_interleave(4, 1), grid.layouts)
    by_frame = grid.unfold_frames(model(grid.fold_frames(x), cond.flatten(0, 1), {"spatial": SegmentLayout.full(4)}))
    torch.testing.assert_close(by_run, by_token, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(by_run, by_frame, atol=1e-5, rtol=1e-5)


def test_cross_attention_reads_the_context() -> None:
    model = random_transformer(replace(SMALL, context_dim=7, context_layout="captions"))
    x, context, cond = noise(1, 6, 16), noise(1, 5, 7).requires_grad_(), noise(1, 6)
    layouts = {"captions": SegmentLayout.cross([6], [2, 3], reads=[(1,)])}  # two captions, only the second is read
    (gradient,) = torch.autograd.grad(model(x, cond, layouts, context=context).square().sum(), context)
    assert (gradient[0].abs().sum(-1) > 0).tolist() == [False, False, True, True, True]


def test_without_modulation_the_norms_are_affine_and_no_condition_is_taken() -> None:
    model = random_transformer(replace(SMALL, modulation=None))
    assert "blocks.0.norm1.weight" in model.state_dict()
    assert "norm_out.weight" in model.state_dict()
    assert model(noise(2, 7, 16)).shape == (2, 7, 5)
    with pytest.raises(ValueError, match="expected none"):
        model(noise(2, 7, 16), noise(2, 6))


def test_bad_arguments_are_refused() -> None:
    x, cond = noise(2, 7, 16), noise(2, 6)
    with pytest.raises(ValueError, match=r"context_dim is None, found \[2, 3, 4\]"):
        TokenTransformer(SMALL)(x, cond, context=noise(2, 3, 4))
    with pytest.raises(ValueError, match="context_dim is 4, found none"):
        TokenTransformer(replace(SMALL, context_dim=4))(x, cond)
    with pytest.raises(ValueError, match=r"needs the layout 'spatial', found \[\]"):
        TokenTransformer(replace(SMALL, pattern=("spatial",)))(x, cond)
    with pytest.raises(ValueError, match="must not be empty"):
        replace(SMALL, pattern=())


def gradients(model: nn.Module, *inputs: object, **named: object) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(11)
    model(*inputs, **named).square().mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_gives_the_same_gradients(dropout: float) -> None:
    config = replace(SMALL, context_dim=7, dropout=dropout, attention_dropout=dropout)
    plain = random_transformer(config)
    saving = TokenTransformer(replace(config, gradient_checkpointing=True))
    saving.load_state_dict(plain.state_dict())
    x, cond, context = noise(2, 6, 16), noise(2, 6), noise(2, 5, 7)
    expected = gradients(plain, x, cond, context=context)
    got = gradients(saving, x, cond, context=context)
    assert len(expected) == len(list(plain.parameters()))
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    with torch.no_grad():
        saving.eval()
        plain.eval()
        assert torch.equal(saving(x, cond, context=context), plain(x, cond, context=context))


def test_checkpointing_trains_a_block_whose_input_needs_no_gradient() -> None:
    """Reentrant checkpoints drop these gradients, and a quarter of Tune-A-Video's tensors with them."""
    model = TokenTransformer(replace(SMALL, gradient_checkpointing=True))
    nn.init.ones_(model.proj_out.weight)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    query = model.blocks[0].modulation.linear
    query.requires_grad_(True)
    model(noise(2, 6, 16), noise(2, 6)).square().mean().backward()
    assert query.weight.grad is not None
    assert query.weight.grad.abs().sum() > 0


def test_a_stack_takes_blocks_of_any_kind() -> None:
    layouts = {name: SegmentLayout.diagonal([3, 4]) for name in ("rooms", "doors", "plan")}
    blocks: list[Block] = [house_diffusion_block(16, heads=2, dropout=0.0) for _ in range(2)]
    x = noise(1, 7, 16)
    expected = blocks[1](blocks[0](x, layouts=layouts), layouts=layouts)
    assert torch.equal(BlockStack(blocks)(x, layouts=layouts), expected)


def test_autocast_is_finite_and_close() -> None:
    model = random_transformer(replace(SMALL, depth=4))
    packed = pack([50 * noise(n, 16, seed=n) for n in (3, 6, 4)])
    cond = 10 * noise(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(packed.tokens, cond, cond_index=packed.sample_index)
        out.float().square().mean().backward()
    expected = model(packed.tokens, cond, cond_index=packed.sample_index)
    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (out - expected).norm() / expected.norm() < 0.05


def test_dynamo_takes_a_dense_model_whole() -> None:
    model, x, cond = random_transformer(SMALL), noise(2, 7, 16), noise(2, 6)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, cond), model(x, cond), atol=1e-6, rtol=1e-6)


def test_compiled_alternation_equals_eager_with_gradients() -> None:
    grid = Grid(3, 4)
    model = random_transformer(replace(SMALL, pattern=("spatial", "temporal")))
    x, cond = noise(2, 12, 16), noise(2, 6)
    expected = gradients(model, x, cond, grid.layouts)
    got = gradients(torch.compile(model, backend="aot_eager"), x, cond, grid.layouts)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_inductor_equals_eager() -> None:
    model, x, cond = random_transformer(replace(SMALL, depth=1)), noise(2, 7, 16), noise(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(x, cond), model(x, cond), atol=1e-5, rtol=1e-5)

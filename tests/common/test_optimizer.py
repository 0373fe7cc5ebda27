"""Muon beside AdamW: which parameters go where, what a step does, exact resume."""

import pytest
import torch
from tiny_training import Points, Tiny, config_for, loss_fn
from torch import nn
from trifold.common.nn import AttentionBranch, Block, FeedForwardBranch
from trifold.common.train import train
from trifold.common.train.muon import Muon, orthogonalised
from trifold.common.train.optimizer import MuonAndAdamW, block_matrices, build_optimizer
from trifold.common.weights import WeightsError


class TinyBlocks(nn.Module):
    """A block between two layers that are not in one."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.inner = nn.Linear(4, 16)
        branches = (AttentionBranch("attn1", "norm1"), FeedForwardBranch("ff", "norm3", 2, "gelu_tanh"))
        self.block = Block(8, heads=2, branches=branches, bias=True)
        self.outer = nn.Linear(8, 4)

    def forward(self, x):
        return self.outer(self.block(self.inner(x).unflatten(1, (2, 8)))[:, 0])


def muon_config(folder, **changes):
    return config_for(folder, optimizer="muon", **changes)


def test_block_matrices_and_nothing_else_are_muons(tmp_path):
    model = TinyBlocks()
    names = {id(p): name for name, p in model.named_parameters()}
    chosen = [names[id(p)] for p in block_matrices(model)]
    assert chosen
    assert all(name.startswith("block.") and name.endswith("weight") for name in chosen)
    assert all(p.ndim == 2 for p in block_matrices(model))
    optimizer = build_optimizer(muon_config(tmp_path), model)
    assert isinstance(optimizer, MuonAndAdamW)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(names)
    model.block.requires_grad_(False)
    with pytest.raises(ValueError, match="muon is for matrices of blocks, and TinyBlocks has none"):
        build_optimizer(muon_config(tmp_path), model)


def test_an_update_of_a_matrix_has_equal_singular_values_and_the_size_of_adams(tmp_path):
    model = TinyBlocks()
    matrix = block_matrices(model)[0]
    optimizer = build_optimizer(muon_config(tmp_path, adam_weight_decay=0.0), model)
    before = matrix.detach().clone()
    generator = torch.Generator().manual_seed(1)
    matrix.grad = torch.randn(matrix.shape, generator=generator) * 1e-3
    optimizer.step()
    update = (matrix.detach() - before) / 1e-2  # the learning rate
    values = torch.linalg.svdvals(update) / (0.2 * max(matrix.shape) ** 0.5)
    assert values.min() > 0.5  # Newton-Schulz brings them near one, not onto it
    assert values.max() < 1.3
    assert (update * matrix.grad).sum() < 0


def test_both_parts_follow_the_learning_rate_of_the_run(tmp_path):
    model = TinyBlocks()
    optimizer = build_optimizer(muon_config(tmp_path, adam_weight_decay=0.0), model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    matrices = {id(p) for p in block_matrices(model)}
    assert moved == [id(p) in matrices for p in model.parameters()]


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    whole = train(muon_config(tmp_path / "whole"), TinyBlocks(), loss_fn, Points())
    train(muon_config(tmp_path / "parts", max_train_steps=2), TinyBlocks(), loss_fn, Points())
    again = muon_config(tmp_path / "parts", resume_from_checkpoint="latest")
    resumed = train(again, TinyBlocks(seed=9), loss_fn, Points())
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    first, second = (torch.load(r.checkpoint / "optimizer.pt", weights_only=True) for r in (whole, resumed))
    for part in ("muon", "adamw"):
        old, new = (state["optimizer"][part]["state"] for state in (first, second))
        assert old.keys() == new.keys()
        for key, moments in old.items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(new[key][k])) for k, v in moments.items())


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    train(config_for(tmp_path, max_train_steps=2), TinyBlocks(), loss_fn, Points())
    with pytest.raises(WeightsError, match=r"optimizer\.pt: the state of another optimizer"):
        train(muon_config(tmp_path, resume_from_checkpoint="latest"), TinyBlocks(), loss_fn, Points())
    with pytest.raises(ValueError, match="Tiny has none to train"):
        train(muon_config(tmp_path / "other"), Tiny(), loss_fn, Points())


def test_matrices_of_one_shape_move_together_as_torchs_muon_moves_each():
    torch.manual_seed(0)
    shapes = [(6, 10), (10, 6), (6, 10), (8, 8)]
    ours, theirs = (
        [nn.Parameter(torch.randn(s, generator=torch.Generator().manual_seed(i))) for i, s in enumerate(shapes)]
        for _ in range(2)
    )
    options = {"lr": 0.05, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    steps = [Muon(ours, **options), torch.optim.Muon(theirs, **options)]
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        for optimizer in steps:
            optimizer.step()
    assert steps[0].state_dict()["param_groups"] == steps[1].state_dict()["param_groups"]
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(steps[0].state[a]["momentum_buffer"], steps[1].state[b]["momentum_buffer"])
        assert float((a - b).detach().abs().max()) < 0.02 * 3 * 0.05 * 10**0.5  # torch's products are in bfloat16


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7)])
def test_orthogonalising_keeps_singular_vectors_and_puts_values_through_the_polynomial(shape, monkeypatch):
    monkeypatch.setattr("trifold.common.train.muon.multiplies_bfloat16", lambda kind: False)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    a, b, c = coefficients = (3.4445, -4.7750, 2.0315)
    u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    expected = u @ torch.diag_embed(s) @ v
    assert torch.allclose(orthogonalised(x, coefficients, 5).double(), expected, atol=2e-5)

"""The short way through the first block is the block itself, costs less, and is taken only where it holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from trifold.common.attention import dense_mask
from trifold.floorplan import network, tokens
from trifold.floorplan.diagram import BubbleDiagram
from trifold.floorplan.first_block import FirstBlock
from trifold.floorplan.model import HouseDiffusion
from trifold.floorplan.tokens import PlanCondition, pack

from .tiny import random_spec, tiny_model

SPECS = [random_spec(1, 4), random_spec(2, 7, isolated=2), random_spec(3, 5, living=False, isolated=1)]
WIDE: dict[str, Any] = {"index_encoding": "one_hot", "width": 128, "num_heads": 2}  # heads that read z itself
VARIANTS: list[dict[str, Any]] = [
    {},
    {"fourier_bands": 3, "with_sizes": True, "index_encoding": "one_hot"},
    {"door_attention": False, "edge_points": 0},
    {"analog_bits": True},
    {"edge_points": 1, "num_heads": 1, "width": 128},
    WIDE,
]


def inputs(model: HouseDiffusion) -> tuple[torch.Tensor, PlanCondition]:
    """Noisy corners and a condition that no short way was made for."""
    config = model.config
    cond = pack(SPECS, index_encoding=config.index_encoding, with_sizes=config.with_sizes)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, sum(cond.plan_lens), config.channels, generator=generator), cond


def multiplications(model: HouseDiffusion, x: torch.Tensor, cond: PlanCondition) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.net(x, torch.tensor(300), cond)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("piece", [1, 10_000])
def test_equal_to_the_block_to_rounding(changes: dict[str, Any], piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "PIECE_TOKENS", piece)
    model = tiny_model(**changes)
    x, cond = inputs(model)
    with torch.no_grad():
        for layer in (model.net.coordinate_in, model.net.condition_in):
            layer.bias.add_(1.0)  # a part that all channels share, which the norm takes away
        embedded = model.net.embed(cond)
        assert embedded.first_block is not None
        for t in (0, 300, 999):
            found, expected = model.net(x, torch.tensor(t), embedded), model.net(x, torch.tensor(t), cond)
            torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
        exact = model.double().net(x.double(), torch.tensor(300), cond)
        short = model.net(x.double(), torch.tensor(300), model.net.embed(cond))
        torch.testing.assert_close(short, exact, atol=2e-6, rtol=0)


def test_wide_products_of_the_first_block_are_gone() -> None:
    model = tiny_model(width=256, num_heads=4, num_layers=1)  # heads of 64 channels
    x, cond = inputs(model)
    with torch.no_grad():
        embedded = model.net.embed(cond)
    corners, width, outputs = x.shape[1], 256, 9 * 256
    numbers = 4 + int(cond.features.any(0).sum())  # two ends of an edge, and what any corner has
    assert 64 < numbers < model.config.token_channels + model.config.condition_channels - 14
    saved = corners * outputs * width + corners * width * model.config.condition_channels
    paid = corners * outputs * (numbers + 2)  # the counter leaves out the time's matrix times vector
    assert multiplications(model, x, cond) - multiplications(model, x, embedded) == saved - paid > 0


def test_wide_heads_read_the_numbers_themselves() -> None:
    model = tiny_model(**WIDE, num_layers=1)
    x, cond = inputs(model)
    size = 4 + int(cond.features.any(0).sum()) + 2
    assert size < 64
    for heads in (1, 2):  # with the same width
        model = tiny_model(**{**WIDE, "num_heads": heads}, num_layers=1)
        with torch.no_grad():
            embedded = model.net.embed(cond)
        corners, width, layouts = x.shape[1], 128, cond.layouts.values()
        pairs = sum(int(dense_mask(layout).sum()) for layout in layouts)
        block = 3 * corners * 4 * width * width + 2 * pairs * width
        short = 3 * corners * heads * size * (size + width) + 2 * pairs * heads * size
        once = 3 * (heads * size * size * width // heads + width * size * width)  # composing for a time
        known = corners * width * model.config.condition_channels
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            found = multiplications(model, x, cond) - multiplications(model, x, embedded)
        assert found > 0.9 * (known + block - short - once) > 0


@pytest.mark.parametrize("changes", [{"width": 64}, WIDE])
def test_half_precision_is_as_near_as_the_block(changes: dict[str, Any]) -> None:
    model = tiny_model(**changes)
    x, cond = inputs(model)
    with torch.no_grad():
        exact = model.net(x, torch.tensor(300), cond)
        with torch.autocast("cpu", torch.bfloat16):
            short, own = (model.net(x, torch.tensor(300), c) for c in (model.net.embed(cond), cond))
    assert (short - exact).norm() < 1.2 * (own - exact).norm()


def test_gradients_and_one_time_for_each_plan_take_the_block() -> None:
    model = tiny_model()
    x, cond = inputs(model)
    with torch.no_grad():
        embedded = model.net.embed(cond)
        times = torch.tensor([3, 300, 900])
        assert torch.equal(model.net(x, times, embedded), model.net(x, times, cond))
    assert model.net.embed(cond).first_block is None
    model.net(x, torch.tensor(300), embedded).sum().backward()
    first: Any = model.net.blocks[0]
    assert first.attn_doors.to_q.weight.grad.abs().max() > 0
    # Dropout is the block's business too.
    model = tiny_model(dropout=0.5).train()
    with torch.no_grad():
        embedded = model.net.embed(cond)
        torch.manual_seed(0)
        found = model.net(x, torch.tensor(300), embedded)
        torch.manual_seed(0)
        assert torch.equal(found, model.net(x, torch.tensor(300), cond))


def test_sampling_composes_it_once_and_takes_it_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made, taken = [], []

    class Counted(FirstBlock):
        def __init__(self, *args: Any) -> None:
            made.append(1)
            super().__init__(*args)

        def at(self, time: torch.Tensor) -> torch.Tensor:
            taken.append(1)
            return super().at(time)

    monkeypatch.setattr(network, "FirstBlock", Counted)
    tiny_model().generate(BubbleDiagram.example("two_bedrooms"), steps=4)
    assert len(made) == 1
    assert len(taken) == 4

"""SegmentLayout: what each constructor means, what is refused, and what it costs to make one."""

from __future__ import annotations

import copy
import pickle
import time

import numpy as np
import pytest
import torch
from attention_cases import CASES, DOORS, ROOMS, plans
from trifold.common.attention import SegmentLayout, dense_mask


def literal_mask(layout: SegmentLayout) -> torch.Tensor:
    """The definition in loops, for layouts without interleaving."""
    mask = torch.zeros(layout.num_queries, layout.num_keys, dtype=torch.bool)
    q_start = np.cumsum([0, *layout.q_lens])
    k_start = np.cumsum([0, *layout.k_lens])
    for i, row in enumerate(layout.edges):
        for j in row:
            mask[q_start[i] : q_start[i + 1], k_start[j] : k_start[j + 1]] = True
    return mask


@pytest.mark.parametrize("name", [n for n, (layout, _) in CASES.items() if not layout.q_interleave])
def test_dense_mask_is_the_definition(name: str) -> None:
    layout = CASES[name][0]
    assert torch.equal(dense_mask(layout), literal_mask(layout))


def test_sparse_causal_reads_first_and_previous_frame() -> None:
    frames = dense_mask(SegmentLayout.sparse_causal(4, 1)).int().tolist()
    assert frames == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]]


def test_temporal_reads_own_position_in_frame_major_order() -> None:
    frames, tokens = 3, 4
    token = torch.arange(frames * tokens)
    assert torch.equal(dense_mask(SegmentLayout.temporal(frames, tokens)), (token % tokens)[:, None] == token % tokens)


def test_cross_shares_frames_out_over_prompts() -> None:
    assert SegmentLayout.cross([2] * 4, [3, 5]).edges == ((0,), (0,), (1,), (1,))
    assert SegmentLayout.cross([2, 2], [3, 5], [1, (0, 1)]).edges == ((1,), (0, 1))
    with pytest.raises(ValueError, match="3 query runs do not divide evenly over 2 key runs"):
        SegmentLayout.cross([2] * 3, [1, 1])


def test_stack_is_block_diagonal_for_every_kind() -> None:
    parts = [layout for layout, _ in CASES.values()]
    assert torch.equal(
        dense_mask(SegmentLayout.stack(parts)), torch.block_diag(*(dense_mask(part).int() for part in parts)).bool()
    )


def test_stack_equals_the_checked_constructor() -> None:
    stacked = SegmentLayout.stack([SegmentLayout.diagonal([2, 3]), SegmentLayout.temporal(2, 3)])
    built = SegmentLayout((2, 3, 2, 2, 2), (2, 3, 2, 2, 2), ((0,), (1,), (2,), (3,), (4,)), (1, 1, 3), (1, 1, 3))
    assert stacked == built
    assert hash(stacked) == hash(built)
    assert SegmentLayout.stack([]) == SegmentLayout((), (), ())


def test_lists_and_numpy_integers_are_accepted() -> None:
    layout = SegmentLayout(list(np.array([2, 3])), [2, 3], [[0], [1]])  # type: ignore[arg-type]
    assert layout == SegmentLayout.diagonal([2, 3])
    assert layout in {SegmentLayout.diagonal([2, 3])}


def test_interleaves_of_one_are_no_interleaves() -> None:
    assert SegmentLayout.temporal(5, 1) == SegmentLayout.full(5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (((2, -1), (2,), ((0,), (0,))), r"q_lens\[1\] is -1"),
        (((2.5,), (2,), ((0,),)), "q_lens: expected integers"),
        (((2,), ((2,),), ((0,),)), "k_lens: expected integers"),
        (((2,), (2,), ((0,), (0,))), "expected one tuple per query run, found 2 for 1"),
        (((2, 2), (2,), ((0,), (1,))), r"edges\[1\] names key run 1, but there are 1 key runs"),
        (((2,), (2,), ((-1,),)), r"edges\[0\] names key run -1"),
        (((2,), (), ((0,),)), "there are 0 key runs"),
        (((2,), (2,), ((0.5,),)), "edges: expected integers, found float64"),
        (((2, 2), (2, 2), ((0,), (0, 0, 1))), r"edges\[1\] = \(0, 0, 1\) repeats some key runs and not others"),
        (((2, 2), (2, 2), ((0,), (1,)), (3,)), r"q_interleave: group sizes \(3,\) must be positive and add up to 2"),
        (((2, 2), (2, 2), ((0,), (1,)), (2, 0)), "q_interleave: group sizes"),
        (((2, 2), (2, 3), ((0,), (1,)), (), (2,)), "k_interleave: runs 0 to 1 alternate"),
    ],
)
def test_what_does_not_fit_is_refused(fields: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentLayout(*fields)


def test_equal_repeats_are_one_edge() -> None:
    twice = SegmentLayout((2, 2), (3, 3), ((0, 0), (1, 0, 1, 0)))
    assert torch.equal(dense_mask(twice), dense_mask(SegmentLayout((2, 2), (3, 3), ((0,), (0, 1)))))


def test_tables_live_and_die_with_the_layout() -> None:
    layout, made = SegmentLayout.graph(ROOMS, DOORS), []
    assert layout.memo("x", lambda: made.append(1) or 5) == 5
    assert layout.memo("x", lambda: made.append(1) or 6) == 5
    assert len(made) == 1
    for other in (pickle.loads(pickle.dumps(layout)), copy.deepcopy(layout)):
        assert other == layout
        assert hash(other) == hash(layout)
        assert other.memo("x", lambda: 7) == 7  # tables are not carried along


def test_tables_made_in_inference_mode_serve_training_later() -> None:
    layout = SegmentLayout.graph(ROOMS, DOORS)
    with torch.inference_mode():
        index = layout.memo("index", lambda: torch.arange(3))
    x = torch.randn(3, requires_grad=True)
    x[index].mul(2).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 2.0))


def test_repeat_is_remembered() -> None:
    layout = SegmentLayout.graph(ROOMS, DOORS)
    assert layout.repeat(1) is layout
    assert layout.repeat(3) is layout.repeat(3)
    assert layout.repeat(3) == SegmentLayout.stack([layout] * 3)


def test_packing_512_plans_and_hashing_them_is_cheap() -> None:
    parts = [plans(1, seed) for seed in range(512)]
    start = time.process_time()
    stacked = SegmentLayout.stack(parts)
    built = time.process_time() - start
    first = hash(stacked)
    start = time.process_time()
    for _ in range(1000):
        assert hash(stacked) == first
    assert built < 0.1  # 3 ms where this was written
    assert time.process_time() - start < 0.05  # hashing 3,072 runs afresh each time would take a second

"""Packing: features by definition, layouts by brute force, no information between plans packed together."""

import math

import numpy as np
import pytest
import torch
from trifold.common.attention import dense_mask
from trifold.floorplan import tokens
from trifold.floorplan.rooms import RoomType
from trifold.floorplan.tokens import (
    INDEX_FEATURES,
    NUM_TYPES,
    SIZE_FEATURES,
    PlanSpec,
    index_features,
    pack,
    size_features,
)

from .tiny import random_spec, tiny_model

SPECS = [random_spec(1, 4), random_spec(2, 7, isolated=2), random_spec(3, 5, living=False, isolated=1)]


def blocks(specs):
    """[start, end) of every plan's corners in the packed row."""
    ends = np.cumsum([spec.num_tokens for spec in specs]).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


# ------------------------------------------------------------------------------------------------------ features


def test_packing_is_what_each_plan_packs_to_put_side_by_side():
    whole = pack(SPECS, index_encoding="sincos", with_sizes=True)
    node = 0
    for p, (spec, (start, end)) in enumerate(zip(SPECS, blocks(SPECS), strict=True)):
        alone = pack([spec], index_encoding="sincos", with_sizes=True)
        assert torch.equal(whole.features[start:end], alone.features)
        assert torch.equal(whole.next_corner[start:end] - start, alone.next_corner)
        assert torch.equal(whole.node_index[start:end] - node, alone.node_index)
        assert (whole.plan_index[start:end] == p).all()
        for name, layout in alone.layouts.items():
            rows = dense_mask(whole.layouts[name])[start:end]
            assert torch.equal(rows[:, start:end], dense_mask(layout)), name
            assert not rows[:, :start].any(), name
            assert not rows[:, end:].any(), name
        node += len(spec.types)
    assert whole.plan_lens == tuple(s.num_tokens for s in SPECS)
    assert sum(whole.node_lens) == whole.features.shape[0] == sum(whole.plan_lens)


def test_layouts_by_brute_force():
    spec = SPECS[1]
    cond = pack([spec])
    node = cond.node_index.tolist()
    linked = spec.links | {(b, a) for a, b in spec.links}
    isolated = [i for i in range(len(spec.types)) if not any(i in pair for pair in spec.links)]
    assert len(isolated) == 2
    expected = {
        "rooms": lambda a, b: a == b,
        "plan": lambda a, b: True,
        "doors": lambda a, b: (a, b) in linked or (a in isolated and b == 0),
    }
    for name, reads in expected.items():
        mask = dense_mask(cond.layouts[name])
        assert mask.tolist() == [[reads(a, b) for b in node] for a in node], name


def test_isolated_rooms_read_the_living_room_one_way():
    types = [RoomType.BEDROOM, RoomType.LIVING, RoomType.KITCHEN, RoomType.LIVING]
    spec = PlanSpec.build(types, [4] * 4, [(0, 3)])
    assert spec.neighbours() == ((3,), (), (1,), (0,))  # the first living room is the one that is read
    no_living = PlanSpec.build([RoomType.BEDROOM, RoomType.KITCHEN], [4, 4], [])
    assert no_living.neighbours() == ((), ())
    assert not dense_mask(pack([no_living]).layouts["doors"]).any()


def test_next_corner_walks_every_polygon_once_around():
    cond = pack(SPECS)
    start = 0
    for count in cond.node_lens:
        walk = [start]
        for _ in range(count - 1):
            walk.append(int(cond.next_corner[walk[-1]]))
        assert walk == list(range(start, start + count))
        assert int(cond.next_corner[walk[-1]]) == start
        start += count


def test_features_by_definition():
    spec = SPECS[0]
    cond = pack([spec], with_sizes=True)
    assert cond.features.dtype == torch.float32
    assert cond.features.shape[1] == NUM_TYPES + 2 * INDEX_FEATURES + SIZE_FEATURES
    row = 0
    for i, count in enumerate(spec.corners):
        for corner in range(count):
            kind, corners, rooms, sizes = cond.features[row].split([NUM_TYPES, INDEX_FEATURES, INDEX_FEATURES, 5])
            assert kind.nonzero().tolist() == [[spec.types[i]]]
            assert corners.nonzero().tolist() == [[corner]]
            assert rooms.nonzero().tolist() == [[i + 1]]  # HouseDiffusion numbers nodes from 1
            area, (w, h) = spec.areas[i], spec.sizes[i]
            told = [0, 0] if math.isnan(area) else [1, 4 * math.sqrt(area)]
            told += [0, 0, 0] if math.isnan(w) else [1, 4 * w, 4 * h]
            assert sizes.tolist() == pytest.approx(told, rel=1e-6)
            row += 1
    hidden = pack([spec.without_sizes()], with_sizes=True)
    assert not hidden.features[:, -SIZE_FEATURES:].any()
    assert torch.equal(hidden.features[:, :-SIZE_FEATURES], pack([spec]).features)


def test_size_features_by_hand():
    got = size_features(np.array([0.25, np.nan]), np.array([[np.nan, np.nan], [0.5, 0.125]]))
    assert got.tolist() == [[1, 2, 0, 0, 0], [0, 0, 1, 2, 0.5]]


def test_sincos_indices_tell_any_number_apart():
    numbers = np.arange(200)
    features = index_features(numbers, "sincos")
    assert features[0].tolist() == [1] * 16 + [0] * 16
    assert features[3, 0] == pytest.approx(math.cos(3 * math.pi / 2), abs=1e-6)  # the fastest: a quarter turn each
    assert features[3, 17] == pytest.approx(math.sin(3 * math.pi / 2 * 200 ** (-1 / 16)), abs=1e-6)
    distances = np.linalg.norm(features[:, None] - features[None], axis=-1) + 10 * np.eye(200)
    assert distances.min() > 0.5
    assert index_features(np.array([0, 31]), "one_hot").argmax(1).tolist() == [0, 31]


# ---------------------------------------------------------------------------------------------------- limits, errors


def large_plan(rooms: int = 60) -> PlanSpec:
    """A chain of L-shaped rooms with a door between each two: 60 rooms have 596 corners and 119 nodes."""
    types = [RoomType.LIVING, *[RoomType.BEDROOM] * (rooms - 1), *[RoomType.INTERIOR_DOOR] * (rooms - 1)]
    links = [pair for i in range(rooms - 1) for pair in ((i, rooms + i), (i + 1, rooms + i), (i, i + 1))]
    return PlanSpec.build(types, [6] * rooms + [4] * (rooms - 1), links)


def test_sincos_has_no_limit_on_rooms_and_corners():
    spec = large_plan()
    assert (len(spec.types), spec.num_tokens) == (119, 596)
    model = tiny_model()
    cond = pack([spec, PlanSpec.build([RoomType.LIVING], [50], [])], index_encoding="sincos")
    x = torch.randn(1, 646, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model.net(x, torch.tensor([900, 3]), cond)
        bits = model.net.bits(x, out, torch.tensor(0.9).double(), torch.tensor(0.1).double(), cond)
    assert out.shape == (1, 646, 2)
    assert bits.shape == (1, 646, 16)
    assert out.isfinite().all()
    assert bits.isfinite().all()


@pytest.mark.parametrize(
    "spec", [large_plan(17), PlanSpec.build([RoomType.LIVING], [33], [])], ids=["33 nodes", "33 corners"]
)
def test_one_hot_limit_is_told_with_the_way_out(spec):
    with pytest.raises(ValueError, match=r"number 3[23].*counts to 31.*index_encoding='sincos'"):
        pack([spec])
    assert pack([spec], index_encoding="sincos").num_plans == 1


def test_one_hot_takes_31_nodes_and_32_corners():
    assert len(large_plan(16).types) == 31
    assert pack([large_plan(16), PlanSpec.build([RoomType.LIVING], [32], [])]).num_plans == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"types": [], "corners": []}, "types: a plan needs at least one node"),
        ({"corners": [4]}, r"corners: expected one entry for each of the 2 nodes, found 1"),
        ({"corners": [4, 2]}, r"corners: every node needs at least 3, found \[4, 2\]"),
        ({"types": [1, 25]}, r"types: expected codes from 0 to 24, found \[1, 25\]"),
        ({"types": [1, -1]}, "types: expected codes"),
        ({"links": [(0, 2)]}, r"links: \(0, 2\) does not join two different nodes of 0 to 1"),
        ({"links": [(1, 1)]}, r"links: \(1, 1\)"),
        ({"indices": [1]}, "indices: expected one entry"),
        ({"areas": [0.1]}, "areas: expected one entry"),
        ({"sizes": [[0.1, 0.2]] * 3}, "sizes: expected one entry"),
    ],
)
def test_build_names_the_field_that_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        PlanSpec.build(**{"types": [1, 3], "corners": [4, 4], "links": [(1, 0)], **changes})


def test_nothing_to_pack():
    with pytest.raises(ValueError, match="no plans"):
        pack([])


# ---------------------------------------------------------------------------------------------------- conditions


def test_subset_is_the_same_plans_packed_anew():
    cond = tiny_model(with_sizes=True).net.embed(pack(SPECS, index_encoding="sincos", with_sizes=True))
    (a, b), _, (c, d) = blocks(SPECS)
    for chosen in ([0, 2], [2, 0], [2, 0, 2], [-1, 0]):
        tokens, part = cond.subset(chosen)
        assert tokens.tolist() == [*range(a, b), *range(c, d)]
        alone = pack([SPECS[0], SPECS[2]], index_encoding="sincos", with_sizes=True)
        assert part.specs == (SPECS[0], SPECS[2])
        assert part.layouts == alone.layouts
        assert torch.equal(part.features, alone.features)
        assert torch.equal(part.next_corner, alone.next_corner)
        assert torch.equal(part.embedded, cond.embedded[:, tokens])


def test_plan_mean_by_hand():
    spec = PlanSpec.build([1], [3], [])
    cond = pack([spec, PlanSpec.build([1], [4], [])])
    values = torch.tensor([[1.0, 2], [3, 4], [5, 9], [1, 1], [1, 1], [1, 1], [1, 5]], dtype=torch.float64)[None]
    assert cond.plan_mean(values).tolist() == [4.0, 1.5]
    assert cond.plan_mean(values).dtype == torch.float64


def test_to_moves_every_tensor():
    moved = pack(SPECS).to("meta")
    tensors = [moved.features, moved.next_corner, moved.plan_index, moved.node_index]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.specs == tuple(SPECS)


# -------------------------------------------------------------------------------------------------------- leakage


@pytest.fixture(scope="module")
def net():
    return tiny_model(with_sizes=True, fourier_bands=3, num_bit_layers=2).net


def packed(specs):
    return pack(specs, index_encoding="sincos", with_sizes=True)


def noisy(specs, seed=0):
    """Corners of each plan from a generator of its own, so that a plan's noise does not depend on its place."""
    rows = [torch.randn(s.num_tokens, 2, generator=torch.Generator().manual_seed(seed + s.num_tokens)) for s in specs]
    return torch.cat(rows)[None]


def both_heads(net, x, t, cond, *, chained=False):
    """[1, M, 2 + 16]: the continuous head, and the discrete branch fed with it (`chained`) or with something fixed.

    The branch rounds what it is fed to codes, so rounding errors of the first head may not reach it where outputs are
    compared.
    """
    eps = net(x, t, cond)
    alpha, sigma = torch.tensor(0.95).double(), torch.tensor(0.3).double()
    return torch.cat([eps, net.bits(x, eps if chained else x.sin(), alpha, sigma, cond)], dim=-1)


def test_no_gradient_between_packed_plans(net):
    cond, x = packed(SPECS), noisy(SPECS).requires_grad_()
    out = both_heads(net, x, torch.tensor([5, 500, 20]), cond, chained=True)
    for start, end in blocks(SPECS):
        weights = torch.randn(end - start, 18, generator=torch.Generator().manual_seed(1))
        (grad,) = torch.autograd.grad((out[0, start:end] * weights).sum(), x, retain_graph=True)
        inside = grad[0, start:end].abs().sum(-1)
        assert (inside > 0).all()  # every corner of a plan reaches it
        grad[0, start:end] = 0
        assert (grad == 0).all()


def test_door_attention_reads_linked_rooms_and_no_others(net):
    cond = packed(SPECS)
    attention, layout = net.blocks[0].attn_doors, cond.layouts["doors"]
    generator = torch.Generator().manual_seed(2)
    h = torch.randn(1, len(cond.node_index), 32, generator=generator).requires_grad_()
    out = attention(h, layout=layout)
    reads = [tuple(j + offset for j in row) for spec, offset in node_offsets() for row in spec.neighbours()]
    for node, row in enumerate(reads):
        mine = cond.node_index == node
        weights = torch.randn(int(mine.sum()), 32, generator=generator)
        (grad,) = torch.autograd.grad((out[0, mine] * weights).sum(), h, retain_graph=True)
        reached = {int(i) for i in cond.node_index[grad[0].abs().sum(-1) > 0]}
        # The query itself gets a gradient as soon as it has something to choose from.
        assert reached == ({*row, node} if row else set()), node


def node_offsets():
    offsets = np.cumsum([0, *(len(spec.types) for spec in SPECS)]).tolist()
    return zip(SPECS, offsets, strict=False)


def test_permuting_plans_permutes_the_outputs(net):
    times = torch.tensor([5, 500, 20])
    with torch.no_grad():
        out = both_heads(net, noisy(SPECS), times, packed(SPECS))[0]
        order = [2, 0, 1]
        moved = [SPECS[i] for i in order]
        again = both_heads(net, noisy(moved), times[order], packed(moved))[0]
    rows = blocks(SPECS)
    expected = torch.cat([out[slice(*rows[i])] for i in order])
    torch.testing.assert_close(again, expected, atol=2e-6, rtol=0)


def test_packed_equals_one_by_one(net):
    times = torch.tensor([5, 500, 20])
    with torch.no_grad():
        out = both_heads(net, noisy(SPECS), times, packed(SPECS))[0]
        for spec, t, rows in zip(SPECS, times, blocks(SPECS), strict=True):
            alone = both_heads(net, noisy([spec]), t, packed([spec]))[0]
            torch.testing.assert_close(out[slice(*rows)], alone, atol=2e-6, rtol=0)


def test_a_row_taken_in_pieces_is_the_row_at_once(net, monkeypatch):
    times, x, levels = torch.tensor([5, 500, 20]), noisy(SPECS), packed(SPECS)
    whole = both_heads(net, x, times, packed(SPECS))  # with gradients a row is never cut
    sizes = [spec.num_tokens for spec in SPECS]
    for most, plans in ((1, [1, 1, 1]), (sizes[0] + sizes[1], [2, 1]), (sum(sizes), [3])):
        monkeypatch.setattr(tokens, "PIECE_TOKENS", most)
        cond = packed(SPECS)
        assert [part.num_plans for _, _, part in cond.pieces] == plans
        with torch.no_grad():
            pieces = both_heads(net, x, times, cond)
            alpha, sigma = (torch.rand(1, sum(sizes), 1, dtype=torch.float64) / 2 + 0.5 for _ in range(2))
            bits = net.bits(x, x.sin(), alpha, sigma, cond)
        torch.testing.assert_close(pieces, whole, atol=2e-6, rtol=0)
        torch.testing.assert_close(bits, net.bits(x, x.sin(), alpha, sigma, levels), atol=2e-6, rtol=0)


def test_listing_the_nodes_in_another_order_permutes_the_outputs(net):
    spec = SPECS[1]
    order = np.random.default_rng(0).permutation(len(spec.types))
    place = {int(old): new for new, old in enumerate(order)}
    moved = PlanSpec.build(
        [spec.types[i] for i in order],
        [spec.corners[i] for i in order],
        [(place[a], place[b]) for a, b in spec.links],
        indices=[spec.indices[i] for i in order],  # a node keeps its number wherever it is listed
        areas=spec.areas[order],
        sizes=spec.sizes[order],
    )
    starts = np.cumsum([0, *spec.corners])
    corners = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order])
    x = noisy([spec])
    with torch.no_grad():
        out = both_heads(net, x, torch.tensor(20), packed([spec]))
        again = both_heads(net, x[:, corners], torch.tensor(20), packed([moved]))
    torch.testing.assert_close(again, out[:, corners], atol=2e-6, rtol=0)

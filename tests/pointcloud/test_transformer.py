"""The point transformer: sets in, sets out; packed clouds that never meet; cost that grows with the points."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from trifold.pointcloud.conditioning import NO_CLASS, PointCondition, class_labels
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.space_filling import curve_order, hilbert_codes, inverse_order, run_lengths
from trifold.pointcloud.transformer import PointTransformer, PointTransformerConfig

from .tiny_points import condition, small_net, tiny_net

READINGS = ("latents", "local", "full")
LENS = (13, 1, 30, 8)


def packed_points(lens=LENS, seed=0):
    return torch.randn(1, sum(lens), 3, generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------------------------------- the function


@pytest.mark.parametrize("reading", READINGS)
def test_a_new_net_returns_zeros(reading):
    net = PointTransformer(small_net(reading=reading), num_classes=3, latent_dim=5)
    out = net(torch.randn(2, 20, 3), torch.tensor([3.0, 900.0]), condition(2))
    assert out.shape == (2, 20, 3)
    assert out.dtype == torch.float32
    assert not out.any()


@pytest.mark.parametrize(("reading", "readers"), [("latents", 4), ("full", 4), ("full", 0)])
def test_a_permutation_of_the_points_permutes_the_output(reading, readers):
    net, cond, t = tiny_net(reading=reading, num_readers=readers), condition(2), torch.tensor([10.0, 500.0])
    x = torch.randn(2, 33, 3)
    order = torch.randperm(33)
    out = net(x, t, cond)
    assert out.std() > 0.1
    torch.testing.assert_close(net(x[:, order], t, cond), out[:, order], rtol=1e-4, atol=1e-5)


def test_local_runs_do_not_depend_on_the_order_of_points_either():
    """The curve decides who is in a run; only points in one cell of it (2^-12 of the cube) keep their order."""
    net, t = tiny_net(reading="local"), torch.tensor([10.0])
    x = torch.randn(1, 50, 3)
    order = torch.randperm(50)
    torch.testing.assert_close(net(x[:, order], t), net(x, t)[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reading", READINGS)
def test_packed_clouds_equal_clouds_alone(reading):
    net, cond = tiny_net(reading=reading), condition(4, lens=LENS)
    x, t = packed_points(), torch.tensor([5.0, 300.0, 700.0, 999.0])
    packed = net(x, t, cond)
    assert cond.labels is not None
    assert cond.shape is not None
    assert cond.has_shape is not None
    for i, part in enumerate(x[0].split(LENS)):
        alone = PointCondition(cond.labels[i : i + 1], cond.shape[i : i + 1], cond.has_shape[i : i + 1])
        expected = net(part[None], t[i], alone)[0]
        torch.testing.assert_close(packed[0].split(LENS)[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reading", READINGS)
def test_equal_sizes_packed_equal_the_dense_batch(reading):
    net, x, t = tiny_net(reading=reading), torch.randn(3, 16, 3), torch.tensor([1.0, 400.0, 800.0])
    row = net(x.reshape(1, 48, 3), t, condition(3, lens=(16,) * 3))
    torch.testing.assert_close(row.view(3, 16, 3), net(x, t, condition(3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reading", READINGS)
def test_no_gradient_leaks_between_packed_clouds(reading):
    net, x = tiny_net(reading=reading), packed_points().requires_grad_()
    out = net(x, torch.tensor(100.0), condition(4, lens=LENS))
    out[0].split(LENS)[2].square().sum().backward()
    assert x.grad is not None
    touched = [bool(part.any()) for part in x.grad[0].split(LENS)]
    assert touched == [False, False, True, False]


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("points", [1, 2, 9, 131])
def test_any_number_of_points(reading, points):
    out = tiny_net(reading=reading)(torch.randn(2, points, 3), torch.tensor(50.0))
    assert out.shape == (2, points, 3)
    assert out.isfinite().all()


def test_times_by_scalar_by_cloud_and_by_point_agree():
    net, x, cond = tiny_net(), packed_points(), condition(4, lens=LENS)
    by_cloud = torch.tensor([40.0, 40.0, 40.0, 700.0])
    by_point = by_cloud.repeat_interleave(torch.tensor(LENS))[None, :, None]
    assert torch.equal(net(x, by_point, cond), net(x, by_cloud, cond))
    same = net(x, torch.full((4,), 40.0), cond)
    assert torch.equal(net(x, torch.tensor(40.0), cond), same)
    assert not torch.allclose(net(x, by_cloud, cond), same)


@torch.no_grad()
def test_every_part_of_the_condition_counts_and_has_a_value_for_not_told():
    net, x, t = tiny_net(), torch.randn(1, 12, 3), torch.tensor([200.0])
    shape, yes, no = torch.randn(1, 5), torch.tensor([True]), torch.tensor([False])
    told = net(x, t, PointCondition(torch.tensor([2]), shape, yes))
    others = [
        net(x, t, PointCondition(torch.tensor([1]), shape, yes)),
        net(x, t, PointCondition(torch.tensor([2]), shape + 1, yes)),
        net(x, t, PointCondition(None, shape, yes)),
        net(x, t, PointCondition(torch.tensor([2]), shape, no)),
        net(x, t + 300, PointCondition(torch.tensor([2]), shape, yes)),
    ]
    assert all(float((told - other).abs().max()) > 1e-3 for other in others)
    assert torch.equal(net(x, t, PointCondition(torch.tensor([2]), shape)), told)
    nothing = net(x, t)
    assert torch.equal(net(x, t, PointCondition(torch.tensor([NO_CLASS]), shape, no)), nothing)
    torch.testing.assert_close(net(x, t, PointCondition(None, None)), nothing)


@torch.no_grad()
def test_bfloat16_is_near_float32():
    net, x, t = tiny_net(reading="local"), torch.randn(2, 64, 3), torch.tensor([5.0, 900.0])
    wide = net(x, t, condition(2))
    with torch.autocast("cpu", torch.bfloat16):
        narrow = net(x, t, condition(2))
    assert narrow.dtype == torch.float32
    assert 0 < float((narrow - wide).std() / wide.std()) < 0.03


@pytest.mark.parametrize("reading", READINGS)
def test_gradient_checkpointing_changes_no_number(reading):
    x, t = torch.randn(2, 20, 3), torch.tensor([5.0, 900.0])
    grads = []
    for checkpointing in (False, True):
        net = tiny_net(reading=reading).train()
        if checkpointing:
            net.enable_gradient_checkpointing()
        net(x, t, condition(2)).square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
    assert all(a is not None and b is not None for a, b in zip(*grads, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


# -------------------------------------------------------------------------------------------------- cost in points


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation returns, in elements."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@torch.no_grad()
def measured(net, points):
    """(operations, largest tensor) with attention as plain products: fused kernels are not counted on a CPU."""
    x = torch.randn(1, points, 3)
    with FlopCounterMode(display=False) as flops, _Largest() as largest, sdpa_kernel(SDPBackend.MATH):
        net(x, torch.tensor(500.0))
    return flops.get_total_flops(), largest.elements


@pytest.mark.parametrize("reading", ["latents", "local"])
def test_cost_is_linear_up_to_32k_points(reading):
    net = tiny_net(reading=reading, run_length=64).requires_grad_(False)
    (few, _), (many, largest) = measured(net, 4096), measured(net, 32768)
    assert many / few < 8.05
    assert largest <= 32768 * 2 * 64  # the scores of a run in two heads; no table of pairs


def test_full_reading_is_quadratic():
    net = tiny_net(reading="full").requires_grad_(False)
    assert measured(net, 2048)[0] / measured(net, 512)[0] > 12


# -------------------------------------------------------------------------------------------------- space-filling


def test_the_curve_goes_from_cell_to_neighbouring_cell_and_visits_all():
    axis = torch.arange(16)
    cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    codes = hilbert_codes(cells, bits=4)
    assert torch.equal(codes.sort().values, torch.arange(16**3))
    assert (cells[codes.argsort()].diff(dim=0).abs().sum(1) == 1).all()


def test_the_order_keeps_clouds_together_and_brings_neighbours_together():
    x = torch.rand(1, 2000, 3, generator=torch.Generator().manual_seed(0))
    for curve in (0, 1):
        order = curve_order(x, (500, 1500), curve=curve)
        assert torch.equal(order[:500].sort().values, torch.arange(500))
        assert torch.equal(order[inverse_order(order)], torch.arange(2000))
        sorted_steps = x[0][order[500:]].diff(dim=0).norm(dim=1).mean()
        assert sorted_steps < 0.2 * x[0, 500:].diff(dim=0).norm(dim=1).mean()
    both = [curve_order(x, curve=curve).view(-1, 50).sort().values for curve in (0, 1)]
    assert not torch.equal(*both)


def test_points_far_outside_the_cube_are_at_its_border():
    x = torch.tensor([[[1e9, -1e9, 0.0], [5.0, -5.0, 0.0], [-1.0, 2.0, 0.5]]])
    order = inverse_order(curve_order(x))
    assert abs(int(order[0]) - int(order[1])) == 1


@pytest.mark.parametrize(
    ("points", "run", "expected"), [(10, 4, (4, 3, 3)), (8, 4, (4, 4)), (3, 4, (3,)), (1, 1, (1,))]
)
def test_runs_are_few_and_even(points, run, expected):
    assert run_lengths(points, run) == expected


def test_a_point_reads_its_run_only_where_there_are_no_readers():
    net = tiny_net(reading="local", num_readers=0, num_stages=1, run_length=5)
    x = torch.randn(1, 20, 3, requires_grad=True)
    order = curve_order(x)
    net(x, torch.tensor(30.0))[0, order[7]].sum().backward()
    assert x.grad is not None
    assert sorted(x.grad[0].any(-1).nonzero()[:, 0].tolist()) == sorted(order[5:10].tolist())


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"reading": "near"}, "reading"), ({"num_readers": 0}, "num_readers"), ({"run_length": 0}, "run_length")],
)
def test_a_config_without_meaning_names_its_field(changes, field):
    with pytest.raises(ValueError, match=field):
        PointTransformerConfig(**changes)


@pytest.mark.parametrize(
    ("x", "cond", "text"),
    [
        (torch.zeros(2, 5), None, r"expected \[B, N, 3\]"),
        (torch.zeros(1, 0, 3), None, "at least one point"),
        (torch.zeros(1, 5, 3), PointCondition(lens=(2, 2)), "lens"),
        (torch.zeros(1, 5, 3), PointCondition(labels=torch.tensor([3])), "labels: expected -1 to 2, found 3"),
        (torch.zeros(1, 5, 3), PointCondition(shape=torch.zeros(1, 4)), r"expected latents \[1, 5\]"),
        (torch.zeros(3, 5, 3), PointCondition(labels=torch.tensor([0, 1])), "one for each of 3 clouds"),
    ],
)
def test_what_does_not_fit_is_told(x, cond, text):
    with pytest.raises(PointCloudError, match=text):
        tiny_net()(x, torch.tensor(5.0), cond)


def test_a_net_without_classes_or_latent_refuses_them():
    net = tiny_net(num_classes=0, latent_dim=0)
    net(torch.zeros(1, 4, 3), torch.tensor(5.0), PointCondition(labels=torch.tensor([NO_CLASS])))
    with pytest.raises(PointCloudError, match="no classes"):
        net(torch.zeros(1, 4, 3), torch.tensor(5.0), PointCondition(labels=torch.tensor([0])))
    with pytest.raises(PointCloudError, match="no shape latent"):
        net(torch.zeros(1, 4, 3), torch.tensor(5.0), PointCondition(shape=torch.zeros(1, 2)))


def test_classes_are_asked_for_by_name_or_drawn_by_seed():
    known = ("a", "b", "c")
    assert class_labels("b", range(3), known).tolist() == [1, 1, 1]
    assert class_labels(["c", None, "a"], range(3), known)[[0, 2]].tolist() == [2, 0]
    drawn = class_labels(None, range(300), known, (1, 0, 2))
    assert torch.equal(drawn[100:], class_labels(None, range(100, 300), known, (1, 0, 2)))
    counts = drawn.bincount(minlength=3)
    assert counts[1] == 0
    assert 70 < counts[0] < 130
    assert class_labels(None, [5], ()).tolist() == [NO_CLASS]
    with pytest.raises(PointCloudError, match="no class 'd'; known: a, b, c"):
        class_labels(["a", "d"], range(2), known)
    with pytest.raises(ValueError, match="one for each of 3"):
        class_labels(["a"], range(3), known)

"""The linear layer against torch's: numbers, derivatives, and where its own kernel must stand back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode
from trifold.common import linear
from trifold.common.linear import Linear, leaky_linear

SIZE = 256, 96, 96  # rows, in, out: more products than LEAST_PRODUCTS


@pytest.fixture(autouse=True)
def onednn_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer's own kernel is tested on every processor, whether it is the faster one there or not."""
    monkeypatch.setattr(linear, "ONEDNN_IS_FASTER", True)


def layers(bias: bool = True) -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    ours, torchs = Linear(*SIZE[1:], bias=bias), nn.Linear(*SIZE[1:], bias=bias)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the layer was told when it asked whether it may use its own kernel."""
    answers: list[bool] = []
    asked = linear._is_plain

    def record(x: torch.Tensor, weight: torch.Tensor) -> bool:
        answers.append(asked(x, weight))
        return answers[-1]

    monkeypatch.setattr(linear, "_is_plain", record)
    return answers


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(256, 96), (4, 64, 96), (0, 96)])
def test_equal_to_torch_with_and_without_gradients(shape: tuple[int, ...], bias: bool) -> None:
    ours, torchs = layers(bias)
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), torchs(x), atol=1e-5, rtol=0)
        torch.testing.assert_close(ours(x.flip(0)), torchs(x).flip(0), atol=1e-5, rtol=0)
        torch.testing.assert_close(ours(x, relu=True), torchs(x).relu(), atol=1e-5, rtol=0)
    x.requires_grad_()
    for relu in (False, True):
        outs = ours(x, relu=relu), torchs(x).relu() if relu else torchs(x)
        torch.testing.assert_close(*outs, atol=1e-5, rtol=0)
        for way in (outs[0].detach().cos(), torch.ones(()).expand_as(outs[0]), outs[0].detach().mT.contiguous().mT):
            wanted = ((x, *layer.parameters()) for layer in (ours, torchs))
            ways = [torch.autograd.grad(o, w, way, retain_graph=True) for o, w in zip(outs, wanted, strict=True)]
            for found, expected in zip(*ways, strict=True):
                torch.testing.assert_close(found, expected, atol=3e-4, rtol=0)


def test_only_large_products_take_the_kernel(calls: list[bool]) -> None:
    ours, x = layers()[0], torch.randn(*SIZE[:2])
    ours(x[:8])
    assert calls == []
    out = ours(x)
    assert ("_OneDNNLinear" in type(out.grad_fn).__name__) == linear._onednn_works(torch.float32) == calls.pop()
    assert "_OneDNNLinear" not in type(ours(x[:8]).grad_fn).__name__
    with torch.no_grad():
        ours(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert ours(x).dtype == torch.bfloat16
        ours.double()(x.double())
    assert calls == [linear._onednn_works(torch.float32), False]


def test_where_torchs_product_is_the_faster_one_it_is_taken(calls: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "ONEDNN_IS_FASTER", False)
    ours, torchs = layers()
    x = torch.randn(*SIZE[:2])
    assert torch.equal(ours(x, relu=True), torchs(x).relu())
    assert calls == []


def test_torchs_counter_counts_it(calls: list[bool]) -> None:
    ours, torchs = layers()
    x = torch.randn(4, 64, 96, requires_grad=True)
    counted = []
    for layer in (ours, torchs):
        with FlopCounterMode(display=False) as counter:
            with torch.no_grad():
                layer(x)
            layer(x).sum().backward()
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] == 2 * 256 * 96 * 96 * 4  # twice forward, backward to the input and the weight
    assert len(calls) == 3


def test_derivatives_and_maps_without_gradients_are_not_lost() -> None:
    ours, x = layers()[0], torch.randn(*SIZE[:2])
    slope = torch.randn_like(x)
    expected = slope @ ours.weight.detach().T
    with torch.no_grad():
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(ours(forward_ad.make_dual(x, slope))).tangent
        torch.testing.assert_close(tangent, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.func.jvp(ours, (x,), (slope,))[1], expected, atol=1e-5, rtol=0)
        rows = torch.randn(3, *x.shape)
        torch.testing.assert_close(torch.func.vmap(ours)(rows), ours(rows), atol=1e-5, rtol=0)
    gradient = torch.func.grad(lambda x: (ours(x) * slope).sum())(x)
    torch.testing.assert_close(gradient, slope @ ours.weight.detach(), atol=1e-5, rtol=0)


def test_gradients_of_gradients_and_many_at_once() -> None:
    ours, torchs = layers()
    x = torch.randn(*SIZE[:2], requires_grad=True)
    weights = [layer.weight for layer in (ours, torchs)]
    outs = [layer(x).sin() for layer in (ours, torchs)]
    slopes = [torch.autograd.grad(out.sum(), x, create_graph=True)[0] for out in outs]
    seconds = [torch.autograd.grad(g.square().sum(), (x, w)) for g, w in zip(slopes, weights, strict=True)]
    for found, expected in zip(*seconds, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    ways = torch.randn(3, *outs[0].shape)
    many = [torch.autograd.grad(layer(x), x, ways, is_grads_batched=True)[0] for layer in (ours, torchs)]
    torch.testing.assert_close(*many, atol=1e-5, rtol=0)


def test_a_torch_without_the_kernel_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_onednn_works", lambda dtype: False)
    ours, torchs = layers()
    with torch.no_grad():
        x = torch.randn(*SIZE[:2])
        assert torch.equal(ours(x), torchs(x))
        found = leaky_linear(x, ours.weight, ours.bias, 0.1)
        assert torch.equal(found, F.leaky_relu(torchs(x), 0.1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float64, 0)])
def test_a_leaky_layer_is_its_definition(dtype: torch.dtype, tolerance: float, calls: list[bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
    x, weight, bias = draw(*SIZE[:2]), draw(SIZE[2], SIZE[1]) / 10, draw(SIZE[2])
    expected = F.leaky_relu(x.double() @ weight.double().T + bias.double(), 0.2)
    with torch.no_grad():
        found = leaky_linear(x, weight, bias, 0.2)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=tolerance or 1e-12, rtol=tolerance)
    assert calls == [linear._onednn_works(dtype)]
    (gradient,) = torch.autograd.grad(leaky_linear(x, weight.requires_grad_(), bias, 0.2).double().sum(), weight)
    exact = torch.where(expected > 0, 1.0, 0.2).double().T @ x.double()
    torch.testing.assert_close(gradient.double(), exact, atol=30 * tolerance or 1e-6, rtol=0)

"""Dropout against its definition: shares, means, gradients, seeds, and where torch's own is called."""

import pytest
import torch
from trifold.common.dropout import FEW, Dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.93])
def test_the_share_the_scale_and_the_gradient(probability, dtype):
    torch.manual_seed(0)
    x = torch.full((501, 799), 2.0, dtype=dtype, requires_grad=True)  # not a multiple of four
    out = dropout(x, probability)
    assert out.dtype == dtype
    assert out.shape == x.shape
    dropped = out == 0
    assert abs(float(dropped.double().mean()) - probability) < 3e-3
    kept = out.detach()[~dropped].double() * (1 - probability) / 2
    torch.testing.assert_close(kept, torch.ones_like(kept), rtol=5e-3, atol=0)
    error = 3 * (probability / (1 - probability) / x.numel()) ** 0.5
    assert abs(float(out.detach().double().mean()) / 2 - 1) < error + (4e-3 if dtype == torch.bfloat16 else 0)
    (gradient,) = torch.autograd.grad(out.double().sum(), x)
    assert torch.equal(gradient, out.detach() / 2)


def test_neighbours_do_not_know_of_each_other():
    """Four elements come from one draw: their pairs are dropped together as often as chance says."""
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(400_000), 0.3) == 0).double()
    for gap in range(1, 9):
        together = float((dropped[gap:] * dropped[:-gap]).mean())
        assert abs(together - 0.09) < 3e-3


def test_a_seed_repeats_it_and_the_next_call_differs():
    x = torch.ones(1000)
    torch.manual_seed(5)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(5)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(first, second)


def test_little_tensors_maps_and_tiny_probabilities_take_torchs():
    torch.manual_seed(2)
    few = torch.ones(FEW - 1)
    expected = torch.nn.functional.dropout(few, 0.3)
    torch.manual_seed(2)
    assert torch.equal(dropout(few, 0.3), expected)
    rows = torch.func.vmap(lambda x: dropout(x, 0.5), randomness="different")(torch.ones(3, 1000))
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(dropout(torch.ones(1000), 1e-9), torch.ones(1000))
    with pytest.raises(ValueError, match=r"probability in \[0, 1\), found 1"):
        dropout(few, 1.0)


def test_the_module_drops_in_training_only():
    layer, x = Dropout(0.5), torch.ones(1000)
    assert 300 < int((layer(x) == 0).sum()) < 700
    assert layer.eval()(x) is x
    assert Dropout(0.0).train()(x) is x

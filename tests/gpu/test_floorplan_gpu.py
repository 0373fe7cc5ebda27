"""The floorplan head on CUDA: the CPU's numbers, in every precision, and training under autocast."""

import numpy as np
import pytest
import torch
from trifold.floorplan import BubbleDiagram, HouseDiffusion, HouseDiffusionConfig, ProceduralPlans
from trifold.floorplan.dataset import collate, sample_from_plan
from trifold.floorplan.process import house_losses

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CONFIG = HouseDiffusionConfig(width=128, dropout=0.0, index_encoding="sincos", prediction="v", fourier_bands=6)


@pytest.fixture
def model() -> HouseDiffusion:
    torch.manual_seed(0)
    return HouseDiffusion(CONFIG).eval()


@pytest.fixture
def batch():
    plans = ProceduralPlans()
    return collate(
        [sample_from_plan(plans[i], None, np.random.default_rng(i)) for i in range(16)], index_encoding="sincos"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_forward_equals_the_cpu(model, batch, dtype):
    x, t = batch.x0.float(), torch.arange(16) * 60
    with torch.no_grad():
        expected = model.net(x, t, batch.cond)
        model.cuda()
        on_gpu = batch.to("cuda")
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            out = model.net(x.cuda(), t.cuda(), on_gpu.cond)
    assert out.dtype == torch.float32
    error = (out.cpu() - expected).abs().max() / expected.abs().max()
    assert error < {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_have_gradients_under_autocast(model, batch, dtype):
    model.cuda().train()
    batch = batch.to("cuda")
    t = torch.arange(16, device="cuda") * 60
    with torch.autocast("cuda", dtype=dtype):
        losses = house_losses(model.net, model.path, batch, t, torch.randn_like(batch.x0), bits_below=32)
    losses.total().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_generate_equals_the_cpu(model):
    diagram = BubbleDiagram.example("two_bedrooms")
    cpu = model.generate(diagram, 2, steps=5, discrete=False)
    gpu = model.cuda().generate(diagram, 2, steps=5, discrete=False)
    for one, two in zip(cpu, gpu, strict=True):
        for a, b in zip(one.nodes, two.nodes, strict=True):
            assert abs(a.polygon - b.polygon).max() < 0.1  # units of 256

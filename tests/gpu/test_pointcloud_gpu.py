"""The point cloud head on CUDA: the CPU's numbers, training under autocast, and metrics in bounded memory."""

import pytest
import torch
from trifold.pointcloud import PointDiffusion
from trifold.pointcloud.luo_hu import FlowVAE, FlowVAEConfig
from trifold.pointcloud.metrics import chamfer_matrix
from trifold.pointcloud.process import PointLosses, TrainingBatch
from trifold.pointcloud.transformer import Reading

from tests.pointcloud.tiny_points import small_net, tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICE = "cuda"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("reading", ["latents", "local", "full"])
def test_generate_equals_the_cpu(reading: Reading) -> None:
    model = tiny_model(net=small_net(reading=reading))
    settings = {"steps": 4, "class_name": "mug", "guidance_scale": 1.5, "seed": 3}
    expected = model.generate(2, 40, **settings)
    found = model.to(DEVICE).generate(2, 40, **settings)
    for ours, theirs in zip(found, expected, strict=True):
        assert abs(ours.points - theirs.points).max() < 1e-2 * abs(theirs.points).max()


@DTYPES
def test_losses_have_gradients_under_autocast(dtype: torch.dtype) -> None:
    model = tiny_model(net=small_net()).to(DEVICE).train()
    batch = TrainingBatch(
        points=normal(4, 32, 3),
        seen=normal(4, 20, 3, seed=4),
        references=normal(4, 64, 3, seed=5),
        labels=torch.tensor([0, 1, 2, -1]),
        keep_shape=torch.tensor([True, True, False, True]),
        t=torch.linspace(0.1, 0.9, 4),
        noise=normal(4, 32, 3, seed=1),
        posterior_noise=normal(4, 3, model.config.latent_dim, seed=2),
        prior_t=torch.linspace(0.1, 0.9, 8).view(4, 2),
        prior_noise=normal(4, 2, model.config.latent_dim, seed=3),
    )
    on_gpu = TrainingBatch(**{name: value.to(DEVICE) for name, value in vars(batch).items()})
    with torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32):
        losses: PointLosses = model(on_gpu)
    losses.total(1e-3).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    with torch.no_grad():
        expected = model.cpu()(batch).denoising
    assert (losses.denoising.detach().cpu() - expected).abs().max() < TOLERANCE[dtype] * expected.abs().max()


@DTYPES
def test_luo_hu_denoises_as_on_the_cpu(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = FlowVAE(FlowVAEConfig(latent_dim=8, num_steps=4, flow_depth=2, flow_hidden_dim=16)).eval()
    x, z, beta = normal(3, 700, 3), normal(3, 8, seed=1), torch.tensor([1e-4, 1e-2, 2e-2])
    with torch.no_grad():
        expected = model.net(x, beta, z)
        model.to(DEVICE)
        with torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32):
            found = model.net(x.to(DEVICE), beta.to(DEVICE), z.to(DEVICE)).float().cpu()
    assert (found - expected).abs().max() < TOLERANCE[dtype] * expected.abs().max()


def test_the_chamfer_matrix_is_the_cpus_in_bounded_memory() -> None:
    rows, columns = normal(6, 300, 3), normal(9, 200, 3, seed=1)
    expected = chamfer_matrix(rows, columns)
    on_gpu = rows.to(DEVICE), columns.to(DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = chamfer_matrix(*on_gpu, block_elements=2 * 300 * 200)
    assert torch.cuda.max_memory_allocated() - before < 8 * 2 * 300 * 200 * 4  # a few blocks of two pairs each
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=1e-5, atol=1e-7)


def test_a_saved_model_is_loaded_onto_the_device(tmp_path) -> None:
    tiny_model().save_pretrained(tmp_path)
    model = PointDiffusion.from_pretrained(tmp_path, device=DEVICE)
    assert {p.device.type for p in model.parameters()} == {DEVICE}

"""The video head on CUDA: the inflated UNet against the CPU in float32, in half precision, and one tuned edit."""

import pytest
import torch
from trifold.video import TuneAVideo
from trifold.video.inflate import inflate

from tests.video.tiny import tiny_clip, tiny_tuning, write_tiny
from tests.video.unets import clip_inputs, image_unet

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_float32_agrees_with_the_cpu() -> None:
    unet = inflate(image_unet(), temporal_init="original")
    inputs = clip_inputs(batch=2, frames=4)
    with torch.no_grad():
        expected = unet(*inputs)
        found = unet.cuda()(*(part.cuda() for part in inputs)).cpu()
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    unet = inflate(image_unet(), temporal_init="original").cuda()
    inputs = [part.cuda() for part in clip_inputs(batch=1, frames=4)]
    with torch.no_grad():
        expected = unet(*inputs)
        with torch.autocast("cuda", dtype):
            found = unet(*inputs).float()
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_checkpointed_gradients_are_the_same() -> None:
    gradients = []
    for checkpointing in (False, True):
        unet = inflate(image_unet(), temporal_init="original").cuda().requires_grad_(True)
        unet.enable_gradient_checkpointing(checkpointing)
        unet(*(part.cuda() for part in clip_inputs())).square().mean().backward()
        gradients.append({name: p.grad for name, p in unet.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_tune_and_edit(tmp_path, precision: str) -> None:
    folder = write_tiny(tmp_path / "base")
    pipe = TuneAVideo.from_text_to_image(folder, device="cuda")
    clip = tiny_clip()
    result = pipe.tune(clip, "a b", tiny_tuning(tmp_path / "run", mixed_precision=precision))
    assert not result.interrupted
    edited = pipe.edit(clip, "b a", steps=2)
    assert edited.frames.shape == clip.frames.shape

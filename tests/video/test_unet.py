"""The inflated UNet: it is the image UNet where it should be, and what reads what is exact."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from trifold.common.attention import SegmentLayout
from trifold.video import unet_blocks
from trifold.video.errors import VideoError
from trifold.video.inflate import inflate
from trifold.video.trainable import select_trainable
from trifold.video.unet import InflatedUNet
from trifold.video.unet_blocks import Float32Attention, InflatedDownBlock

from .unets import ONE_TRANSFORMER, clip_inputs, image_unet

KINDS: dict[str, dict[str, Any]] = {
    "Stable Diffusion 1": {},
    "Stable Diffusion 2": {"use_linear_projection": True, "attention_head_dim": (2, 4), "upcast_attention": True},
    "three blocks": {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": (2, 4, 8),
        "norm_num_groups": 8,
    },
    "one block": {
        "block_out_channels": (16,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    },
    "layers": {"layers_per_block": (1, 2), "transformer_layers_per_block": (2, 1)},
    "no middle": {"mid_block_type": None},
    "middle without attention": {"mid_block_type": "UNetMidBlock2D"},
    "first attention to the text": {"only_cross_attention": (True, False)},
    "text widths": {
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "cross_attention_dim": (12, 12),
    },
    "time scales": {"resnet_time_scale_shift": "scale_shift", "resnet_skip_time_act": True},
    "output scales": {"resnet_out_scale_factor": 1.4, "mid_block_scale_factor": 1.3},
    "centred input": {"center_input_sample": True, "time_embedding_act_fn": "silu", "timestep_post_act": "silu"},
    "time conventions": {"flip_sin_to_cos": False, "freq_shift": 1, "time_embedding_dim": 48},
    "uneven padding": {"downsample_padding": 0},
    "six channels": {"in_channels": 6, "out_channels": 6, "conv_in_kernel": 5, "conv_out_kernel": 1, "act_fn": "gelu"},
}


def per_frame_layouts(num_frames: int, sizes: tuple[int, ...]) -> unet_blocks.Layouts:
    """Every frame reads itself: what the image model does."""
    return {
        tokens: {
            "sparse_causal": SegmentLayout.diagonal([tokens] * num_frames),
            "temporal": SegmentLayout.temporal(num_frames, tokens),
        }
        for tokens in sizes
    }


def frame_by_frame(image: torch.nn.Module, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    frames = [image(x[:, :, i], t, text).sample for i in range(x.shape[2])]
    return torch.stack(frames, dim=2)


@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_is_the_image_model(kind: str) -> None:
    """One frame attends to itself and has its own statistics, whatever the options; its size need not halve evenly."""
    image = image_unet(**KINDS[kind])
    x, t, text = clip_inputs(2, 1, 7, 9, channels=image.config["in_channels"])
    with torch.no_grad():
        expected = frame_by_frame(image, x, t, text)
        for group_norm in ("clip", "frame"):
            found = inflate(image, group_norm=group_norm)(x, t, text)  # pyright: ignore[reportArgumentType]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["Stable Diffusion 1", "Stable Diffusion 2", "layers", "time scales"])
def test_many_frames_are_the_image_model_when_each_reads_itself(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a layout per frame and norms per frame nothing but the temporal branch is left, and that adds nothing."""
    image, (x, t, text) = image_unet(**KINDS[kind]), clip_inputs(2, 3, 7, 9)
    unet = inflate(image, group_norm="frame")
    with torch.no_grad():
        expected = frame_by_frame(image, x, t, text)
        assert (unet(x, t, text) - expected).abs().max() > 1e-3  # attention between frames
        monkeypatch.setattr("trifold.video.unet.clip_layouts", per_frame_layouts)
        torch.testing.assert_close(unet(x, t, text), expected, atol=1e-5, rtol=1e-5)
        over_clip = inflate(image, group_norm="clip")(x, t, text)
        assert (over_clip - expected).abs().max() > 1e-3  # norms over frames


def test_equal_frames_are_the_image_model() -> None:
    """Frames that are all alike read in each other what each would read in itself."""
    image, (x, t, text) = image_unet(), clip_inputs(1, 1)
    for group_norm in ("clip", "frame"):
        unet = inflate(image, group_norm=group_norm)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            found, expected = unet(x.expand(-1, -1, 4, -1, -1), t, text), frame_by_frame(image, x, t, text)
        torch.testing.assert_close(found, expected.expand_as(found), atol=1e-5, rtol=1e-5)


def test_a_zeroed_temporal_branch_changes_nothing() -> None:
    """Bit for bit: the output does not depend on the branch's random weights."""
    image, inputs = image_unet(), clip_inputs(1, 4)
    outputs = []
    with torch.no_grad():
        for seed in (1, 2):
            unet = inflate(image, generator=torch.Generator().manual_seed(seed))
            outputs.append(unet(*inputs))
        assert torch.equal(*outputs)
        original = inflate(image, temporal_init="original", generator=torch.Generator().manual_seed(1))
        assert (original(*inputs) - outputs[0]).abs().max() > 1e-3


def frames_read(unet: InflatedUNet, frame: int, num_frames: int = 5) -> set[int]:
    """Frames of the input on which that frame of the output depends, by the gradient."""
    x, t, text = clip_inputs(1, num_frames)
    x.requires_grad_()
    weights = torch.randn(x.shape[1], *x.shape[3:], generator=torch.Generator().manual_seed(1))
    (unet(x, t, text)[0, :, frame] * weights).sum().backward()
    assert x.grad is not None
    return set(x.grad[0].abs().amax(dim=(0, 2, 3)).nonzero().flatten().tolist())


def test_a_frame_reads_the_first_and_the_one_before() -> None:
    unet = inflate(image_unet(**ONE_TRANSFORMER), group_norm="frame")
    for i in range(5):
        assert frames_read(unet, i) == {0, max(i - 1, 0), i}


def test_without_temporal_attention_no_frame_reads_a_later_one() -> None:
    """Several transformers, each reaching one frame further back."""
    unet = inflate(image_unet(), group_norm="frame")
    for i in range(5):
        assert max(frames_read(unet, i)) == i


def test_statistics_over_the_clip_and_temporal_attention_read_every_frame() -> None:
    image = image_unet(**ONE_TRANSFORMER)
    assert frames_read(inflate(image, group_norm="clip"), 0) == set(range(5))
    unet = inflate(image, group_norm="frame")
    with torch.no_grad():
        for _, module in unet.temporal_modules():
            for parameter in module.parameters():
                parameter.add_(0.1)
    assert frames_read(unet, 0) == set(range(5))


@pytest.mark.parametrize("group_norm", ["clip", "frame"])
def test_a_clip_does_not_depend_on_its_batch(group_norm: Any) -> None:
    unet = inflate(image_unet(), temporal_init="original", group_norm=group_norm)
    x, t, text = clip_inputs(3, 4, 6, 10)
    with torch.no_grad():
        together = unet(x, t, text)
        for i in range(3):
            alone = unet(x[i : i + 1], t[i : i + 1], text[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)
    assert together.shape == x.shape
    assert together.is_contiguous()


def test_forms_of_the_time_step() -> None:
    unet = inflate(image_unet())
    x, _, text = clip_inputs(2, 2)
    with torch.no_grad():
        expected = unet(x, torch.tensor([300, 300]), text)
        for t in (300, 300.0, torch.tensor(300), torch.tensor([300]), torch.tensor([300.0, 300.0])):
            assert torch.equal(unet(x, t, text), expected)
        assert not torch.equal(unet(x, 301, text), expected)


def test_text_is_projected_once_for_all_frames() -> None:
    unet = inflate(image_unet())
    rows: list[torch.Size] = []
    block = unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k")
    block.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0].shape))
    with torch.no_grad():
        unet(*clip_inputs(2, 7))
    assert rows == [(2, 5, 12)]


def test_wrong_shapes_are_told() -> None:
    unet = inflate(image_unet())
    x, t, text = clip_inputs(2, 3)
    for call, words in {
        (x[0], t, text): r"x: expected latents \[B, 4, F, h, w\].*found \[4, 3, 8, 8\]",
        (x[:, :3], t, text): r"\[B, 4, F, h, w\].*found \[2, 3, 3, 8, 8\]",
        (x[:, :, :0], t, text): "at least one frame",
        (x, t, text[:1]): r"text: expected \[2, L, 12\], found \[1, 5, 12\]",
        (x, t, text[..., :7]): r"text: expected \[2, L, 12\], found \[2, 5, 7\]",
        (x, torch.tensor([1, 2, 3]), text): r"t: expected a number or \[2\].*found \[3\]",
    }.items():
        with pytest.raises(VideoError, match=words):
            unet(*call)


def gradients(unet: InflatedUNet, inputs: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    unet.zero_grad()
    unet(*inputs).square().mean().backward()
    return {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_gives_the_same_gradients(dropout: float) -> None:
    unet = inflate(image_unet(dropout=dropout), temporal_init="original").train()
    names, inputs = select_trainable(unet), clip_inputs(2, 3)
    torch.manual_seed(1)
    plain = gradients(unet, inputs)
    unet.enable_gradient_checkpointing()
    torch.manual_seed(1)
    recomputed = gradients(unet, inputs)
    assert set(plain) == set(recomputed) == set(names)
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-7, rtol=1e-4)


def test_checkpointing_keeps_less() -> None:
    unet = inflate(image_unet())
    select_trainable(unet)
    inputs = clip_inputs(1, 4, 16, 16)
    parameters = {p.data_ptr() for p in unet.parameters()}
    kept: list[int] = []
    for enabled in (False, True):
        unet.enable_gradient_checkpointing(enabled)
        seen: dict[int, int] = {}

        def note(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            unet(*inputs)
        kept.append(sum(seen.values()))
    assert kept[1] < kept[0] / 4


def test_no_gradient_means_no_checkpoints() -> None:
    unet = inflate(image_unet())
    unet.enable_gradient_checkpointing()
    inputs = clip_inputs()
    with torch.no_grad():
        first = unet(*inputs)
    unet.enable_gradient_checkpointing(False)
    with torch.no_grad():
        assert torch.equal(unet(*inputs), first)


@pytest.mark.parametrize("kind", ["Stable Diffusion 1", "Stable Diffusion 2"])
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_half_precision_is_near(kind: str, how: str) -> None:
    unet, (x, t, text) = inflate(image_unet(**KINDS[kind]), temporal_init="original"), clip_inputs(1, 3)
    with torch.no_grad():
        expected = unet(x, t, text)
        if how == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = unet(x, t, text)
        else:
            found = copy.deepcopy(unet).to(torch.bfloat16)(x.bfloat16(), t, text)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() / expected.norm() < 0.03


def test_upcast_attention_runs_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    real = unet_blocks.attend

    def noting(q: Tensor, *rest: Any, **options: Any) -> Tensor:
        seen.append(q.dtype)
        return real(q, *rest, **options)

    monkeypatch.setattr(unet_blocks, "attend", noting)
    unet, (x, t, text) = inflate(image_unet(upcast_attention=True)), clip_inputs()
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            unet(x, t, text)
        unet.to(torch.bfloat16)(x.bfloat16(), t, text)
    attentions = sum(isinstance(module, Float32Attention) for module in unet.modules())
    assert attentions == 3 * 4
    assert seen == [torch.float32] * (2 * attentions)
    seen.clear()
    with torch.no_grad():
        unet.double()(x.double(), t, text.double())
    assert set(seen) == {torch.float64}


def test_sizes_on_the_way_down_are_those_of_the_layers() -> None:
    for padding in (0, 1):
        unet = inflate(image_unet(downsample_padding=padding))
        block = unet.down_blocks[0]
        assert isinstance(block, InflatedDownBlock)
        assert block.downsamplers is not None
        for size in ((8, 8), (7, 9), (5, 12), (2, 3)):
            assert block.halved(size) == block.downsamplers[0](torch.zeros(1, 16, *size)).shape[-2:]


def test_compiles_in_one_graph() -> None:
    unet = inflate(image_unet(), temporal_init="original")
    compiled = torch.compile(unet, backend="eager", fullgraph=True, dynamic=False)
    inputs = clip_inputs(1, 3, 7, 8)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), unet(*inputs), atol=1e-6, rtol=1e-6)

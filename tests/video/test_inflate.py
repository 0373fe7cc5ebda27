"""From an image UNet to a video UNet: counts, memory, randomness, what is trained, what is refused, what is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from trifold.common.weights import WeightsError
from trifold.video.checkpoint import is_inflated_folder, read_inflated
from trifold.video.errors import VideoError
from trifold.video.inflate import inflate, temporal_names
from trifold.video.trainable import select_trainable, trainable_names
from trifold.video.unet import InflatedUNet
from trifold.video.unet_config import InflatedConfig, check_unet2d

from . import golden
from .unets import SMALL, clip_inputs, image_unet

SD_14 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD_21 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
    "upcast_attention": True,
}


@pytest.mark.parametrize(("config", "total"), [(SD_14, 909_120_004), (SD_21, 915_509_764)])
def test_parameter_counts_of_stable_diffusion(config: dict[str, Any], total: int) -> None:
    with torch.device("meta"):
        image = UNet2DConditionModel(**config)
    unet = inflate(image)
    sizes = {name: parameter.numel() for name, parameter in unet.named_parameters()}
    assert {parameter.device.type for parameter in unet.parameters()} == {"meta"}
    assert sum(sizes.values()) == total
    assert sum(sizes[name] for name in temporal_names(unet)) == 49_599_040
    assert set(sizes) - temporal_names(unet) == set(image.state_dict())
    names = select_trainable(unet)
    assert len(names) == 112
    assert sum(sizes[name] for name in names) == 74_354_880
    assert len({name.partition(".attn")[0] for name in names}) == 16
    assert len(select_trainable(unet, "published_checkpointing")) == 112 - 42


# -- memory and randomness -----------------------------------------------------------------------------------------


def test_shared_memory_and_own_queries() -> None:
    image = image_unet()
    unet = inflate(image)
    theirs = image.state_dict()
    own = {name for name, value in unet.state_dict().items() if name not in theirs} | {
        name for name, value in unet.state_dict().items() if value.data_ptr() != theirs.get(name, value).data_ptr()
    }
    assert own == set(trainable_names(unet)) | temporal_names(unet)
    copied = inflate(image, share=False)
    assert all(
        value.data_ptr() != theirs[name].data_ptr() for name, value in copied.state_dict().items() if name in theirs
    )
    assert not copied.borrowed


@pytest.mark.parametrize("selection", ["queries_and_temporal", "all"])
def test_tuning_leaves_the_image_model_alone(selection: Any) -> None:
    image = image_unet()
    before = {name: value.clone() for name, value in image.state_dict().items()}
    unet = inflate(image)
    names = select_trainable(unet, selection)
    optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        unet(*clip_inputs()).square().mean().backward()
        optimizer.step()
    after = unet.state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in names if name in before)
    assert all(torch.equal(value, before[name]) for name, value in image.state_dict().items())
    assert all(parameter.requires_grad for parameter in image.parameters())


def test_weights_depend_on_the_generator_alone() -> None:
    image = image_unet()

    def temporal(generator: torch.Generator | None = None) -> torch.Tensor:
        unet = inflate(image, temporal_init="original", generator=generator)
        return torch.cat([value.flatten() for name, value in unet.state_dict().items() if "attn_temp" in name])

    state = torch.get_rng_state()
    first = temporal()
    torch.manual_seed(5)
    assert torch.equal(temporal(), first)
    assert torch.equal(temporal(torch.Generator().manual_seed(0)), first)
    assert not torch.equal(temporal(torch.Generator().manual_seed(1)), first)
    torch.set_rng_state(state)
    inflate(image)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("init", ["zero", "original"])
def test_initialisation(init: Any) -> None:
    unet = inflate(image_unet(), temporal_init=init)
    for name, value in unet.state_dict().items():
        leaf = name.rpartition("attn_temp.")[2]
        if "norm_temp" in name:
            assert torch.equal(value, torch.full_like(value, float(name.endswith("weight"))))
        elif leaf == "to_out.0.weight" or (leaf == "to_out.0.bias" and init == "zero"):
            assert not value.any()
        elif "attn_temp" in name:
            bound = len(value) ** -0.5  # torch's bound for a square Linear
            assert 0.7 * bound < value.abs().max() <= bound
            assert abs(float(value.mean())) < 0.3 * bound


def test_dtype_and_mode_are_the_image_models() -> None:
    unet = inflate(image_unet().to(torch.bfloat16))
    assert {value.dtype for value in unet.state_dict().values()} == {torch.bfloat16}
    assert not unet.training
    assert inflate(image_unet().train()).training


def test_the_config_builds_the_net_again() -> None:
    unet = inflate(image_unet(use_linear_projection=True), group_norm="frame", temporal_init="original")
    config = InflatedConfig(**json.loads(json.dumps(unet.config.to_dict())))
    again = InflatedUNet(config).eval()
    again.load_state_dict(unet.state_dict())
    assert (config.group_norm, config.temporal_init) == ("frame", "original")
    inputs = clip_inputs()
    with torch.no_grad():
        assert torch.equal(again(*inputs), unet(*inputs))


# -- what is trained -----------------------------------------------------------------------------------------------


def test_selections() -> None:
    unet = inflate(image_unet())
    everything = {name for name, _ in unet.named_parameters()}
    tuned = set(select_trainable(unet))
    assert all(".attn_temp." in name or name.endswith((".attn1.to_q.weight", ".attn2.to_q.weight")) for name in tuned)
    assert not any("norm_temp" in name for name in tuned)
    published = set(select_trainable(unet, "published_checkpointing"))
    assert tuned - published == {name for name in tuned if name.startswith("down_blocks.")}
    assert set(select_trainable(unet, "temporal")) == {name for name in everything if ".attn_temp." in name}
    assert set(select_trainable(unet, "all")) == everything
    some = select_trainable(unet, ["attn1.to_v", "norm_temp"])
    assert {name for name, parameter in unet.named_parameters() if parameter.requires_grad} == set(some)
    assert {name.rpartition("transformer_blocks.0.")[2] for name in some} == {
        "attn1.to_v.weight",
        "norm_temp.weight",
        "norm_temp.bias",
    }


def test_wrong_selections_are_told() -> None:
    unet = inflate(image_unet())
    with pytest.raises(VideoError, match=r"expected one of queries_and_temporal, .*found 'queries'"):
        select_trainable(unet, "queries")  # pyright: ignore[reportArgumentType]
    with pytest.raises(VideoError, match=r"no module .* ends in attn3\.to_q"):
        select_trainable(unet, ["attn1.to_q", "attn3.to_q"])
    with pytest.raises(VideoError, match="no module"):
        select_trainable(unet, [])


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"addition_embed_type": "text_time"}, "Stable Diffusion XL"),
        ({"addition_embed_type": "image"}, "Kandinsky"),
        ({"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 8}, "DeepFloyd IF"),
        ({"class_embed_type": "projection"}, "unCLIP"),
        ({"num_class_embeds": 1000, "in_channels": 7}, "upscaler"),
        ({"time_cond_proj_dim": 256}, "latent consistency"),
        ({"dual_cross_attention": True}, "Versatile Diffusion"),
        ({"attention_type": "gated"}, "GLIGEN"),
        ({"in_channels": 9}, "inpainting"),
        ({"in_channels": 8}, "InstructPix2Pix"),
        ({"in_channels": 5}, "depth-to-image"),
        ({"out_channels": 8}, "learned variance"),
        ({"cross_attention_dim": (12, 16)}, "different widths"),
        ({"down_block_types": ("ResnetDownsampleBlock2D",)}, "ResnetDownsampleBlock2D, which cannot be inflated"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "UNetMidBlock2DSimpleCrossAttn"),
        ({"up_block_types": ("KUpBlock2D",)}, "KUpBlock2D"),
    ],
)
def test_other_kinds_are_named(config: dict[str, Any], kind: str) -> None:
    with pytest.raises(VideoError, match=f"some model: .*{kind}"):
        check_unet2d(SMALL | config, "some model")


def test_other_classes_and_options_are_refused() -> None:
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    with pytest.raises(VideoError, match="cannot inflate AutoencoderKL"):
        inflate(vae)
    with pytest.raises(VideoError, match=r"group_norm: expected one of \('clip', 'frame'\), found 'time'"):
        inflate(image_unet(), group_norm="time")  # pyright: ignore[reportArgumentType]
    with pytest.raises(VideoError, match="temporal_init"):
        inflate(image_unet(), temporal_init="random")  # pyright: ignore[reportArgumentType]
    changed = image_unet()
    changed.extra = torch.nn.Linear(2, 2)
    with pytest.raises(VideoError, match=r"2 unexpected: extra\.bias, extra\.weight"):
        inflate(changed)


# -- the original's checkpoints ------------------------------------------------------------------------------------


def save_original(folder: Path, name: str = "video", suffix: str = "safetensors", **config: Any) -> Path:
    """What the original program saves: its config and the whole state dict."""
    folder.mkdir(parents=True)
    tensors = dict(golden.image_unet(name).state_dict()) | golden.temporal(name, "perturbed")
    original = json.loads((golden.folder(name) / "unet3d_config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(original))
    if suffix == "bin":
        torch.save(tensors, folder / "diffusion_pytorch_model.bin")
    else:
        save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.mark.parametrize("name", golden.SETS)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_reading_the_originals_checkpoint(tmp_path: Path, name: str, suffix: str) -> None:
    folder = save_original(tmp_path / "run" / "unet", name, suffix)
    data, t = golden.inputs(name), golden.notes(name)["timestep"]
    for place in (folder, folder.parent):  # the UNet's folder, the pipeline's
        assert is_inflated_folder(place)
        unet = read_inflated(place)
        assert not unet.training
        with torch.no_grad():
            found = unet(data["latents"], t, data["text_cond"])
        assert golden.worst(found, golden.outputs(name)["perturbed.noise_pred"]) < 2e-5
    assert read_inflated(folder, dtype=torch.bfloat16).conv_in.weight.dtype == torch.bfloat16


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = save_original(tmp_path / "unet")
    tensors = dict(golden.image_unet("video").state_dict())
    weights = folder / "diffusion_pytorch_model.safetensors"

    def rewrite(**changes: torch.Tensor) -> None:
        save_file({key: value.clone() for key, value in (tensors | changes).items()}, weights)

    temporal = golden.temporal("video", "perturbed")
    one = torch.zeros(1)
    rewrite()
    with pytest.raises(VideoError, match="no temporal attention"):
        read_inflated(folder)
    rewrite(**temporal, **{"down_blocks.0.temp_convs.0.conv1.0.weight": one})
    with pytest.raises(VideoError, match="ModelScope"):
        read_inflated(folder)
    rewrite(**temporal, **{"down_blocks.0.motion_modules.0.proj_in.weight": one})
    with pytest.raises(VideoError, match="AnimateDiff"):
        read_inflated(folder)
    rewrite(**temporal, **{"conv_in.weight": one, "more": one})
    with pytest.raises(VideoError, match=r"1 unexpected: more; 1 of another shape: conv_in\.weight \[1\] instead of"):
        read_inflated(folder)
    weights.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="diffusion_pytorch_model"):
        read_inflated(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="expected the weights"):
        read_inflated(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(VideoError, match="not valid JSON"):
        read_inflated(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        read_inflated(folder)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_inflated(folder)


def test_other_configs_are_refused(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image_unet().save_pretrained(image)
    assert not is_inflated_folder(image)
    with pytest.raises(VideoError, match="'UNet2DConditionModel', expected 'UNet3DConditionModel'"):
        read_inflated(image)
    foreign = save_original(tmp_path / "foreign", down_block_types=["CrossAttnDownBlockMotion", "DownBlock3D"])
    with pytest.raises(VideoError, match="CrossAttnDownBlockMotion"):
        read_inflated(foreign)

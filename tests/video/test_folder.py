"""A Stable Diffusion folder: read in all its forms, refused by name in all others."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from trifold.video.errors import VideoError
from trifold.video.folder import needed_files
from trifold.video.text_to_image import TextToImage

from .tiny import TEXT_WIDTH, write_tiny

PROMPT = "a red square moves left"


@pytest.fixture(scope="module")
def model(folder):
    return TextToImage.load(folder, device="cpu")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# ------------------------------------------------------------------------------------------ the folder's forms


@pytest.mark.parametrize(
    ("saving", "loading"),
    [
        ({"safe_serialization": False}, {}),
        ({"variant": "fp16"}, {"variant": "fp16"}),
        ({"variant": "fp16"}, {}),  # the only variant there is
        ({"max_shard_size": "60KB"}, {}),
    ],
)
def test_every_form_of_the_weights_is_the_same_model(model, tmp_path, saving, loading):
    written = write_tiny(tmp_path / "sd", **saving)
    weights = [p.name for p in (written / "unet").iterdir() if p.suffix in (".safetensors", ".bin")]
    assert weights != ["diffusion_pytorch_model.safetensors"]
    other = TextToImage.load(written, device="cpu", **loading)
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(model, part).state_dict()
        for name, tensor in getattr(other, part).state_dict().items():
            assert torch.equal(tensor, expected[name]), name
    assert other.unet.dtype == torch.float32
    assert not other.unet.training
    assert not any(p.requires_grad for p in other.unet.parameters())


def test_half_precision_files_are_read_as_float32(copy):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v.half() for k, v in load_file(path).items()}, path)
    loaded = TextToImage.load(copy, device="cpu")
    assert loaded.unet.dtype == torch.float32
    assert torch.isfinite(loaded.generate_images(PROMPT, steps=1).float()).all()


def test_two_variants_side_by_side_are_told_apart(copy):
    plain = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(plain)
    save_file({k: v + 1 for k, v in tensors.items()}, plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    for variant, shift in ((None, 0), ("fp16", 1)):
        weight = TextToImage.load(copy, device="cpu", variant=variant).unet.conv_in.weight
        assert torch.equal(weight, tensors["conv_in.weight"] + shift)


def test_a_pickle_with_code_in_it_is_not_run(copy):
    class Bomb:
        def __reduce__(self):
            return (open, (str(copy / "ran"), "w"))

    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Bomb()}, copy / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(VideoError, match="unet: its weights could not be loaded"):
        TextToImage.load(copy)
    (copy / "text_encoder" / "model.safetensors").unlink()
    (copy / "text_encoder" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    (copy / "unet" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(VideoError, match="text_encoder: its weights could not be loaded"):
        TextToImage.load(copy)
    assert not (copy / "ran").exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_lack_a_tensor_are_refused(copy, part):
    # The libraries would leave it random with no more than a warning.
    path = next((copy / part).glob("*.safetensors"))
    tensors = load_file(path)
    gone = sorted(tensors)[3]
    save_file({k: v for k, v in tensors.items() if k != gone}, path, metadata={"format": "pt"})
    with pytest.raises(VideoError, match=f"{part}: its weights do not fit its config.json: 1 missing"):
        TextToImage.load(copy)


def test_truncated_weights_are_refused(copy):
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(VideoError, match="vae: its weights could not be loaded"):
        TextToImage.load(copy)


def test_what_is_fetched_from_a_repository():
    files = [
        "README.md",
        "v1-5-pruned.ckpt",
        "model_index.json",
        "safety_checker/model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
    ]
    plain = needed_files(files)
    assert set(files) - set(plain) == {
        "README.md",
        "v1-5-pruned.ckpt",
        "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    }
    half = needed_files(files, "fp16")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in half
    assert "unet/diffusion_pytorch_model.safetensors" not in half
    assert "vae/diffusion_pytorch_model.bin" in half  # it has no such variant


# ------------------------------------------------------------------------------------------ folders of other kinds


@pytest.mark.parametrize(
    ("class_name", "said"),
    [
        ("StableDiffusionXLPipeline", "Stable Diffusion XL"),
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("FluxPipeline", "FLUX"),
        ("PixArtAlphaPipeline", "PixArt"),
        ("DiTPipeline", "DiT"),
        ("StableDiffusionUpscalePipeline", "upscaler"),
        ("StableDiffusionInpaintPipeline", "inpainting"),
        ("StableVideoDiffusionPipeline", "Stable Video Diffusion"),
        ("MusicLDMPipeline", "a MusicLDMPipeline"),
    ],
)
def test_other_pipelines_are_refused_by_name(tmp_path, class_name, said):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    with pytest.raises(
        VideoError, match=f"this is {said}|this is a .*{said}.*; expected a Stable Diffusion 1.x or 2.x"
    ):
        TextToImage.load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"in_channels": 9}, "an inpainting model"),
        ({"in_channels": 7}, "an upscaler"),
        ({"addition_embed_type": "text_time"}, "Stable Diffusion XL"),
        ({"cross_attention_dim": 24}, f"text_encoder/ gives {TEXT_WIDTH} channels"),
        ({"_class_name": "UNet3DConditionModel"}, "a Tune-A-Video folder.*TuneAVideo.from_pretrained"),
        ({"_class_name": "UNetSpatioTemporalConditionModel"}, "found UNetSpatioTemporalConditionModel"),
    ],
)
def test_a_unet_of_another_kind_is_refused_by_name(copy, fields, said):
    change(copy / "unet" / "config.json", **fields)
    with pytest.raises(VideoError, match=said):
        TextToImage.load(copy)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "an empty folder"),
        ({"config.json": {"_class_name": "ControlNetModel"}}, "a ControlNet"),
        ({"config.json": {"_class_name": "UNet2DConditionModel"}}, "the unet/ of a text-to-image folder alone"),
        ({"config.json": {"class": "HouseDiffusion"}}, "a single model \\(HouseDiffusion\\)"),
        ({"adapter_config.json": {}}, "a LoRA"),
        ({"v1-5.ckpt": {}}, "a folder with v1-5.ckpt, a single checkpoint file"),
        ({"notes.txt": {}}, "a folder without a model_index.json \\(it holds notes.txt\\)"),
    ],
)
def test_folders_that_are_no_pipeline_are_named(tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(VideoError, match=f"this is {said}"):
        TextToImage.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("style.safetensors", "lora_unet_down.lora_up.weight", "a LoRA"),
        ("canny.safetensors", "control_model.input_blocks.0.weight", "a ControlNet"),
        ("xl.safetensors", "conditioner.embedders.1.model.weight", "Stable Diffusion XL in a single file"),
        ("sd.safetensors", "model.diffusion_model.weight", "a single checkpoint file; .*from_single_file"),
        ("delta.safetensors", "down_blocks.0.attn_temp.to_q.weight", "TuneAVideo.load_delta"),
    ],
)
def test_single_files_are_named(tmp_path, name, tensor, said):
    save_file({tensor: torch.zeros(1)}, tmp_path / name)
    with pytest.raises(VideoError, match=said):
        TextToImage.load(tmp_path / name)


def test_what_is_not_there():
    with pytest.raises(FileNotFoundError, match="no such folder; packaged names: sprites"):
        TextToImage.load("no-such-model")


@pytest.mark.parametrize(
    ("part", "said"),
    [("vae", "no vae/ in it"), ("tokenizer", "no tokenizer/"), ("scheduler", "no scheduler/")],
)
def test_a_folder_with_a_part_missing(copy, part, said):
    shutil.rmtree(copy / part)
    with pytest.raises(VideoError, match=said):
        TextToImage.load(copy)


def test_parts_that_are_something_else(copy):
    change(copy / "vae" / "config.json", _class_name="AutoencoderTiny")
    with pytest.raises(VideoError, match="vae: found AutoencoderTiny, expected AutoencoderKL"):
        TextToImage.load(copy)
    change(copy / "vae" / "config.json", _class_name="AutoencoderKL")
    for path in (copy / "tokenizer").iterdir():
        path.write_text("{}")
    with pytest.raises(VideoError, match="tokenizer"):
        TextToImage.load(copy)

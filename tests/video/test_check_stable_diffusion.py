"""The program that runs Stable Diffusion's exact shapes: its configs, and all of it at shapes a test can bear."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from trifold.video.errors import VideoError
from trifold.video.inflate import inflate, temporal_names
from trifold.video.text_to_image import TextToImage
from trifold.video.trainable import trainable_names

from .tiny import TEXT_WIDTH


@pytest.fixture(scope="module")
def program():
    path = Path(__file__).parents[2] / "scripts" / "check_stable_diffusion.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[path.stem]


@pytest.fixture
def small(program):
    """Stable Diffusion 2.1's options and blocks with few channels; 8 pixels per latent, as there."""
    unet = {
        **program.SHAPES["sd-2.1"].unet,
        "sample_size": 8,
        "block_out_channels": (8, 16, 16, 16),
        "attention_head_dim": (1, 2, 2, 2),
        "cross_attention_dim": TEXT_WIDTH,
        "norm_num_groups": 4,
        "layers_per_block": 1,
    }
    with torch.device("meta"):
        image = sum(p.numel() for p in UNet2DConditionModel(**unet).parameters())
    # One transformer block 8 wide on the way down, two on the way up; two 16 wide, one in the middle, four.
    attention = 3 * (4 * 8**2 + 8) + 7 * (4 * 16**2 + 16)
    new = attention + 3 * 2 * 8 + 7 * 2 * 16
    return program.Shape(
        unet=unet,
        vae={**program.VAE, "block_out_channels": (4, 4, 8, 8), "norm_num_groups": 2, "layers_per_block": 1},
        text={
            **program.TEXT,
            "vocab_size": 1000,
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        scheduler=program.SHAPES["sd-2.1"].scheduler,
        parameters=image + new,
        new=new,
        trainable=attention + 2 * (3 * 8**2 + 7 * 16**2),
    )


@pytest.fixture
def config(program):
    return program.Check("sd-2.1", size=32, num_frames=2)


@pytest.mark.parametrize("which", ["sd-1.4", "sd-2.1"])
def test_the_shapes_have_the_published_numbers_of_parameters(program, which):
    shape = program.SHAPES[which]
    with torch.device("meta"):
        image = UNet2DConditionModel(**shape.unet)
        unet = inflate(image)
    sizes = {name: p.numel() for name, p in unet.named_parameters()}
    assert sum(p.numel() for p in image.parameters()) == {"sd-1.4": 859_520_964, "sd-2.1": 865_910_724}[which]
    assert sum(sizes.values()) == shape.parameters
    assert sum(sizes[name] for name in temporal_names(unet)) == shape.new == 49_599_040
    chosen = trainable_names(unet)
    assert len(chosen) == 112
    assert sum(sizes[name] for name in chosen) == shape.trainable == 74_354_880


def test_the_tokenizer_has_clips_size_and_marks(program, tmp_path):
    from transformers import CLIPTokenizer

    program.write_tokenizer(tmp_path / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert len(tokenizer) == 49408
    assert tokenizer.model_max_length == 77
    ids = tokenizer("A panda is skiing").input_ids
    assert (ids[0], ids[-1]) == (49406, 49407)
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "a panda is skiing"


def test_everything_runs_and_is_counted(program, small, config, tmp_path):
    report = program.check(config, tmp_path, small)
    assert report.problems == []
    assert [name for name, _, _ in report.phases][-2:] == ["edit, one step", "write and read the MP4"]
    assert f"| trainable | {small.trainable:,} |" in report.table()
    assert report.counts["bytes of the delta"] > 4 * small.trainable


def test_files_of_the_hub_are_half_precision_and_bear_the_old_names(program, small, tmp_path):
    program.write_folder(tmp_path / "new", small)
    program.write_folder(tmp_path / "old", small, old=True)
    for name, suffix in (("new", ".safetensors"), ("old", ".bin")):
        files = {p.suffix for part in ("unet", "vae", "text_encoder") for p in (tmp_path / name / part).iterdir()}
        assert files == {".json", suffix}
    with safe_open(tmp_path / "new" / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118  # no mapping
    old = torch.load(tmp_path / "old" / "vae" / "diffusion_pytorch_model.bin", weights_only=True)
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in old
    assert torch.get_default_dtype() == torch.float32
    one, two = (TextToImage.load(tmp_path / name) for name in ("new", "old"))
    for part in ("unet", "vae", "text_encoder"):
        first, second = (getattr(model, part).state_dict() for model in (one, two))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first), part


def test_another_count_or_too_much_memory_is_a_failure(program, small, config, tmp_path, capsys, monkeypatch):
    wrong = dataclasses.replace(small, trainable=small.trainable + 1)
    monkeypatch.setitem(program.SHAPES, "sd-2.1", wrong)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(program.tempfile, "tempdir", None)  # it is asked for once and remembered
    assert program.main(dataclasses.replace(config, files="bin", precision="bfloat16", limit_gib=0.001)) == 1
    said = capsys.readouterr()
    assert f"parameters, trainable: expected {small.trainable + 1}, found {small.trainable}" in said.err
    assert "within 0.001 GiB" in said.err
    assert "| edit, one step |" in said.out
    assert list(tmp_path.iterdir()) == []  # nothing is left


def test_a_folder_to_keep_must_be_new(program, config, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(VideoError, match="name a new folder"):
        program.main(dataclasses.replace(config, keep=tmp_path))

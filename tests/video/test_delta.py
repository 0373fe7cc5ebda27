"""The delta: small, whole, and at home on every copy of its base and nowhere else."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from trifold.video.delta import PROBES, BaseMark, Delta
from trifold.video.errors import VideoError
from trifold.video.pipeline import TuneAVideo
from trifold.video.trainable import trainable_names

from .tiny import same_tensors, tiny_clip, tiny_tuning, write_tiny

PROMPT = "a red square moves left"
CLIP = tiny_clip(name="square")


@pytest.fixture(scope="module")
def tuned(folder, tmp_path_factory):
    """A tuned pipeline and the delta that it left."""
    run = tmp_path_factory.mktemp("run")
    pipe = TuneAVideo.from_text_to_image(folder, device="cpu")
    pipe.tune(CLIP, PROMPT, tiny_tuning(run))
    return pipe, run / "delta.safetensors"


def test_a_delta_is_the_trained_tensors_and_its_story(tuned, folder):
    pipe, path = tuned
    names = trainable_names(pipe.unet)
    tensors = load_file(path)
    assert sorted(tensors) == sorted(names)
    whole = sum(p.numel() * 4 for p in pipe.unet.parameters())
    assert sum(t.numel() * 4 for t in tensors.values()) < 0.12 * whole
    delta = Delta.load(path)
    assert delta.num_bytes == sum(t.numel() * 4 for t in tensors.values())
    assert (delta.base, delta.prompt, delta.clip, delta.steps) == (str(folder), PROMPT, "square", 3)
    assert (delta.selection, delta.temporal_init, delta.group_norm) == ("queries_and_temporal", "zero", "frame")
    assert delta.mark == pipe.tuned.mark
    assert len(delta.mark.probes) == PROBES
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["delta"])["trifold_version"]


def test_it_loads_onto_a_second_copy_bit_for_bit(tuned, folder, tmp_path):
    pipe, path = tuned
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    other = TuneAVideo.from_text_to_image(copy, device="cpu", seed=7)
    assert not same_tensors(other.unet, pipe.unet)
    delta = other.load_delta(path)
    assert delta.prompt == PROMPT
    assert same_tensors(other.unet, pipe.unet)
    assert (other.edit(CLIP, "a blue circle", steps=2).frames == pipe.edit(CLIP, "a blue circle", steps=2).frames).all()
    assert same_tensors(TuneAVideo.from_delta(path, device="cpu").unet, pipe.unet)  # it names its base
    again = other.save_delta(tmp_path / "again.safetensors")
    assert again.read_bytes() != b""
    assert all(torch.equal(t, delta.tensors[n]) for n, t in Delta.load(again).tensors.items())
    assert Delta.load(again).prompt == PROMPT


def test_a_copy_in_half_precision_is_the_same_base(tuned, folder, tmp_path):
    for dtype in (torch.float16, torch.bfloat16):
        copy = shutil.copytree(folder, tmp_path / str(dtype))
        path = copy / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({k: v.to(dtype) for k, v in load_file(path).items()}, path)
        pipe = TuneAVideo.from_text_to_image(copy, device="cpu")
        pipe.load_delta(tuned[1])
        trained = Delta.load(tuned[1]).tensors
        state = pipe.unet.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in trained.items())


def test_another_base_is_refused_and_left_alone(tuned, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "finetuned")
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v * 1.01 for k, v in load_file(path).items()}, path)
    other = TuneAVideo.from_text_to_image(copy, device="cpu")
    before = {n: t.clone() for n, t in other.unet.state_dict().items()}
    with pytest.raises(
        VideoError, match=r"delta.safetensors: was tuned on .* other weights \(\d+ of 256 probes differ\)"
    ):
        other.load_delta(tuned[1])
    assert all(torch.equal(t, before[n]) for n, t in other.unet.state_dict().items())
    other.load_delta(tuned[1], any_base=True)
    assert not torch.equal(other.unet.conv_in.weight, tuned[0].unet.conv_in.weight)
    name = trainable_names(other.unet)[0]
    assert torch.equal(other.unet.state_dict()[name], tuned[0].unet.state_dict()[name])


@pytest.mark.parametrize("unet", [{"block_out_channels": (8, 24)}, {"attention_head_dim": 4}, {"freq_shift": 1}])
def test_a_base_of_another_shape_is_refused(tuned, tmp_path, unet):
    other = TuneAVideo.from_text_to_image(write_tiny(tmp_path / "sd", unet=unet), device="cpu")
    for any_base in (False, True):
        with pytest.raises(VideoError, match=r"another base: its unet has another shape$"):
            other.load_delta(tuned[1], any_base=any_base)


def test_another_inflation_is_refused(tuned, base):
    other = TuneAVideo.from_text_to_image(base, group_norm="clip")
    with pytest.raises(VideoError, match="was tuned with group_norm 'frame', this unet has 'clip'"):
        other.load_delta(tuned[1])


def test_random_branches_that_were_frozen_travel_too(base, tmp_path):
    pipe = TuneAVideo.from_text_to_image(base, temporal_init="original", seed=3)
    pipe.tune(CLIP, PROMPT, tiny_tuning(tmp_path, selection="published_checkpointing"))
    other = TuneAVideo.from_text_to_image(base, temporal_init="original", seed=4)
    other.load_delta(tmp_path / "delta.safetensors")
    assert same_tensors(other.unet, pipe.unet)


def test_reset_and_a_second_delta(tuned, base, tmp_path):
    fresh, pipe = TuneAVideo.from_text_to_image(base), TuneAVideo.from_text_to_image(base)
    pipe.tune(CLIP, PROMPT, tiny_tuning(tmp_path, selection="all"))
    assert not torch.equal(pipe.unet.conv_in.weight, fresh.unet.conv_in.weight)
    assert torch.equal(base.unet.conv_in.weight, fresh.unet.conv_in.weight)  # the image model keeps its own
    pipe.load_delta(tuned[1])
    assert same_tensors(pipe.unet, tuned[0].unet)  # nothing of the first tuning is left
    pipe.reset()
    assert same_tensors(pipe.unet, fresh.unet)
    with pytest.raises(VideoError, match="nothing has been tuned"):
        pipe.save_delta(tmp_path / "none.safetensors")


def test_tuning_twice_adds_up(base, tmp_path):
    pipe = TuneAVideo.from_text_to_image(base)
    pipe.tune(CLIP, PROMPT, tiny_tuning(tmp_path / "one", selection="temporal"))
    pipe.tune(CLIP, PROMPT, tiny_tuning(tmp_path / "two", selection=("attn1.to_q",)))
    other = TuneAVideo.from_delta(tmp_path / "two" / "delta.safetensors", base)
    assert same_tensors(other.unet, pipe.unet)
    assert other.tuned.steps == 6
    assert other.tuned.selection == ("attn1.to_q",)


def test_files_that_are_no_delta(tmp_path, tuned, base):
    with pytest.raises(FileNotFoundError, match="no such delta"):
        Delta.load(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(VideoError, match="expected a delta written by save_delta"):
        Delta.load(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(tuned[1].read_bytes()[:5000])
    with pytest.raises(VideoError, match="not a complete safetensors file"):
        Delta.load(tmp_path / "cut.safetensors")
    tensors = load_file(tuned[1])
    save_file(tensors, tmp_path / "odd.safetensors", metadata={"format": "trifold-video-delta-1", "delta": "{}"})
    with pytest.raises(VideoError, match="its metadata is damaged"):
        Delta.load(tmp_path / "odd.safetensors")
    delta = Delta.load(tuned[1])
    bent = Delta(**{**vars(delta), "tensors": {**delta.tensors, "extra": torch.zeros(1)}})
    with pytest.raises(VideoError, match="1 tensors are unknown or of another shape: extra"):
        TuneAVideo.from_text_to_image(base).load_delta(bent.save(tmp_path / "bent.safetensors"))
    with pytest.raises(VideoError, match=r"a delta is a \.safetensors file"):
        delta.save(tmp_path / "delta.bin")


def test_marks_do_not_depend_on_the_temporal_weights(base):
    one, two = (TuneAVideo.from_text_to_image(base, temporal_init=init, seed=2) for init in ("zero", "original"))
    assert one.tuned.mark == two.tuned.mark
    assert one.tuned.mark.differences(BaseMark.of(two.unet)) == ""

"""Bad input as a user meets it: each command ends with one clear line and status 1, and leaves nothing behind."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from trifold.cli.main import main
from trifold.video.delta import Delta
from trifold.video.pipeline import TuneAVideo
from trifold.video.read import read_clip
from trifold.video.text_to_image import TextToImage

from .clips import moving, write_sound, write_video
from .tiny import tiny_clip, write_tiny

pytest.importorskip("av", reason="PyAV is not installed")

PROMPT = ("--prompt", "a red square")
SHORT = ("--max-train-steps", "2", "--report-to", "none", "--num-frames", "4", "--edit.steps", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, a good clip and files that are none."""
    folder = tmp_path_factory.mktemp("place")
    write_tiny(folder / "model")
    frames = moving(12)
    write_video(folder / "good.mp4", frames, 8)
    write_video(folder / "one.mp4", frames[:1], 8)
    content = write_video(folder / "none.mp4", frames, 8, container={"movflags": "+faststart"}).read_bytes()
    (folder / "none.mp4").write_bytes(content[: content.index(b"mdat") + 4])  # an index of what is not there
    write_video(folder / "odd.mkv", moving(8, 63, 97), 8, pixels="yuv444p")
    write_sound(folder / "sound.mp4")
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    whole = (folder / "good.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "index.mp4").write_bytes(whole[: len(whole) * 9 // 10])  # the end of its index is missing
    for name, index in (("sdxl", {"_class_name": "StableDiffusionXLPipeline"}), ("no-vae", {})):
        shutil.copytree(folder / "model", folder / name)
        path = folder / name / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | index))
    shutil.rmtree(folder / "no-vae" / "vae")
    return folder


@pytest.fixture
def refused(place, tmp_path, capsys, monkeypatch):
    """Runs a command that must fail, and returns its one line; {} stands for the folder of the files."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        status = main(["video", *(str(word).format(place) for word in words)])
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("warning: ", "step "))]
        assert status == 1
        assert len(said) == 1
        assert said[0].startswith("trifold: ")
        assert sorted(tmp_path.rglob("*")) == before
        return said[0]

    return run


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone.mp4", "no such file or folder"),
        ("text.mp4", "not a video file"),
        ("none.mp4", "zero frames could be decoded"),
        ("sound.mp4", r"no video stream in this file \(only sound\)"),
        ("half.mp4", r"without its index \(moov\): cut short"),
        ("index.mp4", "a video stream without a codec that is known here: cut short"),
        ("model", "no .png, .jpg, .jpeg files in this folder"),
    ],
)
def test_clips_that_are_none(refused, name, said):
    line = refused("tune", f"{{}}/{name}", *PROMPT, "--model", "{}/model", "--output-dir", "run", *SHORT)
    assert name in line
    assert re.search(said, line)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{}/sdxl", "Stable Diffusion XL"),
        ("{}/no-vae", "no vae/ in it"),
        ("{}/good.mp4", "this is a file, not a folder"),
        ("{}/gone", "no such folder"),
    ],
)
def test_models_of_another_kind(refused, model, said):
    assert said in refused("tune", "{}/good.mp4", *PROMPT, "--model", model, "--output-dir", "run", *SHORT)


def test_runs_that_are_none(refused):
    assert "gone: no such run folder or delta" in refused("edit", "gone", *PROMPT)
    assert "good.mp4: expected a run folder, a delta" in refused("edit", "{}/good.mp4", *PROMPT, "--out", "a.mp4")
    assert "gone/source.json: no such file" in refused("evaluate", "gone")
    assert "expected an inflated UNet3DConditionModel" in refused("convert", "{}/model", "out")


@pytest.mark.parametrize("name", ["one.mp4", "odd.mkv"])
def test_one_frame_and_odd_sizes_are_edited(place, tmp_path, name, capsys):
    words = ["tune", place / name, *PROMPT, "--model", place / "model", "--output-dir", tmp_path / "run", *SHORT]
    assert main(["video", *map(str, words), "--edit-prompts", "a blue circle"]) == 0
    edited = read_clip(tmp_path / "run" / "samples" / "a-blue-circle-0.mp4")
    assert edited.num_frames == (1 if name == "one.mp4" else 4)
    assert edited.fps == 8
    assert (tmp_path / "run" / "index.html").is_file()


# ------------------------------------------------------------------------------------------- a run that diverges


def test_what_diverged_is_neither_edited_nor_kept(place, tmp_path, refused):
    pipe = TuneAVideo.from_text_to_image(place / "model", device="cpu")
    pipe.tuned.remember(names := [n for n, _ in pipe.unet.named_parameters() if "attn_temp" in n])
    with torch.no_grad():
        for name in names:
            dict(pipe.unet.named_parameters())[name].fill_(1e36)
    pipe.save_delta(tmp_path / "delta.safetensors")
    assert Delta.load(tmp_path / "delta.safetensors").tensors.keys() == set(names)
    words = ("edit", tmp_path / "delta.safetensors", *PROMPT, "--clip", "{}/good.mp4", "--steps", 2, "--out", "a.mp4")
    assert "inversion gave values that are not finite: the tuned weights have diverged" in refused(*words)
    assert "sampling gave values that are not finite" in refused(*words, "--start", "noise")
    with pytest.raises(ValueError, match="not finite"):
        pipe.invert(tiny_clip(), steps=2)


# ------------------------------------------------------------------------------------------- files cut short


def test_a_matroska_file_cut_short_is_told(place, tmp_path):
    noise = np.random.default_rng(0).integers(-20, 20, (20, 64, 96, 1))
    path = write_video(tmp_path / "whole.mkv", (moving(20).astype(int) + noise).clip(0, 255).astype(np.uint8), 8)
    assert "cut short" not in read_clip(path).note
    content = path.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 6 // 10])
    for backend in ("auto", "pyav"):
        clip = read_clip(tmp_path / "cut.mkv", backend=backend)
        assert 1 <= clip.num_frames < 20
        assert f"cut short: the header promises 2.500 s, {clip.num_frames / 8:.3f} s are there" in clip.note
        assert np.array_equal(clip.frames, read_clip(path).frames[: clip.num_frames])


def test_whole_frames_before_a_torn_one_are_kept(tmp_path):
    """However many the decoder's threads hold when the file ends."""
    path = write_video(tmp_path / "whole.mp4", moving(3), 8, container={"movflags": "+faststart"})
    content = path.read_bytes()
    first = len(content) - content.index(b"mdat")
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) - first // 8])
    clip = read_clip(tmp_path / "cut.mp4", backend="pyav")
    assert clip.num_frames >= 1
    assert "the file ends within a frame" in clip.note
    assert np.array_equal(clip.frames[0], read_clip(path).frames[0])


def test_weights_that_cannot_be_read_are_told_apart(place, tmp_path):
    shutil.copytree(place / "model", tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.safetensors is cut short or damaged: "):
        TextToImage.load(tmp_path / "model")
    weights.write_bytes(content)
    with safe_open(weights, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    weights.unlink()
    pickled = weights.with_suffix(".bin")
    torch.save(tensors, pickled)
    content = pickled.read_bytes()
    for damaged, said in (
        (content[:-2000], "truncated or not a torch checkpoint"),
        (b"hello", "found text that begins 'hello'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git-lfs"),
    ):
        pickled.write_bytes(damaged)
        with pytest.raises(ValueError, match=said):
            TextToImage.load(tmp_path / "model")
    pickled.write_bytes(content)
    assert TextToImage.load(tmp_path / "model").source.endswith("model")


# ------------------------------------------------------------------------------------------- the hub


def test_without_a_network_the_hub_is_one_line_or_the_cache(refused, place, monkeypatch):
    class NoNetwork(Exception):
        """As those of network libraries: no OSError."""

    def unreachable(*_, **__):
        raise NoNetwork("Name or service not known")

    def cached(repository: str, *, local_files_only: bool = False, **_) -> str:
        if not local_files_only:
            raise NoNetwork("Name or service not known")
        if repository == "mine/fetched":
            return str(place / "model")
        raise FileNotFoundError("nothing in the cache")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", unreachable)
    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    line = refused("invert", "{}/good.mp4", "--model", "some/model", "--out", "out")
    assert "some/model: no folder of that name, and nothing from the Hugging Face hub (NoNetwork: Name or" in line
    assert TextToImage.load("mine/fetched", device="cpu").source == "mine/fetched"
    # A hub that answers and then breaks off is no reason to take what may lie half fetched in the cache.
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_: ["model_index.json"])
    assert "NoNetwork" in refused("invert", "{}/good.mp4", "--model", "mine/fetched", "--out", "out")

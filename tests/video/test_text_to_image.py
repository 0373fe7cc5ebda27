"""Text to image from a Stable Diffusion folder: prompts, frames, and the same pictures as diffusers'."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from trifold.common.diffusion import PerSampleNoise, ancestral
from trifold.video.clip import Clip
from trifold.video.errors import VideoError
from trifold.video.prompts import PromptWarning
from trifold.video.samplers import run_sampler
from trifold.video.text_to_image import TextToImage

from .tiny import MAX_TOKENS, TEXT_WIDTH, tiny_frames, write_tiny

PROMPT = "a red square moves left"


@pytest.fixture(scope="module")
def model(folder):
    return TextToImage.load(folder, device="cpu")


# ------------------------------------------------------------------------------------------ prompts


def test_text_states_are_those_of_diffusers_and_encoded_once(model, monkeypatch):
    states = model.encode_text([PROMPT, "", PROMPT])
    assert states.shape == (3, MAX_TOKENS, TEXT_WIDTH)
    assert torch.equal(states[0], states[2])
    assert not torch.allclose(states[0], states[1])
    ids = model.tokenizer(PROMPT, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(states[0], model.text_encoder(ids).last_hidden_state[0])
    monkeypatch.setattr(model.prompts, "_encode", lambda prompt: pytest.fail(f"{prompt} encoded again"))
    assert torch.equal(model.encode_text([PROMPT])[0], states[0])


def test_a_prompt_that_is_too_long_is_told(model):
    fits = " ".join(["red"] * (MAX_TOKENS - 2))
    assert model.prompts.cut_words(fits) == ""
    with pytest.warns(PromptWarning, match=r"reads 12 tokens .* this is not read: 'blue sand'"):
        states = model.encode_text([f"{fits} blue sand"])
    assert torch.equal(states, model.encode_text([fits]))


def test_prompts_of_a_wrong_kind(model):
    for wrong in (PROMPT, [], [3]):
        with pytest.raises(VideoError, match="prompts: expected a sequence"):
            model.encode_text(wrong)


# ------------------------------------------------------------------------------------------ frames


def test_chunks_and_cache_do_not_change_latents(model, monkeypatch):
    frames = tiny_frames(5)
    with torch.no_grad():
        posterior = model.vae.encode(frames).latent_dist
        expected = 3 * posterior.mean
        decoded = model.vae.decode(posterior.mean).sample.clamp(-1, 1)
    for chunk in (1, 2, 5, 100):
        monkeypatch.setattr(model.codec, "chunk", chunk)
        model.codec._posteriors.clear()
        latents = model.encode_frames(frames)
        assert torch.allclose(latents, expected, atol=1e-6)
        assert torch.allclose(model.decode_latents(latents), decoded, atol=1e-5)
    monkeypatch.setattr(model.vae, "encode", lambda x: pytest.fail("encoded again"))
    sample = model.encode_frames(frames, torch.Generator().manual_seed(0))
    noise = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(sample, expected + 3 * posterior.std * noise, atol=1e-6)


def test_a_clip_is_its_frames(model):
    clip = Clip.from_tensor(tiny_frames(2), fps=8)
    assert torch.equal(model.encode_frames(clip), model.encode_frames(clip.to_tensor()))


def test_frames_that_cannot_be_encoded(model):
    with pytest.raises(VideoError, match="pictures of 15x16: both sides must be multiples of 2"):
        model.encode_frames(torch.zeros(1, 3, 16, 15))
    with pytest.raises(VideoError, match=r"frames: expected \[F, 3, H, W\], found \[16, 16, 3\]"):
        model.encode_frames(torch.zeros(16, 16, 3))
    with pytest.raises(VideoError, match="not finite"):
        model.decode_latents(torch.full((1, 4, 8, 8), torch.nan))


# ------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("schedule", [{}, {"prediction_type": "v_prediction", "set_alpha_to_one": True}])
def test_pictures_are_those_of_diffusers(tmp_path, schedule):
    written = write_tiny(tmp_path / "sd", schedule=schedule)
    ours = TextToImage.load(written, device="cpu").generate_images(
        PROMPT, steps=4, guidance_scale=5.0, negative_prompt="sand", seed=3
    )
    pipeline = StableDiffusionPipeline.from_pretrained(written, safety_checker=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    theirs = pipeline(
        PROMPT, negative_prompt="sand", num_inference_steps=4, guidance_scale=5.0, generator=generator, output_type="np"
    )
    gap = np.abs(ours[0].numpy().astype(int) - (theirs.images[0] * 255).round().astype(int))
    assert gap.max() <= 1
    assert ours.float().std() > 20


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "euler", "dpmsolver++", "sde-dpmsolver++", ancestral])
def test_a_picture_does_not_depend_on_its_batch(model, sampler):
    prompts = [PROMPT, "a blue circle", "the sand"]
    options = {"steps": 3, "sampler": sampler, "size": (8, 16)}
    together = model.generate_images(prompts, seed=5, **options)
    assert together.shape == (3, 8, 16, 3)
    assert together.dtype == torch.uint8
    pairs = model.generate_images(prompts, seed=5, batch_size=2, **options)
    alone = model.generate_images([prompts[2]], seed=7, **options)
    assert (together.int() - pairs.int()).abs().max() <= 1
    assert (together[2].int() - alone[0].int()).abs().max() <= 1
    assert (together[0].int() - together[1].int()).abs().max() > 1


def test_all_samplers_agree_on_an_easy_density(model):
    """Where the net knows the data (x0 = 0.5 at every level) every sampler must arrive there."""

    class Known:
        path = model.path

        def __call__(self, x_t, t, cond=None):
            return torch.full_like(x_t, 0.5)

    x = PerSampleNoise([torch.Generator().manual_seed(0)]).randn_like(torch.empty(1, 4, 8, 8))
    last = float(model.path.sigma(0))  # Stable Diffusion's grid ends at time 0, with this much noise
    for name in ("ddim", "ddpm", "heun", "euler", "dpmsolver++", "sde-dpmsolver++"):
        out = run_sampler(name, model.schedule, Known(), x, None, steps=8)
        assert (out - 0.5).abs().max() < (5 * last if name in ("ddim", "ddpm", "heun") else 1e-4), name


def test_half_precision_stays_close(folder, model):
    half = TextToImage.load(folder, device="cpu", dtype=torch.bfloat16)
    assert half.unet.dtype == torch.float32
    gap = (half.generate_images(PROMPT, steps=3).float() - model.generate_images(PROMPT, steps=3).float()).abs()
    assert 0 < gap.mean() < 8
    with pytest.raises(VideoError, match="dtype: expected float32"):
        TextToImage.load(folder, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampler": "plms"}, "sampler: expected one of ddim, .* found 'plms'"),
        ({"size": 15}, "both sides must be multiples of 2"),
        ({"seed": -1}, "seed: expected 0"),
        ({"steps": 0}, "steps: expected 1"),
    ],
)
def test_settings_that_cannot_be(model, options, said):
    with pytest.raises(VideoError, match=said):
        model.generate_images(PROMPT, **{"steps": 1, **options})

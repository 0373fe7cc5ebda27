"""Inversion, editing and generation: one grid, right for every prediction, and a sample is its own."""

import numpy as np
import pytest
import torch
from trifold.common.diffusion import ddim
from trifold.video.clip import Audio
from trifold.video.editing import Inversion, invert_latents, sample_latents
from trifold.video.errors import VideoError
from trifold.video.pipeline import TuneAVideo
from trifold.video.text_to_image import LatentSpace

from .tiny import tiny_clip, tiny_frames, tiny_tuning

PROMPT = "a red square moves left"
OTHER = "a blue circle moves right"
SOUND = Audio(np.zeros((2, 480), dtype=np.float32), 48000)
CLIP = tiny_clip(name="square", audio=SOUND)


@pytest.fixture(scope="module")
def pipe(base, tmp_path_factory):
    """Tuned hard enough that its temporal attention does something."""
    pipe = TuneAVideo.from_text_to_image(base)
    pipe.tune(CLIP, PROMPT, tiny_tuning(tmp_path_factory.mktemp("run"), learning_rate=5e-2))
    return pipe


def gap(one, two):
    return int(np.abs(one.frames.astype(int) - two.frames.astype(int)).max())


# ------------------------------------------------------------------------------------------ inversion


def latent_space(base, **schedule):
    changed = type(base.schedule).from_config({**base.schedule.config, **schedule}, "here")
    return LatentSpace(base.vae, base.text_encoder, base.tokenizer, changed)


@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"prediction_type": "v_prediction"},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        {"set_alpha_to_one": True, "steps_offset": 0},
    ],
)
def test_the_round_trip_error_shrinks_with_the_steps(base, pipe, schedule):
    space = latent_space(base, **schedule)
    clean = pipe.latents(CLIP)
    errors = []
    for steps in (5, 20, 80):
        inverted = invert_latents(space, pipe.unet, clean, steps=steps)
        options = {"guidance_scale": 1.0, "steps": steps}
        (back,) = sample_latents(space, pipe.unet, [""], clean, inverted, **options)
        errors.append(float((back - clean[0]).norm() / clean.norm()))
    assert errors[0] > errors[1] > errors[2], errors
    assert errors[2] < 0.5 * errors[0], errors


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_inversion_is_right_for_every_prediction(base, kind):
    """For data N(0, 1) the flow stands still: x_T = x_0, whatever the net is asked for. The original's inversion takes
    every output for noise."""
    space = latent_space(base, prediction_type=kind)
    path = space.path

    def net(x, t, text):  # E[x0 | x] = alpha x, E[eps | x] = sigma x, so that v is 0
        t = t.long().reshape(-1, 1, 1, 1, 1)
        return {"epsilon": path.sigma(t) * x, "v_prediction": 0 * x, "sample": path.alpha(t) * x}[kind].float()

    clean = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    inverted = invert_latents(space, net, clean, steps=100)
    times = torch.tensor([0, *range(1, 1000, 10)])
    alpha, sigma = path.alpha(times), path.sigma(times)
    # Each step upwards asks at the state before it, so that eps is sigma_s x_t.
    up = alpha[1:] / alpha[:-1] * (1 - sigma[:-1] * sigma[1:]) + sigma[1:] ** 2
    down = alpha[1:] * alpha[:-1] + sigma[1:] * sigma[:-1]  # the cosine of the arc that a step cuts short
    assert up.prod() == pytest.approx(1, abs=0.02)
    assert torch.allclose(inverted.latents, clean * up.prod().float(), atol=1e-4)
    (back,) = sample_latents(space, net, [""], clean, inverted, guidance_scale=1.0, steps=100)
    assert torch.allclose(back, clean[0] * (up.prod() * down.prod()).float(), atol=1e-4)


def test_refinements_shrink_the_error_too(pipe):
    clean = pipe.latents(CLIP)
    errors = []
    for refinements in (0, 2):
        inverted = pipe.invert(clean, steps=10, refinements=refinements)
        (back,) = sample_latents(pipe.space, pipe.unet, [""], clean, inverted, guidance_scale=1.0, steps=10)
        errors.append(float((back - clean[0]).norm() / clean.norm()))
    assert errors[1] < 0.5 * errors[0], errors


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_inversion_and_every_sampler_walk_one_grid(pipe, strength):
    schedule, asked = pipe.space.schedule, {}

    def record(name):
        def on_step(step):
            asked.setdefault(name, []).append((int(step.t), int(step.s)))
            return step.x_s

        return on_step

    found = pipe.invert(CLIP, steps=4, strength=strength, on_step=record("inversion"))
    for name in ("ddim", "ddpm", "heun", "euler", "dpmsolver++", "sde-dpmsolver++"):
        pipe.edit(CLIP, OTHER, steps=4, strength=strength, inversion=found, sampler=name, on_step=record(name))
    up = asked.pop("inversion")
    times = schedule.times(4, strength)
    assert up == list(zip(times[:0:-1], times[-2::-1], strict=True))
    for name, steps in asked.items():
        assert [t for t, _ in steps] == times[:-1], name
    assert [(s, t) for t, s in asked["ddim"]] == up[::-1]


def test_an_inversion_is_kept_and_checked(pipe, tmp_path):
    found = pipe.invert(CLIP, PROMPT, steps=3)
    assert found.latents.shape == (1, 4, 3, 8, 8)
    read = Inversion.load(found.save(tmp_path / "inversion.safetensors"))
    assert torch.equal(read.latents, found.latents)
    assert (read.steps, read.strength, read.prompt) == (3, 1.0, PROMPT)
    one = pipe.edit(CLIP, OTHER, steps=3, inversion=read)
    assert gap(one, pipe.edit(CLIP, OTHER, steps=3, inversion=found)) == 0
    with pytest.raises(VideoError, match=r"made with steps=3, strength=1; asked for steps=4"):
        pipe.edit(CLIP, OTHER, steps=4, inversion=found)
    with pytest.raises(VideoError, match=r"inversion: of latents \[1, 4, 3, 8, 8\], the clip has \[1, 4, 2, 8, 8\]"):
        pipe.edit(tiny_clip(2), OTHER, steps=3, inversion=found)
    with pytest.raises(VideoError, match="start='noise' does not use one"):
        pipe.edit(CLIP, OTHER, steps=3, inversion=found, start="noise")
    Inversion(found.latents, 3).save(tmp_path / "i.safetensors")
    with pytest.raises(VideoError, match="not an inversion"):
        Inversion.load(pipe.save_delta(tmp_path / "delta.safetensors"))


# ------------------------------------------------------------------------------------------ editing


def test_an_edit_is_the_cores_own_sampling(pipe):
    """Step by step: the mean latents, inverted without guidance, sampled with it, decoded."""
    mean, _ = pipe.space.codec.posterior(CLIP.to_tensor())
    clean = mean.transpose(0, 1)[None]
    empty, text = pipe.space.encode_text([""]), pipe.space.encode_text([OTHER])
    bars = torch.cat([pipe.space.path.alphas_cumprod])
    with torch.no_grad():
        x, grid = clean, [1, 251, 501, 751]
        for t, before in zip(grid, [0, *grid[:-1]], strict=True):  # the net at t sees the latent of the step before
            a, b = bars[t].item(), bars[before].item()
            eps = pipe.unet(x, torch.tensor([t]), empty)
            x = a**0.5 * (x - (1 - b) ** 0.5 * eps) / b**0.5 + (1 - a) ** 0.5 * eps
        for t, after in zip(grid[::-1], [*grid[-2::-1], 0], strict=True):
            a, b = bars[t].item(), bars[after].item()
            uncond, cond = (pipe.unet(x, torch.tensor([t]), states) for states in (empty, text))
            eps = uncond + 7.5 * (cond - uncond)
            x = b**0.5 * (x - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps
    expected = pipe.space.decode_latents(x[0].transpose(0, 1))
    found = pipe.edit(CLIP, OTHER, steps=4, guidance_scale=7.5)
    assert (found.to_tensor() - expected).abs().max() < 2 / 255


def test_an_edit_keeps_rate_and_sound(pipe):
    edited = pipe.edit(CLIP, OTHER, steps=2)
    assert (edited.fps, edited.audio, edited.name) == (CLIP.fps, SOUND, OTHER)
    assert edited.frames.shape == CLIP.frames.shape


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start": "noise"},
        {"start": "noise", "strength": 0.6},
        {"sampler": "ddpm"},
        {"sampler": "ddim", "eta": 0.7},
        {"sampler": "sde-dpmsolver++"},
    ],
)
def test_a_batch_of_prompts_equals_one_at_a_time(pipe, options):
    prompts, options = [OTHER, PROMPT, "the sand"], {"steps": 3, "negative_prompt": "left", **options}
    together = pipe.edit(CLIP, prompts, seed=4, batch_size=3, **options)
    assert [clip.name for clip in together] == prompts
    pairs = pipe.edit(CLIP, prompts, seed=4, batch_size=2, **options)
    for i, prompt in enumerate(prompts):
        alone = pipe.edit(CLIP, prompt, seed=4 + i, **options)
        assert gap(alone, together[i]) <= 1
        assert gap(alone, pairs[i]) <= 1
    assert gap(together[0], together[1]) > 1


def test_seeds(pipe):
    def edit(**options):
        return pipe.edit(CLIP, OTHER, steps=2, **options)

    assert gap(edit(start="noise", seed=1), edit(start="noise", seed=1)) == 0
    assert gap(edit(start="noise", seed=1), edit(start="noise", seed=2)) > 5
    assert gap(edit(seed=1), edit(seed=2)) == 0  # DDIM from an inversion draws nothing
    with pytest.raises(VideoError, match="seed: expected 0"):
        edit(seed=-1)


def test_strength_goes_from_the_clip_to_no_trace_of_it(pipe):
    """SDEdit: the fewer steps, the nearer to the clip; at 1 nothing of its latents is left."""
    clean = pipe.latents(CLIP)
    far = []
    for strength in (0.1, 0.5, 0.9):
        (x,) = sample_latents(
            pipe.space, pipe.unet, [OTHER], clean, strength=strength, guidance_scale=1.0, steps=10, sampler="ddim"
        )
        far.append(float((x - clean[0]).norm()))
    assert far[0] < far[1] < far[2]
    options = {"guidance_scale": 1.0, "steps": 2, "seed": 3}
    one, two = (next(sample_latents(pipe.space, pipe.unet, [OTHER], z, **options)) for z in (clean, 0 * clean))
    assert torch.equal(one, two)


def test_the_noised_start_of_a_partial_edit_is_exact(pipe):
    seen = []

    def look(step):
        seen.append(step.x_t)
        return step.x_s

    pipe.edit(CLIP, OTHER, start="noise", strength=0.5, steps=4, seed=9, on_step=look)
    clean = pipe.latents(CLIP)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(9))
    bar = pipe.space.path.alphas_cumprod[251].item()
    assert torch.allclose(seen[0], bar**0.5 * clean + (1 - bar) ** 0.5 * noise, atol=1e-5)


def test_on_step_and_progress_are_passed_through(pipe):
    bars, count = [], []

    def progress(steps):
        bars.append(len(steps))
        return steps

    def freeze(step):
        count.append(step.index)
        return torch.zeros_like(step.x_s)

    edited = pipe.edit(CLIP, [OTHER, PROMPT], steps=3, on_step=freeze, progress=progress)
    assert bars == [3, 3, 3]  # one inversion, two prompts
    assert count == [0, 1, 2] * 2
    assert gap(*edited) == 0


def test_a_sampler_may_be_a_function(pipe):
    assert gap(pipe.edit(CLIP, OTHER, steps=3, sampler=ddim), pipe.edit(CLIP, OTHER, steps=3)) == 0


def test_reconstruction_approaches_the_vae(pipe):
    best = (pipe.space.decode_latents(pipe.space.encode_frames(CLIP)) + 1) * 127.5
    errors = []
    for refinements in (0, 3):
        clip = pipe.reconstruct(CLIP, PROMPT, steps=10, refinements=refinements)
        errors.append(np.abs(clip.frames - best.permute(0, 2, 3, 1).numpy()).mean())
    assert errors[1] < 0.2 * errors[0]
    assert errors[1] < 4
    guided = pipe.reconstruct(CLIP, PROMPT, steps=10, refinements=3, guidance_scale=12.5)
    assert np.abs(guided.frames - best.permute(0, 2, 3, 1).numpy()).mean() > errors[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start": "middle"}, "start: expected inversion or noise, found 'middle'"),
        ({"strength": 0.0}, "strength: expected a number above 0"),
        ({"strength": 1.5}, "strength: expected a number above 0"),
        ({"sampler": "plms"}, "sampler: expected one of"),
        ({"eta": 0.5, "sampler": "euler"}, "eta: only ddim has it"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"steps": 1000}, "steps: expected 1 to 999"),
    ],
)
def test_settings_that_cannot_be(pipe, options, said):
    with pytest.raises(VideoError, match=said):
        pipe.edit(CLIP, OTHER, **{"steps": 1, **options})


def test_weights_that_are_not_finite_are_noticed(base):
    broken = TuneAVideo.from_text_to_image(base)
    broken.tuned.remember(["conv_out.bias"])
    with torch.no_grad():
        broken.unet.conv_out.bias.fill_(torch.inf)
    with pytest.raises(VideoError, match="sampling gave values that are not finite"):
        broken.edit(CLIP, OTHER, steps=1, start="noise")


# ------------------------------------------------------------------------------------------ generation and the rest


def test_generate(pipe):
    clip = pipe.generate(PROMPT, 2, steps=2)
    assert clip.frames.shape == (2, 16, 16, 3)  # the unet's sample size, 8 latents
    assert (float(clip.fps), clip.audio, clip.name) == (8, None, PROMPT)
    several = pipe.generate([OTHER, PROMPT], 2, size=(8, 12), fps=24, steps=2, seed=6)
    assert [c.frames.shape for c in several] == [(2, 8, 12, 3)] * 2
    assert gap(several[1], pipe.generate(PROMPT, 2, size=(8, 12), steps=2, seed=7)) <= 1
    with pytest.raises(VideoError, match="num_frames: expected at least 1"):
        pipe.generate(PROMPT, 0)


def test_one_frame_of_an_untuned_model_is_the_image_models(base):
    """Zero-initialised temporal attention adds nothing, and one frame attends to itself."""
    pipe = TuneAVideo.from_text_to_image(base)
    clip = pipe.generate(PROMPT, 1, steps=4, guidance_scale=5.0, seed=2)
    picture = base.generate_images(PROMPT, steps=4, guidance_scale=5.0, seed=2)
    assert np.abs(clip.frames[0].astype(int) - picture[0].numpy().astype(int)).max() <= 1


def test_half_precision_stays_close(folder, pipe, tmp_path):
    half = TuneAVideo.from_text_to_image(folder, dtype=torch.bfloat16, device="cpu")
    half.load_delta(pipe.save_delta(tmp_path / "delta.safetensors"))
    assert half.unet.conv_in.weight.dtype == torch.float32
    one, two = (p.edit(CLIP, OTHER, steps=2, guidance_scale=2.0) for p in (half, pipe))
    assert 0 < np.abs(one.frames.astype(int) - two.frames.astype(int)).mean() < 8


def test_frames_without_a_clip(pipe):
    frames = tiny_frames(2)
    assert torch.equal(pipe.latents(frames), pipe.space.encode_frames(frames).transpose(0, 1)[None])
    assert pipe.invert(frames, steps=2).latents.shape == (1, 4, 2, 8, 8)

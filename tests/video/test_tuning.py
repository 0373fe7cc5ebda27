"""Tuning on one clip: the loss is its definition, the defaults train what they should, a run can be cut anywhere."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trifold.common.train import SampleNoise, TrainingDiverged, list_checkpoints
from trifold.video.delta import Delta
from trifold.video.errors import VideoError
from trifold.video.pipeline import TuneAVideo
from trifold.video.trainable import trainable_names
from trifold.video.tuning import TuningClip, VideoTuning, tuning_loss

from .tiny import same_tensors, tiny_clip, tiny_tuning, write_tiny

PROMPT = "a red square moves left"
CLIP = tiny_clip(name="square")


@pytest.fixture
def pipe(base):
    return TuneAVideo.from_text_to_image(base)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """A pipeline tuned for four steps without a break, and its folder."""
    run = tmp_path_factory.mktemp("finished")
    pipe = TuneAVideo.from_text_to_image(base)
    pipe.tune(CLIP, PROMPT, tiny_tuning(run, max_train_steps=4, checkpointing_steps=1, use_ema=True))
    return pipe, run


# ------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("latents", ["sample", "mean"])
def test_the_loss_is_its_definition(base, prediction, latents):
    schedule = type(base.schedule).from_config({**base.schedule.config, "prediction_type": prediction}, "here")
    generator = torch.Generator().manual_seed(1)
    mean, std = torch.randn(4, 3, 8, 8, generator=generator), torch.rand(4, 3, 8, 8, generator=generator)
    batch = {k: v[None] for k, v in TuningClip(mean, std, torch.zeros(2, 5))[0].items()}
    seen = {}

    def net(x, t, text):
        seen.update(x=x, t=t, text=text)
        return 0.5 * x

    loss = tuning_loss(net, batch, SampleNoise(7, [3]), schedule=schedule, latents=latents)
    replay = SampleNoise(7, [3])
    t = replay.randint(0, 1000)
    x0 = mean[None] + (std * replay.randn(4, 3, 8, 8) if latents == "sample" else 0)
    eps = replay.randn(4, 3, 8, 8)
    bar = schedule.path.alphas_cumprod[t].float()
    x_t = bar.sqrt() * x0 + (1 - bar).sqrt() * eps
    wanted = eps if prediction == "epsilon" else bar.sqrt() * eps - (1 - bar).sqrt() * x0
    assert torch.allclose(seen["x"], x_t, atol=1e-5)
    assert torch.equal(seen["t"], t)
    assert loss.item() == pytest.approx((0.5 * x_t - wanted).square().mean().item(), rel=1e-5)


def test_noise_is_independent_between_frames_and_time_uniform():
    draws = [SampleNoise(0, [i]) for i in range(2000)]
    times = torch.cat([d.randint(0, 1000) for d in draws]).double()
    assert times.mean().item() == pytest.approx(499.5, abs=4 * 288.7 / 2000**0.5)
    eps = torch.cat([d.randn(1, 2, 1, 1) for d in draws]).flatten(1)
    assert abs(torch.corrcoef(eps.T)[0, 1].item()) < 4 / 2000**0.5


# ------------------------------------------------------------------------------------------ what is trained


def test_the_defaults_are_the_papers():
    config = VideoTuning()
    assert (config.learning_rate, config.max_train_steps, config.train_batch_size) == (3e-5, 500, 1)
    assert (config.adam_beta1, config.adam_beta2, config.adam_weight_decay) == (0.9, 0.999, 1e-2)
    assert config.max_grad_norm == 1.0
    assert config.gradient_checkpointing
    assert config.selection == "queries_and_temporal"


def test_down_blocks_move_and_nothing_frozen_does(pipe, base, tmp_path):
    image = {n: t.clone() for n, t in base.unet.state_dict().items()}
    before = {n: t.clone() for n, t in pipe.unet.state_dict().items()}
    pipe.tune(CLIP, PROMPT, tiny_tuning(tmp_path))
    trained = set(trainable_names(pipe.unet))
    moved = {n for n, t in pipe.unet.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == trained
    assert any(n.startswith("down_blocks.") for n in moved)
    assert all(torch.equal(t, image[n]) for n, t in base.unet.state_dict().items())


def test_the_published_behaviour_leaves_the_down_blocks(pipe, tmp_path):
    before = {n: t.clone() for n, t in pipe.unet.state_dict().items()}
    pipe.tune(CLIP, PROMPT, tiny_tuning(tmp_path, selection="published_checkpointing"))
    moved = {n for n, t in pipe.unet.state_dict().items() if not torch.equal(t, before[n])}
    assert moved
    assert not any(n.startswith("down_blocks.") for n in moved)


def test_gradient_checkpointing_changes_nothing_else(base, tmp_path):
    tuned = []
    for on in (True, False):
        pipe = TuneAVideo.from_text_to_image(base)
        pipe.tune(CLIP, PROMPT, tiny_tuning(tmp_path / str(on), gradient_checkpointing=on))
        tuned.append(pipe.unet)
    assert same_tensors(*tuned)


def test_the_clip_and_the_prompt_are_encoded_once(pipe, tmp_path, monkeypatch):
    vae, text = pipe.space.vae, pipe.space.text_encoder
    pipe.space.codec._posteriors.clear()
    pipe.space.prompts._states.clear()
    calls = []
    for module in (vae.encoder, text):
        monkeypatch.setattr(
            module, "forward", lambda *a, f=module.forward, m=module, **k: (calls.append(m), f(*a, **k))[1]
        )
    pipe.tune(CLIP, PROMPT, tiny_tuning(tmp_path, max_train_steps=5))
    assert calls == [vae.encoder, text]


def test_tuning_lowers_the_loss_on_the_clip(pipe, tmp_path):
    frames = CLIP.to_tensor()
    mean, std = (part.transpose(0, 1)[None] for part in pipe.space.codec.posterior(frames))
    batch = {"mean": mean, "std": std, "text": pipe.space.encode_text([PROMPT])}

    @torch.no_grad()
    def held_out():
        losses = [tuning_loss(pipe.unet, batch, SampleNoise(99, [i]), schedule=pipe.space.schedule) for i in range(12)]
        return torch.stack(losses).mean().item()

    before = held_out()
    pipe.tune(CLIP, PROMPT, tiny_tuning(tmp_path, max_train_steps=25, learning_rate=2e-2))
    assert held_out() < 0.97 * before


# ------------------------------------------------------------------------------------------ cut and resumed


def test_checkpoints_hold_the_trained_tensors_alone(finished):
    pipe, run = finished
    names = set(trainable_names(pipe.unet))
    _, newest = list_checkpoints(run)[-1]
    assert set(load_file(newest / "model.safetensors")) == names
    assert set(load_file(newest / "ema.safetensors")) == names
    whole = sum(p.numel() * 4 for p in pipe.unet.parameters())
    assert (newest / "model.safetensors").stat().st_size < 0.15 * whole
    assert json.loads((run / "config.json").read_text())["selection"] == "queries_and_temporal"


def test_a_stop_by_ctrl_c_and_a_resume_equal_an_uninterrupted_run(finished, base, tmp_path):
    whole, run = finished
    settings = {"max_train_steps": 4, "checkpointing_steps": 1, "use_ema": True}
    pipe = TuneAVideo.from_text_to_image(base)

    def press(unet, step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return {}

    stopped = pipe.tune(CLIP, PROMPT, tiny_tuning(tmp_path, validation_steps=1, **settings), validate=press)
    assert stopped.interrupted
    assert stopped.step == 3
    assert not (tmp_path / "delta.safetensors").exists()
    fresh = TuneAVideo.from_text_to_image(base)  # as another process would have it
    for resumed in (fresh, pipe):
        config = tiny_tuning(tmp_path, resume_from_checkpoint="latest", **settings)
        assert not resumed.tune(CLIP, PROMPT, config).interrupted
        assert same_tensors(resumed.unet, whole.unet)
        assert resumed.tuned.steps == 4
        for name in list_checkpoints(tmp_path)[-1:]:
            (name[1] / "state.json").unlink()  # the second time from step 3 again
    mine, theirs = (Delta.load(place / "delta.safetensors") for place in (tmp_path, run))
    assert all(torch.equal(mine.tensors[n], theirs.tensors[n]) for n in theirs.tensors)


KILLED = """
import os, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from tests.video.tiny import tiny_clip, tiny_tuning
from trifold.video.pipeline import TuneAVideo
torch.set_num_threads(int(sys.argv[4]))  # sums are split among threads
pipe = TuneAVideo.from_text_to_image(sys.argv[2], device="cpu")
config = tiny_tuning(sys.argv[3], max_train_steps=10**6, checkpointing_steps=1, use_ema=True)
pipe.tune(tiny_clip(name="square"), "a red square moves left", config)
"""


def test_kill_9_and_a_resume_equal_an_uninterrupted_run(folder, base, tmp_path):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", KILLED, str(root), str(folder), str(tmp_path), str(torch.get_num_threads())]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 200
        while not list_checkpoints(tmp_path):
            assert child.poll() is None, child.stderr.read().decode()[-2000:]
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.02)
    finally:
        child.kill()  # SIGKILL: nothing can be cleaned up
        child.communicate()
    reached = list_checkpoints(tmp_path)[-1][0]
    settings = {"max_train_steps": reached + 2, "checkpointing_steps": 1, "use_ema": True}
    resumed, whole = TuneAVideo.from_text_to_image(base), TuneAVideo.from_text_to_image(base)
    resumed.tune(CLIP, PROMPT, tiny_tuning(tmp_path, resume_from_checkpoint="latest", **settings))
    whole.tune(CLIP, PROMPT, tiny_tuning(tmp_path / "whole", **settings))
    assert same_tensors(resumed.unet, whole.unet)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("prompt", "clip", "changes", "said"),
    [
        ("a blue square", CLIP, {}, "had another prompt"),
        (PROMPT, tiny_clip(seed=5), {}, "had another frames"),
        (PROMPT, CLIP, {"selection": "temporal"}, "had another selection"),
        (PROMPT, CLIP, {"latents": "mean"}, "had another latents"),
    ],
)
def test_another_run_is_not_resumed(finished, pipe, prompt, clip, changes, said):
    _, run = finished
    config = tiny_tuning(run, max_train_steps=9, resume_from_checkpoint="latest", use_ema=True, **changes)
    with pytest.raises(VideoError, match=said):
        pipe.tune(clip, prompt, config)


def test_another_base_is_not_resumed(finished, tmp_path):
    other = TuneAVideo.from_text_to_image(write_tiny(tmp_path / "sd", seed=1), device="cpu")
    config = tiny_tuning(finished[1], max_train_steps=9, resume_from_checkpoint="latest", use_ema=True)
    with pytest.raises(VideoError, match="had another base_mark"):
        other.tune(CLIP, PROMPT, config)


def test_divergence_stops_with_the_last_good_checkpoint(pipe, tmp_path):
    calls = []

    def poison(unet, step):
        calls.append(step)
        with torch.no_grad():
            next(p for p in unet.parameters() if p.requires_grad).fill_(torch.nan)
        return {}

    config = tiny_tuning(tmp_path, max_train_steps=9, checkpointing_steps=2, validation_steps=3, logging_steps=1)
    with pytest.raises(TrainingDiverged, match=r"the last good checkpoint is .*checkpoint-2"):
        pipe.tune(CLIP, PROMPT, config, validate=poison)
    assert calls == [3]
    ((step, newest),) = list_checkpoints(tmp_path)
    assert step == 2
    good = load_file(newest / "model.safetensors")
    assert all(torch.isfinite(t).all() for t in good.values())
    state = pipe.unet.state_dict()  # and the pipeline goes on from there
    assert all(torch.equal(state[n], t) for n, t in good.items())
    assert not (tmp_path / "delta.safetensors").exists()


def test_divergence_before_any_checkpoint_leaves_the_base(pipe, base, tmp_path):
    fresh = TuneAVideo.from_text_to_image(base)
    config = tiny_tuning(tmp_path, max_train_steps=9, checkpointing_steps=None, logging_steps=1, learning_rate=1e30)
    with pytest.raises(TrainingDiverged, match="no checkpoint was written before"):
        pipe.tune(CLIP, PROMPT, config)
    assert same_tensors(pipe.unet, fresh.unet)


def test_a_clip_whose_size_does_not_fit(pipe, tmp_path):
    with pytest.raises(VideoError, match="both sides must be multiples of 2"):
        pipe.tune(tiny_clip(size=15), PROMPT, tiny_tuning(tmp_path))

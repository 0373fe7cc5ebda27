"""The prior's own stage: it learns the encoder's latents, nothing else changes, and it resumes exactly."""

import dataclasses
import signal

import pytest
import torch
from trifold.common.diffusion import shifted_time
from trifold.common.train import SampleNoise
from trifold.pointcloud import prior_training
from trifold.pointcloud import training as training_module
from trifold.pointcloud.diffusion import PointDiffusion
from trifold.pointcloud.latent import LatentPriorConfig
from trifold.pointcloud.normalise import Normalisation
from trifold.pointcloud.prior_training import EncodedClouds, PriorStage, prior_loss
from trifold.pointcloud.training import procedural_small, run_training
from trifold.pointcloud.training_data import TrainingClouds

from .sheet_runs import Killed, killed_after, sheet_run, weights
from .tiny_points import random_cloud, tiny_config, tiny_model


def clouds_of(count=6, points=24):
    stored = torch.stack([torch.from_numpy(random_cloud(points, i).points) for i in range(count)]).half()
    return TrainingClouds(stored, torch.arange(count) % 3, ("chair", "mug", "table"), Normalisation())


def test_clouds_are_encoded_as_the_encoder_says_view_by_view():
    model, clouds = tiny_model(), clouds_of(200, points=50)
    found = EncodedClouds.encode(model.encoder, clouds, 16)
    for view in range(3):
        mean, log_variance = model.encoder(clouds.points[130:131, 16 * view : 16 * view + 16].float())
        torch.testing.assert_close(found[130][0][view], mean[0])
        torch.testing.assert_close(found[130][1][view], (0.5 * log_variance[0]).exp())
    assert (len(found), found.mean.shape, int(found[130][2])) == (200, (200, 3, 5), 130 % 3)
    assert EncodedClouds.encode(model.encoder, clouds, 64).mean.shape[1] == 1  # all that there are


def test_the_loss_is_that_of_the_views_and_times_drawn():
    """Other latents than those of the views that are drawn do not count; times are drawn at lower noise."""
    model, both = tiny_model(), torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0))
    batch = both, torch.zeros(6, 2, 5), torch.arange(6) % 3
    noise = SampleNoise(0, range(6))
    loss = prior_loss(model.prior, batch, noise, model=model, class_dropout=0.0)
    again = SampleNoise(0, range(6))
    view = (2 * again.rand()).long()
    assert set(view.tolist()) == {0, 1}
    latents = both[torch.arange(6), view]
    again.randn(5)
    t = model.prior.path.t_min + (model.prior.path.t_max - model.prior.path.t_min) * again.rand()
    t = shifted_time(t, 0.3).float()
    again.rand()
    eps = again.randn(5)
    path = model.prior.path
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    said = model.prior((alpha * latents + sigma * eps).float(), path.c_noise(t), batch[2])
    torch.testing.assert_close(loss, (said - (alpha * eps - sigma * latents)).square().mean().float())


def test_it_learns_the_latents_of_each_class():
    """Latents in two clumps, one per class: afterwards those drawn for a class lie in its clump."""
    model = tiny_model(class_names=("a", "b"), latent_dim=2, prior=LatentPriorConfig(width=32, depth=2))
    centres = torch.tensor([[1.5, 0.0], [-1.0, 1.0]])
    labels = torch.arange(64) % 2
    data = centres[labels][:, None], torch.full((64, 1, 2), 0.1), labels
    optimizer = torch.optim.Adam(model.prior.parameters(), lr=5e-3)
    for step in range(300):
        noise = SampleNoise(0, range(64 * step, 64 * step + 64))
        loss = prior_loss(model.prior, data, noise, model=model, class_dropout=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = model.draw_latents(labels, SampleNoise(1, range(64)))
    distance = (drawn - centres[labels]).norm(dim=1)
    assert float(distance.median()) < 0.35
    assert float((distance < (drawn - centres[1 - labels]).norm(dim=1)).float().mean()) > 0.95


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "validate", lambda model, step, **_: {"points": model.config.latent_dim})
    return sheet_run(tmp_path, lr_scheduler="constant", prior_stage=PriorStage(steps=4, batch_size=3, warmup_steps=1))


def test_only_the_prior_changes(config, tmp_path):
    result = run_training(config)
    assert (result.step, result.interrupted) == (4, False)
    assert isinstance(result.model, PointDiffusion)
    alone = dataclasses.replace(config, output_dir=tmp_path / "alone", prior_stage=PriorStage())
    run_training(alone)
    both, first = weights(config.output_dir / "model"), weights(alone.output_dir / "model")
    changed = {name.split(".")[0] for name, tensor in both.items() if not torch.equal(tensor, first[name])}
    assert changed == {"prior"}


def test_a_stopped_stage_resumes_exactly(config, tmp_path, monkeypatch):
    run_training(config)
    stopped = dataclasses.replace(config, output_dir=tmp_path / "stopped", checkpointing_steps=2)

    with monkeypatch.context() as patch:
        killed_after(patch, "prior-2", 2)
        with pytest.raises(Killed):
            run_training(stopped)
    assert sorted(p.name for p in stopped.output_dir.glob("prior-2/checkpoint-*")) == ["checkpoint-2"]
    run_training(dataclasses.replace(stopped, resume_from_checkpoint="latest"))
    whole, resumed = weights(config.output_dir / "model"), weights(stopped.output_dir / "model")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_stopped_stage_names_the_folder_that_resumes_it(config, monkeypatch, capsys):
    def stopping(*args, **options):
        signal.raise_signal(signal.SIGINT)
        return prior_loss(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(prior_training, "prior_loss", stopping)
        assert run_training(config).interrupted
    advice = f"stopped at step 1; to go on: --output-dir {config.output_dir} --resume-from-checkpoint latest"
    assert advice in capsys.readouterr().err.splitlines()
    result = run_training(dataclasses.replace(config, resume_from_checkpoint="latest"))
    assert (result.step, result.interrupted) == (4, False)


def test_settings_without_meaning_are_told():
    with pytest.raises(ValueError, match=r"prior_stage\.batch_size"):
        PriorStage(batch_size=0)
    with pytest.raises(ValueError, match=r"model\.latent_dim 0"):
        dataclasses.replace(
            procedural_small(), model=tiny_config(class_names=(), latent_dim=0), prior_stage=PriorStage(steps=1)
        )


def test_loss_without_classes_asks_for_none():
    model = tiny_model(class_names=())
    batch = torch.zeros(4, 1, 5), torch.ones(4, 1, 5), torch.zeros(4, dtype=torch.long)
    loss = prior_loss(model.prior, batch, SampleNoise(0, range(4)), model=model, class_dropout=0.5)
    assert bool(loss.isfinite())

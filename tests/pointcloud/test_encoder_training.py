"""The encoder's own stage: no point sees another, the latent learns what a point cannot know; it resumes exactly."""

import dataclasses

import pytest
import torch
from trifold.common.train import SampleNoise
from trifold.pointcloud import training as training_module
from trifold.pointcloud.conditioning import PointCondition
from trifold.pointcloud.diffusion import PointDiffusion
from trifold.pointcloud.encoder_training import EncoderStage, PointAutoencoder, SinglePointDenoiser, encoder_loss
from trifold.pointcloud.latent import ShapeEncoder, ShapeEncoderConfig
from trifold.pointcloud.prior_training import PriorStage
from trifold.pointcloud.training import PointCloudTraining, procedural_small, run_training
from trifold.pointcloud.training_batch import draw_batch

from .sheet_runs import Killed, killed_after, sheet_run, weights
from .tiny_points import awake, random_cloud, tiny_config, tiny_model


def single_points(seed=0, latent_dim=5, classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = SinglePointDenoiser(classes, latent_dim, width=16, depth=2, cond=16)
    return denoiser


def test_no_point_sees_another_and_each_reads_the_latent():
    denoiser = awake(single_points())
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    shape = torch.randn(2, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    said = denoiser(x, torch.tensor([0.3, 0.7]), PointCondition(torch.tensor([0, 2]), shape))
    by_point, by_latent = torch.autograd.grad(said[0, 4].sum(), (x, shape))
    assert by_point[0, 4].abs().min() > 0
    by_point[0, 4] = 0
    assert not by_point.any()
    assert bool((by_latent[0] != 0).all())
    assert not by_latent[1].any()


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "validate", lambda *_, **__: {})
    return sheet_run(
        tmp_path,
        encoder_stage=EncoderStage(steps=4, warmup_steps=1),
        prior_stage=PriorStage(steps=2, batch_size=3, warmup_steps=1),
    )


def test_the_latent_learns_where_a_shape_lies(config):
    """Bars at one of many heights: far out in noise only the latent knows which. Told another's, the error is large."""
    generator = torch.Generator().manual_seed(0)
    points = 0.1 * torch.randn(32, 24, 3, generator=generator)
    points[..., 1] += torch.linspace(-1.5, 1.5, 32)[:, None]
    config = dataclasses.replace(config, class_dropout=0.0, kl_weight=1e-6, model=tiny_config(class_names=("bar",)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ShapeEncoder(ShapeEncoderConfig(width=16, point_width=12, num_tokens=2, depth=1, heads=2), 5)
    net = PointAutoencoder(encoder, single_points(classes=1))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    labels = torch.zeros(32, dtype=torch.long)
    for step in range(250):
        noise = SampleNoise(0, range(32 * step, 32 * step + 32))
        loss, _ = encoder_loss(net, (points, labels), noise, config=config, former=None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = dataclasses.replace(draw_batch(points, labels, SampleNoise(1, range(32)), config), t=torch.full((32,), 0.6))
    with torch.no_grad():
        own = net(batch)[0].mean()
        other = net(dataclasses.replace(batch, seen=batch.seen.flip(0)))[0].mean()
    assert float(own) < float(other) / 4


def test_what_the_points_are_told_is_held_and_what_they_do_not_read_is_free(config):
    model = tiny_model()
    assert model.encoder is not None
    read = model.net.condition.latent_in
    assert read is not None
    with torch.no_grad():
        read.weight[:, 3:] = 0
    points = torch.stack([torch.from_numpy(random_cloud(24, i).points) for i in range(4)]).half()
    net = PointAutoencoder(tiny_model().encoder, single_points())

    def moved(latent):
        with torch.no_grad():
            net.encoder.load_state_dict(model.encoder.state_dict())
            net.encoder.proj_out.bias[latent] += 0.5
        batch = points, torch.arange(4) % 3
        settings = dataclasses.replace(config, model=model.config)
        loss, metrics = encoder_loss(
            net, batch, SampleNoise(0, range(4)), config=settings, former=(model.encoder, read)
        )
        bare, _ = encoder_loss(net, batch, SampleNoise(0, range(4)), config=settings, former=None)
        torch.testing.assert_close(loss - bare, metrics["moved"])
        return float(metrics["moved"])

    assert moved(4) == pytest.approx(0, abs=1e-12)
    assert moved(1) == pytest.approx(0.25 * float(read.weight.detach()[:, 1].square().mean()), rel=1e-4)


def test_each_stage_changes_its_own_net(config, tmp_path):
    torch.manual_seed(config.seed)
    result = run_training(config)
    assert (result.step, result.interrupted) == (2, False)
    end = weights(config.output_dir / "model")
    more = dataclasses.replace(config, output_dir=tmp_path / "more", max_train_steps=3)
    run_training(more)
    # Another number of updates of the points changes them, and not the encoder before, nor the prior after them.
    changed = {
        name.split(".")[0] for name, x in weights(more.output_dir / "model").items() if not torch.equal(x, end[name])
    }
    assert changed == {"net"}
    torch.manual_seed(config.seed)
    new = PointDiffusion(PointDiffusion.from_pretrained(config.output_dir / "model").config).state_dict()
    for part in ("encoder", "net", "prior"):
        assert any(not torch.equal(x, new[name]) for name, x in end.items() if name.startswith(part)), part


def test_a_run_killed_in_either_stage_resumes_exactly(config, tmp_path, monkeypatch):
    run_training(config)
    stopped = dataclasses.replace(config, output_dir=tmp_path / "stopped", checkpointing_steps=1)

    for place in (("encoder", 2), ("stopped", 1)):
        with monkeypatch.context() as patch:
            killed_after(patch, *place)
            with pytest.raises(Killed):
                run_training(stopped)
        stopped = dataclasses.replace(stopped, resume_from_checkpoint="latest")
    run_training(stopped)
    whole, resumed = weights(config.output_dir / "model"), weights(stopped.output_dir / "model")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_pretrained_model_keeps_its_classes_and_its_encoder_learns(config, tmp_path):
    start = tiny_model(class_names=("bent", "flat"))
    start.save_pretrained(tmp_path / "start")
    run_training(dataclasses.replace(config, pretrained_model=str(tmp_path / "start")))
    before, after = start.state_dict(), weights(config.output_dir / "model")
    changed = {name.split(".")[0] for name, x in after.items() if not torch.equal(x, before[name])}
    assert changed == {"encoder", "net", "prior"}


def test_settings_without_meaning_are_told():
    with pytest.raises(ValueError, match=r"encoder_stage\.keep_weight"):
        EncoderStage(keep_weight=-1.0)
    with pytest.raises(ValueError, match="goes with a prior_stage"):
        PointCloudTraining(encoder_stage=EncoderStage(steps=1))
    with pytest.raises(ValueError, match="not with freeze_encoder"):
        dataclasses.replace(
            procedural_small(), pretrained_model="x", freeze_encoder=True, encoder_stage=EncoderStage(steps=1)
        )
    with pytest.raises(ValueError, match=r"model\.latent_dim 0"):
        PointCloudTraining(encoder_stage=EncoderStage(steps=1), model=tiny_config(class_names=(), latent_dim=0))

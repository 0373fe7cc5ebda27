"""Training the point transformer: prepared clouds, what a step draws, which gradients flow; and it learns."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from trifold.common.pretrained import config_from_dict
from trifold.common.train import SampleNoise
from trifold.pointcloud import training as training_module
from trifold.pointcloud.conditioning import NO_CLASS
from trifold.pointcloud.diffusion import PointDiffusion
from trifold.pointcloud.diffusion_config import PointDiffusionConfig
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.latent import LATENT_SHIFT
from trifold.pointcloud.normalise import Normalisation
from trifold.pointcloud.prior_training import PriorStage
from trifold.pointcloud.training import (
    PRESETS,
    PointCloudTraining,
    held_out_clouds,
    procedural_small,
    run_training,
    training_loss,
    validate,
)
from trifold.pointcloud.training_batch import draw_batch
from trifold.pointcloud.training_data import TrainingClouds, prepare_clouds

from .tiny_points import CLASSES, Sheets, random_cloud, tiny_config, tiny_model


def config_for(folder=Path("unused"), **changes):
    settings = {
        "output_dir": folder,
        "train_batch_size": 4,
        "max_train_steps": 2,
        "learning_rate": 2e-3,
        "report_to": "none",
        "stored_points": 24,
        "num_points": 16,
        "num_clouds": None,
        "prior_draws": 3,
        "validation_split": None,
        "model": tiny_config(class_names=()),
    }
    return PointCloudTraining(**{**settings, **changes})


# ---------------------------------------------------------------------------------------------------- what is drawn


def stored(clouds=40):
    points = torch.stack([torch.from_numpy(random_cloud(24, i).points) for i in range(clouds)]).half()
    return points, torch.arange(clouds) % 3


def test_a_sample_draws_the_same_in_any_batch():
    config, (points, labels) = config_for(rotation=30, scale_jitter=0.1), stored()
    whole = draw_batch(points, labels, SampleNoise(0, range(40)), config)
    part = draw_batch(points[7:9], labels[7:9], SampleNoise(0, [7, 8]), config)
    for field in dataclasses.fields(whole):
        torch.testing.assert_close(getattr(part, field.name), getattr(whole, field.name)[7:9], rtol=1e-6, atol=1e-6)


def test_a_sample_is_a_subset_of_its_cloud():
    points, labels = stored(3)
    batch = draw_batch(points, labels, SampleNoise(0, range(3)), config_for())
    assert batch.points.shape == (3, 16, 3)
    for drawn, cloud in zip(batch.points, points.float(), strict=True):
        rows = (drawn[:, None] == cloud).all(-1)
        assert rows.any(1).all()
        assert len(rows.int().argmax(1).unique()) == 16
    again = draw_batch(points, labels, SampleNoise(0, range(3, 6)), config_for())
    assert not torch.equal(again.points, batch.points)


def test_the_encoder_sees_other_points_than_those_denoised():
    points, labels = stored(3)
    batch = draw_batch(points, labels, SampleNoise(0, range(3)), config_for(encoder_points=8))
    assert batch.seen.shape == (3, 8, 3)
    together = torch.cat([batch.points, batch.seen], dim=1)  # 16 and 8 of 24: each point once
    for drawn, cloud in zip(together, points.float(), strict=True):
        assert (drawn[:, None] == cloud).all(-1).sum(0).tolist() == [1] * 24
    assert torch.equal(batch.references, points.float())
    assert draw_batch(points, labels, SampleNoise(0, range(3)), config_for()).seen.shape == (3, 24, 3)
    plain = draw_batch(points, labels, SampleNoise(0, range(3)), config_for(stable_target=False))
    assert plain.references.shape == (3, 0, 3)


def test_the_target_of_a_point_is_the_mean_of_what_it_may_have_been():
    """The loss of a net that says nothing is the mean square of v: at pure noise that of x0, or of the cloud's mean."""
    points, labels = stored(4)
    model, losses = tiny_model(class_names=(), latent_dim=0), []
    with torch.no_grad():
        model.net.proj_out.weight.zero_()
        model.net.proj_out.bias.zero_()
    for stable in (False, True):
        batch = draw_batch(points, labels, SampleNoise(0, range(4)), config_for(stable_target=stable))
        losses.append(model(dataclasses.replace(batch, t=torch.ones(4))).denoising)
    torch.testing.assert_close(losses[0], batch.points.square().mean((1, 2)))
    torch.testing.assert_close(losses[1], points.float().mean(1).square().mean(1))


def test_labels_and_latents_are_hidden_as_often_as_asked_and_times_fill_the_path():
    points, labels = (x.repeat_interleave(50, 0) for x in stored())
    config = config_for(class_dropout=0.25, latent_dropout=0.1)
    batch = draw_batch(points, labels, SampleNoise(0, range(2000)), config)
    hidden = batch.labels == NO_CLASS
    assert abs(float(hidden.float().mean()) - 0.25) < 0.03
    assert torch.equal(batch.labels[~hidden], labels[~hidden])
    assert abs(float(batch.keep_shape.float().mean()) - 0.9) < 0.03
    assert 0 < float(batch.t.min()) < 0.01
    assert 0.99 < float(batch.t.max()) <= 1
    assert abs(float(batch.t.mean()) - 0.5) < 0.03
    assert batch.prior_t.shape == (2000, 3)
    # Where latents are sampled: noise over signal of the cosine path, 0.3 times that of even times.
    levels = (math.pi / 2 * batch.prior_t.double()).tan()
    assert abs(float(levels.median()) - LATENT_SHIFT) < 0.03
    late = draw_batch(points, labels, SampleNoise(0, range(2000)), config_for(time_shift=4.0))
    assert float(late.t.mean()) > 0.65


def test_augmentation_turns_about_the_vertical_and_scales():
    points, labels = stored(20)
    plain = draw_batch(points, labels, SampleNoise(0, range(20)), config_for(num_points=24)).points
    turned = draw_batch(points, labels, SampleNoise(0, range(20)), config_for(num_points=24, rotation=90)).points
    torch.testing.assert_close(turned[..., 1], plain[..., 1])
    torch.testing.assert_close(turned.norm(dim=-1), plain.norm(dim=-1))
    assert float((turned - plain).abs().max()) > 0.5
    scaled = draw_batch(points, labels, SampleNoise(0, range(20)), config_for(num_points=24, scale_jitter=0.2)).points
    ratio = (scaled / plain).nan_to_num(1.0)
    assert 0.8 <= float(ratio.min()) < 0.9 < 1.1 < float(ratio.max()) <= 1.2


# --------------------------------------------------------------------------------------------------------- gradients


def test_every_parameter_learns_and_the_prior_does_not_reach_the_encoder():
    points, labels = stored(8)
    config = config_for(class_dropout=0.4, latent_dropout=0.4)
    batch = draw_batch(points, labels, SampleNoise(0, range(8)), config)
    assert 0 < int(batch.keep_shape.sum()) < 8
    model = tiny_model().train()
    losses = model(batch)
    assert losses.denoising.shape == losses.kl.shape == losses.prior.shape == (8,)
    losses.total(1e-3).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    model.zero_grad()
    model(batch).prior.sum().backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached == {"prior"}


def test_a_model_without_latent_or_classes_trains_too():
    points, labels = stored(4)
    config = config_for(model=tiny_config(class_names=(), latent_dim=0))
    model = tiny_model(class_names=(), latent_dim=0).train()
    loss, metrics = training_loss(model, (points, labels), SampleNoise(0, range(4)), config=config)
    loss.backward()
    assert set(metrics) == {"denoising"}
    assert all(p.grad is not None for p in model.parameters())


def test_a_batch_is_learnt():
    """Four clouds, one step's noise: the squared error of v falls below a third of that of a net that says nothing."""
    points, labels = stored(4)
    config = config_for(num_points=24, stable_target=False, class_dropout=0.0, latent_dropout=0.0)
    normal = (points.float() - points.float().mean((0, 1))) / points.float().std()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PointDiffusion(tiny_config())
    batch = draw_batch(normal.half(), labels, SampleNoise(0, range(4)), config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = model(batch).denoising.mean().detach()
    for _ in range(120):
        losses = model(batch)
        optimizer.zero_grad()
        losses.total(1e-4).backward()
        optimizer.step()
    assert losses.denoising.mean().detach() < first / 3
    assert losses.prior.mean().detach() < 0.7


# -------------------------------------------------------------------------------------------------------------- runs


def sheets():
    return np.stack([random_cloud(24, i).points for i in range(6)])


def save_sheets(path, *classes):
    """Six clouds, of the classes in turn."""
    np.savez(path, points=sheets(), label=np.arange(6) % len(classes), classes=np.array(classes))


def test_a_run_from_data_to_a_model_that_generates(tmp_path, monkeypatch):
    save_sheets(tmp_path / "sheets.npz", "flat", "bent")
    seen = {}
    monkeypatch.setattr(
        training_module, "validate", lambda model, step, **options: seen.update(options) or {"mmd": 1.0}
    )
    config = config_for(
        tmp_path / "run", data=str(tmp_path / "sheets.npz"), cache=tmp_path / "cache.npz", use_ema=True, seed=3
    )
    result = run_training(config)
    assert (result.step, result.interrupted) == (2, False)
    assert {"loss", "denoising", "kl", "prior"} <= result.metrics.keys()
    assert seen == {"held_out": [], "count": 24}
    model = PointDiffusion.from_pretrained(tmp_path / "run" / "model")
    assert model.config.class_names == ("flat", "bent")
    assert sum(model.config.class_counts) == len(TrainingClouds.load(config.cache, "global", facts_of(config)))
    assert model.config.normalisation.mode == "global"
    assert model.generate(1, 10, steps=2, class_name="bent")[0].num_points == 10


def test_a_pretrained_model_is_trained_on_with_its_classes_and_normalisation(tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "validate", lambda *_, **__: {})
    rule = Normalisation("global", (0.5, 0.0, -0.25), 2.0)
    start = tiny_model(normalisation=rule)
    start.save_pretrained(tmp_path / "start")

    def told(*names):
        save_sheets(tmp_path / "sheets.npz", *names)
        settings = {"pretrained_model": str(tmp_path / "start"), "learning_rate": 0.0, "cache": tmp_path / "cache.npz"}
        return config_for(tmp_path / "run", data=str(tmp_path / "sheets.npz"), **settings)

    config = told(CLASSES[2], CLASSES[0])
    for _ in ("prepared", "from the cache"):
        clouds = training_module.training_clouds(config, start)
        assert clouds.classes == CLASSES
        assert clouds.normalisation == rule
        assert set(clouds.labels.tolist()) == {0, 2}
        back = rule.restore(clouds.points[0].float()).numpy()
        assert min(np.abs(np.sort(back, 0) - np.sort(cloud, 0)).max() for cloud in sheets()) < 0.01
    model = run_training(config).model
    assert isinstance(model, PointDiffusion)
    assert (model.config.class_names, model.config.normalisation) == (CLASSES, rule)
    assert model.config.class_counts == clouds.class_counts
    for name, tensor in start.state_dict().items():  # a learning rate of 0 changes nothing
        assert torch.equal(model.state_dict()[name], tensor), name
    (tmp_path / "cache.npz").unlink()
    with pytest.raises(PointCloudError, match="the data has teapot, but the model knows chair, mug, table"):
        run_training(told(CLASSES[0], "teapot"))


def test_a_frozen_encoder_and_its_prior_stay_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "validate", lambda *_, **__: {})
    start = tiny_model()
    start.save_pretrained(tmp_path / "start")
    save_sheets(tmp_path / "sheets.npz", *CLASSES)
    config = config_for(
        tmp_path / "run",
        data=str(tmp_path / "sheets.npz"),
        pretrained_model=str(tmp_path / "start"),
        freeze_encoder=True,
        prior_stage=PriorStage(steps=2),
        use_ema=True,
    )
    result = run_training(config)
    assert {"kl", "prior"}.isdisjoint(result.metrics)
    model = PointDiffusion.from_pretrained(tmp_path / "run" / "model")
    before = start.state_dict()
    changed = {name.split(".")[0] for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {"net"}


def facts_of(config):
    names = ("data", "up", "num_clouds", "stored_points", "seed")
    return {**{name: getattr(config, name) for name in names}, "classes": list(config.classes)}


def test_validation_draws_the_classes_held_out_and_measures_them():
    held_out = [(random_cloud(50, i), name) for i, name in enumerate(CLASSES)]
    found = validate(tiny_model(), 5, held_out=held_out, count=24)
    assert found["mmd_cd"] > 0
    picture = found["clouds"]
    assert picture.dtype == torch.uint8
    assert picture.shape[-1] == 3
    assert validate(tiny_model(), 6, held_out=held_out, count=24)["mmd_cd"] == found["mmd_cd"]
    assert set(validate(tiny_model(class_names=()), 5, held_out=[], count=2)) == {"clouds"}


def test_too_few_points_are_told(monkeypatch):
    monkeypatch.setattr(training_module, "training_clouds", lambda *_: prepare_clouds(Sheets(), "global"))
    with pytest.raises(PointCloudError, match="num_points: 25, but clouds have 24"):
        run_training(config_for(num_points=25, stored_points=25))


def test_a_missing_validation_split_is_told_before_clouds_are_prepared(tmp_path, monkeypatch):
    np.savez(tmp_path / "data.npz", points=np.ones((4, 24, 3)), split=[0, 0, 1, 1])
    monkeypatch.setattr(training_module, "prepare_clouds", lambda *_, **__: pytest.fail("prepared"))
    config = config_for(tmp_path / "run", data=str(tmp_path / "data.npz"), validation_split="val")
    with pytest.raises(PointCloudError, match=r"no 'val' split; found: train, test \(asked for by --validation-split"):
        run_training(config)


def test_held_out_clouds_are_spread_over_the_split(monkeypatch):
    monkeypatch.setattr(training_module, "open_split", lambda config, split: Sheets(count=30))
    found = held_out_clouds(config_for(data="sheets", validation_split="test", validation_clouds=3))
    assert [cloud.name for cloud, _ in found] == ["sheet-0", "sheet-10", "sheet-20"]
    assert [name for _, name in found] == ["chair", "mug", "table"]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fit_the_package_and_are_plain_values(preset):
    config = PRESETS[preset]()
    shape = dataclasses.replace(config.model, class_names=tuple("abcdef"))
    with torch.device("meta"):
        model = PointDiffusion(shape)
    assert sum(p.numel() for p in model.parameters()) * 2 < 8e6
    assert config_from_dict(PointDiffusionConfig, config.to_dict()["model"], "preset") == config.model


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"class_dropout": 1.0}, "class_dropout"),
        ({"num_points": 0}, "num_points"),
        ({"encoder_points": 0}, "encoder_points"),
        ({"num_points": 100, "stored_points": 50}, "stored_points"),
        ({"scale_jitter": 1.0}, "scale_jitter"),
        ({"time_shift": 0.0}, "time_shift"),
        ({"freeze_encoder": True}, "freeze_encoder"),
    ],
)
def test_a_config_without_meaning_names_its_field(changes, field):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(procedural_small(), **changes)

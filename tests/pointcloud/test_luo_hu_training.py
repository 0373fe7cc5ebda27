"""Training: the published settings, the loss of a batch, and a short run from data to a saved model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from trifold.common.train import SampleNoise
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.items import CloudItem
from trifold.pointcloud.luo_hu import AutoEncoder, AutoEncoderConfig, FlowVAE, FlowVAEConfig, GaussianVAEConfig
from trifold.pointcloud.luo_hu.training import (
    PRESETS,
    LuoHuTraining,
    build,
    collate,
    published_autoencoder,
    published_generator,
    read_clouds,
    run_training,
    training_loss,
)
from trifold.pointcloud.normalise import Normalisation

from . import golden

SMALL = {"latent_dim": 8, "num_steps": 10}


class Spheres:
    """Twelve spheres of different sizes."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> CloudItem:
        x = np.random.default_rng(index).normal(size=(40, 3))
        x = (1 + index) * x / np.linalg.norm(x, axis=1, keepdims=True) + 5
        return CloudItem(x.astype(np.float32), None, 0, str(index))


def short(tmp_path, model, **changes) -> LuoHuTraining:
    return replace(
        published_generator(),
        output_dir=tmp_path / "run",
        train_batch_size=4,
        max_train_steps=3,
        report_to="none",
        model=model,
        **changes,
    )


@pytest.mark.parametrize("name", list(golden.notes()["lr_schedule"]))
def test_published_learning_rates(name):
    config = published_autoencoder() if "start150000" in name else published_generator()
    for step, rate in golden.notes()["lr_schedule"][name].items():
        assert config.learning_rate_at(int(step)) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("name", list(PRESETS))
def test_published_settings(name):
    config = PRESETS[name]()
    assert (config.train_batch_size, config.max_grad_norm, config.adam_weight_decay) == (128, 10.0, 0.0)
    assert config.lr_end == 1e-4
    assert config.learning_rate_at(config.max_train_steps) == 1e-4
    assert config.model.latent_dim == 256


def test_a_schedule_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="lr_decay_start < lr_decay_end"):
        LuoHuTraining(lr_decay_start=5, lr_decay_end=5)
    with pytest.raises(ValueError, match="lr_scheduler"):
        LuoHuTraining(lr_scheduler="cosine")
    with pytest.raises(
        PointCloudError, match=r"model\.normalisation: it comes from the data; its mode is --scale-mode"
    ):
        run_training(LuoHuTraining(model=FlowVAEConfig(normalisation=Normalisation("none"))), [])
    with pytest.raises(ValueError, match="lr_warmup_steps: the published schedule has no warm-up, found 100"):
        LuoHuTraining(lr_warmup_steps=100)


def test_collate_normalises_each_cloud():
    batch = collate([Spheres()[0], Spheres()[11]], Normalisation("shape_bbox"))
    assert batch.dtype is torch.float32
    torch.testing.assert_close(batch.amin((1, 2)), -torch.ones(2), atol=0.2, rtol=0)
    other = CloudItem(np.zeros((7, 3), np.float32), None, 0, "few")
    with pytest.raises(PointCloudError, match="found 7 and 40"):
        collate([Spheres()[0], other], Normalisation())


@pytest.mark.parametrize("model", [AutoEncoderConfig(**SMALL), GaussianVAEConfig(**SMALL), FlowVAEConfig(**SMALL)])
def test_the_loss_of_a_sample_does_not_depend_on_its_batch(tmp_path, model):
    """A batch's reconstruction loss is the mean of its clouds' own, each with the noise and time of its position."""
    config = short(tmp_path, model)
    net = build(model).eval()
    points = collate([Spheres()[i] for i in range(3)], Normalisation("shape_unit"))
    with torch.no_grad():
        together, logged = training_loss(net, points, SampleNoise(0, [5, 6, 7]), config=config)
        apart = [training_loss(net, points[i : i + 1], SampleNoise(0, [5 + i]), config=config)[0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(apart).mean(), atol=1e-5, rtol=1e-5)
    assert ("loss_prior" in logged) == (not isinstance(model, AutoEncoderConfig))


def test_times_cover_the_chain(tmp_path):
    model = build(AutoEncoderConfig(**SMALL)).eval()
    seen = []
    model.forward = lambda points, t, noise: seen.append(t) or noise.mean()
    for start in range(0, 400, 50):
        noise = SampleNoise(0, list(range(start, start + 50)))
        training_loss(model, torch.zeros(50, 2, 3), noise, config=short(tmp_path, model.config))
    assert set(torch.cat(seen).tolist()) == set(range(1, 11))


def test_a_part_of_the_data_has_clouds_of_every_class(tmp_path):
    """Data sets list clouds class after class."""
    label = np.repeat([0, 1, 2], 20)
    points = np.random.default_rng(0).normal(size=(60, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", points=points, label=label, split=np.zeros(60, int))
    config = short(tmp_path, AutoEncoderConfig(**SMALL), data=str(tmp_path / "data.npz"), num_points=8)
    chosen = read_clouds(replace(config, num_clouds=20))
    assert {item.label for item in chosen} == {0, 1, 2}
    assert len({item.name for item in chosen}) == 20
    assert [item.name for item in chosen] != [item.name for item in read_clouds(replace(config, num_clouds=20, seed=1))]
    assert [item.name for item in read_clouds(config)] == [str(i) for i in range(60)]
    made = replace(config, data="procedural", classes=("mug",), num_clouds=2)
    few, more = read_clouds(made), read_clouds(replace(made, num_clouds=3))
    assert [item.name for item in few] == [item.name for item in more[:2]]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_short_run_leaves_a_model_that_samples_in_the_data_units(tmp_path, precision):
    model = FlowVAEConfig(**SMALL, flow_depth=2, flow_hidden_dim=8)
    result = run_training(short(tmp_path, model, mixed_precision=precision), Spheres())
    assert result.step == 3
    assert set(result.metrics) >= {"loss", "loss_recons", "loss_prior", "loss_entropy"}
    saved = FlowVAE.from_pretrained(tmp_path / "run" / "model")
    assert saved.config.normalisation == Normalisation.fit("shape_unit", [Spheres()[i].points for i in range(12)])
    centre = saved.generate(3, 200, steps=2)[0].points.mean(axis=0)
    assert np.abs(centre - 5).max() < 5


def test_an_autoencoder_learns_the_same_from_the_same_seed(tmp_path):
    runs = [
        run_training(short(tmp_path / str(i), AutoEncoderConfig(**SMALL), kl_weight=float(i)), Spheres()).model
        for i in range(2)
    ]
    fresh = AutoEncoder(AutoEncoderConfig(**SMALL))
    for (name, a), b in zip(runs[0].named_parameters(), runs[1].parameters(), strict=True):
        assert torch.equal(a, b), name
        head = "log_variance_head" in name
        assert a.requires_grad != head
    assert not torch.equal(runs[0].net.layers[0].linear.weight, fresh.net.layers[0].linear.weight)

"""Training as `trifold floorplan train` runs it: any data, exact resume, the stated noise levels; and it learns."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from trifold.common.train import SampleNoise
from trifold.common.train.data_order import DataOrder
from trifold.common.weights import read_tensors
from trifold.floorplan import HouseDiffusion, HouseDiffusionConfig
from trifold.floorplan import training as training_module
from trifold.floorplan.dataset import collate, sample_from_plan
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.procedural import HELD_OUT_START, ProceduralConfig, ProceduralPlans, generate_plan
from trifold.floorplan.process import house_path
from trifold.floorplan.rplan import plan_to_rplan
from trifold.floorplan.training import (
    PRESETS,
    FloorplanTraining,
    draw_times,
    run_training,
    training_loss,
    training_plans,
    validate,
)

from .tiny import SMALL, tiny_model


@pytest.fixture(autouse=True)
def _few_corner_samples(monkeypatch):
    monkeypatch.setattr(training_module, "CORNER_SAMPLE", 20)


def config_for(folder: Path, **changes: object) -> FloorplanTraining:
    settings = {
        "output_dir": folder,
        "train_batch_size": 3,
        "max_train_steps": 3,
        "learning_rate": 1e-3,
        "report_to": "none",
        "model": HouseDiffusionConfig(**{**SMALL, "dropout": 0.1}),  # type: ignore[arg-type]
    }
    return FloorplanTraining(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture
def unvalidated(monkeypatch):
    """Most tests are not about the plans drawn at the end of a run."""
    monkeypatch.setattr(training_module, "validate", None)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "model.safetensors")


# ------------------------------------------------------------------------------------------------------------- runs


def test_a_run_from_end_to_end(tmp_path, capfd):
    result = run_training(config_for(tmp_path, use_ema=True, report_to="tensorboard", logging_steps=1))
    assert (result.step, result.interrupted) == (3, False)
    assert np.isfinite([result.metrics["loss"], result.metrics["denoising"]]).all()
    model = HouseDiffusion.from_pretrained(tmp_path / "model")
    # Corner counts of the data travel with the model, which draws from them.
    assert {"1", "3", "11", "12"} <= set(model.config.corner_counts)
    assert model.config.corner_counts["12"] == [4] * len(model.config.corner_counts["12"])
    assert all(torch.equal(v, result.ema.shadow[k]) for k, v in model.named_parameters())
    assert json.loads((tmp_path / "config.json").read_text())["model"]["width"] == 32
    assert any((tmp_path / "logs").rglob("events*"))
    assert "graph_errors" in capfd.readouterr().err


@pytest.mark.usefixtures("unvalidated")
def test_a_pretrained_model_is_trained_on(tmp_path, unvalidated):
    start = tiny_model()
    start.save_pretrained(tmp_path / "start")
    other = HouseDiffusionConfig(**{**SMALL, "width": 2 * SMALL["width"]})
    settings = {"pretrained_model": str(tmp_path / "start"), "model": other, "max_train_steps": 1}
    still = run_training(config_for(tmp_path / "still", learning_rate=0.0, **settings)).model
    assert isinstance(still, HouseDiffusion)
    assert still.config.width == start.config.width
    assert still.config.corner_counts
    for name, tensor in start.state_dict().items():
        assert torch.equal(still.state_dict()[name], tensor), name
    moved = run_training(config_for(tmp_path / "moved", **settings)).model
    assert not torch.equal(
        moved.state_dict()["net.coordinate_in.weight"], start.state_dict()["net.coordinate_in.weight"]
    )


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    options = {"use_ema": True, "checkpointing_steps": 2, "mixed_precision": "bf16"}
    run_training(config_for(tmp_path / "whole", max_train_steps=4, **options))
    run_training(config_for(tmp_path / "parts", max_train_steps=2, **options))
    resumed = config_for(tmp_path / "parts", max_train_steps=4, resume_from_checkpoint="latest", **options)
    assert run_training(resumed).step == 4
    for part in ("model", "checkpoint-4"):
        one, two = weights(tmp_path / "whole" / part), weights(tmp_path / "parts" / part)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one), part
    before = weights(tmp_path / "parts" / "checkpoint-2")
    assert not all(torch.equal(before[name], two[name]) for name in two)


@pytest.mark.usefixtures("unvalidated")
@pytest.mark.parametrize(
    "changes",
    [
        {"analog_bits": True},
        {"prediction": "v", "with_sizes": True, "fourier_bands": 3},
        {"num_bit_layers": 0, "index_encoding": "one_hot"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_variant_trains(tmp_path, changes):
    model = HouseDiffusionConfig(**{**SMALL, **changes})
    options = {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}
    result = run_training(config_for(tmp_path, max_train_steps=2, model=model, **options))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = HouseDiffusion(model).state_dict()
    moved = [name for name, value in result.model.state_dict().items() if not torch.equal(value, start[name])]
    assert set(moved) == set(start)


@pytest.mark.usefixtures("unvalidated")
def test_batches_without_low_noise_are_no_divergence(tmp_path):
    # As published: no plan is drawn towards low noise, so most small batches have no bits to learn from.
    result = run_training(config_for(tmp_path, bits_below=10, low_noise_share=0.0))
    assert np.isfinite(result.metrics["loss"])


def rplan_file(path: Path, seeds: range) -> Path:
    path.write_text(json.dumps([plan_to_rplan(generate_plan(seed)) for seed in seeds]))
    return path


@pytest.mark.usefixtures("unvalidated")
def test_rplan_files_are_data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rplan_file(folder / "a.json", range(4))
    rplan_file(folder / "b.json", range(4, 6))
    config = config_for(tmp_path / "run", data=str(folder))
    assert [p.num_rooms for p in training_plans(config)] == [generate_plan(i).num_rooms for i in range(6)]  # type: ignore
    assert run_training(config).step == 3


def test_held_out_room_counts_are_held_out(tmp_path):
    path = rplan_file(tmp_path / "plans.json", range(30))
    counts = {generate_plan(seed).num_rooms for seed in range(30)}
    assert {5, 6} < counts
    kept = training_plans(config_for(tmp_path, data=str(path), exclude_rooms=(5, 6)))
    assert {kept[i].num_rooms for i in range(len(kept))} == counts - {5, 6}
    endless = training_plans(config_for(tmp_path, exclude_rooms=(5, 6)))
    assert {endless[i].num_rooms for i in range(60)} == {4, 7, 8, 9}
    larger = training_plans(config_for(tmp_path, num_rooms=(8, 10), exclude_rooms=(9,)))
    assert {larger[i].num_rooms for i in range(30)} == {8, 10}
    with pytest.raises(ValueError, match=r"num_rooms: expected 3 <= low <= high <= 10, found \(9, 12\)"):
        training_plans(config_for(tmp_path, num_rooms=(9, 12)))
    with pytest.raises(ValueError, match=r"plans\.json: no plans are left after excluding"):
        training_plans(config_for(tmp_path, data=str(path), exclude_rooms=tuple(counts)))
    with pytest.raises(FloorplanError, match=r"missing\.json: cannot read"):
        training_plans(config_for(tmp_path, data=str(tmp_path / "missing.json")))


# ------------------------------------------------------------------------------------------------------ noise levels


def test_times_are_uniform_but_for_the_stated_share(tmp_path):
    config = config_for(tmp_path, bits_below=32, low_noise_share=0.25)
    t = draw_times(SampleNoise(0, range(4000)), 1000, config).double()
    low = float((t < 32).double().mean())
    expected = 0.25 + 0.75 * 0.032
    assert low == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 4000))
    for part, (start, end) in ((t[t < 32], (0, 32)), (t[t >= 32], (32, 1000))):
        position = (part - start + 0.5) / (end - start)
        assert position.mean().item() == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / len(part)))
        assert (position.sort().values - (torch.arange(len(part)) + 0.5) / len(part)).abs().max() < 0.06
    assert t.min() >= 0
    assert t.max() < 1000


@pytest.mark.parametrize(("below", "share"), [(10, 0.0), (0, 0.0), (1000, 1.0)])
def test_without_a_low_share_times_are_uniform(tmp_path, below, share):
    config = config_for(tmp_path, bits_below=below, low_noise_share=share)
    t = draw_times(SampleNoise(1, range(2000)), 1000, config).double()
    assert (t + 0.5).mean().item() / 1000 == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / 2000))


@pytest.mark.parametrize("shift", [0.35, 1.0, 2.0])
def test_a_time_shift_multiplies_the_noise_levels_and_the_share_of_bits_follows(tmp_path, shift):
    config = config_for(tmp_path, time_shift=shift, low_noise_share=0.0)
    t = draw_times(SampleNoise(2, range(4000)), 1000, config)
    path = house_path()
    # Half of the uniform times have sigma / alpha below 1, so half of the shifted ones lie below the shift.
    below = (path.sigma(t) / path.alpha(t) < shift).double().mean().item()
    assert below == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 4000) + 0.002)
    config = config_for(tmp_path, time_shift=shift, low_noise_share=0.1)
    t = draw_times(SampleNoise(3, range(20000)), 1000, config)
    share = config.bits_share
    assert (t < config.bits_below).double().mean().item() == pytest.approx(share, abs=4 * np.sqrt(share / 20000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_shift": 0.0}, "time_shift: must be positive, found 0"),
        ({"bits_below": -1}, "bits_below: expected 0 to 1000, found -1"),
        ({"bits_below": 1001}, "bits_below: expected 0 to 1000, found 1001"),
        ({"low_noise_share": 1.5}, "low_noise_share: expected 0 to 1, found 1.5"),
        ({"max_train_steps": 0}, "max_train_steps: must be at least 1"),
    ],
)
def test_settings_that_mean_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config_for(tmp_path, **changes)


def test_presets_are_complete_and_the_published_one_is_the_papers():
    for preset in PRESETS.values():
        assert preset().max_train_steps > 1000
    paper = PRESETS["published"]()
    assert (paper.train_batch_size, paper.max_train_steps) == (512, 250_000)
    assert [paper.learning_rate_at(step) for step in (0, 99_999, 100_000, 249_999)] == pytest.approx(
        [1e-3, 1e-3, 1e-4, 1e-5]
    )
    assert (paper.model.width, paper.model.num_layers, paper.model.num_heads) == (512, 4, 4)
    assert (paper.model.index_encoding, paper.model.with_sizes, paper.bits_below) == ("one_hot", False, 10)


# ----------------------------------------------------------------------------------------------------------- the loss


def one_batch(times: int, model: HouseDiffusionConfig):
    sample = sample_from_plan(generate_plan(3, ProceduralConfig(num_rooms=(4, 4))), None, np.random.default_rng(0))
    return collate([sample] * times, index_encoding=model.index_encoding, with_sizes=model.with_sizes)


def test_a_samples_loss_does_not_depend_on_its_batch(tmp_path):
    model, config = tiny_model(), config_for(tmp_path, model=HouseDiffusionConfig(**SMALL), low_noise_share=0.0)
    with torch.no_grad():
        together, _ = training_loss(model, one_batch(4, model.config), SampleNoise(0, range(4)), config=config)
        each = [
            training_loss(model, one_batch(1, model.config), SampleNoise(0, [i]), config=config)[0] for i in range(4)
        ]
    assert together.dtype == torch.float32
    assert together.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)


def test_a_tiny_model_overfits_one_plan(tmp_path):
    """100 steps on one plan: the mean loss over fixed noise falls to less than a third of what it starts with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny_model(width=64, fourier_bands=5, prediction="v").train()
        config = config_for(tmp_path, model=model.config)
        loss_of = partial(training_loss, model, config=config)
        batch = one_batch(12, model.config)

        def measured() -> dict[str, float]:
            with torch.no_grad():
                loss, metrics = loss_of(one_batch(64, model.config), SampleNoise(1, range(64)))
            return {"loss": loss.item(), **{name: value.item() for name, value in metrics.items()}}

        before = measured()
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(100):
            for group in optimiser.param_groups:
                group["lr"] = 3e-3 * min(1.0, (100 - step) / 50)
            loss, _ = loss_of(batch, SampleNoise(0, range(12 * step, 12 * step + 12)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        after = measured()
    assert after["loss"] < before["loss"] / 3
    assert after["denoising"] < before["denoising"] / 3
    assert after["bits"] < before["bits"] / 2


def test_validation_draws_held_out_plans():
    results = validate(tiny_model(), 5)
    assert results["graph_errors"] > 3  # a random model
    picture = results["plans"]
    assert isinstance(picture, torch.Tensor)
    assert picture.dtype == torch.uint8
    assert picture.shape[1:] == (1000, 3)
    assert len(picture.unique()) > 20


def test_the_training_set_is_not_the_held_out_one(tmp_path):
    source = training_plans(config_for(tmp_path))
    assert isinstance(source, ProceduralPlans)
    assert source.start == 0
    assert len(source) == HELD_OUT_START
    drawn = DataOrder(len(source), seed=0)
    assert max(drawn[i] for i in range(1000)) < HELD_OUT_START


def test_plans_larger_than_the_frame_are_told_before_training(tmp_path):
    path = rplan_file(tmp_path / "plans.json", range(6))
    small = config_for(tmp_path, data=str(path))
    small = replace(small, model=replace(small.model, frame_metres=9.0))
    with pytest.raises(ValueError, match=r"plans\.json: \d of 6 plans are larger than the 9 m of --model.frame-metres"):
        training_plans(small)


def test_corner_counts_come_from_the_data(tmp_path):
    config = config_for(tmp_path)
    with pytest.raises(ValueError, match=r"model\.corner_counts: they are counted in the data"):
        run_training(replace(config, model=replace(config.model, corner_counts={"living": [0, 0, 0, 0, 1]})))

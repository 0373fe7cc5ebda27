"""The training loop in one process: exactness, schedules, averages, checkpoints, errors."""

import json
import math
import os
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import is_initialized
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn
from trifold.common.pretrained import PretrainedModel
from trifold.common.train import (
    EMA,
    DataOrder,
    SampleNoise,
    TrainConfig,
    TrainingDiverged,
    WeightsError,
    list_checkpoints,
    train,
    training_batches,
)
from trifold.common.train.checkpoint import checkpoint_step, find_resume
from trifold.common.train.data_order import keyed_permutation, mix
from trifold.common.train.progress import Meter, check_tracker, require_finite
from trifold.common.train.signals import StopRequest
from trifold.common.weights import load_module_tensors, module_tensors, read_tensors


class Points:
    """Eleven fixed points in four dimensions."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return torch.sin(torch.arange(4.0) + index)


class Tiny(nn.Module):
    """Dropout, a buffer that training changes, and a frozen layer: all that a resume could forget."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.3)
        self.outer = nn.Linear(8, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.5, generator=generator)

    def forward(self, x):
        return self.frozen(self.outer(self.dropout(self.norm(self.inner(x)).relu())))


def loss_fn(model, batch, noise):
    time = noise.rand()[:, None]
    target = noise.randn(4)
    loss = (model(batch * (1 - time) + time * target) - target).float().square().mean()
    return loss, {"time": time.mean()}


def config_for(folder, **changes):
    settings = dict(
        output_dir=Path(folder),
        train_batch_size=3,
        max_train_steps=4,
        learning_rate=1e-2,
        use_ema=True,
        checkpointing_steps=2,
        report_to="none",
    )
    return TrainConfig(**{**settings, **changes})


def assert_same_run(one, two):
    """Parameters, buffers, averages and optimizer moments, bit for bit."""
    assert (one.step, one.position) == (two.step, two.position)
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[name]), name
    if one.ema:
        assert one.ema.updates == two.ema.updates
        for name, tensor in one.ema.shadow.items():
            assert torch.equal(tensor, two.ema.shadow[name]), name
    first, second = (torch.load(run.checkpoint / "optimizer.pt", weights_only=True) for run in (one, two))
    assert first["optimizer"]["param_groups"] == second["optimizer"]["param_groups"]
    for key, moments in first["optimizer"]["state"].items():
        assert moments.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, tensor in moments.items():
            assert torch.equal(tensor, second["optimizer"]["state"][key][name]), (key, name)


# ------------------------------------------------------------------------------------------------------ exactness


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 2, "lr_scheduler": "cosine", "lr_warmup_steps": 1},
        {"mixed_precision": "bf16", "dataloader_num_workers": 1, "max_grad_norm": None},
    ],
    ids=["plain", "accumulation", "bf16-workers"],
)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, changes):
    whole = train(config_for(tmp_path / "whole", **changes), Tiny(), loss_fn, Points())

    class PowerCut(Exception):
        pass

    calls = 0

    def dying(model, batch, noise):
        nonlocal calls
        calls += 1
        if calls > 2 * changes.get("gradient_accumulation_steps", 1) + 1:
            raise PowerCut
        return loss_fn(model, batch, noise)

    config = config_for(tmp_path / "broken", **changes)
    with pytest.raises(PowerCut):
        train(config, Tiny(), dying, Points())
    assert [step for step, _ in list_checkpoints(config.output_dir)] == [2]
    resumed = train(replace(config, resume_from_checkpoint="latest"), Tiny(seed=9), loss_fn, Points())
    assert_same_run(whole, resumed)
    moved = [n for n, p in Tiny().named_parameters() if not torch.equal(p, whole.model.get_parameter(n))]
    assert moved == [n for n, p in Tiny().named_parameters() if p.requires_grad]


def test_callers_randomness_changes_nothing(tmp_path):
    def noisy(model, step):
        torch.manual_seed(step)
        return {"x": torch.rand(())}

    torch.manual_seed(1)
    one = train(config_for(tmp_path / "a"), Tiny(), loss_fn, Points())
    torch.manual_seed(2)
    two = train(config_for(tmp_path / "b", validation_steps=1), Tiny(), loss_fn, Points(), validate=noisy)
    assert_same_run(one, two)


def test_accumulation_equals_one_large_batch(tmp_path):
    changes = {"use_ema": False, "adam_epsilon": 1e-3}  # epsilon keeps Adam from amplifying rounding

    def build():
        model = Tiny()
        model.norm, model.dropout = nn.Identity(), nn.Identity()  # both see the batch as a whole
        return model

    config = config_for(tmp_path / "a", train_batch_size=6, **changes)
    large = train(config, build(), loss_fn, Points())
    config = config_for(tmp_path / "b", train_batch_size=2, gradient_accumulation_steps=3, **changes)
    small = train(config, build(), loss_fn, Points())
    assert large.position == small.position == 24
    for name, tensor in large.model.state_dict().items():
        torch.testing.assert_close(tensor, small.model.state_dict()[name], rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------ data and noise


def read_indices(order_of, **settings):
    class Index:
        def __len__(self):
            return order_of

        def __getitem__(self, index):
            return index

    return [batch.tolist() for _, batch in training_batches(Index(), **settings)]


def test_every_epoch_is_a_permutation_and_they_differ():
    order = DataOrder(11, seed=3)
    epochs = [[order[p] for p in range(e * 11, e * 11 + 11)] for e in range(5)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert [order[p] for p in range(11, 22)] == epochs[1]  # no history
    assert [DataOrder(11, seed=4)[p] for p in range(11)] != epochs[0]


def test_any_split_into_processes_and_batches_reads_the_same_samples():
    [whole] = read_indices(11, seed=1, start=5, steps=1, batch_size=24)
    parts = [read_indices(11, seed=1, start=5, steps=3, batch_size=4, rank=r, world_size=2) for r in range(2)]
    assert [i for step in zip(*parts, strict=True) for rank in step for i in rank] == whole
    assert [p for ps, _ in training_batches(Points(), seed=1, start=5, steps=2, batch_size=4) for p in ps] == list(
        range(5, 13)
    )


@pytest.mark.parametrize("length", [1, 2, 5, 64, 1000])
def test_keyed_permutation_is_a_permutation(length):
    image = [keyed_permutation(i, length, key=7) for i in range(length)]
    assert sorted(image) == list(range(length))
    assert length < 64 or image != [keyed_permutation(i, length, key=8) for i in range(length)]


def test_endless_dataset_needs_no_table():
    [indices] = read_indices(2**31, seed=0, start=0, steps=1, batch_size=2000)
    assert len(set(indices)) == 2000
    assert sum(indices) / 2000 == pytest.approx(2**30, rel=0.1)  # spread evenly: 10 % is seven standard errors


def test_augmentation_depends_on_the_position_only():
    class Jitter(Points):
        def __getitem__(self, index):
            return torch.rand(())

    def draw(start, steps, workers):
        loader = training_batches(Jitter(), seed=0, start=start, steps=steps, batch_size=2, num_workers=workers)
        return torch.cat([batch for _, batch in loader])

    torch.manual_seed(5)
    state = torch.get_rng_state()
    values = draw(0, 3, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(values.tolist())) == 6
    assert torch.equal(values[2:], draw(2, 2, 1))


@pytest.mark.parametrize(("dataset", "error"), [(iter([1]), TypeError), ([], ValueError)])
def test_unusable_datasets_are_named(dataset, error):
    with pytest.raises(error, match=type(dataset).__name__):
        training_batches(dataset, seed=0, start=0, steps=1, batch_size=1)


def test_noise_belongs_to_the_sample():
    together, alone = SampleNoise(0, [3, 4, 5]), SampleNoise(0, [5])
    assert torch.equal(together.randn(2, 7)[2], alone.randn(2, 7)[0])
    assert torch.equal(together.randint(0, 1000)[2], alone.randint(0, 1000)[0])
    assert torch.equal(together.rand(3)[2], alone.rand(3)[0])
    assert torch.equal(together.randn_packed([5, 1, 20], 2)[6:], alone.randn_packed([20], 2))
    assert torch.equal(together.randn_like(torch.zeros(3, 2))[2], alone.randn_like(torch.zeros(1, 2))[0])
    assert not torch.equal(alone.randn(2), alone.randn(2))
    assert not torch.equal(SampleNoise(1, [5]).rand(3), SampleNoise(0, [5]).rand(3))
    assert together.randn_like(torch.zeros(3, dtype=torch.bfloat16)).dtype is torch.bfloat16
    assert together.randn_like(torch.zeros(3, dtype=torch.float64)).dtype is torch.float64
    assert torch.rand((), generator=SampleNoise(0, [3]).generator) == torch.rand((), generator=together.generator)


def test_noise_has_the_right_distribution():
    noise = SampleNoise(0, range(500))
    normal, uniform, whole = noise.randn(16), noise.rand(16), noise.randint(2, 6, 16)
    assert abs(normal.mean()) < 0.05
    assert normal.std() == pytest.approx(1, abs=0.03)
    assert normal.mean(1).std() == pytest.approx(0.25, abs=0.03)  # samples are independent of each other
    assert uniform.mean() == pytest.approx(0.5, abs=0.02)
    assert 0 <= uniform.min() <= uniform.max() < 1
    assert torch.bincount(whole.flatten()).tolist()[2:] == pytest.approx([2000] * 4, rel=0.1)


def test_noise_refuses_a_batch_of_another_size():
    with pytest.raises(ValueError, match="first axis to be 2"):
        SampleNoise(0, [0, 1]).randn_like(torch.zeros(3))
    with pytest.raises(ValueError, match="1 lengths for 2 samples"):
        SampleNoise(0, [0, 1]).randn_packed([4])


def test_hash_spreads_neighbours():
    low = [mix(0, stream, n) & 0xFFFFFFFF for stream in range(4) for n in range(1000)]  # all that mt19937 reads
    assert len(set(low)) == 4000
    assert sum(bin(word).count("1") for word in low) / 4000 == pytest.approx(16, abs=0.3)
    assert mix(1, 2) != mix(2, 1)


# ------------------------------------------------------------------------------------------------ learning rate


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "linear", "cosine", "polynomial"])
def test_schedule_equals_diffusers(name):
    warmup = 0 if name == "constant" else 3
    extra = {"lr_end": 1e-7} if name == "polynomial" else {}  # their hard-wired end
    config = TrainConfig(lr_scheduler=name, lr_warmup_steps=warmup, max_train_steps=20, learning_rate=2e-3, **extra)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2e-3)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=20)
    for step in range(20):
        assert config.learning_rate_at(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-18)
        optimizer.step()
        theirs.step()


def test_other_schedules():
    drops = TrainConfig(lr_scheduler="multistep", lr_decay_steps=10, learning_rate=1.0)
    assert [drops.learning_rate_at(s) for s in (0, 9, 10, 29)] == pytest.approx([1, 1, 0.1, 0.01])
    linear = TrainConfig(lr_scheduler="linear", max_train_steps=10, learning_rate=1.0, lr_end=0.5)
    assert [linear.learning_rate_at(s) for s in (0, 5, 10, 15)] == pytest.approx([1, 0.75, 0.5, 0.5])
    square = TrainConfig(lr_scheduler="polynomial", lr_power=2, max_train_steps=10, learning_rate=1.0)
    assert square.learning_rate_at(5) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_batch_size": 0},
        {"checkpointing_steps": 0},
        {"learning_rate": -1.0},
        {"max_grad_norm": 0.0},
        {"ema_decay": 1.5},
        {"lr_warmup_steps": 5},
        {"push_to_hub": True},
    ],
)
def test_config_names_the_bad_field(changes):
    field = "hub_model_id" if "push_to_hub" in changes else next(iter(changes))
    with pytest.raises(ValueError, match=f"^{field}"):
        TrainConfig(**changes)


# ------------------------------------------------------------------------------------------------------- averages


def test_average_equals_diffusers_with_warmup():
    model = nn.Linear(3, 2)
    ours, theirs = EMA(model, 0.6), EMAModel(model.parameters(), decay=0.6, use_ema_warmup=True)
    for _ in range(5):
        with torch.no_grad():
            model.weight.normal_()
        ours.update(model)
        theirs.step(model.parameters())
        torch.testing.assert_close(ours.shadow["weight"], theirs.shadow_params[0], rtol=1e-6, atol=1e-7)


def test_average_without_warmup_by_hand():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = EMA(model, 0.75, power=None)
    for value, expected in ((2.0, 1.25), (3.0, 1.6875)):
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update(model)
        assert ema.shadow["weight"].item() == expected
    assert ema.shadow["weight"].dtype is torch.float32


def test_applied_gives_the_own_weights_back_even_after_an_error():
    model = Tiny()
    ema = EMA(model)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for tensor in ema.shadow.values():
        tensor.zero_()
    with pytest.raises(KeyError), ema.applied(model):
        assert model.inner.weight.abs().max() == 0
        assert torch.equal(model.frozen.weight, own["frozen.weight"])
        raise KeyError
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


# ---------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoint_contents_rotation_and_callback(tmp_path):
    seen = []
    config = config_for(tmp_path, max_train_steps=7, checkpoints_total_limit=2)
    result = train(
        config, Tiny(), loss_fn, Points(), on_checkpoint=lambda folder, state: seen.append((folder.name, state.step))
    )
    assert seen == [("checkpoint-2", 2), ("checkpoint-4", 4), ("checkpoint-6", 6), ("checkpoint-7", 7)]
    assert [step for step, _ in list_checkpoints(tmp_path)] == [6, 7]
    assert result.checkpoint == tmp_path / "checkpoint-7"
    assert {p.name for p in result.checkpoint.iterdir()} == {
        "model.safetensors",
        "ema.safetensors",
        "optimizer.pt",
        "state.json",
    }
    state = json.loads((result.checkpoint / "state.json").read_text())
    assert (state["step"], state["position"], state["seed"], state["world_size"]) == (7, 21, 0, 1)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["train_batch_size"] == 3
    assert saved["versions"]["torch"] == torch.__version__
    assert {"loss", "time", "grad_norm"} <= result.metrics.keys()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_final_weights_are_not_tied_to_accelerate(tmp_path):
    model = Tiny()
    result = train(config_for(tmp_path, mixed_precision="bf16"), model, loss_fn, Points())
    assert result.model is model
    assert model.forward.__func__ is Tiny.forward
    assert not is_initialized()
    other = train(config_for(tmp_path / "b", mixed_precision="no"), Tiny(), loss_fn, Points())
    assert other.step == 4


def test_users_accelerator_survives(tmp_path):
    mine = Accelerator(cpu=True)
    try:
        train(config_for(tmp_path, max_train_steps=1), Tiny(), loss_fn, Points())
        assert mine.num_processes == 1
        assert mine.mixed_precision == "no"
    finally:
        mine.state._reset_state(True)


def test_latest_ignores_incomplete_folders(tmp_path):
    train(config_for(tmp_path), Tiny(), loss_fn, Points())
    (tmp_path / ".checkpoint-9.77.tmp").mkdir()
    for step, damage in ((6, "model.safetensors"), (7, "state.json"), (8, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for file in (tmp_path / "checkpoint-4").iterdir() if damage else []:
            data = file.read_bytes()
            (folder / file.name).write_bytes(data[: len(data) // 2] if file.name == damage else data)
    assert find_resume(tmp_path, "latest") == tmp_path / "checkpoint-4"
    assert checkpoint_step(tmp_path / "elsewhere") is None
    with pytest.raises(FileNotFoundError, match="checkpoint-6 is not a complete checkpoint"):
        find_resume(tmp_path, str(tmp_path / "checkpoint-6"))
    again = train(config_for(tmp_path, resume_from_checkpoint="latest"), Tiny(1), loss_fn, Points())
    assert (again.step, again.interrupted, again.metrics) == (4, False, {})
    assert not (tmp_path / ".checkpoint-9.77.tmp").exists()


def test_two_runs_do_not_mix(tmp_path):
    train(config_for(tmp_path), Tiny(), loss_fn, Points())
    with pytest.raises(FileExistsError, match="holds checkpoint-4"):
        train(config_for(tmp_path), Tiny(), loss_fn, Points())
    with pytest.raises(FileExistsError, match="delete the later checkpoints"):
        train(config_for(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-2")), Tiny(), loss_fn, Points())
    fresh = train(config_for(tmp_path / "new", resume_from_checkpoint="latest"), Tiny(), loss_fn, Points())
    assert fresh.step == 4


def test_longer_run_continues_a_finished_one(tmp_path):
    whole = train(config_for(tmp_path / "a", max_train_steps=6), Tiny(), loss_fn, Points())
    train(config_for(tmp_path / "b", max_train_steps=3), Tiny(), loss_fn, Points())
    config = config_for(tmp_path / "b", max_train_steps=6, resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-3"))
    assert_same_run(whole, train(config, Tiny(4), loss_fn, Points()))


def test_resume_refuses_what_does_not_belong(tmp_path):
    config = config_for(tmp_path, use_ema=False)
    train(config, Tiny(), loss_fn, Points())
    config = replace(config, resume_from_checkpoint="latest", max_train_steps=6)
    wider = Tiny()
    wider.outer = nn.Linear(8, 5)
    wider.extra = nn.Linear(1, 1)
    with pytest.raises(WeightsError, match=r"model.safetensors does not fit Tiny: 2 missing: extra.bias.*outer.bias"):
        train(config, wider, loss_fn, Points())
    thawed = Tiny()
    thawed.frozen.requires_grad_(True)
    with pytest.raises(WeightsError, match=r"other parameters were trained: frozen.bias, frozen.weight"):
        train(config, thawed, loss_fn, Points())
    with pytest.raises(WeightsError, match="no averages to resume"):
        train(replace(config, use_ema=True), Tiny(), loss_fn, Points())
    with pytest.raises(ValueError, match="seed was 0, now it is 1"):
        train(replace(config, seed=1), Tiny(), loss_fn, Points())
    with pytest.raises(ValueError, match="dataset_length was 11, now it is 2"):
        train(config, Tiny(), loss_fn, [torch.zeros(4)] * 2)
    path = tmp_path / "checkpoint-4" / "state.json"
    path.write_text(path.read_text().replace('"seed"', '"seeds"'))
    with pytest.raises(WeightsError, match="state.json"):
        train(config, Tiny(), loss_fn, Points())


def test_averages_of_another_model_are_refused():
    ema = EMA(nn.Linear(2, 2))
    with pytest.raises(WeightsError, match="somewhere: averages.*: bias"):
        ema.load({"weight": torch.zeros(2, 2)}, 3, "somewhere")


def test_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        train(config_for(tmp_path), Tiny(), loss_fn, Points())
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_tied_weights_are_stored_once(tmp_path):
    class Tied(Tiny):
        def __init__(self, seed=0):
            super().__init__(seed)
            self.norm = nn.Identity()
            self.outer = nn.Linear(8, 4, bias=False)
            self.mirror = nn.Linear(8, 4, bias=False)
            self.mirror.weight = self.outer.weight

    result = train(config_for(tmp_path), Tied(), loss_fn, Points())
    stored = read_tensors(result.checkpoint / "model.safetensors")
    assert "mirror.weight" not in stored
    other = Tied(3)
    load_module_tensors(other, stored, "file")
    assert torch.equal(other.mirror.weight, result.model.outer.weight)
    assert "mirror.weight" not in module_tensors(other)


# ------------------------------------------------------------------------------------------------ stopping, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_update_and_writes_a_checkpoint(tmp_path, number, capfd):
    whole = train(config_for(tmp_path / "whole", max_train_steps=6), Tiny(), loss_fn, Points())
    calls = 0

    def interrupted(model, batch, noise):
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), number)
        return loss_fn(model, batch, noise)

    before = signal.getsignal(number)
    config = config_for(tmp_path / "run", max_train_steps=6, checkpointing_steps=None)
    result = train(config, Tiny(), interrupted, Points(), validate=lambda *_: pytest.fail("not when stopping"))
    assert (result.interrupted, result.step, result.checkpoint.name) == (True, 3, "checkpoint-3")
    assert signal.getsignal(number) is before
    assert "--resume-from-checkpoint latest" in capfd.readouterr().err
    assert_same_run(whole, train(replace(config, resume_from_checkpoint="latest"), Tiny(5), loss_fn, Points()))


def test_second_ctrl_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.agreed()
        signal.raise_signal(signal.SIGINT)


def test_training_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(train(config_for(tmp_path), Tiny(), loss_fn, Points())), daemon=True
    )
    thread.start()
    thread.join()
    assert results[0].step == 4


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_keeps_the_last_good_checkpoint(tmp_path, where):
    def diverging(model, batch, noise):
        loss, _ = loss_fn(model, batch, noise)
        if int(noise.positions[0]) >= 9:  # from the fourth update on
            loss = loss * math.nan if where == "loss" else loss + (loss * 0).sqrt()
        return loss

    config = config_for(tmp_path, max_train_steps=9, checkpointing_steps=1, logging_steps=100)
    with pytest.raises(TrainingDiverged, match=r"step 4 .*last good checkpoint is .*checkpoint-3; a lower|A lower"):
        train(config, Tiny(), diverging, Points())
    assert list_checkpoints(tmp_path)[-1][0] == 3
    weights = read_tensors(tmp_path / "checkpoint-3" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_overflowing_gradient_is_ordinary_with_a_scaler():
    require_finite({"loss": 1.0, "grad_norm": math.inf}, 1, True, None)
    with pytest.raises(TrainingDiverged, match="no checkpoint was written before"):
        require_finite({"loss": math.nan, "grad_norm": 1.0}, 1, True, None)


@pytest.mark.parametrize("bad", [lambda x: x.bfloat16(), lambda x: x[None]])
def test_loss_must_be_a_float32_scalar(tmp_path, bad):
    with pytest.raises(TypeError, match="expected a float32 scalar"):
        train(config_for(tmp_path), Tiny(), lambda *args: bad(loss_fn(*args)[0]), Points())


def test_missing_tracker_is_reported_before_training():
    with pytest.raises(ImportError, match="pip install no_such_tracker"):
        check_tracker("no_such_tracker")
    check_tracker("none")


def test_meter_averages_over_its_calls():
    meter = Meter(torch.device("cpu"))
    assert meter.read() == {}
    meter.add({"a": torch.tensor(1.0), "b": torch.tensor(5)})
    meter.add({"a": torch.tensor(3.0, dtype=torch.bfloat16)})
    assert meter.read() == {"a": 2.0, "b": 5.0}
    meter.add({"a": torch.tensor(math.nan)})
    assert math.isnan(meter.read()["a"])


# --------------------------------------------------------------------------------------- options and surroundings


def test_model_options(tmp_path):
    class Optioned(Tiny):
        calls = ()

        def enable_gradient_checkpointing(self):
            self.calls += ("checkpointing",)

        def compile(self, *args, **options):
            self.calls += ("compile",)
            super().compile(backend="eager")

    options = {"gradient_checkpointing": True, "compile": True, "allow_tf32": True}
    precision = torch.get_float32_matmul_precision()
    try:
        result = train(config_for(tmp_path / "a", **options), Optioned(), loss_fn, Points())
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(precision)
    assert result.model.calls == ("checkpointing", "compile")
    plain = train(config_for(tmp_path / "b"), Tiny(), loss_fn, Points())
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], tensor)
    with pytest.raises(TypeError, match="Tiny has no enable_gradient_checkpointing"):
        train(config_for(tmp_path / "c", gradient_checkpointing=True), Tiny(), loss_fn, Points())


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where fp16 cannot run")
def test_fp16_without_a_gpu_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fp16"):
        train(config_for(tmp_path, mixed_precision="fp16"), Tiny(), loss_fn, Points())


def test_precision_comes_from_the_launcher_unless_given(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    seen = []

    def spy(model, batch, noise):
        seen.append(torch.is_autocast_enabled("cpu"))
        return loss_fn(model, batch, noise)

    class Spy(Tiny):
        def forward(self, x):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x)

    train(config_for(tmp_path / "a", max_train_steps=1), Spy(), spy, Points())
    train(config_for(tmp_path / "b", max_train_steps=1, mixed_precision="no"), Spy(), spy, Points())
    assert seen == [False, True, False, False]


def test_validation_sees_the_averages_and_tensorboard_the_results(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)  # the bar instead of lines
    seen = []

    def validate(model, step):
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append((step, model.inner.weight.clone()))
        return {"error": 0.25 * step, "picture": torch.zeros(4, 5, 3, dtype=torch.uint8)}

    config = config_for(tmp_path, report_to="tensorboard", validation_steps=2, logging_steps=1, ema_power=None)
    result = train(config, Tiny(), loss_fn, Points(), validate=validate)
    assert result.model.training
    assert [step for step, _ in seen] == [2, 4]
    assert torch.equal(seen[1][1], result.ema.shadow["inner.weight"])
    assert not torch.equal(seen[1][1], result.model.inner.weight)
    events = EventAccumulator(str(tmp_path / "logs" / "trifold")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("val/error")] == [(2, 0.5), (4, 1.0)]
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4]
    assert events.Scalars("lr")[0].value == pytest.approx(1e-2)
    assert [e.step for e in events.Images("val/picture")] == [2, 4]


def test_a_pretrained_model_is_saved_with_its_averages(tmp_path):
    @dataclass(frozen=True)
    class Width:
        width: int = 4

    class Saved(PretrainedModel):
        config_class = Width

        def __init__(self, config):
            super().__init__()
            self.config = config
            self.net = nn.Linear(4, config.width)

        def forward(self, x):
            return self.net(x)

    result = train(config_for(tmp_path), Saved(Width()), loss_fn, Points())
    loaded = Saved.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.net.weight, result.ema.shadow["net.weight"])
    assert not torch.equal(loaded.net.weight, result.model.net.weight)


def test_only_a_pretrained_model_can_be_pushed(tmp_path):
    config = config_for(tmp_path, push_to_hub=True, hub_model_id="someone/something")
    with pytest.raises(TypeError, match="Tiny is not a PretrainedModel"):
        train(config, Tiny(), loss_fn, Points())

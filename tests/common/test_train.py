"""The training loop in one process: exactness, stopping, options."""

import math
import os
import signal
import threading
import warnings
from dataclasses import dataclass, replace

import pytest
import torch
import torch.distributed as dist
from tiny_training import Points, Tiny, assert_same_run, config_for, loss_fn
from torch import nn
from trifold.common.pretrained import PretrainedModel
from trifold.common.train import (
    TrainingDiverged,
    list_checkpoints,
    train,
)
from trifold.common.train.progress import Meter, check_tracker, require_finite
from trifold.common.train.signals import StopRequest
from trifold.common.weights import read_tensors

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
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        assert stop.agreed()
        signal.raise_signal(signal.SIGINT)


def test_processes_agree_and_a_launchers_repeated_signal_is_ignored():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with StopRequest() as stop:
            assert not stop.agreed()
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)
            assert stop.agreed()
    finally:
        dist.destroy_process_group()


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="of what a CPU does")
@pytest.mark.parametrize("units", [True, False])
def test_auto_takes_bf16_where_there_are_units_and_bf16_without_is_warned_of(tmp_path, monkeypatch, units):
    seen, warned = [], []
    for module in ("precision", "train.setup"):
        monkeypatch.setattr(f"trifold.common.{module}.multiplies_bfloat16", lambda kind: units)

    class Spy(Tiny):
        def forward(self, x):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x)

    for precision in ("auto", "bf16"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(
                config_for(tmp_path / precision, max_train_steps=1, mixed_precision=precision), Spy(), loss_fn, Points()
            )
        warned.append(any("no bfloat16 units: float32 is several times faster" in str(w.message) for w in caught))
    assert seen == [units, True]
    assert warned == [False, not units]


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


def test_a_resume_keeps_what_the_tracker_had_up_to_its_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = dict(report_to="tensorboard", validation_steps=2, logging_steps=1)
    first = config_for(tmp_path, max_train_steps=2, **settings)
    for config in (first, config_for(tmp_path, resume_from_checkpoint="latest", **settings)):
        train(config, Tiny(), loss_fn, Points(), validate=lambda model, step: {"score": step})
    events = EventAccumulator(str(tmp_path / "logs" / "trifold")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [e.step for e in events.Scalars("val/score")] == [2, 4]


def test_the_last_validation_is_made_up_for(tmp_path):
    seen = []

    def killed(model, step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config_for(tmp_path), Tiny(), loss_fn, Points(), validate=killed)
    again = config_for(tmp_path, resume_from_checkpoint="latest")
    train(again, Tiny(), loss_fn, Points(), validate=lambda model, step: seen.append(step) or {})
    assert seen == [4]


def test_gradients_left_on_the_model_are_not_trained_with(tmp_path):
    used = Tiny()
    used(torch.ones(3, 4)).sum().backward()
    used.norm.load_state_dict(Tiny().norm.state_dict())
    one, two = (train(config_for(tmp_path / n), m, loss_fn, Points()) for n, m in (("a", Tiny()), ("b", used)))
    assert_same_run(one, two)


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

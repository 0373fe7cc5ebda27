"""Checkpoints: contents, rotation, what resumes and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import is_initialized
from tiny_training import Points, Tiny, assert_same_run, config_for, loss_fn
from torch import nn
from trifold.common.nn import Block, FeedForwardBranch
from trifold.common.train import (
    EMA,
    TrainState,
    WeightsError,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    train,
)
from trifold.common.train.checkpoint import checkpoint_step, find_resume
from trifold.common.weights import load_module_tensors, module_tensors, read_tensors


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


def test_frozen_parameters_may_be_left_to_the_base(tmp_path):
    whole = train(config_for(tmp_path / "a"), Tiny(), loss_fn, Points())
    light = replace(config_for(tmp_path / "b", max_train_steps=2), checkpoint_frozen=False)
    saved = train(light, Tiny(), loss_fn, Points()).checkpoint
    frozen = {"frozen.weight", "frozen.bias"}
    assert set(read_tensors(saved / "model.safetensors")) == set(module_tensors(Tiny())) - frozen
    go_on = replace(light, max_train_steps=4, resume_from_checkpoint="latest")
    model = Tiny(4)  # all that is trained comes from the checkpoint, the rest is the base's
    model.frozen.load_state_dict(Tiny().frozen.state_dict())
    assert_same_run(whole, train(go_on, model, loss_fn, Points()))
    with pytest.raises(WeightsError, match=r"2 missing: frozen\.bias, frozen\.weight"):
        train(replace(go_on, checkpoint_frozen=True, max_train_steps=5), Tiny(), loss_fn, Points())


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
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0  # the run that is there stays described
    path = tmp_path / "checkpoint-4" / "state.json"
    path.write_text(path.read_text().replace('"seed"', '"seeds"'))
    with pytest.raises(WeightsError, match=r"state\.json"):
        train(config, Tiny(), loss_fn, Points())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resume_takes_the_optimizers_settings_from_the_config(tmp_path, optimizer):
    class WithBlock(Tiny):
        def __init__(self):
            super().__init__()
            self.outer = nn.Sequential(Block(8, heads=1, branches=[FeedForwardBranch("ff", "norm")]), self.outer)

    settings = dict(optimizer=optimizer, adam_weight_decay=0.5, adam_beta1=0.5, adam_epsilon=1e-3)
    train(config_for(tmp_path, max_train_steps=2, optimizer=optimizer), WithBlock(), loss_fn, Points())
    config = config_for(tmp_path, resume_from_checkpoint="latest", **settings)
    result = train(config, WithBlock(), loss_fn, Points())
    saved = torch.load(result.checkpoint / "optimizer.pt", weights_only=True)["optimizer"]
    parts = [saved] if optimizer == "adamw" else [saved["adamw"], saved["muon"]]
    groups = [group for part in parts for group in part["param_groups"]]
    assert [group["weight_decay"] for group in groups] == [0.5] * len(groups)
    assert (groups[0]["betas"], groups[0]["eps"]) == ((0.5, 0.999), 1e-3)


def test_averages_of_another_model_are_refused():
    ema = EMA(nn.Linear(2, 2))
    with pytest.raises(WeightsError, match=r"somewhere: averages.*: bias"):
        ema.load({"weight": torch.zeros(2, 2)}, 3, "somewhere")


def test_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        train(config_for(tmp_path), Tiny(), loss_fn, Points())
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_gradient_scaler_is_restored(tmp_path):
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    folder = save_checkpoint(tmp_path, TrainState(1, 3, 0, 11, 1), model, None, optimizer, scaler, None)
    other = torch.amp.GradScaler("cpu")
    assert load_checkpoint(folder, Tiny(1), None, optimizer, other) == TrainState(1, 3, 0, 11, 1)
    assert other.get_scale() == 64.0


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

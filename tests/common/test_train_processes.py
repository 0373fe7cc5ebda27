"""Training in real processes: two of them against one, and what survives `kill -9`.

This file is also the program that those processes run: `python test_train_processes.py NAME FOLDER`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from trifold.common.train import TrainConfig, list_checkpoints, process_state, train
from trifold.common.weights import read_tensors


class Waves:
    """Seven samples, so that batches straddle epochs."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return torch.sin(torch.arange(6.0) * (index + 1))


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner, self.outer = nn.Linear(6, 16), nn.Linear(16, 6)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4, generator=generator)

    def forward(self, x):
        return self.outer(self.inner(x).relu())


def loss_fn(model, batch, noise):
    time = noise.rand()[:, None]
    eps = noise.randn(6)
    loss = (model((1 - time) * batch + time * eps) - eps).square().mean()
    return loss, {"position": torch.tensor(float(sum(noise.positions)) / len(noise))}


def settings(folder, **changes):
    base = dict(
        output_dir=Path(folder),
        train_batch_size=4,
        max_train_steps=6,
        learning_rate=1e-2,
        lr_scheduler="cosine",
        lr_warmup_steps=2,
        adam_epsilon=1e-4,  # keeps Adam from amplifying the rounding of a tiny gradient
        use_ema=True,
        report_to="none",
    )
    return TrainConfig(**{**base, **changes})


def weights(folder):
    return read_tensors(folder / "model.safetensors") | {
        f"ema.{name}": tensor for name, tensor in read_tensors(folder / "ema.safetensors").items()
    }


def assert_close(one, two):
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-5, atol=1e-6, msg=lambda text, name=name: name + text)


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def two_processes(folder):
    """One of two processes: train to the end, then a second run that only process 1 is asked to stop."""
    rank = int(os.environ["RANK"])
    assert process_state().process_index == rank  # asked before `train`, as programs do
    seen = []
    result = train(
        settings(folder / "whole", train_batch_size=2),
        Net(seed=rank),  # the weights of process 0 count
        loss_fn,
        Waves(),
        validate=lambda model, step: seen.append((step, type(model).__name__)) or {},
    )

    def stop_one(model, batch, noise):
        if rank == 1 and noise.positions[0] == 2 * 4 + 2:  # its third micro-step
            os.kill(os.getpid(), signal.SIGTERM)
        return loss_fn(model, batch, noise)

    stopped = train(settings(folder / "stopped", train_batch_size=2), Net(), stop_one, Waves())
    report = {"step": stopped.step, "interrupted": stopped.interrupted, "validated": seen, "metrics": result.metrics}
    (folder / f"report{rank}.json").write_text(json.dumps(report))


def test_two_processes_train_the_model_of_one(tmp_path):
    # `--cpu` would start one process only, unless it is given mpirun; `--multi_gpu` means "distributed" here, and
    # ACCELERATE_USE_CPU keeps the two on the CPU (gloo). Port 0 takes a free one.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no"]
    run = subprocess.run(
        [*command, __file__, "two_processes", str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    one = train(settings(tmp_path / "one"), Net(), loss_fn, Waves())
    two = tmp_path / "whole" / "checkpoint-6"
    assert_close(weights(one.checkpoint), weights(two))
    state = json.loads((two / "state.json").read_text())
    assert (state["position"], state["world_size"]) == (one.position, 2)

    reports = [json.loads((tmp_path / f"report{rank}.json").read_text()) for rank in (0, 1)]
    assert [report["validated"] for report in reports] == [[[6, "Net"]], []]  # on the main process, unwrapped
    for report in reports:
        assert (report["step"], report["interrupted"]) == (3, True)
        assert report["metrics"]["position"] == one.metrics["position"] == 11.5  # the mean over both processes
    # What two processes began, one can finish.
    rest = train(settings(tmp_path / "stopped", resume_from_checkpoint="latest"), Net(), loss_fn, Waves())
    assert_close(weights(one.checkpoint), weights(rest.checkpoint))


def endless(folder):
    """Checkpoint after every update until somebody pulls the plug."""
    config = settings(folder, max_train_steps=100_000, checkpointing_steps=1, lr_scheduler="constant_with_warmup")
    train(config, Net(), loss_fn, Waves())


def test_kill_9_at_any_moment_leaves_a_checkpoint_to_go_on_from(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, __file__, "endless", str(folder)], env=environment())
    try:
        deadline = time.monotonic() + 120
        while not list_checkpoints(folder):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))  # any moment: in an update, in a write, in a rename
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    steps = [step for step, _ in list_checkpoints(folder)]
    assert steps
    config = settings(
        folder, max_train_steps=steps[-1] + 3, checkpointing_steps=None, lr_scheduler="constant_with_warmup"
    )
    resumed = train(replace(config, resume_from_checkpoint="latest"), Net(), loss_fn, Waves())
    whole = train(replace(config, output_dir=tmp_path / "whole"), Net(), loss_fn, Waves())
    assert resumed.step == whole.step == steps[-1] + 3
    one, two = weights(resumed.checkpoint), weights(whole.checkpoint)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    moments = [torch.load(r.checkpoint / "optimizer.pt", weights_only=True)["optimizer"] for r in (resumed, whole)]
    assert all(
        torch.equal(moments[0]["state"][k]["exp_avg_sq"], v["exp_avg_sq"]) for k, v in moments[1]["state"].items()
    )
    assert not list(folder.glob(".*.tmp"))  # what the killed run left half written is gone


def endless_with_worker(folder):
    """Data prepared by a worker process; checkpoints only when asked to stop."""
    config = settings(folder, max_train_steps=100_000, dataloader_num_workers=1, lr_scheduler="constant_with_warmup")

    def loss_and_sign_of_life(model, batch, noise):
        (Path(folder) / "alive").touch()
        return loss_fn(model, batch, noise)

    result = train(replace(config, checkpointing_steps=None), Net(), loss_and_sign_of_life, Waves())
    print(f"interrupted={result.interrupted}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_leaves_a_checkpoint(tmp_path, number):
    """What Ctrl-C in a terminal does: trainer and data worker both get it."""
    command = [sys.executable, __file__, "endless_with_worker", str(tmp_path)]
    process = subprocess.Popen(
        command, env=environment(), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "alive").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err[-2000:]
    assert "interrupted=True" in out
    assert len(list_checkpoints(tmp_path)) == 1


def failing_with_worker(folder):
    """A fault in the loss, while a worker process waits for work. `main` keeps the traceback alive, as a caller may."""

    def fault(model, batch, noise):
        raise ArithmeticError("no loss today")

    try:
        train(settings(folder, dataloader_num_workers=1), Net(), fault, Waves())
    except ArithmeticError as error:
        failing_with_worker.error = error
        print(error)


def test_a_fault_in_the_loss_ends_the_program_and_its_workers(tmp_path):
    command = [sys.executable, __file__, "failing_with_worker", str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "no loss today" in done.stdout


if __name__ == "__main__":
    torch.set_num_threads(1)
    programs = {f.__name__: f for f in (two_processes, endless, endless_with_worker, failing_with_worker)}
    programs[sys.argv[1]](Path(sys.argv[2]))

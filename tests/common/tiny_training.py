"""The small model, data and settings that the tests of the training loop share."""

from pathlib import Path

import torch
from torch import nn
from trifold.common.train import TrainConfig


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

"""The optimizers a run can name: AdamW, or Muon on the matrices of the core's blocks with AdamW on all else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..nn import Block
from .config import TrainConfig
from .muon import Muon

MUON_MOMENTUM = 0.95


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the trainable parameters of `model`. Raises ValueError for "muon" where no block has any."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        return _adamw(config, trainable)
    matrices = block_matrices(model)
    if not matrices:
        raise ValueError(f"optimizer: muon is for matrices of blocks, and {type(model).__name__} has none to train")
    chosen = {id(p) for p in matrices}
    return MuonAndAdamW(
        # Updates are scaled to the size of AdamW's, so that one learning rate and decay fit both (Liu et al. 2025).
        Muon(
            matrices,
            lr=config.learning_rate,
            weight_decay=config.adam_weight_decay,
            momentum=MUON_MOMENTUM,
            adjust_lr_fn="match_rms_adamw",
        ),
        _adamw(config, [p for p in trainable if id(p) not in chosen]),
    )


def block_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Trainable weights [out, in] of the linear layers inside the core's `Block`s, each once, in the model's order."""
    found: dict[int, nn.Parameter] = {}
    for block in model.modules():
        if isinstance(block, Block):
            weights = (m.weight for m in block.modules() if isinstance(m, nn.Linear))
            found |= {id(w): w for w in weights if isinstance(w, nn.Parameter) and w.requires_grad}
    return list(found.values())


def _adamw(config: TrainConfig, parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        fused=True,  # one pass over each parameter: a quarter of the time on a CPU
    )


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers of different parameters as one: their groups stand side by side, their states too.

    Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix, so that every direction in it moves equally.
    """

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self.parts = {"muon": muon, "adamw": adamw}
        super().__init__([p for part in self.parts.values() for g in part.param_groups for p in g["params"]], {})
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of both."""
        loss = None if closure is None else closure()
        for part in self.parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """{"muon": ..., "adamw": ...}."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError for the state of another optimizer."""
        if set(state_dict) != set(self.parts):
            expected = " and ".join(self.parts)
            raise ValueError(f"optimizer state: expected parts {expected}, found {', '.join(map(str, state_dict))}")
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

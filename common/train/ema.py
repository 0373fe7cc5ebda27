"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..weights import WeightsError


class EMA:
    """Float32 averages of a module's trainable parameters: shadow <- d shadow + (1 - d) parameter.

    The decay d after n updates is min(decay, 1 - (1 + n / inv_gamma) ** -power), the warm-up of k-diffusion and of
    diffusers' `EMAModel(use_ema_warmup=True)`: the first update copies the parameters. `power=None` uses `decay` from
    the first update on, as in guided-diffusion. Buffers and frozen parameters are not averaged.
    """

    def __init__(
        self, module: nn.Module, decay: float = 0.9999, *, inv_gamma: float = 1.0, power: float | None = 2 / 3
    ):
        self.max_decay = decay
        self.inv_gamma = inv_gamma
        self.power = power
        self.updates = 0
        self.shadow = {name: p.detach().float().clone() for name, p in _trainable(module).items()}

    @property
    def decay(self) -> float:
        """The decay that the next update will use."""
        if self.power is None:
            return self.max_decay
        return min(self.max_decay, 1.0 - (1.0 + self.updates / self.inv_gamma) ** -self.power)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the module's present parameters into the average."""
        parameters = [p.detach().float() for p in _trainable(module).values()]
        torch._foreach_lerp_(list(self.shadow.values()), parameters, 1.0 - self.decay)  # pyright: ignore[reportPrivateImportUsage]
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's trainable parameters by their averages (cast to their dtypes)."""
        for name, parameter in _trainable(module).items():
            parameter.copy_(self.shadow[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Within the block the module has the averaged weights; afterwards its own, bit for bit."""
        own = {name: p.detach().clone() for name, p in _trainable(module).items()}
        try:
            self.copy_to(module)
            yield
        finally:
            with torch.no_grad():
                for name, parameter in _trainable(module).items():
                    parameter.copy_(own[name])

    def load(self, shadow: Mapping[str, Tensor], updates: int, source: object) -> None:
        """Restore averages and the number of updates; WeightsError (naming `source`) if the names or shapes differ."""
        found = {name: tensor.shape for name, tensor in shadow.items()}
        expected = {name: tensor.shape for name, tensor in self.shadow.items()}
        if wrong := sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)):
            raise WeightsError(f"{source}: averages missing, unexpected or of another shape: {', '.join(wrong[:8])}")
        for name, tensor in self.shadow.items():
            tensor.copy_(shadow[name])
        self.updates = updates


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}

"""`dropout`, `Dropout`: torch's, from fewer random numbers on a CPU.

Torch draws one number for each element, one after another: a tenth of a training step of HouseDiffusion's network on
two cores. Here one draw of 64 bits serves four elements: 0.95 million of them take 2 ms forward and backward instead
of 6.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import is_transformed

LEVELS = 2**16
FEW = 256  # elements below which drawing is not what takes the time


def dropout(x: Tensor, probability: float) -> Tensor:
    """x with each element zeroed by chance, the others scaled so that the mean stays; shape and dtype of x.

    On a CPU the probability is rounded to a multiple of 2^-16, and the scale is that of the rounded one. The random
    bits are those of torch's global generator. Raises ValueError for a probability outside [0, 1).
    """
    if not 0 <= probability < 1:
        raise ValueError(f"dropout: expected a probability in [0, 1), found {probability}")
    dropped = round(probability * LEVELS)
    if x.device.type != "cpu" or x.numel() < FEW or not 0 < dropped < LEVELS or is_transformed():
        return F.dropout(x, probability)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    levels = draws.view(torch.int16)[: x.numel()].view(x.shape)  # evenly from -LEVELS / 2 on
    kept = levels >= dropped - LEVELS // 2
    return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Dropout):
    """nn.Dropout with `dropout` in its place."""

    def forward(self, input: Tensor) -> Tensor:
        """`dropout` in training, the identity else."""
        return dropout(input, self.p) if self.training and self.p else input

"""Muon (Jordan et al. 2024): torch's, with all matrices of one shape in one product, in a precision the device has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..precision import multiplies_bfloat16


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` to rounding: its options, its state. A step takes as many products as there are shapes, not
    matrices, and a CPU without bfloat16 units, which is slow at that format, takes float32."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            shapes: dict[tuple[torch.Size, torch.device], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault((p.shape, p.device), []).append(p)
            for same in shapes.values():
                self._update(same, group)
        return loss

    def _update(self, matrices: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one shape."""
        wanted = []
        for p in matrices:
            grad = cast(Tensor, p.grad)
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(grad)
            momentum = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
            wanted.append(grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum)
        moves = orthogonalised(torch.stack(wanted), group["ns_coefficients"], group["ns_steps"], group["eps"])
        lr = float(group["lr"])
        rows, columns = matrices[0].shape
        matched = group["adjust_lr_fn"] == "match_rms_adamw"
        size = 0.2 * max(rows, columns) ** 0.5 if matched else max(1.0, rows / columns) ** 0.5
        for p, move in zip(matrices, moves, strict=True):
            p.mul_(1 - lr * group["weight_decay"]).add_(move, alpha=-lr * size)


def orthogonalised(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float = 1e-7) -> Tensor:
    """U p(S) V^T of each matrix U S V^T: [K, A, B] -> [K, A, B], p bringing the singular values near one.

    p is `steps` times s -> a s + b s^3 + c s^5 after a division by the Frobenius norm (Newton-Schulz); in bfloat16
    where the device has units for it, else in float32.
    """
    a, b, c = coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    x = (x.mT if tall else x).to(torch.bfloat16 if multiplies_bfloat16(x.device.type) else torch.float32)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)

"""`Linear`, `leaky_linear`: torch's layer, on oneDNN where a CPU only infers, in one pass with what may follow it.

Torch multiplies float32 matrices on a CPU with MKL, which on processors of other makers leaves some of the speed to
oneDNN: 1,862 x 512 by 512 x 512 on one AVX-512 core of AMD takes 10.6 ms there and 9.9 ms here, denoising a packed
batch of floorplans 8 % less time. Torch ships both; the kernel it calls for half precision anyway is used by name, and
spares that precision a pass for the activation: the layers of Luo & Hu take 9 % less time.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

LEAST_PRODUCTS = 2**21  # multiplications below which what a call of oneDNN costs is more than it saves


class Linear(nn.Linear):
    """`x W^T + b`: x [..., in_features] -> [..., out_features], equal to nn.Linear's to rounding."""

    def forward(self, input: Tensor, relu: bool = False) -> Tensor:
        """nn.Linear's forward, then max(0, .) for `relu`; a large product without gradients in float32 on a CPU by
        oneDNN."""
        if _is_large(input, self.weight) and input.dtype == torch.float32 and _only_infers(input, self.weight):
            then = "relu" if relu else "none"
            return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, then, [], "")
        out = super().forward(input)
        return out.relu() if relu else out  # in place on a view, which `out` is, autograd would copy


def leaky_linear(input: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """LeakyReLU of negative `slope` of x W^T + b: x [..., I], W [O, I], b [O] -> [..., O]; a large product without
    gradients on a CPU by oneDNN."""
    if _is_large(input, weight) and _only_infers(input, weight):
        return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "leaky_relu", [slope], "")
    return F.leaky_relu_(F.linear(input, weight, bias), slope)


def _is_large(input: Tensor, weight: Tensor) -> bool:
    return input.numel() * weight.shape[0] >= LEAST_PRODUCTS


def _only_infers(input: Tensor, weight: Tensor) -> bool:
    """Float32 or bfloat16 on a CPU, nothing asks for derivatives or another dtype, traces or maps the call, and torch's
    own kernel of oneDNN works."""
    if input.device.type != "cpu" or input.dtype != weight.dtype:
        return False
    return not (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or not _onednn_works(input.dtype)
    )


@lru_cache
def _onednn_works(dtype: torch.dtype) -> bool:
    """Whether this torch has the kernel and it multiplies as F.linear does."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    x, weight, bias = (v.to(dtype) for v in (torch.ones(2, 3), torch.arange(12.0).view(4, 3), torch.arange(4.0)))
    try:
        found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(found, F.linear(x, weight, bias))

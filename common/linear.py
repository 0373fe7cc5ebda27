"""`Linear`, `leaky_linear`: torch's layer, on oneDNN where that is faster, in one pass with the activation if it may.

Torch multiplies float32 matrices on a CPU with MKL, which on processors of other makers leaves some of the speed of
AVX-512 to oneDNN: 1,862 x 512 by 512 x 512 on one such core of AMD takes 10.6 ms there and 9.9 ms here, denoising a
packed batch of floorplans 8 % less time; forward and backward together take 5 % less. With AVX2 alone MKL is the faster
by 10 %. Torch ships both; the kernel it calls for half precision anyway is used by name, and spares that precision a
pass for the activation: the layers of Luo & Hu take 9 % less time.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.utils.flop_counter import register_flop_formula

LEAST_PRODUCTS = 2**21  # multiplications below which what a call of oneDNN costs is more than it saves
ONEDNN_IS_FASTER = torch.backends.cpu.get_cpu_capability().startswith("AVX512")  # than MKL at a product by itself


class Linear(nn.Linear):
    """`x W^T + b`: x [..., in_features] -> [..., out_features], equal to nn.Linear's to rounding."""

    def forward(self, input: Tensor, relu: bool = False) -> Tensor:
        """nn.Linear's forward, then max(0, .) for `relu`; a large float32 product on a CPU with AVX-512 by oneDNN."""
        by_onednn = input.dtype == torch.float32 and ONEDNN_IS_FASTER
        if by_onednn and _is_large(input, self.weight) and _is_plain(input, self.weight):
            if not torch.is_grad_enabled():
                return _product(input, self.weight, self.bias, "relu" if relu else "none")
            out = _OneDNNLinear.apply(input, self.weight, self.bias)
            assert isinstance(out, Tensor)
        else:
            out = super().forward(input)
        if not relu:
            return out
        return out.relu() if torch.is_grad_enabled() else out.relu_()  # on a view, which `out` is, autograd would copy


class _OneDNNLinear(Function):
    """x W^T + b with gradients. Of the two products of the backward pass oneDNN is the faster at one, MKL at W's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        rows, to_x, to_weight, to_bias = grad.reshape(-1, weight.shape[0]), None, None, None
        if ctx.needs_input_grad[0]:
            # By a product that has a gradient itself where one of gradients is wanted.
            plain = not torch.is_grad_enabled() and _is_plain(grad, weight)
            to_x = _product(grad, weight.t()) if plain else grad @ weight
        if ctx.needs_input_grad[1]:
            to_weight = rows.t() @ x.reshape(-1, weight.shape[1])
        if ctx.needs_input_grad[2]:
            to_bias = rows.sum(0)
        return to_x, to_weight, to_bias


def leaky_linear(input: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """LeakyReLU of negative `slope` of x W^T + b: x [..., I], W [O, I], b [O] -> [..., O]; a large product without
    gradients on a CPU by oneDNN."""
    if _is_large(input, weight) and not torch.is_grad_enabled() and _is_plain(input, weight):
        return _product(input, weight, bias, "leaky_relu", slope)
    return F.leaky_relu_(F.linear(input, weight, bias), slope)


def _is_large(input: Tensor, weight: Tensor) -> bool:
    return input.numel() * weight.shape[0] >= LEAST_PRODUCTS


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none", *scalars: float) -> Tensor:
    """x W^T + b and what follows it, by oneDNN; autograd does not see it."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, list(scalars), "")


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # torch counts its own products only

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _flops(x_shape: torch.Size, weight_shape: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * x_shape.numel() * weight_shape[0]


def is_transformed() -> bool:
    """Whether torch.compile traces the call, or torch.func maps or differentiates it."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]


def _is_plain(input: Tensor, weight: Tensor) -> bool:
    """Float32 or bfloat16 on a CPU, nothing asks for forward derivatives or another dtype, traces or maps the call, and
    torch's own kernel of oneDNN works."""
    if input.device.type != "cpu" or input.dtype != weight.dtype:
        return False
    return not (
        torch.is_autocast_enabled("cpu")
        or is_transformed()
        or forward_ad._current_level >= 0
        or not _onednn_works(input.dtype)
    )


@lru_cache
def _onednn_works(dtype: torch.dtype) -> bool:
    """Whether this torch has the kernel and it multiplies as F.linear does."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    x, weight, bias = (v.to(dtype) for v in (torch.ones(2, 3), torch.arange(12.0).view(4, 3), torch.arange(4.0)))
    try:
        found = _product(x, weight, bias)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(found, F.linear(x, weight, bias))

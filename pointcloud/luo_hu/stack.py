"""Running a stack of gated linear layers over every point of every cloud, quickly.

Layer i of cloud b is h -> leaky(gate_bi * (W_i h) + shift_bi). A gate scales the rows of W_i, so it is folded into the
weights once per cloud, and a layer becomes one matrix product with a bias and an activation in place: no full-size
tensor is written only to be multiplied. On a CPU the points pass through all layers in slices whose activations stay
in the cache, in the backward pass too.

Shape letters: B clouds, N points, I and O the widths a layer reads and writes, K layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...common.linear import leaky_linear

SLICE_BYTES = 2048  # of one channel: 512 points in float32, 1024 in bfloat16; at width 512 a slice is 1 MiB


@dataclass(frozen=True)
class GatedLayer:
    """One layer of the stack: `weight` [O, I], shared, with `gate` [B, O] and `shift` [B, O] of each cloud."""

    weight: Tensor
    gate: Tensor
    shift: Tensor


def run_stack(x: Tensor, layers: Sequence[GatedLayer], slope: float, dtype: torch.dtype) -> Tensor:
    """All layers, with LeakyReLU of negative `slope` between them and none after the last.

    Args:
        x: [B, N, I] float32 (or float64); the layers are in the same dtype.
        layers: K of them, the first reading I.
        slope: of the activation, > 0.
        dtype: of the inner matrix products. The first and the last layer, narrow and nearest to the coordinates,
            stay in the dtype of x.

    Returns: [B, N, O] in the dtype of x. Gradients are of first order.
    """
    if not slope > 0:
        raise ValueError(f"slope: expected a positive number, found {slope}")
    with torch.autocast(x.device.type, enabled=False):
        if x.device.type != "cpu":
            return run_batched(x, layers, slope, dtype)
        flat = _flat(layers)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *flat)):
            return _SlicedStack.apply(slope, dtype, x, *flat)  # pyright: ignore[reportReturnType]
        return _sliced(x, layers, slope, dtype)


def run_batched(x: Tensor, layers: Sequence[GatedLayer], slope: float, dtype: torch.dtype) -> Tensor:
    """`run_stack` as one batched product a layer over all clouds: for accelerators, which have no use for slices."""
    kinds = _dtypes(len(layers), x.dtype, dtype)
    h = x
    for i, (layer, kind) in enumerate(zip(layers, kinds, strict=True)):
        folded = (layer.gate[:, :, None] * layer.weight).to(kind)
        h = torch.baddbmm(layer.shift[:, None].to(kind), h.to(kind), folded.transpose(1, 2))
        if i < len(layers) - 1:
            h = F.leaky_relu_(h, slope)
    return h


def _dtypes(count: int, outer: torch.dtype, inner: torch.dtype) -> list[torch.dtype]:
    return [outer if i in (0, count - 1) else inner for i in range(count)]


def _folded(layers: Sequence[GatedLayer], kinds: Sequence[torch.dtype], cloud: int) -> list[Tensor]:
    return [(layer.gate[cloud, :, None] * layer.weight).to(k) for layer, k in zip(layers, kinds, strict=True)]


def _slices(num_points: int, dtype: torch.dtype) -> list[slice]:
    size = SLICE_BYTES // dtype.itemsize
    return [slice(start, start + size) for start in range(0, num_points, size)]


def _sliced(
    x: Tensor,
    layers: Sequence[GatedLayer],
    slope: float,
    dtype: torch.dtype,
    kept: Sequence[Tensor] | None = None,
) -> Tensor:
    """The forward pass, cloud by cloud and slice by slice; writes what each activation gives [B, N, O] to `kept`."""
    kinds = _dtypes(len(layers), x.dtype, dtype)
    shifts = [layer.shift.to(k) for layer, k in zip(layers, kinds, strict=True)]
    out = x.new_empty(*x.shape[:2], layers[-1].weight.shape[0])
    for cloud in range(x.shape[0]):
        weights = _folded(layers, kinds, cloud)
        for part in _slices(x.shape[1], dtype):
            h = x[cloud, part]
            for i, weight in enumerate(weights[:-1]):
                h = leaky_linear(h.to(kinds[i]), weight, shifts[i][cloud], slope)
                if kept is not None:
                    kept[i][cloud, part] = h
            out[cloud, part] = F.linear(h.to(kinds[-1]), weights[-1], shifts[-1][cloud])
    return out


class _SlicedStack(torch.autograd.Function):
    """`_sliced` with its gradient.

    The forward pass keeps what the activations give; its sign tells the activation's slope.
    """

    @staticmethod
    def forward(ctx: Any, slope: float, dtype: torch.dtype, x: Tensor, *flat: Tensor) -> Tensor:
        layers = _layers(flat)
        kept = [x.new_empty(*x.shape[:2], layer.weight.shape[0], dtype=dtype) for layer in layers[:-1]]
        out = _sliced(x, layers, slope, dtype, kept)
        ctx.save_for_backward(x, *flat, *kept)
        ctx.slope, ctx.dtype = slope, dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, *saved = ctx.saved_tensors
        count = (len(saved) + 1) // 4  # three tensors a layer, and the output of all activations but the last
        layers, kept = _layers(saved[: 3 * count]), saved[3 * count :]
        kinds = _dtypes(count, x.dtype, ctx.dtype)
        result = [GatedLayer(*map(torch.zeros_like, (layer.weight, layer.gate, layer.shift))) for layer in layers]
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[2] else None
        for cloud in range(x.shape[0]):
            weights = _folded(layers, kinds, cloud)
            folded = [torch.zeros_like(layer.weight) for layer in layers]  # gradient of gate * weight
            for part in _slices(x.shape[1], ctx.dtype):
                grad = grads[0][cloud, part]
                for i in reversed(range(count)):
                    if i < count - 1:
                        after = kept[i][cloud, part]
                        grad = torch.ops.aten.leaky_relu_backward(grad.to(after.dtype), after, ctx.slope, True)
                        grad = grad.to(kinds[i])
                    before = (kept[i - 1] if i else x)[cloud, part].to(kinds[i])
                    if kinds[i] is x.dtype:
                        folded[i].addmm_(grad.t(), before)
                    else:
                        folded[i] += torch.mm(grad.t(), before)
                    result[i].shift[cloud] += grad.sum(0, dtype=x.dtype)
                    if i:
                        grad = torch.mm(grad, weights[i])
                    elif grad_x is not None:
                        grad_x[cloud, part] = torch.mm(grad, weights[0])
            for layer, found, total in zip(layers, folded, result, strict=True):
                total.weight.addcmul_(layer.gate[cloud, :, None], found)
                total.gate[cloud] = (found * layer.weight).sum(1)
        return (None, None, grad_x, *_flat(result))


def _flat(layers: Sequence[GatedLayer]) -> list[Tensor]:
    return [tensor for layer in layers for tensor in (layer.weight, layer.gate, layer.shift)]


def _layers(flat: Sequence[Tensor]) -> list[GatedLayer]:
    return [GatedLayer(*flat[i : i + 3]) for i in range(0, len(flat), 3)]

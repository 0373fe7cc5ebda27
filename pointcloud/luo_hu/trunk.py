"""The point layers of PointNet in training mode, quickly: products, batch norm, ReLU and the maximum over the points.

Three facts make it cheaper than one module after the other. A bias before a batch norm cancels. What a norm and a ReLU
give is computed anew where it is read, cloud by cloud in the cache, and never stored. And the last norm, which has no
ReLU, reaches the loss only through one maximum a channel: its statistics follow from the Gram matrix H^T H of its
input H, and the gradient of its products y = H W^T, which is a + c y everywhere but at the maxima, needs H alone:
(a + c y) W = a W + H (W^T diag(c) W). The widest activations are neither kept nor differentiated point by point.

Shape letters: B clouds, N points, M = B N, C channels of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class NormedLayer:
    """y = h W^T + b, then gamma (y - mean) / std + beta over the batch: `weight` [C, I], the others [C].

    The bias shifts the mean that is returned and nothing else; its gradient is exactly 0.
    """

    weight: Tensor
    bias: Tensor
    gamma: Tensor
    beta: Tensor

    @staticmethod
    def listed(flat: Sequence[Tensor]) -> list[NormedLayer]:
        """Layers from their tensors in order."""
        return [NormedLayer(*flat[i : i + PARTS]) for i in range(0, len(flat), PARTS)]


PARTS = 4


def pooled_features(
    points: Tensor, layers: Sequence[NormedLayer], eps: float, dtype: torch.dtype
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Maximum over the points of the last layer's norm, ReLU following every layer but that.

    Args:
        points: [B, N, 3] float32 (or float64); they get no gradient.
        layers: at least two.
        eps: added to the variances.
        dtype: of the products but the first layer's, and of what is stored between layers.

    Returns: [B, C], and each layer's (mean [C], biased variance [C]) of y over the M points.
    """
    flat = [part for layer in layers for part in (layer.weight, layer.bias, layer.gamma, layer.beta)]
    with torch.autocast(points.device.type, enabled=False):
        pooled, *moments = _Trunk.apply(points, eps, dtype, *flat)  # pyright: ignore[reportGeneralTypeIssues]
    means = [mean + layer.bias.detach() for mean, layer in zip(moments[0::2], layers, strict=True)]
    return pooled, list(zip(means, moments[1::2], strict=True))


@dataclass(frozen=True)
class _Normed:
    """A layer's products y [B, N, C] with what normalises them."""

    layer: NormedLayer
    y: Tensor
    mean: Tensor
    rate: Tensor
    """1 / standard deviation."""

    def normal(self, cloud: int) -> Tensor:
        """(y - mean) / std of one cloud, [N, C]."""
        return self.y[cloud].to(self.mean.dtype).sub(self.mean).mul_(self.rate)

    def output(self, cloud: int) -> Tensor:
        """After norm and ReLU, [N, C]."""
        return torch.addcmul(self.layer.beta, self.normal(cloud), self.layer.gamma).relu_()


class _Trunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, eps: float, dtype: torch.dtype, *flat: Tensor) -> tuple[Tensor, ...]:
        layers = NormedLayer.listed(flat)
        hidden: list[_Normed] = []
        moments: list[Tensor] = []
        for layer in layers[:-1]:
            y, mean, variance = _products(points, hidden, layer, dtype)
            hidden.append(_Normed(layer, y, mean, (variance + eps).rsqrt()))
            moments += [mean, variance]
        pooled, mean, variance, rest = _last(hidden, layers[-1], eps, dtype)
        moments += [mean, variance]
        ctx.eps, ctx.dtype, ctx.count = eps, dtype, len(layers)
        ctx.save_for_backward(points, *flat, *moments, *(h.y for h in hidden), *rest)
        ctx.mark_non_differentiable(*moments)
        return pooled, *moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        points, *saved = ctx.saved_tensors
        flat, saved = saved[: PARTS * ctx.count], saved[PARTS * ctx.count :]
        moments, saved = saved[: 2 * ctx.count], saved[2 * ctx.count :]
        ys, rest = saved[: ctx.count - 1], saved[ctx.count - 1 :]
        layers = NormedLayer.listed(flat)
        rates = [(variance + ctx.eps).rsqrt() for variance in moments[1::2]]
        hidden = [_Normed(*parts) for parts in zip(layers[:-1], ys, moments[0:-2:2], rates[:-1], strict=True)]
        above = _Below(hidden[-1])
        result = _last_backward(grads[0], layers[-1], moments[-2], rates[-1], rest, above, ctx.dtype)
        for i in reversed(range(1, ctx.count - 1)):
            below = _Below(hidden[i - 1])
            result[:0] = _hidden_backward(above, below, points, ctx.dtype)
            above = below
        result[:0] = _hidden_backward(above, None, points, ctx.dtype)
        return (None, None, None, *result)


def _last_backward(
    grad: Tensor,
    layer: NormedLayer,
    mean: Tensor,
    rate: Tensor,
    rest: Sequence[Tensor],
    below: _Below,
    dtype: torch.dtype,
) -> list[Tensor]:
    """Gradients of the last layer's parts, given that of the pooled features [B, C]; tells `below` its own."""
    top, where, gram, total = rest
    num_points = below.normed.y.shape[1]
    sums = grad.sum(0), (grad * (top - mean) * rate).sum(0)
    a, c, s = _coefficients(layer.gamma, mean, rate, sums, len(grad) * num_points)
    square = ((layer.weight.t() * c) @ layer.weight).to(dtype)
    constant = (a @ layer.weight).to(dtype)
    weight_grad = torch.outer(a, total) + c[:, None] * (layer.weight @ gram)
    for cloud, at_top in enumerate((s * grad)[:, :, None]):
        normal, h = below.read(cloud)
        dh = torch.addmm(constant, h.to(dtype), square).to(h.dtype)
        dh.index_add_(0, where[cloud], at_top * layer.weight)
        weight_grad.addcmul_(at_top, h[where[cloud]])
        below.write(cloud, dh, normal, h)
    return [weight_grad, torch.zeros_like(layer.bias), sums[1], sums[0]]


def _hidden_backward(above: _Below, below: _Below | None, points: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Gradients of the parts of the layer of `above`; tells `below` its own, unless the layer reads the points."""
    here, layer = above.normed, above.normed.layer
    clouds, num_points, _ = here.y.shape
    a, c, s = _coefficients(layer.gamma, here.mean, here.rate, above.sums, clouds * num_points)
    weight, weight_grad = layer.weight.to(dtype), torch.zeros_like(layer.weight)
    for cloud in range(clouds):
        dy = torch.addcmul(a, here.y[cloud].to(a.dtype), c)
        dy = dy.addcmul_(above.grads[cloud].to(a.dtype), s)
        if below is None:
            weight_grad.addmm_(dy.t(), points[cloud])
        else:
            dy = dy.to(dtype)
            normal, h = below.read(cloud)
            weight_grad += torch.mm(dy.t(), h.to(dtype))
            below.write(cloud, torch.mm(dy, weight).to(h.dtype), normal, h)
    return [weight_grad, torch.zeros_like(layer.bias), above.sums[1], above.sums[0]]


class _Below:
    """Gradients of what a hidden layer's norm gives, as they are found cloud by cloud, and their sums over points."""

    def __init__(self, normed: _Normed) -> None:
        self.normed = normed
        self.grads = torch.empty_like(normed.y)
        self.sums = torch.zeros_like(normed.mean), torch.zeros_like(normed.mean)

    def read(self, cloud: int) -> tuple[Tensor, Tensor]:
        """(normalised y, output of the layer) of one cloud."""
        normal = self.normed.normal(cloud)
        layer = self.normed.layer
        return normal, torch.addcmul(layer.beta, normal, layer.gamma).relu_()

    def write(self, cloud: int, grad: Tensor, normal: Tensor, output: Tensor) -> None:
        """Takes the gradient of the layer's output through its ReLU."""
        grad = torch.ops.aten.threshold_backward(grad, output, 0)
        self.grads[cloud] = grad
        self.sums[0].add_(grad.sum(0))
        self.sums[1].add_(normal.mul_(grad).sum(0))


def _coefficients(
    gamma: Tensor, mean: Tensor, rate: Tensor, sums: tuple[Tensor, Tensor], count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(a, c, s) of the gradient through a norm, dy = a + c y + s dz, given the sums of dz and dz (y - mean) / std."""
    s = gamma * rate
    c = -s * rate * sums[1] / count
    return -s * sums[0] / count - c * mean, c, s


def _read(points: Tensor, hidden: Sequence[_Normed], cloud: int) -> Tensor:
    return hidden[-1].output(cloud) if hidden else points[cloud]


def _products(
    points: Tensor, hidden: Sequence[_Normed], layer: NormedLayer, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, its mean, its variance) of a hidden layer. Variances are of centred numbers, so a cloud far from the origin
    loses nothing."""
    clouds, width = points.shape[0], layer.weight.shape[0]
    y = points.new_empty(clouds, points.shape[1], width, dtype=dtype)
    kind = dtype if hidden else points.dtype  # coordinates are not rounded
    weight = layer.weight.to(kind).t()
    means, squares = points.new_empty(clouds, width), points.new_empty(clouds, width)
    for cloud in range(clouds):
        y[cloud] = torch.mm(_read(points, hidden, cloud).to(kind), weight)
        own = y[cloud].to(points.dtype)
        means[cloud] = own.mean(0)
        squares[cloud] = torch.linalg.vector_norm(own - means[cloud], dim=0).square()
    mean = means.mean(0)
    variance = squares.mean(0) / points.shape[1] + (means - mean).square().mean(0)
    return y, mean, variance


def _last(
    hidden: Sequence[_Normed], layer: NormedLayer, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """(pooled, mean, variance, what the backward pass needs) of the last layer.

    gamma y + const is largest where y is largest if gamma > 0, where -y is if not: one maximum of the signed products.
    """
    below = hidden[-1]
    clouds, num_points, read = below.y.shape
    sign = torch.where(layer.gamma < 0, -1, 1).to(layer.gamma)
    weight = (layer.weight * sign[:, None]).to(dtype).t()
    top = layer.gamma.new_empty(clouds, layer.weight.shape[0])
    where = torch.empty(top.shape, dtype=torch.long, device=top.device)
    gram, total = torch.zeros(read, read).to(below.mean), torch.zeros_like(below.mean)
    for cloud in range(clouds):
        h = below.output(cloud)
        found = torch.mm(h.to(dtype), weight).max(dim=0)
        top[cloud], where[cloud] = found.values, found.indices
        gram += torch.mm(h.t(), h)  # of numbers that are not centred: half precision would lose the variance
        total += h.sum(0)
    top *= sign
    centre = total / (clouds * num_points)
    covariance = gram / (clouds * num_points) - torch.outer(centre, centre)
    mean = layer.weight @ centre
    variance = ((layer.weight @ covariance) * layer.weight).sum(1).clamp(min=0)
    pooled = (top - mean) * (variance + eps).rsqrt() * layer.gamma + layer.beta
    return pooled, mean, variance, (top, where, gram, total)

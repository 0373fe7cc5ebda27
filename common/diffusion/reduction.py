"""Means over what is real: padded batches with a mask, packed rows with lengths."""

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_per_sample(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """`[B, ...] -> [B]`: the mean over each sample's valid elements.

    Args:
        mask: True (or 1) = valid; broadcastable to `values` after trailing ones are added (`[B, N]` for `[B, N, C]`;
            write `[B, 1, N]` for `[B, C, N]`). A sample with nothing valid gives 0.
    """
    if mask is None:
        return values.flatten(1).mean(dim=1) if values.ndim > 1 else values
    valid = _fit(mask, values)
    # where, not a product: a NaN in the padding must not reach the sum.
    total = torch.where(valid, values, 0.0).flatten(1).sum(dim=1)
    return total / valid.flatten(1).sum(dim=1).clamp(min=1)


def _fit(mask: Tensor, values: Tensor) -> Tensor:
    if mask.ndim > values.ndim:
        raise ValueError(f"mask of shape {list(mask.shape)} has more dims than values of shape {list(values.shape)}")
    shaped = mask.reshape(*mask.shape, *(1,) * (values.ndim - mask.ndim)).to(torch.bool)
    if any(n not in (1, m) for n, m in zip(shaped.shape, values.shape, strict=True)):
        raise ValueError(f"mask of shape {list(mask.shape)} does not fit values of shape {list(values.shape)}")
    return shaped.expand_as(values)


def house_diffusion_mean(values: Tensor, mask: Tensor) -> Tensor:
    """`[B, C, S]`, mask `[B, S]` -> `[B]`: HouseDiffusion's `mean_flat`, for parity with its published losses.

    The mean runs over all C S slots, padding counted as 0, and is then divided by the number of valid slots: `1/S` of
    `mean_per_sample(values, mask[:, None])`. On packed rows use `packed_mean(...) / 100`, its S.
    """
    if values.ndim != 3 or mask.shape != (values.shape[0], values.shape[2]):
        raise ValueError(f"expected values [B, C, S] and mask [B, S], found {list(values.shape)}, {list(mask.shape)}")
    valid = mask.to(values.dtype)
    return (values * valid[:, None]).mean(dim=(1, 2)) / valid.sum(dim=1)


def packed_mean(values: Tensor, lens: Sequence[int] | Tensor) -> Tensor:
    """`[1, M, ...]`, lens `[P]` with sum M -> `[P]`: the mean of each packed sample's tokens and channels.

    Raises: ValueError where the lengths do not add up to M or one of them is not positive.
    """
    lengths = torch.as_tensor(lens)
    if values.ndim < 2 or values.shape[0] != 1:
        raise ValueError(f"expected packed values [1, M, ...], found shape {list(values.shape)}")
    if int(lengths.sum()) != values.shape[1] or int(lengths.min()) < 1:
        raise ValueError(f"lens must be positive and add up to {values.shape[1]}, found {lengths.tolist()}")
    per_token = values[0].flatten(1).mean(dim=1) if values.ndim > 2 else values[0]
    return torch.segment_reduce(per_token, "mean", lengths=lengths.to(values.device))

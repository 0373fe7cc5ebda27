"""Dense optical flow without weights: TV-L1 in torch, and OpenCV's DIS where it is asked for by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import VideoError
from .metrics import Array, luma, warp

FlowMethod = Literal["tvl1", "dis"]

# Sánchez Pérez, Meinhardt-Llopis, Facciolo 2013 (IPOL), table 2, for grey values of 0 to 255.
DATA_WEIGHT, TIGHTNESS, TIME_STEP = 0.15, 0.3, 0.25
WARPS, ITERATIONS = 5, 30
LEAST_SIDE = 8  # pixels of the coarsest level: small clips have large motions
PAIRS_AT_ONCE = 2_000_000  # pixels


@dataclass(frozen=True)
class Motion:
    """How a clip moves. `flow`: float32 [F - 1, H, W, 2] pixels (x right, y down), where each pixel of frame i goes in
    frame i + 1; `visible`: bool [F - 1, H, W], whether it can be seen there."""

    flow: Array
    visible: Array


def estimate_motion(frames: Array, *, method: FlowMethod = "tvl1", device: str | torch.device = "cpu") -> Motion:
    """Flow between consecutive frames [F, H, W, C], and the pixels that a forward-backward check finds visible.

    method: tvl1 runs anywhere; dis is OpenCV's (needs opencv-python-headless), less exact and ten times faster.
    Flat areas have no motion of their own: there the flow is that of what is near.
    Raises VideoError for fewer than two frames, ImportError where OpenCV is missing.
    """
    if len(frames) < 2:
        raise VideoError(f"flow needs at least 2 frames, found {len(frames)}")
    grey = luma(frames)
    if method == "dis":
        forward, backward = _dis(grey[:-1], grey[1:]), _dis(grey[1:], grey[:-1])
    elif method == "tvl1":
        grey = grey.to(device)
        forward, backward = tv_l1(grey[:-1], grey[1:]), tv_l1(grey[1:], grey[:-1])
    else:
        raise VideoError(f"flow method: expected tvl1 or dis, found {method!r}")
    return Motion(forward.cpu().numpy(), visible_pixels(forward, backward).cpu().numpy())


def visible_pixels(forward: Tensor, backward: Tensor) -> Tensor:
    """bool [N, H, W] from two flows [N, H, W, 2]: the pixels that come back to where they started,

    |f + b'|^2 < 0.01 (|f|^2 + |b'|^2) + 0.5    with b' = b(p + f(p))  (Sundaram et al. 2010, eq. 5).
    """
    back, inside = warp(backward.permute(0, 3, 1, 2), forward)
    back = back.permute(0, 2, 3, 1)
    lengths = forward.square().sum(-1) + back.square().sum(-1)
    return inside & ((forward + back).square().sum(-1) < 0.01 * lengths + 0.5)


def known_motion(flow: Array) -> Motion:
    """Motion from an exact `flow` [F - 1, H, W, 2] that comes without its inverse: a pixel is visible where its target
    lies within the picture and no pixel that moves otherwise (by more than half a pixel) goes there or next to it.

    Of two that meet neither counts, since flow does not tell which is in front.
    """
    if flow.ndim != 4 or flow.shape[-1] != 2:
        raise VideoError(f"flow: expected [F - 1, H, W, 2], found {list(flow.shape)}")
    field = torch.from_numpy(np.ascontiguousarray(flow, dtype=np.float32))
    pairs, height, width = field.shape[:3]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    target_x, target_y = (x + field[..., 0]).round().long(), (y + field[..., 1]).round().long()
    inside = (target_x >= 0) & (target_x < width) & (target_y >= 0) & (target_y < height)
    cell = torch.where(inside, target_y * width + target_x, height * width).flatten(1)  # the last cell is thrown away
    spread = torch.zeros(pairs, height * width + 1)
    for component in field.flatten(1, 2).unbind(-1):
        most = torch.full_like(spread, -torch.inf).scatter_reduce(1, cell, component, "amax")
        least = torch.full_like(spread, torch.inf).scatter_reduce(1, cell, component, "amin")
        high, low = (F.max_pool2d(v[:, None, :-1].unflatten(2, (height, width)), 3, 1, 1) for v in (most, -least))
        spread[:, :-1] = torch.maximum(spread[:, :-1], (high + low).flatten(1))
    _, within = warp(torch.zeros(pairs, 1, height, width), field)
    visible = within & inside & (spread.gather(1, cell).view_as(inside) <= 0.5)
    return Motion(field.numpy(), visible.numpy())


# ------------------------------------------------------------------------------------------------------- TV-L1


def tv_l1(first: Tensor, second: Tensor) -> Tensor:
    """Flow [N, H, W, 2] from grey pictures [N, H, W] in [0, 1] to others (Zach, Pock, Bischof 2007): the minimum of

        sum |grad u| + |grad v| + lambda |second(p + (u, v)) - first(p)|

    found coarse to fine, by alternating a pointwise threshold of the data term with Chambolle's dual steps for the
    total variation. Settings of the IPOL description (Sánchez Pérez et al. 2013).
    """
    pairs = max(1, PAIRS_AT_ONCE // (first.shape[-1] * first.shape[-2]))
    return torch.cat(
        [_tv_l1(a, b).permute(0, 2, 3, 1) for a, b in zip(first.split(pairs), second.split(pairs), strict=True)]
    )


@torch.no_grad()
def _tv_l1(first: Tensor, second: Tensor) -> Tensor:
    levels = [(_blurred(first[:, None] * 255, 0.8), _blurred(second[:, None] * 255, 0.8))]
    while min(levels[-1][0].shape[-2:]) >= 2 * LEAST_SIDE:
        levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
    flow = torch.zeros(len(first), 2, *levels[-1][0].shape[-2:], device=first.device)
    for a, b in reversed(levels):
        if flow.shape[-2:] != a.shape[-2:]:
            size, old = a.shape[-2:], flow.shape[-2:]
            flow = F.interpolate(flow, size=size, mode="bilinear", align_corners=False)
            flow = flow * torch.tensor([size[1] / old[1], size[0] / old[0]], device=flow.device).view(1, 2, 1, 1)
        flow = _refined(a, b, flow)
    return flow


def _refined(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """One level: `second` is warped and linearised WARPS times."""
    slope = _central_gradient(second)
    dual = torch.zeros(len(flow), 2, 2, *flow.shape[-2:], device=flow.device)  # [N, component, direction, H, W]
    shrink = DATA_WEIGHT * TIGHTNESS
    for _ in range(WARPS):
        looked_up, inside = warp(torch.cat([second, slope], 1), flow.permute(0, 2, 3, 1), mode="bicubic")
        g = looked_up[:, 1:] * inside[:, None]
        square = g.square().sum(1, keepdim=True).clamp(min=1e-9)
        constant = (looked_up[:, :1] - first) * inside[:, None] - (g * flow).sum(1, keepdim=True)
        for _ in range(ITERATIONS):
            residual = constant + (g * flow).sum(1, keepdim=True)
            flow = flow - g * (residual / square).clamp(-shrink, shrink)
            flow = flow + TIGHTNESS * _divergence(dual)
            gradient = _forward_gradient(flow)
            length = gradient.square().sum(2, keepdim=True).sqrt()
            dual = (dual + TIME_STEP / TIGHTNESS * gradient) / (1 + TIME_STEP / TIGHTNESS * length)
    return flow


def _central_gradient(x: Tensor) -> Tensor:
    """[N, 1, H, W] -> [N, 2, H, W]: d/dx, d/dy."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    return torch.cat([across, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2], 1)


def _forward_gradient(x: Tensor) -> Tensor:
    """[N, 2, H, W] -> [N, 2, 2, H, W], zero at the far border."""
    dx = F.pad(x[..., :, 1:] - x[..., :, :-1], (0, 1, 0, 0))
    dy = F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
    return torch.stack([dx, dy], 2)


def _divergence(p: Tensor) -> Tensor:
    """[N, 2, 2, H, W] -> [N, 2, H, W]: minus the adjoint of `_forward_gradient`."""
    x, y = p[:, :, 0, :, :-1], p[:, :, 1, :-1, :]
    return F.pad(x, (0, 1, 0, 0)) - F.pad(x, (1, 0, 0, 0)) + F.pad(y, (0, 0, 0, 1)) - F.pad(y, (0, 0, 1, 0))


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [N, 1, H, W], borders replicated."""
    radius = int(3 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    taps = taps / taps.sum()
    x = F.pad(x, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))


def _halved(x: Tensor) -> Tensor:
    """Half the size, rounded up. sigma 0.6 sqrt(1 / 0.5^2 - 1), as the IPOL description."""
    size = [(n + 1) // 2 for n in x.shape[-2:]]
    return F.interpolate(_blurred(x, 1.04), size=size, mode="bilinear", align_corners=False)


# --------------------------------------------------------------------------------------------------------- DIS


def _dis(first: Tensor, second: Tensor) -> Tensor:
    try:
        import cv2
    except ImportError as error:
        raise ImportError("flow method dis needs OpenCV: pip install opencv-python-headless (or use tvl1)") from error
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    a, b = ((x * 255).round().byte().cpu().numpy() for x in (first, second))
    flows = [solver.calc(x, y, None) for x, y in zip(a, b, strict=True)]  # type: ignore[call-overload]
    return torch.from_numpy(np.stack(flows).astype(np.float32))

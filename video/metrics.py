"""Measures of an edited or reconstructed clip. Each is a pure function whose docstring is its definition.

Frames are uint8 [F, H, W, C] or floats in [0, 1]; flow is [F - 1, H, W, 2] in pixels, x to the right and y down: where
each pixel of frame i goes in frame i + 1. A still video is perfectly consistent in time, so read every measure of
consistency beside the motion's fidelity, and beside what the source itself scores.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .errors import VideoError

Array = NDArray[Any]

LUMA = (0.299, 0.587, 0.114)  # BT.601
WINDOW, WINDOW_SIGMA = 11, 1.5  # Wang et al. 2004, section III-C
K1, K2 = 0.01, 0.03
STILL = 0.05  # px: estimated flow of a still clip is not exactly 0


def unit(frames: Array, name: str = "frames") -> Tensor:
    """Frames [F, H, W, C] as float32 in [0, 1]. Raises VideoError for another rank, type or range."""
    if frames.ndim != 4 or 0 in frames.shape:
        raise VideoError(f"{name}: expected [F, H, W, C] with at least one frame, found {list(frames.shape)}")
    if frames.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(frames)).float() / 255
    if not np.issubdtype(frames.dtype, np.floating):
        raise VideoError(f"{name}: expected uint8 or floats in [0, 1], found {frames.dtype}")
    low, high = float(frames.min()), float(frames.max())
    if not (low >= 0 and high <= 1):
        raise VideoError(f"{name}: floats must lie in [0, 1], found {low:.4g} to {high:.4g}")
    return torch.from_numpy(np.ascontiguousarray(frames, dtype=np.float32))


def _pair(a: Array, b: Array) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise VideoError(f"the two clips differ in shape: {list(a.shape)} and {list(b.shape)}")
    return unit(a), unit(b)


def luma(frames: Array) -> Tensor:
    """[F, H, W] float32 in [0, 1]: 0.299 R + 0.587 G + 0.114 B (BT.601); one channel is taken as it is."""
    x = unit(frames)
    return x[..., 0] if x.shape[-1] == 1 else x[..., :3] @ torch.tensor(LUMA)


# ---------------------------------------------------------------------------------------------------- likeness


def psnr(a: Array, b: Array, *, where: Array | None = None) -> float:
    """10 log10(1 / MSE) in dB, one mean square over all frames, pixels and channels; inf for equal clips.

    where: bool [F, H, W], the pixels that count. Raises VideoError where none does.
    """
    x, y = _pair(a, b)
    squares = (x - y).square().mean(-1)
    if where is not None:
        squares = squares[_mask(where, a)]
        if not squares.numel():
            raise VideoError("mask: no pixel is left to compare")
    error = squares.double().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(a: Array, b: Array, *, where: Array | None = None) -> float:
    """Structural similarity (Wang et al. 2004, eq. 13): the mean over windows, frames and colour channels of

        (2 mu_a mu_b + c1) (2 s_ab + c2) / ((mu_a^2 + mu_b^2 + c1) (s_a^2 + s_b^2 + c2)),

    moments under an 11 x 11 Gaussian window (sigma 1.5) that lies wholly within the picture, c1 = 0.01^2, c2 = 0.03^2
    for values in [0, 1]. 1 for equal clips.

    where: bool [F, H, W]; only windows all of whose pixels are True count, and nan is returned where there is none.
    Raises VideoError for frames smaller than the window.
    """
    x, y = _pair(a, b)
    if min(x.shape[1:3]) < WINDOW:
        raise VideoError(f"ssim: frames must be at least {WINDOW} x {WINDOW} pixels, found {x.shape[1]} x {x.shape[2]}")
    allowed = None
    if where is not None:
        outside = torch.from_numpy(~_mask(where, a)).float()[:, None]
        allowed = F.max_pool2d(outside, WINDOW, stride=1)[:, 0] == 0
    total, count = 0.0, 0
    for i in range(len(x)):  # frame by frame: a clip's five moments would take gigabytes
        values = _ssim_map(x[i].permute(2, 0, 1)[:, None], y[i].permute(2, 0, 1)[:, None]).mean((0, 1))
        values = values if allowed is None else values[allowed[i]]
        total, count = total + values.double().sum().item(), count + values.numel()
    return total / count if count else math.nan


def _ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """[C, 1, H, W] twice -> [C, 1, H - 10, W - 10]. In float64: variances are differences of nearly equal numbers."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    taps = torch.exp(-0.5 * (offsets / WINDOW_SIGMA) ** 2)
    taps = taps / taps.sum()
    x, y = x.double(), y.double()
    moments = torch.cat([x, y, x * x, y * y, x * y])
    moments = F.conv2d(F.conv2d(moments, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    mu_x, mu_y, xx, yy, xy = moments.chunk(5)
    c1, c2 = K1**2, K2**2
    spread = (xx - mu_x**2) + (yy - mu_y**2) + c2
    return (2 * mu_x * mu_y + c1) * (2 * (xy - mu_x * mu_y) + c2) / ((mu_x**2 + mu_y**2 + c1) * spread)


def background_preservation(edited: Array, source: Array, mask: Array) -> tuple[float, float]:
    """PSNR (dB) and SSIM between edit and source outside `mask` (bool [F, H, W], True where the edit may act).

    Raises VideoError if the mask covers everything; SSIM is nan where no 11 x 11 window lies outside it.
    """
    outside = ~_mask(mask, source)
    return psnr(edited, source, where=outside), ssim(edited, source, where=outside)


def latent_round_trip_error(latents: Tensor, again: Tensor) -> float:
    """||again - latents|| / ||latents||, over everything: 0 is a perfect inversion."""
    if latents.shape != again.shape:
        raise VideoError(f"latents differ in shape: {list(latents.shape)} and {list(again.shape)}")
    return ((again.double() - latents.double()).norm() / latents.double().norm()).item()


# ------------------------------------------------------------------------------------------------------- motion


def warp(frames: Tensor, flow: Tensor, *, mode: Literal["bilinear", "bicubic"] = "bilinear") -> tuple[Tensor, Tensor]:
    """Look up [N, C, H, W] at p + flow(p), flow [N, H, W, 2] in pixels: (values [N, C, H, W], inside bool [N, H, W]).

    Beyond the picture the border's value is taken and `inside` is False.
    """
    height, width = frames.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=flow.dtype, device=flow.device),
        torch.arange(width, dtype=flow.dtype, device=flow.device),
        indexing="ij",
    )
    px, py = x + flow[..., 0], y + flow[..., 1]
    slack = 0.01  # a still pixel of the border must not fall outside by rounding
    inside = (px >= -slack) & (px <= width - 1 + slack) & (py >= -slack) & (py <= height - 1 + slack)
    grid = torch.stack([2 * px / max(width - 1, 1) - 1, 2 * py / max(height - 1, 1) - 1], -1)
    values = F.grid_sample(frames, grid, mode=mode, padding_mode="border", align_corners=True)
    return values, inside


def warp_error(frames: Array, flow: Array, visible: Array) -> float:
    """Mean of |V_t - warp(V_t+1, flow)|^2, values in [0, 1], the square averaged over channels (Lai et al. 2018, eq. 7,
    who sum over the channels): over the visible pixels whose target lies within the picture, of all pairs of frames.

    flow is that of the SOURCE, so a still edit of a moving source does not score 0. visible: bool [F - 1, H, W], the
    pixels that are still seen in the next frame. Raises VideoError where no pixel is.
    """
    x = unit(frames).permute(0, 3, 1, 2)
    field = torch.from_numpy(np.ascontiguousarray(_flow(flow, frames), dtype=np.float32))
    if visible.shape != flow.shape[:-1]:
        raise VideoError(f"visible: expected bool {list(flow.shape[:-1])}, found {list(visible.shape)}")
    values, inside = warp(x[1:], field)
    counts = inside & torch.from_numpy(np.ascontiguousarray(visible, dtype=bool))
    if not counts.any():
        raise VideoError("visible: no pixel is seen in two frames")
    return (x[:-1] - values).square().mean(1)[counts].double().mean().item()


def end_point_error(flow: Array, reference: Array, *, where: Array | None = None) -> float:
    """Mean length of the difference of two flows, in pixels. where: bool [F - 1, H, W], the pixels that count."""
    difference = flow.astype(np.float64) - _same_flow(flow, reference)
    lengths = np.linalg.norm(difference, axis=-1)
    lengths = lengths if where is None else lengths[where]
    if not lengths.size:
        raise VideoError("mask: no pixel is left to compare")
    return float(lengths.mean())


def flow_correlation(flow: Array, reference: Array, *, where: Array | None = None) -> float:
    """sum(a . b) / sqrt(sum |a|^2 sum |b|^2) over all vectors: 1 for the same motion, 0 for none or an unrelated one.

    Means are not removed, as a camera's pan is motion too. Motion below 0.05 px (root mean square) is none: 1 where
    both have none, 0 where one has.
    """
    a, b = flow.astype(np.float64), _same_flow(flow, reference).astype(np.float64)
    if where is not None:
        a, b = a[where], b[where]
    energy = (a * a).sum(), (b * b).sum()
    still = [e < STILL**2 * (a.size / 2) for e in energy]
    if any(still):
        return float(all(still))
    return float((a * b).sum() / math.sqrt(energy[0] * energy[1]))


# -------------------------------------------------------------------------------------------- consistency in time


def consecutive_psnr(frames: Array) -> float:
    """PSNR between each frame and the next, in dB; inf for a still video."""
    _at_least_two(frames)
    return psnr(frames[:-1], frames[1:])


def consecutive_ssim(frames: Array) -> float:
    """SSIM between each frame and the next; 1 for a still video."""
    _at_least_two(frames)
    return ssim(frames[:-1], frames[1:])


def difference_energy(frames: Array) -> float:
    """Mean square of V_t+1 - V_t, values in [0, 1]: 0 for a still video."""
    _at_least_two(frames)
    return unit(frames).diff(dim=0).square().double().mean().item()


def difference_energy_ratio(edited: Array, source: Array) -> float:
    """difference_energy of the edit over that of the source: below 1 the edit moves less, above 1 it moves or flickers
    more. nan if the source is still."""
    energy = difference_energy(source)
    return difference_energy(edited) / energy if energy > 0 else math.nan


def flicker_share(frames: Array) -> float:
    """Share of each pixel's change of luma over time that is faster than a quarter of a cycle per frame:

    with c_k the orthonormal DCT-II over time (component k has k / 2F cycles per frame), the sum over pixels and
    k > F / 2 of c_k^2 over that for all k > 0. 0 for a still video; white noise has about a half.
    """
    coefficients = _dct(luma(frames).flatten(1))
    power = coefficients[1:].square().double().sum(1)
    fast = power[_first_fast(len(frames)) - 1 :].sum().item()
    total = power.sum().item()
    # Rounding leaves about 1e-14 per value of a still video.
    return fast / total if total > 1e-10 * coefficients.shape[1] else 0.0


def brightness_flicker(frames: Array) -> float:
    """Root mean square, in 8-bit levels, of what is faster than a quarter of a cycle per frame (as in `flicker_share`)
    in the mean luma of the frames: the flicker of the whole picture, 0 for a still video and for slow changes."""
    coefficients = _dct(luma(frames).double().mean((1, 2))[:, None])
    fast = coefficients[_first_fast(len(frames)) :]
    return 255 * math.sqrt(fast.square().sum().item() / len(frames))


def _first_fast(num_frames: int) -> int:
    return num_frames // 2 + 1


def _dct(series: Tensor) -> Tensor:
    """Orthonormal DCT-II of [F, N] over the first axis. Unlike a Fourier series it sees no jump from last to first."""
    if len(series) < 3:
        raise VideoError(f"flicker needs at least 3 frames, found {len(series)}")
    time = torch.arange(len(series), dtype=torch.float64)
    basis = torch.cos(math.pi / len(series) * (time[None] + 0.5) * time[:, None]) * math.sqrt(2 / len(series))
    basis[0] /= math.sqrt(2)
    return (basis.to(series.dtype)) @ (series - series.mean(0))


# ------------------------------------------------------------------------- on embeddings of a text-image model


def frame_consistency(embeddings: Tensor, *, pairs: Literal["all", "consecutive"]) -> float:
    """Mean cosine between image embeddings [F, D] of the frames: over all pairs i < j, or over consecutive ones.

    LOVEU-TGVE 2023 takes all pairs (and ViT-L/14), FateZero consecutive ones (and ViT-B/32): the two do not compare.
    """
    if len(embeddings) < 2:
        raise VideoError(f"frame consistency needs at least 2 frames, found {len(embeddings)}")
    unit_length = F.normalize(embeddings.double(), dim=-1)
    cosines = unit_length @ unit_length.T
    if pairs == "consecutive":
        return cosines.diagonal(offset=1).mean().item()
    i, j = torch.triu_indices(len(cosines), len(cosines), offset=1)
    return cosines[i, j].mean().item()


def text_alignment(embeddings: Tensor, text: Tensor) -> float:
    """100 times the mean cosine between the frames' embeddings [F, D] and the prompt's [D] (as LOVEU-TGVE 2023)."""
    return 100 * F.cosine_similarity(embeddings.double(), text.double()[None], dim=-1).mean().item()


def frame_accuracy(embeddings: Tensor, target: Tensor, source: Tensor) -> float:
    """Share of frames [F, D] whose embedding is nearer in angle to the edit's prompt [D] than to the source's [D]."""
    x = embeddings.double()
    nearer = F.cosine_similarity(x, target.double()[None]) > F.cosine_similarity(x, source.double()[None])
    return nearer.double().mean().item()


# ------------------------------------------------------------------------------------------------------- checks


def _mask(mask: Array, frames: Array) -> Array:
    if mask.dtype != bool or mask.shape != frames.shape[:3]:
        raise VideoError(f"mask: expected bool {list(frames.shape[:3])}, found {mask.dtype} {list(mask.shape)}")
    return mask


def _flow(flow: Array, frames: Array) -> Array:
    expected = (len(frames) - 1, *frames.shape[1:3], 2)
    if flow.shape != expected:
        raise VideoError(f"flow: expected {list(expected)} for {len(frames)} frames, found {list(flow.shape)}")
    return flow


def _same_flow(flow: Array, reference: Array) -> Array:
    if flow.shape != reference.shape or flow.shape[-1] != 2:
        raise VideoError(
            f"flow: expected two of [F - 1, H, W, 2], found {list(flow.shape)} and {list(reference.shape)}"
        )
    return reference


def _at_least_two(frames: Array) -> None:
    if len(frames) < 2:
        raise VideoError(f"consistency in time needs at least 2 frames, found {len(frames)}")

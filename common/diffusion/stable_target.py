"""The stable target field: what noisy points are asked for, with the chance of which point they were taken out.

Where every element of a sample is drawn by itself from one set - points from the surface of a shape - the mean of the
clean element under the noisy one is a softmax over that set, in closed form. As a target of the denoising loss it has
the same minimum as the drawn element, and at high noise levels a small share of its variance: the net is told the
shape, not which of its points it was. (Xu et al. 2023, "Stable Target Field", eq. 5, within one sample)

Shape letters: B samples, N elements, R references, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .path import AffinePath, Time, expand
from .prediction import to_eps


@torch.no_grad()
def stable_target(path: AffinePath, x0: Tensor, noise: Tensor, t: Time, references: Tensor) -> tuple[Tensor, Tensor]:
    """(x0', noise') in place of (x0, noise) in a denoising loss: the same noisy sample, the stable target.

    x0' = E[x0 | x_t] where each element was drawn evenly from the sample's references, which must be independent of
    anything the net is told besides x_t and what it can know of the set they come from.

    Args:
        x0, noise: [B, N, C].
        t: scalar or [B], with sigma > 0.
        references: [B, R, C]; those that x0 was drawn from, or others of the same distribution and x0 itself.
    Returns: float32 [B, N, C] each.
    Raises: ValueError where the shapes do not fit together.
    """
    if references.ndim != 3 or x0.ndim != 3 or references.shape[::2] != x0.shape[::2]:
        raise ValueError(f"expected x0 [B, N, C] and references [B, R, C], found {[*x0.shape]}, {[*references.shape]}")
    x_t = path.add_noise(x0.float(), noise.float(), t)
    alpha, sigma = expand(path.alpha(t), x_t), expand(path.sigma(t), x_t)
    mean = _posterior_mean(x_t * (alpha / sigma**2), references.float(), (alpha / sigma) ** 2)
    return mean, to_eps("x0", mean, x_t, alpha, sigma)


def _posterior_mean(score: Tensor, references: Tensor, precision: Tensor) -> Tensor:
    """Softmax over r of <score, r> - precision |r|^2 / 2, times r: one attention, whose [N, R] weights are not stored.

    score [B, N, C], references [B, R, C], precision [B, 1, 1] -> [B, N, C], all float32.
    """
    pad = -(score.shape[-1] + 1) % 4  # rows of whole vectors for the kernel
    query = F.pad(torch.cat([score, torch.ones_like(score[..., :1])], dim=-1), (0, pad))
    bias = -0.5 * precision * references.square().sum(-1, keepdim=True)
    key = F.pad(torch.cat([references, bias], dim=-1), (0, pad))
    value = F.pad(references, (0, 1 + pad))
    with torch.autocast(score.device.type, enabled=False):  # exponents are differences of large numbers
        out = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)
    return out[:, 0, :, : score.shape[-1]]

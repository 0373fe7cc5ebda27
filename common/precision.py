"""Whether a device multiplies bfloat16 matrices itself, or torch imitates it, slower than float32."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch


@lru_cache
def multiplies_bfloat16(kind: str) -> bool:
    """For a device type. A CPU needs AVX-512, AMX or Arm's BF16 instructions; without them torch takes six times as
    long as for float32 (512-wide layers, AVX2)."""
    if kind == "cpu":
        kernels = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return bool(kernels and kernels())
    return kind != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def warn_of_imitation(kind: str, option: str) -> None:
    """A warning, once, that bfloat16 on a device of this type only costs time; `option`: what to set instead."""
    if not multiplies_bfloat16(kind):
        warnings.warn(f"this {kind} has no bfloat16 units: float32 is several times faster; set {option}", stacklevel=3)

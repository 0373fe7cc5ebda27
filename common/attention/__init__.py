"""Attention: who reads whom as data, one function that runs it, and the layer around it."""

from .kernels import Backend, KernelStatus, attend, kernel_report
from .layout import SegmentLayout, dense_mask
from .module import Attention

__all__ = ["Attention", "Backend", "KernelStatus", "SegmentLayout", "attend", "dense_mask", "kernel_report"]

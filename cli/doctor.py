"""``trifold doctor``: what is installed, what this machine is, and which attention kernels run on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from itertools import groupby
from pathlib import Path

import torch

from ..common.attention import KernelStatus, kernel_report
from ..common.precision import multiplies_bfloat16

# Installed name -> what it is for; all can be absent.
OPTIONAL = {
    "xformers": "ragged attention on CUDA in any dtype (trifold[gpu])",
    "nvidia-cuda-runtime-cu12": "CUDA 12's runtime, which the xformers wheel needs (trifold[gpu])",
    "av": "MP4 (trifold[video])",
    "transformers": "text encoders (trifold[video])",
    "decord": "another reader of video (trifold[decord])",
    "scipy": "point clouds (trifold[pointcloud])",
    "trimesh": "meshes (trifold[pointcloud])",
    "manifold3d": "closed meshes of procedural shapes (trifold[pointcloud])",
    "POT": "exact EMD (trifold[pointcloud])",
    "h5py": "ShapeNet's hdf5 (trifold[pointcloud])",
    "open3d": "Poisson and ball pivoting, .pcd files (trifold[open3d])",
    "ezdxf": "floorplans as DXF (trifold[dxf])",
    "ifcopenshell": "floorplans as IFC (trifold[ifc])",
    "torchmetrics": "Inception FID of floorplans (trifold[fid])",
    "torch-fidelity": "its network (trifold[fid])",
    "opencv-python-headless": "the original's raster route for floorplans (trifold[all])",
}


def doctor() -> None:
    """Print versions, hardware, the attention kernels that work here and why others do not."""
    print(f"trifold {version('trifold') or 'not installed'}, Python {platform.python_version()}, {platform.platform()}")
    print(f"torch {torch.__version__} (CUDA {torch.version.cuda or 'none'}), diffusers {version('diffusers')}")
    print(f"\nCPU   {cpu_name()}: {usable_cores()} cores, {torch.get_num_threads()} torch threads")
    print(f"      {torch.backends.cpu.get_cpu_capability()}; {bf16_verdict()}")
    print(*gpu_lines(), sep="\n")
    print("\nOptional packages")
    for name, purpose in OPTIONAL.items():
        print(f"  {name:26}{version(name) or 'absent':14}{purpose}")
    print("\nAttention kernels (a small ragged layout, forward and backward)")
    print(*kernel_lines(kernel_report()), sep="\n")


def version(package: str) -> str | None:
    """Installed version of a distribution, None when absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's marketing name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def usable_cores() -> int:
    """Cores this process may run on, fewer than the machine has under a container's or taskset's limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def bf16_verdict() -> str:
    """Is bfloat16 worth using on this CPU? Timed with a matrix product, beside what `mixed_precision="auto"` takes."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.is_file() else set()
    units = [name for name, flag in (("AMX", "amx_bf16"), ("AVX-512 BF16", "avx512_bf16")) if flag in words]
    ratio = matmul_seconds(torch.float32) / matmul_seconds(torch.bfloat16)
    verdict = "accelerated" if ratio > 1.2 else "not accelerated"
    auto = "bf16" if multiplies_bfloat16("cpu") else "float32"
    told = ", ".join(units) or "no bf16 units reported"
    speed = f"bfloat16 {verdict}: {ratio:.2g}x the speed of float32 ({told})"
    return f'{speed};\n      training with mixed_precision "auto" takes {auto}'


def matmul_seconds(dtype: torch.dtype, size: int = 512, repeats: int = 5) -> float:
    """Best time of one [size, size] matrix product."""
    x = torch.randn(size, size).to(dtype)
    times = []
    for _ in range(repeats + 1):  # the first one also warms caches up, and is never the best
        start = time.perf_counter()
        torch.mm(x, x)
        times.append(time.perf_counter() - start)
    return min(times)


def gpu_lines() -> list[str]:
    """One line per CUDA device."""
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else " (this torch is built without CUDA)"
        return [f"GPU   none{built}"]
    lines = []  # pragma: no cover - needs CUDA
    for index in range(torch.cuda.device_count()):  # pragma: no cover - needs CUDA
        card = torch.cuda.get_device_properties(index)
        lines.append(
            f"GPU   cuda:{index} {card.name}, sm {card.major}.{card.minor}, {card.total_memory / 2**30:.0f} GiB"
        )
    return lines  # pragma: no cover - needs CUDA


def kernel_lines(report: list[KernelStatus]) -> list[str]:
    """A line per device and backend with a yes or no per dtype, and under it each reason once."""
    lines = []
    for (device, backend), group in groupby(report, key=lambda status: (status.device, status.backend)):
        statuses = list(group)
        marks = "  ".join(f"{s.dtype} {'yes' if s.works else 'no':3}" for s in statuses)
        lines.append(f"  {device:5} {backend:9} {marks}")
        reasons: dict[str, list[str]] = {}
        for status in statuses:
            if status.reason:
                reasons.setdefault(status.reason, []).append(status.dtype)
        for reason, dtypes in reasons.items():
            prefix = "" if len(dtypes) == len(statuses) else f"{', '.join(dtypes)}: "
            lines += [f"        {line}" for line in (prefix + reason).splitlines()]
    return lines

"""What surrounds the loop: accelerate's objects and the options that change the model before it is wrapped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration, parse_flag_from_env
from torch import nn

from ..precision import multiplies_bfloat16, warn_of_imitation
from .checkpoint import TrainState
from .config import TrainConfig


@contextlib.contextmanager
def open_accelerator(config: TrainConfig) -> Iterator[Accelerator]:
    """An Accelerator of the run's own; accelerate's global state is left as it was found."""
    found = is_initialized()
    precision = config.mixed_precision
    if precision == "auto":
        device = process_state().device
        precision = "bf16" if device is not None and multiplies_bfloat16(device.type) else "no"
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config.gradient_accumulation_steps),
        log_with=None if config.report_to == "none" else config.report_to,
        project_config=ProjectConfiguration(str(config.output_dir), str(config.output_dir / "logs")),
    )
    try:
        if accelerator.device.type == "cpu" and accelerator.mixed_precision == "fp16":
            # accelerate would train in float32 without a word.
            raise ValueError("mixed_precision='fp16' needs a GPU; on the CPU use 'bf16' or 'no'")
        if accelerator.mixed_precision == "bf16":
            warn_of_imitation(accelerator.device.type, "mixed_precision to 'auto' or 'no'")
        yield accelerator
    finally:
        for net in accelerator._models:
            accelerator.unwrap_model(net, keep_fp32_wrapper=False)  # gives the model its own forward back
        accelerator.free_memory()
        if not found:
            AcceleratorState._reset_state()  # else a second run in this process could not choose its precision


def process_state() -> PartialState:
    """This process among those that `accelerate launch` started, for what a program does before or after `train`.

    Not `PartialState()`: the first use in a process decides for all, and that one does not read ACCELERATE_USE_CPU as
    Accelerator does; several processes on CPUs would each train as if they were alone.
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def apply_options(config: TrainConfig, model: nn.Module) -> None:
    """tf32, gradient checkpointing and compilation, before the model is wrapped."""
    if config.allow_tf32:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    if config.gradient_checkpointing:
        enable = getattr(model, "enable_gradient_checkpointing", None)
        if enable is None:
            raise TypeError(f"gradient_checkpointing: {type(model).__name__} has no enable_gradient_checkpointing()")
        enable()
    if config.compile:
        model.compile()


def check_resume(saved: TrainState, now: TrainState, source: Path) -> None:
    """ValueError if the checkpoint's data order is not the one of this run. The number of processes may differ."""
    for name in ("seed", "dataset_length"):
        if getattr(saved, name) != getattr(now, name):
            raise ValueError(
                f"{source}: {name} was {getattr(saved, name)}, now it is {getattr(now, name)}; "
                "the order of the data would not go on where it stopped"
            )

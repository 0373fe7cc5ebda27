"""What a training run is told: names and meanings follow the diffusers example scripts."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run. A head may subclass it and add fields; all are written to `output_dir/config.json`."""

    output_dir: Path = Path("runs/train")
    """Folder for checkpoints, logs and the final model."""
    seed: int = 0
    """Fixes data order and noise, for any number of processes, and dropout, for one way to share out the batch."""

    train_batch_size: int = 16
    """Samples per process and micro-step; the global batch is this x processes x gradient_accumulation_steps."""
    gradient_accumulation_steps: int = 1
    """Micro-steps whose gradients are averaged into one update."""
    max_train_steps: int = 10_000
    """Optimizer updates in all, those before a resume included."""

    learning_rate: float = 1e-4
    """Peak learning rate; it is not scaled by the batch or the number of processes."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial", "multistep"] = (
        "constant"
    )
    """Shape of the learning rate over optimizer updates. multistep: x lr_decay_factor every lr_decay_steps."""
    lr_warmup_steps: int = 0
    """Updates over which the learning rate rises linearly from 0."""
    lr_end: float = 0.0
    """Learning rate at max_train_steps (linear, cosine, polynomial)."""
    lr_power: float = 1.0
    """Exponent of polynomial."""
    lr_decay_steps: int = 100_000
    """Updates between two drops of multistep."""
    lr_decay_factor: float = 0.1
    """What multistep multiplies by at each drop."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: the matrices of the core's blocks by Muon, all else by AdamW, at the same learning rate. It needs fewer
    updates and wants two to five times AdamW's learning rate."""
    adam_beta1: float = 0.9
    """AdamW: decay of the mean of the gradient."""
    adam_beta2: float = 0.999
    """AdamW: decay of the mean of the squared gradient."""
    adam_weight_decay: float = 1e-2
    """AdamW: decoupled weight decay; 0 makes it Adam."""
    adam_epsilon: float = 1e-8
    """AdamW: added to the denominator."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this global L2 norm; None does not clip."""

    mixed_precision: Literal["auto", "no", "fp16", "bf16"] | None = None
    """Autocast of the forward pass; auto: bf16 where the device has units for it, else no; None takes what
    `accelerate launch` was told, else no."""
    allow_tf32: bool = False
    """TensorFloat-32 matrix products on Ampere and later, for the whole process."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass; calls the model's enable_gradient_checkpointing()."""
    compile: bool = False
    """torch.compile the model."""

    use_ema: bool = False
    """Keep an exponential moving average of the weights; it is validated and saved as the final model."""
    ema_decay: float = 0.9999
    """Largest decay of the average."""
    ema_inv_gamma: float = 1.0
    """Warm-up: the decay after n updates is min(ema_decay, 1 - (1 + n / inv_gamma) ** -power)."""
    ema_power: float | None = 2 / 3
    """Warm-up exponent (2/3 for a million steps and more, 3/4 for fewer); None uses ema_decay from the start."""

    dataloader_num_workers: int = 0
    """Processes that prepare data; 0 prepares it in the training process. Results do not depend on it."""

    checkpointing_steps: int | None = 500
    """Updates between checkpoints; None writes only the last one. A stop by SIGINT or SIGTERM always writes one."""
    checkpoints_total_limit: int | None = 3
    """The oldest checkpoints beyond this many are deleted; None keeps all."""
    checkpoint_frozen: bool = True
    """Checkpoints also hold the parameters that are not trained. False where they are those of a pretrained model,
    which a resume must then start from again."""
    resume_from_checkpoint: str | None = None
    """A checkpoint folder, or "latest" for the newest in output_dir (a fresh start if there is none)."""

    logging_steps: int = 10
    """Updates between log entries; the loss is read from the device only then."""
    validation_steps: int | None = None
    """Updates between calls of the validation function; None calls it at the end only."""
    report_to: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Tracker of losses and validation results; tensorboard writes to output_dir/logs."""
    tracker_project_name: str = "trifold"
    """Project name in the tracker."""

    push_to_hub: bool = False
    """Upload the final model to the Hugging Face hub."""
    hub_model_id: str | None = None
    """Repository for push_to_hub, "owner/name"."""

    def __post_init__(self) -> None:
        for name in ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "logging_steps"):
            _at_least(self, name, 1)
        for name in ("checkpointing_steps", "checkpoints_total_limit", "validation_steps", "lr_decay_steps"):
            if getattr(self, name) is not None:
                _at_least(self, name, 1)
        for name in ("dataloader_num_workers", "lr_warmup_steps", "learning_rate", "lr_end"):
            _at_least(self, name, 0)
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm: must be positive, or None for no clipping, found {self.max_grad_norm}")
        if not 0 <= self.ema_decay <= 1:
            raise ValueError(f"ema_decay: must lie in [0, 1], found {self.ema_decay}")
        if self.lr_scheduler == "constant" and self.lr_warmup_steps:
            raise ValueError("lr_warmup_steps: 'constant' has no warm-up; use lr_scheduler='constant_with_warmup'")
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("hub_model_id: push_to_hub needs a repository, 'owner/name'")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of update number `step` (0-based). A pure function: no scheduler state, nothing to restore.

        The formulas are those of `diffusers.optimization.get_scheduler`, whose first warm-up update has rate 0.
        """
        if step < self.lr_warmup_steps:
            return self.learning_rate * step / self.lr_warmup_steps
        if self.lr_scheduler in ("constant", "constant_with_warmup"):
            return self.learning_rate
        if self.lr_scheduler == "multistep":
            return self.learning_rate * self.lr_decay_factor ** (step // self.lr_decay_steps)
        progress = (step - self.lr_warmup_steps) / max(1, self.max_train_steps - self.lr_warmup_steps)
        remaining = max(0.0, 1.0 - progress)
        if self.lr_scheduler == "cosine":
            remaining = 0.5 * (1.0 - math.cos(math.pi * remaining))
        elif self.lr_scheduler == "polynomial":
            remaining **= self.lr_power
        return self.lr_end + (self.learning_rate - self.lr_end) * remaining

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and trackers."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}


def _at_least(config: TrainConfig, name: str, least: int) -> None:
    if getattr(config, name) < least:
        raise ValueError(f"{name}: must be at least {least}, found {getattr(config, name)}")


def package_versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    packages = ("trifold", "torch", "accelerate", "diffusers", "numpy", "safetensors")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}

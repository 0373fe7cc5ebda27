"""The training loop, its configuration, and what makes it exact: data order, per-sample noise, checkpoints."""

from ..weights import WeightsError
from .checkpoint import TrainState, list_checkpoints, load_checkpoint, save_checkpoint
from .config import TrainConfig, package_versions
from .data_order import DataOrder, training_batches
from .ema import EMA
from .loop import LossFn, TrainResult, ValidateFn, train
from .noise import SampleNoise
from .progress import TrainingDiverged
from .setup import process_state

__all__ = [
    "EMA",
    "DataOrder",
    "LossFn",
    "SampleNoise",
    "TrainConfig",
    "TrainResult",
    "TrainState",
    "TrainingDiverged",
    "ValidateFn",
    "WeightsError",
    "list_checkpoints",
    "load_checkpoint",
    "package_versions",
    "process_state",
    "save_checkpoint",
    "train",
    "training_batches",
]

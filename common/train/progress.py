"""What a run tells while it trains: means since the last entry, a progress bar or plain lines, trackers."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from .config import TrainConfig


class TrainingDiverged(RuntimeError):
    """The loss or its gradient is not finite. Checkpoints written before are good: none is written after."""


class Meter:
    """Means of named scalars since the last `read`. Values stay on the device, so adding one never waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in 0-dimensional tensors."""
        for name, value in values.items():
            value = value.detach().to(self._device, torch.float32, non_blocking=True)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Means over all processes; resets the meter. Collective. A NaN or infinite value makes its mean so, too."""
        sums = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        own = {name: (total, self._counts[name]) for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._counts = {}, {}
        totals: dict[str, tuple[float, int]] = {}
        for process in gather_object([own]):
            for name, (total, count) in process.items():
                before = totals.get(name, (0.0, 0))
                totals[name] = (before[0] + total, before[1] + count)
        return {name: total / count for name, (total, count) in totals.items()}


class Progress:
    """Progress bar (on a terminal) or plain lines (in a log file), and the tracker. Only the main process writes."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator, step: int, samples_per_step: int):
        self.config, self.accelerator, self.step, self.samples_per_step = config, accelerator, step, samples_per_step
        self._first_step, self._start = step, time.monotonic()
        self._logged_step, self._logged = step, self._start
        self._bar = tqdm(
            total=config.max_train_steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            disable=not accelerator.is_main_process or not sys.stderr.isatty(),
        )

    def __enter__(self) -> Progress:
        if self.config.report_to != "none":
            # purge_step: entries written after the checkpoint by the run that was killed are shown once.
            purge = {"purge_step": self.step + 1 if self.step else 0}
            options = {"tensorboard": purge} if self.config.report_to == "tensorboard" else {}
            settings = {k: v if isinstance(v, int | float | str) else str(v) for k, v in self.config.to_dict().items()}
            first = self.step == 0 or self.config.report_to != "tensorboard"  # one hparams entry per run
            self.accelerator.init_trackers(
                self.config.tracker_project_name, config=settings if first else None, init_kwargs=options
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def say(self, message: str) -> None:
        """One line, on the main process, that does not tear the bar apart."""
        if self.accelerator.is_main_process:
            tqdm.write(message, file=sys.stderr)

    def advance(self) -> None:
        """One update is done."""
        self.step += 1
        self._bar.update()

    def log(self, values: Mapping[str, float]) -> None:
        """An entry of scalars at the present step; adds samples per second."""
        now = time.monotonic()
        rate = (self.step - self._logged_step) / max(now - self._logged, 1e-9)
        self._logged_step, self._logged = self.step, now
        shown = {name: f"{values[name]:.4g}" for name in ("loss", "lr", "grad_norm") if name in values}
        if self._bar.disable:
            average = (now - self._start) / max(1, self.step - self._first_step)
            left = tqdm.format_interval(int((self.config.max_train_steps - self.step) * average))
            words = "  ".join(f"{name} {value}" for name, value in shown.items())
            self.say(f"step {self.step}/{self.config.max_train_steps}  {words}  {rate:.3g} step/s  {left} left")
        else:
            self._bar.set_postfix(shown, refresh=False)
        self.accelerator.log({**values, "samples_per_second": rate * self.samples_per_step}, step=self.step)

    def log_validation(self, results: Mapping[str, Any]) -> None:
        """Numbers, and uint8 pictures [H, W, 3] or [N, H, W, 3], under "val/". On the main process only."""
        pictures = {f"val/{k}": v for k, v in results.items() if isinstance(v, Tensor) and v.ndim >= 3}
        numbers = {f"val/{k}": float(v) for k, v in results.items() if f"val/{k}" not in pictures}
        self.accelerator.log(numbers, step=self.step)
        for tracker in self.accelerator.trackers:
            if pictures:
                batches = {name: (v if v.ndim == 4 else v[None]).cpu().numpy() for name, v in pictures.items()}
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images(batches, step=self.step, **options)  # type: ignore[attr-defined]
        if numbers:
            words = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            self.say(f"step {self.step}/{self.config.max_train_steps}  {words}")


def require_finite(values: Mapping[str, float], step: int, scaled: bool, last_good: object) -> None:
    """Raise TrainingDiverged if loss or gradient norm is not finite.

    With a gradient scaler (`scaled`, fp16) an overflowing gradient is ordinary: the scaler skips that update.
    """
    watched = ("loss",) if scaled else ("loss", "grad_norm")
    if all(math.isfinite(values.get(name, 0.0)) for name in watched):
        return
    found = ", ".join(f"{name} {values[name]}" for name in watched if name in values)
    where = f"the last good checkpoint is {last_good}" if last_good else "no checkpoint was written before"
    raise TrainingDiverged(
        f"training diverged at or shortly before step {step} ({found}); {where}. "
        "A lower learning_rate, warm-up, max_grad_norm, or mixed_precision='bf16' in place of 'fp16' may help."
    )


def check_tracker(report_to: str) -> None:
    """Raise ImportError now, not after hours, if the tracker is not installed."""
    if report_to != "none" and importlib.util.find_spec(report_to) is None:
        raise ImportError(f"report_to={report_to!r}: the package is not installed (pip install {report_to})")

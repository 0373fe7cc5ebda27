"""The one training loop: accumulation, clipping, EMA, mixed precision, exact resume, one or many processes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from ..pretrained import PretrainedModel
from ..weights import write_json
from .checkpoint import TrainState, find_resume, load_checkpoint, read_state, remove_debris, save_checkpoint
from .config import TrainConfig, package_versions
from .data_order import Sized, released_after, training_batches
from .ema import EMA
from .noise import SampleNoise
from .optimizer import build_optimizer
from .progress import Meter, Progress, check_tracker, require_finite
from .setup import apply_options, check_resume, open_accelerator
from .signals import StopRequest

LossFn = Callable[[nn.Module, Any, SampleNoise], Tensor | tuple[Tensor, Mapping[str, Tensor]]]
ValidateFn = Callable[[nn.Module, int], Mapping[str, Any]]


@dataclass(frozen=True)
class TrainResult:
    """What a run ends with. `interrupted`: a signal stopped it before max_train_steps."""

    model: nn.Module
    ema: EMA | None
    step: int
    position: int
    interrupted: bool
    checkpoint: Path | None
    metrics: dict[str, float] = field(default_factory=dict)


def train(
    config: TrainConfig,
    model: nn.Module,
    loss_fn: LossFn,
    dataset: Sized,
    *,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    validate: ValidateFn | None = None,
    on_checkpoint: Callable[[Path, TrainState], None] | None = None,
    run_dir: Path | None = None,
) -> TrainResult:
    """Train `model` in place; works under `python` and `accelerate launch` alike.

    `loss_fn(model, batch, noise)` returns the loss, a float32 mean over the samples of the batch, alone or with a dict
    of scalar metrics to log. It must call the `model` it is given (not an attribute of it: DDP hooks the call) and
    take its randomness from `noise` (see `SampleNoise`): then a resumed run trains the same model as an uninterrupted
    one, and without dropout N processes with batch b the same as one with batch N b.
    `run_dir`: the `output_dir` that resumes the whole run, where this is a later stage of it in a folder of its own.
    `validate(model, step)` runs on the main process with averaged weights, in eval mode without gradients, and
    returns numbers or uint8 pictures [H, W, 3]. `on_checkpoint(folder, state)` runs there after each checkpoint.

    SIGINT or SIGTERM: the current update is finished, a checkpoint written, and the result has `interrupted=True`.
    A `PretrainedModel` is saved at the end (averaged weights if there are any) to `output_dir/model`.

    Raises TrainingDiverged (non-finite loss or gradient), FileExistsError (output_dir holds another run's
    checkpoints), FileNotFoundError and WeightsError (what to resume from is missing or does not fit).
    """
    check_tracker(config.report_to)
    if config.push_to_hub and not isinstance(model, PretrainedModel):
        raise TypeError(f"push_to_hub: {type(model).__name__} is not a PretrainedModel and cannot be saved for the hub")
    with open_accelerator(config) as accelerator:
        run_dir = run_dir or config.output_dir
        return _train(config, accelerator, model, loss_fn, dataset, collate_fn, validate, on_checkpoint, run_dir)


def _train(
    config: TrainConfig,
    accelerator: Accelerator,
    model: nn.Module,
    loss_fn: LossFn,
    dataset: Sized,
    collate_fn: Callable[[list[Any]], Any] | None,
    validate: ValidateFn | None,
    on_checkpoint: Callable[[Path, TrainState], None] | None,
    run_dir: Path,
) -> TrainResult:
    resume = find_resume(config.output_dir, config.resume_from_checkpoint)
    accelerator.wait_for_everyone()  # all have looked before the main process changes anything
    if accelerator.is_main_process:
        remove_debris(config.output_dir)

    apply_options(config, model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = build_optimizer(config, model)
    # `net` is called, `model` is the same weights without wrappers. The learning rate is set below, once per update:
    # a prepared scheduler would step once per process.
    net, optimizer = accelerator.prepare(model, optimizer)
    ema = None
    if config.use_ema:  # after prepare, which gives every process the weights of the first
        ema = EMA(model, config.ema_decay, inv_gamma=config.ema_inv_gamma, power=config.ema_power)

    state = TrainState(0, 0, config.seed, len(dataset), accelerator.num_processes, ema.updates if ema else None)
    if resume:
        check_resume(read_state(resume), state, resume)
        loaded = load_checkpoint(resume, model, ema, optimizer, accelerator.scaler, frozen=config.checkpoint_frozen)
        state = dataclasses.replace(state, step=loaded.step, position=loaded.position, ema_updates=loaded.ema_updates)
    if accelerator.is_main_process:  # a resume that is refused leaves the run as it was
        write_json(config.output_dir / "config.json", {**config.to_dict(), "versions": package_versions()})

    micro_batch = config.train_batch_size * accelerator.num_processes
    samples_per_step = micro_batch * config.gradient_accumulation_steps
    loader = training_batches(
        dataset,
        seed=config.seed,
        start=state.position,
        steps=(config.max_train_steps - state.step) * config.gradient_accumulation_steps,
        batch_size=config.train_batch_size,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        num_workers=config.dataloader_num_workers,
        pin_memory=accelerator.device.type == "cuda",
        collate_fn=collate_fn,
    )
    net.train()
    optimizer.zero_grad()
    meter = Meter(accelerator.device)
    values: dict[str, float] = {}
    checkpoint, stopping = resume, False
    with (
        released_after(loader) as batches,
        StopRequest() as stop,
        Progress(config, accelerator, state.step, samples_per_step) as progress,
    ):

        def validated() -> None:
            if validate and accelerator.is_main_process:
                with _evaluating(model, ema):
                    progress.log_validation(validate(model, state.step))
            accelerator.wait_for_everyone()

        if resume:
            progress.say(f"resumed {resume} at step {state.step}, sample {state.position}")
        while state.step < config.max_train_steps and not stopping:
            lr = config.learning_rate_at(state.step)
            for group in optimizer.param_groups:
                group["lr"] = lr

            for _ in range(config.gradient_accumulation_steps):
                positions, batch = next(batches)
                batch = send_to_device(batch, accelerator.device, non_blocking=True)
                noise = SampleNoise(config.seed, positions, accelerator.device)
                noise.seed_modules()  # dropout needs no state in the checkpoint
                with accelerator.accumulate(net):
                    loss, metrics = _checked(loss_fn(net, batch, noise))
                    meter.add({"loss": loss, **metrics})
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(trainable, config.max_grad_norm or math.inf)
                        meter.add({"grad_norm": norm})  # type: ignore[dict-item]
                    optimizer.step()
                    optimizer.zero_grad()

            if ema:
                ema.update(model)
            state = dataclasses.replace(
                state,
                step=state.step + 1,
                position=state.position + samples_per_step,
                ema_updates=ema.updates if ema else None,
            )
            progress.advance()
            stopping = stop.agreed()
            last = state.step == config.max_train_steps
            saving = stopping or last or _due(state.step, config.checkpointing_steps)

            if saving or _due(state.step, config.logging_steps):
                values = meter.read()
                require_finite(values, state.step, accelerator.scaler is not None, checkpoint)
                progress.log({**values, "lr": lr, **({"ema_decay": ema.decay} if ema else {})})

            if saving:
                checkpoint = config.output_dir / f"checkpoint-{state.step}"
                if accelerator.is_main_process:
                    save_checkpoint(
                        config.output_dir,
                        state,
                        model,
                        ema,
                        optimizer,
                        accelerator.scaler,
                        config.checkpoints_total_limit,
                        frozen=config.checkpoint_frozen,
                    )
                    if on_checkpoint:
                        on_checkpoint(checkpoint, state)
                accelerator.wait_for_everyone()

            if not (stopping or last) and _due(state.step, config.validation_steps):
                validated()

        interrupted = state.step < config.max_train_steps
        if not interrupted:  # also where a resume finds all updates done: the stop may have come before this
            validated()
        if interrupted:
            how = f"--output-dir {run_dir} --resume-from-checkpoint latest"
            progress.say(f"stopped at step {state.step}; to go on: {how}")

    if isinstance(model, PretrainedModel) and not interrupted and accelerator.is_main_process:
        with _evaluating(model, ema):
            model.save_pretrained(
                config.output_dir / "model", push_to_hub=config.push_to_hub, repo_id=config.hub_model_id
            )
    accelerator.wait_for_everyone()
    return TrainResult(model, ema, state.step, state.position, interrupted, checkpoint, values)


def _checked(result: Tensor | tuple[Tensor, Mapping[str, Tensor]]) -> tuple[Tensor, Mapping[str, Tensor]]:
    loss, metrics = result if isinstance(result, tuple) else (result, {})
    if loss.ndim or loss.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"loss_fn: expected a float32 scalar, found {loss.dtype} of shape {list(loss.shape)}")
    return loss, metrics


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


@contextlib.contextmanager
def _evaluating(model: nn.Module, ema: EMA | None) -> Iterator[None]:
    """Averaged weights, eval mode, no gradients; afterwards as before."""
    training = model.training
    model.eval()
    try:
        with ema.applied(model) if ema else contextlib.nullcontext(), torch.no_grad():
            yield
    finally:
        model.train(training)

"""`TuneAVideo`: tune a text-to-image model on one clip, then edit the clip by prompt (Wu et al., ICCV 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Unpack, overload

import torch
from torch import Tensor

from ..common.diffusion import OnStep
from ..common.diffusion.step import Progress
from ..common.train import TrainResult, process_state
from ..common.train.loop import ValidateFn
from .checkpoint import read_inflated
from .clip import Audio, Clip, as_rate
from .delta import Delta, TunedWeights
from .editing import BatchOptions, EditOptions, Inversion, SamplingOptions, Start, invert_latents, sample_latents
from .errors import VideoError
from .folder import check_kind, find_folder
from .inflate import inflate
from .saving import group_norm_of, write_pipeline
from .text_to_image import LatentSpace, TextToImage, best_device, load_parts
from .trainable import trainable_names
from .tuning import TuningClip, VideoTuning, describe_start, run_tuning
from .unet import InflatedUNet
from .unet_config import GroupNormOver, TemporalInit

DELTA_FILE = "delta.safetensors"
Size = int | tuple[int, int] | None
Rate = Fraction | float


class TuneAVideo:
    """An inflated unet with the latent space it works in.

    >>> pipe = TuneAVideo.from_text_to_image("sprites")        # doctest: +SKIP
    >>> pipe.tune(clip, "a red square moves left")             # doctest: +SKIP
    >>> pipe.edit(clip, "a blue circle moves left").save("edit.mp4")   # doctest: +SKIP

    Args:
        space: everything but the unet; it is never changed.
        unet: the inflated unet, untuned; tuning and `load_delta` write to its own tensors only.
    """

    def __init__(self, space: LatentSpace, unet: InflatedUNet) -> None:
        self.space = space
        self.unet = unet.eval()
        self.tuned = TunedWeights(unet, space.source)

    # ------------------------------------------------------------------------------------------------- loading

    @classmethod
    def from_text_to_image(
        cls,
        source: str | Path | TextToImage,
        *,
        temporal_init: TemporalInit = "zero",
        group_norm: GroupNormOver = "frame",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        variant: str | None = None,
    ) -> TuneAVideo:
        """Inflate a text-to-image model.

        Args:
            source: what `TextToImage.load` takes, or a loaded one (which stays usable; weights are shared until tuned,
                and `dtype`, `device`, `variant` are then its own).
            temporal_init: "zero": an untuned unet leaves every frame alone; "original": Tune-A-Video's random bias.
            group_norm: statistics per "frame", which edits the sprites world better, or over the "clip", as the
                original.
            seed: of the temporal attention's initial weights.
            dtype, device, variant: see `TextToImage.load`.

        Raises VideoError for a folder of another kind, which the message names.
        """
        if not isinstance(source, TextToImage):
            source = TextToImage.load(source, dtype=dtype, device=device, variant=variant)
        generator = torch.Generator().manual_seed(seed)
        unet = inflate(source.unet, temporal_init=temporal_init, group_norm=group_norm, generator=generator)
        names = [f.name for f in fields(LatentSpace) if f.init]
        return cls(LatentSpace(**{name: getattr(source, name) for name in names}), unet)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        group_norm: GroupNormOver | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> TuneAVideo:
        """Load a folder whose unet is already inflated: the original program's, or one of `save_pretrained`.

        `group_norm` None is what the folder says, else "clip", the original's. Raises VideoError for other folders.
        """
        place, device = find_folder(folder), best_device(device)
        check_kind(place, inflated=True)
        parts = load_parts(place, device=device, variant=None)
        unet = read_inflated(place, dtype=torch.float32, device=device, group_norm=group_norm or group_norm_of(place))
        return cls(LatentSpace(**parts, source=str(folder), dtype=dtype), unet.requires_grad_(False))

    @classmethod
    def from_delta(
        cls,
        path: str | Path,
        source: str | Path | TextToImage | None = None,
        *,
        any_base: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> TuneAVideo:
        """A tuned pipeline from a delta: its base (`source`, or the one that the delta names), inflated as it was."""
        delta = Delta.load(path)
        pipe = cls.from_text_to_image(
            delta.base if source is None else source,
            temporal_init=delta.temporal_init,  # pyright: ignore[reportArgumentType]  # checked by InflatedConfig
            group_norm=delta.group_norm,  # pyright: ignore[reportArgumentType]
            dtype=dtype,
            device=device,
        )
        pipe.load_delta(path, any_base=any_base)
        return pipe

    # -------------------------------------------------------------------------------------------------- tuning

    def tune(
        self, clip: Clip | Tensor, prompt: str, config: VideoTuning | None = None, *, validate: ValidateFn | None = None
    ) -> TrainResult:
        """Tune the unet on a clip (or frames [F, 3, H, W] in [-1, 1]) described by `prompt`.

        The clip and the prompt are encoded once. It goes on from the present weights: `reset` first for a fresh start.
        A finished run leaves `delta.safetensors` in `config.output_dir`; an interrupted one is resumed by
        `resume_from_checkpoint="latest"`, bit for bit, on a pipeline that has not been tuned otherwise.
        `validate(unet, step)` is called every `config.validation_steps`.

        Raises VideoError (sizes that the VAE cannot take, a resume of another run), TrainingDiverged, and what `train`
        raises.
        """
        config = config or VideoTuning()
        frames = clip.to_tensor() if isinstance(clip, Clip) else clip
        mean, std = (part.transpose(0, 1).contiguous().cpu() for part in self.space.codec.posterior(frames))
        text = self.space.encode_text([prompt])[0].cpu()
        start = describe_start(self.tuned, prompt, frames)
        self.tuned.remember(trainable_names(self.unet, config.selection))
        dataset = TuningClip(mean, std, text)
        result, steps = run_tuning(config, self.unet, self.space.schedule, dataset, start, validate)
        self.tuned.note(config.selection, prompt, clip.name if isinstance(clip, Clip) else "", steps)
        if not result.interrupted and process_state().is_main_process:
            self.save_delta(config.output_dir / DELTA_FILE)
        return result

    def reset(self) -> None:
        """Undo all tuning and loaded deltas: the unet is again what it was inflated to."""
        self.tuned.reset()

    def save_delta(self, path: str | Path) -> Path:
        """Write what tuning changed as one safetensors file (300 MB for Stable Diffusion, whose unet has 3.6 GB).

        Raises VideoError where nothing has been tuned.
        """
        return self.tuned.delta().save(path)

    def load_delta(self, path: str | Path, *, any_base: bool = False) -> Delta:
        """Load what `save_delta` wrote, in place of any tuning so far, and return it.

        `any_base` accepts a base of the same shape with other weights. Raises FileNotFoundError, or VideoError naming
        what does not fit; then nothing is changed.
        """
        delta = Delta.load(path)
        self.tuned.load(delta, any_base=any_base, source=path)
        return delta

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the whole pipeline in the original's layout (its unet as UNet3DConditionModel) and return the folder.

        `from_pretrained` reads it; so does the original program.
        """
        return write_pipeline(Path(folder), self.space, self.unet)

    # ------------------------------------------------------------------------------------------------- editing

    def invert(
        self,
        clip: Clip | Tensor,
        prompt: str = "",
        *,
        steps: int = 50,
        strength: float = 1.0,
        refinements: int = 0,
        on_step: OnStep | None = None,
        progress: Progress | None = None,
    ) -> Inversion:
        """DDIM inversion of a clip, for any number of edits with the same `steps` and `strength`.

        Args:
            clip: a clip, frames [F, 3, H, W] in [-1, 1], or clean latents [1, C, F, h, w].
            prompt: text states under which it is inverted; "" as in the paper.
            steps: of the grid, which sampling will take back.
            strength: below 1 stops at the level where an edit of that strength starts.
            refinements: fixed-point iterations per step (Pan et al. 2023); each costs one more call and shrinks the
                error of the round trip.
        """
        with self._sampling() as net:
            return invert_latents(
                self.space,
                net,
                self.latents(clip),
                prompt,
                steps=steps,
                strength=strength,
                refinements=refinements,
                on_step=on_step,
                progress=progress,
            )

    @overload
    def edit(self, clip: Clip, prompt: str, **options: Unpack[EditOptions]) -> Clip: ...
    @overload
    def edit(self, clip: Clip, prompt: Sequence[str], **options: Unpack[EditOptions]) -> list[Clip]: ...
    def edit(
        self,
        clip: Clip,
        prompt: str | Sequence[str],
        *,
        start: Start = "inversion",
        strength: float = 1.0,
        inversion: Inversion | None = None,
        refinements: int = 0,
        steps: int = 50,
        progress: Progress | None = None,
        **options: Unpack[BatchOptions],
    ) -> Clip | list[Clip]:
        """The clip as another prompt tells it; frame rate and sound are the clip's.

        Args:
            clip: what to edit, as it was tuned on.
            prompt: one text gives one clip, several give a list, all from one inversion.
            start: "inversion" keeps the clip's motion and layout, "noise" only what tuning learned of them.
            strength: share of the steps that are taken, from the clip's own latents at that level (SDEdit); with
                "inversion" the clip is inverted up to that level.
            inversion: one found before by `invert` with the same steps and strength.
            refinements: of the inversion, where it is made here.
            steps: of the grid.
            progress: wraps the list of steps, as tqdm does; for the inversion and for each batch of prompts.
            options: `negative_prompt`: what guidance leads away from. `guidance_scale`: classifier-free guidance, 12.5;
                1 uses the prompt alone. `sampler`, `eta`: see `run_sampler`. `seed`: prompt i uses seed + i, whatever
                the batch; from an inversion only samplers that draw noise need it. `batch_size`: prompts denoised at
                once, 1. `on_step`: sees and may replace every state.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        clean = self.latents(clip)
        if start not in ("inversion", "noise"):
            raise VideoError(f"start: expected inversion or noise, found {start!r}")
        if start == "noise" and inversion is not None:
            raise VideoError("inversion: start='noise' does not use one")
        if start == "inversion" and inversion is None:
            inversion = self.invert(clean, steps=steps, strength=strength, refinements=refinements, progress=progress)
        if inversion is not None:
            inversion.check(clean, steps, strength)
        with self._sampling() as net:
            found = sample_latents(
                self.space, net, prompts, clean, inversion, steps=steps, strength=strength, progress=progress, **options
            )
            clips = [self._decoded(x, clip.fps, clip.audio, name) for x, name in zip(found, prompts, strict=True)]
        return clips[0] if isinstance(prompt, str) else clips

    def reconstruct(
        self,
        clip: Clip,
        prompt: str = "",
        *,
        steps: int = 50,
        guidance_scale: float = 1.0,
        refinements: int = 0,
        inversion: Inversion | None = None,
        progress: Progress | None = None,
    ) -> Clip:
        """Invert and sample under the same prompt: what an edit that changes nothing would give.

        The difference to the clip is what VAE, inversion and (with a scale above 1) guidance lose.
        """
        if inversion is None:
            inversion = self.invert(clip, prompt, steps=steps, refinements=refinements, progress=progress)
        return self.edit(
            clip, prompt, steps=steps, guidance_scale=guidance_scale, inversion=inversion, progress=progress
        )

    @overload
    def generate(
        self, prompt: str, num_frames: int, *, size: Size = None, fps: Rate = 8, **options: Unpack[SamplingOptions]
    ) -> Clip: ...
    @overload
    def generate(
        self,
        prompt: Sequence[str],
        num_frames: int,
        *,
        size: Size = None,
        fps: Rate = 8,
        **options: Unpack[SamplingOptions],
    ) -> list[Clip]: ...
    def generate(
        self,
        prompt: str | Sequence[str],
        num_frames: int,
        *,
        size: Size = None,
        fps: Rate = 8,
        **options: Unpack[SamplingOptions],
    ) -> Clip | list[Clip]:
        """New clips from noise alone, `num_frames` long.

        `size` in pixels is one side or (H, W); None is what the unet was trained at. `options` as in `edit`.
        """
        if num_frames < 1:
            raise VideoError(f"num_frames: expected at least 1, found {num_frames}")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        height, width = self.space.latent_size(size, self.unet.config.unet2d)
        blank = torch.zeros(1, self.space.codec.channels, num_frames, height, width, device=self.space.device)
        with self._sampling() as net:
            found = sample_latents(self.space, net, prompts, blank, **options)
            clips = [self._decoded(x, as_rate(fps), None, name) for x, name in zip(found, prompts, strict=True)]
        return clips[0] if isinstance(prompt, str) else clips

    def latents(self, clip: Clip | Tensor) -> Tensor:
        """Clean latents [1, C, F, h, w] (the posterior's mean) of a clip or of frames; latents are given back."""
        if isinstance(clip, Tensor) and clip.ndim == 5:
            return clip.to(self.space.device, torch.float32)
        return self.space.encode_frames(clip).transpose(0, 1)[None].contiguous()

    def _decoded(self, latents: Tensor, fps: Fraction, audio: Audio | None, name: str) -> Clip:
        return Clip.from_tensor(self.space.decode_latents(latents.transpose(0, 1)), fps=fps, audio=audio, name=name)

    @contextmanager
    def _sampling(self) -> Iterator[InflatedUNet]:
        """The unet in eval mode; afterwards as before (validation samples in the middle of training)."""
        training = self.unet.training
        self.unet.eval()
        try:
            yield self.unet
        finally:
            self.unet.train(training)

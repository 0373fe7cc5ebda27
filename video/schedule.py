"""The noise schedule of a Stable Diffusion folder: its levels, what the net predicts, and the one grid of times.

Sampling and inversion walk the same grid, in opposite directions; every sampler is given this grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import torch

from ..common.diffusion import DiscretePath, cosine_path, discrete_path, uniform_times
from .errors import VideoError

Predicted = Literal["eps", "v", "x0"]
Spacing = Literal["leading", "trailing", "linspace"]

_PREDICTIONS: Mapping[str, Predicted] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


@dataclass(frozen=True, eq=False)
class Schedule:
    """What scheduler/scheduler_config.json says.

    `set_alpha_to_one` False: sampling ends at time 0, the level alphas_cumprod[0] (Stable Diffusion's convention);
    True: at clean data, time -1. `steps_offset` is added to the times of "leading" spacing.
    """

    path: DiscretePath
    prediction: Predicted = "eps"
    spacing: Spacing = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str) -> Schedule:
        """Read a scheduler's config, whatever its class: as `DDIMScheduler.from_config` does, whose defaults stand for
        the fields that the class does not have. `clip_sample` is for pixels and is not read: latents are not bounded.

        Raises VideoError naming `source` and the field.
        """
        name = str(config.get("_class_name", ""))
        if name.startswith(("FlowMatch", "EDM", "KarrasVe", "ScoreSde", "CM")):
            raise VideoError(f"{source}: {name} is no schedule of betas; expected that of Stable Diffusion 1.x or 2.x")
        kind = config.get("prediction_type", "epsilon")
        if kind not in _PREDICTIONS:
            raise VideoError(f"{source}: prediction_type {kind!r}, expected one of {', '.join(_PREDICTIONS)}")
        spacing = config.get("timestep_spacing", "leading")
        if spacing not in get_args(Spacing):
            raise VideoError(f"{source}: timestep_spacing {spacing!r}, expected one of {', '.join(get_args(Spacing))}")
        try:
            path = _path(config, source)
        except (TypeError, ValueError) as error:
            if isinstance(error, VideoError):
                raise
            raise VideoError(f"{source}: {error}") from error
        offset, last = config.get("steps_offset", 0), config.get("set_alpha_to_one", True)
        if not isinstance(offset, int) or not 0 <= offset < path.num_steps:
            raise VideoError(f"{source}: steps_offset {offset!r}, expected a whole number from 0")
        if float(path.alpha(path.t_max)) == 0 and _PREDICTIONS[kind] == "eps":
            raise VideoError(f"{source}: rescale_betas_zero_snr needs prediction_type v_prediction or sample")
        return cls(path, _PREDICTIONS[kind], cast(Spacing, spacing), offset, bool(last), dict(config))

    def asked(self, steps: int) -> list[int]:
        """The `steps` descending times at which the net is asked, as DDIMScheduler.set_timesteps places them.

        Raises VideoError for a number of steps that the schedule cannot be divided into.
        """
        total = self.path.num_steps
        most = total - self.steps_offset if self.spacing == "leading" else total
        if not 1 <= steps <= most:
            raise VideoError(f"steps: expected 1 to {most}, found {steps}")
        if self.spacing == "linspace" and steps == 1:
            return [0]  # what numpy's linspace gives, and so diffusers
        times = uniform_times(self.path, steps, self.spacing)[:-1]
        offset = self.steps_offset if self.spacing == "leading" else 0
        return [int(t) + offset for t in times]

    def times(self, steps: int, strength: float = 1.0) -> list[int]:
        """The grid of `steps` steps for the core's samplers and for `ddim_invert`: descending, with its end.

        A `strength` below 1 keeps the last int(steps * strength) steps, at least one (SDEdit, Meng et al. 2022).
        """
        asked = self._last(self.asked(steps), strength)
        # With offset 0 the net is asked at time 0 itself; where that is also the end, the last step stands still.
        end = self.path.t_clean if self.set_alpha_to_one else 0
        return [*asked, end] if asked[-1] > end else asked

    def solver_times(self, steps: int, strength: float = 1.0) -> list[int]:
        """The same times for a diffusers scheduler, which brings its own end: clean data stands for it."""
        return [*self._last(self.asked(steps), strength), self.path.t_clean]

    @staticmethod
    def _last(asked: list[int], strength: float) -> list[int]:
        if not 0 < strength <= 1:
            raise VideoError(f"strength: expected a number above 0 and up to 1, found {strength}")
        # The small term forgives 50 * 0.58 = 28.999999999999996.
        return asked[-max(1, math.floor(len(asked) * strength + 1e-9)) :]


def _path(config: Mapping[str, Any], source: str) -> DiscretePath:
    zero = bool(config.get("rescale_betas_zero_snr", False))
    if config.get("trained_betas") is not None:
        return discrete_path(torch.tensor(config["trained_betas"], dtype=torch.float64), rescale_zero_terminal_snr=zero)
    steps, kind = int(config.get("num_train_timesteps", 1000)), config.get("beta_schedule", "linear")
    low, high = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    if kind == "squaredcos_cap_v2":
        return cosine_path(steps, rescale_zero_terminal_snr=zero)
    if kind == "linear":
        betas = torch.linspace(low, high, steps, dtype=torch.float64)
    elif kind == "scaled_linear":
        betas = torch.linspace(low**0.5, high**0.5, steps, dtype=torch.float64) ** 2
    else:
        raise VideoError(
            f"{source}: beta_schedule {kind!r}, expected scaled_linear, linear, squaredcos_cap_v2 or trained_betas"
        )
    return discrete_path(betas, rescale_zero_terminal_snr=zero)

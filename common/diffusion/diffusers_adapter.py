"""Any of diffusers' schedulers as one of our samplers.

A scheduler owns a grid of noise levels and an update rule; its names for the network's output, its time and its scale
of the state differ from class to class. The adapter reads the levels (alpha, sigma) of the scheduler's own state,
finds the path's time of the same signal-to-noise ratio, asks the denoiser there, and hands the estimate back in the
form the scheduler wants. So an EDM scheduler can drive a VP denoiser, and the reverse.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .discrete import DiscretePath
from .noise import GeneratorNoise, NoiseSource, PerSampleNoise, Randomness, as_noise
from .path import AffinePath
from .step import DenoiserLike, Level, OnStep, Progress, Times, level_at, run_steps

# How a scheduler keeps its state x = a x0 + s eps:
#   table  (a, s) from alphas_cumprod at integer timesteps
#   vp     (a, s) from sigmas by the scheduler's own rule, variance preserving or flow
#   scaled a = 1, s = sigma; the network of a VP model sees x / sqrt(1 + sigma^2)
#   edm    a = 1, s = sigma; "epsilon" means EDM's raw F, neither eps nor x0
#   flow   a = 1 - sigma, s = sigma; wants the velocity eps - x0
Family = Literal["table", "vp", "scaled", "edm", "flow"]
FAMILIES: Mapping[str, Family] = {
    "DDPMScheduler": "table",
    "DDIMScheduler": "table",
    "PNDMScheduler": "table",
    "LCMScheduler": "table",
    "TCDScheduler": "table",
    "DPMSolverMultistepScheduler": "vp",
    "DPMSolverSinglestepScheduler": "vp",
    "DEISMultistepScheduler": "vp",
    "UniPCMultistepScheduler": "vp",
    "SASolverScheduler": "vp",
    "EulerDiscreteScheduler": "scaled",
    "EulerAncestralDiscreteScheduler": "scaled",
    "HeunDiscreteScheduler": "scaled",
    "LMSDiscreteScheduler": "scaled",
    "EDMEulerScheduler": "edm",
    "EDMDPMSolverMultistepScheduler": "edm",
    "FlowMatchEulerDiscreteScheduler": "flow",
    "FlowMatchHeunDiscreteScheduler": "flow",
}
NEED_SIGNAL = ("PNDMScheduler",)  # it divides by alpha


def family_of(scheduler: Any) -> Family:
    """The family of a scheduler instance or class. Raises TypeError for one that is not known to work."""
    cls = scheduler if isinstance(scheduler, type) else type(scheduler)
    for base in cls.__mro__:
        if base.__name__ in FAMILIES:
            return FAMILIES[base.__name__]
    raise TypeError(f"scheduler {cls.__name__} is not supported, expected one of: {', '.join(FAMILIES)}")


def scheduler_for(path: AffinePath, cls: type, **config: Any) -> Any:
    """A scheduler of class `cls` whose noise levels are the path's own; `config` goes to its constructor.

    Schedulers with betas get `trained_betas` from a discrete path, or 1000 levels evenly spaced in t from a continuous
    one (divided by its total scale, so that they are variance preserving). EDM schedulers get the path's range of
    sigma / alpha. Flow schedulers, and others with `use_flow_sigmas`, need nothing. Clipping is switched off.
    Where the path ends in pure noise (alpha = 0) and the class counts in sigma / alpha, it is told so
    (`rescale_betas_zero_snr`) and puts a large number in the place of infinity.
    """
    family = family_of(cls)
    accepted = inspect.signature(cls.__init__).parameters
    ours: dict[str, Any] = {}
    if family == "edm":
        ours = {
            "sigma_min": float(path.noise_to_signal(path.t_min)),
            "sigma_max": float(path.noise_to_signal(path.t_max)),
        }
    elif "trained_betas" in accepted and not config.get("use_flow_sigmas", False):
        betas = path.betas if isinstance(path, DiscretePath) else _betas_of(path, 1000)
        ours = {"num_train_timesteps": len(betas), "trained_betas": betas.tolist()}
        if family != "table" and "rescale_betas_zero_snr" in accepted and float(path.alpha(path.t_max)) == 0:
            ours["rescale_betas_zero_snr"] = True  # to betas that have it already it does nothing else
    if "clip_sample" in accepted:
        ours["clip_sample"] = False
    return cls(**{**ours, **config})


def _betas_of(path: AffinePath, num_levels: int) -> Tensor:
    t = torch.linspace(path.t_min, path.t_max, num_levels, dtype=torch.float64)
    bars = torch.sigmoid(path.log_snr(t))
    if not float(bars[-1]) > 0:
        raise ValueError(
            f"{type(path).__name__}: alpha({path.t_max}) = 0, which no table of betas can hold; "
            "use a flow scheduler or ours (ode, ddim)"
        )
    return 1 - bars / torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])


@dataclass(frozen=True)
class _Call:
    """One network call of the schedule: the scheduler's timestep and state, and the path's level to ask at."""

    timestep: Tensor | None
    a: float
    s: float
    level: Level

    @property
    def scale(self) -> float:
        """Path state = scale times scheduler state. Equal total scale: exact where both have the same SNR, and
        balanced where a discrete path has only a neighbouring level."""
        return ((self.level.alpha**2 + self.level.sigma**2) / (self.a**2 + self.s**2)) ** 0.5


class _Refuse:
    """Stands for a generator where a scheduler would draw noise that a custom `NoiseSource` cannot give it."""

    @property
    def device(self) -> torch.device:
        raise TypeError(
            "generator: this scheduler draws its noise by itself, from a torch.Generator or a sequence of them, and "
            "cannot use a custom NoiseSource; use ancestral, ddim or edm_heun"
        )


class DiffusersSampler:
    """What `from_diffusers` returns; call it like any sampler (`Sampler`)."""

    def __init__(self, scheduler: Any, num_steps: int | None, eta: float, mu: float | None) -> None:
        self.scheduler = scheduler
        self.family: Family = family_of(scheduler)
        self.num_steps = num_steps
        self.eta = eta
        self.mu = mu
        if eta != 0 and "eta" not in inspect.signature(scheduler.step).parameters:
            raise ValueError(f"eta: {type(scheduler).__name__} has no eta, found {eta}")
        if self.family == "table" and scheduler.config.get("variance_type") in ("learned", "learned_range"):
            raise ValueError(
                f"{type(scheduler).__name__} with variance_type={scheduler.config['variance_type']!r} wants variances "
                "on axis 1; use ancestral(variance='learned_range'), or a fixed variance_type"
            )

    def __call__(
        self,
        denoiser: DenoiserLike,
        x_T: Tensor,
        times: Times | None = None,
        cond: Any = None,
        *,
        generator: Randomness = None,
        on_step: OnStep | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Samples from x_T [B, ...], a state of the PATH (`initial_noise`); returns [B, ...] at the schedule's end.

        Args:
            times: number of steps; None for `num_steps`; or, where the scheduler takes custom timesteps and the path
                is discrete, descending times whose last entry (the clean end) is dropped.
        """
        scheduler = self._fresh_copy(denoiser.path)
        self._set_times(scheduler, denoiser.path, times, x_T.device)
        schedule = _schedule(scheduler, self.family, denoiser.path)
        position = iter(range(len(schedule)))
        noise = as_noise(generator)

        def step(t: Level, s: Level, x_t: Tensor) -> tuple[Tensor, Tensor]:
            index = next(position)
            call, after = schedule[index], schedule[index + 1]
            x0 = denoiser(x_t, t.time(), cond)
            x = x_t.detach().to(x0.dtype) / call.scale
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, call.timestep)  # some classes refuse `step` unless it was called
            output = self._output(scheduler, x, x0.detach(), call)
            kwargs = self._step_arguments(scheduler, x, noise)
            stepped = scheduler.step(output, call.timestep, x, return_dict=False, **kwargs)[0]
            return x0, stepped.to(x0.dtype) * after.scale

        return run_steps(step, [call.level for call in schedule], x_T, cond, on_step, progress)

    def _fresh_copy(self, path: AffinePath) -> Any:
        """The scheduler keeps old outputs between steps, so every run has its own; ours do the clipping."""
        scheduler = deepcopy(self.scheduler)
        off: dict[str, Any] = {"clip_sample": False, "thresholding": False}
        if self.family != "table":
            off["variance_type"] = None  # it would cut the output to its first three channels; it only gets the mean
        scheduler.register_to_config(**{k: v for k, v in off.items() if k in scheduler.config})
        in_use = hasattr(scheduler, "alphas_cumprod") and not scheduler.config.get("use_flow_sigmas", False)
        if isinstance(path, DiscretePath) and in_use:
            bars, ours = scheduler.alphas_cumprod.double().cpu(), path.alphas_cumprod
            if bars.shape != ours.shape or not torch.allclose(bars, ours, rtol=1e-3, atol=1e-6):
                gap = f"differ by up to {float((bars - ours).abs().max()):.3g}" if bars.shape == ours.shape else ""
                raise ValueError(
                    f"{type(scheduler).__name__}: its alphas_cumprod ({len(bars)} steps) and the denoiser's path's "
                    f"({len(ours)} steps) disagree {gap}; build it with scheduler_for(path, cls, ...)"
                )
            # The scheduler's table is float32, too coarse for 1 - alphas_cumprod at the first steps of a cosine path.
            # A zero terminal SNR keeps the scheduler's small stand-in.
            scheduler.alphas_cumprod = torch.where(ours > 0, ours, bars)
        return scheduler

    def _set_times(self, scheduler: Any, path: AffinePath, times: Times | None, device: torch.device) -> None:
        times = self.num_steps if times is None else times
        options = {} if self.mu is None else {"mu": self.mu}
        if times is None:
            raise ValueError("times: pass a number of steps here or num_steps to from_diffusers")
        if isinstance(times, int):
            _quietly(scheduler.set_timesteps, times, device=device, **options)
        else:
            takes = "timesteps" in inspect.signature(scheduler.set_timesteps).parameters
            if not takes or not isinstance(path, DiscretePath) or self.family not in ("table", "vp", "scaled"):
                raise ValueError(f"times: {type(scheduler).__name__} chooses its own here; pass a number of steps")
            values = [int(t) - path.first for t in times][:-1]
            _quietly(scheduler.set_timesteps, timesteps=values, device=device, **options)
        if hasattr(scheduler, "set_begin_index"):
            # otherwise it looks its position up by timestep, which is ambiguous where rounding makes two equal
            scheduler.set_begin_index(0)

    def _output(self, scheduler: Any, x: Tensor, x0: Tensor, call: _Call) -> Tensor:
        """x0_hat as what the scheduler calls the model's output, for its own state x = a x0 + s eps."""
        kind = scheduler.config.get("prediction_type", "epsilon")
        eps = (x - call.a * x0) / call.s
        if self.family == "flow":
            return eps - x0
        if self.family == "edm":
            data = scheduler.config.sigma_data
            total = (call.s**2 + data**2) ** 0.5
            raw = (x0 - (data / total) ** 2 * x) * (total / (call.s * data))
            return raw if kind == "epsilon" else -raw
        if kind == "epsilon":
            if call.a == 0:
                raise ValueError(
                    f"{type(scheduler).__name__}: prediction_type 'epsilon' cannot carry x0 where alpha = 0 (zero "
                    "terminal SNR), expected 'v_prediction' or 'sample'"
                )
            return eps
        if kind == "sample":
            return x0
        if kind == "v_prediction":
            total = (call.a**2 + call.s**2) ** 0.5
            return (call.a * eps - call.s * x0) / total
        if kind == "flow_prediction":
            return eps - x0
        raise ValueError(f"{type(scheduler).__name__}: prediction_type {kind!r} is not known")

    def _step_arguments(self, scheduler: Any, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        accepted = inspect.signature(scheduler.step).parameters
        arguments: dict[str, Any] = {"eta": self.eta} if "eta" in accepted else {}  # TCD's own default is not 0
        if "generator" not in accepted:
            return arguments
        if isinstance(noise, GeneratorNoise):
            arguments["generator"] = noise.generator
        elif isinstance(noise, PerSampleNoise):
            arguments["generator"] = noise.generators
        elif "variance_noise" in accepted:
            if self.eta != 0 or str(scheduler.config.get("algorithm_type", "")).startswith("sde"):
                arguments["variance_noise"] = noise.randn_like(x)
        else:
            arguments["generator"] = _Refuse()
        return arguments


def _quietly(set_timesteps: Callable[..., None], *args: Any, **options: Any) -> None:
    """Without the warning that some schedulers draw from NumPy 2 by `np.array(tensor)`, which nobody here can heed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        set_timesteps(*args, **options)


def from_diffusers(
    scheduler: Any, *, num_steps: int | None = None, eta: float = 0.0, mu: float | None = None
) -> DiffusersSampler:
    """A sampler with diffusers' update rule and our denoiser, conditioning and noise.

    Args:
        scheduler: an instance of a class in `FAMILIES`; it is copied for every run and never changed. On a discrete
            path its `alphas_cumprod` must be the path's (`scheduler_for` builds such a one).
        num_steps: used where `times` is None.
        eta: DDIM's, or TCD's, stochasticity.
        mu: time shift of flow schedulers with `use_dynamic_shifting`.

    The scheduler's own clipping and thresholding are switched off: clip in the `Denoiser`. A discrete path is asked at
    its nearest level where the scheduler wants one between two (Karras sigmas). A two-stage rule (Heun, singlestep)
    calls `on_step` after each stage, and a replacement between the stages only moves the point of the second call.
    The scheduler sees detached estimates, so under `needs_grad` x_s has no gradient. Most classes compute in float32.
    What a class does by itself stays: DDPMScheduler with fixed_large adds noise in its last step unless that step
    starts at timestep 0, which "trailing" spacing does not; DDIMScheduler steps by T // n, so let n divide T.
    """
    return DiffusersSampler(scheduler, num_steps, eta, mu)


def _schedule(scheduler: Any, family: Family, path: AffinePath) -> list[_Call]:
    """The network calls in order, and last the state that is left when all are made (timestep None)."""
    timesteps: Sequence[Tensor] = list(scheduler.timesteps)
    if family == "table":
        bars = scheduler.alphas_cumprod.double().cpu()[scheduler.timesteps.cpu()]
        last = torch.as_tensor(float(getattr(scheduler, "final_alpha_cumprod", 1.0))).double().reshape(1)
        bars = torch.cat([bars, last])
        a, s = bars.sqrt(), (1 - bars).sqrt()
    else:
        s = scheduler.sigmas.double().cpu()
        if family == "vp":
            a, s = scheduler._sigma_to_alpha_sigma_t(s)
        elif family == "flow":
            a = 1 - s
        else:
            a = torch.ones_like(s)
    pairs = [(float(a_i), float(s_i)) for a_i, s_i in zip(a, s, strict=True)]
    name = type(scheduler).__name__
    if not all(math.isfinite(level) for pair in pairs for level in pair) or (name in NEED_SIGNAL and pairs[0][0] == 0):
        raise ValueError(
            f"{name}: cannot start where alpha = 0 (zero terminal SNR); DDIM, DDPM, DPM-Solver++, UniPC and Euler "
            "can, built with scheduler_for(path, cls, ...)"
        )
    levels = [_nearest_level(path, a_i, s_i, scheduler) for a_i, s_i in pairs]
    return [_Call(t, *pair, level) for t, pair, level in zip([*timesteps, None], pairs, levels, strict=True)]


def _nearest_level(path: AffinePath, a: float, s: float, scheduler: Any) -> Level:
    """The path's level with the SNR of (a, s). Raises ValueError where the path has none."""
    if s == 0:
        return Level(float(path.t_clean), 1.0, 0.0, path.is_discrete)
    ratio = s / a if a > 0 else float("inf")
    lowest, highest = float(path.noise_to_signal(path.t_min)), float(path.noise_to_signal(path.t_max))
    # float32 tables on the scheduler's side
    if not lowest * (1 - 1e-3) <= ratio <= highest * (1 + 1e-3):
        raise ValueError(
            f"{type(scheduler).__name__} visits sigma/alpha = {ratio:.6g}, the denoiser's path has "
            f"{lowest:.6g}..{highest:.6g}; build the scheduler with scheduler_for(path, cls, ...)"
        )
    t = float(path.t_from_noise_to_signal(ratio))
    return level_at(path, min(max(t, path.t_min), path.t_max))

"""What tuning changed, as one small file: the trained tensors, and enough about their base to know it again.

delta.safetensors    *.attn1.to_q.weight  *.attn2.to_q.weight  *.attn_temp.*    + metadata
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..common.weights import WeightsError, read_tensors, replaced_file
from .errors import VideoError
from .trainable import own_parameters

if TYPE_CHECKING:
    from .unet import InflatedUNet

FORMAT = "trifold-video-delta-1"
PROBES = 256  # weights of the base that are remembered


# Fields of a unet's config that change what it computes and leave its tensors' shapes alone, with diffusers' defaults.
_MEANING: Mapping[str, Any] = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
}


@dataclass(frozen=True)
class BaseMark:
    """What a base is known by: a hash of its unet's shape and settings, and some of its weights.

    `probes` are float32 values from fixed places all over the image unet; a copy in half precision has them rounded.
    """

    shape_hash: str
    probes: tuple[float, ...]

    @classmethod
    def of(cls, unet: InflatedUNet) -> BaseMark:
        """The mark of an inflated unet that has not been tuned."""
        own = sorted((name, p.detach()) for name, p in unet.named_parameters() if "_temp." not in name)
        settings = {name: unet.config.unet2d.get(name, default) for name, default in _MEANING.items()}
        shapes = [[name, list(p.shape)] for name, p in own]
        text = json.dumps([settings, shapes], sort_keys=True)
        chosen = [own[i * len(own) // PROBES][1].reshape(-1) for i in range(PROBES)]
        # The place depends on nothing but the tensor's size and i; a large prime spreads the places.
        probes = tuple(float(p[i * 7919 % len(p)]) for i, p in enumerate(chosen))
        return cls(hashlib.sha256(text.encode()).hexdigest()[:16], probes)

    def differences(self, other: BaseMark) -> str:
        """In words, how another base differs from this one; "" where it is the same, be it in half precision."""
        if self.shape_hash != other.shape_hash:
            return "its unet has another shape"
        mine, others = (torch.tensor(mark.probes, dtype=torch.float64) for mark in (self, other))
        # bfloat16 keeps 8 bits, float16 has steps of 6e-8 near zero.
        far = int(((mine - others).abs() > mine.abs() * 2**-8 + 1e-7).sum())
        return f"its unet has other weights ({far} of {len(mine)} probes differ)" if far else ""


@dataclass(frozen=True)
class Delta:
    """Trained tensors by name, and where they belong.

    base: name of the text-to-image model; mark: what it is known by; selection, temporal_init and group_norm: how it
    was inflated and tuned; prompt, steps and clip: on what.
    """

    tensors: Mapping[str, Tensor]
    base: str
    mark: BaseMark
    selection: str | tuple[str, ...]
    temporal_init: str
    group_norm: str
    prompt: str = ""
    steps: int = 0
    clip: str = ""

    @property
    def num_bytes(self) -> int:
        """Size of the tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, atomically, and return its path."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise VideoError(f"{path}: a delta is a .safetensors file")
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("tensors", "mark")}
        facts |= {"shape_hash": self.mark.shape_hash, "probes": list(self.mark.probes)}
        facts["trifold_version"] = importlib.metadata.version("trifold")
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}
        with replaced_file(path) as temporary:
            save_file(tensors, temporary, metadata={"format": FORMAT, "delta": json.dumps(facts)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Delta:
        """Read what `save` wrote. Raises FileNotFoundError, or VideoError for another or a damaged file."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such delta")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
            tensors = read_tensors(path)
        except (SafetensorError, WeightsError, OSError) as error:
            raise VideoError(f"{path}: not a complete safetensors file ({error})") from error
        if metadata.get("format") != FORMAT:
            raise VideoError(f"{path}: expected a delta written by save_delta ({FORMAT}), found other tensors")
        try:
            facts: dict[str, Any] = json.loads(metadata["delta"])
            mark = BaseMark(facts.pop("shape_hash"), tuple(facts.pop("probes")))
            facts.pop("trifold_version")
            chosen = facts.pop("selection")
            return cls(
                tensors=tensors, mark=mark, selection=chosen if isinstance(chosen, str) else tuple(chosen), **facts
            )
        except (KeyError, TypeError, ValueError) as error:
            raise VideoError(f"{path}: its metadata is damaged ({type(error).__name__}: {error})") from error


def delta_tensors(unet: nn.Module, trained: Iterable[str]) -> dict[str, Tensor]:
    """The trained tensors, and all of the temporal attention even where it was frozen: the base does not have it."""
    wanted = set(trained)
    return {n: p.detach() for n, p in unet.named_parameters() if n in wanted or ".attn_temp." in n}


def check_delta(delta: Delta, unet: InflatedUNet, mark: BaseMark, *, any_base: bool, source: object) -> None:
    """Raise VideoError, naming `source` and what does not fit, unless the delta belongs to an unet of this mark.

    `any_base` accepts a base with other weights of the same shapes, such as a fine-tuned relative.
    """
    said = mark.differences(delta.mark)
    if said and not (any_base and mark.shape_hash == delta.mark.shape_hash):
        hint = "" if "shape" in said else "; any_base=True loads it all the same"
        raise VideoError(f"{source}: was tuned on {delta.base!r}, and this is another base: {said}{hint}")
    if unet.config.group_norm != delta.group_norm:
        raise VideoError(
            f"{source}: was tuned with group_norm {delta.group_norm!r}, this unet has {unet.config.group_norm!r}"
        )
    parameters = dict(unet.named_parameters())
    wrong = [n for n, t in delta.tensors.items() if n not in parameters or parameters[n].shape != t.shape]
    if wrong:
        raise VideoError(f"{source}: {len(wrong)} tensors are unknown or of another shape: {', '.join(wrong[:5])}")


@torch.no_grad()
def restore(unet: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters of the same names."""
    parameters = dict(unet.named_parameters())
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)


class TunedWeights:
    """An inflated unet's changes since it was inflated: they can be taken out as a delta, put in, and undone.

    `base` is the name of the model that it was inflated from. What is about to change must be announced by `remember`.
    """

    def __init__(self, unet: InflatedUNet, base: str) -> None:
        self.unet = unet
        self.base = base
        self.mark = BaseMark.of(unet)
        self.selection: str | tuple[str, ...] = ()
        self.prompt, self.clip, self.steps = "", "", 0
        self._untuned: dict[str, Tensor] = {}

    def remember(self, names: Iterable[str]) -> None:
        """Keep what these parameters are now, unless they are kept already, and give them memory of their own."""
        parameters, names = dict(self.unet.named_parameters()), list(names)
        self._untuned |= {n: parameters[n].detach().cpu().clone() for n in names if n not in self._untuned}
        own_parameters(self.unet, names)

    def note(self, selection: str | tuple[str, ...], prompt: str, clip: str, steps: int) -> None:
        """Say what was tuned, on what, and for how many steps in all."""
        self.selection, self.prompt, self.clip, self.steps = selection, prompt, clip, steps

    def reset(self) -> None:
        """The unet is again what it was inflated to."""
        restore(self.unet, self._untuned)
        self._untuned, self.steps = {}, 0

    def delta(self) -> Delta:
        """The changes. Raises VideoError where there are none."""
        if not self._untuned:
            raise VideoError("there is no delta to save: nothing has been tuned")
        return Delta(
            tensors=delta_tensors(self.unet, self._untuned),
            base=self.base,
            mark=self.mark,
            selection=self.selection,
            temporal_init=self.unet.config.temporal_init,
            group_norm=self.unet.config.group_norm,
            prompt=self.prompt,
            steps=self.steps,
            clip=self.clip,
        )

    def load(self, delta: Delta, *, any_base: bool, source: object) -> None:
        """Put a delta in, in place of any changes so far; see `check_delta` for what it raises, nothing being done."""
        check_delta(delta, self.unet, self.mark, any_base=any_base, source=source)
        self.reset()
        self.remember(delta.tensors)
        restore(self.unet, delta.tensors)
        self.note(delta.selection, delta.prompt, delta.clip, delta.steps)

"""The published checkpoints: `ckpt_*.pt` with the run's argparse namespace inside, as our models.

The namespace says what the tensors cannot (which model, whether the denoiser is residual, how clouds were normalised);
everything else is read off both and must agree.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...common.weights import WeightsError, load_foreign_state_dict, load_module_tensors, renamed_keys
from ..errors import PointCloudError
from ..normalise import Normalisation, NormalisationMode
from .autoencoder import AutoEncoder, AutoEncoderConfig
from .vae import FlowVAE, FlowVAEConfig, GaussianVAE, GaussianVAEConfig

Kind = Literal["autoencoder", "gaussian", "flow"]
LuoHu = AutoEncoder | GaussianVAE | FlowVAE

SCHEDULE = "diffusion.var_sched."  # tables that follow from three numbers
_RENAMES = (
    (r"encoder\.conv([1-4])\.", lambda m: f"encoder.linears.{int(m[1]) - 1}."),
    (r"encoder\.bn([1-4])\.", lambda m: f"encoder.norms.{int(m[1]) - 1}."),
    (r"encoder\.fc([1-3])_([mv])\.", lambda m: f"encoder.{_HEADS[m[2]]}.linears.{int(m[1]) - 1}."),
    (r"encoder\.fc_bn([12])_([mv])\.", lambda m: f"encoder.{_HEADS[m[2]]}.norms.{int(m[1]) - 1}."),
    (r"diffusion\.net\.layers\.([0-5])\._layer\.", lambda m: f"net.layers.{m[1]}.linear."),
    (r"diffusion\.net\.layers\.([0-5])\._hyper_gate\.", lambda m: f"net.layers.{m[1]}.gate."),
    (r"diffusion\.net\.layers\.([0-5])\._hyper_bias\.", lambda m: f"net.layers.{m[1]}.shift."),
    (r"flow\.chain\.(\d+)\.net_s_t\.([024])\.", lambda m: f"flow.couplings.{m[1]}.linears.{int(m[2]) // 2}."),
)
_HEADS = {"m": "mean_head", "v": "log_variance_head"}
_SPECTRAL = {"weight_orig": "weight", "weight_u": "u", "weight_v": "v"}


def rename_key(key: str) -> str:
    """Our name of one tensor of the original. Raises KeyError for a name the original does not have."""
    for pattern, ours in _RENAMES:
        if match := re.match(pattern, key):
            leaf = key[match.end() :]
            if key.startswith("flow."):
                leaf = _SPECTRAL.get(leaf, leaf)
            return ours(match) + leaf
    raise KeyError(key)


def rename_keys(keys: Iterable[str], source: str = "checkpoint") -> dict[str, str]:
    """Original name -> our name. The schedule's tables, and weights that spectral norm derives, are left out.

    Raises: PointCloudError where a key is not Luo & Hu's, or two keys would get one name.
    """
    keys = set(keys)
    kept = [key for key in sorted(keys) if not key.startswith(SCHEDULE) and f"{key}_orig" not in keys]
    program = "a checkpoint of Luo & Hu's models"
    example = "encoder.conv1.weight and diffusion.net.layers.0._layer.weight"
    try:
        return renamed_keys(kept, rename_key, source=source, program=program, example=example)
    except WeightsError as error:
        raise PointCloudError(str(error)) from error


def convert_state_dict(tensors: Mapping[str, Tensor], source: str = "checkpoint") -> dict[str, Tensor]:
    """The original's tensors under our names: floats as float32, convolutions of width 1 as matrices."""
    out = {}
    for theirs, ours in rename_keys(tensors, source).items():
        tensor = tensors[theirs]
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        out[ours] = tensor.squeeze(-1) if ".conv" in theirs and theirs.endswith(".weight") else tensor
    return out


def read_arguments(path: str | Path) -> argparse.Namespace | None:
    """The namespace under "args" of a `ckpt_*.pt`; None for a file that has none. Nothing but that class and plain
    values is unpickled."""
    if Path(path).suffix == ".safetensors":
        return None
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        found = torch.load(path, map_location="cpu", weights_only=True)
    args = found.get("args") if isinstance(found, dict) else None
    return args if isinstance(args, argparse.Namespace) else None


def load_original(path: str | Path, kind: Kind | None = None, scale: float | None = None) -> LuoHu:
    """A published checkpoint as a model in eval mode; `.pt`, or the state dict as `.pt` or safetensors.

    Args:
        kind: which model, where the file has no namespace; an autoencoder and a Gaussian VAE have the same tensors.
        scale: by which a model of scale_mode global_unit divided its clouds, the standard deviation of its data set:
            `std` in the stats_*.pt that the original keeps beside the data set, not in the checkpoint.

    Raises: FileNotFoundError; WeightsError for a file that is no checkpoint; PointCloudError for another model's
        tensors, a setting that is missing, or one that contradicts the tensors.
    """
    tensors = load_foreign_state_dict(path)  # refuses what cannot be read safely, and says why
    return model_from_original(tensors, read_arguments(path), kind, str(path), scale=scale)


def model_from_original(
    tensors: Mapping[str, Tensor],
    args: argparse.Namespace | None = None,
    kind: Kind | None = None,
    source: str = "checkpoint",
    *,
    scale: float | None = None,
) -> LuoHu:
    """`load_original` of tensors and arguments at hand."""
    converted = convert_state_dict(tensors, source)
    settings = _Settings(vars(args) if args is not None else {}, tensors, source)
    kind = settings.kind(kind)
    shared = settings.shared(scale)
    if kind == "autoencoder":
        model: LuoHu = AutoEncoder(AutoEncoderConfig(**shared))
    elif kind == "gaussian":
        model = GaussianVAE(GaussianVAEConfig(**shared))
    else:
        model = FlowVAE(FlowVAEConfig(**shared, **settings.flow()))
    load_module_tensors(model, converted, source)
    return model.eval()


class _Settings:
    """Arguments and tensors of one checkpoint, each setting from both where both have it."""

    def __init__(self, args: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> None:
        self.args, self.tensors, self.source = args, tensors, source

    def kind(self, asked: Kind | None) -> Kind:
        if asked is not None and asked not in get_args(Kind):
            raise PointCloudError(f"kind: expected one of {', '.join(get_args(Kind))}, found {asked!r}")
        has_flow = any(key.startswith("flow.") for key in self.tensors)
        told = self.args.get("model") if self.args else None
        found: Kind | None = "flow" if has_flow else None
        if not has_flow and self.args:
            found = "gaussian" if told is not None else "autoencoder"  # train_ae.py has no such argument
        if (told == "flow") != has_flow and told is not None:
            raise self._error("model", f"the arguments say {told!r}, the file has {'a' if has_flow else 'no'} flow")
        if found is None and asked is None:
            raise self._error("model", "without arguments an autoencoder and a Gaussian VAE look alike; say kind=")
        if found is not None and asked is not None and found != asked:
            raise self._error("model", f"this is the {found} model, asked for {asked}")
        kind = found or asked
        assert kind is not None
        return kind

    def shared(self, scale: float | None) -> dict[str, Any]:
        if self.args.get("sched_mode", "linear") != "linear":
            raise self._error("sched_mode", f"found {self.args['sched_mode']!r}, expected 'linear'")
        steps, beta_1, beta_T = self._schedule()
        return {
            "latent_dim": self._agreed("latent_dim", self._shape("encoder.fc3_m.weight")[0]),
            "num_steps": steps,
            "beta_1": beta_1,
            "beta_T": beta_T,
            "residual": bool(self.args.get("residual", True)),
            "normalisation": self._normalisation(scale),
        }

    def _normalisation(self, scale: float | None) -> Normalisation:
        modes = [mode for mode in get_args(NormalisationMode) if mode != "global"]  # which the original does not have
        mode = self.args.get("scale_mode") or "none"
        if mode not in modes:
            raise self._error("scale_mode", f"found {mode!r}, expected one of {', '.join(modes)}")
        if (mode == "global_unit") != (scale is not None):
            found = "none is given" if scale is None else f"found {scale:g}"
            raise self._error(
                "scale", f"a model of scale_mode global_unit, and no other, needs its data set's std; {mode}: {found}"
            )
        return Normalisation(mode) if scale is None else Normalisation(mode, scale=scale)

    def flow(self) -> dict[str, Any]:
        chain = {int(match[1]) for key in self.tensors if (match := re.match(r"flow\.chain\.(\d+)\.", key))}
        spectral = "flow.chain.0.net_s_t.0.weight_orig" in self.tensors
        weight = "flow.chain.0.net_s_t.0.weight_orig" if spectral else "flow.chain.0.net_s_t.0.weight"
        return {
            "flow_depth": self._agreed("latent_flow_depth", len(chain)),
            "flow_hidden_dim": self._agreed("latent_flow_hidden_dim", self._shape(weight)[0]),
            "spectral_norm": bool(self._agreed("spectral_norm", spectral)),
        }

    def _schedule(self) -> tuple[int, float, float]:
        """(T, beta_1, beta_T); the table is float32, so the arguments are nearer to what was meant."""
        table = self.tensors.get(f"{SCHEDULE}betas")
        if table is None or table.ndim != 1 or len(table) < 2:
            missing = [name for name in ("num_steps", "beta_1", "beta_T") if name not in self.args]
            if missing:
                raise self._error(missing[0], f"neither the arguments nor {SCHEDULE}betas say it")
            return int(self.args["num_steps"]), float(self.args["beta_1"]), float(self.args["beta_T"])
        steps = self._agreed("num_steps", len(table) - 1)
        ends = []
        for name, entry in (("beta_1", table[1]), ("beta_T", table[-1])):
            stored = float(f"{float(entry):.7g}")
            told = float(self.args.get(name, stored))
            if steps > 1 and abs(told - stored) > 1e-5 * stored:  # with T = 1 the table holds beta_1 alone
                raise self._error(name, f"the arguments say {told}, {SCHEDULE}betas says {stored}")
            ends.append(told)
        return steps, ends[0], ends[1]

    def _agreed(self, name: str, found: int) -> int:
        told = self.args.get(name, found)
        if told != found:
            raise self._error(name, f"the arguments say {told}, the tensors {found}")
        return found

    def _shape(self, key: str) -> torch.Size:
        if key not in self.tensors:
            raise PointCloudError(f"{self.source}: tensor {key} is missing")
        return self.tensors[key].shape

    def _error(self, field: str, message: str) -> PointCloudError:
        return PointCloudError(f"{self.source}: {field}: {message}")

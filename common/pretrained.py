"""`save_pretrained` / `from_pretrained`: a folder with `config.json` and `model.safetensors`, as in diffusers."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import importlib.metadata
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, Union

import torch
from torch import nn

from .weights import (
    WeightsError,
    load_foreign_state_dict,
    load_module_tensors,
    module_tensors,
    read_tensors,
    write_json,
    write_tensors,
)

__all__ = ["PretrainedModel", "WeightsError", "config_from_dict", "load_foreign_state_dict", "open_pretrained"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

T = TypeVar("T")


class PretrainedModel(nn.Module):
    """A module that knows how to save itself and be found again.

    A subclass names its frozen config dataclass, takes one as the only required argument of `__init__`, and keeps it:

        class PointTransformer(PretrainedModel):
            config_class = PointConfig
            packaged = {"procedural": "pretrained/procedural"}

            def __init__(self, config: PointConfig):
                super().__init__()
                self.config = config
    """

    config_class: ClassVar[type]
    packaged: ClassVar[Mapping[str, str]] = {}
    """Names of weights that ship inside the package: name -> folder, relative to the package of the class."""

    config: Any

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        half: bool = False,
        push_to_hub: bool = False,
        repo_id: str | None = None,
    ) -> Path:
        """Write `config.json` and `model.safetensors` into `folder` (made if missing) and return it.

        `half` stores float32 tensors as float16 (half the size; they are read back as float32); a value beyond the
        float16 range raises WeightsError. `push_to_hub` then uploads the folder to `repo_id` on the Hugging Face hub.
        """
        folder = Path(folder)
        if push_to_hub and not repo_id:
            raise ValueError("push_to_hub needs repo_id='owner/name'")
        tensors = module_tensors(self)
        if half:
            for name, tensor in tensors.items():
                if tensor.dtype is torch.float32:
                    tensors[name] = tensor.half()
                    if not torch.equal(tensors[name].isfinite(), tensor.isfinite()):
                        raise WeightsError(f"{name}: a value is beyond the float16 range; save with half=False")
        # Weights first: a folder whose config.json exists is complete.
        write_tensors(folder / WEIGHTS_FILE, tensors)
        write_json(
            folder / CONFIG_FILE,
            {
                "class": type(self).__name__,
                "trifold_version": importlib.metadata.version("trifold"),
                "config": dataclasses.asdict(self.config),
            },
        )
        if push_to_hub:
            from huggingface_hub import HfApi

            api = HfApi()
            api.create_repo(str(repo_id), exist_ok=True)
            api.upload_folder(
                repo_id=str(repo_id), folder_path=folder, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, "*.md"]
            )
        return folder

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Build the model from a packaged name, a local folder, or a repository on the Hugging Face hub.

        They are tried in this order ("./procedural", or a Path, is always the folder). Weights stored in half precision
        are read back as float32 unless `dtype` says otherwise. The model is returned in eval mode.

        Raises FileNotFoundError (no folder, no config, no weights) and WeightsError (another class, unknown or
        malformed config fields, weights that do not fit), naming the file and the field.
        """
        folder = cls._find_folder(path_or_repo_id, revision)
        saved, config_path = _read_config(folder), folder / CONFIG_FILE
        if saved["class"] != cls.__name__:
            raise WeightsError(f"{config_path}: 'class' is {saved['class']}, expected {cls.__name__}")
        model = cls(config_from_dict(cls.config_class, saved["config"], str(config_path)))
        load_module_tensors(model, read_tensors(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)
        return model.to(device=device, dtype=dtype).eval()

    @classmethod
    def packaged_folder(cls, name: str) -> Path | None:
        """The folder of weights that ship with the package under `name`, or None. A subclass may override it."""
        if name not in cls.packaged:
            return None
        module = importlib.import_module(cls.__module__)
        return Path(str(module.__file__)).parent / cls.packaged[name]

    @classmethod
    def _find_folder(cls, path_or_repo_id: str | Path, revision: str | None) -> Path:
        name = str(path_or_repo_id)
        shipped = cls.packaged_folder(name) if isinstance(path_or_repo_id, str) else None
        folder = shipped or Path(name).expanduser()
        if folder.is_dir():
            if revision is not None:
                raise ValueError(f"{name}: revision={revision!r} is for hub repositories, but this is a local folder")
            return folder
        if isinstance(path_or_repo_id, Path) or name.count("/") != 1 or name[0] in "./~":
            known = f"; packaged names: {', '.join(cls.packaged)}" if cls.packaged else ""
            raise FileNotFoundError(f"{name}: no such folder{known}; a hub repository is written 'owner/name'")
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, revision=revision, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))


def open_pretrained(
    path_or_repo_id: str | Path,
    classes: Sequence[type[PretrainedModel]],
    *,
    device: str | torch.device | None = None,
) -> PretrainedModel:
    """The model in a folder that holds one of several classes, told apart by its config; see `from_pretrained`.

    Raises as `from_pretrained`, and WeightsError for a class that is not among them. Packaged names are those of all.
    """
    name = str(path_or_repo_id)
    finder = next((cls for cls in classes if name in cls.packaged), classes[0])
    folder = finder._find_folder(path_or_repo_id, None)
    found = _read_config(folder)["class"]
    for cls in classes:
        if cls.__name__ == found:
            return cls.from_pretrained(folder, device=device)
    expected = " or ".join(cls.__name__ for cls in classes)
    raise WeightsError(f"{folder / CONFIG_FILE}: 'class' is {found}, expected {expected}")


# ---------------------------------------------------------------------------------------------- config from JSON


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no {CONFIG_FILE}; expected a folder written by save_pretrained")
    try:
        saved = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(saved, dict) or "class" not in saved or not isinstance(saved.get("config"), dict):
        raise WeightsError(f"{path}: expected the fields 'class' and 'config'")
    return saved


def config_from_dict(config_class: type[T], values: Mapping[str, Any], source: str) -> T:
    """Build a dataclass from parsed JSON: nested dataclasses, tuples, enums, Path, Literal and unions are restored.

    Raises WeightsError naming `source` and the field: unknown, missing, or of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise WeightsError(f"{source}: expected an object for {config_class.__name__}, found {values!r}")
    known = {field.name: field for field in dataclasses.fields(config_class) if field.init}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise WeightsError(
            f"{source}: {config_class.__name__} has no field {', '.join(unknown)}; fields: {', '.join(known)}"
        )
    hints = typing.get_type_hints(config_class)
    restored = {name: _restore(hints[name], value, f"{source}: {name}") for name, value in values.items()}
    try:
        return config_class(**restored)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{source}: {error}") from error


def _restore(hint: Any, value: Any, source: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _restore(option, value, source)
            except WeightsError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return config_from_dict(hint, value, source)
    elif origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(arguments) == len(value):
            return tuple(
                _restore(a, v, f"{source}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True))
            )
    elif origin is list and isinstance(value, list):
        return [_restore(arguments[0], v, f"{source}[{i}]") for i, v in enumerate(value)]
    elif origin is dict and isinstance(value, dict):
        return {k: _restore(arguments[1], v, f"{source}.{k}") for k, v in value.items()}
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value in [member.value for member in hint]:
            return hint(value)
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:  # not isinstance: True is no number of layers
        return value
    raise WeightsError(f"{source}: expected {getattr(hint, '__name__', hint)}, found {value!r}")

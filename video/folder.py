"""A Stable Diffusion folder in diffusers format: found, recognised, and its parts loaded.

    model_index.json  unet/  vae/  text_encoder/  tokenizer/  scheduler/

A folder of another kind is refused by name, before any weight is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..common.weights import WeightsError, load_foreign_state_dict
from .errors import VideoError
from .foreign import name_of_file, name_of_folder, name_of_pipeline
from .json_object import read_object
from .unet_config import check_unet2d

PACKAGED = ("sprites",)
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
EXPECTED = (
    "expected a Stable Diffusion 1.x or 2.x folder in diffusers format (model_index.json, unet/, vae/, text_encoder/, "
    "tokenizer/, scheduler/)"
)
_WEIGHTS = (".safetensors", ".bin")


def find_folder(source: str | Path, *, variant: str | None = None) -> Path:
    """The folder of a packaged name ("sprites"), a local path, or a repository "owner/name" on the Hugging Face hub.

    They are tried in this order ("./sprites" is always the folder). Of a repository only the parts of the pipeline
    are fetched, safetensors where it has them. Raises VideoError for a file, FileNotFoundError for nothing.
    """
    name = str(source)
    if name in PACKAGED and not isinstance(source, Path):
        folder = Path(__file__).parent / "pretrained" / name
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{name}: no model of that name lies in {folder.parent}; scripts/train_sprites.py makes it. Or name a "
                "Stable Diffusion folder"
            )
        return folder
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise VideoError(f"{folder}: this is {name_of_file(folder)}; {EXPECTED}")
    if isinstance(source, Path) or name.count("/") != 1 or name[0] in "./~":
        raise FileNotFoundError(
            f"{name}: no such folder; packaged names: {', '.join(PACKAGED)}; a hub repository is written 'owner/name'"
        )
    return _fetched(name, variant)


def _fetched(repository: str, variant: str | None) -> Path:
    """A hub repository's files, those fetched before where the hub cannot be asked."""
    from huggingface_hub import HfApi, snapshot_download

    reached = False
    try:
        files = HfApi().list_repo_files(repository)
        reached = True
        return Path(snapshot_download(repository, allow_patterns=needed_files(files, variant)))
    except Exception as error:  # what networks do to the client libraries is of many types
        if not reached:
            with suppress(OSError):
                return Path(snapshot_download(repository, local_files_only=True))
        raise FileNotFoundError(
            f"{repository}: no folder of that name, and nothing from the Hugging Face hub "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


def needed_files(files: Iterable[str], variant: str | None = None) -> list[str]:
    """Of a repository's files those that the pipeline is made of: configs, vocabularies, and one form of the weights.

    >>> needed_files(["model_index.json", "unet/config.json", "unet/w.bin", "unet/w.safetensors", "a.ckpt"])
    ['model_index.json', 'unet/config.json', 'unet/w.safetensors']
    """
    files = list(files)
    wanted = [name for name in files if name == "model_index.json"]
    for part in PARTS:
        inside = [name for name in files if name.startswith(f"{part}/") and name.count("/") == 1]
        names = [name.split("/")[1] for name in inside]
        chosen = _variant_of(names, variant)
        weights = [n for n in names if n.endswith(_WEIGHTS) and _variant_name(n) == chosen]
        safe = [n for n in weights if n.endswith(".safetensors")]
        wanted += [f"{part}/{n}" for n in names if n.endswith((".json", ".txt"))]
        wanted += [f"{part}/{n}" for n in safe or weights]
    return wanted


def check_kind(folder: Path, *, inflated: bool = False) -> None:
    """Raise VideoError, naming what was found, unless the folder is Stable Diffusion 1.x / 2.x.

    `inflated`: expect a Tune-A-Video folder instead, the same with an already inflated unet.
    """
    if not (folder / "model_index.json").is_file():
        raise VideoError(f"{folder}: this is {name_of_folder(folder)}; {EXPECTED}")
    index = read_object(folder / "model_index.json")
    if kind := name_of_pipeline(str(index.get("_class_name", "")), index):
        raise VideoError(f"{folder}: this is {kind}; {EXPECTED}")
    if missing := [part for part in PARTS if not (folder / part).is_dir()]:
        raise VideoError(f"{folder}: no {'/, '.join(missing)}/ in it; {EXPECTED}")
    unet, vae, text = (part_config(folder, part) for part in ("unet", "vae", "text_encoder"))
    _expect_class(folder / "vae", vae, "AutoencoderKL")
    channels = int(vae.get("latent_channels", 4))
    found = str(unet.get("_class_name", "UNet2DConditionModel"))
    is_3d = found == "UNet3DConditionModel"
    if is_3d and not inflated:
        raise VideoError(
            f"{folder}: this is a Tune-A-Video folder, its unet is already inflated (UNet3DConditionModel); "
            f"load it by TuneAVideo.from_pretrained; here, {EXPECTED}"
        )
    if inflated and not is_3d:
        raise VideoError(
            f"{folder / 'unet'}: found {found}, expected an inflated UNet3DConditionModel; "
            "a text-to-image folder is loaded by TuneAVideo.from_text_to_image"
        )
    if not is_3d:
        _expect_class(folder / "unet", unet, "UNet2DConditionModel")
        check_unet2d(unet, str(folder / "unet"))
    if int(unet.get("in_channels", 4)) != channels:
        raise VideoError(f"{folder}: unet/ takes {unet.get('in_channels')} channels, vae/ gives {channels}")
    width, told = unet.get("cross_attention_dim"), text.get("hidden_size")
    if isinstance(width, int) and isinstance(told, int) and width != told:
        raise VideoError(f"{folder}: text_encoder/ gives {told} channels, unet/ expects cross_attention_dim {width}")


def part_config(folder: Path, part: str) -> dict[str, Any]:
    """`config.json` of one part."""
    return read_object(folder / part / "config.json")


def load_vae(folder: Path, variant: str | None = None) -> Any:
    """The folder's AutoencoderKL, float32, frozen."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return _load(AutoencoderKL, folder, "vae", variant)


def load_unet(folder: Path, variant: str | None = None) -> Any:
    """The folder's UNet2DConditionModel, float32, frozen."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return _load(UNet2DConditionModel, folder, "unet", variant)


def load_text(folder: Path, variant: str | None = None) -> tuple[Any, Any]:
    """(CLIPTokenizer, CLIPTextModel float32, frozen)."""
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise ImportError("the text encoder needs transformers: pip install 'trifold[video]'") from error
    _expect_class(folder / "text_encoder", part_config(folder, "text_encoder"), "CLIPTextModel")
    place = folder / "tokenizer"
    if not any((place / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise VideoError(f"{place}: no vocabulary in it (tokenizer.json, or vocab.json and merges.txt)")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # damaged files raise anything there, a plain Exception too
        raise VideoError(f"{place}: no CLIP tokenizer could be read ({_first_line(error)})") from error
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a bar of the weights' names, gone in a blink
    try:
        text_encoder = _load(CLIPTextModel, folder, "text_encoder", variant)
    finally:
        if shown:
            logging.enable_progress_bar()
    if len(tokenizer) > text_encoder.config.vocab_size:
        raise VideoError(f"{place}: {len(tokenizer)} tokens, text_encoder/ knows {text_encoder.config.vocab_size}")
    return tokenizer, text_encoder


def _load(cls: Any, folder: Path, part: str, variant: str | None) -> Any:
    """One part through its library's own loader (shards, safetensors or weights_only pickles), and nothing left out.

    The libraries only warn about weights that a file lacks and leave them random.
    """
    import torch

    place = folder / part
    names = [entry.name for entry in place.iterdir()]
    chosen = _variant_of(names, variant)
    options: dict[str, Any] = {"dtype": torch.float32} if part == "text_encoder" else {"torch_dtype": torch.float32}
    options["use_safetensors"] = any(n.endswith(".safetensors") and _variant_name(n) == chosen for n in names)
    try:
        model, info = cls.from_pretrained(
            place, variant=chosen, local_files_only=True, output_loading_info=True, **options
        )
    except ImportError:
        raise
    except Exception as error:  # what damaged or hostile files raise there is of many types
        files = [place / n for n in names if n.endswith(_WEIGHTS) and _variant_name(n) == chosen]
        # Where git-lfs has left a pointer in place of the weights, diffusers says so.
        why = ("git-lfs" not in str(error) and _damage(files)) or _first_line(error)
        raise VideoError(f"{place}: its weights could not be loaded ({why})") from error
    problems = []
    for title in ("missing", "unexpected", "mismatched"):
        names = sorted(str(k) for k in info.get(f"{title}_keys", []) if not str(k).endswith("position_ids"))
        if names:
            problems.append(f"{len(names)} {title}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}")
    if problems:
        raise VideoError(f"{place}: its weights do not fit its config.json: {'; '.join(problems)}")
    return model.eval().requires_grad_(False)


def _damage(files: Iterable[Path]) -> str:
    """What is wrong with the first of these weight files that is cut short, or no file of tensors; "" if none is."""
    for path in sorted(files):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):  # reads the header, which tells how long the file must be
                    pass
            else:
                load_foreign_state_dict(path)
        except SafetensorError as error:
            return f"{path.name} is cut short or damaged: {_first_line(error)}"
        except WeightsError as error:
            return _first_line(error)
    return ""


def _variant_of(names: Sequence[str], variant: str | None) -> str | None:
    """The variant to load: the one asked for where this part has it, else the plain files, else the only one there."""
    present = {_variant_name(name) for name in names if name.endswith(_WEIGHTS)}
    if variant in present or None in present:
        return variant if variant in present else None
    present.discard(None)
    return next(iter(present)) if len(present) == 1 else variant


def _variant_name(name: str) -> str | None:
    """ "fp16" of model.fp16.safetensors and of model.fp16-00001-of-00002.safetensors; None of a plain file."""
    pieces = name.split(".")
    return pieces[-2].split("-0")[0] if len(pieces) > 2 else None


def _expect_class(place: Path, config: dict[str, Any], wanted: str) -> None:
    # transformers writes "architectures", diffusers "_class_name"; old files have neither.
    found = config.get("_class_name") or (config.get("architectures") or [wanted])[0]
    if found != wanted:
        raise VideoError(f"{place}: found {found}, expected {wanted}; {EXPECTED}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

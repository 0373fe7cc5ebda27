"""Which parameters of an inflated UNet are tuned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn

from .errors import VideoError

if TYPE_CHECKING:
    from .unet import InflatedUNet

Selection = Literal["queries_and_temporal", "published_checkpointing", "temporal", "all"]

QUERIES = ("attn1.to_q", "attn2.to_q")
TEMPORAL = ("attn_temp",)


def select_trainable(unet: InflatedUNet, selection: Selection | Sequence[str] = "queries_and_temporal") -> list[str]:
    """Set `requires_grad` of exactly the selected parameters and return their names in the net's order.

    Parameters whose memory is the image UNet's get their own, so that tuning leaves the image UNet as it is.

    Args:
        selection: "queries_and_temporal": the queries of attn1 and attn2 and all of the temporal attention, but not
            its norm (Wu et al. 2023, section 3.3); "published_checkpointing": the same without the down blocks, which
            got no gradient from the original's program in its default settings, gradient checkpointing on;
            "temporal": the temporal attention; "all"; or a list of endings of module names, such as
            `["attn1.to_q", "attn_temp"]`.

    Raises:
        VideoError: for an unknown selection, and for an ending that no module has.
    """
    names = trainable_names(unet, selection)
    own_parameters(unet, names)
    chosen = set(names)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name in chosen)
    return names


def trainable_names(unet: nn.Module, selection: Selection | Sequence[str] = "queries_and_temporal") -> list[str]:
    """What `select_trainable` would select, changing nothing."""
    if not isinstance(selection, str):
        return matching_parameters(unet, selection)
    match selection:
        case "queries_and_temporal":
            return matching_parameters(unet, (*QUERIES, *TEMPORAL))
        case "published_checkpointing":
            tuned = matching_parameters(unet, (*QUERIES, *TEMPORAL))
            return [name for name in tuned if not name.startswith("down_blocks.")]
        case "temporal":
            return matching_parameters(unet, TEMPORAL)
        case "all":
            return [name for name, _ in unet.named_parameters()]
    raise VideoError(
        f"selection: expected one of {', '.join(get_args(Selection))} or a list of module endings, found {selection!r}"
    )


def matching_parameters(unet: nn.Module, endings: Iterable[str]) -> list[str]:
    """Names of all parameters inside modules whose name has one of the endings."""
    endings = tuple(endings)
    inside: dict[str, list[str]] = {
        ending: [name for name, _ in unet.named_modules() if name.endswith(ending)] for ending in endings
    }
    absent = [ending for ending, modules in inside.items() if not modules]
    if absent or not endings:
        raise VideoError(f"selection: no module of the net has a name that ends in {', '.join(absent) or 'nothing'}")
    prefixes = tuple(f"{module}." for modules in inside.values() for module in modules)
    return [name for name, _ in unet.named_parameters() if name.startswith(prefixes)]


def own_parameters(unet: InflatedUNet, names: Iterable[str]) -> None:
    """Give these parameters memory of their own where it is another module's."""
    parameters = dict(unet.named_parameters())
    for name in sorted(unet.borrowed.intersection(names)):
        with torch.no_grad():
            parameters[name].data = parameters[name].data.clone()
        unet.borrowed.discard(name)

"""Text-driven video editing: Tune-A-Video (Wu et al., ICCV 2023) on the shared core.

Importing this loads neither diffusers nor a video decoder; the names below load what they need when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .clip import Audio, Clip
from .errors import VideoError
from .read import read_clip

if TYPE_CHECKING:
    from .pipeline import TuneAVideo
    from .text_to_image import TextToImage
    from .tuning import VideoTuning

__all__ = ["Audio", "Clip", "TextToImage", "TuneAVideo", "VideoError", "VideoTuning", "read_clip"]

_LATER = {"TextToImage": ".text_to_image", "TuneAVideo": ".pipeline", "VideoTuning": ".tuning"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name], __name__), name)

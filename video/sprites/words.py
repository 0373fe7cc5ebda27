"""The words of the sprites world: what a scene is made of, and the English sentence that says it."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, fields

import numpy as np

from ..errors import VideoError

# Every attribute: its values, and what a caption says for each. "" = what is meant where nothing is said.
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
TEXTURES = {"plain": "", "striped": "striped", "dotted": "dotted", "checkered": "checkered"}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon", "fish", "house", "car", "robot")
SIZES = {"small": "small", "medium": "", "large": "large"}
MOTIONS = {
    "still": "",
    "left": "moving to the left",
    "right": "moving to the right",
    "up": "moving up",
    "down": "moving down",
    "bouncing": "bouncing",
    "spinning": "spinning",
    "circling": "flying in circles",
}
BACKGROUNDS = {
    "night": "under a night sky",
    "meadow": "on a meadow",
    "desert": "in the desert",
    "sea": "under the sea",
    "bricks": "in front of a brick wall",
    "snow": "in the snow",
    "sunset": "at sunset",
    "room": "in a plain room",
}
STYLES = {
    "flat": "",
    "cartoon": "cartoon style",
    "pixel": "pixel art style",
    "watercolour": "watercolour style",
    "neon": "neon style",
}

VALUES: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "texture": tuple(TEXTURES),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "motion": tuple(MOTIONS),
    "background": tuple(BACKGROUNDS),
    "style": tuple(STYLES),
}
"""Attribute -> its values, in the order of a classifier's outputs."""

VISIBLE = ("colour", "texture", "shape", "size", "background", "style")
"""The attributes that one frame shows; motion needs a clip."""

SPOKEN_DEFAULTS = {"texture": "plain", "size": "medium-sized", "motion": "standing still", "style": "flat style"}
HELD_OUT_SHARE = 16  # one in so many (colour, shape, background) triples is never trained on


@dataclass(frozen=True)
class Scene:
    """One sprite, doing one thing, before one background. `seed` fixes all that has no word: places, paths, shades.

    Two scenes that differ in a word and share their seed are a perfect edit of one another: same path, same ground.
    Raises VideoError for a value that its attribute does not have.
    """

    colour: str = "red"
    texture: str = "plain"
    shape: str = "circle"
    size: str = "medium"
    motion: str = "still"
    background: str = "room"
    style: str = "flat"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in VALUES.items():
            if getattr(self, name) not in values:
                raise VideoError(f"{name}: expected one of {', '.join(values)}, found {getattr(self, name)!r}")

    @property
    def is_held_out(self) -> bool:
        """Whether this combination of colour, shape and background is kept out of training."""
        triple = f"{self.colour}/{self.shape}/{self.background}"
        return zlib.crc32(triple.encode()) % HELD_OUT_SHARE == 0


def sample_scene(index: int, *, held_out: bool | None = False) -> Scene:
    """Scene number `index`: all attributes uniform and independent.

    held_out: False draws among the combinations for training, True among those kept out of it, None among all.
    """
    rng = np.random.default_rng((index, 0x5C3))
    while True:
        words = {name: values[int(rng.integers(len(values)))] for name, values in VALUES.items()}
        scene = Scene(**words, seed=int(rng.integers(2**31)))
        if held_out is None or scene.is_held_out == held_out:
            return scene


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """The sentence that says the scene: "a large red striped star moving up under a night sky, neon style".

    Without `rng` it is complete: what it does not say is plain, medium, still or flat. With `rng` it varies as
    people do: defaults are sometimes spoken, and motion (half of the time) or background (one in ten) left open.
    """

    def word(name: str, said: str) -> str:
        if not said and rng is not None and rng.random() < 0.15:
            return SPOKEN_DEFAULTS[name]
        return said

    motion = word("motion", MOTIONS[scene.motion])
    background = BACKGROUNDS[scene.background]
    if rng is not None:
        motion = motion if rng.random() < 0.5 else ""
        background = background if rng.random() < 0.9 else ""
    subject = [word("size", SIZES[scene.size]), scene.colour, word("texture", TEXTURES[scene.texture]), scene.shape]
    phrase = " ".join(part for part in (*subject, motion, background) if part)
    article = "an" if phrase[0] in "aeiou" else "a"
    style = word("style", STYLES[scene.style])
    return f"{article} {phrase}" + (f", {style}" if style else "")


def attributes_of(prompt: str) -> dict[str, str]:
    """The attributes that a prompt names, by whole phrases: "a blue star" -> {"colour": "blue", "shape": "star"}.

    What is not said is not in the result, except that texture, size and style then have their defaults.
    """
    text = " ".join(re.findall(r"[a-z-]+", prompt.lower()))
    said: dict[str, str] = {}
    phrases: dict[str, dict[str, str]] = {
        "colour": {value: value for value in COLOURS},
        "shape": {value: value for value in SHAPES},
        "texture": {value: phrase for value, phrase in TEXTURES.items() if phrase},
        "size": {value: phrase for value, phrase in SIZES.items() if phrase},
        "motion": {value: phrase for value, phrase in MOTIONS.items() if phrase},
        "background": BACKGROUNDS,
        "style": {value: phrase for value, phrase in STYLES.items() if phrase},
    }
    for name, table in phrases.items():
        for value, phrase in table.items():
            if re.search(rf"\b{re.escape(phrase)}\b", text):
                said[name] = value
    defaults = {field.name: field.default for field in fields(Scene)}
    for name in ("texture", "size", "style"):
        said.setdefault(name, str(defaults[name]))
    return said

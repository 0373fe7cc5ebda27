"""From a scene to pictures, and to what no camera tells: exact masks and exact motion."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clip import Clip
from ..errors import VideoError
from .backgrounds import GROUNDS
from .shapes import DETAILS, OUTLINES
from .words import Scene, caption

Array = NDArray[np.floating[Any]]

PAINT: dict[str, tuple[int, int, int]] = {
    "red": (218, 30, 38),
    "orange": (250, 132, 20),
    "yellow": (252, 222, 40),
    "green": (28, 150, 52),
    "blue": (34, 84, 224),
    "purple": (134, 44, 186),
    "pink": (255, 128, 190),
    "white": (246, 246, 246),
}
RADII = {"small": 0.16, "medium": 0.23, "large": 0.31}  # half width of a sprite, in sides of the picture
FPS = Fraction(8)


@dataclass(frozen=True)
class SpriteClip:
    """A rendered clip with its ground truth.

    masks: bool [F, H, W], where the sprite is. flow: float32 [F - 1, H, W, 2], pixels to the right and downwards from
    frame i to frame i + 1 at the pixels of frame i; zero off the sprite, whose background stands still.
    """

    clip: Clip
    masks: NDArray[np.bool_]
    flow: Array
    caption: str
    scene: Scene


@dataclass(frozen=True)
class Path:
    """Where the sprite is in every frame: centres [F, 2] in sides of the picture, angles [F] in radians (clockwise),
    mirrored: the sprite looks to the left."""

    centres: NDArray[np.float64]
    angles: NDArray[np.float64]
    radius: float
    mirrored: bool


def sprite_path(scene: Scene, num_frames: int) -> Path:
    """The whole motion, once per clip, however many frames it has."""
    rng = np.random.default_rng((scene.seed, 1))
    radius = RADII[scene.size] * rng.uniform(0.93, 1.07)
    u = np.linspace(0, 1, num_frames) if num_frames > 1 else np.zeros(1)
    low, high = radius + 0.03, 1 - radius - 0.03
    # The seed alone decides these, so that another word for size or motion moves the sprite as little as it can.
    place, length, phase = rng.random(2), rng.uniform(0.75, 1.0), rng.uniform(0, 2 * np.pi)
    home = low + (high - low) * (0.15 + 0.7 * place)
    x, y = np.full(num_frames, home[0]), np.full(num_frames, home[1])
    angles = np.full(num_frames, rng.uniform(-0.12, 0.12))
    reach = (high - low) * length
    way = 0.5 - reach / 2 + reach * u
    match scene.motion:
        case "right":
            x = way
        case "left":
            x = way[::-1]
        case "down":
            y = way
        case "up":
            y = way[::-1]
        case "bouncing":
            y = high - (high - low) * 0.8 * length * np.abs(np.sin(2 * np.pi * u + phase))
        case "spinning":
            angles = phase + 1.5 * np.pi * u
        case "circling":
            orbit = 0.5 * (high - low) * length
            x, y = 0.5 + orbit * np.cos(2 * np.pi * u + phase), 0.5 + orbit * np.sin(2 * np.pi * u + phase)
    return Path(np.stack([x, y], axis=1), angles, radius, scene.motion == "left")


def sprite_clip(scene: Scene, num_frames: int = 8, size: int = 64, *, frames: list[int] | None = None) -> SpriteClip:
    """Render `num_frames` frames of `size` x `size` pixels at 8 frames per second.

    frames: render only these of them (a training set of single pictures needs one); their flow is empty then.
    Raises VideoError for less than one frame or a side under 16 pixels.
    """
    if num_frames < 1 or size < 16:
        raise VideoError(f"sprite_clip: expected num_frames >= 1 and size >= 16, found {num_frames} and {size}")
    path = sprite_path(scene, num_frames)
    centre = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centre, centre)
    ground = GROUNDS[scene.background](x, y, np.random.default_rng((scene.seed, 2)))
    wanted = list(range(num_frames)) if frames is None else frames
    painted = [_paint(scene, path, i, x, y, ground) for i in wanted]
    pictures = np.stack([np.clip(np.rint(picture), 0, 255).astype(np.uint8) for picture, _ in painted])
    masks = np.stack([mask for _, mask in painted])
    if frames is None:
        flow = np.stack([_flow(path, i, x, y, masks[i]) for i in range(num_frames - 1)]) if num_frames > 1 else None
    else:
        flow = None
    words = caption(scene)
    exact = np.zeros((0, size, size, 2), np.float32) if flow is None else flow
    return SpriteClip(Clip(frames=pictures, fps=FPS, name=words), masks, exact, words, scene)


def _local(path: Path, i: int, x: Array, y: Array) -> tuple[Array, Array]:
    """The pixels in the sprite's own coordinates, in units of its half width."""
    cos, sin = np.float32(np.cos(path.angles[i])), np.float32(np.sin(path.angles[i]))
    dx = (x - np.float32(path.centres[i, 0])) / np.float32(path.radius)
    dy = (y - np.float32(path.centres[i, 1])) / np.float32(path.radius)
    across = cos * dx + sin * dy
    return (-across if path.mirrored else across), -sin * dx + cos * dy


def _paint(scene: Scene, path: Path, i: int, x: Array, y: Array, ground: Array) -> tuple[Array, NDArray[np.bool_]]:
    size = len(x)
    pixels = np.float32(path.radius * size)  # of the sprite's half width
    u, v = _local(path, i, x, y)
    distance = OUTLINES[scene.shape](u, v)

    def cover(d: Array) -> Array:
        return np.clip(0.5 - d * pixels, 0, 1).astype(np.float32)[..., None]

    shade = np.random.default_rng((scene.seed, 3)).uniform(-10, 10, 3).astype(np.float32)
    paint = np.clip(np.asarray(PAINT[scene.colour], np.float32) + shade, 0, 255)
    skin = paint + _second(scene.texture, u, v, pixels) * (_partner(paint) - paint)
    picture = ground
    if scene.style == "neon":
        picture = ground * np.float32(0.3)
        halo = np.exp(-np.maximum(distance, 0) * 4.0).astype(np.float32)[..., None]
        picture = picture + (paint * np.float32(1.1) - picture) * np.float32(0.85) * halo
        skin = np.minimum(skin * 1.12 + 12, 255)
    if scene.style == "cartoon":
        rim = max(2.2 * size / 64 / float(pixels), 0.1)
        picture = picture + cover(distance - np.float32(rim)) * (np.float32(8) - picture)
    picture = picture + cover(distance) * (skin - picture)
    for detail, colour in DETAILS.get(scene.shape, ()):
        picture = picture + cover(np.maximum(detail(u, v), distance)) * (np.asarray(colour, np.float32) - picture)
    if scene.style == "watercolour":
        picture = _watercolour(picture, x, y)
    if scene.style == "pixel":
        picture = _mosaic(picture, max(size // 32, 1))
    return picture, distance < 0


def _partner(paint: Array) -> Array:
    """The second colour of a texture: the same hue, much darker."""
    return paint * np.float32(0.42)


def _second(texture: str, u: Array, v: Array, pixels: np.float32) -> Array:
    """[H, W, 1] in [0, 1]: where the second colour of a texture shows."""

    def ramp(value: Array, steepness: float) -> Array:
        return np.clip(0.5 + value * pixels * np.float32(steepness), 0, 1).astype(np.float32)[..., None]

    match texture:
        case "striped":
            return ramp(np.sin(v * np.float32(2 * np.pi / 0.62)) * np.float32(0.1), 1.0)
        case "dotted":
            nearest_u, nearest_v = (u / 0.56) % 1 - 0.5, (v / 0.56) % 1 - 0.5
            return ramp((np.float32(0.3) - np.hypot(nearest_u, nearest_v)) * np.float32(0.56), 1.0)
        case "checkered":
            product = np.sin(u * np.float32(np.pi / 0.45)) * np.sin(v * np.float32(np.pi / 0.45))
            return ramp(product * np.float32(0.14), 1.0)
    return np.zeros((*u.shape, 1), np.float32)


def _watercolour(picture: Array, x: Array, y: Array) -> Array:
    """Paler, blurred, on paper with a grain."""
    size = len(x)
    steps = max(size // 64, 1)
    for axis in (0, 1):
        padded = np.pad(picture, [(steps, steps) if a == axis else (0, 0) for a in range(3)], mode="edge")
        shifted = [padded.take(range(k, k + size), axis=axis) for k in (0, steps, 2 * steps)]
        picture = (shifted[0] + 2 * shifted[1] + shifted[2]) / 4
    grain = np.sin(x * 97 + 3 * np.sin(y * 61)) * np.sin(y * 89 + 3 * np.sin(x * 71))
    return (picture * 0.68 + 255 * 0.32 + 4 * grain[..., None]).astype(np.float32)


def _mosaic(picture: Array, block: int) -> Array:
    """Blocks of one colour each, and few shades."""
    side = len(picture) // block * block
    cells = picture[:side, :side].reshape(side // block, block, side // block, block, 3)[:, block // 2, :, block // 2]
    cells = np.rint(cells / 36) * 36
    coarse = cells.repeat(block, 0).repeat(block, 1)
    return np.pad(coarse, [(0, len(picture) - side), (0, len(picture) - side), (0, 0)], mode="edge")


def _flow(path: Path, i: int, x: Array, y: Array, mask: NDArray[np.bool_]) -> Array:
    """Rigid motion of the sprite from frame i to i + 1, in pixels."""
    turn = path.angles[i + 1] - path.angles[i]
    cos, sin = np.cos(turn), np.sin(turn)
    dx, dy = x - path.centres[i, 0], y - path.centres[i, 1]
    moved_x = path.centres[i + 1, 0] + cos * dx - sin * dy
    moved_y = path.centres[i + 1, 1] + sin * dx + cos * dy
    return (np.stack([moved_x - x, moved_y - y], axis=-1) * len(x) * mask[..., None]).astype(np.float32)

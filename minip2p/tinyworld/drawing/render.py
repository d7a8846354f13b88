"""Rendering a scene: backdrop, things, the weather in front of them, and the medium applied to the whole image."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from .backdrops import MISTS, THING_LIGHT, backdrop
from .pen import Pen
from .things import sprite

CENTRES = {"left": 0.22, "middle": 0.50, "right": 0.78}
GROUND = {"left": 0.84, "middle": 0.95, "right": 0.84}  # the y of its bottom: the middle is nearer to the viewer
WIDTHS = {"small": 0.29, "big": 0.41}


def render(scene, size: int = 128) -> Image.Image:
    """Draw a Scene: (size, size) RGB, deterministic.

    It is drawn at 2 or 4 times the size and reduced (antialiasing). ValueError unless 16 <= size <= 2048.
    """
    if not isinstance(size, (int, np.integer)) or not 16 <= size <= 2048:
        raise ValueError(f"size {size!r}: expected a whole number of pixels from 16 to 2048 (64 to 512 look best)")
    size = int(size)
    fine = 4 if size <= 256 else 2
    image = backdrop(scene.setting, scene.time, scene.weather, size, fine).copy()
    for thing in sorted(scene.things, key=lambda t: GROUND[t.place]):
        width = round(WIDTHS[thing.size] * size)
        drawn = sprite(thing.kind, thing.colour, THING_LIGHT[scene.time], width, fine)
        margin = (drawn.width - width) / 2
        left, top = CENTRES[thing.place] * size - drawn.width / 2, GROUND[thing.place] * size - width - margin
        image.paste(drawn, (round(left), round(top)), drawn)
    effect = MEDIUM_EFFECTS[scene.medium]
    if scene.weather == "clear":
        return effect(image, image)
    veil, seen = _veil(scene.weather, scene.time, size, fine), image.copy()
    seen.paste(veil, (0, 0), veil)
    return effect(seen, image)


# ---- weather

RAINDROPS = ((0.05, 0.02), (0.19, 0.07), (0.11, 0.15))  # in a tile 1/4 of the image wide
FLAKES = ((0.05, 0.05, 0.026), (0.18, 0.09, 0.020), (0.10, 0.18, 0.023))


@lru_cache(maxsize=64)
def _veil(weather: str, time: str, size: int, fine: int) -> Image.Image:
    """Rain, snow or fog in front of everything, RGBA.

    The pattern is fixed and repeats every quarter of the width, so that a small network can memorise it.
    """
    if weather == "fog":  # thin: most of the fog is in the backdrop, behind the things
        return Image.new("RGBA", (size, size), MISTS[time] + (56,))
    pen = Pen(size, fine)
    for tx in range(-1, 5):
        for ty in range(-1, 5):
            if weather == "rain":
                for x, y in RAINDROPS:
                    x, y = x + tx / 4, y + ty / 4
                    pen.line([(x + 0.03, y), (x, y + 0.10)], (206, 224, 250, 190), 0.020)
            else:
                for x, y, r in FLAKES:
                    pen.oval(x + tx / 4, y + ty / 4, r, r, (255, 255, 255, 240))
    return pen.done()


# ---- media: functions of the image, and of the image without the weather in front


def _floats(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32) / 255


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray((values.clip(0, 1) * 255 + 0.5).astype(np.uint8))


@lru_cache(maxsize=16)
def _hatching(size: int) -> np.ndarray:
    """Pencil strokes from top right to bottom left, eight across: factors around 1, (size, size, 1)."""
    u = (np.arange(size, dtype=np.float32) + 0.5) / size
    return (1 + 0.12 * np.sin(2 * np.pi * 8 * (u[None] + u[:, None])))[..., None]


@lru_cache(maxsize=16)
def _paper_edge(size: int) -> np.ndarray:
    """Coverage by paint, (size, size, 1): 1 inside, falling to 0 at a soft, wavy margin."""
    u = (np.arange(size, dtype=np.float32) + 0.5) / size
    near = np.minimum(u, 1 - u)
    wave = 0.012 * np.sin(2 * np.pi * 3 * u)
    inside = np.minimum(near[None] + wave[:, None], near[:, None] + wave[None])
    return ((inside - 0.015) / 0.035).clip(0, 1)[..., None]


def _edges(values: np.ndarray) -> np.ndarray:
    """Strength of the edges, (h, w, 1) in [0, 1]."""
    grey, d = values.mean(-1), max(1, len(values) // 128)
    grey = np.pad(grey, d, mode="edge")
    strength = abs(grey[2 * d :, d:-d] - grey[: -2 * d, d:-d]) + abs(grey[d:-d, 2 * d :] - grey[d:-d, : -2 * d])
    return (1.2 * strength - 0.15).clip(0, 1)[..., None]


def _pencil(image: Image.Image, bare: Image.Image) -> Image.Image:
    values, paper = _floats(image), np.float32([0.99, 0.97, 0.92])
    ink = (1 - values) * 0.82 * _hatching(image.width)
    return _image(paper * (1 - ink) * (1 - 0.5 * _edges(_floats(bare))))  # no outlines around snowflakes


def _watercolour(image: Image.Image, bare: Image.Image) -> Image.Image:
    wet = image.filter(ImageFilter.GaussianBlur(0.005 * image.width))
    wide = _floats(image.filter(ImageFilter.GaussianBlur(0.05 * image.width)))
    values = _floats(wet)
    values = 1 - (1 - values - 0.5 * (values - wide)) * 0.80  # paint gathers at the rim of a wash
    paint = _paper_edge(image.width)
    return _image(values * paint + np.float32([0.99, 0.98, 0.95]) * (1 - paint))


def _pixel_art(image: Image.Image, bare: Image.Image) -> Image.Image:
    size = image.width
    blocks = ImageEnhance.Color(image.resize((32, 32), Image.Resampling.BOX)).enhance(1.25)
    steps = np.round(_floats(blocks) * 6) / 6  # a small palette
    return _image(steps).resize((size, size), Image.Resampling.NEAREST)


def _plain(image: Image.Image, bare: Image.Image) -> Image.Image:
    return image


MEDIUM_EFFECTS = {"plain": _plain, "pencil": _pencil, "watercolour": _watercolour, "pixel": _pixel_art}

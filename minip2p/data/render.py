"""A scene as a picture: backdrop, things, weather in front of them, and the medium over it all."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from .backdrops import MISTS, THING_LIGHT, backdrop
from .pen import Pen
from .things import sprite

CENTRES = {"left": 0.22, "middle": 0.50, "right": 0.78}
GROUND = {"left": 0.84, "middle": 0.95, "right": 0.84}      # where it stands: the middle is nearer, and in front
WIDTHS = {"small": 0.29, "big": 0.41}


def render(scene, size: int = 64) -> Image.Image:
    """Paint a Scene: (size, size) RGB, the same pixels every time.

    Drawn larger and reduced, so that edges are smooth. ValueError unless 16 <= size <= 2048.
    """
    if not isinstance(size, (int, np.integer)) or not 16 <= size <= 2048:
        raise ValueError(f"size is {size!r}; expected a whole number of pixels from 16 to 2048 (64 to 512 look best)")
    size = int(size)
    fine = 4 if size <= 256 else 2
    picture = backdrop(scene.setting, scene.time, scene.weather, size, fine).copy()
    for thing in sorted(scene.things, key=lambda t: GROUND[t.place]):
        width = round(WIDTHS[thing.size] * size)
        drawn = sprite(thing.kind, thing.colour, THING_LIGHT[scene.time], width, fine)
        margin = (drawn.width - width) / 2
        left, top = CENTRES[thing.place] * size - drawn.width / 2, GROUND[thing.place] * size - width - margin
        picture.paste(drawn, (round(left), round(top)), drawn)
    effect = MEDIUM_EFFECTS[scene.medium]
    if scene.weather == "clear":
        return effect(picture, picture)
    veil, seen = _veil(scene.weather, scene.time, size, fine), picture.copy()
    seen.paste(veil, (0, 0), veil)
    return effect(seen, picture)


# ---- weather

RAINDROPS = ((0.05, 0.02), (0.19, 0.07), (0.11, 0.15))                # in a tile 1/4 of the picture wide
FLAKES = ((0.05, 0.05, 0.026), (0.18, 0.09, 0.020), (0.10, 0.18, 0.023))


@lru_cache(maxsize=64)
def _veil(weather: str, time: str, size: int, fine: int) -> Image.Image:
    """What the weather puts in front of everything, RGBA.

    Its pattern is always the same and repeats four times across, so that a small network can learn it by heart.
    """
    if weather == "fog":                            # thin: most of the fog is in the backdrop, behind the things
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


# ---- media. Each is a function of the picture and of the picture without the weather in front.

def _floats(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float32) / 255


def _picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray((values.clip(0, 1) * 255 + 0.5).astype(np.uint8))


@lru_cache(maxsize=16)
def _hatching(size: int) -> np.ndarray:
    """Pencil strokes from top right to bottom left, (size, size, 1) about 1; eight to the width."""
    u = (np.arange(size, dtype=np.float32) + 0.5) / size
    return (1 + 0.12 * np.sin(2 * np.pi * 8 * (u[None] + u[:, None])))[..., None]


@lru_cache(maxsize=16)
def _paper_edge(size: int) -> np.ndarray:
    """How much paint there is, (size, size, 1): 1 inside, 0 at a soft, wavy margin."""
    u = (np.arange(size, dtype=np.float32) + 0.5) / size
    near = np.minimum(u, 1 - u)
    wave = 0.012 * np.sin(2 * np.pi * 3 * u)
    inside = np.minimum(near[None] + wave[:, None], near[:, None] + wave[None])
    return ((inside - 0.015) / 0.035).clip(0, 1)[..., None]


def _edges(values: np.ndarray) -> np.ndarray:
    """Strength of the outlines, (h, w, 1) in 0..1."""
    grey, d = values.mean(-1), max(1, len(values) // 128)
    grey = np.pad(grey, d, mode="edge")
    strength = abs(grey[2 * d:, d:-d] - grey[:-2 * d, d:-d]) + abs(grey[d:-d, 2 * d:] - grey[d:-d, :-2 * d])
    return (1.2 * strength - 0.15).clip(0, 1)[..., None]


def _pencil(picture: Image.Image, bare: Image.Image) -> Image.Image:
    values, paper = _floats(picture), np.float32([0.99, 0.97, 0.92])
    ink = (1 - values) * 0.82 * _hatching(picture.width)
    return _picture(paper * (1 - ink) * (1 - 0.5 * _edges(_floats(bare))))    # no outline about a snowflake


def _watercolour(picture: Image.Image, bare: Image.Image) -> Image.Image:
    wet = picture.filter(ImageFilter.GaussianBlur(0.005 * picture.width))
    wide = _floats(picture.filter(ImageFilter.GaussianBlur(0.05 * picture.width)))
    values = _floats(wet)
    values = 1 - (1 - values - 0.5 * (values - wide)) * 0.80      # paint gathers at the rim of a wash
    paint = _paper_edge(picture.width)
    return _picture(values * paint + np.float32([0.99, 0.98, 0.95]) * (1 - paint))


def _pixel_art(picture: Image.Image, bare: Image.Image) -> Image.Image:
    size = picture.width
    blocks = ImageEnhance.Color(picture.resize((32, 32), Image.Resampling.BOX)).enhance(1.25)
    steps = np.round(_floats(blocks) * 6) / 6       # a small palette
    return _picture(steps).resize((size, size), Image.Resampling.NEAREST)


def _plain(picture: Image.Image, bare: Image.Image) -> Image.Image:
    return picture


MEDIUM_EFFECTS = {"plain": _plain, "pencil": _pencil, "watercolour": _watercolour, "pixel": _pixel_art}

"""Drawing in unit coordinates: (0, 0) is the top left corner and (1, 1) the bottom right one, at any size."""

from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, ...]  # red, green, blue and optionally alpha, 0..255


def mix(a: Colour, b: Colour, weight: float) -> Colour:
    """Linear interpolation from a (weight 0) to b (weight 1), without alpha."""
    return tuple(round(x + (y - x) * weight) for x, y in zip(a[:3], b[:3]))


def tint(a: Colour, light: tuple[float, float, float]) -> Colour:
    """The colour in coloured light (three factors)."""
    return tuple(min(255, round(x * f)) for x, f in zip(a, light))


def arc(cx: float, cy: float, rx: float, ry: float, start: float = 0, end: float = 360, n: int = 32) -> list:
    """Points of an elliptic arc, degrees clockwise from the right (y points down)."""
    angles = [(start + (end - start) * i / n) * pi / 180 for i in range(n + 1)]
    return [(cx + rx * cos(a), cy + ry * sin(a)) for a in angles]


class Pen:
    """A square image of `side` pixels, drawn `fine` times larger; reducing it smooths the edges."""

    def __init__(self, side: int, fine: int, ground: Image.Image | None = None, margin: float = 0.0):
        self.fine = fine
        self.image = ground or Image.new("RGBA", (side * fine,) * 2, (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.image)
        self.scale, self.margin = self.image.width / (1 + 2 * margin), margin

    def _at(self, points) -> list:
        return [((x + self.margin) * self.scale, (y + self.margin) * self.scale) for x, y in points]

    def shape(self, points, fill: Colour) -> None:
        self.draw.polygon(self._at(points), fill=fill)

    def oval(self, cx: float, cy: float, rx: float, ry: float, fill: Colour) -> None:
        self.draw.ellipse([c for p in self._at([(cx - rx, cy - ry), (cx + rx, cy + ry)]) for c in p], fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.shape([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    def line(self, points, fill: Colour, width: float) -> None:
        """A stroke with round joints and ends."""
        self.draw.line(self._at(points), fill=fill, width=max(1, round(width * self.scale)))
        if len(fill) == 3:  # translucent strokes must not overlap themselves
            for x, y in points:
                self.oval(x, y, width / 2, width / 2, fill)

    def done(self) -> Image.Image:
        """The image at its final size."""
        return self.image.reduce(self.fine)


def glow(image: Image.Image, x: float, y: float, radius: float, colour: Colour, strength: float) -> Image.Image:
    """The image with soft light around (x, y): a Gaussian of width `radius`."""
    u = (np.arange(image.width, dtype=np.float32) + 0.5) / image.width
    weight = strength * np.exp(-((u[None] - x) ** 2 + (u[:, None] - y) ** 2) / radius**2)[..., None]
    values = np.asarray(image, np.float32)
    return Image.fromarray((values + (np.float32(colour) - values) * weight + 0.5).astype(np.uint8))


def gradient(side: int, stops: list[tuple[float, Colour]]) -> Image.Image:
    """A (side, side) image with a vertical gradient through `stops`: (y in [0, 1], rgb), from top to bottom."""
    y = (np.arange(side) + 0.5) / side
    rows = np.stack([np.interp(y, [s for s, _ in stops], [c[i] for _, c in stops]) for i in range(3)], -1)
    return Image.fromarray(np.repeat(rows.round().astype(np.uint8)[:, None], side, 1))

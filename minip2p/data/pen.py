"""Drawing in unit coordinates: (0, 0) is the top left corner and (1, 1) the bottom right one, whatever the pixels."""

from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, ...]                            # red, green, blue and perhaps alpha, 0..255


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with a share (0..1) of `b` in it; alpha, if any, is dropped."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a[:3], b[:3]))


def tint(a: Colour, light: tuple[float, float, float]) -> Colour:
    """`a` seen in coloured light (three factors)."""
    return tuple(min(255, round(x * f)) for x, f in zip(a, light))


def arc(cx: float, cy: float, rx: float, ry: float, start: float = 0, end: float = 360, n: int = 32) -> list:
    """Points of an elliptic arc, degrees clockwise from the right (y points down)."""
    angles = [(start + (end - start) * i / n) * pi / 180 for i in range(n + 1)]
    return [(cx + rx * cos(a), cy + ry * sin(a)) for a in angles]


class Pen:
    """A square picture `side` pixels wide, drawn `fine` times larger so that reducing it smooths the edges."""

    def __init__(self, side: int, fine: int, ground: Image.Image | None = None, margin: float = 0.0):
        self.side, self.fine = side, fine
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
        if len(fill) == 3:                          # a see-through stroke must not meet itself
            for x, y in points:
                self.oval(x, y, width / 2, width / 2, fill)

    def done(self) -> Image.Image:
        """The picture at its true size."""
        return self.image.reduce(self.fine) if self.fine > 1 else self.image


def glow(picture: Image.Image, x: float, y: float, radius: float, colour: Colour, strength: float) -> Image.Image:
    """The picture with soft light about (x, y), fading with the distance in radii."""
    u = (np.arange(picture.width, dtype=np.float32) + 0.5) / picture.width
    share = strength * np.exp(-((u[None] - x) ** 2 + (u[:, None] - y) ** 2) / radius ** 2)[..., None]
    values = np.asarray(picture, np.float32)
    return Image.fromarray((values + (np.float32(colour) - values) * share + 0.5).astype(np.uint8))


def gradient(side: int, stops: list[tuple[float, Colour]]) -> Image.Image:
    """A (side, side) picture whose rows run through `stops`: (y in 0..1, rgb), from the top down."""
    y = (np.arange(side) + 0.5) / side
    rows = np.stack([np.interp(y, [s for s, _ in stops], [c[i] for _, c in stops]) for i in range(3)], -1)
    return Image.fromarray(np.repeat(rows.round().astype(np.uint8)[:, None], side, 1))

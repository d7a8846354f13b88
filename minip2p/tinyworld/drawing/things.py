"""The things: each a bold silhouette in one dominant colour, drawn in a unit box."""

from functools import lru_cache

from PIL import Image, ImageFilter

from .pen import Colour, Pen, arc, mix, tint

INKS: dict[str, Colour] = {
    "red": (216, 24, 36),
    "orange": (255, 146, 0),
    "yellow": (255, 228, 30),
    "green": (24, 164, 56),
    "blue": (22, 90, 236),
    "purple": (140, 40, 176),
    "pink": (255, 118, 190),
    "white": (248, 248, 250),
}
DARK, WOOD, GLASS = (42, 36, 52), (122, 78, 46), (198, 232, 250)
MARGIN = 0.06  # room for the outline around the unit box


def _house(pen: Pen, c: Colour, shade: Colour, light: Colour) -> None:
    pen.box(0.70, 0.06, 0.82, 0.40, WOOD)
    pen.box(0.10, 0.44, 0.90, 1.0, light)
    pen.shape([(0.0, 0.48), (0.5, 0.02), (1.0, 0.48)], c)
    pen.box(0.10, 0.48, 0.90, 0.53, shade)
    pen.box(0.10, 0.53, 0.90, 1.0, c)
    pen.box(0.19, 0.62, 0.42, 0.84, DARK)
    pen.box(0.22, 0.65, 0.39, 0.81, (255, 240, 160))
    pen.box(0.57, 0.62, 0.80, 1.0, DARK)
    pen.box(0.60, 0.65, 0.77, 1.0, WOOD)


def _tree(pen: Pen, c: Colour, shade: Colour, light: Colour) -> None:
    pen.shape([(0.42, 0.55), (0.58, 0.55), (0.64, 1.0), (0.36, 1.0)], WOOD)
    for x, y, r in ((0.26, 0.46, 0.25), (0.74, 0.46, 0.25), (0.5, 0.27, 0.27), (0.5, 0.52, 0.24)):
        pen.oval(x, y, r, r, c)
    pen.shape(arc(0.5, 0.44, 0.46, 0.28, 20, 160), shade)
    pen.oval(0.44, 0.22, 0.13, 0.10, light)


def _boat(pen: Pen, c: Colour, shade: Colour, light: Colour) -> None:
    pen.box(0.46, 0.02, 0.52, 0.72, WOOD)
    pen.shape([(0.55, 0.06), (0.96, 0.62), (0.55, 0.62)], light)
    pen.shape([(0.43, 0.14), (0.43, 0.62), (0.10, 0.62)], c)
    pen.shape([(0.0, 0.68), (1.0, 0.68), (0.82, 0.98), (0.18, 0.98)], c)
    pen.shape([(0.10, 0.85), (0.90, 0.85), (0.82, 0.98), (0.18, 0.98)], shade)


def _car(pen: Pen, c: Colour, shade: Colour, light: Colour) -> None:
    pen.shape([(0.16, 0.60), (0.30, 0.32), (0.70, 0.32), (0.86, 0.60)], c)
    pen.shape([(0.27, 0.58), (0.35, 0.39), (0.47, 0.39), (0.47, 0.58)], GLASS)
    pen.shape([(0.54, 0.58), (0.54, 0.39), (0.66, 0.39), (0.75, 0.58)], GLASS)
    pen.shape([(0.0, 0.66), (0.06, 0.57), (0.94, 0.57), (1.0, 0.66), (1.0, 0.86), (0.0, 0.86)], c)
    pen.box(0.0, 0.76, 1.0, 0.86, shade)
    for x in (0.24, 0.76):
        pen.oval(x, 0.85, 0.15, 0.15, DARK)
        pen.oval(x, 0.85, 0.07, 0.07, (190, 190, 198))
    pen.oval(0.95, 0.67, 0.05, 0.05, (255, 246, 190))


def _balloon(pen: Pen, c: Colour, shade: Colour, light: Colour) -> None:
    for x in (0.30, 0.70):
        pen.line([(x, 0.55), (0.42 if x < 0.5 else 0.58, 0.84)], DARK, 0.035)
    pen.shape(arc(0.5, 0.36, 0.40, 0.36, 150, 390) + [(0.60, 0.76), (0.40, 0.76)], c)
    pen.shape(arc(0.5, 0.36, 0.40, 0.36, -60, 30) + [(0.60, 0.76), (0.56, 0.76)], shade)
    pen.shape(arc(0.5, 0.36, 0.17, 0.36, 0, 360), light)
    pen.shape([(0.35, 0.5), (0.65, 0.5), (0.54, 0.76), (0.46, 0.76)], light)
    pen.box(0.37, 0.83, 0.63, 1.0, WOOD)


def _cat(pen: Pen, c: Colour, shade: Colour, light: Colour) -> None:
    pen.line(arc(0.80, 0.74, 0.15, 0.20, 90, -80), c, 0.11)
    pen.oval(0.48, 0.75, 0.30, 0.24, c)
    pen.box(0.22, 0.82, 0.74, 1.0, c)
    pen.oval(0.48, 0.84, 0.15, 0.13, light)
    pen.shape([(0.13, 0.02), (0.44, 0.18), (0.16, 0.42)], c)
    pen.shape([(0.83, 0.02), (0.52, 0.18), (0.80, 0.42)], c)
    pen.shape([(0.20, 0.12), (0.34, 0.22), (0.21, 0.32)], shade)
    pen.shape([(0.76, 0.12), (0.62, 0.22), (0.75, 0.32)], shade)
    pen.oval(0.48, 0.40, 0.37, 0.27, c)
    for x in (0.34, 0.62):
        pen.oval(x, 0.38, 0.065, 0.085, DARK)
    pen.shape([(0.43, 0.49), (0.53, 0.49), (0.48, 0.56)], DARK)


def _umbrella(pen: Pen, c: Colour, shade: Colour, light: Colour) -> None:
    pen.line([(0.5, 0.03), (0.5, 0.86)] + arc(0.40, 0.86, 0.10, 0.10, 0, 190), DARK, 0.06)
    pen.shape(arc(0.5, 0.62, 0.5, 0.54, 180, 360), c)
    pen.shape(arc(0.5, 0.62, 0.17, 0.54, 180, 360), light)
    pen.shape(arc(0.5, 0.62, 0.5, 0.54, 300, 360) + [(0.67, 0.62)], shade)
    for x in (0.16, 0.5, 0.84):  # the scalloped hem: transparent ovals
        pen.oval(x, 0.65, 0.17, 0.07, (0, 0, 0, 0))
    pen.line([(0.5, 0.54), (0.5, 0.7)], DARK, 0.06)


def _flower(pen: Pen, c: Colour, shade: Colour, light: Colour) -> None:
    pen.line([(0.5, 0.5), (0.5, 1.0)], (34, 120, 50), 0.09)
    pen.shape(arc(0.30, 0.84, 0.21, 0.09), (60, 160, 70))
    pen.shape(arc(0.70, 0.84, 0.21, 0.09), (60, 160, 70))
    for x, y in arc(0.5, 0.36, 0.23, 0.22, -90, 270, 5)[:5]:
        pen.oval(x, y, 0.185, 0.175, shade)
        pen.oval(x, y, 0.165, 0.155, c)
    pen.oval(0.5, 0.36, 0.13, 0.13, DARK)
    pen.oval(0.5, 0.36, 0.10, 0.10, (255, 214, 90))


def _rocket(pen: Pen, c: Colour, shade: Colour, light: Colour) -> None:
    pen.shape([(0.38, 0.80), (0.62, 0.80), (0.50, 1.0)], (255, 190, 50))
    pen.shape([(0.30, 0.46), (0.02, 0.92), (0.34, 0.82)], shade)
    pen.shape([(0.70, 0.46), (0.98, 0.92), (0.66, 0.82)], shade)
    pen.shape([(0.5, 0.0)] + arc(0.44, 0.48, 0.36, 0.38, -50, 62, 12) + arc(0.56, 0.48, 0.36, 0.38, 118, 230, 12), c)
    pen.oval(0.5, 0.40, 0.14, 0.14, DARK)
    pen.oval(0.5, 0.40, 0.105, 0.105, GLASS)
    pen.box(0.35, 0.70, 0.65, 0.755, light)


SHAPES = {
    "house": _house,
    "tree": _tree,
    "boat": _boat,
    "car": _car,
    "balloon": _balloon,
    "cat": _cat,
    "umbrella": _umbrella,
    "flower": _flower,
    "rocket": _rocket,
}


@lru_cache(maxsize=4096)
def sprite(kind: str, colour: str, light: tuple[float, float, float], width: int, fine: int) -> Image.Image:
    """An outlined thing in coloured light (three factors), RGBA; its unit box has `width` pixels, plus the margin."""
    ink = tint(INKS[colour], light)
    pen = Pen(round(width * (1 + 2 * MARGIN)), fine, margin=MARGIN)
    shade = mix(ink, DARK, 0.22)
    bright = mix(ink, DARK, 0.08) if colour == "white" else mix(ink, (255, 255, 255), 0.30)  # white has no brighter
    SHAPES[kind](pen, ink, shade, bright)
    alpha = pen.image.getchannel("A")
    grown = alpha.filter(ImageFilter.MaxFilter(2 * round(0.025 * pen.scale) + 1))
    outlined = Image.new("RGBA", pen.image.size, mix(mix(ink, DARK, 0.72), (0, 0, 0), 0.1) + (0,))
    outlined.putalpha(grown)
    outlined.alpha_composite(pen.image)
    return outlined.reduce(fine)

"""Backdrops: sky, sun or moon, clouds, and the land of each setting. Nothing here is random."""

from functools import lru_cache
from math import pi, sin

from PIL import Image

from .pen import Colour, Pen, arc, glow, gradient, mix, tint

Light = tuple[float, float, float]
HORIZON = 0.52

SKIES: dict[str, tuple[Colour, Colour]] = {  # zenith, horizon
    "day": ((70, 150, 235), (205, 234, 252)),
    "sunset": ((112, 62, 140), (255, 158, 74)),
    "night": ((10, 14, 46), (46, 56, 112)),
}
LAND_LIGHT: dict[str, Light] = {"day": (1, 1, 1), "sunset": (0.96, 0.68, 0.60), "night": (0.42, 0.46, 0.70)}
THING_LIGHT: dict[str, Light] = {"day": (1, 1, 1), "sunset": (1.0, 0.91, 0.85), "night": (0.82, 0.83, 0.96)}
MISTS: dict[str, Colour] = {"day": (222, 228, 234), "sunset": (232, 198, 184), "night": (92, 102, 130)}
CLOUDS: dict[str, Colour] = {"day": (255, 255, 255), "sunset": (255, 196, 160), "night": (58, 68, 118)}
OVERCAST: dict[str, tuple[Colour, float]] = {  # the grey that the weather mixes into the sky, and its weight
    "clear": ((0, 0, 0), 0.0),
    "rain": ((98, 108, 126), 0.70),
    "snowfall": ((168, 178, 196), 0.62),
    "fog": ((206, 210, 216), 0.35),
}
DIMMING: dict[str, float] = {"day": 1.0, "sunset": 0.82, "night": 0.42}


def _sky(pen: Pen, time: str, weather: str) -> None:
    grey, weight = OVERCAST[weather]
    top, low = (mix(c, tint(grey, (DIMMING[time],) * 3), weight) for c in SKIES[time])
    pen.image.paste(gradient(pen.image.width, [(0.0, top), (HORIZON + 0.04, low), (1.0, low)]))
    if weather == "clear":
        _lights(pen, time)
    cloud = mix(CLOUDS[time], tint(grey, (DIMMING[time] * 0.8,) * 3), weight)
    fair, heavy = ((0.22, 0.20, 1.0), (0.62, 0.31, 0.8)), ((0.15, 0.10, 1.5), (0.55, 0.13, 1.6), (0.9, 0.09, 1.4))
    if weather != "fog" and not (weather == "clear" and time == "night"):
        for x, y, s in fair if weather == "clear" else heavy:
            for dx, dy, r in ((-0.08, 0.01, 0.05), (0.0, -0.02, 0.07), (0.08, 0.01, 0.05), (0.0, 0.025, 0.09)):
                pen.oval(x + dx * s, y + dy * s, r * s, min(r, 0.06) * 0.7 * s, cloud)


def _lights(pen: Pen, time: str) -> None:
    """Sun, low sun, or moon and stars."""
    if time == "night":
        for x, y in ((0.08, 0.10), (0.20, 0.30), (0.36, 0.09), (0.50, 0.24), (0.62, 0.07), (0.68, 0.36), (0.93, 0.33)):
            pen.oval(x, y, 0.014, 0.014, (250, 246, 210))
        pen.shape(arc(0.82, 0.15, 0.09, 0.09, -80, 150) + arc(0.775, 0.118, 0.083, 0.083, 113, -43), (252, 244, 196))
        return
    x, y, r, c = (0.82, 0.15, 0.085, (255, 232, 96)) if time == "day" else (0.50, 0.43, 0.13, (255, 226, 120))
    pen.image.paste(glow(pen.image, x, y, 1.9 * r, mix(c, (255, 255, 255), 0.2), 0.8))
    pen.oval(x, y, r, r, c)


def _wave(y: float, height: float, turns: float, shift: float = 0.0) -> list:
    """A sine wave from left to right, closed along the bottom of the image."""
    top = [(i / 48, y - height * sin(2 * pi * (turns * i / 48 + shift))) for i in range(49)]
    return top + [(1.0, 1.01), (0.0, 1.01)]


def _meadow(pen: Pen, see, time: str) -> None:
    pen.shape(_wave(0.50, 0.05, 1.0, 0.1), see((124, 186, 84)))
    pen.shape(_wave(0.60, 0.05, 0.8, 0.55), see((96, 172, 66)))
    pen.shape(_wave(0.78, 0.03, 0.9, 0.0), see((74, 150, 54)))
    for x, y in ((0.36, 0.66), (0.66, 0.69), (0.05, 0.92), (0.30, 0.95), (0.72, 0.96), (0.95, 0.93)):
        pen.oval(x, y, 0.022, 0.018, see((240, 240, 190)))


def _sea(pen: Pen, see, time: str) -> None:
    pen.box(0, HORIZON, 1, 1.01, see((58, 144, 204)))
    for i, (y, c) in enumerate(((0.60, (44, 128, 196)), (0.72, (32, 108, 182)), (0.86, (22, 88, 162)))):
        pen.shape(_wave(y, 0.014, 4, 0.5 * (i % 2)), see(mix(c, (255, 255, 255), 0.35)))
        pen.shape(_wave(y + 0.022, 0.014, 4, 0.5 * (i % 2)), see(c))


def _desert(pen: Pen, see, time: str) -> None:
    for x, w in ((0.30, 0.17), (0.66, 0.23)):
        pen.shape([(x - w, 0.56), (x, 0.56 - w * 1.05), (x + w, 0.56)], see((214, 164, 92)))
        pen.shape([(x + w * 0.3, 0.56), (x, 0.56 - w * 1.05), (x + w, 0.56)], see((176, 124, 66)))
    pen.shape(_wave(0.55, 0.02, 1.2, 0.2), see((240, 204, 132)))
    pen.shape(_wave(0.68, 0.04, 1.0, 0.6), see((232, 188, 110)))
    pen.shape(_wave(0.84, 0.03, 0.8, 0.1), see((220, 172, 94)))


def _snow(pen: Pen, see, time: str) -> None:
    pen.shape(_wave(0.50, 0.04, 1.0, 0.3), see((206, 222, 240)))
    for x, h in ((0.06, 0.20), (0.37, 0.17), (0.63, 0.17), (0.94, 0.21)):
        for k in (0, 1, 2):
            y, w = 0.56 - h * k * 0.28, h * (0.42 - 0.09 * k)
            pen.shape([(x - w, y), (x, y - h * 0.48), (x + w, y)], see((44, 98, 84)))
    pen.shape(_wave(0.58, 0.03, 0.9, 0.7), see((226, 236, 248)))
    pen.shape(_wave(0.76, 0.03, 0.8, 0.1), see((242, 247, 253)))


def _city(pen: Pen, see, time: str) -> None:
    lit = (255, 222, 120) if time == "night" else see((206, 228, 244))
    towers = ((0.0, 0.19, 0.28), (0.19, 0.39, 0.14), (0.39, 0.61, 0.30), (0.61, 0.81, 0.10), (0.81, 1.01, 0.24))
    greys = ((150, 136, 150), (112, 122, 152), (166, 142, 136), (100, 108, 138), (146, 134, 148))
    for (x0, x1, y), c in zip(towers, greys):
        pen.box(x0, y, x1, 0.70, see(c))
        for row in range(4):
            for wx in (x0 + 0.04, x0 + 0.115):
                pen.box(wx, y + 0.045 + row * 0.11, wx + 0.045, y + 0.105 + row * 0.11, lit)
    pen.box(0, 0.66, 1, 0.75, see((190, 186, 184)))
    pen.box(0, 0.75, 1, 1.01, see((98, 98, 108)))
    for x in (0.02, 0.27, 0.52, 0.77):
        pen.box(x, 0.86, x + 0.15, 0.89, see((236, 232, 214)))


def _mountains(pen: Pen, see, time: str) -> None:
    for x, y, w in ((0.16, 0.24, 0.34), (0.86, 0.20, 0.36), (0.50, 0.12, 0.42)):
        h = 0.66 - y
        pen.shape([(x - w, 0.66), (x, y), (x + w, 0.66)], see((124, 116, 146)))
        pen.shape([(x + w * 0.1, 0.66), (x, y), (x + w, 0.66)], see((96, 88, 122)))
        cap = [
            (x - w * 0.3, y + h * 0.3),
            (x, y),
            (x + w * 0.3, y + h * 0.3),
            (x + w * 0.14, y + h * 0.23),
            (x, y + h * 0.34),
            (x - w * 0.14, y + h * 0.23),
        ]
        pen.shape(cap, see((242, 246, 252)))
    pen.shape(_wave(0.62, 0.02, 1.1, 0.2), see((122, 138, 88)))
    pen.shape(_wave(0.74, 0.03, 0.8, 0.5), see((146, 138, 98)))
    pen.shape(_wave(0.88, 0.02, 1.0, 0.1), see((130, 118, 88)))


LANDS = {"meadow": _meadow, "sea": _sea, "desert": _desert, "snow": _snow, "city": _city, "mountains": _mountains}


@lru_cache(maxsize=128)
def backdrop(setting: str, time: str, weather: str, size: int, fine: int) -> Image.Image:
    """The scene without things, (size, size) RGB. The image is cached: copy it before drawing on it."""
    pen = Pen(size, fine, ground=Image.new("RGB", (size * fine,) * 2))
    _sky(pen, time, weather)
    grey, weight = OVERCAST[weather]
    light = LAND_LIGHT[time]
    veil = tint(grey, (DIMMING[time],) * 3)

    def see(c: Colour) -> Colour:
        """A colour of the land at this time and in this weather."""
        return mix(tint(c, light), veil, weight * 0.4)

    LANDS[setting](pen, see, time)
    land = pen.done()
    if weather == "fog":  # thickest far away, at the horizon
        mist = gradient(size, [(0, MISTS[time]), (1, MISTS[time])])
        thickness = [(0.0, (90,) * 3), (HORIZON, (128,) * 3), (0.75, (72,) * 3), (1.0, (40,) * 3)]
        land.paste(mist, (0, 0), gradient(size, thickness).convert("L"))
    return land

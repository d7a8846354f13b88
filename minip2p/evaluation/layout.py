"""Where the things are that a reader finds in a picture, and whether a pair of pictures shows an instruction's change.

The reader tells what is there; sizes, places and the weather are those of the rendering that comes nearest to the
picture, of all that show what was read.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations, product

import numpy as np
from PIL import Image

from ..data.grammar import agrees
from ..data.scenes import PLACES, SIZES, WEATHERS, Scene, Thing, render
from ..models.reader import Reader
from .reader import Reading, read


def layouts(reading: Reading) -> Iterator[Scene]:
    """All scenes that a reading fits; none where it has no thing, or more than a scene can hold."""
    things = sorted(reading.things)
    if not 1 <= len(things) <= len(PLACES):
        return
    for places in permutations(PLACES, len(things)):
        for sizes, weather in product(product(SIZES, repeat=len(things)), WEATHERS):
            told = zip(things, sizes, places, strict=True)
            placed = tuple(
                Thing(kind=kind, colour=colour, size=size, place=place) for (colour, kind), size, place in told
            )
            yield Scene(
                setting=reading.setting, time=reading.time, medium=reading.medium, weather=weather, things=placed
            )


def locate(picture: Image.Image, reading: Reading) -> Scene | None:
    """The scene whose rendering is nearest to a square picture (mean squared error), of those that the reading fits.

    Two descents, from all things small and from all things big, take the better: that draws a fifth of all layouts, and
    finds the nearest of all wherever that was tried (drawings with and without noise, paintings).
    """
    pixels = np.asarray(picture.convert("RGB"), np.float32)

    @cache
    def error(scene: Scene) -> float:
        return float(np.square(np.asarray(render(scene, picture.width), np.float32) - pixels).mean())

    first = next(layouts(reading), None)
    if first is None:
        return None
    starts = (_told(first, size=[size] * len(first.things)) for size in SIZES)
    return min((_descend(start, error) for start in starts), key=error)


def _descend(scene: Scene, error: Callable[[Scene], float]) -> Scene:
    """All places, the weather, one thing's place and size, who stands where: each the best, until none gets better."""
    while True:
        before = error(scene)
        for others in (_other_places, _other_weather, _other_spots, _other_things):
            scene = min(others(scene), key=error)
        if error(scene) >= before:
            return scene


def _told(scene: Scene, **columns: Sequence[str]) -> Scene:
    """With other sizes or places of its things, in their order."""
    told = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return replace(scene, things=tuple(replace(thing, **new) for thing, new in zip(scene.things, told, strict=True)))


def _other_places(scene: Scene) -> list[Scene]:
    return [_told(scene, place=places) for places in permutations(PLACES, len(scene.things))]


def _other_weather(scene: Scene) -> list[Scene]:
    return [replace(scene, weather=weather) for weather in WEATHERS]


def _other_spots(scene: Scene) -> list[Scene]:
    """One thing goes to a free place, or has another size, or both; or nothing changes."""
    scenes = []
    for thing in scene.things:
        rest = tuple(other for other in scene.things if other != thing)
        free = [place for place in PLACES if place not in {other.place for other in rest}]
        spots = [replace(thing, place=place, size=size) for place, size in product(free, SIZES)]
        scenes += [replace(scene, things=(*rest, spot)) for spot in spots]
    return scenes


def _other_things(scene: Scene) -> list[Scene]:
    """A thing takes another's place and size: the way out where a small and a big thing are taken for each other."""
    orders = permutations(scene.things)
    return [_told(scene, place=[t.place for t in order], size=[t.size for t in order]) for order in orders]


def scenes_of(reader: Reader, pictures: Sequence[Image.Image]) -> list[Scene | None]:
    """What each square picture shows; None where it is no scene."""
    return [locate(*pair) for pair in zip(pictures, read(reader, pictures), strict=True)]


def shows(before: Scene | None, instruction: str, after: Scene | None) -> bool:
    """Whether the second scene is what the instruction makes of the first, and nothing else is changed."""
    return before is not None and after is not None and agrees(before.caption, instruction, after.caption)

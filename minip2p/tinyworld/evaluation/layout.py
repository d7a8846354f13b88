"""The scene that an image shows, places included, and whether a pair of images shows exactly the instructed change.

The classifier predicts the attributes; sizes, places and weather are those of the nearest rendering with them.
"""

from collections.abc import Iterator
from itertools import permutations, product

import numpy as np
from PIL import Image

from ..grammar import mismatch
from ..scenes import PLACES, SIZES, WEATHERS, Attributes, Scene, Thing, render


def layouts(attributes: Attributes) -> Iterator[Scene]:
    """All scenes with these attributes (up to 192); none if there is no thing or more than a scene can have."""
    things = sorted(attributes.things)
    if not 1 <= len(things) <= len(PLACES):
        return
    whole = {"setting": attributes.setting, "time": attributes.time, "medium": attributes.medium}
    for places in permutations(PLACES, len(things)):
        for sizes, weather in product(product(SIZES, repeat=len(things)), WEATHERS):
            placed = tuple(
                Thing(kind=kind, colour=colour, size=size, place=place)
                for (colour, kind), size, place in zip(things, sizes, places, strict=True)
            )
            yield Scene(**whole, weather=weather, things=placed)


def locate(image: Image.Image, attributes: Attributes) -> Scene | None:
    """The scene with these attributes whose rendering is nearest to a square image (mean squared error), if any."""
    pixels = np.asarray(image.convert("RGB"), np.float32)

    def error(scene: Scene) -> float:
        return float(np.square(np.asarray(render(scene, image.width), np.float32) - pixels).mean())

    return min(layouts(attributes), key=error, default=None)


def shows_edit(before: Scene | None, instruction: str, after: Scene | None) -> bool:
    """Whether the second scene is the first after the instruction, with nothing else changed."""
    return before is not None and after is not None and mismatch(before.caption, instruction, after.caption) is None

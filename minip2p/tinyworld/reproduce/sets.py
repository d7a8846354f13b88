"""Rendered edits of the tiny world as a set of edit pairs, without files; and the edit that an instruction asks for."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...data.layouts.common import EditText, EncodedImage
from ..grammar import ParsedCaption, ParsedThing, change, mismatch, parse_caption
from ..scenes import PLACES, SIZES, WEATHERS, Edit, Scene, Thing, render

TRIES = 100
"""draws of what captions leave open, until the instruction fits: it may name a place that they do not"""


@dataclass(frozen=True)
class Rendered:
    """Edits, rendered when they are read: a layout of `data.pairs.Edits`."""

    edits: Sequence[Edit]
    captions: Sequence[tuple[str, str]]
    """of source and target"""
    size: int
    """side of the images in pixels"""

    def __len__(self) -> int:
        return len(self.edits)

    def text(self, i: int) -> EditText:
        before, after = self.captions[i]
        key = f"{i:07d}"
        return EditText(name=key, key=key, instruction=self.edits[i].instruction, input=before, output=after)

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        return self._file(self.edits[i].source), self._file(self.edits[i].target)

    def _file(self, scene: Scene) -> EncodedImage:
        data = io.BytesIO()
        render(scene, self.size).save(data, "PNG")
        return EncodedImage(scene.caption, data.getvalue())


def edit_of(prompt: Mapping[str, str], rng: np.random.Generator) -> Edit | None:
    """The edit that an instruction asks for; what its captions leave open is drawn at random.

    prompt: input, edit, output. None where the captions and the instruction do not belong together.
    """
    caption, instruction, edited = (prompt[name] for name in ("input", "edit", "output"))
    if mismatch(caption, instruction, edited):
        return None
    before, after = parse_caption(caption), parse_caption(edited)
    kind = change(before, after)
    assert kind is not None, "they differ by one edit"
    for _ in range(TRIES):
        source, target = _draw_scenes(before, after, rng)
        if mismatch(source.caption, instruction, target.caption) is None:
            return Edit(kind=kind, source=source, instruction=instruction, target=target)
    return None


def _draw_scenes(before: ParsedCaption, after: ParsedCaption, rng: np.random.Generator) -> tuple[Scene, Scene]:
    """Scenes of two captions that differ by one edit, alike in all that the captions leave open."""
    gone = [thing for thing in before.things if thing not in after.things]
    new = [thing for thing in after.things if thing not in before.things]
    drawn: dict[ParsedThing, Thing] = {}

    def draw(thing: ParsedThing) -> Thing:
        free = [place for place in PLACES if place not in {other.place for other in drawn.values()}]
        size, place = thing.size or rng.choice(SIZES), thing.place or rng.choice(free)
        return Thing(kind=thing.kind, colour=thing.colour, size=str(size), place=str(place))

    for thing in before.things:
        drawn[thing] = draw(thing)
    for thing in new:  # in the place of what it replaces
        at = drawn[gone[0]] if gone else draw(thing)
        drawn[thing] = Thing(kind=thing.kind, colour=thing.colour, size=at.size, place=at.place)
    same = str(rng.choice(WEATHERS)) if before.weather is None and after.weather is None else "clear"
    source, target = (
        Scene(
            setting=each.setting,
            time=each.time,
            medium=each.medium,
            weather=each.weather or same,
            things=tuple(drawn[thing] for thing in each.things),
        )
        for each in (before, after)
    )
    return source, target

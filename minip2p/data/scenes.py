"""The tiny world: small pictures whose truth is known, and edits of them whose right answer is known.

A Scene is a value; `render` paints it, its `.caption` tells it, `sample_edit` draws an instruction with the scene it
leads to, and `judge` says whether a picture is that scene's. Everything is determined by its arguments.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from . import wording
from .render import render
from .wording import instructions

__all__ = ["COLOURS", "EDIT_KINDS", "KINDS", "MEDIA", "PLACES", "SETTINGS", "SIZES", "TIMES", "WEATHERS",
           "Edit", "Scene", "Thing", "instructions", "judge", "loose_captions", "render", "reword", "sample_edit",
           "sample_scene"]

SETTINGS = ("meadow", "sea", "desert", "snow", "city", "mountains")
TIMES = ("day", "sunset", "night")
WEATHERS = ("clear", "rain", "snowfall", "fog")
MEDIA = ("plain", "pencil", "watercolour", "pixel")
KINDS = ("house", "tree", "boat", "car", "balloon", "cat", "umbrella", "flower", "rocket")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
PLACES = ("left", "middle", "right")
SIZES = ("small", "big")
EDIT_KINDS = ("recolour", "replace", "add", "remove", "time", "setting", "weather", "medium")


def _check(owner, **allowed) -> None:
    for field, words in allowed.items():
        if getattr(owner, field) not in words:
            raise ValueError(f"{field} is {getattr(owner, field)!r}; expected one of {', '.join(words)}")


@dataclass(frozen=True, kw_only=True)
class Thing:
    kind: str
    colour: str
    size: str
    place: str

    def __post_init__(self):
        _check(self, kind=KINDS, colour=COLOURS, size=SIZES, place=PLACES)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One to three things, each of its own kind and at its own place (kept from left to right)."""

    setting: str
    time: str
    weather: str
    medium: str
    things: tuple[Thing, ...]

    def __post_init__(self):
        _check(self, setting=SETTINGS, time=TIMES, weather=WEATHERS, medium=MEDIA)
        things = tuple(sorted(self.things, key=lambda t: PLACES.index(t.place)))
        kinds, places = {t.kind for t in things}, {t.place for t in things}
        if not 1 <= len(things) <= 3 or len(kinds) < len(things) or len(places) < len(things):
            raise ValueError("a scene has one to three things, no two of one kind or at one place")
        object.__setattr__(self, "things", things)

    @property
    def caption(self) -> str:
        """One English sentence that tells all of the scene."""
        return wording.caption(self)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """`instruction` leads from `source` to `target`, and to no other scene; `kind` is one of EDIT_KINDS."""

    kind: str
    source: Scene
    instruction: str
    target: Scene


def loose_captions(*scenes: Scene, rng: np.random.Generator, details: tuple[str, ...] | None = ()) -> list[str]:
    """Captions that leave sizes, places and weather open but for `details` of them, of all scenes in the same words.

    details None draws some: of three calls, none in one, all in one, and each with a chance of one half in one.
    """
    if details is None:
        chance = (0.0, 0.5, 1.0)[rng.integers(3)]
        details = tuple(word for word in wording.DETAILS if rng.random() < chance)
    pick = int(rng.integers(2**31))
    return [wording.caption(scene, details, pick) for scene in scenes]


def _one(rng: np.random.Generator, options, *but):
    options = [o for o in options if o not in but]
    return options[rng.integers(len(options))]


def _sample_thing(rng: np.random.Generator, taken: tuple[Thing, ...]) -> Thing:
    return Thing(kind=_one(rng, KINDS, *(t.kind for t in taken)), colour=_one(rng, COLOURS), size=_one(rng, SIZES),
                 place=_one(rng, PLACES, *(t.place for t in taken)))


def sample_scene(rng: np.random.Generator) -> Scene:
    """Any scene. Half are plain and half are clear, as most pictures are; all else is equally likely."""
    things: tuple[Thing, ...] = ()
    for _ in range(rng.integers(1, 4)):
        things += (_sample_thing(rng, things),)
    weather = "clear" if rng.random() < 0.5 else _one(rng, WEATHERS, "clear")
    medium = "plain" if rng.random() < 0.5 else _one(rng, MEDIA, "plain")
    return Scene(setting=_one(rng, SETTINGS), time=_one(rng, TIMES), weather=weather, medium=medium, things=things)


def _sample_target(rng: np.random.Generator, kind: str, source: Scene) -> Scene:
    if kind in ("time", "setting", "weather", "medium"):
        options = {"time": TIMES, "setting": SETTINGS, "weather": WEATHERS, "medium": MEDIA}[kind]
        return replace(source, **{kind: _one(rng, options, getattr(source, kind))})
    if kind == "add":
        return replace(source, things=source.things + (_sample_thing(rng, source.things),))
    old = _one(rng, source.things)
    rest = tuple(t for t in source.things if t != old)
    if kind == "remove":
        return replace(source, things=rest)
    if kind == "recolour":
        return replace(source, things=rest + (replace(old, colour=_one(rng, COLOURS, old.colour)),))
    colour = _one(rng, COLOURS) if rng.random() < 0.3 else old.colour
    new = replace(old, kind=_one(rng, KINDS, *(t.kind for t in source.things)), colour=colour)
    return replace(source, things=rest + (new,))


def sample_edit(rng: np.random.Generator, source: Scene | None = None) -> Edit:
    """An edit of `source` (of any scene, if None). Kinds are equally likely among those the source allows:
    a full scene takes no further thing, and the last thing is never removed."""
    source = sample_scene(rng) if source is None else source
    impossible = {1: "remove", 3: "add"}.get(len(source.things))
    kind = _one(rng, EDIT_KINDS, impossible)
    target = _sample_target(rng, kind, source)
    return Edit(kind=kind, source=source, instruction=wording.worded(kind, source, target, rng), target=target)


def reword(edit: Edit, rng: np.random.Generator) -> Edit:
    """The same edit in other words (drawn anew: the same words may come again)."""
    return replace(edit, instruction=wording.worded(edit.kind, edit.source, edit.target, rng))


def _pixels(image) -> np.ndarray:
    """(3, h, w) float64 in [0, 1] from a PIL picture or anything numpy reads as (3, h, w) in [0, 1]."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"), np.float64).transpose(2, 0, 1) / 255
    values = np.asarray(image.detach().cpu().float() if hasattr(image, "detach") else image, np.float64)
    if values.ndim != 3 or values.shape[0] != 3:
        raise ValueError(f"the picture has shape {values.shape}; expected (3, height, width) with values in [0, 1]")
    return values


def judge(image, edit: Edit, rng: np.random.Generator, k: int = 16) -> tuple[bool, float]:
    """Is `image` what the edit asks for?

    image: a square PIL picture, or (3, s, s) in [0, 1]. Returns (right, psnr): right if the rendered target is nearer
    (mean squared error at the image's size) than the source and each of k other edits of that source, drawn with
    `rng`; psnr in dB of the image against the rendered target. ValueError if the image is not square.
    """
    image = _pixels(image)
    if image.shape[1] != image.shape[2]:
        size = f"{image.shape[2]}x{image.shape[1]}"
        raise ValueError(f"the picture is {size}; scenes are square: crop or stretch it first")

    def error(scene: Scene) -> float:
        return float(np.mean((image - _pixels(render(scene, image.shape[1]))) ** 2))

    others = [edit.source]
    while len(others) <= k:
        other = sample_edit(rng, edit.source).target
        if other != edit.target:
            others.append(other)
    truth = error(edit.target)
    psnr = float("inf") if truth == 0 else -10 * float(np.log10(truth))
    return all(truth < error(scene) for scene in others), psnr

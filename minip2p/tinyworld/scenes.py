"""Scenes and edits: values that can be sampled, described in words and rendered.

A Scene is a value with a `.caption`; `render(scene)` draws it; `sample_edit(rng)` gives an instruction and the scenes
before and after it. All of it is a function of its arguments and the random generator.
"""

from dataclasses import dataclass, replace

import numpy as np

from . import wording
from .drawing.render import render as render  # re-exported

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
    """A thing in a scene: words of KINDS, COLOURS, SIZES and PLACES."""

    kind: str
    colour: str
    size: str
    place: str

    def __post_init__(self):
        _check(self, kind=KINDS, colour=COLOURS, size=SIZES, place=PLACES)


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """The part of a scene that the attribute classifier predicts: all but sizes, places and weather."""

    setting: str
    time: str
    medium: str
    things: frozenset[tuple[str, str]]
    """(colour, kind)"""

    @classmethod
    def of(cls, scene) -> "Attributes":
        """Those of a Scene, or of a caption as `grammar` parses it."""
        things = frozenset((thing.colour, thing.kind) for thing in scene.things)
        return cls(setting=scene.setting, time=scene.time, medium=scene.medium, things=things)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One to three things, no two of the same kind or at the same place; sorted from left to right."""

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
            raise ValueError("a scene has one to three things, no two of the same kind or at the same place")
        object.__setattr__(self, "things", things)

    @property
    def caption(self) -> str:
        """One English sentence that specifies the scene fully."""
        return wording.caption(self)

    @property
    def attributes(self) -> Attributes:
        """What the attribute classifier should predict for a rendering of this scene."""
        return Attributes.of(self)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """`instruction` turns `source` into `target` and into no other scene; `kind` is one of EDIT_KINDS."""

    kind: str
    source: Scene
    instruction: str
    target: Scene


def loose_captions(*scenes: Scene, rng: np.random.Generator, details: tuple[str, ...] | None = ()) -> list[str]:
    """Loosely worded captions, all in the same words: of sizes, places and weather they mention only `details`.

    details=None samples them: none, all, or each with probability 1/2 (these three cases are equally likely).
    """
    if details is None:
        chance = (0.0, 0.5, 1.0)[rng.integers(3)]
        details = tuple(word for word in wording.DETAILS if rng.random() < chance)
    pick = int(rng.integers(2**31))
    return [wording.caption(scene, details, pick) for scene in scenes]


def _choose(rng: np.random.Generator, options, *excluded):
    options = [option for option in options if option not in excluded]
    return options[rng.integers(len(options))]


def _sample_thing(rng: np.random.Generator, others: tuple[Thing, ...]) -> Thing:
    return Thing(
        kind=_choose(rng, KINDS, *(t.kind for t in others)),
        colour=_choose(rng, COLOURS),
        size=_choose(rng, SIZES),
        place=_choose(rng, PLACES, *(t.place for t in others)),
    )


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene. Half of all scenes have plain medium, half have clear weather; all else is uniform."""
    things: tuple[Thing, ...] = ()
    for _ in range(rng.integers(1, 4)):
        things += (_sample_thing(rng, things),)
    weather = "clear" if rng.random() < 0.5 else _choose(rng, WEATHERS, "clear")
    medium = "plain" if rng.random() < 0.5 else _choose(rng, MEDIA, "plain")
    return Scene(
        setting=_choose(rng, SETTINGS), time=_choose(rng, TIMES), weather=weather, medium=medium, things=things
    )


def _sample_target(rng: np.random.Generator, kind: str, source: Scene) -> Scene:
    if kind in ("time", "setting", "weather", "medium"):
        options = {"time": TIMES, "setting": SETTINGS, "weather": WEATHERS, "medium": MEDIA}[kind]
        return replace(source, **{kind: _choose(rng, options, getattr(source, kind))})
    if kind == "add":
        return replace(source, things=source.things + (_sample_thing(rng, source.things),))
    old = _choose(rng, source.things)
    others = tuple(t for t in source.things if t != old)
    if kind == "remove":
        return replace(source, things=others)
    if kind == "recolour":
        return replace(source, things=others + (replace(old, colour=_choose(rng, COLOURS, old.colour)),))
    colour = _choose(rng, COLOURS) if rng.random() < 0.3 else old.colour
    new = replace(old, kind=_choose(rng, KINDS, *(t.kind for t in source.things)), colour=colour)
    return replace(source, things=others + (new,))


def sample_edit(rng: np.random.Generator, source: Scene | None = None) -> Edit:
    """A random edit of `source` (None: of a random scene); all kinds that the source allows are equally likely.

    Nothing is added to three things, and the only thing is never removed.
    """
    source = sample_scene(rng) if source is None else source
    impossible = {1: "remove", 3: "add"}.get(len(source.things))
    kind = _choose(rng, EDIT_KINDS, impossible)
    target = _sample_target(rng, kind, source)
    return Edit(
        kind=kind, source=source, instruction=wording.sample_instruction(kind, source, target, rng), target=target
    )


def reword(edit: Edit, rng: np.random.Generator) -> Edit:
    """The same edit with a newly sampled instruction (which may be the same)."""
    return replace(edit, instruction=wording.sample_instruction(edit.kind, edit.source, edit.target, rng))

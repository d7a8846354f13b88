"""The tiny world's English read backwards: what a caption tells, and whether an edited caption is what was asked for.

`wording` tells scenes and edits; here captions are read, compared, and drawn as a writer learns them.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from . import wording
from .captions import Refused, Triplet, parse_completion
from .scenes import COLOURS, KINDS, PLACES, SIZES, Edit, loose_captions, sample_edit, sample_scene

UNREAD, UNREAD_EDITED = "caption not understood", "edited caption not understood"
OTHER_DETAILS = "other details are told"
UNCHANGED, TOO_MUCH = "nothing changes", "more than one thing changes"
OTHER_WORDS = "instruction says something else"
REASONS = (UNREAD, UNREAD_EDITED, OTHER_DETAILS, UNCHANGED, TOO_MUCH, OTHER_WORDS)
"""all that `why_not` may say, in the order in which it is asked"""


class ToldThing(NamedTuple):
    """A thing of a caption; size and place are None where they are left open."""

    colour: str
    kind: str
    size: str | None = None
    place: str | None = None


class Readable(NamedTuple):
    """What of a caption a reader of pictures can see: all but weather, sizes and places. Things are (colour, kind)."""

    setting: str
    time: str
    medium: str
    things: frozenset[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a caption tells, in the words of `scenes`; things in the order told.

    weather is None where no word is said of it: it is left open then, or clear, which saying nothing may tell, too.
    """

    setting: str
    time: str
    weather: str | None
    medium: str
    things: tuple[ToldThing, ...]

    @property
    def details(self) -> frozenset[str]:
        """Which of "size" and "place" it tells of its things: of all of them, or of none."""
        return frozenset(name for name in ("size", "place") if getattr(self.things[0], name))

    def readable(self) -> Readable:
        """What a picture of it should be read as."""
        things = frozenset((thing.colour, thing.kind) for thing in self.things)
        return Readable(setting=self.setting, time=self.time, medium=self.medium, things=things)


# ---- reading


def _plain(text: str) -> str:
    """Lower case, single spaces, and no full stop at the end."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def _bare(instruction: str) -> str:
    """The same without a question mark or an exclamation mark at the end, too."""
    return " ".join(instruction.lower().split()).rstrip(" .?!")


@cache
def _names() -> dict[str, dict[str, str]]:
    """part of a caption -> its phrase -> what it tells"""
    tables = {"where": wording.WHERE, "when": wording.WHEN, "sky": wording.SKY, "first": wording.MEDIUM_NAMES}
    names = {
        part: {phrase: name for name, phrases in table.items() for phrase in phrases if phrase}
        for part, table in tables.items()
    }
    names["first"] = {phrase: name for phrase, name in names["first"].items() if name != "plain"}  # goes without saying
    names["last"] = {phrase.removeprefix("a "): name for phrase, name in names["first"].items()}
    return names


@cache
def _patterns() -> tuple[re.Pattern, re.Pattern]:
    """Patterns of a whole caption, and of a thing in it with its article."""

    def one_of(part: str, phrases) -> str:
        return f"(?P<{part}>{'|'.join(map(re.escape, phrases))})"

    first, where, when, sky, last = (one_of(p, _names()[p]) for p in ("first", "where", "when", "sky", "last"))
    spot = one_of("spot", wording.SPOTS.values())
    colour, kind, size = one_of("colour", COLOURS), one_of("kind", KINDS), one_of("size", SIZES)
    return (
        re.compile(f"(?:{first} of )?(?P<things>.+) {where} {when}(?:, {sky})?(?:, {last})?"),
        re.compile(f"an? (?:{size} )?{colour} {kind}(?: {spot})?"),
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")


def _read_thing(words: str) -> ToldThing:
    found = _patterns()[1].fullmatch(words)
    if not found or words != wording.a(words.split(" ", 1)[1]):
        raise ValueError(f"{_short(words)} is no thing of the tiny world; expected one such as 'a small red boat'")
    place = next((place for place, spot in wording.SPOTS.items() if spot == found["spot"]), None)
    return ToldThing(found["colour"], found["kind"], found["size"], place)


def _read_things(words: str) -> tuple[ToldThing, ...]:
    parts = re.split(", | and ", words)
    things = tuple(_read_thing(part) for part in parts)
    if len(things) > 3:
        raise ValueError(f"{_short(words)} are {len(things)} things; expected one to three")
    if words != wording.listed(parts):
        raise ValueError(f"{_short(words)} is no list of things; expected one such as {wording.listed(parts)!r}")
    kinds, places = [t.kind for t in things], [t.place for t in things if t.place]
    for name, told in (("kind", kinds), ("place", places)):
        if len(set(told)) < len(told):
            raise ValueError(f"{_short(words)} holds two things of one {name}; expected each of its own")
    for name, told in (("size", [t.size for t in things if t.size]), ("place", places)):
        if 0 < len(told) < len(things):
            raise ValueError(f"{_short(words)} tells the {name} of some things only; expected of all or of none")
    if places != sorted(places, key=PLACES.index):
        raise ValueError(f"{_short(words)} goes to and fro; expected things told from left to right")
    return things


def parse_caption(text: str) -> Told:
    """What a caption tells: the inverse of `wording.caption`, whatever its details and pick.

    Capital letters, a full stop at the end and doubled spaces make no difference. ValueError for any other text.
    """
    words, names = _plain(text), _names()
    found = _patterns()[0].fullmatch(words)
    if not found:
        raise ValueError(f"{_short(words)} is no caption of the tiny world; expected one to three things, a setting "
                         f"and a time, such as 'a red boat in a meadow by day'")  # fmt: skip
    if found["first"] and found["last"]:
        raise ValueError(f"{_short(words)} names two media; expected one at most")
    medium = names["first"].get(found["first"]) or names["last"].get(found["last"]) or "plain"
    return Told(
        setting=names["where"][found["where"]], time=names["when"][found["when"]],
        weather=names["sky"].get(found["sky"]), medium=medium, things=_read_things(found["things"]),
    )  # fmt: skip


# ---- comparing


def _come(before: Told, after: Told) -> list[ToldThing]:
    return [thing for thing in after.things if thing not in before.things]


def _changes(told: Told, edited: Told) -> list[str]:
    """The kinds of all edits that lead from one to the other. A thing that moves or grows goes and comes."""
    kinds = [name for name in ("time", "setting", "medium") if getattr(told, name) != getattr(edited, name)]
    if (told.weather or "clear") != (edited.weather or "clear"):
        kinds.append("weather")
    gone, come = _come(edited, told), _come(told, edited)
    if len(gone) == len(come) == 1 and gone[0][2:] == come[0][2:]:
        return [*kinds, "recolour" if gone[0].kind == come[0].kind else "replace"]
    return kinds + ["remove"] * len(gone) + ["add"] * len(come)


def change(told: Told, edited: Told) -> str | None:
    """The kind of the one edit that leads from one caption to the other; None if there is no change, or more than one.

    Weather of which nothing is said counts as clear. The order of things makes no difference.
    """
    kinds = _changes(told, edited)
    return kinds[0] if len(kinds) == 1 else None


def _wordings(kind: str, told: Told, edited: Told) -> set[str]:
    """All instructions of this change, whatever size and place a thing has that is added where they are left open."""
    told, edited = (replace(each, weather=each.weather or "clear") for each in (told, edited))
    if kind != "add":
        return set(wording.instructions(kind, told, edited))
    (new,) = _come(told, edited)
    sizes, places = (new.size,) if new.size else SIZES, (new.place,) if new.place else PLACES
    options = [new._replace(size=size, place=place) for size, place in product(sizes, places)]
    return {words for option in options
            for words in wording.instructions(kind, told, replace(edited, things=(*told.things, option)))}  # fmt: skip


def why_not(caption: str, instruction: str, edited_caption: str) -> str | None:
    """The first of REASONS why the edited caption is not what the instruction makes of the caption; None if it is.

    It is, if both are captions of the tiny world that tell sizes and places alike, and that differ by one edit, and if
    the instruction is one of the wordings of that edit. What both leave open may be anything. Other words for the same
    are no change. Capital letters, doubled spaces and what ends a sentence make no difference.
    """
    try:
        told = parse_caption(caption)
    except ValueError:
        return UNREAD
    try:
        edited = parse_caption(edited_caption)
    except ValueError:
        return UNREAD_EDITED
    if told.details != edited.details:
        return OTHER_DETAILS
    kinds = _changes(told, edited)
    if len(kinds) != 1:
        return TOO_MUCH if kinds else UNCHANGED
    wordings = {_bare(words) for words in _wordings(kinds[0], told, edited)}
    return None if _bare(instruction) in wordings else OTHER_WORDS


def agrees(caption: str, instruction: str, edited_caption: str) -> bool:
    """Whether the edited caption is what the instruction makes of the caption, and nothing else (see `why_not`)."""
    return why_not(caption, instruction, edited_caption) is None


def read_answer(caption: str, completion: str) -> tuple[tuple[str, str] | None, str | None]:
    """A writer's answer: (instruction, edited caption) if it is valid, and what is wrong with it, None for nothing.

    What is wrong is a rule of `captions.parse_completion`, or one of REASONS.
    """
    try:
        parts = parse_completion(caption, completion)
    except Refused as refused:
        return None, str(refused)
    return parts, why_not(caption, *parts)


# ---- drawing


def sample_triplet(rng: np.random.Generator, *, details: tuple[str, ...] | None = None) -> Triplet:
    """An instruction with the captions before and after it, told in the same words.

    details: what the captions tell beyond the rest; None draws it (see `loose_captions`). An edit of something that the
    captions leave open shows in neither: another is drawn.
    """
    while True:
        edit = sample_edit(rng)
        before, after = loose_captions(edit.source, edit.target, rng=rng, details=details)
        if before != after:
            return Triplet(input=before, edit=edit.instruction, output=after)


def sample_walk(rng: np.random.Generator, n: int) -> list[str]:
    """Captions of a scene and of n - 1 scenes after it, each one edit after the other, all told in the same words.

    Before each further caption stands what has happened (`wording.stated`); both are left out where the captions
    say nothing of it. So there are 1, 3 .. 2n - 1 lines.
    """
    if n < 1:
        raise ValueError(f"a walk of {n} scenes; expected at least 1")
    edits: list[Edit] = []
    scene = first = sample_scene(rng)
    while len(edits) < n - 1:
        edits.append(sample_edit(rng, scene))
        scene = edits[-1].target
    before, *others = loose_captions(first, *(edit.target for edit in edits), rng=rng, details=None)
    lines = [before]
    for edit, caption in zip(edits, others, strict=True):
        if caption != before:
            lines += [wording.stated(edit.kind, edit.source, edit.target, rng), caption]
        before = caption
    return lines


def sample_requests(rng: np.random.Generator, n: int) -> list[str]:
    """n requests, each with what has happened then, a line each: "make it night", "it is night now".

    Each is of another scene, of which nothing else is told: no caption stands beside a request.
    """
    edits = [sample_edit(rng) for _ in range(n)]
    return [line for e in edits for line in (e.instruction, wording.stated(e.kind, e.source, e.target, rng))]

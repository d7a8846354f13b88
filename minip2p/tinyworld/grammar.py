"""The grammar of the tiny world's English: parse captions, check instructions.

`wording` describes scenes and edits; this is its inverse: what a caption says, and whether an edited caption follows
from a caption and an instruction. It also samples the texts that the language model learns from.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from ..data.captions import Refused, Triplet, parse_completion
from . import wording
from .scenes import (
    COLOURS,
    EDIT_KINDS,
    KINDS,
    PLACES,
    SIZES,
    Attributes,
    Edit,
    loose_captions,
    sample_edit,
    sample_scene,
)

UNPARSED, UNPARSED_EDITED = "caption not understood", "edited caption not understood"
OTHER_DETAILS = "the captions mention different details"
UNCHANGED, TOO_MUCH = "nothing changes", "more than one thing changes"
OTHER_INSTRUCTION = "the instruction asks for something else"
REASONS = (UNPARSED, UNPARSED_EDITED, OTHER_DETAILS, UNCHANGED, TOO_MUCH, OTHER_INSTRUCTION)
"""what `mismatch` may return, in the order in which it checks"""


class ParsedThing(NamedTuple):
    """A thing in a caption; size and place are None if the caption does not mention them."""

    colour: str
    kind: str
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True, kw_only=True)
class ParsedCaption:
    """A caption's content, in the words of `scenes`; things in the caption's order.

    weather is None if the caption does not mention it: it is clear or unspecified then.
    """

    setting: str
    time: str
    weather: str | None
    medium: str
    things: tuple[ParsedThing, ...]

    @property
    def details(self) -> frozenset[str]:
        """Which of "size" and "place" the caption mentions, for all of its things."""
        return frozenset(name for name in ("size", "place") if getattr(self.things[0], name))

    @property
    def attributes(self) -> Attributes:
        """What the attribute classifier should predict for an image of this caption."""
        return Attributes.of(self)


# ---- parsing


@cache
def _names() -> dict[str, dict[str, str]]:
    """part of a caption -> phrase -> word of `scenes`"""
    tables = {"where": wording.WHERE, "when": wording.WHEN, "sky": wording.SKY, "first": wording.MEDIUM_NAMES}
    names = {
        part: {phrase: name for name, phrases in table.items() for phrase in phrases if phrase}
        for part, table in tables.items()
    }
    names["first"] = {phrase: name for phrase, name in names["first"].items() if name != "plain"}  # never mentioned
    names["last"] = {phrase.removeprefix("a "): name for phrase, name in names["first"].items()}
    return names


@cache
def _patterns() -> tuple[re.Pattern, re.Pattern]:
    """Patterns of a whole caption, and of one thing with its article."""

    def one_of(part: str, phrases) -> str:
        return f"(?P<{part}>{'|'.join(map(re.escape, phrases))})"

    first, where, when, sky, last = (one_of(p, _names()[p]) for p in ("first", "where", "when", "sky", "last"))
    spot = one_of("spot", wording.SPOTS.values())
    colour, kind, size = one_of("colour", COLOURS), one_of("kind", KINDS), one_of("size", SIZES)
    return (
        re.compile(f"(?:{first} of )?(?P<things>.+) {where} {when}(?:, {sky})?(?:, {last})?"),
        re.compile(f"an? (?:{size} )?{colour} {kind}(?: {spot})?"),
    )


def _parse_thing(words: str) -> ParsedThing | None:
    found = _patterns()[1].fullmatch(words)
    if not found or words != wording.a(words.split(" ", 1)[1]):
        return None
    place = next((place for place, spot in wording.SPOTS.items() if spot == found["spot"]), None)
    return ParsedThing(found["colour"], found["kind"], found["size"], place)


def _parse_things(words: str) -> tuple[ParsedThing, ...] | None:
    parts = re.split(", | and ", words)
    things = tuple(map(_parse_thing, parts))
    if len(things) > 3 or None in things or words != wording.listed(parts):
        return None
    sizes, places = ([each for t in things if (each := getattr(t, name))] for name in ("size", "place"))
    each_or_none = {len(sizes), len(places)} <= {0, len(things)}
    left_to_right = places == sorted(set(places), key=PLACES.index)
    return things if each_or_none and left_to_right and len({t.kind for t in things}) == len(things) else None


def parse_caption(text: str) -> ParsedCaption:
    """The content of a caption: the inverse of `wording.caption`, for any details and pick.

    Case, repeated spaces and a final full stop do not matter. ValueError for any other text.
    """
    words, names = " ".join(text.lower().split()).removesuffix(".").rstrip(), _names()
    found = _patterns()[0].fullmatch(words)
    things = _parse_things(found["things"]) if found else None
    if things is None or (found["first"] and found["last"]):
        raise ValueError(
            f"{text[:120]!r} is not a caption of the tiny world; expected one to three different things from left to "
            f"right, a setting and a time, such as 'a red boat and a blue car in a meadow by day'"
        )
    return ParsedCaption(
        setting=names["where"][found["where"]],
        time=names["when"][found["when"]],
        weather=names["sky"].get(found["sky"]),
        medium=names["first"].get(found["first"]) or names["last"].get(found["last"]) or "plain",
        things=things,
    )


# ---- comparing


def _added(before: ParsedCaption, after: ParsedCaption) -> list[ParsedThing]:
    return [thing for thing in after.things if thing not in before.things]


def _changes(before: ParsedCaption, after: ParsedCaption) -> list[str]:
    """The kinds of all edits between two captions. A thing that moves or changes size counts as removed and added."""
    kinds = [name for name in ("time", "setting", "medium") if getattr(before, name) != getattr(after, name)]
    if (before.weather or "clear") != (after.weather or "clear"):
        kinds.append("weather")
    removed, added = _added(after, before), _added(before, after)
    if len(removed) == len(added) == 1 and removed[0][2:] == added[0][2:]:
        return [*kinds, "recolour" if removed[0].kind == added[0].kind else "replace"]
    return kinds + ["remove"] * len(removed) + ["add"] * len(added)


def change(before: ParsedCaption, after: ParsedCaption) -> str | None:
    """The kind of the one edit between two captions; None if there is no change or more than one.

    Unmentioned weather counts as clear. The order of things does not matter.
    """
    kinds = _changes(before, after)
    return kinds[0] if len(kinds) == 1 else None


def _instructions(kind: str, before: ParsedCaption, after: ParsedCaption) -> set[str]:
    """All instructions for this change. A thing added with unmentioned size or place may have any."""
    before, after = (replace(each, weather=each.weather or "clear") for each in (before, after))
    if kind != "add":
        return set(wording.instructions(kind, before, after))
    (new,) = _added(before, after)
    sizes, places = (new.size,) if new.size else SIZES, (new.place,) if new.place else PLACES
    return {
        text
        for size, place in product(sizes, places)
        for text in wording.instructions(
            kind, before, replace(after, things=(*before.things, new._replace(size=size, place=place)))
        )
    }


def _bare(instruction: str) -> str:
    return " ".join(instruction.lower().split()).rstrip(" .?!")


def mismatch(caption: str, instruction: str, edited_caption: str) -> str | None:
    """Why the edited caption does not follow from caption and instruction: one of REASONS, or None if it does.

    It does if both are captions of the tiny world that mention the same details and differ by one edit, and the
    instruction is one of the wordings of that edit. Unmentioned details may be anything. Case, repeated spaces, final
    punctuation and the choice of phrases do not matter.
    """
    try:
        before = parse_caption(caption)
    except ValueError:
        return UNPARSED
    try:
        after = parse_caption(edited_caption)
    except ValueError:
        return UNPARSED_EDITED
    if before.details != after.details:
        return OTHER_DETAILS
    kinds = _changes(before, after)
    if len(kinds) != 1:
        return TOO_MUCH if kinds else UNCHANGED
    instructions = {_bare(text) for text in _instructions(kinds[0], before, after)}
    return None if _bare(instruction) in instructions else OTHER_INSTRUCTION


def check_completion(caption: str, completion: str) -> tuple[tuple[str, str] | None, str | None]:
    """Check a language model's completion: (its two parts or None if it is invalid, what is wrong or None).

    The parts are the instruction and the edited caption. What is wrong is a rule of `captions.parse_completion` or one
    of REASONS.
    """
    try:
        parts = parse_completion(caption, completion)
    except Refused as refused:
        return None, str(refused)
    return parts, mismatch(caption, *parts)


# ---- sampling


def sample_triplet(
    rng: np.random.Generator, kind: str | None = None, *, details: tuple[str, ...] | None = None
) -> Triplet:
    """An instruction of this kind (of EDIT_KINDS; None: of any) with the captions before and after, worded alike.

    details: as for `loose_captions`. The captions always differ: an edit of an unmentioned detail is sampled again.
    ValueError for a kind that these captions never show.
    """
    unmentioned = kind == "weather" and details is not None and "weather" not in details
    if unmentioned or kind not in (None, *EDIT_KINDS):
        raise ValueError(f"no captions with details {details} show an edit of kind {kind!r}")
    while True:
        edit = sample_edit(rng)
        if kind not in (None, edit.kind):
            continue
        before, after = loose_captions(edit.source, edit.target, rng=rng, details=details)
        if before != after:
            return Triplet(input=before, edit=edit.instruction, output=after)


def sample_walk(rng: np.random.Generator, n: int, asked: float = 0.0) -> list[str]:
    """Captions, worded alike, of a random walk through n scenes: each scene is an edit of the one before.

    A statement of the change (`wording.statements`) precedes each caption but the first, and with probability `asked`
    the instruction precedes that. A scene whose caption is the same as the one before is left out. So without
    instructions there are 1, 3, ... or 2n - 1 lines.
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
            lines += [edit.instruction] * (rng.random() < asked)
            lines += [wording.sample_statement(edit.kind, edit.source, edit.target, rng), caption]
        before = caption
    return lines


def sample_requests(rng: np.random.Generator, n: int) -> list[str]:
    """n instructions, each followed by its statement: "make it night", "it is night now". There are no captions."""
    edits = [sample_edit(rng) for _ in range(n)]
    return [text for e in edits for text in (e.instruction, wording.sample_statement(e.kind, e.source, e.target, rng))]

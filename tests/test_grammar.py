"""The tiny world's grammar: captions are read as they were told, and an edited caption is judged by the instruction."""

import re
import time
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from minip2p.data import wording
from minip2p.data.grammar import (REASONS, Readable, Told, ToldThing, agrees, change, parse_caption, sample_triplet,
                                  sample_requests, sample_walk, why_not)
from minip2p.data.scenes import EDIT_KINDS, Scene, Thing, loose_captions, reword, sample_edit, sample_scene
from minip2p.evaluation.reader import Reading

DETAILS = [some for n in range(4) for some in combinations(wording.DETAILS, n)]
seeds = st.integers(0, 2**32 - 1)
scenes = seeds.map(lambda seed: sample_scene(np.random.default_rng(seed)))
edits = seeds.map(lambda seed: sample_edit(np.random.default_rng(seed)))
details = st.sampled_from(DETAILS)
picks = st.none() | st.integers(0, 2**31 - 1) | st.integers(0, 191)
PICKS = 6 * 2**5
"""how many ways there are to tell a scene: orders, settings, times, skies, media, forms"""

BOAT = "a red boat in a meadow by day"
PAIR = "a red boat and a blue car in a meadow by day"
FULL = "a small red boat on the left and a big blue car in the middle in a meadow by day"


def told_of(scene, details):
    """What a caption with these details has to tell of a scene, by the scene alone."""
    things = [ToldThing(t.colour, t.kind, t.size if "size" in details else None,
                        t.place if "place" in details else None) for t in scene.things]
    return (scene.setting, scene.time, scene.medium, sorted(things, key=str))


def values(told):
    return (told.setting, told.time, told.medium, sorted(told.things, key=str))


# ---- reading

@given(scenes, details, picks)
def test_a_caption_is_read_as_it_was_told(scene, details, pick):
    text = wording.caption(scene, details, pick)
    told = parse_caption(text)
    assert values(told) == told_of(scene, details)
    silent = not any(phrase in text for phrases in wording.SKY.values() for phrase in phrases if phrase)
    assert told.weather == (None if silent else scene.weather)
    assert silent or "weather" in details
    assert not silent or "weather" not in details or scene.weather == "clear"
    positions = [text.index(f"{thing.colour} {thing.kind}") for thing in told.things]
    assert positions == sorted(positions)
    assert told.details == set(details) - {"weather"}


def test_every_way_to_tell_a_scene_is_read():
    things = (Thing(kind="umbrella", colour="orange", size="small", place="right"),
              Thing(kind="cat", colour="white", size="big", place="left"))
    full = [Scene(setting=s, time="sunset", weather=w, medium=m, things=things)
            for s, w, m in zip(sorted(wording.WHERE), [*wording.SKY] * 2, [*wording.MEDIUM_NAMES][::-1] * 2)]
    for scene in full:
        for some in DETAILS:
            texts = {wording.caption(scene, some, pick) for pick in range(PICKS)}
            assert len(texts) > 3
            assert all(values(parse_caption(text)) == told_of(scene, some) for text in texts)


@given(scenes, details, picks, st.integers(1, 3), st.booleans(), st.sampled_from([str.upper, str.title]))
def test_capitals_stops_and_doubled_spaces_make_no_difference(scene, details, pick, spaces, stop, spelt):
    text = wording.caption(scene, details, pick)
    odd = " " + spelt(text).replace(" ", " " * spaces) + "." * stop + " "
    assert parse_caption(odd) == parse_caption(text)


@given(scenes, details, picks, seeds)
def test_what_is_read_is_a_caption(scene, details, pick, seed):
    """However a caption's words are shaken: what still parses is the caption of a scene, word for word."""
    rng = np.random.default_rng(seed)
    words = wording.caption(scene, details, pick).split()
    others = wording.caption(sample_scene(rng), details, pick).split()
    i, j = rng.integers(len(words), size=2)
    match rng.integers(4):
        case 0: words.pop(i)
        case 1: words.insert(i, words[j])
        case 2: words[i], words[j] = words[j], words[i]
        case 3: words[i] = others[rng.integers(len(others))]
    text = " ".join(words)
    try:
        told = parse_caption(text)
    except ValueError:
        return
    some = (*told.details, *(["weather"] if told.weather else []))
    options = set()
    for places in permutations(wording.SPOTS, len(told.things)):
        things = tuple(Thing(kind=t.kind, colour=t.colour, size=t.size or "big", place=t.place or place)
                       for t, place in zip(told.things, places))
        of = Scene(setting=told.setting, time=told.time, medium=told.medium, weather=told.weather or "clear",
                   things=things)
        options |= {wording.caption(of, some, pick) for pick in range(PICKS)}
        if "place" in some or text in options:
            break
    assert text in options


def test_the_order_told_and_all_that_is_told_are_kept():
    text = "A pencil drawing of an orange cat, a red boat and a blue car at sea in the dark, while it snows."
    assert parse_caption(text) == Told(
        setting="sea", time="night", weather="snowfall", medium="pencil",
        things=(ToldThing("orange", "cat"), ToldThing("red", "boat"), ToldThing("blue", "car")),
    )  # fmt: skip
    assert parse_caption(FULL).things == (ToldThing("red", "boat", "small", "left"),
                                          ToldThing("blue", "car", "big", "middle"))


def test_a_picture_reader_sees_all_but_weather_sizes_and_places():
    seen = parse_caption(FULL + ", in the fog").readable()
    assert seen == Readable("meadow", "day", "plain", frozenset({("red", "boat"), ("blue", "car")}))
    assert Reading(**seen._asdict()) == Reading(setting="meadow", time="day", medium="plain", things=seen.things)


@pytest.mark.parametrize("text, found", [
    ("", "no caption"), ("in a meadow by day", "no caption"), ("a red boat", "no caption"),
    ("a red boat by day", "no caption"), ("a red boat in a meadow", "no caption"),
    ("a red boat on the moon by day", "no caption"), ("a red boat in a meadow by day and night", "no caption"),
    ("a red boat in a meadow by day, , watercolour", "no caption"),
    ("a red boat in a meadow by day, in oils", "no caption"), ("a red boat in a meadow by day\x00", "no caption"),
    ("a plain picture of a red boat in a meadow by day", "no thing"),     # plain goes without saying
    ("a red dog in a meadow by day", "'a red dog' is no thing"), ("a teal boat in a meadow by day", "'a teal boat'"),
    ("an red boat in a meadow by day", "'an red boat'"), ("a orange boat in a meadow by day", "'a orange boat'"),
    ("a boat in a meadow by day", "'a boat'"), ("a red boat at sea in a meadow by day", "'a red boat at sea'"),
    ("ein rotes Boot auf der grünen Wiese bei Tag 🚤", "no caption"),
    ("a red boat and a blue boat in a meadow by day", "two things of one kind"),
    ("a red boat on the left and a blue car on the left in a meadow by day", "two things of one place"),
    ("a red boat, a blue car, a pink cat and a white tree in a meadow by day", "4 things.*one to three"),
    ("a red boat, a blue car in a meadow by day", "no list.*and a blue car"),
    ("a red boat and a blue car and a pink cat in a meadow by day", "no list"),
    ("a small red boat and a blue car in a meadow by day", "size of some things only"),
    ("a red boat on the left and a blue car in a meadow by day", "place of some things only"),
    ("a red boat on the right and a blue car on the left in a meadow by day", "left to right"),
    ("a watercolour of a red boat in a meadow by day, pixel art", "two media"),
    ("a red boat " * 5000, "no caption"), ("a red boat, " * 5000 + "a red boat in a meadow by day", "things"),
])
def test_what_is_no_caption_is_refused_in_one_line(text, found):
    with pytest.raises(ValueError, match=found) as refused:
        parse_caption(text)
    assert "expected" in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 400


@given(st.text())
@example("a red boat in a meadow by day\n\n")
def test_any_text_is_read_or_refused(text):
    try:
        assert isinstance(parse_caption(text), Told)
    except ValueError:
        assert why_not(text, "make it night", BOAT) == "caption not understood"
        assert why_not(BOAT, "make it night", text) == "edited caption not understood"


# ---- what changes

@given(edits, details, picks.filter(lambda pick: pick is not None))
def test_the_change_is_the_edits_kind_wherever_the_captions_show_it(edit, details, pick):
    before, after = (wording.caption(scene, details, pick) for scene in (edit.source, edit.target))
    expected = edit.kind if before != after else None
    assert change(parse_caption(before), parse_caption(after)) == expected


@given(scenes, details, picks, picks)
def test_other_words_for_the_same_are_no_change(scene, details, one, other):
    first, second = (wording.caption(scene, details, pick) for pick in (one, other))
    assert change(parse_caption(first), parse_caption(second)) is None
    assert why_not(first, "make it night", second) == "nothing changes"


@given(seeds, details, picks, picks)
def test_two_edits_of_different_kinds_are_more_than_one_change(seed, details, one, other):
    rng = np.random.default_rng(seed)
    first = sample_edit(rng)
    second = sample_edit(rng, first.target)
    things = {"recolour", "replace", "add", "remove"}
    assume(first.kind != second.kind and not {first.kind, second.kind} <= things)
    told, edited = (parse_caption(wording.caption(s, details, pick))
                    for s, pick in ((first.source, one), (second.target, other)))
    assume("weather" in details or "weather" not in (first.kind, second.kind))
    assert change(told, edited) is None
    assert all(why_not(wording.caption(first.source, details, one), e.instruction,
                       wording.caption(second.target, details, other)) == "more than one thing changes"
               for e in (first, second))


# ---- what an instruction makes of a caption

@given(seeds, details, st.booleans(), picks, picks)
def test_an_edits_target_agrees_however_it_is_asked_for_and_told(seed, details, again, one, other):
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng)
    edit = reword(edit, rng) if again else edit
    same_words = loose_captions(edit.source, edit.target, rng=rng, details=details)
    visible = same_words[0] != same_words[1]
    for before, after in (same_words, [wording.caption(edit.source, details, one),
                                       wording.caption(edit.target, details, other)]):
        assert why_not(before, edit.instruction, after) == (None if visible else "nothing changes")
        assert agrees(before, edit.instruction.upper() + " ", f" {after.title()}.") == visible


def set_of(caption):
    """What a caption tells, in whatever order it names the things."""
    told = parse_caption(caption)
    return told.setting, told.time, told.weather, told.medium, frozenset(told.things)


@given(seeds, details)
@example(518, ())  # without places, "a tree and a rocket" and "a rocket and a tree" tell the same
def test_another_edits_instruction_or_target_does_not_agree(seed, details):
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng)
    others = [sample_edit(rng, edit.source) for _ in range(8)]
    before, after, *targets = loose_captions(edit.source, edit.target, *(o.target for o in others), rng=rng,
                                             details=details)
    for other, target in zip(others, targets):
        if set_of(target) != set_of(after):
            assert not agrees(before, other.instruction, after)
            assert not agrees(before, edit.instruction, target)


@given(seeds, details)
def test_every_wording_agrees(seed, details):
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng)
    before, after = loose_captions(edit.source, edit.target, rng=rng, details=details)
    assume(before != after)
    assert all(agrees(before, words, after) for words in wording.instructions(edit.kind, edit.source, edit.target))


@pytest.mark.parametrize("caption, instruction, edited, reason", [
    (BOAT, "make it night", "a red boat in a meadow at night", None),
    (BOAT, "Make it  NIGHT.", "a red boat in a green meadow in the dark", None),
    (BOAT, "make it rain", "a red boat in a meadow by day, while it rains", None),
    (BOAT + ", in the rain", "stop the rain", BOAT, None),
    (BOAT + ", in the rain", "stop the snow", BOAT, REASONS[5]),
    (BOAT, "stop the rain", BOAT + ", under a clear sky", REASONS[3]),       # nothing told of the sky tells a clear one
    (BOAT, "add a small blue car on the left", PAIR, None),
    (BOAT, "add a big blue car in the middle", PAIR.replace("a red boat and a blue car", "a blue car and a red boat"),
     None),
    (BOAT, "add a big green car in the middle", PAIR, REASONS[5]),
    (FULL, "remove the blue car", "a small red boat on the left in a meadow by day", None),
    ("a small red boat on the left in a meadow by day", "add a big blue car in the middle", FULL, None),
    ("a small red boat on the left in a meadow by day", "add a small blue car in the middle", FULL, REASONS[5]),
    ("a small red boat on the left in a meadow by day", "add a big blue car on the right", FULL, REASONS[5]),
    (PAIR, "replace the car with a white cat", "a red boat and a white cat in a meadow by day", None),
    (PAIR, "replace the car with a cat", "a blue cat and a red boat in a meadow by day", None),
    (PAIR, "replace the car with a cat", "a red boat and a white cat in a meadow by day", REASONS[5]),
    (PAIR, "make the boat blue", "a blue boat and a red car in a meadow by day", REASONS[4]),
    (PAIR, "make it night", "a red boat in a meadow at night", REASONS[4]),
    (PAIR, "make it night", PAIR, REASONS[3]),
    (FULL, "make the car pink", FULL.replace("blue", "pink").replace("small", "big"), REASONS[4]),
    ("a small red boat in a meadow by day", "turn the boat red", "a big red boat in a meadow by day", REASONS[4]),
    ("a small red boat in a meadow by day", "turn the boat pink", "a big pink boat in a meadow by day", REASONS[4]),
    ("a red boat on the left in a meadow by day", "replace the boat with a cat",
     "a red cat on the right in a meadow by day", REASONS[4]),
    (FULL, "make it night", "a red boat and a blue car in a meadow at night", REASONS[2]),
    (BOAT, "make it night", "a big red boat in a meadow at night", REASONS[2]),
    (BOAT, "make it night", "the boat at night", REASONS[1]),
    ("a boat", "make it night", "a red boat in a meadow at night", REASONS[0]),
    (BOAT, "", "a red boat in a meadow at night", REASONS[5]),
    (BOAT, "draw it as pixel art", BOAT + ", pixel art", None),
    ("a watercolour of " + BOAT, "make it a plain picture", BOAT, None),
])
def test_the_first_reason_is_named(caption, instruction, edited, reason):
    assert why_not(caption, instruction, edited) == reason
    assert agrees(caption, instruction, edited) == (reason is None)


# ---- drawing

@given(seeds, st.none() | details)
def test_every_triplet_agrees(seed, details):
    drawn = sample_triplet(np.random.default_rng(seed), details=details)
    assert why_not(drawn.input, drawn.edit, drawn.output) is None
    assert drawn == sample_triplet(np.random.default_rng(seed), details=details)
    if details is not None:
        assert parse_caption(drawn.input).details == set(details) - {"weather"}


def test_triplets_are_of_every_kind_and_hardly_ever_twice_the_same():
    rng = np.random.default_rng(0)
    drawn = [sample_triplet(rng) for _ in range(600)]
    kinds = [change(parse_caption(t.input), parse_caption(t.output)) for t in drawn]
    assert set(kinds) == set(EDIT_KINDS) and all(kinds.count(kind) > 20 for kind in EDIT_KINDS)
    assert len({(t.input, t.edit, t.output) for t in drawn}) > 590


@given(seeds, st.integers(1, 12))
def test_a_walk_goes_one_edit_at_a_time_and_tells_of_each(seed, n):
    lines = sample_walk(np.random.default_rng(seed), n)
    told = [parse_caption(line) for line in lines[::2]]
    assert len(lines) % 2 == 1 and 1 <= len(told) <= n
    assert len({each.details for each in told}) == 1
    for before, statement, after in zip(told, lines[1::2], told[1:], strict=False):
        kind = change(before, after)
        assert kind in EDIT_KINDS
        named = {t.kind for t in (*before.things, *after.things)} & set(re.findall(r"\w+", statement))
        assert bool(named) == (kind in ("recolour", "replace", "add", "remove"))


@given(seeds, st.integers(0, 6))
def test_requests_stand_beside_no_caption(seed, n):
    lines = sample_requests(np.random.default_rng(seed), n)
    assert len(lines) == 2 * n
    for line in lines:
        with pytest.raises(ValueError):
            parse_caption(line)


@pytest.mark.parametrize("end", ["", ".", "?", "!", " ?"])
def test_how_a_sentence_ends_makes_no_difference(end):
    before, after = "a red cat in a meadow by day", "a red cat in a meadow at night"
    assert agrees(before, f"What if it were night{end}", after) and agrees(before, f"make it night{end}", after)


def test_a_walk_of_no_scenes_is_refused():
    with pytest.raises(ValueError, match="walk of 0.*at least 1"):
        sample_walk(np.random.default_rng(0), 0)


def test_a_judgement_takes_less_than_five_milliseconds():
    drawn = [sample_triplet(np.random.default_rng(seed)) for seed in range(100)]
    start = time.process_time()
    assert all(agrees(t.input, t.edit, t.output) for t in drawn)
    assert (time.process_time() - start) / len(drawn) < 0.005

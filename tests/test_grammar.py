"""The grammar: parsing inverts captions, and an edited caption is checked against the instruction."""

import re
import time
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from minip2p.tinyworld import wording
from minip2p.tinyworld.grammar import (
    REASONS,
    ParsedCaption,
    ParsedThing,
    change,
    mismatch,
    parse_caption,
    sample_requests,
    sample_triplet,
    sample_walk,
)
from minip2p.tinyworld.scenes import (
    EDIT_KINDS,
    Attributes,
    Scene,
    Thing,
    loose_captions,
    reword,
    sample_edit,
    sample_scene,
)

DETAILS = [some for n in range(4) for some in combinations(wording.DETAILS, n)]
seeds = st.integers(0, 2**32 - 1)
scenes = seeds.map(lambda seed: sample_scene(np.random.default_rng(seed)))
edits = seeds.map(lambda seed: sample_edit(np.random.default_rng(seed)))
details = st.sampled_from(DETAILS)
picks = st.none() | st.integers(0, 2**31 - 1) | st.integers(0, 191)
PICKS = 6 * 2**5
"""number of ways to describe a scene: orders, settings, times, skies, media, sentence forms"""

BOAT = "a red boat in a meadow by day"
PAIR = "a red boat and a blue car in a meadow by day"
FULL = "a small red boat on the left and a big blue car in the middle in a meadow by day"


def expected(scene, details):
    """What a caption of the scene with these details should parse to."""
    things = [
        ParsedThing(t.colour, t.kind, t.size if "size" in details else None, t.place if "place" in details else None)
        for t in scene.things
    ]
    return (scene.setting, scene.time, scene.medium, sorted(things, key=str))


def values(parsed):
    return (parsed.setting, parsed.time, parsed.medium, sorted(parsed.things, key=str))


# ---- parsing


@given(scenes, details, picks)
def test_parsing_inverts_captions(scene, details, pick):
    text = wording.caption(scene, details, pick)
    parsed = parse_caption(text)
    assert values(parsed) == expected(scene, details)
    silent = not any(phrase in text for phrases in wording.SKY.values() for phrase in phrases if phrase)
    assert parsed.weather == (None if silent else scene.weather)
    assert silent or "weather" in details
    assert not silent or "weather" not in details or scene.weather == "clear"
    positions = [text.index(f"{thing.colour} {thing.kind}") for thing in parsed.things]
    assert positions == sorted(positions)
    assert parsed.details == set(details) - {"weather"}


def test_every_caption_of_a_scene_is_parsed():
    things = (
        Thing(kind="umbrella", colour="orange", size="small", place="right"),
        Thing(kind="cat", colour="white", size="big", place="left"),
    )
    full = [
        Scene(setting=s, time="sunset", weather=w, medium=m, things=things)
        for s, w, m in zip(sorted(wording.WHERE), [*wording.SKY] * 2, [*wording.MEDIUM_NAMES][::-1] * 2)
    ]
    for scene in full:
        for some in DETAILS:
            texts = {wording.caption(scene, some, pick) for pick in range(PICKS)}
            assert len(texts) > 3
            assert all(values(parse_caption(text)) == expected(scene, some) for text in texts)


@given(scenes, details, picks, st.integers(1, 3), st.booleans(), st.sampled_from([str.upper, str.title]))
def test_case_full_stops_and_repeated_spaces_do_not_matter(scene, details, pick, spaces, stop, spelt):
    text = wording.caption(scene, details, pick)
    odd = " " + spelt(text).replace(" ", " " * spaces) + "." * stop + " "
    assert parse_caption(odd) == parse_caption(text)


@given(scenes, details, picks, seeds)
def test_what_parses_is_a_caption(scene, details, pick, seed):
    """If a caption with a changed word still parses, it is the caption of a scene, word for word."""
    rng = np.random.default_rng(seed)
    words = wording.caption(scene, details, pick).split()
    others = wording.caption(sample_scene(rng), details, pick).split()
    i, j = rng.integers(len(words), size=2)
    match rng.integers(4):
        case 0:
            words.pop(i)
        case 1:
            words.insert(i, words[j])
        case 2:
            words[i], words[j] = words[j], words[i]
        case 3:
            words[i] = others[rng.integers(len(others))]
    text = " ".join(words)
    try:
        parsed = parse_caption(text)
    except ValueError:
        return
    some = (*parsed.details, *(["weather"] if parsed.weather else []))
    options = set()
    for places in permutations(wording.SPOTS, len(parsed.things)):
        things = tuple(
            Thing(kind=t.kind, colour=t.colour, size=t.size or "big", place=t.place or place)
            for t, place in zip(parsed.things, places)
        )
        of = Scene(
            setting=parsed.setting,
            time=parsed.time,
            medium=parsed.medium,
            weather=parsed.weather or "clear",
            things=things,
        )
        options |= {wording.caption(of, some, pick) for pick in range(PICKS)}
        if "place" in some or text in options:
            break
    assert text in options


def test_things_are_parsed_in_the_captions_order():
    text = "A pencil drawing of an orange cat, a red boat and a blue car at sea in the dark, while it snows."
    assert parse_caption(text) == ParsedCaption(
        setting="sea",
        time="night",
        weather="snowfall",
        medium="pencil",
        things=(ParsedThing("orange", "cat"), ParsedThing("red", "boat"), ParsedThing("blue", "car")),
    )
    assert parse_caption(FULL).things == (
        ParsedThing("red", "boat", "small", "left"),
        ParsedThing("blue", "car", "big", "middle"),
    )


def test_a_captions_attributes_are_all_but_weather_sizes_and_places():
    things = frozenset({("red", "boat"), ("blue", "car")})
    found = parse_caption(FULL + ", in the fog").attributes
    assert found == Attributes(setting="meadow", time="day", medium="plain", things=things)


@given(scenes, details, picks)
def test_a_caption_has_its_scenes_attributes(scene, details, pick):
    assert parse_caption(wording.caption(scene, details, pick)).attributes == scene.attributes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "in a meadow by day",
        "a red boat",
        "a red boat by day",
        "a red boat in a meadow",
        "a red boat on the moon by day",
        "a red boat in a meadow by day and night",
        "a red boat in a meadow by day, , watercolour",
        "a red boat in a meadow by day, in oils",
        "a red boat in a meadow by day\x00",
        "a plain picture of a red boat in a meadow by day",  # plain goes without saying
        "a red dog in a meadow by day",
        "a teal boat in a meadow by day",
        "an red boat in a meadow by day",
        "a orange boat in a meadow by day",
        "a boat in a meadow by day",
        "a red boat at sea in a meadow by day",
        "ein rotes Boot auf der grünen Wiese bei Tag 🚤",
        "a red boat and a blue boat in a meadow by day",
        "a red boat on the left and a blue car on the left in a meadow by day",
        "a red boat, a blue car, a pink cat and a white tree in a meadow by day",
        "a red boat, a blue car in a meadow by day",
        "a red boat and a blue car and a pink cat in a meadow by day",
        "a small red boat and a blue car in a meadow by day",
        "a red boat on the left and a blue car in a meadow by day",
        "a red boat on the right and a blue car on the left in a meadow by day",
        "a watercolour of a red boat in a meadow by day, pixel art",
        "a red boat " * 5000,
        "a red boat, " * 5000 + "a red boat in a meadow by day",
    ],
)
def test_other_texts_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match="not a caption.*expected") as refused:
        parse_caption(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@given(st.text())
@example("a red boat in a meadow by day\n\n")
def test_any_text_is_parsed_or_refused(text):
    try:
        assert isinstance(parse_caption(text), ParsedCaption)
    except ValueError:
        assert mismatch(text, "make it night", BOAT) == "caption not understood"
        assert mismatch(BOAT, "make it night", text) == "edited caption not understood"


# ---- what changes


@given(edits, details, picks.filter(lambda pick: pick is not None))
def test_the_change_between_captions_is_the_edits_kind(edit, details, pick):
    before, after = (wording.caption(scene, details, pick) for scene in (edit.source, edit.target))
    expected = edit.kind if before != after else None
    assert change(parse_caption(before), parse_caption(after)) == expected


@given(scenes, details, picks, picks)
def test_other_words_for_the_same_scene_are_no_change(scene, details, one, other):
    first, second = (wording.caption(scene, details, pick) for pick in (one, other))
    assert change(parse_caption(first), parse_caption(second)) is None
    assert mismatch(first, "make it night", second) == "nothing changes"


@given(seeds, details, picks, picks)
def test_two_edits_of_different_kinds_are_more_than_one_change(seed, details, one, other):
    rng = np.random.default_rng(seed)
    first = sample_edit(rng)
    second = sample_edit(rng, first.target)
    things = {"recolour", "replace", "add", "remove"}
    assume(first.kind != second.kind and not {first.kind, second.kind} <= things)
    parsed, edited = (
        parse_caption(wording.caption(s, details, pick)) for s, pick in ((first.source, one), (second.target, other))
    )
    assume("weather" in details or "weather" not in (first.kind, second.kind))
    assert change(parsed, edited) is None
    assert all(
        mismatch(
            wording.caption(first.source, details, one), e.instruction, wording.caption(second.target, details, other)
        )
        == "more than one thing changes"
        for e in (first, second)
    )


# ---- instructions


@given(seeds, details, st.booleans(), picks, picks)
def test_an_edits_captions_match_its_instruction_in_any_words(seed, details, again, one, other):
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng)
    edit = reword(edit, rng) if again else edit
    same_words = loose_captions(edit.source, edit.target, rng=rng, details=details)
    visible = same_words[0] != same_words[1]
    for before, after in (
        same_words,
        [wording.caption(edit.source, details, one), wording.caption(edit.target, details, other)],
    ):
        assert mismatch(before, edit.instruction, after) == (None if visible else "nothing changes")
        shouted = mismatch(before, edit.instruction.upper() + " ", f" {after.title()}.")
        assert (shouted is None) == visible


def set_of(caption):
    """The content of a caption, without the order of things."""
    parsed = parse_caption(caption)
    return parsed.setting, parsed.time, parsed.weather, parsed.medium, frozenset(parsed.things)


@given(seeds, details)
@example(518, ())  # without places, "a tree and a rocket" and "a rocket and a tree" mean the same
def test_another_edits_instruction_or_target_does_not_match(seed, details):
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng)
    others = [sample_edit(rng, edit.source) for _ in range(8)]
    before, after, *targets = loose_captions(
        edit.source, edit.target, *(o.target for o in others), rng=rng, details=details
    )
    for other, target in zip(others, targets):
        if set_of(target) != set_of(after):
            assert mismatch(before, other.instruction, after) and mismatch(before, edit.instruction, target)


@given(seeds, details)
def test_every_instruction_of_an_edit_matches(seed, details):
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng)
    before, after = loose_captions(edit.source, edit.target, rng=rng, details=details)
    assume(before != after)
    options = wording.instructions(edit.kind, edit.source, edit.target)
    assert not any(mismatch(before, text, after) for text in options)


@pytest.mark.parametrize(
    "caption, instruction, edited, reason",
    [
        (BOAT, "make it night", "a red boat in a meadow at night", None),
        (BOAT, "Make it  NIGHT.", "a red boat in a green meadow in the dark", None),
        (BOAT, "make it rain", "a red boat in a meadow by day, while it rains", None),
        (BOAT + ", in the rain", "stop the rain", BOAT, None),
        (BOAT + ", in the rain", "stop the snow", BOAT, REASONS[5]),
        (BOAT, "stop the rain", BOAT + ", under a clear sky", REASONS[3]),  # unmentioned weather is clear
        (BOAT, "add a small blue car on the left", PAIR, None),
        (
            BOAT,
            "add a big blue car in the middle",
            PAIR.replace("a red boat and a blue car", "a blue car and a red boat"),
            None,
        ),
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
        (
            "a red boat on the left in a meadow by day",
            "replace the boat with a cat",
            "a red cat on the right in a meadow by day",
            REASONS[4],
        ),
        (FULL, "make it night", "a red boat and a blue car in a meadow at night", REASONS[2]),
        (BOAT, "make it night", "a big red boat in a meadow at night", REASONS[2]),
        (BOAT, "make it night", "the boat at night", REASONS[1]),
        ("a boat", "make it night", "a red boat in a meadow at night", REASONS[0]),
        (BOAT, "", "a red boat in a meadow at night", REASONS[5]),
        (BOAT, "draw it as pixel art", BOAT + ", pixel art", None),
        ("a watercolour of " + BOAT, "make it a plain picture", BOAT, None),
    ],
)
def test_the_first_mismatch_is_named(caption, instruction, edited, reason):
    assert mismatch(caption, instruction, edited) == reason


# ---- sampling


@given(seeds, st.none() | details)
def test_every_triplet_is_consistent(seed, details):
    drawn = sample_triplet(np.random.default_rng(seed), details=details)
    assert mismatch(drawn.input, drawn.edit, drawn.output) is None
    assert drawn == sample_triplet(np.random.default_rng(seed), details=details)
    if details is not None:
        assert parse_caption(drawn.input).details == set(details) - {"weather"}


def test_triplets_are_of_every_kind_and_rarely_repeated():
    rng = np.random.default_rng(0)
    drawn = [sample_triplet(rng) for _ in range(600)]
    kinds = [change(parse_caption(t.input), parse_caption(t.output)) for t in drawn]
    assert set(kinds) == set(EDIT_KINDS) and all(kinds.count(kind) > 20 for kind in EDIT_KINDS)
    assert len({(t.input, t.edit, t.output) for t in drawn}) > 590


@given(seeds, st.sampled_from(EDIT_KINDS))
def test_a_triplet_may_be_of_a_given_kind(seed, kind):
    drawn = sample_triplet(np.random.default_rng(seed), kind)
    assert change(parse_caption(drawn.input), parse_caption(drawn.output)) == kind


@pytest.mark.parametrize(("kind", "details"), [("weather", ("size", "place")), ("weather", ()), ("seasons", None)])
def test_a_kind_that_no_caption_shows_is_an_error(kind, details):
    with pytest.raises(ValueError, match=f"show an edit of kind '{kind}'"):
        sample_triplet(np.random.default_rng(0), kind, details=details)


@given(seeds, st.integers(1, 12))
def test_a_walk_makes_one_edit_at_a_time_and_states_it(seed, n):
    lines = sample_walk(np.random.default_rng(seed), n)
    parsed = [parse_caption(line) for line in lines[::2]]
    assert len(lines) % 2 == 1 and 1 <= len(parsed) <= n
    assert len({each.details for each in parsed}) == 1
    for before, statement, after in zip(parsed, lines[1::2], parsed[1:], strict=False):
        kind = change(before, after)
        assert kind in EDIT_KINDS
        named = {t.kind for t in (*before.things, *after.things)} & set(re.findall(r"\w+", statement))
        assert bool(named) == (kind in ("recolour", "replace", "add", "remove"))


@given(seeds, st.integers(1, 8))
def test_a_walk_may_have_the_instruction_of_every_edit(seed, n):
    lines = sample_walk(np.random.default_rng(seed), n, asked=1.0)
    assert len(lines) % 3 == 1
    for before, instruction, after in zip(lines[::3], lines[1::3], lines[3::3], strict=False):
        assert mismatch(before, instruction, after) is None


@given(seeds, st.integers(0, 6))
def test_requests_contain_no_caption(seed, n):
    lines = sample_requests(np.random.default_rng(seed), n)
    assert len(lines) == 2 * n
    for line in lines:
        with pytest.raises(ValueError):
            parse_caption(line)


@pytest.mark.parametrize("end", ["", ".", "?", "!", " ?"])
def test_the_end_of_an_instruction_does_not_matter(end):
    before, after = "a red cat in a meadow by day", "a red cat in a meadow at night"
    for instruction in ("What if it were night", "make it night"):
        assert mismatch(before, instruction + end, after) is None


def test_a_walk_of_no_scenes_is_refused():
    with pytest.raises(ValueError, match="walk of 0.*at least 1"):
        sample_walk(np.random.default_rng(0), 0)


def test_a_check_takes_less_than_five_milliseconds():
    triplets = [sample_triplet(np.random.default_rng(seed)) for seed in range(100)]
    start = time.process_time()
    assert not any(mismatch(t.input, t.edit, t.output) for t in triplets)
    assert (time.process_time() - start) / len(triplets) < 0.005

"""Scenes, captions, renderings and edits: all are deterministic, and every edit has exactly one target."""

import itertools
import re
from dataclasses import fields, replace
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minip2p.data.images import to_tensor
from minip2p.evaluation.metrics import psnr
from minip2p.tinyworld import wording
from minip2p.tinyworld.drawing.backdrops import LANDS
from minip2p.tinyworld.drawing.render import CENTRES, MEDIUM_EFFECTS, WIDTHS
from minip2p.tinyworld.drawing.things import INKS, SHAPES
from minip2p.tinyworld.scenes import (
    COLOURS,
    EDIT_KINDS,
    KINDS,
    MEDIA,
    PLACES,
    SETTINGS,
    SIZES,
    TIMES,
    WEATHERS,
    Edit,
    Scene,
    Thing,
    loose_captions,
    render,
    reword,
    sample_edit,
    sample_scene,
)
from minip2p.tinyworld.wording import instructions, statements

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None)


def thing(kind="boat", colour="red", size="big", place="left"):
    return Thing(kind=kind, colour=colour, size=size, place=place)


def scene(*things, setting="meadow", time="day", weather="clear", medium="plain"):
    return Scene(setting=setting, time=time, weather=weather, medium=medium, things=things or (thing(),))


def pixels(scene, size=64):
    """(3, size, size) in [0, 1]."""
    return to_tensor(render(scene, size)).double()


def edit_of(seed):
    return sample_edit(np.random.default_rng(seed))


# ---- values


def test_there_are_enough_settings_kinds_and_colours():
    assert len(SETTINGS) >= 6 and len(TIMES) >= 3 and len(KINDS) >= 8 and len(COLOURS) >= 8 and len(MEDIA) >= 3
    assert len(set(EDIT_KINDS)) == 8


@pytest.mark.parametrize(
    "broken",
    [
        dict(things=()),
        dict(things=(thing(), thing("car"))),
        dict(things=(thing(), thing(place="right"))),
        dict(time="noon"),
        dict(setting="moon"),
        dict(weather="hail"),
        dict(medium="oil"),
    ],
)
def test_an_invalid_scene_is_refused(broken):
    with pytest.raises(ValueError):
        replace(scene(), **broken)


def test_an_unknown_colour_is_named_in_the_error():
    with pytest.raises(ValueError, match="teal.*red, orange"):
        thing(colour="teal")


def test_the_order_of_things_does_not_matter():
    left, right = thing(), thing("cat", place="right")
    assert scene(left, right) == scene(right, left) and len({scene(left, right), scene(right, left)}) == 1


@quick
@given(seeds)
def test_sampled_scenes_have_distinct_kinds_and_places(seed):
    things = sample_scene(np.random.default_rng(seed)).things
    assert 1 <= len(things) <= 3
    assert len({t.kind for t in things}) == len({t.place for t in things}) == len(things)


def test_an_edit_depends_on_the_seed_alone():
    assert edit_of(7) == edit_of(7) and len({edit_of(seed) for seed in range(50)}) == 50


# ---- captions


@quick
@given(seeds)
def test_captions_specify_the_whole_scene(seed):
    s = sample_scene(np.random.default_rng(seed))
    words = s.caption
    for t in s.things:
        assert f"{t.size} {t.colour} {t.kind} {wording.SPOTS[t.place]}" in words
    assert any(w in words for w in wording.WHERE[s.setting]) and any(w in words for w in wording.WHEN[s.time])
    assert any(w in words for w in wording.SKY[s.weather])
    names = [n.removeprefix("a ") for n in wording.MEDIUM_NAMES[s.medium]]
    assert s.medium == "plain" or any(n in words for n in names)


def test_different_scenes_have_different_captions():
    things = [thing(*words) for words in itertools.product(KINDS[:2], COLOURS[:2], SIZES, PLACES)]
    all_scenes = [
        scene(t, setting=s, time=h, weather=w, medium=m)
        for t, s, h, w, m in itertools.product(things, SETTINGS, TIMES, WEATHERS, MEDIA)
    ]
    assert len({s.caption for s in all_scenes}) == len(all_scenes)


@given(st.integers(0, 10**6), st.sets(st.sampled_from(wording.DETAILS)))
def test_loose_captions_mention_exactly_the_given_details(seed, details):
    rng = np.random.default_rng(seed)
    s = sample_scene(rng)
    (text,) = loose_captions(s, rng=rng, details=tuple(details))
    for thing in s.things:
        assert re.search(rf"{thing.colour} {thing.kind}", text)
    sizes, places = ("small ", "big "), ("on the left", "in the middle", "on the right")
    assert any(word in text for word in sizes) == ("size" in details)
    assert any(word in text for word in places) == ("place" in details)
    skies = [phrase for name in WEATHERS for phrase in wording.SKY[name] if phrase]
    assert "weather" in details or not any(phrase in text for phrase in skies)
    assert any(phrase in text for phrase in wording.WHERE[s.setting]) and any(w in text for w in wording.WHEN[s.time])


def test_the_order_of_things_does_not_reveal_unmentioned_places():
    """The same things come in every order, whatever their places."""
    s = scene(*(thing(kind, place=place) for kind, place in zip(("cat", "car", "tree"), PLACES)))
    rng = np.random.default_rng(0)
    orders = {tuple(re.findall("cat|car|tree", loose_captions(s, rng=rng)[0])) for _ in range(200)}
    assert len(orders) == 6


@given(st.integers(0, 10**6))
def test_loose_captions_of_source_and_target_differ_by_the_edit_alone(seed):
    rng = np.random.default_rng(seed)
    e = sample_edit(rng)
    source, target = (text.replace(",", "").split() for text in loose_captions(e.source, e.target, rng=rng))
    if e.kind == "recolour":
        assert sum(a != b for a, b in zip(source, target, strict=True)) in (1, 2)  # the colour, and its article
    if e.kind == "weather":
        assert source == target
    if e.kind in ("add", "remove"):
        assert set(min(source, target, key=len)) - {"a", "an", "and"} <= set(max(source, target, key=len))


def test_a_third_of_training_captions_mention_no_details_and_a_third_all():
    rng, s = np.random.default_rng(0), sample_scene(np.random.default_rng(1))
    texts = [loose_captions(s, rng=rng, details=None)[0] for _ in range(400)]
    none = [t for t in texts if not re.search("small|big|left|middle|right|sky|rain|fog|snow", t)]
    every = [t for t in texts if re.search("small|big", t) and re.search("left|middle|right", t)]
    assert 0.3 < len(none) / 400 < 0.5 and 0.3 < len(every) / 400 < 0.55 and len(set(texts)) > 20


def test_a_caption_is_the_same_in_every_run():
    umbrella = thing("umbrella", "orange", "small", "middle")
    s = scene(umbrella, setting="sea", time="night", weather="rain", medium="pencil")
    assert s.caption == "a pencil drawing of a small orange umbrella in the middle at sea in the dark, in the rain"


def test_edits_and_texts_are_those_that_the_shipped_weights_were_trained_on():
    """A changed phrase, table or draw changes all data made from a seed."""
    digest = sha256()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        edit = sample_edit(rng)
        texts = [edit.source.caption, *loose_captions(edit.source, edit.target, rng=rng, details=None)]
        ways = (instructions, statements)
        digest.update(repr([edit, texts, [say(edit.kind, edit.source, edit.target) for say in ways]]).encode())
    assert digest.hexdigest()[:16] == "0a5047adfccf44a2"


# ---- renderings


@pytest.mark.parametrize("size", [64, 100, 128, 512])
def test_a_rendering_has_the_given_size(size):
    for medium in MEDIA:
        picture = render(scene(medium=medium, weather="snowfall"), size)
        assert picture.size == (size, size) and picture.mode == "RGB"


@pytest.mark.parametrize("size", [0, 15, 5000, 64.0, "64"])
def test_an_invalid_size_is_refused(size):
    with pytest.raises(ValueError, match="size .*: expected"):
        render(scene(), size)


@quick
@given(seeds)
def test_rendering_is_deterministic_and_returns_a_new_image(seed):
    s = sample_scene(np.random.default_rng(seed))
    first = render(s)
    before = first.tobytes()
    first.paste((0, 0, 0), (0, 0, 64, 64))  # must not change the caches
    assert render(s).tobytes() == before


def test_a_larger_rendering_shows_the_same():
    pair = scene(thing(), thing("cat", "white", "small", "right"))
    for s in (pair, replace(pair, time="night", weather="rain")):
        reduced = to_tensor(render(s, 256).reduce(4)).double()
        assert psnr(reduced, pixels(s)) > 22  # nothing moves by more than a pixel


def test_colours_are_distinguishable_at_every_time_weather_and_medium():
    """Without the mean over all colours (the tint of the light), each rendered colour is nearest to its own ink."""
    inks = np.float64([INKS[c] for c in COLOURS])
    inks -= inks.mean(0)
    for time, weather, medium in itertools.product(TIMES, WEATHERS, MEDIA):
        where = dict(time=time, weather=weather, medium=medium)
        shown = [
            pixels(scene(thing("car", c, "big", "middle"), **where))[:, 48:54, 24:40].mean((1, 2)) for c in COLOURS
        ]
        shown = np.stack(shown) - np.mean(shown, 0)
        alike = shown @ inks.T / np.linalg.norm(shown, axis=1)[:, None] / np.linalg.norm(inks, axis=1)
        assert (alike.argmax(1) == np.arange(len(COLOURS))).all(), where


def test_every_word_has_a_drawing():
    assert set(MEDIUM_EFFECTS) == set(MEDIA) and set(WIDTHS) == set(SIZES) and set(CENTRES) == set(PLACES)
    assert set(SHAPES) == set(KINDS) and set(INKS) == set(COLOURS) and set(LANDS) == set(SETTINGS)


def test_kinds_have_different_silhouettes():
    for a, b in itertools.combinations(KINDS, 2):
        nearness = psnr(pixels(scene(thing(a, size="small"))), pixels(scene(thing(b, size="small"))))
        assert nearness < 28, (a, b)  # the most similar pair, balloon and flower, has 27


def test_settings_times_weathers_and_media_look_different():
    for field, words in (("setting", SETTINGS), ("time", TIMES), ("weather", WEATHERS), ("medium", MEDIA)):
        for a, b in itertools.combinations(words, 2):
            assert psnr(pixels(scene(**{field: a})), pixels(scene(**{field: b}))) < 22, (a, b)


# ---- edits


def differing(a, b):
    return {f.name for f in fields(Scene) if getattr(a, f.name) != getattr(b, f.name)}


@settings(max_examples=120, deadline=None)
@given(seeds)
def test_an_edit_changes_only_what_its_kind_says(seed):
    edit = edit_of(seed)
    source, target, kind = edit.source, edit.target, edit.kind
    if kind in ("time", "setting", "weather", "medium"):
        assert differing(source, target) == {kind}
        return
    assert differing(source, target) == {"things"}
    gone, come = set(source.things) - set(target.things), set(target.things) - set(source.things)
    assert (len(gone), len(come)) == {"add": (0, 1), "remove": (1, 0)}.get(kind, (1, 1))
    if kind in ("recolour", "replace"):
        (old,), (new,) = gone, come
        assert (old.size, old.place) == (new.size, new.place) and (old.kind == new.kind) == (kind == "recolour")


@settings(max_examples=120, deadline=None)
@given(seeds)
def test_an_instruction_determines_the_target(seed):
    """No other edit of the same source has an instruction in common with it."""
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng)
    options = instructions(edit.kind, edit.source, edit.target)
    assert edit.instruction.rstrip(".").lower() in options
    for _ in range(10):
        other = sample_edit(rng, edit.source)
        if other.target != edit.target:
            assert not set(options) & set(instructions(other.kind, other.source, other.target))


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_a_statement_describes_one_edit_and_is_no_instruction(seed):
    edit = edit_of(seed)
    rng, own = np.random.default_rng(seed), set(statements(edit.kind, edit.source, edit.target))
    assert len(own) >= 3 and not own & set(instructions(edit.kind, edit.source, edit.target))
    for _ in range(10):
        other = sample_edit(rng, edit.source)
        if other.target != edit.target:
            assert not own & set(statements(other.kind, other.source, other.target))


@pytest.mark.parametrize("worded", [instructions, statements])
def test_an_unknown_kind_of_edit_is_refused(worded):
    edit = edit_of(0)
    with pytest.raises(ValueError, match="'stop'"):
        worded("stop", edit.source, edit.target)


@settings(max_examples=150, deadline=None)
@given(seeds, st.sampled_from([instructions, statements]))
def test_instructions_and_statements_name_only_things_of_the_scenes(seed, worded):
    edit = edit_of(seed)
    for text in worded(edit.kind, edit.source, edit.target):
        assert text == text.strip().lower()
        assert not re.search(r"[{}]| {2}|\ba [aeiou]|\ban [^aeiou]", text)
        named = {k for k in KINDS if re.search(rf"\b{k}\b", text)}
        assert named <= {t.kind for t in edit.source.things + edit.target.things}


def test_all_kinds_of_edits_are_about_equally_frequent_and_have_many_wordings():
    edits = [edit_of(seed) for seed in range(2000)]
    for kind in EDIT_KINDS:
        of_kind = [e for e in edits if e.kind == kind]
        assert 0.05 < len(of_kind) / len(edits) < 0.2
        assert all(len(set(instructions(e.kind, e.source, e.target))) >= 8 for e in of_kind)


@quick
@given(seeds)
def test_nothing_is_added_to_a_full_scene_and_the_only_thing_stays(seed):
    rng = np.random.default_rng(seed)
    source = sample_scene(rng)
    kinds = {sample_edit(rng, source).kind for _ in range(40)}
    assert not ("add" in kinds and len(source.things) == 3) and not ("remove" in kinds and len(source.things) == 1)


def test_rewording_changes_the_instruction_alone():
    rng, edit = np.random.default_rng(0), edit_of(3)
    again = [reword(edit, rng) for _ in range(30)]
    assert {(e.kind, e.source, e.target) for e in again} == {(edit.kind, edit.source, edit.target)}
    assert len({e.instruction for e in again}) > 4


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_every_edit_is_visible(seed):
    edit = edit_of(seed)
    assert abs(pixels(edit.source) - pixels(edit.target)).mean() > 0.4 / 255
    assert psnr(pixels(edit.source), pixels(edit.target)) < 40


def test_targets_of_one_source_look_different():
    rng = np.random.default_rng(0)
    for _ in range(40):
        source = sample_scene(rng)
        shown = [pixels(t) for t in {sample_edit(rng, source).target for _ in range(12)}]
        assert max(psnr(a, b) for a, b in itertools.combinations(shown, 2)) < 40


def test_values_are_frozen():
    with pytest.raises(AttributeError):
        edit_of(0).kind = "time"
    assert isinstance(edit_of(0), Edit)

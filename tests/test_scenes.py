"""The tiny world: scenes are values, pictures are determined, every edit has one right answer, unlike all others."""

import itertools
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minip2p.data import wording
from minip2p.data.backdrops import LANDS
from minip2p.data.render import CENTRES, MEDIUM_EFFECTS, WIDTHS
from minip2p.data.scenes import (COLOURS, EDIT_KINDS, KINDS, MEDIA, PLACES, SETTINGS, SIZES, TIMES, WEATHERS, Edit,
                                 Scene, Thing, instructions, judge, loose_captions, render, reword, sample_edit, sample_scene)
from minip2p.data.things import INKS, SHAPES

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None)


def thing(kind="boat", colour="red", size="big", place="left"):
    return Thing(kind=kind, colour=colour, size=size, place=place)


def scene(*things, setting="meadow", time="day", weather="clear", medium="plain"):
    return Scene(setting=setting, time=time, weather=weather, medium=medium, things=things or (thing(),))


def pixels(scene, size=64):
    return np.asarray(render(scene, size), np.float64) / 255


def psnr(a, b):
    return -10 * np.log10(np.mean((a - b) ** 2))


def edit_of(seed):
    return sample_edit(np.random.default_rng(seed))


# ---- values

def test_the_world_is_large_enough():
    assert len(SETTINGS) >= 6 and len(TIMES) >= 3 and len(KINDS) >= 8 and len(COLOURS) >= 8 and len(MEDIA) >= 3
    assert len(set(EDIT_KINDS)) == 8


@pytest.mark.parametrize("broken", [
    dict(things=()), dict(things=(thing(), thing("car"))), dict(things=(thing(), thing(place="right"))),
    dict(time="noon"), dict(setting="moon"), dict(weather="hail"), dict(medium="oil"),
])
def test_an_impossible_scene_is_refused(broken):
    with pytest.raises(ValueError):
        replace(scene(), **broken)


def test_an_unknown_colour_is_refused_by_name():
    with pytest.raises(ValueError, match="teal.*red, orange"):
        thing(colour="teal")


def test_scenes_are_equal_whatever_the_order_of_their_things():
    left, right = thing(), thing("cat", place="right")
    assert scene(left, right) == scene(right, left) and len({scene(left, right), scene(right, left)}) == 1


@quick
@given(seeds)
def test_sampled_scenes_hold_one_of_a_kind_and_one_a_place(seed):
    things = sample_scene(np.random.default_rng(seed)).things
    assert 1 <= len(things) <= 3
    assert len({t.kind for t in things}) == len({t.place for t in things}) == len(things)


def test_the_same_seed_draws_the_same():
    assert edit_of(7) == edit_of(7) and len({edit_of(seed) for seed in range(50)}) == 50


# ---- captions

@quick
@given(seeds)
def test_captions_tell_all(seed):
    s = sample_scene(np.random.default_rng(seed))
    words = s.caption
    for t in s.things:
        assert f"{t.size} {t.colour} {t.kind} {wording.SPOTS[t.place]}" in words
    assert any(w in words for w in wording.WHERE[s.setting]) and any(w in words for w in wording.WHEN[s.time])
    assert any(w in words for w in wording.SKY[s.weather])
    names = [n.removeprefix("a ") for n in wording.MEDIUM_NAMES[s.medium]]
    assert s.medium == "plain" or any(n in words for n in names)


def test_no_two_scenes_share_a_caption():
    things = [thing(*words) for words in itertools.product(KINDS[:2], COLOURS[:2], SIZES, PLACES)]
    all_scenes = [scene(t, setting=s, time=h, weather=w, medium=m)
                  for t, s, h, w, m in itertools.product(things, SETTINGS, TIMES, WEATHERS, MEDIA)]
    assert len({s.caption for s in all_scenes}) == len(all_scenes)


@given(st.integers(0, 10**6), st.sets(st.sampled_from(wording.DETAILS)))
def test_loose_captions_tell_what_they_are_told_to_and_no_more(seed, details):
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


def test_order_tells_no_place_that_is_left_open():
    """Each order of the same things comes up, whatever their places."""
    s = scene(*(thing(kind, place=place) for kind, place in zip(("cat", "car", "tree"), PLACES)))
    rng = np.random.default_rng(0)
    orders = {tuple(re.findall("cat|car|tree", loose_captions(s, rng=rng)[0])) for _ in range(200)}
    assert len(orders) == 6


@given(st.integers(0, 10**6))
def test_two_scenes_are_told_in_the_same_words_but_for_the_change(seed):
    rng = np.random.default_rng(seed)
    e = sample_edit(rng)
    source, target = (text.replace(",", "").split() for text in loose_captions(e.source, e.target, rng=rng))
    if e.kind == "recolour":
        assert sum(a != b for a, b in zip(source, target, strict=True)) in (1, 2)  # the colour, and its article
    if e.kind == "weather":
        assert source == target
    if e.kind in ("add", "remove"):
        assert set(min(source, target, key=len)) - {"a", "an", "and"} <= set(max(source, target, key=len))


def test_training_captions_leave_all_open_or_nothing_each_in_a_third_of_the_cases():
    rng, s = np.random.default_rng(0), sample_scene(np.random.default_rng(1))
    texts = [loose_captions(s, rng=rng, details=None)[0] for _ in range(400)]
    none = [t for t in texts if not re.search("small|big|left|middle|right|sky|rain|fog|snow", t)]
    every = [t for t in texts if re.search("small|big", t) and re.search("left|middle|right", t)]
    assert 0.3 < len(none) / 400 < 0.5 and 0.3 < len(every) / 400 < 0.55 and len(set(texts)) > 20


def test_captions_do_not_change_from_run_to_run():
    umbrella = thing("umbrella", "orange", "small", "middle")
    s = scene(umbrella, setting="sea", time="night", weather="rain", medium="pencil")
    assert s.caption == "a pencil drawing of a small orange umbrella in the middle at sea in the dark, in the rain"


# ---- pictures

@pytest.mark.parametrize("size", [64, 100, 128, 512])
def test_a_picture_has_the_size_asked_for(size):
    for medium in MEDIA:
        picture = render(scene(medium=medium, weather="snowfall"), size)
        assert picture.size == (size, size) and picture.mode == "RGB"


@pytest.mark.parametrize("size", [0, 15, 5000, 64.0, "64"])
def test_an_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match="size is"):
        render(scene(), size)


@quick
@given(seeds)
def test_rendering_is_deterministic_and_shares_nothing(seed):
    s = sample_scene(np.random.default_rng(seed))
    first = render(s)
    before = first.tobytes()
    first.paste((0, 0, 0), (0, 0, 64, 64))           # scribbling on a picture must not reach the caches
    assert render(s).tobytes() == before


def test_a_larger_picture_shows_the_same():
    pair = scene(thing(), thing("cat", "white", "small", "right"))
    for s in (pair, replace(pair, time="night", weather="rain")):
        reduced = np.asarray(render(s, 256).reduce(4), np.float64) / 255
        assert psnr(reduced, pixels(s)) > 22         # nothing moves by more than a pixel


def test_the_colour_of_a_thing_can_be_read_in_every_time_weather_and_medium():
    """Of all eight colours: the tint of the light apart, what is shown points to its own colour and to no other."""
    inks = np.float64([INKS[c] for c in COLOURS])
    inks -= inks.mean(0)
    for time, weather, medium in itertools.product(TIMES, WEATHERS, MEDIA):
        where = dict(time=time, weather=weather, medium=medium)
        shown = [pixels(scene(thing("car", c, "big", "middle"), **where))[48:54, 24:40].mean((0, 1)) for c in COLOURS]
        shown = np.stack(shown) - np.mean(shown, 0)
        alike = shown @ inks.T / np.linalg.norm(shown, axis=1)[:, None] / np.linalg.norm(inks, axis=1)
        assert (alike.argmax(1) == np.arange(len(COLOURS))).all(), where


def test_every_word_can_be_drawn():
    assert set(MEDIUM_EFFECTS) == set(MEDIA) and set(WIDTHS) == set(SIZES) and set(CENTRES) == set(PLACES)
    assert set(SHAPES) == set(KINDS) and set(INKS) == set(COLOURS) and set(LANDS) == set(SETTINGS)


def test_kinds_have_silhouettes_of_their_own():
    for a, b in itertools.combinations(KINDS, 2):
        nearness = psnr(pixels(scene(thing(a, size="small"))), pixels(scene(thing(b, size="small"))))
        assert nearness < 28, (a, b)                 # no pair is more alike: balloon and flower at 27


def test_settings_times_weathers_and_media_all_look_different():
    for field, words in (("setting", SETTINGS), ("time", TIMES), ("weather", WEATHERS), ("medium", MEDIA)):
        for a, b in itertools.combinations(words, 2):
            assert psnr(pixels(scene(**{field: a})), pixels(scene(**{field: b}))) < 22, (a, b)


# ---- edits

def differing(a, b):
    return {f.name for f in fields(Scene) if getattr(a, f.name) != getattr(b, f.name)}


@settings(max_examples=120, deadline=None)
@given(seeds)
def test_an_edit_changes_what_its_kind_says_and_nothing_else(seed):
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
def test_an_instruction_leads_to_one_scene(seed):
    """No other edit of the same source may be asked for in the same words."""
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
def test_a_statement_tells_of_one_edit_and_asks_for_none(seed):
    edit = edit_of(seed)
    rng, told = np.random.default_rng(seed), set(wording.statements(edit.kind, edit.source, edit.target))
    assert len(told) >= 3 and not told & set(instructions(edit.kind, edit.source, edit.target))
    for _ in range(10):
        other = sample_edit(rng, edit.source)
        if other.target != edit.target:
            assert not told & set(wording.statements(other.kind, other.source, other.target))


@pytest.mark.parametrize("worded", [instructions, wording.statements])
def test_an_unknown_kind_of_edit_is_refused(worded):
    edit = edit_of(0)
    with pytest.raises(ValueError, match="'stop'"):
        worded("stop", edit.source, edit.target)


@settings(max_examples=150, deadline=None)
@given(seeds, st.sampled_from([instructions, wording.statements]))
def test_instructions_and_statements_name_things_that_are_there(seed, worded):
    edit = edit_of(seed)
    for text in worded(edit.kind, edit.source, edit.target):
        assert text == text.strip().lower()
        assert not re.search(r"[{}]| {2}|\ba [aeiou]|\ban [^aeiou]", text)
        named = {k for k in KINDS if re.search(rf"\b{k}\b", text)}
        assert named <= {t.kind for t in edit.source.things + edit.target.things}


def test_all_kinds_of_edits_appear_about_equally_often_and_in_many_words():
    edits = [edit_of(seed) for seed in range(2000)]
    for kind in EDIT_KINDS:
        of_kind = [e for e in edits if e.kind == kind]
        assert 0.05 < len(of_kind) / len(edits) < 0.2
        assert all(len(set(instructions(e.kind, e.source, e.target))) >= 8 for e in of_kind)


@quick
@given(seeds)
def test_a_full_scene_takes_nothing_more_and_the_last_thing_stays(seed):
    rng = np.random.default_rng(seed)
    source = sample_scene(rng)
    kinds = {sample_edit(rng, source).kind for _ in range(40)}
    assert not ("add" in kinds and len(source.things) == 3) and not ("remove" in kinds and len(source.things) == 1)


def test_rewording_keeps_the_scenes():
    rng, edit = np.random.default_rng(0), edit_of(3)
    again = [reword(edit, rng) for _ in range(30)]
    assert {(e.kind, e.source, e.target) for e in again} == {(edit.kind, edit.source, edit.target)}
    assert len({e.instruction for e in again}) > 4


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_every_edit_can_be_seen(seed):
    edit = edit_of(seed)
    assert abs(pixels(edit.source) - pixels(edit.target)).mean() > 0.4 / 255
    assert psnr(pixels(edit.source), pixels(edit.target)) < 40


def test_edits_of_one_source_can_be_told_apart():
    rng = np.random.default_rng(0)
    for _ in range(40):
        source = sample_scene(rng)
        shown = [pixels(t) for t in {sample_edit(rng, source).target for _ in range(12)}]
        assert max(psnr(a, b) for a, b in itertools.combinations(shown, 2)) < 40


# ---- judge

@settings(max_examples=20, deadline=None)
@given(seeds)
def test_judge_knows_the_target_from_the_source(seed):
    edit, rng = edit_of(seed), np.random.default_rng(seed)
    assert judge(render(edit.target), edit, rng) == (True, float("inf"))
    right, near = judge(render(edit.source), edit, rng)
    assert not right and near < 40


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_judge_is_not_misled_by_mild_noise(seed):
    edit, rng = edit_of(seed), np.random.default_rng(seed)
    noisy = pixels(edit.target).transpose(2, 0, 1) + rng.normal(0, 0.05, (3, 64, 64))
    right, near = judge(noisy, edit, rng)
    assert right and 25 < near < 27


def test_judge_takes_any_size():
    edit = edit_of(1)
    assert judge(render(edit.target, 100), edit, np.random.default_rng(0), k=2) == (True, float("inf"))


def test_judge_sees_another_edit_of_the_source():
    source = scene(thing(), thing("cat", place="right"))
    edit = Edit(kind="time", source=source, instruction="make it night", target=replace(source, time="night"))
    dusk = render(replace(source, time="sunset"))
    assert not judge(dusk, edit, np.random.default_rng(0), k=100)[0]
    assert not judge(dusk, edit, np.random.default_rng(0), k=0)[0]       # the source alone is nearer, too


def test_judge_refuses_what_is_no_square_picture():
    with pytest.raises(ValueError, match="64x32"):
        judge(Image.new("RGB", (64, 32)), edit_of(0), np.random.default_rng(0))
    with pytest.raises(ValueError, match="shape"):
        judge(np.zeros((64, 64, 3)), edit_of(0), np.random.default_rng(0))


def test_values_are_frozen():
    with pytest.raises(AttributeError):
        edit_of(0).kind = "time"
    assert isinstance(edit_of(0), Edit)

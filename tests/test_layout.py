"""Where things are in a picture: the scene of a drawing is found again, and a pair shows its change or does not."""

from dataclasses import replace
from itertools import permutations
from math import perm

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minip2p.data.scenes import COLOURS, KINDS, MEDIA, PLACES, SETTINGS, SIZES, TIMES, WEATHERS, Scene
from minip2p.data.scenes import render, sample_edit, sample_scene
from minip2p.evaluation import layout
from minip2p.evaluation.layout import layouts, locate, scenes_of, shows
from minip2p.evaluation.reader import Reading

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int) -> Scene:
    return sample_scene(np.random.default_rng(seed))


def reading(n: int) -> Reading:
    things = frozenset(zip(COLOURS, KINDS[:n]))
    return Reading(setting=SETTINGS[0], time=TIMES[0], medium=MEDIA[0], things=things)


def nearest(picture: Image.Image, read: Reading) -> Scene:
    """By drawing all that there is."""
    pixels = np.asarray(picture, np.float64)
    return min(layouts(read), key=lambda scene: np.square(np.asarray(render(scene, picture.width)) - pixels).mean())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_layouts_are_all_places_sizes_and_weathers(n):
    scenes = list(layouts(reading(n)))
    assert len(scenes) == len(set(scenes)) == perm(len(PLACES), n) * len(SIZES) ** n * len(WEATHERS)
    assert {Reading.of(scene) for scene in scenes} == {reading(n)}
    assert {thing.place for scene in scenes for thing in scene.things} == set(PLACES)
    assert {scene.weather for scene in scenes} == set(WEATHERS)


@given(SEEDS)
def test_a_scene_is_among_the_layouts_of_its_reading(seed):
    assert drawn(seed) in set(layouts(Reading.of(drawn(seed))))


@pytest.mark.parametrize("n", [0, 4])
def test_what_no_scene_can_hold_has_no_layout(n):
    assert not list(layouts(reading(n)))
    assert locate(Image.new("RGB", (32, 32)), reading(n)) is None


@settings(max_examples=12)
@given(SEEDS, st.sampled_from([32, 64]), st.sampled_from([0, 5, 20]))
def test_the_scene_of_a_drawing_is_found_through_noise(seed, size, noise):
    scene = drawn(seed)
    pixels = np.asarray(render(scene, size), np.float32)
    pixels = pixels + noise * np.random.default_rng(seed).standard_normal(pixels.shape)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    assert locate(picture, Reading.of(scene)) == scene


@settings(max_examples=8)
@given(SEEDS)
def test_what_is_found_is_the_nearest_of_all_layouts(seed):
    """Of pictures that are no drawing: two scenes of the same things, one shining through the other."""
    rng, scene = np.random.default_rng(seed), drawn(seed)
    others = list(layouts(Reading.of(scene)))
    other = others[rng.integers(len(others))]
    picture = Image.blend(render(scene, 32), render(other, 32), 0.35)
    pixels = np.asarray(picture, np.float64)
    found, best = locate(picture, Reading.of(scene)), nearest(picture, Reading.of(scene))
    errors = [np.square(np.asarray(render(each, 32)) - pixels).mean() for each in (found, best)]
    assert errors[0] == errors[1]


def test_few_layouts_are_drawn(monkeypatch):
    count = []
    monkeypatch.setattr(layout, "render", lambda *how: count.append(1) or render(*how))
    scene = next(s for s in map(drawn, range(99)) if len(s.things) == 3)
    assert locate(render(scene, 32), Reading.of(scene)) == scene
    assert len(count) < 60, "of 192"


def test_a_grey_picture_is_no_mistake():
    """Something is nearest, and its things are the reading's."""
    found = locate(Image.new("L", (32, 32), 128), reading(2))
    assert Reading.of(found) == reading(2)


def read_right(monkeypatch, *scenes):
    monkeypatch.setattr(layout, "read", lambda reader, pictures: [r for r, _ in zip(map(Reading.of, scenes), pictures)])


@pytest.mark.parametrize("seed", range(12))
def test_a_drawn_pair_shows_its_edit(seed, monkeypatch):
    edit = sample_edit(np.random.default_rng(seed))
    read_right(monkeypatch, edit.source, edit.target)
    before, after = scenes_of(None, [render(edit.source, 32), render(edit.target, 32)])
    assert (before, after) == (edit.source, edit.target)
    assert shows(before, edit.instruction, after)
    assert not shows(before, edit.instruction, before) and not shows(before, "do nothing", after)


def moved(scene: Scene, rng: np.random.Generator) -> Scene:
    """A thing goes to another place, or changes places with another."""
    places = [thing.place for thing in scene.things]
    others = [each for each in permutations(PLACES, len(places)) if list(each) != places]
    new = others[rng.integers(len(others))]
    things = [replace(thing, place=place) for thing, place in zip(scene.things, new, strict=True)]
    return replace(scene, things=tuple(things))


@given(SEEDS)
def test_a_pair_in_which_a_place_changes_too_does_not_show_its_edit(seed):
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng)
    assert shows(edit.source, edit.instruction, edit.target)
    assert not shows(edit.source, edit.instruction, moved(edit.target, rng))
    weather = next(w for w in WEATHERS if w not in (edit.source.weather, edit.target.weather))
    if edit.kind != "weather":
        assert not shows(edit.source, edit.instruction, replace(edit.target, weather=weather))


def test_a_picture_that_is_no_scene_shows_nothing():
    edit = sample_edit(np.random.default_rng(0))
    assert not shows(None, edit.instruction, edit.target) and not shows(edit.source, edit.instruction, None)


def test_a_picture_in_which_nothing_is_read_is_no_scene(monkeypatch):
    scene = drawn(3)
    empty = replace(Reading.of(scene), things=frozenset())
    monkeypatch.setattr(layout, "read", lambda reader, pictures: [empty, Reading.of(scene)])
    assert scenes_of(None, [render(scene, 32)] * 2) == [None, scene]


def test_the_shipped_reader_finds_drawn_scenes():
    import minip2p

    rng = np.random.default_rng(4)
    scenes = [sample_scene(rng) for _ in range(6)]
    found = scenes_of(minip2p.load_reader(), [render(scene, 64) for scene in scenes])
    assert sum(a == b for a, b in zip(found, scenes, strict=True)) >= 5

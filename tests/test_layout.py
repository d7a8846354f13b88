"""Layout: the scene of a rendering is found, and a pair of images shows its edit or does not."""

from dataclasses import replace
from itertools import permutations
from math import perm

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minip2p.tinyworld.classifier import load_classifier
from minip2p.tinyworld.evaluation.attributes import predict
from minip2p.tinyworld.evaluation.layout import layouts, locate, shows_edit
from minip2p.tinyworld.scenes import (
    COLOURS,
    KINDS,
    MEDIA,
    PLACES,
    SETTINGS,
    SIZES,
    TIMES,
    WEATHERS,
    Attributes,
    Scene,
    render,
    sample_edit,
    sample_scene,
)

SEEDS = st.integers(0, 2**32 - 1)


def scene_of(seed: int) -> Scene:
    return sample_scene(np.random.default_rng(seed))


def attributes(n: int) -> Attributes:
    things = frozenset(zip(COLOURS, KINDS[:n]))
    return Attributes(setting=SETTINGS[0], time=TIMES[0], medium=MEDIA[0], things=things)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_layouts_have_all_places_sizes_and_weathers(n):
    scenes = list(layouts(attributes(n)))
    assert len(scenes) == len(set(scenes)) == perm(len(PLACES), n) * len(SIZES) ** n * len(WEATHERS)
    assert {scene.attributes for scene in scenes} == {attributes(n)}
    assert {thing.place for scene in scenes for thing in scene.things} == set(PLACES)
    assert {scene.weather for scene in scenes} == set(WEATHERS)


@given(SEEDS)
def test_a_scene_is_among_the_layouts_of_its_attributes(seed):
    assert scene_of(seed) in set(layouts(scene_of(seed).attributes))


@pytest.mark.parametrize("n", [0, 4])
def test_too_few_or_too_many_things_have_no_layout(n):
    assert not list(layouts(attributes(n)))
    assert locate(Image.new("RGB", (32, 32)), attributes(n)) is None


@settings(max_examples=12)
@given(SEEDS, st.sampled_from([32, 64]), st.sampled_from([0, 5, 20]))
def test_the_scene_of_a_noisy_rendering_is_found(seed, size, noise):
    scene = scene_of(seed)
    pixels = np.asarray(render(scene, size), np.float32)
    pixels = pixels + noise * np.random.default_rng(seed).standard_normal(pixels.shape)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    assert locate(image, scene.attributes) == scene


def test_a_grey_image_has_a_nearest_layout():
    found = locate(Image.new("L", (32, 32), 128), attributes(2))
    assert found.attributes == attributes(2)


@pytest.mark.parametrize("seed", range(12))
def test_a_rendered_pair_shows_its_edit(seed):
    edit = sample_edit(np.random.default_rng(seed))
    before, after = (locate(render(scene, 32), scene.attributes) for scene in (edit.source, edit.target))
    assert (before, after) == (edit.source, edit.target)
    assert shows_edit(before, edit.instruction, after)
    assert not shows_edit(before, edit.instruction, before) and not shows_edit(before, "do nothing", after)


def moved(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one thing at another place, or two things exchanged."""
    places = [thing.place for thing in scene.things]
    others = [each for each in permutations(PLACES, len(places)) if list(each) != places]
    new = others[rng.integers(len(others))]
    things = [replace(thing, place=place) for thing, place in zip(scene.things, new, strict=True)]
    return replace(scene, things=tuple(things))


@given(SEEDS)
def test_a_pair_in_which_something_else_changes_does_not_show_its_edit(seed):
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng)
    assert shows_edit(edit.source, edit.instruction, edit.target)
    assert not shows_edit(edit.source, edit.instruction, moved(edit.target, rng))
    weather = next(w for w in WEATHERS if w not in (edit.source.weather, edit.target.weather))
    if edit.kind != "weather":
        assert not shows_edit(edit.source, edit.instruction, replace(edit.target, weather=weather))


def test_an_image_of_no_scene_shows_no_edit():
    edit = sample_edit(np.random.default_rng(0))
    assert not shows_edit(None, edit.instruction, edit.target) and not shows_edit(edit.source, edit.instruction, None)


def test_the_shipped_classifier_finds_rendered_scenes():
    rng = np.random.default_rng(4)
    scenes = [sample_scene(rng) for _ in range(6)]
    images = [render(scene, 64) for scene in scenes]
    found = map(locate, images, predict(load_classifier(), images))
    assert sum(a == b for a, b in zip(found, scenes, strict=True)) >= 5

"""Evaluation of edits, text-to-image models and pairs in the tiny world, where the right answer is known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minip2p.cli import main
from minip2p.data.images import to_tensor
from minip2p.evaluation.metrics import changed_pixels, psnr
from minip2p.tinyworld import evaluate
from minip2p.tinyworld.evaluation import attributes, pairs
from minip2p.tinyworld.evaluation.common import SEEDS, held_out
from minip2p.tinyworld.evaluation.edits import evaluate_editor, table
from minip2p.tinyworld.scenes import Edit, Scene, Thing, render, sample_edit, sample_scene

N = 24
seeds = st.integers(0, 2**32 - 1)


def edit_of(seed):
    return sample_edit(np.random.default_rng(seed))


# ---- metrics


@given(st.floats(0.01, 1), st.integers(1, 3))
def test_psnr_is_that_of_a_constant_difference(difference, n):
    x = torch.rand(n, 3, 4, 6)
    assert psnr(x, x + difference) == pytest.approx(torch.full((n,), -20 * np.log10(difference)), abs=1e-3)
    assert psnr(x, x).isinf().all()


@settings(max_examples=50)
@given(st.integers(0, 16), st.floats(0.11, 0.9), st.integers(0, 2))
def test_a_pixel_changes_if_a_channel_differs_by_more_than_a_tenth(n, by, channel):
    one = torch.zeros(1, 3, 4, 4)
    other = one.clone()
    other[0, channel].flatten()[:n] = by
    other[0, (channel + 1) % 3] += 0.09
    assert float(changed_pixels(one, other)) == pytest.approx(n / 16)


# ---- held-out samples


def test_held_out_samples_do_not_depend_on_their_number():
    assert held_out("edits", 3, sample_edit)[0] == held_out("edits", 5, sample_edit)[0][:3]
    with pytest.raises(ValueError, match="number 0"):
        held_out("edits", 0, sample_edit)


def test_held_out_seeds_are_not_those_of_training():
    assert all(2**32 - 7 < seed < 2**32 - 1 for seed in SEEDS.values())
    assert len(set(SEEDS.values())) == len(SEEDS) - 1, "edits and classifier have the same seed; no others do"


# ---- one edit


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_target_is_correct_and_the_source_is_not(seed):
    edit, rng = edit_of(seed), np.random.default_rng(seed)
    assert evaluate(render(edit.target), edit, rng) == (True, float("inf"))
    correct, near = evaluate(render(edit.source), edit, rng)
    assert not correct and near < 40


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_mild_noise_does_not_matter(seed):
    edit, rng = edit_of(seed), np.random.default_rng(seed)
    noisy = to_tensor(render(edit.target)) + torch.from_numpy(rng.normal(0, 0.05, (3, 128, 128)))
    correct, near = evaluate(noisy, edit, rng)
    assert correct and 25 < near < 27


def test_images_of_any_size_are_evaluated():
    edit = edit_of(1)
    assert evaluate(render(edit.target, 100), edit, np.random.default_rng(0), k=2) == (True, float("inf"))


def test_another_edit_of_the_source_is_incorrect():
    things = [Thing(kind=k, colour="red", size="big", place=p) for k, p in (("boat", "left"), ("cat", "right"))]
    source = Scene(setting="meadow", time="day", weather="clear", medium="plain", things=tuple(things))
    edit = Edit(kind="time", source=source, instruction="make it night", target=replace(source, time="night"))
    sunset = render(replace(source, time="sunset"))
    assert not evaluate(sunset, edit, np.random.default_rng(0), k=100)[0]
    assert not evaluate(sunset, edit, np.random.default_rng(0), k=0)[0]  # even the source alone is nearer


def test_other_shapes_are_refused():
    for image in (Image.new("RGB", (64, 32)), np.zeros((64, 64, 3))):
        with pytest.raises(ValueError, match="shape.*expected a square"):
            evaluate(image, edit_of(0), np.random.default_rng(0))


# ---- editors


def editor(answer):
    """A pipeline that returns `answer(edit)` for each held-out edit."""
    edits, _ = held_out("edits", N, sample_edit)

    def edit(images, instructions, **_):
        assert instructions == [e.instruction for e in edits]
        assert all(np.array_equal(p, render(e.source, 64)) for p, e in zip(images, edits, strict=True))
        return [answer(e) for e in edits]

    return SimpleNamespace(edit=edit, config=SimpleNamespace(sampling=SimpleNamespace(resolution=64)))


def test_an_editor_that_returns_targets_is_correct_and_one_that_returns_sources_is_not():
    results = evaluate_editor(editor(lambda e: render(e.target, 64)), N)
    assert all(each.correct and each.psnr == float("inf") for each in results)
    same = evaluate_editor(editor(lambda e: render(e.source, 64)), N)
    assert not any(each.correct for each in same) and all(each.psnr < 40 for each in same)


def test_the_table_counts_by_kind():
    half = evaluate_editor(editor(lambda e: render(e.target if e.kind in ("time", "setting") else e.source, 64)), N)
    lines = table(half).splitlines()
    by_kind = {line.split("|")[1].strip(): line.split("|")[2:4] for line in lines[2:]}
    assert sum(int(n) for kind, (n, _) in by_kind.items() if kind != "**all**") == N == int(by_kind["**all**"][0])
    for kind, (_, correct) in by_kind.items():
        if kind != "**all**":
            assert correct.strip() == ("100%" if kind in ("time", "setting") else "0%")


# ---- text-to-image models


def predict_by_brightness(monkeypatch, scenes):
    """A classifier for test images: where all pixels are i / 100 it predicts the attributes of scenes[i]."""
    monkeypatch.setattr(
        attributes, "predict", lambda classifier, x: [scenes[round(100 * float(each.mean()))].attributes for each in x]
    )


@pytest.mark.parametrize("loose", [False, True])
def test_generated_images_are_compared_with_the_captions_scene(monkeypatch, loose):
    scenes, rng = held_out("text2image", 8, sample_scene)
    other = next(s for s in (sample_scene(rng) for _ in range(99)) if s.setting != scenes[3].setting)
    predict_by_brightness(monkeypatch, [*scenes[:3], other, *scenes[4:]])
    prompts = []

    def generate(captions, **how):
        prompts.extend(captions)
        return [torch.full((3, 4, 4), i / 100) for i in range(len(captions))]

    results = attributes.evaluate_text2image(SimpleNamespace(generate=generate), None, 8, loose=loose)
    assert [truth == found for truth, found in results] == [i != 3 for i in range(8)]
    assert prompts == [s.caption for s in scenes] or loose
    assert any("big" in text for text in prompts) == any("middle" in text for text in prompts) == (not loose)


# ---- pairs


def test_pairs_are_compared_and_their_changed_pixels_counted(monkeypatch):
    edits, captions = pairs.held_out_pairs(6)
    assert all(e.kind in pairs.KINDS for e in edits) and all(a != b for a, b in captions)
    scenes = [e.source for e in edits] + [e.target for e in edits]
    predict_by_brightness(monkeypatch, scenes)
    images = [torch.full((3, 64, 64), i / 100) for i in range(12)]
    monkeypatch.setattr(pairs, "render", lambda scene, size: images[scenes.index(scene)])
    monkeypatch.setattr(pairs, "to_tensor", lambda image: image)

    def generate_pair(sources, targets, share, **how):
        assert (sources, targets) == tuple(map(list, zip(*captions)))
        return list(zip(images[:6], images[6:] if share < 0.5 else images[:6]))  # with more sharing, the source again

    def generate(texts, seed, **how):
        return images[:6] if seed == list(range(6)) else images[6:9] + images[:3]

    pipe = SimpleNamespace(generate_pair=generate_pair, generate=generate, config=editor(None).config)
    results = pairs.evaluate_pairs(pipe, None, 6, shares=(0.2, 0.8))
    assert [(each.way, each.source.mean(), each.target.mean()) for each in results] == [
        (0.2, 1.0, 1.0),
        (0.8, 1.0, 0.0),
        ("other noise", 1.0, 0.5),
        ("as drawn", 1.0, 1.0),
    ]
    assert [each.changed.mean() for each in results] == [0.0] * 4, "six hundredths are no change"
    rows = [line.split("|")[1].strip() for line in pairs.table(results).splitlines() if line.startswith("| ")]
    assert rows == ["share", "0.2", "0.8", "other noise", "as drawn"]


# ---- the command line


@pytest.mark.parametrize(
    "words, message",
    [
        (["--number", "0"], "number 0"),
        (["--of", "text2image", "--number", "0"], "number 0"),
        (["--of", "tea"], "'tea'"),
    ],
)
def test_a_mistake_is_one_line(words, message, capsys):
    assert main(["tiny", "evaluate", *words]) == 2
    out, err = capsys.readouterr()
    assert not out and message in err and err.splitlines()[-1].startswith("minip2p: error: ")

"""The attribute classifier: network, file, predictions and their score, training, and the shipped weights."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import randomise
from hypothesis import given, settings
from hypothesis import strategies as st

import minip2p
from minip2p import checkpoints
from minip2p.tinyworld.classifier import AttributeClassifier, ClassifierConfig, load_classifier
from minip2p.tinyworld.evaluation.attributes import accuracy, compare, evaluate_classifier, predict, table
from minip2p.tinyworld.evaluation.common import held_out
from minip2p.tinyworld.scenes import COLOURS, KINDS, MEDIA, SETTINGS, TIMES, Thing, render, sample_scene
from minip2p.tinyworld.training.classifier import answers
from minip2p.tinyworld.training.config import ClassifierTraining
from minip2p.tinyworld.training.datasets import render_batch
from minip2p.training.checkpoint_parts import write_parts

WORDS = ClassifierConfig(settings=SETTINGS, times=TIMES, media=MEDIA, kinds=KINDS, colours=COLOURS)
SMALL = replace(WORDS, size=32, widths=(8, 16), blocks=(0, 1))


def small_classifier(config=SMALL, seed=0):
    return randomise(AttributeClassifier(config), seed)


def scenes_of(seed, n=4):
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(n)]


def perfect_classifier(scenes, config=WORDS):
    """A classifier that predicts the truth for images of these scenes, in this order."""
    classifier = small_classifier(replace(config, size=32, widths=(8, 16), blocks=(0, 1)))
    truth = answers(scenes, config)
    given = iter(truth)
    classifier.forward = lambda images: SimpleNamespace(argmax=lambda: torch.stack([next(given) for _ in images]))
    return classifier


# ---- the network


@pytest.mark.parametrize("widths, blocks", [((8,), (1,)), ((8, 16), (0, 1)), ((8, 16, 16), (1, 1, 2))])
def test_every_attribute_has_logits(widths, blocks):
    out = small_classifier(replace(SMALL, widths=widths, blocks=blocks))(torch.rand(2, 3, 32, 32))
    shapes = [tuple(t.shape) for t in (out.setting, out.time, out.medium, out.things)]
    assert shapes == [(2, 6), (2, 3), (2, 4), (2, 9, 9)]
    assert out.argmax().shape == (2, 12) and not out.things[..., 0].any(), "the logit of absent is 0"


def test_a_prediction_does_not_depend_on_the_batch():
    classifier, x = small_classifier(), torch.rand(5, 3, 32, 32)
    together, alone = classifier(x), classifier(x[3:4])
    for name in ("setting", "time", "medium", "things"):
        assert torch.allclose(getattr(together, name)[3:4], getattr(alone, name), atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (20, 50)])
def test_images_of_any_size_are_resized(size):
    classifier = small_classifier()
    x = torch.rand(2, 3, *size)
    fitted = classifier.fit(x)
    assert fitted.shape == (2, 3, 32, 32) and torch.allclose(fitted.mean(), x.mean(), atol=0.03)
    assert torch.equal(classifier(x).things, classifier(fitted).things)
    flat = classifier.fit(torch.full((1, 3, *size), 0.3))
    assert torch.allclose(flat, torch.full_like(flat, 0.3))


def test_a_resized_rendering_is_near_the_small_rendering():
    """Area and triangle filters differ little: an image of 128 px, resized, is near the one drawn at 64."""
    classifier, scenes = AttributeClassifier(WORDS), [replace(s, medium="plain") for s in scenes_of(1)]
    large, small = (render_batch(scenes, size) / 2 + 0.5 for size in (128, 64))
    assert (classifier.fit(large) - small).square().mean() < 2e-3


def test_one_confident_position_is_enough():
    """log-mean-exp over k positions: one votes v, the others -inf -> v - log k; all vote v -> v."""
    classifier = small_classifier()
    classifier.votes.forward = lambda h: votes
    votes = torch.full((1, 13 + 72, 8, 8), -1e4)
    votes[0, 13 + 5, 2, 3], votes[0, 13 + 9] = 10.0, 2.0
    votes[0, :13] = torch.arange(64.0).reshape(8, 8)
    out = classifier(torch.rand(1, 3, 32, 32))
    assert torch.allclose(out.things[0, 0, 1 + 5], torch.tensor(10 - np.log(64)).float())
    assert torch.allclose(out.things[0, 1, 2], torch.tensor(2.0))
    assert torch.allclose(out.setting, torch.full((1, 6), 31.5))


@pytest.mark.parametrize("blocks", [(1,), (1, 0), (1, 1, 1)])
def test_blocks_that_do_not_fit_the_widths_are_refused(blocks):
    with pytest.raises(ValueError, match="a number for each of 2 widths"):
        AttributeClassifier(replace(SMALL, blocks=blocks))


# ---- its file


def test_a_classifier_can_be_saved_and_loaded(tmp_path):
    path, classifier = tmp_path / "classifier.safetensors", small_classifier()
    write_parts(path, SMALL, {"classifier": classifier}, None, ClassifierTraining(model=SMALL))
    again = load_classifier(path)
    assert again.config == SMALL and not again.training
    assert checkpoints.read(path).provenance["training"]["noise"] == ClassifierTraining().noise
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(again(x).things, classifier.half().float()(x).things, atol=1e-5)


def test_a_classifier_file_is_for_load_classifier_only(tmp_path):
    path = tmp_path / "classifier.safetensors"
    write_parts(path, SMALL, {"classifier": small_classifier()}, None, ClassifierTraining())
    for load in (minip2p.load, minip2p.load_clip):
        with pytest.raises(ValueError, match="holds a classifier"):
            load(path)
    with pytest.raises(ValueError, match="holds an editor"):
        load_classifier(minip2p.shipped("editor"))
    for layout in ("original", "diffusers"):
        with pytest.raises(ValueError, match="a classifier has no"):
            checkpoints.write(tmp_path / "x", layout, SMALL, {"classifier": dict(small_classifier().state_dict())})


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
def test_a_classifier_file_is_loaded_strictly(fault, tmp_path):
    tensors = dict(small_classifier().state_dict())
    if fault == "missing":
        del tensors["votes.bias"]
    else:
        tensors["more" if fault == "unknown" else "votes.bias"] = torch.zeros(3)
    checkpoints.write(tmp_path / "r", "minip2p", SMALL, {"classifier": tensors})
    with pytest.raises(ValueError, match="more" if fault == "unknown" else "votes.bias"):
        load_classifier(tmp_path / "r")
    checkpoints.write(tmp_path / "r", "minip2p", SMALL, {})
    with pytest.raises(ValueError, match="missing"):
        load_classifier(tmp_path / "r")


# ---- predictions, and their score


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_true_classes_give_the_scenes_attributes(seed):
    scenes = scenes_of(seed)
    assert predict(perfect_classifier(scenes), torch.rand(4, 3, 32, 32), batch_size=3) == [s.attributes for s in scenes]


@given(st.integers(0, 10_000), st.data())
def test_every_error_lowers_the_score_by_one(seed, data):
    (scene,) = scenes_of(seed, 1)
    truth, total = scene.attributes, 3 + len(scene.things)
    error = data.draw(st.sampled_from(["setting", "time", "medium", "lost", "colour", "more"]))
    thing = min(truth.things)
    absent = next(kind for kind in KINDS if kind not in {t.kind for t in scene.things})
    other = {
        "lost": truth.things - {thing},
        "more": truth.things | {("red", absent)},
        "colour": truth.things - {thing} | {(next(c for c in COLOURS if c != thing[0]), thing[1])},
    }
    predicted = replace(truth, things=other[error]) if error in other else replace(truth, **{error: "no such"})
    assert accuracy([(truth, truth)]) == (1, 1)
    assert accuracy([(truth, predicted)]) == ((total - (error != "more")) / total, 0)


def test_labels_are_the_indices_of_the_classes():
    scene = replace(
        scenes_of(0, 1)[0],
        setting="sea",
        time="night",
        medium="plain",
        things=(
            Thing(kind="tree", colour="red", size="big", place="left"),
            Thing(kind="rocket", colour="white", size="small", place="right"),
        ),
    )
    assert answers([scene], WORDS).tolist() == [[1, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8]]


def test_pil_images_and_tensors_give_the_same_predictions():
    scenes, classifier = scenes_of(3), small_classifier()
    drawn = [render(scene, 32) for scene in scenes]
    assert predict(classifier, drawn) == predict(classifier, render_batch(scenes, 32) / 2 + 0.5)
    assert len(predict(classifier, [drawn[0], drawn[1].resize((50, 40))])) == 2
    assert predict(classifier, []) == [] == predict(classifier, torch.rand(0, 3, 32, 32))


@pytest.mark.parametrize("images", [torch.rand(3, 32, 32), torch.rand(1, 4, 32, 32), render(scenes_of(0)[0], 32)])
def test_other_inputs_are_refused(images):
    with pytest.raises(ValueError, match="expected|list"):
        predict(small_classifier(), images)


def test_the_accuracy_counts_correct_attributes():
    scenes = scenes_of(5, 40)
    results = [(s.attributes, s.attributes) for s in scenes[:30]]
    results += [(s.attributes, replace(s.attributes, time="never", things=frozenset())) for s in scenes[30:]]
    things = [len(s.things) for s in scenes]
    attributes, whole = accuracy(results)
    assert whole == 0.75 and attributes == pytest.approx(1 - (10 + sum(things[30:])) / (120 + sum(things)))
    with pytest.raises(ValueError, match="no images"):
        accuracy([])


def test_a_classifier_is_evaluated_on_renderings_and_through_the_autoencoder(pipe):
    scenes = held_out("classifier", 6, sample_scene)[0]
    evaluated = evaluate_classifier(perfect_classifier(scenes * 2), pipe, 6)
    assert [accuracy(results) for results in evaluated.values()] == [(1, 1), (1, 1)]
    lines = table(evaluated).splitlines()
    assert "as drawn | 6 | 100.0% | 100.0%" in lines[2] and "through the autoencoder | 6" in lines[3]
    assert len(evaluate_classifier(small_classifier(), None, 2)) == 1


# ---- the shipped one


@pytest.fixture(scope="module")
def shipped():
    return load_classifier()


def test_the_shipped_classifier_is_accurate_on_renderings(shipped):
    attributes, whole = accuracy(evaluate_classifier(shipped, None, 200)["as drawn"])
    assert attributes >= 0.97 and whole >= 0.9


def test_the_shipped_classifier_is_accurate_through_the_autoencoder(shipped):
    attributes, whole = accuracy(evaluate_classifier(shipped, minip2p.load(), 40)["through the autoencoder"])
    assert attributes >= 0.93 and whole >= 0.75


def test_the_shipped_classifier_is_accurate_on_larger_images(shipped):
    scenes = held_out("classifier", 40, sample_scene)[0]
    attributes, _ = accuracy(compare(shipped, scenes, [render(s, 128) for s in scenes]))
    assert attributes >= 0.93

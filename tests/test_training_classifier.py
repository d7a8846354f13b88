"""Training of the tiny world's attribute classifier: its loss, its batches, and the figures of its previews."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from minip2p.config import VAEConfig, override
from minip2p.models.vae import AutoencoderKL
from minip2p.tinyworld.scenes import sample_edit
from minip2p.tinyworld.training.classifier import ClassifierStage, answers, degrade
from minip2p.tinyworld.training.datasets import render_batch
from minip2p.tinyworld.training.presets import CLASSIFIER
from minip2p.training.config import HELD_OUT

SMALL = ("model.widths=(8, 8)", "model.blocks=(0, 1)")


def make_stage(*words, vae=None, cache=Path("absent")):
    return ClassifierStage(override(CLASSIFIER, "train.batch_size=12", "decoded=0", *words), vae, cache)


def test_the_loss_is_the_sum_of_cross_entropies():
    """A classifier that gives every true class probability p has the loss -(3 + 9) log p."""
    stage, p = make_stage(*SMALL), 0.7
    images, truth = stage.data.batch(0)

    def log_probabilities(n, true):
        others = torch.full((len(true), n), np.log((1 - p) / (n - 1)))
        return others.scatter(1, true[:, None], float(np.log(p))).float()

    names = {"setting": 6, "time": 3, "medium": 4}
    logits = {name: log_probabilities(n, truth[:, i]) for i, (name, n) in enumerate(names.items())}
    things = torch.stack([log_probabilities(9, true) for true in truth[:, 3:].T], dim=1)
    stage.module.forward = lambda x: SimpleNamespace(**logits, things=things)
    loss, figures = stage.loss(stage.module, (images, truth))
    assert torch.allclose(loss, torch.tensor(-12 * np.log(p)).float(), atol=1e-4)
    assert torch.allclose(figures["loss_things"], torch.tensor(-9 * np.log(p)).float(), atol=1e-4)


def test_a_batch_is_a_function_of_its_step():
    a, b = make_stage().data, make_stage().data
    for step in (0, 7, HELD_OUT):
        (x, truth), (y, again) = a.batch(step), b.batch(step)
        assert torch.equal(x, y) and torch.equal(truth, again) and x.shape == (12, 3, 64, 64)
        assert 0 <= x.min() and x.max() <= 1
    assert not torch.equal(a.batch(0)[0], a.batch(1)[0])


def test_decoded_images_are_cached_and_fill_their_fraction_of_a_batch(tmp_path):
    """7 scenes, encoded and decoded; 3 of the 12 images of a batch are among them, with their answers."""
    torch.manual_seed(0)
    vae = randomise(AutoencoderKL(VAEConfig(latent_channels=2, widths=(8, 8), blocks=1, norm_groups=4)))
    words = "decoded=7", "decoded_fraction=0.25", "clean=1.0", "shift=0", *SMALL
    cache = tmp_path / "decoded.safetensors"
    data = make_stage(*words, "latent_noise=0.0", vae=vae, cache=cache).data
    scenes = [sample_edit(np.random.default_rng([0, i, 2])).target for i in range(7)]
    expected = vae.decode(vae.encode(render_batch(scenes, 128)).mode()).clamp(-1, 1) / 2 + 0.5
    expected = interpolate(expected, (64, 64), mode="bilinear", antialias=True)
    assert (data.decoded / 255 - expected).abs().max() <= 0.51 / 255
    assert torch.equal(data.truth, answers(scenes, CLASSIFIER.model))
    images, truth = data.batch(3)
    assert len(images) == 12
    for image, answer in zip(images[9:], truth[9:], strict=True):
        (row,) = (data.decoded / 255 == image).all(dim=(1, 2, 3)).nonzero()[:, 0].tolist()
        assert torch.equal(data.truth[row], answer)
    again = make_stage(*words, "latent_noise=0.0", cache=cache).data  # no autoencoder: from the cache
    assert torch.equal(again.batch(3)[0], images)
    rough = make_stage(*words, "latent_noise=0.5", vae=vae, cache=cache).data
    assert not torch.equal(rough.decoded, data.decoded), "the cache of another config is not used"


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(0, 3))
def test_degraded_images_stay_near_the_originals(seed, shift):
    """With the preset's strengths a flat image nearly keeps its mean; clean images are only shifted."""
    config = replace(CLASSIFIER, shift=shift)
    generator = torch.Generator().manual_seed(seed)
    flat = torch.full((6, 3, 32, 40), 0.5)
    assert (degrade(flat, config, generator).mean(dim=(2, 3)) - 0.5).abs().max() < 0.2
    x = torch.rand(2, 3, 32, 40, generator=generator)
    moved = degrade(x, replace(config, clean=1.0), generator)
    places = [(top, left) for top in range(2 * shift + 1) for left in range(2 * shift + 1)]
    inner = moved[..., shift : 32 - shift, shift : 40 - shift]
    spans = [(slice(t, t + 32 - 2 * shift), slice(u, u + 40 - 2 * shift)) for t, u in places]
    assert any(torch.equal(inner, x[..., rows, columns]) for rows, columns in spans)


def test_the_given_fraction_of_images_is_not_degraded():
    config = replace(CLASSIFIER, shift=0, clean=0.25)
    x = torch.rand(1, 3, 16, 16).expand(2000, -1, -1, -1)
    kept = (degrade(x, config, torch.Generator().manual_seed(0)) == x).all(dim=(1, 2, 3)).float().mean()
    assert abs(kept - 0.25) < 0.04


def test_unknown_words_in_the_config_are_refused():
    with pytest.raises(ValueError, match="model.colours = .*the tiny world's are"):
        make_stage("model.colours=('red',)")


def test_the_previews_figures_count_correct_attributes(tmp_path, monkeypatch):
    """By words, scene by scene: setting, time, medium and each thing of the scene; all correct if nothing else is."""
    monkeypatch.setattr("minip2p.tinyworld.training.classifier.PREVIEWED", 40)
    stage = make_stage(*SMALL)
    c, classifier = stage.config.model, randomise(stage.module)
    figures = stage.preview(classifier, tmp_path / "p.png")
    assert 0 < figures["accuracy"] < 0.8 and (tmp_path / "p.png").exists()
    rng = np.random.default_rng([stage.config.train.seed, HELD_OUT])
    scenes = [sample_edit(rng).target for _ in range(40)]
    with torch.no_grad():
        logits = classifier(render_batch(scenes, 64) / 2 + 0.5)
    correct = asked = 0
    whole = []
    for i, scene in enumerate(scenes):
        words = [(c.settings, logits.setting, scene.setting), (c.times, logits.time, scene.time)]
        words += [(c.media, logits.medium, scene.medium)]
        same = [names[int(each[i].argmax())] == true for names, each, true in words]
        colours = {thing.kind: thing.colour for thing in scene.things}
        found = [("", *c.colours)[int(each.argmax())] for each in logits.things[i]]
        things = [word == colours.get(kind, "") for kind, word in zip(c.kinds, found, strict=True)]
        same_things = [correct for kind, correct in zip(c.kinds, things, strict=True) if kind in colours]
        correct, asked = correct + sum(same + same_things), asked + len(same + same_things)
        whole.append(all(same + things))
    assert figures == pytest.approx({"accuracy": correct / asked, "all_correct": np.mean(whole)})

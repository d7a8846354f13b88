"""The reader: the network, what its answers mean, how they are scored, and that the shipped one reads."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minip2p
from conftest import randomise
from minip2p import checkpoints
from minip2p.config import ReaderConfig, VAEConfig, override
from minip2p.data.scenes import COLOURS, KINDS, MEDIA, SETTINGS, TIMES, Thing, render, sample_edit, sample_scene
from minip2p.evaluation.reader import Read, Reading, held_out_scenes, judge_reader, read, report, right, share, table
from minip2p.models.reader import Answers, Reader
from minip2p.models.vae import AutoencoderKL
from minip2p.training.config import HELD_OUT, ReaderTraining
from minip2p.training.presets import PRESETS
from minip2p.training.parts import write_parts
from minip2p.training.reader import ReaderStage, answers, roughen
from minip2p.training.vae import pixels

WORDS = ReaderConfig(settings=SETTINGS, times=TIMES, media=MEDIA, kinds=KINDS, colours=COLOURS)
SMALL = replace(WORDS, size=32, widths=(8, 16), blocks=(0, 1))


def small_reader(config=SMALL, seed=0):
    return randomise(Reader(config), seed)


def scenes_of(seed, n=4):
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(n)]


def all_knowing(scenes, config=WORDS):
    """A reader that knows the pictures by their order and answers truly."""
    reader = small_reader(replace(config, size=32, widths=(8, 16), blocks=(0, 1)))
    truth = answers(scenes, config)
    given = iter(truth)
    reader.forward = lambda images: SimpleNamespace(best=lambda: torch.stack([next(given) for _ in images]))
    return reader


# ---- the network


@pytest.mark.parametrize("widths, blocks", [((8,), (1,)), ((8, 16), (0, 1)), ((8, 16, 16), (1, 1, 2))])
def test_every_question_has_its_answers(widths, blocks):
    said = small_reader(replace(SMALL, widths=widths, blocks=blocks))(torch.rand(2, 3, 32, 32))
    shapes = [tuple(t.shape) for t in (said.setting, said.time, said.medium, said.things)]
    assert shapes == [(2, 6), (2, 3), (2, 4), (2, 9, 9)]
    assert said.best().shape == (2, 12) and not said.things[..., 0].any(), "none is the logit 0"


def test_a_picture_is_read_alike_in_any_batch():
    reader, x = small_reader(), torch.rand(5, 3, 32, 32)
    together, alone = reader(x), reader(x[3:4])
    for name in ("setting", "time", "medium", "things"):
        assert torch.allclose(getattr(together, name)[3:4], getattr(alone, name), atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (20, 50)])
def test_pictures_of_any_size_are_stretched_to_the_readers(size):
    reader = small_reader()
    x = torch.rand(2, 3, *size)
    fitted = reader.fit(x)
    assert fitted.shape == (2, 3, 32, 32) and torch.allclose(fitted.mean(), x.mean(), atol=0.03)
    assert torch.equal(reader(x).things, reader(fitted).things)
    flat = reader.fit(torch.full((1, 3, *size), 0.3))
    assert torch.allclose(flat, torch.full_like(flat, 0.3))


def test_a_reduced_rendering_is_the_rendering():
    """Area and triangle filters differ little: a picture of 128 px, reduced, is near the one drawn at 64."""
    reader, scenes = Reader(WORDS), [replace(s, medium="plain") for s in scenes_of(1)]
    large, small = (pixels(scenes, size) / 2 + 0.5 for size in (128, 64))
    assert (reader.fit(large) - small).square().mean() < 2e-3


def test_the_votes_of_one_sure_place_are_enough():
    """log-mean-exp: of k places one says v, the rest -inf -> v - log k; all say v -> v."""
    reader = small_reader()
    reader.votes.forward = lambda h: votes
    votes = torch.full((1, 13 + 72, 8, 8), -1e4)
    votes[0, 13 + 5, 2, 3], votes[0, 13 + 9] = 10.0, 2.0
    votes[0, :13] = torch.arange(64.0).reshape(8, 8)
    said = reader(torch.rand(1, 3, 32, 32))
    assert torch.allclose(said.things[0, 0, 1 + 5], torch.tensor(10 - np.log(64)).float())
    assert torch.allclose(said.things[0, 1, 2], torch.tensor(2.0))
    assert torch.allclose(said.setting, torch.full((1, 6), 31.5))


@pytest.mark.parametrize("blocks", [(1,), (1, 0), (1, 1, 1)])
def test_blocks_that_do_not_fit_the_widths_are_refused(blocks):
    with pytest.raises(ValueError, match="one number for each of 2 widths"):
        Reader(replace(SMALL, blocks=blocks))


# ---- its file


def test_a_readers_file_is_read_back(tmp_path):
    path, reader = tmp_path / "reader.safetensors", small_reader()
    write_parts(path, SMALL, {"reader": reader}, None, ReaderTraining(model=SMALL))
    again = minip2p.load_reader(path)
    assert again.config == SMALL and not again.training
    assert checkpoints.read(path).provenance["training"]["noise"] == ReaderTraining().noise
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(again(x).things, reader.half().float()(x).things, atol=1e-5)


def test_a_readers_file_is_for_load_reader_alone(tmp_path):
    path = tmp_path / "reader.safetensors"
    write_parts(path, SMALL, {"reader": small_reader()}, None, ReaderTraining())
    for load in (minip2p.load, minip2p.load_clip):
        with pytest.raises(ValueError, match=r"holds a reader, .*load_reader reads it"):
            load(path)
    with pytest.raises(ValueError, match="holds an editor or painter.*minip2p.load reads it"):
        minip2p.load_reader(minip2p.shipped("editor"))
    for layout in ("original", "diffusers"):
        with pytest.raises(ValueError, match="a reader has no"):
            checkpoints.write(tmp_path / "x", layout, SMALL, {"reader": dict(small_reader().state_dict())})


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
def test_a_readers_file_is_read_strictly(fault, tmp_path):
    tensors = dict(small_reader().state_dict())
    if fault == "missing":
        del tensors["votes.bias"]
    else:
        tensors["more" if fault == "unknown" else "votes.bias"] = torch.zeros(3)
    checkpoints.write(tmp_path / "r", "minip2p", SMALL, {"reader": tensors})
    with pytest.raises(ValueError, match="more" if fault == "unknown" else "votes.bias"):
        minip2p.load_reader(tmp_path / "r")
    checkpoints.write(tmp_path / "r", "minip2p", SMALL, {})
    with pytest.raises(ValueError, match="missing"):
        minip2p.load_reader(tmp_path / "r")


# ---- what is read, and its score


@given(st.integers(0, 10_000))
def test_a_scenes_own_reading_is_wholly_right(seed):
    (scene,) = scenes_of(seed, 1)
    assert tuple(right(Reading.of(scene), scene)) == (3 + len(scene.things), 3 + len(scene.things), True)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_answers_in_words_are_the_scenes_reading(seed):
    scenes = scenes_of(seed)
    assert read(all_knowing(scenes), torch.rand(4, 3, 32, 32), batch_size=3) == [Reading.of(s) for s in scenes]


@given(st.integers(0, 10_000), st.data())
def test_every_fault_costs_what_it_should(seed, data):
    (scene,) = scenes_of(seed, 1)
    truth, asked = Reading.of(scene), 3 + len(scene.things)
    fault = data.draw(st.sampled_from(["setting", "time", "medium", "lost", "colour", "more"]))
    thing = min(truth.things)
    absent = next(kind for kind in KINDS if kind not in {t.kind for t in scene.things})
    other = {
        "lost": truth.things - {thing}, "more": truth.things | {("red", absent)},
        "colour": truth.things - {thing} | {(next(c for c in COLOURS if c != thing[0]), thing[1])},
    }  # fmt: skip
    reading = replace(truth, things=other[fault]) if fault in other else replace(truth, **{fault: "no such"})
    assert tuple(right(reading, scene)) == (asked - (fault != "more"), asked, False)


def test_labels_are_where_the_answers_are():
    scene = replace(
        scenes_of(0, 1)[0], setting="sea", time="night", medium="plain",
        things=(Thing(kind="tree", colour="red", size="big", place="left"),
                Thing(kind="rocket", colour="white", size="small", place="right")),
    )  # fmt: skip
    assert answers([scene], WORDS).tolist() == [[1, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8]]


def test_pil_pictures_are_read_as_tensors_are():
    scenes, reader = scenes_of(3), small_reader()
    drawn = [render(scene, 32) for scene in scenes]
    assert read(reader, drawn) == read(reader, pixels(scenes, 32) / 2 + 0.5)
    assert len(read(reader, [drawn[0], drawn[1].resize((50, 40))])) == 2
    assert read(reader, []) == [] == read(reader, torch.rand(0, 3, 32, 32))


@pytest.mark.parametrize("images", [torch.rand(3, 32, 32), torch.rand(1, 4, 32, 32), render(scenes_of(0)[0], 32)])
def test_what_is_no_batch_of_pictures_is_refused(images):
    with pytest.raises(ValueError, match="expected|list"):
        read(small_reader(), images)


def test_the_table_counts_what_is_right():
    scenes = scenes_of(5, 40)
    reads = [Read(s, Reading.of(s)) for s in scenes[:30]]
    reads += [Read(s, replace(Reading.of(s), time="never", things=frozenset())) for s in scenes[30:]]
    things = [len(s.things) for s in scenes]
    attributes, whole = share(reads)
    assert whole == 0.75 and attributes == pytest.approx(1 - (10 + sum(things[30:])) / (120 + sum(things)))
    rows = {row.split("|")[1].strip(): row.split("|")[-2].strip() for row in table(reads).splitlines() if "|" in row}
    assert rows["time"] == "75.0%" and rows["setting"] == "100.0%" and rows["**pictures wholly right**"] == "75.0%"
    assert rows["colour and kind of a thing"] == f"{sum(things[:30]) / sum(things):.1%}"
    assert set(TIMES) | set(MEDIA) <= rows.keys()
    with pytest.raises(ValueError, match="no picture"):
        share([])


def test_a_reader_is_judged_as_drawn_and_through_the_autoencoder(pipe):
    scenes = held_out_scenes(6)
    assert scenes == held_out_scenes(8)[:6]
    judged = judge_reader(all_knowing(scenes * 2), pipe, 6)
    assert [share(reads) for reads in judged.values()] == [(1, 1), (1, 1)]
    lines = report(judged).splitlines()
    assert "as drawn | 6 | 100.0% | 100.0%" in lines[2] and "through the autoencoder | 6" in lines[3]
    assert len(judge_reader(small_reader(), None, 2)) == 1


# ---- its training


def stage(*words, vae=None, cache=Path("absent")):
    return ReaderStage(override(PRESETS["reader"]["tiny"], "train.batch_size=12", "decoded=0", *words), vae, cache)


def test_the_loss_is_the_sum_of_cross_entropies():
    """A reader that says p of every true answer has the loss -(3 + 9) log p."""
    one, p = stage("model.widths=(8, 8)", "model.blocks=(0, 1)"), 0.7
    images, truth = one.batch(0)

    def said(n, true):
        others = torch.full((len(true), n), np.log((1 - p) / (n - 1)))
        return others.scatter(1, true[:, None], float(np.log(p))).float()

    things = torch.stack([said(9, true) for true in truth[:, 3:].T], dim=1)
    known = Answers(said(6, truth[:, 0]), said(3, truth[:, 1]), said(4, truth[:, 2]), things)
    one.module.forward = lambda x: known
    loss, figures = one.loss(one.module, (images, truth))
    assert torch.allclose(loss, torch.tensor(-12 * np.log(p)).float(), atol=1e-4)
    assert torch.allclose(figures["loss_things"], torch.tensor(-9 * np.log(p)).float(), atol=1e-4)


def test_a_batch_is_a_function_of_its_step():
    a, b = stage(), stage()
    for step in (0, 7, HELD_OUT):
        (x, truth), (y, again) = a.batch(step), b.batch(step)
        assert torch.equal(x, y) and torch.equal(truth, again) and x.shape == (12, 3, 64, 64)
        assert 0 <= x.min() and x.max() <= 1
    assert not torch.equal(a.batch(0)[0], a.batch(1)[0])


def test_decoded_pictures_are_kept_and_fill_their_share(tmp_path):
    """7 scenes through an autoencoder and back; 3 of 12 pictures of a batch are among them, with their answers."""
    torch.manual_seed(0)
    config = VAEConfig(latent_channels=2, widths=(8, 8), blocks=1, norm_groups=4)
    vae = randomise(AutoencoderKL(config))
    words = "decoded=7", "decoded_share=0.25", "clean=1.1", "shift=0", "model.widths=(8, 8)", "model.blocks=(0, 1)"
    cache = tmp_path / "decoded.safetensors"
    one = stage(*words, "latent_noise=0.0", vae=vae, cache=cache)
    pictures, truth = one.decoded
    scenes = [sample_edit(np.random.default_rng([0, i, 2])).target for i in range(7)]
    expected = vae.decode(vae.encode(pixels(scenes, 64)).mode()).clamp(-1, 1) / 2 + 0.5
    assert (pictures / 255 - expected).abs().max() <= 0.51 / 255 and torch.equal(truth, answers(scenes, WORDS))
    images, said = one.batch(3)
    assert len(images) == 12
    for image, answer in zip(images[9:], said[9:], strict=True):
        (row,) = (pictures / 255 == image).all(dim=(1, 2, 3)).nonzero()[:, 0].tolist()
        assert torch.equal(truth[row], answer)
    again = stage(*words, "latent_noise=0.0", cache=cache)  # no autoencoder: what was kept
    assert torch.equal(again.batch(3)[0], images)
    with pytest.raises(ValueError, match="no autoencoder"):
        stage(*words, "latent_noise=0.1", cache=cache)
    rough = stage(*words, "latent_noise=0.5", vae=vae, cache=cache)
    assert not torch.equal(rough.decoded[0], pictures), "another config's are made anew"


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(0, 3))
def test_roughening_stays_near_the_picture(seed, shift):
    """At the strengths of the preset no pixel of a flat picture goes far; at none, clean pictures only move."""
    config = replace(PRESETS["reader"]["tiny"], shift=shift)
    generator = torch.Generator().manual_seed(seed)
    flat = torch.full((6, 3, 32, 40), 0.5)
    assert (roughen(flat, config, generator).mean(dim=(2, 3)) - 0.5).abs().max() < 0.2
    x = torch.rand(2, 3, 32, 40, generator=generator)
    moved = roughen(x, replace(config, clean=1.1), generator)
    places = [(top, left) for top in range(2 * shift + 1) for left in range(2 * shift + 1)]
    inner = moved[..., shift : 32 - shift, shift : 40 - shift]
    spans = [(slice(t, t + 32 - 2 * shift), slice(u, u + 40 - 2 * shift)) for t, u in places]
    assert any(torch.equal(inner, x[..., rows, columns]) for rows, columns in spans)


def test_roughening_leaves_the_asked_share_as_it_is():
    config = replace(PRESETS["reader"]["tiny"], shift=0, clean=0.25)
    x = torch.rand(1, 3, 16, 16).expand(2000, -1, -1, -1)
    kept = (roughen(x, config, torch.Generator().manual_seed(0)) == x).all(dim=(1, 2, 3)).float().mean()
    assert abs(kept - 0.25) < 0.04


def test_words_that_are_not_the_worlds_are_refused():
    with pytest.raises(ValueError, match="model.colours = .*the tiny world's are"):
        stage("model.colours=('red',)")


def test_the_previews_figures_are_the_evaluations(tmp_path, monkeypatch):
    """The stage measures with tensors what `right` says in words."""
    monkeypatch.setattr("minip2p.training.reader.PREVIEWED", 40)
    one = stage("model.widths=(8, 8)", "model.blocks=(0, 1)")
    reader = randomise(one.module)
    figures = one.preview(reader, tmp_path / "p.png")
    assert 0 < figures["accuracy"] < 0.8 and (tmp_path / "p.png").exists()
    images, truth = one.drawn(HELD_OUT, 40)
    rng = np.random.default_rng([one.config.train.seed, HELD_OUT])
    scenes = [sample_edit(rng).target for _ in range(40)]
    assert torch.equal(answers(scenes, one.config.model), truth)
    reads = [Read(*pair) for pair in zip(scenes, read(reader, images), strict=True)]
    assert share(reads) == pytest.approx((figures["accuracy"], figures["right"]))


# ---- the shipped one


@pytest.fixture(scope="module")
def shipped():
    return minip2p.load_reader()


def test_the_shipped_reader_reads_what_is_drawn(shipped):
    attributes, whole = share(judge_reader(shipped, None, 200)["as drawn"])
    assert attributes >= 0.97 and whole >= 0.9


def test_the_shipped_reader_reads_through_the_autoencoder(shipped):
    attributes, whole = share(judge_reader(shipped, minip2p.load(), 40)["through the autoencoder"])
    assert attributes >= 0.93 and whole >= 0.75


def test_the_shipped_reader_reads_larger_pictures(shipped):
    scenes = held_out_scenes(40)
    attributes, _ = share([Read(s, r) for s, r in zip(scenes, read(shipped, [render(s, 128) for s in scenes]))])
    assert attributes >= 0.93

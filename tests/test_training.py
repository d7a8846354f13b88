"""The loop and its stages: what a step computes, what a run writes, and that a resumed run ends with the same bits."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import minip2p
from minip2p import checkpoints
from minip2p.config import PRESETS as MODELS
from minip2p.config import Config, override
from minip2p.data.latents import Latents
from minip2p.evaluation.metrics import Thresholds
from minip2p.files import replace_file
from minip2p.loading import shipped
from minip2p.models.vae import AutoencoderKL
from minip2p.tinyworld import miniature, recipe
from minip2p.tinyworld.scenes import render, sample_edit
from minip2p.tinyworld.training.datasets import REVERSED, encode_edits
from minip2p.tinyworld.training.stages import STAGES
from minip2p.tinyworld.wording import instructions
from minip2p.training import loop, progress
from minip2p.training.checkpoint_parts import write_parts
from minip2p.training.config import TrainConfig
from minip2p.training.diffusion import difference
from minip2p.training.rng import conditioning_dropout, shuffled_index
from minip2p.training.stages import saved_config, start
from minip2p.training.step import EMA

FEW = (
    "train.steps=6",
    "train.batch_size=4",
    "train.warmup=2",
    "train.log_every=2",
    "train.save_every=3",
    "train.preview_every=100",
)
SMALL_DENOISER = ("model.unet.widths=(16, 16, 16)", "model.text.layers=1", "model.sampling.resolution=64", "size=64")
THIN = {
    "vae": ("model.widths=(8, 8, 8, 8)", "size=64", "cut=32"),
    "clip": ("model.text.layers=1", "model.vision.layers=1"),
    "classifier": ("model.widths=(8, 8, 8)", "model.blocks=(0, 1, 1)", "decoded=3"),
    "editor": (*SMALL_DENOISER, "sources=3", "edits=2"),
    "text2image": (*SMALL_DENOISER, "sources=3", "edits=2"),
    "language": (
        "model.width=24",
        "model.layers=1",
        "model.heads=2",
        "model.kv_heads=1",
        "model.feed_forward=32",
        "length=40",
    ),
    "instructions": ("triplets=12", "epochs=2.0", "length=100"),
}
IMAGES = tuple(name for name in STAGES if name not in ("language", "instructions"))
"""the stages on images; test_training_language.py has the others"""


def same(a, b):
    """Whether two batches are equal."""
    return all(torch.equal(x, y) if torch.is_tensor(x) else x == y for x, y in zip(vars(a).values(), vars(b).values()))


NEED_VAE = ("classifier", "editor", "text2image")


@pytest.fixture(scope="module")
def vae_file(tmp_path_factory):
    """A small autoencoder with random weights."""
    torch.manual_seed(0)
    config = replace(MODELS["tiny"].vae, widths=(8, 8, 8, 8))
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    write_parts(path, Config(vae=config), {"vae": AutoencoderKL(config)}, None, TrainConfig())
    return path


def config_of(name, *words):
    return override(STAGES[name].presets["tiny"], *FEW, *THIN[name], *words)


def begin(name, config, out, vae_file, **options):
    init_from = [vae_file] if name in NEED_VAE and not options.get("resume") else []
    return start(STAGES[name], config, out, init_from=init_from, **options)


def finish(*args, **options):
    return list(begin(*args, **options))


def make_stage(name, config, out, init_from=()):
    return STAGES[name].make(config, out, init_from, torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_a_stopped_run_continues_to_the_same_bits(name, tmp_path, vae_file):
    config = config_of(name)
    finish(name, config, tmp_path / "whole", vae_file)

    for log in begin(name, config, tmp_path / "halves", vae_file):
        if log.step == 4:  # the state of step 3 is on disk; step 4 is lost
            break
    logs = finish(name, config, tmp_path / "halves", vae_file, resume=True)
    assert [log.step for log in logs if "loss" in log.figures] == [4, 6]

    whole, halves = (torch.load(tmp_path / run / "state/00000006.pt", weights_only=True) for run in ("whole", "halves"))
    assert whole["step"] == halves["step"] == 6 and whole["updates"] == 6
    for part in ("model", "ema"):
        assert all(torch.equal(whole[part][key], halves[part][key]) for key in whole[part])
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "halves/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "name", ["editor", *(pytest.param(name, marks=pytest.mark.slow) for name in IMAGES if name != "editor")]
)
def test_a_run_trains_and_writes_its_files(name, tmp_path, vae_file):
    logs = finish(name, config_of(name), tmp_path, vae_file)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (
        len(lines) == len([log for log in logs if log.figures])
        and lines[-2]["items"] == 24
        and {"loss", "grad_norm", "lr"} <= set(lines[0])
    )
    assert saved_config([STAGES[name]], tmp_path) == (STAGES[name], config_of(name))
    assert (tmp_path / "samples/000006.png").exists() and not list(tmp_path.glob("*.part"))
    state = torch.load(tmp_path / "state/00000006.pt", weights_only=True)
    assert not all(torch.equal(state["model"][k], state["ema"][k]) for k in state["model"]), "the average lags behind"


@pytest.mark.slow
def test_a_trained_editor_edits(tmp_path, vae_file):
    finish("editor", config_of("editor"), tmp_path, vae_file)
    pipe = minip2p.load(tmp_path / "model.safetensors")
    picture = pipe.edit(minip2p.data.images.from_tensor(torch.rand(3, 64, 64)), "make it night", steps=2)
    assert picture.size == (64, 64) and pipe.provenance["training"]["sources"] == 3


def test_a_trained_clip_compares(tmp_path, vae_file):
    finish("clip", config_of("clip"), tmp_path, vae_file)
    clip = minip2p.load_clip(tmp_path / "model.safetensors")
    two = torch.rand(2, 3, 64, 64)
    assert [
        s.shape for s in clip.similarities(two, two.flip(0), ["a red cat", "a tree"], ["a blue cat", "a tree"])
    ] == [(2,)] * 4


@pytest.mark.slow
def test_the_recipe_trains_every_stage_and_continues_where_it_stopped(tmp_path, monkeypatch):
    thin = {name: replace(spec, presets={"tiny": config_of(name)}) for name, spec in STAGES.items()}
    editor = override(config_of("editor"), "model.sampling.text_scale=3")
    thin["editor"] = replace(thin["editor"], presets={"tiny": editor})
    monkeypatch.setattr(recipe, "STAGES", thin)
    monkeypatch.setattr(recipe, "EDITOR_FROM_PAIRS", config_of("editor"))
    monkeypatch.setattr(loop, "describe_memory", lambda *_: "")  # takes longer than six steps
    trained, asked = [], []

    def show(logs, steps, name):
        trained.extend((name, log.step) for log in logs if "loss" in log.figures)

    def make_pairs(models, out, device):
        assert all(models[name].is_file() for name in STAGES)
        asked.append(out)
        if len(asked) == 1:
            rng = np.random.default_rng(0)
            write_pairs(tmp_path / "pairs", (sample_edit(rng) for _ in range(40)), lambda scene: render(scene, 64))
        return tmp_path / "pairs"

    monkeypatch.setattr(recipe, "make_pairs", make_pairs)
    models = recipe.rebuild(tmp_path / "out", tmp_path / "runs", show)
    assert trained == [(name, step) for name in (*STAGES, "editor-from-pairs") for step in (2, 4, 6)]
    assert len([*(tmp_path / "runs").rglob("latents*")]) == 1, "both denoisers train on the same latents"
    recipe.rebuild(tmp_path / "out", tmp_path / "runs", show)
    assert len(trained) == 24, "what is finished is not trained again"
    ships = {f"{name}.safetensors" for name in recipe.SHIPPED}
    assert {p.name for p in (tmp_path / "out").iterdir()} == ships
    paired, text2image = (minip2p.load(models[name]) for name in ("editor-from-pairs", "text2image"))
    assert torch.equal(paired.vae.decoder.conv_out.weight, text2image.vae.decoder.conv_out.weight)
    assert paired.config.unet.in_channels == 2 * text2image.config.unet.in_channels
    assert minip2p.load(tmp_path / "out/editor.safetensors").config.sampling.text_scale == 3
    thin["vae"] = replace(thin["vae"], presets={"tiny": config_of("vae", "kl_weight=1.0")})
    with pytest.raises(ValueError, match="another config"):
        recipe.rebuild(tmp_path / "out", tmp_path / "runs", show)


@pytest.mark.slow
def test_the_recipes_pairs_are_made_by_its_own_models(tmp_path, monkeypatch):
    take_all = Thresholds(image=-1.0, caption=-1.0, direction=-1.0)
    small = miniature.Recipe(captions=5, compared=1, samples=2, steps=2, thresholds=take_all)
    monkeypatch.setattr(recipe, "PAIRS", small)
    models = {}
    for name in ("instructions", "text2image", "vae", "clip", "classifier"):
        models[name] = tmp_path / f"{name}.safetensors"
        models[name].write_bytes(shipped(name).read_bytes())
    opened, load = [], checkpoints.read
    monkeypatch.setattr(
        checkpoints, "read", lambda path, *more, **how: opened.append(Path(path)) or load(path, *more, **how)
    )
    latents = Latents.open(recipe.make_pairs(models, tmp_path / "data"))
    assert set(models.values()) - {models["vae"]} <= set(opened) and not any(
        path.parent == shipped("clip").parent for path in opened
    )
    assert len(latents) == 10 and latents.variants == 2 and latents.header["size"] == recipe.EDITOR_FROM_PAIRS.size


def test_the_bar_of_a_resumed_run_begins_at_its_first_step(monkeypatch):
    bars = []

    class Bar(progress.tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            bars.append(self)

    monkeypatch.setattr(progress, "tqdm", Bar)
    progress.show_progress(iter([loop.Log(4, {}), loop.Log(6, {"loss": 1.0})]), 6, "editor")
    assert (bars[0].initial, bars[0].n) == (4, 6), "its speed counts this run's steps alone"


def test_the_editors_loss_is_the_denoisers(tmp_path, vae_file):
    """The error of v, weighted where the images differ, written out."""
    stage = make_stage("editor", config_of("editor", "dropout=0.0"), tmp_path, [vae_file])
    nn.init.normal_(stage.module["unet"].conv_out.weight)
    batch = stage.data.batch(0)
    loss, _ = stage.loss(stage.module, stage.inputs(batch))
    sigma, (image, mean, std) = batch.sigma.float().reshape(-1, 1, 1, 1), batch.latents.unbind(1)
    scale = stage.pipe.config.vae.scaling_factor
    z0 = scale * (mean + std * batch.posterior)
    z = (z0 + sigma * batch.noise) / (sigma**2 + 1) ** 0.5
    text = stage.module["text"](stage.pipe.tokenizer(batch.texts))
    f = stage.module["unet"](torch.cat([z, image], dim=1), stage.data.schedule.t(batch.sigma), text)
    v = (batch.noise - sigma * z0) / (sigma**2 + 1) ** 0.5
    assert torch.allclose(loss, ((1 + 3.0 * difference(image, mean, scale)) * (f - v) ** 2).mean(), rtol=1e-5)


def test_the_text2image_loss_is_the_denoisers_and_its_captions_open_up(tmp_path, vae_file):
    stage = make_stage(
        "text2image", config_of("text2image", "full_caption_steps=2", "dropout=0.0"), tmp_path, [vae_file]
    )
    (world,) = stage.data.examples.sets
    for step, full in ((1, True), (2, False)):
        batch = stage.data.batch(step)
        edits = [world.edits[shuffled_index(0, 0, 4 * step + i, len(world))][0] for i in range(4)]
        assert [text == edit.target.caption for text, edit in zip(batch.texts, edits, strict=True)] == [full] * 4
    loss, _ = stage.loss(stage.module, stage.inputs(batch))
    sigma, (image, mean, std) = batch.sigma.float().reshape(-1, 1, 1, 1), batch.latents.unbind(1)
    scale = stage.pipe.config.vae.scaling_factor
    z0 = scale * (mean + std * batch.posterior)
    z = (z0 + sigma * batch.noise) / (sigma**2 + 1) ** 0.5
    f = stage.module["unet"](
        z, stage.data.schedule.t(batch.sigma), stage.module["text"](stage.pipe.tokenizer(batch.texts))
    )
    v = (batch.noise - sigma * z0) / (sigma**2 + 1) ** 0.5
    assert torch.allclose(loss, ((1 + 3.0 * difference(image, mean, scale)) * (f - v) ** 2).mean(), rtol=1e-5)


@pytest.mark.slow
def test_a_trained_text2image_generates(tmp_path, vae_file):
    finish("text2image", config_of("text2image"), tmp_path, vae_file)
    pipe = minip2p.load(tmp_path / "model.safetensors")
    assert pipe.generate("a red cat in the city at night", steps=2).size == (64, 64)


def test_a_text2image_reads_with_clips_text_tower(tmp_path, vae_file):
    """Without the projection, which a text-to-image model does not have."""
    config = config_of("text2image", "model.text.layers=3")
    stage = make_stage("text2image", config, tmp_path, [vae_file, minip2p.shipped("clip")])
    theirs, mine = minip2p.load_clip().text.state_dict(), stage.module["text"].state_dict()
    assert set(theirs) - set(mine) == {"projection.weight"} and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.slow
def test_networks_are_compiled_where_asked(tmp_path, vae_file, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    for on in (False, True):
        finish("text2image", config_of("text2image", f"train.compile={on}"), tmp_path / str(on), vae_file)
    assert compiled == ["UNet", "TextEncoder"]


def test_a_batch_is_a_function_of_its_step(tmp_path, vae_file):
    a, b = (make_stage("editor", config_of("editor"), tmp_path / x, [vae_file]) for x in "ab")
    for step in (0, 5):
        x, y = a.data.batch(step), b.data.batch(step)
        assert same(x, y)
    assert not torch.equal(a.data.batch(0).noise, a.data.batch(1).noise)


@pytest.mark.parametrize("name", ["editor", "text2image"])
def test_rows_of_a_batch_are_those_of_the_whole(name, tmp_path, vae_file):
    stage = make_stage(name, config_of(name, "train.batch_size=7"), tmp_path, [vae_file])
    whole = stage.data.batch(3)
    parts = [stage.data.batch(3, rows) for rows in (range(0, 2), range(2, 5), range(5, 7))]
    assert [text for part in parts for text in part.texts] == whole.texts
    for tensor in ("latents", "keep", "posterior", "noise", "sigma"):
        assert torch.equal(torch.cat([getattr(part, tensor) for part in parts]), getattr(whole, tensor))


def test_latents_are_read_back_and_edits_go_both_ways(tmp_path, vae_file):
    stage = make_stage("editor", config_of("editor"), tmp_path, [vae_file])
    options = dict(scenes=3, per_scene=2, size=64, seed=0)
    written = (tmp_path / "latents.safetensors").stat().st_mtime_ns
    again = encode_edits(stage.pipe.vae, tmp_path / "latents.safetensors", **options)
    assert (tmp_path / "latents.safetensors").stat().st_mtime_ns == written
    assert torch.equal(again.mean, stage.data.examples.sets[0].edits.mean) and len(again) == 12
    for i in range(0, 12, 2):
        (there, latents), (back, latents_2) = again[i], again[i + 1]
        assert torch.equal(latents[0], latents_2[1]) and torch.equal(latents[1], latents_2[0])
        assert (back.source, back.target) == (there.target, there.source) and back.kind == REVERSED.get(
            there.kind, there.kind
        )
        assert len(instructions(back.kind, back.source, back.target)) >= 5
    assert encode_edits(stage.pipe.vae, tmp_path / "latents.safetensors", **options | {"seed": 1}).edits != again.edits


def damaged(file: Path, how: str) -> None:
    """What may be at the place of a cache."""
    tensors = load_file(file)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "text":
        file.write_text("no tensors")
    elif how == "empty":
        file.write_bytes(b"")
    else:
        changes = {
            "NaN": {"mean": tensors["mean"] * torch.nan},
            "shape": {"std": tensors["std"][:, :1].contiguous()},
            "key": {"key": tensors["key"][:2].contiguous()},
            "another's": {"key": tensors["key"] + 1},
        }[how]
        save_file(tensors | changes, file)


@pytest.mark.parametrize("how", ["cut", "text", "empty", "NaN", "shape", "key", "another's"])
def test_a_cache_that_does_not_fit_is_made_again_with_a_note(how, tmp_path, vae_file, capsys):
    stage, file = make_stage("editor", config_of("editor"), tmp_path, [vae_file]), tmp_path / "latents.safetensors"
    options, good = dict(scenes=3, per_scene=2, size=64, seed=0), file.read_bytes()
    damaged(file, how)
    capsys.readouterr()
    encode_edits(stage.pipe.vae, file, **options)
    note = capsys.readouterr().err
    assert f"{file} " in note and "is made again" in note and file.read_bytes() == good
    encode_edits(stage.pipe.vae, file, **options)
    assert "is made again" not in capsys.readouterr().err


def test_latents_of_another_autoencoder_are_made_again(tmp_path, vae_file, capsys):
    """Even of one that differs in a single weight."""
    stage, file = make_stage("editor", config_of("editor"), tmp_path, [vae_file]), tmp_path / "latents.safetensors"
    with torch.no_grad():
        list(stage.pipe.vae.encoder.parameters())[-1][-1] += 1
    encode_edits(stage.pipe.vae, file, scenes=3, per_scene=2, size=64, seed=0)
    assert "was made of other data or by another autoencoder and is made again" in capsys.readouterr().err


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 0.3), st.integers(0, 1000))
def test_dropout_has_its_three_cases(p, seed):
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(seed))
    text, image = conditioning_dropout(u, p)
    for dropped in (text & ~image, image & ~text, text & image):
        assert abs(dropped.float().mean() - p) < 0.02


def test_dropout_is_the_papers_draw():
    text, image = conditioning_dropout(torch.tensor([0.0, 0.04, 0.05, 0.09, 0.10, 0.14, 0.15, 0.9]), 0.05)
    assert text.tolist() == [True] * 4 + [False] * 4
    assert image.tolist() == [False] * 2 + [True] * 4 + [False] * 2


def test_change_is_where_the_latents_differ():
    a = torch.randn(2, 4, 3, 3)
    b = a.clone()
    b[0, :, 1, 2] += 5
    where = difference(a, b, 1.0)
    assert where.shape == (2, 1, 3, 3) and where[0, 0, 1, 2] > 0.8 and where.count_nonzero() == 1


@pytest.mark.parametrize("on_cpu", [False, True])
def test_ema_follows_the_formula(on_cpu):
    model = nn.Linear(2, 1)
    ema, expected = EMA(model, 0.9, on_cpu), model.weight.detach().clone()
    for n in range(1, 200):
        with torch.no_grad():
            model.weight.normal_()
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    last = model.weight.detach().clone()
    with ema.applied():
        assert torch.allclose(model.weight, expected, atol=1e-6)
    assert torch.equal(model.weight, last) and not torch.allclose(last, expected)


@given(st.integers(100, 500), st.integers(0, 100), st.sampled_from(["constant", "cosine"]))
def test_the_learning_rate(steps, warmup, decay):
    config = TrainConfig(steps=steps, warmup=warmup, decay=decay, learning_rate=2.0)
    rates = [loop.learning_rate(config, step) for step in range(steps)]
    assert all(0 <= r <= 2.0 for r in rates)
    assert rates[:warmup] == sorted(rates[:warmup]) and (warmup >= steps or rates[warmup] == 2.0)
    if decay == "constant":
        assert set(rates[warmup:]) <= {2.0}
    else:
        assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_timestep_power_prefers_high_noise(tmp_path, vae_file):
    for power, mean in ((1.0, 0.5), (2.0, 2 / 3)):
        stage = make_stage(
            "editor", config_of("editor", f"timestep_power={power}", "train.batch_size=2000"), tmp_path, [vae_file]
        )
        assert abs(float(stage.data.schedule.t(stage.data.batch(0).sigma).mean()) / 999 - mean) < 0.02


@pytest.mark.parametrize("missing", ["state", "config.json"])
def test_resuming_a_missing_run_names_init_from(missing, tmp_path):
    with pytest.raises(ValueError, match="--init-from"):
        if missing == "config.json":
            saved_config([STAGES["vae"]], tmp_path)
        else:
            start(STAGES["vae"], config_of("vae"), tmp_path, resume=True)


def test_weights_of_another_shape_are_refused(tmp_path, vae_file):
    with pytest.raises(ValueError, match="the shapes of its vae weights"):
        make_stage("vae", config_of("vae", "model.widths=(8, 8, 8, 16)"), tmp_path, [vae_file])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "00000006.pt"
    path.write_text("old")

    def fail(part):
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="00000006.pt"):
        replace_file(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

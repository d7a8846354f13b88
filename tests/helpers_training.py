"""What the tests of training on pairs share: a set of pairs, small models to start from, short runs."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise, write_pairs

import minip2p
from minip2p.config import PRESETS, override
from minip2p.pipeline import Pipeline
from minip2p.tinyworld.scenes import render, sample_edit
from minip2p.tinyworld.training.presets import EDITOR
from minip2p.tinyworld.training.previews import EditPreview
from minip2p.tinyworld.training.stages import STAGES
from minip2p.training import memory, state
from minip2p.training.build import resolve_config
from minip2p.training.stages import start

ROOT = Path(__file__).parent.parent
FEW = (
    "train.steps=6",
    "train.batch_size=4",
    "train.warmup=0",
    "train.log_every=2",
    "train.save_every=2",
    "train.preview_every=100",
    "train.decay=constant",
    "train_text=False",
    "held_out=0",  # a preview takes longer than the training
    "train.precision=fp32",
)


@pytest.fixture(scope="session", autouse=True)
def one_estimate_a_network():
    """Every run begins with an estimate of its memory, which takes as long as its training: networks of equal shapes
    share one."""
    estimate, known = memory.saved_tensors, {}

    def remembered(stage, kind, half):
        weights = [(name, w.shape, w.requires_grad) for name, w in stage.module.named_parameters()]
        key = str((kind, half, stage.pipe.config, stage.data.latent_shape, weights))
        if key not in known:
            known[key] = estimate(stage, kind, half)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "saved_tensors", remembered)
        yield


@pytest.fixture(scope="session", autouse=True)
def few_previews():
    """2 of the tiny world's 64 previews, with which a short training ends: they would take longer than it."""
    whole = EditPreview.__init__

    def few(preview, *given, **how):
        whole(preview, *given, **how)
        preview.edits, preview.texts = preview.edits[:2], preview.texts[:2]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EditPreview, "__init__", few)
        yield


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    """60 pairs in the authors' layout; the images are not square."""
    folder, rng = tmp_path_factory.mktemp("pairs") / "pairs", np.random.default_rng(3)
    edits = [sample_edit(rng) for _ in range(60)]
    write_pairs(folder, edits, lambda scene: render(scene, 80).crop((0, 4, 80, 76)), "jpg")
    return folder


def write_weights(path: Path, channels: int, **unet) -> Path:
    """A small model with random weights and `channels` inputs; unet: what else of its network differs."""
    from minip2p.tinyworld.training.vocab import tokenizer_for
    from minip2p.training.build import build

    tiny = PRESETS["tiny"]
    tokenizer, text = tokenizer_for(replace(tiny.text, layers=1))
    config = replace(
        tiny,
        unet=replace(tiny.unet, **{"widths": (16, 16, 16), "in_channels": channels} | unet),
        text=text,
        vae=replace(tiny.vae, widths=(8, 8, 8, 8)),
        sampling=replace(tiny.sampling, resolution=64),
    )
    networks = build({part: getattr(config, part) for part in ("unet", "vae", "text")}, seed=channels)
    pipe = Pipeline(*networks.values(), tokenizer, config)
    for network in pipe.parts.values():
        randomise(network)
    minip2p.save(pipe, path)
    return path


@pytest.fixture(scope="session")
def text2image(tmp_path_factory) -> Path:
    """The weights of a text-to-image model."""
    return write_weights(tmp_path_factory.mktemp("weights") / "text2image.safetensors", 8)


@pytest.fixture(scope="session")
def editor(tmp_path_factory) -> Path:
    """The weights of an editor."""
    return write_weights(tmp_path_factory.mktemp("weights") / "editor.safetensors", 16)


def config_of(pairs, file, *words):
    config = replace(EDITOR, data=(str(pairs),), size=64)
    return override(resolve_config(config, [file], edits=True), *FEW, *words)


def make_stage(config, out, file):
    return STAGES["editor"].make(config, out, [file], torch.device("cpu"))


def begin(config, out, file, **options):
    return start(STAGES["editor"], config, out, init_from=[] if options.get("resume") else [file], **options)


def finish(*args, **options):
    return list(begin(*args, **options))


def log_of(run: Path) -> list[dict]:
    """The lines of a run's log, without what a clock or the machine decides."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in ("items_per_s", "peak_memory_gib")} for line in lines]


def states(*runs):
    return [torch.load(state.newest(run), weights_only=True) for run in runs]


def equal(a, b):
    return all(torch.equal(a[part][name], b[part][name]) for part in ("model", "ema") for name in a[part])


def env():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

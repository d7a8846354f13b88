"""What the tests of training on pairs share: a set of pairs and small models to start from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import randomise, write_pairs

import minip2p
from minip2p.config import PRESETS
from minip2p.pipeline import Pipeline
from minip2p.tinyworld.scenes import render, sample_edit

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    """60 pairs in the authors' layout; the images are not square."""
    folder, rng = tmp_path_factory.mktemp("pairs") / "pairs", np.random.default_rng(3)
    edits = [sample_edit(rng) for _ in range(60)]
    write_pairs(folder, edits, lambda scene: render(scene, 80).crop((0, 4, 80, 76)), "jpg")
    return folder


def write_weights(path: Path, channels: int) -> Path:
    """A small model with random weights and `channels` inputs."""
    from minip2p.tinyworld.training.vocab import tokenizer_for
    from minip2p.training.build import build

    tiny = PRESETS["tiny"]
    tokenizer, text = tokenizer_for(replace(tiny.text, layers=1))
    config = replace(
        tiny,
        unet=replace(tiny.unet, widths=(16, 16), in_channels=channels),
        text=text,
        vae=replace(tiny.vae, widths=(8, 8, 8, 8)),
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

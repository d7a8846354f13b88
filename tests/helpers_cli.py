"""What the tests of the command line share: small models on disk, a folder to work in, and `minip2p edit` in it."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import small_pipeline
from PIL import Image

import minip2p
from minip2p.cli import main
from minip2p.text.learn import learn_bpe


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Small random models, saved: editor.safetensors, and text2image.safetensors with 4 inputs."""
    folder = tmp_path_factory.mktemp("weights")
    words = learn_bpe(["make it night"], vocab_size=400, max_length=16)
    for channels, name in ((8, "editor"), (4, "text2image")):
        minip2p.save(replace(small_pipeline(channels), tokenizer=words), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, weights) -> Path:
    """An empty working directory with in.png (48x32), the editor's and the text-to-image model's weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIP2P_DEBUG", raising=False)
    y, x = np.mgrid[:32, :48]
    Image.fromarray(np.stack([5 * x, 7 * y, 2 * (x + y)], -1).astype(np.uint8)).save("in.png")
    for name in ("editor", "text2image"):
        os.symlink(weights / f"{name}.safetensors", f"{name}.safetensors")
    return tmp_path


def edit(*words: str, given="in.png", text="make it night", output="out.png", steps="2") -> int:
    """`minip2p edit` with the editor's weights; words come last and win."""
    command = ["edit", "--input", given, "--output", output, "--weights", "editor.safetensors", "--steps", steps]
    return main([*command, *(["--edit", text] if text is not None else []), *words])


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*")}

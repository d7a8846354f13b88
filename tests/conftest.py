"""What several tests share: small networks with random weights, put together by hand.

Fixtures for the command line are in helpers_cli.py, those for training in helpers_training.py.
"""

import os

# small networks: a second thread waits more than it works
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from PIL.Image import Image
from tqdm import tqdm

from minip2p.config import Config, SamplingConfig, TextConfig, UNetConfig, VAEConfig
from minip2p.tinyworld.scenes import Edit, Scene

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")

# forked processes would share the lock of tqdm's bars, and one that is killed while it holds the lock would keep it
os.register_at_fork(after_in_child=lambda: tqdm.set_lock(threading.RLock()))

pytest_plugins = ["helpers_cli", "helpers_training"]


def small_config(in_channels: int = 8) -> Config:
    """An editor of 2 levels, 8x8 latents for 32 px: everything that the large one has, in miniature."""
    return Config(
        unet=UNetConfig(
            in_channels=in_channels,
            widths=(32, 64),
            blocks=1,
            attention=("full", "none"),
            heads=2,
            text_width=32,
            norm_groups=8,
        ),
        vae=VAEConfig(widths=(16, 32, 32), blocks=1, norm_groups=8),
        text=TextConfig(
            vocab_size=400, max_length=16, width=32, layers=2, heads=2, feed_forward=64, bos=398, eos=399, pad=399
        ),
        sampling=SamplingConfig(resolution=32, multiple=8),
    )


def tokenize(texts: list[str]) -> torch.Tensor:
    """Bytes as ids: enough of a tokenizer for tests."""
    rows = [[398, *text.encode()[:14], 399] for text in texts]
    return torch.tensor([row + [399] * (16 - len(row)) for row in rows])


def write_pairs(folder: Path, edits: Iterable[Edit], draw: Callable[[Scene], Image], ending: str = "png") -> None:
    """Edits of the tiny world in the authors' layout, each scene as `draw` has it, with seed 7."""
    for i, edit in enumerate(edits):
        at = folder / f"{i:07d}"
        at.mkdir(parents=True)
        told = {"input": edit.source.caption, "edit": edit.instruction, "output": edit.target.caption}
        (at / "prompt.json").write_text(json.dumps(told))
        (at / "metadata.jsonl").write_text('{"seed": 7}\n')
        for side, scene in enumerate((edit.source, edit.target)):
            draw(scene).save(at / f"7_{side}.{ending}", quality=95)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


ROUNDING = 1e-4
"""Bound on `difference` between latents that two orders of summation give: two batches, memory layouts or numbers of
threads, another processor's kernels. Float32 rounds a call of a small random network to about 1e-6; the two calls of a
step of Heun's, guidance (1 + 2 scale) and a few steps of a sampler amplify that up to 30 times, and 3 are for other
processors. A setting that should change a result changes it by more than 1e-3 in these tests."""


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over largest value."""
    return float((a - b).abs().max() / b.abs().max())


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every weight random, also those that start at 0 or 1, and of a size at which signals neither die nor blow up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() > 1:
                p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
            else:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator) + ("norm" in name and name.endswith("weight")))
    return module.eval()


def count_fused(monkeypatch) -> list[int]:
    """The rows of every fused attention from now on; those with explicit probabilities are not in the list."""
    from minip2p.nn import attention, site

    calls, fused = [], attention.scaled_dot_product_attention
    for module in (attention, site):
        patched = lambda q, *more, **how: calls.append(len(q)) or fused(q, *more, **how)  # noqa: E731
        monkeypatch.setattr(module, "scaled_dot_product_attention", patched)
    return calls


def small_pipeline(in_channels: int = 8, seed: int = 0):
    from minip2p.models.text_encoder import TextEncoder
    from minip2p.models.unet import UNet
    from minip2p.models.vae import AutoencoderKL
    from minip2p.pipeline import Pipeline

    config = small_config(in_channels)
    parts = UNet(config.unet), AutoencoderKL(config.vae), TextEncoder(config.text)
    return Pipeline(*(randomise(part, seed + i) for i, part in enumerate(parts)), tokenize, config)


@pytest.fixture(scope="session")
def pipe():
    return small_pipeline()

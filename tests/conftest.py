"""What several tests share: small networks with random weights, put together by hand."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from PIL.Image import Image

from minip2p.config import Config, SamplingConfig, TextConfig, UNetConfig, VAEConfig
from minip2p.data.scenes import Edit, Scene

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")


def small_config(in_channels: int = 8) -> Config:
    """An editor of 2 levels, 8x8 latents for 32 px: everything that the large one has, in miniature."""
    return Config(
        unet=UNetConfig(
            in_channels=in_channels, widths=(32, 64), blocks=1, attention=("full", "none"), heads=2, text_width=32,
            norm_groups=8,
        ),
        vae=VAEConfig(widths=(16, 32, 32), blocks=1, norm_groups=8),
        text=TextConfig(
            vocab_size=400, max_length=16, width=32, layers=2, heads=2, feed_forward=64, bos=398, eos=399, pad=399
        ),
        sampling=SamplingConfig(resolution=32, multiple=8),
    )  # fmt: skip


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


def small_pipeline(in_channels: int = 8, seed: int = 0):
    from minip2p.models.clip import TextEncoder
    from minip2p.models.unet import UNet
    from minip2p.models.vae import AutoencoderKL
    from minip2p.pipeline import Pipeline

    config = small_config(in_channels)
    parts = UNet(config.unet), AutoencoderKL(config.vae), TextEncoder(config.text)
    return Pipeline(*(randomise(part, seed + i) for i, part in enumerate(parts)), tokenize, config)


@pytest.fixture(scope="session")
def pipe():
    return small_pipeline()

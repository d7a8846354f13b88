"""How near a picture comes to itself when it is inverted and painted again, by each of the methods."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from torch import Tensor

from ..data.images import Picture, to_tensor
from ..data.scenes import render, sample_scene
from ..pipeline import Pipeline, Progress

HELD_OUT = 2**32 - 3
"""the seed of the scenes that are inverted; no training draws from it"""
NAMES = {
    "vae": "the autoencoder alone", "ddim": "DDIM inversion", "negative_prompt": "negative-prompt inversion",
    "null_text": "null-text inversion",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """PSNR in dB of one picture's reconstructions to the picture itself, as it was fitted."""

    vae: float
    """encoded and decoded: what no inversion can do better than, but by luck"""
    ddim: float
    negative_prompt: float
    null_text: float


def reconstruct(
    pipe: Pipeline, pictures: Sequence[Picture], captions: Sequence[str], *, scale: float | None = None,
    steps: int = 50, spacing: str = "linspace", batch_size: int = 1, resolution: int | None = None, fit: str = "crop",
    states: Path | None = None, on_step: Callable[[Progress], None] | None = None, **options,
) -> list[Reconstructed]:
    """Invert each picture with its caption by each method, and paint it again at that scale; the model's own if None.

    Further options (inner, learning_rate, tolerance, checkpointing) are those of `Pipeline.invert`. states: a folder in
    which null-text inversion keeps what is done, so that a stopped run goes on. on_step is told of every inversion's
    steps, method by method.
    """
    scale = pipe.config.sampling.text_scale if scale is None else scale
    fitted = [pipe.fitted(each, resolution, fit).image for each in pictures]
    truth = [to_tensor(each) for each in fitted]
    z0 = [pipe.config.vae.scaling_factor * pipe.encode_image(x[None]) for x in truth]
    figures = {"vae": [psnr(pipe.decode(z)[0], x) for z, x in zip(z0, truth, strict=True)]}
    common = {"scale": scale, "steps": steps, "spacing": spacing, "resolution": resolution, "fit": fit}
    for method in ("ddim", "negative_prompt", "null_text"):
        more = options if method == "null_text" else {}
        if states is not None and method == "null_text":
            more = more | {"state": [Path(states) / f"{i:04}.safetensors" for i in range(len(truth))]}
        starts = pipe.invert(
            list(pictures), list(captions), method=method, batch_size=batch_size, on_step=on_step,
            **common, **more,
        )  # fmt: skip
        figures[method] = [
            psnr(pipe.generate(start.prompt, start=start, output="tensor"), x)
            for start, x in zip(starts, truth, strict=True)
        ]
    return [Reconstructed(**dict(zip(figures, row))) for row in zip(*figures.values(), strict=True)]


def reconstruct_scenes(pipe: Pipeline, n: int = 50, **options) -> list[Reconstructed]:
    """The same of the first n held-out scenes of the tiny world. Options as of `reconstruct`."""
    rng = np.random.default_rng(HELD_OUT)
    scenes = [sample_scene(rng) for _ in range(n)]
    size = pipe.config.sampling.resolution
    return reconstruct(pipe, [render(scene, size) for scene in scenes], [scene.caption for scene in scenes], **options)


def psnr(x: Tensor, truth: Tensor) -> float:
    """Of a picture with values in [0, 1], in dB: -10 log10 of the mean squared error."""
    error = float((x.cpu().double() - truth.cpu().double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def table(figures: Sequence[Reconstructed]) -> str:
    """Median and mean PSNR of each, and how far they are below the autoencoder's, as Markdown."""
    rows = ["| reconstruction | pictures | median PSNR | mean PSNR | below the autoencoder |\n|---|---|---|---|---|"]
    best = np.array([each.vae for each in figures])
    for field in fields(Reconstructed):
        values = np.array([getattr(each, field.name) for each in figures])
        rows.append(
            f"| {NAMES[field.name]} | {len(values)} | {np.median(values):.2f} dB | {values.mean():.2f} dB "
            f"| {(best - values).mean():.2f} dB |"
        )
    return "\n".join(rows)

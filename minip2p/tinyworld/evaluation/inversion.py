"""How well each inversion method reconstructs an image: invert it, generate it again, compare."""

from collections.abc import Sequence

import numpy as np

from ...data.images import Picture, to_tensor
from ...evaluation.metrics import psnr
from ...pipeline import Pipeline
from ..scenes import render, sample_scene
from .common import held_out, markdown

AUTOENCODER = "autoencoder alone"
METHODS = {"ddim": "DDIM inversion", "negative_prompt": "negative-prompt inversion", "null_text": "null-text inversion"}


def reconstruct(
    pipe: Pipeline, images: Sequence[Picture], captions: Sequence[str], *, scale: float | None = None, **options
) -> dict[str, list[float]]:
    """PSNR in dB of every image's reconstruction, for AUTOENCODER (an upper bound, nearly) and each of METHODS.

    Images are inverted with their captions and generated again at `scale` (the model's own if None). options: of
    `Pipeline.invert`.
    """
    scale = pipe.config.sampling.text_scale if scale is None else scale
    fit = {name: options[name] for name in ("resolution", "fit") if name in options}
    truths = [to_tensor(pipe.fitted(image, **fit).image) for image in images]
    factor = pipe.config.vae.scaling_factor
    result = {AUTOENCODER: [float(psnr(pipe.decode(factor * pipe.encode_image(x[None]))[0], x)) for x in truths]}
    for method in METHODS:
        starts = pipe.invert(list(images), list(captions), method=method, scale=scale, **options)
        again = [pipe.generate(start.prompt, start=start, output="tensor") for start in starts]
        result[method] = [float(psnr(x, truth)) for x, truth in zip(again, truths, strict=True)]
    return result


def evaluate_inversion(
    pipe: Pipeline, n: int = 50, *, learning_rate: float = 0.03, batch_size: int = 25, **options
) -> dict[str, list[float]]:
    """`reconstruct` the first n held-out scenes from their captions.

    learning_rate: of null-text inversion; 0.01 is published, but too low for a network as small as the tiny one.
    """
    scenes, _ = held_out("inversion", n, sample_scene)
    images = [render(scene, pipe.config.sampling.resolution) for scene in scenes]
    checkpointing = pipe.device.type != "cpu"  # on a GPU, less memory for more time
    options = {"learning_rate": learning_rate, "batch_size": batch_size, "checkpointing": checkpointing} | options
    return reconstruct(pipe, images, [scene.caption for scene in scenes], **options)


def table(result: dict[str, list[float]]) -> str:
    """Median and mean PSNR of each reconstruction, and its mean distance to the autoencoder's, as Markdown."""
    best, rows = np.array(result[AUTOENCODER]), []
    for name, values in result.items():
        row = (np.median(values), np.mean(values), np.mean(best - values))
        rows.append([METHODS.get(name, name), len(values), *(f"{value:.2f} dB" for value in row)])
    return markdown(["reconstruction", "images", "median PSNR", "mean PSNR", "below the autoencoder"], rows)

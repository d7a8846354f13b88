"""What the reproduction costs: pictures that go through a denoiser, and hours on this machine."""

import time
from collections.abc import Sequence

import torch

from ...pipeline import Pipeline
from ...units import cpu_threads
from ..evaluation.common import markdown
from ..miniature import WAYS
from . import ceiling, figure3, figure8, figure10
from .ablations import variants_of
from .parts import Setup, read_section

TEXT, EDIT, TRAINED = 2, 3, 3
"""pictures through the denoiser for a step of a generated image (guidance), of an edited one (equation 3), and for a
picture that is trained on (backwards costs as much as two forwards)"""
BATCH = 16
"""pictures of the call that is timed"""


def calls(setup: Setup) -> dict[str, float]:
    """Part -> pictures of the models' size that go through a denoiser, forwards."""
    s = setup.sizes
    training, from_scratch = (TRAINED * steps * s.batch_size for steps in (s.training_steps, s.ablation_steps))
    area = (s.ablation_size / setup.size) ** 2
    judging = s.edits * s.edit_steps * EDIT
    sweep = s.items * s.edit_steps * EDIT * len(s.image_scales)
    sdedit = s.items * TEXT * sum(round(strength * s.edit_steps) for strength in s.strengths)
    rows = 1 + len(s.variants or variants_of(setup.editor.config))
    return {
        "figure3": s.pairs * 2 * (len(figure3.WAYS) - 1) * s.generation_steps * TEXT,
        "made": s.captions * s.samples * 2 * len(WAYS) * s.generation_steps * TEXT,
        "figure8": len(figure8.CAPTIONS) * (sweep + sdedit),
        "figure10": len(figure10.NAMES) * (training + sweep),
        "ceiling": len(ceiling.NAMES) * s.seeds * (training + judging),
        "ablation": rows * s.seeds * (from_scratch + judging) * area,
    }


def costs(setup: Setup, parts: Sequence[str]) -> str:
    """A table of the parts that are not done, in Markdown; it takes a second."""
    todo = {name: n for name, n in calls(setup).items() if name in parts and not read_section(setup.out / name)}
    if not todo:
        return "All of these parts are done; the report is written again."
    seconds = seconds_per_picture(setup.editor, setup.sizes.threads)
    lines = [[name, f"{n / 1e6:.2f} M", _hours(n * seconds)] for name, n in todo.items()]
    lines.append(["**all**", f"{sum(todo.values()) / 1e6:.2f} M", _hours(sum(todo.values()) * seconds)])
    return f"""{markdown(["part", "pictures through the denoiser", "about"], lines)}

At {1 / seconds:,.0f} pictures a second here; autoencoder, CLIP and classifier come on top, a third of it or so.
figure10 and ceiling make the pairs of made, if they are missing, and share trainings. A stopped run continues."""


@torch.inference_mode()
def seconds_per_picture(pipe: Pipeline, threads: int | None) -> float:
    """Of the denoiser, in the faster of two calls."""
    side, c = pipe.config.sampling.resolution // pipe.config.vae.factor, pipe.config.denoiser_config
    z = torch.zeros(BATCH, c.in_channels, side, side, device=pipe.device, dtype=pipe.dtype)
    text = pipe.encode_text([""]).expand(BATCH, -1, -1)
    taken = []
    with cpu_threads(threads):
        for _ in range(2):
            started = time.perf_counter()
            pipe.unet(z, torch.zeros(BATCH, device=pipe.device), text).sum().item()
            taken.append(time.perf_counter() - started)
    return min(taken) / BATCH


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"

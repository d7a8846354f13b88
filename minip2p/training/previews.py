"""Previews of an editor in training: held-out pairs, and what the model makes of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..data.contact_sheet import Row, lay_out
from ..data.images import from_tensor
from ..pipeline import Pipeline
from .data import Example

STEPS = 20
"""of DDIM"""


@dataclass(frozen=True)
class PairSheet:
    """Draws a row for each example: source, edits at several image scales and the model's own text scale, target."""

    examples: Sequence[Example]
    scales: Sequence[float]
    title: str

    def __call__(self, pipe: Pipeline, path: Path) -> dict[str, float]:
        heads = ["source", *(f"image scale {scale:g}" for scale in self.scales), "target"]
        rows = []
        for each in self.examples:
            source, target = images_of(pipe, each)
            n = len(self.scales)
            options = {"steps": STEPS, "sampler": "ddim", "resolution": max(source.size), "seed": [0] * n}
            edits = pipe.edit([source] * n, [each.text] * n, image_scale=list(self.scales), **options)
            rows.append(Row(each.text or "(no instruction)", [] if rows else heads, [source, *edits, target]))
        scale = f"text scale {pipe.config.sampling.text_scale:g}, {STEPS} steps of DDIM, averaged weights"
        lay_out(self.title, scale, rows).save(path)
        return {}


def images_of(pipe: Pipeline, example: Example) -> tuple[Image.Image, Image.Image]:
    """Source and target; precomputed latents are decoded."""
    if example.pixels is not None:
        pixels = example.pixels / 2 + 0.5
    else:
        pixels = pipe.decode(pipe.config.vae.scaling_factor * example.latents[:2]).cpu()
    return from_tensor(pixels[0]), from_tensor(pixels[1])


def vary_texts(examples: Sequence[Example]) -> list[Example]:
    """The examples reordered: first one of each text, then a second one of each, and so on."""
    seen: Counter[str] = Counter()
    turns = []
    for each in examples:
        turns.append(seen[each.text])
        seen[each.text] += 1
    return [examples[i] for i in sorted(range(len(examples)), key=turns.__getitem__)]

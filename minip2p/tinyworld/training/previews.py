"""Previews of denoisers in the tiny world, where the correct result is known."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ...data.images import from_tensor
from ...pipeline import Pipeline
from ...training.config import HELD_OUT
from ...training.data import Example
from ..evaluation.edits import evaluate
from ..scenes import sample_edit
from .datasets import render_batch

OPTIONS = {"steps": 10, "sampler": "ddim", "seed": 0, "output": "tensor", "batch_size": 64}


class EditPreview:
    """64 held-out edits; their targets are made from source and instruction, or generated from the caption."""

    def __init__(self, size: int, seed: int, text: Literal["instruction", "caption"]):
        self.size, self.seed, self.text = size, seed, text
        rng = np.random.default_rng([seed, HELD_OUT])
        self.edits = [sample_edit(rng) for _ in range(64)]
        self.texts = [edit.instruction if text == "instruction" else edit.target.caption for edit in self.edits]

    def images(self) -> torch.Tensor:
        """(b, 2, 3, y, x) in [-1, 1]: sources and targets."""
        sides = ([getattr(edit, side) for edit in self.edits] for side in ("source", "target"))
        return torch.stack([render_batch(scenes, self.size) for scenes in sides], dim=1)

    def examples(self, n: int) -> list[Example]:
        """The first n as examples, on which to measure the loss."""
        return [Example(text=text, pixels=x) for text, x in zip(self.texts[:n], self.images(), strict=False)]

    def __call__(self, pipe: Pipeline, path: Path) -> dict[str, float]:
        """Draws sources above results above targets; the fraction of correct results, and their median PSNR in dB."""
        from torchvision.utils import save_image  # here, since importing it takes 3 s

        sources, targets = (self.images() / 2 + 0.5).unbind(1)
        if self.text == "instruction":
            images = [from_tensor(x) for x in sources]
            scales = {"text_scale": 1.0, "image_scale": 1.0}  # one branch: a quick look
            results = pipe.edit(images, self.texts, resolution=self.size, **scales, **OPTIONS)
        else:
            results = pipe.generate(self.texts, size=self.size, **OPTIONS)
        results = torch.stack(results).cpu()
        rng = np.random.default_rng([self.seed, HELD_OUT, 1])
        correct, psnr = zip(*[evaluate(x, edit, rng) for x, edit in zip(results, self.edits, strict=True)], strict=True)
        save_image(torch.cat([sources[:16], results[:16], targets[:16]]), path, nrow=16)
        return {"correct": float(np.mean(correct)), "psnr": float(np.median(psnr))}

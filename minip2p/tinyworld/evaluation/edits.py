"""How often an editor is correct in the tiny world, where the right answer to every edit is known."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...data.images import to_tensor
from ...evaluation.metrics import psnr
from ...pipeline import Pipeline
from ..scenes import EDIT_KINDS, Edit, Scene, render, sample_edit
from .common import held_out, markdown


@dataclass(frozen=True)
class EditResult:
    """An edit, whether `evaluate` finds a model's image of it correct, and its PSNR to the target in dB."""

    edit: Edit
    correct: bool
    psnr: float


def evaluate(image: Image.Image | Tensor, edit: Edit, rng: np.random.Generator, k: int = 16) -> tuple[bool, float]:
    """Whether an edited image is correct, and its PSNR in dB to the rendered target.

    It is correct if the rendered target is nearer (by PSNR at the image's size) than the source and than k other edits
    of the source, sampled with `rng`. image: a square PIL image, or (3, s, s) in [0, 1]. ValueError for other shapes.
    """
    x = to_tensor(image) if isinstance(image, Image.Image) else torch.as_tensor(image)
    if x.dim() != 3 or x.shape[0] != 3 or x.shape[1] != x.shape[2]:
        raise ValueError(f"image of shape {tuple(x.shape)}: expected a square one, (3, s, s) with values in [0, 1]")

    def similarity(scene: Scene) -> float:
        return float(psnr(x, to_tensor(render(scene, x.shape[1]))))

    others = [edit.source]
    while len(others) <= k:
        other = sample_edit(rng, edit.source).target
        if other != edit.target:
            others.append(other)
    target = similarity(edit.target)
    return all(target > similarity(scene) for scene in others), target


def evaluate_editor(pipe: Pipeline, n: int = 200, *, steps: int = 30, **options) -> list[EditResult]:
    """Evaluate the first n held-out edits. options: of `pipe.edit`."""
    edits, rng = held_out("edits", n, sample_edit)
    sources = [render(edit.source, pipe.config.sampling.resolution) for edit in edits]
    options = {"steps": steps, "batch_size": 25} | options
    images = pipe.edit(sources, [edit.instruction for edit in edits], **options)
    return [EditResult(edit, *evaluate(image, edit, rng)) for edit, image in zip(edits, images, strict=True)]


def table(results: list[EditResult]) -> str:
    """Accuracy and median PSNR for each kind of edit and for all, as Markdown."""
    rows = []
    for kind in (*EDIT_KINDS, None):
        some = [each for each in results if kind in (None, each.edit.kind)]
        if some:
            correct, decibel = np.mean([each.correct for each in some]), np.median([each.psnr for each in some])
            rows.append([kind or "**all**", len(some), f"{correct:.0%}", f"{decibel:.1f} dB"])
    return markdown(["kind of edit", "edits", "correct", "median PSNR"], rows)

"""How Prompt-to-Prompt pairs depend on the shared fraction of steps: how often both images are correct, and how many
pixels differ. The attribute classifier predicts what the images show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.images import to_tensor
from ...evaluation.metrics import changed_pixels
from ...pipeline import Pipeline
from ..classifier import AttributeClassifier
from ..scenes import Edit, loose_captions, render, sample_edit
from .attributes import accuracy, compare
from .common import held_out, markdown

KINDS = ("recolour", "replace", "add", "remove")
"""of edits: outside a changed thing all pixels can stay"""
OTHER_NOISE, DRAWN = "other noise", "as drawn"
SHARES = tuple(round(0.1 * i, 1) for i in range(10))


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """Pairs at one share."""

    share: float | str
    """or OTHER_NOISE: independent noise, nothing shared; or DRAWN: the renderings of both scenes"""
    source: float
    """fraction of source images with all attributes correct"""
    target: float
    """fraction of target images with all attributes correct"""
    changed: float
    """fraction of pixels in which a channel differs by more than 0.1, mean over all pairs"""


def evaluate_pairs(
    pipe: Pipeline,
    classifier: AttributeClassifier,
    n: int = 200,
    *,
    shares: Sequence[float] = SHARES,
    steps: int = 20,
    seed: int = 0,
    **options,
) -> list[PairResult]:
    """Pairs of the first n held-out edits at each share, then with different noise, then as drawn.

    options: of `pipe.generate_pair`.
    """
    edits, captions = held_out_pairs(n)
    sources, targets = map(list, zip(*captions, strict=True))
    options = {"steps": steps, "batch_size": 20, "output": "tensor"} | options
    results = []
    for share in shares:
        pairs = pipe.generate_pair(sources, targets, share=float(share), seed=seed, **options)
        results.append(_measure(classifier, edits, share, *map(torch.stack, zip(*pairs, strict=True))))
    independent = [
        torch.stack(pipe.generate(texts, seed=start, **options))
        for texts, start in ((sources, seed), (targets, seed + n))
    ]
    results.append(_measure(classifier, edits, OTHER_NOISE, *independent))
    size = pipe.config.sampling.resolution
    drawn = [torch.stack([to_tensor(render(getattr(e, side), size)) for e in edits]) for side in ("source", "target")]
    return [*results, _measure(classifier, edits, DRAWN, *drawn)]


def held_out_pairs(n: int) -> tuple[list[Edit], list[tuple[str, str]]]:
    """The first n held-out edits of a thing, with the captions of source and target."""

    def sample(rng: np.random.Generator) -> Edit:
        while (edit := sample_edit(rng)).kind not in KINDS:
            pass
        return edit

    edits, rng = held_out("pairs", n, sample)
    return edits, [tuple(loose_captions(edit.source, edit.target, rng=rng)) for edit in edits]


def _measure(
    classifier: AttributeClassifier, edits: Sequence[Edit], share: float | str, sources: Tensor, targets: Tensor
) -> PairResult:
    source, target = (
        accuracy(compare(classifier, scenes, images))[1]
        for images, scenes in ((sources, [e.source for e in edits]), (targets, [e.target for e in edits]))
    )
    return PairResult(share=share, source=source, target=target, changed=float(changed_pixels(sources, targets).mean()))


def table(results: Sequence[PairResult]) -> str:
    """The results as Markdown."""
    rows = [[each.share, *(f"{x:.1%}" for x in (each.source, each.target, each.changed))] for each in results]
    return markdown(["share", "source correct", "target correct", "pixels changed"], rows)

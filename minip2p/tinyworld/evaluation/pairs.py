"""How Prompt-to-Prompt pairs depend on the shared fraction of steps: how often both images are correct, and how many
pixels differ. The attribute classifier predicts what the images show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.images import to_tensor
from ...evaluation.metrics import changed_pixels
from ...pipeline import Pipeline
from ..classifier import AttributeClassifier
from ..scenes import Edit, loose_captions, render, sample_edit
from .attributes import predict
from .common import held_out, markdown

CHANGES = {"thing": ("recolour", "replace", "add", "remove"), "scene": ("time", "setting", "medium")}
"""what changes -> kinds of edits. Outside a changed thing all pixels can stay; a changed scene affects all of them.
(Weather is left out: the classifier does not predict it.)"""
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
    change: str = "thing",
    shares: Sequence[float] = SHARES,
    steps: int = 20,
    seed: int = 0,
    **options,
) -> list[PairResult]:
    """Pairs of the first n held-out edits at each share, then with different noise, then as drawn.

    change: a key of CHANGES. options: of `pipe.generate_pair`.
    """
    edits, captions = held_out_pairs(n, change)
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


def held_out_pairs(n: int, change: str = "thing") -> tuple[list[Edit], list[tuple[str, str]]]:
    """The first n held-out edits that change a thing, or the scene, with the captions of source and target."""
    if change not in CHANGES:
        raise ValueError(f"unknown change {change!r}; expected one of {', '.join(CHANGES)}")

    def sample(rng: np.random.Generator) -> Edit:
        while (edit := sample_edit(rng)).kind not in CHANGES[change]:
            pass
        return edit

    edits, rng = held_out("pairs", n, sample)
    return edits, [tuple(loose_captions(edit.source, edit.target, rng=rng)) for edit in edits]


def _measure(
    classifier: AttributeClassifier, edits: Sequence[Edit], share: float | str, sources: Tensor, targets: Tensor
) -> PairResult:
    source, target = (
        float(np.mean([p == scene.attributes for p, scene in zip(predict(classifier, images), scenes, strict=True)]))
        for images, scenes in ((sources, [e.source for e in edits]), (targets, [e.target for e in edits]))
    )
    return PairResult(share=share, source=source, target=target, changed=float(changed_pixels(sources, targets).mean()))


def table(results: Sequence[PairResult]) -> str:
    """The results as Markdown."""
    rows = [[each.share, *(f"{x:.1%}" for x in (each.source, each.target, each.changed))] for each in results]
    return markdown(["share", "source correct", "target correct", "pixels changed"], rows)


def plot(results: Sequence[PairResult]) -> Any:
    """A figure of matplotlib: correct targets and changed pixels as functions of the share; dotted: other noise."""
    from matplotlib.figure import Figure

    shared = [each for each in results if not isinstance(each.share, str)]
    other = next(each for each in results if each.share == OTHER_NOISE)
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    axes = (
        (left, "target", "tab:blue", "targets correct (%)"),
        (left.twinx(), "changed", "tab:red", "pixels changed (%)"),
    )
    for axis, name, colour, label in axes:
        axis.plot([each.share for each in shared], [100 * getattr(each, name) for each in shared], "o-", color=colour)
        axis.axhline(100 * getattr(other, name), color=colour, linestyle=":")
        axis.set_ylim(bottom=0)
        axis.set_ylabel(label, color=colour)
    left.set_ylim(0, 100)
    left.set_xlabel("fraction of steps with the source's self-attention (dotted: other noise, nothing shared)")
    return figure

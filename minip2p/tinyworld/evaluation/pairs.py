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
from ..scenes import Edit, Scene, loose_captions, render, sample_edit
from . import mechanisms
from .attributes import compare
from .common import held_out, markdown

KINDS = ("recolour", "replace", "add", "remove")
"""of edits: outside a changed thing all pixels can stay"""
OTHER_NOISE, DRAWN = "other noise", "as drawn"
SHARES = tuple(round(0.1 * i, 1) for i in range(10))
WAYS = (*SHARES, OTHER_NOISE, DRAWN)
"""how pairs are made: a share; or OTHER_NOISE: independent noise, nothing shared; or DRAWN: both scenes rendered; a key
of `mechanisms.WAYS` is a way, too"""
Way = float | str


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """Pairs made in one way, (n,) each."""

    way: Way
    """a share, OTHER_NOISE, DRAWN or a key of `mechanisms.WAYS`"""
    source: np.ndarray
    """whether all attributes of the source image are correct"""
    target: np.ndarray
    """whether all attributes of the target image are correct"""
    changed: np.ndarray
    """fraction of pixels in which a channel differs by more than 0.1"""


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
    held, seeds = held_out_pairs(n), range(seed, seed + n)
    options = {"steps": steps} | options
    return [evaluate_way(pipe, classifier, *held, way, seeds, **options) for way in (*shares, OTHER_NOISE, DRAWN)]


def evaluate_way(
    pipe: Pipeline,
    classifier: AttributeClassifier,
    edits: Sequence[Edit],
    captions: Sequence[tuple[str, str]],
    way: Way,
    seeds: Sequence[int],
    **options,
) -> PairResult:
    """Pairs of these edits with these captions, made in one way, and what the classifier sees on them."""
    sources, targets = make_pairs(pipe, edits, captions, way, seeds, **options)

    def correct(scenes: list[Scene], images: Tensor) -> np.ndarray:
        return np.array([truth == found for truth, found in compare(classifier, scenes, images)])

    return PairResult(
        way=way,
        source=correct([edit.source for edit in edits], sources),
        target=correct([edit.target for edit in edits], targets),
        changed=changed_pixels(sources, targets).double().numpy(),
    )


def make_pairs(
    pipe: Pipeline,
    edits: Sequence[Edit],
    captions: Sequence[tuple[str, str]],
    way: Way,
    seeds: Sequence[int],
    **options,
) -> tuple[Tensor, Tensor]:
    """Source and target images (n, 3, y, x) in [0, 1]. With other noise, a target's seed is its source's + 2^31."""
    before, after = map(list, zip(*captions, strict=True))
    options = {"batch_size": 20, "output": "tensor"} | options
    if way == DRAWN:
        size = pipe.config.sampling.resolution
        sides = [[to_tensor(render(getattr(e, side), size)) for e in edits] for side in ("source", "target")]
    elif way == OTHER_NOISE:
        noise = list(seeds), [seed + 2**31 for seed in seeds]
        sides = [pipe.generate(texts, seed=each, **options) for texts, each in zip((before, after), noise, strict=True)]
    else:
        options |= mechanisms.WAYS[way] if isinstance(way, str) else {"share": way}
        pairs = pipe.generate_pair(before, after, **({"share": 0.0} | options), seed=list(seeds))
        sides = list(zip(*pairs, strict=True))
    sources, targets = (torch.stack(list(side)).cpu() for side in sides)
    return sources, targets


def held_out_pairs(n: int) -> tuple[list[Edit], list[tuple[str, str]]]:
    """The first n held-out edits of a thing, with the captions of source and target."""

    def sample(rng: np.random.Generator) -> Edit:
        while (edit := sample_edit(rng)).kind not in KINDS:
            pass
        return edit

    edits, rng = held_out("pairs", n, sample)
    return edits, [tuple(loose_captions(edit.source, edit.target, rng=rng)) for edit in edits]


def table(results: Sequence[PairResult]) -> str:
    """The results as Markdown."""
    rows = [[each.way, *(f"{x.mean():.1%}" for x in (each.source, each.target, each.changed))] for each in results]
    return markdown(["share", "source correct", "target correct", "pixels changed"], rows)

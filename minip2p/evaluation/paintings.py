"""How often a painter paints what the caption says, and how little a pair of paintings differs, in the tiny world.

A painting has no known layout, for captions leave places open; so the reader tells what is there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.images import to_tensor
from ..data.scenes import Edit, loose_captions, render, sample_edit, sample_scene
from ..models.reader import Reader
from ..pipeline import Pipeline, Progress
from .reader import Read, read, right

HELD_OUT = 2**32 - 4
"""the seed of the captions that are painted; no training draws from it"""
CHANGES = {"thing": ("recolour", "replace", "add", "remove"), "scene": ("time", "setting", "medium")}
"""what changes -> the kinds of edits that change it: a thing, where the rest can stay, or every pixel's look. (The
reader does not see the weather.)"""
OTHER_NOISE, DRAWN = "other noise", "as drawn"
SHARES = tuple(round(0.1 * i, 1) for i in range(10))


@dataclass(frozen=True)
class Painted(Read):
    """One caption, the picture that was painted of it, and what is read of it."""

    caption: str
    picture: Image.Image


def judge_painter(
    pipe: Pipeline, reader: Reader, n: int = 200, *, loose: bool = False, steps: int = 30, batch_size: int = 25,
    on_step: Callable[[Progress], None] | None = None, **options,
) -> list[Painted]:
    """Paint the captions of the first n held-out scenes with `pipe.generate` (whose options may be given); read them.

    loose: captions that leave sizes, places and weather open, in place of the scenes' own, which tell all.
    """
    rng = np.random.default_rng(HELD_OUT)
    scenes = [sample_scene(rng) for _ in range(n)]
    captions = [loose_captions(scene, rng=rng)[0] if loose else scene.caption for scene in scenes]
    pictures = pipe.generate(captions, steps=steps, batch_size=batch_size, on_step=on_step, **options)
    return [Painted(*each) for each in zip(scenes, read(reader, pictures), captions, pictures, strict=True)]


@dataclass(frozen=True, kw_only=True)
class PairsAt:
    """Pairs of one share: how many sources and targets are wholly right, and how many pixels change."""

    share: float | str
    """or OTHER_NOISE, where the two have different noise and share nothing; or DRAWN: the truth, rendered"""
    source: float
    target: float
    changed: float
    """the share of pixels of which a channel differs by more than 0.1, the mean over all pairs"""


def judge_pairs(
    pipe: Pipeline, reader: Reader, n: int = 200, *, change: str = "thing", shares: Sequence[float] = SHARES,
    steps: int = 20, batch_size: int = 20, seed: int = 0, on_step: Callable[[Progress], None] | None = None, **options,
) -> list[PairsAt]:
    """Pairs of the first n held-out captions with one change, at each share; then with different noise; then as drawn.

    change: a word of CHANGES. Source and target are told in the same words. Options as of `pipe.generate_pair`.
    """
    edits, captions = held_out_pairs(n, change)
    sources, targets = (list(each) for each in zip(*captions, strict=True))
    common = {"steps": steps, "batch_size": batch_size, "on_step": on_step, "output": "tensor"} | options
    result = []
    for share in shares:
        pairs = pipe.generate_pair(sources, targets, share=float(share), seed=seed, **common)
        result.append(_figures(reader, edits, share, *(torch.stack(each) for each in zip(*pairs, strict=True))))
    first, other = (
        torch.stack(pipe.generate(texts, seed=start, **common))
        for texts, start in ((sources, seed), (targets, seed + n))
    )
    size = pipe.config.sampling.resolution
    drawn = (
        torch.stack([to_tensor(render(getattr(edit, side), size)) for edit in edits]) for side in ("source", "target")
    )
    return [*result, _figures(reader, edits, OTHER_NOISE, first, other), _figures(reader, edits, DRAWN, *drawn)]


def held_out_pairs(n: int, change: str = "thing") -> tuple[list[Edit], list[tuple[str, str]]]:
    """Edits of the tiny world that change a thing, or the scene, and the captions of source and target."""
    if change not in CHANGES:
        raise ValueError(f"unknown change {change!r}; there are {', '.join(CHANGES)}")
    rng = np.random.default_rng(HELD_OUT - 1)
    edits: list[Edit] = []
    while len(edits) < n:
        edit = sample_edit(rng)
        edits += [edit] if edit.kind in CHANGES[change] else []
    return edits, [tuple(loose_captions(edit.source, edit.target, rng=rng)) for edit in edits]


def _figures(reader: Reader, edits: Sequence[Edit], share: float | str, sources: Tensor, targets: Tensor) -> PairsAt:
    whole = [
        np.mean([right(reading, scene).whole for reading, scene in zip(read(reader, pictures), scenes, strict=True)])
        for pictures, scenes in ((sources, [e.source for e in edits]), (targets, [e.target for e in edits]))
    ]
    return PairsAt(
        share=share, source=float(whole[0]), target=float(whole[1]), changed=float(changed(sources, targets).mean())
    )


def changed(one: Tensor, other: Tensor) -> Tensor:
    """Of pictures (b, 3, y, x) in [0, 1], the share of pixels of which a channel differs by more than 0.1: (b,)."""
    return ((one - other).abs().amax(dim=1) > 0.1).float().mean(dim=(1, 2))


def best_share(figures: Sequence[PairsAt]) -> PairsAt:
    """Of the shares with at least 0.9 of the best's targets read right, the one that changes the fewest pixels."""
    shared = [each for each in figures if not isinstance(each.share, str)]
    enough = 0.9 * max(each.target for each in shared)
    return min((each for each in shared if each.target >= enough), key=lambda each: each.changed)


def table(figures: Sequence[PairsAt]) -> str:
    """As Markdown."""
    rows = ["| share | source right | target right | pixels changed |\n|---|---|---|---|"]
    for each in figures:
        name = each.share if isinstance(each.share, str) else f"{each.share:g}"
        rows.append(f"| {name} | {each.source:.1%} | {each.target:.1%} | {each.changed:.1%} |")
    return "\n".join(rows)

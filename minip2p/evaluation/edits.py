"""How often an editor is right in the tiny world, where the right answer is known."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..data.scenes import EDIT_KINDS, Edit, judge, render, sample_edit
from ..pipeline import Pipeline, Progress

HELD_OUT = 2**32 - 2
"""the seed of the edits that are judged; no training draws from it"""


@dataclass(frozen=True)
class Judged:
    """One edit, the picture that was made of it, whether `judge` calls it right, and its PSNR to the truth in dB."""

    edit: Edit
    picture: Image.Image
    right: bool
    psnr: float


def judge_editor(
    pipe: Pipeline, n: int = 200, *, steps: int = 30, on_step: Callable[[Progress], None] | None = None, **options
) -> list[Judged]:
    """Make the first n held-out edits with `pipe.edit` (whose options may be given) and judge them."""
    rng = np.random.default_rng(HELD_OUT)
    edits = [sample_edit(rng) for _ in range(n)]
    size = pipe.config.sampling.resolution
    pictures = pipe.edit(
        [render(edit.source, size) for edit in edits], [edit.instruction for edit in edits], steps=steps, batch_size=25,
        on_step=on_step, **options,
    )  # fmt: skip
    return [Judged(edit, picture, *judge(picture, edit, rng)) for edit, picture in zip(edits, pictures, strict=True)]


def table(judged: list[Judged]) -> str:
    """Right and median PSNR, per kind of edit and in all, as Markdown."""
    rows = [("| kind of edit | edits | right | median PSNR |\n|---|---|---|---|")]
    for kind in (*EDIT_KINDS, None):
        some = [j for j in judged if kind in (None, j.edit.kind)]
        if some:
            right, psnr = np.mean([j.right for j in some]), np.median([j.psnr for j in some])
            rows.append(f"| {kind or '**all**'} | {len(some)} | {right:.0%} | {psnr:.1f} dB |")
    return "\n".join(rows)

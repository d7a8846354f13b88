"""The fourth tab: the tiny world, where the right answer to an edit is known.

A scene is drawn from a seed, an instruction is drawn for it, and its truth, the edited scene, is rendered. The editor's
result counts as correct if the truth is nearer to it than the source and than 16 other edits of the same scene are.
Near is by peak signal-to-noise ratio, PSNR = -10 log10(mean (a - b)^2) for pixels in [0, 1].
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..tinyworld import evaluate, render, sample_edit, sample_scene
from ..tinyworld.scenes import Edit
from . import edit as edit_tab
from . import results
from .jobs import Preview
from .models import Models


class Drawn(NamedTuple):
    """A scene and its truth as files, there until the generator goes on."""

    edit: Edit
    source: Path
    truth: Path


class Evaluated(NamedTuple):
    """The editor's result, there until the generator goes on, and the evaluation's verdict."""

    result: Path
    correct: bool
    psnr: float
    """of the result to the truth, in dB"""


def draw(models: Models, scene: int) -> Iterator[Drawn]:
    """The scene of that number and an edit of it: those of `minip2p tiny scene --edit`. Raises ValueError."""
    size, edit = models.editor.config.sampling.resolution, edit_of(scene)[0]
    with results.folder() as folder:
        files = [
            results.plain_png(render(each, size), folder / f"{name}.png")
            for name, each in (("source", edit.source), ("truth", edit.target))
        ]
        yield Drawn(edit, *files)


def evaluate_edit(models: Models, scene: int, **settings: object) -> Iterator[Preview | Evaluated]:
    """The editor's result for the edit of a scene, and whether it is correct. settings: of `edit.Request`."""
    edit, rng = edit_of(scene)
    with results.folder() as folder:
        source = results.plain_png(render(edit.source, models.editor.config.sampling.resolution), folder / "source.png")
        request = edit_tab.Request(picture=source, instruction=edit.instruction, **settings)
        for each in edit_tab.edit(models, request):
            if isinstance(each, Preview):
                yield each
            else:
                image = edit_tab.read_upload(each.images[0])
                yield Evaluated(each.images[0], *evaluate(image, edit, rng))


def edit_of(scene: int) -> tuple[Edit, np.random.Generator]:
    """The edit of a scene's number, and the generator that drew both. Raises ValueError for a number that is none."""
    if not isinstance(scene, int) or scene < 0:
        raise ValueError(f"scene {scene}: expected a whole number, 0 or more")
    rng = np.random.default_rng(scene)
    return sample_edit(rng, sample_scene(rng)), rng

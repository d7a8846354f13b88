"""`minip2p sdedit`: the paper's baseline, an image noised and denoised towards a prompt."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from tyro.conf import arg

import minip2p

from . import figures, sampling
from .arguments import Fit
from .sampling import AXES, BatchSize, Grid, KeepSize, Output, Resolution, Step, TextSampling

SDEDIT_AXES = {"strength": float} | AXES


@dataclass(frozen=True, kw_only=True)
class Options:
    """Edit an image by SDEdit: add noise, then denoise it towards a prompt. Works with any text-to-image model.

    `minip2p show` prints the metadata of the output and can make it again.
    """

    input: Annotated[str, arg(metavar="PATH")]
    """an image"""
    prompt: Annotated[str, arg(metavar="TEXT")]
    """what the result shows: a caption, not an instruction"""
    output: Output
    strength: float = 0.75
    """from 0, which returns the input, to 1, which ignores it"""
    resolution: Resolution = None
    fit: Fit = "crop"
    keep_size: KeepSize = False
    grid: Grid("strength=0.3,0.5,0.7 seed=0,1", SDEDIT_AXES) = ()
    batch_size: BatchSize = None
    sampling: TextSampling = TextSampling()


def run(options: Options) -> None:
    """Edit and write the image."""
    pipe, m, output = sampling.prepare(options, "sdedit", grid=sampling.parse_grid(options.grid, SDEDIT_AXES))
    sampling.report(output, sampling.make(pipe, m, output, options.input, batch_size=options.batch_size))


def make(
    pipe: "minip2p.Pipeline", source: Path, m: dict, on_step: Step | None = None, batch_size: int | None = None
) -> Image.Image:
    """The image, or the contact sheet, that metadata describes."""
    from ..data.images import open_image

    def edit(**changes: Any) -> Any:
        return pipe.sdedit(source, m["prompt"], on_step=on_step, **sampling.settings_in(m) | changes)

    if not m["grid"]:
        return edit()
    below = figures.settings_line(m, ("strength", "scale", "seed", "steps"))
    n = sampling.batch_size(pipe, m, 2, batch_size)
    cell = sampling.in_batches(figures.grid_cells(m["grid"]), partial(edit, batch_size=n), m["seed"])
    rows = figures.grid_rows(m["grid"], cell)
    return figures.lay_out(m["prompt"], below, figures.beside("input", open_image(source), rows))

"""`minip2p pair`: two images from two prompts, which differ as little as the prompts do."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from tyro.conf import arg

import minip2p

from . import figures, sampling
from .controls import PAIR_AXES, Controls, generate_pair, parse_controls, title
from .sampling import BatchSize, Grid, Output, Size, Step, TextSampling


@dataclass(frozen=True, kw_only=True)
class Options:
    """Generate two images from two prompts by Prompt-to-Prompt, so that they differ as little as the prompts do.

    The output shows source and edited image side by side. `minip2p show` prints its metadata and can make it again.
    """

    prompt: Annotated[str, arg(metavar="TEXT")]
    """prompt of the source image"""
    edited_prompt: Annotated[str, arg(metavar="TEXT")]
    """prompt of the edited image"""
    output: Output
    size: Size = None
    grid: Grid("share=0,0.5,0.9 seed=0,1", PAIR_AXES) = ()
    batch_size: BatchSize = None
    controls: Controls = Controls()
    sampling: TextSampling = TextSampling(steps=100)


def run(options: Options) -> None:
    """Generate and write the pair."""
    grid, control = sampling.parse_grid(options.grid, PAIR_AXES), parse_controls(options.controls)
    if "weight" in grid and not control["reweight"]:
        raise ValueError("--grid weight=... replaces the factors of --reweight; name the word by --reweight WORD=1")
    if "share" in grid and "share" not in control["control"]:
        raise ValueError("--grid share=... needs --control share")
    pipe, m, output = sampling.prepare(options, "pair", grid=grid, **control)
    image = sampling.make(pipe, m, output, batch_size=options.batch_size)
    sampling.report(output, image, f"a sheet of {figures.cells_of(grid)} pairs" if grid else "source and edited image")


def make(
    pipe: "minip2p.Pipeline", source: Path | None, m: dict, on_step: Step | None = None, batch_size: int | None = None
) -> Image.Image:
    """The pair, or the contact sheet, that metadata describes."""
    if not m["grid"]:
        return figures.side_by_side(*generate_pair(pipe, m, on_step=on_step))
    below = [figures.settings_line(m, (*(["share"] if "share" in m["control"] else []), "scale", "seed", "steps"))]
    below += [kind for kind in m["control"] if kind != "share"]
    below += [f"weight of {' and '.join(m['reweight'])}"] if "weight" in m["grid"] else []
    same_source = set(m["grid"]) <= {"share", "weight"}
    n = sampling.batch_size(pipe, m, 4, batch_size)
    make_all = partial(generate_pair, pipe, m, on_step=on_step, batch_size=n)
    both = sampling.in_batches(figures.grid_cells(m["grid"]), make_all, m["seed"])
    sources = []

    def cell(**changes: Any) -> Image.Image:
        source, edited = both(**changes)
        sources.append(source)
        return edited if same_source else figures.side_by_side(source, edited)

    rows = figures.grid_rows(m["grid"], cell)
    rows = figures.beside("source", sources[0], rows) if same_source else rows
    return figures.lay_out(title(m), ", ".join(below), rows)

"""`minip2p generate`: images from prompts."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from tyro.conf import arg

import minip2p

from . import figures, sampling
from .sampling import AXES, BatchSize, Grid, Output, Size, Step, TextSampling


@dataclass(frozen=True, kw_only=True)
class Options:
    """Generate an image from a prompt, or a contact sheet of several prompts, seeds, scales or steps.

    `minip2p show` prints the metadata of the output and can make it again.
    """

    prompt: Annotated[tuple[str, ...], arg(metavar="TEXT ...")]
    """what the image shows; several prompts make the rows of a contact sheet"""
    output: Output
    size: Size = None
    grid: Grid("seed=0,1,2 scale=1,3,7.5", AXES) = ()
    batch_size: BatchSize = None
    sampling: TextSampling = TextSampling()


def run(options: Options) -> None:
    """Generate and write the image."""
    grid = sampling.parse_grid(options.grid, AXES)
    if not options.prompt:
        raise ValueError('missing --prompt "a text to generate from"')
    pipe, m, output = sampling.prepare(options, "generate", prompts=list(options.prompt), grid=grid)
    n = figures.cells_of(grid, len(options.prompt))
    image = sampling.make(pipe, m, output, batch_size=options.batch_size)
    sampling.report(output, image, f"a sheet of {n} images" if n > 1 else "")


def make(
    pipe: "minip2p.Pipeline", source: Path | None, m: dict, on_step: Step | None = None, batch_size: int | None = None
) -> Image.Image:
    """The image, or the contact sheet, that metadata describes."""

    def generate(prompt: str | list[str], **changes: Any) -> Any:
        return pipe.generate(prompt, on_step=on_step, **sampling.settings_in(m) | changes)

    prompts, several = m["prompts"], len(m["prompts"]) > 1
    figures.cells_of(m["grid"], len(prompts))
    if not several and not m["grid"]:
        return generate(prompts[0])
    n = sampling.batch_size(pipe, m, 2, batch_size)
    cells = [{"prompt": prompt} | cell for prompt in prompts for cell in figures.grid_cells(m["grid"])]
    cell, rows = sampling.in_batches(cells, partial(generate, batch_size=n), m["seed"]), []
    for prompt in prompts:
        for row in figures.grid_rows(m["grid"], partial(cell, prompt=prompt)):
            rows.append(row._replace(label=": ".join(filter(None, (several and prompt, row.label)))))
    return figures.lay_out("" if several else prompts[0], figures.settings_line(m, ("scale", "seed", "steps")), rows)

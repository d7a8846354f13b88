"""`minip2p generate`: images from prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from tyro.conf import arg

from . import figures, sampling
from .sampling import AXES, Grid, Output, Size, Step, TextSampling

if TYPE_CHECKING:
    from ..pipeline import Pipeline


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
    sampling: TextSampling = TextSampling()


def run(options: Options) -> None:
    """Generate and write the image."""
    grid = sampling.parse_grid(options.grid, AXES)
    if not options.prompt:
        raise ValueError('missing --prompt "a text to generate from"')
    pipe, m, output = sampling.prepare(options, "generate", prompts=list(options.prompt), grid=grid)
    n = figures.cells_of(grid, len(options.prompt))
    sampling.report(output, sampling.make(pipe, m, output), f"a sheet of {n} images" if n > 1 else "")


def make(pipe: "Pipeline", source: Path | None, m: dict, on_step: Step | None = None) -> Image.Image:
    """The image, or the contact sheet, that metadata describes."""

    def generate(prompt: str, **changes: Any) -> Image.Image:
        return pipe.generate(prompt, on_step=on_step, **sampling.settings_in(m) | changes)

    figures.cells_of(m["grid"], len(m["prompts"]))
    if len(m["prompts"]) > 1 and len(m["grid"]) > 1:
        raise ValueError(f"grid of {' and '.join(m['grid'])}: with several prompts, expected one name")
    prompts, below = m["prompts"], figures.settings_line(m, ("scale", "seed", "steps"))
    if len(prompts) == 1 and not m["grid"]:
        return generate(prompts[0])
    if len(prompts) == 1:
        rows = figures.grid_rows(m["grid"], lambda **axes: generate(prompts[0], **axes))
        return figures.lay_out(prompts[0], below, rows)
    [(axis, values)] = m["grid"].items() or [("seed", [m["seed"]])]
    heads = [figures.label(axis, x) for x in values] if m["grid"] else []
    rows = [
        figures.Row("", [] if i else heads, [generate(prompt, **{axis: x}) for x in values], title=prompt)
        for i, prompt in enumerate(prompts)
    ]
    return figures.lay_out("", below, rows)

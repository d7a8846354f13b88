"""`minip2p generate`: prompts to pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from tyro.conf import arg

from . import sheet
from .arguments import optional
from .painting import (
    AXES, Painting, cells, check, grid_steps, load_painter, make, parse_size, settings_of, told, write_recipe,
)  # fmt: skip

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Options(Painting):
    """Paint a picture from a text; or a labelled sheet, of several prompts or over seeds, scales and steps.

    The output carries its recipe: `minip2p show` prints it or repeats it.
    """

    prompt: Annotated[tuple[str, ...], arg(metavar="TEXT ...")]
    """what to paint; several texts are rows of a sheet"""
    size: Annotated[str | None, optional("PIXELS", "(default: the model's own)")] = None
    """a side, or WIDTHxHEIGHT"""
    grid: Annotated[tuple[str, ...], optional("NAME=A,B,...")] = ()
    """a labelled sheet, e.g. seed=0,1,2 scale=1,3,7.5; one or two of scale, seed, steps, one beside several prompts"""


def run(options: Options) -> None:
    """Check everything, load the weights, paint."""
    grid, size = sheet.parse_grid(options.grid, AXES), parse_size(options.size)
    check(options, grid)
    if not options.prompt:
        raise ValueError('missing --prompt "a text to paint from"')
    if len(options.prompt) > 1 and len(grid) > 1:
        raise ValueError(f"--grid {' '.join(options.grid)}: beside several prompts, expected one name")
    pipe = load_painter(options, size)
    r = write_recipe(pipe, "generate", options, prompts=list(options.prompt), size=size, grid=grid)
    pictures = len(options.prompt) * cells(r)
    make(pipe, options, r, lambda: f"a sheet of {pictures} pictures" if pictures > 1 else "")


def work(r: dict) -> int:
    """The sampler's steps that a recipe takes."""
    return len(r["prompts"]) * grid_steps(r)


def perform(
    pipe: "Pipeline", source: Path | None, r: dict, on_step: Callable[[Any], None] | None = None
) -> Image.Image:
    """The picture, or the sheet, of a recipe."""
    size = r["size"] and tuple(r["size"])

    def paint(prompt: str, **changes: Any) -> Image.Image:
        return pipe.generate(prompt, size=size, on_step=on_step, **settings_of(r) | changes)

    prompts = r["prompts"]
    if len(prompts) == 1 and not r["grid"]:
        return paint(prompts[0])
    if len(prompts) == 1:
        return sheet.lay_out(prompts[0], told(r), sheet.rows_of(r["grid"], lambda **axes: paint(prompts[0], **axes)))
    if not r["grid"]:
        return sheet.lay_out("", told(r), [sheet.Row("", [], [paint(prompt)], title=prompt) for prompt in prompts])
    [(across, columns)] = r["grid"].items()
    heads = [sheet.label(across, x) for x in columns]
    rows = [
        sheet.Row("", [] if i else heads, [paint(prompt, **{across: x}) for x in columns], title=prompt)
        for i, prompt in enumerate(prompts)
    ]
    return sheet.lay_out("", told(r), rows)

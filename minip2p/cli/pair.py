"""`minip2p pair`: two prompts to two pictures that differ as little as the prompts do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from tyro.conf import arg

from . import controls, sheet
from .arguments import optional
from .painting import (
    Painting, cells, check, check_fraction, grid_steps, load_painter, make, parse_size, side_by_side, told,
    write_recipe,
)  # fmt: skip

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Options(controls.Controls, Painting):
    """Paint two pictures from two texts by Prompt-to-Prompt, so that they differ as little as the texts do.

    The output shows source and edited picture side by side. It carries its recipe: `minip2p show` prints it or repeats
    it.
    """

    prompt: Annotated[str, arg(metavar="TEXT")]
    """what the source shows"""
    edited_prompt: Annotated[str, arg(metavar="TEXT")]
    """what the edited picture shows"""
    steps: int = 100
    """of the sampler: more is slower and finer"""
    size: Annotated[str | None, optional("PIXELS", "(default: the model's own)")] = None
    """a side, or WIDTHxHEIGHT"""
    grid: Annotated[tuple[str, ...], optional("NAME=A,B,...")] = ()
    """a labelled sheet, e.g. share=0,0.5,0.9 seed=0,1; one or two of share, weight (in place of --reweight's factors),
    scale, seed, steps"""


def run(options: Options) -> None:
    """Check everything, load the weights, paint the pair."""
    grid, size = sheet.parse_grid(options.grid, controls.PAIR_AXES), parse_size(options.size)
    weights = grid.get("weight")
    check(options, {name: values for name, values in grid.items() if name != "weight"})
    for share in grid.get("share", ()):
        check_fraction("share", share)
    settings = controls.settings(options)
    if weights and not settings["reweight"]:
        raise ValueError("--grid weight=...: say with --reweight WORD=1 which word is weighed")
    if "share" in grid and "share" not in settings["control"]:
        raise ValueError("--grid share=...: goes with --control share")
    pipe = load_painter(options, size)
    r = write_recipe(
        pipe, "pair", options, prompt=options.prompt, edited_prompt=options.edited_prompt, size=size, grid=grid,
        **settings,
    )  # fmt: skip
    if options.align:
        print(controls.explained(pipe, options.prompt, options.edited_prompt, r))
    make(pipe, options, r, lambda: f"a sheet of {cells(r)} pairs" if grid else "source and edited picture")


def work(r: dict) -> int:
    """The sampler's steps that a recipe takes."""
    return grid_steps(r)


def perform(
    pipe: "Pipeline", source: Path | None, r: dict, on_step: Callable[[Any], None] | None = None
) -> Image.Image:
    """The pair, or the sheet, of a recipe."""

    def paint(**changes: Any) -> tuple[Image.Image, Image.Image]:
        return controls.paint_pair(pipe, r, on_step=on_step, **changes)

    if not r["grid"]:
        return side_by_side(*paint())
    title = controls.title(r)
    names = ("share",) if "share" in r["control"] else ()
    words = [f"weight of {' and '.join(r['reweight'])}"] if "weight" in r["grid"] else []
    below = ", ".join([told(r, *names), *(kind for kind in r["control"] if kind != "share"), *words])
    if set(r["grid"]) <= {"share", "weight"}:  # the source is the same in all cells
        sources: list[Image.Image] = []

        def edited(**changes: Any) -> Image.Image:
            one, other = paint(**changes)
            sources.append(one)
            return other

        rows = sheet.rows_of(r["grid"], edited)
        return sheet.lay_out(title, below, rows, ("source", sources[0]))
    return sheet.lay_out(title, below, sheet.rows_of(r["grid"], lambda **changes: side_by_side(*paint(**changes))))

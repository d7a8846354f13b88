"""`minip2p sdedit`: the paper's baseline, a picture noised and painted over towards a prompt."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from tyro.conf import FlagCreatePairsOff, arg

from . import sheet
from .arguments import OWN, optional
from .painting import (
    AXES, Painting, check, check_fraction, check_input, load_painter, make, settings_of, told, write_recipe,
)  # fmt: skip

if TYPE_CHECKING:
    from ..pipeline import Pipeline

FITTING = ("strength", "resolution", "fit", "keep_size")


@dataclass(frozen=True, kw_only=True)
class Options(Painting):
    """Paint a picture over (SDEdit): noise it, then denoise it towards a prompt. Works with any painter.

    The output carries its recipe: `minip2p show` prints it or repeats it.
    """

    input: Annotated[str, arg(metavar="PATH")]
    """a picture"""
    prompt: Annotated[str, arg(metavar="TEXT")]
    """what the result shows: a caption, not an instruction"""
    strength: float = 0.75
    """how much is painted anew: 0 returns the picture, 1 keeps nothing of it"""
    resolution: Annotated[int | None, optional("PIXELS", OWN)] = None
    """about the longer side while painting"""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """how the picture comes to the size at which it is painted"""
    keep_size: FlagCreatePairsOff[bool] = False
    """bring the result back to the input's size"""
    grid: Annotated[tuple[str, ...], optional("NAME=A,B,...")] = ()
    """a labelled sheet, e.g. strength=0.3,0.5,0.7 seed=0,1; one or two of strength, scale, seed, steps"""


def run(options: Options) -> None:
    """Check everything, load the weights, paint over."""
    grid = sheet.parse_grid(options.grid, {"strength": float} | AXES)
    check(options, grid, resolution=options.resolution)
    for strength in (options.strength, *grid.get("strength", ())):
        check_fraction("strength", strength)
    check_input(options)
    pipe = load_painter(options)
    fitting = {name: getattr(options, name) for name in FITTING}
    make(pipe, options, write_recipe(pipe, "sdedit", options, prompt=options.prompt, grid=grid, **fitting))


def work(r: dict) -> int:
    """The sampler's steps that a recipe takes."""
    return sum(
        round(strength * steps) * len(r["grid"].get("seed", [0])) * len(r["grid"].get("scale", [0]))
        for strength in r["grid"].get("strength", [r["strength"]])
        for steps in r["grid"].get("steps", [r["steps"]])
    )


def perform(pipe: "Pipeline", source: Path, r: dict, on_step: Callable[[Any], None] | None = None) -> Image.Image:
    """The picture, or the sheet, of a recipe."""
    from ..data.images import open_image

    def paint(**changes: Any) -> Image.Image:
        settings = settings_of(r) | {name: r[name] for name in FITTING} | changes
        return pipe.sdedit(source, r["prompt"], on_step=on_step, **settings)

    if not r["grid"]:
        return paint()
    rows = sheet.rows_of(r["grid"], paint)
    return sheet.lay_out(r["prompt"], told(r, "strength"), rows, ("input", open_image(source)))

"""What the painting verbs share (generate, sdedit, pair, invert): options, checks, and the recipe of what they make."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from tyro.conf import FlagCreatePairsOff, arg

from . import files, recipe, sheet
from .arguments import OWN, Loading, load, optional
from .jobs import check_number

if TYPE_CHECKING:
    from ..pipeline import Pipeline

SETTINGS = ("negative", "steps", "scale", "seed", "sampler", "spacing", "low_memory")
AXES = {"scale": float, "seed": int, "steps": int}


@dataclass(frozen=True, kw_only=True)
class Painting:
    """How a picture is painted."""

    output: Annotated[str, arg(metavar="PATH")]
    """a file (.png, .webp, .jpg, .tif, .bmp)"""
    negative: Annotated[str, arg(metavar="TEXT")] = ""
    """what to steer away from, in place of the empty prompt"""
    steps: int = 50
    """of the sampler: more is slower and finer"""
    scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """how strongly the prompt is followed"""
    seed: int = 0
    """of the noise"""
    sampler: Annotated[str, arg(metavar="NAME")] = "euler_ancestral"
    """ddpm, ddim, euler, euler_ancestral, heun, dpmpp_2m"""
    spacing: Annotated[str, arg(metavar="NAME")] = "linspace"
    """of the noise levels: linspace (the authors'), leading, karras"""
    low_memory: FlagCreatePairsOff[bool] = False
    """one branch at a time, networks off the device when not in use"""
    loading: Loading = field(default_factory=Loading)


def check(options: Painting, grid: Mapping[str, list] | None = None, **numbers: Any) -> None:
    """The numbers, words and places, before anything slow. `numbers`: more of them, by name."""
    from ..diffusion import SPACINGS, get_sampler

    given = {name: [getattr(options, name)] for name in ("steps", "scale", "seed")}
    given |= {name: [value] for name, value in numbers.items()} | dict(grid or {})
    for name, values in given.items():
        for value in values:
            check_number(name, value)
    get_sampler(options.sampler)
    if options.spacing not in SPACINGS:
        raise ValueError(f"unknown spacing {options.spacing!r}; there are {', '.join(SPACINGS)}")
    recipe.check_format(Path(options.output))
    files.check_writable(Path(options.output))


def check_fraction(name: str, value: float) -> None:
    """Raises ValueError unless the number is within 0 ... 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} {value:g}: expected a number from 0 to 1")


def check_input(options: Any) -> None:
    """Raises ValueError for an input that is no picture, or that the output would replace."""
    from ..data.images import open_image

    open_image(options.input)
    if Path(options.output).resolve() == Path(options.input).resolve():
        raise ValueError(f"output {options.output} is the input; choose another place, so that nothing is lost")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """"512" or "768x512" -> (width, height) in pixels."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise ValueError(f"--size {text!r}: expected a side or WIDTHxHEIGHT in pixels, e.g. 512 or 768x512")
    width, height = int(sides[0]), int(sides[-1])
    return width, height


def load_painter(options: Painting, size: tuple[int, int] | None = None) -> "Pipeline":
    """The weights that the options name, else the shipped painter; checked to be a painter, and the size to fit it."""
    how = options.loading
    pipe = load(how, "painter", device=how.device, dtype=how.dtype)
    pipe.generate([], size=size)  # of no prompt: says so now where the model is no painter
    return pipe


def write_recipe(pipe: "Pipeline", verb: str, options: Painting, **more: Any) -> dict:
    """All that decides the output's pixels; what was left open is the model's own."""
    output, how = Path(options.output), options.loading
    settings = {name: getattr(options, name) for name in SETTINGS}
    if settings["scale"] is None:
        settings["scale"] = pipe.config.sampling.text_scale
    if (given := getattr(options, "input", None)) is not None:
        more["input"] = {"path": files.relative(given, output), "sha256": files.sha256(Path(given))}
    return {"verb": verb} | settings | more | {
        "weights": recipe.weights_of(pipe, how, output), "made_with": recipe.versions(pipe)
    }  # fmt: skip


def make(pipe: "Pipeline", options: Painting, r: dict, said: Callable[[], str] = str, **more: Any) -> None:
    """Perform a recipe, write the picture with the recipe in it, and say so.

    said() is what there is to say beside; `more` goes to the verb's `perform`.
    """
    from .edit import steps_bar

    module, output = import_module(f".{r['verb']}", __package__), Path(options.output)
    source = Path(options.input) if "input" in r else None
    with steps_bar(module.work(r)) as bar:
        image = module.perform(pipe, source, r, lambda _: bar.update(), **more)
    files.write(output, recipe.encode(image, output, r))
    parts = [f"{output}: {image.width}x{image.height}", said()]
    if not recipe.carries(output):
        parts.append(f"{output.suffix} has no place for the recipe, .png has")
    print("; ".join(filter(None, parts)), file=sys.stdout)


def settings_of(r: dict) -> dict[str, Any]:
    """The settings of a recipe, for `Pipeline.generate` and its kin."""
    return {name: r[name] for name in SETTINGS}


def cells(r: dict) -> int:
    """How many cells the recipe's grid has, 1 without."""
    n = 1
    for values in r["grid"].values():
        n *= len(values)
    return n


def grid_steps(r: dict) -> int:
    """The sampler's steps of all cells."""
    steps = r["grid"].get("steps")
    return cells(r) * r["steps"] if steps is None else cells(r) // len(steps) * sum(steps)


def told(r: dict, *names: str) -> str:
    """The settings that are the same in all cells, for the line below a sheet's title."""
    fixed = [sheet.label(name, r[name]) for name in (*names, "scale", "seed", "steps") if name not in r["grid"]]
    return ", ".join([*fixed, r["sampler"]])


def side_by_side(*pictures: Image.Image) -> Image.Image:
    """Pictures of one height in a row, a sixteenth of their width apart."""
    gap = max(1, pictures[0].width // 16)
    width = sum(picture.width + gap for picture in pictures) - gap
    row, x = Image.new("RGB", (width, pictures[0].height), sheet.PAPER), 0
    for picture in pictures:
        row.paste(picture, (x, 0))
        x += picture.width + gap
    return row

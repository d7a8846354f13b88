"""`minip2p edit`: jobs to recipes, recipes to pictures."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from . import files, jobs, recipe, sheet
from .arguments import OWN, Loading, load, optional

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Options:
    """Edit pictures as an instruction says.

    The output carries its recipe: `minip2p show` prints it or repeats it. Where the output is a folder, pictures that
    are there with the same recipe are finished and skipped: after a stop, the same command goes on.
    """

    input: Annotated[str, arg(metavar="PATH")]
    """a picture; a folder; a glob in quotes; or a table (.jsonl) of lines {"input": ..., "edit": ..., and if you like
    "output", "seed", "text_scale", "image_scale"}, its paths relative to it"""
    edit: Annotated[str | None, optional("TEXT")] = None
    """the instruction, e.g. "make it night"; of a table, for lines without their own"""
    output: Annotated[str, arg(metavar="PATH")]
    """a file (.png, .webp, .jpg, .tif, .bmp); for several pictures a folder, made if need be"""
    steps: int = 100
    """of the sampler: more is slower and finer"""
    text_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """how strongly the instruction is followed"""
    image_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """how closely the picture is kept"""
    seed: int = 0
    """of the noise, the same for every picture"""
    sampler: Annotated[str, arg(metavar="NAME")] = "euler_ancestral"
    """ddpm, ddim, euler, euler_ancestral, heun, dpmpp_2m"""
    spacing: Annotated[str, arg(metavar="NAME")] = "linspace"
    """of the noise levels: linspace (the authors'), leading, karras"""
    resolution: Annotated[int | None, optional("PIXELS", OWN)] = None
    """about the longer side while editing"""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """how a picture comes to the size of the edit"""
    keep_size: FlagCreatePairsOff[bool] = False
    """bring the result back to the input's size"""
    grid: Annotated[tuple[str, ...], optional("NAME=A,B,...")] = ()
    """a labelled contact sheet, e.g. text-scale=3,5,7.5 image-scale=1,1.5,2; one or two of text-scale, image-scale,
    seed, steps"""
    low_memory: FlagCreatePairsOff[bool] = False
    """one branch at a time, networks off the device when not in use"""
    loading: Loading = field(default_factory=Loading)


def run(options: Options) -> None:
    """Check everything, load the weights, make what is not there yet."""
    _check(options)
    todo = jobs.plan(options.input, options.edit, options.output)
    pipe = load(options.loading, device=options.loading.device, dtype=options.loading.dtype)
    pipe.edit([], options.edit or "")  # of no picture: says so now where the model is no editor
    recipes = [write_recipe(pipe, options, job) for job in todo]
    left = list(zip(todo, recipes, strict=True))
    if todo[0].output != Path(options.output):  # into a folder: a run that may have been stopped
        left = [(job, r) for job, r in left if not recipe.made_already(job.output, r)]
    if len(left) < len(todo):
        done = len(todo) - len(left)
        print(f"minip2p: {done} of {len(todo)} are finished (same recipe in the output) and skipped", file=sys.stderr)
    _make(pipe, left)


def _check(options: Options) -> None:
    """The numbers and words, before anything slow. The pipeline checks them again for those who call it."""
    from ..diffusion import SPACINGS, get_sampler

    given = {name: [getattr(options, name)] for name in ("steps", "text_scale", "image_scale", "seed", "resolution")}
    for name, values in (*given.items(), *sheet.parse_grid(options.grid).items()):
        for value in values:
            jobs.check_number(name, value)
    get_sampler(options.sampler)
    if options.spacing not in SPACINGS:
        raise ValueError(f"unknown spacing {options.spacing!r}; there are {', '.join(SPACINGS)}")


def write_recipe(pipe: "Pipeline", options: Options, job: jobs.Job) -> dict:
    """All that decides the output's pixels; scales and size that were left open are the model's own."""
    own = pipe.config.sampling
    settings = {name: getattr(options, name) for name in recipe.SETTINGS} | job.settings
    for name in ("text_scale", "image_scale", "resolution"):
        settings[name] = getattr(own, name) if settings[name] is None else settings[name]
    weights = recipe.weights_of(pipe, options.loading, job.output)
    return {
        "instruction": job.instruction, **settings, "grid": sheet.parse_grid(options.grid),
        "input": {"path": files.relative(job.input, job.output), "sha256": files.sha256(job.input)},
        "weights": weights, "made_with": recipe.versions(pipe),
    }  # fmt: skip


def work(r: dict) -> int:
    """The sampler's steps that a recipe takes."""
    return recipe.edits(r) * r["steps"]


perform = recipe.perform


def _make(pipe: "Pipeline", todo: list[tuple[jobs.Job, dict]]) -> None:
    with steps_bar(sum(work(r) for _, r in todo)) as bar:
        for i, (job, r) in enumerate(todo, 1):
            bar.set_description(f"{i}/{len(todo)} {job.input.name}" if len(todo) > 1 else job.input.name)
            image = recipe.perform(pipe, job.input, r, lambda _: bar.update())
            files.write(job.output, recipe.encode(image, job.output, r))
            bar.write(_told(job, r, image), file=sys.stdout)


def steps_bar(total: int):
    """A progress bar over the steps of the sampler, with their rate, on stderr."""
    from tqdm import tqdm

    rest = 0.1 if sys.stderr.isatty() else 10.0  # seconds between two lines: few in a log
    return tqdm(total=total, unit="step", mininterval=rest, dynamic_ncols=True, disable=total == 0)


def _told(job: jobs.Job, r: dict, image) -> str:
    """One line on what was made, with what may surprise."""
    from ..data.images import open_image

    was = open_image(job.input).size
    parts = [f"{job.output}: {image.width}x{image.height}"]
    if r["grid"]:
        parts.append(f"a sheet of {recipe.edits(r)} edits")
    elif image.size != was:
        parts.append(f"input {was[0]}x{was[1]} fitted by {r['fit']}, --keep-size brings the size back")
    if not r["instruction"].strip():
        parts.append("the instruction is empty, so the picture is as it was")
    if not recipe.carries(job.output):
        parts.append(f"{job.output.suffix} has no place for the recipe, .png has")
    return "; ".join(parts)

"""`minip2p edit`: images edited as instructions say."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from tyro.conf import FlagCreatePairsOff, arg

from ..data.pixels import ImageError
from . import figures, files, jobs, metadata, sampling
from .arguments import OWN, Fit, optional, steps_bar
from .printing import say
from .sampling import Grid, KeepSize, Resolution, Sampling, Step

if TYPE_CHECKING:
    from ..pipeline import Pipeline

EDIT_AXES = {"text_scale": float, "image_scale": float, "seed": int, "steps": int}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Edit images as an instruction says.

    `minip2p show` prints the metadata of an output and can make it again. In an output folder, images with the same
    metadata are skipped: to resume a stopped run, repeat the command.
    """

    input: Annotated[str, arg(metavar="PATH")]
    """an image, a folder, a glob in quotes, or a table (.jsonl) of lines {"input": ..., "edit": ...}, which may also
    have "output", "seed", "text_scale" and "image_scale"; its paths are relative to it"""
    edit: Annotated[str | None, optional("TEXT")] = None
    """the instruction, e.g. "make it night"; in a table, for lines that have none"""
    output: Annotated[str, arg(metavar="PATH")]
    """the file to write, or for several images the folder; created if missing. There a.png is named as the input, and
    the result of a.jpg is a.jpg.png"""
    text_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """how strongly the instruction is followed"""
    image_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """how closely the input is followed"""
    resolution: Resolution = None
    fit: Fit = "crop"
    keep_size: KeepSize = False
    skip_broken: FlagCreatePairsOff[bool] = False
    """of several images, leave out those that cannot be read, and name them"""
    grid: Grid("text-scale=3,5,7.5 image-scale=1,1.5,2", EDIT_AXES) = ()
    sampling: Sampling = Sampling(steps=100)


def run(options: Options) -> None:
    """Edit and write all images that are not there yet."""
    grid = sampling.parse_grid(options.grid, EDIT_AXES)
    how = {"overwrite": options.sampling.overwrite, "skip_broken": options.skip_broken}
    planned = jobs.plan(options.input, options.edit, options.output, **how)
    pipe = options.sampling.load("editor")
    todo = []
    for job in planned:
        more = {"instruction": job.instruction, "grid": grid} | job.settings
        m = sampling.describe(pipe, options, job.output, job.input, job.size, **more)
        if job.output == Path(options.output) or job.made is None or not metadata.equal(job.made, m):
            todo.append((job, m))
    if done := len(planned) - len(todo):
        say(f"minip2p: {done} of {len(planned)} are finished (same metadata in the output), skipped", error=True)
    for i, (job, m) in enumerate(todo, 1):
        try:
            with steps_bar(f"{i}/{len(todo)} {job.input.name}") as on_step:
                image = make(pipe, job.input, m, on_step)
        except ImageError as error:  # behind a good header
            if not options.skip_broken:
                raise
            say(f"minip2p: skipped: {error}", error=True)
            continue
        files.write_file(job.output, metadata.encode(image, job.output, m))
        sampling.report(job.output, image, *_notes(job, m, image))


def make(pipe: "Pipeline", source: Path, m: dict, on_step: Step | None = None) -> Image.Image:
    """The edited image, or the contact sheet, that metadata describes."""
    from ..data.images import open_image

    def edit(**changes: Any) -> Image.Image:
        return pipe.edit(source, m["instruction"], **sampling.settings_in(m) | changes, on_step=on_step)

    if not m["grid"]:
        return edit()
    rows, below = figures.grid_rows(m["grid"], edit), figures.settings_line(m, tuple(EDIT_AXES))
    return figures.lay_out(m["instruction"], below, rows, [("input", open_image(source))])


def _notes(job: jobs.Job, m: dict, image: Image.Image) -> list[str]:
    """What may surprise the user."""
    from ..data.images import open_image

    notes, size = [], open_image(job.input).size
    if m["grid"]:
        notes.append(f"a sheet of {figures.cells_of(m['grid'])} edits")
    elif image.size != size:
        notes.append(f"input {size[0]}x{size[1]} fitted by {m['fit']}, --keep-size restores the size")
    if not m["instruction"].strip():
        notes.append("the instruction is empty: nothing was edited")
    return notes

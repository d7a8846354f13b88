"""`minip2p edit`: images edited as instructions say."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from tyro.conf import FlagCreatePairsOff, arg

import minip2p

from ..data.pixels import ImageError
from . import figures, files, jobs, metadata, sampling
from .arguments import OWN, Fit, optional, steps_bar
from .printing import say
from .sampling import BatchSize, Grid, KeepSize, Resolution, Sampling, Step

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
    batch_size: BatchSize = None
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
    n = sampling.batch_size(pipe, todo[0][1], 3, options.batch_size) if todo else 1
    done = 0
    for batch in _batches(todo, 1 if grid else n):
        done += len(batch)
        opened = [(job, m, image) for job, m in batch if (image := _open(job, options.skip_broken)) is not None]
        with steps_bar(f"{done}/{len(todo)} {batch[-1][0].input.name}") as on_step:
            alone = [make(pipe, image, m, on_step, n) for _, m, image in opened] if len(opened) == 1 else []
            made = alone or _edit(pipe, opened, on_step)
        for (job, m, source), image in zip(opened, made, strict=True):
            files.write_file(job.output, metadata.encode(image, job.output, m))
            sampling.report(job.output, image, *_notes(source.size, m, image))


def make(
    pipe: "minip2p.Pipeline",
    source: Path | Image.Image,
    m: dict,
    on_step: Step | None = None,
    batch_size: int | None = None,
) -> Image.Image:
    """The edited image, or the contact sheet, that metadata describes."""
    from ..data.images import open_image

    def edit(**changes: Any) -> Any:
        return pipe.edit(source, m["instruction"], **sampling.settings_in(m) | changes, on_step=on_step)

    if not m["grid"]:
        return edit()
    n = sampling.batch_size(pipe, m, 3, batch_size)
    cell = sampling.in_batches(figures.grid_cells(m["grid"]), partial(edit, batch_size=n), m["seed"])
    rows, below = figures.grid_rows(m["grid"], cell), figures.settings_line(m, tuple(EDIT_AXES))
    return figures.lay_out(m["instruction"], below, figures.beside("input", open_image(source), rows))


def _batches(todo: list[tuple[jobs.Job, dict]], n: int) -> list[list[tuple[jobs.Job, dict]]]:
    """Images of one size together, at most n; with n = 1 all in their order."""
    sizes: dict[Any, list] = {}
    for i, (job, m) in enumerate(todo):
        sizes.setdefault(job.size if n > 1 else i, []).append((job, m))
    return [group[i : i + n] for group in sizes.values() for i in range(0, len(group), n)]


def _open(job: jobs.Job, skip_broken: bool) -> "Image.Image | None":
    """The input; None for one that is broken behind a good header, and to be skipped."""
    from ..data.images import open_image

    try:
        return open_image(job.input)
    except ImageError as error:
        if not skip_broken:
            raise
        say(f"minip2p: skipped: {error}", error=True)
        return None


def _edit(
    pipe: "minip2p.Pipeline", opened: list[tuple[jobs.Job, dict, Image.Image]], on_step: Step
) -> list[Image.Image]:
    """The edited images of a batch; those of several record that they were made together."""
    if not opened:
        return []
    _, ms, images = zip(*opened)
    lists = {name: [m[name] for m in ms] for name in ("instruction", "seed", "text_scale", "image_scale")}
    for m in ms:
        m["made_with"]["batch size"] = str(len(ms))
    how = sampling.settings_in(ms[0]) | lists | {"batch_size": len(ms), "on_step": on_step}
    return pipe.edit(images, **how)


def _notes(size: tuple[int, int], m: dict, image: Image.Image) -> list[str]:
    """What may surprise the user. size: of the input."""
    notes = []
    if m["grid"]:
        notes.append(f"a sheet of {figures.cells_of(m['grid'])} edits")
    elif image.size != size:
        notes.append(f"input {size[0]}x{size[1]} fitted by {m['fit']}, --keep-size restores the size")
    if not m["instruction"].strip():
        notes.append("the instruction is empty: nothing was edited")
    return notes

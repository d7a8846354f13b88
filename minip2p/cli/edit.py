"""`minip2p edit`: images edited as instructions say."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from PIL import Image
from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

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
    have "output", "mask", "seed", "text_scale" and "image_scale"; its paths are relative to it"""
    edit: Annotated[tuple[str, ...], UseAppendAction, optional("TEXT")] = ()
    """the instruction, e.g. "make it night"; given again, it edits the result again, with the same seed and settings;
    in a table, for lines that have none (there, several are a list)"""
    output: Annotated[str, arg(metavar="PATH")]
    """the file to write, or for several images the folder; created if missing. There a.png is named as the input, and
    the result of a.jpg is a.jpg.png"""
    mask: Annotated[str | None, optional("PATH")] = None
    """an image that is black where the input stays and white where it is edited; grey mixes; it is stretched over the
    input. Or a folder, in which a.png is the mask of a.jpg"""
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
    how = {"mask": options.mask, "overwrite": options.sampling.overwrite, "skip_broken": options.skip_broken}
    planned = jobs.plan(options.input, options.edit, options.output, **how)
    pipe = options.sampling.load("editor")
    todo = []
    for job in planned:
        more = {"instruction": job.turns[0] if len(job.turns) == 1 else list(job.turns), "grid": grid} | job.settings
        m = sampling.describe(pipe, options, job.output, job.input, job.size, job.mask, **more)
        if job.output == Path(options.output) or job.made is None or not metadata.equal(job.made, m):
            todo.append((job, m))
    if done := len(planned) - len(todo):
        say(f"minip2p: {done} of {len(planned)} are finished (same metadata in the output), skipped", error=True)
    n = sampling.batch_size(pipe, todo[0][1], 3, options.batch_size) if todo else 1
    done = 0
    for batch in _batches(todo, 1 if grid else n):
        done += len(batch)
        opened = [each for job, m in batch if (each := _open(job, m, options.skip_broken)) is not None]
        with steps_bar(f"{done}/{len(todo)} {batch[-1][0].input.name}") as on_step:
            alone = [make(pipe, each.source, each.m, on_step, n, each.mask) for each in opened if len(opened) == 1]
            made = alone or _edit_batch(pipe, opened, on_step)
        for each, image in zip(opened, made, strict=True):
            files.write_file(each.output, metadata.encode(image, each.output, each.m))
            sampling.report(each.output, image, *_notes(each, image))


class Opened(NamedTuple):
    """A job whose images have been read."""

    output: Path
    m: dict
    source: Image.Image
    mask: Image.Image | None


def make(
    pipe: "minip2p.Pipeline",
    source: Path | Image.Image,
    m: dict,
    on_step: Step | None = None,
    batch_size: int | None = None,
    mask: Path | Image.Image | None = None,
) -> Image.Image:
    """The edited image, or the contact sheet, that metadata describes."""
    from ..data.images import open_image

    def edit(**changes: Any) -> Any:
        return _edit(pipe, source, _turns(m), mask=mask, **sampling.settings_in(m) | changes, on_step=on_step)

    if not m["grid"]:
        return edit()
    n = sampling.batch_size(pipe, m, 3, batch_size)
    cell = sampling.in_batches(figures.grid_cells(m["grid"]), partial(edit, batch_size=n), m["seed"])
    rows, below = figures.grid_rows(m["grid"], cell), figures.settings_line(m, tuple(EDIT_AXES))
    return figures.lay_out(", then ".join(_turns(m)), below, figures.beside("input", open_image(source), rows))


def _turns(m: dict) -> list[str]:
    """The instructions in metadata."""
    return [m["instruction"]] if isinstance(m["instruction"], str) else list(m["instruction"])


def _edit(pipe: "minip2p.Pipeline", images: Any, turns: list, **how: Any) -> Any:
    """The images after the last turn; a turn is an instruction, or a list of one for each image."""
    return pipe.edit(images, *turns, **how) if len(turns) == 1 else pipe.edit_turns(images, turns, **how)[-1]


def _batches(todo: list[tuple[jobs.Job, dict]], n: int) -> list[list[tuple[jobs.Job, dict]]]:
    """Images of one size and with equally many turns together, at most n; with n = 1 all in their order."""
    groups: dict[Any, list] = {}
    for i, (job, m) in enumerate(todo):
        groups.setdefault((job.size, len(job.turns)) if n > 1 else i, []).append((job, m))
    return [group[i : i + n] for group in groups.values() for i in range(0, len(group), n)]


def _open(job: jobs.Job, m: dict, skip_broken: bool) -> Opened | None:
    """The images of a job; None where one is broken behind a good header, and to be skipped."""
    from ..data.images import open_image
    from ..pipeline.mask import open_mask

    try:
        return Opened(job.output, m, open_image(job.input), None if job.mask is None else open_mask(job.mask))
    except ImageError as error:
        if not skip_broken:
            raise
        say(f"minip2p: skipped: {error}", error=True)
        return None


def _edit_batch(pipe: "minip2p.Pipeline", opened: list[Opened], on_step: Step) -> list[Image.Image]:
    """The edited images of a batch; those of several record that they were made together."""
    if not opened:
        return []
    _, ms, images, masks = zip(*opened)
    for m in ms:
        m["made_with"]["batch size"] = str(len(ms))
    lists: dict[str, Any] = {name: [m[name] for m in ms] for name in ("seed", "text_scale", "image_scale")}
    lists["mask"] = list(masks) if any(masks) else None
    turns = [list(texts) for texts in zip(*map(_turns, ms), strict=True)]
    return _edit(pipe, images, turns, **sampling.settings_in(ms[0]) | lists, batch_size=len(ms), on_step=on_step)


def _notes(job: Opened, image: Image.Image) -> list[str]:
    """What may surprise the user."""
    notes, turns, (width, height) = [], _turns(job.m), job.source.size
    if job.m["grid"]:
        notes.append(f"a sheet of {figures.cells_of(job.m['grid'])} edits")
    elif image.size != job.source.size:
        notes.append(f"input {width}x{height} fitted by {job.m['fit']}, --keep-size restores the size")
    if len(turns) > 1:
        notes.append(f"{len(turns)} turns")
    if job.mask is not None and abs(job.mask.width * height / (job.mask.height * width) - 1) > 0.02:
        notes.append(f"the mask, {job.mask.width}x{job.mask.height}, was stretched over the input")
    if not any(text.strip() for text in turns):
        notes.append("the instruction is empty: nothing was edited")
    return notes

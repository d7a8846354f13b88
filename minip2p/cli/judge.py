"""`minip2p judge`: how often an editor is right in the tiny world."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from . import files
from .arguments import OWN, Loading, load, optional
from .jobs import check_number


@dataclass(frozen=True, kw_only=True)
class Options(Loading):
    """Make held-out edits of the tiny world and print how many are right, by kind of edit."""

    edits: int = 200
    """how many"""
    steps: int = 30
    """steps of the sampler"""
    sampler: str = "euler_ancestral"
    """the sampler's name"""
    text_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """guidance towards the instruction"""
    image_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """guidance towards the input picture"""
    seed: int = 0
    """of the first edit's noise"""
    output: Annotated[str | None, optional("PATH")] = None
    """a sheet of inputs, results and truths to draw"""


def run(options: Options) -> None:
    """Edit, judge, print a table."""
    from tqdm import tqdm

    from ..evaluation.edits import judge_editor, table

    for name in ("edits", "steps"):
        check_number(name, getattr(options, name))
    if options.output:
        files.check_writable(Path(options.output))
    pipe = load(options, device=options.device, dtype=options.dtype)
    with tqdm(desc="editing", unit="step", leave=False) as bar:

        def show(progress) -> None:
            bar.total = progress.total
            bar.update(progress.done - bar.n)

        judged = judge_editor(
            pipe, options.edits, steps=options.steps, sampler=options.sampler, text_scale=options.text_scale,
            image_scale=options.image_scale, seed=options.seed, on_step=show,
        )  # fmt: skip
    print(table(judged))
    if options.output:
        _sheet(judged, pipe.config.sampling.resolution, Path(options.output))


def _sheet(judged, size: int, path: Path) -> None:
    """The first 64: source, result, truth in a row; a red bar under the wrong ones."""
    import io

    from PIL import Image, ImageDraw

    from ..data.scenes import render

    cells, columns = judged[:64], 8
    gap = 4
    sheet = Image.new("RGB", (columns * (3 * size + 2 * gap), -(-len(cells) // columns) * (size + 2 * gap)), "white")
    for i, j in enumerate(cells):
        x, y = i % columns * (3 * size + 2 * gap), i // columns * (size + 2 * gap)
        for k, picture in enumerate((render(j.edit.source, size), j.picture, render(j.edit.target, size))):
            sheet.paste(picture, (x + k * size, y))
        if not j.right:
            ImageDraw.Draw(sheet).rectangle((x, y + size, x + 3 * size - 1, y + size + gap - 1), fill="red")
    data = io.BytesIO()
    sheet.save(data, "PNG")
    files.write(path, data.getvalue())

"""`minip2p make-data`: the paper's way from captions to a training set, in miniature, with a report."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from PIL import Image
from tyro.conf import arg

from . import files, sheet
from .arguments import optional
from .painting import side_by_side

if TYPE_CHECKING:
    from ..datagen.miniature import Recipe, Report, Shown

ACROSS = 3
"""pairs in a row of the report's picture"""
ENLARGED = 192
"""pixels of a picture's side there, so that its instruction has room above"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a training set from nothing but captions: a language model's instructions, Prompt-to-Prompt, a CLIP filter.

    After a stop, even a hard one, the same command goes on. In the output: captions.txt, prompts.jsonl, the training
    set in pairs/, and report.md, report.png, report.json, which tell how good it is.
    """

    output: Annotated[str, arg(metavar="FOLDER")]
    """made if need be"""
    recipe: Literal["tiny"] = "tiny"
    """tiny: the tiny world's captions, and the models that are shipped"""
    captions: Annotated[int | None, optional("INT", "(default: the recipe's, 2000)")] = None
    """how many"""
    samples: Annotated[int | None, optional("INT", "(default: the recipe's, 4)")] = None
    """pairs painted of each instruction"""
    steps: Annotated[int | None, optional("INT", "(default: the recipe's, 20)")] = None
    """of the painter's sampler"""
    compared: Annotated[int | None, optional("INT", "(default: the recipe's, 100)")] = None
    """instructions that the report paints without Prompt-to-Prompt too; 0 leaves that out"""
    seed: int = 0
    """of everything"""
    threads: Annotated[int | None, optional("INT", "(default: PyTorch's own, or those of the run that goes on)")] = None
    """of the CPU; part of the run, for they change pictures by rounding"""
    writer: Annotated[str | None, optional("PATH", "(default: the shipped one)")] = None
    """the language model"""
    painter: Annotated[str | None, optional("PATH", "(default: the shipped one)")] = None
    """the model that paints"""
    clip: Annotated[str | None, optional("PATH", "(default: the shipped one)")] = None
    """the CLIP that filters"""
    reader: Annotated[str | None, optional("PATH", "(default: the shipped one)")] = None
    """who tells, for the report, what pictures show"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps"""


def run(options: Options) -> None:
    """Check, load the models, make what is not there yet, report."""
    from tqdm import tqdm

    recipe, out = recipe_of(options), Path(options.output)
    files.check_writable(out / "report.md")
    from .. import load, load_clip, load_reader, load_writer, shipped
    from ..datagen import miniature

    device = {"device": options.device}
    models = miniature.Models(
        writer=load_writer(options.writer, **device), painter=load(options.painter or shipped("painter"), **device),
        clip=load_clip(options.clip, **device), reader=load_reader(options.reader, **device),
    )  # fmt: skip
    with tqdm(unit="", dynamic_ncols=True) as bar:

        def show(what: str, done: int, total: int) -> None:
            if bar.desc != f"{what}: ":
                bar.reset(total)
                bar.set_description(what)
                bar.initial = done
            bar.total = total
            bar.update(done - bar.n)

        report = miniature.make(recipe, out, models, show=show)
    text = miniature.markdown(report)
    files.write(out / "report.json", miniature.to_json(report).encode())
    files.write(out / "report.png", files.png(draw(report)))
    files.write(out / "report.md", f"{text}\n![Pairs](report.png)\n".encode())
    print(f"{text}\n{out / 'pairs'}: the training set; {out / 'report.png'}: a picture of it")


def recipe_of(options: Options) -> "Recipe":
    """The recipe with what the options change. Raises ValueError for numbers that mean nothing."""
    least = {"captions": 1, "samples": 1, "steps": 1, "compared": 0, "seed": 0, "threads": 1}
    for name, low in least.items():
        if (value := getattr(options, name)) is not None and value < low:
            raise ValueError(f"--{name} {value}: expected at least {low}")
    from ..datagen.miniature import RECIPES

    recipe = replace(RECIPES[options.recipe], seed=options.seed)
    parts = {"captions": options.captions, "compared": options.compared}
    recipe = replace(recipe, **{name: value for name, value in parts.items() if value is not None})
    painting = {"samples": options.samples, "steps": options.steps, "threads": options.threads}
    painting = {name: value for name, value in painting.items() if value is not None}
    writing = replace(recipe.writing, threads=options.threads)
    return replace(recipe, writing=writing, painting=replace(recipe.painting, **painting))


def draw(report: "Report") -> Image.Image:
    """The report on a page: pairs that the filter keeps, of many kinds, and pairs that it does not."""
    filtered, writing = report.filtered, report.writing
    below = (
        f"{writing.captions} captions, {writing.accepted} instructions by the writer, {filtered.samples} pairs by the "
        f"painter, {filtered.kept} kept by the CLIP filter"
    )
    kept, rows = _varied(report.kept), []
    for at in range(0, min(len(kept), 5 * ACROSS), ACROSS):
        rows.append(_row("kept" if not at else "", kept[at : at + ACROSS]))
    others = _varied([s for s in next(iter(report.ways.values()), []) if not s.kept])[: 2 * ACROSS]
    for at in range(0, len(others), ACROSS):
        rows.append(_row("refused" if not at else "", others[at : at + ACROSS]))
    if not rows:
        rows = [sheet.Row("", [], [Image.new("RGB", (sheet.CELL, sheet.CELL), sheet.PAPER)], "no pairs")]
    return sheet.lay_out("From captions to a training set", below, rows)


def _row(label: str, some: "list[Shown]") -> sheet.Row:
    """Source and edited picture of each, its instruction above, and whether it shows the change."""
    heads = [f"{each.prompt['edit']} ({'exactly so' if each.exact else 'not so'})" for each in some]
    return sheet.Row(label, heads, [side_by_side(*map(_enlarged, each.pictures)) for each in some])


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = max(1, ENLARGED // picture.width)
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


def _varied(shown: "list[Shown]") -> "list[Shown]":
    """In turn of every kind of change, of each prompt once."""
    by_kind: dict = {}
    for each in {each.prompt["id"]: each for each in reversed(shown)}.values():
        by_kind.setdefault(str(each.kind), []).append(each)
    turns = [(i, kind, each) for kind, some in by_kind.items() for i, each in enumerate(reversed(some))]
    return [each for _, _, each in sorted(turns, key=lambda turn: turn[:2])]

"""`minip2p judge`: how good models are in the tiny world, where the truth is known."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from . import files
from .arguments import OWN, Loading, load, optional
from .jobs import check_number

if TYPE_CHECKING:
    from ..models.reader import Reader
    from ..pipeline import Pipeline

KINDS = {
    "edits": (200, 30), "paintings": (200, 30), "pairs": (200, 20), "inversions": (50, 50), "readings": (500, 1),
    "instructions": (500, 1),
}  # fmt: skip
"""what is judged -> how many, with how many steps, unless given"""
Show = Callable[[Any], None]
Judged = tuple[str, Callable[[], bytes] | None]
"""what to print; what draws the picture, if there is one"""


@dataclass(frozen=True, kw_only=True)
class Options(Loading):
    """Make held-out pictures of the tiny world, or instructions for its captions, and print how many are right."""

    of: Annotated[
        Literal["edits", "paintings", "pairs", "inversions", "readings", "instructions"], arg(metavar="|".join(KINDS))
    ] = "edits"
    """edits: of the editor, by kind of edit; paintings: of the painter, read by the reader; pairs: Prompt-to-Prompt at
    each share, and how many pixels change; inversions: how near reconstructions come; readings: the reader on pictures
    whose truth is known; instructions: how many of the writer's are valid and agree with their captions"""
    number: Annotated[int | None, optional("INT", "(default: 200; inversions 50, readings, instructions 500)")] = None
    """how many"""
    steps: Annotated[int | None, optional("INT", "(default: 30; pairs 20, inversions 50)")] = None
    """steps of the sampler"""
    sampler: str = "euler_ancestral"
    """the sampler's name"""
    text_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """guidance towards the text"""
    image_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """of edits: guidance towards the input picture"""
    change: Literal["thing", "scene"] = "thing"
    """of pairs: a thing changes, and the rest can stay; or time, setting or medium, and every pixel's look with it"""
    input: Annotated[tuple[str, ...], optional("PATH ...")] = ()
    """of inversions: pictures of yours in place of the tiny world's"""
    prompt: Annotated[tuple[str, ...], optional("TEXT ...")] = ()
    """of inversions: what each of them shows"""
    inner: int = 10
    """of inversions: gradient steps for each step of the sampler, at most"""
    learning_rate: float = 0.03
    """of inversions: of those steps (the published one is 0.01; the tiny painter takes more)"""
    temperature: float = 0.7
    """of instructions: of the sampling; 0 takes the likeliest tokens"""
    seed: int = 0
    """of the first picture's noise, or the first instruction's sampling"""
    reader: Annotated[str | None, optional("PATH", "(default: the shipped one)")] = None
    """the reader's weights"""
    output: Annotated[str | None, optional("PATH")] = None
    """of edits and paintings, a sheet to draw; of pairs, the curve (needs matplotlib)"""


def run(options: Options) -> None:
    """Make pictures or instructions, judge, print a table."""
    from tqdm import tqdm

    number, steps = (own if given is None else given for own, given in zip(KINDS[options.of], _counts(options)))
    if options.output:
        if options.of in ("inversions", "readings", "instructions"):
            raise ValueError(f"--output: of {options.of} there is a table only; leave it out")
        files.check_writable(Path(options.output))
    if options.config and options.of == "instructions":
        raise ValueError("--config: a writer's is as it is; leave it out")
    if len(options.input) != len(options.prompt) or (options.input and options.of != "inversions"):
        given = f"--input {len(options.input)} and --prompt {len(options.prompt)}"
        raise ValueError(f"{given}: expected equally many, with --of inversions")
    with tqdm(desc=options.of, unit="step", leave=False) as bar:

        def show(progress) -> None:
            if progress.done <= bar.n:  # the next of several runs
                bar.reset()
            bar.total = progress.total
            bar.update(progress.done - bar.n)

        text, picture = JUDGES[options.of](options, number, steps, show)
    print(text)
    if options.output:
        files.write(Path(options.output), picture())


def _counts(options: Options) -> tuple[int | None, int | None]:
    for name in ("number", "steps", "text_scale", "image_scale", "seed", "inner", "temperature"):
        check_number(name, getattr(options, name))
    return options.number, options.steps


def _painter(options: Options) -> "Pipeline":
    pipe = load(options, "painter", device=options.device, dtype=options.dtype)
    pipe.generate([])  # of no prompt: says so now where the model is no painter
    return pipe


def _reader(options: Options) -> "Reader":
    from ..loading import load_reader

    return load_reader(options.reader)


def _edits(options: Options, number: int, steps: int, show: Show) -> Judged:
    from ..data.scenes import render
    from ..evaluation.edits import judge_editor, table

    pipe = load(options, device=options.device, dtype=options.dtype)
    judged = judge_editor(
        pipe, number, steps=steps, sampler=options.sampler, text_scale=options.text_scale,
        image_scale=options.image_scale, seed=options.seed, on_step=show,
    )  # fmt: skip
    size = pipe.config.sampling.resolution
    cells = [((render(j.edit.source, size), j.picture, render(j.edit.target, size)), j.right) for j in judged]
    return table(judged), lambda: _sheet(cells)


def _paintings(options: Options, number: int, steps: int, show: Show) -> Judged:
    from ..evaluation import reader as readings
    from ..evaluation.paintings import judge_painter

    pipe, reader = _painter(options), _reader(options)
    how = {"steps": steps, "sampler": options.sampler, "scale": options.text_scale, "seed": options.seed}
    told, left = (judge_painter(pipe, reader, number, loose=loose, on_step=show, **how) for loose in (False, True))
    reads = {"painted, the caption tells all": told, "painted, sizes, places and weather left open": left}
    reads |= readings.judge_reader(reader, pipe, number)
    return readings.report(reads), lambda: _sheet([((p.picture,), p.score.whole) for p in left])


def _pairs(options: Options, number: int, steps: int, show: Show) -> Judged:
    from ..evaluation.paintings import best_share, judge_pairs, table

    if options.output:
        _plots()
    figures = judge_pairs(
        _painter(options), _reader(options), number, change=options.change, steps=steps, sampler=options.sampler,
        scale=options.text_scale, seed=options.seed, on_step=show,
    )  # fmt: skip
    best = best_share(figures)
    text = f"{table(figures)}\n\nbest share: {best.share:g} (fewest pixels changed with 0.9 of the most targets right)"
    return text, lambda: _curve(figures, number)


def _inversions(options: Options, number: int, steps: int, show: Show) -> Judged:
    from ..evaluation.inversion import reconstruct, reconstruct_scenes, table

    how = {"steps": steps, "scale": options.text_scale, "inner": options.inner, "learning_rate": options.learning_rate}
    pipe = _painter(options)
    how["checkpointing"] = pipe.device.type != "cpu"  # less memory for more time
    if options.input:
        figures = reconstruct(pipe, options.input, options.prompt, **how, on_step=show)
    else:
        figures = reconstruct_scenes(pipe, number, **how, batch_size=25, on_step=show)
    return table(figures), None


def _readings(options: Options, number: int, steps: int, show: Show) -> Judged:
    from ..evaluation.reader import judge_reader, report

    pipe = load(options, device=options.device, dtype=options.dtype)
    return report(judge_reader(_reader(options), pipe, number)), None


def _instructions(options: Options, number: int, steps: int, show: Show) -> Judged:
    from ..evaluation.instructions import ask_again, judge_writer, table
    from ..loading import load_writer

    writer = load_writer(options.weights, device=options.device, dtype=options.dtype)
    how = {"seed": options.seed, "temperature": options.temperature}
    judged = judge_writer(writer, number, on_done=lambda done: show(SimpleNamespace(done=done, total=number)), **how)
    return table(judged, ask_again(writer, judged, **how)), None


JUDGES = {
    "edits": _edits, "paintings": _paintings, "pairs": _pairs, "inversions": _inversions, "readings": _readings,
    "instructions": _instructions,
}  # fmt: skip


def _sheet(cells: list[tuple[tuple, bool]]) -> bytes:
    """The first 64, each one or more pictures in a row; a red bar under the wrong ones."""
    from PIL import Image, ImageDraw

    cells, columns, gap = cells[:64], 8, 4
    size, each = cells[0][0][0].width, len(cells[0][0])
    sheet = Image.new("RGB", (columns * (each * size + 2 * gap), -(-len(cells) // columns) * (size + 2 * gap)), "white")
    for i, (pictures, right) in enumerate(cells):
        x, y = i % columns * (each * size + 2 * gap), i // columns * (size + 2 * gap)
        for k, picture in enumerate(pictures):
            sheet.paste(picture, (x + k * size, y))
        if not right:
            ImageDraw.Draw(sheet).rectangle((x, y + size, x + each * size - 1, y + size + gap - 1), fill="red")
    return files.png(sheet)


def _plots():
    """matplotlib's figure, or a ValueError that says how to get it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--output: the curve needs matplotlib, which is missing; pip install matplotlib") from None
    return Figure


def _curve(figures: list, number: int) -> bytes:
    """Targets read right and pixels changed over the share, with different noise as lines across."""
    from ..evaluation.paintings import OTHER_NOISE

    shared = [each for each in figures if not isinstance(each.share, str)]
    other = next(each for each in figures if each.share == OTHER_NOISE)
    figure = _plots()(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    right, shares = left.twinx(), [each.share for each in shared]
    for axis, name, colour, mark in ((left, "target", "tab:blue", "o"), (right, "changed", "tab:red", "s")):
        axis.plot(shares, [100 * getattr(each, name) for each in shared], color=colour, marker=mark)
        axis.axhline(100 * getattr(other, name), color=colour, linestyle=":")
        axis.set_ylim(bottom=0)
        axis.tick_params(axis="y", labelcolor=colour)
    left.set_ylim(0, 100)
    left.set_ylabel("targets read wholly right (%)", color="tab:blue")
    right.set_ylabel("pixels that differ by more than 0.1 (%)", color="tab:red")
    left.set_xlabel("share of the steps with the source's self-attention (dotted: other noise, nothing shared)")
    left.set_title(f"Pairs of {number} held-out captions with one change")
    return files.png(figure)

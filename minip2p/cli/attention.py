"""`minip2p attention`: where the words of an edit or a prompt are looked at, drawn over the picture."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from . import files, heatmaps, recipe
from .arguments import OWN, Loading, load, optional
from .edit import steps_bar
from .jobs import check_number

if TYPE_CHECKING:
    from PIL import Image

    from ..control.observe import Record
    from ..pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw where each word is looked at while a picture is edited (--input, --edit) or painted (--prompt).

    A column is a word, a row a size of the network's attention maps; the first row is their mean. With --at the columns
    are places of the picture, and the maps show where each of them looks (self-attention).
    """

    input: Annotated[str | None, optional("PATH")] = None
    """a picture to edit"""
    edit: Annotated[str | None, optional("TEXT")] = None
    """the instruction, e.g. "make it night" """
    prompt: Annotated[str | None, optional("TEXT")] = None
    """in place of input and edit, a text to paint from"""
    output: Annotated[str, arg(metavar="PATH")]
    """the figure's file (.png, .webp, .jpg, .tif, .bmp)"""
    words: Annotated[tuple[str, ...], optional("WORD ...", "(default: all)")] = ()
    """words or, in quotes, phrases of the text"""
    ends: FlagCreatePairsOff[bool] = False
    """show the tokens before and after the text, too; they often get most of the attention"""
    at: Annotated[tuple[str, ...], optional("X,Y ...")] = ()
    """places of the edited or painted picture, in its pixels from the top left: where do they look?"""
    place: Annotated[tuple[Literal["down", "mid", "up"], ...], optional("down|mid|up ...", "(default: all)")] = ()
    """only layers on the way down, in the middle, on the way up"""
    pixels: Annotated[int | None, optional("INT", "(default: all)")] = None
    """only maps of at most so many pixels"""
    average: FlagCreatePairsOff[bool] = False
    """draw only the mean over all sizes of maps"""
    start: Annotated[float, arg(name="from")] = 0.0
    """the part of the run that is averaged: its beginning, 0 to 1"""
    end: Annotated[float, arg(name="to")] = 1.0
    """and its end"""
    scale: Literal["word", "all"] = "word"
    """of the colours: each map its own, or one for all"""
    cell: int = 192
    """pixels of the longer side of each map, about"""
    steps: int = 50
    """of the sampler"""
    text_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """how strongly the text is followed"""
    image_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """how closely the picture is kept, when editing"""
    seed: int = 0
    """of the noise"""
    sampler: Annotated[str, arg(metavar="NAME")] = "euler_ancestral"
    """ddpm, ddim, euler, euler_ancestral, heun, dpmpp_2m"""
    resolution: Annotated[int | None, optional("PIXELS", OWN)] = None
    """the longer side of an edited picture, about; the sides of a painted one"""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """how a picture comes to the size of the edit"""
    low_memory: FlagCreatePairsOff[bool] = False
    """one branch at a time, networks off the device when not in use"""
    loading: Loading = field(default_factory=Loading)


def run(options: Options) -> None:
    """Check, run the sampler with a record, draw it."""
    from ..control.observe import PLACES, Record, steps_of

    text, output, places = _check(options), Path(options.output), [_place(word) for word in options.at]
    record = Record(
        kind="self" if places else "cross", places=options.place or PLACES, pixels=options.pixels,
        during=(options.start, options.end),
    )  # fmt: skip
    steps_of(record.during, options.steps)
    pipe = _load(options)
    columns = [] if places else _words(pipe, options, text)
    source, picture = _sample(pipe, options, record, places)
    rows, maps = _maps(record, picture, [tokens for _, tokens in columns], places, options.average)
    labels = options.at if places else [label for label, _ in columns]
    marks = [((x + 0.5) / picture.width, (y + 0.5) / picture.height) for x, y in places] or [None] * len(columns)
    columns = [heatmaps.Column(*each) for each in zip(labels, maps, marks, strict=True)]
    pictures = [("result", picture)] if source is None else [("input", source), ("result", picture)]
    told, own_scale = _text(pipe, options, record, text), options.scale == "word"
    figure = heatmaps.draw(told, pictures, rows, columns, own_scale=own_scale, cell=options.cell)
    files.write(output, recipe.encode(figure, output, _recipe(pipe, options)))
    print(f"{output}: {figure.width}x{figure.height}" + ("" if places else f"; {_shares(pipe, record, text)}"))


def _check(options: Options) -> str:
    """The text to be seen. Raises ValueError for what cannot be, before anything slow."""
    from ..data.images import open_image
    from ..diffusion import get_sampler
    from ..text.align import positions, words

    if options.prompt is not None and (options.input is not None or options.edit is not None):
        raise ValueError("--prompt paints from text alone; leave out --input and --edit, or say --edit what to change")
    if options.prompt is None and (options.input is None or options.edit is None):
        raise ValueError('expected --input PICTURE --edit "an instruction", or --prompt "a text to paint from"')
    for name in ("steps", "seed", "text_scale", "image_scale", "resolution"):
        check_number(name, getattr(options, name))
    if not 16 <= options.cell <= 2048:
        raise ValueError(f"cell {options.cell}: expected 16 to 2048 pixels")
    if options.text_scale == 0:
        raise ValueError("text scale 0.0: the network never reads the text, so there is nothing to see")
    get_sampler(options.sampler)
    text, output = options.edit if options.prompt is None else options.prompt, Path(options.output)
    if not text.strip():
        raise ValueError("the text is empty, so there is nothing to see")
    if not words(text) and not (options.at or options.ends):
        raise ValueError(f"{text!r} has no words; --ends shows the tokens before and after it")
    if options.at and (options.words or options.ends):
        raise ValueError("--at shows where places look, --words and --ends where words are looked at; choose one")
    for word in options.words:
        positions(Letters(), text, word)
    recipe.check_format(output)
    files.check_writable(output)
    if options.input is not None:
        open_image(options.input)
        if output.resolve() == Path(options.input).resolve():
            raise ValueError(f"output {output} is the input; choose another place, so that nothing is lost")
    return text


class Letters:
    """A tokenizer of letters, to look for words before there is any other."""

    max_length = sys.maxsize

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [(i, i + 1) for i in range(len(text))]


def _place(word: str) -> tuple[int, int]:
    x, comma, y = word.partition(",")
    if not (comma and x.strip().isdecimal() and y.strip().isdecimal()):
        raise ValueError(f"--at {word!r}: expected x,y in whole pixels from the top left, e.g. 20,45")
    return int(x), int(y)


def _load(options: Options) -> "Pipeline":
    """The weights given; else the shipped editor, or painter. Says now where they are of the wrong kind."""
    how = options.loading
    pipe = load(how, "editor" if options.prompt is None else "painter", device=how.device, dtype=how.dtype)
    pipe.edit([], "") if options.prompt is None else pipe.generate([], size=options.resolution)
    return pipe


def _words(pipe: "Pipeline", options: Options, text: str) -> list[tuple[str, list[int]]]:
    """(label, token positions) of each column."""
    from ..text.align import positions, words

    offsets = pipe.tokenizer.offsets(text)[: pipe.tokenizer.max_length - 2]
    if options.words:
        columns = [(word, positions(pipe.tokenizer, text, word)) for word in options.words]
    else:
        spans = words(text)
        found = [[t for t, (a, b) in enumerate(offsets, 1) if a < end and start < b] for _, start, end in spans]
        columns = [(word, tokens) for (word, *_), tokens in zip(spans, found) if tokens]
        if len(columns) < len(spans):
            cut = " ".join(word for word, *_ in spans[len(columns) :])
            print(f"minip2p: note: the model reads no more than {len(offsets)} tokens; cut off: {cut}", file=sys.stderr)
    if options.ends:
        columns = [("(start)", [0]), *columns, ("(end)", [len(offsets) + 1])]
    return columns


def _sample(pipe: "Pipeline", options: Options, record: "Record", places) -> tuple["Image.Image | None", "Image.Image"]:
    """The input as it is edited, if there is one, and the result."""
    how = {name: getattr(options, name) for name in ("text_scale", "steps", "seed", "sampler", "low_memory")}
    with steps_bar(options.steps) as bar:
        how |= {"control": [record], "on_step": lambda _: bar.update()}
        if options.prompt is None:
            source = pipe.fitted(options.input, options.resolution, options.fit).image
            _check_places(places, *source.size)
            how |= {"image_scale": options.image_scale, "resolution": options.resolution, "fit": options.fit}
            return source, pipe.edit(options.input, options.edit, **how)
        side = options.resolution or pipe.config.sampling.resolution
        _check_places(places, side, side)
        return None, pipe.generate(options.prompt, scale=how.pop("text_scale"), size=options.resolution, **how)


def _check_places(places: Sequence[tuple[int, int]], width: int, height: int) -> None:
    for x, y in places:
        if x >= width or y >= height:
            raise ValueError(f"--at {x},{y} is outside of the picture, which has {width}x{height} pixels")


def _maps(record: "Record", picture: "Image.Image", columns: Sequence[list[int]], places, average: bool):
    """The rows, and for each column a map a row: probabilities (cross), or multiples of an even look's (self)."""
    sizes = list(record.maps())
    asked = [None, *sizes] if len(sizes) > 1 and not average else [None]
    name = "mean" if len(sizes) > 1 else f"{sizes[0][1]} x {sizes[0][0]}"
    rows = [heatmaps.Row(f"{s[1]} x {s[0]}" if s else name, smooth=s is None) for s in asked]
    shapes = [s or (picture.height, picture.width) for s in asked]
    maps = [[record.word(tokens, *each)[0] for each in zip(shapes, asked)] for tokens in columns]
    for x, y in places:
        at = (x + 0.5) / picture.width, (y + 0.5) / picture.height
        maps.append([record.looks(at, *each)[0] * each[0][0] * each[0][1] for each in zip(shapes, asked)])
    return rows, [[each.cpu().numpy() for each in column] for column in maps]


def _text(pipe: "Pipeline", options: Options, record: "Record", text: str) -> heatmaps.Text:
    from ..control.observe import PLACES

    own, steps = pipe.config.sampling, record.steps
    when = f"steps {steps.start + 1} to {steps.stop} of {options.steps}"
    when = f"all {options.steps} steps" if len(steps) == options.steps else when
    places = [place for place in PLACES if place in record.places]
    where = "all layers" if len(places) == 3 else f"the layers {' and '.join(places)}"
    how = [options.sampler, f"seed {options.seed}"]
    for name in ("text_scale", "image_scale") if options.prompt is None else ("text_scale",):
        given = getattr(options, name)
        how.append(f"{name.replace('_', ' ')} {getattr(own, name) if given is None else given:g}")
    kind = f"{record.kind.title()}-attention, mean over heads, {where} and {when}"
    if record.kind == "cross":
        bright, most = "Bright pixels look much at the word", "the largest share of its attention that a pixel gives it"
    else:
        bright, most = "The marked place looks at bright pixels", "the most, as a multiple of an even look everywhere"
    return heatmaps.Text(
        title=text, below=f"{kind}. {', '.join(how)}",
        own=f"{bright}. Each map has its own scale; below it, {most}.",
        common=f"{bright}; one scale for all maps. At the right end, {most}.",
        number=_percent if record.kind == "cross" else "{:.1f}x".format,
    )  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if value > 0.095 else f"{100 * value:.2g} %"


def _recipe(pipe: "Pipeline", options: Options) -> dict:
    """All that decides the figure's pixels."""
    own, how, output = pipe.config.sampling, options.loading, Path(options.output)
    settings = dataclasses.asdict(options)
    for name in ("input", "output", "loading"):
        del settings[name]
    for name in ("text_scale", "image_scale", "resolution"):
        settings[name] = getattr(own, name) if settings[name] is None else settings[name]
    if options.input is not None:
        settings["input"] = {"path": files.relative(options.input, output), "sha256": files.sha256(Path(options.input))}
    weights = recipe.weights_of(pipe, how, output)
    return {"attention": settings, "weights": weights, "made_with": recipe.versions(pipe)}


def _shares(pipe: "Pipeline", record: "Record", text: str) -> str:
    """How much attention the text as a whole gets, and the tokens around it."""
    n = min(len(pipe.tokenizer.encode(text)), pipe.tokenizer.max_length - 2)
    start, words = (len(tokens) * float(record.word(tokens).mean()) for tokens in ([0], list(range(1, n + 1))))
    return (
        f"of all attention {words:.0%} goes to the text, {start:.0%} to the start token, "
        f"{1 - start - words:.0%} to the end and padding"
    )

"""`minip2p attention`: attention maps of an edit or a generation, drawn over the image."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from . import figures, files, metadata, sampling
from .arguments import OWN, Fit, optional, steps_bar
from .sampling import Output, Resolution, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from ..control import Record
    from ..pipeline import Pipeline

Pixels = Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw where each word attends while an image is edited (--input, --edit) or generated (--prompt).

    A column is a word, a row a size of the network's attention maps; the first row is their mean. With --at, a column
    is a pixel of the image, and its maps show which pixels it attends to (self-attention).
    """

    input: Annotated[str | None, optional("PATH")] = None
    """an image to edit"""
    edit: Annotated[str | None, optional("TEXT")] = None
    """the instruction, e.g. "make it night" """
    prompt: Annotated[str | None, optional("TEXT")] = None
    """a text to generate from, in place of --input and --edit"""
    output: Output
    words: Annotated[tuple[str, ...], optional("WORD ...", "(default: all)")] = ()
    """words or, in quotes, phrases of the text"""
    at: Annotated[tuple[str, ...], optional("X,Y ...")] = ()
    """show the self-attention of these pixels of the result, counted from the top left"""
    start: Annotated[float, arg(name="from")] = 0.0
    """start of the part of the run that is averaged, from 0 to 1"""
    end: Annotated[float, arg(name="to")] = 1.0
    """end of that part"""
    text_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """how strongly the text is followed"""
    image_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """how closely the input is followed, when editing"""
    resolution: Resolution = None
    fit: Fit = "crop"
    sampling: Sampling = Sampling()


def run(options: Options) -> None:
    """Run the sampler with a record, draw it."""
    from ..control import Record

    edits, generates = (options.input is not None and options.edit is not None), options.prompt is not None
    if edits == generates or (generates and (options.input is not None or options.edit is not None)):
        raise ValueError('expected --input IMAGE --edit "an instruction", or --prompt "a text to generate from"')
    if options.at and options.words:
        raise ValueError("--at shows pixels, --words shows words; choose one")
    text, pixels = options.prompt or options.edit, [_pixel(word) for word in options.at]
    output = sampling.check_places(options.output, options.input)
    record = Record(kind="self" if pixels else "cross", during=(options.start, options.end))
    pipe = options.sampling.load("text2image" if generates else "editor")
    columns = [] if pixels else _columns(pipe, options, text)
    images = _sample(pipe, options, record, pixels)
    image = images["result"]
    rows, maps = _maps(record, image, [tokens for _, tokens in columns], pixels)
    marks = [((x + 0.5) / image.width, (y + 0.5) / image.height) for x, y in pixels] or [None] * len(columns)
    labels = options.at or [label for label, _ in columns]
    columns = [figures.Column(*each) for each in zip(labels, maps, marks, strict=True)]
    names = ("edit", "prompt", "words", "at", "start", "end", "text_scale", "image_scale", "resolution", "fit")
    more = {name: getattr(options, name) for name in names}
    m = sampling.describe(pipe, options, output, options.input, verb="attention", **more)
    texts = _texts(m, record, text)
    figure = figures.attention_figure(texts, list(images.items()), rows, columns)
    files.write(output, metadata.encode(figure, output, m))
    sampling.report(output, figure)


def _pixel(word: str) -> tuple[int, int]:
    x, comma, y = word.partition(",")
    if not (comma and x.strip().isdecimal() and y.strip().isdecimal()):
        raise ValueError(f"--at {word!r}: expected X,Y in whole pixels from the top left, e.g. 20,45")
    return int(x), int(y)


def _columns(pipe: "Pipeline", options: Options, text: str) -> list[tuple[str, list[int]]]:
    """(label, token positions) of each column."""
    from ..text.align import positions, words

    if options.words:
        return [(word, positions(pipe.tokenizer, text, word)) for word in options.words]
    offsets = pipe.tokenizer.offsets(text)[: pipe.tokenizer.max_length - 2]
    spans, columns = words(text), []
    for i, (word, start, end) in enumerate(spans):
        if tokens := [t for t, (a, b) in enumerate(offsets, 1) if a < end and start < b]:
            columns.append((word, tokens))
        else:
            cut = " ".join(word for word, *_ in spans[i:])
            print(f"minip2p: note: the model reads {len(offsets)} tokens at most; cut off: {cut}", file=sys.stderr)
            break
    if not columns:
        raise ValueError(f"{text!r} has no words, so there is nothing to show")
    return columns


def _sample(pipe: "Pipeline", options: Options, record: "Record", pixels: Pixels) -> "dict[str, Image.Image]":
    """The result, after the fitted input if there is one."""
    side = options.resolution or pipe.config.sampling.resolution
    images = {} if options.prompt else {"input": pipe.fitted(options.input, options.resolution, options.fit).image}
    width, height = images["input"].size if images else (side, side)
    for x, y in pixels:
        if x >= width or y >= height:
            raise ValueError(f"--at {x},{y} is outside of the image, which has {width}x{height} pixels")
    with steps_bar() as on_step:
        how = options.sampling.settings() | {"control": [record], "on_step": on_step}
        if options.prompt:
            return {"result": pipe.generate(options.prompt, scale=options.text_scale, size=options.resolution, **how)}
        how |= {name: getattr(options, name) for name in ("text_scale", "image_scale", "resolution", "fit")}
        return images | {"result": pipe.edit(options.input, options.edit, **how)}


def _maps(record: "Record", image: "Image.Image", columns: Sequence[list[int]], pixels: Pixels):
    """The rows, and for each column a map per row: probabilities (cross), or multiples of uniform attention (self)."""
    sizes = list(record.maps())
    asked = [None, *sizes] if len(sizes) > 1 else [None]
    name = "mean" if len(sizes) > 1 else f"{sizes[0][1]} x {sizes[0][0]}"
    rows = [figures.MapRow(f"{s[1]} x {s[0]}" if s else name, smooth=s is None) for s in asked]
    shapes = [s or (image.height, image.width) for s in asked]
    maps = [[record.word(tokens, *each)[0] for each in zip(shapes, asked)] for tokens in columns]
    for x, y in pixels:
        at = (x + 0.5) / image.width, (y + 0.5) / image.height
        maps.append([record.looks(at, *each)[0] * each[0][0] * each[0][1] for each in zip(shapes, asked)])
    return rows, [[each.cpu().numpy() for each in column] for column in maps]


def _texts(m: dict[str, Any], record: "Record", text: str) -> figures.Texts:
    """The figure's texts, from its metadata."""
    steps, n = record.steps, m["steps"]
    when = f"all {n} steps" if len(steps) == n else f"steps {steps.start + 1} to {steps.stop} of {n}"
    scales = ("text_scale", "image_scale") if m["prompt"] is None else ("text_scale",)
    how = ", ".join([m["sampler"], *(figures.label(name, m[name]) for name in ("seed", *scales))])
    if record.kind == "cross":
        bright, most = "Bright pixels attend to the word", "the highest attention probability of a pixel"
    else:
        bright, most = "The marked pixel attends to bright pixels", "the highest attention, as a multiple of uniform"
    return figures.Texts(
        title=text,
        below=f"{record.kind.title()}-attention, mean over heads, layers and {when}. {how}",
        legend=f"{bright}. Each map has its own scale; below it, {most}.",
        number="{:.2g}".format if record.kind == "cross" else "{:.1f}x".format,
    )

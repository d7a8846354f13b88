"""`minip2p attention`: attention maps of an edit or a generation, drawn over the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from tyro.conf import arg

import minip2p

from . import figures, files, metadata, sampling
from .arguments import OWN, Fit, optional, steps_bar
from .sampling import Output, Resolution, Sampling

if TYPE_CHECKING:
    from ..control import Record


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw where each word attends while an image is edited (--input, --edit) or generated (--prompt).

    A column is a word, a row a size of the network's attention maps; the first row is their mean.
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
    text, record = options.prompt or options.edit, Record(during=(options.start, options.end))
    names = ("edit", "prompt", "words", "start", "end", "text_scale", "image_scale", "resolution", "fit")
    more = {name: getattr(options, name) for name in names}
    model = "text2image" if generates else "editor"
    pipe, m, output = sampling.prepare(options, "attention", model, **more)
    found = columns(pipe, text, options.words)
    images = _sample(pipe, options, record)
    rows, maps = _maps(record, images["result"], [tokens for _, tokens in found])
    drawn = [(word, each) for (word, _), each in zip(found, maps, strict=True)]
    figure = figures.attention_figure(text, _below(m, record.steps), images, rows, drawn)
    files.write_file(output, metadata.encode(figure, output, m))
    sampling.report(output, figure)


def columns(pipe: "minip2p.Pipeline", text: str, names: Sequence[str] = ()) -> list[tuple[str, list[int]]]:
    """(word, token positions) of the words named, or of all that the model reads. Raises ValueError for none."""
    from ..text.align import positions, words

    offsets = pipe.tokenizer.offsets(text)[: pipe.tokenizer.max_length - 2]
    read = [word for word, _, end in words(text) if offsets and end <= offsets[-1][1]]
    if not (names := names or list(dict.fromkeys(read))):
        raise ValueError(f"{text!r} has no words, so there is nothing to show")
    return [(word, positions(pipe.tokenizer, text, word)) for word in names]


def _sample(pipe: "minip2p.Pipeline", options: Options, record: "Record") -> dict[str, Image.Image]:
    """The result, after the fitted input if there is one."""
    images = {} if options.prompt else {"input": pipe.fitted(options.input, options.resolution, options.fit).image}
    with steps_bar() as on_step:
        how = options.sampling.settings() | {"control": [record], "on_step": on_step}
        if options.prompt:
            return {"result": pipe.generate(options.prompt, scale=options.text_scale, size=options.resolution, **how)}
        how |= {name: getattr(options, name) for name in ("text_scale", "image_scale", "resolution", "fit")}
        return images | {"result": pipe.edit(options.input, options.edit, **how)}


def _maps(record: "Record", image: Image.Image, columns: Sequence[list[int]]):
    """The rows, and for each column a map of attention probabilities per row."""
    sizes = list(record.maps())
    asked = [None, *sizes] if len(sizes) > 1 else [None]
    name = "mean" if len(sizes) > 1 else f"{sizes[0][1]} x {sizes[0][0]}"
    rows = [(f"{s[1]} x {s[0]}" if s else name, s is None) for s in asked]
    shapes = [s or (image.height, image.width) for s in asked]
    maps = [[record.word(tokens, *each)[0] for each in zip(shapes, asked)] for tokens in columns]
    return rows, [[each.cpu().numpy() for each in column] for column in maps]


def _below(m: dict[str, Any], steps: range) -> str:
    """What was averaged, and how the image was made, from the figure's metadata."""
    n, scales = m["steps"], ("text_scale", "image_scale") if m["prompt"] is None else ("text_scale",)
    when = f"all {n} steps" if len(steps) == n else f"steps {steps.start + 1} to {steps.stop} of {n}"
    how = ", ".join([m["sampler"], *(figures.label(name, m[name]) for name in ("seed", *scales))])
    return f"Cross-attention, mean over heads, layers and {when}. {how}"

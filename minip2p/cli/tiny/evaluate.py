"""`minip2p tiny evaluate`: how good models are in the tiny world, where the right answer is known."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from .. import files
from ..arguments import OWN, Loading, Sampler, Threads, limit_threads, optional, progress_bar

Show = Callable[[int, int], None]
"""progress: (done, total)"""


@dataclass(frozen=True, kw_only=True)
class Options(Loading):
    """Evaluate a model on held-out samples of the tiny world and print a table."""

    of: Literal["edits", "text2image", "pairs", "inversion", "classifier", "instructions"] = "edits"
    """what is evaluated.
    edits: accuracy and PSNR of an editor, by kind of edit;
    text2image: how often images show what captions describe;
    pairs: how often Prompt-to-Prompt pairs are correct, and how many pixels change, at several shares;
    inversion: PSNR of reconstructions;
    classifier: accuracy on rendered scenes;
    instructions: how many are valid and consistent with their captions"""
    number: Annotated[int | None, optional("INT", "(default: 200; inversion 50; classifier, instructions 500)")] = None
    """number of held-out samples"""
    steps: Annotated[int | None, optional("INT", "(default: 30; pairs 20, inversion 50)")] = None
    """steps of the sampler"""
    sampler: Sampler = "euler_ancestral"
    text_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """guidance scale of the text"""
    image_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """edits: guidance scale of the input image"""
    change: Literal["thing", "scene"] = "thing"
    """pairs: what changes: one thing, or the time, setting or medium of the scene"""
    temperature: float = 0.7
    """instructions: temperature of the sampling; 0 is greedy"""
    seed: int = 0
    """random seed of the first sample; it counts up"""
    classifier: Annotated[str | None, optional("PATH", "(default: the shipped one)")] = None
    """weights of the attribute classifier"""
    output: Annotated[str | None, optional("PATH")] = None
    """pairs: a PNG file for the plot (needs matplotlib)"""
    threads: Threads = None


def run(options: Options) -> None:
    """Evaluate and print."""
    if options.output and options.of != "pairs":
        raise ValueError(f"--output: only --of pairs draws a plot, not {options.of}; leave it out")
    if options.output and find_spec("matplotlib") is None:
        raise ValueError("--output: the plot needs matplotlib; pip install matplotlib")
    if options.output:
        files.check_writable(Path(options.output))
    with progress_bar("step", options.of) as show:
        if options.of == "instructions":
            text = _evaluate_instructions(options, show)
        else:
            text = _evaluate_images(options, show)
    print(text)


def _evaluate_images(options: Options, show: Show) -> str:
    """The table of a model that edits or generates, or of the classifier."""
    from ...tinyworld.classifier import load_classifier
    from ...tinyworld.evaluation import attributes, edits, inversion, pairs, text2image

    pipe = options.load("editor" if options.of == "edits" else "text2image", options.threads)
    how = _given(n=options.number, steps=options.steps) | {"on_step": lambda step: show(step.done, step.total)}
    if options.of == "inversion":
        return inversion.table(inversion.evaluate_inversion(pipe, **how, **_given(scale=options.text_scale)))
    how |= {"sampler": options.sampler, "seed": options.seed}
    if options.of == "edits":
        scales = _given(text_scale=options.text_scale, image_scale=options.image_scale)
        return edits.table(edits.evaluate_editor(pipe, **how, **scales))
    how |= _given(scale=options.text_scale)
    classifier = load_classifier(options.classifier, device=options.device)
    if options.of == "pairs":
        results = pairs.evaluate_pairs(pipe, classifier, change=options.change, **how)
        if options.output:
            files.write(Path(options.output), files.png(pairs.plot(results)))
        return pairs.table(results)
    if options.of == "classifier":
        return attributes.report(attributes.evaluate_classifier(classifier, pipe, **_given(n=options.number)))
    full = text2image.evaluate_text2image(pipe, classifier, **how)
    loose = text2image.evaluate_text2image(pipe, classifier, loose=True, **how)
    generated = {"generated from fully specified captions": full, "generated from loosely worded captions": loose}
    return attributes.report(generated | attributes.evaluate_classifier(classifier, pipe, len(full)))


def _evaluate_instructions(options: Options, show: Show) -> str:
    from ...loading import load_language_model
    from ...tinyworld.evaluation.instructions import evaluate_instructions, report, retry

    if options.config:
        raise ValueError("--config: a language model's config cannot be changed; leave it out")
    language_model = load_language_model(options.weights, device=options.device, dtype=options.dtype)
    limit_threads(*language_model.parts.values(), threads=options.threads)
    how = {"seed": options.seed, "temperature": options.temperature}
    results = evaluate_instructions(language_model, on_done=show, **how, **_given(n=options.number))
    return report(results, retry(language_model, results, **how))


def _given(**values: Any) -> dict[str, Any]:
    """The options that are not None: the others have the library's defaults."""
    return {name: value for name, value in values.items() if value is not None}

"""`minip2p tiny evaluate`: how good models are in the tiny world, where the right answer is known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..arguments import OWN, Loading, Sampler, Threads, limit_threads, optional, progress_bar
from ..printing import say

Show = Callable[[int, int], None]
"""progress: (done, total)"""


@dataclass(frozen=True, kw_only=True)
class Options(Loading):
    """Evaluate a model on held-out samples of the tiny world and print a table."""

    of: Literal["edits", "text2image", "pairs", "classifier", "instructions"] = "edits"
    """what is evaluated.
    edits: accuracy and PSNR of an editor, by kind of edit;
    text2image: how often images show what captions describe;
    pairs: how often Prompt-to-Prompt pairs are correct, and how many pixels change, at several shares;
    classifier: accuracy on rendered scenes;
    instructions: how many are valid and consistent with their captions"""
    number: Annotated[int | None, optional("INT", "(default: 200; classifier, instructions 500)")] = None
    """number of held-out samples"""
    steps: Annotated[int | None, optional("INT", "(default: 30; pairs 20)")] = None
    """steps of the sampler"""
    sampler: Sampler = "euler_ancestral"
    text_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """guidance scale of the text"""
    image_scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """edits: guidance scale of the input image"""
    temperature: float = 0.7
    """instructions: temperature of the sampling; 0 is greedy"""
    seed: int = 0
    """random seed of the first sample; it counts up"""
    classifier: Annotated[str | None, optional("PATH", "(default: the shipped one)")] = None
    """weights of the attribute classifier"""
    threads: Threads = None


def run(options: Options) -> None:
    """Evaluate and print."""
    with progress_bar("step", options.of) as show:
        evaluate = _evaluate_instructions if options.of == "instructions" else _evaluate_images
        text = evaluate(options, show)
    say(*text.split("\n"))


def _evaluate_images(options: Options, show: Show) -> str:
    """The table of a model that edits or generates, or of the classifier."""
    from ...tinyworld.classifier import load_classifier
    from ...tinyworld.evaluation import attributes, edits, pairs

    of_edits = options.of == "edits"
    classifier = None if of_edits else load_classifier(options.classifier, device=options.device)  # in float32
    pipe = options.load("editor" if of_edits else "text2image", options.threads)
    how = _given(n=options.number, steps=options.steps) | {"on_step": lambda step: show(step.done, step.total)}
    how |= {"sampler": options.sampler, "seed": options.seed}
    if classifier is None:
        scales = _given(text_scale=options.text_scale, image_scale=options.image_scale)
        return edits.table(edits.evaluate_editor(pipe, **how, **scales))
    how |= _given(scale=options.text_scale)
    if options.of == "pairs":
        return pairs.table(pairs.evaluate_pairs(pipe, classifier, **how))
    if options.of == "classifier":
        return attributes.table(attributes.evaluate_classifier(classifier, pipe, **_given(n=options.number)))
    full = attributes.evaluate_text2image(pipe, classifier, **how)
    loose = attributes.evaluate_text2image(pipe, classifier, loose=True, **how)
    generated = {"generated from fully specified captions": full, "generated from loosely worded captions": loose}
    return attributes.table(generated | attributes.evaluate_classifier(classifier, pipe, len(full)))


def _evaluate_instructions(options: Options, show: Show) -> str:
    from ...loading import load_language_model
    from ...tinyworld.evaluation.instructions import evaluate_instructions, table

    options.require_unchanged()
    language_model = load_language_model(options.weights, device=options.device, dtype=options.dtype)
    limit_threads(*language_model.parts.values(), threads=options.threads)
    how = {"seed": options.seed, "temperature": options.temperature} | _given(n=options.number)
    return table(evaluate_instructions(language_model, on_done=show, **how))


def _given(**values: Any) -> dict[str, Any]:
    """The options that are not None: the others have the library's defaults."""
    return {name: value for name, value in values.items() if value is not None}

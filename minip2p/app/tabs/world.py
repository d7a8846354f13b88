"""The fourth tab: a scene of the tiny world, an edit of it, the editor's result beside the truth, and the verdict
(`app.world`)."""

from collections.abc import Iterator
from types import SimpleNamespace

import gradio as gr

from ..edit import random_seed
from ..jobs import Preview
from ..models import Models
from ..world import draw, edit_of, evaluate_edit
from . import parts


def build(models: Models, first: SimpleNamespace) -> SimpleNamespace:
    """Lay the tab out and wire it; returns its components, and in `show` what to do when the page is opened.

    first: the first tab, into which a scene may be put.
    """
    see = SimpleNamespace()
    _lay_out(see)
    _wire(see, models, first)
    return see


def _lay_out(see: SimpleNamespace) -> None:
    with gr.Row(equal_height=True, elem_classes="buttons"):
        see.scene = gr.Number(7, label="Scene", precision=0, minimum=0, min_width=100, elem_id="scene")
        see.draw = gr.Button("Draw another", min_width=120, elem_id="draw")
        see.go = gr.Button("Edit and evaluate", variant="primary", min_width=100, elem_id="evaluate")
        see.cancel = gr.Button("Cancel", variant="stop", min_width=100)
        see.take = gr.Button("Open in Edit", min_width=120, elem_id="take")
    see.caption = gr.Textbox(label="Scene's caption", interactive=False, lines=2, elem_id="caption")
    see.instruction = gr.Textbox(label="Instruction", interactive=False, elem_id="world-instruction")
    see.status = parts.status("world-status")
    with gr.Row(equal_height=True):
        see.source = parts.shown("Scene", height=300, min_width=240, elem_id="world-source")
        see.result = parts.shown("The editor's result", height=300, min_width=240, elem_id="world-result")
        see.truth = parts.shown("The truth", height=300, min_width=240, elem_id="world-truth")
    with gr.Row():
        see.steps, see.sampler = parts.sampler_settings()
        see.seed = gr.Number(0, label="Seed of the noise", precision=0, minimum=0, min_width=120)


def _wire(see: SimpleNamespace, models: Models, first: SimpleNamespace) -> None:
    def run_draw(scene) -> Iterator[dict]:
        for each in draw(models, scene):
            yield {
                see.source: str(each.source),
                see.truth: str(each.truth),
                see.result: None,
                see.caption: each.edit.source.caption,
                see.instruction: each.edit.instruction,
                see.status: parts.note(f"an edit of the kind “{each.edit.kind}”"),
            }

    def run_evaluation(scene, steps, seed, sampler) -> Iterator[dict]:
        own = models.editor.config.sampling
        settings = {"text_scale": own.text_scale, "image_scale": own.image_scale}
        settings |= {"steps": parts.whole(steps), "seed": parts.whole(seed), "sampler": sampler}
        for each in evaluate_edit(models, scene, **settings):
            if isinstance(each, Preview):
                yield parts.progress(each, see.status, see.result)
            else:
                yield {see.status: parts.note(_verdict(each)), see.result: str(each.result)}

    drawn = [see.status, see.source, see.truth, see.result, see.caption, see.instruction]
    see.show = {"fn": parts.one_line_errors(see.status, run_draw), "inputs": see.scene, "outputs": drawn}
    see.show |= {"show_progress": "hidden", "api_visibility": "private"}
    parts.quick(see.draw.click, lambda: random_seed() % 100_000, None, see.scene)
    see.scene.change(**see.show)
    inputs = [see.scene, see.steps, see.seed, see.sampler]
    events = [parts.on([see.go.click], run_evaluation, inputs, [see.status, see.result], "evaluate")]
    parts.cancel(see.cancel, see.status, events)
    take = [see.source, see.scene]
    parts.quick(see.take.click, _take, take, [first.picture, first.instruction])


def _take(source: str | None, scene: int) -> tuple:
    return (gr.skip(), gr.skip()) if source is None else (source, edit_of(scene)[0].instruction)


def _verdict(evaluated) -> str:
    """One line: whether the result is correct, and its PSNR."""
    nearer = "the truth is nearer to it than the scene and 16 other edits are"
    if not evaluated.correct:
        nearer = "the scene, or another edit of it, is nearer to it than the truth is"
    word = "correct" if evaluated.correct else "not correct"
    return f"{word}: {nearer}; PSNR {evaluated.psnr:.1f} dB"

"""The third tab: a text, its words as buttons, and for the chosen word the pixels that attend to it (`app.attention`),
at a step or as the mean over all steps."""

from collections.abc import Iterator
from types import SimpleNamespace

import gradio as gr

from ...cli.figures import COLOURS
from ..attention import WordMaps, look
from ..edit import EXAMPLES
from ..jobs import Preview
from ..models import Models, example
from . import parts

PROMPT = "a red house and a white boat on the sea at sunset"
EDIT, GENERATION = "an edit", "a generated image"


def build(models: Models) -> None:
    """Lay the tab out and wire it."""
    see = SimpleNamespace(maps=gr.State())
    _lay_out(see)
    events = [_wire(see, models)]
    parts.cancel(see.cancel, see.status, events)


def _lay_out(see: SimpleNamespace) -> None:
    with gr.Row():
        see.of = gr.Radio([EDIT, GENERATION], value=EDIT, label="Of", min_width=200, elem_id="look-of")
        see.text = gr.Textbox(EXAMPLES[1], label="Text", scale=2, min_width=260, elem_id="look-text")
    with gr.Row(elem_classes="buttons"):
        see.go = gr.Button("Look", variant="primary", min_width=100, elem_id="look")
        see.cancel = gr.Button("Cancel", variant="stop", min_width=100)
        see.steps = gr.Slider(1, 100, parts.STEPS, step=1, label="Steps", min_width=160)
        see.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=100)
    see.status = parts.status("look-status")
    see.word = gr.Radio([], label="Word", visible=False, elem_id="word")
    see.step = gr.Slider(0, parts.STEPS, 0, step=1, label="Step (0 is the mean)", visible=False, elem_id="step")
    with gr.Row(equal_height=True):
        see.picture = parts.upload(label="Picture", value=str(example()), height=340, min_width=240)
        see.result = parts.shown("Result", height=340, min_width=240, elem_id="look-result")
        see.map = parts.shown("Where the word looks", height=340, min_width=240, elem_id="look-map")
    colours = ", ".join(f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in COLOURS)
    see.legend = gr.HTML(
        f'<div class="legend">0 <i style="background: linear-gradient(90deg, {colours})"></i> '
        "the map's highest probability</div>"
    )


def _wire(see: SimpleNamespace, models: Models) -> object:
    def run_look(text, picture, of, steps, seed) -> Iterator[dict]:
        generate = of == GENERATION
        how = {"generate": generate, "steps": parts.whole(steps), "seed": parts.whole(seed)}
        for each in look(models, text or "", picture, **how):
            if isinstance(each, Preview):
                yield parts.progress(each, see.status, see.result)
            else:
                word = each.words[-1]
                image, line = _show(each, word, 0)
                yield {
                    see.status: line,
                    see.maps: each,
                    see.result: each.enlarged,
                    see.map: image,
                    see.word: gr.Radio(list(each.words), value=word, visible=True),
                    see.step: gr.Slider(0, each.steps, 0, visible=True),
                }

    def choose(maps: WordMaps | None, word: str, step: int) -> tuple:
        return (gr.skip(), gr.skip()) if maps is None else _show(maps, word, step)

    for trigger in (see.word.input, see.step.input):
        parts.quick(trigger, choose, [see.maps, see.word, see.step], [see.map, see.status])
    kinds = {EDIT: EXAMPLES[1], GENERATION: PROMPT}
    parts.quick(see.of.change, lambda of: (kinds[of], gr.Image(visible=of == EDIT)), see.of, [see.text, see.picture])
    inputs = [see.text, see.picture, see.of, see.steps, see.seed]
    outputs = [see.status, see.maps, see.result, see.map, see.word, see.step]
    return parts.on([see.go.click, see.text.submit], run_look, inputs, outputs, "look")


def _show(maps: WordMaps, word: str, step: int) -> tuple:
    image, top = maps.show(word, parts.whole(step))
    when = f"at step {step} of {maps.steps}" if step else f"mean of {maps.steps} steps"
    return image, parts.note(f"“{word}”, {when}: a pixel attends to it by up to {top:.2g}")

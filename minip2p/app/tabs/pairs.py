"""The second tab: two prompts, two images, the control between them (`app.pairs`), and a slider between the two."""

from collections.abc import Iterator
from types import SimpleNamespace

import gradio as gr

from ..edit import random_seed
from ..jobs import Preview
from ..models import Models
from ..pairs import EXAMPLES, KINDS, Request, pair
from . import parts


def build(models: Models) -> None:
    """Lay the tab out and wire it."""
    see = SimpleNamespace()
    _above(see)
    _settings(see, models.text2image_scale)
    events = [_wire(see, models)]
    parts.cancel(see.cancel, see.status, events)


def _above(see: SimpleNamespace) -> None:
    prompt, edited, *_ = next(iter(EXAMPLES.values()))
    with gr.Row():
        see.prompt = gr.Textbox(prompt, label="Prompt", min_width=260, elem_id="prompt")
        see.edited = gr.Textbox(edited, label="Edited prompt", min_width=260, elem_id="edited-prompt")
    with gr.Row(elem_classes="buttons"):
        see.go = gr.Button("Generate", variant="primary", min_width=100, elem_id="pair")
        see.cancel = gr.Button("Cancel", variant="stop", min_width=100)
    see.kind = gr.Radio(list(KINDS), value="share", label="Control", elem_id="kind", render=False)
    see.reweight = gr.Textbox("", label="Reweight", placeholder="snow=3", min_width=160, render=False)
    shown, rows, names = [see.prompt, see.edited, see.kind, see.reweight], map(list, EXAMPLES.values()), list(EXAMPLES)
    gr.Examples(list(rows), shown, label="Examples", example_labels=names, api_visibility="private")
    see.status = parts.status("pair-status")
    with gr.Row(equal_height=True):
        see.source = parts.shown("Source", height=300, min_width=240, elem_id="pair-source")
        see.target = parts.shown("Edited", height=300, min_width=240, elem_id="pair-edited")
        see.slider = parts.slider("Source | edited", height=300, min_width=240)
    see.download = gr.DownloadButton("Download PNG", interactive=False, elem_id="pair-download")


def _settings(see: SimpleNamespace, own: float) -> None:
    see.kind.render()
    with gr.Row():
        see.share = gr.Slider(0, 1, 0.5, step=0.01, label="Share", min_width=160)
        see.cross = gr.Slider(0, 1, 0.8, step=0.01, label="Cross", visible=False, min_width=160)
        see.self = gr.Slider(0, 1, 0.4, step=0.01, label="Self", visible=False, min_width=160)
        see.reweight.render()
        see.blend = gr.Textbox("", label="Blend: change only", placeholder="cat boat", min_width=160)
    with gr.Row():
        see.scale = gr.Slider(0, max(8, round(2.5 * own)), own, step=0.1, label="Scale", min_width=140)
        see.steps, see.sampler = parts.sampler_settings()
    with gr.Row():
        see.seed, see.seeds = parts.seed()

    def choose(kind: str) -> list:
        injects = kind in ("replace", "refine")
        return [gr.update(visible=kind == "share"), gr.update(visible=injects), gr.update(visible=injects)]

    parts.quick(see.kind.change, choose, see.kind, [see.share, see.cross, see.self])


def _wire(see: SimpleNamespace, models: Models) -> object:
    def run_pair(
        prompt, edited_prompt, kind, share, cross, self, reweight, blend, scale, steps, seed, seeds, sampler
    ) -> Iterator[dict]:
        request = Request(
            prompt=prompt,
            edited_prompt=edited_prompt,
            kind=kind,
            share=share,
            cross=cross,
            self=self,
            reweight=reweight,
            blend=blend,
            scale=scale,
            steps=parts.whole(steps),
            seed=parts.whole(random_seed() if seeds == "random" else seed),
            sampler=sampler,
        )
        for each in pair(models, request):
            if isinstance(each, Preview):
                yield parts.progress(each, see.status, see.source, see.target)
            else:
                source, edited, both = parts.files(each)
                yield {
                    see.status: parts.note(f"seed {request.seed}, scale {scale:g}, {steps} steps of {sampler}"),
                    see.seed: request.seed,
                    see.source: source,
                    see.target: edited,
                    see.slider: (source, edited),
                    see.download: gr.DownloadButton(value=both, interactive=True),
                }

    inputs = [see.prompt, see.edited, see.kind, see.share, see.cross, see.self, see.reweight, see.blend, see.scale]
    inputs += [see.steps, see.seed, see.seeds, see.sampler]
    outputs = [see.status, see.source, see.target, see.slider, see.download, see.seed]
    return parts.on([see.go.click, see.prompt.submit, see.edited.submit], run_pair, inputs, outputs, "pair")

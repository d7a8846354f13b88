"""The first tab: a picture, an instruction, the result.

Above, the instruction; below it picture and result side by side, the result also as a slider over the picture. Then the
two scales of equation 3 (`app.edit`), the sampler, a mask that is drawn on the picture, several seeds, and a grid of
scales. A result becomes the next picture by one button, and its file carries the metadata that `minip2p show` reads.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from ...data.contact_sheet import resized
from ...data.pixels import ImageError
from ..edit import EXAMPLES, Request, edit, grid, random_scales, random_seed
from ..jobs import Preview
from ..models import Models, example
from ..uploads import read_upload
from . import parts

CANVAS = 512
"""pixels of the longer side of the picture that a mask is drawn on"""


def build(models: Models) -> SimpleNamespace:
    """Lay the tab out and wire it; returns its components, and in `show` what to do when the page is opened."""
    see = SimpleNamespace()
    _above(see)
    _settings(see, models)
    _more(see, models)
    _wire(see, models)
    return see


def _above(see: SimpleNamespace) -> None:
    """Instruction, buttons and pictures."""
    with gr.Row(elem_classes="buttons"):
        see.instruction = gr.Textbox(EXAMPLES[0], label="Instruction", scale=6, min_width=320, elem_id="instruction")
        see.go = gr.Button("Edit", variant="primary", min_width=120, elem_id="edit")
        see.cancel = gr.Button("Cancel", variant="stop", min_width=120, elem_id="cancel")
    gr.Examples([[text] for text in EXAMPLES], see.instruction, label="Examples", api_visibility="private")
    see.status = parts.status("status")
    with gr.Row(equal_height=True):
        see.picture = parts.upload(label="Picture", value=str(example()), elem_id="picture", height=400, min_width=280)
        with gr.Column(min_width=280), gr.Tabs(elem_id="views"):
            with gr.Tab("Result"):
                see.result = parts.shown("Result", elem_id="result", height=340)
            with gr.Tab("Slider"):
                see.slider = parts.slider("Picture | result", elem_id="slider", height=340)
    with gr.Row(elem_classes="buttons"):
        see.again = gr.Button("Use result as input", min_width=160, elem_id="again")
        see.download = gr.DownloadButton("Download PNG", interactive=False, min_width=140, elem_id="download")


def _settings(see: SimpleNamespace, models: Models) -> None:
    own = models.editor.config.sampling
    with gr.Row():
        see.text_scale = gr.Slider(
            0, max(8, round(2.5 * own.text_scale)), own.text_scale, step=0.01, label="Text scale", min_width=140
        )
        see.image_scale = gr.Slider(
            0, max(4, round(2.5 * own.image_scale)), own.image_scale, step=0.01, label="Image scale", min_width=140
        )
        see.steps, see.sampler = parts.sampler_settings()
    with gr.Row(elem_classes="buttons"):
        see.seed, see.seeds = parts.seed()
        see.draw = gr.Button("Random scales", min_width=140, elem_id="random-scales")


def _more(see: SimpleNamespace, models: Models) -> None:
    """What is folded at first."""
    with gr.Accordion("Mask: draw where it may change", open=False, elem_id="mask-fold"):
        see.mask = _mask_editor()
    with gr.Accordion("Several seeds", open=False, elem_id="seeds-fold"):
        with gr.Row(equal_height=True, elem_classes="buttons"):
            see.n = gr.Slider(2, 16, 4, step=1, label="Images", min_width=140)
            see.seeds_go = gr.Button("Edit with these seeds", min_width=140, elem_id="seeds-go")
        gr.Markdown("A click on an image takes it as the result.")
        see.gallery = gr.Gallery(
            columns=4,
            height="auto",
            format="png",
            show_label=False,
            interactive=False,
            type="filepath",
            buttons=parts.NO_BUTTONS,
            allow_preview=False,
            elem_id="gallery",
            elem_classes="large",
        )
    with gr.Accordion("Grid of scales", open=False, elem_id="grid-fold"):
        with gr.Row(equal_height=True, elem_classes="buttons"):
            text, image = models.editor.config.sampling.text_scale, models.editor.config.sampling.image_scale
            see.text_scales = gr.Textbox(f"{text / 1.5:g}, {text:g}, {2 * text:g}", label="Text scales", min_width=120)
            see.image_scales = gr.Textbox(f"{image:g}, {1.5 * image:g}", label="Image scales", min_width=120)
            see.grid_go = gr.Button("Edit with all of them", min_width=140, elem_id="grid-go")
        see.sheet = parts.shown("Contact sheet", elem_id="sheet")
    with gr.Accordion("Files to make it again", open=False, elem_id="files-fold"):
        gr.Markdown("In a folder with these files, `minip2p show edited.png --again` makes the result again.")
        see.files = gr.File(
            label="Result, its input and its mask", file_count="multiple", interactive=False, elem_id="files"
        )


def _mask_editor() -> gr.ImageEditor:
    """A drawing over the picture; a computation gets the files of its layers, unread (`serve.close`)."""
    return gr.ImageEditor(
        show_label=False,
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=48, colors=["#ffffff"], color_mode="fixed"),
        canvas_size=(CANVAS, CANVAS),
        format="png",
        elem_id="mask",
        buttons=parts.NO_BUTTONS,
    )


def _wire(see: SimpleNamespace, models: Models) -> None:
    asked = [see.picture, see.instruction, see.text_scale, see.image_scale, see.steps, see.seed, see.seeds]
    asked += [see.sampler, see.mask]

    def run_edit(
        picture, instruction, text_scale, image_scale, steps, seed, seeds="fixed", sampler="euler_ancestral", mask=None
    ) -> Iterator[dict]:
        request = _request(picture, instruction, text_scale, image_scale, steps, seed, seeds, sampler, mask)
        yield from _show_edit(see, models, request)

    def run_seeds(n, *values) -> Iterator[dict]:
        yield from _show_seeds(see, models, _request(*values), parts.whole(n))

    def run_grid(text_scales, image_scales, *values) -> Iterator[dict]:
        yield from _show_grid(see, models, _request(*values), text_scales, image_scales)

    main = [see.status, see.result, see.slider, see.download, see.files, see.seed]
    grid_inputs, grid_outputs = (
        [see.text_scales, see.image_scales, *asked],
        [see.status, see.sheet, see.result, see.seed],
    )
    events = [
        parts.on([see.go.click, see.instruction.submit], run_edit, asked, main, "edit"),
        parts.on([see.seeds_go.click], run_seeds, [see.n, *asked], [*main, see.gallery]),
        parts.on([see.grid_go.click], run_grid, grid_inputs, grid_outputs),
    ]
    parts.cancel(see.cancel, see.status, events)
    parts.quick(see.draw.click, lambda: random_scales(models), None, [see.text_scale, see.image_scale])
    parts.quick(see.again.click, lambda result: result or gr.skip(), see.result, see.picture)
    _wire_picture(see)


def _request(picture, instruction, text_scale, image_scale, steps, seed, seeds, sampler, mask) -> Request:
    return Request(
        picture=picture,
        instruction=instruction or "",
        text_scale=text_scale,
        image_scale=image_scale,
        steps=parts.whole(steps),
        seed=parts.whole(random_seed() if seeds == "random" else seed),
        sampler=sampler,
        layers=mask or (),
    )


def _show_edit(see: SimpleNamespace, models: Models, request: Request) -> Iterator[dict]:
    for each in edit(models, request):
        if isinstance(each, Preview):
            yield parts.progress(each, see.status, see.result)
        else:
            scales = f"text scale {request.text_scale:g}, image scale {request.image_scale:g}"
            what = request.instruction if request.instruction.strip() else "no instruction, so nothing was edited"
            line = f"{what}: seed {request.seed}, {scales}, {request.steps} steps of {request.sampler}"
            result = str(each.images[0])
            yield {see.status: parts.note(line), see.seed: request.seed} | _finished(
                see, each.source, result, [result, *parts.files(each.inputs)]
            )


def _show_seeds(see: SimpleNamespace, models: Models, request: Request, n: int) -> Iterator[dict]:
    for each in edit(models, request, n):
        if isinstance(each, Preview):
            yield parts.progress(each, see.status, see.result)
        else:
            images = parts.files(each.images)
            yield {
                see.status: parts.note(f"{n} seeds from {request.seed}"),
                see.gallery: [(image, f"seed {request.seed + i}") for i, image in enumerate(images)],
                see.seed: request.seed,
            } | _finished(see, each.source, images[0], [*images, *parts.files(each.inputs)])


def _show_grid(
    see: SimpleNamespace, models: Models, request: Request, text_scales: str, image_scales: str
) -> Iterator[dict]:
    for each in grid(models, request, text_scales, image_scales):
        if isinstance(each, Preview):
            yield parts.progress(each, see.status, see.result)
        else:
            yield {see.status: parts.note("the grid is below"), see.sheet: str(each), see.seed: request.seed}


def _finished(see: SimpleNamespace, source: Path, result: str, files: list[str]) -> dict:
    return {
        see.result: result,
        see.slider: (str(source), result),
        see.download: gr.DownloadButton(value=result, interactive=True),
        see.files: files,
    }


def _wire_picture(see: SimpleNamespace) -> None:
    """A new picture is read at once: it becomes the ground of the mask, or its error a line."""

    def show(picture: str | None) -> Iterator[dict]:
        try:
            ground = None if picture is None else resized(read_upload(picture), (CANVAS, CANVAS))
            yield {see.mask: ground and {"background": ground, "layers": [], "composite": ground}}
        except ImageError as error:
            yield {see.status: parts.note(parts.one_line(error), "wrong"), see.picture: None, see.mask: None}

    def pick(images: list, chosen: gr.SelectData) -> tuple:
        image = images[chosen.index][0]
        return image, gr.DownloadButton(value=image, interactive=True)

    see.show = {"fn": parts.one_line_errors(see.status, show), "inputs": see.picture}
    see.show |= {"outputs": [see.status, see.picture, see.mask], "show_progress": "hidden", "api_visibility": "private"}
    see.picture.change(**see.show)
    parts.quick(see.gallery.select, pick, see.gallery, [see.result, see.download])

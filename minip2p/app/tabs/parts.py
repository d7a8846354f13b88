"""What the tabs share: running a computation, its progress, errors in one line, and the settings of a sampler."""

import html
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from ...cli import in_words
from ...cli.printing import plain
from ...diffusion.samplers import SAMPLERS
from ..jobs import Preview

STEPS = 30
MOST_STEPS = 250
NO_BUTTONS: list[str] = []


def progress(preview: Preview, line: gr.HTML, *images: gr.Image) -> dict:
    """A bar in the status line, and the preview in these images; a note appears at the edge of the page."""
    if preview.note:
        gr.Info(html.escape(plain(preview.note)), title="Note")
    word = f"step {preview.done} of {preview.total}"
    bar = f'<progress value="{preview.done}" max="{preview.total}" aria-label="{word}"></progress>'
    return {line: f'<div class="running">{bar} {word}</div>'} | dict(zip(images, preview.images))


def note(text: str, kind: str = "done") -> str:
    """A line below the buttons; kind: done or wrong."""
    return f'<span class="{kind}" role="status">{html.escape(text)}</span>'


def status(name: str) -> gr.HTML:
    """The line itself."""
    return gr.HTML(note("ready"), elem_id=name, elem_classes="status")


def one_line(error: Exception) -> str:
    """A user's mistake in the library's one line; a mistake of the library's own in general words."""
    message = in_words(error, "app")
    return "this went wrong; the terminal says why" if message is None else plain(message)


def one_line_errors(line: gr.HTML, function: Callable[..., Iterator[dict]]) -> Callable[..., Iterator[dict]]:
    """The generator `function`, whose errors become one line on the page, which goes on; those that are no mistake of
    the user's keep their traceback in the terminal."""

    @wraps(function)
    def wrapped(*values: Any) -> Iterator[dict]:
        try:
            yield from function(*values)
        except Exception as error:
            yield {line: note(one_line(error), "wrong")}
            traced = in_words(error, "app") is None
            raise gr.Error(html.escape(one_line(error)), duration=6, print_exception=traced) from error

    return wrapped


def on(
    triggers: Sequence[Any],
    function: Callable[..., Iterator[dict]],
    inputs: list,
    outputs: list,
    name: str | None = None,
) -> Any:
    """Run a computation when one of these events happens; the first of the outputs is the status line. One runs at a
    time, over all tabs and sessions; others wait. name: for gradio's clients."""
    return gr.on(
        triggers,
        one_line_errors(outputs[0], function),
        inputs,
        outputs,
        api_name=name,
        api_visibility="public" if name else "private",
        concurrency_id="model",
        concurrency_limit=1,
        show_progress="minimal",
        show_progress_on=outputs[0],
    )


def cancel(button: gr.Button, line: gr.HTML, events: list) -> None:
    """Have the button stop these computations (`jobs.compute`)."""
    how = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    button.click(None, cancels=events, **how).then(_cancelled, None, line, **how)


def _cancelled() -> str:
    time.sleep(0.3)  # for progress that is still on its way to the browser
    return note("cancelled")


def quick(trigger: Any, function: Callable, inputs: Any, outputs: Any) -> Any:
    """Run something that takes no time, beside the computations."""
    how = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    return trigger(function, inputs, outputs, **how)


def upload(**how: Any) -> gr.Image:
    """A picture to upload; a computation gets the path of its file, unread (`serve.close`)."""
    return gr.Image(type="filepath", sources=["upload", "clipboard"], format="png", elem_classes="large", **how)


def shown(label: str, **how: Any) -> gr.Image:
    """An image that is only shown: its file as it is, with its metadata."""
    how = {"interactive": False, "format": "png", "type": "filepath", "buttons": ["fullscreen"]} | how
    return gr.Image(label=label, elem_classes="large", **how)


def slider(label: str, **how: Any) -> gr.ImageSlider:
    """Two images of one size, one over the other."""
    how = {"interactive": False, "format": "png", "type": "filepath", "buttons": ["fullscreen"]} | how
    return gr.ImageSlider(label=label, elem_classes="large", **how)


def sampler_settings(most: int = MOST_STEPS) -> tuple[gr.Slider, gr.Dropdown]:
    """Steps and sampler."""
    steps = gr.Slider(1, most, STEPS, step=1, label="Steps", min_width=140)
    return steps, gr.Dropdown(list(SAMPLERS), value="euler_ancestral", label="Sampler", min_width=220)


def seed() -> tuple[gr.Number, gr.Radio]:
    """The seed, into which a random one is written back, and whether it is fixed."""
    number = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120)
    return number, gr.Radio(["fixed", "random"], value="fixed", label="The seed is", min_width=180)


def whole(value: Any) -> Any:
    """A number of a slider as an int; what is none is left to the library's checks."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def files(paths: Sequence[Path]) -> list[str]:
    """Paths as gradio takes them."""
    return [str(path) for path in paths]

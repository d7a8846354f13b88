"""`minip2p invert`: a real picture, inverted and painted again; or edited by Prompt-to-Prompt."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from tyro.conf import arg

from . import controls, files, sheet
from .arguments import OWN, optional
from .painting import Painting, check, check_input, load_painter, make, write_recipe

if TYPE_CHECKING:
    from ..pipeline import Pipeline

HOW = ("method", "inner", "learning_rate", "resolution", "fit")


@dataclass(frozen=True, kw_only=True)
class Options(controls.Controls, Painting):
    """Find from which noise, and with which null text, a painter paints a given picture; paint it again from there.

    With --edited-prompt the picture is edited by Prompt-to-Prompt. The output is a labelled sheet: the picture,
    its reconstruction and the edited one. It carries its recipe: `minip2p show` prints it or repeats it.
    """

    input: Annotated[str, arg(metavar="PATH")]
    """a picture"""
    prompt: Annotated[str, arg(metavar="TEXT")]
    """what it shows"""
    edited_prompt: Annotated[str | None, optional("TEXT")] = None
    """what it is to show"""
    method: Literal["null_text", "negative_prompt", "ddim"] = "null_text"
    """null_text: a null text for each step, found by gradients; negative_prompt: the prompt in the null text's place,
    in one pass; ddim: neither, true only at a scale of 1"""
    sampler: Literal["ddim"] = "ddim"
    """inversion goes DDIM's way back"""
    inner: int = 10
    """of null_text: gradient steps for each step of the sampler, at most"""
    learning_rate: float = 0.01
    """of null_text"""
    state: Annotated[str | None, optional("PATH")] = None
    """a file that keeps what is found, so that a stopped run goes on and another edit need not begin anew"""
    resolution: Annotated[int | None, optional("PIXELS", OWN)] = None
    """about the longer side while painting"""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """how the picture comes to the size at which it is painted"""


def run(options: Options) -> None:
    """Check everything, load the weights, invert, paint."""
    check(options, resolution=options.resolution)
    check_input(options)
    if options.negative:
        raise ValueError("--negative: the null text is what inversion finds; leave it out")
    if options.state:
        files.check_writable(Path(options.state))
    settings = controls.settings(options)
    pipe = load_painter(options)
    how = {name: getattr(options, name) for name in HOW}
    r = write_recipe(
        pipe, "invert", options, prompt=options.prompt, edited_prompt=options.edited_prompt, **how, **settings
    )
    if options.align and options.edited_prompt:
        print(controls.explained(pipe, options.prompt, options.edited_prompt, r))
    said: list[str] = []
    make(pipe, options, r, lambda: "; ".join(said), state=options.state, tell=said.append)


def work(r: dict) -> int:
    """The steps that a recipe takes, of inversion and of the sampler."""
    return r["steps"] * (1 + (r["method"] == "null_text") + 1 + (r["edited_prompt"] is not None))


def perform(
    pipe: "Pipeline", source: Path, r: dict, on_step: Callable[[Any], None] | None = None, state: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Image.Image:
    """The picture as it was fitted, its reconstruction, and the edited picture of a recipe."""
    from ..data.images import to_tensor

    options = {name: r[name] for name in (*HOW, "scale", "steps", "spacing")}
    inversion = pipe.invert(source, r["prompt"], state=state, on_step=on_step, **options)
    again = pipe.generate(r["prompt"], start=inversion, scale=r["scale"], on_step=on_step)
    fitted = pipe.fitted(source, r["resolution"], r["fit"]).image
    error = (to_tensor(again) - to_tensor(fitted)).square().mean()
    tell(f"the reconstruction is at {-10 * error.log10():.1f} dB")
    cells = [("input", fitted), ("reconstruction", again)]
    if r["edited_prompt"] is not None:
        cells.append(("edited", controls.paint_pair(pipe, r, start=inversion, on_step=on_step)[1]))
    names, pictures = zip(*cells)
    below = f"{r['method'].replace('_', '-')} inversion, {sheet.label('scale', r['scale'])}, {r['steps']} steps"
    return sheet.lay_out(controls.title(r), below, [sheet.Row("", list(names), list(pictures))])

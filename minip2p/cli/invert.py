"""`minip2p invert`: reconstruct a real image by inversion, and edit it by Prompt-to-Prompt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from PIL import Image
from tyro.conf import arg

import minip2p

from . import figures, files, sampling
from .arguments import Fit, optional
from .controls import Controls, generate_pair, parse_controls, title
from .sampling import Output, Resolution, Step, TextSampling

INVERSION = ("method", "inner", "learning_rate", "resolution", "fit")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Find the noise and the null text from which a text-to-image model generates a given image.

    The output shows the image, its reconstruction and, with --edited-prompt, the image edited by Prompt-to-Prompt.
    `minip2p show` prints its metadata and can make it again. The sampler is DDIM.
    """

    input: Annotated[str, arg(metavar="PATH")]
    """an image"""
    prompt: Annotated[str, arg(metavar="TEXT")]
    """what the image shows"""
    edited_prompt: Annotated[str | None, optional("TEXT")] = None
    """what the edited image shows"""
    output: Output
    method: Literal["null_text", "negative_prompt", "ddim"] = "null_text"
    """null_text: optimise a null text for each step; negative_prompt: use the prompt as the null text, without
    optimisation; ddim: DDIM inversion alone, exact only at a scale of 1"""
    inner: int = 10
    """for null_text: maximum number of gradient steps for each step of the sampler"""
    learning_rate: float = 0.01
    """for null_text: learning rate of these steps"""
    state: Annotated[str | None, optional("PATH")] = None
    """file that stores the inversion, to resume a stopped run or to make another edit from it"""
    resolution: Resolution = None
    fit: Fit = "crop"
    controls: Controls = Controls()
    sampling: TextSampling = TextSampling(sampler="ddim")


def run(options: Options) -> None:
    """Invert, generate, write the figure."""
    control = parse_controls(options.controls)
    if options.sampling.negative:
        raise ValueError("--negative: inversion finds the null text itself; leave it out")
    if options.sampling.sampler != "ddim" or options.sampling.sampler_options:
        raise ValueError(f"--sampler {options.sampling.sampler!r}: inversion needs ddim, without options")
    if options.state:
        files.check_writable(Path(options.state))
    pipe, m, output = sampling.prepare(options, "invert", **control)
    notes: list[str] = []
    image = sampling.make(pipe, m, output, options.input, state=options.state, notes=notes)
    sampling.report(output, image, *notes)


def make(
    pipe: "minip2p.Pipeline",
    source: Path,
    m: dict,
    on_step: Step | None = None,
    state: str | None = None,
    notes: list[str] | None = None,
) -> Image.Image:
    """The fitted image, its reconstruction, and the edited image that metadata describes. Appends to `notes`."""
    from ..data.images import to_tensor

    how = {name: m[name] for name in (*INVERSION, "scale", "steps", "spacing")}
    inversion = pipe.invert(source, m["prompt"], state=state, on_step=on_step, **how)
    again = pipe.generate(m["prompt"], start=inversion, scale=m["scale"], on_step=on_step)
    fitted = pipe.fitted(source, m["resolution"], m["fit"]).image
    if notes is not None:
        error = (to_tensor(again) - to_tensor(fitted)).square().mean()
        notes.append(f"PSNR of the reconstruction {-10 * error.log10():.1f} dB")
    cells = {"input": fitted, "reconstruction": again}
    if m["edited_prompt"] is not None:
        cells["edited"] = generate_pair(pipe, m, start=inversion, on_step=on_step)[1]
    below = f"{m['method'].replace('_', '-')} inversion, {figures.label('scale', m['scale'])}, {m['steps']} steps"
    return figures.lay_out(title(m), below, [figures.Row("", list(cells), list(cells.values()))])

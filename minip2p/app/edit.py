"""The first tab: a picture edited as an instruction says (InstructPix2Pix, section 3.2), as `minip2p edit` does it.

Equation 3 has two scales, which the tab's sliders set: s_T, how strongly the instruction is followed, and s_I, how
closely the picture is:

    e(z, 0, 0) + s_I (e(z, c_I, 0) - e(z, 0, 0)) + s_T (e(z, c_I, c_T) - e(z, c_I, 0))
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..cli import edit as verb
from ..cli.sampling import Sampling, parse_grid
from . import results
from .jobs import Preview, compute
from .models import Models
from .uploads import ending, mask_of, read_upload

EXAMPLES = (
    "make it night",
    "turn the flower blue",
    "turn the house into a car",
    "remove the house",
    "put it in the desert",
    "let it snow",
    "as a pencil drawing",
)
"""of the tiny world's words, for the image with which the page opens"""
MOST_SEEDS = 16
SPREAD = 0.2
"""of random scales about the model's own: 6 to 9 about 7.5 and 1.2 to 1.8 about 1.5, as the authors' page has it"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the tab asks for."""

    picture: str | Path | None
    """the uploaded file"""
    instruction: str
    text_scale: float
    image_scale: float
    steps: int
    seed: int
    sampler: str = "euler_ancestral"
    layers: Sequence[bytes | Path] = ()
    """of the mask that was drawn; none is no mask"""


class Edited(NamedTuple):
    """The files that an edit made; they are there until the generator goes on."""

    source: Path
    """the picture as it was fitted to the model's size, that of the results"""
    images: list[Path]
    """PNGs with metadata"""
    inputs: list[Path]
    """what `minip2p show --again` reads: the picture, and the mask if there is one"""


def edit(models: Models, request: Request, n: int = 1) -> Iterator[Preview | Edited]:
    """The edit with `n` seeds, counting up from the request's; each as `minip2p edit` makes it. Raises ValueError."""
    if not 1 <= n <= MOST_SEEDS:
        raise ValueError(f"{n} seeds: expected 1 to {MOST_SEEDS}")
    pipe, images = models.editor, []
    with results.folder() as folder:
        opened = _open(models, request, folder)
        for i in range(n):
            m = opened.describe(models, replace(request, seed=request.seed + i))
            for each in _made(pipe, opened, m):
                if isinstance(each, Preview):
                    yield each._replace(done=each.done + i * each.total, total=n * each.total)
                else:
                    name = f"edited-{m['seed']}.png" if n > 1 else "edited.png"
                    images.append(results.write(each, folder / name, m))
        yield Edited(opened.source, images, opened.inputs)


def grid(models: Models, request: Request, text_scales: str, image_scales: str) -> Iterator[Preview | Path]:
    """A contact sheet of the edit over scales, "1, 2, 4" and "1, 1.5": that of `minip2p edit --grid`."""
    words = [f"{name}={values.replace(' ', '')}" for name, values in _axes(text_scales, image_scales)]
    axes = parse_grid(tuple(words), verb.EDIT_AXES)
    with results.folder() as folder:
        opened = _open(models, request, folder)
        m = opened.describe(models, request, grid=axes)
        for each in _made(models.editor, opened, m):
            yield each if isinstance(each, Preview) else results.write(each, folder / "grid.png", m)


def random_scales(models: Models) -> tuple[float, float]:
    """A text and an image scale near the model's own, rounded so that what the sliders show is what is used."""
    own = models.editor.config.sampling
    return tuple(round(random.uniform(1 - SPREAD, 1 + SPREAD) * s, 2) for s in (own.text_scale, own.image_scale))


def random_seed() -> int:
    """A seed from 0 to 2^31 - 1."""
    return random.randrange(2**31)


class _Opened(NamedTuple):
    """A picture and its mask in the folder of a computation."""

    input: Path
    image: Image.Image
    mask: Path | None
    source: Path

    @property
    def inputs(self) -> list[Path]:
        return [self.input] + ([] if self.mask is None else [self.mask])

    def describe(self, models: Models, request: Request, **more: Any) -> dict[str, Any]:
        """The metadata of an edit of it."""
        how = {name: getattr(request, name) for name in ("steps", "seed", "sampler")}
        options = verb.Options(
            input=str(self.input),
            output=str(self.input.with_name("edited.png")),
            text_scale=request.text_scale,
            image_scale=request.image_scale,
            sampling=Sampling(**how, loading=models.loading),
        )
        more = {"instruction": request.instruction, "grid": {}, "mask": self.mask} | more
        return results.describe(models.editor, options, self.image.size, **more)


def _open(models: Models, request: Request, folder: Path) -> _Opened:
    """The picture and its mask, copied into the folder under names of ours."""
    image = read_upload(request.picture)
    given = Path(str(request.picture))
    place = folder / f"input{ending(given)}"
    shutil.copyfile(given, place)
    source = results.plain_png(models.editor.fitted(image).image, folder / "source.png")
    mask, drawn = None, mask_of(request.layers, image.size)
    if drawn is not None:
        mask = results.plain_png(drawn, folder / "mask.png")
    return _Opened(place, image, mask, source)


def _made(pipe: Any, opened: _Opened, m: dict[str, Any]) -> Iterator[Preview | Image.Image]:
    """Previews, then the image that metadata describes."""
    image = yield from compute(pipe, lambda on_step: verb.make(pipe, opened.image, m, on_step, mask=opened.mask))
    yield image


def _axes(text_scales: str, image_scales: str) -> list[tuple[str, str]]:
    axes = [("text-scale", text_scales), ("image-scale", image_scales)]
    return [(name, values) for name, values in axes if values.strip()]

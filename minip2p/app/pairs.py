"""The second tab: two images of two prompts that differ as little as the prompts do, as `minip2p pair` makes them.

Both start from one noise and get one noise at every step. What makes the second image like the first:

    share      for the first steps it uses the first one's queries and keys in self-attention (the paper's own way)
    replace    p_edited[..., j] <- sum_i p_source[..., i] M[i, j]: cross-attention maps, word by word
    refine     the same for the words that both prompts have; new words keep their own maps
    reweight   p_edited[..., j] <- c_j p_edited[..., j]
    blend      D_edited <- D_source + mask (D_edited - D_source), where the mask is where a word looks
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..cli import pair as verb
from ..cli.controls import Controls, generate_pair, parse_controls
from ..cli.figures import side_by_side
from ..cli.sampling import TextSampling
from . import results
from .jobs import Preview, compute
from .models import Models

KINDS = ("share", "replace", "refine", "none")
CITY = "an orange flower in the city in the evening"
TREE = "a green tree and a yellow car in a meadow at sunset"
CAR = "a yellow car in a meadow at sunset"
BOAT = "pixel art of a red boat on the sea by day"
EXAMPLES = {
    "share: the city becomes snow": (CITY, "an orange flower in a field of snow in the evening", "share", ""),
    "replace: a pink car": (TREE, "a green tree and a pink car in a meadow at sunset", "replace", ""),
    "refine: a pencil drawing": (CAR, f"{CAR}, pencil drawing", "refine", ""),
    "reweight: no pixel art": (BOAT, BOAT, "replace", "pixel=-4 art=-4"),
}
"""name -> prompt, edited prompt, kind, and words to reweight"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the tab asks for."""

    prompt: str
    edited_prompt: str
    kind: str = "share"
    """a word of KINDS"""
    share: float = 0.5
    cross: float = 0.8
    self: float = 0.4
    reweight: str = ""
    """words with factors, e.g. "snow=3 red=0.5" """
    blend: str = ""
    """a word, or two of the two prompts, with a space between"""
    scale: float
    steps: int
    seed: int
    sampler: str = "euler_ancestral"


class Pair(NamedTuple):
    """The files of a pair; they are there until the generator goes on."""

    source: Path
    edited: Path
    both: Path
    """side by side, a PNG with metadata"""


def pair(models: Models, request: Request) -> Iterator[Preview | Pair]:
    """The pair that `minip2p pair` makes with these options. Raises ValueError."""
    pipe = models.text2image
    if request.kind not in KINDS:
        raise ValueError(f"unknown kind {request.kind!r}; there are {', '.join(KINDS)}")
    if not request.prompt.strip() or not request.edited_prompt.strip():
        raise ValueError("a pair needs two prompts; one is empty")
    with results.folder() as folder:
        options = verb.Options(
            prompt=request.prompt,
            edited_prompt=request.edited_prompt,
            output=str(folder / "pair.png"),
            controls=_controls(request),
            sampling=TextSampling(
                scale=request.scale,
                steps=request.steps,
                seed=request.seed,
                sampler=request.sampler,
                loading=models.text2image_loading,
            ),
        )
        m = results.describe(pipe, options, verb="pair", grid={}, **parse_controls(options.controls))
        images = yield from compute(pipe, lambda on_step: generate_pair(pipe, m, on_step=on_step), images=2)
        sides = [results.plain_png(each, folder / f"{name}.png") for name, each in zip(("source", "edited"), images)]
        yield Pair(*sides, results.write(side_by_side(*images), folder / "pair.png", m))


def _controls(request: Request) -> Controls:
    """The command line's options; "none" is sharing of no steps."""
    if request.kind in ("replace", "refine"):
        how = {"control": (request.kind,), "share": 0.0, "cross": (f"{request.cross:g}",), "self": f"{request.self:g}"}
    else:
        how = {"control": ("share",), "share": request.share if request.kind == "share" else 0.0}
    return Controls(**how, reweight=tuple(request.reweight.split()), blend=tuple(request.blend.split()))

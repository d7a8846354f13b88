"""Painting: a prompt -> a picture; and SDEdit (Meng et al. 2022), the paper's baseline: a picture, painted over."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..control import Control
from ..control.inversion import Inversion
from ..control.run import check_fraction
from ..data.images import Fitted, Picture, to_tensor
from ..diffusion import Guidance, Step, two_way
from .items import (
    Item, Progress, as_items, batches, check_counts, check_scale, check_text, check_words, common, in_order, is_list,
    run_batches,
)  # fmt: skip

if TYPE_CHECKING:
    from .core import Pipeline


@dataclass(frozen=True, kw_only=True)
class Painting(Item):
    """One picture to be painted. Raises ValueError for values that none can have."""

    prompt: str
    negative: str
    scale: float
    start: Inversion | None = None
    """where a picture that was inverted begins, in place of noise"""

    def __post_init__(self):
        check_text("prompt", self.prompt)
        check_text("negative prompt", self.negative)
        check_scale("scale", self.scale)
        super().__post_init__()


def generate(
    pipe: "Pipeline", prompt: str | Sequence[str], *, negative: str | Sequence[str] = "",
    scale: float | Sequence[float] | None = None, steps: int | None = None, seed: int | Sequence[int] = 0,
    sampler: str | None = None, spacing: str | None = None, size: int | tuple[int, int] | None = None,
    output: str = "pil", start: Inversion | Sequence[Inversion] | None = None, control: Sequence[Control] = (),
    low_memory: bool = False, batch_size: int = 1, on_step: Callable[[Progress], None] | None = None,
) -> Any:
    """A picture of the prompt, by classifier-free guidance (Ho & Salimans 2022): null + scale (prompt - null).

    Where prompts, negative prompts, scales, seeds or starts are lists, they are equally long and so is the list that
    comes back; what is no list holds for every item, but a lone seed counts up from the first. Up to `batch_size` items
    share the UNet's calls: that changes an item by rounding only.

    negative: in place of the empty prompt, what to steer away from. scale: the model's own unless given (7.5 for
    published ones). steps: 50 unless given. sampler, spacing: words of `diffusion.SAMPLERS`, `SPACINGS`;
    euler_ancestral and linspace unless given. size: a side in pixels, or (width, height); the model's resolution unless given. output:
    as of `edit`. start: what `invert` made of a picture: with its prompt this paints that picture again; steps,
    sampler, spacing and, unless given, the scale are then those of the inversion. control: `minip2p.control`. Raises
    ValueError in the user's words.
    """
    how = sampling(start, steps=steps, sampler=sampler, spacing=spacing)
    check_counts(batch_size=batch_size)
    check_words(output=output)
    check_paints(pipe)
    scale = usual_scale(pipe, start) if scale is None else scale
    many, items = as_items(Painting, prompt=prompt, negative=negative, scale=scale, seed=seed, start=start)
    run = partial(paint, pipe, size=latent_size(pipe, size, start), control=control, low_memory=low_memory, **how)
    todo = [(batch, how["steps"]) for batch in batches(items, batch_size, lambda item: item.start is None)]
    rest = partial(pipe.rest, low_memory)
    return in_order(run_batches(todo, run, lambda _, z: pipe.finish(z[0], output), on_step, rest), many)


def paint(
    pipe: "Pipeline", batch: Sequence[Painting], *, size: tuple[int, int], low_memory: bool, **how
) -> Iterator[Step]:
    """The sampler's steps for a batch, latents of `size` (y, x). `how`: more for `Pipeline.sample`."""
    prompts = [item.prompt for item in batch]
    text, null = pipe.encode_text(prompts), pipe.encode_text([item.negative for item in batch])
    pipe.rest(low_memory)
    branches, scale = two_way(common([item.scale for item in batch]), text, null), [item.scale for item in batch]
    if batch[0].start is not None:
        how["start"] = torch.stack([item.start.z for item in batch]).to(pipe.device)
        branches = partial(_branches_at, [item.start for item in batch], common(scale), text, null)
    seeds = [int(item.seed) for item in batch]
    return pipe.sample(branches, seeds, size, prompts=prompts, low_memory=low_memory, **how)


def _branches_at(starts: Sequence[Inversion], scale, text, null, sigma: float) -> Guidance:
    """The guidance at one noise level: an inversion may bring a null text of its own for each."""
    own = [start.null(sigma) for start in starts]
    nulls = [n if mine is None else mine.to(n) for n, mine in zip(null, own)]
    return two_way(scale, text, torch.stack(nulls))


def sampling(start: Inversion | Sequence[Inversion] | None, **given: Any) -> dict[str, Any]:
    """Steps, sampler and spacing: those given, the usual ones, or those of the inversion that the run starts from."""
    starts = start if is_list(start) else [] if start is None else [start]
    usual = {"steps": 50, "sampler": "euler_ancestral", "spacing": "linspace"}
    if starts:
        own = [{"steps": each.steps, "sampler": "ddim", "spacing": each.spacing} for each in starts]
        if any(each != own[0] for each in own):
            raise ValueError("inversions of different steps or spacings cannot be painted together")
        usual = own[0]
        for name, value in given.items():
            if value is not None and value != usual[name]:
                raise ValueError(f"{name} {value!r}: the inversion was made with {usual[name]!r}; leave it out")
    how = usual | {name: value for name, value in given.items() if value is not None}
    check_counts(steps=how["steps"])
    check_words(sampler=how["sampler"], spacing=how["spacing"])
    return how


def usual_scale(pipe: "Pipeline", start: Inversion | Sequence[Inversion] | None) -> float | list[float]:
    """The guidance scale where none is given: that of the inversion that the run starts from, or the model's own."""
    if is_list(start):
        return [usual_scale(pipe, each) for each in start]
    return pipe.config.sampling.text_scale if start is None or start.scale is None else start.scale


def latent_size(pipe: "Pipeline", size: int | tuple[int, int] | None, start=None) -> tuple[int, int]:
    """(y, x) of the latents of a picture of `size`, a side or (width, height) in pixels; those of `start` if given."""
    own = pipe.config.sampling
    starts = start if is_list(start) else [] if start is None else [start]
    if starts:
        sizes = {tuple(each.z.shape[1:]) for each in starts}
        if size is not None or len(sizes) > 1:
            raise ValueError("the size is the inverted picture's: leave size out, and give pictures of one size")
        return sizes.pop()
    sides = size if is_list(size) else [own.resolution if size is None else size] * 2
    if len(sides) != 2 or not all(type(side) is int and side > 0 and side % own.multiple == 0 for side in sides):
        expected = f"a side or (width, height), multiples of {own.multiple} pixels, e.g. {own.resolution}"
        raise ValueError(f"size {size!r}: expected {expected}")
    width, height = sides
    factor = 2 ** (len(pipe.config.vae.widths) - 1)
    return height // factor, width // factor


@dataclass(frozen=True, kw_only=True)
class Overpainting(Painting):
    """One picture to be painted over. Raises ValueError for values that none can have."""

    picture: Fitted
    strength: float

    def __post_init__(self):
        check_fraction("strength", self.strength)
        super().__post_init__()


def sdedit(
    pipe: "Pipeline", image: Picture | Sequence[Picture], prompt: str | Sequence[str],
    strength: float | Sequence[float] = 0.75, *, negative: str | Sequence[str] = "",
    scale: float | Sequence[float] | None = None, steps: int = 50, seed: int | Sequence[int] = 0,
    sampler: str = "euler_ancestral", spacing: str = "linspace", resolution: int | None = None, fit: str = "crop",
    keep_size: bool = False, output: str = "pil", control: Sequence[Control] = (), low_memory: bool = False,
    batch_size: int = 1, on_step: Callable[[Progress], None] | None = None,
) -> Any:
    """SDEdit (Meng et al. 2022): noise a picture, then denoise it towards the prompt. Needs no training on edits.

    Of the `steps`, the last round(strength * steps) are taken, from the picture's latent plus noise. A strength of 0
    takes none and returns the fitted picture; at 1 nothing of the picture is left: the result is `generate`'s. Lists,
    scales and the other options are as those of `edit` and `generate`. Raises ValueError in the user's words.
    """
    check_counts(steps=steps, batch_size=batch_size)
    check_words(sampler=sampler, spacing=spacing, fit=fit, output=output)
    check_paints(pipe)
    fitted = partial(pipe.fitted, resolution=resolution, how=fit)
    many, items = as_items(
        Overpainting,
        picture=[fitted(each) for each in image] if is_list(image) else fitted(image),
        prompt=prompt, strength=strength, negative=negative, seed=seed,
        scale=pipe.config.sampling.text_scale if scale is None else scale,
    )  # fmt: skip
    taken = {item.number: round(item.strength * steps) for item in items}
    finish = partial(pipe.finish_fitted, output=output, keep_size=keep_size)
    results = {item.number: finish(item.picture, None) for item in items if taken[item.number] == 0}

    def run(batch: Sequence[Overpainting]) -> Iterator[Step]:
        skip, z0 = steps - taken[batch[0].number], None
        mode = pipe.encode_image(torch.stack([to_tensor(item.picture.image) for item in batch]))
        if skip > 0:
            z0 = pipe.config.vae.scaling_factor * mode
        how = {"steps": steps, "sampler": sampler, "spacing": spacing, "skip": skip, "z0": z0, "control": control}
        return paint(pipe, batch, size=tuple(mode.shape[2:]), low_memory=low_memory, **how)

    left = [item for item in items if item.number not in results]
    groups = batches(left, batch_size, lambda item: (item.picture.image.size, taken[item.number]))
    todo = [(batch, taken[batch[0].number]) for batch in groups]
    rest = partial(pipe.rest, low_memory)
    results |= run_batches(todo, run, lambda item, z: finish(item.picture, z[0]), on_step, rest)
    return in_order(results, many)


def check_paints(pipe: "Pipeline") -> None:
    channels, latent = pipe.config.unet.in_channels, pipe.config.vae.latent_channels
    if channels != latent:
        raise ValueError(
            f"this checkpoint's UNet takes {channels} channels, a painter's {latent}: it edits pictures and cannot "
            "paint from text alone. Load a Stable Diffusion checkpoint, or the shipped tiny painter"
        )

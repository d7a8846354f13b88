"""The settings of a text-to-image run: those given, else the usual ones, else those of the inversion it starts from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..control.inversion import Inversion
from ..diffusion import Guidance, two_way
from ..schema import LARGEST_SIDE
from .batching import is_list
from .core import LatentDiffusion

Starts = Inversion | Sequence[Inversion] | None


def starts_of(start: Starts) -> list[Inversion]:
    """The inversions that a call starts from, none for a call that starts from noise."""
    return [] if start is None else [start] if isinstance(start, Inversion) else list(start)


def sampling(start: Starts, *, steps: int | None, sampler: str | None, spacing: str | None) -> dict[str, Any]:
    """Steps, sampler and spacing. Raises ValueError for those that contradict an inversion."""
    given = {"steps": steps, "sampler": sampler, "spacing": spacing}
    usual = {"steps": 50, "sampler": "euler_ancestral", "spacing": "linspace"}
    own = [{"steps": each.steps, "sampler": "ddim", "spacing": each.spacing} for each in starts_of(start)]
    if own:
        usual = own[0]
        if any(each != usual for each in own):
            raise ValueError("inversions of different steps or spacings cannot be generated together")
        for name, value in given.items():
            if value is not None and value != usual[name]:
                raise ValueError(f"{name} {value!r}: the inversion was made with {usual[name]!r}; leave it out")
    return usual | {name: value for name, value in given.items() if value is not None}


def default_scale(pipe: LatentDiffusion, start: Starts) -> float | list[float]:
    """The guidance scale of the inversion, else the model's own."""
    own = pipe.config.sampling.text_scale
    scales = [own if each.scale is None else each.scale for each in starts_of(start)]
    return scales if is_list(start) else scales[0] if scales else own


def latent_size(pipe: LatentDiffusion, size: int | tuple[int, int] | None, start: Starts = None) -> tuple[int, int]:
    """(y, x) of the latents for a picture of `size`, a side or (width, height) in pixels; those of `start` if given."""
    own = pipe.config.sampling
    sizes = {each.z.shape[1:] for each in starts_of(start)}
    if sizes:
        if size is not None or len(sizes) > 1:
            raise ValueError("the size is the inverted picture's: leave size out, and give pictures of one size")
        y, x = sizes.pop()
        return y, x
    sides: Sequence[Any] = size if is_list(size) else [own.resolution if size is None else size] * 2
    good = [type(side) is int and 0 < side <= LARGEST_SIDE and side % own.multiple == 0 for side in sides]
    if len(sides) != 2 or not all(good):
        expected = f"a side or (width, height), multiples of {own.multiple} pixels up to {LARGEST_SIDE}"
        raise ValueError(f"size {size!r}: expected {expected}, e.g. {own.resolution}")
    width, height = sides
    factor = pipe.config.vae.factor
    return height // factor, width // factor


@dataclass(frozen=True, eq=False)
class InvertedGuidance:
    """Two-way guidance whose null text is, at each noise level, the one that the item's inversion found for it."""

    starts: Sequence[Inversion]
    scale: float | Tensor
    text: Tensor
    null_text: Tensor

    def __call__(self, sigma: float) -> Guidance:
        found = [start.null(sigma) for start in self.starts]
        nulls = [usual if own is None else own.to(usual) for usual, own in zip(self.null_text, found, strict=True)]
        return two_way(self.scale, self.text, torch.stack(nulls))

"""Classifier-free guidance as a weighted sum of conditioned branches.

Ho & Salimans 2022 and InstructPix2Pix (eq. 3) add differences of noise predictions. Regrouped, each is a sum with one
weight a branch, and the weights sum to 1; so the same sum may be taken over denoised latents, D = z - sigma eps. A new
rule is a new list of (weight, Cond).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .denoiser import Cond, Denoiser
from .samplers import Field

Weight = float | Tensor
"""one number for all items, or one an item: (b,) or (b, 1, 1, 1)"""
Guidance = Sequence[tuple[Weight, Cond]]


def two_way(scale: Weight, text: Tensor, null: Tensor) -> Guidance:
    """Text guidance: D(null) + scale (D(text) - D(null)), in the order [text, none].

    text, null (b, m, d), or one row for all items. `null` encodes the empty prompt, or what to steer away from.
    """
    s = _weight(scale)
    return [(s, Cond(text)), (1 - s, Cond(null))]


def three_way(
    text_scale: Weight,
    image_scale: Weight,
    text: Tensor,
    null_text: Tensor,
    image: Tensor,
    null_image: Tensor | None = None,
) -> Guidance:
    """InstructPix2Pix, eq. 3, in the order [text + image, image only, none]:

        D(z, 0, 0) + s_I (D(z, c_I, 0) - D(z, 0, 0)) + s_T (D(z, c_I, c_T) - D(z, c_I, 0))

    text, null_text (b, m, d); image, null_image (b, c, y, x); each may be one row for all items. The null image is zero
    unless given. Scales of (1, 1) leave one branch, equal scales or an image scale of 1 leave two.
    """
    s_t, s_i = _weight(text_scale), _weight(image_scale)
    null_image = torch.zeros_like(image) if null_image is None else null_image
    return [
        (s_t, Cond(text, image)),
        (s_i - s_t, Cond(null_text, image)),
        (1 - s_i, Cond(null_text, null_image)),
    ]


def guided(
    denoiser: Denoiser, branches: Guidance | Callable[[float], Guidance], *, sequential: bool = False,
    control: Sequence[Any] = (),
) -> Field:
    """The field sum(weight * D(z, sigma, cond)) over `branches`, which may be a function of sigma.

    A branch of weight 0 is never run. The others are one call of the network on rows "(g b)"; with `sequential` one
    call each, in the same order, which takes less memory and gives the same. Before each call every control is asked
    what it does in it, `.at(sigma, branches, b)`, where `branches` are the numbers (in the list as given) of the call's
    branches; None is nothing. Branch 0 is the one with the text, in `two_way` and `three_way`.
    Raises ValueError for weights that are not finite or all 0, and for branches of which only some have an image.
    """
    if callable(branches):
        return lambda z, sigma: guided(denoiser, branches(sigma), sequential=sequential, control=control)(z, sigma)
    branches = [(i, _weight(weight), cond) for i, (weight, cond) in enumerate(branches)]
    branches = [(i, weight, cond) for i, weight, cond in branches if _any(weight)]
    if not branches:
        raise ValueError("guidance without a branch of non-zero weight: there is nothing to run")
    if len({cond.image is None for _, _, cond in branches}) > 1:
        raise ValueError("some guidance branches have an image and some have none; give zeros for no image")
    numbers, weights, conds = zip(*branches)

    def at(sigma: float, numbers: tuple[int, ...], b: int) -> tuple:
        return tuple(c for each in control if (c := each.at(sigma, numbers, b)) is not None)

    def field(z: Tensor, sigma: float) -> Tensor:
        b = len(z)
        if sequential or len(conds) == 1:
            parts = (denoiser(z, sigma, cond, at(sigma, (i,), b)) for i, cond in zip(numbers, conds))
        else:
            parts = _together(denoiser, z, sigma, conds, at(sigma, numbers, b))
        return sum(_of(weight, z) * part for weight, part in zip(weights, parts))

    return field


def _together(denoiser: Denoiser, z: Tensor, sigma: float | Tensor, conds: Sequence[Cond], control) -> Sequence[Tensor]:
    """The denoised latent of each branch, from one call on rows (g b)."""
    g, b = len(conds), len(z)
    conds = [cond.expand(b) for cond in conds]
    images = None if conds[0].image is None else torch.cat([cond.image for cond in conds])
    cond = Cond(torch.cat([cond.text for cond in conds]), images)
    if isinstance(sigma, Tensor) and sigma.numel() > 1:
        sigma = sigma.repeat(g)
    return denoiser(z.repeat(g, 1, 1, 1), sigma, cond, control).chunk(g)


def _weight(weight: Weight) -> Weight:
    """A float, or (b, 1, 1, 1). Raises ValueError for a weight that is not finite."""
    if not isinstance(weight, Tensor) or weight.dim() == 0:
        weight = float(weight)
        if not math.isfinite(weight):
            raise ValueError(f"guidance weight {weight}: expected a finite number")
        return weight
    if not weight.isfinite().all():
        raise ValueError(f"guidance weights {weight.flatten().tolist()}: expected finite numbers")
    return weight.reshape(-1, 1, 1, 1)


def _any(weight: Weight) -> bool:
    return bool(weight.any()) if isinstance(weight, Tensor) else weight != 0


def _of(weight: Weight, z: Tensor) -> Weight:
    return weight.to(z) if isinstance(weight, Tensor) else weight

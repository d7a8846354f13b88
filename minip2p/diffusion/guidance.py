"""Classifier-free guidance as a weighted sum of conditioned branches.

Ho & Salimans 2022 and InstructPix2Pix (eq. 3) add differences of noise predictions. Regrouped, each is a sum with one
weight a branch, and the weights sum to 1; so the same sum holds for denoised latents, D = z - sigma eps. A new rule
is a new list of (weight, Cond).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .denoiser import Cond, Denoiser
from .schedule import factor
from .steps import Field

Weight = float | Tensor
"""one number for all items, or one an item: (b,) or (b, 1, 1, 1)"""
Guidance = Sequence[tuple[Weight, Cond]]


def two_way(scale: Weight, text: Tensor, null: Tensor) -> Guidance:
    """Text guidance: D(null) + scale (D(text) - D(null)), in the order [text, none].

    text, null (b, m, d), or one row for all items. `null` encodes the empty prompt, or a negative prompt.
    """
    s = _weight(scale)
    return [(s, Cond(text)), (1 - s, Cond(null))]


def three_way(text_scale: Weight, image_scale: Weight, text: Tensor, null_text: Tensor, image: Tensor) -> Guidance:
    """InstructPix2Pix, eq. 3, in the order [text + image, image only, none]:

        D(z, 0, 0) + s_I (D(z, c_I, 0) - D(z, 0, 0)) + s_T (D(z, c_I, c_T) - D(z, c_I, 0))

    text, null_text (b, m, d); image (b, c, y, x); each may be one row for all items. The null image is zero. Scales of
    (1, 1) need one branch, equal scales or an image scale of 1 need two.
    """
    s_t, s_i = _weight(text_scale), _weight(image_scale)
    null_image = torch.zeros_like(image)
    return [(s_t, Cond(text, image)), (s_i - s_t, Cond(null_text, image)), (1 - s_i, Cond(null_text, null_image))]


def guided(
    denoiser: Denoiser,
    branches: Guidance | Callable[[float], Guidance],
    *,
    sequential: bool = False,
    control: Sequence[Any] = (),
) -> Field:
    """The field sum(weight * D(z, sigma, cond)) over `branches`, which may be a function of sigma.

    A branch of weight 0 is never run. The others are one network call on rows "(g b)"; with `sequential` one call each,
    in the same order, which gives the same in less memory. Before each call every control is asked what it does in it:
    `.for_call(sigma, branches, b)`, with the numbers of the call's branches in the list as given; None is nothing.
    Branch 0 is the one with the text, in `two_way` and `three_way`.
    Raises ValueError for weights that are not finite or all 0, and for branches of which only some have an image.
    """
    if callable(branches):
        return lambda z, sigma: guided(denoiser, branches(sigma), sequential=sequential, control=control)(z, sigma)
    weighted = [(i, _weight(weight), cond) for i, (weight, cond) in enumerate(branches)]
    weighted = [(i, weight, cond) for i, weight, cond in weighted if weight.any()]
    if not weighted:
        raise ValueError("guidance without a branch of non-zero weight: there is nothing to run")
    if len({cond.image is None for _, _, cond in weighted}) > 1:
        raise ValueError("some guidance branches have an image and some have none; give zeros for no image")
    calls = [[branch] for branch in weighted] if sequential else [weighted]

    def field(z: Tensor, sigma: float) -> Tensor:
        total = torch.zeros_like(z)
        for numbers, weights, conds in (zip(*call) for call in calls):
            asked = (each.for_call(sigma, numbers, len(z)) for each in control)
            parts = _in_one_call(denoiser, z, sigma, conds, tuple(each for each in asked if each is not None))
            for weight, part in zip(weights, parts):
                total = total + factor(weight, z) * part
        return total

    return field


def _in_one_call(
    denoiser: Denoiser, z: Tensor, sigma: float | Tensor, conds: Sequence[Cond], control: tuple
) -> Sequence[Tensor]:
    """The denoised latent of each branch, from one call on rows (g b)."""
    g, b = len(conds), len(z)
    conds = [cond.expand(b) for cond in conds]
    images = [cond.image for cond in conds if cond.image is not None]
    cond = Cond(torch.cat([cond.text for cond in conds]), torch.cat(images) if images else None)
    sigma = sigma.repeat(g) if isinstance(sigma, Tensor) and sigma.dim() else sigma
    return denoiser(z.repeat(g, 1, 1, 1), sigma, cond, control).chunk(g)


def _weight(weight: Weight) -> Tensor:
    """Float64: one number (), or (b, 1, 1, 1). Raises ValueError for a weight that is not finite."""
    weight = torch.as_tensor(weight, dtype=torch.float64)
    if not weight.isfinite().all():
        raise ValueError(f"guidance weights {weight.flatten().tolist()}: expected finite numbers")
    return weight.reshape(-1, 1, 1, 1) if weight.dim() else weight

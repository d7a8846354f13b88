"""Samplers: generators that follow a denoising field down a list of noise levels.

All share one form: `sampler(field, z, sigmas, *, noise)` with field(z, sigma) -> denoised, z (b, c, y, x) at the first
level in the frame z = z0 + sigma noise, sigmas (n + 1,) usually falling to 0 (`Schedule.sigmas_for`), and noise() -> a
standard normal draw like z (`Noise`). They yield one `Step` per step, so progress, previews, recording and early
stopping are the caller's loop; so is `torch.inference_mode()`. Noise is drawn only where the next level is above 0.

In this frame eps = (z - denoised) / sigma is also the slope dz/dsigma of the probability flow (Karras et al. 2022,
eq. 3). The paper's sampler is here, the others are in `first_order.py` and `second_order.py`.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from .first_order import ddim, ddpm, euler
from .second_order import dpmpp_2m, heun
from .steps import Draw, Field, Step, ancestral, pairs


def euler_ancestral(
    field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw, eta: float = 1.0
) -> Iterator[Step]:
    """k-diffusion's: an Euler step to below the next level, then noise up to it. The paper's sampler."""
    for i, sigma, after in pairs(sigmas, falling=eta > 0):
        denoised = field(z, sigma)
        slope = (z - denoised) / sigma
        down, up = ancestral(sigma, after, eta)
        z = z + (down - sigma) * slope
        if after > 0:
            z = z + up * noise()
        yield Step(i, sigma, z, denoised)


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
}


def get_sampler(word: str, options: Mapping[str, Any] | None = None) -> Callable[..., Iterator[Step]]:
    """The sampler of that name. Raises ValueError for a word not in `SAMPLERS`, an option that it does not have, and a
    value that is no finite number where the option's default is a number."""
    if word not in SAMPLERS:
        raise ValueError(f"unknown sampler {word!r}; there are {', '.join(SAMPLERS)}")
    known = sampler_options(word)
    for name, value in (options or {}).items():
        if name not in known:
            raise ValueError(f"sampler {word} has no option {name!r}; it has {', '.join(known) or 'none'}")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
        if type(known[name]) in (int, float) and not is_number:
            raise ValueError(f"sampler {word}, {name} = {value!r}: expected a finite number")
    return SAMPLERS[word]


def sampler_options(word: str) -> dict[str, Any]:
    """The options of a sampler and their defaults, by its signature."""
    parameters = inspect.signature(SAMPLERS[word]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "noise"}

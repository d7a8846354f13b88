"""Real pictures: from a picture to a start from which the sampler paints it again, and may paint it otherwise.

DDIM inversion climbs from the picture's latent up the sampler's noise levels without guidance; the sampler then comes
back on nearly the same way, as long as it has no guidance either. Under guidance a null text of its own for every step
keeps it there: found by gradient descent (null-text inversion, Mokady et al. 2022), or taken to be the prompt, under
which guidance does nothing (negative-prompt inversion, Miyake et al. 2023).

All in the frame z = z0 + sigma noise; latents are (b, c, y, x), and every item is treated as if it were alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Field = Callable[[Tensor, float], Tensor]
"""(z, sigma) -> denoised"""
Denoise = Callable[[Tensor, float, Tensor], Tensor]
"""(z, sigma, text (b, m, d)) -> denoised"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inversion:
    """Where the sampler (DDIM) has to begin to paint a picture, and the null texts that keep it on the way."""

    z: Tensor
    """the latents at the first noise level, (c, y, x)"""
    prompt: str
    steps: int
    spacing: str
    sigmas: tuple[float, ...]
    """the noise levels, falling: one more than steps"""
    nulls: Tensor | None = None
    """a null text for each step (steps, m, d), from the first step of the sampler, or one for all of them (1, m, d);
    None is the usual one"""
    scale: float | None = None
    """the guidance scale under which the picture is painted again; None is the model's own"""
    method: str = "ddim"

    def null(self, sigma: float) -> Tensor | None:
        """The null text (m, d) at a noise level of the run."""
        if self.nulls is None:
            return None
        return self.nulls[self.sigmas.index(sigma) if len(self.nulls) > 1 else 0]


class Climb(NamedTuple):
    """One step of DDIM inversion, up to the noise level `sigma`."""

    i: int
    """0 ... n - 1"""
    sigma: float
    z: Tensor
    """the latent at `sigma`"""
    denoised: Tensor


def ddim_inversion(field: Field, z: Tensor, sigmas: Sequence[float]) -> Iterator[Climb]:
    """From latents without noise up `sigmas`, which fall to 0 as a sampler's do: DDIM's step (Song et al. 2021, eq. 12)
    backwards, with eps taken at the later time (Dhariwal & Nichol 2021, appendix F; Mokady et al., section 3.2).

    eps of the higher level is wanted where the latent of that level is not known yet. In the variance-preserving frame
    the latent of the lower one stands in for it: x = z / sqrt(sigma^2 + 1), read as a latent of the higher level.
    """
    for i, (sigma, higher) in enumerate(pairwise(reversed(list(sigmas)))):
        guess = z * ((higher**2 + 1) / (sigma**2 + 1)) ** 0.5
        denoised = field(guess, higher)
        eps = (guess - denoised) / higher
        z = z + (higher - sigma) * eps
        yield Climb(i, higher, z, denoised)


class Found(NamedTuple):
    """One step of null-text inversion, from sigmas[i] to sigmas[i + 1]."""

    i: int
    """0 ... n - 1"""
    sigma: float
    """sigmas[i]"""
    z: Tensor
    """the latent after the step, guided with `null`"""
    denoised: Tensor
    null: Tensor
    """the null text found for this step, (b, m, d)"""
    loss: Tensor
    """how far the step ends from the path with it: mean squared error of the variance-preserving latents, (b,)"""


def null_text_inversion(
    denoise: Denoise, path: Sequence[Tensor], text: Tensor, null: Tensor, sigmas: Sequence[float], *,
    scale: float | Tensor, inner: int = 10, learning_rate: float = 0.01, tolerance: float = 1.0, first: int = 0,
    z: Tensor | None = None,
) -> Iterator[Found]:
    """Null texts under which guided DDIM keeps to `path`, the latents of `ddim_inversion` at each of the falling
    `sigmas` (Mokady et al. 2022, algorithm 1), a step at a time.

    Each step goes from where the last one came to, starts from its null text, and takes at most `inner` steps of Adam.
    Of the run u = i / n is done: the learning rate falls as 1 - u / 2, and the step of Adam that finds an item's loss
    below tolerance (1e-5 + 1e-3 u) is its last. For 50 steps that is 1 - i / 100 and 1e-5 + 2e-5 i as in their code,
    and it is meant for any number of them.

    text, null (b, m, d): the prompt's and the first null text; gradients are taken of the null text only, in its dtype.
    scale: one for all, or one an item (b,). first, z: to go on with step `first` at latents z.
    """
    z, n = path[0] if z is None else z, len(sigmas) - 1
    scale = torch.as_tensor(scale).to(z).expand(len(z)).reshape(-1, 1, 1, 1)
    for i in range(first, n):
        sigma, after, done = sigmas[i], sigmas[i + 1], i / n
        with torch.no_grad():
            conditional = denoise(z, sigma, text)

        def step(null: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            unconditional = denoise(z[rows], sigma, null[rows])
            denoised = unconditional + scale[rows] * (conditional[rows] - unconditional)
            return denoised + after / sigma * (z[rows] - denoised), denoised

        def losses(null: Tensor, rows: Tensor) -> Tensor:
            error = (step(null, rows)[0] - path[i + 1][rows]) / (after**2 + 1) ** 0.5
            return error.square().mean(dim=(1, 2, 3))

        rate, stop = learning_rate * (1 - done / 2), tolerance * (1e-5 + 1e-3 * done)
        null = descend(losses, null, steps=inner, rate=rate, stop=stop)
        with torch.no_grad():
            every = torch.arange(len(z), device=z.device)
            z, denoised = step(null, every)
            loss = ((z - path[i + 1]) / (after**2 + 1) ** 0.5).square().mean(dim=(1, 2, 3))
        yield Found(i, sigma, z, denoised, null, loss)


def descend(
    losses: Callable[[Tensor, Tensor], Tensor], x: Tensor, *, steps: int, rate: float, stop: float
) -> Tensor:
    """x (b, ...) after up to `steps` steps of Adam, each item as if alone; one whose loss is below `stop` makes that
    step and no more. losses(x, rows) -> the loss of each of `rows`."""
    x = x.detach().clone().requires_grad_()
    adam, rows = torch.optim.Adam([x], lr=rate), torch.arange(len(x), device=x.device)
    for _ in range(steps):
        with torch.enable_grad():
            now = losses(x, rows)
            (grad,) = torch.autograd.grad(2**12 * now.sum(), x)  # an item's gradient holds nothing of the others
        x.grad = grad / 2**12  # a mean's gradients are small: in a network of half precision they would be lost
        before = x.detach().clone()
        adam.step()
        with torch.no_grad():
            before[rows] = x[rows]
            x.copy_(before)  # what has stopped does not drift on with its momentum
        rows = rows[now.detach() >= stop]
        if len(rows) == 0:
            break
    return x.detach()

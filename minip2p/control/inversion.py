"""Inversion of real pictures: find the noise from which the sampler generates a picture again, to edit it from there.

DDIM inversion runs the sampler backwards without guidance, from the picture's latent up its noise levels; without
guidance the sampler returns on nearly the same path. With guidance, one null text per step keeps it on that path: found
by gradient descent (null-text inversion, Mokady et al. 2022), or simply the prompt, which switches guidance off
(negative-prompt inversion, Miyake et al. 2023).

All in the frame z = z0 + sigma noise; latents are (b, c, y, x), and no item depends on the others.
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
    """Where the sampler (DDIM) starts to generate a picture again, and the null texts that keep it on the path."""

    z: Tensor
    """the latents at the first noise level, (c, y, x)"""
    prompt: str
    steps: int
    spacing: str
    sigmas: tuple[float, ...]
    """the noise levels, falling: one more than steps"""
    nulls: Tensor | None = None
    """a null text per step of the sampler (steps, m, d), or one for all (1, m, d); None is the empty prompt's"""
    scale: float | None = None
    """the guidance scale at which the picture is generated again; None is the model's own"""
    method: str = "ddim"

    def null(self, sigma: float) -> Tensor | None:
        """The null text (m, d) at a noise level of the run."""
        if self.nulls is None:
            return None
        return self.nulls[self.sigmas.index(sigma) if len(self.nulls) > 1 else 0]


class DDIMInversionStep(NamedTuple):
    """One step of DDIM inversion, to the noise level `sigma`."""

    i: int
    """0 ... n - 1"""
    sigma: float
    z: Tensor
    """the latent at `sigma`"""
    denoised: Tensor


def ddim_inversion(field: Field, z: Tensor, sigmas: Sequence[float]) -> Iterator[DDIMInversionStep]:
    """From clean latents up `sigmas`, which are given falling to 0 as for a sampler: DDIM's step (Song et al. 2021, eq.
    12) reversed, with eps at the later time (Dhariwal & Nichol 2021, appendix F; Mokady et al., section 3.2).

    eps is needed at the higher level, whose latent is not known yet. The lower level's latent stands in for it in the
    variance-preserving frame: x = z / sqrt(sigma^2 + 1), taken as a latent of the higher level.
    """
    for i, (sigma, higher) in enumerate(pairwise(reversed(list(sigmas)))):
        guess = z * ((higher**2 + 1) / (sigma**2 + 1)) ** 0.5
        denoised = field(guess, higher)
        eps = (guess - denoised) / higher
        z = z + (higher - sigma) * eps
        yield DDIMInversionStep(i, higher, z, denoised)


class NullTextStep(NamedTuple):
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
    """distance from the path after the step: mean squared error of the variance-preserving latents, (b,)"""


def null_text_inversion(
    denoise: Denoise,
    path: Sequence[Tensor],
    text: Tensor,
    null: Tensor,
    sigmas: Sequence[float],
    *,
    scale: float | Tensor,
    inner: int = 10,
    learning_rate: float = 0.01,
    tolerance: float = 1.0,
    first: int = 0,
    z: Tensor | None = None,
) -> Iterator[NullTextStep]:
    """Optimise null texts so that guided DDIM stays on `path`, the latents of `ddim_inversion` at each of the falling
    `sigmas` (Mokady et al. 2022, algorithm 1). Yields after each step.

    Each step starts from the latent and the null text of the last one and takes at most `inner` steps of Adam. At
    u = i / n the learning rate is 1 - u / 2 times the given one, and an item's last step of Adam is the one that finds
    its loss below tolerance (1e-5 + 1e-3 u). For 50 steps that is 1 - i / 100 and 1e-5 + 2e-5 i as in their code.

    text, null (b, m, d): the prompt's and the first null text; only the null text gets gradients, in its dtype. scale:
    one for all, or one per item (b,). first, z: continue with step `first` at latents z.
    """
    z, n = path[0] if z is None else z, len(sigmas) - 1
    scale = torch.as_tensor(scale).to(z).expand(len(z)).reshape(-1, 1, 1, 1)
    for i in range(first, n):
        done = i / n
        rate, stop = learning_rate * (1 - done / 2), tolerance * (1e-5 + 1e-3 * done)
        step = GuidedStep(denoise, z, text, sigmas[i], sigmas[i + 1], scale, path[i + 1])
        null = descend(step.losses, null, steps=inner, rate=rate, stop=stop)
        with torch.no_grad():
            every = torch.arange(len(z), device=z.device)
            z, denoised = step(null, every)
            loss = step.distance(z, every)
        yield NullTextStep(i, sigmas[i], z, denoised, null, loss)


class GuidedStep:
    """A guided DDIM step from z at `sigma` to `after`, as a function of the null text; it should end at `target`."""

    def __init__(
        self, denoise: Denoise, z: Tensor, text: Tensor, sigma: float, after: float, scale: Tensor, target: Tensor
    ):
        self.denoise, self.z, self.sigma, self.after, self.scale, self.target = denoise, z, sigma, after, scale, target
        with torch.no_grad():
            self.conditional = denoise(z, sigma, text)

    def __call__(self, null: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The latents of `rows` after the step, and the denoised prediction."""
        z, conditional = self.z[rows], self.conditional[rows]
        unconditional = self.denoise(z, self.sigma, null[rows])
        denoised = unconditional + self.scale[rows] * (conditional - unconditional)
        return denoised + self.after / self.sigma * (z - denoised), denoised

    def distance(self, z: Tensor, rows: Tensor) -> Tensor:
        """Mean squared error of the variance-preserving latents, one per row."""
        error = (z - self.target[rows]) / (self.after**2 + 1) ** 0.5
        return error.square().mean(dim=(1, 2, 3))

    def losses(self, null: Tensor, rows: Tensor) -> Tensor:
        return self.distance(self(null, rows)[0], rows)


def descend(losses: Callable[[Tensor, Tensor], Tensor], x: Tensor, *, steps: int, rate: float, stop: float) -> Tensor:
    """x (b, ...) after at most `steps` steps of Adam, each item independently; an item whose loss is below `stop` takes
    that step as its last. losses(x, rows) -> the loss of each of `rows`."""
    x = x.detach().clone().requires_grad_()
    adam, rows = torch.optim.Adam([x], lr=rate), torch.arange(len(x), device=x.device)
    for _ in range(steps):
        with torch.enable_grad():
            now = losses(x, rows)
            (grad,) = torch.autograd.grad(2**12 * now.sum(), x)  # no item's gradient depends on the others
        x.grad = grad / 2**12  # scaled: a mean's gradients are small and underflow in half precision
        before = x.detach().clone()
        adam.step()
        with torch.no_grad():
            before[rows] = x[rows]
            x.copy_(before)  # a stopped item must not move with its momentum
        rows = rows[now.detach() >= stop]
        if len(rows) == 0:
            break
    return x.detach()

"""From a network's prediction to a denoised latent, with EDM's preconditioning (Karras et al. 2022, eq. 7)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .loss import loss, target
from .schedule import Schedule, factor, levels
from .steps import moved


@dataclass(frozen=True)
class Cond:
    """What one guidance branch is conditioned on.

    text (b, m, d): the text encoder's output. image (b, c, y, x) or None: the latent of the image to edit: the
    posterior's mode, not multiplied by the scaling factor. The network gets it as channels after the noisy latent,
    the same at every noise level. A single row stands for all items of the batch.
    """

    text: Tensor
    image: Tensor | None = None

    def expand(self, b: int) -> "Cond":
        """This condition for b items; a single row is repeated. Raises ValueError unless there are 1 or b rows."""

        def rows(x: Tensor, name: str) -> Tensor:
            if x.shape[0] not in (1, b):
                raise ValueError(f"{name} condition of {x.shape[0]} rows for {b} latents; expected {b} or 1")
            return x.expand(b, *x.shape[1:])

        return Cond(rows(self.text, "text"), None if self.image is None else rows(self.image, "image"))


class Prediction(NamedTuple):
    """How a network F sees z = z0 + sigma noise and what it predicts: z0 is c_skip z + c_out F(c_in z; c_noise)."""

    c_in: Callable[[Tensor], Tensor]
    c_skip: Callable[[Tensor], Tensor]
    c_out: Callable[[Tensor], Tensor]
    c_noise: Callable[[Tensor, Schedule], Tensor]
    """(sigma, schedule) -> the time that the network is given"""
    target: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(z0, noise, sigma) -> what F should predict"""


PREDICTIONS: dict[str, Prediction] = {
    "eps": Prediction(  # Ho et al. 2020: the noise itself
        c_in=lambda sigma: 1 / (sigma**2 + 1) ** 0.5,
        c_skip=lambda sigma: torch.ones_like(sigma),
        c_out=lambda sigma: -sigma,
        c_noise=lambda sigma, schedule: schedule.t(sigma),
        target=lambda z0, noise, sigma: noise,
    ),
    "v": Prediction(  # Salimans & Ho 2022, appendix D: v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) z0
        c_in=lambda sigma: 1 / (sigma**2 + 1) ** 0.5,
        c_skip=lambda sigma: 1 / (sigma**2 + 1),
        c_out=lambda sigma: -sigma / (sigma**2 + 1) ** 0.5,
        c_noise=lambda sigma, schedule: schedule.t(sigma),
        target=lambda z0, noise, sigma: (noise - sigma * z0) / (sigma**2 + 1) ** 0.5,
    ),
    "x0": Prediction(
        c_in=lambda sigma: 1 / (sigma**2 + 1) ** 0.5,
        c_skip=lambda sigma: torch.zeros_like(sigma),
        c_out=lambda sigma: torch.ones_like(sigma),
        c_noise=lambda sigma, schedule: schedule.t(sigma),
        target=lambda z0, noise, sigma: z0,
    ),
    "flow": Prediction(  # Liu et al. 2022: the velocity dx/dt of x = (1 - t) z0 + t noise = z / (1 + sigma)
        c_in=lambda sigma: 1 / (1 + sigma),
        c_skip=lambda sigma: 1 / (1 + sigma),
        c_out=lambda sigma: -sigma / (1 + sigma),
        c_noise=lambda sigma, schedule: 1000 * sigma / (1 + sigma),  # 1000 t, as published flow models have it
        target=lambda z0, noise, sigma: noise - z0,
    ),
}
"""Each row works with each schedule: the schedule has the noise levels, the row what F gets and predicts at a level."""


class Denoiser:
    """D(z, sigma): the expected clean latent of z = z0 + sigma noise, by a network trained on `schedule`.

    `network(x, t, text, control=...)` is any callable: x (b, c, y, x) is c_in z (with an image condition, its channels
    after these), t (b,) is c_noise, a fractional time, text (b, m, d) -> (b, c, y, x). `predict` says what it predicts,
    a word of `PREDICTIONS`. The network runs in the dtype of the text condition, all else in that of z.
    """

    def __init__(self, network: Callable[..., Tensor], schedule: Schedule, predict: str = "eps"):
        if predict not in PREDICTIONS:
            raise ValueError(f"unknown prediction {predict!r}; there are {', '.join(PREDICTIONS)}")
        self.network, self.schedule, self.predict, self.row = network, schedule, predict, PREDICTIONS[predict]

    loss, target = loss, target

    def __call__(self, z: Tensor, sigma: float | Tensor, cond: Cond, control: Sequence[Any] = ()) -> Tensor:
        """The denoised latent (b, c, y, x) of z (b, c, y, x) at noise level `sigma`: one for all, or one an item (b,).

        `control`: sees and changes the network's attention in this call.
        """
        c_skip, c_out = (factor(c(levels(sigma, z)), z) for c in (self.row.c_skip, self.row.c_out))
        return c_skip * z + c_out * self.output(z, sigma, cond, control)

    def output(self, z: Tensor, sigma: float | Tensor, cond: Cond, control: Sequence[Any] = ()) -> Tensor:
        """F(c_in z; c_noise): the network's own prediction, (b, c, y, x) in z's dtype."""
        x, t = self.inputs(z, sigma, (cond := cond.expand(len(z))).image)
        return self.network(x.to(cond.text.dtype), t, cond.text, control=tuple(control)).to(z.dtype)

    def inputs(self, z: Tensor, sigma: float | Tensor, image: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the network reads of z: c_in z, the image condition's channels after these, and c_noise (b,)."""
        s = levels(sigma, z)
        x, t = factor(self.row.c_in(s), z) * z, self.row.c_noise(s, self.schedule)
        t = t.to(torch.promote_types(z.dtype, torch.float32))
        t = moved(t.flatten(), z.device) if t.dim() else z.new_full((len(z),), t.item(), dtype=t.dtype)
        return x if image is None else torch.cat([x, image.to(z)], dim=1), t
